//! `nimbert-train evaluate`: a bundle's figures on labelled text, through the runtime that ships.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use indicatif::ProgressBar;
use nimbert::{Classifier, Options, SessionOptions, prediction::Answer};
use nimbert_trainer::{
    calibrate::kept,
    dataset::{Dataset, left_out},
    metrics::{Metrics, percent},
    report::figure,
};

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nimbert-train evaluate reviews-bundle --data more-reviews.csv --json")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Labelled text: .csv or .tsv with a header, .jsonl or .json, or .parquet; also as .gz or .zst
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
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
    let decision = classifier.bundle().decision();
    let dataset = Dataset::open(&args.data, &args.columns.columns_of(decision.problem_type))?;
    // The bundle's labels are in the order of their ids, which may be any.
    let targets = dataset.targets(labels)?;
    dataset.doubt().iter().for_each(|doubt| super::message(&format!("warning: {doubt}")));
    let bar = ProgressBar::new(dataset.rows.len() as u64);
    let mut scores = Vec::with_capacity(dataset.rows.len());
    let (mut abstained, mut answers) = (0, Vec::with_capacity(dataset.rows.len()));
    for rows in dataset.rows.chunks(WINDOW) {
        for prediction in classifier.classify_batch(rows)? {
            abstained += usize::from(prediction.abstained);
            scores.push(prediction.scores.iter().map(|(_, score)| *score).collect());
            answers.push(Answer { logits: prediction.logits, distance: prediction.distance });
        }
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    let expected: Vec<&[u32]> = targets.iter().map(|target| target.ids.as_slice()).collect();
    let metrics = Metrics::new(labels, &decision, &expected, &scores);
    let kept = kept(&decision, &answers, &expected);
    let mut out = io::stdout().lock();
    if args.json {
        let mut json = serde_json::to_value(&metrics)?;
        json["abstained"] = abstained.into();
        if let Some(share) = kept.unknown {
            json["unknown"] = share.into();
        }
        if let Some((share, size)) = kept.coverage {
            json["coverage"] = share.into();
            json["labels_a_set"] = size.into();
        }
        json["skipped"] = dataset.skipped.len().into();
        json["counting"] = args.columns.counting().into();
        return Ok(writeln!(out, "{json}")?);
    }
    let (accuracy, macro_f1) = (metrics.accuracy, figure(metrics.macro_f1));
    writeln!(out, "accuracy {accuracy:.4}, macro F1 {macro_f1} on {} rows", metrics.rows)?;
    let optional =
        |name: &str, figure: Option<f64>| figure.map_or(String::new(), |figure| format!(", {name} {figure:.4}"));
    let further = [optional("MCC", metrics.mcc), optional("ROC-AUC", metrics.roc_auc)].concat();
    let (micro, weighted, ece) = (figure(metrics.micro_f1), figure(metrics.weighted_f1), metrics.ece);
    writeln!(out, "micro F1 {micro}, weighted F1 {weighted}{further}, calibration error {ece:.4}")?;
    args.columns.counting().iter().try_for_each(|line| writeln!(out, "{line}"))?;
    left_out(&dataset.skipped).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    if decision.abstain_threshold.is_some() {
        writeln!(out, "unsure of {abstained} rows, which are counted by the best guess")?;
    }
    if let Some((share, size)) = kept.coverage {
        let (share, labels) = (percent(Some(share)), labels.len());
        writeln!(out, "sets of labels: {share} have the right one, {size:.2} of {labels} labels each on average")?;
    }
    if let Some(share) = kept.unknown {
        let share = percent(Some(share));
        writeln!(out, "{share} of the rows taken for unknown, which are counted by the best guess")?;
    }
    writeln!(out, "{:<24}{:>10}{:>10}{:>10}{:>10}", "label", "precision", "recall", "F1", "rows")?;
    for label in &metrics.labels {
        let [precision, recall, f1] = [label.precision, label.recall, label.f1].map(figure);
        let figures = format!("{precision:>10}{recall:>10}{f1:>10}{:>10}", label.support);
        writeln!(out, "{:<24}{figures}", label.label)?;
    }
    if let Some(confusion) = &metrics.confusion {
        writeln!(out, "\nrows: what the data says; columns: what the bundle says, in the same order")?;
        for (label, counts) in labels.iter().zip(confusion) {
            let counts: String = counts.iter().map(|count| format!("{count:>8}")).collect();
            writeln!(out, "{label:<24}{counts}")?;
        }
    }
    Ok(())
}
