//! Linear layer: y = x Wᵀ + b.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, TensorId, bail};
use rayon::prelude::*;

use super::{
    composed, elements, is_fused,
    matmul::{Matrix, Threads, matmul},
    tensor, with_elements,
};

/// Where linear layers leave the gradients of their weights and biases.
///
/// candle's own store would add each to a tensor of zeros: two more allocations and passes over all of the model's
/// matrices in every step.
#[derive(Debug, Clone, Default)]
pub struct GradientSink(Arc<Mutex<HashMap<TensorId, Tensor>>>);

impl GradientSink {
    /// Forgets what a backward pass before has left.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes the gradient of `parameter` out.
    pub(crate) fn take(&self, parameter: &Tensor) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&parameter.id())
    }

    fn add(&self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        let mut gradients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = match gradients.remove(&parameter.id()) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        gradients.insert(parameter.id(), sum);
        Ok(())
    }
}

/// x `[rows, in]` times weight `[out, in]` (Hugging Face's and PyTorch's layout) transposed, plus bias `[out]`:
/// `[rows, out]`. With a sink, the fused form leaves the gradients of weight and bias there instead of in candle's store.
///
/// # Errors
/// If the shapes disagree, or a tensor is not contiguous.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, sink: Option<&GradientSink>) -> Result<Tensor> {
    match is_fused(x) {
        true => x.apply_op3(weight, bias, Linear { sink: sink.cloned() }),
        false => composed::linear(x, weight, bias),
    }
}

struct Linear {
    sink: Option<GradientSink>,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, weight_inputs) = weight_layout.shape().dims2()?;
        if weight_inputs != inputs || bias_layout.shape().dims1()? != outputs {
            let (weight, bias) = (weight_layout.shape(), bias_layout.shape());
            bail!("linear: x {:?}, weight {weight:?} and bias {bias:?} do not fit", x_layout.shape());
        }
        let (x, weight) = (elements(x, x_layout)?, elements(weight, weight_layout)?);
        let bias = elements(bias, bias_layout)?;
        let mut y = vec![0.0; rows * outputs];
        y.par_chunks_exact_mut(outputs).with_min_len(16).for_each(|row| row.copy_from_slice(bias));
        let (x, weight) = (Matrix::new(x, rows, inputs, inputs), Matrix::new(weight, outputs, inputs, inputs));
        matmul(x, weight.t(), 1.0, &mut y, outputs, true, Threads::All);
        Ok((CpuStorage::F32(y), Shape::from((rows, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs) = x.dims2()?;
        let outputs = bias.elem_count();
        let (dx, dw, db) = with_elements([x, weight, grad], |[x_data, weight_data, grad]| {
            let dy = Matrix::new(grad, rows, outputs, outputs);
            let mut dx = vec![0.0; rows * inputs];
            let weight_matrix = Matrix::new(weight_data, outputs, inputs, inputs);
            matmul(dy, weight_matrix, 1.0, &mut dx, inputs, false, Threads::All);
            let mut dw = vec![0.0; outputs * inputs];
            let x_matrix = Matrix::new(x_data, rows, inputs, inputs);
            matmul(dy.t(), x_matrix, 1.0, &mut dw, inputs, false, Threads::All);
            Ok((tensor(dx, x.shape())?, tensor(dw, weight.shape())?, tensor(sum_rows(grad, outputs), bias.shape())?))
        })?;
        match &self.sink {
            None => Ok((Some(dx), Some(dw), Some(db))),
            Some(sink) => {
                sink.add(weight, dw)?;
                sink.add(bias, db)?;
                Ok((Some(dx), None, None))
            }
        }
    }
}

/// The sum of all rows of a row-major matrix.
fn sum_rows(data: &[f32], columns: usize) -> Vec<f32> {
    /// Rows that one task adds up. Fixed, so that the order of the sum is.
    const TASK_ROWS: usize = 128;
    let sum = |rows: &[f32]| {
        let mut sum = vec![0.0; columns];
        for row in rows.chunks_exact(columns) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sum
    };
    let sums: Vec<Vec<f32>> = data.par_chunks(TASK_ROWS * columns).map(sum).collect();
    sum(&sums.concat())
}
