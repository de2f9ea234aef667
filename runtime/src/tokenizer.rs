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

/// What a classifier reads: a text, or a pair of them, such as a question and an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextInput<'a> {
    /// The text, or the first of two.
    pub text: &'a str,
    /// The second of two.
    pub pair: Option<&'a str>,
}

impl<'a, S: AsRef<str> + ?Sized> From<&'a S> for TextInput<'a> {
    fn from(text: &'a S) -> Self {
        Self { text: text.as_ref(), pair: None }
    }
}

impl<'a> From<(&'a str, &'a str)> for TextInput<'a> {
    fn from((text, pair): (&'a str, &'a str)) -> Self {
        Self { text, pair: Some(pair) }
    }
}

/// A Hugging Face fast tokenizer that cuts texts at a fixed maximum length, or into windows of that length.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    /// Tokens that two windows share; none: what is behind the first window is dropped.
    stride: Option<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that it may configure are replaced: texts are cut to `max_length`
    /// tokens, special ones included, and not padded.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no tokenizer; [`Error::Tokenizer`] if `max_length` leaves no room for text.
    pub fn open(path: &Path, max_length: usize) -> Result<Self> {
        let content = read_capped(path)?;
        let mut inner =
            parse(&content).map_err(|error| Error::format(path, "a Hugging Face tokenizer.json", error.to_string()))?;
        inner.with_padding(None);
        let mut tokenizer = Self { inner, max_length, stride: None };
        let special = tokenizer.special_tokens(false);
        if max_length <= special {
            return Err(Error::Tokenizer(format!(
                "max-length {max_length} leaves no room for text: {special} tokens are special ones"
            )));
        }
        tokenizer.set_truncation()?;
        // The model answers from the first token, so there must be one even in an empty text.
        if tokenizer.encode("")?.input_ids.is_empty() {
            return Err(Error::format(path, "a post-processor that adds special tokens", "none"));
        }
        Ok(tokenizer)
    }

    /// The same tokenizer, which reads long texts in windows that share `stride` tokens instead of cutting them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a window would have nothing but tokens of the one before it.
    pub fn with_stride(mut self, stride: usize) -> Result<Self> {
        let room = self.max_length - self.special_tokens(false);
        if stride >= room {
            return Err(Error::Tokenizer(format!(
                "windows share {stride} tokens: expected less than the {room} that a window has room for"
            )));
        }
        self.inner.with_truncation(None).map_err(|error| Error::Tokenizer(error.to_string()))?;
        self.stride = Some(stride);
        Ok(self)
    }

    /// The same tokenizer, which cuts nothing: for counting.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn without_truncation(mut self) -> Result<Self> {
        self.inner.with_truncation(None).map_err(|error| Error::Tokenizer(error.to_string()))?;
        self.max_length = usize::MAX;
        Ok(self)
    }

    fn special_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    fn set_truncation(&mut self) -> Result<()> {
        let truncation = TruncationParams {
            max_length: self.max_length,
            stride: 0,
            strategy: TruncationStrategy::LongestFirst,
            direction: TruncationDirection::Right,
        };
        self.inner.with_truncation(Some(truncation)).map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(())
    }

    /// Encodes one text, or a pair, cut at the maximum length.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer refuses it, such as a word-level one without an unknown token.
    pub fn encode<'a>(&self, input: impl Into<TextInput<'a>>) -> Result<Encoding> {
        let input = input.into();
        match self.stride {
            None => Ok(to_encoding(&self.encode_cut(input)?)),
            Some(stride) => Ok(self.encode_windows(input, stride)?.remove(0)),
        }
    }

    /// Encodes one text, or a pair: one window, or as many as a long text needs if the tokenizer has a stride.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] as for [`Tokenizer::encode`]; with a stride, a pair is refused.
    pub fn windows<'a>(&self, input: impl Into<TextInput<'a>>) -> Result<Vec<Encoding>> {
        let input = input.into();
        match self.stride {
            None => Ok(vec![to_encoding(&self.encode_cut(input)?)]),
            Some(stride) => self.encode_windows(input, stride),
        }
    }

    fn encode_windows(&self, input: TextInput<'_>, stride: usize) -> Result<Vec<Encoding>> {
        let refused = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
        if input.pair.is_some() {
            return Err(Error::Tokenizer("expected one text, found a pair: pairs are not read in windows".to_owned()));
        }
        // The library's own truncation stops reading soon behind the first window, so the text is cut here.
        let mut first = self.inner.encode_fast(input.text, false).map_err(refused)?;
        first.truncate(self.max_length - self.special_tokens(false), stride, TruncationDirection::Right);
        let rest = first.take_overflowing();
        let frame = |window| self.inner.post_process(window, None, true).map_err(refused);
        // With windows nothing is lost.
        let encoding = |window| Ok(Encoding { truncated: false, ..to_encoding(&frame(window)?) });
        std::iter::once(first).chain(rest).map(encoding).collect()
    }

    fn encode_cut(&self, input: TextInput<'_>) -> Result<tokenizers::Encoding> {
        let encoded = match input.pair {
            None => self.inner.encode_fast(input.text, true),
            Some(pair) => {
                let special = self.special_tokens(true);
                if self.max_length <= special {
                    let max_length = self.max_length;
                    return Err(Error::Tokenizer(format!(
                        "max-length {max_length} leaves no room for a pair: {special} tokens are special ones"
                    )));
                }
                self.inner.encode_fast((input.text, pair), true)
            }
        };
        encoded.map_err(|error| Error::Tokenizer(error.to_string()))
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

/// Parses `tokenizer.json`. The library alone takes any model by trying one type after the other, for which it first
/// builds a tree of the whole vocabulary: several times the time and the memory of parsing the type that is there.
fn parse(content: &[u8]) -> serde_json::Result<tokenizers::Tokenizer> {
    type WordPieceTokenizer = tokenizers::TokenizerImpl<
        tokenizers::models::wordpiece::WordPiece,
        tokenizers::NormalizerWrapper,
        tokenizers::PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >;
    #[derive(serde::Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        r#type: Option<String>,
    }
    let File { model } = serde_json::from_slice(content)?;
    match model.r#type.as_deref() {
        Some("WordPiece") => Ok(serde_json::from_slice::<WordPieceTokenizer>(content)?.into()),
        _ => serde_json::from_slice(content),
    }
}

fn to_encoding(encoding: &tokenizers::Encoding) -> Encoding {
    Encoding {
        input_ids: encoding.get_ids().to_vec(),
        token_type_ids: encoding.get_type_ids().to_vec(),
        truncated: !encoding.get_overflowing().is_empty(),
    }
}
