//! What a graph knows of its texts: which tokens are padding, and what scores are moved by. Each value is made when the first
//! layer asks for it.

use candle_core::Tensor;
use candle_onnx::onnx::tensor_proto::DataType;

use crate::{
    error::Result,
    model::blocks::DistanceTable,
    model::config::{DistanceConfig, EncoderConfig},
    onnx::{Exporter, int_attribute, ints_attribute},
};

/// What is added to the attention scores of padding, and of what lies too far away: softmax turns it into 0.
const MASK_VALUE: f32 = -10_000.0;

/// The texts of a graph.
pub(in crate::model) struct Texts {
    /// Tokens of a text, the longest: `int64 [1]`
    length: String,
    /// `[batch, sequence, hidden]`
    pub(super) shape_3d: String,
    /// `[batch, sequence, heads, width]`
    pub(super) shape_4d: String,
    /// `[batch, 1, sequence]`
    pub(super) padding: String,
    attention_mask: String,
    heads: usize,
    /// The most tokens of a text.
    pub(super) longest: usize,
}

impl Texts {
    pub(in crate::model) fn new(
        exporter: &mut Exporter<'_>,
        config: &EncoderConfig,
        ids: &str,
        attention_mask: &str,
    ) -> Self {
        let longest = config.max_tokens();
        let longest = exporter.config.max_tokens.map_or(longest, |tokens| tokens.min(longest));
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let b = &mut exporter.builder;
        let [zero, one, two] = [0, 1, 2].map(|index| b.integers(&format!("shape/{index}"), &[index]));
        let shape = b.node("shape/ids", "Shape", &[ids], vec![]);
        let length = b.node("shape/length", "Slice", &[&shape, &one, &two, &zero], vec![]);
        let axis = || vec![int_attribute("axis", 0)];
        let size = b.integers("shape/hidden", &[hidden as i64]);
        let shape_3d = b.node("shape/3d", "Concat", &[&shape, &size], axis());
        let sizes = b.integers("shape/heads", &[heads as i64, (hidden / heads) as i64]);
        let shape_4d = b.node("shape/4d", "Concat", &[&shape, &sizes], axis());
        let floats = b.cast("mask/float", attention_mask, DataType::Float);
        let (unit, value) = (b.scalar("mask/one", 1.0), b.scalar("mask/value", MASK_VALUE));
        let inverted = b.node("mask/inverted", "Sub", &[&unit, &floats], vec![]);
        let shifts = b.node("mask/shifts", "Mul", &[&inverted, &value], vec![]);
        let padding = b.node("mask/first_scores", "Unsqueeze", &[&shifts, &one], vec![]);
        Self { length, shape_3d, shape_4d, padding, attention_mask: attention_mask.to_owned(), heads, longest }
    }

    /// The number of tokens of the longest text: `int64 [1]`
    pub(in crate::model) fn length(&self) -> &str {
        &self.length
    }

    /// Each text's first row of `x` `[tokens, hidden]`: `[batch, hidden]`
    pub(in crate::model) fn first_rows(&self, exporter: &mut Exporter<'_>, name: &str, x: &str) -> String {
        let texts = exporter.reshaped(&format!("{name}/texts"), x, &self.shape_3d);
        let zero = exporter.builder.integer(&format!("{name}/index"), 0);
        exporter.builder.node(name, "Gather", &[&texts, &zero], vec![int_attribute("axis", 1)])
    }

    /// The mean of each text's tokens of `x` `[tokens, hidden]`: `[batch, hidden]`
    pub(in crate::model) fn mean(&self, exporter: &mut Exporter<'_>, name: &str, x: &str) -> Result<()> {
        let texts = exporter.reshaped("pooling/texts", x, &self.shape_3d);
        let b = &mut exporter.builder;
        let axis = b.integers("pooling/axis", &[1]);
        let ones = b.cast("pooling/mask", &self.attention_mask, DataType::Float);
        let count = b.node("pooling/count", "ReduceSum", &[&ones, &axis], vec![]);
        let shares = b.node("pooling/shares", "Div", &[&ones, &count], vec![]);
        let shares = b.node("pooling/row", "Unsqueeze", &[&shares, &axis], vec![]);
        let mean = b.node("pooling/mean", "MatMul", &[&shares, &texts], vec![]);
        b.node(name, "Squeeze", &[&mean, &axis], vec![]);
        Ok(())
    }

    /// Tokens of each text: `int32 [batch]`
    pub(super) fn lengths(&self, exporter: &mut Exporter<'_>) -> Result<String> {
        exporter.once("mask/lengths", |exporter| {
            let b = &mut exporter.builder;
            let axis = b.integers("mask/axis", &[1]);
            let integers = b.cast("mask/int32", &self.attention_mask, DataType::Int32);
            b.node("mask/lengths", "ReduceSum", &[&integers, &axis], vec![int_attribute("keepdims", 0)]);
            Ok(())
        })
    }

    /// What the scores of padding are moved by, by head: `[batch, 1, 1, sequence]`
    pub(super) fn padding_by_head(&self, exporter: &mut Exporter<'_>) -> Result<String> {
        exporter.once("mask/all_scores", |exporter| {
            let axis = exporter.builder.integers("mask/all_scores/axis", &[1]);
            exporter.builder.node("mask/all_scores", "Unsqueeze", &[&self.padding, &axis], vec![]);
            Ok(())
        })
    }

    /// What scores are moved by where query and key are farther apart than `window`: `[1, 1, sequence, sequence]`
    pub(super) fn window(&self, exporter: &mut Exporter<'_>, window: usize) -> Result<String> {
        let name = format!("window.{window}/shifts");
        exporter.once(&name, |exporter| {
            let distances = self.distances(exporter)?;
            let part = |part: &str| format!("window.{window}/{part}");
            let b = &mut exporter.builder;
            let last = b.integer(&part("last"), window as i64);
            let value = b.scalar(&part("value"), MASK_VALUE);
            let far = b.node(&part("distance"), "Abs", &[&distances], vec![]);
            let is_far = b.node(&part("is_far"), "Greater", &[&far, &last], vec![]);
            let far = b.cast(&part("far"), &is_far, DataType::Float);
            let axes = b.integers(&part("axes"), &[0, 1]);
            let shifts = b.node(&part("matrix"), "Mul", &[&far, &value], vec![]);
            b.node(&name, "Unsqueeze", &[&shifts, &axes], vec![]);
            Ok(())
        })
    }

    /// The query's place less the key's: `int64 [sequence, sequence]`
    fn distances(&self, exporter: &mut Exporter<'_>) -> Result<String> {
        exporter.once("distances", |exporter| {
            let b = &mut exporter.builder;
            let (zero, one) = (b.integer("distances/zero", 0), b.integer("distances/one", 1));
            let axis = b.integers("distances/axis", &[1]);
            let scalar = b.integers("distances/scalar", &[]);
            let length = b.node("distances/length", "Reshape", &[&self.length, &scalar], vec![]);
            let keys = b.node("distances/keys", "Range", &[&zero, &length, &one], vec![]);
            let queries = b.node("distances/queries", "Unsqueeze", &[&keys, &axis], vec![]);
            b.node("distances", "Sub", &[&queries, &keys], vec![]);
            Ok(())
        })
    }

    /// What scores are moved by for the distance, of `table` `[buckets, heads]`: `[1, heads, sequence, sequence]`
    pub(super) fn biases(&self, exporter: &mut Exporter<'_>, table: &DistanceTable) -> Result<String> {
        exporter.once("distances/biases", |exporter| {
            let distances = self.distances(exporter)?;
            // Rows of a table of all distances, from the farthest key behind on.
            let longest = self.longest as isize;
            let table = by_distance(table, 1 - longest..longest)?;
            let b = &mut exporter.builder;
            let table = b.floats("distances/table", &table)?;
            let offset = b.integer("distances/offset", self.longest as i64 - 1);
            let rows = b.node("distances/rows", "Add", &[&distances, &offset], vec![]);
            let biases = b.node("distances/by_token", "Gather", &[&table, &rows], vec![int_attribute("axis", 0)]);
            let axis = b.integers("distances/heads_axis", &[0]);
            let biases = b.node("distances/by_head", "Transpose", &[&biases], vec![ints_attribute("perm", &[2, 0, 1])]);
            b.node("distances/biases", "Unsqueeze", &[&biases, &axis], vec![]);
            Ok(())
        })
    }

    /// The same for each text's first token: `[heads, sequence]`
    pub(super) fn first_biases(&self, exporter: &mut Exporter<'_>, table: &DistanceTable) -> Result<String> {
        exporter.once("distances/first_biases", |exporter| {
            let values = by_distance(table, (0..self.longest as isize).map(|key| -key))?;
            let b = &mut exporter.builder;
            let table = b.floats("distances/first_table", &values)?;
            let zero = b.integers("distances/first_zero", &[0]);
            let rows = b.node("distances/first_rows", "Slice", &[&table, &zero, &self.length, &zero], vec![]);
            b.node("distances/first_biases", "Transpose", &[&rows], vec![ints_attribute("perm", &[1, 0])]);
            Ok(())
        })
    }

    /// Of vectors for distances `[heads, rows, width]`, those that texts of this length ask for: `[heads, distances, width]`
    pub(super) fn vectors_of_texts(
        &self,
        exporter: &mut Exporter<'_>,
        name: &str,
        vectors: &str,
        config: DistanceConfig,
    ) -> Result<String> {
        let [first, end] = self.vector_range(exporter, config)?;
        let b = &mut exporter.builder;
        let axis = b.integers(&format!("{name}/axis"), &[1]);
        Ok(b.node(name, "Slice", &[vectors, &first, &end, &axis], vec![]))
    }

    /// The first row that texts of this length ask for, and the one behind the last: `int64 [1]` each
    fn vector_range(&self, exporter: &mut Exporter<'_>, config: DistanceConfig) -> Result<[String; 2]> {
        let names = ["distances/first_row", "distances/end_row"].map(str::to_owned);
        let [first, end] = names.clone();
        exporter.once(&first, |exporter| {
            let b = &mut exporter.builder;
            // By length; there is none of 0 tokens.
            let farthest = (0..=self.longest as isize).map(|length| (length - 1).max(0));
            let firsts: Vec<i64> = farthest.clone().map(|distance| config.row(-distance) as i64).collect();
            let ends: Vec<i64> = farthest.map(|distance| config.row(distance) as i64 + 1).collect();
            for (name, by_length) in [(&first, firsts), (&end, ends)] {
                let by_length = b.integers(&format!("{name}/by_length"), &by_length);
                b.node(name, "Gather", &[&by_length, &self.length], vec![int_attribute("axis", 0)]);
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// Which of [`Texts::vectors_of_texts`] is that of the distance from a query to a key: `int32 [batch, heads, sequence, sequence]`,
    /// one for all layers.
    pub(super) fn vector_rows(&self, exporter: &mut Exporter<'_>, config: DistanceConfig) -> Result<String> {
        let name = "distances/rows_of_texts";
        exporter.once(name, |exporter| {
            let distances = self.distances(exporter)?;
            let [first, _] = self.vector_range(exporter, config)?;
            let longest = self.longest as isize;
            let rows: Vec<i64> = (1 - longest..longest).map(|distance| config.row(distance) as i64).collect();
            let b = &mut exporter.builder;
            let part = |part: &str| format!("{name}/{part}");
            let rows = b.integers(&part("by_distance"), &rows);
            let offset = b.integer(&part("offset"), self.longest as i64 - 1);
            let places = b.node(&part("places"), "Add", &[&distances, &offset], vec![]);
            let rows = b.node(&part("all"), "Gather", &[&rows, &places], vec![int_attribute("axis", 0)]);
            let rows = b.node(&part("from_first"), "Sub", &[&rows, &first], vec![]);
            let rows = b.cast(&part("int32"), &rows, DataType::Int32);
            let (zero, one) = (b.integers(&part("0"), &[0]), b.integers(&part("1"), &[1]));
            let batch = b.node(&part("batch"), "Slice", &["shape/ids", &zero, &one, &zero], vec![]);
            let heads = b.integers(&part("heads"), &[self.heads as i64]);
            let sizes = [batch.as_str(), &heads, &self.length, &self.length];
            let shape = b.node(&part("shape"), "Concat", &sizes, vec![int_attribute("axis", 0)]);
            b.node(name, "Expand", &[&rows, &shape], vec![]);
            Ok(())
        })
    }

    /// The rows of vectors `[heads · rows, width]` for each text's first token as the query, and its keys:
    /// `int64 [sequence, heads]`
    pub(super) fn first_vector_rows(&self, exporter: &mut Exporter<'_>, config: DistanceConfig) -> Result<String> {
        exporter.once("distances/rows_of_first", |exporter| {
            let rows: Vec<i64> = (0..self.longest as isize).map(|key| config.row(-key) as i64).collect();
            let part = |part: &str| format!("distances/rows_of_first/{part}");
            let b = &mut exporter.builder;
            let rows = b.integer_values(&part("all"), &[rows.len(), 1], &rows);
            let zero = b.integers(&part("zero"), &[0]);
            let rows = b.node(&part("of_texts"), "Slice", &[&rows, &zero, &self.length, &zero], vec![]);
            let of_heads = b.integers(&part("of_heads"), &self.first_rows_of_heads(config));
            b.node("distances/rows_of_first", "Add", &[&rows, &of_heads], vec![]);
            Ok(())
        })
    }

    fn first_rows_of_heads(&self, config: DistanceConfig) -> Vec<i64> {
        (0..self.heads).map(|head| (head * config.rows()) as i64).collect()
    }
}

/// The rows of `table` for some distances.
fn by_distance(table: &DistanceTable, distances: impl Iterator<Item = isize>) -> Result<Tensor> {
    let (config, values) = (table.config(), table.values()?);
    let rows: Vec<u32> = distances.map(|distance| config.row(distance) as u32).collect();
    Ok(values.index_select(&Tensor::new(rows, values.device())?, 0)?)
}
