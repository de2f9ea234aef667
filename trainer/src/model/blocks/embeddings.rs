//! Tokens as vectors: rows of tables, summed and normalized.

use std::borrow::Cow;

use candle_core::{DType, Tensor, Var};
use candle_onnx::onnx::tensor_proto::DataType;

use super::{linear::Linear, norm::Norm};
use crate::{
    dataloader::PackedBatch,
    error::Result,
    model::{
        config::{EncoderConfig, PositionRows},
        gradients::Gradient,
        parameters::Loader,
    },
    onnx::{Affine, Exporter, TokenInputs},
    ops::{self, Dropout, Tape},
};

/// The embeddings of an encoder.
#[derive(Debug, Clone)]
pub(in crate::model) struct Embeddings {
    words: Table,
    positions: Option<(PositionRows, Table)>,
    token_types: Option<Table>,
    norm: Option<Norm>,
    /// From the embeddings' width to the encoder's.
    project: Option<Linear>,
    is_frozen: bool,
}

/// A table of vectors, and its parameter's name.
#[derive(Debug, Clone)]
struct Table {
    name: String,
    /// `[rows, width]`
    rows: Tensor,
}

impl Table {
    fn load(loader: &mut Loader, name: String, [rows, width]: [usize; 2]) -> Result<Self> {
        let name = format!("{name}.weight");
        Ok(Self { rows: loader.read(&name, &[rows, width])?, name })
    }
}

impl Embeddings {
    pub(in crate::model) fn load(loader: &mut Loader, config: &EncoderConfig) -> Result<Self> {
        let names = &config.family.names;
        let (width, hidden) = (config.embedding_size, config.hidden_size);
        let mut table = |part: &str, rows: usize| Table::load(loader, names.whole(part), [rows, width]);
        let words = table(names.words, config.vocab_size)?;
        let positions = match config.positions {
            None => None,
            Some(positions) => Some((positions, table(names.positions, config.max_position_embeddings)?)),
        };
        let token_types = match config.type_vocab_size {
            0 => None,
            rows => Some(table(names.token_types, rows)?),
        };
        let (has_bias, eps) = (config.biases.norms, config.layer_norm_eps);
        let norm = match names.embeddings_norm {
            "" => None,
            part => Some(Norm::load(loader, &names.whole(part), width, has_bias, eps)?),
        };
        let project = match config.has_projection {
            false => None,
            true => Some(Linear::load(loader, &names.whole(names.embeddings_project), [width, hidden], true)?),
        };
        Ok(Self { words, positions, token_types, norm, project, is_frozen: false })
    }

    pub(in crate::model) fn freeze(&mut self) {
        self.is_frozen = true;
        self.norm.iter_mut().for_each(Norm::freeze);
        self.project.iter_mut().for_each(Linear::freeze);
    }

    /// The tables, and the rows of them that a batch picks.
    fn picked<'a>(&'a self, batch: &'a PackedBatch) -> Vec<(&'a Table, Cow<'a, [u32]>)> {
        let mut picked = vec![(&self.words, Cow::Borrowed(batch.input_ids.as_slice()))];
        if let Some((positions, table)) = &self.positions {
            let texts = batch.offsets.windows(2).map(|text| &batch.input_ids[text[0]..text[1]]);
            picked.push((table, Cow::Owned(texts.flat_map(|ids| positions.rows(ids)).collect())));
        }
        if let Some(table) = &self.token_types {
            picked.push((table, Cow::Borrowed(batch.token_type_ids.as_slice())));
        }
        picked
    }

    /// The sum of each token's rows, `[tokens, width]`: the leaf at which the graph of gradients ends, unless the embeddings
    /// are frozen. The tables' gradients are made from its gradient, see [`Gradient::Rows`].
    pub(in crate::model) fn sums(&self, batch: &PackedBatch) -> Result<Tensor> {
        let mut sums: Option<Tensor> = None;
        for (table, ids) in self.picked(batch) {
            let rows = table.rows.detach().index_select(&Tensor::new(&*ids, table.rows.device())?, 0)?;
            sums = Some(match sums {
                None => rows,
                Some(sums) => (sums + rows)?,
            });
        }
        let sums = sums.expect("rows of words");
        match self.is_frozen {
            true => Ok(sums),
            false => Ok(Var::from_tensor(&sums)?.into_inner()),
        }
    }

    /// Of the sums, what the first layer reads: `[tokens, hidden]`
    pub(in crate::model) fn forward(
        &self,
        sums: &Tensor,
        dtype: DType,
        dropout: Option<Dropout>,
        tape: Option<&Tape>,
    ) -> Result<Tensor> {
        let normalized = Norm::forward_if_any(self.norm.as_ref(), sums, tape)?.to_dtype(dtype)?;
        let embedded = ops::dropout(&normalized, dropout, tape)?;
        self.project.as_ref().map_or(Ok(embedded.clone()), |project| project.forward(&embedded, tape))
    }

    /// The tables' gradients, by name, from that of the sums.
    pub(in crate::model) fn gradients(&self, batch: &PackedBatch, sums: &Tensor) -> Result<Vec<(String, Gradient)>> {
        let width = sums.dim(1)?;
        let values = sums.flatten_all()?.to_vec1::<f32>()?;
        let of_table =
            |(table, ids): (&Table, Cow<'_, [u32]>)| (table.name.clone(), Gradient::of_rows(&ids, &values, width));
        Ok(self.picked(batch).into_iter().map(of_table).collect())
    }

    /// The nodes that make the first layer's input, `[tokens, hidden]`, called `output`; `shift` is added to it.
    pub(in crate::model) fn graph(
        &self,
        exporter: &mut Exporter<'_>,
        inputs: &TokenInputs,
        output: &str,
        shift: Option<&Tensor>,
    ) -> Result<()> {
        let words = exporter.gathered("embeddings/word", &self.words.rows.detach(), &inputs.ids)?;
        let mut sum = words;
        if let Some((positions, table)) = &self.positions {
            let rows = position_rows(exporter, *positions, &table.rows.detach(), inputs)?;
            sum = exporter.builder.node("embeddings/word_position", "Add", &[&sum, &rows], vec![]);
        }
        if let Some((table, ids)) = self.token_types.as_ref().zip(inputs.token_types.as_ref()) {
            let table = exporter.builder.floats("embeddings/token_type/table", &table.rows.detach())?;
            let rows = exporter.gather("embeddings/token_type", &table, ids);
            sum = exporter.builder.node("embeddings/sum", "Add", &[&sum, &rows], vec![]);
        }
        let width = self.words.rows.dim(1)?;
        let shape = exporter.rows_shape(width);
        let Some(project) = &self.project else {
            let x = self.normed(exporter, &sum, shift)?;
            exporter.reshaped(output, &x, &shape);
            return Ok(());
        };
        let x = self.normed(exporter, &sum, None)?;
        let x = exporter.reshaped("embeddings/rows", &x, &shape);
        let Affine { weight, bias } = project.affine()?;
        let bias = match (bias, shift) {
            (Some(bias), Some(shift)) => Some((bias + shift)?),
            (bias, shift) => bias.or(shift.cloned()),
        };
        exporter.affine(output, "embeddings/project", &x, &Affine { weight, bias })?;
        Ok(())
    }

    /// Layer normalization.
    pub(in crate::model) fn norms(&self) -> usize {
        usize::from(self.norm.is_some())
    }

    fn normed(&self, exporter: &mut Exporter<'_>, sum: &str, shift: Option<&Tensor>) -> Result<String> {
        match &self.norm {
            Some(norm) => norm.graph(exporter, "embeddings/norm", sum, shift),
            None => Ok(sum.to_owned()),
        }
    }
}

/// The rows of the position embeddings, in a shape that fits that of the words.
fn position_rows(
    exporter: &mut Exporter<'_>,
    positions: PositionRows,
    table: &Tensor,
    inputs: &TokenInputs,
) -> Result<String> {
    let PositionRows { offset, uncounted } = positions;
    let name = "embeddings/position";
    let Some(id) = uncounted else {
        // The token at place i of a text has row offset + i: the same rows serve every text.
        let rows = table.narrow(0, offset, table.dim(0)? - offset)?.contiguous()?;
        return exporter.leading_rows(name, &rows, inputs);
    };
    // How many tokens up to here are counted, if this one is; padding is behind all texts, so it does not matter there.
    let b = &mut exporter.builder;
    let (id, axis) = (b.integer("embeddings/position/uncounted", id.into()), b.integer("embeddings/position/axis", 1));
    let is_uncounted = b.node("embeddings/position/is_uncounted", "Equal", &[&inputs.ids, &id], vec![]);
    let is_counted = b.node("embeddings/position/is_counted", "Not", &[&is_uncounted], vec![]);
    let counted = b.cast("embeddings/position/counted", &is_counted, DataType::Int64);
    let count = b.node("embeddings/position/count", "CumSum", &[&counted, &axis], vec![]);
    let rows = b.node("embeddings/position/row", "Mul", &[&count, &counted], vec![]);
    let rows_of = table.narrow(0, offset - 1, table.dim(0)? - offset + 1)?.contiguous()?;
    exporter.gathered(name, &rows_of, &rows)
}
