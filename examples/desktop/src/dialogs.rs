//! The system's dialogs. They are made on the thread of the window, as macOS wants it, and waited for on another.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
};

use rfd::{AsyncFileDialog, FileHandle};

use crate::Notify;

/// What the user has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// A bundle to be opened.
    Model(PathBuf),
    /// A file of rows to be opened.
    Rows(PathBuf),
    /// Where corrections go.
    Export(PathBuf),
}

type Answer = Pin<Box<dyn Future<Output = Option<FileHandle>> + Send>>;

/// At most one dialog.
pub struct Dialogs {
    notify: Notify,
    open: Option<Receiver<Option<Chosen>>>,
}

impl Dialogs {
    /// None yet.
    pub fn new(notify: Notify) -> Self {
        Self { notify, open: None }
    }

    /// Asks for a bundle in one file.
    pub fn ask_model_file(&mut self) {
        let dialog = || AsyncFileDialog::new().set_title("Open a model").add_filter("nimbert bundle", &["nimbert"]);
        self.ask(|| Box::pin(dialog().pick_file()), Chosen::Model);
    }

    /// Asks for a bundle that is a folder.
    pub fn ask_model_folder(&mut self) {
        self.ask(|| Box::pin(AsyncFileDialog::new().set_title("Open a model's folder").pick_folder()), Chosen::Model);
    }

    /// Asks for a file of rows.
    pub fn ask_rows(&mut self) {
        let endings = ["csv", "tsv", "jsonl", "ndjson", "json", "txt", "gz", "zst"];
        let dialog = || AsyncFileDialog::new().set_title("Open rows of text").add_filter("rows of text", &endings);
        self.ask(|| Box::pin(dialog().pick_file()), Chosen::Rows);
    }

    /// Asks where corrections go.
    pub fn ask_export(&mut self, suggested: &Path) {
        let name = suggested.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = suggested.parent().unwrap_or(Path::new("")).to_owned();
        let dialog =
            || AsyncFileDialog::new().set_title("Export corrections").set_directory(folder).set_file_name(name);
        self.ask(|| Box::pin(dialog().save_file()), Chosen::Export);
    }

    fn ask(&mut self, dialog: impl FnOnce() -> Answer, chosen: fn(PathBuf) -> Chosen) {
        if self.open.is_some() {
            return;
        }
        let (send, answer): (Sender<Option<Chosen>>, _) = channel();
        let (dialog, notify) = (dialog(), Arc::clone(&self.notify));
        std::thread::spawn(move || {
            let file = pollster::block_on(dialog);
            // Where the window is closed, nobody wants it.
            let _ = send.send(file.map(|file| chosen(file.path().to_owned())));
            notify();
        });
        self.open = Some(answer);
    }

    /// What was chosen, once.
    pub fn poll(&mut self) -> Option<Chosen> {
        let answer = self.open.as_ref()?.try_recv();
        if !matches!(answer, Err(TryRecvError::Empty)) {
            self.open = None;
        }
        answer.ok().flatten()
    }
}
