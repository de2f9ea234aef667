//! What a block adds to its input, normalized; as it is, and to bytes.

use super::quantization::Quantization;
use crate::math::{sum, vectorized};

/// What does not change from row to row.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNorm<'a> {
    /// `[width]`
    pub(super) weight: &'a [f32],
    /// `[width]`
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) quantization: Quantization,
}

impl LayerNorm<'_> {
    /// Layer normalization (Ba, Kiros and Hinton, arXiv 1607.06450) of a + b, and its bytes: all `[rows, width]`.
    pub(super) fn add_normalize_quantize(&self, a: &[f32], b: &[f32], out: &mut [f32], bytes: &mut [u8]) {
        let width = self.weight.len();
        vectorized(
            #[inline(always)]
            || {
                let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
                let outs = out.chunks_exact_mut(width).zip(bytes.chunks_exact_mut(width));
                for ((a, b), (out, bytes)) in rows.zip(outs) {
                    for ((a, b), out) in a.iter().zip(b).zip(&mut *out) {
                        *out = a + b;
                    }
                    self.row(out, bytes);
                }
            },
        );
    }

    #[inline(always)]
    fn row(&self, row: &mut [f32], bytes: &mut [u8]) {
        let mean = sum(row) / row.len() as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let variance = crate::math::dot(row, row) / row.len() as f32;
        let factor = 1.0 / (variance + self.epsilon).sqrt();
        for (((x, weight), bias), byte) in row.iter_mut().zip(self.weight).zip(self.bias).zip(bytes) {
            *x = (*x * factor).mul_add(*weight, *bias);
            *byte = self.quantization.byte(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_in_64_bits() {
        let (width, rows) = (35, 3);
        let values = |phase: f32| (0..width * rows).map(|i| (i as f32 * 0.7 + phase).sin() * 3.0).collect::<Vec<_>>();
        let (a, b) = (values(0.0), values(1.0));
        let (weight, bias): (Vec<f32>, Vec<f32>) = (0..width).map(|i| (1.0 + i as f32 / 50.0, i as f32 / 40.0)).unzip();
        let (scale, zero) = (0.04, 100);
        let norm =
            LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12, quantization: Quantization::new(scale, zero) };
        let (mut out, mut bytes) = (vec![0.0; a.len()], vec![0; a.len()]);
        norm.add_normalize_quantize(&a, &b, &mut out, &mut bytes);
        for row in 0..rows {
            let sums: Vec<f64> = (row * width..(row + 1) * width).map(|i| f64::from(a[i]) + f64::from(b[i])).collect();
            let mean = sums.iter().sum::<f64>() / width as f64;
            let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            for (column, x) in sums.into_iter().enumerate() {
                let expected = (x - mean) / variance.sqrt() * f64::from(weight[column]) + f64::from(bias[column]);
                let index = row * width + column;
                assert!((f64::from(out[index]) - expected).abs() < 1e-5, "{index}: {}, not {expected}", out[index]);
                let level = (expected / f64::from(scale) + f64::from(zero)).clamp(0.0, 255.0);
                assert!((level - f64::from(bytes[index])).abs() < 0.501, "{index}: {}, not {level}", bytes[index]);
            }
        }
    }
}
