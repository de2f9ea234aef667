//! `nimbert bench`: how fast a bundle is on this machine, on the user's own texts.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context, bail};
use nimbert::{Classifier, Options, Parallelism, Prediction, memory::peak_bytes, rows::ReadOptions};
use serde_json::{Value, json};

use super::input::{Columns, KeepColumns, Rows, Text};

/// How often a program is started to measure its start.
const STARTS: usize = 10;
/// A start is measured with a text, or a pair, of less bytes than that if there is one.
const SHORT: usize = 1000;
/// A text, or a pair, of as many bytes is not tried as arguments: Windows has 32,767 characters for all of them.
const TOO_LONG: usize = 30_000;
/// Texts a call, where threads make calls of several.
const CALL: usize = 32;
/// Texts that are run before anything is timed.
const WARM_UP: usize = 10;
/// Tokens up to which a text counts as of that length.
const LENGTHS: [usize; 5] = [16, 32, 64, 128, usize::MAX];

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nimbert bench reviews-bundle --data reviews.csv

Shown are: the time from the start of a process to its first label (the first start on a machine compiles the graph and \
is not counted); single texts by their length in tokens, one after the other; all texts at once; single texts from \
several threads that share one classifier, and whether their answers are those of the texts alone; and the memory of \
the process.")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// Texts to measure with, as for `nimbert classify --input`
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Column or key of the text in a file that has such
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Column or key of the second text, for a classifier of pairs
    #[arg(long, value_name = "NAME")]
    text_pair_column: Option<String>,
    #[command(flatten)]
    read: ReadOptions,
    /// The most texts that are used
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Threads that share one classifier
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: super::OpenArgs,
}

/// A text's tokens, and the milliseconds that it took.
type Latency = (usize, f64);

/// Times in milliseconds, of texts up to a length.
struct Latencies {
    up_to: usize,
    sorted: Vec<f64>,
}

impl Latencies {
    /// The time under which that share of the texts stays.
    fn percentile(&self, share: f64) -> f64 {
        let last = self.sorted.len() - 1;
        self.sorted[((last as f64 * share).round() as usize).min(last)]
    }

    fn name(&self) -> String {
        match self.up_to {
            usize::MAX => "more".to_owned(),
            tokens => format!("≤ {tokens}"),
        }
    }

    fn json(&self) -> Value {
        json!({
            "max_tokens": (self.up_to != usize::MAX).then_some(self.up_to),
            "texts": self.sorted.len(),
            "p50_ms": self.percentile(0.5),
            "p95_ms": self.percentile(0.95),
            "p99_ms": self.percentile(0.99),
        })
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let texts = texts(args)?;
    // Before anything is loaded here: what the children need must be there for them.
    let single = super::open(&args.bundle, &Options { parallelism: Parallelism::Latency, ..args.open.options()? })?;
    let Some(argument) = argument(&texts) else {
        bail!(
            "{}: expected a text (or a pair) of less than {TOO_LONG} bytes and without NUL to measure the start with",
            args.data.display()
        );
    };
    let starts = cold_starts(args, argument)?;
    let (all, alone) = latencies(&single, &texts)?;
    let memory_single = peak_bytes();
    drop(single);
    let many = super::open(&args.bundle, &Options { parallelism: Parallelism::Throughput, ..args.open.options()? })?;
    many.classify_batch(&texts[..texts.len().min(WARM_UP)])?;
    let started = Instant::now();
    many.classify_batch(&texts)?;
    let rows_per_second = texts.len() as f64 / started.elapsed().as_secs_f64();
    let memory = peak_bytes();
    drop(many);
    let shared = super::open(&args.bundle, &args.open.options()?)?;
    let clients = usize::from(args.clients);
    let [single_calls, calls] =
        [1, CALL].map(|texts_a_call| from_threads(&shared, &texts, clients, texts_a_call, &alone));
    let (shared, calls) = (single_calls?, calls?);

    let overall = Latencies { up_to: usize::MAX, sorted: sorted(all.iter().map(|&(_, time)| time).collect()) };
    let by_length = by_length(&all);
    let start = starts[starts.len() / 2];
    let megabytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / 1e6);
    let mut out = io::stdout().lock();
    if args.json {
        let result = json!({
            "cold_start_ms": start,
            "single": overall.json(),
            "single_by_length": by_length.iter().map(Latencies::json).collect::<Vec<_>>(),
            "rows": texts.len(),
            "rows_per_second": rows_per_second,
            "clients": args.clients,
            "clients_rows_per_second": shared.rows_per_second,
            "clients_rows_per_second_by_calls_of_32": calls.rows_per_second,
            "clients_other_labels": shared.other_labels + calls.other_labels,
            "clients_max_score_difference": shared.max_score_difference.max(calls.max_score_difference),
            "peak_memory_single_mb": megabytes(memory_single),
            "peak_memory_mb": megabytes(memory),
        });
        return Ok(writeln!(out, "{result}")?);
    }
    writeln!(out, "start to first label  {start:.0} ms ({:.0} to {:.0})", starts[0], starts[starts.len() - 1])?;
    writeln!(out, "all at once           {rows_per_second:.0} rows/s, {} texts", texts.len())?;
    let Shared { rows_per_second, other_labels, max_score_difference } = shared;
    writeln!(
        out,
        "from {:>2} threads       {rows_per_second:.0} rows/s text by text, {other_labels} other labels than alone, scores within {max_score_difference:.1e}",
        args.clients
    )?;
    writeln!(out, "                      {:.0} rows/s in calls of {CALL} texts", calls.rows_per_second)?;
    if let (Some(single), Some(all)) = (megabytes(memory_single), megabytes(memory)) {
        writeln!(out, "peak memory           {single:.0} MB with single texts, {all:.0} MB with all at once")?;
    }
    writeln!(out, "\n{:>12} {:>8} {:>9} {:>9} {:>9}", "tokens", "texts", "p50", "p95", "p99")?;
    for latencies in by_length.iter().chain([&overall]) {
        let name = if std::ptr::eq(latencies, &overall) { "all".to_owned() } else { latencies.name() };
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| format!("{:.2} ms", latencies.percentile(share)));
        writeln!(out, "{name:>12} {:>8} {p50:>9} {p95:>9} {p99:>9}", latencies.sorted.len())?;
    }
    Ok(())
}

fn texts(args: &Args) -> anyhow::Result<Vec<Text>> {
    let columns =
        Columns { text: args.text_column.clone(), pair: args.text_pair_column.clone(), keep: Some(KeepColumns::None) };
    let mut rows = Rows::open(&args.data, &args.read, columns)?;
    let mut texts = Vec::new();
    let most = args.rows as usize;
    while texts.len() < most {
        let window = rows.window(most - texts.len(), usize::MAX, &AtomicBool::new(false))?;
        if window.is_empty() {
            break;
        }
        texts.extend(window.into_iter().collect::<Result<Vec<_>, _>>().map_err(|skipped| skipped.bad)?);
    }
    if texts.is_empty() {
        bail!("{}: expected at least one text, found none", args.data.display());
    }
    Ok(texts)
}

/// The text that a start is measured with: the first that is short, or else the shortest; none if no text can be an argument of a program,
/// which has no NUL.
fn argument(texts: &[Text]) -> Option<&Text> {
    let length = |text: &Text| text.text.len() + text.pair.as_ref().map_or(0, String::len);
    let has_nul = |text: &Text| text.text.contains('\0') || text.pair.as_ref().is_some_and(|pair| pair.contains('\0'));
    let mut arguments = texts.iter().filter(|text| !has_nul(text) && length(text) < TOO_LONG);
    let shortest = arguments.clone().min_by_key(|text| length(text));
    arguments.find(|text| length(text) < SHORT).or(shortest)
}

/// Milliseconds from the start of `nimbert classify` to its end, ascending.
fn cold_starts(args: &Args, text: &Text) -> anyhow::Result<Vec<f64>> {
    let program = std::env::current_exe().context("the program's own path")?;
    let start = || {
        let mut command = Command::new(&program);
        command.arg("classify").arg(&args.bundle).args(args.open.arguments());
        if let Some(pair) = &text.pair {
            command.arg(format!("--pair={pair}"));
        }
        let started = Instant::now();
        let status = command.arg("--").arg(&text.text).stdout(Stdio::null()).status();
        let status = status.with_context(|| program.display().to_string())?;
        if !status.success() {
            bail!("{}: {status}", program.display());
        }
        Ok(1e3 * started.elapsed().as_secs_f64())
    };
    Ok(sorted((0..STARTS).map(|_| start()).collect::<anyhow::Result<_>>()?))
}

/// What threads that share a classifier got.
struct Shared {
    rows_per_second: f64,
    /// Texts that got another label than alone.
    other_labels: usize,
    max_score_difference: f32,
}

/// Each thread takes the next texts, and classifies them in one call, until there are none.
fn from_threads(
    classifier: &Classifier,
    texts: &[Text],
    threads: usize,
    texts_a_call: usize,
    alone: &[Prediction],
) -> anyhow::Result<Shared> {
    let work = |texts: &[Text]| -> anyhow::Result<Vec<(usize, Prediction)>> {
        let next = AtomicUsize::new(0);
        let client = || {
            let mut answers = Vec::new();
            loop {
                let first = next.fetch_add(texts_a_call, Ordering::Relaxed);
                let Some(rest) = texts.get(first..).filter(|rest| !rest.is_empty()) else {
                    return nimbert::Result::Ok(answers);
                };
                let predictions = classifier.classify_batch(&rest[..rest.len().min(texts_a_call)])?;
                answers.extend((first..).zip(predictions));
            }
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..threads).map(|_| scope.spawn(client)).collect();
            let mut answers = Vec::with_capacity(texts.len());
            for client in clients {
                answers.extend(client.join().expect("a thread that does not panic")?);
            }
            Ok(answers)
        })
    };
    // The first calls that overlap open further sessions.
    work(&texts[..texts.len().min(WARM_UP * threads)])?;
    let started = Instant::now();
    let answers = work(texts)?;
    let rows_per_second = texts.len() as f64 / started.elapsed().as_secs_f64();
    let other_labels = answers
        .iter()
        .filter(|(index, answer)| {
            !alone[*index].tasks().map(|task| &task.label).eq(answer.tasks().map(|task| &task.label))
        })
        .count();
    let difference = |(index, answer): &(usize, Prediction)| {
        let scores = |answer: &Prediction| answer.tasks().flat_map(|task| task.scores.clone()).collect::<Vec<_>>();
        let pairs = scores(&alone[*index]).into_iter().zip(scores(answer));
        pairs.map(|(alone, shared)| (alone.1 - shared.1).abs()).fold(0.0, f32::max)
    };
    let max_score_difference = answers.iter().map(difference).fold(0.0, f32::max);
    Ok(Shared { rows_per_second, other_labels, max_score_difference })
}

/// Tokens and milliseconds of each text, and the answers.
fn latencies(classifier: &Classifier, texts: &[Text]) -> anyhow::Result<(Vec<Latency>, Vec<Prediction>)> {
    let tokenizer = classifier.bundle().tokenizer()?;
    for text in texts.iter().take(WARM_UP) {
        classifier.classify(text)?;
    }
    let latency = |text: &Text| -> anyhow::Result<_> {
        let started = Instant::now();
        let prediction = classifier.classify(text)?;
        let milliseconds = 1e3 * started.elapsed().as_secs_f64();
        let tokens = tokenizer.windows(text)?.iter().map(|window| window.input_ids.len()).sum();
        Ok(((tokens, milliseconds), prediction))
    };
    let all: Vec<_> = texts.iter().map(latency).collect::<anyhow::Result<_>>()?;
    Ok(all.into_iter().unzip())
}

fn by_length(all: &[Latency]) -> Vec<Latencies> {
    let mut above = 0;
    let mut groups = Vec::new();
    for up_to in LENGTHS {
        let times = all.iter().filter(|(tokens, _)| (above + 1..=up_to).contains(tokens)).map(|&(_, time)| time);
        let group = Latencies { up_to, sorted: sorted(times.collect()) };
        above = up_to.min(usize::MAX - 1);
        if !group.sorted.is_empty() {
            groups.push(group);
        }
    }
    groups
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn texts_are_grouped_by_length() {
        let groups = by_length(&[(5, 1.0), (16, 3.0), (17, 2.0), (500, 9.0)]);
        let shown: Vec<_> = groups.iter().map(|group| (group.name(), group.sorted.clone())).collect();
        let expected = [("≤ 16", vec![1.0, 3.0]), ("≤ 32", vec![2.0]), ("more", vec![9.0])];
        assert_eq!(shown, expected.map(|(name, times)| (name.to_owned(), times)));
    }

    #[test]
    fn a_start_is_measured_with_a_short_text_or_else_the_shortest() {
        let text = |text: String, pair: Option<&str>| Text { text, pair: pair.map(str::to_owned), kept: Map::new() };
        let chosen = |lengths: &[usize]| {
            let texts: Vec<Text> = lengths.iter().map(|&length| text("a".repeat(length), None)).collect();
            argument(&texts).map(|text| text.text.len())
        };
        assert_eq!(chosen(&[2000, 900, 10]), Some(900));
        assert_eq!(chosen(&[5000, 2000, 40_000]), Some(2000));
        assert_eq!(chosen(&[40_000]), None);
        assert!(argument(&[text("short".to_owned(), Some("\0")), text("\0".to_owned(), None)]).is_none());
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let latencies = Latencies { up_to: 16, sorted: (0..=100).map(f64::from).collect() };
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| latencies.percentile(share)), [0.0, 50.0, 99.0, 100.0]);
    }
}
