//! `nimbert-train evaluate`: a bundle's figures on labelled text, through the runtime that ships.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use indicatif::ProgressBar;
use nimbert::{Classifier, Options, SessionOptions};
use nimbert_trainer::{dataset::Dataset, metrics::Metrics};

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nimbert-train evaluate reviews-bundle --data more-reviews.csv --json")]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    /// Labelled text: .csv or .tsv with a header, or .jsonl
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    columns: super::ColumnArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

/// Texts classified at once: enough for batches of like lengths, and for a progress bar that moves.
const WINDOW: usize = 512;

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let session = SessionOptions { ort_lib: args.ort_lib.clone(), ..SessionOptions::default() };
    let classifier = Classifier::open(&args.bundle, &Options { session, ..Options::default() })?;
    let labels = classifier.labels();
    let dataset = Dataset::open(&args.data, &args.columns.columns())?;
    // The bundle's labels are in the order of their ids, which may be any.
    let expected = dataset.label_ids(labels)?;
    let bar = ProgressBar::new(dataset.rows.len() as u64);
    let mut predicted = Vec::with_capacity(dataset.rows.len());
    for rows in dataset.rows.chunks(WINDOW) {
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        for prediction in classifier.classify_batch(&texts)? {
            let id = labels.iter().position(|label| *label == prediction.label).unwrap_or_default();
            predicted.push(id as u32);
        }
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    let metrics = Metrics::new(labels, &expected, &predicted);
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&metrics)?)?);
    }
    writeln!(out, "accuracy {:.4}, macro F1 {:.4} on {} rows", metrics.accuracy, metrics.macro_f1, metrics.rows)?;
    writeln!(out, "{:<24}{:>10}{:>10}{:>10}{:>10}", "label", "precision", "recall", "F1", "rows")?;
    for label in &metrics.labels {
        let figures = format!("{:>10.4}{:>10.4}{:>10.4}{:>10}", label.precision, label.recall, label.f1, label.support);
        writeln!(out, "{:<24}{figures}", label.label)?;
    }
    Ok(())
}
