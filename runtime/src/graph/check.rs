//! The rules; the module's documentation lists them.

use std::collections::{HashMap, HashSet};

use super::{
    fault::Fault,
    model::{Attribute, Graph, Model, Node},
    operators::{MICROSOFT, check_operator},
    pack::PACKED,
    sizes::check_sizes,
    tensors::{DataFile, Tensor, is_data_type},
    types::{Type, ValueInfo},
};
use crate::session::{DISTANCE, LOGITS};

/// The versions of ONNX's operators that the table of operators knows.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=26;
/// What a classifier may read; the first two it must.
pub(super) const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
const NEEDED_INPUTS: usize = 2;
/// `TensorProto.DataType`.
pub(super) const FLOAT: i32 = 1;
pub(super) const UINT8: i32 = 2;
pub(super) const INT64: i32 = 7;

/// Which operators a graph may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Operators {
    /// Those that nimbert writes and that optimum exports.
    #[default]
    Known,
    /// Any: for graphs of one's own.
    Any,
}

/// Checks a graph, whose large tensors lie in `data`.
///
/// # Errors
/// The first rule that it breaks.
pub(crate) fn check(graph: &[u8], data: Option<DataFile<'_>>, operators: Operators) -> Result<(), Fault> {
    // ONNX Runtime's own format, which it tells by these bytes.
    ensure(graph.get(4..8) != Some(b"ORTM"), "a graph in ONNX's format", || "ONNX Runtime's own".to_owned())?;
    let model = Model::parse(graph)?;
    check_opsets(&model)?;
    // It is we who say so, of what we have made of a graph.
    ensure(!model.is_packed, "a graph that does not say it was packed", || PACKED.to_owned())?;
    let Model { has_functions, has_training, graph, .. } = &model;
    let has_sparse = graph.has_sparse_initializers;
    for (is_there, what) in
        [(*has_functions, "functions"), (*has_training, "training_info"), (has_sparse, "sparse_initializer")]
    {
        ensure(!is_there, "a graph of nodes and tensors alone", || what.to_owned())?;
    }
    ensure(!graph.nodes.is_empty(), "at least one node", || "none".to_owned())?;
    graph.initializers.iter().try_for_each(|tensor| tensor.check(false, data))?;
    for node in &graph.nodes {
        if operators == Operators::Known {
            check_operator(node)?;
        }
        check_attributes(node)?;
    }
    check_biases(graph)?;
    check_inputs(graph)?;
    check_outputs(graph)?;
    graph.value_infos.iter().try_for_each(|value| tensor_type(value).map(drop))?;
    check_names(graph)?;
    if operators == Operators::Known {
        check_sizes(graph)?;
    }
    Ok(())
}

fn check_opsets(model: &Model) -> Result<(), Fault> {
    let mut domains = HashSet::new();
    for &(domain, version) in &model.opsets {
        // The two names of one domain.
        let domain = if domain == "ai.onnx" { "" } else { domain };
        ensure(domains.insert(domain), "every operator set once", || format!("{domain:?} found twice"))?;
        let is_known = !domain.is_empty() || OPSETS.contains(&version);
        ensure(is_known, "ONNX's operator set from 7 to 26", || version.to_string())?;
    }
    ensure(domains.contains(""), "ONNX's operator set", || "none".to_owned())
}

fn check_attributes(node: &Node) -> Result<(), Fault> {
    let of_node = |fault: Fault| Fault { expected: format!("{} in a {:?}", fault.expected, node.op_type), ..fault };
    let mut names = HashSet::new();
    for attribute in &node.attributes {
        let name = attribute.name;
        ensure(names.insert(name), "every attribute once", || format!("{name:?} found twice")).map_err(of_node)?;
        check_attribute(node, attribute).map_err(of_node)?;
        attribute.tensor.iter().try_for_each(|tensor| tensor.check(true, None)).map_err(of_node)?;
    }
    let is_attention = matches!(node.op_type, "Attention" | "QAttention" | "MultiHeadAttention");
    let has_heads = names.contains("num_heads") || !is_attention || node.domain.is_empty();
    ensure(has_heads, "num_heads", || "none".to_owned()).map_err(of_node)
}

/// Checks an attribute's form, and that its value is none on which ONNX Runtime computes what it should not: it divides
/// by some without looking.
fn check_attribute(node: &Node, attribute: &Attribute) -> Result<(), Fault> {
    let Attribute { name, kind, fields, integer, integers, .. } = attribute;
    ensure(!attribute.is_reference, "attributes with a value", || format!("a reference as {name:?}"))?;
    // The number of the field that holds a value of that type.
    let field = match kind {
        1..=4 => kind + 1, // FLOAT, INT, STRING, TENSOR
        6 | 7 => kind + 1, // FLOATS, INTS
        other => {
            return Err(Fault {
                expected: "attributes that are numbers, a text or a tensor".to_owned(),
                got: format!("the type {other} of {name:?}"),
            });
        }
    };
    let is_alone = fields & !(1 << field) == 0 && (*kind != 4 || attribute.tensor.is_some());
    ensure(is_alone, "a value of the attribute's type alone", || format!("another in {name:?}"))?;
    let is_linear = matches!(node.op_type, "QuantizeLinear" | "DequantizeLinear");
    let is_right = match *name {
        "num_heads" => (1..=1024).contains(integer),
        "axis" => (-8..=7).contains(integer),
        "axes" => integers.iter().all(|axis| (-8..=7).contains(axis)),
        "epsilon" => attribute.float.is_finite(),
        "to" => is_data_type(*integer),
        "block_size" => (i64::from(!is_linear)..=1 << 16).contains(integer),
        "group" | "num_outputs" => (1..=1024).contains(integer),
        "split" => integers.iter().all(|size| *size >= 0),
        "qkv_hidden_sizes" => integers.iter().all(|size| (1..=1 << 20).contains(size)),
        "value_string" => false,
        _ => true,
    };
    ensure(is_right, &format!("a {name} that the operator can have"), || match kind {
        1 => attribute.float.to_string(),
        7 => format!("{integers:?}"),
        _ => integer.to_string(),
    })
}

/// Checks that the bias of each product of bytes has a number a column: ONNX Runtime adds it without looking.
fn check_biases(graph: &Graph) -> Result<(), Fault> {
    let tensors: HashMap<&str, &Tensor> = graph.initializers.iter().map(|tensor| (tensor.name, tensor)).collect();
    let is_product = |node: &&Node| node.domain == MICROSOFT && node.op_type == "MatMulIntegerToFloat";
    for node in graph.nodes.iter().filter(is_product) {
        let Some(bias) = node.inputs.get(6).filter(|name| !name.is_empty()) else { continue };
        let dims = |name: &str| tensors.get(name).map(|tensor| tensor.dims.as_slice());
        let (weight, bias) = (node.inputs.get(1).and_then(|weight| dims(weight)), dims(bias));
        ensure(
            is_bias_of(weight, bias),
            "a bias with a number for each column of a MatMulIntegerToFloat's weight",
            || format!("bias {bias:?}, weight {weight:?}"),
        )?;
    }
    Ok(())
}

/// Whether a bias of these sizes has a number for each column of a weight of those.
pub(super) fn is_bias_of(weight: Option<&[i64]>, bias: Option<&[i64]>) -> bool {
    matches!((weight, bias), (Some([_, columns]), Some([count])) if columns == count)
}

fn check_inputs(graph: &Graph) -> Result<(), Fault> {
    let initializers: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name).collect();
    let mut found = HashSet::new();
    for input in &graph.inputs {
        let (elem_type, rank) = tensor_type(input)?;
        let is_text = INPUTS.contains(&input.name);
        // Before version 4 of the format, constants were inputs with a default.
        let is_default = !is_text && initializers.contains(input.name);
        let expected = "the inputs input_ids, attention_mask and token_type_ids";
        ensure(is_default || is_text, expected, || format!("{:?}", input.name))?;
        ensure(found.insert(input.name), "every input once", || format!("{:?} found twice", input.name))?;
        let is_right = is_default || elem_type == INT64 && rank.is_none_or(|rank| rank == 2);
        let expected = format!("{} as a matrix of int64", input.name);
        ensure(is_right, &expected, || format!("the type {elem_type}, axes: {rank:?}"))?;
    }
    let missing = INPUTS[..NEEDED_INPUTS].iter().find(|name| !found.contains(*name));
    ensure(missing.is_none(), "input_ids and attention_mask as inputs", || "not both".to_owned())
}

fn check_outputs(graph: &Graph) -> Result<(), Fault> {
    let mut found = HashSet::new();
    for output in &graph.outputs {
        let (elem_type, rank) = tensor_type(output)?;
        ensure(found.insert(output.name), "every output once", || format!("{:?} found twice", output.name))?;
        // Those of further tasks too.
        let is_read = output.name.starts_with(LOGITS) || output.name == DISTANCE;
        let is_right = !is_read || elem_type == FLOAT && rank.is_none_or(|rank| rank == 2);
        ensure(is_right, &format!("{} as a matrix of floats", output.name), || {
            format!("the type {elem_type}, axes: {rank:?}")
        })?;
    }
    ensure(found.contains(LOGITS), "an output logits", || format!("{found:?}"))
}

/// The type of a tensor's elements and how many axes it has, where that is said.
fn tensor_type(value: &ValueInfo) -> Result<(i32, Option<usize>), Fault> {
    let expected = || format!("a tensor as {:?}", value.name);
    match &value.kind {
        Some(Type::Tensor { elem_type, .. }) if !is_data_type(i64::from(*elem_type)) => {
            Err(Fault { expected: expected() + " of numbers", got: format!("the type {elem_type}") })
        }
        Some(Type::Tensor { elem_type, rank }) => Ok((*elem_type, *rank)),
        Some(Type::Other) => Err(Fault { expected: expected(), got: "another type".to_owned() }),
        None => Err(Fault { expected: expected(), got: "no type".to_owned() }),
    }
}

/// Checks that every name is made once, and before it is used.
fn check_names(graph: &Graph) -> Result<(), Fault> {
    let mut known = HashSet::new();
    let make = |known: &mut HashSet<_>, name| {
        ensure(known.insert(name), "every name made once", || format!("{name:?} found twice"))
    };
    for tensor in &graph.initializers {
        ensure(!tensor.name.is_empty(), "initializers with names", || "one without".to_owned())?;
        make(&mut known, tensor.name)?;
    }
    // Inputs that are initializers are known already, and no input is there twice.
    known.extend(graph.inputs.iter().map(|input| input.name));
    for node in &graph.nodes {
        for &input in node.inputs.iter().filter(|input| !input.is_empty()) {
            let expected = format!("inputs of a {:?} that earlier nodes made", node.op_type);
            ensure(known.contains(input), &expected, || format!("{input:?}"))?;
        }
        // An empty name is an output that nobody wants.
        node.outputs.iter().filter(|output| !output.is_empty()).try_for_each(|&output| make(&mut known, output))?;
    }
    let unknown = graph.outputs.iter().find(|output| !known.contains(output.name));
    ensure(unknown.is_none(), "outputs that a node made", || format!("{:?}", unknown.map(|output| output.name)))
}

fn ensure(is_right: bool, expected: &str, got: impl FnOnce() -> String) -> Result<(), Fault> {
    if is_right { Ok(()) } else { Err(Fault { expected: expected.to_owned(), got: got() }) }
}
