//! What a row of results is made of: the answer, what is carried through of the input, and what stands there if the row
//! could not be read.

use nimbert::{
    Prediction,
    rows::{Kind, Value, text},
};
use serde_json::Map;

use super::input::{Skipped, Text};

/// The columns text, label, score, the score of each label, whether the classifier is unsure where it may be, what is
/// carried through, and what is wrong with a row where such rows are skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) labels: Vec<String>,
    pub(super) may_abstain: bool,
    /// Names of the input, and what they hold.
    pub(super) kept: Vec<(String, Kind)>,
    pub(super) has_errors: bool,
}

/// What is written of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer<'a> {
    Classified(&'a Text, &'a Prediction),
    /// It could not be read, and was skipped.
    Skipped(&'a Skipped),
}

/// The keys of a result in JSON, by which nothing else may be called.
const JSON_KEYS: [&str; 6] = ["label", "score", "labels", "scores", "abstained", "error"];

/// What a column of the input is called beside those that are taken.
fn carried_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut carried = name.to_owned();
    while is_taken(&carried) {
        carried = format!("input_{carried}");
    }
    carried
}

/// What is carried through, under names that no result has.
pub(super) fn carried(kept: &Map<String, Value>) -> Map<String, Value> {
    let name = |name: &String| {
        let is_other = |carried: &str| carried != name && kept.contains_key(carried);
        carried_name(name, |carried| JSON_KEYS.contains(&carried) || is_other(carried))
    };
    kept.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

impl Table {
    /// The columns before those that are carried through.
    fn own_columns(&self) -> Vec<String> {
        let scores = self.labels.iter().map(|label| format!("score {label}"));
        let abstained = self.may_abstain.then(|| "abstained".to_owned());
        ["text", "label", "score"].map(str::to_owned).into_iter().chain(scores).chain(abstained).collect()
    }

    /// All columns in order.
    pub(super) fn columns(&self) -> Vec<String> {
        let mut columns = self.own_columns();
        let error = self.has_errors.then(|| "error".to_owned());
        for (name, _) in &self.kept {
            let is_taken = |carried: &str| {
                let is_other = carried != name && self.kept.iter().any(|(other, _)| other == carried);
                is_other || columns.iter().chain(&error).any(|column| column == carried)
            };
            columns.push(carried_name(name, is_taken));
        }
        columns.extend(error);
        columns
    }

    /// One row of CSV.
    pub(super) fn row(&self, answer: Answer<'_>) -> String {
        let mut cells = Vec::new();
        match answer {
            Answer::Classified(text, prediction) => {
                cells.extend([text.text.clone(), label_cell(prediction), format!("{:.6}", prediction.score)]);
                cells.extend(prediction.scores.iter().map(|(_, score)| format!("{score:.6}")));
                cells.extend(self.may_abstain.then(|| prediction.abstained.to_string()));
                let cell = |(name, _): &(String, Kind)| text.kept.get(name).map_or(String::new(), plain);
                cells.extend(self.kept.iter().map(cell));
                cells.extend(self.has_errors.then(String::new));
            }
            Answer::Skipped(Skipped { bad, kept }) => {
                cells.resize(self.own_columns().len(), String::new());
                cells.extend(self.kept.iter().map(|(name, _)| kept.get(name).map_or(String::new(), plain)));
                cells.extend(self.has_errors.then(|| bad.to_string()));
            }
        }
        csv_line(cells)
    }
}

/// The labels that hold; nothing where the classifier is unsure, or where none does.
pub(super) fn label_cell(prediction: &Prediction) -> String {
    if prediction.abstained { String::new() } else { prediction.labels.join(", ") }
}

/// A value as a cell: strings as they are, what is missing as nothing, anything else as JSON writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => text(other).unwrap_or_else(|| other.to_string()),
    }
}

/// Cells as a line of CSV.
pub(super) fn csv_line(cells: impl IntoIterator<Item = String>) -> String {
    let quoted = |cell: String| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    };
    cells.into_iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_through_overwrites_nothing() {
        let kept = ["id", "label", "input_label", "text"].map(|name| (name.to_owned(), Kind::Text)).to_vec();
        let table = Table { labels: vec!["a".to_owned()], may_abstain: true, kept, has_errors: true };
        let columns = "text,label,score,score a,abstained,id,input_input_label,input_label,input_text,error";
        assert_eq!(table.columns().join(","), columns);
    }
}
