//! Numbers to bytes.

use crate::math::{ROUND, halved, larger, smaller};

/// Numbers that are looked at side by side.
const LANES: usize = 16;

/// What a product of bytes leaves to its reader where each row of the bytes has a scale and a zero point of its own: the product takes
/// [`ROW_ZERO_POINT`] for the zero point of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deferred<'a> {
    /// By row: its scale, and that times what [`ROW_ZERO_POINT`] is above its own zero point.
    pub(super) rows: &'a [[f32; 2]],
    /// What a column of the product becomes more for each unit of the bytes: the sum of its weights.
    pub(super) sums: &'a [f32],
}

impl<'a> Deferred<'a> {
    /// That of `count` rows from `start` on.
    pub(super) fn rows(self, start: usize, count: usize) -> Self {
        Self { rows: &self.rows[start..][..count], ..self }
    }

    /// That of `count` columns from `start` on.
    #[inline(always)]
    pub(super) fn columns(self, start: usize, count: usize) -> Self {
        Self { sums: &self.sums[start..][..count], ..self }
    }
}

/// `f` of the row of a product with that number, with what is left of it if anything is, plus `added`.
#[inline(always)]
pub(super) fn dequantize_row(
    out: &mut [f32],
    (product, left, index): (&[f32], Option<Deferred<'_>>, usize),
    added: &[f32],
    f: impl Fn(f32) -> f32,
) {
    let all = out.iter_mut().zip(product).zip(added);
    match left {
        None => all.for_each(|((out, x), added)| *out = f(x + added)),
        Some(Deferred { rows, sums }) => {
            let [scale, moved] = rows[index];
            for (((out, x), added), sum) in all.zip(sums) {
                *out = f(x.mul_add(scale, sum.mul_add(moved, *added)));
            }
        }
    }
}

/// Multiplies a row, if there are factors.
#[inline(always)]
pub(super) fn scale_channels(row: &mut [f32], factors: Option<&[f32]>) {
    for (x, factor) in row.iter_mut().zip(factors.unwrap_or_default()) {
        *x *= factor;
    }
}

/// The zero point that products take for that of bytes whose rows have zero points of their own.
pub(crate) const ROW_ZERO_POINT: u8 = 128;

/// The bytes of a row by the scale and the zero point at which just all of it fits; gives what [`Deferred::rows`] has of it. Its largest
/// numbers may be a tenth of another row's, and are as exact then as that one's.
#[inline(always)]
pub(super) fn quantize_row(row: &[f32], bytes: &mut [u8]) -> [f32; 2] {
    let [low, high] = range(row);
    let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
    let zero_point = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    Quantization { inverse_scale: 1.0 / scale, zero_point }.bytes(row, bytes);
    [scale, scale * (f32::from(ROW_ZERO_POINT) - zero_point)]
}

/// The least and the largest number of a row and 0.
#[inline(always)]
fn range(row: &[f32]) -> [f32; 2] {
    let (mut least, mut most) = ([0.0f32; 2 * LANES], [0.0f32; 2 * LANES]);
    let (blocks, rest) = row.as_chunks::<{ 2 * LANES }>();
    for block in blocks {
        // Loops over lanes, one each: as iterators, or both in one, the compiler makes three times as many instructions of them.
        for lane in 0..2 * LANES {
            least[lane] = smaller(block[lane], least[lane]);
        }
        for lane in 0..2 * LANES {
            most[lane] = larger(block[lane], most[lane]);
        }
    }
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
    for lane in 0..LANES {
        low[lane] = smaller(least[lane], least[lane + LANES]);
    }
    for lane in 0..LANES {
        high[lane] = larger(most[lane], most[lane + LANES]);
    }
    let mut ends = [halved(low, smaller), halved(high, larger)];
    for x in rest {
        ends = [smaller(*x, ends[0]), larger(*x, ends[1])];
    }
    ends
}

/// Where bytes of rows go, and how they are made.
pub(super) struct Bytes<'a> {
    /// `[rows, width]`
    pub(super) bytes: &'a mut [u8],
    pub(super) scales: Scales<'a>,
    /// What channels are to be multiplied by before: `[width]`
    pub(super) factors: Option<&'a [f32]>,
}

/// By which scale and zero point.
pub(super) enum Scales<'a> {
    /// One for all rows.
    One(Quantization),
    /// Those at which just all of a row fits, of which is written there what [`Deferred::rows`] has.
    ByRow(&'a mut [[f32; 2]]),
}

impl Bytes<'_> {
    /// Writes those of the row with that number, whose channels have been multiplied.
    #[inline(always)]
    pub(super) fn write(&mut self, index: usize, row: &[f32]) {
        let bytes = &mut self.bytes[index * row.len()..][..row.len()];
        match &mut self.scales {
            Scales::One(quantization) => quantization.bytes(row, bytes),
            Scales::ByRow(rows) => rows[index] = quantize_row(row, bytes),
        }
    }
}

/// ONNX's QuantizeLinear with one scale: x / scale, rounded, plus the zero point, as far as that is in a byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantization {
    inverse_scale: f32,
    zero_point: f32,
}

impl Quantization {
    pub(super) fn new(scale: f32, zero_point: u8) -> Self {
        Self { inverse_scale: 1.0 / scale, zero_point: zero_point.into() }
    }

    /// Those of a row.
    #[inline(always)]
    fn bytes(self, row: &[f32], bytes: &mut [u8]) {
        for (byte, x) in bytes.iter_mut().zip(row) {
            *byte = self.byte(*x);
        }
    }

    /// The byte for `x`. A product with 1 / scale may be the neighbour of the quotient: where x lies in the middle between two
    /// bytes, to seven digits, it may become the other one.
    #[inline(always)]
    fn byte(self, x: f32) -> u8 {
        let level = x.mul_add(self.inverse_scale, self.zero_point).clamp(0.0, 255.0);
        (level + ROUND).to_bits() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::by_instructions;

    /// What a byte stands for, of a row of which that is left.
    fn back(byte: u8, [scale, moved]: [f32; 2]) -> f32 {
        (f32::from(byte) - f32::from(ROW_ZERO_POINT)) * scale + moved
    }

    #[test]
    fn each_row_has_the_scale_and_the_zero_point_at_which_it_fits() {
        for width in [5, 16, 67] {
            for size in [1e-3f32, 1.0, 300.0] {
                for moved in [-1.5, -0.5, 0.0, 0.5] {
                    let row: Vec<f32> = (0..width).map(|i| (((i * 37) % 41) as f32 / 41.0 + moved) * size).collect();
                    let rows = by_instructions(|| {
                        let mut bytes = vec![0; width];
                        (quantize_row(&row, &mut bytes), bytes)
                    });
                    assert!(rows.windows(2).all(|two| two[0] == two[1]));
                    let (left, bytes) = &rows[0];
                    let most = row.iter().copied().fold(0.0, f32::max) - row.iter().copied().fold(0.0, f32::min);
                    assert!((left[0] / most * 255.0 - 1.0).abs() < 1e-5, "{left:?}, {most}");
                    for (x, byte) in row.iter().zip(bytes) {
                        assert!((back(*byte, *left) - x).abs() < 0.501 * left[0], "{x}: {byte}, {left:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_is_zeros() {
        let mut bytes = [1; 20];
        let left = quantize_row(&[0.0; 20], &mut bytes);
        assert!(left[0] > 0.0 && bytes.iter().all(|byte| back(*byte, left) == 0.0), "{bytes:?} {left:?}");
    }

    #[test]
    fn a_reader_makes_up_for_what_a_product_leaves() {
        // Two rows of three numbers, and weights for two columns.
        let (numbers, weights) = ([[0.5, -1.0, 2.0], [30.0, 10.0, 20.0]], [[3.0, -1.0], [2.0, 5.0], [-4.0, 1.0]]);
        let sums = [0, 1].map(|column| weights.iter().map(|row| row[column]).sum::<f32>());
        let (mut bytes, mut rows) = ([0; 6], [[0.0; 2]; 2]);
        for (index, row) in numbers.iter().enumerate() {
            rows[index] = quantize_row(row, &mut bytes[3 * index..][..3]);
        }
        for (index, row) in numbers.iter().enumerate() {
            let of_row = &bytes[3 * index..][..3];
            let product = |column: usize, number: &dyn Fn(usize) -> f32| -> f32 {
                (0..3).map(|input| number(input) * weights[input][column]).sum()
            };
            let of_bytes =
                [0, 1].map(|column| product(column, &|input| f32::from(of_row[input]) - f32::from(ROW_ZERO_POINT)));
            let mut out = [0.0; 2];
            let left = Deferred { rows: &rows, sums: &sums };
            dequantize_row(&mut out, (&of_bytes, Some(left), index), &[0.25, -0.5], |x| x);
            let expected = [0, 1].map(|column| product(column, &|input| row[input]) + [0.25, -0.5][column]);
            for (out, expected) in out.iter().zip(expected) {
                assert!((out - expected).abs() < 8.0 * rows[index][0], "{out}, not {expected}");
            }
        }
        let mut out = [0.0; 2];
        dequantize_row(&mut out, (&[1.0, 2.0], None, 0), &[0.5, 0.25], |x| -x);
        assert_eq!(out, [-1.5, -2.25]);
        scale_channels(&mut out, Some(&[2.0, -1.0]));
        scale_channels(&mut out, None);
        assert_eq!(out, [-3.0, 2.25]);
    }
}
