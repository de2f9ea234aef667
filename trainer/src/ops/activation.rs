//! Activation functions, element by element.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use nimbert::math::{exp, vectorized};
use rayon::prelude::*;

use super::{
    TASK_ELEMENTS, composed, elements, is_fused,
    math::normal_distribution,
    parts::{by_parts, changed},
    tape::{Tape, apply1},
    tensor, with_elements,
};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x Φ(x), Φ being the standard normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// Its approximation ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), from the same paper.
    GeluTanh,
    /// max(x, 0)
    Relu,
    /// tanh(x)
    Tanh,
}

impl Activation {
    /// The names that a `config.json` may have for the first three.
    pub const NAMES: [&str; 5] = ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu"];

    /// The activation of that name in a `config.json`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// The function's value at x.
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::Gelu => x * normal_distribution(x).0,
            Self::GeluTanh => x * sigmoid(2.0 * gelu_tanh_argument(x)),
            // What is not a number stays so.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Tanh => 2.0 * sigmoid(2.0 * x) - 1.0,
        }
    }

    /// The function's derivative at x.
    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        match self {
            Self::Gelu => {
                let (probability, density) = normal_distribution(x);
                x.mul_add(density, probability)
            }
            Self::GeluTanh => {
                // x s(u) with u = 2 √(2/π) (x + 0.044715 x³); s' = s (1 - s).
                let s = sigmoid(2.0 * gelu_tanh_argument(x));
                let slope = 2.0 * ROOT_TWO_OVER_PI * (3.0 * GELU_CUBIC * x).mul_add(x, 1.0);
                s + x * s * (1.0 - s) * slope
            }
            Self::Relu => f32::from(u8::from(x > 0.0)),
            Self::Tanh => {
                let y = self.value(x);
                1.0 - y * y
            }
        }
    }
}

/// √(2/π)
pub(crate) const ROOT_TWO_OVER_PI: f32 = 0.797_884_6;
/// The factor of the cubic term.
pub(crate) const GELU_CUBIC: f32 = 0.044_715;

/// √(2/π) (x + 0.044715 x³)
#[inline(always)]
fn gelu_tanh_argument(x: f32) -> f32 {
    ROOT_TWO_OVER_PI * x * (GELU_CUBIC * x).mul_add(x, 1.0)
}

/// 1 / (1 + e^-x); tanh(x) = 2 sigmoid(2 x) - 1.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The activation of each element.
///
/// # Errors
/// If `x` is not contiguous.
pub fn activation(x: &Tensor, activation: Activation, tape: Option<&Tape>) -> Result<Tensor> {
    match is_fused(x) {
        true => apply1(tape, x, activation),
        false => composed::activation(x, activation),
    }
}

/// The activation of the first half of each row, times the second half (Shazeer, arXiv 2002.05202): x `[rows, 2 n]` →
/// `[rows, n]`.
///
/// # Errors
/// If a row has no halves, or `x` is not contiguous.
pub fn gated_activation(x: &Tensor, activation: Activation, tape: Option<&Tape>) -> Result<Tensor> {
    if !x.dim(1)?.is_multiple_of(2) {
        bail!("gated-activation: x {:?} has no halves", x.shape());
    }
    match is_fused(x) {
        true => apply1(tape, x, Gated(activation)),
        false => composed::gated_activation(x, activation),
    }
}

struct Gated(Activation);

/// Rows that one task handles.
const TASK_ROWS: usize = 16;

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated-activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        let (x, width) = (elements(x, layout)?, columns / 2);
        let y = by_parts(rows * width, TASK_ROWS * width, |start, y| {
            let x = x[2 * start..].chunks_exact(columns);
            for (y, x) in y.chunks_exact_mut(width).zip(x) {
                let (x, gate) = x.split_at(width);
                y.copy_from_slice(x);
                self.0.map(y);
                y.iter_mut().zip(gate).for_each(|(y, gate)| *y *= gate);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((rows, width))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let columns = x.dim(1)?;
        let width = columns / 2;
        with_elements([x, grad], |[x_data, grad]| {
            let dx = by_parts(x_data.len(), TASK_ROWS * columns, |start, dx| {
                let rows = x_data[start..].chunks_exact(columns).zip(grad[start / 2..].chunks_exact(width));
                for (dx, (x, dy)) in dx.chunks_exact_mut(columns).zip(rows) {
                    let (x, gate) = x.split_at(width);
                    let (dx, dgate) = dx.split_at_mut(width);
                    dgate.copy_from_slice(x);
                    self.0.map(dgate);
                    for ((dgate, dx), (gate, dy)) in dgate.iter_mut().zip(dx.iter_mut()).zip(gate.iter().zip(dy)) {
                        (*dgate, *dx) = (*dgate * dy, gate * dy);
                    }
                    self.0.map_gradient(dx, x);
                }
            });
            Ok(Some(tensor(dx, x.shape())?))
        })
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.forward(elements(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_elements([x, grad], |[x_data, grad]| {
            let dx = changed(grad, TASK_ELEMENTS, |start, dx| self.map_gradient(dx, &x_data[start..]));
            Ok(Some(tensor(dx, x.shape())?))
        })
    }
}

/// Calls `$body` with `$activation` bound to a constant: a branch outside of the loop instead of one inside.
macro_rules! for_each_activation {
    ($value:expr, $activation:ident => $body:expr) => {
        match $value {
            Activation::Gelu => {
                const $activation: Activation = Activation::Gelu;
                $body
            }
            Activation::GeluTanh => {
                const $activation: Activation = Activation::GeluTanh;
                $body
            }
            Activation::Relu => {
                const $activation: Activation = Activation::Relu;
                $body
            }
            Activation::Tanh => {
                const $activation: Activation = Activation::Tanh;
                $body
            }
        }
    };
}

impl Activation {
    /// The activation of each element, by all threads.
    pub(super) fn forward(self, x: &[f32]) -> Vec<f32> {
        changed(x, TASK_ELEMENTS, |_, y| self.map(y))
    }

    /// Multiplies each gradient by the derivative at x, by all threads.
    pub(super) fn multiply_by_derivative(self, dx: &mut [f32], x: &[f32]) {
        let tasks = dx.par_chunks_mut(TASK_ELEMENTS).zip(x.par_chunks(TASK_ELEMENTS));
        tasks.for_each(|(dx, x)| self.map_gradient(dx, x));
    }

    /// Replaces each element by its activation.
    fn map(self, y: &mut [f32]) {
        for_each_activation!(self, ACTIVATION => vectorized(
            #[inline(always)]
            || y.iter_mut().for_each(|y| *y = ACTIVATION.value(*y)),
        ));
    }

    /// Multiplies each gradient by the derivative at x.
    fn map_gradient(self, dx: &mut [f32], x: &[f32]) {
        for_each_activation!(self, ACTIVATION => vectorized(
            #[inline(always)]
            || dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx *= ACTIVATION.derivative(x)),
        ));
    }
}
