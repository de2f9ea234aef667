//! Integers of 6 or 4 bits in bytes, and the nodes that take them apart again: for bundles that have to be small.
//!
//! The nodes are elementary arithmetic on floats, which are exact for integers of this size and which every reader of
//! ONNX has. Those of a matrix have only constants as inputs, so ONNX Runtime computes them once, when it loads the graph,
//! and a product is as fast as with bytes. Those of a table work on the rows that a text picks.

use candle_onnx::onnx::{NodeProto, TensorProto, tensor_proto::DataType};

use super::graph::{float_tensor, int_attribute, ints_attribute, node, tensor};

/// The largest integer of a packed matrix: 6 bits hold -32 to 31.
pub(super) const MAX_MATRIX: f32 = 31.0;
/// The largest integer of a packed table: 4 bits hold -8 to 7.
pub(super) const MAX_TABLE: f32 = 7.0;
const MATRIX_OFFSET: i8 = 32;
const TABLE_OFFSET: i8 = 8;

/// What all nodes share.
const SIXTEEN: &str = "packed/16";
const INVERSE_SIXTEEN: &str = "packed/inverse_16";
const SIXTY_FOUR: &str = "packed/64";
const INVERSE_SIXTY_FOUR: &str = "packed/inverse_64";
const PLACES: &str = "packed/places";
const MATRIX_MIDDLE: &str = "packed/32";
const TABLE_MIDDLE: &str = "packed/8";

pub(super) fn shared_constants() -> Vec<TensorProto> {
    vec![
        float_tensor(SIXTEEN, &[], &[16.0]),
        float_tensor(INVERSE_SIXTEEN, &[], &[1.0 / 16.0]),
        float_tensor(SIXTY_FOUR, &[], &[64.0]),
        float_tensor(INVERSE_SIXTY_FOUR, &[], &[1.0 / 64.0]),
        float_tensor(PLACES, &[3, 1, 1], &[1.0, 4.0, 16.0]),
        float_tensor(MATRIX_MIDDLE, &[], &[f32::from(MATRIX_OFFSET)]),
        float_tensor(TABLE_MIDDLE, &[], &[f32::from(TABLE_OFFSET)]),
    ]
}

/// A matrix `[rows, columns]` of integers from -32 to 31, its columns in four quarters: each of the first three is the
/// lower six bits of a layer of bytes, and the fourth has two bits in each of the layers' upper ones.
/// Result: `[3, rows, columns / 4]`.
pub(super) fn pack_matrix(integers: &[i8], columns: usize) -> Vec<u8> {
    let quarter = columns / 4;
    let code = |row: &[i8], column: usize| (row[column] + MATRIX_OFFSET) as u8;
    let layer = |layer: usize| {
        integers.chunks_exact(columns).flat_map(move |row| {
            (0..quarter).map(move |column| {
                let upper = code(row, 3 * quarter + column) >> (2 * layer) & 3;
                code(row, layer * quarter + column) | upper << 6
            })
        })
    };
    (0..3).flat_map(layer).collect()
}

/// The nodes and constants that turn the bytes `packed` of [`pack_matrix`] into the matrix `output` of int8.
pub(super) fn unpack_matrix(
    packed: &str,
    output: &str,
    rows: usize,
    columns: usize,
) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let name = |part: &str| format!("{output}/{part}");
    let [float, shifted, upper, upper_bits, lower] = ["float", "shifted", "upper", "upper_bits", "lower"].map(name);
    let [placed, last, quarters, centred, ordered, matrix, shape] =
        ["placed", "last", "quarters", "centred", "ordered", "matrix", "shape"].map(name);
    let dims = [rows, columns].iter().flat_map(|&size| (size as i64).to_le_bytes()).collect();
    let nodes = vec![
        node(&float, "Cast", &[packed], &[&float], vec![int_attribute("to", DataType::Float as i64)]),
        node(&shifted, "Mul", &[&float, INVERSE_SIXTY_FOUR], &[&shifted], vec![]),
        node(&upper, "Floor", &[&shifted], &[&upper], vec![]),
        node(&upper_bits, "Mul", &[&upper, SIXTY_FOUR], &[&upper_bits], vec![]),
        node(&lower, "Sub", &[&float, &upper_bits], &[&lower], vec![]),
        node(&placed, "Mul", &[&upper, PLACES], &[&placed], vec![]),
        node(&last, "ReduceSum", &[&placed], &[&last], vec![ints_attribute("axes", &[0])]),
        node(&quarters, "Concat", &[&lower, &last], &[&quarters], vec![int_attribute("axis", 0)]),
        node(&centred, "Sub", &[&quarters, MATRIX_MIDDLE], &[&centred], vec![]),
        node(&ordered, "Transpose", &[&centred], &[&ordered], vec![ints_attribute("perm", &[1, 0, 2])]),
        node(&matrix, "Reshape", &[&ordered, &shape], &[&matrix], vec![]),
        node(output, "Cast", &[&matrix], &[output], vec![int_attribute("to", DataType::Int8 as i64)]),
    ];
    (nodes, vec![tensor(&shape, DataType::Int64, &[2], dims)])
}

/// A table `[rows, columns]` of integers from -8 to 7: the first half of each row in the upper four bits, the second in
/// the lower ones. Result: `[rows, columns / 2]`.
pub(super) fn pack_table(integers: &[i8], columns: usize) -> Vec<u8> {
    let half = columns / 2;
    let code = |integer: i8| (integer + TABLE_OFFSET) as u8;
    let row =
        |row: &[i8]| (0..half).map(|column| code(row[column]) << 4 | code(row[half + column])).collect::<Vec<_>>();
    integers.chunks_exact(columns).flat_map(row).collect()
}

/// The nodes that turn picked rows of [`pack_table`] into floats that are the integers.
pub(super) fn unpack_rows(packed: &str, output: &str) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let [float, shifted, upper, upper_bits, lower, halves] =
        ["float", "shifted", "upper", "upper_bits", "lower", "halves"].map(name);
    vec![
        node(&float, "Cast", &[packed], &[&float], vec![int_attribute("to", DataType::Float as i64)]),
        node(&shifted, "Mul", &[&float, INVERSE_SIXTEEN], &[&shifted], vec![]),
        node(&upper, "Floor", &[&shifted], &[&upper], vec![]),
        node(&upper_bits, "Mul", &[&upper, SIXTEEN], &[&upper_bits], vec![]),
        node(&lower, "Sub", &[&float, &upper_bits], &[&lower], vec![]),
        node(&halves, "Concat", &[&upper, &lower], &[&halves], vec![int_attribute("axis", -1)]),
        node(output, "Sub", &[&halves, TABLE_MIDDLE], &[output], vec![]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the nodes of [`unpack_matrix`] compute.
    #[test]
    fn a_matrix_comes_back() {
        let integers: Vec<i8> = (0..64).map(|index| index as i8 - 32).collect();
        let packed = pack_matrix(&integers, 8);
        assert_eq!(packed.len(), 48);
        let layer = |layer: usize, row: usize, column: usize| packed[layer * 16 + row * 2 + column];
        for row in 0..8 {
            for column in 0..2 {
                for quarter in 0..3 {
                    let lower = layer(quarter, row, column) % 64;
                    assert_eq!(lower as i8 - 32, integers[row * 8 + quarter * 2 + column]);
                }
                let last: u8 = (0..3).map(|place| (layer(place, row, column) / 64) << (2 * place)).sum();
                assert_eq!(last as i8 - 32, integers[row * 8 + 6 + column]);
            }
        }
    }

    #[test]
    fn a_table_has_two_numbers_a_byte() {
        assert_eq!(pack_table(&[-8, 7, 0, 1], 4), [0x08, 0xf9]);
    }
}
