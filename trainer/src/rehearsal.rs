//! Going on with a trained model: further rows, and labels that it has not known, without forgetting the old ones.
//!
//! What a network learned first is lost where it goes on with other rows alone (McCloskey and Cohen, "Catastrophic interference in
//! connectionist networks", 1989). So some of the old rows are learned from again, among the new ones (Robins, "Catastrophic
//! forgetting, rehearsal and pseudorehearsal", 1995). A saved model says which rows it has learned from: none of them is tested on.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    check::normalized,
    dataset::Row,
    error::{Error, Result},
    html::Table,
    metrics::percent,
    prepare::{Source, Sources},
    random::{Stream, generator},
    split::{rarest_labels, stratified},
};

/// The file of a saved model that says how it has learned.
pub const LEARNED: &str = "learned.json";
/// Old rows for each new one, where nothing is said.
pub const OLD_ROWS_A_NEW: usize = 4;
/// The least old rows a label on average, where nothing is said.
pub const ROWS_OF_LABEL: usize = 16;
/// A text of this one is known again but for case and white space, one of [`EXACT`] by its bytes.
const FORMAT: u32 = 2;
const EXACT: u32 = 1;
/// Hexadecimal digits of a row's digest: of a million rows, one in twenty million is taken for another.
const DIGITS: usize = 16;

/// How a model has learned, and from which rows, as digests of their texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    format: u32,
    /// Texts were cut to this many tokens.
    pub max_length: usize,
    /// Tokens that windows of long texts shared; none: texts were cut.
    pub stride: Option<usize>,
    /// Whether texts came in pairs.
    pub pairs: bool,
    /// Whether a model before it has learned from rows that nobody knows.
    #[serde(default)]
    pub lacks_rows: bool,
    learned: BTreeSet<String>,
    validated: BTreeSet<String>,
}

/// What a row was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It was learned from.
    Learned,
    /// The epoch was chosen by it.
    Validated,
    /// The model has not seen it.
    Unseen,
}

/// What is gone on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoingOn {
    /// The labels that the model knows. Their ids stay.
    pub labels: Vec<String>,
    /// What it says of itself; none: it is of others, or of an older nimbert-train.
    pub learned: Option<Learned>,
    /// Files of rows that it has learned from; may be none.
    pub rehearsal: Vec<PathBuf>,
    /// How many of these are learned from again, and one of each label at least; none: the larger of [`OLD_ROWS_A_NEW`] times the new
    /// ones and [`ROWS_OF_LABEL`] times the labels (benches/runs/2026-11-28-probing.md).
    pub rehearsal_rows: Option<usize>,
}

impl Learned {
    /// What the rows of a run have become a part of, and those that the model before has learned from; `Some(None)`: there is one, which
    /// does not say its rows.
    pub fn new(
        sources: &Sources,
        before: Option<Option<&Self>>,
        max_length: usize,
        stride: Option<usize>,
        pairs: bool,
    ) -> Self {
        // Of a text's digest nothing else can be made.
        let format = before.flatten().map_or(FORMAT, |before| before.format);
        let digests = |rows: &[Source]| -> BTreeSet<String> {
            rows.iter().map(|source| digest_of(sources.row(source), format)).collect()
        };
        let (mut learned, mut validated) = (digests(&sources.train), digests(&sources.validation));
        let lacks_rows = before.is_some_and(|before| before.is_none_or(|before| before.lacks_rows));
        if let Some(before) = before.flatten() {
            learned.extend(before.learned.iter().cloned());
            validated.extend(before.validated.iter().cloned());
        }
        Self { format, max_length, stride, pairs, lacks_rows, learned, validated }
    }

    /// What is to be said where a model begins with this one as its base: nothing if none of its rows are known.
    pub fn note(&self, sources: &Sources) -> Option<String> {
        let all = [&sources.train, &sources.validation, &sources.test].into_iter().flatten();
        let known = all.clone().filter(|source| self.role(sources.row(source)) != Role::Unseen).count();
        (known > 0).then(|| {
            let all = all.count();
            format!(
                "--base has learned from {known} of these {all} rows, or was validated by them: what is measured by them, also by \
                 folds, is better than it will be; --from goes on with it and tests on others"
            )
        })
    }

    /// What a folder says; none: nothing.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] if the file is none of ours, or of a later version.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LEARNED);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, error)),
        };
        let found: Self = serde_json::from_slice(&content)
            .map_err(|error| Error::model(&path, "what --save-model writes of the rows", error.to_string()))?;
        match found.format {
            EXACT | FORMAT => Ok(Some(found)),
            other => Err(Error::model(&path, format!("the format {FORMAT}"), other.to_string())),
        }
    }

    /// What a row was for.
    pub fn role(&self, row: &Row) -> Role {
        let digest = digest_of(row, self.format);
        match (self.learned.contains(&digest), self.validated.contains(&digest)) {
            (true, _) => Role::Learned,
            (_, true) => Role::Validated,
            _ => Role::Unseen,
        }
    }
}

/// By which a row is found again.
pub(crate) fn digest(row: &Row) -> String {
    digest_of(row, FORMAT)
}

fn digest_of(row: &Row, format: u32) -> String {
    let text = |text: &str| if format == EXACT { text.to_owned() } else { normalized(text) };
    let [text, pair] = [&row.text, row.pair.as_deref().unwrap_or_default()].map(text);
    // No text has a byte 0xff.
    let mut digest = nimbert::sha256(&[text.as_bytes(), pair.as_bytes()].join(&0xff));
    digest.truncate(DIGITS);
    digest
}

impl GoingOn {
    /// Whether there may be rows that it has learned from without saying so.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.learned.as_ref().is_none_or(|learned| learned.lacks_rows)
    }

    /// Leaves of the old rows those that are learned from again, of each of `labels` labels alike.
    pub(crate) fn sample(&self, rows: &mut Vec<Source>, wanted: usize, labels: usize, seed: u64) {
        if wanted >= rows.len() {
            return;
        }
        let classes = rarest_labels(rows.iter().map(|row| &row.target), labels);
        let left_out = 1.0 - wanted as f64 / rows.len() as f64;
        // What remains of a split has a row of each label, as few as it may be.
        let kept = stratified(&classes, left_out, 0, &mut generator(seed, Stream::Rehearsal)).rest;
        *rows = kept.into_iter().map(|index| rows[index].clone()).collect();
    }

    /// How many old rows there are to be beside so many new ones.
    pub(crate) fn wanted(&self, new_rows: usize) -> usize {
        (OLD_ROWS_A_NEW * new_rows).max(ROWS_OF_LABEL * self.labels.len())
    }
}

/// How many test rows of each data set are answered rightly before the model goes on, and as it is packed.
pub fn table(sources: &Sources, before: &[bool], after: &[bool]) -> Table {
    let row = |(index, dataset): (usize, &crate::dataset::Dataset)| {
        let rows = sources.test.iter().enumerate().filter(|(_, source)| source.dataset == index);
        let rows: Vec<usize> = rows.map(|(row, _)| row).collect();
        let right =
            |hits: &[bool]| percent(Some(rows.iter().filter(|row| hits[**row]).count() as f64 / rows.len() as f64));
        (!rows.is_empty()).then(|| vec![dataset.name(), rows.len().to_string(), right(before), right(after)])
    };
    let header = ["test rows of", "number", "before, fp32", "as packed"].map(str::to_owned).to_vec();
    Table { header, rows: sources.datasets.iter().enumerate().filter_map(row).collect(), chosen: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, pair: Option<&str>) -> Row {
        Row { pair: pair.map(str::to_owned), ..crate::dataset::tests::row(text, "a", 1) }
    }

    #[test]
    fn rows_are_found_again_by_both_of_their_texts() {
        let digests = [row("a", None), row("a", Some("b")), row("ab", None), row("a", Some("c"))];
        let different: BTreeSet<String> = digests.iter().map(digest).collect();
        assert_eq!((different.len(), different.first().map(String::len)), (4, Some(DIGITS)));
        assert_eq!(digest(&row("a", None)), digest(&Row { line: 7, ..row("a", None) }));
        assert_eq!(digest(&row("a b", None)), digest(&row(" A  b", None)));
    }

    #[test]
    fn old_rows_are_sampled_by_label() {
        let going_on =
            GoingOn { labels: vec!["a".into(), "b".into()], learned: None, rehearsal: vec![], rehearsal_rows: None };
        assert_eq!((going_on.wanted(3), going_on.wanted(100)), (32, 400));
        // 90 rows of the one, 9 of the other, and one of a third.
        let source =
            |row: usize| Source { dataset: 0, row, target: [if row < 90 { 0 } else { (row / 99) as u32 + 1 }].into() };
        let mut rows: Vec<Source> = (0..100).map(source).collect();
        going_on.sample(&mut rows, 20, 3, 0);
        let count = |label: u32| rows.iter().filter(|row| row.target.ids == [label]).count();
        assert_eq!([count(0), count(1), count(2)], [18, 2, 1]);
        let before = rows.clone();
        going_on.sample(&mut rows, 21, 3, 0);
        assert_eq!(rows, before);
    }

    /// As an earlier nimbert-train has written it.
    #[test]
    fn rows_of_the_first_format_are_known_by_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let written = r#"{"format": 1, "max_length": 128, "stride": null, "pairs": false,
            "learned": ["fb361c726d409c40"], "validated": []}"#;
        std::fs::write(folder.path().join(LEARNED), written).unwrap();
        let learned = Learned::open(folder.path()).unwrap().unwrap();
        assert_eq!(learned.role(&row("A film", None)), Role::Learned);
        assert_eq!(learned.role(&row("a film", None)), Role::Unseen);
        assert!(!learned.lacks_rows);
    }
}
