//! Labelled texts from a file: CSV, TSV or JSON Lines. Every error names file and line.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// A labelled text as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The text.
    pub text: String,
    /// The label.
    pub label: String,
    /// The line on which the row begins, counted from 1.
    pub line: u64,
}

/// The rows of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// Its rows, in order; at least one.
    pub rows: Vec<Row>,
    /// How many columns (keys of a JSON object: those of the first row) the file has.
    pub columns: usize,
}

/// The names of the columns that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The texts.
    pub text: String,
    /// The labels.
    pub label: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self { text: "text".to_owned(), label: "label".to_owned() }
    }
}

impl Dataset {
    /// Reads `path`; its ending names the format: `.csv`, `.tsv`, `.jsonl` or `.ndjson`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] with line and column for what cannot be read as labelled text.
    pub fn open(path: &Path, columns: &Columns) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let read = || read_utf8(path);
        let dataset = match extension.as_str() {
            "csv" => delimited(path, &read()?, b',', columns)?,
            "tsv" => delimited(path, &read()?, b'\t', columns)?,
            "jsonl" | "ndjson" => json_lines(path, &read()?, columns)?,
            _ => return Err(data_error(path, None, "a name that ends in .csv, .tsv, .jsonl or .ndjson", extension)),
        };
        match dataset.rows.is_empty() {
            true => Err(data_error(path, None, "at least one row", "none")),
            false => Ok(dataset),
        }
    }

    /// The different labels, sorted: a label's place is its id.
    ///
    /// # Errors
    /// [`Error::Data`] if there is one label only, or if a label has one row only: it can be learned or tested, not both.
    pub fn labels(&self) -> Result<Vec<String>> {
        let mut counts = std::collections::BTreeMap::<&str, (usize, u64)>::new();
        for row in &self.rows {
            counts.entry(&row.label).or_insert((0, row.line)).0 += 1;
        }
        if let [(label, _)] = counts.iter().collect::<Vec<_>>()[..] {
            return Err(data_error(
                &self.path,
                None,
                "at least two different labels",
                format!("{label:?} in all rows"),
            ));
        }
        if let Some((label, (_, line))) = counts.iter().find(|(_, (count, _))| *count == 1) {
            let expected = "at least two rows for every label";
            return Err(data_error(&self.path, Some(*line), expected, format!("one row with label {label:?}")));
        }
        Ok(counts.into_keys().map(str::to_owned).collect())
    }

    /// Each row's label as an id into `labels`.
    ///
    /// # Errors
    /// [`Error::Data`] for the first row with another label.
    pub fn label_ids(&self, labels: &[String]) -> Result<Vec<u32>> {
        self.rows
            .iter()
            .map(|row| match labels.iter().position(|label| *label == row.label) {
                Some(id) => Ok(id as u32),
                None => {
                    let expected = format!("one of the labels {}", labels.join(", "));
                    Err(data_error(&self.path, Some(row.line), &expected, format!("{:?}", row.label)))
                }
            })
            .collect()
    }
}

fn data_error(path: &Path, line: Option<u64>, expected: &str, got: impl Into<String>) -> Error {
    Error::Data { path: path.to_owned(), line, column: None, expected: expected.to_owned(), got: got.into() }
}

/// The file as text, without a byte order mark.
fn read_utf8(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let before = &bytes[..valid];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        Error::Data {
            path: path.to_owned(),
            line: Some(before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1),
            column: Some((valid - line_start) as u64 + 1),
            expected: "UTF-8".to_owned(),
            got: format!("the byte 0x{:02x}", bytes[valid]),
        }
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

fn delimited(path: &Path, text: &str, delimiter: u8, columns: &Columns) -> Result<Dataset> {
    if text.trim().is_empty() {
        return Err(data_error(path, None, "a header and rows", "an empty file"));
    }
    let mut lines = LineCounter { text, byte: 0, line: 1 };
    let csv_error = |lines: &mut LineCounter<'_>, error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => data_error(
            path,
            pos.as_ref().map(|position| lines.line_of(position)),
            &format!("{expected_len} fields, as in the header"),
            format!("{len}"),
        ),
        _ => data_error(
            path,
            error.position().map(|position| lines.line_of(position)),
            "delimited text",
            error.to_string(),
        ),
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| csv_error(&mut lines, error))?.clone();
    let position = |name: &str, option: &str| {
        header.iter().position(|column| column == name).ok_or_else(|| {
            let got = header.iter().collect::<Vec<_>>().join(", ");
            data_error(path, Some(1), &format!("a column {name:?} (see {option})"), format!("the columns {got}"))
        })
    };
    let text_index = position(&columns.text, "--text-column")?;
    let label_index = position(&columns.label, "--label-column")?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(&mut lines, error))?;
        let line = record.position().map_or(0, |position| lines.line_of(position));
        rows.push(row(path, line, &record[text_index], &record[label_index])?);
    }
    if let Some(last) = rows.last() {
        lines.expect_closed_quotes(path, last)?;
    }
    Ok(Dataset { path: path.to_owned(), rows, columns: header.len() })
}

/// serde_json's messages end with a position within the string that was parsed, which is one line of a file.
fn without_position(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

/// Counts lines up to ascending positions. The csv crate's own line numbers stop before the line break of the row above
/// if that is CRLF, and before blank lines.
struct LineCounter<'a> {
    text: &'a str,
    byte: usize,
    line: u64,
}

impl LineCounter<'_> {
    fn line_of(&mut self, position: &csv::Position) -> u64 {
        let bytes = self.text.as_bytes();
        let mut start = (position.byte() as usize).min(bytes.len());
        while bytes.get(start).is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            start += 1;
        }
        self.line += bytes[self.byte..start].iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.byte = start;
        self.line
    }

    /// A quote that is never closed makes one row of all that follows: an odd number of quotes in a last row of several
    /// lines. (In a row of one line a lone quote is a character, as in `5" pipe`.)
    fn expect_closed_quotes(&self, path: &Path, last: &Row) -> Result<()> {
        let raw = &self.text[self.byte..];
        if raw.trim_end().contains('\n') && !raw.matches('"').count().is_multiple_of(2) {
            return Err(data_error(path, Some(last.line), "a closing quote", "the end of the file"));
        }
        Ok(())
    }
}

fn json_lines(path: &Path, text: &str, columns: &Columns) -> Result<Dataset> {
    let mut rows = Vec::new();
    let mut keys = 0;
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() {
            continue;
        }
        let object: serde_json::Map<String, Value> = serde_json::from_str(content).map_err(|error| Error::Data {
            path: path.to_owned(),
            line: Some(line),
            column: Some(error.column() as u64),
            expected: "a JSON object".to_owned(),
            got: without_position(&error.to_string()).to_owned(),
        })?;
        let field = |name: &str, option: &str| match object.get(name) {
            Some(Value::String(value)) => Ok(value.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(value) => Err(data_error(path, Some(line), &format!("a string as {name:?}"), value.to_string())),
            None => {
                let got = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(data_error(path, Some(line), &format!("a key {name:?} (see {option})"), format!("the keys {got}")))
            }
        };
        let (text, label) = (field(&columns.text, "--text-column")?, field(&columns.label, "--label-column")?);
        rows.push(row(path, line, &text, &label)?);
        if rows.len() == 1 {
            keys = object.len();
        }
    }
    Ok(Dataset { path: path.to_owned(), rows, columns: keys })
}

fn row(path: &Path, line: u64, text: &str, label: &str) -> Result<Row> {
    match label.trim().is_empty() {
        true => Err(data_error(path, Some(line), "a label", "an empty one")),
        false => Ok(Row { text: text.to_owned(), label: label.to_owned(), line }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, content: &[u8]) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Dataset::open(&path, &Columns::default())
    }

    fn row(text: &str, label: &str, line: u64) -> Row {
        Row { text: text.to_owned(), label: label.to_owned(), line }
    }

    #[test]
    fn csv_with_quotes_newlines_crlf_and_byte_order_mark() {
        let content = b"\xef\xbb\xbfid,text,label\r\n1,\"two\r\nlines, \"\"quoted\"\"\",a\r\n\r\n2,plain,b\r\n";
        let dataset = open("x.csv", content).unwrap();
        assert_eq!(dataset.rows, [row("two\r\nlines, \"quoted\"", "a", 2), row("plain", "b", 5)]);
        assert_eq!(dataset.columns, 3);
    }

    #[test]
    fn tsv_and_json_lines() {
        assert_eq!(open("x.tsv", b"label\ttext\na\tone, two\n").unwrap().rows, [row("one, two", "a", 2)]);
        let content = b"{\"text\": \"one\", \"label\": 1}\n\n{\"label\": \"b\", \"text\": \"two\"}";
        assert_eq!(open("x.jsonl", content).unwrap().rows, [row("one", "1", 1), row("two", "b", 3)]);
    }

    /// Line and column of the error, and what was found.
    fn failure(name: &str, content: &[u8]) -> (Option<u64>, Option<u64>, String) {
        match open(name, content) {
            Err(Error::Data { line, column, got, .. }) => (line, column, got),
            other => panic!("expected a data error, found {other:?}"),
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(failure("x.csv", b"text,label\na,b\nonly one\n"), (Some(3), None, "1".into()));
        assert_eq!(failure("x.csv", b"text,label\na,b\nc,\xff\n"), (Some(3), Some(3), "the byte 0xff".into()));
        assert_eq!(failure("x.csv", b"text,class\na,b\n"), (Some(1), None, "the columns text, class".into()));
        assert_eq!(failure("x.csv", b"text,label\na,b\nc, \n"), (Some(3), None, "an empty one".into()));
        assert_eq!(
            failure("x.csv", b"label,text\na,5\" pipe\nb,\"open\na,c\n"),
            (Some(3), None, "the end of the file".into())
        );
        assert_eq!(failure("x.csv", b""), (None, None, "an empty file".into()));
        assert_eq!(failure("x.csv", b"text,label\n"), (None, None, "none".into()));
        assert_eq!(failure("x.jsonl", b"{\"text\": \"a\"}\n"), (Some(1), None, "the keys text".into()));
        assert_eq!(failure("x.jsonl", b"{\"text\": \"a\", \"label\": \"b\"}\n{\n").0, Some(2));
    }

    #[test]
    fn labels_are_sorted_and_need_two_rows_each() {
        let labels = |content: &[u8]| open("x.csv", content).unwrap().labels();
        assert_eq!(labels(b"text,label\n1,b\n2,a\n3,b\n4,a\n").unwrap(), ["a", "b"]);
        let Err(Error::Data { line, .. }) = labels(b"text,label\n1,b\n2,a\n3,b\n") else { panic!("one row of a") };
        assert_eq!(line, Some(3));
        assert!(labels(b"text,label\n1,b\n2,b\n").is_err());
    }
}
