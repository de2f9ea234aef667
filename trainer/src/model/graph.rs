//! The graph of a classifier.
//!
//! It is built for speed, and gives the answers of the model:
//!
//! - Only what the classifier reads is computed: if it reads each text's first token, the last layer has queries, output and
//!   feed-forward of that one alone.
//! - Where normalization stands behind sums, the bias of a projection whose result is added to a residual is moved into the
//!   bias of the normalization that makes the residual, and taken out again from the biases of all else that reads it. With
//!   that, the residual is the summand that `Gemm` starts from, and no addition is left.
//!
//! With ONNX Runtime's own operators ([`Operators::Microsoft`]) there is nothing left for its optimizer to search for.
//! Its attention knows the mask as one length a text, so padding must follow the text.
//!
//! What is summed in fp32 before a rounding must be summed in the same order for every batch. Products by a constant matrix
//! are, since ONNX Runtime packs it beforehand. The others, of the last layer, are made to be: it sums one row otherwise than
//! several, so each text and head is a product for itself; and it divides a sum by the number of columns, so scores have a
//! column a head and not one a token.

use std::collections::BTreeMap;

use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};
use nimbert::session::{DISTANCE, logits_of};

use super::{
    blocks::{Answers, Head, Texts},
    classifier::SequenceClassifier,
    config::Pooling,
};
use crate::{
    error::Result,
    onnx::{Axis, Exporter, GraphConfig, Operators, TokenInputs},
};

/// The operators that a graph is expected to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphNodes {
    /// Layer normalization.
    pub(crate) norms: usize,
    /// Layers whose attention is one operator, where there is one for it.
    pub(crate) fused: usize,
    /// Layers whose attention is spelled out always.
    pub(crate) spelled: usize,
}

impl SequenceClassifier {
    /// The graph: inputs `input_ids`, `attention_mask` and, where the encoder has token types, `token_type_ids`
    /// (`int64 [batch, sequence]`), outputs `logits` (`float [batch, labels]`), `logits_1` and so on of further
    /// tasks, and, with [`GraphConfig::distance`], `distance` (`float [batch, 1]`).
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn graph(&self, config: GraphConfig<'_>) -> Result<ModelProto> {
        Ok(self.exported(config)?.finish())
    }

    /// The graph in fp32; and of each activation that weights read, by its channels: the largest of them.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub(crate) fn graph_and_largest_weights(&self) -> Result<(ModelProto, BTreeMap<String, Vec<f32>>)> {
        let mut exporter = self.exported(GraphConfig::FP32)?;
        let largest = exporter.take_largest_weights();
        Ok((exporter.finish(), largest))
    }

    fn exported<'a>(&self, config: GraphConfig<'a>) -> Result<Exporter<'a>> {
        let mut exporter = Exporter::new(config);
        let axes = || [Axis::Named("batch"), Axis::Named("sequence")];
        let mut input = |name: &str| exporter.builder.input(name, DataType::Int64, &axes());
        let (ids, attention_mask) = (input("input_ids"), input("attention_mask"));
        let token_types = (self.config.type_vocab_size > 0).then(|| input("token_type_ids"));
        let texts = Texts::new(&mut exporter, &self.config, &ids, &attention_mask);
        let inputs = TokenInputs { ids, token_types, length: texts.length().to_owned() };
        let moved_by = |exporter: &Exporter<'_>, index: usize| match self.layers.get(index) {
            Some(layer) => layer.moved_by(exporter, index),
            None => Ok(None),
        };
        let shift = moved_by(&exporter, 0)?;
        // What is behind the layers before `index`.
        let name = |index: usize| match index == self.layers.len() {
            true => self.encoded_name().to_owned(),
            false => format!("layer.{index}/input"),
        };
        self.embeddings.graph(&mut exporter, &inputs, &name(0), shift.as_ref())?;
        for (index, layer) in self.layers.iter().enumerate() {
            let output = name(index + 1);
            let shift = moved_by(&exporter, index + 1)?;
            let texts = (&texts, self.distances.as_ref());
            layer.graph(&mut exporter, index, texts, self.graph_answers(index), (&output, shift.as_ref()))?;
        }
        if let Some(norm) = &self.final_norm {
            norm.graph(&mut exporter, self.normed_name(), self.encoded_name(), None)?;
        }
        if self.config.pooling == Pooling::Mean {
            texts.mean(&mut exporter, Head::graph_input(), self.normed_name())?;
        }
        self.head.graph(&mut exporter, &self.tasks)?;
        for (index, task) in self.tasks.iter().enumerate() {
            let axes = [Axis::Named("batch"), Axis::Size(task.ids.len())];
            exporter.builder.output(&logits_of(index), DataType::Float, &axes);
        }
        if config.distance.is_some() {
            exporter.builder.output(DISTANCE, DataType::Float, &[Axis::Named("batch"), Axis::Size(1)]);
        }
        Ok(exporter)
    }

    /// What the last layer's result is called.
    fn encoded_name(&self) -> &'static str {
        if self.final_norm.is_some() { "encoded" } else { self.normed_name() }
    }

    /// What that is called behind the last normalization.
    fn normed_name(&self) -> &'static str {
        match self.config.pooling {
            Pooling::First => Head::graph_input(),
            Pooling::Mean => "normed",
        }
    }

    /// The tokens that layer `index` computes in the graph.
    fn graph_answers(&self, index: usize) -> Answers {
        match self.config.pooling {
            Pooling::First if index + 1 == self.layers.len() => Answers::First,
            _ => Answers::All,
        }
    }

    /// The names of all activations that [`Self::graph`] can quantize, in the order in which they are computed.
    pub fn quantizable(&self) -> Vec<String> {
        let layers = self.layers.iter().enumerate();
        let of_layers = layers
            .flat_map(|(index, layer)| layer.quantizable(index, self.distances.as_ref(), self.graph_answers(index)));
        of_layers.chain(self.head.quantizable()).collect()
    }

    /// The operators that [`Self::graph`] has.
    pub(crate) fn graph_nodes(&self, operators: Operators) -> GraphNodes {
        let layers = self.layers.iter().enumerate();
        let norms = layers.clone().map(|(_, layer)| layer.norms()).sum::<usize>();
        let outside = self.embeddings.norms() + usize::from(self.final_norm.is_some()) + self.head.norms();
        let fused = layers.filter(|(index, _)| self.graph_answers(*index) == Answers::All).count();
        let fused = if operators == Operators::Microsoft { fused } else { 0 };
        GraphNodes { norms: norms + outside, fused, spelled: self.layers.len() - fused }
    }
}
