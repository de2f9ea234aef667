//! Fills the training report from what a run has left.

use nimbert::Decision;

use crate::{
    calibrate::Kept,
    cross_validation::OutOfFold,
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
    /// How far what the bundle says of its answers holds of test rows, if there are any.
    pub kept: Option<Kept>,
    /// What the check of the data has found.
    pub warnings: &'a [String],
    /// The methods that were compared, and which one it is.
    pub methods: Option<&'a Table>,
    /// What models that had not seen the training rows answered to them.
    pub out_of_fold: Option<&'a OutOfFold>,
    /// Figures of that.
    pub cross_validation: Option<&'a Table>,
    /// The models that were tried to reach a size, and which one it is.
    pub ladder: Option<&'a Table>,
    /// All settings and versions, in groups.
    pub settings: &'a [(String, Vec<(String, String)>)],
}

/// Held-out rows, and what the shipped graph makes of them.
struct HeldOut<'a> {
    split: &'static str,
    rows: &'a [Source],
    decision: Decision,
    scores: Vec<Vec<f32>>,
}

/// The report of a run.
pub fn page(run: Run<'_>) -> Page {
    let Run { sources, judged, .. } = run;
    let held_out = held_out(&run);
    let decision = &held_out.decision;
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
    if let Some(Kept { coverage, unknown }) = run.kept {
        if let Some((share, size)) = coverage {
            summary.push(("sets with the right label (test)".to_owned(), percent(Some(share))));
            summary.push(("labels a set (test)".to_owned(), format!("{size:.2}")));
        }
        summary.extend(unknown.map(|share| ("taken for unknown (test)".to_owned(), percent(Some(share)))));
    }
    summary.push(("graph".to_owned(), format!("{:.1} MB {}", shipped.bytes as f64 / 1e6, shipped.kind)));
    let threshold = |id: usize| judged.decision.label_thresholds.as_ref().map(|thresholds| f64::from(thresholds[id]));
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
        labelling: Vec::new(),
        labels: labels.collect(),
        confusion: metrics.confusion.map(|counts| Confusion { labels: sources.labels.clone(), counts }),
        reliability: reliability(decision, &expected, &held_out.scores)
            .into_iter()
            .map(|bin| ReliabilityBin { confidence: bin.confidence, accuracy: bin.accuracy, count: bin.count })
            .collect(),
        ece: Some(metrics.ece),
        mistakes: mistakes(sources, &held_out),
        doubts: Vec::new(),
        warnings: run.warnings.to_vec(),
        variants: judged.variants.iter().map(variant_row).collect(),
        methods: run.methods.cloned(),
        cross_validation: run.cross_validation.cloned(),
        ladder: run.ladder.cloned(),
        settings: run.settings.to_vec(),
    }
}

/// The test rows; without any, the rows by which the graph was judged, if it has not learned from them; else what models like it
/// answered without having seen the rows.
fn held_out<'a>(run: &Run<'a>) -> HeldOut<'a> {
    let Run { sources, judged, .. } = run;
    let test = judged.test_answers.as_ref().map(|answers| answers.iter().map(|answer| answer.logits.clone()).collect());
    let (split, rows, logits) = match (&test, judged.acceptance.split.as_str(), run.out_of_fold) {
        (Some(logits), ..) => ("test", &sources.test, logits),
        (None, "validation", _) => ("validation", &sources.validation, &judged.logits),
        (None, _, Some(answers)) => ("cross-validated", &sources.train, &answers.logits),
        _ => ("training", &sources.train, &judged.logits),
    };
    // The graph's own logits are divided by its temperature already. Thresholds that were found by these very rows would flatter.
    let decision = match split {
        "cross-validated" => {
            Decision { temperature: judged.temperature, label_thresholds: None, ..judged.decision.clone() }
        }
        _ => judged.decision.clone(),
    };
    let scores = logits.iter().map(|logits| decision.scores(logits)).collect();
    HeldOut { split, rows, decision, scores }
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
fn mistakes(sources: &Sources, held_out: &HeldOut<'_>) -> Vec<Mistake> {
    let names = |ids: &mut dyn Iterator<Item = usize>| {
        let names: Vec<&str> = ids.map(|id| sources.labels[id].as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let mut mistakes = Vec::new();
    for (source, scores) in held_out.rows.iter().zip(&held_out.scores) {
        let predicted = held_out.decision.label_ids(scores);
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
            text: row.shown(),
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
