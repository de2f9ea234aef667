//! Results on standard output or in a file: lines for people, CSV, JSON Lines; Parquet and Arrow in a build with that
//! feature.
//!
//! A file is written under another name beside its place and renamed when it is complete. What an interrupted run has
//! written stays under that name, so that `--resume` can go on: with it lies a note of what was being done.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nimbert::{Prediction, behind_links, prediction::escaped, rows::Value};
use serde_json::Map;

#[cfg(feature = "parquet")]
use super::columns::{Columns, FileKind};
use super::{
    OutputError,
    input::Skipped,
    message,
    table::{Answer, Table, carried, csv_line},
};

/// How a result is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Label and score of each task, and the text, separated by tabs; or the most likely labels and their scores, behind what is
    /// answered where that may be something else than the first.
    Lines { top_k: Option<usize>, says_answer: bool, columns: usize },
    /// A header and rows.
    Csv(Table),
    /// One object a line.
    Json { top_k: Option<usize> },
    /// A Parquet or Arrow file with the columns of CSV.
    #[cfg(feature = "parquet")]
    Columns { kind: FileKind, table: Table },
}

impl Format {
    /// What stands before the results.
    fn header(&self) -> Option<String> {
        let Self::Csv(table) = self else { return None };
        Some(csv_line(table.columns()))
    }

    /// Whether what is there of an interrupted file can be used. The end of a file of columns tells where they are; without
    /// it, it is none.
    fn can_be_resumed(&self) -> bool {
        match self {
            #[cfg(feature = "parquet")]
            Self::Columns { .. } => false,
            Self::Lines { .. } | Self::Csv { .. } | Self::Json { .. } => true,
        }
    }

    /// One result, with its line break; none for what is no text.
    fn row(&self, answer: Answer<'_>) -> String {
        match (self, answer) {
            (Self::Json { top_k }, Answer::Classified(text, prediction)) => {
                let mut json = carried(&text.kept);
                if let Value::Object(result) = prediction.to_json(*top_k) {
                    json.extend(result);
                }
                format!("{}\n", Value::Object(json))
            }
            (Self::Json { .. }, Answer::Skipped(Skipped { bad, kept })) => {
                let mut json = carried(kept);
                json.insert("error".to_owned(), bad.to_string().into());
                format!("{}\n", Value::Object(json))
            }
            (Self::Csv(table), answer) => table.row(answer),
            (Self::Lines { top_k, says_answer, .. }, Answer::Classified(text, prediction)) => {
                let answer = if *says_answer { prediction.summary() + "\t" } else { String::new() };
                let of_task = |prediction: &Prediction| match top_k {
                    None => format!("{}\t{:.4}\t", prediction.summary(), prediction.score),
                    Some(k) => {
                        let pair = |(label, score): (&str, f32)| format!("{}\t{score:.4}\t", escaped(label));
                        prediction.top(*k).into_iter().map(pair).collect()
                    }
                };
                let labels: String = prediction.tasks().map(of_task).collect();
                format!("{answer}{labels}{}\n", escaped(&text.text))
            }
            (Self::Lines { columns, .. }, Answer::Skipped(Skipped { bad, .. })) => {
                // Where a result has its text.
                format!("error{}{}\n", "\t".repeat(*columns), escaped(&bad.to_string()))
            }
            #[cfg(feature = "parquet")]
            (Self::Columns { .. }, _) => String::new(),
        }
    }

    /// How many results a file holds, and the bytes that they take: what was written of a last one is none.
    fn count(&self, file: &File) -> io::Result<(u64, u64)> {
        let mut reader = BufReader::new(file);
        let (mut rows, mut bytes, mut complete) = (0, 0, 0);
        let mut is_quoted = false;
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
                break;
            }
            bytes += line.len() as u64;
            // In CSV a text may have line breaks, between quotes.
            let is_csv = matches!(self, Self::Csv(_));
            is_quoted ^= is_csv && line.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            if !is_quoted {
                (rows, complete) = (rows + 1, bytes);
            }
        }
        let header = u64::from(self.header().is_some());
        Ok(if rows < header { (0, 0) } else { (rows - header, complete) })
    }
}

/// Where results go.
pub(super) struct Output {
    writer: Box<dyn Write>,
    /// What is written in columns, instead of by the writer.
    #[cfg(feature = "parquet")]
    columns: Option<Columns>,
    format: Format,
    path: PathBuf,
    /// None for what is written to directly: standard output, a pipe, a device.
    file: Option<Partial>,
}

/// A file that is not complete yet.
struct Partial {
    target: PathBuf,
    rows: PathBuf,
    note: PathBuf,
    /// Locked, so that two runs do not write one file.
    lock: File,
}

impl Output {
    /// All files that are written on the way to `path`.
    pub(super) fn files(path: &Path) -> [PathBuf; 3] {
        let target = behind_links(path);
        [target.clone(), target.with_added_extension("partial"), target.with_added_extension("partial.json")]
    }

    /// Opens the output, and says how many results of an earlier run it begins with. `note` is what was asked for: a run
    /// that asked for something else cannot be resumed.
    pub(super) fn open(path: &Path, format: Format, note: &str, resume: bool) -> anyhow::Result<(Self, u64)> {
        let cannot_write = |reason: io::Error| OutputError { path: path.to_owned(), reason };
        let direct = |writer: Box<dyn Write>, format: Format| Self {
            writer,
            #[cfg(feature = "parquet")]
            columns: None,
            format,
            path: path.to_owned(),
            file: None,
        };
        if resume && !format.can_be_resumed() {
            bail!("{}: expected a .csv, .jsonl or text file for --resume", path.display());
        }
        let [target, rows, note_path] = Self::files(path);
        if path == Path::new("-") || is_special(&target) {
            if resume {
                bail!("{}: expected a file for --resume", path.display());
            }
            let writer: Box<dyn Write> = match path == Path::new("-") {
                true => Box::new(BufWriter::new(io::stdout().lock())),
                false => Box::new(BufWriter::new(File::options().write(true).open(&target).map_err(cannot_write)?)),
            };
            let mut output = direct(writer, format);
            output.write_header()?;
            return Ok((output, 0));
        }
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&rows).map_err(cannot_write)?;
        // Where a file system has no locks, nobody is told.
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            bail!("{}: another nimbert is writing it", rows.display());
        }
        // Between opening and locking, another run may have put it in its place: it is that run's output then.
        if !is_same_file(&file, &rows) {
            bail!("{}: another nimbert has just written it", path.display());
        }
        let (done, bytes) = if resume { resumable(&rows, &note_path, note, &format, &file)? } else { (0, 0) };
        if !resume && file.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            message(&format!("{}: what an interrupted run has left is replaced", rows.display()));
        }
        file.set_len(bytes).map_err(cannot_write)?;
        let mut writer = file.try_clone().map_err(cannot_write)?;
        writer.seek(io::SeekFrom::Start(bytes)).map_err(cannot_write)?;
        if bytes == 0 {
            write_note(&note_path, note).map_err(cannot_write)?;
        }
        #[cfg(feature = "parquet")]
        let columns = match &format {
            Format::Columns { kind, table } => {
                let file = file.try_clone().map_err(cannot_write)?;
                Some(Columns::new(file, *kind, table).map_err(cannot_write)?)
            }
            _ => None,
        };
        let partial = Partial { target, rows, note: note_path, lock: file };
        let mut output = Self {
            file: Some(partial),
            #[cfg(feature = "parquet")]
            columns,
            ..direct(Box::new(BufWriter::new(writer)), format)
        };
        if bytes == 0 {
            output.write_header()?;
        }
        Ok((output, done))
    }

    fn write_header(&mut self) -> Result<(), OutputError> {
        let header = self.format.header().unwrap_or_default();
        self.writer.write_all(header.as_bytes()).map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: io::Error) -> OutputError {
        OutputError { path: self.path.clone(), reason }
    }

    /// Writes one result.
    pub(super) fn write(&mut self, answer: Answer<'_>) -> Result<(), OutputError> {
        #[cfg(feature = "parquet")]
        if let Some(columns) = &mut self.columns {
            columns.push(answer);
            return Ok(());
        }
        self.writer.write_all(self.format.row(answer).as_bytes()).map_err(|reason| self.error(reason))
    }

    /// Hands on what was written, so that it can be read, or is kept if the process is killed.
    pub(super) fn flush(&mut self) -> Result<(), OutputError> {
        #[cfg(feature = "parquet")]
        if let Some(columns) = &mut self.columns {
            return columns.flush().map_err(|reason| self.error(reason));
        }
        self.writer.flush().map_err(|reason| self.error(reason))
    }

    /// Puts the file in its place.
    pub(super) fn finish(mut self) -> Result<(), OutputError> {
        self.flush()?;
        #[cfg(feature = "parquet")]
        if let Some(columns) = self.columns.take() {
            columns.finish().map_err(|reason| self.error(reason))?;
        }
        let Some(Partial { target, rows, note, lock }) = self.file.take() else { return Ok(()) };
        // The note first, while the lock says that it is ours.
        lock.sync_all()
            .and_then(|()| fs::remove_file(note))
            .and_then(|()| fs::rename(rows, target))
            .map_err(|reason| self.error(reason))
    }

    /// Gives up: results that can be resumed are kept, anything else is removed. Returns where they lie.
    pub(super) fn abandon(mut self) -> Option<PathBuf> {
        let is_flushed = self.writer.flush().is_ok();
        let Partial { rows, note, .. } = self.file?;
        let count = || File::open(&rows).and_then(|file| self.format.count(&file));
        if is_flushed && self.format.can_be_resumed() && count().is_ok_and(|(results, _)| results > 0) {
            return Some(rows);
        }
        // The error that is being reported says more than one of removing what may not be there.
        let _ = fs::remove_file(note);
        let _ = fs::remove_file(rows);
        None
    }
}

/// Whether it is a device or a pipe, which is written to, not replaced. (So is a folder, which fails.)
pub(super) fn is_special(target: &Path) -> bool {
    fs::metadata(target).is_ok_and(|metadata| !metadata.is_file())
}

/// Whether `path` still names the file that was opened.
fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        opened.dev() == named.dev() && opened.ino() == named.ino()
    }
    // Elsewhere a file that is open is not renamed.
    #[cfg(not(unix))]
    {
        opened.len() == named.len()
    }
}

/// Writes the note; it is on the disk before a row can be, so that no loss of power leaves rows of which nobody knows what
/// they are. Where rows are gone on with, it is there, and stays untouched.
fn write_note(path: &Path, note: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()
}

/// How many results an earlier run has left, and their bytes.
fn resumable(rows: &Path, note_path: &Path, note: &str, format: &Format, file: &File) -> anyhow::Result<(u64, u64)> {
    match fs::read_to_string(note_path) {
        // The power went before it was on the disk, and so before the first row.
        Ok(earlier) if earlier.is_empty() => return Ok((0, 0)),
        Ok(earlier) => expect_same(rows, &earlier, note)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            message(&format!("{}: no note of an interrupted run to go on from: from the beginning", rows.display()));
            return Ok((0, 0));
        }
        Err(error) => return Err(error).with_context(|| note_path.display().to_string()),
    }
    format.count(file).with_context(|| rows.display().to_string())
}

/// Compares what was asked for in an earlier run with what is asked for now.
fn expect_same(rows: &Path, earlier: &str, now: &str) -> anyhow::Result<()> {
    let parse = |note: &str| serde_json::from_str::<Map<String, Value>>(note).unwrap_or_default();
    let (earlier, now) = (parse(earlier), parse(now));
    let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    for key in now.keys().chain(earlier.keys()) {
        let (before, is) = (earlier.get(key), now.get(key));
        if before != is {
            let rows = rows.display();
            bail!("--resume: expected the {key} of {rows}, {}, found {}", show(before), show(is));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::cli::table::TaskColumns;

    fn count(format: &Format, content: &str) -> (u64, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        format.count(&file).unwrap()
    }

    #[test]
    fn only_complete_results_count() {
        let json = Format::Json { top_k: None };
        assert_eq!(count(&json, "{}\n{}\n{\"la"), (2, 6));
        assert_eq!(count(&json, ""), (0, 0));
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let tasks = vec![TaskColumns { name: None, labels, extras: Vec::new() }];
        let csv = Format::Csv(Table { tasks, kept: Vec::new(), has_errors: false });
        let header = csv.header().unwrap();
        assert_eq!(header, "text,label,score,score a,score b\n");
        let bytes = header.len() as u64;
        assert_eq!(count(&csv, &header), (0, bytes));
        assert_eq!(count(&csv, &header[..9]), (0, 0));
        // A text with a line break is one result, and half of it is none.
        assert_eq!(count(&csv, &format!("{header}\"x\ny\",a,1,1,0\n")), (1, bytes + 14));
        assert_eq!(count(&csv, &format!("{header}z,a,1,1,0\n\"x\n")), (1, bytes + 10));
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_only_the_same_work_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let json = || Format::Json { top_k: None };
        let files = || fs::read_dir(folder.path()).unwrap().count();
        let work = "{\"work\": 1, \"rest\": 2}";
        let (mut output, done) = Output::open(&path, json(), work, true).unwrap();
        assert_eq!(done, 0);
        output.writer.write_all(b"{}\n{\"half").unwrap();
        assert!(Output::open(&path, json(), work, true).err().unwrap().to_string().contains("another nimbert"));
        let rows = output.abandon().unwrap();
        assert!(rows.exists() && !path.exists());
        let other = Output::open(&path, json(), "{\"work\": 3, \"rest\": 2}", true).err().unwrap().to_string();
        assert!(
            other.contains("--resume: expected the work of ") && other.ends_with(".partial, 1, found 3"),
            "{other}"
        );
        let (mut output, done) = Output::open(&path, json(), work, true).unwrap();
        assert_eq!(done, 1);
        output.writer.write_all(b"[]\n").unwrap();
        output.finish().unwrap();
        let mut content = String::new();
        File::open(&path).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), files()), ("{}\n[]\n", 1));
        // Without a result there is nothing to keep.
        let (output, _) = Output::open(&path, json(), work, false).unwrap();
        assert_eq!((output.abandon(), files()), (None, 1));
    }
}
