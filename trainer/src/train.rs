//! The training loop.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use candle_core::Tensor;
use nimbert::{Decision, ProblemType};
use rand_chacha::ChaCha8Rng;

use crate::{
    checkpoint::{self, Checkpoint, CheckpointConfig, EpochSums, Progress, State},
    compute::{Compute, LossScale},
    contrast::Contrast,
    dataloader::{Example, PackedBatch, grouped_batches, shuffled_batches},
    distill::Teacher,
    error::{Error, Result},
    evaluate::predict,
    loss::{Loss, Target},
    metrics::Metrics,
    model::{Gradients, SequenceClassifier},
    ops::tensor_square_sum,
    optimizer::{AdamW, AdamWConfig, clip_scale},
    random::{DropoutKeys, Stream, generator, position},
    record::{EpochRecord, Record, StepRecord},
    schedule::{Curve, Schedule},
    tasks::{TaskLabels, TaskRows},
};

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows a batch.
    pub batch_size: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of all steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// How the learning rate goes on from there.
    pub curve: Curve,
    /// What is minimized.
    pub loss: Loss,
    /// What is minimized besides, and brings rows of like labels near each other; none: nothing.
    pub contrast: Option<Contrast>,
    /// Batches whose gradients are summed for one optimizer step.
    pub gradient_accumulation: usize,
    /// The learning rate of each layer is this much of the layer's above it; the head has the full one.
    pub layer_decay: f64,
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
        positive("--gradient-accumulation", self.gradient_accumulation as f64)?;
        positive("--learning-rate", self.learning_rate)?;
        positive("--max-grad-norm", self.max_grad_norm)?;
        if !(0.0..1.0).contains(&self.warmup_ratio) {
            return Err(Error::setting("--warmup-ratio", "a share from 0 to below 1", self.warmup_ratio));
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            return Err(Error::setting("--layer-decay", "a number above 0, up to 1", self.layer_decay));
        }
        if !(0.0..1.0).contains(&self.adamw.weight_decay) {
            return Err(Error::setting("--weight-decay", "a number from 0 to below 1", self.adamw.weight_decay));
        }
        Ok(())
    }

    /// Optimizer steps that `rows` training rows take in all.
    pub fn total_steps(&self, rows: usize) -> usize {
        self.epochs.saturating_mul(rows.div_ceil(self.step_rows()))
    }

    /// Rows an optimizer step.
    pub fn step_rows(&self) -> usize {
        self.batch_size.saturating_mul(self.gradient_accumulation)
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

/// What a run is given.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The rows.
    pub splits: Splits<'a>,
    /// How the model is trained.
    pub config: &'a TrainConfig,
    /// A model that is imitated; none: the labels alone are learned.
    pub teacher: Option<&'a Teacher<'a>>,
    /// Where the run leaves its state; none: nowhere.
    pub checkpoints: Option<&'a CheckpointConfig>,
    /// Where it computes.
    pub compute: &'a Compute,
}

/// Trains `model` in place. The best epoch is the one with the highest validation score (of equals, the last): accuracy,
/// or micro F1 where a row may have several labels. Without validation rows it is the last. Training stops at the next
/// step once `stop` is true.
///
/// The same model, rows and configuration give the same weights, bit for bit, on the same machine with the same number
/// of threads, however often the run was stopped and resumed. `on_record` is told of every step and epoch; of those
/// before a resumption again, at once.
///
/// # Errors
/// [`Error::Setting`]; [`Error::NothingTrained`]; [`Error::Diverged`] or [`Error::Interrupted`] if not even one epoch was completed;
/// [`Error::Io`] if a checkpoint cannot be written; [`Error::Tensor`].
pub fn train(
    model: &SequenceClassifier,
    job: Job<'_>,
    stop: &AtomicBool,
    on_record: impl FnMut(&Record) + Send,
) -> Result<Training> {
    let Job { splits, config, .. } = job;
    config.validate()?;
    model.tasks.validate(&config.loss)?;
    if config.patience.is_some() && splits.validation.is_empty() {
        return Err(Error::setting("--patience", "validation rows to judge by (--validation-size)", "none"));
    }
    if !job.compute.is_fused() {
        return train_elsewhere(model, job, stop, on_record);
    }
    // On one of rayon's threads: a loop outside of the pool would be one thread more than there are cores, and every
    // parallel operation would begin with waking another thread up.
    rayon::scope(|_| train_loop(model, job, stop, on_record))
}

/// Trains a copy of the model, and of its teacher, where the job computes, and brings the weights back.
fn train_elsewhere(
    model: &SequenceClassifier,
    job: Job<'_>,
    stop: &AtomicBool,
    on_record: impl FnMut(&Record),
) -> Result<Training> {
    let copy = model.on(job.compute)?;
    let teacher_model = job.teacher.map(|teacher| teacher.model.on(job.compute)).transpose()?;
    let teacher_model = teacher_model.map(|model| model.for_inference());
    let teacher = job.teacher.zip(teacher_model.as_ref());
    let teacher = teacher.map(|(teacher, model)| Teacher { model, layers: teacher.layers.clone(), ..*teacher });
    let training = train_loop(&copy, Job { teacher: teacher.as_ref(), ..job }, stop, on_record)?;
    model.parameters().restore(&copy.parameters().snapshot()?)?;
    Ok(training)
}

fn train_loop(
    model: &SequenceClassifier,
    job: Job<'_>,
    stop: &AtomicBool,
    mut on_record: impl FnMut(&Record),
) -> Result<Training> {
    let Job { splits, config, .. } = job;
    let schedule = config.schedule(splits.train.len());
    let untrained = encoder_sums(model)?;
    let mut run = Run::start(model, job)?;
    run.progress.history.iter().for_each(&mut on_record);
    while run.progress.epochs_done < config.epochs && !run.is_out_of_patience(config) {
        let epoch = run.progress.epochs_done + 1;
        run.shuffle.set_word_pos(run.progress.shuffle_position.into());
        let steps = match &config.contrast {
            None => shuffled_batches(splits.train.len(), config.step_rows(), &mut run.shuffle),
            Some(_) => grouped_batches(splits.train, config.step_rows(), &mut run.shuffle),
        };
        for rows in steps.iter().skip(run.progress.steps_of_epoch) {
            let started = Instant::now();
            let examples: Vec<&Example> = rows.iter().map(|&row| &splits.train[row]).collect();
            let StepResult { loss, gradients, hits, tokens, weight } = run.gradients(&examples)?;
            let grad_norm = gradients.norm()? / run.progress.loss_scale.factor;

            let step = run.progress.step;
            // Half precision may overflow while the loss is multiplied by too much: the step is left out, untold.
            let overflowed = loss.is_finite() && !grad_norm.is_finite() && run.progress.loss_scale.can_shrink();
            let diverged = [("the loss", loss), ("the gradient norm", grad_norm)];
            let diverged = diverged.into_iter().find(|(_, value)| !value.is_finite());
            if let (Some((quantity, value)), false) = (diverged, overflowed) {
                return run.finish(Some(Error::Diverged { step: step + 1, epoch, quantity, value }));
            }
            if stop.load(Ordering::Relaxed) {
                // The state before this step, whose dropout will be drawn again.
                run.save()?;
                let during = format!("training, at step {step} (epoch {epoch})");
                return run.finish(Some(Error::Interrupted { during }));
            }

            let learning_rate = schedule.learning_rate(step);
            if overflowed {
                run.progress.loss_scale.shrink();
            } else {
                let scale = clip_scale(grad_norm, config.max_grad_norm) / run.progress.loss_scale.factor;
                run.optimizer.step(model.parameters(), &gradients, learning_rate, scale)?;
                run.progress.loss_scale.grow(job.compute.dtype);
            }

            let progress = &mut run.progress;
            progress.step += 1;
            progress.steps_of_epoch += 1;
            progress.dropout_position = run.dropout.position();
            progress.sums.loss += loss * weight;
            progress.sums.hits += hits;
            progress.sums.tokens += tokens;
            progress.sums.seconds += started.elapsed().as_secs_f64();
            let record = StepRecord { step: progress.step, epoch, loss: loss as f32, learning_rate, grad_norm };
            if !overflowed {
                run.tell(Record::Step(record), &mut on_record);
            }
            let every = job.checkpoints.and_then(|checkpoints| checkpoints.every_steps);
            if every.is_some_and(|every| run.progress.step.is_multiple_of(every)) {
                run.save()?;
            }
        }
        // The last step may have ruined weights that no loss has seen yet.
        let square_sum = model.parameters().square_sum()?;
        if !square_sum.is_finite() {
            let (step, quantity) = (run.progress.step, "the sum of the squared weights");
            return run.finish(Some(Error::Diverged { step, epoch, quantity, value: square_sum }));
        }
        let record = run.epoch_record(schedule.learning_rate(run.progress.step.saturating_sub(1)))?;
        run.end_epoch(&record)?;
        run.tell(Record::Epoch(record), &mut on_record);
        run.save()?;
    }
    if !untrained.is_empty() && encoder_sums(model)? == untrained {
        return Err(Error::NothingTrained { steps: run.progress.step, learning_rate: config.learning_rate });
    }
    run.finish(None)
}

/// The sum of the squares of each tensor of the encoder that is trained: they are what they were if nothing is learned.
fn encoder_sums(model: &SequenceClassifier) -> Result<Vec<f64>> {
    let head = model.config.layers.len() + 1;
    let encoder = model.parameters().trainable().filter(|(name, _)| model.depth(name) < head);
    encoder.map(|(_, var)| Ok(tensor_square_sum(var)?)).collect()
}

/// A run that is going on.
struct Run<'a> {
    model: SequenceClassifier,
    job: Job<'a>,
    optimizer: AdamW,
    shuffle: ChaCha8Rng,
    dropout: DropoutKeys,
    progress: Progress,
    /// The best epoch's weights.
    best: Option<Vec<Tensor>>,
}

/// What the batches of one step gave.
struct StepResult {
    /// Sum of the rows' weights.
    weight: f64,
    /// Mean loss of the rows.
    loss: f64,
    gradients: Gradients,
    hits: usize,
    tokens: usize,
}

impl<'a> Run<'a> {
    /// From the checkpoint if there is one to resume from, else from the beginning.
    fn start(model: &SequenceClassifier, job: Job<'a>) -> Result<Self> {
        let config = job.config;
        let top = model.config.layers.len() + 1;
        let factor = |name: &str| config.layer_decay.powi((top - model.depth(name)) as i32);
        let factors = model.parameters().trainable().map(|(name, _)| (name.to_owned(), factor(name)));
        let mut run = Self {
            model: model.with_rounded_products(job.compute.rounds_products()),
            job,
            optimizer: AdamW::new(config.adamw).with_rate_factors(factors.collect()),
            shuffle: generator(config.seed, Stream::Shuffle),
            dropout: DropoutKeys::new(config.seed),
            progress: Progress { loss_scale: LossScale::new(job.compute.dtype), ..Progress::default() },
            best: None,
        };
        let checkpoints = job.checkpoints.filter(|checkpoints| checkpoints.resume);
        let checkpoint =
            checkpoints.map(|checkpoints| checkpoint::read(checkpoints, model.parameters())).transpose()?;
        if let Some(Checkpoint { progress, weights, best, optimizer }) = checkpoint.flatten() {
            model.parameters().restore(&weights)?;
            run.optimizer.restore(optimizer);
            run.dropout.set_position(progress.dropout_position);
            // The best weights are left out of a checkpoint where they are the present ones.
            run.best = best.or_else(|| progress.best.is_some().then_some(weights));
            run.progress = progress;
        }
        Ok(run)
    }

    fn save(&self) -> Result<()> {
        let Some(checkpoints) = self.job.checkpoints else { return Ok(()) };
        let best_is_present = self.progress.steps_of_epoch == 0
            && self.progress.best.is_some_and(|(epoch, _)| epoch == self.progress.epochs_done);
        let state = State {
            progress: &self.progress,
            parameters: self.model.parameters(),
            best: self.best.as_deref().filter(|_| !best_is_present),
            optimizer: self.optimizer.state(),
        };
        checkpoint::write(checkpoints, &state)
    }

    fn tell(&mut self, record: Record, on_record: &mut impl FnMut(&Record)) {
        on_record(&record);
        self.progress.history.push(record);
    }

    /// Loss and gradients of one step's rows, in batches.
    fn gradients(&mut self, examples: &[&Example]) -> Result<StepResult> {
        let Self { model, job: Job { config, teacher, .. }, dropout, progress, .. } = self;
        let decision = undecided(config.loss.problem_type);
        let all: Vec<&Target> = examples.iter().map(|example| &example.target).collect();
        let (counted, step_weight) = (model.tasks.counted(&config.loss, &all), weight_of(examples.iter().copied()));
        let mut sum: Option<StepResult> = None;
        let pieces = pieces(examples, config.batch_size);
        let count = pieces.len();
        for examples in pieces {
            let batch = PackedBatch::of_windows(examples.iter().map(|example| example.windows.as_slice()));
            let targets: Vec<&Target> = examples.iter().map(|example| &example.target).collect();
            let output = model.forward(&batch, Some(dropout))?;
            let loss = model.tasks.loss(&config.loss, &output.logits, &targets, &counted)?;
            let weight = weight_of(examples.iter().copied());
            // Of what is a mean over these rows, the step has so much. Of rows that do not count at all, that of each is as good; a scale of
            // 0 would cut the graph.
            let share = if step_weight > 0.0 { (weight / step_weight).max(1e-30) } else { 1.0 / count as f64 };
            let loss = match &config.contrast {
                Some(contrast) => {
                    let of_pairs = contrast.of_batch(&output.pooled, &batch, &targets, &model.tasks)?;
                    (loss + (of_pairs * (contrast.weight * share))?)?
                }
                None => loss,
            };
            let loss = match teacher {
                // What it has of its own is such a mean.
                Some(teacher) => (teacher.loss(&batch, &targets, &output, &(loss / share)?)? * share)?,
                None => loss,
            };
            let gradients = model.backward(&(&loss * progress.loss_scale.factor)?, &output, &batch)?;
            let logits = output.logits.to_vec2::<f32>()?;
            let part = StepResult {
                weight,
                loss: f64::from(loss.to_scalar::<f32>()?),
                gradients,
                hits: model.tasks.hits(&decision, &logits, targets.iter().map(|target| target.ids.as_slice())),
                tokens: batch.tokens(),
            };
            sum = Some(match sum {
                None => part,
                Some(before) => before.add(part)?,
            });
        }
        Ok(sum.expect("a step has rows"))
    }

    /// Evaluates the epoch that has ended.
    fn epoch_record(&self, learning_rate: f64) -> Result<EpochRecord> {
        let Job { splits, config, .. } = self.job;
        let problem_type = config.loss.problem_type;
        let validation = evaluate(&self.model, problem_type, splits.validation, config.batch_size)?;
        let test = evaluate(&self.model, problem_type, splits.test, config.batch_size)?;
        // The mean over the tasks.
        let figure = |metrics: &[Metrics], figure: fn(&Metrics) -> Option<f64>| {
            let figures: Option<Vec<f64>> = metrics.iter().map(figure).collect();
            figures
                .filter(|figures| !figures.is_empty())
                .map(|figures| figures.iter().sum::<f64>() / figures.len() as f64)
        };
        // Of all answers, as that in training.
        let accuracy = |metrics: &[Metrics]| {
            let rows: usize = metrics.iter().map(|metrics| metrics.rows).sum();
            let right: f64 = metrics.iter().map(|metrics| metrics.accuracy * metrics.rows as f64).sum();
            (rows > 0).then(|| right / rows as f64)
        };
        let expected = self.model.tasks.answers(splits.train.iter().map(|example| example.target.ids.as_slice()));
        let (rows, sums) = (splits.train.len() as f64, self.progress.sums);
        Ok(EpochRecord {
            epoch: self.progress.epochs_done + 1,
            step: self.progress.step,
            loss: sums.loss / weight_of(splits.train),
            train_accuracy: sums.hits as f64 / expected as f64,
            validation_accuracy: accuracy(&validation),
            validation_macro_f1: figure(&validation, |metrics| metrics.macro_f1),
            validation_micro_f1: figure(&validation, |metrics| metrics.micro_f1),
            test_accuracy: accuracy(&test),
            test_macro_f1: figure(&test, |metrics| metrics.macro_f1),
            test_micro_f1: figure(&test, |metrics| metrics.micro_f1),
            learning_rate,
            rows_per_second: rows / sums.seconds,
            tokens_per_second: sums.tokens as f64 / sums.seconds,
        })
    }

    /// Counts the epoch as done, and keeps its weights if it is the best.
    fn end_epoch(&mut self, record: &EpochRecord) -> Result<()> {
        let score = record.validation_micro_f1;
        if self.progress.best.is_none_or(|(_, best)| score >= best) {
            self.progress.best = Some((record.epoch, score));
            self.best = Some(self.model.parameters().snapshot()?);
        }
        self.progress.epochs_done += 1;
        self.progress.steps_of_epoch = 0;
        self.progress.shuffle_position = position(&self.shuffle);
        self.progress.sums = EpochSums::default();
        Ok(())
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        let epoch = |record: &Record| match record {
            Record::Epoch(epoch) => Some(epoch.clone()),
            Record::Step(_) => None,
        };
        self.progress.history.iter().filter_map(epoch).collect()
    }

    fn is_out_of_patience(&self, config: &TrainConfig) -> bool {
        config.patience.is_some_and(|patience| epochs_without_gain(&self.epochs()) >= patience)
    }

    /// Puts the best epoch's weights back; without one, the reason for stopping is the result.
    fn finish(self, stopped: Option<Error>) -> Result<Training> {
        match (&self.best, self.progress.best, stopped) {
            (Some(weights), Some((best, _)), stopped) => {
                self.model.parameters().restore(weights)?;
                Ok(Training { epochs: self.epochs(), best, stopped })
            }
            (.., Some(reason)) => Err(reason),
            (.., None) => Err(Error::setting("--epochs", "a number above 0", 0)),
        }
    }
}

impl StepResult {
    /// Together with a further part of the step.
    fn add(self, part: Self) -> Result<Self> {
        Ok(Self {
            weight: self.weight + part.weight,
            loss: self.loss + part.loss,
            gradients: self.gradients.accumulate(part.gradients)?,
            hits: self.hits + part.hits,
            tokens: self.tokens + part.tokens,
        })
    }
}

/// The rows of a step in batches. Rows of many windows are taken in smaller ones: windows are what takes memory.
fn pieces<'a, 'b>(examples: &'b [&'a Example], batch_size: usize) -> Vec<&'b [&'a Example]> {
    let mut pieces = Vec::new();
    for batch in examples.chunks(batch_size) {
        let (mut first, mut windows) = (0, 0);
        for (index, example) in batch.iter().enumerate() {
            if index > first && windows + example.windows.len() > batch_size {
                pieces.push(&batch[first..index]);
                (first, windows) = (index, 0);
            }
            windows += example.windows.len();
        }
        pieces.push(&batch[first..]);
    }
    pieces
}

/// The sum of the rows' weights.
fn weight_of<'a>(examples: impl IntoIterator<Item = &'a Example>) -> f64 {
    examples.into_iter().map(|example| f64::from(example.target.weight)).sum()
}

/// How many epochs have passed since the validation score was last higher than ever before.
fn epochs_without_gain(epochs: &[EpochRecord]) -> usize {
    let (mut highest, mut since) = (None, 0);
    for record in epochs {
        since += 1;
        if record.validation_micro_f1 > highest {
            (highest, since) = (record.validation_micro_f1, 0);
        }
    }
    since
}

/// How logits are read while nothing has been calibrated.
pub fn undecided(problem_type: ProblemType) -> Decision {
    Decision {
        problem_type,
        temperature: 1.0,
        abstain_threshold: None,
        label_thresholds: None,
        coverage: None,
        unknown_threshold: None,
    }
}

/// The figures of each task that some row has a label of.
fn evaluate(
    model: &SequenceClassifier,
    problem_type: ProblemType,
    examples: &[Example],
    batch_size: usize,
) -> Result<Vec<Metrics>> {
    let decision = undecided(problem_type);
    let logits = predict(model, examples.iter().map(|example| example.windows.as_slice()), batch_size)?;
    let expected: Vec<&[u32]> = examples.iter().map(|example| example.target.ids.as_slice()).collect();
    let rows = model.tasks.rows(&logits, &expected);
    let of_task = |(task, rows): (&TaskLabels, &TaskRows)| {
        Metrics::new(&model.labels[task.ids.clone()], &decision, &rows.ids(), &rows.scores(&decision))
    };
    Ok(model.tasks.iter().zip(&rows).filter(|(_, rows)| !rows.rows.is_empty()).map(of_task).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use nimbert::Encoding;

    use super::*;
    use crate::{distill::DistillConfig, model::EncoderConfig};

    /// The label is which of two words a text begins with.
    fn examples(count: u32) -> Vec<Example> {
        let example = |index: u32| {
            let words = 3 + index % 5;
            let ids = [5, 7 + index % 2].into_iter().chain((0..words).map(|word| 20 + (index * 3 + word) % 50));
            let input_ids: Vec<u32> = ids.collect();
            let token_type_ids = vec![0; input_ids.len()];
            let windows = vec![Encoding { input_ids, token_type_ids, truncated: false }];
            Example { windows, target: [index % 2].into() }
        };
        (0..count).map(example).collect()
    }

    fn tiny_bert() -> SequenceClassifier {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-bert");
        let config = EncoderConfig::open(&folder.join("config.json")).unwrap();
        let labels = ["a", "b"].map(String::from);
        SequenceClassifier::load(&folder.join("model.safetensors"), config, &labels, 0).unwrap().0
    }

    fn config() -> TrainConfig {
        TrainConfig {
            epochs: 4,
            batch_size: 16,
            learning_rate: 1e-3,
            warmup_ratio: 0.1,
            curve: Curve::Linear,
            loss: Loss::default(),
            contrast: None,
            gradient_accumulation: 1,
            layer_decay: 1.0,
            patience: None,
            max_grad_norm: 1.0,
            adamw: AdamWConfig::default(),
            seed: 1,
        }
    }

    fn job<'a>(examples: &'a [Example], config: &'a TrainConfig, compute: &'a Compute) -> Job<'a> {
        let splits = Splits { train: examples, validation: &[], test: &[] };
        Job { splits, config, teacher: None, checkpoints: None, compute }
    }

    #[test]
    fn divergence_keeps_the_last_good_epoch() {
        let (model, config) = (tiny_bert(), config());
        let mut good = Vec::new();
        // Weights that are ruined behind the first epoch, as a step that is too long would ruin them.
        let training =
            train(&model, job(&examples(32), &config, &Compute::default()), &AtomicBool::new(false), |record| {
                if matches!(record, Record::Epoch(epoch) if epoch.epoch == 1) {
                    good = model.parameters().snapshot().unwrap();
                    let (_, var) = model.parameters().iter().next().unwrap();
                    var.set(&(var.as_tensor() * f64::NAN).unwrap()).unwrap();
                }
            });
        let training = training.unwrap();
        assert!(matches!(training.stopped, Some(Error::Diverged { epoch: 2, .. })), "{:?}", training.stopped);
        assert_eq!((training.best, training.epochs.len()), (1, 1));
        for ((name, var), good) in model.parameters().iter().zip(&good) {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(var), values(good), "{name}");
        }
    }

    #[test]
    fn a_run_that_trains_nothing_is_an_error() {
        let examples = examples(24);
        let fails = |config: TrainConfig| {
            let compute = Compute::default();
            let job = job(&examples, &config, &compute);
            train(&tiny_bert(), job, &AtomicBool::new(false), |_| {}).map(drop).unwrap_err().to_string()
        };
        let error = fails(TrainConfig { learning_rate: 1e-30, ..config() });
        assert!(error.contains("changed no weight of the encoder in 8 steps"), "{error}");
        // One step is enough to move.
        let one = TrainConfig { epochs: 1, batch_size: 24, ..config() };
        let model = tiny_bert();
        train(&model, job(&examples, &one, &Compute::default()), &AtomicBool::new(false), |_| {}).unwrap();
        assert_ne!(encoder_sums(&model).unwrap(), encoder_sums(&tiny_bert()).unwrap());
    }

    #[test]
    fn a_row_of_weight_two_is_two_rows() {
        let twice: Vec<Example> = examples(9).into_iter().flat_map(|example| [example.clone(), example]).collect();
        let mut once = examples(9);
        once.iter_mut().for_each(|example| example.target.weight = 2.0);
        once.push(Example { target: Target { weight: 0.0, ..[1].into() }, ..once[0].clone() });
        let imitated = tiny_bert().for_inference();
        let distill = DistillConfig { soft_share: 0.5, hidden_weight: 1.0, temperature: 2.0 };
        // It is no copy of what it teaches: each layer has another one's place.
        let layers = (0..imitated.config.layers.len()).rev().collect();
        let teacher = Teacher { model: &imitated, layers, problem_type: ProblemType::SingleLabel, config: distill };
        let gradient = |rows: &[Example], batch_size: usize, teacher: Option<&Teacher<'_>>| -> f64 {
            let model = tiny_bert();
            let config = TrainConfig { batch_size, gradient_accumulation: 5, epochs: 1, ..config() };
            let compute = Compute::default();
            let mut losses = Vec::new();
            let record = |record: &Record| {
                if let Record::Step(step) = record {
                    losses.push((f64::from(step.loss), step.grad_norm));
                }
            };
            let job = Job { teacher, ..job(rows, &config, &compute) };
            train(&model, job, &AtomicBool::new(false), record).unwrap();
            assert_eq!(losses.len(), 1);
            losses[0].0 + 1000.0 * losses[0].1
        };
        // What is learned of hidden states is a mean over a batch's tokens: it is compared in a batch of all.
        for (batch_size, teacher) in [(4, None), (20, Some(&teacher))] {
            let [once, twice] = [&once, &twice].map(|rows| gradient(rows, batch_size, teacher));
            assert!((once / twice - 1.0).abs() < 1e-4, "{batch_size}: {once} {twice}");
        }
    }

    #[test]
    fn a_batch_in_which_no_row_counts_trains_nothing_and_fails_nowhere() {
        for problem_type in [ProblemType::SingleLabel, ProblemType::MultiLabel] {
            let mut rows = examples(12);
            rows.iter_mut().skip(4).for_each(|example| example.target.weight = 0.0);
            let loss = Loss { problem_type, ..Loss::default() };
            let config = TrainConfig { batch_size: 2, epochs: 1, loss, ..config() };
            let mut losses = Vec::new();
            let record = |record: &Record| {
                if let Record::Step(step) = record {
                    losses.push(step.loss);
                }
            };
            train(&tiny_bert(), job(&rows, &config, &Compute::default()), &AtomicBool::new(false), record).unwrap();
            assert!(losses.iter().all(|loss| loss.is_finite()) && losses.contains(&0.0), "{losses:?}");
        }
    }

    #[test]
    fn batches_of_many_windows_are_taken_in_pieces() {
        let with_windows = |count: usize| {
            let mut example = examples(1).remove(0);
            example.windows = vec![example.windows[0].clone(); count];
            example
        };
        let rows: Vec<Example> = [1, 1, 3, 9, 1, 1].map(with_windows).into();
        let rows: Vec<&Example> = rows.iter().collect();
        let lengths = |batch_size| pieces(&rows, batch_size).iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(lengths(4), [2, 1, 1, 2]);
        assert_eq!(lengths(6), [3, 1, 2]);
        assert_eq!(lengths(16), [6]);
    }

    /// Trains the tiny BERT and returns the records and weights.
    fn run(dtype: DType) -> (Training, Vec<f32>) {
        let (model, examples, config) = (tiny_bert(), examples(64), config());
        let compute = Compute { device: Device::Cpu, dtype };
        let training = train(&model, job(&examples, &config, &compute), &AtomicBool::new(false), |_| {}).unwrap();
        let weights = model.parameters().iter().flat_map(|(_, var)| {
            assert_eq!(var.dtype(), DType::F32);
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        (training, weights.collect())
    }

    #[test]
    fn composed_forms_train_as_the_fused_ones_do_dropout_included() {
        let ((fused, fused_weights), (composed, composed_weights)) = (run(DType::F32), run(DType::F64));
        for (fused, composed) in fused.epochs.iter().zip(&composed.epochs) {
            assert!((fused.loss - composed.loss).abs() < 1e-4, "{} and {}", fused.loss, composed.loss);
        }
        let mean = fused_weights.iter().zip(&composed_weights).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>()
            / fused_weights.len() as f64;
        assert!(mean < 1e-5, "weights differ by {mean} on average");
    }

    #[test]
    fn half_precision_learns_the_same() {
        let (full, full_weights) = run(DType::F32);
        // The composed forms, and those of bfloat16: fused where the processor has its products.
        for dtype in [DType::F16, DType::BF16] {
            let (half, weights) = run(dtype);
            assert!(weights.iter().all(|weight| weight.is_finite()));
            let last = |training: &Training| training.epochs.last().unwrap().loss;
            assert!(last(&half) < half.epochs[0].loss * 0.9, "{:?}", half.epochs);
            assert!((last(&half) - last(&full)).abs() < 0.05, "{} and {}", last(&half), last(&full));
            assert_ne!(weights, full_weights, "{dtype:?} was not used");
            assert_eq!(run(dtype).1, weights, "{dtype:?}: other weights with the same seed");
        }
    }
}
