//! y = x Wᵀ + b.

use std::ops::Range;

use candle_core::Tensor;

use crate::{
    error::Result,
    model::parameters::Loader,
    onnx::Affine,
    ops::{self, Activation, Tape},
};

/// A linear layer, with a bias or without; it may be some rows of a matrix that several share.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    rows: Range<usize>,
}

impl Linear {
    pub(super) fn load(loader: &mut Loader, name: &str, [inputs, outputs]: [usize; 2], has_bias: bool) -> Result<Self> {
        let weight = loader.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = has_bias.then(|| loader.read(&format!("{name}.bias"), &[outputs])).transpose()?;
        Ok(Self { weight, bias, rows: 0..outputs })
    }

    /// Layers of as many outputs each that lie in one matrix, one under the other.
    pub(super) fn load_stacked<const N: usize>(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [usize; 2],
        has_bias: bool,
    ) -> Result<[Self; N]> {
        let all = Self::load(loader, name, [inputs, N * outputs], has_bias)?;
        Ok(std::array::from_fn(|place| Self { rows: place * outputs..(place + 1) * outputs, ..all.clone() }))
    }

    /// A layer of the head, made anew where the file lacks it.
    pub(super) fn load_or_new(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [usize; 2],
        has_bias: bool,
        deviation: f32,
    ) -> Result<Self> {
        let weight = loader.read_or_normal(&format!("{name}.weight"), &[outputs, inputs], deviation)?;
        let bias = has_bias.then(|| loader.read_or_normal(&format!("{name}.bias"), &[outputs], 0.0)).transpose()?;
        Ok(Self { weight, bias, rows: 0..outputs })
    }

    pub(super) fn freeze(&mut self) {
        self.weight = self.weight.detach();
        self.bias = self.bias.as_ref().map(Tensor::detach);
    }

    /// The number of outputs.
    pub(super) fn width(&self) -> usize {
        self.rows.len()
    }

    /// `[n, inputs]` → `[n, outputs]`
    pub(super) fn forward(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        Ok(ops::linear_of_rows(x, &self.weight, bias, self.rows.clone(), tape)?)
    }

    /// The same of the activation of `x`.
    pub(super) fn forward_activated(&self, x: &Tensor, function: Activation, tape: Option<&Tape>) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        Ok(ops::linear_of_activated(x, function, &self.weight, bias, self.rows.clone(), tape)?)
    }

    /// The same as constants of a graph.
    pub(super) fn affine(&self) -> Result<Affine> {
        let part = |parameter: &Tensor| parameter.detach().narrow(0, self.rows.start, self.rows.len());
        let bias = self.bias.as_ref().map(part).transpose()?;
        Ok(Affine { weight: part(&self.weight)?.t()?.contiguous()?, bias })
    }
}
