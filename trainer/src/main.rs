//! `nimbert-train`: labelled text in, a verified bundle out. Results go to standard output, messages to standard error.
//! Exit status: 0 done; 1 a run failed; 2 wrong usage or bad input; 130 interrupted.

mod cli;

/// Activations and gradients are large buffers that live for a part of a step. The system's allocator maps and unmaps
/// each, and the kernel clears their pages every time; this one keeps them (measured: see benches/runs).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's number for how many milliseconds what is freed is kept, before the system gets it back (`mi_option_purge_delay` in
/// its header; the crate has no name for it).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// What a step frees, the next one needs: of ten milliseconds, the default, a large model spends a quarter of its time on clearing
/// pages. The checkpoint of a large model takes seconds to write, and the step behind it needs its memory too. The peak is 4 %
/// higher for it.
const KEPT_MILLISECONDS: std::ffi::c_long = 30_000;

/// The default.
const USUAL_MILLISECONDS: std::ffi::c_long = 10;

/// As long as it lives, the system gets back soon what is freed, and at once what was freed before: an export's buffers are few and
/// large, and ONNX Runtime has an allocator of its own, which gets none of what this one keeps.
pub(crate) struct LeanMemory;

#[allow(unsafe_code, reason = "the allocator's own functions")]
impl LeanMemory {
    pub(crate) fn begin() -> Self {
        // SAFETY: mimalloc's options are atomic numbers, and memory that is free may be given back by any thread at any time.
        unsafe {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, USUAL_MILLISECONDS);
            libmimalloc_sys::mi_collect(true);
        }
        Self
    }
}

#[allow(unsafe_code, reason = "the allocator's own function")]
impl Drop for LeanMemory {
    fn drop(&mut self) {
        // SAFETY: as above. A smaller model may be trained next.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT_MILLISECONDS) };
    }
}

/// candle's setting for how long its idle threads wait in a busy loop.
const CANDLE_SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

#[allow(unsafe_code, reason = "options that are only set before anything else runs")]
fn main() -> std::process::ExitCode {
    // SAFETY: mimalloc's options are atomic numbers, which may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT_MILLISECONDS) };
    // candle keeps threads of its own for its elementwise operations. They wait in a busy loop, on the cores that our
    // operations need; with this they sleep (measured: a tenth more rows a second on two cores).
    if std::env::var_os(CANDLE_SPIN_LIMIT).is_none() {
        // SAFETY: nothing else runs yet, so no other thread reads or writes the environment.
        unsafe { std::env::set_var(CANDLE_SPIN_LIMIT, "1") };
    }
    if std::env::var_os(nimbert::TELEMETRY_VARIABLE).is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var(nimbert::TELEMETRY_VARIABLE, "1") };
    }
    nimbert::guard::silence_guarded_panics();
    cli::main()
}
