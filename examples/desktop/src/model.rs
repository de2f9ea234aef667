//! Opening a bundle, on a thread of its own: it takes a tenth of a second or more.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, TryRecvError, channel},
};

use nimbert::{Classifier, Options};

use crate::Notify;

/// Tokens a run may have, at most. A run that has begun is not ended when somebody types, so it must be short.
pub const MAX_BATCH_TOKENS: usize = 128;

/// A bundle that is being opened.
pub struct Opening {
    /// The bundle.
    pub path: PathBuf,
    answer: Receiver<Result<Classifier, nimbert::Error>>,
}

/// Begins to open the bundle at `path`.
pub fn open(path: PathBuf, options: &Options, notify: Notify) -> Opening {
    let (send, answer) = channel();
    let options = Options { max_batch_tokens: Some(MAX_BATCH_TOKENS), ..options.clone() };
    let bundle = path.clone();
    std::thread::spawn(move || {
        // Where the window has gone on to another bundle, nobody wants this one.
        let _ = send.send(Classifier::open(bundle, &options));
        notify();
    });
    Opening { path, answer }
}

impl Opening {
    /// The classifier or why there is none; nothing while it is being opened.
    pub fn poll(&self) -> Option<Result<Classifier, String>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer.map_err(|error| error.to_string())),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(format!("{}: opening it has failed", self.path.display()))),
        }
    }
}
