//! Graphs: what they are made of, integers, and how far their answers are from the model's. `model::graph` puts one together.

mod exporter;
mod fp16;
mod graph;
mod integers;
mod packing;
mod ranges;
mod rounding;
mod validate;

pub use candle_onnx::onnx::ModelProto;
use candle_onnx::onnx::{StringStringEntryProto, tensor_proto::DataLocation};
pub(crate) use exporter::{Affine, Exporter, TokenInputs};
pub use exporter::{GraphConfig, Int8, Observations, Observed, Operators, Range, Storage, WeightRange};
pub use fp16::to_fp16;
pub(crate) use graph::{Axis, float_attribute, float_output, int_attribute, ints_attribute};
pub use ranges::{Calibration, Histogram};
pub use rounding::Covariance;
pub(crate) use rounding::Moments;
pub use validate::{Comparison, compare};

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes a model as an ONNX file.
///
/// # Errors
/// [`Error::Io`].
pub fn write(model: &ModelProto, path: &Path) -> Result<()> {
    std::fs::write(path, prost::Message::encode_to_vec(model)).map_err(|error| Error::io(path, error))
}

/// Tensors of at least this many bytes lie beside the graph.
const EXTERNAL_BYTES: usize = 1 << 16;

/// Tensors beside the graph begin at multiples of it: a page, so that none begins in the last page of another. Where
/// pages are larger, ONNX Runtime maps from the page's start.
const EXTERNAL_ALIGNMENT: usize = 1 << 12;

/// The file beside the graph: the name under which Hugging Face's libraries look for it, `model.onnx_data`.
pub fn external_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("_data");
    path.with_file_name(name)
}

/// Writes a model as an ONNX file, with its large tensors in a second file ([`external_path`]), which ONNX Runtime maps:
/// they are neither read nor copied when the graph is loaded, and processes share them. The model is then as it was.
///
/// # Errors
/// [`Error::Io`]; the model has lost tensors then.
pub fn write_external(model: &mut ModelProto, path: &Path) -> Result<()> {
    let Some(graph) = &mut model.graph else { return write(model, path) };
    let tensors = &mut graph.initializer;
    let mut large: Vec<usize> =
        (0..tensors.len()).filter(|&index| tensors[index].raw_data.len() >= EXTERNAL_BYTES).collect();
    if large.is_empty() {
        return write(model, path);
    }
    let data_path = external_path(path);
    let location = data_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = std::fs::File::create(&data_path).map_err(|error| Error::io(&data_path, error))?;
    let mut file = std::io::BufWriter::new(file);
    let mut offset = 0_usize;
    // Behind whole pages nothing is padded.
    large.sort_by_key(|&index| !tensors[index].raw_data.len().is_multiple_of(EXTERNAL_ALIGNMENT));
    // What is encoded is copied: it should be the rest alone.
    let mut taken = Vec::with_capacity(large.len());
    for index in large {
        let tensor = &mut tensors[index];
        let bytes = std::mem::take(&mut tensor.raw_data);
        let padding = vec![0; offset.next_multiple_of(EXTERNAL_ALIGNMENT) - offset];
        offset += padding.len();
        std::io::Write::write_all(&mut file, &padding)
            .and_then(|()| std::io::Write::write_all(&mut file, &bytes))
            .map_err(|error| Error::io(&data_path, error))?;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.data_location = DataLocation::External as i32;
        tensor.external_data = vec![
            entry("location", location.clone()),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ];
        offset += bytes.len();
        taken.push((index, bytes));
    }
    std::io::Write::flush(&mut file).map_err(|error| Error::io(&data_path, error))?;
    write(model, path)?;
    let Some(graph) = &mut model.graph else { unreachable!("it had tensors") };
    for (index, bytes) in taken {
        let tensor = &mut graph.initializer[index];
        tensor.raw_data = bytes;
        tensor.data_location = DataLocation::Default as i32;
        tensor.external_data.clear();
    }
    Ok(())
}

/// Reads an ONNX file, with the tensors that lie beside it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] if it is none.
pub fn read(path: &Path) -> Result<ModelProto> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let mut model: ModelProto = prost::Message::decode(bytes.as_slice())
        .map_err(|error: prost::DecodeError| Error::model(path, "an ONNX model", error.to_string()))?;
    let data_path = external_path(path);
    let mut data = None;
    for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if tensor.data_location != DataLocation::External as i32 {
            continue;
        }
        let data: &Vec<u8> = match &mut data {
            Some(data) => data,
            none => none.insert(std::fs::read(&data_path).map_err(|error| Error::io(&data_path, error))?),
        };
        let number = |key: &str, otherwise: usize| match tensor.external_data.iter().find(|entry| entry.key == key) {
            Some(entry) => entry.value.parse::<usize>().ok(),
            None => Some(otherwise),
        };
        // Both may be left out: it is the whole file then.
        let bytes = number("offset", 0).and_then(|start| {
            let length = number("length", data.len().checked_sub(start)?)?;
            data.get(start..start.checked_add(length)?)
        });
        let Some(bytes) = bytes else {
            return Err(Error::model(&data_path, format!("the tensor {}", tensor.name), "a file that ends before it"));
        };
        tensor.raw_data = bytes.to_vec();
        tensor.external_data.clear();
        tensor.data_location = DataLocation::Default as i32;
    }
    Ok(model)
}
