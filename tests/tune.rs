//! `nimbert-train tune`: settings that are tried on folds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nimbert_tests::{Dir, base, finish, program, small_csv};

/// Of a tiny BERT, with six settings.
fn tune(dir: &Dir, data: &Path) -> Command {
    let mut command = program("nimbert-train");
    command.args([
        "tune",
        "--max-accuracy-drop",
        "100",
        "--trials",
        "6",
        "--max-length",
        "32",
        "--cross-validate",
        "3",
    ]);
    command.arg("--base").arg(base("bert")).arg("--data").arg(data).arg("--out").arg(dir.path("tuned"));
    command
}

fn trials(dir: &Dir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path("tuned.tune")).map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut trials: Vec<PathBuf> = entries.map(Iterator::collect).unwrap_or_default();
    trials.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    trials.sort();
    trials
}

/// The command that it prints, without its quotes.
fn command(output: &str) -> Vec<String> {
    let line = output.lines().find_map(|line| line.strip_prefix("command     nimbert-train ")).expect(output);
    line.split(' ').map(|argument| argument.trim_matches('\'').to_owned()).collect()
}

fn cross_validated(output: &str) -> &str {
    output.lines().find(|line| line.trim_start().starts_with("accuracy  ")).expect(output).trim()
}

#[test]
fn a_killed_run_goes_on_and_its_command_gives_the_same_bundle() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(60));
    let mut killed = tune(&dir, &data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while trials(&dir).len() < 2 && killed.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = trials(&dir);
    assert!(!before.is_empty() && !dir.path("tuned").exists());
    let modified = |paths: &[PathBuf]| -> Vec<_> {
        paths.iter().map(|path| fs::metadata(path).unwrap().modified().unwrap()).collect()
    };
    let times = modified(&before);
    // Its trials are taken as they are: another time limit would leave them alone too.
    let stopped = finish(tune(&dir, &data).args(["--shard", "1/1"])).success();
    assert!(stopped.contains(&format!("{} trials are there already", before.len())), "{stopped}");
    assert_eq!(modified(&before), times);
    let output = finish(&mut tune(&dir, &data)).success();
    // Everything was tried: 6 settings on one fold, of which two and perhaps the default go on.
    assert!(!output.contains("of 6, fold"), "{output}");
    let page = fs::read_to_string(dir.path("tuned.tuning.html")).unwrap();
    assert!(page.matches(r#"<circle class="trial""#).count() >= 5 && page.contains(r#"class="trial taken""#), "{page}");
    assert!(!dir.path("tuned.tune").exists());
    assert!(output.contains(" settings") && output.contains("log loss"), "{output}");

    let again = command(&output).into_iter().map(|argument| match argument.strip_suffix("/tuned") {
        Some(folder) => format!("{folder}/again"),
        None => argument,
    });
    let again = finish(program("nimbert-train").args(again)).success();
    assert_eq!(cross_validated(&output), cross_validated(&again));
    let graph = |name: &str| fs::read(dir.path(name).join("model.onnx")).unwrap();
    assert_eq!(graph("tuned"), graph("again"));
}

#[test]
fn what_was_chosen_when_the_time_was_up_stays_so_in_its_fit() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(60));
    let with = |further: &[&str]| {
        let mut command = tune(&dir, &data);
        command.args(["--method", "finetune", "--epochs", "30", "--checkpoint-every", "1"]).args(further);
        command
    };
    // Some trials, then no time for any more.
    finish(&mut with(&["--shard", "1/3"])).success();
    let tune = || with(&["--budget", "0s"]);
    let mut killed = tune().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.path("tuned.checkpoint").exists() && killed.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(dir.path("tuned.tune").exists() && !dir.path("tuned").exists(), "it had come to its end");
    // It is not the choice of others.
    for other in [["--seed", "7"], ["--budget", "1h"]] {
        finish(&mut with(&other)).failure(2, &["chosen.json: expected the settings, rows and budget", "--overwrite"]);
    }
    // A shard of others does not take it for its own either; one of the same, whatever its time, is told that all is tried.
    let refused = ["chosen.json: expected the settings, rows and budget", "without --shard, --overwrite begins anew"];
    finish(&mut with(&["--seed", "7", "--shard", "1/3", "--overwrite"])).failure(2, &refused);
    let output = finish(&mut with(&["--shard", "1/3"])).success();
    assert!(output.contains("the fit at the end has begun"), "{output}");
    let output = finish(&mut tune()).success();
    // Nothing more is tried, of which something else could follow than what the checkpoint is of.
    assert!(!output.contains("of 6, fold") && output.contains("the time is up"), "{output}");
    assert!(dir.path("tuned").exists() && !dir.path("tuned.checkpoint").exists());
}

#[test]
fn a_shard_whose_time_is_up_takes_no_choice_from_the_others() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(48));
    let output = finish(tune(&dir, &data).args(["--shard", "1/2", "--budget", "0s"])).success();
    assert!(output.contains("the time is up: the same command without --shard"), "{output}");
    assert!(dir.path("tuned.tune").is_dir() && !dir.path("tuned").exists());
}

#[test]
fn what_is_no_trial_is_left_alone_and_what_would_end_the_fit_is_told_before() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(48));
    fs::create_dir(dir.path("tuned.tune")).unwrap();
    for name in ["thesis.txt", ".notes"] {
        let path = dir.write(&format!("tuned.tune/{name}"), "mine");
        let refused = finish(&mut tune(&dir, &data));
        refused.failure(2, &[&format!("tuned.tune: expected trials of a tuning, and nothing else, found {name}")]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(path).unwrap();
    }
    for (settings, message) in
        [(["--layers", "99"], "--layers: expected at most the model's 2"), (["--target-size", "1kB"], "--target-size")]
    {
        let refused = finish(tune(&dir, &data).args(settings));
        refused.failure(2, &[message]);
        assert!(!refused.stdout.contains("of 6, fold") && trials(&dir).is_empty(), "{refused:?}");
    }
    let page = dir.write("tuned.tuning.html", "of somebody");
    finish(&mut tune(&dir, &data)).failure(2, &["tuned.tuning.html"]);
    fs::remove_file(page).unwrap();
    // What a killed run has left of a trial ends nothing, and goes with the others.
    let left = dir.path("tuned.tune").join(format!(".{}.json.partial-1-0", "0".repeat(32)));
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("content"), "").unwrap();
    finish(tune(&dir, &data).args(["--method", "frozen"])).success();
    assert!(!dir.path("tuned.tune").exists());
}

#[test]
fn shards_share_the_work() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(48));
    let shard = |part: &str| {
        finish(tune(&dir, &data).args(["--shard", part, "--method", "finetune", "--epochs", "1"])).success()
    };
    let first = shard("1/2");
    assert!(first.contains("waiting     3 trials of other shards"), "{first}");
    assert_eq!(trials(&dir).len(), 3);
    let second = shard("2/2");
    assert!(second.contains("3 trials are there already"), "{second}");
    // In turn, until each rung is complete; none of them fits.
    let mut done = false;
    for _ in 0..4 {
        done |= ["1/2", "2/2"].map(shard).iter().any(|output| output.contains("without --shard goes on"));
    }
    assert!(done && !dir.path("tuned").exists());
    let output = finish(tune(&dir, &data).args(["--method", "finetune", "--epochs", "1"])).success();
    assert!(!output.contains("of 6, fold") && dir.path("tuned").exists(), "{output}");
    let command = command(&output);
    let count = |name: &str| command.iter().filter(|argument| *argument == name).count();
    assert_eq!(["--method", "--epochs", "--base", "--cross-validate", "--trials"].map(count), [1, 1, 1, 1, 0]);
}

#[test]
fn time_that_is_up_ends_in_a_fit_and_broken_trials_are_named() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(48));
    finish(tune(&dir, &data).args(["--budget", "0s"])).failure(2, &["time for a trial at least"]);
    finish(tune(&dir, &data).args(["--shard", "1/1", "--method", "frozen"])).success();
    let trials = trials(&dir);
    // Of the frozen encoder there are only two poolings.
    assert!(trials.len() <= 6, "{trials:?}");
    fs::write(&trials[0], "{\"logits\": []").unwrap();
    finish(tune(&dir, &data).args(["--method", "frozen"])).failure(2, &["remove the file to try again"]);
    fs::remove_file(&trials[0]).unwrap();
    let output = finish(tune(&dir, &data).args(["--method", "frozen", "--budget", "0s"])).success();
    assert!(output.contains("the time is up"), "{output}");
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(48));
    for (arguments, expected) in [
        (&["--budget", "20"][..], "90s, 20m or 2h"),
        (&["--shard", "3/2"], "1/4, the first of four"),
        (&["--patience", "2"], "folds have no rows to judge epochs by"),
        (&["--trials", "1"], "--trials"),
    ] {
        finish(tune(&dir, &data).args(arguments)).failure(2, &[expected]);
    }
    // What gives its rows once.
    finish(tune(&dir, Path::new("-")).args(["--format", "csv"])).failure(2, &["--data: expected a file: the fit at"]);
    // What folds left is replaced no more than by a fit that is asked for them.
    let doubts = dir.write("tuned.doubts.csv", "text,label\n");
    let mut command = program("nimbert-train");
    command.arg("tune").arg("--base").arg(base("bert")).arg("--data").arg(&data).arg("--out").arg(dir.path("tuned"));
    finish(&mut command).failure(2, &["tuned.doubts.csv", "a file; --overwrite replaces it"]);
    assert_eq!(fs::read_to_string(doubts).unwrap(), "text,label\n");
    assert!(!dir.path("tuned.tune").exists());
}
