//! The graphs that a bundle may hold, each for a place where it runs.

use std::str::FromStr;

use nimbert::{Precision, Requirement};

use super::ExportConfig;
use crate::{
    error::{Error, Result},
    model::SequenceClassifier,
    onnx::{self, GraphConfig, Int8, ModelProto, Observations, Operators, WeightRange},
};

/// A graph for an execution provider, in a number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VariantKind {
    /// ONNX Runtime's CPU provider, products in int8, with weights that are exact on every processor.
    CpuInt8,
    /// The same with weights of the full range: more exact, and only for processors that sum their products without loss.
    CpuInt8Full,
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
    pub const ALL: [Self; 6] =
        [Self::CpuInt8, Self::CpuInt8Full, Self::CpuFp32, Self::GpuFp16, Self::TensorrtFp16, Self::TensorrtInt8];

    /// As the command line and the manifest spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuInt8 => "cpu-int8",
            Self::CpuInt8Full => "cpu-int8-full",
            Self::CpuFp32 => "cpu-fp32",
            Self::GpuFp16 => "gpu-fp16",
            Self::TensorrtFp16 => "tensorrt-fp16",
            Self::TensorrtInt8 => "tensorrt-int8",
        }
    }

    /// The number format of its weights.
    pub fn precision(self) -> Precision {
        match self {
            Self::CpuInt8 | Self::CpuInt8Full | Self::TensorrtInt8 => Precision::Int8,
            Self::CpuFp32 => Precision::Fp32,
            Self::GpuFp16 | Self::TensorrtFp16 => Precision::Fp16,
        }
    }

    /// The execution provider, as the manifest names it.
    pub fn execution_provider(self) -> &'static str {
        match self {
            Self::CpuInt8 | Self::CpuInt8Full | Self::CpuFp32 => "cpu",
            Self::GpuFp16 => "cuda",
            Self::TensorrtFp16 | Self::TensorrtInt8 => "tensorrt",
        }
    }

    /// Whether a bundle can have these graphs, the default first, and this machine can judge them.
    ///
    /// # Errors
    /// [`Error::Setting`] for a graph that is there twice, that would never be chosen, or that asks for another processor.
    pub fn check(variants: &[Self]) -> Result<()> {
        for (index, kind) in variants.iter().enumerate() {
            let before = &variants[..index];
            let (expected, got) = match kind.requires() {
                _ if before.contains(kind) => ("each graph once", format!("{kind} twice")),
                Some(what) if !what.is_met() => {
                    ("graphs that can be judged on this machine", format!("{kind}, which requires {what}"))
                }
                Some(_) if before.contains(&Self::CpuInt8) => (
                    "the graph for some processors before that for all, which would be taken",
                    format!("{kind} behind"),
                ),
                _ => continue,
            };
            return Err(Error::setting("--variants", expected, got));
        }
        Ok(())
    }

    /// What it asks of the processor.
    pub fn requires(self) -> Option<Requirement> {
        (self == Self::CpuInt8Full).then_some(Requirement::ExactByteProducts)
    }

    /// Whose operators it is made of.
    pub(super) fn operators(self) -> Operators {
        match self.execution_provider() {
            "tensorrt" => Operators::Standard,
            _ => Operators::Microsoft,
        }
    }

    /// Whether its activations are to be observed.
    pub fn is_quantized(self) -> bool {
        self.precision() == Precision::Int8
    }

    /// The graph. Without observations an int8 graph has int8 weights only.
    pub(super) fn build(
        self,
        model: &SequenceClassifier,
        observations: Option<&Observations>,
        config: &ExportConfig,
        temperatures: &[f32],
    ) -> Result<ModelProto> {
        let int8 = match (self.is_quantized(), observations) {
            (true, Some(observations)) => Int8::Products(observations),
            (true, None) => Int8::Weights,
            (false, _) => Int8::No,
        };
        let operators = self.operators();
        let weights = match self {
            Self::CpuInt8 => WeightRange::Reduced,
            _ => WeightRange::Full,
        };
        let graph = model.graph(GraphConfig {
            operators,
            int8,
            weights,
            storage: config.storage,
            temperatures,
            max_tokens: config.max_tokens,
            distance: config.distance.as_ref(),
        })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_that_nobody_would_use_are_refused() {
        use VariantKind::{CpuFp32, CpuInt8, CpuInt8Full};
        let message = |variants: &[VariantKind]| VariantKind::check(variants).err().map(|error| error.to_string());
        assert_eq!(message(&[CpuInt8, CpuFp32]), None);
        assert!(message(&[CpuInt8, CpuInt8]).unwrap().contains("cpu-int8 twice"));
        match Requirement::ExactByteProducts.is_met() {
            true => {
                assert_eq!(message(&[CpuInt8Full, CpuInt8]), None);
                assert!(message(&[CpuInt8, CpuInt8Full]).unwrap().contains("cpu-int8-full behind"));
            }
            false => assert!(message(&[CpuInt8Full]).unwrap().contains("requires exact products")),
        }
    }
}
