//! Who types goes first: while a typed text waits for its answer, labelling begins no further batch.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Open unless somebody waits for a typed text.
#[derive(Debug, Default)]
pub struct Gate {
    is_closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Holds back those that [`Gate::pass`], or lets them go on.
    pub fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = is_closed;
        self.changed.notify_all();
    }

    /// Waits until it is open, but no longer than `patience`: labelling goes on, if slowly, whatever becomes of the
    /// text.
    pub fn pass(&self, patience: Duration) {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        let _open = self.changed.wait_timeout_while(is_closed, patience, |is_closed| *is_closed);
    }
}
