//! One text through every layer, of a trained model or of a bundle.

use std::path::{Path, PathBuf};

use nimbert::{Batch, Bundle, Device, Encoding, Session, SessionOptions, Task, bundle, session::logits_of};

use crate::{
    dataloader::PackedBatch,
    error::{Error, Result},
    model::{ModelFolder, SequenceClassifier},
    onnx,
    report::{of_task, stage},
    scratch::Scratch,
    train::undecided,
};

/// What each layer makes of a text.
#[derive(Debug)]
pub struct Trace {
    encoding: Encoding,
    tokens: Vec<String>,
    /// Name, shape and root mean square of the embeddings' and each layer's output.
    hidden_states: Vec<(String, Vec<usize>, f32)>,
    /// What is decided, and the logits of that.
    answers: Vec<(Task, Vec<f32>)>,
    computed_by: String,
}

/// Traces `text` through a bundle (by ONNX Runtime) or through a model's folder (by candle).
///
/// # Errors
/// [`Error::Io`], [`Error::Model`], [`Error::Runtime`], [`Error::Tensor`].
pub fn trace(folder: &Path, text: &str, ort_lib: Option<PathBuf>) -> Result<Trace> {
    match folder.is_file() || folder.join(bundle::MANIFEST).exists() {
        true => trace_bundle(folder, text, ort_lib),
        false => trace_model(folder, text),
    }
}

fn trace_bundle(path: &Path, text: &str, ort_lib: Option<PathBuf>) -> Result<Trace> {
    let bundle = Bundle::open(path)?;
    // A copy: of what is changed there is nothing to be seen, and the bundle may be one file.
    let scratch = Scratch::new()?;
    bundle.unpack(scratch.path())?;
    if bundle.manifest.pairs == Some(true) {
        let (expected, got) = ("a pair of texts", "one text, which is all that trace follows");
        return Err(nimbert::Error::Input { expected, got }.into());
    }
    let tokenizer = bundle.tokenizer()?;
    let encoding = tokenizer.encode(text)?;
    let variant = bundle.variant(None, Device::Cpu)?;
    let model_path = scratch.path().join(&variant.file);
    let mut model = onnx::read(&model_path)?;
    // A copy of the graph that also answers with the layers' outputs.
    let graph = model.graph.get_or_insert_default();
    // The input of a layer is the output of what is before it, moved by a bias that the layer adds.
    let is_hidden_state = |name: &str| name == "head/input" || (name.starts_with("layer.") && name.ends_with("/input"));
    let values = graph.node.iter().flat_map(|node| &node.output);
    let names: Vec<String> = values.filter(|name| is_hidden_state(name)).cloned().collect();
    // Without layers there is but what the head reads.
    let is_static = names.len() == 1;
    graph.output.extend(names.iter().map(|name| onnx::float_output(name)));
    let path = scratch.path().join("trace.onnx");
    onnx::write(&model, &path)?;
    let tasks = bundle.tasks();
    let logits_names: Vec<String> = (0..tasks.len()).map(logits_of).collect();
    let mut session = Session::open(&path, &SessionOptions { ort_lib, ..SessionOptions::default() })?;
    let outputs: Vec<&str> = names.iter().map(String::as_str).chain(logits_names.iter().map(String::as_str)).collect();
    let batch = Batch::pad(std::iter::once(&encoding), bundle.config.pad_token_id);
    let mut results = session.run_outputs(&batch, &outputs)?;
    let logits: Vec<Vec<f32>> = results.drain(names.len()..).map(|output| output.values).collect();
    if let Some((task, logits)) = tasks.iter().zip(&logits).find(|(task, logits)| logits.len() != task.labels.len()) {
        let expected = format!("{} logits, one for each label", task.labels.len());
        return Err(Error::model(&model_path, expected, logits.len().to_string()));
    }
    let root_mean_square = |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
    let computed_by = format!("ONNX Runtime, {}", variant.name);
    Ok(Trace {
        tokens: encoding.input_ids.iter().map(|&id| tokenizer.token(id)).collect(),
        encoding,
        hidden_states: results
            .into_iter()
            .enumerate()
            .map(|(index, output)| {
                let name = if is_static { "mean of all".to_owned() } else { state_name(index) };
                (name, output.shape, root_mean_square(&output.values))
            })
            .collect(),
        answers: tasks.into_iter().zip(logits).collect(),
        computed_by,
    })
}

/// Of the hidden states in order.
fn state_name(index: usize) -> String {
    index.checked_sub(1).map_or("embeddings".to_owned(), |layer| format!("layer {layer}"))
}

fn trace_model(folder: &Path, text: &str) -> Result<Trace> {
    let folder = ModelFolder::open(folder)?;
    let config = folder.config.clone();
    let labels = config.own_labels()?;
    let decision = undecided(config.problem_type()?.unwrap_or_default());
    let tokenizer = folder.open_tokenizer(config.max_tokens(), None)?;
    let (model, report) = SequenceClassifier::load(&folder.weights, config, &labels, 0)?;
    report.expect_trained()?;
    let encoding = tokenizer.encode(text)?;
    let batch = PackedBatch::new([&encoding]);
    let hidden_states = model.encode(&batch, true, None)?.hidden_states;
    let described = hidden_states.iter().enumerate().map(|(index, state)| {
        let root_mean_square = state.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
        Ok((state_name(index), state.dims().to_vec(), root_mean_square))
    });
    Ok(Trace {
        tokens: encoding.input_ids.iter().map(|&id| tokenizer.token(id)).collect(),
        hidden_states: described.collect::<Result<_>>()?,
        answers: vec![(
            Task { name: None, labels, decision },
            model.forward(&batch, None)?.logits.flatten_all()?.to_vec1()?,
        )],
        encoding,
        computed_by: "candle, fp32".to_owned(),
    })
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = &self.encoding.input_ids;
        let count = ids.len();
        let join = |values: &[u32]| values.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let cut = if self.encoding.truncated { ", cut at the maximum length" } else { "" };
        f.write_str(&stage("1 tokens", &format!("{count} tokens{cut}: {}", self.tokens.join(" "))))?;
        f.write_str(&stage("2 ids", &format!("1 × {count}: {}", join(ids))))?;
        f.write_str(&stage("  mask", &format!("1 × {count}: {}", join(&vec![1; count]))))?;
        f.write_str(&stage("3 encoder", &self.computed_by))?;
        for (name, shape, root_mean_square) in &self.hidden_states {
            let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
            f.write_str(&stage("", &format!("{name:<11} {shape:<14} root mean square {root_mean_square:.4}")))?;
        }
        for (Task { name, labels, decision }, logits) in &self.answers {
            let named = |values: &[f32]| {
                let pairs = labels.iter().zip(values).map(|(label, value)| format!("{label} {value:.4}"));
                pairs.collect::<Vec<_>>().join(", ")
            };
            let of = of_task(name.as_deref());
            f.write_str(&stage("4 head", &format!("{of}logits 1 × {}: {}", logits.len(), named(logits))))?;
            let scores = decision.scores(logits);
            let said: Vec<&str> = decision.label_ids(&scores).into_iter().map(|id| labels[id].as_str()).collect();
            let said = if said.is_empty() { "none".to_owned() } else { said.join(", ") };
            f.write_str(&stage("5 label", &format!("{of}{said} (probabilities: {})", named(&scores))))?;
        }
        Ok(())
    }
}
