//! From a trained model to a bundle. A graph that is not as good as the model is refused, and nothing is written.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use nimbert::{
    Encoding, Precision, Session, SessionOptions,
    bundle::{
        Acceptance, Bundle, BundleWriter, CONFIG, FORMAT_VERSION, MODEL, Manifest, Provenance, TOKENIZER, Variant,
    },
};

use crate::{
    error::{Error, Result},
    evaluate::{predict, predict_session},
    metrics::argmax,
    model::SequenceClassifier,
    onnx::{self, Comparison, ModelProto, compare},
    report::percent,
};

/// The largest difference between a logit of the fp32 graph and of the trained model, as a share of the largest logit
/// (or of 1, if that is larger). Both compute in 32 bits but sum in different orders; six layers of that differ by about
/// 1e-6, and a wrong operator or weight by far more than this.
pub const FP32_TOLERANCE: f32 = 1e-4;

/// Rows a batch while graphs are compared.
const BATCH_SIZE: usize = 32;

/// How a model is exported.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// Number format of the shipped graph.
    pub precision: Precision,
    /// The shipped graph may lose this much accuracy against fp32, in percentage points.
    pub max_accuracy_drop: f64,
    /// Whether a bundle that is already there is replaced.
    pub overwrite: bool,
    /// ONNX Runtime's library; none: it is searched for.
    pub ort_lib: Option<PathBuf>,
}

/// The texts by which a graph is judged.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// Where they come from: `validation`, `test`, `train`, or `synthetic`.
    pub split: &'static str,
    /// The texts.
    pub encodings: Vec<&'a Encoding>,
    /// Their labels; none if they have none.
    pub labels: Option<Vec<u32>>,
}

/// What a bundle holds besides the graph.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The base model's `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Texts are truncated to this many tokens.
    pub max_length: usize,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// Further files, by name.
    pub files: Vec<(&'static str, String)>,
}

/// Builds the graph of `model`, judges it by `evidence`, and writes the bundle to `out`. Once `stop` is true, the next
/// stage ends it.
///
/// # Errors
/// [`Error::Gate`] with the figures if the graph is not good enough; [`Error::Interrupted`]; [`Error::Runtime`];
/// [`Error::Io`]. `out` is then as it was.
pub fn export(
    model: &SequenceClassifier,
    contents: &Contents,
    evidence: &Evidence<'_>,
    config: &ExportConfig,
    out: &Path,
    stop: &AtomicBool,
) -> Result<Bundle> {
    // Graphs are tried outside of the bundle: what has not been judged is not in it.
    let scratch = tempfile::tempdir().map_err(|error| Error::io(&std::env::temp_dir(), error))?;
    let judge = Judge { model, evidence, ort_lib: config.ort_lib.clone(), scratch: scratch.path(), stop };

    let trained = predict(model, evidence.encodings.iter().copied(), BATCH_SIZE)?;
    let fp32_graph = onnx::export(model)?;
    let fp32 = judge.logits(&fp32_graph, Precision::Fp32)?;
    let fp32_comparison = compare(&fp32, &trained);
    fp32_gate(&fp32_comparison)?;

    let (shipped_graph, shipped) = match config.precision {
        Precision::Fp32 => (fp32_graph, fp32.clone()),
        _ => {
            let graph = onnx::quantize(&fp32_graph);
            let logits = judge.logits(&graph, config.precision)?;
            (graph, logits)
        }
    };
    let comparison = compare(&shipped, &fp32);
    let hits = |logits: &[Vec<f32>]| evidence.labels.as_ref().map(|labels| count_hits(logits, labels));
    let (fp32_hits, shipped_hits) = (hits(&fp32), hits(&shipped));
    let rows = evidence.encodings.len();
    if let (Some(fp32_hits), Some(shipped_hits)) = (fp32_hits, shipped_hits) {
        accuracy_gate(fp32_hits, shipped_hits, rows, config.max_accuracy_drop)?;
    }

    let accuracy = |hits: Option<usize>| hits.map(|hits| hits as f64 / rows as f64);
    let acceptance = Acceptance {
        split: evidence.split.to_owned(),
        rows,
        fp32_max_logit_difference: fp32_comparison.max_logit_difference,
        fp32_accuracy: accuracy(fp32_hits),
        shipped_max_logit_difference: comparison.max_logit_difference,
        shipped_accuracy: accuracy(shipped_hits),
        label_agreement: comparison.label_agreement,
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        files: Default::default(),
        max_length: contents.max_length,
        variants: vec![Variant {
            precision: config.precision,
            execution_provider: "cpu".to_owned(),
            file: MODEL.to_owned(),
        }],
        temperature: 1.0,
        abstain_threshold: None,
        acceptance,
        provenance: contents.provenance.clone(),
    };
    let writer = BundleWriter::create(out, config.overwrite)?;
    onnx::write(&shipped_graph, &writer.staging().join(MODEL))?;
    let tokenizer = std::fs::read(&contents.tokenizer).map_err(|error| Error::io(&contents.tokenizer, error))?;
    writer.write(TOKENIZER, tokenizer)?;
    writer.write(CONFIG, config_json(model))?;
    writer.write("README.md", model_card(model, &manifest))?;
    for (name, content) in &contents.files {
        writer.write(name, content)?;
    }
    judge.check_stop()?;
    Ok(writer.finish(manifest)?)
}

/// Writes the trained model itself, in fp32, as a Hugging Face folder: `config.json`, `tokenizer.json`,
/// `model.safetensors`. The folder is made where it is missing.
///
/// # Errors
/// [`Error::Io`], [`Error::Tensor`].
pub fn save_model(model: &SequenceClassifier, tokenizer: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    model.parameters().save(&out.join("model.safetensors"))?;
    std::fs::copy(tokenizer, out.join(TOKENIZER)).map_err(|error| Error::io(tokenizer, error))?;
    std::fs::write(out.join(CONFIG), config_json(model)).map_err(|error| Error::io(out, error))
}

fn config_json(model: &SequenceClassifier) -> String {
    let json = model.config.classifier_json(&model.labels);
    serde_json::to_string_pretty(&json).expect("a JSON object has only string keys") + "\n"
}

/// Runs graphs on the evidence.
struct Judge<'a> {
    model: &'a SequenceClassifier,
    evidence: &'a Evidence<'a>,
    ort_lib: Option<PathBuf>,
    scratch: &'a Path,
    stop: &'a AtomicBool,
}

impl Judge<'_> {
    fn logits(&self, graph: &ModelProto, precision: Precision) -> Result<Vec<Vec<f32>>> {
        self.check_stop()?;
        let path = self.scratch.join(format!("{precision}.onnx"));
        onnx::write(graph, &path)?;
        let options = SessionOptions { ort_lib: self.ort_lib.clone(), ..SessionOptions::default() };
        let mut session = Session::open(&path, &options)?;
        predict_session(&mut session, &self.evidence.encodings, self.model.config.pad_token_id, BATCH_SIZE)
    }

    fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted { during: "the export".to_owned() }),
            false => Ok(()),
        }
    }
}

/// The graph must compute what was trained.
fn fp32_gate(comparison: &Comparison) -> Result<()> {
    let bound = FP32_TOLERANCE * comparison.max_logit.max(1.0);
    match comparison.max_logit_difference <= bound {
        true => Ok(()),
        false => Err(Error::Gate {
            check: "fp32 graph against the trained model",
            expected: format!("logits within {bound:.1e}"),
            got: format!("a difference of {:.1e}", comparison.max_logit_difference),
        }),
    }
}

/// The shipped graph must be as accurate as fp32. One row more or less is no evidence, however few rows there are.
fn accuracy_gate(fp32_hits: usize, shipped_hits: usize, rows: usize, max_drop: f64) -> Result<()> {
    let lost = fp32_hits.saturating_sub(shipped_hits);
    let points = |hits: usize| 100.0 * hits as f64 / rows as f64;
    match lost <= 1 || points(lost) <= max_drop {
        true => Ok(()),
        false => Err(Error::Gate {
            check: "accuracy of the shipped graph",
            expected: format!("at most {max_drop} points (--max-accuracy-drop), or one row, under fp32"),
            got: format!(
                "{:.2} % instead of {:.2} %: {:.2} points on {rows} rows",
                points(shipped_hits),
                points(fp32_hits),
                points(lost)
            ),
        }),
    }
}

fn count_hits(logits: &[Vec<f32>], labels: &[u32]) -> usize {
    logits.iter().zip(labels).filter(|(logits, label)| argmax(logits) == **label).count()
}

/// `README.md` of the bundle.
fn model_card(model: &SequenceClassifier, manifest: &Manifest) -> String {
    let Manifest { acceptance, provenance, variants, max_length, .. } = manifest;
    let labels: String = model.labels.iter().map(|label| format!("- {label}\n")).collect();
    format!(
        "# Text classifier\n\n\
         Made by {producer} from {base}. Texts are read up to {max_length} tokens.\n\n\
         ## Labels\n\n{labels}\n\
         ## Measured before packing\n\n\
         | | fp32 | shipped ({precision}) |\n|---|---|---|\n\
         | accuracy on {rows} rows ({split}) | {fp32} | {shipped} |\n\
         | largest logit difference | {fp32_difference:.1e} from the trained model | {difference:.1e} from fp32 |\n\
         | same label | | {agreement:.2} % |\n\n\
         ## Use\n\n    nimbert classify . \"a text\"\n",
        producer = provenance.producer,
        base = provenance.base_model,
        precision = variants[0].precision,
        rows = acceptance.rows,
        split = acceptance.split,
        fp32 = percent(acceptance.fp32_accuracy),
        shipped = percent(acceptance.shipped_accuracy),
        fp32_difference = acceptance.fp32_max_logit_difference,
        difference = acceptance.shipped_max_logit_difference,
        agreement = acceptance.label_agreement * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_gate_fires_beyond_the_drop_but_not_for_one_row() {
        assert!(accuracy_gate(90, 89, 100, 0.5).is_ok());
        assert!(accuracy_gate(90, 88, 100, 1.0).is_err());
        assert!(accuracy_gate(900, 890, 1000, 1.0).is_ok());
        assert!(accuracy_gate(900, 889, 1000, 1.0).is_err());
        assert!(accuracy_gate(88, 90, 100, 0.0).is_ok());
    }

    #[test]
    fn fp32_gate_is_relative_to_large_logits() {
        let comparison =
            |max_logit_difference, max_logit| Comparison { max_logit_difference, max_logit, label_agreement: 1.0 };
        assert!(fp32_gate(&comparison(2e-4, 1.0)).is_err());
        assert!(fp32_gate(&comparison(2e-4, 5.0)).is_ok());
        assert!(fp32_gate(&comparison(f32::INFINITY, 5.0)).is_err());
    }
}
