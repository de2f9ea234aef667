//! A student without attention: a table of vectors for tokens, and a small head that reads their mean.
//!
//! Model2Vec (Tulkens and van Dongen, 2024, MinishLab) takes what an encoder makes of each token alone, and the principal
//! axes of that. Here the encoder is one that was trained on the task, and table and head go on learning from its answers.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use nimbert::Encoding;
use serde_json::json;

use crate::{
    dataloader::PackedBatch,
    error::{Error, Result},
    model::{EncoderConfig, STATIC_TYPE, SequenceClassifier},
};

/// How a table begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StaticConfig {
    /// Numbers a token; at most the teacher's `hidden_size`.
    pub width: usize,
    /// A token of probability p counts by `a / (a + p)`, so that what is everywhere says little (Arora et al., 2017).
    pub smoothing: f64,
    /// Share of the table's numbers that are dropped in training.
    pub dropout: f32,
    /// For the head, which is made anew.
    pub seed: u64,
}

impl Default for StaticConfig {
    fn default() -> Self {
        Self { width: 128, smoothing: 1e-3, dropout: 0.4, seed: 0 }
    }
}

/// Tokens that the teacher reads at once.
const BATCH: usize = 256;

/// The student of `teacher`, not yet trained. `empty` is what the tokenizer makes of a text without words: each token is put
/// into its middle and read by the teacher. `counts` says how often each occurs, by id.
///
/// # Errors
/// [`Error::Setting`] for a width that the teacher does not have; [`Error::Tensor`].
pub fn static_model(
    teacher: &SequenceClassifier,
    empty: &Encoding,
    counts: &[u64],
    config: StaticConfig,
) -> Result<SequenceClassifier> {
    let width = config.width;
    if width == 0 || width > teacher.config.hidden_size {
        let expected = format!("a width from 1 to the model's {}", teacher.config.hidden_size);
        return Err(Error::setting("--student", expected, width));
    }
    let vectors = principal(&alone(teacher, empty)?, width)?;
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let weights = counts.iter().map(|&count| config.smoothing / (config.smoothing + count as f64 / total));
    let weights: Vec<f32> = weights.map(|weight| weight as f32).collect();
    let weights = Tensor::from_vec(weights, (counts.len(), 1), &Device::Cpu)?;
    let table = vectors.broadcast_mul(&weights)?;

    // The head's names are those of the family; what has no weights yet is made with a deviation that keeps sizes.
    let json = json!({
        "model_type": STATIC_TYPE,
        "vocab_size": teacher.config.vocab_size,
        "hidden_size": width,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "intermediate_size": width,
        "max_position_embeddings": teacher.config.max_tokens(),
        "classifier_pooling": "mean",
        "hidden_dropout_prob": config.dropout,
        "initializer_range": (width as f64).powf(-0.5),
        "pad_token_id": teacher.config.pad_token_id,
    });
    let serde_json::Value::Object(json) = json else { unreachable!("an object was written") };
    let path = &teacher.config.path;
    let encoder = EncoderConfig::from_json(path, json)?.with_labels(&teacher.labels);
    let tensors = BTreeMap::from([(encoder.family.word_embeddings(), table)]);
    Ok(SequenceClassifier::from_tensors(path, tensors, encoder, &teacher.labels, config.seed)?.0)
}

/// What the teacher's head reads of each token alone: `[vocabulary, hidden]`
fn alone(teacher: &SequenceClassifier, empty: &Encoding) -> Result<Tensor> {
    let middle = empty.input_ids.len() / 2;
    let with = |id: u32| {
        let mut encoding = empty.clone();
        encoding.input_ids.insert(middle, id);
        encoding.token_type_ids.insert(middle, 0);
        encoding
    };
    let ids: Vec<u32> = (0..teacher.config.vocab_size as u32).collect();
    let read = ids.chunks(BATCH).map(|ids| {
        let encodings: Vec<Encoding> = ids.iter().copied().map(with).collect();
        let batch = PackedBatch::new(&encodings);
        Ok(teacher.pooled(&teacher.encode(&batch, false, None)?, &batch)?.detach())
    });
    Ok(Tensor::cat(&read.collect::<Result<Vec<_>>>()?, 0)?)
}

/// The rows of `x` `[n, hidden]` in the space of the `width` axes along which they differ most, scaled so that the mean of
/// all squares is 1. Which axes span that space does not matter to a head that reads them all.
fn principal(x: &Tensor, width: usize) -> Result<Tensor> {
    /// What is left of other axes shrinks with each by the ratio of their variances.
    const ITERATIONS: usize = 30;
    let (rows, hidden) = x.dims2()?;
    let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
    let covariance = (centred.t()?.contiguous()?.matmul(&centred)? / rows as f64)?;
    let mut axes = covariance.narrow(0, 0, width)?.to_vec2::<f32>()?;
    for _ in 0..ITERATIONS {
        orthonormalize(&mut axes);
        axes = Tensor::from_vec(axes.concat(), (width, hidden), &Device::Cpu)?.matmul(&covariance)?.to_vec2()?;
    }
    orthonormalize(&mut axes);
    let axes = Tensor::from_vec(axes.concat(), (width, hidden), &Device::Cpu)?;
    let x = centred.matmul(&axes.t()?.contiguous()?)?;
    let mean_square = x.sqr()?.mean_all()?.to_scalar::<f32>()?;
    Ok((x / f64::from(mean_square.sqrt().max(f32::MIN_POSITIVE)))?)
}

/// Makes vectors of length 1 that are at right angles to each other (modified Gram-Schmidt); 0 where one adds nothing.
fn orthonormalize(vectors: &mut [Vec<f32>]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for index in 0..vectors.len() {
        let (before, from) = vectors.split_at_mut(index);
        let vector = &mut from[0];
        // Twice, since rounding leaves something of the others.
        for other in before.iter().chain(before.iter()) {
            let shared = dot(vector, other);
            vector.iter_mut().zip(other).for_each(|(x, other)| *x -= shared * other);
        }
        let length = dot(vector, vector).sqrt().max(1e-20);
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_axes_along_which_rows_differ() {
        // Points on a plane in space, far from the origin: two numbers each are enough for all distances.
        let point = |i: usize| {
            let (a, b) = ((i as f32).sin() * 3.0, (i as f32 * 0.7).cos());
            [5.0 + a, 2.0 * b - a, 7.0 + a + b]
        };
        let points: Vec<f32> = (0..50).flat_map(point).collect();
        let x = Tensor::from_vec(points, (50, 3), &Device::Cpu).unwrap();
        let plane = principal(&x, 2).unwrap().to_vec2::<f32>().unwrap();
        let x = x.to_vec2::<f32>().unwrap();
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        let scale = distance(&x[0], &x[1]) / distance(&plane[0], &plane[1]);
        for (i, j) in (0..50).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let (before, after) = (distance(&x[i], &x[j]), distance(&plane[i], &plane[j]) * scale);
            assert!((before - after).abs() < 1e-3 * before.max(1.0), "{i} {j}: {before} {after}");
        }
    }
}
