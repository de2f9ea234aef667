//! Text to token ids, the same for training and for inference: a Hugging Face `tokenizer.json`, truncation, no padding
//! (padding belongs to the batch, see [`crate::batch`]).
//!
//! A text is read in pieces (`pieces`), from the side on which it is kept, until the model's tokens are found: the library
//! would need up to 300 times the size of a text in memory. What the library does not survive is refused by
//! `limits`.

mod limits;
mod pieces;
mod read;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokenizers::{
    PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, utils::truncation::truncate_encodings,
};

use self::pieces::Cuts;

use crate::{
    error::{Error, Result},
    file::read_capped,
    guard::guarded,
};

/// No tokenizer.json may be larger, in bytes: one of 250,000 words has 17 MB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// What the library needs of memory for a byte of a piece, measured: 56 of one long word, 220 of words of one letter.
const MEMORY_A_BYTE: u64 = 300;
/// Pieces have so many bytes for each token that is wanted, so that one is enough as a rule.
const BYTES_A_TOKEN: usize = 16;
/// But at least so many bytes and at most: a call costs some microseconds, and memory.
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 15;
/// A piece that is larger is read alone, whatever other threads have to read.
const LARGE_PIECE: usize = 1 << 18;
static LARGE: Mutex<()> = Mutex::new(());

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
    cuts: Cuts,
    max_length: usize,
    /// Tokens that two windows share; none: what is behind the first window is dropped.
    stride: Option<usize>,
    side: TruncationSide,
}

/// The tokens of a text, special ones not included.
struct Tokens {
    /// Those that are kept.
    ids: Vec<u32>,
    /// How many there are, as far as they were counted.
    total: usize,
}

/// Which tokens of a text are kept: so many of the side that is not cut.
#[derive(Debug, Clone, Copy)]
struct Kept {
    side: TruncationSide,
    count: usize,
    /// Whether all are counted; otherwise only whether there are more.
    counts_all: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that it may configure are replaced: texts are cut to `max_length`
    /// tokens, special ones included, and not padded.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no tokenizer, or one that no classifier needs and that would take too much
    /// time or memory; [`Error::Tokenizer`] if `max_length` leaves no room for text.
    pub fn open(path: &Path, max_length: usize) -> Result<Self> {
        Self::parse(path, &read_capped(path, MAX_TOKENIZER_BYTES)?, max_length)
    }

    /// The same from the bytes of the file `path`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`] but [`Error::Io`].
    pub fn parse(path: &Path, content: &[u8], max_length: usize) -> Result<Self> {
        let read::Parsed { tokenizer: mut inner, cuts } = read::parse(path, content)?;
        inner.with_padding(None).with_truncation(None).map_err(refused)?;
        let tokenizer = Self { inner, cuts, max_length, stride: None, side: TruncationSide::Right };
        tokenizer.room(false)?;
        // The model answers from the first token, so there must be one even in an empty text.
        if tokenizer.encode("")?.input_ids.is_empty() {
            return Err(Error::format(path, "a post-processor that adds special tokens", "none"));
        }
        Ok(tokenizer)
    }

    /// The same tokenizer, which reads long texts in windows that share `stride` tokens instead of cutting them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if windows would share more than three quarters of their tokens: a text would be read many times.
    pub fn with_stride(mut self, stride: usize) -> Result<Self> {
        let room = self.room(false)?;
        if stride > room / 4 * 3 {
            return Err(Error::Tokenizer(format!(
                "windows share {stride} tokens: expected at most {}, three quarters of the {room} that a window has room for",
                room / 4 * 3
            )));
        }
        self.stride = Some(stride);
        Ok(self)
    }

    /// The same tokenizer, which cuts texts at that side.
    #[must_use]
    pub fn with_truncation_side(self, side: TruncationSide) -> Self {
        Self { side, ..self }
    }

    /// The same tokenizer, which cuts nothing: for counting.
    #[must_use]
    pub fn without_truncation(self) -> Self {
        Self { max_length: usize::MAX, ..self }
    }

    fn special_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
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
        // The library panics at some texts, if its file says what it should not.
        guarded(|| match (self.stride, truncation) {
            (Some(stride), _) => self.encode_windows(input, stride),
            (None, Truncation::OfBundle) => Ok(vec![self.encode_cut(input, self.side)?]),
            (None, Truncation::At(side)) => Ok(vec![self.encode_cut(input, side)?]),
            (None, Truncation::Refuse) => Ok(vec![self.encode_whole(input)?]),
        })
        .map_err(|panic| Error::Tokenizer(format!("it panics: {panic}")))?
    }

    /// An estimate of the most memory that encoding a text needs, in bytes.
    pub(crate) fn memory(&self, text: &str) -> u64 {
        let longest = self.cuts.pieces(text, *PIECE_BYTES.end()).iter().map(|piece| piece.len()).max();
        // Of windows all ids are kept until they are run: 12 bytes a token, as often as it is in one.
        let windows = self.stride.map_or(0, |_| text.len() as u64 * 4 * 12);
        longest.unwrap_or(0) as u64 * MEMORY_A_BYTE + windows
    }

    /// A text, or a pair, of which what is too long is cut on one side.
    fn encode_cut(&self, input: TextInput<'_>, side: TruncationSide) -> Result<Encoding> {
        let room = self.room(input.pair.is_some())?;
        let Some(pair) = input.pair else {
            let mut text = self.tokens(input.text, Kept { side, count: room, counts_all: false })?;
            cut(&mut text.ids, room, side);
            return Ok(Encoding { truncated: text.total > room, ..self.finish(text.ids, None)? });
        };
        // How much of one text is kept depends on how long the other is; of two that both are longer than all that is kept,
        // on which is the longer one: that one keeps a token more.
        let kept = Kept { side, count: room + 2, counts_all: true };
        let (mut first, mut second) = (self.tokens(input.text, kept)?, self.tokens(pair, kept)?);
        for text in [&mut first, &mut second] {
            cut(&mut text.ids, kept.count, side);
        }
        if first.ids.len() == second.ids.len() && first.total != second.total {
            let shorter = if first.total < second.total { &mut first } else { &mut second };
            cut(&mut shorter.ids, kept.count - 1, side);
        }
        let params = TruncationParams {
            max_length: room,
            stride: 0,
            strategy: TruncationStrategy::LongestFirst,
            direction: match side {
                TruncationSide::Right => TruncationDirection::Right,
                TruncationSide::Left => TruncationDirection::Left,
            },
        };
        let (one, other) = (of_ids(first.ids, 0), of_ids(second.ids, 1));
        let (mut one, other) = truncate_encodings(one, Some(other), &params).map_err(refused)?;
        let mut other = other.expect("a pair stays one");
        // The library would join each part that was cut off one with each that was cut off the other.
        one.take_overflowing();
        other.take_overflowing();
        let encoding = self.inner.post_process(one, Some(other), true).map_err(refused)?;
        Ok(Encoding { truncated: first.total + second.total > room, ..to_encoding(&encoding) })
    }

    /// A text, or a pair, that must not be too long.
    fn encode_whole(&self, input: TextInput<'_>) -> Result<Encoding> {
        let kept = Kept { side: TruncationSide::Right, count: self.max_length, counts_all: true };
        let first = self.tokens(input.text, kept)?;
        let pair = input.pair.map(|pair| self.tokens(pair, kept)).transpose()?;
        let tokens = first.total + pair.as_ref().map_or(0, |pair| pair.total) + self.special_tokens(pair.is_some());
        if tokens > self.max_length {
            return Err(Error::TooLong { tokens, limit: self.max_length });
        }
        self.finish(first.ids, pair.map(|pair| pair.ids))
    }

    fn encode_windows(&self, input: TextInput<'_>, stride: usize) -> Result<Vec<Encoding>> {
        if input.pair.is_some() {
            return Err(Error::Tokenizer("expected one text, found a pair: pairs are not read in windows".to_owned()));
        }
        let room = self.room(false)?;
        let kept = Kept { side: TruncationSide::Right, count: usize::MAX, counts_all: true };
        let ids = self.tokens(input.text, kept)?.ids;
        let mut windows = Vec::new();
        for start in (0..ids.len().max(1)).step_by(room - stride) {
            let end = ids.len().min(start.saturating_add(room));
            windows.push(self.finish(ids[start..end].to_vec(), None)?);
            if end == ids.len() {
                break;
            }
        }
        Ok(windows)
    }

    /// Adds the special tokens.
    fn finish(&self, ids: Vec<u32>, pair: Option<Vec<u32>>) -> Result<Encoding> {
        let pair = pair.map(|pair| of_ids(pair, 1));
        Ok(to_encoding(&self.inner.post_process(of_ids(ids, 0), pair, true).map_err(refused)?))
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

    /// The tokens of a text, piece by piece.
    fn tokens(&self, text: &str, kept: Kept) -> Result<Tokens> {
        let size = kept.count.saturating_mul(BYTES_A_TOKEN).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        if text.len() <= size {
            let ids = self.inner.encode_fast(text, false).map_err(refused)?.get_ids().to_vec();
            return Ok(Tokens { total: ids.len(), ids });
        }
        let mut pieces = self.cuts.pieces(text, size);
        if kept.side == TruncationSide::Left {
            pieces.reverse();
        }
        let (mut parts, mut total) = (Vec::new(), 0);
        for piece in pieces {
            // Of several threads, one has the memory that it takes.
            let alone = (piece.len() > LARGE_PIECE).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
            let ids = self.inner.encode_fast(piece, false).map_err(refused)?.get_ids().to_vec();
            drop(alone);
            let is_kept = total <= kept.count;
            total += ids.len();
            if is_kept {
                parts.push(ids);
            }
            if total > kept.count && !kept.counts_all {
                break;
            }
        }
        if kept.side == TruncationSide::Left {
            parts.reverse();
        }
        Ok(Tokens { ids: parts.concat(), total })
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

/// Cuts to `count` tokens at that side.
fn cut(ids: &mut Vec<u32>, count: usize, side: TruncationSide) {
    match side {
        TruncationSide::Right => ids.truncate(count),
        TruncationSide::Left => drop(ids.drain(..ids.len().saturating_sub(count))),
    }
}

/// An encoding that has ids, and of all else as much as the library needs to add special tokens.
fn of_ids(ids: Vec<u32>, type_id: u32) -> tokenizers::Encoding {
    let count = ids.len();
    tokenizers::Encoding::new(
        ids,
        vec![type_id; count],
        vec![String::new(); count],
        vec![None; count],
        vec![(0, 0); count],
        vec![0; count],
        vec![1; count],
        Vec::new(),
        Default::default(),
    )
}

fn to_encoding(encoding: &tokenizers::Encoding) -> Encoding {
    Encoding {
        input_ids: encoding.get_ids().to_vec(),
        token_type_ids: encoding.get_type_ids().to_vec(),
        truncated: false,
    }
}
