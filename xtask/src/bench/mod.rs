//! `cargo xtask bench`: the same work by nimbert and by its Python peers, in turn, in one run.

mod datasets;
mod edge;
mod few;
mod fidelity;
mod file;
mod graphs;
mod heads;
mod labels;
mod openvino;
mod runtime;
mod student;
mod suggest;
mod tasks;
mod train;
mod tune;
mod unknown;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build, command, demo, output, python, release_program, run, setup, show, workspace};

pub(crate) use edge::edge;
pub(crate) use few::few;
pub(crate) use fidelity::fidelity;
pub(crate) use file::file;
pub(crate) use graphs::{graphs, graphs_of_shapes};
pub(crate) use heads::{heads, heads_of_few_rows};
pub(crate) use labels::labels;
pub(crate) use runtime::{Server, runtime, serving_program};
pub(crate) use student::student;
pub(crate) use suggest::suggest;
pub(crate) use tasks::tasks;
pub(crate) use train::{train, train_seeds, train_shapes};
pub(crate) use tune::tune;
pub(crate) use unknown::unknown;

/// The peers' versions.
const TORCH: &str = "torch==2.15.0";
const TRANSFORMERS: &str = "transformers==4.57.6";
/// What reads and makes ONNX graphs.
pub(crate) const ONNX_PEERS: [&str; 5] =
    ["onnx==1.23.2", "onnx-ir==1.1.0", "onnxruntime==1.31.1", "optimum==2.1.0", "optimum-onnx==0.1.0"];
/// Instructions by which products of matrices are computed, as Linux calls them.
const INSTRUCTIONS: [&str; 7] = ["avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"];
/// Where data and bundles of a benchmark lie.
const FOLDER: &str = ".setup/bench";

/// What `--target-size` makes of the movie task: the table that it prints, and the accuracy on test rows.
pub(crate) fn size() -> Result<()> {
    setup::setup()?;
    build()?;
    fs::create_dir_all(workspace(FOLDER))?;
    println!("{}\n", machine());
    let rows = movie_rows(0)?;
    let train = write_csv("train.csv", "text,label", &rows[..800])?;
    let test = write_csv("test.csv", "text,label", &rows[800..2800])?;
    for (name, further) in [("full", &[][..]), ("small", &["--target-size", "10MB"])] {
        let bundle = format!("{FOLDER}/{name}");
        let fit = ["fit", "--base", "models/minilm", "--data", &train, "--test-data", &test, "--out", &bundle];
        run(command(release_program("nimbert-train"), &fit).args(["--overwrite"]).args(further))?;
        run(&mut command(release_program("nimbert-train"), &["evaluate", &bundle, "--data", &test]))?;
        run(&mut command("du", &["-b", "-d", "0", &bundle]))?;
    }
    Ok(())
}

/// A training that both programs make.
struct Training<'a> {
    base: &'a str,
    train: &'a str,
    /// None: nothing is tested.
    test: Option<&'a str>,
    seed: u64,
    epochs: usize,
    batch_size: usize,
    /// Longer texts are cut, in tokens.
    max_length: usize,
    /// How labels are separated, where a row may have several.
    separator: Option<&'a str>,
    /// The column of the second text, where pairs are classified.
    pair: Option<&'a str>,
}

/// What a training gave.
#[derive(Default)]
struct Outcome {
    accuracy: Option<f64>,
    macro_f1: Option<f64>,
    micro_f1: Option<f64>,
    /// Of the exported int8 graph on the same rows.
    int8_accuracy: Option<f64>,
    loss: f64,
    rows_per_second: f64,
    tokens_per_second: f64,
    /// The most memory that the process has held, in megabytes.
    peak_memory: f64,
}

/// Builds nimbert, makes the peers' Python environment, and returns its Python.
fn prepare() -> Result<PathBuf> {
    setup::setup()?;
    build()?;
    fs::create_dir_all(workspace(FOLDER))?;
    python_peers()
}

impl<'a> Training<'a> {
    /// Three epochs without a test.
    fn of_base(base: &'a str, train: &'a str) -> Self {
        let (batch_size, max_length) = (32, 128);
        Self { base, train, test: None, seed: 0, epochs: 3, batch_size, max_length, separator: None, pair: None }
    }

    fn numbers(&self) -> [String; 4] {
        let epochs = [self.epochs, self.batch_size, self.max_length].map(|number| number.to_string());
        let [epochs, batch_size, max_length] = epochs;
        [self.seed.to_string(), epochs, batch_size, max_length]
    }

    /// By nimbert-train; `further` are arguments that its peer has no match for.
    fn nimbert(&self, further: &[&str]) -> Result<Outcome> {
        let bundle = format!("{FOLDER}/bundle");
        let [seed, epochs, batch_size, max_length] = self.numbers();
        let fit = ["fit", "--base", self.base, "--data", self.train, "--out", &bundle, "--overwrite"];
        let fit = [&fit[..], &["--method", "finetune"]].concat();
        let settings = ["--validation-size", "0", "--seed", &seed, "--epochs", &epochs];
        let mut program = command(release_program("nimbert-train"), &fit);
        program.args(settings).args(["--batch-size", &batch_size, "--max-length", &max_length]).args(further);
        program.args(self.test.map_or(["--test-size", "0"], |test| ["--test-data", test]));
        let separator = self.separator.iter().flat_map(|separator| ["--multi-label", "--label-separator", separator]);
        let columns: Vec<&str> =
            separator.chain(self.pair.iter().flat_map(|pair| ["--text-pair-column", pair])).collect();
        let (_, peak_memory) = measured(program.args(&columns))?;
        let metrics = fs::read_to_string(workspace(&format!("{bundle}.metrics.jsonl")))?;
        let lines = metrics.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>()?;
        let epochs: Vec<Value> = lines.into_iter().filter(|record| record["rows_per_second"].is_number()).collect();
        let last = epochs.last().context("no epoch in metrics.jsonl")?;
        let int8_accuracy = self.test.map(|test| accuracy(&evaluated(&bundle, test, &columns)?)).transpose()?;
        Ok(Outcome {
            accuracy: last["test_accuracy"].as_f64(),
            macro_f1: last["test_macro_f1"].as_f64(),
            micro_f1: last["test_micro_f1"].as_f64(),
            int8_accuracy,
            peak_memory,
            ..speed(&epochs)?
        })
    }

    /// By transformers, with further arguments for `benches/compare/train.py`.
    fn transformers(&self, python: &Path, further: &[&str]) -> Result<Outcome> {
        let [seed, epochs, batch_size, max_length] = self.numbers();
        let script = ["benches/compare/train.py", self.base, self.train, self.test.unwrap_or("-")];
        let mut program = command(python, &script);
        program.args(["--seed", &seed, "--epochs", &epochs]).args(further);
        program.args(["--batch-size", &batch_size, "--max-length", &max_length]);
        program.args(self.separator.iter().flat_map(|separator| ["--multi-label", separator]));
        program.args(self.pair.iter().flat_map(|pair| ["--pair-column", pair]));
        let (printed, _) = measured(&mut program)?;
        let result: Value = last_json(&printed)?;
        let epochs = result["epochs"].as_array().context("no epochs in the result")?;
        Ok(Outcome {
            accuracy: result["accuracy"].as_f64(),
            macro_f1: result["macro_f1"].as_f64(),
            micro_f1: result["micro_f1"].as_f64(),
            // At the end of training: what testing needs is not counted, as little as what exporting needs matters to us.
            peak_memory: number(&result, "peak_memory_mb")?,
            ..speed(epochs)?
        })
    }
}

/// Loss of the last epoch, and the mean speed of all.
fn speed(epochs: &[Value]) -> Result<Outcome> {
    let mean = |figure: &str| mean(epochs.iter().filter_map(|epoch| epoch[figure].as_f64())).unwrap_or(f64::NAN);
    Ok(Outcome {
        loss: epochs.last().and_then(|epoch| epoch["loss"].as_f64()).context("no loss in the result")?,
        rows_per_second: mean("rows_per_second"),
        tokens_per_second: mean("tokens_per_second"),
        ..Outcome::default()
    })
}

/// Runs a program and returns its output and the most memory that it has held, in megabytes (NaN outside of Linux).
fn measured(program: &mut Command) -> Result<(String, f64)> {
    let shown = show(program);
    let mut child = program.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start: {shown}"))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = f64::NAN;
    let status = loop {
        // VmHWM is the peak itself: looking now and then misses only the last moment.
        if let Ok(text) = fs::read_to_string(&status_file) {
            peak = megabytes(&text, "VmHWM:").unwrap_or(peak);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let printed = reader.join().expect("a thread that only reads")?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok((printed, peak))
}

/// A figure of a file in which Linux tells of a process, in megabytes.
fn megabytes(text: &str, figure: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(figure))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0 / 1e6)
}

/// The same environment with what reads and makes ONNX graphs.
pub(crate) fn onnx_peers() -> Result<PathBuf> {
    let python = python_peers()?;
    python::need(&python, &[&[TORCH, TRANSFORMERS][..], &ONNX_PEERS].concat())?;
    Ok(python)
}

/// A Python environment with the peers, made once.
fn python_peers() -> Result<PathBuf> {
    let venv = ".setup/venv";
    let python = python::program(venv, "python");
    if !python.exists() {
        eprintln!("bench: making a Python environment with {TORCH} and {TRANSFORMERS} (some gigabytes)");
        python::make(venv)?;
    }
    python::need(&python, &[TORCH, TRANSFORMERS])?;
    Ok(python)
}

/// The movie sentences and their labels, as rows for [`write_csv`].
pub(crate) fn movie_rows(seed: u64) -> Result<Vec<Vec<String>>> {
    Ok(demo::movies(seed)?.into_iter().map(|(text, label)| vec![text, label.to_owned()]).collect())
}

/// The figures of a bundle on labelled rows.
fn evaluated(bundle: &str, test: &str, further: &[&str]) -> Result<Value> {
    let evaluate = ["evaluate", bundle, "--data", test, "--json"];
    Ok(serde_json::from_str(&output(command(release_program("nimbert-train"), &evaluate).args(further))?)?)
}

/// What `nimbert bench` measures of a bundle on texts.
fn benched(bundle: &str, texts: &str, further: &[&str]) -> Result<Value> {
    benched_by(command(release_program("nimbert"), &[]), bundle, texts, further)
}

/// The same, by a command that starts `nimbert` and has no arguments yet.
fn benched_by(mut nimbert: Command, bundle: &str, texts: &str, further: &[&str]) -> Result<Value> {
    last_json(&output(nimbert.args(["bench", bundle, "--data", texts, "--json"]).args(further))?)
}

/// Of figures, a share from 0 to 1.
fn accuracy(figures: &Value) -> Result<f64> {
    number(figures, "accuracy")
}

/// Rows of a table of labelled text: a header and cells, as CSV in the benchmark's folder. Returns the path.
pub(crate) fn write_csv(name: &str, header: &str, rows: &[Vec<String>]) -> Result<String> {
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
    write_file(name, &format!("{header}\n{}", rows.iter().map(line).collect::<String>()))
}

/// Writes a file of a benchmark; its path from the workspace.
fn write_file(name: &str, content: &str) -> Result<String> {
    let path = format!("{FOLDER}/{name}");
    fs::create_dir_all(workspace(FOLDER))?;
    fs::write(workspace(&path), content)?;
    Ok(path)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

/// A number of a result.
fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name} in the result"))
}

/// None of no values.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The middle one; of an even number, the mean of both.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}

/// The last line of what was printed, a JSON object.
fn last_json(printed: &str) -> Result<Value> {
    Ok(serde_json::from_str(printed.lines().last().unwrap_or_default())?)
}

/// Whether the processor multiplies bfloat16.
fn has_bf16() -> bool {
    machine().contains("avx512_bf16")
}

/// The machine, as a table of results names it.
fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| processor.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
    let (model, flags) = (line("model name"), line("flags"));
    let found: Vec<&str> =
        INSTRUCTIONS.into_iter().filter(|name| flags.split_whitespace().any(|flag| flag == *name)).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let commit =
        output(&mut command("git", &["describe", "--always", "--dirty", "--exclude", "*"])).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    format!("{cores} cores, {model} ({}); commit {}", found.join(", "), commit.trim())
}
