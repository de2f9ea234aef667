//! fp32 graphs in fp16.

use std::collections::HashSet;

use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};
use half::f16;

use super::graph::{floats, int_attribute, node, tensor};
use crate::error::{Error, Result};

/// The same graph computing in fp16: constants and casts become fp16, inputs stay integers, and the output is cast back
/// to fp32. What is smaller than fp16 can be becomes 0.
///
/// # Errors
/// [`Error::Tensor`] if a constant is too large for fp16, which ends at 65,504.
pub fn to_fp16(mut model: ModelProto) -> Result<ModelProto> {
    let Some(graph) = &mut model.graph else { return Ok(model) };
    for constant in &mut graph.initializer {
        if constant.data_type != DataType::Float as i32 {
            continue;
        }
        let halves: Vec<f16> = floats(constant).into_iter().map(f16::from_f32).collect();
        if halves.iter().any(|half| !half.is_finite()) {
            let message = format!("{} has a value that fp16 cannot hold", constant.name);
            return Err(Error::Tensor(candle_core::Error::Msg(message)));
        }
        let dims: Vec<usize> = constant.dims.iter().map(|&dim| dim as usize).collect();
        let raw = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        *constant = tensor(&constant.name, DataType::Float16, &dims, raw);
    }
    let outputs: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let half_name = |name: &str| format!("{name}/fp16");
    let mut casts = Vec::new();
    for node_of_graph in &mut graph.node {
        for attribute in &mut node_of_graph.attribute {
            if node_of_graph.op_type == "Cast" && attribute.i == DataType::Float as i64 {
                attribute.i = DataType::Float16 as i64;
            }
        }
        for output in &mut node_of_graph.output {
            if outputs.contains(output.as_str()) {
                let half = half_name(output);
                let to = vec![int_attribute("to", DataType::Float as i64)];
                casts.push(node(&format!("{output}/fp32"), "Cast", &[&half], &[output.as_str()], to));
                *output = half;
            }
        }
    }
    graph.node.extend(casts);
    Ok(model)
}
