//! What texts were answered, counted, and compared with what others were.

use std::{fs, path::Path, process::Stdio};

use nimbert::{
    Bundle,
    summary::{LENGTH_BINS, SCORE_BINS},
};
use nimbert_tests::{Dir, Finished, base, copy_folder, finish, fit, fit_by_any, program, seal, small_csv, tiny_bundle};
use serde_json::Value;

fn drift(before: &Path, after: &Path, arguments: &[&str]) -> Finished {
    let mut command = program("nimbert");
    finish(command.arg("drift").arg(before).arg(after).args(arguments))
}

#[test]
fn other_texts_are_told_from_those_of_the_test() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", small_csv(400)), dir.path("bundle"));
    let further = ["--epochs", "3", "--learning-rate", "1e-3", "--unknown-rate", "0.1", "--validation-size", "0.3"];
    finish(fit(&base("bert"), &data, &bundle).args(further)).success();
    let reference = Bundle::open(&bundle).unwrap().reference().unwrap().unwrap();
    assert_eq!((reference.split.as_str(), reference.summary.texts), ("test", 80));
    assert!(reference.summary.is_sound());
    // No text is in it, only counts.
    let labels: Vec<(&str, u64)> =
        reference.summary.tasks[0].labels.iter().map(|(label, count)| (label.as_str(), *count)).collect();
    assert!(labels.iter().map(|(_, count)| count).sum::<u64>() == 80 && labels[0].0 == "negative", "{labels:?}");

    let summary = |name: &str, rows: &dyn Fn(&str) -> bool| {
        let lines: String = small_csv(800)
            .lines()
            .filter(|line| *line == "text,label" || rows(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let (input, path) = (dir.write(&format!("{name}.csv"), lines), dir.path(&format!("{name}.json")));
        let mut classify = program("nimbert");
        classify.arg("classify").arg(&bundle).arg("--input").arg(input).arg("--output").arg(dir.path("out.csv"));
        let finished = finish(classify.arg("--summary").arg(&path));
        assert_eq!(finished.status, Some(0), "{}", finished.stderr);
        (path, finished.stderr)
    };
    let (same, quiet) = summary("same", &|_| true);
    let (other, loud) = summary("other", &|line| line.ends_with("positive"));
    assert!(!quiet.contains("change"), "{quiet}");
    assert!(loud.contains("labels: a large change from what the bundle was tested on, PSI "), "{loud}");
    let file: Value = serde_json::from_slice(&fs::read(&same).unwrap()).unwrap();
    assert_eq!((&file["summary"]["texts"], &file["reference"]["split"]), (&800.into(), &"test".into()));
    let counts = |key: &Value| key.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect::<Vec<_>>();
    let scores = counts(&file["summary"]["tasks"][0]["scores"]);
    assert_eq!((scores.len(), scores.iter().sum::<u64>()), (SCORE_BINS, 800));
    // Texts of 47 to 51 characters, of 32 to 63 all of them.
    let lengths = counts(&file["summary"]["lengths"]);
    assert_eq!((lengths.len(), lengths[6]), (LENGTH_BINS, 800));

    let output = drift(&bundle, &same, &["--fail-above", "0.1"]).success();
    assert!(output.starts_with("texts  80 → 800\nlength ") && output.contains(": as before\n"), "{output}");
    let json: Value = serde_json::from_str(&drift(&same, &other, &["--json"]).success()).unwrap();
    let labels = json["drift"].as_array().unwrap().iter().find(|drift| drift["figure"] == "labels").unwrap();
    assert!(labels["psi"].as_f64().unwrap() > 0.25 && labels["chance"].as_f64().unwrap() < 0.05, "{labels}");
    drift(&same, &other, &["--fail-above", "0.25"]).failure(1, &[]);
    // Also where nobody reads the table.
    let mut unread = program("nimbert");
    unread.arg("drift").arg(&same).arg(&other).args(["--fail-above", "0.25"]).stdout(Stdio::piped());
    let mut child = unread.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let output = drift(&same, &other, &[]).success();
    assert!(
        output.contains("a large change\n  ") && output.contains("\n  negative: ") && output.contains(" % → "),
        "{output}"
    );
}

#[test]
fn rows_that_were_learned_from_are_compared_as_others_answered_them() {
    let dir = Dir::default();
    // Labels that no text tells: a model that knows its rows by heart is sure of them, and of no other.
    let mut random = fastrand::Rng::with_seed(0);
    let mut rows = |count: usize| -> String {
        let words = ["great", "film", "plot", "thin", "acting", "worse", "best", "year"];
        let mut text = || (0..8).map(|_| words[random.usize(..words.len())]).collect::<Vec<_>>().join(" ");
        (0..count).map(|row| format!("{},{}\n", text(), ["negative", "positive"][row % 2])).collect()
    };
    let data = dir.write("data.csv", format!("text,label\n{}", rows(120)));
    let texts = dir.write("new.csv", format!("text,label\n{}", rows(200)));
    let bundle = dir.path("bundle");
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(["--method", "frozen", "--test-size", "0"]);
    finish(command.args(["--cross-validate", "4"])).success();
    let reference = Bundle::open(&bundle).unwrap().reference().unwrap().unwrap();
    assert_eq!((reference.split.as_str(), reference.summary.texts), ("cross-validated", 120));
    // The same scores as they stand beside the bundle.
    let lines = fs::read_to_string(dir.path("bundle.out-of-fold.jsonl")).unwrap();
    let mut bins = vec![0; SCORE_BINS];
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let scores = line["scores"].as_object().unwrap().values().map(|score| score.as_f64().unwrap());
        let best = scores.fold(0.0, f64::max);
        bins[((best * SCORE_BINS as f64) as usize).min(SCORE_BINS - 1)] += 1;
    }
    assert_eq!(reference.summary.tasks[0].scores, bins);
    let path = dir.path("summary.json");
    let mut classify = program("nimbert");
    classify.arg("classify").arg(&bundle).arg("--input").arg(texts).arg("--output").arg(dir.path("out.csv"));
    let finished = finish(classify.arg("--summary").arg(&path));
    assert!(finished.status == Some(0) && !finished.stderr.contains("change"), "{}", finished.stderr);
    // Without folds nobody has answered what he had not seen.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("other"));
    command.args(["--method", "frozen", "--test-size", "0", "--validation-size", "0"]);
    finish(&mut command).success();
    assert_eq!(Bundle::open(dir.path("other")).unwrap().reference().unwrap(), None);
}

#[test]
fn what_other_bundles_answered_and_what_is_no_text_are_not_compared_without_a_word() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let other = copy_folder(&bundle, dir.path("other"));
    seal::change_manifest(&other, |manifest| manifest["abstain_threshold"] = 0.6.into());
    let summary = |bundle: &Path, name: &str, content: &str| {
        let (input, path) = (dir.write("in.txt", content), dir.path(name));
        let mut classify = program("nimbert");
        classify.arg("classify").arg(bundle).arg("--input").arg(input).arg("--summary").arg(&path);
        assert_eq!(finish(&mut classify).status, Some(0));
        path
    };
    let [one, again, of_other, nothing] = [
        summary(&bundle, "one.json", "a great film\nterrible\n"),
        summary(&bundle, "again.json", "a great plot\n"),
        summary(&other, "other.json", "a great film\n"),
        summary(&bundle, "nothing.json", ""),
    ];
    drift(&one, &again, &[]).success();
    let warned = drift(&one, &of_other, &[]);
    assert!(warned.status == Some(0) && warned.stderr.contains("of two bundles"), "{warned:?}");
    // What has moved is shown, the most first, not what neither side has.
    let counted = |name: &str, texts: u64, labels: [u64; 3]| {
        let mut file: Value = serde_json::from_slice(&fs::read(&one).unwrap()).unwrap();
        let histogram = |bins: usize| [vec![texts], vec![0; bins - 1]].concat();
        let summary = &mut file["summary"];
        (summary["texts"], summary["lengths"]) = (texts.into(), histogram(LENGTH_BINS).into());
        summary["tasks"][0]["scores"] = histogram(SCORE_BINS).into();
        let [usual, rare, never] = labels;
        summary["tasks"][0]["labels"] = serde_json::json!({ "usual": usual, "rare": rare, "never": never });
        summary["tasks"][0]["multi_label"] = true.into();
        dir.write(name, file.to_string())
    };
    let (of_test, of_day) = (counted("test.json", 1000, [300, 1, 0]), counted("day.json", 200, [72, 10, 0]));
    let moved = drift(&of_test, &of_day, &[]).success();
    assert!(moved.contains("labels  PSI 0.1") && moved.contains("  rare: 0.1 % → 5.0 %\n  usual: 30.0 %"), "{moved}");
    assert!(!moved.contains("never"), "{moved}");
    // Labels of another model.
    let content = fs::read_to_string(&again).unwrap().replace("\"negative\"", "\"sport\"");
    let warned = drift(&one, &dir.write("sport.json", content), &[]);
    assert!(warned.stderr.contains("the labels are not the same on both sides"), "{warned:?}");
    // An alarm that watches a pipe which gives nothing any more.
    for sides in [[&one, &nothing], [&nothing, &one]] {
        let finished = drift(sides[0], sides[1], &["--fail-above", "0"]);
        finished.failure(2, &["nothing.json: expected a summary of at least one text, found 0"]);
    }
}

#[test]
fn what_is_no_summary_is_refused() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let broken = dir.write("broken.json", "{}");
    drift(&broken, &broken, &[]).failure(2, &["broken.json: expected a file of nimbert classify --summary"]);
    drift(&bundle, &broken, &[]).failure(2, &["expected a bundle with a summary of what it was tested on, found none"]);
    drift(&dir.path("none.json"), &broken, &[]).failure(2, &["none.json"]);
    drift(&broken, &broken, &["--fail-above=-1"]).failure(2, &["--fail-above: expected 0 or more, found -1"]);
    let cut = dir.write("cut.json", "{\n  \"bundle\": \"");
    drift(&cut, &cut, &[]).failure(2, &["cut.json: expected a file of nimbert", "found EOF", "line 2 column 13"]);
    seal::change_manifest(&bundle, |manifest| {
        manifest["metadata"] = serde_json::json!({ "nimbert.reference": { "split": "test" } });
    });
    drift(&bundle, &bundle, &[]).failure(2, &["a summary as \"nimbert.reference\" under \"metadata\""]);
    let input = dir.write("in.csv", "text\na\n");
    let classify = |arguments: &[&str]| {
        let mut command = program("nimbert");
        finish(command.arg("classify").arg(&bundle).arg("--input").arg(&input).args(arguments))
    };
    // It would replace what is read, or the results.
    classify(&["--summary", input.to_str().unwrap()]).failure(2, &["another file than --input"]);
    let out = dir.path("out.csv");
    let out = out.to_str().unwrap();
    classify(&["--output", out, "--summary", out]).failure(2, &["a file of its own for --summary"]);
    classify(&["--output", out, "--resume", "--summary", "x.json"]).failure(2, &["cannot be used with"]);
    // Counts beside a reference that is none are not written either.
    classify(&["--output", out, "--summary", "x.json"]).failure(2, &["a summary as"]);
    assert!(!Path::new(out).exists());
}
