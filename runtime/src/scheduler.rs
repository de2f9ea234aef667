//! Joins the texts of all calls into batches and runs them.
//!
//! Every call puts its encodings into one queue and waits, or is woken. Workers, each a thread with a session of its own, take from it
//! texts of like length, or of any where padding is not computed, and run them together. There are two kinds of workers:
//!
//! - One *wide*, whose session uses all threads for one run: the shortest time for a text that comes alone.
//! - As many *narrow* ones as there are threads, whose sessions use one each. Two such runs at once do a third more than
//!   two threads on one run, and a text's time is hardly longer where others would wait before it. They are made when
//!   calls first overlap.
//!
//! On the CPU a batch is small ([`Settings::max_batch_tokens`]): past some hundred tokens it only leaves the processor's
//! caches. What counts there is that texts of one length meet. On a GPU it is large, and what counts is that runs have few
//! shapes ([`Shapes`]).

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    batch::Batch,
    call::CallOptions,
    error::{Error, Result},
    guard::guarded,
    memory::RunMemory,
    prediction::Answer,
    session::{AfterRun, HAS_ARENA, Session},
    tokenizer::Encoding,
};

/// So many of the waiting texts are looked at for a batch: those behind come into one of the next.
const LOOK_AHEAD: usize = 1024;
/// Padding that is not computed is held in memory all the same: so many times the tokens of a run, with them.
const MOST_PACKED: usize = 4;
/// How often a call that may be cancelled looks whether it is. Each look of a call that waits interrupts what runs.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// The memory of a batch of so many tokens is given back once nothing waits: with the batch that is the last, and by the other workers
/// when they have had nothing to do for [`REST`].
const LARGE_BATCH: usize = 256;
/// To give memory back takes a run, and to get it again page faults: not between the parts of one piece of work.
const REST: Duration = Duration::from_secs(1);

/// Which shapes runs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shapes {
    /// Those of their texts: on the CPU, padding takes as long as text.
    Exact,
    /// The same, in a session that computes no padding ([`Session::is_packed`]): texts of any length are run together.
    Packed,
    /// Few: rows a power of two, at most [`Settings::batch_size`]; columns a multiple of [`COLUMN_STEP`], at most
    /// `max_columns`. A GPU computes padding beside the rest, while a shape that is new to it costs time: kernels are chosen
    /// and loaded, memory is allocated.
    Few { max_columns: usize },
}

const COLUMN_STEP: usize = 16;

/// How batches are formed.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Which shapes runs have.
    pub(crate) shapes: Shapes,
    /// Texts a run.
    pub(crate) batch_size: usize,
    /// Tokens a run; padding counts where the graph computes it. A text that is longer alone is run alone.
    pub(crate) max_batch_tokens: usize,
    /// A text joins a batch only if it brings no more padding than this, in tokens, its own and that of the others.
    pub(crate) max_padding: usize,
    /// How long a text waits for others before its batch is run.
    pub(crate) max_wait: Duration,
    /// How many texts may wait; none: any number.
    pub(crate) queue_limit: Option<usize>,
    /// What a run may need; none: any amount.
    pub(crate) memory: Option<(RunMemory, u64)>,
    /// What fills a batch's shorter rows.
    pub(crate) pad_token_id: u32,
}

impl Settings {
    /// The shape of a run of so many texts, of which the longest has so many tokens.
    fn shape(&self, texts: usize, longest: usize) -> (usize, usize) {
        match self.shapes {
            Shapes::Exact | Shapes::Packed => (texts, longest),
            Shapes::Few { max_columns } => {
                let rows = texts.next_power_of_two().min(self.batch_size).max(texts);
                let columns = longest.next_multiple_of(COLUMN_STEP).min(max_columns).max(longest);
                (rows, columns)
            }
        }
    }

    /// What a run of these texts reads.
    fn batch<'a>(&self, encodings: impl ExactSizeIterator<Item = &'a Encoding> + Clone) -> Batch {
        Batch::pad_to(|texts, longest| self.shape(texts, longest), encodings, self.pad_token_id)
    }

    /// How many runs texts of so many tokens make, counted up to `most`.
    fn runs(&self, lengths: impl ExactSizeIterator<Item = usize>, most: usize) -> usize {
        if lengths.len() >= most.saturating_mul(self.batch_size) {
            return most;
        }
        let mut lengths: Vec<usize> = lengths.collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = &lengths[..];
        let mut runs = 0;
        while let Some(&longest) = left.first().filter(|_| runs < most) {
            let mut tokens = longest;
            let joins = |(index, length): &(usize, &usize)| {
                tokens += **length;
                let is_alike = self.shapes == Shapes::Packed || longest - **length <= self.max_padding;
                is_alike && self.has_room(index + 2, longest, tokens)
            };
            let texts = 1 + left[1..].iter().enumerate().take_while(joins).count();
            (left, runs) = (&left[texts..], runs + 1);
        }
        runs
    }

    /// Whether a run may have so many texts, of which the longest has so many tokens, and all together so many.
    fn has_room(&self, texts: usize, longest: usize, tokens: usize) -> bool {
        let (rows, columns) = self.shape(texts, longest);
        let fits = match self.shapes {
            Shapes::Packed => {
                tokens <= self.max_batch_tokens && rows * columns <= self.max_batch_tokens.saturating_mul(MOST_PACKED)
            }
            Shapes::Exact | Shapes::Few { .. } => rows * columns <= self.max_batch_tokens,
        };
        texts <= self.batch_size
            && fits
            && self.memory.is_none_or(|(memory, available)| memory.bytes(rows, columns) <= available)
    }
}

/// Which workers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workers {
    /// Whether there is a wide one.
    pub(crate) wide: bool,
    /// How many narrow ones there may be.
    pub(crate) narrow: usize,
}

/// Opens a session that uses so many threads for a run; none: all.
pub(crate) type OpenSession = dyn Fn(Option<usize>) -> Result<Session> + Send + Sync;

/// When and how long a call's texts were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Until the first of them was taken from the queue.
    pub(crate) queue: Duration,
    /// From then until the last of them was done.
    pub(crate) inference: Duration,
}

/// The queue and its workers. Dropping it ends them; there is no call then that waits.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// Whose threads the workers are.
    process: u32,
    settings: Settings,
    workers: Workers,
    /// Opens further sessions, where there may be some.
    open: Option<Box<OpenSession>>,
    state: Mutex<State>,
    /// There is something new in the state, for workers of that width.
    wide: Condvar,
    narrow: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    wide_is_busy: bool,
    /// Narrow workers whose thread was started, whose session is open, that run a batch.
    narrow_started: usize,
    narrow_ready: usize,
    narrow_busy: usize,
    is_closed: bool,
    /// A worker has panicked: what it would have taken, nobody takes.
    is_broken: bool,
}

/// Ends all calls if the worker that holds it panics, which would otherwise wait for ever.
struct Alive<'a>(&'a Shared);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.is_broken = true;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            drop(waiting);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Wide,
    Narrow,
}

const WIDTHS: [Width; 2] = [Width::Wide, Width::Narrow];

/// One encoding that waits.
struct Job {
    encoding: Encoding,
    /// Its place among those of its call.
    index: usize,
    call: Arc<Call>,
    since: Instant,
    is_answered: bool,
}

/// One call that waits for its encodings.
struct Call {
    progress: Mutex<Progress>,
    done: Condvar,
}

/// A call's encodings, queued or run. Dropped, what still waits is taken out of the queue; what is being run is run, and
/// nobody looks at the result.
pub(crate) struct CallHandle {
    shared: Arc<Shared>,
    call: Arc<Call>,
    since: Instant,
}

struct Progress {
    answers: Vec<Option<Answer>>,
    missing: usize,
    error: Option<Error>,
    started: Option<Instant>,
    ended: Option<Instant>,
    /// Wakes whoever waits without a thread.
    waker: Option<Waker>,
}

impl Scheduler {
    /// Opens the first session; the others are opened when they are needed.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) fn new(mut settings: Settings, workers: Workers, open: Box<OpenSession>) -> Result<Self> {
        let first = if workers.wide { Width::Wide } else { Width::Narrow };
        let session = open(if workers.wide { None } else { Some(1) })?;
        // As all sessions of the graph are.
        if session.is_packed() {
            settings.shapes = Shapes::Packed;
        }
        let mut state = State::default();
        if first == Width::Narrow {
            (state.narrow_started, state.narrow_ready) = (1, 1);
        }
        // What it holds of the graph is not needed where there is no further session.
        let open = (workers.narrow > 0).then_some(open);
        let shared = Arc::new(Shared::new(settings, workers, open, state));
        let scheduler = Self { shared, threads: Mutex::default() };
        scheduler
            .spawn(move |shared| shared.work(first, session))
            .map_err(|error| Error::session(Path::new("a worker"), error))?;
        Ok(scheduler)
    }

    /// The memory that a text may need, in bytes; none: any amount.
    pub(crate) fn available_memory(&self) -> Option<u64> {
        self.shared.settings.memory.map(|(_, available)| available)
    }

    /// Whether every worker lives.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.shared.lock().is_broken
    }

    fn spawn(&self, work: impl FnOnce(&Shared) + Send + 'static) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("nimbert".to_owned()).spawn(move || work(&shared))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Puts encodings into the queue.
    ///
    /// # Errors
    /// [`Error::QueueFull`], [`Error::MemoryLimit`].
    pub(crate) fn enqueue(&self, encodings: Vec<Encoding>) -> Result<CallHandle> {
        let since = Instant::now();
        let settings = &self.shared.settings;
        if let Some((memory, available)) = settings.memory
            && let Some(tokens) = encodings.iter().map(|encoding| encoding.input_ids.len()).max()
        {
            let (rows, columns) = settings.shape(1, tokens);
            let needed = memory.bytes(rows, columns);
            if needed > available {
                return Err(Error::MemoryLimit { what: format!("a text of {tokens} tokens"), needed, available });
            }
        }
        let progress = Progress {
            answers: vec![None; encodings.len()],
            missing: encodings.len(),
            error: None,
            started: None,
            ended: None,
            waker: None,
        };
        let call = Arc::new(Call { progress: Mutex::new(progress), done: Condvar::new() });
        let mut jobs: Vec<Job> = encodings
            .into_iter()
            .enumerate()
            .map(|(index, encoding)| Job { encoding, index, call: Arc::clone(&call), since, is_answered: false })
            .collect();
        // The longest first: what comes last is short, so that all workers end at the same time.
        jobs.sort_by_key(|job| std::cmp::Reverse(job.encoding.input_ids.len()));
        self.push(jobs)?;
        Ok(CallHandle { shared: Arc::clone(&self.shared), call, since })
    }

    fn push(&self, jobs: Vec<Job>) -> Result<()> {
        let Shared { settings, workers, .. } = &*self.shared;
        let mut state = self.shared.lock();
        let is_full = |limit: &usize| !state.waiting.is_empty() && state.waiting.len() + jobs.len() > *limit;
        let refused = match settings.queue_limit.filter(is_full) {
            _ if state.is_broken => Some(worker_ended()),
            Some(limit) => Some(Error::QueueFull { limit }),
            None => None,
        };
        if let Some(refused) = refused {
            drop(state);
            // They were not queued, and their call does not wait.
            jobs.into_iter().for_each(|mut job| job.is_answered = true);
            return Err(refused);
        }
        state.waiting.extend(jobs);
        let overlaps = state.waiting.len() > 1 || state.wide_is_busy || state.narrow_busy > 0;
        let wanted = match overlaps && state.narrow_started < workers.narrow {
            true => {
                let lengths = state.waiting.iter().map(|job| job.encoding.input_ids.len());
                workers.narrow.min(settings.runs(lengths, workers.narrow) + state.narrow_busy)
            }
            false => 0,
        };
        let new = wanted.saturating_sub(state.narrow_started);
        state.narrow_started += new;
        self.shared.wake(state);
        for _ in 0..new {
            // Where no further thread or session can be had, those that are there do the work.
            let _ = self.spawn(|shared| {
                if let Some(Ok(session)) = shared.open.as_ref().map(|open| open(Some(1))) {
                    shared.lock().narrow_ready += 1;
                    shared.work(Width::Narrow, session);
                }
            });
        }
        Ok(())
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // There are no threads to be waited for, and the one that held the lock may be gone.
            return;
        }
        self.shared.lock().is_closed = true;
        WIDTHS.into_iter().for_each(|width| self.shared.changed(width).notify_all());
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A worker that wakes somebody who drops us ends by itself; one that has panicked has said so on standard error.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("settings", &self.shared.settings)
            .field("workers", &self.shared.workers)
            .finish()
    }
}

impl Shared {
    fn new(settings: Settings, workers: Workers, open: Option<Box<OpenSession>>, state: State) -> Self {
        Self {
            process: std::process::id(),
            settings,
            workers,
            open,
            state: Mutex::new(state),
            wide: Condvar::new(),
            narrow: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process was forked from that of the workers: there are none then, and locks may be held for ever.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// Where workers of that width wait for something to do.
    fn changed(&self, width: Width) -> &Condvar {
        match width {
            Width::Wide => &self.wide,
            Width::Narrow => &self.narrow,
        }
    }

    /// Wakes the workers for whom there may be something to do. One that woke for nothing would take a core from those that run.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let widths = WIDTHS.map(|width| (width, state.is_for(width, self.workers.wide)));
        drop(state);
        let woken = widths.into_iter().filter(|(_, is_for)| *is_for);
        woken.for_each(|(width, _)| self.changed(width).notify_all());
    }

    /// Runs batches until the scheduler is dropped.
    fn work(&self, width: Width, mut session: Session) {
        let _alive = Alive(self);
        let settings = &self.settings;
        let has_wide = self.workers.wide;
        // Whether the session keeps the memory of a large batch, and since when it has had nothing to run.
        let (mut is_grown, mut idle_since) = (false, Instant::now());
        let mut state = self.lock();
        loop {
            match state.next(width, has_wide, settings) {
                Next::Batch(jobs) => {
                    state.busy(width, true);
                    let is_last = state.waiting.is_empty();
                    drop(state);
                    let batch = settings.batch(jobs.iter().map(|job| &job.encoding));
                    is_grown |= HAS_ARENA && batch.rows * batch.columns >= LARGE_BATCH;
                    let after = if is_grown && is_last { AfterRun::ReleaseMemory } else { AfterRun::KeepMemory };
                    is_grown &= !is_last;
                    run(&mut |after, batch| session.answers_and(after, batch), settings, &batch, jobs, after);
                    idle_since = Instant::now();
                    state = self.rested(width);
                }
                Next::Nothing if state.is_closed => return,
                Next::Nothing if is_grown => match REST.checked_sub(idle_since.elapsed()) {
                    Some(rest) => {
                        let waited = self.changed(width).wait_timeout(state, rest);
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    None => {
                        state.busy(width, true);
                        drop(state);
                        release_memory(&mut session, settings);
                        is_grown = false;
                        state = self.rested(width);
                    }
                },
                Next::Nothing => state = self.changed(width).wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::After(time) => {
                    let waited = self.changed(width).wait_timeout(state, time);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// What there is to do for a worker that was busy; the other kind may have waited for it.
    fn rested(&self, width: Width) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.busy(width, false);
        self.wake(state);
        self.lock()
    }
}

/// Why a text has no answer where a worker has panicked: it has said so on standard error.
fn worker_ended() -> Error {
    Error::session(Path::new("a worker"), "ended before it had answered")
}

/// What a worker does next.
enum Next {
    Batch(Vec<Job>),
    Nothing,
    /// Looks again after this time: the batch is not full, and may still become so.
    After(Duration),
}

impl State {
    fn busy(&mut self, width: Width, is_busy: bool) {
        match (width, is_busy) {
            (Width::Wide, _) => self.wide_is_busy = is_busy,
            (Width::Narrow, true) => self.narrow_busy += 1,
            (Width::Narrow, false) => self.narrow_busy -= 1,
        }
    }

    /// Whether what waits, if something does, is for workers of that width, where there is a wide one or not.
    fn is_for(&self, width: Width, has_wide: bool) -> bool {
        let is_alone = self.waiting.len() == 1 && self.narrow_busy == 0;
        let is_theirs = match width {
            Width::Wide => is_alone || self.narrow_ready == 0,
            Width::Narrow => !is_alone || self.wide_is_busy || !has_wide,
        };
        is_theirs && !self.waiting.is_empty()
    }

    /// What a worker of that width does next.
    fn next(&mut self, width: Width, has_wide: bool, settings: &Settings) -> Next {
        let Some(oldest) = self.waiting.front().filter(|_| self.is_for(width, has_wide)) else { return Next::Nothing };
        let age = oldest.since.elapsed();
        let Joined { indices, is_full } = joined(&self.waiting, settings);
        if age < settings.max_wait && !is_full && !self.is_closed {
            return Next::After(settings.max_wait - age);
        }
        Next::Batch(self.take(indices))
    }

    fn take(&mut self, mut indices: Vec<usize>) -> Vec<Job> {
        indices.sort_unstable_by(|a, b| b.cmp(a));
        indices.into_iter().filter_map(|index| self.waiting.remove(index)).collect()
    }
}

/// Texts that are run together.
struct Joined {
    /// Their places among those that wait.
    indices: Vec<usize>,
    /// Whether the run may have no further one, of whatever length.
    is_full: bool,
}

/// The oldest text and those whose length is next to its own, as many as a run may have.
fn joined(waiting: &VecDeque<Job>, settings: &Settings) -> Joined {
    let length = |index: usize| waiting[index].encoding.input_ids.len();
    let mut candidates: Vec<usize> = (1..waiting.len().min(LOOK_AHEAD)).collect();
    candidates.sort_by_key(|&index| length(index).abs_diff(length(0)));
    let (mut longest, mut tokens) = (length(0), length(0));
    let mut indices = vec![0];
    for index in candidates {
        let rows = indices.len() + 1;
        let max = longest.max(length(index));
        let padding = rows * max - (tokens + length(index));
        let before = (rows - 1) * longest - tokens;
        let is_padded = settings.shapes != Shapes::Packed && padding - before > settings.max_padding;
        if is_padded || !settings.has_room(rows, max, tokens + length(index)) {
            break;
        }
        (longest, tokens) = (max, tokens + length(index));
        indices.push(index);
    }
    let is_full = !settings.has_room(indices.len() + 1, longest, tokens + 1);
    Joined { indices, is_full }
}

/// Has the session give back the memory that it keeps, which a run does, of whatever.
fn release_memory(session: &mut Session, settings: &Settings) {
    let nothing = Encoding { input_ids: vec![settings.pad_token_id], token_type_ids: vec![0], truncated: false };
    // Where it cannot be run, the memory is kept.
    let _ = session.answers_and(AfterRun::ReleaseMemory, &settings.batch([&nothing].into_iter()));
}

/// Runs the batch of these jobs by `answers`, and answers each. Where that fails, each is run alone: a text that cannot be run, or the
/// memory that all of them need, is no fault of the others. The memory is given back behind the last.
fn run(
    answers: &mut dyn FnMut(AfterRun, &Batch) -> Result<Vec<Answer>>,
    settings: &Settings,
    batch: &Batch,
    mut jobs: Vec<Job>,
    after: AfterRun,
) {
    let started = Instant::now();
    let answered = answers(after, batch);
    let ended = Instant::now();
    #[cfg(feature = "tracing")]
    tracing::trace!(rows = batch.rows, columns = batch.columns, time = ?(ended - started), "batch run");
    match answered {
        Ok(answers) => {
            jobs.into_iter().zip(answers).for_each(|(job, answer)| job.answer(Ok(answer), started, ended));
        }
        Err(_) if jobs.len() > 1 => {
            // A call that has failed already has its answer.
            jobs.retain(|job| job.call.lock().error.is_none());
            let last = jobs.len().saturating_sub(1);
            for (index, job) in jobs.into_iter().enumerate() {
                let batch = settings.batch([&job.encoding].into_iter());
                let after = if index == last { after } else { AfterRun::KeepMemory };
                run(answers, settings, &batch, vec![job], after);
            }
        }
        Err(error) => {
            if let Some(job) = jobs.pop() {
                job.answer(Err(error), started, ended);
            }
        }
    }
}

impl Job {
    fn answer(mut self, answer: Result<Answer>, started: Instant, ended: Instant) {
        self.is_answered = true;
        self.call.tell(|progress| {
            match answer {
                Ok(answer) => progress.answers[self.index] = Some(answer),
                Err(error) => progress.error = Some(error),
            }
            progress.started = Some(progress.started.map_or(started, |first| first.min(started)));
            progress.ended = Some(ended);
        });
    }
}

impl Drop for Job {
    /// A worker that panics must not leave a call waiting for ever.
    fn drop(&mut self) {
        if !self.is_answered {
            self.call.tell(|progress| {
                progress.error.get_or_insert_with(worker_ended);
            });
        }
    }
}

impl Call {
    /// One encoding less is missing. Who waits is woken when he can go on, and not before.
    fn tell(&self, of_it: impl FnOnce(&mut Progress)) {
        let mut progress = self.lock();
        of_it(&mut progress);
        progress.missing -= 1;
        let is_done = progress.missing == 0 || progress.error.is_some();
        let waker = progress.waker.take_if(|_| is_done);
        // Or he would wait for the lock.
        drop(progress);
        match waker {
            // A panic of the caller's is his own, and ends no worker.
            Some(waker) => drop(guarded(|| waker.wake())),
            None if is_done => self.done.notify_all(),
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// What came of it, once that is known.
    fn outcome(&mut self, since: Instant) -> Option<Result<(Vec<Answer>, Times)>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        if self.missing > 0 {
            return None;
        }
        let (started, ended) = (self.started.unwrap_or(since), self.ended.unwrap_or(since));
        let times = Times { queue: started - since, inference: ended - started };
        let answers = std::mem::take(&mut self.answers).into_iter();
        Some(Ok((answers.map(|answer| answer.expect("none is missing")).collect(), times)))
    }
}

impl CallHandle {
    /// What is answered to each encoding, in order.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::DeadlinePassed`]; what a run gives.
    pub(crate) fn wait(self, options: CallOptions<'_>) -> Result<(Vec<Answer>, Times)> {
        let mut progress = self.call.lock();
        loop {
            if let Some(outcome) = progress.outcome(self.since) {
                drop(progress);
                return outcome;
            }
            let left = options.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                progress.error = Some(Error::DeadlinePassed);
            } else if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                progress.error = Some(Error::Cancelled);
            } else {
                let poll = options.cancel.map(|_| CANCEL_POLL);
                let done = &self.call.done;
                progress = match left.into_iter().chain(poll).min() {
                    None => done.wait(progress).unwrap_or_else(PoisonError::into_inner),
                    Some(time) => done.wait_timeout(progress, time).unwrap_or_else(PoisonError::into_inner).0,
                };
            }
        }
    }

    /// The same, of a future.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Result<(Vec<Answer>, Times)>> {
        let mut progress = self.call.lock();
        match progress.outcome(self.since) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                match &mut progress.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    waker => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return;
        }
        let mut progress = self.call.lock();
        // Nobody wants to be woken.
        let (missing, waker) = (progress.missing, progress.waker.take());
        drop(progress);
        drop(waker);
        if missing == 0 {
            return;
        }
        let mut state = self.shared.lock();
        let (mine, others) =
            std::mem::take(&mut state.waiting).into_iter().partition(|job| Arc::ptr_eq(&job.call, &self.call));
        state.waiting = others;
        // What is left may be another worker's now.
        self.shared.wake(state);
        let mine: VecDeque<Job> = mine;
        drop(mine);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn encoding(length: usize) -> Encoding {
        Encoding { input_ids: vec![1; length], token_type_ids: vec![0; length], truncated: false }
    }

    fn waiting(lengths: &[usize]) -> VecDeque<Job> {
        let progress = Progress {
            answers: Vec::new(),
            missing: lengths.len(),
            error: None,
            started: None,
            ended: None,
            waker: None,
        };
        let call = Arc::new(Call { progress: Mutex::new(progress), done: Condvar::new() });
        let job = |(index, &length): (usize, &usize)| Job {
            encoding: encoding(length),
            index,
            call: Arc::clone(&call),
            since: Instant::now(),
            is_answered: false,
        };
        lengths.iter().enumerate().map(job).collect()
    }

    const SETTINGS: Settings = Settings {
        shapes: Shapes::Exact,
        batch_size: 4,
        max_batch_tokens: 64,
        max_padding: 3,
        max_wait: Duration::ZERO,
        queue_limit: None,
        memory: None,
        pad_token_id: 0,
    };

    /// A queue from which nobody takes.
    fn without_workers(state: State) -> Arc<Shared> {
        let workers = Workers { wide: true, narrow: 0 };
        Arc::new(Shared::new(SETTINGS, workers, Some(Box::new(|_| Err(worker_ended()))), state))
    }

    #[test]
    fn the_oldest_text_is_joined_by_those_of_its_length() {
        let join = |lengths: &[usize], settings: &Settings| joined(&waiting(lengths), settings).indices;
        assert_eq!(join(&[10, 30, 11, 9, 10], &SETTINGS), [0, 4, 2, 3]);
        // With 12, both others would be padded by 2 and 3.
        assert_eq!(join(&[10, 9, 12], &SETTINGS), [0, 1]);
        // Three texts of 20 tokens are 60, four are more than 64.
        assert_eq!(join(&[20, 20, 20, 20], &SETTINGS).len(), 3);
        assert_eq!(join(&[100, 100], &SETTINGS), [0]);
        // Without padding their tokens count, and somewhat the memory that they are filled up in.
        let packed = Settings { shapes: Shapes::Packed, batch_size: 32, ..SETTINGS };
        assert_eq!(join(&[10, 30, 11, 5], &packed), [0, 2, 3, 1]);
        assert_eq!(join(&[10, 30, 11, 20], &packed), [0, 2, 3]);
        assert_eq!(join(&[&[60][..], &[1; 20]].concat(), &packed).len(), 4);
        let memory = RunMemory { hidden_size: 8, intermediate_size: 32, heads: 2 };
        let limited = Settings { memory: Some((memory, memory.bytes(2, 10))), ..SETTINGS };
        assert_eq!(join(&[10, 10, 10, 10], &limited).len(), 2);
    }

    #[test]
    fn runs_are_counted_as_texts_are_joined() {
        let runs = |lengths: &[usize], settings: &Settings| settings.runs(lengths.iter().copied(), 8);
        assert_eq!((runs(&[], &SETTINGS), runs(&[9], &SETTINGS)), (0, 1));
        // Four texts, and 64 tokens.
        assert_eq!((runs(&[10; 4], &SETTINGS), runs(&[10; 5], &SETTINGS), runs(&[20; 4], &SETTINGS)), (1, 2, 2));
        // Those whose lengths differ by more than the padding that may be are not run together, unless there is none.
        assert_eq!(runs(&[1, 5, 9, 13, 17], &SETTINGS), 5);
        assert_eq!(runs(&[1, 5, 9, 13, 17], &Settings { shapes: Shapes::Packed, batch_size: 32, ..SETTINGS }), 1);
        // One that is longer than a run may be is one all the same; and no more are counted than there are workers.
        assert_eq!((runs(&[100, 100], &SETTINGS), runs(&[30; 100], &SETTINGS)), (2, 8));
    }

    #[test]
    fn a_text_that_cannot_be_run_fails_alone() {
        let lengths = [3, 4, 5, 3];
        let jobs: Vec<Job> = lengths.iter().flat_map(|&length| waiting(&[length])).collect();
        let calls: Vec<Arc<Call>> = jobs.iter().map(|job| Arc::clone(&job.call)).collect();
        calls.iter().for_each(|call| call.lock().answers = vec![None]);
        // One that nobody waits for any more.
        calls[3].lock().error = Some(Error::Cancelled);
        let mut runs = Vec::new();
        let mut answers = |after, batch: &Batch| {
            runs.push((batch.rows, after));
            let answer = Answer { logits: vec![batch.columns as f32], further: Vec::new(), distance: None };
            match batch.rows == 1 && batch.columns != 5 {
                true => Ok(vec![answer]),
                false => Err(worker_ended()),
            }
        };
        let batch = SETTINGS.batch(jobs.iter().map(|job| &job.encoding));
        run(&mut answers, &SETTINGS, &batch, jobs, AfterRun::ReleaseMemory);
        let outcome =
            |call: &Arc<Call>| call.lock().outcome(Instant::now()).unwrap().map(|(answers, _)| answers[0].logits[0]);
        assert_eq!(calls[..2].iter().map(|call| outcome(call).unwrap()).collect::<Vec<_>>(), [3.0, 4.0]);
        assert!(matches!(outcome(&calls[2]), Err(Error::Session { .. })));
        assert!(matches!(outcome(&calls[3]), Err(Error::Cancelled)));
        // All, then those that are waited for, the memory of which is given back behind the last.
        use AfterRun::{KeepMemory, ReleaseMemory};
        assert_eq!(runs, [(4, ReleaseMemory), (1, KeepMemory), (1, KeepMemory), (1, ReleaseMemory)]);
    }

    #[test]
    fn few_shapes_are_rounded_up_within_the_limits() {
        let settings = Settings { shapes: Shapes::Few { max_columns: 40 }, batch_size: 6, ..SETTINGS };
        let shapes = [(1, 3), (3, 16), (4, 17), (5, 33)].map(|(texts, longest)| settings.shape(texts, longest));
        assert_eq!(shapes, [(1, 16), (4, 16), (4, 32), (6, 40)]);
        // Two texts are 32 tokens, three would be four rows: 64 in all, and one more token makes them 128.
        assert!(settings.has_room(3, 16, 20) && !settings.has_room(3, 17, 20) && !settings.has_room(7, 1, 7));
        let encodings = [2, 1, 1].map(encoding);
        let batch = Batch::pad_to(|texts, longest| settings.shape(texts, longest), encodings.iter(), 9);
        assert_eq!((batch.rows, batch.columns), (4, 16));
        let tokens: Vec<i64> = batch.attention_mask.chunks(16).map(|row| row.iter().sum()).collect();
        assert_eq!(tokens, [2, 1, 1, 1]);
        assert_eq!((batch.input_ids[1], batch.input_ids[2], batch.input_ids[48]), (1, 9, 9));
    }

    #[test]
    fn a_text_alone_is_for_the_wide_worker_and_others_for_narrow_ones() {
        let state = |lengths: &[usize], narrow_ready: usize, narrow_busy: usize, wide_is_busy: bool| State {
            waiting: waiting(lengths),
            narrow_ready,
            narrow_busy,
            wide_is_busy,
            ..State::default()
        };
        let takes = |mut state: State, width: Width, has_wide: bool| {
            matches!(state.next(width, has_wide, &SETTINGS), Next::Batch(_))
        };
        assert!(takes(state(&[5], 2, 0, false), Width::Wide, true));
        assert!(!takes(state(&[5], 2, 0, false), Width::Narrow, true));
        assert!(takes(state(&[5], 2, 0, true), Width::Narrow, true));
        assert!(!takes(state(&[5, 9], 2, 1, false), Width::Wide, true));
        assert!(takes(state(&[5, 9], 2, 1, false), Width::Narrow, true));
        // Until a narrow one is ready, the wide one does everything; and where there is none, narrow ones do.
        assert!(takes(state(&[5, 9], 0, 0, false), Width::Wide, true));
        assert!(takes(state(&[5], 2, 0, false), Width::Narrow, false));
    }

    #[test]
    fn a_batch_that_may_become_fuller_waits_for_its_time() {
        let settings = Settings { max_wait: Duration::from_secs(3600), ..SETTINGS };
        let mut state = State { waiting: waiting(&[5, 5]), ..State::default() };
        assert!(matches!(state.next(Width::Narrow, false, &settings), Next::After(_)));
        state.waiting = waiting(&[5, 5, 5, 5]);
        assert!(matches!(state.next(Width::Narrow, false, &settings), Next::Batch(jobs) if jobs.len() == 4));
        // Full by its tokens: a third text of this length would be too much.
        state.waiting = waiting(&[30, 30]);
        assert!(matches!(state.next(Width::Narrow, false, &settings), Next::Batch(jobs) if jobs.len() == 2));
    }

    #[test]
    fn a_worker_that_panics_is_told_from_a_healthy_one() {
        let shared = without_workers(State { waiting: waiting(&[5]), ..State::default() });
        let scheduler = Scheduler { shared, threads: Mutex::default() };
        assert!(scheduler.is_healthy());
        let call = Arc::clone(&scheduler.shared.lock().waiting[0].call);
        let shared = Arc::clone(&scheduler.shared);
        let worker = std::thread::spawn(move || {
            let _alive = Alive(&shared);
            panic!("as a fault in a worker would");
        });
        assert!(worker.join().is_err() && !scheduler.is_healthy());
        assert!(matches!(call.lock().error, Some(Error::Session { .. })));
        let refused = scheduler.enqueue(vec![encoding(3)]);
        assert!(matches!(refused, Err(Error::Session { .. })));
    }

    #[test]
    fn a_job_that_nobody_answers_ends_its_call() {
        let jobs = waiting(&[5]);
        let call = Arc::clone(&jobs[0].call);
        drop(jobs);
        let progress = call.lock();
        assert!(progress.missing == 0 && matches!(progress.error, Some(Error::Session { .. })));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_without_a_thread_is_woken_once_when_all_is_answered() {
        let shared = without_workers(State::default());
        let handle = |jobs: &VecDeque<Job>| CallHandle {
            shared: Arc::clone(&shared),
            call: Arc::clone(&jobs[0].call),
            since: Instant::now(),
        };
        let counts = [(); 3].map(|()| Arc::new(Count::default()));
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        let poll = |handle: &CallHandle, waker: &Waker| handle.poll(&Context::from_waker(waker));
        let answer = || Ok(Answer { logits: vec![0.5], further: Vec::new(), distance: None });
        let now = Instant::now();

        let mut jobs = waiting(&[5, 5]);
        jobs[0].call.lock().answers = vec![None; 2];
        let answered = handle(&jobs);
        assert!(poll(&answered, &wakers[0]).is_pending());
        jobs.pop_front().unwrap().answer(answer(), now, now);
        // It is another task's now.
        assert!(woken() == [0; 3] && poll(&answered, &wakers[1]).is_pending());
        jobs.pop_front().unwrap().answer(answer(), now, now);
        assert_eq!(woken(), [0, 1, 0]);
        assert!(matches!(poll(&answered, &wakers[1]), Poll::Ready(Ok((answers, _))) if answers.len() == 2));

        // Nobody will answer it.
        let jobs = waiting(&[5, 5]);
        let lost = handle(&jobs);
        assert!(poll(&lost, &wakers[2]).is_pending());
        drop(jobs);
        assert_eq!(woken(), [0, 1, 1]);
        assert!(matches!(poll(&lost, &wakers[2]), Poll::Ready(Err(Error::Session { .. }))));
    }
}
