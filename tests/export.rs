//! What an export promises: answers that do not depend on the batch, and foreign folders with the answers of the
//! program that made them.

use std::sync::atomic::AtomicBool;

use nimbert::{
    Batch, Bundle, Classifier, Device, Encoding, Options, ProblemType, Session, SessionOptions, Tokenizer,
    TruncationSide,
};
use nimbert_tests::{ARCHITECTURES, Dir, base, finish, program, workspace};
use nimbert_trainer::{
    export::{Contents, Evidence, ExportConfig, ExportData, VariantKind, judge, pack},
    model::{EncoderConfig, SequenceClassifier},
    onnx::{Calibration, Storage},
};

/// Real sentences, one of each so many.
fn movie_sentences(count: usize) -> Vec<String> {
    let file = std::fs::read_to_string(workspace(".setup/data/movieReviewSnippets_GroundTruth.txt")).unwrap();
    let lines: Vec<&str> = file.lines().collect();
    let text = |line: &&&str| line.rsplit('\t').next().unwrap().to_owned();
    lines.iter().step_by(lines.len() / count).take(count).map(|line| text(&line)).collect()
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A batch with `further` columns of padding, filled with whatever.
fn padded(encodings: &[&Encoding], further: usize, filling: u32) -> Batch {
    let mut batch = Batch::pad(encodings.iter().copied(), filling);
    let wide = |values: &[i64], filling: i64| -> Vec<i64> {
        let row = |row: &[i64]| row.iter().copied().chain(std::iter::repeat_n(filling, further)).collect::<Vec<_>>();
        values.chunks_exact(batch.columns).flat_map(row).collect()
    };
    let input_ids = wide(&batch.input_ids, filling.into());
    let [attention_mask, token_type_ids] = [wide(&batch.attention_mask, 0), wide(&batch.token_type_ids, 0)];
    batch.columns += further;
    Batch { input_ids, attention_mask, token_type_ids, ..batch }
}

fn scores(logits: &[f32]) -> [f32; 2] {
    let positive = 1.0 / (1.0 + (logits[0] - logits[1]).exp());
    [1.0 - positive, positive]
}

#[test]
fn five_hundred_texts_get_the_same_answers_in_every_batch() {
    let folder = workspace("models/minilm");
    let config = EncoderConfig::open(&folder.join("config.json")).unwrap();
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), 128).unwrap();
    let labels = ["negative", "positive"].map(String::from);
    let (model, _) = SequenceClassifier::load(&folder.join("model.safetensors"), config, &labels, 0).unwrap();
    let head =
        candle_core::safetensors::load(workspace("tests/data/minilm/head.safetensors"), &candle_core::Device::Cpu);
    for (name, value) in head.unwrap() {
        model.parameters().get(&name).unwrap().set(&value).unwrap();
    }
    let encodings: Vec<Encoding> = movie_sentences(500).iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let texts: Vec<&[Encoding]> = encodings.iter().map(std::slice::from_ref).collect();
    let data = ExportData {
        evidence: Evidence { split: "synthetic", texts: texts[..64].to_vec(), labels: None },
        unseen: None,
        test: None,
        strangers: Vec::new(),
        calibration_texts: texts[..128].to_vec(),
    };
    let config = ExportConfig {
        problem_type: ProblemType::SingleLabel,
        certainty: nimbert_trainer::calibrate::Certainty::default(),
        distance: None,
        variants: vec![VariantKind::CpuInt8, VariantKind::CpuFp32],
        calibrations: vec![Calibration::MinMax],
        sensitivity: false,
        storage: Storage::Bytes,
        max_tokens: None,
        max_accuracy_drop: 1.0,
        max_label_changes: 5.0,
        overwrite: false,
        ort_lib: None,
    };
    let stop = AtomicBool::new(false);
    let judged = judge(&model, &data, &config, &stop).unwrap();
    let dir = Dir::default();
    let contents = Contents {
        tokenizer: folder.join("tokenizer.json"),
        max_length: 128,
        stride: None,
        provenance: nimbert::bundle::Provenance {
            base_model: "minilm".to_owned(),
            data_sha256: None,
            seed: None,
            producer: "a test".to_owned(),
        },
        truncation_side: TruncationSide::Right,
        pairs: None,
        reference: None,
    };
    let bundle = pack(&model, judged, &contents, &config, &dir.path("bundle"), &stop).unwrap();
    for variant in &bundle.manifest.variants {
        let path = bundle.path.join(&variant.file);
        let mut session = Session::open(&path, &SessionOptions::default()).unwrap();
        let alone: Vec<[f32; 2]> = encodings
            .iter()
            .map(|encoding| scores(&session.run(&Batch::pad(std::iter::once(encoding), 0)).unwrap()))
            .collect();
        let (mut random, mut order) = (Random(7), (0..encodings.len()).collect::<Vec<_>>());
        for place in (1..order.len()).rev() {
            order.swap(place, random.below(place + 1));
        }
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (indices, further) = rest.split_at((1 + random.below(40)).min(rest.len()));
            rest = further;
            let rows: Vec<&Encoding> = indices.iter().map(|&index| &encodings[index]).collect();
            let batch = padded(&rows, random.below(3) * random.below(60), random.below(1000) as u32);
            for (&index, logits) in indices.iter().zip(session.run(&batch).unwrap().chunks_exact(2)) {
                let (got, expected) = (scores(logits), alone[index]);
                assert!(
                    (got[1] - expected[1]).abs() <= 1e-4,
                    "{}, text {index}: {got:?}, alone {expected:?}",
                    variant.name
                );
                assert_eq!(got[1] > got[0], expected[1] > expected[0], "{}, text {index}", variant.name);
            }
        }
    }
}

#[test]
fn foreign_folders_of_all_architectures_keep_their_logits() {
    for name in ARCHITECTURES {
        let folder = base(name);
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let dir = Dir::default();
        let mut command = program("nimbert-train");
        command.arg("export").arg(&folder).arg("--out").arg(dir.path("bundle")).args(["--max-length", "128"]);
        finish(command.args(["--variants", "cpu-fp32,cpu-int8,gpu-fp16,tensorrt-fp16"])).success();
        let bundle = Bundle::open(dir.path("bundle")).unwrap();
        assert_eq!(bundle.manifest.variants.len(), 4);
        let max_length = reference["max_length"].as_u64().unwrap() as usize;
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), max_length).unwrap();
        let path = bundle.path.join(&bundle.variant(None, Device::Cpu).unwrap().file);
        let mut session = Session::open(&path, &SessionOptions::default()).unwrap();
        let texts = reference["texts"].as_array().unwrap().iter().zip(reference["single_logits"].as_array().unwrap());
        for (text, expected) in texts {
            let encoding = tokenizer.encode(text.as_str().unwrap()).unwrap();
            let logits = session.run(&Batch::pad(std::iter::once(&encoding), bundle.config.pad_token_id)).unwrap();
            for (got, expected) in logits.iter().zip(expected.as_array().unwrap()) {
                assert!((f64::from(*got) - expected.as_f64().unwrap()).abs() <= 1e-4, "{name}, {text}: {logits:?}");
            }
        }
        // And the whole way, as a user goes it.
        Classifier::open(dir.path("bundle"), &Options::default()).unwrap().classify("great acting").unwrap();
    }
}

#[test]
fn a_variant_that_there_is_not_is_refused_by_name() {
    let folder = workspace("tests/data/tiny-bert");
    let dir = Dir::default();
    let export = |variants: &str| {
        let mut command = program("nimbert-train");
        command.arg("export").arg(&folder).arg("--out").arg(dir.path("bundle")).args(["--variants", variants]);
        finish(&mut command)
    };
    export("cpu-int4").failure(2, &["cpu-int4", "cpu-int8", "tensorrt-fp16"]);
    export("tensorrt-int8").failure(2, &["--variants", "--data", "tensorrt-int8"]);
    export("cpu-int8,cpu-int8").failure(2, &["--variants", "each graph once", "cpu-int8 twice"]);
    assert!(!dir.path("bundle").exists());
}

#[test]
fn a_bundle_with_large_tensors_beside_its_graph_can_be_used_in_every_way() {
    let dir = Dir::default();
    let bundle = dir.path("bundle");
    let mut command = program("nimbert-train");
    command.arg("export").arg(workspace("models/minilm-classifier-that-is-not-there")).arg("--out").arg(&bundle);
    finish(&mut command).failure(2, &["minilm-classifier-that-is-not-there"]);

    let data = dir.write("data.csv", nimbert_tests::small_csv(24));
    let mut command = nimbert_tests::fit(&workspace("models/minilm"), &data, &bundle);
    command.args(["--epochs", "1", "--freeze-layers", "6", "--max-length", "16", "--no-checkpoint"]);
    finish(command.args(["--variants", "cpu-fp32,cpu-int8", "--max-accuracy-drop", "100"])).success();
    assert!(std::fs::metadata(bundle.join("model.onnx")).unwrap().len() < 1_000_000);
    assert!(std::fs::metadata(bundle.join("model.onnx_data")).unwrap().len() > 80_000_000);
    finish(program("nimbert").arg("verify").arg(&bundle)).success();
    let info = finish(program("nimbert").arg("info").arg(&bundle)).success();
    assert!(info.contains("cpu-fp32 for cpu, fp32: model.onnx (90.") && info.contains("cpu-int8"), "{info}");
    let trace = finish(program("nimbert-train").arg("trace").arg(&bundle).arg("great acting")).success();
    assert!(trace.contains("ONNX Runtime, cpu-fp32") && trace.contains("layer 5"), "{trace}");
    let classify = |variant: &str| {
        finish(program("nimbert").arg("classify").arg(&bundle).args(["great acting", "--variant", variant]))
    };
    let (fp32, int8) = (classify("cpu-fp32").success(), classify("cpu-int8").success());
    assert_ne!(fp32, "");
    assert_ne!(int8, "");
    classify("gpu-fp16").failure(2, &["a graph called gpu-fp16", "cpu-fp32, cpu-int8"]);
}

#[test]
fn a_model_repository_for_triton_appears_when_it_is_complete() {
    let dir = Dir::default();
    let export = |further: &[&str]| {
        let mut command = program("nimbert-train");
        command.arg("export").arg(workspace("tests/data/tiny-distilbert")).arg("--out").arg(dir.path("repository"));
        finish(command.args(["--layout", "triton", "--max-length", "32"]).args(further))
    };
    export(&["--overwrite"]).failure(2, &["--overwrite: expected --layout bundle"]);
    export(&[]).success();
    let folder = dir.path("repository/classifier");
    let config = std::fs::read_to_string(folder.join("config.pbtxt")).unwrap();
    assert!(config.contains("dims: [ 2 ]") && !config.contains("token_type_ids"), "{config}");
    Session::open(&folder.join("1/model.onnx"), &SessionOptions::default()).unwrap();
    export(&[]).failure(2, &["repository", "other files, which are never replaced"]);
    assert_eq!(dir.names(), ["repository"]);
}
