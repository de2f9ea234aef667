//! `cargo xtask bench heads`: two tasks over one encoder, beside a model for each.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::{
    FOLDER, accuracy, benched,
    datasets::{Labelled, label_counts, question_kinds, questions},
    evaluated,
    few::{BASE, MAX_LENGTH},
    machine, median, movie_rows, number, write_csv,
};
use crate::{build, command, output, release_program, setup};

const SEEDS: u64 = 3;
/// What the heads of several tasks read.
const POOLINGS: [&str; 2] = ["mean", "first"];
/// Times that both are timed, in turn.
const ROUNDS: usize = 5;
/// Where rows are few: so many have a label at least, and they are learned from by these.
const FEW_ROWS: usize = 8;
const METHODS: [&str; 3] = ["contrastive", "finetune", "frozen"];

/// The file of the rows that are tested.
const TEST: &str = "heads-test.csv";

/// Rows of two tasks: a text, and a label of each or none.
struct Set {
    name: &'static str,
    tasks: [&'static str; 2],
    /// A text, and the labels of both tasks.
    train: Vec<Vec<String>>,
    test: Vec<Vec<String>>,
}

/// A set's rows, to learn from and to test.
struct Files {
    train: String,
    test: String,
}

pub(crate) fn heads() -> Result<()> {
    setup::setup()?;
    build()?;
    println!("{}; base all-MiniLM-L6-v2, fine-tuned for 3 epochs, int8\n", machine());
    println!(
        "| rows | seed | task | a model of its own | of two tasks, mean of the tokens | of two tasks, first token |"
    );
    println!("|---|--:|---|--:|--:|--:|");
    for set in [kinds()?, both()?] {
        let mut sums = [[0.0; 3]; 2];
        for seed in 0..SEEDS {
            let figures = set.compared(seed)?;
            for (task, figures) in figures.iter().enumerate() {
                let [alone, mean, first] = figures;
                println!("| {} | {seed} | {} | {alone:.1} % | {mean:.1} % | {first:.1} % |", set.name, set.tasks[task]);
                sums[task].iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / SEEDS as f64);
            }
        }
        for (task, [alone, mean, first]) in set.tasks.iter().zip(sums) {
            let of_two = [mean, first].map(|both| format!("{both:.1} %: {:+.1} points", both - alone));
            println!("| {} | mean | {task} | {alone:.1} % | {} |", set.name, of_two.join(" | "));
        }
        println!();
        POOLINGS.iter().try_for_each(|pooling| set.timed(pooling))?;
    }
    Ok(())
}

/// The same with few rows of each label, by each method.
pub(crate) fn heads_of_few_rows() -> Result<()> {
    setup::setup()?;
    build()?;
    println!("{}; base all-MiniLM-L6-v2, {FEW_ROWS} rows a label, int8\n", machine());
    let ways: String = METHODS.map(|method| format!(" of two tasks, {method} |")).concat();
    println!("| rows | draw | task | a model of its own, contrastive |{ways}");
    println!("|---|--:|---|--:|{}", "--:|".repeat(METHODS.len()));
    for set in [kinds()?, both()?] {
        let mut sums = [[0.0; 1 + METHODS.len()]; 2];
        for draw in 0..SEEDS {
            for (task, figures) in set.drawn(draw).compared_by_method(draw)?.into_iter().enumerate() {
                println!("| {} | {draw} | {} | {} |", set.name, set.tasks[task], percentages(&figures));
                sums[task].iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / SEEDS as f64);
            }
        }
        for (task, means) in set.tasks.iter().zip(sums) {
            println!("| {} | mean | {task} | {} |", set.name, percentages(&means));
        }
    }
    Ok(())
}

fn percentages(figures: &[f64]) -> String {
    figures.iter().map(|figure| format!("{figure:.1} %")).collect::<Vec<_>>().join(" | ")
}

/// TREC's questions, each by the kind of its answer and by a finer one.
fn kinds() -> Result<Set> {
    let (kinds, finer) = (questions()?, question_kinds()?);
    let counts = label_counts(&finer);
    // A kind that is there a few times has no row for each part.
    let pairs = kinds.into_iter().zip(finer).filter(|(_, finer)| counts[&finer.label] >= 10);
    let mut train: Vec<Vec<String>> = pairs.map(|(kind, finer)| vec![kind.text, kind.label, finer.label]).collect();
    let test = train.split_off(train.len() * 7 / 10);
    Ok(Set { name: "questions", tasks: ["kind", "finer_kind"], train, test })
}

/// Movie sentences, of which only the tone is known, and questions, of which only the kind is.
fn both() -> Result<Set> {
    let [mut movies, mut questions]: [Vec<Vec<String>>; 2] = [
        movie_rows(0)?
            .into_iter()
            .take(4500)
            .map(|cells| vec![cells[0].clone(), cells[1].clone(), String::new()])
            .collect(),
        questions()?.into_iter().map(|Labelled { text, label }| vec![text, String::new(), label]).collect(),
    ];
    let test = [movies.split_off(3000), questions.split_off(3000)].concat();
    let mut train = [movies, questions].concat();
    fastrand::Rng::with_seed(0).shuffle(&mut train);
    Ok(Set { name: "movie sentences and questions", tasks: ["tone", "kind"], train, test })
}

impl Set {
    /// For each task the accuracy of a model of its own, and of the models of both.
    fn compared(&self, seed: u64) -> Result<[[f64; 3]; 2]> {
        let (files, finetuned) = (self.write()?, ["--method", "finetune", "--epochs", "3"]);
        let alone = self.alone(&files, seed, &finetuned)?;
        let [mean, first] = POOLINGS.map(|pooling| {
            let settings = [&finetuned[..], &["--pooling", pooling]].concat();
            self.of_both(&files, &bundle(pooling), seed, &settings)
        });
        let (mean, first) = (mean?, first?);
        Ok([0, 1].map(|task| [alone[task], mean[task], first[task]]))
    }

    /// For each task the accuracy of a model of its own, and of the models of both by each method.
    fn compared_by_method(&self, seed: u64) -> Result<[[f64; 1 + METHODS.len()]; 2]> {
        let (files, mut figures) = (self.write()?, [[0.0; 1 + METHODS.len()]; 2]);
        let mut add = |place: usize, of_tasks: [f64; 2]| {
            figures.iter_mut().zip(of_tasks).for_each(|(figures, figure)| figures[place] = figure);
        };
        add(0, self.alone(&files, seed, &["--method", METHODS[0]])?);
        for (method, place) in METHODS.into_iter().zip(1..) {
            add(place, self.of_both(&files, &bundle(method), seed, &["--method", method])?);
        }
        Ok(figures)
    }

    /// Its rows, but to learn from so few that each label has [`FEW_ROWS`] of them, or all that there are.
    fn drawn(&self, draw: u64) -> Self {
        let mut order: Vec<&Vec<String>> = self.train.iter().collect();
        fastrand::Rng::with_seed(draw).shuffle(&mut order);
        let mut counts: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        order.retain(|cells| {
            let labels = || (1..).zip(&cells[1..]).filter(|(_, label)| !label.is_empty());
            let is_wanted = labels().any(|(task, label)| *counts.entry((task, label)).or_default() < FEW_ROWS);
            if is_wanted {
                labels().for_each(|(task, label)| *counts.entry((task, label)).or_default() += 1);
            }
            is_wanted
        });
        Self { train: order.into_iter().cloned().collect(), test: self.test.clone(), ..*self }
    }

    fn write(&self) -> Result<Files> {
        let header = format!("text,{}", self.tasks.join(","));
        let (train, test) = (write_csv("heads-train.csv", &header, &self.train), write_csv(TEST, &header, &self.test));
        Ok(Files { train: train?, test: test? })
    }

    /// The accuracy of a model of each task alone.
    fn alone(&self, files: &Files, seed: u64, settings: &[&str]) -> Result<[f64; 2]> {
        let of_task = |task: &str| {
            let columns = ["--label-column", task, "--on-missing", "skip"];
            fit(&bundle(task), &files.train, seed, &[&columns[..], settings].concat())?;
            percentage(&evaluated(&bundle(task), &files.test, &columns)?)
        };
        let [first, second] = self.tasks.map(of_task);
        Ok([first?, second?])
    }

    /// The accuracy in each task of one model of both.
    fn of_both(&self, files: &Files, bundle: &str, seed: u64, settings: &[&str]) -> Result<[f64; 2]> {
        let by_tasks = self.tasks.iter().flat_map(|task| ["--task", task]);
        fit(bundle, &files.train, seed, &by_tasks.chain(settings.iter().copied()).collect::<Vec<_>>())?;
        let both = evaluated(bundle, &files.test, &[])?;
        Ok([percentage(&both)?, percentage(&both["further"][self.tasks[1]])?])
    }

    /// What one pass for both costs, as a share of one for the first alone.
    fn timed(&self, pooling: &str) -> Result<()> {
        let mut shares = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let [both, one] = [pooling, self.tasks[0]].map(|name| times(&bundle(name)));
            let (both, one) = (both?, one?);
            for (shares, (both, one)) in shares.iter_mut().zip(both.into_iter().zip(one)) {
                shares.push(both / one);
            }
        }
        let [single, bulk] = shares.map(median);
        println!(
            "One pass for both tasks, {pooling}: {single:.3} x the median time of a text alone, {bulk:.3} x that of all at once.\n"
        );
        Ok(())
    }
}

fn bundle(name: &str) -> String {
    format!("{FOLDER}/heads-{name}")
}

fn fit(bundle: &str, train: &str, seed: u64, further: &[&str]) -> Result<()> {
    let fit = ["fit", "--base", BASE, "--max-length", MAX_LENGTH, "--data", train, "--out", bundle, "--overwrite"];
    let seed = seed.to_string();
    let settings = ["--seed", &seed, "--test-size", "0"];
    output(command(release_program("nimbert-train"), &fit).args(settings).args(further)).map(drop)
}

/// The accuracy in percent.
fn percentage(figures: &Value) -> Result<f64> {
    Ok(100.0 * accuracy(figures)?)
}

/// The median time of a text alone, and the time of a text of all at once, both in milliseconds.
fn times(bundle: &str) -> Result<[f64; 2]> {
    let data = format!("{FOLDER}/{TEST}");
    let figures = benched(bundle, &data, &[])?;
    let single = number(&figures["single"], "p50_ms")?;
    let bulk = number(&figures, "rows_per_second")?;
    Ok([single, 1e3 / bulk])
}
