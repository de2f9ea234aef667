//! Further kinds of text and labels, and further ways to train: each from the command line to the bundle, or against
//! what it must be equal to.

use std::fs;

use candle_core::Tensor;
use nimbert::{Bundle, Classifier, Encoding, Options, ProblemType, Tokenizer};
use nimbert_tests::{Dir, finish, fit, program, small_csv, workspace};
use nimbert_trainer::{
    bases::{BASES, Base},
    compress::{trim_vocabulary, with_layers},
    dataloader::PackedBatch,
    loss::Loss,
    model::{EncoderConfig, Gradient, Gradients, SequenceClassifier},
    optimizer::{AdamW, AdamWConfig},
};
use serde_json::Value;

const TINY_BERT: &str = "tests/data/tiny-bert";

fn tiny_bert() -> (SequenceClassifier, Tokenizer) {
    tiny(TINY_BERT)
}

fn tiny(folder: &str) -> (SequenceClassifier, Tokenizer) {
    let folder = workspace(folder);
    let config = EncoderConfig::open(&folder.join("config.json")).unwrap().without_dropout();
    let labels = ["negative", "positive"].map(String::from);
    let (model, _) = SequenceClassifier::load(&folder.join("model.safetensors"), config, &labels, 0).unwrap();
    (model, Tokenizer::open(&folder.join("tokenizer.json"), 32).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A bundle of tiny-bert, trained on `data` with these arguments.
fn bundle(dir: &Dir, data: (&str, String), arguments: &[&str]) -> (Bundle, String) {
    let data = dir.write(data.0, data.1);
    let mut command = fit(&workspace(TINY_BERT), &data, &dir.path("bundle"));
    let output = finish(command.args(["--epochs", "4", "--learning-rate", "1e-3"]).args(arguments)).success();
    (Bundle::open(dir.path("bundle")).unwrap(), output)
}

fn classify(dir: &Dir, arguments: &[&str]) -> Vec<Value> {
    let mut command = program("nimbert");
    command.arg("classify").arg(dir.path("bundle")).args(arguments).arg("--json");
    let output = finish(&mut command).success();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn any_number_of_labels_from_lists_to_answers() {
    let dir = Dir::default();
    let row = |index: usize| {
        let labels = [r#"["acting"]"#, r#"["acting", "plot"]"#, "[]", r#"["plot"]"#][index % 4];
        let text = ["great acting", "great acting and a thin plot", "one of the films", "a thin plot"][index % 4];
        format!("{{\"text\": \"{text} {index}\", \"label\": {labels}}}\n")
    };
    let data = (0..120).map(row).collect::<String>();
    let arguments = ["--multi-label", "--epochs", "12", "--validation-size", "0.2", "--class-weights", "balanced"];
    let data = dir.write("data.jsonl", data);
    let mut command = fit(&workspace(TINY_BERT), &data, &dir.path("bundle"));
    finish(command.args(arguments).args(["--learning-rate", "2e-3"])).success();
    let bundle = Bundle::open(dir.path("bundle")).unwrap();
    assert_eq!(bundle.config.problem_type, ProblemType::MultiLabel);
    assert_eq!(bundle.manifest.label_thresholds.as_ref().unwrap().len(), 2);

    let answers = classify(&dir, &["great acting 5", "great acting and a thin plot 6", "a thin plot 7"]);
    assert_eq!(answers[0]["labels"], serde_json::json!(["acting"]));
    assert_eq!(answers[1]["labels"], serde_json::json!(["acting", "plot"]));
    assert_eq!(answers[2]["labels"], serde_json::json!(["plot"]));
    let mut evaluate = program("nimbert-train");
    evaluate.arg("evaluate").arg(dir.path("bundle")).arg("--data").arg(dir.path("data.jsonl")).arg("--json");
    let evaluation: Value = serde_json::from_str(&finish(&mut evaluate).success()).unwrap();
    assert!(evaluation["micro_f1"].as_f64().unwrap() > 0.9, "{evaluation}");
    assert!(evaluation["confusion"].is_null());
}

#[test]
fn pairs_of_texts_are_told_apart_by_their_second() {
    let dir = Dir::default();
    // The first text says nothing; the label follows from the second.
    let row = |index: usize| match index % 2 {
        0 => format!("one of the films {index},great acting,yes\n"),
        _ => format!("one of the films {index},a thin plot,no\n"),
    };
    let csv: String = std::iter::once("text,second,label\n".to_owned()).chain((0..120).map(row)).collect();
    let (_, output) = bundle(&dir, ("data.csv", csv), &["--text-pair-column", "second"]);
    assert!(output.contains("and \"great acting\"") || output.contains("and \"a thin plot\""), "{output}");
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    let predictions = classifier
        .classify_batch([("one of the films 2", "great acting"), ("one of the films 2", "a thin plot")])
        .unwrap();
    let difference = predictions[0].scores[1].1 - predictions[1].scores[1].1;
    assert!(difference > 0.05, "{predictions:?}");
    // The program reads pairs from a file, and answers as the library does.
    let input = dir.write("pairs.csv", "text,second\none of the films 2,great acting\n");
    let answers = classify(&dir, &["--input", &input.to_string_lossy(), "--text-pair-column", "second"]);
    let score = answers[0]["scores"]["yes"].as_f64().unwrap() as f32;
    assert!((score - predictions[0].scores[1].1).abs() < 1e-5);
    // Token types: 0 for the first text and its frame, 1 for the second.
    let encoding = tiny_bert().1.encode(("great acting", "a thin plot")).unwrap();
    assert!(encoding.token_type_ids.contains(&1) && encoding.token_type_ids.is_sorted());
}

/// A text of about 100 tokens.
fn long_text(word: &str) -> String {
    (0..16).map(|index| format!("one of the {word} films {index} ")).collect()
}

#[test]
fn windows_cover_a_long_text_and_overlap() {
    let tokenizer = tiny_bert().1;
    let text = long_text("best");
    let whole = tokenizer.clone().without_truncation().encode(&text).unwrap().input_ids;
    let windows = tokenizer.with_stride(8).unwrap().windows(&text).unwrap();
    let lengths: Vec<usize> = windows.iter().map(|window| window.input_ids.len()).collect();
    assert!(windows.len() > 3, "{} tokens in windows of {lengths:?}", whole.len());
    assert!(windows.iter().all(|window| window.input_ids.len() <= 32 && !window.truncated));
    // Without the two special tokens of each, and what it shares with the one before, they are the text.
    let content = |window: &Encoding| window.input_ids[1..window.input_ids.len() - 1].to_vec();
    let mut joined = content(&windows[0]);
    for pair in windows.windows(2) {
        let (before, after) = (content(&pair[0]), content(&pair[1]));
        assert_eq!(before[before.len() - 8..], after[..8]);
        joined.extend(&after[8..]);
    }
    assert_eq!(joined, whole[1..whole.len() - 1]);
    assert!(tiny_bert().1.with_stride(30).is_err());
}

#[test]
fn a_text_in_windows_has_the_mean_of_their_logits() {
    let (model, tokenizer) = tiny_bert();
    let tokenizer = tokenizer.with_stride(8).unwrap();
    let texts = [long_text("best"), "great acting".to_owned(), long_text("worst")];
    let windows: Vec<Vec<Encoding>> = texts.iter().map(|text| tokenizer.windows(text).unwrap()).collect();
    let together = model.forward(&PackedBatch::of_windows(windows.iter().map(Vec::as_slice)), None).unwrap().logits;
    assert_eq!(together.dims(), [3, 2]);
    for (windows, logits) in windows.iter().zip(together.to_vec2::<f32>().unwrap()) {
        let alone = model.forward(&PackedBatch::new(windows), None).unwrap().logits.mean(0).unwrap();
        values(&alone).iter().zip(&logits).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    }
}

#[test]
fn the_runtime_reads_long_texts_in_windows_as_the_bundle_says() {
    let dir = Dir::default();
    let row = |index: usize| match index % 2 {
        0 => format!("\"{} great acting\",positive\n", long_text("best")),
        _ => format!("\"{} a thin plot\",negative\n", long_text("best")),
    };
    let csv: String = std::iter::once("text,label\n".to_owned()).chain((0..24).map(row)).collect();
    let arguments = ["--long-text", "stride", "--max-length", "32", "--stride", "8", "--precision", "fp32"];
    let (bundle, output) = bundle(&dir, ("data.csv", csv), &arguments);
    assert_eq!(bundle.manifest.stride, Some(8));
    assert!(output.contains("windows of at most 32"), "{output}");
    // Texts that are alike in their first window, and so the same if they were cut.
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    let texts = ["great acting", "a thin plot"].map(|end| long_text("best") + end);
    let predictions = classifier.classify_batch(&texts).unwrap();
    assert_ne!(predictions[0].scores, predictions[1].scores);
    let mut command = fit(&workspace(TINY_BERT), &dir.path("data.csv"), &dir.path("other"));
    finish(command.args(["--stride", "8"])).failure(2, &["--stride", "--long-text stride"]);
}

#[test]
fn check_finds_every_planted_fault_by_its_row() {
    let dir = Dir::default();
    let mut csv = "text,label\n".to_owned();
    // Lines 2 to 41: forty rows without a fault, the rows of one label rare among them.
    for index in 0..40 {
        csv += &format!("one of the films {index},{}\n", if index < 3 { "rare" } else { "positive" });
    }
    csv += "One of  the FILMS 7,positive\n"; // 42 repeats line 9
    csv += "one of the films 8,negative\n"; // 43 contradicts line 10
    csv += "   ,positive\n"; // 44 is empty
    csv += "a thin plot,Positive\n"; // 45 spells a label in another way
    csv += &format!("\"{}\",positive\n", long_text("best").repeat(3)); // 46 is cut
    csv += "日本語 ᚠ ☃ ☃ ☃ ☃ ☃ ☃ ☃ ☃,positive\n"; // 47 has unknown tokens
    let train = dir.write("train.csv", csv);
    // Line 2 is in the training rows too, line 3 has a label that they lack.
    let test = dir.write("test.csv", "text,label\none of the films 20,positive\nnew words,other\n");
    let mut command = program("nimbert-train");
    command.arg("check").arg("--data").arg(&train).arg("--test-data").arg(&test).args(["--max-length", "64", "--json"]);
    let finished = finish(command.arg("--base").arg(workspace(TINY_BERT)));
    // A label that no training row has is an error, and one that has a single row.
    finished.failure(2, &["found 2 of 11 findings that are errors"]);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let lines = |kind: &str| -> Vec<u64> {
        let findings = report["findings"].as_array().unwrap();
        let finding =
            findings.iter().find(|finding| finding["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {report}"));
        let places = finding["places"].as_array().unwrap();
        places.iter().map(|place| place["line"].as_u64().unwrap()).collect()
    };
    assert_eq!(lines("duplicate"), [42]);
    assert_eq!(lines("conflicting-labels"), [10, 43]);
    assert_eq!(lines("empty-text"), [44]);
    assert_eq!(lines("label-spelling"), [45]);
    assert_eq!(lines("truncated"), [46]);
    assert!(lines("unknown-tokens").contains(&47));
    assert_eq!((lines("leak"), lines("unseen-label")), (vec![2], vec![3]));
    assert!(lines("imbalance").is_empty() && lines("rare-label").is_empty());
    assert_eq!(report["rows"], 48);

    let text = finish(program("nimbert-train").arg("check").arg("--data").arg(&train)).stdout;
    assert!(text.contains("train.csv:42") && text.contains("warning: "), "{text}");
    // fit says the same before it trains.
    let mut command = fit(
        &workspace(TINY_BERT),
        &dir.write("data.csv", small_csv(40) + "a a,x\na a,y\nb,x\nb,y\n"),
        &dir.path("out"),
    );
    let output = finish(command.args(["--epochs", "1"])).success();
    assert!(output.contains("check       warning: "), "{output}");
}

#[test]
fn frozen_layers_have_no_gradient_and_the_others_have_the_same() {
    let (mut model, tokenizer) = tiny_bert();
    let encodings = ["great acting", "a thin plot"].map(|text| tokenizer.encode(text).unwrap());
    let gradients = |model: &SequenceClassifier| -> Gradients {
        let batch = PackedBatch::new(&encodings);
        let output = model.forward(&batch, None).unwrap();
        let loss = Loss::default().forward(&output.logits, &[&[0].into(), &[1].into()]).unwrap();
        model.backward(&loss, &output, &batch).unwrap()
    };
    let all = gradients(&model);
    model.freeze(1).unwrap();
    let some = gradients(&model);
    let (mut frozen, mut trained) = (0, 0);
    for (name, var) in model.parameters().iter() {
        let is_frozen = name.contains("embeddings") || name.contains("layer.0.");
        match (some.get(name), is_frozen) {
            (None, true) => frozen += 1,
            (Some(gradient), false) => {
                let dense = |gradient: &Gradient| values(&gradient.to_dense(var).unwrap());
                assert_eq!(dense(gradient), dense(all.get(name).unwrap()), "{name}");
                trained += 1;
            }
            (gradient, _) => panic!("{name}: frozen {is_frozen}, gradient {}", gradient.is_some()),
        }
    }
    assert!(frozen > 10 && trained > 10);
    let before = model.parameters().snapshot().unwrap();
    AdamW::new(AdamWConfig::default()).step(model.parameters(), &some, 0.1, 1.0).unwrap();
    for ((name, var), before) in model.parameters().iter().zip(&before) {
        assert_eq!(values(var) == values(before), some.get(name).is_none(), "{name}");
    }
    assert!(model.freeze(9).is_err());
}

#[test]
fn accumulated_batches_give_the_weights_of_a_large_one() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|config| {
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"] {
            config.insert(key.to_owned(), 0.0.into());
        }
    });
    // 45 training rows: the last step has 13 of 16, and its last batch one of 4.
    let data = dir.write("data.csv", small_csv(45));
    let weights = |name: &str, arguments: &[&str]| {
        let mut command = fit(&base, &data, &dir.path(name));
        command.args(["--epochs", "2", "--test-size", "0", "--validation-size", "0", "--save-model"]);
        finish(command.arg(dir.path(&format!("{name}-model"))).args(arguments)).success();
        let path = dir.path(&format!("{name}-model")).join("model.safetensors");
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let large = weights("large", &["--batch-size", "16"]);
    let small = weights("small", &["--batch-size", "4", "--gradient-accumulation", "4"]);
    // Parts of a batch count by their labels too.
    let weighted = ["--class-weights", "negative=0.5,positive=6"];
    let weighted_large = weights("weighted-large", &[&["--batch-size", "15"][..], &weighted].concat());
    let further = ["--batch-size", "5", "--gradient-accumulation", "3"];
    let weighted_small = weights("weighted-small", &[&further[..], &weighted].concat());
    let other = weights("other", &["--batch-size", "4"]);
    let difference =
        |a: &Tensor, b: &Tensor| values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    let name = "bert.encoder.layer.0.output.dense.weight";
    let (same, different) = (difference(&large[name], &small[name]), difference(&large[name], &other[name]));
    assert!(same < 2e-5 && different > 10.0 * same, "{same} {different}");
    let (same, different) =
        (difference(&weighted_large[name], &weighted_small[name]), difference(&weighted_large[name], &large[name]));
    assert!(same < 2e-5 && different > 10.0 * same, "{same} {different}");
}

#[test]
fn layers_learn_the_slower_the_lower_they_are() {
    let (model, _) = tiny_bert();
    let depths: Vec<usize> = model.parameters().iter().map(|(name, _)| model.depth(name)).collect();
    let layers = model.config.layers.len();
    assert_eq!(depths.iter().max(), Some(&(layers + 1)));
    assert_eq!(model.depth("bert.embeddings.word_embeddings.weight"), 0);
    assert_eq!(model.depth("bert.encoder.layer.1.output.dense.weight"), 2);
    assert_eq!(model.depth("bert.pooler.dense.weight"), layers + 1);
    // What all layers share is as near to the head as the last of them.
    let (shared, _) = tiny("tests/data/tiny-albert");
    let all = shared.config.layers.len();
    let of_layer = "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight";
    let depths = ["albert.embeddings.word_embeddings.weight", of_layer, "albert.pooler.weight"];
    assert_eq!(depths.map(|name| shared.depth(name)), [0, all, all + 1]);
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    // After one step, which AdamW makes as long as the rate, whatever the gradient.
    let after = |name: &str, arguments: &[&str]| {
        let mut command = fit(&workspace(TINY_BERT), &data, &dir.path(name));
        command.args(["--epochs", "1", "--batch-size", "40", "--warmup-ratio", "0", "--weight-decay", "0"]);
        command.args(["--test-size", "0", "--validation-size", "0", "--save-model"]);
        finish(command.arg(dir.path(&format!("{name}-model"))).args(arguments)).success();
        let path = dir.path(&format!("{name}-model")).join("model.safetensors");
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let (plain, decayed) = (after("plain", &[]), after("decayed", &["--layer-decay", "0.5"]));
    let before =
        candle_core::safetensors::load(workspace(TINY_BERT).join("model.safetensors"), &candle_core::Device::Cpu)
            .unwrap();
    let moved = |after: &Tensor, before: &Tensor| {
        values(after).iter().zip(values(before)).map(|(after, before)| f64::from((after - before).abs())).sum::<f64>()
    };
    for layer in 0..layers {
        let name = format!("bert.encoder.layer.{layer}.output.dense.weight");
        let share = moved(&decayed[&name], &before[&name]) / moved(&plain[&name], &before[&name]);
        let expected = 0.5f64.powi((layers - layer) as i32);
        assert!((share / expected - 1.0).abs() < 0.02, "{name}: {share}, expected {expected}");
    }
    let mut command = fit(&workspace(TINY_BERT), &data, &dir.path("other"));
    finish(command.args(["--layer-decay", "1.5"])).failure(2, &["--layer-decay", "found 1.5"]);
}

#[test]
fn a_model_of_some_layers_computes_what_these_do() {
    let (model, tokenizer) = tiny_bert();
    let all: Vec<usize> = (0..model.config.layers.len()).collect();
    let batch = PackedBatch::new(&[tokenizer.encode("great acting").unwrap()]);
    let logits = |model: &SequenceClassifier| values(&model.forward(&batch, None).unwrap().logits);
    assert_eq!(logits(&with_layers(&model, &all).unwrap()), logits(&model));
    let first = with_layers(&model, &[0]).unwrap();
    let ours = first.encode(&batch, true, None).unwrap().hidden_states;
    let theirs = model.encode(&batch, true, None).unwrap().hidden_states;
    assert_eq!((ours.len(), values(&ours[1])), (2, values(&theirs[1])));
}

/// Texts whose tokens all stay are answered as before, by other ids.
#[test]
fn a_model_of_fewer_words_says_the_same_of_texts_that_have_them() {
    let (model, tokenizer) = tiny_bert();
    let path = workspace(TINY_BERT).join("tokenizer.json");
    let texts = ["great acting", "a thin plot", "one of the films"];
    let mut counts = vec![0; model.config.vocab_size];
    let ids = |tokenizer: &Tokenizer| texts.map(|text| tokenizer.encode(text).unwrap());
    ids(&tokenizer).iter().flat_map(|encoding| &encoding.input_ids).for_each(|&id| counts[id as usize] += 1);
    let size = model.config.vocab_size - 20;
    let trimmed = trim_vocabulary(&model, &path, &counts, size).unwrap();
    assert_eq!(trimmed.model.config.vocab_size, size);
    let dir = Dir::default();
    let fewer = Tokenizer::open(&dir.write("tokenizer.json", trimmed.tokenizer.to_string()), 32).unwrap();
    assert_ne!(ids(&fewer), ids(&tokenizer));
    let logits = |model: &SequenceClassifier, tokenizer| {
        values(&model.forward(&PackedBatch::new(&ids(tokenizer)), None).unwrap().logits)
    };
    assert_eq!(logits(&trimmed.model, &fewer), logits(&model, &tokenizer));
}

#[test]
fn smaller_models_are_trained_judged_and_packed() {
    let dir = Dir::default();
    let data = ("data.csv", small_csv(80));
    let (bundle, output) = bundle(&dir, data, &["--layers", "1", "--validation-size", "0.2"]);
    assert!(output.contains("1 layers"), "{output}");
    let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 1);
    bundle.verify().unwrap();
    assert_eq!(classify(&dir, &["great acting"]).len(), 1);
    let trim = |arguments: &[&str]| {
        let mut command = fit(&workspace(TINY_BERT), &dir.path("data.csv"), &dir.path("trimmed"));
        finish(command.args(["--epochs", "1", "--overwrite"]).args(arguments))
    };
    let output = trim(&["--trim-vocab", "300"]).success();
    assert!(output.contains("vocabulary  "), "{output}");
    let config: Value = serde_json::from_slice(&fs::read(dir.path("trimmed/config.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::open(&dir.path("trimmed/tokenizer.json"), 32).unwrap();
    assert_eq!(config["vocab_size"], tokenizer.id_bound());
    trim(&["--target-size", "10 bananas"]).failure(2, &["--target-size", "10MB"]);
    for (variants, other) in [("cpu-int8,cpu-fp32", "cpu-fp32"), ("gpu-fp16", "gpu-fp16")] {
        trim(&["--target-size", "400kB", "--variants", variants])
            .failure(2, &["--target-size: expected int8 graphs for the CPU", other]);
    }
    // By test rows nothing is chosen.
    trim(&["--target-size", "400kB", "--validation-size", "0"])
        .failure(2, &["--target-size: expected validation rows to choose one by"]);
    trim(&["--layers", "9"]).failure(2, &["--layers", "at most the model's"]);
}

#[test]
fn calibration_comes_from_validation_rows_only() {
    let dir = Dir::default();
    let (calibrated, output) =
        bundle(&dir, ("data.csv", small_csv(80)), &["--validation-size", "0.25", "--abstain-precision", "0.9"]);
    assert!(output.contains("calibrated  temperature"), "{output}");
    assert!(calibrated.manifest.temperature == 1.0 && calibrated.manifest.folded_temperature.is_some());
    let other = Dir::default();
    let (plain, _) = bundle(&other, ("data.csv", small_csv(80)), &["--validation-size", "0"]);
    assert_eq!((plain.manifest.temperature, plain.manifest.abstain_threshold), (1.0, None));
    let mut command = fit(&workspace(TINY_BERT), &other.path("data.csv"), &other.path("third"));
    finish(command.args(["--validation-size", "0", "--abstain-precision", "0.9"]))
        .failure(2, &["--abstain-precision", "rows to find it by"]);
}

#[test]
fn the_report_stands_alone() {
    let dir = Dir::default();
    let events = dir.path("events");
    bundle(&dir, ("data.csv", small_csv(80)), &["--tensorboard", &events.to_string_lossy()]);
    let report = fs::read_to_string(dir.path("bundle.report.html")).unwrap();
    for part in ["<svg", "Confusion", "int8", "fp32", "--learning-rate", "prefers-color-scheme", "positive"] {
        assert!(report.contains(part), "no {part:?} in the report");
    }
    assert!(!report.contains("<script") && !report.contains("http") && !report.contains("src="));
    assert_eq!(fs::read_dir(events).unwrap().count(), 1);
    // Before anything is learned it is tried whether they can be written.
    let within = dir.write("file", "").join("events");
    let mut command = fit(&workspace(TINY_BERT), &dir.path("data.csv"), &dir.path("other"));
    finish(command.arg("--tensorboard").arg(&within)).failure(2, &["file", "Not a directory"]);
    assert!(!dir.path("other").exists());
}

/// The list and the table of bases are the same.
#[test]
fn bases_are_listed() {
    let list = finish(program("nimbert-train").arg("bases")).success();
    let table = fs::read_to_string(workspace("models/README.md")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && line.contains('/')).collect();
    let expected: Vec<String> = BASES.iter().map(Base::markdown).collect();
    assert_eq!(rows, expected);
    assert!(
        BASES.iter().all(|base| base.names.iter().all(|name| list.contains(name)) && list.contains(base.good_for)),
        "{list}"
    );
    let json = finish(program("nimbert-train").args(["bases", "--json"])).success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["names"][0], BASES[0].names[0]);
}
