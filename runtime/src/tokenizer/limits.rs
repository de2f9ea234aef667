//! What of a `tokenizer.json` is looked at before the library sees it: its limits, each with the reason that was found in the
//! library's version 0.23.
//!
//! The library trusts its files. What it panics at is caught where it is called; the limits are for the rest: loops that
//! never end, memory that no allocator has, stacks that overflow.

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use tokenizers::Normalizer;

use crate::{file::Distinct, guard::guarded};

/// No added token and no piece of a vocabulary may be longer, in bytes: the library's trees go one step deeper a byte when
/// they are dropped, and compare that many bytes at every place of a text. (The longest piece of XLM-R has 48.)
const MAX_TOKEN_BYTES: usize = 1024;
/// A vocabulary of pieces takes up to 1,200 bytes of memory a byte. (XLM-R's has 2 MB.)
const MAX_PIECES_BYTES: usize = 8 << 20;
/// Words up to which WordPiece looks for pieces, in characters: the time grows with the cube. (BERT: 100.)
const MAX_WORD: u64 = 1000;
/// Normalizers, each of which may make a text longer. (XLM-R has 3.)
const MAX_NORMALIZERS: usize = 16;
/// What all normalizers together may make of a text, in multiples of its length.
const MAX_GROWTH: usize = 64;
/// A regular expression, in bytes, and the product of its counted repetitions. (GPT-4's has 120 bytes.)
const MAX_REGEX_BYTES: usize = 2048;
const MAX_REPETITIONS: u64 = 10_000;
/// Special tokens of a template.
const MAX_TEMPLATE: usize = 16;

/// What the library knows by name.
const NORMALIZERS: [&str; 12] = [
    "BertNormalizer",
    "Strip",
    "StripAccents",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Nmt",
    "Precompiled",
    "Replace",
    "Prepend",
];
const PRE_TOKENIZERS: [&str; 11] = [
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Metaspace",
    "Whitespace",
    "Split",
    "Punctuation",
    "WhitespaceSplit",
    "Digits",
    "UnicodeScripts",
    "FixedLength",
];
const POST_PROCESSORS: [&str; 4] = ["RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing"];

/// What the library is not asked about.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) normalizer: Distinct,
    #[serde(default)]
    pub(super) pre_tokenizer: Distinct,
    #[serde(default)]
    post_processor: Distinct,
    #[serde(default)]
    pub(super) added_tokens: Distinct,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) r#type: Option<String>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    vocab: Pieces,
}

/// How long the pieces of a vocabulary are.
#[derive(Default)]
pub(super) struct Pieces {
    longest: usize,
    bytes: usize,
    /// With scores, of which a tree is made.
    is_list: bool,
}

/// What is wrong with a tokenizer.
pub(super) struct Fault {
    pub(super) expected: String,
    pub(super) got: String,
}

fn fault<T>(expected: impl Into<String>, got: impl Into<String>) -> std::result::Result<T, Fault> {
    Err(Fault { expected: expected.into(), got: got.into() })
}

pub(super) fn check(file: &File, added_tokens: &[Value]) -> std::result::Result<(), Fault> {
    let Pieces { longest, bytes, is_list } = file.model.vocab;
    if longest > MAX_TOKEN_BYTES {
        return fault(format!("pieces of at most {MAX_TOKEN_BYTES} bytes"), format!("{longest} bytes"));
    }
    if is_list && bytes > MAX_PIECES_BYTES {
        return fault(format!("a vocabulary of at most {MAX_PIECES_BYTES} bytes"), format!("{bytes} bytes"));
    }
    if let Some(word) = file.model.max_input_chars_per_word.filter(|word| *word > MAX_WORD) {
        return fault(format!("max_input_chars_per_word of at most {MAX_WORD}"), word.to_string());
    }
    for token in added_tokens {
        let Some(content) = token.get("content").and_then(Value::as_str) else {
            return fault("added tokens with names for what they say", token.to_string());
        };
        if content.len() > MAX_TOKEN_BYTES {
            return fault(
                format!("added tokens of at most {MAX_TOKEN_BYTES} bytes"),
                format!("{} bytes", content.len()),
            );
        }
        let strips = token["lstrip"] == true || token["rstrip"] == true;
        if strips && (content.starts_with(char::is_whitespace) || content.ends_with(char::is_whitespace)) {
            // Of n spaces it would make n slices, each as long as what is left.
            return fault("added tokens of white space that do not strip it", format!("{content:?}"));
        }
    }
    let normalizers = parts(&file.normalizer.0, "normalizers", &NORMALIZERS)?;
    if normalizers.len() > MAX_NORMALIZERS {
        return fault(format!("at most {MAX_NORMALIZERS} normalizers"), normalizers.len().to_string());
    }
    let mut growth = 1usize;
    for part in normalizers {
        growth = growth.saturating_mul(check_normalizer(part)?);
    }
    if growth > MAX_GROWTH {
        return fault(
            format!("normalizers that make a text at most {MAX_GROWTH} times as long"),
            format!("{growth} times"),
        );
    }
    for part in parts(&file.pre_tokenizer.0, "pretokenizers", &PRE_TOKENIZERS)? {
        if let Some(pattern) = part["pattern"]["Regex"].as_str() {
            check_regex(pattern)?;
        }
    }
    parts(&file.post_processor.0, "processors", &POST_PROCESSORS)?.into_iter().try_for_each(check_processor)
}

/// How many times as long a text may be behind it.
fn check_normalizer(part: &Value) -> std::result::Result<usize, Fault> {
    match part["type"].as_str() {
        Some("Replace") => {
            let content = part["content"].as_str().unwrap_or_default().len();
            if let Some(pattern) = part["pattern"]["Regex"].as_str() {
                check_regex(pattern)?;
            }
            let replace = tokenizers::normalizers::Replace::deserialize(part);
            let mut nothing = "".into();
            if let Ok(Ok(replace)) = guarded(|| replace)
                && guarded(|| replace.normalize(&mut nothing)).is_ok_and(|done| done.is_ok())
                && !nothing.is_empty()
            {
                // What follows would look for letters where there are none.
                return fault("a pattern to be replaced that does not match nothing", part["pattern"].to_string());
            }
            let pattern = part["pattern"]["String"].as_str().map_or(1, str::len).max(1);
            Ok(content.div_ceil(pattern).max(1))
        }
        Some("Prepend") => match part["prepend"].as_str().map_or(0, str::len) {
            1..=MAX_GROWTH => Ok(1),
            bytes => fault(format!("1 to {MAX_GROWTH} bytes to prepend"), bytes.to_string()),
        },
        Some("Precompiled") => {
            let map = part["precompiled_charsmap"].as_str().unwrap_or_default();
            // The library allocates what the first four bytes say.
            let room = (map.len() / 4 * 3).saturating_sub(4);
            match first_number(map) {
                Some(size) if size >= 4 && size % 4 == 0 && size as usize <= room => Ok(1),
                _ => fault("a precompiled_charsmap with a tree that fits", "another"),
            }
        }
        _ => Ok(1),
    }
}

/// The first four bytes of what base64 says, the lowest first.
fn first_number(base64: &str) -> Option<u32> {
    let mut bits = 0u64;
    for c in base64.bytes().take(6).chain(std::iter::repeat_n(b'=', 6usize.saturating_sub(base64.len()))) {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u64::from(value);
    }
    let bytes = (bits >> 4).to_be_bytes();
    Some(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
}

/// Refuses what the regular expressions' library never comes to an end with: its limit counts steps back only.
fn check_regex(pattern: &str) -> std::result::Result<(), Fault> {
    if pattern.len() > MAX_REGEX_BYTES {
        return fault(
            format!("a regular expression of at most {MAX_REGEX_BYTES} bytes"),
            format!("{} bytes", pattern.len()),
        );
    }
    let (mut repetitions, mut classes) = (1u64, 0u32);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('K' | 'G' | 'k' | 'g' | '1'..='9')) => {
                    return fault("a regular expression without \\K, \\G and references", format!("\\{c}"));
                }
                // The number of a character, or the name of a class.
                Some('x' | 'u' | 'U' | 'o' | 'p' | 'P') if chars.peek() == Some(&'{') => {
                    chars.by_ref().find(|c| *c == '}');
                }
                _ => {}
            },
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '{' if classes == 0 => {
                let counts: String =
                    std::iter::from_fn(|| chars.next_if(|c| c.is_ascii_digit() || *c == ',')).collect();
                let counts = counts
                    .split(',')
                    .filter_map(|count| count.parse::<u64>().ok().or((!count.is_empty()).then_some(u64::MAX)));
                repetitions = repetitions.saturating_mul(counts.max().unwrap_or(1).max(1));
            }
            _ => {}
        }
    }
    match repetitions {
        0..=MAX_REPETITIONS => Ok(()),
        _ => fault(format!("counted repetitions of at most {MAX_REPETITIONS} in all"), pattern.to_owned()),
    }
}

/// A template names every text once: each further time multiplies what is cut off.
fn check_processor(part: &Value) -> std::result::Result<(), Fault> {
    for (template, most) in [("single", 1), ("pair", 2)] {
        let pieces = part[template].as_array().map_or(&[][..], Vec::as_slice);
        let sequences = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        if sequences > most || pieces.len() > MAX_TEMPLATE + most {
            let expected = format!("a template {template} of at most {most} texts and {MAX_TEMPLATE} special tokens");
            return fault(expected, format!("{sequences} and {}", pieces.len() - sequences));
        }
    }
    let tokens = part["special_tokens"].as_object().into_iter().flatten();
    match tokens.filter_map(|(_, token)| token["ids"].as_array()).find(|ids| ids.len() > MAX_TEMPLATE) {
        Some(ids) => fault(format!("special tokens of at most {MAX_TEMPLATE} ids"), ids.len().to_string()),
        None => Ok(()),
    }
}

/// The parts of a sequence in a sequence. Each says of which type it is: the library also takes what does not, and lists of
/// values without names.
fn parts<'a>(value: &'a Value, key: &str, types: &[&str]) -> std::result::Result<Vec<&'a Value>, Fault> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    match value.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let inner = value[key].as_array().map_or(&[][..], Vec::as_slice);
            Ok(inner.iter().map(|part| parts(part, key, types)).collect::<std::result::Result<Vec<_>, _>>()?.concat())
        }
        Some(name) if types.contains(&name) => Ok(vec![value]),
        other => {
            let got = other.map_or_else(|| "none".to_owned(), |name| format!("{name:?}"));
            fault(format!("a type of the {key}: {}", types.join(", ")), got)
        }
    }
}

/// Refuses merges whose second part does not begin with the prefix that the library cuts off it without looking.
pub(super) fn check_merges(content: &[u8]) -> std::result::Result<(), Fault> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        continuing_subword_prefix: String,
        #[serde(default)]
        merges: Vec<Merge>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Pair((IgnoredAny, String)),
        Line(String),
    }
    let Ok(File { model }) = serde_json::from_slice(content) else {
        return fault("merges of two pieces each", "others");
    };
    let prefix = &model.continuing_subword_prefix;
    let second = |merge: &Merge| match merge {
        Merge::Pair((_, second)) => second.clone(),
        Merge::Line(line) => line.split_once(' ').map_or(String::new(), |(_, second)| second.to_owned()),
    };
    match model.merges.iter().map(second).find(|second| !second.starts_with(prefix.as_str())) {
        Some(second) => fault(format!("merges whose second part begins with {prefix:?}"), format!("{second:?}")),
        None => Ok(()),
    }
}

impl<'de> Deserialize<'de> for Pieces {
    /// Of `{"piece": id, …}` and `[["piece", score], …]`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct PiecesVisitor;
        impl<'de> Visitor<'de> for PiecesVisitor {
            type Value = Pieces;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pieces, A::Error> {
                let mut pieces = Pieces::default();
                while let Some((Length(bytes), IgnoredAny)) = map.next_entry()? {
                    pieces.add(bytes);
                }
                Ok(pieces)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Pieces, A::Error> {
                let mut pieces = Pieces { is_list: true, ..Pieces::default() };
                while let Some((Length(bytes), IgnoredAny)) = seq.next_element()? {
                    pieces.add(bytes);
                }
                Ok(pieces)
            }
        }
        deserializer.deserialize_any(PiecesVisitor)
    }
}

/// A piece's length in bytes: a copy of each would be made at every start, for that alone.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct LengthVisitor;
        impl Visitor<'_> for LengthVisitor {
            type Value = Length;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a piece")
            }

            fn visit_str<E>(self, piece: &str) -> std::result::Result<Length, E> {
                Ok(Length(piece.len()))
            }
        }
        deserializer.deserialize_str(LengthVisitor)
    }
}

impl Pieces {
    fn add(&mut self, bytes: usize) {
        self.longest = self.longest.max(bytes);
        self.bytes += bytes;
    }
}
