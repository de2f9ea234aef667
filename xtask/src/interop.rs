//! `cargo xtask interop`: other programs read our bundles and answer as we do.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    bench::{self, Server, serving_program},
    build, cargo, command, output, python, release_program, run, setup, workspace,
};

const FOLDER: &str = ".setup/interop";
const TRANSFORMERS_JS: &str = "@huggingface/transformers@4.3.1";
const SCIKIT_LEARN: &str = "scikit-learn==1.9.1";
const TRANSFORMERS_5: &str = "transformers==5.24.0";
const PY_MINISIGN: &str = "py-minisign==0.21.1";
const TRITON_CLIENT: &str = "tritonclient[grpc]==2.73.0";
/// Sentences that are trained on, and asked about.
const TRAIN: usize = 400;
const ASKED: usize = 200;

pub(crate) fn interop() -> Result<()> {
    setup::setup()?;
    build()?;
    let python = bench::onnx_peers()?;
    install(&python)?;
    figures(&python)?;
    for name in ["bundle", "tiny", "triton", "model", "trained"] {
        remove(&format!("{FOLDER}/{name}"))?;
    }
    let [texts, answers] = ["texts.txt", "answers"].map(|name| format!("{FOLDER}/{name}"));
    let rows = bench::movie_rows(0)?;
    let data = bench::write_csv("interop.csv", "text,label", &rows[..TRAIN])?;
    let lines = rows[TRAIN..TRAIN + ASKED].iter().map(|row| format!("{}\n", row[0]));
    fs::write(workspace(&texts), lines.collect::<String>())?;

    let [bundle, tiny, triton, model, trained] =
        ["bundle", "tiny", "triton", "model", "trained"].map(|name| format!("{FOLDER}/{name}"));
    let nimbert = |arguments: &[&str]| run(&mut command(release_program("nimbert-train"), arguments));
    // With validation rows, so that there is a temperature, which everybody must get.
    let fit = ["fit", "--overwrite", "--base", "models/minilm", "--data", &data, "--test-size", "0"];
    let fit = [&fit[..], &["--method", "finetune"]].concat();
    nimbert(&[&fit[..], &["--epochs", "3", "--no-checkpoint", "--out", &trained, "--save-model", &model]].concat())?;
    let all = "cpu-int8,cpu-fp32,gpu-fp16,tensorrt-fp16,tensorrt-int8";
    nimbert(&["export", &model, "--data", &data, "--out", &bundle, "--variants", all])?;
    nimbert(&["export", &model, "--data", &data, "--out", &triton, "--layout", "triton"])?;
    let all_fp32_first = "cpu-fp32,cpu-int8,gpu-fp16,tensorrt-fp16,tensorrt-int8";
    let tiny_bert = ["export", "tests/data/tiny-bert", "--data", &data, "--max-length", "32", "--out", &tiny];
    // Its weights are random: nothing is lost where nothing was learned.
    nimbert(&[&tiny_bert[..], &["--max-accuracy-drop", "100", "--variants", all_fp32_first]].concat())?;
    // Whoever does not ask for a signature must not mind one.
    let [key, public] = ["key", "pub"].map(|end| format!("{FOLDER}/signing.{end}"));
    for file in [&key, &public] {
        let _ = fs::remove_file(workspace(file));
    }
    nimbert(&["keygen", "--no-password", "--key", &key, "--public-key", &public])?;
    for bundle in [&bundle, &trained] {
        nimbert(&["sign", bundle, "--key", &key])?;
        run(&mut command(release_program("nimbert"), &["verify", bundle, "--public-key", &public]))?;
    }
    python::need(&python, &[PY_MINISIGN])?;
    let program = release_program("nimbert");
    let signature = ["tests/interop/signature.py", &bundle, &public, &program.to_string_lossy()];
    run(&mut command(&python, &signature))?;
    for variant in ["cpu-int8", "cpu-fp32"] {
        let output = format!("{answers}.{variant}");
        let classify = ["classify", &bundle, "--input", &texts, "--json", "--variant", variant, "--output", &output];
        // As others compute it, who have not the operators of ours.
        run(command(release_program("nimbert"), &classify).arg("--standard-operators"))?;
    }
    let calibrated = format!("{answers}.calibrated");
    let classify = ["classify", &trained, "--input", &texts, "--json", "--output", &calibrated];
    run(command(release_program("nimbert"), &classify).arg("--standard-operators"))?;
    let script = ["tests/interop/interop.py", &bundle, &answers, &texts, &tiny, &triton, &trained];
    run(command(&python, &script).env("HF_HUB_OFFLINE", "1"))?;
    let int8_answers = format!("{answers}.cpu-int8");
    for (name, answers) in [("bundle", &int8_answers), ("trained", &calibrated)] {
        run(&mut command("node", &["tests/interop/interop.mjs", FOLDER, name, answers, &texts]))?;
    }
    ids(&python, &data)?;
    server(&bundle, &texts)
}

/// A folder of an earlier run.
fn remove(folder: &str) -> Result<()> {
    let folder = workspace(folder);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

/// All figures of random predictions, beside scikit-learn's.
fn figures(python: &Path) -> Result<()> {
    python::need(python, &[SCIKIT_LEARN])?;
    let packages = ["nimbert", "nimbert-trainer", "nimbert-benches"];
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    run(cargo(&["build", "--release", "--example", "figures"]).args(packages))?;
    let program = release_program("examples/figures");
    run(&mut command(python, &["tests/interop/figures.py", &program.to_string_lossy()]))
}

/// Token ids by transformers 4 and 5 of what we write for tokenizers of every form.
fn ids(python: &Path, data: &str) -> Result<()> {
    let folder = format!("{FOLDER}/ids");
    remove(&folder)?;
    // Made of sentences: the data as lines of text.
    let sentences = format!("{FOLDER}/sentences.txt");
    let rows = bench::movie_rows(0)?;
    fs::write(workspace(&sentences), rows.iter().map(|row| format!("{}\n", row[0])).collect::<String>())?;
    run(&mut command(python, &["tests/interop/ids.py", "make", &folder, &sentences]))?;
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(workspace(&folder))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let [model, bundle, saved, fitted] =
            ["", ".bundle", ".model", ".fitted"].map(|end| format!("{folder}/{name}{end}"));
        let nimbert = |arguments: &[&str]| {
            // What is written matters here, not what is told.
            output(&mut command(release_program("nimbert-train"), arguments)).map(drop)
        };
        // The weights are random: nothing is lost where nothing was learned.
        nimbert(&["export", &model, "--out", &bundle, "--max-accuracy-drop", "100", "--precision", "fp32"])?;
        // transformers has no class for the other methods' heads.
        let method = ["--method", "finetune", "--epochs", "1", "--no-checkpoint"];
        let fit = [&["fit", "--base", &model, "--data", data, "--precision", "fp32"][..], &method].concat();
        let further = ["--max-accuracy-drop", "100", "--out", &fitted, "--save-model", &saved];
        nimbert(&[&fit[..], &further].concat())?;
    }
    for python in [python, &newer_python()?] {
        run(command(python, &["tests/interop/ids.py", "compare", &folder]).env("HF_HUB_OFFLINE", "1"))?;
    }
    Ok(())
}

/// A Python environment with transformers 5 and its client of servers.
fn newer_python() -> Result<PathBuf> {
    let venv = ".setup/venv-transformers-5";
    let python = python::program(venv, "python");
    if !python.exists() {
        python::make(venv)?;
    }
    python::need(&python, &[TRANSFORMERS_5])?;
    Ok(python)
}

/// The server's answers to Hugging Face's client, and its metrics as Prometheus' own checker reads them.
fn server(bundle: &str, texts: &str) -> Result<()> {
    // It has the operators of ours, as every program of ours.
    let answers = &format!("{FOLDER}/answers.served");
    let classify = ["classify", bundle, "--input", texts, "--json", "--output", answers];
    run(&mut command(release_program("nimbert"), &classify))?;
    let python = &newer_python()?;
    let promtool = promtool()?;
    let server = Server::start(&serving_program()?, bundle, &[])?;
    let url = format!("http://127.0.0.1:{}", server.port);
    run(command(python, &["tests/interop/server.py", &url, answers, texts]).env_remove("HF_HUB_OFFLINE"))?;
    let read = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())";
    let metrics = output(&mut command(python, &["-c", read, &format!("{url}/metrics")]))?;
    let mut check = command(&promtool, &["check", "metrics"]).stdin(Stdio::piped()).spawn()?;
    check.stdin.take().context("standard input")?.write_all(metrics.as_bytes())?;
    let status = check.wait()?;
    if !status.success() {
        bail!("promtool check metrics: {status}");
    }
    println!("promtool check metrics: {} lines", metrics.lines().count());
    println!("server ended: {}", server.end()?);
    Ok(())
}

/// Prometheus' checker: the system's, or that of Debian's package.
fn promtool() -> Result<PathBuf> {
    if Command::new("promtool").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Ok("promtool".into());
    }
    let folder = workspace(&format!("{FOLDER}/prometheus"));
    let program = folder.join("usr/bin/promtool");
    if !program.exists() {
        fs::create_dir_all(&folder)?;
        run(Command::new("apt-get").args(["download", "prometheus"]).current_dir(&folder))
            .context("expected promtool, of Prometheus, or apt-get to fetch it")?;
        let package =
            fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some());
        run(Command::new("dpkg").arg("-x").arg(package.context("no package")?).arg(&folder))?;
    }
    Ok(program)
}

fn install(python: &Path) -> Result<()> {
    python::need(python, &[TRITON_CLIENT])?;
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
