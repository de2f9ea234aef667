//! Layer normalization (Ba et al., arXiv 1607.06450), with a bias or without.

use candle_core::Tensor;

use crate::{
    error::Result,
    model::parameters::Loader,
    onnx::Exporter,
    ops::{self, Tape},
};

#[derive(Debug, Clone)]
pub(in crate::model) struct Norm {
    weight: Tensor,
    /// Zeros that are no parameter where there is none.
    bias: Tensor,
    eps: f32,
}

impl Norm {
    pub(in crate::model) fn load(
        loader: &mut Loader,
        name: &str,
        width: usize,
        has_bias: bool,
        eps: f32,
    ) -> Result<Self> {
        let weight = loader.read(&format!("{name}.weight"), &[width])?;
        let bias = has_bias.then(|| loader.read(&format!("{name}.bias"), &[width])).transpose()?;
        Self::new(weight, bias, eps)
    }

    /// One of the head, made anew where the file lacks it.
    pub(super) fn load_or_new(loader: &mut Loader, name: &str, width: usize, has_bias: bool, eps: f32) -> Result<Self> {
        let weight = loader.read_or_ones(&format!("{name}.weight"), &[width])?;
        let bias = has_bias.then(|| loader.read_or_normal(&format!("{name}.bias"), &[width], 0.0)).transpose()?;
        Self::new(weight, bias, eps)
    }

    fn new(weight: Tensor, bias: Option<Tensor>, eps: f32) -> Result<Self> {
        let bias = bias.map_or_else(|| weight.detach().zeros_like(), Ok)?;
        Ok(Self { weight, bias, eps })
    }

    pub(in crate::model) fn freeze(&mut self) {
        (self.weight, self.bias) = (self.weight.detach(), self.bias.detach());
    }

    /// `[n, width]` → `[n, width]`
    pub(in crate::model) fn forward(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.weight, &self.bias, self.eps, tape)?)
    }

    /// The same where there is one, else `x`.
    pub(in crate::model) fn forward_if_any(norm: Option<&Self>, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, tape))
    }

    /// The node that normalizes `x`; `shift` is added to its result, which is called `output`.
    pub(in crate::model) fn graph(
        &self,
        exporter: &mut Exporter<'_>,
        output: &str,
        x: &str,
        shift: Option<&Tensor>,
    ) -> Result<String> {
        let bias = self.bias.detach();
        let bias = shift.map_or(Ok(bias.clone()), |shift| bias + shift)?;
        exporter.layer_norm(output, x, [&self.weight.detach(), &bias], self.eps)
    }
}
