//! Loops over many numbers with the best instructions of the processor, and elementary functions in a form that the compiler
//! vectorizes: no branch, no table, no call. For this project's crates only.
//!
//! The fused multiply-add is an instruction only where the processor has one, so every loop that uses these functions
//! runs inside [`vectorized`].

#![allow(
    unsafe_code,
    reason = "whether the processor has the instructions is looked up, which the compiler cannot know"
)]

/// Sets of instructions for which loops are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Instructions {
    /// Those that every processor of the architecture has.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// The best that the processor has. The standard library remembers what it has found.
    #[inline]
    pub(crate) fn best() -> Self {
        let found = Self::found();
        #[cfg(test)]
        return found.min(tests::MOST.get());
        #[cfg(not(test))]
        found
    }

    #[inline]
    fn found() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match () {
                () if has_avx2 && has_avx512 => return Self::Avx512,
                () if has_avx2 => return Self::Avx2,
                () => {}
            }
        }
        Self::Baseline
    }

    #[inline(always)]
    fn run<T>(self, f: impl FnOnce() -> T) -> T {
        match self {
            Self::Baseline => f(),
            // SAFETY: `best` has found these instructions, and nothing else makes the value outside of tests, which ask it too.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { with_avx2(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { with_avx512(f) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
pub(crate) fn with_avx2<T>(f: impl FnOnce() -> T) -> T {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
#[inline(never)]
pub(crate) fn with_avx512<T>(f: impl FnOnce() -> T) -> T {
    f()
}

/// Runs `f` with the best instruction set of this processor (chosen at run time: the binary stays portable). With a better one than all have
/// it is a function of its own, also inside of another `vectorized`: a loop inside of a large function shares its registers with all that
/// comes later, and loads constants for that in each turn.
#[inline(always)]
pub fn vectorized<T>(f: impl FnOnce() -> T) -> T {
    Instructions::best().run(f)
}

/// Whether there are registers for eight sums of sixteen lanes and what is added to them.
pub(crate) fn has_many_registers() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Instructions::best() == Instructions::Avx512;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether [`f32::mul_add`] is an instruction inside of [`vectorized`]; where it is none, it is a call, and slow.
pub fn has_fused_multiply_add() -> bool {
    cfg!(target_arch = "aarch64") || Instructions::best() != Instructions::Baseline
}

/// 1.5 × 2^23: adding it rounds to the nearest integer, and leaves that integer in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// x × 2^n for `rounded`, which is n + [`ROUND`]: n is added to x's exponent.
#[inline(always)]
pub(crate) fn times_power_of_two(x: f32, rounded: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// e^x with a relative error below 2e-7. Below −87 the result is that of −87, 1e-38, instead of a subnormal number.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that the subtraction is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // The Taylor series of e^r; the first term left out is below 1e-8 for |r| <= 0.35.
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, coefficient);
    }
    times_power_of_two(p, shifted)
}

/// All lanes by `f`, half of them at once and then half of these: a few steps where one after the other would be many. Each half has a
/// place of its own: what is written in part is not there yet for a processor that reads all of it.
#[inline(always)]
pub fn halved(lanes: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut eight, mut four, mut two) = ([0.0f32; 8], [0.0f32; 4], [0.0f32; 2]);
    for lane in 0..8 {
        eight[lane] = f(lanes[lane], lanes[lane + 8]);
    }
    for lane in 0..4 {
        four[lane] = f(eight[lane], eight[lane + 4]);
    }
    for lane in 0..2 {
        two[lane] = f(four[lane], four[lane + 2]);
    }
    f(two[0], two[1])
}

/// The larger one; as an instruction has it, without a place for what is no number.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller one, in the same way.
#[inline(always)]
pub fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Σ aᵢbᵢ, summed in sixteen lanes: the order does not depend on the processor.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
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
pub fn sum(a: &[f32]) -> f32 {
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

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    #[cfg(target_arch = "x86_64")]
    const ALL: &[Instructions] = &[Instructions::Baseline, Instructions::Avx2, Instructions::Avx512];
    #[cfg(not(target_arch = "x86_64"))]
    const ALL: &[Instructions] = &[Instructions::Baseline];

    thread_local! {
        /// The best that a test's processor has.
        pub(super) static MOST: Cell<Instructions> = const { Cell::new(*ALL.last().unwrap()) };
    }

    /// What `f` gives with each set of instructions that this processor has, from the least to the best, as if it had no better one.
    pub(crate) fn by_instructions<T>(f: impl Fn() -> T) -> Vec<T> {
        let best = Instructions::best();
        let with = |set: &Instructions| {
            MOST.set(*set);
            set.run(&f)
        };
        let all = ALL.iter().filter(|set| **set <= best).map(with).collect();
        MOST.set(best);
        all
    }

    #[test]
    fn exp_agrees_with_the_library() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "exp({x}) = {}, not {expected}", exp(x));
        }
    }

    #[test]
    fn all_instructions_give_the_same_bits() {
        let a: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let sums = by_instructions(|| {
            (
                sum(&a).to_bits(),
                dot(&a, &a).to_bits(),
                a.iter().map(|x| exp(*x).to_bits()).fold(0, |all, bits| all ^ bits),
            )
        });
        assert!(sums.windows(2).all(|two| two[0] == two[1]), "{sums:?}");
    }
}
