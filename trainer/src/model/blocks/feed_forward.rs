//! Two linear layers with an activation between them, which may be gated (Shazeer, arXiv 2002.05202).

use candle_core::Tensor;

use super::linear::Linear;
use crate::{
    error::Result,
    model::{config::EncoderConfig, parameters::Loader},
    onnx::{Affine, Exporter},
    ops::{self, Activation, Dropout, Tape},
};

#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    first: First,
    activation: Activation,
    output: Linear,
}

/// What the activation is applied to.
#[derive(Debug, Clone)]
enum First {
    /// `[n, hidden]` → `[n, intermediate]`
    Plain(Linear),
    /// `[n, hidden]` → `[n, 2 · intermediate]`: what is activated, and what that is multiplied by.
    Gated(Linear),
}

impl FeedForward {
    pub(super) fn load(loader: &mut Loader, name: impl Fn(&str) -> String, config: &EncoderConfig) -> Result<Self> {
        let (hidden, width, has_bias) = (config.hidden_size, config.intermediate_size, config.biases.feed_forward);
        let names = &config.family.names;
        let first = name(names.intermediate);
        let first = match config.family.is_gated {
            false => First::Plain(Linear::load(loader, &first, [hidden, width], has_bias)?),
            true => First::Gated(Linear::load(loader, &first, [hidden, 2 * width], has_bias)?),
        };
        let output = Linear::load(loader, &name(names.output), [width, hidden], has_bias)?;
        Ok(Self { first, activation: config.hidden_act, output })
    }

    pub(super) fn freeze(&mut self) {
        let (First::Plain(first) | First::Gated(first)) = &mut self.first;
        [first, &mut self.output].into_iter().for_each(Linear::freeze);
    }

    /// `[n, hidden]` → `[n, hidden]`
    pub(super) fn forward(&self, x: &Tensor, dropout: Option<Dropout>, tape: Option<&Tape>) -> Result<Tensor> {
        let activated = match (&self.first, dropout) {
            (First::Plain(first), None) => {
                return self.output.forward_activated(&first.forward(x, tape)?, self.activation, tape);
            }
            (First::Plain(first), Some(_)) => ops::activation(&first.forward(x, tape)?, self.activation, tape)?,
            (First::Gated(first), _) => ops::gated_activation(&first.forward(x, tape)?, self.activation, tape)?,
        };
        self.output.forward(&ops::dropout(&activated, dropout, tape)?, tape)
    }

    /// The constants of the last layer, which reads `activated`.
    pub(super) fn output_affine(&self, exporter: &Exporter<'_>, activated: &str) -> Result<Affine> {
        exporter.corrected(self.output.affine()?, activated)
    }

    /// The nodes up to what the last layer reads, called `activated`; `x` has been moved by `shift`.
    pub(super) fn graph(
        &self,
        exporter: &mut Exporter<'_>,
        (name, activated): (&str, &str),
        x: &str,
        shift: Option<&Tensor>,
    ) -> Result<()> {
        match &self.first {
            First::Plain(first) => {
                let affine = exporter.corrected(first.affine()?, x)?.of_shifted(shift)?;
                let product = exporter.product(&format!("{name}/intermediate"), x, &affine.weight)?;
                exporter.activation(activated, &product, affine.bias.as_ref(), self.activation)?;
            }
            First::Gated(first) => {
                let affine = exporter.corrected(first.affine()?, x)?.of_shifted(shift)?;
                let [first, gate] = affine.halves()?;
                let product = exporter.product(&format!("{name}/intermediate"), x, &first.weight)?;
                let value = format!("{name}/intermediate/activated");
                let value = exporter.activation(&value, &product, first.bias.as_ref(), self.activation)?;
                let gate = exporter.affine(&format!("{name}/gate"), &format!("{name}/gate"), x, &gate)?;
                exporter.builder.node(activated, "Mul", &[&value, &gate], vec![]);
            }
        }
        Ok(())
    }
}
