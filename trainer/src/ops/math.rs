//! Elementary functions in a form that the compiler vectorizes: no branch, no table, no call.
//!
//! The fused multiply-add is an instruction only where the processor has one, so every loop that uses these functions
//! runs inside [`vectorized`].

/// Runs `f` with the best instruction set of this processor (chosen at run time: the binary stays portable).
#[inline(always)]
pub(crate) fn vectorized<T>(f: impl FnOnce() -> T) -> T {
    struct Task<F>(F);
    impl<T, F: FnOnce() -> T> pulp::WithSimd for Task<F> {
        type Output = T;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> T {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Task(f))
}

/// e^x with a relative error below 2e-7. Below −87 the result is that of −87, 1e-38, instead of a subnormal number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that the subtraction is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 × 2^23 rounds to the nearest integer, and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // The Taylor series of e^r; the first term left out is below 1e-8 for |r| <= 0.35.
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, coefficient);
    }
    // 2^n by adding n to the exponent; n's integer lies in the low bits of `shifted`.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    f32::from_bits(p.to_bits().wrapping_add(exponent))
}

/// The standard normal distribution at x: its cumulative probability and its density.
///
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: error of the probability below 1e-7.
#[inline(always)]
pub(super) fn normal_distribution(x: f32) -> (f32, f32) {
    let gauss = exp(-0.5 * x * x);
    // erf(z) = 1 - (a1 t + … + a5 t^5) e^(-z²) with t = 1 / (1 + 0.3275911 z), for z = |x| / √2.
    let t = 1.0 / (x.abs() * std::f32::consts::FRAC_1_SQRT_2).mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4_f32;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, coefficient);
    }
    let upper_tail = 0.5 * p * t * gauss;
    let probability = if x < 0.0 { upper_tail } else { 1.0 - upper_tail };
    (probability, gauss * 0.398_942_3)
}

/// Σ aᵢbᵢ, summed in sixteen lanes: the order does not depend on the processor.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..16 {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Σ aᵢ, summed in sixteen lanes.
#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = a.chunks_exact(16);
    let tail: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] += chunk[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// A pseudo-random number for `index` under `key`: C. Wellons' mixing function "lowbias32".
///
/// Random by position instead of by sequence: the backward pass draws the same numbers again, in any order, and any
/// number of threads gives the same result.
#[inline(always)]
pub(super) fn random_bits(key: u64, index: u32) -> u32 {
    let mut x = index ^ key as u32;
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d) ^ (key >> 32) as u32;
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_library() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "exp({x}) = {}, not {expected}", exp(x));
        }
    }

    #[test]
    fn normal_distribution_is_symmetric_and_sums_its_density() {
        let (mut integral, step) = (0.0f64, 1e-3f32);
        for i in -6000..=6000 {
            let x = i as f32 * step;
            let (probability, density) = normal_distribution(x);
            assert!((f64::from(probability) - integral - 0.5 * f64::from(density * step)).abs() < 2e-6, "at {x}");
            assert!((probability + normal_distribution(-x).0 - 1.0).abs() < 2e-7);
            integral += f64::from(density * step);
        }
    }

    #[test]
    fn random_bits_are_spread_evenly_and_depend_on_the_key() {
        let below = |key| (0..100_000).filter(|&index| random_bits(key, index) < u32::MAX / 10).count();
        assert!((9_500..10_500).contains(&below(1)) && (9_500..10_500).contains(&below(u64::MAX - 5)));
        assert!((0..1000).filter(|&index| random_bits(1, index) == random_bits(2, index)).count() < 3);
    }
}
