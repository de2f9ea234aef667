//! The families of encoders, and in what they differ from BERT: a table. Nothing else asks for a `model_type`.

use crate::ops::Activation;

/// A family of encoders with a classification head.
#[derive(Debug)]
pub struct Family {
    /// What `model_type` may be, and transformers' class of such a classifier.
    pub(super) types: &'static [(&'static str, &'static str)],
    pub(super) names: Names,
    pub(super) positions: Positions,
    /// Rows of the token types' embeddings where `type_vocab_size` is not said; none: they have none, whatever it says.
    pub(super) token_types: Option<usize>,
    pub(super) width: EmbeddingWidth,
    /// The pad token's id where it is not said.
    pub(super) pad_token_id: u32,
    pub(super) defaults: Defaults,
    /// Numbers in `config.json` that must be these where they are said: what else they may be is not computed here.
    pub(super) only: &'static [(&'static str, i64)],
    pub(super) norms: Norms,
    pub(super) attention: AttentionKind,
    /// Whether the feed-forward network's activation is multiplied by a second product.
    pub(super) is_gated: bool,
    pub(super) biases: Biases,
    pub(super) dropped: Dropped,
    pub(super) head: Head,
}

/// How tokens know their place by rows of a table that are added to their embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// They do not.
    None,
    /// From the first row on.
    Table,
    /// The same if `position_biased_input` says so.
    TableIfBiased,
    /// From the row behind that of the pad token's id, which is the place of all pad tokens.
    TableBehindPad,
    /// The same with this id, whatever the pad token is.
    TableBehind(u32),
}

/// The width of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmbeddingWidth {
    /// That of the encoder.
    Encoder,
    /// What `embedding_size` says, or `usual`. Where it is not that of the encoder, or always, a linear layer leads there.
    Own { usual: usize, is_always_projected: bool },
}

/// What is meant where `config.json` is silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Defaults {
    pub(super) dropout: f32,
    /// Before the last layer; none: as elsewhere.
    pub(super) classifier_dropout: Option<f32>,
    pub(super) norm_eps: f32,
    pub(super) activation: &'static str,
}

/// Where layer normalization stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Behind each residual sum.
    Behind,
    /// Before attention, except in the first layer, and before the feed-forward network; and behind all layers.
    Before,
}

/// How tokens see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionKind {
    /// All of them, wherever they are.
    Plain,
    /// Those near by in some layers and all in others, by rotary positions.
    Alternating,
    /// By a number that is added to the scores for the distance.
    Biased,
    /// By vectors for distances too.
    Disentangled,
    /// They do not: there are no layers.
    None,
}

/// Whether linear layers and layer normalization have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    All,
    /// Where `config.json` says so.
    Stated,
}

/// Which results lose some of their numbers in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) attention_output: bool,
    pub(super) output: bool,
}

/// Two linear layers, and what is between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Behind the first; none: that which `config.json` names.
    pub(super) activation: Option<Activation>,
    /// Whether there is dropout before the first too.
    pub(super) drops_input: bool,
    /// Whether there is layer normalization behind the activation.
    pub(super) has_norm: bool,
}

/// All of them.
static FAMILIES: [Family; 9] = [BERT, DISTILBERT, ELECTRA, ROBERTA, MODERNBERT, DEBERTA, MPNET, ALBERT, STATIC];

/// Encoders that are asked for, and what of them is missing here.
const MISSING: [(&str, &str); 8] = [
    ("eurobert", "RMSNorm, SwiGLU and keys that several heads share"),
    ("neobert", "RMSNorm and SwiGLU"),
    ("nomic_bert", "its own names in config.json and in the weights, and SwiGLU"),
    ("new", "GTE's own names in config.json and in the weights"),
    ("deberta", "DeBERTa's first version; microsoft/deberta-v3-… have the model type deberta-v2"),
    ("t5", "an encoder with RMSNorm and biases that grow with the distance"),
    ("xlnet", "two streams of attention"),
    ("funnel", "layers that pool their tokens"),
];

/// BERT (Devlin et al., arXiv 1810.04805): a pooler with tanh before the classifier.
const BERT: Family = Family {
    types: &[("bert", "BertForSequenceClassification")],
    names: BERT_NAMES,
    positions: Positions::Table,
    token_types: Some(2),
    width: EmbeddingWidth::Encoder,
    pad_token_id: 0,
    defaults: Defaults { dropout: 0.1, classifier_dropout: None, norm_eps: 1e-12, activation: "gelu" },
    only: &[],
    norms: Norms::Behind,
    attention: AttentionKind::Plain,
    is_gated: false,
    biases: Biases::All,
    dropped: Dropped { attention_output: true, output: true },
    head: Head { activation: Some(Activation::Tanh), drops_input: false, has_norm: false },
};

/// DistilBERT (Sanh et al., arXiv 1910.01108): no token types; a dense layer with ReLU.
const DISTILBERT: Family = Family {
    types: &[("distilbert", "DistilBertForSequenceClassification")],
    names: DISTILBERT_NAMES,
    token_types: None,
    defaults: Defaults { classifier_dropout: Some(0.2), ..BERT.defaults },
    dropped: Dropped { attention_output: false, output: true },
    head: Head { activation: Some(Activation::Relu), ..BERT.head },
    ..BERT
};

/// ELECTRA's discriminator (Clark et al., arXiv 2003.10555): embeddings of their own width; a dense layer with GELU.
const ELECTRA: Family = Family {
    types: &[("electra", "ElectraForSequenceClassification")],
    names: Names { base: "electra", head_dense: "classifier.dense", head_output: "classifier.out_proj", ..BERT_NAMES },
    width: EmbeddingWidth::Own { usual: 128, is_always_projected: false },
    head: Head { activation: Some(Activation::Gelu), drops_input: true, has_norm: false },
    ..BERT
};

/// RoBERTa (Liu et al., arXiv 1907.11692), XLM-R and CamemBERT: positions begin behind the pad token's id; a dense layer
/// with tanh.
const ROBERTA: Family = Family {
    types: &[
        ("roberta", "RobertaForSequenceClassification"),
        ("xlm-roberta", "XLMRobertaForSequenceClassification"),
        ("camembert", "CamembertForSequenceClassification"),
    ],
    names: Names { base: "roberta", ..ELECTRA.names },
    positions: Positions::TableBehindPad,
    pad_token_id: 1,
    head: Head { activation: Some(Activation::Tanh), ..ELECTRA.head },
    ..BERT
};

/// ModernBERT (Warner et al., arXiv 2412.13663), Ettin and mmBERT: rotary positions, windows in two of three layers, gated
/// feed-forward networks, normalization before sublayers, hardly any bias.
const MODERNBERT: Family = Family {
    types: &[("modernbert", "ModernBertForSequenceClassification")],
    names: MODERNBERT_NAMES,
    positions: Positions::None,
    token_types: None,
    pad_token_id: 50283,
    defaults: Defaults { dropout: 0.0, norm_eps: 1e-5, ..BERT.defaults },
    norms: Norms::Before,
    attention: AttentionKind::Alternating,
    is_gated: true,
    biases: Biases::Stated,
    head: Head { activation: None, drops_input: false, has_norm: true },
    ..BERT
};

/// DeBERTa-v2, -v3 (He et al., arXiv 2006.03654 and 2111.09543) and mDeBERTa: products with vectors for distances; a pooler
/// with GELU.
const DEBERTA: Family = Family {
    types: &[("deberta-v2", "DebertaV2ForSequenceClassification")],
    names: DEBERTA_NAMES,
    positions: Positions::TableIfBiased,
    token_types: Some(0),
    defaults: Defaults { norm_eps: 1e-7, ..BERT.defaults },
    only: &[("conv_kernel_size", 0)],
    attention: AttentionKind::Disentangled,
    head: Head { activation: None, drops_input: true, has_norm: false },
    ..BERT
};

/// MPNet (Song et al., arXiv 2004.09297): a number for each distance and head.
const MPNET: Family = Family {
    types: &[("mpnet", "MPNetForSequenceClassification")],
    names: MPNET_NAMES,
    positions: Positions::TableBehind(1),
    token_types: None,
    pad_token_id: 1,
    attention: AttentionKind::Biased,
    ..ROBERTA
};

/// ALBERT (Lan et al., arXiv 1909.11942): one layer's weights in all of them; embeddings of their own width.
const ALBERT: Family = Family {
    types: &[("albert", "AlbertForSequenceClassification")],
    names: ALBERT_NAMES,
    width: EmbeddingWidth::Own { usual: 128, is_always_projected: true },
    defaults: Defaults { dropout: 0.0, classifier_dropout: Some(0.1), activation: "gelu_new", ..BERT.defaults },
    only: &[("num_hidden_groups", 1), ("inner_group_num", 1)],
    dropped: Dropped { attention_output: true, output: false },
    ..BERT
};

/// A table of vectors for tokens, and a head that reads their mean: what [`crate::static_model`] makes of a trained model.
const STATIC: Family = Family {
    types: &[(STATIC_TYPE, "NimbertStaticForSequenceClassification")],
    names: STATIC_NAMES,
    positions: Positions::None,
    token_types: None,
    attention: AttentionKind::None,
    ..BERT
};

/// The `model_type` of models without layers.
pub(super) const STATIC_TYPE: &str = "nimbert-static";

impl Family {
    /// Whether all layers have the same weights.
    pub(super) fn shares_layers(&self) -> bool {
        matches!(self.names.layers, Layers::Shared(_))
    }

    /// The family of a `model_type`.
    pub(super) fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.types.iter().any(|(name, _)| *name == model_type))
    }

    /// What `model_type` may be, for messages.
    pub(super) fn model_types() -> String {
        FAMILIES.iter().flat_map(|family| family.types).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// What is missing for a `model_type` that is none of them, where that is known.
    pub(super) fn missing(model_type: &str) -> Option<&'static str> {
        MISSING.iter().find(|(name, _)| *name == model_type).map(|(_, missing)| *missing)
    }

    /// The name of the words' embeddings.
    pub(crate) fn word_embeddings(&self) -> String {
        format!("{}.{}.weight", self.names.base, self.names.words)
    }

    /// Whether the first layer lacks what others have, so that none of these can take its place.
    pub(crate) fn has_first_layer_of_its_own(&self) -> bool {
        self.norms == Norms::Before
    }

    /// The names under which a parameter stands in a model that has only those of the layers, in that order; its own outside
    /// of layers.
    pub(crate) fn moved_to_layers(&self, name: &str, layers: &[usize]) -> Vec<String> {
        let Some((index, part)) = self.names.layer_part(name) else { return vec![name.to_owned()] };
        let places = layers.iter().enumerate().filter(|(_, layer)| **layer == index);
        places.map(|(place, _)| self.names.in_layer(place, part)).collect()
    }

    /// transformers' class of a classifier of that `model_type`.
    pub(super) fn classifier_class(&self, model_type: &str) -> &'static str {
        let class = self.types.iter().find(|(name, _)| *name == model_type);
        class.unwrap_or(&self.types[0]).1
    }
}

/// What the parameters are called; `.weight` and `.bias` follow. Outside of the head, the base comes first.
#[derive(Debug)]
pub(super) struct Names {
    /// The first part of every name outside of the head.
    pub(super) base: &'static str,
    pub(super) words: &'static str,
    pub(super) positions: &'static str,
    pub(super) token_types: &'static str,
    /// Their layer normalization; empty: none.
    pub(super) embeddings_norm: &'static str,
    /// The layer from the embeddings' width to the encoder's.
    pub(super) embeddings_project: &'static str,
    /// What belongs to distances between tokens; empty: nothing.
    pub(super) distances: &'static str,
    /// Its layer normalization.
    pub(super) distances_norm: &'static str,
    pub(super) layers: Layers,
    pub(super) projections: Projections,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
    /// Layer normalization behind all layers; empty: none.
    pub(super) final_norm: &'static str,
    /// The head's first layer, its whole name.
    pub(super) head_dense: &'static str,
    /// The layer normalization behind it, its whole name.
    pub(super) head_norm: &'static str,
    /// The head's last layer, its whole name.
    pub(super) head_output: &'static str,
}

/// Where the layers' parameters are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layers {
    /// In a list, each layer its own.
    Each(&'static str),
    /// Under this name, one layer's for all.
    Shared(&'static str),
}

/// The projections of attention, by their names in a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Projections {
    /// Query, key and value.
    Three([&'static str; 3]),
    /// One matrix of the three, one under the other.
    One(&'static str),
}

const BERT_NAMES: Names = Names {
    base: "bert",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embeddings_norm: "embeddings.LayerNorm",
    embeddings_project: "embeddings_project",
    distances: "",
    distances_norm: "",
    layers: Layers::Each("encoder.layer"),
    projections: Projections::Three(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    final_norm: "",
    head_dense: "bert.pooler.dense",
    head_norm: "",
    head_output: "classifier",
};

const DISTILBERT_NAMES: Names = Names {
    base: "distilbert",
    layers: Layers::Each("transformer.layer"),
    projections: Projections::Three(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
    head_dense: "pre_classifier",
    ..BERT_NAMES
};

const MODERNBERT_NAMES: Names = Names {
    base: "model",
    words: "embeddings.tok_embeddings",
    embeddings_norm: "embeddings.norm",
    layers: Layers::Each("layers"),
    projections: Projections::One("attn.Wqkv"),
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    intermediate: "mlp.Wi",
    output: "mlp.Wo",
    output_norm: "mlp_norm",
    final_norm: "final_norm",
    head_dense: "head.dense",
    head_norm: "head.norm",
    ..BERT_NAMES
};

const DEBERTA_NAMES: Names = Names {
    base: "deberta",
    distances: "encoder.rel_embeddings",
    distances_norm: "encoder.LayerNorm",
    projections: Projections::Three([
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ]),
    head_dense: "pooler.dense",
    ..BERT_NAMES
};

const MPNET_NAMES: Names = Names {
    base: "mpnet",
    distances: "encoder.relative_attention_bias",
    projections: Projections::Three(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..ROBERTA.names
};

const ALBERT_NAMES: Names = Names {
    base: "albert",
    embeddings_project: "encoder.embedding_hidden_mapping_in",
    layers: Layers::Shared("encoder.albert_layer_groups.0.albert_layers.0"),
    projections: Projections::Three(["attention.query", "attention.key", "attention.value"]),
    attention_output: "attention.dense",
    attention_norm: "attention.LayerNorm",
    intermediate: "ffn",
    output: "ffn_output",
    output_norm: "full_layer_layer_norm",
    head_dense: "albert.pooler",
    ..BERT_NAMES
};

const STATIC_NAMES: Names = Names {
    base: "static",
    words: "embeddings",
    embeddings_norm: "",
    head_dense: "head.dense",
    head_output: "head.output",
    ..BERT_NAMES
};

impl Names {
    /// The whole name of what stands outside of layers and head.
    pub(super) fn whole(&self, part: &str) -> String {
        format!("{}.{part}", self.base)
    }

    /// A part of layer `index`, such as `output`.
    pub(super) fn in_layer(&self, index: usize, part: &str) -> String {
        match self.layers {
            Layers::Each(list) => format!("{}.{list}.{index}.{part}", self.base),
            Layers::Shared(layer) => format!("{}.{layer}.{part}", self.base),
        }
    }

    /// Of a parameter that is one layer's alone, the layer and the rest of the name.
    pub(super) fn layer_part<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let Layers::Each(list) = self.layers else { return None };
        let rest = name.strip_prefix(self.base)?.strip_prefix('.')?.strip_prefix(list)?.strip_prefix('.')?;
        let (index, part) = rest.split_once('.')?;
        Some((index.parse().ok()?, part))
    }

    /// Whether it is a parameter of all layers.
    pub(super) fn is_shared(&self, name: &str) -> bool {
        matches!(self.layers, Layers::Shared(_)) && name.starts_with(&self.in_layer(0, ""))
    }

    /// How the names of all that lies under the layers begin.
    pub(super) fn under_layers(&self) -> Vec<String> {
        let parts = ["embeddings", self.embeddings_project, self.distances, self.distances_norm];
        parts.into_iter().filter(|part| !part.is_empty()).map(|part| self.whole(part)).collect()
    }

    /// A file's name for a tensor as transformers' classifiers have it. A bare encoder lacks the base, and models converted
    /// from TensorFlow call layer normalization's parameters gamma and beta.
    pub(super) fn canonical(&self, name: &str) -> String {
        let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
        let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let (Layers::Each(layers) | Layers::Shared(layers)) = self.layers;
        let inner = ["embeddings", "pooler", layers, self.embeddings_project, self.final_norm];
        let of_head = [self.head_dense, self.head_norm, self.head_output];
        let begins = |parts: &[&str]| parts.iter().any(|part| first(part) == first(&name));
        match begins(&inner) && !begins(&of_head) {
            true => self.whole(&name),
            false => name,
        }
    }
}
