//! `nimbert-train check`: faults of labelled text that no error reports.

mod deep;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::PathBuf,
};

use nimbert::Tokenizer;
use nimbert_trainer::{
    Error,
    check::{CheckInput, CheckRow, Finding, Severity, TokenCounts, check, not_judged, refused},
    dataset::{Dataset, Row, left_out},
    model::ModelFolder,
    prepare::{Source, Sources},
    tasks::label_prefix,
};
use rayon::prelude::*;
use serde_json::json;

use super::{CacheArgs, ColumnArgs, Given};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert-train check --data reviews.csv
  nimbert-train check --data train.csv --test-data test.csv --base models/minilm --json
  nimbert-train check --data reviews.csv --base models/minilm --deep --doubts doubts.csv --report doubts.html

With --base, texts are also tokenized: what is cut, and what the model has no token for. fit makes the same check. \
The exit status is 2 if one of the findings is an error, for which fit refuses the rows (but rows for --from may have one label).
With --deep, the base also reads them: each row is judged by the others, whether its label may be wrong; texts that say nearly \
the same with different labels are found, and labels that should be one. It takes as long as reading all texts once, and \
with tens of thousands of rows some minutes more, since each is compared with all others.")]
pub(super) struct Args {
    /// Labelled text: .csv or .tsv with a header, .jsonl or .json, or .parquet; also as .gz or .zst
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Rows by which the best epoch is to be chosen
    #[arg(long, value_name = "FILE", num_args = 1..)]
    validation_data: Vec<PathBuf>,
    /// Rows that are to be tested on
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test_data: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// The base model whose tokenizer reads the texts: a folder, or a name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    base: Option<String>,
    /// Texts are to be cut to this many tokens
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_length: usize,
    /// Also look at what the texts say, as the base reads them: labels that may be wrong, near-duplicates with different
    /// labels, labels that are hardly told apart
    #[arg(long, requires = "base")]
    deep: bool,
    /// Write all rows and how far their labels are believed, the least believed first, as CSV
    #[arg(long, value_name = "FILE", requires = "deep")]
    doubts: Option<PathBuf>,
    /// Write a page with the findings and the least believed rows
    #[arg(long, value_name = "FILE", requires = "deep")]
    report: Option<PathBuf>,
    /// Replace files that --doubts and --report name
    #[arg(long, requires = "deep")]
    overwrite: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, given: &Given) -> anyhow::Result<()> {
    args.columns.check_separator(given)?;
    given.refuse(&["--max-length"], args.base.is_some(), "--base with it")?;
    args.cache.check("--deep with it", args.deep)?;
    given.refuse(&["--overwrite"], args.writes(), "--doubts or --report with it")?;
    deep::check_targets(args)?;
    let folder = match &args.base {
        None => None,
        Some(base) => Some(ModelFolder::open(&super::base_folder(base, None)?)?),
    };
    let tokenizer = folder.as_ref().map(|folder| folder.open_tokenizer(args.max_length, None)).transpose()?;
    let counter = tokenizer.as_ref().map(TokenCounter::new).transpose()?;
    let columns = args.columns.columns();
    let mut train = Dataset::open(&args.data, &columns)?;
    train.write_numbers_in_one_way(&[]);
    let labels: BTreeSet<String> = train.rows.iter().flat_map(|row| row.labels.iter().cloned()).collect();
    let mut held_out = Vec::new();
    for (split, files) in [("validation", &args.validation_data), ("test", &args.test_data)] {
        if !files.is_empty() {
            let mut dataset = Dataset::open(files, &columns)?;
            dataset.write_numbers_as(&labels);
            held_out.push((split, dataset));
        }
    }
    let input = CheckInput {
        train: check_rows(&train, counter.as_ref()),
        held_out: held_out.iter().map(|(split, dataset)| (*split, check_rows(dataset, counter.as_ref()))).collect(),
        max_length: counter.as_ref().map(|_| args.max_length),
        multi_label: args.columns.multi_label,
        label_columns: args.columns.label_columns.clone(),
        respelled: train.respelled(),
        merges_labels: train.merges_labels(),
        tasks: Vec::new(),
    };
    let (mut findings, mut failure) = (check(&input), None);
    findings.extend(train.labels().err().as_ref().map(refused));
    let datasets: Vec<&Dataset> = std::iter::once(&train).chain(held_out.iter().map(|(_, dataset)| dataset)).collect();
    if let (true, Some(folder), Some(tokenizer)) = (args.deep, &folder, &tokenizer) {
        match deep::check_deep(args, &input, &datasets, (folder, tokenizer), &findings) {
            Ok(further) => findings.extend(further),
            // What was found before may be the reason, and is told in any case.
            Err(error) => match error.downcast_ref() {
                Some(reason @ (Error::Data { .. } | Error::Setting { .. })) if !args.writes() => {
                    findings.push(not_judged(reason));
                }
                _ => failure = Some(error),
            },
        }
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors > 0 && failure.is_none() {
        let (expected, got) =
            ("rows that fit takes".to_owned(), format!("{errors} of {} findings that are errors", findings.len()));
        failure = Some(Error::Setting { setting: "--data", expected, got }.into());
    }
    let rows = datasets.iter().map(|dataset| dataset.rows.len()).sum::<usize>();
    let skipped: Vec<&String> = datasets.iter().flat_map(|dataset| &dataset.skipped).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let skipped = skipped.len();
        let strangers = datasets.iter().map(|dataset| dataset.strangers.len()).sum::<usize>();
        let findings = json!({ "rows": rows, "skipped": skipped, "strangers": strangers, "findings": findings });
        writeln!(out, "{findings}")?;
        return failure.map_or(Ok(()), Err);
    }
    let of_strangers =
        datasets.iter().filter_map(|dataset| Some(format!("{}: {}", dataset.name(), dataset.of_strangers()?)));
    left_out(skipped).into_iter().chain(of_strangers).try_for_each(|line| writeln!(out, "{line}"))?;
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    match findings.len() {
        0 => writeln!(out, "{rows} rows: nothing found")?,
        found => writeln!(out, "{rows} rows: {found} findings")?,
    }
    failure.map_or(Ok(()), Err)
}

impl Args {
    /// Whether a file is asked for, which there cannot be where labels cannot be judged.
    fn writes(&self) -> bool {
        self.doubts.is_some() || self.report.is_some()
    }
}

/// Counts the tokens of whole texts.
struct TokenCounter {
    tokenizer: Tokenizer,
    unknown: Option<u32>,
}

impl TokenCounter {
    fn new(tokenizer: &Tokenizer) -> nimbert::Result<Self> {
        let unknown = ["[UNK]", "<unk>"].iter().find_map(|token| tokenizer.id(token));
        Ok(Self { tokenizer: tokenizer.clone().without_truncation(), unknown })
    }

    /// None if the tokenizer refuses the text, which is an error of its own when training begins.
    fn count(&self, row: &Row) -> Option<TokenCounts> {
        let ids = self.tokenizer.encode(row).ok()?.input_ids;
        Some(TokenCounts { all: ids.len(), unknown: ids.iter().filter(|id| Some(**id) == self.unknown).count() })
    }
}

fn check_row<'a>(dataset: &'a Dataset, row: &'a Row, counter: Option<&TokenCounter>) -> CheckRow<'a> {
    CheckRow { row, path: &dataset.files[row.file], tokens: counter.and_then(|counter| counter.count(row)) }
}

fn check_rows<'a>(dataset: &'a Dataset, counter: Option<&TokenCounter>) -> Vec<CheckRow<'a>> {
    dataset.rows.par_iter().map(|row| check_row(dataset, row, counter)).collect()
}

/// What is found in the rows of a run, as lines of its report.
pub(super) fn warnings(
    sources: &Sources,
    tokenizer: &Tokenizer,
    max_length: Option<usize>,
    columns: &ColumnArgs,
) -> anyhow::Result<Vec<String>> {
    let counter = TokenCounter::new(tokenizer)?;
    let rows = |split: &[Source]| -> Vec<CheckRow<'_>> {
        let row = |source: &Source| check_row(&sources.datasets[source.dataset], sources.row(source), Some(&counter));
        split.par_iter().map(row).collect()
    };
    let input = CheckInput {
        train: rows(&sources.train),
        held_out: vec![("validation", rows(&sources.validation)), ("test", rows(&sources.test))],
        max_length,
        multi_label: columns.multi_label,
        label_columns: columns.label_columns.clone(),
        respelled: sources.datasets[0].respelled(),
        merges_labels: sources.datasets[0].merges_labels(),
        tasks: sources
            .tasks
            .iter()
            .filter_map(|task| task.name.as_deref())
            .map(|name| label_prefix(Some(name)))
            .collect(),
    };
    let is_shown = |finding: &Finding| finding.severity >= Severity::Warning;
    let line = |finding: Finding| finding.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Ok(check(&input).into_iter().filter(is_shown).map(line).collect())
}
