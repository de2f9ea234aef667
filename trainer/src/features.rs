//! What an encoder says of each text: computed once, and then whatever is learned from it takes no time.

use candle_core::{DType, Device, Tensor};

use crate::{
    dataloader::{Example, PackedBatch},
    error::Result,
    model::SequenceClassifier,
};

/// A vector for each text: what the model's head reads of it, divided by its length, or what its last layer does. Of a text in
/// several windows it is the mean of theirs: logits which a linear layer makes of it are the mean of the windows' logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// `[rows, width]`
    pub values: Vec<f32>,
    /// Numbers a text.
    pub width: usize,
}

/// What is read of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// What the head does, divided by its length.
    Direction,
    /// What the head's last layer does, divided by the root of its width: [`SequenceClassifier::set_last_layer`] takes a layer that
    /// reads it. Of a head of one layer it is the same.
    LastLayer,
}

/// Rows whose products with all others are computed at once.
pub(crate) const BLOCK: usize = 512;
/// Texts that are encoded at once.
const BATCH: usize = 32;

impl Features {
    /// The directions of `examples`, in order. `on_read` is told how many texts have been read since the last time; an error of its own
    /// ends the work.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_read`.
    pub fn of(
        model: &SequenceClassifier,
        examples: &[Example],
        on_read: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        Self::read(model, examples, Read::Direction, on_read)
    }

    /// What is read of `examples`, in order.
    ///
    /// # Errors
    /// Those of [`Features::of`].
    pub fn read(
        model: &SequenceClassifier,
        examples: &[Example],
        read: Read,
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
                let of_windows = match read {
                    Read::Direction => pooled,
                    Read::LastLayer => (model.last_layer_input(&pooled)? / (width as f64).sqrt())?,
                };
                let of_windows = of_windows.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
                vectors.extend(of_windows.into_iter().map(|vector| match read {
                    Read::Direction => unit(vector),
                    Read::LastLayer => vector,
                }));
            }
            let mut vectors = vectors.into_iter();
            for example in examples {
                let count = example.windows.len();
                values.extend(mean(vectors.by_ref().take(count), width, count));
            }
            on_read(examples.len())?;
        }
        Ok(Self { values, width })
    }

    /// The directions of texts of which so many windows are, one after the other, in `vectors`.
    pub(crate) fn of_windows(vectors: Vec<Vec<f32>>, counts: impl IntoIterator<Item = usize>, width: usize) -> Self {
        let mut vectors = vectors.into_iter().map(unit);
        let of_text = |count| mean(vectors.by_ref().take(count), width, count);
        Self { values: counts.into_iter().flat_map(of_text).collect(), width }
    }

    /// The number of texts.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// The same vectors, each of length 1.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let vectors = self.values.chunks_exact(self.width);
        let values = vectors.flat_map(|vector| unit(vector.to_vec())).collect();
        Self { values, width: self.width }
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

    /// `f32 [rows, width]`
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.values, (self.rows(), self.width), &Device::Cpu)?)
    }
}

/// A vector, divided by its length.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    let share = 1.0 / length;
    vector.iter_mut().for_each(|x| *x *= share);
    vector
}

/// The mean of a text's windows, of which there are `count`.
fn mean(windows: impl Iterator<Item = Vec<f32>>, width: usize, count: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    let share = 1.0 / count as f32;
    windows.for_each(|vector| sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x * share));
    sum
}

/// Tells `take` of each row of `vectors` its products with all rows of `others`, both `f32 [rows, width]`; `on_block` is told of each
/// [`BLOCK`] of them before, and an error of its own ends the work.
pub(crate) fn products(
    vectors: &Tensor,
    others: &Tensor,
    mut on_block: impl FnMut() -> Result<()>,
    mut take: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let (rows, others) = (vectors.dim(0)?, others.t()?);
    for start in (0..rows).step_by(BLOCK) {
        on_block()?;
        let block = vectors.narrow(0, start, BLOCK.min(rows - start))?.matmul(&others)?.to_vec2::<f32>()?;
        (start..).zip(&block).for_each(|(row, products)| take(row, products));
    }
    Ok(())
}
