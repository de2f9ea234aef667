//! OpenVINO beside us: one classifier in fp32, in bf16, and in NNCF's int8.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{FOLDER, graphs::Exported, has_bf16, last_json};
use crate::{command, output, python, run, workspace};

const ENVIRONMENT: &str = ".setup/venv-openvino";
pub(super) const PEERS: [&str; 3] = ["openvino==2026.4.1", "nncf==3.4.0", "tokenizers==0.22.2"];
const SCRIPT: &str = "benches/compare/by_openvino.py";
/// Tokens at which movie sentences are cut, which none of them has.
pub(super) const MAX_LENGTH: &str = "128";

/// A way to run it.
pub(super) struct Way {
    name: &'static str,
    /// Whether the graph is NNCF's.
    is_int8: bool,
    /// In which all is computed that is not in int8.
    precision: &'static str,
    streams: &'static str,
}

const WAYS: [Way; 8] = [
    Way { name: "fp32", is_int8: false, precision: "f32", streams: "1" },
    Way { name: "fp32", is_int8: false, precision: "f32", streams: "2" },
    Way { name: "bf16", is_int8: false, precision: "bf16", streams: "1" },
    Way { name: "bf16", is_int8: false, precision: "bf16", streams: "2" },
    Way { name: "int8", is_int8: true, precision: "f32", streams: "1" },
    Way { name: "int8", is_int8: true, precision: "f32", streams: "2" },
    Way { name: "int8, the rest bf16", is_int8: true, precision: "bf16", streams: "1" },
    Way { name: "int8, the rest bf16", is_int8: true, precision: "bf16", streams: "2" },
];

impl Way {
    /// Those that this processor has, fp32 first.
    pub(super) fn all() -> impl Iterator<Item = &'static Self> {
        let has_bf16 = has_bf16();
        WAYS.iter().filter(move |way| has_bf16 || way.precision != "bf16")
    }

    pub(super) fn name(&self) -> String {
        format!("OpenVINO {}, streams: {}", self.name, self.streams)
    }
}

/// Its two graphs of a classifier.
pub(super) struct OpenVino {
    python: PathBuf,
    tokenizer: String,
    /// optimum's.
    fp32: String,
    /// What NNCF makes of it by training texts.
    int8: String,
}

impl OpenVino {
    pub(super) fn of(exported: &Exported) -> Result<Self> {
        python::environment(ENVIRONMENT, &PEERS)?;
        let vino = Self {
            python: python::program(ENVIRONMENT, "python"),
            tokenizer: format!("{}/tokenizer.json", exported.ours),
            fp32: format!("{}/model.onnx", exported.optimum),
            int8: format!("{FOLDER}/openvino-int8.xml"),
        };
        let training = exported.training_texts()?;
        let quantize = [SCRIPT, "quantize", &vino.fp32, &vino.tokenizer, MAX_LENGTH, &training, &vino.int8];
        run(&mut command(&vino.python, &quantize))?;
        Ok(vino)
    }

    /// What the script prints of the texts in a file, cut to `max_length` tokens.
    pub(super) fn measure(&self, way: &Way, texts: &str, max_length: &str) -> Result<Value> {
        let graph = self.graph(way);
        let measure = [SCRIPT, "measure", graph, &self.tokenizer, max_length, texts, way.precision, way.streams];
        last_json(&output(&mut command(&self.python, &measure))?)
    }

    /// The bytes of the graph and its weights.
    pub(super) fn size(&self, way: &Way) -> Result<u64> {
        let graph = self.graph(way);
        let weights = graph.strip_suffix(".xml").map(|stem| format!("{stem}.bin"));
        let size = |path: &str| fs::metadata(workspace(path)).with_context(|| path.to_owned());
        [Some(graph.to_owned()), weights].iter().flatten().map(|path| Ok(size(path)?.len())).sum()
    }

    fn graph(&self, way: &Way) -> &str {
        if way.is_int8 { &self.int8 } else { &self.fp32 }
    }
}

/// The ids of the labels that texts got.
pub(super) fn labels(result: &Value) -> Result<Vec<u64>> {
    result["labels"].as_array().context("no labels")?.iter().map(|id| id.as_u64().context("a label's id")).collect()
}
