//! The same operations composed of candle's own, which have a backward pass each: for devices and number formats that
//! the fused forms do not know.
//!
//! Weights stay in `f32` and are converted where they are used, so that a model that computes in half precision still
//! learns in full. What half precision would ruin — means, variances, softmax — is computed in `f32`.

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{Activation, Attention, Dropout, Relative, Rotary};

/// Added to the scores of keys that do not belong to a text: their probability becomes 0.
const MASKED: f32 = -1e9;

/// See [`super::linear()`].
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.matmul(&weight.to_dtype(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => product.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(product),
    }
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

/// See [`super::gated_activation()`].
pub(super) fn gated_activation(x: &Tensor, function: Activation) -> Result<Tensor> {
    let half = x.dim(1)? / 2;
    activation(&x.narrow(1, 0, half)?.contiguous()?, function)? * x.narrow(1, half, half)?
}

/// See [`super::rotary()`].
pub(super) fn rotary(x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
    let (rows, hidden) = x.dims2()?;
    let Rotary { angles, places } = rotary;
    let wide = widened(x)?;
    let pairs = angles.pairs;
    let table = |values: &[f32]| {
        let rows = places.iter().flat_map(|&place| &values[place as usize * pairs..][..pairs]).copied();
        Tensor::from_iter(rows, &Device::Cpu)?
            .reshape((places.len(), 1, pairs))?
            .to_device(x.device())?
            .to_dtype(wide.dtype())
    };
    let (cosines, sines) = (table(&angles.cosines)?, table(&angles.sines)?);
    let heads = wide.reshape((rows, hidden / (2 * pairs), 2 * pairs))?;
    let (a, b) = (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?);
    let first = (a.broadcast_mul(&cosines)? - b.broadcast_mul(&sines)?)?;
    let second = (b.broadcast_mul(&cosines)? + a.broadcast_mul(&sines)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((rows, hidden))?.to_dtype(x.dtype())
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
    let (all_queries, all_keys) = (q, k);
    let by_head = |x: &Tensor, padding: &Padding| {
        let x = x.index_select(&padding.rows(device)?, 0)?;
        x.reshape((padding.texts(), padding.longest, heads, hidden / heads))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (by_head(q, &queries)?, by_head(k, &keys)?, by_head(v, &keys)?);
    let mut scores = q.matmul(&k.t()?.contiguous()?)?;
    if let Some(Relative::Disentangled { distances }) = &attention.relative {
        let vectors = |x: &Tensor, padding: &Padding| {
            let x = x.narrow(0, padding.offsets.last().copied().unwrap_or(0), distances.count())?;
            let x = x.reshape((1, distances.count(), heads, hidden / heads))?.permute((0, 2, 3, 1))?;
            x.broadcast_as((padding.texts(), heads, hidden / heads, distances.count()))?.contiguous()
        };
        let rows = distances.matrix(queries.longest, keys.longest);
        let rows = Tensor::from_vec(rows, (1, 1, queries.longest, keys.longest), device)?;
        let shape = (queries.texts(), heads, queries.longest, keys.longest);
        let by_query = q.matmul(&vectors(all_keys, &keys)?)?.gather(&rows.broadcast_as(shape)?.contiguous()?, 3)?;
        let shape = (queries.texts(), heads, keys.longest, queries.longest);
        let rows = rows.transpose(2, 3)?.broadcast_as(shape)?.contiguous()?;
        let by_key = k.matmul(&vectors(all_queries, &queries)?)?.gather(&rows, 3)?.transpose(2, 3)?;
        scores = ((scores + by_query)? + by_key)?;
    }
    let scores = widened(&(scores / (attention.variance(hidden) as f64).sqrt())?)?;
    let mut scores = scores.broadcast_add(&keys.mask(device)?.to_dtype(scores.dtype())?)?;
    if let Some(Relative::Bias { table, distances, .. }) = &attention.relative {
        let rows = Tensor::new(distances.matrix(queries.longest, keys.longest), device)?;
        let biases =
            table.index_select(&rows, 0)?.reshape((queries.longest, keys.longest, heads))?.permute((2, 0, 1))?;
        scores = scores.broadcast_add(&biases.unsqueeze(0)?.to_dtype(scores.dtype())?)?;
    }
    if let Some(window) = attention.window {
        let far = |row: usize| (0..keys.longest).map(move |key| if row.abs_diff(key) > window { MASKED } else { 0.0 });
        let far = Tensor::from_iter((0..queries.longest).flat_map(far), &Device::Cpu)?;
        let far = far.reshape((1, 1, queries.longest, keys.longest))?.to_device(device)?;
        scores = scores.broadcast_add(&far.to_dtype(scores.dtype())?)?;
    }
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
