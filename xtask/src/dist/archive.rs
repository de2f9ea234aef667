//! A folder as one file that is the same whenever and by whomever it is made.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use zip::{ZipWriter, write::SimpleFileOptions};

/// The time of every file: the beginning of what ZIP can say, and nobody's time zone.
pub(super) const TIME: u64 = 315_532_800;
pub(super) const TIME_TEXT: &str = "1980-01-01T00:00:00Z";

/// Packs `folder` into `archive`, .zip or .tar.gz by its name.
pub(super) fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let name = folder.file_name().context("a folder")?;
    let partial = archive.with_extension("partial");
    let out = BufWriter::new(File::create(&partial).with_context(|| partial.display().to_string())?);
    let files = files(folder)?;
    let named =
        files.iter().map(|file| (file, Path::new(name).join(file.strip_prefix(folder).expect("it is in there"))));
    let out = match archive.extension().is_some_and(|extension| extension == "zip") {
        true => zip(named, out)?,
        false => tar_gz(named, out)?,
    };
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    fs::rename(&partial, archive).with_context(|| archive.display().to_string())
}

/// All files and links below a folder, in the order of their names.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        entries.push(entry?.path());
    }
    entries.sort();
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() && !path.is_symlink() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn tar_gz<'a, W: Write>(files: impl Iterator<Item = (&'a PathBuf, PathBuf)>, out: W) -> Result<W> {
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::best()));
    for (file, name) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(TIME);
        header.set_mode(if is_program(file) { 0o755 } else { 0o644 });
        if file.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, fs::read_link(file)?)?;
        } else {
            let data = fs::read(file).with_context(|| file.display().to_string())?;
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, data.as_slice())?;
        }
    }
    Ok(tar.into_inner()?.finish()?)
}

fn zip<'a, W: Write>(files: impl Iterator<Item = (&'a PathBuf, PathBuf)>, out: W) -> Result<W> {
    let mut zip = ZipWriter::new_stream(out);
    for (file, name) in files {
        let options = SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
        let options = options.unix_permissions(if is_program(file) { 0o755 } else { 0o644 });
        zip.start_file(name.to_string_lossy().replace('\\', "/"), options)?;
        zip.write_all(&fs::read(file).with_context(|| file.display().to_string())?)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// What is in a folder of programs; libraries need no such right.
pub(super) fn is_program(file: &Path) -> bool {
    file.parent().is_some_and(|folder| folder.ends_with("bin"))
}
