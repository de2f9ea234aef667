//! Attention, to bytes.

use super::quantization::{Bytes, Deferred, dequantize_row, scale_channels};
use crate::math::{larger, vectorized};

/// What is computed side by side. Where scores are, these are queries, so that the largest and the sum of each are found without a look
/// across lanes; where values are added up, numbers of them.
const LANES: usize = 16;
/// What is computed one after the other with what was read once: keys where scores are, queries where values are added up.
const TOGETHER: usize = 4;
/// Query rows of a text that are one task: enough that keys and values, which each task packs anew, are read often.
pub(super) const TASK_ROWS: usize = 64;

/// How queries, keys and values of texts lie there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) heads: usize,
    /// Numbers of a head.
    pub(super) width: usize,
    /// What is added to queries, keys and values: `[3 × heads × width]`
    pub(super) bias: &'a [f32],
}

/// Queries, keys and values of a text, as products give them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Products<'a> {
    /// `[rows, 3 × heads × width]`, of which the first rows are the text's tokens.
    pub(super) rows: &'a [f32],
    /// What is left of them, if anything is.
    pub(super) left: Option<Deferred<'a>>,
}

/// Memory for one task, which each head uses again.
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
    /// What comes out of all heads, before it is bytes: `[rows, heads × width]`
    context: Vec<f32>,
}

impl Attention<'_> {
    /// softmax(Q Kᵀ / √width) V for each head (Vaswani et al., arXiv 1706.03762), quantized, for the query rows of one text from
    /// `first` on, of which the first `length` rows are its tokens; `out` is `[rows, heads × width]`. What stands for no token is 0.
    pub(super) fn attend(
        &self,
        text: Products<'_>,
        length: usize,
        first: usize,
        scratch: &mut Scratch,
        mut out: Bytes<'_>,
    ) {
        let hidden = self.heads * self.width;
        let all = out.bytes.len() / hidden;
        let rows = all.min(length.saturating_sub(first));
        scratch.context.clear();
        scratch.context.resize(all * hidden, 0.0);
        vectorized(
            #[inline(always)]
            || {
                if rows > 0 {
                    for head in 0..self.heads {
                        self.head(text, length, first..first + rows, head * self.width, scratch);
                    }
                }
                for (index, row) in scratch.context.chunks_exact_mut(hidden).enumerate() {
                    scale_channels(row, out.factors);
                    out.write(index, row);
                }
            },
        );
    }

    /// One head, whose numbers begin at `offset` in a row.
    #[inline(always)]
    fn head(
        &self,
        text: Products<'_>,
        length: usize,
        rows: std::ops::Range<usize>,
        offset: usize,
        scratch: &mut Scratch,
    ) {
        let (width, hidden) = (self.width, self.heads * self.width);
        let Scratch { keys, values, unpacked, tile, queries, scores, context } = scratch;
        let all_keys = length.next_multiple_of(TOGETHER);
        keys.resize(all_keys * width, 0.0);
        values.resize(width.div_ceil(LANES) * length, [0.0; LANES]);
        unpacked.resize(LANES * width, 0.0);
        tile.resize(width, [0.0; TOGETHER]);
        queries.resize(width, [0.0; LANES]);
        scores.resize(all_keys, [0.0; LANES]);
        for (index, key) in keys.chunks_exact_mut(width).enumerate() {
            self.token(text, index.min(length - 1), hidden + offset, key);
        }
        for token in 0..length {
            let numbers = &mut unpacked[..width];
            self.token(text, token, 2 * hidden + offset, numbers);
            for (block, numbers) in numbers.chunks(LANES).enumerate() {
                values[block * length + token][..numbers.len()].copy_from_slice(numbers);
            }
        }
        // e^x is 2^(x log₂ e).
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        let (first, end) = (rows.start, rows.end);
        for start in rows.step_by(LANES) {
            for (lane, query) in unpacked.chunks_exact_mut(width).take(end - start).enumerate() {
                self.token(text, start + lane, offset, query);
            }
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
            for query in (0..LANES.min(end - start)).step_by(TOGETHER) {
                for (block, values) in values.chunks_exact(length).enumerate() {
                    let sums = weighted_sums(scores, query, values);
                    let used = LANES.min(width - block * LANES);
                    for (query, sums) in (query..end - start).zip(&sums) {
                        let place = (start + query - first) * hidden + offset + block * LANES;
                        for (context, sum) in context[place..][..used].iter_mut().zip(sums) {
                            *context = sum * factors[query];
                        }
                    }
                }
            }
        }
    }

    /// A token's numbers from `column` of its row on, with their bias.
    #[inline(always)]
    fn token(&self, text: Products<'_>, token: usize, column: usize, out: &mut [f32]) {
        let width = self.width;
        let product = &text.rows[token * 3 * self.heads * width + column..][..width];
        let left = text.left.map(|left| left.columns(column, width));
        dequantize_row(out, (product, left, token), &self.bias[column..][..width], |x| x);
    }
}

/// Rows `[LANES, width]`, a row a lane: out `[width, LANES]`, by way of `tile`.
#[inline(always)]
fn transpose(rows: &[f32], tile: &mut [[f32; TOGETHER]], out: &mut [[f32; LANES]]) {
    let width = out.len();
    // In two steps: of one the compiler makes a store a number.
    for (part, rows) in rows.chunks_exact(TOGETHER * width).enumerate() {
        let row = |index: usize| &rows[index * width..][..width];
        for ((((tile, a), b), c), d) in tile.iter_mut().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
            *tile = [*a, *b, *c, *d];
        }
        for (out, tile) in out.iter_mut().zip(&*tile) {
            out[part * TOGETHER..][..TOGETHER].copy_from_slice(tile);
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

/// The largest of each lane.
#[inline(always)]
fn largest_by_lane(scores: &[[f32; LANES]]) -> [f32; LANES] {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for scores in scores {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], scores[lane]);
        }
    }
    largest
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
    // Adding 1.5 × 2^23 rounds to the nearest integer, and leaves that integer in the low bits: 2^n by moving it to the exponent.
    const ROUND: f32 = 12_582_912.0;
    // Least squares of 2^r for |r| <= ½, weighted until the largest relative error was as small as it gets with the first given.
    const POWERS: [f32; 5] = [std::f32::consts::LN_2, 0.240_222_83, 0.055_505_585, 0.009_669_691, 0.001_330_060_7];
    let x = larger(x, -126.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let mut p = POWERS[4];
    for index in (0..4).rev() {
        p = p.mul_add(r, POWERS[index]);
    }
    let p = p.mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{
        super::quantization::{Quantization, ROW_ZERO_POINT, Scales},
        *,
    };
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

    /// Texts of no token and of one, of less, as many and more than the lanes, and of more than a task's rows, of which one may have no
    /// token; heads of less, as many and more than the lanes. What a text has left in memory does not matter to the next.
    #[test]
    fn computed_in_64_bits() {
        let shapes = [
            (90, 70, 1, 32),
            (1, 1, 2, 16),
            (20, 13, 3, 20),
            (20, 0, 2, 8),
            (40, 33, 2, 8),
            (64, 64, 1, 16),
            (90, 64, 1, 20),
        ];
        let scratch = RefCell::new(Scratch::default());
        for (columns, length, heads, width) in shapes {
            let hidden = heads * width;
            let value = |index: usize| ((index * 7919 % 1000) as f32 / 500.0 - 1.0) * 1.5;
            let text: Vec<f32> = (0..columns * 3 * hidden).map(value).collect();
            let (scale, zero) = (0.01, 120);
            let bias: Vec<f32> = (0..3 * hidden).map(|index| (index % 7) as f32 / 7.0 - 0.4).collect();
            let attention = Attention { heads, width, bias: &bias };
            let rows: Vec<[f32; 2]> =
                (0..columns).map(|row| [0.5 + (row % 5) as f32 / 5.0, row as f32 / 100.0]).collect();
            let sums: Vec<f32> = (0..3 * hidden).map(|index| (index % 11) as f32 / 11.0 - 0.5).collect();
            let channels: Vec<f32> = (0..hidden).map(|index| 0.5 + (index % 3) as f32).collect();
            // By one scale, and by rows' own, of products of which something is left.
            let attended = |left: Option<Deferred<'_>>, by_row: bool| {
                let attended = by_instructions(|| {
                    let (mut out, mut scales) = (vec![0; columns * hidden], vec![[0.0; 2]; columns]);
                    let outs = out.chunks_mut(TASK_ROWS * hidden).zip(scales.chunks_mut(TASK_ROWS)).enumerate();
                    for (block, (bytes, scales)) in outs {
                        let one = Scales::One(Quantization::new(scale, zero));
                        let scales = if by_row { Scales::ByRow(scales) } else { one };
                        let (bytes, text) = (
                            Bytes { bytes, scales, factors: by_row.then_some(&channels) },
                            Products { rows: &text, left },
                        );
                        attention.attend(text, length, block * TASK_ROWS, &mut scratch.borrow_mut(), bytes);
                    }
                    (out, scales)
                });
                assert!(attended.windows(2).all(|two| two[0] == two[1]), "other bytes with other instructions");
                attended.into_iter().next().unwrap()
            };
            for (left, by_row) in [(None, false), (Some(Deferred { rows: &rows, sums: &sums }), true)] {
                let (bytes, scales) = attended(left, by_row);
                let number = |token: usize, part: usize, head: usize, index: usize| {
                    let column = part * hidden + head * width + index;
                    let product = text[token * 3 * hidden + column];
                    let product = left.map_or(product, |_| product * rows[token][0] + sums[column] * rows[token][1]);
                    f64::from(product + bias[column])
                };
                for (head, query) in (0..heads).flat_map(|head| (0..columns).map(move |query| (head, query))) {
                    let score = |key: usize| {
                        (0..width).map(|i| number(query, 0, head, i) * number(key, 1, head, i)).sum::<f64>()
                    };
                    let weights: Vec<f64> = (0..length).map(|key| (score(key) / (width as f64).sqrt()).exp()).collect();
                    let total = weights.iter().sum::<f64>();
                    for index in 0..width {
                        let mean = |key: usize| weights[key] / total * number(key, 2, head, index);
                        let context = if query < length { (0..length).map(mean).sum() } else { 0.0 };
                        let byte = bytes[query * hidden + head * width + index];
                        if by_row {
                            let context = context * f64::from(channels[head * width + index]);
                            let [scale, moved] = scales[query];
                            let back = f64::from((f32::from(byte) - f32::from(ROW_ZERO_POINT)) * scale + moved);
                            assert!(
                                (back - context).abs() < 0.51 * f64::from(scale),
                                "{columns} {query}: {back}, not {context}"
                            );
                            continue;
                        }
                        let level = (context / f64::from(scale) + f64::from(zero)).clamp(0.0, 255.0);
                        assert!((level - f64::from(byte)).abs() < 0.505, "{columns} {query}: {byte}, not {level}");
                    }
                }
            }
        }
    }
}
