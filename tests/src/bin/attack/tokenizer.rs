//! Mutations of `tokenizer.json` as a structure: what its reader takes is more than what anybody writes.

use fastrand::Rng;
use serde_json::{Value, json};

/// Types of all parts, some of which take what others have.
const TYPES: [&str; 14] = [
    "Replace",
    "Prepend",
    "Strip",
    "Precompiled",
    "Lowercase",
    "Sequence",
    "Split",
    "FixedLength",
    "Metaspace",
    "ByteLevel",
    "TemplateProcessing",
    "Unigram",
    "BPE",
    "WordLevel",
];

/// One to three mutations, and what they are.
pub(crate) fn mutate(content: &[u8], rng: &mut Rng) -> (String, Vec<u8>) {
    let mut json: Value = serde_json::from_slice(content).expect("the unchanged tokenizer");
    let mut said = Vec::new();
    for _ in 0..rng.usize(1..4) {
        said.push(mutate_once(&mut json, rng));
    }
    (said.join("; "), json.to_string().into_bytes())
}

/// Walks to a place, more often high up than in the vocabulary, and changes what is there.
fn mutate_once(json: &mut Value, rng: &mut Rng) -> String {
    let mut place = json;
    let mut path = String::new();
    loop {
        let is_end = !path.is_empty() && rng.u8(..3) == 0;
        match place {
            Value::Object(object) if !object.is_empty() && !is_end => {
                let index = rng.usize(..object.len());
                let key = object.keys().nth(index).expect("a key of that index").clone();
                path += &format!("/{key}");
                place = &mut place[&key];
            }
            Value::Array(list) if !list.is_empty() && !is_end => {
                let index = rng.usize(..list.len());
                path += &format!("/{index}");
                place = &mut place[index];
            }
            _ => break,
        }
    }
    let before = place.take();
    let (what, after) = change(before, rng);
    *place = after;
    format!("{path} {what}")
}

fn change(before: Value, rng: &mut Rng) -> (&'static str, Value) {
    match (rng.u8(..12), before) {
        (0, Value::Object(object)) => ("as a list", object.into_iter().map(|(_, value)| value).collect()),
        (1, Value::Object(mut object)) => {
            object.remove("type");
            ("without a type", object.into())
        }
        (2, Value::Object(mut object)) => {
            object.insert("type".to_owned(), rng.choice(TYPES).into());
            ("of another type", object.into())
        }
        (3, Value::Object(mut object)) => {
            let key = object.keys().next().cloned().unwrap_or_default();
            object.remove(&key);
            ("without its first key", object.into())
        }
        (4, Value::Array(list)) => ("forty times", std::iter::repeat_n(list, 40).flatten().collect()),
        (5, Value::Array(mut list)) => {
            list.reverse();
            ("reversed", list.into())
        }
        (6, value) => ("in a list", json!([value])),
        (7, Value::String(text)) => ("a thousand times", text.repeat(1000).into()),
        (8, _) => ("null", Value::Null),
        (9, _) => {
            ("a number", rng.choice([json!(0), json!(-1), json!(u64::MAX), json!(1e308), json!(1 << 31)]).unwrap())
        }
        (10, _) => ("a text", rng.choice(["", " ", "a", "\u{301}", "\\s*", "(?=a){99999}", "[CLS]", "▁"]).into()),
        (11, _) => {
            let replace = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
            ("a growing sequence", json!({ "type": "Sequence", "normalizers": vec![replace; 30] }))
        }
        (_, Value::Bool(flag)) => ("negated", (!flag).into()),
        (_, other) => ("removed", if other.is_object() { json!({}) } else { json!([]) }),
    }
}
