//! The Gaussian error linear unit in its exact form, x Φ(x) (Hendrycks and Gimpel, arXiv 1606.08415).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    TASK_ELEMENTS, elements,
    math::{normal_distribution, vectorized},
    tensor, with_elements,
};

/// x Φ(x) for each element, Φ being the standard normal distribution function: Hugging Face's `gelu`.
///
/// # Errors
/// If `x` is not contiguous `f32` on the CPU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Gelu)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = elements(x, layout)?.to_vec();
        y.par_chunks_mut(TASK_ELEMENTS).for_each(|y| {
            vectorized(
                #[inline(always)]
                || y.iter_mut().for_each(|y| *y *= normal_distribution(*y).0),
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_elements([x, grad], |[x_data, grad]| {
            let mut dx = grad.to_vec();
            dx.par_chunks_mut(TASK_ELEMENTS).zip(x_data.par_chunks(TASK_ELEMENTS)).for_each(|(dx, x)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (dx, &x) in dx.iter_mut().zip(x) {
                            let (probability, density) = normal_distribution(x);
                            *dx *= x.mul_add(density, probability);
                        }
                    },
                );
            });
            Ok(Some(tensor(dx, x.shape())?))
        })
    }
}
