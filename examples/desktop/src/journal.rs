//! What was found out about a file, beside it: JSON Lines that only grow, so that nothing is lost when the program
//! ends in the middle.
//!
//! ```json
//! {"row":12,"label":"positive","score":0.98}
//! {"row":12,"correction":"negative"}
//! ```
//!
//! Rows are counted from 0. The last line about a row holds; a correction of null takes one back. What was written of
//! a last line is cut off when the file is opened again.

use std::{
    fs::{File, TryLockError},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, UNIX_EPOCH},
};

use nimbert::rows::Value;
use serde_json::json;

use crate::table::{Answer, Corrections};

/// How long one waits for another that has the file open: the program's own thread may be just about to close it.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What a journal holds.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    /// The answer of each row that has one.
    pub answers: Vec<Option<Answer>>,
    /// The corrected rows.
    pub corrections: Corrections,
}

/// An open journal. Nobody else has it.
pub struct Journal {
    file: File,
    /// Up to here lines are complete.
    bytes: u64,
}

/// Where the journal of the file `rows` lies. Its name tells apart what answers depend on: the file as it is now, the
/// column and the bundle, by its digest.
pub fn path(rows: &Path, column: &str, bundle: &str) -> io::Result<PathBuf> {
    let metadata = std::fs::metadata(rows)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let work = json!([metadata.len(), modified.to_string(), column, bundle]).to_string();
    Ok(rows.with_added_extension(format!("{}.labels.jsonl", &nimbert::sha256(work.as_bytes())[..8])))
}

impl Journal {
    /// Opens the journal at `path`, or begins it, and reads what it holds about `rows` rows.
    ///
    /// # Errors
    /// The operating system's; [`io::ErrorKind::ResourceBusy`] if another program has it open.
    pub fn open(path: &Path, rows: usize, labels: &[String]) -> io::Result<(Self, Content)> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program labels this file"));
                }
            }
        }
        let mut content = Content { answers: vec![None; rows], corrections: Corrections::new() };
        let (mut reader, mut line, mut bytes) = (BufReader::new(&file), Vec::new(), 0);
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                break;
            }
            bytes += line.len() as u64;
            if let Ok(value) = serde_json::from_slice(&line) {
                content.take(&value, labels);
            }
        }
        drop(reader);
        let mut journal = Self { file, bytes };
        journal.cut()?;
        Ok((journal, content))
    }

    /// Adds answers, by row.
    ///
    /// # Errors
    /// The operating system's; nothing of them was added then.
    pub fn label(&mut self, answers: &[(u32, Answer)], labels: &[String]) -> io::Result<()> {
        let line = |&(row, Answer { label, score, abstained, unknown }): &(u32, Answer)| {
            let score = (f64::from(score) * 1e6).round() / 1e6;
            let mut line = json!({"row": row, "label": labels[label as usize], "score": score});
            for (name, is_so) in [("abstained", abstained), ("unknown", unknown)] {
                if is_so {
                    line[name] = true.into();
                }
            }
            format!("{line}\n")
        };
        self.add(&answers.iter().map(line).collect::<String>())
    }

    /// Adds a correction of a row, or takes it back.
    ///
    /// # Errors
    /// The operating system's.
    pub fn correct(&mut self, row: u32, label: Option<&str>) -> io::Result<()> {
        self.add(&format!("{}\n", json!({"row": row, "correction": label})))
    }

    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn add(&mut self, lines: &str) -> io::Result<()> {
        let written = self.file.write_all(lines.as_bytes());
        match &written {
            Ok(()) => self.bytes += lines.len() as u64,
            // A full disk may have taken the half of a line, behind which nothing could be read.
            Err(_) => drop(self.cut()),
        }
        written
    }

    /// Cuts off what is not complete, and goes to the end.
    fn cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() != self.bytes {
            self.file.set_len(self.bytes)?;
        }
        self.file.seek(SeekFrom::Start(self.bytes)).map(drop)
    }
}

impl Content {
    /// Takes what a line says, if it is about a row and a label that are there.
    fn take(&mut self, line: &Value, labels: &[String]) {
        let id = |key: &str| {
            let name = line.get(key)?.as_str()?;
            u32::try_from(labels.iter().position(|label| label == name)?).ok()
        };
        let row = line.get("row").and_then(Value::as_u64).and_then(|row| u32::try_from(row).ok());
        let Some(row) = row.filter(|&row| (row as usize) < self.answers.len()) else { return };
        if line.get("correction").is_some_and(Value::is_null) {
            self.corrections.remove(&row);
        } else if let Some(label) = id("correction") {
            self.corrections.insert(row, label);
        } else if let (Some(label), Some(score)) = (id("label"), line.get("score").and_then(Value::as_f64)) {
            let [abstained, unknown] = ["abstained", "unknown"].map(|name| line.get(name) == Some(&true.into()));
            self.answers[row as usize] = Some(Answer { label, score: score as f32, abstained, unknown });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> [String; 2] {
        ["negative", "positive"].map(String::from)
    }

    #[test]
    fn what_was_added_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.labels.jsonl");
        let answer = Answer { label: 1, score: 0.75, abstained: true, unknown: true };
        let (mut journal, content) = Journal::open(&path, 3, &labels()).unwrap();
        assert_eq!(content, Content { answers: vec![None; 3], corrections: Corrections::new() });
        journal.label(&[(2, answer)], &labels()).unwrap();
        journal.correct(2, Some("negative")).unwrap();
        journal.correct(1, Some("positive")).unwrap();
        journal.correct(1, None).unwrap();
        drop(journal);
        let (_, content) = Journal::open(&path, 3, &labels()).unwrap();
        assert_eq!(content.answers, [None, None, Some(answer)]);
        assert_eq!(content.corrections, Corrections::from([(2, 0)]));
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.labels.jsonl");
        let whole = "{\"row\":0,\"label\":\"positive\",\"score\":0.5}\n";
        std::fs::write(&path, format!("{whole}{{\"row\":1,\"label\":\"pos")).unwrap();
        let (mut journal, content) = Journal::open(&path, 2, &labels()).unwrap();
        assert_eq!(content.answers, [Some(Answer { label: 1, score: 0.5, abstained: false, unknown: false }), None]);
        journal.correct(1, Some("negative")).unwrap();
        let expected = format!("{whole}{{\"row\":1,\"correction\":\"negative\"}}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn rows_and_labels_that_are_not_there_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.labels.jsonl");
        std::fs::write(&path, "{\"row\":9,\"correction\":\"positive\"}\n{\"row\":0,\"correction\":\"other\"}\n7\n")
            .unwrap();
        let (_, content) = Journal::open(&path, 1, &labels()).unwrap();
        assert_eq!(content, Content { answers: vec![None], corrections: Corrections::new() });
    }

    #[test]
    fn another_file_column_or_bundle_has_another_journal() {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("x.csv");
        std::fs::write(&rows, "text\na\n").unwrap();
        let name = |column, bundle| path(&rows, column, bundle).unwrap();
        let first = name("text", "1");
        assert_eq!(first, name("text", "1"));
        assert!(first != name("body", "1") && first != name("text", "2"));
        std::fs::write(&rows, "text\nab\n").unwrap();
        assert_ne!(first, name("text", "1"));
    }
}
