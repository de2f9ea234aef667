//! Hidden folders beside what is being made: nothing half-written lies in its place, and what a killed run has left is cleared
//! by the next.

use std::{
    fs::{self, TryLockError},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    file::create_hidden,
};

/// What such a folder is for, in its name.
const PURPOSE: &str = "partial";

/// Links that are followed, at most: as many as Linux follows.
const MOST_LINKS: usize = 40;

/// What `path` names behind any links, although nothing may be there: where a file is to be made or replaced, so that the links stay.
pub fn behind_links(path: &Path) -> PathBuf {
    // A slash behind a link's name would have it followed.
    let mut path: PathBuf = path.components().collect();
    match path.canonicalize() {
        Ok(place) if path.is_symlink() => return place,
        Ok(_) => return path,
        // Such as /dev/stdout, which is a link to no name where it is a pipe.
        Err(_) if path.exists() => return path,
        Err(_) => {}
    }
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    path
}

/// A folder beside a target that goes with its owner.
#[derive(Debug)]
pub struct HiddenFolder {
    path: PathBuf,
    /// The folder, locked as long as its owner lives: what a killed run has left is not. None where a folder cannot be locked.
    _lock: Option<fs::File>,
}

impl HiddenFolder {
    /// Makes one for the target of that name in `parent`, and removes those of runs that were killed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        clear(parent, name);
        loop {
            let path = create_hidden(parent, name, PURPOSE)?;
            let lock = match fs::File::open(&path) {
                Err(_) => None,
                Ok(folder) => match folder.try_lock() {
                    Ok(()) => Some(folder),
                    // A run that clears has taken it for left, between the two.
                    Err(TryLockError::WouldBlock) => continue,
                    Err(TryLockError::Error(_)) => None,
                },
            };
            if path.exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// The same for the target `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn beside(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::create(absolute.parent().unwrap_or(&absolute), &name)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HiddenFolder {
    fn drop(&mut self) {
        // What was put in its place is gone from here; what cannot be removed is cleared by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what killed runs have left for a target: their folders are locked by nobody.
fn clear(parent: &Path, name: &str) {
    let prefix = format!(".{name}.{PURPOSE}-");
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    // A pipe of that name, which somebody else may have put there, would have one wait for ever.
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let is_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&prefix) && is_folder(entry);
    for entry in entries.filter(is_ours) {
        let Ok(folder) = fs::File::open(entry.path()) else { continue };
        if folder.try_lock().is_ok() {
            // Still locked, so that one who has just made it does not take it. What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_has_left_is_cleared_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(".bundle.partial-1-0");
        fs::create_dir(&left).unwrap();
        let living = HiddenFolder::create(parent.path(), "bundle").unwrap();
        assert!(!left.exists());
        let second = HiddenFolder::beside(&parent.path().join("bundle")).unwrap();
        assert!(living.path().exists() && second.path().exists());
        drop((living, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
