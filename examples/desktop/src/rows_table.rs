//! The list of rows, of which only those in sight are laid out: a hundred thousand cost as much as twenty.
//!
//! A row is one widget, so that Tab passes it once and a screen reader reads it as a sentence. The selected one
//! follows the arrow keys.

use eframe::egui::{
    Color32, FocusDirection, Id, Key, Modifiers, Rect, ScrollArea, Sense, TextStyle, TextWrapMode, Ui, WidgetInfo,
    WidgetText, WidgetType, pos2, vec2,
};
use nimbert::prediction::escaped;

use crate::{rows::Rows, table::Table, theme, view::Sort};

/// Where columns begin; the text takes what is left.
const LABEL: f32 = 70.0;
const SCORE: f32 = 270.0;
const TEXT: f32 = 330.0;
/// Of a text so many characters are shown in its row.
const MAX_CHARACTERS: usize = 300;
const DIGITS: [Key; 9] =
    [Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6, Key::Num7, Key::Num8, Key::Num9];

fn row_id(row: u32) -> Id {
    Id::new("row").with(row)
}

/// Draws the list. Returns the label that the selected row is given, or that its correction is taken back.
pub(crate) fn show(ui: &mut Ui, rows: &mut Rows) -> Option<Option<u32>> {
    let height = ui.text_style_height(&TextStyle::Body) + 4.0;
    let step = height + ui.spacing().item_spacing.y;
    let (scrolled, seen) = rows.scrolled;
    let table = rows.table.as_mut()?;
    header(ui, table);
    let page = ((seen / step) as isize - 1).max(1);
    let Keys { place, correction } = keys(ui, table, page);
    let mut area = ScrollArea::vertical().id_salt("rows").auto_shrink(false);
    if let Some(place) = place {
        // So far that the row is in sight; not at all if it is already.
        let top = place as f32 * step;
        let lowest = (top + step - seen).max(0.0);
        area = area.vertical_scroll_offset(scrolled.clamp(lowest.min(top), top));
    }
    let count = table.len();
    let output = area.show_rows(ui, height, count, |ui, places| {
        // Tab goes to one row: the selected, or, where that is out of sight, the first.
        let selected = table.selected.and_then(|row| table.place_of(row)).filter(|place| places.contains(place));
        let focusable = selected.unwrap_or(places.start);
        for place in places {
            let id = table.row_at(place);
            let sense = if place == focusable { Sense::click() } else { Sense::CLICK };
            row(ui, table, id, height, sense);
        }
    });
    if let Some(row) = table.selected.filter(|_| place.is_some()) {
        ui.memory_mut(|memory| memory.request_focus(row_id(row)));
    }
    rows.scrolled = (output.state.offset.y, output.inner_rect.height());
    correction
}

fn header(ui: &mut Ui, table: &mut Table) {
    ui.horizontal(|ui| {
        ui.label("Sort by");
        for (sort, name) in [(Sort::Row, "row"), (Sort::Label, "label"), (Sort::Score, "score"), (Sort::Text, "text")] {
            let is_sorted = table.query.sort == sort;
            let direction = match (is_sorted, table.query.is_descending) {
                (false, _) => "",
                // These two the fonts of egui have.
                (true, false) => " ⬆",
                (true, true) => " ⬇",
            };
            if ui.selectable_label(is_sorted, format!("{name}{direction}")).clicked() {
                table.sort_by(sort);
            }
        }
    });
}

#[derive(Default)]
struct Keys {
    /// Where the selection was moved to.
    place: Option<usize>,
    correction: Option<Option<u32>>,
}

/// What keys do to the selected row while it has the focus.
fn keys(ui: &Ui, table: &mut Table, page: isize) -> Keys {
    let mut done = Keys::default();
    let has_focus = table.selected.is_some_and(|row| ui.memory(|memory| memory.has_focus(row_id(row))));
    if !has_focus {
        return done;
    }
    let pressed = |key: Key| ui.input_mut(|input| input.count_and_consume_key(Modifiers::NONE, key)) as isize;
    let all = table.len() as isize;
    let places = pressed(Key::ArrowDown) - pressed(Key::ArrowUp)
        + (pressed(Key::PageDown) - pressed(Key::PageUp)) * page
        + (pressed(Key::End) - pressed(Key::Home)) * all;
    if places != 0 {
        done.place = table.select_by(places);
        // The arrow moves the selection, and not the focus to what happens to be below.
        ui.memory_mut(|memory| memory.move_focus(FocusDirection::None));
    }
    for (id, key) in (0u32..).zip(DIGITS).take(table.labels.len()) {
        if pressed(key) > 0 {
            done.correction = Some(Some(id));
        }
    }
    if pressed(Key::Delete) + pressed(Key::Backspace) > 0 {
        done.correction = Some(None);
    }
    done
}

fn row(ui: &mut Ui, table: &mut Table, row: u32, height: f32, sense: Sense) {
    let (_, rect) = ui.allocate_space(vec2(ui.available_width(), height));
    let response = ui.interact(rect, row_id(row), sense);
    // With Tab, too.
    if response.clicked() || response.gained_focus() {
        table.selected = Some(row);
        response.request_focus();
    }
    let is_selected = table.selected == Some(row);
    let Described { label, score, text, is_bad } = describe(table, row);
    response.widget_info(|| {
        let sentence = format!("Row {}: {label} {score}: {text}", row + 1);
        WidgetInfo::selected(WidgetType::SelectableLabel, true, is_selected, sentence)
    });
    let visuals = ui.visuals();
    if is_selected {
        let fill = visuals.selection.bg_fill.gamma_multiply(if response.has_focus() { 0.9 } else { 0.5 });
        ui.painter().rect_filled(rect, 2.0, fill);
    } else if response.hovered() {
        ui.painter().rect_filled(rect, 2.0, visuals.faint_bg_color);
    }
    let usual = visuals.text_color();
    let label_colour = if table.corrections.contains_key(&row) { theme::correction(visuals) } else { usual };
    let text_colour = if is_bad { visuals.error_fg_color } else { usual };
    cell(ui, rect, 4.0..LABEL, (row + 1).to_string(), usual);
    cell(ui, rect, LABEL..SCORE, label, label_colour);
    cell(ui, rect, SCORE..TEXT, score, usual);
    cell(ui, rect, TEXT..rect.width(), text, text_colour);
}

struct Described {
    label: String,
    score: String,
    text: String,
    is_bad: bool,
}

fn describe(table: &Table, row: u32) -> Described {
    let name = |id: u32| table.labels[id as usize].as_str();
    let answer = table.answers[row as usize];
    let said = answer.map_or("", |answer| match (answer.unknown, answer.abstained) {
        (true, _) => "unknown",
        (_, true) => "unsure",
        _ => name(answer.label),
    });
    let label = match table.corrections.get(&row) {
        Some(&correction) => format!("{said} » {}", name(correction)),
        None => said.to_owned(),
    };
    let text = &table.texts[row as usize];
    let mut rest = text.as_ref().map_or_else(String::as_str, String::as_str).chars();
    let mut begin = escaped(&rest.by_ref().take(MAX_CHARACTERS).collect::<String>());
    if rest.next().is_some() {
        begin.push('…');
    }
    Described {
        label,
        score: answer.map_or(String::new(), |answer| format!("{:.2}", answer.score)),
        text: begin,
        is_bad: text.is_err(),
    }
}

fn cell(ui: &Ui, row: Rect, columns: std::ops::Range<f32>, text: String, colour: Color32) {
    let width = (columns.end - columns.start - 8.0).max(0.0);
    let galley = WidgetText::from(text).into_galley(ui, Some(TextWrapMode::Truncate), width, TextStyle::Body);
    let at = pos2(row.left() + columns.start, row.center().y - galley.size().y / 2.0);
    ui.painter().galley(at, galley, colour);
}
