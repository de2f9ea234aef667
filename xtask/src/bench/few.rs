//! `cargo xtask bench few`: 8, 16 or 64 rows of each label, by the ways of `--method`, by SetFit, and by logistic regression on
//! sentence-transformers' features.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    FOLDER, TORCH, accuracy,
    datasets::{Labelled, bbc, rated, topics},
    evaluated, last_json, machine, number, percent, write_csv,
};
use crate::{build, command, output, python, release_program, setup, workspace};

pub(super) const ENVIRONMENT: &str = ".setup/venv-setfit";
pub(super) const PEERS: [&str; 6] = [
    "setfit==1.2.0",
    "sentence-transformers==6.2.0",
    "transformers==5.24.0",
    "scikit-learn==1.9.1",
    "cleanlab==2.9.0",
    TORCH,
];
const ROWS_OF_LABEL: [usize; 3] = [8, 16, 64];
const DRAWS: u64 = 5;
const TEST_ROWS: usize = 1000;
pub(super) const BASE: &str = "models/minilm";
pub(super) const MAX_LENGTH: &str = "128";

/// The draws whose names have `part` in them.
pub(crate) fn few(part: &str) -> Result<()> {
    setup::setup()?;
    build()?;
    python::environment(ENVIRONMENT, &PEERS)?;
    println!("{}; {}; base all-MiniLM-L6-v2\n", machine(), PEERS.join(", "));
    println!("| draw | rows | labels | way | accuracy | seconds |");
    println!("|---|--:|--:|---|--:|--:|");
    for name in ["bbc", "r8", "r52", "20newsgroups", "movies", "amazon"] {
        let named: Vec<(String, usize, u64)> = ROWS_OF_LABEL
            .into_iter()
            .flat_map(|count| (0..DRAWS).map(move |draw| (format!("{name}-{count}-{draw}"), count, draw)))
            .filter(|(name, ..)| name.contains(part))
            .collect();
        if named.is_empty() {
            continue;
        }
        let (train, test) = rows_of(name)?;
        let test: Vec<Vec<String>> = test.into_iter().take(TEST_ROWS).map(Labelled::into_cells).collect();
        let test = write_csv("few-test.csv", "text,label", &test)?;
        for (name, count, draw) in named {
            let rows = drawn(&train, count, draw);
            let labels = rows.iter().map(|row| &row.label).collect::<BTreeSet<_>>().len();
            let head = format!("| {name} | {} | {labels} |", rows.len());
            let rows: Vec<Vec<String>> = rows.into_iter().map(Labelled::into_cells).collect();
            let train = write_csv("few-train.csv", "text,label", &rows)?;
            for method in ["auto", "frozen", "contrastive", "finetune"] {
                print(&head, &format!("nimbert, --method {method}"), nimbert(&train, rows.len(), &test, method)?);
            }
            for (way, name) in [("frozen", "sentence-transformers, logistic regression"), ("setfit", "SetFit")] {
                print(&head, name, peer(&train, &test, way)?);
            }
        }
    }
    Ok(())
}

fn print(head: &str, way: &str, (accuracy, seconds): (f64, f64)) {
    println!("{head} {way} | {} | {seconds:.1} |", percent(Some(accuracy)));
}

/// What to learn from, and what to test on.
pub(super) fn rows_of(name: &str) -> Result<(Vec<Labelled>, Vec<Labelled>)> {
    // All rows are of one table; the last ones are tested on.
    let of_one = |mut train: Vec<Labelled>| {
        let test = train.split_off(train.len().saturating_sub(TEST_ROWS));
        (train, test)
    };
    let divided = |name: &str| Ok((topics(&format!("{name}-train"))?, topics(&format!("{name}-test"))?));
    match name {
        "bbc" => Ok(of_one(bbc()?)),
        "movies" => Ok(of_one(rated("movieReviewSnippets_GroundTruth.txt")?)),
        "amazon" => Ok(of_one(rated("amazonReviewSnippets_GroundTruth.txt")?)),
        "20newsgroups" => divided(name),
        name => divided(&format!("reuters-{name}")),
    }
}

/// Up to `count` rows of each label.
fn drawn(rows: &[Labelled], count: usize, draw: u64) -> Vec<Labelled> {
    let mut rows = rows.to_vec();
    fastrand::Rng::with_seed(draw).shuffle(&mut rows);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    rows.retain(|row| {
        let so_far = counts.entry(row.label.clone()).or_default();
        *so_far += 1;
        *so_far <= count
    });
    rows
}

/// The accuracy on the test rows, and the seconds that learning took, without loading, exporting and testing.
fn nimbert(train: &str, rows: usize, test: &str, method: &str) -> Result<(f64, f64)> {
    let bundle = format!("{FOLDER}/few");
    let fit =
        ["fit", "--base", BASE, "--data", train, "--out", &bundle, "--method", method, "--max-length", MAX_LENGTH];
    let settings = [
        "--overwrite",
        "--no-checkpoint",
        "--no-cache",
        "--test-size",
        "0",
        "--validation-size",
        "0",
        "--variants",
        "cpu-fp32",
    ];
    let said = output(command(release_program("nimbert-train"), &fit).args(settings))?;
    let of_head = said.lines().find(|line| line.starts_with("regression")).map(|line| {
        let seconds = line.split(" s;").next().and_then(|line| line.rsplit(' ').next());
        seconds.and_then(|seconds| seconds.parse::<f64>().ok()).with_context(|| format!("no seconds in {line}"))
    });
    let mut seconds = of_head.transpose()?.unwrap_or(0.0);
    // Where methods were compared, the table's last column is how long each took.
    let is_header = |line: &&str| line.split_whitespace().take(2).eq(["method", "right"]);
    let compared = said.lines().skip_while(|line| !is_header(line)).skip(1);
    for line in compared.take_while(|line| line.starts_with(' ')) {
        let last = line.trim_end_matches(['←', ' ']).rsplit(' ').next().unwrap_or_default();
        seconds += last.parse::<f64>().with_context(|| format!("no seconds in {line}"))?;
    }
    for line in fs::read_to_string(workspace(&format!("{bundle}.metrics.jsonl")))?.lines() {
        let record: Value = serde_json::from_str(line)?;
        seconds += record["rows_per_second"].as_f64().map_or(0.0, |rate| rows as f64 / rate);
    }
    Ok((accuracy(&evaluated(&bundle, test, &[])?)?, seconds))
}

/// The same of a peer.
fn peer(train: &str, test: &str, way: &str) -> Result<(f64, f64)> {
    let script = ["benches/compare/few.py", way, BASE, train, test, MAX_LENGTH];
    let printed = output(&mut command(python::program(ENVIRONMENT, "python"), &script))?;
    let figures: Value = last_json(&printed)?;
    Ok((accuracy(&figures)?, number(&figures, "seconds")?))
}
