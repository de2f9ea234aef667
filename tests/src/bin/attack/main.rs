//! Attacks a bundle: flipped bits, cut files, graphs that nobody would write. Each changed bundle is opened and asked
//! for three answers, by another process, since what is looked for may end it.
//!
//! ```text
//! attack BUNDLE [--sample N] [--seed S]      all of it, or about N cases of each kind; a table of what came of it
//! attack case BUNDLE KIND SEED INDEX         one case again
//! attack worker BUNDLE KIND SEED SAMPLE FROM what the first starts
//! ```
//!
//! Exit status: 0 nothing was found, 1 something was, 2 wrong usage or a bundle that does not open.

mod cases;
mod graph;
mod parent;
mod report;
mod tokenizer;
mod values;
mod whole;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use cases::Kind;
use parent::Attack;
use worker::Which;

const USAGE: &str = "usage: attack BUNDLE [--sample N] [--seed S]\n       attack case BUNDLE KIND SEED INDEX";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["case", bundle, kind, seed, index] => work(bundle, kind, seed, |[index]| Which::One(index), [index]),
        ["worker", bundle, kind, seed, sample, from] => {
            work(bundle, kind, seed, |[sample, from]| Which::From { from, sample }, [sample, from])
        }
        [bundle, ref options @ ..] if !bundle.starts_with('-') => attack(bundle, options),
        _ => None,
    };
    done.unwrap_or_else(|| {
        eprintln!("{USAGE}");
        ExitCode::from(2)
    })
}

/// The whole attack; none if it is not clear which.
fn attack(bundle: &str, options: &[&str]) -> Option<ExitCode> {
    let mut attack = Attack { bundle: PathBuf::from(bundle), seed: 0, sample: usize::MAX };
    let (pairs, rest) = options.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    for [option, value] in pairs {
        match *option {
            "--sample" => attack.sample = value.parse().ok().filter(|sample| *sample > 0)?,
            "--seed" => attack.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(match attack.run() {
        Ok(tallies) => {
            print!("{}", report::table(&tallies));
            print!("{}", report::failures(&tallies, &attack));
            let is_clean = tallies.iter().all(|tally| tally.failures.is_empty());
            if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            eprintln!("attack: error: {message}");
            ExitCode::from(2)
        }
    })
}

/// A worker's part; none if it is not clear which.
fn work<const N: usize>(
    bundle: &str,
    kind: &str,
    seed: &str,
    which: impl FnOnce([usize; N]) -> Which,
    numbers: [&str; N],
) -> Option<ExitCode> {
    let kind = Kind::named(kind)?;
    let seed = seed.parse().ok()?;
    let mut parsed = [0; N];
    for (parsed, number) in parsed.iter_mut().zip(numbers) {
        *parsed = number.parse().ok()?;
    }
    Some(match worker::run(bundle.as_ref(), kind, seed, which(parsed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: error: the unchanged bundle: {error}");
            ExitCode::from(2)
        }
    })
}
