//! From what the encoder says of a text to logits: two linear layers with an activation, and perhaps normalization, between;
//! or one that reads the direction alone.

use candle_core::{D, Device, Tensor};
use nimbert::session::logits_of;

use super::{linear::Linear, norm::Norm};
use crate::{
    error::Result,
    model::{
        config::{EncoderConfig, HeadKind},
        parameters::Loader,
    },
    onnx::{Affine, Exporter},
    ops::{self, Activation, Tape},
    random::DropoutKeys,
    tasks::Tasks,
};

#[derive(Debug, Clone)]
pub(in crate::model) struct Head {
    /// What comes before the last layer; none: what is read is scaled alone.
    dense: Option<Dense>,
    output: Linear,
    /// Of what it reads, and before the last layer.
    dropout: [f32; 2],
}

/// The first of two layers.
#[derive(Debug, Clone)]
struct Dense {
    linear: Linear,
    activation: Activation,
    norm: Option<Norm>,
}

/// Added to a mean square, which may be 0.
const LEAST: f64 = 1e-12;

/// What the head reads, in the graph.
pub(crate) const INPUT: &str = "head/input";

impl Head {
    /// Reads the head, and makes anew what is missing, from the generator of `loader`.
    pub(in crate::model) fn load(loader: &mut Loader, config: &EncoderConfig, labels: usize) -> Result<Self> {
        let names = &config.family.names;
        let (hidden, deviation) = (config.hidden_size, config.initializer_range);
        let dense = match config.head {
            HeadKind::Layers => Some(Dense::load(loader, config)?),
            HeadKind::Linear => None,
        };
        let output = Linear::load_or_new(loader, names.head_output, [hidden, labels], true, deviation)?;
        let dropout = [config.dropout.head_input, config.dropout.classifier];
        Ok(Self { dense, output, dropout })
    }

    pub(in crate::model) fn freeze(&mut self) {
        self.output.freeze();
        if let Some(Dense { linear, norm, .. }) = &mut self.dense {
            linear.freeze();
            norm.iter_mut().for_each(Norm::freeze);
        }
    }

    /// `[rows, hidden]` → logits `[rows, labels]`
    pub(in crate::model) fn forward(&self, x: &Tensor, keys: &mut DropoutKeys, tape: Option<&Tape>) -> Result<Tensor> {
        let x = self.last_layer_input(x, keys, tape)?;
        self.output.forward(&ops::dropout(&x, keys.next(self.dropout[1]), tape)?, tape)
    }

    /// What the last layer reads, before its dropout: `[rows, hidden]`
    pub(in crate::model) fn last_layer_input(
        &self,
        x: &Tensor,
        keys: &mut DropoutKeys,
        tape: Option<&Tape>,
    ) -> Result<Tensor> {
        match &self.dense {
            None => scaled(x),
            Some(Dense { linear, activation, norm }) => {
                let x = ops::dropout(x, keys.next(self.dropout[0]), tape)?;
                let dense = ops::activation(&linear.forward(&x, tape)?, *activation, tape)?;
                Norm::forward_if_any(norm.as_ref(), &dense, tape)
            }
        }
    }

    /// What it reads in the graph.
    pub(in crate::model) const fn graph_input() -> &'static str {
        INPUT
    }

    /// What it reads, if that can be quantized; none for a head of one layer: quantizing that gains nothing.
    pub(in crate::model) fn quantizable(&self) -> Option<String> {
        self.dense.as_ref().map(|_| INPUT.to_owned())
    }

    /// Layer normalization.
    pub(in crate::model) fn norms(&self) -> usize {
        self.dense.as_ref().map_or(0, |dense| usize::from(dense.norm.is_some()))
    }

    /// The nodes from [`Self::graph_input`] to the logits of each task, divided by its temperature, and to `distance`, if it is
    /// asked for.
    pub(in crate::model) fn graph(&self, exporter: &mut Exporter<'_>, tasks: &Tasks) -> Result<()> {
        let mut output = self.output.affine()?;
        let mut unit = None;
        let x = match &self.dense {
            None => {
                // Of vectors of length 1, whose mean square is 1 / width.
                let width = output.weight.dim(0)?;
                output.weight = (&output.weight * (width as f64).sqrt())?;
                unit.insert(unit_graph(exporter, width)?).clone()
            }
            Some(Dense { linear, activation, norm }) => {
                let Affine { weight, bias } = exporter.corrected(linear.affine()?, INPUT)?;
                let product = exporter.product("head/dense", INPUT, &weight)?;
                let x = exporter.activation("head/activated", &product, bias.as_ref(), *activation)?;
                match norm {
                    Some(norm) => norm.graph(exporter, "head/norm", &x, None)?,
                    None => x,
                }
            }
        };
        for (index, task) in tasks.iter().enumerate() {
            let temperature = exporter.config.temperatures.get(index).copied().unwrap_or(1.0);
            exporter.logits(&logits_of(index), &x, &output.columns(task.ids.clone())?, temperature)?;
        }
        if let Some(distance) = exporter.config.distance {
            let unit = unit.map_or_else(|| unit_graph(exporter, distance.width()), Ok)?;
            distance.graph(exporter, &unit)?;
        }
        Ok(())
    }
}

impl Dense {
    fn load(loader: &mut Loader, config: &EncoderConfig) -> Result<Self> {
        let names = &config.family.names;
        let (hidden, deviation) = (config.hidden_size, config.initializer_range);
        let linear = Linear::load_or_new(loader, names.head_dense, [hidden, hidden], config.biases.head, deviation)?;
        let (has_bias, eps) = (config.biases.norms, config.layer_norm_eps);
        let norm = match config.family.head.has_norm {
            true => Some(Norm::load_or_new(loader, names.head_norm, hidden, has_bias, eps)?),
            false => None,
        };
        Ok(Self { linear, activation: config.head_act, norm })
    }
}

/// Each row divided by the root of its mean square: `[rows, hidden]`
pub(crate) fn scaled(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + LEAST)?.sqrt()?)?)
}

/// The nodes that divide [`INPUT`], of that width, by its length; the name of the result.
fn unit_graph(exporter: &mut Exporter<'_>, width: usize) -> Result<String> {
    let b = &mut exporter.builder;
    let mut constant = |name: &str, value: f64| b.floats(name, &Tensor::new(&[value as f32], &Device::Cpu)?);
    // The sum of hundreds of squares may be too much for fp16, and a small square too little.
    let (share, least) = (constant("head/share", (width as f64).powf(-0.25))?, constant("head/least", LEAST)?);
    let axis = b.integers("head/axis", &[-1]);
    let part = b.node("head/part", "Mul", &[INPUT, &share], vec![]);
    let squares = b.node("head/squares", "Mul", &[&part, &part], vec![]);
    let sum = b.node("head/sum", "ReduceSum", &[&squares, &axis], vec![]);
    let sum = b.node("head/above", "Add", &[&sum, &least], vec![]);
    let length = b.node("head/length", "Sqrt", &[&sum], vec![]);
    Ok(b.node("head/unit", "Div", &[&part, &length], vec![]))
}
