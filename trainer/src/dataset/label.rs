//! What a label column says: one label, several, or none.

use nimbert::rows::{Value, is_exact, text};

/// What becomes of a row whose text, label or weight is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// It is an error.
    #[default]
    Error,
    /// It is left out, and counted.
    Skip,
    /// It is an error, but a word such as `NaN` or `None` is a label's name.
    Keep,
}

/// How pandas and spreadsheets write that a value is missing. (Lower-case `none` is a name: of an intent, for example.)
const MISSING: [&str; 14] =
    ["nan", "NaN", "NAN", "-nan", "-NaN", "null", "NULL", "None", "N/A", "n/a", "NA", "<NA>", "#N/A", "#NA"];

/// Why a value is no label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoLabel {
    /// There is none: what stands there.
    Missing(String),
    /// Something else stands there: what was expected and what was found.
    Bad(String, String),
}

fn bad<T>(expected: &str, got: impl Into<String>) -> Result<T, NoLabel> {
    Err(NoLabel::Bad(expected.to_owned(), got.into()))
}

/// Whether there is anything at all, and no word that stands for nothing.
pub(super) fn expect_present(value: &Value, on_missing: OnMissing) -> Result<(), NoLabel> {
    match value {
        Value::Null => Err(NoLabel::Missing("null".to_owned())),
        Value::String(text) if on_missing != OnMissing::Keep && MISSING.contains(&text.trim()) => {
            Err(NoLabel::Missing(format!(
                "{text:?}, which stands for a missing value (--on-missing keep takes it as a name)"
            )))
        }
        _ => Ok(()),
    }
}

/// The label of a row that has one.
pub(super) fn single(value: &Value, on_missing: OnMissing) -> Result<String, NoLabel> {
    expect_present(value, on_missing)?;
    match value {
        Value::String(name) if name.trim().is_empty() => Err(NoLabel::Missing("an empty one".to_owned())),
        Value::String(name) if matches!(list(name), Some(Ok(_))) => {
            bad("one label", format!("the list {name} (see --multi-label)"))
        }
        Value::Array(_) => bad("one label", "a list of them (see --multi-label)"),
        Value::Object(_) => bad("a label's name", abridged(value)),
        Value::Number(_) => number(value),
        Value::String(name) => Ok(name.clone()),
        Value::Bool(_) | Value::Null => Ok(value.to_string()),
    }
}

/// A number as a name.
fn number(value: &Value) -> Result<String, NoLabel> {
    if !is_exact(value) {
        return bad("a number that is exact in 64 bits, or a string", abridged(value));
    }
    let number = value.to_string();
    Ok(canonical_number(&number).unwrap_or(number))
}

/// The labels of a row that may have any number of them.
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    /// Whether they are a list of zeros and ones, which may be a place for each label rather than names.
    pub(super) is_bits: bool,
}

/// Reads a list (of JSON, or as Python writes one), or names with `separator` between them.
pub(super) fn multiple(value: &Value, separator: char, on_missing: OnMissing) -> Result<Labels, NoLabel> {
    expect_present(value, on_missing)?;
    let names = |names: Vec<String>| Ok(Labels { names, is_bits: false });
    match value {
        Value::Array(elements) => of_list(elements),
        Value::String(text) => match list(text) {
            Some(Ok(elements)) => of_list(&elements),
            Some(Err(())) => bad("a list such as [\"a\", \"b\"] or ['a', 'b']", text.clone()),
            None => {
                let parts = text.split(separator).map(str::trim).filter(|name| !name.is_empty());
                names(parts.map(str::to_owned).collect())
            }
        },
        _ => names(vec![single(value, on_missing)?]),
    }
}

fn of_list(elements: &[Value]) -> Result<Labels, NoLabel> {
    let name = |element: &Value| match element {
        Value::Array(_) | Value::Object(_) | Value::Null => bad("a list of names", abridged(element)),
        Value::String(name) if name.trim().is_empty() => bad("a list of names", "an empty one"),
        Value::Number(_) => number(element),
        other => Ok(text(other).unwrap_or_default()),
    };
    let names = elements.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    let is_bits = elements.len() > 1 && names.iter().all(|name| name == "0" || name == "1");
    let repeats = names.iter().enumerate().any(|(index, name)| names[..index].contains(name));
    if is_bits && repeats {
        let (expected, got) = bad_bits(&names);
        return Err(NoLabel::Bad(expected, got));
    }
    Ok(Labels { names, is_bits })
}

/// What is expected and found where zeros and ones are there instead of names.
pub(super) fn bad_bits(names: &[String]) -> (String, String) {
    let got = format!("the zeros and ones [{}]; one column a label is read with --label-columns", abridged_list(names));
    ("a list of names".to_owned(), got)
}

/// Whether a label holds: 0 or 1, false or true.
pub(super) fn bit(value: &Value, on_missing: OnMissing) -> Result<bool, NoLabel> {
    match share(value, on_missing)? {
        0.0 => Ok(false),
        1.0 => Ok(true),
        other => bad("0 or 1", other.to_string()),
    }
}

/// A number that is not negative: a share of a label, or a row's weight.
pub(super) fn share(value: &Value, on_missing: OnMissing) -> Result<f64, NoLabel> {
    expect_present(value, on_missing)?;
    let number = match value {
        Value::Bool(holds) => Some(f64::from(u8::from(*holds))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim() {
            "" => return Err(NoLabel::Missing("an empty one".to_owned())),
            "true" | "True" | "TRUE" => Some(1.0),
            "false" | "False" | "FALSE" => Some(0.0),
            text => text.parse().ok(),
        },
        _ => None,
    };
    match number.filter(|number| number.is_finite() && *number >= 0.0) {
        Some(number) => Ok(number),
        None => bad("a number of 0 or more", abridged(value)),
    }
}

/// A string that is a list, in JSON or as Python writes one: its elements, or nothing if what is between the brackets is no
/// list. None if there are no brackets. A tuple or set of Python's is a list too; a name in parentheses is none.
fn list(text: &str) -> Option<Result<Vec<Value>, ()>> {
    let text = text.trim();
    for [open, close] in [['(', ')'], ['{', '}']] {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(elements) = inner.filter(|inner| !inner.trim().is_empty()).and_then(python_list) {
            return Some(Ok(elements));
        }
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match serde_json::from_str(text) {
        Ok(elements) => Some(Ok(elements)),
        Err(_) => Some(python_list(inner).ok_or(())),
    }
}

/// The strings between the brackets of a list, as Python's `repr` writes them.
fn python_list(inner: &str) -> Option<Vec<Value>> {
    let mut elements = Vec::new();
    let mut rest = inner.trim_start();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut name = String::new();
        let mut characters = rest[1..].char_indices();
        let end = loop {
            match characters.next()? {
                (place, c) if c == quote => break place + 2,
                (_, '\\') => match characters.next()?.1 {
                    c @ ('\\' | '\'' | '"') => name.push(c),
                    'n' => name.push('\n'),
                    't' => name.push('\t'),
                    // Other escapes stand for characters that no label has.
                    _ => return None,
                },
                (_, c) => name.push(c),
            }
        };
        elements.push(Value::String(name));
        rest = rest[end..].trim_start();
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(elements)
}

/// A number as all are written: `1.0`, `1.` and `1e0` are `1`. None for what is no number, or one with leading zeros, which
/// is the name of something. One with a fraction is left as it stands, but for exponents: `1.10` and `1.1` may be versions. (Numbers of
/// JSON and Parquet have lost such zeros before they come here.)
pub(super) fn canonical_number(text: &str) -> Option<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let has_leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    if has_leading_zero || !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    if value == 0.0 && mantissa.contains(|c: char| c.is_ascii_digit() && c != '0') {
        return None;
    }
    let plain = match text.contains(['e', 'E']) {
        true => value.to_string(),
        false => text.to_owned(),
    };
    let plain = match plain.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => &plain,
    };
    Some(if plain == "-0" { "0".to_owned() } else { plain.to_owned() })
}

fn abridged(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn abridged_list(names: &[String]) -> String {
    let shown = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 8 { shown + ", …" } else { shown }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_written_in_one_way() {
        let canonical = |text: &str| canonical_number(text);
        for (text, expected) in [
            ("1.0", "1"),
            ("0E0", "0"),
            ("0.0", "0"),
            ("-0", "0"),
            ("1e3", "1000"),
            ("0.50", "0.50"),
            ("1.10", "1.10"),
            ("15e-1", "1.5"),
            ("1.", "1"),
            ("10", "10"),
            ("-2.0", "-2"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(canonical("12345678901234567890123").as_deref(), Some("12345678901234567890123"));
        for name in ["007", "1a", "", "-", "inf", ".5", "nan", "1 ", "+1"] {
            assert_eq!(canonical(name), None, "{name}");
        }
    }

    #[test]
    fn missing_labels_are_told_from_names() {
        let read = |value: Value, on_missing| single(&value, on_missing);
        for value in
            [json!(null), json!(""), json!(" "), json!("nan"), json!("NaN"), json!("None"), json!("null"), json!("N/A")]
        {
            assert!(matches!(read(value.clone(), OnMissing::Error), Err(NoLabel::Missing(_))), "{value}");
        }
        assert_eq!(read(json!("none"), OnMissing::Error), Ok("none".to_owned()));
        assert_eq!(read(json!("None"), OnMissing::Keep), Ok("None".to_owned()));
        assert!(matches!(read(json!(null), OnMissing::Keep), Err(NoLabel::Missing(_))));
        assert_eq!(read(json!(1.0), OnMissing::Error), Ok("1".to_owned()));
        assert_eq!(
            read(json!("['a', 'b']"), OnMissing::Error),
            bad("one label", "the list ['a', 'b'] (see --multi-label)")
        );
        assert_eq!(read(json!("[draft]"), OnMissing::Error), Ok("[draft]".to_owned()));
    }

    #[test]
    fn lists_are_read_in_every_form() {
        let names = |value: Value| multiple(&value, ',', OnMissing::Error).map(|labels| labels.names);
        for value in [
            json!(["a", "b"]),
            json!("['a', 'b']"),
            json!("[\"a\",\"b\"]"),
            json!("[\"a\", 'b',]"),
            json!("('a', 'b')"),
            json!("{'a', 'b'}"),
            json!("a, b"),
        ] {
            assert_eq!(names(value.clone()).unwrap(), ["a", "b"], "{value}");
        }
        assert_eq!(names(json!("[\"it's\", 'say \\'so\\'']")).unwrap(), ["it's", "say 'so'"]);
        assert_eq!(names(json!("a|b")).unwrap(), ["a|b"]);
        assert_eq!(names(json!("(draft)")).unwrap(), ["(draft)"]);
        assert!(matches!(names(serde_json::from_str("[12345678901234567890123]").unwrap()), Err(NoLabel::Bad(..))));
        for value in [json!([]), json!("[]"), json!("")] {
            assert!(names(value.clone()).unwrap().is_empty(), "{value}");
        }
        assert_eq!(names(json!([3, 1.0])).unwrap(), ["3", "1"]);
        for value in [
            json!([null]),
            json!("[None]"),
            json!("[a, b]"),
            json!("['a' 'b']"),
            json!([["a"]]),
            json!([0, 1, 0]),
            json!("[1, 0, 0]"),
            json!("['a"),
        ] {
            if value == json!("['a") {
                assert_eq!(names(value).unwrap(), ["['a"]);
            } else {
                assert!(matches!(names(value.clone()), Err(NoLabel::Bad(..))), "{value}");
            }
        }
        assert!(multiple(&json!([0, 1]), ',', OnMissing::Error).unwrap().is_bits);
    }

    #[test]
    fn shares_and_bits_are_numbers_in_every_form() {
        for value in [json!(1), json!(1.0), json!("1"), json!("1.0"), json!(true), json!("True")] {
            assert_eq!(bit(&value, OnMissing::Error), Ok(true), "{value}");
        }
        for value in [json!(0.3), json!("yes"), json!(-1), json!("inf"), json!([1])] {
            assert!(matches!(bit(&value, OnMissing::Error), Err(NoLabel::Bad(..))), "{value}");
        }
        assert_eq!(share(&json!("0.25"), OnMissing::Error), Ok(0.25));
        assert!(matches!(share(&json!(""), OnMissing::Error), Err(NoLabel::Missing(_))));
    }
}
