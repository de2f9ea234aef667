//! Fine-tunes BERT text classifiers with candle, and exports them as bundles for [`nimbert`].
//!
//! Modules in the order of the data: [`dataset`] reads labelled texts, [`split`] divides them, [`dataloader`] batches
//! their token ids, [`model`] (with [`ops`]) computes logits and gradients, [`loss`], [`optimizer`] and [`schedule`]
//! say how the weights change, [`train`] is the loop, [`metrics`] and [`evaluate`] judge, [`onnx`] builds, quantizes and
//! validates the graph, [`export`] packs the bundle, [`report`] tells what happened.

pub mod dataloader;
pub mod dataset;
mod error;
pub mod evaluate;
pub mod export;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod onnx;
pub mod ops;
pub mod optimizer;
pub mod prepare;
mod random;
pub mod report;
pub mod schedule;
pub mod split;
pub mod trace;
pub mod train;

pub use error::{Error, Result};
