//! A bundle in one file: a ZIP whose members are stored as they are, each at a multiple of 64 KiB, so that any program for
//! ZIP shows them and each can be mapped. FORMAT.md specifies it.
//!
//! Of the same members there is one such file only: a reader takes their names, sizes and sums from the directory at the
//! end, lays the file out anew, and compares every byte that is not a member's own. So nothing can hide in it, and what it
//! says of a member it says once.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use crate::{
    error::{Error, Result},
    file::{for_pieces, read_exactly},
    map,
};

/// Every member begins at a multiple of so many bytes: that of the largest pages in use.
const ALIGNMENT: u64 = 1 << 16;
/// No file has more members: a bundle has some ten.
const MAX_MEMBERS: usize = 256;
/// No name is longer, in bytes.
const MAX_NAME: usize = 255;

const LOCAL_HEADER: usize = 30;
const DIRECTORY_ENTRY: usize = 46;
const END: usize = 22;
/// The extra field that fills the space before a member: two bytes of name (`nb`), two of length, zeros.
const PADDING: u16 = u16::from_le_bytes(*b"nb");
const PADDING_HEADER: u64 = 4;
/// Stands before a local header whose extra field would be shorter than its own head.
const GAP: u64 = 8;
/// Version 1.0 of ZIP, on Unix; what is stored needs no more.
const VERSION: u16 = 10;
const MADE_BY: u16 = 3 << 8 | VERSION;
/// Names are UTF-8.
const FLAGS: u16 = 1 << 11;
/// 1 January 1980, in DOS's way: when a file was made changes no answer.
const DATE: u16 = 1 << 5 | 1;
/// A file that its owner may write, and others read, in Unix's way.
const ATTRIBUTES: u32 = 0o100_644 << 16;

/// One member: what the directory says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    name: String,
    size: u64,
    crc32: u32,
}

/// Where everything lies in the file of some members.
struct Layout {
    /// For each member: where what stands before its bytes begins, and that itself: gap, local header, padding.
    heads: Vec<(u64, Vec<u8>)>,
    /// Where each member's bytes lie.
    members: Vec<Range<u64>>,
    /// Directory and end, behind the last member.
    tail: Vec<u8>,
}

impl Layout {
    /// None for members that do not fit into a file of 4 GiB, which has a larger form that nobody needs here.
    fn of(members: &[Member]) -> Option<Self> {
        let mut layout = Self { heads: Vec::new(), members: Vec::new(), tail: Vec::new() };
        let mut position = 0u64;
        for Member { name, size, crc32 } in members {
            let fields = |bytes: &mut Vec<u8>, extra: u16| {
                push16(bytes, &[VERSION, FLAGS, 0, 0, DATE]);
                push32(bytes, &[*crc32, u32::try_from(*size).ok()?, u32::try_from(*size).ok()?]);
                push16(bytes, &[name.len() as u16, extra]);
                Some(())
            };
            let begin = position;
            let missing = |position: u64| {
                let data = position + (LOCAL_HEADER + name.len()) as u64;
                data.next_multiple_of(ALIGNMENT) - data
            };
            let is_odd = (1..PADDING_HEADER).contains(&missing(position));
            let header = position + if is_odd { GAP } else { 0 };
            let padding = missing(header);
            let mut head = vec![0; (header - begin) as usize];
            head.extend(b"PK\x03\x04");
            fields(&mut head, padding as u16)?;
            head.extend(name.as_bytes());
            if padding > 0 {
                push16(&mut head, &[PADDING, (padding - PADDING_HEADER) as u16]);
                head.resize(head.len() + (padding - PADDING_HEADER) as usize, 0);
            }
            let data = begin + head.len() as u64;
            position = data + size;
            layout.heads.push((begin, head));
            layout.members.push(data..position);

            layout.tail.extend(b"PK\x01\x02");
            push16(&mut layout.tail, &[MADE_BY]);
            fields(&mut layout.tail, 0)?;
            // No comment, on the first disk, binary.
            push16(&mut layout.tail, &[0, 0, 0]);
            push32(&mut layout.tail, &[ATTRIBUTES, u32::try_from(header).ok()?]);
            layout.tail.extend(name.as_bytes());
        }
        let (directory, count) = (u32::try_from(layout.tail.len()).ok()?, u16::try_from(members.len()).ok()?);
        layout.tail.extend(b"PK\x05\x06");
        push16(&mut layout.tail, &[0, 0, count, count]);
        push32(&mut layout.tail, &[directory, u32::try_from(position).ok()?]);
        push16(&mut layout.tail, &[0]);
        Some(layout)
    }

    fn bytes(&self) -> u64 {
        self.members.last().map_or(0, |member| member.end) + self.tail.len() as u64
    }
}

fn push16(bytes: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
}

fn push32(bytes: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
}

/// Writes the file `path` of members that are read twice: `open` gives a member's content.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] if they do not fit into one file.
pub(crate) fn write<R: Read>(path: &Path, names: &[&str], open: impl Fn(&str) -> Result<R>) -> Result<()> {
    let measure = |name: &&str| {
        let (mut size, mut crc32) = (0, crc32fast::Hasher::new());
        for_pieces(Path::new(name), open(name)?, |piece| {
            size += piece.len() as u64;
            crc32.update(piece);
            Ok(())
        })?;
        Ok(Member { name: (*name).to_owned(), size, crc32: crc32.finalize() })
    };
    let members: Vec<Member> = names.iter().map(measure).collect::<Result<_>>()?;
    let total: u64 = members.iter().map(|member| member.size).sum();
    let Some(layout) = Layout::of(&members) else {
        return Err(Error::format(
            path,
            "a bundle of at most 4 GiB, which fits into one file",
            format!("{total} bytes"),
        ));
    };
    let failed = |error: io::Error| Error::io(path, error);
    let mut file = File::create(path).map_err(failed)?;
    for ((_, head), member) in layout.heads.iter().zip(&members) {
        file.write_all(head).map_err(failed)?;
        for_pieces(Path::new(&member.name), open(&member.name)?, |piece| file.write_all(piece).map_err(failed))?;
    }
    file.write_all(&layout.tail).and_then(|()| file.sync_all()).map_err(failed)
}

/// Such a file, opened: where each member lies.
#[derive(Debug)]
pub(crate) struct Archive {
    /// For messages; of bytes in memory a word for it.
    path: PathBuf,
    content: Content,
    members: BTreeMap<String, Range<u64>>,
}

#[derive(Debug)]
enum Content {
    /// Read piece by piece. It stays open: one that takes its place is another.
    File(File),
    /// Mapped, since nobody may write to it.
    Mapped(Mmap, File),
    Static(&'static [u8]),
}

impl Archive {
    /// Opens the file `path`, and checks all of it but what is in the members.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        let (file, mapped) = map::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let content = match mapped {
            Some(mapped) => Content::Mapped(mapped, file),
            None => Content::File(file),
        };
        Self::of(path, content, size)
    }

    /// The same of bytes in memory.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub(crate) fn from_bytes(bytes: &'static [u8]) -> Result<Self> {
        Self::of(Path::new("bytes in memory"), Content::Static(bytes), bytes.len() as u64)
    }

    fn of(path: &Path, content: Content, size: u64) -> Result<Self> {
        let mut archive = Self { path: path.to_owned(), content, members: BTreeMap::new() };
        let members = archive.directory(size)?;
        let layout = Layout::of(&members).filter(|layout| layout.bytes() == size);
        let Some(layout) = layout else {
            return Err(archive.odd("members of the sizes that it names, and nothing else", "others"));
        };
        // What stands between the members is what there would be if it were written now.
        for ((begin, head), member) in layout.heads.iter().zip(&members) {
            if archive.bytes(*begin..begin + head.len() as u64)?.as_ref() != head {
                return Err(
                    archive.odd(&format!("{} behind its header, at a multiple of 64 KiB", member.name), "others")
                );
            }
        }
        if archive.bytes(size - layout.tail.len() as u64..size)?.as_ref() != layout.tail {
            return Err(archive.odd("a directory of stored members", "another"));
        }
        archive.members = members.into_iter().map(|member| member.name).zip(layout.members).collect();
        Ok(archive)
    }

    /// Names, sizes and sums of the members, as the directory gives them.
    fn directory(&self, size: u64) -> Result<Vec<Member>> {
        let no_zip = |got: &str| self.odd("a bundle in one file, as nimbert-train pack writes it", got);
        let Some(end_at) = size.checked_sub(END as u64) else {
            return Err(no_zip(&format!("{size} bytes")));
        };
        let end = self.bytes(end_at..size)?;
        if !end.starts_with(b"PK\x05\x06") {
            return Err(no_zip("no directory at its end"));
        }
        let (count, length) = (usize::from(read16(&end, 10)), u64::from(read32(&end, 12)));
        let most = count * (DIRECTORY_ENTRY + MAX_NAME);
        if count > MAX_MEMBERS || length > most as u64 || length > end_at {
            return Err(no_zip(&format!("a directory of {count} members and {length} bytes")));
        }
        let directory = self.bytes(end_at - length..end_at)?;
        let (mut rest, mut members) = (directory.as_ref(), Vec::<Member>::with_capacity(count));
        for _ in 0..count {
            let Some((entry, after)) = rest.split_at_checked(DIRECTORY_ENTRY) else {
                return Err(no_zip("a directory that ends early"));
            };
            let name = after.get(..usize::from(read16(entry, 28))).unwrap_or_default();
            let Ok(name) = std::str::from_utf8(name) else { return Err(no_zip("a name that is not UTF-8")) };
            rest = &after[name.len()..];
            if name.is_empty() || name.len() > MAX_NAME || members.iter().any(|member| member.name == name) {
                return Err(no_zip(&format!("the name {name:?}, or twice")));
            }
            let (crc32, size) = (read32(entry, 16), u64::from(read32(entry, 24)));
            members.push(Member { name: name.to_owned(), size, crc32 });
        }
        Ok(members)
    }

    fn odd(&self, expected: &str, got: &str) -> Error {
        Error::format(&self.path, expected, got)
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, unless it is bytes in memory.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.content {
            Content::File(file) | Content::Mapped(_, file) => Some(file),
            Content::Static(_) => None,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Where a member lies.
    pub(crate) fn member(&self, name: &str) -> Option<Range<u64>> {
        self.members.get(name).cloned()
    }

    fn bytes(&self, range: Range<u64>) -> Result<std::borrow::Cow<'_, [u8]>> {
        if let Some(bytes) = self.in_memory(&range) {
            return Ok(bytes.into());
        }
        let size = range.end - range.start;
        Ok(read_exactly(&self.path, Section { archive: self, range }, size)?.into())
    }

    /// What needs not be read.
    fn in_memory(&self, range: &Range<u64>) -> Option<&[u8]> {
        let range = range.start as usize..range.end as usize;
        match &self.content {
            Content::File(_) => None,
            Content::Mapped(bytes, _) => Some(&bytes[range]),
            Content::Static(bytes) => Some(&bytes[range]),
        }
    }
}

fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn read32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A part of the file, to be read.
pub(crate) struct Section<'a> {
    archive: &'a Archive,
    range: Range<u64>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(archive: &'a Archive, range: Range<u64>) -> Self {
        Self { archive, range }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min((self.range.end - self.range.start) as usize);
        let buffer = &mut buffer[..most];
        let read = match &self.archive.content {
            _ if most == 0 => 0,
            Content::File(file) => read_at(file, buffer, self.range.start)?,
            Content::Mapped(..) | Content::Static(_) => {
                let bytes = self.archive.in_memory(&self.range).unwrap_or_default();
                buffer.copy_from_slice(&bytes[..most]);
                most
            }
        };
        self.range.start += read as u64;
        Ok(read)
    }
}

/// Reads at a place, whatever else is read of the file meanwhile.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// A member's bytes where they need not be copied: mapped, or in memory.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    archive: Arc<Archive>,
    range: Range<u64>,
}

impl Slice {
    /// None where it must be read.
    pub(crate) fn of(archive: &Arc<Archive>, range: Range<u64>) -> Option<Self> {
        archive.in_memory(&range).is_some().then(|| Self { archive: Arc::clone(archive), range })
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.archive.in_memory(&self.range).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_members(path: &Path, members: &[(&str, Vec<u8>)]) {
        let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let open = |name: &str| Ok(members.iter().find(|member| member.0 == name).unwrap().1.as_slice());
        write(path, &names, open).unwrap();
    }

    fn content(archive: &Archive, name: &str) -> Vec<u8> {
        let mut content = Vec::new();
        Section::new(archive, archive.member(name).unwrap()).read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn members_lie_at_multiples_of_64_kib_whatever_is_before_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.nimbert");
        // "second" is 6 bytes long: padding of 0 to 5 bytes, of which 1 to 3 are too few for an extra field.
        for missing in 0..6 {
            let first = vec![7; (ALIGNMENT - missing) as usize - LOCAL_HEADER - 6];
            let members = [("first", first), ("second", b"content".to_vec()), ("empty", Vec::new())];
            write_members(&path, &members);
            let archive = Archive::open(&path).unwrap();
            for (name, expected) in &members {
                assert_eq!(archive.member(name).unwrap().start % ALIGNMENT, 0);
                assert_eq!(content(&archive, name), *expected, "{missing}");
            }
            let leaked: &'static [u8] = std::fs::read(&path).unwrap().leak();
            assert_eq!(content(&Archive::from_bytes(leaked).unwrap(), "second"), b"content");
        }
    }

    #[test]
    fn every_byte_outside_of_the_members_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.nimbert");
        write_members(&path, &[("a", b"one".to_vec()), ("b", b"two".to_vec())]);
        let bytes = std::fs::read(&path).unwrap();
        let members = [ALIGNMENT as usize..ALIGNMENT as usize + 3, 2 * ALIGNMENT as usize..2 * ALIGNMENT as usize + 3];
        let mut changed = bytes.clone();
        for place in (0..bytes.len()).step_by(997).chain(0..64).chain(bytes.len() - 200..bytes.len()) {
            changed[place] ^= 1;
            let opened = Archive::of(&path, Content::Static(changed.clone().leak()), changed.len() as u64);
            let is_member = members.iter().any(|member| member.contains(&place));
            assert_eq!(opened.is_ok(), is_member, "{place}");
            changed[place] = bytes[place];
        }
        for cut in [0, 1, 21, 22, 100, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(matches!(Archive::open(&path), Err(Error::Format { .. })), "{cut}");
        }
        std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
        assert!(matches!(Archive::open(&path), Err(Error::Format { .. })));
    }
}
