//! `nimbert classify`: texts from arguments, a file or standard input; a line of result for each, in input order.

use std::{
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nimbert::{
    Bundle, CallOptions, Classifier, Options, Parallelism, ProblemType, Task, behind_links,
    bundle::{MANIFEST, SIGNATURE},
    rows::{BadRow, Kind, MAX_ROW_BYTES, ReadOptions},
    sha256,
};
use serde_json::Map;

use super::{
    drift::Counting,
    input::{Columns, KeepColumns, Rows, Skipped, Text},
    interrupt, message,
    output::{Format, Output},
    table::{Answer, Table, TaskColumns},
};

/// Texts that are read, classified and written together: enough that those of one length meet, and memory stays bounded
/// however long the input is.
const WINDOW_ROWS: usize = 2048;
const WINDOW_BYTES: usize = 8 << 20;
/// So many bad rows are shown when they are skipped; the others are counted.
const SHOWN_BAD_ROWS: u64 = 10;
/// Names that end so say a format that is not written.
const OTHER_FORMATS: [&str; 16] =
    ["tsv", "tab", "xls", "xlsx", "ods", "avro", "orc", "feather", "gz", "zst", "bz2", "xz", "lz4", "br", "zip", "7z"];

#[derive(clap::Args)]
#[command(after_help = "\
Without --json a line of output is: label, tab, score, tab, the text with its line breaks written as \\n. The label is \
unknown where the text is like nothing in training, and unsure where the score is too low, both by the bundle's thresholds; where a text may have several labels, those that hold, or none. (A label that is \
called so stands in quotes.) With --top-k labels and scores stand there, the highest first; \
where the bundle may say something else than the first, what it says stands before them. Of a bundle with several tasks label and score of each stand there, in the order of nimbert info.

With --json, or to a .jsonl file, it is one object:
  {\"label\":\"positive\",\"score\":0.98,\"scores\":{\"negative\":0.02,\"positive\":0.98}}
With several tasks it is the first one's, with its name as \"task\", and \"further\" has such an object for each other.

A .csv file gets the columns text, label (nothing if unknown, unsure or none), score, the score of each label, of what the \
bundle is made for: set (the labels that have the right one among them in so many cases), distance (from the texts of training), \
unknown, abstained; the same of each further task, called by it; then those of the input; so does a .parquet or .arrow file (a build with the feature parquet). \
A column of the input that is called like one of these gets input_ before its name.

With --on-error skip a row that cannot be read is a line too, so that line N of the output belongs to row N: \
{\"error\":\"...\"} in JSON, a column error in CSV and Parquet, the label error elsewhere.

Examples:
  nimbert classify reviews-bundle \"I love this movie!\"
  nimbert classify reviews-bundle --input reviews.csv --text-column body --output labels.csv
  nimbert classify reviews-bundle --input reviews.jsonl --output labels.jsonl \\
      --on-error skip --resume")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Texts to classify
    #[arg(value_name = "TEXT", conflicts_with = "input", required_unless_present = "input")]
    texts: Vec<String>,
    /// A file of texts: .csv or .tsv (with a header), .jsonl or .json, .parquet (a build with that feature), or one text a
    /// line; - for standard input, lines unless --format says otherwise
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Column or key of the text in a file that has such
    #[arg(long, default_value = "text", value_name = "NAME", conflicts_with = "texts")]
    text_column: String,
    /// Column or key of the second text, for a classifier of pairs
    #[arg(long, value_name = "NAME", conflicts_with = "texts")]
    text_pair_column: Option<String>,
    /// The second text, for a classifier of pairs and one TEXT
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    pair: Option<String>,
    /// Where results go; a file appears when it is complete
    #[arg(long, default_value = "-", value_name = "FILE")]
    output: PathBuf,
    /// Columns of the input that are carried through to .csv, .parquet or JSON: their names, all, or none [default: all, and
    /// of JSON id]
    #[arg(long, value_name = "NAME,…|all|none", conflicts_with = "texts")]
    keep: Option<KeepColumns>,
    #[command(flatten)]
    read: ReadOptions,
    /// Go on with an output that was interrupted: its complete results are kept
    #[arg(long, conflicts_with = "texts")]
    resume: bool,
    /// What a row that cannot be read does: stop, or skip it with a message and a line that says so
    #[arg(long, value_enum, default_value_t = OnError::Stop, conflicts_with = "texts")]
    on_error: OnError,
    /// Also write counts of what was answered, beside those of the texts that the bundle was tested on, for nimbert drift: shares of
    /// labels, histograms of scores and lengths, unknown and unsure texts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["texts", "resume"])]
    summary: Option<PathBuf>,
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
    let (text, pair) = (args.text_column.clone(), args.text_pair_column.clone());
    let columns = Columns { text, pair, keep: args.keep.clone() };
    for written in Output::files(&args.output).iter().chain(&args.summary) {
        if is_same_file(input, written) {
            bail!("{}: expected another file than --input, which would be replaced", written.display());
        }
    }
    if let Some(summary) = &args.summary {
        let absolute = |path: &Path| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::canonicalize(folder)
                .unwrap_or_else(|_| folder.to_owned())
                .join(path.file_name().unwrap_or_default())
        };
        let is_output = |written: &PathBuf| absolute(written) == absolute(summary) || is_same_file(written, summary);
        if Output::files(&args.output).iter().any(is_output) || summary.is_dir() {
            bail!("{}: expected a file of its own for --summary", summary.display());
        }
    }
    if args.resume && !std::fs::metadata(input).is_ok_and(|metadata| metadata.is_file()) {
        bail!("{}: expected a file for --resume: what was read of anything else is gone", input.display());
    }
    let limits = Limits::of(&args.open);
    let read = ReadOptions { max_row_bytes: Some(limits.row_bytes), ..args.read.clone() };
    let rows = Rows::open(input, &read, columns)?;
    let stop = interrupt::flag();
    let options = Options { parallelism: Parallelism::Throughput, ..args.open.options()? };
    let classifier = super::open(&args.bundle, &options)?;
    args.check_outside(classifier.bundle())?;
    let mut counting = args.summary.as_ref().map(|path| Counting::new(path, &classifier)).transpose()?;
    let (mut output, done) =
        Output::open(&args.output, args.format(&classifier, Some(&rows))?, &args.note(input)?, args.resume)?;
    if done > 0 {
        message(&format!("{done} results are there already"));
    }
    let work = Work { done, limits, on_error: args.on_error };
    match classify_rows(&classifier, rows, (&mut output, counting.as_mut()), work, stop) {
        Ok(skipped) => {
            if skipped > 0 {
                message(&format!("{skipped} rows were skipped"));
            }
            output.finish()?;
            counting.map_or(Ok(()), Counting::write)
        }
        Err(error) => {
            if let Some(partial) = output.abandon() {
                let without = if counting.is_some() { ", without --summary" } else { "" };
                let how = format!("--resume goes on with the same input and options{without}");
                message(&format!("{} has the results so far; {how}", partial.display()));
            }
            match counting {
                // The counts were asked for too.
                Some(counting) if super::is_broken_pipe(&error) => Err(counting.unwritten(error)),
                _ => Err(error),
            }
        }
    }
}

fn run_texts(args: &Args) -> anyhow::Result<()> {
    if args.read != ReadOptions::default() {
        bail!("expected --input with --format, --encoding, --quoting and --delimiter, found TEXT");
    }
    let classifier = super::open(&args.bundle, &Options { parallelism: Parallelism::Latency, ..args.open.options()? })?;
    if let (Some(_), [_, _, ..]) = (&args.pair, args.texts.as_slice()) {
        bail!("--pair: expected one TEXT with it, found {}", args.texts.len());
    }
    let text = |text: &String| Text { text: text.clone(), pair: args.pair.clone(), kept: Map::new() };
    let texts: Vec<Text> = args.texts.iter().map(text).collect();
    let predictions = classifier.classify_batch(&texts)?;
    args.check_outside(classifier.bundle())?;
    let (mut output, _) = Output::open(&args.output, args.format(&classifier, None)?, "{}", false)?;
    let mut answers = texts.iter().zip(&predictions).map(|(text, prediction)| Answer::Classified(text, prediction));
    match answers.try_for_each(|answer| output.write(answer)).and_then(|()| output.flush()) {
        Ok(()) => Ok(output.finish()?),
        Err(error) => {
            output.abandon();
            Err(error.into())
        }
    }
}

impl Args {
    /// How results are written; without `rows` the texts are arguments.
    fn format(&self, classifier: &Classifier, rows: Option<&Rows>) -> anyhow::Result<Format> {
        let top_k = self.top_k.map(usize::from);
        let path = self.output.display();
        let extension = self.output.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let table = |kept: Vec<(String, Kind)>| Table {
            tasks: TaskColumns::of(classifier.tasks()),
            // Under that name it is the first column already.
            kept: kept.into_iter().filter(|(name, _)| *name != self.text_column).collect(),
            has_errors: self.on_error == OnError::Skip,
        };
        let kept = |rows: Option<&Rows>| rows.map_or(Ok(Vec::new()), Rows::kept_columns);
        match extension.as_str() {
            "jsonl" | "ndjson" => Ok(Format::Json { top_k }),
            "parquet" | "arrow" => {
                if self.json || top_k.is_some() {
                    bail!("{path}: has the scores of all labels in columns: expected no --json, no --top-k");
                }
                self.columns(table(kept(rows)?))
            }
            "csv" if self.json || top_k.is_some() => {
                bail!("{path}: a .csv file has the scores of all labels: expected no --json, no --top-k")
            }
            "csv" => Ok(Format::Csv(table(kept(rows)?))),
            "json" => bail!("{path}: expected a name that ends in .jsonl: one object a line is written"),
            other if OTHER_FORMATS.contains(&other) => {
                bail!("{path}: expected a name that ends in .csv or .jsonl, or in none that says another format")
            }
            _ if self.json => Ok(Format::Json { top_k }),
            _ if self.keep.as_ref().is_some_and(|keep| *keep != KeepColumns::None) => {
                bail!(
                    "--keep: expected --json, or an --output that ends in .csv, .jsonl or .parquet, to carry columns through"
                )
            }
            _ if top_k.is_some() && classifier.tasks().len() > 1 => {
                bail!("--top-k: expected --json with it, for a bundle with several tasks")
            }
            _ => {
                let [Task { labels, decision, .. }, ..] = classifier.tasks() else { unreachable!("at least one task") };
                let thresholds = [decision.unknown_threshold, decision.abstain_threshold];
                let is_first = decision.problem_type == ProblemType::SingleLabel && thresholds == [None; 2];
                let says_answer = top_k.is_some() && !is_first;
                let columns = match top_k {
                    None => 2 * classifier.tasks().len(),
                    Some(k) => usize::from(says_answer) + 2 * k.min(labels.len()),
                };
                Ok(Format::Lines { top_k, says_answer, columns })
            }
        }
    }

    #[cfg(feature = "parquet")]
    fn columns(&self, table: Table) -> anyhow::Result<Format> {
        use super::columns::FileKind;
        let is_arrow = self.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("arrow"));
        let kind = if is_arrow { FileKind::Arrow } else { FileKind::Parquet };
        Ok(Format::Columns { kind, table })
    }

    #[cfg(not(feature = "parquet"))]
    fn columns(&self, _: Table) -> anyhow::Result<Format> {
        bail!("{}: this nimbert writes no Parquet or Arrow: build it with --features parquet", self.output.display());
    }

    /// No file of the bundle may be replaced.
    fn check_outside(&self, bundle: &Bundle) -> anyhow::Result<()> {
        let written = Output::files(&self.output).into_iter().chain(self.summary.as_deref().map(behind_links));
        let names = || bundle.manifest.files.keys().map(String::as_str).chain([MANIFEST, SIGNATURE]);
        for path in written {
            if is_same_file(&self.bundle, &path) || names().any(|name| is_same_file(&self.bundle.join(name), &path)) {
                bail!("{}: expected a file that is not the bundle's, which would be replaced", path.display());
            }
        }
        Ok(())
    }

    /// What is being done, as far as results depend on it: that and nothing else can be resumed.
    fn note(&self, input: &Path) -> anyhow::Result<String> {
        let metadata = std::fs::metadata(input).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let note = serde_json::json!({
            "--input": std::fs::canonicalize(input).unwrap_or_else(|_| input.to_owned()).to_string_lossy(),
            "size of --input": metadata.map(|metadata| metadata.len()),
            "time of --input": modified.map(|modified| modified.as_secs_f64()),
            "--text-column": self.text_column,
            "--text-pair-column": self.text_pair_column,
            "--keep": self.keep.as_ref().map(|keep| format!("{keep:?}")),
            "way of reading": self.read,
            "digest of the bundle": sha256(&Bundle::open(&self.bundle)?.manifest_bytes()?),
            "--variant": self.open.variant,
            "--device": self.open.device.to_string(),
            "--fast-math": self.open.fast_math,
            "--standard-operators": self.open.standard_operators,
            "--json": self.json,
            "--top-k": self.top_k,
            "--on-error": (self.on_error == OnError::Skip).then_some("skip"),
        });
        Ok(note.to_string())
    }
}

/// Whether two names are of one file, by a link or otherwise: the output would take the input's place.
fn is_same_file(input: &Path, output: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let input = if input == Path::new("-") { Path::new("/dev/stdin") } else { input };
        let id = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        let pair = id(input).zip(id(output).filter(|_| output != Path::new("-")));
        pair.is_some_and(|(a, b)| a.dev() == b.dev() && a.ino() == b.ino())
    }
    #[cfg(not(unix))]
    {
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        canonical(input).is_some_and(|input| canonical(output).is_some_and(|output| input == output))
    }
}

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
struct Limits {
    row_bytes: usize,
    window_bytes: usize,
}

impl Limits {
    /// So much that what is read, twice while it grows, and what was read ahead take about half of the memory that the
    /// process may have.
    fn of(open: &super::OpenArgs) -> Self {
        let limit =
            open.memory_limit.map_or(usize::MAX, |super::Size(bytes)| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { row_bytes: (limit / 16).clamp(1, MAX_ROW_BYTES), window_bytes: (limit / 16).clamp(1, WINDOW_BYTES) }
    }
}

/// What is done with the rows.
struct Work {
    /// So many were classified before.
    done: u64,
    limits: Limits,
    on_error: OnError,
}

/// Classifies all rows but those that were classified before. Returns how many were skipped.
fn classify_rows(
    classifier: &Classifier,
    mut rows: Rows,
    (output, mut counting): (&mut Output, Option<&mut Counting>),
    Work { done, limits, on_error }: Work,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let progress = Progress::new(&rows);
    let (mut left, mut skipped) = (done, 0);
    loop {
        let window = rows.window(WINDOW_ROWS, limits.window_bytes, stop)?;
        if window.is_empty() {
            progress.bar.finish_and_clear();
            return Ok(skipped);
        }
        // What is done already comes first, whatever it was.
        let done = window.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= done as u64;
        let mut rows_left = window.into_iter().skip(done).peekable();
        let is_taken = |row: &Result<Text, Box<Skipped>>| row.is_ok() || on_error == OnError::Skip;
        let taken: Vec<Result<Text, Box<Skipped>>> = std::iter::from_fn(|| rows_left.next_if(is_taken)).collect();
        let texts = || taken.iter().flatten();
        let options = CallOptions { cancel: Some(stop), ..CallOptions::default() };
        let (predictions, _) = classifier.classify_with(texts(), options)?;
        let mut predictions = predictions.iter();
        for row in &taken {
            match row {
                Ok(text) => {
                    let prediction = predictions.next().expect("a prediction for each text");
                    if let Some(counting) = &mut counting {
                        counting.add(&text.text, text.pair.as_deref(), prediction);
                    }
                    output.write(Answer::Classified(text, prediction))?;
                }
                Err(row) => {
                    skipped += 1;
                    progress.skip(&row.bad, skipped);
                    output.write(Answer::Skipped(row))?;
                }
            }
        }
        output.flush()?;
        progress.show(&rows, texts().count());
        if let Some(Err(row)) = rows_left.next() {
            return Err(row.bad.into());
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
            self.bar.suspend(|| message(&format!("skipped: {row}")));
        }
        if skipped == SHOWN_BAD_ROWS {
            self.bar.suspend(|| message("further rows that are skipped are counted only"));
        }
    }
}
