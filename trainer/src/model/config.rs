//! What an encoder must know of a Hugging Face `config.json`.

use std::path::{Path, PathBuf};

use nimbert::ProblemType;
use serde::Deserialize;
use serde_json::Value;

use super::family::{Family, Positions};
use crate::{
    error::{Error, Result},
    ops::Activation,
};

/// The shape of an encoder, checked: every field is usable as it is. Names are BERT's; DistilBERT's `dim`, `n_layers`
/// and so on are read as what they mean.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// What kind of encoder and head.
    pub family: &'static Family,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Width of an embedding; where it is not `hidden_size`, a linear layer leads from the one to the other.
    pub embedding_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// The feed-forward network's activation.
    pub hidden_act: Activation,
    /// Rows of the position embeddings.
    pub max_position_embeddings: usize,
    /// The row of a text's first token in the position embeddings.
    pub position_offset: usize,
    /// Rows of the token type embeddings; 0: the family has none.
    pub type_vocab_size: usize,
    /// Added to the variance in layer normalization.
    pub layer_norm_eps: f32,
    /// Dropout of the embeddings and of each sublayer's output.
    pub hidden_dropout_prob: f32,
    /// Dropout of the attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// Dropout in the head.
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

/// The fields as they stand in the file, under BERT's or DistilBERT's names.
#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: usize,
    embedding_size: Option<usize>,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    layer_norm_eps: Option<f32>,
    #[serde(alias = "dropout")]
    hidden_dropout_prob: Option<f32>,
    #[serde(alias = "attention_dropout")]
    attention_probs_dropout_prob: Option<f32>,
    #[serde(alias = "seq_classif_dropout")]
    classifier_dropout: Option<f32>,
    initializer_range: Option<f32>,
    pad_token_id: Option<u32>,
}

impl EncoderConfig {
    /// Reads `path`. What the file leaves out gets the default of the family's Hugging Face configuration class.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] for what is no configuration of an encoder that this crate computes exactly.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let not_json = |error: serde_json::Error| Error::model(path, "a Hugging Face config.json", error.to_string());
        let map: serde_json::Map<String, Value> = serde_json::from_str(&text).map_err(not_json)?;
        if map.get("is_decoder") == Some(&Value::Bool(true)) {
            let expected = "an encoder, whose tokens see those behind them";
            return Err(Error::model(path, expected, "is_decoder true"));
        }
        let json: Json = serde_json::from_value(Value::Object(map.clone())).map_err(not_json)?;
        let expect = |holds: bool, expected: &str, got: &dyn std::fmt::Display| {
            if holds { Ok(()) } else { Err(Error::model(path, expected, got.to_string())) }
        };
        let expected = format!("one of the model types {}", Family::model_types());
        let family =
            Family::of(&json.model_type).ok_or_else(|| Error::model(path, expected, json.model_type.clone()))?;
        let hidden_act = json.hidden_act.as_deref().unwrap_or("gelu");
        let expected = format!("one of the activations {}", Activation::NAMES.join(", "));
        let hidden_act = Activation::from_name(hidden_act).ok_or_else(|| Error::model(path, expected, hidden_act))?;
        let positions = json.position_embedding_type.as_deref().unwrap_or("absolute");
        expect(positions == "absolute", "position_embedding_type absolute", &positions)?;

        let (hidden, heads) = (json.hidden_size, json.num_attention_heads);
        let divides = heads > 0 && hidden > 0 && hidden.is_multiple_of(heads);
        expect(divides, "a hidden_size that num_attention_heads divides", &format!("{hidden} and {heads}"))?;
        let pad_token_id = json.pad_token_id.unwrap_or(family.pad_token_id);
        let vocab_size = json.vocab_size;
        let expected = format!("a pad_token_id below the vocab_size {vocab_size}");
        expect((pad_token_id as usize) < vocab_size, &expected, &pad_token_id)?;
        let type_vocab_size = json.type_vocab_size.unwrap_or(2);
        let hidden_dropout_prob = json.hidden_dropout_prob.unwrap_or(0.1);
        let config = Self {
            family,
            vocab_size: json.vocab_size,
            embedding_size: family.embedding_size.map_or(hidden, |usual| json.embedding_size.unwrap_or(usual)),
            hidden_size: hidden,
            num_hidden_layers: json.num_hidden_layers,
            num_attention_heads: heads,
            intermediate_size: json.intermediate_size,
            hidden_act,
            max_position_embeddings: json.max_position_embeddings,
            position_offset: match family.positions {
                Positions::Table => 0,
                Positions::TableBehindPad => pad_token_id as usize + 1,
            },
            type_vocab_size: if family.has_token_types { type_vocab_size } else { 0 },
            layer_norm_eps: json.layer_norm_eps.unwrap_or(1e-12),
            hidden_dropout_prob,
            attention_probs_dropout_prob: json.attention_probs_dropout_prob.unwrap_or(0.1),
            classifier_dropout: json.classifier_dropout.unwrap_or(hidden_dropout_prob),
            initializer_range: json.initializer_range.unwrap_or(0.02),
            pad_token_id,
            path: path.to_owned(),
            json: map,
        };
        let sizes = [config.vocab_size, config.embedding_size, config.num_hidden_layers, config.intermediate_size];
        let smallest = sizes.iter().min().copied().unwrap_or(0);
        expect(smallest > 0, "sizes above 0", &smallest)?;
        let positions = config.max_position_embeddings;
        expect(positions > config.position_offset, "more max_position_embeddings", &positions)?;
        expect(config.type_vocab_size > 0 || !family.has_token_types, "a type_vocab_size above 0", &0)?;
        for p in [config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.classifier_dropout] {
            expect((0.0..1.0).contains(&p), "dropout probabilities from 0 to below 1", &p)?;
        }
        Ok(config)
    }

    /// The longest text, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.max_position_embeddings - self.position_offset
    }

    /// The same model without any dropout: what tests and comparisons of single steps need.
    #[must_use]
    pub fn without_dropout(self) -> Self {
        Self { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, classifier_dropout: 0.0, ..self }
    }

    fn model_type(&self) -> &str {
        self.json.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// `config.json` of a classifier with `labels`: the base's, with the class's name, the label names, and the
    /// sizes as they are now.
    pub fn classifier_json(&self, labels: &[String], problem_type: ProblemType) -> serde_json::Map<String, Value> {
        let mut json = self.json.clone();
        json.remove("_name_or_path");
        json.insert("architectures".into(), serde_json::json!([self.family.classifier_class(self.model_type())]));
        json.insert("problem_type".into(), serde_json::json!(problem_type));
        // A smaller model than the base has fewer layers or words.
        let layers_key = if json.contains_key("n_layers") { "n_layers" } else { "num_hidden_layers" };
        json.insert(layers_key.into(), self.num_hidden_layers.into());
        json.insert("vocab_size".into(), self.vocab_size.into());
        if json.contains_key("pad_token_id") {
            json.insert("pad_token_id".into(), self.pad_token_id.into());
        }
        let id2label = labels.iter().enumerate().map(|(id, label)| (id.to_string(), Value::from(label.as_str())));
        json.insert("id2label".into(), Value::Object(id2label.collect()));
        let label2id = labels.iter().enumerate().map(|(id, label)| (label.clone(), Value::from(id)));
        json.insert("label2id".into(), Value::Object(label2id.collect()));
        json
    }

    /// Whether a trained classifier's texts have one label or any number, where the file says so.
    ///
    /// # Errors
    /// [`Error::Model`] for a problem type that is no classification.
    pub fn problem_type(&self) -> Result<Option<ProblemType>> {
        match self.json.get("problem_type") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone()).map(Some).map_err(|_| {
                let expected = "a problem_type single_label_classification or multi_label_classification";
                Error::model(&self.path, expected, value.to_string())
            }),
        }
    }

    /// The same, for a classifier with `labels`.
    #[must_use]
    pub fn with_labels(self, labels: &[String]) -> Self {
        let problem_type = self.problem_type().ok().flatten().unwrap_or_default();
        Self { json: self.classifier_json(labels, problem_type), ..self }
    }

    /// The labels of a trained classifier: those that the file names, or transformers' names for as many as `num_labels`
    /// says, which is two where it is missing.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the ids are not 0, 1, 2, …; [`Error::Model`] for fewer than two labels, or two numbers of them.
    pub fn own_labels(&self) -> Result<Vec<String>> {
        let stated = self.json.get("num_labels").filter(|number| !number.is_null());
        let stated = match stated.map(|number| number.as_u64().filter(|number| *number < 1 << 20).ok_or(number)) {
            None => None,
            Some(Ok(number)) => Some(number as usize),
            Some(Err(other)) => return Err(Error::model(&self.path, "a number as num_labels", other.to_string())),
        };
        let labels = match (self.json.get("id2label"), stated) {
            (Some(Value::Object(labels)), stated) => {
                let labels = nimbert::config::labels(&self.path, labels)?;
                if let Some(stated) = stated.filter(|stated| *stated != labels.len()) {
                    let expected = format!("num_labels {stated} and as many labels in id2label");
                    return Err(Error::model(&self.path, expected, labels.len().to_string()));
                }
                labels
            }
            (Some(Value::Array(labels)), _) => {
                let ids = labels.iter().enumerate().map(|(id, label)| (id.to_string(), label.clone())).collect();
                nimbert::config::labels(&self.path, &ids)?
            }
            (Some(other), _) if !other.is_null() => {
                return Err(Error::model(&self.path, "names by id as id2label", other.to_string()));
            }
            (_, stated) => (0..stated.unwrap_or(2)).map(|id| format!("LABEL_{id}")).collect(),
        };
        if let Some(ids) = self.json.get("label2id").and_then(Value::as_object) {
            // Names that are only in one of them are left from another head.
            let differs = |(id, label): &(usize, &String)| ids.get(*label).is_some_and(|other| *other != *id);
            if let Some((id, label)) = labels.iter().enumerate().find(differs) {
                let expected = format!("one id of the label {label:?} in id2label and label2id");
                return Err(Error::model(&self.path, expected, format!("{id} and {}", ids[label])));
            }
        }
        match labels.len() {
            0 | 1 => {
                let got = format!("{}: regression models and rerankers give a number, no label", labels.len());
                Err(Error::model(&self.path, "at least two labels", got))
            }
            _ => Ok(labels),
        }
    }
}
