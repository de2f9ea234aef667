//! What all layers know of a batch, and which of its tokens one computes.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::distances::{BatchDistances, DistanceTable};
use crate::{dataloader::PackedBatch, error::Result, ops::Tape};

/// The tokens that a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Answers {
    All,
    /// Each text's first: what a head that reads it asks of the last layer.
    First,
}

/// What all layers know of a batch.
#[derive(Debug)]
pub(in crate::model) struct BatchContext {
    /// Where texts begin and end.
    all: Arc<[usize]>,
    /// The same where each has one row.
    first: Arc<[usize]>,
    /// Each token's place in its text.
    pub(super) places: Arc<[u32]>,
    pub(super) distances: Option<BatchDistances>,
    pub(in crate::model) tape: Tape,
}

impl BatchContext {
    pub(in crate::model) fn new(
        batch: &PackedBatch,
        distances: Option<&DistanceTable>,
        dtype: DType,
        tape: Tape,
    ) -> Result<Self> {
        let longest = batch.offsets.windows(2).map(|text| text[1] - text[0]).max().unwrap_or(0);
        Ok(Self {
            all: batch.offsets.clone().into(),
            first: (0..=batch.rows()).collect(),
            places: batch.position_ids.clone().into(),
            distances: distances.map(|table| table.in_batch(longest.max(1), dtype, &tape)).transpose()?,
            tape,
        })
    }

    pub(super) fn offsets(&self, answers: Answers) -> Arc<[usize]> {
        match answers {
            Answers::All => self.all.clone(),
            Answers::First => self.first.clone(),
        }
    }

    /// The rows of `x` `[tokens, hidden]` that are answered.
    pub(super) fn answered(&self, x: &Tensor, answers: Answers) -> Result<Tensor> {
        match answers {
            Answers::All => Ok(x.clone()),
            Answers::First => {
                let first: Vec<u32> = self.all[..self.all.len() - 1].iter().map(|&offset| offset as u32).collect();
                Ok(x.index_select(&Tensor::new(first, x.device())?, 0)?)
            }
        }
    }
}
