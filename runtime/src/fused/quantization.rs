//! Numbers to bytes.

use crate::math::{larger, smaller};

/// Numbers that are looked at side by side.
const LANES: usize = 16;

/// The bytes of a row by the scale at which just all of it fits around that zero point, which is neither 0 nor 255; gives the scale.
/// Its largest numbers may be a tenth of another row's, and are as exact then as that one's.
#[inline(always)]
pub(super) fn quantize_row(row: &[f32], zero_point: u8, bytes: &mut [u8]) -> f32 {
    let (mut least, mut most) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            least[lane] = smaller(least[lane], block[lane]);
            most[lane] = larger(most[lane], block[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        least[lane] = smaller(least[lane], *x);
        most[lane] = larger(most[lane], *x);
    }
    let zero = f32::from(zero_point);
    let mut scale = f32::MIN_POSITIVE;
    for lane in 0..LANES {
        scale = scale.max(most[lane] / (255.0 - zero)).max(-least[lane] / zero);
    }
    Quantization::new(scale, zero_point).bytes(row, bytes);
    scale
}

/// Where bytes of rows go.
pub(super) enum Bytes<'a> {
    /// Nowhere.
    None,
    /// By one scale for all of them.
    OfAll(Quantization, &'a mut [u8]),
    /// By a scale a row, around that zero point; and the scales.
    ByRow(u8, &'a mut [u8], &'a mut [f32]),
}

impl Bytes<'_> {
    /// Writes those of the row with that number.
    #[inline(always)]
    pub(super) fn write(&mut self, index: usize, row: &[f32]) {
        let place = index * row.len()..(index + 1) * row.len();
        match self {
            Self::None => {}
            Self::OfAll(quantization, bytes) => quantization.bytes(row, &mut bytes[place]),
            Self::ByRow(zero_point, bytes, scales) => scales[index] = quantize_row(row, *zero_point, &mut bytes[place]),
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
    pub(super) fn byte(self, x: f32) -> u8 {
        // Adding 1.5 × 2^23 rounds to the nearest integer, and leaves that integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let level = x.mul_add(self.inverse_scale, self.zero_point).clamp(0.0, 255.0);
        (level + ROUND).to_bits() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::by_instructions;

    #[test]
    fn each_row_has_the_scale_at_which_it_fits() {
        for (width, zero_point) in [(5, 128), (16, 24), (67, 128)] {
            for size in [1e-3f32, 1.0, 300.0] {
                let row: Vec<f32> = (0..width).map(|i| ((i * 37) % 41) as f32 / 41.0 * size - size / 10.0).collect();
                let rows = by_instructions(|| {
                    let mut bytes = vec![0; width];
                    (quantize_row(&row, zero_point, &mut bytes), bytes)
                });
                assert!(rows.windows(2).all(|two| two[0] == two[1]));
                let (scale, bytes) = &rows[0];
                for (x, byte) in row.iter().zip(bytes) {
                    let back = (f32::from(*byte) - f32::from(zero_point)) * scale;
                    assert!((back - x).abs() < 0.501 * scale, "{x}: {back}");
                }
                assert!(bytes.iter().any(|byte| [0, 1, 255].contains(byte)), "{bytes:?} leave a part unused");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_is_the_zero_point() {
        let mut bytes = [1; 20];
        assert!(quantize_row(&[0.0; 20], 24, &mut bytes) > 0.0);
        assert_eq!(bytes, [24; 20]);
    }
}
