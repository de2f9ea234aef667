//! BERT for sequence classification (Devlin et al., arXiv 1810.04805): encoder, pooler, classifier.
//!
//! A batch is packed: the tokens of all texts follow one another without padding. Shapes below use `tokens` for their
//! number, `rows` for the number of texts, `hidden` and `labels` for the sizes of the model.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{Device, Tensor, Var};

use super::{
    config::EncoderConfig,
    gradients::{Gradient, Gradients},
    parameters::{LoadReport, Loader, Parameters},
};
use crate::{
    dataloader::PackedBatch,
    error::{Error, Result},
    ops::{self, Attention, Dropout},
    random::DropoutKeys,
};

const WORD_EMBEDDINGS: &str = "bert.embeddings.word_embeddings.weight";
const POSITION_EMBEDDINGS: &str = "bert.embeddings.position_embeddings.weight";
const TOKEN_TYPE_EMBEDDINGS: &str = "bert.embeddings.token_type_embeddings.weight";

/// A BERT encoder with a classification head, all of whose parameters are trainable.
#[derive(Debug)]
pub struct SequenceClassifier {
    /// The encoder's shape.
    pub config: EncoderConfig,
    /// Label names by id.
    pub labels: Vec<String>,
    parameters: Parameters,
    embeddings_norm: LayerNorm,
    layers: Vec<Layer>,
    pooler: Linear,
    classifier: Linear,
}

/// What the encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The sums of word, position and token type embeddings, `[tokens, hidden]`: where the graph begins.
    embedding_sums: Var,
    /// Output of the embeddings, then of each layer: `[tokens, hidden]`. The last is `[rows, hidden]`, the first token
    /// of each text, unless all tokens were asked for.
    pub hidden_states: Vec<Tensor>,
}

/// What the model makes of a batch.
#[derive(Debug)]
pub struct Output {
    /// `[rows, labels]`.
    pub logits: Tensor,
    encoded: Encoded,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Linear {
    fn load(loader: &mut Loader, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: loader.read(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: loader.read(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// A layer of the head, made anew where the file lacks it.
    fn load_or_new(loader: &mut Loader, name: &str, inputs: usize, outputs: usize, deviation: f32) -> Result<Self> {
        Ok(Self {
            weight: loader.read_or_normal(&format!("{name}.weight"), &[outputs, inputs], deviation)?,
            bias: loader.read_or_normal(&format!("{name}.bias"), &[outputs], 0.0)?,
        })
    }

    /// `[n, inputs]` → `[n, outputs]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, &self.bias)?)
    }
}

impl LayerNorm {
    fn load(loader: &mut Loader, name: &str, config: &EncoderConfig) -> Result<Self> {
        Ok(Self {
            weight: loader.read(&format!("{name}.weight"), &[config.hidden_size])?,
            bias: loader.read(&format!("{name}.bias"), &[config.hidden_size])?,
            eps: config.layer_norm_eps,
        })
    }

    /// `[n, hidden]` → `[n, hidden]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}

impl Layer {
    fn load(loader: &mut Loader, index: usize, config: &EncoderConfig) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("bert.encoder.layer.{index}.{part}");
        Ok(Self {
            query: Linear::load(loader, &name("attention.self.query"), hidden, hidden)?,
            key: Linear::load(loader, &name("attention.self.key"), hidden, hidden)?,
            value: Linear::load(loader, &name("attention.self.value"), hidden, hidden)?,
            attention_output: Linear::load(loader, &name("attention.output.dense"), hidden, hidden)?,
            attention_norm: LayerNorm::load(loader, &name("attention.output.LayerNorm"), config)?,
            intermediate: Linear::load(loader, &name("intermediate.dense"), hidden, intermediate)?,
            output: Linear::load(loader, &name("output.dense"), intermediate, hidden)?,
            output_norm: LayerNorm::load(loader, &name("output.LayerNorm"), config)?,
        })
    }

    /// `x` `[tokens, hidden]` are the keys and values, `queries` the rows that the layer answers for: `x` itself, or
    /// some of its rows, described by `attention`. Result: as many rows as `queries`.
    fn forward(
        &self,
        x: &Tensor,
        queries: &Tensor,
        attention: Attention,
        dropout: [Option<Dropout>; 2],
    ) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(queries)?, self.key.forward(x)?, self.value.forward(x)?);
        let context = ops::attention(&q, &k, &v, attention)?;
        let attended = self.attention_output.forward(&context)?;
        let x = self.attention_norm.forward(&ops::dropout_add(&attended, queries, dropout[0])?)?;
        let intermediate = ops::gelu(&self.intermediate.forward(&x)?)?;
        let output = self.output.forward(&intermediate)?;
        self.output_norm.forward(&ops::dropout_add(&output, &x, dropout[1])?)
    }
}

impl SequenceClassifier {
    /// Loads the weights at `path` (safetensors) for a classifier with `labels`. The encoder must be complete. A
    /// classifier in the file is used if config.json names the same labels; else it is made anew from `seed`, and so is
    /// a missing pooler.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] naming the tensor that is missing or of another shape than config.json says.
    pub fn load(path: &Path, config: EncoderConfig, labels: &[String], seed: u64) -> Result<(Self, LoadReport)> {
        let mut loader = Loader::open(path, seed)?;
        let (hidden, deviation) = (config.hidden_size, config.initializer_range);
        for (name, rows) in [
            (WORD_EMBEDDINGS, config.vocab_size),
            (POSITION_EMBEDDINGS, config.max_position_embeddings),
            (TOKEN_TYPE_EMBEDDINGS, config.type_vocab_size),
        ] {
            loader.read(name, &[rows, hidden])?;
        }
        let embeddings_norm = LayerNorm::load(&mut loader, "bert.embeddings.LayerNorm", &config)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&mut loader, index, &config))
            .collect::<Result<Vec<_>>>()?;
        let pooler = Linear::load_or_new(&mut loader, "bert.pooler.dense", hidden, hidden, deviation)?;
        if config.own_labels()? != labels {
            loader.ignore("classifier.weight");
            loader.ignore("classifier.bias");
        }
        let classifier = Linear::load_or_new(&mut loader, "classifier", hidden, labels.len(), deviation)?;
        let (parameters, report) = loader.finish();
        let labels = labels.to_vec();
        Ok((Self { config, labels, parameters, embeddings_norm, layers, pooler, classifier }, report))
    }

    /// The trainable tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Embeddings and all layers. With `all_tokens` false the last layer computes only what the classifier reads: the
    /// first token of each text. The result for that token is the same, and most of one layer's work is saved.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn encode(&self, batch: &PackedBatch, all_tokens: bool, dropout: Option<&mut DropoutKeys>) -> Result<Encoded> {
        let mut no_dropout = DropoutKeys::none();
        let keys = dropout.unwrap_or(&mut no_dropout);
        let config = &self.config;
        let embedding_sums = self.embedding_sums(batch)?;
        let normalized = self.embeddings_norm.forward(&embedding_sums)?;
        let mut hidden_states = vec![ops::dropout(&normalized, keys.next(config.hidden_dropout_prob))?];
        let all: Arc<[usize]> = batch.offsets.clone().into();
        for (index, layer) in self.layers.iter().enumerate() {
            let x = &hidden_states[index];
            let attention_dropout = keys.next(config.attention_probs_dropout_prob);
            let mut attention = Attention {
                heads: config.num_attention_heads,
                queries: all.clone(),
                keys: all.clone(),
                dropout: attention_dropout,
            };
            let dropout = [keys.next(config.hidden_dropout_prob), keys.next(config.hidden_dropout_prob)];
            let shortcut = !all_tokens && index + 1 == self.layers.len();
            let queries = if shortcut {
                attention.queries = (0..=batch.rows()).collect();
                first_tokens(x, batch)?
            } else {
                x.clone()
            };
            let output = layer.forward(x, &queries, attention, dropout)?;
            hidden_states.push(output);
        }
        Ok(Encoded { embedding_sums, hidden_states })
    }

    /// Logits of a batch; dropout only where keys for it are given.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn forward(&self, batch: &PackedBatch, mut dropout: Option<&mut DropoutKeys>) -> Result<Output> {
        let encoded = self.encode(batch, false, dropout.as_deref_mut())?;
        let first = &encoded.hidden_states[self.layers.len()];
        let pooled = self.pooler.forward(first)?.tanh()?;
        let pooled = match dropout {
            Some(keys) => ops::dropout(&pooled, keys.next(self.config.classifier_dropout))?,
            None => pooled,
        };
        let logits = self.classifier.forward(&pooled)?;
        Ok(Output { logits, encoded })
    }

    /// The gradient of `loss`, computed from `output`, with respect to every parameter.
    ///
    /// # Errors
    /// [`Error::Tensor`], also if a parameter has no gradient: some operation has cut the graph.
    pub fn backward(&self, loss: &Tensor, output: &Output, batch: &PackedBatch) -> Result<Gradients> {
        let mut store = loss.backward()?;
        let mut take = |name: &str, tensor: &Tensor| {
            let cut = || Error::Tensor(candle_core::Error::Msg(format!("no gradient reaches {name}")));
            store.remove(tensor).ok_or_else(cut)
        };
        let embedding_sums = take("the embeddings", &output.encoded.embedding_sums)?.flatten_all()?.to_vec1::<f32>()?;
        let hidden = self.config.hidden_size;
        let mut gradients = BTreeMap::new();
        for (name, var) in self.parameters.iter() {
            let gradient = match name {
                WORD_EMBEDDINGS => Gradient::of_rows(&batch.input_ids, &embedding_sums, hidden),
                POSITION_EMBEDDINGS => Gradient::of_rows(&batch.position_ids, &embedding_sums, hidden),
                TOKEN_TYPE_EMBEDDINGS => Gradient::of_rows(&batch.token_type_ids, &embedding_sums, hidden),
                _ => Gradient::Dense(take(name, var)?),
            };
            gradients.insert(name.to_owned(), gradient);
        }
        Ok(Gradients(gradients))
    }

    /// word + position + token type embedding of each token, `[tokens, hidden]`, as the leaf at which the graph ends:
    /// the tables' gradients are made from its gradient, see [`Gradient::Rows`].
    fn embedding_sums(&self, batch: &PackedBatch) -> Result<Var> {
        let mut sums: Option<Tensor> = None;
        for (name, ids) in [
            (WORD_EMBEDDINGS, &batch.input_ids),
            (POSITION_EMBEDDINGS, &batch.position_ids),
            (TOKEN_TYPE_EMBEDDINGS, &batch.token_type_ids),
        ] {
            let table = self.parameters.get(name).expect("loaded with the model").as_detached_tensor();
            let rows = table.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu)?, 0)?;
            sums = Some(match sums {
                None => rows,
                Some(sums) => (sums + rows)?,
            });
        }
        Ok(Var::from_tensor(&sums.expect("three tables"))?)
    }
}

/// The first token's row of each text: `[tokens, hidden]` → `[rows, hidden]`.
fn first_tokens(x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
    let first: Vec<u32> = batch.offsets[..batch.rows()].iter().map(|&offset| offset as u32).collect();
    Ok(x.index_select(&Tensor::new(first, &Device::Cpu)?, 0)?)
}
