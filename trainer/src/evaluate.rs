//! Predictions of a model as it was trained (by candle) and of a graph as it is shipped (by ONNX Runtime).

use nimbert::{Batch, Encoding, Session, batch::length_sorted};

use crate::{dataloader::PackedBatch, error::Result, model::SequenceClassifier};

/// Logits of each text, in order, without dropout.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn predict<'a>(
    model: &SequenceClassifier,
    encodings: impl IntoIterator<Item = &'a Encoding>,
    batch_size: usize,
) -> Result<Vec<Vec<f32>>> {
    let encodings: Vec<&Encoding> = encodings.into_iter().collect();
    let mut logits = Vec::with_capacity(encodings.len());
    for batch in encodings.chunks(batch_size) {
        let output = model.forward(&PackedBatch::new(batch.iter().copied()), None)?;
        logits.extend(output.logits.to_vec2::<f32>()?);
    }
    Ok(logits)
}

/// Logits of each text from a graph, in order, through the runtime's own batching.
///
/// # Errors
/// [`crate::Error::Runtime`].
pub fn predict_session(
    session: &mut Session,
    encodings: &[&Encoding],
    pad_token_id: u32,
    batch_size: usize,
) -> Result<Vec<Vec<f32>>> {
    let lengths: Vec<usize> = encodings.iter().map(|encoding| encoding.input_ids.len()).collect();
    let mut logits = vec![Vec::new(); encodings.len()];
    for indices in length_sorted(&lengths, batch_size) {
        let batch = Batch::pad(indices.iter().map(|&index| encodings[index]), pad_token_id);
        let flat = session.run(&batch)?;
        for (&index, row) in indices.iter().zip(flat.chunks_exact(flat.len() / indices.len())) {
            logits[index] = row.to_vec();
        }
    }
    Ok(logits)
}
