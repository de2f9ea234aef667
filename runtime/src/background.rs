//! Calls that nobody waits for: of a program with windows, of an event loop, of an interpreter that has to see Ctrl-C.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    call::CallOptions,
    classifier::Classifier,
    error::{Error, Result},
    explain::{Attribution, Explained, Explanation},
    guard::guarded,
    prediction::Prediction,
    tokenizer::{TextInput, Truncation},
};

/// So many calls run at once; the classifier joins their texts into batches. More wait.
const MAX_THREADS: usize = 16;
/// How often those that wait are looked at: one that is cancelled, or late, is answered, though no thread is free.
const PATIENCE: Duration = Duration::from_millis(25);

/// A text, or a pair of texts, to be kept until it is classified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnedInput {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

impl From<String> for OwnedInput {
    fn from(text: String) -> Self {
        Self { text, pair: None }
    }
}

impl From<(String, String)> for OwnedInput {
    fn from((text, pair): (String, String)) -> Self {
        Self { text, pair: Some(pair) }
    }
}

impl<'a> From<&'a OwnedInput> for TextInput<'a> {
    fn from(OwnedInput { text, pair }: &'a OwnedInput) -> Self {
        Self { text, pair: pair.as_deref() }
    }
}

/// What one such call may do without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackgroundOptions {
    /// So long after it was submitted, the call fails with [`Error::DeadlinePassed`].
    pub timeout: Option<Duration>,
    /// What becomes of texts that are too long.
    pub truncation: Truncation,
}

/// What of an answer is to be explained, to be kept until it is: [`Explained`], and by which attribution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedExplained {
    /// The answer to which task; none: to the first.
    pub task: Option<String>,
    /// Why which label; none: the one that the text gets.
    pub label: Option<String>,
    /// What a word's attribution is.
    pub attribution: Attribution,
}

/// A call: asks the classifier and tells what came of it, or why there is none to ask.
type Job = Box<dyn FnOnce(Result<&Classifier>) + Send>;

/// A call that no thread has taken yet.
struct Waiting {
    job: Job,
    pending: Pending,
    deadline: Option<Instant>,
}

impl Waiting {
    /// Whether all that is left to do is to say why it was not answered.
    fn is_over(&self) -> bool {
        self.pending.cancel.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// A call that was submitted.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    cancel: Arc<AtomicBool>,
    is_done: Arc<AtomicBool>,
}

impl Pending {
    /// Ends the call with [`Error::Cancelled`], within some 50 ms, unless it is done. One that no thread has taken yet is told so behind
    /// others that were cancelled, whose `done` may take its time.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Whether the call was answered.
    pub fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }
}

/// Classifies on threads of its own, which are started when they are needed. Dropped, it cancels its calls and waits for
/// them: no answer comes afterwards.
pub struct Background {
    shared: Arc<Shared>,
}

struct Shared {
    classifier: Arc<Classifier>,
    state: Mutex<State>,
    /// A call waits, or none will come any more.
    changed: Condvar,
    /// The same for the thread that looks at those that wait: a notice to one of the others must not wake it up instead.
    overfull: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Those that run, or wait.
    calls: Vec<Pending>,
    threads: Vec<JoinHandle<()>>,
    /// The one that ends calls which are over before one of them takes them; started where all of them are busy.
    keeper: Option<JoinHandle<()>>,
    idle: usize,
    is_closed: bool,
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").field("classifier", &self.shared.classifier).finish_non_exhaustive()
    }
}

impl Background {
    /// Calls of `classifier`.
    pub fn new(classifier: Arc<Classifier>) -> Self {
        let (changed, overfull) = (Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { classifier, state: Mutex::default(), changed, overfull }) }
    }

    /// The classifier.
    pub fn classifier(&self) -> &Arc<Classifier> {
        &self.shared.classifier
    }

    /// Classifies texts, and gives the answer to `done`, on another thread, once. It never waits; where no thread can be
    /// started, or after a fork, `done` is called with the error before it returns.
    pub fn submit(
        &self,
        inputs: Vec<OwnedInput>,
        options: BackgroundOptions,
        done: impl FnOnce(Result<Vec<Prediction>>) + Send + 'static,
    ) -> Pending {
        let classify = move |classifier: &Classifier, options: CallOptions<'_>| {
            classifier.classify_with(&inputs, options).map(|(predictions, _)| predictions)
        };
        self.run(options, classify, done)
    }

    /// Explains the answer for a text, or a pair of texts ([`Classifier::explain`]), as [`Background::submit`] classifies.
    pub fn explain(
        &self,
        input: OwnedInput,
        of: OwnedExplained,
        options: BackgroundOptions,
        done: impl FnOnce(Result<Explanation>) + Send + 'static,
    ) -> Pending {
        let explain = move |classifier: &Classifier, options: CallOptions<'_>| {
            let explained = Explained { task: of.task.as_deref(), label: of.label.as_deref() };
            classifier.explain(&input, explained, of.attribution, options)
        };
        self.run(options, explain, done)
    }

    fn run<T>(
        &self,
        options: BackgroundOptions,
        answer: impl FnOnce(&Classifier, CallOptions<'_>) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Pending {
        let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let pending = Pending::default();
        let Pending { cancel, is_done } = pending.clone();
        let job: Job = Box::new(move |classifier| {
            let options = CallOptions { deadline, cancel: Some(&cancel), truncation: options.truncation };
            let result = classifier.and_then(|classifier| {
                // What panics must be answered, too.
                let answer = || options.check().and_then(|()| answer(classifier, options));
                guarded(answer).unwrap_or_else(|panic| Err(Error::session(&classifier.bundle().path, panic)))
            });
            // Before the answer: who has it may look whether it was given.
            is_done.store(true, Ordering::Release);
            // A panic of the caller's is his own, and ends no thread of ours.
            let _ = guarded(|| done(result));
        });
        if let Err(error) = self.shared.classifier.expect_not_forked() {
            // Nobody holds the locks of a process that was forked, or somebody does who is not there.
            job(Err(error));
            return pending;
        }
        let mut state = self.shared.lock();
        state.calls.push(pending.clone());
        state.waiting.push_back(Waiting { job, pending: pending.clone(), deadline });
        let is_overfull = state.idle < state.waiting.len();
        if is_overfull && state.threads.len() < MAX_THREADS {
            match self.thread(Shared::work) {
                Ok(thread) => state.threads.push(thread),
                Err(error) if state.threads.is_empty() => {
                    let refused = state.waiting.pop_back();
                    state.calls.pop();
                    drop(state);
                    if let Some(refused) = refused {
                        (refused.job)(Err(Error::io("a thread".as_ref(), error)));
                    }
                    return pending;
                }
                // Those that are there do the work.
                Err(_) => {}
            }
        } else if is_overfull && state.keeper.is_none() {
            // Without it they are told when a thread is free.
            state.keeper = self.thread(Shared::keep).ok();
        }
        drop(state);
        self.shared.changed.notify_one();
        if is_overfull {
            self.shared.overfull.notify_one();
        }
        pending
    }

    fn thread(&self, run: fn(&Shared)) -> std::io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name("nimbert".to_owned()).spawn(move || run(&shared))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.shared.classifier.expect_not_forked().is_err() {
            return;
        }
        let mut state = self.shared.lock();
        state.is_closed = true;
        state.calls.iter().for_each(Pending::cancel);
        let threads = std::mem::take(&mut state.threads).into_iter().chain(state.keeper.take());
        drop(state);
        self.shared.changed.notify_all();
        self.shared.overfull.notify_all();
        for thread in threads {
            // One that drops us in its `done` ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers calls until there are none any more, and none will come.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(next) = state.waiting.pop_front() else {
                if state.is_closed {
                    return;
                }
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            (next.job)(Ok(&self.classifier));
            state = self.lock();
            state.calls.retain(|call| !call.is_done());
        }
    }

    /// Ends calls that wait and are over, until none will come.
    fn keep(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            if let Some(index) = state.waiting.iter().position(Waiting::is_over)
                && let Some(over) = state.waiting.remove(index)
            {
                drop(state);
                (over.job)(Ok(&self.classifier));
                state = self.lock();
                state.calls.retain(|call| !call.is_done());
            } else if state.waiting.is_empty() {
                state = self.overfull.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                (state, _) = self.overfull.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
