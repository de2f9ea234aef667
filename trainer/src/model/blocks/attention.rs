//! Self-attention: its projections, and how tokens see each other. `graph` has the same in ONNX.

mod graph;
mod scores;

use std::sync::Arc;

use candle_core::Tensor;

pub(super) use self::graph::AttentionInput;
pub(in crate::model) use self::scores::Texts;
use super::{
    batch::{Answers, BatchContext},
    linear::Linear,
};
use crate::{
    error::Result,
    model::{config::EncoderConfig, family::Projections, parameters::Loader},
    onnx::{Affine, Exporter},
    ops::{self, Angles, Attention, Dropout, Rotary},
};

#[derive(Debug, Clone)]
pub(super) struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    /// How far a token sees to each side.
    window: Option<usize>,
    /// Those of its rotary positions.
    angles: Option<Arc<Angles>>,
}

impl SelfAttention {
    pub(super) fn load(
        loader: &mut Loader,
        name: impl Fn(&str) -> String,
        config: &EncoderConfig,
        index: usize,
        angles: Option<Arc<Angles>>,
    ) -> Result<Self> {
        let names = &config.family.names;
        let (square, has_bias) = ([config.hidden_size; 2], config.biases.attention);
        let [query, key, value] = match names.projections {
            Projections::One(part) => Linear::load_stacked(loader, &name(part), square, has_bias)?,
            Projections::Three(parts) => {
                let [query, key, value] = parts.map(|part| Linear::load(loader, &name(part), square, has_bias));
                [query?, key?, value?]
            }
        };
        Ok(Self {
            query,
            key,
            value,
            output: Linear::load(loader, &name(names.attention_output), square, has_bias)?,
            heads: config.num_attention_heads,
            window: config.layers[index].window,
            angles,
        })
    }

    pub(super) fn freeze(&mut self) {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output].into_iter().for_each(Linear::freeze);
    }

    /// `x` `[tokens, hidden]` are keys and values; the rows that `answers` names are the queries, and there is a row of the
    /// result for each.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        batch: &BatchContext,
        answers: Answers,
        [probabilities, distances]: [Option<Dropout>; 2],
    ) -> Result<Tensor> {
        let tape = Some(&batch.tape);
        let mut q = self.query.forward(&batch.answered(x, answers)?, tape)?;
        let (mut k, v) = (self.key.forward(x, tape)?, self.value.forward(x, tape)?);
        if let Some(angles) = &self.angles {
            let turned = Rotary { angles: angles.clone(), places: batch.places.clone() };
            // The first token's place is 0, which turns nothing.
            q = if answers == Answers::All { ops::rotary(&q, &turned, tape)? } else { q };
            k = ops::rotary(&k, &turned, tape)?;
        }
        let mut relative = None;
        if let Some(table) = &batch.distances {
            let added;
            ([q, k], added) = table.apply([q, k], [&self.query, &self.key], distances, &batch.tape)?;
            relative = Some(added);
        }
        let attention = Attention {
            heads: self.heads,
            queries: batch.offsets(answers),
            keys: batch.offsets(Answers::All),
            dropout: probabilities,
            window: self.window,
            relative,
        };
        self.output.forward(&ops::attention(&q, &k, &v, attention, tape)?, tape)
    }

    /// The constants of the last projection, which reads `context`.
    pub(super) fn output_affine(&self, exporter: &Exporter<'_>, context: &str) -> Result<Affine> {
        exporter.corrected(self.output.affine()?, context)
    }
}
