//! What a bundle answers to texts, a line each: `strangeness BUNDLE FILE` prints a line for each, with what may tell whether the text is
//! like those of training: the highest score and the energy of the logits (Liu et al., arXiv 2010.03759), both before calibration, and
//! the distance.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use nimbert::{Classifier, Options};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, file] = arguments.as_slice() else { bail!("expected BUNDLE FILE, found {arguments:?}") };
    let classifier = Classifier::open(Path::new(bundle), &Options::default())?;
    let content = fs::read_to_string(file)?;
    let texts: Vec<&str> = content.lines().collect();
    let temperature = classifier.bundle().manifest.folded_temperature.unwrap_or(1.0);
    for prediction in classifier.classify_batch(&texts)? {
        let logits: Vec<f64> = prediction.logits.iter().map(|logit| f64::from(logit * temperature)).collect();
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
        let distance = prediction.distance.context("a bundle made without --unknown-rate")?;
        // The highest score is 1 / sum.
        println!("{}\t{}\t{distance}\t{}", sum.ln(), -(most + sum.ln()), prediction.unknown);
    }
    Ok(())
}
