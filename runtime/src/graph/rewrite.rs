//! Changes to a graph: which nodes stand in the places of others. What stays is copied field by field.

use std::collections::{HashMap, HashSet};

use super::{
    check::INT64,
    fault::Fault,
    model::{Model, Node},
    tensors::Tensor,
    wire::{Value, fields},
};
use crate::fused::{DOMAIN, VERSION};

/// What stands in the places of nodes: nothing where one is part of another's replacement.
pub(super) type Changes = HashMap<usize, Vec<Part>>;

/// One of the nodes that stand in the place of one.
pub(super) enum Part {
    /// The node that was there.
    Itself,
    /// Another's `NodeProto`.
    New(Vec<u8>),
}

/// The graph, given as it was parsed too, with nodes in the places of others, which may be operators of our own.
///
/// # Errors
/// If it is no graph.
pub(super) fn rewrite(model: &[u8], parsed: &Model<'_>, changes: &Changes) -> Result<Vec<u8>, Fault> {
    let mut rewritten = Vec::with_capacity(model.len());
    let knows_domain = parsed.opsets.iter().any(|(domain, _)| *domain == DOMAIN);
    for field in fields(model) {
        match field? {
            (7, graph) => Value::Bytes(&rewrite_graph(graph.bytes()?, changes)?).write(&mut rewritten, 7),
            (number, value) => value.write(&mut rewritten, number),
        }
    }
    if !knows_domain {
        let opset = message(&[(1, Value::Bytes(DOMAIN.as_bytes())), (2, Value::Varint(VERSION))]);
        Value::Bytes(&opset).write(&mut rewritten, 8);
    }
    Ok(rewritten)
}

/// The same of a `GraphProto`.
fn rewrite_graph(graph: &[u8], changes: &Changes) -> Result<Vec<u8>, Fault> {
    let (mut rewritten, mut place) = (Vec::with_capacity(graph.len()), 0);
    for field in fields(graph) {
        let (number, value) = field?;
        let is_node = number == 1;
        match changes.get(&place).filter(|_| is_node) {
            Some(parts) => parts.iter().for_each(|part| match part {
                Part::Itself => value.write(&mut rewritten, number),
                Part::New(node) => Value::Bytes(node).write(&mut rewritten, number),
            }),
            None => value.write(&mut rewritten, number),
        }
        place += usize::from(is_node);
    }
    Ok(rewritten)
}

/// A message of these fields.
pub(super) fn message(fields: &[(u32, Value<'_>)]) -> Vec<u8> {
    let mut message = Vec::new();
    fields.iter().for_each(|(number, value)| value.write(&mut message, *number));
    message
}

/// A `NodeProto`, named by the first output that it has.
pub(super) fn node((domain, op_type): (&str, &str), inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>]) -> Part {
    fn texts<'a>(number: u32, texts: &[&'a str]) -> Vec<(u32, Value<'a>)> {
        texts.iter().map(|text| (number, Value::Bytes(text.as_bytes()))).collect()
    }
    let name = outputs.iter().copied().find(|name| !name.is_empty()).unwrap_or_default();
    let mut fields = [texts(1, inputs), texts(2, outputs), texts(3, &[name])].concat();
    fields.extend([texts(4, &[op_type]), texts(7, &[domain])].concat());
    fields.extend(attributes.iter().map(|attribute| (5, Value::Bytes(attribute))));
    Part::New(message(&fields))
}

/// The `NodeProto` of a constant, of a type by its number in `TensorProto` and of these sizes, with these bytes.
pub(super) fn constant(name: &str, (data_type, sizes): (i32, &[u64]), bytes: &[u8]) -> Part {
    let mut fields: Vec<_> = sizes.iter().map(|size| (1, Value::Varint(*size))).collect();
    fields.extend([(2, Value::Varint(i64::from(data_type).cast_unsigned())), (9, Value::Bytes(bytes))]);
    let tensor = message(&fields);
    let value = [(1, Value::Bytes(b"value")), (5, Value::Bytes(&tensor)), (20, Value::Varint(4))];
    node(("", "Constant"), &[], &[name], &[message(&value)])
}

/// An `AttributeProto` that is a float.
pub(super) fn float_attribute(name: &str, value: f32) -> Vec<u8> {
    let value = value.to_le_bytes();
    message(&[(1, Value::Bytes(name.as_bytes())), (2, Value::Fixed32(&value)), (20, Value::Varint(1))])
}

/// An `AttributeProto` that is an integer.
pub(super) fn integer_attribute(name: &str, value: i64) -> Vec<u8> {
    let value = Value::Varint(value.cast_unsigned());
    message(&[(1, Value::Bytes(name.as_bytes())), (3, value), (20, Value::Varint(2))])
}

/// Who makes and who reads what.
pub(super) struct Wiring<'a> {
    pub(super) nodes: &'a [Node<'a>],
    tensors: HashMap<&'a str, &'a Tensor<'a>>,
    /// The places of those that make one.
    makers: HashMap<&'a str, usize>,
    /// The places of those that read a value. Of the graph's outputs: behind the last node.
    readers: HashMap<&'a str, Vec<usize>>,
    /// Whose types are said.
    typed: HashSet<&'a str>,
    /// What nodes make of constants alone.
    computed: HashSet<&'a str>,
}

impl<'a> Wiring<'a> {
    pub(super) fn new(model: &'a Model<'a>) -> Self {
        let graph = &model.graph;
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut makers = HashMap::new();
        for (place, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|name| readers.entry(name).or_default().push(place));
            makers.extend(node.outputs.iter().map(|name| (*name, place)));
        }
        let tensors: HashMap<&str, &Tensor<'a>> =
            graph.initializers.iter().map(|tensor| (tensor.name, tensor)).collect();
        let mut computed = HashSet::new();
        for node in &graph.nodes {
            if node.inputs.iter().all(|name| tensors.contains_key(name) || computed.contains(name)) {
                computed.extend(node.outputs.iter().copied());
            }
        }
        graph.outputs.iter().for_each(|output| readers.entry(output.name).or_default().push(graph.nodes.len()));
        Self {
            nodes: &graph.nodes,
            tensors,
            makers,
            readers,
            typed: graph.value_infos.iter().map(|value| value.name).collect(),
            computed,
        }
    }

    /// Who makes a value, and its place.
    pub(super) fn maker(&self, name: &str) -> Option<(usize, &'a Node<'a>)> {
        self.makers.get(name).map(|place| (*place, &self.nodes[*place]))
    }

    /// The places of those that read a value. Of the graph's outputs: behind the last node.
    pub(super) fn readers(&self, name: &str) -> &[usize] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only node that reads a value, and its place.
    pub(super) fn only_reader(&self, name: &str) -> Option<(usize, &'a Node<'a>)> {
        match self.readers(name) {
            [reader] => self.nodes.get(*reader).map(|node| (*reader, node)),
            _ => None,
        }
    }

    /// The initializer of that name.
    pub(super) fn tensor(&self, name: &str) -> Option<&'a Tensor<'a>> {
        self.tensors.get(name).copied()
    }

    /// Whether a value is an initializer, or follows from such alone.
    pub(super) fn is_constant(&self, name: &str) -> bool {
        self.tensor(name).is_some() || self.computed.contains(name)
    }

    /// The sizes of the initializer of that name.
    pub(super) fn dims(&self, name: &str) -> Option<&'a [i64]> {
        self.tensor(name).map(|tensor| tensor.dims.as_slice())
    }

    /// How many axes the initializer of that name has.
    pub(super) fn rank(&self, name: &str) -> Option<usize> {
        self.dims(name).map(<[i64]>::len)
    }

    /// The 64-bit integers of the initializer of that name, if it has such, within the graph.
    pub(super) fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let tensor = self.tensor(name).filter(|tensor| tensor.data_type == INT64)?;
        match tensor.raw {
            Some(raw) => Some(raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            None => Some(tensor.first.iter().map(|number| *number as i64).collect()),
        }
    }

    /// Whether an initializer has that name, and that type.
    pub(super) fn is_of_type(&self, name: &str, data_type: i32) -> bool {
        self.tensor(name).is_some_and(|tensor| tensor.data_type == data_type)
    }

    /// Whether nothing has that name yet.
    pub(super) fn is_free(&self, name: &str) -> bool {
        self.maker(name).is_none() && self.tensor(name).is_none()
    }

    /// Whether the graph says a value's type, which it could not have any more.
    pub(super) fn has_type(&self, name: &str) -> bool {
        self.typed.contains(name)
    }
}
