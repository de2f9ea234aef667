//! The command line: argument types, and the mapping from errors to exit status.

mod bench;
mod classify;
#[cfg(feature = "parquet")]
mod columns;
mod drift;
mod explain;
mod info;
mod input;
mod interrupt;
#[cfg(feature = "manual")]
mod manual;
mod output;
#[cfg(feature = "serve")]
mod serve;
mod table;
mod verify;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::bail;
use clap::{Parser, Subcommand};
use indicatif::ProgressBar;
use nimbert::{
    Classifier, Device, Operators, Options, PublicKey, SessionOptions, Verify,
    compiled::default_cache,
    device::GpuOptions,
    parse_size,
    prediction::{escaped, escaped_lines},
};

/// Classifies text with a bundle made by nimbert-train.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  nimbert classify reviews-bundle \"I love this movie!\" \"dull\"
  nimbert classify reviews-bundle --input reviews.csv --output labels.csv
  nimbert classify reviews-bundle --input reviews.jsonl --output labels.jsonl --resume
  cat lines.txt | nimbert classify reviews-bundle --input - --json
  nimbert explain reviews-bundle \"A dull plot, but what acting!\"
  nimbert drift reviews-bundle summary-of-monday.json
  nimbert info reviews-bundle --device cuda
  nimbert bench reviews-bundle --data reviews.csv
  nimbert verify reviews-bundle --public-key nimbert.pub"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classify texts given as arguments, or a file of them
    Classify(classify::Args),
    /// Show which words of a text speak for its label, and which against it
    Explain(explain::Args),
    /// Compare what texts were answered with what earlier ones were, or those that the bundle was tested on
    Drift(drift::Args),
    /// Show what a bundle holds and how it was tested
    Info(info::Args),
    /// Measure start, speed and memory on your own texts
    Bench(bench::Args),
    /// Answer requests over HTTP
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    /// Compare every file of a bundle with its recorded checksum, and its signature with a key; then load it
    Verify(verify::Args),
}

/// Options of every command that loads a graph.
#[derive(clap::Args)]
#[command(next_help_heading = "Running the graph")]
struct OpenArgs {
    /// Where the graph runs: cpu, cuda[:N], tensorrt[:N], or auto: the best that can be used. One that was asked for and
    /// cannot be used is an error
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// The bundle's graph of that name [default: the first that was made for device and processor]
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Threads [default: as many as the process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Keep cores busy for a while after a run, in case another comes
    #[arg(long)]
    spinning: bool,
    /// Multiply fp32 in bfloat16 where the processor can (aarch64, under Linux): faster, and less exact
    #[arg(long)]
    fast_math: bool,
    /// Compute graphs on the CPU with ONNX Runtime's operators alone, without those of nimbert that are several of
    /// them in one: slower, for comparing
    #[arg(long)]
    standard_operators: bool,
    /// The most memory that the process may have, such as 300MB: batches become smaller, and a text that needs more is
    /// refused
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<Size>,
    /// The most memory of the GPU, such as 2GB [default: all]
    #[arg(long, value_name = "SIZE")]
    gpu_memory_limit: Option<Size>,
    /// Do not keep the graph in the form compiled for this machine (in $NIMBERT_CACHE, or the system's folder for caches)
    #[arg(long)]
    no_cache: bool,
    /// Write traces of all runs, one a session, for chrome://tracing or Perfetto; number, time and .json are appended to the
    /// name
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, in ../lib/nimbert or ../lib, its Python
    /// environment, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// What a bundle must be to be opened.
#[derive(clap::Args)]
#[command(next_help_heading = "Trusting the bundle")]
struct TrustArgs {
    /// When a graph's files are compared with their digests: always; once (what was compared is remembered in the cache by
    /// size, times, device and inode); or never
    #[arg(long, default_value = "once", value_name = "always|once|never")]
    verify: Verify,
    /// Refuse a bundle that was not signed with this key: a file of nimbert-train keygen or minisign, or its line of base64.
    /// Of several keys, one must have signed
    #[arg(long, value_name = "KEY")]
    require_signature: Vec<KeyArg>,
    /// The operators that a graph may have: known (those that nimbert writes and optimum exports), or any
    #[arg(long, default_value = "known", value_name = "known|any")]
    allow_operators: Operators,
}

/// A public key, from a file or as it stands on the command line.
#[derive(Debug, Clone)]
struct KeyArg {
    text: String,
    key: PublicKey,
}

impl FromStr for KeyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PublicKey::of(text).map(|key| Self { text: text.to_owned(), key }).map_err(|error| error.to_string())
    }
}

fn keys(arguments: &[KeyArg]) -> Vec<PublicKey> {
    arguments.iter().map(|argument| argument.key.clone()).collect()
}

impl OpenArgs {
    /// The same as arguments of another process, without `--profile`: that would be of its runs too.
    fn arguments(&self) -> Vec<OsString> {
        let Self { device, variant, threads, spinning, fast_math, standard_operators, .. } = self;
        let Self { memory_limit, gpu_memory_limit, no_cache, profile: _, ort_lib, trust, .. } = self;
        let TrustArgs { verify, require_signature, allow_operators } = trust;
        let bytes = |size: &Option<Size>| size.map(|Size(bytes)| format!("{bytes}B"));
        let settings = [
            ("--device", Some(device.to_string())),
            ("--variant", variant.clone()),
            ("--threads", threads.map(|threads| threads.to_string())),
            ("--memory-limit", bytes(memory_limit)),
            ("--gpu-memory-limit", bytes(gpu_memory_limit)),
            ("--verify", Some(verify.to_string())),
            ("--allow-operators", Some(allow_operators.to_string())),
        ];
        let flags = [
            ("--spinning", *spinning),
            ("--fast-math", *fast_math),
            ("--standard-operators", *standard_operators),
            ("--no-cache", *no_cache),
        ];
        let settings = settings.into_iter().filter_map(|(name, value)| Some([name.into(), value?.into()])).flatten();
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.into());
        let library = ort_lib.iter().flat_map(|library| ["--ort-lib".into(), library.into()]);
        let keys = require_signature.iter().flat_map(|key| ["--require-signature".into(), key.text.clone().into()]);
        settings.chain(flags).chain(library).chain(keys).collect()
    }

    fn options(&self) -> anyhow::Result<Options> {
        if self.device == Device::Cpu && self.gpu_memory_limit.is_some() {
            bail!("--gpu-memory-limit: expected --device cuda, tensorrt or auto with it, found cpu");
        }
        if self.fast_math && !matches!(self.device, Device::Cpu | Device::Auto) {
            bail!("--fast-math: expected --device cpu or auto with it, found {}", self.device);
        }
        if self.trust.verify == Verify::Never && !self.trust.require_signature.is_empty() {
            bail!(
                "--verify: expected always or once with --require-signature, which vouches for what is compared, found never"
            );
        }
        let bytes = |size: Option<Size>| size.map(|Size(bytes)| bytes);
        let gpu = GpuOptions { memory_limit: bytes(self.gpu_memory_limit), ..GpuOptions::default() };
        let session = SessionOptions {
            ort_lib: self.ort_lib.clone(),
            device: self.device,
            threads: self.threads.map(usize::from),
            spinning: self.spinning,
            fast_math: self.fast_math,
            standard_operators: self.standard_operators,
            gpu,
            profile: self.profile.clone(),
            operators: self.trust.allow_operators,
            optimized_model: None,
        };
        Ok(Options {
            session,
            variant: self.variant.clone(),
            memory_limit: bytes(self.memory_limit),
            cache: if self.no_cache { None } else { default_cache() },
            verify: self.trust.verify,
            require_signature: keys(&self.trust.require_signature),
            ..Options::default()
        })
    }
}

/// Opens a bundle, and says where it runs if that was left open.
fn open(bundle: &std::path::Path, options: &Options) -> nimbert::Result<Classifier> {
    let spinner = ProgressBar::new_spinner();
    if matches!(options.session.device, Device::Tensorrt(_)) && io::stderr().is_terminal() {
        spinner.set_message("TensorRT builds an engine for this GPU, which takes minutes the first time");
        spinner.enable_steady_tick(Duration::from_millis(200));
    }
    let classifier = Classifier::open(bundle, options);
    spinner.finish_and_clear();
    let classifier = classifier?;
    if options.session.device == Device::Auto {
        for error in classifier.fallbacks() {
            message(&format!("not used: {error}"));
        }
        message(&format!("device {}", classifier.device()));
    }
    Ok(classifier)
}

/// A signature's comment, whose parts have tabs between them.
fn on_one_line(comment: &str) -> String {
    escaped(&comment.replace('\t', ", "))
}

/// A number of bytes as people write it: 300MB, 2GB, 64MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("expected a size such as 300MB, 2GB or 64MiB, found {text}");
        parse_size(text).map(Self).ok_or_else(unknown)
    }
}

/// Parses the arguments, runs the command, and reports an error.
pub(crate) fn main() -> ExitCode {
    #[cfg(feature = "manual")]
    if let Some(folder) = std::env::var_os(manual::FOLDER_VARIABLE) {
        return manual::write(folder.as_ref());
    }
    let result = match Cli::parse().command {
        Command::Classify(args) => classify::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Drift(args) => match drift::run(&args) {
            Ok(status) => return status,
            Err(error) => Err(error),
        },
        Command::Info(args) => info::run(&args),
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    // Every other error of a file has its name before it.
    let result = result.map_err(|error| match error.chain().nth(1) {
        None => error.downcast().map_or_else(|error| error, |reason| standard_output(reason).into()),
        Some(_) => error,
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            message(&format!("error: {error:#}"));
            ExitCode::from(exit_status(&error))
        }
    }
}

/// Writes a message to standard error. Where that is closed, the exit status still tells.
fn message(text: &str) {
    let _ = writeln!(io::stderr(), "nimbert: {}", escaped_lines(text));
}

/// Everything but a failing run of the graph, or a full disk, is something that the caller gave.
fn exit_status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(nimbert::Error::Cancelled) => 130,
        Some(nimbert::Error::Session { .. } | nimbert::Error::DeadlinePassed) => 1,
        Some(nimbert::Error::Io { reason, .. }) if nimbert::is_disk_full(reason) => 1,
        _ => match error.downcast_ref() {
            Some(OutputError { reason, .. }) if !is_wrong_place(reason) => 1,
            _ => 2,
        },
    }
}

/// Whether nothing can be written where it was asked for.
fn is_wrong_place(reason: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(reason.kind(), IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
}

/// Results could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot write: {reason}", if *path == *STANDARD_OUTPUT { "standard output".into() } else { path.display().to_string() })]
struct OutputError {
    path: PathBuf,
    reason: io::Error,
}

fn standard_output(reason: io::Error) -> OutputError {
    OutputError { path: STANDARD_OUTPUT.into(), reason }
}

/// What `--output` calls it.
const STANDARD_OUTPUT: &str = "-";

/// Whether the reader of our standard output, such as `head`, has gone: not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |OutputError { path, reason }: &OutputError| {
        *path == *STANDARD_OUTPUT && reason.kind() == io::ErrorKind::BrokenPipe
    };
    error.downcast_ref().is_some_and(is_pipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
