//! `POST /predict`, as text-embeddings-inference has it, and `POST /classify`, which says all.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nimbert::{CallOptions, Error, Prediction, Queued, TextInput, Timing, guard::guarded};
use serde::Serialize;

use super::{
    Failure, Server,
    admission::Admitted,
    body::{self, Input, Refusal},
};

/// A body that is longer is parsed and tokenized on a thread of its own: that takes more than some milliseconds, in which every other
/// request would be held up.
const SHORT: usize = 4 << 10;

/// One label of an answer.
#[derive(Debug, Serialize)]
struct Score {
    score: f32,
    label: String,
}

/// Tells a call that nobody waits for its answer any more.
struct HangUp(Arc<AtomicBool>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Labels and scores of the first task, as text-embeddings-inference has them.
    Scores,
    /// All that the bundle says, as `nimbert classify --json` writes it.
    All,
}

pub(super) async fn predict(State(server): State<Arc<Server>>, request: Request) -> Response {
    respond(&server, request, Form::Scores).await
}

pub(super) async fn classify(State(server): State<Arc<Server>>, request: Request) -> Response {
    respond(&server, request, Form::All).await
}

async fn respond(server: &Arc<Server>, request: Request, form: Form) -> Response {
    let mut response = match answer(server, request, form).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    };
    if response.status() == StatusCode::REQUEST_TIMEOUT {
        // What else the client sends is not the start of a request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    server.metrics.answered(response.status().as_u16());
    response
}

async fn answer(server: &Arc<Server>, request: Request, form: Form) -> Result<Response, Failure> {
    let (parts, mut body) = request.into_parts();
    let mut admitted = match server.admission.admit(&parts.headers, &mut body).await {
        Ok(admitted) => admitted,
        Err(failure) => {
            server.admission.discard(&parts.headers, body);
            return Err(failure);
        }
    };
    let in_flight = server.metrics.begin();
    server.admission.turn(&mut admitted).await?;
    let cancel = Arc::new(AtomicBool::new(false));
    // Dropped with this future, as when the client hangs up.
    let _hang_up = HangUp(Arc::clone(&cancel));
    let called = Arc::clone(server);
    let Admitted { body, permits } = admitted;
    let is_short = body.len() <= SHORT;
    // Whoever hangs up gives the permits back when his texts are not in memory any more, not sooner.
    let ask = move || (Asked::new(&called, body, form, &cancel), permits);
    let (asked, permits) = match is_short {
        true => guarded(ask),
        false => tokio::task::spawn_blocking(ask).await.map_err(|error| error.to_string()),
    }
    .map_err(backend)?;
    let mut asked = asked?;
    let (predictions, timing) = (&mut asked.queued).await.map_err(failure)?;
    let answer = guarded(|| asked.answer(server, &predictions, &timing)).map_err(backend);
    drop((asked, permits));
    drop(in_flight);
    answer
}

/// What a body asks for.
struct Asked {
    texts: Vec<Input>,
    queued: Queued,
    form: Form,
    raw_scores: bool,
    is_list: bool,
    top_k: Option<usize>,
}

impl Asked {
    /// Parses a body, and queues its texts.
    fn new(server: &Server, bytes: Vec<u8>, form: Form, cancel: &AtomicBool) -> Result<Self, Failure> {
        let body = body::parse(&bytes)?;
        drop(bytes);
        let raw_scores = body.raw(server.classifier.bundle().config.problem_type)?;
        if raw_scores && form == Form::All {
            return Err(Refusal::Form("raw_scores: expected none here; /predict has them".to_owned()).into());
        }
        let (truncation, is_list, top_k) = (body.truncation(), body.is_list(), body.top_k());
        let texts = body.texts(server.max_client_batch_size)?;
        let options = CallOptions { cancel: Some(cancel), truncation, ..CallOptions::default() };
        let queued = server.classifier.queue(inputs(&texts), options).map_err(failure)?;
        Ok(Self { texts, queued, form, raw_scores, is_list, top_k })
    }

    fn answer(&self, server: &Server, predictions: &[Prediction], timing: &Timing) -> Response {
        server.metrics.classified(inputs(&self.texts), predictions, timing);
        let predictions = predictions.iter();
        let top = self.top_k.unwrap_or(usize::MAX);
        match self.form {
            Form::Scores => {
                written(predictions.map(|prediction| scores(prediction, self.raw_scores, top)), self.is_list)
            }
            Form::All => written(predictions.map(|prediction| prediction.to_json(self.top_k)), self.is_list),
        }
    }
}

fn inputs(texts: &[Input]) -> impl Iterator<Item = TextInput<'_>> {
    texts.iter().map(|(text, pair)| TextInput { text, pair: pair.as_deref() })
}

/// A list, or its only entry.
fn written(answers: impl Iterator<Item = impl Serialize>, is_list: bool) -> Response {
    let mut answers: Vec<_> = answers.collect();
    match is_list {
        true => Json(answers).into_response(),
        false => Json(answers.remove(0)).into_response(),
    }
}

/// So many labels, the most likely first, with their probability or logit.
fn scores(prediction: &Prediction, raw: bool, top_k: usize) -> Vec<Score> {
    let with_logits = prediction.scores.iter().zip(&prediction.logits);
    let of_label = |((label, score), logit): (&(String, f32), &f32)| Score {
        score: if raw { *logit } else { *score },
        label: label.clone(),
    };
    let mut scores: Vec<Score> = with_logits.map(of_label).collect();
    scores.sort_by(|a, b| b.score.total_cmp(&a.score));
    scores.truncate(top_k);
    scores
}

/// What panicked.
fn backend(message: String) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "backend", message)
}

fn failure(error: Error) -> Failure {
    let (status, kind) = match error {
        Error::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
        Error::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "validation"),
        Error::Input { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "validation"),
        Error::Tokenizer(_) | Error::MemoryLimit { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "tokenizer"),
        _ => (StatusCode::FAILED_DEPENDENCY, "backend"),
    };
    Failure::new(status, kind, error.to_string())
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Form(message) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", message),
            Refusal::TooMany(message) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "validation", message),
        }
    }
}
