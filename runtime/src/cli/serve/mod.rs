//! `nimbert serve`: a classifier behind HTTP, for those who call it from other languages or machines.
//!
//! `POST /predict` takes and gives what text-embeddings-inference does, and what Hugging Face's client of hosted models
//! expects. Requests wait in the classifier's queue, where those that overlap are joined into batches; a request that
//! finds the queue full is answered 429 at once. A client that hangs up takes its texts out of the queue.

mod admission;
mod body;
mod connections;
mod idle;
mod key;
mod metrics;
mod predict;
mod shutdown;
mod unsent;

use std::{
    io::{self, Write},
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nimbert::{Classifier, Options};
use serde_json::json;
use tokio::net::TcpListener;

use admission::Admission;
use connections::Limits;
use metrics::Metrics;
use shutdown::{QUIET, signalled, within_grace};
use unsent::Unsent;

#[derive(clap::Args)]
#[command(after_help = "\
Paths: POST /predict and /, whose answers are those of text-embeddings-inference: labels and scores; POST /classify, which takes \
the same and answers with the objects of nimbert classify --json, all tasks of the bundle and all that it says; GET /health, /info, \
/metrics (Prometheus).

Examples:
  nimbert serve reviews-bundle --listen 127.0.0.1:8080
  curl 127.0.0.1:8080/predict -H 'Content-Type: application/json' \\
      -d '{\"inputs\": \"I love this movie!\"}'
  nimbert serve reviews-bundle --unix-socket /run/nimbert.sock
  curl --unix-socket /run/nimbert.sock http://localhost/predict \\
      -H 'Content-Type: application/json' -d '{\"inputs\": [[\"dull\"], [\"a delight\"]]}'

A client that is slow, sends half of a request or does not take its answer is given up after a time; until then it counts as one \
that is answered. There is no encryption: put a proxy in front of it where it can be reached from elsewhere.")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Address and port, or a host's name and port: the first of its addresses that this machine has
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: String,
    /// A Unix socket instead
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    unix_socket: Option<PathBuf>,
    /// Requests that are answered at the same time, at most 7 of 8 connections; a further one is answered 429
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_requests: u16,
    /// Connections at the same time; for a further one, the one that has been longest without a request is closed
    /// [default: 256 more than requests, or what the limit of open files leaves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: Option<u32>,
    /// How long a connection may take to send a request's head, or wait between two requests
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = seconds())]
    header_timeout: u32,
    /// How long a request's body may take, and wait for memory and its turn, and a client take nothing of its answer; the first is
    /// answered 408, the second 429
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = seconds())]
    body_timeout: u32,
    /// Texts that may wait, of long ones their windows; a request that would exceed it is answered 429, unless none waits
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_queue: usize,
    /// Texts a request
    #[arg(long, default_value_t = 32, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=body::MOST_TEXTS as i64))]
    max_client_batch_size: u16,
    /// Bytes a request
    #[arg(long, default_value = "2MB", value_name = "SIZE")]
    max_body: super::Size,
    /// How long a text waits for others, in microseconds
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u64).range(..=86_400_000_000))]
    max_wait: u64,
    /// Tokens in one run of the graph; padding counts where the graph computes it [default: 512 on the CPU, 8192 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_batch_tokens: Option<u32>,
    #[command(flatten)]
    key: key::KeyArgs,
    #[command(flatten)]
    open: super::OpenArgs,
}

/// At least one, and no more than a day: a time that is added to now must not overflow.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=86_400)
}

impl Args {
    fn limits(&self) -> Limits {
        let default = || connections::default_connections(self.max_concurrent_requests);
        Limits {
            connections: self.max_connections.unwrap_or_else(default),
            header_timeout: Duration::from_secs(self.header_timeout.into()),
            send_timeout: Duration::from_secs(self.body_timeout.into()),
        }
    }

    fn admission(&self, limits: &Limits) -> anyhow::Result<Admission> {
        // Connections with requests are not closed for others: some must be left to refuse and to tell of health, if there are any.
        let spare = limits.connections.div_ceil(8);
        let most = (limits.connections - spare).max(1) as usize;
        let requests = usize::from(self.max_concurrent_requests).min(most);
        let max_body = usize::try_from(self.max_body.0)
            .map_err(|_| anyhow!("--max-body: expected at most {} bytes, found {}", usize::MAX, self.max_body.0))?;
        Ok(Admission::new(requests, max_body, Duration::from_secs(self.body_timeout.into())))
    }
}

/// What all requests share.
struct Server {
    classifier: Arc<Classifier>,
    metrics: Metrics,
    admission: Admission,
    max_client_batch_size: usize,
    /// Digest of the key.
    api_key: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let api_key = args.key.digest()?;
    let options = Options {
        queue_limit: Some(args.max_queue),
        max_wait: Duration::from_micros(args.max_wait),
        max_batch_tokens: args.max_batch_tokens.map(|tokens| tokens as usize),
        ..args.open.options()?
    };
    let limits = args.limits();
    let admission = args.admission(&limits)?;
    // Before anything is loaded, which may take minutes.
    let addresses: Vec<SocketAddr> =
        args.listen.to_socket_addrs().with_context(|| format!("--listen {}", args.listen))?.collect();
    let classifier = super::open(&args.bundle, &options)?;
    let server = Arc::new(Server {
        metrics: Metrics::new(&classifier),
        classifier: Arc::new(classifier),
        admission,
        max_client_batch_size: args.max_client_batch_size.into(),
        api_key,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Short texts are tokenized on them, a fraction of what the classifier's own threads have to do.
        .worker_threads(2)
        .max_blocking_threads(usize::from(args.max_concurrent_requests))
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    runtime.block_on(serve(args, &addresses, &limits, router(Arc::clone(&server)), &server.metrics))?;
    // What is still going on belongs to clients that have sent half of a request.
    runtime.shutdown_timeout(QUIET);
    Ok(())
}

const PREDICT: &str = "/predict";
/// The same: where clients of hosted models ask.
const ROOT: &str = "/";
const CLASSIFY: &str = "/classify";

fn router(server: Arc<Server>) -> Router {
    let open = Router::new().route("/health", get(health));
    let guarded = Router::new()
        .route(PREDICT, post(predict::predict))
        .route(ROOT, post(predict::predict))
        .route(CLASSIFY, post(predict::classify))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), key::authorized));
    let missing =
        || async { Failure::new(StatusCode::NOT_FOUND, "validation", "no such path: nimbert serve --help has them") };
    let other_method =
        || async { Failure::new(StatusCode::METHOD_NOT_ALLOWED, "validation", "another method than the path's") };
    open.merge(guarded).fallback(missing).method_not_allowed_fallback(other_method).with_state(server)
}

async fn serve(
    args: &Args,
    addresses: &[SocketAddr],
    limits: &Limits,
    router: Router,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    // Before anybody is told that we are here: a signal that comes then must not kill us.
    let heard = || signalled().context("cannot listen for signals");
    let (shutdown, late) = (heard()?, heard()?);
    let unsent = Unsent::default();
    #[cfg(unix)]
    if let Some(path) = &args.unix_socket {
        let socket = connections::UnixSocket::bind(path)?;
        announce(&format!("unix:{}", path.display()));
        let serving = connections::serve(socket, router, limits, &unsent, shutdown);
        return within_grace(serving, late, metrics, &unsent).await;
    }
    let listener = bind(addresses).await.with_context(|| args.listen.clone())?;
    announce(&format!("http://{}", listener.local_addr().with_context(|| args.listen.clone())?));
    within_grace(connections::serve(listener, router, limits, &unsent, shutdown), late, metrics, &unsent).await
}

/// At the first of a name's addresses that this machine has: if another server is there, the next one would be another service.
async fn bind(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failed = error,
            bound => return bound,
        }
    }
    Err(failed)
}

/// Says where requests are taken, on standard output: whoever started us waits for this line.
fn announce(address: &str) {
    // Where nobody reads it, the server serves all the same.
    let _ = writeln!(std::io::stdout(), "listening on {address}");
}

/// Once a worker has died, a supervisor is to start another server.
async fn health(State(server): State<Arc<Server>>) -> Result<(), Failure> {
    match server.classifier.is_healthy() {
        true => Ok(()),
        false => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unhealthy", "a worker has died")),
    }
}

/// In the text format, by whose name of a version Prometheus knows it.
async fn metrics(State(server): State<Arc<Server>>) -> Result<impl IntoResponse, Failure> {
    // Of many labels it takes a while to say what chance explains.
    let text = tokio::task::spawn_blocking(move || server.metrics.text()).await;
    let text = text.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "backend", error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

async fn info(State(server): State<Arc<Server>>) -> Json<serde_json::Value> {
    let classifier = &server.classifier;
    let manifest = &classifier.bundle().manifest;
    let named = classifier.tasks().iter().filter_map(|task| Some((task.name.clone()?, json!(task.labels))));
    let tasks: serde_json::Map<String, serde_json::Value> = named.collect();
    Json(json!({
        "model_id": manifest.provenance.base_model,
        // By name, where there are several.
        "tasks": tasks,
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
