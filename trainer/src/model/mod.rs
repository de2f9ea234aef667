//! Our own differentiable encoder, with Hugging Face's parameter names.
//!
//! candle-transformers' BERT serves inference: its layer normalization cuts the gradient and its dropout does nothing
//! (ARCHITECTURE.md), so it would train the head only.

mod blocks;
mod classifier;
mod config;
mod family;
mod folder;
mod gradients;
mod graph;
mod parameters;

pub(crate) use blocks::{HEAD_INPUT, scaled};
pub(crate) use classifier::of_texts;
pub use classifier::{Encoded, Output, SequenceClassifier};
pub use config::{
    BiasConfig, DistanceConfig, DropoutConfig, EncoderConfig, HeadKind, LayerConfig, Pooling, PositionRows,
};
pub use family::Family;
pub use folder::ModelFolder;
pub(crate) use folder::{WEIGHTS, WEIGHTS_INDEX, shards};
pub use gradients::{Gradient, Gradients};
pub(crate) use graph::GraphNodes;
pub use parameters::{LoadReport, Parameters};
