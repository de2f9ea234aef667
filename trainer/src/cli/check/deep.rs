//! `check --deep`: labels judged by what the base's encoder says of the texts.

use std::path::{Path, PathBuf};

use nimbert::Tokenizer;
use nimbert_trainer::{
    Error,
    check::{CheckInput, CheckRow, Finding, check_labels},
    dataset::Dataset,
    html::{self, Page},
    label_errors::{Judgement, label_errors, steps},
    logistic::LogisticRegression,
    loss::Target,
    model::ModelFolder,
};

use super::{
    super::{
        check_absent, check_output,
        doubts::{Doubt, Doubts},
        features_of, progress, write_text,
    },
    Args,
};

/// Checks before anything is read that what is asked for can be written, and replaces nothing.
pub(super) fn check_targets(args: &Args) -> Result<(), Error> {
    let inputs: Vec<&PathBuf> = args.data.iter().chain(&args.validation_data).chain(&args.test_data).collect();
    for path in [&args.doubts, &args.report].into_iter().flatten() {
        check_output(path, "to write into", &inputs, args.base.as_deref().map(Path::new))?;
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
    let doubt = |(row, judgement): (&&CheckRow<'_>, Judgement)| {
        let given: Vec<&str> = row.row.labels.iter().map(String::as_str).collect();
        Doubt::new(row.place(), row.row.shown(), &given, judgement, &labels)
    };
    let doubts = Doubts::new(rows.iter().zip(errors.rows).map(doubt).collect());
    if let Some(path) = &args.doubts {
        write_text(path, &doubts.csv())?;
    }
    if let Some(path) = &args.report {
        let counts = [("rows", rows.len()), ("labels", labels.len()), ("doubtful", doubts.count())];
        let (shown, cut) = doubts.shown();
        let page = Page {
            title: "Check of the labels".to_owned(),
            subtitle: datasets[0].name(),
            summary: counts.map(|(name, count)| (name.to_owned(), count.to_string())).to_vec(),
            warnings: found.iter().chain(&findings).map(Finding::to_string).chain(cut).collect(),
            doubts: shown,
            ..Page::default()
        };
        write_text(path, &html::render(&page))?;
    }
    Ok(findings)
}
