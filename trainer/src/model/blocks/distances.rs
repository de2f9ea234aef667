//! What attention adds to scores for the distance between query and key: a table that all layers share.

use candle_core::{DType, Tensor};

use super::{linear::Linear, norm::Norm};
use crate::{
    error::Result,
    model::{
        config::{DistanceConfig, EncoderConfig},
        parameters::Loader,
    },
    ops::{self, Distances, Dropout, GradientSink, Relative},
};

/// The table.
#[derive(Debug, Clone)]
pub(in crate::model) struct DistanceTable {
    config: DistanceConfig,
    /// `[buckets, heads]`, or vectors `[distances, hidden]`
    table: Tensor,
    norm: Option<Norm>,
    gradients: GradientSink,
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
    Biases(Tensor, GradientSink),
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
        Ok(Some(Self { config: kind, table, norm, gradients: loader.gradients() }))
    }

    pub(in crate::model) fn freeze(&mut self) {
        self.table = self.table.detach();
        self.norm.iter_mut().for_each(Norm::freeze);
    }

    /// What texts of at most `longest` tokens need, computed in `dtype`.
    pub(super) fn in_batch(&self, longest: usize, dtype: DType) -> Result<BatchDistances> {
        let row = |distance: isize| self.config.row(distance);
        match self.config {
            DistanceConfig::Bias { .. } => {
                let rows = Distances::new(longest, |distance| row(distance) as u32);
                Ok(BatchDistances { rows, kind: Kind::Biases(self.table.clone(), self.gradients.clone()) })
            }
            DistanceConfig::Vectors { .. } => {
                let last = longest as isize - 1;
                let first = row(-last);
                let rows = Distances::new(longest, |distance| (row(distance) - first) as u32);
                let vectors = self.vectors(first, rows.count())?.to_dtype(dtype)?;
                Ok(BatchDistances { rows, kind: Kind::Vectors(vectors) })
            }
        }
    }

    /// Some vectors, normalized: `[count, hidden]`
    fn vectors(&self, first: usize, count: usize) -> Result<Tensor> {
        Norm::forward_if_any(self.norm.as_ref(), &self.table.narrow(0, first, count)?)
    }

    /// How scores depend on distances, for a graph.
    pub(super) fn config(&self) -> DistanceConfig {
        self.config
    }

    /// The whole table, normalized, outside of any graph of gradients.
    pub(super) fn values(&self) -> Result<Tensor> {
        Ok(self.vectors(0, self.config.rows())?.detach())
    }
}

impl BatchDistances {
    /// Queries and keys with those of distances behind them, where they have vectors, and how scores are to depend on them.
    pub(super) fn apply(
        &self,
        [q, k]: [Tensor; 2],
        [query, key]: [&Linear; 2],
        dropout: Option<Dropout>,
    ) -> Result<([Tensor; 2], Relative)> {
        let distances = self.rows.clone();
        match &self.kind {
            Kind::Biases(table, sink) => {
                Ok(([q, k], Relative::Bias { table: table.clone(), distances, sink: sink.clone() }))
            }
            Kind::Vectors(vectors) => {
                let vectors = ops::dropout(vectors, dropout)?;
                let q = Tensor::cat(&[&q, &query.forward(&vectors)?], 0)?;
                let k = Tensor::cat(&[&k, &key.forward(&vectors)?], 0)?;
                Ok(([q, k], Relative::Disentangled { distances }))
            }
        }
    }
}
