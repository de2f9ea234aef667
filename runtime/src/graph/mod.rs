//! Graphs, checked before ONNX Runtime sees them: bundles come from strangers, and what it is given it trusts. It reads
//! files that a graph names, allocates what a graph asks for, and has crashed on graphs that it should have refused.
//!
//! A graph is run if all of this holds:
//! - It is a `ModelProto` in which no field occurs twice that protobuf would merge, of bounded numbers of parts
//!   (`wire`, `model`, `types`).
//! - It has ONNX's operator set from 7 to 26, and no functions, training, sparse tensors or graphs within nodes.
//! - Its operators are known, with inputs and outputs as they should be (`operators`).
//! - Its attributes are numbers, texts and tensors, of the type that they say, and in the range that the operators
//!   take.
//! - Its tensors are numeric, with as much data as their dimensions say: within the graph, or within the one file
//!   beside it (`tensors`).
//! - It reads `input_ids`, `attention_mask` and perhaps `token_type_ids`, and writes `logits`, with the right types.
//! - Every name is made once, and before it is used.
//! - The sizes that it computes grow by constants no further than is bounded (`sizes`).
//!
//! Of a graph of one's own, operators and sizes are not checked: [`Operators::Any`].

mod check;
mod fault;
mod files;
mod fuse;
mod model;
mod operators;
mod pack;
mod rewrite;
mod sizes;
mod tensors;
#[cfg(test)]
mod tests;
mod types;
mod wire;

use std::path::Path;

pub use self::check::Operators;
pub(crate) use self::files::{GraphFiles, MAX_DATA_BYTES, MAX_GRAPH_BYTES};
pub(crate) use self::pack::PACKED;
use crate::error::{Error, Result};

/// Checks the graph in the file `path`, whose large tensors lie in a file of that name beside it and so many bytes.
///
/// # Errors
/// [`Error::Format`] with the first rule that it breaks.
pub fn check(path: &Path, graph: &[u8], data: Option<(&str, u64)>, operators: Operators) -> Result<()> {
    let data = data.map(|(name, bytes)| tensors::DataFile { name, bytes });
    check::check(graph, data, operators).map_err(|fault| Error::format(path, fault.expected, fault.got))
}

/// The graph in the file `path` with operators of our own, or none where there is nothing to fuse.
///
/// # Errors
/// [`Error::Format`] if it is no graph.
#[doc(hidden)]
pub fn fuse(path: &Path, graph: &[u8]) -> Result<Option<Vec<u8>>> {
    fuse::fuse(graph).map_err(|fault| Error::format(path, fault.expected, fault.got))
}
