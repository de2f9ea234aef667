//! A run that was killed goes on as if it had not been.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nimbert_tests::{Dir, finish, fit_by_any, small_csv, workspace};
use nimbert_trainer::ops::has_bf16_products;

/// A training of 480 steps that leaves a checkpoint after every third, with everything that has a state: dropout,
/// shuffling, warm-up, a best epoch by validation rows.
fn training(dir: &Dir, name: &str) -> Command {
    let data = dir.path("data.csv");
    let mut command = fit_by_any(&workspace("tests/data/tiny-bert"), &data, &dir.path(name));
    command.args(["--epochs", "12", "--batch-size", "8", "--learning-rate", "1e-3", "--checkpoint-every", "3"]);
    command.arg("--save-model").arg(dir.path(&format!("{name}-model")));
    command
}

fn weights(dir: &Dir, name: &str) -> Vec<u8> {
    fs::read(dir.path(&format!("{name}-model")).join("model.safetensors")).unwrap()
}

/// When the file was written, if it is there.
fn written(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Starts the training, waits for `checkpoints` further checkpoints and a moment more, and kills it. Whether it was
/// still running then.
fn kill_after(command: &mut Command, checkpoint: &Path, checkpoints: usize, moment: Duration) -> bool {
    let mut child = command.arg("--resume").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let (mut last, mut seen) = (written(checkpoint), 0);
    while seen < checkpoints && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
        let now = written(checkpoint);
        if now.is_some() && now != last {
            (last, seen) = (now, seen + 1);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(moment);
    let is_running = child.try_wait().unwrap().is_none();
    // SIGKILL on Unix: the process has no say in it.
    child.kill().unwrap();
    child.wait().unwrap();
    is_running
}

#[test]
fn killed_at_random_steps_it_ends_with_the_same_weights() {
    ends_with_the_same_weights(&["--method", "finetune"]);
}

#[test]
fn contrastive_too() {
    ends_with_the_same_weights(&["--method", "contrastive"]);
}

/// With products of bfloat16, where the processor has them; elsewhere they are refused.
#[test]
fn bfloat16_too() {
    let bf16 = ["--method", "finetune", "--compute-dtype", "bf16"];
    if has_bf16_products() {
        return ends_with_the_same_weights(&bf16);
    }
    let dir = Dir::default();
    dir.write("data.csv", small_csv(60));
    finish(training(&dir, "whole").args(bf16)).failure(2, &["--compute-dtype", "avx512_bf16"]);
}

/// What is compared leaves no checkpoint, and is compared again.
#[test]
fn a_run_whose_method_was_found_goes_on_by_it() {
    let dir = Dir::default();
    dir.write("data.csv", small_csv(60));
    let output = finish(&mut training(&dir, "whole")).success();
    assert!(output.contains("sigmas"), "{output}");
    assert!(kill_after(&mut training(&dir, "killed"), &dir.path("killed.checkpoint"), 1, Duration::ZERO));
    finish(training(&dir, "killed").arg("--resume")).success();
    assert!(weights(&dir, "whole") == weights(&dir, "killed"));
}

fn ends_with_the_same_weights(settings: &[&str]) {
    let dir = Dir::default();
    dir.write("data.csv", small_csv(444));
    let training = |dir: &Dir, name: &str| {
        let mut command = training(dir, name);
        command.args(settings);
        command
    };
    finish(&mut training(&dir, "whole")).success();

    let checkpoint = dir.path("killed.checkpoint");
    // Anything that differs from run to run will do, but a failure should be repeatable.
    let seed = std::process::id() as u64;
    println!("seed {seed}");
    let mut state = seed;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut kills = 0;
    for _ in 0..12 {
        let (checkpoints, moment) = (1 + random(3) as usize, Duration::from_micros(random(15_000)));
        kills += usize::from(kill_after(&mut training(&dir, "killed"), &checkpoint, checkpoints, moment));
    }
    assert!(kills >= 10, "the training ended after {kills} kills");
    assert!(!dir.path("killed").exists(), "a bundle of a run that has not ended");
    let output = finish(training(&dir, "killed").arg("--resume")).success();
    assert!(output.contains("          1 ") && output.contains("         12 "), "{output}");
    assert!(weights(&dir, "whole") == weights(&dir, "killed"), "other weights after {kills} kills");
    // The records of all steps are there, each once.
    let records = |name: &str| {
        let metrics = fs::read_to_string(dir.path(&format!("{name}.metrics.jsonl"))).unwrap();
        metrics.lines().filter(|line| line.contains("grad_norm")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(records("whole"), records("killed"));
    let left: Vec<String> = dir.names().into_iter().filter(|name| name.ends_with("checkpoint")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn another_run_is_not_resumed() {
    let dir = Dir::default();
    dir.write("data.csv", small_csv(444));
    let checkpoint = dir.path("bundle.checkpoint");
    assert!(kill_after(&mut training(&dir, "bundle"), &checkpoint, 1, Duration::ZERO));
    let before = fs::read(&checkpoint).unwrap();
    let failure = |arguments: &[&str], parts: &[&str]| {
        finish(training(&dir, "bundle").args(arguments)).failure(2, parts);
    };
    failure(&["--resume", "--seed", "7"], &["--resume: expected --seed 0, as in ", "bundle.checkpoint", "found 7"]);
    failure(&[], &["bundle.checkpoint", "--resume to go on from it"]);
    dir.write("data.csv", small_csv(446));
    failure(&["--resume"], &["the content of", "data.csv"]);
    dir.write("data.csv", small_csv(444));
    fs::write(&checkpoint, &before[..before.len() / 2]).unwrap();
    failure(&["--resume"], &["bundle.checkpoint", "expected a checkpoint of nimbert-train"]);
    fs::write(&checkpoint, before).unwrap();
    finish(training(&dir, "bundle").arg("--resume")).success();
}

#[test]
fn other_rows_are_not_gone_on_with() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(200));
    let training = || {
        let mut command = fit_by_any(&workspace("tests/data/tiny-bert"), &data, &dir.path("bundle"));
        command.args(["--method", "finetune", "--cross-validate", "2", "--epochs", "4", "--checkpoint-every", "3"]);
        command
    };
    assert!(kill_after(&mut training(), &dir.path("bundle.checkpoint"), 1, Duration::ZERO));
    // A smaller model needs rows to be validated by, which folds do not leave.
    finish(training().args(["--resume", "--layers", "1"]))
        .failure(2, &["--resume: expected what is learned from ", "bundle.checkpoint"]);
    finish(training().arg("--resume")).success();
}

#[test]
fn a_smaller_model_that_was_killed_while_it_learned_goes_on_too() {
    let dir = Dir::default();
    dir.write("data.csv", small_csv(444));
    let smaller = |name: &str| {
        let mut command = training(&dir, name);
        command.args(["--layers", "1"]);
        command
    };
    finish(&mut smaller("whole")).success();
    let student = |entry: &String| entry.starts_with("killed.1-layers-") && entry.ends_with("-tokens.checkpoint");
    let mut child = smaller("killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !dir.names().iter().any(student) {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint of the smaller model in a minute");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path("killed").exists(), "a bundle of a run that has not ended");
    finish(smaller("killed").arg("--resume")).success();
    assert!(weights(&dir, "whole") == weights(&dir, "killed"), "other weights");
    let left: Vec<String> = dir.names().into_iter().filter(|name| name.ends_with("checkpoint")).collect();
    assert!(left.is_empty(), "{left:?}");
}
