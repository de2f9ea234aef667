//! Graphs as strangers may write them, built of bytes: a rule each.

use crate::fused::{DOMAIN, VERSION};

use super::{
    check::{Operators, check},
    fuse::fuse,
    model::{Model, Node},
    pack::PACKED,
    tensors::DataFile,
    wire::{Value, write_varint},
};

const DATA: DataFile<'static> = DataFile { name: "model.onnx_data", bytes: 64 };
const FLOAT: u64 = 1;
const INT32: u64 = 6;
const INT64: u64 = 7;

type Bytes = Vec<u8>;
/// Operators and their inputs.
type Nodes<'a> = &'a [(&'a str, &'a [&'a str])];

fn written(field: u32, value: Value<'_>) -> Bytes {
    let mut bytes = Vec::new();
    value.write(&mut bytes, field);
    bytes
}

fn varint(bits: u64) -> Bytes {
    let mut bytes = Vec::new();
    write_varint(&mut bytes, bits);
    bytes
}

/// A field of a number.
fn int(field: u32, number: u64) -> Bytes {
    written(field, Value::Varint(number))
}

/// A field of bytes: a text, a message, packed numbers.
fn len(field: u32, content: impl AsRef<[u8]>) -> Bytes {
    written(field, Value::Bytes(content.as_ref()))
}

/// A `TensorProto`: dims, type, and the fields of its data.
fn tensor(name: &str, dims: &[i64], data_type: u64, data: &[Bytes]) -> Bytes {
    let dims: Bytes = dims.iter().flat_map(|&dim| int(1, dim.cast_unsigned())).collect();
    [dims, int(2, data_type), len(8, name), data.concat()].concat()
}

/// A list of 64-bit integers.
fn integers(name: &str, values: &[i64]) -> Bytes {
    let raw: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, &[values.len() as i64], INT64, &[len(9, raw)])
}

/// A tensor of two floats that lies elsewhere, as the entries say.
fn external(entries: &[(&str, &str)]) -> Bytes {
    let entry = |(key, value): &(&str, &str)| len(13, [len(1, key), len(2, value)].concat());
    tensor("w", &[2], FLOAT, &[entries.iter().flat_map(entry).collect(), int(14, 1)])
}

/// An `AttributeProto`: the field of its value, and its type.
fn attribute(name: &str, value: Bytes, kind: u64) -> Bytes {
    len(5, [len(1, name), value, int(20, kind)].concat())
}

/// A `NodeProto`; an operator of ONNX Runtime's own begins with a dot.
fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[Bytes]) -> Bytes {
    let names = |field, names: &[&str]| names.iter().flat_map(|name| len(field, name)).collect::<Bytes>();
    let (op_type, domain) = match op_type.strip_prefix('.') {
        Some(op_type) => (op_type, "com.microsoft"),
        None => (op_type, ""),
    };
    [names(1, inputs), names(2, outputs), len(4, op_type), len(7, domain), attributes.concat()].concat()
}

/// A `ValueInfoProto` of so many axes.
fn value_info(name: &str, elem_type: u64, rank: usize) -> Bytes {
    let shape = len(2, len(1, []).repeat(rank));
    [len(1, name), len(2, len(1, [int(1, elem_type), shape].concat()))].concat()
}

/// The parts of a good `ModelProto`, to be spoilt.
#[derive(Clone)]
struct Parts {
    /// Fields of the model beside the graph.
    model: Vec<Bytes>,
    /// Fields of the graph beside the others.
    graph: Vec<Bytes>,
    nodes: Vec<Bytes>,
    initializers: Vec<Bytes>,
    inputs: Vec<Bytes>,
    outputs: Vec<Bytes>,
}

impl Parts {
    /// Ids as floats: a graph that the check lets pass.
    fn good() -> Self {
        Self {
            model: vec![int(1, 8), len(8, int(2, 17)), len(8, [len(1, "com.microsoft"), int(2, 1)].concat())],
            graph: vec![],
            nodes: vec![node("Cast", &["input_ids"], &["logits"], &[attribute("to", int(3, FLOAT), 2)])],
            initializers: vec![],
            inputs: vec![value_info("input_ids", INT64, 2), value_info("attention_mask", INT64, 2)],
            outputs: vec![value_info("logits", FLOAT, 2)],
        }
    }

    fn bytes(&self) -> Bytes {
        let all = |field, parts: &[Bytes]| parts.iter().flat_map(|part| len(field, part)).collect::<Bytes>();
        let parts = [all(1, &self.nodes), all(5, &self.initializers), all(11, &self.inputs), all(12, &self.outputs)];
        [self.model.concat(), len(7, [self.graph.concat(), parts.concat()].concat())].concat()
    }
}

/// What `check` says of a good graph that `spoil` changed.
fn said(operators: Operators, spoil: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::good();
    spoil(&mut parts);
    match check(&parts.bytes(), Some(DATA), operators) {
        Ok(()) => "good".to_owned(),
        Err(fault) => format!("expected {}, found {}", fault.expected, fault.got),
    }
}

#[track_caller]
fn assert_said(part: &str, spoil: impl FnOnce(&mut Parts)) {
    let said = said(Operators::Known, spoil);
    assert!(said.contains(part), "no {part:?} in {said:?}");
}

/// The same of a graph with one more node.
#[track_caller]
fn assert_node(part: &str, op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[Bytes]) {
    assert_said(part, |parts| parts.nodes.push(node(op_type, inputs, outputs, attributes)));
}

/// The same of a graph with one more initializer.
#[track_caller]
fn assert_initializer(part: &str, initializer: Bytes) {
    assert_said(part, |parts| parts.initializers.push(initializer));
}

#[test]
fn a_good_graph_passes_and_no_part_of_its_bytes_does() {
    assert_said("good", |_| {});
    let bytes = Parts::good().bytes();
    for end in 0..bytes.len() {
        assert!(check(&bytes[..end], None, Operators::Known).is_err(), "the first {end} bytes");
    }
}

#[test]
fn bytes_that_protobuf_refuses_or_merges_are_refused() {
    for (part, field) in [
        ("a number of more than 64 bits", [int(1, 0)[..1].to_vec(), vec![0xff; 10], vec![0]].concat()),
        ("wire type 3", varint(30 << 3 | 3)),
        ("the field number 0", int(0, 1)),
        ("more than 29 bits", int(1 << 30, 1)),
        ("a field of 1048576 bytes where", [varint(30 << 3 | 2), varint(1 << 20)].concat()),
        ("graph found twice", len(7, [])),
        ("bytes should be", int(7, 1)),
    ] {
        assert_said(part, |parts| parts.model.push(field));
    }
    assert_said("good", |parts| parts.model.push(len(30, "of a later version")));
    assert_node("not UTF-8", "Cast", &[], &[], &[len(1, [0xff])]);
    assert_node("a name of 5000 bytes", &"x".repeat(5000), &[], &[], &[]);
    assert_node("op_type found twice", "Cast", &["input_ids"], &["x"], &[len(4, "If")]);
    assert_node("t found twice", "Constant", &[], &["x"], &[attribute("value", len(5, []).repeat(2), 4)]);
    assert_initializer("raw_data found twice", tensor("w", &[1], FLOAT, &[len(9, [0; 4]).repeat(2)]));
    assert_initializer("32 bits", tensor("w", &[1], 1 << 32 | FLOAT, &[len(9, [0; 4])]));
    assert_initializer("at most 8 axes", tensor("w", &[1; 9], FLOAT, &[len(9, [0; 4])]));
}

#[test]
fn operators_are_known_and_have_inputs_and_outputs() {
    assert_node("found \"If\"", "If", &["input_ids"], &["x"], &[]);
    assert_node("found \"RandomNormal\"", "RandomNormal", &[], &["x"], &[]);
    assert_node("inputs of Add as 11", "Add", &["input_ids"], &["x"], &[]);
    assert_node("inputs of Add as 11", "Add", &["input_ids"; 3], &["x"], &[]);
    assert_node("inputs of Gemm as 11?", "Gemm", &["input_ids", ""], &["x"], &[]);
    assert_node("inputs of EmbedLayerNormalization", ".EmbedLayerNormalization", &["input_ids", "", ""], &["x"], &[]);
    assert_node("inputs of Concat as 1*", "Concat", &["input_ids", ""], &["x"], &[]);
    assert_node("1 to 1 outputs", "Erf", &["input_ids"], &["x", "y"], &[]);
    assert_node("good", "Clip", &["input_ids", "", "input_ids"], &["x"], &[]);
    let own = |parts: &mut Parts| parts.nodes.push(node("Mine", &["input_ids"], &["x"], &[]));
    assert_eq!(said(Operators::Any, own), "good");
}

#[test]
fn a_graph_is_of_nodes_and_tensors_alone() {
    assert_said("found functions", |parts| parts.model.push(len(25, [])));
    assert_said("found training_info", |parts| parts.model.push(len(20, [])));
    assert_said("found sparse_initializer", |parts| parts.graph.push(len(15, [])));
    assert_said("at least one node", |parts| parts.nodes.clear());
    assert_said("operator set from 7 to 26", |parts| parts.model[1] = len(8, int(2, 27)));
    assert_said("\"\" found twice", |parts| parts.model.push(len(8, [len(1, "ai.onnx"), int(2, 17)].concat())));
    assert_said("found none", |parts| parts.model[1].clear());
}

#[test]
fn attributes_are_numbers_texts_and_tensors_in_their_range() {
    let cases: [(&str, Bytes); 10] = [
        ("the type 5", attribute("body", len(6, []), 5)),
        ("a reference", attribute("axis", len(21, "outer"), 2)),
        ("a value of the attribute's type alone", attribute("axis", len(6, []), 2)),
        ("a value of the attribute's type alone", attribute("value", int(3, 1), 4)),
        ("\"axis\" found twice", attribute("axis", int(3, 1), 2).repeat(2)),
        ("found 8", attribute("axis", int(3, 8), 2)),
        ("found 0", attribute("num_heads", int(3, 0), 2)),
        ("found 0", attribute("block_size", int(3, 0), 2)),
        ("found inf", attribute("epsilon", [vec![2 << 3 | 5], f32::INFINITY.to_le_bytes().to_vec()].concat(), 1)),
        ("found [0, -9]", attribute("axes", [int(8, 0), int(8, -9i64 as u64)].concat(), 7)),
    ];
    for (part, attribute) in cases {
        assert_node(part, "Erf", &["input_ids"], &["x"], &[attribute]);
    }
    assert_node("num_heads", ".Attention", &["input_ids"; 2], &["x"], &[]);
    let within = len(5, external(&[("location", DATA.name)]));
    assert_node("data within the graph", "Constant", &[], &["x"], &[attribute("value", within, 4)]);
}

#[test]
fn tensors_have_as_much_data_as_their_dimensions_say() {
    let cases: [(&str, Bytes); 15] = [
        ("good", tensor("w", &[2], FLOAT, &[len(9, [0; 8])])),
        ("good", tensor("w", &[0], INT64, &[])),
        ("good", tensor("w", &[2], INT32, &[len(5, [1, 2])])),
        ("good", tensor("w", &[2], INT32, &[int(5, 1), int(5, 2)])),
        ("the type 8", tensor("w", &[1], 8, &[len(6, "text")])),
        ("dims of at least 0", tensor("w", &[-1], FLOAT, &[])),
        ("63 bits", tensor("w", &[1 << 32, 1 << 32], FLOAT, &[])),
        ("fewer bytes", tensor("w", &[1 << 62], FLOAT, &[])),
        ("found none: [4, 0]", tensor("w", &[4, 0], FLOAT, &[])),
        ("dims of 0 and 1", tensor("w", &[1 << 40, 0], INT64, &[])),
        ("expected 8 bytes", tensor("w", &[2], FLOAT, &[len(9, [0; 7])])),
        ("expected 2 elements", tensor("w", &[2], FLOAT, &[len(4, [0; 4])])),
        ("another type's field", tensor("w", &[2], INT32, &[len(7, [0; 2])])),
        ("data in one place", tensor("w", &[1], INT32, &[len(5, [0]), len(9, [0; 4])])),
        ("a segment", tensor("w", &[1], INT32, &[len(3, []), len(5, [0])])),
    ];
    cases.into_iter().for_each(|(part, initializer)| assert_initializer(part, initializer));
}

#[test]
fn large_tensors_lie_in_the_file_beside_the_graph() {
    let location = ("location", DATA.name);
    let cases: [(&str, &[(&str, &str)]); 12] = [
        ("good", &[location]),
        ("good", &[location, ("offset", "56"), ("length", "8")]),
        ("found Some(\"/etc/passwd\")", &[("location", "/etc/passwd")]),
        ("found Some(\"./model.onnx_data\")", &[("location", "./model.onnx_data")]),
        ("found None", &[]),
        ("\"location\" found twice", &[location, location]),
        ("found \"prepacked_0\"", &[location, ("prepacked_0", "")]),
        ("found \"+1\"", &[location, ("offset", "+1")]),
        ("found \"-1\"", &[location, ("offset", "-1")]),
        ("a length of 8 bytes", &[location, ("length", "7")]),
        ("64 in all", &[location, ("offset", "57")]),
        ("64 in all", &[location, ("offset", "18446744073709551615")]),
    ];
    cases.into_iter().for_each(|(part, entries)| assert_initializer(part, external(entries)));
    let mut parts = Parts::good();
    parts.initializers.push(external(&[location]));
    let fault = check(&parts.bytes(), None, Operators::Any).unwrap_err();
    assert_eq!((&*fault.expected, &*fault.got), ("a file of large tensors for the tensor \"w\"", "none"));
}

#[test]
fn inputs_and_outputs_are_those_of_a_classifier() {
    assert_said("found \"pixel_values\"", |parts| parts.inputs.push(value_info("pixel_values", FLOAT, 4)));
    assert_said("\"input_ids\" found twice", |parts| parts.inputs.push(parts.inputs[0].clone()));
    assert_said("expected input_ids and attention_mask", |parts| parts.inputs.truncate(1));
    assert_said("the type 6", |parts| parts.inputs[1] = value_info("attention_mask", INT32, 2));
    assert_said("axes: Some(3)", |parts| parts.inputs[1] = value_info("attention_mask", INT64, 3));
    assert_said("another type", |parts| parts.inputs[1] = [len(1, "attention_mask"), len(2, len(4, []))].concat());
    assert_said("found no type", |parts| parts.graph.push(len(13, len(1, "x"))));
    assert_said("an output logits", |parts| parts.outputs[0] = value_info("input_ids", INT64, 2));
    assert_said("logits as a matrix of floats", |parts| parts.outputs[0] = value_info("logits", 10, 2));
    // The format's old versions, in which a constant is an input with a default.
    let with_default = |parts: &mut Parts, name| {
        parts.initializers.push(integers(name, &[1]));
        parts.inputs.push(value_info(name, INT64, 1));
    };
    assert_said("good", |parts| with_default(parts, "w"));
    assert_said("axes: Some(1)", |parts| with_default(parts, "token_type_ids"));
}

#[test]
fn every_name_is_made_once_and_before_it_is_used() {
    assert_node("found \"later\"", "Erf", &["later"], &["x"], &[]);
    assert_node("\"logits\" found twice", "Erf", &["input_ids"], &["logits"], &[]);
    assert_node("\"input_ids\" found twice", "Erf", &["input_ids"], &["input_ids"], &[]);
    assert_said("\"w\" found twice", |parts| parts.initializers = vec![integers("w", &[1]); 2]);
    assert_initializer("initializers with names", integers("", &[1]));
    assert_said("outputs that a node made", |parts| parts.outputs.push(value_info("x", FLOAT, 2)));
}

#[test]
fn nobody_else_says_that_a_graph_is_packed_or_has_a_bias_of_another_size() {
    assert_said("a graph that does not say it was packed", |parts| {
        parts.model.push(len(14, [len(1, "nimbert.packed"), len(2, "true")].concat()));
    });
    let product = |bias: &'static str| {
        said(Operators::Any, |parts| {
            parts.initializers = block().initializers;
            let inputs = ["q", "w3", "s", "ws", "z", "", bias];
            parts.nodes.push(node("QuantizeLinear", &["logits", "s", "z"], &["q"], &[]));
            parts.nodes.push(node(".MatMulIntegerToFloat", &inputs, &["p"], &[]));
        })
    };
    assert_eq!(product("b3"), "good");
    assert!(product("b").contains("a number for each column"), "{}", product("b"));
}

#[test]
fn sizes_are_bounded() {
    // What is said of the last node: its inputs are `c` (four of 2^10), `one`, `ids` (the shape of the ids) or made
    // before.
    let shaped = |nodes: Nodes| {
        said(Operators::Known, |parts| {
            parts.initializers = vec![
                integers("c", &[1 << 10, 1, 1, 1]),
                integers("one", &[1]),
                integers("fours", &[0; 4]),
                integers("wide", &[1 << 20]),
            ];
            parts.nodes.push(node("Shape", &["input_ids"], &["ids"], &[]));
            for (index, (op_type, inputs)) in nodes.iter().enumerate() {
                parts.nodes.push(node(op_type, inputs, &[&format!("{index}")], &[]));
            }
        })
    };
    let cases: [(&str, Nodes); 13] = [
        ("good", &[("ConstantOfShape", &["ids"])]),
        ("good", &[("Concat", &["ids", "c", "c"]), ("Expand", &["input_ids", "0"])]),
        ("found 2^30", &[("Concat", &["c", "c", "c"]), ("ConstantOfShape", &["0"])]),
        ("found 2^40", &[("Gather", &["c", "fours"]), ("Tile", &["input_ids", "0"])]),
        ("found 2^160", &[("Mul", &["ids", "wide"]), ("Expand", &["input_ids", "0"])]),
        ("sizes made of", &[("Pow", &["ids", "c"]), ("Expand", &["input_ids", "0"])]),
        ("sizes made of", &[("Div", &["wide", "ids"]), ("Expand", &["input_ids", "0"])]),
        ("sizes made of", &[("ConstantOfShape", &["input_ids"])]),
        ("found 2^40", &[("Range", &["wide", "wide", "one"])]),
        ("good", &[("ConstantOfShape", &["one"]), ("Shape", &["0"]), ("ConstantOfShape", &["1"])]),
        (
            "found 2^120",
            &[("Shape", &["c"]), ("Gather", &["c", "fours"]), ("Mul", &["1", "wide"]), ("Tile", &["c", "2"])],
        ),
        (
            "good",
            &[
                ("Shape", &["ids"]),
                ("ConstantOfShape", &["0"]),
                ("Equal", &["ids", "1"]),
                ("Where", &["2", "1", "ids"]),
                ("Expand", &["input_ids", "3"]),
            ],
        ),
        (
            "at most 4 products",
            &[("Mul", &["ids", "ids"]), ("Mul", &["0", "0"]), ("Mul", &["1", "1"]), ("ConstantOfShape", &["2"])],
        ),
    ];
    for (part, nodes) in cases {
        let said = shaped(nodes);
        assert!(said.contains(part), "no {part:?} in {said:?} for {nodes:?}");
    }
}

/// What `fuse` makes of a graph: its operators, those of ours with their inputs.
fn fused(parts: &Parts) -> Option<Vec<String>> {
    let model = fuse(&parts.bytes()).unwrap()?;
    let model = Model::parse(&model).unwrap();
    assert!(model.opsets.contains(&(DOMAIN, VERSION.cast_signed())));
    let node = |node: &Node<'_>| match node.domain {
        DOMAIN => format!("{}({}) -> {}", node.op_type, node.inputs.join(" "), node.outputs.join(" ")),
        _ => node.op_type.to_owned(),
    };
    Some(model.graph.nodes.iter().map(node).collect())
}

/// A block of a layer, as `nimbert-train` writes it.
fn block() -> Parts {
    let scalar = |name: &str, data_type: u64, bytes: usize| tensor(name, &[], data_type, &[len(9, vec![1; bytes])]);
    let floats = |name: &str| tensor(name, &[2], FLOAT, &[len(9, [0; 8])]);
    let mut parts = Parts::good();
    parts.initializers = ["s", "ws"].map(|name| scalar(name, FLOAT, 4)).into();
    parts.initializers.extend(["g", "b"].map(floats));
    parts.initializers.push(scalar("z", 2, 1));
    parts.initializers.push(tensor("w", &[2, 2], 3, &[len(9, [0; 4])]));
    parts.initializers.push(tensor("w3", &[2, 6], 3, &[len(9, [0; 12])]));
    parts.initializers.push(tensor("b3", &[6], FLOAT, &[len(9, [0; 24])]));
    parts.initializers.push(integers("rows", &[-1, 2]));
    parts.initializers.push(integers("axis", &[1]));
    parts.nodes = vec![
        node("Cast", &["attention_mask"], &["mask"], &[attribute("to", int(3, INT32), 2)]),
        node("ReduceSum", &["mask", "axis"], &["lengths"], &[attribute("keepdims", int(3, 0), 2)]),
        node("Cast", &["input_ids"], &["floats"], &[attribute("to", int(3, FLOAT), 2)]),
        node("LayerNormalization", &["floats", "g", "b"], &["x"], &[]),
        node("QuantizeLinear", &["x", "s", "z"], &["xq"], &[]),
        node(
            ".QAttention",
            &["xq", "w3", "b3", "s", "ws", "lengths", "z"],
            &["a"],
            &[attribute("num_heads", int(3, 2), 2)],
        ),
        node("Reshape", &["a", "rows"], &["am"], &[]),
        node("QuantizeLinear", &["am", "s", "z"], &["aq"], &[]),
        node(".MatMulIntegerToFloat", &["aq", "w", "s", "ws", "z"], &["p"], &[]),
        node("Add", &["p", "x"], &["sum"], &[]),
        node("LayerNormalization", &["sum", "g", "b"], &["y"], &[attribute("epsilon", float(0.5), 1)]),
        node("QuantizeLinear", &["y", "s", "z"], &["yq"], &[]),
        node(".MatMulIntegerToFloat", &["yq", "w", "s", "ws", "z"], &["i"], &[]),
        node(".BiasGelu", &["i", "b"], &["h"], &[]),
        node("QuantizeLinear", &["h", "s", "z"], &["hq"], &[]),
        node(".MatMulIntegerToFloat", &["hq", "w", "s", "ws", "z"], &["o"], &[]),
        node("Add", &["o", "y"], &["logits"], &[]),
    ];
    parts
}

/// The same with a normalization behind it, whose bytes are read: all of a feed-forward block.
fn whole_block() -> Parts {
    let mut parts = block();
    parts.nodes.pop();
    parts.nodes.extend([
        node("Add", &["o", "y"], &["sum2"], &[]),
        node("LayerNormalization", &["sum2", "g", "b"], &["v"], &[]),
        node("QuantizeLinear", &["v", "s", "z"], &["vq"], &[]),
        node(".MatMulIntegerToFloat", &["vq", "w", "s", "ws", "z"], &["logits"], &[]),
    ]);
    parts
}

/// A field of a float.
fn float(value: f32) -> Bytes {
    written(2, Value::Fixed32(&value.to_le_bytes()))
}

#[test]
fn ways_from_product_to_product_are_fused() {
    let parts = block();
    check(&parts.bytes(), None, Operators::Known).unwrap();
    let expected = [
        "Cast",
        "ReduceSum",
        "Cast",
        "LayerNormalization",
        "QuantizeLinear",
        "Constant",
        "MatMulIntegerToFloat",
        "ProductAttention(a/product lengths b3    aq/rows/zero_point) ->  a aq/rows",
        "Reshape",
        "Constant",
        "Constant",
        "MatMulInteger",
        "Cast",
        "Mul",
        "MatMulIntegerToFloat",
        "Constant",
        "AddLayerNormQuantize(p x g b aq/rows p/sums  yq/rows/zero_point) -> y yq yq/rows",
        "Constant",
        "Constant",
        "MatMulInteger",
        "Cast",
        "Mul",
        "MatMulIntegerToFloat",
        "BiasGeluQuantize(i b yq/rows i/sums  z s) -> hq",
        "MatMulIntegerToFloat",
        "Add",
    ];
    assert_eq!(fused(&parts).unwrap(), expected);
    let fused = fuse(&parts.bytes()).unwrap().unwrap();
    let model = Model::parse(&fused).unwrap();
    let node = |op_type: &str| model.graph.nodes.iter().find(|node| node.op_type == op_type).unwrap();
    assert_eq!(node("ProductAttention").attribute("num_heads").unwrap().integer, 2);
    assert_eq!(node("AddLayerNormQuantize").attribute("epsilon").unwrap().float, 0.5);
    // What attention reads is of a normalization that is none of ours.
    let product = |output: &str| model.graph.nodes.iter().find(|node| node.outputs == [output]).unwrap();
    assert_eq!(product("a/product").inputs, ["xq", "w3", "s", "ws", "z", ""]);
    assert_eq!(product("p").inputs, ["aq", "w", "p/one", "ws", "aq/rows/zero_point", ""]);
    // Once is enough.
    assert_eq!(fuse(&fused).unwrap(), None);
}

/// Operators of ours with their inputs and outputs, but for the first block's attention.
fn of_ours(parts: &Parts) -> Vec<String> {
    fused(parts).unwrap().into_iter().filter(|node| node.contains("->")).skip(1).collect()
}

#[test]
fn a_whole_feed_forward_block_has_a_scale_a_row() {
    let parts = whole_block();
    check(&parts.bytes(), None, Operators::Known).unwrap();
    let expected = [
        "AddLayerNormQuantize(p x g b aq/rows p/sums  yq/rows/zero_point) -> y yq yq/rows",
        "BiasGeluQuantize(i b yq/rows i/sums  hq/rows/zero_point) -> hq hq/rows",
        "AddLayerNormQuantize(o y g b hq/rows o/sums  z s) -> v vq",
    ];
    assert_eq!(of_ours(&parts), expected);
    let bytes = fuse(&parts.bytes()).unwrap().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let product = |output: &str| model.graph.nodes.iter().find(|node| node.outputs == [output]).unwrap();
    assert_eq!(product("i").inputs, ["yq", "w", "i/one", "ws", "yq/rows/zero_point", ""]);
    assert_eq!(product("o").inputs, ["hq", "w", "o/one", "ws", "hq/rows/zero_point", ""]);
    // In the last layer nobody asks for bytes behind it.
    let mut last = whole_block();
    last.nodes.truncate(17);
    last.nodes.push(node("LayerNormalization", &["sum2", "g", "b"], &["logits"], &[]));
    assert_eq!(of_ours(&last)[2], "AddLayerNormQuantize(o y g b hq/rows o/sums) -> logits");
    // What else reads the bytes or the products wants them by one scale; and a product's bias is not for a row's.
    let changed = |place: usize, what: Bytes| {
        let mut parts = whole_block();
        parts.nodes[place] = what;
        parts
    };
    let mut read = whole_block();
    read.nodes.push(node(".MatMulIntegerToFloat", &["yq", "w", "s", "ws", "z"], &["other"], &[]));
    let mut output = whole_block();
    output.outputs.push(value_info("o", FLOAT, 2));
    let first = changed(12, node(".MatMulIntegerToFloat", &["yq", "w", "s", "ws", "z", "", "b"], &["i"], &[]));
    let second = changed(15, node(".MatMulIntegerToFloat", &["hq", "w", "s", "ws", "z", "", "b"], &["o"], &[]));
    // Bytes that a product takes for others than they are.
    let mut scale = changed(12, node(".MatMulIntegerToFloat", &["yq", "w", "s2", "ws", "z"], &["i"], &[]));
    scale.initializers.push(tensor("s2", &[], FLOAT, &[len(9, [0, 0, 0, 64])]));
    // A name that is taken.
    let mut taken = whole_block();
    taken.initializers.push(tensor("hq/rows", &[], FLOAT, &[len(9, [0, 0, 0, 64])]));
    // A zero point of the weight.
    let weight = changed(12, node(".MatMulIntegerToFloat", &["yq", "w", "s", "ws", "z", "w8"], &["i"], &[]));
    let cases = [
        (read, "yq"),
        (weight, "yq"),
        (output, "hq"),
        (first, "yq"),
        (second, "hq"),
        (scale, "yq"),
        (block(), "hq"),
        (taken, "hq"),
    ];
    for (parts, bytes) in cases {
        let nodes = of_ours(&parts);
        assert!(!nodes.iter().any(|node| node.contains(&format!("{bytes}/rows"))), "{nodes:?}");
    }
}

#[test]
fn products_of_one_normalization_share_its_scales() {
    let mut parts = whole_block();
    parts.nodes.pop();
    parts.nodes.extend([
        node(".MatMulIntegerToFloat", &["vq", "w", "s", "ws", "z"], &["i2"], &[]),
        node(".BiasGelu", &["i2", "b"], &["h2"], &[]),
        node("QuantizeLinear", &["h2", "s", "z"], &["hq2"], &[]),
        node(".MatMulIntegerToFloat", &["hq2", "w", "s", "ws", "z"], &["o2"], &[]),
        node("Add", &["o2", "v"], &["sum3"], &[]),
        node("LayerNormalization", &["sum3", "g", "b"], &["logits"], &[]),
        node(".MatMulIntegerToFloat", &["vq", "w", "s", "ws", "z"], &["i4"], &[]),
        node(".BiasGelu", &["i4", "b"], &["h4"], &[]),
        node("QuantizeLinear", &["h4", "s", "z"], &["hq4"], &[]),
        node(".MatMulIntegerToFloat", &["hq4", "w", "s", "ws", "z"], &["o4"], &[]),
    ]);
    let nodes = of_ours(&parts);
    for expected in [
        "AddLayerNormQuantize(o y g b hq/rows o/sums  vq/rows/zero_point) -> v vq vq/rows",
        "BiasGeluQuantize(i2 b vq/rows i2/sums  hq2/rows/zero_point) -> hq2 hq2/rows",
        "BiasGeluQuantize(i4 b vq/rows i4/sums  z s) -> hq4",
    ] {
        assert!(nodes.contains(&expected.to_owned()), "{nodes:?}");
    }
}

#[test]
fn attention_takes_scales_and_channels_are_multiplied() {
    let mut parts = whole_block();
    parts.nodes.truncate(18);
    let heads = attribute("num_heads", int(3, 2), 2);
    parts.nodes.extend([
        node("Mul", &["v", "g"], &["vm"], &[]),
        node("QuantizeLinear", &["vm", "s", "z"], &["vq"], &[]),
        node(".QAttention", &["vq", "w3", "b3", "s", "ws", "lengths", "z"], &["a2"], &[heads]),
        node("Reshape", &["a2", "rows"], &["am2"], &[]),
        node("Mul", &["am2", "b"], &["amm2"], &[]),
        node("QuantizeLinear", &["amm2", "s", "z"], &["aq2"], &[]),
        node(".MatMulIntegerToFloat", &["aq2", "w", "s", "ws", "z"], &["p2"], &[]),
        node("Add", &["p2", "v"], &["sum3"], &[]),
        node("LayerNormalization", &["sum3", "g", "b"], &["logits"], &[]),
    ]);
    check(&parts.bytes(), None, Operators::Known).unwrap();
    let expected = [
        "AddLayerNormQuantize(o y g b hq/rows o/sums g vq/rows/zero_point) -> v vq vq/rows",
        "ProductAttention(a2/product lengths b3 vq/rows a2/product/sums b aq2/rows/zero_point) ->  a2 aq2/rows",
        "AddLayerNormQuantize(p2 v g b aq2/rows p2/sums) -> logits",
    ];
    assert_eq!(of_ours(&parts)[2..], expected);
    let bytes = fuse(&parts.bytes()).unwrap().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let product = model.graph.nodes.iter().find(|node| node.outputs == ["a2/product"]).unwrap();
    assert_eq!(product.inputs, ["vq", "w3", "a2/product/one", "ws", "vq/rows/zero_point", ""]);
    assert!(!model.graph.nodes.iter().any(|node| ["vm", "amm2"].contains(&node.outputs[0])));
    // What is multiplied by no vector of its width, or is read by others too, stays multiplied by ONNX Runtime.
    let changed = |place: usize, other: Bytes| {
        let mut parts = Parts { nodes: parts.nodes.clone(), initializers: parts.initializers.clone(), ..Parts::good() };
        parts.nodes[place] = other;
        parts
    };
    let mut read = changed(18, parts.nodes[18].clone());
    read.outputs.push(value_info("vm", FLOAT, 2));
    let swapped = changed(18, node("Mul", &["g", "v"], &["vm"], &[]));
    let squared = changed(22, node("Mul", &["am2", "am2"], &["amm2"], &[]));
    for (parts, multiplied) in [(read, "vm"), (swapped, "vm"), (squared, "amm2")] {
        let bytes = fuse(&parts.bytes()).unwrap().unwrap();
        let nodes = Model::parse(&bytes).unwrap().graph.nodes;
        assert!(nodes.iter().any(|node| node.op_type == "Mul" && node.outputs == [multiplied]), "{multiplied}");
    }
    // One factor for all is none a channel.
    let mut one = changed(18, node("Mul", &["v", "g1"], &["vm"], &[]));
    one.initializers.push(tensor("g1", &[1], FLOAT, &[len(9, [0; 4])]));
    let nodes = of_ours(&one);
    assert!(!nodes.iter().any(|node| node.contains("-> v vq") || node.contains("g1")), "{nodes:?}");
}

/// The bytes of [`whole_block`]'s normalization in another form before they are multiplied, and attention that is GELU's product.
#[test]
fn what_products_read_otherwise_has_one_scale() {
    let with = |place: usize, nodes: &[Bytes], initializers: &[Bytes]| {
        let mut parts = whole_block();
        parts.nodes.splice(place..=place, nodes.iter().cloned());
        parts.initializers.extend(initializers.iter().cloned());
        of_ours(&parts)
    };
    let product =
        |bytes: &str, weight: &str| node(".MatMulIntegerToFloat", &[bytes, weight, "s", "ws", "z"], &["i"], &[]);
    let reshaped = [node("Reshape", &["yq", "rows"], &["yr"], &[]), product("yr", "w")];
    let weight = |dims: &[i64]| [tensor("other", dims, 3, &[len(9, [0; 4])])];
    for nodes in [
        with(12, &reshaped, &[]),
        with(12, &[product("yq", "yq")], &[]),
        with(12, &[product("yq", "other")], &weight(&[1, 2, 2])),
        with(12, &[product("yq", "other")], &weight(&[4, 1])),
    ] {
        assert!(!nodes.iter().any(|node| node.contains("yq/rows")), "{nodes:?}");
    }
    let heads = attribute("num_heads", int(3, 2), 2);
    let inputs = ["yq", "w3", "b3", "s", "ws", "floats", "z"];
    let nodes = with(12, &[node(".QAttention", &inputs, &["i"], &[heads])], &[]);
    assert!(nodes.iter().any(|node| node == "BiasGeluQuantize(i b    hq/rows/zero_point) -> hq hq/rows"), "{nodes:?}");
}

/// The same block between rows of texts, as they come and go.
fn rows() -> Parts {
    let mut parts = block();
    parts.initializers.push(integers("width", &[2]));
    let quantized = parts.nodes.iter().position(|node| node.windows(2).any(|name| name == b"xq")).unwrap();
    let mut nodes = parts.nodes.clone();
    nodes[3] = node("LayerNormalization", &["floats", "g", "b"], &["n"], &[]);
    nodes.insert(quantized, node("Reshape", &["n", "rows"], &["x"], &[]));
    nodes.insert(quantized, node("Concat", &["ids", "width"], &["by_text"], &[attribute("axis", int(3, 0), 2)]));
    nodes.insert(quantized, node("Shape", &["input_ids"], &["ids"], &[]));
    let attention = nodes.iter().position(|node| node.windows(10).any(|name| name == b"QAttention")).unwrap();
    let heads = attribute("num_heads", int(3, 2), 2);
    nodes[attention] = node(".QAttention", &["xt", "w3", "b3", "s", "ws", "lengths", "z"], &["a"], &[heads]);
    nodes.insert(attention, node("Reshape", &["xq", "by_text"], &["xt"], &[]));
    *nodes.last_mut().unwrap() = node("Add", &["o", "y"], &["last"], &[]);
    nodes.push(node("Reshape", &["last", "by_text"], &["texts"], &[]));
    nodes.push(node("ReduceMean", &["texts"], &["logits"], &[attribute("keepdims", int(3, 0), 2)]));
    parts.nodes = nodes;
    parts
}

#[test]
fn rows_between_texts_are_packed() {
    let parts = rows();
    check(&parts.bytes(), None, Operators::Known).unwrap();
    let packed = fused(&parts).unwrap();
    let of_ours = |nodes: &[String]| nodes.iter().filter(|node| node.contains("->")).cloned().collect::<Vec<_>>();
    let expected = [
        "Pack(n lengths) -> x",
        "ProductAttention(a/product lengths b3    aq/rows/zero_point) ->  a aq/rows",
        "AddLayerNormQuantize(p x g b aq/rows p/sums  yq/rows/zero_point) -> y yq yq/rows",
        "BiasGeluQuantize(i b yq/rows i/sums  z s) -> hq",
        "Unpack(last lengths attention_mask) -> texts",
    ];
    assert_eq!(of_ours(&packed), expected);
    let before = packed.iter().position(|node| node.starts_with("Pack")).unwrap();
    assert_eq!(packed[before + 1], "QuantizeLinear");
    let properties = |parts: &Parts| {
        let bytes = fuse(&parts.bytes()).unwrap().unwrap();
        bytes.windows(PACKED.len()).any(|window| window == PACKED.as_bytes())
    };
    assert!(properties(&parts));
    // Rows that are read by what may ask which is whose.
    let mut softmax = rows();
    softmax.nodes.push(node("Softmax", &["y"], &["shares"], &[]));
    // Rows that go out.
    let mut output = rows();
    output.outputs.push(value_info("y", FLOAT, 2));
    // A shape that is not the ids'.
    let mut shape = rows();
    let place = shape.nodes.iter().position(|node| node.windows(5).any(|name| name == b"Shape")).unwrap();
    shape.nodes[place] = node("Shape", &["floats"], &["ids"], &[]);
    // Rows of another width, and a row a token that is added.
    let mut wide = rows();
    wide.initializers.push(integers("wide", &[-1, 4]));
    let place = wide.nodes.iter().position(|node| node.windows(2).any(|name| name == b"am")).unwrap();
    wide.nodes[place] = node("Reshape", &["a", "wide"], &["am"], &[]);
    let mut added = rows();
    let place = added.nodes.len() - 3;
    added.nodes[place] = node("Add", &["o", "w"], &["last"], &[]);
    for parts in [softmax, output, shape, wide, added] {
        assert!(!properties(&parts) && !of_ours(&fused(&parts).unwrap()).iter().any(|node| node.starts_with("Pack")));
    }
}

/// A block of floats between rows of texts, as `nimbert-train` writes it.
fn float_rows() -> Parts {
    let mut parts = rows();
    parts.initializers.push(tensor("wf", &[2, 2], FLOAT, &[len(9, [0; 16])]));
    parts.initializers.push(tensor("wf3", &[2, 6], FLOAT, &[len(9, [0; 48])]));
    // What makes the rows, what makes the texts of them, and what comes of these.
    let head = parts.nodes.iter().position(|node| node.windows(2).any(|name| name == b"xq")).unwrap();
    let tail = parts.nodes.split_off(parts.nodes.len() - 2);
    parts.nodes.truncate(head);
    parts.nodes.extend([
        node("Reshape", &["x", "by_text"], &["xt"], &[]),
        node(".Attention", &["xt", "wf3", "b3", "lengths"], &["a"], &[attribute("num_heads", int(3, 2), 2)]),
        node("Reshape", &["a", "rows"], &["am"], &[]),
        node("Gemm", &["am", "wf", "x"], &["sum"], &[]),
        node("LayerNormalization", &["sum", "g", "b"], &["y"], &[]),
        node("MatMul", &["y", "wf"], &["i"], &[]),
        node(".BiasGelu", &["i", "b"], &["h"], &[]),
        node("Gemm", &["h", "wf"], &["o"], &[]),
        node("Add", &["o", "y"], &["last"], &[]),
    ]);
    parts.nodes.extend(tail);
    parts
}

#[test]
fn attention_of_floats_is_ours_and_its_rows_are_packed() {
    let parts = float_rows();
    check(&parts.bytes(), None, Operators::Known).unwrap();
    let nodes = fused(&parts).unwrap();
    let start = nodes.iter().position(|node| node.starts_with("Pack")).unwrap();
    let expected = [
        "Pack(n lengths) -> x",
        "Identity",
        "MatMul",
        "ProductAttention(a/product lengths b3) -> a",
        "Reshape",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "BiasGelu",
        "Gemm",
        "Add",
        "Unpack(last lengths attention_mask) -> texts",
        "ReduceMean",
    ];
    assert_eq!(nodes[start..], expected);
    let bytes = fuse(&parts.bytes()).unwrap().unwrap();
    let model = Model::parse(&bytes).unwrap();
    let product = model.graph.nodes.iter().find(|node| node.outputs == ["a/product"]).unwrap();
    assert_eq!(product.inputs, ["xt", "wf3"]);
    let ours = model.graph.nodes.iter().find(|node| node.outputs == ["a"]).unwrap();
    assert_eq!(ours.attribute("num_heads").unwrap().integer, 2);
    assert_eq!(fuse(&bytes).unwrap(), None);
    // What is only similar stays.
    let attention = parts.nodes.iter().position(|node| node.windows(9).any(|name| name == b"Attention")).unwrap();
    let other = |inputs: &[&str], attributes: &[(&str, u64)], further: Bytes| {
        let mut parts = float_rows();
        let heads = [("num_heads", 2)];
        let attributes = heads.iter().chain(attributes).map(|(name, value)| attribute(name, int(3, *value), 2));
        parts.nodes[attention] = node(".Attention", inputs, &["a"], &attributes.collect::<Vec<_>>());
        parts.initializers.push(further);
        fused(&parts)
    };
    let usual = ["xt", "wf3", "b3", "lengths"];
    let unused = || integers("unused", &[1]);
    assert!(other(&usual, &[], unused()).is_some());
    assert_eq!(other(&usual, &[("unidirectional", 1)], unused()), None);
    assert_eq!(other(&["xt", "wf3", "b3", "lengths", "past"], &[], unused()), None);
    assert_eq!(other(&["xt", "wf3", "b3", "mask"], &[], unused()), None);
    assert_eq!(other(&["xt", "wf3", "b", "lengths"], &[], unused()), None);
    assert_eq!(other(&["xt", "w3", "b3", "lengths"], &[], unused()), None);
    assert_eq!(other(&["xt", "wf3", "b16", "lengths"], &[], tensor("b16", &[6], 10, &[len(9, [0; 12])])), None);
    // Padding stays where rows are columns of a product, and where one is added to all.
    for (output, instead) in [
        ("o", node("Gemm", &["h", "wf", "b"], &["o"], &[attribute("transA", int(3, 1), 2)])),
        ("i", node("MatMul", &["wf", "y"], &["i"], &[])),
        ("i", node("MatMul", &["y", "y"], &["i"], &[])),
        ("sum", node("Gemm", &["am", "wf", "w"], &["sum"], &[])),
    ] {
        let mut parts = float_rows();
        let place = Model::parse(&parts.bytes()).unwrap().graph.nodes.iter().position(|node| node.outputs == [output]);
        parts.nodes[place.unwrap()] = instead;
        let nodes = fused(&parts).unwrap();
        assert!(!nodes.iter().any(|node| node.starts_with("Pack")), "{nodes:?}");
    }
    // Where the graph says a shape.
    let mut typed = float_rows();
    typed.graph.push(len(13, value_info("y", FLOAT, 2)));
    assert!(!fused(&typed).unwrap().iter().any(|node| node.starts_with("Pack")));
    // A weight that is made of a constant, and a name that is taken.
    let mut made = float_rows();
    made.nodes[attention] =
        node(".Attention", &["xt", "made", "b3", "lengths"], &["a"], &[attribute("num_heads", int(3, 2), 2)]);
    made.nodes.insert(0, node("Cast", &["w3"], &["made"], &[attribute("to", int(3, FLOAT), 2)]));
    assert!(fused(&made).unwrap().iter().any(|node| node.starts_with("ProductAttention")));
    let taken = tensor("a/product", &[6], FLOAT, &[len(9, [0; 24])]);
    assert_eq!(other(&usual, &[], taken), None);
}

#[test]
fn what_is_only_similar_is_not_fused() {
    let changed = |op_type: &str, place: usize, change: fn(&mut Parts, usize)| {
        let mut parts = block();
        change(&mut parts, place);
        let left = fused(&parts).unwrap();
        assert!(left.contains(&op_type.to_owned()), "{op_type} is fused: {left:?}");
    };
    // Somebody else reads the numbers.
    changed("BiasGelu", 13, |parts, _| parts.outputs.push(value_info("h", FLOAT, 2)));
    changed("Add", 9, |parts, _| parts.outputs.push(value_info("sum", FLOAT, 2)));
    // Bytes that become numbers again are ONNX Runtime's to fuse.
    changed("BiasGelu", 14, |parts, place| {
        parts.nodes.insert(place + 1, node("DequantizeLinear", &["hq", "s", "z"], &["h2"], &[]));
    });
    // A bias of another size, which ONNX Runtime would refuse in the one operator and read over in the other.
    changed("QAttention", 5, |parts, place| {
        let (inputs, heads) = (["xq", "w3", "b", "s", "ws", "lengths", "z"], attribute("num_heads", int(3, 2), 2));
        parts.nodes[place] = node(".QAttention", &inputs, &["a"], &[heads]);
    });
    // A mask by token.
    changed("QAttention", 1, |parts, place| {
        parts.nodes[place] = node("ReduceSum", &["mask", "axis"], &["lengths"], &[]);
    });
    changed("QAttention", 5, |parts, place| {
        let heads = attribute("num_heads", int(3, 2), 2);
        let inputs = ["xq", "w3", "b3", "s", "ws", "lengths", "z"];
        parts.nodes[place] = node(".QAttention", &inputs, &["a"], &[heads, attribute("do_rotary", int(3, 1), 2)]);
    });
    // A row a text is added to each row.
    changed("LayerNormalization", 9, |parts, place| {
        parts.nodes[place] = node("Add", &["p", "floats"], &["sum"], &[]);
    });
    // Bytes with a sign.
    changed("BiasGelu", 14, |parts, place| {
        parts.initializers.push(tensor("z8", &[], 3, &[len(9, [0])]));
        parts.nodes[place] = node("QuantizeLinear", &["h", "s", "z8"], &["hq"], &[]);
    });
    // A scale a column.
    changed("BiasGelu", 14, |parts, place| {
        parts.nodes[place] = node("QuantizeLinear", &["h", "g", "z"], &["hq"], &[]);
    });
    assert_eq!(fused(&Parts::good()), None);
}
