//! The graphs that a bundle may hold, each for a place where it runs.

use std::str::FromStr;

use nimbert::Precision;

use crate::{
    error::Result,
    model::SequenceClassifier,
    onnx::{self, GraphConfig, Int8, ModelProto, Observations, Operators, Storage},
};

/// A graph for an execution provider, in a number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VariantKind {
    /// ONNX Runtime's CPU provider, products in int8.
    CpuInt8,
    /// ONNX Runtime's CPU provider, fp32.
    CpuFp32,
    /// ONNX Runtime's CUDA provider, fp16.
    GpuFp16,
    /// TensorRT: standard operators, fp16.
    TensorrtFp16,
    /// TensorRT: standard operators, products in int8 between QuantizeLinear and DequantizeLinear around 0.
    TensorrtInt8,
}

impl VariantKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::CpuInt8, Self::CpuFp32, Self::GpuFp16, Self::TensorrtFp16, Self::TensorrtInt8];

    /// As the command line and the manifest spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuInt8 => "cpu-int8",
            Self::CpuFp32 => "cpu-fp32",
            Self::GpuFp16 => "gpu-fp16",
            Self::TensorrtFp16 => "tensorrt-fp16",
            Self::TensorrtInt8 => "tensorrt-int8",
        }
    }

    /// The number format of its weights.
    pub fn precision(self) -> Precision {
        match self {
            Self::CpuInt8 | Self::TensorrtInt8 => Precision::Int8,
            Self::CpuFp32 => Precision::Fp32,
            Self::GpuFp16 | Self::TensorrtFp16 => Precision::Fp16,
        }
    }

    /// The execution provider, as the manifest names it.
    pub fn execution_provider(self) -> &'static str {
        match self {
            Self::CpuInt8 | Self::CpuFp32 => "cpu",
            Self::GpuFp16 => "cuda",
            Self::TensorrtFp16 | Self::TensorrtInt8 => "tensorrt",
        }
    }

    /// Whether its activations are to be observed.
    pub(super) fn is_quantized(self) -> bool {
        self.precision() == Precision::Int8
    }

    /// The graph. Without observations an int8 graph has int8 weights only.
    pub(super) fn build(
        self,
        model: &SequenceClassifier,
        observations: Option<&Observations>,
        storage: Storage,
        temperature: f32,
    ) -> Result<ModelProto> {
        let int8 = match (self.is_quantized(), observations) {
            (true, Some(observations)) => Int8::Products(observations),
            (true, None) => Int8::Weights,
            (false, _) => Int8::No,
        };
        let operators = match self.execution_provider() {
            "tensorrt" => Operators::Standard,
            _ => Operators::Microsoft,
        };
        let graph = onnx::export(model, GraphConfig { operators, int8, storage, temperature })?;
        match self.precision() {
            Precision::Fp16 => onnx::to_fp16(graph),
            _ => Ok(graph),
        }
    }
}

impl std::fmt::Display for VariantKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VariantKind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}, found {name}")
        })
    }
}
