//! Scaled dot-product attention (Vaswani et al., arXiv 1706.03762), each text by itself, several heads.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    composed,
    dropout::Dropout,
    elements, is_fused,
    math::{dot, exp, sum, vectorized},
    matmul::{Matrix, Threads, matmul},
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
}

/// softmax(Q Kᵀ / √(hidden / heads)) V for each text and head: q `[query rows, hidden]`, k and v `[key rows, hidden]`,
/// the heads side by side in a row. Result: `[query rows, hidden]`.
///
/// # Errors
/// If shapes and offsets disagree, or a tensor is not contiguous.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: Attention) -> Result<Tensor> {
    match is_fused(q) {
        true => q.apply_op3(k, v, attention),
        false => composed::attention(q, k, v, &attention),
    }
}

/// One text's rows, and where it starts in the numbering of attention probabilities (for dropout).
struct Text {
    queries: std::ops::Range<usize>,
    keys: std::ops::Range<usize>,
    first_probability: u32,
}

/// One head of one text.
struct Head<'a> {
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    scale: f32,
    /// Keys.
    columns: usize,
    /// The index of its first probability (for dropout).
    first_probability: u32,
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

    /// The heads of `text`, each with the offset of its columns.
    fn heads<'a>(
        &self,
        text: &Text,
        [q, k, v]: [&'a [f32]; 3],
        hidden: usize,
    ) -> impl Iterator<Item = (usize, Head<'a>)> {
        let (rows, columns) = (text.queries.len(), text.keys.len());
        let (q_start, k_start) = (text.queries.start * hidden, text.keys.start * hidden);
        let width = hidden / self.heads;
        let first_probability = text.first_probability;
        (0..self.heads).map(move |head| {
            let offset = head * width;
            let part = |data: &'a [f32], start: usize, rows| Matrix::new(&data[start + offset..], rows, width, hidden);
            let head = Head {
                q: part(q, q_start, rows),
                k: part(k, k_start, columns),
                v: part(v, k_start, columns),
                scale: 1.0 / (width as f32).sqrt(),
                columns,
                first_probability: first_probability.wrapping_add((head * rows * columns) as u32),
            };
            (offset, head)
        })
    }

    /// The dimension of a row, checked against the offsets.
    pub(super) fn hidden(&self, q: &Shape, k: &Shape, v: &Shape) -> Result<usize> {
        let (q_rows, hidden) = q.dims2()?;
        let fits = k == v
            && k.dims2()? == (self.keys.last().copied().unwrap_or(0), hidden)
            && q_rows == self.queries.last().copied().unwrap_or(0)
            && self.queries.len() == self.keys.len()
            && hidden.is_multiple_of(self.heads);
        if !fits {
            bail!("attention: q {q:?}, k {k:?}, v {v:?} do not fit the texts' offsets and {} heads", self.heads);
        }
        Ok(hidden)
    }

    /// Multiplies the probabilities of a head by their dropout factors.
    #[inline(always)]
    fn drop(&self, head: &Head<'_>, probabilities: &mut [f32]) {
        if let Some(dropout) = self.dropout {
            for (index, p) in (0u32..).zip(probabilities) {
                *p *= dropout.factor(head.first_probability.wrapping_add(index));
            }
        }
    }
}

impl Head<'_> {
    /// softmax(scale · q kᵀ) into `out`, row-major.
    #[inline(always)]
    fn probabilities(&self, out: &mut [f32]) {
        matmul(self.q, self.k.t(), self.scale, out, self.columns, false, Threads::One);
        for row in out.chunks_exact_mut(self.columns) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|score| *score = exp(*score - max));
            let factor = 1.0 / sum(row);
            row.iter_mut().for_each(|score| *score *= factor);
        }
    }
}

/// Cuts `data` (rows of `hidden`) into the parts that `ranges` name, which must follow one another from 0.
fn split_rows(
    mut data: &mut [f32],
    hidden: usize,
    ranges: impl Iterator<Item = std::ops::Range<usize>>,
) -> Vec<&mut [f32]> {
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
        let texts = self.texts();
        let mut context = vec![0.0; q_layout.shape().elem_count()];
        let parts = split_rows(&mut context, hidden, texts.iter().map(|text| text.queries.clone()));
        texts.par_iter().zip(parts).with_max_len(1).for_each(|(text, context)| {
            let mut p = vec![0.0; text.queries.len() * text.keys.len()];
            for (offset, head) in self.heads(text, qkv, hidden) {
                vectorized(
                    #[inline(always)]
                    || {
                        head.probabilities(&mut p);
                        self.drop(&head, &mut p);
                    },
                );
                let probabilities = Matrix::new(&p, text.queries.len(), head.columns, head.columns);
                matmul(probabilities, head.v, 1.0, &mut context[offset..], hidden, false, Threads::One);
            }
        });
        Ok((CpuStorage::F32(context), q_layout.shape().clone()))
    }

    /// With P = softmax(S), S = scale · Q Kᵀ, D the dropout factors and C = (P ∘ D) V:
    /// dV = (P ∘ D)ᵀ dC, dP = (dC Vᵀ) ∘ D, dS = P ∘ (dP − rowsum(dP ∘ P)), dQ = scale · dS K, dK = scale · dSᵀ Q.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let hidden = self.hidden(q.shape(), k.shape(), v.shape())?;
        let texts = self.texts();
        with_elements([q, k, v, grad], |[q_data, k_data, v_data, grad]| {
            let (mut dq, mut dk, mut dv) = (vec![0.0; q_data.len()], vec![0.0; k_data.len()], vec![0.0; v_data.len()]);
            let dq_parts = split_rows(&mut dq, hidden, texts.iter().map(|text| text.queries.clone()));
            let dk_parts = split_rows(&mut dk, hidden, texts.iter().map(|text| text.keys.clone()));
            let dv_parts = split_rows(&mut dv, hidden, texts.iter().map(|text| text.keys.clone()));
            let parts = dq_parts.into_par_iter().zip(dk_parts).zip(dv_parts);
            texts.par_iter().zip(parts).with_max_len(1).for_each(|(text, ((dq, dk), dv))| {
                let (rows, columns) = (text.queries.len(), text.keys.len());
                let dc = &grad[text.queries.start * hidden..];
                let mut p = vec![0.0; rows * columns];
                let (mut dropped, mut dp) = (p.clone(), p.clone());
                for (offset, head) in self.heads(text, [q_data, k_data, v_data], hidden) {
                    let dc = Matrix::new(&dc[offset..], rows, hidden / self.heads, hidden);
                    matmul(dc, head.v.t(), 1.0, &mut dp, columns, false, Threads::One);
                    vectorized(
                        #[inline(always)]
                        || {
                            head.probabilities(&mut p);
                            dropped.copy_from_slice(&p);
                            self.drop(&head, &mut dropped);
                            self.drop(&head, &mut dp);
                            for (p, dp) in p.chunks_exact(columns).zip(dp.chunks_exact_mut(columns)) {
                                let mean = dot(p, dp);
                                dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean));
                            }
                        },
                    );
                    let dropped = Matrix::new(&dropped, rows, columns, columns);
                    let ds = Matrix::new(&dp, rows, columns, columns);
                    matmul(dropped.t(), dc, 1.0, &mut dv[offset..], hidden, false, Threads::One);
                    matmul(ds, head.k, head.scale, &mut dq[offset..], hidden, false, Threads::One);
                    matmul(ds.t(), head.q, head.scale, &mut dk[offset..], hidden, false, Threads::One);
                }
            });
            Ok((Some(tensor(dq, q.shape())?), Some(tensor(dk, k.shape())?), Some(tensor(dv, v.shape())?)))
        })
    }
}
