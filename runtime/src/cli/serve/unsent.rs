//! Answers that wait for their clients: what is ready but was not taken yet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::idle::Connection;

/// How many connections have something to send for which the system has no room.
#[derive(Clone, Default)]
pub(super) struct Unsent(Arc<AtomicUsize>);

impl Unsent {
    pub(super) fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A connection that is counted while its client does not take what is sent, and given up where it takes nothing for too long.
pub(super) struct Watched<Io> {
    io: Io,
    unsent: Unsent,
    connection: Arc<Connection>,
    patience: Duration,
    /// Ends when the client has taken nothing for so long; none while there is nothing that it has to take.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<Io> Watched<Io> {
    pub(super) fn new(io: Io, unsent: Unsent, connection: Arc<Connection>, patience: Duration) -> Self {
        Self { io, unsent, connection, patience, waits: None }
    }

    /// What became of a try to send.
    fn tried(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if sent.is_ready() {
            self.taken();
            return sent;
        }
        if self.waits.is_none() {
            self.unsent.0.fetch_add(1, Ordering::Relaxed);
            self.connection.set_sending(true);
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        waits.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn taken(&mut self) {
        if self.waits.take().is_some() {
            self.unsent.0.fetch_sub(1, Ordering::Relaxed);
            self.connection.set_sending(false);
        }
    }
}

impl<Io> Drop for Watched<Io> {
    fn drop(&mut self) {
        self.taken();
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.io).poll_write(context, bytes);
        this.tried(context, sent)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.tried(context, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
