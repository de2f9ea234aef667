//! Corrections as training rows: a CSV file with the columns `text` and `label`, which `nimbert-train fit` reads.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Writes `rows` to `path`: to a file beside it first, which takes its place when it is complete.
///
/// # Errors
/// The operating system's.
pub fn write<'a>(path: &Path, rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> io::Result<()> {
    let partial = partial(path);
    let written = write_all(&partial, rows).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The error says more than one of removing what may not be there.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// No other program's, and no file of the user's.
fn partial(path: &Path) -> PathBuf {
    path.with_added_extension(format!("{}.partial", std::process::id()))
}

fn write_all<'a>(path: &Path, rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    writer.write_all(b"text,label\n")?;
    for (text, label) in rows {
        writeln!(writer, "{},{}", cell(text), cell(label))?;
    }
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn cell(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corrections.csv");
        let texts = ["plain", "with, comma", "\"quoted\"\nand broken"];
        write(&path, texts.map(|text| (text, "a,b"))).unwrap();
        let read = |column| crate::source::read(&path, column, &AtomicBool::new(false)).unwrap().texts;
        assert_eq!(read("text").iter().map(|text| text.as_deref().unwrap()).collect::<Vec<_>>(), texts);
        assert_eq!(read("label").iter().map(|label| label.as_deref().unwrap()).collect::<Vec<_>>(), ["a,b"; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_older_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corrections.csv");
        write(&path, [("old", "a")]).unwrap();
        // A folder stands where the new file would be written.
        fs::create_dir(partial(&path)).unwrap();
        assert!(write(&path, [("new", "b")]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "text,label\nold,a\n");
    }
}
