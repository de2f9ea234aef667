//! Programs that are killed at any moment: afterwards the old is there whole, or the new.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use fastrand::Rng;
use nimbert::{Bundle, PublicKey};
use nimbert_tests::{Dir, finish, fit, program, small_csv, tiny_bundle, workspace};

/// Kills of each command: `NIMBERT_KILLS=50 cargo xtask test` is the full run.
fn kills() -> usize {
    std::env::var("NIMBERT_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10)
}

/// Runs a command to its end once to know how long it takes, then kills it at moments of that time, and checks after each.
fn kill_often(mut command: impl FnMut() -> Command, mut check: impl FnMut()) {
    let started = Instant::now();
    finish(&mut command()).success();
    let duration = started.elapsed();
    check();
    let (mut rng, mut killed) = (Rng::with_seed(50), 0);
    for _ in 0..kills() {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(rng.f64()));
        // One that has ended by itself cannot be killed.
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        check();
    }
    // The first run was the slowest, but not by so much.
    assert!(killed > 0 || kills() < 10, "all ended before they were killed");
    // What the killed ones have left stops nobody.
    finish(&mut command()).success();
    check();
}

fn is_whole(bundle: &Path) {
    let bundle = Bundle::open(bundle).unwrap();
    bundle.verify().unwrap();
    bundle.tokenizer().unwrap();
}

/// What lies hidden beside a bundle.
fn hidden(dir: &Dir) -> Vec<String> {
    dir.names().into_iter().filter(|name| name.starts_with('.')).collect()
}

#[test]
fn a_bundle_that_is_replaced_is_the_old_one_or_the_new_one() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let bundle = tiny_bundle(&dir);
    let command = || {
        let mut fit = fit(&workspace("tests/data/tiny-bert"), &data, &bundle);
        fit.args(["--epochs", "1", "--overwrite"]);
        fit
    };
    kill_often(command, || is_whole(&bundle));
    // What the killed ones have left was cleared: bundle, checkpoint, report, metrics.
    assert_eq!(dir.names(), ["bundle", "bundle.metrics.jsonl", "bundle.report.html", "data.csv"]);
}

#[test]
fn a_bundle_that_is_exported_is_absent_or_whole() {
    let dir = Dir::default();
    let bundle = dir.path("bundle");
    let command = || {
        let mut export = program("nimbert-train");
        export.arg("export").arg(workspace("tests/data/tiny-bert")).arg("--out").arg(&bundle);
        export
    };
    kill_often(command, || {
        if bundle.exists() {
            is_whole(&bundle);
            fs::remove_dir_all(&bundle).unwrap();
        }
    });
    assert_eq!(hidden(&dir), [""; 0]);
}

#[test]
fn an_output_is_absent_or_whole_and_so_is_the_cache() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let rows = 3000;
    let (input, output) = (dir.write("input.csv", small_csv(rows)), dir.path("output.csv"));
    let command = || {
        let mut classify = program("nimbert");
        classify.arg("classify").arg(&bundle).arg("--input").arg(&input).arg("--output").arg(&output);
        classify.env("NIMBERT_CACHE", dir.path("cache"));
        classify
    };
    finish(&mut command()).success();
    let expected = fs::read_to_string(&output).unwrap();
    assert_eq!(expected.lines().count(), rows + 1);
    let is_entry = |path: PathBuf| path.join("graph.onnx").exists() && path.join("digests.json").exists();
    let mut turn = 0;
    kill_often(command, || {
        if output.exists() {
            assert_eq!(fs::read_to_string(&output).unwrap(), expected);
            fs::remove_file(&output).unwrap();
        }
        turn += 1;
        if turn % 2 == 0 {
            // What a killed one has left of an entry is used by nobody, and in nobody's way.
            let finished = finish(&mut command());
            assert!(
                finished.stderr.lines().all(|line| line.contains("what an interrupted run has left is replaced")),
                "{finished:?}"
            );
            assert_eq!(finished.status, Some(0));
            assert_eq!(fs::read_to_string(&output).unwrap(), expected);
            fs::remove_file(&output).unwrap();
            let mut entries = fs::read_dir(dir.path("cache")).unwrap().map(|entry| entry.unwrap().path());
            assert!(entries.any(is_entry));
            fs::remove_dir_all(dir.path("cache")).unwrap();
        }
    });
}

#[test]
fn a_signature_is_the_old_one_or_the_new_one() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let keys: Vec<PathBuf> = ["one", "other"].map(|name| dir.path(name)).to_vec();
    let public = |key: &Path| key.with_extension("pub");
    for key in &keys {
        let mut keygen = program("nimbert-train");
        keygen.args(["keygen", "--no-password", "--key"]).arg(key).arg("--public-key").arg(public(key));
        finish(&mut keygen).success();
    }
    let known: Vec<PublicKey> = keys.iter().map(|key| PublicKey::open(public(key)).unwrap()).collect();
    let mut turn = 0;
    let command = || {
        turn += 1;
        let mut sign = program("nimbert-train");
        sign.arg("sign").arg(&bundle).arg("--key").arg(&keys[turn % 2]);
        sign
    };
    // Every command before has signed once to its end.
    kill_often(command, || drop(Bundle::open_signed(&bundle, &known).unwrap()));
    // The last run has taken the place of what a killed one has left.
    let hidden = fs::read_dir(&bundle)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}
