//! SIGHUP, which a terminal sends when it is closed.

#![allow(unsafe_code, reason = "the standard library has no signals")]

/// Runs `register`, which puts a handler on signals. Where SIGHUP was ignored, it is again: `nohup` has it so, for work that goes on
/// without its terminal.
pub fn ignored_as_before<T>(register: impl FnOnce() -> T) -> T {
    #[cfg(unix)]
    {
        use std::ffi::c_int;

        unsafe extern "C" {
            /// POSIX; a handler is an address, or one of few numbers.
            fn signal(number: c_int, handler: usize) -> usize;
        }
        const SIGHUP: c_int = 1;
        const SIG_IGN: usize = 1;
        // SAFETY: no code of ours runs at a signal that is ignored, and what is put back was there before.
        let before = unsafe {
            let before = signal(SIGHUP, SIG_IGN);
            signal(SIGHUP, before);
            before
        };
        let registered = register();
        if before == SIG_IGN {
            // SAFETY: as above.
            unsafe { signal(SIGHUP, SIG_IGN) };
        }
        registered
    }
    #[cfg(not(unix))]
    register()
}
