//! `nimbert`: classifies text with a bundle. Results go to standard output, messages to standard error.
//! Exit status: 0 done, 1 a run failed, 2 wrong usage or bad input, 130 interrupted.

mod cli;

#[allow(unsafe_code, reason = "the environment is only set before anything else runs")]
fn main() -> std::process::ExitCode {
    if std::env::var_os(nimbert::TELEMETRY_VARIABLE).is_none() {
        // SAFETY: nothing else runs yet, so no other thread reads or writes the environment.
        unsafe { std::env::set_var(nimbert::TELEMETRY_VARIABLE, "1") };
    }
    nimbert::guard::silence_guarded_panics();
    cli::main()
}
