//! The operators that a graph may have, unless it is one's own: those that nimbert writes, and those in what optimum
//! exports, optimizes and quantizes of BERT, DistilBERT, RoBERTa, XLM-R and ELECTRA, in old versions too. None of them
//! runs a graph, draws random numbers, or knows strings, sequences or files.
//!
//! Inputs and outputs are those of the schemas in ONNX 1.23.2 and ONNX Runtime 1.31.1, of all versions from operator
//! set 7 on: what one version needs and another does not have may be absent here, and ONNX Runtime looks again.

use super::{fault::Fault, model::Node, wire::MOST_PER_NODE};

/// ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// Name; an input each, `1` for one that must be there, `?` for one that need not, `*` for any number more; most
/// outputs.
type Operator = (&'static str, &'static str, usize);

/// Of the domain "", sorted by name.
const ONNX: &[Operator] = &[
    ("Abs", "1", 1),
    ("Add", "11", 1),
    ("And", "11", 1),
    ("ArgMax", "1", 1),
    ("Cast", "1", 1),
    ("Ceil", "1", 1),
    ("Clip", "1??", 1),
    ("Concat", "1*", 1),
    ("Constant", "", 1),
    ("ConstantOfShape", "1", 1),
    ("CumSum", "11", 1),
    ("DequantizeLinear", "11?", 1),
    ("Div", "11", 1),
    ("DynamicQuantizeLinear", "1", 3),
    ("Equal", "11", 1),
    ("Erf", "1", 1),
    ("Exp", "1", 1),
    ("Expand", "11", 1),
    ("Flatten", "1", 1),
    ("Floor", "1", 1),
    ("Gather", "11", 1),
    ("GatherElements", "11", 1),
    ("GatherND", "11", 1),
    ("Gelu", "1", 1),
    ("Gemm", "11?", 1),
    ("Greater", "11", 1),
    ("GreaterOrEqual", "11", 1),
    ("Identity", "1", 1),
    ("IsNaN", "1", 1),
    ("LayerNormalization", "11?", 3),
    ("Less", "11", 1),
    ("LessOrEqual", "11", 1),
    ("Log", "1", 1),
    ("MatMul", "11", 1),
    ("MatMulInteger", "11??", 1),
    ("Max", "1*", 1),
    ("Min", "1*", 1),
    ("Mod", "11", 1),
    ("Mul", "11", 1),
    ("Neg", "1", 1),
    ("NonZero", "1", 1),
    ("Not", "1", 1),
    ("Or", "11", 1),
    ("Pow", "11", 1),
    ("QLinearMatMul", "11111111", 1),
    ("QuantizeLinear", "11?", 1),
    ("Range", "111", 1),
    ("Reciprocal", "1", 1),
    ("ReduceMax", "1?", 1),
    ("ReduceMean", "1?", 1),
    ("ReduceProd", "1?", 1),
    ("ReduceSum", "1?", 1),
    ("Relu", "1", 1),
    ("Reshape", "11", 1),
    ("ScatterND", "111", 1),
    ("Shape", "1", 1),
    ("Sigmoid", "1", 1),
    ("Sign", "1", 1),
    ("Slice", "1????", 1),
    ("Softmax", "1", 1),
    ("Split", "1?", MOST_PER_NODE),
    ("Sqrt", "1", 1),
    ("Squeeze", "1?", 1),
    ("Sub", "11", 1),
    ("Tanh", "1", 1),
    ("Tile", "11", 1),
    ("Transpose", "1", 1),
    ("Trilu", "1?", 1),
    ("Unsqueeze", "1?", 1),
    ("Where", "111", 1),
];

/// Of the domain "com.microsoft", sorted by name.
const CONTRIB: &[Operator] = &[
    ("Attention", "11?????", 2),
    ("BiasGelu", "11", 1),
    ("BiasSoftmax", "11", 1),
    ("DequantizeLinear", "11?", 1),
    ("DynamicQuantizeMatMul", "111??", 1),
    ("EmbedLayerNormalization", "1?11?11??", 3),
    ("FastGelu", "1?", 1),
    ("FusedGemm", "11?", 1),
    ("FusedMatMul", "11", 1),
    ("Gelu", "1", 1),
    ("GemmFastGelu", "11?", 1),
    ("MatMulIntegerToFloat", "1111???", 1),
    ("MultiHeadAttention", "1?????????", 4),
    ("QAttention", "11111????", 2),
    ("QEmbedLayerNormalization", "1?11?11?11?1111?11", 2),
    ("QGemm", "111111???", 1),
    ("QLinearAdd", "11?11?1?", 1),
    ("QLinearConcat", "111*", 1),
    ("QLinearMul", "11?11?1?", 1),
    ("QLinearSigmoid", "11?1?", 1),
    ("QLinearSoftmax", "11?11", 1),
    ("QuantizeLinear", "11?", 1),
    ("QuickGelu", "1", 1),
    ("RotaryEmbedding", "1111", 1),
    ("SkipLayerNormalization", "111??", 4),
    ("TransposeMatMul", "11", 1),
];

/// Checks that a node's operator is known, and has inputs and outputs as it should.
pub(super) fn check_operator(node: &Node) -> Result<(), Fault> {
    let table = match node.domain {
        "" | "ai.onnx" => ONNX,
        MICROSOFT => CONTRIB,
        other => return Err(unknown(node.op_type, other)),
    };
    let found = table.binary_search_by_key(&node.op_type, |operator| operator.0);
    let (name, inputs, most_outputs) = table[found.map_err(|_| unknown(node.op_type, node.domain))?];
    let named = inputs.trim_end_matches('*');
    let most = if named.len() < inputs.len() { MOST_PER_NODE } else { named.len() };
    // An empty name is an input that is not there.
    let is_there = |index: usize| node.inputs.get(index).is_some_and(|input| !input.is_empty());
    let is_right = (0..named.len()).all(|index| named.as_bytes()[index] == b'?' || is_there(index))
        && (named.len()..node.inputs.len()).all(is_there);
    if !is_right || node.inputs.len() > most {
        let expected = format!("inputs of {name} as {inputs} (1 needed, ? optional, * more)");
        return Err(Fault { expected, got: format!("{:?}", node.inputs) });
    }
    if !(1..=most_outputs).contains(&node.outputs.len()) {
        let expected = format!("1 to {most_outputs} outputs of {name}");
        return Err(Fault { expected, got: node.outputs.len().to_string() });
    }
    Ok(())
}

fn unknown(op_type: &str, domain: &str) -> Fault {
    let expected = "operators of a classifier (or a graph of one's own, with any operators allowed)".to_owned();
    Fault { expected, got: format!("{op_type:?} of the domain {domain:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_as_the_search_needs_them() {
        assert!([ONNX, CONTRIB].iter().all(|table| table.is_sorted_by(|left, right| left.0 < right.0)));
    }
}
