//! `cargo xtask bench fidelity`: what integers change of a model's answers, and how fast they are given.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{FOLDER, benched, machine, mean, median, movie_rows, number, percent, write_csv};
use crate::{build, command, output, release_program, run, setup, workspace};

const SEEDS: [&str; 3] = ["0", "1", "2"];
const TRAIN_ROWS: usize = 1000;
const TEST_ROWS: usize = 2000;
/// How often speed is measured for each seed, all graphs in turn.
const ROUNDS: usize = 3;
const FP32: &str = "cpu-fp32";
const VARIANTS: &str = "cpu-int8-full,cpu-int8,cpu-fp32";

/// A graph, and whether ONNX Runtime's operators alone compute it.
const WAYS: [(&str, bool); 5] =
    [("cpu-int8", false), ("cpu-int8-full", false), ("cpu-int8", true), ("cpu-int8-full", true), (FP32, false)];

/// What a way has given, a value for each seed (of `rows_per_second` for each round too).
#[derive(Default)]
struct Figures {
    other_labels: Vec<usize>,
    difference: Vec<f64>,
    accuracy: Vec<f64>,
    rows_per_second: Vec<f64>,
}

pub(crate) fn fidelity() -> Result<()> {
    setup::setup()?;
    build()?;
    println!("{}\n", machine());
    let rows = movie_rows(0)?;
    let tested = &rows[TRAIN_ROWS..TRAIN_ROWS + TEST_ROWS];
    let train = write_csv("fidelity-train.csv", "text,label", &rows[..TRAIN_ROWS])?;
    let test = write_csv("fidelity-test.csv", "text,label", tested)?;
    let bundle = format!("{FOLDER}/fidelity");
    let mut figures: [Figures; WAYS.len()] = Default::default();
    for seed in SEEDS {
        let fit = ["fit", "--base", "models/minilm", "--data", &train, "--out", &bundle, "--variants", VARIANTS];
        let settings = ["--method", "finetune", "--epochs", "5", "--seed", seed, "--test-size", "0", "--overwrite"];
        // It is measured what integers change, whatever that is: no gate may end the run, or keep activations in fp32.
        let no_gates = ["--max-accuracy-drop", "100", "--max-label-changes", "100"];
        let said = output(command(release_program("nimbert-train"), &fit).args(settings).args(no_gates))?;
        ensure!(!said.contains("in fp32, since"), "activations of seed {seed} stayed in fp32:\n{said}");
        let answers = WAYS.map(|way| answered(&bundle, way, &test));
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let of_fp32 = &answers[WAYS.len() - 1];
        for (figures, answers) in figures.iter_mut().zip(&answers) {
            ensure!(answers.len() == TEST_ROWS, "expected {TEST_ROWS} answers, found {}", answers.len());
            let pairs = || answers.iter().zip(of_fp32);
            figures.other_labels.push(pairs().filter(|(one, other)| one.label != other.label).count());
            figures.difference.extend(mean(pairs().map(|(one, other)| one.difference(other))));
            let right = answers.iter().zip(tested).filter(|(answer, row)| answer.label == row[1]).count();
            figures.accuracy.push(right as f64 / TEST_ROWS as f64);
        }
        for _ in 0..ROUNDS {
            for (figures, way) in figures.iter_mut().zip(WAYS) {
                let measured = benched(&bundle, &test, &arguments(way))?;
                figures.rows_per_second.push(number(&measured, "rows_per_second")?);
            }
        }
    }
    println!(
        "| graph | other labels than {FP32} | labels of {FP32} | mean difference of a probability | accuracy | rows/s |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for ((variant, is_standard), figures) in WAYS.into_iter().zip(figures) {
        let name = if is_standard { format!("{variant}, `--standard-operators`") } else { variant.to_owned() };
        let same = figures.other_labels.iter().map(|&other| 1.0 - other as f64 / TEST_ROWS as f64);
        let counts: Vec<String> = figures.other_labels.iter().map(usize::to_string).collect();
        println!(
            "| {name} | {} of {TEST_ROWS} | {} | {:.4} | {} | {:.0} |",
            counts.join(", "),
            percent(mean(same)),
            mean(figures.difference).unwrap_or(f64::NAN),
            percent(mean(figures.accuracy)),
            median(figures.rows_per_second)
        );
    }
    Ok(())
}

fn arguments((variant, is_standard): (&'static str, bool)) -> Vec<&'static str> {
    let mut arguments = vec!["--variant", variant];
    arguments.extend(is_standard.then_some("--standard-operators"));
    arguments
}

struct Answer {
    label: String,
    /// By label.
    scores: BTreeMap<String, f64>,
}

impl Answer {
    /// Of the probabilities, in the mean of the labels.
    fn difference(&self, other: &Self) -> f64 {
        let differences = self.scores.iter().map(|(label, score)| (score - other.scores[label]).abs());
        differences.sum::<f64>() / self.scores.len() as f64
    }
}

/// What a graph of a bundle says to the texts of a file.
fn answered(bundle: &str, way: (&'static str, bool), texts: &str) -> Result<Vec<Answer>> {
    let answers = format!("{FOLDER}/fidelity.jsonl");
    let classify = ["classify", bundle, "--input", texts, "--output", &answers];
    run(command(release_program("nimbert"), &classify).args(arguments(way)))?;
    let read = |line: &str| {
        let mut answer: Value = serde_json::from_str(line)?;
        let label = serde_json::from_value(answer["label"].take())?;
        Ok(Answer { label, scores: serde_json::from_value(answer["scores"].take())? })
    };
    fs::read_to_string(workspace(&answers))?.lines().map(read).collect()
}
