//! Every family goes every way: what the command line offers for one, it offers for all.

use std::fs;

use nimbert::{Bundle, Classifier, Options};
use nimbert_tests::{
    ARCHITECTURES, Dir, base, finish, fit, program, several_labels_jsonl, small_csv, unigram_tokenizer,
};
use serde_json::Value;

/// Two layers' worth of a run that is short.
const SHORT: [&str; 6] = ["--epochs", "2", "--learning-rate", "1e-3", "--max-accuracy-drop", "100"];

#[test]
fn pairs_with_frozen_layers_and_a_trimmed_vocabulary() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let row = |index: usize| format!("the movie,{},{}\n", ["great acting", "a thin plot"][index % 2], index % 2);
        let data = dir.write("data.csv", format!("text,second,label\n{}", (0..80).map(row).collect::<String>()));
        let mut command = fit(&base(name), &data, &dir.path("bundle"));
        // ALBERT's layers share their weights.
        let frozen = if name == "albert" { "3" } else { "1" };
        command.args(["--text-pair-column", "second", "--freeze-layers", frozen, "--trim-vocab", "60"]).args(SHORT);
        let output = finish(&mut command).success();
        assert!(output.contains("frozen"), "{name}: {output}");
        let bundle = Bundle::open(dir.path("bundle")).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
        let words = config["vocab_size"].as_u64().unwrap();
        let before: Value = serde_json::from_slice(&fs::read(base(name).join("config.json")).unwrap()).unwrap();
        assert!(words <= before["vocab_size"].as_u64().unwrap(), "{name}: {words} words");
        Classifier::open(&bundle.path, &Options::default()).unwrap().classify(("the movie", "great acting")).unwrap();
    }
}

#[test]
fn shared_layers_are_frozen_together() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let mut command = fit(&base("albert"), &data, &dir.path("bundle"));
    finish(command.args(["--freeze-layers", "2"])).failure(2, &["--freeze-layers", "0 or all 3", "found 2"]);
}

#[test]
fn any_number_of_labels_for_texts_in_windows() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let row = |index: usize| {
            let labels = ["[\"a\"]", "[\"a\", \"b\"]", "[]", "[\"b\"]"][index % 4];
            let text =
                ["great acting ", "great acting and a thin plot ", "one of the films ", "a thin plot "][index % 4];
            format!("{{\"text\": \"{}\", \"label\": {labels}}}\n", text.repeat(1 + index % 9))
        };
        let data = dir.write("data.jsonl", (0..80).map(row).collect::<String>());
        let mut command = fit(&base(name), &data, &dir.path("bundle"));
        command.args(["--multi-label", "--long-text", "stride", "--max-length", "16", "--stride", "4"]).args(SHORT);
        finish(&mut command).success();
        let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
        classifier.classify(&"great acting ".repeat(30)).unwrap();
        finish(program("nimbert").arg("verify").arg(dir.path("bundle"))).success();
    }
}

#[test]
fn fewer_layers_and_a_size() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let data = dir.write("data.csv", small_csv(80));
        let mut command = fit(&base(name), &data, &dir.path("bundle"));
        let output = finish(command.args(["--layers", "1", "--validation-size", "0.2"]).args(SHORT)).success();
        assert!(output.contains("1 layers"), "{name}: {output}");
        let mut command = fit(&base(name), &data, &dir.path("sized"));
        let sized = ["--target-size", "400kB", "--validation-size", "0.2"];
        finish(command.args(sized).args(SHORT)).success();
        let size: u64 =
            fs::read_dir(dir.path("sized")).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 400_000, "{name}: {size}");
    }
}

/// What `--save-model` writes is a base like any other, with the same answers.
#[test]
fn a_trained_model_is_loaded_again() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let data = dir.write("data.csv", small_csv(40));
        // Without validation rows nothing is calibrated.
        let mut command = fit(&base(name), &data, &dir.path("bundle"));
        command.args(["--validation-size", "0", "--test-size", "0", "--variants", "cpu-fp32", "--save-model"]);
        finish(command.arg(dir.path("model")).args(SHORT)).success();
        let mut command = program("nimbert-train");
        command.arg("export").arg(dir.path("model")).arg("--out").arg(dir.path("again"));
        finish(command.args(["--variants", "cpu-fp32"])).success();
        let [trained, again] = ["bundle", "again"].map(|bundle| {
            let classifier = Classifier::open(dir.path(bundle), &Options::default()).unwrap();
            classifier.classify("great acting").unwrap()
        });
        assert_eq!(trained.label, again.label, "{name}");
        assert!((trained.score - again.score).abs() < 1e-5, "{name}: {trained:?} {again:?}");
    }
}

/// multilingual-e5's models: XLM-RoBERTa's tokenizer before BERT, whose matrix has more rows than the tokenizer has tokens and
/// whose padding has another number, or before XLM-RoBERTa.
#[test]
fn bases_like_multilingual_e5() {
    for (name, model_type) in [("bert", "bert"), ("roberta", "xlm-roberta")] {
        let dir = Dir::default();
        let base = dir.tiny(name, |config| {
            config.insert("model_type".to_owned(), model_type.into());
            config.insert("tokenizer_class".to_owned(), "XLMRobertaTokenizer".into());
        });
        fs::write(base.join("tokenizer.json"), unigram_tokenizer().to_string()).unwrap();
        let data = dir.write("data.csv", small_csv(80));
        for (bundle, words) in [("bundle", None), ("trimmed", Some("40"))] {
            let mut command = fit(&base, &data, &dir.path(bundle));
            command.args(words.iter().flat_map(|words| ["--trim-vocab", words])).args(SHORT);
            finish(command.args(["--validation-size", "0.2"])).success();
            finish(program("nimbert").arg("verify").arg(dir.path(bundle))).success();
            let tokens = nimbert::Tokenizer::open(&dir.path(bundle).join("tokenizer.json"), 16).unwrap();
            let ids = tokens.encode("the film").unwrap().input_ids;
            assert_eq!([ids[0], ids[ids.len() - 1]], [0, 2], "{name}: {ids:?}");
            let classifier = Classifier::open(dir.path(bundle), &Options::default()).unwrap();
            let alone = classifier.classify("great acting").unwrap();
            let beside = &classifier.classify_batch(["great acting", &"a thin plot ".repeat(9)]).unwrap()[0];
            assert_eq!((&alone.label, alone.score), (&beside.label, beside.score), "{name}");
        }
    }
}

#[test]
fn a_student_without_attention() {
    for name in ARCHITECTURES {
        let dir = Dir::default();
        let data = dir.write("data.csv", small_csv(80));
        let mut command = fit(&base(name), &data, &dir.path("bundle"));
        command.args(["--student", "static", "--validation-size", "0.2", "--trim-vocab", "60", "--save-model"]);
        let output = finish(command.arg(dir.path("model")).args(SHORT)).success();
        assert!(output.contains("static"), "{name}: {output}");
        finish(program("nimbert").arg("verify").arg(dir.path("bundle"))).success();

        // An answer does not depend on what it is padded beside.
        let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
        let alone = classifier.classify("great acting").unwrap();
        let long = "a thin plot ".repeat(9);
        let beside = &classifier.classify_batch(["great acting", &long]).unwrap()[0];
        assert_eq!((&alone.label, alone.score), (&beside.label, beside.score), "{name}");

        // It is a base like any other, which goes on learning; layers it has none to keep or to freeze.
        let mut command = fit(&dir.path("model"), &data, &dir.path("again"));
        finish(command.args(SHORT)).success();
        let mut command = fit(&dir.path("model"), &data, &dir.path("none"));
        finish(command.args(["--layers", "1"])).failure(2, &["--layers", "at most the model's 0"]);
        let mut command = fit(&dir.path("model"), &data, &dir.path("none"));
        finish(command.args(["--student", "static"])).failure(2, &["--student", "a base with layers"]);
        // Which text of a pair a token is of, it cannot tell.
        let pairs = dir.write("pairs.csv", "text,second,label\na,b,0\nb,c,1\n".repeat(20));
        for (base, further) in [(base(name), &["--student", "static"][..]), (dir.path("model"), &[])] {
            let mut command = fit(&base, &pairs, &dir.path("none"));
            let expected = ["--text-pair-column", "single texts, for a model without attention, found pairs"];
            finish(command.args(["--text-pair-column", "second"]).args(further)).failure(2, &expected);
        }
        let mut command = fit(&dir.path("model"), &data, &dir.path("smaller"));
        finish(command.args(["--target-size", "400kB"]).args(SHORT)).success();
    }
}

#[test]
fn a_student_without_attention_of_texts_with_any_number_of_labels() {
    let dir = Dir::default();
    let data = dir.write("data.jsonl", several_labels_jsonl(90));
    let mut command = fit(&base("bert"), &data, &dir.path("bundle"));
    command.args(["--multi-label", "--long-text", "stride", "--max-length", "16", "--stride", "4"]);
    let output = finish(command.args(["--student", "static"]).args(SHORT)).success();
    assert!(output.contains("static"), "{output}");
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    classifier.classify(&"great acting ".repeat(30)).unwrap();
    finish(program("nimbert").arg("verify").arg(dir.path("bundle"))).success();
}

/// A model without layers reads the mean of all tokens, and nothing else is taken for it.
#[test]
fn a_static_model_that_reads_one_token_is_refused() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    for (key, value, expected) in [
        ("classifier_pooling", "\"cls\"", "classifier_pooling mean, found cls"),
        ("num_hidden_layers", "1", "num_hidden_layers 0"),
    ] {
        let folder = dir.path(key);
        fs::create_dir_all(&folder).unwrap();
        for file in ["tokenizer.json", "model.safetensors"] {
            fs::copy(base("bert").join(file), folder.join(file)).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(base("bert").join("config.json")).unwrap()).unwrap();
        config["model_type"] = "nimbert-static".into();
        config["num_hidden_layers"] = 0.into();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        finish(&mut fit(&folder, &data, &dir.path("bundle"))).failure(2, &[expected]);
    }
}
