//! `nimbert-train fit --base` with a name on the Hugging Face hub. The hub is a thread of the test, the cache lies in a
//! temporary folder.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nimbert_tests::{Dir, Finished, finish, fit, small_csv, workspace};
use serde_json::json;

use crate::real_files::divide_weights;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client has asked for.
struct Request {
    path: String,
    authorization: Option<String>,
}

/// A hub with the repository `acme/tiny-bert`, until it is dropped.
struct Hub {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    is_closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::of(workspace("tests/data/tiny-bert"))
    }
}

/// How a hub hands out weights.
#[derive(Debug, Clone, Default)]
struct Manner {
    /// It sends on to another host.
    elsewhere: Option<SocketAddr>,
    /// It ends in the middle without a word, as a proxy does.
    ends_early: bool,
    /// It sends all, whatever part was asked for.
    ignores_ranges: bool,
    /// Another one answers in its place when the content is asked for.
    is_replaced: bool,
    /// What tells the content from others, if not its length.
    etag: Option<String>,
}

impl Hub {
    /// The repository has the files of `folder`.
    fn of(folder: PathBuf) -> Self {
        Self::with(folder, Manner::default())
    }

    fn with(folder: PathBuf, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, is_closed) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (log, end) = (requests.clone(), is_closed.clone());
        let serve = move || {
            for stream in listener.incoming().take_while(|_| !end.load(Ordering::Relaxed)) {
                log.lock().unwrap().extend(answer(&stream.unwrap(), &folder, &manner));
            }
        };
        Self { address, requests, is_closed, thread: Some(thread::spawn(serve)) }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // The server waits for a connection.
        drop(TcpStream::connect(self.address));
        self.thread.take().map(JoinHandle::join);
    }
}

impl Hub {
    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked for since the last call.
    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// Reads one request, answers it and closes the connection; none if the client says nothing.
fn answer(mut stream: &TcpStream, folder: &Path, manner: &Manner) -> Option<Request> {
    let head: Vec<String> =
        BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let path = head.first()?.split(' ').nth(1)?.to_owned();
    let header = |name: &str| {
        let fields = head.iter().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let (status, body) = content(&path, folder);
    let manner = if path.ends_with(".safetensors") { manner.clone() } else { Manner::default() };
    let etag = manner.etag.unwrap_or_else(|| format!("{:x}", body.len()));
    let mut fields = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
    let (status, part) = match header("Range") {
        Some(range) if manner.is_replaced && range != "bytes=0-0" => {
            fields = "ETag: \"page\"\r\n".to_owned();
            (200, &b"<html>Log in</html>"[..])
        }
        _ if let Some(address) = manner.elsewhere => {
            fields += &format!("Location: http://{address}{path}\r\n");
            (302, &[][..])
        }
        Some(range) if status == 200 && !(manner.ignores_ranges && range != "bytes=0-0") => {
            // `bytes=first-last`, both included; without the last one up to the end.
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, end) = (first.parse().unwrap(), last.parse().map_or(body.len(), |last: usize| last + 1));
            fields += &format!("Accept-Ranges: bytes\r\nContent-Range: bytes {first}-{}/{}\r\n", end - 1, body.len());
            (206, &body[first..end])
        }
        _ => (status, &body[..]),
    };
    let is_cut = manner.ends_early && part.len() > 1;
    let part = if is_cut { &part[..part.len() / 2] } else { part };
    let length = if is_cut { String::new() } else { format!("Content-Length: {}\r\n", part.len()) };
    let head = format!("HTTP/1.1 {status} -\r\n{fields}{length}Connection: close\r\n\r\n");
    // A client may close the connection when it has seen enough.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(part));
    Some(Request { authorization: header("Authorization"), path })
}

/// Status and body for a path.
fn content(path: &str, folder: &Path) -> (u16, Vec<u8>) {
    let info = |files: &[&str]| {
        let siblings: Vec<_> = files.iter().map(|file| json!({ "rfilename": file })).collect();
        (200, json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
    };
    let api = path.strip_prefix("/api/models/").and_then(|path| path.strip_suffix("/revision/main"));
    let file = path.strip_prefix(&format!("/acme/tiny-bert/resolve/{COMMIT}/"));
    match (api, file) {
        (Some("acme/tiny-bert"), _) => {
            let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let names: Vec<String> = names.collect();
            info(&names.iter().map(String::as_str).chain(["README.md"]).collect::<Vec<_>>())
        }
        (Some("acme/old-bert"), _) => info(&["config.json", "tokenizer.json", "pytorch_model.bin"]),
        (Some("acme/private-bert"), _) => (401, Vec::new()),
        (_, Some(file)) => (200, fs::read(folder.join(file)).unwrap()),
        _ => (404, b"Repository not found".to_vec()),
    }
}

/// A folder with data to fit.
fn dir_with_data() -> Dir {
    let dir = Dir::default();
    dir.write("data.csv", small_csv(40));
    dir
}

/// One epoch from a base on the hub, with a cache in the folder, and nothing of the user's own environment.
fn fit_hub(base: &str, dir: &Dir, endpoint: &str) -> Command {
    let mut command = fit(Path::new(base), &dir.path("data.csv"), &dir.path("bundle"));
    command.args(["--epochs", "1", "--overwrite"]).env("HF_ENDPOINT", endpoint).env("HF_HOME", dir.path("hf"));
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"] {
        command.env_remove(name);
    }
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

fn fit_missing(base: &str, dir: &Dir, endpoint: &str) -> Finished {
    let finished = finish(&mut fit_hub(base, dir, endpoint));
    assert_eq!(dir.names(), ["data.csv"], "something was left behind");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    finished
}

/// What is in the cache does where the hub cannot be reached, with a word.
fn succeeds_without_the_hub(dir: &Dir, endpoint: &str) {
    let finished = finish(&mut fit_hub("acme/tiny-bert", dir, endpoint));
    assert_eq!((finished.status, finished.stderr.lines().count()), (Some(0), 1), "{finished:?}");
    assert!(
        ["Connection Failed", "downloaded before"].iter().all(|part| finished.stderr.contains(part)),
        "{finished:?}"
    );
}

#[test]
fn a_model_is_downloaded_once_and_then_needs_no_hub() {
    let (dir, hub) = (dir_with_data(), Hub::default());
    let endpoint = hub.endpoint();
    finish(fit_hub("acme/tiny-bert", &dir, &endpoint).env("HF_TOKEN", "secret")).success();
    let requests = hub.requests();
    // A file is asked for twice: for its size, and for its content.
    assert_eq!(requests.len(), 1 + 2 * 3);
    for request in &requests {
        assert_eq!(request.authorization.as_deref(), Some("Bearer secret"), "{}", request.path);
    }

    // The hub is asked for the branch's commit, and no more.
    finish(&mut fit_hub("acme/tiny-bert", &dir, &endpoint)).success();
    let [request] = &hub.requests()[..] else { panic!("one request") };
    assert_eq!((&*request.path, &request.authorization), ("/api/models/acme/tiny-bert/revision/main", &None));

    drop(hub);
    succeeds_without_the_hub(&dir, &endpoint);
    finish(fit_hub("acme/tiny-bert", &dir, &endpoint).env("HF_HUB_OFFLINE", "1")).success();
    let mut elsewhere = fit_hub("acme/tiny-bert", &dir, &endpoint);
    elsewhere
        .env("TRANSFORMERS_OFFLINE", "1")
        .env("HF_HOME", dir.path("empty"))
        .env("HF_HUB_CACHE", dir.path("hf/hub"));
    finish(&mut elsewhere).success();
}

#[test]
fn weights_in_several_files_are_downloaded_with_their_index() {
    let (dir, repository) = (dir_with_data(), Dir::default());
    let folder = repository.tiny_bert(|_| ());
    divide_weights(&folder);
    let hub = Hub::of(folder.clone());
    let endpoint = hub.endpoint();
    finish(&mut fit_hub("acme/tiny-bert", &dir, &endpoint)).success();
    let asked_for = |requests: &[Request], name: &str| requests.iter().any(|request| request.path.ends_with(name));
    let requests = hub.requests();
    for name in ["index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        assert!(asked_for(&requests, name), "{name}");
    }

    // A download that was stopped is gone on with; what is there stays.
    let part = "model-00002-of-00002.safetensors";
    let snapshot = dir.path("hf/hub/models--acme--tiny-bert/snapshots").join(COMMIT);
    fs::remove_file(snapshot.join(part)).unwrap();
    fs::remove_file(fs::canonicalize(snapshot.join("model-00001-of-00002.safetensors")).unwrap()).unwrap();
    let offline = finish(fit_hub("acme/tiny-bert", &dir, &endpoint).env("HF_HUB_OFFLINE", "1"));
    offline.failure(2, &["no model-00001-of-00002.safetensors"]);
    finish(&mut fit_hub("acme/tiny-bert", &dir, &endpoint)).success();
    drop(hub);
    succeeds_without_the_hub(&dir, &endpoint);

    // An index that names what the repository lacks.
    fs::remove_file(folder.join(part)).unwrap();
    let (dir, hub) = (dir_with_data(), Hub::of(folder));
    finish(&mut fit_hub("acme/tiny-bert", &dir, &hub.endpoint())).failure(2, &[part, "only"]);
}

/// The weights of the repository, what they are called by their digest, and their place in a cache then.
fn weights(dir: &Dir) -> (Vec<u8>, Option<String>, PathBuf) {
    let weights = fs::read(workspace("tests/data/tiny-bert/model.safetensors")).unwrap();
    let digest = nimbert::sha256(&weights);
    let blob = dir.path("hf/hub/models--acme--tiny-bert/blobs").join(&digest);
    (weights, Some(digest), blob)
}

#[test]
fn a_token_is_for_the_hub_alone() {
    let folder = workspace("tests/data/tiny-bert");
    // Where the content lies it may be called otherwise than by its digest, which the hub says.
    let (dir, storage) = (dir_with_data(), Hub::of(folder.clone()));
    let (_, etag, blob) = weights(&dir);
    let manner = Manner { elsewhere: Some(storage.address), etag, ..Manner::default() };
    let hub = Hub::with(folder, manner);
    finish(fit_hub("acme/tiny-bert", &dir, &hub.endpoint()).env("HF_TOKEN", "secret")).success();
    let elsewhere = storage.requests();
    assert_eq!(elsewhere.len(), 2);
    assert!(elsewhere.iter().all(|request| request.authorization.is_none()), "the token was sent on");
    assert!(hub.requests().iter().all(|request| request.authorization.is_some()));
    assert!(blob.is_file());
}

#[test]
fn what_is_not_whole_is_no_model_and_is_gone_on_with() {
    let dir = dir_with_data();
    let (content, etag, blob) = weights(&dir);
    let hub = |manner: Manner| Hub::with(workspace("tests/data/tiny-bert"), manner);
    let run = |hub: &Hub| finish(&mut fit_hub("acme/tiny-bert", &dir, &hub.endpoint()));
    let (size, part) = (content.len(), blob.with_extension("part"));
    // A connection that ends early is an error of that run alone; what it has brought is of use if it can be known to fit.
    let message = format!("{} of {size} bytes", size / 2);
    let early = |etag| hub(Manner { ends_early: true, etag, ..Manner::default() });
    run(&early(None)).failure(2, &["--base", "model.safetensors", &message]);
    run(&early(None)).failure(2, &[&message]);
    run(&early(etag.clone())).failure(2, &["--base", "model.safetensors", &message]);
    assert!(!blob.exists() && part.metadata().unwrap().len() == (size / 2) as u64);
    run(&hub(Manner { etag: etag.clone(), ..Manner::default() })).success();
    assert!(fs::read(&blob).unwrap() == content, "another file than the repository's");

    // Who sends all of it again is not put behind what is there; and what is whole needs only its name.
    for (there, requests) in
        [(&content[..1000], 1 + 2), (&content[..], 1 + 1), (&[&content[..], b"more"].concat()[..], 1 + 2)]
    {
        fs::remove_file(&blob).unwrap();
        fs::write(&part, there).unwrap();
        let hub = hub(Manner { ignores_ranges: true, etag: etag.clone(), ..Manner::default() });
        run(&hub).success();
        assert_eq!(hub.requests().len(), requests, "{} bytes", there.len());
        assert!(fs::read(&blob).unwrap() == content, "another file than the repository's");
    }

    // What a proxy answers in place of the hub is nothing of the file.
    fs::remove_file(&blob).unwrap();
    run(&hub(Manner { is_replaced: true, etag: etag.clone(), ..Manner::default() }))
        .failure(2, &["another answer than before"]);
    run(&hub(Manner { etag, ..Manner::default() })).success();
}

#[test]
fn a_silent_hub_is_not_waited_for_without_end() {
    let (dir, listener) = (dir_with_data(), TcpListener::bind("127.0.0.1:0").unwrap());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        // A connection that stays open is used again, or not: to the second request nobody answers.
        let names = json!({ "sha": COMMIT, "siblings": [{ "rfilename": "config.json" }, { "rfilename": "tokenizer.json" },
            { "rfilename": "model.safetensors" }] });
        let (mut open, body) = (Vec::new(), names.to_string());
        for (turn, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            if turn == 0 {
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                assert!(lines.take_while(|line| !line.is_empty()).count() > 0);
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
            open.push(stream);
        }
    });
    let began = std::time::Instant::now();
    let asked = |patience: &str| {
        let mut fit = fit_hub("acme/tiny-bert", &dir, &endpoint);
        finish(fit.env("HF_HUB_DOWNLOAD_TIMEOUT", patience))
    };
    asked("1").failure(2, &["config.json", "timed out"]);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    asked("soon").failure(2, &["HF_HUB_DOWNLOAD_TIMEOUT: expected a number of seconds", "found soon"]);
}

#[test]
fn another_content_than_the_hub_names_is_refused() {
    let folder = workspace("tests/data/tiny-bert");
    for (etag, fault) in [
        (nimbert::sha256(b"something else"), Some("model.safetensors")),
        (nimbert::sha256(&fs::read(folder.join("model.safetensors")).unwrap()), None),
        ("../../escaped".to_owned(), Some("ETag")),
    ] {
        let dir = dir_with_data();
        let hub = Hub::with(folder.clone(), Manner { etag: Some(etag.clone()), ..Manner::default() });
        let finished = finish(&mut fit_hub("acme/tiny-bert", &dir, &hub.endpoint()));
        match fault {
            None => _ = finished.success(),
            Some(fault) => finished.failure(2, &["--base", fault]),
        }
        assert_eq!(dir.path("hf/hub/models--acme--tiny-bert/blobs").join(&etag).is_file(), fault.is_none());
    }
}

#[test]
fn a_download_waits_for_another_programs_one() {
    let dir = dir_with_data();
    let (content, etag, blob) = weights(&dir);
    let hub = Hub::with(workspace("tests/data/tiny-bert"), Manner { etag, ..Manner::default() });
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    let lock = fs::File::create(blob.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let mut waiting = fit_hub("acme/tiny-bert", &dir, &hub.endpoint());
    let mut waiting = waiting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // It has asked for all that it can have, and what the weights are.
    while hub.requests.lock().unwrap().len() < 1 + 2 * 2 + 1 {
        assert!(waiting.try_wait().unwrap().is_none(), "it has ended");
        thread::sleep(std::time::Duration::from_millis(5));
    }
    thread::sleep(std::time::Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    fs::write(&blob, &content).unwrap();
    drop(lock);
    assert!(waiting.wait().unwrap().success());
    // What the other one has downloaded is not downloaded again.
    assert_eq!(hub.requests().len(), 1 + 2 * 2 + 1);
}

#[test]
fn the_token_may_be_in_a_file() {
    let (dir, hub) = (dir_with_data(), Hub::default());
    fs::create_dir(dir.path("hf")).unwrap();
    dir.write("hf/token", "from-a-file\n");
    finish(&mut fit_hub("acme/tiny-bert", &dir, &hub.endpoint())).success();
    assert_eq!(hub.requests()[0].authorization.as_deref(), Some("Bearer from-a-file"));
}

#[test]
fn offline_an_empty_cache_is_named_with_the_variable() {
    let (dir, hub) = (dir_with_data(), Hub::default());
    let finished = finish(fit_hub("acme/tiny-bert", &dir, &hub.endpoint()).env("HF_HUB_OFFLINE", "1"));
    let cache = dir.path("hf/hub");
    finished.failure(2, &["--base", "acme/tiny-bert", &cache.to_string_lossy(), "HF_HUB_OFFLINE", "no config.json"]);
    assert!(hub.requests().is_empty(), "the hub was asked");
}

#[test]
fn a_repository_that_cannot_be_had_is_named_with_the_reason() {
    let (dir, hub) = (dir_with_data(), Hub::default());
    let endpoint = hub.endpoint();
    for (base, parts) in [
        ("acme/unknown", ["a repository with model.safetensors", "no folder, and status 404"]),
        ("acme/private-bert", ["status 401", "HF_TOKEN"]),
        (
            "acme/old-bert",
            ["a repository with model.safetensors", "only config.json, tokenizer.json, pytorch_model.bin"],
        ),
    ] {
        let finished = fit_missing(base, &dir, &endpoint);
        finished.failure(2, &["--base", &format!("{endpoint}/{base} (revision main)")]);
        finished.failure(2, &parts);
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let dir = dir_with_data();
    let endpoint = Hub::default().endpoint();
    let finished = fit_missing("acme/tiny-bert", &dir, &endpoint);
    finished.failure(2, &["--base", &format!("{endpoint}/acme/tiny-bert"), "Connection Failed"]);
}

#[test]
fn a_path_is_not_looked_for_on_the_hub() {
    let (dir, hub) = (dir_with_data(), Hub::default());
    let finished = fit_missing("./acme/tiny-bert", &dir, &hub.endpoint());
    finished.failure(2, &["--base: expected a folder, or a hub name", "\"./acme/tiny-bert\""]);
    assert!(hub.requests().is_empty(), "the hub was asked");
}
