//! Two sets of logits for the same texts, compared.

use crate::metrics::argmax;

/// How far two sets of logits are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Largest absolute difference of two logits.
    pub max_logit_difference: f32,
    /// Largest absolute logit of the reference: what the difference is to be seen against.
    pub max_logit: f32,
    /// Share of the texts with the same label.
    pub label_agreement: f64,
}

/// Compares `logits` with `reference`, a row a text. A NaN anywhere counts as an infinite difference.
pub fn compare(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> Comparison {
    let mut comparison = Comparison { max_logit_difference: 0.0, max_logit: 0.0, label_agreement: 0.0 };
    let mut agreeing = 0;
    for (logits, reference) in logits.iter().zip(reference) {
        for (logit, reference) in logits.iter().zip(reference) {
            let difference = (logit - reference).abs();
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            comparison.max_logit_difference = comparison.max_logit_difference.max(difference);
            comparison.max_logit = comparison.max_logit.max(reference.abs());
        }
        agreeing += usize::from(argmax(logits) == argmax(reference));
    }
    comparison.label_agreement = agreeing as f64 / reference.len().max(1) as f64;
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_largest_difference_and_counts_labels() {
        let comparison = compare(&[vec![1.0, 2.0], vec![0.0, -1.0]], &[vec![1.5, 2.0], vec![-3.0, -1.0]]);
        let expected = Comparison { max_logit_difference: 3.0, max_logit: 3.0, label_agreement: 0.5 };
        assert_eq!(comparison, expected);
        assert_eq!(compare(&[vec![f32::NAN]], &[vec![0.0]]).max_logit_difference, f32::INFINITY);
    }
}
