//! `nimbert-train suggest`: the texts to label next.

use std::fs;

use nimbert::{Bundle, Classifier, Options};
use nimbert_tests::{Dir, base, finish, program, small_csv, tiny_bundle};
use nimbert_trainer::embed::Embedder;

/// Texts of which some say the same.
const TEXTS: &str = "body,id
great acting,1
great acting,2
\"terrible , a thin plot\",3
one of the year's best films,4
worse films,5
worse films,6
";

fn suggest(bundle: &std::path::Path) -> std::process::Command {
    let mut command = program("nimbert-train");
    command.arg("suggest").arg(bundle);
    command
}

#[test]
fn what_is_written_has_no_duplicates_and_is_what_fit_reads() {
    let dir = Dir::default();
    let (bundle, texts, out) = (tiny_bundle(&dir), dir.write("texts.csv", TEXTS), dir.path("to-label.csv"));
    let arguments = ["--text-column", "body", "--label-column", "kind", "--count", "6"];
    let mut command = suggest(&bundle);
    let finished = finish(command.arg("--unlabelled").arg(&texts).arg("--out").arg(&out).args(arguments));
    assert!(
        finished.status == Some(0) && finished.stderr.ends_with("texts.csv: not carried over: id\n"),
        "{finished:?}"
    );
    let output = finished.stdout;
    assert!(
        output.contains(" of 6 texts, in ") && output.contains("not 6: the others say nearly the same"),
        "{output}"
    );
    let written = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[0], "body,kind,nimbert_label,nimbert_score");
    assert!((3..=4).contains(&(lines.len() - 1)), "{written}");
    for text in ["great acting,", "worse films,"] {
        assert!(lines.iter().filter(|line| line.starts_with(text)).count() <= 1, "{written}");
    }
    // What the bundle says of it stands beside it, and the label is empty.
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let line = lines.iter().find(|line| line.starts_with("great acting,") || line.starts_with("worse films,")).unwrap();
    let (text, rest) = line.split_once(",,").unwrap();
    let prediction = classifier.classify(text).unwrap();
    assert_eq!(rest, format!("{},{:.6}", prediction.label, prediction.score));

    // A label that was forgotten is an error with its line; once all are there, both files are read.
    let old = dir.write("old.csv", small_csv(40).replacen("text,label", "body,kind", 1));
    let fit = || {
        let mut fit = program("nimbert-train");
        fit.args(["fit", "--method", "frozen", "--base"]).arg(base("bert")).arg("--data").arg(&old).arg(&out);
        let columns = ["--text-column", "body", "--label-column", "kind", "--max-accuracy-drop", "100"];
        finish(fit.arg("--out").arg(dir.path("new")).args(columns))
    };
    fit().failure(2, &["to-label.csv:2", "a label"]);
    fs::write(&out, written.replace(",,", ",positive,")).unwrap();
    let output = fit().success();
    assert!(output.contains(&format!("{} rows", 40 + lines.len() - 1)), "{output}");
}

#[test]
fn nothing_is_suggested_that_is_labelled_and_nothing_is_replaced() {
    let dir = Dir::default();
    let (bundle, out) = (tiny_bundle(&dir), dir.path("to-label.csv"));
    let texts = dir.write("texts.csv", TEXTS.replacen("body,id", "body,number", 1));
    let run = |data: &str, further: &[&str]| {
        let data = dir.write("old.csv", data);
        let mut command = suggest(&bundle);
        command.arg("--unlabelled").arg(&texts).arg("--data").arg(data).arg("--out").arg(&out);
        finish(command.args(["--text-column", "body", "--label-column", "id"]).args(further))
    };
    let labels = Bundle::open(&bundle).unwrap().config.labels;
    let with_label = |line: &str| line[..line.len() - 1].to_owned() + &labels[0] + "\n";
    let old: String = TEXTS.lines().skip(1).map(with_label).collect();
    run(&format!("body,id\n{old}"), &[]).failure(2, &["a text that does not say nearly the same"]);
    assert!(!out.exists());
    let one = format!("body,id\ngreat acting,{}\n", labels[0]);
    assert_eq!(run(&one, &[]).status, Some(0));
    assert!(!fs::read_to_string(&out).unwrap().contains("great acting"));
    run(&one, &[]).failure(2, &["to-label.csv"]);
    assert_eq!(run(&one, &["--overwrite"]).status, Some(0));
    let mut command = suggest(&bundle);
    command.arg("--unlabelled").arg(&texts).args(["--text-column", "body", "--label-column", "number"]);
    let told = finish(command.arg("--out").arg(dir.path("other.csv")));
    assert!(told.stderr.contains("the column number is not read; rows with labels belong to --data"), "{told:?}");
    for (further, expected) in [(&["--out", "labels.txt"][..], ".csv"), (&["--count", "0"], "--count")] {
        let mut command = suggest(&bundle);
        finish(command.arg("--unlabelled").arg(&texts).args(further)).failure(2, &[expected]);
    }
}

#[test]
fn a_bundle_s_own_logits_come_with_what_its_head_reads() {
    let dir = Dir::default();
    let bundle = Bundle::open(tiny_bundle(&dir)).unwrap();
    let texts = ["great acting", "one of the year's best films , great acting", "worse"];
    let mut read = 0;
    let embedded = Embedder::open(&bundle, None).unwrap().read(&texts, |count| {
        read += count;
        Ok(())
    });
    let embedded = embedded.unwrap();
    assert_eq!((embedded.features.rows(), read), (3, 3));
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    for (row, prediction) in classifier.classify_batch(texts).unwrap().iter().enumerate() {
        let length = embedded.features.row(row).iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
        let logits = embedded.logits[row].iter().zip(&prediction.logits);
        assert!(logits.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-4);
    }
}

#[test]
fn a_simulation_prints_a_curve_and_draws_it() {
    let dir = Dir::default();
    let (data, report) = (dir.write("data.csv", small_csv(120)), dir.path("curve.html"));
    let simulate = |count: &str| {
        let mut command = program("nimbert-train");
        command.args(["suggest", "--simulate", "--count", count, "--base"]).arg(base("bert")).arg("--data").arg(&data);
        finish(command.arg("--report").arg(&report))
    };
    let output = simulate("10").success();
    assert!(output.contains("drawn at random") && output.contains("\nsaved       "), "{output}");
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("Accuracy by labelled rows") && !page.contains("<script"), "{page}");
    fs::remove_file(&report).unwrap();
    simulate("30").failure(2, &["at least 318 rows", "a smaller --count"]);
    let refused = |further: &[&str], expected: &str| {
        let mut command = program("nimbert-train");
        command.args(["suggest", "--simulate", "--base"]).arg(base("bert")).arg("--data").arg(&data).args(further);
        finish(&mut command).failure(2, &[expected]);
    };
    refused(&["--ort-lib", "x"], "--ort-lib");
    refused(&["--overwrite"], "--overwrite");
    refused(&["--label-separator", ";"], "--label-separator");
}
