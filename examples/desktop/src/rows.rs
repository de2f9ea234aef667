//! A file of rows that is open: what its thread says, brought into the table; what the user does, told to the thread.

use std::{
    path::PathBuf,
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use crate::{
    Notify,
    labelling::{Event, Labelling},
    table::Table,
    view::{Query, Viewer},
};

/// How often rows are found anew while labels come.
const REFRESH: Duration = Duration::from_secs(1);

/// An open file.
pub struct Rows {
    labelling: Labelling,
    viewer: Viewer,
    /// What is known; none while the file is being read.
    pub table: Option<Table>,
    /// How many rows have a label.
    pub labelled: usize,
    /// How many rows cannot be read.
    pub bad: usize,
    /// Whether it is being labelled.
    pub is_running: bool,
    /// Whether its thread has ended.
    pub has_ended: bool,
    /// How far the list is scrolled, and how high it is.
    pub scrolled: (f32, f32),
    asked: Option<(Query, Instant)>,
    has_new_labels: bool,
}

impl Rows {
    /// What `labelling` reads and labels.
    pub fn new(labelling: Labelling, notify: Notify) -> Self {
        Self {
            labelling,
            viewer: Viewer::start(notify),
            table: None,
            labelled: 0,
            bad: 0,
            is_running: false,
            has_ended: false,
            scrolled: (0.0, 0.0),
            asked: None,
            has_new_labels: false,
        }
    }

    /// The file.
    pub fn path(&self) -> &PathBuf {
        &self.labelling.path
    }

    /// Where corrections go unless the user says otherwise.
    pub fn export_path(&self) -> PathBuf {
        self.path().with_extension("corrections.csv")
    }

    /// Takes what has happened. Returns what to tell the user, and after which time to look again.
    pub fn step(&mut self, now: Instant) -> (Vec<String>, Option<Duration>) {
        let mut news = Vec::new();
        loop {
            match self.labelling.poll() {
                Ok(event) => news.extend(self.take(event)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    // An open file's thread ends with us, or by a fault.
                    if !self.has_ended && self.table.is_some() {
                        news.push(format!("{}: labelling has ended; open it again", self.path().display()));
                    }
                    (self.is_running, self.has_ended) = (false, true);
                    break;
                }
            }
        }
        (news, self.view(now))
    }

    /// Whether the file is open and its thread there.
    pub fn is_open(&self) -> bool {
        self.table.is_some() && !self.has_ended
    }

    /// Whether there are corrections to export.
    pub fn is_exportable(&self) -> bool {
        self.is_open() && self.table.as_ref().is_some_and(|table| !table.corrections.is_empty())
    }

    /// Labels what is not labelled yet.
    pub fn start(&self) {
        self.labelling.start();
    }

    /// Ends labelling; [`Rows::start`] goes on.
    pub fn stop(&self) {
        self.labelling.stop();
    }

    /// Writes the corrected rows to a file.
    pub fn export(&self, path: PathBuf) {
        self.labelling.export(path);
    }

    /// Corrects the selected row, or takes its correction back.
    pub fn correct(&mut self, label: Option<u32>) {
        let Some(table) = self.table.as_mut().filter(|table| table.is_correctable && !self.has_ended) else { return };
        let Some(row) = table.selected.filter(|&row| table.texts[row as usize].is_ok()) else { return };
        match label {
            Some(label) => table.corrections.insert(row, label),
            None => table.corrections.remove(&row),
        };
        self.labelling.correct(row, label);
        // Which rows a query finds depends on it.
        self.asked = None;
    }

    fn take(&mut self, event: Event) -> Vec<String> {
        match event {
            Event::Opened(table, warning) => {
                let mut bad = table.texts.iter().filter_map(|text| text.as_ref().err());
                let first = bad.next().cloned();
                self.bad = bad.count() + usize::from(first.is_some());
                self.labelled = table.labelled();
                self.table = Some(table);
                let bad = first.map(|first| match self.bad {
                    1 => first,
                    bad => format!("{bad} rows cannot be read. {first}"),
                });
                warning.into_iter().chain(bad).collect()
            }
            Event::Labelled(answers) => {
                if let Some(table) = &mut self.table {
                    for (row, answer) in answers {
                        let before = table.answers[row as usize].replace(answer);
                        self.labelled += usize::from(before.is_none());
                    }
                }
                self.has_new_labels = true;
                Vec::new()
            }
            Event::Running(is_running) => {
                self.is_running = is_running;
                Vec::new()
            }
            Event::Exported(path, rows) => vec![format!("{rows} corrections are in {}", path.display())],
            Event::Failed(message) => vec![message],
        }
    }

    /// Asks for the rows of a query that is new, or whose rows may be others by now.
    fn view(&mut self, now: Instant) -> Option<Duration> {
        let table = self.table.as_mut()?;
        if table.query == Query::default() {
            table.show_all();
            self.asked = None;
            return None;
        }
        let mut wait = None;
        let is_due = match &self.asked {
            Some((query, since)) if *query == table.query => {
                let age = now.saturating_duration_since(*since);
                let is_old = self.has_new_labels && table.query.depends_on_labels();
                if is_old && age < REFRESH {
                    wait = Some(REFRESH - age);
                }
                is_old && age >= REFRESH
            }
            _ => true,
        };
        if is_due {
            self.asked = Some((table.query.clone(), now));
            self.has_new_labels = false;
            self.viewer.ask(table);
        }
        if let Some(rows) = self.viewer.poll(&table.query) {
            table.show(rows);
        }
        wait
    }
}
