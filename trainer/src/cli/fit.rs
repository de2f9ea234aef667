//! `nimbert-train fit`: the whole way from labelled text to a bundle.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use indicatif::{ProgressBar, ProgressStyle};
use nimbert::bundle::{BundleWriter, CONFIG, Provenance, TOKENIZER};
use nimbert_trainer::{
    Error,
    export::{Contents, Evidence, export, save_model},
    loss::{CrossEntropy, balanced_weights},
    model::{EncoderConfig, SequenceClassifier},
    optimizer::AdamWConfig,
    prepare::{DataConfig, Prepared, open_tokenizer, prepare},
    report,
    schedule::Curve,
    train::{Event, Splits, StepRecord, TrainConfig, Training, train},
};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train fit --base models/minilm --data reviews.csv --out reviews-bundle
  nimbert-train fit --base models/minilm --data train.jsonl --test-data test.jsonl --text-column body --label-column topic \\
      --epochs 3 --out topics-bundle

Ctrl-C stops at the next step and packs the best epoch so far; a second Ctrl-C ends at once.")]
pub(super) struct Args {
    /// A Hugging Face folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Labelled text: .csv or .tsv with a header, or .jsonl
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Test on this file instead of a part of --data
    #[arg(long, value_name = "FILE")]
    test_data: Option<PathBuf>,
    #[command(flatten)]
    columns: super::ColumnArgs,
    /// Share of --data that is set aside for testing
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    test_size: f64,
    /// Share of the training rows by which the best epoch is chosen; 0 keeps the last epoch
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    validation_size: f64,
    /// Passes over the training rows
    #[arg(long, default_value_t = 5)]
    epochs: usize,
    /// Rows a step
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// The highest learning rate
    #[arg(long, default_value_t = 1e-4)]
    learning_rate: f64,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    warmup_ratio: f64,
    /// How the learning rate goes on from there
    #[arg(long, value_enum, default_value_t = CurveArg::Linear)]
    schedule: CurveArg,
    /// Weights of the labels: "balanced" (every label counts alike), or LABEL=WEIGHT,… for all labels
    #[arg(long, value_name = "WEIGHTS")]
    class_weights: Option<String>,
    /// Share of each row's weight that is spread over all labels
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    label_smoothing: f32,
    /// Focal loss: rows count by (1 - p)^GAMMA, so that sure ones count less
    #[arg(long, default_value_t = 0.0, value_name = "GAMMA")]
    focal_gamma: f32,
    /// End training after so many epochs without a better validation accuracy
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u16).range(1..))]
    patience: Option<u16>,
    /// Weight decay of matrices and embeddings
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// The norm to which the gradient is clipped
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    max_grad_norm: f64,
    /// Texts are cut to this many tokens, special ones included
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_length: usize,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also keep the trained fp32 model, as a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    save_model: Option<PathBuf>,
    #[command(flatten)]
    export: super::ExportArgs,
}

impl Args {
    fn data_config(&self) -> DataConfig {
        DataConfig {
            data: self.data.clone(),
            test_data: self.test_data.clone(),
            columns: self.columns.columns(),
            test_size: self.test_size,
            validation_size: self.validation_size,
            seed: self.seed,
        }
    }

    fn train_config(&self) -> TrainConfig {
        TrainConfig {
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            warmup_ratio: self.warmup_ratio,
            curve: match self.schedule {
                CurveArg::Linear => Curve::Linear,
                CurveArg::Cosine => Curve::Cosine,
                CurveArg::Constant => Curve::Constant,
            },
            loss: CrossEntropy {
                class_weights: None,
                label_smoothing: self.label_smoothing,
                focal_gamma: self.focal_gamma,
            },
            patience: self.patience.map(usize::from),
            max_grad_norm: self.max_grad_norm,
            adamw: AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() },
            seed: self.seed,
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum CurveArg {
    Linear,
    Cosine,
    Constant,
}

/// The weights that `--class-weights` names, in the order of the labels' ids.
fn class_weights(text: &str, prepared: &Prepared) -> Result<Vec<f32>, Error> {
    if text == "balanced" {
        let labels: Vec<u32> = prepared.train.iter().map(|example| example.label).collect();
        return Ok(balanced_weights(&labels, prepared.labels.len()));
    }
    let named: Option<Vec<(&str, f32)>> = text
        .split(',')
        .map(|part| part.rsplit_once('=').and_then(|(label, weight)| Some((label, weight.trim().parse().ok()?))))
        .collect();
    let weight = |label: &String| named.as_ref()?.iter().find(|(name, _)| name == label).map(|(_, weight)| *weight);
    let weights: Option<Vec<f32>> = prepared.labels.iter().map(weight).collect();
    match weights {
        Some(weights) if named.is_some_and(|named| named.len() == weights.len()) => Ok(weights),
        _ => {
            let example = prepared.labels.iter().map(|label| format!("{label}=1")).collect::<Vec<_>>().join(",");
            let expected = format!("balanced, or a weight for each label, such as {example}");
            Err(Error::Setting { setting: "--class-weights", expected, got: text.to_owned() })
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (data_config, mut train_config, export_config) =
        (args.data_config(), args.train_config(), args.export.config()?);
    train_config.validate()?;
    if let Some(folder) = &args.save_model {
        // Never into the base or another model: that would be overwritten.
        BundleWriter::check_target(folder, false)?;
        if std::path::absolute(folder)? == std::path::absolute(&args.export.out)? {
            let (setting, expected) = ("--save-model", "another folder than --out".to_owned());
            return Err(Error::Setting { setting, expected, got: folder.display().to_string() }.into());
        }
    }
    let stop = super::stop_on_interrupt()?;

    let encoder_config = EncoderConfig::open(&args.base.join(CONFIG))?;
    let tokenizer = open_tokenizer(&args.base, args.max_length, &encoder_config)?;
    let prepared = prepare(&data_config, &tokenizer)?;
    train_config.loss.class_weights =
        args.class_weights.as_deref().map(|text| class_weights(text, &prepared)).transpose()?;
    train_config.loss.validate(prepared.labels.len())?;
    tell(&report::data_stages(&prepared, &data_config, args.max_length));
    tell(&report::example(&prepared, &tokenizer, encoder_config.pad_token_id));

    let weights = args.base.join("model.safetensors");
    let (model, load_report) = SequenceClassifier::load(&weights, encoder_config, &prepared.labels, args.seed)?;
    tell(&report::model_stages(&model, &load_report, &prepared, args.batch_size));
    tell(&report::training_stage(&train_config, prepared.train.len()));

    let (mut training, metrics) = train_with_progress(&model, &prepared, &train_config, &stop)?;
    // From here on an interrupt ends the export. One that came after the last step has not been obeyed yet.
    if stop.swap(false, Ordering::Relaxed) && training.stopped.is_none() {
        training.stopped = Some(Error::Interrupted { during: "the last evaluation".to_owned() });
    }

    let evidence = evidence(&prepared);
    let contents = Contents {
        tokenizer: args.base.join(TOKENIZER),
        max_length: args.max_length,
        provenance: Provenance {
            base_model: super::folder_name(&args.base),
            data_sha256: Some(prepared.data_sha256.clone()),
            seed: Some(args.seed),
            producer: super::producer(),
        },
        files: vec![("metrics.jsonl", metrics)],
    };
    let bundle = export(&model, &contents, &evidence, &export_config, &args.export.out, &stop);
    // Whatever became of the bundle: the model was asked for too.
    if let Some(folder) = &args.save_model {
        save_model(&model, &contents.tokenizer, folder)?;
        tell(&report::stage("model", &format!("{}: the trained model, fp32", folder.display())));
    }
    tell(&report::bundle_stages(&bundle?));
    match training.stopped {
        Some(reason) => {
            super::message(&format!("epoch {} was packed as {}", training.best, args.export.out.display()));
            Err(reason.into())
        }
        None => Ok(()),
    }
}

/// Prints a part of the report. That nobody reads it, or that the disk is full, must not cost the training.
fn tell(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Trains with a progress bar, prints the table by epoch, and returns the content of `metrics.jsonl`.
fn train_with_progress(
    model: &SequenceClassifier,
    prepared: &Prepared,
    config: &TrainConfig,
    stop: &AtomicBool,
) -> anyhow::Result<(Training, String)> {
    let rows = prepared.train.len();
    // indicatif draws on standard error, and only if that is a terminal.
    let bar = ProgressBar::new((config.epochs * rows) as u64);
    let template = "{bar:30} {pos}/{len} rows, {per_sec}, {eta} left, {msg}";
    bar.set_style(ProgressStyle::with_template(template)?.with_key("per_sec", rows_per_second));
    let (mut steps, mut metrics): (Vec<StepRecord>, String) = (Vec::new(), String::new());
    let splits = Splits { train: &prepared.train, validation: &prepared.validation, test: &prepared.test };
    tell(&report::epoch_header());
    let result = train(model, splits, config, stop, |event| match event {
        Event::Step(step) => {
            bar.set_message(format!("loss {:.3}", step.loss));
            let step_of_epoch = step.step - (step.epoch - 1) * rows.div_ceil(config.batch_size);
            bar.set_position(((step.epoch - 1) * rows + (step_of_epoch * config.batch_size).min(rows)) as u64);
            metrics += &json_line(step);
            steps.push(step.clone());
        }
        Event::Epoch(epoch) => {
            metrics += &json_line(epoch);
            bar.set_position((epoch.epoch * rows) as u64);
            bar.suspend(|| tell(&report::epoch_row(epoch)));
        }
    });
    bar.finish_and_clear();
    let training = result?;
    tell(&report::loss_chart(&steps));
    tell(&report::stage("observed", &report::observation(&training.epochs)));
    if training.best != training.epochs.len() {
        let why = "the highest validation accuracy";
        tell(&report::stage("kept", &format!("the weights of epoch {}: {why}", training.best)));
    }
    Ok((training, metrics))
}

fn json_line(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).expect("a record has only string keys and finite numbers") + "\n"
}

fn rows_per_second(state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write) {
    // A failure to draw is indicatif's to handle.
    let _ = write!(out, "{:.1} rows/s", state.per_sec());
}

/// The rows by which the graph is judged: validation, else test, else training.
fn evidence(prepared: &Prepared) -> Evidence<'_> {
    let (split, examples) = match (&prepared.validation, &prepared.test) {
        (validation, _) if !validation.is_empty() => ("validation", validation),
        (_, test) if !test.is_empty() => ("test", test),
        _ => ("train", &prepared.train),
    };
    Evidence {
        split,
        encodings: examples.iter().map(|example| &example.encoding).collect(),
        labels: Some(examples.iter().map(|example| example.label).collect()),
    }
}
