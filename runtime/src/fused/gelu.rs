//! GELU, to bytes.

use super::quantization::{Bytes, Deferred, dequantize_row, scale_channels};
use crate::math::vectorized;

/// Beyond it, Φ is 0 or 1 to six digits.
const BOUND: f32 = 5.0;
/// (Φ(x) − ½) / x as a polynomial of 2 (x / 5)² − 1, by powers: least squares, weighted until the largest error of x Φ(x) was as
/// small as it gets. It is below 4e-6, and beyond the bound below 7e-7 of x, where a byte stands for steps of some hundredths.
const PHI: [f32; 12] = [
    0.141_363_75,
    -0.070_298_23,
    0.051_525_395,
    -0.040_391_985,
    0.031_356_73,
    -0.023_624_957,
    0.016_910_117,
    -0.010_165_438,
    0.005_113_294,
    -0.003_886_895,
    0.003_194_445,
    -0.001_096_344,
];

/// x Φ(x), Φ being the standard normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415). Without a division or an
/// exponential, which take most of the time elsewhere.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let bounded = x.clamp(-BOUND, BOUND);
    let place = (bounded * bounded).mul_add(2.0 / (BOUND * BOUND), -1.0);
    let mut p = PHI[11];
    for index in (0..11).rev() {
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
                let most = 4e-6_f64.max(7e-7 * f64::from(x.abs()));
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
            assert!((level.clamp(0.0, 255.0) - f64::from(byte)).abs() < 0.501, "{exact}: {byte}, not {level}");
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
            assert!((expected - back).abs() < 0.502 * f64::from(scale), "{expected}: {back}");
        }
    }
}
