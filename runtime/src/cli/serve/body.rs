//! A request's body, as text-embeddings-inference has it: what it says, and that it takes no more memory than its bytes
//! account for.

use std::{fmt, marker::PhantomData};

use nimbert::{ProblemType, Truncation, TruncationSide};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// The most texts that any server takes. Those beyond are counted and not kept: a text of no length is a few bytes of
/// JSON, and ten times as many in memory.
pub(super) const MOST_TEXTS: usize = 4096;

/// A key that is not known, or comes twice, is an error: it might have been meant for one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    inputs: Inputs,
    /// Logits instead of probabilities (not by default).
    raw_scores: Option<bool>,
    /// Whether a text that is too long is cut (the default), or refused.
    truncate: Option<bool>,
    /// At which end; the default is the bundle's.
    truncation_direction: Option<Direction>,
    /// What Hugging Face's client of hosted models asks for. Its answers are lists of lists.
    parameters: Option<Object<Parameters>>,
    /// What that client says besides: of caches and of waiting for a model, which are not here.
    #[serde(rename = "options")]
    _options: Option<IgnoredAny>,
}

/// An object: a derived type alone would take a list for its values.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Direction {
    #[serde(alias = "left")]
    Left,
    #[serde(alias = "right")]
    Right,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// The most labels of an answer.
    top_k: Option<usize>,
    function_to_apply: Option<Function>,
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    None,
    Sigmoid,
    Softmax,
}

/// A text, and the second one of a pair.
pub(super) type Input = (String, Option<String>);

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has another form.
    Form(String),
    /// It has more texts than are taken.
    TooMany(String),
}

/// # Errors
/// If it is no JSON, or has another form.
pub(super) fn parse(bytes: &[u8]) -> Result<Body, Refusal> {
    match serde_json::from_slice(bytes) {
        Ok(Object(body)) => Ok(body),
        Err(error) => Err(Refusal::Form(error.to_string())),
    }
}

impl Body {
    pub(super) fn truncation(&self) -> Truncation {
        match (self.truncate, self.truncation_direction) {
            (Some(false), _) => Truncation::Refuse,
            (_, None) => Truncation::OfBundle,
            (_, Some(Direction::Left)) => Truncation::At(TruncationSide::Left),
            (_, Some(Direction::Right)) => Truncation::At(TruncationSide::Right),
        }
    }

    /// Whether logits are asked for.
    ///
    /// # Errors
    /// If scores are asked for that the classifier's are not, or both scores and logits.
    pub(super) fn raw(&self, problem_type: ProblemType) -> Result<bool, Refusal> {
        let own = match problem_type {
            ProblemType::SingleLabel => Function::Softmax,
            ProblemType::MultiLabel => Function::Sigmoid,
        };
        let function = self.parameters.as_ref().and_then(|Object(parameters)| parameters.function_to_apply);
        if let Some(function) = function.filter(|function| ![own, Function::None].contains(function)) {
            return Err(Refusal::Form(format!("function_to_apply: expected {own:?} or None, found {function:?}")));
        }
        let asked = function.map(|function| function == Function::None);
        match (asked, self.raw_scores) {
            (Some(raw), Some(other)) if raw != other => {
                let message = format!("raw_scores: expected {raw}, as function_to_apply says, found {other}");
                Err(Refusal::Form(message))
            }
            (asked, raw_scores) => Ok(asked.or(raw_scores).unwrap_or(false)),
        }
    }

    /// Whether the answer is a list, with an entry a text.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.inputs, Inputs::List { .. }) || self.parameters.is_some()
    }

    /// The most labels of an answer, if that is said.
    pub(super) fn top_k(&self) -> Option<usize> {
        self.parameters.as_ref().and_then(|Object(parameters)| parameters.top_k)
    }

    /// # Errors
    /// If there is none, one that is neither a text nor a pair, or more than `max`.
    pub(super) fn texts(self, max: usize) -> Result<Vec<Input>, Refusal> {
        let (list, count) = match self.inputs {
            Inputs::One(entry) => (vec![entry], 1),
            Inputs::List { entries, count } => (entries, count),
        };
        let mut texts = Vec::with_capacity(list.len());
        for (index, entry) in list.into_iter().enumerate() {
            match entry {
                Entry { text: Some(text), pair, others: 0 } => texts.push((text, pair)),
                _ => return Err(Refusal::Form(format!("inputs[{index}]: expected one text or two"))),
            }
        }
        match count {
            0 => Err(Refusal::Form("inputs: expected at least one text".to_owned())),
            _ if count > max.min(MOST_TEXTS) => {
                let max = max.min(MOST_TEXTS);
                Err(Refusal::TooMany(format!("inputs: expected at most {max} texts, found {count}")))
            }
            _ => Ok(texts),
        }
    }
}

/// One text, a pair of two texts, or a list of either: `"a"` or `["a"]`, `["a", "b"]`, `[["a"], ["b"]]`,
/// `[["a", "b"], ["c", "d"]]`.
#[derive(Debug)]
enum Inputs {
    One(Entry),
    /// The first of them, and how many there were.
    List {
        entries: Vec<Entry>,
        count: usize,
    },
}

/// Strings of a list; those beyond a pair are counted alone.
#[derive(Debug, Default)]
struct Entry {
    text: Option<String>,
    pair: Option<String>,
    others: usize,
}

/// What stands in the list of inputs.
enum Element {
    Text(String),
    Entry(Entry),
}

/// Goes past the rest of a list.
fn count<'de, A: SeqAccess<'de>>(list: &mut A) -> Result<usize, A::Error> {
    let mut count = 0;
    while list.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    Ok(count)
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a pair of texts, or a list of lists of one text or two")
    }

    fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs::One(Entry { text: Some(text.to_owned()), ..Entry::default() }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
        let mut entries = Vec::new();
        match list.next_element()? {
            None => return Ok(Inputs::List { entries, count: 0 }),
            Some(Element::Text(text)) => {
                let pair = list.next_element::<String>()?;
                let others = count(&mut list)?;
                if others > 0 {
                    return Err(A::Error::invalid_length(2 + others, &self));
                }
                return Ok(Inputs::One(Entry { text: Some(text), pair, others }));
            }
            Some(Element::Entry(entry)) => entries.push(entry),
        }
        while entries.len() < MOST_TEXTS {
            match list.next_element()? {
                Some(Element::Entry(entry)) => entries.push(entry),
                Some(Element::Text(_)) => return Err(A::Error::custom("inputs: expected texts alone, or lists alone")),
                None => break,
            }
        }
        let count = entries.len() + count(&mut list)?;
        Ok(Inputs::List { entries, count })
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, or a list of one text or two")
    }

    fn visit_str<E>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut entry = Entry { text: list.next_element()?, ..Entry::default() };
        if entry.text.is_some() {
            entry.pair = list.next_element()?;
        }
        if entry.pair.is_some() {
            entry.others = count(&mut list)?;
        }
        Ok(Element::Entry(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<Input>, Refusal> {
        parse(json.as_bytes())?.texts(2)
    }

    #[test]
    fn inputs_are_a_text_a_pair_or_a_list_of_either() {
        let (a, b) = (|| "a".to_owned(), || "b".to_owned());
        assert_eq!(parsed(r#"{"inputs": "a", "truncate": true}"#), Ok(vec![(a(), None)]));
        assert_eq!(parsed(r#"{"inputs": ["a"]}"#), Ok(vec![(a(), None)]));
        assert_eq!(parsed(r#"{"inputs": ["a", "b"]}"#), Ok(vec![(a(), Some(b()))]));
        assert_eq!(parsed(r#"{"inputs": [["a"], ["b"]]}"#), Ok(vec![(a(), None), (b(), None)]));
        assert_eq!(parsed(r#"{"inputs": [["a", "b"]]}"#), Ok(vec![(a(), Some(b()))]));
    }

    #[test]
    fn what_is_wrong_with_inputs_is_said() {
        let form = |message: &str| Err(Refusal::Form(message.to_owned()));
        assert_eq!(parsed(r#"{"inputs": []}"#), form("inputs: expected at least one text"));
        assert_eq!(parsed(r#"{"inputs": [["a"], []]}"#), form("inputs[1]: expected one text or two"));
        assert_eq!(parsed(r#"{"inputs": [["a", "b", "c"]]}"#), form("inputs[0]: expected one text or two"));
        let too_many = "inputs: expected at most 2 texts, found 3".to_owned();
        assert_eq!(parsed(r#"{"inputs": [["a"], ["b"], ["c"]]}"#), Err(Refusal::TooMany(too_many)));
        for wrong in [
            r#"{"inputs": 5}"#,
            r#"{"inputs": ["a", "b", "c"]}"#,
            r#"{"inputs": ["a", ["b"]]}"#,
            r#"{"inputs": [["a"], "b"]}"#,
            r#"{"inputs": [[["a"]]]}"#,
            r#"{"inputs": "a", "inputs": "b"}"#,
            r#"{"inputs": "a", "truncat": false}"#,
            r#"{"inputs": "a", "parameters": {"topk": 1}}"#,
            r#"{"inputs": "a"} {}"#,
            r#"["a"]"#,
            r#" ["a", true]"#,
            r#""a""#,
            "{}",
            "",
        ] {
            assert!(matches!(parsed(wrong), Err(Refusal::Form(_))), "{wrong}");
        }
    }

    #[test]
    fn scores_and_logits_are_not_asked_for_at_once() {
        let raw = |body: &str| parse(body.as_bytes()).unwrap().raw(ProblemType::SingleLabel);
        for (body, expected) in [
            (r#"{"inputs": "a"}"#, Some(false)),
            (r#"{"inputs": "a", "raw_scores": true, "options": {"use_cache": false}}"#, Some(true)),
            (r#"{"inputs": "a", "parameters": {"function_to_apply": "none"}}"#, Some(true)),
            (r#"{"inputs": "a", "raw_scores": true, "parameters": {"function_to_apply": "none"}}"#, Some(true)),
            (r#"{"inputs": "a", "raw_scores": false, "parameters": {"function_to_apply": "none"}}"#, None),
            (r#"{"inputs": "a", "raw_scores": true, "parameters": {"function_to_apply": "softmax"}}"#, None),
            (r#"{"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}"#, None),
        ] {
            assert_eq!(raw(body).ok(), expected, "{body}");
        }
    }

    #[test]
    fn texts_beyond_the_most_are_counted_and_not_kept() {
        let body = format!(r#"{{"inputs": [{}["a"]]}}"#, r#"["a"],"#.repeat(10_000));
        match parse(body.as_bytes()).unwrap().inputs {
            Inputs::List { entries, count } => assert_eq!((entries.len(), count), (MOST_TEXTS, 10_001)),
            Inputs::One(text) => panic!("expected a list, found {text:?}"),
        }
        let message = "inputs: expected at most 2 texts, found 10001".to_owned();
        assert_eq!(parsed(&body), Err(Refusal::TooMany(message)));
    }
}
