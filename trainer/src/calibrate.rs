//! What a bundle's scores mean: a temperature that makes them honest, a threshold under which the classifier is unsure,
//! and one for each label where a text may have several. All are fitted on validation rows, or on what models that have not seen
//! the training rows answer to them; test rows judge them.

use nimbert::{Decision, ProblemType, prediction::DEFAULT_THRESHOLD};

/// Fits everything that follows from logits of rows that were not learned from, and their label ids. `abstain_precision` is the share of
/// the answers that has to be right where the classifier does not abstain; none: it never abstains.
pub fn calibrate(
    problem_type: ProblemType,
    logits: &[Vec<f32>],
    expected: &[&[u32]],
    abstain_precision: Option<f64>,
) -> Decision {
    let temperature = temperature(problem_type, logits, expected);
    let mut decision = Decision { problem_type, temperature, abstain_threshold: None, label_thresholds: None };
    let scores: Vec<Vec<f32>> = logits.iter().map(|logits| decision.scores(logits)).collect();
    if problem_type == ProblemType::MultiLabel {
        let labels = logits.first().map_or(0, Vec::len);
        decision.label_thresholds = Some((0..labels).map(|id| label_threshold(id, &scores, expected)).collect());
    }
    decision.abstain_threshold =
        abstain_precision.and_then(|precision| abstain_threshold(&decision, &scores, expected, precision));
    decision
}

/// The temperature with the least negative log-likelihood (Guo et al., arXiv 1706.04599), from 1/20 to 20. Rows that are
/// all right would drive it to 0, and with few rows it is noise: it is pulled towards 1 as by one further row.
pub(crate) fn temperature(problem_type: ProblemType, logits: &[Vec<f32>], expected: &[&[u32]]) -> f32 {
    let loss = |log_temperature: f64| {
        let temperature = log_temperature.exp();
        let rows = logits.iter().zip(expected);
        let sum: f64 = rows.map(|(logits, expected)| row_loss(problem_type, logits, expected, temperature)).sum();
        sum + log_temperature * log_temperature
    };
    // Golden-section search: the loss has one minimum, being convex in 1 / temperature.
    let ratio = (5.0f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.05f64.ln(), 20.0f64.ln());
    while high - low > 1e-5 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a) < loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    ((low + high) / 2.0).exp() as f32
}

/// Negative log-likelihood of a row's labels.
pub(crate) fn row_loss(problem_type: ProblemType, logits: &[f32], expected: &[u32], temperature: f64) -> f64 {
    let scaled = logits.iter().map(|&logit| f64::from(logit) / temperature);
    match problem_type {
        ProblemType::SingleLabel => {
            let max = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scaled.map(|logit| (logit - max).exp()).sum();
            sum.ln() + max - f64::from(logits[expected[0] as usize]) / temperature
        }
        ProblemType::MultiLabel => scaled
            .enumerate()
            .map(|(id, logit)| if expected.contains(&(id as u32)) { -logit } else { logit })
            .map(|against| against.max(0.0) + (-against.abs()).exp().ln_1p())
            .sum(),
    }
}

/// The lowest score from which on the share `precision` of the answers is right; none if no score is enough.
fn abstain_threshold(decision: &Decision, scores: &[Vec<f32>], expected: &[&[u32]], precision: f64) -> Option<f32> {
    let answer = |(scores, expected): (&Vec<f32>, &&[u32])| {
        let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let right = decision.label_ids(scores).iter().map(|&id| id as u32).eq(expected.iter().copied());
        (best, right)
    };
    let mut answers: Vec<(f32, bool)> = scores.iter().zip(expected).map(answer).collect();
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut right, mut threshold) = (0, None);
    for (index, &(score, is_right)) in answers.iter().enumerate() {
        right += usize::from(is_right);
        // Answers of equal score stand or fall together.
        let is_last_of_equals = answers.get(index + 1).is_none_or(|next| next.0 < score);
        if is_last_of_equals && right as f64 >= precision * (index + 1) as f64 {
            threshold = Some(score);
        }
    }
    threshold
}

/// The score from which on label `id` holds, with the highest F1. Half-way between two scores; with less than two rows that have
/// the label, the default: one may be any.
fn label_threshold(id: usize, scores: &[Vec<f32>], expected: &[&[u32]]) -> f32 {
    let mut rows: Vec<(f32, bool)> =
        scores.iter().zip(expected).map(|(scores, expected)| (scores[id], expected.contains(&(id as u32)))).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let support = rows.iter().filter(|(_, holds)| *holds).count();
    if support < 2 {
        return DEFAULT_THRESHOLD;
    }
    let (mut hits, mut best, mut threshold) = (0, 0.0, DEFAULT_THRESHOLD);
    for (index, &(score, holds)) in rows.iter().enumerate() {
        hits += usize::from(holds);
        let next = rows.get(index + 1).map_or(0.0, |next| next.0);
        let f1 = 2.0 * hits as f64 / (support + index + 1) as f64;
        if next < score && f1 > best {
            (best, threshold) = (f1, (score + next) / 2.0);
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_recovers_the_one_that_spoiled_the_logits() {
        // Of 1,000 rows with odds 4 : 1, 800 are right; the logits claim odds 4³ : 1.
        let logits = vec![vec![3.0 * 4.0f32.ln(), 0.0]; 1000];
        let expected: Vec<&[u32]> = (0..1000).map(|row| if row < 800 { &[0][..] } else { &[1][..] }).collect();
        let fitted = temperature(ProblemType::SingleLabel, &logits, &expected);
        assert!((fitted - 3.0).abs() < 0.1, "{fitted}");
        // The same as one label of its own: a logit of 3 ln 4 for what holds in 800 of 1,000.
        let logits = vec![vec![3.0 * 4.0f32.ln()]; 1000];
        let expected: Vec<&[u32]> = (0..1000).map(|row| if row < 800 { &[0][..] } else { &[][..] }).collect();
        assert!((temperature(ProblemType::MultiLabel, &logits, &expected) - 3.0).abs() < 0.1);
    }

    #[test]
    fn a_few_sure_rows_do_not_freeze_the_temperature() {
        let fitted = temperature(ProblemType::SingleLabel, &[vec![5.0, 0.0], vec![5.0, 0.0]], &[&[0], &[0]]);
        assert!(fitted > 0.5, "{fitted}");
    }

    #[test]
    fn abstains_under_the_lowest_score_that_keeps_the_precision() {
        let decision = Decision {
            problem_type: ProblemType::SingleLabel,
            temperature: 1.0,
            abstain_threshold: None,
            label_thresholds: None,
        };
        let scores = [0.9f32, 0.8, 0.7, 0.6].map(|score| vec![score, 1.0 - score]);
        let expected: [&[u32]; 4] = [&[0], &[0], &[1], &[0]];
        let threshold = |precision| abstain_threshold(&decision, &scores, &expected, precision);
        assert_eq!((threshold(1.0), threshold(0.75), threshold(0.7)), (Some(0.8), Some(0.6), Some(0.6)));
        assert_eq!(abstain_threshold(&decision, &scores[2..3], &expected[2..3], 0.5), None);
    }

    #[test]
    fn label_thresholds_have_the_highest_f1() {
        let scores = [0.9f32, 0.4, 0.3, 0.1].map(|score| vec![score]);
        let expected: [&[u32]; 4] = [&[0], &[0], &[], &[]];
        assert!((label_threshold(0, &scores, &expected) - 0.35).abs() < 1e-6);
        assert_eq!(label_threshold(0, &scores, &[&[][..]; 4]), 0.5);
        assert_eq!(label_threshold(0, &scores, &[&[][..], &[], &[], &[0]]), 0.5);
    }
}
