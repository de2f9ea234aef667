//! Trims the vocabulary of a Hugging Face fast tokenizer to the tokens that a task needs.
//!
//! About half of a small BERT's weights are word embeddings, and most of their rows belong to words that the texts of
//! one task never contain. A word that is dropped falls back to smaller pieces: all single characters remain, so that
//! nothing becomes the unknown token that was not before. Text whose tokens all remain is encoded as before.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use serde_json::{Value, json};

/// The last special token with an id below this, and all tokens before it, keep their ids.
const FIRST_IDS: u32 = 8;

/// How a vocabulary is trimmed.
#[derive(Debug, Clone, Copy)]
pub struct TrimConfig {
    /// At most this many tokens, unless the special tokens and single characters are more.
    pub size: usize,
    /// Tokens that occur at least so often in the data come first.
    pub min_count: u64,
}

/// Which tokens of a vocabulary remain.
#[derive(Debug, Clone)]
pub struct Trimmed {
    /// The new `tokenizer.json`.
    pub tokenizer: Value,
    /// The old id of each new id, ascending.
    pub old_ids: Vec<u32>,
}

/// Drops tokens from `tokenizer`, a `tokenizer.json`; `counts[id]` says how often a token occurs in the data. Special
/// tokens and single characters always remain. They are joined, up to `config.size`, by the tokens of the data by
/// falling count, then by the others by rising id.
///
/// # Errors
/// What was expected and found, if the tokenizer is not of a type that can be trimmed or contradicts itself.
pub fn trim(tokenizer: &Value, counts: &[u64], config: TrimConfig) -> Result<Trimmed, String> {
    let vocabulary = Vocabulary::read(tokenizer)?;
    let mut trimmed = tokenizer.clone();
    let named = id_places(&mut trimmed)?.into_iter().map(|id| token_id(id)).collect::<Result<Vec<_>, _>>()?;
    let mut kept = vocabulary.required(&named)?;

    // A token that the data lacks may still be a word that the model meets later. Vocabularies are sorted by frequency
    // in the corpus that they were made from, roughly, so a low id is the best guess of a useful one.
    let count = |id: u32| counts.get(id as usize).copied().unwrap_or(0);
    let mut candidates: Vec<u32> = vocabulary.tokens.keys().copied().collect();
    candidates.retain(|&id| count(id) > 0 || !is_placeholder(vocabulary.tokens[&id]));
    candidates.sort_by_key(|&id| Reverse(Some(count(id)).filter(|&count| count >= config.min_count)));
    for id in candidates {
        if kept.len() >= config.size {
            break;
        }
        let Some(parts) = vocabulary.parts(id) else { continue };
        let missing: BTreeSet<u32> = parts.into_iter().filter(|part| !kept.contains(part)).collect();
        if kept.len() + missing.len() <= config.size {
            kept.extend(missing);
        }
    }

    let new_ids: HashMap<u32, u32> = kept.iter().copied().zip(0..).collect();
    for (place, old_id) in id_places(&mut trimmed)?.into_iter().zip(named) {
        *place = json!(new_ids[&old_id]);
    }
    match trimmed.pointer_mut("/model/vocab") {
        Some(Value::Object(vocab)) => vocab.retain(|_, id| renumber(id, &new_ids)),
        Some(Value::Array(pieces)) => {
            let mut ids = 0..;
            pieces.retain(|_| ids.next().is_some_and(|id| new_ids.contains_key(&id)));
        }
        _ => {}
    }
    if let (Some(bpe), Some(Value::Array(list))) = (&vocabulary.bpe, trimmed.pointer_mut("/model/merges")) {
        let mut merges = bpe.merges.iter();
        list.retain(|_| merges.next().is_some_and(|merge| merge.iter().all(|id| kept.contains(id))));
    }
    Ok(Trimmed { tokenizer: trimmed, old_ids: kept.into_iter().collect() })
}

/// The tokens of a `tokenizer.json`, and how its model spells words with them.
struct Vocabulary<'a> {
    tokens: BTreeMap<u32, &'a str>,
    ids: HashMap<&'a str, u32>,
    /// Marks a token that continues a word, `##` in BERT; empty if nothing does.
    prefix: &'a str,
    /// Marks a token that ends a word; empty if nothing does.
    suffix: &'a str,
    unknown: Option<u32>,
    /// Whether a character that is no token is written as tokens like `<0x0A>`.
    byte_fallback: bool,
    /// None for other models.
    bpe: Option<Bpe>,
}

/// Byte pair encoding: the pair of neighbours that stands first in a list is merged, until no pair is in it.
struct Bpe {
    /// Left part, right part and what they become, by rank.
    merges: Vec<[u32; 3]>,
    /// Rank and result of a pair.
    ranks: HashMap<(u32, u32), (usize, u32)>,
    /// Whether a word that is a token needs no merges.
    ignore_merges: bool,
}

impl<'a> Vocabulary<'a> {
    fn read(tokenizer: &'a Value) -> Result<Self, String> {
        let model = &tokenizer["model"];
        let kind = model_type(model);
        let entries: Vec<(&str, u32)> = match (kind, &model["vocab"]) {
            ("WordPiece" | "BPE", Value::Object(vocab)) => {
                vocab.iter().map(|(token, id)| Ok((token.as_str(), token_id(id)?))).collect::<Result<_, String>>()?
            }
            ("Unigram", Value::Array(pieces)) => {
                pieces.iter().zip(0..).map(|(piece, id)| Ok((text(&piece[0])?, id))).collect::<Result<_, String>>()?
            }
            ("WordPiece" | "BPE" | "Unigram", other) => return Err(unexpected("the vocabulary of the model", other)),
            _ => return Err(format!("expected a WordPiece, BPE or Unigram model, found {kind}")),
        };
        let mut ids: HashMap<&str, u32> = entries.iter().copied().collect();
        let mut tokens: BTreeMap<u32, &str> = entries.into_iter().map(|(token, id)| (id, token)).collect();
        let end = tokens.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let (token, id) = (text(&token["content"])?, token_id(&token["id"])?);
            // The tokenizers library numbers added tokens by itself, after the model's.
            match ids.get(token) {
                Some(&same) if same == id => {}
                Some(other) => return Err(format!("expected the id {other} of the added token {token:?}, found {id}")),
                None if id < end => {
                    return Err(format!("expected an id from {end} for the added token {token:?}, found {id}"));
                }
                None => {
                    ids.insert(token, id);
                    tokens.insert(id, token);
                }
            }
        }
        let default_prefix = if kind == "WordPiece" { "##" } else { "" };
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or(default_prefix);
        Ok(Self {
            prefix,
            suffix: model["end_of_word_suffix"].as_str().unwrap_or_default(),
            unknown: model["unk_token"].as_str().and_then(|token| ids.get(token)).copied(),
            byte_fallback: model["byte_fallback"] == true,
            bpe: if kind == "BPE" { Some(Bpe::read(model, &ids, prefix)?) } else { None },
            tokens,
            ids,
        })
    }

    /// What must remain, whatever the data says; `named` are the ids that stand outside of the vocabulary.
    fn required(&self, named: &[u32]) -> Result<BTreeSet<u32>, String> {
        let mut required: BTreeSet<u32> = named.iter().copied().chain(self.unknown).collect();
        if let Some(id) = required.iter().find(|id| !self.tokens.contains_key(id)) {
            return Err(format!("expected a token with the id {id}, found none"));
        }
        // RoBERTa numbers positions from the pad token's id: it stays as it is if nothing before it is dropped.
        if let Some(&last) = required.range(..FIRST_IDS).next_back() {
            required.extend(self.tokens.range(..last).map(|(id, _)| id));
        }
        required.extend(self.tokens.iter().filter(|(_, token)| self.is_irreducible(token)).map(|(id, _)| id));
        Ok(required)
    }

    /// Whether smaller pieces cannot replace a token.
    fn is_irreducible(&self, token: &str) -> bool {
        let symbols = self.symbols(token);
        let is_byte = token.len() == "<0x00>".len() && token.starts_with("<0x") && token.ends_with('>');
        symbols.len() == 1
            || (self.byte_fallback && is_byte)
            || (!is_placeholder(token) && symbols.iter().any(|symbol| !self.ids.contains_key(symbol.as_str())))
    }

    /// The characters of a token, each as the token it would be at its place in a word.
    fn symbols(&self, token: &str) -> Vec<String> {
        let (prefix, token) = match token.strip_prefix(self.prefix) {
            Some(rest) if !rest.is_empty() => (self.prefix, rest),
            _ => ("", token),
        };
        let (token, suffix) = match token.strip_suffix(self.suffix) {
            Some(rest) if !rest.is_empty() => (rest, self.suffix),
            _ => (token, ""),
        };
        let mut symbols: Vec<String> = token.chars().map(|symbol| format!("{}{symbol}", self.prefix)).collect();
        if let Some((first, symbol)) = symbols.first_mut().zip(token.chars().next()) {
            *first = format!("{prefix}{symbol}");
        }
        symbols.last_mut().into_iter().for_each(|last| last.push_str(suffix));
        symbols
    }

    /// The tokens without which a token is never made, itself among them; none if it is never made anyway.
    ///
    /// For BPE these are all that occur while the token's characters are merged. With them kept, the same merges follow
    /// one another as before: those that remain keep their order, and the first that applied is still there.
    fn parts(&self, id: u32) -> Option<Vec<u32>> {
        let Some(bpe) = &self.bpe else { return Some(vec![id]) };
        let symbols = self.symbols(self.tokens.get(&id)?);
        let parts = symbols
            .iter()
            .map(|symbol| self.ids.get(symbol.as_str()).copied())
            .collect::<Option<Vec<_>>>()
            .and_then(|symbols| bpe.parts(id, symbols));
        parts.or(bpe.ignore_merges.then(|| vec![id]))
    }
}

impl Bpe {
    fn read(model: &Value, ids: &HashMap<&str, u32>, prefix: &str) -> Result<Self, String> {
        let list = model["merges"].as_array().ok_or_else(|| unexpected("a list of merges", &model["merges"]))?;
        let merge = |merge: &Value| {
            let pair = match merge {
                Value::String(pair) => pair.split_once(' '),
                pair => pair[0].as_str().zip(pair[1].as_str()),
            };
            let (left, right) = pair.ok_or_else(|| unexpected("a merge of two tokens", merge))?;
            let merged = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right));
            let id = |token: &str| {
                let expected = || format!("expected the token {token:?} of the merge {merge}, found none");
                ids.get(token).copied().ok_or_else(expected)
            };
            Ok([id(left)?, id(right)?, id(&merged)?])
        };
        let merges = list.iter().map(merge).collect::<Result<Vec<_>, String>>()?;
        let ranks = merges.iter().enumerate().map(|(rank, &[left, right, merged])| ((left, right), (rank, merged)));
        Ok(Self { ranks: ranks.collect(), merges, ignore_merges: model["ignore_merges"] == true })
    }

    /// All that `word` is merged to on its way to `token`; none if it ends as something else.
    fn parts(&self, token: u32, mut word: Vec<u32>) -> Option<Vec<u32>> {
        let mut parts = word.clone();
        let next = |word: &[u32]| {
            let pairs = word.windows(2).enumerate();
            pairs.filter_map(|(at, pair)| self.ranks.get(&(pair[0], pair[1])).map(|&(rank, to)| (rank, at, to))).min()
        };
        while let Some((_, at, merged)) = next(&word) {
            word.splice(at..at + 2, [merged]);
            parts.push(merged);
        }
        (word == [token]).then_some(parts)
    }
}

/// The type of a model. Older files do not name it; then it is told by what only one type has.
fn model_type(model: &Value) -> &str {
    match model["type"].as_str() {
        Some(kind) => kind,
        None if model["merges"].is_array() => "BPE",
        None if model["max_input_chars_per_word"].is_u64() => "WordPiece",
        None if model["vocab"].is_array() => "Unigram",
        None => "one of another type",
    }
}

/// Where a `tokenizer.json` names ids outside of the vocabulary.
fn id_places(tokenizer: &mut Value) -> Result<Vec<&mut Value>, String> {
    let mut places = Vec::new();
    for (key, value) in tokenizer.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            "added_tokens" => {
                places.extend(value.as_array_mut().into_iter().flatten().filter_map(|token| token.get_mut("id")));
            }
            "post_processor" if !value.is_null() => processor_ids(value, &mut places)?,
            "padding" => places.extend(value.get_mut("pad_id")),
            "model" => places.extend(value.get_mut("unk_id").filter(|id| !id.is_null())),
            _ => {}
        }
    }
    Ok(places)
}

fn processor_ids<'a>(processor: &'a mut Value, places: &mut Vec<&'a mut Value>) -> Result<(), String> {
    let kind = processor["type"].as_str().unwrap_or_default().to_owned();
    let known = ["TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence"];
    if !known.contains(&kind.as_str()) {
        return Err(format!("expected a post-processor of the types {}, found {kind:?}", known.join(", ")));
    }
    for (key, value) in processor.as_object_mut().into_iter().flatten() {
        match (kind.as_str(), key.as_str()) {
            ("BertProcessing" | "RobertaProcessing", "sep" | "cls") => places.extend(value.get_mut(1)),
            ("TemplateProcessing", "special_tokens") => {
                let tokens = value.as_object_mut().into_iter().flat_map(|tokens| tokens.values_mut());
                places.extend(tokens.filter_map(|token| token.get_mut("ids")?.as_array_mut()).flatten());
            }
            ("Sequence", "processors") => {
                for processor in value.as_array_mut().into_iter().flatten() {
                    processor_ids(processor, places)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Replaces an old id; false if its token is dropped.
fn renumber(id: &mut Value, new_ids: &HashMap<u32, u32>) -> bool {
    let new_id = token_id(id).ok().and_then(|id| new_ids.get(&id));
    new_id.into_iter().for_each(|&new_id| *id = json!(new_id));
    new_id.is_some()
}

/// Whether a token is one of BERT's `[unused0]`, `[unused1]`, …, which stand for nothing.
fn is_placeholder(token: &str) -> bool {
    let number = token.strip_prefix("[unused").and_then(|rest| rest.strip_suffix(']'));
    number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

fn token_id(value: &Value) -> Result<u32, String> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| unexpected("the id of a token", value))
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unexpected("the text of a token", value))
}

fn unexpected(expected: &str, found: &Value) -> String {
    match found {
        Value::Array(_) => format!("expected {expected}, found a list"),
        Value::Object(_) => format!("expected {expected}, found an object"),
        other => format!("expected {expected}, found {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trim(tokenizer: &Value, counts: &[u64], size: usize) -> Result<Trimmed, String> {
        super::trim(tokenizer, counts, TrimConfig { size, min_count: 2 })
    }

    /// The vocabulary of `tokens`, which blanks separate, numbered from 0.
    fn vocab(tokens: &str) -> Value {
        tokens.split(' ').zip(0..).map(|(token, id)| (token.to_owned(), json!(id))).collect()
    }

    fn word_piece() -> Value {
        let tokens = "[PAD] [unused0] a b [unused1] ##a ##b ba ##ab [UNK] [CLS] ab abab ##aba";
        json!({
            "padding": {"pad_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [{"id": 0, "content": "[PAD]"}, {"id": 10, "content": "[CLS]", "special": true}],
            "post_processor": {"type": "TemplateProcessing", "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [10]}}},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab(tokens)},
        })
    }

    #[test]
    fn word_piece_keeps_characters_then_frequent_tokens_then_low_ids() {
        // Of ba, ##ab, ab, abab and ##aba, `abab` occurs most, then `ab` and `##aba`; `##ab` occurs too seldom.
        let counts = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 3, 2];
        let old_ids = |size| trim(&word_piece(), &counts, size).unwrap().old_ids;
        assert_eq!(old_ids(0), [0, 2, 3, 5, 6, 9, 10]);
        assert_eq!(old_ids(8), [0, 2, 3, 5, 6, 9, 10, 12]);
        assert_eq!(old_ids(9), [0, 2, 3, 5, 6, 9, 10, 11, 12]);
        assert_eq!(old_ids(11), [0, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13]);
        assert_eq!(old_ids(99), [0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13]);

        let mut expected = word_piece();
        expected["model"]["vocab"] = vocab("[PAD] a b ##a ##b [UNK] [CLS] ab abab");
        expected["added_tokens"][1]["id"] = json!(6);
        expected["post_processor"]["special_tokens"]["[CLS]"]["ids"] = json!([6]);
        assert_eq!(trim(&word_piece(), &counts, 9).unwrap().tokenizer, expected);
    }

    #[test]
    fn a_token_that_characters_cannot_spell_remains() {
        let mut tokenizer = word_piece();
        tokenizer["model"]["vocab"] = vocab("[PAD] aa ##aa a ##a ab ##ba _ _1 [UNK] [CLS]");
        assert_eq!(trim(&tokenizer, &[], 0).unwrap().old_ids, [0, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    fn bpe(merges: &Value) -> Value {
        let tokens = "<s> [unused0] <pad> </s> a b c d ab bc abc cd abcd";
        let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 3], "cls": ["<s>", 0]});
        json!({
            "added_tokens": [{"id": 2, "content": "<pad>"}, {"id": 13, "content": "<mask>"}],
            "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, roberta]},
            "model": {"unk_token": null, "vocab": vocab(tokens), "merges": merges},
        })
    }

    #[test]
    fn bpe_keeps_the_merges_that_lead_to_a_token() {
        // `ab c` comes after `a bc` but is the merge that makes `abc`, since `a b` comes first. `abcd` is never made.
        let merges = json!(["a b", "b c", "a bc", "ab c", "c d", "ab cd"]);
        let arrays = json!([["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"], ["c", "d"], ["ab", "cd"]]);
        let counts = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 0];
        let old_ids = |size| trim(&bpe(&merges), &counts, size).unwrap().old_ids;
        assert_eq!(old_ids(0), [0, 1, 2, 3, 4, 5, 6, 7, 13]);
        assert_eq!(old_ids(10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 13], "no room for `abc` with its part");
        assert_eq!(old_ids(11), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13]);

        let mut expected = bpe(&json!(["a b", "ab c"]));
        expected["model"]["vocab"] = vocab("<s> [unused0] <pad> </s> a b c d ab abc");
        expected["added_tokens"][1]["id"] = json!(10);
        assert_eq!(trim(&bpe(&merges), &counts, 11).unwrap().tokenizer, expected, "the pad token keeps its id");
        expected["model"]["merges"] = json!([["a", "b"], ["ab", "c"]]);
        assert_eq!(trim(&bpe(&arrays), &counts, 11).unwrap().tokenizer, expected);
    }

    #[test]
    fn bpe_with_a_prefix_and_a_suffix() {
        let mut tokenizer = bpe(&json!(["a ##b", "##b ##c.", "ab ##c."]));
        tokenizer["model"]["vocab"] = vocab("<s> . <pad> </s> a ##b ##c. ab ##bc. abc.");
        tokenizer["model"]["continuing_subword_prefix"] = json!("##");
        tokenizer["model"]["end_of_word_suffix"] = json!(".");
        let trimmed = trim(&tokenizer, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 5], 10).unwrap();
        assert_eq!(trimmed.old_ids, [0, 1, 2, 3, 4, 5, 6, 7, 9, 13]);
        assert_eq!(trimmed.tokenizer["model"]["merges"], json!(["a ##b", "ab ##c."]));
    }

    #[test]
    fn unigram_keeps_scores_and_renumbers_the_unknown_token() {
        let pieces = "_ _ab a b ab ba abb bb <unk>".split(' ').zip(0..).map(|(piece, rank)| json!([piece, -rank]));
        let vocab = pieces.collect::<Vec<_>>();
        let tokenizer = json!({"model": {"type": "Unigram", "unk_id": 8, "vocab": vocab}});
        let mut expected = tokenizer.clone();
        expected["model"]["vocab"] = json!([["_", 0], ["a", -2], ["b", -3], ["ba", -5], ["bb", -7], ["<unk>", -8]]);
        expected["model"]["unk_id"] = json!(5);
        let trimmed = trim(&tokenizer, &[0, 1, 0, 0, 0, 2, 0, 5], 6).unwrap();
        assert_eq!((trimmed.old_ids, trimmed.tokenizer), (vec![0, 2, 3, 5, 7, 8], expected));
    }

    #[test]
    fn errors_say_what_was_expected_and_found() {
        let failure = |pointer: &str, value: Value| {
            let mut tokenizer = bpe(&json!(["a b"]));
            *tokenizer.pointer_mut(pointer).unwrap() = value;
            trim(&tokenizer, &[], 0).unwrap_err()
        };
        let model = json!({"type": "WordLevel", "vocab": {}});
        assert_eq!(failure("/model", model), "expected a WordPiece, BPE or Unigram model, found WordLevel");
        assert_eq!(failure("/model/vocab", json!([])), "expected the vocabulary of the model, found a list");
        assert_eq!(failure("/model/vocab/a", json!(-1)), "expected the id of a token, found -1");
        assert_eq!(
            failure("/model/merges/0", json!("b a")),
            "expected the token \"ba\" of the merge \"b a\", found none"
        );
        assert_eq!(failure("/model/merges/0", json!("ab")), "expected a merge of two tokens, found \"ab\"");
        assert_eq!(failure("/added_tokens/0/id", json!(3)), "expected the id 2 of the added token \"<pad>\", found 3");
        assert_eq!(
            failure("/added_tokens/1/id", json!(12)),
            "expected an id from 13 for the added token \"<mask>\", found 12"
        );
        assert_eq!(
            failure("/post_processor/processors/1/sep/1", json!(40)),
            "expected a token with the id 40, found none"
        );
        assert!(failure("/post_processor/type", json!("Other")).ends_with("Sequence, found \"Other\""));
    }
}
