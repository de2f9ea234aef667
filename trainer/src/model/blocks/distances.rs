//! What attention adds to scores for the distance between query and key: a table that all layers share.

use candle_core::{DType, Tensor};

use super::{linear::Linear, norm::Norm};
use crate::{
    error::Result,
    model::{
        config::{DistanceConfig, EncoderConfig},
        parameters::Loader,
    },
    ops::{self, Distances, Dropout, Relative, Tape},
};

/// The table.
#[derive(Debug, Clone)]
pub(in crate::model) struct DistanceTable {
    config: DistanceConfig,
    /// `[buckets, heads]`, or vectors `[distances, hidden]`
    table: Tensor,
    norm: Option<Norm>,
}

/// Its part that a batch needs.
#[derive(Debug, Clone)]
pub(super) struct BatchDistances {
    rows: Distances,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// `[buckets, heads]`
    Biases(Tensor),
    /// `[distances, hidden]`
    Vectors(Tensor),
}

impl DistanceTable {
    /// The encoder's, if it has one.
    pub(in crate::model) fn load(loader: &mut Loader, config: &EncoderConfig) -> Result<Option<Self>> {
        let Some(kind) = config.distances else { return Ok(None) };
        let names = &config.family.names;
        let (width, has_norm) = match kind {
            DistanceConfig::Bias { .. } => (config.num_attention_heads, false),
            DistanceConfig::Vectors { has_norm, .. } => (config.hidden_size, has_norm),
        };
        let table = loader.read(&format!("{}.weight", names.whole(names.distances)), &[kind.rows(), width])?;
        let norm = || Norm::load(loader, &names.whole(names.distances_norm), width, true, config.layer_norm_eps);
        let norm = has_norm.then(norm).transpose()?;
        Ok(Some(Self { config: kind, table, norm }))
    }

    pub(in crate::model) fn freeze(&mut self) {
        self.table = self.table.detach();
        self.norm.iter_mut().for_each(Norm::freeze);
    }

    /// What texts of at most `longest` tokens need, computed in `dtype`.
    pub(super) fn in_batch(&self, longest: usize, dtype: DType, tape: &Tape) -> Result<BatchDistances> {
        let row = |distance: isize| self.config.row(distance);
        match self.config {
            DistanceConfig::Bias { .. } => {
                let rows = Distances::new(longest, |distance| row(distance) as u32);
                Ok(BatchDistances { rows, kind: Kind::Biases(self.table.clone()) })
            }
            DistanceConfig::Vectors { .. } => {
                let last = longest as isize - 1;
                let first = row(-last);
                let rows = Distances::new(longest, |distance| (row(distance) - first) as u32);
                let vectors = self.vectors(first, rows.count(), Some(tape))?.to_dtype(dtype)?;
                Ok(BatchDistances { rows, kind: Kind::Vectors(vectors) })
            }
        }
    }

    /// Some vectors, normalized: `[count, hidden]`
    fn vectors(&self, first: usize, count: usize, tape: Option<&Tape>) -> Result<Tensor> {
        Norm::forward_if_any(self.norm.as_ref(), &self.table.narrow(0, first, count)?, tape)
    }

    /// How scores depend on distances, for a graph.
    pub(super) fn config(&self) -> DistanceConfig {
        self.config
    }

    /// The whole table, normalized, outside of any graph of gradients.
    pub(super) fn values(&self) -> Result<Tensor> {
        Ok(self.vectors(0, self.config.rows(), None)?.detach())
    }
}

impl BatchDistances {
    /// Queries and keys with those of distances behind them, where they have vectors, and how scores are to depend on them.
    pub(super) fn apply(
        &self,
        [q, k]: [Tensor; 2],
        [query, key]: [&Linear; 2],
        dropout: Option<Dropout>,
        tape: &Tape,
    ) -> Result<([Tensor; 2], Relative)> {
        let distances = self.rows.clone();
        match &self.kind {
            Kind::Biases(table) => Ok(([q, k], Relative::Bias { table: table.clone(), distances, sink: tape.sink() })),
            Kind::Vectors(vectors) => {
                let tape = Some(tape);
                let vectors = ops::dropout(vectors, dropout, tape)?;
                let q = Tensor::cat(&[&q, &query.forward(&vectors, tape)?], 0)?;
                let k = Tensor::cat(&[&k, &key.forward(&vectors, tape)?], 0)?;
                Ok(([q, k], Relative::Disentangled { distances }))
            }
        }
    }
}
