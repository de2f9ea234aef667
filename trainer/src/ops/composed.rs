//! The same operations composed of candle's own, which have a backward pass each: for devices and number formats that
//! the fused forms do not know.
//!
//! Weights stay in `f32` and are converted where they are used, so that a model that computes in half precision still
//! learns in full. What half precision would ruin — means, variances, softmax — is computed in `f32`.

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{Activation, Attention, Dropout};

/// Added to the scores of keys that do not belong to a text: their probability becomes 0.
const MASKED: f32 = -1e9;

/// See [`super::linear()`].
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [weight, bias] = [weight, bias].map(|parameter| parameter.to_dtype(x.dtype()));
    x.matmul(&weight?.t()?)?.broadcast_add(&bias?)
}

/// See [`super::layer_norm()`].
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = widened(x)?;
    let [weight, bias] = [weight, bias].map(|parameter| parameter.to_dtype(wide.dtype()));
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normalized = centred.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?;
    normalized.broadcast_mul(&weight?)?.broadcast_add(&bias?)?.to_dtype(x.dtype())
}

/// See [`super::activation()`].
pub(super) fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Tanh => x.tanh(),
    }
}

/// See [`super::dropout()`].
pub(super) fn dropout(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let factors: Vec<f32> = (0..x.elem_count() as u32).into_par_iter().map(|index| dropout.factor(index)).collect();
    x * Tensor::from_vec(factors, x.shape(), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?
}

/// See [`super::attention()`]. The texts are padded to the longest: one matrix product for all texts and heads.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: &Attention) -> Result<Tensor> {
    let (device, heads) = (q.device(), attention.heads);
    let hidden = attention.hidden(q.shape(), k.shape(), v.shape())?;
    let (queries, keys) = (Padding::new(&attention.queries), Padding::new(&attention.keys));
    let by_head = |x: &Tensor, padding: &Padding| {
        let x = x.index_select(&padding.rows(device)?, 0)?;
        x.reshape((padding.texts(), padding.longest, heads, hidden / heads))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (by_head(q, &queries)?, by_head(k, &keys)?, by_head(v, &keys)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? / ((hidden / heads) as f64).sqrt())?;
    let scores = widened(&scores)?;
    let scores = scores.broadcast_add(&keys.mask(device)?.to_dtype(scores.dtype())?)?;
    let mut p = candle_nn::ops::softmax(&scores, D::Minus1)?;
    if let Some(dropout) = attention.dropout {
        p = (&p * factors(dropout, heads, &queries, &keys)?.to_device(device)?.to_dtype(p.dtype())?)?;
    }
    let context = p.to_dtype(v.dtype())?.matmul(&v)?.transpose(1, 2)?;
    let context = context.reshape((queries.texts() * queries.longest, hidden))?;
    context.index_select(&queries.places(device)?, 0)
}

/// Half precision as `f32`; other formats as they are.
fn widened(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// How packed rows become a rectangle of texts, and back.
struct Padding<'a> {
    offsets: &'a [usize],
    longest: usize,
}

impl<'a> Padding<'a> {
    fn new(offsets: &'a [usize]) -> Self {
        let longest = offsets.windows(2).map(|text| text[1] - text[0]).max().unwrap_or(0);
        Self { offsets, longest }
    }

    fn texts(&self) -> usize {
        self.offsets.len() - 1
    }

    fn len(&self, text: usize) -> usize {
        self.offsets[text + 1] - self.offsets[text]
    }

    /// The packed row of each place of the rectangle; padding repeats a text's first.
    fn rows(&self, device: &Device) -> Result<Tensor> {
        let row = |text: usize| {
            let (start, len) = (self.offsets[text], self.len(text));
            (0..self.longest).map(move |place| (start + if place < len { place } else { 0 }) as u32)
        };
        Tensor::new((0..self.texts()).flat_map(row).collect::<Vec<u32>>(), device)
    }

    /// The place in the rectangle of each packed row.
    fn places(&self, device: &Device) -> Result<Tensor> {
        let place = |text: usize| (0..self.len(text)).map(move |place| (text * self.longest + place) as u32);
        Tensor::new((0..self.texts()).flat_map(place).collect::<Vec<u32>>(), device)
    }

    /// What the scores of each text's keys are moved by: `[texts, 1, 1, longest]`.
    fn mask(&self, device: &Device) -> Result<Tensor> {
        let row = |text: usize| {
            let len = self.len(text);
            (0..self.longest).map(move |place| if place < len { 0.0 } else { MASKED })
        };
        let mask: Vec<f32> = (0..self.texts()).flat_map(row).collect();
        Tensor::from_vec(mask, (self.texts(), 1, 1, self.longest), device)
    }
}

/// The dropout factors of all probabilities, numbered as the fused form numbers them: `[texts, heads, queries, keys]`.
fn factors(dropout: Dropout, heads: usize, queries: &Padding<'_>, keys: &Padding<'_>) -> Result<Tensor> {
    let shape = (queries.texts(), heads, queries.longest, keys.longest);
    let mut factors = vec![0.0f32; shape.0 * shape.1 * shape.2 * shape.3];
    let mut first = 0u32;
    for (text, factors) in factors.chunks_exact_mut(heads * shape.2 * shape.3).enumerate() {
        let (rows, columns) = (queries.len(text), keys.len(text));
        for (head, factors) in factors.chunks_exact_mut(shape.2 * shape.3).enumerate() {
            for (row, factors) in factors.chunks_exact_mut(shape.3).take(rows).enumerate() {
                let start = first.wrapping_add(((head * rows + row) * columns) as u32);
                for (column, factor) in (0u32..).zip(&mut factors[..columns]) {
                    *factor = dropout.factor(start.wrapping_add(column));
                }
            }
        }
        first = first.wrapping_add((heads * rows * columns) as u32);
    }
    Tensor::from_vec(factors, shape, &Device::Cpu)
}
