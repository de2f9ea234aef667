//! What lies in a graph's tensors and attributes, made extreme.

use candle_onnx::onnx::{
    AttributeProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto,
    attribute_proto::AttributeType,
    tensor_proto::{DataLocation, DataType, Segment},
};
use fastrand::Rng;

/// Attributes of the operators that a classifier may have.
#[rustfmt::skip]
const ATTRIBUTES: [&str; 28] = [
    "allowzero", "alpha", "axes", "axis", "batch_dims", "beta", "block_size", "do_rotary", "end", "epsilon",
    "exclusive", "keepdims", "mask_filter_value", "noop_with_empty_axes", "num_heads", "num_outputs",
    "output_dtype", "past_present_share_buffer", "perm", "qkv_hidden_sizes", "reverse", "saturate", "scale",
    "start", "to", "transA", "transB", "unidirectional",
];

/// An integer at which sizes, indices and their products go wrong.
pub(crate) fn extreme(rng: &mut Rng) -> i64 {
    const EXTREMES: [i64; 14] =
        [0, -1, 1, 2, -2, 127, -128, 1 << 31, i32::MIN as i64, 1 << 32, 1 << 40, 1 << 62, i64::MAX, i64::MIN];
    if rng.u8(..3) == 0 { rng.i64(-4..200) } else { EXTREMES[rng.usize(..EXTREMES.len())] }
}

fn extreme_float(rng: &mut Rng) -> f32 {
    const EXTREMES: [f32; 9] =
        [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45];
    EXTREMES[rng.usize(..EXTREMES.len())]
}

/// A constant vector of integers.
pub(crate) fn integers(name: &str, numbers: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![numbers.len() as i64],
        data_type: DataType::Int64 as i32,
        raw_data: numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// An attribute of integers, or of one: the first.
pub(crate) fn attribute(name: &str, kind: AttributeType, numbers: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: kind as i32,
        i: numbers.first().copied().unwrap_or_default(),
        ints: if kind == AttributeType::Ints { numbers.to_vec() } else { Vec::new() },
        ..AttributeProto::default()
    }
}

/// Changes a tensor's shape, type, content or place, and says how.
pub(crate) fn change_tensor(tensor: &mut TensorProto, rng: &mut Rng) -> Option<String> {
    let what = match rng.u8(..11) {
        0 | 1 => {
            let size = extreme(rng);
            match tensor.dims.len() {
                0 => tensor.dims.push(size),
                axes => tensor.dims[rng.usize(..axes)] = size,
            }
            format!("the sizes {:?}", tensor.dims)
        }
        2 => {
            tensor.dims = (0..rng.usize(..12)).map(|_| extreme(rng)).collect();
            format!("the sizes {:?}", tensor.dims)
        }
        3 => {
            tensor.data_type = rng.i32(-1..25);
            format!("the type {}", tensor.data_type)
        }
        4 => {
            let length = rng.usize(..=tensor.raw_data.len());
            tensor.raw_data.truncate(length);
            format!("{length} bytes")
        }
        5 => {
            // With a size that belongs to it: nothing of it contradicts itself.
            tensor.raw_data.clear();
            tensor.dims = vec![0];
            "nothing in it".to_owned()
        }
        6 | 7 => return Some(change_numbers(tensor, rng)),
        8 => {
            let location =
                ["model.onnx_data", "model.onnx", "../outside", "/dev/zero", "/etc/passwd", "", "*/_ORT_MEM_ADDR_/*"];
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            tensor.external_data = vec![
                entry("location", rng.choice(location)?.to_owned()),
                entry("offset", extreme(rng).to_string()),
                entry("length", extreme(rng).to_string()),
            ];
            tensor.data_location = DataLocation::External as i32;
            if rng.bool() {
                tensor.raw_data.clear();
            }
            let values: Vec<&str> = tensor.external_data.iter().map(|entry| entry.value.as_str()).collect();
            format!("data elsewhere: {values:?}")
        }
        9 => {
            tensor.segment = Some(Segment { begin: extreme(rng), end: extreme(rng) });
            "a segment".to_owned()
        }
        _ => {
            // In the field of another type, besides what it has or instead of it.
            let count = rng.choice([0_usize, 1, 100])?;
            match rng.u8(..4) {
                0 => tensor.float_data = vec![f32::NAN; count],
                1 => tensor.int32_data = vec![i32::MIN; count],
                2 => tensor.int64_data = vec![i64::MAX; count],
                _ => tensor.string_data = vec![vec![0xff; 3]; count],
            }
            if rng.bool() {
                tensor.raw_data.clear();
            }
            format!("{count} elements in another field")
        }
    };
    Some(format!("tensor {}: {what}", tensor.name))
}

/// Changes one of a tensor's numbers, or all of them.
fn change_numbers(tensor: &mut TensorProto, rng: &mut Rng) -> String {
    let number: Vec<u8> = match tensor.data_type {
        kind if kind == DataType::Float as i32 => extreme_float(rng).to_le_bytes().to_vec(),
        kind if kind == DataType::Int64 as i32 => extreme(rng).to_le_bytes().to_vec(),
        kind if kind == DataType::Int32 as i32 => (extreme(rng) as i32).to_le_bytes().to_vec(),
        _ => vec![rng.u8(..)],
    };
    let count = tensor.raw_data.len() / number.len();
    let (first, all) = (rng.usize(..count.max(1)), rng.u8(..4) == 0);
    let numbers = tensor.raw_data.chunks_exact_mut(number.len()).skip(first);
    numbers.take(if all { count } else { 1 }).for_each(|place| place.copy_from_slice(&number));
    format!("tensor {}: {number:?} as number {first}{}", tensor.name, if all { " and those behind" } else { "" })
}

/// Changes, drops, doubles or adds an attribute, and says how.
pub(crate) fn change_attributes(node: &mut NodeProto, rng: &mut Rng) -> Option<String> {
    let place = rng.usize(..node.attribute.len().max(1));
    let what = match (rng.u8(..8), node.attribute.get_mut(place)) {
        (0, Some(_)) => format!("without {}", node.attribute.remove(place).name),
        (1, Some(found)) => {
            let (mut second, name) = (found.clone(), found.name.clone());
            (second.i, second.f) = (extreme(rng), extreme_float(rng));
            node.attribute.push(second);
            format!("{name} twice")
        }
        (2, Some(found)) => {
            // What the type says lies in another field than what is there.
            found.r#type = rng.i32(-1..16);
            format!("{} of the type {}", found.name, found.r#type)
        }
        (3, Some(found)) => {
            "a parameter".clone_into(&mut found.ref_attr_name);
            format!("{} by reference", found.name)
        }
        (4 | 5, Some(found)) => {
            change_value(found, rng);
            format!("{} = {} or {} or {:?}", found.name, found.i, found.f, found.ints)
        }
        (6, Some(found)) => {
            let values = Some(integers("", &[extreme(rng)]));
            let indices = Some(integers("", &[extreme(rng), extreme(rng)]));
            found.sparse_tensor = Some(SparseTensorProto { values, indices, dims: vec![extreme(rng)] });
            found.r#type = AttributeType::SparseTensor as i32;
            format!("{} a sparse tensor", found.name)
        }
        _ => {
            let kind =
                rng.choice([AttributeType::Int, AttributeType::Ints, AttributeType::Float, AttributeType::String])?;
            let mut added = attribute(rng.choice(ATTRIBUTES)?, kind, &[extreme(rng), extreme(rng)]);
            added.f = extreme_float(rng);
            added.s = vec![0xff; 3];
            let what = format!("{} = {} or {} or {:?} added", added.name, added.i, added.f, added.ints);
            node.attribute.push(added);
            what
        }
    };
    Some(format!("{} {}: {what}", node.op_type, node.name))
}

/// Makes a value extreme, in whichever field it lies.
fn change_value(attribute: &mut AttributeProto, rng: &mut Rng) {
    (attribute.i, attribute.f) = (extreme(rng), extreme_float(rng));
    match rng.u8(..3) {
        0 => attribute.ints.clear(),
        1 => attribute.ints.push(extreme(rng)),
        _ => attribute.ints.iter_mut().for_each(|number| *number = extreme(rng)),
    }
    attribute.floats.iter_mut().for_each(|number| *number = extreme_float(rng));
    if let Some(tensor) = &mut attribute.t {
        let _ = change_tensor(tensor, rng);
    }
}
