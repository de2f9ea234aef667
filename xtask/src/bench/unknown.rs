//! `cargo xtask bench unknown`: texts of labels that a classifier was not trained on, and sets of labels, beside what was asked for.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    FOLDER, accuracy,
    datasets::{Labelled, label_counts},
    evaluated,
    few::{BASE, MAX_LENGTH, rows_of},
    machine, write_csv, write_file,
};
use crate::{build, command, output, release_program, setup};

const SEEDS: u64 = 2;
const SPLITS: u64 = 5;
/// Rows that are trained on, and of which a quarter is for validation; and of each kind that are tested on.
const TRAIN: usize = 2000;
const TEST: usize = 1500;
/// What is asked for.
const UNKNOWN_RATE: f64 = 0.02;
const COVERAGE: f64 = 0.9;
/// Labels of fewer rows are left out.
const LEAST: usize = 8;

/// Unknown texts and sets, or the part of that name.
pub(crate) fn unknown(part: Option<&str>) -> Result<()> {
    setup::setup()?;
    build()?;
    if let Some(part) = part.filter(|part| !["texts", "sets"].contains(part)) {
        bail!("expected texts or sets, found {part}");
    }
    if part != Some("sets") {
        texts()?;
    }
    if part != Some("texts") { sets() } else { Ok(()) }
}

fn texts() -> Result<()> {
    println!("{}; base all-MiniLM-L6-v2, int8\n", machine());
    println!(
        "| rows | seed | labels | accuracy | AUROC of softmax | of energy | of the distance | false alarms | found |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for name in ["20newsgroups", "r52"] {
        for seed in 0..SEEDS {
            strangers(name, seed)?;
        }
    }
    Ok(())
}

fn sets() -> Result<()> {
    println!("\n| rows | split | right | labels a set | sets with the right one | unknown |");
    println!("|---|--:|--:|--:|--:|--:|");
    for name in ["movies", "20newsgroups"] {
        let shares = (0..SPLITS).map(|seed| coverage(name, seed)).collect::<Result<Vec<_>>>()?;
        let [covered, unknown] =
            [0, 1].map(|figure| shares.iter().map(|shares| shares[figure]).sum::<f64>() / SPLITS as f64);
        println!(
            "| {name} | mean | | | {:.2} % of {:.0} | {:.2} % of {:.0} |",
            100.0 * covered,
            100.0 * COVERAGE,
            100.0 * unknown,
            100.0 * UNKNOWN_RATE
        );
    }
    Ok(())
}

/// All rows of a data set, in an order of the seed.
fn shuffled(name: &str, seed: u64) -> Result<(Vec<Labelled>, fastrand::Rng)> {
    let (mut rows, test) = rows_of(name)?;
    rows.extend(test);
    // A text a line.
    let mut rows: Vec<Labelled> = rows.into_iter().map(Labelled::on_one_line).collect();
    rows.retain(|row| !row.text.is_empty());
    let mut random = fastrand::Rng::with_seed(seed);
    random.shuffle(&mut rows);
    Ok((rows, random))
}

/// Half of the labels are trained on, and the others are strangers.
fn strangers(name: &str, seed: u64) -> Result<()> {
    let (rows, mut random) = shuffled(name, seed)?;
    let mut labels: Vec<String> = label_counts(&rows).into_keys().collect();
    random.shuffle(&mut labels);
    labels.truncate(labels.len() / 2);
    let (mut known, mut strange): (Vec<Labelled>, Vec<Labelled>) =
        rows.into_iter().partition(|row| labels.contains(&row.label));
    let mut test = known.split_off(TRAIN.min(known.len() * 2 / 3));
    let mut counts = label_counts(&known);
    counts.retain(|_, count| *count >= LEAST);
    [&mut known, &mut test].into_iter().for_each(|rows| rows.retain(|row| counts.contains_key(&row.label)));
    test.truncate(TEST);
    strange.truncate(TEST);
    let bundle = fit(known, &test, seed, &["--method", "finetune", "--epochs", "3", "--validation-size", "0.25"])?;
    let accuracy = accuracy(&tested(&bundle)?)?;
    let [known, strange] = [("known", test), ("strange", strange)].map(|(part, rows)| scores(&bundle, part, &rows));
    let (known, strange) = (known?, strange?);
    let aurocs: Vec<String> = (0..3).map(|score| format!("{:.4}", auroc(&known, &strange, score))).collect();
    let share =
        |answers: &[Answer]| 100.0 * answers.iter().filter(|answer| answer.1).count() as f64 / answers.len() as f64;
    println!(
        "| {name} | {seed} | {} | {:.1} % | {} | {:.2} % of {:.0} | {:.1} % |",
        counts.len(),
        100.0 * accuracy,
        aurocs.join(" | "),
        share(&known),
        100.0 * UNKNOWN_RATE,
        share(&strange)
    );
    Ok(())
}

/// The share of test rows whose set has the right label, and of those that are taken for unknown.
fn coverage(name: &str, seed: u64) -> Result<[f64; 2]> {
    let (mut rows, _) = shuffled(name, seed)?;
    let test = rows.split_off(rows.len().min(2 * TRAIN) * 2 / 3);
    let bundle =
        fit(rows, &test[..test.len().min(2 * TEST)], seed, &["--method", "frozen", "--validation-size", "0.4"])?;
    let figures = tested(&bundle)?;
    let figure = |name: &str| figures[name].as_f64().with_context(|| format!("no {name}"));
    let (accuracy, size) = (figure("accuracy")?, figure("labels_a_set")?);
    let shares = [figure("coverage")?, figure("unknown")?];
    let [covered, unknown] = shares.map(|share| 100.0 * share);
    println!("| {name} | {seed} | {:.1} % | {size:.2} | {covered:.2} % | {unknown:.2} % |", 100.0 * accuracy);
    Ok(shares)
}

/// Trains a bundle, and writes the rows that it is tested on.
fn fit(train: Vec<Labelled>, test: &[Labelled], seed: u64, further: &[&str]) -> Result<String> {
    let write = |name, rows: &[Labelled]| {
        let cells: Vec<Vec<String>> = rows.iter().cloned().map(Labelled::into_cells).collect();
        write_csv(name, "text,label", &cells)
    };
    let (train, bundle) = (write("unknown-train.csv", &train)?, format!("{FOLDER}/unknown"));
    write("unknown-test.csv", test)?;
    let fit = ["fit", "--base", BASE, "--max-length", MAX_LENGTH, "--data", &train, "--out", &bundle, "--overwrite"];
    let [seed, rate, coverage] = [seed.to_string(), UNKNOWN_RATE.to_string(), COVERAGE.to_string()];
    let asked = ["--seed", &seed, "--unknown-rate", &rate, "--coverage", &coverage, "--test-size", "0"];
    output(command(release_program("nimbert-train"), &fit).args(asked).args(further))?;
    Ok(bundle)
}

/// Its figures on those rows.
fn tested(bundle: &str) -> Result<Value> {
    evaluated(bundle, &format!("{FOLDER}/unknown-test.csv"), &[])
}

/// How strange a text is by three scores, and whether it is taken for unknown.
type Answer = ([f64; 3], bool);

fn scores(bundle: &str, part: &str, rows: &[Labelled]) -> Result<Vec<Answer>> {
    let lines: String = rows.iter().map(|row| format!("{}\n", row.text)).collect();
    let file = write_file(&format!("unknown-{part}.txt"), &lines)?;
    let printed = output(&mut command(release_program("strangeness"), &[bundle, &file]))?;
    let answer = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let score = |index: usize| fields[index].parse::<f64>();
        Ok(([score(0)?, score(1)?, score(2)?], fields[3] == "true"))
    };
    printed.lines().map(answer).collect()
}

/// The share of pairs of a known and a strange text whose strange one has the higher score.
fn auroc(known: &[Answer], strange: &[Answer], score: usize) -> f64 {
    let mut all: Vec<(f64, bool)> = known.iter().map(|answer| (answer.0[score], false)).collect();
    all.extend(strange.iter().map(|answer| (answer.0[score], true)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut sum) = (0.0, 0.0);
    for equals in all.chunk_by(|a, b| a.0 == b.0) {
        let strangers = equals.iter().filter(|(_, is_strange)| *is_strange).count() as f64;
        let others = equals.len() as f64 - strangers;
        sum += strangers * (below + others / 2.0);
        below += others;
    }
    sum / (known.len() * strange.len()) as f64
}
