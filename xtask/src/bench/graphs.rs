//! `cargo xtask bench graphs`: our graphs of one trained model beside optimum's, other ways to quantize it, and OpenVINO.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    FOLDER, ONNX_PEERS, last_json, machine, median, movie_rows, number, onnx_peers,
    openvino::{self, MAX_LENGTH, OpenVino, Way},
    prepare,
    train::{self, Rows, Shape},
    write_csv, write_file,
};
use crate::{command, output, release_program, run, workspace};

const TRAIN: usize = 1000;
const TEST: usize = 2000;

/// How often OpenVINO's ways are measured.
const ROUNDS: usize = 3;

/// MiniLM's layers; 12 hidden² numbers each.
const LAYERS: usize = 6;
const HIDDEN: usize = 384;

/// One trained classifier, exported by nimbert and by optimum: the folders.
pub(super) struct Exported {
    /// Sentences and their labels: those that are trained on, and those that are not.
    train_rows: Vec<Vec<String>>,
    test_rows: Vec<Vec<String>>,
    /// Both, as CSV.
    pub(super) train: String,
    test: String,
    /// The trained model, as a Hugging Face folder.
    pub(super) model: String,
    /// Our bundle, with an int8 and an fp32 graph.
    pub(super) ours: String,
    /// Our bundle with int8 weights and fp32 arithmetic.
    weights: String,
    /// optimum's graphs.
    pub(super) optimum: String,
    pub(super) optimum_int8: String,
    /// Where all of them lie, and those that were quantized in other ways.
    folder: String,
}

/// Written once all lies in the folder: which commit and machine it is of.
const MADE_BY: &str = "made-by.txt";

/// The classifier of an earlier run of this commit, or a new one.
pub(super) fn kept_or_exported(python: &Path) -> Result<Exported> {
    let kept = Exported::in_folder()?;
    match fs::read_to_string(workspace(&kept.folder).join(MADE_BY)) {
        Ok(by) if by == machine() => Ok(kept),
        _ => exported(python),
    }
}

impl Exported {
    fn in_folder() -> Result<Self> {
        let mut train_rows = movie_rows(0)?;
        let mut test_rows = train_rows.split_off(TRAIN);
        test_rows.truncate(TEST);
        let train = write_csv("graphs-train.csv", "text,label", &train_rows)?;
        let test = write_csv("graphs-test.csv", "text,label", &test_rows)?;
        let folder = format!("{FOLDER}/graphs");
        let [model, ours, weights, optimum, optimum_int8] =
            ["model", "ours", "weights", "optimum", "optimum-int8"].map(|name| format!("{folder}/{name}"));
        Ok(Self { train_rows, test_rows, train, test, model, ours, weights, optimum, optimum_int8, folder })
    }

    /// A file of the test sentences, one a line.
    pub(super) fn test_texts(&self) -> Result<String> {
        texts_file("runtime.txt", &self.test_rows)
    }

    /// A file of the training sentences.
    pub(super) fn training_texts(&self) -> Result<String> {
        texts_file("openvino-train.txt", &self.train_rows)
    }
}

/// Sentences of the movie rows have no line breaks.
fn texts_file(name: &str, rows: &[Vec<String>]) -> Result<String> {
    write_file(name, &rows.iter().map(|row| row[0].clone() + "\n").collect::<String>())
}

/// Trains the classifier and exports it.
fn exported(python: &Path) -> Result<Exported> {
    let exported = Exported::in_folder()?;
    let Exported { train, model, ours, weights, optimum, optimum_int8, folder, .. } = &exported;
    let trained = format!("{folder}/trained");
    if workspace(folder).exists() {
        fs::remove_dir_all(workspace(folder))?;
    }
    fs::create_dir_all(workspace(folder))?;
    let nimbert = |arguments: &[&str]| run(&mut command(release_program("nimbert-train"), arguments));
    let fit = [
        "fit",
        "--overwrite",
        "--base",
        "models/minilm",
        "--data",
        train,
        "--test-size",
        "0",
        "--validation-size",
        "0",
    ];
    nimbert(&[&fit[..], &["--no-checkpoint", "--out", &trained, "--save-model", model]].concat())?;
    nimbert(&["export", model, "--data", train, "--out", ours, "--variants", "cpu-int8,cpu-fp32"])?;
    // Without text there are no ranges: int8 weights, fp32 arithmetic.
    nimbert(&["export", model, "--out", weights])?;
    export_by_optimum(python, model, [optimum, optimum_int8], folder)?;
    fs::write(workspace(folder).join(MADE_BY), machine())?;
    Ok(exported)
}

pub(crate) fn graphs() -> Result<()> {
    prepare()?;
    let python = onnx_peers()?;
    let exported = exported(&python)?;
    let Exported { test, model, ours, weights, optimum, optimum_int8, folder, .. } = &exported;
    let graphs = [
        format!("optimum fp32={optimum}/model.onnx"),
        format!("nimbert cpu-fp32={ours}/model.cpu-fp32.onnx"),
        format!("optimum int8 (avx2)={optimum_int8}/model_quantized.onnx"),
        format!("nimbert cpu-int8={ours}/model.onnx"),
        format!("nimbert int8 weights={weights}/model.onnx"),
        format!("dynamic, one scale a batch={folder}/dynamic-tensor.onnx"),
        format!("dynamic, one scale a token={folder}/dynamic-row.onnx"),
        format!("8-bit weights in blocks={folder}/weights-8.onnx"),
        format!("4-bit weights in blocks={folder}/weights-4.onnx"),
    ];
    let mut measure = command(&python, &["benches/compare/graphs.py", model, test]);
    let mut result = last_json(&output(measure.args(&graphs))?)?;
    add_openvino(&exported, &mut result)?;
    let layer = 12 * HIDDEN * HIDDEN;
    print(&result, LAYERS * layer, layer)?;
    let ours = &result["graphs"]["nimbert cpu-int8"];
    let theirs: Vec<&Value> = result["graphs"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, figures)| name.starts_with("OpenVINO").then_some(figures))
        .collect();
    let of_theirs = |figure: &str| theirs.iter().map(|figures| number(figures, figure)).collect::<Result<Vec<f64>>>();
    let most = of_theirs("rows_per_second")?.into_iter().fold(0.0, f64::max);
    let least = of_theirs("p50_ms")?.into_iter().fold(f64::INFINITY, f64::min);
    let (p50, rate) = (number(ours, "p50_ms")? / least, number(ours, "rows_per_second")? / most);
    println!(
        "nimbert cpu-int8 / the best of OpenVINO: p50 {p50:.2}, rows/s {rate:.2} ({})",
        openvino::PEERS.join(", ")
    );
    Ok(())
}

/// Adds what OpenVINO makes of optimum's graph, without tokenization as all others, and measured after them: medians of rounds in which its
/// ways take turns. Its labels are compared with those of its own fp32.
fn add_openvino(exported: &Exported, result: &mut Value) -> Result<()> {
    let vino = OpenVino::of(exported)?;
    let texts = exported.test_texts()?;
    let mut rounds: Vec<(&Way, Vec<Value>)> = Way::all().map(|way| (way, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (way, results) in &mut rounds {
            results.push(vino.measure(way, &texts, MAX_LENGTH)?);
        }
    }
    // Labels are named in the order of their ids.
    let expected: Vec<u64> = exported.test_rows.iter().map(|row| u64::from(row[1] == "positive")).collect();
    let fp32 = openvino::labels(&rounds[0].1[0])?;
    for (way, results) in rounds {
        let of_rounds = |figure: &dyn Fn(&Value) -> Result<f64>| -> Result<f64> {
            Ok(median(results.iter().map(figure).collect::<Result<_>>()?))
        };
        let labels = openvino::labels(&results[0])?;
        ensure!(labels.len() == TEST, "{}: {} labels of {TEST} texts", way.name(), labels.len());
        let same = |others: &[u64]| labels.iter().zip(others).filter(|(a, b)| a == b).count() as f64 / TEST as f64;
        result["graphs"][way.name()] = json!({
            "bytes": vino.size(way)?,
            "load_ms": of_rounds(&|result| number(result, "load_ms"))?,
            "p50_ms": of_rounds(&|result| number(&result["encoded"], "p50_ms"))?,
            "rows_per_second": of_rounds(&|result| number(&result["encoded"], "rows_per_second"))?,
            "accuracy": same(&expected),
            "agreement": same(&fp32),
        });
    }
    Ok(())
}

/// The shapes of models with `named` in their names: an epoch of training from random weights, and then the graphs of both.
pub(crate) fn graphs_of_shapes(named: &str) -> Result<()> {
    prepare()?;
    let python = onnx_peers()?;
    for shape in train::shapes_named(named) {
        graphs_of(&python, &shape)?;
    }
    Ok(())
}

fn graphs_of(python: &Path, shape: &Shape) -> Result<()> {
    // Texts that are asked for one by one, and all.
    let (single, all) = match shape.rows {
        Rows::Short => (100, 320),
        Rows::Of(_) => (12, 32),
    };
    let folder = format!("{FOLDER}/graphs-{}-{}", shape.file_name(), shape.rows.max_length());
    let [model, ours, optimum, int8, trained] =
        ["model", "ours", "optimum", "optimum-int8", "trained"].map(|name| format!("{folder}/{name}"));
    let max_length = shape.rows.max_length().to_string();
    let (train, test) = shape.rows.write(all)?;
    // Of 40 long rows random weights learn so little that logits hardly differ by text, which int8 is compared by.
    let (learned, _) = Rows::Short.write(all)?;
    let learned_length = Rows::Short.max_length().to_string();
    if workspace(&folder).exists() {
        fs::remove_dir_all(workspace(&folder))?;
    }
    fs::create_dir_all(workspace(&folder))?;
    let base = train::random_model(python, shape)?;
    let nimbert = |arguments: &[&str]| run(&mut command(release_program("nimbert-train"), arguments));
    let data = ["--base", &base, "--data", &learned, "--test-size", "0", "--validation-size", "0", "--batch-size", "8"];
    let settings = ["--method", "finetune", "--epochs", "1", "--no-checkpoint", "--max-length", &learned_length];
    let settings = [&settings[..], &["--precision", "fp32"]].concat();
    nimbert(&[&["fit"], &data[..], &settings, &["--out", &trained, "--save-model", &model]].concat())?;
    let variants = ["--variants", "cpu-int8,cpu-fp32", "--max-length", &max_length];
    // What random weights answer means nothing.
    let no_gates = ["--max-accuracy-drop", "100", "--max-label-changes", "100"];
    nimbert(&[&["export", &model, "--data", &train, "--out", &ours][..], &variants, &no_gates].concat())?;
    for arguments in by_optimum(&model, [&optimum, &int8]) {
        run(command(optimum_cli(python), &arguments).env("HF_HUB_OFFLINE", "1"))?;
    }
    let graphs = [
        format!("optimum fp32={optimum}/model.onnx"),
        format!("nimbert cpu-fp32={ours}/model.cpu-fp32.onnx"),
        format!("optimum int8 (avx2)={int8}/model_quantized.onnx"),
        format!("nimbert cpu-int8={ours}/model.onnx"),
    ];
    let single = single.to_string();
    let options = ["--texts", &single, "--max-length", &max_length];
    let mut measure = command(python, &["benches/compare/graphs.py", &model, &test]);
    let printed = output(measure.args(options).args(&graphs))?;
    println!("{}, rows {}", shape.name, shape.rows.name());
    print(&last_json(&printed)?, shape.weights, shape.weights_of_last)
}

fn optimum_cli(python: &Path) -> std::path::PathBuf {
    python.with_file_name(if cfg!(windows) { "optimum-cli.exe" } else { "optimum-cli" })
}

/// What optimum is told, to make graphs in fp32 and int8.
fn by_optimum<'a>(model: &'a str, [fp32, int8]: [&'a str; 2]) -> [Vec<&'a str>; 2] {
    [
        vec!["export", "onnx", "--model", model, "--task", "text-classification", fp32],
        vec!["onnxruntime", "quantize", "--avx2", "--onnx_model", fp32, "-o", int8],
    ]
}

/// optimum's fp32 and int8 graphs, and the same model quantized in other ways.
fn export_by_optimum(python: &Path, model: &str, [fp32, int8]: [&str; 2], folder: &str) -> Result<()> {
    for arguments in by_optimum(model, [fp32, int8]) {
        run(command(optimum_cli(python), &arguments).env("HF_HUB_OFFLINE", "1"))?;
    }
    run(&mut command(python, &["benches/compare/quantize.py", &format!("{fp32}/model.onnx"), folder]))
}

/// `weights` are those of all products, `of_last` those of the last layer.
fn print(result: &Value, weights: usize, of_last: usize) -> Result<()> {
    let [fp32_peak, int8_peak] = [number(result, "fp32_gflops")?, number(result, "int8_gflops")?];
    let tokens = number(result, "tokens")? / number(result, "texts")?;
    println!("{}; {}", machine(), ONNX_PEERS.join(", "));
    println!(
        "{:.0} texts of {tokens:.1} tokens; products of 1024³: fp32 {fp32_peak:.0}, int8 {int8_peak:.0} GOP/s\n",
        number(result, "texts")?
    );
    println!(
        "| graph | size | load | p50, one text | rows/s, 1 or 32 a batch | of the peak | accuracy | label of fp32 | logits |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let graphs = result["graphs"].as_object().context("no graphs in the result")?;
    for (name, figures) in graphs {
        let figure = |key: &str| number(figures, key);
        let is_ours = name.starts_with("nimbert");
        // In ours the last layer computes no products of all tokens.
        let computed = if is_ours { weights - of_last } else { weights };
        let operations = 2.0 * computed as f64 * tokens * figure("rows_per_second")?;
        let in_fp32 = name.contains("fp32") || name.contains("weights");
        let share = match name.contains("bf16") {
            true => "–".to_owned(),
            false => {
                format!("{:.0} %", 100.0 * operations / 1e9 / if in_fp32 { fp32_peak } else { int8_peak })
            }
        };
        let difference = figures["max_logit_difference"].as_f64().map_or("–".to_owned(), |far| format!("{far:.1e}"));
        println!(
            "| {name} | {:.2} MB | {:.0} ms | {:.2} ms | {:.0} | {share} | {:.2} % | {:.2} % | {difference} |",
            figure("bytes")? / 1e6,
            figure("load_ms")?,
            figure("p50_ms")?,
            figure("rows_per_second")?,
            100.0 * figure("accuracy")?,
            100.0 * figure("agreement")?,
        );
    }
    println!();
    for (ours, theirs) in [("nimbert cpu-fp32", "optimum fp32"), ("nimbert cpu-int8", "optimum int8 (avx2)")] {
        let ratio = |key: &str| Ok::<_, anyhow::Error>(number(&graphs[ours], key)? / number(&graphs[theirs], key)?);
        println!(
            "{ours} / {theirs}: size {:.4}, load {:.2}, p50 {:.2}, rows/s {:.2}",
            ratio("bytes")?,
            ratio("load_ms")?,
            ratio("p50_ms")?,
            ratio("rows_per_second")?
        );
    }
    Ok(())
}
