//! A graph loaded into ONNX Runtime: batches in, logits out. No type of ort shows in its interface.

#![expect(clippy::result_large_err, reason = "ort's builder comes back in its errors")]

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use ort::{
    logging::LogLevel,
    session::{
        RunOptions, Session as OrtSession, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::TensorRef,
};

use crate::{
    batch::Batch,
    bundle::{Bundle, Variant, Verifier, Verify},
    compiled::Entry,
    device::{ATTENTION_OPTION, Attention, Device, GpuOptions, execution_providers},
    error::{Error, Result},
    external::LoadedSession,
    fused,
    graph::{GraphFiles, Operators, PACKED, fuse},
    hidden::HiddenFolder,
    library, own,
    placement::Placement,
    prediction::Answer,
    processor::has_bf16_products,
};

/// ONNX Runtime's name for [`SessionOptions::fast_math`].
const FAST_MATH: &str = "mlas.enable_gemm_fastmath_arm64_bfloat16";

/// The graph's output with a logit a label.
pub const LOGITS: &str = "logits";
/// The graph's output with a logit a label of a task, by its place among the bundle's: `logits`, `logits_1`, `logits_2`.
pub fn logits_of(task: usize) -> String {
    if task == 0 { LOGITS.to_owned() } else { format!("{LOGITS}_{task}") }
}

/// The graph's output that says how far a text is from those of training; not every graph has it.
pub const DISTANCE: &str = "distance";

/// How a session is made. [`SessionOptions::default`] is right for a desktop: the CPU, all cores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// ONNX Runtime's library; none: it is searched for (see `nimbert classify --help`). The first session of a process decides.
    pub ort_lib: Option<PathBuf>,
    /// Where the graph runs. A device that cannot be used is an error, never a silent fall-back; [`Device::Auto`] is
    /// resolved by [`crate::Classifier`], and is the CPU here.
    pub device: Device,
    /// Threads for one run, and for reading the texts of a call; none: as many as the process may use ([`available_threads`]).
    pub threads: Option<usize>,
    /// Whether threads keep their core busy for a while after a run, in case another comes. Default: only within a run,
    /// where they wait for each other by the microsecond: a third faster than sleeping there, and idle when there is
    /// nothing to do.
    pub spinning: bool,
    /// Whether products of an fp32 graph may be computed in bfloat16, as processors of ARM with that format do about twice
    /// as fast: 8 bits of each factor instead of 24. An error where ONNX Runtime cannot: on other processors and systems. Where
    /// [`Device::Auto`] has chosen a GPU, it says nothing.
    /// [`crate::Classifier`] compares logits with and without it first, and refuses what is far off.
    pub fast_math: bool,
    /// What a GPU may use.
    pub gpu: GpuOptions,
    /// Writes a trace of all runs when the session is dropped, for `chrome://tracing` or Perfetto: the name begins so, and
    /// ends with the session's number, the time and `.json`.
    pub profile: Option<PathBuf>,
    /// Which operators a graph may have. Default: those that nimbert writes and that optimum exports.
    pub operators: Operators,
    /// Whether only ONNX Runtime's own operators compute, though others of ours, made of several of them, are faster: a graph on the
    /// CPU is given such when it is loaded. Default: those of ours too.
    pub standard_operators: bool,
    /// Writes the graph as ONNX Runtime optimized it for this machine: for looking at, or for counting operators. It has operators of
    /// ours, which nothing else knows, unless [`Self::standard_operators`] leaves them out.
    pub optimized_model: Option<PathBuf>,
}

impl SessionOptions {
    /// Whether operators of ours take the place of several of ONNX Runtime's.
    pub(crate) fn fuses(&self) -> bool {
        matches!(self.device, Device::Cpu | Device::Auto) && !self.standard_operators && fused::is_supported()
    }

    /// The graph as it runs with these options.
    fn graph<'a>(&self, path: &Path, graph: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let fused = if self.fuses() { fuse(path, graph)? } else { None };
        Ok(fused.map_or(Cow::Borrowed(graph), Cow::Owned))
    }
}

/// How many threads the process may use: cores, less what affinity and, on Linux, its control group forbid.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A loaded graph with the inputs `input_ids`, `attention_mask` and, where the model has it, `token_type_ids`
/// (`int64 [batch, sequence]`), and the outputs `logits` (`float [batch, labels]`), of each further task `logits_1` and so on ([`logits_of`]), and perhaps `distance`
/// (`float [batch, 1]`).
#[derive(Debug)]
pub struct Session {
    inner: LoadedSession,
    path: PathBuf,
    is_profiled: bool,
    is_packed: bool,
}

impl Session {
    /// Loads the graph at `path`. It is checked first: see [`SessionOptions::operators`].
    ///
    /// # Errors
    /// [`Error::LibraryNotFound`], [`Error::Device`], [`Error::Session`], and [`Error::Format`] for a graph that does not
    /// load, has other inputs or outputs, or may not be run.
    pub fn open(path: &Path, options: &SessionOptions) -> Result<Self> {
        Self::of(&GraphFiles::open(path, options.operators)?, options)
    }

    /// Loads a graph that was read and checked.
    ///
    /// # Errors
    /// Those of [`Session::open`].
    pub(crate) fn of(graph: &GraphFiles, options: &SessionOptions) -> Result<Self> {
        let mut builder = Builder::new(&graph.path, options)?;
        if let Some(optimized) = &options.optimized_model {
            builder = builder.with(|builder| builder.with_optimized_model_path(optimized))?;
        }
        builder.commit(graph, options)
    }

    /// Loads a bundle's graph in the form that an earlier process compiled for this machine, or compiles it now. Only for
    /// the CPU; where the form cannot be kept, or is not what it was, the graph itself is loaded.
    ///
    /// # Errors
    /// Those of [`Session::open`], and of [`Bundle::graph`].
    pub(crate) fn compiled(
        bundle: &Bundle,
        variant: &Variant,
        entry: &Entry,
        verifier: &Verifier,
        options: &SessionOptions,
    ) -> Result<Self> {
        let path = bundle.store.path(&variant.file);
        let read = || Self::of(&bundle.graph(variant, verifier, options.operators)?, options);
        if !entry.is_in_own_place() || (entry.is_there() && !entry.is_own()) {
            // Somebody else's, or one that somebody else may write or exchange: it could be any graph.
            return read();
        }
        let map = |file: &Path| {
            let level = GraphOptimizationLevel::Disable;
            let builder = Builder::new(&path, options)?;
            builder.with(|builder| builder.with_optimization_level(level))?.commit_mapped(file, options)
        };
        if entry.is_there() {
            if let Ok(session) = entry.verify(verifier).and_then(|()| map(&entry.graph())) {
                entry.touch();
                return Ok(session);
            }
            entry.remove();
        }
        #[cfg(feature = "tracing")]
        tracing::debug!(graph = %path.display(), entry = %entry.graph().display(), "compiling the graph");
        let unprofiled = SessionOptions { profile: None, ..options.clone() };
        // From a copy of our own, which nobody changes or cuts short while it is mapped.
        let compile = |source: &Path, compiled: &Path, data_name: &str| {
            let source = bundle.copy_graph(variant, verifier, options.operators, source)?;
            if options.fuses() {
                let copied = fs::read(&source).map_err(|error| Error::io(&source, error))?;
                if let Cow::Owned(fused) = options.graph(&path, &copied)? {
                    fs::write(&source, fused).map_err(|error| Error::io(&source, error))?;
                }
            }
            let builder = Builder::new(&path, &unprofiled)?;
            let configs = [
                ("session.save_external_prepacked_constant_initializers", "1"),
                ("session.optimized_model_external_initializers_file_name", data_name),
                ("session.optimized_model_external_initializers_min_size_in_bytes", "4096"),
            ];
            let builder = builder.with(|builder| builder.with_optimized_model_path(compiled))?;
            let builder = configs.iter().try_fold(builder, |builder, (key, value)| {
                builder.with(|builder| builder.with_config_entry(key, value))
            })?;
            builder.commit_mapped(&source, &unprofiled)
        };
        // The form that is mapped needs less memory than the session that made it.
        entry.create(compile, map).or_else(|_| read())
    }

    fn validate(&self) -> Result<()> {
        const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs = self.inputs();
        if !INPUTS[..2].iter().all(|name| inputs.contains(name)) || !inputs.iter().all(|name| INPUTS.contains(name)) {
            let expected = format!("a graph with the inputs {} (the last is optional)", INPUTS.join(", "));
            return Err(Error::format(&self.path, expected, inputs.join(", ")));
        }
        let outputs: Vec<&str> = self.inner.get().outputs().iter().map(|output| output.name()).collect();
        if !outputs.contains(&LOGITS) {
            return Err(Error::format(&self.path, "a graph with the output logits", outputs.join(", ")));
        }
        Ok(())
    }

    /// Whether padding costs nothing but its memory: the graph was given operators of ours by which it computes tokens alone.
    pub(crate) fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// The names of the graph's inputs.
    pub fn inputs(&self) -> Vec<&str> {
        self.inner.get().inputs().iter().map(|input| input.name()).collect()
    }

    /// Runs the graph: logits row-major `[batch.rows, labels]`.
    ///
    /// # Errors
    /// [`Error::Session`] if the run fails, [`Error::Format`] if the graph's logits are not `[rows, labels]` floats.
    pub fn run(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let logits = self.run_outputs_and(AfterRun::KeepMemory, batch, &[LOGITS])?.remove(0);
        self.check_logits(batch, &logits)?;
        Ok(logits.values)
    }

    /// Runs the graph: an answer a row.
    ///
    /// # Errors
    /// Those of [`Session::run`].
    pub fn answers(&mut self, batch: &Batch) -> Result<Vec<Answer>> {
        self.answers_and(AfterRun::KeepMemory, batch)
    }

    /// Runs the graph, and says what happens to the memory that it needed.
    pub(crate) fn answers_and(&mut self, after: AfterRun, batch: &Batch) -> Result<Vec<Answer>> {
        let tasks = self.tasks();
        let mut names: Vec<String> = (0..tasks).map(logits_of).collect();
        names.extend(self.has_distance().then(|| DISTANCE.to_owned()));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut outputs = self.run_outputs_and(after, batch, &names)?;
        let distances = outputs.drain(tasks..).next();
        outputs.iter().try_for_each(|logits| self.check_logits(batch, logits))?;
        if let Some(wrong) = distances.as_ref().filter(|distances| distances.shape != [batch.rows, 1]) {
            let expected = format!("distances of shape [{}, 1]", batch.rows);
            return Err(Error::format(&self.path, expected, format!("{:?}", wrong.shape)));
        }
        let answer = |row: usize| {
            let mut logits =
                outputs.iter().map(|Output { shape, values }| values[row * shape[1]..][..shape[1]].to_vec());
            Answer {
                logits: logits.next().expect("a graph has logits"),
                further: logits.collect(),
                distance: distances.as_ref().map(|distances| distances.values[row]),
            }
        };
        Ok((0..batch.rows).map(answer).collect())
    }

    fn check_logits(&self, batch: &Batch, logits: &Output) -> Result<()> {
        if logits.shape.len() != 2 || logits.shape[0] != batch.rows {
            let expected = format!("logits of shape [{}, labels]", batch.rows);
            return Err(Error::format(&self.path, expected, format!("{:?}", logits.shape)));
        }
        Ok(())
    }

    /// Whether the graph says how far a text is from those of training.
    pub fn has_distance(&self) -> bool {
        self.has_output(DISTANCE)
    }

    /// How many tasks it has logits for.
    pub fn tasks(&self) -> usize {
        (1..).find(|task| !self.has_output(&logits_of(*task))).expect("a graph has not all outputs")
    }

    fn has_output(&self, name: &str) -> bool {
        self.inner.get().outputs().iter().any(|output| output.name() == name)
    }

    /// Runs the graph and returns the outputs of those names, which must be floats.
    ///
    /// # Errors
    /// [`Error::Session`] if the run fails or an output is none of floats, [`Error::Format`] if the graph has it not.
    pub fn run_outputs(&mut self, batch: &Batch, names: &[&str]) -> Result<Vec<Output>> {
        self.run_outputs_and(AfterRun::KeepMemory, batch, names)
    }

    fn run_outputs_and(&mut self, after: AfterRun, batch: &Batch, names: &[&str]) -> Result<Vec<Output>> {
        let Self { inner, path, .. } = self;
        let inner = inner.get_mut();
        let session_error = |error: ort::Error| Error::session(path, error);
        let shape = [batch.rows, batch.columns];
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(3);
        for input in inner.inputs() {
            let data = match input.name() {
                "input_ids" => &batch.input_ids,
                "attention_mask" => &batch.attention_mask,
                _ => &batch.token_type_ids,
            };
            let tensor = TensorRef::from_array_view((shape, data.as_slice())).map_err(session_error)?;
            inputs.push((input.name().to_owned().into(), tensor.into()));
        }
        let mut options = RunOptions::new().map_err(session_error)?;
        if after == AfterRun::ReleaseMemory && HAS_ARENA {
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(session_error)?;
        }
        let outputs = inner.run_with_options(inputs, &options).map_err(session_error)?;
        let extract = |&name: &&str| {
            let Some(output) = outputs.get(name) else {
                return Err(Error::format(path, format!("a graph with the output {name}"), "none"));
            };
            let (shape, values) = output.try_extract_tensor::<f32>().map_err(session_error)?;
            Ok(Output { shape: shape.iter().map(|&size| size as usize).collect(), values: values.to_vec() })
        };
        names.iter().map(extract).collect()
    }

    /// Loads a bundle's graph, compared with its digests, runs `batch`, and reads from the trace of that run which execution
    /// provider computed what. Later runs are traced only if [`SessionOptions::profile`] asks for it.
    ///
    /// # Errors
    /// Those of [`Session::open`] and [`Session::run`]; [`Error::Checksum`]; [`Error::Io`] if the trace cannot be written.
    pub fn open_and_place(
        bundle: &Bundle,
        variant: &Variant,
        options: &SessionOptions,
        batch: &Batch,
    ) -> Result<(Self, Placement)> {
        let graph = bundle.graph(variant, &Verifier::new(Verify::Always, None), options.operators)?;
        Self::placed(&graph, options, batch)
    }

    /// The same of a graph that was read and checked.
    pub(crate) fn placed(graph: &GraphFiles, options: &SessionOptions, batch: &Batch) -> Result<(Self, Placement)> {
        // Where nobody else can put a file in the trace's place.
        let folder = HiddenFolder::create(&std::env::temp_dir(), "nimbert-placement")?;
        own::set_mode(folder.path(), 0o700).map_err(|error| Error::io(folder.path(), error))?;
        let prefix = folder.path().join("trace");
        let mut session = Self::of(graph, &SessionOptions { profile: Some(prefix), ..options.clone() })?;
        session.run(batch)?;
        session.is_profiled = false;
        let trace = session.inner.get_mut().end_profiling().map_err(|error| Error::session(&graph.path, error))?;
        let placement = Placement::read(Path::new(&trace))?;
        if options.profile.is_some() {
            // A session has one trace. What it holds of the GPU's memory is needed for the other.
            drop(session);
            session = Self::of(graph, options)?;
        }
        Ok((session, placement))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_profiled {
            // Without it the file stays empty; there is nobody to tell that it could not be written.
            let _ = self.inner.get_mut().end_profiling();
        }
    }
}

/// Whether ONNX Runtime keeps what runs have needed on the CPU. With pointers of 32 bits it does not, and refuses to give it back.
pub(crate) const HAS_ARENA: bool = cfg!(target_pointer_width = "64");

/// What happens to the memory that a run needed: kept, the next run finds it at once, a quarter faster for a large batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRun {
    KeepMemory,
    ReleaseMemory,
}

/// One output of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its size along each axis.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

/// ort's builder, with the graph's path for its errors.
struct Builder<'a> {
    inner: SessionBuilder,
    path: &'a Path,
}

impl<'a> Builder<'a> {
    /// What every session has.
    fn new(path: &'a Path, options: &SessionOptions) -> Result<Self> {
        let environment = library::environment(options.ort_lib.as_deref())?;
        let inner = OrtSession::builder(&environment).map_err(|error| Error::session(path, error))?;
        let threads = options.threads.unwrap_or_else(available_threads);
        let mut builder = Self { inner, path }
            .with(|builder| builder.with_optimization_level(GraphOptimizationLevel::All))?
            .with(|builder| builder.with_intra_threads(threads))?
            .with(|builder| {
                let stops = if options.spinning { "0" } else { "1" };
                builder.with_config_entry("session.force_spinning_stop", stops)
            })?
            // It has another format, which it knows by four bytes: what was checked as ONNX is to be read as that.
            .with(|builder| builder.with_config_entry("session.load_model_format", "ONNX"))?
            // One plan of memory for every shape of a batch would be kept, and there are many shapes.
            .with(|builder| builder.with_memory_pattern(false))?;
        if options.fast_math {
            if !has_bf16_products() {
                let (name, expected) = ("fast_math".to_owned(), "aarch64 with bfloat16, under Linux".to_owned());
                return Err(Error::Setting { name, expected, got: "a machine without".to_owned() });
            }
            builder = builder.with(|builder| builder.with_config_entry(FAST_MATH, "1"))?;
        }
        if options.fuses() {
            let domain = fused::domain(threads).map_err(|error| Error::session(path, error))?;
            builder = builder.with(|builder| builder.with_operators(domain))?;
        }
        if std::env::var_os("ORT_LOG").is_none() {
            // What is wrong comes back as an error; ONNX Runtime would write it to standard error too.
            builder = builder.with(|builder| builder.with_log_level(LogLevel::Fatal))?;
        }
        if let Some(prefix) = &options.profile {
            // ONNX Runtime would write to nowhere without a word.
            let folder = prefix.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
            // ONNX Runtime appends the second only, and sessions are made together.
            static SESSIONS: AtomicUsize = AtomicUsize::new(1);
            let prefix = prefix.with_added_extension(SESSIONS.fetch_add(1, Ordering::Relaxed).to_string());
            builder = builder.with(|builder| builder.with_profiling(prefix))?;
        }
        let providers = |attention| execution_providers(options.device, &options.gpu, attention);
        let preferred = providers(Attention::Own);
        if !preferred.is_empty() {
            let refused = |error: ort::Error<_>| Error::device(options.device, error);
            builder.inner = match builder.inner.with_execution_providers(preferred) {
                Err(error) if error.to_string().contains(ATTENTION_OPTION) => {
                    error.recover().with_execution_providers(providers(Attention::Any)).map_err(refused)?
                }
                result => result.map_err(refused)?,
            };
        }
        Ok(builder)
    }

    fn with<E: std::fmt::Display>(
        self,
        step: impl FnOnce(SessionBuilder) -> std::result::Result<SessionBuilder, E>,
    ) -> Result<Self> {
        let Self { inner, path } = self;
        Ok(Self { inner: step(inner).map_err(|error| Error::session(path, error))?, path })
    }

    /// Loads a graph from its bytes.
    fn commit(self, graph: &GraphFiles, options: &SessionOptions) -> Result<Session> {
        let name = graph.data_name();
        let data = graph.data.clone().filter(|data| !data.is_empty()).map(|data| (name.as_path(), data));
        let bytes = options.graph(&graph.path, &graph.bytes)?;
        let loaded = LoadedSession::from_memory(self.inner, &bytes, data);
        Self::session(self.path, loaded, options)
    }

    /// Loads another form of the builder's graph, and maps its large tensors.
    fn commit_mapped(self, file: &Path, options: &SessionOptions) -> Result<Session> {
        let loaded = LoadedSession::from_file(self.inner, file);
        Self::session(self.path, loaded, options)
    }

    fn session(path: &Path, loaded: ort::Result<LoadedSession>, options: &SessionOptions) -> Result<Session> {
        let inner = loaded.map_err(|error| match options.device {
            // What does not load is no graph, or damaged: the caller's, like any other file.
            Device::Cpu | Device::Auto => Error::format(path, "a graph that ONNX Runtime loads", error.to_string()),
            // Some of a GPU's libraries are looked for only now.
            device => Error::device(device, error),
        })?;
        let is_packed = inner.get().metadata().is_ok_and(|metadata| metadata.custom(PACKED).is_some());
        let session = Session { inner, path: path.to_owned(), is_profiled: options.profile.is_some(), is_packed };
        session.validate()?;
        #[cfg(feature = "tracing")]
        tracing::debug!(graph = %path.display(), device = %options.device, threads = options.threads, "session opened");
        Ok(session)
    }
}
