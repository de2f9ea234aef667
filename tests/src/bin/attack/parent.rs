//! Starts workers, and starts another behind the case at which one has died or hangs.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

use tempfile::TempDir;

use crate::cases::Kind;

/// A case that takes longer hangs. Most take some hundredths of a second.
const LIMIT: Duration = Duration::from_secs(20);
/// The number of cases is shown anew after so many.
const SHOWN_AFTER: usize = 50;

/// What is attacked, and how thoroughly.
pub(crate) struct Attack {
    pub(crate) bundle: PathBuf,
    pub(crate) seed: u64,
    /// About so many cases of each kind.
    pub(crate) sample: usize,
}

/// What came of the cases of one kind.
pub(crate) struct Tally {
    pub(crate) kind: Kind,
    pub(crate) cases: usize,
    /// Those with the answers of the unchanged bundle, and those with others.
    pub(crate) same: usize,
    pub(crate) other: usize,
    /// By the error's variant.
    pub(crate) errors: BTreeMap<String, usize>,
    pub(crate) failures: Vec<Failure>,
}

/// What must not be.
pub(crate) struct Failure {
    pub(crate) index: usize,
    pub(crate) what: String,
    pub(crate) outcome: String,
}

impl Tally {
    fn add(&mut self, index: usize, what: &str, outcome: &str) {
        self.cases += 1;
        match outcome.split_once(' ').unwrap_or((outcome, "")) {
            ("same", _) => self.same += 1,
            ("error", error) => {
                let variant = error.split(':').next().unwrap_or_default();
                *self.errors.entry(variant.to_owned()).or_default() += 1;
            }
            ("other", _) if self.kind.is_sealed() => self.other += 1,
            // What a graph needs when it runs is not bounded (SECURITY.md says so).
            ("memory", _) if self.kind.is_sealed() => *self.errors.entry("(2 GB)".to_owned()).or_default() += 1,
            (first, _) => {
                self.other += usize::from(first == "other");
                self.failures.push(Failure { index, what: what.to_owned(), outcome: outcome.to_owned() });
            }
        }
    }
}

impl Attack {
    /// All kinds, some beside each other; in their order.
    ///
    /// # Errors
    /// A message if a worker does not come to its first case.
    pub(crate) fn run(&self) -> Result<Vec<Tally>, String> {
        let kinds = Mutex::new(Kind::ALL.into_iter());
        let done = AtomicUsize::new(0);
        let work = || -> Result<Vec<Tally>, String> {
            let mut tallies = Vec::new();
            loop {
                let kind = kinds.lock().expect("no thread panics with it").next();
                match kind {
                    Some(kind) => tallies.push(self.run_kind(kind, &done)?),
                    None => return Ok(tallies),
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(Kind::ALL.len());
        let results: Vec<Result<Vec<Tally>, String>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            handles.into_iter().map(|handle| handle.join().expect("a thread that reads lines")).collect()
        });
        let tallies: Result<Vec<Vec<Tally>>, String> = results.into_iter().collect();
        let mut tallies: Vec<Tally> = tallies?.into_iter().flatten().collect();
        tallies.sort_by_key(|tally| tally.kind);
        if io::stderr().is_terminal() {
            eprintln!();
        }
        Ok(tallies)
    }

    fn run_kind(&self, kind: Kind, done: &AtomicUsize) -> Result<Tally, String> {
        let mut tally = Tally { kind, cases: 0, same: 0, other: 0, errors: BTreeMap::new(), failures: Vec::new() };
        let mut from = 0;
        loop {
            let mut worker = Worker::start(self, kind, from)
                .map_err(|error| format!("a worker for {}: {error}", self.bundle.display()))?;
            // The last case that was begun: what a worker dies of after its end is its doing as well.
            let mut last: Option<(usize, String)> = None;
            let ended = loop {
                let line = match worker.lines.recv_timeout(LIMIT) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => break "hang".to_owned(),
                    Err(RecvTimeoutError::Disconnected) => break worker.end(),
                };
                match line.split_once(' ').unwrap_or((line.as_str(), "")) {
                    ("begin", case) => {
                        let (index, what) = case.split_once(' ').unwrap_or((case, ""));
                        last = Some((index.parse().expect("the index of a case"), what.to_owned()));
                    }
                    ("end", outcome) => {
                        let (index, what) = last.as_ref().expect("a case begins before it ends");
                        tally.add(*index, what, outcome);
                        show(done.fetch_add(1, Ordering::Relaxed) + 1);
                    }
                    ("memory", _) => break "memory".to_owned(),
                    ("done", _) => return Ok(tally),
                    _ => return Err(format!("a worker said {line:?}")),
                }
            };
            let Some((index, what)) = last else {
                return Err(format!("no case of the kind {} was begun: {ended}", kind.name()));
            };
            tally.add(index, &what, &ended);
            from = index + 1;
        }
    }
}

/// A process that tries cases. It ends with its owner.
struct Worker {
    child: Child,
    /// What it says.
    lines: Receiver<String>,
    /// What a process that dies cannot remove: its temporary files, and its messages.
    folder: TempDir,
}

impl Worker {
    fn start(attack: &Attack, kind: Kind, from: usize) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .arg(&attack.bundle)
            .arg(kind.name())
            .args([attack.seed.to_string(), attack.sample.to_string(), from.to_string()])
            .env("TMPDIR", folder.path())
            .env("TMP", folder.path())
            .env(nimbert::TELEMETRY_VARIABLE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(messages(folder.path()))?)
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Until the worker ends, or nobody listens any more.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, folder })
    }

    /// How it has ended, and its last message.
    fn end(&mut self) -> String {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let messages = fs::read(messages(self.folder.path())).unwrap_or_default();
        let messages = String::from_utf8_lossy(&messages);
        format!("{status} {}", messages.lines().last().unwrap_or_default())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of a worker's messages.
fn messages(folder: &Path) -> PathBuf {
    folder.join("messages")
}

/// Shows somebody who watches that something is done.
fn show(cases: usize) {
    let mut stderr = io::stderr();
    if cases.is_multiple_of(SHOWN_AFTER) && stderr.is_terminal() {
        // Only for the eye.
        let _ = write!(stderr, "\r{cases} cases");
    }
}
