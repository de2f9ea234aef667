//! Scores that depend on how far apart query and key lie.

use std::sync::Arc;

use candle_core::Tensor;

use super::tape::GradientSink;

/// What is added to a score before the softmax.
#[derive(Debug, Clone)]
pub enum Relative {
    /// A number by distance and head, as in MPNet (Song et al., arXiv 2004.09297) and T5.
    Bias {
        /// `[rows, heads]`
        table: Tensor,
        /// Which row.
        distances: Distances,
        /// Where the fused form leaves the table's gradient: it is no input of a candle operation.
        sink: GradientSink,
    },
    /// Products of queries and keys with vectors for distances (DeBERTa; He et al., arXiv 2006.03654): with q, k of the tokens and
    /// q', k' of the distance, (q k + q k' + k q') / √(3 width). Behind the queries of all texts lie q', behind the keys k',
    /// of as many distances as `distances` has rows.
    Disentangled {
        /// Which of those vectors.
        distances: Distances,
    },
}

/// A row for each distance, place of the query − place of the key.
#[derive(Debug, Clone)]
pub struct Distances {
    /// For the largest distance first: it falls along the keys of a query.
    rows: Arc<[u32]>,
    /// Tokens of the longest text.
    longest: usize,
    count: usize,
}

impl Distances {
    /// Those in texts of at most `longest` tokens; `row` gives the row of a distance.
    pub fn new(longest: usize, row: impl Fn(isize) -> u32) -> Self {
        let last = longest as isize - 1;
        let rows: Arc<[u32]> = (-last..=last).rev().map(row).collect();
        let count = rows.iter().max().map_or(0, |row| *row as usize + 1);
        Self { rows, longest, count }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The most tokens of a text.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// How many distances there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows for the query at `query` and the keys from the first on.
    #[inline(always)]
    fn rows(&self, query: usize) -> &[u32] {
        &self.rows[self.start(query)..]
    }

    /// The numbers of one head by distance, in the order of [`Self::rows`], of a table `[count, heads]`.
    pub(super) fn column(&self, table: &[f32], heads: usize, head: usize) -> Vec<f32> {
        self.rows.iter().map(|&row| table[row as usize * heads + head]).collect()
    }

    /// The reverse, for gradients: adds numbers by distance to a table.
    pub(super) fn add_column(&self, values: &[f32], table: &mut [f32], heads: usize, head: usize) {
        for (&row, value) in self.rows.iter().zip(values) {
            table[row as usize * heads + head] += value;
        }
    }

    /// Where in a [`Self::column`] the numbers for a query and the first key begin; those for the others follow.
    #[inline(always)]
    pub(super) fn start(&self, query: usize) -> usize {
        self.longest - 1 - query
    }

    /// Adds to the scores `[queries, keys]` of a text, for query i, key j and their row r, `by_query[i][r] + by_key[j][r]`,
    /// both of `count` columns.
    #[inline(always)]
    pub(super) fn gather(&self, by_query: &[f32], by_key: &[f32], scores: &mut [f32], keys: usize) {
        for (query, (scores, by_query)) in
            scores.chunks_exact_mut(keys).zip(by_query.chunks_exact(self.count)).enumerate()
        {
            let by_key = by_key.chunks_exact(self.count);
            for ((score, &row), by_key) in scores.iter_mut().zip(self.rows(query)).zip(by_key) {
                *score += by_query[row as usize] + by_key[row as usize];
            }
        }
    }

    /// The reverse, for gradients: adds those of the scores to `by_query` and `by_key`.
    #[inline(always)]
    pub(super) fn scatter(&self, scores: &[f32], by_query: &mut [f32], by_key: &mut [f32], keys: usize) {
        for (query, (scores, by_query)) in
            scores.chunks_exact(keys).zip(by_query.chunks_exact_mut(self.count)).enumerate()
        {
            let by_key = by_key.chunks_exact_mut(self.count);
            for ((score, &row), by_key) in scores.iter().zip(self.rows(query)).zip(by_key) {
                by_query[row as usize] += score;
                by_key[row as usize] += score;
            }
        }
    }

    /// The row of each query and key, `[queries, keys]`: for the composed form.
    pub(super) fn matrix(&self, queries: usize, keys: usize) -> Vec<u32> {
        (0..queries).flat_map(|query| self.rows(query)[..keys].iter().copied()).collect()
    }
}
