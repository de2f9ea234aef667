//! `POST /predict`, as text-embeddings-inference has it, and `POST /classify`, which says all.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nimbert::{CallOptions, Error, Prediction, TextInput, Timing, Truncation};
use serde::Serialize;

use super::{
    Failure, Server,
    admission::{Admitted, Incoming},
    body::{self, Input, Refusal},
};

/// A text whose body is so short is tokenized by the thread that has read it. Others have to wait meanwhile: 0.3 ms for prose, 3.5 ms
/// for nonsense words of a hundred letters.
const SHORT: usize = 1 << 10;

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
    let (parts, body) = request.into_parts();
    let mut body = Incoming::from(body);
    let mut admitted = match server.admission.admit(&parts.headers, &mut body).await {
        Ok(admitted) => admitted,
        Err(failure) => {
            server.admission.discard(&parts.headers, body);
            return Err(failure);
        }
    };
    let in_flight = server.metrics.begin();
    server.admission.turn(&mut admitted).await?;
    let answered = run(Arc::clone(server), admitted, form).await;
    drop(in_flight);
    answered
}

/// One short text waits without a thread; what may take longer has one of its own, on which it is parsed, tokenized and
/// answered.
async fn run(server: Arc<Server>, Admitted { body, permits }: Admitted, form: Form) -> Result<Response, Failure> {
    let asked = if body.len() <= SHORT { Some(Asked::parse(&server, &body, form)?) } else { None };
    let panicked = |message: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "backend", message);
    match asked {
        Some(asked) if asked.texts.len() == 1 => {
            let answer = caught(asked.queue(&server)).await.map_err(panicked)?;
            drop(permits);
            answer
        }
        asked => {
            let cancel = Arc::new(AtomicBool::new(false));
            // Dropped with this future, as when the client hangs up.
            let _hang_up = HangUp(Arc::clone(&cancel));
            let classified = tokio::task::spawn_blocking(move || {
                let asked = asked.map_or_else(|| Asked::parse(&server, &body, form), Ok);
                drop(body);
                let answer = asked.and_then(|asked| asked.classify(&server, &cancel));
                // Not sooner, although the client may have hung up: the texts were in memory until now.
                drop(permits);
                answer
            });
            classified.await.map_err(|error| panicked(error.to_string()))?
        }
    }
}

/// What a future gives, or that it has panicked, which stands on standard error: the client is to be told.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    let poll = poll_fn(|context| {
        // It is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.map_or_else(|_| Poll::Ready(Err("answering panicked".to_owned())), |poll| poll.map(Ok))
    });
    poll.await
}

/// What a body asks for.
struct Asked {
    texts: Vec<Input>,
    truncation: Truncation,
    form: Form,
    raw_scores: bool,
    is_list: bool,
    top_k: Option<usize>,
}

impl Asked {
    fn parse(server: &Server, bytes: &[u8], form: Form) -> Result<Self, Failure> {
        let body = body::parse(bytes)?;
        let raw_scores = body.raw(server.classifier.bundle().config.problem_type)?;
        if raw_scores && form == Form::All {
            return Err(Refusal::Form(
                "logits (raw_scores, function_to_apply) are not given here; /predict has them".to_owned(),
            )
            .into());
        }
        let (truncation, is_list, top_k) = (body.truncation(), body.is_list(), body.top_k());
        let texts = body.texts(server.max_client_batch_size)?;
        Ok(Self { texts, truncation, form, raw_scores, is_list, top_k })
    }

    fn inputs(&self) -> impl Iterator<Item = TextInput<'_>> {
        self.texts.iter().map(|(text, pair)| TextInput { text, pair: pair.as_deref() })
    }

    /// Dropped, as when the client hangs up, its texts leave the queue.
    async fn queue(self, server: &Server) -> Result<Response, Failure> {
        let options = CallOptions { truncation: self.truncation, ..CallOptions::default() };
        let queued = server.classifier.enqueue(self.inputs(), options).map_err(failure)?;
        queued.await.map_err(failure).map(|answered| self.answer(server, answered))
    }

    fn classify(self, server: &Server, cancel: &AtomicBool) -> Result<Response, Failure> {
        let options = CallOptions { cancel: Some(cancel), truncation: self.truncation, ..CallOptions::default() };
        let answered = server.classifier.classify_with(self.inputs(), options).map_err(failure)?;
        Ok(self.answer(server, answered))
    }

    fn answer(&self, server: &Server, (predictions, timing): (Vec<Prediction>, Timing)) -> Response {
        server.metrics.classified(self.inputs(), &predictions, &timing);
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
