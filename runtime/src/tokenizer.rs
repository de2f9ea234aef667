//! Text to token ids, the same for training and for inference: a Hugging Face `tokenizer.json`, truncation, no padding
//! (padding belongs to the batch, see [`crate::batch`]).

use std::path::Path;

use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::{
    bundle::read_capped,
    error::{Error, Result},
};

/// A text as the model reads it, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids: `[tokens]`.
    pub input_ids: Vec<u32>,
    /// 0 for the first text of a pair, 1 for the second: `[tokens]`.
    pub token_type_ids: Vec<u32>,
    /// Whether tokens were cut off at the maximum length.
    pub truncated: bool,
}

/// A Hugging Face fast tokenizer that truncates to a fixed maximum length.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that it may configure are replaced: texts are cut to `max_length`
    /// tokens, special ones included, and not padded.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no tokenizer; [`Error::Tokenizer`] if `max_length` leaves no room for text.
    pub fn open(path: &Path, max_length: usize) -> Result<Self> {
        let content = read_capped(path)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&content)
            .map_err(|error| Error::format(path, "a Hugging Face tokenizer.json", error.to_string()))?;
        let special = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if max_length <= special {
            return Err(Error::Tokenizer(format!(
                "max-length {max_length} leaves no room for text: {special} tokens are special ones"
            )));
        }
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams {
                max_length,
                stride: 0,
                strategy: TruncationStrategy::LongestFirst,
                direction: TruncationDirection::Right,
            }))
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        let tokenizer = Self { inner };
        // The model answers from the first token, so there must be one even in an empty text.
        if tokenizer.encode("")?.input_ids.is_empty() {
            return Err(Error::format(path, "a post-processor that adds special tokens", "none"));
        }
        Ok(tokenizer)
    }

    /// Encodes one text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer refuses it, such as a word-level one without an unknown token.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(Encoding {
            input_ids: encoding.get_ids().to_vec(),
            token_type_ids: encoding.get_type_ids().to_vec(),
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }

    /// The token that an id stands for; ids outside of the vocabulary give `<id>`.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id plus one: the number of rows that the model's word embeddings must have.
    pub fn id_bound(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
    }
}
