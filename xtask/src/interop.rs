//! `cargo xtask interop`: other programs read our bundles and answer as we do.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, bail};

use crate::{bench, build, command, release_program, run, setup, workspace};

const FOLDER: &str = ".setup/interop";
const TRANSFORMERS_JS: &str = "@huggingface/transformers@4.3.1";
const TRITON_CLIENT: &str = "tritonclient[grpc]==2.73.0";
/// Sentences that are trained on, and asked about.
const TRAIN: usize = 400;
const ASKED: usize = 200;

pub(crate) fn interop() -> Result<()> {
    setup::setup()?;
    build()?;
    let python = bench::onnx_peers()?;
    install(&python)?;
    for name in ["bundle", "tiny", "triton", "model", "trained"] {
        let folder = workspace(&format!("{FOLDER}/{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
    }
    let [texts, answers] = ["texts.txt", "answers"].map(|name| format!("{FOLDER}/{name}"));
    let rows = bench::movie_rows(0)?;
    let data = bench::write_csv("interop.csv", "text,label", &rows[..TRAIN])?;
    let lines = rows[TRAIN..TRAIN + ASKED].iter().map(|row| format!("{}\n", row[0]));
    fs::write(workspace(&texts), lines.collect::<String>())?;

    let [bundle, tiny, triton, model, trained] =
        ["bundle", "tiny", "triton", "model", "trained"].map(|name| format!("{FOLDER}/{name}"));
    let nimbert = |arguments: &[&str]| run(&mut command(release_program("nimbert-train"), arguments));
    let fit = ["fit", "--base", "models/minilm", "--data", &data, "--test-size", "0", "--validation-size", "0"];
    nimbert(&[&fit[..], &["--epochs", "3", "--no-checkpoint", "--out", &trained, "--save-model", &model]].concat())?;
    let all = "cpu-int8,cpu-fp32,gpu-fp16,tensorrt-fp16,tensorrt-int8";
    nimbert(&["export", &model, "--data", &data, "--out", &bundle, "--variants", all])?;
    nimbert(&["export", &model, "--data", &data, "--out", &triton, "--layout", "triton"])?;
    let all_fp32_first = "cpu-fp32,cpu-int8,gpu-fp16,tensorrt-fp16,tensorrt-int8";
    let tiny_bert = ["export", "tests/data/tiny-bert", "--data", &data, "--max-length", "32", "--out", &tiny];
    // Its weights are random: nothing is lost where nothing was learned.
    nimbert(&[&tiny_bert[..], &["--max-accuracy-drop", "100", "--variants", all_fp32_first]].concat())?;
    for variant in ["cpu-int8", "cpu-fp32"] {
        let output = format!("{answers}.{variant}");
        let classify = ["classify", &bundle, "--input", &texts, "--json", "--variant", variant, "--output", &output];
        run(&mut command(release_program("nimbert"), &classify))?;
    }
    let script = ["tests/interop/interop.py", &bundle, &answers, &texts, &tiny, &triton];
    run(command(&python, &script).env("HF_HUB_OFFLINE", "1"))?;
    let int8_answers = format!("{answers}.cpu-int8");
    run(&mut command("node", &["tests/interop/interop.mjs", FOLDER, "bundle", &int8_answers, &texts]))
}

fn install(python: &Path) -> Result<()> {
    let has_triton = command(python, &["-c", "import tritonclient.grpc"]).output()?.status.success();
    if !has_triton {
        bench::pip_install(python, &[TRITON_CLIENT])?;
    }
    let folder = workspace(FOLDER);
    fs::create_dir_all(&folder)?;
    if folder.join("node_modules/@huggingface/transformers").exists() {
        return Ok(());
    }
    let version = command("npm", &["--version"]).stdout(Stdio::null()).status();
    if !version.context("cannot start npm; transformers.js needs Node.js")?.success() {
        bail!("npm --version failed");
    }
    fs::write(folder.join("package.json"), "{ \"private\": true }\n")?;
    // The scripts fetch libraries for GPUs; those for the CPU are in the package.
    let npm = ["install", "--no-fund", "--no-audit", "--ignore-scripts", "--silent", TRANSFORMERS_JS];
    run(command("npm", &npm).current_dir(&folder))
}
