//! Texts from a file of any size, row by row: memory does not grow with it.
//!
//! A thread of its own reads, so that reading and classifying overlap, and so that what comes slowly through a pipe is
//! answered when it is there.

mod delimited;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use nimbert::TextInput;

/// No row may be larger, in bytes: a quote that is not closed would otherwise fill the memory.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;
/// Rows that are read ahead.
const READ_AHEAD: usize = 64;
/// How long a window that has a row already waits for the next: what comes through a pipe, line by line, is not held back.
const PATIENCE: Duration = Duration::from_millis(5);

/// A text, and the second one of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

impl<'a> From<&'a Text> for TextInput<'a> {
    fn from(Text { text, pair }: &'a Text) -> Self {
        Self { text, pair: pair.as_deref() }
    }
}

/// A row that cannot be read: where it is, what was expected and what was found. Those behind it may be fine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found {got}")]
pub(super) struct BadRow {
    pub(super) place: String,
    pub(super) expected: String,
    pub(super) got: String,
}

/// The columns that are read.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

/// A row, a row that is bad, or the reason why there are no more.
type Item = anyhow::Result<Result<Text, BadRow>>;

/// Rows in input order.
pub(super) struct Rows {
    receiver: Receiver<Item>,
    /// The reader; none once its end has been looked at.
    reader: Option<JoinHandle<()>>,
    /// Why there are no more, to be said when those before it were taken.
    failed: Option<anyhow::Error>,
    progress: Arc<AtomicU64>,
    /// Size of the input in the unit of [`Rows::position`]: bytes, or rows of Parquet. None where it is not known.
    pub(super) total: Option<u64>,
}

/// Takes the rows of a reader, and says how far it is.
struct Sink {
    sender: SyncSender<Item>,
    progress: Arc<AtomicU64>,
}

/// The classifying side has gone: there is nothing more to read for.
struct Gone;

impl Sink {
    fn send(&self, item: Item) -> Result<(), Gone> {
        self.sender.send(item).map_err(|_| Gone)
    }
}

/// A reader that counts what was read of it.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Rows {
    /// Opens `path`, or standard input if it is `-`. A name's ending tells the format; without one of those that are known,
    /// every line is a text.
    pub(super) fn open(path: &Path, columns: Columns) -> anyhow::Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let extension = extension.unwrap_or_default();
        let has_columns = matches!(extension.as_str(), "csv" | "tsv" | "jsonl" | "ndjson" | "parquet");
        if columns.pair.is_some() && !has_columns {
            bail!("{}: expected a .csv, .tsv, .jsonl or .parquet file for --text-pair-column", path.display());
        }
        let (sender, receiver) = sync_channel(READ_AHEAD);
        let sink = Sink { sender, progress: Arc::default() };
        let progress = Arc::clone(&sink.progress);
        let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        let (total, read): Reader = if extension == "parquet" {
            parquet_reader(path, columns, sink)?
        } else {
            let (source, total): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
                (Box::new(io::stdin()), None)
            } else {
                let file = File::open(path).with_context(|| name.clone())?;
                let metadata = file.metadata().with_context(|| name.clone())?;
                if metadata.is_dir() {
                    bail!("{name}: expected a file, found a folder");
                }
                (Box::new(file), metadata.is_file().then_some(metadata.len()))
            };
            let source = Counted { inner: source, bytes: Arc::clone(&sink.progress) };
            let read: Box<dyn FnOnce() + Send> = match extension.as_str() {
                "csv" => delimited::reader(source, name, &columns, b',', sink)?,
                "tsv" => delimited::reader(source, name, &columns, b'\t', sink)?,
                "jsonl" | "ndjson" => Box::new(move || lines::read_json(source, &name, &columns, &sink)),
                _ => Box::new(move || lines::read_plain(source, &name, &sink)),
            };
            (total, read)
        };
        let reader = std::thread::Builder::new().name("input".to_owned()).spawn(read);
        let reader = Some(reader.context("cannot start a thread")?);
        Ok(Self { receiver, reader, failed: None, progress, total })
    }

    /// How far the reader is.
    pub(super) fn position(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// The next rows: at least one, at most `max_rows` or about `max_bytes`; none at the end. Bad rows are among them.
    ///
    /// # Errors
    /// Why there are no more; [`nimbert::Error::Cancelled`] if `stop` is set.
    pub(super) fn window(
        &mut self,
        max_rows: usize,
        max_bytes: usize,
        stop: &AtomicBool,
    ) -> anyhow::Result<Vec<Result<Text, BadRow>>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < max_rows && bytes < max_bytes {
            if stop.load(Ordering::Relaxed) {
                return Err(nimbert::Error::Cancelled.into());
            }
            let row = match self.receiver.recv_timeout(PATIENCE) {
                Ok(Ok(row)) => row,
                Ok(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Err(RecvTimeoutError::Timeout) if rows.is_empty() => continue,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    // A reader that panics has not come to the end.
                    if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
                        self.failed = Some(anyhow::anyhow!("the input cannot be read to its end, see above"));
                    }
                    break;
                }
            };
            bytes += row.as_ref().map_or(0, |row| row.text.len() + row.pair.as_ref().map_or(0, String::len));
            rows.push(row);
        }
        match self.failed.take() {
            Some(error) if rows.is_empty() => Err(error),
            failed => {
                self.failed = failed;
                Ok(rows)
            }
        }
    }
}

/// The size of an input, where it is known, and what reads it.
type Reader = (Option<u64>, Box<dyn FnOnce() + Send>);

#[cfg(feature = "parquet")]
fn parquet_reader(path: &Path, columns: Columns, sink: Sink) -> anyhow::Result<Reader> {
    parquet::reader(path, columns, sink)
}

#[cfg(not(feature = "parquet"))]
fn parquet_reader(path: &Path, _: Columns, _: Sink) -> anyhow::Result<Reader> {
    bail!("{}: this nimbert reads no Parquet: build it with --features parquet", path.display());
}

/// A slice of bytes as text; a bad row with line and column if it is not UTF-8.
fn utf8(bytes: &[u8], name: &str, line: u64) -> Result<String, BadRow> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|error| BadRow {
        place: format!("{name}:{line}:{}", error.valid_up_to() + 1),
        expected: "UTF-8".to_owned(),
        got: format!("the byte 0x{:02x}", bytes[error.valid_up_to()]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows of a file: the texts, and the bad rows as messages without the folder.
    fn read(name: &str, content: &[u8]) -> Vec<Result<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let short = |message: String| message.replace(&format!("{}/", folder.path().display()), "");
        let mut rows = match Rows::open(&path, Columns { text: "text".to_owned(), pair: None }) {
            Ok(rows) => rows,
            Err(error) => return vec![Err(short(format!("{error:#}")))],
        };
        let mut all = Vec::new();
        loop {
            match rows.window(2, usize::MAX, &AtomicBool::new(false)) {
                Ok(window) if window.is_empty() => return all,
                Ok(window) => all.extend(
                    window.into_iter().map(|row| row.map(|row| row.text).map_err(|bad| short(bad.to_string()))),
                ),
                Err(error) => {
                    all.push(Err(short(format!("{error:#}"))));
                    return all;
                }
            }
        }
    }

    fn good(texts: &[&str]) -> Vec<Result<String, String>> {
        texts.iter().map(|text| Ok((*text).to_owned())).collect()
    }

    #[test]
    fn every_line_is_a_text() {
        assert_eq!(read("x.txt", b"\xef\xbb\xbfone\r\n\ntwo"), good(&["one", "", "two"]));
        assert_eq!(read("x", b""), []);
        assert_eq!(
            read("x.txt", b"one\nt\xffwo\nthree\n"),
            [Ok("one".into()), Err("x.txt:2:2: expected UTF-8, found the byte 0xff".into()), Ok("three".into())]
        );
    }

    #[test]
    fn delimited_rows_have_the_line_on_which_they_begin() {
        let content =
            b"\xef\xbb\xbfid,text\r\n1,\"two\r\nlines, \"\"quoted\"\"\"\r\n\r\n2\r\n3,three\r\n4,\xff\r\n5,five\r\n";
        assert_eq!(
            read("x.csv", content),
            [
                Ok("two\r\nlines, \"quoted\"".into()),
                Err("x.csv:5: expected 2 fields, as in the header, found 1".into()),
                Ok("three".into()),
                Err("x.csv:7: expected UTF-8, found the byte 0xff in column \"text\"".into()),
                Ok("five".into()),
            ]
        );
        assert_eq!(read("x.tsv", b"text\tid\none, two\t1\n"), good(&["one, two"]));
        let missing = "x.csv:1: expected a column \"text\" (see --text-column), found the columns body, id";
        assert_eq!(read("x.csv", b"body,id\n1,2\n"), [Err(missing.into())]);
        assert_eq!(read("x.csv", b""), [Err("x.csv: expected a header and rows, found an empty file".into())]);
        let open = "x.csv:3: expected a closing quote, found the end of the file";
        assert_eq!(read("x.csv", b"text,id\n5\" pipe,1\n\"open,2\nthree,3\n").last(), Some(&Err(open.into())));
    }

    #[test]
    fn json_lines_are_objects() {
        let content =
            b"{\"text\": \"one\"}\n\n{\"text\": 2}\n{\"body\": \"x\"}\n{\n{\"text\": null}\n\xff\n{\"text\": \"z\"}";
        assert_eq!(
            read("x.jsonl", content),
            [
                Ok("one".into()),
                Ok("2".into()),
                Err("x.jsonl:4: expected a key \"text\" (see --text-column), found the keys body".into()),
                Err("x.jsonl:5:1: expected a JSON object, found EOF while parsing an object".into()),
                Err("x.jsonl:6: expected a string as \"text\", found null".into()),
                Err("x.jsonl:7:1: expected UTF-8, found the byte 0xff".into()),
                Ok("z".into()),
            ]
        );
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let columns = || Columns { text: "text".to_owned(), pair: None };
        let error = |path: &Path, columns: Columns| format!("{:#}", Rows::open(path, columns).err().unwrap());
        assert!(error(Path::new("no/such.csv"), columns()).contains("no/such.csv"));
        assert!(error(Path::new("."), columns()).contains("found a folder"));
        let pair = Columns { pair: Some("b".to_owned()), ..columns() };
        assert!(error(Path::new("x.txt"), pair).contains("--text-pair-column"));
    }
}
