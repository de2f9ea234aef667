//! `--method`: whether all of the encoder learns, or first the head alone.

use std::time::Instant;

use nimbert_trainer::{
    Error,
    contrast::Contrast,
    cross_validation::OutOfFold,
    dataloader::Example,
    features::Features,
    logistic::{CrossValidated, LogisticRegression},
    loss::Target,
    model::{EncoderConfig, Pooling, SequenceClassifier},
    report,
    train::{TrainConfig, Training},
};
use serde_json::{Value, json};

use super::{super::progress, Args, Candidate, CurveArg, Trained, Work, tell};

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
    /// average (benches/runs/2026-11-27-few.md); at least one.
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
/// The same of `--method contrastive`.
const CONTRASTIVE_EPOCHS: usize = 2;

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Finetune => "finetune",
            Self::Frozen => "frozen",
            Self::Contrastive => "contrastive",
        }
    }

    /// Whether the head is solved on what the encoder says before it learns.
    pub(super) fn has_linear_head(self) -> bool {
        self != Self::Finetune
    }
}

impl Args {
    /// The methods that come into question for a model that learns from `base`.
    pub(super) fn methods(&self, base: &EncoderConfig) -> Result<Methods, Error> {
        let asked = match self.method {
            MethodArg::Finetune => Method::Finetune,
            MethodArg::Frozen => Method::Frozen,
            MethodArg::Contrastive => Method::Contrastive,
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
            Method::Finetune if self.pooling.is_some() => {
                refuse("--pooling", "--method frozen or contrastive with it", "--method finetune")
            }
            Method::Contrastive if self.batch_size == 1 => {
                refuse("--batch-size", "2 rows or more, which --method contrastive compares", "1")
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
                    ("--resume", self.resume && is_asked_for),
                    ("--checkpoint-every", self.checkpoint_every.is_some() && is_asked_for),
                    ("--tensorboard", self.tensorboard.is_some()),
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
        match (method, self.pooling) {
            (Method::Finetune, _) => Ok(base.clone()),
            (_, Some(PoolingArg::First)) => base.with_linear_head(Pooling::First),
            (_, None | Some(PoolingArg::Mean)) => base.with_linear_head(Pooling::Mean),
        }
    }

    /// Passes over `rows` training rows.
    pub(super) fn epochs(&self, method: Method, rows: usize) -> usize {
        let least = match method {
            Method::Contrastive => CONTRASTIVE_EPOCHS,
            _ => EPOCHS,
        };
        self.epochs.unwrap_or(TEXTS.div_ceil(rows.max(1)).max(least))
    }

    pub(super) fn contrast(&self, method: Method) -> Option<Contrast> {
        (method == Method::Contrastive).then(Contrast::default)
    }
}

impl Work {
    /// What is in effect where nothing was said.
    pub(super) fn effective_settings(&self, config: &TrainConfig) -> Vec<(String, Value)> {
        let pooling = self.method.has_linear_head();
        let pooling = pooling.then(|| ("--pooling", json!(self.args.pooling.unwrap_or(PoolingArg::Mean))));
        let of_training = [("--epochs", json!(config.epochs)), ("--learning-rate", json!(config.learning_rate))];
        let of_training = of_training.into_iter().filter(|_| self.method != Method::Frozen);
        let method = [("--method", json!(self.method.name()))];
        method.into_iter().chain(of_training).chain(pooling).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the method makes of the model, before it is packed.
    pub(super) fn learn(&self, candidate: &Candidate) -> anyhow::Result<Trained> {
        let Candidate { model, examples, .. } = candidate;
        if self.method.has_linear_head() {
            self.solve_head(candidate)?;
        }
        if self.method == Method::Frozen {
            return Ok(Trained {
                training: Training { epochs: Vec::new(), best: 0, stopped: None },
                records: Vec::new(),
            });
        }
        tell(&report::training_stage(&self.train_config, examples.train.len()));
        let splits = super::splits(examples);
        let trained = self.train((model, splits), &self.train_config, None, self.checkpoints.as_ref())?;
        tell(&report::stage("observed", &report::observation(&trained.training.epochs)));
        Ok(trained)
    }

    /// Makes the head a logistic regression on what the encoder says of the training rows.
    fn solve_head(&self, Candidate { model, examples, .. }: &Candidate) -> anyhow::Result<()> {
        let (rows, began) = (examples.train.len(), Instant::now());
        let features = self.features(model, &examples.train)?;
        let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
        let solved = self.regression(&features, &targets)?;
        model.set_linear_head(&solved.linear)?;
        let problem_type = self.train_config.loss.problem_type;
        let right = |answers: &OutOfFold| (answers.folds.count(), answers.accuracy(problem_type, &targets));
        let right = solved.out_of_fold.as_ref().map(right);
        tell(&report::head_stage(solved.strength, right, rows, began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// What the encoder says of the rows, with a progress bar.
    pub(super) fn features(&self, model: &SequenceClassifier, rows: &[Example]) -> Result<Features, Error> {
        let elsewhere = if self.compute.is_fused() { None } else { Some(model.on(&self.compute)?) };
        let bar = progress(rows.len(), "rows");
        let features = Features::of(elsewhere.as_ref().unwrap_or(model), rows, |count| {
            bar.inc(count as u64);
            self.check_stop("the encoder's reading of the training rows")
        })?;
        bar.finish_and_clear();
        Ok(features)
    }

    /// The head for these rows.
    pub(super) fn regression(&self, features: &Features, targets: &[&Target]) -> Result<CrossValidated, Error> {
        let task = LogisticRegression {
            problem_type: self.train_config.loss.problem_type,
            classes: self.sources.labels.len(),
            class_weights: self.train_config.loss.class_weights.clone(),
        };
        task.cross_validate(features, targets, self.args.seed, || self.check_stop("the regression"))
    }
}
