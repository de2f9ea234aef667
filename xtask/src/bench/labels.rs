//! `cargo xtask bench labels`: wrong labels that were planted, as `check --deep`, `fit --cross-validate` and cleanlab find them.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    FOLDER,
    few::{BASE, ENVIRONMENT, MAX_LENGTH, PEERS, rows_of},
    last_json, machine, number, write_csv,
};
use crate::{build, command, output, python, release_program, setup, workspace};

const ROWS: usize = 1000;
const SEEDS: u64 = 3;
const SETS: [&str; 5] = ["movies", "amazon", "bbc", "20newsgroups", "r8"];
/// How models learn that have not seen a fold.
const FOLDS: [&str; 4] = ["--method", "contrastive", "--cross-validate", "5"];
/// One row in so many gets a label that is not its own.
const PLANTED: usize = 20;

/// Of these sets, or of all.
pub(crate) fn labels(sets: &[&str]) -> Result<()> {
    let unknown = sets.iter().find(|set| !SETS.contains(set));
    ensure!(unknown.is_none(), "bench labels: expected {}, found {}", SETS.join(", "), unknown.unwrap_or(&""));
    setup::setup()?;
    build()?;
    python::environment(ENVIRONMENT, &PEERS)?;
    println!(
        "{}; {}; base all-MiniLM-L6-v2; {ROWS} rows, one in {PLANTED} with a wrong label\n",
        machine(),
        PEERS.join(", ")
    );
    println!("| rows | seed | labels | way | average precision | seconds |");
    println!("|---|--:|--:|---|--:|--:|");
    for name in SETS.into_iter().filter(|set| sets.is_empty() || sets.contains(set)) {
        for seed in 0..SEEDS {
            let planted = planted(name, seed)?;
            let labels = planted.labels;
            let ways = [
                ("check --deep", planted.by_check()?),
                ("fit --cross-validate", planted.by_folds()?),
                ("cleanlab", planted.by_cleanlab()?),
            ];
            for (way, (believed, time)) in ways {
                let precision = average_precision(&believed, &planted.is_wrong);
                println!("| {name} | {seed} | {labels} | {way} | {precision:.4} | {:.1} |", time.as_secs_f64());
            }
        }
    }
    Ok(())
}

/// Rows of which some have a wrong label.
struct Planted {
    data: String,
    labels: usize,
    is_wrong: Vec<bool>,
}

fn planted(name: &str, seed: u64) -> Result<Planted> {
    let (mut rows, _) = rows_of(name)?;
    let mut random = fastrand::Rng::with_seed(seed);
    random.shuffle(&mut rows);
    rows.truncate(ROWS);
    let mut labels: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
    labels.sort_unstable();
    labels.dedup();
    let mut is_wrong = vec![false; rows.len()];
    for index in random.choose_multiple(0..rows.len(), rows.len() / PLANTED) {
        let others: Vec<&String> = labels.iter().filter(|label| **label != rows[index].label).collect();
        rows[index].label = others[random.usize(..others.len())].clone();
        is_wrong[index] = true;
    }
    // A text a line, so that a row's number follows from its line.
    let cells = rows.into_iter().map(|row| row.on_one_line().into_cells());
    let data = write_csv("labels.csv", "text,label", &cells.collect::<Vec<_>>())?;
    Ok(Planted { data, labels: labels.len(), is_wrong })
}

impl Planted {
    fn by_check(&self) -> Result<(Vec<f64>, Duration)> {
        let doubts = format!("{FOLDER}/doubts.csv");
        self.ours(&doubts, &["check", "--deep", "--doubts", &doubts])
    }

    fn by_folds(&self) -> Result<(Vec<f64>, Duration)> {
        let bundle = format!("{FOLDER}/labels-bundle");
        let fit = ["fit", "--out", &bundle, "--test-size", "0", "--precision", "fp32"];
        self.ours(&format!("{bundle}.doubts.csv"), &[&fit[..], &FOLDS].concat())
    }

    /// How far the label of each row is believed, by the table that a command writes, and how long that took, loading included.
    fn ours(&self, doubts: &str, arguments: &[&str]) -> Result<(Vec<f64>, Duration)> {
        let usual = ["--data", &self.data, "--base", BASE, "--max-length", MAX_LENGTH, "--overwrite", "--no-cache"];
        let began = Instant::now();
        output(command(release_program("nimbert-train"), arguments).args(usual))?;
        let time = began.elapsed();
        let mut believed = vec![f64::NAN; self.is_wrong.len()];
        for line in fs::read_to_string(workspace(doubts))?.lines().skip(1) {
            // file,line,label,suggested,belief,…
            let fields: Vec<&str> = line.split(',').collect();
            let row = fields[1].parse::<usize>()?.checked_sub(2).context("the header has no belief")?;
            believed[row] = fields[4].parse()?;
        }
        ensure!(believed.iter().all(|belief| belief.is_finite()), "a row without a belief");
        Ok((believed, time))
    }

    fn by_cleanlab(&self) -> Result<(Vec<f64>, Duration)> {
        let script = ["benches/compare/labels.py", BASE, &self.data, MAX_LENGTH];
        let printed = output(&mut command(python::program(ENVIRONMENT, "python"), &script))?;
        let found: Value = last_json(&printed)?;
        let scores =
            found["scores"].as_array().context("no scores")?.iter().map(|score| score.as_f64().context("a score"));
        let seconds = number(&found, "seconds")?;
        Ok((scores.collect::<Result<_>>()?, Duration::from_secs_f64(seconds)))
    }
}

/// The mean, over the wrong rows, of the share of wrong rows among those that are believed no more than it.
fn average_precision(believed: &[f64], is_wrong: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..believed.len()).collect();
    order.sort_by(|&a, &b| believed[a].total_cmp(&believed[b]));
    let (mut found, mut sum) = (0, 0.0);
    for (place, row) in order.into_iter().enumerate() {
        if is_wrong[row] {
            found += 1;
            sum += f64::from(found) / (place + 1) as f64;
        }
    }
    sum / f64::from(found.max(1))
}
