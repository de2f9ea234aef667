//! Opens a bundle in each way that there is, answers one text, and says how long it took and what memory it has.
//! `cargo xtask bench file` compares the ways.
//!
//! ```text
//! opened open|bytes BUNDLE CACHE|-       milliseconds until it was open, and until the first label; then it waits for a line
//! ```

#![allow(unsafe_code, reason = "a file is mapped for ever, as bytes that are compiled into a program are")]

use std::{fs::File, io::stdin, time::Instant};

use anyhow::Result;
use nimbert::{Classifier, Options, Verify};

fn main() -> Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, bundle, cache] = &arguments[..] else { anyhow::bail!("usage: opened open|bytes BUNDLE CACHE|-") };
    let cache = (cache != "-").then(|| cache.into());
    let classifier = match how.as_str() {
        "open" => Classifier::open(bundle, &Options { cache, ..Options::default() })?,
        _ => {
            // SAFETY: nobody changes the file during a measurement.
            let mapped = Box::leak(Box::new(unsafe { memmap2::Mmap::map(&File::open(bundle)?) }?));
            // As for bytes of the program: nobody can have changed them.
            Classifier::from_bytes(mapped, &Options { cache, verify: Verify::Never, ..Options::default() })?
        }
    };
    let open = started.elapsed();
    classifier.classify("A delight from start to finish.")?;
    let label = started.elapsed();
    println!("{:.1} {:.1}", 1e3 * open.as_secs_f64(), 1e3 * label.as_secs_f64());
    stdin().read_line(&mut String::new())?;
    Ok(())
}
