//! GELU, to bytes.

use super::quantization::{Bytes, Deferred, dequantize_row, scale_channels};
use crate::math::vectorized;

/// Beyond it, Φ is 0 or 1 to five digits.
const BOUND: f32 = 4.5;
/// (Φ(x) − ½) / x as a polynomial of 2 (x / 4.5)² − 1, by powers: least squares, weighted until the largest error of x Φ(x) was as
/// small as it gets. It is below 4e-5, and beyond the bound below 4e-6 of x besides, where a byte stands for steps of some hundredths.
const PHI: [f32; 9] = [
    0.156_902_12,
    -0.077_171_96,
    0.054_818_567,
    -0.040_555_768,
    0.027_629_402,
    -0.016_744_046,
    0.012_208_524,
    -0.009_328_538,
    0.003_353_690_5,
];

/// x Φ(x), Φ being the standard normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415). Without a division or an
/// exponential, which take most of the time elsewhere.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let bounded = x.clamp(-BOUND, BOUND);
    let place = (bounded * bounded).mul_add(2.0 / (BOUND * BOUND), -1.0);
    let mut p = PHI[8];
    for index in (0..8).rev() {
        p = p.mul_add(place, PHI[index]);
    }
    x * p.mul_add(bounded, 0.5)
}

/// gelu(x + bias), to bytes: x `[rows, width]`, bias `[width]`.
pub(super) fn bias_gelu((x, left): (&[f32], Option<Deferred<'_>>), bias: &[f32], mut bytes: Bytes<'_>) {
    let width = bias.len();
    let mut row = vec![0.0; width];
    vectorized(
        #[inline(always)]
        || {
            for (index, x) in x.chunks_exact(width).enumerate() {
                dequantize_row(&mut row, (x, left, index), bias, gelu);
                scale_channels(&mut row, bytes.factors);
                bytes.write(index, &row);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::{
        super::quantization::{Quantization, ROW_ZERO_POINT, Scales},
        *,
    };
    use crate::math::tests::by_instructions;

    /// ∫ of the density from 0 to x, by Simpson's rule in 64 bits.
    fn phi(x: f64) -> f64 {
        let steps = 2000;
        let (width, density) = (x / f64::from(steps), |t: f64| (-0.5 * t * t).exp());
        let inner = (1..steps).map(|i| f64::from(2 + 2 * (i % 2)) * density(width * f64::from(i))).sum::<f64>();
        0.5 + (density(0.0) + inner + density(x)) * width / 3.0 * 0.398_942_280_401_432_7
    }

    #[test]
    fn it_is_gelu() {
        for i in -900..=900 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x) * phi(f64::from(x));
            for y in by_instructions(|| gelu(x)) {
                let most = 4e-5 + 4e-6 * (f64::from(x.abs()) - f64::from(BOUND)).max(0.0);
                assert!((f64::from(y) - expected).abs() < most, "gelu({x}) = {y}, not {expected}");
            }
        }
    }

    #[test]
    fn bytes_are_the_nearest() {
        let x: Vec<f32> = (0..300).map(|i| i as f32 / 30.0 - 5.0).collect();
        let bias = [0.5, -1.0, 0.0];
        let (scale, zero_point) = (0.021, 8);
        let mut out = vec![0; x.len()];
        let one = Scales::One(Quantization::new(scale, zero_point));
        bias_gelu((&x, None), &bias, Bytes { bytes: &mut out, scales: one, factors: None });
        for (index, byte) in out.into_iter().enumerate() {
            let exact = f64::from(x[index] + bias[index % 3]);
            let level = exact * phi(exact) / f64::from(scale) + f64::from(zero_point);
            let most = 0.501 + 4e-5 / f64::from(scale);
            assert!((level.clamp(0.0, 255.0) - f64::from(byte)).abs() < most, "{exact}: {byte}, not {level}");
        }
        let rows: Vec<[f32; 2]> = (0..100).map(|row| [0.1 + row as f32 / 30.0, row as f32 / 100.0]).collect();
        let (mut out, mut scales, sums) = (vec![0; x.len()], vec![[0.0; 2]; 100], [1.0, -2.0, 0.5]);
        let factors = [2.0, 0.5, 1.0];
        let by_row = Bytes { bytes: &mut out, scales: Scales::ByRow(&mut scales), factors: Some(&factors) };
        bias_gelu((&x, Some(Deferred { rows: &rows, sums: &sums })), &bias, by_row);
        for (index, byte) in out.into_iter().enumerate() {
            let ([factor, moved], [scale, back]) = (rows[index / 3], scales[index / 3]);
            let exact = f64::from(x[index] * factor + moved * sums[index % 3] + bias[index % 3]);
            let back = f64::from((f32::from(byte) - f32::from(ROW_ZERO_POINT)) * scale + back);
            let expected = exact * phi(exact) * f64::from(factors[index % 3]);
            let most = 0.502 * f64::from(scale) + 4e-5 * f64::from(factors[index % 3]);
            assert!((expected - back).abs() < most, "{expected}: {back}");
        }
    }
}
