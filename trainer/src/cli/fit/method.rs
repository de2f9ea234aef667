//! `--method`: whether all of the encoder learns, or first the head alone.

use std::time::Instant;

use nimbert_trainer::{
    Error,
    contrast::Contrast,
    features::Features,
    logistic::LogisticRegression,
    loss::Target,
    model::{EncoderConfig, Pooling},
    report,
    train::{TrainConfig, Training},
};
use serde_json::{Value, json};

use super::{Args, Candidate, CurveArg, Trained, Work, progress, tell};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Method {
    Finetune,
    Frozen,
    Contrastive,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PoolingArg {
    Mean,
    First,
}

/// Passes over the rows where nothing else is said.
pub(super) const EPOCHS: usize = 5;
/// Of `--method contrastive`, at least; with few rows so many that this many texts are read over all of them.
const CONTRASTIVE_EPOCHS: usize = 2;
const CONTRASTIVE_TEXTS: usize = 1000;

impl Args {
    /// Checks that nothing is asked for that the method leaves out.
    pub(super) fn check_method(&self) -> Result<(), Error> {
        let refuse = |setting: &'static str, expected: &str, got: &str| {
            Err(Error::Setting { setting, expected: expected.to_owned(), got: got.to_owned() })
        };
        match self.method {
            Method::Finetune if self.pooling.is_some() => {
                refuse("--pooling", "--method frozen or contrastive with it", "--method finetune")
            }
            Method::Contrastive if self.batch_size == 1 => {
                refuse("--batch-size", "2 rows or more, which --method contrastive compares", "1")
            }
            // A smaller model learns by them.
            Method::Frozen if self.layers.is_some() || self.target_size.is_some() => Ok(()),
            Method::Frozen => {
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
                    ("--layer-decay", self.layer_decay != 1.0),
                    ("--warmup-ratio", self.warmup_ratio != 0.1),
                    ("--schedule", !matches!(self.schedule, CurveArg::Linear)),
                    ("--weight-decay", self.weight_decay != 0.01),
                    ("--max-grad-norm", self.max_grad_norm != 1.0),
                    ("--resume", self.resume),
                    ("--checkpoint-every", self.checkpoint_every.is_some()),
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

    /// The shape of the model that learns from `base`.
    pub(super) fn encoder_config(&self, base: &EncoderConfig) -> Result<EncoderConfig, Error> {
        match (self.method, self.pooling) {
            (Method::Finetune, _) => Ok(base.clone()),
            (_, Some(PoolingArg::First)) => base.with_linear_head(Pooling::First),
            (_, None | Some(PoolingArg::Mean)) => base.with_linear_head(Pooling::Mean),
        }
    }

    /// Passes over `rows` training rows.
    pub(super) fn epochs(&self, rows: usize) -> usize {
        self.epochs.unwrap_or(match self.method {
            Method::Contrastive => CONTRASTIVE_TEXTS.div_ceil(rows.max(1)).max(CONTRASTIVE_EPOCHS),
            _ => EPOCHS,
        })
    }

    /// What is in effect where nothing was said.
    pub(super) fn effective_settings(&self, config: &TrainConfig) -> Vec<(String, Value)> {
        let pooling = match (self.method, self.pooling) {
            (Method::Finetune, _) => None,
            (_, pooling) => Some(("--pooling", json!(pooling.unwrap_or(PoolingArg::Mean)))),
        };
        let of_training = [("--epochs", json!(config.epochs)), ("--learning-rate", json!(config.learning_rate))];
        let of_training = of_training.into_iter().filter(|_| self.method != Method::Frozen);
        of_training.chain(pooling).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(super) fn contrast(&self) -> Option<Contrast> {
        (self.method == Method::Contrastive).then(Contrast::default)
    }
}

impl Work<'_> {
    /// What the method makes of the model, before it is packed.
    pub(super) fn learn(&self, candidate: &Candidate) -> anyhow::Result<Trained> {
        let Candidate { model, examples, .. } = candidate;
        let all = model.config.layers.len();
        if self.args.method == Method::Contrastive && self.args.frozen_layers() == Some(all) {
            let expected =
                format!("less than all {all} layers, for --method contrastive: frozen is a method of its own");
            return Err(Error::Setting { setting: "--freeze-layers", expected, got: all.to_string() }.into());
        }
        if self.args.method != Method::Finetune {
            self.solve_head(candidate)?;
        }
        if self.args.method == Method::Frozen {
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
        let elsewhere = if self.compute.is_fused() { None } else { Some(model.on(&self.compute)?) };
        let bar = progress(rows, "rows")?;
        let features = Features::of(elsewhere.as_ref().unwrap_or(model), &examples.train, |count| {
            bar.inc(count as u64);
            self.check_stop("the encoder's reading of the training rows")
        })?;
        bar.finish_and_clear();
        let loss = &self.train_config.loss;
        let task = LogisticRegression {
            problem_type: loss.problem_type,
            classes: model.labels.len(),
            class_weights: loss.class_weights.clone(),
        };
        let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
        let solved = task.cross_validate(&features, &targets, self.args.seed, || self.check_stop("the regression"))?;
        model.set_linear_head(&solved.linear)?;
        tell(&report::head_stage(&solved, rows, began.elapsed().as_secs_f64()));
        Ok(())
    }
}
