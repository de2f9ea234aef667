//! The program without a window: events go in, and what a screen reader would be told comes out.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eframe::egui::{DroppedFile, Key, Modifiers, accesskit::Role};
use egui_kittest::{
    Harness,
    kittest::{NodeT, Queryable},
};
use nimbert::{Options, SessionOptions};
use nimbert_desktop::app::{App, Settings};

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bundle() -> PathBuf {
    bundle_called("bundle-2")
}

fn bundle_called(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// The program, with ONNX Runtime from the environment or from where `cargo xtask setup` puts it.
fn start(bundle: Option<PathBuf>, rows: Option<PathBuf>) -> Harness<'static, App> {
    let ort_lib = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let ort_lib = ort_lib.unwrap_or_else(|| root().join(".setup/lib/libonnxruntime.so"));
    let session = SessionOptions { ort_lib: Some(ort_lib), threads: Some(2), ..SessionOptions::default() };
    let options = Options { session, ..Options::default() };
    let settings = Settings { options, bundle, rows, text_column: "text".to_owned(), measure: false };
    Harness::builder().with_size([1000.0, 800.0]).build_eframe(|creation| App::new(&creation.egui_ctx, settings))
}

/// Draws frames until something holds.
fn until(harness: &mut Harness<'_, App>, what: &str, holds: impl Fn(&Harness<'_, App>) -> bool) {
    let since = Instant::now();
    while !holds(harness) {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{harness:#?}");
        std::thread::sleep(Duration::from_millis(2));
        harness.step();
    }
}

fn sees(text: &str) -> impl Fn(&Harness<'_, App>) -> bool {
    move |harness| harness.query_all_by_label_contains(text).next().is_some()
}

fn click(harness: &mut Harness<'_, App>, label: &str) {
    harness.get_by_label(label).click();
    harness.step();
}

/// A model, and a text in the field.
fn typed(bundle: PathBuf, text: &str) -> Harness<'static, App> {
    let mut harness = start(Some(bundle), None);
    until(&mut harness, "the model", |harness| harness.state().has_model());
    harness.get_by_label("Text").focus();
    harness.step();
    harness.get_by_label("Text").type_text(text);
    harness
}

/// A file of this content, which is being opened.
fn opened(folder: &Path, content: &str) -> Harness<'static, App> {
    let path = folder.join("rows.csv");
    fs::write(&path, content).unwrap();
    start(Some(bundle()), Some(path))
}

fn write_rows(folder: &Path, rows: usize) -> PathBuf {
    let path = folder.join("rows.csv");
    // Of different lengths, and so of different scores.
    let row = |index: usize| format!("\"the film number {index}, {}bad\"\n", "good or ".repeat(1 + index * 7 % 5));
    fs::write(&path, format!("text\n{}", (0..rows).map(row).collect::<String>())).unwrap();
    path
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().ends_with(".labels.jsonl")).collect()
}

/// The rows that a journal has labels of, each once.
fn labelled_rows(folder: &Path) -> Vec<u64> {
    let [journal] = &journals(folder)[..] else { panic!("one file of labels") };
    let lines = fs::read_to_string(journal).unwrap();
    let row = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("complete lines");
        value.get("label").and_then(|_| value["row"].as_u64())
    };
    let mut rows: Vec<u64> = lines.lines().filter_map(row).collect();
    rows.sort_unstable();
    let count = rows.len();
    rows.dedup();
    assert_eq!(rows.len(), count, "a row was labelled twice");
    rows
}

fn is_idle(harness: &Harness<'_, App>) -> bool {
    harness.state().rows.as_ref().is_some_and(|rows| rows.table.is_some() && !rows.is_running)
}

/// A file of which every row is labelled.
fn labelled(folder: &Path, rows: usize) -> Harness<'static, App> {
    let mut harness = start(Some(bundle()), Some(write_rows(folder, rows)));
    until(&mut harness, "the rows", sees("Label all"));
    click(&mut harness, "Label all");
    until(&mut harness, "all labels", sees(&format!("{rows} of {rows} labelled")));
    harness
}

#[test]
fn a_typed_text_gets_a_bar_for_each_label() {
    let mut harness = start(Some(bundle()), None);
    until(&mut harness, "the model", sees("Model: bundle-2"));
    harness.get_by_label("Text").focus();
    harness.step();
    harness.get_by_label("Text").type_text("a good film");
    until(&mut harness, "bars", sees("positive 0."));
    let bars: Vec<f64> = harness
        .query_all_by_role(Role::ProgressIndicator)
        .filter_map(|bar| bar.accesskit_node().numeric_value())
        .collect();
    // Each is rounded down.
    let total: f64 = bars.iter().sum();
    assert!(bars.len() == 2 && (98.0..=100.0).contains(&total), "{bars:?}");
}

#[test]
fn the_words_that_carried_the_decision_are_named() {
    let mut harness = typed(bundle(), "the best film");
    until(&mut harness, "words", sees("For positive: "));
    let shown = harness.state().live.shown.as_ref().unwrap();
    let words = &shown.explanation.as_ref().unwrap().words;
    assert_eq!(words.iter().map(|word| &shown.text[word.range.clone()]).collect::<Vec<_>>(), ["the", "best", "film"]);
    let strongest = words.iter().max_by(|a, b| a.attribution.total_cmp(&b.attribution)).unwrap();
    let named = format!("For positive: {} (+", &shown.text[strongest.range.clone()]);
    assert!(sees(&named)(&harness), "{named}");
}

#[test]
fn only_the_last_text_is_answered() {
    let mut harness = start(Some(bundle()), None);
    until(&mut harness, "the model", |harness| harness.state().has_model());
    harness.get_by_label("Text").focus();
    harness.step();
    for key in ["g", "o", "o", "d"] {
        harness.get_by_label("Text").type_text(key);
        harness.step();
    }
    until(&mut harness, "an answer", |harness| {
        let live = &harness.state().live;
        let shown = live.shown.as_ref();
        // Of a text of before, if any: never of an older one in the end.
        assert!(shown.is_none_or(|shown| live.text.starts_with(&shown.text)), "{shown:?}");
        live.is_current()
    });
    assert_eq!(harness.state().live.shown.as_ref().unwrap().text, "good");
}

#[test]
fn a_text_like_nothing_in_training_is_said_to_be_so() {
    let mut harness = typed(bundle_called("bundle-certain"), "zzz qqq 12345 %%%");
    until(&mut harness, "a sign", sees("like nothing that the model has learned from"));
    assert!(sees("The right label is among")(&harness));
}

#[test]
fn rows_like_nothing_in_training_are_unknown_and_stay_so() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.csv");
    fs::write(&rows, "text\nzzz qqq 12345 %%%\n").unwrap();
    let certain = Some(bundle_called("bundle-certain"));
    let mut harness = start(certain.clone(), Some(rows.clone()));
    until(&mut harness, "the rows", sees("Label all"));
    click(&mut harness, "Label all");
    until(&mut harness, "the label", sees("Row 1: unknown"));
    drop(harness);
    let mut harness = start(certain, Some(rows));
    until(&mut harness, "what is kept", sees("Row 1: unknown"));
}

#[test]
fn each_task_has_its_bars() {
    let mut harness = typed(bundle_called("bundle-tasks"), "a good film");
    until(&mut harness, "an answer", |harness| harness.state().live.is_current());
    let prediction = harness.state().live.shown.as_ref().unwrap().prediction.clone();
    assert!(!prediction.further.is_empty());
    for task in prediction.tasks() {
        assert!(sees(task.task.as_ref().unwrap())(&harness));
        task.scores
            .iter()
            .for_each(|(label, score)| assert!(sees(&format!("{label} {score:.2}"))(&harness), "{label}"));
    }
}

#[test]
fn another_model_begins_anew_and_the_older_labels_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 3);
    let dropped = DroppedFile { path: Some(bundle_called("bundle-certain")), ..DroppedFile::default() };
    harness.input_mut().dropped_files.push(dropped);
    until(&mut harness, "no labels", sees("0 of 3 labelled"));
    assert_eq!(journals(folder.path()).len(), 2);
}

#[test]
fn a_model_can_be_dropped() {
    let mut harness = start(None, None);
    assert!(sees("No model")(&harness));
    harness.input_mut().dropped_files.push(DroppedFile { path: Some(bundle()), ..DroppedFile::default() });
    until(&mut harness, "the model", sees("Model: bundle-2"));
}

#[test]
fn a_wrong_path_shows_the_message_of_the_library() {
    let mut harness = start(Some(PathBuf::from("no/such/bundle")), None);
    until(&mut harness, "a message", sees("no/such/bundle"));
    until(&mut harness, "the end of opening", sees("No model"));
    click(&mut harness, "Dismiss");
    until(&mut harness, "no message", |harness| !sees("no/such/bundle")(harness));
}

#[test]
fn a_damaged_bundle_shows_the_message_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(bundle()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), "no graph").unwrap();
    let mut harness = start(Some(folder.path().to_owned()), None);
    until(&mut harness, "a message", sees("model.onnx"));
    assert!(!harness.state().has_model());
}

#[test]
fn a_missing_column_shows_the_message_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = opened(folder.path(), "body\nx\n");
    until(&mut harness, "a message", sees("expected a column \"text\""));
    until(&mut harness, "the end of reading", sees("was not opened"));
}

#[test]
fn a_row_that_cannot_be_read_is_shown_and_the_others_are_labelled() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = opened(folder.path(), "text,n\ngood,1\nbad\nfine,2\n");
    until(&mut harness, "a message", sees("rows.csv:3: expected 2 fields"));
    until(&mut harness, "the rows", sees("Label all"));
    click(&mut harness, "Label all");
    until(&mut harness, "labels", sees("2 of 2 labelled"));
    assert_eq!(labelled_rows(folder.path()), [0, 2]);
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = opened(folder.path(), "text,n\ngood,1\n\"open,2\nx,3\n");
    until(&mut harness, "a message", sees("rows.csv:3: "));
    until(&mut harness, "the end of reading", sees("was not opened"));
}

#[test]
fn a_row_that_may_hold_others_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = opened(folder.path(), "n,text\n1,\"open\n2,x\"\n");
    until(&mut harness, "a message", sees("rows.csv:2: a quoted field runs over lines"));
}

#[test]
fn labelling_is_cancelled_and_resumed_without_doing_a_row_twice() {
    let folder = tempfile::tempdir().unwrap();
    let rows = 60_000;
    let mut harness = start(Some(bundle()), Some(write_rows(folder.path(), rows)));
    until(&mut harness, "the rows", sees("Label all"));
    click(&mut harness, "Label all");
    until(&mut harness, "some labels", |harness| harness.state().rows.as_ref().is_some_and(|rows| rows.labelled > 0));
    click(&mut harness, "Cancel");
    until(&mut harness, "the end", is_idle);
    let before = labelled_rows(folder.path()).len();
    assert!(before > 0 && before < rows, "{before}");
    click(&mut harness, "Resume");
    until(&mut harness, "all labels", sees(&format!("{rows} of {rows} labelled")));
    assert_eq!(labelled_rows(folder.path()).len(), rows);
}

#[test]
fn closing_in_the_middle_is_quick_and_keeps_the_labels() {
    let folder = tempfile::tempdir().unwrap();
    let rows = write_rows(folder.path(), 50_000);
    let mut harness = start(Some(bundle()), Some(rows.clone()));
    until(&mut harness, "the rows", sees("Label all"));
    click(&mut harness, "Label all");
    until(&mut harness, "some labels", |harness| harness.state().rows.as_ref().is_some_and(|rows| rows.labelled > 0));
    let seen = harness.state().rows.as_ref().unwrap().labelled;
    let since = Instant::now();
    drop(harness);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let kept = labelled_rows(folder.path()).len();
    assert!((seen..50_000).contains(&kept), "{kept} of {seen}");
    let mut harness = start(Some(bundle()), Some(rows));
    until(&mut harness, "what is kept", sees(&format!("{kept} of 50000 labelled")));
}

#[test]
fn a_correction_is_exported_as_a_training_row_and_is_there_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 5);
    harness.get_by_label_contains("Row 3:").click();
    until(&mut harness, "the selected row", sees("Row 3 is"));
    click(&mut harness, "negative");
    until(&mut harness, "the correction", sees("» negative"));
    let exported = folder.path().join("corrections.csv");
    harness.state().export(exported.clone());
    until(&mut harness, "the export", sees("1 corrections are in"));
    let expected = "text,label\n\"the film number 2, good or good or good or good or good or bad\",negative\n";
    assert_eq!(fs::read_to_string(&exported).unwrap(), expected);
    drop(harness);
    let mut harness = start(Some(bundle()), Some(folder.path().join("rows.csv")));
    until(&mut harness, "the correction", sees("» negative"));
}

#[test]
fn corrections_do_not_replace_the_file_that_is_labelled() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 2);
    let rows = folder.path().join("rows.csv");
    let before = fs::read(&rows).unwrap();
    harness.state().export(rows.clone());
    until(&mut harness, "a message", sees("expected another file"));
    assert_eq!(fs::read(&rows).unwrap(), before);
}

#[test]
fn the_keyboard_is_enough_to_correct_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 5);
    // By Tab to the list: its first row is the only one that takes the focus.
    for _ in 0..60 {
        if harness.state().rows.as_ref().unwrap().table.as_ref().unwrap().selected.is_some() {
            break;
        }
        harness.key_press(Key::Tab);
        harness.step();
    }
    until(&mut harness, "the first row", sees("Row 1 is"));
    for (key, row) in [(Key::ArrowDown, "Row 2 is"), (Key::End, "Row 5 is"), (Key::ArrowUp, "Row 4 is")] {
        harness.key_press(key);
        until(&mut harness, row, sees(row));
    }
    harness.key_press(Key::Num2);
    until(&mut harness, "the correction", sees("» positive"));
    harness.key_press(Key::Delete);
    until(&mut harness, "no correction", |harness| !sees("» positive")(harness));
}

#[test]
fn a_filter_follows_corrections() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 5);
    harness.get_by_label_contains("Row 3:").click();
    until(&mut harness, "the selected row", sees("Row 3 is"));
    click(&mut harness, "negative");
    click(&mut harness, "Corrected only");
    until(&mut harness, "one row", sees("1 rows"));
    click(&mut harness, "As the model says");
    until(&mut harness, "no row", sees("0 rows"));
}

#[test]
fn the_keyboard_is_enough_to_label() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = start(Some(bundle()), Some(write_rows(folder.path(), 3)));
    until(&mut harness, "the rows", sees("Label all"));
    harness.key_press_modifiers(Modifiers::COMMAND, Key::L);
    until(&mut harness, "all labels", sees("3 of 3 labelled"));
}

#[test]
fn enter_presses_the_button_that_has_the_focus() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = start(Some(bundle()), Some(write_rows(folder.path(), 3)));
    until(&mut harness, "the rows", sees("Label all"));
    harness.get_by_label("Label all").focus();
    harness.step();
    harness.key_press(Key::Enter);
    until(&mut harness, "all labels", sees("3 of 3 labelled"));
}

#[test]
fn rows_are_filtered_by_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 30);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::F);
    harness.step();
    harness.get_by_label("Filter").type_text("NUMBER 2,");
    until(&mut harness, "one row", |harness| sees("Row 3:")(harness) && !sees("Row 1:")(harness));
}

#[test]
fn rows_are_sorted_by_score() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = labelled(folder.path(), 30);
    let score = |harness: &Harness<'_, App>, place| {
        let table = harness.state().rows.as_ref().unwrap().table.as_ref().unwrap();
        table.answers[table.row_at(place) as usize].unwrap().score
    };
    let scores = |harness: &Harness<'_, App>| (0..30).map(|place| score(harness, place)).collect::<Vec<_>>();
    let mut sorted = scores(&harness);
    sorted.sort_by(f32::total_cmp);
    assert!(sorted[0] < sorted[29] && scores(&harness) != sorted, "rows that have an order to be found");
    click(&mut harness, "score");
    until(&mut harness, "the lowest score first", |harness| scores(harness) == sorted);
}

#[test]
fn of_a_hundred_thousand_rows_only_those_in_sight_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = start(Some(bundle()), Some(write_rows(folder.path(), 100_000)));
    until(&mut harness, "the rows", sees("0 of 100000 labelled"));
    harness.step();
    let drawn = harness.query_all_by_label_contains("the film number").count();
    assert!((1..100).contains(&drawn), "{drawn}");
}
