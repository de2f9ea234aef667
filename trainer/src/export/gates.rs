//! What a graph must pass before it is packed. A bundle with one that fails is not written.

use std::collections::BTreeMap;

use nimbert::{Precision, prediction::Answer};

use crate::{
    error::{Error, Result},
    model::GraphNodes,
    onnx::{Comparison, ModelProto, Operators},
};

use super::VariantKind;

/// The largest difference between a logit of the fp32 graph and of the trained model, as a share of the largest logit
/// (or of 1, if that is larger). Both compute in 32 bits but sum in different orders; six layers of that differ by about
/// 1e-6, and a wrong operator or weight by far more than this.
pub const FP32_TOLERANCE: f32 = 1e-4;

/// The same for fp16, whose numbers have 11 bits: each of some dozen roundings in a row is off by 5e-4 at most.
pub const FP16_TOLERANCE: f32 = 2e-2;

/// The root mean square of the differences between int8 and fp32 logits, as a share of that of the fp32 logits around
/// their mean. Eight bits cost a few hundredths; a scale that cuts what matters costs much more, and so does a wrong
/// weight.
pub const INT8_TOLERANCE: f32 = 0.3;

/// The largest difference between logits of a text alone and of the same text in a batch, as a share of the largest logit
/// (or of 1). Sums may be taken in another order; in int8 that may move a rounding now and then.
pub const BATCH_TOLERANCE: f32 = 1e-4;

/// The same for graphs that are made for other devices. They are tried on the CPU, which rounds between operators that
/// the device computes as one; in 11 bits, or before a quantization, that moves a logit by more.
pub const FOREIGN_BATCH_TOLERANCE: f32 = 1e-2;

/// A share by which a distance may differ with the texts beside it, of it or of 1; and of graphs that are made for other devices.
pub const DISTANCE_TOLERANCE: f32 = 1e-3;
/// See [`DISTANCE_TOLERANCE`].
pub const FOREIGN_DISTANCE_TOLERANCE: f32 = 5e-2;

/// What can be done about a graph that computes something else: it is a fault of this program, or numbers that are too
/// large for the format.
const FAULT: &str = "this should not happen: please report it with the base model's name";
/// What is likelier than that where logits are so large.
const DIVERGED: &str = "logits this large are those of a training that has diverged: a lower --learning-rate of fit";
/// See [`DIVERGED`]. Trained models have logits up to some tens.
const LARGE_LOGIT: f32 = 1e3;
/// What can be done about int8 that loses too much.
const INT8_ADVICE: &str = "--precision fp32 ships the graph without integers, and --verbose shows which activation costs \
                           most; with more rows a difference says more";
const FP16_ADVICE: &str = "--variants without this graph, or with cpu-fp32, ships what is exact";

fn advice(kind: VariantKind) -> &'static str {
    match kind.precision() {
        Precision::Fp32 => FAULT,
        Precision::Fp16 => FP16_ADVICE,
        _ => INT8_ADVICE,
    }
}

/// Logits of a row that a message shows: of many labels, those that differ most.
const LOGITS_SHOWN: usize = 4;
/// Rows that a message shows.
const SHOWN: usize = 3;

/// Logits of the same rows, to be compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) logits: &'a [Vec<f32>],
    pub(super) reference: &'a [Vec<f32>],
    /// What the rows are called.
    pub(super) split: &'a str,
}

impl Pair<'_> {
    /// The rows that differ most, for a message.
    fn worst(&self) -> String {
        let distance = |index: usize| {
            let pairs = self.logits[index].iter().zip(&self.reference[index]);
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            // max() ignores NaN.
            if self.logits[index].iter().any(|logit| logit.is_nan()) { f32::INFINITY } else { largest }
        };
        let mut rows: Vec<usize> = (0..self.logits.len()).collect();
        rows.sort_by(|a, b| distance(*b).total_cmp(&distance(*a)));
        let show = |row: &usize| {
            let (logits, reference) = (&self.logits[*row], &self.reference[*row]);
            if logits.len() <= LOGITS_SHOWN {
                return format!("{} {} has {logits:.4?} instead of {reference:.4?}", self.split, row + 1);
            }
            let mut ids: Vec<usize> = (0..logits.len()).collect();
            let distance = |id: usize| (logits[id] - reference[id]).abs();
            ids.sort_by(|a, b| distance(*b).total_cmp(&distance(*a)));
            ids.truncate(LOGITS_SHOWN);
            let [logits, reference] =
                [logits, reference].map(|values| ids.iter().map(|&id| values[id]).collect::<Vec<_>>());
            format!("{} {}, labels {ids:?}, has {logits:.4?} instead of {reference:.4?}", self.split, row + 1)
        };
        rows.iter().take(SHOWN).map(show).collect::<Vec<_>>().join("; ")
    }
}

/// The graph computes what the reference does.
pub(super) fn logits(kind: VariantKind, comparison: &Comparison, pair: Pair<'_>) -> Result<()> {
    let (figure, bound, what) = match kind.precision() {
        Precision::Fp32 => (comparison.max_logit_difference, FP32_TOLERANCE * comparison.max_logit.max(1.0), "largest"),
        Precision::Fp16 => (comparison.max_logit_difference, FP16_TOLERANCE * comparison.max_logit.max(1.0), "largest"),
        _ => (comparison.relative_error, INT8_TOLERANCE, "relative root mean square"),
    };
    // NaN is not within a bound.
    match figure <= bound {
        true => Ok(()),
        false => Err(Error::Gate {
            check: format!("logits of {kind}"),
            expected: format!("a {what} difference of at most {bound:.1e}"),
            got: format!("{figure:.1e}; {}", pair.worst()),
            advice: if comparison.max_logit < LARGE_LOGIT { advice(kind) } else { DIVERGED },
        }),
    }
}

/// That a graph is asked for which has no integers then: those for TensorRT have them in products alone.
pub(super) fn integers(variants: &[VariantKind]) -> Result<()> {
    match variants.iter().find(|kind| kind.is_quantized() && kind.operators() == Operators::Standard) {
        None => Ok(()),
        Some(kind) => Err(Error::Gate {
            check: format!("integers of {kind}"),
            expected: "activations that can be integers".to_owned(),
            got: "none: the model has no such activations, or int8 would cost too much, whatever stays in fp32"
                .to_owned(),
            advice: "--variants without this graph, or with gpu-fp16, ships what is exact",
        }),
    }
}

/// A graph whose last layer was divided answers what it answered before, divided. Rounded weights of fp16 are rounded once
/// more; integers and their products are the same.
pub(super) fn folded(kind: VariantKind, comparison: &Comparison, pair: Pair<'_>) -> Result<()> {
    let tolerance = if kind.precision() == Precision::Fp16 { FP16_TOLERANCE } else { FP32_TOLERANCE };
    within(tolerance, format!("{kind} with its temperature"), comparison, pair, FAULT)
}

/// No logit differs by more than this share of the largest (or of 1).
fn within(tolerance: f32, check: String, comparison: &Comparison, pair: Pair<'_>, advice: &'static str) -> Result<()> {
    let bound = tolerance * comparison.max_logit.max(1.0);
    match comparison.max_logit_difference <= bound {
        true => Ok(()),
        false => Err(Error::Gate {
            check,
            expected: format!("logits within {bound:.1e}"),
            got: format!("{:.1e}; {}", comparison.max_logit_difference, pair.worst()),
            advice,
        }),
    }
}

/// A text's answer does not depend on the texts beside it.
pub(super) fn batch_invariance(kind: VariantKind, comparison: &Comparison, pair: Pair<'_>) -> Result<()> {
    let tolerance = if kind.execution_provider() == "cpu" { BATCH_TOLERANCE } else { FOREIGN_BATCH_TOLERANCE };
    within(tolerance, format!("{kind} in batches against single texts"), comparison, pair, advice(kind))
}

/// Distances of texts in batches are those of single texts: each within [`DISTANCE_TOLERANCE`].
pub(super) fn distances(kind: VariantKind, in_batches: &[f32], single: &[f32]) -> Result<()> {
    let tolerance = if kind.execution_provider() == "cpu" { DISTANCE_TOLERANCE } else { FOREIGN_DISTANCE_TOLERANCE };
    // NaN is not near.
    let is_near = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= tolerance * b.max(1.0);
    match in_batches.iter().zip(single).find(|pair| !is_near(pair)) {
        None => Ok(()),
        Some((got, expected)) => Err(Error::Gate {
            check: format!("{kind} in batches against single texts"),
            expected: format!("the distance {expected}, within {tolerance:.0e} of it"),
            got: got.to_string(),
            advice: advice(kind),
        }),
    }
}

/// How a graph answers rows that have labels, beside fp32. Every row has an answer to each task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// Right ones of fp32.
    pub(super) fp32_hits: usize,
    /// Right ones of the graph.
    pub(super) hits: usize,
    /// For how many a right one is known.
    pub(super) expected: usize,
    /// Those that are others than fp32's.
    pub(super) changed: usize,
    /// All of them.
    pub(super) all: usize,
}

/// Whether `count` is more than `percent` of `all`, by more than a standard deviation, whose square is `variance`. A count of 1 never is,
/// since neither variance is below the count: however few rows there are, one is no evidence.
fn is_more(count: usize, variance: usize, percent: f64, all: usize) -> bool {
    count as f64 - (variance.max(count) as f64).sqrt() > percent / 100.0 * all as f64
}

/// The graph must be as accurate as fp32. What it loses is a difference: answers that became wrong less those that became right, whose
/// variance is the number of both (McNemar, Psychometrika 12, 1947), and not more than that of all that changed.
pub(super) fn accuracy(kind: VariantKind, answers: Answers, max_drop: f64, pair: Pair<'_>) -> Result<()> {
    let Answers { fp32_hits, hits, expected, changed, .. } = answers;
    let lost = fp32_hits.saturating_sub(hits);
    let points = |hits: usize| 100.0 * hits as f64 / expected as f64;
    match is_more(lost, changed, max_drop, expected) {
        false => Ok(()),
        true => Err(Error::Gate {
            check: format!("accuracy of {kind}"),
            expected: format!("at most {max_drop} points (--max-accuracy-drop), and what chance explains, under fp32"),
            got: format!(
                "{:.2} % instead of {:.2} %: {:.2} points on {expected} rows, with {changed} other labels than fp32's; {}",
                points(hits),
                points(fp32_hits),
                points(lost),
                pair.worst()
            ),
            advice: advice(kind),
        }),
    }
}

/// The graph must give the labels that fp32 gives, right or wrong. The variance of a number of rare events is that number.
pub(super) fn labels(kind: VariantKind, answers: Answers, max_changes: f64, pair: Pair<'_>) -> Result<()> {
    let Answers { changed, all, .. } = answers;
    match is_more(changed, changed, max_changes, all) {
        false => Ok(()),
        true => Err(Error::Gate {
            check: format!("labels of {kind}"),
            expected: format!("fp32's, but for {max_changes} % (--max-label-changes), and what chance explains"),
            got: format!("others for {changed} of {all} rows; {}", pair.worst()),
            advice: advice(kind),
        }),
    }
}

/// Logits and distances are numbers.
pub(super) fn numbers(kind: VariantKind, answers: &[Answer], split: &str) -> Result<()> {
    let is_none = |answer: &&Answer| {
        let logits = answer.logits.iter().chain(answer.further.iter().flatten());
        logits.chain(&answer.distance).any(|value| !value.is_finite())
    };
    match answers.iter().position(|answer| is_none(&answer)) {
        None => Ok(()),
        Some(row) => Err(Error::Gate {
            check: format!("logits of {kind}"),
            expected: "numbers".to_owned(),
            got: format!("one that is none, or infinite, for {split} row {}", row + 1),
            advice: advice(kind),
        }),
    }
}

/// What a gate says of one of several tasks.
pub(super) fn of_task(error: Error, task: Option<&str>) -> Error {
    match (error, task) {
        (Error::Gate { check, expected, got, advice }, Some(task)) => {
            Error::Gate { check: format!("{check}, task {task}"), expected, got, advice }
        }
        (error, _) => error,
    }
}

/// What a gate says of a graph that was run without operators of ours.
pub(super) fn as_others_run_it(error: Error) -> Error {
    match error {
        Error::Gate { check, expected, got, advice } => {
            Error::Gate { check: check + ", as programs other than nimbert run it", expected, got, advice }
        }
        other => other,
    }
}

/// How often a graph has each operator.
pub fn operator_counts(graph: &ModelProto) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.graph.iter().flat_map(|graph| &graph.node) {
        *counts.entry(node.op_type.as_str()).or_insert(0) += 1;
    }
    counts
}

/// The graph has the operators that its model's layers ask for, and those of its kind.
pub(super) fn operators(kind: VariantKind, graph: &ModelProto, expected: GraphNodes) -> Result<()> {
    let counts = operator_counts(graph);
    let count = |names: &[&str]| names.iter().filter_map(|name| counts.get(name)).sum::<usize>();
    let is_standard = kind.operators() == Operators::Standard;
    let own = [
        "Attention",
        "QAttention",
        "MultiHeadAttention",
        "RotaryEmbedding",
        "Gelu",
        "BiasGelu",
        "FastGelu",
        "FusedMatMul",
        "MatMulIntegerToFloat",
    ];
    let expected = [
        ("LayerNormalization", count(&["LayerNormalization"]), expected.norms),
        ("Attention, QAttention and MultiHeadAttention", count(&own[..3]), expected.fused),
        ("Softmax", count(&["Softmax"]), expected.spelled),
    ];
    let foreign = if is_standard { count(&own) } else { 0 };
    let wrong = expected.into_iter().find(|(_, found, expected)| found != expected);
    let wrong = wrong.or((foreign > 0).then_some(("operators of ONNX Runtime alone", foreign, 0)));
    match wrong {
        None => Ok(()),
        Some((names, found, expected)) => Err(Error::Gate {
            check: format!("operators of {kind}"),
            expected: format!("{expected} of {names}"),
            got: format!("{found}; the graph has {counts:?}"),
            advice: FAULT,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::compare;

    const KIND: VariantKind = VariantKind::CpuInt8;

    fn pair<'a>(logits: &'a [Vec<f32>], reference: &'a [Vec<f32>]) -> Pair<'a> {
        Pair { logits, reference, split: "test row" }
    }

    #[test]
    fn accuracy_may_drop_by_the_bound_and_by_what_chance_explains() {
        let gate = |fp32_hits, hits, changed, rows: usize, drop| {
            let logits = vec![vec![0.0, 1.0]; rows];
            let answers = Answers { fp32_hits, hits, expected: rows, changed, all: rows };
            accuracy(KIND, answers, drop, pair(&logits, &logits)).is_ok()
        };
        // One row is never more, and of a hundred rows three are.
        assert!(gate(90, 89, 1, 100, 0.0));
        assert!(gate(90, 88, 2, 100, 1.0));
        assert!(!gate(90, 87, 3, 100, 1.0));
        // 9 rows deviate by 3, 25 by 5.
        assert!(gate(900, 891, 9, 1000, 0.6));
        assert!(!gate(900, 890, 9, 1000, 0.6));
        assert!(gate(900, 885, 25, 1000, 1.0));
        assert!(!gate(900, 884, 25, 1000, 1.0));
        assert!(gate(88, 90, 2, 100, 0.0));
    }

    #[test]
    fn so_many_labels_may_be_others_than_those_of_fp32() {
        let gate = |changed, rows: usize, changes| {
            let logits = vec![vec![0.0, 1.0]; rows];
            let answers = Answers { fp32_hits: rows, hits: rows, expected: rows, changed, all: rows };
            labels(KIND, answers, changes, pair(&logits, &logits))
        };
        assert!(gate(1, 20, 0.0).is_ok() && gate(2, 20, 0.0).is_err());
        assert!(gate(64, 1000, 5.7).is_ok());
        let message = gate(64, 1000, 5.5).unwrap_err().to_string();
        assert!(message.contains("labels of cpu-int8") && message.contains("others for 64 of 1000 rows"), "{message}");
    }

    #[test]
    fn fp32_logits_may_differ_by_a_share_of_the_largest() {
        let gate = |difference: f32, size: f32| {
            let (logits, reference) = ([vec![size + difference, 0.0]], [vec![size, 0.0]]);
            logits_gate(VariantKind::CpuFp32, &logits, &reference)
        };
        fn logits_gate(kind: VariantKind, logits: &[Vec<f32>], reference: &[Vec<f32>]) -> Result<()> {
            super::logits(kind, &compare(logits, reference), pair(logits, reference))
        }
        assert!(gate(2e-4, 1.0).is_err());
        assert!(gate(2e-4, 5.0).is_ok());
        let message = gate(f32::NAN, 5.0).unwrap_err().to_string();
        assert!(message.contains("logits of cpu-fp32") && message.contains("test row 1 has [NaN"), "{message}");
    }

    #[test]
    fn what_is_no_number_is_named() {
        let answer = |logit, distance| Answer { logits: vec![0.0, logit], further: vec![vec![1.0]], distance };
        assert!(numbers(KIND, &[answer(1.0, None), answer(2.0, Some(0.1))], "test").is_ok());
        for wrong in [answer(f32::NAN, None), answer(1.0, Some(f32::INFINITY))] {
            let message = numbers(KIND, &[answer(1.0, None), wrong], "test").unwrap_err().to_string();
            assert!(
                message.contains("logits of cpu-int8: expected numbers") && message.contains("test row 2"),
                "{message}"
            );
        }
    }

    #[test]
    fn of_many_labels_a_message_shows_few() {
        let (mut logits, reference) = ([vec![0.0f32; 5000]], [vec![0.0f32; 5000]]);
        logits[0][4321] = 9.0;
        let answers = Answers { fp32_hits: 50, hits: 1, expected: 50, changed: 49, all: 50 };
        let message = accuracy(KIND, answers, 1.0, pair(&logits, &reference)).unwrap_err().to_string();
        assert!(message.contains("test row 1, labels [4321, ") && message.len() < 700, "{message}");
        assert!(message.contains("--precision fp32"), "{message}");
    }

    #[test]
    fn the_message_shows_the_rows_that_differ_most() {
        let (logits, reference) = ([vec![1.0, 0.0], vec![0.0, 3.0]], [vec![1.0, 0.5], vec![0.0, 1.0]]);
        let comparison = compare(&logits, &reference);
        let message = batch_invariance(KIND, &comparison, pair(&logits, &reference)).unwrap_err().to_string();
        assert!(
            message.contains("test row 2 has [0.0000, 3.0000] instead of [0.0000, 1.0000]; test row 1"),
            "{message}"
        );
    }
}
