//! What an encoder must know of a Hugging Face `config.json`.

mod attention;

use std::path::{Path, PathBuf};

use nimbert::ProblemType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::family::{AttentionKind, Biases, EmbeddingWidth, Family, Positions, STATIC_TYPE};
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
    /// Width of an embedding.
    pub embedding_size: usize,
    /// Whether a linear layer leads from there to `hidden_size`; else it is the same.
    pub has_projection: bool,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// The encoder layers: how each attends.
    pub layers: Vec<LayerConfig>,
    /// Number of attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// The feed-forward network's activation.
    pub hidden_act: Activation,
    /// The most tokens of a text, and those before the first: rows of the position embeddings, if there are any.
    pub max_position_embeddings: usize,
    /// How a token finds its row in the position embeddings; none: there are none.
    pub positions: Option<PositionRows>,
    /// Rows of the token type embeddings; 0: there are none.
    pub type_vocab_size: usize,
    /// What scores depend on besides queries and keys.
    pub distances: Option<DistanceConfig>,
    /// What the head reads.
    pub pooling: Pooling,
    /// How the head makes logits of it.
    pub head: HeadKind,
    /// The activation behind the head's first layer, where it has two.
    pub head_act: Activation,
    /// Which layers have a bias.
    pub biases: BiasConfig,
    /// Added to the variance in layer normalization.
    pub layer_norm_eps: f32,
    /// What is dropped in training.
    pub dropout: DropoutConfig,
    /// Standard deviation of a new head's weights.
    pub initializer_range: f32,
    /// The id that fills the shorter rows of a padded batch.
    pub pad_token_id: u32,
    /// The file it comes from.
    pub path: PathBuf,
    /// The whole `config.json`: a bundle's is made from it.
    pub json: serde_json::Map<String, Value>,
}

/// How one encoder layer attends.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LayerConfig {
    /// How far a token sees to each side; none: all of its text.
    pub window: Option<usize>,
    /// The base of its rotary positions' wavelengths; none: it has none.
    pub rotary_theta: Option<f32>,
}

/// How tokens find their rows in the position embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionRows {
    /// The row of a text's first token.
    pub offset: usize,
    /// Tokens of this id are not counted: all of them have the row before the first. A text can have them, since the pad
    /// token's name can be written in it.
    pub uncounted: Option<u32>,
}

impl PositionRows {
    /// The rows of one text's tokens.
    pub(crate) fn rows(self, ids: &[u32]) -> impl Iterator<Item = u32> {
        let mut next = self.offset as u32;
        ids.iter().map(move |&id| {
            if self.uncounted == Some(id) {
                return self.offset as u32 - 1;
            }
            next += 1;
            next - 1
        })
    }
}

/// How scores depend on the distance between query and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DistanceConfig {
    /// A number for each head, by bucket: half of the buckets are for keys behind the query, half of those for each distance
    /// by itself, the others ever wider ones up to 128.
    Bias {
        /// Number of buckets.
        buckets: usize,
    },
    /// A vector for each of the distances −`span` to `span` − 1.
    Vectors {
        /// Distances to each side.
        span: usize,
        /// Whether the larger half of them are ever wider buckets of distances, up to this one; else they are distances.
        widest: Option<usize>,
        /// Whether the vectors are normalized first.
        has_norm: bool,
    },
}

impl DistanceConfig {
    /// Rows of the table.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Bias { buckets } => buckets,
            Self::Vectors { span, .. } => 2 * span,
        }
    }

    /// The row for a distance: the query's place less the key's. In 32 bits, as transformers computes it.
    pub(crate) fn row(self, distance: isize) -> usize {
        let near = distance.unsigned_abs();
        match self {
            Self::Bias { buckets } => {
                const FARTHEST: f32 = 128.0;
                let (half, exact) = (buckets / 2, buckets / 4);
                let of_side = if near < exact {
                    near
                } else {
                    let share = (near as f32 / exact as f32).ln() / (FARTHEST / exact as f32).ln();
                    (exact + (share * (half - exact) as f32) as usize).min(half - 1)
                };
                of_side + if distance < 0 { half } else { 0 }
            }
            Self::Vectors { span, widest, .. } => {
                let exact = span / 2;
                let steps = match widest {
                    Some(widest) if near >= exact => {
                        let share = (near as f32 / exact as f32).ln() / ((widest - 1) as f32 / exact as f32).ln();
                        ((share * (exact - 1) as f32).ceil() as usize) + exact
                    }
                    _ => near,
                };
                let row = span as isize + distance.signum() * steps as isize;
                row.clamp(0, 2 * span as isize - 1) as usize
            }
        }
    }
}

/// What the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Each text's first token.
    First,
    /// The mean of its tokens.
    Mean,
}

/// How a head makes logits of what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// By two linear layers with an activation between them, as transformers' class of the family does.
    Layers,
    /// By one linear layer, of the direction alone: what is read is divided by the root of its mean square first. Logistic
    /// regression on an encoder's features is such a head.
    Linear,
}

/// `config.json` names a head here that is not that of transformers' class.
const HEAD_KEY: &str = "nimbert_head";
const LINEAR_HEAD: &str = "linear";

/// Which layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BiasConfig {
    /// Layer normalization.
    pub norms: bool,
    /// Attention's linear layers.
    pub attention: bool,
    /// The feed-forward network's.
    pub feed_forward: bool,
    /// The head's first.
    pub head: bool,
}

/// Probabilities of dropout.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DropoutConfig {
    /// Of the embeddings.
    pub embeddings: f32,
    /// Of the attention probabilities.
    pub attention_probabilities: f32,
    /// Of vectors for distances.
    pub distances: f32,
    /// Of attention's output.
    pub attention_output: f32,
    /// Behind the feed-forward network's activation.
    pub activated: f32,
    /// Of the feed-forward network's output.
    pub output: f32,
    /// Of what the head reads.
    pub head_input: f32,
    /// Before the last layer.
    pub classifier: f32,
}

impl DropoutConfig {
    fn all(self) -> [f32; 8] {
        let Self { embeddings, attention_probabilities, distances, attention_output, activated, output, .. } = self;
        let inner = [embeddings, attention_probabilities, distances, attention_output, activated, output];
        let [a, b, c, d, e, f] = inner;
        [a, b, c, d, e, f, self.head_input, self.classifier]
    }
}

/// Names of one setting, by the first of which it is read. A file may have several: what others than the model's own class read.
const SPELLINGS: [&[&str]; 10] = [
    &["hidden_size", "dim"],
    &["num_hidden_layers", "n_layers"],
    &["num_attention_heads", "n_heads"],
    &["intermediate_size", "hidden_dim"],
    &["hidden_act", "activation", "hidden_activation"],
    &["classifier_activation", "pooler_hidden_act"],
    &["layer_norm_eps", "norm_eps"],
    &["hidden_dropout_prob", "dropout"],
    &["attention_probs_dropout_prob", "attention_dropout"],
    &["classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob", "cls_dropout"],
];

/// Those that the class of a model type reads instead of the first one.
fn own_spellings(model_type: &str) -> &'static [&'static str] {
    match model_type {
        "distilbert" => &[
            "dim",
            "n_layers",
            "n_heads",
            "hidden_dim",
            "activation",
            "dropout",
            "attention_dropout",
            "seq_classif_dropout",
        ],
        "modernbert" => &["hidden_activation", "norm_eps", "attention_dropout"],
        "albert" => &["classifier_dropout_prob"],
        "deberta-v2" => &["pooler_hidden_act", "cls_dropout"],
        _ => &[],
    }
}

/// What the file says under the first name of each setting: by that which the model's class reads, if it is there.
fn in_first_spelling(model_type: &str, mut map: serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    drop_unread(model_type, &mut map);
    for names in SPELLINGS {
        if let Some(value) = names.iter().find_map(|name| map.remove(*name)) {
            map.insert(names[0].to_owned(), value);
        }
    }
    map
}

/// Of the names of each setting that a file has, leaves the one that the model's class reads.
fn drop_unread(model_type: &str, map: &mut serde_json::Map<String, Value>) {
    let own = own_spellings(model_type);
    for names in SPELLINGS {
        let said: Vec<&str> = names.iter().copied().filter(|name| map.contains_key(*name)).collect();
        let read = said.iter().find(|name| own.contains(name)).or(said.first());
        said.iter().filter(|name| Some(*name) != read).for_each(|name| drop(map.remove(*name)));
    }
}

/// What no encoder comes near: whatever is made of these is made before weights could contradict them.
const MAX_LAYERS: usize = 1000;
const MAX_POSITIONS: usize = 1 << 20;

/// The fields, each by the first of its names.
#[derive(Deserialize)]
struct Json {
    vocab_size: usize,
    embedding_size: Option<usize>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    hidden_act: Option<String>,
    classifier_activation: Option<String>,
    classifier_pooling: Option<String>,
    position_embedding_type: Option<String>,
    layer_norm_eps: Option<f32>,
    hidden_dropout_prob: Option<f32>,
    attention_probs_dropout_prob: Option<f32>,
    embedding_dropout: Option<f32>,
    mlp_dropout: Option<f32>,
    pooler_dropout: Option<f32>,
    classifier_dropout: Option<f32>,
    norm_bias: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    classifier_bias: Option<bool>,
    position_biased_input: Option<bool>,
    initializer_range: Option<f32>,
    pad_token_id: Option<u32>,
    #[serde(flatten)]
    attention: attention::Json,
}

impl EncoderConfig {
    /// Whether all layers have the same weights.
    pub(crate) fn shares_layers(&self) -> bool {
        self.family.shares_layers()
    }

    /// That of a table of vectors of `width` numbers for the tokens of another model ([`crate::static_model`]), with a head that
    /// is made anew with a deviation that keeps sizes.
    pub(crate) fn static_of(teacher: &Self, width: usize, dropout: f32) -> Result<Self> {
        let json = json!({
            "model_type": STATIC_TYPE,
            "vocab_size": teacher.vocab_size,
            "hidden_size": width,
            "num_hidden_layers": 0,
            "num_attention_heads": 1,
            "intermediate_size": width,
            "max_position_embeddings": teacher.max_tokens(),
            "classifier_pooling": "mean",
            "hidden_dropout_prob": dropout,
            "initializer_range": (width as f64).powf(-0.5),
            "pad_token_id": teacher.pad_token_id,
        });
        let Value::Object(json) = json else { unreachable!("an object was written") };
        Self::from_json(&teacher.path, json)
    }

    /// The same encoder with a head of one linear layer.
    ///
    /// # Errors
    /// [`Error::Model`] for an encoder that cannot be pooled so.
    pub fn with_linear_head(&self, pooling: Pooling) -> Result<Self> {
        let mut json = self.json.clone();
        let pooling = match pooling {
            Pooling::First => "cls",
            Pooling::Mean => "mean",
        };
        json.insert("classifier_pooling".into(), pooling.into());
        json.insert(HEAD_KEY.into(), LINEAR_HEAD.into());
        Self::from_json(&self.path, json)
    }

    /// Reads `path`. What the file leaves out gets the default of the family's Hugging Face configuration class.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] for what is no configuration of an encoder that this crate computes exactly.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let map = serde_json::from_str(&text).map_err(|error| not_json(path, &error))?;
        Self::from_json(path, map)
    }

    /// The same from what such a file holds; `path` is named in messages.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn from_json(path: &Path, map: serde_json::Map<String, Value>) -> Result<Self> {
        if map.get("is_decoder") == Some(&Value::Bool(true)) {
            let expected = "an encoder, whose tokens see those behind them";
            return Err(Error::model(path, expected, "is_decoder true"));
        }
        let model_type = map.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let family = Family::of(model_type).ok_or_else(|| {
            let expected = format!("one of the model types {}", Family::model_types());
            let got = match (model_type, Family::missing(model_type)) {
                ("", _) => "no model_type".to_owned(),
                (name, None) => name.to_owned(),
                (name, Some(missing)) => format!("{name}, of which is missing here: {missing}"),
            };
            Error::model(path, expected, got)
        })?;
        let fields = Value::Object(in_first_spelling(model_type, map.clone()));
        let json: Json = serde_json::from_value(fields).map_err(|error| not_json(path, &error))?;
        let sizes = [
            ("num_hidden_layers", json.num_hidden_layers, MAX_LAYERS),
            ("max_position_embeddings", json.max_position_embeddings, MAX_POSITIONS),
        ];
        for (name, size, most) in sizes {
            if size > most {
                return Err(Error::model(path, format!("at most {most} as {name}"), size.to_string()));
            }
        }
        let expect = |holds: bool, expected: &str, got: &dyn std::fmt::Display| {
            if holds { Ok(()) } else { Err(Error::model(path, expected, got.to_string())) }
        };
        let activation = |name: Option<&str>| {
            let name = name.unwrap_or(family.defaults.activation);
            let expected = format!("one of the activations {}", Activation::NAMES.join(", "));
            Activation::from_name(name).ok_or_else(|| Error::model(path, expected, name))
        };
        // Other classes do not read it: mmBERT's file has sans_pos.
        let reads_positions = family.attention == AttentionKind::Plain && model_type != "distilbert";
        let positions = json.position_embedding_type.as_deref().filter(|_| reads_positions).unwrap_or("absolute");
        expect(positions == "absolute", "position_embedding_type absolute", &positions)?;
        let (hidden, heads) = (json.hidden_size, json.num_attention_heads);
        let divides = heads > 0 && hidden > 0 && hidden.is_multiple_of(heads);
        expect(divides, "a hidden_size that num_attention_heads divides", &format!("{hidden} and {heads}"))?;
        let pad_token_id = json.pad_token_id.unwrap_or(family.pad_token_id);
        let vocab_size = json.vocab_size;
        let expected = format!("a pad_token_id below the vocab_size {vocab_size}");
        expect((pad_token_id as usize) < vocab_size, &expected, &pad_token_id)?;
        for (key, only) in family.only {
            let stated = map.get(*key).filter(|value| !value.is_null());
            let is_it = stated.is_none_or(|value| value.as_i64() == Some(*only));
            expect(is_it, &format!("{key} {only}"), &stated.map(Value::to_string).unwrap_or_default())?;
        }
        let (embedding_size, has_projection) = match family.width {
            EmbeddingWidth::Encoder => (hidden, false),
            EmbeddingWidth::Own { usual, is_always_projected } => {
                let width = json.embedding_size.unwrap_or(usual);
                (width, is_always_projected || width != hidden)
            }
        };
        let behind = |id: u32| Some(PositionRows { offset: id as usize + 1, uncounted: Some(id) });
        let from_first = PositionRows { offset: 0, uncounted: None };
        let has_layers = family.attention != AttentionKind::None;
        let pooling = match json.classifier_pooling.as_deref() {
            // Without layers the first token knows nothing of the others.
            None | Some("cls") if has_layers => Pooling::First,
            None | Some("mean") => Pooling::Mean,
            Some(other) => {
                let expected = if has_layers { "classifier_pooling cls or mean" } else { "classifier_pooling mean" };
                return Err(Error::model(path, expected, other));
            }
        };
        let head = match map.get(HEAD_KEY) {
            None | Some(Value::Null) => HeadKind::Layers,
            Some(value) if value == LINEAR_HEAD => HeadKind::Linear,
            Some(other) => {
                return Err(Error::model(path, format!("{HEAD_KEY} {LINEAR_HEAD}, or none"), other.to_string()));
            }
        };
        let attention::Attention { layers, distances } = json.attention.read(path, &json, family.attention)?;
        let config = Self {
            family,
            vocab_size,
            embedding_size,
            has_projection,
            hidden_size: hidden,
            layers,
            num_attention_heads: heads,
            intermediate_size: json.intermediate_size,
            hidden_act: activation(json.hidden_act.as_deref())?,
            max_position_embeddings: json.max_position_embeddings,
            positions: match family.positions {
                Positions::None => None,
                Positions::Table => Some(from_first),
                Positions::TableIfBiased => json.position_biased_input.unwrap_or(true).then_some(from_first),
                Positions::TableBehindPad => behind(pad_token_id),
                Positions::TableBehind(id) => behind(id),
            },
            type_vocab_size: family.token_types.map_or(0, |usual| json.type_vocab_size.unwrap_or(usual)),
            distances,
            pooling,
            head,
            head_act: match family.head.activation {
                Some(activation) => activation,
                None => activation(json.classifier_activation.as_deref().or(Some("gelu")))?,
            },
            biases: json.biases(family.biases),
            layer_norm_eps: json.layer_norm_eps.unwrap_or(family.defaults.norm_eps),
            dropout: json.dropout(family),
            initializer_range: json.initializer_range.unwrap_or(0.02),
            pad_token_id,
            path: path.to_owned(),
            json: map,
        };
        let layers = config.layers.len();
        expect(
            has_layers == (layers > 0),
            &format!("num_hidden_layers {}", if has_layers { "above 0" } else { "0" }),
            &layers,
        )?;
        let sizes = [config.vocab_size, config.embedding_size, config.intermediate_size];
        let smallest = sizes.iter().min().copied().unwrap_or(0);
        expect(smallest > 0, "sizes above 0", &smallest)?;
        let positions = config.max_position_embeddings;
        expect(config.max_tokens() > 0, "more max_position_embeddings", &positions)?;
        let has_types = config.type_vocab_size > 0 || family.token_types.is_none_or(|usual| usual == 0);
        expect(has_types, "a type_vocab_size above 0", &0)?;
        for p in config.dropout.all() {
            expect((0.0..1.0).contains(&p), "dropout probabilities from 0 to below 1", &p)?;
        }
        Ok(config)
    }

    /// The longest text, in tokens.
    pub fn max_tokens(&self) -> usize {
        let before = self.positions.map_or(0, |positions| positions.offset);
        self.max_position_embeddings.saturating_sub(before)
    }

    /// The same model without any dropout: what tests and comparisons of single steps need.
    #[must_use]
    pub fn without_dropout(self) -> Self {
        Self { dropout: DropoutConfig::default(), ..self }
    }

    fn model_type(&self) -> &str {
        self.json.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// `config.json` of a classifier with `labels`: the base's, with the class's name, the label names, and the
    /// sizes as they are now.
    pub fn classifier_json(&self, labels: &[String], problem_type: ProblemType) -> serde_json::Map<String, Value> {
        let mut json = self.json.clone();
        // Readers of a bundle take one name of a setting, and two for a fault.
        drop_unread(self.model_type(), &mut json);
        // Those of the base, where it says so: how many labels there are follows from their names.
        ["_name_or_path", "num_labels", "_num_labels"].into_iter().for_each(|key| drop(json.remove(key)));
        // transformers has no class with such a head.
        let class = match self.head {
            HeadKind::Layers => self.family.classifier_class(self.model_type()),
            HeadKind::Linear => "NimbertLinearForSequenceClassification",
        };
        json.insert("architectures".into(), json!([class]));
        json.insert("problem_type".into(), json!(problem_type));
        // A smaller model than the base has fewer layers or words.
        let layers_key = if json.contains_key("n_layers") { "n_layers" } else { "num_hidden_layers" };
        json.insert(layers_key.into(), self.layers.len().into());
        attention::write(&self.layers, &mut json);
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

fn not_json(path: &Path, error: &serde_json::Error) -> Error {
    Error::model(path, "a Hugging Face config.json", error.to_string())
}

impl Json {
    fn biases(&self, biases: Biases) -> BiasConfig {
        let has = |stated: Option<bool>| match biases {
            Biases::All => true,
            Biases::Stated => stated.unwrap_or(false),
        };
        BiasConfig {
            norms: has(self.norm_bias),
            attention: has(self.attention_bias),
            feed_forward: has(self.mlp_bias),
            head: has(self.classifier_bias),
        }
    }

    fn dropout(&self, family: &Family) -> DropoutConfig {
        let usual = family.defaults.dropout;
        let attention = self.attention_probs_dropout_prob.unwrap_or(usual);
        let hidden = self.hidden_dropout_prob.unwrap_or(usual);
        let classifier = self.classifier_dropout.unwrap_or(family.defaults.classifier_dropout.unwrap_or(hidden));
        let input = |p: f32| if family.head.drops_input { p } else { 0.0 };
        let if_dropped = |is_dropped: bool, p: f32| if is_dropped { p } else { 0.0 };
        match family.attention {
            AttentionKind::Alternating => DropoutConfig {
                embeddings: self.embedding_dropout.unwrap_or(usual),
                attention_probabilities: attention,
                attention_output: attention,
                activated: self.mlp_dropout.unwrap_or(usual),
                classifier: self.classifier_dropout.unwrap_or(usual),
                ..DropoutConfig::default()
            },
            kind => DropoutConfig {
                embeddings: hidden,
                attention_probabilities: attention,
                distances: if_dropped(kind == AttentionKind::Disentangled, hidden),
                attention_output: if_dropped(family.dropped.attention_output, hidden),
                activated: 0.0,
                output: if_dropped(family.dropped.output, hidden),
                head_input: input(match kind {
                    AttentionKind::Disentangled => self.pooler_dropout.unwrap_or(0.0),
                    _ => classifier,
                }),
                classifier,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That of a tiny model, changed.
    fn config(name: &str, changes: Value) -> Result<EncoderConfig> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name).join("config.json");
        let mut map = EncoderConfig::open(&path).unwrap().json;
        let Value::Object(changes) = changes else { unreachable!("an object was written") };
        map.extend(changes);
        EncoderConfig::from_json(&path, map)
    }

    #[test]
    fn what_is_written_has_one_name_of_each_setting() {
        let written = |of: &str, more: Value| {
            let json = config(of, more).unwrap().classifier_json(&["a".into(), "b".into()], ProblemType::SingleLabel);
            let names = ["dim", "hidden_size", "n_layers", "num_hidden_layers"];
            names.into_iter().filter(|name| json.contains_key(*name)).collect::<Vec<_>>()
        };
        assert_eq!(written("tiny-distilbert", json!({ "hidden_size": 9 })), ["dim", "n_layers"]);
        assert_eq!(written("tiny-bert", json!({ "n_layers": 9 })), ["hidden_size", "num_hidden_layers"]);
    }

    #[test]
    fn sizes_that_nothing_has_are_refused() {
        for (name, size) in [("num_hidden_layers", 1_000_000_000_000u64), ("max_position_embeddings", 1 << 40)] {
            let error = config("tiny-modernbert-cls", json!({ name: size })).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("at most"), "{error}");
        }
    }

    #[test]
    fn names_that_only_other_classes_read_are_not_read() {
        // As ModernBERT's own file has both, and mmBERT's what its class does not know.
        let both =
            config("tiny-modernbert-cls", json!({ "layer_norm_eps": 1e-12, "position_embedding_type": "sans_pos" }));
        assert_eq!(both.unwrap().layer_norm_eps, 1e-5);
        let alone = config("tiny-modernbert-cls", json!({ "norm_eps": null, "layer_norm_eps": 1e-4 }));
        assert_eq!(alone.unwrap().layer_norm_eps, 1e-5);
        let bert = config("tiny-bert", json!({ "layer_norm_eps": 1e-7, "norm_eps": 1e-3, "n_layers": 1 })).unwrap();
        assert_eq!(bert.layer_norm_eps, 1e-7);
        assert!(bert.layers.len() > 1);
        let distilbert = config("tiny-distilbert", json!({ "hidden_dropout_prob": 0.5, "dropout": 0.25 })).unwrap();
        assert_eq!(distilbert.dropout.embeddings, 0.25);
        assert!(config("tiny-bert", json!({ "position_embedding_type": "relative_key" })).is_err());
    }

    #[test]
    fn null_is_not_missing_where_the_class_tells_them_apart() {
        let theta = |local: Value| {
            let config = config("tiny-modernbert-cls", json!({ "local_rope_theta": local, "global_rope_theta": 5e4 }));
            config.unwrap().layers.iter().map(|layer| layer.rotary_theta.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(theta(json!(7e3)), [5e4, 7e3, 7e3, 5e4]);
        assert_eq!(theta(Value::Null), [5e4; 4]);
    }
}
