//! `tokenizer.json`, checked and parsed.

use std::path::Path;

use tokenizers::Normalizer;

use super::{
    limits::{Fault, File, check, check_merges},
    pieces::Cuts,
};
use crate::{
    error::{Error, Result},
    guard::guarded,
};

/// A tokenizer, and where its texts may be cut.
pub(super) struct Parsed {
    pub(super) tokenizer: tokenizers::Tokenizer,
    pub(super) cuts: Cuts,
}

/// Parses the bytes of the file `path`.
///
/// # Errors
/// [`Error::Format`].
pub(super) fn parse(path: &Path, content: &[u8]) -> Result<Parsed> {
    let fail = |got: String| Error::format(path, "a Hugging Face tokenizer.json", got);
    let file: File = serde_json::from_slice(content).map_err(|error| fail(error.to_string()))?;
    let added_tokens = file.added_tokens.0.as_array().map_or(&[][..], Vec::as_slice);
    check(&file, added_tokens).map_err(|Fault { expected, got }| Error::format(path, expected, got))?;
    if matches!(file.model.r#type.as_deref(), None | Some("BPE"))
        && file.model.continuing_subword_prefix.is_some_and(|p| !p.is_empty())
    {
        check_merges(content).map_err(|Fault { expected, got }| Error::format(path, expected, got))?;
    }
    let model = file.model.r#type.as_deref();
    let tokenizer = guarded(|| parse_as(model, content));
    let tokenizer = tokenizer.map_err(|panic| fail(format!("what its reader panics at: {panic}")))?;
    let tokenizer = tokenizer.map_err(|error| fail(error.to_string()))?;
    if let Some(normalizer) = tokenizer.get_normalizer() {
        // The library matches it at every place of a text.
        let is_empty = |content: &str| {
            let mut normalized = content.into();
            guarded(|| normalizer.normalize(&mut normalized).map(|()| normalized.is_empty()))
                .is_ok_and(|is| is.unwrap_or(false))
        };
        let of_normalized = added_tokens.iter().filter(|token| token["normalized"] == true);
        if let Some(content) =
            of_normalized.filter_map(|token| token["content"].as_str()).find(|content| is_empty(content))
        {
            return Err(Error::format(
                path,
                "added tokens of which something is left when they are normalized",
                format!("{content:?}"),
            ));
        }
    }
    Ok(Parsed { tokenizer, cuts: Cuts::of(&file.normalizer.0, &file.pre_tokenizer.0, added_tokens) })
}

/// The library alone takes any model by trying one type after the other, for which it first builds a tree of the whole
/// vocabulary: several times the time and the memory of parsing the type that is there.
fn parse_as(model: Option<&str>, content: &[u8]) -> serde_json::Result<tokenizers::Tokenizer> {
    type WordPieceTokenizer = tokenizers::TokenizerImpl<
        tokenizers::models::wordpiece::WordPiece,
        tokenizers::NormalizerWrapper,
        tokenizers::PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >;
    match model {
        Some("WordPiece") => Ok(serde_json::from_slice::<WordPieceTokenizer>(content)?.into()),
        _ => serde_json::from_slice(content),
    }
}
