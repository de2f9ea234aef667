//! What a block adds to its input, normalized; as it is, and to bytes.

use super::quantization::Bytes;
use crate::math::{sum, vectorized};

/// What does not change from row to row.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNorm<'a> {
    /// `[width]`
    pub(super) weight: &'a [f32],
    /// `[width]`
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
}

impl LayerNorm<'_> {
    /// Layer normalization (Ba, Kiros and Hinton, arXiv 1607.06450) of a times its row's scale plus b, and its bytes: all
    /// `[rows, width]`, scales `[rows]`, where there are none 1.
    pub(super) fn add_normalize(
        &self,
        (a, scales): (&[f32], Option<&[f32]>),
        b: &[f32],
        out: &mut [f32],
        mut bytes: Bytes<'_>,
    ) {
        let width = self.weight.len();
        vectorized(
            #[inline(always)]
            || {
                let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
                for (index, ((a, b), out)) in rows.zip(out.chunks_exact_mut(width)).enumerate() {
                    let scale = scales.map_or(1.0, |scales| scales[index]);
                    for ((a, b), out) in a.iter().zip(b).zip(&mut *out) {
                        *out = a.mul_add(scale, *b);
                    }
                    self.row(out);
                    bytes.write(index, out);
                }
            },
        );
    }

    #[inline(always)]
    fn row(&self, row: &mut [f32]) {
        let mean = sum(row) / row.len() as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let variance = crate::math::dot(row, row) / row.len() as f32;
        let factor = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, weight), bias) in row.iter_mut().zip(self.weight).zip(self.bias) {
            *x = (*x * factor).mul_add(*weight, *bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::quantization::Quantization, *};

    #[test]
    fn computed_in_64_bits() {
        let (width, rows) = (35, 3);
        let values = |phase: f32| (0..width * rows).map(|i| (i as f32 * 0.7 + phase).sin() * 3.0).collect::<Vec<_>>();
        let (a, b) = (values(0.0), values(1.0));
        let (weight, bias): (Vec<f32>, Vec<f32>) = (0..width).map(|i| (1.0 + i as f32 / 50.0, i as f32 / 40.0)).unzip();
        let (scale, zero) = (0.04, 100);
        let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12 };
        let (mut out, mut bytes) = (vec![0.0; a.len()], vec![0; a.len()]);
        let factors = [0.5, 1.0, 3.0];
        let of_all = Bytes::OfAll(Quantization::new(scale, zero), &mut bytes);
        norm.add_normalize((&a, Some(&factors)), &b, &mut out, of_all);
        let (mut again, mut of_rows, mut scales) = (vec![0.0; a.len()], vec![0; a.len()], vec![0.0; rows]);
        let by_row = Bytes::ByRow(128, &mut of_rows, &mut scales);
        norm.add_normalize((&a, Some(&factors)), &b, &mut again, by_row);
        assert_eq!(again, out);
        for (index, byte) in of_rows.into_iter().enumerate() {
            let back = (f32::from(byte) - 128.0) * scales[index / width];
            assert!((back - out[index]).abs() < 0.501 * scales[index / width], "{index}: {back}");
        }
        for (row, factor) in factors.into_iter().map(f64::from).enumerate() {
            let sum = |i: usize| factor * f64::from(a[i]) + f64::from(b[i]);
            let sums: Vec<f64> = (row * width..(row + 1) * width).map(sum).collect();
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
