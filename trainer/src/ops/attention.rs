//! Scaled dot-product attention (Vaswani et al., arXiv 1706.03762), each text by itself, several heads.

use std::{ops::Range, sync::Arc};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use nimbert::math::{dot, exp, sum, vectorized};
use rayon::prelude::*;

use super::{
    composed,
    dropout::Dropout,
    elements, is_fused,
    matmul::{Matrix, Threads, matmul},
    parts::zeros,
    relative::{Distances, Relative},
    tape::{Tape, apply3},
    tensor, with_elements,
};

/// Which rows belong together, and how they attend.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Number of heads; the hidden size is a multiple of it.
    pub heads: usize,
    /// Text t owns the query rows `queries[t]..queries[t + 1]`.
    pub queries: Arc<[usize]>,
    /// Text t owns the key and value rows `keys[t]..keys[t + 1]`.
    pub keys: Arc<[usize]>,
    /// Dropout of the attention probabilities.
    pub dropout: Option<Dropout>,
    /// A token sees those that are at most so far away; none: all of its text. A text's first query row is its first token's,
    /// and so on. What lies outside costs nothing.
    pub window: Option<usize>,
    /// What is added to scores by how far query and key lie apart; none: nothing. Not together with a window.
    pub relative: Option<Relative>,
}

/// Query rows of which each sees nearly the same keys. With many, more of the keys are in vain; with few, products are small.
const BLOCK_ROWS: usize = 64;

/// softmax(Q Kᵀ / √(hidden / heads) + relative) V for each text and head: q `[query rows, hidden]`, k and v `[key rows, hidden]`,
/// the heads side by side in a row. Result: `[query rows, hidden]`. With [`Relative::Disentangled`], q and k have further
/// rows.
///
/// # Errors
/// If shapes and offsets disagree, or a tensor is not contiguous.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: Attention, tape: Option<&Tape>) -> Result<Tensor> {
    match is_fused(q) {
        true => apply3(tape, [q, k, v], attention),
        false => composed::attention(q, k, v, &attention),
    }
}

/// One text's rows, and where it starts in the numbering of attention probabilities (for dropout).
struct Text {
    queries: Range<usize>,
    keys: Range<usize>,
    first_probability: u32,
}

/// Some query rows of a text, and the keys that they see, both counted in the text.
struct Block {
    rows: Range<usize>,
    columns: Range<usize>,
    window: Option<usize>,
}

impl Block {
    /// The keys that a query row of the block sees, counted in the block.
    #[inline(always)]
    fn seen(&self, row: usize) -> Range<usize> {
        let Self { columns, window, .. } = self;
        match window {
            None => 0..columns.len(),
            Some(window) => {
                let place = self.rows.start + row;
                let last = (place + window + 1).min(columns.end).max(columns.start);
                place.saturating_sub(*window).clamp(columns.start, last) - columns.start..last - columns.start
            }
        }
    }
}

/// One head of a block.
struct Head<'a> {
    block: &'a Block,
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    scale: f32,
    relative: Option<Offsets<'a>>,
    /// The index of its text's and head's first probability, and how many keys the text has (for dropout).
    first_probability: u32,
    keys: usize,
}

/// What a head adds to scores by distance.
#[derive(Clone, Copy)]
enum Offsets<'a> {
    /// [`Distances::column`], and the head's index.
    Bias(&'a Distances, &'a [f32], usize),
    /// Queries and keys of distances, `[count, width]`.
    Disentangled(&'a Distances, [Matrix<'a>; 2]),
}

/// Memory for what [`Offsets::Disentangled`] needs of a head: `[queries, count]` and `[keys, count]`.
#[derive(Default)]
struct Products {
    by_query: Vec<f32>,
    by_key: Vec<f32>,
}

impl Products {
    fn zeroed(&mut self, queries: usize, keys: usize) {
        for (values, len) in [(&mut self.by_query, queries), (&mut self.by_key, keys)] {
            values.clear();
            values.resize(len, 0.0);
        }
    }
}

impl Attention {
    fn texts(&self) -> Vec<Text> {
        let mut first_probability = 0u32;
        let windows = self.queries.windows(2).zip(self.keys.windows(2));
        windows
            .map(|(queries, keys)| {
                let text = Text { queries: queries[0]..queries[1], keys: keys[0]..keys[1], first_probability };
                let probabilities = self.heads * text.queries.len() * text.keys.len();
                first_probability = first_probability.wrapping_add(probabilities as u32);
                text
            })
            .collect()
    }

    /// The parts of a text that are computed together.
    fn blocks(&self, text: &Text) -> Vec<Block> {
        let (rows, columns) = (text.queries.len(), text.keys.len());
        match self.window.filter(|window| window + 1 < columns) {
            None => vec![Block { rows: 0..rows, columns: 0..columns, window: None }],
            Some(window) => {
                let block = |first: usize| {
                    let rows = first..(first + BLOCK_ROWS).min(rows);
                    let columns = first.saturating_sub(window)..(rows.end + window).min(columns);
                    Block { rows, columns, window: Some(window) }
                };
                (0..rows).step_by(BLOCK_ROWS).map(block).collect()
            }
        }
    }

    /// The numbers of [`Relative::Bias`] by head and distance; empty without.
    fn biases(&self) -> Result<Vec<Vec<f32>>> {
        let Some(Relative::Bias { table, distances, .. }) = &self.relative else { return Ok(Vec::new()) };
        with_elements([table], |[table]| {
            Ok((0..self.heads).map(|head| distances.column(table, self.heads, head)).collect())
        })
    }

    /// The heads of a block, each with the offset of its columns.
    fn heads<'a>(
        &'a self,
        text: &Text,
        block: &'a Block,
        [q, k, v]: [&'a [f32]; 3],
        biases: &'a [Vec<f32>],
        hidden: usize,
    ) -> impl Iterator<Item = (usize, Head<'a>)> {
        let (rows, keys) = (text.queries.len(), text.keys.len());
        let q_start = (text.queries.start + block.rows.start) * hidden;
        let k_start = (text.keys.start + block.columns.start) * hidden;
        let width = hidden / self.heads;
        let first_probability = text.first_probability;
        let ends = [&self.queries, &self.keys].map(|offsets| offsets.last().copied().unwrap_or(0) * hidden);
        let scale = 1.0 / (self.variance(hidden) as f32).sqrt();
        (0..self.heads).map(move |head| {
            let offset = head * width;
            let part = |data: &'a [f32], start: usize, rows| Matrix::new(&data[start + offset..], rows, width, hidden);
            let relative = self.relative.as_ref().map(|relative| match relative {
                Relative::Bias { distances, .. } => Offsets::Bias(distances, &biases[head], head),
                Relative::Disentangled { distances } => {
                    let vectors = [part(q, ends[0], distances.count()), part(k, ends[1], distances.count())];
                    Offsets::Disentangled(distances, vectors)
                }
            });
            let head = Head {
                block,
                q: part(q, q_start, block.rows.len()),
                k: part(k, k_start, block.columns.len()),
                v: part(v, k_start, block.columns.len()),
                scale,
                relative,
                first_probability: first_probability.wrapping_add((head * rows * keys) as u32),
                keys,
            };
            (offset, head)
        })
    }

    /// The variance of a score whose vectors have numbers of variance 1: the width of a head, for each product in it.
    pub(super) fn variance(&self, hidden: usize) -> usize {
        let products = if matches!(self.relative, Some(Relative::Disentangled { .. })) { 3 } else { 1 };
        products * hidden / self.heads
    }

    /// The dimension of a row, checked against the offsets.
    pub(super) fn hidden(&self, q: &Shape, k: &Shape, v: &Shape) -> Result<usize> {
        let (q_rows, hidden) = q.dims2()?;
        let [queries, keys] = [&self.queries, &self.keys].map(|offsets| offsets.last().copied().unwrap_or(0));
        let (further, longest) = match &self.relative {
            None => (0, usize::MAX),
            Some(Relative::Bias { distances, .. }) => (0, distances.longest()),
            Some(Relative::Disentangled { distances }) => (distances.count(), distances.longest()),
        };
        let fits = q_rows == queries + further
            && k.dims2()? == (keys + further, hidden)
            && v.dims2()? == (keys, hidden)
            && self.queries.len() == self.keys.len()
            && hidden.is_multiple_of(self.heads)
            && self.keys.windows(2).all(|text| (1..=longest).contains(&(text[1] - text[0])))
            && (longest == usize::MAX || self.queries.windows(2).all(|text| text[1] - text[0] <= longest))
            && (self.window.is_none() || self.relative.is_none());
        if !fits {
            bail!("attention: q {q:?}, k {k:?}, v {v:?} do not fit the texts' offsets and {} heads", self.heads);
        }
        Ok(hidden)
    }

    /// Zeros for the gradients of what all texts share: biases by head and distance, or queries and then keys of distances.
    fn shared_gradients(&self, hidden: usize) -> Vec<f32> {
        match &self.relative {
            None => Vec::new(),
            Some(Relative::Bias { distances, .. }) => vec![0.0; self.heads * distances.len()],
            Some(Relative::Disentangled { distances }) => vec![0.0; 2 * distances.count() * hidden],
        }
    }

    /// Adds the texts' gradients of what they share to those of queries and keys, or leaves them in the sink.
    fn add_shared(&self, shared: &[Vec<f32>], [dq, dk]: [&mut [f32]; 2], hidden: usize) -> Result<()> {
        match &self.relative {
            None => Ok(()),
            Some(Relative::Bias { table, distances, sink }) => {
                let mut gradient = vec![0.0; table.elem_count()];
                for text in shared {
                    for (head, values) in text.chunks_exact(distances.len()).enumerate() {
                        distances.add_column(values, &mut gradient, self.heads, head);
                    }
                }
                sink.add(table, 0, tensor(gradient, table.shape())?)
            }
            Some(Relative::Disentangled { distances }) => {
                let len = distances.count() * hidden;
                let (q_end, k_end) = (dq.len() - len, dk.len() - len);
                for text in shared {
                    let parts = [(&mut dq[q_end..], &text[..len]), (&mut dk[k_end..], &text[len..])];
                    for (sums, values) in parts {
                        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                }
                Ok(())
            }
        }
    }

    /// Multiplies the probabilities of a head by their dropout factors.
    #[inline(always)]
    fn drop(&self, head: &Head<'_>, probabilities: &mut [f32]) {
        let Some(dropout) = self.dropout else { return };
        let Block { rows, columns, .. } = head.block;
        for (row, p) in probabilities.chunks_exact_mut(columns.len()).enumerate() {
            let seen = head.block.seen(row);
            let index = (rows.start + row) * head.keys + columns.start + seen.start;
            let first = head.first_probability.wrapping_add(index as u32);
            for (index, p) in (0u32..).zip(&mut p[seen]) {
                *p *= dropout.factor(first.wrapping_add(index));
            }
        }
    }
}

impl Head<'_> {
    /// softmax(scale · q kᵀ + what is relative) into `out`, row-major; 0 where a row does not see a key.
    #[inline(always)]
    fn probabilities(&self, out: &mut [f32], products: &mut Products) {
        let (rows, columns) = (self.block.rows.len(), self.block.columns.len());
        matmul(self.q, self.k.t(), self.scale, out, columns, false, Threads::One);
        match self.relative {
            None => {}
            Some(Offsets::Bias(distances, biases, _)) => {
                for (query, row) in out.chunks_exact_mut(columns).enumerate() {
                    let biases = &biases[distances.start(query)..];
                    row.iter_mut().zip(biases).for_each(|(score, bias)| *score += bias);
                }
            }
            Some(Offsets::Disentangled(distances, [queries, keys])) => {
                let count = distances.count();
                products.zeroed(rows * count, columns * count);
                matmul(self.q, keys.t(), self.scale, &mut products.by_query, count, false, Threads::One);
                matmul(self.k, queries.t(), self.scale, &mut products.by_key, count, false, Threads::One);
                distances.gather(&products.by_query, &products.by_key, out, columns);
            }
        }
        for (index, row) in out.chunks_exact_mut(columns).enumerate() {
            let seen = self.block.seen(index);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|score| *score = exp(*score - max));
            let factor = 1.0 / sum(row);
            row.iter_mut().for_each(|score| *score *= factor);
        }
    }

    /// The gradients of what was added to the scores, given theirs: added to those of queries and keys, and to `shared`.
    fn relative_gradients(
        &self,
        relative: Offsets<'_>,
        ds: &[f32],
        [dq, dk]: [&mut [f32]; 2],
        shared: &mut [f32],
        (offset, hidden): (usize, usize),
        products: &mut Products,
    ) {
        let (rows, columns) = (self.block.rows.len(), self.block.columns.len());
        match relative {
            Offsets::Bias(distances, biases, head) => {
                let sums = &mut shared[head * biases.len()..][..biases.len()];
                for (query, row) in ds.chunks_exact(columns).enumerate() {
                    let start = distances.start(query);
                    sums[start..].iter_mut().zip(row).for_each(|(sum, ds)| *sum += ds);
                }
            }
            Offsets::Disentangled(distances, [queries, keys]) => {
                let count = distances.count();
                products.zeroed(rows * count, columns * count);
                distances.scatter(ds, &mut products.by_query, &mut products.by_key, columns);
                let by_query = Matrix::new(&products.by_query, rows, count, count);
                let by_key = Matrix::new(&products.by_key, columns, count, count);
                matmul(by_query, keys, self.scale, dq, hidden, true, Threads::One);
                matmul(by_key, queries, self.scale, dk, hidden, true, Threads::One);
                let (dqueries, dkeys) = shared.split_at_mut(count * hidden);
                matmul(by_key.t(), self.k, self.scale, &mut dqueries[offset..], hidden, true, Threads::One);
                matmul(by_query.t(), self.q, self.scale, &mut dkeys[offset..], hidden, true, Threads::One);
            }
        }
    }
}

/// Cuts `data` (rows of `hidden`) into the parts that `ranges` name, which must follow one another from 0.
fn split_rows(mut data: &mut [f32], hidden: usize, ranges: impl Iterator<Item = Range<usize>>) -> Vec<&mut [f32]> {
    ranges
        .map(|range| {
            let (part, rest) = std::mem::take(&mut data).split_at_mut(range.len() * hidden);
            data = rest;
            part
        })
        .collect()
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let hidden = self.hidden(q_layout.shape(), k_layout.shape(), v_layout.shape())?;
        let qkv = [elements(q, q_layout)?, elements(k, k_layout)?, elements(v, v_layout)?];
        let (texts, biases) = (self.texts(), self.biases()?);
        let rows = self.queries.last().copied().unwrap_or(0);
        let mut context = zeros(rows * hidden);
        let parts = split_rows(&mut context, hidden, texts.iter().map(|text| text.queries.clone()));
        texts.par_iter().zip(parts).with_max_len(1).for_each(|(text, context)| {
            let (mut p, mut products) = (Vec::new(), Products::default());
            for block in self.blocks(text) {
                let (rows, columns) = (block.rows.len(), block.columns.len());
                p.resize(rows * columns, 0.0);
                for (offset, head) in self.heads(text, &block, qkv, &biases, hidden) {
                    vectorized(
                        #[inline(always)]
                        || {
                            head.probabilities(&mut p, &mut products);
                            self.drop(&head, &mut p);
                        },
                    );
                    let probabilities = Matrix::new(&p, rows, columns, columns);
                    let context = &mut context[block.rows.start * hidden + offset..];
                    matmul(probabilities, head.v, 1.0, context, hidden, false, Threads::One);
                }
            }
        });
        Ok((CpuStorage::F32(context), Shape::from((rows, hidden))))
    }

    /// With P = softmax(S), S = scale · Q Kᵀ, D the dropout factors and C = (P ∘ D) V:
    /// dV = (P ∘ D)ᵀ dC, dP = (dC Vᵀ) ∘ D, dS = P ∘ (dP − rowsum(dP ∘ P)), dQ = scale · dS K, dK = scale · dSᵀ Q. What was added
    /// to S by distance gets dS, summed over all scores of a distance.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let hidden = self.hidden(q.shape(), k.shape(), v.shape())?;
        let (texts, biases) = (self.texts(), self.biases()?);
        with_elements([q, k, v, grad], |[q_data, k_data, v_data, grad]| {
            let [mut dq, mut dk, mut dv] = [q_data, k_data, v_data].map(|data| zeros(data.len()));
            let dq_parts = split_rows(&mut dq, hidden, texts.iter().map(|text| text.queries.clone()));
            let dk_parts = split_rows(&mut dk, hidden, texts.iter().map(|text| text.keys.clone()));
            let dv_parts = split_rows(&mut dv, hidden, texts.iter().map(|text| text.keys.clone()));
            let parts = dq_parts.into_par_iter().zip(dk_parts).zip(dv_parts);
            // What belongs to no text is summed by text, and then in the order of the texts.
            let shared = texts.par_iter().zip(parts).with_max_len(1).map(|(text, ((dq, dk), dv))| {
                let (mut p, mut dropped, mut dp) = (Vec::new(), Vec::new(), Vec::new());
                let (mut products, mut shared) = (Products::default(), self.shared_gradients(hidden));
                for block in self.blocks(text) {
                    let (rows, columns) = (block.rows.len(), block.columns.len());
                    [&mut p, &mut dropped, &mut dp].into_iter().for_each(|values| values.resize(rows * columns, 0.0));
                    // Keys are seen by the rows of several blocks.
                    let add = block.rows.start > 0;
                    let (row_start, column_start) = (block.rows.start * hidden, block.columns.start * hidden);
                    let dc = &grad[text.queries.start * hidden + row_start..];
                    for (offset, head) in self.heads(text, &block, [q_data, k_data, v_data], &biases, hidden) {
                        let dc = Matrix::new(&dc[offset..], rows, hidden / self.heads, hidden);
                        matmul(dc, head.v.t(), 1.0, &mut dp, columns, false, Threads::One);
                        vectorized(
                            #[inline(always)]
                            || {
                                head.probabilities(&mut p, &mut products);
                                dropped.copy_from_slice(&p);
                                self.drop(&head, &mut dropped);
                                self.drop(&head, &mut dp);
                                for (p, dp) in p.chunks_exact(columns).zip(dp.chunks_exact_mut(columns)) {
                                    let mean = dot(p, dp);
                                    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean));
                                }
                            },
                        );
                        let (q_offset, k_offset) = (row_start + offset, column_start + offset);
                        let dropped = Matrix::new(&dropped, rows, columns, columns);
                        let ds = Matrix::new(&dp, rows, columns, columns);
                        matmul(dropped.t(), dc, 1.0, &mut dv[k_offset..], hidden, add, Threads::One);
                        matmul(ds, head.k, head.scale, &mut dq[q_offset..], hidden, false, Threads::One);
                        matmul(ds.t(), head.q, head.scale, &mut dk[k_offset..], hidden, add, Threads::One);
                        if let Some(relative) = head.relative {
                            let dqk = [&mut dq[q_offset..], &mut dk[k_offset..]];
                            head.relative_gradients(relative, &dp, dqk, &mut shared, (offset, hidden), &mut products);
                        }
                    }
                }
                shared
            });
            let shared: Vec<Vec<f32>> = shared.collect();
            self.add_shared(&shared, [&mut dq, &mut dk], hidden)?;
            Ok((Some(tensor(dq, q.shape())?), Some(tensor(dk, k.shape())?), Some(tensor(dv, v.shape())?)))
        })
    }
}
