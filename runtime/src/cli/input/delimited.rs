//! CSV and TSV.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, Read},
    rc::Rc,
};

use anyhow::{Context, bail};
use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::{BadRow, Columns, Counted, Gone, MAX_ROW_BYTES, Sink, Text};

/// Reads the header now, so that a missing column is known before a graph is loaded, and the rows when it is called.
pub(super) fn reader(
    source: Counted<Box<dyn Read + Send>>,
    name: String,
    columns: &Columns,
    delimiter: u8,
    sink: Sink,
) -> anyhow::Result<Box<dyn FnOnce() + Send>> {
    let mut source = source;
    // The header is read by the thread that reads the rows, and looked at here: the first bytes are enough for it.
    let mut head = vec![0; 1 << 16];
    let mut filled = 0;
    while filled < head.len() {
        match source.read(&mut head[filled..]).with_context(|| name.clone())? {
            0 => break,
            read => filled += read,
        }
    }
    head.truncate(filled);
    if head.trim_ascii().is_empty() {
        bail!("{name}: expected a header and rows, found an empty file");
    }
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(head.as_slice());
    let header = reader.headers().with_context(|| name.clone())?;
    let position = |column: &str, option: &str| {
        header.iter().position(|header| header == column).with_context(|| {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            format!("{name}:1: expected a column {column:?} (see {option}), found the columns {found}")
        })
    };
    let indices = Indices {
        text: position(&columns.text, "--text-column")?,
        pair: columns.pair.as_ref().map(|pair| position(pair, "--text-pair-column")).transpose()?,
    };
    let columns = columns.clone();
    Ok(Box::new(move || {
        let source = io::Cursor::new(head).chain(source);
        // Nobody is there any more to be told.
        let _ = read(source, &Table { name, columns, indices, delimiter }, &sink);
    }))
}

/// Where the columns are.
#[derive(Clone, Copy)]
struct Indices {
    text: usize,
    pair: Option<usize>,
}

struct Table {
    name: String,
    columns: Columns,
    indices: Indices,
    delimiter: u8,
}

fn read(source: impl Read, table: &Table, sink: &Sink) -> Result<(), Gone> {
    let lines = Rc::new(RefCell::new(Lines::default()));
    let source = Watched { inner: source, lines: Rc::clone(&lines) };
    let mut reader = ReaderBuilder::new().delimiter(table.delimiter).from_reader(source);
    let mut record = ByteRecord::new();
    let name = &table.name;
    // A row is held back until it is known whether another follows: the last one may be all that follows a lone quote.
    let mut held = None;
    loop {
        let result = reader.read_byte_record(&mut record);
        let position = match &result {
            Ok(false) => {
                let lines = lines.borrow();
                return match held {
                    Some(_) if lines.is_quote_open() => {
                        let line = lines.row_line;
                        let expected = "expected a closing quote, found the end of the file";
                        sink.send(Err(anyhow::anyhow!("{name}:{line}: {expected}")))
                    }
                    Some(row) => sink.send(Ok(row)),
                    None => Ok(()),
                };
            }
            Ok(true) => record.position(),
            Err(error) => error.position(),
        };
        if let Some(row) = held.take() {
            sink.send(Ok(row))?;
        }
        let line = position.map_or(0, |position| lines.borrow_mut().line_of(position.byte()));
        held = Some(match result {
            Ok(_) => table.row(&record, line),
            Err(error) => match error.kind() {
                ErrorKind::UnequalLengths { expected_len, len, .. } => Err(BadRow {
                    place: format!("{name}:{line}"),
                    expected: format!("{expected_len} fields, as in the header"),
                    got: len.to_string(),
                }),
                _ => return sink.send(Err(anyhow::anyhow!("{name}: {error}"))),
            },
        });
    }
}

impl Table {
    fn row(&self, record: &ByteRecord, line: u64) -> Result<Text, BadRow> {
        let field = |index: usize, column: &str| {
            str::from_utf8(&record[index]).map(str::to_owned).map_err(|error| BadRow {
                place: format!("{}:{line}", self.name),
                expected: "UTF-8".to_owned(),
                got: format!("the byte 0x{:02x} in column {column:?}", record[index][error.valid_up_to()]),
            })
        };
        let pair = self.indices.pair.zip(self.columns.pair.as_ref());
        let pair = pair.map(|(index, column)| field(index, column)).transpose()?;
        Ok(Text { text: field(self.indices.text, &self.columns.text)?, pair })
    }
}

/// A reader that remembers where lines begin: the csv crate's own line numbers stop before the line break of the row above
/// if that is CRLF, and before blank lines.
struct Watched<R> {
    inner: R,
    lines: Rc<RefCell<Lines>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut lines = self.lines.borrow_mut();
        lines.watch(&buffer[..read]);
        if lines.bytes - lines.row_start > (MAX_ROW_BYTES + buffer.len()) as u64 {
            let line = lines.row_line;
            return Err(io::Error::other(format!(
                "line {line}: expected at most {MAX_ROW_BYTES} bytes a row, found more; is a quote not closed?"
            )));
        }
        Ok(read)
    }
}

/// Lines that are not blank and were read but not yet parsed.
#[derive(Default)]
struct Lines {
    starts: VecDeque<LineStart>,
    /// What was read: bytes, line breaks, and quotes.
    bytes: u64,
    breaks: u64,
    quotes: u64,
    is_in_line: bool,
    /// Of the row that was parsed last.
    row_start: u64,
    row_line: u64,
    row_quotes: u64,
}

struct LineStart {
    byte: u64,
    line: u64,
    quotes: u64,
}

impl Lines {
    fn watch(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let is_end = matches!(byte, b'\r' | b'\n');
            if !is_end && !self.is_in_line {
                let (line, quotes) = (self.breaks + 1, self.quotes);
                self.starts.push_back(LineStart { byte: self.bytes, line, quotes });
            }
            self.is_in_line = !is_end;
            self.breaks += u64::from(byte == b'\n');
            self.quotes += u64::from(byte == b'"');
            self.bytes += 1;
        }
    }

    /// The line of the row that begins at `byte` or behind the line breaks that are there.
    fn line_of(&mut self, byte: u64) -> u64 {
        while self.starts.front().is_some_and(|start| start.byte < byte) {
            self.starts.pop_front();
        }
        if let Some(start) = self.starts.front() {
            (self.row_start, self.row_line, self.row_quotes) = (start.byte, start.line, start.quotes);
        }
        self.row_line
    }

    /// Whether the last row has several lines and a quote that is not closed: it would be one row of all that follows. (In
    /// a row of one line a lone quote is a character, as in `5" pipe`.)
    fn is_quote_open(&self) -> bool {
        self.starts.len() > 1 && !(self.quotes - self.row_quotes).is_multiple_of(2)
    }
}
