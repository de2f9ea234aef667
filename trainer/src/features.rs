//! What an encoder says of each text: computed once, and then whatever is learned from it takes no time.

use candle_core::{DType, Device, Tensor};

use crate::{
    dataloader::{Example, PackedBatch},
    error::Result,
    model::SequenceClassifier,
};

/// A vector for each text: what the model's head reads of it, divided by its length. Of a text in several windows it is the
/// mean of theirs, and so shorter than 1: logits which a linear layer makes of it are the mean of the windows' logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// `[rows, width]`
    pub values: Vec<f32>,
    /// Numbers a text.
    pub width: usize,
}

/// Texts that are encoded at once.
const BATCH: usize = 32;

impl Features {
    /// Those of `examples`, in order. `on_read` is told how many texts have been read since the last time; an error of its own
    /// ends the work.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_read`.
    pub fn of(
        model: &SequenceClassifier,
        examples: &[Example],
        mut on_read: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let model = model.for_inference();
        let width = model.config.hidden_size;
        let mut values = Vec::with_capacity(examples.len() * width);
        for examples in examples.chunks(BATCH) {
            let windows: Vec<_> = examples.iter().flat_map(|example| &example.windows).collect();
            let mut vectors = Vec::with_capacity(windows.len());
            for windows in windows.chunks(BATCH) {
                let batch = PackedBatch::new(windows.iter().copied());
                let pooled = model.pooled(&model.encode(&batch, false, None)?, &batch)?;
                vectors.extend(pooled.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?);
            }
            let mut vectors = vectors.into_iter();
            for example in examples {
                let mut sum = vec![0.0; width];
                for vector in vectors.by_ref().take(example.windows.len()) {
                    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                    let share = 1.0 / (length * example.windows.len() as f32);
                    sum.iter_mut().zip(&vector).for_each(|(sum, x)| *sum += x * share);
                }
                values.extend(sum);
            }
            on_read(examples.len())?;
        }
        Ok(Self { values, width })
    }

    /// The number of texts.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// The vector of a text.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// Some of the texts.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|&row| self.row(row)).copied().collect();
        Self { values, width: self.width }
    }

    pub(crate) fn tensor(&self) -> Result<Tensor> {
        let tensor = Tensor::from_slice(&self.values, (self.rows(), self.width), &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F64)?)
    }
}
