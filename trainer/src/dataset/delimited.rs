//! CSV and TSV.

use std::path::Path;

use super::{FileReader, LabelField, Row, data_error};
use crate::error::Result;

impl FileReader<'_> {
    pub(super) fn delimited(self, text: &str, delimiter: u8, rows: &mut Vec<Row>) -> Result<usize> {
        let Self { path, columns, .. } = self;
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
        let pair_index = columns.pair.as_ref().map(|pair| position(pair, "--text-pair-column")).transpose()?;
        for record in reader.records() {
            let record = record.map_err(|error| csv_error(&mut lines, error))?;
            let line = record.position().map_or(0, |position| lines.line_of(position));
            let pair = pair_index.map(|index| record[index].to_owned());
            let label = LabelField::One(record[label_index].to_owned());
            rows.push(self.row(line, record[text_index].to_owned(), pair, label)?);
        }
        if let Some(last) = rows.last() {
            lines.expect_closed_quotes(path, last)?;
        }
        Ok(header.len())
    }
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
