//! The text field, the scores as bars, and the words that carried the decision.

use std::time::Instant;

use eframe::egui::{Id, ProgressBar, ScrollArea, TextEdit, TextFormat, TextStyle, Ui, text::LayoutJob};
use nimbert::{
    Prediction,
    explain::{Explanation, Word},
};

use crate::{
    live::{Live, Shown, is_long},
    theme,
};

/// Of a model with many labels the most likely are shown.
const MAX_BARS: usize = 10;
/// So many words are named beside the marks: colours are not seen by everybody.
const NAMED_WORDS: usize = 5;
/// No word is coloured by more than its share of this, since it may be rounding.
const LEAST: f64 = 0.01;

pub(crate) fn text_id() -> Id {
    Id::new("typed text")
}

pub(crate) fn show(ui: &mut Ui, live: &mut Live, has_model: bool) {
    let label = ui.label("Text");
    // Tab leaves the field.
    let field = TextEdit::multiline(&mut live.text)
        .id(text_id())
        .desired_rows(3)
        .desired_width(f32::INFINITY)
        .lock_focus(false)
        .hint_text("Type a text to see its scores");
    if ui.add(field).labelled_by(label.id).changed() {
        live.edited(Instant::now());
    }
    ScrollArea::vertical().id_salt("scores").auto_shrink(false).show(ui, |ui| {
        if let Some(error) = &live.error {
            ui.label(error);
        }
        match &live.shown {
            Some(shown) => answer(ui, shown),
            None if live.error.is_none() && !live.text.trim().is_empty() => {
                ui.label(if has_model { "…" } else { "Open a model to see scores." });
            }
            None => {}
        }
    });
}

fn answer(ui: &mut Ui, shown: &Shown) {
    if shown.prediction.unknown {
        ui.label("This is like nothing that the model has learned from.");
    }
    for prediction in shown.prediction.tasks() {
        if let Some(task) = &prediction.task {
            ui.strong(task);
        }
        scores(ui, prediction);
    }
    match &shown.explanation {
        Some(explanation) => words(ui, &shown.text, explanation),
        None if is_long(&shown.text) => drop(ui.label("The text is too long to be explained word by word.")),
        None => {}
    }
}

fn scores(ui: &mut Ui, prediction: &Prediction) {
    let scores: Vec<(&str, f32)> = match prediction.scores.len() {
        // Bars that keep their place are easier to follow.
        0..=MAX_BARS => prediction.scores.iter().map(|(label, score)| (label.as_str(), *score)).collect(),
        _ => prediction.top(MAX_BARS),
    };
    for (label, score) in scores {
        ui.add(ProgressBar::new(score).text(format!("{label} {score:.2}")));
    }
    if prediction.abstained {
        ui.label("The model is unsure.");
    }
    if let Some(set) = &prediction.set {
        ui.label(format!("The right label is among: {}", set.join(", ")));
    }
}

fn words(ui: &mut Ui, text: &str, explanation: &Explanation) {
    marked(ui, text, &explanation.words);
    let named: Vec<String> = strongest(text, &explanation.words)
        .into_iter()
        .map(|(word, attribution)| format!("{word} ({attribution:+.2})"))
        .collect();
    let named = if named.is_empty() { "no single word".to_owned() } else { named.join(", ") };
    ui.label(format!("For {}: {named}", explanation.prediction.label));
    if explanation.unread > 0 {
        ui.label(format!("The text is too long for the model: {} words are not read.", explanation.unread));
    }
}

/// The words that speak most for the label, best first, with what its logit loses without them.
fn strongest<'a>(text: &'a str, words: &[Word]) -> Vec<(&'a str, f64)> {
    let mut strongest: Vec<&Word> = words.iter().filter(|word| word.attribution > 0.0).collect();
    strongest.sort_by(|a, b| b.attribution.total_cmp(&a.attribution));
    strongest.into_iter().take(NAMED_WORDS).map(|word| (&text[word.range.clone()], word.attribution)).collect()
}

/// The text, each word as full of colour as its attribution is of the largest.
fn marked(ui: &mut Ui, text: &str, words: &[Word]) {
    let font = TextStyle::Body.resolve(ui.style());
    let plain = TextFormat { font_id: font, color: ui.visuals().text_color(), ..TextFormat::default() };
    let largest = words.iter().map(|word| word.attribution.abs()).fold(LEAST, f64::max);
    let mut job = LayoutJob::default();
    let mut at = 0;
    for Word { range, attribution, .. } in words {
        let background = theme::word(ui.visuals(), (attribution / largest) as f32);
        job.append(&text[at..range.start], 0.0, plain.clone());
        job.append(&text[range.clone()], 0.0, TextFormat { background, ..plain.clone() });
        at = range.end;
    }
    job.append(&text[at..], 0.0, plain);
    ui.label(job);
}
