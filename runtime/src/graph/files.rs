//! A graph's files in memory. What was compared with its digest and checked is what runs: ONNX Runtime is given the bytes,
//! not a path behind which others may lie by then.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Operators, check};
use crate::{
    error::{Error, Result},
    file::{expect_file, read_capped},
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
    pub(crate) bytes: Vec<u8>,
    /// The content of the other file. Shared, since every session keeps it.
    pub(crate) data: Option<Arc<[u8]>>,
}

impl GraphFiles {
    /// Reads and checks the graph at `path`, and reads the file of that name and the ending `_data` if it is there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no graph that may be run.
    pub(crate) fn open(path: &Path, operators: Operators) -> Result<Self> {
        let bytes = read_capped(path, MAX_GRAPH_BYTES)?;
        let mut graph = Self { path: path.to_owned(), bytes, data: None };
        let data = data_path(path);
        let size = if data.exists() { Some(expect_file(&data)?) } else { None };
        let name = graph.data_name().to_string_lossy().into_owned();
        check(path, &graph.bytes, size.map(|size| (name.as_str(), size)), operators)?;
        if let Some(size) = size {
            graph.read_data(&data, size)?;
        }
        Ok(graph)
    }

    /// Reads the large tensors: a file of that size.
    ///
    /// # Errors
    /// [`Error::Io`] if it is shorter; [`Error::Format`] if it does not fit into memory.
    pub(crate) fn read_data(&mut self, path: &Path, size: u64) -> Result<&[u8]> {
        // Asked for first: an allocation that fails would end the process.
        let fits = size <= MAX_DATA_BYTES && Vec::<u8>::new().try_reserve_exact(size as usize).is_ok();
        if !fits {
            return Err(Error::format(path, "large tensors that fit into memory", format!("{size} bytes")));
        }
        let mut content: Arc<[u8]> = std::iter::repeat_n(0, size as usize).collect();
        let buffer = Arc::get_mut(&mut content).expect("nobody else has it yet");
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(buffer));
        read.map_err(|error| Error::io(path, error))?;
        Ok(self.data.insert(content))
    }

    /// The other file's name, by which the graph names it.
    pub(crate) fn data_name(&self) -> PathBuf {
        data_path(&self.path).file_name().map(PathBuf::from).unwrap_or_default()
    }
}

/// The file for a graph's large tensors.
fn data_path(graph: &Path) -> PathBuf {
    let mut name = graph.as_os_str().to_owned();
    name.push("_data");
    name.into()
}
