//! From a trained model to a bundle. A graph that is not as good as the model is refused, and nothing is written.

mod calibration;
mod gates;
mod tokenizer_config;
mod triton;
mod variant;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use nimbert::{
    Batch, Decision, Encoding, HiddenFolder, ProblemType, Session, SessionOptions, Task, TruncationSide,
    bundle::{
        Acceptance, Bundle, BundleWriter, CONFIG, FORMAT_VERSION, FurtherTask, MODEL, Manifest, Provenance, TOKENIZER,
        Unknown, Variant,
    },
    prediction::Answer,
    summary::Reference,
};

use crate::{
    calibrate::{Certainty, Unseen, calibrate},
    dataloader::Example,
    error::{Error, Result},
    evaluate::{answer, predict},
    mahalanobis::Mahalanobis,
    metrics::percent,
    model::{SequenceClassifier, WEIGHTS},
    onnx::{self, Calibration, Comparison, ModelProto, Observations, Storage, compare},
    rehearsal::{LEARNED, Learned},
    scratch::{Scratch, remove_if_there},
    tasks::{TaskLabels, Tasks},
    train::undecided,
};

pub use calibration::Sensitivity;
pub use gates::{
    BATCH_TOLERANCE, DISTANCE_TOLERANCE, FOREIGN_BATCH_TOLERANCE, FOREIGN_DISTANCE_TOLERANCE, FP16_TOLERANCE,
    FP32_TOLERANCE, INT8_TOLERANCE, operator_counts,
};
use tokenizer_config::{TokenizerSettings, tokenizer_config};
pub use triton::{MODEL_NAME as TRITON_MODEL_NAME, check_labels as check_triton_labels, pack_triton};
pub use variant::VariantKind;

/// The file name of the tokenizer's settings for other programs.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Rows a batch while graphs are compared.
const BATCH_SIZE: usize = 32;
/// Texts by which a graph's answers alone and in batches are compared.
const INVARIANCE_TEXTS: usize = 64;
/// Activations are looked at one by one where int8 differs from fp32 by more than this ([`Comparison::relative_error`]).
const FAITHFUL: f32 = 0.15;
/// Where they are, one that alone costs more than this stays in fp32.
const MAX_SENSITIVITY: f32 = 0.03;

/// How a model is exported.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// Whether a text has one label or any number of them.
    pub problem_type: ProblemType,
    /// What the classifier is to say of its answers, by rows that it has not learned from.
    pub certainty: Certainty,
    /// How far a text is from those of training; none: the graphs do not say it.
    pub distance: Option<Mahalanobis>,
    /// The graphs, the default first; at least one.
    pub variants: Vec<VariantKind>,
    /// How the ranges of activations are found; of several methods, the one whose int8 graph is nearest to fp32 on the
    /// calibration texts. At least one.
    pub calibrations: Vec<Calibration>,
    /// Whether what quantizing each activation costs is measured in any case, to be shown.
    pub sensitivity: bool,
    /// How an int8 graph stores its integers.
    pub storage: Storage,
    /// The most tokens that a text has, if they are less than the model allows.
    pub max_tokens: Option<usize>,
    /// A graph may lose this much accuracy against fp32, in percentage points.
    pub max_accuracy_drop: f64,
    /// It may give another label than fp32 to so many of the rows by which it is judged, in percent, if they have labels.
    pub max_label_changes: f64,
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
            labels: Some(examples.iter().map(|example| example.target.ids.as_slice()).collect()),
        }
    }
}

/// The rows that an export sees.
#[derive(Debug, Clone)]
pub struct ExportData<'a> {
    /// Those by which graphs are judged; on validation rows the answers are calibrated too.
    pub evidence: Evidence<'a>,
    /// By what answers are calibrated where there are no validation rows: what models like this one answer.
    pub unseen: Option<Unseen<'a>>,
    /// Those that are measured and used for nothing.
    pub test: Option<Evidence<'a>>,
    /// Texts that are like no label, for the same.
    pub strangers: Vec<&'a [Encoding]>,
    /// Texts by which the ranges of activations are found. Without any, int8 graphs have int8 weights and compute in
    /// fp32.
    pub calibration_texts: Vec<&'a [Encoding]>,
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
    /// At which end longer texts are cut.
    pub truncation_side: TruncationSide,
    /// Whether the classifier reads pairs of texts; none: not known.
    pub pairs: Option<bool>,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// What was answered to texts that were not learned from, if that is to be in the bundle.
    pub reference: Option<Reference>,
}

/// Graphs that have been found good enough, and what was measured.
#[derive(Debug)]
pub struct Judged {
    /// Those that ship, the default first.
    graphs: Vec<(VariantKind, ModelProto)>,
    /// The figures that admit the default.
    pub acceptance: Acceptance,
    /// How its logits become an answer, by task.
    pub calibrated: Vec<Calibrated>,
    /// What was measured of each graph: fp32, then the others that ship.
    pub variants: Vec<VariantFigures>,
    /// How the ranges of activations were found, if they were.
    pub calibration: Option<Calibration>,
    /// What quantizing each activation costs, the most costly first, if it was measured.
    pub sensitivity: Vec<Sensitivity>,
    /// Activations that stayed in fp32 for that.
    pub in_fp32: Vec<String>,
    /// The default graph's answers to the evidence.
    pub answers: Vec<Answer>,
    /// The default graph's answers to the test rows, if there are any.
    pub test_answers: Option<Vec<Answer>>,
    /// What was answered to [`ExportData::unseen`], as the bundle has it, where answers were calibrated by that.
    pub unseen_answers: Option<Vec<Answer>>,
    /// Its answers to texts that are like no label, where there are any.
    pub stranger_answers: Vec<Answer>,
}

/// How a task's logits become an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrated {
    /// By what they are divided already.
    pub temperature: f32,
    /// What is left to do.
    pub decision: Decision,
}

impl Judged {
    /// How the first task's logits become an answer.
    pub fn decision(&self) -> &Decision {
        &self.calibrated[0].decision
    }

    /// What the classifier decides, of a model that was judged.
    pub fn tasks(&self, model: &SequenceClassifier) -> Vec<Task> {
        let of_task = |(task, calibrated): (&TaskLabels, &Calibrated)| Task {
            name: task.name.clone(),
            labels: labels_of(model, task),
            decision: calibrated.decision.clone(),
        };
        model.tasks.iter().zip(&self.calibrated).map(of_task).collect()
    }

    /// Size of the files of all graphs that ship.
    pub fn bytes(&self) -> u64 {
        let ships = |of: &&VariantFigures| self.graphs.iter().any(|(kind, _)| *kind == of.kind);
        self.variants.iter().filter(ships).map(|of| of.bytes).sum()
    }

    /// What was measured of the default graph.
    pub fn shipped(&self) -> &VariantFigures {
        let (kind, _) = self.graphs[0];
        self.variants.iter().find(|figures| figures.kind == kind).expect("every graph was measured")
    }
}

/// What was measured of one graph.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantFigures {
    /// The graph.
    pub kind: VariantKind,
    /// Size of the file.
    pub bytes: u64,
    /// On the evidence, if it has labels.
    pub accuracy: Option<f64>,
    /// The largest difference from the trained model (fp32) or from the fp32 graph.
    pub max_logit_difference: f32,
    /// The share of the texts that get fp32's label, of every task; where a text may have several, all of them.
    pub label_agreement: f64,
    /// The median time of one text alone on this machine's CPU, in milliseconds, tokenization not counted.
    pub milliseconds: f64,
}

/// A graph that was tried.
struct Tried {
    kind: VariantKind,
    graph: ModelProto,
    session: Session,
    logits: Vec<Vec<f32>>,
    /// Empty where the graph says none.
    distances: Vec<f32>,
    /// Its share of equal labels is by what ships, once that is known.
    comparison: Comparison,
    /// Right answers by what ships; none until that is known, and where rows have no labels.
    hits: Option<usize>,
}

/// Builds the graphs of `model` and judges each by the evidence. Once `stop` is true, the next stage ends it.
///
/// # Errors
/// [`Error::Gate`] with the figures and the rows that differ most if a graph is not good enough;
/// [`Error::Interrupted`]; [`Error::Runtime`].
pub fn judge(
    model: &SequenceClassifier,
    data: &ExportData<'_>,
    config: &ExportConfig,
    stop: &AtomicBool,
) -> Result<Judged> {
    if config.variants.contains(&VariantKind::TensorrtInt8) && data.calibration_texts.is_empty() {
        let expected = "graphs that need no ranges of activations, or --data to find them by";
        return Err(Error::setting("--variants", expected, VariantKind::TensorrtInt8));
    }
    VariantKind::check(&config.variants)?;
    // Graphs are tried outside of the bundle: what has not been judged is not in it.
    let scratch = Scratch::new()?;
    let ExportData { evidence, unseen, test, strangers, calibration_texts } = data;
    let decision = &undecided(config.problem_type);
    let judge = Judge { model, evidence, calibration_texts, config, decision, scratch: scratch.path(), stop };
    let trained = predict(model, evidence.texts.iter().copied(), BATCH_SIZE)?;
    let mut fp32 = judge.tried(VariantKind::CpuFp32, None, &trained)?;
    judge.gates(&mut fp32, Some(&trained))?;
    let decision = &judge.thresholds(&fp32, unseen.as_ref());
    let judge = Judge { decision, ..judge };

    let quantizes = config.variants.iter().any(|kind| kind.is_quantized()) && !calibration_texts.is_empty();
    let mut quantization = match quantizes {
        true => Some(judge.quantization(&fp32)?),
        false => None,
    };
    if quantization.as_ref().is_some_and(|of| of.observations.is_empty()) {
        gates::integers(&config.variants)?;
    }
    let mut trial = quantization.as_mut().and_then(|quantization| quantization.trial.take());
    let observations = quantization.as_ref().map(|quantization| &quantization.observations);
    let mut tried = vec![fp32];
    for &kind in config.variants.iter().filter(|kind| **kind != VariantKind::CpuFp32) {
        let (mut variant, reference) = match trial.take_if(|trial| trial.kind == kind) {
            // It is known to be like fp32.
            Some(trial) => (trial, None),
            None => {
                let variant = judge.tried(kind, observations, &tried[0].logits)?;
                (variant, Some(&tried[0].logits[..]))
            }
        };
        judge.gates(&mut variant, reference)?;
        tried.push(variant);
    }

    let kinds: Vec<VariantKind> = tried.iter().map(|tried| tried.kind).collect();
    let place = |kind: VariantKind| kinds.iter().position(|other| *other == kind).expect("every kind was tried");
    let default = place(config.variants[0]);
    let validated = judge.validated(&tried[default]);
    let calibrated = judge.calibrated(validated.as_ref().or(unseen.as_ref()));
    let temperatures: Vec<f32> = calibrated.iter().map(|task| task.temperature).collect();
    if temperatures.iter().any(|temperature| *temperature != 1.0) {
        let folded = tried.into_iter().map(|variant| judge.fold(variant, observations, &temperatures));
        tried = folded.collect::<Result<_>>()?;
    }
    let mut variants = Vec::new();
    let fp32_logits = tried[0].logits.clone();
    for variant in &mut tried {
        // Labels hold from thresholds on that were not there before.
        let decision = &calibrated[0].decision;
        variant.hits = judge.hits(decision, &variant.logits);
        variant.comparison.label_agreement = model.tasks.agreement(decision, &variant.logits, &fp32_logits);
        variants.push(judge.figures(variant)?);
    }
    let of_test = |test: &Evidence<'_>| judge.finite_answers(&mut tried[default], &test.texts, test.split);
    let test_answers = test.as_ref().map(of_test).transpose()?;
    let unseen_answers = unseen.as_ref().map(|unseen| judge.as_shipped(unseen, &temperatures));
    let stranger_answers = judge.finite_answers(&mut tried[default], strangers, "--unknown-label")?;
    let (fp32, shipped) = (&tried[0], &tried[default]);
    let difference = compare(&shipped.logits, &fp32.logits);
    let acceptance = Acceptance {
        split: evidence.split.to_owned(),
        rows: evidence.texts.len(),
        fp32_max_logit_difference: fp32.comparison.max_logit_difference,
        fp32_accuracy: judge.share(fp32.hits),
        shipped_max_logit_difference: difference.max_logit_difference,
        shipped_accuracy: judge.share(shipped.hits),
        label_agreement: shipped.comparison.label_agreement,
    };
    let answers = judge.with_distances(&shipped.logits, &shipped.distances);
    let mut graphs: Vec<(VariantKind, ModelProto)> = Vec::new();
    for &kind in &config.variants {
        graphs.push((kind, std::mem::take(&mut tried[place(kind)].graph)));
    }
    let Quantization { calibration, sensitivity, in_fp32, .. } = quantization.unwrap_or_default();
    Ok(Judged {
        graphs,
        acceptance,
        calibrated,
        variants,
        calibration,
        sensitivity,
        in_fp32,
        answers,
        test_answers,
        unseen_answers,
        stranger_answers,
    })
}

/// How activations are quantized.
#[derive(Default)]
struct Quantization {
    /// None where all activations stay in fp32.
    calibration: Option<Calibration>,
    observations: Observations,
    /// The int8 graph that was found good enough with them; none if none was.
    trial: Option<Tried>,
    /// What each costs, if it was measured.
    sensitivity: Vec<Sensitivity>,
    in_fp32: Vec<String>,
}

/// Runs graphs on the rows.
struct Judge<'a> {
    model: &'a SequenceClassifier,
    evidence: &'a Evidence<'a>,
    calibration_texts: &'a [&'a [Encoding]],
    config: &'a ExportConfig,
    /// How answers are read that are compared.
    decision: &'a Decision,
    scratch: &'a Path,
    stop: &'a AtomicBool,
}

impl Judge<'_> {
    fn check_stop(&self) -> Result<()> {
        check_stop(self.stop)
    }

    fn session(&self, graph: &mut ModelProto, name: &str, standard_operators: bool) -> Result<Session> {
        self.check_stop()?;
        // Weights beside a graph are in memory once: within it they would be copied where it is read, and where nodes change.
        onnx::write_external(graph, &self.path(name))?;
        self.open(name, standard_operators)
    }

    /// Loads a graph that was written for a session.
    fn open(&self, name: &str, standard_operators: bool) -> Result<Session> {
        let ort_lib = self.config.ort_lib.clone();
        let options = SessionOptions { ort_lib, standard_operators, ..SessionOptions::default() };
        Ok(Session::open(&self.path(name), &options)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.onnx"))
    }

    /// The same of a graph that ships, of rows that no gate compares: each must be a number, as they must be for the runtime.
    fn finite_answers(&self, tried: &mut Tried, texts: &[&[Encoding]], split: &str) -> Result<Vec<Answer>> {
        let answers = self.answers(&mut tried.session, texts)?;
        gates::numbers(tried.kind, &answers, split)?;
        Ok(answers)
    }

    fn logits(&self, session: &mut Session, texts: &[&[Encoding]]) -> Result<Vec<Vec<f32>>> {
        Ok(self.answers(session, texts)?.into_iter().map(Answer::all_logits).collect())
    }

    fn answers(&self, session: &mut Session, texts: &[&[Encoding]]) -> Result<Vec<Answer>> {
        self.check_stop()?;
        answer(session, texts.iter().copied(), self.model.config.pad_token_id, BATCH_SIZE)
    }

    /// Builds a graph and tries it.
    fn tried(&self, kind: VariantKind, observations: Option<&Observations>, reference: &[Vec<f32>]) -> Result<Tried> {
        self.tried_graph(kind, kind.build(self.model, observations, self.config, &[])?, reference)
    }

    fn tried_graph(&self, kind: VariantKind, mut graph: ModelProto, reference: &[Vec<f32>]) -> Result<Tried> {
        let mut session = self.session(&mut graph, kind.name(), false)?;
        let (logits, distances) = parts(self.answers(&mut session, &self.evidence.texts)?);
        let comparison = compare(&logits, reference);
        Ok(Tried { kind, graph, session, logits, distances, comparison, hits: None })
    }

    /// Everything that a graph must pass. `reference` is what it must be like: the fp32 graph's logits, and where this is it the model's;
    /// none where it is known to be.
    fn gates(&self, tried: &mut Tried, reference: Option<&[Vec<f32>]>) -> Result<()> {
        let Tried { kind, graph, .. } = &*tried;
        gates::operators(*kind, graph, self.model.graph_nodes(kind.operators()))?;
        if let Some(reference) = reference {
            self.likeness_gates(*kind, &tried.logits, reference)?;
            let counts = operator_counts(graph);
            if ["MatMulIntegerToFloat", "Attention"].iter().any(|name| counts.contains_key(name)) {
                // What nimbert runs has operators of ours in it; others run the graph as it is, and round at other places.
                let logits = self.logits_as_it_lies(*kind)?;
                self.likeness_gates(*kind, &logits, reference).map_err(gates::as_others_run_it)?;
            }
        }
        self.invariance_gate(tried)?;
        self.drop_spare_graph(tried);
        Ok(())
    }

    /// What is compared with and does not ship needs its session alone.
    fn drop_spare_graph(&self, tried: &mut Tried) {
        if !self.config.variants.contains(&tried.kind) {
            tried.graph = ModelProto::default();
        }
    }

    /// What the graph that was tried last of a kind answers to the evidence without operators of ours.
    fn logits_as_it_lies(&self, kind: VariantKind) -> Result<Vec<Vec<f32>>> {
        self.logits(&mut self.open(kind.name(), true)?, &self.evidence.texts)
    }

    /// That logits are those of the model, and of a graph that is not fp32's, that they are as often right, and give the same labels: those
    /// of each task for itself.
    fn likeness_gates(&self, kind: VariantKind, logits: &[Vec<f32>], reference: &[Vec<f32>]) -> Result<()> {
        let pair = gates::Pair { logits, reference, split: self.evidence.split };
        gates::logits(kind, &compare(logits, reference), pair)?;
        // Texts without labels are made of random tokens, whose labels mean nothing.
        let (Some(labels), true) = (&self.evidence.labels, kind != VariantKind::CpuFp32) else { return Ok(()) };
        self.model.tasks.iter().try_for_each(|task| self.answer_gates(kind, task, labels, [logits, reference]))
    }

    /// That logits give as many right answers to a task as those of fp32, and the same ones.
    fn answer_gates(
        &self,
        kind: VariantKind,
        task: &TaskLabels,
        labels: &[&[u32]],
        logits: [&[Vec<f32>]; 2],
    ) -> Result<()> {
        let [hits, fp32_hits] = logits.map(|logits| task.hits(self.decision, logits, labels));
        let expected = labels.iter().filter(|ids| task.is_answered(ids)).count();
        let [logits, reference] = logits.map(|logits| task.logits_of(logits));
        let changed = Tasks::single(task.ids.len()).changed(self.decision, &logits, &reference);
        let answers = gates::Answers { fp32_hits, hits, expected, changed, all: logits.len() };
        let pair = gates::Pair { logits: &logits, reference: &reference, split: self.evidence.split };
        gates::accuracy(kind, answers, self.config.max_accuracy_drop, pair)
            .and_then(|()| gates::labels(kind, answers, self.config.max_label_changes, pair))
            .map_err(|error| gates::of_task(error, task.name.as_deref()))
    }

    /// How many rows are answered rightly by a decision; none where rows have no labels. Of several tasks the best label is right or not, whatever else is decided.
    fn hits(&self, decision: &Decision, logits: &[Vec<f32>]) -> Option<usize> {
        let labels = self.evidence.labels.as_ref()?;
        Some(self.model.tasks.hits(decision, logits, labels.iter().copied()))
    }

    /// Divides each task's logits by its temperature.
    fn divide(&self, logits: &mut [f32], temperatures: &[f32]) {
        for (task, temperature) in self.model.tasks.iter().zip(temperatures) {
            logits[task.ids.clone()].iter_mut().for_each(|logit| *logit /= temperature);
        }
    }

    /// Answers of these logits, with the distances if there are any.
    fn with_distances(&self, logits: &[Vec<f32>], distances: &[f32]) -> Vec<Answer> {
        let distances = distances.iter().copied().map(Some).chain(std::iter::repeat(None));
        logits.iter().zip(distances).map(|(logits, distance)| self.model.tasks.answer(logits, distance)).collect()
    }

    /// What a bundle with these temperatures would have answered where models like this one have.
    fn as_shipped(&self, unseen: &Unseen<'_>, temperatures: &[f32]) -> Vec<Answer> {
        let mut divided = unseen.logits.clone();
        divided.iter_mut().for_each(|logits| self.divide(logits, temperatures));
        self.with_distances(&divided, &unseen.distances)
    }

    /// Builds a graph that was found good enough again, its last layer divided by `temperature`, and compares what it
    /// answers: the same logits, divided.
    fn fold(&self, tried: Tried, observations: Option<&Observations>, temperatures: &[f32]) -> Result<Tried> {
        let Tried { kind, comparison, logits: mut divided, graph, session, .. } = tried;
        // Not beside the one that takes its place: they are what takes most of the memory.
        drop((graph, session));
        let graph = kind.build(self.model, observations, self.config, temperatures)?;
        divided.iter_mut().for_each(|logits| self.divide(logits, temperatures));
        let mut folded = self.tried_graph(kind, graph, &divided)?;
        self.drop_spare_graph(&mut folded);
        gates::folded(
            kind,
            &folded.comparison,
            gates::Pair { logits: &folded.logits, reference: &divided, split: self.evidence.split },
        )?;
        // Of several tasks it is not known whose it is: no more than that.
        let least = temperatures.iter().copied().fold(f32::INFINITY, f32::min);
        let max_logit_difference = comparison.max_logit_difference / least;
        Ok(Tried { comparison: Comparison { max_logit_difference, ..comparison }, ..folded })
    }

    /// Its answers in batches must be those of single texts.
    fn invariance_gate(&self, tried: &mut Tried) -> Result<()> {
        let texts = &self.evidence.texts[..self.evidence.texts.len().min(INVARIANCE_TEXTS)];
        let single = answer(&mut tried.session, texts.iter().copied(), self.model.config.pad_token_id, 1)?;
        let (logits, distances) = parts(single);
        let in_batches = &tried.logits[..texts.len()];
        let pair = gates::Pair { logits: in_batches, reference: &logits, split: self.evidence.split };
        gates::batch_invariance(tried.kind, &compare(in_batches, &logits), pair)?;
        let in_batches = tried.distances.get(..texts.len()).unwrap_or_default();
        gates::distances(tried.kind, in_batches, &distances)
    }

    /// What was observed of all activations; without the costly ones, without many, or without any, where the graph would be
    /// refused.
    fn quantization(&self, fp32: &Tried) -> Result<Quantization> {
        let (calibration, mut observations) = self.observe()?;
        let mut sensitivity = match self.config.sensitivity {
            true => self.sensitivity(&observations)?,
            false => Vec::new(),
        };
        let all: Vec<String> = observations.keys().cloned().collect();
        let mut trial = self.faithful(&observations, fp32)?;
        if trial.is_none() {
            if sensitivity.is_empty() {
                sensitivity = self.sensitivity(&observations)?;
            }
            let costly = sensitivity.iter().filter(|of| of.cost() > MAX_SENSITIVITY).count();
            // Each may be bearable, and all of them too much: then the most costly quarter of the rest, half, three quarters.
            let rest = sensitivity.len() - costly;
            let mut counts = [0, rest / 4, rest / 2, rest * 3 / 4].map(|more| costly + more).to_vec();
            counts.dedup();
            // Without any in fp32 it was tried.
            counts.retain(|count| *count > 0);
            for in_fp32 in counts {
                sensitivity[..in_fp32].iter().for_each(|of| drop(observations.remove(&of.activation)));
                trial = self.faithful(&observations, fp32)?;
                if trial.is_some() || observations.is_empty() {
                    break;
                }
            }
            if trial.is_none() {
                observations.clear();
            }
        }
        let in_fp32 = all.into_iter().filter(|activation| !observations.contains_key(activation)).collect();
        let calibration = (!observations.is_empty()).then_some(calibration);
        Ok(Quantization { calibration, observations, trial, sensitivity, in_fp32 })
    }

    /// The int8 graph with these observations, if it is near enough to fp32, and will be accurate enough.
    fn faithful(&self, observations: &Observations, fp32: &Tried) -> Result<Option<Tried>> {
        let tried = self.tried(VariantKind::CpuInt8, Some(observations), &fp32.logits)?;
        let is_good = |logits: &[Vec<f32>]| self.likeness_gates(tried.kind, logits, &fp32.logits).is_ok();
        if tried.comparison.relative_error > FAITHFUL || !is_good(&tried.logits) {
            return Ok(None);
        }
        // With operators of ours some of the ranges mean nothing: it must pass without them too.
        let logits = self.logits_as_it_lies(tried.kind)?;
        Ok(is_good(&logits).then_some(tried))
    }

    /// How many answers the evidence's labels ask for: one a text and task, but for those that are missing.
    fn expected(&self) -> usize {
        let labels = self.evidence.labels.iter().flatten();
        self.model.tasks.answers(labels.copied())
    }

    fn share(&self, hits: Option<usize>) -> Option<f64> {
        hits.map(|hits| hits as f64 / self.expected() as f64)
    }

    /// What a graph answers to rows that were not learned from, if the evidence is such.
    fn validated(&self, tried: &Tried) -> Option<Unseen<'_>> {
        let labels = self.evidence.labels.clone().filter(|_| self.evidence.split == "validation")?;
        Some(Unseen { logits: tried.logits.clone(), labels, distances: tried.distances.clone() })
    }

    /// How answers are read that are compared with fp32's: where a row may have any number of labels, by thresholds as fp32's answers give
    /// them. With one label each nothing of what is calibrated changes it.
    fn thresholds(&self, fp32: &Tried, unseen: Option<&Unseen<'_>>) -> Decision {
        let ProblemType::MultiLabel = self.config.problem_type else { return self.decision.clone() };
        let Calibrated { temperature, decision } = self.calibrated(self.validated(fp32).as_ref().or(unseen)).remove(0);
        Decision { temperature, ..decision }
    }

    /// What follows from answers to rows that were not learned from, for each task by those that have a label of it.
    fn calibrated(&self, unseen: Option<&Unseen<'_>>) -> Vec<Calibrated> {
        let ExportConfig { problem_type, certainty, .. } = *self.config;
        let of_tasks = unseen.map(|unseen| (self.model.tasks.rows(&unseen.logits, &unseen.labels), &unseen.distances));
        let calibrated = |index: usize| {
            let mut decision = match &of_tasks {
                Some((tasks, distances)) => {
                    let rows = &tasks[index];
                    // A text is unknown to all tasks, or to none.
                    let distances = (*distances).clone();
                    let unseen = Unseen { logits: rows.logits.clone(), labels: rows.ids(), distances };
                    calibrate(problem_type, &unseen, certainty)
                }
                None => undecided(problem_type),
            };
            // Whoever runs the graph gets these scores: what would be left to do is in its last layer.
            let temperature = std::mem::replace(&mut decision.temperature, 1.0);
            Calibrated { temperature, decision }
        };
        (0..self.model.tasks.iter().len()).map(calibrated).collect()
    }

    fn figures(&self, tried: &mut Tried) -> Result<VariantFigures> {
        let path = self.path(tried.kind.name());
        let size = |path: &Path| std::fs::metadata(path).map_err(|error| Error::io(path, error)).map(|file| file.len());
        let beside = onnx::external_path(&path);
        Ok(VariantFigures {
            kind: tried.kind,
            bytes: size(&path)? + if beside.exists() { size(&beside)? } else { 0 },
            accuracy: self.share(tried.hits),
            max_logit_difference: tried.comparison.max_logit_difference,
            label_agreement: tried.comparison.label_agreement,
            milliseconds: self.milliseconds(&mut tried.session)?,
        })
    }

    /// The median time of a text alone, over the first few; of one in very many windows, of the first of them.
    fn milliseconds(&self, session: &mut Session) -> Result<f64> {
        const TEXTS: usize = 21;
        let mut times = Vec::new();
        for text in self.evidence.texts.iter().take(TEXTS) {
            let batch = Batch::pad(text.iter().take(BATCH_SIZE), self.model.config.pad_token_id);
            let started = Instant::now();
            session.run(&batch)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
    }
}

fn has_integer_products(graph: &ModelProto) -> bool {
    let counts = operator_counts(graph);
    ["MatMulIntegerToFloat", "QAttention"].iter().any(|name| counts.contains_key(name))
}

/// Logits, and distances, of which there are none where the graph says none.
fn parts(answers: Vec<Answer>) -> (Vec<Vec<f32>>, Vec<f32>) {
    let (distances, logits): (Vec<_>, Vec<_>) =
        answers.into_iter().map(|answer| (answer.distance, answer.all_logits())).unzip();
    (logits, distances.into_iter().flatten().collect())
}

/// Writes judged graphs and everything else that a bundle holds to `out`, unless `stop` is true.
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
    let file = |index: usize, kind: VariantKind| match index {
        0 => MODEL.to_owned(),
        _ => format!("model.{kind}.onnx"),
    };
    let figures = |kind: VariantKind| judged.variants.iter().find(|figures| figures.kind == kind);
    let variants = judged.graphs.iter().enumerate().map(|(index, (kind, graph))| Variant {
        name: kind.name().to_owned(),
        precision: kind.precision(),
        execution_provider: kind.execution_provider().to_owned(),
        // Where nothing is multiplied in bytes, any processor is exact.
        requires: kind.requires().filter(|_| has_integer_products(graph)),
        file: file(index, *kind),
        max_logit_difference: figures(*kind).map(|figures| figures.max_logit_difference),
        accuracy: figures(*kind).and_then(|figures| figures.accuracy),
    });
    let mut calibrated = judged.calibrated.iter();
    let Calibrated { temperature, decision } = calibrated.next().expect("a classifier has a task").clone();
    let folded = |temperature: f32| (temperature != 1.0).then_some(temperature);
    let further =
        calibrated.zip(model.tasks.iter().skip(1)).map(|(Calibrated { temperature, decision }, task)| FurtherTask {
            name: task.name.clone().unwrap_or_default(),
            labels: labels_of(model, task),
            folded_temperature: folded(*temperature),
            abstain_threshold: decision.abstain_threshold,
            coverage: decision.coverage.clone(),
        });
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        files: Default::default(),
        max_length: contents.max_length,
        variants: variants.collect(),
        stride: contents.stride,
        truncation_side: contents.truncation_side,
        pairs: contents.pairs,
        temperature: decision.temperature,
        folded_temperature: folded(temperature),
        abstain_threshold: decision.abstain_threshold,
        unknown: unknown(&decision, config.certainty),
        label_thresholds: decision.label_thresholds,
        coverage: decision.coverage,
        task: model.tasks.first().name.clone(),
        further_tasks: further.collect(),
        acceptance: judged.acceptance,
        provenance: contents.provenance.clone(),
        manifest_sha256: None,
        metadata: contents.reference.iter().map(reference_entry).collect(),
    };
    let writer = BundleWriter::create(out, config.overwrite)?;
    for (variant, (_, mut graph)) in manifest.variants.iter().zip(judged.graphs) {
        onnx::write_external(&mut graph, &writer.staging().join(&variant.file))?;
    }
    let tokenizer = std::fs::read(&contents.tokenizer).map_err(|error| Error::io(&contents.tokenizer, error))?;
    let settings = TokenizerSettings::new(&model.config, contents.max_length, contents.truncation_side);
    let tokenizer_config = tokenizer_config(&tokenizer, &contents.tokenizer, settings)?;
    writer.write(TOKENIZER, tokenizer)?;
    let labels = labels_of(model, model.tasks.first());
    let mut config_json = model.config.classifier_json(&labels, config.problem_type);
    if onnx::external_path(&writer.staging().join(MODEL)).exists() {
        // transformers.js does not see from the graph that there is a second file.
        config_json.insert("transformers.js_config".into(), serde_json::json!({ "use_external_data_format": true }));
    }
    writer.write(CONFIG, pretty_json(&config_json))?;
    writer.write(TOKENIZER_CONFIG, pretty_json(&tokenizer_config))?;
    writer.write("README.md", model_card(model, &manifest))?;
    check_stop(stop)?;
    Ok(writer.finish(manifest)?)
}

fn reference_entry(reference: &Reference) -> (String, serde_json::Value) {
    (Reference::KEY.to_owned(), serde_json::to_value(reference).expect("a summary has only string keys"))
}

/// What a task's labels are called within it.
fn labels_of(model: &SequenceClassifier, task: &TaskLabels) -> Vec<String> {
    model.labels[task.ids.clone()].iter().map(|label| task.plain(label).to_owned()).collect()
}

/// What the manifest says of unknown texts.
fn unknown(decision: &Decision, certainty: Certainty) -> Option<Unknown> {
    let (rate, threshold) = certainty.unknown_rate.zip(decision.unknown_threshold)?;
    Some(Unknown { rate, threshold })
}

/// The files of [`save_model`], sorted.
pub const SAVED_MODEL: [&str; 5] = [CONFIG, LEARNED, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG];
/// What the hidden folder is for in which they are written first.
const SAVED_MODEL_STAGING: &str = "model";

/// Writes the trained model itself, in fp32, as a Hugging Face folder: [`SAVED_MODEL`]. The folder is made where it is missing.
/// Its scores are those before calibration. `learned` is what a later run must know of its rows.
///
/// # Errors
/// [`Error::Io`], [`Error::Tensor`].
pub fn save_model(
    model: &SequenceClassifier,
    problem_type: ProblemType,
    tokenizer: &Path,
    (max_length, truncation_side): (usize, TruncationSide),
    learned: &Learned,
    out: &Path,
) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    // What cannot be written leaves no file; in the folder, which may be a volume of its own.
    let staging = HiddenFolder::create(out, SAVED_MODEL_STAGING)?;
    let folder = staging.path();
    model.parameters().save(&folder.join(WEIGHTS)).map_err(|error| match error {
        Error::Io { reason, .. } => Error::io(&out.join(WEIGHTS), reason),
        error => error,
    })?;
    let json = std::fs::read(tokenizer).map_err(|error| Error::io(tokenizer, error))?;
    let settings = TokenizerSettings::new(&model.config, max_length, truncation_side);
    let write = |name: &str, content: &[u8]| {
        std::fs::write(folder.join(name), content).map_err(|error| Error::io(&out.join(name), error))
    };
    write(TOKENIZER, &json)?;
    write(LEARNED, pretty_json(learned).as_bytes())?;
    write(TOKENIZER_CONFIG, pretty_json(&tokenizer_config(&json, tokenizer, settings)?).as_bytes())?;
    write(CONFIG, config_json(model, problem_type).as_bytes())?;
    // The configuration first and last: without it this is no model, neither the new one nor a mixture of it and an older one.
    remove_if_there(&out.join(CONFIG)).map_err(|error| Error::io(&out.join(CONFIG), error))?;
    SAVED_MODEL.into_iter().rev().try_for_each(|name| {
        std::fs::rename(folder.join(name), out.join(name)).map_err(|error| Error::io(&out.join(name), error))
    })
}

fn config_json(model: &SequenceClassifier, problem_type: ProblemType) -> String {
    pretty_json(&model.config.classifier_json(&model.labels, problem_type))
}

fn pretty_json(json: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(json).expect("a JSON object has only string keys") + "\n"
}

fn check_stop(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted { during: "the export".to_owned() }),
        false => Ok(()),
    }
}

/// `README.md` of the bundle.
fn model_card(model: &SequenceClassifier, manifest: &Manifest) -> String {
    let Manifest { acceptance, provenance, variants, max_length, .. } = manifest;
    let of_task = |task: &TaskLabels| {
        let labels: String = labels_of(model, task).iter().map(|label| format!("- {label}\n")).collect();
        task.name.as_ref().map_or(labels.clone(), |name| format!("Of the task {name}:\n\n{labels}"))
    };
    let labels = model.tasks.iter().map(of_task).collect::<Vec<_>>().join("\n");
    format!(
        "# Text classifier\n\n\
         Made by {producer} from {base}. Texts are read up to {max_length} tokens.\n\n\
         ## Labels\n\n{labels}\n\
         ## Measured before packing\n\n\
         | | fp32 | shipped ({shipped_name}) |\n|---|---|---|\n\
         | accuracy on {rows} rows ({split}) | {fp32} | {shipped} |\n\
         | largest logit difference | {fp32_difference:.1e} from the trained model | {difference:.1e} from fp32 |\n\
         | same label | | {agreement:.2} % |\n\n\
         ## Use\n\n    nimbert classify . \"a text\"\n",
        producer = provenance.producer,
        base = provenance.base_model,
        shipped_name = variants[0].name,
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
    //! Each gate against a graph with a planted fault; and what quantization makes of the tiny BERT.

    use std::collections::BTreeMap;

    use candle_onnx::onnx::{NodeProto, TensorProto, tensor_proto::DataType};
    use nimbert::Requirement;

    use super::*;
    use crate::model::EncoderConfig;

    /// A judge of the tiny BERT's graphs, with texts that are labelled as the model answers; and its logits.
    fn judging<T>(
        calibrations: Vec<Calibration>,
        storage: Storage,
        check: impl FnOnce(&Judge<'_>, &[Vec<f32>]) -> T,
    ) -> T {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-bert");
        let encoder = EncoderConfig::open(&folder.join(CONFIG)).unwrap();
        let tokenizer = nimbert::Tokenizer::open(&folder.join(TOKENIZER), 60).unwrap();
        let labels = ["negative", "positive"].map(String::from);
        let (model, _) = SequenceClassifier::load(&folder.join("model.safetensors"), encoder, &labels, 0).unwrap();
        let words = ["great", "acting", "a", "thin", "plot", "the", "movie", "worse", "of", "film", "!", "it"];
        let text = |index: usize| -> String {
            (0..2 + index % 17).map(|place| words[(index * 7 + place * place) % words.len()].to_owned() + " ").collect()
        };
        let encodings: Vec<Encoding> = (0..80).map(|index| tokenizer.encode(&text(index)).unwrap()).collect();
        let texts: Vec<&[Encoding]> = encodings.iter().map(std::slice::from_ref).collect();
        let config = ExportConfig {
            problem_type: ProblemType::SingleLabel,
            certainty: Certainty::default(),
            distance: None,
            variants: vec![VariantKind::CpuInt8],
            calibrations,
            sensitivity: false,
            storage,
            max_tokens: None,
            // Other gates are meant to fire.
            max_accuracy_drop: 100.0,
            max_label_changes: 100.0,
            overwrite: false,
            ort_lib: None,
        };
        let trained = predict(&model, texts.iter().copied(), BATCH_SIZE).unwrap();
        let answers: Vec<[u32; 1]> = trained.iter().map(|logits| [u32::from(logits[1] > logits[0])]).collect();
        let labels = Some(answers.iter().map(<[u32; 1]>::as_slice).collect());
        let evidence = Evidence { split: "test row", texts: texts.clone(), labels };
        let scratch = tempfile::tempdir().unwrap();
        let judge = Judge {
            model: &model,
            evidence: &evidence,
            calibration_texts: &texts,
            config: &config,
            decision: &undecided(config.problem_type),
            scratch: scratch.path(),
            stop: &AtomicBool::new(false),
        };
        check(&judge, &trained)
    }

    /// What the gates say of a graph of that kind, after `plant` has changed it.
    fn judged(kind: VariantKind, plant: impl FnOnce(&mut ModelProto)) -> Result<()> {
        judging(vec![Calibration::MinMax], Storage::Bytes, |judge, trained| {
            let (_, observations) = judge.observe().unwrap();
            let mut graph = kind.build(judge.model, Some(&observations), judge.config, &[]).unwrap();
            plant(&mut graph);
            let mut tried = judge.tried_graph(kind, graph, trained)?;
            judge.gates(&mut tried, Some(trained))
        })
    }

    fn message(kind: VariantKind, plant: impl FnOnce(&mut ModelProto)) -> String {
        judged(kind, plant).expect_err("the gate has not fired").to_string()
    }

    fn constant<'a>(graph: &'a mut ModelProto, name: &str) -> &'a mut TensorProto {
        graph.graph.as_mut().unwrap().initializer.iter_mut().find(|tensor| tensor.name == name).expect("a constant")
    }

    fn multiply(tensor: &mut TensorProto, factor: f32) {
        for bytes in tensor.raw_data.as_chunks_mut().0 {
            *bytes = (f32::from_le_bytes(*bytes) * factor).to_le_bytes();
        }
    }

    /// Of 80 texts the 12 that are told apart least get the other label, which moves the logits by little.
    #[test]
    fn other_labels_than_those_of_fp32_are_refused() {
        judging(vec![Calibration::MinMax], Storage::Bytes, |judge, trained| {
            let mut logits = trained.to_vec();
            let margin = |logits: &[f32]| (logits[0] - logits[1]).abs();
            logits.sort_by(|a, b| margin(a).total_cmp(&margin(b)));
            let reference = logits.clone();
            logits[..12].iter_mut().for_each(|logits| logits.swap(0, 1));
            let config = ExportConfig { max_label_changes: 5.0, ..judge.config.clone() };
            let judge = Judge { config: &config, ..*judge };
            let gates = |logits: &[Vec<f32>]| judge.likeness_gates(VariantKind::CpuInt8, logits, &reference);
            gates(&reference).unwrap();
            let message = gates::as_others_run_it(gates(&logits).unwrap_err()).to_string();
            assert!(message.contains("others for 12 of 80 rows"), "{message}");
            assert!(message.contains("labels of cpu-int8, as programs other than nimbert run it"), "{message}");
        });
    }

    #[test]
    fn each_task_is_compared_for_itself() {
        judging(vec![Calibration::MinMax], Storage::Bytes, |judge, _| {
            // Of the second task the logits are small, and all answers are others.
            let row = |index: usize, second: [f32; 2]| [[(index % 7) as f32, 3.5], second].concat();
            let rows = |second: [f32; 2]| (0..80).map(|index| row(index, second)).collect::<Vec<_>>();
            let (reference, logits) = (rows([0.1, 0.0]), rows([0.0, 0.1]));
            let config = ExportConfig { max_label_changes: 5.0, ..judge.config.clone() };
            let gates = |tasks: Tasks| {
                let model = &judge.model.clone().with_tasks(tasks);
                let judge = Judge { model, config: &config, ..*judge };
                judge.likeness_gates(VariantKind::CpuInt8, &logits, &reference)
            };
            gates(Tasks::single(4)).unwrap();
            let labels = ["first=a", "first=b", "second=a", "second=b"].map(String::from);
            let message = gates(Tasks::of(&["first", "second"].map(String::from), &labels)).unwrap_err().to_string();
            assert!(message.contains("labels of cpu-int8, task second"), "{message}");
        });
    }

    #[test]
    fn any_number_of_labels_is_compared_by_the_thresholds_that_ship() {
        judging(vec![Calibration::MinMax], Storage::Bytes, |judge, _| {
            let (problem_type, max_label_changes) = (ProblemType::MultiLabel, 5.0);
            let config = ExportConfig { problem_type, max_label_changes, ..judge.config.clone() };
            // Scores of 0.12 and 0.08; those of the second label make that a small difference.
            let row = |logit: f32, index: usize| vec![logit, -5.0 - 20.0 * (index % 2) as f32];
            let [reference, logits] =
                [-2.0, -2.4].map(|logit| (0..80).map(|index| row(logit, index)).collect::<Vec<_>>());
            let gates = |label_thresholds| {
                let decision = &Decision { label_thresholds, ..undecided(problem_type) };
                let judge = Judge { config: &config, decision, ..*judge };
                judge.likeness_gates(VariantKind::CpuInt8, &logits, &reference)
            };
            gates(None).unwrap();
            let message = gates(Some(vec![0.1, 0.1])).unwrap_err().to_string();
            assert!(message.contains("others for 80 of 80 rows"), "{message}");
        });
    }

    #[test]
    fn the_thresholds_by_which_answers_are_compared_are_those_of_fp32() {
        judging(vec![Calibration::MinMax], Storage::Bytes, |judge, trained| {
            let config = ExportConfig { problem_type: ProblemType::MultiLabel, ..judge.config.clone() };
            // The first label has nearly always a low score, and holds in half of the rows.
            let logits: Vec<Vec<f32>> = (0..80).map(|row| vec![-3.0 + (row % 2) as f32, -1.0]).collect();
            let (holds, fails): (&[u32], &[u32]) = (&[0], &[]);
            let labels = (0..80).map(|row| if row % 2 == 1 { holds } else { fails }).collect();
            let evidence = Evidence { split: "validation", labels: Some(labels), texts: judge.evidence.texts.clone() };
            let judge = Judge { config: &config, evidence: &evidence, ..*judge };
            let mut fp32 = judge.tried(VariantKind::CpuFp32, None, trained).unwrap();
            fp32.logits = logits;
            let decision = judge.thresholds(&fp32, None);
            let thresholds = decision.label_thresholds.clone().unwrap();
            assert!(thresholds[0] < 0.4, "{thresholds:?}");
            assert_eq!(judge.model.tasks.hits(&decision, &fp32.logits, evidence.labels.iter().flatten().copied()), 80);
        });
    }

    #[test]
    fn graphs_without_a_fault_pass() {
        // Where sums of bytes are cut, the graph is not for this machine.
        for kind in VariantKind::ALL.into_iter().filter(|kind| kind.requires().is_none_or(Requirement::is_met)) {
            judged(kind, |_| {}).unwrap();
        }
    }

    #[test]
    fn weights_have_the_range_that_sums_of_their_products_allow() {
        let largest = |kind: VariantKind| {
            judging(vec![Calibration::MinMax], Storage::Bytes, |judge, _| {
                let (_, observations) = judge.observe().unwrap();
                let graph = kind.build(judge.model, Some(&observations), judge.config, &[]).unwrap().graph.unwrap();
                let is_integers = |tensor: &&TensorProto| {
                    tensor.name.starts_with("layer.") && tensor.data_type == DataType::Int8 as i32
                };
                let weights = graph.initializer.iter().filter(is_integers);
                let integers: Vec<u8> = weights.flat_map(|tensor| tensor.raw_data.clone()).collect();
                integers.iter().map(|byte| (*byte as i8).unsigned_abs()).max().expect("weights")
            })
        };
        assert_eq!([VariantKind::CpuInt8, VariantKind::CpuInt8Full].map(largest), [64, 127]);
    }

    #[test]
    fn the_calibration_whose_graph_is_nearest_to_fp32_is_taken() {
        let (harmful, harmless) = (Calibration::Percentile(0.6), Calibration::MinMax);
        for calibrations in [vec![harmful, harmless], vec![harmless, harmful]] {
            judging(calibrations, Storage::Bytes, |judge, _| assert_eq!(judge.observe().unwrap().0, harmless));
        }
    }

    #[test]
    fn biases_make_up_for_rounded_weights() {
        for (kind, storage) in [
            (VariantKind::CpuInt8, Storage::Bytes),
            (VariantKind::CpuInt8, Storage::Packed),
            (VariantKind::TensorrtInt8, Storage::Bytes),
        ] {
            // The error of all activations, each quantized alone, with their means or without.
            let error = |with_means: bool| -> f32 {
                judging(vec![Calibration::MinMax], storage, |judge, trained| {
                    let (_, mut observations) = judge.observe().unwrap();
                    if !with_means {
                        observations.values_mut().for_each(|observed| observed.mean.fill(0.0));
                    }
                    let alone = |(name, observed)| {
                        let alone = BTreeMap::from([(name, observed)]);
                        judge.tried(kind, Some(&alone), trained).unwrap().comparison.relative_error
                    };
                    observations.into_iter().map(alone).sum()
                })
            };
            let (corrected, uncorrected) = (error(true), error(false));
            assert!(corrected < 0.97 * uncorrected, "{kind} {storage:?}: {corrected}, without {uncorrected}");
        }
    }

    #[test]
    fn a_wrong_weight_is_found_by_the_logits() {
        let message = message(VariantKind::CpuFp32, |graph| multiply(constant(graph, "layer.0/output/weight"), 1.01));
        assert!(message.contains("logits of cpu-fp32: expected a largest difference of at most"), "{message}");
        assert!(message.contains("; test row ") && message.contains(" instead of ["), "{message}");
    }

    #[test]
    fn a_wrong_weight_is_found_by_the_logits_of_int8() {
        let message = message(VariantKind::CpuInt8, |graph| {
            multiply(constant(graph, "layer.0/intermediate/weight_scale"), -1.0);
        });
        assert!(message.contains("logits of cpu-int8: expected a relative root mean square difference"), "{message}");
    }

    #[test]
    fn a_scale_that_saturates_is_found() {
        let message = message(VariantKind::CpuInt8, |graph| multiply(constant(graph, "layer.0/attended/scale"), 0.02));
        assert!(message.contains("of cpu-int8"), "{message}");
    }

    #[test]
    fn a_wrong_operator_is_counted() {
        let message = message(VariantKind::CpuFp32, |graph| {
            let nodes = &mut graph.graph.as_mut().unwrap().node;
            let norm = nodes.iter_mut().find(|node| node.op_type == "LayerNormalization").unwrap();
            "Softmax".clone_into(&mut norm.op_type);
            norm.input.truncate(1);
            norm.attribute.retain(|attribute| attribute.name == "axis");
        });
        assert!(message.contains("operators of cpu-fp32: expected 5 of LayerNormalization"), "{message}");
    }

    #[test]
    fn a_scale_for_the_whole_batch_is_found() {
        let message = message(VariantKind::CpuInt8, |graph| {
            let nodes = &mut graph.graph.as_mut().unwrap().node;
            for node in nodes.iter_mut().filter(|node| node.op_type == "QuantizeLinear") {
                let x = node.output[0].strip_suffix("/quantized").unwrap().to_owned();
                *node = NodeProto {
                    op_type: "DynamicQuantizeLinear".to_owned(),
                    input: vec![node.input[0].clone()],
                    output: ["quantized", "scale", "zero_point"].map(|part| format!("{x}/{part}")).to_vec(),
                    name: node.name.clone(),
                    ..NodeProto::default()
                };
            }
            let graph = graph.graph.as_mut().unwrap();
            let computed: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
            graph.initializer.retain(|tensor| !computed.contains(&tensor.name));
        });
        assert!(message.contains("cpu-int8 in batches against single texts: expected logits within"), "{message}");
    }
}
