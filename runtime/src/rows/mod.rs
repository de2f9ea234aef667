//! Rows of text from a file of any size, one after the other: what both programs read. CSV, TSV, JSON (lines or an
//! array), Parquet (a cargo feature), or lines of text; as they are or compressed, in UTF-8 or another encoding.
//!
//! Nothing is dropped, merged or reinterpreted in silence: what is not as it should be is a [`BadRow`] with file, line and
//! column. Those behind it can be read on, unless it says that they cannot. Memory does not grow with the file.

mod delimited;
mod json;
mod lines;
#[cfg(feature = "parquet-rows")]
mod parquet;
mod source;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
pub use serde_json::Value;

/// No row may be larger, in bytes: a quote that is not closed would otherwise fill the memory.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// The name of the only column of a file of lines.
pub const LINE_COLUMN: &str = "text";

/// One row: a value for each of its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The line on which it begins; of Parquet the number of the row. Counted from 1.
    pub line: u64,
    /// The columns' names: of a file with a header the same for all rows, of JSON the keys of this one.
    pub columns: Arc<[String]>,
    /// Their values, in the same order. CSV has strings only; what is missing in JSON or Parquet is null.
    pub values: Vec<Value>,
    /// Whether a quoted field runs over lines that could be rows of their own: a quote may be missing.
    pub may_hold_rows: bool,
}

/// A row that cannot be read: where it is, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}{}: expected {expected}, found {got}", position(*line, *column))]
pub struct BadRow {
    /// The file, as it was given.
    pub name: String,
    /// The line, counted from 1; none if the file as a whole is meant.
    pub line: Option<u64>,
    /// The column, in bytes and counted from 1; none if the line as a whole is meant.
    pub column: Option<u64>,
    /// What should be there.
    pub expected: String,
    /// What is there, and what to do about it.
    pub got: String,
    /// Whether nothing behind it can be read.
    pub is_last: bool,
}

/// Why there is no row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// The row, or the file, is not as it should be.
    #[error(transparent)]
    Bad(#[from] BadRow),
    /// The operating system could not read on.
    #[error("{name}: {reason}")]
    Io {
        /// The file, as it was given.
        name: String,
        /// The operating system's reason.
        reason: std::io::Error,
    },
}

impl RowsError {
    /// Whether nothing behind it can be read.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Bad(bad) if !bad.is_last)
    }
}

/// What is read next.
pub type Item = Result<Row, RowsError>;

/// How files of rows are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct ReadOptions {
    /// What the file is: csv, tsv, jsonl, json, parquet or text (every line is one) [default: by its name's ending, behind
    /// which .gz or .zst may stand]
    #[cfg_attr(feature = "clap", arg(long, value_name = "FORMAT"))]
    pub format: Option<Format>,
    /// Encoding of the text, such as utf-16, windows-1252 or shift_jis [default: UTF-8; what is none is an error]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub encoding: Option<TextEncoding>,
    /// What a quote is. csv: a field that begins with one ends with one, and may have delimiters and line breaks between
    /// them and quotes written twice. none: a character. auto: csv in CSV; in TSV a character, unless the field is quoted
    /// from end to end within its line
    #[cfg_attr(feature = "clap", arg(long, value_name = "auto|csv|none", default_value_t))]
    pub quoting: Quoting,
    /// What stands between the fields of CSV [default: a comma; in TSV a tab]
    #[cfg_attr(feature = "clap", arg(long, value_name = "CHARACTER"))]
    pub delimiter: Option<Delimiter>,
    /// No row may be larger, in bytes; none: [`MAX_ROW_BYTES`], which is the most.
    #[serde(skip)]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub max_row_bytes: Option<usize>,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Comma-separated, with a header.
    Csv,
    /// Tab-separated, with a header.
    Tsv,
    /// One object a line, or an array of objects.
    Json,
    /// Apache Parquet.
    Parquet,
    /// Every line is a text.
    Text,
}

/// What a quote is in a delimited file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quoting {
    /// As in CSV; in TSV a character, unless the field is quoted from end to end within its line.
    #[default]
    Auto,
    /// The frame of a field.
    Csv,
    /// A character like any other.
    None,
}

/// The ASCII character between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Delimiter(u8);

/// An encoding of text by its name in the WHATWG's standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextEncoding(&'static encoding_rs::Encoding);

/// What a column holds, as far as the file says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Strings, or values of kinds that differ.
    Text,
    /// Integers.
    Integer,
    /// Floating-point numbers.
    Number,
    /// True or false.
    Boolean,
}

/// An opened file whose header has been read.
pub struct Reader {
    name: String,
    columns: Option<Arc<[String]>>,
    /// The line of the header; none where there is none.
    header_line: Option<u64>,
    kinds: Vec<Kind>,
    class_names: Vec<(String, Vec<String>)>,
    progress: Arc<AtomicU64>,
    total: Option<u64>,
    /// Not the iterator itself: Parquet's belongs to the thread that reads.
    rows: Box<dyn FnOnce(Option<Vec<String>>) -> Rows + Send>,
}

/// Rows one after the other.
pub type Rows = Box<dyn Iterator<Item = Item>>;

impl Reader {
    /// Opens `path`, or standard input if it is `-`, and reads the header of a file that has one. Parquet is read with the
    /// cargo feature `parquet` only.
    ///
    /// # Errors
    /// [`RowsError`] for what cannot be opened or is no file of that format.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self, RowsError> {
        #[cfg(feature = "parquet")]
        return Self::open_any(path, options);
        #[cfg(not(feature = "parquet"))]
        Self::open_by(path, options, no_parquet)
    }

    /// The same, Parquet included. Programs are built together, with the features of all of them: what the lean one does
    /// not call is not linked into it.
    ///
    /// # Errors
    /// [`RowsError`].
    #[cfg(feature = "parquet-rows")]
    pub fn open_any(path: &Path, options: &ReadOptions) -> Result<Self, RowsError> {
        Self::open_by(path, options, parquet::open)
    }

    fn open_by(
        path: &Path,
        options: &ReadOptions,
        parquet: fn(&Path, String) -> Result<Self, RowsError>,
    ) -> Result<Self, RowsError> {
        let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        let format = match options.format {
            Some(format) => format,
            None => Format::of(path, &name)?,
        };
        let is_delimited = matches!(format, Format::Csv | Format::Tsv);
        for (is_given, is_of_use, expected) in [
            (options.delimiter.is_some(), is_delimited, "a .csv or .tsv file for --delimiter"),
            (options.quoting != Quoting::Auto, is_delimited, "a .csv or .tsv file for --quoting"),
            (options.encoding.is_some(), format != Format::Parquet, "a file of text for --encoding"),
        ] {
            if is_given && !is_of_use {
                return Err(BadRow { line: None, is_last: true, ..bad_row(&name, 0, expected, "another one") }.into());
            }
        }
        if format == Format::Parquet && path == Path::new("-") {
            // What it has lies at its end.
            let expected = "a file for --format parquet";
            return Err(BadRow { line: None, is_last: true, ..bad_row(&name, 0, expected, "a stream") }.into());
        }
        if format == Format::Parquet {
            return parquet(path, name);
        }
        let progress = Arc::default();
        let (source, total) = source::open(path, &name, options.encoding, Arc::clone(&progress))?;
        let lines = lines::Lines::new(source, options.max_row_bytes.unwrap_or(MAX_ROW_BYTES).min(MAX_ROW_BYTES));
        let mut reader = Self {
            name: name.clone(),
            columns: None,
            header_line: None,
            kinds: Vec::new(),
            class_names: Vec::new(),
            progress,
            total,
            rows: Box::new(|_| Box::new(std::iter::empty())),
        };
        match format {
            Format::Csv | Format::Tsv => {
                let usual = if format == Format::Csv { b',' } else { b'\t' };
                let delimiter = match options.delimiter {
                    Some(Delimiter(given)) => delimited::Separator::Given(given),
                    None => delimited::Separator::Usual(usual),
                };
                let quotes = match (options.quoting, format) {
                    (Quoting::None, _) => delimited::Quotes::Characters,
                    (Quoting::Auto, Format::Tsv) => delimited::Quotes::WithinLine,
                    (Quoting::Auto | Quoting::Csv, _) => delimited::Quotes::Frames,
                };
                let rows = delimited::Delimited::open(lines, name, delimiter, quotes)?;
                reader.header_line = Some(rows.header_line());
                reader.kinds = vec![Kind::Text; rows.columns.len()];
                reader.columns = Some(Arc::clone(&rows.columns));
                reader.rows = Box::new(|_| Box::new(rows));
            }
            Format::Json => reader.rows = Box::new(|_| Box::new(json::Json::new(lines, name))),
            _ => {
                let columns: Arc<[String]> = Arc::new([LINE_COLUMN.to_owned()]);
                reader.kinds = vec![Kind::Text];
                reader.columns = Some(Arc::clone(&columns));
                reader.rows = Box::new(|_| Box::new(lines::Texts { lines, name, columns }));
            }
        }
        Ok(reader)
    }

    /// The columns' names where all rows have the same; none for JSON.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }

    /// What the columns hold, in their order; empty for JSON.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The names that stand for the numbers 0, 1, 2, … of a column, as data sets on model hubs have them in the metadata of
    /// Parquet.
    pub fn class_names(&self, column: &str) -> Option<&[String]> {
        self.class_names.iter().find(|(name, _)| name == column).map(|(_, names)| names.as_slice())
    }

    /// How far reading is, in the unit of [`Reader::total`]; shared with the iterator.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.progress))
    }

    /// Size of the file: bytes, or rows of Parquet; none where it is not known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Checks that a column is there, where that is known before the rows are read. `option` is how the command line names
    /// it.
    ///
    /// # Errors
    /// [`BadRow`] with the columns that are there.
    pub fn expect_column(&self, column: &str, option: &str) -> Result<(), BadRow> {
        let Some(columns) = &self.columns else { return Ok(()) };
        if columns.iter().any(|name| name == column) {
            return Ok(());
        }
        let mut got = format!("the columns {}", list(columns));
        if let ([only], true) = (&columns[..], self.kinds == [Kind::Text]) {
            let other = [',', ';', '\t', '|'].into_iter().find(|&delimiter| only.contains(delimiter));
            if let Some(delimiter) = other {
                got += &format!("; is {delimiter:?} what stands between them? (see --delimiter)");
            }
        }
        if self.header_line.is_none() && columns[..] == [LINE_COLUMN] {
            got += "; its name says no format, so that each line is a text (see --format)";
        }
        let expected = format!("a column {column:?} (see {option})");
        Err(BadRow { line: self.header_line, is_last: true, ..bad_row(&self.name, 0, expected, got) })
    }

    /// The rows, of Parquet only the columns of those names. They end behind an error behind which nothing can be read.
    pub fn rows(self, columns: Option<Vec<String>>) -> Rows {
        let mut rows = (self.rows)(columns);
        let mut has_ended = false;
        Box::new(std::iter::from_fn(move || {
            let item = if has_ended { None } else { rows.next() };
            has_ended = item.as_ref().is_none_or(|item| item.as_ref().is_err_and(RowsError::is_last));
            item
        }))
    }
}

/// How far a file has been read.
#[derive(Debug, Clone)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes, or rows of Parquet.
    pub fn position(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Row {
    /// The value of a column, if the row has it.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.columns.iter().position(|name| name == column).map(|index| &self.values[index])
    }

    /// The value of a column; `option` is how the command line names it.
    ///
    /// # Errors
    /// [`BadRow`] of the file `name` with the columns that are there.
    pub fn field(&self, column: &str, option: &str, name: &str) -> Result<&Value, BadRow> {
        self.get(column).ok_or_else(|| {
            let expected = format!("a key {column:?} (see {option})");
            bad_row(name, self.line, expected, format!("the keys {}", list(&self.columns)))
        })
    }
}

/// Whether each number is the one that stands in the file: whole numbers beyond 64 bits are read as others near them.
pub fn is_exact(value: &Value) -> bool {
    let is_beyond = |number: f64| number.fract() == 0.0 && number.abs() >= 9_007_199_254_740_992.0;
    match value {
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        value => !value.is_f64() || !value.as_f64().is_some_and(is_beyond),
    }
}

/// A value as text: strings as they are, numbers and truth values as JSON writes them; none for what is missing, made of
/// other values, or a number that is not exact.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::Number(_) if !is_exact(value) => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Format {
    /// What a name's ending says. Without one, or with that of a text, every line is a text.
    fn of(path: &Path, name: &str) -> Result<Self, BadRow> {
        let mut path = path.to_owned();
        let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if source::Compression::of(&path).is_some() {
            path.set_extension("");
        }
        match extension(&path).as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" | "tab" => Ok(Self::Tsv),
            "jsonl" | "ndjson" | "json" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            "" | "txt" | "text" | "log" | "md" => Ok(Self::Text),
            _ => {
                let expected = "a name that ends in .csv, .tsv, .jsonl, .ndjson, .json, .parquet or .txt, or --format";
                Err(BadRow { line: None, is_last: true, ..bad_row(name, 0, expected, path.display().to_string()) })
            }
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "jsonl" | "ndjson" | "json" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            "text" | "txt" => Ok(Self::Text),
            _ => Err(format!("expected csv, tsv, jsonl, json, parquet or text, found {name}")),
        }
    }
}

impl FromStr for Quoting {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "csv" => Ok(Self::Csv),
            "none" => Ok(Self::None),
            _ => Err(format!("expected auto, csv or none, found {name}")),
        }
    }
}

impl fmt::Display for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Csv => "csv",
            Self::None => "none",
        })
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"\\t" => Ok(Self(b'\t')),
            [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(Self(*byte)),
            _ => Err(format!("expected one ASCII character that is no quote, or \\t, found {text:?}")),
        }
    }
}

impl FromStr for TextEncoding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("expected an encoding such as utf-8, utf-16, windows-1252 or shift_jis, found {name}");
        let encoding = encoding_rs::Encoding::for_label(name.as_bytes());
        encoding.filter(|&encoding| encoding != encoding_rs::REPLACEMENT).map(Self).ok_or_else(unknown)
    }
}

impl Serialize for TextEncoding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

/// Names that a list has, at most: what is read as columns need not be such.
const NAMES_SHOWN: usize = 50;
/// Characters of each of them.
const CHARACTERS_SHOWN: usize = 60;

/// Names as a list; those that do not show their ends, in quotes.
pub fn list(names: &[String]) -> String {
    let show = |name: &String| match (name.trim() == name && !name.is_empty(), name.chars().count() > CHARACTERS_SHOWN)
    {
        (_, true) => format!("{:?}…", name.chars().take(CHARACTERS_SHOWN).collect::<String>()),
        (true, false) => name.clone(),
        (false, false) => format!("{name:?}"),
    };
    let further = names.len().checked_sub(NAMES_SHOWN).filter(|more| *more > 0).map(|more| format!("and {more} more"));
    names.iter().take(NAMES_SHOWN).map(show).chain(further).collect::<Vec<_>>().join(", ")
}

/// `:line:column`, as compilers and editors write it.
fn position(line: Option<u64>, column: Option<u64>) -> String {
    let part = |number: Option<u64>| number.map_or(String::new(), |number| format!(":{number}"));
    part(line) + &part(column)
}

/// A row behind which one can read on.
pub(crate) fn bad_row(name: &str, line: u64, expected: impl Into<String>, got: impl Into<String>) -> BadRow {
    let (expected, got) = (expected.into(), got.into());
    BadRow { name: name.to_owned(), line: Some(line), column: None, expected, got, is_last: false }
}

/// Bytes of a row that begins at `line` as text.
fn utf8(bytes: Vec<u8>, name: &str, line: u64) -> Result<String, BadRow> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let (before, byte) = (&error.as_bytes()[..valid], error.as_bytes()[valid]);
        let breaks = before.iter().filter(|&&byte| byte == b'\n').count();
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() as u64 + 1;
        let (other, ..) = encoding_rs::WINDOWS_1252.decode(std::slice::from_ref(&byte));
        let got = format!("the byte 0x{byte:02x}, which is {other:?} in windows-1252 (see --encoding)");
        BadRow { column: Some(column), ..bad_row(name, line + breaks as u64, "UTF-8", got) }
    })
}

#[cfg(not(feature = "parquet"))]
fn no_parquet(_: &Path, name: String) -> Result<Reader, RowsError> {
    let (expected, got) = ("a format that this build reads", "Parquet, for which it needs the cargo feature parquet");
    Err(BadRow { line: None, is_last: true, ..bad_row(&name, 0, expected, got) }.into())
}
