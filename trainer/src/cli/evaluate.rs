//! `nimbert-train evaluate`: a bundle's figures on labelled text, through the runtime that ships.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use indicatif::ProgressBar;
use nimbert::{Classifier, Options, SessionOptions, Task, prediction::escaped};
use nimbert_trainer::{
    Error,
    calibrate::{Found, Kept, kept},
    dataset::{Dataset, left_out},
    metrics::{MAX_MATRIX_LABELS, MAX_PAIRS, Metrics, confused_pairs, percent},
    report::{figure, of_found},
    tasks::{TaskRows, Tasks},
};
use serde_json::Value;

use super::{BundleColumnArgs, ColumnArgs, Given};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train evaluate reviews-bundle --data more-reviews.csv --json
  nimbert-train evaluate mail-bundle --data mail.csv --task topic --task tone=tone_column")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Labelled text: .csv or .tsv with a header, .jsonl or .json, or .parquet; also as .gz or .zst
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: BundleColumnArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, else beside this program, in ../lib/nimbert or ../lib, its Python
    /// environment, the setup's folder, the system]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
}

/// Texts classified at once: enough for batches of like lengths, and for a progress bar that moves.
const WINDOW: usize = 512;

pub(super) fn run(args: &Args, given: &Given) -> anyhow::Result<()> {
    let session = SessionOptions { ort_lib: args.ort_lib.clone(), ..SessionOptions::default() };
    let classifier = Classifier::open(&args.bundle, &Options { session, ..Options::default() })?;
    let tasks = classifier.tasks();
    let dataset = Dataset::open(&args.data, &args.columns.columns_of(tasks, given)?)?;
    let ColumnArgs { unknown_label, .. } = &args.columns.columns;
    let counting = args.columns.columns.counting();
    // The bundle's labels are in the order of their ids, which may be any.
    let (of_labels, labels) = Tasks::of_bundle(tasks);
    if unknown_label.is_some() && tasks[0].decision.unknown_threshold.is_none() {
        let expected = "a bundle that says what is unknown (fit --unknown-rate)";
        return Err(Error::setting("--unknown-label", expected, "one that does not").into());
    }
    if let Some(label) = unknown_label.as_ref().filter(|_| dataset.strangers.is_empty()) {
        super::message(&format!("no row has the label {label:?}"));
    }
    let targets = dataset.targets(&labels)?;
    dataset.doubt().iter().for_each(|doubt| super::message(&format!("warning: {doubt}")));
    let bar = ProgressBar::new((dataset.rows.len() + dataset.strangers.len()) as u64);
    let mut distances = Vec::with_capacity(dataset.rows.len());
    let mut logits: Vec<Vec<f32>> = Vec::with_capacity(dataset.rows.len());
    for rows in dataset.rows.chunks(WINDOW) {
        for prediction in classifier.classify_batch(rows)? {
            distances.push(prediction.distance);
            logits.push(prediction.tasks().flat_map(|task| task.logits.iter().copied()).collect());
        }
        bar.inc(rows.len() as u64);
    }
    let mut of_strangers = Vec::with_capacity(dataset.strangers.len());
    for rows in dataset.strangers.chunks(WINDOW) {
        of_strangers.extend(classifier.classify_batch(rows)?.into_iter().map(|prediction| prediction.distance));
        bar.inc(rows.len() as u64);
    }
    let found = Found::of(&tasks[0].decision, &distances, &of_strangers);
    bar.finish_and_clear();
    let expected: Vec<&[u32]> = targets.iter().map(|target| target.ids.as_slice()).collect();
    let rows = of_labels.rows(&logits, &expected);
    let figures: Vec<Figures<'_>> =
        tasks.iter().zip(&rows).map(|(task, rows)| Figures::new(task, rows, &distances)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let mut json = figures[0].json()?;
        json["skipped"] = dataset.skipped.len().into();
        if let Some(found) = found {
            json["strangers"] = serde_json::to_value(found)?;
        }
        json["counting"] = counting.into();
        if let Some(task) = &tasks[0].name {
            json["task"] = task.as_str().into();
        }
        for (task, figures) in tasks.iter().zip(&figures).skip(1) {
            json["further"][task.name.as_deref().unwrap_or_default()] = figures.json()?;
        }
        return Ok(writeln!(out, "{json}")?);
    }
    counting.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    left_out(&dataset.skipped).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    found.iter().try_for_each(|found| writeln!(out, "{}", of_found(found)))?;
    figures.iter().try_for_each(|figures| figures.write(&mut out))
}

/// What is found of a task's answers.
struct Figures<'a> {
    task: &'a Task,
    metrics: Metrics,
    kept: Kept,
}

impl<'a> Figures<'a> {
    fn new(task: &'a Task, rows: &TaskRows, distances: &[Option<f32>]) -> Self {
        let (decision, expected) = (&task.decision, rows.ids());
        let scores = rows.scores(decision);
        Self {
            task,
            metrics: Metrics::new(&task.labels, decision, &expected, &scores),
            kept: kept(decision, rows, distances),
        }
    }

    fn json(&self) -> anyhow::Result<Value> {
        let mut json = serde_json::to_value(&self.metrics)?;
        if self.metrics.rows == 0 {
            // Of no rows nothing is known.
            json["accuracy"] = Value::Null;
        }
        let (abstained, of_others) = self.kept.unsure.unwrap_or_default();
        json["abstained"] = abstained.into();
        if let Some(accuracy) = of_others {
            json["accuracy_of_others"] = accuracy.into();
        }
        if let Some(share) = self.kept.unknown {
            json["unknown"] = share.into();
        }
        if let Some((share, size)) = self.kept.coverage {
            json["coverage"] = share.into();
            json["labels_a_set"] = size.into();
        }
        Ok(json)
    }

    fn write(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let Self { task: Task { name, labels, .. }, metrics, kept } = self;
        if let Some(name) = name {
            writeln!(out, "\ntask {name}")?;
        }
        if metrics.rows == 0 {
            return Ok(writeln!(out, "no row has a label of it")?);
        }
        let (accuracy, macro_f1) = (metrics.accuracy, figure(metrics.macro_f1));
        writeln!(out, "accuracy {accuracy:.4}, macro F1 {macro_f1} on {} rows", metrics.rows)?;
        let optional =
            |name: &str, figure: Option<f64>| figure.map_or(String::new(), |figure| format!(", {name} {figure:.4}"));
        let further = [optional("MCC", metrics.mcc), optional("ROC-AUC", metrics.roc_auc)].concat();
        let (micro, weighted, ece) = (figure(metrics.micro_f1), figure(metrics.weighted_f1), metrics.ece);
        writeln!(out, "micro F1 {micro}, weighted F1 {weighted}{further}, calibration error {ece:.4}")?;
        if let Some((unsure, of_others)) = kept.unsure {
            let others = of_others.map_or(String::new(), |accuracy| format!("; accuracy {accuracy:.4} on the others"));
            writeln!(out, "unsure of {unsure} rows, which are counted by the best guess{others}")?;
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
            writeln!(out, "{:<24}{figures}", escaped(&label.label))?;
        }
        if let Some(confusion) = &metrics.confusion {
            if labels.len() <= MAX_MATRIX_LABELS {
                writeln!(out, "\nrows: what the data says; columns: what the bundle says, in the same order")?;
                for (label, counts) in labels.iter().zip(confusion) {
                    let counts: String = counts.iter().map(|count| format!("{count:>8}")).collect();
                    writeln!(out, "{:<24}{counts}", escaped(label))?;
                }
                return Ok(());
            }
            let pairs = confused_pairs(confusion);
            if pairs.is_empty() {
                return Ok(writeln!(out, "\nno row was taken for another label")?);
            }
            let shown = &pairs[..pairs.len().min(MAX_PAIRS)];
            let (count, all) = (shown.len(), pairs.len());
            writeln!(out, "\nthe {count} most frequent of {all} confused pairs of labels (--json has all)")?;
            for &(count, expected, predicted) in shown {
                let [expected, predicted] = [expected, predicted].map(|id| escaped(&labels[id]));
                writeln!(out, "{count:>8}  {expected} taken for {predicted}")?;
            }
        }
        Ok(())
    }
}
