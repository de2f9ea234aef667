//! Smaller models from a trained one: fewer words, fewer layers.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use nimbert::bundle;
use serde_json::Value;

use crate::{
    dataloader::Example,
    error::{Error, Result},
    model::{EncoderConfig, SequenceClassifier},
    static_model::StaticConfig,
    vocabulary::{TrimConfig, Trimmed, trim},
};

/// A model for which nothing has been written yet, and its tokenizer.
#[derive(Debug)]
pub struct Compressed {
    /// The model.
    pub model: SequenceClassifier,
    /// Its `tokenizer.json`.
    pub tokenizer: Value,
}

/// One way to make a model smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// Encoder layers that remain; 0: a model without attention.
    pub layers: usize,
    /// Words that remain.
    pub vocabulary: usize,
    /// About the size of its bundle, in bytes.
    pub bytes: usize,
}

/// How often each id occurs in the examples.
pub fn token_counts(examples: &[Example], vocab_size: usize) -> Vec<u64> {
    let mut counts = vec![0; vocab_size];
    let ids = examples.iter().flat_map(|example| &example.windows).flat_map(|window| &window.input_ids);
    ids.for_each(|&id| counts[id as usize] += 1);
    counts
}

/// The same model with a vocabulary of `size` tokens: those that `counts` has most often, then the base's most frequent.
///
/// # Errors
/// [`Error::Model`] if tokenizer.json is of a kind that cannot be trimmed; [`Error::Io`], [`Error::Tensor`].
pub fn trim_vocabulary(
    model: &SequenceClassifier,
    tokenizer: &Path,
    counts: &[u64],
    size: usize,
) -> Result<Compressed> {
    let json = std::fs::read(tokenizer).map_err(|error| Error::io(tokenizer, error))?;
    let json: Value = serde_json::from_slice(&json)
        .map_err(|error| Error::model(tokenizer, "a Hugging Face tokenizer.json", error.to_string()))?;
    let Trimmed { tokenizer: trimmed, old_ids } = trim(&json, counts, TrimConfig { size, min_count: 1 })
        .map_err(|got| Error::model(tokenizer, "a vocabulary that can be trimmed", got))?;
    let pad = old_ids.binary_search(&model.config.pad_token_id);
    let pad_token_id = pad.map_err(|_| Error::model(tokenizer, "the pad token of config.json", "another one"))? as u32;
    let words = model.config.family.word_embeddings();
    let mut tensors = tensors(model);
    let table = tensors.get(&words).expect("a parameter of every model");
    let rows = table.index_select(&Tensor::new(old_ids.as_slice(), &Device::Cpu)?, 0)?;
    tensors.insert(words, rows);
    let config = EncoderConfig { vocab_size: old_ids.len(), pad_token_id, ..model.config.clone() };
    Ok(Compressed { model: rebuild(model, tensors, config)?, tokenizer: trimmed })
}

/// A copy of `model` that has only the layers named, in that order. At each place there must be a layer that attends as the
/// model's own at that place does, see [`kept_layers`].
///
/// # Errors
/// [`Error::Setting`] for layers that cannot stand there; [`Error::Tensor`].
pub fn with_layers(model: &SequenceClassifier, layers: &[usize]) -> Result<SequenceClassifier> {
    let config = &model.config;
    let own = config.layers.get(..layers.len()).unwrap_or_default();
    if layers.is_empty() || !layers.iter().map(|&layer| config.layers.get(layer)).eq(own.iter().map(Some)) {
        let expected = "layers that attend as those in whose place they come";
        return Err(Error::setting("--layers", expected, format!("{layers:?}")));
    }
    let renamed = |(name, tensor): (String, Tensor)| -> Vec<(String, Tensor)> {
        let names = config.family.moved_to_layers(&name, layers);
        names.into_iter().map(|name| (name, tensor.clone())).collect()
    };
    let config = EncoderConfig { layers: own.to_vec(), ..config.clone() };
    rebuild(model, tensors(model).into_iter().flat_map(renamed).collect(), config)
}

/// Which `count` of the layers to keep: evenly spaced, the last one included, and the first where it is unlike the others; each
/// attends as the model's own layer at its new place does.
pub fn kept_layers(config: &EncoderConfig, count: usize) -> Vec<usize> {
    let all = config.layers.len();
    let first_stays = config.family.has_first_layer_of_its_own();
    let wanted = |place: usize| match first_stays && count > 1 {
        true => place * (all - 1) / (count - 1),
        false => (place + 1) * all / count - 1,
    };
    let fits = |place: usize, layer: usize| {
        config.layers[layer] == config.layers[place] && !(first_stays && place == 0 && layer > 0)
    };
    // best[layer]: the least sum of distances from what is wanted, and the layers, with `layer` at the last place.
    let mut best: Vec<Option<(usize, Vec<usize>)>> = vec![None; all];
    for place in 0..count {
        let next = (0..all).map(|layer| {
            let before = match place {
                0 => Some((0, Vec::new())),
                _ => best[..layer].iter().flatten().min_by_key(|(distance, _)| *distance).cloned(),
            };
            let (distance, mut layers) = before.filter(|_| fits(place, layer))?;
            layers.push(layer);
            Some((distance + layer.abs_diff(wanted(place)), layers))
        });
        best = next.collect();
    }
    // The first layers always fit.
    best.into_iter().flatten().min_by_key(|(distance, _)| *distance).map_or_else(|| (0..count).collect(), |best| best.1)
}

/// A layer's nodes in the graph: some eighty that unpack its weights among them, each with its names.
const LAYER_NODES: usize = 50_000;

/// Bytes of what a bundle has besides graph and tokenizer, at most: manifest, model card and configuration, all of which name the labels.
pub fn beside_graph(labels: &[String]) -> usize {
    const REST: usize = 100_000;
    // With ids, thresholds and figures.
    REST + labels.iter().map(|label| 4 * label.len() + 160).sum::<usize>()
}

/// Bytes of the bundle of a model as it is, at least: weights and embeddings as integers of a byte, and the tokenizer.
pub fn least_bytes(model: &SequenceClassifier, tokenizer_bytes: u64) -> usize {
    model.parameters().iter().map(|(_, var)| var.elem_count()).sum::<usize>() + tokenizer_bytes as usize
}

/// The largest models under `bytes`, their integers packed ([`crate::onnx::Storage::Packed`]): for each number of layers,
/// as many words as there is room for. Those with the most layers come first, and one without any last, which is a
/// [`crate::static_model`]. Empty if not even `smallest_vocabulary` words fit.
pub fn rungs(model: &SequenceClassifier, tokenizer_bytes: u64, smallest_vocabulary: usize, bytes: usize) -> Vec<Rung> {
    let config = &model.config;
    let is_words = |name: &str| name == config.family.word_embeddings();
    // Six bits for a weight and four for an embedding; four bytes for biases, layer normalization, and the scales, which
    // are about as many again.
    let size = |tensor: &Tensor| match tensor.dims() {
        [_, _] => tensor.elem_count() * 3 / 4,
        _ => 8 * tensor.elem_count(),
    };
    // Twice, to be sure: what is planned is trained for minutes before it is measured.
    let rest = 2 * beside_graph(&model.labels);
    let (mut layer, mut fixed) = (LAYER_NODES, rest);
    for (name, var) in model.parameters().iter() {
        match model.depth(name) {
            // What layers share is there once.
            1 if !config.shares_layers() => layer += size(var),
            depth if depth > 1 && depth <= config.layers.len() && !config.shares_layers() => {}
            _ if is_words(name) => {}
            _ => fixed += size(var),
        }
    }
    let word = config.embedding_size / 2 + 4 + tokenizer_bytes as usize / config.vocab_size;
    let rung = |layers: usize| {
        let room = bytes.checked_sub(fixed + layers * layer)?;
        let vocabulary = (room / word).min(config.vocab_size);
        let bytes = fixed + layers * layer + vocabulary * word;
        (vocabulary >= smallest_vocabulary).then_some(Rung { layers, vocabulary, bytes })
    };
    // Without layers: a byte for each number of a vector, and a head of its width.
    let width = StaticConfig::of(config, 0).width;
    let word_alone = width + 4 + tokenizer_bytes as usize / config.vocab_size;
    let without_layers = || {
        let fixed = rest + 4 * width * (width + model.labels.len());
        let vocabulary = (bytes.checked_sub(fixed)? / word_alone).min(config.vocab_size);
        let bytes = fixed + vocabulary * word_alone;
        (vocabulary >= smallest_vocabulary).then_some(Rung { layers: 0, vocabulary, bytes })
    };
    (1..=config.layers.len()).rev().filter_map(rung).chain(without_layers()).collect()
}

fn tensors(model: &SequenceClassifier) -> BTreeMap<String, Tensor> {
    model.parameters().iter().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect()
}

fn rebuild(
    model: &SequenceClassifier,
    tensors: BTreeMap<String, Tensor>,
    config: EncoderConfig,
) -> Result<SequenceClassifier> {
    // The head fits, whatever labels the base's config.json names.
    let config = config.with_labels(&model.labels);
    let path = config.path.with_file_name(bundle::CONFIG);
    let (tasks, head_was_new) = (model.tasks.clone(), model.head_was_new);
    let (model, report) = SequenceClassifier::from_tensors(&path, tensors, config, &model.labels, 0)?;
    let mut model = model.with_tasks(tasks);
    model.head_was_new = head_was_new;
    report.expect_trained()?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_evenly_spaced_and_end_with_the_last() {
        let config = |model_type: &str, layers: usize| {
            let json = serde_json::json!({
                "model_type": model_type, "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": layers,
                "num_attention_heads": 1, "intermediate_size": 4, "max_position_embeddings": 9, "pad_token_id": 0
            });
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            std::fs::write(&path, json.to_string()).unwrap();
            EncoderConfig::open(&path).unwrap()
        };
        let kept = |all, count| kept_layers(&config("bert", all), count);
        assert_eq!(kept(6, 3), [1, 3, 5]);
        assert_eq!(kept(6, 4), [0, 2, 3, 5]);
        assert_eq!(kept(12, 1), [11]);
        assert_eq!(kept(6, 6), [0, 1, 2, 3, 4, 5]);
        // Of ModernBERT's layers the first and every third see all of a text.
        let kept = |all, count| kept_layers(&config("modernbert", all), count);
        assert_eq!(kept(22, 4), [0, 7, 14, 21]);
        for count in 1..=22 {
            let kept = kept(22, count);
            assert!(kept[0] == 0 && kept.is_sorted() && kept.len() == count, "{kept:?}");
            assert!(kept.iter().enumerate().all(|(place, layer)| (place % 3 == 0) == (layer % 3 == 0)), "{kept:?}");
        }
    }
}
