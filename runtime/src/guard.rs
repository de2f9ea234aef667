//! Code of other crates that panics on what a stranger's file says: an error all the same.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `run` gives, or the message with which it panics.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_GUARDED.replace(true);
    // What it was given is dropped with the error, and nobody looks at it again.
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(before);
    result.map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        message.to_owned()
    })
}

/// Keeps panics that become errors from being written to standard error, from now on in the whole process: for a program's
/// `main`.
pub fn silence_guarded_panics() {
    let hook = take_hook();
    set_hook(Box::new(move |panic| {
        if !IS_GUARDED.get() {
            hook(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_call_is_none() {
        let wrong = guarded(|| -> u32 { panic!("{}", "as a crate would") }).unwrap_err();
        assert!(wrong.contains("as a crate would"), "{wrong}");
        assert_eq!(guarded(|| 5), Ok(5));
    }
}
