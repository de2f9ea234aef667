//! The classifier: a bundle, its tokenizer and its sessions behind one call.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use crate::{
    batch::Batch,
    bundle::{Bundle, FileEntry, PublicKey, Variant, Verifier, Verify},
    call::{CallOptions, Timing},
    compiled,
    device::{Device, Engine},
    error::{Error, Result},
    graph::GraphFiles,
    library,
    memory::{RunMemory, resident_bytes},
    prediction::{Answer, Prediction, Task},
    scheduler::{CallHandle, Scheduler, Settings, Shapes, Workers},
    session::{Session, SessionOptions, available_threads},
    threads,
    tokenizer::{Encoding, TextInput, Tokenizer},
};

/// How a bundle is opened and its texts are run. The defaults are right for a desktop application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Device, threads and library.
    pub session: SessionOptions,
    /// The graph's name in the manifest; none: the first that was made for the device, or else the bundle's default.
    pub variant: Option<String>,
    /// What runs beside each other. Default: [`Parallelism::Auto`].
    pub parallelism: Parallelism,
    /// The most texts in one run of the graph. None: 32 on the CPU, where more gain little, and in TensorRT, which builds
    /// its engine for so many of the longest texts; 256 in CUDA.
    pub batch_size: Option<usize>,
    /// The most tokens in one run, padding included (where a graph computes none between its embeddings and its last layer, without it, and
    /// four times as many with it); a longer text is run alone. None: 512 on the CPU, where more would
    /// leave its caches, and 8,192 on a GPU, which wants to be filled.
    pub max_batch_tokens: Option<usize>,
    /// How long a text waits for others of other calls before it is run. Default: not at all. Texts that come while all
    /// sessions are busy are joined in any case.
    pub max_wait: Duration,
    /// How many texts may wait. A call that would exceed it fails with [`Error::QueueFull`], unless nobody waits: then it
    /// may be of any size. None, the default: any number, which is bounded by the number of calls.
    pub queue_limit: Option<usize>,
    /// How much memory the process may have, in bytes. Batches are made smaller to keep it, and a text that alone would
    /// exceed it is refused with [`Error::MemoryLimit`]. An estimate. None, the default: no limit.
    pub memory_limit: Option<u64>,
    /// Where graphs, and TensorRT's engines, are kept in the form that was compiled for this machine
    /// ([`compiled::default_cache`] is the program's): they load in half of the time, and sessions and processes share the
    /// weights. None, the default of the library: nothing is written.
    pub cache: Option<PathBuf>,
    /// When the graph's files are compared with their digests. Default: once, and what was compared is remembered in the
    /// cache; without a cache, at every opening.
    pub verify: Verify,
    /// Keys of which one must have signed the bundle. Default: none, and a signature is not looked at.
    pub require_signature: Vec<PublicKey>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            variant: None,
            parallelism: Parallelism::default(),
            batch_size: None,
            max_batch_tokens: None,
            max_wait: Duration::ZERO,
            queue_limit: None,
            memory_limit: None,
            cache: None,
            verify: Verify::default(),
            require_signature: Vec::new(),
        }
    }
}

impl Options {
    /// That nothing is given which would do nothing, or which another option takes back.
    fn validate(&self) -> Result<()> {
        let SessionOptions { device, fast_math, gpu, .. } = &self.session;
        let is_cpu = *device == Device::Cpu;
        let has_key = !self.require_signature.is_empty();
        let wrong = [
            (is_cpu && gpu.memory_limit.is_some(), "gpu_memory_limit", "a GPU with it", "the device cpu"),
            (is_cpu && gpu.allow_cpu, "allow_cpu", "a GPU with it", "the device cpu"),
            (
                *fast_math && !matches!(device, Device::Cpu | Device::Auto),
                "fast_math",
                "the device cpu or auto with it",
                "a GPU",
            ),
            // The signature is of the digests.
            (
                has_key && self.verify == Verify::Never,
                "verify",
                "always or once with a key, which vouches for what was compared alone",
                "never",
            ),
        ];
        match wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
            None => Ok(()),
            Some((_, name, expected, got)) => {
                Err(Error::Setting { name: name.to_owned(), expected: expected.to_owned(), got: got.to_owned() })
            }
        }
    }
}

/// What runs beside each other on the CPU. A GPU has one session in any case, and so has the CPU with a limit of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parallelism {
    /// A text alone is run by all threads. When calls overlap, or a call has many texts, further sessions are opened that
    /// run a batch each on a thread of its own.
    #[default]
    Auto,
    /// One session, which runs one batch after the other by all threads: the least memory.
    Latency,
    /// Only sessions that run a batch each on a thread of its own: for many texts.
    Throughput,
}

/// A text classifier. It may be shared between threads; texts of calls that overlap are joined into batches, and get the
/// answers that they would get alone: on the CPU scores are equal as a rule, and within 1e-4; in fp16 on a GPU within some
/// thousandths.
#[derive(Debug)]
pub struct Classifier {
    bundle: Bundle,
    tokenizer: Tokenizer,
    tasks: Vec<Task>,
    scheduler: Scheduler,
    device: Device,
    fallbacks: Vec<Error>,
    /// So many threads tokenize the texts of a call.
    threads: usize,
    /// Its threads are this process's.
    process: u32,
}

/// A call whose texts are queued or run, a future ([`Classifier::enqueue`]). Dropped, the texts that still wait leave the queue.
#[must_use = "dropped, its texts are not classified"]
pub struct Queued {
    // Dropped before the classifier, whose end waits for its workers.
    call: CallHandle,
    classifier: Arc<Classifier>,
    /// Windows of each text.
    counts: Vec<usize>,
    tokenization: Duration,
}

impl Future for Queued {
    type Output = Result<(Vec<Prediction>, Timing)>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A child has no workers that would answer, and perhaps locks that nobody gives back.
        self.classifier.expect_not_forked()?;
        let answered = ready!(self.call.poll(context));
        Poll::Ready(answered.and_then(|(answers, times)| {
            Ok((self.classifier.predictions(&self.counts, answers)?, Timing::new(self.tokenization, times)))
        }))
    }
}

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued").field("texts", &self.counts.len()).finish_non_exhaustive()
    }
}

/// Tokens that a run on a GPU may have.
const GPU_BATCH_TOKENS: usize = 8192;
/// Texts that a run may have, in CUDA and elsewhere.
const CUDA_BATCH_SIZE: usize = 256;
const BATCH_SIZE: usize = 32;
/// Tokens that a run on the CPU may have: measured on a six-layer model of 384, where 256 to 512 are fastest, and 2,048
/// slower by a fifth.
const CPU_BATCH_TOKENS: usize = 512;
/// Padding that a text may bring to a batch, in tokens: what a run of its own would cost besides, by the same measurement.
const CPU_PADDING: usize = 5;
const GPU_PADDING: usize = 64;
/// So many texts are worth a further thread that tokenizes.
const TEXTS_A_THREAD: usize = 64;

impl Classifier {
    /// Opens the bundle at `path`, a folder or a file. What is used of it was compared with its digests, see
    /// [`Options::verify`]. Once it is open, it may be replaced or removed, and what somebody may write to, changed: a `.nimbert`
    /// file to which nobody may write is mapped, and must not be cut short by who gives himself the right.
    ///
    /// # Errors
    /// Any variant of [`Error`] but [`Error::OutputExists`] and those of a call.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::of(Bundle::open_signed(path, &options.require_signature)?, options)
    }

    /// Opens a bundle in one file that is in memory already: compiled into the program by `include_bytes!`, or mapped. It is
    /// not copied. Where nobody can have changed it, [`Verify::Never`] spares the time to hash it, at every opening.
    ///
    /// # Errors
    /// Those of [`Classifier::open`].
    pub fn from_bytes(bytes: &'static [u8], options: &Options) -> Result<Self> {
        Self::of(Bundle::from_bytes(bytes, &options.require_signature)?, options)
    }

    fn of(bundle: Bundle, options: &Options) -> Result<Self> {
        options.validate()?;
        // Half of the time each: together on two cores, they take one of them.
        let (tokenizer, opened) = threads::both(|| bundle.tokenizer(), || open_scheduler(&bundle, options));
        let tokenizer = tokenizer?;
        let Opened { scheduler, device, fallbacks } = opened?;
        let tasks = bundle.tasks();
        let (threads, process) = (options.session.threads.unwrap_or_else(available_threads), std::process::id());
        Ok(Self { bundle, tokenizer, tasks, scheduler, device, fallbacks, threads, process })
    }

    /// The bundle that was opened.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What it decides of each text: one task, or several that share one run.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Label names in the order of their ids; of several tasks, the first one's.
    pub fn labels(&self) -> &[String] {
        &self.bundle.config.labels
    }

    /// Where the graph runs: never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether texts are answered: a worker that has panicked answers none any more.
    pub fn is_healthy(&self) -> bool {
        self.scheduler.is_healthy()
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// In a process that was forked from ours nobody would answer.
    pub(crate) fn expect_not_forked(&self) -> Result<()> {
        if self.process == std::process::id() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Why the devices that [`Device::Auto`] prefers could not be used.
    pub fn fallbacks(&self) -> &[Error] {
        &self.fallbacks
    }

    /// Classifies one text, or a pair of texts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Session`], [`Error::Format`] if the graph has not one logit a label,
    /// [`Error::QueueFull`], [`Error::MemoryLimit`]; [`Error::Forked`] in a child of the process that opened it.
    pub fn classify<'a>(&self, input: impl Into<TextInput<'a>>) -> Result<Prediction> {
        let mut predictions = self.classify_batch([input])?;
        Ok(predictions.remove(0))
    }

    /// Classifies many texts, or pairs of texts: sorted by length inside, answered in input order.
    ///
    /// # Errors
    /// Those of [`Classifier::classify`].
    pub fn classify_batch<'a>(
        &self,
        inputs: impl IntoIterator<Item = impl Into<TextInput<'a>>>,
    ) -> Result<Vec<Prediction>> {
        Ok(self.classify_with(inputs, CallOptions::default())?.0)
    }

    /// The same, with a deadline or the possibility to cancel, and with the time that each part took.
    ///
    /// # Errors
    /// Those of [`Classifier::classify`], [`Error::Cancelled`] and [`Error::DeadlinePassed`].
    pub fn classify_with<'a>(
        &self,
        inputs: impl IntoIterator<Item = impl Into<TextInput<'a>>>,
        options: CallOptions<'_>,
    ) -> Result<(Vec<Prediction>, Timing)> {
        let (windows, counts, tokenization) = self.windows(inputs, options)?;
        let (answers, times) = self.scheduler.enqueue(windows)?.wait(options)?;
        Ok((self.predictions(&counts, answers)?, Timing::new(tokenization, times)))
    }

    /// Tokenizes texts, or pairs of texts, and queues them: a future of what [`Classifier::classify_with`] gives, for an event
    /// loop, which has many calls and no thread for each ([`crate::Background`] has some).
    ///
    /// It tokenizes before it returns: long texts, or many, are for a thread that may be blocked. `cancel` and `deadline` are not
    /// looked at afterwards; a call that was queued ends early by being dropped. Where the future is the last that holds the
    /// classifier, dropping it waits for a run to end.
    ///
    /// # Errors
    /// Those of [`Classifier::classify_with`] that come before a text is run.
    pub fn enqueue<'a>(
        self: &Arc<Self>,
        inputs: impl IntoIterator<Item = impl Into<TextInput<'a>>>,
        options: CallOptions<'_>,
    ) -> Result<Queued> {
        let (windows, counts, tokenization) = self.windows(inputs, options)?;
        options.check()?;
        Ok(Queued { call: self.scheduler.enqueue(windows)?, classifier: Arc::clone(self), counts, tokenization })
    }

    /// The windows of all texts, how many each has, and how long that took.
    fn windows<'a>(
        &self,
        inputs: impl IntoIterator<Item = impl Into<TextInput<'a>>>,
        options: CallOptions<'_>,
    ) -> Result<(Vec<Encoding>, Vec<usize>, Duration)> {
        self.expect_not_forked()?;
        let started = Instant::now();
        let inputs: Vec<TextInput<'a>> = inputs.into_iter().map(Into::into).collect();
        if let Some(pairs) = self.bundle.manifest.pairs
            && inputs.iter().any(|input| input.pair.is_some() != pairs)
        {
            let [one, two] = ["one text", "a pair of texts"];
            let (expected, got) = if pairs { (two, one) } else { (one, two) };
            return Err(Error::Input { expected, got });
        }
        if let Some(available) = self.scheduler.available_memory() {
            // Before it is read: a text can need more for that than for being run.
            let texts = inputs.iter().flat_map(|input| [Some(input.text), input.pair]).flatten();
            let needs = texts.map(|text| (self.tokenizer.memory(text), text.len()));
            if let Some((needed, bytes)) = needs.max().filter(|(needed, _)| *needed > available) {
                return Err(Error::MemoryLimit { what: format!("a text of {bytes} bytes"), needed, available });
            }
        }
        let windows = self.tokenize(&inputs, options)?;
        let counts = windows.iter().map(Vec::len).collect();
        Ok((windows.into_iter().flatten().collect(), counts, started.elapsed()))
    }

    /// What the answers to windows say of the texts, which have so many each.
    fn predictions(&self, counts: &[usize], answers: Vec<Answer>) -> Result<Vec<Prediction>> {
        let expected = || self.tasks.iter().map(|task| task.labels.len());
        let found =
            |answer: &Answer| [&answer.logits].into_iter().chain(&answer.further).map(Vec::len).collect::<Vec<_>>();
        if let Some(wrong) = answers.iter().map(found).find(|found| !expected().eq(found.iter().copied())) {
            let counts = |counts: Vec<usize>| counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" + ");
            let expected = format!("{} logits a text, one for each label of each task", counts(expected().collect()));
            return Err(Error::format(&self.bundle.path, expected, counts(wrong)));
        }
        let mut answers = answers.into_iter();
        let predict = |&count: &usize| {
            let answer = Answer::mean(answers.by_ref().take(count));
            let values = answer.logits.iter().chain(answer.further.iter().flatten()).chain(&answer.distance);
            match values.copied().find(|value| !value.is_finite()) {
                None => Ok(Prediction::new(answer, &self.tasks)),
                // No label follows from it.
                Some(wrong) => {
                    let message = format!("expected logits and distances that are numbers, found {wrong}");
                    Err(Error::session(&self.bundle.path, message))
                }
            }
        };
        counts.iter().map(predict).collect()
    }

    /// Each text's windows; many texts by several threads.
    fn tokenize(&self, inputs: &[TextInput<'_>], options: CallOptions<'_>) -> Result<Vec<Vec<Encoding>>> {
        let windows = |&input: &TextInput<'_>| {
            options.check()?;
            self.tokenizer.windows_with(input, options.truncation)
        };
        let tokenize = |inputs: &[TextInput<'_>]| inputs.iter().map(windows).collect::<Result<Vec<_>>>();
        let threads = self.threads.min(inputs.len() / TEXTS_A_THREAD).max(1);
        if threads == 1 {
            return tokenize(inputs);
        }
        let chunks = threads::all(inputs.chunks(inputs.len().div_ceil(threads)), tokenize);
        let mut windows = Vec::with_capacity(inputs.len());
        for chunk in chunks {
            windows.extend(chunk?);
        }
        Ok(windows)
    }
}

/// A scheduler with a session on some device.
struct Opened {
    scheduler: Scheduler,
    device: Device,
    fallbacks: Vec<Error>,
}

fn open_scheduler(bundle: &Bundle, options: &Options) -> Result<Opened> {
    library::load_library(options.session.ort_lib.as_deref())?;
    let has = |device: &Device| {
        let provider = device.execution_provider();
        bundle.manifest.variants.iter().any(|variant| provider == Some(variant.execution_provider.as_str()))
    };
    let mut fallbacks = Vec::new();
    if options.session.device == Device::Auto {
        for device in [Device::Tensorrt(0), Device::Cuda(0)].into_iter().filter(has) {
            match open_on(device, bundle, options) {
                Ok(scheduler) => return Ok(Opened { scheduler, device, fallbacks }),
                Err(error) => fallbacks.push(error),
            }
        }
    }
    let device = if options.session.device == Device::Auto { Device::Cpu } else { options.session.device };
    Ok(Opened { scheduler: open_on(device, bundle, options)?, device, fallbacks })
}

fn open_on(device: Device, bundle: &Bundle, options: &Options) -> Result<Scheduler> {
    let variant = bundle.variant(options.variant.as_deref(), device)?;
    let threads = options.session.threads.unwrap_or_else(available_threads);
    let mut session = SessionOptions { device, threads: Some(threads), ..options.session.clone() };
    let is_cpu = device == Device::Cpu;
    let usual_batch_size = if matches!(device, Device::Cuda(_)) { CUDA_BATCH_SIZE } else { BATCH_SIZE };
    let batch_size = options.batch_size.unwrap_or(usual_batch_size).max(1);
    if let Some(available) = options.memory_limit
        && bundle.graph_bytes(variant) > available
    {
        // Before it is read.
        let (what, needed) = (format!("the graph {}", variant.name), bundle.graph_bytes(variant));
        return Err(Error::MemoryLimit { what, needed, available });
    }
    let verifier = Verifier::new(options.verify, options.cache.as_deref());
    let compiled = match &options.cache {
        Some(cache) if is_cpu && session.optimized_model.is_none() => {
            Some(compiled::Entry::of(cache, bundle, variant, &session))
        }
        _ => None,
    };
    // It is of processors; where the device was left open, it is of use if it is one.
    session.fast_math &= is_cpu;
    if session.fast_math {
        check_fast_math(bundle, variant, &verifier, &session)?;
    }
    let source = match compiled {
        Some(entry) => {
            if entry.is_there() {
                // What was compiled is right even if the bundle is not any more; but nobody would know that it is not.
                let compare = |(name, entry): (String, &FileEntry)| verifier.file(&bundle.store, &name, entry);
                bundle.graph_files(variant).try_for_each(compare)?;
            }
            Source::Compiled { entry, bundle: Box::new(bundle.clone()), variant: variant.clone(), verifier }
        }
        None => Source::Read(bundle.graph(variant, &verifier, session.operators)?),
    };
    if let (Device::Tensorrt(_), None, Source::Read(graph)) = (device, &session.gpu.engine, &source) {
        session.gpu.engine = Some(engine(bundle, variant, graph, batch_size, options)?);
    }
    let memory = match options.memory_limit {
        None => None,
        Some(limit) => {
            // What the process has now, and the graph twice: its weights, and the order in which they are wanted.
            let held = resident_bytes().unwrap_or(0).saturating_add(bundle.graph_bytes(variant).saturating_mul(2));
            Some((RunMemory::of(&bundle.config), limit.saturating_sub(held)))
        }
    };
    let workers = match options.parallelism {
        _ if !is_cpu || memory.is_some() || threads == 1 => Workers { wide: true, narrow: 0 },
        Parallelism::Latency => Workers { wide: true, narrow: 0 },
        Parallelism::Auto => Workers { wide: true, narrow: threads },
        Parallelism::Throughput => Workers { wide: false, narrow: threads },
    };
    let usual = if is_cpu { CPU_BATCH_TOKENS } else { GPU_BATCH_TOKENS };
    let settings = Settings {
        shapes: if is_cpu { Shapes::Exact } else { Shapes::Few { max_columns: bundle.manifest.max_length } },
        batch_size,
        max_batch_tokens: options.max_batch_tokens.unwrap_or(usual).max(1),
        max_padding: if is_cpu { CPU_PADDING } else { GPU_PADDING },
        max_wait: options.max_wait,
        queue_limit: options.queue_limit,
        memory,
        pad_token_id: bundle.config.pad_token_id,
    };
    let (needs_distance, path) = (bundle.manifest.unknown.is_some(), bundle.store.path(&variant.file));
    let tasks = 1 + bundle.manifest.further_tasks.len();
    let open = move |threads: Option<usize>| {
        let session = SessionOptions { threads: threads.or(session.threads), ..session.clone() };
        let session = match &source {
            Source::Read(graph) if is_cpu || session.gpu.allow_cpu => Session::of(graph, &session),
            Source::Read(graph) => open_placed(graph, &session),
            Source::Compiled { entry, bundle, variant, verifier } => {
                Session::compiled(bundle, variant, entry, verifier, &session)
            }
        }?;
        if session.tasks() != tasks {
            let expected = format!("a graph with logits for {tasks} tasks, as nimbert.json says");
            return Err(Error::format(&path, expected, session.tasks().to_string()));
        }
        // Without it no text would be unknown.
        match needs_distance && !session.has_distance() {
            true => Err(Error::format(
                &path,
                "a graph with the output distance, since nimbert.json has \"unknown\"",
                "none",
            )),
            false => Ok(session),
        }
    };
    Scheduler::new(settings, workers, Box::new(open))
}

/// Where sessions get their graph from. Some are opened when the bundle may have been changed: they get the same bytes, or
/// none.
enum Source {
    /// Bytes that were compared when the bundle was opened.
    Read(GraphFiles),
    /// The compiled form, or the bundle's files where it is gone, which are compared again then.
    Compiled { entry: compiled::Entry, bundle: Box<Bundle>, variant: Variant, verifier: Verifier },
}

/// Nobody else sees whether products in bfloat16 are right: with 8 bits of each factor logits must be nearly those of 24.
fn check_fast_math(bundle: &Bundle, variant: &Variant, verifier: &Verifier, options: &SessionOptions) -> Result<()> {
    /// A share of the largest logit, or of 1.
    const TOLERANCE: f32 = 2e-2;
    let graph = bundle.graph(variant, verifier, options.operators)?;
    let encoding =
        bundle.tokenizer()?.encode(&"As many words as in a text of the usual length, and some. ".repeat(2))?;
    let batch = Batch::pad([&encoding, &encoding].into_iter(), bundle.config.pad_token_id);
    let logits =
        |fast_math| Session::of(&graph, &SessionOptions { fast_math, profile: None, ..options.clone() })?.run(&batch);
    let (fast, exact) = (logits(true)?, logits(false)?);
    let bound = TOLERANCE * exact.iter().fold(1.0, |largest: f32, logit| largest.max(logit.abs()));
    // In that order NaN is the largest of all.
    let differences = exact.iter().zip(&fast).map(|(exact, fast)| (exact - fast).abs());
    let difference = differences.max_by(f32::total_cmp).unwrap_or_default();
    match difference <= bound {
        true => Ok(()),
        false => Err(Error::Setting {
            name: "fast_math".to_owned(),
            expected: format!("logits within {bound:.1e} of those without it"),
            got: format!("a difference of {difference:.1e}: ONNX Runtime computes something else on this processor"),
        }),
    }
}

/// Opens a session of which it is proven that the device computes what it was asked to: ONNX Runtime says nothing of
/// operators that it leaves to the processor.
fn open_placed(graph: &GraphFiles, options: &SessionOptions) -> Result<Session> {
    let batch =
        Batch { rows: 1, columns: 3, input_ids: vec![0; 3], attention_mask: vec![1; 3], token_type_ids: vec![0; 3] };
    let (session, placement) = Session::placed(graph, options, &batch)?;
    let left = placement.left_on_cpu();
    if !left.is_empty() {
        let message = format!("ONNX Runtime leaves these operators to the processor: {}", left.join(", "));
        return Err(Error::device(options.device, message));
    }
    if !placement.is_used(options.device.provider_name()) {
        // CUDA, for TensorRT.
        let others: Vec<&str> = placement.counts.keys().map(String::as_str).collect();
        let message = format!("ONNX Runtime leaves all operators to {}", others.join(", "));
        return Err(Error::device(options.device, message));
    }
    Ok(session)
}

/// What TensorRT must know of a graph: its inputs are read by loading it on the CPU.
fn engine(
    bundle: &Bundle,
    variant: &Variant,
    graph: &GraphFiles,
    batch_size: usize,
    options: &Options,
) -> Result<Engine> {
    let plain = SessionOptions { ort_lib: options.session.ort_lib.clone(), ..SessionOptions::default() };
    let inputs = Session::of(graph, &plain)?.inputs().into_iter().map(str::to_owned).collect();
    let max_columns = bundle.manifest.max_length;
    let folder =
        |cache: &PathBuf| compiled::engine_folder(cache, bundle, variant, &format!("{batch_size}x{max_columns}"));
    let cache = options.cache.as_ref().and_then(folder);
    Ok(Engine { cache, max_rows: batch_size, max_columns, precision: variant.precision, inputs })
}
