//! Answers that wait for their clients: what is ready but was not taken yet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many connections have something to send for which the system has no room.
#[derive(Clone, Default)]
pub(super) struct Unsent(Arc<AtomicUsize>);

impl Unsent {
    pub(super) fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A connection that is counted while its client does not take what is sent.
pub(super) struct Watched<Io> {
    io: Io,
    unsent: Unsent,
    is_counted: bool,
}

impl<Io> Watched<Io> {
    pub(super) fn new(io: Io, unsent: Unsent) -> Self {
        Self { io, unsent, is_counted: false }
    }

    fn count(&mut self, waits: bool) {
        match (self.is_counted, waits) {
            (false, true) => self.unsent.0.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.unsent.0.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_counted = waits;
    }
}

impl<Io> Drop for Watched<Io> {
    fn drop(&mut self) {
        self.count(false);
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
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.count(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, slices);
        this.count(written.is_pending());
        written
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
