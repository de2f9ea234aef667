//! Numbers to bytes.

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
