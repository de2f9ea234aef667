//! Connections, accepted here: `axum::serve` limits neither their number nor how long they take.
//!
//! A client that sends half of a head costs little but its open file. When there are as many connections as there may
//! be, the one that has gone longest without a request makes room for the next; one with a request is left alone until its
//! client has taken the answer.

use std::{future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

#[cfg(unix)]
use anyhow::Context;
use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    idle::{Connection, Idle},
    unsent::{Unsent, Watched},
};

/// Connections beyond the requests that are answered: those that are idle, are refused, or ask about health.
const SPARE: u32 = 256;
/// Open files that are no connections: the graph, the runtime's own.
const OTHER_FILES: u32 = 64;
/// Of what a client sends, not many more bytes are buffered before it is asked for; a head may be so long.
const BUFFER: usize = 64 << 10;
/// Where nothing can be accepted, as without open files, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Limits {
    /// Connections at a time.
    pub(super) connections: u32,
    /// For a request's head, from the connection's start or the last answer on.
    pub(super) header_timeout: Duration,
    /// For a client to take some of an answer.
    pub(super) send_timeout: Duration,
}

/// As many connections as so many requests need, and the limit of open files leaves.
pub(super) fn default_connections(requests: u16) -> u32 {
    let wanted = u32::from(requests) + SPARE;
    open_files().map_or(wanted, |files| wanted.min(files.saturating_sub(OTHER_FILES).max(1)))
}

/// The limit of open files, where Linux tells it and there is one.
fn open_files() -> Option<u32> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_whitespace().next()?.parse().ok()
}

/// What connections come from.
pub(super) trait Listen {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Io>>;
}

impl Listen for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Io> {
        Ok(self.accept().await?.0)
    }
}

/// A Unix socket, whose file goes with it.
#[cfg(unix)]
pub(super) struct UnixSocket {
    listener: tokio::net::UnixListener,
    path: std::path::PathBuf,
    /// By which the file is known; none: it is gone already.
    identity: Option<(u64, u64)>,
}

#[cfg(unix)]
impl UnixSocket {
    /// One that a killed process has left answers nobody, and is replaced.
    pub(super) fn bind(path: &std::path::Path) -> anyhow::Result<Self> {
        use std::os::unix::{fs::FileTypeExt, net::UnixStream};
        let is_socket = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if is_socket && UnixStream::connect(path).is_err_and(is_refused) {
            std::fs::remove_file(path).with_context(|| path.display().to_string())?;
        }
        let listener = tokio::net::UnixListener::bind(path).with_context(|| path.display().to_string())?;
        Ok(Self { listener, path: path.to_owned(), identity: Self::identity(path) })
    }

    /// Device and inode of what is there.
    fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

#[cfg(unix)]
impl Listen for UnixSocket {
    type Io = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Io> {
        Ok(self.listener.accept().await?.0)
    }
}

#[cfg(unix)]
impl Drop for UnixSocket {
    /// While we still listen: behind that, another server may have taken our place, as it may where somebody has removed the file.
    fn drop(&mut self) {
        if self.identity.is_some() && Self::identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves until `shutdown` ends, then until the last request is answered.
pub(super) async fn serve<L: Listen>(
    listener: L,
    router: Router,
    limits: &Limits,
    unsent: &Unsent,
    shutdown: impl Future<Output = ()>,
) {
    let router = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(BUFFER);
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let idle = Arc::new(Idle::default());
    // All connections see it when `end` is dropped.
    let (end, ending) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let io = accept(&listener, &idle).await;
            (io, room(&places, &idle).await)
        };
        tokio::select! {
            (io, place) = next => {
                let connection = Arc::new(Connection::new(Arc::clone(&idle)));
                let io = Watched::new(io, unsent.clone(), Arc::clone(&connection), limits.send_timeout);
                tokio::spawn(converse(place, io, connection, router.clone(), http.clone(), ending.clone()));
            }
            () = shutdown.as_mut() => break,
        }
    }
    drop((listener, end));
    let _ = places.acquire_many(limits.connections).await;
}

async fn accept<L: Listen>(listener: &L, idle: &Idle) -> L::Io {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    loop {
        match listener.next().await {
            Ok(io) => return io,
            // Its client has given it up.
            Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) => (),
            Err(_) => {
                idle.close_longest();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A place for one more connection.
async fn room(places: &Arc<Semaphore>, idle: &Idle) -> OwnedSemaphorePermit {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return place;
        }
        // From before it could be called off.
        let called_off = idle.called_off();
        let is_closing = idle.close_longest();
        tokio::select! {
            place = Arc::clone(places).acquire_owned() => return place.expect("it is never closed"),
            () = idle.grown(), if !is_closing => (),
            () = called_off, if is_closing => (),
        }
    }
}

/// Answers one connection's requests; its place is free afterwards: the first argument is dropped last, when nobody can choose the
/// connection any more to be closed.
async fn converse<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    _place: OwnedSemaphorePermit,
    io: Io,
    connection: Arc<Connection>,
    router: TowerToHyperService<Router>,
    http: http1::Builder,
    mut ending: watch::Receiver<()>,
) {
    let asked = Arc::clone(&connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = asked.work();
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let mut conversation = pin!(http.serve_connection(TokioIo::new(io), service));
    let (mut is_ending, mut is_last) = (false, false);
    loop {
        is_last &= connection.is_closing();
        let goes_on = poll_fn(|context| {
            let polled = conversation.as_mut().poll(context);
            connection.settle();
            polled
        });
        tokio::select! {
            biased;
            // What went wrong is the client's to know: it has hung up, sent no HTTP or taken too long.
            _ = goes_on => return,
            () = connection.closed() => {
                if is_last {
                    return;
                }
                // A request that is there already is answered: the system is asked once more.
                is_last = true;
                tokio::task::yield_now().await;
            }
            _ = ending.changed(), if !is_ending => {
                is_ending = true;
                conversation.as_mut().graceful_shutdown();
            }
        }
    }
}
