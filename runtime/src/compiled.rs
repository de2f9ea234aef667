//! Graphs in the form that ONNX Runtime made of them on this machine: optimized, and the weights in the order in which
//! the processor's instructions want them.
//!
//! Loaded so, a graph needs half of the time, and its weights are mapped from the file instead of copied: sessions and
//! processes share one copy, and the system may drop what is not used. The form belongs to one version of ONNX Runtime
//! and one set of processor instructions; both are part of its name, so that it is never looked at elsewhere.
//!
//! An entry is a folder, made beside its place and renamed, so that none is half-written. Entries that nobody has used
//! for a month are removed when another is made.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    bundle::{Bundle, Variant, create_hidden, sha256, sha256_file},
    error::{Error, Result},
};

/// The environment variable that names the folder.
pub const CACHE_VARIABLE: &str = "NIMBERT_CACHE";

/// Changes with the way in which graphs are compiled.
const FORMAT: u32 = 1;
const GRAPH: &str = "graph.onnx";
const DATA: &str = "graph.data";
/// Of an entry's name, hexadecimal digits.
const NAME_LENGTH: usize = 32;
/// Entries that were not used for so long are removed.
const EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// An entry that is used is marked at most so often.
const TOUCH: Duration = Duration::from_secs(24 * 3600);

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
    /// The files that it is made of, and their digests, by which it is named.
    sources: Vec<(PathBuf, String)>,
}

impl Entry {
    /// The entry in `cache` of a bundle's graph. ONNX Runtime must have been loaded: its version is part of the name.
    pub(crate) fn of(cache: &Path, bundle: &Bundle, variant: &Variant) -> Self {
        let digest = |name: &str| bundle.manifest.files.get(name).map_or("", |entry| entry.sha256.as_str());
        let names = [variant.file.clone(), variant.data_file()];
        let graph = names.each_ref().map(|name| digest(name));
        let name = sha256(format!("{FORMAT} {graph:?} {} {}", ort::info(), instructions()).as_bytes());
        let listed = names.iter().filter(|name| bundle.manifest.files.contains_key(*name));
        let sources = listed.map(|name| (bundle.path.join(name), digest(name).to_owned())).collect();
        Self { folder: cache.join(&name[..NAME_LENGTH]), sources }
    }

    /// Hashes the files that the entry is named by: what is compiled under a digest must have it, or every bundle with that
    /// digest would be answered by something else from then on.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`].
    pub(crate) fn verify_sources(&self) -> Result<()> {
        for (path, expected) in &self.sources {
            let got = sha256_file(path)?;
            if !got.eq_ignore_ascii_case(expected) {
                return Err(Error::Checksum { path: path.clone(), expected: expected.clone(), got });
            }
        }
        Ok(())
    }

    /// Whether nobody else can have written the entry: it is the user's own, and no other may write to it. Elsewhere than
    /// on Unix, the system's folder for caches is.
    pub(crate) fn is_own(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mine = |metadata: &fs::Metadata| metadata.mode() & 0o022 == 0 && metadata.uid() == geteuid();
            let files = [self.folder.clone(), self.graph(), self.folder.join(DATA)];
            let metadata = files.iter().map(fs::symlink_metadata).filter_map(std::result::Result::ok);
            metadata.fold(true, |all, metadata| all && !metadata.is_symlink() && mine(&metadata))
        }
        #[cfg(not(unix))]
        {
            true
        }
    }

    /// The graph's file.
    pub(crate) fn graph(&self) -> PathBuf {
        self.folder.join(GRAPH)
    }

    pub(crate) fn is_there(&self) -> bool {
        self.graph().exists()
    }

    /// Says that the entry is still used.
    pub(crate) fn touch(&self) {
        let age = fs::metadata(self.graph()).and_then(|metadata| metadata.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > TOUCH)) {
            // A cache that may not be written is used all the same.
            let _ = fs::File::options()
                .append(true)
                .open(self.graph())
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
    }

    pub(crate) fn remove(&self) {
        // If it stays, it is in the way of a new one only: the graph itself is loaded then.
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// Makes the entry: `compile` writes the graph, given its path and the name of the file for its large tensors.
    ///
    /// # Errors
    /// [`Error::Io`], and those of `compile`; nothing is left then.
    pub(crate) fn create<T>(&self, compile: impl FnOnce(&Path, &str) -> Result<T>) -> Result<()> {
        let cache = self.folder.parent().unwrap_or(&self.folder);
        fs::create_dir_all(cache).map_err(|error| Error::io(cache, error))?;
        remove_expired(cache);
        let staging = create_hidden(cache, "graph", "partial")?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Whatever the umask: an entry that others may write is not used.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&staging, mode).map_err(|error| Error::io(&staging, error))?;
        }
        let done = compile(&staging.join(GRAPH), DATA).and_then(|compiled| {
            drop(compiled);
            // On the disk before it is in its place: after a loss of power it must not be there with other content.
            for file in [GRAPH, DATA].map(|name| staging.join(name)).iter().filter(|file| file.exists()) {
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let mode = fs::Permissions::from_mode(0o644);
                    fs::set_permissions(file, mode).map_err(|error| Error::io(file, error))?;
                }
                let synced = fs::File::options().append(true).open(file).and_then(|file| file.sync_all());
                synced.map_err(|error| Error::io(file, error))?;
            }
            // Where another process was faster, its folder stays.
            fs::rename(&staging, &self.folder).map_err(|error| Error::io(&self.folder, error))
        });
        if done.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        if self.is_there() { Ok(()) } else { done }
    }
}

#[cfg(unix)]
// SAFETY: POSIX declares it so; it has no arguments and always succeeds.
unsafe extern "C" {
    /// The user whose files this process makes.
    safe fn geteuid() -> u32;
}

/// Removes entries, and what a killed process has left of one; nothing else that may lie in the folder.
fn remove_expired(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_entry = name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let used = match (is_entry, name.starts_with(".graph.partial-")) {
            (true, _) => entry.path().join(GRAPH),
            (_, true) => entry.path(),
            _ => continue,
        };
        let age = fs::metadata(used).and_then(|metadata| metadata.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > EXPIRY)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What the processor can do, which decides in what order ONNX Runtime wants weights.
fn instructions() -> String {
    // Linux lists all of them, those of matrix units too; the first processor's lines end with an empty one.
    let list = fs::File::open("/proc/cpuinfo").map(BufReader::new).map(|file| {
        let lines = file.lines().map_while(std::io::Result::ok).take_while(|line| !line.is_empty());
        let tells = |line: &String| ["flags", "Features", "CPU part"].iter().any(|key| line.starts_with(key));
        lines.filter(tells).collect::<Vec<_>>().join(" ")
    });
    format!("{} {}", std::env::consts::ARCH, list.unwrap_or_else(|_| detected().join(" ")))
}

/// The same where there is no such list, as far as the standard library tells.
fn detected() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let has = [
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has: [(&str, bool); 0] = [];
    has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { folder: folder.path().join("cache/name"), sources: Vec::new() };
        let failed = entry.create(|graph, _| -> Result<()> {
            fs::write(graph, "half").unwrap();
            Err(Error::Tokenizer("stopped".to_owned()))
        });
        assert!(failed.is_err() && !entry.is_there());
        assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 0);
        let write = |graph: &Path, _: &str| fs::write(graph, "whole").map_err(|error| Error::io(graph, error));
        entry.create(write).unwrap();
        assert_eq!(fs::read(entry.graph()).unwrap(), b"whole");
        // One that another process has made meanwhile stays, and nothing else is left.
        entry.create(|graph, _| fs::write(graph, "second").map_err(|error| Error::io(graph, error))).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn an_entry_that_others_may_write_is_not_ones_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { folder: folder.path().join("name"), sources: Vec::new() };
        let write = |graph: &Path, _: &str| fs::write(graph, "graph").map_err(|error| Error::io(graph, error));
        entry.create(write).unwrap();
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
        let entry = |name: &str| Entry { folder: folder.path().join(name), sources: Vec::new() };
        let (old, new) = ("0".repeat(NAME_LENGTH), "f".repeat(NAME_LENGTH));
        let write = |graph: &Path, _: &str| fs::write(graph, "graph").map_err(|error| Error::io(graph, error));
        // What a user has put there is not ours, however old.
        for name in [old.as_str(), "a-model"] {
            entry(name).create(write).unwrap();
            let file = fs::File::options().append(true).open(entry(name).graph()).unwrap();
            file.set_modified(SystemTime::now() - EXPIRY - Duration::from_secs(60)).unwrap();
        }
        entry(&new).create(write).unwrap();
        assert!(!entry(&old).is_there() && entry(&new).is_there() && entry("a-model").is_there());
    }
}
