//! Graphs in the form that ONNX Runtime made of them on this machine: optimized, and the weights in the order in which
//! the processor's instructions want them.
//!
//! Loaded so, a graph needs half of the time, and its weights are mapped from the file instead of copied: sessions and
//! processes share one copy, and the system may drop what is not used. The form belongs to one version of ONNX Runtime
//! and one set of processor instructions; both are part of its name, so that it is never looked at elsewhere.
//!
//! An entry is a folder, made beside its place and renamed, so that none is half-written. It belongs to the user, who may
//! read it only: a file that is mapped must not become shorter. Its own digests lie in it. Entries that nobody has used for a
//! month are removed when another is made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    bundle::{Bundle, FileEntry, Variant, Verifier},
    error::{Error, Result},
    file::{create_hidden, parse_json, read_json, sha256, sha256_file},
    fused,
    own::{self, DAY, MONTH},
    processor::instructions,
    session::SessionOptions,
    store::Store,
    threads,
};

/// The environment variable that names the folder.
pub const CACHE_VARIABLE: &str = "NIMBERT_CACHE";

/// Changes with the way in which graphs are compiled.
const FORMAT: u32 = 4;
const GRAPH: &str = "graph.onnx";
const DATA: &str = "graph.data";
/// Of what it is an entry, and sizes and digests of the two.
const DIGESTS: &str = "digests.json";
/// Of what a folder holds TensorRT's engines.
const ENGINE_OF: &str = "engine.txt";
/// Of an entry's name, hexadecimal digits.
const NAME_LENGTH: usize = 32;

/// The folder in which the program `nimbert` keeps compiled graphs: [`CACHE_VARIABLE`], or `nimbert` in the system's
/// folder for what can be made again. None where there is no such folder.
pub fn default_cache() -> Option<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = folder(CACHE_VARIABLE) {
        return Some(named);
    }
    let system = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    system.map(|system| system.join("nimbert"))
}

/// The place of one graph's compiled form.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    folder: PathBuf,
    /// All that it depends on, of which its name is made.
    key: String,
}

/// What an entry says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Digests {
    /// Of what it is an entry: by its name alone it could be another's that was renamed.
    key: String,
    files: BTreeMap<String, FileEntry>,
}

impl Entry {
    /// The entry in `cache` of a bundle's graph. ONNX Runtime must have been loaded: its version is part of the name.
    pub(crate) fn of(cache: &Path, bundle: &Bundle, variant: &Variant, options: &SessionOptions) -> Self {
        let digests = digests(bundle, variant);
        let SessionOptions { operators, fast_math, .. } = options;
        let fused = options.fuses().then_some(fused::VERSION);
        let key =
            format!("{FORMAT} {operators:?} {fast_math} {fused:?} {digests:?} {} {}", ort::info(), instructions());
        Self { folder: place(cache, &key), key }
    }

    /// The graph's file.
    pub(crate) fn graph(&self) -> PathBuf {
        self.folder.join(GRAPH)
    }

    pub(crate) fn is_there(&self) -> bool {
        self.graph().exists()
    }

    /// Whether nobody else can put another entry in its place; the cache is made if it is not there.
    pub(crate) fn is_in_own_place(&self) -> bool {
        is_kept(self.folder.parent().unwrap_or(&self.folder))
    }

    /// Whether nobody else can have written the entry: it is the user's own, and no other may write to it.
    pub(crate) fn is_own(&self) -> bool {
        let files = [GRAPH, DATA].map(|name| self.folder.join(name));
        own::is_own(&self.folder) && files.iter().all(|file| !file.exists() || own::is_own(file))
    }

    /// Compares the entry's files with the digests that were taken when it was made.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`], [`Error::Format`].
    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<()> {
        let (path, store) = (self.folder.join(DIGESTS), Store::Folder(self.folder.clone()));
        let digests: Digests = parse_json(&path, &read_json(&path)?, "digests of a compiled graph")?;
        if digests.key != self.key {
            return Err(Error::format(&path, "the digests of this entry", "those of another"));
        }
        for name in [GRAPH, DATA] {
            match digests.files.get(name) {
                Some(entry) => verifier.file(&store, name, entry)?,
                None if store.has(name) => return Err(Error::format(&path, format!("a digest of {name}"), "none")),
                None => {}
            }
        }
        Ok(())
    }

    /// Says that the entry is still used.
    pub(crate) fn touch(&self) {
        // The digests are read at every start, and nobody remembers what they were: their time may change, that of the graph
        // may not.
        own::touch(&self.folder.join(DIGESTS));
    }

    pub(crate) fn remove(&self) {
        // Under another name first: a kill must not leave half of an entry in its place. If it stays, it is in the way of a
        // new one only: the graph itself is loaded then.
        let cache = self.folder.parent().unwrap_or(&self.folder);
        if let Ok(aside) = create_hidden(cache, "graph", "partial") {
            let _ = fs::rename(&self.folder, &aside);
            let _ = fs::remove_dir_all(&aside);
        }
    }

    /// Makes the entry, and opens it: `compile` writes the graph, given a folder for what it needs, the graph's path, and the
    /// name of the file for its large tensors; `open` opens what was written. Where the entry cannot be kept, what was opened
    /// is right all the same.
    ///
    /// # Errors
    /// [`Error::Io`], and those of `compile` and `open`; nothing is left then.
    pub(crate) fn create<T, S>(
        &self,
        compile: impl FnOnce(&Path, &Path, &str) -> Result<T>,
        open: impl FnOnce(&Path) -> Result<S>,
    ) -> Result<S> {
        let cache = self.folder.parent().unwrap_or(&self.folder);
        own::create_dir(cache).map_err(|error| Error::io(cache, error))?;
        remove_expired(cache);
        let staging = create_hidden(cache, "graph", "partial")?;
        let source = staging.join("source");
        // Nobody else is to open what lies there before it is read-only.
        let opened = own::set_mode(&staging, 0o700)
            .map_err(|error| Error::io(&staging, error))
            .and_then(|()| fs::create_dir(&source).map_err(|error| Error::io(&source, error)))
            .and_then(|()| compile(&source, &staging.join(GRAPH), DATA))
            .and_then(|compiled| {
                drop(compiled);
                fs::remove_dir_all(&source).map_err(|error| Error::io(&source, error))?;
                // Half of the time each.
                let (sealed, opened) = threads::both(|| self.seal(&staging), || open(&staging.join(GRAPH)));
                sealed.and(opened)
            });
        if !self.is_there() {
            // Half of one, as earlier versions could leave it.
            let _ = fs::remove_dir_all(&self.folder);
        }
        // Where another process was faster, its folder stays.
        if opened.is_err() || fs::rename(&staging, &self.folder).is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        opened
    }

    /// Records the digests of what was compiled, and sees to it that it is on the disk before it is in its place: after a loss of
    /// power it must not be there with other content.
    fn seal(&self, staging: &Path) -> Result<()> {
        let mut files = BTreeMap::new();
        let finish = |path: &Path| {
            own::for_nobody_to_write(path)?;
            own::sync(path)
        };
        for (name, path) in [GRAPH, DATA].map(|name| (name, staging.join(name))) {
            if path.exists() {
                let bytes = fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
                files.insert(name.to_owned(), FileEntry { bytes, sha256: sha256_file(&path)? });
                finish(&path).map_err(|error| Error::io(&path, error))?;
            }
        }
        let path = staging.join(DIGESTS);
        let digests = Digests { key: self.key.clone(), files };
        let json = serde_json::to_vec_pretty(&digests).expect("names are strings");
        fs::write(&path, json).and_then(|()| finish(&path)).map_err(|error| Error::io(&path, error))?;
        own::set_mode(staging, 0o755).map_err(|error| Error::io(staging, error))
    }
}

/// Those of a graph's files.
fn digests<'a>(bundle: &'a Bundle, variant: &'a Variant) -> Vec<&'a str> {
    bundle.graph_files(variant).map(|(_, entry)| entry.sha256.as_str()).collect()
}

/// Where what depends on all that `key` says lies in `cache`.
fn place(cache: &Path, key: &str) -> PathBuf {
    cache.join(&sha256(key.as_bytes())[..NAME_LENGTH])
}

/// Whether nobody else can exchange what lies in `cache`, which is made if it is not there.
fn is_kept(cache: &Path) -> bool {
    own::create_dir(cache).is_ok() && own::keeps_names(cache)
}

/// The folder in `cache` for TensorRT's engines of a bundle's graph, which ONNX Runtime names by the graph's operators, not by its
/// weights: it must not find those of another. `shapes` says for which batches they are built. None where it cannot be made, or others
/// can put engines into it.
pub(crate) fn engine_folder(cache: &Path, bundle: &Bundle, variant: &Variant, shapes: &str) -> Option<PathBuf> {
    let key = format!("{:?} {} {} {shapes}", digests(bundle, variant), variant.precision, ort::info());
    let folder = place(cache, &key);
    if !is_kept(cache) {
        return None;
    }
    remove_expired(cache);
    if own::create_dir(&folder).is_err() || !own::is_own(&folder) {
        return None;
    }
    let mark = folder.join(ENGINE_OF);
    match mark.exists() {
        true => own::touch(&mark),
        false => fs::write(&mark, key).ok()?,
    }
    Some(folder)
}

/// Removes entries, and what a killed process has left of one; nothing else that may lie in the folder.
fn remove_expired(cache: &Path) {
    own::remove_older(cache, NAME_LENGTH, MONTH, |entry| {
        // Before they had digests, the graph was marked.
        let marks = [DIGESTS, ENGINE_OF, GRAPH].map(|name| entry.join(name));
        marks.iter().find(|mark| mark.exists()).unwrap_or(&marks[0]).clone()
    });
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let is_partial = entry.file_name().to_string_lossy().starts_with(".graph.partial-");
        if is_partial && own::is_older(&entry.path(), DAY) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::bundle::Verify;

    #[test]
    fn an_entry_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { folder: folder.path().join("cache/name"), key: "key".to_owned() };
        let compile = |_: &Path, graph: &Path, _: &str| -> Result<()> {
            fs::write(graph, "half").unwrap();
            Err(Error::Tokenizer("stopped".to_owned()))
        };
        let failed = entry.create(compile, |_| Ok(()));
        assert!(failed.is_err() && !entry.is_there());
        assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 0);
        let write =
            |_: &Path, graph: &Path, _: &str| fs::write(graph, "whole").map_err(|error| Error::io(graph, error));
        let read = |graph: &Path| fs::read(graph).map_err(|error| Error::io(graph, error));
        assert_eq!(entry.create(write, read).unwrap(), b"whole");
        assert_eq!(read(&entry.graph()).unwrap(), b"whole");
        entry.verify(&Verifier::new(Verify::Always, None)).unwrap();
        // One that another process has made meanwhile stays, and nothing else is left.
        let second =
            |_: &Path, graph: &Path, _: &str| fs::write(graph, "second").map_err(|error| Error::io(graph, error));
        assert_eq!(entry.create(second, read).unwrap(), b"second");
        assert_eq!(read(&entry.graph()).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn an_entry_that_others_may_write_is_not_ones_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { folder: folder.path().join("name"), key: "key".to_owned() };
        let write =
            |_: &Path, graph: &Path, _: &str| fs::write(graph, "graph").map_err(|error| Error::io(graph, error));
        entry.create(write, |_| Ok(())).unwrap();
        assert!(entry.is_own());
        for path in [entry.graph(), entry.folder.clone()] {
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
            assert!(!entry.is_own(), "{}", path.display());
            fs::set_permissions(&path, before).unwrap();
        }
        fs::rename(entry.graph(), folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), entry.graph()).unwrap();
        assert!(!entry.is_own());
    }

    #[test]
    fn what_nobody_uses_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |name: &str| Entry { folder: folder.path().join(name), key: name.to_owned() };
        let (old, new) = ("0".repeat(NAME_LENGTH), "f".repeat(NAME_LENGTH));
        let write =
            |_: &Path, graph: &Path, _: &str| fs::write(graph, "graph").map_err(|error| Error::io(graph, error));
        // What a user has put there is not ours, however old.
        for name in [old.as_str(), "a-model"] {
            entry(name).create(write, |_| Ok(())).unwrap();
            let file = fs::File::open(entry(name).folder.join(DIGESTS)).unwrap();
            file.set_modified(SystemTime::now() - MONTH - Duration::from_secs(60)).unwrap();
        }
        entry(&new).create(write, |_| Ok(())).unwrap();
        assert!(!entry(&old).is_there() && entry(&new).is_there() && entry("a-model").is_there());
    }
}
