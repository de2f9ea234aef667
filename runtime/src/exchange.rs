//! Two folders change places in one step, so that at no moment there is none.

#![allow(unsafe_code, reason = "the standard library has no call for it")]

use std::{io, path::Path};

/// Exchanges what lies under two names. Not everywhere is there such a step: an error says so.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use std::{
        ffi::{CString, c_char, c_int, c_uint},
        os::unix::ffi::OsStrExt,
    };

    unsafe extern "C" {
        /// glibc since 2.28; Linux since 3.15.
        fn renameat2(from: c_int, from_path: *const c_char, to: c_int, to_path: *const c_char, flags: c_uint) -> c_int;
    }
    /// The working directory, for paths that are relative.
    const AT_FDCWD: c_int = -100;
    const RENAME_EXCHANGE: c_uint = 2;
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (one, other) = (path(one)?, path(other)?);
    // SAFETY: both are strings that end with NUL and live until the call returns; it keeps neither.
    match unsafe { renameat2(AT_FDCWD, one.as_ptr(), AT_FDCWD, other.as_ptr(), RENAME_EXCHANGE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Elsewhere there is none.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
