//! Our own differentiable encoder, with Hugging Face's parameter names.
//!
//! candle-transformers' BERT serves inference: its layer normalization cuts the gradient and its dropout does nothing
//! (ARCHITECTURE.md), so it would train the head only.

mod classifier;
mod config;
mod family;
mod folder;
mod gradients;
mod parameters;

pub use classifier::{Encoded, Output, SequenceClassifier};
pub use config::EncoderConfig;
pub use family::Family;
pub(crate) use family::Names;
pub use folder::ModelFolder;
pub use gradients::{Gradient, Gradients};
pub use parameters::{LoadReport, Parameters};
