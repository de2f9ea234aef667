//! The members of the BERT family, and in what they differ: names, embeddings, and the head.

use crate::ops::Activation;

/// A member of the BERT family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// BERT (Devlin et al., arXiv 1810.04805): a pooler with tanh before the classifier.
    Bert,
    /// DistilBERT (Sanh et al., arXiv 1910.01108): no token types; a dense layer with ReLU.
    Distilbert,
    /// ELECTRA's discriminator (Clark et al., arXiv 2003.10555): embeddings of their own width; a dense layer with GELU.
    Electra,
    /// RoBERTa (Liu et al., arXiv 1907.11692), XLM-R and CamemBERT: positions begin behind the pad token's id; a dense layer
    /// with tanh.
    Roberta,
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

const BERT: Names = Names {
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

const DISTILBERT: Names = Names {
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

const ELECTRA: Names =
    Names { base: "electra", head_dense: "classifier.dense", head_output: "classifier.out_proj", ..BERT };

const ROBERTA: Names =
    Names { base: "roberta", head_dense: "classifier.dense", head_output: "classifier.out_proj", ..BERT };

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

impl Architecture {
    /// What `model_type` may be.
    pub const MODEL_TYPES: [&str; 6] = ["bert", "distilbert", "electra", "roberta", "xlm-roberta", "camembert"];

    pub(super) fn from_model_type(model_type: &str) -> Option<Self> {
        match model_type {
            "bert" => Some(Self::Bert),
            "distilbert" => Some(Self::Distilbert),
            "electra" => Some(Self::Electra),
            "roberta" | "xlm-roberta" | "camembert" => Some(Self::Roberta),
            _ => None,
        }
    }

    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Bert => &BERT,
            Self::Distilbert => &DISTILBERT,
            Self::Electra => &ELECTRA,
            Self::Roberta => &ROBERTA,
        }
    }

    /// The activation between the head's two layers.
    pub(crate) fn head_activation(self) -> Activation {
        match self {
            Self::Bert | Self::Roberta => Activation::Tanh,
            Self::Distilbert => Activation::Relu,
            Self::Electra => Activation::Gelu,
        }
    }

    /// Whether the encoder's output goes through dropout before the head's first layer too.
    pub(super) fn drops_head_input(self) -> bool {
        matches!(self, Self::Electra | Self::Roberta)
    }

    pub(super) fn has_token_types(self) -> bool {
        self != Self::Distilbert
    }

    pub(super) fn embedding_size(self, configured: Option<usize>, hidden_size: usize) -> usize {
        match self {
            Self::Electra => configured.unwrap_or(128),
            _ => hidden_size,
        }
    }

    /// RoBERTa numbers positions from the pad token's id plus one.
    pub(super) fn position_offset(self, pad_token_id: u32) -> usize {
        if self == Self::Roberta { pad_token_id as usize + 1 } else { 0 }
    }

    pub(super) fn default_pad_token_id(self) -> u32 {
        u32::from(self == Self::Roberta)
    }

    /// transformers' class of a classifier.
    pub(super) fn classifier_class(self, model_type: &str) -> &'static str {
        match self {
            Self::Bert => "BertForSequenceClassification",
            Self::Distilbert => "DistilBertForSequenceClassification",
            Self::Electra => "ElectraForSequenceClassification",
            Self::Roberta if model_type == "xlm-roberta" => "XLMRobertaForSequenceClassification",
            Self::Roberta if model_type == "camembert" => "CamembertForSequenceClassification",
            Self::Roberta => "RobertaForSequenceClassification",
        }
    }
}
