//! `cargo xtask bench`: the same work by nimbert and by its Python peers, in turn, in one run.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{build, command, demo, output, release_program, run, setup, workspace};

/// The peers' versions.
const TORCH: &str = "torch==2.15.0";
const TRANSFORMERS: &str = "transformers==4.57.6";

/// What one training gave.
struct Outcome {
    accuracy: f64,
    /// Of the exported int8 graph on the same rows.
    int8_accuracy: Option<f64>,
    loss: f64,
    rows_per_second: f64,
}

/// Trains on 800 movie sentences and tests on 2,000 others, for three seeds, by both.
pub(crate) fn accuracy() -> Result<()> {
    setup::setup()?;
    build()?;
    let python = python_peers()?;
    fs::create_dir_all(workspace(".setup/demo"))?;
    println!("| seed | program | test accuracy | int8 | last training loss | rows/s |");
    println!("|---|---|---|---|---|---|");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for seed in 0..3 {
        let sentences = demo::movies(seed)?;
        demo::write_csv("train.csv", &sentences[..800])?;
        demo::write_csv("test.csv", &sentences[800..2800])?;
        for (name, outcomes, outcome) in
            [("nimbert", &mut ours, nimbert(seed)?), ("transformers", &mut theirs, transformers(&python, seed)?)]
        {
            let Outcome { accuracy, int8_accuracy, loss, rows_per_second } = outcome;
            let int8 = int8_accuracy.map_or(String::new(), |accuracy| format!("{accuracy:.4}"));
            println!("| {seed} | {name} | {accuracy:.4} | {int8} | {loss:.4} | {rows_per_second:.1} |");
            outcomes.push(outcome);
        }
    }
    let mean = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
        outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64
    };
    let accuracies = [&ours, &theirs].map(|outcomes| mean(outcomes, |outcome| outcome.accuracy));
    let rates = [&ours, &theirs].map(|outcomes| mean(outcomes, |outcome| outcome.rows_per_second));
    println!("| mean | nimbert | {:.4} | | | {:.1} |", accuracies[0], rates[0]);
    println!("| mean | transformers | {:.4} | | | {:.1} |", accuracies[1], rates[1]);
    println!(
        "\nnimbert − transformers: {:+.2} points; {:.2} × the rows/s",
        100.0 * (accuracies[0] - accuracies[1]),
        rates[0] / rates[1]
    );
    Ok(())
}

fn nimbert(seed: u64) -> Result<Outcome> {
    let seed = seed.to_string();
    let fit =
        ["fit", "--base", "models/minilm", "--data", ".setup/demo/train.csv", "--test-data", ".setup/demo/test.csv"];
    let bundle = ".setup/demo/bench-bundle";
    let settings = ["--out", bundle, "--overwrite", "--validation-size", "0", "--seed", &seed];
    output(command(release_program("nimbert-train"), &fit).args(settings))?;
    let manifest: Value = serde_json::from_slice(&fs::read(workspace(bundle).join("nimbert.json"))?)?;
    let metrics = fs::read_to_string(workspace(bundle).join("metrics.jsonl"))?;
    let lines = metrics.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>()?;
    let epochs: Vec<Value> = lines.into_iter().filter(|record| record["rows_per_second"].is_number()).collect();
    let accuracy = epochs.last().and_then(|record| record["test_accuracy"].as_f64());
    let int8_accuracy = manifest["acceptance"]["shipped_accuracy"].as_f64();
    Ok(Outcome { int8_accuracy, ..outcome(accuracy, &epochs)? })
}

fn transformers(python: &std::path::Path, seed: u64) -> Result<Outcome> {
    let script = "benches/compare/accuracy.py";
    let seed = seed.to_string();
    let files = [script, "models/minilm", ".setup/demo/train.csv", ".setup/demo/test.csv", &seed];
    let printed = output(&mut command(python, &files))?;
    let result: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    outcome(result["accuracy"].as_f64(), result["epochs"].as_array().map_or(&[], Vec::as_slice))
}

fn outcome(accuracy: Option<f64>, epochs: &[Value]) -> Result<Outcome> {
    let rates: Vec<f64> = epochs.iter().filter_map(|epoch| epoch["rows_per_second"].as_f64()).collect();
    Ok(Outcome {
        accuracy: accuracy.context("no accuracy in the result")?,
        int8_accuracy: None,
        loss: epochs.last().and_then(|epoch| epoch["loss"].as_f64()).context("no loss in the result")?,
        rows_per_second: rates.iter().sum::<f64>() / rates.len() as f64,
    })
}

/// A Python environment with the peers, made once.
fn python_peers() -> Result<std::path::PathBuf> {
    let venv = workspace(".setup/venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let works = |import: &str| command(&python, &["-c", import]).output().is_ok_and(|output| output.status.success());
    if !works("import torch, transformers") {
        eprintln!("bench: making a Python environment with {TORCH} and {TRANSFORMERS} (some gigabytes)");
        run(&mut command(setup::python()?, &["-m", "venv", &venv.to_string_lossy()]))?;
        run(&mut command(
            &python,
            &["-m", "pip", "--disable-pip-version-check", "install", "--quiet", TORCH, TRANSFORMERS],
        ))?;
    }
    Ok(python)
}
