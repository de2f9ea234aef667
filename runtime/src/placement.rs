//! Which execution provider computes what: read from the trace of a run, not from what was asked for.
//!
//! ONNX Runtime gives each operator to the first provider that can compute it, and says nothing where that is not the one
//! that was asked for.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::error::{Error, Result};

/// Operators by execution provider: `counts["CPUExecutionProvider"]["Gemm"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// How many operators of each type each provider computes.
    pub counts: BTreeMap<String, BTreeMap<String, usize>>,
}

/// ONNX Runtime's name of the processor.
const CPU: &str = "CPUExecutionProvider";
/// Operators on shapes, which are a few integers: ONNX Runtime keeps them on the processor where the values are needed.
const SHAPE_OPERATORS: [&str; 8] = ["Shape", "Slice", "Concat", "Gather", "Reshape", "Squeeze", "Unsqueeze", "Cast"];

impl Placement {
    /// Reads a trace that ONNX Runtime wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no such trace.
    pub(crate) fn read(trace: &Path) -> Result<Self> {
        let json = std::fs::read(trace).map_err(|error| Error::io(trace, error))?;
        let events: Vec<Value> = serde_json::from_slice(&json)
            .map_err(|error| Error::format(trace, "a trace of ONNX Runtime", error.to_string()))?;
        let mut placement = Self::default();
        let is_run = |event: &&Value| event["name"].as_str().is_some_and(|name| name.ends_with("_kernel_time"));
        for event in events.iter().filter(is_run) {
            let (provider, operator) = (event["args"]["provider"].as_str(), event["args"]["op_name"].as_str());
            if let (Some(provider), Some(operator)) = (provider, operator) {
                let operators = placement.counts.entry(provider.to_owned()).or_default();
                *operators.entry(operator.to_owned()).or_default() += 1;
            }
        }
        Ok(placement)
    }

    /// Whether a provider computes anything but shapes.
    pub(crate) fn is_used(&self, provider: &str) -> bool {
        self.counts.get(provider).is_some_and(|operators| operators.keys().any(|operator| computes(operator)))
    }

    /// The operators that compute more than shapes and were left to the processor.
    pub fn left_on_cpu(&self) -> Vec<&str> {
        let operators = self.counts.get(CPU).into_iter().flat_map(|operators| operators.keys());
        operators.map(String::as_str).filter(|operator| computes(operator)).collect()
    }
}

fn computes(operator: &str) -> bool {
    !SHAPE_OPERATORS.contains(&operator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trace_leaves_to_the_processor() {
        let event = |name: &str, operator: &str, provider: &str| serde_json::json!({ "cat": "Node", "name": name, "args": { "op_name": operator, "provider": provider } });
        let trace = serde_json::json!([
            { "cat": "Session", "name": "model_loading_uri" },
            event("shape_kernel_time", "Shape", CPU),
            event("attention_kernel_time", "Attention", "CUDAExecutionProvider"),
            event("attention_fence_before", "Attention", "CUDAExecutionProvider"),
            event("product_kernel_time", "QAttention", CPU),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        std::fs::write(&path, trace.to_string()).unwrap();
        let placement = Placement::read(&path).unwrap();
        assert_eq!(placement.left_on_cpu(), ["QAttention"]);
        assert!(placement.is_used("CUDAExecutionProvider") && !placement.is_used("TensorrtExecutionProvider"));
        assert_eq!(placement.counts["CUDAExecutionProvider"]["Attention"], 1);
        std::fs::write(&path, "[").unwrap();
        assert!(Placement::read(&path).is_err());
    }
}
