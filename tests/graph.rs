//! The exported graphs: against the model they come from, against independent programs, and as ONNX Runtime optimizes
//! them.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_onnx::onnx::{AttributeProto, NodeProto, TensorProto};
use nimbert::{Batch, Bundle, Encoding, Session, SessionOptions, Tokenizer};
use nimbert_tests::{ARCHITECTURES, Dir, base, finish, fit, small_csv, workspace};
use nimbert_trainer::{
    dataloader::PackedBatch,
    evaluate::{predict, predict_session},
    export::operator_counts,
    model::{EncoderConfig, SequenceClassifier},
    onnx::{self, GraphConfig, Int8, ModelProto, Operators, Storage, compare},
};

/// Texts of very different lengths, with words that the tiny tokenizer does not know.
pub(crate) const TEXTS: [&str; 6] = [
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
    run_with(graph, encodings, batch_size, SessionOptions::default())
}

fn run_with(graph: &ModelProto, encodings: &[Encoding], batch_size: usize, options: SessionOptions) -> Vec<Vec<f32>> {
    let dir = Dir::default();
    let mut session = open(graph, &dir, options);
    let encodings: Vec<&Encoding> = encodings.iter().collect();
    predict_session(&mut session, encodings.iter().map(|encoding| std::slice::from_ref(*encoding)), PAD, batch_size)
        .unwrap()
}

fn fp32_graph_agrees(folder: &str) {
    let (model, tokenizer) = load(folder);
    let encodings = encode(&tokenizer);
    let trained = predict(&model, encodings.iter().map(std::slice::from_ref), 4).unwrap();
    for operators in [Operators::Microsoft, Operators::Standard] {
        let graph = model.graph(GraphConfig { operators, ..GraphConfig::FP32 }).unwrap();
        for (batch_size, standard_operators) in [(1, false), (3, false), (6, false), (1, true), (6, true)] {
            let options = SessionOptions { standard_operators, ..SessionOptions::default() };
            let logits = run_with(&graph, &encodings, batch_size, options);
            let difference = compare(&logits, &trained).max_logit_difference;
            assert!(difference <= 1e-4, "{operators:?}, batches of {batch_size}, {standard_operators}: {difference}");
        }
    }
}

#[test]
fn fp32_graph_computes_what_each_architecture_does() {
    for name in ARCHITECTURES {
        fp32_graph_agrees(&format!("tests/data/tiny-{name}"));
    }
}

#[test]
fn fp32_graph_computes_what_minilm_does() {
    fp32_graph_agrees("models/minilm");
}

/// Layer normalization in operators that candle-onnx has.
fn spelled_layer_norm(node: &NodeProto) -> Vec<NodeProto> {
    let [x, gamma, beta] = &node.input[..] else { panic!("three inputs") };
    let output = &node.output[0];
    let part = |part: &str| format!("{output}/{part}");
    let op = |name: String, op_type: &str, inputs: &[&str]| NodeProto {
        name: name.clone(),
        op_type: op_type.to_owned(),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![name],
        ..NodeProto::default()
    };
    let attributes = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name).unwrap().clone();
    let mut eps = op(part("eps"), "Constant", &[]);
    let raw_data = attributes("epsilon").f.to_le_bytes().to_vec();
    let value = TensorProto { data_type: 1, raw_data, ..TensorProto::default() };
    eps.attribute = vec![AttributeProto { name: "value".to_owned(), r#type: 4, t: Some(value), ..Default::default() }];
    let mean = |name: &str, x: &str| {
        let mut node = op(part(name), "ReduceMean", &[x]);
        let mut axes = attributes("axis");
        (axes.name, axes.ints, axes.r#type) = ("axes".to_owned(), vec![-1], 7);
        node.attribute = vec![axes];
        node
    };
    vec![
        eps,
        mean("mean", x),
        op(part("centred"), "Sub", &[x, &part("mean")]),
        op(part("squared"), "Mul", &[&part("centred"), &part("centred")]),
        mean("variance", &part("squared")),
        op(part("shifted"), "Add", &[&part("variance"), &part("eps")]),
        op(part("deviation"), "Sqrt", &[&part("shifted")]),
        op(part("normalized"), "Div", &[&part("centred"), &part("deviation")]),
        op(part("scaled"), "Mul", &[&part("normalized"), gamma]),
        op(output.clone(), "Add", &[&part("scaled"), beta]),
    ]
}

/// candle-onnx evaluates the graph operator by operator: no ONNX Runtime, no fusion, none of our operations.
#[test]
fn standard_graph_agrees_with_an_independent_evaluator() {
    let (model, tokenizer) = load("tests/data/tiny-bert");
    let encodings = encode(&tokenizer);
    let config = GraphConfig { operators: Operators::Standard, ..GraphConfig::FP32 };
    let mut graph = model.graph(config).unwrap();
    let nodes = &mut graph.graph.as_mut().unwrap().node;
    *nodes = nodes
        .iter()
        .flat_map(|node| match node.op_type.as_str() {
            "LayerNormalization" => spelled_layer_norm(node),
            _ => vec![node.clone()],
        })
        .collect();
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

/// Operators before ONNX Runtime's optimizer: the graph has what it needs and no more.
#[test]
fn the_graph_has_one_operator_for_each_step() {
    let (model, _) = load("models/minilm");
    let graph = model.graph(GraphConfig::FP32).unwrap();
    let counts = operator_counts(&graph);
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    // Five layers attend by one operator, the last is spelled out for the first tokens.
    assert_eq!((count("Attention"), count("Softmax")), (5, 1), "{counts:?}");
    assert_eq!((count("LayerNormalization"), count("BiasGelu")), (13, 6), "{counts:?}");
    // Two residual products a layer, the query, and the last layer of the head.
    assert_eq!(count("Gemm"), 2 * 6 + 2, "{counts:?}");
    // Six intermediate products and the pooler; of the last layer's attention: key and query, mean, context.
    assert_eq!(count("MatMul") + count("FusedMatMul"), 6 + 1 + 4, "{counts:?}");
    // Two for the embeddings, one for the pooler's bias, two in the last attention.
    assert_eq!(count("Add"), 5, "{counts:?}");
}

/// ONNX Runtime's optimizer finds nothing more to fuse, and computes what has only constants as inputs.
#[test]
fn onnx_runtime_keeps_the_operators_and_folds_the_constants() {
    let (model, _) = load("models/minilm");
    let graph = model.graph(GraphConfig::FP32).unwrap();
    let dir = Dir::default();
    let optimized = dir.path("optimized.onnx");
    let optimized_model = Some(optimized.clone());
    open(&graph, &dir, SessionOptions { optimized_model, standard_operators: true, ..SessionOptions::default() });
    let after = onnx::read(&optimized).unwrap();
    let (before, after) = (operator_counts(&graph), operator_counts(&after));
    for name in ["Attention", "LayerNormalization", "BiasGelu", "Softmax", "Gemm"] {
        assert_eq!(before[name], after[name], "{name}: {after:?}");
    }
    // The weights of the last keys and values are transposed once.
    assert!(after["Transpose"] < before["Transpose"], "{before:?} {after:?}");
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
    let fp32 = model.graph(GraphConfig::FP32).unwrap();
    let int8 = model.graph(GraphConfig { int8: Int8::Weights, ..GraphConfig::FP32 }).unwrap();
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
    let fp32 = model.graph(GraphConfig::FP32).unwrap();
    let config = GraphConfig { int8: Int8::Weights, storage: Storage::Packed, ..GraphConfig::FP32 };
    let packed = model.graph(config).unwrap();
    let dir = Dir::default();
    let (path, optimized) = (dir.path("packed.onnx"), dir.path("optimized.onnx"));
    onnx::write(&packed, &path).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= 15_500_000, "{bytes} bytes");
    Session::open(&path, &SessionOptions { optimized_model: Some(optimized.clone()), ..SessionOptions::default() })
        .unwrap();
    // What is left unpacks the rows that a text picks from two tables.
    let optimized = onnx::read(&optimized).unwrap();
    let counts = operator_counts(&optimized);
    assert_eq!(counts.get("Floor"), Some(&2), "{counts:?}");
    assert_eq!(counts.get("ProductAttention"), Some(&5), "{counts:?}");
    let alone = run(&packed, &encodings, 1);
    let comparison = compare(&alone, &run(&fp32, &encodings, 1));
    assert!(comparison.max_logit_difference < 0.15, "{comparison:?}");
    let difference = compare(&run(&packed, &encodings, 6), &alone).max_logit_difference;
    assert!(difference <= 1e-5, "in a batch: {difference}");
}

/// A graph of floats with attention of ours answers as it does without, and the same in every batch.
#[test]
fn attention_of_ours_computes_what_onnx_runtimes_does() {
    let (model, tokenizer) = load("models/minilm");
    let encodings = encode(&tokenizer);
    let texts = || encodings.iter().map(std::slice::from_ref);
    let dir = Dir::default();
    let (path, optimized) = (dir.path("graph.onnx"), dir.path("optimized.onnx"));
    onnx::write(&model.graph(GraphConfig::FP32).unwrap(), &path).unwrap();
    let logits = |standard_operators, batch_size| {
        let optimized_model = Some(optimized.clone());
        let options = SessionOptions { standard_operators, optimized_model, ..SessionOptions::default() };
        let logits = predict_session(&mut Session::open(&path, &options).unwrap(), texts(), PAD, batch_size).unwrap();
        let graph = onnx::read(&optimized).unwrap();
        let has = |name: &str| operator_counts(&graph).contains_key(name);
        assert_eq!(
            ["Pack", "ProductAttention", "Unpack", "Attention"].map(has),
            match standard_operators {
                true => [false, false, false, true],
                false => [true, true, true, false],
            }
        );
        logits
    };
    let alone = logits(false, 1);
    for other in [logits(true, 1), logits(false, 2), logits(false, 6), logits(true, 6)] {
        let comparison = compare(&other, &alone);
        assert!(comparison.max_logit_difference < 1e-5, "{comparison:?}");
    }
}

/// A graph of integers with operators of ours in it answers as it does without, and the same in every batch.
#[test]
fn operators_of_ours_compute_what_onnx_runtimes_do() {
    let dir = Dir::default();
    // Ranges and channels are those of texts like these.
    let words = ["great", "acting", "a", "thin", "plot", "the", "movie", "worse", "of", "film", "!", "it"];
    let mixed = |row: usize| {
        (0..2 + row % 17).map(|place| words[(row * 7 + place * place) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    let read: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).chain((0..60).map(mixed)).collect();
    let rows = read.iter().map(|text| format!("\"{}\",positive\n", text.replace('"', "\"\"")));
    let data = dir.write("data.csv", small_csv(80) + &rows.collect::<String>().repeat(4));
    let bundle = dir.path("bundle");
    finish(fit(&base("bert"), &data, &bundle).args(["--epochs", "2", "--variants", "cpu-int8,cpu-fp32"])).success();
    let (graph, optimized) = (bundle.join("model.onnx"), dir.path("optimized.onnx"));
    let tokenizer = Tokenizer::open(&bundle.join("tokenizer.json"), 60).unwrap();
    let encodings: Vec<Encoding> = read.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let texts = || encodings.iter().map(std::slice::from_ref);
    // Channels are scaled before each activation is quantized.
    let stored = onnx::read(&graph).unwrap();
    let stored = operator_counts(&stored);
    assert!(stored["QuantizeLinear"] > 5 && stored["Mul"] >= stored["QuantizeLinear"], "{stored:?}");
    let logits = |standard_operators, batch_size| {
        let optimized_model = Some(optimized.clone());
        let options = SessionOptions { standard_operators, optimized_model, ..SessionOptions::default() };
        let logits = predict_session(&mut Session::open(&graph, &options).unwrap(), texts(), PAD, batch_size).unwrap();
        let graph = onnx::read(&optimized).unwrap();
        let counts: HashMap<String, usize> =
            operator_counts(&graph).into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        (logits, counts)
    };
    let ((standard, without), (alone, with)) = (logits(true, 1), logits(false, 1));
    for name in ["ProductAttention", "AddLayerNormQuantize", "BiasGeluQuantize", "Pack", "Unpack"] {
        assert!(with.contains_key(name) && !without.contains_key(name), "{name}: {with:?} {without:?}");
    }
    // The sums of weights are known since the graph was loaded.
    for name in ["QAttention", "BiasGelu", "MatMulInteger"] {
        assert!(!with.contains_key(name), "{name}: {with:?}");
    }
    let comparison = compare(&alone, &standard);
    assert!(comparison.relative_error < 0.1, "{comparison:?}");
    // Where each row of bytes has a scale and a zero point, they are nearer to what they stand for.
    let fp32 = Bundle::open(&bundle).unwrap();
    std::fs::create_dir(dir.path("fp32")).unwrap();
    let fp32 = fp32.extract_graph(&fp32.manifest.variants[1], &dir.path("fp32")).unwrap();
    let fp32 = &mut Session::open(&fp32, &SessionOptions::default()).unwrap();
    let fp32 = predict_session(fp32, texts(), PAD, 1).unwrap();
    let [ours, standard] = [&alone, &standard].map(|logits| compare(logits, &fp32).relative_error);
    assert!(ours < standard, "{ours}, {standard}");
    for batch_size in [2, 6] {
        let difference = compare(&logits(false, batch_size).0, &alone).max_logit_difference;
        assert!(difference <= 1e-5, "batches of {batch_size}: {difference}");
    }
}
