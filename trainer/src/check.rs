//! Faults of labelled texts that cost accuracy or make figures too good, most of them in silence: rows that repeat or
//! contradict one another, held-out texts that are also trained on, labels that are rare, misspelt or never learned,
//! texts that the model cannot read whole.
//!
//! Two texts are the same if they differ only in case and white space.

mod deep;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::Path,
};

use serde::Serialize;
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

pub use deep::{check_labels, not_judged};

use crate::{
    dataset::{Place, Row},
    error::Error,
};

/// What is looked at.
#[derive(Debug, Clone)]
pub struct CheckInput<'a> {
    /// Rows that are learned from.
    pub train: Vec<CheckRow<'a>>,
    /// Rows that are not, by what they serve, such as `validation` and `test`; may be empty.
    pub held_out: Vec<(&'static str, Vec<CheckRow<'a>>)>,
    /// The number of tokens that longer texts are cut to; none if no text is cut.
    pub max_length: Option<usize>,
    /// Whether a row may have any number of labels.
    pub multi_label: bool,
    /// The labels that are known whether or not a row has them: those with a column of their own.
    pub label_columns: Vec<String>,
    /// Numbers that stood there in another way than they were read, such as 1.0 for 1.
    pub respelled: BTreeMap<String, String>,
    /// Whether some of them became one label.
    pub merges_labels: bool,
    /// What labels of each task begin with, where there are several; else empty.
    pub tasks: Vec<String>,
}

/// A row, where it stands, and what the tokenizer makes of it.
#[derive(Debug, Clone, Copy)]
pub struct CheckRow<'a> {
    /// The row.
    pub row: &'a Row,
    /// Its file.
    pub path: &'a Path,
    /// Its tokens; none if no tokenizer was given.
    pub tokens: Option<TokenCounts>,
}

/// Numbers of tokens of a text, or a pair, of which nothing is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCounts {
    /// All tokens, special ones included.
    pub all: usize,
    /// Those that are the unknown token.
    pub unknown: usize,
}

/// A fault, all rows that have it together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which fault: a name for programs, in kebab-case.
    pub kind: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// Where: the first of the rows, at most 20; empty if the fault is one of labels rather than rows.
    pub places: Vec<Place>,
    /// How many rows there are, or labels.
    pub count: usize,
}

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Costs accuracy, or makes figures wrong.
    Warning,
    /// Training refuses such data.
    Error,
}

/// A finding names at most this many rows.
const PLACES: usize = 20;
/// Of those, this many are printed.
const PLACES_SHOWN: usize = 5;
/// A message gives at most this many examples.
const EXAMPLES: usize = 3;
/// A message names at most this many labels.
const LABELS: usize = 10;
/// Labels of which one has so many times the rows of another are imbalanced.
const IMBALANCE: usize = 10;
/// A label of fewer training rows is rare.
const RARE: usize = 10;
/// From this share of all texts on, cut ones are a warning.
const TRUNCATED_SHARE: f64 = 0.05;
/// From this share of all tokens on, unknown ones are a warning.
const UNKNOWN_SHARE: f64 = 0.01;

/// Looks for every fault. Findings are in a fixed order, at most one of each kind.
pub fn check(input: &CheckInput<'_>) -> Vec<Finding> {
    let groups = same_texts(input);
    [
        duplicate(&groups),
        conflicting_labels(input, &groups),
        leak(&groups),
        empty_text(input),
        imbalance(input),
        rare_label(input),
        unseen_label(input),
        truncated(input),
        unknown_tokens(input),
        label_spelling(input),
        number_spelling(input),
        constant_label(input),
        joined_labels(input),
        repeated_label(input),
        rows_in_a_field(input),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl fmt::Display for Finding {
    /// Two lines, or three with places; no line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        if !self.places.is_empty() {
            write!(f, "\n  at {}", abridged(&self.places, PLACES_SHOWN, self.count))?;
        }
        write!(f, "\n  {}", self.advice)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl<'a> CheckInput<'a> {
    /// All rows; held-out ones with what they serve.
    pub fn all(&self) -> impl Iterator<Item = (Option<&'static str>, &CheckRow<'a>)> {
        let held_out = self.held_out.iter().flat_map(|(split, rows)| rows.iter().map(|row| (Some(*split), row)));
        self.train.iter().map(|row| (None, row)).chain(held_out)
    }

    /// Two rows of one text whose labels exclude each other: of several tasks, those of one that both have a label of.
    fn conflict<'b, 'c>(&self, group: &'b [Member<'c>]) -> Option<[&'b Member<'c>; 2]> {
        if self.tasks.is_empty() {
            let other = group.iter().find(|member| member.labels != group[0].labels)?;
            return Some([&group[0], other]);
        }
        self.tasks.iter().find_map(|prefix| {
            let label = |member: &'b Member<'c>| {
                let label = member.labels.iter().find(|label| label.starts_with(prefix.as_str()))?;
                Some((member, *label))
            };
            let mut labelled = group.iter().filter_map(label);
            let (first, label) = labelled.next()?;
            labelled.find(|(_, other)| *other != label).map(|(other, _)| [first, other])
        })
    }

    /// Number of training rows by label.
    fn train_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for label in self.train.iter().flat_map(CheckRow::labels) {
            *counts.entry(label).or_default() += 1;
        }
        counts
    }
}

impl CheckRow<'_> {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { file: self.path.display().to_string(), line: self.row.line }
    }

    /// The labels, each once: their order means nothing.
    fn labels(&self) -> BTreeSet<&str> {
        self.row.labels.iter().map(String::as_str).collect()
    }

    /// The text and the second one, if there is one.
    fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.row.text.as_str()).chain(self.row.pair.as_deref())
    }
}

impl Finding {
    /// A fault of `rows`; none if there are none.
    fn of_rows(
        kind: &'static str,
        severity: Severity,
        rows: &[&CheckRow<'_>],
        message: String,
        advice: &str,
    ) -> Option<Self> {
        let places = rows.iter().take(PLACES).map(|row| row.place()).collect();
        let finding = Self { kind, severity, message, advice: advice.to_owned(), places, count: rows.len() };
        (!rows.is_empty()).then_some(finding)
    }

    /// What is said of all rows.
    fn of_all(kind: &'static str, severity: Severity, message: String, advice: &str) -> Self {
        Self { kind, severity, message, advice: advice.to_owned(), places: Vec::new(), count: 0 }
    }

    /// A fault of `count` labels; none if there are none.
    fn of_labels(kind: &'static str, count: usize, message: String, advice: &str) -> Option<Self> {
        let (severity, advice) = (Severity::Warning, advice.to_owned());
        (count > 0).then_some(Self { kind, severity, message, advice, places: Vec::new(), count })
    }
}

/// One of several rows of the same text.
struct Member<'a> {
    /// What it serves if it is held out; none: training.
    held_out: Option<&'static str>,
    row: &'a CheckRow<'a>,
    labels: BTreeSet<&'a str>,
}

/// Rows of the same text, wherever there are two or more of it: in the order of the first of them, training rows before
/// held-out ones. Empty texts are a fault of their own.
fn same_texts<'a>(input: &'a CheckInput<'a>) -> Vec<Vec<Member<'a>>> {
    let mut groups: Vec<Vec<Member<'a>>> = Vec::new();
    let mut by_text: HashMap<Vec<String>, usize> = HashMap::new();
    for (held_out, row) in input.all() {
        let texts: Vec<String> = row.texts().map(normalized).collect();
        if texts.iter().all(String::is_empty) {
            continue;
        }
        let group = *by_text.entry(texts).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(Member { held_out, row, labels: row.labels() });
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// A text that comes again with the same labels: among the training rows, or among the held-out ones. From one to the
/// other it is a leak.
fn duplicate(groups: &[Vec<Member<'_>>]) -> Option<Finding> {
    let mut pairs = Vec::new();
    for group in groups {
        let mut firsts = BTreeMap::new();
        for member in group {
            let key = (member.held_out.is_some(), &member.labels);
            let first = *firsts.entry(key).or_insert(member.row);
            if !std::ptr::eq(first, member.row) {
                pairs.push((first, member.row));
            }
        }
    }
    let rows: Vec<_> = pairs.iter().map(|(_, later)| *later).collect();
    let example =
        |(first, later): &(&CheckRow<'_>, &CheckRow<'_>)| format!("{} repeats {}", later.place(), first.place());
    let message = format!(
        "{} with the same labels: {}",
        counted(rows.len(), "row repeats an earlier text", "rows repeat earlier texts"),
        abridged(pairs.iter().map(example), EXAMPLES, pairs.len())
    );
    let advice = "remove the repetitions: such a text counts more than others, in training or in the figures";
    Finding::of_rows("duplicate", Severity::Warning, &rows, message, advice)
}

/// A text with different labels, wherever its rows are.
fn conflicting_labels(input: &CheckInput<'_>, groups: &[Vec<Member<'_>>]) -> Option<Finding> {
    let conflicts: Vec<_> = groups.iter().filter(|group| input.conflict(group).is_some()).collect();
    let rows: Vec<_> = conflicts.iter().flat_map(|group| group.iter().map(|member| member.row)).collect();
    let example = |group: &&Vec<Member<'_>>| {
        let side = |member: &Member<'_>| format!("{} is {}", member.row.place(), names(&member.labels));
        input.conflict(group).map_or(String::new(), |pair| pair.map(side).join(" but "))
    };
    let message = format!(
        "{} different labels, in {}: {}",
        counted(conflicts.len(), "text has", "texts have"),
        counted(rows.len(), "row", "rows"),
        abridged(conflicts.iter().map(example), EXAMPLES, conflicts.len())
    );
    let advice = "decide which labels are right: no model can learn both";
    Finding::of_rows("conflicting-labels", Severity::Warning, &rows, message, advice)
}

/// A held-out text that is a training row's, whatever their labels.
fn leak(groups: &[Vec<Member<'_>>]) -> Option<Finding> {
    let mut leaks = Vec::new();
    for group in groups {
        // Training rows come first.
        if group[0].held_out.is_none() {
            let leaked = group.iter().filter_map(|member| member.held_out.map(|split| (split, member.row)));
            leaks.extend(leaked.map(|(split, row)| (group[0].row, split, row)));
        }
    }
    let rows: Vec<_> = leaks.iter().map(|(_, _, row)| *row).collect();
    let example = |(train, split, row): &(&CheckRow<'_>, &str, &CheckRow<'_>)| {
        format!("{} ({split}) is {}", row.place(), train.place())
    };
    let message = format!(
        "{} in training rows: {}",
        counted(rows.len(), "held-out row has a text that is also", "held-out rows have texts that are also"),
        abridged(leaks.iter().map(example), EXAMPLES, leaks.len())
    );
    let advice =
        "remove the repetitions, or such texts from one side: figures on texts that were learned from are too good";
    Finding::of_rows("leak", Severity::Warning, &rows, message, advice)
}

/// A text, or the second of a pair, of nothing but white space.
fn empty_text(input: &CheckInput<'_>) -> Option<Finding> {
    let empty = |row: &&CheckRow<'_>| row.texts().any(|text| text.trim().is_empty());
    let rows: Vec<_> = input.all().map(|(_, row)| row).filter(empty).collect();
    let message = counted(rows.len(), "row has an empty text", "rows have an empty text");
    Finding::of_rows("empty-text", Severity::Warning, &rows, message, "remove these rows, or fill the text in")
}

/// Labels of very different numbers of training rows.
fn imbalance(input: &CheckInput<'_>) -> Option<Finding> {
    let found: Vec<_> = match input.tasks.as_slice() {
        [] => imbalance_of(input, "").into_iter().collect(),
        tasks => tasks.iter().filter_map(|task| imbalance_of(input, task)).collect(),
    };
    let count = found.iter().map(|(count, _)| count).sum();
    let messages: Vec<String> = found.into_iter().map(|(_, message)| message).collect();
    let advice = "--class-weights balanced makes every label count alike";
    Finding::of_labels("imbalance", count, messages.join("; "), advice)
}

/// The same of labels that begin so: how many are rare, and what is to be said of them.
fn imbalance_of(input: &CheckInput<'_>, prefix: &str) -> Option<(usize, String)> {
    let mut counts = input.train_counts();
    counts.retain(|label, _| label.starts_with(prefix));
    let (most, largest) = counts.iter().max_by_key(|(_, count)| **count)?;
    let small: Vec<_> = counts.iter().filter(|(_, count)| *count * IMBALANCE <= *largest).collect();
    let (least, smallest) = small.iter().min_by_key(|(_, count)| **count)?;
    let message = format!(
        "label {most:?} has {largest} training rows, {:.0} times as many as {least:?} with {smallest}",
        *largest as f64 / **smallest as f64
    );
    Some((small.len(), message))
}

/// Labels of too few training rows to learn from.
fn rare_label(input: &CheckInput<'_>) -> Option<Finding> {
    let counts = input.train_counts();
    let rare: Vec<_> = counts.iter().filter(|(_, count)| **count < RARE).collect();
    let list = abridged(rare.iter().map(|(label, count)| format!("{label:?} {count}")), LABELS, rare.len());
    let have = counted(rare.len(), "label has", "labels have");
    let message = format!("{have} fewer than {RARE} training rows: {list}");
    Finding::of_labels("rare-label", rare.len(), message, "add rows, or merge such labels with others")
}

/// Why training would refuse the rows.
pub fn refused(reason: &Error) -> Finding {
    Finding::of_all(
        "refused",
        Severity::Error,
        reason.to_string(),
        "fit refuses such rows, unless it goes on from a model that knows other labels (--from)",
    )
}

/// Labels that are to be predicted, but never learned.
fn unseen_label(input: &CheckInput<'_>) -> Option<Finding> {
    let counts = input.train_counts();
    let unseen = |row: &CheckRow<'_>| row.row.labels.iter().any(|label| !counts.contains_key(label.as_str()));
    let rows: Vec<_> = input.all().map(|(_, row)| row).filter(|row| unseen(row)).collect();
    let labels: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.labels()).filter(|label| !counts.contains_key(label)).collect();
    // Training knows of such labels, and never answers with them.
    let is_known = |label: &&str| input.label_columns.iter().any(|known| known == label);
    let severity = if labels.iter().all(is_known) { Severity::Warning } else { Severity::Error };
    let message = format!(
        "{} a label that no training row has: {}",
        counted(rows.len(), "held-out row has", "held-out rows have"),
        names(&labels)
    );
    let advice = "add training rows with such labels, or remove these rows";
    Finding::of_rows("unseen-label", severity, &rows, message, advice)
}

/// Texts of which the model reads the beginning only.
fn truncated(input: &CheckInput<'_>) -> Option<Finding> {
    let max_length = input.max_length?;
    let mut texts: Vec<_> = input.all().filter_map(|(_, row)| Some((row.tokens?.all, row))).collect();
    let total = texts.len();
    texts.retain(|(tokens, _)| *tokens > max_length);
    texts.sort_by_key(|(tokens, _)| Reverse(*tokens));
    let rows: Vec<_> = texts.iter().map(|(_, row)| *row).collect();
    let share = rows.len() as f64 / total as f64;
    let longest = texts.first().map_or(0, |(tokens, _)| *tokens);
    let message = format!(
        "cut at {max_length} tokens: {} of {total} texts ({:.1} %), the longest of {longest} tokens",
        rows.len(),
        share * 100.0
    );
    let severity = if share >= TRUNCATED_SHARE { Severity::Warning } else { Severity::Note };
    let advice = "raise --max-length, or read long texts in windows with --long-text stride";
    Finding::of_rows("truncated", severity, &rows, message, advice)
}

/// Words or characters that the tokenizer does not know.
fn unknown_tokens(input: &CheckInput<'_>) -> Option<Finding> {
    let mut texts: Vec<_> = input.all().filter_map(|(_, row)| Some((row.tokens?, row))).collect();
    let total: usize = texts.iter().map(|(tokens, _)| tokens.all).sum();
    texts.retain(|(tokens, _)| tokens.unknown > 0);
    texts.sort_by_key(|(tokens, _)| Reverse(tokens.unknown));
    let unknown: usize = texts.iter().map(|(tokens, _)| tokens.unknown).sum();
    let rows: Vec<_> = texts.iter().map(|(_, row)| *row).collect();
    let share = unknown as f64 / total as f64;
    if share < UNKNOWN_SHARE {
        return None;
    }
    let message = format!(
        "unknown to the tokenizer: {unknown} of {total} tokens ({:.1} %), in {}",
        share * 100.0,
        counted(rows.len(), "text", "texts")
    );
    let advice = "choose a base model whose vocabulary covers the language and characters of these texts";
    Finding::of_rows("unknown-tokens", Severity::Warning, &rows, message, advice)
}

/// Labels that are probably meant to be one: all but the most frequent spelling.
fn label_spelling(input: &CheckInput<'_>) -> Option<Finding> {
    /// How often a label is there, and where first.
    struct Spelling {
        count: usize,
        first: Place,
    }
    let mut spellings = BTreeMap::<String, BTreeMap<&str, Spelling>>::new();
    for (_, row) in input.all() {
        for label in row.labels() {
            let group = spellings.entry(likeness(label)).or_default();
            group.entry(label).or_insert_with(|| Spelling { count: 0, first: row.place() }).count += 1;
        }
    }
    // What a rarer spelling probably stands for. Of equally frequent ones, the first in the alphabet stays.
    let mut rarer = BTreeSet::<&str>::new();
    let mut examples = Vec::new();
    for group in spellings.values().filter(|group| group.len() > 1) {
        let mut group: Vec<_> = group.iter().collect();
        group.sort_by_key(|(_, spelling)| Reverse(spelling.count));
        rarer.extend(group[1..].iter().map(|(label, _)| **label));
        let show = |(label, Spelling { count, first }): &(&&str, &Spelling)| {
            format!("{} {count} (first {first})", visible(label))
        };
        examples.push(group.iter().map(show).collect::<Vec<_>>().join(" and "));
    }
    let has_rarer = |row: &CheckRow<'_>| row.row.labels.iter().any(|label| rarer.contains(label.as_str()));
    let rows: Vec<_> = input.all().map(|(_, row)| row).filter(|row| has_rarer(row)).collect();
    let message = format!(
        "{} that looks like another one: {}",
        counted(rows.len(), "row has a label", "rows have a label"),
        abridged(&examples, LABELS, examples.len())
    );
    let advice = "spell such labels alike: they are learned as different ones";
    Finding::of_rows("label-spelling", Severity::Warning, &rows, message, advice)
}

/// What labels that look alike have in common: they differ in case, white space, characters without width, the way accents
/// are composed, or the way a number is written.
fn likeness(label: &str) -> String {
    let plain: String = label.nfkc().filter(|c| !is_invisible(*c)).collect();
    let plain = normalized(&plain);
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => plain,
    }
}

/// Whether a character takes no place on a line.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// A label in quotes, with what one would not see of it spelled out.
fn visible(label: &str) -> String {
    let show = |c: char| match c {
        ' ' => " ".to_owned(),
        c if c.is_whitespace() || is_invisible(c) || is_combining_mark(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    format!("\"{}\"", label.chars().map(show).collect::<String>())
}

/// Numbers that were read as others, since all labels are numbers; and values of JSON that are of another kind, and one label.
fn number_spelling(input: &CheckInput<'_>) -> Option<Finding> {
    let examples = input.respelled.iter().map(|(label, number)| format!("{label} is {number}"));
    let count = input.respelled.len();
    let message =
        format!("labels are the same, in whatever way they are written: {}", abridged(examples, LABELS, count));
    let advice = "nothing, unless they are names, such as versions: v1.0 is none that could be a number";
    let severity = if input.merges_labels { Severity::Warning } else { Severity::Note };
    Finding::of_labels("number-spelling", count, message, advice).map(|finding| Finding { severity, ..finding })
}

/// Labels that nothing can be learned of, where a row may have any number: all training rows have it, or none.
fn constant_label(input: &CheckInput<'_>) -> Option<Finding> {
    if !input.multi_label {
        return None;
    }
    let counts = input.train_counts();
    let rows = input.train.len();
    let of_all = counts.iter().filter(|(_, count)| **count == rows).map(|(label, _)| format!("{label:?} on every row"));
    let absent = input.label_columns.iter().filter(|label| !counts.contains_key(label.as_str()));
    let constant: Vec<String> = of_all.chain(absent.map(|label| format!("{label:?} on none"))).collect();
    let message = format!(
        "{} nothing of: {}",
        counted(constant.len(), "label says", "labels say"),
        abridged(&constant, LABELS, constant.len())
    );
    let advice = "leave such labels out, or add rows that differ in them";
    Finding::of_labels("constant-label", constant.len(), message, advice)
}

/// Labels that are probably several, with something else between them than what was said to separate them.
fn joined_labels(input: &CheckInput<'_>) -> Option<Finding> {
    if !input.multi_label || !input.label_columns.is_empty() {
        return None;
    }
    let is_joined = |label: &&str| label.contains(['|', ';', ',']);
    let labels: BTreeSet<&str> = input.all().flat_map(|(_, row)| row.labels()).filter(is_joined).collect();
    let rows: Vec<_> = input.all().map(|(_, row)| row).filter(|row| row.labels().iter().any(is_joined)).collect();
    let has = counted(rows.len(), "row has a label that looks", "rows have labels that look");
    let message = format!("{has} like several: {}", names(&labels));
    let advice = "say what separates them, such as --label-separator '|'";
    Finding::of_rows("joined-labels", Severity::Warning, &rows, message, advice)
}

/// A label that a row has twice.
fn repeated_label(input: &CheckInput<'_>) -> Option<Finding> {
    let rows: Vec<_> =
        input.all().map(|(_, row)| row).filter(|row| row.labels().len() < row.row.labels.len()).collect();
    let message = format!("{} a label twice, which counts once", counted(rows.len(), "row has", "rows have"));
    Finding::of_rows("repeated-label", Severity::Warning, &rows, message, "remove the repetition")
}

/// Quoted fields that run over lines which could be rows of their own.
fn rows_in_a_field(input: &CheckInput<'_>) -> Option<Finding> {
    let rows: Vec<_> = input.all().map(|(_, row)| row).filter(|row| row.row.may_hold_rows).collect();
    let message = format!(
        "{} that runs over lines which look like rows of their own",
        counted(rows.len(), "row has a quoted field", "rows have a quoted field")
    );
    let advice = "a quote may be missing there: look at these rows; --quoting none takes all quotes as characters";
    Finding::of_rows("rows-in-a-field", Severity::Warning, &rows, message, advice)
}

/// What two texts that are the same have in common.
pub(crate) fn normalized(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Labels as a list.
fn names(labels: &BTreeSet<&str>) -> String {
    match labels.len() {
        0 => "no label".to_owned(),
        count => abridged(labels.iter().map(|label| format!("{label:?}")), LABELS, count),
    }
}

/// `1 row`, `2 rows`.
fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// The first `most` of `count` items, and how many more there are.
fn abridged(items: impl IntoIterator<Item: ToString>, most: usize, count: usize) -> String {
    let mut shown: Vec<String> = items.into_iter().take(most).map(|item| item.to_string()).collect();
    if count > shown.len() {
        shown.push(format!("and {} more", count - shown.len()));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::row;

    /// Rows of one label each, from line 2 on.
    fn rows(texts: &[(&str, &str)]) -> Vec<Row> {
        texts.iter().zip(2..).map(|(&(text, label), line)| row(text, label, line)).collect()
    }

    /// Ten different texts of each label.
    fn clean(labels: &[&str]) -> Vec<Row> {
        let texts: Vec<String> = (0..labels.len() * 10).map(|index| format!("text {index}")).collect();
        rows(&texts.iter().zip(labels.iter().cycle()).map(|(text, label)| (text.as_str(), *label)).collect::<Vec<_>>())
    }

    fn located<'a>(rows: &'a [Row], path: &'a str) -> Vec<CheckRow<'a>> {
        rows.iter().map(|row| CheckRow { row, path: Path::new(path), tokens: None }).collect()
    }

    fn findings(train: &[Row], test: &[Row]) -> Vec<Finding> {
        let held_out = vec![("test", located(test, "test.csv"))];
        check(&CheckInput { train: located(train, "data.csv"), held_out, ..input() })
    }

    fn input<'a>() -> CheckInput<'a> {
        CheckInput {
            train: Vec::new(),
            held_out: Vec::new(),
            max_length: None,
            multi_label: false,
            label_columns: Vec::new(),
            respelled: BTreeMap::new(),
            merges_labels: false,
            tasks: Vec::new(),
        }
    }

    /// The finding of a kind, and its lines.
    fn find(findings: &[Finding], kind: &str) -> (Finding, Vec<u64>) {
        let finding = findings.iter().find(|finding| finding.kind == kind).unwrap_or_else(|| panic!("no {kind}"));
        (finding.clone(), finding.places.iter().map(|place| place.line).collect())
    }

    fn kinds(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn clean_rows_have_no_finding() {
        assert_eq!(findings(&clean(&["a", "b"]), &rows(&[("another", "a"), ("one more", "b")])), []);
    }

    #[test]
    fn repeated_and_contradictory_texts() {
        let texts = [("Well  done", "a"), ("so", "a"), (" well\tdone ", "a"), ("so", "b"), ("so", "b")];
        let found = findings(&rows(&texts), &[]);
        assert_eq!(kinds(&found), ["duplicate", "conflicting-labels", "rare-label"]);
        let (duplicate, lines) = find(&found, "duplicate");
        assert_eq!(lines, [4, 6]);
        assert!(
            duplicate.message.ends_with("data.csv:4 repeats data.csv:2, data.csv:6 repeats data.csv:5"),
            "{duplicate}"
        );
        let (conflict, lines) = find(&found, "conflicting-labels");
        assert_eq!((lines, conflict.count), (vec![3, 5, 6], 3));
        assert!(conflict.message.starts_with("1 text has different labels, in 3 rows"), "{conflict}");
    }

    #[test]
    fn labels_are_sets_and_pairs_are_two_texts() {
        let mut train = rows(&[("who?", ""), ("who?", ""), ("who?", "")]);
        for (row, (pair, labels)) in train.iter_mut().zip([("me", ["a", "b"]), ("me", ["b", "a"]), ("you", ["c", "d"])])
        {
            row.pair = Some(pair.to_owned());
            row.labels = labels.map(str::to_owned).to_vec();
        }
        let found = findings(&train, &[]);
        assert_eq!(kinds(&found), ["duplicate", "rare-label"]);
        assert_eq!(find(&found, "duplicate").1, [3]);
    }

    #[test]
    fn held_out_texts_that_are_trained_on() {
        let test = rows(&[("new", "a"), ("TEXT 3", "b"), ("text 3", "a")]);
        let found = findings(&clean(&["a", "b"]), &test);
        assert_eq!(kinds(&found), ["conflicting-labels", "leak"]);
        let (leak, lines) = find(&found, "leak");
        assert_eq!((lines, leak.places[0].file.as_str()), (vec![3, 4], "test.csv"));
        assert!(leak.message.contains("test.csv:3 (test) is data.csv:5"), "{leak}");
    }

    #[test]
    fn empty_texts_are_not_repetitions() {
        let mut train = clean(&["a", "b"]);
        train[4].text.clear();
        train[5].text = " \n".to_owned();
        let found = findings(&train, &[]);
        assert_eq!(kinds(&found), ["empty-text"]);
        assert_eq!(find(&found, "empty-text").1, [6, 7]);
    }

    #[test]
    fn labels_of_few_rows_or_none() {
        let mut train = clean(&["a", "a"]);
        train[7].labels[0] = "b".to_owned();
        let found = findings(&train, &rows(&[("new", "a"), ("newer", "c")]));
        assert_eq!(kinds(&found), ["imbalance", "rare-label", "unseen-label"]);
        assert!(find(&found, "imbalance").0.message.contains("\"a\" has 19 training rows, 19 times"), "{found:?}");
        assert!(find(&found, "rare-label").0.message.ends_with("\"b\" 1"), "{found:?}");
        let (unseen, lines) = find(&found, "unseen-label");
        assert_eq!((lines, unseen.severity), (vec![3], Severity::Error));
        // Training takes rows of a label that has a column of its own.
        let (learned, tested) = (located(&train, "x.csv"), rows(&[("newer", "c")]));
        let held_out = vec![("test", located(&tested, "y.csv"))];
        let label_columns = ["a", "b", "c"].map(str::to_owned).to_vec();
        let found = check(&CheckInput { train: learned, held_out, label_columns, ..input() });
        let unseen = found.iter().find(|finding| finding.kind == "unseen-label").unwrap();
        assert_eq!(unseen.severity, Severity::Warning);
    }

    #[test]
    fn each_task_may_have_labels_of_few_rows() {
        let tasks = vec!["tone=".to_owned(), "topic=".to_owned()];
        let mut train = clean(&["a", "a"]);
        let other = |row: usize, rare: usize| if row == rare { "other" } else { "usual" };
        for (index, row) in train.iter_mut().enumerate() {
            row.labels = vec![format!("tone={}", other(index, 3)), format!("topic={}", other(index, 5))];
        }
        let found = check(&CheckInput { train: located(&train, "data.csv"), tasks, ..input() });
        let (imbalance, _) = find(&found, "imbalance");
        let parts = ["\"tone=usual\" has 19 training rows", "; label \"topic=usual\" has 19 training rows"];
        assert!(parts.iter().all(|part| imbalance.message.contains(part)) && imbalance.count == 2, "{imbalance:?}");
    }

    #[test]
    fn labels_of_several_spellings() {
        let mut train = clean(&["Positive", "negative"]);
        train[3].labels[0] = "Negative".to_owned();
        train.extend(clean(&["positive "]).into_iter().map(|row| Row {
            text: row.text + "!",
            line: row.line + 20,
            ..row
        }));
        train.truncate(22);
        let found = findings(&train, &[]);
        let (Finding { message, .. }, lines) = find(&found, "label-spelling");
        assert_eq!(lines, [5, 22, 23]);
        let (negative, positive) = ("\"negative\" 9 (first data.csv:3)", "\"Positive\" 10 (first data.csv:2)");
        assert!(message.contains(negative) && message.contains(positive), "{message}");
        assert!(message.contains(" and \"Negative\" 1 (first data.csv:5)"), "{message}");
    }

    #[test]
    fn labels_that_look_alike() {
        for (label, other, shown) in [
            ("café", "cafe\u{301}", "\"cafe\\u{301}\""),
            ("zero", "ze\u{200b}ro", "\"ze\\u{200b}ro\""),
            ("b", "b\u{a0}", "\"b\\u{a0}\""),
            ("1", "1.0", "\"1.0\""),
            ("7", "07", "\"07\""),
            ("ＡＢ", "AB", "\"AB\""),
        ] {
            let mut train = clean(&["a", label]);
            train[3].labels[0] = other.to_owned();
            let (finding, lines) = find(&findings(&train, &[]), "label-spelling");
            assert!(lines == [5] && finding.message.contains(shown), "{finding}");
        }
        assert!(!kinds(&findings(&clean(&["a.b", "ab", "1", "10"]), &[])).contains(&"label-spelling"));
    }

    #[test]
    fn labels_of_which_a_row_may_have_several() {
        let mut train = clean(&["a", "b"]);
        train.iter_mut().for_each(|row| row.labels.push("all".to_owned()));
        train[2].labels.push("c|d".to_owned());
        train[4].labels.push("a".to_owned());
        train[5].may_hold_rows = true;
        let label_columns = Vec::new();
        let found = check(&CheckInput { train: located(&train, "x.csv"), multi_label: true, label_columns, ..input() });
        assert!(find(&found, "constant-label").0.message.contains("\"all\" on every row"));
        assert_eq!((find(&found, "joined-labels").1, find(&found, "repeated-label").1), (vec![4], vec![6]));
        assert_eq!(find(&found, "rows-in-a-field").1, [7]);
        let label_columns = ["a", "b", "never"].map(str::to_owned).to_vec();
        let respelled = BTreeMap::from([("1.0".to_owned(), "1".to_owned())]);
        let input =
            CheckInput { train: located(&train, "x.csv"), multi_label: true, label_columns, respelled, ..input() };
        let found = check(&input);
        assert!(find(&found, "constant-label").0.message.contains("\"never\" on none"));
        assert!(find(&found, "number-spelling").0.message.ends_with("1.0 is 1"));
    }

    #[test]
    fn long_texts_and_unknown_tokens() {
        let train = clean(&["a", "b", "c", "d", "e"]);
        let check_tokens = |tokens: &[(usize, usize, usize)]| {
            let mut rows = located(&train, "data.csv");
            rows.iter_mut().for_each(|row| row.tokens = Some(TokenCounts { all: 10, unknown: 0 }));
            tokens.iter().for_each(|&(row, all, unknown)| rows[row].tokens = Some(TokenCounts { all, unknown }));
            check(&CheckInput { train: rows, max_length: Some(12), ..input() })
        };
        assert_eq!(check_tokens(&[(0, 12, 4)]), []);
        let found = check_tokens(&[(0, 13, 0), (8, 40, 0)]);
        assert_eq!(kinds(&found), ["truncated"]);
        let (cut, lines) = find(&found, "truncated");
        assert_eq!((lines, cut.severity), (vec![10, 2], Severity::Note));
        assert_eq!(cut.message, "cut at 12 tokens: 2 of 50 texts (4.0 %), the longest of 40 tokens");
        assert_eq!(check_tokens(&[(0, 13, 0), (8, 40, 0), (9, 14, 0)])[0].severity, Severity::Warning);
        let found = check_tokens(&[(3, 10, 2), (6, 10, 3)]);
        assert_eq!(kinds(&found), ["unknown-tokens"]);
        assert_eq!(find(&found, "unknown-tokens").1, [8, 5]);
    }

    #[test]
    fn printed_and_as_json() {
        let train = rows(&[("so", "a"); 32]);
        let (finding, lines) = find(&findings(&train, &[]), "duplicate");
        assert_eq!((finding.count, lines.len()), (31, PLACES));
        let lines: Vec<String> = finding.to_string().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("warning: 31 rows repeat"), "{finding}");
        assert!(lines[1].ends_with(", data.csv:7, and 26 more"), "{finding}");
        assert_eq!(lines.len(), 3);
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["severity"], &json["places"][0]["line"]), (&"warning".into(), &3.into()));
    }
}
