//! `nimbert classify`: texts from arguments, a file or standard input; a line of result for each, in input order.

use std::{
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nimbert::{CallOptions, Classifier, Options, Parallelism, bundle::MANIFEST, bundle::sha256_file};

use super::{
    input::{BadRow, Columns, Rows, Text},
    interrupt,
    output::{Format, Output},
};

/// Texts that are read, classified and written together: enough that those of one length meet, and memory stays bounded
/// however long the input is.
const WINDOW_ROWS: usize = 2048;
const WINDOW_BYTES: usize = 8 << 20;
/// So many bad rows are shown when they are skipped; the others are counted.
const SHOWN_BAD_ROWS: u64 = 10;

#[derive(clap::Args)]
#[command(after_help = "\
Without --json a line of output is: label, tab, score, tab, the text with its line breaks written as \\n. The label is \
\"unsure\" under the bundle's threshold; where a text may have several labels, those that hold, or \"none\".

With --json, or to a .jsonl file, it is one object:
  {\"label\":\"positive\",\"score\":0.98,\"scores\":{\"negative\":0.02,\"positive\":0.98}}

A .csv file gets the columns text, label, score, and the score of each label; so does a .parquet or .arrow file (a \
build with the feature parquet).

Examples:
  nimbert classify reviews-bundle \"I love this movie!\"
  nimbert classify reviews-bundle --input reviews.csv --text-column body --output labels.csv
  nimbert classify reviews-bundle --input reviews.jsonl --output labels.jsonl \\
      --on-error skip --resume")]
pub(super) struct Args {
    /// The bundle's folder
    bundle: PathBuf,
    /// Texts to classify
    #[arg(value_name = "TEXT", conflicts_with = "input", required_unless_present = "input")]
    texts: Vec<String>,
    /// A file of texts: .csv or .tsv (with a header), .jsonl, .parquet (a build with that feature), else one text a line;
    /// - for lines on standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Column or key of the text in a file that has such
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Column or key of the second text, for a classifier of pairs
    #[arg(long, value_name = "NAME", requires = "input")]
    text_pair_column: Option<String>,
    /// Where results go; a file appears when it is complete
    #[arg(long, default_value = "-", value_name = "FILE")]
    output: PathBuf,
    /// Go on with an output that was interrupted: its complete results are kept
    #[arg(long, requires = "input")]
    resume: bool,
    /// What a row that cannot be read does: stop, or skip it with a message
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
    /// Show the N most likely labels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    top_k: Option<u16>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: super::OpenArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    Stop,
    Skip,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Some(input) = &args.input else { return run_texts(args) };
    let columns = Columns { text: args.text_column.clone(), pair: args.text_pair_column.clone() };
    if args.resume && !std::fs::metadata(input).is_ok_and(|metadata| metadata.is_file()) {
        bail!("{}: expected a file for --resume: what was read of anything else is gone", input.display());
    }
    let rows = Rows::open(input, columns)?;
    let stop = interrupt::flag();
    let options = Options { parallelism: Parallelism::Throughput, ..args.open.options() };
    let classifier = super::open(&args.bundle, &options)?;
    let (mut output, done) = Output::open(&args.output, args.format(&classifier)?, &args.note(input)?, args.resume)?;
    if done > 0 {
        eprintln!("nimbert: {done} results are there already");
    }
    match classify_rows(&classifier, rows, &mut output, done, args.on_error, stop) {
        Ok(skipped) => {
            if skipped > 0 {
                eprintln!("nimbert: {skipped} rows were skipped");
            }
            Ok(output.finish()?)
        }
        Err(error) => {
            if let Some(partial) = output.abandon() {
                eprintln!("nimbert: {} has the results so far; --resume goes on", partial.display());
            }
            Err(error)
        }
    }
}

fn run_texts(args: &Args) -> anyhow::Result<()> {
    let classifier = super::open(&args.bundle, &Options { parallelism: Parallelism::Latency, ..args.open.options() })?;
    let texts: Vec<Text> = args.texts.iter().map(|text| Text { text: text.clone(), pair: None }).collect();
    let predictions = classifier.classify_batch(&texts)?;
    let (mut output, _) = Output::open(&args.output, args.format(&classifier)?, "texts", false)?;
    for (text, prediction) in texts.iter().zip(&predictions) {
        output.write(text, prediction)?;
    }
    Ok(output.finish()?)
}

impl Args {
    fn format(&self, classifier: &Classifier) -> anyhow::Result<Format> {
        let top_k = self.top_k.map(usize::from);
        let extension = self.output.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" => Ok(Format::Json { top_k }),
            "parquet" | "arrow" => self.columns(classifier),
            _ if self.json => Ok(Format::Json { top_k }),
            "csv" if top_k.is_some() => bail!("a .csv file has the scores of all labels: expected no --top-k"),
            "csv" => Ok(Format::Csv { labels: classifier.labels().to_vec() }),
            _ => Ok(Format::Lines { top_k }),
        }
    }

    #[cfg(feature = "parquet")]
    fn columns(&self, classifier: &Classifier) -> anyhow::Result<Format> {
        use super::columns::Kind;
        let is_arrow = self.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("arrow"));
        if self.json || self.top_k.is_some() {
            bail!("{}: has the scores of all labels in columns: expected no --json, no --top-k", self.output.display());
        }
        let kind = if is_arrow { Kind::Arrow } else { Kind::Parquet };
        Ok(Format::Columns { kind, labels: classifier.labels().to_vec() })
    }

    #[cfg(not(feature = "parquet"))]
    fn columns(&self, _: &Classifier) -> anyhow::Result<Format> {
        bail!("{}: this nimbert writes no Parquet or Arrow: build it with --features parquet", self.output.display());
    }

    /// What is being done, as far as results depend on it: that and nothing else can be resumed.
    fn note(&self, input: &Path) -> anyhow::Result<String> {
        let metadata = std::fs::metadata(input).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let note = serde_json::json!({
            "input": std::fs::canonicalize(input).unwrap_or_else(|_| input.to_owned()),
            "input_bytes": metadata.map(|metadata| metadata.len()),
            "input_modified": modified.map(|modified| modified.as_secs_f64()),
            "columns": [Some(&self.text_column), self.text_pair_column.as_ref()],
            "bundle": sha256_file(&self.bundle.join(MANIFEST))?,
            "variant": self.open.variant,
            "json": self.json,
            "top_k": self.top_k,
        });
        Ok(note.to_string())
    }
}

/// Classifies all rows but the first `done`, which were classified before. Returns how many were skipped.
fn classify_rows(
    classifier: &Classifier,
    mut rows: Rows,
    output: &mut Output,
    done: u64,
    on_error: OnError,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let progress = Progress::new(&rows);
    let (mut left, mut skipped) = (done, 0);
    loop {
        let window = rows.window(WINDOW_ROWS, WINDOW_BYTES, stop)?;
        if window.is_empty() {
            progress.bar.finish_and_clear();
            return Ok(skipped);
        }
        let mut texts = Vec::with_capacity(window.len());
        let mut bad = None;
        for row in window {
            match row {
                Ok(_) if left > 0 => left -= 1,
                Ok(text) => texts.push(text),
                Err(row) if on_error == OnError::Skip => {
                    skipped += 1;
                    progress.skip(&row, skipped);
                }
                Err(row) => {
                    bad = Some(row);
                    break;
                }
            }
        }
        let options = CallOptions { cancel: Some(stop), ..CallOptions::default() };
        let (predictions, _) = classifier.classify_with(&texts, options)?;
        for (text, prediction) in texts.iter().zip(&predictions) {
            output.write(text, prediction)?;
        }
        output.flush()?;
        progress.show(&rows, texts.len());
        if let Some(bad) = bad {
            return Err(bad.into());
        }
    }
}

/// A bar where standard error is a terminal: part of the input, rows a second, time left.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    rows: std::cell::Cell<u64>,
}

impl Progress {
    fn new(rows: &Rows) -> Self {
        let target = match stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(rows.total, target);
        let style = match rows.total {
            Some(_) => "{bar:30} {percent:>3} % {msg}, {eta} left",
            None => "{spinner} {msg}",
        };
        bar.set_style(ProgressStyle::with_template(style).expect("a template of indicatif"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, started: Instant::now(), rows: std::cell::Cell::new(0) }
    }

    fn show(&self, rows: &Rows, classified: usize) {
        self.rows.set(self.rows.get() + classified as u64);
        let rate = self.rows.get() as f64 / self.started.elapsed().as_secs_f64();
        self.bar.set_position(rows.position());
        self.bar.set_message(format!("{} rows, {rate:.0} a second", self.rows.get()));
    }

    fn skip(&self, row: &BadRow, skipped: u64) {
        if skipped <= SHOWN_BAD_ROWS {
            self.bar.suspend(|| eprintln!("nimbert: skipped: {row}"));
        }
        if skipped == SHOWN_BAD_ROWS {
            self.bar.suspend(|| eprintln!("nimbert: further rows that are skipped are counted only"));
        }
    }
}
