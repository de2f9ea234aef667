//! Ctrl-C, SIGTERM and SIGHUP: a flag that long work looks at, so that what is complete is kept.

use std::sync::atomic::{AtomicBool, Ordering};

use nimbert::hangup::ignored_as_before;

static STOP: AtomicBool = AtomicBool::new(false);

/// The flag. From the first call on, a first Ctrl-C sets it, and a second one ends the process.
pub(super) fn flag() -> &'static AtomicBool {
    let register = || {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })
    };
    // Where no handler can be had, Ctrl-C ends the process as it does by default.
    let _ = ignored_as_before(register);
    &STOP
}
