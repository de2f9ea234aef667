//! Dropout (Srivastava et al., JMLR 15, 2014): each element is set to 0 with probability p, the others divided by 1 − p.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use nimbert::math::vectorized;

use super::{
    TASK_ELEMENTS, composed, elements, is_fused,
    math::random_bits,
    parts::{by_parts, changed},
    tape::{Tape, apply1, apply2},
};

/// One use of dropout: which elements are dropped follows from the key and the element's index.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability that an element is dropped, from 0 to below 1.
    pub p: f32,
    /// Picks the elements; every use needs a key of its own.
    pub key: u64,
}

impl Dropout {
    /// What element `index` is multiplied by: 0 or 1 / (1 − p).
    #[inline(always)]
    pub(super) fn factor(self, index: u32) -> f32 {
        let threshold = (f64::from(self.p) * 4_294_967_296.0) as u32;
        if random_bits(self.key, index) < threshold { 0.0 } else { 1.0 / (1.0 - self.p) }
    }

    /// `factor(i) · x[i]`, plus `residual[i]` where there is one
    fn forward(self, x: &[f32], residual: Option<&[f32]>) -> Vec<f32> {
        by_parts(x.len(), TASK_ELEMENTS, |start, out| {
            if let Some(residual) = residual {
                out.copy_from_slice(&residual[start..][..out.len()]);
            }
            vectorized(
                #[inline(always)]
                || {
                    for (index, (out, &x)) in (start as u32..).zip(out.iter_mut().zip(&x[start..])) {
                        *out = x.mul_add(self.factor(index), *out);
                    }
                },
            );
        })
    }
}

/// x with dropout; without one, x itself.
///
/// # Errors
/// If `x` is not contiguous.
pub fn dropout(x: &Tensor, dropout: Option<Dropout>, tape: Option<&Tape>) -> Result<Tensor> {
    match dropout {
        Some(dropout) if is_fused(x) => apply1(tape, x, dropout),
        Some(dropout) => composed::dropout(x, dropout),
        None => Ok(x.clone()),
    }
}

/// residual + dropout(x), both of the same shape.
///
/// # Errors
/// If the shapes differ, or a tensor is not contiguous.
pub fn dropout_add(x: &Tensor, residual: &Tensor, dropout: Option<Dropout>, tape: Option<&Tape>) -> Result<Tensor> {
    match dropout {
        _ if is_fused(x) => apply2(tape, [x, residual], DropoutAdd(dropout)),
        Some(dropout) => composed::dropout(x, dropout)? + residual,
        None => x + residual,
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(elements(x, layout)?, None);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.apply_op1_no_bwd(self)?))
    }
}

struct DropoutAdd(Option<Dropout>);

impl CustomOp2 for DropoutAdd {
    fn name(&self) -> &'static str {
        "dropout-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if x_layout.shape() != residual_layout.shape() {
            bail!("dropout-add: {:?} and {:?} differ", x_layout.shape(), residual_layout.shape());
        }
        let (x, residual) = (elements(x, x_layout)?, elements(residual, residual_layout)?);
        let y = match self.0 {
            Some(dropout) => dropout.forward(x, Some(residual)),
            None => {
                changed(x, TASK_ELEMENTS, |start, y| y.iter_mut().zip(&residual[start..]).for_each(|(y, r)| *y += r))
            }
        };
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = self.0.map_or(Ok(grad.clone()), |dropout| grad.apply_op1_no_bwd(&dropout))?;
        Ok((Some(dx), Some(grad.clone())))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::{tensor, with_elements};

    #[test]
    fn backward_drops_the_same_elements_and_the_mean_is_kept() {
        let x = Var::from_tensor(&Tensor::ones((200, 100), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        let setting = Some(Dropout { p: 0.1, key: 42 });
        let y = dropout(&x, setting, None).unwrap();
        let kept: f32 = y.mean_all().unwrap().to_scalar().unwrap();
        assert!((kept - 1.0).abs() < 0.01, "mean {kept}");
        let grad = y.sum_all().unwrap().backward().unwrap().remove(&x).unwrap();
        with_elements([&y, &grad], |[y, grad]| {
            assert_eq!(y, grad);
            Ok(())
        })
        .unwrap();
        let sum = dropout_add(&x, &tensor(vec![2.0; 20_000], x.shape()).unwrap(), setting, None).unwrap();
        assert_eq!((sum - y).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), vec![2.0; 20_000]);
    }
}
