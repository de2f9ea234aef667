//! How good predictions are.

use serde::Serialize;

/// Figures over all rows. Shares lie between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Share of the rows whose label was predicted.
    pub accuracy: f64,
    /// Mean of the labels' F1.
    pub macro_f1: f64,
    /// Number of rows.
    pub rows: usize,
    /// Figures of each label, in the order of the ids.
    pub labels: Vec<LabelMetrics>,
    /// `confusion[expected][predicted]`: number of rows.
    pub confusion: Vec<Vec<usize>>,
}

/// Figures of one label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelMetrics {
    /// Its name.
    pub label: String,
    /// Share of the rows predicted as this label that have it; 0 if none was.
    pub precision: f64,
    /// Share of the rows with this label that were predicted so; 0 if there is none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Rows with this label.
    pub support: usize,
}

impl Metrics {
    /// Compares label ids, a pair a row.
    ///
    /// # Panics
    /// If an id is not below the number of labels.
    pub fn new(labels: &[String], expected: &[u32], predicted: &[u32]) -> Self {
        let mut confusion = vec![vec![0; labels.len()]; labels.len()];
        for (&expected, &predicted) in expected.iter().zip(predicted) {
            confusion[expected as usize][predicted as usize] += 1;
        }
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let label_metrics = |(id, label): (usize, &String)| {
            let hits = confusion[id][id];
            let support = confusion[id].iter().sum();
            let predicted: usize = confusion.iter().map(|row| row[id]).sum();
            LabelMetrics {
                label: label.clone(),
                precision: share(hits, predicted),
                recall: share(hits, support),
                f1: share(2 * hits, support + predicted),
                support,
            }
        };
        let labels: Vec<LabelMetrics> = labels.iter().enumerate().map(label_metrics).collect();
        let hits = (0..labels.len()).map(|id| confusion[id][id]).sum();
        Self {
            accuracy: share(hits, expected.len()),
            macro_f1: labels.iter().map(|label| label.f1).sum::<f64>() / labels.len() as f64,
            rows: expected.len(),
            labels,
            confusion,
        }
    }
}

/// The id of the largest logit; of equals, the first.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_computed_by_hand() {
        let labels = ["a", "b", "c"].map(String::from);
        let metrics = Metrics::new(&labels, &[0, 0, 0, 1, 1, 2], &[0, 0, 1, 1, 0, 0]);
        assert_eq!(metrics.confusion, [[2, 1, 0], [1, 1, 0], [1, 0, 0]]);
        assert!((metrics.accuracy - 0.5).abs() < 1e-12);
        // a: precision 2/4, recall 2/3, F1 4/7; b: 1/2, 1/2, 1/2; c: never predicted.
        assert!((metrics.labels[0].f1 - 4.0 / 7.0).abs() < 1e-12);
        assert!((metrics.macro_f1 - (4.0 / 7.0 + 0.5) / 3.0).abs() < 1e-12);
        assert_eq!(metrics.labels[2].precision, 0.0);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!((argmax(&[1.0, 3.0, 3.0]), argmax(&[f32::NAN, 0.0])), (1, 0));
    }
}
