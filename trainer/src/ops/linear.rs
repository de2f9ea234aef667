//! Linear layer: y = x Wᵀ + b.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{
    elements,
    matmul::{Matrix, Threads, matmul},
    tensor, with_elements,
};

/// x `[rows, in]` times weight `[out, in]` (Hugging Face's and PyTorch's layout) transposed, plus bias `[out]`:
/// `[rows, out]`.
///
/// # Errors
/// If the shapes disagree or a tensor is not contiguous `f32` on the CPU.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.apply_op3(weight, bias, Linear)
}

struct Linear;

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
        let mut y = elements(bias, bias_layout)?.repeat(rows);
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
        with_elements([x, weight, grad], |[x_data, weight_data, grad]| {
            let dy = Matrix::new(grad, rows, outputs, outputs);
            let mut dx = vec![0.0; rows * inputs];
            let weight_matrix = Matrix::new(weight_data, outputs, inputs, inputs);
            matmul(dy, weight_matrix, 1.0, &mut dx, inputs, false, Threads::All);
            let mut dw = vec![0.0; outputs * inputs];
            let x_matrix = Matrix::new(x_data, rows, inputs, inputs);
            matmul(dy.t(), x_matrix, 1.0, &mut dw, inputs, false, Threads::All);
            let mut db = vec![0.0; outputs];
            for row in grad.chunks_exact(outputs) {
                db.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            Ok((Some(tensor(dx, x.shape())?), Some(tensor(dw, weight.shape())?), Some(tensor(db, bias.shape())?)))
        })
    }
}
