//! Where the files of a bundle, or of a graph's compiled form, lie: in a folder, or as members of one file.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    archive::{Archive, Section, Slice},
    error::{Error, Result},
    file::{copy_hashed, expect_at_most, expect_file, read_capped, read_exactly, sha256_reader},
};

/// A file that was written so short a time ago may be written again without another time: file systems count in ticks, the
/// coarsest in two seconds.
const TICK: Duration = Duration::from_secs(2);

/// Files by name.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// In a folder of that path.
    Folder(PathBuf),
    /// In one file.
    Archive(Arc<Archive>),
}

/// What was read, or needs not be: it is mapped, or lies in the program.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    Read(Arc<Vec<u8>>),
    Slice(Slice),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Slice(bytes) => bytes.as_ref(),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Read(Arc::new(bytes))
    }
}

/// What tells a file from another, and from itself before a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// All that the system says of it.
    pub(crate) text: String,
    /// Whether its times are too young to tell it from what is written next.
    pub(crate) is_fresh: bool,
}

impl Store {
    /// The folder, or the file, at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`Archive::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if metadata.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        expect_file(path)?;
        Ok(Self::Archive(Arc::new(Archive::open(path)?)))
    }

    /// The folder, or the file.
    pub(crate) fn location(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Archive(archive) => archive.path(),
        }
    }

    /// The path of a file; of one in an archive, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.location().join(name)
    }

    /// Names of all members, if it is one file: there, nothing may lie that is not listed.
    pub(crate) fn members(&self) -> Vec<&str> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Archive(archive) => archive.names().collect(),
        }
    }

    /// Whether there is a file, or anything else, of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).exists(),
            Self::Archive(archive) => archive.member(name).is_some(),
        }
    }

    /// A file's size.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is a folder, a pipe or a device.
    pub(crate) fn size(&self, name: &str) -> Result<u64> {
        match self {
            Self::Folder(folder) => expect_file(&folder.join(name)),
            Self::Archive(_) => self.member(name).map(|(_, range)| range.end - range.start),
        }
    }

    fn member(&self, name: &str) -> Result<(&Arc<Archive>, std::ops::Range<u64>)> {
        let missing = || Error::io(&self.path(name), io::ErrorKind::NotFound.into());
        match self {
            Self::Archive(archive) => Ok((archive, archive.member(name).ok_or_else(missing)?)),
            Self::Folder(_) => Err(missing()),
        }
    }

    /// A file's content, of at most so many bytes.
    ///
    /// # Errors
    /// Those of [`Store::size`], and [`Error::Format`] if it is larger.
    pub(crate) fn read(&self, name: &str, most: u64) -> Result<Bytes> {
        let path = self.path(name);
        if let Self::Folder(_) = self {
            return Ok(read_capped(&path, most)?.into());
        }
        let (archive, range) = self.member(name)?;
        expect_at_most(&path, range.end - range.start, most)?;
        if let Some(slice) = Slice::of(archive, range.clone()) {
            return Ok(Bytes::Slice(slice));
        }
        let bytes = range.end - range.start;
        Ok(read_exactly(&path, Section::new(archive, range), bytes)?.into())
    }

    /// The content of a large file, of exactly that size, as long as it fits into memory.
    ///
    /// # Errors
    /// [`Error::Io`] if it is shorter; [`Error::Format`] if it does not fit.
    pub(crate) fn read_large(&self, name: &str, size: u64) -> Result<Bytes> {
        let path = self.path(name);
        if let Self::Archive(archive) = self
            && let Some(slice) = Slice::of(archive, self.member(name)?.1)
        {
            return Ok(Bytes::Slice(slice));
        }
        Ok(read_exactly(&path, self.reader(name)?, size)?.into())
    }

    /// A file, to be read.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn reader(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        if let Self::Folder(folder) = self {
            let path = folder.join(name);
            return Ok(Box::new(File::open(&path).map_err(|error| Error::io(&path, error))?));
        }
        let (archive, range) = self.member(name)?;
        Ok(Box::new(Section::new(archive, range)))
    }

    /// SHA-256 of a file, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn sha256(&self, name: &str) -> Result<String> {
        sha256_reader(&self.path(name), self.reader(name)?)
    }

    /// Copies a file of that size, and returns the SHA-256 of what was copied.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is larger.
    pub(crate) fn copy_hashed(&self, name: &str, to: &Path, size: u64) -> Result<String> {
        copy_hashed(&self.path(name), self.reader(name)?, to, size)
    }

    /// What tells a file from another. None where the system does not say enough, and for bytes in memory.
    pub(crate) fn identity(&self, name: &str) -> Option<Identity> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                identity(&path, &fs::metadata(&path).ok()?)
            }
            Self::Archive(archive) => {
                let range = archive.member(name)?;
                let Identity { text, is_fresh } = identity(archive.path(), &archive.file()?.metadata().ok()?)?;
                Some(Identity { text: format!("{text} {range:?}"), is_fresh })
            }
        }
    }
}

#[cfg(unix)]
fn identity(_: &Path, metadata: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let (modified, changed) = ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    // The time of change, too: that of modification can be set to any.
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let times = [metadata.modified().ok()?, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)];
    let text = format!("{} {} {} {modified:?} {changed:?}", metadata.dev(), metadata.ino(), metadata.len());
    Some(Identity { text, is_fresh: times.into_iter().any(is_fresh) })
}

#[cfg(not(unix))]
fn identity(path: &Path, metadata: &Metadata) -> Option<Identity> {
    // The standard library tells no number of a file here: its path stands for it.
    let path = path.canonicalize().ok()?;
    let (created, modified) = (metadata.created().ok()?, metadata.modified().ok()?);
    let text = format!("{} {} {modified:?} {created:?}", path.display(), metadata.len());
    Some(Identity { text, is_fresh: is_fresh(modified) })
}

/// A time in the future tells nothing either.
fn is_fresh(time: SystemTime) -> bool {
    time.elapsed().map_or(true, |age| age < TICK)
}
