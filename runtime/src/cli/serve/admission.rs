//! What a request to predict needs before it is answered: a permit, room for its body, and its turn.
//!
//! Whoever has no permit is refused before the body is read. A text takes many times its size while it is tokenized, so
//! that bodies in memory and texts in the tokenizer are limited by their bytes, not by their number.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::Failure;

/// Bodies larger than this share [`BODY_BUDGET`], and their texts are classified one after the other.
const LARGE: usize = 64 << 10;
/// Bytes of all large bodies at a time; a larger `--max-body` is its own budget. The small ones need none: with the
/// default number of permits they are 32 MB, in chunks at most twice as much, and they must not wait behind the large ones.
const BODY_BUDGET: usize = 16 << 20;
/// Bytes of all small bodies whose texts are classified at a time.
const SMALL_BUDGET: usize = 2 << 20;
/// What is said to who has no permit.
const MANY: &str = "too many requests are being answered";
const MANY_LARGE: &str = "too many large requests are being answered";
/// A client that was refused while it sent its body may send the rest, unless it pauses for so long.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Admission {
    /// One permit a request that is being answered.
    requests: Arc<Semaphore>,
    /// Kilobytes of large bodies.
    bodies: Arc<Semaphore>,
    /// Kilobytes of small bodies that are classified.
    small: Arc<Semaphore>,
    /// One permit: the large body that is classified.
    large: Arc<Semaphore>,
    max_body: usize,
    body_timeout: Duration,
}

/// A body that comes.
pub(super) struct Incoming {
    body: Body,
    /// Whether any of it was asked for: a client that waits to be told to go on has been told so then.
    is_begun: bool,
}

impl From<Body> for Incoming {
    fn from(body: Body) -> Self {
        Self { body, is_begun: false }
    }
}

/// A body, and what nobody else has meanwhile.
pub(super) struct Admitted {
    pub(super) body: Vec<u8>,
    pub(super) permits: Vec<OwnedSemaphorePermit>,
}

impl Admission {
    pub(super) fn new(requests: usize, max_body: usize, body_timeout: Duration) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            requests: semaphore(requests),
            bodies: semaphore(kilobytes(max_body.max(BODY_BUDGET)) as usize),
            small: semaphore(kilobytes(SMALL_BUDGET) as usize),
            large: semaphore(1),
            max_body,
            body_timeout,
        }
    }

    /// Reads a body once there is room for it.
    pub(super) async fn admit(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Admitted, Failure> {
        expect_plain(headers)?;
        if !is_json(headers) {
            let message = "Expected request with `Content-Type: application/json`";
            return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", message));
        }
        // Unknown where the body comes in chunks.
        let length = body.body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if length.is_some_and(|length| length > self.max_body) {
            return Err(too_large());
        }
        let Ok(request) = Arc::clone(&self.requests).try_acquire_owned() else {
            return Err(overloaded(MANY));
        };
        let mut permits = vec![request];
        let mut bytes = Vec::with_capacity(length.unwrap_or(0).min(LARGE));
        let mut deadline = Instant::now() + self.body_timeout;
        let is_small = match length {
            Some(length) if length > LARGE => false,
            _ => self.read(body, &mut bytes, LARGE, deadline).await?,
        };
        if !is_small {
            let most = length.unwrap_or(self.max_body);
            let waits = Instant::now();
            permits.push(self.wait(&self.bodies, kilobytes(most), MANY_LARGE).await?);
            deadline += waits.elapsed();
            bytes.reserve_exact(length.unwrap_or(0).min(BODY_BUDGET));
            self.read(body, &mut bytes, self.max_body, deadline).await?;
        }
        Ok(Admitted { body: bytes, permits })
    }

    /// Waits until the body's texts may be classified.
    pub(super) async fn turn(&self, admitted: &mut Admitted) -> Result<(), Failure> {
        let turn = match admitted.body.len() {
            size @ 0..=LARGE => self.wait(&self.small, kilobytes(size), MANY).await?,
            _ => self.wait(&self.large, 1, MANY_LARGE).await?,
        };
        admitted.permits.push(turn);
        Ok(())
    }

    /// Reads what a client still sends that was refused: where a connection is closed with bytes unread, its answer may
    /// be lost.
    pub(super) fn discard(&self, headers: &HeaderMap, mut body: Incoming) {
        // Whoever expects to be told to go on, and was not, sends nothing.
        if body.body.is_end_stream() || (headers.contains_key(header::EXPECT) && !body.is_begun) {
            return;
        }
        let limit = self.body_timeout;
        tokio::spawn(async move {
            let rest = async { while let Ok(Some(Ok(_))) = timeout(LINGER, chunk(&mut body)).await {} };
            let _ = timeout(limit, rest).await;
        });
    }

    /// `otherwise` says what there is too much of.
    async fn wait(
        &self,
        semaphore: &Arc<Semaphore>,
        permits: u32,
        otherwise: &str,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        let taken = timeout(self.body_timeout, Arc::clone(semaphore).acquire_many_owned(permits)).await;
        // None is ever closed: it took too long.
        taken.ok().and_then(Result::ok).ok_or_else(|| overloaded(otherwise))
    }

    /// Reads until there are more than so many bytes. Whether the body has ended.
    async fn read(
        &self,
        body: &mut Incoming,
        bytes: &mut Vec<u8>,
        most: usize,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let read = async {
            while bytes.len() <= most {
                let Some(chunk) = chunk(body).await else { return Ok(true) };
                let chunk = chunk.map_err(|error| {
                    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", format!("the body: {error}"))
                })?;
                if chunk.len() > self.max_body - bytes.len() {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(false)
        };
        timeout_at(deadline, read).await.unwrap_or_else(|_| {
            let message = format!("the body was not sent within {} s", self.body_timeout.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "validation", message))
        })
    }
}

/// The next bytes of a body.
async fn chunk(body: &mut Incoming) -> Option<Result<Bytes, axum::Error>> {
    body.is_begun = true;
    loop {
        match poll_fn(|context| Pin::new(&mut body.body).poll_frame(context)).await? {
            Ok(frame) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

fn kilobytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.strip_prefix("application/").is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// That the body's bytes are its text: neither packed nor in another encoding than JSON's.
fn expect_plain(headers: &HeaderMap) -> Result<(), Failure> {
    let refused = |name: &str, expected: &str, found: &str| {
        let message = format!("{name}: expected {expected}, found {found}");
        Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "validation", message))
    };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    {
        return refused("Content-Encoding", "none", encoding);
    }
    let parameters = text(header::CONTENT_TYPE).unwrap_or_default().split(';').skip(1);
    let mut parameters = parameters.filter_map(|parameter| parameter.split_once('='));
    match parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset")) {
        Some((_, charset)) if !is_utf8(charset.trim().trim_matches('"')) => {
            refused("Content-Type: charset", "utf-8", charset)
        }
        _ => Ok(()),
    }
}

/// By its name, another of its names, or that of a part of it.
fn is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
}

fn overloaded(message: &str) -> Failure {
    Failure::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message)
}

fn too_large() -> Failure {
    let message = "Failed to buffer the request body: length limit exceeded";
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "validation", message)
}
