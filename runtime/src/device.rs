//! Where a graph runs: the processor, or an NVIDIA GPU through CUDA or TensorRT.

use std::{path::PathBuf, str::FromStr};

use ort::ep;

use crate::precision::Precision;

/// Where a graph runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of that index, through CUDA.
    Cuda(u32),
    /// The NVIDIA GPU of that index, through TensorRT.
    Tensorrt(u32),
    /// The first that can be used of TensorRT and CUDA, each if the bundle has a graph for it, and the processor.
    Auto,
}

impl Device {
    /// The execution provider's name in a manifest; none for [`Device::Auto`].
    pub fn execution_provider(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Cuda(_) => Some("cuda"),
            Self::Tensorrt(_) => Some("tensorrt"),
            Self::Auto => None,
        }
    }
}

impl Device {
    /// ONNX Runtime's name of what computes there.
    pub(crate) fn provider_name(self) -> &'static str {
        match self {
            Self::Cpu | Self::Auto => "CPUExecutionProvider",
            Self::Cuda(_) => "CUDAExecutionProvider",
            Self::Tensorrt(_) => "TensorrtExecutionProvider",
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("expected cpu, cuda, cuda:N, tensorrt, tensorrt:N or auto, found {name}");
        let (kind, index) = match name.split_once(':') {
            None => (name, None),
            Some((kind, index)) => (kind, Some(index.parse().map_err(|_| unknown())?)),
        };
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("tensorrt", index) => Ok(Self::Tensorrt(index.unwrap_or(0))),
            ("auto", None) => Ok(Self::Auto),
            _ => Err(unknown()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Tensorrt(0) => f.write_str("tensorrt"),
            Self::Tensorrt(index) => write!(f, "tensorrt:{index}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What a GPU may use, and what TensorRT must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Bytes of the GPU's memory that CUDA may use; TensorRT may use as many while it builds an engine. None: as much as there is.
    pub memory_limit: Option<u64>,
    /// Whether operators that compute may be left to the processor; otherwise a session that leaves any is an error.
    pub allow_cpu: bool,
    /// For TensorRT, which builds an engine for a range of shapes.
    pub engine: Option<Engine>,
}

/// How TensorRT's engine is built and where it is kept. Building takes minutes, so it is kept in a folder of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Where engines and timings are kept; none: nowhere.
    pub cache: Option<PathBuf>,
    /// The most texts a run.
    pub max_rows: usize,
    /// The most tokens a text.
    pub max_columns: usize,
    /// Number format of the graph.
    pub precision: Precision,
    /// The graph's inputs, all `[rows, columns]`.
    pub inputs: Vec<String>,
}

impl Engine {
    /// TensorRT's spelling of a shape of all inputs: `input_ids:8x32,attention_mask:8x32`.
    fn shapes(&self, rows: usize, columns: usize) -> String {
        self.inputs.iter().map(|name| format!("{name}:{rows}x{columns}")).collect::<Vec<_>>().join(",")
    }
}

/// Which kernels of the CUDA provider compute attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attention {
    /// ONNX Runtime's own. On newer GPUs it prefers cuDNN's, which plans every shape of a batch anew, 40 ms each.
    Own,
    /// Those that ONNX Runtime chooses: before 1.19 it has no option for it, and only its own.
    Any,
}

/// The option by which kernels are chosen, as ONNX Runtime names it where it has no such option.
pub(crate) const ATTENTION_OPTION: &str = "sdpa_kernel";

/// ONNX Runtime's execution providers for `device`, best first; none for the processor, which is always there.
pub(crate) fn execution_providers(
    device: Device,
    options: &GpuOptions,
    attention: Attention,
) -> Vec<ep::ExecutionProviderDispatch> {
    let cuda = |index: u32, attention: Attention| {
        let mut cuda = ep::CUDA::default().with_device_id(index as i32);
        if let Some(limit) = options.memory_limit {
            cuda = cuda.with_memory_limit(limit as usize);
        }
        if attention == Attention::Own {
            type Kernels = ep::cuda::AttentionBackend;
            cuda = cuda.with_attention_backend(
                Kernels::FLASH_ATTENTION | Kernels::EFFICIENT_ATTENTION | Kernels::TRT_FUSED_ATTENTION | Kernels::MATH,
            );
        }
        cuda.build().error_on_failure()
    };
    match device {
        Device::Cpu | Device::Auto => vec![],
        Device::Cuda(index) => vec![cuda(index, attention)],
        // What TensorRT leaves, if anything, goes to CUDA; no graph for TensorRT has attention as one operator.
        Device::Tensorrt(index) => {
            let mut tensorrt = ep::TensorRT::default().with_device_id(index as i32);
            if let Some(limit) = options.memory_limit {
                tensorrt = tensorrt.with_max_workspace_size(limit as usize);
            }
            if let Some(engine) = &options.engine {
                if let Some(cache) = engine.cache.as_ref().map(|cache| cache.to_string_lossy().into_owned()) {
                    tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(&cache);
                    tensorrt = tensorrt.with_timing_cache(true).with_timing_cache_path(&cache);
                }
                let typical = (engine.max_rows.div_ceil(2), engine.max_columns.div_ceil(4));
                tensorrt = tensorrt
                    .with_fp16(engine.precision != Precision::Fp32)
                    .with_int8(engine.precision == Precision::Int8)
                    .with_profile_min_shapes(engine.shapes(1, 1))
                    .with_profile_opt_shapes(engine.shapes(typical.0, typical.1))
                    .with_profile_max_shapes(engine.shapes(engine.max_rows, engine.max_columns));
            }
            vec![tensorrt.build().error_on_failure(), cuda(index, Attention::Any)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["cpu", "cuda", "cuda:1", "tensorrt", "tensorrt:3", "auto"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cuda:0".parse(), Ok(Device::Cuda(0)));
        for name in ["gpu", "cuda:", "cuda:x", "cpu:1", "auto:0", ""] {
            assert!(name.parse::<Device>().unwrap_err().contains(name));
        }
    }

    #[test]
    fn an_engine_has_one_shape_for_all_inputs() {
        let engine = Engine {
            cache: None,
            max_rows: 32,
            max_columns: 128,
            precision: Precision::Fp16,
            inputs: ["input_ids", "attention_mask"].map(String::from).to_vec(),
        };
        assert_eq!(engine.shapes(8, 16), "input_ids:8x16,attention_mask:8x16");
    }
}
