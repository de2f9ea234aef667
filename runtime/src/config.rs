//! The part of a Hugging Face `config.json` that running a classifier needs.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::error::{Error, Result};

/// What `config.json` says about inputs and labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture's name, such as `bert`.
    pub model_type: String,
    /// Label names by id: `labels[id]`.
    pub labels: Vec<String>,
    /// The id that fills a batch's shorter rows.
    pub pad_token_id: u32,
    /// The most positions (tokens, special ones included) that the model has embeddings for.
    pub max_position_embeddings: usize,
}

#[derive(Deserialize)]
struct Json {
    model_type: String,
    id2label: BTreeMap<String, String>,
    pad_token_id: Option<u32>,
    max_position_embeddings: usize,
}

impl ModelConfig {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no JSON of this form, or if the label ids are not 0, 1, 2, ….
    pub fn open(path: &Path) -> Result<Self> {
        let json: Json = crate::bundle::read_json(path, "a Hugging Face config.json with id2label")?;
        let label = |id: usize| {
            json.id2label.get(&id.to_string()).cloned().ok_or_else(|| {
                let got = format!("{} labels, none of them with id {id}", json.id2label.len());
                Error::format(path, "id2label with the ids 0, 1, 2, …", got)
            })
        };
        Ok(Self {
            labels: (0..json.id2label.len()).map(label).collect::<Result<_>>()?,
            model_type: json.model_type,
            pad_token_id: json.pad_token_id.unwrap_or(0),
            max_position_embeddings: json.max_position_embeddings,
        })
    }
}
