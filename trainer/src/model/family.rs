//! The families of encoders, and in what they differ from BERT: a table. Nothing else asks for a `model_type`.

use crate::ops::Activation;

/// A family of encoders with a classification head.
#[derive(Debug)]
pub struct Family {
    /// What `model_type` may be, and transformers' class of such a classifier.
    pub(super) types: &'static [(&'static str, &'static str)],
    pub(crate) names: Names,
    pub(super) positions: Positions,
    /// Whether embeddings of token types are added.
    pub(super) has_token_types: bool,
    /// The width of embeddings where `embedding_size` is not said; none: they are as wide as the encoder.
    pub(super) embedding_size: Option<usize>,
    /// The pad token's id where it is not said.
    pub(super) pad_token_id: u32,
    pub(crate) head: Head,
}

/// How tokens know their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// By rows of a table, from the first.
    Table,
    /// By rows of a table, from that behind the pad token's id.
    TableBehindPad,
}

/// Two linear layers, and what is between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Behind the first.
    pub(crate) activation: Activation,
    /// Whether there is dropout before the first too.
    pub(super) drops_input: bool,
}

/// All of them.
static FAMILIES: [Family; 4] = [BERT, DISTILBERT, ELECTRA, ROBERTA];

/// BERT (Devlin et al., arXiv 1810.04805): a pooler with tanh before the classifier.
const BERT: Family = Family {
    types: &[("bert", "BertForSequenceClassification")],
    names: BERT_NAMES,
    positions: Positions::Table,
    has_token_types: true,
    embedding_size: None,
    pad_token_id: 0,
    head: Head { activation: Activation::Tanh, drops_input: false },
};

/// DistilBERT (Sanh et al., arXiv 1910.01108): no token types; a dense layer with ReLU.
const DISTILBERT: Family = Family {
    types: &[("distilbert", "DistilBertForSequenceClassification")],
    names: DISTILBERT_NAMES,
    has_token_types: false,
    head: Head { activation: Activation::Relu, drops_input: false },
    ..BERT
};

/// ELECTRA's discriminator (Clark et al., arXiv 2003.10555): embeddings of their own width; a dense layer with GELU.
const ELECTRA: Family = Family {
    types: &[("electra", "ElectraForSequenceClassification")],
    names: Names { base: "electra", head_dense: "classifier.dense", head_output: "classifier.out_proj", ..BERT_NAMES },
    embedding_size: Some(128),
    head: Head { activation: Activation::Gelu, drops_input: true },
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
    head: Head { activation: Activation::Tanh, drops_input: true },
    ..BERT
};

impl Family {
    /// The family of a `model_type`.
    pub(super) fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.types.iter().any(|(name, _)| *name == model_type))
    }

    /// What `model_type` may be, for messages.
    pub(super) fn model_types() -> String {
        FAMILIES.iter().flat_map(|family| family.types).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// transformers' class of a classifier of that `model_type`.
    pub(super) fn classifier_class(&self, model_type: &str) -> &'static str {
        let class = self.types.iter().find(|(name, _)| *name == model_type);
        class.unwrap_or(&self.types[0]).1
    }
}

/// What the parameters are called; `.weight` and `.bias` follow.
#[derive(Debug)]
pub(crate) struct Names {
    /// The first part of every name outside of the head.
    pub base: &'static str,
    /// The list of layers, behind the base.
    pub layers: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub attention_output: &'static str,
    pub attention_norm: &'static str,
    pub intermediate: &'static str,
    pub output: &'static str,
    pub output_norm: &'static str,
    /// The head's first layer, its whole name.
    pub head_dense: &'static str,
    /// The head's last layer, its whole name.
    pub head_output: &'static str,
}

const BERT_NAMES: Names = Names {
    base: "bert",
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    head_dense: "bert.pooler.dense",
    head_output: "classifier",
};

const DISTILBERT_NAMES: Names = Names {
    base: "distilbert",
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
    head_dense: "pre_classifier",
    head_output: "classifier",
};

impl Names {
    /// A part of layer `index`, such as `query`.
    pub(crate) fn in_layer(&self, index: usize, part: &str) -> String {
        format!("{}.{}.{index}.{part}", self.base, self.layers)
    }

    /// How the names of all embeddings begin, those of the layer behind them included.
    pub(crate) fn embeddings_prefix(&self) -> String {
        format!("{}.embeddings", self.base)
    }

    pub(crate) fn word_embeddings(&self) -> String {
        format!("{}.embeddings.word_embeddings.weight", self.base)
    }

    pub(crate) fn position_embeddings(&self) -> String {
        format!("{}.embeddings.position_embeddings.weight", self.base)
    }

    pub(crate) fn token_type_embeddings(&self) -> String {
        format!("{}.embeddings.token_type_embeddings.weight", self.base)
    }

    pub(crate) fn embeddings_norm(&self) -> String {
        format!("{}.embeddings.LayerNorm", self.base)
    }

    /// The layer from the embeddings' width to the encoder's.
    pub(crate) fn embeddings_project(&self) -> String {
        format!("{}.embeddings_project", self.base)
    }
}
