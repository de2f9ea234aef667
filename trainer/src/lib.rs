//! Fine-tunes BERT text classifiers.
pub mod dataloader;
mod error;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optimizer;
mod random;
pub mod schedule;
pub use error::{Error, Result};
