//! Digests of files that are used: compared when they are read, and remembered where that takes long.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::FileEntry;
use crate::{
    error::{Error, Result},
    file::sha256,
    own::{self, MONTH},
    store::Store,
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

    /// Compares the file of that name, unless it was compared before.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`].
    pub(crate) fn file(&self, store: &Store, name: &str, entry: &FileEntry) -> Result<()> {
        if self.verify == Verify::Never {
            return Ok(());
        }
        let note = self.note(store, name, entry);
        if self.verify == Verify::Once
            && let (Some(note), Some(notes)) = (&note, &self.notes)
            // Who may write to the folder could give a note of ours another name.
            && own::is_own(notes)
            && own::is_own(note)
        {
            return Ok(());
        }
        entry.expect(&store.path(name), store.sha256(name)?)?;
        self.remember(store, name, entry, note);
        Ok(())
    }

    /// Remembers that what was read of a file has its digest, if it still is what it was: `before` is [`Verifier::note`] from
    /// before it was read.
    pub(crate) fn remember(&self, store: &Store, name: &str, entry: &FileEntry, before: Option<PathBuf>) {
        let (Some(note), Some(notes), false) = (before, &self.notes, self.verify == Verify::Never) else { return };
        // What was changed meanwhile has another identity now.
        let is_fresh = store.identity(name).is_none_or(|identity| identity.is_fresh);
        if is_fresh || self.note(store, name, entry).as_ref() != Some(&note) {
            return;
        }
        // Where nothing can be remembered, it is compared again the next time.
        if own::create_dir(notes).is_ok() && own::is_own(notes) {
            own::remove_older(notes, NAME_LENGTH, MONTH, |note| note.to_owned());
            // What a mask lets a group write is not taken for our own.
            let _ = fs::File::create(&note).and_then(|_| own::set_mode(&note, 0o644));
        }
    }

    /// The name of the note about a file, by all that changes when the file does. None without a cache, or where the system
    /// does not say enough.
    pub(crate) fn note(&self, store: &Store, name: &str, entry: &FileEntry) -> Option<PathBuf> {
        let identity = store.identity(name)?.text;
        let name = sha256(format!("{identity} {}", entry.sha256).as_bytes());
        Some(self.notes.as_ref()?.join(&name[..NAME_LENGTH]))
    }
}
