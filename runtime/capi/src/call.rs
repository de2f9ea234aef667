//! `nimbert_call`: a call that nobody waits for.

#![allow(unsafe_code, reason = "C is called back")]

use std::{
    cell::Cell,
    ffi::c_void,
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use nimbert::Pending;

use crate::{
    failure::{NOT_READY, Place, Result, answer, answer_handle, argument, failure},
    handles::{self, Handle, lock},
    results::Results,
};

/// What a call's handle names.
#[derive(Default)]
pub(crate) struct Call {
    /// What cancels it; set before C has the handle.
    pub(crate) pending: OnceLock<Pending>,
    /// What came of it, once that is there.
    result: Mutex<Option<Result<Arc<Results>>>>,
    is_there: Condvar,
}

/// A program's function (`nimbert_callback`), and what it is told.
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(Handle, *mut c_void),
    pub(crate) call: Handle,
    pub(crate) user_data: *mut c_void,
}

// SAFETY: nimbert.h says that the function is called on another thread; the pointers are not followed here.
unsafe impl Send for Callback {}

thread_local! {
    static IS_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether a callback runs on this thread: it must not wait for the threads that run callbacks, itself among them.
pub(crate) fn is_callback() -> bool {
    IS_CALLBACK.get()
}

impl Call {
    pub(crate) fn set(&self, result: Result<Arc<Results>>) {
        *lock(&self.result) = Some(result);
        self.is_there.notify_all();
    }

    fn wait(&self, timeout: Duration) -> Result<Arc<Results>> {
        let waited = self.is_there.wait_timeout_while(lock(&self.result), timeout, |result| result.is_none());
        let (result, _) = waited.unwrap_or_else(PoisonError::into_inner);
        result.clone().unwrap_or_else(|| Err(failure(NOT_READY, "the call is not done yet")))
    }
}

impl Callback {
    pub(crate) fn run(self) {
        let outer = IS_CALLBACK.replace(true);
        // SAFETY: nimbert.h asks for a function that may be called so.
        unsafe { (self.function)(self.call, self.user_data) };
        IS_CALLBACK.set(outer);
    }
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_call_wait(call: Handle, timeout_ms: u64, results: Place) -> i32 {
    answer_handle(results, || {
        let call = handles::get::<Call>(call)?;
        if timeout_ms > 0 && is_callback() {
            return Err(argument("timeout_ms: expected 0, since a callback must not wait"));
        }
        Ok(handles::insert(call.wait(Duration::from_millis(timeout_ms))?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_call_cancel(call: Handle) -> i32 {
    answer(|| {
        handles::get::<Call>(call)?.pending.get().map(Pending::cancel);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_call_free(call: Handle) -> i32 {
    answer(|| handles::remove::<Call>(call).map(drop))
}
