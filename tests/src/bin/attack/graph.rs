//! Graphs that parse and that nobody would write. Here are their nodes; what lies in a node or a tensor is changed in
//! `values`, and what is no node in `whole`.

use candle_onnx::onnx::{GraphProto, ModelProto, NodeProto, ValueInfoProto, attribute_proto::AttributeType};
use fastrand::Rng;
use prost::Message;

use crate::{
    values::{self, attribute, extreme, integers},
    whole::{add_subgraph, add_what_no_classifier_has, change_opsets, change_value_infos},
};

/// The domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";
/// Operators of which a classifier may be made, above all those that read memory by what their inputs say, and some
/// others.
#[rustfmt::skip]
const OPERATORS: [&str; 56] = [
    "Add", "ArgMax", "Attention", "BiasGelu", "BiasSoftmax", "Cast", "Clip", "Concat", "Constant",
    "ConstantOfShape", "CumSum", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "EmbedLayerNormalization",
    "Expand", "Flatten", "FusedMatMul", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "Identity", "If",
    "LayerNormalization", "Loop", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "Mod", "MultiHeadAttention",
    "NonZero", "Pow", "QAttention", "QGemm", "QLinearAdd", "QLinearMatMul", "QuantizeLinear", "Range",
    "ReduceMean", "ReduceProd", "Reshape", "ScatterND", "Shape", "SkipLayerNormalization", "Slice", "Softmax",
    "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "NoSuchOperator",
];

/// Changes something, and says what; none if there is nothing of that sort.
type Mutation = fn(&mut ModelProto, &mut Rng) -> Option<String>;

const MUTATIONS: [Mutation; 13] = [
    |model, rng| values::change_tensor(rng.choice(&mut graph(model)?.initializer)?, rng),
    |model, rng| values::change_attributes(rng.choice(&mut graph(model)?.node)?, rng),
    change_operator,
    change_inputs,
    change_outputs,
    change_nodes,
    change_initializers,
    insert_node,
    insert_node,
    change_value_infos,
    change_opsets,
    add_subgraph,
    add_what_no_classifier_has,
];

/// A graph with one to three changes, and what they are.
pub(crate) fn mutate(content: &[u8], rng: &mut Rng) -> (String, Vec<u8>) {
    let mut model = ModelProto::decode(content).expect("the unchanged graph");
    let mut what = Vec::new();
    let changes = rng.usize(1..=3);
    while what.len() < changes {
        what.extend(MUTATIONS[rng.usize(..MUTATIONS.len())](&mut model, rng));
    }
    (what.join("; "), model.encode_to_vec())
}

/// The model's graph. Of a bundle's, there always is one.
pub(crate) fn graph(model: &mut ModelProto) -> Option<&mut GraphProto> {
    model.graph.as_mut()
}

/// The name of any value.
pub(crate) fn any_value(graph: &GraphProto, rng: &mut Rng) -> String {
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let names: Vec<&String> = outputs.chain(tensors).chain(graph.input.iter().map(|input| &input.name)).collect();
    rng.choice(names).cloned().unwrap_or_default()
}

fn change_operator(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let node = rng.choice(&mut graph(model)?.node)?;
    let before = format!("{} {}", node.op_type, node.name);
    if rng.u8(..4) > 0 {
        rng.choice(OPERATORS)?.clone_into(&mut node.op_type);
    }
    rng.choice(["", "", "ai.onnx", MICROSOFT, MICROSOFT, "ai.onnx.ml"])?.clone_into(&mut node.domain);
    Some(format!("{before} becomes {}.{}", node.domain, node.op_type))
}

fn change_inputs(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let other = any_value(graph, rng);
    let node = rng.choice(&mut graph.node)?;
    let place = rng.usize(..node.input.len().max(1));
    let what = match (rng.u8(..7), node.input.get_mut(place)) {
        (0, Some(_)) => format!("without {}", node.input.remove(place)),
        (1, Some(input)) => format!("with an empty name for {}", std::mem::take(input)),
        (2, Some(input)) => format!("{other} for {}", std::mem::replace(input, other.clone())),
        (3, Some(input)) => format!("no such value for {}", std::mem::replace(input, "no such value".to_owned())),
        (4, Some(_)) => {
            let with = rng.usize(..node.input.len());
            node.input.swap(place, with);
            format!("inputs {place} and {with} exchanged")
        }
        (5, Some(_)) => {
            node.input.truncate(place);
            format!("only {place} inputs")
        }
        _ => {
            node.input.resize(place, String::new());
            node.input.push(other.clone());
            format!("{other} as input {place}, the last")
        }
    };
    Some(format!("{} {}: {what}", node.op_type, node.name))
}

fn change_outputs(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let other = any_value(graph, rng);
    let node = rng.choice(&mut graph.node)?;
    let what = match (rng.u8(..5), node.output.first_mut()) {
        (0, Some(output)) => {
            let output = output.clone();
            node.output.push(output);
            "its output doubled".to_owned()
        }
        (1, Some(output)) => format!("{other} for the output {}", std::mem::replace(output, other.clone())),
        (2, Some(output)) => format!("without the output's name {}", std::mem::take(output)),
        (3, _) => {
            node.output.clear();
            "without outputs".to_owned()
        }
        _ => {
            let more = rng.choice([1_usize, 2, 1500])?;
            node.output.extend((0..more).map(|index| format!("more {index}")));
            format!("{more} outputs more")
        }
    };
    Some(format!("{} {}: {what}", node.op_type, node.name))
}

/// Drops, doubles or moves a node.
fn change_nodes(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let nodes = &mut graph(model)?.node;
    let place = rng.choice(0..nodes.len())?;
    let other = rng.usize(..nodes.len());
    let name = nodes[place].name.clone();
    Some(match rng.u8(..4) {
        0 => {
            nodes.remove(place);
            format!("without the node {name}")
        }
        1 => {
            let node = nodes[place].clone();
            nodes.insert(other, node);
            format!("the node {name} twice")
        }
        2 => {
            // Its second output is another value: nothing has a name twice.
            let mut node = nodes[place].clone();
            node.output.iter_mut().for_each(|output| output.push_str(" again"));
            nodes.insert(other, node);
            format!("a second node like {name} as number {other}")
        }
        _ => {
            nodes.swap(place, other);
            format!("the nodes {place} and {other} exchanged")
        }
    })
}

/// Drops or doubles a tensor, or makes it an input too.
fn change_initializers(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let place = rng.choice(0..graph.initializer.len())?;
    let other = rng.usize(..graph.initializer.len());
    let name = graph.initializer[place].name.clone();
    Some(match rng.u8(..4) {
        0 => {
            graph.initializer.remove(place);
            format!("without the tensor {name}")
        }
        1 => {
            let tensor = graph.initializer[place].clone();
            graph.initializer.push(tensor);
            format!("the tensor {name} twice")
        }
        2 => {
            let second = std::mem::replace(&mut graph.initializer[other].name, name.clone());
            graph.initializer[place].name.clone_from(&second);
            format!("the tensors {name} and {second} exchanged")
        }
        _ => {
            graph.input.push(ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() });
            format!("the tensor {name} is an input of no type")
        }
    })
}

/// Puts a node before an input of another, of any type, size or shape.
fn insert_node(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let place = rng.choice(0..graph.node.len())?;
    let input = rng.choice(0..graph.node[place].input.len())?;
    let (value, name) = (graph.node[place].input[input].clone(), format!("inserted {}", graph.node.len()));
    let mut constant = |part: &str, numbers: &[i64]| {
        let name = format!("{name} {part}");
        graph.initializer.push(integers(&name, numbers));
        name
    };
    let sizes: Vec<i64> = (0..rng.usize(..5)).map(|_| extreme(rng)).collect();
    let axis = rng.i64(-3..3);
    let (op_type, inputs, attributes) = match rng.u8(..9) {
        0 => ("Cast", vec![value], vec![attribute("to", AttributeType::Int, &[rng.i64(0..24)])]),
        1 => {
            let nothing = [constant("starts", &[0]), constant("ends", &[0]), constant("axes", &[axis])];
            ("Slice", [vec![value], nothing.to_vec()].concat(), vec![])
        }
        2 => {
            let bounds = ["starts", "ends", "axes", "steps"].map(|part| constant(part, &[extreme(rng)]));
            ("Slice", [vec![value], bounds.to_vec()].concat(), vec![])
        }
        3 => ("Reshape", vec![value, constant("shape", &sizes)], vec![]),
        4 => ("Expand", vec![value, constant("shape", &sizes)], vec![]),
        5 => ("Tile", vec![value, constant("repeats", &sizes)], vec![]),
        6 => ("Unsqueeze", vec![value, constant("axes", &sizes)], vec![]),
        7 => ("ConstantOfShape", vec![constant("shape", &sizes)], vec![]),
        _ => ("Gather", vec![value, constant("indices", &sizes)], vec![attribute("axis", AttributeType::Int, &[axis])]),
    };
    let node = NodeProto {
        name: name.clone(),
        op_type: op_type.to_owned(),
        input: inputs,
        output: vec![name.clone()],
        attribute: attributes,
        ..NodeProto::default()
    };
    let before = format!("{} {}", graph.node[place].op_type, graph.node[place].name);
    graph.node[place].input[input] = name;
    graph.node.insert(place, node);
    Some(format!("{op_type} of {sizes:?} or {axis} before input {input} of {before}"))
}
