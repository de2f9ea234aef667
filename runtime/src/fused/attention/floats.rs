//! Attention in floats.

use super::{BLOCKS, Head, LANES, Of, TOGETHER, largest_by_lane, side_by_side, transpose};
use crate::math::{ROUND, has_many_registers, larger, times_power_of_two, vectorized};

/// Memory that each head uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Keys of a head, up to a multiple of [`TOGETHER`] with the last one again, so many side by side: `[blocks of keys, width, TOGETHER]`
    keys: Vec<[f32; TOGETHER]>,
    /// Values of a head, so many numbers side by side: `[blocks of numbers, keys, LANES]`. What stands behind a head's numbers is not used.
    values: Vec<[f32; LANES]>,
    /// A value, or some queries, a row each: `[LANES, width]`. Where there are fewer queries others stand behind them, which are computed
    /// for nothing.
    unpacked: Vec<f32>,
    /// Some queries on their way to be columns: `[width, TOGETHER]`
    tile: Vec<[f32; TOGETHER]>,
    /// Queries side by side: `[blocks of queries, width, LANES]`
    queries: Vec<[f32; LANES]>,
    /// Of these queries, and then e to their power: `[blocks of queries, keys, LANES]`
    scores: Vec<[f32; LANES]>,
}

impl Scratch {
    /// One head, into `context` `[queries, heads × width]`.
    #[inline(always)]
    pub(super) fn attend(&mut self, head: &Head<'_>, context: &mut [f32]) {
        let (width, length) = (head.attention.width, head.length);
        let Self { keys, values, unpacked, tile, queries, scores } = self;
        let all_keys = length.next_multiple_of(TOGETHER);
        keys.resize(all_keys / TOGETHER * width, [0.0; TOGETHER]);
        values.resize(width.div_ceil(LANES).next_multiple_of(BLOCKS) * length, [0.0; LANES]);
        unpacked.resize(LANES * width, 0.0);
        tile.resize(width, [0.0; TOGETHER]);
        queries.resize(BLOCKS * width, [0.0; LANES]);
        scores.resize(BLOCKS * all_keys, [0.0; LANES]);
        for (block, keys) in keys.chunks_exact_mut(width).enumerate() {
            for (index, key) in unpacked.chunks_exact_mut(width).take(TOGETHER).enumerate() {
                head.token(Of::Key, (block * TOGETHER + index).min(length - 1), key);
            }
            side_by_side(unpacked, keys);
        }
        for token in 0..length {
            let numbers = &mut unpacked[..width];
            head.token(Of::Value, token, numbers);
            for (block, numbers) in numbers.chunks(LANES).enumerate() {
                values[block * length + token][..numbers.len()].copy_from_slice(numbers);
            }
        }
        let scale = head.scale();
        let has_many_registers = has_many_registers();
        let at_once = if has_many_registers { BLOCKS } else { 1 };
        for start in head.queries.clone().step_by(at_once * LANES) {
            let mut counts = [0; BLOCKS];
            let starts = (start..head.queries.end).step_by(LANES).take(at_once);
            let blocks = starts.len();
            for (block, start) in starts.clone().enumerate() {
                counts[block] = head.some_queries(start, width, unpacked);
                transpose(unpacked, tile, &mut queries[block * width..][..width]);
            }
            let (one, other) = queries.split_at(width);
            let (of_one, of_other) = scores.split_at_mut(all_keys);
            vectorized(
                #[inline(always)]
                || {
                    let keys = keys.chunks_exact(width);
                    let of_keys = of_one.as_chunks_mut().0.iter_mut().zip(of_other.as_chunks_mut().0);
                    if blocks == BLOCKS {
                        for (keys, (of_one, of_other)) in keys.zip(of_keys) {
                            [*of_one, *of_other] = multiply_two(keys, [one, other]);
                        }
                    } else {
                        for (keys, (of_one, _)) in keys.zip(of_keys) {
                            *of_one = multiply(keys, one);
                        }
                    }
                },
            );
            for (block, start) in starts.enumerate() {
                let scores = &mut scores[block * all_keys..][..length];
                let factors = vectorized(
                    #[inline(always)]
                    || exponentiate(scores, scale),
                );
                let at = (start, counts[block]);
                let (scores, values) = (&*scores, &*values);
                let values = |block: usize| &values[block * length..][..length];
                let weights = |query: usize| scores.iter().map(move |scores| some(scores, query));
                if has_many_registers {
                    head.put(
                        context,
                        at,
                        &factors,
                        #[inline(always)]
                        |query, block| multiply_two(weights(query), [values(block), values(block + 1)]),
                    );
                } else {
                    head.put(
                        context,
                        at,
                        &factors,
                        #[inline(always)]
                        |query, block| [multiply(weights(query), values(block))],
                    );
                }
            }
        }
    }
}

/// Makes 2^(score × scale) of scores `[keys, LANES]`, of a lane's largest one 1; gives the inverse of a lane's sum.
#[inline(always)]
fn exponentiate(scores: &mut [[f32; LANES]], scale: f32) -> [f32; LANES] {
    // One pass after the other: of two in one the compiler keeps lanes in memory, or shuffles them.
    let largest = largest_by_lane(scores);
    for scores in &mut *scores {
        for lane in 0..LANES {
            scores[lane] = exp2((scores[lane] - largest[lane]) * scale);
        }
    }
    inverse_sums(scores)
}

/// Rows, [`TOGETHER`] side by side, times columns: `[n, TOGETHER]` by `[n, LANES]`.
#[inline(always)]
fn multiply<'a>(
    rows: impl IntoIterator<Item = &'a [f32; TOGETHER]>,
    columns: &[[f32; LANES]],
) -> [[f32; LANES]; TOGETHER] {
    let mut sums = [[0.0f32; LANES]; TOGETHER];
    for (rows, column) in rows.into_iter().zip(columns) {
        add(&mut sums, rows, column);
    }
    sums
}

/// The same by two blocks of columns.
#[inline(always)]
fn multiply_two<'a>(
    rows: impl IntoIterator<Item = &'a [f32; TOGETHER]>,
    [one, other]: [&[[f32; LANES]]; 2],
) -> [[[f32; LANES]; TOGETHER]; 2] {
    // Two names: of a loop over blocks, or an array of them, the compiler keeps the sums in memory.
    let (mut of_one, mut of_other) = ([[0.0f32; LANES]; TOGETHER], [[0.0f32; LANES]; TOGETHER]);
    for ((rows, one), other) in rows.into_iter().zip(one).zip(other) {
        add(&mut of_one, rows, one);
        add(&mut of_other, rows, other);
    }
    [of_one, of_other]
}

/// Those of some queries from one on.
#[inline(always)]
fn some(lanes: &[f32; LANES], first: usize) -> &[f32; TOGETHER] {
    lanes[first..].first_chunk().expect("a multiple")
}

#[inline(always)]
fn add(sums: &mut [[f32; LANES]; TOGETHER], factors: &[f32; TOGETHER], numbers: &[f32; LANES]) {
    #[inline(always)]
    fn add_one(sums: &mut [f32; LANES], factor: f32, numbers: &[f32; LANES]) {
        for lane in 0..LANES {
            sums[lane] = factor.mul_add(numbers[lane], sums[lane]);
        }
    }
    // One by one: of a loop the compiler would make one over lanes, with sums side by side.
    add_one(&mut sums[0], factors[0], numbers);
    add_one(&mut sums[1], factors[1], numbers);
    add_one(&mut sums[2], factors[2], numbers);
    add_one(&mut sums[3], factors[3], numbers);
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
    // Of what is no number, the second is taken: no attention follows from it, as from ONNX Runtime's.
    let x = larger(-126.0, x);
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
        // No attention follows from it.
        by_instructions(|| exp2(f32::NAN)).into_iter().for_each(|power| assert!(power.is_nan()));
    }
}
