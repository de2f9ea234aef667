//! Text to token ids, the same for training and for inference: a Hugging Face `tokenizer.json`, truncation, no padding
//! (padding belongs to the batch, see [`crate::batch`]).

use std::{path::Path, sync::OnceLock};

use serde::{Deserialize, Serialize};
use tokenizers::{
    PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, utils::truncation::truncate_encodings,
};

use crate::{
    bundle::read_tokenizer,
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

/// At which end a text is cut that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TruncationSide {
    /// What is behind the last token that fits is dropped.
    #[default]
    Right,
    /// What is before the first token that fits is dropped.
    Left,
}

/// What becomes of a text that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Truncation {
    /// It is cut as the bundle says, or read in windows.
    #[default]
    OfBundle,
    /// It is cut at that side, unless it is read in windows.
    At(TruncationSide),
    /// It is an error, unless it is read in windows.
    Refuse,
}

/// A Hugging Face fast tokenizer that cuts texts at a fixed maximum length, or into windows of that length.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    /// Tokens that two windows share; none: what is behind the first window is dropped.
    stride: Option<usize>,
    side: TruncationSide,
    /// The same without truncation, made when a text is to be looked at whole: the library's own truncation stops reading
    /// when it has enough of the beginning.
    whole: OnceLock<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that it may configure are replaced: texts are cut to `max_length`
    /// tokens, special ones included, and not padded.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no tokenizer; [`Error::Tokenizer`] if `max_length` leaves no room for text.
    pub fn open(path: &Path, max_length: usize) -> Result<Self> {
        let content = read_tokenizer(path)?;
        let mut inner =
            parse(&content).map_err(|error| Error::format(path, "a Hugging Face tokenizer.json", error.to_string()))?;
        inner.with_padding(None);
        let mut tokenizer =
            Self { inner, max_length, stride: None, side: TruncationSide::Right, whole: OnceLock::new() };
        tokenizer.room(false)?;
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

    /// The same tokenizer, which cuts texts at that side.
    #[must_use]
    pub fn with_truncation_side(self, side: TruncationSide) -> Self {
        Self { side, ..self }
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
        Ok(self.windows(input)?.remove(0))
    }

    /// Encodes one text, or a pair: one window, or as many as a long text needs if the tokenizer has a stride.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] as for [`Tokenizer::encode`]; with a stride, a pair is refused.
    pub fn windows<'a>(&self, input: impl Into<TextInput<'a>>) -> Result<Vec<Encoding>> {
        self.windows_with(input, Truncation::OfBundle)
    }

    /// The same, and says what becomes of a text that is too long for one window.
    ///
    /// # Errors
    /// Those of [`Tokenizer::windows`]; [`Error::TooLong`] with the number of its tokens.
    pub fn windows_with<'a>(&self, input: impl Into<TextInput<'a>>, truncation: Truncation) -> Result<Vec<Encoding>> {
        let input = input.into();
        let side = match (self.stride, truncation) {
            (Some(stride), _) => return self.encode_windows(input, stride),
            (None, Truncation::OfBundle) => Some(self.side),
            (None, Truncation::At(side)) => Some(side),
            (None, Truncation::Refuse) => None,
        };
        match side {
            Some(TruncationSide::Right) => Ok(vec![to_encoding(&self.encode_cut(input)?)]),
            Some(TruncationSide::Left) => Ok(vec![self.encode_end(input)?]),
            None => {
                let whole = to_encoding(&self.whole()?.encode_fast(pair_input(input), true).map_err(refused)?);
                match whole.input_ids.len() {
                    tokens if tokens > self.max_length => Err(Error::TooLong { tokens, limit: self.max_length }),
                    _ => Ok(vec![whole]),
                }
            }
        }
    }

    fn whole(&self) -> Result<&tokenizers::Tokenizer> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let mut whole = self.inner.clone();
        whole.with_truncation(None).map_err(refused)?;
        Ok(self.whole.get_or_init(|| whole))
    }

    /// A text, or a pair, of which what is too long is cut at the beginning.
    fn encode_end(&self, input: TextInput<'_>) -> Result<Encoding> {
        let whole = self.whole()?;
        let encode = |text: &str, type_id: u32| {
            let mut encoding = whole.encode_fast(text, false).map_err(refused)?;
            encoding.set_type_ids(vec![type_id; encoding.get_ids().len()]);
            Ok::<_, Error>(encoding)
        };
        let (first, pair) = (encode(input.text, 0)?, input.pair.map(|pair| encode(pair, 1)).transpose()?);
        let before = first.get_ids().len() + pair.as_ref().map_or(0, |pair| pair.get_ids().len());
        let max_length = self.room(pair.is_some())?;
        let params = TruncationParams {
            max_length,
            stride: 0,
            strategy: TruncationStrategy::LongestFirst,
            direction: TruncationDirection::Left,
        };
        let (first, pair) = truncate_encodings(first, pair, &params).map_err(refused)?;
        let encoding = to_encoding(&whole.post_process(first, pair, true).map_err(refused)?);
        Ok(Encoding { truncated: before > max_length, ..encoding })
    }

    /// Tokens that are left for a text, or a pair, beside the special ones.
    fn room(&self, pair: bool) -> Result<usize> {
        let (special, max_length) = (self.special_tokens(pair), self.max_length);
        if max_length <= special {
            let what = if pair { "a pair" } else { "text" };
            return Err(Error::Tokenizer(format!(
                "max-length {max_length} leaves no room for {what}: {special} tokens are special ones"
            )));
        }
        Ok(max_length - special)
    }

    fn encode_windows(&self, input: TextInput<'_>, stride: usize) -> Result<Vec<Encoding>> {
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
        self.room(input.pair.is_some())?;
        self.inner.encode_fast(pair_input(input), true).map_err(refused)
    }

    /// The token that an id stands for; ids outside of the vocabulary give `<id>`.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    /// Whether some token has that id.
    pub fn has_id(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
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

fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

fn pair_input(input: TextInput<'_>) -> tokenizers::EncodeInput<'_> {
    match input.pair {
        None => input.text.into(),
        Some(pair) => (input.text, pair).into(),
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
