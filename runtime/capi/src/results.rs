//! `nimbert_results`: answers as plain data.

#![allow(unsafe_code, reason = "C reads answers through pointers")]

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::Arc,
};

use nimbert::Prediction;

use crate::{
    failure::{answer, answer_pointer, argument},
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
}

type Arrays = ([Vec<f32>; 2], [Vec<usize>; 3]);

/// The answers of one call, and what they point to.
pub(crate) struct Results {
    answers: Vec<Answer>,
    _arrays: Vec<Arrays>,
    _labels: Arc<Vec<CString>>,
}

// SAFETY: the pointers are to what the same value owns, and nothing of it is changed.
unsafe impl Send for Results {}
// SAFETY: as above.
unsafe impl Sync for Results {}

impl Results {
    pub(crate) fn new(predictions: Vec<Prediction>, labels: &Arc<Vec<CString>>) -> Self {
        let answer = |prediction: Prediction| {
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
            };
            // What a vector holds stays where it is when the vector is moved.
            (answer, ([scores, prediction.logits], [ranking, held, set]))
        };
        let (answers, arrays) = predictions.into_iter().map(answer).unzip();
        Self { answers, _arrays: arrays, _labels: Arc::clone(labels) }
    }
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_results_get(results: Handle, index: usize) -> *const Answer {
    answer_pointer(|| {
        let answers = &handles::get::<Results>(results)?.answers;
        let outside = || argument(format!("expected an index below {}, found {index}", answers.len()));
        answers.get(index).map(ptr::from_ref).ok_or_else(outside)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_results_free(results: Handle) -> i32 {
    answer(|| handles::remove::<Results>(results).map(drop))
}
