//! Texts from a file of any size, in windows: memory does not grow with it.
//!
//! A thread of its own reads, so that reading and classifying overlap, and so that what comes slowly through a pipe is
//! answered when it is there.

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use nimbert::{
    TextInput,
    rows::{BadRow, Kind, LINE_COLUMN, Progress, ReadOptions, Reader, Row, RowsError, Value, is_exact, text},
};
use serde_json::Map;

use super::message;

/// Rows that are read ahead.
const READ_AHEAD: usize = 64;
/// Of which all texts together have about so many bytes.
const READ_AHEAD_BYTES: usize = 8 << 20;
/// How long a window that has a row already waits for the next: what comes through a pipe, line by line, is not held back.
const PATIENCE: Duration = Duration::from_millis(5);
/// What is carried through of JSON where nothing is said.
const ID: &str = "id";

/// A text, and the second one of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) pair: Option<String>,
    /// What is carried through to the output, by column.
    pub(super) kept: Map<String, Value>,
}

impl<'a> From<&'a Text> for TextInput<'a> {
    fn from(Text { text, pair, .. }: &'a Text) -> Self {
        Self { text, pair: pair.as_deref() }
    }
}

/// The columns that are read.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub(super) text: String,
    pub(super) pair: Option<String>,
    /// Which columns are carried through; none: what is usual for the format.
    pub(super) keep: Option<KeepColumns>,
}

/// Columns of the input that are carried through to the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeepColumns {
    All,
    None,
    Named(Vec<String>),
}

impl std::str::FromStr for KeepColumns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            names if names.split(',').all(|name| !name.is_empty()) => {
                let names: Vec<String> = names.split(',').map(str::to_owned).collect();
                match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
                    Some((_, twice)) => Err(format!("expected each column once, found {twice:?} twice")),
                    None => Ok(Self::Named(names)),
                }
            }
            other => Err(format!("expected all, none, or names of columns with commas between them, found {other:?}")),
        }
    }
}

/// A row that cannot be read, and what can be carried through of it all the same.
#[derive(Debug)]
pub(super) struct Skipped {
    pub(super) bad: BadRow,
    pub(super) kept: Map<String, Value>,
}

/// A row, a row that is bad, or the reason why there are no more.
type Item = anyhow::Result<Result<Text, Box<Skipped>>>;

/// The bytes of the rows that were read and not taken yet: the reader waits while they are too many.
#[derive(Debug, Default)]
struct Ahead {
    bytes: Mutex<usize>,
    fewer: Condvar,
}

impl Ahead {
    fn add(&self, bytes: usize, most: usize) {
        let held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |held: &mut usize| *held > 0 && *held + bytes > most;
        *self.fewer.wait_while(held, is_full).unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    fn remove(&self, bytes: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.fewer.notify_one();
    }

    /// Nobody takes rows any more.
    fn close(&self) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.fewer.notify_one();
    }
}

/// Bytes of an item's texts, and of what is carried through.
fn size(item: &Item) -> usize {
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string().len(), str::len);
    let kept = |kept: &Map<String, Value>| kept.values().map(value).sum::<usize>();
    match item {
        Ok(Ok(text)) => text.text.len() + text.pair.as_ref().map_or(0, String::len) + kept(&text.kept),
        Ok(Err(skipped)) => kept(&skipped.kept),
        Err(_) => 0,
    }
}

/// Rows in input order.
pub(super) struct Rows {
    receiver: Receiver<Item>,
    ahead: Arc<Ahead>,
    /// The reader; none once its end has been looked at.
    reader: Option<JoinHandle<()>>,
    /// Why there are no more, to be said when those before it were taken.
    failed: Option<anyhow::Error>,
    progress: Progress,
    /// Size of the input in the unit of [`Rows::position`]: bytes, or rows of Parquet. None where it is not known.
    pub(super) total: Option<u64>,
    /// What is carried through where all rows have the same columns: names and kinds. None for JSON.
    kept: Option<Vec<(String, Kind)>>,
    keep: KeepColumns,
}

impl Rows {
    /// Opens `path`, or standard input if it is `-`.
    pub(super) fn open(path: &Path, options: &ReadOptions, columns: Columns) -> anyhow::Result<Self> {
        let reader = Reader::open(path, options)?;
        let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        reader.expect_column(&columns.text, "--text-column")?;
        if let Some(pair) = &columns.pair {
            if *pair == columns.text {
                bail!("--text-pair-column: expected another column than that of --text-column, found {pair}");
            }
            reader.expect_column(pair, "--text-pair-column")?;
        }
        if let Some(KeepColumns::Named(names)) = &columns.keep {
            names.iter().try_for_each(|column| reader.expect_column(column, "--keep"))?;
        }
        let keep = columns.keep.clone().unwrap_or_else(|| match reader.columns() {
            None => KeepColumns::Named(vec![ID.to_owned()]),
            Some([only]) if only == LINE_COLUMN => KeepColumns::None,
            Some(_) => KeepColumns::All,
        });
        let kept = reader.columns().map(|names| {
            let kinds = names.iter().cloned().zip(reader.kinds().iter().copied());
            match &keep {
                KeepColumns::All => kinds.collect(),
                KeepColumns::None => Vec::new(),
                // In the order in which they were asked for.
                KeepColumns::Named(wanted) => {
                    let kinds: Vec<(String, Kind)> = kinds.collect();
                    wanted.iter().filter_map(|name| kinds.iter().find(|(other, _)| other == name).cloned()).collect()
                }
            }
        });
        let wanted = kept.as_ref().map(|kept: &Vec<(String, Kind)>| {
            let kept = kept.iter().map(|(name, _)| name.clone());
            kept.chain([columns.text.clone()]).chain(columns.pair.clone()).collect::<Vec<_>>()
        });
        let (progress, total) = (reader.progress(), reader.total());
        // A number of JSON is what was read of its digits; one of Parquet is itself.
        let is_json = reader.columns().is_none();
        let (sender, receiver) = sync_channel(READ_AHEAD);
        let keeps = keep.clone();
        let ahead = Arc::new(Ahead::default());
        let held = Arc::clone(&ahead);
        let most = options.max_row_bytes.unwrap_or(READ_AHEAD_BYTES).min(READ_AHEAD_BYTES);
        let read = move || {
            let mut holding = 0u64;
            for item in reader.rows(wanted) {
                if let Ok(Row { may_hold_rows: true, line, .. }) = &item {
                    holding += 1;
                    if holding == 1 {
                        let what =
                            "a quoted field runs over lines that look like rows of their own; is a quote missing?";
                        message(&format!("{name}:{line}: {what} (--quoting none)"));
                    }
                }
                let item = match item {
                    Ok(row) => Ok(to_text(row, &columns, &keeps, is_json, &name)),
                    Err(RowsError::Bad(bad)) if !bad.is_last => Ok(Err(Box::new(Skipped { bad, kept: Map::new() }))),
                    Err(error) => Err(error.into()),
                };
                held.add(size(&item), most);
                // Where nobody takes it any more, there is nothing more to read for.
                if sender.send(item).is_err() {
                    return;
                }
            }
            if let Some(others @ 1..) = holding.checked_sub(1) {
                message(&format!("{name}: {others} further rows have such a field"));
            }
        };
        let thread = std::thread::Builder::new().name("input".to_owned()).spawn(read);
        let reader = Some(thread.context("cannot start a thread")?);
        Ok(Self { receiver, ahead, reader, failed: None, progress, total, kept, keep })
    }

    /// The columns that are carried through, for a file that has columns of its own.
    ///
    /// # Errors
    /// If they differ by row.
    pub(super) fn kept_columns(&self) -> anyhow::Result<Vec<(String, Kind)>> {
        match (&self.kept, &self.keep) {
            (Some(kept), _) => Ok(kept.clone()),
            (None, KeepColumns::None) => Ok(Vec::new()),
            (None, KeepColumns::All) => {
                bail!("--keep: expected names of keys, since those of JSON may differ by object, found all")
            }
            (None, KeepColumns::Named(names)) => Ok(names.iter().map(|name| (name.clone(), Kind::Text)).collect()),
        }
    }

    /// How far the reader is.
    pub(super) fn position(&self) -> u64 {
        self.progress.position()
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
    ) -> anyhow::Result<Vec<Result<Text, Box<Skipped>>>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < max_rows && bytes < max_bytes {
            if stop.load(Ordering::Relaxed) {
                return Err(nimbert::Error::Cancelled.into());
            }
            let item = self.receiver.recv_timeout(PATIENCE);
            let size = item.as_ref().map_or(0, size);
            self.ahead.remove(size);
            let row = match item {
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
            bytes += size;
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

impl Drop for Rows {
    fn drop(&mut self) {
        self.ahead.close();
    }
}

/// What is classified of a row, and what is carried through.
fn to_text(row: Row, columns: &Columns, keep: &KeepColumns, is_json: bool, name: &str) -> Result<Text, Box<Skipped>> {
    let line = row.line;
    let bad = |expected: String, value: &Value| BadRow {
        name: name.to_owned(),
        line: Some(line),
        column: None,
        expected,
        got: value.to_string(),
        is_last: false,
    };
    let string = |column: &str, option: &str| {
        let value = row.field(column, option, name)?;
        text(value).ok_or_else(|| bad(format!("a string as {column:?}"), value))
    };
    let pair = columns.pair.as_deref().map(|pair| string(pair, "--text-pair-column")).transpose();
    let content = string(&columns.text, "--text-column");
    let mut kept: Map<String, Value> = match keep {
        KeepColumns::All => row.columns.iter().cloned().zip(row.values).collect(),
        KeepColumns::None => Map::new(),
        KeepColumns::Named(names) => {
            // What was asked for is there, if only as null.
            let absent = columns.keep.as_ref().map(|_| Value::Null);
            let value = |name: &String| row.get(name).cloned().or_else(|| absent.clone());
            names.iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
        }
    };
    let inexact = kept.iter().find(|(_, value)| is_json && !is_exact(value));
    let inexact = inexact.map(|(column, value)| bad(format!("a number that is exact in 64 bits as {column:?}"), value));
    if inexact.is_some() {
        kept.retain(|_, value| is_exact(value));
    }
    match (content, pair, inexact) {
        (Ok(text), Ok(pair), None) => Ok(Text { text, pair, kept }),
        (Err(bad), ..) | (_, Err(bad), _) | (.., Some(bad)) => Err(Box::new(Skipped { bad, kept })),
    }
}
