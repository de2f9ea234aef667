//! `--method`: the head alone, and an encoder that learns from few rows.

use std::fs;

use nimbert::{Bundle, Classifier, Encoding, Options, ProblemType, Tokenizer};
use nimbert_tests::{ARCHITECTURES, Dir, base, finish, fit, program, several_labels_jsonl, small_csv, workspace};
use nimbert_trainer::{
    dataloader::Example,
    evaluate::predict,
    features::Features,
    logistic::LogisticRegression,
    loss::Target,
    model::{EncoderConfig, Pooling, SequenceClassifier},
};
use serde_json::Value;

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(workspace(path)).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(floats).collect()
}

fn assert_near(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() <= tolerance, "{what}: expected {expected}, found {got}");
    }
}

/// tiny-bert with a head of one layer for three labels, and its reference's texts in one window each.
fn frozen_bert() -> (SequenceClassifier, Vec<Example>) {
    let config = EncoderConfig::open(&base("bert").join("config.json")).unwrap();
    let config = config.with_linear_head(Pooling::Mean).unwrap();
    let labels = ["a", "b", "c"].map(String::from);
    let model = SequenceClassifier::load(&base("bert").join("model.safetensors"), config, &labels, 0).unwrap().0;
    let tokenizer = Tokenizer::open(&base("bert").join("tokenizer.json"), 128).unwrap();
    let reference = json("tests/data/tiny-bert/reference.json");
    let texts = reference["texts"].as_array().unwrap().iter().enumerate();
    let example = |(row, text): (usize, &Value)| {
        let windows = vec![tokenizer.encode(text.as_str().unwrap()).unwrap()];
        Example { windows, target: [row as u32 % 3].into() }
    };
    (model, texts.map(example).collect())
}

/// tests/data/make_frozen.py made the numbers.
#[test]
fn features_and_regression_are_those_of_the_reference() {
    let frozen = json("tests/data/tiny-bert/frozen.json");
    let (model, examples) = frozen_bert();
    let features = Features::of(&model, &examples, |_| Ok(())).unwrap();
    for (row, expected) in rows(&frozen["features"]).iter().enumerate() {
        assert_near(features.row(row), expected, 1e-5, "features");
    }
    let strength = frozen["strength"].as_f64().unwrap();
    let targets: Vec<&Target> = examples.iter().map(|example| &example.target).collect();
    let task = LogisticRegression { problem_type: ProblemType::SingleLabel, classes: 3, class_weights: None };
    let linear = task.solve(&features, &targets, strength).unwrap();
    for (got, expected) in linear.logits(&features).iter().zip(rows(&frozen["logits"])) {
        // scikit-learn's sum to 0, which changes no probability.
        let mean = got.iter().sum::<f32>() / got.len() as f32;
        assert_near(&got.iter().map(|logit| logit - mean).collect::<Vec<_>>(), &expected, 1e-3, "logits");
    }

    // Any number of labels: each for itself.
    let ids = |of_row: &Vec<f64>| (0..2u32).filter(|&label| of_row[label as usize] > 0.0).collect();
    let several: Vec<Target> =
        rows(&frozen["several"]).iter().map(|of_row| Target { ids: ids(of_row), ..[0].into() }).collect();
    let task = LogisticRegression { problem_type: ProblemType::MultiLabel, classes: 2, class_weights: None };
    let of_several = task.solve(&features, &several.iter().collect::<Vec<_>>(), strength).unwrap();
    for (got, expected) in of_several.logits(&features).iter().zip(rows(&frozen["several_logits"])) {
        assert_near(got, &expected, 1e-3, "logits of several labels");
    }

    // As the model's head, of texts in several windows too.
    model.set_linear_head(&linear).unwrap();
    let mut examples = examples;
    let window: Encoding = examples[1].windows[0].clone();
    examples[0].windows.push(window);
    let features = Features::of(&model, &examples, |_| Ok(())).unwrap();
    let predicted = predict(&model, examples.iter().map(|example| example.windows.as_slice()), 4).unwrap();
    for (got, expected) in predicted.iter().zip(linear.logits(&features)) {
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_near(got, &expected, 1e-4, "logits of the model");
    }
}

#[test]
fn of_every_family() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let data = dir.write("data.csv", small_csv(60));
        let variants = ["--variants", "cpu-int8,gpu-fp16,tensorrt-fp16"];
        for (method, further) in [("frozen", &variants[..]), ("contrastive", &["--epochs", "3", "--pooling", "first"])]
        {
            let bundle = dir.path(method);
            let mut command = fit(&base(name), &data, &bundle);
            command.args(["--method", method, "--max-accuracy-drop", "100", "--save-model"]);
            let output = finish(command.arg(dir.path(&format!("{method}-model"))).args(further)).success();
            assert!(output.contains("regression  logistic"), "{name}: {output}");
            finish(program("nimbert").arg("verify").arg(&bundle)).success();

            let bundle = Bundle::open(&bundle).unwrap();
            let config = json(bundle.path.join("config.json").to_str().unwrap());
            assert_eq!(config["architectures"][0], "NimbertLinearForSequenceClassification", "{name}");
            // An answer does not depend on what it is padded beside.
            let classifier = Classifier::open(&bundle.path, &Options::default()).unwrap();
            let alone = classifier.classify("great acting").unwrap();
            let long = "a thin plot ".repeat(9);
            let beside = &classifier.classify_batch(["great acting", &long]).unwrap()[0];
            assert_eq!((&alone.label, alone.score), (&beside.label, beside.score), "{name} {method}");

            // What was saved is a trained model, which is exported as it is.
            let mut command = program("nimbert-train");
            command.arg("export").arg(dir.path(&format!("{method}-model"))).args(["--variants", "cpu-fp32", "--out"]);
            finish(command.arg(dir.path(&format!("{method}-again")))).success();
            let again = Classifier::open(dir.path(&format!("{method}-again")), &Options::default()).unwrap();
            again.classify("great acting").unwrap();
        }
    }
}

#[test]
fn of_any_number_of_labels_in_windows() {
    let dir = Dir::default();
    let data = dir.write("data.jsonl", several_labels_jsonl(90));
    for method in ["frozen", "contrastive"] {
        let mut command = fit(&base("bert"), &data, &dir.path(method));
        command.args(["--multi-label", "--long-text", "stride", "--max-length", "16", "--stride", "4"]);
        finish(command.args(["--method", method, "--max-accuracy-drop", "100"])).success();
        let classifier = Classifier::open(dir.path(method), &Options::default()).unwrap();
        assert_eq!(classifier.classify(&"great plot ".repeat(30)).unwrap().labels.len(), 2, "{method}");
    }
}

#[test]
fn a_smaller_model_learns_from_any() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(60));
    for (name, further) in
        [("layers", &["--layers", "1", "--epochs", "1"][..]), ("static", &["--student", "static", "--epochs", "1"])]
    {
        let mut command = fit(&base("bert"), &data, &dir.path(name));
        command.args(["--method", "contrastive", "--max-accuracy-drop", "100", "--save-model"]);
        finish(command.arg(dir.path(&format!("{name}-model"))).args(further)).success();
        finish(program("nimbert").arg("verify").arg(dir.path(name))).success();
    }
    // A table of vectors is an encoder too.
    let mut command = fit(&dir.path("static-model"), &data, &dir.path("frozen-static"));
    finish(command.args(["--method", "frozen"])).success();
    finish(program("nimbert").arg("verify").arg(dir.path("frozen-static"))).success();
}

#[test]
fn what_a_method_leaves_out_is_refused() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    for (arguments, expected) in [
        (&["--method", "frozen", "--epochs", "3"][..], ["--epochs", "found --method frozen"]),
        (&["--method", "frozen", "--learning-rate", "1e-3"], ["--learning-rate", "found --method frozen"]),
        (&["--method", "frozen", "--freeze-layers", "1"], ["--freeze-layers", "found --method frozen"]),
        (&["--method", "frozen", "--resume"], ["--resume", "found --method frozen"]),
        (&["--pooling", "mean"], ["--pooling", "found --method finetune"]),
    ] {
        let mut command = fit(&base("bert"), &data, &dir.path("bundle"));
        finish(command.args(arguments)).failure(2, &expected);
        assert!(!dir.path("bundle").exists());
    }
    // A head that this version does not know.
    let folder = dir.tiny_bert(|config| {
        config.insert("nimbert_head".to_owned(), "cubic".into());
    });
    finish(&mut fit(&folder, &data, &dir.path("bundle"))).failure(2, &["nimbert_head linear, or none", "cubic"]);
}
