//! Bad input to `nimbert-train fit`: a message that names file and line, exit status 2, and nothing left behind.

use std::{fs, path::Path};

use nimbert_tests::{Dir, Finished, base, finish, fit, fit_by_any, program, small_csv, tiny_bundle, workspace};
use serde_json::json;

/// Fits the tiny BERT on a data file with this content; nothing but the file may be there afterwards.
fn fit_data(name: &str, content: &[u8], arguments: &[&str]) -> Finished {
    let dir = Dir::default();
    let data = dir.write(name, content);
    let base = workspace("tests/data/tiny-bert");
    let finished = finish(fit(&base, &data, &dir.path("bundle")).args(arguments));
    assert_eq!(dir.names(), [name], "something was left behind");
    finished
}

/// Fits on good data with a base that is not good.
fn fit_base(base: &Path, dir: &Dir) -> Finished {
    let data = dir.write("data.csv", small_csv(20));
    let before = dir.names();
    let finished = finish(&mut fit(base, &data, &dir.path("bundle")));
    assert_eq!(dir.names(), before, "something was left behind");
    finished
}

#[test]
fn a_missing_column_is_named_with_those_that_are_there() {
    let finished = fit_data("data.csv", b"text,class\na,b\n", &[]);
    finished.failure(2, &["data.csv:1:", "\"label\"", "--label-column", "text, class"]);
}

#[test]
fn an_empty_file_is_refused() {
    fit_data("data.csv", b"", &[]).failure(2, &["data.csv: ", "found an empty file"]);
    fit_data("data.csv", b"text,label\n", &[]).failure(2, &["data.csv: ", "at least one row"]);
}

#[test]
fn one_class_is_refused() {
    fit_data("data.csv", b"text,label\na,x\nb,x\n", &[]).failure(2, &["data.csv: ", "two different labels", "\"x\""]);
}

#[test]
fn a_class_with_one_row_is_named_with_its_line() {
    let finished = fit_data("data.csv", b"text,label\na,x\nb,y\nc,x\n", &[]);
    finished.failure(2, &["data.csv:3:", "two rows for every label", "\"y\""]);
}

#[test]
fn a_row_with_too_few_fields_is_named_with_its_line() {
    fit_data("data.csv", b"text,label\na,x\nb\n", &[]).failure(2, &["data.csv:3:", "2 fields", "found 1"]);
}

#[test]
fn invalid_utf8_is_named_with_line_and_column() {
    fit_data("data.csv", b"text,label\na,x\nb\xff,y\n", &[]).failure(2, &["data.csv:3:2:", "UTF-8", "0xff"]);
}

#[test]
fn an_unknown_label_in_the_test_file_is_named_with_its_line() {
    let dir = Dir::default();
    let (data, test) = (dir.write("data.csv", small_csv(20)), dir.write("test.csv", "text,label\na,neutral\n"));
    let base = workspace("tests/data/tiny-bert");
    let finished = finish(fit(&base, &data, &dir.path("bundle")).arg("--test-data").arg(test));
    finished.failure(2, &["test.csv:2:", "negative, positive", "\"neutral\""]);
}

#[test]
fn a_file_of_another_kind_and_a_wrong_path_are_refused() {
    fit_data("data.xlsx", b"PK", &[]).failure(2, &["data.xlsx", ".csv, .tsv, .jsonl"]);
    let dir = Dir::default();
    let finished = finish(&mut fit(&workspace("tests/data/tiny-bert"), &dir.path("nowhere.csv"), &dir.path("bundle")));
    finished.failure(2, &["nowhere.csv", "No such file"]);
    let data = dir.write("data.csv", small_csv(20));
    finish(&mut fit(&dir.path("no-base"), &data, &dir.path("bundle"))).failure(2, &["no-base", "--base", "hub name"]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let data = small_csv(20);
    for (arguments, expected) in [
        (["--max-length", "131"], "at most the model's 130 positions, found 131"),
        (["--max-length", "2"], "no room for text"),
        (["--epochs", "0"], "--epochs: expected a number above 0"),
        (["--batch-size", "0"], "--batch-size: expected a number above 0"),
        (["--learning-rate", "NaN"], "--learning-rate: expected a number above 0"),
        (["--test-size", "1"], "--test-size: expected a share"),
        (["--warmup-ratio", "1.5"], "--warmup-ratio: expected a share"),
        (["--label-smoothing", "1"], "--label-smoothing: expected a share"),
        (["--focal-gamma", "0.5"], "--focal-gamma: expected 0, or"),
        (["--class-weights", "positive=2"], "--class-weights: expected balanced, or a weight for each label"),
        (["--patience", "0"], "invalid value '0'"),
        (["--precision", "int4"], "invalid value 'int4'"),
        (["--max-accuracy-drop", "NaN"], "--max-accuracy-drop: expected points from 0 to 100, found NaN"),
        (["--max-label-changes", "101"], "--max-label-changes: expected a percentage from 0 to 100, found 101"),
    ] {
        fit_data("data.csv", data.as_bytes(), &arguments).failure(2, &[expected]);
    }
}

#[test]
fn divergence_before_the_first_epoch_leaves_nothing() {
    let finished = fit_data("data.csv", small_csv(40).as_bytes(), &["--learning-rate", "1e30", "--batch-size", "4"]);
    finished.failure(2, &["diverged at step ", "(epoch 1)", "--learning-rate"]);
}

#[test]
fn weights_of_another_shape_than_the_configuration_are_named() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|config| drop(config.insert("intermediate_size".into(), json!(48))));
    let finished = fit_base(&base, &dir);
    finished.failure(2, &["model.safetensors", "intermediate.dense.weight", "[48, 32]", "[64, 32]"]);
}

#[test]
fn a_missing_layer_is_named() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|config| drop(config.insert("num_hidden_layers".into(), json!(3))));
    fit_base(&base, &dir).failure(2, &["model.safetensors", "bert.encoder.layer.2.", "found none"]);
}

#[test]
fn a_tokenizer_with_more_ids_than_embeddings_is_refused() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|_| ());
    let tokenizer = fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["model"]["vocab"]["extraordinary"] = json!(147);
    fs::write(base.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fit_base(&base, &dir).failure(2, &["tokenizer.json", "vocab_size 147", "the id 147"]);
}

#[test]
fn what_is_no_bert_or_no_model_at_all_is_refused() {
    for (key, value, expected) in [
        ("model_type", json!("gpt2"), "one of the model types bert, distilbert, "),
        ("model_type", json!("gpt2"), "found gpt2\n"),
        ("model_type", json!(7), "found no model_type\n"),
        ("model_type", json!("eurobert"), "found eurobert, of which is missing here: RMSNorm"),
        ("hidden_act", json!("swish"), "one of the activations gelu,"),
        ("num_attention_heads", json!(5), "num_attention_heads divides, found 32 and 5"),
        ("hidden_size", json!("wide"), "config.json"),
    ] {
        let dir = Dir::default();
        let base = dir.tiny_bert(|config| drop(config.insert(key.into(), value)));
        fit_base(&base, &dir).failure(2, &[expected]);
    }
    let dir = Dir::default();
    let base = dir.tiny_bert(|_| ());
    fs::write(base.join("model.safetensors"), b"these are not weights").unwrap();
    fit_base(&base, &dir).failure(2, &["model.safetensors: expected a safetensors file"]);
    fs::write(base.join("tokenizer.json"), b"{").unwrap();
    fs::remove_file(dir.path("data.csv")).unwrap();
    fit_base(&base, &dir).failure(2, &["tokenizer.json: expected a JSON object"]);
}

/// What other models of a family have, and this crate does not compute, is named.
#[test]
fn what_of_a_family_is_not_computed_is_refused_by_name() {
    for (folder, key, value, expected) in [
        ("deberta-v3", "conv_kernel_size", json!(3), "conv_kernel_size 0, found 3"),
        ("deberta-v3", "pos_att_type", json!("c2p"), "pos_att_type c2p and p2c, found [\"c2p\"]"),
        ("deberta-v3", "share_att_key", json!(false), "share_att_key true), found false"),
        ("deberta-v3", "embedding_size", json!(16), "an embedding_size that is the hidden_size, found 16"),
        ("modernbert-cls", "classifier_pooling", json!("max"), "classifier_pooling cls or mean, found max"),
        ("modernbert-cls", "layer_types", json!(["full_attention"]), "4 layer_types, one a layer, found 1"),
        (
            "modernbert-cls",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "yarn"}}),
            "rotary positions of rope_type default, found \"yarn\"",
        ),
        ("mpnet", "relative_attention_num_buckets", json!(30), "a multiple of 4"),
    ] {
        let dir = Dir::default();
        let base = dir.tiny(folder, |config| drop(config.insert(key.into(), value)));
        fit_base(&base, &dir).failure(2, &["config.json", expected]);
    }
}

#[test]
fn an_output_folder_in_use_is_refused_and_a_bundle_only_replaced_on_demand() {
    let dir = Dir::default();
    let (base, data, out) = (workspace("tests/data/tiny-bert"), dir.write("data.csv", small_csv(40)), dir.path("out"));
    let run = |arguments: &[&str]| finish(fit(&base, &data, &out).args(arguments).args(["--epochs", "1"]));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.txt"), "years of work").unwrap();
    run(&[]).failure(2, &["out: expected nothing there, or an empty folder, found other files"]);
    run(&["--overwrite"]).failure(2, &["other files"]);
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "years of work");
    fs::remove_file(out.join("thesis.txt")).unwrap();
    // One column is one thing.
    run(&["--label-column", "text"])
        .failure(2, &["--label-column: expected another column than that of --text-column"]);
    run(&["--text-pair-column", "text"]).failure(2, &["--text-pair-column", "that of --text-column, found text"]);
    run(&[]).success();
    run(&[]).failure(2, &["a bundle; --overwrite replaces it"]);
    run(&["--overwrite", "--seed", "1"]).success();
    assert_eq!(dir.names(), ["data.csv", "out", "out.metrics.jsonl", "out.report.html"]);
    // Where there is nothing to go on from, it is another run's.
    run(&["--resume"]).failure(2, &["a bundle; --overwrite replaces it"]);
    // What somebody has put beside its files stays.
    fs::write(out.join("train.csv"), small_csv(40)).unwrap();
    run(&["--overwrite"]).failure(2, &["found train.csv in a bundle that does not list it"]);
    fs::remove_file(out.join("train.csv")).unwrap();
    // Not so what a system leaves in every folder that is shown.
    fs::write(out.join(".DS_Store"), "").unwrap();
    run(&["--overwrite"]).success();
    fs::create_dir(out.join(".git")).unwrap();
    run(&["--overwrite"]).failure(2, &["found .git in a bundle that does not list it"]);
    fs::remove_dir(out.join(".git")).unwrap();
    // Nor are a run's files those of another one that went on from nothing.
    fs::rename(&out, dir.path("moved")).unwrap();
    run(&["--resume"]).failure(2, &["out.report.html", "a file; --overwrite replaces it"]);
    fs::rename(dir.path("moved"), &out).unwrap();
    for (option, name) in [
        ("--report", "out/report.html"),
        ("--report", "out"),
        ("--save-model", "out/model"),
        ("--tensorboard", "out/events"),
        ("--report", "model/../out/report.html"),
    ] {
        fs::create_dir_all(dir.path("model")).unwrap();
        let path = dir.path(name);
        run(&["--overwrite", option, path.to_str().unwrap()]).failure(2, &[name]);
    }
    // What the run itself writes beside the bundle, or the other options.
    for (option, name) in [
        ("--report", "out.doubts.csv"),
        ("--report", "out.tuning.html"),
        ("--save-model", "out.checkpoint"),
        ("--save-model", "out.report.html"),
        ("--save-model", "out.tune/model"),
        ("--tensorboard", "out.metrics.jsonl"),
        ("--tensorboard", "events/model"),
    ] {
        let (path, events) = (dir.path(name), dir.path("events"));
        let further = if option == "--tensorboard" { "--save-model" } else { "--tensorboard" };
        run(&["--overwrite", option, path.to_str().unwrap(), further, events.to_str().unwrap()])
            .failure(2, &["expected a place that nothing else of the run is written to"]);
    }
    // Events may lie beside all of it, and models beside them.
    let (events, beside) = (dir.path(""), dir.path("model"));
    let [events, beside] = [&events, &beside].map(|path| path.to_str().unwrap());
    run(&["--overwrite", "--tensorboard", events, "--save-model", beside]).success();
    fs::remove_dir_all(dir.path("model")).unwrap();
    // A model that was kept is replaced with it, if asked for.
    let model = dir.path("model");
    let save = |further: &[&str]| run(&[&["--save-model", model.to_str().unwrap()], further].concat());
    save(&["--overwrite"]).success();
    save(&["--overwrite"]).success();
    fs::write(model.join("notes.txt"), "mine").unwrap();
    save(&["--overwrite"]).failure(2, &["model: expected nothing there, or an empty folder, found other files"]);
}

#[cfg(unix)]
#[test]
fn what_is_written_behind_a_link_leaves_the_link() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let (folder, doubts) = (dir.path("folder"), dir.write("doubts.csv", ""));
    fs::create_dir(&folder).unwrap();
    for (target, link) in [(&folder, "bundle"), (&doubts, "link.csv")] {
        std::os::unix::fs::symlink(target, dir.path(link)).unwrap();
    }
    finish(fit(&base("bert"), &data, &dir.path("bundle")).args(["--epochs", "1"])).success();
    assert!(dir.path("bundle").is_symlink() && folder.join("nimbert.json").exists());
    // Where it is followed by its slash, and where it is a pipe, to whose end a link leads that is no name.
    let mut command = fit(&base("bert"), &data, &dir.path("bundle/"));
    if cfg!(target_os = "linux") {
        let output = finish(command.args(["--epochs", "1", "--overwrite", "--report", "/dev/stdout"]));
        assert!(output.status == Some(0) && output.stdout.contains("<!DOCTYPE html>"), "{}", output.stderr);
    }
    assert!(dir.path("bundle").is_symlink());
    // One file too, whatever that is called behind the link, and where nothing is there yet.
    let (link, file) = (dir.path("bundle.nimbert"), dir.path("file"));
    std::os::unix::fs::symlink("file", &link).unwrap();
    for overwrite in [&[][..], &["--overwrite"]] {
        let mut pack = program("nimbert-train");
        finish(pack.arg("pack").arg(&folder).arg("--out").arg(&link).args(overwrite)).success();
        assert!(link.is_symlink() && file.is_file());
        finish(fit(&base("bert"), &data, &link).args(["--epochs", "1", "--overwrite"])).success();
        assert!(link.is_symlink() && file.is_file());
    }
    let mut command = program("nimbert-train");
    command.arg("check").arg("--data").arg(&data).arg("--base").arg(base("bert")).args(["--deep", "--overwrite"]);
    assert_eq!(finish(command.arg("--doubts").arg(dir.path("link.csv"))).status, Some(0));
    assert!(dir.path("link.csv").is_symlink() && fs::read_to_string(&doubts).unwrap().lines().count() == 41);
}

#[test]
fn options_that_would_change_nothing_are_refused() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let path = data.to_str().unwrap();
    for (arguments, option) in [
        (&["--rehearsal", "nowhere.csv"][..], "--rehearsal"),
        (&["--rehearsal-rows", "9"], "--rehearsal-rows"),
        (&["--validation-data", path, "--validation-size", "0.3"], "--validation-size: expected no --validation-data"),
        (&["--test-data", path, "--test-size", "0.3"], "--test-size: expected no --test-data"),
        (&["--max-windows", "3"], "--max-windows: expected --long-text stride"),
        (&["--label-separator", ";"], "--label-separator: expected --multi-label"),
        (&["--precision", "fp32", "--calibration", "entropy"], "--calibration: expected an int8 graph"),
        (&["--variants", "cpu-fp32", "--verbose"], "--verbose: expected an int8 graph"),
        (&["--calibration", "min-max,min-max"], "--calibration: expected each method once"),
    ] {
        finish(fit(&base("bert"), &data, &dir.path("bundle")).args(arguments)).failure(2, &[option]);
    }
    let mut frozen = fit_by_any(&base("bert"), &data, &dir.path("bundle"));
    finish(frozen.args(["--method", "frozen", "--layers", "1", "--tensorboard"]).arg(dir.path("events")))
        .failure(2, &["--tensorboard: expected a --method by which the encoder learns"]);
    let train = |arguments: &[&str]| finish(program("nimbert-train").args(arguments));
    let (model, bundle, out) = (base("bert"), tiny_bundle(&dir), dir.path("out"));
    let [model, bundle, out] = [&model, &bundle, &out].map(|path| path.to_str().unwrap());
    for (option, value) in [("--label-column", "x"), ("--delimiter", ";"), ("--max-accuracy-drop", "5")] {
        train(&["export", model, "--out", out, option, value]).failure(2, &[option, "--data with it"]);
    }
    train(&["export", model, "--out", out, "--data", path, "--unknown-label", "positive"])
        .failure(2, &["--unknown-label: expected a label that the model does not have"]);
    train(&["check", "--data", path, "--base", model, "--deep", "--overwrite"])
        .failure(2, &["--overwrite: expected --doubts or --report with it"]);
    train(&["check", "--data", path, "--label-separator", ";"])
        .failure(2, &["--label-separator: expected --multi-label"]);
    for (further, message) in [
        (&["--multi-label"][..], "--multi-label: expected a bundle whose texts may have several labels"),
        (&["--label-separator", ";"], "--label-separator: expected a bundle whose texts may have several labels"),
        (&["--unknown-label", "positive"], "--unknown-label: expected a label that the bundle does not have"),
    ] {
        train(&[&["evaluate", bundle, "--data", path], further].concat()).failure(2, &[message]);
    }
    let suggest = ["suggest", bundle, "--unlabelled", path, "--out", "nowhere.csv"];
    for further in [["--base", model], ["--max-length", "9"], ["--report", out], ["--weight-column", "w"]] {
        train(&[&suggest[..], &further].concat()).failure(2, &[further[0]]);
    }
}

#[test]
fn check_finds_what_training_refuses() {
    let dir = Dir::default();
    for (content, message) in [
        ("text,label\na film,x\na plot,x\n", "error: "),
        ("text,label\na film,x\na plot,x\nacting,y\n", "one row with label \"y\""),
    ] {
        let mut command = program("nimbert-train");
        let finished = finish(command.arg("check").arg("--data").arg(dir.write("data.csv", content)));
        finished.failure(2, &["--data: expected rows that fit takes, found 1 of "]);
        let output = finished.stdout;
        assert!(output.contains(message) && output.contains("fit refuses such rows"), "{output}");
    }
}

#[test]
fn a_missing_library_is_found_out_before_training() {
    let finished = fit_data("data.csv", small_csv(40).as_bytes(), &["--ort-lib", "nowhere.so"]);
    finished.failure(2, &["no ONNX Runtime library", "nowhere.so"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn the_trained_model_is_not_saved_over_another() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|_| ());
    let data = dir.write("data.csv", small_csv(20));
    let finished = finish(fit(&base, &data, &dir.path("bundle")).arg("--save-model").arg(&base));
    finished.failure(2, &["tiny-bert: expected nothing there, or an empty folder"]);
    let finished = finish(fit(&base, &data, &dir.path("bundle")).arg("--save-model").arg(dir.path("bundle")));
    finished.failure(2, &["--save-model: expected a place outside of --out"]);
    assert_eq!(dir.names(), ["data.csv", "tiny-bert"]);
    assert!(fs::metadata(base.join("tokenizer.json")).unwrap().len() > 0);
}

#[test]
fn a_tokenizer_without_special_tokens_and_a_pad_id_outside_of_the_vocabulary_are_refused() {
    let dir = Dir::default();
    let base = dir.tiny_bert(|config| drop(config.insert("pad_token_id".into(), json!(147))));
    fit_base(&base, &dir).failure(2, &["config.json", "pad_token_id below the vocab_size 147, found 147"]);
    let dir = Dir::default();
    let base = dir.tiny_bert(|_| ());
    let tokenizer = fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["post_processor"] = serde_json::Value::Null;
    fs::write(base.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fit_base(&base, &dir).failure(2, &["tokenizer.json", "special tokens"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_where_nothing_can_be_written_is_found_out_before_training() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(20));
    let base = workspace("tests/data/tiny-bert");
    let finished = finish(&mut fit(&base, &data, std::path::Path::new("/proc/bundle")));
    finished.failure(2, &["error: /proc/bundle: "]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn a_report_that_nobody_reads_does_not_cost_the_training() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let mut command = fit(&workspace("tests/data/tiny-bert"), &data, &dir.path("bundle"));
    let mut child = command.args(["--epochs", "2"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    nimbert::Bundle::open(dir.path("bundle")).unwrap();
}

#[cfg(unix)]
mod interrupt {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };

    use super::*;

    /// Sends SIGINT once a line of output contains `mark`, and waits for the end.
    fn interrupt_at(mark: &str, rows: usize, dir: &Dir, further: &[&str]) -> Finished {
        let data = dir.write("data.csv", small_csv(rows));
        let mut command = fit(&workspace("tests/data/tiny-bert"), &data, &dir.path("bundle"));
        command.args(["--epochs", "100000", "--test-size", "0", "--validation-size", "0"]).args(further);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(mark)), "no {mark:?} in the output");
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        // Until the end: a child that cannot write would stop.
        let rest = lines.map(|line| line.unwrap() + "\n").collect();
        let output = child.wait_with_output().unwrap();
        Finished { stdout: rest, ..output.into() }
    }

    #[test]
    fn after_an_epoch_the_best_one_is_packed() {
        let dir = Dir::default();
        let model = dir.path("model").display().to_string();
        let save = ["--save-model", &model];
        let finished = interrupt_at("          1 ", 40, &dir, &save);
        finished.failure(130, &["stopping at the next step", "was packed", "interrupted during training, at step "]);
        nimbert::Bundle::open(dir.path("bundle")).unwrap().verify().unwrap();
        let beside = ["bundle", "bundle.checkpoint", "bundle.metrics.jsonl", "bundle.report.html", "data.csv", "model"];
        assert_eq!(dir.names(), beside);
        // What it has left may be replaced by the run that goes on, and by no other.
        let resumed = interrupt_at("          1 ", 40, &dir, &[&save[..], &["--resume"]].concat());
        resumed.failure(130, &["was packed"]);
        let mut command = fit(&workspace("tests/data/tiny-bert"), &dir.path("data.csv"), &dir.path("other"));
        finish(command.args(save)).failure(2, &["other files, which are never replaced"]);
    }

    #[test]
    fn before_the_first_epoch_ends_a_checkpoint_is_left() {
        let dir = Dir::default();
        let finished = interrupt_at("epoch       loss", 60_000, &dir, &[]);
        finished.failure(130, &["interrupted during training, at step ", "(epoch 1)"]);
        assert_eq!(dir.names(), ["bundle.checkpoint", "data.csv"]);
    }
}
