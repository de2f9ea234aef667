//! Fills the training report from what a run has left.

use nimbert::Decision;

use crate::{
    export::{Judged, VariantFigures},
    html::{Confusion, EpochPoint, LabelRow, Mistake, Page, ReliabilityBin, Table, VariantRow},
    metrics::{Metrics, percent, reliability},
    prepare::{Source, Sources},
    record::{Record, StepRecord},
    report::figure,
};

/// Mistakes that the report shows.
const MISTAKES: usize = 30;

/// What a run has left.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The rows.
    pub sources: &'a Sources,
    /// Every step and epoch.
    pub records: &'a [Record],
    /// The graphs.
    pub judged: &'a Judged,
    /// What the check of the data has found.
    pub warnings: &'a [String],
    /// The models that were tried to reach a size, and which one it is.
    pub ladder: Option<&'a Table>,
    /// All settings and versions, in groups.
    pub settings: &'a [(String, Vec<(String, String)>)],
}

/// Held-out rows, and what the shipped graph makes of them.
struct HeldOut<'a> {
    split: &'static str,
    rows: &'a [Source],
    scores: Vec<Vec<f32>>,
}

/// The report of a run.
pub fn page(run: Run<'_>) -> Page {
    let Run { sources, judged, .. } = run;
    let decision = &judged.decision;
    let held_out = held_out(sources, judged);
    let expected: Vec<&[u32]> = held_out.rows.iter().map(|source| source.target.ids.as_slice()).collect();
    let metrics = Metrics::new(&sources.labels, decision, &expected, &held_out.scores);
    let (shipped, split) = (judged.shipped(), held_out.split);
    let mut summary = vec![
        (format!("accuracy ({split})"), percent(Some(metrics.accuracy))),
        (format!("macro F1 ({split})"), figure(metrics.macro_f1)),
        (format!("micro F1 ({split})"), figure(metrics.micro_f1)),
        (format!("weighted F1 ({split})"), figure(metrics.weighted_f1)),
    ];
    summary.extend(metrics.mcc.map(|mcc| ("Matthews' correlation".to_owned(), figure(Some(mcc)))));
    summary.extend(metrics.roc_auc.map(|auc| ("ROC-AUC".to_owned(), format!("{auc:.4}"))));
    summary.push(("graph".to_owned(), format!("{:.1} MB {}", shipped.bytes as f64 / 1e6, shipped.kind)));
    let threshold = |id: usize| decision.label_thresholds.as_ref().map(|thresholds| f64::from(thresholds[id]));
    let labels = metrics.labels.iter().enumerate().map(|(id, label)| LabelRow {
        label: label.label.clone(),
        precision: label.precision,
        recall: label.recall,
        f1: label.f1,
        support: label.support,
        threshold: threshold(id),
    });
    Page {
        title: "Training report".to_owned(),
        subtitle: format!(
            "{}: {} labels, {} {split} rows",
            sources.datasets[0].name(),
            sources.labels.len(),
            metrics.rows
        ),
        summary,
        loss: steps(run.records, |step| f64::from(step.loss)),
        learning_rate: steps(run.records, |step| step.learning_rate),
        epochs: epochs(run.records),
        labels: labels.collect(),
        confusion: metrics.confusion.map(|counts| Confusion { labels: sources.labels.clone(), counts }),
        reliability: reliability(decision, &expected, &held_out.scores)
            .into_iter()
            .map(|bin| ReliabilityBin { confidence: bin.confidence, accuracy: bin.accuracy, count: bin.count })
            .collect(),
        ece: Some(metrics.ece),
        mistakes: mistakes(sources, decision, &held_out),
        warnings: run.warnings.to_vec(),
        variants: judged.variants.iter().map(variant_row).collect(),
        ladder: run.ladder.cloned(),
        settings: run.settings.to_vec(),
    }
}

/// The test rows; without any, the rows by which the graph was judged.
fn held_out<'a>(sources: &'a Sources, judged: &Judged) -> HeldOut<'a> {
    let (split, rows, logits) = match &judged.test_logits {
        Some(logits) => ("test", &sources.test, logits),
        None if judged.acceptance.split == "validation" => ("validation", &sources.validation, &judged.logits),
        None => ("training", &sources.train, &judged.logits),
    };
    HeldOut { split, rows, scores: logits.iter().map(|logits| judged.decision.scores(logits)).collect() }
}

fn steps(records: &[Record], figure: fn(&StepRecord) -> f64) -> Vec<(f64, f64)> {
    let point = |record: &Record| match record {
        Record::Step(step) => Some((step.step as f64, figure(step))),
        Record::Epoch(_) => None,
    };
    records.iter().filter_map(point).collect()
}

fn epochs(records: &[Record]) -> Vec<EpochPoint> {
    let point = |record: &Record| match record {
        Record::Step(_) => None,
        Record::Epoch(epoch) => Some(EpochPoint {
            epoch: epoch.epoch,
            loss: epoch.loss,
            train: epoch.train_accuracy,
            validation: epoch.validation_accuracy,
            test: epoch.test_accuracy,
        }),
    };
    records.iter().filter_map(point).collect()
}

/// Wrong answers, the most confident first: where the labels of the data may be what is wrong.
fn mistakes(sources: &Sources, decision: &Decision, held_out: &HeldOut<'_>) -> Vec<Mistake> {
    let names = |ids: &mut dyn Iterator<Item = usize>| {
        let names: Vec<&str> = ids.map(|id| sources.labels[id].as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let mut mistakes = Vec::new();
    for (source, scores) in held_out.rows.iter().zip(&held_out.scores) {
        let predicted = decision.label_ids(scores);
        let expected: Vec<usize> = source.target.ids.iter().map(|&id| id as usize).collect();
        if predicted == expected {
            continue;
        }
        // How sure the classifier is of what is wrong: of a label that it gave, or that it withheld.
        let confidence = |id: &usize| if predicted.contains(id) { scores[*id] } else { 1.0 - scores[*id] };
        let differs = |id: &usize| predicted.contains(id) != expected.contains(id);
        let score = (0..scores.len()).filter(differs).map(|id| confidence(&id)).fold(0.0, f32::max);
        let row = sources.row(source);
        mistakes.push(Mistake {
            place: sources.place(source),
            text: [Some(row.text.as_str()), row.pair.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ⏎ "),
            expected: names(&mut expected.into_iter()),
            predicted: names(&mut predicted.into_iter()),
            score: f64::from(score),
        });
    }
    mistakes.sort_by(|a, b| b.score.total_cmp(&a.score));
    mistakes.truncate(MISTAKES);
    mistakes
}

fn variant_row(figures: &VariantFigures) -> VariantRow {
    VariantRow {
        name: figures.kind.to_string(),
        bytes: figures.bytes,
        accuracy: figures.accuracy,
        max_logit_difference: Some(f64::from(figures.max_logit_difference)),
        milliseconds: Some(figures.milliseconds),
    }
}
