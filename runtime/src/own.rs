//! Files that nobody else can have written: what lies in a cache decides answers.

#![allow(unsafe_code, reason = "the standard library does not tell who runs the process")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What is used is marked at most so often; and nothing is in the making for so long.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// What was not used for so long is removed.
pub const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether a file or folder is there, is no link, belongs to this user, and may be written by nobody else. Elsewhere than on
/// Unix the system's folder for caches is the user's own.
pub fn is_own(path: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        !metadata.is_symlink() && metadata.mode() & 0o022 == 0 && metadata.uid() == user_id()
    }
    #[cfg(not(unix))]
    {
        !metadata.is_symlink()
    }
}

/// Whether nobody else can rename what this user has in a folder, or put something in its place.
pub(crate) fn keeps_names(folder: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        /// Of a folder in which everybody may rename his own only.
        const STICKY: u32 = 0o1000;
        // Behind a link, which its owner may have made: what it names is looked at.
        fs::metadata(folder).is_ok_and(|metadata| {
            let is_kept = metadata.mode() & 0o022 == 0 || metadata.mode() & STICKY != 0;
            is_kept && [0, user_id()].contains(&metadata.uid())
        })
    }
    #[cfg(not(unix))]
    {
        folder.is_dir()
    }
}

/// The user whose files this process makes.
#[cfg(unix)]
pub(crate) fn user_id() -> u32 {
    // SAFETY: POSIX declares it so; it has no arguments and always succeeds.
    unsafe extern "C" {
        safe fn geteuid() -> u32;
    }
    geteuid()
}

/// Makes a folder, and those above it, if they are not there, into which nobody else may write, whatever the process's mask.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => for_owner_to_write(path),
    }
}

/// Takes from all others the right to write.
fn for_owner_to_write(path: &Path) -> io::Result<()> {
    take_rights(path, 0o022)
}

/// Takes from everybody the right to write to a file. Who may read it stays as it is.
pub(crate) fn for_nobody_to_write(path: &Path) -> io::Result<()> {
    take_rights(path, 0o222)
}

fn take_rights(path: &Path, rights: u32) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        set_mode(path, fs::metadata(path)?.permissions().mode() & !rights)
    }
    #[cfg(not(unix))]
    {
        let _ = (path, rights);
        Ok(())
    }
}

/// Sees to it that a file's content is on the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    // Windows does that for files alone that are open for writing.
    fs::File::options().read(true).write(cfg!(windows)).open(path)?.sync_all()
}

/// The same of the names in a folder, where the system can: shares of other machines often cannot.
pub(crate) fn sync_names(folder: &Path) {
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
}

/// Sets who may read and write, where there is such.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = (path, mode);
        Ok(())
    }
}

/// Removes what lies in `folder` under a name of so many hexadecimal digits and is older than `age`, by the time of what
/// `used` names; nothing else that may lie there.
pub fn remove_older(folder: &Path, digits: usize, age: Duration, used: impl Fn(&Path) -> PathBuf) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let path = entry.path();
        if is_ours && is_older(&used(&path), age) {
            // What cannot be removed is in nobody's way.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Says that a file is still used.
pub fn touch(path: &Path) {
    if is_older(path, DAY) {
        // A cache that may not be written is used all the same, and a file may be read-only.
        // (Windows wants the right to write for that.)
        let opened = fs::File::options().read(true).write(cfg!(windows)).open(path);
        let _ = opened.and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// Whether a file was written so long ago.
pub(crate) fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed > age))
}
