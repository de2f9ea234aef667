//! `--method`: the head alone, and an encoder that learns from few rows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nimbert::{Bundle, Classifier, Encoding, Options, ProblemType, Tokenizer};
use nimbert_tests::{
    ARCHITECTURES, Dir, base, finish, fit_by_any, program, several_labels_jsonl, small_csv, workspace,
};
use nimbert_trainer::{
    Error,
    dataloader::Example,
    evaluate::predict,
    feature_cache::FeatureCache,
    features::{Features, Read},
    logistic::{LinearLayer, LogisticRegression},
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

/// The same with the head that BERT has.
fn plain_bert() -> SequenceClassifier {
    let config = EncoderConfig::open(&base("bert").join("config.json")).unwrap();
    let labels = ["a", "b", "c"].map(String::from);
    SequenceClassifier::load(&base("bert").join("model.safetensors"), config, &labels, 0).unwrap().0
}

/// What a trained head knows of its labels is kept where others come behind them.
#[test]
fn a_head_grows_by_labels() {
    let load = |labels: &[&str]| {
        let config = EncoderConfig::open(&base("bert").join("config.json")).unwrap();
        let labels: Vec<String> = labels.iter().copied().map(String::from).collect();
        SequenceClassifier::load(&base("bert").join("model.safetensors"), config, &labels, 0).unwrap().0
    };
    let weight = |model: &SequenceClassifier, part: &str| -> Vec<f32> {
        let parameter = model.parameters().get(&format!("classifier.{part}")).unwrap();
        parameter.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (known, grown, others) =
        (load(&["negative", "positive"]), load(&["negative", "positive", "a"]), load(&["a", "b"]));
    assert_eq!([&known, &grown, &others].map(|model| model.head_was_new), [false, true, true]);
    for (part, count) in [("weight", 64), ("bias", 2)] {
        let (known, grown) = (weight(&known, part), weight(&grown, part));
        assert_eq!((known.len(), grown.len(), &known[..]), (count, count / 2 * 3, &grown[..count]));
    }
    assert_ne!(weight(&known, "weight"), weight(&others, "weight"));
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

    // As the model's head, of texts in several windows too; and as the last layer of a head of two.
    let mut examples = examples;
    let window: Encoding = examples[1].windows[0].clone();
    examples[0].windows.push(window);
    for model in [model, plain_bert()] {
        model.set_last_layer(&linear).unwrap();
        let features = Features::read(&model, &examples, Read::LastLayer, |_| Ok(())).unwrap();
        let predicted = predict(&model, examples.iter().map(|example| example.windows.as_slice()), 4).unwrap();
        for (got, expected) in predicted.iter().zip(linear.logits(&features)) {
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            assert_near(got, &expected, 1e-4, "logits of the model");
        }
    }
}

/// What is kept of texts is what is computed, whatever lies in the cache.
#[test]
fn a_cache_knows_what_the_encoder_says() {
    let dir = Dir::default();
    let cache = FeatureCache::new(dir.path("cache/features"));
    let (model, examples) = frozen_bert();
    let expected = Features::of(&model, &examples, |_| Ok(())).unwrap();
    // How many texts are known, what the encoder is asked for, and whether anything is said.
    let read = |model: &SequenceClassifier, examples: &[Example]| {
        let mut read = 0;
        let count = |texts| {
            read += texts;
            Ok(())
        };
        let recalled = cache.read(model, examples, Read::Direction, count).unwrap();
        assert_eq!(read, examples.len());
        (recalled.features, recalled.known, recalled.warning)
    };
    let some = &examples[..5];
    assert_eq!(read(&model, some), (expected.select(&[0, 1, 2, 3, 4]), 0, None));
    let files = || -> Vec<PathBuf> {
        fs::read_dir(dir.path("cache/features")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let file = files().remove(0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // In another order, twice, and with some more of them.
    let all = |order: &[usize]| order.iter().map(|&row| examples[row].clone()).collect::<Vec<_>>();
    let order = [4, 7, 0, 7, 1];
    let (features, known, warning) = read(&model, &all(&order));
    assert_eq!((known, warning), (3, None));
    for (place, row) in order.into_iter().enumerate() {
        let expected: Vec<f64> = expected.row(row).iter().copied().map(f64::from).collect();
        assert_near(features.row(place), &expected, 1e-6, "what was kept");
    }
    assert_eq!(read(&model, &all(&order)), (features, 5, None));
    // A text of two windows is another text, and the last layer of a head decides nothing.
    let mut longer = examples[0].clone();
    longer.windows.push(examples[1].windows[0].clone());
    assert_eq!(read(&model, &[longer]).1, 0);
    let layer = LinearLayer { weight: vec![0.5; 3 * 32], bias: vec![0.0; 3] };
    model.set_last_layer(&layer).unwrap();
    assert_eq!((read(&model, some).1, files().len()), (5, 1));
    // Another encoder has a file of its own.
    let (other, _) = frozen_bert();
    let norm = other.parameters().get("bert.embeddings.LayerNorm.bias").unwrap();
    norm.set(&norm.ones_like().unwrap()).unwrap();
    assert_eq!((read(&other, some).1, files().len()), (0, 2));

    // What is damaged, cut, or anything else is read anew, and told.
    let bytes = fs::read(&file).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    for damaged in [&changed[..], &bytes[..bytes.len() / 2], b"no safetensors"] {
        fs::write(&file, damaged).unwrap();
        let (features, known, warning) = read(&model, some);
        assert_eq!((features.row(0), known), (expected.row(0), 0));
        assert!(warning.unwrap().contains("damaged; all texts are read anew"));
        assert_eq!(read(&model, some).1, 5);
    }
    // And what is whole, but of something else.
    let of_other = files().into_iter().find(|path| *path != file).unwrap();
    fs::copy(&of_other, &file).unwrap();
    let (features, known, warning) = read(&model, some);
    assert_eq!((features.row(0), known), (expected.row(0), 0));
    assert!(warning.unwrap().contains("not what is computed now"));

    // A run that is ended keeps what it has read, by 256 texts.
    let another = |id: u32| {
        let mut example = examples[0].clone();
        example.windows[0].input_ids.splice(1..2, [id / 20 + 5, id % 20 + 5]);
        example.windows[0].token_type_ids.push(0);
        example
    };
    let many: Vec<Example> = (0..320).map(another).collect();
    let mut count = 0;
    let ended = cache.read(&model, &many, Read::Direction, |texts| {
        count += texts;
        if count < 300 { Ok(()) } else { Err(Error::Interrupted { during: "a test".to_owned() }) }
    });
    assert!(matches!(ended, Err(Error::Interrupted { .. })));
    assert_eq!(read(&model, &many).1, 256);
}

/// Commands share what a base says of texts, and say so.
#[test]
fn a_text_is_read_once_by_a_base() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(80));
    let cached = |mut command: std::process::Command, further: &[&str]| {
        command.env("NIMBERT_CACHE", dir.path("cache")).args(further);
        let output = finish(&mut command);
        assert_eq!(output.status, Some(0), "{output:?}");
        output.stderr
    };
    let first = cached(check_deep(&data), &[]);
    assert!(!first.contains("read before"), "{first}");
    // Numbers are one token to the tiny BERT.
    let more = small_csv(80) + "a great film of the year,positive\n";
    let mut fit = fit_by_any(&base("bert"), &data, &dir.path("bundle"));
    fit.args(["--method", "frozen", "--test-size", "0", "--validation-size", "0"]);
    for (command, further, known) in [
        (check_deep(&data), &[][..], Some(80)),
        (fit, &["--max-accuracy-drop", "20"], Some(80)),
        (check_deep(&data), &["--no-cache"], None),
        (check_deep(&dir.write("more.csv", more)), &[], Some(80)),
    ] {
        let said = cached(command, further);
        let expected = known.map(|known| format!("{known} of "));
        assert_eq!(said.contains("texts were read before"), known.is_some(), "{said}");
        assert!(expected.is_none_or(|expected| said.contains(&expected)), "{said}");
    }
}

/// A head that is new begins as a regression where there are three labels or more, and one that knows the labels stays as it is.
#[test]
fn finetuning_begins_with_a_regression() {
    let dir = Dir::default();
    let data = dir.write("data.csv", topics(&["films", "acting", "plot"], 36));
    let fit = |base: &Path, out: &str, further: &[&str]| {
        let mut command = fit_by_any(base, &data, &dir.path(out));
        finish(command.args(["--method", "finetune", "--epochs", "1", "--learning-rate", "1e-6"]).args(further))
            .success()
    };
    let model = dir.path("model");
    let output = fit(&base("bert"), "bundle", &["--save-model", model.to_str().unwrap()]);
    assert!(output.contains("regression  logistic, C 100: the head's last layer, "), "{output}");
    // Nothing else has learned anything.
    assert!(output.contains("fp32: accuracy 100.00 %"), "{output}");
    assert!(!fit(&model, "again", &[]).contains("regression"));
    let two = dir.write("two.csv", topics(&["films", "plot"], 24));
    let mut command = fit_by_any(&base("bert"), &two, &dir.path("two"));
    assert!(!finish(command.args(["--method", "finetune", "--epochs", "1"])).success().contains("regression"));
}

/// So many rows of each topic, whose label is its name.
fn topics(topics: &[&str], rows: usize) -> String {
    let row = |row: usize| {
        let topic = topics[row % topics.len()];
        format!("great {topic} and {topic} {row},{topic}\n")
    };
    std::iter::once("text,label\n".to_owned()).chain((0..rows * topics.len()).map(row)).collect()
}

/// A model goes on with a new label, and with some of its old rows.
#[test]
fn a_trained_model_goes_on() {
    let dir = Dir::default();
    let old = dir.write("old.csv", topics(&["films", "plot"], 40));
    let (new, model, bundle) = (dir.write("new.csv", topics(&["acting"], 30)), dir.path("model"), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &old, &dir.path("first"));
    finish(command.args(["--epochs", "6", "--method", "finetune", "--save-model"]).arg(&model)).success();
    // Whoever may read the one may read the other.
    let [configuration, weights] =
        ["config.json", "model.safetensors"].map(|name| fs::metadata(model.join(name)).unwrap().permissions());
    assert_eq!(configuration, weights);

    let go_on = |new: &Path, out: &str, further: &[&str]| {
        let mut command = program("nimbert-train");
        command.args(["fit", "--variants", "cpu-int8", "--max-accuracy-drop", "20", "--data"]).arg(new);
        command.arg("--out").arg(dir.path(out)).arg("--from").arg(&model).args(further);
        command
    };
    let rehearsal = ["--rehearsal", old.to_str().unwrap(), "--rehearsal-rows", "30"];
    let output = finish(go_on(&new, "bundle", &rehearsal).args(["--epochs", "4", "--validation-size", "0"])).success();
    // Of 30 new rows 24 are learned from, and 6 tested on; of 80 old ones the 16 that the model was tested on.
    let division = "of 80 rows 30 are learned from again, 0 validated by, 16 tested on";
    assert!(output.contains(division) && output.contains("110 rows → train 54, validation 0, test 22"), "{output}");
    assert!(output.contains("new labels: acting") && output.contains("acting 30"), "{output}");
    assert!(output.contains("made anew: the last 1 rows of classifier.weight"), "{output}");
    assert_eq!(figures(&output, "new.csv"), ["6", "0.00 %", "100.00 %"], "{output}");
    assert_eq!(figures(&output, "old.csv"), ["16", "100.00 %", "100.00 %"], "{output}");
    let Bundle { config, .. } = Bundle::open(&bundle).unwrap();
    // A new label comes behind those that are known, whatever its name.
    assert_eq!(config.labels, ["films", "plot", "acting"]);
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    for label in ["films", "plot", "acting"] {
        assert_eq!(classifier.classify(&format!("great {label} and {label} 7")).unwrap().label, label);
    }
    assert!(fs::read_to_string(dir.path("bundle.report.html")).unwrap().contains("Old and new rows"));

    // Without them, that is said.
    let output = finish(go_on(&new, "alone", &["--epochs", "1"]).args(["--overwrite"])).success();
    assert!(output.contains("no row is learned from with films, plot: it may be forgotten"), "{output}");
    // Known labels alone: the head stays as it is, and what the model has seen is not tested on, whatever the seed.
    let further = ["--epochs", "1", "--seed", "9", "--test-size", "0.5", "--save-model"];
    let again = dir.path("again");
    let output = finish(go_on(&old, "known", &further).arg(&again)).success();
    assert!(output.contains("made anew: none") && !output.contains("regression"), "{output}");
    let seen = "64 rows of ";
    assert!(output.contains(seen) && output.contains("80 rows → train 65, validation 7, test 8"), "{output}");
    // What it was validated by is so again beside a file for that, which had rows of its own; and learned from where nothing is validated.
    let further_rows = dir.write("further.csv", topics(&["films", "plot"], 3).replace("great", "fine"));
    let validation = ["--epochs", "1", "--validation-data", further_rows.to_str().unwrap()];
    let output = finish(&mut go_on(&old, "validated", &validation)).success();
    assert!(output.contains("80 rows → train 71, validation 12 from "), "{output}");
    assert!(output.contains("6 rows by which the model was validated serve for that again, beside "), "{output}");
    let output = finish(&mut go_on(&old, "unvalidated", &["--epochs", "1", "--validation-size", "0"])).success();
    assert!(output.contains("80 rows → train 77, validation 0, test 3"), "{output}");
    // Going on twice: what either has learned from is known.
    let mut command = program("nimbert-train");
    command.args(["fit", "--max-accuracy-drop", "20", "--epochs", "1", "--data"]).arg(&new).arg("--from").arg(&again);
    let output = finish(command.arg("--out").arg(dir.path("twice")).arg("--rehearsal").arg(&old)).success();
    assert!(output.contains("of 80 rows 65 are learned from again, 7 validated by, 8 tested on"), "{output}");
    // A test file besides, and one text that is new and old.
    let both = dir.write("both.csv", topics(&["films", "acting"], 6));
    let rest = ["--test-data", both.to_str().unwrap(), "--rehearsal", old.to_str().unwrap(), "--epochs", "1"];
    let mixed = topics(&["acting", "films"], 40);
    let output = finish(&mut go_on(&dir.write("mixed.csv", mixed), "mixed", &rest)).success();
    assert_eq!(figures(&output, "both.csv")[0], "12", "{output}");
    assert!(output.contains("both.csv: the model has learned from "), "{output}");
    // Rows of a folder that does not say what it has learned.
    fs::remove_file(again.join("learned.json")).unwrap();
    let mut command = program("nimbert-train");
    command.args(["fit", "--epochs", "1", "--max-accuracy-drop", "20", "--data"]).arg(&old).arg("--from").arg(&again);
    let unknown = dir.path("unknown-model");
    let output = finish(command.arg("--out").arg(dir.path("unknown")).arg("--save-model").arg(&unknown)).success();
    assert!(output.contains("the model does not say which rows it has learned from"), "{output}");
    // What was not known is not known later.
    let mut command = program("nimbert-train");
    command.args(["fit", "--epochs", "1", "--max-accuracy-drop", "20", "--data"]).arg(&old).arg("--from").arg(&unknown);
    let output = finish(command.arg("--out").arg(dir.path("still-unknown"))).success();
    assert!(output.contains("the model does not say which rows it has learned from"), "{output}");
    // A model that begins with a trained one has seen its rows too, also where a spreadsheet has saved them anew.
    let spaced =
        dir.write("spaced.csv", topics(&["films", "plot"], 40).replace("great films and", " Great  films and"));
    for data in [&old, &spaced] {
        let mut command = fit_by_any(&model, data, &dir.path("begun"));
        let output = finish(command.args(["--method", "frozen", "--overwrite"])).success();
        assert!(output.contains("--base has learned from 64 of these 80 rows, or was validated by them"), "{output}");
    }
    let unseen = dir.write("unseen.csv", topics(&["acting", "music"], 12));
    let mut command = fit_by_any(&model, &unseen, &dir.path("begun"));
    assert!(!finish(command.args(["--epochs", "1", "--overwrite"])).success().contains("--base has learned"));
}

/// What folds say is written before the bundle, which has no folder yet.
#[test]
fn folds_come_before_the_folder_of_a_bundle() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let bundle = dir.path("new/runs/bundle");
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    finish(command.args(["--method", "frozen", "--cross-validate", "2"])).success();
    assert!(bundle.with_added_extension("out-of-fold.jsonl").is_file() && bundle.is_dir());
}

/// A pipe gives its rows once.
#[cfg(unix)]
#[test]
fn rows_of_a_pipe_are_learned_from() {
    let dir = Dir::default();
    let pipe = dir.path("rows.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let fed = pipe.clone();
    let writer = std::thread::spawn(move || fs::write(fed, small_csv(40)).unwrap());
    let bundle = dir.path("bundle");
    let mut command = fit_by_any(&base("bert"), &pipe, &bundle);
    let output = finish(command.args(["--method", "finetune", "--epochs", "1"])).success();
    writer.join().unwrap();
    assert!(output.contains("40 rows"));
    assert_eq!(Bundle::open(&bundle).unwrap().manifest.provenance.data_sha256, None);
}

/// A matrix of many labels is nothing to read.
#[test]
fn of_many_labels_those_that_are_confused_are_shown() {
    let dir = Dir::default();
    let labels: Vec<String> = (0..21).map(|label| format!("label {label}")).collect();
    let row = |row: usize| format!("great film {},{}\n", row % 2, labels[row % 21]);
    let data = dir.write("data.csv", "text,label\n".to_owned() + &(0..84).map(row).collect::<String>());
    let bundle = dir.path("bundle");
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    finish(command.args(["--method", "frozen", "--precision", "fp32"])).success();
    let output = finish(program("nimbert-train").arg("evaluate").arg(&bundle).arg("--data").arg(&data)).success();
    assert!(output.contains("most frequent of ") && output.contains(" taken for label "), "{output}");
    assert!(!output.contains("in the same order"), "{output}");
}

/// Number of rows, share before and after, of the line about them.
fn figures(output: &str, name: &str) -> Vec<String> {
    let is_line = |line: &&str| line.contains(&format!("{name}  "));
    let line = output.lines().find(is_line).unwrap_or_else(|| panic!("no line of {name} rows in {output}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).skip(1).map(str::to_owned).collect()
}

#[test]
fn what_cannot_be_gone_on_from() {
    let dir = Dir::default();
    let (old, bundle) = (dir.write("old.csv", topics(&["films", "plot"], 12)), dir.path("first"));
    let model = dir.path("model");
    let mut command = fit_by_any(&base("bert"), &old, &bundle);
    finish(command.args(["--epochs", "1", "--method", "finetune", "--save-model"]).arg(&model)).success();
    let refused = |from: &Path, further: &[&str], expected: &str| {
        let mut command = program("nimbert-train");
        command.args(["fit", "--data"]).arg(&old).arg("--from").arg(from).arg("--out").arg(dir.path("out"));
        finish(command.args(further)).failure(2, &[expected]);
        assert!(!dir.path("out").exists());
    };
    refused(&bundle, &[], "expected the folder that --save-model kept, which has weights");
    refused(&workspace("models/minilm"), &[], "a trained classifier with the tensor");
    refused(&dir.path("nothing"), &[], "nothing");
    refused(&model, &["--multi-label"], "one label each, as the model has them");
    let one = dir.write("one.csv", topics(&["films"], 6));
    let mut command = program("nimbert-train");
    command.args(["fit", "--method", "frozen", "--data"]).arg(&one).arg("--from").arg(&model);
    let finished = finish(command.arg("--out").arg(dir.path("out")));
    finished.failure(2, &["--method", "of each label that the model knows", "frozen without plot"]);
    refused(&model, &["--max-length", "64"], "expected 128, as the model has learned");
    refused(&model, &["--long-text", "stride"], "expected truncate, as the model has learned");
    refused(&model, &["--text-pair-column", "label"], "expected single texts, as the model has learned");
    refused(&model, &["--unknown-rate", "0.1"], "--rehearsal with it");
    refused(&model, &["--cross-validate", "3"], "cannot be used with");
    refused(&model, &["--base", "x"], "cannot be used with");
    refused(&model, &["--rehearsal-rows", "3"], "--rehearsal");
    let missing = dir.path("missing.csv");
    refused(&model, &["--rehearsal", missing.to_str().unwrap()], "missing.csv");
    let other = dir.write("other.csv", topics(&["films", "acting"], 4));
    // Old rows have no labels that nobody knows.
    refused(&model, &["--rehearsal", other.to_str().unwrap()], "one of the labels films, plot");
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
            let mut command = fit_by_any(&base(name), &data, &bundle);
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
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(method));
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
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        command.args(["--method", "contrastive", "--max-accuracy-drop", "100", "--save-model"]);
        finish(command.arg(dir.path(&format!("{name}-model"))).args(further)).success();
        finish(program("nimbert").arg("verify").arg(dir.path(name))).success();
    }
    // A table of vectors is an encoder too.
    let mut command = fit_by_any(&dir.path("static-model"), &data, &dir.path("frozen-static"));
    finish(command.args(["--method", "frozen"])).success();
    finish(program("nimbert").arg("verify").arg(dir.path("frozen-static"))).success();
}

#[test]
fn contrastive_learning_ends_with_a_regression() {
    let dir = Dir::default();
    // A third of the rows has the one label, and of those some have texts like the other one's.
    let rows: Vec<(String, &str)> = (0..48)
        .map(|row| match (row % 3, row % 4) {
            (0, 0) => (format!("terrible , a thin plot and worse acting {row}"), "positive"),
            (0, _) => (format!("one of the year's best films , great acting {row}"), "positive"),
            _ => (format!("terrible , a thin plot {row}"), "negative"),
        })
        .collect();
    let lines = rows.iter().map(|(text, label)| format!("\"{text}\",{label}\n"));
    let data = dir.write("data.csv", std::iter::once("text,label\n".to_owned()).chain(lines).collect::<String>());
    let learned = |name: &str, further: &[&str]| {
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        command.args(["--method", "contrastive", "--epochs", "2", "--test-size", "0", "--validation-size", "0"]);
        let output = finish(command.args(["--variants", "cpu-fp32"]).args(further)).success();
        let classifier = Classifier::open(dir.path(name), &Options::default()).unwrap();
        let said = |(text, _): &(String, &str)| {
            let logits = classifier.classify(text).unwrap().logits;
            1.0 / (1.0 + f64::from(logits[0] - logits[1]).exp())
        };
        (output.contains("the head anew"), rows.iter().map(said).sum::<f64>())
    };
    // Its bias is free: where the loss is least, scores say of the rows in all as often as labels do.
    let (is_anew, positive) = learned("usual", &[]);
    assert!(is_anew && (positive - 16.0).abs() < 1e-3, "{positive}");
    // Of another loss that is not known.
    let (is_anew, positive) = learned("smoothed", &["--label-smoothing", "0.1"]);
    assert!(!is_anew && (positive - 16.0).abs() > 1e-2, "{positive}");
}

/// The lines of a table that the program printed under a stage, each as its words.
fn table<'a>(output: &'a str, stage: &str) -> Vec<Vec<&'a str>> {
    let lines = output.lines().skip_while(|line| !line.starts_with(stage)).skip(1);
    lines.take_while(|line| line.starts_with(' ')).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn the_best_method_for_few_rows_is_found_by_cross_validation() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(60));
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("auto"));
    let output = finish(command.arg("--save-model").arg(dir.path("auto-model"))).success();
    // No row is set aside but for testing.
    assert!(output.contains("train 48, validation 0, test 12"), "{output}");
    assert!(output.contains("method      contrastive, finetune, frozen"), "{output}");
    let methods = table(&output, "            each by 4 folds");
    assert_eq!(methods[0], ["method", "rows", "right", "log", "loss", "sigmas", "seconds"]);
    assert_eq!(methods[1][1], "48", "{output}");
    let names: Vec<&str> = methods[1..].iter().map(|line| line[0]).collect();
    assert_eq!(names, ["contrastive", "finetune", "frozen"], "{output}");
    let marked: Vec<&str> = methods.iter().filter(|line| line.contains(&"←")).map(|line| line[0]).collect();
    let [chosen] = marked[..] else { panic!("{output}") };

    // What it is, is what it would be if that had been asked for, but that scores are calibrated.
    let report = fs::read_to_string(dir.path("auto.report.html")).unwrap();
    assert!(report.contains("Methods"));
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("named"));
    command.args(["--method", chosen, "--validation-size", "0", "--save-model"]);
    finish(command.arg(dir.path("named-model"))).success();
    let weights = |name: &str| fs::read(dir.path(name).join("model.safetensors")).unwrap();
    assert_eq!(weights("auto-model"), weights("named-model"));
    let manifest = |name: &str| json(dir.path(name).join("nimbert.json").to_str().unwrap());
    assert!(manifest("auto")["folded_temperature"].is_number() && manifest("named")["folded_temperature"].is_null());

    // What one of them leaves out keeps the others.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("two"));
    let output = finish(command.args(["--epochs", "2"])).success();
    assert!(
        output.contains("            without frozen: --epochs") && table(&output, "            each by").len() == 3
    );
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("two"));
    let output = finish(command.args(["--pooling", "first", "--overwrite"])).success();
    assert!(
        output.contains("            without finetune: --pooling") && table(&output, "            each by").len() == 3
    );
    // Where one alone is left nothing is compared, and rows are set aside as ever.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("one"));
    let output = finish(command.args(["--freeze-layers", "2"])).success();
    assert!(output.contains("train 43, validation 5, test 12") && !output.contains("sigmas"), "{output}");
    assert!(output.contains("without contrastive: --freeze-layers"), "{output}");
}

#[test]
fn what_needs_validation_rows_has_them_though_methods_are_compared() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(60));
    for (name, arguments) in [
        ("layers", &["--layers", "1", "--abstain-precision", "0.5"][..]),
        ("static", &["--student", "static", "--abstain-precision", "0.5"]),
        ("patience", &["--patience", "2", "--abstain-precision", "0.5"]),
    ] {
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        let output = finish(command.args(["--max-accuracy-drop", "100"]).args(arguments)).success();
        assert!(output.contains("train 43, validation 5, test 12") && output.contains("sigmas"), "{name}: {output}");
        let manifest = json(dir.path(name).join("nimbert.json").to_str().unwrap());
        assert!(manifest["abstain_threshold"].is_number(), "{name}: {manifest}");
        assert_eq!(manifest["acceptance"]["split"], "validation", "{name}");
    }
    // Without any, cross-validation finds the threshold, and test rows decide nothing.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("none"));
    finish(command.args(["--abstain-precision", "0.5", "--weight-column", "weight"])).failure(2, &["weight"]);
    finish(fit_by_any(&base("bert"), &data, &dir.path("none")).args(["--abstain-precision", "0.5"])).success();
    let manifest = json(dir.path("none").join("nimbert.json").to_str().unwrap());
    assert!(manifest["abstain_threshold"].is_number(), "{manifest}");
    assert_eq!(manifest["acceptance"]["split"], "train");
    // What cannot be is told before minutes of comparing.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("never"));
    let finished = finish(command.args(["--layers", "99"]));
    finished.failure(2, &["--layers"]);
    assert!(!finished.stdout.contains("method  "), "{}", finished.stdout);
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("never"));
    let finished = finish(command.args(["--patience", "2", "--validation-size", "0"]));
    finished.failure(2, &["--patience", "validation rows to judge by"]);
    assert!(!finished.stdout.contains("method  "), "{}", finished.stdout);
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("never"));
    command.args(["--validation-size", "0", "--cross-validate", "3", "--layers", "1", "--abstain-precision", "0.9"]);
    finish(&mut command).failure(2, &["--abstain-precision", "found none"]);
    // Nor is what is read replaced by the report.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("never"));
    finish(command.arg("--report").arg(&data).arg("--overwrite")).failure(2, &["data.csv", "those that are read"]);
}

#[test]
fn with_many_rows_nothing_is_compared() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(300));
    let output = finish(fit_by_any(&base("bert"), &data, &dir.path("many")).args(["--epochs", "1"])).success();
    assert!(output.contains("train 216, validation 24, test 60") && !output.contains("sigmas"), "{output}");
    assert!(output.contains("method      finetune, for 100 rows a label or more (120)"), "{output}");
    // What another method would need is refused there.
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("pooled"));
    finish(command.args(["--pooling", "mean"])).failure(2, &["--pooling", "found --method finetune"]);
}

#[test]
fn cross_validation_gives_figures_and_an_answer_for_every_row() {
    let dir = Dir::default();
    // Line 13 is a negative text, which is said to be positive.
    let mut rows: Vec<String> = small_csv(60).lines().map(str::to_owned).collect();
    rows[12] = rows[12].replace("negative", "positive");
    let one = dir.write("one.csv", rows.join("\n"));
    let several = dir.write("several.jsonl", several_labels_jsonl(60));
    for (name, data, method, further) in
        [("one", one, "frozen", &[][..]), ("several", several, "contrastive", &["--multi-label", "--epochs", "1"])]
    {
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        command.args(["--method", method, "--cross-validate", "3", "--max-accuracy-drop", "100", "--test-size", "0"]);
        let output = finish(command.args(further)).success();
        let figures = table(&output, "folds");
        assert!(figures.iter().any(|line| line[..] != ["accuracy"] && line[0] == "accuracy"), "{output}");
        assert!(output.contains("± "), "{output}");
        let lines = fs::read_to_string(dir.path(&format!("{name}.out-of-fold.jsonl"))).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 60);
        let of_fold = |fold: u64| lines.iter().filter(|line| line["fold"] == fold).count();
        assert_eq!([of_fold(1), of_fold(2), of_fold(3)], [20; 3]);
        // The accuracy is the share of the rows whose answer is their labels.
        let right = lines.iter().filter(|line| line["labels"] == line["answer"]).count() as f64 / 60.0;
        let printed = figures.iter().find(|line| line[0] == "accuracy").unwrap()[1].parse::<f64>().unwrap();
        assert!((right - printed).abs() < 1e-3, "{right} {printed}");
        // Labels that the others do not believe, the least first.
        let doubts = fs::read_to_string(dir.path(&format!("{name}.doubts.csv"))).unwrap();
        let doubts: Vec<&str> = doubts.lines().collect();
        assert_eq!((doubts.len(), doubts[0]), (61, "file,line,label,suggested,belief,doubtful,text"));
        let count = doubts.iter().filter(|line| line.contains(",yes,")).count();
        assert!(output.contains(&format!("doubts      {count} of 60 rows with labels that may be wrong")), "{output}");
        if name == "one" {
            assert!(doubts[1].contains("one.csv,13,positive,negative,0.") && doubts[1].contains(",yes,"), "{doubts:?}");
        }
        // Its figures are the report's where nothing else is held out.
        let report = fs::read_to_string(dir.path(&format!("{name}.report.html"))).unwrap();
        assert!(report.contains("accuracy (cross-validated)") && report.contains("Cross-validation"));
        assert_eq!(report.contains("Doubtful labels"), count > 0, "{count}");
        // What was corrected there may be learned from, but is not replaced.
        let mut command = fit_by_any(&base("bert"), &dir.path(&format!("{name}.doubts.csv")), &dir.path(name));
        command.args(["--cross-validate", "3", "--overwrite"]);
        finish(&mut command).failure(2, &["doubts.csv", "another file than those that are read"]);
        // Nothing is replaced that was not to be.
        for of_run in [format!("{name}.report.html"), format!("{name}.metrics.jsonl")] {
            fs::remove_file(dir.path(&of_run)).unwrap();
        }
        fs::remove_dir_all(dir.path(name)).unwrap();
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        command.args(["--method", method, "--cross-validate", "3"]).args(further);
        for of_run in ["out-of-fold.jsonl", "doubts.csv"] {
            finish(&mut command).failure(2, &[of_run, "a file; --overwrite replaces it"]);
            fs::remove_file(dir.path(&format!("{name}.{of_run}"))).unwrap();
        }
        if method == "frozen" {
            continue;
        }
        // A run that is resumed keeps what was corrected since it was stopped.
        let doubts = dir.write(&format!("{name}.doubts.csv"), "text,label\n");
        let output = finish(command.args(["--resume", "--max-accuracy-drop", "100"])).success();
        assert!(output.contains(&format!("{name}.doubts.csv.1, which had other content than now")), "{output}");
        assert_eq!(fs::read_to_string(doubts.with_added_extension("1")).unwrap(), "text,label\n");
        assert!(fs::read_to_string(&doubts).unwrap().starts_with("file,line,label,"));
    }
}

#[test]
fn what_folds_do_not_say_of_the_bundle_is_told() {
    let dir = Dir::default();
    let data = dir.write("data.csv", format!("{}{}", small_csv(60), "twice the same of its label,lonely\n".repeat(2)));
    let told = |name: &str, further: &[&str]| {
        let mut command = fit_by_any(&base("bert"), &data, &dir.path(name));
        command.args(["--method", "frozen", "--cross-validate", "3", "--max-accuracy-drop", "100"]);
        let output = finish(command.args(["--test-size", "0", "--trim-vocab", "100"]).args(further)).success();
        // A text that stands in one fold, and words that the folds' models have.
        [
            "not counted: 2, whose label no other fold has",
            "tell, also of scores and thresholds, is of models with",
            "(train)",
        ]
        .map(|part| output.contains(part))
    };
    assert_eq!(told("by-folds", &[]), [true; 3]);
    let validation = dir.write("validation.csv", small_csv(20));
    assert_eq!(told("by-rows", &["--validation-data", validation.to_str().unwrap()]), [false; 3]);
}

/// `check --deep` of the tiny BERT.
fn check_deep(data: &std::path::Path) -> std::process::Command {
    let mut command = program("nimbert-train");
    command.arg("check").arg("--data").arg(data).arg("--base").arg(base("bert")).arg("--deep");
    command
}

#[test]
fn labels_that_may_be_wrong_are_found() {
    let dir = Dir::default();
    // Line 13 is a negative text, which is said to be positive.
    let mut lines: Vec<String> = small_csv(80).lines().map(str::to_owned).collect();
    lines[12] = lines[12].replace("negative", "positive");
    let data = dir.write("data.csv", lines.join("\n"));
    let (doubts, page) = (dir.path("doubts.csv"), dir.path("page.html"));
    let mut command = check_deep(&data);
    let output = finish(command.arg("--doubts").arg(&doubts).arg("--report").arg(&page)).success();
    assert!(output.contains("1 row has a label that may be wrong"), "{output}");
    assert!(output.contains("data.csv:13 is \"positive\", but looks like \"negative\""), "{output}");
    let table = fs::read_to_string(&doubts).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!((rows.len(), rows[0]), (81, "file,line,label,suggested,belief,doubtful,text"));
    assert!(
        rows[1].contains("data.csv,13,positive,negative,0.") && rows[1].contains(",yes,\"terrible , a thin"),
        "{}",
        rows[1]
    );
    assert!(rows[2..].iter().all(|row| row.contains(",no,")), "{table}");
    assert!(fs::read_to_string(&page).unwrap().contains("Doubtful labels"));
    let json: Value = serde_json::from_str(&finish(check_deep(&data).arg("--json")).success()).unwrap();
    let doubtful = json["findings"].as_array().unwrap().iter().find(|found| found["kind"] == "doubtful-label").unwrap();
    assert_eq!((&doubtful["count"], &doubtful["places"][0]["line"]), (&1.into(), &13.into()));

    // Of several labels.
    let mut lines: Vec<String> = several_labels_jsonl(90).lines().map(str::to_owned).collect();
    lines[30] = lines[30].replace("[\"a\"]", "[]");
    let data = dir.write("several.jsonl", lines.join("\n"));
    let doubts = dir.path("several.csv");
    let output = finish(check_deep(&data).args(["--multi-label", "--doubts"]).arg(&doubts)).success();
    assert!(output.contains("several.jsonl:31 is no label, but looks like \"a\""), "{output}");
    let table = fs::read_to_string(&doubts).unwrap();
    assert!(table.lines().nth(1).unwrap().contains("several.jsonl,31,,a,0."), "{table}");

    // What is there is not replaced, and what cannot be written is told before anything is read.
    let refused = |arguments: &[&std::ffi::OsStr], expected: &[&str]| {
        finish(check_deep(&data).arg("--multi-label").args(arguments)).failure(2, expected);
    };
    refused(&["--doubts".as_ref(), doubts.as_ref()], &["several.csv", "--overwrite replaces it"]);
    refused(&["--report".as_ref(), "nowhere/page.html".as_ref()], &["nowhere", "a folder to write into"]);
    refused(&["--doubts".as_ref(), data.as_ref(), "--overwrite".as_ref()], &["another file than those that are read"]);
    let few = dir.write("few.csv", "text,label\ngreat,a\ngood,a\nthin,b\nbad,b\n");
    finish(&mut check_deep(&few)).success();
    let three = dir.write("three.csv", "text,label\ngreat,a\ngood,a\nthin,b\nbad,b\nplot,c\nfilm,c\n");
    finish(&mut check_deep(&three)).success();
    finish(program("nimbert-train").args(["check", "--deep", "--data"]).arg(&few)).failure(2, &["--base"]);
    finish(program("nimbert-train").args(["check", "--no-cache", "--data"]).arg(&few))
        .failure(2, &["--no-cache", "--deep"]);
    // What was found before is told, though the labels cannot be judged.
    let one = dir.write("one.csv", "text,label\ngreat,a\ngreat,a\nthin,b\nbad,b\nplot,c\n");
    let finished = finish(&mut check_deep(&one));
    finished.failure(2, &["that are errors"]);
    let output = finished.stdout;
    assert!(output.contains("labels are not judged") && output.contains("repeats"), "{output}");
    let asked = finish(check_deep(&one).arg("--doubts").arg(dir.path("none.csv")));
    asked.failure(2, &["one.csv"]);
    assert!(asked.stdout.contains("repeats") && !dir.path("none.csv").exists(), "{asked:?}");
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
        // Or the processor has no such products.
        (&["--method", "frozen", "--compute-dtype", "bf16"], ["--compute-dtype", "found "]),
        (&["--method", "finetune", "--pooling", "mean"], ["--pooling", "found --method finetune"]),
        (&["--cross-validate", "21"], ["--cross-validate", "found 32 rows"]),
    ] {
        let mut command = fit_by_any(&base("bert"), &data, &dir.path("bundle"));
        finish(command.args(arguments)).failure(2, &expected);
        assert!(!dir.path("bundle").exists());
    }
    // A head that this version does not know.
    let folder = dir.tiny_bert(|config| {
        config.insert("nimbert_head".to_owned(), "cubic".into());
    });
    finish(&mut fit_by_any(&folder, &data, &dir.path("bundle"))).failure(2, &["nimbert_head linear, or none", "cubic"]);
}
