//! The trainable tensors by name: read from safetensors, or made anew where a head is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, Var, safetensors::BufferedSafetensors};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::architecture::Names;
use crate::{
    error::{Error, Result, first_line},
    ops::{GradientSink, tensor_square_sum},
};

/// The model's tensors in the order of their names: the same in every run, unlike candle's `VarMap`.
#[derive(Debug, Default)]
pub struct Parameters {
    all: BTreeMap<String, Var>,
    frozen: BTreeSet<String>,
}

impl Parameters {
    /// All parameters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.all.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Those that are not frozen, by name.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().filter(|(name, _)| !self.frozen.contains(*name))
    }

    /// Leaves out of training whose name begins with one of `prefixes`.
    pub(super) fn freeze(&mut self, prefixes: &[String]) {
        let starts = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.frozen.extend(self.all.keys().filter(starts).cloned());
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.all.get(name)
    }

    /// Number of weights in all.
    pub fn count(&self) -> usize {
        self.all.values().map(|var| var.elem_count()).sum()
    }

    /// The sum of all squared weights: infinite or NaN if any of them is, or is far from what a model can have.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn square_sum(&self) -> Result<f64> {
        let mut sum = 0.0;
        for var in self.all.values() {
            sum += tensor_square_sum(var)?;
        }
        Ok(sum)
    }

    /// A copy of all values, in the order of the names.
    ///
    /// # Errors
    /// [`Error::Tensor`] if memory runs out.
    pub fn snapshot(&self) -> Result<Vec<Tensor>> {
        Ok(self.all.values().map(|var| var.copy()).collect::<candle_core::Result<_>>()?)
    }

    /// Puts the values of a [`Parameters::snapshot`] back, whatever device they are on.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is the snapshot of another model.
    pub fn restore(&self, snapshot: &[Tensor]) -> Result<()> {
        for (var, value) in self.all.values().zip(snapshot) {
            var.set(&value.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// Writes all values as a safetensors file, put in its place by a rename.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tensor`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: std::collections::HashMap<&str, Tensor> =
            self.all.iter().map(|(name, var)| (name.as_str(), var.as_detached_tensor())).collect();
        let partial = path.with_extension("partial");
        candle_core::safetensors::save(&tensors, &partial)?;
        std::fs::rename(&partial, path).map_err(|error| Error::io(path, error))
    }
}

/// What became of a file's tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The file.
    pub path: PathBuf,
    /// How many parameters were read.
    pub loaded: usize,
    /// Parameters that were made anew: only those of the head may be.
    pub initialized: Vec<String>,
    /// Tensors of the file that the model has no use for.
    pub unused: Vec<String>,
}

impl LoadReport {
    /// Checks that nothing was made anew: the file holds a trained classifier.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first tensor that is missing.
    pub fn expect_trained(&self) -> Result<()> {
        match self.initialized.first() {
            Some(name) => Err(Error::model(&self.path, format!("a trained classifier with the tensor {name}"), "none")),
            None => Ok(()),
        }
    }
}

/// Reads the tensors of a safetensors file by name, under the names that transformers' classifiers give them.
///
/// # Errors
/// [`Error::Io`], [`Error::Model`].
pub(super) fn read_tensors(path: &Path, names: &Names) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let file = BufferedSafetensors::new(bytes)
        .map_err(|error| Error::model(path, "a safetensors file", first_line(&error)))?;
    let load = |name: String| Ok((canonical_name(&name, names), file.load(&name, &Device::Cpu)?));
    file.tensors().into_iter().map(|(name, _)| load(name)).collect()
}

/// Takes parameters one after the other out of a set of tensors, and remembers which ones were there.
pub(super) struct Loader {
    /// What has not been taken yet.
    tensors: BTreeMap<String, Tensor>,
    rng: ChaCha8Rng,
    parameters: Parameters,
    gradients: GradientSink,
    report: LoadReport,
}

impl Loader {
    /// `path` is where the tensors come from; `seed` is for the parameters that are made anew.
    pub(super) fn new(path: &Path, tensors: BTreeMap<String, Tensor>, seed: u64) -> Self {
        Self {
            tensors,
            rng: ChaCha8Rng::seed_from_u64(seed),
            parameters: Parameters::default(),
            gradients: GradientSink::default(),
            report: LoadReport { path: path.to_owned(), ..LoadReport::default() },
        }
    }

    /// Where the linear layers of the model leave their gradients.
    pub(super) fn gradients(&self) -> GradientSink {
        self.gradients.clone()
    }

    /// Whether the parameter is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Forgets a tensor, which then counts as unused.
    pub(super) fn ignore(&mut self, name: &str) {
        if self.tensors.remove(name).is_some() {
            self.report.unused.push(name.to_owned());
        }
    }

    /// The parameter `name` of that shape.
    pub(super) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::model(&self.report.path, format!("a tensor {name} of shape {shape:?}"), "none"));
        };
        if tensor.dims() != shape {
            let expected = format!("{name} of shape {shape:?}, as config.json says");
            return Err(Error::model(&self.report.path, expected, format!("{:?}", tensor.dims())));
        }
        if !tensor.dtype().is_float() {
            let expected = format!("floating-point numbers in {name}");
            return Err(Error::model(&self.report.path, expected, format!("{:?}", tensor.dtype())));
        }
        self.report.loaded += 1;
        self.insert(name, tensor.to_dtype(DType::F32)?)
    }

    /// The parameter `name`, read where it is there, else normally distributed around 0.
    pub(super) fn read_or_normal(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<Tensor> {
        if self.has(name) {
            return self.read(name, shape);
        }
        self.report.initialized.push(name.to_owned());
        let normal = Normal::new(0.0, deviation).map_err(|error| {
            Error::model(&self.report.path, "a finite initializer_range in config.json", error.to_string())
        })?;
        let values: Vec<f32> = normal.sample_iter(&mut self.rng).take(shape.iter().product()).collect();
        self.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn insert(&mut self, name: &str, tensor: Tensor) -> Result<Tensor> {
        let var = Var::from_tensor(&tensor)?;
        let handle = var.as_tensor().clone();
        self.parameters.all.insert(name.to_owned(), var);
        Ok(handle)
    }

    /// All that was read, and the report.
    pub(super) fn finish(mut self) -> (Parameters, LoadReport) {
        // `position_ids` are the numbers 0, 1, 2, …, stored by older versions of transformers.
        let unused = self.tensors.into_keys().filter(|name| !name.ends_with("position_ids"));
        self.report.unused.extend(unused);
        self.report.unused.sort();
        (self.parameters, self.report)
    }
}

/// A file's name for a tensor as transformers' classifiers have it. A bare encoder lacks the prefix, and models converted
/// from TensorFlow call layer normalization's parameters gamma and beta.
fn canonical_name(name: &str, names: &Names) -> String {
    let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
    match name.split('.').next() {
        Some("embeddings" | "embeddings_project" | "encoder" | "transformer" | "pooler") => {
            format!("{}.{name}", names.base)
        }
        _ => name,
    }
}
