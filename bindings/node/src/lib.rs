//! nimbert for Node.js: what index.js cannot do itself.
//!
//! Nothing here waits on JavaScript's thread: bundles are opened and closed on a thread of libuv's pool, and texts are
//! classified on the library's own. Texts come one by one and answers go as a few arrays of numbers, so that index.js
//! can give the event loop its turn between them. A promise keeps the event loop alive, a classifier that is idle does
//! not.

mod bytes;

use std::{str::FromStr, sync::Arc, time::Duration};

use napi::{
    Env, Error, JsError, Result, Task,
    bindgen_prelude::{
        AsyncTask, BufferSlice, Either, Float32Array, Float64Array, Object, ToNapiValue, Uint8Array, Uint32Array,
    },
};
use napi_derive::napi;
use nimbert::{
    Background, BackgroundOptions, Options, OwnedExplained, OwnedInput, Pending, Prediction, TELEMETRY_VARIABLE,
    TextInput, explain::Explanation as Explained, guard::guarded,
};

use crate::bytes::Bytes;

/// What JavaScript finds in `error.code`: the name of the library's kind of error in upper case.
type Code = String;

/// A classifier whose calls nobody waits for.
pub struct Opened {
    background: Background,
    /// Behind it: fields are dropped in this order.
    _bytes: Option<Bytes>,
}

/// A classifier; one that is closed answers nothing any more.
#[napi]
pub struct Classifier {
    opened: Option<Opened>,
}

/// Texts for one call.
#[napi]
#[derive(Default)]
pub struct Inputs {
    inputs: Vec<OwnedInput>,
}

/// A call that runs.
#[napi]
pub struct Call {
    pending: Pending,
}

/// What one call may do without.
#[napi(object, object_to_js = false)]
pub struct CallOptions {
    /// After so many milliseconds it fails.
    pub timeout_ms: Option<f64>,
    /// What becomes of texts that are too long, by its name in the library.
    pub truncation: Option<String>,
    /// So many labels are ranked; of one, the best, if it is not said.
    pub top_k: Option<u32>,
}

/// What of an answer is explained.
#[napi(object, object_to_js = false)]
pub struct ExplainOptions {
    /// The answer to which task; none: to the first.
    pub task: Option<String>,
    /// Why which label; none: the one that the text gets.
    pub label: Option<String>,
    /// What a word's attribution is, by its name in the library.
    pub attribution: Option<String>,
}

/// Why a text gets a label, or does not.
#[napi(object, object_from_js = false)]
pub struct Explanation {
    /// The answer to the task that is explained.
    pub answers: Answers,
    /// The place of that task among the bundle's.
    pub task_id: u32,
    /// The id of the label.
    pub label_id: u32,
    /// What is explained, of the whole text.
    pub value: f64,
    /// The same of a text without words.
    pub base_value: f64,
    /// Where each word begins, in units of UTF-16.
    pub starts: Uint32Array,
    /// Where it ends.
    pub ends: Uint32Array,
    /// 1 for a word of the second text, or else 0.
    pub of_pair: Uint8Array,
    /// By how much each word raises what is explained.
    pub attributions: Float64Array,
    /// Words that are cut off.
    pub unread_words: u32,
    /// What the attributions are.
    pub attribution: &'static str,
}

/// What a task and its labels are called.
#[napi(object, object_from_js = false)]
pub struct TaskNames {
    /// None where there is only one.
    pub name: Option<String>,
    /// In the order of their ids.
    pub labels: Vec<String>,
}

/// The answers to one task for the texts of one call, one text after the other.
#[napi(object, object_from_js = false)]
pub struct Answers {
    /// A score for every label.
    pub scores: Float32Array,
    /// A logit for every label.
    pub logits: Float32Array,
    /// 1 for every label that holds, or else 0.
    pub holds: Uint8Array,
    /// The ids of the best labels, best first: of as many as were asked for, or as there are.
    pub ranking: Uint32Array,
    /// 1 if the classifier is unsure, or else 0.
    pub abstained: Uint8Array,
    /// Whether each label is in the set, row by row; empty where the bundle has no sets.
    pub set: Uint8Array,
    /// By row; empty where the bundle has no distances.
    pub distances: Float32Array,
    /// By row: 1 where the text is like nothing in training.
    pub unknown: Uint8Array,
}

/// A bundle that is being opened.
pub struct Open {
    source: Source,
    settings: Vec<(String, String)>,
}

enum Source {
    Path(String),
    Bytes(Bytes),
}

/// A classifier that is being closed.
pub struct Close(Option<Opened>);

/// The version of the compiled module.
#[napi]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Whether ONNX Runtime's library will find in the environment whether it may call home.
#[napi]
pub fn telemetry_is_decided() -> bool {
    std::env::var_os(TELEMETRY_VARIABLE).is_some()
}

/// Opens a bundle: a path, or the content of a file. `settings` are options by their names in the library.
#[napi]
pub fn open(source: Either<String, BufferSlice<'_>>, settings: Vec<(String, String)>) -> AsyncTask<Open> {
    let source = match source {
        Either::A(path) => Source::Path(path),
        Either::B(content) => Source::Bytes(Bytes::copy_of(&content)),
    };
    AsyncTask::new(Open { source, settings })
}

#[napi]
impl Classifier {
    /// What it decides, in the order of [`Answers`].
    #[napi(getter)]
    pub fn tasks(&self) -> Result<Vec<TaskNames>> {
        let names = |task: &nimbert::Task| TaskNames { name: task.name.clone(), labels: task.labels.clone() };
        Ok(self.opened()?.classifier().tasks().iter().map(names).collect())
    }

    /// Where the graph runs.
    #[napi(getter)]
    pub fn device(&self) -> Result<String> {
        Ok(self.opened()?.classifier().device().to_string())
    }

    /// How many tokens of a text are read.
    #[napi(getter)]
    pub fn max_length(&self) -> Result<f64> {
        Ok(self.opened()?.classifier().bundle().manifest.max_length as f64)
    }

    /// Classifies texts, which are taken out of `inputs`: the call, and the promise of its [`Answers`], by task.
    #[napi]
    pub fn submit<'env>(
        &self,
        env: &'env Env,
        inputs: &mut Inputs,
        options: CallOptions,
    ) -> Result<(Call, Object<'env>), Code> {
        let ranked = options.top_k.unwrap_or(1) as usize;
        let options = options.of_background()?;
        let inputs = std::mem::take(&mut inputs.inputs);
        let answers = move |predictions: Vec<Prediction>| Answers::by_task(&predictions, ranked);
        self.promised(env, answers, |background, done| background.submit(inputs, options, done))
    }

    /// Explains the answer for the one text of `inputs`, which is taken out of it: the call, and the promise of an
    /// [`Explanation`].
    #[napi]
    pub fn explain<'env>(
        &self,
        env: &'env Env,
        inputs: &mut Inputs,
        of: ExplainOptions,
        options: CallOptions,
    ) -> Result<(Call, Object<'env>), Code> {
        let options = options.of_background()?;
        let attribution = named("attribution", of.attribution.as_deref())?;
        let of = OwnedExplained { task: of.task, label: of.label, attribution };
        let input = inputs.inputs.pop().ok_or_else(|| Error::new("INPUT".to_owned(), "expected a text, found none"))?;
        let explained = input.clone();
        let explanation = move |explanation: Explained| Explanation::new(&explanation, (&explained).into());
        self.promised(env, explanation, |background, done| background.explain(input, of, options, done))
    }

    /// A call that `submit` begins, and the promise of what `answers` makes of what comes of it.
    fn promised<'env, T: 'static, A: ToNapiValue + Send + 'static>(
        &self,
        env: &'env Env,
        answers: impl FnOnce(T) -> A + Send + 'static,
        submit: impl FnOnce(&Background, Box<dyn FnOnce(nimbert::Result<T>) + Send>) -> Pending,
    ) -> Result<(Call, Object<'env>), Code> {
        let background = self.opened().map_err(internal)?;
        let (deferred, promise) = env.create_deferred().map_err(internal)?;
        // Runs on a thread of the library's. If JavaScript's has ended meanwhile, nobody looks at what is resolved.
        let done = move |result: nimbert::Result<T>| {
            let answers = result.map(answers).map_err(|error| coded(&error));
            deferred.resolve(move |env| answers.map_err(|error| rejection(env, error)));
        };
        Ok((Call { pending: submit(background, Box::new(done)) }, promise))
    }

    /// Ends the classifier: calls that run are cancelled. The promise is resolved when its memory is free.
    #[napi]
    pub fn close(&mut self) -> AsyncTask<Close> {
        AsyncTask::new(Close(self.opened.take()))
    }

    /// The same, done on return: for the end of the process.
    #[napi]
    pub fn close_now(&mut self) {
        self.opened = None;
    }

    fn opened(&self) -> Result<&Background> {
        let opened = self.opened.as_ref().ok_or_else(|| Error::from_reason("the classifier is closed"))?;
        Ok(&opened.background)
    }
}

#[napi]
impl Inputs {
    /// None yet.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text, or a pair of texts.
    #[napi]
    pub fn push(
        &mut self,
        text: Either<String, BufferSlice<'_>>,
        pair: Option<Either<String, BufferSlice<'_>>>,
    ) -> Result<(), Code> {
        self.inputs.push(OwnedInput { text: owned(text)?, pair: pair.map(owned).transpose()? });
        Ok(())
    }
}

#[napi]
impl Call {
    /// Ends the call: its promise is rejected.
    #[napi]
    pub fn cancel(&self) {
        self.pending.cancel();
    }
}

impl CallOptions {
    fn of_background(&self) -> Result<BackgroundOptions, Code> {
        // More than can be said is no limit.
        let timeout = self.timeout_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        Ok(BackgroundOptions { timeout, truncation: named("truncation", self.truncation.as_deref())? })
    }
}

impl Explanation {
    fn new(explained: &Explained, input: TextInput<'_>) -> Self {
        let ranges = explained.ranges(input, char::len_utf16);
        let words = &explained.words;
        Self {
            answers: Answers::new(&[&explained.prediction], 1),
            task_id: explained.task_id as u32,
            label_id: explained.label_id as u32,
            value: explained.value,
            base_value: explained.base_value,
            starts: ranges.iter().map(|range| range.start as u32).collect::<Vec<_>>().into(),
            ends: ranges.iter().map(|range| range.end as u32).collect::<Vec<_>>().into(),
            of_pair: words.iter().map(|word| u8::from(word.is_of_pair)).collect::<Vec<_>>().into(),
            attributions: words.iter().map(|word| word.attribution).collect::<Vec<_>>().into(),
            unread_words: explained.unread as u32,
            attribution: explained.attribution.name(),
        }
    }
}

impl Answers {
    fn by_task(predictions: &[Prediction], ranked: usize) -> Vec<Self> {
        let tasks = predictions.first().map_or(0, |prediction| 1 + prediction.further.len());
        let of_task =
            |task: usize| predictions.iter().filter_map(|prediction| prediction.tasks().nth(task)).collect::<Vec<_>>();
        (0..tasks).map(|task| Self::new(&of_task(task), ranked)).collect()
    }

    fn new(predictions: &[&Prediction], ranked: usize) -> Self {
        let scores = predictions.iter().flat_map(|prediction| prediction.scores.iter().map(|(_, score)| *score));
        let logits = predictions.iter().flat_map(|prediction| prediction.logits.iter().copied());
        let row = |prediction: &Prediction, ids: &[usize]| {
            let mut row = vec![0; prediction.scores.len()];
            ids.iter().for_each(|&id| row[id] = 1);
            row
        };
        let holds = predictions.iter().flat_map(|prediction| row(prediction, prediction.label_ids()));
        let ranking = predictions.iter().flat_map(|prediction| prediction.ranking().into_iter().take(ranked));
        let set = predictions.iter().filter_map(|prediction| Some(row(prediction, prediction.set_ids()?)));
        let distances = predictions.iter().filter_map(|prediction| prediction.distance);
        let unknown = predictions.iter().map(|prediction| u8::from(prediction.unknown));
        let abstained = predictions.iter().map(|prediction| u8::from(prediction.abstained));
        Self {
            scores: Float32Array::new(scores.collect()),
            logits: Float32Array::new(logits.collect()),
            holds: Uint8Array::new(holds.collect()),
            ranking: Uint32Array::new(ranking.map(|id| id as u32).collect()),
            abstained: Uint8Array::new(abstained.collect()),
            set: Uint8Array::new(set.flatten().collect()),
            distances: Float32Array::new(distances.collect()),
            unknown: Uint8Array::new(unknown.collect()),
        }
    }
}

impl Open {
    fn opened(&self) -> nimbert::Result<Opened> {
        let mut options = Options::default();
        self.settings.iter().try_for_each(|(name, value)| options.set(name, value))?;
        let (classifier, bytes) = match &self.source {
            Source::Path(path) => (nimbert::Classifier::open(path, &options)?, None),
            Source::Bytes(bytes) => (bytes.open(&options)?, Some(bytes.clone())),
        };
        Ok(Opened { background: Background::new(Arc::new(classifier)), _bytes: bytes })
    }
}

impl Task for Open {
    type Output = Result<Opened, Code>;
    type JsValue = Classifier;

    fn compute(&mut self) -> Result<Self::Output> {
        // A panic would end the process.
        let opened = guarded(|| self.opened()).map(|opened| opened.map_err(|error| coded(&error)));
        Ok(opened.unwrap_or_else(|message| Err(Error::new("PANIC".to_owned(), message))))
    }

    fn resolve(&mut self, env: Env, opened: Self::Output) -> Result<Classifier> {
        opened.map(|opened| Classifier { opened: Some(opened) }).map_err(|error| rejection(env, error))
    }
}

impl Task for Close {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }

    fn resolve(&mut self, _env: Env, _closed: ()) -> Result<()> {
        Ok(())
    }
}

/// A text as the library takes it.
fn owned(text: Either<String, BufferSlice<'_>>) -> Result<String, Code> {
    match text {
        Either::A(text) => Ok(text),
        Either::B(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|error| Error::new("INPUT".to_owned(), format!("expected a text in UTF-8, found {error}"))),
    }
}

/// One of few values by its name; of none, the default.
fn named<T: FromStr<Err = String> + Default>(what: &str, name: Option<&str>) -> Result<T, Code> {
    let value = name.map(str::parse).transpose();
    Ok(value.map_err(|reason| Error::new("SETTING".to_owned(), format!("{what}: {reason}")))?.unwrap_or_default())
}

fn coded(error: &nimbert::Error) -> Error<Code> {
    Error::new(error.kind().name().to_uppercase(), error)
}

/// An error of napi's, which index.js gives no cause for.
fn internal(error: Error) -> Error<Code> {
    Error::new(error.status.as_ref().to_owned(), error.reason)
}

/// What a promise is rejected with: napi's promises know no codes but napi's, so JavaScript's error is made here.
fn rejection(env: Env, error: Error<Code>) -> Error {
    Error::from_unknown_without_coercion(JsError::from(error).into_unknown(env))
}
