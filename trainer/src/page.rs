//! Fills the training report from what a run has left.

use nimbert::{Decision, ProblemType, prediction::Answer};

use crate::{
    calibrate::{Found, Kept},
    cross_validation::OutOfFold,
    dataset::Dataset,
    export::{Calibrated, Judged, VariantFigures},
    html::{Confusion, EpochPoint, LabelRow, Mistake, Page, ReliabilityBin, Table, VariantRow},
    metrics::{LabelMetrics, Metrics, calibration_error, confidences, percent, reliability},
    prepare::{Source, Sources},
    record::{Record, StepRecord},
    report::{figure, of_task},
    tasks::{TaskLabels, TaskRows},
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
    /// How far what the bundle says of its answers holds of test rows, if there are any: by task.
    pub kept: &'a [Kept],
    /// How texts that are like no label were told from those that have one, if that was tested.
    pub found: Option<Found>,
    /// What the check of the data has found.
    pub warnings: &'a [String],
    /// The methods that were compared, and which one it is.
    pub methods: Option<&'a Table>,
    /// What models that had not seen the training rows answered to them.
    pub out_of_fold: Option<&'a OutOfFold>,
    /// Figures of that.
    pub cross_validation: Option<&'a Table>,
    /// Training rows whose labels may be wrong by the models that have not seen them.
    pub doubts: &'a [Mistake],
    /// Old and new test rows before and after a model went on, if one did.
    pub rehearsal: Option<&'a Table>,
    /// The models that were tried to reach a size, and which one it is.
    pub ladder: Option<&'a Table>,
    /// All settings and versions, in groups.
    pub settings: &'a [(String, Vec<(String, String)>)],
}

/// Held-out rows, and what the shipped graph makes of them.
struct HeldOut<'a> {
    split: &'static str,
    rows: &'a [Source],
    /// Those that some row has a label of.
    tasks: Vec<OfTask<'a>>,
}

/// A task's part of them.
struct OfTask<'a> {
    task: &'a TaskLabels,
    /// Names of its labels, as the labels of all tasks are called.
    labels: &'a [String],
    rows: TaskRows,
    decision: Decision,
    scores: Vec<Vec<f32>>,
    metrics: Metrics,
}

/// The report of a run.
pub fn page(run: Run<'_>) -> Page {
    let Run { sources, judged, .. } = run;
    let held_out = held_out(&run);
    let (shipped, split) = (judged.shipped(), held_out.split);
    let mut summary: Vec<(String, String)> =
        held_out.tasks.iter().flat_map(|of_task| figures(of_task, split)).collect();
    for (task, Kept { rows, unsure, coverage, unknown, .. }) in sources.tasks.iter().zip(run.kept) {
        let of = of_task(task.name.as_deref());
        if let Some((count, of_others)) = unsure {
            summary.push((format!("{of}unsure (test)"), percent(Some(*count as f64 / *rows as f64))));
            summary.push((format!("{of}accuracy of the others (test)"), percent(*of_others)));
        }
        if let Some((share, size)) = coverage {
            summary.push((format!("{of}sets with the right label (test)"), percent(Some(*share))));
            summary.push((format!("{of}labels a set (test)"), format!("{size:.2}")));
        }
        summary.extend(unknown.map(|share| (format!("{of}taken for unknown (test)"), percent(Some(share)))));
    }
    if let Some(Found { share, roc_auc, .. }) = run.found {
        summary.push(("of strangers taken for unknown (test)".to_owned(), percent(Some(share))));
        summary.extend(roc_auc.map(|auroc| ("AUROC of strangers (test)".to_owned(), format!("{auroc:.4}"))));
    }
    summary.push(("graph".to_owned(), format!("{:.1} MB {}", shipped.bytes as f64 / 1e6, shipped.kind)));
    let label_rows = |of_task: &OfTask<'_>| {
        let thresholds = of_task.decision.label_thresholds.clone();
        let row = |(id, label): (usize, &LabelMetrics)| LabelRow {
            label: label.label.clone(),
            precision: label.precision,
            recall: label.recall,
            f1: label.f1,
            support: label.support,
            threshold: thresholds.as_ref().map(|thresholds| f64::from(thresholds[id])),
        };
        of_task.metrics.labels.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let confusion = |of_task: &OfTask<'_>| {
        let counts = of_task.metrics.confusion.clone()?;
        Some(Confusion { labels: of_task.labels.to_vec(), counts })
    };
    let of_task = |of_task: &OfTask<'_>| confidences(&of_task.decision, &of_task.rows.ids(), &of_task.scores);
    let bins = reliability(&held_out.tasks.iter().flat_map(of_task).collect::<Vec<_>>());
    let mut warnings = run.warnings.to_vec();
    if split == "validation" && held_out.tasks.iter().any(|of_task| of_task.decision.label_thresholds.is_some()) {
        warnings.push(
            "the thresholds of labels were found by the validation rows that figures are of, which flatters them"
                .to_owned(),
        );
    }
    Page {
        title: "Training report".to_owned(),
        subtitle: format!(
            "{}: {} labels, {} {split} rows",
            sources.learned_from().map(Dataset::name).collect::<Vec<_>>().join(", "),
            sources.labels.len(),
            held_out.rows.len()
        ),
        summary,
        loss: steps(run.records, |step| f64::from(step.loss)),
        learning_rate: steps(run.records, |step| step.learning_rate),
        epochs: epochs(run.records),
        labelling: Vec::new(),
        labels: held_out.tasks.iter().flat_map(label_rows).collect(),
        confusion: held_out.tasks.iter().filter_map(confusion).collect(),
        ece: Some(calibration_error(&bins)),
        reliability: bins
            .into_iter()
            .map(|bin| ReliabilityBin { confidence: bin.confidence, accuracy: bin.accuracy, count: bin.count })
            .collect(),
        mistakes: mistakes(sources, &held_out),
        doubts: run.doubts.to_vec(),
        warnings,
        variants: judged.variants.iter().map(variant_row).collect(),
        trials: Vec::new(),
        methods: run.methods.cloned(),
        cross_validation: run.cross_validation.cloned(),
        rehearsal: run.rehearsal.cloned(),
        ladder: run.ladder.cloned(),
        settings: run.settings.to_vec(),
    }
}

/// The figures of a task.
fn figures(OfTask { task, metrics, .. }: &OfTask<'_>, split: &str) -> Vec<(String, String)> {
    let mut figures = vec![
        (format!("accuracy ({split})"), percent(Some(metrics.accuracy))),
        (format!("macro F1 ({split})"), figure(metrics.macro_f1)),
        (format!("micro F1 ({split})"), figure(metrics.micro_f1)),
        (format!("weighted F1 ({split})"), figure(metrics.weighted_f1)),
    ];
    figures.extend(metrics.mcc.map(|mcc| ("Matthews' correlation".to_owned(), figure(Some(mcc)))));
    figures.extend(metrics.roc_auc.map(|auc| ("ROC-AUC".to_owned(), format!("{auc:.4}"))));
    figures.into_iter().map(|(name, value)| (of_task(task.name.as_deref()) + &name, value)).collect()
}

/// The test rows; without any, the rows by which the graph was judged, if it has not learned from them; else what models like it
/// answered without having seen the rows.
fn held_out<'a>(run: &Run<'a>) -> HeldOut<'a> {
    let Run { sources, judged, .. } = run;
    let test = judged.test_answers.as_ref();
    let logits = |answers: &[Answer]| answers.iter().cloned().map(Answer::all_logits).collect::<Vec<_>>();
    let (test, judged_logits) = (test.map(|answers| logits(answers)), logits(&judged.answers));
    let (split, rows, logits) = match (&test, judged.acceptance.split.as_str(), run.out_of_fold) {
        (Some(logits), ..) => ("test", &sources.test, logits),
        (None, "validation", _) => ("validation", &sources.validation, &judged_logits),
        (None, _, Some(answers)) => ("cross-validated", &sources.train, &answers.logits),
        _ => ("training", &sources.train, &judged_logits),
    };
    let expected: Vec<&[u32]> = rows.iter().map(|source| source.target.ids.as_slice()).collect();
    let of_tasks = sources.tasks.iter().zip(sources.tasks.rows(logits, &expected)).zip(&judged.calibrated);
    let of_task = |((task, rows), calibrated): ((&'a TaskLabels, TaskRows), &Calibrated)| {
        let mut decision = calibrated.decision.clone();
        if split == "cross-validated" {
            // The graph's own logits are divided by its temperature already. Thresholds that were found by these very rows would
            // flatter.
            decision = Decision { temperature: calibrated.temperature, label_thresholds: None, ..decision };
        }
        let scores = rows.scores(&decision);
        let labels = &sources.labels[task.ids.clone()];
        let metrics = Metrics::new(labels, &decision, &rows.ids(), &scores);
        OfTask { task, labels, rows, decision, scores, metrics }
    };
    let tasks = of_tasks.map(of_task).filter(|of_task| !of_task.rows.rows.is_empty()).collect();
    HeldOut { split, rows, tasks }
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

/// How sure the classifier is of what is wrong: of a label that it gave, or, of any number of them, that it withheld.
fn confidence(problem_type: ProblemType, scores: &[f32], predicted: &[usize], expected: &[usize]) -> f32 {
    let of_label = |id: usize| if predicted.contains(&id) { scores[id] } else { 1.0 - scores[id] };
    let is_wrong = |id: &usize| match problem_type {
        ProblemType::SingleLabel => predicted.contains(id),
        ProblemType::MultiLabel => predicted.contains(id) != expected.contains(id),
    };
    (0..scores.len()).filter(is_wrong).map(of_label).fold(0.0, f32::max)
}

/// Wrong answers, the most confident first: where the labels of the data may be what is wrong.
fn mistakes(sources: &Sources, held_out: &HeldOut<'_>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for OfTask { labels, rows, decision, scores, .. } in &held_out.tasks {
        let names = |ids: &[usize]| match ids {
            [] => "none".to_owned(),
            ids => ids.iter().map(|&id| labels[id].as_str()).collect::<Vec<_>>().join(", "),
        };
        for ((&row, expected), scores) in rows.rows.iter().zip(&rows.labels).zip(scores) {
            let predicted = decision.label_ids(scores);
            let expected: Vec<usize> = expected.iter().map(|&id| id as usize).collect();
            if predicted == expected {
                continue;
            }
            let source = &held_out.rows[row];
            mistakes.push(Mistake {
                place: sources.place(source).to_string(),
                text: sources.row(source).shown(),
                expected: names(&expected),
                predicted: names(&predicted),
                score: f64::from(confidence(decision.problem_type, scores, &predicted, &expected)),
            });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_as_sure_as_the_label_that_was_given() {
        let unsure = confidence(ProblemType::SingleLabel, &[0.06, 0.02, 0.92 / 2.0, 0.92 / 2.0], &[0], &[1]);
        let sure = confidence(ProblemType::SingleLabel, &[0.05, 0.40, 0.55], &[2], &[1]);
        assert_eq!((unsure, sure), (0.06, 0.55));
        // Any number of labels: the first is right, the second was given wrongly, the third withheld, and would have had 0.9 to go.
        let several = confidence(ProblemType::MultiLabel, &[0.99, 0.7, 0.1], &[0, 1], &[0, 2]);
        assert!((several - 0.9).abs() < 1e-6, "{several}");
    }
}
