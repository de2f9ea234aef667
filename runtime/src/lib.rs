//! Runs BERT-family text classifiers that `nimbert-train` exported: one folder or file, ONNX Runtime, no
//! Python.
//!
//! ```no_run
//! use nimbert::{Classifier, Options};
//!
//! let classifier = Classifier::open("reviews-bundle", &Options::default())?;
//! let prediction = classifier.classify("I love this movie!")?;
//! println!("{} ({:.2})", prediction.label, prediction.score);
//! for prediction in classifier.classify_batch(&["dull", "a delight from start to finish"])? {
//!     println!("{}", prediction.to_json(None));
//! }
//! # Ok::<(), nimbert::Error>(())
//! ```
//!
//! Modules in the order of the data: [`bundle`] and [`config`] say what there is, [`tokenizer`] turns a text into ids,
//! [`batch`] pads ids to a rectangle, [`session`] turns a batch into logits, [`prediction`] turns logits into labels;
//! [`Classifier`] is all of them behind one call, and [`explain`] says which words an answer hangs on.
//!
#![doc = include_str!("../FORMAT.md")]

mod archive;
mod background;
pub mod batch;
pub mod bundle;
mod call;
mod classifier;
pub mod compiled;
pub mod config;
pub mod device;
mod error;
mod exchange;
pub mod explain;
mod external;
mod file;
mod fused;
pub mod graph;
pub mod guard;
#[doc(hidden)]
pub mod hangup;
mod hidden;
mod library;
mod map;
#[doc(hidden)]
pub mod math;
pub mod memory;
#[doc(hidden)]
pub mod own;
pub mod placement;
mod precision;
pub mod prediction;
mod processor;
#[cfg(feature = "rows")]
pub mod rows;
mod scheduler;
pub mod session;
mod settings;
mod store;
pub mod summary;
mod threads;
pub mod tokenizer;

pub use background::{Background, BackgroundOptions, OwnedExplained, OwnedInput, Pending};
pub use batch::Batch;
pub use bundle::{Bundle, Manifest, PublicKey, Verify};
pub use call::{CallOptions, Timing};
pub use classifier::{Classifier, Options, Parallelism, Queued};
pub use config::ProblemType;
pub use device::Device;
pub use error::{Error, ErrorKind, Result, is_disk_full};
pub use file::{sha256, sha256_file};
pub use graph::Operators;
pub use hidden::{HiddenFolder, behind_links};
pub use library::{LIBRARY_VARIABLE, TELEMETRY_VARIABLE, load_library};
pub use precision::Precision;
pub use prediction::{Decision, Prediction, Task};
pub use processor::Requirement;
pub use session::{Session, SessionOptions};
pub use settings::{SETTINGS, parse_size};
pub use tokenizer::{Encoding, TextInput, Tokenizer, Truncation, TruncationSide};
