//! Weights rounded by what it does to their products: an input's error is made up for by the inputs that are rounded behind it, as
//! far as they vary together (Frantar et al., "GPTQ", arXiv 2210.17323; as nearest plane: Chen et al., arXiv 2507.18553).
//!
//! Of a column w, its integers q with the scale s and the covariance C of the inputs, it makes (w − s q)ᵀ C (w − s q) small, which is
//! the variance of what rounding adds to a product; its mean is the bias's to make up for. With C = RᵀR, R an upper triangle, that is
//! |R (w − s q)|², whose terms are made small one by one, from the last on. Then each integer is chosen again, for what all others have
//! lost, the ones before it too (coordinate descent; Behdin et al., "QuantEase", arXiv 2309.01885).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use crate::ops::matmul::{Matrix, Threads, matmul};

/// Inputs whose part in the others' is computed at once.
const BLOCK: usize = 64;
/// Tokens whose products are summed at once.
const PENDING: usize = 256;
/// What is added to each input's variance, as a share of their mean: of few texts the covariance is not known exactly.
const DAMPING: f32 = 0.01;
/// How often every integer is chosen again: of a MiniLM the first time makes the variance up to 4 % less, the second 1.5 %, all further
/// ones 1 %.
const REFINEMENTS: usize = 2;

/// How a product's inputs vary together.
#[derive(Debug)]
pub struct Covariance {
    /// The inputs, those that vary least first: those that vary most are rounded first, and made up for by all others.
    order: Vec<usize>,
    /// R of the inputs in that order, each row divided by what it has on the diagonal; below that, C: `[inputs, inputs]`
    factor: Vec<f32>,
    /// C's diagonal.
    variances: Vec<f32>,
    /// Integers by a digest of what they were found of: a graph is built several times, each time of the same ones.
    found: Mutex<HashMap<[u8; 32], Vec<i8>>>,
}

/// Inputs as they are seen, token by token.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    tokens: usize,
    sums: Vec<f64>,
    /// Of products of inputs: `[inputs, inputs]`
    products: Vec<f32>,
    /// Tokens that are not in the products yet: many at once cost less.
    pending: Vec<f32>,
}

impl Moments {
    pub(crate) fn of(inputs: usize) -> Self {
        Self { tokens: 0, sums: vec![0.0; inputs], products: vec![0.0; inputs * inputs], pending: Vec::new() }
    }

    /// Takes `[tokens, inputs]`.
    pub(crate) fn add(&mut self, tokens: &[f32]) {
        let inputs = self.sums.len();
        for token in tokens.chunks_exact(inputs) {
            self.sums.iter_mut().zip(token).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        self.tokens += tokens.len() / inputs;
        self.pending.extend_from_slice(tokens);
        if self.pending.len() >= PENDING * inputs {
            self.multiply();
        }
    }

    /// How many it has taken.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    fn multiply(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let inputs = self.sums.len();
        let pending = Matrix::new(&self.pending, self.pending.len() / inputs, inputs, inputs);
        matmul(pending.t(), pending, 1.0, &mut self.products, inputs, true, Threads::All);
        self.pending.clear();
    }

    /// None where inputs do not vary, or nothing was seen of them.
    pub(crate) fn covariance(mut self) -> Option<Covariance> {
        self.multiply();
        let inputs = self.sums.len();
        let means: Vec<f64> = self.sums.iter().map(|sum| sum / self.tokens.max(1) as f64).collect();
        let product = |a: usize, b: usize| f64::from(self.products[a * inputs + b]) / self.tokens.max(1) as f64;
        let of = |a: usize, b: usize| (product(a, b) - means[a] * means[b]) as f32;
        Covariance::new(inputs, of)
    }
}

impl Covariance {
    /// From that of each two inputs.
    fn new(inputs: usize, of: impl Fn(usize, usize) -> f32) -> Option<Self> {
        let mut order: Vec<usize> = (0..inputs).collect();
        order.sort_by(|&a, &b| of(a, a).total_cmp(&of(b, b)));
        let mean = order.iter().map(|&input| of(input, input).max(0.0)).sum::<f32>() / inputs as f32;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        // In 32 bits a matrix may seem to have none.
        for damping in [DAMPING, 10.0 * DAMPING, 100.0 * DAMPING] {
            let damped = |a: usize, b: usize| of(a, b) + if a == b { damping * mean } else { 0.0 };
            let mut factor: Vec<f32> =
                order.iter().flat_map(|&a| order.iter().map(move |&b| (a, b))).map(|(a, b)| damped(a, b)).collect();
            if factorize(&mut factor, inputs) {
                for (place, row) in factor.chunks_exact_mut(inputs).enumerate() {
                    let share = 1.0 / row[place];
                    row[place..].iter_mut().for_each(|x| *x *= share);
                    row[..place].iter_mut().zip(&order).for_each(|(x, &before)| *x = of(order[place], before));
                }
                let variances = order.iter().map(|&input| damped(input, input)).collect();
                return Some(Self { order, factor, variances, found: Mutex::default() });
            }
        }
        None
    }

    /// The integers of a weight `[inputs, columns]`, at most `max` from 0, whose columns have these scales.
    pub(super) fn rounded(&self, weight: &[f32], scales: &[f32], max: f32) -> Vec<i8> {
        let mut digest = Sha256::new();
        for values in [weight, scales, &[max]] {
            digest.update(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        }
        let key = digest.finalize().into();
        let found = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(integers) = found().get(&key) {
            return integers.clone();
        }
        let (mut integers, mut lost) = self.one_by_one(weight, scales, max);
        for _ in 0..REFINEMENTS {
            self.refine(weight, scales, max, (&mut integers, &mut lost));
        }
        found().insert(key, integers.clone());
        integers
    }

    /// The integers, each as it is best for those that were rounded before it; and what each weight has lost, in order.
    fn one_by_one(&self, weight: &[f32], scales: &[f32], max: f32) -> (Vec<i8>, Vec<f32>) {
        let (inputs, columns) = (self.order.len(), scales.len());
        let row_of = |place: usize| &weight[self.order[place] * columns..][..columns];
        let mut integers = vec![0; weight.len()];
        let mut lost = vec![0.0; weight.len()];
        for start in (0..inputs).step_by(BLOCK).rev() {
            let end = inputs.min(start + BLOCK);
            let mut wanted: Vec<f32> = (start..end).flat_map(row_of).copied().collect();
            if end < inputs {
                let factor = Matrix::new(&self.factor[start * inputs + end..], end - start, inputs - end, inputs);
                let behind = Matrix::new(&lost[end * columns..], inputs - end, columns, columns);
                matmul(factor, behind, 1.0, &mut wanted, columns, true, Threads::All);
            }
            for place in (start..end).rev() {
                let wanted = &mut wanted[(place - start) * columns..][..columns];
                let (before, behind) = lost.split_at_mut((place + 1) * columns);
                for (next, lost) in (place + 1..end).zip(behind.chunks_exact(columns)) {
                    let factor = self.factor[place * inputs + next];
                    wanted.iter_mut().zip(lost).for_each(|(wanted, lost)| *wanted += factor * lost);
                }
                let own = &mut before[place * columns..];
                let integers = &mut integers[self.order[place] * columns..][..columns];
                for (column, wanted) in wanted.iter().enumerate() {
                    let integer = super::integers::round(wanted / scales[column], max);
                    integers[column] = integer;
                    own[column] = row_of(place)[column] - scales[column] * f32::from(integer);
                }
            }
        }
        (integers, lost)
    }

    /// Chooses each integer again, as it is best for all others. It never makes the variance more.
    fn refine(&self, weight: &[f32], scales: &[f32], max: f32, (integers, lost): (&mut [i8], &mut [f32])) {
        let (inputs, columns) = (self.order.len(), scales.len());
        for start in (0..inputs).step_by(BLOCK).rev() {
            let end = inputs.min(start + BLOCK);
            // C's rows of the block times what is lost outside of it.
            let mut slopes = vec![0.0; (end - start) * columns];
            if start > 0 {
                let before = Matrix::new(&self.factor[start * inputs..], end - start, start, inputs);
                matmul(
                    before,
                    Matrix::new(lost, start, columns, columns),
                    1.0,
                    &mut slopes,
                    columns,
                    true,
                    Threads::All,
                );
            }
            if end < inputs {
                let behind = Matrix::new(&self.factor[end * inputs + start..], inputs - end, end - start, inputs);
                let lost = Matrix::new(&lost[end * columns..], inputs - end, columns, columns);
                matmul(behind.t(), lost, 1.0, &mut slopes, columns, true, Threads::All);
            }
            for place in (start..end).rev() {
                let slopes = &mut slopes[(place - start) * columns..][..columns];
                for other in (start..end).filter(|other| *other != place) {
                    let covariance = self.factor[place.max(other) * inputs + place.min(other)];
                    let lost = &lost[other * columns..][..columns];
                    slopes.iter_mut().zip(lost).for_each(|(slope, lost)| *slope += covariance * lost);
                }
                let weight = &weight[self.order[place] * columns..][..columns];
                let integers = &mut integers[self.order[place] * columns..][..columns];
                let lost = &mut lost[place * columns..][..columns];
                for (column, slope) in slopes.iter().enumerate() {
                    let wanted = weight[column] + slope / self.variances[place];
                    integers[column] = super::integers::round(wanted / scales[column], max);
                    lost[column] = weight[column] - scales[column] * f32::from(integers[column]);
                }
            }
        }
    }
}

/// Leaves R in the upper triangle of a matrix RᵀR (Cholesky), a block of rows after the other; false if it has none.
fn factorize(matrix: &mut [f32], size: usize) -> bool {
    for start in (0..size).step_by(BLOCK) {
        let end = size.min(start + BLOCK);
        for place in start..end {
            let (above, row) = matrix.split_at_mut(place * size);
            let row = &mut row[place..size];
            for above in above[start * size..].chunks_exact(size) {
                let share = above[place];
                row.iter_mut().zip(&above[place..]).for_each(|(x, above)| *x -= share * above);
            }
            if !(row[0] > 0.0 && row[0].is_finite()) {
                return false;
            }
            let share = 1.0 / row[0].sqrt();
            row.iter_mut().for_each(|x| *x *= share);
        }
        if end < size {
            let rows = matrix[start * size..end * size].chunks_exact(size);
            let block: Vec<f32> = rows.flat_map(|row| &row[end..]).copied().collect();
            let block = Matrix::new(&block, end - start, size - end, size - end);
            matmul(block.t(), block, -1.0, &mut matrix[end * size + end..], size, true, Threads::All);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::integers::{MAX_REDUCED, channel_integers, scale};

    /// Tokens whose inputs are a few things that vary, each a mixture, around means of their own.
    fn tokens(inputs: usize, count: usize) -> Vec<f32> {
        let noise = |a: usize, b: usize| ((a * 7919 + b * 104_729) % 1013) as f32 / 506.0 - 1.0;
        let of_token = |token: usize| {
            (0..inputs).map(move |input| {
                let mixed: f32 = (0..5).map(|part| noise(token, part + 1) * noise(input, part + 11)).sum();
                mixed + 0.1 * noise(token * inputs + input, 3) + input as f32 / 10.0
            })
        };
        (0..count).flat_map(of_token).collect()
    }

    fn covariance(tokens: &[f32], inputs: usize) -> Covariance {
        let mut moments = Moments::of(inputs);
        tokens.chunks(7 * inputs).for_each(|tokens| moments.add(tokens));
        moments.covariance().unwrap()
    }

    /// The variance of what rounding adds to products.
    fn variance(tokens: &[f32], weight: &[f32], rounded: &[i8], scales: &[f32]) -> f32 {
        let columns = scales.len();
        let inputs = weight.len() / columns;
        let mut sum = 0.0;
        for column in 0..columns {
            let lost = |input: usize| {
                weight[input * columns + column] - scales[column] * f32::from(rounded[input * columns + column])
            };
            let lost: Vec<f32> = (0..inputs).map(lost).collect();
            let added =
                tokens.chunks_exact(inputs).map(|token| token.iter().zip(&lost).map(|(x, lost)| x * lost).sum::<f32>());
            let added: Vec<f32> = added.collect();
            let mean = added.iter().sum::<f32>() / added.len() as f32;
            sum += added.iter().map(|added| (added - mean).powi(2)).sum::<f32>();
        }
        sum
    }

    #[test]
    fn inputs_that_vary_together_make_up_for_each_other() {
        // More than two blocks.
        let (inputs, columns) = (150, 9);
        let weight: Vec<f32> = (0..inputs * columns).map(|at| ((at * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let tokens = tokens(inputs, 400);
        for max in [MAX_REDUCED, 7.0] {
            let (nearest, scales) = channel_integers(&weight, columns, max, scale);
            let covariance = covariance(&tokens, inputs);
            let (once, _) = covariance.one_by_one(&weight, &scales, max);
            let rounded = covariance.rounded(&weight, &scales, max);
            assert!(rounded.iter().all(|integer| f32::from(*integer).abs() <= max));
            let [before, once, after] =
                [&nearest, &once, &rounded].map(|integers| variance(&tokens, &weight, integers, &scales));
            assert!(once < before / 4.0 && after <= 1.001 * once, "{max}: {before}, {once}, {after}");
            // It is found once, for each number of bits.
            assert_eq!(covariance.rounded(&weight, &scales, max), rounded);
            assert_ne!(covariance.rounded(&weight, &scales, max - 1.0), rounded);
        }
    }

    #[test]
    fn an_integer_is_chosen_again_for_those_behind_it() {
        // The input that was rounded last is alike to both others, which did not know of it.
        let of = |a: usize, b: usize| if a == b { [1.0, 1.1, 1.2][a] } else { 0.6 };
        let covariance = Covariance::new(3, of).unwrap();
        let weights: Vec<f32> = (0..3 * 200).map(|at| ((at * 7919) % 1009) as f32 / 100.0 - 5.0).collect();
        let scales = [1.0; 200];
        let variance = |integers: &[i8]| -> f64 {
            let lost = |input: usize, column: usize| {
                let at = input * 200 + column;
                f64::from(weights[at] - f32::from(integers[at]))
            };
            let of_column = |column: usize| -> f64 {
                let pairs = (0..3).flat_map(|a| (0..3).map(move |b| (a, b)));
                pairs.map(|(a, b)| f64::from(of(a, b)) * lost(a, column) * lost(b, column)).sum()
            };
            (0..200).map(of_column).sum()
        };
        let (once, _) = covariance.one_by_one(&weights, &scales, 7.0);
        let [once, again] = [&once, &covariance.rounded(&weights, &scales, 7.0)].map(|integers| variance(integers));
        assert!(again < 0.99 * once, "{once}, {again}");
    }

    #[test]
    fn inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_nearest() {
        let covariance = Covariance::new(3, |a, b| if a == b { [2.0, 0.0, 1.0][a] } else { 0.0 }).unwrap();
        let weight = [0.3, -0.7, 0.05, 0.66, -1.0, 1.0];
        let (nearest, scales) = channel_integers(&weight, 2, 7.0, scale);
        assert_eq!(covariance.rounded(&weight, &scales, 7.0), nearest);
    }

    #[test]
    fn of_two_inputs_the_second_takes_what_the_first_has_lost() {
        // They are all but the same: what counts is the sum of both weights, and 0.4 + 0.4 is nearer to 1 + 0 than to 0 + 0.
        let covariance = Covariance::new(2, |a, b| if a == b { [1.0, 1.001][a] } else { 1.0 }).unwrap();
        assert_eq!(covariance.rounded(&[0.4, 0.4], &[1.0], 7.0), [1, 0]);
        assert_eq!(covariance.order, [0, 1]);
    }

    #[test]
    fn inputs_that_do_not_vary_have_no_covariance() {
        let mut moments = Moments::of(2);
        assert!(moments.clone().covariance().is_none());
        moments.add(&[1.0, 2.0, 1.0, 2.0]);
        assert!(moments.covariance().is_none());
    }
}
