//! Digests of files that are used: compared when they are read, and remembered where that takes long.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::FileEntry;
use crate::{
    error::{Error, Result},
    file::{sha256, sha256_file},
    own::{self, MONTH},
};

/// When the digests of a graph's files are compared with the manifest's. Manifest, configuration and tokenizer are small, and
/// are compared at every opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// At every opening.
    Always,
    /// Once: a file that has the size, times, device and inode of one that was compared before is that one. It is remembered
    /// in the cache for a month; without a cache this is [`Verify::Always`].
    #[default]
    Once,
    /// Never: for files that nobody can have changed, such as those of a read-only image that was verified as a whole.
    Never,
}

/// A file that was written so short a time ago may be written again without another time: file systems count in ticks, the
/// coarsest in two seconds.
const TICK: Duration = Duration::from_secs(2);
/// Of a note's name, hexadecimal digits.
const NAME_LENGTH: usize = 32;

impl FileEntry {
    /// Compares the digest of what was read of the file `path`.
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub(crate) fn expect(&self, path: &Path, got: String) -> Result<()> {
        match got.eq_ignore_ascii_case(&self.sha256) {
            true => Ok(()),
            false => Err(Error::Checksum { path: path.to_owned(), expected: self.sha256.clone(), got }),
        }
    }
}

/// Compares files with their digests, and remembers which it has compared.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    verify: Verify,
    /// A folder of empty files: each says by its name that a file of that identity had that digest.
    notes: Option<PathBuf>,
}

impl Verifier {
    pub(crate) fn new(verify: Verify, cache: Option<&Path>) -> Self {
        Self { verify, notes: cache.map(|cache| cache.join("verified")) }
    }

    /// Compares what was read of the file `path`.
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub(crate) fn bytes(&self, path: &Path, content: &[u8], entry: &FileEntry) -> Result<()> {
        if self.verify == Verify::Never {
            return Ok(());
        }
        entry.expect(path, sha256(content))
    }

    /// Compares the file `path`, unless it was compared before.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`].
    pub(crate) fn file(&self, path: &Path, entry: &FileEntry) -> Result<()> {
        if self.verify == Verify::Never {
            return Ok(());
        }
        let note = self.note(path, entry);
        if self.verify == Verify::Once
            && let (Some(note), Some(notes)) = (&note, &self.notes)
            // Who may write to the folder could give a note of ours another name.
            && own::is_own(notes)
            && own::is_own(note)
        {
            return Ok(());
        }
        entry.expect(path, sha256_file(path)?)?;
        self.remember(path, entry, note);
        Ok(())
    }

    /// Remembers that what was read of the file `path` has its digest, if it still is what it was: `before` is
    /// [`Verifier::note`] from before it was read.
    pub(crate) fn remember(&self, path: &Path, entry: &FileEntry, before: Option<PathBuf>) {
        let (Some(note), Some(notes), false) = (before, &self.notes, self.verify == Verify::Never) else { return };
        // What was changed meanwhile has another identity now.
        if is_fresh(path) || self.note(path, entry).as_ref() != Some(&note) {
            return;
        }
        // Where nothing can be remembered, it is compared again the next time.
        if own::create_dir(notes).is_ok() && own::is_own(notes) {
            own::remove_older(notes, NAME_LENGTH, MONTH, |note| note.to_owned());
            let _ = fs::File::create(note);
        }
    }

    /// The name of the note about a file, by all that changes when the file does. None without a cache, or where the system
    /// does not say enough.
    pub(crate) fn note(&self, path: &Path, entry: &FileEntry) -> Option<PathBuf> {
        let identity = identity(path)?;
        let name = sha256(format!("{identity} {}", entry.sha256).as_bytes());
        Some(self.notes.as_ref()?.join(&name[..NAME_LENGTH]))
    }
}

/// Whether a file's times are too young to tell it from what is written next.
fn is_fresh(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return true };
    #[cfg(unix)]
    let times = {
        use std::os::unix::fs::MetadataExt;
        // The time of change, too: that of modification can be set to any.
        [
            metadata.modified().ok(),
            u64::try_from(metadata.ctime()).ok().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
        ]
    };
    #[cfg(not(unix))]
    let times = [metadata.modified().ok()];
    // A time in the future tells nothing either.
    times.iter().any(|time| time.is_none_or(|time| time.elapsed().map_or(true, |age| age < TICK)))
}

/// What tells a file from another, and from itself before a change.
fn identity(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some(format!("{} {} {} {modified:?} {changed:?}", metadata.dev(), metadata.ino(), metadata.len()))
    }
    #[cfg(not(unix))]
    {
        // The standard library tells no number of a file here: its path stands for it.
        let path = path.canonicalize().ok()?;
        let (created, modified) = (metadata.created().ok()?, metadata.modified().ok()?);
        Some(format!("{} {} {modified:?} {created:?}", path.display(), metadata.len()))
    }
}
