//! Around the list of rows: progress, filter, and the selected row with its labels.

use eframe::egui::{Button, ComboBox, Id, Panel, ProgressBar, ScrollArea, TextEdit, Ui};

use crate::{
    app::{EXPORT, START_OR_STOP},
    rows::Rows,
    rows_table,
    table::Table,
};

pub(crate) fn filter_id() -> Id {
    Id::new("filter of rows")
}

/// Draws the panel. Returns whether corrections are to be exported.
pub(crate) fn show(ui: &mut Ui, rows: &mut Rows) -> bool {
    if rows.table.is_none() {
        let path = rows.path().display();
        ui.label(if rows.has_ended { format!("{path} was not opened.") } else { format!("Reading {path} …") });
        return false;
    }
    let is_export_wanted = actions(ui, rows);
    if let Some(table) = &mut rows.table {
        filter(ui, table);
    }
    Panel::bottom("selected row").resizable(true).default_size(110.0).show(ui, |ui| selected(ui, rows));
    if let Some(correction) = rows_table::show(ui, rows) {
        rows.correct(correction);
    }
    is_export_wanted
}

fn actions(ui: &mut Ui, rows: &Rows) -> bool {
    let Some(table) = &rows.table else { return false };
    let total = table.texts.len() - rows.bad;
    let (labelled, corrections) = (rows.labelled, table.corrections.len());
    ui.horizontal_wrapped(|ui| {
        let [start_keys, export_keys] = [&START_OR_STOP, &EXPORT].map(|shortcut| ui.ctx().format_shortcut(shortcut));
        let start = if labelled > 0 { "Resume" } else { "Label all" };
        if rows.is_running {
            if ui.button("Cancel").on_hover_text(format!("Labels so far are kept ({start_keys})")).clicked() {
                rows.stop();
            }
        } else if ui
            .add_enabled(labelled < total && rows.is_open(), Button::new(start))
            .on_hover_text(start_keys)
            .clicked()
        {
            rows.start();
        }
        let export = format!("Export {corrections} corrections…");
        let export = ui.add_enabled(rows.is_exportable(), Button::new(export)).on_hover_text(export_keys);
        let progress = labelled as f32 / total.max(1) as f32;
        ui.add(ProgressBar::new(progress).text(format!("{labelled} of {total} labelled")));
        export.clicked()
    })
    .inner
}

fn filter(ui: &mut Ui, table: &mut Table) {
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Filter");
        let field = TextEdit::singleline(&mut table.query.text).id(filter_id()).desired_width(200.0);
        ui.add(field).labelled_by(label.id);
        let name = |label: Option<u32>| label.map_or("All labels", |label| table.labels[label as usize].as_str());
        ComboBox::from_id_salt("label filter").selected_text(name(table.query.label)).show_ui(ui, |ui| {
            let labels = (0..table.labels.len() as u32).map(Some);
            for label in [None].into_iter().chain(labels) {
                let name = label.map_or("All labels", |label| table.labels[label as usize].as_str());
                ui.selectable_value(&mut table.query.label, label, name);
            }
        });
        ui.checkbox(&mut table.query.only_corrected, "Corrected only");
        ui.label(format!("{} rows", table.len()));
    });
}

fn selected(ui: &mut Ui, rows: &mut Rows) {
    // As high with a row as without: or it would move from under a pointer.
    ui.take_available_space();
    let Some(table) = &rows.table else { return };
    let Some(row) = table.selected else {
        ui.label(match table.is_correctable {
            true => "Select a row to correct it: up and down, then 1 to 9; Delete takes a correction back.",
            false => "Select a row to read it. Rows of a model that may give several labels cannot be corrected here.",
        });
        return;
    };
    let mut correction = None;
    let text = &table.texts[row as usize];
    if text.is_ok() && table.is_correctable {
        ui.horizontal_wrapped(|ui| {
            ui.label(format!("Row {} is", row + 1));
            let given = table.corrections.get(&row).copied();
            for (id, label) in (0u32..).zip(&table.labels) {
                if ui.selectable_label(given == Some(id), label).clicked() {
                    correction = Some(Some(id));
                }
            }
            if ui.add_enabled(given.is_some(), Button::new("As the model says")).clicked() {
                correction = Some(None);
            }
        });
    }
    ScrollArea::vertical().id_salt("selected text").auto_shrink(false).show(ui, |ui| {
        ui.label(text.as_ref().map_or_else(String::as_str, String::as_str));
    });
    if let Some(correction) = correction {
        rows.correct(correction);
    }
}
