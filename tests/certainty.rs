//! What a bundle says of its answers: texts that are unknown, sets of labels.

use std::{fs, path::Path};

use nimbert::{Batch, Bundle, Classifier, Encoding, Options, Session, SessionOptions, Tokenizer};
use nimbert_tests::{
    ARCHITECTURES, Dir, base, finish, fit, fit_by_any, program, seal, several_labels_jsonl, small_csv, tiny_bundle,
};
use nimbert_trainer::{
    dataloader::Example,
    evaluate::answer,
    features::Features,
    mahalanobis::Mahalanobis,
    model::{EncoderConfig, Pooling, SequenceClassifier},
    onnx::{self, GraphConfig, Operators},
};
use serde_json::Value;

use crate::graph::TEXTS;

/// A model of a family as it is, or with a head of one layer, and texts as it reads them.
fn model(name: &str, is_linear: bool) -> (SequenceClassifier, Vec<Example>) {
    let mut config = EncoderConfig::open(&base(name).join("config.json")).unwrap();
    if is_linear {
        config = config.with_linear_head(Pooling::Mean).unwrap();
    }
    let tokenizer = Tokenizer::open(&base(name).join("tokenizer.json"), 60).unwrap();
    let labels = ["a", "b"].map(String::from);
    let model = SequenceClassifier::load(&base(name).join("model.safetensors"), config, &labels, 0).unwrap().0;
    let example = |(row, text): (usize, &&str)| Example {
        windows: vec![tokenizer.encode(*text).unwrap()],
        target: [row as u32 % 2].into(),
    };
    (model, TEXTS.iter().enumerate().map(example).collect())
}

#[test]
fn a_bundle_that_is_never_right_often_enough_is_unsure_of_all_texts() {
    let dir = Dir::default();
    // Labels that nothing in the texts tells.
    let rows: String = (0..120).map(|row| format!("a film about {},{}\n", row % 7, row * 7 % 5 % 2)).collect();
    let (data, bundle) = (dir.write("data.csv", format!("text,label\n{rows}")), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(["--method", "frozen", "--validation-size", "0.4", "--abstain-precision", "1"]);
    let output = finish(&mut command).success();
    let (told, tested) = ("unsure of all texts: from no score on", "tested      of 24 test rows: ");
    assert!(output.contains(told) && output.contains(tested) && output.contains("; unsure of 24"), "{output}");
    let prediction = Classifier::open(&bundle, &Options::default()).unwrap().classify("a film about 3").unwrap();
    assert!(prediction.abstained);
    let info = finish(program("nimbert").arg("info").arg(&bundle)).success();
    assert!(info.contains("unsure       of all texts"), "{info}");
}

#[test]
fn every_graph_says_the_distance_that_was_fitted() {
    for (name, is_linear) in ARCHITECTURES.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let (model, examples) = model(name, is_linear);
        let features = Features::of(&model, &examples, |_| Ok(())).unwrap();
        let classes: Vec<usize> = examples.iter().map(|example| example.target.id() as usize).collect();
        // Of four rows, so that the others are further away.
        let rows = features.select(&[0, 1, 2, 3]);
        let fitted = Mahalanobis::fit(&rows, &classes[..4]).unwrap();
        let told = fitted.clone().told_from(&rows, &features.select(&[4, 5]), 0, || Ok(())).unwrap();
        assert_ne!(told.distances(&features).unwrap(), fitted.distances(&features).unwrap());
        let texts: Vec<&[Encoding]> = examples.iter().map(|example| example.windows.as_slice()).collect();
        let forms = [(Operators::Microsoft, false), (Operators::Standard, false), (Operators::Standard, true)];
        // What tells strangers from four rows is steep: halves, which are least exact, get no nearer to it than that.
        let fitted = [(&fitted, 0.1), (&told, 0.5)];
        for ((operators, is_half), (fitted, of_halves)) in
            forms.into_iter().flat_map(|form| fitted.map(|one| (form, one)))
        {
            let expected = fitted.distances(&features).unwrap();
            let graph = model.graph(GraphConfig { operators, distance: Some(fitted), ..GraphConfig::FP32 }).unwrap();
            let graph = if is_half { onnx::to_fp16(graph).unwrap() } else { graph };
            let dir = Dir::default();
            onnx::write(&graph, &dir.path("graph.onnx")).unwrap();
            let mut session = Session::open(&dir.path("graph.onnx"), &SessionOptions::default()).unwrap();
            let answers = answer(&mut session, texts.iter().copied(), model.config.pad_token_id, 4).unwrap();
            let tolerance = if is_half { of_halves } else { 2e-3 };
            for (answer, expected) in answers.iter().zip(&expected) {
                let found = answer.distance.unwrap();
                assert!(
                    (found - expected).abs() <= tolerance * expected.max(1.0),
                    "{name}, {is_linear}, {operators:?}, {is_half}: {found}, expected {expected}"
                );
            }
        }
    }
}

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A bundle with everything that can be said, of rows with a text that is none of theirs.
fn bundle(dir: &Dir, command: &[&str]) -> std::path::PathBuf {
    let (data, bundle) = (dir.write("data.csv", small_csv(120)), dir.path("bundle"));
    let mut fit = fit_by_any(&base("bert"), &data, &bundle);
    let output = finish(fit.args(["--unknown-rate", "0.1", "--coverage", "0.8"]).args(command)).success();
    assert!(output.contains("\nunknown     distances above ") && output.contains("\nsets        labels"), "{output}");
    assert!(output.contains(" test rows: ") && output.contains("taken for unknown"), "{output}");
    bundle
}

fn predictions(bundle: &Path, texts: &[&str]) -> Vec<nimbert::Prediction> {
    Classifier::open(bundle, &Options::default()).unwrap().classify_batch(texts).unwrap()
}

#[test]
fn a_bundle_says_what_is_unknown_and_which_labels_may_be_right() {
    let dir = Dir::default();
    let bundle = bundle(&dir, &["--method", "frozen", "--validation-size", "0.3"]);
    let manifest = Bundle::open(&bundle).unwrap().manifest;
    let (unknown, coverage) = (manifest.unknown.unwrap(), manifest.coverage.unwrap());
    assert_eq!((unknown.rate, coverage.share), (0.1, 0.8));
    let texts = ["one of the year's best films , great acting 2", "电影很好看 电影很好看 电影很好看"];
    for prediction in predictions(&bundle, &texts) {
        assert_eq!(prediction.unknown, prediction.distance.unwrap() > unknown.threshold);
        let set = prediction.set.clone().unwrap();
        assert!(set.contains(&prediction.label), "{set:?}");
        let is_in = |(label, score): &(String, f32)| *score >= coverage.thresholds[0] || *label == prediction.label;
        assert!(prediction.scores.iter().all(|score| set.contains(&score.0) == is_in(score)));
    }
    let near = predictions(&bundle, &texts);
    assert!(!near[0].unknown && near[1].unknown, "{near:?}");

    // In every form that the program writes.
    let mut classify = program("nimbert");
    let output = finish(classify.arg("classify").arg(&bundle).args(texts)).success();
    assert!(output.lines().nth(1).unwrap().starts_with("unknown\t"), "{output}");
    let mut classify = program("nimbert");
    let output = lines(&finish(classify.arg("classify").arg(&bundle).args(texts).arg("--json")).success());
    assert_eq!((&output[1]["unknown"], output[1]["set"].is_array()), (&true.into(), true));
    let input = dir.write("texts.csv", format!("text,unknown\n{},mine\n", texts[1].replace(' ', "")));
    let (mut classify, out) = (program("nimbert"), dir.path("out.csv"));
    finish(classify.arg("classify").arg(&bundle).arg("--input").arg(input).arg("--output").arg(&out)).success();
    let csv = fs::read_to_string(out).unwrap();
    let mut csv = csv.lines();
    assert!(csv.next().unwrap().ends_with(",set,distance,unknown,input_unknown"));
    assert!(csv.next().unwrap().ends_with(",true,mine"));

    let output = finish(program("nimbert").arg("info").arg(&bundle)).success();
    assert!(output.contains("unknown      distances above") && output.contains("80.00 % of cases"), "{output}");
    let data = dir.write("more.csv", small_csv(60));
    let mut evaluate = program("nimbert-train");
    let output = finish(evaluate.arg("evaluate").arg(&bundle).arg("--data").arg(data).arg("--json")).success();
    let figures: Value = serde_json::from_str(&output).unwrap();
    assert!(["coverage", "unknown", "labels_a_set"].iter().all(|name| figures[name].is_number()), "{figures}");
}

/// Rows of two labels, and some of a third that are like none of them.
fn with_strangers(rows: usize, strangers: usize) -> String {
    let strangers = (0..strangers).map(|row| format!("电影很好看 {},other\n", "很好看 ".repeat(row % 5 + 1)));
    small_csv(rows) + &strangers.collect::<String>()
}

#[test]
fn strangers_teach_and_test_what_is_unknown_and_are_no_label() {
    let dir = Dir::default();
    let data = dir.write("data.csv", with_strangers(120, 40));
    for (name, further) in [("validated", ["--validation-size", "0.3"]), ("folds", ["--cross-validate", "3"])] {
        let bundle = dir.path(name);
        let mut fit = fit_by_any(&base("bert"), &data, &bundle);
        fit.args(["--method", "frozen", "--unknown-rate", "0.1", "--unknown-label", "other"]).args(further);
        let output = finish(&mut fit).success();
        assert!(output.contains("other: 32 rows teach which texts are like no label, 8 test it"), "{output}");
        assert!(
            output.contains("of 8 texts that are like no label: 100.00 % taken for unknown; AUROC 1.0000"),
            "{output}"
        );
        assert!(fs::read_to_string(dir.path(&format!("{name}.report.html"))).unwrap().contains("AUROC of strangers"));
        assert!(!Bundle::open(&bundle).unwrap().config.labels.contains(&"other".to_owned()));
        let answers = predictions(&bundle, &["电影很好看 很好看", "one of the year's best films , great acting 2"]);
        assert!(answers[0].unknown && answers[0].distance > answers[1].distance, "{answers:?}");
    }
    let evaluate = |further: &[&str]| {
        let mut evaluate = program("nimbert-train");
        finish(evaluate.arg("evaluate").arg(dir.path("folds")).arg("--data").arg(&data).args(further))
    };
    evaluate(&[]).failure(2, &["data.csv:122", "expected one of the labels", "\"other\""]);
    let figures: Value = serde_json::from_str(&evaluate(&["--unknown-label", "other", "--json"]).success()).unwrap();
    assert_eq!((&figures["rows"], &figures["strangers"]["rows"]), (&120.into(), &40.into()));
    assert!(figures["strangers"]["roc_auc"].as_f64().unwrap() > 0.99, "{figures}");
    assert!(evaluate(&["--unknown-label", "other"]).success().contains("of 40 texts that are like no label"));
    let mut check = program("nimbert-train");
    let output = finish(check.arg("check").arg("--data").arg(&data).args(["--unknown-label", "other"])).success();
    assert!(output.contains("data.csv: 40 rows with \"other\" are set aside"), "{output}");
}

/// A line with a weight: 0 of strangers.
fn weighed(line: &str) -> String {
    let weight = match line {
        "text,label" => "weight",
        line if line.ends_with(",other") => "0",
        _ => "1",
    };
    format!("{line},{weight}\n")
}

#[test]
fn strangers_that_cannot_be_are_refused() {
    let dir = Dir::default();
    let (data, several) =
        (dir.write("data.csv", with_strangers(60, 10)), dir.write("tags.jsonl", several_labels_jsonl(40)));
    let strangers = dir.write("strangers.csv", with_strangers(0, 10));
    let weighed = with_strangers(60, 10).lines().map(weighed).collect::<String>();
    let weightless = dir.write("weightless.csv", weighed);
    for (data, arguments, expected) in [
        (&data, &["--unknown-label", "other"][..], "--unknown-rate with it"),
        (
            &data,
            &["--unknown-label", "others", "--unknown-rate", "0.2"],
            "rows with that label, and a weight, that are learned from",
        ),
        (&strangers, &["--unknown-label", "other", "--unknown-rate", "0.2"], "a row of another label"),
        (
            &weightless,
            &["--unknown-label", "other", "--unknown-rate", "0.2", "--weight-column", "weight"],
            "rows with that label, and a weight, that are learned from",
        ),
        (&several, &["--unknown-label", "a", "--multi-label"], "--multi-label"),
    ] {
        finish(fit(&base("bert"), data, &dir.path("bundle")).args(arguments)).failure(2, &[expected]);
    }
    assert!(!dir.path("bundle").exists());
    let mut evaluate = program("nimbert-train");
    evaluate.arg("evaluate").arg(tiny_bundle(&dir)).arg("--data").arg(&data).args(["--unknown-label", "other"]);
    finish(&mut evaluate).failure(2, &["a bundle that says what is unknown"]);
}

#[test]
fn strangers_are_set_aside_by_what_needs_no_labels() {
    let dir = Dir::default();
    let more = "text,label\n\"Café Zoë – naïve résumé\",\n\"I love this movie!\",\n";
    let (data, more) = (dir.write("data.csv", with_strangers(40, 6)), dir.write("more.csv", more));
    let mut suggest = program("nimbert-train");
    suggest.arg("suggest").arg(tiny_bundle(&dir)).arg("--unlabelled").arg(more).arg("--data").arg(&data);
    suggest.args(["--unknown-label", "other", "--count", "2", "--out"]).arg(dir.path("next.csv"));
    let output = suggest.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("6 rows with \"other\" are set aside"), "{told}");
    let mut check = program("nimbert-train");
    check.arg("check").arg("--data").arg(&data).args(["--unknown-label", "other", "--json"]);
    let found: Value = serde_json::from_str(&finish(&mut check).success()).unwrap();
    assert_eq!((&found["rows"], &found["strangers"]), (&40.into(), &6.into()));
}

#[test]
fn folds_find_the_distance_where_there_are_no_validation_rows() {
    for method in ["frozen", "contrastive", "finetune"] {
        let dir = Dir::default();
        let further =
            ["--method", method, "--cross-validate", "3", "--validation-size", "0", "--max-accuracy-drop", "100"];
        let bundle = bundle(&dir, &further);
        let report = fs::read_to_string(dir.path("bundle.report.html")).unwrap();
        assert!(report.contains("<td>unknown</td>"), "{report}");
        let threshold = Bundle::open(&bundle).unwrap().manifest.unknown.unwrap().threshold;
        assert!(threshold.is_finite() && threshold > 0.0, "{method}: {threshold}");
    }
}

#[test]
fn windows_and_smaller_models_have_distances_too() {
    let dir = Dir::default();
    let windows = ["--method", "frozen", "--validation-size", "0.3", "--long-text", "stride", "--max-length", "8"];
    let of_windows = bundle(&dir, &windows);
    let long = TEXTS[3];
    assert!(predictions(&of_windows, &[long])[0].distance.unwrap().is_finite());
    let dir = Dir::default();
    let small = bundle(&dir, &["--student", "static", "--max-accuracy-drop", "100", "--validation-size", "0.3"]);
    assert!(predictions(&small, &TEXTS)[1].distance.unwrap().is_finite());
}

#[test]
fn what_cannot_be_found_is_refused_before_training() {
    let dir = Dir::default();
    let (data, several) = (dir.write("data.csv", small_csv(60)), dir.write("tags.jsonl", several_labels_jsonl(40)));
    for (data, arguments, expected) in [
        (&data, &["--unknown-rate", "0.01"][..], "at least 99 rows"),
        (&data, &["--coverage", "0.99"], "at least 99 rows"),
        (&data, &["--coverage", "1"], "a share between 0 and 1"),
        (&data, &["--unknown-rate", "0"], "a share between 0 and 1"),
        (&data, &["--unknown-rate", "0.1", "--validation-size", "0"], "rows to find it by"),
        (&data, &["--coverage-by-label"], "--coverage <SHARE>"),
        (&several, &["--coverage", "0.8", "--multi-label"], "expected rows of one label"),
    ] {
        finish(fit(&base("bert"), data, &dir.path("bundle")).args(arguments)).failure(2, &[expected]);
    }
    // Too few rows for folds, and no validation rows.
    let few = dir.write("few.csv", small_csv(8));
    let mut command = fit_by_any(&base("bert"), &few, &dir.path("bundle"));
    finish(command.args(["--unknown-rate", "0.5", "--test-size", "0.6"])).failure(2, &["none, and no folds"]);
    assert!(!dir.path("bundle").exists());
}

#[test]
fn texts_of_any_number_of_labels_are_unknown_too() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("tags.jsonl", several_labels_jsonl(60)), dir.path("bundle"));
    let mut fit = fit(&base("bert"), &data, &bundle);
    finish(fit.args([
        "--multi-label",
        "--unknown-rate",
        "0.2",
        "--validation-size",
        "0.3",
        "--max-accuracy-drop",
        "100",
    ]))
    .success();
    let predictions = predictions(&bundle, &TEXTS);
    assert!(predictions.iter().all(|prediction| prediction.distance.is_some() && prediction.set.is_none()));
}

#[test]
fn a_manifest_that_asks_for_more_than_the_graph_says_is_refused() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    seal::change_manifest(&bundle, |manifest| {
        manifest["unknown"] = serde_json::json!({ "rate": 0.1, "threshold": 1.0 });
    });
    let mut classify = program("nimbert");
    finish(classify.arg("classify").arg(&bundle).arg("a text")).failure(2, &["a graph with the output distance"]);
    let encoding = Encoding { input_ids: vec![1, 2], token_type_ids: vec![0; 2], truncated: false };
    let mut session = Session::open(&bundle.join("model.onnx"), &SessionOptions::default()).unwrap();
    let answers = session.answers(&Batch::pad([&encoding].into_iter(), 0)).unwrap();
    assert!(answers.len() == 1 && answers[0].distance.is_none());
}
