//! AdamW (Loshchilov and Hutter, arXiv 1711.05101): one pass over a parameter and its moments, in place, on all threads.

use std::{collections::BTreeMap, sync::Mutex};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var, bail};
use nimbert::math::vectorized;
use rayon::prelude::*;

use crate::{
    error::Result,
    model::{Gradient, Gradients, Parameters},
    ops::with_elements,
};

/// The constants of the update; the default is PyTorch's, and transformers' for fine-tuning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the first and second moment.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay. Biases and layer normalization are not decayed.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The optimizer with its state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    rate_factors: BTreeMap<String, f64>,
    state: AdamWState,
}

/// What the optimizer remembers of all steps so far.
#[derive(Debug, Default)]
pub struct AdamWState {
    /// Steps so far.
    pub step: i32,
    /// Of every parameter that has had a gradient, by name.
    pub moments: BTreeMap<String, Moments>,
}

/// Running means of a parameter's gradient and of its square.
#[derive(Debug)]
pub enum Moments {
    /// Where the fused update runs.
    Host {
        /// Of the gradient.
        first: Vec<f32>,
        /// Of its square.
        second: Vec<f32>,
    },
    /// Beside a parameter on another device.
    Device {
        /// Of the gradient.
        first: Tensor,
        /// Of its square.
        second: Tensor,
    },
}

impl AdamW {
    /// An optimizer that has not seen a gradient.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, rate_factors: BTreeMap::new(), state: AdamWState::default() }
    }

    /// The same optimizer, which multiplies the learning rate of the parameters named by their factors.
    #[must_use]
    pub fn with_rate_factors(self, rate_factors: BTreeMap<String, f64>) -> Self {
        Self { rate_factors, ..self }
    }

    /// What it remembers.
    pub fn state(&self) -> &AdamWState {
        &self.state
    }

    /// Goes on from where another one was.
    pub fn restore(&mut self, state: AdamWState) {
        self.state = state;
    }

    /// Updates every parameter that is not frozen. The gradients are multiplied by `gradient_scale` first: that is how they are clipped.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if a parameter has no gradient.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        learning_rate: f64,
        gradient_scale: f64,
    ) -> Result<()> {
        self.state.step += 1;
        let step = self.state.step;
        let AdamWConfig { betas: (beta1, beta2), eps, weight_decay } = self.config;
        let correction = 1.0 - f64::from(beta1).powi(step);
        let root_correction = (1.0 - f64::from(beta2).powi(step)).sqrt();
        for (name, var) in parameters.trainable() {
            let Some(gradient) = gradients.get(name) else {
                return Err(candle_core::Error::Msg(format!("{name} has no gradient")).into());
            };
            let moments = &mut self.state.moments;
            if !moments.contains_key(name) {
                let zeros = vec![0.0; var.elem_count()];
                moments.insert(name.to_owned(), Moments::Host { first: zeros.clone(), second: zeros });
            }
            let moments = moments.get_mut(name).expect("just inserted");
            let learning_rate = learning_rate * self.rate_factors.get(name).copied().unwrap_or(1.0);
            let decay = if is_decayed(name) { weight_decay } else { 0.0 };
            let update = Update {
                keep: (1.0 - learning_rate * decay) as f32,
                rate: (learning_rate / correction) as f32,
                inverse_root_correction: (1.0 / root_correction) as f32,
                gradient_scale: gradient_scale as f32,
                beta1,
                beta2,
                eps,
            };
            update.apply(var, gradient, moments)?;
        }
        Ok(())
    }
}

/// What a gradient of norm `norm` is multiplied by so that its norm is at most `max_norm`: PyTorch's `clip_grad_norm_`.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Whether weight decay applies: to matrices and embeddings, not to biases and layer normalization.
fn is_decayed(name: &str) -> bool {
    // DistilBERT writes layer_norm.
    !name.ends_with("bias") && !name.to_lowercase().split('.').any(|part| part.ends_with("norm"))
}

/// First and second moment of a parameter on the CPU.
type HostMoments<'a> = (&'a mut [f32], &'a mut [f32]);

/// One step's constants for one parameter.
struct Update {
    keep: f32,
    rate: f32,
    inverse_root_correction: f32,
    gradient_scale: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
}

impl Update {
    /// Elements that one task handles.
    const TASK_ELEMENTS: usize = 1 << 15;

    fn apply(&self, var: &Var, gradient: &Gradient, moments: &mut Moments) -> Result<()> {
        match (moments, var.device()) {
            (Moments::Host { first, second }, Device::Cpu) => self.apply_fused(var, gradient, (first, second)),
            (moments, _) => self.apply_composed(var, gradient, moments),
        }
    }

    /// The update as tensor operations, for any device; moments that a checkpoint has brought are taken there.
    fn apply_composed(&self, var: &Var, gradient: &Gradient, moments: &mut Moments) -> Result<()> {
        let (first, second) = match moments {
            Moments::Device { first, second } => (first.clone(), second.clone()),
            Moments::Host { first, second } => {
                let there = |values: &[f32]| Tensor::from_slice(values, var.shape(), var.device());
                (there(first)?, there(second)?)
            }
        };
        let gradient = (gradient.to_dense(var)? * f64::from(self.gradient_scale))?;
        let mean =
            |before: Tensor, now: &Tensor, beta: f32| (before * f64::from(beta))? + (now * f64::from(1.0 - beta))?;
        let first = mean(first, &gradient, self.beta1)?;
        let second = mean(second, &gradient.sqr()?, self.beta2)?;
        let root = ((second.sqrt()? * f64::from(self.inverse_root_correction))? + f64::from(self.eps))?;
        let step = ((&first / root)? * f64::from(self.rate))?;
        var.set(&((var.as_detached_tensor() * f64::from(self.keep))? - step)?)?;
        *moments = Moments::Device { first, second };
        Ok(())
    }

    fn apply_fused(&self, var: &Tensor, gradient: &Gradient, moments: HostMoments<'_>) -> Result<()> {
        match gradient {
            Gradient::Dense(gradient) => with_elements([gradient], |[gradient]| {
                self.in_place(var, moments, Self::TASK_ELEMENTS, &|task, len| {
                    Some(&gradient[task * Self::TASK_ELEMENTS..][..len])
                })
            })?,
            Gradient::Rows { rows, values } => {
                let hidden = var.dims2()?.1;
                // A task is a row of the table; most rows have no gradient, and only their moments fade.
                self.in_place(var, moments, hidden, &|task, len| {
                    let place = rows.binary_search(&(task as u32)).ok()?;
                    Some(&values[place * hidden..][..len])
                })?;
            }
        }
        Ok(())
    }

    /// Updates `var` in tasks of `task_elements`; `gradient` gives the part of a task, or none where it is zero.
    fn in_place<'a>(
        &self,
        var: &Tensor,
        moments: HostMoments<'_>,
        task_elements: usize,
        gradient: &(dyn Fn(usize, usize) -> Option<&'a [f32]> + Sync),
    ) -> candle_core::Result<()> {
        var.inplace_op1(&InPlace { update: self, moments: Mutex::new(moments), task_elements, gradient })
    }

    #[inline(always)]
    fn element(&self, p: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = g * self.gradient_scale;
        *m = self.beta1 * *m + (1.0 - self.beta1) * g;
        *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
        *p = *p * self.keep - self.rate * *m / (v.sqrt() * self.inverse_root_correction + self.eps);
    }
}

/// candle lets a tensor be changed in place by an operation only; this is the update in that form.
struct InPlace<'a, 'b> {
    update: &'a Update,
    moments: Mutex<HostMoments<'a>>,
    task_elements: usize,
    gradient: &'a (dyn Fn(usize, usize) -> Option<&'b [f32]> + Sync),
}

impl InplaceOp1 for InPlace<'_, '_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else { bail!("adamw: expected f32 parameters") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("adamw: expected a contiguous parameter") };
        let mut moments = self.moments.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (first, second) = &mut *moments;
        let size = self.task_elements;
        let tasks =
            values[start..end].par_chunks_mut(size).zip(first.par_chunks_mut(size)).zip(second.par_chunks_mut(size));
        tasks.enumerate().for_each(|(task, ((p, m), v))| {
            let gradient = (self.gradient)(task, p.len());
            vectorized(
                #[inline(always)]
                || match gradient {
                    Some(gradient) => {
                        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(gradient) {
                            self.update.element(p, m, v, g);
                        }
                    }
                    None => {
                        for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
                            self.update.element(p, m, v, 0.0);
                        }
                    }
                },
            );
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_composed_update_is_the_fused_one() {
        let update = Update {
            keep: 0.99,
            rate: 0.01,
            inverse_root_correction: 1.5,
            gradient_scale: 0.7,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        };
        let dense = |seed: f32| (0..60).map(|i| (seed * i as f32).sin()).collect::<Vec<f32>>();
        let dense_gradient = Tensor::from_vec(dense(0.3), (20, 3), &Device::Cpu).unwrap();
        let rows = Gradient::Rows { rows: vec![0, 7, 19], values: dense(0.9)[..9].to_vec() };
        for gradient in [Gradient::Dense(dense_gradient), rows] {
            let run = |composed: bool| {
                let var = Var::from_vec(dense(0.5), (20, 3), &Device::Cpu).unwrap();
                let mut moments = Moments::Host { first: dense(0.2), second: vec![0.5; 60] };
                // Twice: the second time, the moments are where the first has left them.
                for _ in 0..2 {
                    match composed {
                        true => update.apply_composed(&var, &gradient, &mut moments).unwrap(),
                        false => update.apply(&var, &gradient, &mut moments).unwrap(),
                    }
                }
                let is_host = matches!(moments, Moments::Host { .. });
                assert_eq!(is_host, !composed);
                var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            for (fused, composed) in run(false).into_iter().zip(run(true)) {
                assert!((fused - composed).abs() < 1e-6, "{fused} and {composed}");
            }
        }
    }
}
