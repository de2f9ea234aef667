//! What a bundle's scores mean: a temperature that makes them honest, a threshold under which the classifier is unsure,
//! and one for each label where a text may have several. All are fitted on validation rows, or on what models that have not seen
//! the training rows answer to them; test rows judge them.

use nimbert::{
    Decision, ProblemType,
    prediction::{Coverage, DEFAULT_THRESHOLD},
};

use crate::{metrics::roc_auc, tasks::TaskRows, train::undecided};

/// What a classifier is to say of its answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Certainty {
    /// The share of the answers that has to be right where it does not abstain; none: it never abstains.
    pub abstain_precision: Option<f64>,
    /// The share of the texts whose right label is to be in a set of labels; none: there are no sets.
    pub coverage: Option<f64>,
    /// Whether that is so of the texts of each label.
    pub coverage_by_label: bool,
    /// The share of texts like those of training that may be taken for unknown; none: no text is unknown.
    pub unknown_rate: Option<f64>,
}

/// A share by which distances of the same text may differ.
const ROUNDING: f32 = 1e-3;
/// And scores, by so much.
const SCORE_ROUNDING: f32 = 1e-5;

/// Answers to rows that were not learned from.
#[derive(Debug, Clone)]
pub struct Unseen<'a> {
    /// `[rows][classes]`
    pub logits: Vec<Vec<f32>>,
    /// The ids of each row.
    pub labels: Vec<&'a [u32]>,
    /// From the rows that were learned from, of each row, also of those that have no label of the task; empty where distances are not
    /// asked for.
    pub distances: Vec<f32>,
}

/// How far what was asked for holds of rows that nothing was fitted to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// The rows.
    pub rows: usize,
    /// The share of them that is answered rightly, by the best guess where the bundle is unsure.
    pub right: f64,
    /// Of how many it is unsure, and the share of the others that is answered rightly; none: it never is.
    pub unsure: Option<(usize, Option<f64>)>,
    /// The share of the rows whose label is in their set, and how many labels a set has on average.
    pub coverage: Option<(f64, f64)>,
    /// The share that is taken for unknown.
    pub unknown: Option<f64>,
}

/// How far it holds of a task's rows, of all rows' `distances`; nothing is said where there are no rows.
pub fn kept(decision: &Decision, of_task: &TaskRows, distances: &[Option<f32>]) -> Kept {
    if of_task.rows.is_empty() {
        return Kept { rows: 0, right: 0.0, unsure: None, coverage: None, unknown: None };
    }
    let rows = of_task.rows.len() as f64;
    let scores = of_task.scores(decision);
    let answers: Vec<(f32, bool)> =
        scores.iter().zip(&of_task.labels).map(|(scores, ids)| answer(decision, scores, ids)).collect();
    let right = |answers: &[(f32, bool)]| answers.iter().filter(|(_, is_right)| *is_right).count() as f64;
    let unsure = decision.abstain_threshold.map(|threshold| {
        let sure: Vec<(f32, bool)> = answers.iter().copied().filter(|(score, _)| *score >= threshold).collect();
        (answers.len() - sure.len(), (!sure.is_empty()).then(|| right(&sure) / sure.len() as f64))
    });
    let sets: Option<Vec<Vec<usize>>> = scores.iter().map(|scores| decision.set_ids(scores)).collect();
    let coverage = sets.map(|sets| {
        let holds = |(set, ids): &(&Vec<usize>, &Vec<u32>)| ids.iter().all(|id| set.contains(&(*id as usize)));
        let covered = sets.iter().zip(&of_task.labels).filter(holds).count() as f64;
        (covered / rows, sets.iter().map(Vec::len).sum::<usize>() as f64 / rows)
    });
    let unknown = decision
        .unknown_threshold
        .map(|_| of_task.rows.iter().filter(|row| decision.is_unknown(distances[**row])).count() as f64 / rows);
    Kept { rows: of_task.rows.len(), right: right(&answers) / rows, unsure, coverage, unknown }
}

/// The best label's score, and whether the answer is the labels of the row.
fn answer(decision: &Decision, scores: &[f32], expected: &[u32]) -> (f32, bool) {
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (best, decision.label_ids(scores).iter().map(|&id| id as u32).eq(expected.iter().copied()))
}

/// How texts that are like no label were told from those that have one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Found {
    /// The texts that are like no label.
    pub rows: usize,
    /// The share of them that is taken for unknown.
    pub share: f64,
    /// The share of pairs, of a text with a label and one that is like none, whose second is further away; none: there was none with a
    /// label.
    pub roc_auc: Option<f64>,
}

impl Found {
    /// By the distances of texts that have a label and of `strangers`; none where there are no strangers, or where nothing is unknown.
    pub fn of(decision: &Decision, known: &[Option<f32>], strangers: &[Option<f32>]) -> Option<Self> {
        decision.unknown_threshold?;
        if strangers.is_empty() {
            return None;
        }
        let distances: Vec<f32> = known.iter().chain(strangers).copied().collect::<Option<_>>()?;
        let is_stranger: Vec<bool> = (0..distances.len()).map(|row| row >= known.len()).collect();
        let found = strangers.iter().filter(|distance| decision.is_unknown(**distance)).count();
        let (rows, share) = (strangers.len(), found as f64 / strangers.len() as f64);
        Some(Self { rows, share, roc_auc: roc_auc(&distances, &is_stranger) })
    }
}

/// The rows that it takes at least to find what a share of them exceeds.
pub fn least_rows(share: f64) -> usize {
    (1.0 / share - 1.0 - 1e-9).ceil().max(1.0) as usize
}

/// Fits everything that follows from answers to rows that were not learned from.
pub fn calibrate(problem_type: ProblemType, unseen: &Unseen<'_>, certainty: Certainty) -> Decision {
    let Unseen { logits, labels: expected, distances } = unseen;
    let unknown_threshold = certainty.unknown_rate.and_then(|rate| unknown_threshold(distances, rate));
    let mut decision = Decision { unknown_threshold, ..undecided(problem_type) };
    if logits.is_empty() {
        // Nothing else follows from no rows.
        return decision;
    }
    decision.temperature = temperature(problem_type, logits, expected);
    let scores: Vec<Vec<f32>> = logits.iter().map(|logits| decision.scores(logits)).collect();
    if problem_type == ProblemType::MultiLabel {
        let labels = logits.first().map_or(0, Vec::len);
        decision.label_thresholds = Some((0..labels).map(|id| label_threshold(id, &scores, expected)).collect());
    }
    decision.abstain_threshold =
        certainty.abstain_precision.map(|precision| abstain_threshold(&decision, &scores, expected, precision));
    decision.coverage = certainty.coverage.map(|share| coverage(&scores, expected, share, certainty.coverage_by_label));
    decision
}

/// The distance that at most the share `rate` of further texts like these exceeds; none where they are too few.
pub(crate) fn unknown_threshold(distances: &[f32], rate: f64) -> Option<f32> {
    let most = -exceeded(distances.iter().map(|distance| -distance).collect(), 1.0 - rate);
    // Texts that say the same as that row are as far away, up to rounding.
    let threshold = most + ROUNDING * most.max(1.0);
    threshold.is_finite().then_some(threshold)
}

/// What at least so large a share of further values like these are not below (the split conformal quantile: Vovk et al.,
/// "Algorithmic Learning in a Random World", 2005); less than all of them where they are too few.
fn exceeded(mut values: Vec<f32>, share: f64) -> f32 {
    values.sort_by(f32::total_cmp);
    let below = ((values.len() + 1) as f64 * (1.0 - share) + 1e-9).floor() as usize;
    below.checked_sub(1).map_or(f32::NEG_INFINITY, |index| values[index.min(values.len() - 1)])
}

/// The score that the right label of at least the share reaches: of all rows, or for each label of its own. Where a label's rows
/// are too few, it is in every set.
fn coverage(scores: &[Vec<f32>], expected: &[&[u32]], share: f64, by_label: bool) -> Coverage {
    let labels = scores[0].len();
    let of_rows = |is_counted: &dyn Fn(usize) -> bool| {
        let right = scores.iter().zip(expected).map(|(scores, ids)| (ids[0] as usize, scores[ids[0] as usize]));
        let right = right.filter(|(id, _)| is_counted(*id)).map(|(_, score)| score).collect();
        // Rows that say the same have the same score, up to rounding.
        match exceeded(right, share) {
            // No score would be low enough.
            f32::NEG_INFINITY => 0.0,
            // 0 says that there were too few rows.
            threshold => (threshold - SCORE_ROUNDING).max(threshold.min(f32::MIN_POSITIVE)),
        }
    };
    let thresholds = match by_label {
        true => (0..labels).map(|label| of_rows(&|id| id == label)).collect(),
        false => vec![of_rows(&|_| true); labels],
    };
    Coverage { share, thresholds }
}

/// The temperature with the least negative log-likelihood (Guo et al., arXiv 1706.04599), as [`temperature_of_least`] finds it; each row
/// counts once.
pub(crate) fn temperature(problem_type: ProblemType, logits: &[Vec<f32>], expected: &[&[u32]]) -> f32 {
    let loss = |temperature: f64| {
        let rows = logits.iter().zip(expected);
        rows.map(|(logits, expected)| row_loss(problem_type, logits, expected, temperature)).sum()
    };
    temperature_of_least(loss) as f32
}

/// The temperature, from 1/20 to 20, after which `loss`, a sum over rows whose weight is 1 in the mean, is least. Rows that are all right
/// would drive it to 0, and with few rows it is noise: it is pulled towards 1 as by one further row.
pub(crate) fn temperature_of_least(loss: impl Fn(f64) -> f64) -> f64 {
    let pulled = |log_temperature: f64| loss(log_temperature.exp()) + log_temperature * log_temperature;
    // Golden-section search: the loss has one minimum, being convex in 1 / temperature.
    let ratio = (5.0f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.05f64.ln(), 20.0f64.ln());
    while high - low > 1e-5 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if pulled(a) < pulled(b) {
            high = b;
        } else {
            low = a;
        }
    }
    f64::midpoint(low, high).exp()
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

/// Where no score is enough, all are too low: above the 1 to which a sure one is rounded.
const ABSTAINS_ALWAYS: f32 = 2.0;

/// The lowest score from which on the share `precision` of the answers is right.
fn abstain_threshold(decision: &Decision, scores: &[Vec<f32>], expected: &[&[u32]], precision: f64) -> f32 {
    let mut answers: Vec<(f32, bool)> =
        scores.iter().zip(expected).map(|(scores, expected)| answer(decision, scores, expected)).collect();
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut right, mut threshold) = (0, ABSTAINS_ALWAYS);
    for (index, &(score, is_right)) in answers.iter().enumerate() {
        right += usize::from(is_right);
        // Answers of equal score stand or fall together.
        let is_last_of_equals = answers.get(index + 1).is_none_or(|next| next.0 < score);
        if is_last_of_equals && right as f64 >= precision * (index + 1) as f64 {
            // It is found by other batches than it is used in, and before the temperature lies in the graph.
            threshold = (score - SCORE_ROUNDING).max(0.0);
        }
    }
    threshold
}

/// The score from which on label `id` holds, with the highest F1. Half-way between two scores; with less than two rows that have the
/// label, the default: one may be any. Where not all rows have it, it holds for some of them at most: what is low enough for all would
/// be so for every text. The default is taken instead of that, if it is better than what divides them.
fn label_threshold(id: usize, scores: &[Vec<f32>], expected: &[&[u32]]) -> f32 {
    let mut rows: Vec<(f32, bool)> =
        scores.iter().zip(expected).map(|(scores, expected)| (scores[id], expected.contains(&(id as u32)))).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let support = rows.iter().filter(|(_, holds)| *holds).count();
    if support < 2 {
        return DEFAULT_THRESHOLD;
    }
    let f1 = |hits: usize, count: usize| 2.0 * hits as f64 / (support + count) as f64;
    let by_default = rows.iter().filter(|(score, _)| *score >= DEFAULT_THRESHOLD);
    let by_default = f1(by_default.clone().filter(|(_, holds)| *holds).count(), by_default.count());
    let (mut hits, mut best, mut threshold) = (0, 0.0, DEFAULT_THRESHOLD);
    for (index, &(score, holds)) in rows.iter().enumerate() {
        hits += usize::from(holds);
        let next = rows.get(index + 1).map_or(0.0, |next| next.0);
        let reached = f1(hits, index + 1);
        if next == score || reached <= best {
            continue;
        }
        match index + 1 == rows.len() && support < rows.len() {
            true if by_default > best => threshold = DEFAULT_THRESHOLD,
            true => {}
            false => (best, threshold) = (reached, (score + next) / 2.0),
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
        let decision = undecided(ProblemType::SingleLabel);
        let scores = [0.9f32, 0.8, 0.7, 0.6].map(|score| vec![score, 1.0 - score]);
        let expected: [&[u32]; 4] = [&[0], &[0], &[1], &[0]];
        let threshold = |precision| abstain_threshold(&decision, &scores, &expected, precision);
        // Below it by as much as rounding may take.
        for (precision, expected) in [(1.0, 0.8), (0.75, 0.6), (0.7, 0.6)] {
            assert!(threshold(precision) < expected && threshold(precision) > expected - 2e-5, "{precision}");
        }
        assert_eq!(abstain_threshold(&decision, &scores[2..3], &expected[2..3], 0.5), ABSTAINS_ALWAYS);
        // So sure that its score is 1, and wrong: it is not answered either.
        assert!(abstain_threshold(&decision, &[vec![1.0, 0.0]], &[&[1]], 0.5) > 1.0);
    }

    #[test]
    fn sets_have_the_right_label_as_often_as_was_asked() {
        // The right label's scores are 0.1 to 0.9.
        let score = |row: usize| (row % 9 + 1) as f32 / 10.0;
        let scores: Vec<Vec<f32>> = (0..9).map(|row| vec![score(row), 1.0 - score(row)]).collect();
        let expected = vec![&[0][..]; 9];
        // Of ten values the tenth may be the lowest: the share 0.9 is nothing less than all nine, 0.8 may miss the lowest.
        let thresholds = |share, by_label| {
            let thresholds = coverage(&scores, &expected, share, by_label).thresholds;
            thresholds.into_iter().map(|threshold| (threshold * 1e3).round() / 1e3).collect::<Vec<f32>>()
        };
        assert_eq!(thresholds(0.9, false), [0.1, 0.1]);
        assert_eq!(thresholds(0.8, false), [0.2, 0.2]);
        assert_eq!(thresholds(0.95, false), [0.0, 0.0]);
        // No row has the second label.
        assert_eq!(thresholds(0.8, true), [0.2, 0.0]);
        assert_eq!([0.05, 0.1, 0.02, 0.5].map(least_rows), [19, 9, 49, 1]);
    }

    #[test]
    fn as_many_rows_are_unknown_as_was_asked() {
        let unseen = |rows: usize| Unseen {
            logits: vec![vec![1.0, 0.0]; rows],
            labels: vec![&[0][..]; rows],
            distances: (0..rows).map(|row| ((row * 7) % rows) as f32).collect(),
        };
        let threshold = |rows, rate| {
            let certainty = Certainty { unknown_rate: Some(rate), ..Certainty::default() };
            calibrate(ProblemType::SingleLabel, &unseen(rows), certainty).unknown_threshold
        };
        // One of the hundred that they are with the next one is above.
        let exact = [0.01, 0.1].map(|rate| threshold(99, rate).unwrap());
        assert_eq!(exact.map(f32::floor), [98.0, 89.0]);
        assert!(exact[1] > 89.0);
        assert_eq!(threshold(9, 0.01), None);
    }

    #[test]
    fn label_thresholds_have_the_highest_f1() {
        let scores = [0.9f32, 0.4, 0.3, 0.1].map(|score| vec![score]);
        let expected: [&[u32]; 4] = [&[0], &[0], &[], &[]];
        assert!((label_threshold(0, &scores, &expected) - 0.35).abs() < 1e-6);
        assert_eq!(label_threshold(0, &scores, &[&[][..]; 4]), 0.5);
        assert_eq!(label_threshold(0, &scores, &[&[][..], &[], &[], &[0]]), 0.5);
        // To say it of all rows were best: 2/3. Of what divides them 2/5 is more than the 0 of the default.
        assert!((label_threshold(0, &scores, &[&[][..], &[], &[0], &[0]]) - 0.2).abs() < 1e-6);
        let close = [0.45f32, 0.44, 0.43, 0.42].map(|score| vec![score]);
        assert!((label_threshold(0, &close, &[&[0][..], &[0], &[], &[0]]) - 0.435).abs() < 1e-6);
        // 4/5 by all rows, as by the default, and 1/2 by what divides them.
        let low = [0.6f32, 0.55, 0.52].map(|score| vec![score]);
        assert_eq!(label_threshold(0, &low, &[&[][..], &[0], &[0]]), 0.5);
        // Where all rows have the label, it may hold for all.
        assert!((label_threshold(0, &scores, &[&[0][..]; 4]) - 0.05).abs() < 1e-6);
    }
}
