//! From a trained model to a bundle. A graph that is not as good as the model is refused, and nothing is written.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use nimbert::{
    Batch, Decision, Encoding, Precision, ProblemType, Session, SessionOptions,
    bundle::{
        Acceptance, Bundle, BundleWriter, CONFIG, FORMAT_VERSION, MODEL, Manifest, Provenance, TOKENIZER, Variant,
    },
};

use crate::{
    calibrate::calibrate,
    dataloader::Example,
    error::{Error, Result},
    evaluate::{predict, predict_session},
    model::SequenceClassifier,
    onnx::{self, Comparison, ModelProto, Storage, compare},
    report::percent,
    train::undecided,
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
    /// Whether a text has one label or any number of them.
    pub problem_type: ProblemType,
    /// The classifier abstains where, by the validation rows, less than this share of the answers is right; none: never.
    pub abstain_precision: Option<f64>,
    /// Number format of the shipped graph.
    pub precision: Precision,
    /// How an int8 graph stores its integers.
    pub storage: Storage,
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
    /// Where they come from: `validation`, `test`, `train`, or `synthetic` where there was no data.
    pub split: &'static str,
    /// The texts, each of one window or several.
    pub texts: Vec<&'a [Encoding]>,
    /// Their labels; none if they have none.
    pub labels: Option<Vec<&'a [u32]>>,
}

impl<'a> Evidence<'a> {
    /// Examples of a split.
    pub fn new(split: &'static str, examples: &'a [Example]) -> Self {
        Self {
            split,
            texts: examples.iter().map(|example| example.windows.as_slice()).collect(),
            labels: Some(examples.iter().map(|example| example.labels.as_slice()).collect()),
        }
    }
}

/// What a bundle holds besides the graph.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The model's `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Texts are truncated to this many tokens, or read in windows of so many.
    pub max_length: usize,
    /// Tokens that windows share; none: texts are truncated.
    pub stride: Option<usize>,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// Further files, by name.
    pub files: Vec<(&'static str, String)>,
}

/// A graph that has been found good enough, and what was measured.
#[derive(Debug)]
pub struct Judged {
    graph: ModelProto,
    /// The figures that admit it.
    pub acceptance: Acceptance,
    /// How its logits become an answer.
    pub decision: Decision,
    /// What was measured of each graph: fp32, then the shipped one if it is another.
    pub variants: Vec<VariantFigures>,
    /// The shipped graph's logits of the evidence.
    pub logits: Vec<Vec<f32>>,
    /// The shipped graph's logits of the test rows, if there are any.
    pub test_logits: Option<Vec<Vec<f32>>>,
}

/// What was measured of one graph.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantFigures {
    /// Number format.
    pub precision: Precision,
    /// Size of the file.
    pub bytes: u64,
    /// On the evidence, if it has labels.
    pub accuracy: Option<f64>,
    /// The largest difference from the trained model (fp32) or from the fp32 graph.
    pub max_logit_difference: f32,
    /// The median time of one text alone, in milliseconds, tokenization not counted.
    pub milliseconds: f64,
}

/// Builds the graph of `model` and judges it by `evidence`; on validation rows it is calibrated too. `test` rows are
/// measured and used for nothing. Once `stop` is true, the next stage ends it.
///
/// # Errors
/// [`Error::Gate`] with the figures if the graph is not good enough; [`Error::Interrupted`]; [`Error::Runtime`].
pub fn judge(
    model: &SequenceClassifier,
    evidence: &Evidence<'_>,
    test: Option<&Evidence<'_>>,
    config: &ExportConfig,
    stop: &AtomicBool,
) -> Result<Judged> {
    // Graphs are tried outside of the bundle: what has not been judged is not in it.
    let scratch = tempfile::tempdir().map_err(|error| Error::io(&std::env::temp_dir(), error))?;
    let judge = Judge { model, ort_lib: config.ort_lib.clone(), scratch: scratch.path(), stop };
    let decision = undecided(config.problem_type);
    let hits = |logits: &[Vec<f32>]| evidence.labels.as_ref().map(|labels| count_hits(&decision, logits, labels));
    let rows = evidence.texts.len();
    let accuracy = |hits: Option<usize>| hits.map(|hits| hits as f64 / rows as f64);

    let trained = predict(model, evidence.texts.iter().copied(), BATCH_SIZE)?;
    let fp32_graph = onnx::export(model)?;
    let mut session = judge.session(&fp32_graph, Precision::Fp32)?;
    let fp32 = judge.logits(&mut session, evidence)?;
    let fp32_comparison = compare(&fp32, &trained);
    fp32_gate(&fp32_comparison)?;
    let fp32_hits = hits(&fp32);
    let figures = |session: &mut Session, precision, hits, comparison: &Comparison| -> Result<VariantFigures> {
        Ok(VariantFigures {
            precision,
            bytes: judge.file_size(precision)?,
            accuracy: accuracy(hits),
            max_logit_difference: comparison.max_logit_difference,
            milliseconds: judge.milliseconds(session, evidence)?,
        })
    };
    let mut variants = vec![figures(&mut session, Precision::Fp32, fp32_hits, &fp32_comparison)?];

    let (graph, mut session, shipped) = match config.precision {
        Precision::Fp32 => (fp32_graph, session, fp32.clone()),
        precision => {
            let graph = onnx::quantize(&fp32_graph, config.storage);
            let mut session = judge.session(&graph, precision)?;
            let logits = judge.logits(&mut session, evidence)?;
            (graph, session, logits)
        }
    };
    let comparison = compare(&shipped, &fp32);
    let shipped_hits = hits(&shipped);
    if let (Some(fp32_hits), Some(shipped_hits)) = (fp32_hits, shipped_hits) {
        accuracy_gate(fp32_hits, shipped_hits, rows, config.max_accuracy_drop)?;
    }
    if config.precision != Precision::Fp32 {
        variants.push(figures(&mut session, config.precision, shipped_hits, &comparison)?);
    }
    let decision = match (&evidence.labels, evidence.split) {
        (Some(labels), "validation") => calibrate(config.problem_type, &shipped, labels, config.abstain_precision),
        _ => decision.clone(),
    };
    let test_logits = test.map(|test| judge.logits(&mut session, test)).transpose()?;
    let acceptance = Acceptance {
        split: evidence.split.to_owned(),
        rows,
        fp32_max_logit_difference: fp32_comparison.max_logit_difference,
        fp32_accuracy: accuracy(fp32_hits),
        shipped_max_logit_difference: comparison.max_logit_difference,
        shipped_accuracy: accuracy(shipped_hits),
        label_agreement: comparison.label_agreement,
    };
    Ok(Judged { graph, acceptance, decision, variants, logits: shipped, test_logits })
}

/// Writes a judged graph and everything else that a bundle holds to `out`, unless `stop` is true.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::Runtime`]; [`Error::Io`]. `out` is then as it was.
pub fn pack(
    model: &SequenceClassifier,
    judged: Judged,
    contents: &Contents,
    config: &ExportConfig,
    out: &Path,
    stop: &AtomicBool,
) -> Result<Bundle> {
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        files: Default::default(),
        max_length: contents.max_length,
        variants: vec![Variant {
            precision: config.precision,
            execution_provider: "cpu".to_owned(),
            file: MODEL.to_owned(),
        }],
        stride: contents.stride,
        temperature: judged.decision.temperature,
        abstain_threshold: judged.decision.abstain_threshold,
        label_thresholds: judged.decision.label_thresholds,
        acceptance: judged.acceptance,
        provenance: contents.provenance.clone(),
    };
    let writer = BundleWriter::create(out, config.overwrite)?;
    onnx::write(&judged.graph, &writer.staging().join(MODEL))?;
    let tokenizer = std::fs::read(&contents.tokenizer).map_err(|error| Error::io(&contents.tokenizer, error))?;
    writer.write(TOKENIZER, tokenizer)?;
    writer.write(CONFIG, config_json(model, config.problem_type))?;
    writer.write("README.md", model_card(model, &manifest))?;
    for (name, content) in &contents.files {
        writer.write(name, content)?;
    }
    check_stop(stop)?;
    Ok(writer.finish(manifest)?)
}

/// Writes the trained model itself, in fp32, as a Hugging Face folder: `config.json`, `tokenizer.json`,
/// `model.safetensors`. The folder is made where it is missing.
///
/// # Errors
/// [`Error::Io`], [`Error::Tensor`].
pub fn save_model(model: &SequenceClassifier, problem_type: ProblemType, tokenizer: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    model.parameters().save(&out.join("model.safetensors"))?;
    std::fs::copy(tokenizer, out.join(TOKENIZER)).map_err(|error| Error::io(tokenizer, error))?;
    std::fs::write(out.join(CONFIG), config_json(model, problem_type)).map_err(|error| Error::io(out, error))
}

fn config_json(model: &SequenceClassifier, problem_type: ProblemType) -> String {
    let json = model.config.classifier_json(&model.labels, problem_type);
    serde_json::to_string_pretty(&json).expect("a JSON object has only string keys") + "\n"
}

fn check_stop(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted { during: "the export".to_owned() }),
        false => Ok(()),
    }
}

/// Runs graphs on evidence.
struct Judge<'a> {
    model: &'a SequenceClassifier,
    ort_lib: Option<PathBuf>,
    scratch: &'a Path,
    stop: &'a AtomicBool,
}

impl Judge<'_> {
    fn path(&self, precision: Precision) -> PathBuf {
        self.scratch.join(format!("{precision}.onnx"))
    }

    fn session(&self, graph: &ModelProto, precision: Precision) -> Result<Session> {
        check_stop(self.stop)?;
        let path = self.path(precision);
        onnx::write(graph, &path)?;
        let options = SessionOptions { ort_lib: self.ort_lib.clone(), ..SessionOptions::default() };
        Ok(Session::open(&path, &options)?)
    }

    fn logits(&self, session: &mut Session, evidence: &Evidence<'_>) -> Result<Vec<Vec<f32>>> {
        check_stop(self.stop)?;
        predict_session(session, evidence.texts.iter().copied(), self.model.config.pad_token_id, BATCH_SIZE)
    }

    fn file_size(&self, precision: Precision) -> Result<u64> {
        let path = self.path(precision);
        Ok(std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len())
    }

    /// The median time of a text alone, over the first few.
    fn milliseconds(&self, session: &mut Session, evidence: &Evidence<'_>) -> Result<f64> {
        const TEXTS: usize = 21;
        let mut times = Vec::new();
        for text in evidence.texts.iter().take(TEXTS) {
            let batch = Batch::pad(text.iter(), self.model.config.pad_token_id);
            let started = Instant::now();
            session.run(&batch)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
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

fn count_hits(decision: &Decision, logits: &[Vec<f32>], labels: &[&[u32]]) -> usize {
    let is_hit = |(logits, labels): &(&Vec<f32>, &&[u32])| {
        let predicted = decision.label_ids(&decision.scores(logits));
        predicted.iter().map(|&id| id as u32).eq(labels.iter().copied())
    };
    logits.iter().zip(labels).filter(is_hit).count()
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
