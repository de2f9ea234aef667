//! The part of a Hugging Face `config.json` that running a classifier needs.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    file::parse_json,
};

/// What `config.json` says about inputs and labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture's name, such as `bert`.
    pub model_type: String,
    /// Label names by id: `labels[id]`.
    pub labels: Vec<String>,
    /// Whether a text has one of the labels or any number of them.
    pub problem_type: ProblemType,
    /// The id that fills a batch's shorter rows.
    pub pad_token_id: u32,
    /// The most positions (tokens, special ones included) that the model has embeddings for.
    pub max_position_embeddings: usize,
    /// Width of a token's state.
    pub hidden_size: usize,
    /// Width between the two products of a feed-forward part.
    pub intermediate_size: usize,
    /// Attention heads a layer.
    pub num_attention_heads: usize,
}

/// How many of the labels a text has, under Hugging Face's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemType {
    /// Exactly one: scores are a softmax and sum to 1.
    #[default]
    #[serde(rename = "single_label_classification")]
    SingleLabel,
    /// Any number: each label has a score of its own, a sigmoid.
    #[serde(rename = "multi_label_classification")]
    MultiLabel,
}

/// No size of a model may be larger: no encoder comes near it.
const MAX_SIZE: usize = 1 << 20;

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    problem_type: Option<ProblemType>,
    model_type: String,
    id2label: Map<String, Value>,
    pad_token_id: Option<u32>,
    max_position_embeddings: usize,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
}

impl ModelConfig {
    /// Parses the bytes of the file `path`.
    ///
    /// # Errors
    /// [`Error::Format`] if they are no JSON of this form, or if the label ids are not 0, 1, 2, ….
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self> {
        let json: Json = parse_json(path, content, "a Hugging Face config.json with id2label")?;
        let sizes = [json.max_position_embeddings, json.hidden_size, json.intermediate_size, json.num_attention_heads];
        if let Some(size) = sizes.into_iter().find(|size| !(1..=MAX_SIZE).contains(size)) {
            return Err(Error::format(path, format!("sizes from 1 to {MAX_SIZE}"), size.to_string()));
        }
        Ok(Self {
            labels: labels(path, &json.id2label)?,
            problem_type: json.problem_type.unwrap_or_default(),
            model_type: json.model_type,
            pad_token_id: json.pad_token_id.unwrap_or(0),
            max_position_embeddings: json.max_position_embeddings,
            hidden_size: json.hidden_size,
            intermediate_size: json.intermediate_size,
            num_attention_heads: json.num_attention_heads,
        })
    }
}

/// The label names that an `id2label` of the file `path` lists, by id. Numbers are names too.
///
/// # Errors
/// [`Error::Format`] if the ids are not 0, 1, 2, …, two names are the same, or one is no string and no number.
pub fn labels(path: &Path, id2label: &Map<String, Value>) -> Result<Vec<String>> {
    let fail = |expected: &str, got: String| Err(Error::format(path, expected, got));
    let label = |id: usize| match id2label.get(&id.to_string()) {
        Some(Value::String(name)) => Ok(name.clone()),
        Some(Value::Number(name)) => Ok(name.to_string()),
        Some(other) => fail("a string as each label's name", format!("{other} for the id {id}")),
        None => {
            let mut ids: Vec<&str> = id2label.keys().map(String::as_str).take(8).collect();
            ids.extend((id2label.len() > ids.len()).then_some("…"));
            fail("id2label with the ids 0, 1, 2, …", format!("no id {id} among {}", ids.join(", ")))
        }
    };
    let labels = (0..id2label.len()).map(label).collect::<Result<Vec<String>>>()?;
    let mut ids = HashMap::new();
    for (id, label) in labels.iter().enumerate() {
        if let Some(other) = ids.insert(label, id) {
            let got = format!("{label:?} for the ids {other} and {id}");
            return Err(Error::format(path, "labels of different names", got));
        }
    }
    Ok(labels)
}
