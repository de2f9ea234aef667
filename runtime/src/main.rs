//! `nimbert`: classifies text with a bundle. Results go to standard output, messages to standard error.
//! Exit status: 0 done, 1 a run failed, 2 wrong usage or bad input, 130 interrupted.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
