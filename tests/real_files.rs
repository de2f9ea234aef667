//! Files and models as real people have them, from the command line to the answer. The table of what is tested where is in
//! tests/README.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::{DType, Device, Tensor, safetensors};
use nimbert::{Bundle, Classifier, Options, Session, SessionOptions, TruncationSide, batch::Batch};
use nimbert_tests::{Dir, Finished, finish, fit, fit_by_any, program, small_csv, tiny_bundle, workspace};
use serde_json::{Value, json};

const TINY_BERT: &str = "tests/data/tiny-bert";

fn base() -> PathBuf {
    workspace(TINY_BERT)
}

fn check(data: &Path, arguments: &[&str]) -> Finished {
    finish(program("nimbert-train").args(["check", "--data"]).arg(data).args(arguments))
}

/// The kinds of what `check` finds.
fn kinds(data: &Path, arguments: &[&str]) -> Vec<String> {
    let report: Value = serde_json::from_str(&check(data, &[&["--json"], arguments].concat()).success()).unwrap();
    report["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

fn classify(bundle: &Path, arguments: &[&str]) -> Finished {
    finish(program("nimbert").arg("classify").arg(bundle).args(arguments))
}

fn export(folder: &Path, out: &Path) -> Command {
    let mut command = program("nimbert-train");
    command.arg("export").arg(folder).arg("--out").arg(out);
    command
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_row_of_a_table_with_lone_quotes_is_read_by_both_programs() {
    let dir = Dir::default();
    let row = |index: usize| match (index, index % 2) {
        (7, _) => "\"a great film\tpositive\n".to_owned(),
        (23, _) => "\"terrible\" acting\tnegative\n".to_owned(),
        (_, 0) => format!("one of the films {index}\tpositive\n"),
        _ => format!("a thin plot {index}\tnegative\n"),
    };
    let data =
        dir.write("x.tsv", std::iter::once("text\tlabel\n".to_owned()).chain((0..40).map(row)).collect::<String>());
    assert!(check(&data, &[]).success().contains("40 rows"));
    let output = finish(fit(&base(), &data, &dir.path("bundle")).args(["--epochs", "1"])).success();
    assert!(output.contains("40 rows × 2 columns"), "{output}");
    assert_eq!(classify(&dir.path("bundle"), &["--json", "--input", text(&data)]).success().lines().count(), 40);
    // In CSV the same is an error that names the place and the way out.
    let csv = dir.write("x.csv", "text,label\nfine,a\n\"Great,a\nbad,b\n\"So\" so,b\n");
    for finished in [check(&csv, &[]), classify(&dir.path("bundle"), &["--input", text(&csv)])] {
        finished.failure(2, &["x.csv:5:2: expected a delimiter", "opens in line 3", "--quoting none"]);
    }
}

#[test]
fn labels_that_are_missing_or_look_alike() {
    let dir = Dir::default();
    let rows = |labels: &[&str]| -> String {
        let lines = labels.iter().enumerate().map(|(row, label)| format!("text {row},{label}\n"));
        std::iter::once("text,label\n".to_owned()).chain(lines).collect()
    };
    let data = dir.write("x.csv", rows(&["a", "b", "nan", "a", "b", "", "N/A"]));
    check(&data, &[])
        .failure(2, &["x.csv:4: expected a label (--on-missing skip", "\"nan\", which stands for a missing value"]);
    let output = check(&data, &["--on-missing", "skip"]).success();
    assert!(
        output.contains("3 rows in which something is missing were left out, the first at")
            && output.contains("4 rows"),
        "{output}"
    );
    let output = finish(fit(&base(), &dir.write("y.csv", small_csv(24) + "so,\n"), &dir.path("bundle")).args([
        "--epochs",
        "1",
        "--on-missing",
        "skip",
    ]));
    assert!(output.success().contains("1 rows in which something is missing were left out"));
    let mut command = export(&base(), &dir.path("exported"));
    let finished = finish(command.arg("--data").arg(dir.path("y.csv")).args(["--on-missing", "skip"]));
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("1 rows in which something is missing were left out"), "{}", finished.stderr);
    let data = dir.write("x.csv", rows(&["1", "1.0", "2", "2.0", "10", "10"]));
    assert_eq!(kinds(&data, &[]), ["rare-label", "number-spelling"]);
    let data = dir.write("x.csv", rows(&["café", "cafe\u{301}", "b", "b\u{200b}", "c", "C"]));
    let output = check(&data, &[]).stdout;
    for part in ["\"cafe\\u{301}\" 1 (first", "\"b\\u{200b}\" 1 (first", "\"C\" 1 (first", "x.csv:2"] {
        assert!(output.contains(part), "no {part} in {output}");
    }
    let data = dir.write("n.csv", rows(&["10", "2", "10", "2", "9", "9"].repeat(4)));
    finish(fit(&base(), &data, &dir.path("numbers")).args(["--epochs", "1", "--max-accuracy-drop", "100"])).success();
    assert_eq!(Bundle::open(dir.path("numbers")).unwrap().config.labels, ["2", "9", "10"]);

    // Versions are labels of their own; one number that is written in two ways is one, which is said, and found in other files.
    let labels = ["1.1", "1.10", "2", "2.0"].repeat(8);
    let (data, test) = (dir.write("v.csv", rows(&labels)), dir.write("t.csv", rows(&["2.0", "1.10", "2"])));
    let mut command = fit(&base(), &data, &dir.path("versions"));
    let output = finish(command.arg("--test-data").arg(&test).args(["--epochs", "1", "--max-accuracy-drop", "100"]));
    let output = output.success();
    assert!(output.contains("3 labels: 1.1 8, 1.10 8, 2 16"), "{output}");
    assert!(output.contains("labels are the same, in whatever way they are written: 2.0 is 2"), "{output}");
    assert!(!output.contains("that no training row has"), "{output}");
    check(&data, &["--test-data", text(&test)]).success();
    let other = dir.write("other.csv", rows(&["1.100", "2"]));
    // What fit refuses is an error of check too.
    let finished = check(&data, &["--test-data", text(&other)]);
    assert!(finished.stdout.contains("a label that no training row has: \"1.100\""), "{finished:?}");
    finished.failure(2, &["--data: expected rows that fit takes", "that are errors"]);
    check(&data, &["--data", text(&data)]).failure(2, &["v.csv: expected each file once, found it twice"]);
    check(&data, &["--max-length", "9"]).failure(2, &["--max-length: expected --base with it"]);
    let mut evaluate = program("nimbert-train");
    evaluate.arg("evaluate").arg(dir.path("versions")).arg("--data").arg(&other);
    finish(&mut evaluate).failure(2, &["other.csv:2", "one of the labels 1.1, 1.10, 2", "\"1.100\""]);
}

#[test]
fn lists_weights_and_shares_from_the_file_to_the_figures() {
    let dir = Dir::default();
    let row = |index: usize| {
        let labels = ["\"['acting', 'plot']\"", "\"[\"\"acting\"\"]\"", "[]", "plot"][index % 4];
        format!("one of the films {index},{labels}\n")
    };
    let csv = |rows: usize| std::iter::once("text,label\n".to_owned()).chain((0..rows).map(row)).collect::<String>();
    let data = dir.write("lists.csv", csv(40));
    let arguments = ["--multi-label", "--epochs", "1", "--max-accuracy-drop", "100"];
    let output = finish(fit(&base(), &data, &dir.path("lists")).args(arguments)).success();
    assert!(output.contains("2 labels: acting 20, plot 20"), "{output}");
    check(&data, &[]).failure(2, &["lists.csv:2: expected one label", "--multi-label"]);
    check(&dir.write("v.jsonl", "{\"text\": \"a\", \"label\": [1, 0, 0]}\n"), &["--multi-label"])
        .failure(2, &["v.jsonl:1: expected a list of names", "--label-columns"]);
    assert!(
        kinds(&dir.write("j.csv", "text,label\na,x|y\nb,x\nc,y\n"), &["--multi-label"])
            .contains(&"joined-labels".to_owned())
    );

    // Three people's votes, and rows that count as much as they say.
    let row = |index: usize| match index % 2 {
        0 => format!("great acting {index},1,0,1\n"),
        _ => format!("a thin plot {index},0.34,0.66,2\n"),
    };
    let csv = std::iter::once("text,good,bad,weight\n".to_owned()).chain((0..60).map(row)).collect::<String>();
    let data = dir.write("votes.csv", csv);
    let columns = ["--label-columns", "good,bad", "--weight-column", "weight"];
    let mut command = fit(&base(), &data, &dir.path("votes"));
    let output = finish(command.args(columns).args(["--epochs", "12", "--learning-rate", "3e-3"])).success();
    assert!(output.contains("2 labels: good 30, bad 30"), "{output}");
    for part in ["weight is its weight in training and in no figure", "by the label with its largest share"] {
        assert!(output.contains(part), "no {part} in {output}");
    }
    // The model learns the shares, not the label.
    let answers = classify(&dir.path("votes"), &["--json", "great acting 2", "a thin plot 3"]).success();
    let score = |row: usize| json_lines(&answers)[row]["scores"]["good"].as_f64().unwrap();
    assert!(score(0) > 0.85 && (0.2..0.5).contains(&score(1)), "{answers}");
    let mut command = program("nimbert-train");
    command.arg("evaluate").arg(dir.path("votes")).arg("--data").arg(&data).args(columns);
    let output = finish(&mut command).success();
    assert!(output.contains("largest share") && output.contains("weight is its weight"), "{output}");

    // A weight that is nothing in 32 bits is no weight, and a label of rows without one is never answered.
    let weighed = |third: &str| {
        let row = |index: usize| {
            let (label, weight) = [("a", "1"), ("b", "2"), ("c", third)][index % 3];
            format!("text {index},{label},{weight}\n")
        };
        std::iter::once("text,label,weight\n".to_owned()).chain((0..60).map(row)).collect::<String>()
    };
    let weights = ["--weight-column", "weight", "--epochs", "1", "--max-accuracy-drop", "100"];
    let tiny = dir.write("tiny.csv", weighed("1e-46"));
    finish(fit(&base(), &tiny, &dir.path("tiny")).args(weights))
        .failure(2, &["tiny.csv:4:", "expected a weight of 0, or of at least 1e-45, found 1e-46"]);
    let nothing = dir.write("nothing.csv", weighed("0"));
    let output = finish(fit(&base(), &nothing, &dir.path("nothing")).args(weights)).success();
    assert!(output.contains("no training row that counts has c: it is never answered"), "{output}");

    let bits = dir.write("bits.csv", "text,toxic,insult\na,1,0\nb,0,1\nc,2,0\n");
    check(&bits, &["--multi-label", "--label-columns", "toxic,insult"])
        .failure(2, &["bits.csv:4: expected 0 or 1, found 2"]);
    check(&bits, &["--label-columns", "toxic,insult"])
        .failure(2, &["bits.csv:4: expected shares", "a sum of 2", "--multi-label"]);
    let never = dir.write("never.csv", "text,toxic,insult\na,1,0\nb,1,0\nc,1,0\n");
    assert!(
        kinds(&never, &["--multi-label", "--label-columns", "toxic,insult"]).contains(&"constant-label".to_owned())
    );
}

#[test]
fn encodings_and_containers_are_read_or_named() {
    let dir = Dir::default();
    let wide: Vec<u8> = small_csv(24).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let data = dir.write("wide.csv", [&[0xff, 0xfe][..], &wide].concat());
    check(&data, &[]).failure(2, &["wide.csv: expected text in UTF-8, found UTF-16", "--encoding utf-16"]);
    finish(fit(&base(), &data, &dir.path("bundle")).args(["--encoding", "utf-16", "--epochs", "1"])).success();
    let latin = dir.write("latin.csv", b"text\ncaf\xe9\n");
    classify(&dir.path("bundle"), &["--input", text(&latin)]).failure(2, &["latin.csv:2:4:", "windows-1252"]);
    let output = classify(&dir.path("bundle"), &["--input", text(&latin), "--encoding", "windows-1252"]).success();
    assert!(output.ends_with("\tcafé\n"), "{output}");
    let array = dir.write("rows.json", "[{\"text\": \"a great film\"},\n {\"text\": \"terrible\"}]");
    assert_eq!(classify(&dir.path("bundle"), &["--input", text(&array)]).success().lines().count(), 2);
    let one = dir.write("one.json", "{\"text\":\n \"a\"}");
    classify(&dir.path("bundle"), &["--input", text(&one)]).failure(2, &["one.json:1", "an array of objects"]);
    check(&dir.write("twice.csv", "text,label,text\na,b,c\n"), &[]).failure(2, &["twice.csv:1:", "\"text\" twice"]);
}

#[test]
fn line_n_of_the_output_belongs_to_row_n() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let content = "{\"id\": 7, \"text\": \"film\"}\nbroken\n{\"id\": 9, \"text\": \"great\", \"more\": 1}\n\
                   {\"id\": 11, \"text\": null}\n";
    let input = dir.write("x.jsonl", content);
    let output = dir.path("out.jsonl");
    let skip = ["--input", text(&input), "--output", text(&output), "--on-error", "skip"];
    assert_eq!(classify(&bundle, &skip).status, Some(0));
    let lines = json_lines(&fs::read_to_string(&output).unwrap());
    assert_eq!((&lines[0]["id"], &lines[2]["id"], lines[2].get("more")), (&json!(7), &json!(9), None));
    assert!(lines[1]["error"].as_str().unwrap().contains("x.jsonl:2:1: expected a JSON object"));
    assert!(lines[3]["id"] == 11 && lines[3]["error"].as_str().unwrap().contains("x.jsonl:4: expected a string"));
    let csv = dir.path("out.csv");
    let skip_csv = ["--input", text(&input), "--output", text(&csv), "--on-error", "skip", "--keep", "id,more"];
    assert_eq!(classify(&bundle, &skip_csv).status, Some(0));
    let content = fs::read_to_string(&csv).unwrap();
    let lines: Vec<&str> = content.lines().collect();
    assert_eq!(lines[0], "text,label,score,score negative,score positive,id,more,error");
    assert!(lines[1].ends_with(",7,,") && lines[2].starts_with(",,,,,,,") && lines[3].ends_with(",9,1,"), "{content}");
    assert!(lines[4].starts_with(",,,,,11,,") && lines.len() == 5, "{content}");
    let large = dir.write("large.jsonl", "{\"id\": 12345678901234567890123, \"text\": \"film\"}\n");
    classify(&bundle, &["--input", text(&large), "--json"])
        .failure(2, &["large.jsonl:1: expected a number that is exact"]);
    // Wherever it stands, and whatever else is wrong: what is not exact is never written.
    let content = "{\"meta\": {\"id\": [12345678901234567890123]}, \"text\": \"film\"}\n\
                   {\"meta\": 12345678901234567890123, \"text\": null}\n";
    let large = dir.write("large.jsonl", content);
    let skip = ["--input", text(&large), "--json", "--keep", "meta", "--on-error", "skip"];
    let finished = classify(&bundle, &skip);
    assert_eq!(finished.status, Some(0));
    let lines = json_lines(&finished.stdout);
    let error = |line: &Value| (line.get("meta").cloned(), line["error"].as_str().unwrap().to_owned());
    assert!(matches!(error(&lines[0]), (None, error) if error.contains("exact in 64 bits as \"meta\"")), "{lines:?}");
    assert!(matches!(error(&lines[1]), (None, error) if error.contains("expected a string")), "{lines:?}");

    // Everything that the input has is carried through, and nothing of it overwrites an answer.
    let input = dir.write("x.csv", "id,label,text,date\n1,old,\"a great film\",today\n2,old,terrible,now\n");
    let output = classify(&bundle, &["--input", text(&input), "--json"]).success();
    let answer = &json_lines(&output)[0];
    assert_eq!((&answer["id"], &answer["input_label"], &answer["date"]), (&json!("1"), &json!("old"), &json!("today")));
    assert!(answer["label"] != "old", "{answer}");
    classify(&bundle, &["--input", text(&input), "--output", text(&csv)]).success();
    let header = fs::read_to_string(&csv).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(header, "text,label,score,score negative,score positive,id,input_label,date");
    classify(&bundle, &["--input", text(&input), "--keep", "nobody", "--json"])
        .failure(2, &["\"nobody\" (see --keep)"]);
    classify(&bundle, &["--input", text(&input), "--keep", "id"]).failure(2, &["--keep: expected --json"]);

    // The input is not replaced, also not through a link.
    let same = classify(&bundle, &["--input", text(&input), "--output", text(&input)]);
    same.failure(2, &["x.csv: expected another file than --input"]);
    let partial = dir.write("y.jsonl.partial", "{\"text\": \"film\"}\n");
    let output = dir.path("y.jsonl");
    let same = classify(&bundle, &["--input", text(&partial), "--format", "jsonl", "--output", text(&output)]);
    same.failure(2, &["y.jsonl.partial: expected another file than --input"]);
    #[cfg(unix)]
    {
        let link = dir.path("link.csv");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        let linked = classify(&bundle, &["--input", text(&input), "--output", text(&link)]);
        linked.failure(2, &["another file than --input"]);
    }
    assert!(fs::read_to_string(&input).unwrap().starts_with("id,label"));

    // What was interrupted is resumed with the same settings only; which one differs is said in a line.
    let broken = dir.write("b.jsonl", "{\"text\": \"film\"}\nbroken\n");
    let resumed = dir.path("resumed.jsonl");
    let run = |arguments: &[&str]| {
        classify(&bundle, &[&["--input", text(&broken), "--output", text(&resumed)], arguments].concat())
    };
    run(&[]).failure(2, &["b.jsonl:2"]);
    let finished = run(&["--resume", "--top-k", "1"]);
    finished.failure(2, &["--resume: expected the --top-k of", "null, found 1"]);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

#[test]
fn every_program_gets_the_calibrated_scores_and_the_ids() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(120));
    let arguments = [
        "--epochs",
        "3",
        "--learning-rate",
        "2e-3",
        "--validation-size",
        "0.3",
        "--variants",
        "cpu-int8,cpu-fp32,gpu-fp16",
    ];
    let out = dir.path("bundle");
    let output = finish(fit(&base(), &data, &out).args(arguments)).success();
    let bundle = Bundle::open(&out).unwrap();
    let temperature = bundle.manifest.folded_temperature.unwrap();
    assert!(
        output.contains(&format!("temperature {temperature:.3}")) && bundle.manifest.temperature == 1.0,
        "{output}"
    );
    // What a program does that knows the graph alone: the softmax of its logits.
    for variant in &bundle.manifest.variants {
        let mut session = Session::open(&out.join(&variant.file), &SessionOptions::default()).unwrap();
        let encoding = bundle.tokenizer().unwrap().encode("a great film").unwrap();
        let logits = session.run(&Batch::pad(std::iter::once(&encoding), 0)).unwrap();
        let score = nimbert::prediction::softmax(&logits, 1.0)[1];
        let options = Options { variant: Some(variant.name.clone()), ..Options::default() };
        let prediction = Classifier::open(&out, &options).unwrap().classify("a great film").unwrap();
        assert!((score - prediction.scores[1].1).abs() < 1e-5, "{}: {score}, {prediction:?}", variant.name);
    }
    let config: Value = serde_json::from_slice(&fs::read(out.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["tokenizer_class"], &config["pad_token"]),
        (&json!("PreTrainedTokenizerFast"), &json!("[PAD]"))
    );
    // No text that was trained on is in what is shipped; the report is beside it.
    for entry in fs::read_dir(&out).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        assert!(!content.windows(16).any(|window| window == b"great acting 100" || window == b"worse acting 101"));
    }
    assert_eq!(dir.names(), ["bundle", "bundle.metrics.jsonl", "bundle.report.html", "data.csv"]);
    let again = finish(fit(&base(), &data, &dir.path("other")).args(["--report"]).arg(dir.path("none/report.html")));
    again.failure(2, &["none: expected a folder for --report"]);
    let again =
        finish(fit(&base(), &data, &dir.path("other")).args(["--overwrite", "--report"]).arg(dir.path("bundle")));
    again.failure(2, &["bundle: expected a file for --report, found a folder"]);
    fs::remove_dir_all(&out).unwrap();
    finish(&mut fit(&base(), &data, &out)).failure(2, &["bundle.report.html: expected no file yet", "--overwrite"]);
}

#[test]
fn settings_of_a_folder_are_honoured_or_named() {
    let with = |change: fn(&mut serde_json::Map<String, Value>), arguments: &[&str]| {
        let dir = Dir::default();
        let folder = dir.tiny_bert(change);
        let finished = finish(export(&folder, &dir.path("bundle")).args(arguments));
        let bundle = finished.status.filter(|status| *status == 0).map(|_| Bundle::open(dir.path("bundle")).unwrap());
        (finished, bundle)
    };
    type Change = fn(&mut serde_json::Map<String, Value>);
    let refused: [(Change, &[&str]); 8] = [
        (
            |c| drop(c.insert("problem_type".into(), json!("regression"))),
            &["config.json", "problem_type", "\"regression\""],
        ),
        (|c| drop(c.insert("problem_type".into(), json!("single_label"))), &["\"single_label\""]),
        (|c| drop(c.insert("is_decoder".into(), json!(true))), &["is_decoder true"]),
        (
            |c| drop(c.insert("id2label".into(), json!({"0": "score"}))),
            &["at least two labels", "regression models and rerankers"],
        ),
        (|c| drop(c.insert("id2label".into(), json!({"0": "a", "1": "a"}))), &["\"a\" for the ids 0 and 1"]),
        (|c| drop(c.insert("id2label".into(), json!({"1": "a", "2": "b"}))), &["no id 0 among 1, 2"]),
        (|c| drop(c.insert("id2label".into(), json!({"0": "a", "2": "b"}))), &["no id 1 among 0, 2"]),
        (|c| drop(c.remove("model_type")), &["config.json", "model_type"]),
    ];
    for (change, parts) in refused {
        with(change, &[]).0.failure(2, parts);
    }
    let contradiction: Change = |c| drop(c.insert("label2id".into(), json!({"negative": 1, "positive": 0})));
    with(contradiction, &[]).0.failure(2, &["\"negative\" in id2label and label2id", "found 0 and 1"]);
    let no_names: Change = |c| {
        c.remove("id2label");
        c.insert("num_labels".into(), json!(1));
    };
    with(no_names, &[]).0.failure(2, &["at least two labels, found 1: regression"]);
    let (_, bundle) = with(|c| drop(c.remove("id2label")), &[]);
    assert_eq!(bundle.unwrap().config.labels, ["LABEL_0", "LABEL_1"]);
    let (_, bundle) = with(|c| drop(c.insert("id2label".into(), json!({"0": 1, "1": 5}))), &[]);
    assert_eq!(bundle.unwrap().config.labels, ["1", "5"]);
    let (_, bundle) = with(|c| drop(c.insert("id2label".into(), json!(["no", "yes"]))), &[]);
    assert_eq!(bundle.unwrap().config.labels, ["no", "yes"]);
    let (finished, bundle) =
        with(|c| drop(c.insert("problem_type".into(), json!("single_label_classification"))), &["--multi-label"]);
    assert_eq!(bundle.unwrap().config.problem_type, nimbert::ProblemType::MultiLabel);
    assert!(finished.stdout.contains("any number a text, as --multi-label says"), "{}", finished.stdout);

    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    fs::write(folder.join("tokenizer_config.json"), "{\"model_max_length\": 9, \"truncation_side\": \"left\"}")
        .unwrap();
    let data = dir.write("data.csv", small_csv(20));
    let output = finish(export(&folder, &dir.path("bundle")).arg("--data").arg(&data)).success();
    assert!(
        output.contains("longer texts are cut at the beginning, to 9 tokens")
            && output.contains("20 of 20 rows are cut"),
        "{output}"
    );
    let bundle = Bundle::open(dir.path("bundle")).unwrap();
    assert_eq!((bundle.manifest.max_length, bundle.manifest.truncation_side), (9, TruncationSide::Left));
    let tokenizer = bundle.tokenizer().unwrap();
    let whole = tokenizer.clone().without_truncation().encode("one of the year 's best films , great acting").unwrap();
    let cut = tokenizer.encode("one of the year 's best films , great acting").unwrap();
    assert_eq!(cut.input_ids[1..], whole.input_ids[whole.input_ids.len() - 8..]);
    assert!(cut.truncated && cut.input_ids.len() == 9 && cut.input_ids[0] == whole.input_ids[0]);
    let mut command = fit(&folder, &data, &dir.path("left"));
    finish(command.args(["--epochs", "1", "--max-length", "9", "--save-model"]).arg(dir.path("saved"))).success();
    for written in ["left", "saved"] {
        let config = fs::read_to_string(dir.path(written).join("tokenizer_config.json")).unwrap();
        assert!(config.contains("\"truncation_side\": \"left\""), "{config}");
    }
    // fit has no use for the old head's labels, whatever is wrong with them.
    let base = Dir::default();
    let folder = base.tiny_bert(|c| drop(c.insert("id2label".into(), json!({"7": "x"}))));
    finish(fit(&folder, &data, &dir.path("fitted")).args(["--epochs", "1"])).success();
}

#[test]
fn a_classifier_of_pairs_says_so() {
    let dir = Dir::default();
    let row =
        |index: usize| format!("one of the films {index},{}\n", ["great acting,yes", "a thin plot,no"][index % 2]);
    let data = dir.write(
        "data.csv",
        std::iter::once("text,second,label\n".to_owned()).chain((0..40).map(row)).collect::<String>(),
    );
    let bundle = dir.path("bundle");
    finish(fit(&base(), &data, &bundle).args(["--text-pair-column", "second", "--epochs", "1"])).success();
    classify(&bundle, &["one text"]).failure(2, &["expected a pair of texts", "found one text"]);
    classify(&bundle, &["one text", "--pair", "another"]).success();
    finish(program("nimbert-train").arg("trace").arg(&bundle).arg("one text"))
        .failure(2, &["expected a pair of texts"]);
    let input = dir.write("one.csv", "text\nfilm\n");
    classify(&bundle, &["--input", text(&input)]).failure(2, &["expected a pair of texts"]);
    let single = dir.path("single");
    finish(fit(&base(), &data, &single).args(["--epochs", "1"])).success();
    classify(&single, &["one", "--pair", "two"]).failure(2, &["expected one text", "found a pair of texts"]);
}

/// A copy of the tiny BERT whose weights are changed.
fn with_weights(dir: &Dir, change: impl Fn(&str, Tensor) -> Tensor) -> PathBuf {
    let folder = dir.tiny_bert(|_| ());
    let path = folder.join("model.safetensors");
    let tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    let changed = tensors.into_iter().map(|(name, tensor)| (name.clone(), change(&name, tensor))).collect();
    safetensors::save(&changed, &path).unwrap();
    folder
}

#[test]
fn weights_that_are_none_are_named_before_training() {
    let refused = |folder: &Path, parts: &[&str]| {
        let dir = Dir::default();
        let data = dir.write("data.csv", small_csv(20));
        finish(&mut fit(folder, &data, &dir.path("bundle"))).failure(2, parts);
        finish(&mut export(folder, &dir.path("exported"))).failure(2, parts);
        assert_eq!(dir.names(), ["data.csv"]);
    };
    let dir = Dir::default();
    let nan = |name: &str, tensor: Tensor| match name.contains("layer.1.output.dense.weight") {
        true => (tensor * f64::NAN).unwrap(),
        false => tensor,
    };
    refused(
        &with_weights(&dir, nan),
        &["model.safetensors", "finite numbers in bert.encoder.layer.1.output.dense.weight", "NaN"],
    );
    let dir = Dir::default();
    let bytes = |name: &str, tensor: Tensor| match name.contains("layer.1.output.dense.weight") {
        true => tensor.to_dtype(DType::U8).unwrap(),
        false => tensor,
    };
    refused(
        &with_weights(&dir, bytes),
        &["model.safetensors", "floating-point numbers in bert.encoder.layer.1.output.dense.weight"],
    );
    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    // Eight bits with a sign, which the reader itself does not know.
    let path = folder.join("model.safetensors");
    let content = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&content[8..]).split("}}").next().unwrap().len() + 2;
    let header = String::from_utf8(content[8..8 + text].to_vec()).unwrap().replacen("\"F32\"", "\"I8\" ", 1);
    fs::write(&path, [&content[..8], header.as_bytes(), &content[8 + text..]].concat()).unwrap();
    refused(&folder, &["model.safetensors"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["model.safetensors", "tokenizer.json"] {
        let dir = Dir::default();
        let folder = dir.tiny_bert(|_| ());
        fs::write(folder.join(name), pointer).unwrap();
        refused(&folder, &[name, "a pointer of Git LFS"]);
    }
    let dir = Dir::default();
    refused(
        &dir.tiny_bert(|c| drop(c.insert("pad_token_id".into(), json!(500)))),
        &["config.json", "pad_token_id below", "500"],
    );
    let dir = Dir::default();
    let beyond = |config: &mut serde_json::Map<String, Value>| drop(config.insert("pad_token_id".into(), json!(146)));
    let folder = dir.tiny_bert(beyond);
    // The last word of the vocabulary is in the model's embeddings only.
    let tokenizer = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| *id != 146);
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    refused(&folder, &["tokenizer.json: expected a token with the pad_token_id 146"]);
    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("tf_model.h5"), "").unwrap();
    refused(&folder, &["weights: model.safetensors", "tf_model.h5", "save_pretrained"]);
    // The tokenizer gives the second text of a pair a type that the model has not.
    let dir = Dir::default();
    let one_type = |name: &str, tensor: Tensor| match name.contains("token_type_embeddings") {
        true => tensor.narrow(0, 0, 1).unwrap(),
        false => tensor,
    };
    let folder = with_weights(&dir, one_type);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["type_vocab_size"] = json!(1);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let data = dir.write("pairs.csv", "text,second,label\na,b,x\nc,d,y\n".to_owned() + &"e,f,x\ng,h,y\n".repeat(5));
    let finished = finish(fit(&folder, &data, &dir.path("out")).args(["--text-pair-column", "second"]));
    finished.failure(2, &["config.json: expected a type_vocab_size above 1", "found 1"]);
}

/// What a folder answers, exported in fp32.
fn scores(folder: &Path) -> Vec<f32> {
    let dir = Dir::default();
    finish(export(folder, &dir.path("bundle")).args(["--precision", "fp32", "--max-length", "32"])).success();
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    let texts = ["a great film", "Terrible acting, and a thin plot!", "one of the year's best films"];
    classifier.classify_batch(texts).unwrap().iter().map(|prediction| prediction.scores[1].1).collect()
}

/// Puts the weights of a model's folder into two files with an index.
pub(crate) fn divide_weights(folder: &Path) {
    let path = folder.join("model.safetensors");
    let tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    fs::remove_file(&path).unwrap();
    let (first, second): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| name.contains("encoder"));
    let mut map = serde_json::Map::new();
    for (file, shard) in [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)] {
        map.extend(shard.iter().map(|(name, _)| (name.clone(), json!(file))));
        safetensors::save(&shard.into_iter().collect(), folder.join(file)).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn folders_are_read_as_they_are_found() {
    let expected = scores(&base());
    // In shards.
    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    divide_weights(&folder);
    assert_eq!(scores(&folder), expected);
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    finish(&mut export(&folder, &dir.path("out"))).failure(2, &["model-00002-of-00002.safetensors", "No such file"]);

    // As PyTorch's pickle.
    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let pickle = fs::read(workspace("tests/data/tiny-bert-pickle/pytorch_model.bin")).unwrap();
    fs::write(folder.join("pytorch_model.bin"), &pickle).unwrap();
    assert_eq!(scores(&folder), expected);
    for broken in [&pickle[..pickle.len() / 2], b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00exitq\x01\x85q\x02Rq\x03."]
    {
        fs::write(folder.join("pytorch_model.bin"), broken).unwrap();
        let finished = finish(&mut export(&folder, &dir.path("out")));
        finished
            .failure(2, &["pytorch_model.bin: expected a PyTorch checkpoint of tensors", "safe_serialization=True"]);
    }

    // With a vocabulary alone.
    let dir = Dir::default();
    let folder = dir.tiny_bert(|_| ());
    let tokenizer: Value = serde_json::from_slice(&fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let mut vocab: Vec<(u64, &String)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token))
        .collect();
    vocab.sort();
    fs::write(folder.join("vocab.txt"), vocab.iter().map(|(_, token)| format!("{token}\n")).collect::<String>())
        .unwrap();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(scores(&folder), expected);
    let all = fs::read_to_string(folder.join("vocab.txt")).unwrap();
    let without_last: String = all.lines().take(146).map(|token| format!("{token}\n")).collect();
    fs::write(folder.join("added_tokens.json"), "{\"extraordinary\": 146}").unwrap();
    finish(&mut export(&folder, &dir.path("out")))
        .failure(2, &["the id 147 for the added token \"extraordinary\"", "found 146"]);
    fs::write(folder.join("vocab.txt"), without_last).unwrap();
    let mut command = program("nimbert-train");
    let traced = finish(command.arg("trace").arg(&folder).arg("an extraordinary film")).success();
    assert!(traced.contains(" extraordinary "), "{traced}");
    fs::remove_file(folder.join("added_tokens.json")).unwrap();
    fs::write(folder.join("vocab.txt"), all).unwrap();
    fs::write(folder.join("tokenizer_config.json"), "{\"do_lower_case\": false}").unwrap();
    let cased = scores(&folder);
    assert!(cased[0] == expected[0] && cased[1] != expected[1], "{cased:?} {expected:?}");
    fs::remove_file(folder.join("vocab.txt")).unwrap();
    finish(&mut export(&folder, &dir.path("out")))
        .failure(2, &["tokenizer.json, or a WordPiece vocabulary as vocab.txt"]);

    // RoBERTa under another name.
    let dir = Dir::default();
    let source = workspace("tests/data/tiny-roberta");
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(source.join(name), dir.path(name)).unwrap();
    }
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    fs::write(dir.path("config.json"), config.replace("\"roberta\"", "\"camembert\"")).unwrap();
    let folder = dir.path("");
    assert_eq!(scores(&folder), scores(&source));
}

#[test]
fn a_text_of_too_many_windows_is_refused_with_its_line() {
    let dir = Dir::default();
    let long = "one of the films ".repeat(2000);
    let data = dir.write("data.csv", small_csv(30) + &format!("{long},positive\n"));
    let run = |arguments: &[&str]| {
        let mut command = fit(&base(), &data, &dir.path("bundle"));
        finish(
            command
                .args(["--long-text", "stride", "--max-length", "32", "--stride", "8", "--epochs", "1"])
                .args(arguments),
        )
    };
    run(&[]).failure(2, &["data.csv:32: expected a text of at most 64 windows", "--max-windows"]);
    run(&["--max-windows", "1000", "--max-accuracy-drop", "100"]).success();
}

#[test]
fn what_a_split_could_not_keep_is_said() {
    let dir = Dir::default();
    let rows: String = (0..300).map(|row| format!("one of the films {row},label {}\n", row % 150)).collect();
    let data = dir.write("data.csv", format!("text,label\n{rows}"));
    let mut command = fit(&base(), &data, &dir.path("bundle"));
    let output = finish(command.args(["--epochs", "1", "--max-accuracy-drop", "100", "--precision", "fp32"])).success();
    assert!(output.contains("test has 150 of 300 rows instead of 60 (--test-size 0.2)"), "{output}");
    let mut command = fit(&base(), &data, &dir.path("other"));
    let finished = finish(command.args(["--class-weights", "a=1"]));
    finished.failure(2, &["--class-weights: expected balanced", "label 0=1"]);
    assert!(finished.stderr.len() < 600, "{}", finished.stderr);
}

#[test]
fn a_checkpoint_with_a_flipped_bit_is_refused() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let path = dir.path("bundle.checkpoint");
    let mut child = {
        let mut command = fit(&base(), &data, &dir.path("bundle"));
        command.args(["--epochs", "400", "--batch-size", "4", "--checkpoint-every", "2"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    while !path.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let whole = fs::read(&path).unwrap();
    let resume = || {
        let mut command = fit(&base(), &data, &dir.path("bundle"));
        finish(command.args(["--epochs", "400", "--batch-size", "4", "--checkpoint-every", "2", "--resume"]))
    };
    for place in [9, 60, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[place] ^= 4;
        fs::write(&path, flipped).unwrap();
        resume().failure(2, &["bundle.checkpoint: expected a checkpoint of nimbert-train"]);
    }
}

#[test]
fn errors_of_the_runtime_say_why() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let profile = dir.path("none/trace");
    classify(&bundle, &["film", "--profile", text(&profile)]).failure(2, &["none: No such file"]);
    let library = dir.write("broken.so", "no library");
    classify(&bundle, &["film", "--ort-lib", text(&library)]).failure(2, &["broken.so", "file too short"]);
}

/// As Nix, Bazel or DVC lay a folder out: every file is a link into a folder of its own.
#[cfg(unix)]
#[test]
fn a_bundle_of_links_is_read() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(24));
    let bundle = dir.path("bundle");
    let mut command = fit(&workspace("models/minilm"), &data, &bundle);
    command.args(["--epochs", "1", "--freeze-layers", "6", "--max-length", "16", "--no-checkpoint"]);
    finish(command.args(["--precision", "fp32"])).success();
    assert!(bundle.join("model.onnx_data").exists());
    let links = dir.path("links");
    fs::create_dir(&links).unwrap();
    for (index, entry) in fs::read_dir(&bundle).unwrap().enumerate() {
        let path = entry.unwrap().path();
        let store = dir.path(&format!("store-{index}"));
        fs::create_dir(&store).unwrap();
        let stored = store.join("blob");
        fs::rename(&path, &stored).unwrap();
        std::os::unix::fs::symlink(&stored, links.join(path.file_name().unwrap())).unwrap();
    }
    finish(program("nimbert").arg("verify").arg(&links)).success();
    let with_cache = classify(&links, &["a great film"]).success();
    assert_eq!(classify(&links, &["a great film", "--no-cache"]).success(), with_cache);
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_need_not_be_utf8() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = Dir::default();
    let folder = dir.path("d").with_file_name(OsStr::from_bytes(b"d\xe9"));
    fs::create_dir(&folder).unwrap();
    let data = folder.join("data.csv");
    fs::write(&data, small_csv(40)).unwrap();
    let bundle = folder.join("bundle");
    let mut fit = fit_by_any(&base(), &data, &bundle);
    finish(fit.args(["--method", "frozen"])).success();
    let mut classify = program("nimbert");
    classify.arg("classify").arg(&bundle).arg("--input").arg(&data).arg("--output").arg(folder.join("out.csv"));
    finish(&mut classify).success();
    assert_eq!(fs::read_to_string(folder.join("out.csv")).unwrap().lines().count(), 41);
    let mut tune = program("nimbert-train");
    tune.args(["tune", "--trials", "2", "--method", "frozen", "--cross-validate", "2", "--base"]).arg(base());
    finish(tune.arg("--data").arg(&data).arg("--out").arg(folder.join("tuned"))).success();
    // Nor that of a bundle itself.
    let named = |name: &[u8]| folder.join(OsStr::from_bytes(name));
    let renamed = named(b"b\xe9");
    finish(fit_by_any(&base(), &data, &renamed).args(["--method", "frozen"])).success();
    let packed = named(b"p\xe9.nimbert");
    let mut pack = program("nimbert-train");
    finish(pack.arg("pack").arg(&renamed).arg("--out").arg(&packed)).success();
    assert!(renamed.is_dir() && packed.is_file());
    let is_lossy = |name: std::ffi::OsString| name.to_string_lossy().contains('\u{fffd}') && name.to_str().is_some();
    assert!(!fs::read_dir(&folder).unwrap().any(|entry| is_lossy(entry.unwrap().file_name())));
}

#[test]
fn how_many_labels_a_base_had_is_not_kept() {
    let dir = Dir::default();
    // As transformers 2 wrote it.
    let folder = dir.tiny_bert(|config| {
        config.insert("num_labels".to_owned(), 5.into());
    });
    let data = dir.write("data.csv", small_csv(40));
    let run = |out: &str, further: &[&str]| {
        let mut command = program("nimbert-train");
        command.args(["fit", "--method", "finetune", "--epochs", "1", "--data"]).arg(&data);
        finish(command.arg("--out").arg(dir.path(out)).args(further)).success();
    };
    let model = dir.path("model");
    let [folder, model] = [&folder, &model].map(|path| path.to_str().unwrap());
    run("bundle", &["--base", folder, "--trim-vocab", "300", "--save-model", model]);
    run("further", &["--from", model]);
}
