//! Attention as nodes of a graph.
//!
//! Where all tokens are answered it is one of ONNX Runtime's operators, with products of its own where nothing comes between
//! projections and scores; in standard operators it is spelled out.
//!
//! Where each text's first token is answered, values are never computed, and keys only where something comes between them and
//! the scores: with q the query of a head, q·(W_k x) = (W_kᵀ q)·x and Σ p (W_v x) = W_v (Σ p x), so that one product with each
//! text's x replaces two of all tokens. The key's bias adds the same to all scores of a text, which softmax does not see.

use candle_core::Tensor;

use super::{SelfAttention, Texts};
use crate::{
    error::Result,
    model::{
        blocks::{Answers, DistanceTable},
        config::DistanceConfig,
    },
    onnx::{Affine, Exporter, float_attribute, int_attribute, ints_attribute},
};

/// What attention reads, as values of the graph.
pub(in crate::model::blocks) struct AttentionInput<'a> {
    /// `[tokens, hidden]`
    pub(in crate::model::blocks) all: &'a str,
    /// The rows that are answered.
    pub(in crate::model::blocks) answered: &'a str,
    /// What both have been moved by.
    pub(in crate::model::blocks) shift: Option<&'a Tensor>,
}

/// The constants of the projections, of an input as it is.
struct Constants {
    query: Affine,
    key: Affine,
    value: Affine,
}

/// A layer's part of a graph.
struct Part<'a, 'e> {
    attention: &'a SelfAttention,
    distances: Option<&'a DistanceTable>,
    exporter: &'a mut Exporter<'e>,
    texts: &'a Texts,
    /// `layer.<index>`
    name: &'a str,
}

impl SelfAttention {
    /// Whether the graph computes keys where only first tokens are answered.
    pub(in crate::model::blocks) fn computes_keys(&self, distances: Option<DistanceConfig>) -> bool {
        self.angles.is_some() || matches!(distances, Some(DistanceConfig::Vectors { .. }))
    }

    /// The nodes that make `<name>/context`, `[n, hidden]`.
    pub(in crate::model::blocks) fn graph(
        &self,
        exporter: &mut Exporter<'_>,
        name: &str,
        input: AttentionInput<'_>,
        (texts, distances): (&Texts, Option<&DistanceTable>),
        answers: Answers,
    ) -> Result<()> {
        let hidden = self.output.width();
        let products = match distances.map(DistanceTable::config) {
            Some(DistanceConfig::Vectors { .. }) => 3,
            _ => 1,
        };
        let deviation = ((products * hidden / self.heads) as f64).sqrt();
        let mut constants = Constants {
            query: exporter.corrected(self.query.affine()?, input.answered)?,
            key: exporter.corrected(self.key.affine()?, input.all)?,
            // For first tokens alone it is no product of integers.
            value: match answers {
                Answers::All => exporter.corrected(self.value.affine()?, input.all)?,
                Answers::First => self.value.affine()?,
            },
        };
        let is_plain = self.angles.is_none() && self.window.is_none() && distances.is_none();
        let mut part = Part { attention: self, distances, exporter, texts, name };
        if answers == Answers::All && is_plain && !part.exporter.is_standard() {
            // The operator divides scores itself.
            return part.with_products(input, constants);
        }
        constants.query = constants.query.scaled(1.0 / deviation)?;
        match answers {
            Answers::First => part.of_first(input, constants, hidden),
            Answers::All => part.of_all(input, constants, hidden),
        }
    }
}

impl Part<'_, '_> {
    fn name(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    fn node(&mut self, part: &str, operator: &str, inputs: &[&str]) -> String {
        let name = self.name(part);
        self.exporter.builder.node(&name, operator, inputs, vec![])
    }

    fn transposed(&mut self, part: &str, x: &str, permutation: &[i64]) -> String {
        let name = self.name(part);
        self.exporter.builder.node(&name, "Transpose", &[x], vec![ints_attribute("perm", permutation)])
    }

    fn integers(&mut self, part: &str, values: &[i64]) -> String {
        let name = self.name(part);
        self.exporter.builder.integers(&name, values)
    }

    /// A projection of `x`, called by `part`.
    fn projected(&mut self, part: &str, x: &str, affine: &Affine) -> Result<String> {
        let name = self.name(part);
        self.exporter.affine(&name, &name, x, affine)
    }

    /// The context, as rows.
    fn finish(&mut self, context: &str, hidden: usize) {
        let (shape, name) = (self.exporter.rows_shape(hidden), self.name("context"));
        self.exporter.reshaped(&name, context, &shape);
    }

    /// All of it in one operator.
    fn with_products(&mut self, input: AttentionInput<'_>, constants: Constants) -> Result<()> {
        let x = input.all;
        let Constants { query, key, value } = constants;
        let [query, key, value] = [query, key, value].map(|affine| affine.of_shifted(input.shift));
        let projections = [query?, key?, value?];
        let weight = Tensor::cat(&projections.each_ref().map(|affine| &affine.weight), 1)?;
        let [query, key, value] = projections.each_ref().map(Affine::dense_bias);
        let bias = Tensor::cat(&[query?, key?, value?], 0)?;
        let hidden = weight.dim(0)?;
        self.exporter.read(x, &weight)?;
        let name = self.name("attention");
        let bias = self.exporter.builder.floats(&format!("{name}/bias"), &bias)?;
        let lengths = self.texts.lengths(self.exporter)?;
        let heads = vec![int_attribute("num_heads", self.attention.heads as i64)];
        let texts_name = self.name("texts");
        let exporter = &mut *self.exporter;
        let context = match exporter.range(x) {
            None => {
                let weight = exporter.stored(&name, &weight)?;
                let x = exporter.reshaped(&texts_name, x, &self.texts.shape_3d);
                exporter.builder.contrib(&name, "Attention", &[&x, &weight, &bias, &lengths], heads)
            }
            Some(range) => {
                let [quantized, scale, zero_point] = exporter.quantized(x, range);
                let max = exporter.max_product_weight();
                let [weight, weight_scale] = exporter.integers(&name, &weight, max, Some(input.all))?;
                let x = exporter.reshaped(&texts_name, &quantized, &self.texts.shape_3d);
                let inputs = [&x, &weight, &bias, &scale, &weight_scale, &lengths, &zero_point];
                exporter.builder.contrib(&name, "QAttention", &inputs.map(String::as_str), heads)
            }
        };
        self.finish(&context, hidden);
        Ok(())
    }

    /// Queries, already divided by the root of a score's variance, keys and values as products; and then one operator, or all of
    /// it spelled out.
    fn of_all(&mut self, input: AttentionInput<'_>, constants: Constants, hidden: usize) -> Result<()> {
        let Constants { query, key, value } = constants;
        let is_standard = self.exporter.is_standard();
        let mut by_text = Vec::new();
        for (part, affine) in [("query", query), ("key", key), ("value", value)] {
            let rows = self.projected(part, input.all, &affine.of_shifted(input.shift)?)?;
            let shape = if is_standard { &self.texts.shape_4d } else { &self.texts.shape_3d };
            by_text.push(self.node(&format!("{part}/texts"), "Reshape", &[&rows, shape]));
        }
        if is_standard {
            return self.spelled(&by_text, hidden);
        }
        if self.attention.angles.is_some() {
            for (part, x) in ["query/turned", "key/turned"].into_iter().zip(&mut by_text) {
                *x = self.turned(part, x)?;
            }
        }
        let shifts = self.score_shifts(|part| {
            [("query/by_head", &by_text[0]), ("key/by_head", &by_text[1])].map(|(name, x)| part.by_head(name, x))
        })?;
        let bias = self.sum("score_shifts", shifts);
        let lengths = self.texts.lengths(self.exporter)?;
        let name = self.name("attention");
        let attributes = vec![int_attribute("num_heads", self.attention.heads as i64), float_attribute("scale", 1.0)];
        let [query, key, value] = [&by_text[0], &by_text[1], &by_text[2]].map(String::as_str);
        let inputs = [query, key, value, "", &lengths, bias.as_deref().unwrap_or_default()];
        let inputs = if bias.is_some() { &inputs[..] } else { &inputs[..5] };
        let context = self.exporter.builder.contrib(&name, "MultiHeadAttention", inputs, attributes);
        self.finish(&context, hidden);
        Ok(())
    }

    fn sum(&mut self, part: &str, values: Vec<String>) -> Option<String> {
        let mut values = values.into_iter();
        let first = values.next()?;
        Some(
            values
                .enumerate()
                .fold(first, |sum, (place, value)| self.node(&format!("{part}/{place}"), "Add", &[&sum, &value])),
        )
    }

    /// `[batch, sequence, hidden]` → `[batch, heads, sequence, width]`
    fn by_head(&mut self, part: &str, x: &str) -> String {
        let rows = self.node(&format!("{part}/rows"), "Reshape", &[x, &self.texts.shape_4d.clone()]);
        self.transposed(part, &rows, &[0, 2, 1, 3])
    }

    /// What scores are moved by for the distance between query and key; `by_head` makes queries and keys
    /// `[batch, heads, sequence, width]`, where they are needed for that.
    fn score_shifts(&mut self, by_head: impl FnOnce(&mut Self) -> [String; 2]) -> Result<Vec<String>> {
        let mut shifts = Vec::new();
        if let Some(window) = self.attention.window {
            shifts.push(self.texts.window(self.exporter, window)?);
        }
        match self.distances.map(|table| (table, table.config())) {
            None => {}
            Some((table, DistanceConfig::Bias { .. })) => shifts.push(self.texts.biases(self.exporter, table)?),
            Some((table, DistanceConfig::Vectors { .. })) => {
                let [query, key] = by_head(self);
                shifts.push(self.by_vectors(table, [&query, &key])?);
            }
        }
        Ok(shifts)
    }

    /// Attention in standard operators; queries, keys and values are `[batch, sequence, heads, width]`.
    fn spelled(&mut self, qkv: &[String], hidden: usize) -> Result<()> {
        let by_head =
            |this: &mut Self, part: &str, x: &str| this.transposed(&format!("{part}/by_head"), x, &[0, 2, 1, 3]);
        let mut query = by_head(self, "query", &qkv[0]);
        let mut key = by_head(self, "key", &qkv[1]);
        if self.attention.angles.is_some() {
            query = self.turned_by_head("query/turned", &query)?;
            key = self.turned_by_head("key/turned", &key)?;
        }
        let padding = self.texts.padding_by_head(self.exporter)?;
        let shifts = self.score_shifts(|_| [query.clone(), key.clone()])?;
        let columns = self.transposed("key/columns", &key, &[0, 1, 3, 2]);
        let value = by_head(self, "value", &qkv[2]);
        let scores = self.node("scores", "MatMul", &[&query, &columns]);
        let masked = self.sum("masked", [vec![scores, padding], shifts].concat()).expect("scores");
        let name = self.name("probabilities");
        let p = self.exporter.builder.node(&name, "Softmax", &[&masked], vec![int_attribute("axis", -1)]);
        let context = self.node("context/by_head", "MatMul", &[&p, &value]);
        let context = self.transposed("context/texts", &context, &[0, 2, 1, 3]);
        self.finish(&context, hidden);
        Ok(())
    }

    /// Cosines and sines of the rotary positions, `[longest, pairs]`.
    fn angles(&mut self) -> Result<[String; 2]> {
        let angles = self.attention.angles.as_ref().expect("only what has angles is turned");
        let name = format!("rotary.{}", angles.theta());
        let [cosines, sines] = ["cosines", "sines"].map(|part| format!("{name}/{part}"));
        let longest = self.texts.longest;
        self.exporter.once(&name, |exporter| {
            for (name, values) in [(&cosines, angles.cosines(longest)), (&sines, angles.sines(longest))] {
                exporter.builder.float_values(name, &[longest, values.len() / longest], values);
            }
            Ok(())
        })?;
        Ok([cosines, sines])
    }

    /// `x` `[batch, sequence, hidden]` with its heads turned.
    fn turned(&mut self, part: &str, x: &str) -> Result<String> {
        let [cosines, sines] = self.angles()?;
        let first = self.integers(&format!("{part}/first_place"), &[0]);
        let name = self.name(part);
        Ok(self.exporter.builder.contrib(&name, "RotaryEmbedding", &[x, &first, &cosines, &sines], vec![]))
    }

    /// The same of `[batch, heads, sequence, width]`, in standard operators.
    fn turned_by_head(&mut self, part: &str, x: &str) -> Result<String> {
        let tables = self.angles()?;
        let pairs = self.attention.angles.as_ref().map_or(0, |angles| angles.pairs()) as i64;
        let sub = |sub: &str| format!("{part}/{sub}");
        let [zero, half, all] =
            [("0", 0), ("half", pairs), ("all", 2 * pairs)].map(|(name, at)| self.integers(&sub(name), &[at]));
        let axis = self.integers(&sub("axis"), &[3]);
        let length = self.texts.length().to_owned();
        let [cosine, sine] = tables.map(|table| {
            self.exporter.once(&format!("{table}/of_texts"), |exporter| {
                let first = exporter.builder.integers(&format!("{table}/first"), &[0]);
                exporter.builder.node(
                    &format!("{table}/of_texts"),
                    "Slice",
                    &[&table, &first, &length, &first],
                    vec![],
                );
                Ok(())
            })
        });
        let (cosine, sine) = (cosine?, sine?);
        let a = self.node(&sub("a"), "Slice", &[x, &zero, &half, &axis]);
        let b = self.node(&sub("b"), "Slice", &[x, &half, &all, &axis]);
        let products =
            [("a_cosine", &a, &cosine), ("b_sine", &b, &sine), ("b_cosine", &b, &cosine), ("a_sine", &a, &sine)];
        let [ac, bs, bc, as_] = products.map(|(name, x, table)| self.node(&sub(name), "Mul", &[x, table]));
        let first = self.node(&sub("first"), "Sub", &[&ac, &bs]);
        let second = self.node(&sub("second"), "Add", &[&bc, &as_]);
        let name = self.name(part);
        Ok(self.exporter.builder.node(&name, "Concat", &[&first, &second], vec![int_attribute("axis", -1)]))
    }

    /// Keys and queries of all vectors for distances, by head, `[heads · distances, width]`: they depend on weights alone. Queries
    /// are divided as those of tokens are.
    fn vectors(&self, table: &DistanceTable) -> Result<[Tensor; 2]> {
        let vectors = table.values()?;
        let (rows, hidden) = vectors.dims2()?;
        let heads = self.attention.heads;
        let projected = |affine: &Affine| -> Result<Tensor> {
            let projected = vectors.matmul(&affine.weight)?.broadcast_add(&affine.dense_bias()?)?;
            let by_head = projected.reshape((rows, heads, hidden / heads))?.transpose(0, 1)?.contiguous()?;
            Ok(by_head.reshape((heads * rows, hidden / heads))?)
        };
        let query = self.attention.query.affine()?.scaled(1.0 / ((3 * hidden / heads) as f64).sqrt())?;
        Ok([projected(&self.attention.key.affine()?)?, projected(&query)?])
    }

    /// What vectors for distances add to scores, with queries and keys `[batch, heads, sequence, width]`:
    /// `[batch, heads, sequence, sequence]`
    fn by_vectors(&mut self, table: &DistanceTable, [query, key]: [&str; 2]) -> Result<String> {
        let config = table.config();
        let rows = self.texts.vector_rows(self.exporter, config)?;
        let [keys, queries] = self.vectors(table)?;
        let keys = self.vectors_of_texts("by_query/vectors", &keys, config)?;
        let queries = self.vectors_of_texts("by_key/vectors", &queries, config)?;
        // A product for each distance; far ones share theirs.
        let by_query = self.product_by_rows("by_query/products", query, &keys, &[0, 2, 1]);
        let by_key = self.product_by_rows("by_key/products", &queries, key, &[0, 1, 3, 2]);
        let picked = [("by_query", by_query, 3), ("by_key", by_key, 2)].map(|(part, products, axis)| {
            let name = self.name(part);
            let attributes = vec![int_attribute("axis", axis)];
            self.exporter.builder.node(&name, "GatherElements", &[&products, &rows], attributes)
        });
        Ok(self.node("by_distance", "Add", &[&picked[0], &picked[1]]))
    }

    /// Vectors `[heads · rows, width]` by head, as far as texts need them: `[heads, distances, width]`
    fn vectors_of_texts(&mut self, part: &str, vectors: &Tensor, config: DistanceConfig) -> Result<String> {
        let (name, all) = (self.name(part), self.name(&format!("{part}/by_head")));
        let floats = self.exporter.multiplied_out(&format!("{name}/all"), vectors)?;
        let shape = [self.attention.heads as i64, config.rows() as i64, -1];
        let shape = self.exporter.builder.integers(&format!("{name}/shape"), &shape);
        let by_head = self.exporter.builder.node(&all, "Reshape", &[&floats, &shape], vec![]);
        self.texts.vectors_of_texts(self.exporter, &name, &by_head, config)
    }

    /// x `[…, n, width]` times rows `[…, m, width]`, whose columns `permutation` would make of them: `[…, n, m]`
    fn product_by_rows(&mut self, part: &str, x: &str, rows: &str, permutation: &[i64]) -> String {
        if self.exporter.is_standard() {
            let columns = self.transposed(&format!("{part}/columns"), rows, permutation);
            return self.node(part, "MatMul", &[x, &columns]);
        }
        // ONNX Runtime's own operator takes rows as they are.
        let name = self.name(part);
        self.exporter.builder.contrib(&name, "FusedMatMul", &[x, rows], vec![int_attribute("transB", 1)])
    }

    /// Attention of each text's first token.
    fn of_first(&mut self, input: AttentionInput<'_>, constants: Constants, hidden: usize) -> Result<()> {
        let Constants { query, key, value } = constants;
        let query = self.projected("query", input.answered, &query.of_shifted(input.shift)?)?;
        let value = value.of_shifted(input.shift)?;
        let texts = self.node("texts", "Reshape", &[input.all, &self.texts.shape_3d.clone()]);
        // [batch, sequence, heads]
        let scores = match self.attention.computes_keys(self.distances.map(DistanceTable::config)) {
            true => self.first_scores(&query, input.all, &key.of_shifted(input.shift)?)?,
            false => self.first_scores_without_keys(&query, &texts, &key.weight)?,
        };
        let scores = self.transposed("scores", &scores, &[0, 2, 1]);
        let mut shifts = vec![scores, self.texts.padding.clone()];
        if let Some(window) = self.attention.window {
            shifts.push(self.first_window(window)?);
        }
        if let Some(table) = self.distances.filter(|table| matches!(table.config(), DistanceConfig::Bias { .. })) {
            shifts.push(self.texts.first_biases(self.exporter, table)?);
        }
        let masked = self.sum("masked", shifts).expect("scores");
        let name = self.name("probabilities");
        let p = self.exporter.builder.node(&name, "Softmax", &[&masked], vec![int_attribute("axis", -1)]);
        self.first_context(&p, &texts, &value, hidden)
    }

    /// What scores of each text's first token are moved by for what it does not see: `[1, 1, sequence]`
    fn first_window(&mut self, window: usize) -> Result<String> {
        let shifts = self.texts.window(self.exporter, window)?;
        let row = self.integers("window/first", &[0]);
        let name = self.name("window/row");
        let row = self.exporter.builder.node(&name, "Gather", &[&shifts, &row], vec![int_attribute("axis", 2)]);
        let axis = self.integers("window/axis", &[0]);
        Ok(self.node("window", "Squeeze", &[&row, &axis]))
    }

    /// Scores by W_kᵀ q: `[batch, sequence, heads]`
    fn first_scores_without_keys(&mut self, query: &str, texts: &str, key: &Tensor) -> Result<String> {
        let (hidden, heads) = (key.dim(0)? as i64, self.attention.heads as i64);
        let width = hidden / heads;
        let name = self.name("key");
        let key = self.exporter.stored(&name, key)?;
        // Of constants, so that they are computed once: [hidden, heads · width] → [heads, width, hidden].
        let shape = self.integers("key/shape", &[heads, width, hidden]);
        let key = self.transposed("key/transposed", &key, &[1, 0]);
        let key = self.node("key/by_head", "Reshape", &[&key, &shape]);
        // One row a text and head: [batch, heads, 1, width] → [batch, heads, 1, hidden].
        let by_head = self.integers("query/shape", &[-1, heads, 1, width]);
        let query = self.node("query/heads", "Reshape", &[query, &by_head]);
        let u = self.node("key_query", "MatMul", &[&query, &key]);
        let by_text = self.integers("key_query/shape", &[-1, heads, hidden]);
        let u = self.node("key_query/by_text", "Reshape", &[&u, &by_text]);
        Ok(self.product_by_rows("scores/by_token", texts, &u, &[0, 2, 1]))
    }

    /// Scores by keys: `[batch, sequence, heads]`. With vectors q' and k' for distances, k·(q + q') + k'·q.
    fn first_scores(&mut self, query: &str, all: &str, key: &Affine) -> Result<String> {
        let (hidden, heads) = (key.weight.dim(0)? as i64, self.attention.heads as i64);
        let width = hidden / heads;
        let rows = self.projected("key", all, key)?;
        let shape_4d = self.texts.shape_4d.clone();
        let by_text = self.integers("query/shape", &[-1, 1, heads, width]);
        let mut query = self.node("query/heads", "Reshape", &[query, &by_text]);
        let key = match &self.attention.angles {
            None => self.node("key/heads", "Reshape", &[&rows, &shape_4d]),
            Some(_) if self.exporter.is_standard() => {
                let heads = self.node("key/heads", "Reshape", &[&rows, &shape_4d]);
                let heads = self.transposed("key/by_head", &heads, &[0, 2, 1, 3]);
                let heads = self.turned_by_head("key/turned", &heads)?;
                self.transposed("key/by_text", &heads, &[0, 2, 1, 3])
            }
            Some(_) => {
                let texts = self.node("key/texts", "Reshape", &[&rows, &self.texts.shape_3d.clone()]);
                let texts = self.turned("key/turned", &texts)?;
                self.node("key/heads", "Reshape", &[&texts, &shape_4d])
            }
        };
        let mut further = None;
        if let Some(table) = self.distances {
            let rows = self.texts.first_vector_rows(self.exporter, table.config())?;
            let mut of_distances = Vec::new();
            for (part, vectors) in ["distances/keys", "distances/queries"].into_iter().zip(self.vectors(table)?) {
                let name = self.name(part);
                of_distances.push(self.exporter.gathered_floats(&name, &vectors, &rows)?);
            }
            further = Some(self.node("by_query", "Mul", &[&query, &of_distances[0]]));
            query = self.node("query/with_distances", "Add", &[&query, &of_distances[1]]);
        }
        let mut products = self.node("products", "Mul", &[&key, &query]);
        if let Some(further) = further {
            products = self.node("products/all", "Add", &[&products, &further]);
        }
        let axis = self.integers("products/axis", &[-1]);
        let name = self.name("scores/by_token");
        let attributes = vec![int_attribute("keepdims", 0)];
        Ok(self.exporter.builder.node(&name, "ReduceSum", &[&products, &axis], attributes))
    }

    /// W_v Σ p x: `[batch, hidden]`
    fn first_context(&mut self, p: &str, texts: &str, value: &Affine, hidden: usize) -> Result<()> {
        let (heads, hidden_size) = (self.attention.heads as i64, hidden as i64);
        let name = self.name("value");
        let constant = self.exporter.stored(&name, &value.weight)?;
        let shape = self.integers("value/shape", &[hidden_size, heads, hidden_size / heads]);
        let constant = self.node("value/heads", "Reshape", &[&constant, &shape]);
        let constant = self.transposed("value/by_head", &constant, &[1, 0, 2]);
        let mean = self.node("mean", "MatMul", &[p, texts]);
        let by_head = self.integers("mean/shape", &[-1, heads, 1, hidden_size]);
        let mean = self.node("mean/by_head", "Reshape", &[&mean, &by_head]);
        let context = self.node("context/by_head", "MatMul", &[&mean, &constant]);
        let Some(bias) = &value.bias else {
            self.finish(&context, hidden);
            return Ok(());
        };
        let shape = self.exporter.rows_shape(hidden);
        let context = self.node("context/rows", "Reshape", &[&context, &shape]);
        let name = self.name("context/bias");
        let bias = self.exporter.builder.floats(&name, bias)?;
        self.node("context", "Add", &[&context, &bias]);
        Ok(())
    }
}
