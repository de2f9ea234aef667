//! The main job with the real base model and real sentences: fit, trace, evaluate, verify, classify.

use std::fs;

use nimbert::{Classifier, Options};
use nimbert_tests::{Dir, finish, fit, program, small_csv, workspace};
use serde_json::Value;

/// `rows` real movie sentences with a clear rating, the first of each class, as CSV.
fn movie_csv(rows: usize) -> String {
    let path = workspace(".setup/data/movieReviewSnippets_GroundTruth.txt");
    let content = fs::read_to_string(path).expect("the demo data: run `cargo xtask setup`");
    let clear = |line: &str| {
        let (rating, text) = line.split_once('\t')?.1.split_once('\t')?;
        let rating: f64 = rating.parse().ok()?;
        (rating.abs() >= 2.0).then(|| (rating > 0.0, format!("\"{}\"", text.trim().replace('"', "\"\""))))
    };
    let mut csv = "text,label\n".to_owned();
    let (mut positive, mut negative) = (0, 0);
    for (is_positive, text) in content.lines().filter_map(clear) {
        let (count, label) = if is_positive { (&mut positive, "positive") } else { (&mut negative, "negative") };
        if *count < rows / 2 {
            *count += 1;
            csv += &format!("{text},{label}\n");
        }
    }
    csv
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn minilm_from_sentences_to_labels() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("movies.csv", movie_csv(160)), dir.path("bundle"));
    let arguments = ["--epochs", "3", "--batch-size", "8", "--test-size", "0.25", "--validation-size", "0"];
    let output = finish(fit(&workspace("models/minilm"), &data, &bundle).args(arguments)).success();
    for part in ["160 rows × 2 columns", "train 120, validation 0, test 40", "[CLS]", "[SEP]", "[PAD]", "384", "rows/s"]
    {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
    assert!(output.contains("made anew: classifier.weight, classifier.bias; unused: none"), "{output}");

    let metrics = json_lines(&fs::read_to_string(dir.path("bundle.metrics.jsonl")).unwrap());
    let epochs: Vec<&Value> = metrics.iter().filter(|record| record["rows_per_second"].is_number()).collect();
    assert_eq!((metrics.len(), epochs.len()), (3 * 15 + 3, 3));
    let losses: Vec<f64> = epochs.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect();
    assert!(losses[2] < 0.75 * losses[0], "{losses:?}");
    let test_accuracy = epochs[2]["test_accuracy"].as_f64().unwrap();
    assert!(test_accuracy >= 0.7, "{test_accuracy}");

    // The shipped int8 graph, by the shipped program, on the same rows.
    let evaluate = |json: &[&str]| {
        finish(program("nimbert-train").arg("evaluate").arg(&bundle).arg("--data").arg(&data).args(json)).success()
    };
    let evaluation: Value = serde_json::from_str(&evaluate(&["--json"])).unwrap();
    assert_eq!(evaluation["rows"], 160);
    assert!(evaluation["accuracy"].as_f64().unwrap() >= 0.8, "{evaluation}");
    assert!(evaluate(&[]).contains("macro F1"));

    finish(program("nimbert").arg("verify").arg(&bundle)).success();
    let labels =
        finish(program("nimbert").arg("classify").arg(&bundle).args(["--json", "I love this movie!"])).success();
    let [answer] = &json_lines(&labels)[..] else { panic!("one line: {labels}") };
    assert_eq!(answer["label"], "positive");
    let scores = answer["scores"].as_object().unwrap();
    let sum: f64 = scores.values().map(|score| score.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5 && answer["score"] == scores["positive"], "{answer}");

    let trace = finish(program("nimbert-train").arg("trace").arg(&bundle).arg("I love this movie!")).success();
    for part in
        ["[CLS] i love this movie ! [SEP]", "101 1045 2293 2023 3185 999 102", "layer 5", "5 label     positive"]
    {
        assert!(trace.contains(part), "no {part:?} in {trace}");
    }
}

/// Everything random follows from the seed: dropout, shuffling, the split, the head.
#[test]
fn the_same_seed_gives_the_same_weights_bit_for_bit() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|config| {
        config.insert("hidden_dropout_prob".into(), 0.1.into());
        config.insert("attention_probs_dropout_prob".into(), 0.1.into());
        config.remove("id2label");
    });
    let data = dir.write("data.csv", small_csv(60));
    let weights = |name: &str, seed: &str| {
        let mut command = fit(&base, &data, &dir.path(&format!("bundle-{name}")));
        finish(command.args(["--epochs", "2", "--seed", seed, "--save-model"]).arg(dir.path(name))).success();
        fs::read(dir.path(name).join("model.safetensors")).unwrap()
    };
    let first = weights("first", "5");
    assert!(first == weights("again", "5"), "the same seed gave other weights");
    assert!(first != weights("other", "6"), "another seed gave the same weights");
}

#[test]
fn a_saved_model_can_be_traced_and_exported_again() {
    let dir = Dir::default();
    let (data, model) = (dir.write("data.csv", small_csv(60)), dir.path("model"));
    let mut command = fit(&workspace("tests/data/tiny-bert"), &data, &dir.path("bundle"));
    // Without validation rows there is no temperature, which a saved model could not say.
    command.args(["--epochs", "1", "--precision", "fp32", "--validation-size", "0", "--save-model"]);
    finish(command.arg(&model)).success();
    let trace = finish(program("nimbert-train").arg("trace").arg(&model).arg("great acting")).success();
    assert!(trace.contains("candle, fp32") && trace.contains("layer 1"), "{trace}");

    let mut command = program("nimbert-train");
    command.arg("export").arg(&model).arg("--out").arg(dir.path("again")).args(["--precision", "fp32"]);
    let report = finish(&mut command).success();
    assert!(report.contains("64 rows (synthetic)"), "{report}");
    let classify = |bundle: &str| {
        let classifier = Classifier::open(dir.path(bundle), &Options::default()).unwrap();
        classifier.classify_batch(["great acting", "terrible plot"]).unwrap()
    };
    assert_eq!(classify("bundle"), classify("again"));
}

#[test]
fn patience_ends_training_early_and_losses_can_be_chosen() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(80));
    let run = |name: &str, arguments: &[&str]| {
        let mut command = fit(&workspace("tests/data/tiny-bert"), &data, &dir.path(name));
        finish(command.args(["--epochs", "40", "--learning-rate", "1e-3"]).args(arguments)).success();
        let metrics = json_lines(&fs::read_to_string(dir.path(&format!("{name}.metrics.jsonl"))).unwrap());
        metrics.iter().filter(|record| record["rows_per_second"].is_number()).count()
    };
    assert!(run("early", &["--patience", "3", "--class-weights", "negative=1,positive=3"]) < 40);
    assert_eq!(run("full", &["--focal-gamma", "2", "--class-weights", "balanced", "--schedule", "cosine"]), 40);
}

#[test]
fn validation_rows_pick_the_epoch_that_is_packed() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(80));
    let mut command = fit(&workspace("tests/data/tiny-bert"), &data, &dir.path("bundle"));
    let output =
        finish(command.args(["--epochs", "4", "--validation-size", "0.25", "--learning-rate", "1e-3"])).success();
    assert!(output.contains("train 48, validation 16, test 16"), "{output}");
    let metrics = json_lines(&fs::read_to_string(dir.path("bundle.metrics.jsonl")).unwrap());
    let accuracies: Vec<f64> = metrics.iter().filter_map(|record| record["validation_accuracy"].as_f64()).collect();
    let best = accuracies.iter().copied().fold(0.0, f64::max);
    let manifest: Value = serde_json::from_slice(&fs::read(dir.path("bundle").join("nimbert.json")).unwrap()).unwrap();
    assert_eq!((accuracies.len(), manifest["acceptance"]["split"].as_str()), (4, Some("validation")));
    assert_eq!(manifest["acceptance"]["fp32_accuracy"].as_f64(), Some(best));
}
