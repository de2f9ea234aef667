//! The graph of a classifier of the BERT family, in standard operators.
//!
//! Layer normalization, GELU and attention are spelled out the way PyTorch's exporter does. ONNX Runtime's optimizer
//! knows these patterns and replaces each by one operator when it loads the graph (a test counts them); readers
//! without such an optimizer find operators that all of them have.

use candle_onnx::onnx::{ModelProto, tensor_proto::DataType};

use super::graph::{Axis, GraphBuilder, int_attribute, ints_attribute};
use crate::{
    error::Result,
    model::{EncoderConfig, Names, SequenceClassifier},
    ops::{Activation, GELU_CUBIC, ROOT_TWO_OVER_PI},
};

/// What is added to the attention scores of padding. Softmax turns it into exactly 0, and ONNX Runtime's attention
/// fusion asks for this value.
const MASK_VALUE: f32 = -10_000.0;

/// The graph of `model` in fp32: inputs `input_ids`, `attention_mask` and, where the architecture has token types,
/// `token_type_ids` (`int64 [batch, sequence]`), output `logits` (`float [batch, labels]`). The output of layer i is the value `layer.i/output`.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn export(model: &SequenceClassifier) -> Result<ModelProto> {
    let mut exporter = Exporter { builder: GraphBuilder::default(), model };
    exporter.classifier()?;
    Ok(exporter.builder.finish("sequence-classification"))
}

struct Exporter<'a> {
    builder: GraphBuilder,
    model: &'a SequenceClassifier,
}

impl Exporter<'_> {
    fn config(&self) -> &EncoderConfig {
        &self.model.config
    }

    fn names(&self) -> &'static Names {
        self.model.config.architecture.names()
    }

    /// The parameter `name` as a constant; a matrix is transposed, so that it multiplies from the right.
    fn parameter(&mut self, name: &str, transpose: bool) -> Result<String> {
        let tensor = self.model.parameters().get(name).expect("a parameter of the model").as_detached_tensor();
        let tensor = if transpose { tensor.t()? } else { tensor };
        self.builder.floats(name, &tensor)
    }

    /// x `[…, in]` → `[…, out]`
    fn linear(&mut self, prefix: &str, parameter: &str, x: &str) -> Result<String> {
        self.named_linear(prefix, parameter, x, &format!("{prefix}/add"))
    }

    /// The same; the last node is called `output`.
    fn named_linear(&mut self, prefix: &str, parameter: &str, x: &str, output: &str) -> Result<String> {
        let weight = self.parameter(&format!("{parameter}.weight"), true)?;
        let bias = self.parameter(&format!("{parameter}.bias"), false)?;
        let product = self.builder.node(&format!("{prefix}/matmul"), "MatMul", &[x, &weight], vec![]);
        Ok(self.builder.node(output, "Add", &[&product, &bias], vec![]))
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

    /// The activation of each element.
    fn activation(&mut self, prefix: &str, x: &str, activation: Activation) -> String {
        let b = &mut self.builder;
        let name = |part: &str| format!("{prefix}/{part}");
        match activation {
            Activation::Relu => b.node(&name("relu"), "Relu", &[x], vec![]),
            Activation::Tanh => b.node(&name("tanh"), "Tanh", &[x], vec![]),
            // x · ½ (1 + erf(x / √2))
            Activation::Gelu => {
                let root_two = b.scalar(&name("root_two"), std::f32::consts::SQRT_2);
                let (one, half) = (b.scalar(&name("one"), 1.0), b.scalar(&name("half"), 0.5));
                let scaled = b.node(&name("scaled"), "Div", &[x, &root_two], vec![]);
                let erf = b.node(&name("erf"), "Erf", &[&scaled], vec![]);
                let shifted = b.node(&name("shifted"), "Add", &[&erf, &one], vec![]);
                let product = b.node(&name("product"), "Mul", &[x, &shifted], vec![]);
                b.node(&name("gelu"), "Mul", &[&product, &half], vec![])
            }
            // ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))
            Activation::GeluTanh => {
                let (three, cubic) = (b.scalar(&name("three"), 3.0), b.scalar(&name("cubic"), GELU_CUBIC));
                let root = b.scalar(&name("root"), ROOT_TWO_OVER_PI);
                let (one, half) = (b.scalar(&name("one"), 1.0), b.scalar(&name("half"), 0.5));
                let cube = b.node(&name("cube"), "Pow", &[x, &three], vec![]);
                let cube = b.node(&name("scaled_cube"), "Mul", &[&cube, &cubic], vec![]);
                let sum = b.node(&name("sum"), "Add", &[x, &cube], vec![]);
                let argument = b.node(&name("argument"), "Mul", &[&sum, &root], vec![]);
                let tanh = b.node(&name("tanh"), "Tanh", &[&argument], vec![]);
                let shifted = b.node(&name("shifted"), "Add", &[&tanh, &one], vec![]);
                let product = b.node(&name("product"), "Mul", &[x, &shifted], vec![]);
                b.node(&name("gelu"), "Mul", &[&product, &half], vec![])
            }
        }
    }

    /// word + position + token type embeddings, normalized, and brought to the encoder's width:
    /// `[batch, sequence, hidden]`
    fn embeddings(&mut self, input_ids: &str, token_type_ids: Option<&str>) -> Result<String> {
        let names = self.names();
        let words = self.parameter(&names.word_embeddings(), false)?;
        let positions = self.parameter(&names.position_embeddings(), false)?;
        let token_types = match token_type_ids {
            Some(ids) => Some((self.parameter(&names.token_type_embeddings(), false)?, ids)),
            None => None,
        };
        let offset = self.config().position_offset as i64;
        let b = &mut self.builder;
        let rows = || vec![int_attribute("axis", 0)];
        let mut sum = b.node("embeddings/word", "Gather", &[&words, input_ids], rows());
        if let Some((token_types, ids)) = token_types {
            let token_type = b.node("embeddings/token_type", "Gather", &[&token_types, ids], rows());
            sum = b.node("embeddings/word_token_type", "Add", &[&sum, &token_type], vec![]);
        }
        // The token at place i of a text has row offset + i: the same `sequence` rows serve every text.
        let shape = b.node("embeddings/shape", "Shape", &[input_ids], vec![]);
        let (zero, one, two) = (
            b.integers("embeddings/zero", &[0]),
            b.integers("embeddings/one", &[1]),
            b.integers("embeddings/two", &[2]),
        );
        let length = b.node("embeddings/length", "Slice", &[&shape, &one, &two, &zero], vec![]);
        let start = b.integers("embeddings/start", &[offset]);
        let end = match offset {
            0 => length,
            _ => b.node("embeddings/end", "Add", &[&length, &start], vec![]),
        };
        let position = b.node("embeddings/position", "Slice", &[&positions, &start, &end, &zero], vec![]);
        let sum = b.node("embeddings/sum", "Add", &[&sum, &position], vec![]);
        let is_projected = self.config().embedding_size != self.config().hidden_size;
        let norm_output = if is_projected { "embeddings/normalized" } else { "embeddings/output" };
        let normalized = self.layer_norm("embeddings/norm", &names.embeddings_norm(), &sum, norm_output)?;
        match is_projected {
            true => {
                let parameter = names.embeddings_project();
                self.named_linear("embeddings/project", &parameter, &normalized, "embeddings/output")
            }
            false => Ok(normalized),
        }
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
    fn attention(&mut self, prefix: &str, index: usize, x: &str, mask: &str) -> Result<String> {
        let names = self.names();
        let (heads, hidden) = (self.config().num_attention_heads, self.config().hidden_size);
        let name = |part: &str| format!("{prefix}/{part}");
        let query = self.linear(&name("query"), &names.in_layer(index, names.query), x)?;
        let key = self.linear(&name("key"), &names.in_layer(index, names.key), x)?;
        let value = self.linear(&name("value"), &names.in_layer(index, names.value), x)?;
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
        self.linear(&name("output"), &names.in_layer(index, names.attention_output), &merged)
    }

    /// `[batch, sequence, hidden]` → the same
    fn layer(&mut self, index: usize, x: &str, mask: &str) -> Result<String> {
        let names = self.names();
        let name = |part: &str| format!("layer.{index}/{part}");
        let parameter = |part: &str| names.in_layer(index, part);
        let attended = self.attention(&name("attention"), index, x, mask)?;
        let residual = self.builder.node(&name("attention/residual"), "Add", &[&attended, x], vec![]);
        let norm = parameter(names.attention_norm);
        let attended = self.layer_norm(&name("attention/norm"), &norm, &residual, &name("attention/normalized"))?;
        let intermediate = self.linear(&name("intermediate"), &parameter(names.intermediate), &attended)?;
        let activated = self.activation(&name("intermediate/activation"), &intermediate, self.config().hidden_act);
        let output = self.linear(&name("feed_forward"), &parameter(names.output), &activated)?;
        let residual = self.builder.node(&name("feed_forward/residual"), "Add", &[&output, &attended], vec![]);
        self.layer_norm(&name("feed_forward/norm"), &parameter(names.output_norm), &residual, &name("output"))
    }

    fn classifier(&mut self) -> Result<()> {
        let axes = || [Axis::Named("batch"), Axis::Named("sequence")];
        let mut input = |name: &str| self.builder.input(name, DataType::Int64, &axes());
        let (input_ids, attention_mask) = (input("input_ids"), input("attention_mask"));
        let token_type_ids = (self.model.config.type_vocab_size > 0).then(|| input("token_type_ids"));
        let mut x = self.embeddings(&input_ids, token_type_ids.as_deref())?;
        let mask = self.mask(&attention_mask);
        for index in 0..self.config().num_hidden_layers {
            x = self.layer(index, &x, &mask)?;
        }
        // [batch, sequence, hidden] → the first token's [batch, hidden]
        let b = &mut self.builder;
        let first = b.integer("first_token/index", 0);
        let first_token = b.node("first_token", "Gather", &[&x, &first], vec![int_attribute("axis", 1)]);
        let names = self.names();
        let dense = self.linear("head/dense", names.head_dense, &first_token)?;
        let activated = self.activation("head", &dense, self.config().architecture.head_activation());
        self.named_linear("head/output", names.head_output, &activated, "logits")?;
        let labels = self.model.labels.len();
        self.builder.output("logits", DataType::Float, &[Axis::Named("batch"), Axis::Size(labels)]);
        Ok(())
    }
}
