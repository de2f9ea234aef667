//! What a graph says of its inputs and outputs and of its format, and what no classifier has: graphs within it,
//! functions.

use candle_onnx::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, SparseTensorProto, TrainingInfoProto,
    attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto::dimension, type_proto,
};
use fastrand::Rng;

use crate::{
    graph::{MICROSOFT, any_value, graph},
    values::{attribute, extreme, integers},
};

/// What the graph says of the types of its inputs, outputs, and what is between.
pub(crate) fn change_value_infos(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let name = any_value(graph, rng);
    let which = rng.u8(..3);
    if which == 2 {
        // Of another value than it was said of.
        let mut said = rng.choice(&graph.input)?.clone();
        said.name = name;
        graph.value_info.push(said);
    }
    let list = match which {
        0 => &mut graph.input,
        1 => &mut graph.output,
        _ => &mut graph.value_info,
    };
    let place = rng.choice(0..list.len())?;
    let of = list[place].name.clone();
    let tensor = match &mut list[place].r#type.as_mut()?.value {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        _ => return None,
    };
    let axes = tensor.shape.as_mut().map(|shape| &mut shape.dim);
    Some(match (rng.u8(..6), axes) {
        (0, _) => {
            tensor.elem_type = rng.i32(-1..25);
            format!("{of} of the type {}", tensor.elem_type)
        }
        (1, _) => {
            tensor.shape = None;
            format!("{of} of no shape")
        }
        (2 | 3, Some(axes)) if !axes.is_empty() => {
            let size = extreme(rng);
            rng.choice(axes)?.value = Some(dimension::Value::DimValue(size));
            format!("{of} with the size {size}")
        }
        (4, Some(axes)) => {
            axes.pop();
            format!("{of} with an axis less")
        }
        _ => {
            list.remove(place);
            format!("{of} without a word")
        }
    })
}

pub(crate) fn change_opsets(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let version = if rng.bool() { rng.i64(0..30) } else { extreme(rng) };
    if rng.u8(..4) == 0 {
        model.ir_version = version;
        return Some(format!("IR version {version}"));
    }
    let domain = rng.choice(["", "ai.onnx", MICROSOFT, "local"])?.to_owned();
    if rng.bool() {
        model.opset_import.retain(|opset| opset.domain != domain);
    }
    let what = format!("operators {domain:?} of version {version}");
    model.opset_import.push(OperatorSetIdProto { domain, version });
    Some(what)
}

/// A graph within the graph: in an attribute of any node, or of one that runs it.
pub(crate) fn add_subgraph(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let graph = graph(model)?;
    let inner = GraphProto { initializer: Vec::new(), ..graph.clone() };
    let node = rng.choice(&mut graph.node)?;
    let of = node.name.clone();
    if let Some(op_type) = rng.choice(["If", "Loop", "Scan", ""]).filter(|op_type| !op_type.is_empty()) {
        op_type.clone_into(&mut node.op_type);
    }
    for name in ["then_branch", "else_branch", "body"] {
        let attribute = attribute(name, AttributeType::Graph, &[]);
        node.attribute.push(AttributeProto { g: Some(inner.clone()), ..attribute });
    }
    Some(format!("{} {of} with graphs in it", node.op_type))
}

pub(crate) fn add_what_no_classifier_has(model: &mut ModelProto, rng: &mut Rng) -> Option<String> {
    let inner = model.graph.clone()?;
    let node = rng.choice(&inner.node)?.clone();
    Some(match rng.u8(..4) {
        0 | 1 => {
            // One that calls itself, and one instead of an operator that the graph has.
            let domain = if rng.bool() { node.domain.clone() } else { "local".to_owned() };
            let what = format!("the function {domain}.{}", node.op_type);
            model.functions.push(FunctionProto {
                name: node.op_type.clone(),
                input: node.input.clone(),
                output: node.output.clone(),
                opset_import: model.opset_import.clone(),
                domain,
                node: vec![node],
                ..FunctionProto::default()
            });
            what
        }
        2 => {
            let mut values = rng.choice(&inner.initializer)?.clone();
            values.dims = vec![extreme(rng)];
            values.data_type = DataType::Float as i32;
            let what = format!("the sparse tensor {}", values.name);
            let indices = Some(integers("", &[extreme(rng)]));
            let dims = vec![extreme(rng), extreme(rng)];
            graph(model)?.sparse_initializer.push(SparseTensorProto { values: Some(values), indices, dims });
            what
        }
        _ => {
            let training = TrainingInfoProto { algorithm: Some(inner), ..TrainingInfoProto::default() };
            model.training_info.push(training);
            "training".to_owned()
        }
    })
}
