//! Predictions of a model as it was trained (by candle) and of a graph as it is shipped (by ONNX Runtime).

use nimbert::{
    Batch, Encoding, Session,
    batch::length_sorted,
    prediction::{Answer, mean_logits},
};

use crate::{dataloader::PackedBatch, error::Result, model::SequenceClassifier};

/// Logits of each text, in order, without dropout; of a text in several windows, the mean of theirs.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn predict<'a>(
    model: &SequenceClassifier,
    texts: impl IntoIterator<Item = &'a [Encoding]> + Clone,
    batch_size: usize,
) -> Result<Vec<Vec<f32>>> {
    let windows: Vec<&Encoding> = texts.clone().into_iter().flatten().collect();
    let mut logits = Vec::with_capacity(windows.len());
    let model = model.for_inference();
    for batch in windows.chunks(batch_size) {
        let output = model.forward(&PackedBatch::new(batch.iter().copied()), None)?;
        logits.extend(output.logits.to_vec2::<f32>()?);
    }
    Ok(average(texts, logits))
}

/// What a graph answers to each text, in order, through the runtime's own batching.
///
/// # Errors
/// [`crate::Error::Runtime`].
pub fn answer<'a>(
    session: &mut Session,
    texts: impl IntoIterator<Item = &'a [Encoding]> + Clone,
    pad_token_id: u32,
    batch_size: usize,
) -> Result<Vec<Answer>> {
    let windows: Vec<&Encoding> = texts.clone().into_iter().flatten().collect();
    let mut answers = in_batches(&windows, pad_token_id, batch_size, |batch| Ok(session.answers(batch)?))?.into_iter();
    Ok(texts.into_iter().map(|text| Answer::mean(answers.by_ref().take(text.len()))).collect())
}

/// What `run` gives for each window of batches of like lengths, in the order of `windows`.
pub(crate) fn in_batches<T>(
    windows: &[&Encoding],
    pad_token_id: u32,
    batch_size: usize,
    mut run: impl FnMut(&Batch) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let lengths: Vec<usize> = windows.iter().map(|window| window.input_ids.len()).collect();
    let mut results: Vec<Option<T>> = windows.iter().map(|_| None).collect();
    for indices in length_sorted(&lengths, batch_size) {
        let batch = Batch::pad(indices.iter().map(|&index| windows[index]), pad_token_id);
        for (index, result) in indices.into_iter().zip(run(&batch)?) {
            results[index] = Some(result);
        }
    }
    Ok(results.into_iter().map(|result| result.expect("every window is in a batch")).collect())
}

/// The logits of [`answer`], of all tasks.
///
/// # Errors
/// [`crate::Error::Runtime`].
pub fn predict_session<'a>(
    session: &mut Session,
    texts: impl IntoIterator<Item = &'a [Encoding]> + Clone,
    pad_token_id: u32,
    batch_size: usize,
) -> Result<Vec<Vec<f32>>> {
    let answers = answer(session, texts, pad_token_id, batch_size)?;
    Ok(answers.into_iter().map(Answer::all_logits).collect())
}

/// Each text's logits from those of all windows.
fn average<'a>(texts: impl IntoIterator<Item = &'a [Encoding]>, windows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let mut windows = windows.into_iter();
    texts.into_iter().map(|text| mean_logits(windows.by_ref().take(text.len()))).collect()
}
