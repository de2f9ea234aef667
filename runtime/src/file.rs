//! Files as they come from strangers: of a bounded size, no pipes, no JSON that says one thing twice; their digests; and
//! folders that nobody else uses.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// No JSON file of a bundle but the tokenizer may be larger, in bytes: 20,000 labels take 2 MB, and parsed JSON some thirty
/// times as much.
pub(crate) const MAX_JSON_BYTES: u64 = 4 << 20;
/// Files are hashed in pieces of so many bytes.
const PIECE: usize = 1 << 18;

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_file(path: &Path) -> Result<String> {
    let file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
    sha256_reader(path, file)
}

/// SHA-256 of all that `from` gives: the content of the file `path`.
pub(crate) fn sha256_reader(path: &Path, from: impl Read) -> Result<String> {
    let mut hasher = Sha256::new();
    for_pieces(path, from, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hexadecimal(&hasher.finalize()))
}

/// Copies the content of the file `path`, of that size, and returns the SHA-256 of what was copied.
pub(crate) fn copy_hashed(path: &Path, from: impl Read, to: &Path, size: u64) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::create(to).map_err(|error| Error::io(to, error))?;
    let mut left = size;
    for_pieces(path, from, |piece| {
        // One that grows meanwhile must not fill the disk.
        let more = || Error::format(path, format!("{size} bytes"), "more");
        left = left.checked_sub(piece.len() as u64).ok_or_else(more)?;
        hasher.update(piece);
        file.write_all(piece).map_err(|error| Error::io(to, error))
    })?;
    Ok(hexadecimal(&hasher.finalize()))
}

/// Gives all that there is in `from`, piece by piece; a file is not mapped for it: who truncates it would end the process.
pub(crate) fn for_pieces(path: &Path, mut from: impl Read, mut piece: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => piece(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is a SHA-256 as [`sha256`] writes it.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a JSON file of at most [`MAX_JSON_BYTES`].
pub(crate) fn read_json(path: &Path) -> Result<Vec<u8>> {
    read_capped(path, MAX_JSON_BYTES)
}

/// Parses JSON of the file `path`, in which no key may stand twice.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, content: &[u8], expected: &str) -> Result<T> {
    parse_distinct(path, content, expected)?;
    serde_json::from_slice(content).map_err(|error| Error::format(path, expected, error.to_string()))
}

/// The same, as it stands there.
pub(crate) fn parse_distinct(path: &Path, content: &[u8], expected: &str) -> Result<Value> {
    let parsed = serde_json::from_slice(content).map_err(|error| Error::format(path, expected, error.to_string()));
    parsed.map(|Distinct(value)| value)
}

/// Reads a file of at most so many bytes, so that a wrong path cannot fill the memory.
pub(crate) fn read_capped(path: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = expect_file(path)?;
    expect_at_most(path, bytes, most)?;
    let file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
    let mut content = room_for(path, bytes)?;
    file.take(most + 1).read_to_end(&mut content).map_err(|error| Error::io(path, error))?;
    match content.len() as u64 <= most {
        true => Ok(content),
        // It has grown meanwhile.
        false => Err(Error::format(path, format!("at most {most} bytes"), "more")),
    }
}

/// Reads so many bytes of the file `path`.
///
/// # Errors
/// [`Error::Io`] if there are fewer; [`Error::Format`] if they do not fit into memory.
pub(crate) fn read_exactly(path: &Path, reader: impl Read, bytes: u64) -> Result<Vec<u8>> {
    let mut content = room_for(path, bytes)?;
    let read = reader.take(bytes).read_to_end(&mut content).map_err(|error| Error::io(path, error))?;
    if (read as u64) < bytes {
        return Err(Error::io(path, io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(content)
}

/// Memory for a file's content, asked for first: an allocation that fails would end the process, and a file may claim any size.
fn room_for(path: &Path, bytes: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    match usize::try_from(bytes).is_ok_and(|bytes| content.try_reserve_exact(bytes).is_ok()) {
        true => Ok(content),
        false => Err(Error::format(path, "a file that fits into memory", format!("{bytes} bytes"))),
    }
}

/// That a file is not larger than it may be.
pub(crate) fn expect_at_most(path: &Path, bytes: u64, most: u64) -> Result<()> {
    match bytes <= most {
        true => Ok(()),
        false => Err(Error::format(path, format!("at most {most} bytes"), format!("{bytes} bytes"))),
    }
}

/// The size of a file; a pipe would let a reader wait for ever, and a device may have no end.
pub(crate) fn expect_file(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(Error::format(path, "a file", if metadata.is_dir() { "a folder" } else { "a pipe or a device" })),
    }
}

/// Makes a hidden folder that was not there before: process ids repeat in containers, and after a crash.
pub(crate) fn create_hidden(parent: &Path, name: &str, purpose: &str) -> Result<PathBuf> {
    for attempt in 0.. {
        let path = parent.join(format!(".{name}.{purpose}-{}-{attempt}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            Err(error) => return Err(Error::io(&path, error)),
        }
    }
    unreachable!("the last attempt returns")
}

/// JSON in which no object has one key twice: of two, a parser keeps the one and another the other.
#[derive(Debug, Default)]
pub(crate) struct Distinct(pub(crate) Value);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor).map(Self)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Distinct(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, Distinct(value))) = map.next_entry::<String, _>()? {
            if values.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} twice")));
            }
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_an_error_at_any_depth() {
        let parse = |json: &str| serde_json::from_str::<Distinct>(json).map(|Distinct(value)| value);
        let json = r#"{"a": [1, -2, 2.5, "x", null, true], "b": {"a": {}}}"#;
        assert_eq!(parse(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        for json in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"c": 1, "d": 2, "c": 3}}]"#, r#"{"a": 1, "\u0061": 2}"#] {
            assert!(parse(json).unwrap_err().to_string().contains("twice at line 1 column"), "{json}");
        }
    }
}
