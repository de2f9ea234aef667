//! What is known of each row, and which row is selected.

use std::collections::BTreeMap;

use crate::{
    source::Texts,
    view::{Query, Sort},
};

/// The model's answer for a row. Of a model that gives a text several labels, the best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// The label's id.
    pub label: u32,
    /// Its score.
    pub score: f32,
    /// Whether the model is unsure.
    pub abstained: bool,
    /// Whether the text is like nothing that the model has learned from.
    pub unknown: bool,
}

/// The labels' ids that a person gave, by row.
pub type Corrections = BTreeMap<u32, u32>;

/// The rows of a file.
pub struct Table {
    /// The labels' names, by id.
    pub labels: Vec<String>,
    /// Whether a text has exactly one of them, which can be corrected.
    pub is_correctable: bool,
    /// The rows' texts.
    pub texts: Texts,
    /// The model's answers.
    pub answers: Vec<Option<Answer>>,
    /// What a person says.
    pub corrections: Corrections,
    /// Which rows are shown, in which order.
    pub query: Query,
    /// The selected row.
    pub selected: Option<u32>,
    /// The rows that are shown; none: all, as they stand in the file.
    shown: Option<Vec<u32>>,
}

impl Table {
    /// A table in which all rows are shown, and can be corrected.
    pub fn new(labels: Vec<String>, texts: Texts, answers: Vec<Option<Answer>>, corrections: Corrections) -> Self {
        let query = Query::default();
        Self { labels, is_correctable: true, texts, answers, corrections, query, selected: None, shown: None }
    }

    /// How many rows are shown.
    pub fn len(&self) -> usize {
        self.shown.as_ref().map_or(self.texts.len(), Vec::len)
    }

    /// Whether no row is shown.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row that is shown at a place.
    pub fn row_at(&self, place: usize) -> u32 {
        self.shown.as_ref().map_or(place as u32, |shown| shown[place])
    }

    /// The place at which a row is shown.
    pub fn place_of(&self, row: u32) -> Option<usize> {
        match &self.shown {
            None => Some(row as usize),
            Some(shown) => shown.iter().position(|&other| other == row),
        }
    }

    /// The rows that [`crate::view`] has found for the query.
    pub fn show(&mut self, rows: Vec<u32>) {
        self.shown = if self.query == Query::default() { None } else { Some(rows) };
    }

    /// Shows all rows, as they stand in the file.
    pub fn show_all(&mut self) {
        self.shown = None;
    }

    /// Sorts by a column; by the same once more, the other way round.
    pub fn sort_by(&mut self, sort: Sort) {
        self.query.is_descending = self.query.sort == sort && !self.query.is_descending;
        self.query.sort = sort;
    }

    /// Moves the selection by so many places; without one, to the first. Returns the place.
    pub fn select_by(&mut self, places: isize) -> Option<usize> {
        let last = self.len().checked_sub(1)?;
        let place = match self.selected.and_then(|row| self.place_of(row)) {
            Some(place) => place.saturating_add_signed(places).min(last),
            None => 0,
        };
        self.selected = Some(self.row_at(place));
        Some(place)
    }

    /// How many rows have an answer.
    pub fn labelled(&self) -> usize {
        self.answers.iter().flatten().count()
    }
}

/// The corrected rows, as training rows: text and label.
pub fn training_rows<'a>(
    texts: &'a Texts,
    labels: &'a [String],
    corrections: &'a Corrections,
) -> Vec<(&'a str, &'a str)> {
    let text = |row: u32| texts[row as usize].as_deref().ok();
    corrections.iter().filter_map(|(&row, &label)| Some((text(row)?, labels[label as usize].as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let texts: Vec<Result<String, String>> = ["a", "b", "c"].map(|text| Ok(text.to_owned())).into();
        let labels = ["no", "yes"].map(String::from).into();
        Table::new(labels, texts.into(), vec![None; 3], Corrections::new())
    }

    #[test]
    fn the_selection_stays_within_what_is_shown() {
        let mut table = table();
        assert_eq!(table.select_by(1), Some(0));
        assert_eq!(table.select_by(9), Some(2));
        assert_eq!(table.select_by(-1), Some(1));
        table.query.text = "c".to_owned();
        table.show(vec![2]);
        assert_eq!((table.select_by(1), table.selected), (Some(0), Some(2)));
        table.show(vec![]);
        assert_eq!(table.select_by(1), None);
    }

    #[test]
    fn corrected_rows_are_training_rows() {
        let mut table = table();
        table.corrections.insert(1, 1);
        assert_eq!(training_rows(&table.texts, &table.labels, &table.corrections), [("b", "yes")]);
    }

    #[test]
    fn sorting_by_one_column_twice_turns_it_round() {
        let mut table = table();
        table.sort_by(Sort::Score);
        assert_eq!((table.query.sort, table.query.is_descending), (Sort::Score, false));
        table.sort_by(Sort::Score);
        assert!(table.query.is_descending);
        table.sort_by(Sort::Text);
        assert!(!table.query.is_descending);
    }
}
