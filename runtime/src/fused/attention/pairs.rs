//! Attention by products of integers: queries, keys, values and the weights of these are 16 bits each, by one scale for the keys of a
//! head, one for its values, and one for each [`LANES`] of its queries. What comes of it becomes bytes, which are coarser; and all
//! instructions make the same of it.

use super::{
    BLOCKS, Head, LANES, Of, Part, TOGETHER, largest_by_lane,
    pair_products::{PairProducts, Task, pair},
    transpose,
};
use crate::math::{ROUND, halved, larger};

/// The largest weight, of the most probable key.
const MOST_WEIGHT: f32 = 16_383.0;
/// The largest value.
const MOST_VALUE: f32 = 4_095.0;
/// So many pairs of products of these fit into a sum of 32 bits.
const EXACT_PAIRS: usize = 16;
/// What is added to the weight of each key in turn before the fraction is cut off: a regular sample of numbers from 0 to 1, in the order
/// in which their binary digits are reversed (van der Corput). Beside a key that nearly all the weight goes to there may be hundreds of
/// keys with less than half a unit each, and together a percent: if each were rounded to the nearest integer nothing would be left of them.
const DITHER: [f32; 16] = {
    let mut dither = [0.0; 16];
    let mut index = 0;
    while index < 16 {
        dither[index] = ((index as u8).reverse_bits() >> 4) as f32 / 16.0 + 1.0 / 32.0;
        index += 1;
    }
    dither
};
/// Of so many keys less than two percent of the weight can be lost, if each has just less than the last part of [`DITHER`].
pub(super) const MOST_KEYS: usize = 1 << 13;

/// Memory that each head uses again. A pair is of two numbers of a token, or of one number of two tokens: there is always a second one,
/// if need be a 0.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Keys, values or some queries, a row a token: `[tokens, 2 × pairs]`
    numbers: Vec<f32>,
    /// Up to a multiple of [`TOGETHER`], behind the last one of any: `[keys, pairs]`
    keys: Vec<u32>,
    /// So many numbers side by side: `[blocks of numbers, pairs of keys, LANES]`. What stands behind a head's numbers is not used.
    values: Vec<[u32; LANES]>,
    /// Some queries: `[LANES, pairs]`. Where there are fewer others stand behind them, which are computed for nothing.
    unpacked: Vec<u32>,
    /// On their way to be columns: `[pairs, TOGETHER]`
    tile: Vec<[u32; TOGETHER]>,
    /// Side by side: `[blocks of queries, pairs, LANES]`
    queries: Vec<[u32; LANES]>,
    /// Of these queries: `[blocks of queries, keys, LANES]`
    scores: Vec<[f32; LANES]>,
    /// e to their power: `[pairs of keys, LANES]`
    weights: Vec<[u32; LANES]>,
}

impl Task for Part<'_, '_> {
    #[inline(always)]
    fn run(self, products: impl PairProducts) {
        self.by_heads(
            #[inline(always)]
            |head, scratch, context| scratch.pairs.attend(products, head, context),
        );
    }
}

impl Scratch {
    /// One head, into `context` `[queries, heads × width]`.
    #[inline(always)]
    fn attend<P: PairProducts>(&mut self, products: P, head: &Head<'_>, context: &mut [f32]) {
        let (width, length) = (head.attention.width, head.length);
        let (pairs, key_pairs) = (width.div_ceil(2), length.div_ceil(2));
        let (stride, all_keys) = (2 * pairs, length.next_multiple_of(TOGETHER));
        let Self { numbers, keys, values, unpacked, tile, queries, scores, weights } = self;
        // What makes the number of tokens, and that of their numbers, even stays 0.
        numbers.clear();
        numbers.resize((2 * key_pairs).max(LANES) * stride, 0.0);
        keys.resize(all_keys * pairs, 0);
        values.resize(stride.div_ceil(LANES).next_multiple_of(BLOCKS) * key_pairs, [0; LANES]);
        unpacked.resize(LANES * pairs, 0);
        tile.resize(pairs, [0; TOGETHER]);
        queries.resize(BLOCKS * pairs, [0; LANES]);
        scores.resize(BLOCKS * all_keys, [0.0; LANES]);
        weights.resize(key_pairs, [0; LANES]);
        let most = most(stride);
        let of_text = &mut numbers[..length * stride];
        for (token, key) in of_text.chunks_exact_mut(stride).enumerate() {
            head.token(Of::Key, token, &mut key[..width]);
        }
        let key_scale = scale(of_text, most);
        pair_up_halves(of_text, key_scale, pairs, keys);
        for (token, value) in of_text.chunks_exact_mut(stride).enumerate() {
            head.token(Of::Value, token, &mut value[..width]);
        }
        let value_scale = scale(of_text, MOST_VALUE);
        for (index, two) in numbers[..2 * key_pairs * stride].chunks_exact(2 * stride).enumerate() {
            let (first, second) = two.split_at(stride);
            for (block, (first, second)) in first.chunks(LANES).zip(second.chunks(LANES)).enumerate() {
                pair_up(first, second, value_scale, &mut values[block * key_pairs + index]);
            }
        }
        let at_once = if P::HAS_MANY_REGISTERS { BLOCKS } else { 1 };
        for start in head.queries.clone().step_by(at_once * LANES) {
            let (mut scales, mut counts) = ([0.0; BLOCKS], [0; BLOCKS]);
            let starts = (start..head.queries.end).step_by(LANES).take(at_once);
            let blocks = starts.len();
            for (block, start) in starts.clone().enumerate() {
                counts[block] = head.some_queries(start, stride, numbers);
                let some = &numbers[..counts[block] * stride];
                scales[block] = scale(some, most);
                pair_up_halves(some, scales[block], pairs, unpacked);
                transpose(unpacked, tile, &mut queries[block * pairs..][..pairs]);
            }
            let (one, other) = queries.split_at(pairs);
            let (of_one, of_other) = scores.split_at_mut(all_keys);
            products.apart(
                #[inline(always)]
                || {
                    if blocks == BLOCKS {
                        multiply(products, keys, [one, other], [of_one, of_other]);
                    } else {
                        multiply(products, keys, [one], [of_one]);
                    }
                },
            );
            for (block, start) in starts.enumerate() {
                let scores = &scores[block * all_keys..][..length];
                let scale = scales[block] * key_scale * head.scale();
                let sums = products.apart(
                    #[inline(always)]
                    || exponentiate(products, scores, scale, weights),
                );
                let mut factors = [value_scale; LANES];
                for lane in 0..LANES {
                    factors[lane] /= sums[lane];
                }
                head.put(
                    context,
                    (start, counts[block]),
                    &factors,
                    #[inline(always)]
                    |query, block| {
                        let of = |block: usize| &values[block * key_pairs..][..key_pairs];
                        let [lower, upper] = [of(block), of(block + 1)];
                        if P::HAS_MANY_REGISTERS {
                            weighted_sums(products, weights, query, [lower, upper])
                        } else {
                            let [lower] = weighted_sums(products, weights, query, [lower]);
                            let [upper] = weighted_sums(products, weights, query, [upper]);
                            [lower, upper]
                        }
                    },
                );
            }
        }
    }
}

/// The largest number of a query or a key: so large that products of `width` of them fit into a sum of 32 bits.
fn most(width: usize) -> f32 {
    (2_f32.powi(31) / width as f32).sqrt().min(32_768.0).floor() - 1.0
}

/// That by which the largest of the numbers becomes `most`.
#[inline(always)]
fn scale(numbers: &[f32], most: f32) -> f32 {
    let mut largest = [0.0f32; LANES];
    let (blocks, rest) = numbers.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            largest[lane] = larger(block[lane].abs(), largest[lane]);
        }
    }
    let largest = rest.iter().fold(halved(largest, larger), |largest, x| larger(x.abs(), largest));
    // Not so small that there is no inverse.
    largest.max(1e-30) / most
}

/// x / scale, rounded, in the lower bits.
#[inline(always)]
fn integer(x: f32, inverse_scale: f32) -> u32 {
    x.mul_add(inverse_scale, ROUND).to_bits()
}

/// Tokens `[tokens, 2 × pairs]` as `[tokens, pairs]`: the numbers of the first half with those of the second.
#[inline(always)]
fn pair_up_halves(numbers: &[f32], scale: f32, pairs: usize, out: &mut [u32]) {
    for (numbers, out) in numbers.chunks_exact(2 * pairs).zip(out.chunks_exact_mut(pairs)) {
        let (lower, upper) = numbers.split_at(pairs);
        pair_up(lower, upper, scale, out);
    }
}

#[inline(always)]
fn pair_up(lower: &[f32], upper: &[f32], scale: f32, out: &mut [u32]) {
    let inverse = 1.0 / scale;
    for ((out, lower), upper) in out.iter_mut().zip(lower).zip(upper) {
        *out = pair(integer(*lower, inverse), integer(*upper, inverse));
    }
}

/// Scores of some blocks of queries, each `[pairs, LANES]`, with keys `[keys, pairs]`: of each block `[keys, LANES]`.
#[inline(always)]
fn multiply<P: PairProducts, const BLOCKS: usize>(
    products: P,
    keys: &[u32],
    queries: [&[[u32; LANES]]; BLOCKS],
    scores: [&mut [[f32; LANES]]; BLOCKS],
) {
    let pairs = queries[0].len();
    for (index, keys) in keys.chunks_exact(TOGETHER * pairs).enumerate() {
        let key = |index: usize| &keys[index * pairs..][..pairs];
        let mut sums = [[products.zero(); TOGETHER]; BLOCKS];
        for ((((pair, a), b), c), d) in key(0).iter().enumerate().zip(key(1)).zip(key(2)).zip(key(3)) {
            for block in 0..BLOCKS {
                let queries = &queries[block][pair];
                sums[block][0] = products.add(sums[block][0], *a, queries);
                sums[block][1] = products.add(sums[block][1], *b, queries);
                sums[block][2] = products.add(sums[block][2], *c, queries);
                sums[block][3] = products.add(sums[block][3], *d, queries);
            }
        }
        for block in 0..BLOCKS {
            for key in 0..TOGETHER {
                scores[block][index * TOGETHER + key] = products.floats(sums[block][key]);
            }
        }
    }
}

/// Weights `[pairs of keys, LANES]` of keys with these scores `[keys, LANES]`: 2^(score × scale), of a lane's largest score
/// [`MOST_WEIGHT`]; and their sums.
#[inline(always)]
fn exponentiate<P: PairProducts>(
    products: P,
    scores: &[[f32; LANES]],
    scale: f32,
    weights: &mut [[u32; LANES]],
) -> [f32; LANES] {
    let largest = &largest_by_lane(scores);
    let (two, last) = scores.as_chunks::<2>();
    let dither = |key: usize| DITHER[key % DITHER.len()];
    for (index, (weights, [first, second])) in weights.iter_mut().zip(two).enumerate() {
        let first = weights_of(products, first, largest, scale, dither(2 * index));
        let second = weights_of(products, second, largest, scale, dither(2 * index + 1));
        for lane in 0..LANES {
            weights[lane] = pair(first[lane], second[lane]);
        }
    }
    for (weights, first) in weights[two.len()..].iter_mut().zip(last) {
        let first = weights_of(products, first, largest, scale, dither(2 * two.len()));
        for lane in 0..LANES {
            weights[lane] = pair(first[lane], 0);
        }
    }
    let mut sums = products.zero();
    for weights in &*weights {
        sums = products.add(sums, pair(1, 1), weights);
    }
    products.floats(sums)
}

/// Those of one key, in the lower bits, cut off after the sum with `dither`.
#[inline(always)]
fn weights_of<P: PairProducts>(
    products: P,
    scores: &[f32; LANES],
    largest: &[f32; LANES],
    scale: f32,
    dither: f32,
) -> [u32; LANES] {
    // 2^r for r from 0 to 1 with a relative error below 3e-6, by least squares, weighted until the largest was as small as it gets.
    const POWERS: [f32; 5] = [1.000_002_6, 0.693_003_83, 0.241_442_75, 0.052_011_46, 0.013_534_168];
    let (mut powers, mut whole, mut weights) = ([0.0; LANES], [0.0; LANES], [0; LANES]);
    for lane in 0..LANES {
        let x = (scores[lane] - largest[lane]) * scale;
        whole[lane] = x.floor();
        let r = x - whole[lane];
        let mut p = POWERS[4];
        for index in (0..4).rev() {
            p = p.mul_add(r, POWERS[index]);
        }
        powers[lane] = p;
    }
    let powers = products.scaled(powers, &whole);
    for lane in 0..LANES {
        // To round is to cut off after the sum with a half.
        weights[lane] = (powers[lane].mul_add(MOST_WEIGHT, dither - 0.5) + ROUND).to_bits();
    }
    weights
}

/// Values of some blocks, each `[pairs of keys, LANES]`, times what each of the queries from `first` on has in weights
/// `[pairs of keys, LANES]`, added up: `[blocks, TOGETHER, LANES]`.
#[inline(always)]
fn weighted_sums<P: PairProducts, const BLOCKS: usize>(
    products: P,
    weights: &[[u32; LANES]],
    first: usize,
    values: [&[[u32; LANES]]; BLOCKS],
) -> [[[f32; LANES]; TOGETHER]; BLOCKS] {
    let mut total = [[[0.0f32; LANES]; TOGETHER]; BLOCKS];
    let mut start = 0;
    // Not `as_chunks`: of sixteen products without a loop the compiler makes a tree of other instructions.
    for weights in weights.chunks(EXACT_PAIRS) {
        let mut of_blocks = [&[][..]; BLOCKS];
        for block in 0..BLOCKS {
            of_blocks[block] = &values[block][start..][..weights.len()];
        }
        let mut sums = [[products.zero(); TOGETHER]; BLOCKS];
        for (index, weights) in weights.iter().enumerate() {
            let weights = &weights[first..][..TOGETHER];
            for block in 0..BLOCKS {
                let values = &of_blocks[block][index];
                sums[block][0] = products.add(sums[block][0], weights[0], values);
                sums[block][1] = products.add(sums[block][1], weights[1], values);
                sums[block][2] = products.add(sums[block][2], weights[2], values);
                sums[block][3] = products.add(sums[block][3], weights[3], values);
            }
        }
        for block in 0..BLOCKS {
            for query in 0..TOGETHER {
                let sums = products.floats(sums[block][query]);
                for lane in 0..LANES {
                    total[block][query][lane] += sums[lane];
                }
            }
        }
        start += weights.len();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sum_of_32_bits_is_too_large() {
        for width in [1, 2, 20, 32, 64, 129, 1024] {
            let most = f64::from(most(width));
            assert!(most >= 1000.0 && most * most * width as f64 <= f64::from(i32::MAX), "{width}: {most}");
        }
        let most_weight = f64::from(MOST_WEIGHT) + 1.0;
        assert!(2.0 * EXACT_PAIRS as f64 * most_weight * f64::from(MOST_VALUE) <= f64::from(i32::MAX));
        assert!(MOST_KEYS as f64 * most_weight <= f64::from(i32::MAX));
    }

    #[test]
    fn dither_is_a_regular_sample() {
        let mut sorted = DITHER;
        sorted.sort_unstable_by(f32::total_cmp);
        assert!(sorted.iter().enumerate().all(|(index, at)| *at == (index as f32 + 0.5) / 16.0), "{sorted:?}");
        assert_eq!(DITHER[..4], [0.03125, 0.53125, 0.28125, 0.78125]);
    }
}
