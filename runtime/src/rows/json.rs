//! Objects in JSON: one a line, or as elements of one array.

use std::{collections::HashSet, fmt, io::BufRead, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{BadRow, Item, Row, RowsError, Value, bad_row, lines::Lines, source::rows_error, utf8};
use crate::file::Distinct;

/// Rows of a file of objects.
pub(super) struct Json {
    lines: Lines,
    name: String,
    layout: Layout,
    /// Keys of the row before: those of the next are the same as a rule.
    columns: Arc<[String]>,
    /// Of an array, the byte before.
    last: u8,
    /// How many bytes of the line have been taken one by one.
    read_of_line: u64,
}

/// Where a row begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    line: u64,
    /// So many bytes of the line stand before it.
    before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Unknown,
    Lines,
    Array,
    Done,
}

impl Json {
    pub(super) fn new(lines: Lines, name: String) -> Self {
        Self { lines, name, layout: Layout::Unknown, columns: Arc::new([]), last: 0, read_of_line: 0 }
    }

    /// Whether the first character that is no white space opens an array.
    fn look(&mut self) -> std::io::Result<Layout> {
        loop {
            let chunk = self.lines.reader.fill_buf()?;
            match chunk.first() {
                Some(&byte @ (b' ' | b'\t' | b'\r' | b'\n')) => self.take(byte),
                Some(&byte @ b'[') => {
                    self.take(byte);
                    self.lines.number += 1;
                    return Ok(Layout::Array);
                }
                _ => return Ok(Layout::Lines),
            }
        }
    }

    /// Goes on behind a byte that the reader has.
    fn take(&mut self, byte: u8) {
        self.lines.reader.consume(1);
        self.lines.number += u64::from(ends_line(self.last, byte));
        self.read_of_line = if matches!(byte, b'\r' | b'\n') { 0 } else { self.read_of_line + 1 };
        self.last = byte;
    }

    /// The next line that is not blank, and where it begins.
    fn line(&mut self) -> Option<Result<(Start, Vec<u8>), RowsError>> {
        loop {
            let mut line = Vec::new();
            match self.lines.read(&mut line) {
                Err(error) => {
                    self.layout = Layout::Done;
                    return Some(Err(rows_error(error, &self.name, self.lines.number)));
                }
                Ok(None) => return None,
                Ok(Some(_)) if line.trim_ascii().is_empty() => self.read_of_line = 0,
                // White space that was looked at stands before the first row.
                Ok(Some(_)) => {
                    let before = std::mem::take(&mut self.read_of_line);
                    return Some(Ok((Start { line: self.lines.number, before }, line)));
                }
            }
        }
    }

    /// The next element of the array, and where it begins.
    fn element(&mut self) -> Option<Result<(Start, Vec<u8>), RowsError>> {
        let (mut element, mut first) = (Vec::new(), None);
        let (mut depth, mut is_string, mut is_escaped) = (0usize, false, false);
        let fail = |this: &mut Self, line: u64, expected: &str, got: &str| {
            this.layout = Layout::Done;
            Some(Err(BadRow { is_last: true, ..bad_row(&this.name, line, expected, got) }.into()))
        };
        loop {
            let byte = match self.lines.reader.fill_buf() {
                Ok(chunk) => chunk.first().copied(),
                Err(error) => {
                    self.layout = Layout::Done;
                    return Some(Err(rows_error(error, &self.name, self.lines.number)));
                }
            };
            let Some(byte) = byte else {
                let line = first.map_or(self.lines.number, |Start { line, .. }| line);
                return fail(self, line, "the array's closing bracket", "the end of the file");
            };
            let before = self.read_of_line;
            self.take(byte);
            if depth == 0 && !is_string && matches!(byte, b',' | b']') {
                if byte == b']' {
                    self.layout = Layout::Done;
                    if let Some(wrong) = self.behind() {
                        return Some(Err(wrong));
                    }
                }
                return match (first, byte) {
                    (Some(first), _) => Some(Ok((first, element))),
                    (None, b']') => None,
                    (None, _) => fail(self, self.lines.number, "an object", "a comma"),
                };
            }
            if first.is_none() && !byte.is_ascii_whitespace() {
                first = Some(Start { line: self.lines.number, before });
            }
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_string => is_escaped = true,
                b'"' => is_string = !is_string,
                b'{' | b'[' if !is_string => depth += 1,
                b'}' | b']' if !is_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            if first.is_some() && element.len() <= self.lines.max_row {
                element.push(byte);
            }
        }
    }

    /// What stands behind the array, if anything does.
    fn behind(&mut self) -> Option<RowsError> {
        // The rest of the bracket's line has its number.
        self.lines.number -= 1;
        let (Start { line, .. }, content) = match self.line()? {
            Ok(line) => line,
            Err(error) => return Some(error),
        };
        let got = format!("{:?}", String::from_utf8_lossy(&content).trim().chars().take(20).collect::<String>());
        Some(BadRow { is_last: true, ..bad_row(&self.name, line, "nothing behind the array", got) }.into())
    }

    fn row(&mut self, Start { line, before }: Start, content: Vec<u8>) -> Item {
        let name = &self.name;
        // What is found counts from where the row begins.
        let of_line = |bad: BadRow| match bad.line == Some(line) {
            true => BadRow { column: bad.column.map(|column| column + before), ..bad },
            false => bad,
        };
        if content.len() > self.lines.max_row {
            return Err(self.lines.too_large(name, line, "").into());
        }
        let content = utf8(content, name, line).map_err(of_line)?;
        let Object(fields) = serde_json::from_str(&content).map_err(|error| {
            let message = error.to_string();
            // The position that serde_json adds is within the row.
            let mut got = message.split(" at line ").next().unwrap_or(&message).to_owned();
            if self.layout == Layout::Lines && error.is_eof() {
                got += "; of JSON, one object a line is read, or an array of objects";
            }
            let column = Some(error.column() as u64).filter(|column| *column > 0);
            of_line(BadRow { column, ..bad_row(name, line + error.line().max(1) as u64 - 1, "a JSON object", got) })
        })?;
        let (columns, values): (Vec<String>, Vec<Value>) = fields.into_iter().unzip();
        if *self.columns != *columns {
            self.columns = columns.into();
        }
        Ok(Row { line, columns: Arc::clone(&self.columns), values, may_hold_rows: false })
    }
}

impl Iterator for Json {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.layout == Layout::Unknown {
            match self.look() {
                Ok(layout) => self.layout = layout,
                Err(error) => {
                    self.layout = Layout::Done;
                    return Some(Err(rows_error(error, &self.name, 1)));
                }
            }
        }
        let content = match self.layout {
            Layout::Lines => self.line()?,
            Layout::Array => self.element()?,
            Layout::Unknown | Layout::Done => return None,
        };
        Some(content.and_then(|(start, content)| self.row(start, content)))
    }
}

/// Whether a line ends with `byte`: LF behind CR is a part of the same end.
fn ends_line(last: u8, byte: u8) -> bool {
    byte == b'\r' || (byte == b'\n' && last != b'\r')
}

/// From so many keys on, it is not worth it to look at each for the next one.
const MANY_KEYS: usize = 32;

/// An object whose keys are all different: of two that are the same, a map would keep the last without a word.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                let mut many = HashSet::new();
                while let Some((key, Distinct(value))) = map.next_entry::<String, _>()? {
                    if fields.len() == MANY_KEYS {
                        many.extend(fields.iter().map(|(key, _)| key.clone()));
                    }
                    let is_repeated = match fields.len() {
                        ..MANY_KEYS => fields.iter().any(|(earlier, _)| *earlier == key),
                        _ => !many.insert(key.clone()),
                    };
                    if is_repeated {
                        return Err(serde::de::Error::custom(format!("the key {key:?} twice")));
                    }
                    fields.push((key, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
