//! `nimbert-train fit`: the whole way from labelled text to a bundle.

mod folds;
mod method;
mod rehearsal;
mod smaller;
pub(super) mod tune;
mod unknown;

use std::{
    borrow::Cow,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::DType;
use indicatif::{ProgressBar, ProgressStyle};
use nimbert::{
    Prediction, Tokenizer, TruncationSide, behind_links,
    bundle::{BundleWriter, CONFIG, Provenance, is_task_name},
    prediction::{Answer, escaped_lines},
    summary::{Reference, Summary, characters},
};
use nimbert_trainer::{
    Error,
    calibrate::{Kept, kept},
    checkpoint::CheckpointConfig,
    compress::{self, Compressed, trim_vocabulary},
    compute::Compute,
    cross_validation::OutOfFold,
    dataset::Columns,
    export::{Contents, Evidence, ExportConfig, ExportData, Judged, SAVED_MODEL, judge, pack, save_model},
    html,
    loss::{Loss, Target, balanced_weights},
    mahalanobis::Mahalanobis,
    model::{EncoderConfig, HeadKind, LoadReport, ModelFolder, SequenceClassifier},
    onnx::Storage,
    optimizer::AdamWConfig,
    page::{Run, page},
    prepare::{DataConfig, Examples, Source, Sources, VALIDATION_SIZE, read, tokenize},
    record::{Record, StepRecord},
    rehearsal::{GoingOn, Learned},
    report,
    schedule::Curve,
    scratch::{Scratch, remove_if_there},
    tasks::TaskLabels,
    tensorboard,
    train::{Job, Splits, TrainConfig, Training, train},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use folds::{Chosen, FEW_ROWS_A_LABEL};
use method::{Method, MethodArg, Methods, PoolingArg};

#[derive(Clone, clap::Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(after_help = "\
Examples:
  nimbert-train fit --base models/minilm --data reviews.csv --out reviews-bundle
  nimbert-train fit --base models/minilm --data train.jsonl --test-data test.jsonl \\
      --text-column body --label-column topic --epochs 3 --out topics-bundle
  nimbert-train fit --base sentence-transformers/all-MiniLM-L6-v2 --data tags.parquet \\
      --multi-label --out tags-bundle
  nimbert-train fit --base models/minilm --data articles.csv --long-text stride \\
      --out articles-bundle
  nimbert-train fit --base models/minilm --data mail.csv --task topic=topic --task tone=tone_column \\
      --out mail-bundle
  nimbert-train fit --base models/minilm --data few.csv --method contrastive --out few-bundle
  nimbert-train fit --base models/minilm --data reviews.csv --out reviews-bundle --save-model reviews-model
  nimbert-train fit --from reviews-model --data new.csv --rehearsal reviews.csv --out further-bundle
  nimbert-train fit --base models/minilm --data reviews.csv --student static --out tiny-bundle
  nimbert-train fit --base models/minilm --data reviews.csv --target-size 10MB --out small-bundle

Ctrl-C stops at the next step and packs the best epoch so far, of the model with all its layers where --layers, --student \
or --target-size ask for a smaller one, whose own training packs nothing until it is done; a second Ctrl-C ends at once. \
Either way, and after a crash, --resume goes on from the last checkpoint and ends with the same weights as a run that was \
not stopped; methods are compared anew, and folds trained anew, which leave no checkpoint.")]
pub(super) struct Args {
    /// A Hugging Face folder (config.json, model.safetensors, tokenizer.json), or the name of a model on the hub
    #[arg(long, value_name = "DIR|NAME", required_unless_present = "from")]
    base: Option<String>,
    /// Go on with the trained model that --save-model kept, instead of a base: with further rows of its labels, or of new ones,
    /// which come behind them. It learns by finetune where --method says nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["base", "revision", "tasks", "cross_validate"])]
    #[serde(serialize_with = "lossy")]
    from: Option<PathBuf>,
    /// The rows that --from has learned from before: some of them are learned from again, so that what it knows is not forgotten,
    /// and those that it has not seen say whether it is
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "from", conflicts_with = "base")]
    #[serde(serialize_with = "lossy_list")]
    rehearsal: Vec<PathBuf>,
    /// How many of them are learned from again [default: 4 times the new ones, or 16 times the labels if that is more]
    #[arg(long, value_name = "ROWS", requires = "rehearsal", conflicts_with = "base", value_parser = clap::value_parser!(u32).range(1..))]
    rehearsal_rows: Option<u32>,
    /// Branch, tag or commit of a model on the hub
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Labelled text: .csv or .tsv with a header, .jsonl or .json, or .parquet; also as .gz or .zst; several files are read
    /// one after the other
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    #[serde(serialize_with = "lossy_list")]
    data: Vec<PathBuf>,
    /// Choose the best epoch by these files instead of a part of --data
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(serialize_with = "lossy_list")]
    validation_data: Vec<PathBuf>,
    /// Test on these files instead of a part of --data
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(serialize_with = "lossy_list")]
    test_data: Vec<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    columns: super::ColumnArgs,
    /// The column with the labels of a task, and what it is called, unless that is the same. Given twice or more, one model answers all
    /// of them in one pass; a row may lack labels of some. Labels are called NAME=LABEL then, in reports and for --class-weights.
    /// --method finetune begins as frozen does
    #[arg(long = "task", value_name = "NAME[=COLUMN]", conflicts_with_all = ["label_column", "label_columns", "multi_label"])]
    #[serde(rename = "task", skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<super::TaskArg>,
    /// Share of --data that is set aside for testing
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    test_size: f64,
    /// Share of the training rows by which the best epoch is chosen; 0 keeps the last epoch [default: 0.1; 0 where the rows
    /// are cross-validated]
    #[arg(long, value_name = "SHARE")]
    validation_size: Option<f64>,
    /// Also train K models, each without one of K parts of the training rows: the mean and the deviation of every figure, and
    /// in OUT.out-of-fold.jsonl what each row is answered by the model that has not seen it. OUT.doubts.csv has the rows as `check
    /// --deep --doubts` does, the labels that these models believe least first; of several tasks each label has a line. Where
    /// there are no validation rows, scores are calibrated by these answers
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(2..))]
    cross_validate: Option<u16>,
    /// How to learn. finetune: the encoder learns with its head. frozen: the encoder stays as it is, and the head is logistic
    /// regression on what it says of each text. contrastive, for few labelled rows: begins as frozen does, then the encoder
    /// learns, and what it says of texts of one label is drawn together; then, unless rows have any number of labels or the loss
    /// is another one, the head is solved anew. Of these two the model that --save-model keeps is for nimbert: transformers has
    /// no class for its head. auto: with few rows a label what cross-validation finds best, which is printed; finetune with more
    #[arg(long, value_enum, default_value_t = MethodArg::Auto)]
    method: MethodArg,
    /// What the head of --method frozen or contrastive reads, and with several tasks of finetune: the mean of a text's tokens, or its first one [default: mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingArg>,
    /// Passes over the training rows [default: as many as read 1000 texts, and at least 5; of --method contrastive 640, and
    /// at least 2]
    #[arg(long)]
    epochs: Option<usize>,
    /// Rows a batch
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Batches whose gradients are summed for one step
    #[arg(long, default_value_t = 1, value_name = "BATCHES")]
    gradient_accumulation: usize,
    /// The highest learning rate [default: 0.0001]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// The learning rate of each layer is this much of the one above it [default: 1]
    #[arg(long, value_name = "FACTOR")]
    layer_decay: Option<f64>,
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
    /// End training after so many epochs without a better validation score
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u16).range(1..))]
    patience: Option<u16>,
    /// Weight decay of matrices and embeddings
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// The norm to which the gradient is clipped
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    max_grad_norm: f64,
    /// Leave the embeddings as they are
    #[arg(long)]
    freeze_embeddings: bool,
    /// Leave the embeddings and the first N layers as they are
    #[arg(long, value_name = "N")]
    freeze_layers: Option<usize>,
    /// Texts are cut to this many tokens, special ones included
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_length: usize,
    /// What becomes of longer texts: cut, or read in windows that overlap, whose logits are averaged
    #[arg(long, value_enum, default_value_t = LongText::Truncate)]
    long_text: LongText,
    /// Tokens that two windows share [default: a quarter of --max-length]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// The most windows that a text may have: training takes memory for all of a text's windows at once
    #[arg(long, default_value_t = 64, value_name = "WINDOWS", value_parser = clap::value_parser!(u16).range(1..))]
    max_windows: u16,
    /// Keep this many tokens of the vocabulary: those of the data, then the base's most frequent
    #[arg(long, value_name = "TOKENS")]
    trim_vocab: Option<usize>,
    /// Keep N layers: a model of that many learns from the trained one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    #[serde(skip)]
    layers: Option<u16>,
    /// Make a model of another kind that learns from the trained one. static: a table of vectors for tokens, without
    /// attention; some MB with a vocabulary of tens of thousands, and many times as fast. It learns by settings of its own:
    /// rate, epochs, batches, class weights, patience and what is frozen are the trained model's
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["layers", "target_size"])]
    #[serde(skip)]
    student: Option<StudentArg>,
    /// Try smaller models (fewer words, fewer layers, none) and pack the most accurate whose bundle is not larger, such as
    /// 10MB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["layers", "trim_vocab"])]
    #[serde(skip)]
    target_size: Option<String>,
    /// Where training computes: cpu, cuda, cuda:N or metal; the latter need a build with that cargo feature
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Number format of the activations on CUDA or Metal; weights and gradients stay fp32. On a CPU with avx512_bf16 (under Linux by
    /// AMX, where it has that): bf16 for products with weights in the steps of training, which is faster; what is measured or read besides is in fp32
    #[arg(long, value_enum, default_value_t = ComputeDtype::Fp32)]
    compute_dtype: ComputeDtype,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Abstain where less than this share of the answers would be right, by the validation rows or by cross-validation
    #[arg(long, value_name = "SHARE")]
    #[serde(skip)]
    abstain_precision: Option<f64>,
    /// Answer with a set of labels, besides the best one, that has the right one in this share of cases, such as 0.95: by
    /// validation rows or cross-validation (conformal prediction)
    #[arg(long, value_name = "SHARE")]
    #[serde(skip)]
    coverage: Option<f64>,
    /// Have that share of the cases of each label
    #[arg(long, requires = "coverage")]
    #[serde(skip)]
    coverage_by_label: bool,
    /// Say of a text that is like nothing in training that it is unknown: by its distance from the training rows in what the
    /// encoder says of them, above that which this share of the validation rows, or of those left out by cross-validation, has,
    /// such as 0.02
    #[arg(long, value_name = "SHARE")]
    #[serde(skip)]
    unknown_rate: Option<f64>,
    /// Go on from the checkpoint of a run that was stopped, if there is one; its files are replaced then, and no others
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// Leave a checkpoint after so many steps, besides after each epoch
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(skip)]
    checkpoint_every: Option<u32>,
    /// Leave no checkpoint
    #[arg(long, conflicts_with_all = ["resume", "checkpoint_every"])]
    #[serde(skip)]
    no_checkpoint: bool,
    #[command(flatten)]
    #[serde(skip)]
    cache: super::CacheArgs,
    /// Also keep the trained fp32 model, as a Hugging Face folder, which must be absent or empty, or with --overwrite another such
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    save_model: Option<PathBuf>,
    /// Where the report goes [default: beside the bundle, OUT.report.html]; it quotes texts, and so is not in the bundle
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    report: Option<PathBuf>,
    /// Also write a TensorBoard event file into this folder, when the run has come to its end
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    export: super::ExportArgs,
}

/// A path as it is shown: it need not be UTF-8.
fn lossy<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

fn lossy_list<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

#[derive(Clone, Copy, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CurveArg {
    Linear,
    Cosine,
    Constant,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum StudentArg {
    Static,
}

#[derive(Clone, Copy, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum ComputeDtype {
    Fp32,
    Bf16,
    Fp16,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum LongText {
    Truncate,
    Stride,
}

impl Args {
    /// What is learned from: a folder, or the name of a model on the hub.
    fn base(&self) -> Cow<'_, str> {
        self.base_path().to_string_lossy()
    }

    /// The same, of a folder.
    fn base_path(&self) -> &Path {
        let base = self.base.as_deref().map(Path::new);
        base.or(self.from.as_deref()).expect("clap asks for one")
    }

    fn data_config(&self, methods: &Methods, going_on: Option<GoingOn>) -> DataConfig {
        // Whoever asks for patience, or for a smaller model, whose answers nobody cross-validates, needs validation rows.
        let needs_validation = self.patience.is_some() || self.is_smaller();
        DataConfig {
            data: self.data.clone(),
            validation_data: self.validation_data.clone(),
            test_data: self.test_data.clone(),
            columns: Columns {
                tasks: self.tasks.iter().map(|task| task.0.clone()).collect(),
                ..self.columns.columns()
            },
            going_on,
            test_size: self.test_size,
            validation_size: self.validation_size.or(needs_validation.then_some(VALIDATION_SIZE)),
            few_rows_a_label: match self.cross_validate {
                Some(_) => usize::MAX,
                None if methods.usable.len() > 1 => FEW_ROWS_A_LABEL,
                None => 0,
            },
            seed: self.seed,
        }
    }

    /// How the model learns from `rows` rows.
    fn train_config(&self, method: Method, rows: usize) -> TrainConfig {
        TrainConfig {
            epochs: self.epochs(method, rows),
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            learning_rate: self.learning_rate.unwrap_or(1e-4),
            layer_decay: self.layer_decay.unwrap_or(1.0),
            warmup_ratio: self.warmup_ratio,
            curve: match self.schedule {
                CurveArg::Linear => Curve::Linear,
                CurveArg::Cosine => Curve::Cosine,
                CurveArg::Constant => Curve::Constant,
            },
            loss: Loss {
                problem_type: self.columns.problem_type(),
                class_weights: None,
                label_smoothing: self.label_smoothing,
                focal_gamma: self.focal_gamma,
            },
            contrast: self.contrast(method),
            patience: self.patience.map(usize::from),
            max_grad_norm: self.max_grad_norm,
            adamw: AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() },
            seed: self.seed,
        }
    }

    fn stride(&self) -> Result<Option<usize>, Error> {
        let is_stride = self.long_text == LongText::Stride;
        let refuse = |setting, expected: &str, got: &str| {
            Err(Error::Setting { setting, expected: expected.to_owned(), got: got.to_owned() })
        };
        match (is_stride, self.stride, self.columns.has_pairs()) {
            (true, _, true) => refuse("--long-text", "truncate for pairs of texts", "stride"),
            (false, Some(_), _) => refuse("--stride", "--long-text stride with it", "--long-text truncate"),
            (true, stride, false) => Ok(Some(stride.unwrap_or(self.max_length / 4))),
            (false, None, _) => Ok(None),
        }
    }

    /// Several tasks are named differently, and ask for nothing that is of one.
    fn check_tasks(&self) -> Result<(), Error> {
        let refuse =
            |setting, expected: &str, got: String| Err(Error::Setting { setting, expected: expected.to_owned(), got });
        let names: Vec<&str> = self.tasks.iter().map(|task| task.0.name.as_str()).collect();
        match (names.as_slice(), super::columns::repeated(&names)) {
            ([], _) => return Ok(()),
            ([name], _) => {
                return refuse("--task", "two tasks or more; of one, --label-column is its column", (*name).to_owned());
            }
            (_, Some(name)) => return refuse("--task", "tasks of different names", format!("{name} twice")),
            _ => {}
        }
        if let Some(name) = names.iter().find(|name| !is_task_name(name)) {
            let expected = "a name of one word by which no column of results is called: --task NAME=COLUMN";
            return refuse("--task", expected, format!("{name:?}"));
        }
        if self.save_model.is_some() {
            // A folder of transformers has one task.
            return refuse("--save-model", "one task", format!("the tasks {}", names.join(", ")));
        }
        Ok(())
    }

    /// Whether products are to be rounded in training on the CPU.
    fn rounds_on_cpu(&self) -> bool {
        self.device == "cpu" && !matches!(self.compute_dtype, ComputeDtype::Fp32)
    }

    fn compute(&self) -> Result<Compute, Error> {
        let dtype = match self.compute_dtype {
            ComputeDtype::Fp32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
            ComputeDtype::Fp16 => DType::F16,
        };
        Compute::open(&self.device, dtype)
    }

    /// How many layers are frozen; none: not even the embeddings.
    fn frozen_layers(&self) -> Option<usize> {
        self.freeze_layers.or(self.freeze_embeddings.then_some(0))
    }

    /// Whether a smaller model than the trained one is to be packed.
    fn is_smaller(&self) -> bool {
        self.target_size.is_some() || self.layers.is_some() || self.student.is_some()
    }

    /// Bytes that a bundle may have.
    fn target_size(&self) -> Result<Option<usize>, Error> {
        let size = |text: &String| {
            let bytes = nimbert::parse_size(text).and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| Error::setting("--target-size", "a size such as 10MB", text))
        };
        self.target_size.as_ref().map(size).transpose()
    }

    /// Checkpoints of smaller models that learned from the trained one, in this run or in one that was stopped.
    fn student_checkpoints(&self) -> Vec<PathBuf> {
        let main = self.checkpoint_path();
        let folder = main.parent().unwrap_or(Path::new("."));
        let own = main.file_name().and_then(|name| name.to_str()?.strip_suffix("checkpoint")).unwrap_or_default();
        let numbers = |name: &str| -> Option<[usize; 2]> {
            let (layers, tokens) = name.strip_prefix(own)?.strip_suffix(STUDENT_CHECKPOINT)?.split_once("-layers-")?;
            Some([layers.parse().ok()?, tokens.parse().ok()?])
        };
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_str().and_then(numbers).is_some()).map(|name| folder.join(name)).collect()
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.beside_bundle("checkpoint")
    }

    fn report_path(&self) -> PathBuf {
        self.report.clone().unwrap_or_else(|| self.beside_bundle("report.html"))
    }

    fn metrics_path(&self) -> PathBuf {
        self.beside_bundle("metrics.jsonl")
    }

    fn out_of_fold_path(&self) -> PathBuf {
        self.beside_bundle("out-of-fold.jsonl")
    }

    fn doubts_path(&self) -> PathBuf {
        self.beside_bundle("doubts.csv")
    }

    fn beside_bundle(&self, extension: &str) -> PathBuf {
        let absolute = std::path::absolute(&self.export.out).unwrap_or_else(|_| self.export.out.clone());
        absolute.with_added_extension(extension)
    }

    /// Checks that report and metrics can be written, and overwrite nothing that is not to be replaced.
    fn check_reports(&self) -> Result<(), Error> {
        let files = [&self.data, &self.rehearsal, &self.validation_data, &self.test_data];
        let inputs: Vec<&PathBuf> = files.into_iter().flatten().collect();
        if let Some(report) = &self.report {
            super::check_output(report, "for --report", &inputs, Some(self.base_path()))?;
            self.check_outside("--report", report)?;
        }
        if let Some(folder) = &self.tensorboard {
            self.check_outside("--tensorboard", folder)?;
            if folder.is_file() {
                return Err(Error::setting("--tensorboard", "a folder", folder.display()));
            }
            tensorboard::check(folder)?;
        }
        let of_run = [self.report_path(), self.metrics_path()].map(|path| (path, self.goes_on()));
        // A run that was stopped before its first checkpoint has left them too; what was there is kept beside.
        let of_folds = [self.out_of_fold_path(), self.doubts_path()].map(|path| (path, self.resume));
        let of_folds = of_folds.into_iter().filter(|_| self.cross_validate.is_some());
        of_run.into_iter().chain(of_folds).try_for_each(|(path, replaces)| {
            // Such as the rows with doubtful labels of a run before, corrected.
            super::check_not_read(&path, &inputs, Some(self.base_path()))?;
            if replaces || self.export.overwrite { Ok(()) } else { super::check_absent(&path) }
        })
    }

    /// Checks that what is written where was asked is written to by nothing else, be it what the run, or a tuning, writes beside its bundle.
    fn check_places(&self) -> Result<(), Error> {
        let mut own = ["tune", "tuning.html"].map(|extension| self.beside_bundle(extension)).to_vec();
        own.extend([self.metrics_path(), self.out_of_fold_path(), self.doubts_path(), self.checkpoint_path()]);
        own.extend(self.report.is_none().then(|| self.report_path()));
        // With whether nothing else may lie in it.
        let mut taken: Vec<(PathBuf, bool)> = own.iter().map(|path| (super::place(path), true)).collect();
        let asked = [
            ("--report", &self.report, true),
            ("--tensorboard", &self.tensorboard, false),
            ("--save-model", &self.save_model, true),
        ];
        for (setting, path, is_alone) in asked {
            let Some(path) = path else { continue };
            let place = super::place(path);
            let meets = |(other, other_is_alone): &(PathBuf, bool)| {
                place == *other || *other_is_alone && place.starts_with(other) || is_alone && other.starts_with(&place)
            };
            if taken.iter().any(meets) {
                let expected = "a place that nothing else of the run is written to";
                return Err(Error::setting(setting, expected, path.display()));
            }
            taken.push((place, is_alone));
        }
        Ok(())
    }

    /// Whether there is a run to go on from, whose files may be replaced; where there is none, they are another run's.
    fn goes_on(&self) -> bool {
        self.resume && self.checkpoint_path().exists()
    }

    /// A bundle has its own files alone, and appears as a whole.
    fn check_outside(&self, setting: &'static str, path: &Path) -> Result<(), Error> {
        match super::place(path).starts_with(super::place(&self.export.out)) {
            true => Err(Error::setting(setting, "a place outside of --out", path.display())),
            false => Ok(()),
        }
    }

    /// What must be the same for a run to be resumed.
    fn settings(&self) -> Map<String, Value> {
        let Ok(Value::Object(settings)) = serde_json::to_value(self) else { unreachable!("a struct is an object") };
        settings.into_iter().map(|(name, value)| (format!("--{name}"), value)).collect()
    }

    /// What matters only behind the trained model, but for the rows that it leaves to learn from: a run that is resumed may ask for
    /// something else.
    fn settings_behind_training(&self) -> [(String, Value); 7] {
        let student = self.student.map(|StudentArg::Static| "static");
        let settings = [
            ("--layers", json!(self.layers)),
            ("--student", json!(student)),
            ("--target-size", json!(self.target_size)),
            ("--abstain-precision", json!(self.abstain_precision)),
            ("--coverage", json!(self.coverage)),
            ("--coverage-by-label", json!(self.coverage_by_label.then_some(true))),
            ("--unknown-rate", json!(self.unknown_rate)),
        ];
        settings.map(|(name, value)| (name.to_owned(), value))
    }
}

fn splits(examples: &Examples) -> Splits<'_> {
    Splits { train: &examples.train, validation: &examples.validation, test: &examples.test }
}

/// How the file of a smaller model's checkpoint ends.
const STUDENT_CHECKPOINT: &str = "-tokens.checkpoint";

/// What `fit` works with from beginning to end.
struct Work {
    args: Args,
    sources: Sources,
    /// What is gone on from; none: a model begins.
    going_on: Option<GoingOn>,
    /// What the base says of rows that it has learned from, where a model begins with it.
    of_base: Option<Learned>,
    method: Method,
    train_config: TrainConfig,
    compute: Compute,
    export_config: ExportConfig,
    /// How many points of accuracy, and what percentage of labels, packed integers may cost.
    packed_bounds: [f64; 2],
    /// Whether `tune` has chosen the settings.
    is_tuned: bool,
    stride: Option<usize>,
    truncation_side: TruncationSide,
    /// Where tokenizers of trimmed models lie.
    scratch: Scratch,
    stop: Arc<AtomicBool>,
    /// Where the run leaves its state; none: nowhere.
    checkpoints: Option<CheckpointConfig>,
}

/// A model, the texts as it reads them, and what has been measured of it.
struct Candidate {
    model: SequenceClassifier,
    load_report: LoadReport,
    tokenizer: PathBuf,
    examples: Examples,
    /// What models like it answer to its training rows without having seen them, if that was asked.
    out_of_fold: Option<OutOfFold>,
}

/// What training has left.
struct Trained {
    training: Training,
    records: Vec<Record>,
}

/// Everything that is read before something is learned.
struct Prepared {
    work: Work,
    folder: ModelFolder,
    methods: Methods,
    examples: Examples,
    /// What the check of the data has found.
    warnings: Vec<String>,
}

/// What follows from the arguments and who gives them.
#[derive(Clone)]
struct Settings {
    stride: Option<usize>,
    export_config: ExportConfig,
    packed_bounds: [f64; 2],
    compute: Compute,
    target_size: Option<usize>,
    /// Whether `tune` has chosen what is given.
    is_tuned: bool,
}

pub(super) fn run(args: &Args, given: &super::Given) -> anyhow::Result<()> {
    let settings = settings(args, given)?;
    // Before interrupts are caught: one during a download ends it.
    let base = resolve(args)?;
    fit(args, settings, &base, &super::stop_on_interrupt()?)
}

/// The folder of the base model, downloaded if it is a name on the hub.
fn resolve(args: &Args) -> Result<PathBuf, Error> {
    if let Some(folder) = &args.from {
        return Ok(folder.clone());
    }
    super::base_folder(&args.base(), args.revision.as_deref())
}

/// Whatever is wrong with a setting is told before anything is read.
fn settings(args: &Args, given: &super::Given) -> anyhow::Result<Settings> {
    args.check_tasks()?;
    args.check_from()?;
    given.refuse(&["--validation-size"], args.validation_data.is_empty(), "no --validation-data")?;
    given.refuse(&["--test-size"], args.test_data.is_empty(), "no --test-data")?;
    given.refuse(&["--max-windows"], args.long_text == LongText::Stride, "--long-text stride with it")?;
    args.columns.check_separator(given)?;
    let (stride, export_config) = (args.stride()?, export_config(args, given)?);
    args.train_config(Method::Finetune, 0).validate()?;
    let compute = args.compute()?;
    let target_size = args.target_size()?;
    if target_size.is_some()
        && let Some(other) =
            export_config.variants.iter().find(|kind| kind.execution_provider() != "cpu" || !kind.is_quantized())
    {
        let expected = "int8 graphs for the CPU, whose integers are packed until a bundle is small enough";
        return Err(Error::setting("--target-size", expected, other).into());
    }
    let of_packed = |option: &str, bound: f64| if given.has(option) { bound } else { 100.0 };
    let packed_bounds = [
        of_packed("--max-accuracy-drop", export_config.max_accuracy_drop),
        of_packed("--max-label-changes", export_config.max_label_changes),
    ];
    args.check_places()?;
    check_save_model(args)?;
    args.check_reports()?;
    Ok(Settings { stride, export_config, packed_bounds, compute, target_size, is_tuned: false })
}

/// Reads base and rows, and says what they are.
fn prepare(args: &Args, settings: Settings, base: &Path, stop: &Arc<AtomicBool>) -> anyhow::Result<Prepared> {
    let Settings { stride, export_config, packed_bounds, compute, is_tuned, .. } = settings;
    let folder = ModelFolder::open(base)?;
    let methods = args.methods(&folder.config)?;
    let going_on = args.going_on(&folder)?;
    let data_config = args.data_config(&methods, going_on.clone());
    let tokenizer = folder.open_tokenizer(args.max_length, stride)?;
    let mut sources = read(&data_config)?;
    // What is gone on from has been asked by then.
    let of_base = if going_on.is_none() { Learned::open(base)? } else { None };
    sources.notes.extend(of_base.as_ref().and_then(|learned| learned.note(&sources)));
    let train_config = args.train_config(methods.usable[0], sources.train.len());
    let mut work = Work {
        args: args.clone(),
        sources,
        going_on,
        of_base,
        method: methods.usable[0],
        train_config,
        compute,
        export_config,
        packed_bounds,
        is_tuned,
        stride,
        truncation_side: folder.truncation_side,
        scratch: Scratch::new()?,
        stop: Arc::clone(stop),
        checkpoints: None,
    };
    work.train_config.loss.class_weights =
        args.class_weights.as_deref().map(|text| class_weights(text, &work)).transpose()?;
    work.sources.tasks.validate(&work.train_config.loss)?;
    work.check_forgotten()?;
    let examples = tokenize(&work.sources, &tokenizer, &folder.config, args.max_windows.into())?;
    tell(&report::data_stages(&work.sources, &examples, &data_config, args.max_length));
    let cut_at = stride.is_none().then_some(args.max_length);
    let mut warnings = super::check::warnings(&work.sources, &tokenizer, cut_at, &args.columns)?;
    warnings.iter().for_each(|warning| tell(&report::stage("check", warning)));
    args.columns.counting().iter().for_each(|line| tell(&report::stage("figures", line)));
    // In the report they stand with the warnings: what figures are of, and what was left out.
    warnings.extend(args.columns.counting().into_iter().chain(work.sources.notes.clone()));
    tell(&report::example(&work.sources, &examples, &tokenizer, folder.config.pad_token_id));
    Ok(Prepared { work, folder, methods, examples, warnings })
}

/// From the rows to the bundle.
fn fit(args: &Args, settings: Settings, base: &Path, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let target_size = settings.target_size;
    let Prepared { mut work, folder, methods, examples, mut warnings } = prepare(args, settings, base, stop)?;
    let (model, load_report) = work.load(&folder, work.method)?;
    let tokenizer = folder.tokenizer.clone();
    let mut candidate = Candidate { model, load_report, tokenizer, examples, out_of_fold: None };
    // Methods are compared for minutes: what would end the run behind that is looked at before.
    let has_validation = !candidate.examples.validation.is_empty();
    work.check_smaller(&candidate.model, &candidate.tokenizer, has_validation, target_size)?;
    work.check_checkpoint()?;
    if args.patience.is_some() && candidate.examples.validation.is_empty() {
        let (setting, expected) = ("--patience", "validation rows to judge by (--validation-size)".to_owned());
        return Err(Error::Setting { setting, expected, got: "none".to_owned() }.into());
    }
    work.check_rows(Some(candidate.examples.train.iter().map(|example| &example.target).collect()))?;
    let Chosen { method, answers, methods, figures } = work.choose(&folder, &methods, &candidate.examples)?;
    if args.has_linear_head(method) != args.has_linear_head(work.method) {
        (candidate.model, candidate.load_report) = work.load(&folder, method)?;
    }
    if figures.is_some() && (methods.is_some() || work.is_tuned) {
        let what = if work.is_tuned { "settings were" } else { "the method was" };
        warnings.push(format!("{what} chosen by the same folds that the figures of cross-validation are of"));
    }
    let before = work.before(&folder, &candidate.examples)?;
    candidate.out_of_fold = answers;
    let answerable = candidate.out_of_fold.as_ref().map(|answers| {
        let rows = &candidate.examples.train;
        answers.answerable_rows().map(|row| &rows[row].target).collect()
    });
    work.check_rows(answerable)?;
    work.method = method;
    work.train_config = work.config(method, candidate.examples.train.len());
    let doubts = candidate.out_of_fold.as_ref().map(|answers| work.doubts(answers));
    if let (Some(answers), Some(doubts), Some(_)) = (&candidate.out_of_fold, &doubts, args.cross_validate) {
        // Whatever becomes of the bundle.
        for (path, content) in
            [(args.out_of_fold_path(), work.out_of_fold_lines(answers)), (args.doubts_path(), doubts.csv())]
        {
            if !args.export.overwrite {
                keep_corrected(&path, &content)?;
            }
            write(&path, &content)?;
        }
    }
    if let Some(doubts) = &doubts {
        let (count, all) = (doubts.count(), doubts.len());
        let what = if work.sources.tasks.is_single() { "rows with labels" } else { "labels" };
        let doubtful = format!("{count} of {all} {what} that may be wrong, by the models that have not seen them");
        tell(&report::stage("doubts", &doubtful));
    }
    let (doubtful, cut) = doubts.map(|doubts| doubts.shown()).unwrap_or_default();
    warnings.extend(cut);
    if let Some(size) = args.trim_vocab {
        let before = candidate.model.config.vocab_size;
        candidate = work.trimmed(&candidate, size)?;
        let after = candidate.model.config.vocab_size;
        let why = match after.cmp(&size) {
            std::cmp::Ordering::Less => ": there are no more",
            std::cmp::Ordering::Equal => "",
            std::cmp::Ordering::Greater => ": special tokens and single characters stay",
        };
        tell(&report::stage("vocabulary", &format!("{before} → {after} tokens{why}")));
        if candidate.out_of_fold.is_some() {
            let also = if work.is_by_folds(&candidate.examples) { ", also of scores and thresholds," } else { "" };
            let what = format!("what folds tell{also} is of models with the whole vocabulary");
            tell(&report::stage("check", &what));
            warnings.push(what);
        }
    }
    if let Some(layers) = args.frozen_layers() {
        candidate.model.freeze(layers)?;
    }
    tell(&report::model_stages(&candidate.model, &candidate.load_report, &candidate.examples, args.batch_size));
    work.checkpoints = work.main_checkpoints(&folder)?;
    let Trained { mut training, records } = work.learn(&candidate)?;
    // From here on an interrupt ends the export. One that came after the last step has not been obeyed yet.
    // Where nothing was trained, the export is what it ends.
    let is_trained = !training.epochs.is_empty();
    if is_trained && stop.swap(false, Ordering::Relaxed) && training.stopped.is_none() {
        training.stopped = Some(Error::Interrupted { during: "the last evaluation".to_owned() });
    }

    let shape = |of: &Candidate| (of.model.config.layers.len(), of.model.config.vocab_size);
    let trained_shape = shape(&candidate);
    // A run that was stopped packs what it has; it is made smaller when it has come to its end.
    let (candidate, judged, ladder) = match (&training.stopped, target_size, args.layers, args.student) {
        (None, Some(bytes), ..) => work.fit_size(candidate, bytes)?,
        (None, None, Some(layers), _) => work.fewer_layers(candidate, layers.into())?,
        (None, None, None, Some(StudentArg::Static)) => work.without_layers(candidate)?,
        _ => {
            let judged = work.judge(&candidate);
            // Whatever becomes of the bundle: the model was asked for too.
            work.save_model(&candidate)?;
            (candidate, work.told(judged)?, None)
        }
    };
    let is_smaller = match target_size {
        _ if training.stopped.is_some() => false,
        // The trained model may be small enough.
        Some(_) => shape(&candidate) != trained_shape,
        None => args.is_smaller(),
    };
    if is_smaller {
        let of = "curves and epochs, methods and cross-validation";
        warnings.push(format!("{of} are those of the trained model, which the smaller one learned from"));
    }
    let (kept, found) = (work.kept(&judged), work.found(&judged));
    let rehearsal = before.and_then(|before| work.rehearsed(&before, &judged));
    rehearsal.iter().for_each(|table| tell(&report::table(table)));
    let run = Run {
        kept: &kept,
        found,
        methods: methods.as_ref(),
        out_of_fold: candidate.out_of_fold.as_ref(),
        cross_validation: figures.as_ref(),
        rehearsal: rehearsal.as_ref(),
        doubts: &doubtful,
        sources: &work.sources,
        records: &records,
        judged: &judged,
        warnings: &warnings,
        ladder: ladder.as_ref(),
        settings: &work.all_settings(base),
    };
    let metrics: String = records.iter().map(json_line).collect();
    let contents = Contents {
        tokenizer: candidate.tokenizer.clone(),
        max_length: args.max_length,
        stride: work.stride,
        truncation_side: folder.truncation_side,
        pairs: Some(args.columns.has_pairs()),
        provenance: Provenance {
            base_model: super::model_name(args.base_path()),
            data_sha256: work.sources.data_sha256(),
            seed: Some(args.seed),
            producer: super::producer(),
        },
        reference: work.reference(&candidate, &judged),
    };
    let report = html::render(&page(run));
    let bundle = pack(&candidate.model, judged, &contents, &work.export_config, &args.export.out, stop)?;
    tell(&report::bundle_stages(&bundle));
    for (task, kept) in work.sources.tasks.iter().zip(&kept) {
        tell(&report::kept_stage(task.name.as_deref(), *kept));
    }
    found.iter().for_each(|found| tell(&report::stage("", &report::of_found(found))));
    // Beside the bundle: they hold texts that were trained on, or tell of them, which is not to be shipped.
    for (path, content) in [(args.report_path(), report), (args.metrics_path(), metrics)] {
        write(&path, &content)?;
    }
    if let Some(folder) = args.tensorboard.as_ref().filter(|_| training.stopped.is_none()) {
        // A run that goes on tells of all its steps when it has come to its end.
        tensorboard::write(folder, &records)?;
    }
    if args.cross_validate.is_none() {
        // They stay: somebody may have corrected them.
        for path in [args.out_of_fold_path(), args.doubts_path()].into_iter().filter(|path| path.exists()) {
            super::message(&format!("{} is of an earlier run, not of this one", path.display()));
        }
    }
    match training.stopped {
        Some(reason) => {
            let what = if args.is_smaller() { " of the model before it is made smaller" } else { "" };
            super::message(&format!("epoch {}{what} was packed as {}", training.best, args.export.out.display()));
            work.tell_of_resume(&reason);
            Err(reason.into())
        }
        None => {
            // Where the encoder stays as it is after all, one may be left that was to be gone on from, or replaced.
            let is_left = work.method == Method::Frozen && args.method == MethodArg::Auto;
            let left = (is_left && (args.resume || args.export.overwrite)).then(|| args.checkpoint_path());
            let main = work.checkpoints.iter().map(|checkpoints| checkpoints.path.clone()).chain(left);
            let students = work.checkpoints.iter().flat_map(|_| args.student_checkpoints());
            for path in main.chain(students) {
                remove_if_there(&path)?;
            }
            Ok(())
        }
    }
}

fn export_config(args: &Args, given: &super::Given) -> anyhow::Result<ExportConfig> {
    // A run that goes on replaces what it packed when it was stopped.
    let mut config = args.export.config(given, args.columns.problem_type(), args.max_length, args.goes_on())?;
    config.certainty = args.certainty()?;
    Ok(config)
}

fn check_save_model(args: &Args) -> anyhow::Result<()> {
    let Some(folder) = &args.save_model else { return Ok(()) };
    // Never into the base, nor, unless that is asked for, into another model. A run that was stopped has left its own there.
    let is_base = folder.canonicalize().ok().is_some_and(|folder| args.base_path().canonicalize().ok() == Some(folder));
    let may_replace = args.export.overwrite || args.goes_on();
    if !(may_replace && is_saved_model(folder, args.goes_on()) && !is_base) {
        BundleWriter::check_target(folder, false)?;
    }
    Ok(args.check_outside("--save-model", folder)?)
}

/// Whether a folder has just the files that `--save-model` writes, or some of them, where it may have been stopped meanwhile.
fn is_saved_model(folder: &Path, may_be_part: bool) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.filter(|name| !may_be_part || !name.starts_with(".model.partial-")).collect();
    names.iter().all(|name| SAVED_MODEL.contains(&name.as_str())) && (may_be_part || names.len() == SAVED_MODEL.len())
}

/// The weights that `--class-weights` names, in the order of the labels' ids.
fn class_weights(text: &str, work: &Work) -> Result<Vec<f32>, Error> {
    let labels = &work.sources.labels;
    if text == "balanced" {
        let of_task = |task: &TaskLabels| {
            let (_, targets) = task.targets(work.sources.train.iter().map(|source| &source.target));
            balanced_weights(work.train_config.loss.problem_type, &targets, task.ids.len())
        };
        return Ok(work.sources.tasks.iter().flat_map(of_task).collect());
    }
    let named: Option<Vec<(&str, f32)>> = text
        .split(',')
        .map(|part| part.rsplit_once('=').and_then(|(label, weight)| Some((label, weight.trim().parse().ok()?))))
        .collect();
    let weight = |label: &String| named.as_ref()?.iter().find(|(name, _)| name == label).map(|(_, weight)| *weight);
    let weights: Option<Vec<f32>> = labels.iter().map(weight).collect();
    match weights {
        Some(weights) if named.is_some_and(|named| named.len() == weights.len()) => Ok(weights),
        _ => {
            if let Some(label) = labels.iter().find(|label| label.contains(',')) {
                let (setting, expected) = ("--class-weights", "balanced, since labels with a comma cannot be named");
                return Err(Error::setting(setting, expected, label));
            }
            let mut example = labels.iter().take(3).map(|label| format!("{label}=1")).collect::<Vec<_>>().join(",");
            example += if labels.len() > 3 { ",…" } else { "" };
            let expected = format!("balanced, or a weight for each label, such as {example}");
            let got = text.chars().take(80).collect();
            Err(Error::Setting { setting: "--class-weights", expected, got })
        }
    }
}

impl Work {
    /// The base as it is learned from by a method, with heads for all tasks.
    fn load(&self, folder: &ModelFolder, method: Method) -> Result<(SequenceClassifier, LoadReport), Error> {
        let config = self.args.encoder_config(method, &folder.config)?;
        let labels = &self.sources.labels;
        let (model, report) = SequenceClassifier::load(&folder.weights, config, labels, self.args.seed)?;
        Ok((model.with_tasks(self.sources.tasks.clone()), report))
    }

    /// How the model learns from `rows` rows by a method.
    fn config(&self, method: Method, rows: usize) -> TrainConfig {
        TrainConfig { loss: self.train_config.loss.clone(), ..self.args.train_config(method, rows) }
    }

    /// Whether folds say what scores and thresholds are.
    fn is_by_folds(&self, examples: &Examples) -> bool {
        examples.validation.is_empty() && !self.args.is_smaller()
    }

    /// Checks that no run is forgotten that was stopped.
    fn check_checkpoint(&self) -> Result<(), Error> {
        let (args, path) = (&self.args, self.args.checkpoint_path());
        let is_of_no_concern = args.no_checkpoint || args.resume || args.export.overwrite;
        if is_of_no_concern || args.method == MethodArg::Frozen || !path.exists() {
            return Ok(());
        }
        let expected = "--resume to go on from it, or --overwrite to begin anew".to_owned();
        Err(Error::Model { path, expected, got: "the checkpoint of a run that was stopped".to_owned() })
    }

    /// Where the run leaves its state. One that is there already is resumed, or replaced where that was asked for.
    fn main_checkpoints(&self, folder: &ModelFolder) -> anyhow::Result<Option<CheckpointConfig>> {
        let args = &self.args;
        if args.no_checkpoint {
            return Ok(None);
        }
        let path = args.checkpoint_path();
        // Where the encoder stays as it is, there is nothing to go on from.
        if self.method == Method::Frozen {
            if args.resume || args.checkpoint_every.is_some() {
                let why = "the encoder stays as it is: no checkpoint is gone on from, or written";
                tell(&report::stage("resume", why));
            }
            return Ok(None);
        }
        if args.resume && !path.exists() {
            tell(&report::stage("resume", "no checkpoint: from the beginning"));
        }
        let settings = self.identity(folder)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let every_steps = args.checkpoint_every.map(|steps| steps as usize);
        Ok(Some(CheckpointConfig { path, every_steps, resume: args.resume, settings: Value::Object(settings) }))
    }

    /// All that what is learned follows from.
    fn identity(&self, folder: &ModelFolder) -> anyhow::Result<Map<String, Value>> {
        let mut settings = self.args.settings();
        settings.insert("--method in effect".to_owned(), self.method.name().into());
        settings.insert("the weights of --base".to_owned(), folder.weights_sha256()?.into());
        for (what, file) in [("configuration", &folder.config.path), ("tokenizer", &folder.tokenizer)] {
            settings.insert(format!("the {what} of --base"), nimbert::sha256_file(file)?.into());
        }
        settings.insert("the truncation side of --base".to_owned(), format!("{:?}", folder.truncation_side).into());
        settings.insert("nimbert-train".to_owned(), env!("CARGO_PKG_VERSION").into());
        for dataset in &self.sources.datasets {
            for (file, digest) in dataset.files.iter().zip(&dataset.digests) {
                let of_rows = || nimbert::sha256(format!("{:?}", dataset.rows).as_bytes());
                let content = digest.clone().unwrap_or_else(of_rows);
                settings.insert(format!("the content of {}", file.display()), content.into());
            }
        }
        // Such as that a smaller model needs some to be validated by.
        for (what, sources) in [("learned from", &self.sources.train), ("validated by", &self.sources.validation)] {
            let rows: String = sources.iter().map(|source| format!("{} {}\n", source.dataset, source.row)).collect();
            let rows = format!("{} rows, {}", sources.len(), nimbert::sha256(rows.as_bytes()));
            settings.insert(format!("what is {what}"), rows.into());
        }
        Ok(settings)
    }

    /// The same for a model of so many layers and tokens that learns from the trained one. What led to the trained one
    /// must be the same too.
    fn student_checkpoints(&self, layers: usize, tokens: usize) -> Option<CheckpointConfig> {
        let main = self.checkpoints.as_ref()?;
        let path = self.args.beside_bundle(&format!("{layers}-layers-{tokens}{STUDENT_CHECKPOINT}"));
        Some(CheckpointConfig { path, ..main.clone() })
    }

    /// What ends the run, and how it goes on, if this is an error.
    fn told<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| self.tell_of_resume(error))
    }

    /// Says how a run goes on that was interrupted, or whose graph was refused.
    fn tell_of_resume(&self, reason: &Error) {
        let Some(checkpoints) = self.checkpoints.as_ref().filter(|checkpoints| checkpoints.path.exists()) else {
            return;
        };
        let path = checkpoints.path.display();
        match reason {
            Error::Interrupted { .. } => super::message(&format!("--resume goes on from {path}")),
            Error::Gate { .. } | Error::Setting { setting: "--target-size", .. } => {
                let how = "--resume exports it by other settings of the export, and --overwrite begins anew";
                super::message(&format!("{path} has what was trained: {how}"));
            }
            _ => {}
        }
    }

    /// The model with a smaller vocabulary, and the texts as it reads them.
    fn trimmed(&self, candidate: &Candidate, size: usize) -> Result<Candidate, Error> {
        let counts = compress::token_counts(&candidate.examples.train, candidate.model.config.vocab_size);
        let Compressed { model, tokenizer: json } =
            trim_vocabulary(&candidate.model, &candidate.tokenizer, &counts, size)?;
        let path = self.scratch.path().join(format!("tokenizer-{size}.json"));
        std::fs::write(&path, json.to_string()).map_err(|reason| Error::Io { path: path.clone(), reason })?;
        let tokenizer = self.open_tokenizer(&path)?;
        let examples = tokenize(&self.sources, &tokenizer, &model.config, self.args.max_windows.into())?;
        let Candidate { load_report, out_of_fold, .. } = candidate;
        let (load_report, out_of_fold) = (load_report.clone(), out_of_fold.clone());
        Ok(Candidate { model, load_report, tokenizer: path, examples, out_of_fold })
    }

    fn open_tokenizer(&self, path: &Path) -> Result<Tokenizer, Error> {
        let tokenizer = Tokenizer::open(path, self.args.max_length)?.with_truncation_side(self.truncation_side);
        Ok(match self.stride {
            Some(stride) => tokenizer.with_stride(stride)?,
            None => tokenizer,
        })
    }

    /// Trains with a progress bar, and prints the table by epoch.
    fn train(
        &self,
        (model, splits): (&SequenceClassifier, Splits<'_>),
        config: &TrainConfig,
        teacher: Option<&nimbert_trainer::distill::Teacher<'_>>,
        checkpoints: Option<&CheckpointConfig>,
    ) -> anyhow::Result<Trained> {
        let rows = splits.train.len();
        // indicatif draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new((config.epochs * rows) as u64);
        let template = "{bar:30} {pos}/{len} rows, {per_sec}, {eta} left, {msg}";
        bar.set_style(ProgressStyle::with_template(template)?.with_key("per_sec", rows_per_second));
        let mut records = Vec::new();
        tell(&report::epoch_header());
        let job = Job { splits, config, teacher, checkpoints, compute: &self.compute };
        let result = train(model, job, &self.stop, |record| {
            match record {
                Record::Step(step) => {
                    bar.set_message(format!("loss {:.3}", step.loss));
                    let step_of_epoch = step.step - (step.epoch - 1) * rows.div_ceil(config.step_rows());
                    let rows_of_epoch = step_of_epoch.saturating_mul(config.step_rows()).min(rows);
                    bar.set_position(((step.epoch - 1) * rows + rows_of_epoch) as u64);
                }
                Record::Epoch(epoch) => {
                    bar.set_position((epoch.epoch * rows) as u64);
                    bar.suspend(|| tell(&report::epoch_row(epoch)));
                }
            }
            records.push(record.clone());
        });
        bar.finish_and_clear();
        if let (Err(Error::NothingTrained { .. }), Some(checkpoints)) = (&result, checkpoints) {
            // There is nothing to go on from. What cannot be removed is named by the next run.
            let _ = std::fs::remove_file(&checkpoints.path);
        }
        let training = result?;
        let steps: Vec<StepRecord> = records.iter().filter_map(step).collect();
        tell(&report::loss_chart(&steps));
        if training.best != training.epochs.len() {
            let why = "the highest validation score";
            tell(&report::stage("kept", &format!("the weights of epoch {}: {why}", training.best)));
        }
        Ok(Trained { training, records })
    }

    /// How far what the bundle says of its answers holds of test rows, by task; nothing where there are none.
    fn kept(&self, judged: &Judged) -> Vec<Kept> {
        let Some(answers) = &judged.test_answers else { return Vec::new() };
        let expected: Vec<&[u32]> = self.sources.test.iter().map(|source| source.target.ids.as_slice()).collect();
        let logits: Vec<Vec<f32>> = answers.iter().cloned().map(Answer::all_logits).collect();
        let distances: Vec<Option<f32>> = answers.iter().map(|answer| answer.distance).collect();
        let rows = self.sources.tasks.rows(&logits, &expected);
        let of_tasks = rows.iter().zip(&judged.calibrated);
        of_tasks.map(|(rows, calibrated)| kept(&calibrated.decision, rows, &distances)).collect()
    }

    /// What the bundle answers to test rows; without any, to validation rows; without those, what models like it answer to training rows
    /// that they have not seen. None: there are no answers to unseen texts, which texts to come could be compared with.
    fn reference(&self, candidate: &Candidate, judged: &Judged) -> Option<Reference> {
        let Sources { train, validation, test, .. } = &self.sources;
        let (split, rows, answers): (_, Vec<&Source>, _) = match (&judged.test_answers, &judged.unseen_answers) {
            (Some(answers), _) => ("test", test.iter().collect(), answers),
            (None, Some(answers)) => {
                let folds = candidate.out_of_fold.as_ref()?;
                ("cross-validated", folds.answerable_rows().map(|row| &train[row]).collect(), answers)
            }
            (None, None) if judged.acceptance.split == "validation" => {
                ("validation", validation.iter().collect(), &judged.answers)
            }
            (None, None) => return None,
        };
        let tasks = judged.tasks(&candidate.model);
        let mut summary = Summary::new(&tasks);
        for (source, answer) in rows.into_iter().zip(answers) {
            let characters = characters(self.sources.row(source).into());
            summary.add(characters, &Prediction::new(answer.clone(), &tasks));
        }
        Some(Reference { split: split.to_owned(), summary })
    }

    fn judge(&self, candidate: &Candidate) -> Result<Judged, Error> {
        self.judge_as(candidate, Storage::Bytes)
    }

    fn judge_as(&self, candidate: &Candidate, storage: Storage) -> Result<Judged, Error> {
        let Candidate { model, examples, out_of_fold, .. } = candidate;
        let distance = self.distance(model, examples.train.iter(), &examples.strangers.train)?;
        let spread = distance.as_ref().map_or(1.0, Mahalanobis::spread);
        let mut config = ExportConfig { storage, distance, ..self.export_config.clone() };
        if storage == Storage::Packed {
            // Packing is meant to lose something, and any of it if no bound is given. Of several models the most accurate is taken
            // as it ships, and the table shows what each has lost.
            [config.max_accuracy_drop, config.max_label_changes] = self.packed_bounds;
        }
        let unseen = out_of_fold.as_ref().filter(|_| examples.validation.is_empty());
        let targets: Vec<&Target> = examples.train.iter().map(|example| &example.target).collect();
        let data = ExportData {
            // By test rows nothing is to be chosen, not even what of a graph stays in fp32.
            evidence: match examples.validation.is_empty() {
                true => Evidence::new("train", &examples.train),
                false => Evidence::new("validation", &examples.validation),
            },
            unseen: unseen.map(|answers| answers.answerable(&targets, spread)),
            test: (!examples.test.is_empty()).then(|| Evidence::new("test", &examples.test)),
            strangers: examples.strangers.test.iter().map(|example| example.windows.as_slice()).collect(),
            calibration_texts: examples.train.iter().map(|example| example.windows.as_slice()).collect(),
        };
        let _lean = crate::LeanMemory::begin();
        let judged = judge(model, &data, &config, &self.stop)?;
        tell(&report::quantization_stages(&judged, config.sensitivity));
        Ok(judged)
    }

    fn save_model(&self, candidate: &Candidate) -> Result<(), Error> {
        let Some(folder) = &self.args.save_model else { return Ok(()) };
        let cut = (self.args.max_length, self.truncation_side);
        let learned = self.learned();
        save_model(&candidate.model, self.export_config.problem_type, &candidate.tokenizer, cut, &learned, folder)?;
        let whose = match candidate.model.config.head {
            HeadKind::Layers => "",
            HeadKind::Linear => ", for nimbert: transformers has no class for its head",
        };
        tell(&report::stage("model", &format!("{}: the trained model, fp32{whose}", folder.display())));
        Ok(())
    }

    /// Everything that led to the bundle, for the report.
    fn all_settings(&self, base: &Path) -> Vec<(String, Vec<(String, String)>)> {
        let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut settings = self.args.settings();
        settings.extend(self.args.settings_behind_training());
        settings.extend(self.effective_settings(&self.train_config));
        let settings = settings.iter().filter(|(_, value)| !value.is_null());
        let encoder =
            Value::Object(EncoderConfig::open(&base.join(CONFIG)).map(|config| config.json).unwrap_or_default());
        let of_encoder = |key: &str| encoder.get(key).map(|value| (key.to_owned(), show(value)));
        let keys = ["model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"];
        vec![
            ("Settings".to_owned(), settings.map(|(name, value)| (name.clone(), show(value))).collect()),
            ("Base model".to_owned(), keys.into_iter().filter_map(of_encoder).collect()),
            (
                "Versions".to_owned(),
                vec![
                    ("written by".to_owned(), super::producer()),
                    ("threads".to_owned(), rayon::current_num_threads().to_string()),
                    ("platform".to_owned(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
                ],
            ),
        ]
    }
}

/// Writes a file beside the bundle, and says so.
fn write(path: &Path, content: &str) -> Result<(), Error> {
    // What folds say comes before the bundle, which would make its folder.
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|reason| Error::Io { path: parent.to_owned(), reason })?;
    }
    super::write_text(path, content)?;
    tell(&report::stage("", &path.display().to_string()));
    Ok(())
}

/// A run that is resumed finds what it wrote before. What somebody has corrected in it since is kept beside it.
fn keep_corrected(path: &Path, content: &str) -> Result<(), Error> {
    let path = &behind_links(path);
    if !std::fs::read(path).is_ok_and(|before| before != content.as_bytes()) {
        return Ok(());
    }
    let mut numbered = (1..=u32::MAX).map(|number| path.with_added_extension(number.to_string()));
    let Some(kept) = numbered.find(|path| !path.exists()) else { return Ok(()) };
    std::fs::rename(path, &kept).map_err(|reason| Error::Io { path: path.to_owned(), reason })?;
    tell(&report::stage("kept", &format!("{}, which had other content than now", kept.display())));
    Ok(())
}

/// Prints a part of the report. That nobody reads it, or that the disk is full, must not cost the training.
fn tell(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(escaped_lines(text).as_bytes()).and_then(|()| out.flush());
}

fn step(record: &Record) -> Option<StepRecord> {
    match record {
        Record::Step(step) => Some(step.clone()),
        Record::Epoch(_) => None,
    }
}

fn json_line(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has only string keys and finite numbers") + "\n"
}

fn rows_per_second(state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write) {
    // A failure to draw is indicatif's to handle.
    let _ = write!(out, "{:.1} rows/s", state.per_sec());
}
