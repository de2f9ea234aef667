//! The whole state of a training run in one file, so that a run that was stopped goes on as if it had not been: the
//! weights, the optimizer's moments, the best epoch's weights, and where the run is in its data and its random numbers.
//!
//! The file is safetensors, with everything that is no tensor as JSON: where the run is as bytes, since a header has its limit, the
//! rest in the header. It appears by a rename when it is
//! complete: whenever a run is killed, a checkpoint is the old one or the new one.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use nimbert::sha256;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    compute::LossScale,
    error::{Error, Result},
    model::Parameters,
    ops::with_elements,
    optimizer::{AdamWState, Moments},
    record::Record,
    scratch::write_whole,
};

/// When a run leaves a checkpoint, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    /// The file.
    pub path: PathBuf,
    /// After so many steps, besides after each epoch; none: after each epoch only.
    pub every_steps: Option<usize>,
    /// Whether to go on from the file, if there is one.
    pub resume: bool,
    /// Everything that must be the same for a run to go on: an object whose keys are settings as the command line spells
    /// them.
    pub settings: Value,
}

/// Where a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are done and evaluated.
    pub epochs_done: usize,
    /// Optimizer steps of the epoch that is going on.
    pub steps_of_epoch: usize,
    /// Optimizer steps in all.
    pub step: usize,
    /// Random numbers that were drawn for shuffling before the epoch that is going on.
    pub shuffle_position: u64,
    /// Random numbers that were drawn for dropout.
    pub dropout_position: u64,
    /// Sums over the epoch that is going on.
    pub sums: EpochSums,
    /// What the loss is multiplied by in half precision.
    pub loss_scale: LossScale,
    /// The epoch with the best validation score so far, counted from 1, and that score.
    pub best: Option<(usize, Option<f64>)>,
    /// What was told about the steps and epochs so far, in order.
    pub history: Vec<Record>,
}

/// What an epoch's record is computed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Sum of the rows' losses.
    pub loss: f64,
    /// Rows whose labels were predicted.
    pub hits: usize,
    /// Tokens.
    pub tokens: usize,
    /// Time spent on steps, in seconds.
    pub seconds: f64,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) progress: Progress,
    pub(crate) weights: Vec<Tensor>,
    /// The best epoch's weights, where they are not `weights`.
    pub(crate) best: Option<Vec<Tensor>>,
    pub(crate) optimizer: AdamWState,
}

/// What a checkpoint is made of.
pub(crate) struct State<'a> {
    pub(crate) progress: &'a Progress,
    pub(crate) parameters: &'a Parameters,
    pub(crate) best: Option<&'a [Tensor]>,
    pub(crate) optimizer: &'a AdamWState,
}

/// JSON of [`Progress`], as bytes.
const PROGRESS: &str = "progress";
/// The header's keys.
const SETTINGS: &str = "settings";
const OPTIMIZER_STEP: &str = "optimizer_step";
const DIGEST: &str = "sha256";
/// How the tensors' names begin.
const WEIGHT: &str = "weight/";
const BEST: &str = "best/";
const FIRST: &str = "first_moment/";
const SECOND: &str = "second_moment/";

/// Writes a checkpoint.
///
/// # Errors
/// [`Error::Io`] if the disk is full, or no file can be made there; an older checkpoint is then as it was.
pub(crate) fn write(config: &CheckpointConfig, state: &State<'_>) -> Result<()> {
    let data = |prefix: &str, name: &str, tensor: &Tensor| -> Result<_> {
        Ok((format!("{prefix}{name}"), Data::on_cpu(tensor)?))
    };
    let mut tensors = Vec::new();
    for (name, var) in state.parameters.iter() {
        tensors.push(data(WEIGHT, name, var)?);
        match state.optimizer.moments.get(name) {
            Some(Moments::Host { first, second }) => {
                let data = |values| Data::Slice { shape: var.dims(), values };
                tensors.push((format!("{FIRST}{name}"), data(first)));
                tensors.push((format!("{SECOND}{name}"), data(second)));
            }
            Some(Moments::Device { first, second }) => {
                tensors.push(data(FIRST, name, first)?);
                tensors.push(data(SECOND, name, second)?);
            }
            None => {}
        }
    }
    for ((name, _), tensor) in state.parameters.iter().zip(state.best.unwrap_or_default()) {
        tensors.push(data(BEST, name, tensor)?);
    }
    let progress = serde_json::to_vec(state.progress).expect("a record has only string keys");
    tensors.push((PROGRESS.to_owned(), Data::Bytes { length: [progress.len()], bytes: progress }));
    let entries = [(SETTINGS, config.settings.to_string()), (OPTIMIZER_STEP, state.optimizer.step.to_string())];
    let mut digest = Digest::default();
    entries.iter().for_each(|(key, value)| digest.add(key, value.as_bytes()));
    tensors.iter().for_each(|(name, tensor)| digest.add(name, &tensor.data()));
    let entries = entries.into_iter().chain([(DIGEST, digest.finish())]);
    let header: HashMap<String, String> = entries.map(|(key, value)| (key.to_owned(), value)).collect();
    write_whole(&config.path, |partial| {
        let written = safetensors::serialize_to_file(tensors, Some(header), partial)
            .map_err(|error| std::io::Error::other(error.to_string()))
            .and_then(|()| nimbert::own::sync(partial));
        written.map_err(|error| Error::io(&config.path, error))
    })
}

/// Reads the checkpoint of a run with these settings and parameters; none if there is no file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] if the file is damaged; [`Error::Setting`] naming the first setting that differs.
pub(crate) fn read(config: &CheckpointConfig, parameters: &Parameters) -> Result<Option<Checkpoint>> {
    let path = &config.path;
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    let damaged = |got: String| Error::model(path, "a checkpoint of nimbert-train", got);
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let header = header.metadata().clone().unwrap_or_default();
    if header.contains_key(PROGRESS) {
        return Err(damaged(
            "one of an earlier version, which does not go on: without --resume the run begins anew".to_owned(),
        ));
    }
    let entry = |key: &str| header.get(key).ok_or_else(|| damaged(format!("no {key}")));
    let mut digest = Digest::default();
    for key in [SETTINGS, OPTIMIZER_STEP] {
        digest.add(key, entry(key)?.as_bytes());
    }
    file.iter().for_each(|(name, view)| digest.add(name, view.data()));
    let (expected, got) = (entry(DIGEST)?, digest.finish());
    if got != *expected {
        return Err(damaged(format!("another content than was written: sha256 {got} instead of {expected}")));
    }
    let settings: Value = serde_json::from_str(entry(SETTINGS)?).map_err(|error| damaged(error.to_string()))?;
    expect_same(path, &settings, &config.settings)?;
    let progress = file.tensor(PROGRESS).map_err(|error| damaged(error.to_string()))?;
    let progress = serde_json::from_slice(progress.data()).map_err(|error| damaged(error.to_string()))?;
    let step = entry(OPTIMIZER_STEP)?.parse().map_err(|_| damaged("no number of steps".to_owned()))?;

    let floats = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
        let view = file.tensor(name).map_err(|error| damaged(error.to_string()))?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(damaged(format!("{name} of another shape")));
        }
        let float = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(view.data().chunks_exact(4).map(float).collect())
    };
    let tensors = |prefix: &str| -> Result<Vec<Tensor>> {
        let tensor = |(name, var): (&str, &candle_core::Var)| {
            let values = floats(&format!("{prefix}{name}"), var.dims())?;
            Ok(Tensor::from_vec(values, var.shape(), &Device::Cpu)?)
        };
        parameters.iter().map(tensor).collect()
    };
    let mut optimizer = AdamWState { step, ..AdamWState::default() };
    for (name, var) in parameters.trainable() {
        // A run that was stopped before its first step has no moments.
        if step > 0 {
            let [first, second] = [FIRST, SECOND].map(|prefix| floats(&format!("{prefix}{name}"), var.dims()));
            optimizer.moments.insert(name.to_owned(), Moments::Host { first: first?, second: second? });
        }
    }
    let has_best = file.names().iter().any(|name| name.starts_with(BEST));
    let best = if has_best { Some(tensors(BEST)?) } else { None };
    Ok(Some(Checkpoint { progress, weights: tensors(WEIGHT)?, best, optimizer }))
}

/// Compares the settings of a checkpoint with those of this run.
fn expect_same(path: &Path, checkpoint: &Value, run: &Value) -> Result<()> {
    let empty = serde_json::Map::new();
    let [before, now] = [checkpoint, run].map(|settings| settings.as_object().unwrap_or(&empty));
    for key in before.keys().chain(now.keys()) {
        if before.get(key) != now.get(key) {
            let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            let expected = format!("{key} {}, as in {}", show(before.get(key)), path.display());
            return Err(Error::setting("--resume", expected, show(now.get(key))));
        }
    }
    Ok(())
}

/// A digest of everything in a checkpoint, in whatever order it comes: by name.
#[derive(Default)]
struct Digest(BTreeMap<String, String>);

impl Digest {
    fn add(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), sha256(content));
    }

    fn finish(self) -> String {
        let lines: String = self.0.into_iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
        sha256(lines.as_bytes())
    }
}

/// A tensor on its way into the file: one at a time becomes bytes.
enum Data<'a> {
    Tensor(Tensor),
    Slice { shape: &'a [usize], values: &'a [f32] },
    Bytes { length: [usize; 1], bytes: Vec<u8> },
}

impl Data<'_> {
    fn on_cpu(tensor: &Tensor) -> Result<Self> {
        Ok(Self::Tensor(tensor.to_device(&Device::Cpu)?))
    }
}

impl View for Data<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(_) | Self::Slice { .. } => Dtype::F32,
            Self::Bytes { .. } => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::Slice { shape, .. } => shape,
            Self::Bytes { length, .. } => length,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        match self {
            Self::Slice { values, .. } => bytes(values).into(),
            Self::Tensor(tensor) => with_elements([tensor], |[values]| Ok(bytes(values)))
                .expect("parameters are contiguous f32 on the CPU")
                .into(),
            Self::Bytes { bytes, .. } => bytes.into(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_of_an_earlier_version_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let header = HashMap::from([(PROGRESS.to_owned(), "{}".to_owned())]);
        safetensors::serialize_to_file(Vec::<(String, Data<'_>)>::new(), Some(header), &path).unwrap();
        let config = CheckpointConfig { path, every_steps: None, resume: true, settings: json!({}) };
        let error = read(&config, &Parameters::default()).unwrap_err().to_string();
        assert!(error.contains("one of an earlier version") && error.contains("without --resume"), "{error}");
    }

    #[test]
    fn the_first_setting_that_differs_is_named() {
        let same = json!({"--epochs": 3, "--seed": 1});
        assert!(expect_same(Path::new("c"), &same, &same).is_ok());
        let error = expect_same(Path::new("c"), &same, &json!({"--epochs": 3, "--seed": 2})).unwrap_err();
        assert_eq!(error.to_string(), "--resume: expected --seed 1, as in c, found 2");
    }
}
