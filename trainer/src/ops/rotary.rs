//! Rotary positions (Su et al., arXiv 2104.09864): queries and keys are turned by angles that grow with their place, so that
//! their products depend on how far apart they are.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use nimbert::math::vectorized;

use super::{
    TASK_ELEMENTS, composed, elements, is_fused,
    parts::changed,
    tape::{Tape, apply1},
    tensor, with_elements,
};

/// Cosines and sines of the angles by place and frequency, as transformers computes them in 32 bits.
#[derive(Debug)]
pub struct Angles {
    theta: f32,
    /// Half of a head's width: an angle for each pair of its numbers.
    pub(super) pairs: usize,
    /// `[places, pairs]`
    pub(super) cosines: Vec<f32>,
    pub(super) sines: Vec<f32>,
}

impl Angles {
    /// The angles for heads of `width` and so many places. The first pair turns by one radian a place, and the others by
    /// less and less, down to about 1 / `theta`.
    pub fn new(width: usize, theta: f32, places: usize) -> Self {
        let pairs = width / 2;
        let frequency = |pair: usize| 1.0 / theta.powf((2 * pair) as f32 / width as f32);
        let frequencies: Vec<f32> = (0..pairs).map(frequency).collect();
        let angles = (0..places).flat_map(|place| frequencies.iter().map(move |frequency| place as f32 * frequency));
        let (sines, cosines) = angles.map(f32::sin_cos).unzip();
        Self { theta, pairs, cosines, sines }
    }

    /// The base of the wavelengths.
    pub(crate) fn theta(&self) -> f32 {
        self.theta
    }

    /// Half of a head's width.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// The cosines of the first `places`, `[places, pairs]`.
    pub(crate) fn cosines(&self, places: usize) -> &[f32] {
        &self.cosines[..places * self.pairs]
    }

    /// The same of sines.
    pub(crate) fn sines(&self, places: usize) -> &[f32] {
        &self.sines[..places * self.pairs]
    }
}

/// How rows are turned.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// By which angles.
    pub angles: Arc<Angles>,
    /// The place of each row in its text.
    pub places: Arc<[u32]>,
}

/// Each head of each row of x `[rows, hidden]`, turned: of its halves a and b, a cos − b sin and b cos + a sin.
///
/// # Errors
/// If the shapes disagree, a place has no angles, or `x` is not contiguous.
pub fn rotary(x: &Tensor, rotary: &Rotary, tape: Option<&Tape>) -> Result<Tensor> {
    let (rows, hidden) = x.dims2()?;
    let Rotary { angles, places } = rotary;
    let longest = places.iter().max().map_or(0, |place| *place as usize + 1);
    if places.len() != rows || !hidden.is_multiple_of(2 * angles.pairs) || longest * angles.pairs > angles.cosines.len()
    {
        bail!("rotary: x {:?}, {} places up to {longest}, {} pairs do not fit", x.shape(), places.len(), angles.pairs);
    }
    match is_fused(x) {
        true => apply1(tape, x, rotary.clone()),
        false => composed::rotary(x, rotary),
    }
}

impl Rotary {
    /// `x`, turned by the angles times `direction`.
    fn turned(&self, x: &[f32], direction: f32) -> Vec<f32> {
        let pairs = self.angles.pairs;
        let hidden = x.len() / self.places.len().max(1);
        let task = (TASK_ELEMENTS / hidden.max(1)).max(1);
        changed(x, task * hidden, |start, y| {
            vectorized(
                #[inline(always)]
                || {
                    for (x, &place) in y.chunks_exact_mut(hidden).zip(&self.places[start / hidden..]) {
                        let angles = place as usize * pairs..(place as usize + 1) * pairs;
                        let (cosines, sines) = (&self.angles.cosines[angles.clone()], &self.angles.sines[angles]);
                        for head in x.chunks_exact_mut(2 * pairs) {
                            let (a, b) = head.split_at_mut(pairs);
                            for (((a, b), cosine), sine) in a.iter_mut().zip(b).zip(cosines).zip(sines) {
                                let sine = direction * sine;
                                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
                            }
                        }
                    }
                },
            );
        })
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.turned(elements(x, layout)?, 1.0)), layout.shape().clone()))
    }

    /// The inverse of a rotation is its transpose.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_elements([grad], |[grad]| Ok(Some(tensor(self.turned(grad, -1.0), x.shape())?)))
    }
}
