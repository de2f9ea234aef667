//! Attention, to bytes or in floats.

mod floats;
#[cfg(target_arch = "x86_64")]
mod pair_products;
#[cfg(target_arch = "x86_64")]
mod pairs;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use self::pair_products::PairInstructions;
use super::quantization::{Bytes, Deferred, dequantize_row, scale_channels};
use crate::math::{larger, vectorized};

/// What is computed side by side. Where scores are, these are queries, so that the largest and the sum of each are found without a look
/// across lanes; where values are added up, numbers of them.
const LANES: usize = 16;
/// What is computed one after the other with what was read once: keys where scores are, queries where values are added up.
const TOGETHER: usize = 4;
/// Blocks of [`LANES`] queries whose scores are computed at once, or of numbers that are weighted at once, where there are registers for
/// them: [`TOGETHER`] times as many sums, of which few wait for their last product.
const BLOCKS: usize = 2;
/// Query rows of a text that are one task, at least and at most: each task reads and packs all keys and values anew, and keeps what comes
/// out in the caches.
const TASK_ROWS: [usize; 2] = [64, 512];

/// Query rows of a text that are one task, of so many rows on so many threads (0: what ONNX Runtime takes): two tasks a thread, as far
/// as that is not too small. Which ones they are does not matter to what comes out: a multiple of [`LANES`].
pub(super) fn task_rows(rows: usize, threads: usize) -> usize {
    let [least, most] = TASK_ROWS;
    match threads {
        1 => most,
        _ => rows.div_ceil(2 * threads.max(1)).next_multiple_of(LANES).clamp(least, most),
    }
}

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
    floats: floats::Scratch,
    #[cfg(target_arch = "x86_64")]
    pairs: pairs::Scratch,
}

/// Where it goes: `[rows, heads × width]`.
pub(super) enum Out<'a> {
    Bytes(Bytes<'a>),
    Floats(&'a mut [f32]),
}

impl Out<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(out) => out.bytes.len(),
            Self::Floats(out) => out.len(),
        }
    }
}

/// A task.
struct Part<'a, 'b> {
    attention: &'a Attention<'a>,
    text: Products<'a>,
    /// Of the text's rows these are tokens: keys and values.
    length: usize,
    /// Of the text's tokens these are the queries.
    queries: Range<usize>,
    scratch: &'b mut Scratch,
    out: Out<'b>,
}

/// One head of it.
struct Head<'a> {
    attention: &'a Attention<'a>,
    text: Products<'a>,
    length: usize,
    queries: Range<usize>,
    /// Where its numbers begin in those of all heads.
    offset: usize,
}

/// Of what a head has numbers.
#[derive(Clone, Copy)]
enum Of {
    Query,
    Key,
    Value,
}

impl Attention<'_> {
    /// softmax(Q Kᵀ / √width) V for each head (Vaswani et al., arXiv 1706.03762) for the query rows of one text from `first` on, a
    /// multiple of [`LANES`], of which the first `length` rows are its tokens. What stands for no token is 0.
    pub(super) fn attend(&self, text: Products<'_>, length: usize, first: usize, scratch: &mut Scratch, out: Out<'_>) {
        let part = Part::new(self, text, length, first, scratch, out);
        // Elsewhere there are no more products of integers in an instruction than of floats; and only bytes are as coarse.
        #[cfg(target_arch = "x86_64")]
        if let Some(instructions) = PairInstructions::best()
            && length <= pairs::MOST_KEYS
            && matches!(part.out, Out::Bytes(_))
        {
            return instructions.run(part);
        }
        part.by_floats();
    }
}

impl<'a, 'b> Part<'a, 'b> {
    fn new(
        attention: &'a Attention<'a>,
        text: Products<'a>,
        length: usize,
        first: usize,
        scratch: &'b mut Scratch,
        out: Out<'b>,
    ) -> Self {
        let rows = out.len() / (attention.heads * attention.width);
        let queries = first..length.clamp(first, first + rows);
        Self { attention, text, length, queries, scratch, out }
    }

    fn by_floats(self) {
        vectorized(
            #[inline(always)]
            || {
                self.by_heads(
                    #[inline(always)]
                    |head, scratch, context| scratch.floats.attend(head, context),
                );
            },
        );
    }

    /// What `attend` makes of each head.
    #[inline(always)]
    fn by_heads(self, attend: impl Fn(&Head<'_>, &mut Scratch, &mut [f32])) {
        let Self { attention, text, length, queries, scratch, out } = self;
        let hidden = attention.heads * attention.width;
        let mut before_bytes;
        let (context, bytes) = match out {
            Out::Floats(context) => {
                context.fill(0.0);
                (context, None)
            }
            Out::Bytes(bytes) => {
                before_bytes = vec![0.0; bytes.bytes.len()];
                (&mut before_bytes[..], Some(bytes))
            }
        };
        if !queries.is_empty() {
            for offset in (0..hidden).step_by(attention.width) {
                attend(&Head { attention, text, length, queries: queries.clone(), offset }, scratch, context);
            }
        }
        if let Some(mut out) = bytes {
            for (index, row) in context.chunks_exact_mut(hidden).enumerate() {
                scale_channels(row, out.factors);
                out.write(index, row);
            }
        }
    }
}

impl Head<'_> {
    /// What scores are multiplied by before they are exponents of 2: e^x is 2^(x log₂ e).
    fn scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.attention.width as f32).sqrt()
    }

    /// A token's numbers, with their bias.
    #[inline(always)]
    fn token(&self, of: Of, token: usize, out: &mut [f32]) {
        let Attention { heads, width, bias } = *self.attention;
        let column = of as usize * heads * width + self.offset;
        let product = &self.text.rows[token * 3 * heads * width + column..][..width];
        let left = self.text.left.map(|left| left.columns(column, width));
        dequantize_row(out, (product, left, token), &bias[column..][..width], |x| x);
    }

    /// Queries from a token on, [`LANES`] of them or what there is, each `[width]` out of rows of `stride`.
    #[inline(always)]
    fn some_queries(&self, start: usize, stride: usize, out: &mut [f32]) -> usize {
        let count = LANES.min(self.queries.end - start);
        for (lane, query) in out.chunks_exact_mut(stride).take(count).enumerate() {
            self.token(Of::Query, start + lane, &mut query[..self.attention.width]);
        }
        count
    }

    /// Puts into `context` what comes out for some queries from a token on: by `sums`, of some of them and a block of numbers, times the
    /// factor of each.
    #[inline(always)]
    fn put<const BLOCKS: usize>(
        &self,
        context: &mut [f32],
        (start, count): (usize, usize),
        factors: &[f32; LANES],
        sums: impl Fn(usize, usize) -> [[[f32; LANES]; TOGETHER]; BLOCKS],
    ) {
        let Attention { heads, width, .. } = *self.attention;
        for query in (0..count).step_by(TOGETHER) {
            for first in (0..width.div_ceil(LANES)).step_by(BLOCKS) {
                for (block, sums) in (first..width.div_ceil(LANES)).zip(&sums(query, first)) {
                    let used = LANES.min(width - block * LANES);
                    for (query, sums) in (query..count).zip(sums) {
                        let row = start + query - self.queries.start;
                        let place = row * heads * width + self.offset + block * LANES;
                        for (context, sum) in context[place..][..used].iter_mut().zip(sums) {
                            *context = sum * factors[query];
                        }
                    }
                }
            }
        }
    }
}

/// Rows `[LANES, width]`, a row a lane: out `[width, LANES]`, by way of `tile`.
#[inline(always)]
fn transpose<T: Copy>(rows: &[T], tile: &mut [[T; TOGETHER]], out: &mut [[T; LANES]]) {
    let width = out.len();
    // In two steps: of one the compiler makes a store a number.
    for (part, rows) in rows.chunks_exact(TOGETHER * width).enumerate() {
        side_by_side(rows, tile);
        for (out, tile) in out.iter_mut().zip(&*tile) {
            out[part * TOGETHER..][..TOGETHER].copy_from_slice(tile);
        }
    }
}

/// The first rows of `[…, width]`: out `[width, TOGETHER]`.
#[inline(always)]
fn side_by_side<T: Copy>(rows: &[T], out: &mut [[T; TOGETHER]]) {
    let width = out.len();
    let row = |index: usize| &rows[index * width..][..width];
    for ((((out, a), b), c), d) in out.iter_mut().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
        *out = [*a, *b, *c, *d];
    }
}

/// The largest of each lane.
#[inline(always)]
fn largest_by_lane(scores: &[[f32; LANES]]) -> [f32; LANES] {
    // Four at once: one after the other, each would wait for the last.
    let mut of_four = [[f32::NEG_INFINITY; LANES]; 4];
    let (fours, rest) = scores.as_chunks::<4>();
    for four in fours {
        for index in 0..4 {
            for lane in 0..LANES {
                of_four[index][lane] = larger(of_four[index][lane], four[index][lane]);
            }
        }
    }
    let [mut largest, ..] = of_four;
    for scores in of_four[1..].iter().chain(rest) {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], scores[lane]);
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{
        super::quantization::{Quantization, ROW_ZERO_POINT, Scales},
        *,
    };
    use crate::math::tests::by_instructions;

    /// What `attend` writes of a text by floats, and by pairs, which is the same with all instructions that this processor has.
    fn attended<T: PartialEq + std::fmt::Debug>(attend: impl Fn(&dyn Fn(Part<'_, '_>)) -> T) -> Vec<T> {
        let mut ways = vec![attend(&|part| part.by_floats())];
        #[cfg(target_arch = "x86_64")]
        {
            let by_pairs = PairInstructions::all().into_iter();
            let by_pairs: Vec<T> = by_pairs.map(|instructions| attend(&|part| instructions.run(part))).collect();
            assert!(
                by_pairs.windows(2).all(|two| two[0] == two[1]),
                "other bytes with other instructions: {by_pairs:?}"
            );
            ways.extend(by_pairs.into_iter().next());
        }
        ways
    }

    /// What attention gives for a query of a head, of `number`: of a token, of its query (0), key (1) or value (2), the one at a place.
    fn expected(
        (length, width): (usize, usize),
        query: usize,
        number: impl Fn(usize, usize, usize) -> f64,
    ) -> Vec<f64> {
        let score = |key: usize| (0..width).map(|i| number(query, 0, i) * number(key, 1, i)).sum::<f64>();
        let scores: Vec<f64> = (0..length).map(|key| score(key) / (width as f64).sqrt()).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total = weights.iter().sum::<f64>();
        let mean = |index: usize| (0..length).map(|key| weights[key] / total * number(key, 2, index)).sum();
        (0..width).map(mean).collect()
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
            (9, 9, 1, 5),
            (9, 9, 2, 1),
            (40, 33, 1, 64),
            (20, 13, 2, 40),
            // Queries of which two blocks are computed at once, the second one in part.
            (40, 27, 2, 20),
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
            for (left, by_row) in [(None, false), (Some(Deferred { rows: &rows, sums: &sums }), true)] {
                let of_tasks = |task_rows: usize| {
                    attended(|attend| {
                        let (mut out, mut scales) = (vec![0; columns * hidden], vec![[0.0; 2]; columns]);
                        let outs = out.chunks_mut(task_rows * hidden).zip(scales.chunks_mut(task_rows)).enumerate();
                        for (block, (bytes, scales)) in outs {
                            let one = Scales::One(Quantization::new(scale, zero));
                            let scales = if by_row { Scales::ByRow(scales) } else { one };
                            let bytes = Out::Bytes(Bytes { bytes, scales, factors: by_row.then_some(&channels) });
                            let text = Products { rows: &text, left };
                            let mut scratch = scratch.borrow_mut();
                            attend(Part::new(&attention, text, length, block * task_rows, &mut scratch, bytes));
                        }
                        (out, scales)
                    })
                };
                let answers = of_tasks(64);
                assert_eq!(answers, of_tasks(16), "other bytes by other tasks");
                for (bytes, scales) in answers {
                    let number = |token: usize, part: usize, head: usize, index: usize| {
                        let column = part * hidden + head * width + index;
                        let product = text[token * 3 * hidden + column];
                        let product =
                            left.map_or(product, |_| product * rows[token][0] + sums[column] * rows[token][1]);
                        f64::from(product + bias[column])
                    };
                    for (head, query) in (0..heads).flat_map(|head| (0..columns).map(move |query| (head, query))) {
                        let of_head = |token: usize, part: usize, index: usize| number(token, part, head, index);
                        let expected = expected((length, width), query, of_head);
                        for (index, context) in expected.into_iter().enumerate() {
                            let context = if query < length { context } else { 0.0 };
                            let byte = bytes[query * hidden + head * width + index];
                            if by_row {
                                let context = context * f64::from(channels[head * width + index]);
                                let [scale, moved] = scales[query];
                                let back = f64::from((f32::from(byte) - f32::from(ROW_ZERO_POINT)) * scale + moved);
                                assert!(
                                    (back - context).abs() < 0.52 * f64::from(scale),
                                    "{columns} {query}: {back}, not {context}"
                                );
                                continue;
                            }
                            let level = (context / f64::from(scale) + f64::from(zero)).clamp(0.0, 255.0);
                            assert!((level - f64::from(byte)).abs() < 0.53, "{columns} {query}: {byte}, not {level}");
                        }
                    }
                }
            }
        }
    }

    /// The same of floats, with all instructions; texts of no token and of one, of less, as many and more than two blocks of lanes, and
    /// heads of less, as many and more than these.
    #[test]
    fn floats_are_computed_in_64_bits() {
        for (columns, length, heads, width) in
            [(1, 1, 2, 16), (20, 13, 3, 20), (20, 0, 2, 8), (40, 33, 2, 8), (90, 64, 1, 40), (600, 530, 1, 33)]
        {
            let hidden = heads * width;
            let text: Vec<f32> =
                (0..columns * 3 * hidden).map(|index| (index * 7919 % 1000) as f32 / 333.0 - 1.5).collect();
            let bias: Vec<f32> = (0..3 * hidden).map(|index| (index % 7) as f32 / 7.0 - 0.4).collect();
            let attention = Attention { heads, width, bias: &bias };
            let text = Products { rows: &text, left: None };
            let number = |token: usize, part: usize, head: usize, index: usize| {
                let column = part * hidden + head * width + index;
                f64::from(text.rows[token * 3 * hidden + column] + bias[column])
            };
            let of_tasks = |task_rows: usize| {
                // What was there before does not matter.
                let mut out = vec![f32::NAN; columns * hidden];
                for (block, out) in out.chunks_mut(task_rows * hidden).enumerate() {
                    let mut scratch = Scratch::default();
                    attention.attend(text, length, block * task_rows, &mut scratch, Out::Floats(out));
                }
                out
            };
            let all = by_instructions(|| [of_tasks(512), of_tasks(16)]).concat();
            // The first set has multiplications and sums in other places, which are rounded for themselves.
            let is_same = all[2..].windows(2).all(|two| two[0] == two[1]);
            assert!(is_same && all[0] == all[1], "other numbers by other tasks or instructions");
            for out in all {
                assert!(out[length * hidden..].iter().all(|x| *x == 0.0));
                for (head, query) in (0..heads).flat_map(|head| (0..length).map(move |query| (head, query))) {
                    let of_head = |token: usize, part: usize, index: usize| number(token, part, head, index);
                    for (index, expected) in expected((length, width), query, of_head).into_iter().enumerate() {
                        let got = f64::from(out[query * hidden + head * width + index]);
                        assert!((got - expected).abs() < 5e-6, "{columns} {query}: {got}, not {expected}");
                    }
                }
            }
        }
    }

    /// One key has nearly all the weight; what is left for each of the others is less than half a unit of it.
    #[test]
    fn what_many_keys_share_is_not_lost() {
        let (length, width) = (512, 16);
        for below in [9.0f32, 10.5, 12.0, 40.0] {
            let number = |token: usize, part: usize, index: usize| match (part, index, token) {
                (0, 0, _) => 4.0 * below,
                (1, 0, 0) => 1.0,
                (0 | 1, ..) | (2, _, 0) => 0.0,
                _ => 1.0 + (index + token % 7) as f32 / 16.0,
            };
            let text: Vec<f32> = (0..length * 3 * width)
                .map(|at| number(at / (3 * width), at % (3 * width) / width, at % width))
                .collect();
            let bias = vec![0.0; 3 * width];
            let attention = Attention { heads: 1, width, bias: &bias };
            let ways = attended(|attend| {
                let (mut bytes, mut scales) = (vec![0; length * width], vec![[0.0; 2]; length]);
                let out = Bytes { bytes: &mut bytes, scales: Scales::ByRow(&mut scales), factors: None };
                let out = Out::Bytes(out);
                let text = Products { rows: &text, left: None };
                attend(Part::new(&attention, text, length, 0, &mut Scratch::default(), out));
                (bytes, scales)
            });
            let weight = f64::from(-below).exp();
            for (way, (bytes, scales)) in ways.into_iter().enumerate() {
                for (index, byte) in bytes[..width].iter().enumerate() {
                    let sum: f64 = (1..length).map(|token| f64::from(number(token, 2, index))).sum();
                    let expected = sum * weight / (1.0 + weight * (length - 1) as f64);
                    let [scale, moved] = scales[0];
                    let got = f64::from((f32::from(*byte) - f32::from(ROW_ZERO_POINT)) * scale + moved);
                    // A 32nd of a unit of each weight, of values up to 2.4.
                    let most = 0.51 * f64::from(scale) + 511.0 / 32.0 / 16_383.0 * 2.4;
                    assert!((got - expected).abs() < most, "{way}, {below}: {got}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_thread_of_one_has_whole_texts_and_all_of_many_have_tasks() {
        assert_eq!([1, 2, 16].map(|threads| task_rows(512, threads)), [512, 128, 64]);
        let tasks = [(27, 1), (600, 2), (5000, 2), (100, 0)].map(|(rows, threads)| task_rows(rows, threads));
        assert_eq!(tasks, [512, 160, 512, 64]);
    }
}
