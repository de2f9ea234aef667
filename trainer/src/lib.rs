//! Fine-tunes BERT text classifiers with candle, and exports them as bundles for [`nimbert`].
//!
//! Modules in the order of the data: [`dataset`] reads labelled texts, [`split`] divides them, [`dataloader`] batches
//! their token ids, [`model`] (with [`ops`]) computes logits and gradients, [`loss`], [`optimizer`] and [`schedule`]
//! say how the weights change, [`train`] is the loop, [`metrics`] and [`evaluate`] judge, [`onnx`] builds, quantizes and
//! validates the graph, [`export`] packs the bundle, [`report`] tells what happened.

pub mod bases;
pub mod calibrate;
pub mod check;
pub mod checkpoint;
pub mod compress;
pub mod compute;
pub mod contrast;
pub mod cross_validation;
pub mod dataloader;
pub mod dataset;
pub mod distill;
pub mod embed;
mod error;
pub mod evaluate;
pub mod export;
pub mod feature_cache;
pub mod features;
pub mod html;
pub mod hub;
pub mod label_errors;
pub mod logistic;
pub mod loss;
pub mod mahalanobis;
pub mod metrics;
pub mod model;
pub mod onnx;
pub mod ops;
pub mod optimizer;
pub mod page;
pub mod prepare;
mod random;
pub mod record;
pub mod rehearsal;
pub mod report;
pub mod schedule;
pub mod scratch;
pub mod sign;
pub mod split;
pub mod static_model;
pub mod suggest;
pub mod tasks;
pub mod tensorboard;
pub mod trace;
pub mod train;
pub mod vocabulary;

pub use error::{Error, Result};
