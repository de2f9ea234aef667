//! What an encoder must know of a Hugging Face `config.json`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// The shape of a BERT encoder, checked: every field is usable as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Rows of the position embeddings: the longest text, in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token type embeddings.
    pub type_vocab_size: usize,
    /// Added to the variance in layer normalization.
    pub layer_norm_eps: f32,
    /// Dropout of the embeddings and of each sublayer's output.
    pub hidden_dropout_prob: f32,
    /// Dropout of the attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// Dropout of the pooled output.
    pub classifier_dropout: f32,
    /// Standard deviation of a new head's weights.
    pub initializer_range: f32,
    /// The id that fills the shorter rows of a padded batch.
    pub pad_token_id: u32,
    /// The file it comes from.
    pub path: PathBuf,
    /// The whole `config.json`: a bundle's is made from it.
    pub json: serde_json::Map<String, Value>,
}

/// The fields as they stand in the file; defaults are those of Hugging Face's `BertConfig`.
#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default = "default_eps")]
    layer_norm_eps: f32,
    #[serde(default = "a_tenth")]
    hidden_dropout_prob: f32,
    #[serde(default = "a_tenth")]
    attention_probs_dropout_prob: f32,
    classifier_dropout: Option<f32>,
    #[serde(default = "default_range")]
    initializer_range: f32,
    pad_token_id: Option<u32>,
}

fn two() -> usize {
    2
}
fn gelu() -> String {
    "gelu".to_owned()
}
fn absolute() -> String {
    "absolute".to_owned()
}
fn default_eps() -> f32 {
    1e-12
}
fn a_tenth() -> f32 {
    0.1
}
fn default_range() -> f32 {
    0.02
}

impl EncoderConfig {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] for what is no configuration of a BERT that this crate computes exactly.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let not_json = |error: serde_json::Error| Error::model(path, "a Hugging Face config.json", error.to_string());
        let map: serde_json::Map<String, Value> = serde_json::from_str(&text).map_err(not_json)?;
        let json: Json = serde_json::from_value(Value::Object(map.clone())).map_err(not_json)?;
        let expect = |holds: bool, expected: &str, got: &dyn std::fmt::Display| {
            if holds { Ok(()) } else { Err(Error::model(path, expected, got.to_string())) }
        };
        expect(json.model_type == "bert", "model_type bert", &json.model_type)?;
        expect(json.hidden_act == "gelu", "hidden_act gelu", &json.hidden_act)?;
        let positions = &json.position_embedding_type;
        expect(positions == "absolute", "position_embedding_type absolute", positions)?;
        let sizes = [json.vocab_size, json.num_hidden_layers, json.intermediate_size, json.type_vocab_size];
        let smallest = sizes.iter().min().copied().unwrap_or(0).min(json.max_position_embeddings);
        expect(smallest > 0, "sizes above 0", &smallest)?;
        let pad = json.pad_token_id.unwrap_or(0);
        let vocab_size = json.vocab_size;
        expect((pad as usize) < vocab_size, &format!("a pad_token_id below the vocab_size {vocab_size}"), &pad)?;
        let (hidden, heads) = (json.hidden_size, json.num_attention_heads);
        let divides = heads > 0 && hidden > 0 && hidden.is_multiple_of(heads);
        expect(divides, "a hidden_size that num_attention_heads divides", &format!("{hidden} and {heads}"))?;
        let classifier_dropout = json.classifier_dropout.unwrap_or(json.hidden_dropout_prob);
        for p in [json.hidden_dropout_prob, json.attention_probs_dropout_prob, classifier_dropout] {
            expect((0.0..1.0).contains(&p), "dropout probabilities from 0 to below 1", &p)?;
        }
        Ok(Self {
            vocab_size: json.vocab_size,
            hidden_size: hidden,
            num_hidden_layers: json.num_hidden_layers,
            num_attention_heads: heads,
            intermediate_size: json.intermediate_size,
            max_position_embeddings: json.max_position_embeddings,
            type_vocab_size: json.type_vocab_size,
            layer_norm_eps: json.layer_norm_eps,
            hidden_dropout_prob: json.hidden_dropout_prob,
            attention_probs_dropout_prob: json.attention_probs_dropout_prob,
            classifier_dropout,
            initializer_range: json.initializer_range,
            pad_token_id: pad,
            path: path.to_owned(),
            json: map,
        })
    }

    /// The same model without any dropout: what tests and comparisons of single steps need.
    #[must_use]
    pub fn without_dropout(self) -> Self {
        Self { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, classifier_dropout: 0.0, ..self }
    }

    /// `config.json` of a classifier with `labels`: the base's, with the architecture's name and the label names.
    pub fn classifier_json(&self, labels: &[String]) -> serde_json::Map<String, Value> {
        let mut json = self.json.clone();
        json.remove("_name_or_path");
        json.insert("architectures".into(), serde_json::json!(["BertForSequenceClassification"]));
        json.insert("problem_type".into(), "single_label_classification".into());
        let id2label = labels.iter().enumerate().map(|(id, label)| (id.to_string(), Value::from(label.as_str())));
        json.insert("id2label".into(), Value::Object(id2label.collect()));
        let label2id = labels.iter().enumerate().map(|(id, label)| (label.clone(), Value::from(id)));
        json.insert("label2id".into(), Value::Object(label2id.collect()));
        json
    }

    /// The labels of a trained classifier: those that the file names, or transformers' default of two.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the ids are not 0, 1, 2, ….
    pub fn own_labels(&self) -> Result<Vec<String>> {
        match self.json.get("id2label") {
            Some(Value::Object(_)) => Ok(nimbert::config::ModelConfig::open(&self.path)?.labels),
            _ => Ok(["LABEL_0", "LABEL_1"].map(str::to_owned).to_vec()),
        }
    }
}
