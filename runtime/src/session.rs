//! A graph loaded into ONNX Runtime: batches in, logits out. No type of ort shows in its interface.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use ort::{
    ep,
    session::{Session as OrtSession, SessionInputValue, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use crate::{
    batch::Batch,
    error::{Error, Result},
    library,
};

/// How a session is made. [`SessionOptions::default`] is right for a desktop: the CPU, all cores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// ONNX Runtime's library; none: it is searched for (see `nimbert classify --help`). The first session of a process decides.
    pub ort_lib: Option<PathBuf>,
    /// Where the graph runs. A device that cannot be used is an error, never a silent fall-back.
    pub device: Device,
    /// Threads for one run; none: as many as there are physical cores, ONNX Runtime's default.
    pub threads: Option<usize>,
    /// Writes the graph as ONNX Runtime optimized it for this machine: for looking at, or for counting operators.
    pub optimized_model: Option<PathBuf>,
}

/// Where a graph runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU through CUDA.
    Cuda,
    /// An NVIDIA GPU through TensorRT.
    Tensorrt,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "tensorrt" => Ok(Self::Tensorrt),
            _ => Err(format!("expected cpu, cuda or tensorrt, found {name}")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        })
    }
}

/// A loaded graph with the inputs `input_ids`, `attention_mask` and, where the model has it, `token_type_ids`
/// (`int64 [batch, sequence]`), and the output `logits` (`float [batch, labels]`).
#[derive(Debug)]
pub struct Session {
    inner: OrtSession,
    path: PathBuf,
}

impl Session {
    /// Loads the graph at `path`.
    ///
    /// # Errors
    /// [`Error::LibraryNotFound`], [`Error::Device`], [`Error::Session`], and [`Error::Format`] for a graph with other
    /// inputs or outputs.
    pub fn open(path: &Path, options: &SessionOptions) -> Result<Self> {
        if let Err(error) = std::fs::File::open(path) {
            return Err(Error::io(path, error));
        }
        let environment = library::environment(options.ort_lib.as_deref())?;
        let session_error = |error: String| Error::Session { path: path.to_owned(), message: error };
        let mut builder = OrtSession::builder(&environment)
            .map_err(|error| session_error(error.to_string()))?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|error| session_error(error.to_string()))?;
        if let Some(threads) = options.threads {
            builder = builder.with_intra_threads(threads).map_err(|error| session_error(error.to_string()))?;
        }
        if let Some(optimized) = &options.optimized_model {
            builder = builder.with_optimized_model_path(optimized).map_err(|error| session_error(error.to_string()))?;
        }
        let provider = match options.device {
            Device::Cpu => None,
            Device::Cuda => Some(ep::CUDA::default().build()),
            Device::Tensorrt => Some(ep::TensorRT::default().build()),
        };
        if let Some(provider) = provider {
            builder = builder
                .with_execution_providers([provider.error_on_failure()])
                .map_err(|error| Error::Device { device: options.device.to_string(), message: error.to_string() })?;
        }
        let inner = builder.commit_from_file(path).map_err(|error| session_error(error.to_string()))?;
        let session = Self { inner, path: path.to_owned() };
        session.validate()?;
        Ok(session)
    }

    fn validate(&self) -> Result<()> {
        const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs: Vec<&str> = self.inner.inputs().iter().map(|input| input.name()).collect();
        if !INPUTS[..2].iter().all(|name| inputs.contains(name)) || !inputs.iter().all(|name| INPUTS.contains(name)) {
            let expected = format!("a graph with the inputs {} (the last is optional)", INPUTS.join(", "));
            return Err(Error::format(&self.path, expected, inputs.join(", ")));
        }
        let outputs: Vec<&str> = self.inner.outputs().iter().map(|output| output.name()).collect();
        if !outputs.contains(&"logits") {
            return Err(Error::format(&self.path, "a graph with the output logits", outputs.join(", ")));
        }
        Ok(())
    }

    /// Runs the graph: logits row-major `[batch.rows, labels]`.
    ///
    /// # Errors
    /// [`Error::Session`] if the run fails, [`Error::Format`] if the graph's logits are not `[rows, labels]` floats.
    pub fn run(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let logits = self.run_outputs(batch, &["logits"])?.remove(0);
        if logits.shape.len() != 2 || logits.shape[0] != batch.rows {
            let expected = format!("logits of shape [{}, labels]", batch.rows);
            return Err(Error::format(&self.path, expected, format!("{:?}", logits.shape)));
        }
        Ok(logits.values)
    }

    /// Runs the graph and returns the outputs of those names, which must be floats.
    ///
    /// # Errors
    /// [`Error::Session`] if the run fails or an output is none of floats, [`Error::Format`] if the graph has it not.
    pub fn run_outputs(&mut self, batch: &Batch, names: &[&str]) -> Result<Vec<Output>> {
        let Self { inner, path } = self;
        let session_error = |error: ort::Error| Error::Session { path: path.clone(), message: error.to_string() };
        let shape = [batch.rows, batch.columns];
        let mut inputs: Vec<(String, SessionInputValue<'_>)> = Vec::with_capacity(3);
        for input in inner.inputs() {
            let data = match input.name() {
                "input_ids" => &batch.input_ids,
                "attention_mask" => &batch.attention_mask,
                _ => &batch.token_type_ids,
            };
            let tensor = TensorRef::from_array_view((shape, data.as_slice())).map_err(session_error)?;
            inputs.push((input.name().to_owned(), tensor.into()));
        }
        let outputs = inner.run(inputs).map_err(session_error)?;
        let extract = |&name: &&str| {
            let Some(output) = outputs.get(name) else {
                return Err(Error::format(path, format!("a graph with the output {name}"), "none"));
            };
            let (shape, values) = output.try_extract_tensor::<f32>().map_err(session_error)?;
            Ok(Output { shape: shape.iter().map(|&size| size as usize).collect(), values: values.to_vec() })
        };
        names.iter().map(extract).collect()
    }
}

/// One output of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its size along each axis.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}
