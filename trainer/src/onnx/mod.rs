//! The exported graph: built from the model's parameters, quantized, and compared with the model before it ships.

mod classifier;
mod fp16;
mod graph;
mod integers;
mod packing;
mod ranges;
mod validate;

pub use candle_onnx::onnx::ModelProto;
use candle_onnx::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
pub use classifier::{GraphConfig, Int8, Operators, Range, Ranges, Storage, export, quantizable};
pub use fp16::to_fp16;
pub(crate) use graph::float_output;
pub use ranges::{Calibration, Histogram};
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

/// Tensors of at least this many bytes lie beside the graph, each at a multiple of it: the largest page size in use, so
/// that each can be mapped.
const EXTERNAL_ALIGNMENT: usize = 1 << 16;

/// Writes a model as an ONNX file, with its large tensors in a second file of the same name and the ending `.data`.
///
/// # Errors
/// [`Error::Io`].
pub fn write_external(mut model: ModelProto, path: &Path) -> Result<()> {
    let is_large = |tensor: &TensorProto| tensor.raw_data.len() >= EXTERNAL_ALIGNMENT;
    if !model.graph.iter().flat_map(|graph| &graph.initializer).any(is_large) {
        return write(&model, path);
    }
    let data_path = path.with_added_extension("data");
    let location = data_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = std::fs::File::create(&data_path).map_err(|error| Error::io(&data_path, error))?;
    let mut file = std::io::BufWriter::new(file);
    let mut offset = 0;
    for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if !is_large(tensor) {
            continue;
        }
        let bytes = std::mem::take(&mut tensor.raw_data);
        let padding = vec![0; bytes.len().next_multiple_of(EXTERNAL_ALIGNMENT) - bytes.len()];
        std::io::Write::write_all(&mut file, &bytes)
            .and_then(|()| std::io::Write::write_all(&mut file, &padding))
            .map_err(|error| Error::io(&data_path, error))?;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.data_location = DataLocation::External as i32;
        tensor.external_data = vec![
            entry("location", location.clone()),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ];
        offset += bytes.len() + padding.len();
    }
    std::io::Write::flush(&mut file).map_err(|error| Error::io(&data_path, error))?;
    write(&model, path)
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
