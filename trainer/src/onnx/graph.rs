//! A graph in the making, over the protobuf types of candle-onnx.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use candle_core::Tensor;
use candle_onnx::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use crate::error::Result;

/// ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// The versions of the operators that a graph is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpsetVersions {
    /// Of the standard operators.
    pub(super) onnx: i64,
    /// Whether there are ONNX Runtime's own among them.
    pub(super) microsoft: bool,
}

impl OpsetVersions {
    /// The version of the file format that belongs to them.
    fn ir_version(self) -> i64 {
        if self.onnx > 14 { 8 } else { 7 }
    }
}

/// Collects nodes in the order in which they run. Values are known by their names.
#[derive(Debug, Default)]
pub(crate) struct GraphBuilder {
    graph: GraphProto,
}

/// An axis of an input or output.
pub(crate) enum Axis {
    Named(&'static str),
    Size(usize),
}

impl GraphBuilder {
    pub(crate) fn input(&mut self, name: &str, data_type: DataType, axes: &[Axis]) -> String {
        self.graph.input.push(value_info(name, data_type, axes));
        name.to_owned()
    }

    pub(crate) fn output(&mut self, name: &str, data_type: DataType, axes: &[Axis]) {
        self.graph.output.push(value_info(name, data_type, axes));
    }

    /// Adds a node with one output, which gets the node's name.
    pub(crate) fn node(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.graph.node.push(node(name, op_type, inputs, &[name], attributes));
        name.to_owned()
    }

    /// The same with one of ONNX Runtime's own operators.
    pub(crate) fn contrib(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let node = node(name, op_type, inputs, &[name], attributes);
        self.graph.node.push(NodeProto { domain: MICROSOFT.to_owned(), ..node });
        name.to_owned()
    }

    /// The same with elements of another type.
    pub(crate) fn cast(&mut self, name: &str, x: &str, data_type: DataType) -> String {
        self.node(name, "Cast", &[x], vec![int_attribute("to", data_type as i64)])
    }

    /// A constant of 32-bit floating-point numbers.
    pub(crate) fn floats(&mut self, name: &str, tensor: &Tensor) -> Result<String> {
        let dims: Vec<usize> = tensor.dims().to_vec();
        let values = tensor.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        self.graph.initializer.push(float_tensor(name, &dims, &values));
        Ok(name.to_owned())
    }

    /// The same from numbers, row-major.
    pub(crate) fn float_values(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        self.graph.initializer.push(float_tensor(name, dims, values));
        name.to_owned()
    }

    /// A constant of signed bytes.
    pub(crate) fn bytes(&mut self, name: &str, dims: &[usize], values: Vec<i8>) -> String {
        let bytes = values.into_iter().map(i8::cast_unsigned).collect();
        self.graph.initializer.push(tensor(name, DataType::Int8, dims, bytes));
        name.to_owned()
    }

    /// A constant of unsigned bytes.
    pub(crate) fn unsigned_bytes(&mut self, name: &str, dims: &[usize], values: Vec<u8>) -> String {
        self.graph.initializer.push(tensor(name, DataType::Uint8, dims, values));
        name.to_owned()
    }

    /// A constant scalar signed byte: a zero point.
    pub(crate) fn signed_byte(&mut self, name: &str, value: i8) -> String {
        self.bytes(name, &[], vec![value])
    }

    /// A constant scalar unsigned byte: a zero point.
    pub(crate) fn byte(&mut self, name: &str, value: u8) -> String {
        self.graph.initializer.push(tensor(name, DataType::Uint8, &[], vec![value]));
        name.to_owned()
    }

    /// A constant scalar.
    pub(crate) fn scalar(&mut self, name: &str, value: f32) -> String {
        self.graph.initializer.push(float_tensor(name, &[], &[value]));
        name.to_owned()
    }

    /// A constant scalar integer: an index.
    pub(crate) fn integer(&mut self, name: &str, value: i64) -> String {
        self.graph.initializer.push(tensor(name, DataType::Int64, &[], value.to_le_bytes().to_vec()));
        name.to_owned()
    }

    /// A constant vector of integers: axes, bounds, shapes.
    pub(crate) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.integer_values(name, &[values.len()], values)
    }

    /// A constant of integers in another shape, row-major.
    pub(crate) fn integer_values(&mut self, name: &str, dims: &[usize], values: &[i64]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.graph.initializer.push(tensor(name, DataType::Int64, dims, raw));
        name.to_owned()
    }

    pub(super) fn finish(mut self, name: &str, opsets: OpsetVersions) -> ModelProto {
        name.clone_into(&mut self.graph.name);
        self.keep_one_of_equals();
        ModelProto {
            ir_version: opsets.ir_version(),
            opset_import: std::iter::once(("", opsets.onnx))
                .chain(opsets.microsoft.then_some((MICROSOFT, 1)))
                .map(|(domain, version)| OperatorSetIdProto { domain: domain.to_owned(), version })
                .collect(),
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            ..ModelProto::default()
        }
    }
}

impl GraphBuilder {
    /// Of large constants that are equal, such as those of layers that share their weights, one is kept for all.
    fn keep_one_of_equals(&mut self) {
        /// Smaller ones are not worth a second name.
        const LEAST_BYTES: usize = 1 << 12;
        let hasher = RandomState::new();
        let mut kept: Vec<TensorProto> = Vec::new();
        let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut renamed: HashMap<String, String> = HashMap::new();
        for constant in std::mem::take(&mut self.graph.initializer) {
            if constant.raw_data.len() >= LEAST_BYTES {
                let places = by_hash.entry(hasher.hash_one(&constant.raw_data)).or_default();
                let is_equal = |other: &TensorProto| {
                    (other.data_type, &other.dims, &other.raw_data)
                        == (constant.data_type, &constant.dims, &constant.raw_data)
                };
                if let Some(&same) = places.iter().find(|&&place| is_equal(&kept[place])) {
                    renamed.insert(constant.name, kept[same].name.clone());
                    continue;
                }
                places.push(kept.len());
            }
            kept.push(constant);
        }
        self.graph.initializer = kept;
        for input in self.graph.node.iter_mut().flat_map(|node| &mut node.input) {
            if let Some(name) = renamed.get(input) {
                input.clone_from(name);
            }
        }
    }
}

pub(super) fn node(
    name: &str,
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        name: name.to_owned(),
        op_type: op_type.to_owned(),
        input: owned(inputs),
        output: owned(outputs),
        attribute,
        ..NodeProto::default()
    }
}

pub(crate) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: AttributeType::Int as i32, i: value, ..AttributeProto::default() }
}

pub(crate) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: AttributeType::Float as i32, f: value, ..AttributeProto::default() }
}

pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

pub(super) fn float_tensor(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::Float, dims, raw)
}

/// A constant; `raw` holds its elements in little-endian order.
pub(super) fn tensor(name: &str, data_type: DataType, dims: &[usize], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: data_type as i32,
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: raw,
        ..TensorProto::default()
    }
}

/// An output of floats of any shape.
pub(crate) fn float_output(name: &str) -> ValueInfoProto {
    let tensor_type = type_proto::Tensor { elem_type: DataType::Float as i32, shape: None };
    let value = Some(type_proto::Value::TensorType(tensor_type));
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

fn value_info(name: &str, data_type: DataType, axes: &[Axis]) -> ValueInfoProto {
    let dim = |axis: &Axis| tensor_shape_proto::Dimension {
        value: Some(match axis {
            Axis::Named(name) => tensor_shape_proto::dimension::Value::DimParam((*name).to_owned()),
            Axis::Size(size) => tensor_shape_proto::dimension::Value::DimValue(*size as i64),
        }),
        ..tensor_shape_proto::Dimension::default()
    };
    let tensor_type = type_proto::Tensor {
        elem_type: data_type as i32,
        shape: Some(TensorShapeProto { dim: axes.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor_type)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// The elements of a float constant that this crate wrote.
pub(super) fn floats(tensor: &TensorProto) -> Vec<f32> {
    tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_constants_one_is_kept() {
        let mut builder = GraphBuilder::default();
        let values = vec![1.5; 2048];
        let [a, b] = ["a", "b"].map(|name| builder.float_values(name, &[2, 1024], &values));
        let c = builder.float_values("c", &[1024, 2], &values);
        let sum = builder.node("sum", "Add", &[&a, &b], vec![]);
        builder.node("product", "MatMul", &[&sum, &c], vec![]);
        let graph = builder.finish("test", OpsetVersions { onnx: 17, microsoft: false }).graph.unwrap();
        let names: Vec<&str> = graph.initializer.iter().map(|constant| constant.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(graph.node[0].input, ["a", "a"]);
        assert_eq!(graph.node[1].input, ["sum", "c"]);
    }
}
