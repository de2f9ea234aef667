//! `--method`: whether all of the encoder learns, or first the head alone.

use std::{collections::BTreeMap, time::Instant};

use nimbert::ProblemType;
use nimbert_trainer::{
    Error,
    contrast::Contrast,
    cross_validation::OutOfFold,
    dataloader::Example,
    feature_cache::FeatureCache,
    features::{Features, Read},
    logistic::{CrossValidated, LinearLayer, LogisticRegression},
    loss::Target,
    model::{EncoderConfig, HeadKind, Pooling, SequenceClassifier},
    report,
    tasks::TaskLabels,
    train::{TrainConfig, Training},
};
use serde_json::{Value, json};

use super::{super::read_features, Args, Candidate, CurveArg, Trained, Work, tell};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MethodArg {
    Auto,
    Finetune,
    Frozen,
    Contrastive,
}

/// One that a model can learn by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Finetune,
    Frozen,
    Contrastive,
}

/// Those that come into question.
pub(super) struct Methods {
    /// The one that was asked for, or all that leave out nothing that is asked for, in the order of how good they are for few rows on
    /// average (benches/runs/2026-11-27-few.md, of several tasks 2026-11-28-tasks.md); at least one.
    pub(super) usable: Vec<Method>,
    /// The others of `--method auto`, and why.
    pub(super) left_out: Vec<(Method, Error)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PoolingArg {
    Mean,
    First,
}

/// Passes over the rows where nothing else is said, at least; with few rows so many that a number of texts is read over all of them.
const EPOCHS: usize = 5;
const TEXTS: usize = 1000;
/// The same of `--method contrastive`: more texts are better by half a point at most, and take longer
/// (benches/runs/2026-11-28-few.md).
const CONTRASTIVE_EPOCHS: usize = 2;
const CONTRASTIVE_TEXTS: usize = 640;

/// From so many labels on the last layer of a new head is a regression before all learns, where each row has one label: with two that
/// gains nothing that can be told from chance (benches/runs/2026-11-28-probing.md).
const PROBED_LABELS: usize = 3;
/// scikit-learn's C of that.
const PROBE_STRENGTH: f64 = 100.0;
/// The most rows of a label that it sees.
const PROBED_ROWS_OF_LABEL: usize = 256;

/// scikit-learn's C of the head that is solved behind contrastive learning. Rows that were learned from cannot choose one: an encoder
/// that has drawn them together tells them apart by any (benches/runs/2026-12-01-heads.md).
const SETTLED_STRENGTH: f64 = 10.0;

/// What an interrupt ends.
const READING: &str = "the encoder's reading of the training rows";

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Finetune => "finetune",
            Self::Frozen => "frozen",
            Self::Contrastive => "contrastive",
        }
    }
}

impl Args {
    /// The methods that come into question for a model that learns from `base`.
    pub(super) fn methods(&self, base: &EncoderConfig) -> Result<Methods, Error> {
        let asked = match self.method {
            MethodArg::Finetune => Method::Finetune,
            MethodArg::Frozen => Method::Frozen,
            MethodArg::Contrastive => Method::Contrastive,
            // A model that goes on has learned from the rows of folds.
            MethodArg::Auto if self.from.is_some() => Method::Finetune,
            MethodArg::Auto => {
                let mut methods = Methods { usable: Vec::new(), left_out: Vec::new() };
                for method in [Method::Contrastive, Method::Finetune, Method::Frozen] {
                    match self.check_method(method).and_then(|()| self.check_layers(method, base)) {
                        Ok(()) => methods.usable.push(method),
                        Err(reason) => methods.left_out.push((method, reason)),
                    }
                }
                if methods.usable.is_empty()
                    && let Some((_, reason)) = methods.left_out.pop()
                {
                    return Err(reason);
                }
                return Ok(methods);
            }
        };
        self.check_method(asked)?;
        self.check_layers(asked, base)?;
        Ok(Methods { usable: vec![asked], left_out: Vec::new() })
    }

    /// Checks that nothing is asked for that the method leaves out.
    pub(super) fn check_method(&self, method: Method) -> Result<(), Error> {
        let refuse = |setting: &'static str, expected: &str, got: &str| {
            Err(Error::Setting { setting, expected: expected.to_owned(), got: got.to_owned() })
        };
        match method {
            Method::Finetune if self.pooling.is_some() && !self.has_linear_head(method) => {
                refuse("--pooling", "--method frozen or contrastive with it", "--method finetune")
            }
            Method::Contrastive if self.batch_size == 1 => {
                refuse("--batch-size", "2 rows or more, which --method contrastive compares", "1")
            }
            // Of a smaller model's learning it has nothing.
            Method::Frozen if self.tensorboard.is_some() => {
                refuse("--tensorboard", "a --method by which the encoder learns", "--method frozen")
            }
            // A smaller model learns by them.
            Method::Frozen if self.layers.is_some() || self.target_size.is_some() => Ok(()),
            Method::Frozen => {
                // What is of no use to one method does not keep --method auto from it.
                let is_asked_for = self.method == MethodArg::Frozen;
                let of_training: [(&'static str, bool); 17] = [
                    ("--epochs", self.epochs.is_some()),
                    ("--learning-rate", self.learning_rate.is_some()),
                    ("--patience", self.patience.is_some()),
                    ("--label-smoothing", self.label_smoothing != 0.0),
                    ("--focal-gamma", self.focal_gamma != 0.0),
                    ("--freeze-embeddings", self.freeze_embeddings),
                    ("--freeze-layers", self.freeze_layers.is_some()),
                    ("--batch-size", self.batch_size != 32),
                    ("--gradient-accumulation", self.gradient_accumulation != 1),
                    ("--layer-decay", self.layer_decay.is_some()),
                    ("--warmup-ratio", self.warmup_ratio != 0.1),
                    ("--schedule", !matches!(self.schedule, CurveArg::Linear)),
                    ("--weight-decay", self.weight_decay != 0.01),
                    ("--max-grad-norm", self.max_grad_norm != 1.0),
                    // The files of folds that a run has left which was stopped may be replaced.
                    ("--resume", self.resume && is_asked_for && self.cross_validate.is_none()),
                    ("--checkpoint-every", self.checkpoint_every.is_some() && is_asked_for),
                    // On a GPU it is the format in which texts are read.
                    ("--compute-dtype", self.rounds_on_cpu() && is_asked_for),
                ];
                match of_training.into_iter().find(|(_, is_given)| *is_given) {
                    Some((setting, _)) => refuse(setting, "a --method by which the encoder learns", "--method frozen"),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Checks that something of the encoder can learn, where it is to.
    fn check_layers(&self, method: Method, base: &EncoderConfig) -> Result<(), Error> {
        let all = base.layers.len();
        if method != Method::Contrastive || self.frozen_layers() != Some(all) {
            return Ok(());
        }
        let expected = format!("less than all {all} layers, for --method contrastive: frozen is a method of its own");
        Err(Error::Setting { setting: "--freeze-layers", expected, got: all.to_string() })
    }

    /// The shape of the model that learns from `base`.
    pub(super) fn encoder_config(&self, method: Method, base: &EncoderConfig) -> Result<EncoderConfig, Error> {
        match self.pooling {
            _ if !self.has_linear_head(method) => Ok(base.clone()),
            Some(PoolingArg::First) => base.with_linear_head(Pooling::First),
            None if base.head == HeadKind::Linear => Ok(base.clone()),
            None | Some(PoolingArg::Mean) => base.with_linear_head(Pooling::Mean),
        }
    }

    /// Whether the head is solved on what the encoder says before it learns. With several tasks it always is: in a head that begins
    /// anew the task that is learned first leaves the others a space of its own labels, in which they are hardly told apart
    /// (benches/runs/2026-11-28-tasks.md).
    pub(super) fn has_linear_head(&self, method: Method) -> bool {
        method != Method::Finetune || !self.tasks.is_empty()
    }

    /// Passes over `rows` training rows.
    pub(super) fn epochs(&self, method: Method, rows: usize) -> usize {
        let (least, texts) = match method {
            Method::Contrastive => (CONTRASTIVE_EPOCHS, CONTRASTIVE_TEXTS),
            _ => (EPOCHS, TEXTS),
        };
        self.epochs.unwrap_or(texts.div_ceil(rows.max(1)).max(least))
    }

    pub(super) fn contrast(&self, method: Method) -> Option<Contrast> {
        (method == Method::Contrastive).then(Contrast::default)
    }
}

impl Work {
    /// What is in effect where nothing was said.
    pub(super) fn effective_settings(&self, config: &TrainConfig) -> Vec<(String, Value)> {
        let pooling = self.args.has_linear_head(self.method);
        let pooling = pooling.then(|| ("--pooling", json!(self.args.pooling.unwrap_or(PoolingArg::Mean))));
        let of_training = [("--epochs", json!(config.epochs)), ("--learning-rate", json!(config.learning_rate))];
        let of_training = of_training.into_iter().filter(|_| self.method != Method::Frozen);
        let method = [("--method", json!(self.method.name()))];
        method.into_iter().chain(of_training).chain(pooling).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the method makes of the model, before it is packed.
    pub(super) fn learn(&self, candidate: &Candidate) -> anyhow::Result<Trained> {
        let Candidate { model, examples, .. } = candidate;
        if self.args.has_linear_head(self.method) {
            self.solve_head(candidate)?;
        }
        if self.is_probed(self.method, model) {
            let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
            let (began, probed) = (Instant::now(), probed_rows(&targets));
            let seen: Vec<Example> = probed.iter().map(|&row| examples.train[row].clone()).collect();
            let targets: Vec<&Target> = probed.into_iter().map(|row| targets[row]).collect();
            self.probe(model, &self.features_of_base(model, &seen, Read::LastLayer)?, &targets)?;
            tell(&report::probing_stage(PROBE_STRENGTH, seen.len(), began.elapsed().as_secs_f64()));
        }
        if self.method == Method::Frozen {
            return Ok(Trained {
                training: Training { epochs: Vec::new(), best: 0, stopped: None },
                records: Vec::new(),
            });
        }
        tell(&report::training_stage(&self.train_config, examples.train.len()));
        let splits = super::splits(examples);
        let mut trained = self.train((model, splits), &self.train_config, None, self.checkpoints.as_ref())?;
        tell(&report::stage("observed", &report::observation(&trained.training.epochs)));
        let is_interrupted = matches!(trained.training.stopped, Some(Error::Interrupted { .. }));
        if !is_interrupted && self.is_settled(self.method) {
            let began = Instant::now();
            match self.settle_head(model, &examples.train, || self.unless_stopped(READING)) {
                Ok(()) => {
                    let (rows, seconds) = (examples.train.len(), began.elapsed().as_secs_f64());
                    tell(&report::settling_stage(SETTLED_STRENGTH, rows, seconds));
                }
                // The head that was trained is left.
                Err(reason @ Error::Interrupted { .. }) => {
                    trained.training.stopped.get_or_insert(reason);
                }
                Err(reason) => return Err(reason.into()),
            }
        }
        Ok(trained)
    }

    /// Whether the head is solved anew when the encoder has learned. It began as a regression on what the encoder said before, and in so
    /// few steps hardly follows it: texts that are told apart by now are answered by a bias of then. The regression's loss is the usual
    /// one; where another is asked for the head stays as it was trained.
    pub(super) fn is_settled(&self, method: Method) -> bool {
        let loss = &self.train_config.loss;
        let is_usual = loss.label_smoothing == 0.0 && loss.focal_gamma == 0.0;
        method == Method::Contrastive && loss.problem_type == ProblemType::SingleLabel && is_usual
    }

    /// Makes the head of an encoder that has learned a logistic regression on what it says of the rows. An error of `check_stop`, which
    /// is called between batches and solutions, ends the work, and leaves the head as it was.
    pub(super) fn settle_head(
        &self,
        model: &SequenceClassifier,
        rows: &[Example],
        check_stop: impl Fn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let features = self.read(None, model, rows, Read::Direction, &check_stop)?;
        let targets: Vec<&Target> = rows.iter().map(|row| &row.target).collect();
        let head = self.head(&features, &targets, |task, features, targets| {
            check_stop()?;
            self.task_regression(task).solve_by_mean_weight(features, targets, SETTLED_STRENGTH)
        })?;
        model.set_last_layer(&head)
    }

    /// Makes the head a logistic regression on what the encoder says of the training rows, for each task by those that have a label
    /// of it.
    fn solve_head(&self, Candidate { model, examples, .. }: &Candidate) -> anyhow::Result<()> {
        let mut began = Instant::now();
        let features = self.features_of_base(model, &examples.train, Read::Direction)?;
        let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
        let head = self.head(&features, &targets, |task, features, targets| {
            let solved = self.regression(features, targets, task)?;
            let problem_type = self.train_config.loss.problem_type;
            let right = |answers: &OutOfFold| (answers.folds.count(), answers.accuracy(problem_type, targets));
            let (right, seconds) = (solved.out_of_fold.as_ref().map(right), began.elapsed().as_secs_f64());
            tell(&report::head_stage(task.name.as_deref(), solved.strength, right, targets.len(), seconds));
            began = Instant::now();
            Ok(solved.linear)
        })?;
        Ok(model.set_last_layer(&head)?)
    }

    /// The layers of all tasks, one behind the other, as `solve` finds each by the rows that have a label of it.
    fn head(
        &self,
        features: &Features,
        targets: &[&Target],
        mut solve: impl FnMut(&TaskLabels, &Features, &[&Target]) -> Result<LinearLayer, Error>,
    ) -> Result<LinearLayer, Error> {
        let mut head = LinearLayer { weight: Vec::new(), bias: Vec::new() };
        for task in self.sources.tasks.iter() {
            let (rows, targets) = task.targets(targets.iter().copied());
            if rows.is_empty() {
                // A fold may have all the rows that know anything of it.
                head.weight.extend(vec![0.0; task.ids.len() * features.width]);
                head.bias.extend(vec![0.0; task.ids.len()]);
                continue;
            }
            let targets: Vec<&Target> = targets.iter().collect();
            let solved = solve(task, &features.select(&rows), &targets)?;
            head.weight.extend(solved.weight);
            head.bias.extend(solved.bias);
        }
        Ok(head)
    }

    /// Whether the last layer of the head is a regression before all of the model learns (linear probing, then fine-tuning: Kumar et
    /// al., arXiv 2202.10054).
    fn is_probed(&self, method: Method, model: &SequenceClassifier) -> bool {
        let is_new = method == Method::Finetune && model.head_was_new && !self.args.has_linear_head(method);
        let is_single = self.train_config.loss.problem_type == ProblemType::SingleLabel;
        // A regression knows the labels of its rows alone.
        is_new && is_single && model.labels.len() >= PROBED_LABELS && self.sources.unlearned.is_empty()
    }

    /// Makes the last layer of the head that regression, on what it reads of rows.
    fn probe(&self, model: &SequenceClassifier, features: &Features, targets: &[&Target]) -> Result<(), Error> {
        let regression = self.task_regression(self.sources.tasks.first());
        model.set_last_layer(&regression.solve_roughly(features, targets, PROBE_STRENGTH)?)
    }

    /// What the head of an untrained model reads of rows, where a head is solved on it by the method.
    pub(super) fn head_features(
        &self,
        model: &SequenceClassifier,
        method: Method,
        rows: &[Example],
    ) -> Result<Option<Features>, Error> {
        match method {
            _ if self.args.has_linear_head(method) => self.features_of_base(model, rows, Read::Direction).map(Some),
            _ if self.is_probed(method, model) => self.features_of_base(model, rows, Read::LastLayer).map(Some),
            _ => Ok(None),
        }
    }

    /// Solves the head of a model on what [`Self::head_features`] has of these rows. Some: its answers are all there is to learn.
    pub(super) fn solve_head_of(
        &self,
        (model, method): (&SequenceClassifier, Method),
        features: &Features,
        rows: &[Example],
        seen: &[usize],
    ) -> Result<Option<LinearLayer>, Error> {
        let targets = |seen: &[usize]| seen.iter().map(|&row| &rows[row].target).collect::<Vec<&Target>>();
        if !self.args.has_linear_head(method) {
            let seen: Vec<usize> = probed_rows(&targets(seen)).into_iter().map(|row| seen[row]).collect();
            self.probe(model, &features.select(&seen), &targets(&seen))?;
            return Ok(None);
        }
        let solved = self.head(&features.select(seen), &targets(seen), |task, features, targets| {
            Ok(self.regression(features, targets, task)?.linear)
        })?;
        if method == Method::Frozen {
            return Ok(Some(solved));
        }
        model.set_last_layer(&solved)?;
        Ok(None)
    }

    /// What the encoder says of the rows, with a progress bar.
    pub(super) fn features(&self, model: &SequenceClassifier, rows: &[Example]) -> Result<Features, Error> {
        self.read(None, model, rows, Read::Direction, || self.check_stop(READING))
    }

    /// The same of a model that has not learned, which another run has too.
    fn features_of_base(&self, model: &SequenceClassifier, rows: &[Example], read: Read) -> Result<Features, Error> {
        self.read(self.args.cache.cache(), model, rows, read, || self.check_stop(READING))
    }

    fn read(
        &self,
        cache: Option<FeatureCache>,
        model: &SequenceClassifier,
        rows: &[Example],
        read: Read,
        check_stop: impl Fn() -> Result<(), Error>,
    ) -> Result<Features, Error> {
        match self.compute.is_fused() {
            true => read_features(cache, model, rows, read, check_stop),
            // Half precision is not the same twice.
            false => read_features(None, &model.on(&self.compute)?, rows, read, check_stop),
        }
    }

    /// A task's head for these rows.
    pub(super) fn regression(
        &self,
        features: &Features,
        targets: &[&Target],
        task: &TaskLabels,
    ) -> Result<CrossValidated, Error> {
        let regression = self.task_regression(task);
        regression.cross_validate(features, targets, self.args.seed, || self.check_stop("the regression"))
    }

    fn task_regression(&self, task: &TaskLabels) -> LogisticRegression {
        let class_weights = self.train_config.loss.class_weights.as_ref();
        LogisticRegression {
            problem_type: self.train_config.loss.problem_type,
            classes: task.ids.len(),
            class_weights: class_weights.map(|weights| weights[task.ids.clone()].to_vec()),
        }
    }
}

/// Up to [`PROBED_ROWS_OF_LABEL`] rows of each label, evenly spaced.
fn probed_rows(targets: &[&Target]) -> Vec<usize> {
    let mut by_label: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
    for (index, target) in targets.iter().enumerate() {
        by_label.entry(&target.ids).or_default().push(index);
    }
    let spaced = |of_label: Vec<usize>| {
        let count = of_label.len().min(PROBED_ROWS_OF_LABEL);
        (0..count).map(move |place| of_label[place * of_label.len() / count])
    };
    let mut probed: Vec<usize> = by_label.into_values().flat_map(spaced).collect();
    probed.sort_unstable();
    probed
}
