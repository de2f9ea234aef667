//! Labelled texts from files: CSV, TSV, JSON Lines or Parquet. Every error names file and line.

mod delimited;
mod json_lines;
mod parquet;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nimbert::{ProblemType, TextInput};

use crate::error::{Error, Result};

/// A labelled text as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The text.
    pub text: String,
    /// The second text, where the task is to classify pairs.
    pub pair: Option<String>,
    /// The labels: one, or any number where [`Columns::problem_type`] allows it.
    pub labels: Vec<String>,
    /// The file, as an index into [`Dataset::files`].
    pub file: usize,
    /// The line on which the row begins, or the row of a Parquet file, counted from 1.
    pub line: u64,
}

/// The rows of one file or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Their rows, in order; at least one of each file.
    pub rows: Vec<Row>,
    /// How many columns (keys of a JSON object: those of the first row) the first file has.
    pub columns: usize,
    problem_type: ProblemType,
}

/// The columns that matter, and how labels are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The texts.
    pub text: String,
    /// The second texts, where the task is to classify pairs.
    pub pair: Option<String>,
    /// The labels.
    pub label: String,
    /// Whether a row has one label or any number of them.
    pub problem_type: ProblemType,
    /// What stands between labels in one string, where a row may have several. A list needs no separator.
    pub separator: char,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            pair: None,
            label: "label".to_owned(),
            problem_type: ProblemType::SingleLabel,
            separator: ',',
        }
    }
}

impl<'a> From<&'a Row> for TextInput<'a> {
    fn from(row: &'a Row) -> Self {
        Self { text: &row.text, pair: row.pair.as_deref() }
    }
}

impl Dataset {
    /// Reads `files`, one after the other. A name's ending tells the format: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or
    /// `.parquet`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] with line and column for what cannot be read as labelled text.
    pub fn open(files: &[PathBuf], columns: &Columns) -> Result<Self> {
        let mut dataset =
            Self { files: files.to_vec(), rows: Vec::new(), columns: 0, problem_type: columns.problem_type };
        for (file, path) in files.iter().enumerate() {
            let before = dataset.rows.len();
            let width = FileReader { path, file, columns }.read(&mut dataset.rows)?;
            if dataset.rows.len() == before {
                return Err(data_error(path, None, "at least one row", "none"));
            }
            if file == 0 {
                dataset.columns = width;
            }
        }
        Ok(dataset)
    }

    /// Where a row stands: `reviews.csv:17`.
    pub fn place(&self, row: &Row) -> String {
        format!("{}:{}", self.files[row.file].display(), row.line)
    }

    /// The files, as a person would list them.
    pub fn name(&self) -> String {
        self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The different labels, sorted: a label's place is its id.
    ///
    /// # Errors
    /// [`Error::Data`] if there is one label only, or if a label of rows that have one each is there once: it can be
    /// learned or tested, not both.
    pub fn labels(&self) -> Result<Vec<String>> {
        let mut counts = BTreeMap::<&str, (usize, &Row)>::new();
        for row in &self.rows {
            for label in &row.labels {
                counts.entry(label).or_insert((0, row)).0 += 1;
            }
        }
        if counts.len() < 2 {
            let got = counts.keys().next().map_or("none".to_owned(), |label| format!("{label:?} in all rows"));
            return Err(data_error(&self.files[0], None, "at least two different labels", got));
        }
        let single = counts.iter().find(|(_, (count, _))| *count == 1);
        if let (Some((label, (_, row))), ProblemType::SingleLabel) = (single, self.problem_type) {
            let expected = "at least two rows for every label";
            let got = format!("one row with label {label:?}");
            return Err(data_error(&self.files[row.file], Some(row.line), expected, got));
        }
        Ok(counts.into_keys().map(str::to_owned).collect())
    }

    /// Each row's labels as ids into `labels`, ascending.
    ///
    /// # Errors
    /// [`Error::Data`] for the first row with another label.
    pub fn label_ids(&self, labels: &[String]) -> Result<Vec<Vec<u32>>> {
        let ids: BTreeMap<&str, u32> = labels.iter().map(String::as_str).zip(0..).collect();
        let row_ids = |row: &Row| {
            let id = |label: &String| {
                ids.get(label.as_str()).copied().ok_or_else(|| {
                    let expected = format!("one of the labels {}", labels.join(", "));
                    data_error(&self.files[row.file], Some(row.line), &expected, format!("{label:?}"))
                })
            };
            let mut ids = row.labels.iter().map(id).collect::<Result<Vec<u32>>>()?;
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        };
        self.rows.iter().map(row_ids).collect()
    }
}

/// What a label column may hold.
enum LabelField {
    One(String),
    List(Vec<String>),
}

/// Reads one file.
#[derive(Clone, Copy)]
struct FileReader<'a> {
    path: &'a Path,
    file: usize,
    columns: &'a Columns,
}

impl FileReader<'_> {
    /// Appends the file's rows and returns its number of columns.
    fn read(self, rows: &mut Vec<Row>) -> Result<usize> {
        let extension = self.path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "csv" => self.delimited(&read_utf8(self.path)?, b',', rows),
            "tsv" => self.delimited(&read_utf8(self.path)?, b'\t', rows),
            "jsonl" | "ndjson" => self.json_lines(&read_utf8(self.path)?, rows),
            "parquet" => self.parquet(rows),
            _ => {
                let expected = "a name that ends in .csv, .tsv, .jsonl, .ndjson or .parquet";
                Err(data_error(self.path, None, expected, self.path.display().to_string()))
            }
        }
    }

    fn row(self, line: u64, text: String, pair: Option<String>, label: LabelField) -> Result<Row> {
        let fail = |expected: &str, got: &str| Err(data_error(self.path, Some(line), expected, got));
        let labels = match (self.columns.problem_type, label) {
            (ProblemType::SingleLabel, LabelField::List(_)) => {
                return fail("one label", "a list of them (see --multi-label)");
            }
            (ProblemType::SingleLabel, LabelField::One(label)) if label.trim().is_empty() => {
                return fail("a label", "an empty one");
            }
            (ProblemType::SingleLabel, LabelField::One(label)) => vec![label],
            (ProblemType::MultiLabel, LabelField::One(labels)) => labels
                .split(self.columns.separator)
                .map(|label| label.trim().to_owned())
                .filter(|label| !label.is_empty())
                .collect(),
            (ProblemType::MultiLabel, LabelField::List(labels)) => labels,
        };
        Ok(Row { text, pair, labels, file: self.file, line })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, content: &[u8]) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Dataset::open(&[path], &Columns::default())
    }

    fn row(text: &str, label: &str, line: u64) -> Row {
        Row { text: text.to_owned(), pair: None, labels: vec![label.to_owned()], file: 0, line }
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

    #[test]
    fn pairs_and_several_labels() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let columns = Columns {
            text: "question".to_owned(),
            pair: Some("answer".to_owned()),
            problem_type: ProblemType::MultiLabel,
            separator: '|',
            ..Columns::default()
        };
        let files = [
            write("x.csv", "question,answer,label\nwho?,me,a| b\nwhy?,,\n"),
            write("y.jsonl", "{\"question\": \"how?\", \"answer\": \"so\", \"label\": [\"b\", \"c\"]}\n"),
        ];
        let dataset = Dataset::open(&files, &columns).unwrap();
        let labels = dataset.labels().unwrap();
        assert_eq!(labels, ["a", "b", "c"]);
        assert_eq!(dataset.label_ids(&labels).unwrap(), [vec![0, 1], vec![], vec![1, 2]]);
        assert_eq!(dataset.rows[2].pair.as_deref(), Some("so"));
        assert!(dataset.place(&dataset.rows[2]).ends_with("y.jsonl:1"));
        // Lists are refused where a row has one label.
        let single = Columns { problem_type: ProblemType::SingleLabel, ..columns };
        assert!(Dataset::open(&files[1..], &single).is_err());
    }
}
