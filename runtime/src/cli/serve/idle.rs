//! Which connections have no request, and for how long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// Connections without a request.
#[derive(Default)]
pub(super) struct Idle {
    queue: Mutex<Queue>,
    grown: Notify,
}

#[derive(Default)]
struct Queue {
    last: u64,
    /// What closes them, the one that has been idle longest first.
    closers: BTreeMap<u64, Arc<Notify>>,
}

impl Idle {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the one that has been idle longest. Whether there was one.
    pub(super) fn close_longest(&self) -> bool {
        let longest = self.queue().closers.pop_first();
        longest.inspect(|(_, close)| close.notify_one()).is_some()
    }

    /// Ends when there is one more than there was.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }
}

/// A connection; until its first request has come it is idle.
pub(super) struct Connection {
    idle: Arc<Idle>,
    close: Arc<Notify>,
    /// Its key in the queue; of no meaning while there is a request.
    since: AtomicU64,
    /// Whether a request has come since it was to be closed.
    is_called_off: AtomicBool,
}

impl Connection {
    pub(super) fn new(idle: Arc<Idle>) -> Self {
        let connection =
            Self { idle, close: Arc::default(), since: AtomicU64::new(0), is_called_off: AtomicBool::new(false) };
        connection.rest();
        connection
    }

    /// Ends when it has to make room for another.
    pub(super) async fn closed(&self) {
        loop {
            self.close.notified().await;
            if !self.is_called_off.swap(false, Ordering::Relaxed) {
                return;
            }
        }
    }

    fn rest(&self) {
        let mut queue = self.idle.queue();
        queue.last += 1;
        let since = queue.last;
        queue.closers.insert(since, Arc::clone(&self.close));
        self.since.store(since, Ordering::Relaxed);
        drop(queue);
        self.idle.grown.notify_one();
    }

    /// Whether it was still among those without a request: otherwise it is being closed.
    fn leave(&self) -> bool {
        self.idle.queue().closers.remove(&self.since.load(Ordering::Relaxed)).is_some()
    }

    /// Until what is returned is dropped, there is a request. HTTP/1 has one at a time.
    pub(super) fn work(self: &Arc<Self>) -> Busy {
        if !self.leave() {
            // It was to be closed just as the request came: that is taken back.
            self.is_called_off.store(true, Ordering::Relaxed);
        }
        Busy(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave();
    }
}

pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}
