//! Dynamic int8 quantization: weights per channel, activations per token when they arrive.
//!
//! - A matrix product with a constant becomes MatMulInteger. Its weights have one scale an output channel and use 7 of
//!   the 8 bits: AVX2 without VNNI adds two 8 × 8-bit products in 16 bits, and with 8-bit weights that sum saturates.
//! - The other operand gets one scale a token, computed from that token alone, so that a text's answer does not depend
//!   on the texts beside it in the batch; DynamicQuantizeLinear would use one scale for all.
//! - An embedding table is stored as int8 with one scale a row, and its rows are scaled back after they were picked.
//! - Small constants — biases, normalization, a classifier of a few labels — stay as they are.

use std::collections::{HashMap, HashSet};

use candle_onnx::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::{
    graph::{float_tensor, int_attribute, ints_attribute, node, tensor},
    packing,
};

/// The largest weight of a matrix product: 255 · 64 + 255 · 64 still fits 16 bits.
const MAX_MATMUL_WEIGHT: f32 = 64.0;
/// The largest activation.
const MAX_ACTIVATION: f32 = 127.0;
/// The largest weight of a table: nothing is multiplied in 8 bits there.
const MAX_TABLE_WEIGHT: f32 = 127.0;
const INVERSE_MAX: &str = "quantize/inverse_max";
const SMALLEST_SCALE: &str = "quantize/smallest_scale";
const ONE: &str = "quantize/one";
const MIDDLE: &str = "quantize/middle";
/// Constants with fewer elements stay in fp32: the gain would be a few kilobytes.
const MIN_ELEMENTS: i64 = 1 << 13;

/// How integers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// A byte each.
    #[default]
    Bytes,
    /// 6 bits for weights, 4 for embeddings: smaller by a third, and less exact. They are unpacked when the graph is loaded,
    /// and computed with as bytes.
    Packed,
}

/// The int8 form of an fp32 graph that [`super::export`] made; inputs and output are the same.
pub fn quantize(model: &ModelProto, storage: Storage) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        quantize_graph(graph, storage);
    }
    model
}

fn quantize_graph(graph: &mut GraphProto, storage: Storage) {
    let large_matrices = graph.initializer.iter().filter(|tensor| {
        tensor.dims.len() == 2
            && tensor.dims.iter().product::<i64>() >= MIN_ELEMENTS
            && tensor.data_type == DataType::Float as i32
    });
    let constants: HashMap<String, TensorProto> =
        large_matrices.map(|tensor| (tensor.name.clone(), tensor.clone())).collect();
    let mut quantizer = Quantizer { storage, ..Quantizer::default() };
    quantizer.shared_constants();
    for node in std::mem::take(&mut graph.node) {
        match (node.op_type.as_str(), node.input.as_slice()) {
            ("MatMul", [x, weight]) if constants.contains_key(weight) => {
                quantizer.matmul(&node, x, &constants[weight]);
            }
            ("Gather" | "Slice", [table, ..]) if constants.contains_key(table) => {
                quantizer.rows(&node, &constants[table]);
            }
            _ => quantizer.nodes.push(node),
        }
    }
    graph.node = quantizer.nodes;
    graph.initializer.retain(|tensor| !quantizer.replaced.contains(&tensor.name));
    graph.initializer.append(&mut quantizer.initializers);
}

#[derive(Default)]
struct Quantizer {
    storage: Storage,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Constants that are no longer used.
    replaced: HashSet<String>,
    /// Values that have been quantized already: queries, keys and values share one.
    quantized: HashSet<String>,
}

impl Quantizer {
    /// y = x W, computed in integers and scaled back: by the token's scale, then by the channel's.
    fn matmul(&mut self, matmul: &NodeProto, x: &str, weight: &TensorProto) {
        let (rows, columns) = (weight.dims[0] as usize, weight.dims[1] as usize);
        let values = floats(weight);
        let column = |index: usize| values[index..].iter().step_by(columns).copied();
        let is_packed = self.storage == Storage::Packed && columns.is_multiple_of(4);
        let max = if is_packed { packing::MAX_MATRIX } else { MAX_MATMUL_WEIGHT };
        let best = if is_packed { best_scale } else { scale };
        let scales: Vec<f32> = (0..columns).map(|index| best(&column(index).collect::<Vec<_>>(), max)).collect();
        let integers = values.iter().enumerate().map(|(index, value)| round(value / scales[index % columns], max));
        let integers: Vec<i8> = integers.collect();
        let name = |part: &str| format!("{}/{part}", weight.name);
        let [quantized_name, packed_name, scale_name] = [name("int8"), name("packed"), name("scale")];
        if is_packed {
            let packed = packing::pack_matrix(&integers, columns);
            self.initializers.push(tensor(&packed_name, DataType::Uint8, &[3, rows, columns / 4], packed));
            let (nodes, constants) = packing::unpack_matrix(&packed_name, &quantized_name, rows, columns);
            self.nodes.extend(nodes);
            self.initializers.extend(constants);
        } else {
            let bytes = integers.into_iter().map(i8::cast_unsigned).collect();
            self.initializers.push(tensor(&quantized_name, DataType::Int8, &[rows, columns], bytes));
        }
        self.initializers.push(float_tensor(&scale_name, &[columns], &scales));
        self.replaced.insert(weight.name.clone());

        let [x_quantized, x_scale] = ["uint8", "scale"].map(|part| format!("{x}/{part}"));
        if self.quantized.insert(x.to_owned()) {
            self.quantize_rows(x, &x_quantized, &x_scale);
        }
        let output = &matmul.output[0];
        let name = |part: &str| format!("{}/{part}", matmul.name);
        let (product, float, row_scaled) = (name("integer"), name("float"), name("row_scaled"));
        self.nodes.extend([
            node(&product, "MatMulInteger", &[&x_quantized, &quantized_name, MIDDLE], &[&product], vec![]),
            node(&float, "Cast", &[&product], &[&float], to(DataType::Float)),
            node(&row_scaled, "Mul", &[&float, &x_scale], &[&row_scaled], vec![]),
            node(&matmul.name, "Mul", &[&row_scaled, &scale_name], &[output], vec![]),
        ]);
    }

    /// x to unsigned 8 bits around 128: the largest element of each row, in absolute value, lies 127 from there.
    fn quantize_rows(&mut self, x: &str, quantized: &str, scale: &str) {
        let name = |part: &str| format!("{x}/{part}");
        let (absolute, largest, unbounded, scaled) =
            (name("absolute"), name("largest"), name("unbounded_scale"), name("scaled"));
        self.nodes.extend([
            node(&absolute, "Abs", &[x], &[&absolute], vec![]),
            node(&largest, "ReduceMax", &[&absolute], &[&largest], vec![ints_attribute("axes", &[-1])]),
            node(&unbounded, "Mul", &[&largest, INVERSE_MAX], &[&unbounded], vec![]),
            node(scale, "Max", &[&unbounded, SMALLEST_SCALE], &[scale], vec![]),
            node(&scaled, "Div", &[x, scale], &[&scaled], vec![]),
            // Rounds, shifts, and bounds in one pass.
            node(quantized, "QuantizeLinear", &[&scaled, ONE, MIDDLE], &[quantized], vec![]),
        ]);
    }

    /// The constants that all products share.
    fn shared_constants(&mut self) {
        self.initializers.extend([
            float_tensor(INVERSE_MAX, &[], &[1.0 / MAX_ACTIVATION]),
            // A row of zeros would be divided by 0.
            float_tensor(SMALLEST_SCALE, &[], &[f32::MIN_POSITIVE]),
            float_tensor(ONE, &[], &[1.0]),
            tensor(MIDDLE, DataType::Uint8, &[], vec![128]),
        ]);
        if self.storage == Storage::Packed {
            self.initializers.extend(packing::shared_constants());
        }
    }

    /// Rows of a table, picked by `pick` (Gather or Slice along the first axis) as integers, and scaled back.
    fn rows(&mut self, pick: &NodeProto, table: &TensorProto) {
        let (rows, columns) = (table.dims[0] as usize, table.dims[1] as usize);
        let values = floats(table);
        let is_packed = self.storage == Storage::Packed && columns.is_multiple_of(2);
        let max = if is_packed { packing::MAX_TABLE } else { MAX_TABLE_WEIGHT };
        let best = if is_packed { best_scale } else { scale };
        let scales: Vec<f32> = values.chunks_exact(columns).map(|row| best(row, max)).collect();
        let integers = values.iter().enumerate().map(|(index, value)| round(value / scales[index / columns], max));
        let integers: Vec<i8> = integers.collect();
        let name = |part: &str| format!("{}/{part}", table.name);
        let [quantized_name, scale_name] = [name(if is_packed { "packed" } else { "int8" }), name("scale")];
        self.initializers.push(if is_packed {
            let packed = packing::pack_table(&integers, columns);
            tensor(&quantized_name, DataType::Uint8, &[rows, columns / 2], packed)
        } else {
            let bytes = integers.into_iter().map(i8::cast_unsigned).collect();
            tensor(&quantized_name, DataType::Int8, &[rows, columns], bytes)
        });
        self.initializers.push(float_tensor(&scale_name, &[rows, 1], &scales));
        self.replaced.insert(table.name.clone());

        let name = |part: &str| format!("{}/{part}", pick.name);
        let (picked, float, scale) = (name("int8"), name("float"), name("scale"));
        let pick_from = |table: &str, output: &str| {
            let mut node = NodeProto { name: output.to_owned(), output: vec![output.to_owned()], ..pick.clone() };
            table.clone_into(&mut node.input[0]);
            node
        };
        self.nodes.push(pick_from(&quantized_name, &picked));
        self.nodes.extend(match is_packed {
            true => packing::unpack_rows(&picked, &float),
            false => vec![node(&float, "Cast", &[&picked], &[&float], to(DataType::Float))],
        });
        self.nodes.extend([
            pick_from(&scale_name, &scale),
            node(&pick.name, "Mul", &[&float, &scale], &[&pick.output[0]], vec![]),
        ]);
    }
}

/// The attribute of Cast.
fn to(data_type: DataType) -> Vec<AttributeProto> {
    vec![int_attribute("to", data_type as i64)]
}

/// The scale at which the largest of `values` becomes `max`; 1 where all are 0.
fn scale(values: &[f32], max: f32) -> f32 {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 { largest / max } else { 1.0 }
}

/// The scale with the least squared error. With few bits it is smaller than [`scale`]: some of the largest values are cut,
/// and all others are more exact.
fn best_scale(values: &[f32], max: f32) -> f32 {
    let whole = scale(values, max);
    let error = |scale: f32| -> f32 {
        values.iter().map(|value| (value - scale * f32::from(round(value / scale, max))).powi(2)).sum()
    };
    let candidates = (0..10).map(|step| whole * (1.0 - 0.05 * step as f32));
    candidates.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(whole)
}

/// The nearest integer, at most `max` from 0, which is at most 127.
fn round(value: f32, max: f32) -> i8 {
    value.round_ties_even().clamp(-max, max) as i8
}

/// The elements of a float constant that this crate wrote.
fn floats(tensor: &TensorProto) -> Vec<f32> {
    tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_one_scale_a_channel_and_seven_bits() {
        // Channel 0 is small, channel 1 large, channel 2 zero.
        let weight = float_tensor("w", &[2, 3], &[0.1, 10.0, 0.0, -0.2, -5.0, 0.0]);
        let mut quantizer = Quantizer::default();
        quantizer.matmul(&node("y", "MatMul", &["x", "w"], &["y"], vec![]), "x", &weight);
        let [integers, scales] = &quantizer.initializers[..] else { panic!("two constants") };
        assert_eq!(integers.raw_data.iter().map(|&byte| byte as i8).collect::<Vec<_>>(), [32, 64, 0, -64, -32, 0]);
        assert_eq!(floats(scales), [0.2 / 64.0, 10.0 / 64.0, 1.0]);
    }

    #[test]
    fn one_input_is_quantized_once() {
        let mut quantizer = Quantizer::default();
        for name in ["q", "k", "v"] {
            let weight = float_tensor(name, &[1, 1], &[1.0]);
            quantizer.matmul(&node(&format!("y{name}"), "MatMul", &["x", name], &[name], vec![]), "x", &weight);
        }
        let count = quantizer.nodes.iter().filter(|node| node.op_type == "QuantizeLinear").count();
        assert_eq!((count, quantizer.nodes.len()), (1, 18));
    }

    #[test]
    fn few_bits_cut_an_outlier_for_the_sake_of_the_others() {
        let mut values = vec![0.3f32; 200];
        values.push(4.0);
        let error = |scale: f32| -> f32 {
            values.iter().map(|value| (value - scale * f32::from(round(value / scale, 7.0))).powi(2)).sum()
        };
        let (whole, best) = (scale(&values, 7.0), best_scale(&values, 7.0));
        assert!(best < whole && error(best) < error(whole), "{best} {whole}");
        assert_eq!(best_scale(&[0.0, 0.0], 7.0), 1.0);
    }
}
