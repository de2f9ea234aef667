//! Attention in floats.

use super::{Head, LANES, Of, TOGETHER, largest_by_lane, transpose};
use crate::math::{ROUND, larger, times_power_of_two};

/// Memory that each head uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Keys of a head, up to a multiple of [`TOGETHER`] with the last one again: `[keys, width]`
    keys: Vec<f32>,
    /// Values of a head, so many numbers side by side: `[blocks of numbers, keys, LANES]`. What stands behind a head's numbers is not used.
    values: Vec<[f32; LANES]>,
    /// A value, or some queries, a row each: `[LANES, width]`. Where there are fewer queries others stand behind them, which are computed
    /// for nothing.
    unpacked: Vec<f32>,
    /// Some queries on their way to be columns: `[width, TOGETHER]`
    tile: Vec<[f32; TOGETHER]>,
    /// Queries side by side: `[width, LANES]`
    queries: Vec<[f32; LANES]>,
    /// Of these queries, and then e to their power: `[keys, LANES]`
    scores: Vec<[f32; LANES]>,
}

impl Scratch {
    /// One head, into `context` `[queries, heads × width]`.
    #[inline(always)]
    pub(super) fn attend(&mut self, head: &Head<'_>, context: &mut [f32]) {
        let (width, length) = (head.attention.width, head.length);
        let Self { keys, values, unpacked, tile, queries, scores } = self;
        let all_keys = length.next_multiple_of(TOGETHER);
        keys.resize(all_keys * width, 0.0);
        values.resize(width.div_ceil(LANES) * length, [0.0; LANES]);
        unpacked.resize(LANES * width, 0.0);
        tile.resize(width, [0.0; TOGETHER]);
        queries.resize(width, [0.0; LANES]);
        scores.resize(all_keys, [0.0; LANES]);
        for (index, key) in keys.chunks_exact_mut(width).enumerate() {
            head.token(Of::Key, index.min(length - 1), key);
        }
        for token in 0..length {
            let numbers = &mut unpacked[..width];
            head.token(Of::Value, token, numbers);
            for (block, numbers) in numbers.chunks(LANES).enumerate() {
                values[block * length + token][..numbers.len()].copy_from_slice(numbers);
            }
        }
        let scale = head.scale();
        for start in head.queries.clone().step_by(LANES) {
            let count = head.some_queries(start, width, unpacked);
            transpose(unpacked, tile, queries);
            let (of_keys, _) = scores.as_chunks_mut::<TOGETHER>();
            for (keys, scores) in keys.chunks_exact(TOGETHER * width).zip(of_keys) {
                *scores = multiply(keys, queries);
            }
            let scores = &mut scores[..length];
            // One pass after the other: of two in one the compiler keeps lanes in memory, or shuffles them.
            let largest = largest_by_lane(scores);
            for scores in &mut *scores {
                for lane in 0..LANES {
                    scores[lane] = exp2((scores[lane] - largest[lane]) * scale);
                }
            }
            let factors = inverse_sums(scores);
            head.put(
                context,
                (start, count),
                &factors,
                #[inline(always)]
                |query, block| [weighted_sums(scores, query, &values[block * length..][..length])],
            );
        }
    }
}

/// Rows times columns: `[TOGETHER, n]` by `[n, LANES]`.
#[inline(always)]
fn multiply(rows: &[f32], columns: &[[f32; LANES]]) -> [[f32; LANES]; TOGETHER] {
    let row = |index: usize| &rows[index * columns.len()..][..columns.len()];
    let mut sums = [[0.0f32; LANES]; TOGETHER];
    for ((((column, a), b), c), d) in columns.iter().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
        add(&mut sums[0], *a, column);
        add(&mut sums[1], *b, column);
        add(&mut sums[2], *c, column);
        add(&mut sums[3], *d, column);
    }
    sums
}

/// Values `[n, LANES]` times what each of the queries from `first` on has in scores `[n, LANES]`, added up: `[TOGETHER, LANES]`.
#[inline(always)]
fn weighted_sums(scores: &[[f32; LANES]], first: usize, values: &[[f32; LANES]]) -> [[f32; LANES]; TOGETHER] {
    let mut sums = [[0.0f32; LANES]; TOGETHER];
    for (scores, values) in scores.iter().zip(values) {
        let scores = &scores[first..][..TOGETHER];
        // One by one: of a loop the compiler would make one over lanes, with queries side by side; and of eight, shuffles.
        add(&mut sums[0], scores[0], values);
        add(&mut sums[1], scores[1], values);
        add(&mut sums[2], scores[2], values);
        add(&mut sums[3], scores[3], values);
    }
    sums
}

#[inline(always)]
fn add(sums: &mut [f32; LANES], factor: f32, numbers: &[f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] = factor.mul_add(numbers[lane], sums[lane]);
    }
}

/// 1 / the sum of each lane.
#[inline(always)]
fn inverse_sums(scores: &[[f32; LANES]]) -> [f32; LANES] {
    let mut total = [0.0; LANES];
    for scores in scores {
        for lane in 0..LANES {
            total[lane] += scores[lane];
        }
    }
    total.map(|sum| 1.0 / sum)
}

/// 2^x for x <= 0 with a relative error below 2e-7. Below −126 the result is that of −126 instead of a subnormal number.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Least squares of 2^r for |r| <= ½, weighted until the largest relative error was as small as it gets with the first given.
    const POWERS: [f32; 5] = [std::f32::consts::LN_2, 0.240_222_83, 0.055_505_585, 0.009_669_691, 0.001_330_060_7];
    let x = larger(x, -126.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let mut p = POWERS[4];
    for index in (0..4).rev() {
        p = p.mul_add(r, POWERS[index]);
    }
    times_power_of_two(p.mul_add(r, 1.0), shifted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::by_instructions;

    #[test]
    fn powers_of_two() {
        for i in -12600..=0 {
            let x = i as f32 / 100.0;
            for power in by_instructions(|| exp2(x)) {
                assert!((f64::from(power) / f64::from(x).exp2() - 1.0).abs() < 2e-7, "2^{x}: {power}");
            }
        }
        assert!(exp2(f32::NEG_INFINITY) < 2e-38);
    }
}
