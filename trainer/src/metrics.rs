//! How good predictions are.

use std::cmp::Reverse;

use nimbert::{Decision, ProblemType};
use serde::Serialize;

/// Labels up to which a confusion matrix is readable.
pub const MAX_MATRIX_LABELS: usize = 20;
/// Confused pairs that are listed in place of a larger one.
pub const MAX_PAIRS: usize = 20;

/// Figures over all rows. Shares lie between 0 and 1. Every row counts once, whatever it weighs in training; one whose
/// labels have shares, by the label with the largest. A figure that is not defined, such as the precision of a label that
/// was never predicted, is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Share of the rows whose labels were predicted, all of them and no other.
    pub accuracy: f64,
    /// Mean of the labels' F1, of those that have one.
    pub macro_f1: Option<f64>,
    /// F1 over all decisions together; with one label a row it is the accuracy. None if no label is there or predicted.
    pub micro_f1: Option<f64>,
    /// Mean of the labels' F1, each as often as it has rows; none if no row has a label.
    pub weighted_f1: Option<f64>,
    /// Matthews' correlation coefficient, from -1 to 1, 0 being chance (Gorodkin, Computational Biology and Chemistry 28,
    /// 2004); with one label a row, unless all rows have or got the same one.
    pub mcc: Option<f64>,
    /// Area under the ROC curve of the second label; of two labels.
    pub roc_auc: Option<f64>,
    /// Expected calibration error: by how much scores and accuracies differ (Guo et al., arXiv 1706.04599).
    pub ece: f64,
    /// Number of rows.
    pub rows: usize,
    /// Figures of each label, in the order of the ids.
    pub labels: Vec<LabelMetrics>,
    /// `confusion[expected][predicted]`: number of rows; with one label a row.
    pub confusion: Option<Vec<Vec<usize>>>,
}

/// Figures of one label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelMetrics {
    /// Its name.
    pub label: String,
    /// Share of the rows predicted as this label that have it; none if none was.
    pub precision: Option<f64>,
    /// Share of the rows with this label that were predicted so; none if there is none.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall: twice the hits by what is there and what was predicted; none if neither is.
    pub f1: Option<f64>,
    /// Rows with this label.
    pub support: usize,
}

/// Predictions of like scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// Mean score.
    pub confidence: f64,
    /// Share of them that are right.
    pub accuracy: f64,
    /// How many there are.
    pub count: usize,
}

/// Bins of [`reliability`]: the number that Guo et al. use.
const BINS: usize = 15;

impl Metrics {
    /// Compares each row's label ids with what `decision` makes of its scores.
    ///
    /// # Panics
    /// If an id is not below the number of labels.
    pub fn new(labels: &[String], decision: &Decision, expected: &[&[u32]], scores: &[Vec<f32>]) -> Self {
        let predicted: Vec<Vec<usize>> = scores.iter().map(|scores| decision.label_ids(scores)).collect();
        let (mut hits, mut support, mut chosen) = (vec![0; labels.len()], vec![0; labels.len()], vec![0; labels.len()]);
        let mut exact = 0;
        for (expected, predicted) in expected.iter().zip(&predicted) {
            expected.iter().for_each(|&id| support[id as usize] += 1);
            for &id in predicted {
                chosen[id] += 1;
                hits[id] += usize::from(expected.contains(&(id as u32)));
            }
            exact += usize::from(expected.iter().map(|&id| id as usize).eq(predicted.iter().copied()));
        }
        let by_label: Vec<LabelMetrics> = (0..labels.len())
            .map(|id| LabelMetrics {
                label: labels[id].clone(),
                precision: share(hits[id], chosen[id]),
                recall: share(hits[id], support[id]),
                f1: share(2 * hits[id], support[id] + chosen[id]),
                support: support[id],
            })
            .collect();
        let sum = |counts: &[usize]| counts.iter().sum::<usize>();
        let defined: Vec<f64> = by_label.iter().filter_map(|label| label.f1).collect();
        let weighted: f64 = by_label.iter().filter_map(|label| Some(label.f1? * label.support as f64)).sum();
        let confusion = (decision.problem_type == ProblemType::SingleLabel).then(|| {
            let mut confusion = vec![vec![0; labels.len()]; labels.len()];
            for (expected, predicted) in expected.iter().zip(&predicted) {
                confusion[expected[0] as usize][predicted[0]] += 1;
            }
            confusion
        });
        let second = || {
            let positive: Vec<bool> = expected.iter().map(|ids| ids.contains(&1)).collect();
            roc_auc(&scores.iter().map(|scores| scores[1]).collect::<Vec<_>>(), &positive)
        };
        Self {
            accuracy: share(exact, expected.len()).unwrap_or(0.0),
            macro_f1: (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64),
            micro_f1: share(2 * sum(&hits), sum(&support) + sum(&chosen)),
            weighted_f1: (sum(&support) > 0).then(|| weighted / sum(&support) as f64),
            mcc: confusion.as_ref().and_then(|confusion| matthews(confusion)),
            roc_auc: if labels.len() == 2 { second() } else { None },
            ece: calibration_error(&reliability(&confidences(decision, expected, scores))),
            rows: expected.len(),
            labels: by_label,
            confusion,
        }
    }
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How sure of what it is, and whether it is so. One label a row: the best score, and whether its label is right. Any number: every
/// score, and whether its label holds.
pub fn confidences(decision: &Decision, expected: &[&[u32]], scores: &[Vec<f32>]) -> Vec<(f64, bool)> {
    let holds = |expected: &[u32], id: usize| expected.contains(&(id as u32));
    match decision.problem_type {
        ProblemType::SingleLabel => {
            let best = |(scores, expected): (&Vec<f32>, &&[u32])| {
                let id = argmax(scores) as usize;
                (f64::from(scores[id]), holds(expected, id))
            };
            scores.iter().zip(expected).map(best).collect()
        }
        ProblemType::MultiLabel => scores
            .iter()
            .zip(expected)
            .flat_map(|(scores, expected)| (0..scores.len()).map(|id| (f64::from(scores[id]), holds(expected, id))))
            .collect(),
    }
}

/// Groups [`confidences`] by score.
pub fn reliability(confidences: &[(f64, bool)]) -> Vec<ReliabilityBin> {
    let bin = |index: usize| {
        let of_bin = |score: f64| ((score * BINS as f64) as usize).min(BINS - 1) == index;
        let members: Vec<&(f64, bool)> = confidences.iter().filter(|(score, _)| of_bin(*score)).collect();
        ReliabilityBin {
            confidence: members.iter().map(|(score, _)| score).sum::<f64>() / members.len().max(1) as f64,
            accuracy: share(members.iter().filter(|(_, right)| *right).count(), members.len()).unwrap_or(0.0),
            count: members.len(),
        }
    };
    (0..BINS).map(bin).filter(|bin| bin.count > 0).collect()
}

/// The mean distance of the bins from the diagonal, each as often as it has members.
pub fn calibration_error(bins: &[ReliabilityBin]) -> f64 {
    let total: usize = bins.iter().map(|bin| bin.count).sum();
    let distance = |bin: &ReliabilityBin| bin.count as f64 * (bin.confidence - bin.accuracy).abs();
    bins.iter().map(distance).sum::<f64>() / total.max(1) as f64
}

/// Which labels were taken for which others, `(rows, expected, predicted)`, the most frequent first.
pub fn confused_pairs(confusion: &[Vec<usize>]) -> Vec<(usize, usize, usize)> {
    let mut pairs = Vec::new();
    for (expected, row) in confusion.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|&(predicted, &count)| predicted != expected && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, expected, predicted)));
    }
    pairs.sort_by_key(|&(count, expected, predicted)| (Reverse(count), expected, predicted));
    pairs
}

/// The multi-class form of Matthews' correlation coefficient; none where all rows are expected, or predicted, alike.
fn matthews(confusion: &[Vec<usize>]) -> Option<f64> {
    let labels = 0..confusion.len();
    let expected: Vec<f64> = confusion.iter().map(|row| row.iter().sum::<usize>() as f64).collect();
    let predicted: Vec<f64> =
        labels.clone().map(|id| confusion.iter().map(|row| row[id]).sum::<usize>() as f64).collect();
    let rows: f64 = expected.iter().sum();
    let hits: f64 = labels.map(|id| confusion[id][id] as f64).sum();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = |counts: &[f64]| rows * rows - dot(counts, counts);
    let scale = (spread(&predicted) * spread(&expected)).sqrt();
    (scale > 0.0).then(|| (hits * rows - dot(&predicted, &expected)) / scale)
}

/// The probability that a row with the label scores higher than one without it, ties counting half; none if there are
/// only rows of one kind.
pub(crate) fn roc_auc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let positives = positive.iter().filter(|&&positive| positive).count();
    let negatives = positive.len() - positives;
    // Rows without the label that score less than those of the current group of equals.
    let (mut below, mut wins) = (0.0, 0.0);
    for group in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let with = group.iter().filter(|&&row| positive[row]).count() as f64;
        let without = group.len() as f64 - with;
        wins += with * (below + without / 2.0);
        below += without;
    }
    (positives > 0 && negatives > 0).then(|| wins / (positives * negatives) as f64)
}

/// Whether a row gets just its labels by its logits.
pub(crate) fn is_hit(decision: &Decision, logits: &[f32], labels: &[u32]) -> bool {
    let predicted = decision.label_ids(&decision.scores(logits));
    predicted.iter().map(|&id| id as u32).eq(labels.iter().copied())
}

/// Which rows get just their labels, the ids in `labels`, by their logits.
pub fn hits<'a>(decision: &Decision, logits: &[Vec<f32>], labels: impl IntoIterator<Item = &'a [u32]>) -> Vec<bool> {
    logits.iter().zip(labels).map(|(logits, labels)| is_hit(decision, logits, labels)).collect()
}

/// The id of the largest logit; of equals, the first.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}

/// A share in percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or("not measured".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::undecided;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn figures_computed_by_hand() {
        let labels = ["a", "b", "c"].map(String::from);
        let expected: [&[u32]; 6] = [&[0], &[0], &[0], &[1], &[1], &[2]];
        let scores = |id: usize| (0..3).map(|i| if i == id { 0.8 } else { 0.1 }).collect::<Vec<f32>>();
        let metrics =
            Metrics::new(&labels, &undecided(ProblemType::SingleLabel), &expected, &[0, 0, 1, 1, 0, 0].map(scores));
        assert_eq!(metrics.confusion, Some(vec![vec![2, 1, 0], vec![1, 1, 0], vec![1, 0, 0]]));
        assert!(close(metrics.accuracy, 0.5) && close(metrics.micro_f1.unwrap(), 0.5));
        // a: precision 2/4, recall 2/3, F1 4/7; b: 1/2, 1/2, 1/2; c: never predicted.
        assert!(close(metrics.labels[0].f1.unwrap(), 4.0 / 7.0));
        assert!(close(metrics.macro_f1.unwrap(), (4.0 / 7.0 + 0.5) / 3.0));
        assert!(close(metrics.weighted_f1.unwrap(), (3.0 * 4.0 / 7.0 + 2.0 * 0.5) / 6.0));
        assert_eq!((metrics.labels[2].precision, metrics.labels[2].recall), (None, Some(0.0)));
        // (3·6 − (4·3 + 2·2 + 0·1)) / √((36 − 20)(36 − 14))
        assert!(close(metrics.mcc.unwrap(), 2.0 / (16.0f64 * 22.0).sqrt()));
        // All scores are 0.8 and half of them right.
        assert!((metrics.ece - 0.3).abs() < 1e-6);
        assert_eq!(metrics.roc_auc, None);
    }

    #[test]
    fn area_under_the_curve_counts_ties_half() {
        // Pairs (with, without): 0.9 beats both, 0.5 beats 0.1 and ties with 0.5.
        assert_eq!(roc_auc(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false]), Some(3.5 / 4.0));
        assert_eq!(roc_auc(&[0.9], &[true]), None);
    }

    #[test]
    fn several_labels_a_row() {
        let labels = ["a", "b"].map(String::from);
        let decision = Decision { problem_type: ProblemType::MultiLabel, ..undecided(ProblemType::SingleLabel) };
        let expected: [&[u32]; 3] = [&[0, 1], &[], &[1]];
        let metrics = Metrics::new(&labels, &decision, &expected, &[vec![0.9, 0.2], vec![0.1, 0.1], vec![0.6, 0.7]]);
        // Row 2 alone is exact. Hits 2 of 3 labels, 3 chosen.
        assert!(close(metrics.accuracy, 1.0 / 3.0) && close(metrics.micro_f1.unwrap(), 4.0 / 6.0));
        assert_eq!((metrics.confusion, metrics.mcc), (None, None));
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let labels = ["a", "b", "c"].map(String::from);
        let sure = |id: usize| (0..3).map(|other| if other == id { 0.8 } else { 0.1 }).collect::<Vec<f32>>();
        let metrics = Metrics::new(&labels, &undecided(ProblemType::SingleLabel), &[&[0], &[0]], &[sure(0), sure(1)]);
        // c is neither there nor predicted; b is predicted in vain.
        let f1: Vec<Option<f64>> = metrics.labels.iter().map(|label| label.f1).collect();
        assert_eq!(f1, [Some(2.0 / 3.0), Some(0.0), None]);
        assert!(close(metrics.macro_f1.unwrap(), 1.0 / 3.0));
        assert_eq!((metrics.mcc, metrics.labels[1].recall, metrics.labels[2].precision), (None, None, None));
        let none: [&[u32]; 2] = [&[], &[]];
        let decision = Decision { problem_type: ProblemType::MultiLabel, ..undecided(ProblemType::SingleLabel) };
        let metrics = Metrics::new(&labels, &decision, &none, &[vec![0.1; 3], vec![0.2; 3]]);
        assert_eq!(
            (metrics.micro_f1, metrics.macro_f1, metrics.weighted_f1, metrics.accuracy),
            (None, None, None, 1.0)
        );
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!((argmax(&[1.0, 3.0, 3.0]), argmax(&[f32::NAN, 0.0])), (1, 0));
    }
}
