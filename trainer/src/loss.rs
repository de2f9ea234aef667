//! What training minimizes.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// Mean cross-entropy of `logits` `[rows, labels]` against one label id a row: a scalar.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    Ok(candle_nn::loss::cross_entropy(logits, &Tensor::new(labels, &Device::Cpu)?)?)
}
