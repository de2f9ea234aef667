//! Large tensors that ONNX Runtime reads where they lie: in memory that was read, in a mapped file, or in the program.

#![allow(unsafe_code, reason = "ort takes such memory only as one allocation of its own kind")]

use std::path::Path;

use ort::{
    AsPointer,
    session::{Session, builder::SessionBuilder},
    sys,
};

use crate::store::Bytes;

/// A session, and the memory from which it reads its large tensors.
#[derive(Debug)]
pub(crate) struct LoadedSession {
    session: Session,
    /// Behind the session: fields are dropped in this order.
    _data: Option<Bytes>,
}

impl LoadedSession {
    /// Loads a graph from its bytes; `data` is the name and the content of its external file, if it has one.
    pub(crate) fn from_memory(
        mut builder: SessionBuilder,
        graph: &[u8],
        data: Option<(&Path, Bytes)>,
    ) -> ort::Result<Self> {
        if let Some((name, data)) = &data {
            add(&mut builder, name, data)?;
        }
        Ok(Self { session: builder.commit_from_memory(graph)?, _data: data.map(|(_, data)| data) })
    }

    /// Loads a graph from a file, and maps the tensors beside it.
    pub(crate) fn from_file(mut builder: SessionBuilder, graph: &Path) -> ort::Result<Self> {
        Ok(Self { session: builder.commit_from_file(graph)?, _data: None })
    }

    pub(crate) fn get(&self) -> &Session {
        &self.session
    }

    pub(crate) fn get_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// Gives a builder the content of the external file that the graph calls `name`. The sessions that it makes read from it.
fn add(builder: &mut SessionBuilder, name: &Path, data: &Bytes) -> ort::Result<()> {
    let name = os_string(name);
    let (names, buffers, sizes) = ([name.as_ptr()], [data.as_ptr().cast_mut().cast()], [data.len()]);
    // SAFETY: each array has the one element that the last argument tells. ONNX Runtime copies the name. It only reads the
    // buffer, which does not move and which a `LoadedSession` keeps longer than the session; the builder goes before.
    let status = unsafe {
        let add = ort::api().AddExternalInitializersFromMemory;
        add(builder.ptr_mut(), names.as_ptr(), buffers.as_ptr(), sizes.as_ptr(), 1)
    };
    // SAFETY: it is the status that the call has returned, and nobody else releases it.
    unsafe { ort::Error::result_from_status(status) }
}

/// A path in the system's characters, with a zero behind it.
fn os_string(path: &Path) -> Vec<sys::os_char> {
    #[cfg(windows)]
    let characters = std::os::windows::ffi::OsStrExt::encode_wide(path.as_os_str());
    #[cfg(not(windows))]
    let characters = path.as_os_str().as_encoded_bytes().iter().map(|&byte| byte as sys::os_char);
    characters.chain([0]).collect()
}
