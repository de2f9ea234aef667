//! Which rows are shown, in which order. A hundred thousand rows take tens of milliseconds: too long for the thread
//! of the window, so another one does it.

use std::{
    cmp::Ordering,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
};

use crate::{
    Notify,
    source::Texts,
    table::{Answer, Corrections, Table},
};

/// Columns by which rows are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// As they stand in the file.
    #[default]
    Row,
    /// By the labels' names; rows without one come last.
    Label,
    /// By score; the unsure come first, rows without one last.
    Score,
    /// By text.
    Text,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only rows whose text holds this, in whatever case.
    pub text: String,
    /// Only rows of this label.
    pub label: Option<u32>,
    /// Only rows that were corrected.
    pub only_corrected: bool,
    /// The order.
    pub sort: Sort,
    /// Whether it is turned round.
    pub is_descending: bool,
}

impl Query {
    /// Whether what it finds changes when rows get labels of the model.
    pub fn depends_on_labels(&self) -> bool {
        self.label.is_some() || matches!(self.sort, Sort::Label | Sort::Score)
    }
}

/// A query and what it is asked of: a copy of all but the texts, a megabyte for a hundred thousand rows.
struct Request {
    query: Query,
    labels: Vec<String>,
    texts: Texts,
    answers: Vec<Option<Answer>>,
    corrections: Corrections,
}

/// The thread that finds rows.
pub struct Viewer {
    requests: Sender<Request>,
    found: Receiver<(Query, Vec<u32>)>,
}

impl Viewer {
    /// Starts it. It ends when this is dropped.
    pub fn start(notify: Notify) -> Self {
        let (requests, asked) = channel();
        let (send, found) = channel();
        std::thread::spawn(move || {
            while let Ok(mut request) = asked.recv() {
                // Only the newest question is of interest.
                while let Ok(newer) = asked.try_recv() {
                    request = newer;
                }
                let rows = find(&request);
                if send.send((request.query, rows)).is_err() {
                    return;
                }
                notify();
            }
        });
        Self { requests, found }
    }

    /// Asks for the rows of the table's query.
    pub fn ask(&self, table: &Table) {
        let request = Request {
            query: table.query.clone(),
            labels: table.labels.clone(),
            texts: table.texts.clone(),
            answers: table.answers.clone(),
            corrections: table.corrections.clone(),
        };
        // It ends only after us.
        let _ = self.requests.send(request);
    }

    /// The rows that were found last, if they are those of `query`.
    pub fn poll(&self, query: &Query) -> Option<Vec<u32>> {
        let mut found = None;
        loop {
            match self.found.try_recv() {
                Ok((asked, rows)) if asked == *query => found = Some(rows),
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return found,
            }
        }
    }
}

fn find(Request { query, labels, texts, answers, corrections }: &Request) -> Vec<u32> {
    let needle = query.text.to_lowercase();
    let text = |row: u32| texts[row as usize].as_ref().map_or_else(String::as_str, String::as_str);
    let label = |row: u32| corrections.get(&row).copied().or(answers[row as usize].map(|answer| answer.label));
    let score = |row: u32| answers[row as usize].map(|answer| answer.score);
    let is_wanted = |&row: &u32| {
        (!query.only_corrected || corrections.contains_key(&row))
            && (query.label.is_none() || label(row) == query.label)
            && (needle.is_empty() || text(row).to_lowercase().contains(&needle))
    };
    let mut rows: Vec<u32> = (0..texts.len() as u32).filter(is_wanted).collect();
    let direction = |order: Ordering| if query.is_descending { order.reverse() } else { order };
    // Those without a value come last, whichever way the others are sorted. The sort is stable.
    match query.sort {
        Sort::Row if query.is_descending => rows.reverse(),
        Sort::Row => {}
        Sort::Label => {
            let name = |row| label(row).map(|label| labels[label as usize].as_str());
            rows.sort_by(|&a, &b| known_first(name(a), name(b), |a, b| direction(a.cmp(b))));
        }
        Sort::Score => rows.sort_by(|&a, &b| known_first(score(a), score(b), |a, b| direction(a.total_cmp(&b)))),
        Sort::Text => rows.sort_by(|&a, &b| direction(text(a).cmp(text(b)))),
    }
    rows
}

fn known_first<T>(a: Option<T>, b: Option<T>, compare: impl FnOnce(T, T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => compare(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four rows: the third is not labelled, the fourth is corrected.
    fn found(query: Query) -> Vec<u32> {
        let answer = |label, score| Some(Answer { label, score, abstained: false, unknown: false });
        find(&Request {
            query,
            labels: ["negative", "positive"].map(String::from).into(),
            texts: ["Dull", "great", "long", "dull again"].map(|text| Ok(text.to_owned())).into(),
            answers: vec![answer(0, 0.9), answer(1, 0.6), None, answer(1, 0.7)],
            corrections: Corrections::from([(3, 0)]),
        })
    }

    #[test]
    fn text_is_found_in_either_case() {
        assert_eq!(found(Query { text: "dull".to_owned(), ..Query::default() }), [0, 3]);
    }

    #[test]
    fn a_corrected_row_is_found_by_its_correction() {
        assert_eq!(found(Query { label: Some(0), ..Query::default() }), [0, 3]);
        assert_eq!(found(Query { label: Some(1), ..Query::default() }), [1]);
        assert_eq!(found(Query { only_corrected: true, ..Query::default() }), [3]);
    }

    #[test]
    fn rows_without_a_score_come_last_either_way() {
        assert_eq!(found(Query { sort: Sort::Score, ..Query::default() }), [1, 3, 0, 2]);
        assert_eq!(found(Query { sort: Sort::Score, is_descending: true, ..Query::default() }), [0, 3, 1, 2]);
    }

    #[test]
    fn labels_are_sorted_by_name_and_rows_stay_in_order_within_one() {
        assert_eq!(found(Query { sort: Sort::Label, ..Query::default() }), [0, 3, 1, 2]);
        assert_eq!(found(Query { is_descending: true, ..Query::default() }), [3, 2, 1, 0]);
    }
}
