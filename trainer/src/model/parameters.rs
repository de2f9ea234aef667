//! The trainable tensors by name: read from safetensors, or made anew where a head is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, Var, safetensors::BufferedSafetensors};
use nimbert::guard::guarded;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::{family::Names, folder};
use crate::{
    error::{Error, Result, first_line},
    ops::tensor_square_sum,
    scratch::write_whole,
};

/// The model's tensors in the order of their names: the same in every run, unlike candle's `VarMap`.
#[derive(Debug, Clone, Default)]
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
        write_whole(path, |partial| {
            candle_core::safetensors::save(&tensors, partial).map_err(|error| match error {
                // It does not say which file.
                candle_core::Error::SafeTensor(safetensors::SafeTensorError::IoError(reason)) => {
                    Error::io(path, reason)
                }
                error => error.into(),
            })?;
            // It makes files that their owner alone may read; what lies beside this one may be read by whom others may.
            let failed = |error| Error::io(path, error);
            let usual = partial.with_extension("usual");
            std::fs::File::create(&usual).map_err(failed)?;
            let permissions = std::fs::metadata(&usual).map_err(failed)?.permissions();
            std::fs::set_permissions(partial, permissions).map_err(failed)
        })
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

/// Reads the tensors of a folder's weights by name, under the names that transformers' classifiers give them. `path` is a
/// safetensors file, the index of several, or a checkpoint of PyTorch's.
///
/// # Errors
/// [`Error::Io`], [`Error::Model`].
pub(super) fn read_tensors(path: &Path, names: &Names) -> Result<BTreeMap<String, Tensor>> {
    let files = match path.file_name().and_then(|name| name.to_str()) {
        Some(folder::PICKLE) => return read_pickle(path, names),
        Some(folder::WEIGHTS_INDEX) => folder::shards(path)?,
        _ => vec![path.to_owned()],
    };
    let mut tensors = BTreeMap::new();
    for path in &files {
        folder::expect_content(path)?;
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let file = BufferedSafetensors::new(bytes)
            .map_err(|error| Error::model(path, "a safetensors file", first_line(&error)))?;
        for (name, _) in file.tensors() {
            let tensor = file
                .load(&name, &Device::Cpu)
                .map_err(|error| Error::model(path, format!("floating-point numbers in {name}"), first_line(&error)))?;
            insert_once(path, &mut tensors, names.canonical(&name), tensor)?;
        }
    }
    Ok(tensors)
}

/// A checkpoint of PyTorch's: a ZIP of tensors, and a pickle that says which is which. candle's reader knows how a tensor
/// is written there, and refuses everything else: nothing is called or executed.
fn read_pickle(path: &Path, names: &Names) -> Result<BTreeMap<String, Tensor>> {
    const ADVICE: &str = "transformers' save_pretrained(…, safe_serialization=True) writes model.safetensors instead";
    folder::expect_content(path)?;
    // It is written for checkpoints that are whole: what is cut or changed may make it panic.
    let result = guarded(|| candle_core::pickle::read_all(path));
    let expected = "a PyTorch checkpoint of tensors";
    let tensors = match result {
        Ok(Ok(tensors)) => tensors,
        Ok(Err(error)) => return Err(Error::model(path, expected, format!("{}; {ADVICE}", first_line(&error)))),
        Err(_) => {
            return Err(Error::model(path, expected, format!("one that is broken, or of another kind; {ADVICE}")));
        }
    };
    if tensors.is_empty() {
        return Err(Error::model(path, expected, format!("none in it; {ADVICE}")));
    }
    let mut by_name = BTreeMap::new();
    for (name, tensor) in tensors {
        insert_once(path, &mut by_name, names.canonical(&name), tensor)?;
    }
    Ok(by_name)
}

/// Two tensors of one name would make one of them vanish.
fn insert_once(path: &Path, tensors: &mut BTreeMap<String, Tensor>, name: String, tensor: Tensor) -> Result<()> {
    let expected = format!("one tensor that stands for {name}");
    match tensors.insert(name, tensor) {
        None => Ok(()),
        Some(_) => Err(Error::model(path, expected, "two")),
    }
}

/// Takes parameters one after the other out of a set of tensors, and remembers which ones were there.
pub(super) struct Loader {
    /// What has not been taken yet.
    tensors: BTreeMap<String, Tensor>,
    rng: ChaCha8Rng,
    parameters: Parameters,
    report: LoadReport,
}

impl Loader {
    /// `path` is where the tensors come from; `seed` is for the parameters that are made anew.
    pub(super) fn new(path: &Path, tensors: BTreeMap<String, Tensor>, seed: u64) -> Self {
        Self {
            tensors,
            rng: ChaCha8Rng::seed_from_u64(seed),
            parameters: Parameters::default(),
            report: LoadReport { path: path.to_owned(), ..LoadReport::default() },
        }
    }

    /// Whether the parameter is there.
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Forgets a tensor, which then counts as unused.
    pub(super) fn ignore(&mut self, name: &str) {
        if self.tensors.remove(name).is_some() {
            self.report.unused.push(name.to_owned());
        }
    }

    /// Puts rows behind the first `rows` of a parameter, if it is there with just those: so that it has `wanted` of them, normally
    /// distributed around 0.
    pub(super) fn extend(&mut self, name: &str, [rows, wanted]: [usize; 2], deviation: f32) -> Result<()> {
        let Some(tensor) = self.tensors.get(name).filter(|tensor| tensor.dims().first() == Some(&rows)) else {
            return Ok(());
        };
        let mut shape = tensor.dims().to_vec();
        shape[0] = wanted - rows;
        let tensor = Tensor::cat(&[tensor.to_dtype(DType::F32)?, self.normal(&shape, deviation)?], 0)?;
        self.report.initialized.push(format!("the last {} rows of {name}", wanted - rows));
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    /// The parameter `name` of that shape; layers that share one each read it.
    pub(super) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        if let Some(shared) = self.parameters.get(name).filter(|shared| shared.dims() == shape) {
            return Ok(shared.as_tensor().clone());
        }
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
        let tensor = tensor.to_dtype(DType::F32)?;
        if !tensor_square_sum(&tensor)?.is_finite() {
            let expected = format!("finite numbers in {name}");
            return Err(Error::model(&self.report.path, expected, "NaN or infinite ones"));
        }
        self.report.loaded += 1;
        self.insert(name, tensor)
    }

    /// The parameter `name`, read where it is there, else normally distributed around 0.
    pub(super) fn read_or_normal(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<Tensor> {
        if self.has(name) {
            return self.read(name, shape);
        }
        self.report.initialized.push(name.to_owned());
        let tensor = self.normal(shape, deviation)?;
        self.insert(name, tensor)
    }

    /// Numbers around 0, the next ones of the seed.
    fn normal(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor> {
        let normal = Normal::new(0.0, deviation).map_err(|error| {
            Error::model(&self.report.path, "a finite initializer_range in config.json", error.to_string())
        })?;
        let values: Vec<f32> = normal.sample_iter(&mut self.rng).take(shape.iter().product()).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// The parameter `name`, read where it is there, else ones.
    pub(super) fn read_or_ones(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        if self.has(name) {
            return self.read(name, shape);
        }
        self.report.initialized.push(name.to_owned());
        self.insert(name, Tensor::ones(shape, DType::F32, &Device::Cpu)?)
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
