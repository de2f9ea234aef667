//! The classifier, and how its calls are waited for.

#![allow(unsafe_code, reason = "bytes of Python are lent to a classifier that is dropped before them")]

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nimbert::{
    CallOptions, Options, Prediction, TextInput, Truncation,
    explain::{Attribution, Explained},
    guard::guarded,
};
use pyo3::{
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
};

use crate::{
    column::Column,
    error,
    rows::{Explanation, Rows},
};

#[pyclass(frozen, module = "nimbert._nimbert")]
pub(crate) struct Classifier {
    // Dropped in this order: bytes outlive the classifier, and with it the threads that read them.
    inner: nimbert::Classifier,
    _source: Source,
}

/// Where a classifier is: a `.nimbert` file in memory, or a path.
#[derive(FromPyObject)]
enum Source {
    Bytes(PyBackedBytes),
    Path(PathBuf),
}

/// What comes with each call: seconds, what becomes of a long text, and a `threading.Event` that cancels it.
type Call<'py> = (Option<f64>, String, Option<Bound<'py, PyAny>>);

/// Texts that are tokenized and run together, as many as `nimbert classify` takes: enough that those of one length
/// meet, few enough that memory stays bounded.
const WINDOW: usize = 2048;
/// A text of so many bytes is run in milliseconds: not worth a thread.
const SHORT: usize = 4096;
/// How often a thread that waits looks for signals, and for what cancels.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a task is called, where there are several, and its labels.
type TaskNames<'a> = (Option<&'a str>, &'a [String]);

#[pymethods]
impl Classifier {
    #[new]
    fn open(py: Python<'_>, source: Source, options: Vec<(String, String)>) -> PyResult<Self> {
        let open = || {
            let mut settings = Options::default();
            options.iter().try_for_each(|(name, value)| settings.set(name, value))?;
            let bytes: &[u8] = match &source {
                Source::Path(path) => return nimbert::Classifier::open(path, &settings),
                Source::Bytes(bytes) => bytes,
            };
            // SAFETY: `bytes` of Python neither change nor move while something refers to them, as `source` does. Only
            // the classifier gets them, and it is dropped before `source`.
            let bytes: &'static [u8] = unsafe { &*std::ptr::from_ref(bytes) };
            nimbert::Classifier::from_bytes(bytes, &settings)
        };
        Ok(Self { inner: error::raised(py, py.detach(|| guarded(open)))?, _source: source })
    }

    /// Name and labels of each task, device, the most tokens that are read, and whether it reads pairs.
    fn about(&self) -> (Vec<TaskNames<'_>>, String, usize, Option<bool>) {
        let manifest = &self.inner.bundle().manifest;
        let tasks = self.inner.tasks().iter().map(|task| (task.name.as_deref(), task.labels.as_slice())).collect();
        (tasks, self.inner.device().to_string(), manifest.max_length, manifest.pairs)
    }

    /// `first`: what the first row is called in messages.
    #[pyo3(signature = (texts, pairs, call, first = 0))]
    fn classify<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        pairs: Option<&Bound<'py, PyAny>>,
        call: Call<'py>,
        first: usize,
    ) -> PyResult<Rows> {
        let texts = Column::read("texts", texts, first)?;
        let pairs = pairs.map(|pairs| Column::read("pairs", pairs, first)).transpose()?;
        let mut inputs: Vec<_> = texts.texts().into_iter().map(|text| TextInput { text, pair: None }).collect();
        if let Some(pairs) = pairs.as_ref().map(Column::texts) {
            if pairs.len() != inputs.len() {
                let [texts, pairs] = [inputs.len(), pairs.len()].map(|count| first + count);
                let message = format!("pairs: expected as many as texts, {texts}, found {pairs}");
                return Err(error::exception(py, "input", &message, None));
            }
            inputs.iter_mut().zip(pairs).for_each(|(input, pair)| input.pair = Some(pair));
        }
        Ok(Rows { predictions: self.run(py, &inputs, call)?, tasks: self.inner.tasks().to_vec() })
    }

    /// `of`: a task and a label, or none, and the name of an attribution.
    fn explain<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        pair: Option<&Bound<'py, PyAny>>,
        of: (Option<String>, Option<String>, String),
        call: Call<'py>,
    ) -> PyResult<Explanation> {
        let (task, label, attribution) = of;
        let attribution: Attribution = named(py, "attribution", &attribution)?;
        let (text, pair) = (string("text", text)?, pair.map(|pair| string("pair", pair)).transpose()?);
        let input = TextInput { text: &text, pair: pair.as_deref() };
        let of = Explained { task: task.as_deref(), label: label.as_deref() };
        let explained = Self::asked(py, call, false, |options| self.inner.explain(input, of, attribution, options))?;
        // As Python counts characters.
        Ok(Explanation { ranges: explained.ranges(input, |_| 1), explained })
    }
}

/// A text.
fn string(name: &str, object: &Bound<'_, PyAny>) -> PyResult<PyBackedStr> {
    let wrong =
        |error: PyErr| error::exception(object.py(), "input", &format!("{name}: {}", error.value(object.py())), None);
    object.extract().map_err(|error: PyErr| wrong(error))
}

/// One of few values by its name.
fn named<T: FromStr<Err = String>>(py: Python<'_>, what: &str, name: &str) -> PyResult<T> {
    name.parse().map_err(|reason| error::exception(py, "setting", &format!("{what}: {reason}"), None))
}

impl Classifier {
    fn run(&self, py: Python<'_>, inputs: &[TextInput<'_>], call: Call<'_>) -> PyResult<Vec<Prediction>> {
        let is_short = |input: &TextInput<'_>| input.text.len() + input.pair.map_or(0, str::len) <= SHORT;
        let is_short = inputs.len() <= 1 && inputs.iter().all(is_short);
        Self::asked(py, call, is_short, |options| {
            let mut predictions = Vec::with_capacity(inputs.len());
            for window in inputs.chunks(WINDOW) {
                predictions.extend(self.inner.classify_with(window.iter().copied(), options)?.0);
            }
            Ok(predictions)
        })
    }

    /// What is answered by `ask`, without holding the interpreter. What is short is not interrupted.
    fn asked<T: Send>(
        py: Python<'_>,
        call: Call<'_>,
        is_short: bool,
        ask: impl FnOnce(CallOptions<'_>) -> nimbert::Result<T> + Send,
    ) -> PyResult<T> {
        let (timeout, truncation, cancel) = call;
        if timeout.is_some_and(f64::is_nan) {
            return Err(error::exception(py, "setting", "timeout: expected seconds, found nan", None));
        }
        // What is past ends at once; what no clock counts to, never.
        let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let truncation: Truncation = named(py, "truncation", &truncation)?;
        let stop = AtomicBool::new(false);
        let ask = || guarded(|| ask(CallOptions { deadline, cancel: Some(&stop), truncation }));
        if is_short && cancel.is_none() {
            return error::raised(py, py.detach(ask));
        }
        error::raised(py, interruptibly(py, &stop, cancel, ask)?)
    }
}

/// Runs `work` on a thread of its own, and meanwhile looks for signals and whether `cancel` is set: either sets `stop`.
/// What a signal raises, such as `KeyboardInterrupt`, is returned once `work` has ended.
fn interruptibly<T: Send>(
    py: Python<'_>,
    stop: &AtomicBool,
    cancel: Option<Bound<'_, PyAny>>,
    work: impl FnOnce() -> T + Send,
) -> PyResult<T> {
    let cancel = cancel.map(Bound::unbind);
    let look = |py: Python<'_>| {
        py.check_signals()?;
        cancel.as_ref().map_or(Ok(false), |cancel| cancel.call_method0(py, "is_set")?.is_truthy(py))
    };
    let (result, looked) = py.detach(|| {
        thread::scope(|scope| {
            // What is set already ends the shortest call.
            let mut looked = Python::try_attach(look).unwrap_or(Ok(false));
            stop.store(!matches!(looked, Ok(false)), Ordering::Relaxed);
            let (running, ended) = channel::<()>();
            let begun = thread::Builder::new().spawn_scoped(scope, move || {
                let _running = running;
                work()
            });
            let worker = match begun {
                Ok(worker) => worker,
                Err(error) => return (Err(error), looked),
            };
            // Nothing is ever sent: the loop ends when the sender is dropped.
            while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                if matches!(looked, Ok(false)) {
                    // An interpreter that ends has no handlers any more.
                    looked = Python::try_attach(look).unwrap_or(Ok(false));
                    stop.store(!matches!(looked, Ok(false)), Ordering::Relaxed);
                }
            }
            (Ok(worker.join()), looked)
        })
    });
    looked?;
    Ok(result?.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
