//! The one error type of the crate. Every variant names the file or thing concerned, what was expected and what was found.

use std::path::{Path, PathBuf};

/// What can go wrong between a file of labelled texts and a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system could not read or write a file.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        reason: std::io::Error,
    },
    /// A data file is not what it should be.
    #[error("{}{}: expected {expected}, found {got}", path.display(), position(*line, *column))]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1; none if the file as a whole is meant.
        line: Option<u64>,
        /// The column, in bytes and counted from 1; none if the line as a whole is meant.
        column: Option<u64>,
        /// What the trainer needs.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A base model's files are unusable, or disagree with one another.
    #[error("{}: expected {expected}, found {got}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What the trainer needs.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A setting is out of its range.
    #[error("{setting}: expected {expected}, found {got}")]
    Setting {
        /// The setting, as the command line spells it.
        setting: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The loss or the gradient became infinite or NaN.
    #[error(
        "training diverged at step {step} (epoch {epoch}): {quantity} is {value}; a lower --learning-rate may help"
    )]
    Diverged {
        /// The optimizer step, counted from 1 over all epochs.
        step: usize,
        /// The epoch, counted from 1.
        epoch: usize,
        /// `the loss` or `the gradient norm`.
        quantity: &'static str,
        /// Its value.
        value: f64,
    },
    /// A run came to its end, and no weight of the encoder is another than before.
    #[error(
        "training changed no weight of the encoder in {steps} steps; a higher --learning-rate than {learning_rate} may help"
    )]
    NothingTrained {
        /// Optimizer steps.
        steps: usize,
        /// The highest learning rate.
        learning_rate: f64,
    },
    /// Work was stopped from outside.
    #[error("interrupted during {during}")]
    Interrupted {
        /// What was going on.
        during: String,
    },
    /// An exported graph is not as good as the model that was trained; nothing was written.
    #[error("export refused: {check}: expected {expected}, found {got}; {advice}")]
    Gate {
        /// What was compared.
        check: String,
        /// The bound.
        expected: String,
        /// The figures that were measured.
        got: String,
        /// What to do.
        advice: &'static str,
    },
    /// The runtime refused or failed.
    #[error(transparent)]
    Runtime(#[from] nimbert::Error),
    /// A tensor operation failed: a fault of this program, or not enough memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason }
    }

    pub(crate) fn model(path: &Path, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Model { path: path.to_owned(), expected: expected.into(), got: got.into() }
    }

    /// [`Error::Setting`] of that setting.
    pub fn setting(setting: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Setting { setting, expected: expected.into(), got: got.to_string() }
    }
}

/// `:line:column`, as compilers and editors write it.
fn position(line: Option<u64>, column: Option<u64>) -> String {
    let part = |number: Option<u64>| number.map_or(String::new(), |number| format!(":{number}"));
    part(line) + &part(column)
}

/// candle's errors may carry a backtrace behind their first line.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
