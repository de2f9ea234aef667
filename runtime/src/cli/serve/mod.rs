//! `nimbert serve`: a classifier behind HTTP, for those who call it from other languages or machines.
//!
//! `POST /predict` takes and gives what text-embeddings-inference does, and what Hugging Face's client of hosted models
//! expects. Requests wait in the classifier's queue, where those that overlap are joined into batches; a request that finds
//! the queue full is answered 429 at once. A client that hangs up takes its texts out of the queue.

mod metrics;
mod predict;

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nimbert::{Classifier, Options, bundle::sha256};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use metrics::Metrics;

/// How long requests that are being answered may take after a signal to end.
const GRACE: Duration = Duration::from_secs(30);
/// Once none has been answered for so long, it ends: a client that has sent half of a request is not waited for.
const QUIET: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
Paths: POST /predict and /, GET /health, /info, /metrics (Prometheus).

Examples:
  nimbert serve reviews-bundle --listen 127.0.0.1:8080
  curl 127.0.0.1:8080/predict -H 'Content-Type: application/json' \\
      -d '{\"inputs\": \"I love this movie!\"}'
  nimbert serve reviews-bundle --unix-socket /run/nimbert.sock
  curl --unix-socket /run/nimbert.sock http://localhost/predict \\
      -H 'Content-Type: application/json' -d '{\"inputs\": [[\"dull\"], [\"a delight\"]]}'

There is no encryption and no protection against clients that are slow on purpose: put a proxy in front of it where it \
can be reached from elsewhere.")]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    /// Address and port
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// A Unix socket instead
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    unix_socket: Option<PathBuf>,
    /// Requests that are answered at the same time; a further one is answered 429
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_requests: u16,
    /// Texts that may wait; a request that would exceed it is answered 429
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_queue: usize,
    /// Texts a request
    #[arg(long, default_value_t = 32, value_name = "N")]
    max_client_batch_size: usize,
    /// Bytes a request
    #[arg(long, default_value = "2MB", value_name = "SIZE")]
    max_body: super::Size,
    /// How long a text waits for others, in microseconds
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_wait: u64,
    /// Tokens in one run of the graph, padding included [default: 512 on the CPU, 8192 on a GPU]
    #[arg(long, value_name = "N")]
    max_batch_tokens: Option<usize>,
    /// A key that requests must have, as `Authorization: Bearer KEY` [environment: NIMBERT_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    #[command(flatten)]
    open: super::OpenArgs,
}

/// What all requests share.
struct Server {
    classifier: Classifier,
    metrics: Metrics,
    /// One permit a request that is being answered.
    requests: Semaphore,
    max_client_batch_size: usize,
    /// Digest of the key: two digests take the same time to compare, whatever the keys have in common.
    api_key: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let options = Options {
        queue_limit: Some(args.max_queue),
        max_wait: Duration::from_micros(args.max_wait),
        max_batch_tokens: args.max_batch_tokens,
        ..args.open.options()
    };
    let classifier = super::open(&args.bundle, &options)?;
    let key = args.api_key.clone().or_else(|| std::env::var("NIMBERT_API_KEY").ok()).filter(|key| !key.is_empty());
    let server = Arc::new(Server {
        classifier,
        metrics: Metrics::default(),
        requests: Semaphore::new(usize::from(args.max_concurrent_requests)),
        max_client_batch_size: args.max_client_batch_size,
        api_key: key.map(|key| sha256(key.as_bytes())),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Answering is little work; the classifier has threads of its own.
        .worker_threads(2)
        .max_blocking_threads(usize::from(args.max_concurrent_requests))
        .enable_all()
        .build()?;
    let router = router(Arc::clone(&server), args.max_body.0 as usize);
    runtime.block_on(serve(args, router, &server.metrics))?;
    // What is still going on belongs to clients that have sent half of a request.
    runtime.shutdown_timeout(QUIET);
    Ok(())
}

const PREDICT: &str = "/predict";
/// The same: where clients of hosted models ask.
const ROOT: &str = "/";

fn router(server: Arc<Server>, max_body: usize) -> Router {
    let open = Router::new().route("/health", get(async || ()));
    let guarded = Router::new()
        .route(PREDICT, post(predict::predict))
        .route(ROOT, post(predict::predict))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), authorized));
    open.merge(guarded).layer(DefaultBodyLimit::max(max_body)).with_state(server)
}

async fn serve(args: &Args, router: Router, metrics: &Metrics) -> anyhow::Result<()> {
    // Before anybody is told that we are here: a signal that comes then must not kill us.
    let (shutdown, late) = (signalled()?, signalled()?);
    #[cfg(unix)]
    if let Some(path) = &args.unix_socket {
        let listener = bind_socket(path)?;
        announce(&format!("unix:{}", path.display()));
        let served = within_grace(axum::serve(listener, router).with_graceful_shutdown(shutdown), late, metrics).await;
        // It names nobody any more.
        let _ = std::fs::remove_file(path);
        return served;
    }
    let listener = TcpListener::bind(args.listen).await.with_context(|| args.listen.to_string())?;
    announce(&format!("http://{}", listener.local_addr()?));
    within_grace(axum::serve(listener, router).with_graceful_shutdown(shutdown), late, metrics).await
}

/// Says where requests are taken, on standard output: whoever started us waits for this line.
fn announce(address: &str) {
    // Where nobody reads it, the server serves all the same.
    let _ = writeln!(std::io::stdout(), "listening on {address}");
}

#[cfg(unix)]
fn bind_socket(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    use std::os::unix::{fs::FileTypeExt, net::UnixStream};
    let is_socket = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    // One that a killed process has left answers nobody.
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    tokio::net::UnixListener::bind(path).with_context(|| path.display().to_string())
}

/// Serves; after the signal to end, requests that are being answered have [`GRACE`], and others [`QUIET`].
async fn within_grace(
    serving: impl IntoFuture<Output = std::io::Result<()>>,
    signalled: impl Future<Output = ()>,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    let idle = async {
        signalled.await;
        let (step, mut quiet) = (Duration::from_millis(50), Duration::ZERO);
        let late = tokio::time::Instant::now() + GRACE;
        while quiet < QUIET && tokio::time::Instant::now() < late {
            tokio::time::sleep(step).await;
            quiet = if metrics.in_flight() == 0 { quiet + step } else { Duration::ZERO };
        }
        quiet >= QUIET
    };
    tokio::select! {
        served = serving.into_future() => Ok(served?),
        is_idle = idle => match is_idle {
            true => Ok(()),
            false => {
                Err(anyhow::Error::new(nimbert::Error::DeadlinePassed).context("requests were still being answered"))
            }
        }
    }
}

/// Ends with Ctrl-C or SIGTERM; from this call on, they do not end the process.
#[cfg(unix)]
fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    })
}

/// Ends with Ctrl-C; from this call on, it does not end the process.
#[cfg(windows)]
fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

async fn authorized(State(server): State<Arc<Server>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    // The scheme's case means nothing (RFC 9110, 11.1).
    let key = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
    let is_allowed = match &server.api_key {
        None => true,
        Some(expected) => key.is_some_and(|key| sha256(key.as_bytes()) == *expected),
    };
    match is_allowed {
        true => next.run(request).await,
        false => {
            if [PREDICT, ROOT].contains(&request.uri().path()) {
                server.metrics.answered(StatusCode::UNAUTHORIZED.as_u16());
            }
            Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", "expected Authorization: Bearer KEY").into_response()
        }
    }
}

/// In the text format, by whose name of a version Prometheus knows it.
async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], server.metrics.text())
}

async fn info(State(server): State<Arc<Server>>) -> Json<serde_json::Value> {
    let classifier = &server.classifier;
    let manifest = &classifier.bundle().manifest;
    Json(json!({
        "model_id": manifest.provenance.base_model,
        "model_type": { "classifier": { "labels": classifier.labels() } },
        "max_input_length": manifest.max_length,
        "max_client_batch_size": server.max_client_batch_size,
        "device": classifier.device().to_string(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// An answer that is none, in text-embeddings-inference's form.
struct Failure {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message, "error_type": self.kind }))).into_response()
    }
}
