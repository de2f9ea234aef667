//! The graph of a classifier of the BERT family.
//!
//! It is built for speed, and gives the answers of the model:
//!
//! - Only what the classifier reads is computed: in the last layer, queries, output and feed-forward of each text's first
//!   token. Keys and values of that layer are never computed: with q the query of a head, q·(W_k x) = (W_kᵀ q)·x and
//!   Σ p (W_v x) = W_v (Σ p x), so that one product with each text's x replaces two of all tokens. The key's bias adds the
//!   same to all scores of a text, which softmax does not see.
//! - The bias of a projection whose result is added to a residual is moved into the bias of the layer normalization that
//!   makes the residual, and taken out again from the biases of all else that reads it. With that, the residual is the
//!   summand that `Gemm` starts from, and no addition is left.
//!
//! With ONNX Runtime's own operators ([`Operators::Microsoft`]) there is nothing left for its optimizer to search for.
//! Its attention knows the mask as one length a text, so padding must follow the text.
//!
//! In int8, weights have one scale a channel, and activations one scale and zero point each that were found beforehand
//! ([`Observations`]): nothing depends on the batch. What rounding the weights adds to a product on average is taken out of
//! its bias (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019).
//!
//! What is summed in fp32 before a rounding must be summed in the same order for every batch. Products by a constant matrix
//! are, since ONNX Runtime packs it beforehand. The others, of the last layer, are made to be: it sums one row otherwise than
//! several, so each text and head is a product for itself; and it divides a sum by the number of columns, so scores have a
//! column a head and not one a token.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Tensor};
use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};

use super::{
    graph::{Axis, GraphBuilder, OpsetVersions, float_attribute, int_attribute, ints_attribute},
    integers::{MAX_BYTE, MAX_REDUCED, best_scale, channel_integers, row_integers, scale},
    packing,
};
use crate::{
    error::Result,
    model::{EncoderConfig, Names, SequenceClassifier},
    ops::{Activation, GELU_CUBIC, ROOT_TWO_OVER_PI},
};

/// The standard has LayerNormalization since 17.
const OPSET: i64 = 17;

/// What is added to the attention scores of padding: softmax turns it into 0.
const MASK_VALUE: f32 = -10_000.0;

/// Smallest and largest value of an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The smallest, at most 0.
    pub min: f32,
    /// The largest, at least 0.
    pub max: f32,
}

/// What was seen of an activation on texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The range by which it is quantized.
    pub range: Range,
    /// The mean of each channel.
    pub mean: Vec<f32>,
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
    /// The last layer's weights are divided by it, and so are the logits.
    pub temperature: f32,
}

impl GraphConfig<'_> {
    /// fp32 in ONNX Runtime's operators.
    pub const FP32: Self = Self {
        operators: Operators::Microsoft,
        int8: Int8::No,
        weights: WeightRange::Reduced,
        storage: Storage::Bytes,
        temperature: 1.0,
    };
}

/// The graph of `model`: inputs `input_ids`, `attention_mask` and, where the family has token types,
/// `token_type_ids` (`int64 [batch, sequence]`), output `logits` (`float [batch, labels]`).
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn export(model: &SequenceClassifier, config: GraphConfig<'_>) -> Result<ModelProto> {
    let mut exporter =
        Exporter { builder: GraphBuilder::default(), model, config, quantized_and_back: BTreeSet::new() };
    exporter.classifier()?;
    let microsoft = config.operators == Operators::Microsoft;
    Ok(exporter.builder.finish("sequence-classification", OpsetVersions { onnx: OPSET, microsoft }))
}

/// The names of all activations that [`export`] can quantize, in the order in which they are computed.
pub fn quantizable(model: &SequenceClassifier) -> Vec<String> {
    let layers = model.config.num_hidden_layers;
    let of_layer = |index: usize| {
        [query_input(index, layers), "context", "attended", "activated"].map(|part| format!("layer.{index}/{part}"))
    };
    (0..layers).flat_map(of_layer).chain([HEAD_INPUT.to_owned()]).collect()
}

/// What the queries of layer `index` of so many are computed from: all tokens, or in the last layer each text's first.
fn query_input(index: usize, layers: usize) -> &'static str {
    if index + 1 == layers { "first" } else { "input" }
}

const HEAD_INPUT: &str = "head/input";
/// Constants with fewer elements stay in fp32: the gain would be a few kilobytes.
const MIN_ELEMENTS: usize = 1 << 13;
/// `[batch, sequence, hidden]`
const SHAPE_3D: &str = "shape/3d";
/// `[batch, sequence, heads, width]`
const SHAPE_4D: &str = "shape/4d";
/// `[tokens, hidden]`
const SHAPE_2D: &str = "shape/2d";

struct Exporter<'a> {
    builder: GraphBuilder,
    model: &'a SequenceClassifier,
    config: GraphConfig<'a>,
    /// Values that have been quantized and brought back: queries, keys and values share one.
    quantized_and_back: BTreeSet<String>,
}

/// A linear layer's parameters, the weight as `[in, out]`.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// The same function of x for an input that is x + `shift`.
    fn of_shifted(self, shift: &Tensor) -> Result<Self> {
        Ok(Self { bias: self.bias_of_shifted(shift)?, weight: self.weight })
    }

    fn bias_of_shifted(&self, shift: &Tensor) -> Result<Tensor> {
        let moved = shift.unsqueeze(0)?.matmul(&self.weight)?.squeeze(0)?;
        Ok((&self.bias - moved)?)
    }
}

/// The linear layers of an encoder layer.
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    rest: BehindAttention,
}

/// Those behind attention.
struct BehindAttention {
    attention_output: Linear,
    intermediate: Linear,
    output: Linear,
}

/// What the graph knows of the attention mask.
struct Mask {
    /// Tokens of each text: `int32 [batch]`.
    lengths: String,
    /// What the scores of each key are moved by, for the first tokens: `[batch, 1, sequence]`.
    first_scores: String,
    /// The same for all tokens, by head: `[batch, 1, 1, sequence]`.
    all_scores: String,
}

impl Exporter<'_> {
    fn observed(&self, x: &str) -> Option<&Observed> {
        match self.config.int8 {
            Int8::Products(observations) => observations.get(x),
            Int8::No | Int8::Weights => None,
        }
    }

    /// The range by which `x` is quantized, if it is.
    fn range(&self, x: &str) -> Option<Range> {
        self.observed(x).map(|observed| observed.range)
    }

    fn is_standard(&self) -> bool {
        self.config.operators == Operators::Standard
    }

    /// Whether constants are stored in 8 bits or less.
    fn is_stored_small(&self) -> bool {
        !self.is_standard() && !matches!(self.config.int8, Int8::No)
    }

    fn encoder(&self) -> &EncoderConfig {
        &self.model.config
    }

    fn names(&self) -> &'static Names {
        &self.model.config.family.names
    }

    fn parameter(&self, name: &str) -> Tensor {
        self.model.parameters().get(name).expect("a parameter of the model").as_detached_tensor()
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        let weight = self.parameter(&format!("{name}.weight")).t()?.contiguous()?;
        Ok(Linear { weight, bias: self.parameter(&format!("{name}.bias")) })
    }

    /// The linear layer of that name, which reads `x`. If it is a product of integers, its bias makes up for what rounding
    /// the weights adds to it on average: the mean of x · (weight − rounded weight).
    fn corrected_linear(&self, name: &str, x: &str) -> Result<Linear> {
        let Linear { weight, bias } = self.linear(name)?;
        let Some(Observed { mean, .. }) = self.observed(x) else { return Ok(Linear { weight, bias }) };
        let (rows, columns) = weight.dims2()?;
        let (integers, scales) = self.quantized_weight(&values(&weight)?, columns, self.max_product_weight());
        let rounded = integers.iter().enumerate().map(|(at, &integer)| f32::from(integer) * scales[at % columns]);
        let rounded = Tensor::from_iter(rounded, weight.device())?.reshape((rows, columns))?;
        let mean = Tensor::from_slice(mean, (1, rows), weight.device())?;
        let lost = mean.matmul(&(&weight - rounded)?)?.squeeze(0)?;
        let bias = (bias + lost)?;
        Ok(Linear { weight, bias })
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let names = self.names();
        let linear =
            |part: &str, x: &str| self.corrected_linear(&names.in_layer(index, part), &format!("layer.{index}/{x}"));
        Ok(Layer {
            query: linear(names.query, query_input(index, self.encoder().num_hidden_layers))?,
            key: linear(names.key, "input")?,
            value: linear(names.value, "input")?,
            rest: BehindAttention {
                attention_output: linear(names.attention_output, "context")?,
                intermediate: linear(names.intermediate, "attended")?,
                output: linear(names.output, "activated")?,
            },
        })
    }

    /// The bias that the residual of layer `index`'s attention carries; nothing behind the last layer.
    fn residual_bias(&self, index: usize) -> Result<Option<Tensor>> {
        if index == self.encoder().num_hidden_layers {
            return Ok(None);
        }
        let name = self.names().in_layer(index, self.names().attention_output);
        Ok(Some(self.corrected_linear(&name, &format!("layer.{index}/context"))?.bias))
    }

    /// x `[…, in]` times `weight` `[in, out]`, without bias.
    fn product(&mut self, name: &str, x: &str, weight: &Tensor) -> Result<String> {
        match (self.range(x), self.config.operators) {
            (None, _) => {
                let weight = self.stored(name, weight)?;
                Ok(self.builder.node(name, "MatMul", &[x, &weight], vec![]))
            }
            (Some(range), Operators::Standard) => {
                let x = self.quantized_and_back(x, range);
                let weight = self.dequantized(name, weight)?;
                Ok(self.builder.node(name, "MatMul", &[&x, &weight], vec![]))
            }
            (Some(range), Operators::Microsoft) => {
                let [quantized, scale, zero_point] = self.quantized(x, range);
                let [weight, weight_scale] = self.integers(name, weight, self.max_product_weight())?;
                let inputs = [&quantized, &weight, &scale, &weight_scale, &zero_point].map(String::as_str);
                Ok(self.builder.contrib(name, "MatMulIntegerToFloat", &inputs, vec![]))
            }
        }
    }

    /// x `[n, in]` times `weight` `[in, out]` plus `summand` `[n, out]` or `[out]`.
    fn product_plus(&mut self, name: &str, x: &str, weight: &Tensor, summand: &str) -> Result<String> {
        if self.range(x).is_some() {
            let product = self.product(&format!("{name}/product"), x, weight)?;
            return Ok(self.builder.node(name, "Add", &[&product, summand], vec![]));
        }
        let weight = self.stored(name, weight)?;
        Ok(self.builder.node(name, "Gemm", &[x, &weight, summand], vec![]))
    }

    /// x as unsigned bytes, its scale and its zero point.
    fn quantized(&mut self, x: &str, range: Range) -> [String; 3] {
        let scale = ((range.max - range.min) / 255.0).max(f32::MIN_POSITIVE);
        let zero_point = (-range.min / scale).round_ties_even().clamp(0.0, 255.0) as u8;
        let b = &mut self.builder;
        let scale = b.scalar(&format!("{x}/scale"), scale);
        let zero_point = b.byte(&format!("{x}/zero_point"), zero_point);
        let quantized = b.node(&format!("{x}/quantized"), "QuantizeLinear", &[x, &scale, &zero_point], vec![]);
        [quantized, scale, zero_point]
    }

    /// x as signed bytes around 0, and back in fp32: TensorRT computes in int8 between such pairs.
    fn quantized_and_back(&mut self, x: &str, range: Range) -> String {
        let output = format!("{x}/dequantized");
        if !self.quantized_and_back.insert(x.to_owned()) {
            return output;
        }
        let scale = (range.max.max(-range.min) / MAX_BYTE).max(f32::MIN_POSITIVE);
        let b = &mut self.builder;
        let scale = b.scalar(&format!("{x}/scale"), scale);
        let zero = b.signed_byte(&format!("{x}/zero_point"), 0);
        let quantized = b.node(&format!("{x}/quantized"), "QuantizeLinear", &[x, &scale, &zero], vec![]);
        b.node(&output, "DequantizeLinear", &[&quantized, &scale, &zero], vec![])
    }

    /// A weight `[in, out]` as signed bytes with one scale a channel, and back in fp32.
    fn dequantized(&mut self, name: &str, weight: &Tensor) -> Result<String> {
        let [integers, scales] = self.integers(name, weight, self.max_product_weight())?;
        let zeros = self.builder.bytes(&format!("{name}/weight_zero"), &[weight.dim(1)?], vec![0; weight.dim(1)?]);
        let inputs = [&integers, &scales, &zeros].map(String::as_str);
        let axis = vec![int_attribute("axis", 1)];
        Ok(self.builder.node(&format!("{name}/weight_dequantized"), "DequantizeLinear", &inputs, axis))
    }

    /// A weight `[in, out]` as integers of at most `max`, and their scales by channel.
    fn integers(&mut self, name: &str, weight: &Tensor, max: f32) -> Result<[String; 2]> {
        let (rows, columns) = weight.dims2()?;
        let values = values(weight)?;
        let name = format!("{name}/weight");
        let (integers, scales) = self.quantized_weight(&values, columns, max);
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
    fn quantized_weight(&self, values: &[f32], columns: usize, max: f32) -> (Vec<i8>, Vec<f32>) {
        match self.is_packed(columns, 4) {
            true => channel_integers(values, columns, packing::MAX_MATRIX, best_scale),
            false => channel_integers(values, columns, max, scale),
        }
    }

    /// The largest integer of a weight in a product of integers.
    fn max_product_weight(&self) -> f32 {
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
    fn stored(&mut self, name: &str, weight: &Tensor) -> Result<String> {
        if !self.is_stored_small() || weight.elem_count() < MIN_ELEMENTS {
            return self.builder.floats(&format!("{name}/weight"), weight);
        }
        let [integers, scales] = self.integers(name, weight, MAX_BYTE)?;
        let b = &mut self.builder;
        let to_float = vec![int_attribute("to", DataType::Float as i64)];
        let floats = b.node(&format!("{name}/weight_float"), "Cast", &[&integers], to_float);
        Ok(b.node(&format!("{name}/weight_scaled"), "Mul", &[&floats, &scales], vec![]))
    }

    /// Layer normalization over the last axis; `shift` is added to the result.
    fn layer_norm(&mut self, output: &str, parameter: &str, x: &str, shift: Option<&Tensor>) -> Result<String> {
        let [weight, bias] = self.norm_parameters(output, parameter, shift)?;
        let eps = float_attribute("epsilon", self.encoder().layer_norm_eps);
        Ok(self.builder.node(output, "LayerNormalization", &[x, &weight, &bias], vec![int_attribute("axis", -1), eps]))
    }

    fn norm_parameters(&mut self, output: &str, parameter: &str, shift: Option<&Tensor>) -> Result<[String; 2]> {
        let bias = self.parameter(&format!("{parameter}.bias"));
        let bias = shift.map_or(Ok(bias.clone()), |shift| bias + shift)?;
        let weight =
            self.builder.floats(&format!("{output}/gamma"), &self.parameter(&format!("{parameter}.weight")))?;
        Ok([weight, self.builder.floats(&format!("{output}/beta"), &bias)?])
    }

    /// The activation of x + bias.
    fn activation(&mut self, output: &str, x: &str, bias: &Tensor, activation: Activation) -> Result<String> {
        let is_standard = self.is_standard();
        let bias = self.builder.floats(&format!("{output}/bias"), bias)?;
        let b = &mut self.builder;
        let name = |part: &str| format!("{output}/{part}");
        match (activation, is_standard) {
            (Activation::Gelu, false) => return Ok(b.contrib(output, "BiasGelu", &[x, &bias], vec![])),
            (Activation::GeluTanh, false) => return Ok(b.contrib(output, "FastGelu", &[x, &bias], vec![])),
            _ => {}
        }
        let x = b.node(&name("sum"), "Add", &[x, &bias], vec![]);
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

    fn reshaped(&mut self, name: &str, x: &str, shape: &str) -> String {
        self.builder.node(name, "Reshape", &[x, shape], vec![])
    }

    /// Lengths and score shifts, from `attention_mask`.
    fn mask(&mut self, attention_mask: &str) -> Mask {
        let is_standard = self.is_standard();
        let b = &mut self.builder;
        let cast = |data_type: DataType| vec![int_attribute("to", data_type as i64)];
        let axis = b.integers("mask/axis", &[1]);
        let lengths = match is_standard {
            true => String::new(),
            false => {
                let integers = b.node("mask/int32", "Cast", &[attention_mask], cast(DataType::Int32));
                b.node("mask/lengths", "ReduceSum", &[&integers, &axis], vec![int_attribute("keepdims", 0)])
            }
        };
        let floats = b.node("mask/float", "Cast", &[attention_mask], cast(DataType::Float));
        let (one, value) = (b.scalar("mask/one", 1.0), b.scalar("mask/value", MASK_VALUE));
        let inverted = b.node("mask/inverted", "Sub", &[&one, &floats], vec![]);
        let shifts = b.node("mask/shifts", "Mul", &[&inverted, &value], vec![]);
        let first_scores = b.node("mask/first_scores", "Unsqueeze", &[&shifts, &axis], vec![]);
        let all_scores = match is_standard {
            true => b.node("mask/all_scores", "Unsqueeze", &[&first_scores, &axis], vec![]),
            false => String::new(),
        };
        Mask { lengths, first_scores, all_scores }
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

    /// Embeddings, `[tokens, hidden]`, moved by the first residual's bias.
    fn embeddings(&mut self, input_ids: &str, token_type_ids: Option<&str>) -> Result<String> {
        let names = self.names();
        let (hidden, embedding) = (self.encoder().hidden_size, self.encoder().embedding_size);
        let offset = self.encoder().position_offset;
        let (heads, is_standard) = (self.encoder().num_attention_heads, self.is_standard());
        let shift = self.residual_bias(0)?;
        let b = &mut self.builder;
        let [zero, one, two] = [0, 1, 2].map(|index| b.integers(&format!("embeddings/{index}"), &[index]));
        let shape = b.node("shape/ids", "Shape", &[input_ids], vec![]);
        let length = b.node("shape/length", "Slice", &[&shape, &one, &two, &zero], vec![]);
        let size = b.integers("shape/hidden", &[hidden as i64]);
        b.node(SHAPE_3D, "Concat", &[&shape, &size], vec![int_attribute("axis", 0)]);
        b.integers(SHAPE_2D, &[-1, hidden as i64]);
        if is_standard {
            let head_sizes = b.integers("shape/heads", &[heads as i64, (hidden / heads) as i64]);
            b.node(SHAPE_4D, "Concat", &[&shape, &head_sizes], vec![int_attribute("axis", 0)]);
        }

        let words = self.parameter(&names.word_embeddings());
        let axis = || vec![int_attribute("axis", 0)];
        let words =
            self.rows("embeddings/word", &words, |b, name, table| b.node(name, "Gather", &[table, input_ids], axis()))?;
        // The token at place i of a text has row offset + i: the same rows serve every text.
        let positions = self.parameter(&names.position_embeddings());
        let positions = positions.narrow(0, offset, positions.dim(0)? - offset)?.contiguous()?;
        let token_types = token_type_ids.map(|ids| (self.parameter(&names.token_type_embeddings()), ids));
        let positions = self.rows("embeddings/position", &positions, |b, name, table| {
            b.node(name, "Slice", &[table, &zero, &length, &zero], vec![])
        })?;
        let b = &mut self.builder;
        let mut sum = b.node("embeddings/word_position", "Add", &[&words, &positions], vec![]);
        if let Some((table, ids)) = token_types {
            let table = b.floats("embeddings/token_type/table", &table)?;
            let rows = b.node("embeddings/token_type", "Gather", &[&table, ids], axis());
            sum = b.node("embeddings/sum", "Add", &[&sum, &rows], vec![]);
        }
        if embedding == hidden {
            let x = self.layer_norm("embeddings/norm", &names.embeddings_norm(), &sum, shift.as_ref())?;
            return Ok(self.reshaped("layer.0/input", &x, SHAPE_2D));
        }
        let x = self.layer_norm("embeddings/norm", &names.embeddings_norm(), &sum, None)?;
        let narrow = self.builder.integers("shape/2d_embedding", &[-1, embedding as i64]);
        let x = self.reshaped("embeddings/rows", &x, &narrow);
        let Linear { weight, bias } = self.linear(&names.embeddings_project())?;
        let bias = shift.map_or(Ok(bias.clone()), |shift| bias + shift)?;
        let bias = self.builder.floats("embeddings/project/bias", &bias)?;
        self.product_plus("layer.0/input", &x, &weight, &bias)
    }

    /// Self-attention of all tokens: x `[tokens, hidden]` → the heads' contexts, `[tokens, hidden]`.
    fn attention(&mut self, index: usize, x: &str, projections: [Linear; 3], mask: &Mask) -> Result<String> {
        let name = |part: &str| format!("layer.{index}/{part}");
        let [query, key, value] = projections;
        if self.is_standard() {
            return self.spelled_attention(index, x, [query, key, value], mask);
        }
        let weight = Tensor::cat(&[&query.weight, &key.weight, &value.weight], 1)?;
        let bias = Tensor::cat(&[&query.bias, &key.bias, &value.bias], 0)?;
        let bias = self.builder.floats(&name("attention/bias"), &bias)?;
        let heads = vec![int_attribute("num_heads", self.encoder().num_attention_heads as i64)];
        let context = match self.range(x) {
            None => {
                let weight = self.stored(&name("attention"), &weight)?;
                let x = self.reshaped(&name("texts"), x, SHAPE_3D);
                self.builder.contrib(&name("attention"), "Attention", &[&x, &weight, &bias, &mask.lengths], heads)
            }
            Some(range) => {
                let [quantized, scale, zero_point] = self.quantized(x, range);
                let [weight, weight_scale] = self.integers(&name("attention"), &weight, self.max_product_weight())?;
                let x = self.reshaped(&name("texts"), &quantized, SHAPE_3D);
                let inputs = [&x, &weight, &bias, &scale, &weight_scale, &mask.lengths, &zero_point];
                self.builder.contrib(&name("attention"), "QAttention", &inputs.map(String::as_str), heads)
            }
        };
        Ok(self.reshaped(&name("context"), &context, SHAPE_2D))
    }

    /// The same in standard operators.
    fn spelled_attention(&mut self, index: usize, x: &str, projections: [Linear; 3], mask: &Mask) -> Result<String> {
        let name = |part: &str| format!("layer.{index}/{part}");
        let (heads, hidden) = (self.encoder().num_attention_heads, self.encoder().hidden_size);
        let width = hidden / heads;
        let [mut query, key, value] = projections;
        let scale = 1.0 / (width as f64).sqrt();
        query = Linear { weight: (query.weight * scale)?, bias: (query.bias * scale)? };
        let mut split = Vec::new();
        let parts = [("query", query, [0, 2, 1, 3]), ("key", key, [0, 2, 3, 1]), ("value", value, [0, 2, 1, 3])];
        for (part, Linear { weight, bias }, permutation) in parts {
            let bias = self.builder.floats(&name(&format!("{part}/bias")), &bias)?;
            let rows = self.product(&name(&format!("{part}/product")), x, &weight)?;
            let b = &mut self.builder;
            let rows = b.node(&name(part), "Add", &[&rows, &bias], vec![]);
            let texts = b.node(&name(&format!("{part}/texts")), "Reshape", &[&rows, SHAPE_4D], vec![]);
            let permutation = vec![ints_attribute("perm", &permutation)];
            split.push(b.node(&name(&format!("{part}/by_head")), "Transpose", &[&texts], permutation));
        }
        let b = &mut self.builder;
        let scores = b.node(&name("scores"), "MatMul", &[&split[0], &split[1]], vec![]);
        let masked = b.node(&name("masked"), "Add", &[&scores, &mask.all_scores], vec![]);
        let p = b.node(&name("probabilities"), "Softmax", &[&masked], vec![int_attribute("axis", -1)]);
        let context = b.node(&name("context/by_head"), "MatMul", &[&p, &split[2]], vec![]);
        let permutation = vec![ints_attribute("perm", &[0, 2, 1, 3])];
        let context = b.node(&name("context/texts"), "Transpose", &[&context], permutation);
        Ok(self.reshaped(&name("context"), &context, SHAPE_2D))
    }

    /// Attention of each text's first token: its row `first` `[batch, hidden]`, all rows `x` `[tokens, hidden]`, both
    /// moved by `shift` → `[batch, hidden]`.
    fn first_attention(
        &mut self,
        index: usize,
        [x, first]: [&str; 2],
        projections: [Linear; 3],
        shift: &Tensor,
        mask: &Mask,
    ) -> Result<String> {
        let name = |part: &str| format!("layer.{index}/{part}");
        let (heads, hidden) = (self.encoder().num_attention_heads, self.encoder().hidden_size);
        let width = hidden / heads;
        let [query, key, value] = projections;
        let scale = 1.0 / (width as f64).sqrt();
        let query = Linear { weight: (query.weight * scale)?, bias: (query.bias * scale)? }.of_shifted(shift)?;
        let bias = self.builder.floats(&name("query/bias"), &query.bias)?;
        let q = self.product_plus(&name("query"), first, &query.weight, &bias)?;
        let key = self.stored(&name("key"), &key.weight)?;
        let value_bias = value.bias_of_shifted(shift)?;
        let value = self.stored(&name("value"), &value.weight)?;
        let texts = self.reshaped(&name("texts"), x, SHAPE_3D);
        let is_standard = self.is_standard();
        let b = &mut self.builder;
        let value_bias = b.floats(&name("context/bias"), &value_bias)?;
        let permuted = |b: &mut GraphBuilder, part: &str, x: &str, permutation: &[i64]| {
            b.node(&name(part), "Transpose", &[x], vec![ints_attribute("perm", permutation)])
        };
        let sizes = [heads as i64, width as i64, hidden as i64];
        // Of constants, so that they are computed once: [hidden, heads · width] → [heads, width, hidden], and
        // → [heads, hidden, width].
        let key_shape = b.integers(&name("key/shape"), &sizes);
        let key = permuted(b, "key/transposed", &key, &[1, 0]);
        let key = b.node(&name("key/by_head"), "Reshape", &[&key, &key_shape], vec![]);
        let value_shape = b.integers(&name("value/shape"), &[sizes[2], sizes[0], sizes[1]]);
        let value = b.node(&name("value/heads"), "Reshape", &[&value, &value_shape], vec![]);
        let value = permuted(b, "value/by_head", &value, &[1, 0, 2]);

        // One row a text and head: [batch, heads, 1, width] → [batch, heads, 1, hidden].
        let by_head = b.integers(&name("query/shape"), &[-1, sizes[0], 1, sizes[1]]);
        let q = b.node(&name("query/heads"), "Reshape", &[&q, &by_head], vec![]);
        let u = b.node(&name("key_query"), "MatMul", &[&q, &key], vec![]);
        let by_text = b.integers(&name("key_query/shape"), &[-1, sizes[0], sizes[2]]);
        let u = b.node(&name("key_query/by_text"), "Reshape", &[&u, &by_text], vec![]);
        // [batch, sequence, heads]
        let scores = match is_standard {
            true => {
                let columns = permuted(b, "key_query/columns", &u, &[0, 2, 1]);
                b.node(&name("scores/by_token"), "MatMul", &[&texts, &columns], vec![])
            }
            false => {
                let transposed = vec![int_attribute("transB", 1)];
                b.contrib(&name("scores/by_token"), "FusedMatMul", &[&texts, &u], transposed)
            }
        };
        let scores = permuted(b, "scores", &scores, &[0, 2, 1]);
        let masked = b.node(&name("masked"), "Add", &[&scores, &mask.first_scores], vec![]);
        let p = b.node(&name("probabilities"), "Softmax", &[&masked], vec![int_attribute("axis", -1)]);
        let mean = b.node(&name("mean"), "MatMul", &[&p, &texts], vec![]);
        let by_head = b.integers(&name("mean/shape"), &[-1, sizes[0], 1, sizes[2]]);
        let mean = b.node(&name("mean/by_head"), "Reshape", &[&mean, &by_head], vec![]);
        let context = b.node(&name("context/by_head"), "MatMul", &[&mean, &value], vec![]);
        let context = b.node(&name("context/rows"), "Reshape", &[&context, SHAPE_2D], vec![]);
        Ok(b.node(&name("context"), "Add", &[&context, &value_bias], vec![]))
    }

    /// Everything behind attention: `context` and `residual` `[n, hidden]` → `[n, hidden]`, called `output`.
    fn feed_forward(
        &mut self,
        index: usize,
        layer: BehindAttention,
        context: &str,
        residual: &str,
        output: &str,
    ) -> Result<String> {
        let names = self.names();
        let name = |part: &str| format!("layer.{index}/{part}");
        let BehindAttention { attention_output, intermediate, output: second } = layer;
        let sum = self.product_plus(&name("attention/output"), context, &attention_output.weight, residual)?;
        let norm = names.in_layer(index, names.attention_norm);
        let attended = self.layer_norm(&name("attended"), &norm, &sum, Some(&second.bias))?;
        let intermediate = intermediate.of_shifted(&second.bias)?;
        let product = self.product(&name("intermediate"), &attended, &intermediate.weight)?;
        let hidden_act = self.encoder().hidden_act;
        let activated = self.activation(&name("activated"), &product, &intermediate.bias, hidden_act)?;
        let sum = self.product_plus(&name("output"), &activated, &second.weight, &attended)?;
        let norm = names.in_layer(index, names.output_norm);
        let shift = self.residual_bias(index + 1)?;
        self.layer_norm(output, &norm, &sum, shift.as_ref())
    }

    fn classifier(&mut self) -> Result<()> {
        let axes = || [Axis::Named("batch"), Axis::Named("sequence")];
        let mut input = |name: &str| self.builder.input(name, DataType::Int64, &axes());
        let (input_ids, attention_mask) = (input("input_ids"), input("attention_mask"));
        let token_type_ids = (self.model.config.type_vocab_size > 0).then(|| input("token_type_ids"));
        let mask = self.mask(&attention_mask);
        let mut x = self.embeddings(&input_ids, token_type_ids.as_deref())?;
        let last = self.encoder().num_hidden_layers - 1;
        for index in 0..=last {
            let Layer { query, key, value, rest } = self.layer(index)?;
            let shift = rest.attention_output.bias.clone();
            if index < last {
                let projections = [query.of_shifted(&shift)?, key.of_shifted(&shift)?, value.of_shifted(&shift)?];
                let context = self.attention(index, &x, projections, &mask)?;
                x = self.feed_forward(index, rest, &context, &x, &format!("layer.{}/input", index + 1))?;
            } else {
                let texts = self.reshaped(&format!("layer.{index}/all"), &x, SHAPE_3D);
                let zero = self.builder.integer("first/index", 0);
                let axis = vec![int_attribute("axis", 1)];
                let first = self.builder.node(&format!("layer.{index}/first"), "Gather", &[&texts, &zero], axis);
                let context = self.first_attention(index, [&x, &first], [query, key, value], &shift, &mask)?;
                x = self.feed_forward(index, rest, &context, &first, HEAD_INPUT)?;
            }
        }
        let names = self.names();
        let dense = self.corrected_linear(names.head_dense, HEAD_INPUT)?;
        let product = self.product("head/dense", &x, &dense.weight)?;
        let activation = self.encoder().family.head.activation;
        let activated = self.activation("head/activated", &product, &dense.bias, activation)?;
        let mut output = self.linear(names.head_output)?;
        if self.config.temperature != 1.0 {
            let share = 1.0 / f64::from(self.config.temperature);
            output = Linear { weight: (output.weight * share)?, bias: (output.bias * share)? };
        }
        let bias = self.builder.floats("logits/bias", &output.bias)?;
        self.product_plus("logits", &activated, &output.weight, &bias)?;
        let labels = self.model.labels.len();
        self.builder.output("logits", DataType::Float, &[Axis::Named("batch"), Axis::Size(labels)]);
        Ok(())
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
