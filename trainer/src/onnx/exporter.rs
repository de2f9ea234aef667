//! What graphs are made of: products, activations, tables and normalization, in the operators and number formats that are
//! asked for.
//!
//! In int8, weights have one scale a channel, and activations one scale and zero point each that were found beforehand
//! ([`Observations`]), of channels that are scaled before (Xiao et al., "SmoothQuant", arXiv 2211.10438): nothing depends on
//! the batch. Weights are rounded so that their products change as little as can be, and
//! what that adds to a product on average is taken out of its bias (Nagel et al., "Data-Free Quantization Through Weight
//! Equalization and Bias Correction", 2019).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops,
    sync::Arc,
};

use candle_core::{DType, Tensor};
use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};

use super::{
    graph::{GraphBuilder, OpsetVersions, float_attribute, int_attribute},
    integers::{MAX_BYTE, MAX_REDUCED, best_scale, channel_integers, channel_scales, row_integers, scale},
    packing,
    rounding::Covariance,
};
use crate::{
    error::Result,
    mahalanobis::Mahalanobis,
    ops::{Activation, GELU_CUBIC, ROOT_TWO_OVER_PI},
};

/// The standard has LayerNormalization since 17.
const OPSET: i64 = 17;
/// Constants with fewer elements stay in fp32: the gain would be a few kilobytes.
const MIN_ELEMENTS: usize = 1 << 13;

/// Smallest and largest value of an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The smallest, at most 0.
    pub min: f32,
    /// The largest, at least 0.
    pub max: f32,
}

/// What was seen of an activation on texts.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What its channels are multiplied by before it is quantized, and the weights that read it divided by (SmoothQuant): what stands below is
    /// of that product. None: nothing.
    pub factors: Option<Arc<[f32]>>,
    /// The range by which it is quantized.
    pub range: Range,
    /// The mean of each channel.
    pub mean: Vec<f32>,
    /// How channels vary together, by which weights that read them are rounded; none: each to nearest.
    pub covariance: Option<Arc<Covariance>>,
}

/// What is quantized, and how: activations by the name of the value in the fp32 graph.
pub type Observations = BTreeMap<String, Observed>;

/// Whose operators a graph is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operators {
    /// Those of ONNX. Integers are written as pairs of QuantizeLinear and DequantizeLinear around 0, which TensorRT
    /// asks for.
    Standard,
    /// ONNX Runtime's own too.
    Microsoft,
}

/// What a graph has in 8 bits.
#[derive(Debug, Clone, Copy)]
pub enum Int8<'a> {
    /// Nothing.
    No,
    /// Weights and embeddings as they are stored. ONNX Runtime multiplies the weights out when it loads the graph, and
    /// computes in fp32.
    Weights,
    /// Those, and the products whose input was observed; the others are computed in fp32.
    Products(&'a Observations),
}

/// How large the integers of a weight are in a product with activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightRange {
    /// At most 64: exact on every processor.
    Reduced,
    /// At most 127, a bit more: exact where products of bytes are summed without loss, see
    /// [`nimbert::Requirement::ExactByteProducts`].
    Full,
}

/// How integers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// A byte each.
    #[default]
    Bytes,
    /// 6 bits for weights, 4 for embeddings: smaller by a third, and less exact. ONNX Runtime unpacks the weights when it
    /// loads the graph, and computes with bytes.
    Packed,
}

/// How a graph is built.
#[derive(Debug, Clone, Copy)]
pub struct GraphConfig<'a> {
    /// Whose operators it is made of.
    pub operators: Operators,
    /// What it has in 8 bits.
    pub int8: Int8<'a>,
    /// How large they are in products.
    pub weights: WeightRange,
    /// How those are stored.
    pub storage: Storage,
    /// The last layer's weights are divided by them, and so are the logits, by task; of those that are not there, by nothing.
    pub temperatures: &'a [f32],
    /// The most tokens of a text, if it is less than the model's: tables of angles end there.
    pub max_tokens: Option<usize>,
    /// How far a text is from those of training, if the graph is to say it.
    pub distance: Option<&'a Mahalanobis>,
}

impl GraphConfig<'_> {
    /// fp32 in ONNX Runtime's operators.
    pub const FP32: Self = Self {
        operators: Operators::Microsoft,
        int8: Int8::No,
        weights: WeightRange::Reduced,
        storage: Storage::Bytes,
        temperatures: &[],
        max_tokens: None,
        distance: None,
    };
}

/// A graph in the making. Values are known by their names: a function that makes one takes its name, or returns it.
pub(crate) struct Exporter<'a> {
    pub(crate) builder: GraphBuilder,
    pub(crate) config: GraphConfig<'a>,
    /// What was made once and is read in several places.
    made: BTreeSet<String>,
    /// Of what weights read, by its channels.
    largest_weights: BTreeMap<String, Vec<f32>>,
}

/// The token ids of a graph's texts, and how many there are.
pub(crate) struct TokenInputs {
    /// `int64 [batch, sequence]`
    pub(crate) ids: String,
    /// The same, where the encoder has token types.
    pub(crate) token_types: Option<String>,
    /// The sequence's length: `int64 [1]`
    pub(crate) length: String,
}

/// x W + b: the constants of a linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    /// `[in, out]`
    pub(crate) weight: Tensor,
    /// `[out]`; none: zero
    pub(crate) bias: Option<Tensor>,
}

impl Affine {
    /// The same function of x for an input that is x + `shift`.
    pub(crate) fn of_shifted(self, shift: Option<&Tensor>) -> Result<Self> {
        let Some(shift) = shift else { return Ok(self) };
        let moved = shift.unsqueeze(0)?.matmul(&self.weight)?.squeeze(0)?;
        let bias = match &self.bias {
            Some(bias) => (bias - moved)?,
            None => moved.neg()?,
        };
        Ok(Self { bias: Some(bias), ..self })
    }

    /// `factor` times the function.
    pub(crate) fn scaled(self, factor: f64) -> Result<Self> {
        Ok(Self { weight: (self.weight * factor)?, bias: self.bias.map(|bias| bias * factor).transpose()? })
    }

    /// The function of the first half of the outputs, and that of the second.
    pub(crate) fn halves(&self) -> Result<[Self; 2]> {
        let half = self.weight.dim(1)? / 2;
        Ok([self.columns(0..half)?, self.columns(half..2 * half)?])
    }

    /// The function of some outputs alone.
    pub(crate) fn columns(&self, columns: ops::Range<usize>) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.narrow(0, columns.start, columns.len())).transpose()?;
        Ok(Self { weight: self.weight.narrow(1, columns.start, columns.len())?.contiguous()?, bias })
    }

    /// The bias, zeros where there is none.
    pub(crate) fn dense_bias(&self) -> Result<Tensor> {
        let zeros = || Tensor::zeros(self.weight.dim(1)?, DType::F32, self.weight.device());
        Ok(self.bias.clone().map_or_else(zeros, Ok)?)
    }
}

impl<'a> Exporter<'a> {
    pub(crate) fn new(config: GraphConfig<'a>) -> Self {
        Self { builder: GraphBuilder::default(), config, made: BTreeSet::new(), largest_weights: BTreeMap::new() }
    }

    pub(crate) fn finish(self) -> ModelProto {
        let microsoft = self.config.operators == Operators::Microsoft;
        self.builder.finish("sequence-classification", OpsetVersions { onnx: OPSET, microsoft })
    }

    /// The value `name`, made by the first who asks for it.
    pub(crate) fn once(&mut self, name: &str, make: impl FnOnce(&mut Self) -> Result<()>) -> Result<String> {
        if self.made.insert(name.to_owned()) {
            make(self)?;
        }
        Ok(name.to_owned())
    }

    fn observed(&self, x: &str) -> Option<&'a Observed> {
        match self.config.int8 {
            Int8::Products(observations) => observations.get(x),
            Int8::No | Int8::Weights => None,
        }
    }

    /// The range by which `x` is quantized, if it is.
    pub(crate) fn range(&self, x: &str) -> Option<Range> {
        self.observed(x).map(|observed| observed.range)
    }

    pub(crate) fn is_standard(&self) -> bool {
        self.config.operators == Operators::Standard
    }

    /// Whether constants are stored in 8 bits or less.
    fn is_stored_small(&self) -> bool {
        !self.is_standard() && !matches!(self.config.int8, Int8::No)
    }

    /// A linear layer that reads `x`. If it is a product of integers, its bias makes up for what rounding the weights adds to
    /// it on average: the mean of x · (weight − rounded weight).
    pub(crate) fn corrected(&self, affine: Affine, x: &str) -> Result<Affine> {
        let Some(Observed { mean, .. }) = self.observed(x) else { return Ok(affine) };
        let Affine { weight, bias } = affine;
        let (rows, columns) = weight.dims2()?;
        let read = self.divided(values(&weight)?, columns, x);
        let (integers, scales) = self.quantized_weight(&read, columns, self.max_product_weight(), Some(x));
        let rounded = integers.iter().enumerate().map(|(at, &integer)| f32::from(integer) * scales[at % columns]);
        let lost = read.iter().zip(rounded).map(|(weight, rounded)| weight - rounded);
        let lost = Tensor::from_iter(lost, weight.device())?.reshape((rows, columns))?;
        let lost = Tensor::from_slice(mean, (1, rows), weight.device())?.matmul(&lost)?.squeeze(0)?;
        let bias = bias.map_or(Ok(lost.clone()), |bias| bias + &lost)?;
        Ok(Affine { weight, bias: Some(bias) })
    }

    /// x `[n, in]` W + b, called `output`; its constants are called by `name`.
    pub(crate) fn affine(&mut self, output: &str, name: &str, x: &str, affine: &Affine) -> Result<String> {
        let Affine { weight, bias } = affine;
        let Some(bias) = bias else { return self.product(output, x, weight) };
        let bias = self.builder.floats(&format!("{name}/bias"), bias)?;
        self.product_plus(output, x, weight, &bias)
    }

    /// x `[n, in]` W + b, divided by `temperature`. What is stored as integers keeps them, and its scales are divided: the function
    /// stays the one that was rounded and judged without the temperature.
    pub(crate) fn logits(&mut self, name: &str, x: &str, affine: &Affine, temperature: f32) -> Result<String> {
        let factor = 1.0 / f64::from(temperature);
        let Affine { weight, bias } = affine;
        self.read(x, weight)?;
        let weight = self.stored_times(name, weight, factor)?;
        let Some(bias) = bias else { return Ok(self.builder.node(name, "MatMul", &[x, &weight], vec![])) };
        let bias = self.builder.floats(&format!("{name}/bias"), &(bias * factor)?)?;
        Ok(self.builder.node(name, "Gemm", &[x, &weight, &bias], vec![]))
    }

    /// x `[n, in]` W + b + `residual` `[n, out]`.
    pub(crate) fn affine_plus(&mut self, output: &str, x: &str, affine: &Affine, residual: &str) -> Result<String> {
        let Affine { weight, bias } = affine;
        let Some(bias) = bias else { return self.product_plus(output, x, weight, residual) };
        let sum = self.product_plus(&format!("{output}/unbiased"), x, weight, residual)?;
        let bias = self.builder.floats(&format!("{output}/bias"), bias)?;
        Ok(self.builder.node(output, "Add", &[&sum, &bias], vec![]))
    }

    /// x `[…, in]` times `weight` `[in, out]`, without bias.
    pub(crate) fn product(&mut self, name: &str, x: &str, weight: &Tensor) -> Result<String> {
        self.read(x, weight)?;
        match (self.range(x), self.config.operators) {
            (None, _) => {
                let weight = self.stored(name, weight)?;
                Ok(self.builder.node(name, "MatMul", &[x, &weight], vec![]))
            }
            (Some(range), Operators::Standard) => {
                let weight = self.dequantized(name, weight, x)?;
                let x = self.quantized_and_back(x, range);
                Ok(self.builder.node(name, "MatMul", &[&x, &weight], vec![]))
            }
            (Some(range), Operators::Microsoft) => {
                let [quantized, scale, zero_point] = self.quantized(x, range);
                let [weight, weight_scale] = self.integers(name, weight, self.max_product_weight(), Some(x))?;
                let inputs = [&quantized, &weight, &scale, &weight_scale, &zero_point].map(String::as_str);
                Ok(self.builder.contrib(name, "MatMulIntegerToFloat", &inputs, vec![]))
            }
        }
    }

    /// x `[n, in]` times `weight` `[in, out]` plus `summand` `[n, out]` or `[out]`.
    pub(crate) fn product_plus(&mut self, name: &str, x: &str, weight: &Tensor, summand: &str) -> Result<String> {
        if self.range(x).is_some() {
            let product = self.product(&format!("{name}/product"), x, weight)?;
            return Ok(self.builder.node(name, "Add", &[&product, summand], vec![]));
        }
        self.read(x, weight)?;
        let weight = self.stored(name, weight)?;
        Ok(self.builder.node(name, "Gemm", &[x, &weight, summand], vec![]))
    }

    /// x as unsigned bytes, its scale and its zero point: once, though several products read them.
    pub(crate) fn quantized(&mut self, x: &str, range: Range) -> [String; 3] {
        let names = ["quantized", "scale", "zero_point"].map(|part| format!("{x}/{part}"));
        if !self.made.insert(names[0].clone()) {
            return names;
        }
        let scale = ((range.max - range.min) / 255.0).max(f32::MIN_POSITIVE);
        let zero_point = (-range.min / scale).round_ties_even().clamp(0.0, 255.0) as u8;
        let x = self.smoothed(x);
        let b = &mut self.builder;
        b.scalar(&names[1], scale);
        b.byte(&names[2], zero_point);
        b.node(&names[0], "QuantizeLinear", &[&x, &names[1], &names[2]], vec![]);
        names
    }

    /// x as it is quantized: its channels times their factors, if there are any.
    fn smoothed(&mut self, x: &str) -> String {
        let Some(factors) = self.observed(x).and_then(|observed| observed.factors.as_deref()) else {
            return x.to_owned();
        };
        let name = format!("{x}/smoothed");
        let factors = self.builder.float_values(&format!("{x}/factors"), &[factors.len()], factors);
        self.builder.node(&name, "Mul", &[x, &factors], vec![])
    }

    /// A row-major weight as it reads what [`Self::smoothed`] makes of x.
    fn divided(&self, mut weight: Vec<f32>, columns: usize, x: &str) -> Vec<f32> {
        if let Some(factors) = self.observed(x).and_then(|observed| observed.factors.as_deref()) {
            for (row, factor) in weight.chunks_exact_mut(columns).zip(factors) {
                row.iter_mut().for_each(|weight| *weight /= factor);
            }
        }
        weight
    }

    /// Notes that a weight `[in, out]` reads x.
    pub(crate) fn read(&mut self, x: &str, weight: &Tensor) -> Result<()> {
        // They are looked at before anything is quantized.
        if !matches!(self.config.int8, Int8::No) {
            return Ok(());
        }
        let (rows, columns) = weight.dims2()?;
        let largest = self.largest_weights.entry(x.to_owned()).or_insert_with(|| vec![0.0; rows]);
        for (largest, row) in largest.iter_mut().zip(values(weight)?.chunks_exact(columns)) {
            *largest = row.iter().fold(*largest, |largest, weight| largest.max(weight.abs()));
        }
        Ok(())
    }

    /// Of each value that weights read, by its channels: the largest of them.
    pub(crate) fn take_largest_weights(&mut self) -> BTreeMap<String, Vec<f32>> {
        std::mem::take(&mut self.largest_weights)
    }

    /// x as signed bytes around 0, and back in fp32: TensorRT computes in int8 between such pairs.
    fn quantized_and_back(&mut self, x: &str, range: Range) -> String {
        let output = format!("{x}/dequantized");
        if !self.made.insert(output.clone()) {
            return output;
        }
        let scale = (range.max.max(-range.min) / MAX_BYTE).max(f32::MIN_POSITIVE);
        let smoothed = self.smoothed(x);
        let b = &mut self.builder;
        let scale = b.scalar(&format!("{x}/scale"), scale);
        let zero = b.signed_byte(&format!("{x}/zero_point"), 0);
        let quantized = b.node(&format!("{x}/quantized"), "QuantizeLinear", &[&smoothed, &scale, &zero], vec![]);
        b.node(&output, "DequantizeLinear", &[&quantized, &scale, &zero], vec![])
    }

    /// A weight `[in, out]` that `x` is multiplied with as signed bytes with one scale a channel, and back in fp32.
    fn dequantized(&mut self, name: &str, weight: &Tensor, x: &str) -> Result<String> {
        let [integers, scales] = self.integers(name, weight, self.max_product_weight(), Some(x))?;
        let zeros = self.builder.bytes(&format!("{name}/weight_zero"), &[weight.dim(1)?], vec![0; weight.dim(1)?]);
        let inputs = [&integers, &scales, &zeros].map(String::as_str);
        let axis = vec![int_attribute("axis", 1)];
        Ok(self.builder.node(&format!("{name}/weight_dequantized"), "DequantizeLinear", &inputs, axis))
    }

    /// A weight `[in, out]`, which `x` is multiplied with if that is known, as integers of at most `max`, and their scales by channel.
    pub(crate) fn integers(&mut self, name: &str, weight: &Tensor, max: f32, x: Option<&str>) -> Result<[String; 2]> {
        self.integers_times(name, weight, max, x, 1.0)
    }

    /// The same with `factor` times the scales.
    fn integers_times(
        &mut self,
        name: &str,
        weight: &Tensor,
        max: f32,
        x: Option<&str>,
        factor: f32,
    ) -> Result<[String; 2]> {
        let (rows, columns) = weight.dims2()?;
        let mut values = values(weight)?;
        if let Some(x) = x {
            values = self.divided(values, columns, x);
        }
        let name = format!("{name}/weight");
        let (integers, mut scales) = self.quantized_weight(&values, columns, max, x);
        scales.iter_mut().for_each(|scale| *scale *= factor);
        let scales = self.builder.float_values(&format!("{name}_scale"), &[columns], &scales);
        let integers = match self.is_packed(columns, 4) {
            false => self.builder.bytes(&name, &[rows, columns], integers),
            true => {
                let dims = [3, rows, columns / 4];
                let packed = packing::pack_matrix(&integers, columns);
                let packed = self.builder.unsigned_bytes(&format!("{name}_packed"), &dims, packed);
                packing::unpack_matrix(&mut self.builder, &packed, &name, rows, columns)
            }
        };
        Ok([integers, scales])
    }

    /// A matrix as integers of at most `max`, fewer if they are packed, and their scales by channel.
    fn quantized_weight(&self, values: &[f32], columns: usize, max: f32, x: Option<&str>) -> (Vec<i8>, Vec<f32>) {
        let is_packed = self.is_packed(columns, 4);
        let max = if is_packed { packing::MAX_MATRIX } else { max };
        let scale = if is_packed { best_scale } else { scale };
        let Some(covariance) = x.and_then(|x| self.observed(x)?.covariance.as_ref()) else {
            return channel_integers(values, columns, max, scale);
        };
        let scales = channel_scales(values, columns, max, scale);
        (covariance.rounded(values, &scales, max), scales)
    }

    /// The largest integer of a weight in a product of integers.
    pub(crate) fn max_product_weight(&self) -> f32 {
        match self.config.weights {
            WeightRange::Reduced => MAX_REDUCED,
            WeightRange::Full => MAX_BYTE,
        }
    }

    /// Whether rows of `columns` integers are packed, `step` of them at a time.
    fn is_packed(&self, columns: usize, step: usize) -> bool {
        self.config.storage == Storage::Packed && !self.is_standard() && columns.is_multiple_of(step)
    }

    /// A weight `[in, out]` that fp32 arithmetic reads. Where it is stored as integers, ONNX Runtime multiplies it out
    /// when it loads the graph.
    pub(crate) fn stored(&mut self, name: &str, weight: &Tensor) -> Result<String> {
        self.stored_times(name, weight, 1.0)
    }

    /// `factor` times such a weight, whose integers are those of the weight as it is.
    fn stored_times(&mut self, name: &str, weight: &Tensor, factor: f64) -> Result<String> {
        if !self.is_stored_small() || weight.elem_count() < MIN_ELEMENTS {
            let times = (factor != 1.0).then(|| weight * factor).transpose()?;
            return self.builder.floats(&format!("{name}/weight"), times.as_ref().unwrap_or(weight));
        }
        let [integers, scales] = self.integers_times(name, weight, MAX_BYTE, None, factor as f32)?;
        let b = &mut self.builder;
        let to_float = vec![int_attribute("to", DataType::Float as i64)];
        let floats = b.node(&format!("{name}/weight_float"), "Cast", &[&integers], to_float);
        Ok(b.node(&format!("{name}/weight_scaled"), "Mul", &[&floats, &scales], vec![]))
    }

    /// Layer normalization over the last axis.
    pub(crate) fn layer_norm(
        &mut self,
        output: &str,
        x: &str,
        [weight, bias]: [&Tensor; 2],
        eps: f32,
    ) -> Result<String> {
        let weight = self.builder.floats(&format!("{output}/gamma"), weight)?;
        let bias = self.builder.floats(&format!("{output}/beta"), bias)?;
        let attributes = vec![int_attribute("axis", -1), float_attribute("epsilon", eps)];
        Ok(self.builder.node(output, "LayerNormalization", &[x, &weight, &bias], attributes))
    }

    /// The activation of x + bias.
    pub(crate) fn activation(
        &mut self,
        output: &str,
        x: &str,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<String> {
        let is_standard = self.is_standard();
        let bias = bias.map(|bias| self.builder.floats(&format!("{output}/bias"), bias)).transpose()?;
        let b = &mut self.builder;
        let name = |part: &str| format!("{output}/{part}");
        match (activation, &bias, is_standard) {
            (Activation::Gelu, Some(bias), false) => return Ok(b.contrib(output, "BiasGelu", &[x, bias], vec![])),
            (Activation::Gelu, None, false) => return Ok(b.contrib(output, "Gelu", &[x], vec![])),
            (Activation::GeluTanh, Some(bias), false) => return Ok(b.contrib(output, "FastGelu", &[x, bias], vec![])),
            (Activation::GeluTanh, None, false) => return Ok(b.contrib(output, "FastGelu", &[x], vec![])),
            _ => {}
        }
        let x = match &bias {
            Some(bias) => b.node(&name("sum"), "Add", &[x, bias], vec![]),
            None => x.to_owned(),
        };
        let half_of_one_plus = |b: &mut GraphBuilder, value: &str| {
            let (one, half) = (b.scalar(&name("one"), 1.0), b.scalar(&name("half"), 0.5));
            let shifted = b.node(&name("shifted"), "Add", &[value, &one], vec![]);
            let product = b.node(&name("product"), "Mul", &[&x, &shifted], vec![]);
            b.node(output, "Mul", &[&product, &half], vec![])
        };
        Ok(match activation {
            Activation::Relu => b.node(output, "Relu", &[&x], vec![]),
            Activation::Tanh => b.node(output, "Tanh", &[&x], vec![]),
            // x · ½ (1 + erf(x / √2))
            Activation::Gelu => {
                let root_half = b.scalar(&name("root_half"), std::f32::consts::FRAC_1_SQRT_2);
                let scaled = b.node(&name("scaled"), "Mul", &[&x, &root_half], vec![]);
                let erf = b.node(&name("erf"), "Erf", &[&scaled], vec![]);
                half_of_one_plus(b, &erf)
            }
            // ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))
            Activation::GeluTanh => {
                let (cubic, root) = (b.scalar(&name("cubic"), GELU_CUBIC), b.scalar(&name("root"), ROOT_TWO_OVER_PI));
                let square = b.node(&name("square"), "Mul", &[&x, &x], vec![]);
                let cube = b.node(&name("cube"), "Mul", &[&square, &x], vec![]);
                let cube = b.node(&name("scaled_cube"), "Mul", &[&cube, &cubic], vec![]);
                let sum = b.node(&name("cubic_sum"), "Add", &[&x, &cube], vec![]);
                let argument = b.node(&name("argument"), "Mul", &[&sum, &root], vec![]);
                let tanh = b.node(&name("tanh"), "Tanh", &[&argument], vec![]);
                half_of_one_plus(b, &tanh)
            }
        })
    }

    pub(crate) fn reshaped(&mut self, name: &str, x: &str, shape: &str) -> String {
        self.builder.node(name, "Reshape", &[x, shape], vec![])
    }

    /// The shape `[n, width]`.
    pub(crate) fn rows_shape(&mut self, width: usize) -> String {
        let name = format!("shape/rows_{width}");
        if self.made.insert(name.clone()) {
            self.builder.integers(&name, &[-1, width as i64]);
        }
        name
    }

    /// Rows of a value by their numbers.
    pub(crate) fn gather(&mut self, name: &str, table: &str, ids: &str) -> String {
        self.builder.node(name, "Gather", &[table, ids], vec![int_attribute("axis", 0)])
    }

    /// Rows of a table by their numbers.
    pub(crate) fn gathered(&mut self, name: &str, table: &Tensor, ids: &str) -> Result<String> {
        self.rows(name, table, |b, name, table| b.node(name, "Gather", &[table, ids], vec![int_attribute("axis", 0)]))
    }

    /// The same of a table of which every run needs a large part.
    pub(crate) fn gathered_floats(&mut self, name: &str, table: &Tensor, ids: &str) -> Result<String> {
        let floats = self.multiplied_out(&format!("{name}/all"), table)?;
        Ok(self.builder.node(name, "Gather", &[&floats, ids], vec![int_attribute("axis", 0)]))
    }

    /// A table, which is multiplied out when the graph is loaded, not in each run.
    pub(crate) fn multiplied_out(&mut self, name: &str, table: &Tensor) -> Result<String> {
        self.rows(name, table, |_, _, table| table.to_owned())
    }

    /// As many rows of a table, from the first on, as texts have tokens.
    pub(crate) fn leading_rows(&mut self, name: &str, table: &Tensor, inputs: &TokenInputs) -> Result<String> {
        let zero = self.builder.integers(&format!("{name}/first"), &[0]);
        self.rows(name, table, |b, name, table| b.node(name, "Slice", &[table, &zero, &inputs.length, &zero], vec![]))
    }

    /// Rows of a table: as they are, or stored as integers with one scale a row.
    fn rows(
        &mut self,
        name: &str,
        table: &Tensor,
        pick: impl Fn(&mut GraphBuilder, &str, &str) -> String,
    ) -> Result<String> {
        let part = |part: &str| format!("{name}/{part}");
        if !self.is_stored_small() || table.elem_count() < MIN_ELEMENTS {
            let table = self.builder.floats(&part("table"), table)?;
            return Ok(pick(&mut self.builder, name, &table));
        }
        let (rows, columns) = table.dims2()?;
        let is_packed = self.is_packed(columns, 2);
        let values = values(table)?;
        let b = &mut self.builder;
        let (integers, scales) = match is_packed {
            true => row_integers(&values, columns, packing::MAX_TABLE, best_scale),
            false => row_integers(&values, columns, MAX_BYTE, scale),
        };
        let scales = b.float_values(&part("table_scale"), &[rows, 1], &scales);
        let scale = pick(b, &part("scale"), &scales);
        let floats = match is_packed {
            true => {
                let packed = packing::pack_table(&integers, columns);
                let packed = b.unsigned_bytes(&part("table"), &[rows, columns / 2], packed);
                let picked = pick(b, &part("packed"), &packed);
                packing::unpack_rows(b, &picked, &part("float"))
            }
            false => {
                let integers = b.bytes(&part("table"), &[rows, columns], integers);
                let picked = pick(b, &part("int8"), &integers);
                b.node(&part("float"), "Cast", &[&picked], vec![int_attribute("to", DataType::Float as i64)])
            }
        };
        Ok(b.node(name, "Mul", &[&floats, &scale], vec![]))
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_temperature_divides_scales_and_changes_no_integer() {
        const ROWS: usize = 768;
        const COLUMNS: usize = 152;
        let noise = |at: usize| ((at as f32 * 12.9898).sin() * 43758.547).fract();
        let weight: Vec<f32> = (0..ROWS * COLUMNS).map(noise).collect();
        let weight = Tensor::from_vec(weight, (ROWS, COLUMNS), &Device::Cpu).unwrap();
        let bias = Tensor::ones(COLUMNS, DType::F32, &Device::Cpu).unwrap();
        let affine = Affine { weight, bias: Some(bias) };
        let constants = |storage: Storage, temperature: f32| {
            let config = GraphConfig { int8: Int8::Weights, storage, ..GraphConfig::FP32 };
            let mut exporter = Exporter::new(config);
            exporter.logits("logits", "x", &affine, temperature).unwrap();
            let constants = exporter.finish().graph.unwrap().initializer;
            constants.into_iter().map(|of| (of.name, of.raw_data)).collect::<BTreeMap<_, _>>()
        };
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
        };
        for storage in [Storage::Bytes, Storage::Packed] {
            let plain = constants(storage, 1.0);
            let is_divided = |name: &str| name.ends_with("_scale") || name.ends_with("bias");
            for temperature in (2..30).map(|step| step as f32 * 0.0877) {
                let divided = constants(storage, temperature);
                assert_eq!(plain.len(), divided.len());
                for (name, bytes) in &divided {
                    if !is_divided(name) {
                        assert!(plain[name] == *bytes, "{name} at {temperature}");
                        continue;
                    }
                    for (plain, divided) in floats(&plain[name]).into_iter().zip(floats(bytes)) {
                        assert!((plain / temperature - divided).abs() <= 1e-6 * divided, "{name} at {temperature}");
                    }
                }
            }
        }
    }
}
