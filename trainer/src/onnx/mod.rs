//! The exported graph: built from the model's parameters, quantized, and compared with the model before it ships.

mod classifier;
mod graph;
mod packing;
mod quantize;
mod validate;

pub use candle_onnx::onnx::ModelProto;
pub use classifier::export;
pub(crate) use graph::float_output;
pub use quantize::{Storage, quantize};
pub use validate::{Comparison, compare};

use std::path::Path;

use crate::error::{Error, Result};

/// Writes a model as an ONNX file.
///
/// # Errors
/// [`Error::Io`].
pub fn write(model: &ModelProto, path: &Path) -> Result<()> {
    std::fs::write(path, prost::Message::encode_to_vec(model)).map_err(|error| Error::io(path, error))
}

/// Reads an ONNX file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] if it is none.
pub fn read(path: &Path) -> Result<ModelProto> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    prost::Message::decode(bytes.as_slice())
        .map_err(|error: prost::DecodeError| Error::model(path, "an ONNX model", error.to_string()))
}
