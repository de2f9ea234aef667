//! Labelling a file, on a thread of its own that owns the file's journal: it alone reads and writes.
//!
//! Rows are taken in windows, in a window by length, and run in batches that take about [`BATCH_TIME`]: a text that
//! is typed waits for no more than that, and holds back the next batch ([`Gate`]).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nimbert::{CallOptions, Classifier, Error, ProblemType};

use crate::{
    Notify, export,
    gate::Gate,
    journal::{self, Content, Journal},
    source::{self, Source, Texts},
    table::{Answer, Corrections, Table, training_rows},
};

/// What a batch may take: with it, a run of its own and two frames, a typed text is answered within 60 ms.
pub const BATCH_TIME: Duration = Duration::from_millis(8);
/// The most rows a batch may have.
const MAX_BATCH_ROWS: usize = 256;
/// Of so many rows those of like length are run together.
const WINDOW_ROWS: usize = 2048;
/// How long a typed text may hold back a batch.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often the window hears of new labels: drawing takes time from typing.
const NEWS: Duration = Duration::from_millis(150);

/// What is asked of the thread.
enum Command {
    Start,
    Stop,
    Correct { row: u32, label: Option<u32> },
    Export(PathBuf),
}

/// What the thread says.
pub enum Event {
    /// The file was read, and what was known of it; where it looks as if rows were swallowed, what is to be said of it.
    Opened(Table, Option<String>),
    /// Labels of rows.
    Labelled(Vec<(u32, Answer)>),
    /// Whether it labels.
    Running(bool),
    /// So many corrections were written to this file.
    Exported(PathBuf, usize),
    /// What could not be done.
    Failed(String),
}

/// A file that is being labelled. Dropped, it ends the batch that runs, keeps its journal, and waits for that: some
/// hundredths of a second.
pub struct Labelling {
    /// The file.
    pub path: PathBuf,
    commands: Option<Sender<Command>>,
    events: Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Labelling {
    /// Opens the file `path`, whose texts are in `column`.
    pub fn open(path: PathBuf, column: String, classifier: Arc<Classifier>, gate: Arc<Gate>, notify: Notify) -> Self {
        let (commands, asked) = channel();
        let (send, events) = channel();
        let stop = Arc::<AtomicBool>::default();
        let (file, flag) = (path.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let news = News { send, notify };
            match open(&file, &column, &classifier, &flag) {
                Ok(Some(Opened { journal, table, warning })) => {
                    let (texts, corrections) = (Arc::clone(&table.texts), table.corrections.clone());
                    let is_known = table.answers.iter().map(Option::is_some).collect();
                    news.say(Event::Opened(table, warning));
                    let worker = Worker {
                        file,
                        classifier,
                        gate,
                        stop: flag,
                        news,
                        journal,
                        texts,
                        corrections,
                        is_known,
                        next: 0,
                        window: Vec::new(),
                        batch_rows: 8,
                        fresh: Vec::new(),
                        said: Instant::now(),
                        is_running: false,
                    };
                    worker.run(&asked);
                }
                Ok(None) => {}
                Err(message) => news.say(Event::Failed(message)),
            }
        });
        Self { path, commands: Some(commands), events, stop, thread: Some(thread) }
    }

    /// What has happened since.
    pub fn poll(&self) -> Result<Event, TryRecvError> {
        self.events.try_recv()
    }

    /// Labels the rows that have no label.
    pub fn start(&self) {
        self.ask(Command::Start);
    }

    /// Ends the batch that runs; rows that are labelled stay so.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ask(Command::Stop);
    }

    /// Keeps a correction of a row, or that it is taken back.
    pub fn correct(&self, row: u32, label: Option<u32>) {
        self.ask(Command::Correct { row, label });
    }

    /// Writes the corrected rows to a file.
    pub fn export(&self, path: PathBuf) {
        self.ask(Command::Export(path));
    }

    fn ask(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Where the thread has ended, `poll` says so.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Labelling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A file that was read.
struct Opened {
    journal: Journal,
    table: Table,
    warning: Option<String>,
}

/// Reads the file and its journal; nothing if it is not wanted any more.
fn open(
    file: &std::path::Path,
    column: &str,
    classifier: &Classifier,
    stop: &AtomicBool,
) -> Result<Option<Opened>, String> {
    let bundle = classifier.bundle().manifest_bytes().map_err(|error| error.to_string())?;
    let bundle = nimbert::sha256(&bundle);
    let of_file = |error| format!("{}: {error}", file.display());
    let path = journal::path(file, column, &bundle).map_err(of_file)?;
    let Source { texts, open_quote } = match source::read(file, column, stop) {
        Ok(source) => source,
        Err(None) => return Ok(None),
        Err(Some(message)) => return Err(message),
    };
    // The labels of the rows that were read must not be kept as those of other rows.
    if journal::path(file, column, &bundle).map_err(of_file)? != path {
        return Err(format!("{}: was changed while it was read; open it again", file.display()));
    }
    let labels = classifier.labels().to_vec();
    let (journal, Content { answers, corrections }) =
        Journal::open(&path, texts.len(), &labels).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut table = Table::new(labels, texts, answers, corrections);
    table.is_correctable = classifier.tasks()[0].decision.problem_type == ProblemType::SingleLabel;
    let warning = open_quote.map(|line| {
        let file = file.display();
        format!("{file}:{line}: a quoted field runs over lines that look like rows of their own; is a quote missing?")
    });
    Ok(Some(Opened { journal, table, warning }))
}

struct News {
    send: Sender<Event>,
    notify: Notify,
}

impl News {
    fn say(&self, event: Event) {
        // Where the window is closed, nobody listens.
        let _ = self.send.send(event);
        (self.notify)();
    }
}

struct Worker {
    file: PathBuf,
    classifier: Arc<Classifier>,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    news: News,
    journal: Journal,
    texts: Texts,
    corrections: Corrections,
    /// Whether a row has a label.
    is_known: Vec<bool>,
    /// Rows before this one are labelled, or in the window.
    next: usize,
    /// Rows to be labelled; the shortest last, which come first.
    window: Vec<u32>,
    batch_rows: usize,
    /// Labels of which the window has not heard.
    fresh: Vec<(u32, Answer)>,
    said: Instant,
    is_running: bool,
}

impl Worker {
    /// Until nobody is there to give commands.
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let command = match self.is_running {
                true => match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                },
                false => match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => break,
                },
            };
            match command {
                Some(command) => self.obey(command),
                None => self.label_batch(),
            }
        }
        self.sync();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start => {
                self.stop.store(false, Ordering::Relaxed);
                self.set_running(true);
            }
            Command::Stop => self.set_running(false),
            Command::Correct { row, label } => {
                match label {
                    Some(label) => self.corrections.insert(row, label),
                    None => self.corrections.remove(&row),
                };
                let name = label.map(|label| self.classifier.labels()[label as usize].as_str());
                if let Err(error) = self.journal.correct(row, name) {
                    self.fail(&error);
                }
            }
            Command::Export(path) => self.export(path),
        }
    }

    fn export(&mut self, path: PathBuf) {
        let is_same =
            |a: &PathBuf, b: &PathBuf| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
        if is_same(&path, &self.file) {
            let message = format!("{}: expected another file than the one that is labelled", path.display());
            return self.news.say(Event::Failed(message));
        }
        let rows = training_rows(&self.texts, self.classifier.labels(), &self.corrections);
        self.news.say(match export::write(&path, rows.iter().copied()) {
            Ok(()) => Event::Exported(path, rows.len()),
            Err(error) => Event::Failed(format!("{}: {error}", path.display())),
        });
    }

    fn label_batch(&mut self) {
        self.gate.pass(PATIENCE);
        if self.window.is_empty() {
            self.fill_window();
        }
        if self.window.is_empty() {
            return self.set_running(false);
        }
        let rows = self.window.split_off(self.window.len() - self.batch_rows.min(self.window.len()));
        let texts = rows.iter().map(|&row| self.texts[row as usize].as_deref().unwrap_or_default());
        let since = Instant::now();
        let options = CallOptions { cancel: Some(&self.stop), ..CallOptions::default() };
        let predictions = match self.classifier.classify_with(texts, options) {
            Ok((predictions, _)) => predictions,
            Err(error) => {
                self.window.extend(rows);
                if !matches!(error, Error::Cancelled) {
                    self.news.say(Event::Failed(error.to_string()));
                    self.set_running(false);
                }
                return;
            }
        };
        self.pace(since.elapsed());
        let answer = |prediction: &nimbert::Prediction| Answer {
            label: prediction.label_id() as u32,
            score: prediction.score,
            abstained: prediction.abstained,
            unknown: prediction.unknown,
        };
        let answers: Vec<(u32, Answer)> = rows.iter().copied().zip(predictions.iter().map(answer)).collect();
        if let Err(error) = self.journal.label(&answers, self.classifier.labels()) {
            self.window.extend(rows);
            self.fail(&error);
            return self.set_running(false);
        }
        rows.iter().for_each(|&row| self.is_known[row as usize] = true);
        self.fresh.extend(answers);
        if self.said.elapsed() >= NEWS {
            self.tell();
        }
    }

    fn fill_window(&mut self) {
        let length = |row: u32| self.texts[row as usize].as_ref().map_or(0, String::len);
        let mut window = Vec::new();
        while self.next < self.texts.len() && window.len() < WINDOW_ROWS {
            if !self.is_known[self.next] && self.texts[self.next].is_ok() {
                window.push(self.next as u32);
            }
            self.next += 1;
        }
        window.sort_by_key(|&row| std::cmp::Reverse(length(row)));
        self.window = window;
    }

    /// As many rows as [`BATCH_TIME`] would have been enough for; not many more at once, since texts become longer.
    fn pace(&mut self, took: Duration) {
        let factor = BATCH_TIME.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let rows = self.batch_rows as f64 * factor.clamp(0.25, 1.5);
        self.batch_rows = (rows.ceil() as usize).clamp(1, MAX_BATCH_ROWS);
    }

    fn set_running(&mut self, is_running: bool) {
        if self.is_running && !is_running {
            self.tell();
            self.sync();
        }
        self.is_running = is_running;
        self.news.say(Event::Running(is_running));
    }

    fn tell(&mut self) {
        self.said = Instant::now();
        if !self.fresh.is_empty() {
            self.news.say(Event::Labelled(std::mem::take(&mut self.fresh)));
        }
    }

    fn sync(&self) {
        if let Err(error) = self.journal.sync() {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &std::io::Error) {
        self.news.say(Event::Failed(format!("the labels of {}: {error}", self.file.display())));
    }
}
