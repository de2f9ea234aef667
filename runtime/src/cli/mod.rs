//! The command line: argument types, and the mapping from errors to exit status.

mod classify;
mod info;
mod verify;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use nimbert::{Device, SessionOptions};

/// Classifies text with a bundle made by nimbert-train.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  nimbert classify reviews-bundle \"I love this movie!\" \"dull\"
  nimbert classify reviews-bundle --input reviews.csv --json --output labels.jsonl
  cat lines.txt | nimbert classify reviews-bundle --input -
  nimbert verify reviews-bundle"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classify texts given as arguments, or a file of them
    Classify(classify::Args),
    /// Show what a bundle holds and how it was tested
    Info(info::Args),
    /// Compare every file of a bundle with its recorded checksum, then load it
    Verify(verify::Args),
}

/// Options of every command that loads a graph.
#[derive(clap::Args)]
struct SessionArgs {
    /// Where the graph runs: cpu, cuda or tensorrt; one that cannot be used is an error
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Threads for one run [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

impl SessionArgs {
    fn options(&self) -> SessionOptions {
        SessionOptions {
            ort_lib: self.ort_lib.clone(),
            device: self.device,
            threads: self.threads.map(usize::from),
            optimized_model: None,
        }
    }
}

/// Parses the arguments, runs the command, and reports an error.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Classify(args) => classify::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed, the exit status still tells.
            let _ = writeln!(io::stderr(), "nimbert: error: {error:#}");
            // Everything but a failing run of the graph, or a full disk, is something that the caller gave.
            let run_failed =
                error.is::<OutputError>() || matches!(error.downcast_ref(), Some(nimbert::Error::Session { .. }));
            ExitCode::from(if run_failed { 1 } else { 2 })
        }
    }
}

/// Results could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot write: {reason}", path.display())]
struct OutputError {
    path: PathBuf,
    reason: io::Error,
}

/// Whether the reader of our output, such as `head`, has gone: not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let reason = match error.downcast_ref() {
        Some(OutputError { reason, .. }) => Some(reason),
        None => error.downcast_ref::<io::Error>(),
    };
    reason.is_some_and(|reason| reason.kind() == io::ErrorKind::BrokenPipe)
}
