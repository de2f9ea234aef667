//! The command line: argument types, and the mapping from errors to exit status.

mod bases;
mod check;
mod columns;
mod doubts;
mod evaluate;
mod export;
mod fit;
mod pack;
mod sign;
mod suggest;
mod trace;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use indicatif::{ProgressBar, ProgressStyle};
use nimbert::{
    ProblemType, Tokenizer, behind_links, compiled::default_cache, hangup::ignored_as_before, prediction::escaped_lines,
};
use nimbert_trainer::{
    Error,
    dataloader::Example,
    dataset::{Dataset, left_out},
    export::VariantKind,
    feature_cache::{FeatureCache, Recalled},
    features::{Features, Read},
    hub,
    model::{ModelFolder, Pooling, SequenceClassifier},
    onnx::Calibration,
    prepare::encode_all,
    scratch::write_whole,
};

use columns::{BundleColumnArgs, ColumnArgs, TaskArg};

/// Fine-tunes BERT text classifiers and exports them as bundles for nimbert.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  nimbert-train fit --base models/minilm --data reviews.csv --out reviews-bundle
  nimbert-train bases
  nimbert-train check --data reviews.csv --base models/minilm
  nimbert-train evaluate reviews-bundle --data more-reviews.csv --json
  nimbert-train trace reviews-bundle \"I love this movie!\"
  nimbert-train export some-hugging-face-folder --out bundle
  nimbert-train suggest reviews-bundle --unlabelled more.csv --out to-label.csv
  nimbert-train pack reviews-bundle --out reviews.nimbert
  nimbert-train keygen
  nimbert-train sign reviews-bundle --key nimbert.key"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a classifier on labelled text and pack it as a bundle
    Fit(Box<fit::Args>),
    /// List base models to begin with: licence, languages, size, and what each is good for
    Bases(bases::Args),
    /// Look for faults in labelled text: duplicates, contradictions, leaks, imbalance
    Check(check::Args),
    /// Measure a bundle on labelled text
    Evaluate(evaluate::Args),
    /// Pack a trained Hugging Face folder as a bundle
    Export(export::Args),
    /// Pack a bundle as one file
    Pack(pack::Args),
    /// Find the settings of a fit by trying some on parts of the rows, and fit with the best
    Tune(Box<fit::tune::TuneArgs>),
    /// Choose the texts to label next: what a bundle is unsure of, and what is unlike the others
    Suggest(suggest::Args),
    /// Show what each layer of a model or bundle makes of a text
    Trace(trace::Args),
    /// Make a pair of keys for signing bundles
    Keygen(sign::KeygenArgs),
    /// Sign a bundle, so that others can require it
    Sign(sign::SignArgs),
}

/// The options of a command, such as `--seed`, and whether they stand on the command line.
struct Given(BTreeMap<String, bool>);

impl Given {
    /// Those of the command `name` of `cli`.
    fn of(cli: &clap::Command, name: &str, matches: &ArgMatches) -> Self {
        let options = cli.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
        let option = |argument: &clap::Arg| {
            let is_given = matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
            Some((format!("--{}", argument.get_long()?), is_given))
        };
        Self(options.filter_map(option).collect())
    }

    /// Whether an option stands there.
    fn has(&self, option: &str) -> bool {
        self.0[option]
    }

    /// Refuses the first of these options that is given although it would change nothing: it is of use with `expected` alone.
    fn refuse(&self, options: &[&'static str], is_of_use: bool, expected: &str) -> Result<(), Error> {
        match options.iter().find(|option| self.0[**option]) {
            Some(option) if !is_of_use => {
                Err(Error::setting(option, expected, "a run in which it would change nothing"))
            }
            _ => Ok(()),
        }
    }
}

/// How a bundle is written.
#[derive(Clone, clap::Args)]
struct ExportArgs {
    /// The bundle to be made: a folder, which must be absent or empty, or one file, whose name ends with .nimbert
    #[arg(long, value_name = "DIR|FILE.nimbert")]
    out: PathBuf,
    /// Replace a bundle that is already there
    #[arg(long)]
    overwrite: bool,
    /// Number format of the default graph, for the CPU
    #[arg(long, value_enum, default_value_t = Precision::Int8)]
    precision: Precision,
    /// The graphs of the bundle, the default first: cpu-int8, cpu-int8-full (8 bits of weights instead of 7, for VNNI and ARM;
    /// before cpu-int8 where other processors are to be served too), cpu-fp32, gpu-fp16, tensorrt-fp16, tensorrt-int8
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with = "precision")]
    variants: Vec<VariantKind>,
    /// How the ranges of int8 activations are found: min-max, entropy or percentile:P; of several methods, the one whose
    /// graph is nearest to fp32 [default: min-max,percentile:99.995,percentile:99.99]
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',', default_values_t = default_calibrations(), hide_default_value = true)]
    calibration: Vec<Calibration>,
    /// Show what quantizing each activation costs
    #[arg(long)]
    verbose: bool,
    /// The accuracy that a graph may lose against fp32, in percentage points, and a standard deviation of the rows that
    /// it answers otherwise besides, so that one row never counts. cpu-int8 keeps activations in fp32 until it passes;
    /// other graphs are refused
    #[arg(long, default_value_t = 1.0, value_name = "POINTS")]
    max_accuracy_drop: f64,
    /// The rows with labels to which a graph may give another label than fp32 (or other labels, where there are several),
    /// right or wrong, judged and treated in the same way
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    max_label_changes: f64,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, in ../lib/nimbert or ../lib, its Python
    /// environment, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

/// What cuts nothing, and what cuts the outliers: which is better differs by model. They cost a graph each.
fn default_calibrations() -> Vec<Calibration> {
    vec![Calibration::MinMax, Calibration::Percentile(0.99995), Calibration::Percentile(0.9999)]
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Precision {
    Fp32,
    Int8,
}

impl ExportArgs {
    /// The graphs, the default first.
    fn variants(&self) -> Result<Vec<VariantKind>, Error> {
        let variants = match (self.variants.is_empty(), self.precision) {
            (false, _) => self.variants.clone(),
            (true, Precision::Fp32) => vec![VariantKind::CpuFp32],
            (true, Precision::Int8) => vec![VariantKind::CpuInt8],
        };
        VariantKind::check(&variants)?;
        Ok(variants)
    }

    /// Checks what can be checked before long work begins: the target, the settings, ONNX Runtime.
    fn config(
        &self,
        given: &Given,
        problem_type: ProblemType,
        max_tokens: usize,
        overwrite: bool,
    ) -> anyhow::Result<nimbert_trainer::export::ExportConfig> {
        let overwrite = self.overwrite || overwrite;
        nimbert::bundle::BundleWriter::check_target(&self.out, overwrite)?;
        let bounds = [
            ("--max-accuracy-drop", "points from 0 to 100", self.max_accuracy_drop),
            ("--max-label-changes", "a percentage from 0 to 100", self.max_label_changes),
        ];
        if let Some((setting, expected, got)) = bounds.into_iter().find(|(.., bound)| !(0.0..=100.0).contains(bound)) {
            return Err(Error::setting(setting, expected, got).into());
        }
        let variants = self.variants()?;
        let is_quantized = variants.iter().any(|variant| variant.is_quantized());
        given.refuse(&["--calibration", "--verbose"], is_quantized, "an int8 graph with it")?;
        if let Some(twice) = columns::repeated(&self.calibration) {
            return Err(Error::setting("--calibration", "each method once", format!("{twice} twice")).into());
        }
        nimbert::load_library(self.ort_lib.as_deref())?;
        Ok(nimbert_trainer::export::ExportConfig {
            problem_type,
            certainty: nimbert_trainer::calibrate::Certainty::default(),
            distance: None,
            storage: nimbert_trainer::onnx::Storage::Bytes,
            max_tokens: Some(max_tokens),
            variants,
            calibrations: self.calibration.clone(),
            sensitivity: self.verbose,
            max_accuracy_drop: self.max_accuracy_drop,
            max_label_changes: self.max_label_changes,
            overwrite,
            ort_lib: self.ort_lib.clone(),
        })
    }
}

/// Sets a flag at the first interrupt; ends the process at the next one before the flag has been taken back.
fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ignored_as_before(|| {
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            message("stopping at the next step (once more: at once)");
        })
    })?;
    Ok(stop)
}

/// Says what was left out of a data set, and what in it looks like a mistake.
fn remark(dataset: &Dataset) {
    left_out(&dataset.skipped).into_iter().chain(dataset.of_strangers()).for_each(|line| message(&line));
    dataset.doubt().iter().for_each(|doubt| message(&format!("warning: {doubt}")));
}

/// A bar for long work, which indicatif draws on standard error if that is a terminal.
fn progress(len: usize, what: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{eta}} left");
    ProgressBar::new(len as u64).with_style(ProgressStyle::with_template(&template).expect("names of indicatif"))
}

/// Whether what an encoder says of texts is kept.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
struct CacheArgs {
    /// Read all texts anew, and keep nothing of them: what a base says of texts lies in $NIMBERT_CACHE, or the system's folder for
    /// caches, so that a text is read once by a base. What it says beside
    /// other texts may differ in the last bits
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// Checks that it is of use, which it is with that option.
    fn check(self, option: &str, is_given: bool) -> Result<(), Error> {
        match self.no_cache && !is_given {
            true => Err(Error::setting("--no-cache", option, "none: no base reads the texts")),
            false => Ok(()),
        }
    }

    fn cache(self) -> Option<FeatureCache> {
        let folder = if self.no_cache { None } else { default_cache() };
        folder.map(|folder| FeatureCache::new(folder.join("features")))
    }
}

/// What an encoder that has not learned from them says of rows, with a progress bar; those that the cache knows are not read.
fn read_features(
    cache: Option<FeatureCache>,
    model: &SequenceClassifier,
    rows: &[Example],
    read: Read,
    check_stop: impl Fn() -> Result<(), Error>,
) -> Result<Features, Error> {
    let bar = progress(rows.len(), "rows read");
    let on_read = |count: usize| {
        bar.inc(count as u64);
        check_stop()
    };
    let recalled = match cache {
        Some(cache) => cache.read(model, rows, read, on_read)?,
        None => Recalled { features: Features::read(model, rows, read, on_read)?, known: 0, warning: None },
    };
    bar.finish_and_clear();
    if recalled.known > 0 {
        message(&format!("{} of {} texts were read before (--no-cache reads them anew)", recalled.known, rows.len()));
    }
    recalled.warning.iter().for_each(|warning| message(&format!("warning: {warning}")));
    Ok(recalled.features)
}

/// What the base's encoder says of all rows, and the rows as it reads them.
fn features_of(
    datasets: &[&Dataset],
    labels: &[String],
    (folder, tokenizer): (&ModelFolder, &Tokenizer),
    cache: CacheArgs,
) -> anyhow::Result<(Vec<Example>, Features)> {
    let config = folder.config.with_linear_head(Pooling::Mean)?;
    let (model, _) = SequenceClassifier::load(&folder.weights, config, labels, 0)?;
    let mut examples = Vec::new();
    for dataset in datasets {
        let windows = encode_all(tokenizer, &dataset.rows, &model.config)?.into_iter();
        examples.extend(windows.zip(dataset.targets(labels)?).map(|(windows, target)| Example { windows, target }));
    }
    let features = read_features(cache.cache(), &model, &examples, Read::Direction, || Ok(()))?;
    Ok((examples, features))
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// Writes a text file as a whole: behind a link, so that the link stays; a device or a pipe is written to, not replaced.
fn write_text(path: &Path, content: &str) -> Result<(), Error> {
    let target = behind_links(path);
    let write =
        |file: &Path| std::fs::write(file, content).map_err(|reason| Error::Io { path: path.to_owned(), reason });
    match target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        true => write(&target),
        false => write_whole(&target, write),
    }
}

/// Checks that a file can be written, and is none of those that are read.
fn check_output(path: &Path, purpose: &str, inputs: &[&PathBuf], base: Option<&Path>) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(unusable(folder, format!("a folder {purpose}"), "none"));
    }
    if path.is_dir() {
        return Err(unusable(path, format!("a file {purpose}"), "a folder"));
    }
    check_not_read(path, inputs, base)
}

/// Checks that a file which may be replaced is none of those that are read.
fn check_not_read(path: &Path, inputs: &[&PathBuf], base: Option<&Path>) -> Result<(), Error> {
    match is_read(path, inputs, base) {
        true => Err(unusable(path, "another file than those that are read".to_owned(), "one of them")),
        false => Ok(()),
    }
}

/// Where a file or folder lies, or would: absolute, without links, as far as it is there.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    match there.and_then(|(folder, canonical)| Some(canonical.join(absolute.strip_prefix(folder).ok()?))) {
        Some(place) => place,
        None => absolute,
    }
}

/// Checks that nothing is replaced; a device or a pipe is written to.
fn check_absent(path: &Path) -> Result<(), Error> {
    match path.metadata().is_ok_and(|metadata| metadata.is_file() || metadata.is_dir()) {
        true => Err(unusable(path, "no file yet".to_owned(), "a file; --overwrite replaces it")),
        false => Ok(()),
    }
}

fn unusable(path: &Path, expected: String, got: &str) -> Error {
    Error::Model { path: path.to_owned(), expected, got: got.to_owned() }
}

/// Whether a file that is to be written is one of those that are read, or lies in the folder of the base.
fn is_read(path: &Path, inputs: &[&PathBuf], base: Option<&Path>) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let base = base.and_then(|base| base.canonicalize().ok());
    base.is_some_and(|base| path.starts_with(base))
        || inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == path))
}

/// A base's folder, after a download if it is named as on a hub.
fn base_folder(base: &str, revision: Option<&str>) -> Result<PathBuf, Error> {
    hub::resolve(base, revision, io::stderr().is_terminal(), |warning| message(&format!("warning: {warning}")))
}

/// Writes a message to standard error. Where that is closed, the exit status still tells.
fn message(text: &str) {
    let _ = writeln!(io::stderr(), "nimbert-train: {}", escaped_lines(text));
}

/// Program and version, as a manifest names its writer.
fn producer() -> String {
    format!("nimbert-train {}", env!("CARGO_PKG_VERSION"))
}

/// A base model's name as a manifest has it: the last part of a folder's path, or the whole name on the hub.
fn model_name(base: &Path) -> String {
    if !base.is_dir() {
        return base.to_string_lossy().into_owned();
    }
    let absolute = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    absolute.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Parses the arguments, runs the command, and reports an error.
pub(crate) fn main() -> ExitCode {
    let mut cli = Cli::command();
    let matches = cli.get_matches_mut();
    let (name, options) = matches.subcommand().expect("clap asks for a command");
    let given = Given::of(&cli, name, options);
    let Cli { command } = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match command {
        Command::Fit(args) => fit::run(&args, &given),
        Command::Bases(args) => bases::run(&args),
        Command::Check(args) => check::run(&args, &given),
        Command::Evaluate(args) => evaluate::run(&args, &given),
        Command::Export(args) => export::run(&args, &given),
        Command::Trace(args) => trace::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Keygen(args) => sign::keygen(&args),
        Command::Tune(args) => fit::tune::run(&args, &given),
        Command::Suggest(args) => suggest::run(&args, &given),
        Command::Sign(args) => sign::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            message(&format!("error: {error:#}"));
            ExitCode::from(exit_status(&error))
        }
    }
}

fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<io::Error>() {
        // Results could not be written.
        return 1;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted { .. }) => 130,
        Some(Error::Io { reason, .. } | Error::Runtime(nimbert::Error::Io { reason, .. }))
            if nimbert::is_disk_full(reason) =>
        {
            1
        }
        Some(Error::Gate { .. } | Error::Tensor(_) | Error::Runtime(nimbert::Error::Session { .. })) => 1,
        // Everything else is something that the caller gave.
        _ => 2,
    }
}

/// Whether the reader of our output, such as `head`, has gone: not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
