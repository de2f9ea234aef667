//! Rows whose labels were judged by others: all of them as a table, the doubtful ones on a page.

use nimbert_trainer::{dataset::Place, html::Mistake, label_errors::Judgement};

use super::quoted;

/// Rows that a page shows, at most.
const SHOWN: usize = 200;

/// A row, or what it says of one of several tasks.
pub(super) struct Doubt {
    at: Place,
    text: String,
    /// Names of the labels that the data has.
    given: String,
    /// Of those that others say.
    suggested: String,
    judgement: Judgement,
}

/// The least believed first, those of which nothing is known last.
pub(super) struct Doubts(Vec<Doubt>);

impl Doubt {
    /// `labels` are the names that `judgement` is of.
    pub(super) fn new(at: Place, text: String, given: &[&str], judgement: Judgement, labels: &[String]) -> Self {
        let suggested: Vec<&str> = judgement.suggested.iter().map(|&id| labels[id as usize].as_str()).collect();
        Self { at, text, given: given.join(", "), suggested: suggested.join(", "), judgement }
    }
}

impl Doubts {
    pub(super) fn new(mut rows: Vec<Doubt>) -> Self {
        rows.sort_by(|a, b| a.judgement.by_belief(&b.judgement));
        Self(rows)
    }

    /// All rows.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that are doubtful.
    pub(super) fn count(&self) -> usize {
        self.doubtful().count()
    }

    fn doubtful(&self) -> impl Iterator<Item = &Doubt> {
        self.0.iter().filter(|row| row.judgement.is_doubtful)
    }

    /// A table of all rows with a header.
    pub(super) fn csv(&self) -> String {
        let line = |row: &Doubt| {
            let cells = [&row.at.file, &row.given, &row.suggested, &row.text].map(|cell| quoted(cell));
            let [file, given, suggested, text] = cells;
            let doubtful = if row.judgement.is_doubtful { "yes" } else { "no" };
            let belief = row.judgement.belief.map_or(String::new(), |belief| format!("{belief:.6}"));
            format!("{file},{},{given},{suggested},{belief},{doubtful},{text}\n", row.at.line)
        };
        let header = "file,line,label,suggested,belief,doubtful,text\n".to_owned();
        std::iter::once(header).chain(self.0.iter().map(line)).collect()
    }

    /// The doubtful rows as a page shows them, and what it says if these are not all.
    pub(super) fn shown(&self) -> (Vec<Mistake>, Option<String>) {
        let mistake = |row: &Doubt| Mistake {
            place: row.at.to_string(),
            text: row.text.clone(),
            expected: row.given.clone(),
            predicted: row.suggested.clone(),
            score: row.judgement.belief.unwrap_or(f64::NAN),
        };
        let count = self.count();
        let cut = (count > SHOWN).then(|| format!("of {count} doubtful rows the first {SHOWN} are shown"));
        (self.doubtful().take(SHOWN).map(mistake).collect(), cut)
    }
}
