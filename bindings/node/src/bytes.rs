//! A file's bytes that a classifier reads as long as it lives.

#![allow(unsafe_code, reason = "the library borrows for ever what lives as long as its classifier here")]

use std::sync::Arc;

use nimbert::{Classifier, Options};

/// A copy of what JavaScript gave: its own buffer may be changed, moved or freed at any time.
#[derive(Clone)]
pub(crate) struct Bytes(Arc<[u8]>);

impl Bytes {
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Opens the classifier that reads these bytes; they must be dropped after it.
    pub(crate) fn open(&self, options: &Options) -> nimbert::Result<Classifier> {
        let bytes: *const [u8] = Arc::as_ptr(&self.0);
        // SAFETY: nothing changes the bytes, and they are not moved. They are freed with the last clone of `self`: that
        // in `Opened`, which is dropped after `Background`, which has the classifier for itself and joins its threads.
        Classifier::from_bytes(unsafe { &*bytes }, options)
    }
}
