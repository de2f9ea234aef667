//! `tokenizer_config.json`: what other programs must know so that they read the ids of `tokenizer.json`.
//!
//! transformers builds a tokenizer of its own from the class that is named there, or, without one, from `model_type`, and
//! whatever differs from that class's defaults is lost: a cased model would be lower-cased. `PreTrainedTokenizerFast` is
//! the class that takes `tokenizer.json` as it is, in transformers 4 and 5. `cargo xtask interop` compares the ids.

use std::path::Path;

use nimbert::TruncationSide;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::EncoderConfig,
};

/// What is not in `tokenizer.json`.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenizerSettings {
    max_length: usize,
    pad_token_id: u32,
    has_token_types: bool,
    truncation_side: TruncationSide,
}

impl TokenizerSettings {
    pub(super) fn new(config: &EncoderConfig, max_length: usize, truncation_side: TruncationSide) -> Self {
        let has_token_types = config.type_vocab_size > 0;
        Self { max_length, pad_token_id: config.pad_token_id, has_token_types, truncation_side }
    }
}

/// The content of `tokenizer_config.json` for `tokenizer`, a `tokenizer.json` that lies at `path`.
///
/// # Errors
/// [`Error::Model`] if it is none, or has no token with the model's pad id.
pub(super) fn tokenizer_config(tokenizer: &[u8], path: &Path, settings: TokenizerSettings) -> Result<Value> {
    let json: Value = serde_json::from_slice(tokenizer)
        .map_err(|error| Error::model(path, "a Hugging Face tokenizer.json", error.to_string()))?;
    let pad = token_of(&json, settings.pad_token_id).ok_or_else(|| {
        Error::model(path, format!("a token with the pad_token_id {} of config.json", settings.pad_token_id), "none")
    })?;
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    put("tokenizer_class", "PreTrainedTokenizerFast".into());
    put("model_max_length", settings.max_length.into());
    let types = settings.has_token_types.then_some("token_type_ids");
    put("model_input_names", ["input_ids"].into_iter().chain(types).chain(["attention_mask"]).collect());
    // Else a direction that tokenizer.json has for its own padding or truncation would count.
    put("padding_side", "right".into());
    put("truncation_side", json_of(settings.truncation_side));
    put("clean_up_tokenization_spaces", false.into());
    put("pad_token", pad.into());
    let [cls, sep] = frame(&json["post_processor"]);
    let mask = ["[MASK]", "<mask>"].into_iter().find(|token| is_added(&json, token)).map(str::to_owned);
    for (key, token) in [("cls_token", cls), ("sep_token", sep), ("unk_token", unknown(&json)), ("mask_token", mask)] {
        // A token that is named but was none of the added ones would become one, and texts that spell it out change.
        if let Some(token) = token.filter(|token| is_added(&json, token)) {
            put(key, token.into());
        }
    }
    if json["pre_tokenizer"]["type"] == "ByteLevel" {
        // transformers 4 sets it anew, to false unless it is said here.
        put("add_prefix_space", json["pre_tokenizer"]["add_prefix_space"].clone());
    }
    Ok(Value::Object(config))
}

fn json_of(side: TruncationSide) -> Value {
    serde_json::to_value(side).expect("a side is a string")
}

fn added_tokens(json: &Value) -> impl Iterator<Item = &Value> {
    json["added_tokens"].as_array().into_iter().flatten()
}

fn is_added(json: &Value, token: &str) -> bool {
    added_tokens(json).any(|added| added["content"] == token)
}

/// The token with that id.
fn token_of(json: &Value, id: u32) -> Option<String> {
    let added = added_tokens(json).find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
    let of_model = match &json["model"]["vocab"] {
        Value::Object(vocab) => vocab.iter().find(|(_, value)| **value == id).map(|(token, _)| token.as_str()),
        Value::Array(pieces) => pieces.get(id as usize).and_then(|piece| piece[0].as_str()),
        _ => None,
    };
    added.or(of_model).map(str::to_owned)
}

/// The tokens before and behind a text.
fn frame(post_processor: &Value) -> [Option<String>; 2] {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match post_processor["type"].as_str() {
        Some("BertProcessing" | "RobertaProcessing") => {
            [text(&post_processor["cls"][0]), text(&post_processor["sep"][0])]
        }
        Some("TemplateProcessing") => {
            let parts = post_processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
            let sequence = parts.iter().position(|part| part.get("Sequence").is_some()).unwrap_or(0);
            let special = |part: &Value| text(&part["SpecialToken"]["id"]);
            let first = parts[..sequence].first().and_then(special);
            [first, parts[sequence.min(parts.len())..].iter().rev().find_map(special)]
        }
        Some("Sequence") => {
            let parts = post_processor["processors"].as_array().into_iter().flatten();
            parts.map(frame).find(|[cls, _]| cls.is_some()).unwrap_or_default()
        }
        _ => [None, None],
    }
}

/// The token for what the vocabulary has not.
fn unknown(json: &Value) -> Option<String> {
    let model = &json["model"];
    let of_unigram = || model["vocab"].get(model["unk_id"].as_u64()? as usize)?[0].as_str();
    let named = model["unk_token"].as_str().or_else(of_unigram);
    named.or_else(|| ["[UNK]", "<unk>"].into_iter().find(|token| is_added(json, token))).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(tokenizer: &Value, pad_token_id: u32, has_token_types: bool) -> Result<Value> {
        let settings =
            TokenizerSettings { max_length: 7, pad_token_id, has_token_types, truncation_side: TruncationSide::Right };
        tokenizer_config(tokenizer.to_string().as_bytes(), Path::new("t"), settings)
    }

    #[test]
    fn tokens_are_found_where_the_tokenizer_has_them() {
        let added: Vec<Value> = ["[PAD]", "[CLS]", "[SEP]"]
            .iter()
            .zip(0..)
            .map(|(token, id)| json!({ "id": id, "content": token }))
            .collect();
        let word_piece = json!({
            "added_tokens": added,
            "post_processor": { "type": "TemplateProcessing", "single": [
                { "SpecialToken": { "id": "[CLS]" } }, { "Sequence": { "id": "A" } }, { "SpecialToken": { "id": "[SEP]" } }
            ] },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "vocab": { "[PAD]": 0, "a": 5 } },
        });
        let expected = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 7,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "padding_side": "right", "truncation_side": "right", "clean_up_tokenization_spaces": false,
            // [UNK] is none of the added tokens.
            "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        });
        assert_eq!(config(&word_piece, 0, true).unwrap(), expected);
        assert_eq!(config(&word_piece, 5, false).unwrap()["pad_token"], "a");
        assert!(config(&word_piece, 9, true).unwrap_err().to_string().contains("the pad_token_id 9"));
        let unigram = json!({
            "added_tokens": [{ "id": 0, "content": "<s>" }, { "id": 1, "content": "<unk>" }, { "id": 2, "content": "<mask>" }],
            "post_processor": { "type": "Sequence", "processors": [
                { "type": "ByteLevel" }, { "type": "RobertaProcessing", "sep": ["</s>", 3], "cls": ["<s>", 0] }
            ] },
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": true },
            "model": { "type": "Unigram", "unk_id": 1, "vocab": [["<s>", 0.0], ["<unk>", 0.0], ["<pad>", 0.0]] },
        });
        let config = config(&unigram, 2, false).unwrap();
        assert_eq!((&config["pad_token"], &config["unk_token"]), (&json!("<mask>"), &json!("<unk>")));
        assert_eq!((&config["cls_token"], config.get("sep_token")), (&json!("<s>"), None));
        assert_eq!((&config["mask_token"], &config["add_prefix_space"]), (&json!("<mask>"), &json!(true)));
        assert_eq!(config["model_input_names"], json!(["input_ids", "attention_mask"]));
    }
}
