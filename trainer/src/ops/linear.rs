//! Linear layer: y = x Wᵀ + b.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, TensorId, bail};
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

    pub(super) fn add(&self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        let mut gradients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = match gradients.remove(&parameter.id()) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        gradients.insert(parameter.id(), sum);
        Ok(())
    }
}

/// x `[rows, in]` times weight `[out, in]` (Hugging Face's and PyTorch's layout) transposed, plus bias `[out]` where there is
/// one: `[rows, out]`. With a sink, the fused form leaves the gradients of weight and bias there instead of in candle's store.
///
/// # Errors
/// If the shapes disagree, or a tensor is not contiguous.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, sink: Option<&GradientSink>) -> Result<Tensor> {
    let fused = || Linear { sink: sink.cloned() };
    match (is_fused(x), bias) {
        (true, Some(bias)) => x.apply_op3(weight, bias, fused()),
        (true, None) => x.apply_op2(weight, fused()),
        (false, _) => composed::linear(x, weight, bias),
    }
}

struct Linear {
    sink: Option<GradientSink>,
}

impl Linear {
    fn product(
        [x, weight]: [&CpuStorage; 2],
        [x_layout, weight_layout]: [&Layout; 2],
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, weight_inputs) = weight_layout.shape().dims2()?;
        if weight_inputs != inputs || bias.is_some_and(|bias| bias.len() != outputs) {
            let (x, weight, bias) = (x_layout.shape(), weight_layout.shape(), bias.map(<[f32]>::len));
            bail!("linear: x {x:?}, weight {weight:?} and bias {bias:?} do not fit");
        }
        let (x, weight) = (elements(x, x_layout)?, elements(weight, weight_layout)?);
        let mut y = vec![0.0; rows * outputs];
        if let Some(bias) = bias {
            y.par_chunks_exact_mut(outputs).with_min_len(16).for_each(|row| row.copy_from_slice(bias));
        }
        let (x, weight) = (Matrix::new(x, rows, inputs, inputs), Matrix::new(weight, outputs, inputs, inputs));
        matmul(x, weight.t(), 1.0, &mut y, outputs, bias.is_some(), Threads::All);
        Ok((CpuStorage::F32(y), Shape::from((rows, outputs))))
    }

    /// The gradients of x, weight and bias; those of parameters go to the sink, if there is one.
    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (rows, inputs) = x.dims2()?;
        let outputs = weight.dim(0)?;
        let (dx, dw, db) = with_elements([x, weight, grad], |[x_data, weight_data, grad]| {
            let dy = Matrix::new(grad, rows, outputs, outputs);
            let mut dx = vec![0.0; rows * inputs];
            let weight_matrix = Matrix::new(weight_data, outputs, inputs, inputs);
            matmul(dy, weight_matrix, 1.0, &mut dx, inputs, false, Threads::All);
            let mut dw = vec![0.0; outputs * inputs];
            let x_matrix = Matrix::new(x_data, rows, inputs, inputs);
            matmul(dy.t(), x_matrix, 1.0, &mut dw, inputs, false, Threads::All);
            let db = bias.map(|bias| tensor(sum_rows(grad, outputs), bias.shape())).transpose()?;
            Ok((tensor(dx, x.shape())?, tensor(dw, weight.shape())?, db))
        })?;
        let Some(sink) = &self.sink else { return Ok([Some(dx), Some(dw), db]) };
        sink.add(weight, dw)?;
        if let Some((bias, db)) = bias.zip(db) {
            sink.add(bias, db)?;
        }
        Ok([Some(dx), None, None])
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::product([x, weight], [x_layout, weight_layout], None)
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = self.gradients(x, weight, None, grad)?;
        Ok((dx, dw))
    }
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
        Self::product([x, weight], [x_layout, weight_layout], Some(elements(bias, bias_layout)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = self.gradients(x, weight, Some(bias), grad)?;
        Ok((dx, dw, db))
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
