//! `--measure`: how long it takes from a key to the bar on the screen, idle and while a hundred thousand rows are
//! labelled.
//!
//! A key is put among the events of a frame; it is answered when the frame that shows its scores has been drawn,
//! which is known when the next one begins.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eframe::egui::{Context, Event, RawInput, ViewportCommand};

use crate::{app::App, live::Live, live_panel};

const KEYS: usize = 200;
const ROWS: usize = 100_000;
/// From an answer to the next key: who types fast. Every tenth key comes after a rest, in which words are looked at.
const REST: Duration = Duration::from_millis(80);
const LONG_REST: Duration = Duration::from_millis(400);
/// A key that is not answered within it, and a model or a file that is not opened, ends the program.
const PATIENCE: Duration = Duration::from_secs(60);
const TYPED: &str = "a warm and clever film that never once loses its way ";
const WORDS: [&str; 12] =
    ["a", "dull", "warm", "film", "that", "never", "finds", "its", "way", "delightful", "story", "and"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Idle,
    OpeningRows,
    Labelling,
    Done,
}

/// What the program does next.
pub enum Step {
    /// What it would do anyway.
    Nothing,
    /// Opens this file.
    OpenRows(PathBuf),
    /// Empties the text field.
    Clear,
}

/// The measurement.
pub struct Measure {
    rows: Option<PathBuf>,
    /// The folder of rows that are made up; removed in the end.
    folder: Option<PathBuf>,
    phase: Phase,
    since: Instant,
    next_key: Instant,
    typed: usize,
    /// The key that waits for its answer: when it came, and the number of its text.
    waiting: Option<(Instant, u64)>,
    took: Vec<Duration>,
    labelled_before: usize,
}

impl Measure {
    /// With rows of this file, or of one that is made up.
    pub fn new(rows: Option<PathBuf>) -> Self {
        let now = Instant::now();
        Self {
            rows,
            folder: None,
            phase: Phase::Opening,
            since: now,
            next_key: now,
            typed: 0,
            waiting: None,
            took: Vec::new(),
            labelled_before: 0,
        }
    }

    /// Takes the time, and types.
    pub fn before_frame(&mut self, app: &App, context: &Context, input: &mut RawInput) -> Step {
        let now = Instant::now();
        if self.phase != Phase::Done && now.duration_since(self.since) > PATIENCE {
            eprintln!("nimbert-desktop: nothing has come for {} s: {:?}", PATIENCE.as_secs(), app.message);
            std::process::exit(1);
        }
        context.request_repaint_after(Duration::from_millis(50));
        match self.phase {
            Phase::Opening if app.has_model() => self.begin(Phase::Idle, now),
            Phase::Idle if self.took.len() == KEYS => {
                self.print("idle");
                self.begin(Phase::OpeningRows, now);
                match self.rows.clone().map_or_else(|| made_up(self.folder.insert(made_up_folder())), Ok) {
                    Ok(path) => return Step::OpenRows(path),
                    Err(error) => {
                        eprintln!("nimbert-desktop: the rows: {error}");
                        std::process::exit(1);
                    }
                }
            }
            Phase::OpeningRows => {
                if let Some(rows) = app.rows.as_ref().filter(|rows| rows.table.is_some()) {
                    self.labelled_before = rows.labelled;
                    rows.start();
                    self.begin(Phase::Labelling, now);
                }
            }
            Phase::Labelling => {
                let Some(rows) = &app.rows else { return Step::Nothing };
                let is_over = rows.labelled > self.labelled_before && !rows.is_running;
                if self.took.len() == KEYS || (is_over && self.waiting.is_none()) {
                    self.print("while rows are labelled");
                    println!("{} rows were labelled meanwhile", rows.labelled - self.labelled_before);
                    self.phase = Phase::Done;
                    context.send_viewport_cmd(ViewportCommand::Close);
                }
            }
            Phase::Opening | Phase::Idle | Phase::Done => {}
        }
        if matches!(self.phase, Phase::Idle | Phase::Labelling) {
            self.key(app, context, input, now)
        } else {
            Step::Nothing
        }
    }

    fn key(&mut self, app: &App, context: &Context, input: &mut RawInput, now: Instant) -> Step {
        if let Some((pressed, revision)) = self.waiting {
            if app.live.shown.as_ref().is_some_and(|shown| shown.revision == revision) {
                self.took.push(now - pressed);
                self.waiting = None;
                let rest = if self.took.len().is_multiple_of(10) { LONG_REST } else { REST };
                (self.since, self.next_key) = (now, now + rest);
            }
            return Step::Nothing;
        }
        context.memory_mut(|memory| memory.request_focus(live_panel::text_id()));
        if now < self.next_key {
            context.request_repaint_after(self.next_key - now);
            return Step::Nothing;
        }
        if app.live.text.len() > TYPED.len() {
            self.typed = 0;
            return Step::Clear;
        }
        let key = &TYPED[self.typed % TYPED.len()..][..1];
        // A space that ends the text changes it, too.
        input.events.push(Event::Text(key.to_owned()));
        self.typed += 1;
        self.waiting = Some((now, app.live.revision() + 1));
        Step::Nothing
    }

    /// Sees to it that the frame after the one with the answer comes at once.
    pub fn after_frame(&mut self, context: &Context, live: &Live) {
        if self.waiting.is_some_and(|(_, revision)| live.shown.as_ref().is_some_and(|shown| shown.revision == revision))
        {
            context.request_repaint();
        }
    }

    fn begin(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
        self.took.clear();
    }

    fn print(&mut self, when: &str) {
        self.took.sort_unstable();
        let count = self.took.len();
        let at = |part: f64| {
            let place = ((count as f64 * part).ceil() as usize).clamp(1, count.max(1)) - 1;
            self.took.get(place).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        println!("key to bar, {when}: p50 {:.1} ms, p95 {:.1} ms ({count} keys)", at(0.5), at(0.95));
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // The system clears its folder some day.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn made_up_folder() -> PathBuf {
    std::env::temp_dir().join(format!("nimbert-desktop-{}", std::process::id()))
}

/// Rows of five to forty words, always the same.
fn made_up(folder: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("rows.csv");
    let mut writer = BufWriter::new(File::create(&path)?);
    writeln!(writer, "text")?;
    for row in 0..ROWS {
        let words = 5 + row * 7 % 36;
        let words: Vec<&str> = (0..words).map(|word| WORDS[(row * 5 + word * 7 + word * word) % WORDS.len()]).collect();
        writeln!(writer, "{}", words.join(" "))?;
    }
    writer.flush()?;
    Ok(path)
}
