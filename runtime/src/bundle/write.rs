//! Writing a bundle: in a hidden folder beside its place, which it takes in one step; as a folder, or packed as one file.

use std::{
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use super::{Bundle, CONFIG, FileEntry, MANIFEST, Manifest, SIGNATURE, TOKENIZER};
use crate::{
    archive,
    error::{Error, Result},
    exchange::exchange,
    file::{create_hidden, sha256_file},
    hidden::{HiddenFolder, behind_links},
    own,
    store::Store,
};

/// The ending of a bundle that is one file.
const EXTENSION: &str = "nimbert";

/// Whether a bundle of that name is to be one file.
fn is_one_file(target: &Path) -> bool {
    target.extension().is_some_and(|extension| extension == EXTENSION)
}

/// A bundle in the making: a folder, or, where its name ends with `.nimbert`, one file. It lies in a hidden folder beside its target until [`BundleWriter::finish`] renames it;
/// dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct BundleWriter {
    /// Behind any links.
    target: PathBuf,
    /// The name that was given, by which it is known whether it is to be one file.
    given: PathBuf,
    overwrite: bool,
    /// After [`BundleWriter::finish`] it holds what was replaced, if anything.
    staging: HiddenFolder,
}

impl BundleWriter {
    /// Checks that `target` may be written: it is absent, an empty folder, or — with `overwrite` — another bundle of its kind;
    /// and a folder can be made beside it.
    ///
    /// # Errors
    /// [`Error::OutputExists`], or [`Error::Io`] if nothing can be written there.
    pub fn check_target(target: &Path, overwrite: bool) -> Result<()> {
        let occupied = |got: &str| Err(Error::OutputExists { path: target.to_owned(), got: got.to_owned() });
        match fs::read_dir(target) {
            Ok(_) if is_one_file(target) => return occupied("a folder, where a file is to be made (*.nimbert)"),
            Ok(mut entries) => match (entries.next().is_none(), target.join(MANIFEST).exists(), overwrite) {
                (true, ..) => {}
                (_, true, true) => {
                    if let Some(name) = foreign(target)? {
                        return occupied(&format!("{name} in a bundle that does not list it: such is never replaced"));
                    }
                }
                (_, true, false) => return occupied("a bundle; --overwrite replaces it"),
                (_, false, _) => return occupied("other files, which are never replaced"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Or a part of the path before it is a file.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory && target.exists() => {
                match (is_one_file(target) && is_packed(target), overwrite) {
                    (true, true) => {}
                    (true, false) => return occupied("a bundle; --overwrite replaces it"),
                    (false, _) if is_one_file(target) => return occupied("another file, which is never replaced"),
                    (false, _) => return occupied("a file (a bundle that is one file is called *.nimbert)"),
                }
            }
            Err(error) => return Err(Error::io(target, error)),
        }
        // A trial, in the nearest folder that is there: no other check tells whether one may write.
        let (parent, name) = split_target(target)?;
        let nearest = parent.ancestors().find(|folder| folder.exists()).unwrap_or(&parent);
        HiddenFolder::create(nearest, &name.to_string_lossy()).map(drop).map_err(|error| match error {
            Error::Io { reason, .. } => Error::io(target, reason),
            other => other,
        })
    }

    /// Starts a bundle that is to become `target`.
    ///
    /// # Errors
    /// Those of [`BundleWriter::check_target`], and [`Error::Io`].
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        Self::check_target(target, overwrite)?;
        let (parent, name) = split_target(target)?;
        fs::create_dir_all(&parent).map_err(|error| Error::io(&parent, error))?;
        let staging = HiddenFolder::create(&parent, &name.to_string_lossy())?;
        Ok(Self { staging, target: parent.join(name), given: target.to_owned(), overwrite })
    }

    /// The folder in which the bundle's files are being collected.
    pub fn staging(&self) -> &Path {
        self.staging.path()
    }

    /// Writes one file into the bundle.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.staging().join(name);
        fs::write(&path, content).map_err(|error| Error::io(&path, error))
    }

    /// Records every file in `manifest`, writes it, and puts the bundle in its place.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::OutputExists`] if something else has come to lie there meanwhile; the target is then as it was.
    pub fn finish(self, mut manifest: Manifest) -> Result<Bundle> {
        let staging = self.staging();
        let entries = fs::read_dir(staging).map_err(|error| Error::io(staging, error))?;
        for entry in entries {
            let path = entry.map_err(|error| Error::io(staging, error))?.path();
            let bytes = fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            manifest.files.insert(name, FileEntry { bytes, sha256: sha256_file(&path)? });
            own::sync(&path).map_err(|error| Error::io(&path, error))?;
        }
        self.write(MANIFEST, manifest.seal())?;
        // On the disk before it takes the place of another, which is then removed: whenever power fails, one of them is whole.
        own::sync(&staging.join(MANIFEST)).map_err(|error| Error::io(staging, error))?;
        own::sync_names(staging);
        // What does not open must not ship.
        let bundle = Bundle::open(staging)?;
        bundle.tokenizer()?;
        Self::check_target(&self.given, self.overwrite)?;
        if is_one_file(&self.given) {
            bundle.write_packed(staging, &self.target, None)?;
        } else {
            replace_dir(staging, &self.target)?;
        }
        Bundle::open(&self.target)
    }
}

impl Bundle {
    /// Packs the bundle as the file `target`, its signature with it, after every file was compared with its digest.
    ///
    /// # Errors
    /// [`Error::Checksum`]; those of [`BundleWriter::check_target`] (of a name that does not end with `.nimbert`, too);
    /// [`Error::Format`] if it has more than 4 GiB.
    pub fn pack(&self, target: &Path, overwrite: bool) -> Result<Self> {
        if !is_one_file(target) {
            return Err(Error::format(target, "a name that ends with .nimbert", "another"));
        }
        BundleWriter::check_target(target, overwrite)?;
        let (parent, name) = split_target(target)?;
        fs::create_dir_all(&parent).map_err(|error| Error::io(&parent, error))?;
        self.write_packed(HiddenFolder::create(&parent, &name.to_string_lossy())?.path(), &parent.join(name), None)?;
        Self::open(target)
    }

    /// Writes the bundle as one file into the folder `staging`, compares what was written, and puts it in its place. The
    /// signature is `signature`, or else the bundle's own.
    fn write_packed(&self, staging: &Path, target: &Path, signature: Option<&[u8]>) -> Result<()> {
        let is_signed = signature.is_some() || self.store.has(SIGNATURE);
        let files = self.manifest.files.keys().map(String::as_str);
        let names: Vec<&str> = [MANIFEST].into_iter().chain(is_signed.then_some(SIGNATURE)).chain(files).collect();
        let packed = staging.join("packed");
        archive::write(&packed, &names, |name| match signature {
            Some(signature) if name == SIGNATURE => Ok(Box::new(signature) as Box<dyn Read>),
            _ => self.store.reader(name),
        })?;
        Self::open(&packed)?.verify()?;
        // What nobody may write to may be mapped.
        own::for_nobody_to_write(&packed).map_err(|error| Error::io(&packed, error))?;
        fs::rename(&packed, target).map_err(|error| Error::io(target, error))
    }

    /// Puts a signature into the bundle, in place of another. That it is one is the caller's to see.
    ///
    /// # Errors
    /// [`Error::Io`]; the bundle is then as it was.
    pub fn put_signature(&self, signature: &[u8]) -> Result<()> {
        let place = behind_links(&self.path);
        let staging = HiddenFolder::beside(&place)?;
        match self.store {
            Store::Archive(_) => self.write_packed(staging.path(), &place, Some(signature)),
            Store::Folder(_) => {
                let (partial, target) = (staging.path().join(SIGNATURE), self.store.path(SIGNATURE));
                let written = fs::write(&partial, signature).and_then(|()| own::sync(&partial));
                let placed = written.and_then(|()| fs::rename(&partial, &target));
                placed.map_err(|error| Error::io(&target, error))
            }
        }
    }

    /// Copies every file that the manifest lists into a folder, and compares it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checksum`].
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        for (name, entry) in &self.manifest.files {
            let copied = self.store.copy_hashed(name, &folder.join(name), entry.bytes)?;
            entry.expect(&self.store.path(name), copied)?;
        }
        Ok(())
    }
}

/// Whether a file begins as a bundle's do. One that is damaged may be replaced, as a folder may.
fn is_packed(path: &Path) -> bool {
    let mut start = [0; 30 + MANIFEST.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start.starts_with(b"PK\x03\x04") && start.ends_with(MANIFEST.as_bytes())
}

/// Puts the folder `new` in the place of `target`, in one step where the system has such; else what was there is removed
/// last, and put back if the rename fails.
fn replace_dir(new: &Path, target: &Path) -> Result<()> {
    if !target.exists() {
        return fs::rename(new, target).map_err(|error| Error::io(target, error));
    }
    if exchange(new, target).is_ok() {
        // What was replaced lies under the new one's former name, and goes with the writer.
        return Ok(());
    }
    let (parent, name) = split_target(target)?;
    // A fresh empty folder, which a rename may replace: a name that no other run uses.
    let retired = create_hidden(&parent, &name.to_string_lossy(), "retired")?;
    fs::rename(target, &retired).map_err(|error| Error::io(target, error))?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(&retired, target).map_err(|error| Error::io(&retired, error))?;
        return Err(Error::io(target, error));
    }
    // The new bundle is in its place; an old one that cannot be removed is no failure.
    let _ = fs::remove_dir_all(&retired);
    Ok(())
}

/// A file in a bundle's folder that is not the bundle's, nor of a program that shows folders: the first one.
fn foreign(folder: &Path) -> Result<Option<String>> {
    let manifest = fs::read(folder.join(MANIFEST)).map_err(|error| Error::io(folder, error))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let listed = manifest["files"].as_object();
    let is_own = |name: &String| match (name.as_str(), listed) {
        (MANIFEST | SIGNATURE | ".DS_Store" | ".directory" | "Thumbs.db" | "desktop.ini", _) => true,
        (name, Some(listed)) => listed.contains_key(name),
        // One that is damaged so much that it does not say it: what nimbert-train writes.
        (CONFIG | TOKENIZER | "tokenizer_config.json" | "README.md", None) => true,
        (name, None) => name.starts_with("model.") && (name.ends_with(".onnx") || name.ends_with(".onnx_data")),
    };
    let entries = fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names.into_iter().find(|name| !is_own(name)))
}

/// The folder in which `target` lies, absolute, and its name there; where it is a link, those of what it names, so that the link stays.
fn split_target(target: &Path) -> Result<(PathBuf, OsString)> {
    // An absolute path has a parent and a name even where `target` is ".".
    let absolute = std::path::absolute(behind_links(target)).map_err(|error| Error::io(target, error))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(Error::OutputExists { path: target.to_owned(), got: "no name for it".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_nothing_in_it_that_the_manifest_does_not_list() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/bundle-2")).unwrap();
        let (listed, more) = (folder.path().join("listed"), folder.path().join("more"));
        let files: Vec<&str> = [MANIFEST].into_iter().chain(bundle.manifest.files.keys().map(String::as_str)).collect();
        let open = |name: &str| match name {
            "more.txt" => Ok(Box::new(&b"unseen"[..]) as Box<dyn Read>),
            name => bundle.store.reader(name),
        };
        archive::write(&listed, &files, open).unwrap();
        Bundle::open(&listed).unwrap();
        archive::write(&more, &[&files[..], &["more.txt"]].concat(), open).unwrap();
        let error = Bundle::open(&more).unwrap_err();
        assert!(matches!(&error, Error::Format { got, .. } if got.contains("more.txt")), "{error}");
    }

    #[test]
    fn a_folder_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, content: &str| {
            if !path(name).exists() {
                fs::create_dir(path(name)).unwrap();
            }
            fs::write(path(name).join("file"), content).unwrap();
        };
        write("target", "old");
        // Whoever looks finds one or the other, at every moment.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(!cfg!(target_os = "linux") || path("target").exists());
                }
            });
            let replaced = (0..200).try_for_each(|turn: i32| {
                write("new", &turn.to_string());
                replace_dir(&path("new"), &path("target"))?;
                assert_eq!(fs::read_to_string(path("target").join("file")).ok(), Some(turn.to_string()));
                Ok::<(), Error>(())
            });
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            looks.join().unwrap();
            replaced.unwrap();
        });
    }
}
