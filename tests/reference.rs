//! The trainer against PyTorch and transformers: ids, logits, loss, every gradient, ten optimizer steps.
//! tests/data/make_reference.py made the numbers.

use candle_core::{DType, Device, Tensor};
use nimbert::{Encoding, ProblemType, Tokenizer};
use nimbert_tests::workspace;
use nimbert_trainer::{
    compute::Compute,
    dataloader::PackedBatch,
    loss::{Loss, Target},
    model::{EncoderConfig, Gradients, Output, Pooling, SequenceClassifier},
    optimizer::{AdamW, AdamWConfig, clip_scale},
};
use serde_json::Value;

/// A model of the reference, with its texts and numbers.
struct Reference {
    model: SequenceClassifier,
    tokenizer: Tokenizer,
    json: Value,
    folder: &'static str,
}

impl Reference {
    fn tiny(folder: &'static str) -> Self {
        Self::open(folder, folder, None)
    }

    /// MiniLM with the reference's classification head: a file of weights in its own right, as a user would have it.
    fn minilm() -> Self {
        Self::open("models/minilm", "tests/data/minilm", Some("tests/data/minilm/head.safetensors"))
    }

    fn open(model_folder: &str, folder: &'static str, head: Option<&str>) -> Self {
        let model_path = workspace(model_folder);
        let json: Value =
            serde_json::from_slice(&std::fs::read(workspace(folder).join("reference.json")).unwrap()).unwrap();
        let max_length = json["max_length"].as_u64().unwrap() as usize;
        let tokenizer = Tokenizer::open(&model_path.join("tokenizer.json"), max_length).unwrap();
        let config = EncoderConfig::open(&model_path.join("config.json")).unwrap().without_dropout();
        let labels = ["negative", "positive"].map(String::from);
        let (model, report) =
            SequenceClassifier::load(&model_path.join("model.safetensors"), config, &labels, 0).unwrap();
        if let Some(head) = head {
            assert_eq!(report.initialized, ["classifier.weight", "classifier.bias"]);
            for (name, value) in candle_core::safetensors::load(workspace(head), &Device::Cpu).unwrap() {
                model.parameters().get(&name).unwrap().set(&value).unwrap();
            }
        } else {
            assert!(report.initialized.is_empty() && report.unused.is_empty(), "{report:?}");
        }
        Self { model, tokenizer, json, folder }
    }

    fn texts(&self, key: &str) -> Vec<String> {
        self.json[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    fn encode(&self, texts: &[String]) -> Vec<Encoding> {
        texts.iter().map(|text| self.tokenizer.encode(text).unwrap()).collect()
    }

    fn batch(&self) -> (PackedBatch, Vec<u32>) {
        let labels = self.json["labels"].as_array().unwrap().iter().map(|label| label.as_u64().unwrap() as u32);
        (PackedBatch::new(&self.encode(&self.texts("batch"))), labels.collect())
    }

    fn step(&self) -> (f32, Output, Gradients) {
        let (batch, labels) = self.batch();
        let output = self.model.forward(&batch, None).unwrap();
        let loss = loss_of(&Loss::default(), &output.logits, &labels);
        let gradients = self.model.backward(&loss, &output, &batch).unwrap();
        (loss.to_scalar().unwrap(), output, gradients)
    }
}

/// One label a row.
fn loss_of(setting: &Loss, logits: &Tensor, labels: &[u32]) -> Tensor {
    let targets: Vec<Target> = labels.iter().map(|&label| [label].into()).collect();
    setting.forward(logits, &targets.iter().collect::<Vec<_>>()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

fn assert_close(got: &[f32], expected: &Value, tolerance: f64, what: &str) {
    let expected = floats(expected);
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(got) - expected).abs() <= tolerance, "{what}[{index}]: expected {expected}, found {got}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids_agree(reference: &Reference) {
    let expected = reference.json["input_ids"].as_array().unwrap();
    for (text, expected) in reference.texts("texts").iter().zip(expected) {
        let ids: Vec<f32> = reference.tokenizer.encode(text).unwrap().input_ids.iter().map(|&id| id as f32).collect();
        assert_close(&ids, expected, 0.0, text);
    }
}

/// Logits of each text alone, and of the batch; packed, they must not depend on their neighbours.
fn logits_agree(reference: &Reference) {
    let logits = |texts: &[String]| {
        values(&reference.model.forward(&PackedBatch::new(&reference.encode(texts)), None).unwrap().logits)
    };
    let texts = reference.texts("texts");
    for (text, expected) in texts.iter().zip(reference.json["single_logits"].as_array().unwrap()) {
        assert_close(&logits(std::slice::from_ref(text)), expected, 1e-4, text);
    }
    assert_close(&logits(&texts), &reference.json["single_logits"], 1e-4, "all texts in one batch");
    assert_close(&logits(&reference.texts("batch")), &reference.json["logits"], 1e-4, "batch");
}

fn hidden_states_agree(reference: &Reference) {
    let encoded = reference.model.encode(&reference.batch().0, true, None).unwrap();
    let rms: Vec<f32> = encoded
        .hidden_states
        .iter()
        .map(|state| state.to_dtype(DType::F32).unwrap().sqr().unwrap().mean_all().unwrap().sqrt().unwrap())
        .map(|mean| mean.to_scalar().unwrap())
        .collect();
    assert_close(&rms, &reference.json["hidden_state_rms_per_layer"], 1e-4, "hidden state RMS");
}

fn gradient_norms_agree(reference: &Reference) {
    let (loss, _, gradients) = reference.step();
    assert_close(&[loss], &reference.json["loss"], 1e-4, "loss");
    let expected = reference.json["grad_l2"].as_object().unwrap();
    assert_eq!(expected.len(), reference.model.parameters().iter().count());
    let mut compared = 0;
    for (name, expected) in expected {
        let var = reference.model.parameters().get(name).unwrap();
        let gradient = gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name}")).to_dense(var).unwrap();
        let norm = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap();
        let expected = expected.as_f64().unwrap();
        if expected >= 1e-6 {
            let error = (f64::from(norm) / expected - 1.0).abs();
            assert!(error <= 1e-3, "{name}: gradient norm {norm}, expected {expected}");
            compared += 1;
        }
    }
    assert!(compared * 10 > expected.len() * 8, "only {compared} of {} gradients are above 1e-6", expected.len());
    let global = floats(&reference.json["grad_global_l2"])[0];
    assert!((gradients.norm().unwrap() / global - 1.0).abs() <= 1e-3);
}

fn ten_steps_agree(reference: &Reference) {
    let adamw = &reference.json["adamw"];
    let steps = adamw["steps"].as_array().unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    for (index, expected) in steps.iter().enumerate() {
        let (loss, _, gradients) = reference.step();
        assert_close(&[loss], &expected["loss"], 1e-4, &format!("loss of step {index}"));
        let norm = gradients.norm().unwrap();
        let expected_norm = expected["grad_norm_before_clip"].as_f64().unwrap();
        assert!((norm / expected_norm - 1.0).abs() < 2e-3, "norm of step {index}: {norm}, expected {expected_norm}");
        // transformers' schedule, which begins at 0.
        let rate = expected["lr"].as_f64().unwrap();
        optimizer.step(reference.model.parameters(), &gradients, rate, clip_scale(norm, 1.0)).unwrap();
    }
    let output = reference.model.forward(&reference.batch().0, None).unwrap();
    assert_close(&values(&output.logits), &reference.json["logits_after_10_steps"], 1e-3, "logits after ten steps");
}

/// Every parameter's gradient, element by element.
fn gradients_agree(reference: &Reference) {
    gradient_norms_agree(reference);
    let (_, _, gradients) = reference.step();
    let path = workspace(reference.folder).join("reference.safetensors");
    let norm =
        |tensor: &Tensor| -> f32 { tensor.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap() };
    for (name, expected) in candle_core::safetensors::load(path, &Device::Cpu).unwrap() {
        let name = name.strip_prefix("grad.").unwrap();
        let gradient = gradients.get(name).unwrap().to_dense(&expected).unwrap();
        let (difference, size) = (norm(&(gradient - &expected).unwrap()), norm(&expected));
        assert!(size < 1e-6 || difference / size <= 1e-3, "{name}: relative difference {}", difference / size);
    }
}

/// The [CLS] shortcut gives what computing all tokens gives; a head that reads all of them allows none.
fn shortcut_agrees(reference: &Reference) {
    let (batch, _) = reference.batch();
    let last = |all_tokens| reference.model.encode(&batch, all_tokens, None).unwrap().hidden_states.pop().unwrap();
    let first: Vec<u32> = match reference.model.config.pooling {
        Pooling::First => batch.offsets[..batch.rows()].iter().map(|&offset| offset as u32).collect(),
        Pooling::Mean => (0..batch.tokens() as u32).collect(),
    };
    let first = last(true).index_select(&Tensor::new(first, &Device::Cpu).unwrap(), 0).unwrap();
    let difference = (last(false) - first).unwrap().to_dtype(DType::F32).unwrap();
    assert!(values(&difference).iter().all(|difference| difference.abs() <= 1e-5));
}

/// Weighted and smoothed cross-entropy.
fn losses_agree(reference: &Reference) {
    let (batch, labels) = reference.batch();
    let logits = reference.model.forward(&batch, None).unwrap().logits;
    let weights = Some(vec![0.25, 0.75]);
    for (setting, expected) in [
        (Loss { class_weights: weights, ..Loss::default() }, "loss_class_weights_0.25_0.75"),
        (Loss { label_smoothing: 0.1, ..Loss::default() }, "loss_label_smoothing_0.1"),
    ] {
        let loss = loss_of(&setting, &logits, &labels).to_scalar::<f32>().unwrap();
        assert_close(&[loss], &reference.json[expected], 1e-4, expected);
    }
    // The same labels as any number of them, of which each row has one.
    let setting = Loss { problem_type: ProblemType::MultiLabel, ..Loss::default() };
    let loss = loss_of(&setting, &logits, &labels).to_scalar::<f32>().unwrap();
    let expected = "loss_bce_with_logits_onehot";
    assert_close(&[loss], &reference.json[expected], 1e-4, expected);
}

fn tiny_agrees(folder: &'static str) {
    let reference = Reference::tiny(folder);
    ids_agree(&reference);
    losses_agree(&reference);
    model_agrees(&reference);
    // The forms that run on other devices, which know every number format.
    let compute = Compute { dtype: DType::F64, ..Compute::default() };
    let fresh = Reference::tiny(folder);
    model_agrees(&Reference { model: fresh.model.on(&compute).unwrap(), ..fresh });
}

fn model_agrees(reference: &Reference) {
    logits_agree(reference);
    hidden_states_agree(reference);
    shortcut_agrees(reference);
    gradients_agree(reference);
    ten_steps_agree(reference);
}

#[test]
fn tiny_bert_agrees() {
    tiny_agrees("tests/data/tiny-bert");
}

#[test]
fn tiny_distilbert_agrees() {
    tiny_agrees("tests/data/tiny-distilbert");
}

#[test]
fn tiny_electra_agrees() {
    tiny_agrees("tests/data/tiny-electra");
}

#[test]
fn tiny_roberta_agrees() {
    tiny_agrees("tests/data/tiny-roberta");
}

#[test]
fn tiny_modernbert_that_reads_the_first_token_agrees() {
    tiny_agrees("tests/data/tiny-modernbert-cls");
}

#[test]
fn tiny_modernbert_that_reads_the_mean_agrees() {
    tiny_agrees("tests/data/tiny-modernbert-mean");
}

#[test]
fn tiny_deberta_agrees() {
    tiny_agrees("tests/data/tiny-deberta-v3");
}

#[test]
fn tiny_mpnet_agrees() {
    tiny_agrees("tests/data/tiny-mpnet");
}

#[test]
fn tiny_albert_agrees() {
    tiny_agrees("tests/data/tiny-albert");
}

#[test]
fn minilm_forward_agrees() {
    let reference = Reference::minilm();
    ids_agree(&reference);
    logits_agree(&reference);
    hidden_states_agree(&reference);
}

#[test]
fn minilm_gradients_and_ten_steps_agree() {
    let reference = Reference::minilm();
    gradient_norms_agree(&reference);
    ten_steps_agree(&reference);
}

/// What ModernBERT's layers see and how their positions turn: each fault that a reader of config.json could make shows.
#[test]
fn faults_in_the_reading_of_modernbert_show() {
    let folder = workspace("tests/data/tiny-modernbert-cls");
    let logits = |change: &dyn Fn(&mut EncoderConfig)| {
        let mut config = EncoderConfig::open(&folder.join("config.json")).unwrap();
        change(&mut config);
        let labels = ["negative", "positive"].map(String::from);
        let (model, _) = SequenceClassifier::load(&folder.join("model.safetensors"), config, &labels, 0).unwrap();
        let reference = Reference { model, ..Reference::tiny("tests/data/tiny-modernbert-cls") };
        values(&reference.model.forward(&reference.batch().0, None).unwrap().logits)
    };
    let right = logits(&|_| ());
    let largest = |other: Vec<f32>| right.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let thetas = |config: &mut EncoderConfig| {
        let [global, local] = [0, 1].map(|layer| config.layers[layer].rotary_theta);
        for layer in &mut config.layers {
            layer.rotary_theta = if layer.rotary_theta == global { local } else { global };
        }
    };
    let windows = |by: isize| {
        move |config: &mut EncoderConfig| {
            for window in config.layers.iter_mut().filter_map(|layer| layer.window.as_mut()) {
                *window = window.saturating_add_signed(by);
            }
        }
    };
    let wrong: [&dyn Fn(&mut EncoderConfig); 4] =
        [&thetas, &windows(1), &windows(-1), &|config| config.layers.rotate_left(1)];
    for (index, fault) in wrong.into_iter().enumerate() {
        assert!(largest(logits(fault)) > 1e-3, "fault {index}");
    }
}

/// The ten losses are blind to the decay of a bias (1e-6 a step), so this looks at the weights.
#[test]
fn weight_decay_spares_biases_and_layer_normalization() {
    let step = |weight_decay| {
        let reference = Reference::tiny("tests/data/tiny-bert");
        let (_, _, gradients) = reference.step();
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay, ..AdamWConfig::default() });
        optimizer.step(reference.model.parameters(), &gradients, 0.1, 1.0).unwrap();
        reference.model
    };
    let (before, plain, decayed) = (Reference::tiny("tests/data/tiny-bert").model, step(0.0), step(0.5));
    for (name, before) in before.parameters().iter() {
        let [before, plain, decayed] =
            [before, plain.parameters().get(name).unwrap(), decayed.parameters().get(name).unwrap()]
                .map(|var| values(var));
        let is_spared = name.ends_with(".bias") || name.contains("LayerNorm");
        // One step takes learning rate × decay of the weight as it was.
        let share = if is_spared { 0.0 } else { 0.1 * 0.5 };
        for ((before, plain), decayed) in before.iter().zip(&plain).zip(&decayed) {
            assert!((plain - share * before - decayed).abs() < 1e-5, "{name}: {before} → {plain}, decayed {decayed}");
        }
    }
}
