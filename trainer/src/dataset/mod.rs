//! Labelled texts from files. How files are read is [`nimbert::rows`]; here is what their rows mean. Every error names file
//! and line.

mod label;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    slice,
};

use nimbert::{
    ProblemType, TextInput,
    rows::{self, BadRow, ReadOptions, Reader, RowsError, Value},
};
use serde::Serialize;

use self::label::NoLabel;
pub use self::label::OnMissing;
use crate::{
    error::{Error, Result},
    loss::Target,
    tasks::{SEPARATOR, label_prefix},
};

/// A labelled text as it stands in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The text.
    pub text: String,
    /// The second text, where the task is to classify pairs.
    pub pair: Option<String>,
    /// The labels: one (of several with shares, the one with the largest), or any number where
    /// [`Columns::problem_type`] allows it. With [`Columns::tasks`], one of each task that the row says something of, as
    /// `task=label`.
    pub labels: Vec<String>,
    /// How sure each label is, in the order of [`Columns::label_columns`]: numbers that sum to 1. None where one label is
    /// sure.
    pub shares: Option<Vec<f32>>,
    /// How much the row counts in training; 1 where no column says so.
    pub weight: f32,
    /// The file, as an index into [`Dataset::files`].
    pub file: usize,
    /// The line on which the row begins, or the row of a Parquet file, counted from 1.
    pub line: u64,
    /// Whether a quoted field runs over lines that could be rows of their own.
    pub may_hold_rows: bool,
}

/// The rows of one file or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The files.
    pub files: Vec<PathBuf>,
    /// SHA-256 of each, taken just before it was read, in hexadecimal; none of a pipe.
    pub digests: Vec<Option<String>>,
    /// Their rows, in order, but those of [`Columns::unknown_label`]; at least one.
    pub rows: Vec<Row>,
    /// The rows of that label, in order.
    pub strangers: Vec<Row>,
    /// How many columns (keys of a JSON object: those of the first row) the first file has.
    pub columns: usize,
    /// Rows that were left out since something was missing: where they stand.
    pub skipped: Vec<String>,
    /// Numbers that stood there in another way than they are written here, such as 1.0 for 1.
    respelled: BTreeMap<String, String>,
    /// Whether some of them are one number.
    merges_numbers: bool,
    forms: Forms,
    problem_type: ProblemType,
    label_columns: Vec<String>,
    /// The names of the tasks, where there are several.
    tasks: Vec<String>,
}

/// A task, and the column with its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskColumn {
    /// What it is called.
    pub name: String,
    /// The column.
    pub column: String,
}

/// The columns that matter, and how they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The texts.
    pub text: String,
    /// The second texts, where the task is to classify pairs.
    pub pair: Option<String>,
    /// The labels, where one column has their names; none, and no `label_columns`: rows have no labels.
    pub label: Option<String>,
    /// A column for each label instead: with 0 and 1 where a row may have any number of labels, else with shares that sum
    /// to 1. Empty: `label`.
    pub label_columns: Vec<String>,
    /// A column for each of several tasks instead. A row may lack labels of some.
    pub tasks: Vec<TaskColumn>,
    /// The label of rows that are like none of the labels: no label to be learned, but what is to be taken for unknown. None: all
    /// labels are learned.
    pub unknown_label: Option<String>,
    /// How much each row counts in training; none: all alike.
    pub weight: Option<String>,
    /// Whether a row has one label or any number of them.
    pub problem_type: ProblemType,
    /// What stands between labels in one string, where a row may have several. A list needs no separator.
    pub separator: char,
    /// What becomes of a row in which something is missing.
    pub on_missing: OnMissing,
    /// How files are read.
    pub read: ReadOptions,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            pair: None,
            label: Some("label".to_owned()),
            label_columns: Vec::new(),
            tasks: Vec::new(),
            unknown_label: None,
            weight: None,
            problem_type: ProblemType::SingleLabel,
            separator: ',',
            on_missing: OnMissing::default(),
            read: ReadOptions::default(),
        }
    }
}

impl Columns {
    /// Those with labels, and how the command line names them.
    fn of_labels(&self) -> (Vec<&String>, &'static str) {
        match (self.tasks.as_slice(), self.label_columns.as_slice()) {
            ([], []) => (self.label.iter().collect(), "--label-column"),
            ([], labels) => (labels.iter().collect(), "--label-columns"),
            (tasks, _) => (tasks.iter().map(|task| &task.column).collect(), "--task"),
        }
    }

    /// Checks that each column is one thing: nobody means that a text is its own label, or that it is read twice.
    fn check_roles(&self) -> Result<()> {
        let (labels, option) = self.of_labels();
        let mut roles = vec![(&self.text, "--text-column")];
        roles.extend(self.pair.iter().map(|column| (column, "--text-pair-column")));
        roles.extend(self.weight.iter().map(|column| (column, "--weight-column")));
        roles.extend(labels.into_iter().map(|column| (column, option)));
        for (place, (column, option)) in roles.iter().enumerate() {
            if let Some((_, other)) = roles[..place].iter().find(|(earlier, _)| earlier == column) {
                let expected = format!("another column than that of {other}");
                return Err(Error::setting(option, expected, column));
            }
        }
        Ok(())
    }
}

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Row {
    /// The text, or both of a pair, for people to read.
    pub fn shown(&self) -> String {
        [Some(self.text.as_str()), self.pair.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ⏎ ")
    }
}

impl<'a> From<&'a Row> for TextInput<'a> {
    fn from(row: &'a Row) -> Self {
        Self { text: &row.text, pair: row.pair.as_deref() }
    }
}

/// The shares of a row's labels may differ from 1 by this much in sum: they are written with few digits.
const SHARE_TOLERANCE: f64 = 0.01;
/// Sums of larger weights would not be exact enough in 32 bits.
const WEIGHT_MAX: f64 = 1e9;
/// A message lists at most this many labels.
const LABELS_SHOWN: usize = 10;

impl Dataset {
    /// Reads `files`, one after the other.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] with line and column for what cannot be read as labelled text.
    pub fn open(files: &[PathBuf], columns: &Columns) -> Result<Self> {
        let names: BTreeSet<&String> = columns.label_columns.iter().collect();
        if !names.is_empty() && (names.len() < 2 || names.len() < columns.label_columns.len()) {
            let expected = "two or more different columns; of a label alone, one for its opposite too";
            return Err(Error::setting("--label-columns", expected, columns.label_columns.join(",")));
        }
        let is_one_column = names.is_empty() && columns.tasks.is_empty();
        if columns.unknown_label.is_some() && !(is_one_column && columns.problem_type == ProblemType::SingleLabel) {
            let expected = "rows of one label each, in one column (--label-column)";
            return Err(Error::setting("--unknown-label", expected, "others"));
        }
        columns.check_roles()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) =
            files.iter().find(|file| !seen.insert(file.canonicalize().unwrap_or_else(|_| (*file).clone())))
        {
            return Err(data_error(twice, None, "each file once", "it twice"));
        }
        let mut dataset = Self {
            files: files.to_vec(),
            digests: Vec::new(),
            rows: Vec::new(),
            strangers: Vec::new(),
            columns: 0,
            skipped: Vec::new(),
            respelled: BTreeMap::new(),
            merges_numbers: false,
            forms: Forms::default(),
            problem_type: columns.problem_type,
            label_columns: columns.label_columns.clone(),
            tasks: columns.tasks.iter().map(|task| task.name.clone()).collect(),
        };
        let mut bits = Bits::default();
        for (file, path) in files.iter().enumerate() {
            let before = dataset.rows.len();
            // A pipe gives its content once.
            dataset.digests.push(path.is_file().then(|| nimbert::sha256_file(path)).transpose()?);
            let width = FileReader { path, file, columns }.read(&mut dataset, &mut bits)?;
            if dataset.rows.len() == before {
                return Err(data_error(path, None, "at least one row", "none"));
            }
            if file == 0 {
                dataset.columns = width;
            }
        }
        bits.expect_names(&dataset)?;
        if let Some(label) = &columns.unknown_label {
            dataset.set_aside(label)?;
        }
        if columns.weight.is_some() && dataset.rows.iter().all(|row| row.weight == 0.0) {
            return Err(data_error(&files[0], None, "a weight above 0 in some row", "none"));
        }
        Ok(dataset)
    }

    /// Sets the rows of that label aside, however it is written if it is a number.
    fn set_aside(&mut self, label: &str) -> Result<()> {
        let number = label::canonical_number(label);
        let is_stranger = |row: &Row| {
            row.labels
                .first()
                .is_some_and(|own| own == label || number.is_some() && label::canonical_number(own) == number)
        };
        (self.strangers, self.rows) = std::mem::take(&mut self.rows).into_iter().partition(is_stranger);
        match self.rows.is_empty() {
            true => Err(data_error(&self.files[0], None, "a row of another label than --unknown-label", "none")),
            false => Ok(()),
        }
    }

    /// What to say of rows that were set aside, if there are any.
    pub fn of_strangers(&self) -> Option<String> {
        let label = self.strangers.first()?.labels[0].as_str();
        Some(format!("{} rows with {label:?} are set aside: texts that are like no label", self.strangers.len()))
    }

    /// If all labels are numbers, those that a model knows too, 1.0 and 1 are the same one, written as the model does or in one way:
    /// for the rows that say which labels there are. Those of other files are found by [`Dataset::targets`] however they are written.
    pub fn write_numbers_in_one_way(&mut self, known: &[String]) {
        if !self.label_columns.is_empty() {
            return;
        }
        for prefix in self.prefixes() {
            let labels = self.rows.iter().flat_map(|row| &row.labels).filter(|label| label.starts_with(&prefix));
            let labels: BTreeSet<&String> = labels.collect();
            let spelled = Numbers::of(vec![prefix.clone()], known.iter().map(String::as_str));
            let number = |label: &String| {
                let number = canonical_number(label, &prefix)?;
                let spelling = spelled.spelling(label).map(str::to_owned);
                Some((label.clone(), if known.contains(label) { label.clone() } else { spelling.unwrap_or(number) }))
            };
            if known.iter().all(|label| canonical_number(label, &prefix).is_some())
                && let Some(numbers) = labels.into_iter().map(number).collect::<Option<Vec<_>>>()
            {
                self.respelled.extend(numbers.into_iter().filter(|(label, number)| label != number));
            }
        }
        let mut spellings: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for label in self.rows.iter().flat_map(|row| &row.labels) {
            spellings.entry(self.respelled.get(label).unwrap_or(label)).or_default().insert(label);
        }
        self.merges_numbers = spellings.values().any(|spellings| spellings.len() > 1);
        for label in self.rows.iter_mut().flat_map(|row| &mut row.labels) {
            if let Some(number) = self.respelled.get(label) {
                label.clone_from(number);
            }
        }
    }

    /// What stood there in another way than it is read, such as 1.0 for 1, or in JSON the string "1" for it, by what stood there.
    pub fn respelled(&self) -> BTreeMap<String, String> {
        self.respelled.clone().into_iter().chain(self.forms.respelled()).collect()
    }

    /// Whether rows have one label that stood there in several ways.
    pub fn merges_labels(&self) -> bool {
        self.merges_numbers || self.forms.merge()
    }

    /// What the labels of each task begin with; of one task, with nothing.
    fn prefixes(&self) -> Vec<String> {
        let prefixes = self.tasks.iter().map(|task| label_prefix(Some(task)));
        if self.tasks.is_empty() { vec![String::new()] } else { prefixes.collect() }
    }

    /// Writes numbers as `labels` do, where a label is none of them as it stands.
    pub fn write_numbers_as(&mut self, labels: &BTreeSet<String>) {
        let numbers = Numbers::of(self.prefixes(), labels.iter().map(String::as_str));
        for label in self.rows.iter_mut().flat_map(|row| &mut row.labels).filter(|label| !labels.contains(*label)) {
            if let Some(spelling) = numbers.spelling(label) {
                spelling.clone_into(label);
            }
        }
    }

    /// How many rows have no label of a task.
    pub fn without_label(&self, task: &str) -> usize {
        let prefix = label_prefix(Some(task));
        self.rows.iter().filter(|row| !row.labels.iter().any(|label| label.starts_with(&prefix))).count()
    }

    /// What to say of quoted fields that may hold rows of their own, if there are any.
    pub fn doubt(&self) -> Option<String> {
        let rows: Vec<&Row> = self.rows.iter().chain(&self.strangers).filter(|row| row.may_hold_rows).collect();
        let first = self.place(rows.first()?);
        let what = "a quoted field that runs over lines which look like rows of their own; is a quote missing?";
        Some(format!(
            "{} rows have {what} The first is at {first} (--quoting none takes quotes as characters)",
            rows.len()
        ))
    }

    /// Where a row stands: `reviews.csv:17`.
    pub fn place(&self, row: &Row) -> Place {
        Place { file: self.files[row.file].display().to_string(), line: row.line }
    }

    /// The files, as a person would list them.
    pub fn name(&self) -> String {
        self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The different labels: a label's place is its id. They are sorted, as numbers if all are, or in the order of the
    /// columns where each has one; those of one task before those of the next.
    ///
    /// # Errors
    /// [`Error::Data`] if there is one label only, or if a label of rows that have one each is there once: it can be
    /// learned or tested, not both.
    pub fn labels(&self) -> Result<Vec<String>> {
        if !self.label_columns.is_empty() {
            return Ok(self.label_columns.clone());
        }
        let of_tasks: Vec<Vec<String>> =
            self.prefixes().iter().map(|prefix| self.labels_with(prefix)).collect::<Result<_>>()?;
        Ok(of_tasks.concat())
    }

    /// The same behind those that a model knows, if it knows some: then what is new may be one label, or none.
    ///
    /// # Errors
    /// [`Error::Data`] if a label that is new has a single row, where each row has one label.
    pub fn labels_after(&self, known: &[String]) -> Result<Vec<String>> {
        if known.is_empty() {
            return self.labels();
        }
        let all = match self.label_columns.as_slice() {
            [] => self.sorted_labels("", &self.label_counts("", &known.iter().collect()))?,
            columns => columns.to_vec(),
        };
        let new = all.into_iter().filter(|label| !known.contains(label));
        Ok(known.iter().cloned().chain(new).collect())
    }

    /// Those that begin so.
    fn labels_with(&self, prefix: &str) -> Result<Vec<String>> {
        let counts = self.label_counts(prefix, &BTreeSet::new());
        if counts.len() < 2 {
            let got = counts.keys().next().map_or("none".to_owned(), |label| format!("{label:?} in all rows"));
            let of_task = prefix.strip_suffix(SEPARATOR).map_or(String::new(), |task| format!(" of the task {task}"));
            return Err(data_error(&self.files[0], None, &format!("at least two different labels{of_task}"), got));
        }
        self.sorted_labels(prefix, &counts)
    }

    /// How many rows have each label that begins so and is not known, and the first of them.
    fn label_counts(&self, prefix: &str, known: &BTreeSet<&String>) -> BTreeMap<&str, (usize, &Row)> {
        let mut counts = BTreeMap::<&str, (usize, &Row)>::new();
        for row in &self.rows {
            for label in row.labels.iter().filter(|label| label.starts_with(prefix) && !known.contains(label)) {
                counts.entry(label).or_insert((0, row)).0 += 1;
            }
        }
        counts
    }

    fn sorted_labels(&self, prefix: &str, counts: &BTreeMap<&str, (usize, &Row)>) -> Result<Vec<String>> {
        let single = counts.iter().find(|(_, (count, _))| *count == 1);
        if let (Some((label, (_, row))), ProblemType::SingleLabel) = (single, self.problem_type) {
            let expected = "at least two rows for every label";
            let got = format!("one row with label {label:?}");
            return Err(data_error(&self.files[row.file], Some(row.line), expected, got));
        }
        let mut labels: Vec<String> = counts.keys().copied().map(str::to_owned).collect();
        let number = |label: &String| label::canonical_number(label.strip_prefix(prefix)?)?.parse::<f64>().ok();
        if labels.iter().all(|label| number(label).is_some()) {
            labels.sort_by(|a, b| number(a).partial_cmp(&number(b)).expect("numbers are finite"));
        }
        Ok(labels)
    }

    /// What each row should be answered with, by ids into `labels`.
    ///
    /// # Errors
    /// [`Error::Data`] for the first row with another label.
    pub fn targets(&self, labels: &[String]) -> Result<Vec<Target>> {
        let ids: BTreeMap<&str, u32> = labels.iter().map(String::as_str).zip(0..).collect();
        if let Some(missing) = labels.iter().find(|label| !self.label_columns.contains(label))
            && !self.label_columns.is_empty()
        {
            let got = format!("none for {missing:?}");
            return Err(Error::setting("--label-columns", "a column for each label of the model", got));
        }
        let numbers = Numbers::of(self.prefixes(), labels.iter().map(String::as_str));
        let id = |label: &String, row: &Row| {
            let found = ids.get(label.as_str()).or_else(|| ids.get(numbers.spelling(label)?));
            found.copied().ok_or_else(|| {
                let mut known = labels.iter().take(LABELS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
                if labels.len() > LABELS_SHOWN {
                    known += &format!(" and {} more", labels.len() - LABELS_SHOWN);
                }
                let expected = format!("one of the labels {known}");
                data_error(&self.files[row.file], Some(row.line), &expected, format!("{label:?}"))
            })
        };
        let target = |row: &Row| {
            let mut ids = row.labels.iter().map(|label| id(label, row)).collect::<Result<Vec<u32>>>()?;
            ids.sort_unstable();
            ids.dedup();
            let shares = match &row.shares {
                None => None,
                Some(shares) => {
                    let mut by_id = vec![0.0; labels.len()];
                    for (label, share) in self.label_columns.iter().zip(shares) {
                        by_id[id(label, row)? as usize] = *share;
                    }
                    Some(by_id)
                }
            };
            Ok(Target { ids, shares, weight: row.weight })
        };
        self.rows.iter().map(target).collect()
    }
}

/// The labels that are numbers, by the one way in which they are written; none where two are the same number.
struct Numbers<'a> {
    /// What labels of each task begin with.
    prefixes: Vec<String>,
    spellings: BTreeMap<String, Option<&'a str>>,
}

impl<'a> Numbers<'a> {
    fn of(prefixes: Vec<String>, labels: impl Iterator<Item = &'a str>) -> Self {
        let mut numbers = Self { prefixes, spellings: BTreeMap::new() };
        for label in labels {
            if let Some(number) = numbers.number(label) {
                numbers.spellings.entry(number).and_modify(|label| *label = None).or_insert(Some(label));
            }
        }
        numbers
    }

    /// The label that is the same number as `label`.
    fn spelling(&self, label: &str) -> Option<&'a str> {
        self.spellings.get(&self.number(label)?).copied().flatten()
    }

    fn number(&self, label: &str) -> Option<String> {
        self.prefixes.iter().find_map(|prefix| canonical_number(label, prefix))
    }
}

/// A label that begins so, with the number behind it written in the one way; none if it is none.
fn canonical_number(label: &str, prefix: &str) -> Option<String> {
    Some(prefix.to_owned() + &label::canonical_number(label.strip_prefix(prefix)?)?)
}

/// What to say of rows that were left out, if there are any: how many, and where the first stands.
pub fn left_out<'a>(places: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let mut places = places.into_iter();
    let first = places.next()?;
    let count = 1 + places.count();
    Some(format!("{count} rows in which something is missing were left out, the first at {first}"))
}

/// How labels stand in JSON, whose values are of several kinds: by label, in JSON.
#[derive(Debug, Clone, Default, PartialEq)]
struct Forms(BTreeMap<String, BTreeSet<String>>);

impl Forms {
    fn see(&mut self, value: &Value, labels: &[String]) {
        let values = value.as_array().map_or(slice::from_ref(value), Vec::as_slice);
        // Several in one string are names.
        for (value, label) in values.iter().zip(labels).filter(|_| values.len() == labels.len()) {
            let forms = match self.0.get_mut(label) {
                Some(forms) => forms,
                None => self.0.entry(label.clone()).or_default(),
            };
            let form = value.to_string();
            if !forms.contains(&form) {
                forms.insert(form);
            }
        }
    }

    /// Whether a label stood there in several forms.
    fn merge(&self) -> bool {
        self.0.values().any(|forms| forms.len() > 1 && is_mixed(forms))
    }

    /// The forms that are read as something else: numbers as others are written, and values of another kind than a label's others.
    fn respelled(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.0.iter().flat_map(|(label, forms)| {
            let is_mixed = is_mixed(forms);
            let other = move |form: &&String| *form != label && is_mixed;
            forms.iter().filter(other).map(|form| (form.clone(), label.clone()))
        })
    }
}

/// Whether not all forms of a label are strings: of those several are one where they were trimmed.
fn is_mixed(forms: &BTreeSet<String>) -> bool {
    forms.iter().any(|form| !form.starts_with('"'))
}

/// Lists of zeros and ones: names of two labels, or a place for each label. The latter have one length in all rows.
#[derive(Default)]
struct Bits {
    first: Option<(usize, usize)>,
    is_other: bool,
}

impl Bits {
    fn see(&mut self, row: usize, labels: &label::Labels) {
        match (labels.is_bits, self.first) {
            (false, _) => self.is_other = true,
            (true, None) => self.first = Some((row, labels.names.len())),
            (true, Some((_, length))) => self.is_other |= labels.names.len() != length,
        }
    }

    fn expect_names(&self, dataset: &Dataset) -> Result<()> {
        let (Some((row, _)), false) = (self.first, self.is_other) else { return Ok(()) };
        let row = &dataset.rows[row];
        let (expected, got) = label::bad_bits(&row.labels);
        Err(data_error(&dataset.files[row.file], Some(row.line), &expected, got))
    }
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
    fn read(self, dataset: &mut Dataset, bits: &mut Bits) -> Result<usize> {
        let columns = self.columns;
        let reader = Reader::open_any(self.path, &columns.read).map_err(|error| self.rows_error(error))?;
        let mut wanted = vec![columns.text.clone()];
        let expect =
            |column: &String, option: &str| reader.expect_column(column, option).map_err(|bad| self.bad_row(bad));
        expect(&columns.text, "--text-column")?;
        for (column, option) in [(&columns.pair, "--text-pair-column"), (&columns.weight, "--weight-column")] {
            if let Some(column) = column {
                expect(column, option)?;
                wanted.push(column.clone());
            }
        }
        let (labels, option) = columns.of_labels();
        for label in &labels {
            expect(label, option)?;
            wanted.push((*label).clone());
        }
        let names = |label: &&String| Some(((*label).clone(), reader.class_names(label)?.to_vec()));
        let class_names: BTreeMap<String, Vec<String>> = labels.iter().filter_map(names).collect();
        // Where labels are names in one column: those with numbers for names have them from the file.
        let column = match labels.as_slice() {
            [column] if option == "--label-column" && class_names.is_empty() => Some(*column),
            _ => None,
        };
        let mut width = reader.columns().map_or(0, <[String]>::len);
        for row in reader.rows(Some(wanted)) {
            let row = row.map_err(|error| self.rows_error(error))?;
            width = if width == 0 { row.columns.len() } else { width };
            match self.row(&row, &class_names) {
                Ok((labelled, labels)) => {
                    if let Some(value) = column.and_then(|column| row.get(column)) {
                        dataset.forms.see(value, &labelled.labels);
                    }
                    if let Some(labels) = labels {
                        bits.see(dataset.rows.len(), &labels);
                    }
                    dataset.rows.push(labelled);
                }
                Err(Unusable::Missing(_)) if columns.on_missing == OnMissing::Skip => {
                    dataset.skipped.push(format!("{}:{}", self.path.display(), row.line));
                }
                Err(Unusable::Missing(error) | Unusable::Bad(error)) => return Err(error),
            }
        }
        Ok(width)
    }

    /// A row, and its labels as they stand there where they are a list.
    fn row(
        self,
        row: &rows::Row,
        class_names: &BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<(Row, Option<label::Labels>), Unusable> {
        let columns = self.columns;
        let bad = |expected: &str, got: String| Unusable::Bad(data_error(self.path, Some(row.line), expected, got));
        let missing = |what: &str, got: String| {
            let expected = format!("{what} (--on-missing skip leaves such rows out)");
            Unusable::Missing(data_error(self.path, Some(row.line), &expected, got))
        };
        let field = |column: &str, option: &str| -> std::result::Result<&Value, Unusable> {
            row.field(column, option, "").map_err(|error| Unusable::Bad(self.bad_row(error)))
        };
        let text = |column: &str, option: &str| match field(column, option)? {
            Value::Null => Err(missing("a text", format!("null as {column:?}"))),
            value => rows::text(value).ok_or_else(|| bad(&format!("a string as {column:?}"), value.to_string())),
        };
        let unusable = |no_label: NoLabel, what: &str| match no_label {
            NoLabel::Missing(got) => missing(what, got),
            NoLabel::Bad(expected, got) => bad(&expected, got),
        };
        let content = text(&columns.text, "--text-column")?;
        let pair = columns.pair.as_deref().map(|pair| text(pair, "--text-pair-column")).transpose()?;
        let weight = match &columns.weight {
            None => 1.0,
            Some(column) => {
                let value = field(column, "--weight-column")?;
                let weight = label::share(value, columns.on_missing).map_err(|error| unusable(error, "a weight"))?;
                if weight > WEIGHT_MAX {
                    return Err(bad(&format!("a weight of at most {WEIGHT_MAX:e}"), weight.to_string()));
                }
                if weight > 0.0 && weight as f32 == 0.0 {
                    let expected = format!("a weight of 0, or of at least {:e}", f32::from_bits(1));
                    return Err(bad(&expected, format!("{weight:e}")));
                }
                weight as f32
            }
        };
        let (mut shares, mut listed) = (None, None);
        // The column's value, as a name where it is the number of one.
        let named = |column: &str, option: &str| -> std::result::Result<Value, Unusable> {
            let value = field(column, option)?;
            let named = class_names.get(column).map(|names| with_names(value, names)).transpose();
            Ok(named.map_err(|error| unusable(error, "a label"))?.unwrap_or_else(|| value.clone()))
        };
        let labels = match (&columns.label, columns.problem_type) {
            _ if !columns.tasks.is_empty() => {
                let mut labels = Vec::new();
                for TaskColumn { name, column } in &columns.tasks {
                    let is_empty = match field(column, "--task")? {
                        Value::Null => true,
                        value => value.as_str().is_some_and(|name| name.trim().is_empty()),
                    };
                    let label = || {
                        let value = named(column, "--task")?;
                        label::single(&value, columns.on_missing).map_err(|error| unusable(error, "a label"))
                    };
                    match if is_empty { None } else { Some(label()) } {
                        Some(Ok(label)) => labels.push(label_prefix(Some(name)) + &label),
                        // Of one task nothing may stand there, of all of them not. A word for it may be a name.
                        None => {}
                        Some(Err(Unusable::Missing(_))) if columns.on_missing == OnMissing::Skip => {}
                        Some(Err(bad)) => return Err(bad),
                    }
                }
                if labels.is_empty() {
                    return Err(missing("a label of one task at least", "none".to_owned()));
                }
                labels
            }
            (None, _) if columns.label_columns.is_empty() => Vec::new(),
            (Some(label), problem_type) if columns.label_columns.is_empty() => {
                let value = &named(label, "--label-column")?;
                match problem_type {
                    ProblemType::SingleLabel => {
                        let label = label::single(value, columns.on_missing);
                        vec![label.map_err(|error| unusable(error, "a label"))?]
                    }
                    ProblemType::MultiLabel => {
                        let labels = label::multiple(value, columns.separator, columns.on_missing);
                        let labels = labels.map_err(|error| unusable(error, "labels"))?;
                        let names = labels.names.clone();
                        listed = Some(labels);
                        names
                    }
                }
            }
            (_, ProblemType::MultiLabel) => {
                let mut labels = Vec::new();
                for column in &columns.label_columns {
                    let value = field(column, "--label-columns")?;
                    let holds = label::bit(value, columns.on_missing);
                    if holds.map_err(|error| unusable(error, &format!("0 or 1 as {column:?}")))? {
                        labels.push(column.clone());
                    }
                }
                labels
            }
            (_, ProblemType::SingleLabel) => {
                let mut values = Vec::new();
                for column in &columns.label_columns {
                    let value = field(column, "--label-columns")?;
                    let share = label::share(value, columns.on_missing);
                    values.push(share.map_err(|error| unusable(error, &format!("a share as {column:?}")))?);
                }
                let sum: f64 = values.iter().sum();
                if (sum - 1.0).abs() > SHARE_TOLERANCE {
                    let expected = "shares of the labels that sum to 1 (any number of labels a row: --multi-label)";
                    return Err(bad(expected, format!("a sum of {sum}")));
                }
                let largest = (0..values.len()).fold(0, |best, id| if values[id] > values[best] { id } else { best });
                let is_sure = values.iter().enumerate().all(|(id, share)| *share == f64::from(u8::from(id == largest)));
                shares = (!is_sure).then(|| values.iter().map(|share| (share / sum) as f32).collect());
                vec![columns.label_columns[largest].clone()]
            }
        };
        let (file, line, may_hold_rows) = (self.file, row.line, row.may_hold_rows);
        Ok((Row { text: content, pair, labels, shares, weight, file, line, may_hold_rows }, listed))
    }

    fn rows_error(self, error: RowsError) -> Error {
        match error {
            RowsError::Bad(bad) => self.bad_row(bad),
            RowsError::Io { reason, .. } => Error::io(self.path, reason),
            other => data_error(self.path, None, "rows", other.to_string()),
        }
    }

    fn bad_row(self, bad: BadRow) -> Error {
        let BadRow { line, column, expected, got, .. } = bad;
        Error::Data { path: self.path.to_owned(), line, column, expected, got }
    }
}

/// Why a row is none.
enum Unusable {
    Missing(Error),
    Bad(Error),
}

/// The class that a number stands for; of a list, each of them. -1 is how `datasets` writes that there is none.
fn with_names(value: &Value, names: &[String]) -> std::result::Result<Value, NoLabel> {
    match value {
        Value::Array(elements) => {
            Ok(elements.iter().map(|element| with_names(element, names)).collect::<std::result::Result<_, _>>()?)
        }
        Value::Number(number) if number.as_i64() == Some(-1) => {
            Err(NoLabel::Missing("-1, which stands for no class".to_owned()))
        }
        Value::Number(number) => match number.as_u64().and_then(|id| names.get(id as usize)) {
            Some(name) => Ok(Value::String(name.clone())),
            None => Err(NoLabel::Bad(
                format!("a class below {}, as the file's metadata says", names.len()),
                value.to_string(),
            )),
        },
        other => Ok(other.clone()),
    }
}

fn data_error(path: &Path, line: Option<u64>, expected: &str, got: impl Into<String>) -> Error {
    Error::Data { path: path.to_owned(), line, column: None, expected: expected.to_owned(), got: got.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn open(name: &str, content: &[u8]) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Dataset::open(&[path], &Columns::default())
    }

    pub(crate) fn row(text: &str, label: &str, line: u64) -> Row {
        Row {
            text: text.to_owned(),
            pair: None,
            labels: vec![label.to_owned()],
            shares: None,
            weight: 1.0,
            file: 0,
            line,
            may_hold_rows: false,
        }
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
        assert_eq!(
            failure("x.csv", b"text,label\na,b\nc,\xff\n"),
            (Some(3), Some(3), "the byte 0xff, which is \"ÿ\" in windows-1252 (see --encoding)".into())
        );
        assert_eq!(failure("x.csv", b"text,class\na,b\n"), (Some(1), None, "the columns text, class".into()));
        assert_eq!(failure("x.csv", b"text,label\na,b\nc, \n"), (Some(3), None, "an empty one".into()));
        let (line, _, got) = failure("x.csv", b"label,text\na,5\" pipe\nb,\"open\na,c\n");
        assert!(line == Some(3) && got.starts_with("the end of the file"), "{got}");
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
    fn new_labels_come_behind_those_that_are_known() {
        let known = ["b", "z"].map(str::to_owned);
        let labels = |content: &[u8], known: &[String]| {
            let mut dataset = open("x.csv", content)?;
            dataset.write_numbers_in_one_way(known);
            dataset.labels_after(known)
        };
        assert_eq!(labels(b"text,label\n1,b\n2,c\n3,a\n4,a\n5,c\n", &known).unwrap(), ["b", "z", "a", "c"]);
        assert_eq!(labels(b"text,label\n1,b\n", &known).unwrap(), known);
        assert!(labels(b"text,label\n1,b\n2,c\n", &known).is_err());
        // Numbers are written as the model does, and those that are new in one way.
        let known = ["2.0", "1.0"].map(str::to_owned);
        assert_eq!(labels(b"text,label\n1,2\n2,3.0\n3,3\n", &known).unwrap(), ["2.0", "1.0", "3"]);
    }

    fn ids(dataset: &Dataset, labels: &[String]) -> Vec<Vec<u32>> {
        dataset.targets(labels).unwrap().into_iter().map(|target| target.ids).collect()
    }

    fn open_as(name: &str, content: &str, columns: &Columns) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Dataset::open(&[path], columns)
    }

    #[test]
    fn numeric_labels_are_written_in_one_way_and_sorted_as_numbers() {
        let mut dataset = open("x.csv", b"text,label\na,10\nb,2.0\nc,2\nd,10.0\n").unwrap();
        dataset.write_numbers_in_one_way(&[]);
        assert_eq!(dataset.labels().unwrap(), ["2", "10"]);
        assert_eq!(dataset.respelled, BTreeMap::from([("10.0".into(), "10".into()), ("2.0".into(), "2".into())]));
        assert!(dataset.merges_labels());
        let written = |content: &[u8]| {
            let mut dataset = open("x.csv", content).unwrap();
            dataset.write_numbers_in_one_way(&[]);
            (dataset.labels().unwrap(), dataset.merges_labels())
        };
        assert_eq!(written(b"text,label\na,1.0\nb,2.0\nc,1.0\nd,2.0\n"), (vec!["1".into(), "2".into()], false));
        let formed = |forms: [&str; 2]| {
            let line = |value: &str| format!("{{\"text\": \"a\", \"label\": {value}}}\n");
            open("x.jsonl", forms.map(line).concat().as_bytes()).unwrap().merges_labels()
        };
        assert_eq!([["1.0", "2.0"], ["1", "1.0"], ["1", "\"1\""]].map(formed), [false, true, true]);
        // What may be versions is not one label.
        let versions = written(b"text,label\na,1.1\nb,1.10\nc,1.1\nd,1.10\n");
        assert_eq!(versions, (vec!["1.1".into(), "1.10".into()], false));
        let dataset = open("x.jsonl", b"{\"text\": \"a\", \"label\": 0.0}\n{\"text\": \"b\", \"label\": 0}").unwrap();
        assert!(dataset.rows.iter().all(|row| row.labels == ["0"]));
        // Values of JSON of several kinds that are one label are told, and those alone.
        let forms = |values: &[&str]| {
            let line = |value: &&str| format!("{{\"text\": \"a\", \"label\": {value}}}\n");
            open("x.jsonl", values.iter().map(line).collect::<String>().as_bytes()).unwrap().respelled()
        };
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        assert_eq!(forms(&["1", "1.0", "2"]), pairs(&[("1.0", "1")]));
        assert_eq!(forms(&["true", "\"true\"", "false"]), pairs(&[("\"true\"", "true")]));
        assert_eq!(forms(&["\"a\"", "\"b\"", "\"b \"", "true"]), BTreeMap::new());
        // Among names, a number is a name.
        let mut dataset = open("x.csv", b"text,label\na,1.0\nb,1\nc,one\n").unwrap();
        dataset.write_numbers_in_one_way(&[]);
        // Rows of another file are found however they are written, where that is clear.
        let mut test = open("x.csv", b"text,label\na,1.0\nb,2\n").unwrap();
        let labels = ["1", "2.0", "x"].map(str::to_owned);
        assert_eq!(ids(&test, &labels), [vec![0], vec![1]]);
        assert!(test.targets(&["1", "1.00", "2"].map(str::to_owned)).is_err());
        test.write_numbers_as(&labels.into());
        assert_eq!((test.rows[0].labels[0].as_str(), test.rows[1].labels[0].as_str()), ("1", "2.0"));
        assert_eq!((dataset.rows[0].labels[0].as_str(), dataset.respelled.len()), ("1.0", 0));
    }

    #[test]
    fn rows_in_which_something_is_missing_are_errors_or_left_out_and_counted() {
        let content = "{\"text\": \"a\", \"label\": null}\n{\"text\": null, \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"NaN\"}\n\
                       {\"text\": \"c\", \"label\": \"x\"}\n";
        let Err(Error::Data { line, expected, .. }) = open("x.jsonl", content.as_bytes()) else { panic!("a null") };
        assert_eq!((line, expected.as_str()), (Some(1), "a label (--on-missing skip leaves such rows out)"));
        let skip = Columns { on_missing: OnMissing::Skip, ..Columns::default() };
        let dataset = open_as("x.jsonl", content, &skip).unwrap();
        assert_eq!((dataset.rows.len(), dataset.rows[0].line, dataset.skipped.len()), (1, 4, 3));
        assert!(dataset.skipped[2].ends_with("x.jsonl:3"));
    }

    #[test]
    fn a_column_a_label_with_bits_or_shares() {
        let label_columns = ["toxic", "insult"].map(str::to_owned).to_vec();
        let bits = Columns {
            label_columns: label_columns.clone(),
            problem_type: ProblemType::MultiLabel,
            ..Columns::default()
        };
        let dataset = open_as("x.csv", "text,toxic,insult\na,0,0\nb,1,0.0\nc,1,true\n", &bits).unwrap();
        assert_eq!(ids(&dataset, &dataset.labels().unwrap()), [vec![], vec![0], vec![0, 1]]);
        let error = open_as("x.csv", "text,toxic,insult\na,0.5,0\n", &bits).unwrap_err().to_string();
        assert!(error.contains("x.csv:2: expected 0 or 1, found 0.5"), "{error}");
        let shares = Columns { label_columns, weight: Some("w".to_owned()), ..Columns::default() };
        let dataset = open_as("x.csv", "text,toxic,insult,w\na,0.25,0.75,2\nb,1,0,0\n", &shares).unwrap();
        let labels = ["insult", "toxic"].map(str::to_owned);
        let targets = dataset.targets(&labels).unwrap();
        assert_eq!(targets[0], Target { ids: vec![0], shares: Some(vec![0.75, 0.25]), weight: 2.0 });
        assert_eq!(targets[1], Target { ids: vec![1], shares: None, weight: 0.0 });
        for (content, part) in [
            ("text,toxic,insult,w\na,1,1,1\n", "a sum of 2"),
            ("text,toxic,insult,w\na,1,0,-1\n", "a number of 0 or more, found \"-1\""),
            ("text,toxic,insult,w\na,1,0,0\n", "a weight above 0 in some row"),
            ("text,toxic,insult,w\na,1,0,1e39\n", "a weight of at most 1e9"),
            ("text,toxic,insult,w\na,1,0,\n", "a weight (--on-missing skip"),
            ("text,toxic,w\na,1,0\n", "a column \"insult\" (see --label-columns)"),
        ] {
            let error = open_as("x.csv", content, &shares).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn label_columns_are_all_of_the_labels() {
        let columns = |names: &[&str]| Columns {
            label_columns: names.iter().map(|name| (*name).to_owned()).collect(),
            problem_type: ProblemType::MultiLabel,
            ..Columns::default()
        };
        let open = |names: &[&str]| open_as("x.csv", "text,a,b\nx,1,0\n", &columns(names));
        for names in [&["a"][..], &["a", "a"]] {
            let error = open(names).unwrap_err().to_string();
            assert!(error.contains("--label-columns: expected two or more different columns"), "{error}");
        }
        let labels = ["a", "b", "c"].map(str::to_owned);
        let error = open(&["a", "b"]).unwrap().targets(&labels).unwrap_err().to_string();
        assert!(error.contains("a column for each label of the model, found none for \"c\""), "{error}");
    }

    #[test]
    fn zeros_and_ones_are_no_names() {
        let several = Columns { problem_type: ProblemType::MultiLabel, ..Columns::default() };
        let open = |content: &str| open_as("x.jsonl", content, &several);
        let error = open("{\"text\": \"a\", \"label\": [0, 1]}\n{\"text\": \"b\", \"label\": [1, 0]}\n").unwrap_err();
        assert!(error.to_string().contains("x.jsonl:1") && error.to_string().contains("--label-columns"), "{error}");
        assert!(open("{\"text\": \"a\", \"label\": [0, 1]}\n{\"text\": \"b\", \"label\": [3]}\n").is_ok());
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
        assert_eq!(ids(&dataset, &labels), [vec![0, 1], vec![], vec![1, 2]]);
        assert_eq!(dataset.rows[2].pair.as_deref(), Some("so"));
        assert!(dataset.place(&dataset.rows[2]).to_string().ends_with("y.jsonl:1"));
        // Lists are refused where a row has one label.
        let single = Columns { problem_type: ProblemType::SingleLabel, ..columns };
        assert!(Dataset::open(&files[1..], &single).is_err());
    }
}
