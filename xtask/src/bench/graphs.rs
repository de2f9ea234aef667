//! `cargo xtask bench graphs`: our graphs of one trained model beside optimum's, and other ways to quantize it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{FOLDER, ONNX_PEERS, machine, movie_rows, onnx_peers, prepare, write_csv};
use crate::{command, output, release_program, run, workspace};

const TRAIN: usize = 1000;
const TEST: usize = 2000;

/// Layers whose products are computed for all tokens; 12 hidden² numbers each.
const LAYERS: f64 = 6.0;
const HIDDEN: f64 = 384.0;

pub(crate) fn graphs() -> Result<()> {
    prepare()?;
    let python = onnx_peers()?;
    let rows = movie_rows(0)?;
    let train = write_csv("graphs-train.csv", "text,label", &rows[..TRAIN])?;
    let test = write_csv("graphs-test.csv", "text,label", &rows[TRAIN..TRAIN + TEST])?;
    let folder = format!("{FOLDER}/graphs");
    if workspace(&folder).exists() {
        fs::remove_dir_all(workspace(&folder))?;
    }
    fs::create_dir_all(workspace(&folder))?;
    let [model, trained, ours, weights] =
        ["model", "trained", "ours", "weights"].map(|name| format!("{folder}/{name}"));
    let nimbert = |arguments: &[&str]| run(&mut command(release_program("nimbert-train"), arguments));
    let fit = ["fit", "--base", "models/minilm", "--data", &train, "--test-size", "0", "--validation-size", "0"];
    nimbert(&[&fit[..], &["--no-checkpoint", "--out", &trained, "--save-model", &model]].concat())?;
    nimbert(&["export", &model, "--data", &train, "--out", &ours, "--variants", "cpu-int8,cpu-fp32"])?;
    // Without text there are no ranges: int8 weights, fp32 arithmetic.
    nimbert(&["export", &model, "--out", &weights])?;
    optimum(&python, &model, &folder)?;

    let graph = |name: &str, path: &str| format!("{name}={folder}/{path}");
    let graphs = [
        graph("optimum fp32", "optimum/model.onnx"),
        graph("nimbert cpu-fp32", "ours/model.cpu-fp32.onnx"),
        graph("optimum int8 (avx2)", "optimum-int8/model_quantized.onnx"),
        graph("nimbert cpu-int8", "ours/model.onnx"),
        graph("nimbert int8 weights", "weights/model.onnx"),
        graph("dynamic, one scale a batch", "dynamic-tensor.onnx"),
        graph("dynamic, one scale a token", "dynamic-row.onnx"),
        graph("8-bit weights in blocks", "weights-8.onnx"),
        graph("4-bit weights in blocks", "weights-4.onnx"),
    ];
    let mut measure = command(&python, &["benches/compare/graphs.py", &model, &test]);
    let printed = output(measure.args(&graphs))?;
    print(&serde_json::from_str(printed.lines().last().unwrap_or_default())?)
}

/// optimum's fp32 and int8 graphs, and the same model quantized in other ways.
fn optimum(python: &Path, model: &str, folder: &str) -> Result<()> {
    let cli = python.with_file_name(if cfg!(windows) { "optimum-cli.exe" } else { "optimum-cli" });
    let [fp32, int8] = ["optimum", "optimum-int8"].map(|name| format!("{folder}/{name}"));
    for arguments in [
        vec!["export", "onnx", "--model", model, "--task", "text-classification", &fp32],
        vec!["onnxruntime", "quantize", "--avx2", "--onnx_model", &fp32, "-o", &int8],
    ] {
        run(command(&cli, &arguments).env("HF_HUB_OFFLINE", "1"))?;
    }
    run(&mut command(python, &["benches/compare/quantize.py", &format!("{fp32}/model.onnx"), folder]))
}

fn print(result: &Value) -> Result<()> {
    let number = |value: &Value, key: &str| value[key].as_f64().with_context(|| format!("no {key} in the result"));
    let [fp32_peak, int8_peak] = [number(result, "fp32_gflops")?, number(result, "int8_gflops")?];
    let tokens = number(result, "tokens")? / number(result, "texts")?;
    println!("{}; {}", machine(), ONNX_PEERS.join(", "));
    println!(
        "{TEST} sentences of {tokens:.1} tokens; products of 1024³: fp32 {fp32_peak:.0}, int8 {int8_peak:.0} GOP/s\n"
    );
    println!(
        "| graph | size | load | p50, one text | rows/s, 32 sorted | of the peak | accuracy | label of fp32 | logits |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let graphs = result["graphs"].as_object().context("no graphs in the result")?;
    for (name, figures) in graphs {
        let figure = |key: &str| number(figures, key);
        let is_ours = name.starts_with("nimbert");
        // In ours the last layer computes no products of all tokens.
        let layers = if is_ours { LAYERS - 1.0 } else { LAYERS };
        let operations = 2.0 * layers * 12.0 * HIDDEN * HIDDEN * tokens * figure("rows_per_second")?;
        let in_fp32 = name.contains("fp32") || name.contains("weights");
        let share = 100.0 * operations / 1e9 / if in_fp32 { fp32_peak } else { int8_peak };
        println!(
            "| {name} | {:.2} MB | {:.0} ms | {:.2} ms | {:.0} | {share:.0} % | {:.2} % | {:.2} % | {:.1e} |",
            figure("bytes")? / 1e6,
            figure("load_ms")?,
            figure("p50_ms")?,
            figure("rows_per_second")?,
            100.0 * figure("accuracy")?,
            100.0 * figure("agreement")?,
            figure("max_logit_difference")?,
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
