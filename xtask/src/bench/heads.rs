//! `cargo xtask bench heads`: two tasks over one encoder, beside a model for each.

use anyhow::Result;
use serde_json::Value;

use super::{
    FOLDER, accuracy, benched,
    datasets::{Labelled, label_counts, question_kinds, questions},
    evaluated,
    few::{BASE, MAX_LENGTH},
    machine, movie_rows, number, write_csv,
};
use crate::{build, command, output, release_program, setup};

const SEEDS: u64 = 3;
/// What the heads of several tasks read.
const POOLINGS: [&str; 2] = ["mean", "first"];
/// Times that both are timed, in turn.
const ROUNDS: usize = 5;

/// Rows of two tasks: a text, and a label of each or none.
struct Set {
    name: &'static str,
    tasks: [&'static str; 2],
    train: Vec<Vec<String>>,
    test: Vec<Vec<String>>,
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
        let header = format!("text,{}", self.tasks.join(","));
        let [train, test] = [("heads-train.csv", &self.train), ("heads-test.csv", &self.test)]
            .map(|(name, rows)| write_csv(name, &header, rows));
        let (train, test) = (train?, test?);
        let by_tasks: Vec<&str> = self.tasks.iter().flat_map(|task| ["--task", task]).collect();
        let mut figures = [[0.0; 3]; 2];
        for (place, pooling) in POOLINGS.into_iter().enumerate() {
            fit(&bundle(pooling), &train, seed, &[&by_tasks[..], &["--pooling", pooling]].concat())?;
            let both = evaluated(&bundle(pooling), &test, &[])?;
            for (figures, of_task) in figures.iter_mut().zip([&both, &both["further"][self.tasks[1]]]) {
                figures[1 + place] = percentage(of_task)?;
            }
        }
        for (figures, task) in figures.iter_mut().zip(self.tasks) {
            let columns = ["--label-column", task, "--on-missing", "skip"];
            fit(&bundle(task), &train, seed, &columns)?;
            figures[0] = percentage(&evaluated(&bundle(task), &test, &columns)?)?;
        }
        Ok(figures)
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
        let [single, bulk] = shares.map(|mut shares| {
            shares.sort_by(f64::total_cmp);
            shares[ROUNDS / 2]
        });
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
    let settings = ["--method", "finetune", "--epochs", "3", "--seed", &seed, "--test-size", "0"];
    output(command(release_program("nimbert-train"), &fit).args(settings).args(further)).map(drop)
}

/// The accuracy in percent.
fn percentage(figures: &Value) -> Result<f64> {
    Ok(100.0 * accuracy(figures)?)
}

/// The median time of a text alone, and the time of a text of all at once, both in milliseconds.
fn times(bundle: &str) -> Result<[f64; 2]> {
    let data = format!("{FOLDER}/heads-test.csv");
    let figures = benched(bundle, &data, &[])?;
    let single = number(&figures["single"], "p50_ms")?;
    let bulk = number(&figures, "rows_per_second")?;
    Ok([single, 1e3 / bulk])
}
