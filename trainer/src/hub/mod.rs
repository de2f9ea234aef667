//! Where a base model comes from: a folder, or a repository of the Hugging Face hub whose files are downloaded once and
//! kept in the hub's cache, which other programs share.
//!
//! The crate hf-hub is not used: its versions of the 0.4 line send the token wherever the hub sends on to, compare neither size nor
//! SHA-256 of what they have downloaded, and wait without end; those from 1.0 on bring some 280 crates, an asynchronous runtime and a
//! second TLS library among them.

mod client;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use self::client::{Client, Fault};
use crate::{
    error::{Error, Result},
    model::{WEIGHTS, WEIGHTS_INDEX, shards},
    scratch::{remove_if_there, write_whole},
};

/// What a base model is made of, besides its weights.
const FILES: [&str; 2] = ["config.json", "tokenizer.json"];
/// What is downloaded besides where it is there.
const SETTINGS: &str = "tokenizer_config.json";
/// Either of these keeps every program of the hub off the network.
const OFFLINE: [&str; 2] = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// How many seconds a connection to the hub may take, and be silent, unless the environment says otherwise. (How long it takes to find an
/// address is the system's concern.)
const PATIENCE: u64 = 30;
/// What says otherwise, as it does to the hub's other programs.
const PATIENCE_VARIABLE: &str = "HF_HUB_DOWNLOAD_TIMEOUT";
/// How often it is looked whether another program has ended its download.
const TURN: Duration = Duration::from_millis(200);

/// The folder of a base model: `base` itself, or the cached snapshot of the hub's repository `base` (`owner/name` or
/// `name`) at `revision` (a branch, tag or commit; `main` if none), where `config.json`, `tokenizer.json` and
/// `model.safetensors`, or its parts and their index, are downloaded if they are not there yet.
/// With `progress`, downloads draw a bar on standard error.
///
/// The environment is that of the hub's other programs: `HF_ENDPOINT`, `HF_HOME` (by default in `XDG_CACHE_HOME`),
/// `HF_HUB_CACHE`, `HF_TOKEN` (else the file `token` in `HF_HOME`), `HF_HUB_DOWNLOAD_TIMEOUT` (30 seconds if none), `HF_HUB_OFFLINE`
/// and `TRANSFORMERS_OFFLINE`. If the hub cannot be reached or refuses, a complete snapshot in the cache will do, which `warn` is told.
///
/// # Errors
/// [`Error::Setting`] if `base` is neither a folder nor a name, or the repository or one of its files can neither be
/// downloaded nor found in the cache, or a folder has a revision; [`Error::Io`] if the cache cannot be written.
pub fn resolve(base: &str, revision: Option<&str>, progress: bool, warn: impl FnOnce(&str)) -> Result<PathBuf> {
    let path = Path::new(base);
    if path.is_dir() {
        return match revision {
            None => Ok(path.to_owned()),
            Some(_) => Err(Error::setting("--revision", "a model on the hub as --base", format!("the folder {base}"))),
        };
    }
    if path.exists() || !is_hub_name(base) {
        let expected = "a folder, or a hub name such as sentence-transformers/all-MiniLM-L6-v2";
        return Err(Error::setting("--base", expected, format!("{base:?}")));
    }
    let revision = revision.unwrap_or("main");
    if !revision.split('/').all(is_name) {
        return Err(Error::setting("--revision", "a branch, tag or commit", format!("{revision:?}")));
    }
    let hub = Hub::from_env(base, revision)?;
    if let Some(variable) = OFFLINE.into_iter().find(|variable| is_on(variable)) {
        return hub.cached().map_err(|file| {
            let cache = hub.cache.display();
            let expected =
                format!("a folder, or {base} (revision {revision}) in the cache {cache}, as {variable} is set");
            Error::setting("--base", expected, format!("no folder, and no {file} in the cache"))
        });
    }
    hub.download(progress).or_else(|error| match hub.cached() {
        Ok(snapshot) => {
            warn(&format!("{error}; what was downloaded before is taken"));
            Ok(snapshot)
        }
        Err(_) => Err(error),
    })
}

/// `owner/name` or `name`; everything else that is no folder was meant as a path.
fn is_hub_name(base: &str) -> bool {
    base.split('/').count() <= 2 && base.split('/').all(is_name)
}

fn is_name(part: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_allowed)
}

/// An environment variable; an empty one counts as none.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn is_on(name: &str) -> bool {
    let value = variable(name).unwrap_or_default().to_string_lossy().to_lowercase();
    ["1", "on", "true", "yes"].contains(&value.as_str())
}

/// One repository at one revision.
struct Hub<'a> {
    client: Client,
    cache: PathBuf,
    name: &'a str,
    revision: &'a str,
}

/// What a hub says of a revision.
#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// How long the hub is waited for.
fn patience() -> Result<Duration> {
    let Some(given) = variable(PATIENCE_VARIABLE) else { return Ok(Duration::from_secs(PATIENCE)) };
    let seconds = given.to_str().and_then(|given| given.parse().ok()).filter(|seconds| (1..=86_400).contains(seconds));
    let expected = "a number of seconds from 1 to 86400";
    seconds.map(Duration::from_secs).ok_or_else(|| Error::setting(PATIENCE_VARIABLE, expected, given.display()))
}

impl<'a> Hub<'a> {
    fn from_env(name: &'a str, revision: &'a str) -> Result<Self> {
        let folder = |name| variable(name).map(PathBuf::from);
        let caches = folder("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
        let home = folder("HF_HOME")
            .or_else(|| caches.map(|caches| caches.join("huggingface")))
            .ok_or_else(|| Error::setting("HF_HOME", "a folder for downloads", "none, and no home folder"))?;
        let cache = folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let token = variable("HF_TOKEN").map(|token| token.to_string_lossy().into_owned());
        let token = token.or_else(|| fs::read_to_string(home.join("token")).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.iter().any(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::setting("HF_TOKEN", "a token of visible ASCII characters", "other characters"));
        }
        let endpoint = variable("HF_ENDPOINT").map(|endpoint| endpoint.to_string_lossy().into_owned());
        let client = Client::new(endpoint.as_deref().unwrap_or(ENDPOINT), token, patience()?)?;
        Ok(Self { client, cache, name, revision })
    }

    /// The repository's folder in the cache.
    fn folder(&self) -> PathBuf {
        self.cache.join(format!("models--{}", self.name.replace('/', "--")))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The file that says which commit the revision is.
    fn reference(&self) -> PathBuf {
        self.folder().join("refs").join(self.revision)
    }

    /// The revision's snapshot in the cache, or the first file that it lacks.
    fn cached(&self) -> std::result::Result<PathBuf, String> {
        // A commit has no reference.
        let commit = fs::read_to_string(self.reference()).unwrap_or_else(|_| self.revision.to_owned());
        let snapshot = self.snapshot(commit.trim());
        let is_missing = |file: &String| !snapshot.join(file).is_file();
        let mut files: Vec<String> = FILES.map(str::to_owned).to_vec();
        match is_missing(&WEIGHTS.to_owned()) {
            true if !is_missing(&WEIGHTS_INDEX.to_owned()) => {
                files.extend(shards_of(&snapshot).map_err(|_| WEIGHTS_INDEX.to_owned())?);
            }
            _ => files.push(WEIGHTS.to_owned()),
        }
        files.into_iter().find(is_missing).map_or(Ok(snapshot), Err)
    }

    fn info(&self) -> Result<Info> {
        let path = format!("api/models/{}/revision/{}", self.name, self.revision.replace('/', "%2F"));
        let info = self.client.json(&path).and_then(|info| {
            Info::deserialize(info).map_err(|error| Fault::Hub(format!("an answer that says no commit: {error}")))
        });
        let info = info.map_err(|fault| self.fault(WEIGHTS, fault))?;
        match is_name(&info.sha) {
            true => Ok(info),
            false => Err(self.error(WEIGHTS, "an answer that says no commit")),
        }
    }

    fn download(&self, progress: bool) -> Result<PathBuf> {
        let info = self.info()?;
        let names: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let expect = |file: &str| {
            let top: Vec<&str> =
                names.iter().copied().filter(|name| !name.starts_with('.') && !name.contains('/')).collect();
            match names.contains(&file) {
                true => Ok(()),
                false => Err(self.error(file, &format!("only {} there", top.join(", ")))),
            }
        };
        // Large models have their weights in several files.
        let weights = if names.contains(&WEIGHTS_INDEX) && !names.contains(&WEIGHTS) { WEIGHTS_INDEX } else { WEIGHTS };
        for file in FILES.into_iter().chain([weights]) {
            expect(file)?;
        }
        let settings = names.contains(&SETTINGS).then_some(SETTINGS);
        for file in FILES.into_iter().chain([weights]).chain(settings) {
            self.fetch(&info.sha, file, progress)?;
        }
        let snapshot = self.snapshot(&info.sha);
        if weights == WEIGHTS_INDEX {
            for shard in shards_of(&snapshot)? {
                expect(&shard)?;
                self.fetch(&info.sha, &shard, progress)?;
            }
        }
        if self.cached().ok() != Some(snapshot) {
            let reference = self.reference();
            let folder = reference.parent().expect("it lies in a folder");
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
            write_whole(&reference, |partial| {
                fs::write(partial, &info.sha).map_err(|error| Error::io(&reference, error))
            })?;
        }
        self.cached().map_err(|file| self.error(&file, "none in the snapshot"))
    }

    /// Has a file in the snapshot of a commit: by that, not by the branch, so that all files are of one, even if another is pushed in
    /// between.
    fn fetch(&self, commit: &str, file: &str, progress: bool) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(());
        }
        let path = format!("{}/resolve/{commit}/{file}", self.name);
        let content = self.client.content(&path).map_err(|fault| self.fault(file, fault))?;
        let blobs = self.folder().join("blobs");
        for folder in [&blobs, &self.snapshot(commit)] {
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        }
        let bar = if progress { ProgressBar::new(content.size) } else { ProgressBar::hidden() };
        let template = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        let blob = blobs.join(&content.name);
        // Programs with the crate hf-hub have locks of that name too.
        let lock_path = blob.with_extension("lock");
        let _lock = lock(&lock_path, || bar.set_message(format!("another program downloads {file}")))?;
        if pointer.is_file() {
            return Ok(());
        }
        bar.set_message(file.to_owned());
        let is_new = !blob.metadata().is_ok_and(|metadata| metadata.len() == content.size);
        if is_new {
            let partial = blob.with_extension("part");
            let downloaded = self.client.download(&path, &content, &partial, |bytes| bar.set_position(bytes));
            downloaded.map_err(|fault| self.fault(file, fault))?;
            fs::rename(&partial, &blob).map_err(|error| Error::io(&blob, error))?;
        }
        bar.finish_and_clear();
        point(&pointer, &blob, is_new)
    }

    fn fault(&self, file: &str, fault: Fault) -> Error {
        match fault {
            Fault::Hub(got) => self.error(file, &got),
            Fault::Local(error) => error,
        }
    }

    fn error(&self, file: &str, got: &str) -> Error {
        let (url, revision) = (self.client.shown(self.name), self.revision);
        let expected = format!("a folder, or a repository with {file} at {url} (revision {revision})");
        Error::setting("--base", expected, format!("no folder, and {got}"))
    }
}

/// Waits until no other program has a lock; `on_wait` is called if one has.
fn lock(path: &Path, on_wait: impl FnOnce()) -> Result<File> {
    let file = File::create(path).map_err(|error| Error::io(path, error))?;
    let mut on_wait = Some(on_wait);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if let Some(on_wait) = on_wait.take() {
                    on_wait();
                }
                thread::sleep(TURN);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path, error)),
        }
    }
}

/// Puts a content into a snapshot, in place of a link that leads nowhere; one that is new may lie there itself.
fn point(pointer: &Path, blob: &Path, is_new: bool) -> Result<()> {
    let failed = |reason| Error::io(pointer, reason);
    remove_if_there(pointer).map_err(failed)?;
    // By its parts: Windows takes none for a separator but its own.
    let target: PathBuf = ["..", "..", "blobs"].iter().map(OsStr::new).chain(blob.file_name()).collect();
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(target, pointer);
    match linked {
        Ok(()) => Ok(()),
        // Not everybody on Windows may make links.
        Err(_) if is_new => fs::rename(blob, pointer).map_err(failed),
        // Other snapshots may lead to it.
        Err(_) => write_whole(pointer, |partial| fs::copy(blob, partial).map(drop).map_err(failed)),
    }
}

/// The names of the files that the index of a snapshot's weights names: of the characters that names on a hub have, since they become
/// parts of addresses, and are printed.
fn shards_of(snapshot: &Path) -> Result<Vec<String>> {
    let index = snapshot.join(WEIGHTS_INDEX);
    let name = |path: PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| is_name(name));
        name.ok_or_else(|| {
            Error::model(&index, "names of files such as model-00001-of-00002.safetensors", "another one")
        })
    };
    shards(&index)?.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        for name in ["bert-base-uncased", "acme/tiny-bert", "sentence-transformers/all-MiniLM-L6-v2", "a_b/c.d"] {
            assert!(is_hub_name(name), "{name}");
        }
        for path in
            ["", ".", "..", "./bert", "../bert", "/bert", "~/bert", "bert/", "a/b/c", "a//b", "a\\b", "C:b", "a b"]
        {
            assert!(!is_hub_name(path), "{path}");
        }
    }

    #[test]
    fn a_folder_is_itself_and_another_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let resolve = |base: &str, revision| resolve(base, revision, false, |warning| panic!("{warning}"));
        assert_eq!(resolve(&path(""), None).unwrap(), dir.path());
        fs::write(path("file"), "").unwrap();
        for name in ["file", "none"] {
            let error = resolve(&path(name), None).unwrap_err().to_string();
            assert!(error.contains("--base: expected a folder, or a hub name") && error.contains(name), "{error}");
        }
        let error = resolve("acme/tiny-bert", Some("a?b")).unwrap_err().to_string();
        assert!(error.contains("--revision: expected a branch, tag or commit, found \"a?b\""), "{error}");
        let error = resolve(".", Some("main")).unwrap_err().to_string();
        assert_eq!(error, "--revision: expected a model on the hub as --base, found the folder .");
    }
}
