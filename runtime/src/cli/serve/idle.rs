//! Which connections have no request, and for how long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, futures::Notified};

/// Connections without a request.
#[derive(Default)]
pub(super) struct Idle {
    queue: Mutex<Queue>,
    grown: Notify,
    called_off: Notify,
}

/// A client that has just connected is about to send its request: before so long others go first.
const GRACE: Duration = Duration::from_secs(1);

/// Since when a connection is idle, and its number, by which it differs from those of the same moment.
type Since = (Instant, u64);

#[derive(Default)]
struct Queue {
    last: u64,
    /// What closes them, the one that has been idle longest first.
    closers: BTreeMap<Since, Arc<Closer>>,
}

/// Closes a connection.
#[derive(Default)]
struct Closer {
    notify: Notify,
    /// Changed only while the queue is locked.
    is_closing: AtomicBool,
}

impl Idle {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the one that has been idle longest, unless a request comes just then. Whether there was one.
    pub(super) fn close_longest(&self) -> bool {
        let mut queue = self.queue();
        let Some((_, closer)) = queue.closers.pop_first() else { return false };
        closer.is_closing.store(true, Ordering::Relaxed);
        closer.notify.notify_one();
        true
    }

    /// Ends when there is one more than there was.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Ends when, from now on, one that was to be closed has got a request, and stays.
    pub(super) fn called_off(&self) -> Notified<'_> {
        self.called_off.notified()
    }
}

/// A connection. It is idle when it has been looked at, until its first request has come.
pub(super) struct Connection {
    idle: Arc<Idle>,
    closer: Arc<Closer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Its key in the queue, also when it was taken out to be closed; none from a request on until its answer is sent.
    since: Option<Since>,
    has_asked: bool,
    has_request: bool,
    is_sending: bool,
}

impl Connection {
    pub(super) fn new(idle: Arc<Idle>) -> Self {
        Self { idle, closer: Arc::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when it has to make room for another.
    pub(super) async fn closed(&self) {
        while !self.is_closing() {
            self.closer.notify.notified().await;
        }
    }

    /// Whether it has to.
    pub(super) fn is_closing(&self) -> bool {
        self.closer.is_closing.load(Ordering::Relaxed)
    }

    /// Says whether its client has yet to take what is sent.
    pub(super) fn set_sending(&self, is_sending: bool) {
        self.state().is_sending = is_sending;
    }

    /// After something was done with it: where its last answer is sent, it is idle.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        if state.has_request || state.is_sending || state.since.is_some() {
            return;
        }
        let grace = if state.has_asked { Duration::ZERO } else { GRACE };
        let mut queue = self.idle.queue();
        queue.last += 1;
        let since = *state.since.insert((Instant::now() + grace, queue.last));
        queue.closers.insert(since, Arc::clone(&self.closer));
        drop(queue);
        self.idle.grown.notify_one();
    }

    /// Until what is returned is dropped, there is a request. HTTP/1 has one at a time.
    pub(super) fn work(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        (state.has_asked, state.has_request) = (true, true);
        let mut queue = self.idle.queue();
        if let Some(since) = state.since.take() {
            queue.closers.remove(&since);
        }
        // If it was to be closed, that is taken back.
        if self.closer.is_closing.swap(false, Ordering::Relaxed) {
            self.idle.called_off.notify_waiters();
        }
        Busy(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(since) = self.state().since {
            self.idle.queue().closers.remove(&since);
        }
    }
}

pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().has_request = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_gets_a_request_as_it_is_to_be_closed_stays_and_can_be_closed_later() {
        let idle = Arc::new(Idle::default());
        let connection = Arc::new(Connection::new(Arc::clone(&idle)));
        // Nobody has looked whether it has sent a request.
        assert!(!idle.close_longest());
        connection.settle();
        let called_off = idle.called_off();
        assert!(idle.close_longest() && !idle.close_longest());
        let busy = connection.work();
        // Who waits for its place hears of it, and finds none that could be closed.
        called_off.await;
        assert!(!idle.close_longest());
        drop(busy);
        connection.set_sending(true);
        connection.settle();
        assert!(!idle.close_longest());
        connection.set_sending(false);
        connection.settle();
        // The first closing was never looked at: the second must be seen all the same.
        assert!(idle.close_longest());
        connection.closed().await;
        // One that has just come goes last.
        let fresh = Arc::new(Connection::new(Arc::clone(&idle)));
        fresh.settle();
        let older = Arc::new(Connection::new(Arc::clone(&idle)));
        drop(older.work());
        older.settle();
        assert!(idle.close_longest() && older.is_closing() && !fresh.is_closing());
        assert!(idle.close_longest() && fresh.is_closing());
    }
}
