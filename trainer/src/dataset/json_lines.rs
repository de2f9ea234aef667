//! JSON Lines: one object a line.

use serde_json::Value;

use super::{FileReader, LabelField, Row, data_error};
use crate::error::{Error, Result};

impl FileReader<'_> {
    pub(super) fn json_lines(self, text: &str, rows: &mut Vec<Row>) -> Result<usize> {
        let Self { path, columns, .. } = self;
        let mut keys = 0;
        for (line, content) in (1..).zip(text.lines()) {
            if content.trim().is_empty() {
                continue;
            }
            let object: serde_json::Map<String, Value> =
                serde_json::from_str(content).map_err(|error| Error::Data {
                    path: path.to_owned(),
                    line: Some(line),
                    column: Some(error.column() as u64),
                    expected: "a JSON object".to_owned(),
                    got: without_position(&error.to_string()).to_owned(),
                })?;
            let field = |name: &str, option: &str| match object.get(name) {
                Some(Value::String(value)) => Ok(value.clone()),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
                Some(value) => Err(data_error(path, Some(line), &format!("a string as {name:?}"), value.to_string())),
                None => {
                    let got = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    Err(data_error(
                        path,
                        Some(line),
                        &format!("a key {name:?} (see {option})"),
                        format!("the keys {got}"),
                    ))
                }
            };
            let text = field(&columns.text, "--text-column")?;
            let pair = columns.pair.as_ref().map(|pair| field(pair, "--text-pair-column")).transpose()?;
            let label = match object.get(&columns.label) {
                Some(Value::Array(labels)) => LabelField::List(labels.iter().map(string).collect()),
                _ => LabelField::One(field(&columns.label, "--label-column")?),
            };
            rows.push(self.row(line, text, pair, label)?);
            keys = keys.max(object.len());
        }
        Ok(keys)
    }
}

/// A label in a list: a string as it is, anything else as JSON writes it.
fn string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// serde_json's messages end with a position within the string that was parsed, which is one line of a file.
fn without_position(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}
