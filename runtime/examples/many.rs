//! A loop: the lines of a file, each with its label.
//!
//!     cargo run --release --example many -- BUNDLE FILE.txt

use nimbert::{Classifier, Options, Parallelism, compiled::default_cache};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, bundle, file] = &arguments[..] else { return Err("usage: many BUNDLE FILE.txt".into()) };
    let options = Options {
        // Many texts: a batch on every core.
        parallelism: Parallelism::Throughput,
        // The graph is kept in the form that was compiled for this machine: the next start is faster.
        cache: default_cache(),
        ..Options::default()
    };
    let classifier = Classifier::open(bundle, &options)?;
    let text = std::fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().collect();
    // In windows: a call needs memory for all its texts.
    for window in lines.chunks(2000) {
        for (line, prediction) in window.iter().zip(classifier.classify_batch(window)?) {
            println!("{}\t{line}", prediction.summary());
        }
    }
    Ok(())
}
