//! The one error type of the crate. Every variant names the file or thing concerned, what was expected and what was found.

use std::path::{Path, PathBuf};

/// What can go wrong while a bundle is opened or a text is classified.
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
    /// A file of the bundle is not what its specification (FORMAT.md) asks for.
    #[error("{}: expected {expected}, found {got}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the specification asks for.
        expected: String,
        /// What is there; for JSON with line and column.
        got: String,
    },
    /// A file's content is not what the manifest recorded.
    #[error("{}: damaged: expected sha256 {expected}, found {got}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The manifest's digest, in hexadecimal.
        expected: String,
        /// The digest of what is there.
        got: String,
    },
    /// A bundle that must be signed is not, or not so that one of the keys that were given tells by whom.
    #[error("{}: expected {expected}, found {got}", path.display())]
    Signature {
        /// The signature's file.
        path: PathBuf,
        /// Whose signature it should be.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The place for a new bundle is taken.
    #[error("{}: expected nothing there, or an empty folder, found {got}", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
        /// What is there, and what to do.
        got: String,
    },
    /// An option, by its name, has a value that it cannot have; or there is no option of that name.
    #[error("{name}: expected {expected}, found {got}")]
    Setting {
        /// The option.
        name: String,
        /// What it may be.
        expected: String,
        /// What it was to be.
        got: String,
    },
    /// The tokenizer refused a text or a setting.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A text is longer than the model reads, and is not to be cut.
    #[error("expected a text of at most {limit} tokens, found {tokens}")]
    TooLong {
        /// The text's length.
        tokens: usize,
        /// The most that is read.
        limit: usize,
    },
    /// A classifier of pairs was given one text, or one of single texts a pair.
    #[error("expected {expected}: the classifier was made for that, found {got}")]
    Input {
        /// What the classifier reads.
        expected: &'static str,
        /// What it was given.
        got: &'static str,
    },
    /// No usable ONNX Runtime library was found.
    #[error(
        "no ONNX Runtime library found (1.18 or newer); tried:\n{}\nname one (--ort-lib, the option ort_lib, or ORT_DYLIB_PATH); `pip install onnxruntime` brings one, in a checkout `cargo xtask setup`",
        tried.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    )]
    LibraryNotFound {
        /// Each place that was looked at, with the reason why it would not do.
        tried: Vec<String>,
    },
    /// The device that was asked for cannot be used. There is no silent fall-back to another.
    #[error("device {device}: {message}")]
    Device {
        /// The device that was asked for.
        device: String,
        /// ONNX Runtime's reason.
        message: String,
    },
    /// ONNX Runtime refused a graph, or a run of it failed.
    #[error("{}: ONNX Runtime: {message}", path.display())]
    Session {
        /// The graph.
        path: PathBuf,
        /// ONNX Runtime's reason.
        message: String,
    },
    /// As many texts wait as may; try again later.
    #[error("{limit} texts are waiting already, as many as may wait")]
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// The call was cancelled before its texts were classified.
    #[error("cancelled")]
    Cancelled,
    /// The call's deadline passed before its texts were classified.
    #[error("not classified before the deadline")]
    DeadlinePassed,
    /// The process was forked after the classifier was opened: its threads are the parent's.
    #[error("expected a classifier that this process has opened, found one from before a fork: open it in the child")]
    Forked,
    /// A text, or the graph, needs more memory than may be used.
    #[error(
        "{what} needs about {} of memory, expected at most the {} that the graph and the program leave of the memory limit",
        megabytes(*needed),
        megabytes(*available)
    )]
    MemoryLimit {
        /// The text by its length, or the graph.
        what: String,
        /// What reading it, or a run with it, needs, in bytes.
        needed: u64,
        /// What the limit leaves, in bytes.
        available: u64,
    },
}

/// Which kind of error, for other languages: numbers and names never change, and new ones come behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
#[expect(missing_docs, reason = "those of `Error`")]
pub enum ErrorKind {
    Io = 1,
    Format = 2,
    Checksum = 3,
    Signature = 4,
    OutputExists = 5,
    Tokenizer = 6,
    TooLong = 7,
    Input = 8,
    LibraryNotFound = 9,
    Device = 10,
    Session = 11,
    QueueFull = 12,
    Cancelled = 13,
    DeadlinePassed = 14,
    MemoryLimit = 15,
    Setting = 16,
    Forked = 17,
}

impl ErrorKind {
    /// The name, in words that are joined by `_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Format => "format",
            Self::Checksum => "checksum",
            Self::Signature => "signature",
            Self::OutputExists => "output_exists",
            Self::Tokenizer => "tokenizer",
            Self::TooLong => "too_long",
            Self::Input => "input",
            Self::LibraryNotFound => "library_not_found",
            Self::Device => "device",
            Self::Session => "session",
            Self::QueueFull => "queue_full",
            Self::Cancelled => "cancelled",
            Self::DeadlinePassed => "deadline_passed",
            Self::MemoryLimit => "memory_limit",
            Self::Setting => "setting",
            Self::Forked => "forked",
        }
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::Format { .. } => ErrorKind::Format,
            Self::Checksum { .. } => ErrorKind::Checksum,
            Self::Signature { .. } => ErrorKind::Signature,
            Self::OutputExists { .. } => ErrorKind::OutputExists,
            Self::Tokenizer(_) => ErrorKind::Tokenizer,
            Self::TooLong { .. } => ErrorKind::TooLong,
            Self::Input { .. } => ErrorKind::Input,
            Self::LibraryNotFound { .. } => ErrorKind::LibraryNotFound,
            Self::Device { .. } => ErrorKind::Device,
            Self::Session { .. } => ErrorKind::Session,
            Self::QueueFull { .. } => ErrorKind::QueueFull,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::DeadlinePassed => ErrorKind::DeadlinePassed,
            Self::MemoryLimit { .. } => ErrorKind::MemoryLimit,
            Self::Setting { .. } => ErrorKind::Setting,
            Self::Forked => ErrorKind::Forked,
        }
    }

    pub(crate) fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason }
    }

    pub(crate) fn format(path: &Path, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), expected: expected.into(), got: got.into() }
    }

    pub(crate) fn session(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Session { path: path.to_owned(), message: message.to_string() }
    }

    /// A device that ONNX Runtime cannot use, with its reason: what its own message says of its source is left out.
    pub(crate) fn device(device: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string();
        let message = reason.rsplit_once(" : FAIL : ").map_or(reason.as_str(), |(_, message)| message);
        Self::Device { device: device.to_string(), message: message.trim().to_owned() }
    }
}

/// Whether a file could not be written since there is no room for it, which is no fault of what was given.
pub fn is_disk_full(reason: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(reason.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}

/// To three digits or so, as few as they may be.
fn megabytes(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    match megabytes {
        ..1.0 => format!("{megabytes:.3} MB"),
        _ => format!("{megabytes:.1} MB"),
    }
}
