//! A model repository for NVIDIA's Triton Inference Server: `classifier/config.pbtxt` and `classifier/1/model.onnx`, with
//! what turns logits into answers beside them. Triton runs the graph; tokens go in and logits come out.

use std::{path::Path, sync::atomic::AtomicBool};

use nimbert::{
    HiddenFolder, behind_links,
    bundle::{BundleWriter, CONFIG, MODEL, TOKENIZER},
};

use super::{Contents, Judged, check_stop, config_json};
use crate::{
    error::{Error, Result},
    model::SequenceClassifier,
    onnx,
};

/// The model's name in the repository.
pub const MODEL_NAME: &str = "classifier";
/// Rows that Triton may put into one run.
const MAX_BATCH_SIZE: usize = 64;
/// How long a request may wait for others.
const MAX_QUEUE_DELAY_MICROSECONDS: usize = 2000;

/// Writes the default graph of `judged` as a model repository `out`, which must be absent or empty; a folder beside it is
/// renamed when it is complete.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::Io`]; [`Error::Runtime`] if `out` may not be written.
pub fn pack_triton(
    model: &SequenceClassifier,
    judged: Judged,
    contents: &Contents,
    out: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    BundleWriter::check_target(out, false)?;
    check_labels(&model.labels)?;
    let absolute = std::path::absolute(behind_links(out)).map_err(|error| Error::io(out, error))?;
    let parent = absolute.parent().unwrap_or(&absolute);
    std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
    let staging = HiddenFolder::beside(&absolute)?;
    let folder = staging.path().join(MODEL_NAME);
    let version = folder.join("1");
    std::fs::create_dir_all(&version).map_err(|error| Error::io(&version, error))?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|error| Error::io(&path, error))
    };
    let labels: String = model.labels.iter().map(|label| format!("{label}\n")).collect();
    write("config.pbtxt", config_pbtxt(model, &judged).as_bytes())?;
    write("labels.txt", labels.as_bytes())?;
    write(CONFIG, config_json(model, judged.decision().problem_type).as_bytes())?;
    let tokenizer = std::fs::read(&contents.tokenizer).map_err(|error| Error::io(&contents.tokenizer, error))?;
    write(TOKENIZER, &tokenizer)?;
    let (_, mut graph) = judged.graphs.into_iter().next().expect("at least one graph");
    onnx::write_external(&mut graph, &version.join(MODEL))?;
    check_stop(stop)?;
    std::fs::rename(staging.path(), &absolute).map_err(|error| Error::io(&absolute, error))
}

/// Checks that Triton can read the labels, one a line.
///
/// # Errors
/// [`Error::Setting`] for one that has a line break.
pub fn check_labels(labels: &[String]) -> Result<()> {
    match labels.iter().find(|label| label.contains(['\n', '\r'])) {
        None => Ok(()),
        Some(label) => {
            let expected = "bundle, where a label has a line break: Triton reads a label a line";
            Err(Error::setting("--layout", expected, format!("{label:?}")))
        }
    }
}

/// The model's configuration, as text of Triton's protobuf message ModelConfig.
fn config_pbtxt(model: &SequenceClassifier, judged: &Judged) -> String {
    let (kind, _) = judged.graphs[0];
    let has_token_types = model.config.type_vocab_size > 0;
    let names = ["input_ids", "attention_mask"].into_iter().chain(has_token_types.then_some("token_type_ids"));
    let inputs: Vec<String> =
        names.map(|name| format!("  {{ name: \"{name}\" data_type: TYPE_INT64 dims: [ -1 ] }}")).collect();
    let instances = if kind.execution_provider() == "cpu" { "KIND_CPU" } else { "KIND_GPU" };
    let accelerator = match kind.execution_provider() {
        "tensorrt" => {
            "optimization { execution_accelerators { gpu_execution_accelerator: [ { name: \"tensorrt\" } ] } }\n"
        }
        _ => "",
    };
    format!(
        "name: \"{MODEL_NAME}\"\n\
         backend: \"onnxruntime\"\n\
         max_batch_size: {MAX_BATCH_SIZE}\n\
         input [\n{inputs}\n]\n\
         output [\n  {{ name: \"logits\" data_type: TYPE_FP32 dims: [ {labels} ] label_filename: \"labels.txt\" }}\n]\n\
         version_policy: {{ latest: {{ num_versions: 1 }} }}\n\
         instance_group [ {{ count: 1 kind: {instances} }} ]\n\
         dynamic_batching {{ max_queue_delay_microseconds: {MAX_QUEUE_DELAY_MICROSECONDS} }}\n{accelerator}",
        inputs = inputs.join(",\n"),
        labels = model.labels.len(),
    )
}
