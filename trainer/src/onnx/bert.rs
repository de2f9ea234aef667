//! The graph of a BERT classifier, in standard operators.
//!
//! Layer normalization, GELU and attention are spelled out the way PyTorch's exporter does. ONNX Runtime's optimizer
//! knows these patterns and replaces each by one operator when it loads the graph (a test counts them); readers
//! without such an optimizer find operators that all of them have.

use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};

use super::graph::{Axis, GraphBuilder, int_attribute, ints_attribute};
use crate::{
    error::Result,
    model::{EncoderConfig, SequenceClassifier},
};

/// What is added to the attention scores of padding. Softmax turns it into exactly 0, and ONNX Runtime's attention
/// fusion asks for this value.
const MASK_VALUE: f32 = -10_000.0;

/// The graph of `model` in fp32: inputs `input_ids`, `attention_mask`, `token_type_ids` (`int64 [batch, sequence]`),
/// output `logits` (`float [batch, labels]`). The output of layer i is the value `layer.i/output`.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn export(model: &SequenceClassifier) -> Result<ModelProto> {
    let mut exporter = Exporter { builder: GraphBuilder::default(), model };
    exporter.classifier()?;
    Ok(exporter.builder.finish("bert-for-sequence-classification"))
}

struct Exporter<'a> {
    builder: GraphBuilder,
    model: &'a SequenceClassifier,
}

impl Exporter<'_> {
    fn config(&self) -> &EncoderConfig {
        &self.model.config
    }

    /// The parameter `name` as a constant; a matrix is transposed, so that it multiplies from the right.
    fn parameter(&mut self, name: &str, transpose: bool) -> Result<String> {
        let tensor = self.model.parameters().get(name).expect("a parameter of the model").as_detached_tensor();
        let tensor = if transpose { tensor.t()? } else { tensor };
        self.builder.floats(name, &tensor)
    }

    /// x `[batch, sequence, in]` → `[batch, sequence, out]`
    fn linear(&mut self, prefix: &str, parameter: &str, x: &str) -> Result<String> {
        let weight = self.parameter(&format!("{parameter}.weight"), true)?;
        let bias = self.parameter(&format!("{parameter}.bias"), false)?;
        let product = self.builder.node(&format!("{prefix}/matmul"), "MatMul", &[x, &weight], vec![]);
        Ok(self.builder.node(&format!("{prefix}/add"), "Add", &[&product, &bias], vec![]))
    }

    /// Layer normalization over the last axis; the last node is called `output`.
    fn layer_norm(&mut self, prefix: &str, parameter: &str, x: &str, output: &str) -> Result<String> {
        let weight = self.parameter(&format!("{parameter}.weight"), false)?;
        let bias = self.parameter(&format!("{parameter}.bias"), false)?;
        let eps = self.config().layer_norm_eps;
        let b = &mut self.builder;
        let name = |part: &str| format!("{prefix}/{part}");
        let last_axis = || vec![ints_attribute("axes", &[-1])];
        let two = b.scalar(&name("two"), 2.0);
        let eps = b.scalar(&name("eps"), eps);
        let mean = b.node(&name("mean"), "ReduceMean", &[x], last_axis());
        let centred = b.node(&name("centred"), "Sub", &[x, &mean], vec![]);
        let squared = b.node(&name("squared"), "Pow", &[&centred, &two], vec![]);
        let variance = b.node(&name("variance"), "ReduceMean", &[&squared], last_axis());
        let shifted = b.node(&name("shifted"), "Add", &[&variance, &eps], vec![]);
        let deviation = b.node(&name("deviation"), "Sqrt", &[&shifted], vec![]);
        let normalized = b.node(&name("normalized"), "Div", &[&centred, &deviation], vec![]);
        let scaled = b.node(&name("scaled"), "Mul", &[&normalized, &weight], vec![]);
        Ok(b.node(output, "Add", &[&scaled, &bias], vec![]))
    }

    /// x Φ(x) = x · ½ (1 + erf(x / √2))
    fn gelu(&mut self, prefix: &str, x: &str) -> String {
        let b = &mut self.builder;
        let name = |part: &str| format!("{prefix}/{part}");
        let root_two = b.scalar(&name("root_two"), std::f32::consts::SQRT_2);
        let one = b.scalar(&name("one"), 1.0);
        let half = b.scalar(&name("half"), 0.5);
        let scaled = b.node(&name("scaled"), "Div", &[x, &root_two], vec![]);
        let erf = b.node(&name("erf"), "Erf", &[&scaled], vec![]);
        let shifted = b.node(&name("shifted"), "Add", &[&erf, &one], vec![]);
        let product = b.node(&name("product"), "Mul", &[x, &shifted], vec![]);
        b.node(&name("gelu"), "Mul", &[&product, &half], vec![])
    }

    /// word + position + token type embeddings, normalized: `[batch, sequence, hidden]`
    fn embeddings(&mut self, input_ids: &str, token_type_ids: &str) -> Result<String> {
        let words = self.parameter("bert.embeddings.word_embeddings.weight", false)?;
        let positions = self.parameter("bert.embeddings.position_embeddings.weight", false)?;
        let token_types = self.parameter("bert.embeddings.token_type_embeddings.weight", false)?;
        let b = &mut self.builder;
        let word = b.node("embeddings/word", "Gather", &[&words, input_ids], vec![int_attribute("axis", 0)]);
        let shape = b.node("embeddings/shape", "Shape", &[input_ids], vec![]);
        let (zero, one, two) = (
            b.integers("embeddings/zero", &[0]),
            b.integers("embeddings/one", &[1]),
            b.integers("embeddings/two", &[2]),
        );
        let length = b.node("embeddings/length", "Slice", &[&shape, &one, &two, &zero], vec![]);
        // Position i of a text has row i: the first `sequence` rows serve every text.
        let position = b.node("embeddings/position", "Slice", &[&positions, &zero, &length, &zero], vec![]);
        let token_type =
            b.node("embeddings/token_type", "Gather", &[&token_types, token_type_ids], vec![int_attribute("axis", 0)]);
        let sum = b.node("embeddings/word_token_type", "Add", &[&word, &token_type], vec![]);
        let sum = b.node("embeddings/sum", "Add", &[&sum, &position], vec![]);
        self.layer_norm("embeddings/norm", "bert.embeddings.LayerNorm", &sum, "embeddings/output")
    }

    /// What is added to attention scores, `[batch, 1, 1, sequence]`: 0 for tokens, [`MASK_VALUE`] for padding.
    fn mask(&mut self, attention_mask: &str) -> String {
        let b = &mut self.builder;
        let axis = |axis| vec![ints_attribute("axes", &[axis])];
        let mask = b.node("mask/unsqueezed_1", "Unsqueeze", &[attention_mask], axis(1));
        let mask = b.node("mask/unsqueezed_2", "Unsqueeze", &[&mask], axis(2));
        let mask = b.node("mask/float", "Cast", &[&mask], vec![int_attribute("to", DataType::Float as i64)]);
        let (one, value) = (b.scalar("mask/one", 1.0), b.scalar("mask/value", MASK_VALUE));
        let inverted = b.node("mask/inverted", "Sub", &[&one, &mask], vec![]);
        b.node("mask/output", "Mul", &[&inverted, &value], vec![])
    }

    /// `[batch, sequence, hidden]` → the same
    fn attention(&mut self, prefix: &str, parameter: &str, x: &str, mask: &str) -> Result<String> {
        let (heads, hidden) = (self.config().num_attention_heads, self.config().hidden_size);
        let name = |part: &str| format!("{prefix}/{part}");
        let query = self.linear(&name("query"), &format!("{parameter}.self.query"), x)?;
        let key = self.linear(&name("key"), &format!("{parameter}.self.key"), x)?;
        let value = self.linear(&name("value"), &format!("{parameter}.self.value"), x)?;
        let b = &mut self.builder;
        let split_shape = b.integers(&name("split_shape"), &[0, 0, heads as i64, (hidden / heads) as i64]);
        let merged_shape = b.integers(&name("merged_shape"), &[0, 0, hidden as i64]);
        // [batch, sequence, hidden] → [batch, heads, sequence, width], keys [batch, heads, width, sequence]
        let mut split = |part: &str, x: &str, permutation: &[i64]| {
            let reshaped = b.node(&name(&format!("{part}/reshaped")), "Reshape", &[x, &split_shape], vec![]);
            let permutation = vec![ints_attribute("perm", permutation)];
            b.node(&name(&format!("{part}/transposed")), "Transpose", &[&reshaped], permutation)
        };
        let query = split("query", &query, &[0, 2, 1, 3]);
        let key = split("key", &key, &[0, 2, 3, 1]);
        let value = split("value", &value, &[0, 2, 1, 3]);
        let root_width = b.scalar(&name("root_width"), ((hidden / heads) as f32).sqrt());
        let scores = b.node(&name("scores"), "MatMul", &[&query, &key], vec![]);
        let scaled = b.node(&name("scaled"), "Div", &[&scores, &root_width], vec![]);
        let masked = b.node(&name("masked"), "Add", &[&scaled, mask], vec![]);
        let probabilities = b.node(&name("probabilities"), "Softmax", &[&masked], vec![int_attribute("axis", 3)]);
        let context = b.node(&name("context"), "MatMul", &[&probabilities, &value], vec![]);
        let transposed =
            b.node(&name("context/transposed"), "Transpose", &[&context], vec![ints_attribute("perm", &[0, 2, 1, 3])]);
        let merged = b.node(&name("context/merged"), "Reshape", &[&transposed, &merged_shape], vec![]);
        self.linear(&name("output"), &format!("{parameter}.output.dense"), &merged)
    }

    /// `[batch, sequence, hidden]` → the same
    fn layer(&mut self, index: usize, x: &str, mask: &str) -> Result<String> {
        let name = |part: &str| format!("layer.{index}/{part}");
        let parameter = |part: &str| format!("bert.encoder.layer.{index}.{part}");
        let attended = self.attention(&name("attention"), &parameter("attention"), x, mask)?;
        let residual = self.builder.node(&name("attention/residual"), "Add", &[&attended, x], vec![]);
        let norm = parameter("attention.output.LayerNorm");
        let attended = self.layer_norm(&name("attention/norm"), &norm, &residual, &name("attention/normalized"))?;
        let intermediate = self.linear(&name("intermediate"), &parameter("intermediate.dense"), &attended)?;
        let activated = self.gelu(&name("intermediate/gelu"), &intermediate);
        let output = self.linear(&name("feed_forward"), &parameter("output.dense"), &activated)?;
        let residual = self.builder.node(&name("feed_forward/residual"), "Add", &[&output, &attended], vec![]);
        self.layer_norm(&name("feed_forward/norm"), &parameter("output.LayerNorm"), &residual, &name("output"))
    }

    fn classifier(&mut self) -> Result<()> {
        let axes = || [Axis::Named("batch"), Axis::Named("sequence")];
        let [input_ids, attention_mask, token_type_ids] = ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| self.builder.input(name, DataType::Int64, &axes()));
        let mut x = self.embeddings(&input_ids, &token_type_ids)?;
        let mask = self.mask(&attention_mask);
        for index in 0..self.config().num_hidden_layers {
            x = self.layer(index, &x, &mask)?;
        }
        // [batch, sequence, hidden] → the first token's [batch, hidden]
        let b = &mut self.builder;
        let first = b.integer("first_token/index", 0);
        let first_token = b.node("first_token", "Gather", &[&x, &first], vec![int_attribute("axis", 1)]);
        let pooled = self.linear("pooler", "bert.pooler.dense", &first_token)?;
        let pooled = self.builder.node("pooler/tanh", "Tanh", &[&pooled], vec![]);
        let weight = self.parameter("classifier.weight", true)?;
        let bias = self.parameter("classifier.bias", false)?;
        let product = self.builder.node("classifier/matmul", "MatMul", &[&pooled, &weight], vec![]);
        self.builder.node("logits", "Add", &[&product, &bias], vec![]);
        let labels = self.model.labels.len();
        self.builder.output("logits", DataType::Float, &[Axis::Named("batch"), Axis::Size(labels)]);
        Ok(())
    }
}
