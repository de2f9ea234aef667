//! Files that are mapped: their pages are shared by all processes, and read when they are needed.

#![allow(unsafe_code, reason = "who changes or truncates a mapped file changes what is read, or ends the process")]

use std::{fs::File, io};

use memmap2::Mmap;

/// Maps a file that nobody may change while it is mapped: on Windows the system sees to it; on Unix nobody may write to it
/// ([`is_read_only`]). None where that is not so.
pub(crate) fn map(file: &File) -> io::Result<Option<Mmap>> {
    if !is_read_only(file)? {
        return Ok(None);
    }
    // SAFETY: nobody may write to the file, and it belongs to this user or to the system's: who changes it all the same has
    // given himself the right first, as he could to change the program.
    unsafe { Mmap::map(file) }.map(Some)
}

/// Whether a file belongs to this user, or to the system's, and has nobody who may write to it.
#[cfg(unix)]
fn is_read_only(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    Ok(metadata.mode() & 0o222 == 0 && [0, crate::own::user_id()].contains(&metadata.uid()))
}

/// Windows lets nobody truncate or write to a file that is mapped.
#[cfg(not(unix))]
fn is_read_only(_: &File) -> io::Result<bool> {
    Ok(cfg!(windows))
}
