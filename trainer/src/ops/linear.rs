//! Linear layer: y = x Wᵀ + b.

use std::{borrow::Cow, ops::Range};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Activation, bf16, composed, elements, is_fused,
    matmul::{Matrix, product},
    tape::{GradientSink, Tape, apply2, apply3},
    tensor, with_elements,
};

/// x `[rows, in]` times weight `[out, in]` (Hugging Face's and PyTorch's layout) transposed, plus bias `[out]` where there is
/// one: `[rows, out]`.
///
/// # Errors
/// If the shapes disagree, or a tensor is not contiguous.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, tape: Option<&Tape>) -> Result<Tensor> {
    linear_of_rows(x, weight, bias, 0..weight.dim(0)?, tape)
}

/// The same by some rows of weight and bias, where several layers lie in one: `[rows, some]`.
///
/// # Errors
/// Those of [`linear()`].
pub fn linear_of_rows(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rows: Range<usize>,
    tape: Option<&Tape>,
) -> Result<Tensor> {
    apply(x, weight, bias, Linear { function: None, rows, sink: tape.map(Tape::sink) }, tape)
}

/// The same of the activation of x, which is computed again for the gradients instead of being kept.
///
/// # Errors
/// Those of [`linear()`].
pub fn linear_of_activated(
    x: &Tensor,
    function: Activation,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rows: Range<usize>,
    tape: Option<&Tape>,
) -> Result<Tensor> {
    apply(x, weight, bias, Linear { function: Some(function), rows, sink: tape.map(Tape::sink) }, tape)
}

fn apply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, linear: Linear, tape: Option<&Tape>) -> Result<Tensor> {
    let rows = linear.rows.clone();
    if rows.end > weight.dim(0)? {
        bail!("linear: weight {:?} has no rows {rows:?}", weight.shape());
    }
    if !is_fused(x) {
        let x = linear.function.map_or_else(|| Ok(x.clone()), |function| composed::activation(x, function))?;
        let part = |parameter: &Tensor| parameter.narrow(0, rows.start, rows.len());
        return composed::linear(&x, &part(weight)?, bias.map(part).transpose()?.as_ref());
    }
    match bias {
        Some(bias) => apply3(tape, [x, weight, bias], linear),
        None => apply2(tape, [x, weight], linear),
    }
}

struct Linear {
    /// What the layer reads of x; none: x.
    function: Option<Activation>,
    /// Of weight and bias.
    rows: Range<usize>,
    /// Where the gradients of these rows go; none: to candle's store, with zeros for all others.
    sink: Option<GradientSink>,
}

impl Linear {
    /// `a b`, plus the bias in each row, in the format that the tape asks for.
    fn multiply(&self, a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        match &self.sink {
            Some(sink) if sink.rounds_products() => bf16::product(a, b, bias),
            _ => product(a, b, bias),
        }
    }

    /// What the layer reads.
    fn activated<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        self.function.map_or(Cow::Borrowed(x), |function| function.forward(x).into())
    }

    fn product(
        &self,
        [x, weight]: [&CpuStorage; 2],
        [x_layout, weight_layout]: [&Layout; 2],
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (all_outputs, weight_inputs) = weight_layout.shape().dims2()?;
        if weight_inputs != inputs || bias.is_some_and(|bias| bias.len() != all_outputs) {
            let (x, weight, bias) = (x_layout.shape(), weight_layout.shape(), bias.map(<[f32]>::len));
            bail!("linear: x {x:?}, weight {weight:?} and bias {bias:?} do not fit");
        }
        let outputs = self.rows.len();
        let (x, weight) = (elements(x, x_layout)?, &elements(weight, weight_layout)?[self.rows.start * inputs..]);
        let x = self.activated(x);
        let (x, weight) = (Matrix::new(&x, rows, inputs, inputs), Matrix::new(weight, outputs, inputs, inputs));
        let y = self.multiply(x, weight.t(), bias.map(|bias| &bias[self.rows.clone()]));
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
        let outputs = self.rows.len();
        let (dx, dw, db) = with_elements([x, weight, grad], |[x_data, weight_data, grad]| {
            let dy = Matrix::new(grad, rows, outputs, outputs);
            let weight_matrix = Matrix::new(&weight_data[self.rows.start * inputs..], outputs, inputs, inputs);
            let mut dx = self.multiply(dy, weight_matrix, None);
            if let Some(function) = self.function {
                function.multiply_by_derivative(&mut dx, x_data);
            }
            let activated = self.activated(x_data);
            let x_matrix = Matrix::new(&activated, rows, inputs, inputs);
            let dw = self.multiply(dy.t(), x_matrix, None);
            let db = bias.map(|_| tensor(sum_rows(grad, outputs), &outputs.into())).transpose()?;
            Ok((tensor(dx, x.shape())?, tensor(dw, &(outputs, inputs).into())?, db))
        })?;
        match &self.sink {
            Some(sink) => {
                sink.add(weight, self.rows.start, dw)?;
                if let Some((bias, db)) = bias.zip(db) {
                    sink.add(bias, self.rows.start, db)?;
                }
                Ok([Some(dx), None, None])
            }
            None => {
                let all = |gradient: Tensor| {
                    let (before, behind) = (self.rows.start, weight.dim(0)? - self.rows.end);
                    gradient.pad_with_zeros(0, before, behind)
                };
                Ok([Some(dx), Some(all(dw)?), db.map(all).transpose()?])
            }
        }
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
        self.product([x, weight], [x_layout, weight_layout], None)
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
        self.product([x, weight], [x_layout, weight_layout], Some(elements(bias, bias_layout)?))
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
