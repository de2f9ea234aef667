//! The training loop.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use serde::Serialize;

use crate::{
    dataloader::{Example, PackedBatch, shuffled_batches},
    error::{Error, Result},
    evaluate::predict,
    loss::CrossEntropy,
    metrics::{Metrics, argmax},
    model::SequenceClassifier,
    optimizer::{AdamW, AdamWConfig, clip_scale},
    random::{DropoutKeys, Stream, generator},
    schedule::{Curve, Schedule},
};

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows an optimizer step.
    pub batch_size: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of all steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// How the learning rate goes on from there.
    pub curve: Curve,
    /// What is minimized.
    pub loss: CrossEntropy,
    /// Training ends after so many epochs without a better validation accuracy; none: it never does.
    pub patience: Option<usize>,
    /// The norm to which the gradient is clipped.
    pub max_grad_norm: f64,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Everything random follows from it.
    pub seed: u64,
}

impl TrainConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let positive = |setting, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::setting(setting, "a number above 0", value)),
        };
        positive("--epochs", self.epochs as f64)?;
        positive("--batch-size", self.batch_size as f64)?;
        positive("--learning-rate", self.learning_rate)?;
        positive("--max-grad-norm", self.max_grad_norm)?;
        if !(0.0..1.0).contains(&self.warmup_ratio) {
            return Err(Error::setting("--warmup-ratio", "a share from 0 to below 1", self.warmup_ratio));
        }
        if !(0.0..1.0).contains(&self.adamw.weight_decay) {
            return Err(Error::setting("--weight-decay", "a number from 0 to below 1", self.adamw.weight_decay));
        }
        Ok(())
    }

    /// Optimizer steps that `rows` training rows take in all.
    pub fn total_steps(&self, rows: usize) -> usize {
        self.epochs * rows.div_ceil(self.batch_size)
    }

    /// The learning rate by step, for `rows` training rows.
    pub fn schedule(&self, rows: usize) -> Schedule {
        let total_steps = self.total_steps(rows);
        let warmup_steps = (total_steps as f64 * self.warmup_ratio).ceil() as usize;
        Schedule { curve: self.curve, peak: self.learning_rate, warmup_steps, total_steps }
    }
}

/// The rows of a run.
#[derive(Debug, Clone, Copy)]
pub struct Splits<'a> {
    /// What is learned from.
    pub train: &'a [Example],
    /// What the best epoch is chosen by; may be empty: then it is the last.
    pub validation: &'a [Example],
    /// What is measured after each epoch, and used for no choice; may be empty.
    pub test: &'a [Example],
}

/// What an optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// On the validation rows, if there are any.
    pub validation_macro_f1: Option<f64>,
    /// On the test rows, if there are any.
    pub test_accuracy: Option<f64>,
    /// On the test rows, if there are any.
    pub test_macro_f1: Option<f64>,
    /// At the epoch's last step.
    pub learning_rate: f64,
    /// Training rows a second; evaluation is not counted.
    pub rows_per_second: f64,
    /// Training tokens a second, special ones included.
    pub tokens_per_second: f64,
}

/// What is told while training goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step(&'a StepRecord),
    /// An epoch is done and evaluated.
    Epoch(&'a EpochRecord),
}

/// How training ended; the model holds the weights of the epoch `best`.
#[derive(Debug)]
pub struct Training {
    /// One record an epoch.
    pub epochs: Vec<EpochRecord>,
    /// The epoch whose weights the model holds, counted from 1.
    pub best: usize,
    /// Why training ended before its last epoch, if it did: [`Error::Diverged`] or [`Error::Interrupted`].
    pub stopped: Option<Error>,
}

/// Trains `model` in place. The best epoch is the one with the highest validation accuracy (of equals, the last);
/// without validation rows it is the last. Training stops at the next step once `stop` is true.
///
/// The same model, rows and configuration give the same weights, bit for bit, on the same machine with the same number
/// of threads.
///
/// # Errors
/// [`Error::Setting`]; [`Error::Diverged`] or [`Error::Interrupted`] if not even one epoch was completed;
/// [`Error::Tensor`].
pub fn train(
    model: &SequenceClassifier,
    splits: Splits<'_>,
    config: &TrainConfig,
    stop: &AtomicBool,
    on_event: impl FnMut(Event<'_>) + Send,
) -> Result<Training> {
    config.validate()?;
    config.loss.validate(model.labels.len())?;
    if config.patience.is_some() && splits.validation.is_empty() {
        return Err(Error::setting("--patience", "validation rows to judge by (--validation-size)", "none"));
    }
    // On one of rayon's threads: a loop outside of the pool would be one thread more than there are cores, and every
    // parallel operation would begin with waking another thread up.
    rayon::scope(|_| train_loop(model, splits, config, stop, on_event))
}

fn train_loop(
    model: &SequenceClassifier,
    splits: Splits<'_>,
    config: &TrainConfig,
    stop: &AtomicBool,
    mut on_event: impl FnMut(Event<'_>),
) -> Result<Training> {
    let schedule = config.schedule(splits.train.len());
    let mut optimizer = AdamW::new(config.adamw);
    let mut shuffle = generator(config.seed, Stream::Shuffle);
    let mut dropout = DropoutKeys::new(config.seed);
    let mut epochs: Vec<EpochRecord> = Vec::new();
    let mut best = None;
    let mut step = 0;
    for epoch in 1..=config.epochs {
        let started = Instant::now();
        let (mut loss_sum, mut hits, mut tokens, mut learning_rate) = (0.0, 0, 0, 0.0);
        for indices in shuffled_batches(splits.train.len(), config.batch_size, &mut shuffle) {
            let batch = PackedBatch::new(indices.iter().map(|&index| &splits.train[index].encoding));
            let labels: Vec<u32> = indices.iter().map(|&index| splits.train[index].label).collect();

            let output = model.forward(&batch, Some(&mut dropout))?;
            let loss = config.loss.forward(&output.logits, &labels)?;
            let gradients = model.backward(&loss, &output, &batch)?;

            let loss = loss.to_scalar::<f32>()?;
            let grad_norm = gradients.norm()?;
            let diverged = [("the loss", f64::from(loss)), ("the gradient norm", grad_norm)];
            let diverged = diverged.into_iter().find(|(_, value)| !value.is_finite());
            let stopped = match diverged {
                Some((quantity, value)) => Some(Error::Diverged { step: step + 1, epoch, quantity, value }),
                None if stop.load(Ordering::Relaxed) => {
                    Some(Error::Interrupted { during: format!("training, at step {step} (epoch {epoch})") })
                }
                None => None,
            };
            if let Some(reason) = stopped {
                return finish(model, epochs, best, Some(reason));
            }

            learning_rate = schedule.learning_rate(step);
            let scale = clip_scale(grad_norm, config.max_grad_norm);
            optimizer.step(model.parameters(), &gradients, learning_rate, scale)?;
            step += 1;

            let logits = output.logits.to_vec2::<f32>()?;
            hits += logits.iter().zip(&labels).filter(|(logits, label)| argmax(logits) == **label).count();
            loss_sum += f64::from(loss) * indices.len() as f64;
            tokens += batch.tokens();
            on_event(Event::Step(&StepRecord { step, epoch, loss, learning_rate, grad_norm }));
        }
        let seconds = started.elapsed().as_secs_f64();
        // The last step may have ruined weights that no loss has seen yet.
        let square_sum = model.parameters().square_sum()?;
        if !square_sum.is_finite() {
            let quantity = "the sum of the squared weights";
            return finish(model, epochs, best, Some(Error::Diverged { step, epoch, quantity, value: square_sum }));
        }
        let validation = evaluate(model, splits.validation, config.batch_size)?;
        let test = evaluate(model, splits.test, config.batch_size)?;
        let rows = splits.train.len() as f64;
        let record = EpochRecord {
            epoch,
            step,
            loss: loss_sum / rows,
            train_accuracy: hits as f64 / rows,
            validation_accuracy: validation.as_ref().map(|metrics| metrics.accuracy),
            validation_macro_f1: validation.as_ref().map(|metrics| metrics.macro_f1),
            test_accuracy: test.as_ref().map(|metrics| metrics.accuracy),
            test_macro_f1: test.as_ref().map(|metrics| metrics.macro_f1),
            learning_rate,
            rows_per_second: rows / seconds,
            tokens_per_second: tokens as f64 / seconds,
        };
        on_event(Event::Epoch(&record));
        let score = record.validation_accuracy;
        if best.as_ref().is_none_or(|(_, best_score, _)| score >= *best_score) {
            best = Some((epoch, score, model.parameters().snapshot()?));
        }
        epochs.push(record);
        if config.patience.is_some_and(|patience| epochs_without_gain(&epochs) >= patience) {
            break;
        }
    }
    finish(model, epochs, best, None)
}

/// How many epochs have passed since the validation accuracy was last higher than ever before.
fn epochs_without_gain(epochs: &[EpochRecord]) -> usize {
    let (mut highest, mut since) = (None, 0);
    for record in epochs {
        since += 1;
        if record.validation_accuracy > highest {
            (highest, since) = (record.validation_accuracy, 0);
        }
    }
    since
}

/// Number, validation score and weights of an epoch.
type Best = (usize, Option<f64>, Vec<candle_core::Tensor>);

/// Puts the best epoch's weights back; without one, the reason for stopping is the result.
fn finish(
    model: &SequenceClassifier,
    epochs: Vec<EpochRecord>,
    best: Option<Best>,
    stopped: Option<Error>,
) -> Result<Training> {
    match (best, stopped) {
        (Some((best, _, weights)), stopped) => {
            model.parameters().restore(&weights)?;
            Ok(Training { epochs, best, stopped })
        }
        (None, Some(reason)) => Err(reason),
        (None, None) => Err(Error::setting("--epochs", "a number above 0", 0)),
    }
}

fn evaluate(model: &SequenceClassifier, examples: &[Example], batch_size: usize) -> Result<Option<Metrics>> {
    if examples.is_empty() {
        return Ok(None);
    }
    let logits = predict(model, examples.iter().map(|example| &example.encoding), batch_size)?;
    let predicted: Vec<u32> = logits.iter().map(|logits| argmax(logits)).collect();
    let expected: Vec<u32> = examples.iter().map(|example| example.label).collect();
    Ok(Some(Metrics::new(&model.labels, &expected, &predicted)))
}
