//! What the check needs of ONNX's messages, with the field numbers of `onnx.proto`. Names and data are borrowed.
//!
//! Of a field that occurs twice, protobuf merges messages and takes the last number or name. Whoever reads one of the
//! two checks another graph than the one that runs: a field that is not repeated occurs once, or the graph is refused.

use super::{
    fault::Fault,
    pack::PACKED,
    tensors::Tensor,
    types::ValueInfo,
    wire::{MOST_PER_NODE, damaged, fields, once, push},
};

/// No graph has more nodes, initializers, or types of values than these; the largest encoders have some thousands.
const MOST_NODES: usize = 100_000;
const MOST_INITIALIZERS: usize = 100_000;
const MOST_TYPES: usize = 200_000;
/// Numbers of an attribute.
const MOST_NUMBERS: usize = 1 << 16;

/// A `ModelProto`.
#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    /// Domains and versions.
    pub(super) opsets: Vec<(&'a str, i64)>,
    pub(super) has_functions: bool,
    pub(super) has_training: bool,
    /// Whether it says that it computes no padding.
    pub(super) is_packed: bool,
    pub(super) graph: Graph<'a>,
}

/// A `GraphProto`.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) initializers: Vec<Tensor<'a>>,
    pub(super) has_sparse_initializers: bool,
    pub(super) inputs: Vec<ValueInfo<'a>>,
    pub(super) outputs: Vec<ValueInfo<'a>>,
    pub(super) value_infos: Vec<ValueInfo<'a>>,
}

/// A `NodeProto`.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) op_type: &'a str,
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) attributes: Vec<Attribute<'a>>,
}

/// An `AttributeProto`. Graphs in it are not read.
#[derive(Debug, Default)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    /// `AttributeProto.AttributeType`.
    pub(super) kind: i32,
    /// The numbers of the fields that hold a value, a bit each.
    pub(super) fields: u32,
    pub(super) is_reference: bool,
    pub(super) float: f32,
    pub(super) integer: i64,
    pub(super) floats: Vec<f32>,
    pub(super) integers: Vec<i64>,
    pub(super) tensor: Option<Tensor<'a>>,
}

impl<'a> Model<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut model = Self::default();
        let mut graph = None;
        for field in fields(message) {
            match field? {
                (7, value) => once(&mut graph, Graph::parse(value.bytes()?)?, "graph")?,
                (8, value) => push(&mut model.opsets, parse_opset(value.bytes()?)?, MOST_PER_NODE, "operator sets")?,
                (14, value) => model.is_packed |= parse_property(value.bytes()?)? == PACKED.as_bytes(),
                (20, _) => model.has_training = true,
                (25, _) => model.has_functions = true,
                _ => {}
            }
        }
        model.graph = graph.ok_or_else(|| damaged("no graph"))?;
        Ok(model)
    }
}

impl<'a> Graph<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut graph = Self::default();
        for field in fields(message) {
            match field? {
                (1, value) => push(&mut graph.nodes, Node::parse(value.bytes()?)?, MOST_NODES, "nodes")?,
                (5, value) => {
                    let tensor = Tensor::parse(value.bytes()?)?;
                    push(&mut graph.initializers, tensor, MOST_INITIALIZERS, "initializers")?;
                }
                (number @ (11..=13), value) => {
                    let list = match number {
                        11 => &mut graph.inputs,
                        12 => &mut graph.outputs,
                        _ => &mut graph.value_infos,
                    };
                    push(list, ValueInfo::parse(value.bytes()?)?, MOST_TYPES, "types of values")?;
                }
                (15, _) => graph.has_sparse_initializers = true,
                _ => {}
            }
        }
        Ok(graph)
    }
}

impl<'a> Node<'a> {
    /// The attribute of that name.
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut node = Self::default();
        let (mut op_type, mut domain) = (None, None);
        for field in fields(message) {
            match field? {
                (1, value) => push(&mut node.inputs, value.text()?, MOST_PER_NODE, "inputs of a node")?,
                (2, value) => push(&mut node.outputs, value.text()?, MOST_PER_NODE, "outputs of a node")?,
                (4, value) => once(&mut op_type, value.text()?, "op_type")?,
                (5, value) => {
                    let attribute = Attribute::parse(value.bytes()?)?;
                    push(&mut node.attributes, attribute, MOST_PER_NODE, "attributes of a node")?;
                }
                (7, value) => once(&mut domain, value.text()?, "domain")?,
                _ => {}
            }
        }
        node.op_type = op_type.unwrap_or_default();
        node.domain = domain.unwrap_or_default();
        Ok(node)
    }
}

impl<'a> Attribute<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut attribute = Self::default();
        let (mut name, mut kind, mut float, mut integer, mut text) = (None, None, None, None, None);
        for field in fields(message) {
            let (number, value) = field?;
            match number {
                1 => once(&mut name, value.text()?, "name")?,
                2 => once(&mut float, value.float()?, "f")?,
                3 => once(&mut integer, value.integer()?, "i")?,
                4 => once(&mut text, value.bytes()?, "s")?,
                5 => once(&mut attribute.tensor, Tensor::parse(value.bytes()?)?, "t")?,
                7 => {
                    for bytes in value.fixed()? {
                        push(&mut attribute.floats, f32::from_le_bytes(*bytes), MOST_NUMBERS, "floats")?;
                    }
                }
                8 => {
                    for integer in value.integers()? {
                        push(&mut attribute.integers, integer?, MOST_NUMBERS, "ints")?;
                    }
                }
                20 => once(&mut kind, value.integer32()?, "type")?,
                21 => attribute.is_reference = true,
                _ => {}
            }
            if matches!(number, 2..=11 | 14 | 15 | 22 | 23) {
                attribute.fields |= 1 << number;
            }
        }
        attribute.name = name.unwrap_or_default();
        attribute.kind = kind.unwrap_or_default();
        attribute.float = float.unwrap_or_default();
        attribute.integer = integer.unwrap_or_default();
        Ok(attribute)
    }
}

/// The key of a `StringStringEntryProto`: what it says is nobody's business here.
fn parse_property(message: &[u8]) -> Result<&[u8], Fault> {
    let mut key = None;
    for field in fields(message) {
        if let (1, value) = field? {
            once(&mut key, value.bytes()?, "key")?;
        }
    }
    Ok(key.unwrap_or_default())
}

fn parse_opset(message: &[u8]) -> Result<(&str, i64), Fault> {
    let (mut domain, mut version) = (None, None);
    for field in fields(message) {
        match field? {
            (1, value) => once(&mut domain, value.text()?, "domain")?,
            (2, value) => once(&mut version, value.integer()?, "version")?,
            _ => {}
        }
    }
    Ok((domain.unwrap_or_default(), version.unwrap_or_default()))
}
