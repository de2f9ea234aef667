//! `cargo xtask bench train`: speed, memory and accuracy of training beside transformers on PyTorch.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    FOLDER, Outcome, TORCH, TRANSFORMERS, Training, has_bf16, last_json, machine, movie_rows, number, percent, prepare,
    write_csv,
};
use crate::{command, output, run, workspace};

/// Rows that are trained on, and tested on.
const TRAIN: usize = 1000;
const TEST: usize = 2000;
const SEEDS: u64 = 3;
/// In which format products are made: what stands behind a program's name, and what nimbert and transformers are given.
type Format = (&'static str, &'static [&'static str], &'static [&'static str]);
const FORMATS: [Format; 2] = [("", &[], &[]), (", bf16", &["--compute-dtype", "bf16"], &["--bf16"])];

/// Those that the processor has.
fn formats() -> impl Iterator<Item = Format> {
    let has_bf16 = has_bf16();
    FORMATS.into_iter().filter(move |(name, ..)| name.is_empty() || has_bf16)
}

/// A model's shape, and what is trained on it with random weights.
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Numbers of the encoder's linear layers: 6 operations for each and token make up a training step.
    pub(super) weights: usize,
    /// Those of the last layer.
    pub(super) weights_of_last: usize,
    /// Changes to MiniLM's `config.json`; with a `model_type`, a whole one.
    config: Value,
    pub(super) rows: Rows,
}

impl Shape {
    /// The name as a part of a file's.
    pub(super) fn file_name(&self) -> String {
        self.name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
    }
}

/// The rows for a model with random weights.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// Movie sentences.
    Short,
    /// So many of them in a row that it has this number of tokens.
    Of(usize),
}

impl Rows {
    pub(super) fn name(self) -> String {
        match self {
            Self::Short => "short".to_owned(),
            Self::Of(tokens) => format!("of {tokens} tokens"),
        }
    }

    /// How many, and how many in a batch.
    fn counts(self) -> [usize; 2] {
        match self {
            // Enough steps that the first, which gets its memory from the system, does not count for much.
            Self::Short => [192, 32],
            Self::Of(tokens) => [5 * 4096 / tokens, 4096 / tokens],
        }
    }

    pub(super) fn max_length(self) -> usize {
        match self {
            Self::Short => 128,
            Self::Of(tokens) => tokens,
        }
    }

    /// As CSV, those that are trained on, and `further` others.
    pub(super) fn write(self, further: usize) -> Result<(String, String)> {
        let rows = movie_rows(0)?;
        let [count, _] = self.counts();
        let (name, rows): (String, Vec<Vec<String>>) = match self {
            Self::Short => ("short".to_owned(), rows),
            Self::Of(tokens) => {
                // Sentences of 25 tokens, more of them than are needed, the first of which comes anew in every text.
                let sentences = tokens / 12;
                let text = |start: usize| {
                    let texts: Vec<&str> = rows[start..start + sentences].iter().map(|row| row[0].as_str()).collect();
                    vec![texts.join(" "), rows[start][1].clone()]
                };
                (format!("of-{tokens}"), (0..count + further).map(|index| text(sentences / 2 * index)).collect())
            }
        };
        let write = |part: &str, rows: &[Vec<String>]| write_csv(&format!("{name}-{part}.csv"), "text,label", rows);
        Ok((write("train", &rows[..count])?, write("test", &rows[count..count + further])?))
    }
}

const MINILM: &str = "MiniLM 384 × 6";
const MINILM_WEIGHTS: usize = 6 * 12 * 384 * 384;

fn shapes() -> Vec<Shape> {
    let bert = |name, layers: usize, hidden: usize| Shape {
        name,
        weights: layers * 12 * hidden * hidden,
        weights_of_last: 12 * hidden * hidden,
        config: json!({
            "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_attention_heads": 12
        }),
        rows: Rows::Short,
    };
    let modernbert = |rows| Shape {
        name: "ModernBERT-base",
        weights: 22 * (4 * 768 * 768 + 3 * 768 * 1152),
        weights_of_last: 4 * 768 * 768 + 3 * 768 * 1152,
        config: json!({
            "model_type": "modernbert", "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152,
            "num_hidden_layers": 22, "num_attention_heads": 12, "max_position_embeddings": 8192, "local_attention": 128,
            "pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102,
            "reference_compile": false
        }),
        rows,
    };
    let deberta = |rows| Shape {
        name: "DeBERTa-v3-small",
        weights: 6 * 12 * 768 * 768,
        weights_of_last: 12 * 768 * 768,
        config: json!({
            "model_type": "deberta-v2", "vocab_size": 128_100, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512, "type_vocab_size": 0,
            "relative_attention": true, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": true,
            "pos_att_type": "p2c|c2p", "position_biased_input": false, "pad_token_id": 0, "pooler_hidden_size": 768,
            "pooler_dropout": 0, "pooler_hidden_act": "gelu", "layer_norm_eps": 1e-7, "max_relative_positions": -1
        }),
        rows,
    };
    let minilm = |rows| Shape { name: MINILM, rows, ..bert("", 6, 384) };
    vec![
        minilm(Rows::Of(128)),
        minilm(Rows::Of(512)),
        bert("random 384 × 12", 12, 384),
        bert("random 768 × 12", 12, 768),
        modernbert(Rows::Short),
        modernbert(Rows::Of(512)),
        deberta(Rows::Short),
        deberta(Rows::Of(512)),
    ]
}

/// The shapes whose names have `named` in them, and nothing else.
pub(crate) fn train_shapes(named: &str) -> Result<()> {
    let (python, peak) = begin()?;
    print_head();
    shapes_named(named).iter().try_for_each(|shape| measure(&python, shape, peak))
}

/// Those with `named` in their names.
pub(super) fn shapes_named(named: &str) -> Vec<Shape> {
    let mut shapes = shapes();
    shapes.retain(|shape| shape.name.to_lowercase().contains(&named.to_lowercase()));
    shapes
}

fn print_head() {
    println!("| model | rows | program | rows/s | nimbert / it | of the sgemm peak | peak memory | nimbert / it |");
    println!("|---|---|---|---|---|---|---|---|");
}

/// One shape by both programs.
fn measure(python: &Path, shape: &Shape, peak: f64) -> Result<()> {
    let base = random_model(python, shape)?;
    let (train, _) = shape.rows.write(0)?;
    let [_, batch_size] = shape.rows.counts();
    let max_length = shape.rows.max_length();
    let training = Training { batch_size, max_length, ..Training::of_base(&base, &train) };
    for (format, ours, theirs) in formats() {
        // Nothing can be learned, so the graph is as it comes.
        let ours = training.nimbert(&[&["--precision", "fp32"], ours].concat())?;
        let theirs = training.transformers(python, theirs)?;
        print_ratio([shape.name, &shape.rows.name(), format], shape.weights, &[ours], &[theirs], peak);
    }
    Ok(())
}

pub(crate) fn train() -> Result<()> {
    let (python, peak) = begin()?;
    seeds(&python, peak)?;
    shapes().iter().try_for_each(|shape| measure(&python, shape, peak))
}

/// MiniLM on movie sentences alone.
pub(crate) fn train_seeds() -> Result<()> {
    let (python, peak) = begin()?;
    seeds(&python, peak)
}

/// The peers' Python, and the processor's peak; both are told.
fn begin() -> Result<(PathBuf, f64)> {
    let python = prepare()?;
    let peak = sgemm_peak(&python)?;
    println!("{}; {TORCH}, {TRANSFORMERS}; sgemm peak {peak:.0} GFLOP/s\n", machine());
    Ok((python, peak))
}

/// MiniLM on movie sentences, with accuracies.
fn seeds(python: &Path, peak: f64) -> Result<()> {
    println!("{TRAIN} movie sentences, 5 epochs, batches of 32, tested on {TEST} others:\n");
    println!("| seed | program | rows/s | peak memory | test accuracy | int8 | last loss |");
    println!("|---|---|---|---|---|---|---|");
    let mut outcomes: Vec<(Format, Vec<Outcome>, Vec<Outcome>)> =
        formats().map(|format| (format, Vec::new(), Vec::new())).collect();
    for seed in 0..SEEDS {
        let rows = movie_rows(seed)?;
        let train = write_csv("train.csv", "text,label", &rows[..TRAIN])?;
        let test = write_csv("test.csv", "text,label", &rows[TRAIN..TRAIN + TEST])?;
        let training = Training { test: Some(&test), seed, epochs: 5, ..Training::of_base("models/minilm", &train) };
        let print = |name: &str, outcome: &Outcome| {
            let Outcome { accuracy, int8_accuracy, loss, rows_per_second, peak_memory, .. } = outcome;
            let (accuracy, int8) = (percent(*accuracy), percent(*int8_accuracy));
            println!(
                "| {seed} | {name} | {rows_per_second:.1} | {peak_memory:.0} MB | {accuracy} | {int8} | {loss:.4} |"
            );
        };
        for ((format, for_us, for_them), ours, theirs) in &mut outcomes {
            let (our, their) = (training.nimbert(for_us)?, training.transformers(python, for_them)?);
            print(&format!("nimbert{format}"), &our);
            print(&format!("transformers{format}"), &their);
            ours.push(our);
            theirs.push(their);
        }
    }
    println!();
    for ((format, ..), ours, theirs) in &outcomes {
        let [ours, theirs] =
            [ours, theirs].map(|outcomes| 100.0 * mean(outcomes, |outcome| outcome.accuracy.unwrap_or(f64::NAN)));
        let difference = ours - theirs;
        println!("mean accuracy{format}: nimbert {ours:.2} %, transformers {theirs:.2} %: {difference:+.2} points");
    }
    println!();
    print_head();
    for ((format, ..), ours, theirs) in &outcomes {
        print_ratio([MINILM, &Rows::Short.name(), format], MINILM_WEIGHTS, ours, theirs, peak);
    }
    Ok(())
}

fn mean(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    super::mean(outcomes.iter().map(figure)).unwrap_or(f64::NAN)
}

/// A line of ours, and one of transformers with what ours is beside it.
fn print_ratio([name, rows, format]: [&str; 3], weights: usize, ours: &[Outcome], theirs: &[Outcome], peak: f64) {
    let share = |outcomes: &[Outcome]| {
        100.0 * 6.0 * weights as f64 * mean(outcomes, |outcome| outcome.tokens_per_second) / (peak * 1e9)
    };
    let [rate, their_rate] = [ours, theirs].map(|outcomes| mean(outcomes, |outcome| outcome.rows_per_second));
    let [memory, their_memory] = [ours, theirs].map(|outcomes| mean(outcomes, |outcome| outcome.peak_memory));
    println!("| {name} | {rows} | nimbert{format} | {rate:.1} | | {:.0} % | {memory:.0} MB | |", share(ours));
    println!(
        "| {name} | {rows} | transformers{format} | {their_rate:.1} | {:.2} × | {:.0} % | {their_memory:.0} MB | {:.2} × |",
        rate / their_rate,
        share(theirs),
        memory / their_memory
    );
}

/// A model with random weights in the benchmark's folder.
pub(super) fn random_model(python: &Path, shape: &Shape) -> Result<String> {
    let folder = format!("{FOLDER}/random-{}", shape.file_name());
    if !workspace(&folder).join("model.safetensors").exists() {
        let mut config = shape.config.clone();
        config["num_labels"] = 2.into();
        run(&mut command(python, &["benches/compare/random_model.py", "models/minilm", &folder, &config.to_string()]))?;
    }
    Ok(folder)
}

/// What the machine's matrix products reach at best, in 10⁹ operations a second.
fn sgemm_peak(python: &Path) -> Result<f64> {
    let train = write_csv("sgemm.csv", "text,label", &movie_rows(0)?[..8])?;
    let script = ["benches/compare/train.py", "models/minilm", &train, "-", "--seed", "0", "--epochs", "1", "--sgemm"];
    let printed = output(&mut command(python, &script))?;
    number(&last_json(&printed)?, "sgemm_gflops")
}
