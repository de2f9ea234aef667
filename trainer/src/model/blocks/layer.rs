//! An encoder layer: attention and a feed-forward network, each with a residual sum, and where normalization stands.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    attention::{AttentionInput, SelfAttention, Texts},
    batch::{Answers, BatchContext},
    distances::DistanceTable,
    feed_forward::FeedForward,
    norm::Norm,
};
use crate::{
    error::Result,
    model::{
        config::{DropoutConfig, EncoderConfig},
        family::Norms,
        parameters::Loader,
    },
    onnx::Exporter,
    ops::{self, Angles},
    random::DropoutKeys,
};

#[derive(Debug, Clone)]
pub(in crate::model) struct Layer {
    norms: Norms,
    attention: SelfAttention,
    /// None in the first layer where norms stand before sublayers.
    attention_norm: Option<Norm>,
    feed_forward: FeedForward,
    output_norm: Norm,
}

impl Layer {
    pub(in crate::model) fn load(
        loader: &mut Loader,
        index: usize,
        config: &EncoderConfig,
        angles: Option<Arc<Angles>>,
    ) -> Result<Self> {
        let names = &config.family.names;
        let name = |part: &str| names.in_layer(index, part);
        let norms = config.family.norms;
        let (hidden, has_bias, eps) = (config.hidden_size, config.biases.norms, config.layer_norm_eps);
        let attention = SelfAttention::load(loader, name, config, index, angles)?;
        let attention_norm = match (norms, index) {
            (Norms::Before, 0) => None,
            _ => Some(Norm::load(loader, &name(names.attention_norm), hidden, has_bias, eps)?),
        };
        Ok(Self {
            norms,
            attention,
            attention_norm,
            feed_forward: FeedForward::load(loader, name, config)?,
            output_norm: Norm::load(loader, &name(names.output_norm), hidden, has_bias, eps)?,
        })
    }

    pub(in crate::model) fn freeze(&mut self) {
        self.attention.freeze();
        self.feed_forward.freeze();
        self.attention_norm.iter_mut().chain([&mut self.output_norm]).for_each(Norm::freeze);
    }

    /// `x` `[tokens, hidden]` → a row for each that `answers` names.
    pub(in crate::model) fn forward(
        &self,
        x: &Tensor,
        batch: &BatchContext,
        answers: Answers,
        rates: &DropoutConfig,
        keys: &mut DropoutKeys,
    ) -> Result<Tensor> {
        let inner = [keys.next(rates.attention_probabilities), keys.next(rates.distances)];
        let attended = keys.next(rates.attention_output);
        let (activated, output) = (keys.next(rates.activated), keys.next(rates.output));
        let residual = batch.answered(x, answers)?;
        let tape = Some(&batch.tape);
        match self.norms {
            Norms::Behind => {
                let sum = self.attention.forward(x, batch, answers, inner)?;
                let sum = ops::dropout_add(&sum, &residual, attended, tape)?;
                let x = Norm::forward_if_any(self.attention_norm.as_ref(), &sum, tape)?;
                let sum = self.feed_forward.forward(&x, activated, tape)?;
                self.output_norm.forward(&ops::dropout_add(&sum, &x, output, tape)?, tape)
            }
            Norms::Before => {
                let x = Norm::forward_if_any(self.attention_norm.as_ref(), x, tape)?;
                let sum = self.attention.forward(&x, batch, answers, inner)?;
                let x = ops::dropout_add(&sum, &residual, attended, tape)?;
                let sum = self.feed_forward.forward(&self.output_norm.forward(&x, tape)?, activated, tape)?;
                Ok(ops::dropout_add(&sum, &x, output, tape)?)
            }
        }
    }

    /// What the residual of attention's sum is moved by before it gets here: with the bias of attention's output in it, the sum
    /// needs no other addition. Only a normalization can move it.
    pub(in crate::model) fn moved_by(&self, exporter: &Exporter<'_>, index: usize) -> Result<Option<Tensor>> {
        match self.norms {
            Norms::Behind => Ok(self.attention.output_affine(exporter, &format!("layer.{index}/context"))?.bias),
            Norms::Before => Ok(None),
        }
    }

    /// What attention reads in the graph: all tokens, and those that are answered.
    fn attention_inputs(&self, index: usize, answers: Answers) -> [String; 2] {
        let (all, first) = match (self.norms, &self.attention_norm) {
            (Norms::Before, Some(_)) => ("normalized", "normalized/first"),
            _ => ("input", "first"),
        };
        let answered = if answers == Answers::All { all } else { first };
        [all, answered].map(|part| format!("layer.{index}/{part}"))
    }

    /// The values of the graph that can be quantized.
    pub(in crate::model) fn quantizable(
        &self,
        index: usize,
        distances: Option<&DistanceTable>,
        answers: Answers,
    ) -> Vec<String> {
        let [all, answered] = self.attention_inputs(index, answers);
        let parts = ["context", "attended", "activated"].map(|part| format!("layer.{index}/{part}"));
        let keys =
            (all != answered && self.attention.computes_keys(distances.map(DistanceTable::config))).then_some(all);
        [answered].into_iter().chain(keys).chain(parts).collect()
    }

    /// How often it normalizes.
    pub(in crate::model) fn norms(&self) -> usize {
        1 + usize::from(self.attention_norm.is_some())
    }

    /// The nodes that turn `layer.<index>/input` `[tokens, hidden]` into `output`, a row for each that `answers` names. The
    /// input has been moved by [`Self::moved_by`], and the output is moved by `shift`.
    pub(in crate::model) fn graph(
        &self,
        exporter: &mut Exporter<'_>,
        index: usize,
        texts: (&Texts, Option<&DistanceTable>),
        answers: Answers,
        (output, shift): (&str, Option<&Tensor>),
    ) -> Result<()> {
        let name = format!("layer.{index}");
        let part = |part: &str| format!("{name}/{part}");
        let stream = part("input");
        let [all, answered] = self.attention_inputs(index, answers);
        let residual = match answers {
            Answers::All => stream.clone(),
            Answers::First => texts.0.first_rows(exporter, &part("first"), &stream),
        };
        let attention_output = self.attention.output_affine(exporter, &part("context"))?;
        match self.norms {
            Norms::Behind => {
                let input = AttentionInput { all: &all, answered: &answered, shift: attention_output.bias.as_ref() };
                self.attention.graph(exporter, &name, input, texts, answers)?;
                let second = self.feed_forward.output_affine(exporter, &part("activated"))?;
                let sum = part("attention/output");
                exporter.product_plus(&sum, &part("context"), &attention_output.weight, &residual)?;
                let norm = self.attention_norm.as_ref().expect("every layer has one");
                norm.graph(exporter, &part("attended"), &sum, second.bias.as_ref())?;
                self.feed_forward.graph(
                    exporter,
                    (&name, &part("activated")),
                    &part("attended"),
                    second.bias.as_ref(),
                )?;
                exporter.product_plus(&part("output"), &part("activated"), &second.weight, &part("attended"))?;
                self.output_norm.graph(exporter, output, &part("output"), shift)?;
            }
            Norms::Before => {
                if let Some(norm) = &self.attention_norm {
                    norm.graph(exporter, &all, &stream, None)?;
                    if answers == Answers::First {
                        texts.0.first_rows(exporter, &answered, &all);
                    }
                }
                let input = AttentionInput { all: &all, answered: &answered, shift: None };
                self.attention.graph(exporter, &name, input, texts, answers)?;
                let sum = part("attention/output");
                exporter.affine_plus(&sum, &part("context"), &attention_output, &residual)?;
                self.output_norm.graph(exporter, &part("attended"), &sum, None)?;
                self.feed_forward.graph(exporter, (&name, &part("activated")), &part("attended"), None)?;
                let second = self.feed_forward.output_affine(exporter, &part("activated"))?;
                exporter.affine_plus(output, &part("activated"), &second, &sum)?;
            }
        }
        Ok(())
    }
}
