//! Where a base model comes from: a folder, or a repository of the Hugging Face hub whose files are downloaded once and
//! kept in the hub's cache, which other programs share.
//!
//! hf-hub downloads and lays out the cache. What it lacks is here: all files of one commit, most of the hub's
//! environment variables, and an end to waiting (its connections have no read timeout, and none can be set).

use std::{
    env,
    error::Error as _,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{Api, ApiBuilder, ApiError},
    },
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    error::{Error, Result},
    model::{WEIGHTS, WEIGHTS_INDEX, shards},
};

/// What a base model is made of, besides its weights.
const FILES: [&str; 2] = ["config.json", "tokenizer.json"];
/// What is downloaded besides where it is there.
const SETTINGS: &str = "tokenizer_config.json";
/// Either of these keeps every program of the hub off the network.
const OFFLINE: [&str; 2] = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
/// How long the hub may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder of a base model: `base` itself, or the cached snapshot of the hub's repository `base` (`owner/name` or
/// `name`) at `revision` (a branch, tag or commit; `main` if none), where `config.json`, `tokenizer.json` and
/// `model.safetensors`, or its parts and their index, are downloaded if they are not there yet.
/// With `progress`, downloads draw a bar on standard error.
///
/// The environment is that of the hub's other programs: `HF_ENDPOINT`, `HF_HOME` (by default in `XDG_CACHE_HOME`),
/// `HF_HUB_CACHE`, `HF_TOKEN` (else the file `token` in `HF_HOME`), `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE`. If the
/// hub cannot be reached or refuses, a complete snapshot in the cache will do.
///
/// # Errors
/// [`Error::Setting`] if `base` is neither a folder nor a name, or the repository or one of its files can neither be
/// downloaded nor found in the cache, or a folder has a revision; [`Error::Io`] if the cache cannot be written.
pub fn resolve(base: &str, revision: Option<&str>, progress: bool) -> Result<PathBuf> {
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
            let cache = hub.cache.path().display();
            let expected =
                format!("a folder, or {base} (revision {revision}) in the cache {cache}, as {variable} is set");
            Error::setting("--base", expected, format!("no folder, and no {file} in the cache"))
        });
    }
    hub.watch(progress).or_else(|error| hub.cached().map_err(|_| error))
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
#[derive(Clone)]
struct Hub {
    api: Api,
    cache: Cache,
    repo: Repo,
}

/// What a download tells while it goes on.
enum Event {
    File(String),
    Size(usize),
    Read(usize),
    End(Result<PathBuf>),
}

/// Passes hf-hub's reports on. Nobody may be listening any more: that is not the download's concern.
struct Reports(Sender<Event>);

impl Progress for Reports {
    fn init(&mut self, size: usize, _: &str) {
        let _ = self.0.send(Event::Size(size));
    }

    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Read(size));
    }

    fn finish(&mut self) {}
}

impl Hub {
    fn from_env(name: &str, revision: &str) -> Result<Self> {
        let folder = |name| variable(name).map(PathBuf::from);
        let caches = folder("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
        let home = folder("HF_HOME")
            .or_else(|| caches.map(|caches| caches.join("huggingface")))
            .ok_or_else(|| Error::setting("HF_HOME", "a folder for downloads", "none, and no home folder"))?;
        let cache = Cache::new(folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")));
        let token = variable("HF_TOKEN").map(|token| token.to_string_lossy().into_owned());
        let token = token.or_else(|| fs::read_to_string(home.join("token")).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.iter().any(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::setting("HF_TOKEN", "a token of visible ASCII characters", "other characters"));
        }
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_token(token);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.to_string_lossy().trim_end_matches('/').to_owned());
        }
        let repo = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        let api = builder.build().map_err(|error| Error::setting("--base", "a client for the hub", error))?;
        Ok(Self { api, cache, repo })
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.path().join(self.repo.folder_name()).join("snapshots").join(commit)
    }

    /// The revision's snapshot in the cache, or the first file that it lacks.
    fn cached(&self) -> std::result::Result<PathBuf, String> {
        let reference = self.cache.path().join(self.repo.folder_name()).join("refs").join(self.repo.revision());
        // A commit has no reference.
        let commit = fs::read_to_string(reference).unwrap_or_else(|_| self.repo.revision().to_owned());
        let snapshot = self.snapshot(commit.trim());
        let is_missing = |file: &String| !snapshot.join(file).is_file();
        let mut files: Vec<String> = FILES.map(str::to_owned).to_vec();
        match is_missing(&WEIGHTS.to_owned()) {
            true if !is_missing(&WEIGHTS_INDEX.to_owned()) => files.extend(shards_of(&snapshot).unwrap_or_default()),
            _ => files.push(WEIGHTS.to_owned()),
        }
        files.into_iter().find(is_missing).map_or(Ok(snapshot), Err)
    }

    /// Downloads on a thread of its own, which is left behind if the hub is silent for too long.
    fn watch(&self, progress: bool) -> Result<PathBuf> {
        let (sender, events) = mpsc::channel();
        let hub = self.clone();
        thread::spawn(move || {
            let result = hub.download(&sender);
            let _ = sender.send(Event::End(result));
        });
        let bar = if progress { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let template = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        let mut current = WEIGHTS.to_owned();
        let result = loop {
            match events.recv_timeout(PATIENCE) {
                Ok(Event::File(file)) => current = file,
                Ok(Event::Size(size)) => {
                    bar.set_length(size as u64);
                    bar.set_position(0);
                    bar.set_message(current.clone());
                }
                Ok(Event::Read(size)) => bar.inc(size as u64),
                Ok(Event::End(result)) => break result,
                Err(RecvTimeoutError::Timeout) => {
                    break Err(self.error(&current, &format!("silence for {} s", PATIENCE.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => break Err(self.error(&current, "an answer that breaks hf-hub")),
            }
        };
        bar.finish_and_clear();
        result
    }

    fn download(&self, events: &Sender<Event>) -> Result<PathBuf> {
        let info = self.api.repo(self.repo.clone()).info().map_err(|error| self.error(WEIGHTS, &reason(error)))?;
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
        // By commit, not by branch: all files are of one commit, even if another is pushed in between.
        let repo = self.api.repo(Repo::with_revision(self.repo.url(), RepoType::Model, info.sha.clone()));
        let snapshot = self.snapshot(&info.sha);
        fs::create_dir_all(&snapshot).map_err(|error| Error::io(&snapshot, error))?;
        let settings = names.contains(&SETTINGS).then_some(SETTINGS);
        let fetch = |file: &str| {
            if snapshot.join(file).is_file() {
                return Ok(());
            }
            let _ = events.send(Event::File(file.to_owned()));
            let result = repo.download_with_progress(file, Reports(events.clone()));
            result.map(|_| ()).map_err(|error| self.error(file, &reason(error)))
        };
        for file in FILES.into_iter().chain([weights]).chain(settings) {
            fetch(file)?;
        }
        if weights == WEIGHTS_INDEX {
            for shard in shards_of(&snapshot)? {
                expect(&shard)?;
                fetch(&shard)?;
            }
        }
        if self.cached().ok() != Some(snapshot) {
            let references = self.cache.repo(self.repo.clone());
            references.create_ref(&info.sha).map_err(|error| Error::io(self.cache.path(), error))?;
        }
        self.cached().map_err(|file| self.error(&file, "none in the snapshot"))
    }

    fn error(&self, file: &str, got: &str) -> Error {
        let url = self.api.model(self.repo.url()).url("");
        let url = url.trim_end_matches("/resolve/main/");
        let revision = self.repo.revision();
        let expected = format!("a folder, or a repository with {file} at {url} (revision {revision})");
        Error::setting("--base", expected, format!("no folder, and {got}"))
    }
}

/// The names of the files that the index of a snapshot's weights names.
fn shards_of(snapshot: &Path) -> Result<Vec<String>> {
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(shards(&snapshot.join(WEIGHTS_INDEX))?.into_iter().map(name).collect())
}

/// What happened, without the address: that of a redirected download is long, and signed.
fn reason(error: ApiError) -> String {
    match error {
        ApiError::RequestError(error) => {
            let kind = error.kind().to_string();
            let text = error.source().map_or(kind.clone(), |source| format!("{kind}: {source}"));
            match error.into_response().map(|response| response.status()) {
                Some(status @ (401 | 403)) => {
                    format!("status {status}: no such repository, or one that HF_TOKEN gives no access to")
                }
                Some(status) => format!("status {status}"),
                None => text,
            }
        }
        ApiError::IoError(error) => error.to_string(),
        ApiError::LockAcquisition(path) => format!("{} locked by another process", path.display()),
        error => error.to_string(),
    }
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
        assert_eq!(resolve(&path(""), None, false).unwrap(), dir.path());
        fs::write(path("file"), "").unwrap();
        for name in ["file", "none"] {
            let error = resolve(&path(name), None, false).unwrap_err().to_string();
            assert!(error.contains("--base: expected a folder, or a hub name") && error.contains(name), "{error}");
        }
        let error = resolve("acme/tiny-bert", Some("a?b"), false).unwrap_err().to_string();
        assert!(error.contains("--revision: expected a branch, tag or commit, found \"a?b\""), "{error}");
        let error = resolve(".", Some("main"), false).unwrap_err().to_string();
        assert_eq!(error, "--revision: expected a model on the hub as --base, found the folder .");
    }
}
