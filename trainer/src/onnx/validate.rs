//! Two sets of logits for the same texts, compared.

use crate::metrics::argmax;

/// How far two sets of logits are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Largest absolute difference of two logits.
    pub max_logit_difference: f32,
    /// Largest absolute logit of the reference: what the difference is to be seen against.
    pub max_logit: f32,
    /// The root mean square of the differences, as a share of how the reference's logits spread over the texts: what the
    /// difference does to the distinctions that the model makes.
    pub relative_error: f32,
    /// Share of the texts with the same label.
    pub label_agreement: f64,
}

/// Compares `logits` with `reference`, a row a text. A NaN anywhere counts as an infinite difference.
pub fn compare(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> Comparison {
    let mut comparison =
        Comparison { max_logit_difference: 0.0, max_logit: 0.0, relative_error: 0.0, label_agreement: 0.0 };
    let (mut agreeing, mut square_difference) = (0, 0.0f64);
    for (logits, reference) in logits.iter().zip(reference) {
        for (logit, reference) in logits.iter().zip(reference) {
            let difference = (logit - reference).abs();
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            comparison.max_logit_difference = comparison.max_logit_difference.max(difference);
            comparison.max_logit = comparison.max_logit.max(reference.abs());
            square_difference += f64::from(difference).powi(2);
        }
        agreeing += usize::from(argmax(logits) == argmax(reference));
    }
    // Without any difference the share is 0, whatever the logits are.
    comparison.relative_error = (square_difference / spread(reference).max(f64::MIN_POSITIVE)).sqrt() as f32;
    comparison.label_agreement = agreeing as f64 / reference.len().max(1) as f64;
    comparison
}

/// The sum of squares of the logits around the mean of their label over all texts. Of texts that are nearly the same, so
/// that there is no such spread, a hundredth of the logits themselves; of few texts, of which that is not known, a larger part, and of
/// one text all of them.
fn spread(logits: &[Vec<f32>]) -> f64 {
    let (mut squares, mut around_mean) = (0.0, 0.0);
    for label in 0..logits.first().map_or(0, Vec::len) {
        let values = || logits.iter().map(|logits| f64::from(logits[label]));
        let mean = values().sum::<f64>() / logits.len() as f64;
        squares += values().map(|value| value.powi(2)).sum::<f64>();
        around_mean += values().map(|value| (value - mean).powi(2)).sum::<f64>();
    }
    around_mean.max((logits.len() as f64).powi(-2).max(1e-4) * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_largest_difference_and_counts_labels() {
        let comparison = compare(&[vec![1.0, 2.0], vec![0.0, -1.0]], &[vec![1.5, 2.0], vec![-3.0, -1.0]]);
        // Differences 0.5 and 3; the reference's logits are 1.5 and -3, 2 and -1: around their means ±2.25 and ±1.5.
        let relative_error = (9.25f32 / 14.625).sqrt();
        assert!((comparison.relative_error - relative_error).abs() < 1e-6);
        let expected = Comparison {
            max_logit_difference: 3.0,
            max_logit: 3.0,
            relative_error: comparison.relative_error,
            label_agreement: 0.5,
        };
        assert_eq!(comparison, expected);
        // Of one text no spread is known: the difference is a part of the logits.
        let comparison = compare(&[vec![3.3, -1.4]], &[vec![3.3, -1.5]]);
        assert!((comparison.relative_error - 0.1 / (3.3f32.powi(2) + 1.5f32.powi(2)).sqrt()).abs() < 1e-6);
        // Of many that are nearly the same, a hundredth of them.
        let same = vec![vec![3.0, -4.0]; 200];
        let comparison = compare(&vec![vec![3.0, -3.95]; 200], &same);
        assert!((comparison.relative_error - 1.0).abs() < 1e-3, "{comparison:?}");
        assert_eq!(compare(&[vec![f32::NAN]], &[vec![0.0]]).max_logit_difference, f32::INFINITY);
    }
}
