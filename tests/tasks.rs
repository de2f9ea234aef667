//! Several tasks over one encoder: one graph, one run, an answer to each.

use std::fs;

use nimbert::{Batch, Bundle, Classifier, Options, Session, SessionOptions};
use nimbert_tests::{Dir, base, copy_folder, finish, fit, fit_by_any, program, seal, tiny_bundle, workspace};
use serde_json::{Value, json};

const MOODS: [&str; 2] = ["great", "terrible"];
const STARS: [(&str, &str); 3] = [("films", "1.0"), ("acting", "2"), ("plot", "10")];

/// What a text is about says how many stars it has, its first word the mood. Every fifth row lacks the one, of the others every seventh
/// the other.
fn rows(rows: usize) -> String {
    let row = |row: usize| {
        let (mood, (topic, stars)) = (MOODS[row % 2], STARS[row / 2 % 3]);
        let of_stars = if row % 5 == 4 { "" } else { stars };
        let of_mood = if row % 7 == 6 && row % 5 != 4 { "" } else { mood };
        format!("{mood} {topic} and {topic} {row},{of_stars},{of_mood}\n")
    };
    std::iter::once("text,stars,mood_column\n".to_owned()).chain((0..rows).map(row)).collect()
}

const TASKS: [&str; 4] = ["--task", "stars", "--task", "mood=mood_column"];
const TEXTS: [&str; 2] = ["great plot and plot 2", "terrible films and films 1"];

#[test]
fn one_graph_answers_all_of_them() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", rows(180)), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(TASKS).args(["--method", "finetune", "--epochs", "2", "--validation-size", "0.3"]);
    let every = ["--variants", "cpu-int8,cpu-fp32,gpu-fp16,tensorrt-fp16,tensorrt-int8", "--max-accuracy-drop", "20"];
    let output = finish(command.args(["--coverage", "0.8", "--abstain-precision", "0.5"]).args(every)).success();
    // 36 rows lack the one, 20 the other; each head begins with those that do not.
    assert!(output.contains("5 labels: stars=1 48, ") && output.contains("regression  mood: logistic, "), "{output}");
    assert!(output.contains("mood, of ") && output.contains("\n            mood: temperature "), "{output}");
    let Bundle { manifest, config, .. } = Bundle::open(&bundle).unwrap();
    assert_eq!((manifest.task.as_deref(), config.labels.join(" ").as_str()), (Some("stars"), "1 2 10"));
    let further = &manifest.further_tasks[0];
    assert_eq!((further.name.as_str(), further.labels.join(" ").as_str()), ("mood", "great terrible"));
    assert_eq!(further.coverage.as_ref().unwrap().thresholds.len(), 2);
    // The calibration of each is in its own weights.
    let temperatures = [manifest.folded_temperature, further.folded_temperature].map(Option::unwrap);
    assert_ne!(temperatures[0], temperatures[1]);

    for variant in ["cpu-int8", "cpu-fp32", "gpu-fp16", "tensorrt-fp16", "tensorrt-int8"] {
        let options = Options { variant: Some(variant.to_owned()), ..Options::default() };
        let classifier = Classifier::open(&bundle, &options).unwrap();
        assert_eq!(classifier.tasks().len(), 2);
        let predictions = classifier.classify_batch(TEXTS).unwrap();
        let found = predictions.iter().map(|prediction| {
            let mood = prediction.of_task("mood").unwrap();
            assert_eq!((prediction.of_task("stars"), prediction.logits.len()), (Some(prediction), 3));
            assert!((mood.scores.iter().map(|(_, score)| score).sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(mood.set.as_ref().unwrap().contains(&mood.label));
            (prediction.label.as_str(), mood.label.as_str())
        });
        assert_eq!(found.collect::<Vec<_>>(), [("10", "great"), ("1", "terrible")], "{variant}");
    }

    let classify = |arguments: &[&str]| {
        let mut command = program("nimbert");
        finish(command.arg("classify").arg(&bundle).args(arguments)).success()
    };
    let json: Vec<Value> =
        classify(&[TEXTS[0], "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&json[0]["task"], &json[0]["label"]), (&json!("stars"), &json!("10")));
    assert_eq!(json[0]["further"]["mood"]["label"], "great");
    let fields: Vec<String> = classify(&[TEXTS[0]]).trim_end().split('\t').map(str::to_owned).collect();
    assert_eq!(
        (fields.len(), fields[0].as_str(), fields[2].as_str(), fields[4].as_str()),
        (5, "10", "great", TEXTS[0])
    );
    let (input, out) = (dir.write("in.csv", format!("text,mood\n{},mine\n", TEXTS[1])), dir.path("out.csv"));
    classify(&["--input", input.to_str().unwrap(), "--output", out.to_str().unwrap()]);
    let csv = fs::read_to_string(out).unwrap();
    let header = "text,label,score,score 1,score 2,score 10,set,abstained,\
                  mood,mood score,mood score great,mood score terrible,mood set,mood abstained,input_mood";
    assert_eq!(csv.lines().next().unwrap(), header);
    assert!(csv.contains(",terrible,") && csv.ends_with(",mine\n"), "{csv}");

    let mut info = program("nimbert");
    let output = finish(info.arg("info").arg(&bundle)).success();
    assert!(output.contains("labels       stars: 1, 2, 10\n             mood: great, terrible\n"), "{output}");
    let explain = |arguments: &[&str]| {
        let mut command = program("nimbert");
        finish(command.arg("explain").arg(&bundle).arg(TEXTS[0]).args(arguments))
    };
    let why: Value = serde_json::from_str(&explain(&["--task", "mood", "--json"]).success()).unwrap();
    assert_eq!((&why["label"], &why["prediction"]["task"]), (&json!("great"), &json!("mood")));
    let sum: f64 = why["words"].as_array().unwrap().iter().map(|word| word["attribution"].as_f64().unwrap()).sum();
    assert!((sum - why["value"].as_f64().unwrap() + why["base_value"].as_f64().unwrap()).abs() < 1e-4);
    explain(&["--task", "age"]).failure(2, &["one of the bundle's tasks: stars, mood"]);
    explain(&["--task", "mood", "--label", "10"]).failure(2, &["one of the bundle's labels: great, terrible"]);

    let evaluate = |arguments: &[&str]| {
        let mut command = program("nimbert-train");
        finish(command.arg("evaluate").arg(&bundle).arg("--data").arg(&data).args(arguments))
    };
    let figures: Value = serde_json::from_str(&evaluate(&["--task", "mood=mood_column", "--json"]).success()).unwrap();
    // Those that lack a label are not counted: 36 and 20 of 180.
    assert_eq!((&figures["rows"], &figures["further"]["mood"]["rows"]), (&json!(144), &json!(160)));
    assert!(
        figures["accuracy"].as_f64().unwrap() > 0.9 && figures["further"]["mood"]["accuracy"].as_f64().unwrap() > 0.9
    );
    let output = evaluate(&["--task", "mood=mood_column"]).success();
    assert!(output.contains("\ntask stars\naccuracy ") && output.contains("\ntask mood\naccuracy "), "{output}");
    evaluate(&["--task", "age"]).failure(2, &["--task", "one of the bundle's tasks stars, mood"]);
    // The column is called otherwise.
    evaluate(&[]).failure(2, &["a column \"mood\""]);

    let report = fs::read_to_string(dir.path("bundle.report.html")).unwrap();
    for part in ["stars: accuracy (test)", "mood: accuracy (test)", "mood=terrible"] {
        assert!(report.contains(part), "{part}");
    }
}

#[test]
fn what_is_of_one_task_is_refused() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", rows(60)), dir.path("bundle"));
    let keep = dir.path("model");
    for (arguments, expected) in [
        (&["--task", "stars"][..], "two tasks or more"),
        (&["--task", "stars", "--task", "stars=mood_column"], "stars twice"),
        (&["--task", "stars", "--task", "=x"], "expected a name and a column"),
        (&["--task", "stars", "--task", "label=mood_column"], "a name of one word by which no column of results"),
        (&["--task", "stars", "--task", "my mood=mood_column"], "a name of one word"),
        (&["--task", "stars", "--task", "mood"], "a column \"mood\" (see --task)"),
        (&["--multi-label"], "cannot be used with"),
        (&["--save-model", keep.to_str().unwrap()], "--save-model: expected one task"),
    ] {
        let tasks = if arguments[0] == "--task" { &[][..] } else { &TASKS[..] };
        finish(fit(&base("bert"), &data, &bundle).args(tasks).args(arguments)).failure(2, &[expected]);
    }
    let mut evaluate = program("nimbert-train");
    let other = Dir::default();
    evaluate.arg("evaluate").arg(tiny_bundle(&other)).arg("--data").arg(&data);
    finish(evaluate.args(["--task", "mood"])).failure(2, &["a bundle with several tasks"]);
    for (content, expected) in [
        ("text,stars,mood_column\na,1,great\nb,,\n", "data.csv:3: expected a label of one task at least"),
        ("text,stars,mood_column\na,1,great\nb,1,terrible\n", "at least two different labels of the task stars"),
        ("text,stars,mood_column\na,1,x\nb,1,y\nc,2,x\nd,2,y\ne,3,x\n", "data.csv:6: expected at least two rows"),
        // A word for nothing may be a label's name.
        ("text,stars,mood_column\na,1,x\nb,NA,y\n", "data.csv:3: expected a label (--on-missing skip"),
    ] {
        let data = dir.write("data.csv", content);
        finish(fit(&base("bert"), &data, &bundle).args(TASKS)).failure(2, &[expected]);
    }
    assert!(!bundle.exists());
}

#[test]
fn settings_are_tuned_for_all_of_them() {
    let dir = Dir::default();
    let data = dir.write("data.csv", rows(60));
    let mut tune = program("nimbert-train");
    tune.arg("tune").arg("--base").arg(base("bert")).arg("--data").arg(&data).arg("--out").arg(dir.path("tuned"));
    tune.args(TASKS).args(["--trials", "4", "--cross-validate", "2", "--max-accuracy-drop", "100"]);
    let tuned = finish(&mut tune).success();
    assert!(
        tuned.contains("\ncommand     nimbert-train fit ") && tuned.contains(" --task mood=mood_column "),
        "{tuned}"
    );
    let Bundle { manifest, .. } = Bundle::open(dir.path("tuned")).unwrap();
    assert_eq!((manifest.task.as_deref(), manifest.further_tasks[0].name.as_str()), (Some("stars"), "mood"));
}

#[test]
fn smaller_models_answer_all_of_them() {
    let dir = Dir::default();
    let data = dir.write("data.csv", rows(180));
    for (smaller, told) in [
        (["--layers", "1"], "1 layers"),
        (["--student", "static"], "static"),
        (["--target-size", "400kB"], "bundle MB"),
    ] {
        let bundle = dir.path(told);
        let mut command = fit_by_any(&base("bert"), &data, &bundle);
        command.args(TASKS).args(smaller).args(["--learning-rate", "1e-3", "--max-accuracy-drop", "100"]);
        let output = finish(command.args(["--max-label-changes", "100"])).success();
        assert!(output.contains(told), "{output}");
        let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
        for (text, (stars, mood)) in TEXTS.iter().zip([("10", "great"), ("1", "terrible")]) {
            let prediction = classifier.classify(text).unwrap();
            let found = (prediction.label.as_str(), prediction.of_task("mood").unwrap().label.as_str());
            assert_eq!(found, (stars, mood), "{told}");
        }
    }
}

#[test]
fn labels_of_each_are_doubted_by_themselves() {
    let dir = Dir::default();
    // Row 14 is great and has no stars, but is said to be terrible.
    let mut lines: Vec<String> = rows(180).lines().map(str::to_owned).collect();
    assert!(lines[15].starts_with("great ") && lines[15].ends_with(",,great"), "{}", lines[15]);
    lines[15] = lines[15].replace(",great", ",terrible");
    let (data, bundle) = (dir.write("data.csv", lines.join("\n")), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(TASKS).args(["--method", "frozen", "--cross-validate", "3", "--test-size", "0"]);
    let output = finish(command.args(["--max-accuracy-drop", "100"])).success();
    let doubts = fs::read_to_string(dir.path("bundle.doubts.csv")).unwrap();
    let first = doubts.lines().nth(1).unwrap();
    assert!(first.contains("data.csv,16,mood=terrible,mood=great,0.0") && first.contains(",yes,great "), "{first}");
    assert!(output.contains("doubts      1 of 304 labels that may be wrong"), "{output}");
}

#[test]
fn texts_to_label_have_a_column_of_each() {
    let dir = Dir::default();
    let (data, bundle, out) = (dir.write("data.csv", rows(120)), dir.path("bundle"), dir.path("to-label.csv"));
    let usual = ["--method", "frozen", "--max-accuracy-drop", "100"];
    finish(fit_by_any(&base("bert"), &data, &bundle).args(TASKS).args(usual)).success();
    let texts = "text,mood_column,stars\ngreat plot,,\nterrible films,,\nacting and acting,,\n";
    let texts = dir.write("texts.csv", texts);
    let suggest = |arguments: &[&str]| {
        let mut command = program("nimbert-train");
        command.arg("suggest").arg(&bundle).arg("--unlabelled").arg(&texts).arg("--out").arg(&out);
        finish(command.args(arguments))
    };
    suggest(&["--label-column", "mood_column"]).failure(2, &["--label-column: expected --task instead"]);
    suggest(&["--task", "age"]).failure(2, &["one of the bundle's tasks stars, mood"]);
    suggest(&["--task", "mood=stars"])
        .failure(2, &["--task: expected columns of different names", "found stars twice"]);
    let mut simulate = program("nimbert-train");
    simulate.args(["suggest", "--simulate", "--task", "mood", "--base"]).arg(base("bert")).arg("--data").arg(&data);
    finish(&mut simulate).failure(2, &["--task: expected --label-column instead"]);
    let told = suggest(&["--task", "mood=mood_column", "--data", data.to_str().unwrap()]);
    for column in ["mood_column", "stars"] {
        assert!(told.stderr.contains(&format!("the column {column} is not read")), "{told:?}");
    }
    let written = fs::read_to_string(&out).unwrap();
    let (header, lines) = written.split_once('\n').unwrap();
    assert_eq!(header, "text,stars,mood_column,nimbert_stars,nimbert_stars score,nimbert_mood,nimbert_mood score");
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    for line in lines.lines() {
        let (text, rest) = line.split_once(",,,").unwrap();
        let stars = classifier.classify(text).unwrap();
        let mood = stars.of_task("mood").unwrap();
        assert_eq!(rest, format!("{},{:.6},{},{:.6}", stars.label, stars.score, mood.label, mood.score));
    }
    // What is filled in, of one task or of both, is what fit reads.
    assert!(lines.lines().count() >= 2, "{written}");
    fs::write(&out, written.replacen(",,,", ",10,great,", 1).replacen(",,,", ",,terrible,", 1).replace(",,,", ",2,,"))
        .unwrap();
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("new"));
    let output = finish(command.arg("--data").arg(&out).args(TASKS).args(usual)).success();
    assert!(output.contains(&format!("{} rows", 120 + lines.lines().count())), "{output}");
}

#[test]
fn a_manifest_with_more_tasks_than_the_graph_is_refused() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let task = |labels: &[&str]| json!([{ "name": "mood", "labels": labels }]);
    let claim = |first: Value, further: Value| {
        seal::change_manifest(&bundle, |manifest| {
            match first {
                Value::Null => drop(manifest.as_object_mut().unwrap().remove("task")),
                first => manifest["task"] = first,
            }
            manifest["further_tasks"] = further;
        });
        let mut classify = program("nimbert");
        finish(classify.arg("classify").arg(&bundle).arg("a text"))
    };
    claim(json!("stars"), task(&["great", "terrible"])).failure(2, &["a graph with logits for 2 tasks", "found 1"]);
    claim(json!("mood"), task(&["great", "terrible"])).failure(2, &["tasks of different names", "\"mood\" twice"]);
    claim(json!("stars"), task(&["great", "great"])).failure(2, &["two or more different labels of the task \"mood\""]);
    claim(Value::Null, task(&["great", "terrible"])).failure(2, &["a name for the first task"]);
    // Nor is one whose other answers nobody would see.
    let other = Dir::default();
    let several = copy_folder(&workspace("tests/data/bundle-tasks"), other.path("several"));
    seal::change_manifest(&several, |manifest| {
        for key in ["task", "further_tasks"] {
            manifest.as_object_mut().unwrap().remove(key);
        }
    });
    let mut classify = program("nimbert");
    finish(classify.arg("classify").arg(&several).arg("a text")).failure(2, &["logits for 1 tasks", "found 2"]);
    // A graph of one task has no other logits.
    let mut session = Session::open(&bundle.join("model.onnx"), &SessionOptions::default()).unwrap();
    let encoding = nimbert::Encoding { input_ids: vec![1, 2], token_type_ids: vec![0; 2], truncated: false };
    assert!(
        session.tasks() == 1 && session.answers(&Batch::pad([&encoding].into_iter(), 0)).unwrap()[0].further.is_empty()
    );
}

#[test]
fn a_frozen_encoder_has_a_head_for_each() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", rows(120)), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(TASKS).args(["--method", "frozen", "--class-weights", "balanced"]);
    finish(&mut command).success();
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let [first, second] = TEXTS.map(|text| classifier.classify(text).unwrap());
    assert_eq!((first.label.as_str(), first.further[0].label.as_str()), ("10", "great"));
    assert_eq!((second.label.as_str(), second.further[0].label.as_str()), ("1", "terrible"));
    // A weight for each label of each task, by its name.
    let weights = ["--class-weights", "stars=1=1,stars=2=1,stars=10=2,mood=great=1,mood=terrible=1", "--overwrite"];
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    finish(command.args(TASKS).args(["--method", "frozen"]).args(weights)).success();
}

#[test]
fn folds_answer_each_of_them_and_a_text_is_unknown_to_all_or_none() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", rows(180)), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    command.args(TASKS).args(["--method", "finetune", "--epochs", "2", "--cross-validate", "3"]);
    // Rows of a label are all but the same here: what rounding moves is far from them.
    command.args(["--unknown-rate", "0.1", "--coverage", "0.8", "--variants", "cpu-fp32"]);
    let output = finish(&mut command).success();
    for part in ["stars: accuracy", "mood: accuracy", "stars: macro F1"] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
    let lines = fs::read_to_string(dir.path("bundle.out-of-fold.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // A fifth is tested on.
    assert_eq!(lines.len(), 144);
    let (mut right, mut all) = (0, 0);
    for line in &lines {
        let answer = line["answer"].as_array().unwrap();
        let of_task = |label: &Value, task: &str| label.as_str().unwrap().starts_with(task);
        assert!(answer.len() == 2 && of_task(&answer[0], "stars=") && of_task(&answer[1], "mood="), "{line}");
        let scores = line["scores"].as_object().unwrap();
        for task in ["stars=", "mood="] {
            let of_task = scores.iter().filter(|(label, _)| label.starts_with(task));
            assert!((of_task.map(|(_, score)| score.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-5, "{line}");
        }
        let labels = line["labels"].as_array().unwrap();
        all += labels.len();
        right += labels.iter().filter(|label| answer.contains(label)).count();
    }
    assert!(all < 2 * lines.len() && right * 10 > all * 9, "{right} of {all}");
    // Each label is judged by itself.
    let doubts = fs::read_to_string(dir.path("bundle.doubts.csv")).unwrap();
    let labels = |task: &str| doubts.lines().filter(|line| line.contains(&format!(",{task}="))).count();
    assert_eq!((doubts.lines().count() - 1, labels("stars") + labels("mood")), (all, all), "{doubts}");
    // What was answered to rows that were left out is what answers are calibrated by.
    let manifest = Bundle::open(&bundle).unwrap().manifest;
    assert!(manifest.further_tasks[0].coverage.is_some() && manifest.unknown.is_some());
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let [own, other] = ["great plot and plot 64", "! ? ; ! ? ; !"].map(|text| classifier.classify(text).unwrap());
    for (prediction, is_unknown) in [(own, false), (other, true)] {
        let mood = &prediction.further[0];
        assert_eq!((prediction.unknown, mood.unknown), (is_unknown, is_unknown), "{:?}", prediction.distance);
        assert!(prediction.distance.is_some() && prediction.distance == mood.distance);
    }
    let mut evaluate = program("nimbert-train");
    evaluate.arg("evaluate").arg(&bundle).arg("--data").arg(&data).args(["--task", "mood=mood_column", "--json"]);
    let figures: Value = serde_json::from_str(&finish(&mut evaluate).success()).unwrap();
    assert!(figures["unknown"].is_f64() && figures["further"]["mood"]["unknown"].is_f64(), "{figures}");
    let many = ["--method", "frozen", "--cross-validate", "60"];
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("few"));
    let expected =
        "expected 60 training rows for each of 5 labels on average, or less folds, found 243 labels in 144 rows";
    finish(command.args(TASKS).args(many)).failure(2, &[expected]);
    let mut command = fit_by_any(&base("bert"), &data, &dir.path("few"));
    let too_few = ["--method", "frozen", "--validation-size", "0.1", "--unknown-rate", "0.05"];
    finish(command.args(TASKS).args(too_few)).failure(2, &["--unknown-rate: expected at least 19 rows to find it by"]);
}

#[test]
fn of_few_rows_methods_are_compared_and_what_they_lack_is_told() {
    let dir = Dir::default();
    let (data, bundle) = (dir.write("data.csv", rows(60)), dir.path("bundle"));
    let mut command = fit_by_any(&base("bert"), &data, &bundle);
    let output = finish(command.args(TASKS)).success();
    let told = ["12 rows have no label of the task stars", "7 rows have no label of the task mood"];
    for part in told.into_iter().chain(["method      contrastive, finetune, frozen\n", " ←"]) {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
    let mut info = program("nimbert");
    assert!(finish(info.arg("info").arg(&bundle)).success().contains("mood: great, terrible"));
    // Of one task four rows have a label, of which the validation rows are less.
    let keep = |(row, line): (usize, &str)| match row {
        0 | 8 | 17 | 22 | 33 => format!("{line}\n"),
        _ => format!("{},\n", line.rsplit_once(',').unwrap().0),
    };
    let content: String = rows(60).lines().enumerate().map(keep).filter(|line| !line.ends_with(",,\n")).collect();
    let sparse = dir.write("sparse.csv", content);
    let mut command = fit(&base("bert"), &sparse, &dir.path("other"));
    command.args(TASKS).args(["--coverage", "0.8", "--validation-size", "0.3"]);
    finish(&mut command).failure(2, &["--coverage: expected at least 4 rows with a label of the task mood"]);
    // The same text twice, once for each task, says nothing that the other does not.
    let apart: String = rows(60)
        .lines()
        .skip(1)
        .flat_map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            [format!("{},{},\n", cells[0], cells[1]), format!("{},,{}\n", cells[0], cells[2])]
        })
        .filter(|line| !line.ends_with(",,\n"))
        .collect();
    let apart = dir.write("apart.csv", format!("text,stars,mood_column\n{apart}"));
    let mut command = fit_by_any(&base("bert"), &apart, &dir.path("apart"));
    let output = finish(command.args(TASKS).args(["--epochs", "1"])).success();
    assert!(!output.contains("different labels"), "{output}");
}
