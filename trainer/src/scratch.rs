//! Folders for what is tried and not kept, and files that appear when they are whole. A run that is killed leaves its own
//! folder behind; the next one clears it.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use nimbert::HiddenFolder;

use crate::error::{Error, Result};

/// How the folders' names begin, in the system's folder for temporary files.
const PREFIX: &str = "nimbert-train-";
/// The file in each that is locked as long as its owner lives.
const LOCK: &str = "lock";

/// A folder that goes with its owner.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// None once the folder is being removed: elsewhere than on Unix an open file cannot be.
    lock: Option<File>,
}

impl Scratch {
    /// Makes a folder, and removes those of runs that were killed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new() -> Result<Self> {
        Self::in_folder(&std::env::temp_dir())
    }

    fn in_folder(parent: &Path) -> Result<Self> {
        clear(parent);
        for attempt in 0.. {
            let path = parent.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 10_000 => continue,
                created => created.map_err(|error| Error::io(&path, error))?,
            }
            // Another run may take it for one that was left behind, until it is locked. Where nothing can be locked, none can.
            let lock = File::create(path.join(LOCK));
            let is_mine = match &lock {
                Ok(lock) => {
                    !matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)) && path.join(LOCK).exists()
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&path, lock.unwrap_err()));
                }
                Err(_) => false,
            };
            if is_mine {
                return Ok(Self { path, lock: lock.ok() });
            }
        }
        unreachable!("names are tried for as long as they are taken")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.lock.take());
        // What cannot be removed now is cleared by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes a file, if it is there.
///
/// # Errors
/// Those of [`std::fs::remove_file`], but that there is none.
pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Has a file written beside its place, and puts it there in one step.
///
/// # Errors
/// Those of `write`; [`Error::Io`], [`Error::Runtime`].
pub fn write_whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let hidden = HiddenFolder::beside(path)?;
    let partial = hidden.path().join("content");
    write(&partial)?;
    fs::rename(&partial, path).map_err(|error| Error::io(path, error))
}

/// Writes a file that is not there yet, which from the first moment only those may read who `mode` says.
///
/// # Errors
/// [`Error::Io`]; nothing is left then.
pub(crate) fn create_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(mode);
    }
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(|error| Error::io(path, error))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        Error::io(path, error)
    })
}

/// Removes folders whose owner has gone.
fn clear(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let lock = entry.path().join(LOCK);
        // A pipe of that name, which anybody may make, would be waited for without end.
        if !fs::symlink_metadata(&lock).is_ok_and(|lock| lock.is_file()) {
            continue;
        }
        let lock = File::options().write(true).open(lock);
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Another user's, or one that another run is clearing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_has_left_is_cleared_by_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::in_folder(parent.path()).unwrap();
        let left = parent.path().join("nimbert-train-1-0");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("graph.onnx"), "large").unwrap();
        // What only looks like it is left alone: a pipe, or a link to a file of somebody else.
        #[cfg(unix)]
        {
            let (pipe, link) = (parent.path().join("nimbert-train-2-0"), parent.path().join("nimbert-train-3-0"));
            for folder in [&pipe, &link] {
                fs::create_dir(folder).unwrap();
            }
            assert!(std::process::Command::new("mkfifo").arg(pipe.join(LOCK)).status().unwrap().success());
            let file = parent.path().join("file");
            fs::write(&file, "").unwrap();
            std::os::unix::fs::symlink(&file, link.join(LOCK)).unwrap();
            Scratch::in_folder(parent.path()).unwrap();
            assert!(pipe.exists() && link.exists());
            for made in [&pipe, &link] {
                fs::remove_dir_all(made).unwrap();
            }
            fs::remove_file(file).unwrap();
        }
        let next = Scratch::in_folder(parent.path()).unwrap();
        assert!(!left.exists() && living.path().exists() && next.path().exists());
        drop((living, next));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
