//! A graph's files in memory. What was compared with its digest and checked is what runs: ONNX Runtime is given the bytes,
//! not a path behind which others may lie by then.

use std::path::{Path, PathBuf};

use super::{Operators, check};
use crate::{
    error::Result,
    file::expect_at_most,
    store::{Bytes, Store},
};

/// No protobuf message may be larger, in bytes: its sizes have 31 bits.
pub(crate) const MAX_GRAPH_BYTES: u64 = (1 << 31) - 1;
/// No file of large tensors may be: two billion weights of 32 bits, six times the largest encoder that is trained here.
pub(crate) const MAX_DATA_BYTES: u64 = 8 << 30;

/// A graph, and the file of its large tensors where it has one.
#[derive(Debug, Clone)]
pub(crate) struct GraphFiles {
    /// The graph's file.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) bytes: Bytes,
    /// The content of the other file. Every session keeps it.
    pub(crate) data: Option<Bytes>,
}

impl GraphFiles {
    /// Reads and checks the graph at `path`, and reads the file of that name and the ending `_data` if it is there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no graph that may be run.
    pub(crate) fn open(path: &Path, operators: Operators) -> Result<Self> {
        let folder = path.parent().unwrap_or(path).to_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (store, data) = (Store::Folder(folder), format!("{name}_data"));
        let bytes = store.read(&name, MAX_GRAPH_BYTES)?;
        let size = if store.has(&data) { Some(store.size(&data)?) } else { None };
        size.map_or(Ok(()), |size| expect_at_most(&store.path(&data), size, MAX_DATA_BYTES))?;
        check(path, &bytes, size.map(|size| (data.as_str(), size)), operators)?;
        let data = size.map(|size| store.read_large(&data, size)).transpose()?;
        Ok(Self { path: path.to_owned(), bytes, data })
    }

    /// The other file's name, by which the graph names it.
    pub(crate) fn data_name(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push("_data");
        name.into()
    }
}
