//! What a function answers: a code, and the text of the thread's last error.

use std::{
    cell::RefCell,
    ffi::{CString, c_char},
    mem::MaybeUninit,
    ptr,
};

use nimbert::guard::guarded;

use crate::{handles::Handle, load};

// The codes of nimbert.h; the others are those of `nimbert::ErrorKind`.
const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 100;
pub(crate) const INVALID_HANDLE: i32 = 101;
const PANIC: i32 = 102;
pub(crate) const NOT_READY: i32 = 103;

/// Why a function did not do what it was asked for.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Where C wants a handle.
pub(crate) type Place<'a> = Option<&'a mut MaybeUninit<Handle>>;

impl From<nimbert::Error> for Failure {
    fn from(error: nimbert::Error) -> Self {
        failure(error.kind() as i32, error.to_string())
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

pub(crate) fn failure(code: i32, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

pub(crate) fn argument(message: impl Into<String>) -> Failure {
    failure(INVALID_ARGUMENT, message)
}

/// What `body` gives; a panic is a failure as well.
pub(crate) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(body).unwrap_or_else(|message| Err(failure(PANIC, format!("a fault of libnimbert: {message}"))))
}

/// The code of what `body` gives; the message is kept. But for the two that cannot fail, all functions run in here.
pub(crate) fn answer(body: impl FnOnce() -> Result<()>) -> i32 {
    load::prepare();
    let Failure { code, message } = caught(body).err().unwrap_or_else(|| failure(OK, ""));
    // While a thread ends, there may be no room for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(c_string(&message)));
    code
}

/// The same for a function that gives a handle: NULL if it fails.
pub(crate) fn answer_handle(place: Place, body: impl FnOnce() -> Result<Handle>) -> i32 {
    answer(|| {
        let place = place.ok_or_else(|| argument("expected a place for the handle, found NULL"))?;
        let handle = place.write(ptr::null_mut());
        *handle = body()?;
        Ok(())
    })
}

/// The same for a function that returns a pointer: NULL if it fails.
pub(crate) fn answer_pointer<T>(body: impl FnOnce() -> Result<*const T>) -> *const T {
    let mut pointer = ptr::null();
    answer(|| {
        pointer = body()?;
        Ok(())
    });
    pointer
}

pub(crate) fn last_message() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A text for C, where NUL is the end: one inside becomes a space.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_code_with_its_message() {
        let message = || LAST_ERROR.with_borrow(|last| last.to_string_lossy().into_owned());
        assert_eq!(answer(|| panic!("a table of {} legs", 3)), PANIC);
        assert_eq!(message(), "a fault of libnimbert: a table of 3 legs");
        assert_eq!(answer(|| Ok(())), OK);
        assert_eq!(message(), "");
    }
}
