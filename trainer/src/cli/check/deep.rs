//! `check --deep`: labels judged by what the base's encoder says of the texts.

use std::path::PathBuf;

use nimbert::Tokenizer;
use nimbert_trainer::{
    Error,
    check::{CheckInput, CheckRow, Finding, check_labels},
    dataset::Dataset,
    html::{self, Mistake, Page},
    label_errors::{LabelErrors, label_errors, steps},
    logistic::LogisticRegression,
    loss::Target,
    model::ModelFolder,
};

use super::{
    super::{check_absent, check_output, features_of, progress, quoted, write_text},
    Args,
};

/// Rows that the page shows, at most.
const SHOWN: usize = 200;

/// Checks before anything is read that what is asked for can be written, and replaces nothing.
pub(super) fn check_targets(args: &Args) -> Result<(), Error> {
    let inputs: Vec<&PathBuf> = args.data.iter().chain(&args.validation_data).chain(&args.test_data).collect();
    for path in [&args.doubts, &args.report].into_iter().flatten() {
        check_output(path, "to write into", &inputs, args.base.as_deref())?;
        if !args.overwrite {
            check_absent(path)?;
        }
    }
    match (&args.doubts, &args.report) {
        (Some(doubts), Some(report)) if std::path::absolute(doubts).ok() == std::path::absolute(report).ok() => {
            let (setting, expected) = ("--report", "another file than --doubts".to_owned());
            Err(Error::Setting { setting, expected, got: report.display().to_string() })
        }
        _ => Ok(()),
    }
}

/// Reads all rows, judges their labels, and writes what was asked for. `found` is what was found before, for the page.
pub(super) fn check_deep(
    args: &Args,
    input: &CheckInput<'_>,
    datasets: &[&Dataset],
    (folder, tokenizer): (&ModelFolder, &Tokenizer),
    found: &[Finding],
) -> anyhow::Result<Vec<Finding>> {
    let mut labels = datasets[0].labels()?;
    // Held-out rows may have others, which is a finding of its own.
    let mut further: Vec<&String> =
        datasets[1..].iter().flat_map(|dataset| &dataset.rows).flat_map(|row| &row.labels).collect();
    further.retain(|label| !labels.contains(label));
    further.sort_unstable();
    further.dedup();
    let further: Vec<String> = further.into_iter().cloned().collect();
    labels.extend(further);

    let (examples, features) = features_of(datasets, &labels, (folder, tokenizer), args.cache)?;
    let targets: Vec<&Target> = examples.iter().map(|example| &example.target).collect();
    let task =
        LogisticRegression { problem_type: args.columns.problem_type(), classes: labels.len(), class_weights: None };
    let bar = progress(steps(targets.len()), "steps of judging");
    let errors = label_errors(&task, &features, &targets, 0, || {
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    let Some(errors) = errors else {
        let expected =
            format!("at least {} rows for {} labels, to judge some by the others", 2 * labels.len(), labels.len());
        return Err(Error::Setting { setting: "--deep", expected, got: format!("{} rows", targets.len()) }.into());
    };
    let rows: Vec<&CheckRow<'_>> = input.all().map(|(_, row)| row).collect();
    let findings = check_labels(&rows, &labels, &errors);
    let judged = Judged { rows: &rows, labels: &labels, errors: &errors };
    if let Some(path) = &args.doubts {
        write_text(path, &judged.csv())?;
    }
    if let Some(path) = &args.report {
        write_text(path, &html::render(&judged.page(datasets[0], found.iter().chain(&findings))))?;
    }
    Ok(findings)
}

/// Rows, and what was found of them.
struct Judged<'a> {
    rows: &'a [&'a CheckRow<'a>],
    labels: &'a [String],
    errors: &'a LabelErrors,
}

impl Judged<'_> {
    fn suggested(&self, row: usize) -> String {
        let names = self.errors.rows[row].suggested.iter().map(|&id| self.labels[id as usize].as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// A table of all rows with a header.
    fn csv(&self) -> String {
        let line = |row: usize| {
            let (at, judgement) = (self.rows[row].place(), &self.errors.rows[row]);
            let (given, suggested) = (self.rows[row].row.labels.join(", "), self.suggested(row));
            let cells = [at.file, given, suggested, self.rows[row].row.shown()].map(|cell| quoted(&cell));
            let [file, given, suggested, text] = cells;
            let doubtful = if judgement.is_doubtful { "yes" } else { "no" };
            let belief = judgement.belief.map_or(String::new(), |belief| format!("{belief:.6}"));
            format!("{file},{},{given},{suggested},{belief},{doubtful},{text}\n", at.line)
        };
        let header = "file,line,label,suggested,belief,doubtful,text\n".to_owned();
        std::iter::once(header).chain(self.errors.order().into_iter().map(line)).collect()
    }

    /// The rows that are doubtful, and what else was found.
    fn page<'b>(&self, dataset: &Dataset, findings: impl Iterator<Item = &'b Finding>) -> Page {
        let doubtful = |row: &usize| self.errors.rows[*row].is_doubtful;
        let order: Vec<usize> = self.errors.order().into_iter().filter(doubtful).collect();
        let cut =
            (order.len() > SHOWN).then(|| format!("of {} doubtful rows the first {SHOWN} are shown", order.len()));
        let mistake = |&row: &usize| Mistake {
            place: self.rows[row].place().to_string(),
            text: self.rows[row].row.shown(),
            expected: self.rows[row].row.labels.join(", "),
            predicted: self.suggested(row),
            score: self.errors.rows[row].belief.unwrap_or(f64::NAN),
        };
        let counts = [("rows", self.rows.len()), ("labels", self.labels.len()), ("doubtful", order.len())];
        Page {
            title: "Check of the labels".to_owned(),
            subtitle: dataset.name(),
            summary: counts.map(|(name, count)| (name.to_owned(), count.to_string())).to_vec(),
            warnings: findings.map(Finding::to_string).chain(cut).collect(),
            doubts: order.iter().take(SHOWN).map(mistake).collect(),
            ..Page::default()
        }
    }
}
