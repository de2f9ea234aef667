//! Integers of 6 or 4 bits in bytes, and the nodes that take them apart again: for bundles that have to be small.
//!
//! The nodes are elementary arithmetic on floats, which are exact for integers of this size and which every reader of
//! ONNX has. Those of a matrix have only constants as inputs, so ONNX Runtime computes them once, when it loads the graph,
//! and a product is as fast as with bytes. Those of a table work on the rows that a text picks.

use candle_onnx::onnx::tensor_proto::DataType;

use super::graph::{GraphBuilder, int_attribute, ints_attribute};

/// The largest integer of a packed matrix: 6 bits hold -32 to 31.
pub(super) const MAX_MATRIX: f32 = 31.0;
/// The largest integer of a packed table: 4 bits hold -8 to 7.
pub(super) const MAX_TABLE: f32 = 7.0;
const MATRIX_OFFSET: i8 = 32;
const TABLE_OFFSET: i8 = 8;

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

/// Adds the nodes that turn the bytes `packed` of [`pack_matrix`] into the matrix `output` of int8.
pub(super) fn unpack_matrix(b: &mut GraphBuilder, packed: &str, output: &str, rows: usize, columns: usize) -> String {
    let name = |part: &str| format!("{output}/{part}");
    let cast = |data_type: DataType| vec![int_attribute("to", data_type as i64)];
    let sixty_four = b.scalar(&name("64"), 64.0);
    let inverse = b.scalar(&name("inverse_64"), 1.0 / 64.0);
    let places = b.float_values(&name("places"), &[3, 1, 1], &[1.0, 4.0, 16.0]);
    let middle = b.scalar(&name("32"), f32::from(MATRIX_OFFSET));
    let axis = b.integers(&name("axis"), &[0]);
    let shape = b.integers(&name("shape"), &[rows as i64, columns as i64]);
    let float = b.node(&name("float"), "Cast", &[packed], cast(DataType::Float));
    let shifted = b.node(&name("shifted"), "Mul", &[&float, &inverse], vec![]);
    let upper = b.node(&name("upper"), "Floor", &[&shifted], vec![]);
    let upper_bits = b.node(&name("upper_bits"), "Mul", &[&upper, &sixty_four], vec![]);
    let lower = b.node(&name("lower"), "Sub", &[&float, &upper_bits], vec![]);
    let placed = b.node(&name("placed"), "Mul", &[&upper, &places], vec![]);
    let last = b.node(&name("last"), "ReduceSum", &[&placed, &axis], vec![]);
    let quarters = b.node(&name("quarters"), "Concat", &[&lower, &last], vec![int_attribute("axis", 0)]);
    let centred = b.node(&name("centred"), "Sub", &[&quarters, &middle], vec![]);
    let ordered = b.node(&name("ordered"), "Transpose", &[&centred], vec![ints_attribute("perm", &[1, 0, 2])]);
    let matrix = b.node(&name("matrix"), "Reshape", &[&ordered, &shape], vec![]);
    b.node(output, "Cast", &[&matrix], cast(DataType::Int8))
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

/// Adds the nodes that turn picked rows of [`pack_table`] into floats that are the integers.
pub(super) fn unpack_rows(b: &mut GraphBuilder, packed: &str, output: &str) -> String {
    let name = |part: &str| format!("{output}/{part}");
    let sixteen = b.scalar(&name("16"), 16.0);
    let inverse = b.scalar(&name("inverse_16"), 1.0 / 16.0);
    let middle = b.scalar(&name("8"), f32::from(TABLE_OFFSET));
    let float = b.node(&name("float"), "Cast", &[packed], vec![int_attribute("to", DataType::Float as i64)]);
    let shifted = b.node(&name("shifted"), "Mul", &[&float, &inverse], vec![]);
    let upper = b.node(&name("upper"), "Floor", &[&shifted], vec![]);
    let upper_bits = b.node(&name("upper_bits"), "Mul", &[&upper, &sixteen], vec![]);
    let lower = b.node(&name("lower"), "Sub", &[&float, &upper_bits], vec![]);
    let halves = b.node(&name("halves"), "Concat", &[&upper, &lower], vec![int_attribute("axis", -1)]);
    b.node(output, "Sub", &[&halves, &middle], vec![])
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
