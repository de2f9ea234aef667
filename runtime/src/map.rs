//! Files that are mapped: their pages are shared by all processes, and read when they are needed.

#![allow(unsafe_code, reason = "who changes or truncates a mapped file changes what is read, or ends the process")]

use std::{fs::File, io, path::Path};

use memmap2::Mmap;

/// Opens a file, and maps it if nobody may change it while it is open ([`expect_unchanged`]).
pub(crate) fn open(path: &Path) -> io::Result<(File, Option<Mmap>)> {
    let (file, is_unchanged) = expect_unchanged(path)?;
    if !is_unchanged {
        return Ok((file, None));
    }
    // SAFETY: nobody may write to the file as long as it is open, and it belongs to this user or to the system's: who changes
    // it all the same has given himself the right first, as he could to change the program.
    let mapped = unsafe { Mmap::map(&file) }?;
    Ok((file, Some(mapped)))
}

/// Whether it belongs to this user, or to the system's, and has nobody who may write to it.
#[cfg(unix)]
fn expect_unchanged(path: &Path) -> io::Result<(File, bool)> {
    use std::os::unix::fs::MetadataExt;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let is_unchanged = metadata.mode() & 0o222 == 0 && [0, crate::own::user_id()].contains(&metadata.uid());
    Ok((file, is_unchanged))
}

/// Opened so, nobody else may write to it, but rename and remove it, unless somebody has it open for writing already.
#[cfg(windows)]
fn expect_unchanged(path: &Path) -> io::Result<(File, bool)> {
    use std::os::windows::fs::OpenOptionsExt;
    const SHARE_READ: u32 = 1;
    const SHARE_DELETE: u32 = 4;
    const SHARING_VIOLATION: i32 = 32;
    match File::options().read(true).share_mode(SHARE_READ | SHARE_DELETE).open(path) {
        Err(error) if error.raw_os_error() == Some(SHARING_VIOLATION) => Ok((File::open(path)?, false)),
        opened => Ok((opened?, true)),
    }
}

#[cfg(not(any(unix, windows)))]
fn expect_unchanged(path: &Path) -> io::Result<(File, bool)> {
    Ok((File::open(path)?, false))
}
