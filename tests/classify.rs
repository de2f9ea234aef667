//! `nimbert classify`, `info` and `verify`, and the library behind them.

use std::{fs, io::Write, path::PathBuf, process::Stdio, sync::OnceLock};

use nimbert::{Classifier, Error, Options};
use nimbert_tests::{Dir, Finished, copy_folder, finish, program, seal, tiny_bundle, workspace};

/// A bundle of the tiny BERT, made once a process.
fn bundle() -> PathBuf {
    static BUNDLE: OnceLock<Dir> = OnceLock::new();
    let dir = BUNDLE.get_or_init(|| {
        let dir = Dir::default();
        tiny_bundle(&dir);
        dir
    });
    dir.path("bundle")
}

fn classify(arguments: &[&str]) -> Finished {
    finish(program("nimbert").arg("classify").arg(bundle()).args(arguments))
}

/// A copy of the bundle in which something can be broken.
fn copied_bundle(dir: &Dir) -> PathBuf {
    copy_folder(&bundle(), dir.path("copy"))
}

const TEXTS: [&str; 4] = ["a great film", "", "one of the year's best films , and great acting", "terrible"];

#[test]
fn answers_come_in_input_order_and_do_not_depend_on_the_batch() {
    let classifier = Classifier::open(bundle(), &Options::default()).unwrap();
    let together = classifier.classify_batch(TEXTS).unwrap();
    assert_eq!(together.len(), TEXTS.len());
    for (text, prediction) in TEXTS.iter().zip(&together) {
        let alone = classifier.classify(text).unwrap();
        assert_eq!(alone.label, prediction.label);
        for (alone, together) in alone.scores.iter().zip(&prediction.scores) {
            assert!((alone.1 - together.1).abs() < 1e-5, "{text}: {alone:?} alone, {together:?} in a batch");
        }
    }
    assert!(classifier.classify_batch(Vec::<&str>::new()).unwrap().is_empty());
}

#[test]
fn every_kind_of_input_gives_the_same_answers() {
    let dir = Dir::default();
    let expected = classify(&["--json", "a great film", "terrible"]).success();
    let quoted = "\u{feff}id,text\r\n1,\"a great film\"\r\n2,terrible\r\n";
    for (name, content) in [
        ("x.csv", quoted),
        ("x.tsv", "text\tid\na great film\t1\nterrible\t2\n"),
        ("x.jsonl", "{\"text\": \"a great film\"}\n\n{\"text\": \"terrible\"}\n"),
        ("x.txt", "a great film\nterrible\n"),
    ] {
        let input = dir.write(name, content);
        assert_eq!(
            classify(&["--json", "--keep", "none", "--input", input.to_str().unwrap()]).success(),
            expected,
            "{name}"
        );
    }
    let mut command = program("nimbert");
    command.arg("classify").arg(bundle()).args(["--json", "--input", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a great film\nterrible\n").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), expected);
}

#[test]
fn an_output_file_appears_when_it_is_complete() {
    let dir = Dir::default();
    let (input, output) = (dir.write("x.jsonl", "{\"text\": \"fine\"}\nbroken\n"), dir.path("labels.jsonl"));
    let run = || classify(&["--json", "--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    run().failure(2, &["x.jsonl:2", "--resume goes on"]);
    assert_eq!(dir.names(), ["labels.jsonl.partial", "labels.jsonl.partial.json", "x.jsonl"]);
    fs::write(&input, "{\"text\": \"fine\"}\n").unwrap();
    // What was there is replaced, but not without a word.
    let finished = run();
    assert_eq!((finished.status, finished.stdout.as_str()), (Some(0), ""));
    assert!(finished.stderr.contains("labels.jsonl.partial: what an interrupted run has left is replaced"));
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 1);
    assert_eq!(dir.names(), ["labels.jsonl", "x.jsonl"]);
    assert_eq!(run().success(), "");
}

#[test]
fn what_is_of_a_file_is_refused_beside_a_text() {
    let dir = Dir::default();
    let summary = dir.path("summary.json");
    for further in [
        &["--summary", summary.to_str().unwrap()][..],
        &["--resume"],
        &["--keep", "id"],
        &["--text-column", "body"],
        &["--text-pair-column", "b"],
        &["--on-error", "skip"],
        &["--format", "csv"],
        &["--delimiter", ";"],
        &["--encoding", "utf-16"],
        &["--quoting", "none"],
    ] {
        classify(&[&["a great film"], further].concat()).failure(2, &[further[0]]);
    }
    assert!(dir.names().is_empty());
}

#[test]
fn an_output_is_neither_the_bundles_file_nor_of_another_format_than_it_says() {
    let dir = Dir::default();
    let (bundle, input) = (copied_bundle(&dir), dir.write("x.txt", "a great film\n"));
    let run = |option: &str, name: &str| {
        let mut command = program("nimbert");
        command.arg("classify").arg(&bundle).arg("--input").arg(&input).arg(option).arg(dir.path(name));
        finish(&mut command)
    };
    for name in ["copy/model.onnx", "copy/nimbert.json"] {
        run("--output", name).failure(2, &["expected a file that is not the bundle's"]);
        run("--summary", name).failure(2, &["expected a file that is not the bundle's"]);
    }
    for name in ["y.csv.gz", "y.tsv", "y.xlsx"] {
        run("--output", name).failure(2, &[name, "expected a name that ends in .csv or .jsonl"]);
    }
    run("--output", "nowhere/y.csv").failure(2, &["nowhere/y.csv: cannot write: No such file"]);
    run("--summary", "nowhere/y.json").failure(2, &["nowhere/y.json: cannot write: No such file"]);
    assert_eq!(dir.names(), ["copy", "x.txt"]);
    finish(program("nimbert").arg("verify").arg(&bundle)).success();
}

#[test]
fn the_most_likely_labels_do_not_hide_that_a_text_is_unsure() {
    let dir = Dir::default();
    let bundle = copied_bundle(&dir);
    let lines = |arguments: &[&str]| -> Vec<String> {
        let mut command = program("nimbert");
        command.arg("classify").arg(&bundle).args(arguments);
        finish(&mut command).stdout.split('\n').map(str::to_owned).collect()
    };
    let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let plain = cells(&lines(&["--top-k", "2", "a great film"])[0]);
    assert_eq!((plain.len(), plain[4].as_str()), (5, "a great film"));
    seal::change_manifest(&bundle, |manifest| manifest["abstain_threshold"] = 1.0.into());
    let unsure = cells(&lines(&["--top-k", "2", "a great film"])[0]);
    assert_eq!(unsure, [&["unsure".to_owned()], &plain[..]].concat());
    // What cannot be read is as wide.
    let input = dir.write("x.jsonl", "{\"text\": \"a great film\"}\n{}\n");
    let input = ["--input", input.to_str().unwrap(), "--on-error", "skip"];
    for (further, width) in [(&["--top-k", "2"][..], 6), (&["--top-k", "9"], 6), (&["--top-k", "1"], 4), (&[], 3)] {
        let widths: Vec<usize> = lines(&[&input[..], further].concat()).iter().map(|line| cells(line).len()).collect();
        assert_eq!(widths, [width, width, 1], "{further:?}");
    }
}

#[cfg(unix)]
#[test]
fn counts_are_written_behind_a_link_and_never_lost_without_a_word() {
    let dir = Dir::default();
    let (real, link) = (dir.write("real.json", "{}"), dir.path("link.json"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let input = dir.write("x.txt", "a great film\n".repeat(20_000));
    let arguments = ["--input", input.to_str().unwrap(), "--summary", link.to_str().unwrap()];
    let mut command = program("nimbert");
    command.arg("classify").arg(bundle()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As with `| head`: whoever reads the answers leaves.
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("real.json: cannot write: "));
    assert_eq!(fs::read_to_string(&real).unwrap(), "{}");
    assert!(classify(&arguments).status == Some(0) && link.is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("\"texts\": 20000"));
}

#[test]
fn what_cannot_be_printed_is_told_from_wrong_input() {
    if cfg!(target_os = "linux") {
        let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
        let bundle = bundle();
        for command in ["info", "verify"] {
            let finished = finish(program("nimbert").arg(command).arg(&bundle).stdout(full()));
            finished.failure(1, &["standard output: cannot write: No space left on device"]);
        }
    }
}

#[test]
fn verify_runs_every_graph_of_pairs_too_and_says_what_it_cannot_do() {
    let dir = Dir::default();
    let bundle = copied_bundle(&dir);
    let verify = |further: &[&str]| finish(program("nimbert").arg("verify").arg(&bundle).args(further));
    seal::change_manifest(&bundle, |manifest| manifest["pairs"] = true.into());
    assert!(verify(&[]).success().contains("every graph loads and runs"));
    for option in ["--variant", "--ort-lib"] {
        finish(program("nimbert").arg("info").arg(&bundle).args(["--json", option, "x"])).failure(2, &[option]);
    }
    verify(&["--device", "auto"]).failure(2, &["--device: expected cpu, cuda or tensorrt, found auto"]);
    verify(&["--device", "cuda"]).failure(2, &["expected a graph for cuda"]);
    verify(&["--verify", "never"]).failure(2, &["every file is compared"]);
    verify(&["--fast-math", "--device", "cuda"]).failure(2, &["--fast-math: expected --device cpu or auto"]);
    verify(&["--gpu-memory-limit", "1GB"]).failure(2, &["--gpu-memory-limit: expected --device cuda"]);
}

#[cfg(unix)]
#[test]
fn an_output_that_is_no_file_is_written_to_and_not_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let dir = Dir::default();
    assert_eq!(classify(&["terrible", "--output", "/dev/null"]).success(), "");
    if cfg!(target_os = "linux") {
        // A pipe here, to which a link leads that is no name.
        assert!(classify(&["terrible", "--output", "/dev/stdout"]).success().contains("terrible"));
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let (target, link) = (dir.write("target.txt", "old"), dir.path("link.txt"));
    symlink(&target, &link).unwrap();
    classify(&["terrible", "--output", link.to_str().unwrap()]).success();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("terrible"));
    assert_eq!(dir.names(), ["link.txt", "target.txt"]);
    classify(&["terrible", "--output", "/dev/full"]).failure(1, &["/dev/full: cannot write"]);
}

#[test]
fn bad_input_is_named() {
    let dir = Dir::default();
    let csv = dir.write("x.csv", "id,review\n1,fine\n");
    let run = |input: &str, arguments: &[&str]| classify(&[&["--input", input], arguments].concat());
    run(csv.to_str().unwrap(), &[]).failure(2, &["x.csv:1:", "\"text\"", "id, review"]);
    run(csv.to_str().unwrap(), &["--text-column", "review"]).success();
    run(dir.path("none.txt").to_str().unwrap(), &[]).failure(2, &["none.txt"]);
    let latin = dir.write("latin.txt", b"caf\xe9\n");
    run(latin.to_str().unwrap(), &[]).failure(2, &["latin.txt:1"]);
    let short = dir.write("short.csv", "id,text\n1,fine\n2\n");
    run(short.to_str().unwrap(), &[]).failure(2, &["short.csv:3: expected 2 fields"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_no_label_is_printed() {
    for device in ["cuda", "tensorrt"] {
        let finished = classify(&["--device", device, "a great film"]);
        finished.failure(2, &[&format!("device {device}")]);
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn a_missing_library_is_reported_with_all_that_was_tried() {
    let dir = Dir::default();
    // Away from target/ and .setup/, as an installed program is.
    let name = format!("nimbert{}", std::env::consts::EXE_SUFFIX);
    let copy = dir.path(&name);
    fs::copy(program("nimbert").get_program(), &copy).unwrap();
    let run = |arguments: &[&str], library: Option<&str>| {
        let mut command = std::process::Command::new(&copy);
        command.env_remove("ORT_DYLIB_PATH").envs(library.map(|library| ("ORT_DYLIB_PATH", library)));
        finish(command.arg("classify").arg(bundle()).arg("text").args(arguments))
    };
    run(&[], None).failure(2, &["tried:", "beside the executable", "in the system's folders", "--ort-lib"]);
    run(&[], Some("elsewhere.so")).failure(2, &["ORT_DYLIB_PATH", "elsewhere.so"]);
    let text = dir.write("not-a-library.so", "text");
    run(&["--ort-lib", text.to_str().unwrap()], None).failure(2, &["--ort-lib", "not-a-library.so"]);
}

#[test]
fn an_installed_program_finds_the_library_that_was_installed_with_it() {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX, EXE_SUFFIX};
    let library = format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}");
    for place in ["bin", "lib", "lib/nimbert"] {
        let dir = Dir::default();
        fs::create_dir_all(dir.path("bin")).unwrap();
        fs::create_dir_all(dir.path(place)).unwrap();
        let copy = dir.path("bin").join(format!("nimbert{EXE_SUFFIX}"));
        fs::copy(program("nimbert").get_program(), &copy).unwrap();
        fs::copy(workspace(".setup/lib").join(&library), dir.path(place).join(&library)).unwrap();
        let mut command = std::process::Command::new(&copy);
        command.env_remove("ORT_DYLIB_PATH").arg("classify").arg(bundle()).args(["--no-cache", "a great film"]);
        assert!(finish(&mut command).success().contains("a great film"), "{place}");
    }
}

#[test]
fn a_graph_that_is_none_is_bad_input() {
    let dir = Dir::default();
    let copy = copied_bundle(&dir);
    let model = copy.join("model.onnx");
    let length = fs::metadata(&model).unwrap().len() as usize;
    seal::replace(&copy, "model.onnx", &vec![0xff; length]);
    let finished = finish(program("nimbert").arg("classify").arg(&copy).args(["a great film", "--no-cache"]));
    finished.failure(2, &["model.onnx: expected a graph in ONNX's format"]);
}

#[test]
fn verify_finds_a_changed_byte_and_info_needs_no_library() {
    let dir = Dir::default();
    let copy = copied_bundle(&dir);
    let run = |command: &str| finish(program("nimbert").arg(command).arg(&copy));
    assert!(run("verify").success().contains("ok"));
    assert!(run("info").success().contains("negative, positive"));
    let model = copy.join("model.onnx");
    let mut bytes = fs::read(&model).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&model, &bytes).unwrap();
    run("verify").failure(2, &["model.onnx", "damaged", "sha256"]);
    fs::write(&model, &bytes[..middle]).unwrap();
    run("info").failure(2, &["model.onnx", "bytes"]);
}

/// JSON that would fill the memory. (`vectors.rs` has what else is refused.)
#[test]
fn a_manifest_that_is_too_large_is_refused_before_it_is_parsed() {
    let dir = Dir::default();
    let copy = copied_bundle(&dir);
    fs::write(copy.join("nimbert.json"), format!("{{\"notes\": \"{}\"}}", "x".repeat(5 << 20))).unwrap();
    let error = Classifier::open(&copy, &Options::default()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Format { path, .. } if path.ends_with("nimbert.json")), "{error}");
    assert!(error.to_string().contains("at most 4194304 bytes"), "{error}");
    let nowhere = Dir::default().path("nowhere");
    assert!(matches!(Classifier::open(nowhere, &Options::default()), Err(Error::Io { .. })));
}

/// Each was written by the first version that had its format; made anew, they would prove nothing.
#[test]
fn bundles_of_every_format_are_read_for_ever() {
    for format in [1, 2] {
        let bundle = workspace(&format!("tests/data/bundle-{format}"));
        let opened = nimbert::Bundle::open(&bundle).unwrap();
        opened.verify().unwrap();
        assert_eq!(opened.manifest.format_version, format);
        let prediction = Classifier::open(&bundle, &Options::default()).unwrap().classify("a great film").unwrap();
        assert_eq!(prediction.label, "positive");
        assert!((prediction.score - 0.819_857).abs() < 1e-4, "format {format}: {}", prediction.score);
    }
}
