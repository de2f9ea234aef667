//! A student without attention: a table of vectors for tokens, and a small head that reads their mean.
//!
//! Model2Vec (Tulkens and van Dongen, 2024, MinishLab) takes what an encoder makes of each token alone, and the principal
//! axes of that. Here the encoder is one that was trained on the task, and table and head go on learning from its answers.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use nimbert::Encoding;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{
    dataloader::{Example, PackedBatch},
    error::{Error, Result},
    loss::Loss,
    model::{EncoderConfig, SequenceClassifier},
    random::{Stream, generator},
    train::TrainConfig,
};

/// How a table begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StaticConfig {
    /// Numbers a token; at most the teacher's `hidden_size`.
    pub width: usize,
    /// A token of probability p counts by `a / (a + p)`, so that what is everywhere says little (Arora et al., 2017).
    pub smoothing: f64,
    /// Share of the table's numbers, and of those before the head's last layer, that are dropped in training.
    pub dropout: f32,
    /// For the head, which is made anew.
    pub seed: u64,
}

impl StaticConfig {
    /// What is usual, for a teacher of that shape.
    pub fn of(teacher: &EncoderConfig, seed: u64) -> Self {
        Self { width: teacher.hidden_size.min(128), smoothing: 1e-3, dropout: 0.4, seed }
    }
}

/// Of each target of the student, the part that the teacher says (see [`crate::distill::softened`]).
pub const SOFT_SHARE: f32 = 0.9;

/// How the student learns from `rows` rows that its teacher, which learned by `teacher`, has softened: for so many epochs, and of
/// few rows for so many steps. With more it learns the rows by heart. Weights of classes and the like have made the teacher's
/// answers what they are, so they count no second time.
pub fn train_config(teacher: &TrainConfig, rows: usize) -> TrainConfig {
    const BATCH_SIZE: usize = 32;
    const STEPS: usize = 600;
    const LEAST_EPOCHS: usize = 5;
    const MOST_EPOCHS: usize = 40;
    TrainConfig {
        epochs: (STEPS * BATCH_SIZE).div_ceil(rows.max(1)).clamp(LEAST_EPOCHS, MOST_EPOCHS),
        batch_size: BATCH_SIZE,
        gradient_accumulation: 1,
        learning_rate: 2e-3,
        layer_decay: 1.0,
        loss: Loss { problem_type: teacher.loss.problem_type, ..Loss::default() },
        contrast: None,
        // While the learning rate still rises, no epoch says what the next ones will bring.
        patience: None,
        ..teacher.clone()
    }
}

/// Variations of the training texts, of which only a teacher knows what they say: the beginning of one with the end of another,
/// a few tokens in a row, and texts of which some tokens are missing or are others. Parts show a model that adds up tokens what
/// each of them adds (Tang et al., arXiv 1903.12136). Up to 8 of each text, of `TOKENS` in all as far as one of each has no more.
/// `empty` is what the tokenizer makes of a text without words.
pub fn variations(examples: &[Example], empty: &Encoding, seed: u64) -> Vec<Example> {
    const TOKENS: usize = 400_000;
    const MOST: usize = 8;
    let (before, behind) = empty.input_ids.split_at(empty.input_ids.len() / 2);
    let words_of = |example: &Example| -> Vec<u32> {
        let ids = &example.windows[0].input_ids;
        ids.get(before.len()..ids.len().saturating_sub(behind.len())).unwrap_or_default().to_vec()
    };
    let texts: Vec<(Vec<u32>, &Example)> =
        examples.iter().map(|example| (words_of(example), example)).filter(|(words, _)| !words.is_empty()).collect();
    let longest = texts.iter().map(|(words, _)| words.len()).max().unwrap_or(0);
    let tokens: usize = texts.iter().map(|(words, _)| words.len()).sum();
    let count = (TOKENS / tokens.max(1)).clamp(1, MOST);
    let rng = &mut generator(seed, Stream::Variations);
    let mut variations = Vec::with_capacity(texts.len() * count);
    for (words, example) in texts.iter().flat_map(|text| std::iter::repeat_n(text, count)) {
        let mut words = varied(words, &texts, rng);
        words.truncate(longest);
        let input_ids = [before, &words, behind].concat();
        let window = Encoding { token_type_ids: vec![0; input_ids.len()], input_ids, truncated: false };
        variations.push(Example { windows: vec![window], target: example.target.clone() });
    }
    variations
}

/// One variation of a text's tokens. None of `texts` is empty.
fn varied(words: &[u32], texts: &[(Vec<u32>, &Example)], rng: &mut ChaCha8Rng) -> Vec<u32> {
    /// Tokens of a part, at most.
    const PART: usize = 6;
    const MISSING: f64 = 0.1;
    const REPLACED: f64 = 0.3;
    let other = |rng: &mut ChaCha8Rng| &texts[rng.random_range(0..texts.len())].0;
    match rng.random_range(0..10) {
        0..3 => {
            let end = other(rng);
            let (kept, from) = (rng.random_range(1..=words.len()), rng.random_range(0..=end.len()));
            [&words[..kept], &end[from..]].concat()
        }
        3..5 => {
            let count = rng.random_range(1..=words.len().min(PART));
            let first = rng.random_range(0..=words.len() - count);
            words[first..first + count].to_vec()
        }
        _ => {
            let mut kept = Vec::with_capacity(words.len());
            for &word in words {
                if rng.random_bool(REPLACED) {
                    let other = other(rng);
                    kept.push(other[rng.random_range(0..other.len())]);
                } else if !rng.random_bool(MISSING) {
                    kept.push(word);
                }
            }
            kept
        }
    }
}

/// Tokens that the teacher reads at once.
const BATCH: usize = 256;

/// The student of `teacher`, not yet trained, on the CPU. `empty` is what the tokenizer makes of a text without words: each token
/// is put into its middle and read by the teacher. `counts` says how often each occurs, by id. `on_read` is told how many tokens
/// have been read since the last time; an error of its own ends the work.
///
/// # Errors
/// [`Error::Setting`] for a width that the teacher does not have; [`Error::Tensor`]; those of `on_read`.
pub fn static_model(
    teacher: &SequenceClassifier,
    empty: &Encoding,
    counts: &[u64],
    config: StaticConfig,
    on_read: impl FnMut(usize) -> Result<()>,
) -> Result<SequenceClassifier> {
    let width = config.width;
    if width == 0 || width > teacher.config.hidden_size {
        let expected = format!("a width from 1 to the model's {}", teacher.config.hidden_size);
        return Err(Error::setting("--student", expected, width));
    }
    let vectors = principal(&alone(teacher, empty, on_read)?, width)?;
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let weights = counts.iter().map(|&count| config.smoothing / (config.smoothing + count as f64 / total));
    let weights: Vec<f32> = weights.map(|weight| weight as f32).collect();
    let weights = Tensor::from_vec(weights, (counts.len(), 1), &Device::Cpu)?;
    let table = vectors.broadcast_mul(&weights)?;

    let encoder = EncoderConfig::static_of(&teacher.config, width, config.dropout)?.with_labels(&teacher.labels);
    let tensors = BTreeMap::from([(encoder.family.word_embeddings(), table)]);
    let (model, _) =
        SequenceClassifier::from_tensors(&teacher.config.path, tensors, encoder, &teacher.labels, config.seed)?;
    Ok(model.with_tasks(teacher.tasks.clone()))
}

/// What the teacher's head reads of each token alone: `[vocabulary, hidden]`
fn alone(
    teacher: &SequenceClassifier,
    empty: &Encoding,
    mut on_read: impl FnMut(usize) -> Result<()>,
) -> Result<Tensor> {
    let teacher = teacher.for_inference();
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
        let pooled = teacher.pooled(&teacher.encode(&batch, false, None)?, &batch)?;
        on_read(ids.len())?;
        Ok(pooled.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
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
    use crate::{optimizer::AdamWConfig, schedule::Curve};

    #[test]
    fn learns_by_settings_of_its_own() {
        let loss = Loss { class_weights: Some(vec![1.0, 9.0]), label_smoothing: 0.1, ..Loss::default() };
        let teacher = TrainConfig {
            epochs: 2,
            batch_size: 7,
            learning_rate: 1e-4,
            warmup_ratio: 0.1,
            curve: Curve::Cosine,
            loss,
            contrast: None,
            gradient_accumulation: 2,
            layer_decay: 0.9,
            patience: Some(1),
            max_grad_norm: 1.0,
            adamw: AdamWConfig::default(),
            seed: 5,
        };
        let epochs = |rows| train_config(&teacher, rows).epochs;
        assert_eq!([1, 1000, 100_000].map(epochs), [40, 20, 5]);
        let config = train_config(&teacher, 1000);
        assert_eq!((config.loss, config.patience, config.batch_size), (Loss::default(), None, 32));
        assert_eq!((config.seed, config.curve), (5, Curve::Cosine));
    }

    #[test]
    fn variations_are_made_of_the_texts_tokens() {
        let example = |words: &[u32]| {
            let input_ids = [&[1], words, &[2]].concat();
            let token_type_ids = vec![0; input_ids.len()];
            Example { windows: vec![Encoding { input_ids, token_type_ids, truncated: false }], target: [0].into() }
        };
        let empty = Encoding { input_ids: vec![1, 2], token_type_ids: vec![0, 0], truncated: false };
        let examples = [example(&[10, 11, 12, 13, 14, 15, 16, 17]), example(&[20]), example(&[])];
        let variations = variations(&examples, &empty, 3);
        assert_eq!(variations.len(), 16, "8 of each text that has words");
        for Example { windows, .. } in &variations {
            let ids = &windows[0].input_ids;
            assert_eq!((ids[0], ids[ids.len() - 1]), (1, 2));
            assert!(ids.len() <= 10 && ids[1..ids.len() - 1].iter().all(|id| (10..=20).contains(id)), "{ids:?}");
        }
        assert!(variations.iter().any(|variation| variation.windows != examples[0].windows));
        assert_eq!(variations, super::variations(&examples, &empty, 3));
        assert!(super::variations(&[], &empty, 3).is_empty());
    }

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
