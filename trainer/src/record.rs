//! What a run tells of itself, step by step and epoch by epoch: lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// A record of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// Of an epoch.
    Epoch(EpochRecord),
    /// Of a step.
    Step(StepRecord),
}

/// What an optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 1 over all epochs.
    pub step: usize,
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss of the batch.
    pub loss: f32,
    /// The learning rate that was used.
    pub learning_rate: f64,
    /// Norm of the gradient before it was clipped.
    pub grad_norm: f64,
}

/// What an epoch brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Optimizer steps so far.
    pub step: usize,
    /// Mean training loss, with dropout, while the weights changed.
    pub loss: f64,
    /// Accuracy of the same predictions.
    pub train_accuracy: f64,
    /// On the validation rows, if there are any.
    pub validation_accuracy: Option<f64>,
    /// On the validation rows, if there are any and it is defined.
    pub validation_macro_f1: Option<f64>,
    /// On the validation rows, if there are any; with one label a row it is the accuracy.
    pub validation_micro_f1: Option<f64>,
    /// On the test rows, if there are any.
    pub test_accuracy: Option<f64>,
    /// On the test rows, if there are any and it is defined.
    pub test_macro_f1: Option<f64>,
    /// On the test rows, if there are any; with one label a row it is the accuracy.
    pub test_micro_f1: Option<f64>,
    /// At the epoch's last step.
    pub learning_rate: f64,
    /// Training rows a second; evaluation is not counted.
    pub rows_per_second: f64,
    /// Training tokens a second, special ones included.
    pub tokens_per_second: f64,
}
