//! What a row of results is made of: the answer, what is carried through of the input, and what stands there if the row
//! could not be read.

use nimbert::{
    Decision, Prediction, Task,
    rows::{Kind, Value, text},
};
use serde_json::Map;

use super::input::{Skipped, Text};

/// The columns text, those of each task, what is carried through, and what is wrong with a row where such rows are skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) tasks: Vec<TaskColumns>,
    /// Names of the input, and what they hold.
    pub(super) kept: Vec<(String, Kind)>,
    pub(super) has_errors: bool,
}

/// The columns label, score, the score of each label, and what else the bundle says of a text. Those of a further task are called by
/// it: `tone`, `tone score`, `tone score calm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskColumns {
    /// None for the first one.
    pub(super) name: Option<String>,
    pub(super) labels: Vec<String>,
    pub(super) extras: Vec<Extra>,
}

impl TaskColumns {
    /// Those of all tasks of a classifier.
    pub(super) fn of(tasks: &[Task]) -> Vec<Self> {
        let columns = |(index, Task { name, labels, decision }): (usize, &Task)| {
            let mut extras = Extra::of(decision);
            // They are of the text, whatever the task.
            extras.retain(|extra| index == 0 || !matches!(extra, Extra::Distance | Extra::Unknown));
            Self { name: name.clone().filter(|_| index > 0), labels: labels.clone(), extras }
        };
        tasks.iter().enumerate().map(columns).collect()
    }

    fn names(&self) -> Vec<String> {
        let prefix = self.name.as_ref().map_or(String::new(), |name| format!("{name} "));
        let scores = self.labels.iter().map(|label| format!("{prefix}score {label}"));
        let extras = self.extras.iter().map(|extra| prefix.clone() + extra.name());
        let label = self.name.clone().unwrap_or_else(|| "label".to_owned());
        [label, format!("{prefix}score")].into_iter().chain(scores).chain(extras).collect()
    }
}

/// What only some bundles say of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Set,
    Distance,
    Unknown,
    Abstained,
}

impl Extra {
    const ALL: [Self; 4] = [Self::Set, Self::Distance, Self::Unknown, Self::Abstained];

    /// Those of a bundle, in the order of their columns.
    pub(super) fn of(decision: &Decision) -> Vec<Self> {
        let is_said = |extra: &Self| match extra {
            Self::Set => decision.coverage.is_some(),
            Self::Distance | Self::Unknown => decision.unknown_threshold.is_some(),
            Self::Abstained => decision.abstain_threshold.is_some(),
        };
        Self::ALL.into_iter().filter(is_said).collect()
    }

    /// The column, and the key in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Distance => "distance",
            Self::Unknown => "unknown",
            Self::Abstained => "abstained",
        }
    }

    /// What the column holds.
    #[cfg(feature = "parquet")]
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Set => Kind::Text,
            Self::Distance => Kind::Number,
            Self::Unknown | Self::Abstained => Kind::Boolean,
        }
    }

    /// The column's value, to six digits.
    pub(super) fn value(self, prediction: &Prediction) -> Value {
        match self {
            Self::Set => prediction.set.as_ref().map_or(Value::Null, |set| set.join(", ").into()),
            Self::Distance => {
                prediction.distance.map_or(Value::Null, |distance| ((f64::from(distance) * 1e6).round() / 1e6).into())
            }
            Self::Unknown => prediction.unknown.into(),
            Self::Abstained => prediction.abstained.into(),
        }
    }
}

/// What is written of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer<'a> {
    Classified(&'a Text, &'a Prediction),
    /// It could not be read, and was skipped.
    Skipped(&'a Skipped),
}

/// The keys of a result in JSON, by which nothing else may be called.
const JSON_KEYS: [&str; 11] =
    ["task", "label", "score", "labels", "scores", "set", "distance", "unknown", "abstained", "further", "error"];

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
        std::iter::once("text".to_owned()).chain(self.tasks.iter().flat_map(TaskColumns::names)).collect()
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
                cells.push(text.text.clone());
                for (columns, prediction) in self.tasks.iter().zip(prediction.tasks()) {
                    cells.extend([label_cell(prediction), format!("{:.6}", prediction.score)]);
                    cells.extend(prediction.scores.iter().map(|(_, score)| format!("{score:.6}")));
                    cells.extend(columns.extras.iter().map(|extra| plain(&extra.value(prediction))));
                }
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

/// The labels that hold; nothing where the text is unknown or the classifier unsure, or where none does.
pub(super) fn label_cell(prediction: &Prediction) -> String {
    if prediction.unknown || prediction.abstained { String::new() } else { prediction.labels.join(", ") }
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
        let columns = |name: Option<&str>| TaskColumns {
            name: name.map(str::to_owned),
            labels: vec!["a".to_owned()],
            extras: vec![Extra::Abstained],
        };
        let table = Table { tasks: vec![columns(None), columns(Some("id"))], kept, has_errors: true };
        let columns = "text,label,score,score a,abstained,id,id score,id score a,id abstained,\
                       input_id,input_input_label,input_label,input_text,error";
        assert_eq!(table.columns().join(","), columns);
    }
}
