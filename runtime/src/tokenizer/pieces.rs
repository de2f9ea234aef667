//! Where a text may be cut so that its parts have the tokens of the whole: a long text is read in pieces, in memory that does
//! not grow with it, and no further than the model looks.
//!
//! A cut before a space is one, if the tokenizer takes words as they stand between spaces, and the character before is no
//! white space that the space would be joined to. Which tokenizers do so is said by `tokenizer.json`; of those that are not
//! known to, a text is one piece.

use std::collections::BTreeSet;

use serde_json::Value;

/// Cuts that change no token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cuts {
    /// Before a space.
    spaces: bool,
    /// Before one of these marks of punctuation, each of which is a token of its own.
    marks: BTreeSet<u8>,
    /// Between ideographs, each of which is a token of its own.
    ideographs: bool,
}

impl Cuts {
    /// Those of the tokenizer that a `tokenizer.json` describes.
    pub(super) fn of(normalizer: &Value, pre_tokenizer: &Value, added_tokens: &[Value]) -> Self {
        let flag = |key: &str| added_tokens.iter().any(|token| token[key].as_bool() == Some(true));
        let contents: Vec<&str> = added_tokens.iter().filter_map(|token| token["content"].as_str()).collect();
        // A token that has a space in it, or takes what is behind it, could lie on both sides of a cut.
        let spans = flag("rstrip") || contents.iter().any(|content| content.contains(char::is_whitespace));
        let normalizers = parts(normalizer, "normalizers");
        let pre_tokenizers = parts(pre_tokenizer, "pretokenizers");
        let spaces = !spans && normalizers.iter().all(|part| keeps_words(part)) && split_at_spaces(&pre_tokenizers);
        let is_bert = |parts: &[&Value], name: &str| matches!(parts, [part] if part["type"] == name);
        let is_bert = spaces && is_bert(&pre_tokenizers, "BertPreTokenizer") && is_bert(&normalizers, "BertNormalizer");
        let is_free = |mark: &u8| !contents.iter().any(|content| content.as_bytes().contains(mark));
        Self {
            spaces,
            // The underline counts as a letter where words are asked for.
            marks: (0..128u8)
                .filter(|mark| is_bert && mark.is_ascii_punctuation() && is_free(mark))
                .filter(|mark| *mark != b'_' || !flag("single_word"))
                .collect(),
            ideographs: is_bert
                && normalizers[0]["handle_chinese_chars"] == true
                && !flag("single_word")
                && contents.iter().all(|content| content.is_ascii()),
        }
    }

    /// The text in pieces of about `size` bytes; longer ones where it cannot be cut.
    pub(super) fn pieces<'a>(&self, text: &'a str, size: usize) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while rest.len() > size {
            let Some(cut) = self.next(rest, size) else { break };
            let (piece, behind) = rest.split_at(cut);
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        pieces
    }

    /// The last cut within `size` bytes, or else the first behind them.
    fn next(&self, text: &str, size: usize) -> Option<usize> {
        let before = (1..=text.floor_char_boundary(size)).rev().find(|&index| self.is_cut(text, index));
        before.or_else(|| (size + 1..text.len()).find(|&index| self.is_cut(text, index)))
    }

    fn is_cut(&self, text: &str, index: usize) -> bool {
        let bytes = text.as_bytes();
        let (before, at) = (bytes[index - 1], bytes[index]);
        if self.ideographs && text.is_char_boundary(index) && text[index..].starts_with(is_ideograph) {
            return before.is_ascii_graphic() || text[..index].ends_with(is_ideograph);
        }
        before.is_ascii_graphic() && ((self.spaces && at == b' ') || self.marks.contains(&at))
    }
}

/// Of the block that every tokenizer that splits ideographs splits.
fn is_ideograph(c: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&c)
}

/// The parts of a sequence, or the only one; none if there is none.
fn parts<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match (value, value["type"].as_str()) {
        (Value::Null, _) => Vec::new(),
        (_, Some("Sequence")) => {
            value[key].as_array().into_iter().flatten().flat_map(|part| parts(part, key)).collect()
        }
        _ => vec![value],
    }
}

/// Whether a normalizer changes what stands between two spaces as it would alone.
fn keeps_words(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("BertNormalizer" | "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "StripAccents" | "Precompiled") => true,
        // A cut is made where nothing is stripped on the right.
        Some("Strip") => part["strip_left"] == false,
        Some("Replace") => match (part["pattern"]["String"].as_str(), part["pattern"]["Regex"].as_str()) {
            (Some(pattern), None) => !pattern.contains(char::is_whitespace),
            // Several spaces to one, as SentencePiece has it.
            (None, Some(pattern)) => pattern == " {2,}",
            _ => false,
        },
        _ => false,
    }
}

/// Whether a text is split at its spaces before anything else is done with them.
fn split_at_spaces(parts: &[&Value]) -> bool {
    let mut is_split = false;
    for part in parts {
        match part["type"].as_str() {
            _ if splits_at_spaces(part) => is_split = true,
            Some("Punctuation" | "Digits") => {}
            Some("Metaspace" | "ByteLevel") if is_split => {}
            _ => return false,
        }
    }
    is_split
}

fn splits_at_spaces(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => true,
        Some("ByteLevel") => part["use_regex"].as_bool() != Some(false),
        Some("Metaspace") => part["split"].as_bool() != Some(false),
        _ => false,
    }
}
