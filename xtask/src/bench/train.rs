//! `cargo xtask bench train`: speed, memory and accuracy of training beside transformers on PyTorch.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{FOLDER, Outcome, TORCH, TRANSFORMERS, Training, machine, movie_rows, percent, prepare, write_csv};
use crate::{command, output, run, workspace};

/// Rows that are trained on, and tested on.
const TRAIN: usize = 1000;
const TEST: usize = 2000;
const SEEDS: u64 = 3;
/// Rows for the models with random weights.
const RANDOM_ROWS: usize = 64;

/// Numbers of the encoder's linear layers: 6 operations for each and token make up a training step.
struct Size {
    name: &'static str,
    layers: usize,
    hidden: usize,
}

impl Size {
    /// Operations a token, as the usual count has them: all layers in full, attention itself left out.
    fn operations(&self) -> f64 {
        6.0 * (self.layers * 12 * self.hidden * self.hidden) as f64
    }
}

const MINILM: Size = Size { name: "MiniLM 384 × 6", layers: 6, hidden: 384 };
const RANDOM: [Size; 2] = [
    Size { name: "random 384 × 12", layers: 12, hidden: 384 },
    Size { name: "random 768 × 12", layers: 12, hidden: 768 },
];

pub(crate) fn train() -> Result<()> {
    let python = prepare()?;
    let peak = sgemm_peak(&python)?;
    println!("{}; {TORCH}, {TRANSFORMERS}; sgemm peak {peak:.0} GFLOP/s\n", machine());
    println!("{TRAIN} movie sentences, 5 epochs, batches of 32, tested on {TEST} others:\n");
    println!("| seed | program | rows/s | peak memory | test accuracy | int8 | last loss |");
    println!("|---|---|---|---|---|---|---|");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let rows = movie_rows(seed)?;
        let train = write_csv("train.csv", "text,label", &rows[..TRAIN])?;
        let test = write_csv("test.csv", "text,label", &rows[TRAIN..TRAIN + TEST])?;
        let training = Training { test: Some(&test), seed, epochs: 5, ..speed_only("models/minilm", &train) };
        for (name, outcomes, outcome) in [
            ("nimbert", &mut ours, training.nimbert(&[])?),
            ("transformers", &mut theirs, training.transformers(&python)?),
        ] {
            let Outcome { accuracy, int8_accuracy, loss, rows_per_second, peak_memory, .. } = outcome;
            let (accuracy, int8) = (percent(accuracy), percent(int8_accuracy));
            println!(
                "| {seed} | {name} | {rows_per_second:.1} | {peak_memory:.0} MB | {accuracy} | {int8} | {loss:.4} |"
            );
            outcomes.push(outcome);
        }
    }
    let mean = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
        outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64
    };
    let [ours_accuracy, theirs_accuracy] =
        [&ours, &theirs].map(|outcomes| mean(outcomes, |outcome| outcome.accuracy.unwrap_or(f64::NAN)));
    println!(
        "\nmean accuracy: nimbert {:.2} %, transformers {:.2} %: {:+.2} points\n",
        100.0 * ours_accuracy,
        100.0 * theirs_accuracy,
        100.0 * (ours_accuracy - theirs_accuracy)
    );
    println!("| model | program | rows/s | | of the sgemm peak | peak memory | |");
    println!("|---|---|---|---|---|---|---|");
    print_ratio(&MINILM, &ours, &theirs, peak);
    for size in RANDOM {
        let base = random_model(&python, &size)?;
        let rows = movie_rows(0)?;
        let train = write_csv("random.csv", "text,label", &rows[..RANDOM_ROWS])?;
        let training = speed_only(&base, &train);
        let ours = training.nimbert(&["--precision", "fp32"])?;
        print_ratio(&size, &[ours], &[training.transformers(&python)?], peak);
    }
    Ok(())
}

/// Three epochs without a test.
fn speed_only<'a>(base: &'a str, train: &'a str) -> Training<'a> {
    Training { base, train, test: None, seed: 0, epochs: 3, separator: None, pair: None }
}

fn print_ratio(size: &Size, ours: &[Outcome], theirs: &[Outcome], peak: f64) {
    let mean = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
        outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64
    };
    let share = |outcomes: &[Outcome]| {
        100.0 * size.operations() * mean(outcomes, |outcome| outcome.tokens_per_second) / (peak * 1e9)
    };
    let [rate, their_rate] = [ours, theirs].map(|outcomes| mean(outcomes, |outcome| outcome.rows_per_second));
    let [memory, their_memory] = [ours, theirs].map(|outcomes| mean(outcomes, |outcome| outcome.peak_memory));
    let name = size.name;
    let (speedup, saving) = (rate / their_rate, memory / their_memory);
    println!(
        "| {name} | nimbert | {rate:.1} | {speedup:.2} × | {:.0} % | {memory:.0} MB | {saving:.2} × |",
        share(ours)
    );
    println!("| {name} | transformers | {their_rate:.1} | | {:.0} % | {their_memory:.0} MB | |", share(theirs));
}

/// A model with random weights in the benchmark's folder.
fn random_model(python: &Path, size: &Size) -> Result<String> {
    let Size { layers, hidden, .. } = size;
    let folder = format!("{FOLDER}/random-{hidden}x{layers}");
    let config = serde_json::json!({
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_attention_heads": 12, "num_labels": 2,
    });
    if !workspace(&folder).join("model.safetensors").exists() {
        run(&mut command(python, &["benches/compare/random_model.py", "models/minilm", &folder, &config.to_string()]))?;
    }
    Ok(folder)
}

/// What the machine's matrix products reach at best, in 10⁹ operations a second.
fn sgemm_peak(python: &Path) -> Result<f64> {
    let train = write_csv("sgemm.csv", "text,label", &movie_rows(0)?[..8])?;
    let script = ["benches/compare/train.py", "models/minilm", &train, "-", "--seed", "0", "--epochs", "1", "--sgemm"];
    let printed = output(&mut command(python, &script))?;
    let result: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    result["sgemm_gflops"].as_f64().context("no sgemm_gflops in the result")
}
