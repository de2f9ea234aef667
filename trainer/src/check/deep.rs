//! Faults that only show in what texts say: labels that may be wrong, near-duplicates with other labels, labels that should be one.

use super::{CheckRow, EXAMPLES, Finding, LABELS, Severity, abridged, counted, names};
use crate::{
    error::Error,
    label_errors::{AlikeLabels, LabelErrors},
};

/// What `errors`, found in `rows` with `labels`, says of them.
pub fn check_labels(rows: &[&CheckRow<'_>], labels: &[String], errors: &LabelErrors) -> Vec<Finding> {
    [doubtful(rows, labels, errors), near_duplicates(rows, errors), alike(labels, &errors.alike)]
        .into_iter()
        .flatten()
        .collect()
}

/// Rows that by all others have another label.
fn doubtful(rows: &[&CheckRow<'_>], labels: &[String], errors: &LabelErrors) -> Option<Finding> {
    let mut doubtful: Vec<usize> = (0..rows.len()).filter(|&row| errors.rows[row].is_doubtful).collect();
    doubtful.sort_by(|&a, &b| errors.rows[a].by_belief(&errors.rows[b]));
    let example = |&row: &usize| {
        let suggested = errors.rows[row].suggested.iter().map(|&id| labels[id as usize].as_str()).collect();
        format!("{} is {}, but looks like {}", rows[row].place(), names(&rows[row].labels()), names(&suggested))
    };
    let message = format!(
        "{} that may be wrong: {}",
        counted(doubtful.len(), "row has a label", "rows have labels"),
        abridged(doubtful.iter().map(example), EXAMPLES, doubtful.len())
    );
    let advice = "look at them, the least believed first (--doubts writes all of them): wrong labels cost accuracy, and in rows \
                  that are tested on, figures";
    let doubtful: Vec<&CheckRow<'_>> = doubtful.into_iter().map(|row| rows[row]).collect();
    Finding::of_rows("doubtful-label", Severity::Note, &doubtful, message, advice)
}

/// Texts that say nearly the same and have other labels; the same texts are a finding of their own.
fn near_duplicates(rows: &[&CheckRow<'_>], errors: &LabelErrors) -> Option<Finding> {
    let near = &errors.near;
    let side = |row: usize| format!("{} is {}", rows[row].place(), names(&rows[row].labels()));
    let message = format!(
        "{} nearly the same and have different labels: {}",
        counted(near.len(), "text and another say", "texts and another of each say"),
        abridged(
            near.iter().map(|near| format!("{} but {}", side(near.first), side(near.second))),
            EXAMPLES,
            near.len()
        )
    );
    let advice = "decide which labels are right, if the difference between the texts is none between the labels";
    let mut of_near: Vec<usize> = near.iter().flat_map(|near| [near.first, near.second]).collect();
    of_near.sort_unstable();
    of_near.dedup();
    let of_near: Vec<&CheckRow<'_>> = of_near.into_iter().map(|row| rows[row]).collect();
    Finding::of_rows("near-duplicate", Severity::Note, &of_near, message, advice)
}

/// That the labels could not be judged.
pub fn not_judged(reason: &Error) -> Finding {
    Finding::of_all("not-judged", Severity::Note, format!("labels are not judged: {reason}"), "mend that first")
}

/// Labels that are hardly told apart.
fn alike(labels: &[String], alike: &[AlikeLabels]) -> Option<Finding> {
    let example = |pair: &AlikeLabels| {
        let [a, b] = pair.labels.map(|label| &labels[label]);
        format!("{a:?} and {b:?} (right in {:.0} % of their rows)", pair.told_apart * 100.0)
    };
    let message = format!(
        "{} hardly told apart: {}",
        counted(alike.len(), "pair of labels is", "pairs of labels are"),
        abridged(alike.iter().map(example), LABELS, alike.len())
    );
    let advice = "make them one, or say better which rows are which: half would be right by chance";
    Finding::of_labels("alike-labels", alike.len(), message, advice)
}
