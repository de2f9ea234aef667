//! The text field, the scores as bars, and the words that carried the decision.

use std::time::Instant;

use eframe::egui::{Id, ProgressBar, ScrollArea, TextEdit, TextFormat, TextStyle, Ui, text::LayoutJob};

use crate::{
    live::{Live, Shown},
    theme, words,
};

/// Of a model with many labels the most likely are shown.
const MAX_BARS: usize = 10;
/// So many words are named beside the marks: colours are not seen by everybody.
const NAMED_WORDS: usize = 5;

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
    let prediction = &shown.prediction;
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
    if let Some(words) = &shown.words {
        marked(ui, &shown.text, words);
        let named = words::strongest(&shown.text, words, NAMED_WORDS);
        let named: Vec<String> = named.into_iter().map(|(word, share)| format!("{word} ({share:+.2})")).collect();
        let named = if named.is_empty() { "no single word".to_owned() } else { named.join(", ") };
        ui.label(format!("For {}: {named}", prediction.label));
    }
}

/// The text, each word as full of colour as its share is of the largest.
fn marked(ui: &mut Ui, text: &str, words: &[words::Word]) {
    let font = TextStyle::Body.resolve(ui.style());
    let plain = TextFormat { font_id: font, color: ui.visuals().text_color(), ..TextFormat::default() };
    let largest = words.iter().map(|word| word.share.abs()).fold(f32::EPSILON, f32::max);
    let mut job = LayoutJob::default();
    let mut at = 0;
    for word in words {
        let background = theme::word(ui.visuals(), word.share / largest);
        job.append(&text[at..word.bytes.start], 0.0, plain.clone());
        job.append(&text[word.bytes.clone()], 0.0, TextFormat { background, ..plain.clone() });
        at = word.bytes.end;
    }
    job.append(&text[at..], 0.0, plain);
    ui.label(job);
}
