//! `cargo xtask fuzz`: the targets in `fuzz/` under libFuzzer, on the stable toolchain: rustc passes LLVM the options that
//! count what was reached.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{cargo, command, run, workspace};

/// Each target, and files of the repository that it begins with besides its corpus.
const TARGETS: [(&str, &[&str]); 6] = [
    (
        "manifest",
        &["tests/data/bundle-2/nimbert.json", "tests/data/bundle-1/nimbert.json", "tests/data/bundle-2/config.json"],
    ),
    ("graph", &["tests/data/bundle-2/model.onnx"]),
    ("tokenizer", &["tests/data/bundle-2/tokenizer.json", "tests/data/tiny-roberta/tokenizer.json"]),
    ("archive", &[]),
    ("rows", &[]),
    ("predict", &[]),
];
/// What LLVM is told: an 8-bit counter for each edge, and what is compared with what.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
/// At once: CI has two cores.
const AT_ONCE: usize = 2;

/// Runs every target for so many seconds.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if command(&compiler, &["--version"]).output().is_err() {
        println!("fuzz: skipped: no C++ compiler, of which libFuzzer is made");
        return Ok(());
    }
    let target = workspace("target/fuzz");
    let host = host()?;
    // With a target named, build scripts and macros are compiled as usual.
    run(cargo(&["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host])
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &target))?;
    let programs = target.join(host).join("release");
    let mut failed = Vec::new();
    for batch in TARGETS.chunks(AT_ONCE) {
        let running = batch.iter().map(|(name, seeds)| Ok((*name, start(&programs, name, seeds, seconds)?)));
        for (name, (mut child, log)) in running.collect::<Result<Vec<_>>>()? {
            let is_done = child.wait()?.success();
            let log = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
            let figure = |key: &str| {
                log.lines()
                    .rev()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
                    .unwrap_or("?")
                    .trim()
                    .to_owned()
            };
            let (runs, peak) = (figure("stat::number_of_executed_units"), figure("stat::peak_rss_mb"));
            println!(
                "fuzz {name}: {runs} inputs in {seconds} s, at most {peak} MB{}",
                if is_done { "" } else { ", FAILED" }
            );
            if !is_done {
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                failed.push(name);
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("fuzz: {} failed; the inputs lie in .setup/fuzz", failed.join(", ")),
    }
}

/// Starts a target; what it finds goes to .setup/fuzz/NAME, what it says into the file that is returned.
fn start(programs: &Path, name: &str, seeds: &[&str], seconds: u32) -> Result<(Child, PathBuf)> {
    let folder = workspace(".setup/fuzz").join(name);
    let (found, given) = (folder.join("found"), folder.join("seeds"));
    for folder in [&found, &given] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    for (index, seed) in seeds.iter().enumerate() {
        fs::copy(workspace(seed), given.join(index.to_string())).with_context(|| seed.to_string())?;
    }
    let log = folder.join("log");
    let output = fs::File::create(&log).with_context(|| log.display().to_string())?;
    let corpus = workspace("fuzz/corpus").join(name);
    let mut program = command(programs.join(name), &[]);
    program.args([&found, &corpus, &given]);
    program.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", folder.display()));
    // Of the largest seed, and what a text of a megabyte needs.
    program.args(["-max_len=131072", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", "-len_control=20"]);
    let child = program.stdout(Stdio::null()).stderr(output).spawn().with_context(|| name.to_owned())?;
    Ok((child, log))
}

/// The machine that rustc compiles for.
fn host() -> Result<String> {
    let output = command("rustc", &["-vV"]).output().context("rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc says no host")
}
