//! Lines of a file, and files of which every line is a text. A line ends in LF, CR LF, or CR alone.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

use super::{BadRow, Item, MAX_ROW_BYTES, Row, RowsError, Value, bad_row, source::rows_error, utf8};

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Lf,
    CrLf,
    Cr,
    File,
}

impl End {
    pub(super) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
            Self::Cr => b"\r",
            Self::File => b"",
        }
    }
}

/// Lines in order, with their numbers.
pub(super) struct Lines {
    pub(super) reader: BufReader<Box<dyn Read + Send>>,
    /// Of the line that was read last, counted from 1.
    pub(super) number: u64,
    /// No row may be larger, in bytes.
    pub(super) max_row: usize,
    /// Quotes in what was not kept of that line.
    pub(super) quotes_left_out: usize,
}

impl Lines {
    pub(super) fn new(source: Box<dyn Read + Send>, max_row: usize) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, source), number: 0, max_row, quotes_left_out: 0 }
    }

    /// The row that begins at `line` is larger than any may be.
    pub(super) fn too_large(&self, name: &str, line: u64, hint: &str) -> BadRow {
        let why = if self.max_row < MAX_ROW_BYTES { " under this --memory-limit" } else { "" };
        bad_row(name, line, format!("at most {} bytes a row{why}", self.max_row), format!("more{hint}"))
    }

    /// Appends the next line without its end to `line`; none at the end of the file. Of a line by which `line` would become
    /// larger than any row may be only so much is kept, and a byte more.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Option<End>> {
        self.number += 1;
        self.quotes_left_out = 0;
        let mut is_empty = true;
        loop {
            let chunk = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok((!is_empty).then_some(End::File));
            }
            is_empty = false;
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let content = &chunk[..end.unwrap_or(chunk.len())];
            let (kept, left_out) = content.split_at(content.len().min((self.max_row + 1).saturating_sub(line.len())));
            line.extend(kept);
            self.quotes_left_out += left_out.iter().filter(|&&byte| byte == b'"').count();
            let Some(end) = end else {
                let read = chunk.len();
                self.reader.consume(read);
                continue;
            };
            let is_lf = chunk[end] == b'\n';
            self.reader.consume(end + 1);
            if is_lf {
                return Ok(Some(End::Lf));
            }
            if self.reader.fill_buf()?.first() == Some(&b'\n') {
                self.reader.consume(1);
                return Ok(Some(End::CrLf));
            }
            return Ok(Some(End::Cr));
        }
    }
}

/// A file of which every line is a text.
pub(super) struct Texts {
    pub(super) lines: Lines,
    pub(super) name: String,
    pub(super) columns: Arc<[String]>,
}

impl Iterator for Texts {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let mut line = Vec::new();
        let read = self.lines.read(&mut line);
        let (name, number) = (&self.name, self.lines.number);
        match read {
            Err(error) => Some(Err(rows_error(error, name, number))),
            Ok(None) => None,
            Ok(Some(_)) if line.len() > self.lines.max_row => Some(Err(self.lines.too_large(name, number, "").into())),
            Ok(Some(_)) => Some(utf8(line, name, number).map_err(RowsError::from).map(|text| Row {
                line: number,
                columns: Arc::clone(&self.columns),
                values: vec![Value::String(text)],
                may_hold_rows: false,
            })),
        }
    }
}
