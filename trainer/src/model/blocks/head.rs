//! From what the encoder says of a text to logits: two linear layers with an activation, and perhaps normalization, between.

use candle_core::Tensor;

use super::{linear::Linear, norm::Norm};
use crate::{
    error::Result,
    model::{config::EncoderConfig, parameters::Loader},
    onnx::Exporter,
    ops::{self, Activation},
    random::DropoutKeys,
};

#[derive(Debug, Clone)]
pub(in crate::model) struct Head {
    dense: Linear,
    activation: Activation,
    norm: Option<Norm>,
    output: Linear,
    /// Of what it reads, and before the last layer.
    dropout: [f32; 2],
}

/// What the head reads, in the graph.
const INPUT: &str = "head/input";

impl Head {
    /// Reads the head, and makes anew what is missing, from the generator of `loader`.
    pub(in crate::model) fn load(loader: &mut Loader, config: &EncoderConfig, labels: usize) -> Result<Self> {
        let names = &config.family.names;
        let (hidden, deviation) = (config.hidden_size, config.initializer_range);
        let dense = Linear::load_or_new(loader, names.head_dense, [hidden, hidden], config.biases.head, deviation)?;
        let (has_bias, eps) = (config.biases.norms, config.layer_norm_eps);
        let norm = match config.family.head.has_norm {
            true => Some(Norm::load_or_new(loader, names.head_norm, hidden, has_bias, eps)?),
            false => None,
        };
        let output = Linear::load_or_new(loader, names.head_output, [hidden, labels], true, deviation)?;
        let dropout = [config.dropout.head_input, config.dropout.classifier];
        Ok(Self { dense, activation: config.head_act, norm, output, dropout })
    }

    pub(in crate::model) fn freeze(&mut self) {
        [&mut self.dense, &mut self.output].into_iter().for_each(Linear::freeze);
        self.norm.iter_mut().for_each(Norm::freeze);
    }

    /// `[rows, hidden]` → logits `[rows, labels]`
    pub(in crate::model) fn forward(&self, x: &Tensor, keys: &mut DropoutKeys) -> Result<Tensor> {
        let [input, classifier] = self.dropout;
        let x = ops::dropout(x, keys.next(input))?;
        let dense = ops::activation(&self.dense.forward(&x)?, self.activation)?;
        let dense = Norm::forward_if_any(self.norm.as_ref(), &dense)?;
        self.output.forward(&ops::dropout(&dense, keys.next(classifier))?)
    }

    /// What it reads in the graph, which can be quantized.
    pub(in crate::model) const fn graph_input() -> &'static str {
        INPUT
    }

    /// The nodes from [`Self::graph_input`] to `logits`, divided by `temperature`.
    pub(in crate::model) fn graph(&self, exporter: &mut Exporter<'_>, temperature: f32) -> Result<()> {
        let dense = exporter.corrected(self.dense.affine()?, INPUT)?;
        let product = exporter.product("head/dense", INPUT, &dense.weight)?;
        let mut x = exporter.activation("head/activated", &product, dense.bias.as_ref(), self.activation)?;
        if let Some(norm) = &self.norm {
            x = norm.graph(exporter, "head/norm", &x, None)?;
        }
        let mut output = self.output.affine()?;
        if temperature != 1.0 {
            output = output.scaled(1.0 / f64::from(temperature))?;
        }
        exporter.affine("logits", "logits", &x, &output)?;
        Ok(())
    }
}
