//! `POST /predict`, as text-embeddings-inference has it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nimbert::{CallOptions, Error, Prediction, ProblemType, TextInput, Truncation, TruncationSide};
use serde::{Deserialize, Serialize};

use super::{Failure, Server};

/// A request's body; keys that are not known change nothing, as in text-embeddings-inference.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    inputs: Inputs,
    /// Logits instead of probabilities.
    #[serde(default)]
    raw_scores: bool,
    /// Whether a text that is too long is cut (the default), or refused.
    #[serde(default)]
    truncate: Option<bool>,
    /// At which end; the default is the bundle's.
    #[serde(default)]
    truncation_direction: Option<Direction>,
    /// What Hugging Face's client of hosted models asks for. Its answers are lists of lists.
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Direction {
    #[serde(alias = "left")]
    Left,
    #[serde(alias = "right")]
    Right,
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    /// The most labels of an answer.
    top_k: Option<usize>,
    function_to_apply: Option<Function>,
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    None,
    Sigmoid,
    Softmax,
}

impl Body {
    fn truncation(&self) -> Truncation {
        match (self.truncate, self.truncation_direction) {
            (Some(false), _) => Truncation::Refuse,
            (_, None) => Truncation::OfBundle,
            (_, Some(Direction::Left)) => Truncation::At(TruncationSide::Left),
            (_, Some(Direction::Right)) => Truncation::At(TruncationSide::Right),
        }
    }

    /// Whether logits are asked for.
    ///
    /// # Errors
    /// If scores are asked for that the classifier's are not.
    fn raw(&self, problem_type: ProblemType) -> Result<bool, Failure> {
        let own = match problem_type {
            ProblemType::SingleLabel => Function::Softmax,
            ProblemType::MultiLabel => Function::Sigmoid,
        };
        match self.parameters.as_ref().and_then(|parameters| parameters.function_to_apply) {
            None => Ok(self.raw_scores),
            Some(Function::None) => Ok(true),
            Some(function) if function == own => Ok(self.raw_scores),
            Some(function) => {
                let message = format!("function_to_apply: expected {own:?} or None, found {function:?}");
                Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", message))
            }
        }
    }
}

/// One text, a pair of two texts, or a list of either: `"a"` or `["a"]`, `["a", "b"]`, `[["a"], ["b"]]`,
/// `[["a", "b"], ["c", "d"]]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Inputs {
    One(String),
    Alone([String; 1]),
    Pair(String, String),
    List(Vec<Vec<String>>),
}

/// A text, and the second one of a pair.
type Input = (String, Option<String>);

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

pub(super) async fn predict(State(server): State<Arc<Server>>, body: Result<Json<Body>, JsonRejection>) -> Response {
    let response = match answer(&server, body).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    };
    server.metrics.answered(response.status().as_u16());
    response
}

async fn answer(server: &Arc<Server>, body: Result<Json<Body>, JsonRejection>) -> Result<Response, Failure> {
    let Json(body) = body.map_err(|error| {
        // Too large stays what it is; all else is a body of another form.
        let status = if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            error.status()
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        Failure::new(status, "validation", error.body_text())
    })?;
    let (truncation, raw_scores) = (body.truncation(), body.raw(server.classifier.bundle().config.problem_type)?);
    let is_list = matches!(body.inputs, Inputs::List(_)) || body.parameters.is_some();
    let top_k = body.parameters.unwrap_or_default().top_k.unwrap_or(usize::MAX);
    let texts = texts(body.inputs, server.max_client_batch_size)?;
    let Ok(permit) = server.requests.try_acquire() else {
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "too many requests are being answered"));
    };
    let in_flight = server.metrics.begin();
    let cancel = Arc::new(AtomicBool::new(false));
    // Dropped with this future, as when the client hangs up.
    let _hang_up = HangUp(Arc::clone(&cancel));
    let called = Arc::clone(server);
    let classified = tokio::task::spawn_blocking(move || {
        let options = CallOptions { cancel: Some(&cancel), truncation, ..CallOptions::default() };
        let inputs = texts.iter().map(|(text, pair)| TextInput { text, pair: pair.as_deref() });
        let (predictions, timing) = called.classifier.classify_with(inputs, options)?;
        called.metrics.classified(predictions.len(), &timing);
        Ok(predictions)
    });
    let predictions: Vec<Prediction> = match classified.await {
        Ok(result) => result.map_err(failure)?,
        Err(error) => return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "backend", error.to_string())),
    };
    drop((permit, in_flight));
    let mut answers: Vec<Vec<Score>> = predictions.iter().map(|prediction| scores(prediction, raw_scores)).collect();
    answers.iter_mut().for_each(|scores| scores.truncate(top_k));
    Ok(match is_list {
        true => Json(answers).into_response(),
        false => Json(answers.remove(0)).into_response(),
    })
}

fn texts(inputs: Inputs, max: usize) -> Result<Vec<Input>, Failure> {
    let invalid = |status, message: String| Err(Failure::new(status, "validation", message));
    let texts = match inputs {
        Inputs::One(text) | Inputs::Alone([text]) => vec![(text, None)],
        Inputs::Pair(text, pair) => vec![(text, Some(pair))],
        Inputs::List(list) => {
            let mut texts = Vec::with_capacity(list.len());
            for (index, mut parts) in list.into_iter().enumerate() {
                let second = if parts.len() == 2 { parts.pop() } else { None };
                match (parts.pop(), parts.is_empty()) {
                    (Some(text), true) => texts.push((text, second)),
                    _ => {
                        let message = format!("inputs[{index}]: expected one text or two");
                        return invalid(StatusCode::UNPROCESSABLE_ENTITY, message);
                    }
                }
            }
            texts
        }
    };
    match texts.len() {
        0 => invalid(StatusCode::UNPROCESSABLE_ENTITY, "inputs: expected at least one text".to_owned()),
        count if count > max => {
            let message = format!("inputs: expected at most {max} texts, found {count}");
            invalid(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
        _ => Ok(texts),
    }
}

/// The labels, the most likely first, with their probability or logit.
fn scores(prediction: &Prediction, raw: bool) -> Vec<Score> {
    let with_logits = prediction.scores.iter().zip(&prediction.logits);
    let of_label = |((label, score), logit): (&(String, f32), &f32)| Score {
        score: if raw { *logit } else { *score },
        label: label.clone(),
    };
    let mut scores: Vec<Score> = with_logits.map(of_label).collect();
    scores.sort_by(|a, b| b.score.total_cmp(&a.score));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<Input>, (u16, String)> {
        let body: Body = serde_json::from_str(json).map_err(|error| (0, error.to_string()))?;
        texts(body.inputs, 2).map_err(|failure| (failure.status.as_u16(), failure.message))
    }

    #[test]
    fn inputs_are_a_text_a_pair_or_a_list_of_either() {
        let (a, b) = (|| "a".to_owned(), || "b".to_owned());
        assert_eq!(parsed(r#"{"inputs": "a", "truncate": true}"#), Ok(vec![(a(), None)]));
        assert_eq!(parsed(r#"{"inputs": ["a"]}"#), Ok(vec![(a(), None)]));
        assert_eq!(parsed(r#"{"inputs": ["a", "b"]}"#), Ok(vec![(a(), Some(b()))]));
        assert_eq!(parsed(r#"{"inputs": [["a"], ["b"]]}"#), Ok(vec![(a(), None), (b(), None)]));
        assert_eq!(parsed(r#"{"inputs": [["a", "b"]]}"#), Ok(vec![(a(), Some(b()))]));
    }

    #[test]
    fn what_is_wrong_with_inputs_is_said() {
        let status = |json: &str| parsed(json).unwrap_err().0;
        assert_eq!(status(r#"{"inputs": []}"#), 422);
        assert_eq!(status(r#"{"inputs": [["a"], []]}"#), 422);
        assert_eq!(parsed(r#"{"inputs": [["a", "b", "c"]]}"#).unwrap_err().1, "inputs[0]: expected one text or two");
        assert_eq!(status(r#"{"inputs": [["a"], ["b"], ["c"]]}"#), 413);
        assert_eq!(status(r#"{"inputs": 5}"#), 0);
        assert_eq!(status(r#"{}"#), 0);
    }
}
