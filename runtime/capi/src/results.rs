//! `nimbert_results`: answers as plain data.

#![allow(unsafe_code, reason = "C reads answers through pointers")]

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::Arc,
};

use nimbert::{
    Prediction, Task,
    explain::{Explanation, Word},
};

use crate::{
    failure::{answer, answer_pointer, argument, c_string},
    handles::{self, Handle},
};

/// `nimbert_prediction`
#[repr(C)]
struct Answer {
    label: *const c_char,
    label_length: usize,
    label_id: usize,
    score: f32,
    abstained: bool,
    label_count: usize,
    scores: *const f32,
    logits: *const f32,
    ranking: *const usize,
    held: *const usize,
    held_count: usize,
    set: *const usize,
    set_count: usize,
    unknown: bool,
    distance: f32,
    task: *const c_char,
    next_task: *const Answer,
}

/// `nimbert_word`
#[repr(C)]
struct ExplainedWord {
    start: usize,
    end: usize,
    attribution: f64,
    is_of_pair: bool,
}

/// `nimbert_explanation`
#[repr(C)]
struct Explained {
    label_id: usize,
    value: f64,
    base_value: f64,
    words: *const ExplainedWord,
    word_count: usize,
    unread_count: usize,
    attribution: *const c_char,
}

type Arrays = ([Vec<f32>; 2], [Vec<usize>; 3]);

/// The names of a task and its labels.
pub(crate) struct Names {
    task: Option<CString>,
    pub(crate) labels: Vec<CString>,
}

impl Names {
    pub(crate) fn of(tasks: &[Task]) -> Arc<Vec<Self>> {
        let of_task = |task: &Task| Self {
            task: task.name.as_deref().map(c_string),
            labels: task.labels.iter().map(|label| c_string(label)).collect(),
        };
        Arc::new(tasks.iter().map(of_task).collect())
    }
}

/// The answers of one call, and what they point to.
pub(crate) struct Results {
    /// To all tasks for an input, before those for the next.
    answers: Vec<Answer>,
    tasks: usize,
    /// Of the one answer.
    explanation: Option<Explained>,
    _arrays: Vec<Arrays>,
    _words: Vec<ExplainedWord>,
    _attribution: Option<CString>,
    _names: Arc<Vec<Names>>,
}

// SAFETY: the pointers are to what the same value owns, and nothing of it is changed.
unsafe impl Send for Results {}
// SAFETY: as above.
unsafe impl Sync for Results {}

impl Results {
    pub(crate) fn new(predictions: Vec<Prediction>, names: &Arc<Vec<Names>>) -> Self {
        let by_task = predictions.into_iter().flat_map(|mut prediction| {
            let further = std::mem::take(&mut prediction.further);
            std::iter::once(prediction).chain(further).zip(names.iter())
        });
        Self::of(by_task, names.len(), names)
    }

    /// The answer to one task, and why.
    pub(crate) fn explained(explanation: Explanation, names: &Arc<Vec<Names>>) -> Self {
        let Explanation { prediction, task_id, label_id, value, base_value, words, unread, attribution, .. } =
            explanation;
        let word = |Word { range, is_of_pair, attribution, .. }: Word| ExplainedWord {
            start: range.start,
            end: range.end,
            attribution,
            is_of_pair,
        };
        let words: Vec<ExplainedWord> = words.into_iter().map(word).collect();
        let attribution = c_string(attribution.name());
        let explanation = Explained {
            label_id,
            value,
            base_value,
            words: words.as_ptr(),
            word_count: words.len(),
            unread_count: unread,
            attribution: attribution.as_ptr(),
        };
        let results = Self::of(std::iter::once((prediction, &names[task_id])), 1, names);
        Self { explanation: Some(explanation), _words: words, _attribution: Some(attribution), ..results }
    }

    /// Answers to so many tasks for each input, one after the other.
    fn of<'a>(by_task: impl Iterator<Item = (Prediction, &'a Names)>, tasks: usize, names: &Arc<Vec<Names>>) -> Self {
        let answer = |(prediction, Names { task, labels }): (Prediction, &Names)| {
            let (label_id, held, ranking) =
                (prediction.label_id(), prediction.label_ids().to_vec(), prediction.ranking());
            let set = prediction.set_ids().map(<[usize]>::to_vec);
            let (set_pointer, set) = (set.as_ref().map_or(ptr::null(), |set| set.as_ptr()), set.unwrap_or_default());
            let scores: Vec<f32> = prediction.scores.iter().map(|(_, score)| *score).collect();
            let answer = Answer {
                label: labels[label_id].as_ptr(),
                label_length: labels[label_id].count_bytes(),
                label_id,
                score: prediction.score,
                abstained: prediction.abstained,
                label_count: scores.len(),
                scores: scores.as_ptr(),
                logits: prediction.logits.as_ptr(),
                ranking: ranking.as_ptr(),
                held: held.as_ptr(),
                held_count: held.len(),
                set: set_pointer,
                set_count: set.len(),
                unknown: prediction.unknown,
                distance: prediction.distance.unwrap_or(f32::NAN),
                task: task.as_ref().map_or(ptr::null(), |task| task.as_ptr()),
                next_task: ptr::null(),
            };
            // What a vector holds stays where it is when the vector is moved.
            (answer, ([scores, prediction.logits], [ranking, held, set]))
        };
        let (mut answers, arrays): (Vec<Answer>, _) = by_task.map(answer).unzip();
        let first = answers.as_mut_ptr();
        for index in (1..answers.len()).filter(|index| index % tasks != 0) {
            // SAFETY: both are places of the vector, to which nothing is added any more.
            unsafe { (*first.add(index - 1)).next_task = first.add(index) };
        }
        Self {
            answers,
            tasks,
            explanation: None,
            _arrays: arrays,
            _words: Vec::new(),
            _attribution: None,
            _names: Arc::clone(names),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_results_get(results: Handle, index: usize) -> *const Answer {
    answer_pointer(|| {
        let results = handles::get::<Results>(results)?;
        let Results { answers, tasks, .. } = &*results;
        let outside = || argument(format!("expected an index below {}, found {index}", answers.len() / tasks));
        let first = index.checked_mul(*tasks).and_then(|first| answers.get(first));
        first.map(ptr::from_ref).ok_or_else(outside)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_results_explanation(results: Handle) -> *const Explained {
    answer_pointer(|| {
        let results = handles::get::<Results>(results)?;
        let none = || argument("expected results of nimbert_explain, found those of another function");
        results.explanation.as_ref().map(ptr::from_ref).ok_or_else(none)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_results_free(results: Handle) -> i32 {
    answer(|| handles::remove::<Results>(results).map(drop))
}
