//! One text a line, or one JSON object a line.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Map, Value};

use super::{BadRow, Columns, Gone, MAX_ROW_BYTES, Sink, Text, utf8};

/// Calls `row` with each line and its number, without its end; a byte order mark belongs to the file, not to its first
/// line.
fn for_each_line(
    source: impl Read,
    name: &str,
    sink: &Sink,
    mut row: impl FnMut(&[u8], u64) -> Option<Result<Text, BadRow>>,
) -> Result<(), Gone> {
    let mut reader = BufReader::with_capacity(1 << 16, source);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', &mut line);
        match read {
            Err(error) => return sink.send(Err(anyhow::Error::new(error).context(format!("{name}:{number}")))),
            Ok(0) => return Ok(()),
            Ok(_) if line.len() > MAX_ROW_BYTES => {
                let error =
                    anyhow::anyhow!("{name}:{number}: expected at most {MAX_ROW_BYTES} bytes a line, found more");
                return sink.send(Err(error));
            }
            Ok(_) => {}
        }
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        let content = match number {
            1 => content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content),
            _ => content,
        };
        if let Some(row) = row(content, number) {
            sink.send(Ok(row))?;
        }
    }
    Ok(())
}

pub(super) fn read_plain(source: impl Read, name: &str, sink: &Sink) {
    let row = |line: &[u8], number| Some(utf8(line, name, number).map(|text| Text { text, pair: None }));
    // Nobody is there any more to be told.
    let _ = for_each_line(source, name, sink, row);
}

pub(super) fn read_json(source: impl Read, name: &str, columns: &Columns, sink: &Sink) {
    let row = |line: &[u8], number| {
        let is_blank = line.iter().all(u8::is_ascii_whitespace);
        (!is_blank).then(|| utf8(line, name, number).and_then(|line| json_row(&line, name, number, columns)))
    };
    let _ = for_each_line(source, name, sink, row);
}

fn json_row(line: &str, name: &str, number: u64, columns: &Columns) -> Result<Text, BadRow> {
    let bad = |place: String, expected: String, got: String| BadRow { place, expected, got };
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        let message = error.to_string();
        // The position that serde_json adds is within the line.
        let got = message.split(" at line ").next().unwrap_or(&message).to_owned();
        bad(format!("{name}:{number}:{}", error.column()), "a JSON object".to_owned(), got)
    })?;
    let place = || format!("{name}:{number}");
    let field = |key: &str, option: &str| match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(value) => Err(bad(place(), format!("a string as {key:?}"), value.to_string())),
        None => {
            let keys = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(bad(place(), format!("a key {key:?} (see {option})"), format!("the keys {keys}")))
        }
    };
    let pair = columns.pair.as_ref().map(|pair| field(pair, "--text-pair-column")).transpose()?;
    Ok(Text { text: field(&columns.text, "--text-column")?, pair })
}
