//! What a call may do without, and how long it took.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    scheduler::Times,
    tokenizer::Truncation,
};

/// What one call may do without.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions<'a> {
    /// After it, the call fails with [`crate::Error::DeadlinePassed`].
    pub deadline: Option<Instant>,
    /// Once it is true, the call fails with [`crate::Error::Cancelled`]; looked at every 50 ms, and between two texts.
    pub cancel: Option<&'a AtomicBool>,
    /// What becomes of texts that are too long. Default: what the bundle says.
    pub truncation: Truncation,
}

impl CallOptions<'_> {
    /// That the call is still wanted.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::Cancelled);
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(Error::DeadlinePassed),
            _ => Ok(()),
        }
    }
}

/// How long the parts of a call took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Text to token ids.
    pub tokenization: Duration,
    /// Until the first text was taken from the queue.
    pub queue: Duration,
    /// From then until the last text was run.
    pub inference: Duration,
}

impl Timing {
    pub(crate) fn new(tokenization: Duration, Times { queue, inference }: Times) -> Self {
        Self { tokenization, queue, inference }
    }
}
