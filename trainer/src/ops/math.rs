//! Elementary functions that the runtime does not need, in the same form as [`nimbert::math`]'s.

use nimbert::math::exp;

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
