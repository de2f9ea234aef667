//! The exported graphs: against the model they come from, against independent programs, and as ONNX Runtime optimizes
//! them.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use nimbert::{Batch, Encoding, Session, SessionOptions, Tokenizer};
use nimbert_tests::{Dir, workspace};
use nimbert_trainer::{
    dataloader::PackedBatch,
    evaluate::{predict, predict_session},
    model::{EncoderConfig, SequenceClassifier},
    onnx::{self, ModelProto, Storage, compare},
};

/// Texts of very different lengths, with words that the tiny tokenizer does not know.
const TEXTS: [&str; 6] = [
    "I love this movie!",
    "the plot is thin , the acting worse .",
    "",
    "one of the year's best films , and a masterpiece of boredom , terrible , just terrible , it is what it is",
    "电影很好看",
    "Café Zoë – naïve résumé",
];

/// What fills the shorter rows: a token, so that a mask that does not hide it is found out.
const PAD: u32 = 7;

fn load(folder: &str) -> (SequenceClassifier, Tokenizer) {
    let folder = workspace(folder);
    let config = EncoderConfig::open(&folder.join("config.json")).unwrap();
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), 60).unwrap();
    let labels = ["negative", "positive"].map(String::from);
    let weights = folder.join("model.safetensors");
    (SequenceClassifier::load(&weights, config, &labels, 0).unwrap().0, tokenizer)
}

fn encode(tokenizer: &Tokenizer) -> Vec<Encoding> {
    TEXTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect()
}

fn open(graph: &ModelProto, dir: &Dir, options: SessionOptions) -> Session {
    let path = dir.path("graph.onnx");
    onnx::write(graph, &path).unwrap();
    Session::open(&path, &options).unwrap()
}

fn run(graph: &ModelProto, encodings: &[Encoding], batch_size: usize) -> Vec<Vec<f32>> {
    let dir = Dir::default();
    let mut session = open(graph, &dir, SessionOptions::default());
    let encodings: Vec<&Encoding> = encodings.iter().collect();
    predict_session(&mut session, encodings.iter().map(|encoding| std::slice::from_ref(*encoding)), PAD, batch_size)
        .unwrap()
}

fn fp32_graph_agrees(folder: &str) {
    let (model, tokenizer) = load(folder);
    let encodings = encode(&tokenizer);
    let graph = onnx::export(&model).unwrap();
    let trained = predict(&model, encodings.iter().map(std::slice::from_ref), 4).unwrap();
    for batch_size in [1, 3, 6] {
        let difference = compare(&run(&graph, &encodings, batch_size), &trained).max_logit_difference;
        assert!(difference <= 1e-4, "batches of {batch_size}: {difference}");
    }
}

#[test]
fn fp32_graph_computes_what_each_architecture_does() {
    for name in ["bert", "distilbert", "electra", "roberta"] {
        fp32_graph_agrees(&format!("tests/data/tiny-{name}"));
    }
}

#[test]
fn fp32_graph_computes_what_minilm_does() {
    fp32_graph_agrees("models/minilm");
}

/// candle-onnx evaluates the graph operator by operator: no ONNX Runtime, no fusion, none of our operations.
#[test]
fn fp32_graph_agrees_with_an_independent_evaluator() {
    let (model, tokenizer) = load("tests/data/tiny-bert");
    let encodings = encode(&tokenizer);
    let graph = onnx::export(&model).unwrap();
    let batch = Batch::pad(encodings.iter(), PAD);
    let input = |values: &[i64]| Tensor::from_slice(values, (batch.rows, batch.columns), &Device::Cpu).unwrap();
    let inputs = HashMap::from([
        ("input_ids".to_owned(), input(&batch.input_ids)),
        ("attention_mask".to_owned(), input(&batch.attention_mask)),
        ("token_type_ids".to_owned(), input(&batch.token_type_ids)),
    ]);
    let outputs = candle_onnx::simple_eval(&graph, inputs).unwrap();
    let logits = outputs["logits"].to_vec2::<f32>().unwrap();
    let difference =
        compare(&logits, &predict(&model, encodings.iter().map(std::slice::from_ref), 6).unwrap()).max_logit_difference;
    assert!(difference <= 1e-4, "{difference}");
}

/// candle-transformers has a BERT of its own, for inference.
#[test]
fn encoder_agrees_with_candle_transformers() {
    let (model, tokenizer) = load("models/minilm");
    let json = std::fs::read_to_string(workspace("models/minilm/config.json")).unwrap();
    let config: candle_transformers::models::bert::Config = serde_json::from_str(&json).unwrap();
    let tensors = candle_core::safetensors::load(workspace("models/minilm/model.safetensors"), &Device::Cpu).unwrap();
    let builder = candle_nn::VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
    let other = candle_transformers::models::bert::BertModel::load(builder, &config).unwrap();
    for encoding in encode(&tokenizer) {
        let ids = Tensor::new(&encoding.input_ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let token_types = ids.zeros_like().unwrap();
        let expected = other.forward(&ids, &token_types, None).unwrap().squeeze(0).unwrap();
        let encoded = model.encode(&PackedBatch::new([&encoding]), true, None).unwrap();
        let difference = (encoded.hidden_states.last().unwrap() - expected).unwrap().abs().unwrap();
        let largest: f32 = difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
        assert!(largest <= 1e-4, "{largest}");
    }
}

/// How many operators of each type a graph has.
fn operators(graph: &ModelProto) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.graph.as_ref().unwrap().node {
        *counts.entry(node.op_type.clone()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn onnx_runtime_fuses_attention_layer_normalization_and_gelu() {
    let (model, _) = load("models/minilm");
    let graph = onnx::export(&model).unwrap();
    assert_eq!(operators(&graph)["Erf"], 6);
    let dir = Dir::default();
    let optimized = dir.path("optimized.onnx");
    open(&graph, &dir, SessionOptions { optimized_model: Some(optimized.clone()), ..SessionOptions::default() });
    let counts = operators(&onnx::read(&optimized).unwrap());
    let count = |names: &[&str]| names.iter().filter_map(|name| counts.get(*name)).sum::<usize>();
    assert_eq!(count(&["Attention"]), 6, "{counts:?}");
    assert_eq!(count(&["LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"]), 13, "{counts:?}");
    assert_eq!(count(&["BiasGelu", "Gelu", "FastGelu"]), 6, "{counts:?}");
    assert_eq!(count(&["Softmax", "Erf", "Pow", "Sqrt", "ReduceMean"]), 0, "{counts:?}");
}

/// The tanh form of GELU, which no base model here has: against the model, with its configuration changed.
#[test]
fn fp32_graph_computes_other_activations() {
    for activation in ["gelu_new", "relu"] {
        let dir = Dir::default();
        let folder = dir.tiny_bert(|config| drop(config.insert("hidden_act".into(), activation.into())));
        fp32_graph_agrees(folder.to_str().unwrap());
    }
}

#[test]
fn int8_graph_is_small_faithful_and_the_same_in_every_batch() {
    let (model, tokenizer) = load("models/minilm");
    let encodings = encode(&tokenizer);
    let fp32 = onnx::export(&model).unwrap();
    let int8 = onnx::quantize(&fp32, Storage::Bytes);
    let dir = Dir::default();
    let path = dir.path("int8.onnx");
    onnx::write(&int8, &path).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= 24_000_000, "{bytes} bytes");
    let alone = run(&int8, &encodings, 1);
    // The head is random here and its logits are small: the bound is about a third of their size.
    let comparison = compare(&alone, &run(&fp32, &encodings, 1));
    assert!(comparison.max_logit_difference < 0.05, "{comparison:?}");
    for batch_size in [2, 6] {
        let difference = compare(&run(&int8, &encodings, batch_size), &alone).max_logit_difference;
        assert!(difference <= 1e-5, "batches of {batch_size}: {difference}");
    }
}

/// Six bits a weight and four an embedding, unpacked by nodes that ONNX Runtime computes when it loads the graph.
#[test]
fn packed_graph_is_a_third_smaller_and_unpacked_at_load() {
    let (model, tokenizer) = load("models/minilm");
    let encodings = encode(&tokenizer);
    let fp32 = onnx::export(&model).unwrap();
    let packed = onnx::quantize(&fp32, Storage::Packed);
    let dir = Dir::default();
    let (path, optimized) = (dir.path("packed.onnx"), dir.path("optimized.onnx"));
    onnx::write(&packed, &path).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= 15_500_000, "{bytes} bytes");
    Session::open(&path, &SessionOptions { optimized_model: Some(optimized.clone()), ..SessionOptions::default() })
        .unwrap();
    // What is left unpacks the rows that a text picks from two tables.
    let counts = operators(&onnx::read(&optimized).unwrap());
    assert_eq!(counts.get("Floor"), Some(&2), "{counts:?}");
    let alone = run(&packed, &encodings, 1);
    let comparison = compare(&alone, &run(&fp32, &encodings, 1));
    assert!(comparison.max_logit_difference < 0.15, "{comparison:?}");
    let difference = compare(&run(&packed, &encodings, 6), &alone).max_logit_difference;
    assert!(difference <= 1e-5, "in a batch: {difference}");
}
