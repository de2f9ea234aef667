//! Products of 16-bit integers, two of them in each lane of 32 bits: an instruction has twice as many of them as of floats, and their
//! sums are exact.

#![allow(
    unsafe_code,
    reason = "the compiler makes these instructions of no loop; whether the processor has them is looked up"
)]

use std::arch::x86_64::*;

use super::LANES;
use crate::math::{Instructions, ROUND, larger, times_power_of_two, with_avx2, with_avx512};

/// Adds products of pairs: of two integers of 16 bits in a number, as [`pair`] makes them.
pub(super) trait PairProducts: Copy {
    /// A sum of 32 bits in each lane. What does not fit wraps around.
    type Sums: Copy;

    /// Whether eight sums, and what is added to them, fit into registers.
    const HAS_MANY_REGISTERS: bool;

    /// What `f` does, as a function of its own with these instructions: a loop inside of a large function shares its registers with all
    /// that comes later, and loads constants for that in each turn. `f` is to be `inline(always)`.
    fn apart<T>(self, f: impl FnOnce() -> T) -> T;
    fn zero(self) -> Self::Sums;
    /// `sums`, and in each lane two products: of the lower integers of `pair` and of what the lane has, and of the upper ones.
    fn add(self, sums: Self::Sums, pair: u32, lanes: &[u32; LANES]) -> Self::Sums;
    /// The sums, rounded to floats.
    fn floats(self, sums: Self::Sums) -> [f32; LANES];
    /// x × 2^n for whole n up to 127, and x from 1 to 2. What would be less than 2^−126 may be anything that is not much more.
    #[inline(always)]
    fn scaled(self, mut xs: [f32; LANES], exponents: &[f32; LANES]) -> [f32; LANES] {
        for lane in 0..LANES {
            xs[lane] = times_power_of_two(xs[lane], larger(exponents[lane], -126.0) + ROUND);
        }
        xs
    }
}

/// What is computed with such products.
pub(super) trait Task {
    /// To be `inline(always)`: its caller is compiled with the instructions.
    fn run(self, products: impl PairProducts);
}

/// The lower 16 bits of both.
#[inline(always)]
pub(super) fn pair(lower: u32, upper: u32) -> u32 {
    (lower & 0xffff) | (upper << 16)
}

/// Instructions that have such products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairInstructions {
    Avx2,
    Avx512,
    Vnni,
}

impl PairInstructions {
    /// The best that the processor has.
    #[inline]
    pub(super) fn best() -> Option<Self> {
        match Instructions::best() {
            Instructions::Baseline => None,
            Instructions::Avx2 => Some(Self::Avx2),
            Instructions::Avx512 if is_x86_feature_detected!("avx512vnni") => Some(Self::Vnni),
            Instructions::Avx512 => Some(Self::Avx512),
        }
    }

    #[inline]
    pub(super) fn run(self, task: impl Task) {
        // `best` has found these instructions, and nothing else makes the value outside of tests, which ask it too.
        match self {
            Self::Avx2 => run(Avx2(()), task),
            Self::Avx512 => run(Avx512::<false>(()), task),
            Self::Vnni => run(Avx512::<true>(()), task),
        }
    }
}

fn run(products: impl PairProducts, task: impl Task) {
    products.apart(
        #[inline(always)]
        || task.run(products),
    );
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
fn with_vnni<T>(f: impl FnOnce() -> T) -> T {
    f()
}

// What follows is inlined into functions like the one above. `PairInstructions::run` alone makes values of these types: where there is one, the
// processor has the instructions. Loads and stores are of references to as many bytes.

#[derive(Clone, Copy)]
struct Avx2(());

impl PairProducts for Avx2 {
    type Sums = [__m256i; 2];

    const HAS_MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn apart<T>(self, f: impl FnOnce() -> T) -> T {
        // SAFETY: see above.
        unsafe { with_avx2(f) }
    }

    #[inline(always)]
    fn zero(self) -> [__m256i; 2] {
        // SAFETY: see above.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn add(self, [lower, upper]: [__m256i; 2], pair: u32, lanes: &[u32; LANES]) -> [__m256i; 2] {
        // SAFETY: see above.
        unsafe {
            let pair = _mm256_set1_epi32(pair.cast_signed());
            let products = |eight: &[u32]| _mm256_madd_epi16(pair, _mm256_loadu_si256(eight.as_ptr().cast()));
            let (lower_lanes, upper_lanes) = lanes.split_at(LANES / 2);
            [_mm256_add_epi32(lower, products(lower_lanes)), _mm256_add_epi32(upper, products(upper_lanes))]
        }
    }

    #[inline(always)]
    fn floats(self, [lower, upper]: [__m256i; 2]) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        let (lower_lanes, upper_lanes) = lanes.split_at_mut(LANES / 2);
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(lower_lanes.as_mut_ptr(), _mm256_cvtepi32_ps(lower));
            _mm256_storeu_ps(upper_lanes.as_mut_ptr(), _mm256_cvtepi32_ps(upper));
        }
        lanes
    }
}

#[derive(Clone, Copy)]
struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> PairProducts for Avx512<VNNI> {
    type Sums = __m512i;

    const HAS_MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn apart<T>(self, f: impl FnOnce() -> T) -> T {
        // SAFETY: see above.
        unsafe {
            match VNNI {
                true => with_vnni(f),
                false => with_avx512(f),
            }
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add(self, sums: __m512i, pair: u32, lanes: &[u32; LANES]) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let pair = _mm512_set1_epi32(pair.cast_signed());
            let lanes = _mm512_loadu_si512(lanes.as_ptr().cast());
            match VNNI {
                true => _mm512_dpwssd_epi32(sums, pair, lanes),
                false => _mm512_add_epi32(sums, _mm512_madd_epi16(pair, lanes)),
            }
        }
    }

    #[inline(always)]
    fn floats(self, sums: __m512i) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_cvtepi32_ps(sums)) };
        lanes
    }

    #[inline(always)]
    fn scaled(self, mut xs: [f32; LANES], exponents: &[f32; LANES]) -> [f32; LANES] {
        // SAFETY: see above.
        unsafe {
            let scaled = _mm512_scalef_ps(_mm512_loadu_ps(xs.as_ptr()), _mm512_loadu_ps(exponents.as_ptr()));
            _mm512_storeu_ps(xs.as_mut_ptr(), scaled);
        }
        xs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl PairInstructions {
        /// All that this processor has.
        pub(in super::super) fn all() -> Vec<Self> {
            match Self::best() {
                None => Vec::new(),
                Some(Self::Avx2) => vec![Self::Avx2],
                Some(Self::Avx512) => vec![Self::Avx2, Self::Avx512],
                Some(Self::Vnni) => vec![Self::Avx2, Self::Avx512, Self::Vnni],
            }
        }
    }

    struct Sums<'a> {
        pairs: &'a [u32],
        lanes: &'a [[u32; LANES]],
        out: &'a mut [f32; LANES],
    }

    impl Task for Sums<'_> {
        #[inline(always)]
        fn run(self, products: impl PairProducts) {
            let all = self.pairs.iter().zip(self.lanes);
            *self.out =
                products.floats(all.fold(products.zero(), |sums, (pair, lanes)| products.add(sums, *pair, lanes)));
        }
    }

    #[test]
    fn sums_are_exact() {
        let integer = |index: usize| (index * 7919 % 16_001) as i32 - 8000;
        let integers = |index: usize| [integer(2 * index), integer(2 * index + 1)];
        let of = |[lower, upper]: [i32; 2]| pair(lower.cast_unsigned(), upper.cast_unsigned());
        for count in [0, 1, 16] {
            let lane = |index: usize, lane: usize| integers(100 + index * LANES + lane);
            let pairs: Vec<u32> = (0..count).map(|index| of(integers(index))).collect();
            let lanes: Vec<[u32; LANES]> =
                (0..count).map(|index| std::array::from_fn(|at| of(lane(index, at)))).collect();
            let products = |index: usize, at: usize| {
                let ([a, b], [c, d]) = (integers(index), lane(index, at));
                a * c + b * d
            };
            let expected = std::array::from_fn(|at| (0..count).map(|index| products(index, at)).sum::<i32>() as f32);
            for instructions in PairInstructions::all() {
                let mut out = [f32::NAN; LANES];
                instructions.run(Sums { pairs: &pairs, lanes: &lanes, out: &mut out });
                assert_eq!(out, expected, "{instructions:?}, {count}");
            }
        }
    }
}
