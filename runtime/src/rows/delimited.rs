//! CSV and TSV with a header (RFC 4180, lines as in [`super::lines`]). Blank lines are no rows.
//!
//! No library reads this as strictly as it must be: text behind a closing quote, and a quote that opens a field in one row
//! and is closed by one of another, make rows vanish wherever they are taken for something.

use std::{collections::HashSet, sync::Arc};

use super::{
    BadRow, Item, Row, RowsError, Value, bad_row,
    lines::{End, Lines},
    source::rows_error,
    utf8,
};

/// What a quote at the beginning of a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    /// It opens a field that ends with another one, which may be on a later line.
    Frames,
    /// The same if the field ends on this line; else a character.
    WithinLine,
    /// A character.
    Characters,
}

/// What stands between fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separator {
    /// As it was told.
    Given(u8),
    /// Unless the file says otherwise, in a line such as `sep=;` before the header, which Excel reads and writes.
    Usual(u8),
}

/// Rows of a delimited file.
pub(super) struct Delimited {
    lines: Lines,
    name: String,
    delimiter: u8,
    quotes: Quotes,
    pub(super) columns: Arc<[String]>,
}

/// Fields as they stand in the file, and the line on which they begin.
struct Record {
    line: u64,
    fields: Vec<Vec<u8>>,
    may_hold_rows: bool,
}

impl Record {
    /// What stands between fields, if these, with `delimiter` between, say it as in `sep=;`.
    fn separator(&self, delimiter: u8) -> Option<u8> {
        match self.fields.join(&delimiter).strip_prefix(b"sep=")? {
            &[said] if said != b'"' && (said.is_ascii_punctuation() || said == b'\t') => Some(said),
            _ => None,
        }
    }
}

impl Delimited {
    /// Reads the header.
    pub(super) fn open(lines: Lines, name: String, separator: Separator, quotes: Quotes) -> Result<Self, RowsError> {
        let (Separator::Given(delimiter) | Separator::Usual(delimiter)) = separator;
        let mut table = Self { lines, name, delimiter, quotes, columns: Arc::new([]) };
        let name = &table.name.clone();
        let mut header = table.record().transpose()?;
        if let Some(said) = header.as_ref().and_then(|record| record.separator(delimiter)) {
            if matches!(separator, Separator::Given(given) if given != said) {
                let line = header.map_or(1, |record| record.line);
                let got = format!("sep={}", char::from(said));
                let expected = format!("{:?} between fields, as --delimiter says", char::from(delimiter));
                return Err(BadRow { is_last: true, ..bad_row(name, line, expected, got) }.into());
            }
            table.delimiter = said;
            header = table.record().transpose()?;
        }
        let Some(Record { line, fields, .. }) = header else {
            let (expected, got) = ("a header and rows", "an empty file");
            return Err(BadRow { line: None, is_last: true, ..bad_row(name, 0, expected, got) }.into());
        };
        let mut columns = Vec::with_capacity(fields.len());
        for (index, field) in fields.into_iter().enumerate() {
            let column = utf8(field, name, line)?;
            // What has no name could not be told from the others that have none.
            columns.push(if column.is_empty() { format!("column {}", index + 1) } else { column });
        }
        let mut seen = HashSet::new();
        if let Some(repeated) = columns.iter().find(|column| !seen.insert(*column)) {
            let bad = bad_row(name, line, "a name of its own for each column", format!("{repeated:?} twice"));
            return Err(BadRow { is_last: true, ..bad }.into());
        }
        table.columns = columns.into();
        Ok(table)
    }

    /// The line on which the header ends.
    pub(super) fn header_line(&self) -> u64 {
        self.lines.number
    }

    /// The next fields, whatever their number.
    fn record(&mut self) -> Option<Result<Record, RowsError>> {
        let Self { lines, name, delimiter, quotes, columns, .. } = self;
        let mut parser =
            Parser { delimiter: *delimiter, quotes: *quotes, fields: Vec::new(), state: State::FieldStart };
        let mut line = Vec::new();
        let (mut first, mut size) = (0, 0);
        // Whether each line of a row of several has as many fields as a row.
        let mut may_hold_rows = columns.len() > 1;
        loop {
            line.clear();
            let end = match lines.read(&mut line) {
                Err(error) => {
                    return Some(Err(rows_error(error, name, lines.number)));
                }
                Ok(Some(end)) => end,
                Ok(None) if first == 0 => return None,
                Ok(None) => {
                    let got = "the end of the file; a quote that is a character is written twice in a quoted field, and \
                               --quoting none takes all quotes as characters";
                    let bad = bad_row(name, first, "a closing quote", got);
                    return Some(Err(BadRow { is_last: true, ..bad }.into()));
                }
            };
            if first == 0 {
                // In a table of one column white space is a text.
                let content = if columns.len() == 1 { &line } else { line.trim_ascii() };
                if content.is_empty() && !line.contains(delimiter) {
                    continue;
                }
                first = lines.number;
            }
            size += line.len();
            if size > lines.max_row {
                return Some(Err(too_large(lines, parser, line, (name, first))));
            }
            let goes_on = parser.state == State::Quoted;
            if let Err(place) = parser.line(&line) {
                let got = format!(
                    "{:?}; a quote in a quoted field is written twice (\"\"), not behind a backslash, and --quoting none takes \
                     all quotes as characters",
                    String::from_utf8_lossy(&line[place..]).chars().next().unwrap_or_default()
                );
                let opened = if first < lines.number {
                    format!(" of the field that opens in line {first}")
                } else {
                    String::new()
                };
                let expected = format!("a delimiter or the end of the line behind the closing quote{opened}");
                let bad = bad_row(name, lines.number, expected, got);
                return Some(Err(BadRow { column: Some(place as u64 + 1), ..bad }.into()));
            }
            let is_open = parser.state == State::Quoted;
            let is_one_of_several = goes_on || is_open;
            may_hold_rows &= is_one_of_several && line.split(|byte| byte == delimiter).count() == columns.len();
            if !is_open {
                return Some(Ok(Record { line: first, fields: parser.fields, may_hold_rows }));
            }
            parser.break_line(end);
        }
    }
}

impl Iterator for Delimited {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let Record { line, fields, may_hold_rows } = match self.record()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        if fields.len() != self.columns.len() {
            let mut got = fields.len().to_string();
            let begins_quoted = |field: &Vec<u8>| field.first() == Some(&b'"');
            if self.quotes == Quotes::WithinLine && fields.last().is_some_and(begins_quoted) {
                got += "; where quoted fields run over lines, --quoting csv reads them";
            }
            let expected = format!("{} fields, as in the header", self.columns.len());
            return Some(Err(bad_row(&self.name, line, expected, got).into()));
        }
        let mut values = Vec::with_capacity(fields.len());
        let mut before = 0;
        for field in fields {
            let bytes = field.len() as u64 + 1;
            match utf8(field, &self.name, line) {
                Ok(text) => values.push(Value::String(text)),
                Err(bad) => {
                    // Of a row on one line without quotes, the place is known.
                    let column = bad.column.map(|column| column + before);
                    return Some(Err(BadRow { column, ..bad }.into()));
                }
            }
            before += bytes;
        }
        Some(Ok(Row { line, columns: Arc::clone(&self.columns), values, may_hold_rows }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within a quoted field: the first of two, or the closing one.
    Quote,
}

/// Reads the row to its end that is too large in `line` already, so that no line of it is taken for a row.
fn too_large(lines: &mut Lines, mut parser: Parser, mut line: Vec<u8>, (name, first): (&str, u64)) -> RowsError {
    loop {
        // Where a quote is missing or too many, there is one fault already.
        let _ = parser.line(&line);
        if parser.state != State::Quoted || lines.quotes_left_out % 2 == 1 {
            return lines.too_large(name, first, "").into();
        }
        parser.fields = vec![Vec::new()];
        line.clear();
        match lines.read(&mut line) {
            Err(error) => return rows_error(error, name, lines.number),
            Ok(Some(_)) => {}
            Ok(None) => {
                let bad = lines.too_large(name, first, "; is a quote not closed?");
                return BadRow { is_last: true, ..bad }.into();
            }
        }
    }
}

/// Takes lines apart.
struct Parser {
    delimiter: u8,
    quotes: Quotes,
    fields: Vec<Vec<u8>>,
    state: State,
}

impl Parser {
    /// Takes a line; the state afterwards is [`State::Quoted`] if the row goes on.
    ///
    /// # Errors
    /// The place of what stands behind a closing quote.
    fn line(&mut self, line: &[u8]) -> Result<(), usize> {
        if self.state == State::FieldStart {
            self.fields.push(Vec::new());
        }
        for (place, &byte) in line.iter().enumerate() {
            let is_delimiter = byte == self.delimiter;
            self.state = match self.state {
                State::FieldStart if byte == b'"' && self.opens(&line[place..]) => State::Quoted,
                State::Quoted if byte == b'"' => State::Quote,
                State::Quote if byte == b'"' => self.push(byte, State::Quoted),
                State::FieldStart | State::Unquoted | State::Quote if is_delimiter => {
                    self.fields.push(Vec::new());
                    State::FieldStart
                }
                State::FieldStart | State::Unquoted => self.push(byte, State::Unquoted),
                State::Quoted => self.push(byte, State::Quoted),
                State::Quote => return Err(place),
            };
        }
        Ok(())
    }

    fn push(&mut self, byte: u8, next: State) -> State {
        self.fields.last_mut().expect("a line begins with a field").push(byte);
        next
    }

    /// The end of a line within a quoted field is a part of it.
    fn break_line(&mut self, end: End) {
        self.fields.last_mut().expect("a line begins with a field").extend(end.bytes());
    }

    /// Whether the quote at the beginning of `rest` opens a quoted field.
    fn opens(&self, rest: &[u8]) -> bool {
        match self.quotes {
            Quotes::Frames => true,
            Quotes::Characters => false,
            Quotes::WithinLine => {
                let mut behind = &rest[1..];
                loop {
                    let Some(quote) = behind.iter().position(|&byte| byte == b'"') else { return false };
                    match behind.get(quote + 1) {
                        None => return true,
                        Some(&byte) if byte == self.delimiter => return true,
                        Some(b'"') => behind = &behind[quote + 2..],
                        Some(_) => return false,
                    }
                }
            }
        }
    }
}
