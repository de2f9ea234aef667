//! The text that is being typed: when it is asked about, and which answer is shown.
//!
//! A text is asked about at once, or, where keys come faster than [`BURST`], once it has been quiet for [`QUIET`]; the
//! answer to an older one is cancelled, and not shown if it comes all the same. After [`EXPLAIN_QUIET`] its words are
//! explained.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use nimbert::{
    Background, BackgroundOptions, Error, OwnedExplained, Pending, Prediction,
    explain::{Attribution, Explanation},
};

use crate::{Notify, gate::Gate};

/// Nobody types so fast: keys that come within it are of one that is held down.
pub const BURST: Duration = Duration::from_millis(40);
/// Such keys are one question.
pub const QUIET: Duration = Duration::from_millis(50);
/// Who types on is not explained the half of a word.
pub const EXPLAIN_QUIET: Duration = Duration::from_millis(250);

/// Texts of more characters are not explained: every word costs a run.
const EXPLAINED: usize = 2000;

/// Whether a text is too long to be explained.
pub fn is_long(text: &str) -> bool {
    text.chars().nth(EXPLAINED).is_some()
}

/// An answer to the text that was asked about last.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The text's number.
    pub revision: u64,
    /// The text.
    pub text: String,
    /// Its scores.
    pub prediction: Prediction,
    /// Which words carried the decision; none while that is not known.
    pub explanation: Option<Explanation>,
}

enum Answer {
    Scores(String, nimbert::Result<Vec<Prediction>>),
    Words(Box<nimbert::Result<Explanation>>),
}

/// The state of typing.
pub struct Live {
    /// What is in the field; [`Live::edited`] says that it was changed.
    pub text: String,
    /// What is shown; none for an empty text, or before the first answer.
    pub shown: Option<Shown>,
    /// Why there is no answer.
    pub error: Option<String>,
    revision: u64,
    changed: Instant,
    /// How long the text must have been quiet.
    quiet: Duration,
    /// Whether its answer is about to be drawn.
    is_answered: bool,
    /// Whether the text was asked about, and its words.
    is_asked: bool,
    is_explained: bool,
    calls: Vec<Pending>,
    gate: Arc<Gate>,
    notify: Notify,
    /// Answers, each with its text's number.
    send: Sender<(u64, Answer)>,
    answers: Receiver<(u64, Answer)>,
}

impl Live {
    /// An empty text. `gate` is closed while an answer is waited for.
    pub fn new(gate: Arc<Gate>, notify: Notify) -> Self {
        let (send, answers) = channel();
        Self {
            text: String::new(),
            shown: None,
            error: None,
            revision: 0,
            changed: Instant::now(),
            quiet: Duration::ZERO,
            is_answered: false,
            is_asked: true,
            is_explained: true,
            calls: Vec::new(),
            gate,
            notify,
            send,
            answers,
        }
    }

    /// The number of the text: it grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether what is shown belongs to the text.
    pub fn is_current(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.revision == self.revision)
    }

    /// Says that the text was changed, or that another model is to answer.
    pub fn edited(&mut self, now: Instant) {
        self.calls.drain(..).for_each(|call| call.cancel());
        self.revision += 1;
        let is_burst = now.saturating_duration_since(self.changed) < BURST;
        self.quiet = if is_burst { QUIET } else { Duration::ZERO };
        self.changed = now;
        self.is_answered = false;
        let is_empty = self.text.trim().is_empty();
        (self.is_asked, self.is_explained) = (is_empty, is_empty);
        if is_empty {
            (self.shown, self.error) = (None, None);
        }
        self.gate.set_closed(!is_empty);
    }

    /// At the beginning of a frame: takes answers, and asks what is due. Returns after which time there is something to do.
    pub fn step(&mut self, now: Instant, model: Option<&Background>) -> Option<Duration> {
        if std::mem::take(&mut self.is_answered) {
            // The frame with the answer has been drawn: until then labelling would have taken the cores from it.
            self.gate.set_closed(false);
        }
        while let Ok((revision, answer)) = self.answers.try_recv() {
            if revision == self.revision {
                self.take(answer);
            }
        }
        self.ask_what_is_due(now, model)
    }

    /// Without taking answers, which the frame that is being made would not show. Returns the same.
    pub fn ask_what_is_due(&mut self, now: Instant, model: Option<&Background>) -> Option<Duration> {
        let Some(model) = model else {
            self.gate.set_closed(false);
            return None;
        };
        let quiet = now.saturating_duration_since(self.changed);
        if !self.is_asked {
            if quiet < self.quiet {
                return Some(self.quiet - quiet);
            }
            self.is_asked = true;
            let text = self.text.clone();
            let answered = self.answered(move |predictions| Answer::Scores(text, predictions));
            self.calls.push(model.submit(vec![self.text.clone().into()], BackgroundOptions::default(), answered));
        }
        if self.is_answered {
            return Some(Duration::ZERO);
        }
        if !self.is_explained {
            if quiet < EXPLAIN_QUIET {
                return Some(EXPLAIN_QUIET - quiet);
            }
            if self.is_current() {
                self.is_explained = true;
                if is_long(&self.text) {
                    return None;
                }
                let of = OwnedExplained { attribution: Attribution::LeaveOneOut, ..OwnedExplained::default() };
                let answered = self.answered(|explanation| Answer::Words(Box::new(explanation)));
                let text = self.text.clone().into();
                self.calls.push(model.explain(text, of, BackgroundOptions::default(), answered));
            }
        }
        None
    }

    /// What is called with the model's answer to the text as it is now, on another thread.
    fn answered<T>(&self, answer: impl FnOnce(T) -> Answer + Send + 'static) -> impl FnOnce(T) + Send + 'static {
        let (revision, send, notify) = (self.revision, self.send.clone(), Arc::clone(&self.notify));
        move |result| {
            // Where the window is closed, nobody wants it.
            let _ = send.send((revision, answer(result)));
            notify();
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Scores(text, Ok(mut predictions)) => {
                let (revision, prediction) = (self.revision, predictions.remove(0));
                (self.shown, self.error) = (Some(Shown { revision, text, prediction, explanation: None }), None);
            }
            Answer::Scores(_, Err(Error::Cancelled)) => return,
            Answer::Scores(_, Err(error)) => (self.shown, self.error) = (None, Some(error.to_string())),
            Answer::Words(explained) => return self.take_words(*explained),
        }
        self.is_answered = true;
    }

    fn take_words(&mut self, explained: nimbert::Result<Explanation>) {
        match (explained, &mut self.shown) {
            (Ok(explanation), Some(shown)) => shown.explanation = Some(explanation),
            (Ok(_), None) | (Err(Error::Cancelled), _) => {}
            // The scores are right without it.
            (Err(error), _) => self.error = Some(format!("The words are not explained: {error}")),
        }
    }
}
