//! What a classifier answers.

use serde_json::{Map, Value, json};

/// The answer for one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label with the highest score.
    pub label: String,
    /// Its probability, between 0 and 1.
    pub score: f32,
    /// Probability of every label, in the order of the labels' ids; they sum to 1.
    pub scores: Vec<(String, f32)>,
}

impl Prediction {
    /// Softmax over `logits / temperature`, one logit a label.
    pub(crate) fn from_logits(logits: &[f32], labels: &[String], temperature: f32) -> Self {
        let scores = softmax(logits, temperature);
        let best = (0..scores.len()).fold(0, |best, id| if scores[id] > scores[best] { id } else { best });
        Self { label: labels[best].clone(), score: scores[best], scores: labels.iter().cloned().zip(scores).collect() }
    }

    /// `{"label": …, "score": …, "scores": {…}}`, the form of `nimbert classify --json`. With `top_k`, `scores` holds
    /// the k most likely labels only, best first.
    pub fn to_json(&self, top_k: Option<usize>) -> Value {
        // Six digits are what a 32-bit probability carries; written as 64 bits it would show noise behind them.
        let round = |score: f32| json!((f64::from(score) * 1e6).round() / 1e6);
        let scores: Map<_, _> = match top_k {
            None => self.scores.iter().map(|(label, score)| (label.clone(), round(*score))).collect(),
            Some(k) => self.top(k).into_iter().map(|(label, score)| (label.to_owned(), round(score))).collect(),
        };
        json!({ "label": self.label, "score": round(self.score), "scores": scores })
    }

    /// The `k` most likely labels, best first.
    pub fn top(&self, k: usize) -> Vec<(&str, f32)> {
        let mut scores: Vec<_> = self.scores.iter().map(|(label, score)| (label.as_str(), *score)).collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores.truncate(k);
        scores
    }
}

/// Probabilities from logits, stable for large ones: the largest is subtracted first.
pub fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| ((logit - max) / temperature).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_survives_large_logits_and_sums_to_one() {
        let scores = softmax(&[1000.0, 999.0], 1.0);
        assert!((scores[0] - 0.731_058_6).abs() < 1e-6);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn json_has_scores_by_label_and_top_k_sorts() {
        let labels = ["a", "b", "c"].map(String::from);
        let prediction = Prediction::from_logits(&[0.0, 2.0, 1.0], &labels, 1.0);
        assert_eq!(prediction.label, "b");
        let json = prediction.to_json(Some(2));
        assert_eq!(json["scores"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
