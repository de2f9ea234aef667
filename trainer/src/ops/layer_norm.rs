//! Layer normalization (Ba, Kiros and Hinton, arXiv 1607.06450) over the last dimension.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use nimbert::math::{dot, sum, vectorized};
use rayon::prelude::*;

use super::{
    TASK_ELEMENTS, composed, elements, is_fused,
    parts::{by_parts, zeros},
    tape::{Tape, apply3},
    tensor, with_elements,
};

/// (x − mean) / √(variance + eps) · weight + bias for each row of x `[rows, hidden]`; weight and bias `[hidden]`.
/// The variance is the biased one, as in PyTorch.
///
/// # Errors
/// If the shapes disagree, or a tensor is not contiguous.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, tape: Option<&Tape>) -> Result<Tensor> {
    match is_fused(x) {
        true => apply3(tape, [x, weight, bias], LayerNorm { eps }),
        false => composed::layer_norm(x, weight, bias, eps),
    }
}

struct LayerNorm {
    eps: f32,
}

impl LayerNorm {
    /// Writes (x − mean) / √(variance + eps) and returns the factor 1 / √(variance + eps).
    #[inline(always)]
    fn normalize(&self, x: &[f32], out: &mut [f32]) -> f32 {
        let mean = sum(x) / x.len() as f32;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x - mean);
        let factor = 1.0 / (dot(out, out) / x.len() as f32 + self.eps).sqrt();
        out.iter_mut().for_each(|out| *out *= factor);
        factor
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
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
        let (x, weight, bias) =
            (elements(x, x_layout)?, elements(weight, weight_layout)?, elements(bias, bias_layout)?);
        let (_, hidden) = x_layout.shape().dims2()?;
        if hidden == 0 || weight.len() != hidden || bias.len() != hidden {
            let (weight, bias) = (weight_layout.shape(), bias_layout.shape());
            bail!("layer-norm: x {:?}, weight {weight:?} and bias {bias:?} do not fit", x_layout.shape());
        }
        let task = (TASK_ELEMENTS / hidden).max(1) * hidden;
        let y = by_parts(x.len(), task, |start, y| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(hidden).zip(x[start..].chunks_exact(hidden)) {
                        self.normalize(x, y);
                        for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
                            *y = y.mul_add(*weight, *bias);
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    /// With n the normalized row, g = dy · weight and f = 1 / √(variance + eps):
    /// dx = f (g − mean(g) − n mean(g n)), dweight = Σ dy n, dbias = Σ dy over the rows.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let hidden = weight.elem_count();
        with_elements([x, weight, grad], |[x_data, weight_data, grad]| {
            let task = (TASK_ELEMENTS / hidden).max(1) * hidden;
            let mut dx = zeros(x_data.len());
            // Each task sums its own rows; the sums are added in the order of the tasks, whichever thread ran them.
            let sums: Vec<(Vec<f32>, Vec<f32>)> = dx
                .par_chunks_mut(task)
                .zip(x_data.par_chunks(task))
                .zip(grad.par_chunks(task))
                .map(|((dx, x), dy)| {
                    let (mut dweight, mut dbias) = (vec![0.0; hidden], vec![0.0; hidden]);
                    let (mut normalized, mut g) = (vec![0.0; hidden], vec![0.0; hidden]);
                    vectorized(
                        #[inline(always)]
                        || {
                            let rows = x.chunks_exact(hidden).zip(dy.chunks_exact(hidden));
                            for (dx, (x, dy)) in dx.chunks_exact_mut(hidden).zip(rows) {
                                let factor = self.normalize(x, &mut normalized);
                                for i in 0..hidden {
                                    g[i] = dy[i] * weight_data[i];
                                    dweight[i] = dy[i].mul_add(normalized[i], dweight[i]);
                                    dbias[i] += dy[i];
                                }
                                let mean_g = sum(&g) / hidden as f32;
                                let mean_gn = dot(&g, &normalized) / hidden as f32;
                                for i in 0..hidden {
                                    dx[i] = factor * (g[i] - mean_g - normalized[i] * mean_gn);
                                }
                            }
                        },
                    );
                    (dweight, dbias)
                })
                .collect();
            let (mut dweight, mut dbias) = (vec![0.0; hidden], vec![0.0; hidden]);
            for (task_dweight, task_dbias) in sums {
                dweight.iter_mut().zip(task_dweight).for_each(|(sum, value)| *sum += value);
                dbias.iter_mut().zip(task_dbias).for_each(|(sum, value)| *sum += value);
            }
            Ok((
                Some(tensor(dx, x.shape())?),
                Some(tensor(dweight, weight.shape())?),
                Some(tensor(dbias, bias.shape())?),
            ))
        })
    }
}
