//! `cargo xtask bench unknown`: texts of labels that a classifier was not trained on, and sets of labels, beside what was asked for.

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    FOLDER, accuracy,
    datasets::{Labelled, label_counts},
    evaluated,
    few::{BASE, MAX_LENGTH, rows_of},
    machine, mean, number, write_csv, write_file,
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
const FINETUNE: [&str; 6] = ["--method", "finetune", "--epochs", "3", "--validation-size", "0.25"];
/// Strangers that are shown, and what they are called.
const SHOWN: usize = 300;
const STRANGER: &str = "a stranger";
/// The place of the distance among the scores.
const DISTANCE: usize = 2;

/// Unknown texts that none is shown of, and some; and sets: or the part of that name.
pub(crate) fn unknown(part: Option<&str>) -> Result<()> {
    type Part = (&'static str, fn() -> Result<()>);
    let parts: [Part; 3] = [("texts", texts), ("shown", shown), ("sets", sets)];
    if let Some(part) = part.filter(|part| parts.iter().all(|(name, _)| name != part)) {
        bail!("expected texts, shown or sets, found {part}");
    }
    setup::setup()?;
    build()?;
    parts.into_iter().filter(|(name, _)| part.is_none_or(|part| part == *name)).try_for_each(|(_, run)| run())
}

fn texts() -> Result<()> {
    println!("{}; base all-MiniLM-L6-v2, int8\n", machine());
    println!(
        "| rows | seed | labels | accuracy | AUROC of softmax | of energy | of the distance | false alarms | found |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    draws(["20newsgroups", "r52"], strangers)
}

/// A line or more for each draw of each data set.
fn draws(names: [&str; 2], run: fn(&str, u64) -> Result<()>) -> Result<()> {
    names.into_iter().try_for_each(|name| (0..SEEDS).try_for_each(|seed| run(name, seed)))
}

fn shown() -> Result<()> {
    println!(
        "\n{}; base all-MiniLM-L6-v2, int8; {SHOWN} strangers of some labels shown (--unknown-label)\n",
        machine()
    );
    println!(
        "| rows | seed | shown | AUROC, of labels shown | of others | false alarms | found, of labels shown | of others |"
    );
    println!("|---|--:|---|--:|--:|--:|--:|--:|");
    draws(["r52", "20newsgroups"], shown_strangers)
}

fn sets() -> Result<()> {
    println!("\n| rows | split | right | labels a set | sets with the right one | unknown |");
    println!("|---|--:|--:|--:|--:|--:|");
    for name in ["movies", "20newsgroups"] {
        let shares = (0..SPLITS).map(|seed| coverage(name, seed)).collect::<Result<Vec<_>>>()?;
        let [covered, unknown] =
            [0, 1].map(|figure| mean(shares.iter().map(|shares| shares[figure])).unwrap_or(f64::NAN));
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

/// Rows by what they are for: half of the labels are trained on, and the others are strangers.
struct Divided {
    /// What is trained on.
    known: Vec<Labelled>,
    test: Vec<Labelled>,
    strange: Vec<Labelled>,
    /// The strangers' labels.
    others: Vec<String>,
}

fn divided(name: &str, seed: u64) -> Result<Divided> {
    let (rows, mut random) = shuffled(name, seed)?;
    let mut labels: Vec<String> = label_counts(&rows).into_keys().collect();
    random.shuffle(&mut labels);
    let others = labels.split_off(labels.len() / 2);
    let (mut known, strange): (Vec<Labelled>, Vec<Labelled>) =
        rows.into_iter().partition(|row| labels.contains(&row.label));
    let mut test = known.split_off(TRAIN.min(known.len() * 2 / 3));
    let mut counts = label_counts(&known);
    counts.retain(|_, count| *count >= LEAST);
    [&mut known, &mut test].into_iter().for_each(|rows| rows.retain(|row| counts.contains_key(&row.label)));
    test.truncate(TEST);
    Ok(Divided { known, test, strange, others })
}

fn strangers(name: &str, seed: u64) -> Result<()> {
    let Divided { known, test, mut strange, .. } = divided(name, seed)?;
    strange.truncate(TEST);
    let labels = label_counts(&known).len();
    let bundle = fit(known, &test, seed, &FINETUNE)?;
    let accuracy = accuracy(&tested(&bundle)?)?;
    let [known, strange] = [("known", test), ("strange", strange)].map(|(part, rows)| scores(&bundle, part, &rows));
    let (known, strange) = (known?, strange?);
    let aurocs: Vec<String> = (0..3).map(|score| format!("{:.4}", auroc(&known, &strange, score))).collect();
    println!(
        "| {name} | {seed} | {} | {:.1} % | {} | {:.2} % of {:.0} | {:.1} % |",
        labels,
        100.0 * accuracy,
        aurocs.join(" | "),
        share(&known),
        100.0 * UNKNOWN_RATE,
        share(&strange)
    );
    Ok(())
}

/// Rows of half of the strangers' labels are shown as what is unknown; strangers of those labels and of the others are looked for, by a
/// bundle that was shown none and by one that was.
fn shown_strangers(name: &str, seed: u64) -> Result<()> {
    let Divided { known, test, strange, others } = divided(name, seed)?;
    let labels = &others[..others.len() / 2];
    let (mut of_shown, mut of_others): (Vec<Labelled>, Vec<Labelled>) =
        strange.into_iter().partition(|row| labels.contains(&row.label));
    let shown = of_shown.split_off(of_shown.len().saturating_sub(SHOWN).max(of_shown.len() / 2));
    of_shown.truncate(TEST);
    of_others.truncate(TEST);
    let mut with_shown = known.clone();
    with_shown.extend(shown.into_iter().map(|row| Labelled { label: STRANGER.to_owned(), ..row }));
    let unknown_label = [&FINETUNE[..], &["--unknown-label", STRANGER]].concat();
    for (rows, further, is_shown) in [(known, &FINETUNE[..], "none"), (with_shown, &unknown_label, "some")] {
        let bundle = fit(rows, &test, seed, further)?;
        let parts = [("known", &test), ("shown", &of_shown), ("others", &of_others)];
        let [known, of_shown, of_others] = parts.map(|(part, rows)| scores(&bundle, part, rows));
        let (known, of_shown, of_others) = (known?, of_shown?, of_others?);
        println!(
            "| {name} | {seed} | {is_shown} | {:.4} | {:.4} | {:.2} % of {:.0} | {:.1} % | {:.1} % |",
            auroc(&known, &of_shown, DISTANCE),
            auroc(&known, &of_others, DISTANCE),
            share(&known),
            100.0 * UNKNOWN_RATE,
            share(&of_shown),
            share(&of_others)
        );
    }
    Ok(())
}

/// The share of test rows whose set has the right label, and of those that are taken for unknown.
fn coverage(name: &str, seed: u64) -> Result<[f64; 2]> {
    let (mut rows, _) = shuffled(name, seed)?;
    let test = rows.split_off(rows.len().min(2 * TRAIN) * 2 / 3);
    let bundle =
        fit(rows, &test[..test.len().min(2 * TEST)], seed, &["--method", "frozen", "--validation-size", "0.4"])?;
    let figures = tested(&bundle)?;
    let (accuracy, size) = (accuracy(&figures)?, number(&figures, "labels_a_set")?);
    let shares = [number(&figures, "coverage")?, number(&figures, "unknown")?];
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

/// The share that is taken for unknown, in percent.
fn share(answers: &[Answer]) -> f64 {
    100.0 * answers.iter().filter(|answer| answer.1).count() as f64 / answers.len() as f64
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
