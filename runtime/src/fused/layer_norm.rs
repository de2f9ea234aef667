//! What a block adds to its input, normalized; as it is, and to bytes.

use super::quantization::{Bytes, Deferred, dequantize_row, scale_channels};
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
    /// Layer normalization (Ba, Kiros and Hinton, arXiv 1607.06450) of a + b, a being a product of which something may be left, and
    /// perhaps its bytes: all `[rows, width]`.
    pub(super) fn add_normalize(
        &self,
        (a, left): (&[f32], Option<Deferred<'_>>),
        b: &[f32],
        out: &mut [f32],
        mut bytes: Option<Bytes<'_>>,
    ) {
        let width = self.weight.len();
        let mut multiplied = vec![0.0; width];
        vectorized(
            #[inline(always)]
            || {
                let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
                for (index, ((a, b), out)) in rows.zip(out.chunks_exact_mut(width)).enumerate() {
                    dequantize_row(out, (a, left, index), b, |x| x);
                    self.row(out);
                    match &mut bytes {
                        Some(bytes @ Bytes { factors: None, .. }) => bytes.write(index, out),
                        Some(bytes) => {
                            multiplied.copy_from_slice(out);
                            scale_channels(&mut multiplied, bytes.factors);
                            bytes.write(index, &multiplied);
                        }
                        None => {}
                    }
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
    use super::{
        super::quantization::{Quantization, ROW_ZERO_POINT, Scales},
        *,
    };

    #[test]
    fn computed_in_64_bits() {
        let (width, rows) = (35, 3);
        let values = |phase: f32| (0..width * rows).map(|i| (i as f32 * 0.7 + phase).sin() * 3.0).collect::<Vec<_>>();
        let (a, b) = (values(0.0), values(1.0));
        let (weight, bias): (Vec<f32>, Vec<f32>) = (0..width).map(|i| (1.0 + i as f32 / 50.0, i as f32 / 40.0)).unzip();
        let (scale, zero) = (0.04, 100);
        let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12 };
        let (mut out, mut bytes) = (vec![0.0; a.len()], vec![0; a.len()]);
        let (left_rows, sums) = ([[0.5, 0.1], [1.0, 0.0], [3.0, -0.2]], values(2.0)[..width].to_vec());
        let left = Deferred { rows: &left_rows, sums: &sums };
        let one = Scales::One(Quantization::new(scale, zero));
        let by_one = Bytes { bytes: &mut bytes, scales: one, factors: None };
        norm.add_normalize((&a, Some(left)), &b, &mut out, Some(by_one));
        let (mut again, mut of_rows, mut scales) = (vec![0.0; a.len()], vec![0; a.len()], vec![[0.0; 2]; rows]);
        let channels: Vec<f32> = (0..width).map(|i| 0.5 + (i % 4) as f32).collect();
        let by_row = Bytes { bytes: &mut of_rows, scales: Scales::ByRow(&mut scales), factors: Some(&channels) };
        norm.add_normalize((&a, Some(left)), &b, &mut again, Some(by_row));
        assert_eq!(again, out);
        for (index, byte) in of_rows.into_iter().enumerate() {
            let [scale, moved] = scales[index / width];
            let back = (f32::from(byte) - f32::from(ROW_ZERO_POINT)) * scale + moved;
            let expected = out[index] * channels[index % width];
            assert!((back - expected).abs() < 0.501 * scale, "{index}: {back}, not {expected}");
        }
        for (row, [factor, moved]) in left_rows.into_iter().map(|row| row.map(f64::from)).enumerate() {
            let sum = |i: usize| factor * f64::from(a[i]) + moved * f64::from(sums[i % width]) + f64::from(b[i]);
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
