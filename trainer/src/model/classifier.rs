//! An encoder of the BERT family with a classification head: embeddings, layers, two linear layers.
//!
//! A batch is packed: the tokens of all texts follow one another without padding. Shapes below use `tokens` for their
//! number, `rows` for the number of texts, `hidden` and `labels` for the sizes of the model.

use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};

use super::{
    config::EncoderConfig,
    gradients::{Gradient, Gradients},
    parameters::{LoadReport, Loader, Parameters, read_tensors},
};
use crate::{
    compute::Compute,
    dataloader::PackedBatch,
    error::{Error, Result},
    ops::{self, Activation, Attention, Dropout, GradientSink},
    random::DropoutKeys,
};

/// An encoder with a classification head.
#[derive(Debug)]
pub struct SequenceClassifier {
    /// The encoder's shape.
    pub config: EncoderConfig,
    /// Label names by id.
    pub labels: Vec<String>,
    parameters: Parameters,
    /// Where the linear layers leave their gradients.
    gradients: GradientSink,
    /// Where it computes; its parameters are there too.
    compute: Compute,
    /// How many layers keep their weights, the embeddings before them too; none: not even those.
    frozen_layers: Option<usize>,
    embeddings_norm: LayerNorm,
    /// From the embeddings' width to the encoder's, where they differ.
    embeddings_project: Option<Linear>,
    layers: Vec<Layer>,
    head_dense: Linear,
    head_output: Linear,
}

/// A table of embeddings, and which of its rows a batch picks.
struct Table<'a> {
    name: String,
    ids: Cow<'a, [u32]>,
}

/// What the encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The sums of word, position and token type embeddings, `[tokens, embedding]`: where the graph begins, unless the
    /// embeddings are frozen.
    embedding_sums: Tensor,
    /// Output of the embeddings, then of each layer: `[tokens, hidden]`. The last is `[rows, hidden]`, the first token
    /// of each text, unless all tokens were asked for.
    pub hidden_states: Vec<Tensor>,
}

/// What the model makes of a batch.
#[derive(Debug)]
pub struct Output {
    /// `[texts, labels]`; of a text in several windows, the mean of theirs.
    pub logits: Tensor,
    /// What led to them.
    pub encoded: Encoded,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
    gradients: GradientSink,
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
    activation: Activation,
    output: Linear,
    output_norm: LayerNorm,
}

impl Linear {
    fn load(loader: &mut Loader, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: loader.read(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: loader.read(&format!("{name}.bias"), &[outputs])?,
            gradients: loader.gradients(),
        })
    }

    /// A layer of the head, made anew where the file lacks it.
    fn load_or_new(loader: &mut Loader, name: &str, inputs: usize, outputs: usize, deviation: f32) -> Result<Self> {
        Ok(Self {
            weight: loader.read_or_normal(&format!("{name}.weight"), &[outputs, inputs], deviation)?,
            bias: loader.read_or_normal(&format!("{name}.bias"), &[outputs], 0.0)?,
            gradients: loader.gradients(),
        })
    }

    fn freeze(&mut self) {
        (self.weight, self.bias) = (self.weight.detach(), self.bias.detach());
    }

    /// `[n, inputs]` → `[n, outputs]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, Some(&self.bias), Some(&self.gradients))?)
    }
}

impl LayerNorm {
    fn load(loader: &mut Loader, name: &str, width: usize, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: loader.read(&format!("{name}.weight"), &[width])?,
            bias: loader.read(&format!("{name}.bias"), &[width])?,
            eps,
        })
    }

    fn freeze(&mut self) {
        (self.weight, self.bias) = (self.weight.detach(), self.bias.detach());
    }

    /// `[n, hidden]` → `[n, hidden]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}

impl Layer {
    fn load(loader: &mut Loader, index: usize, config: &EncoderConfig) -> Result<Self> {
        let (hidden, intermediate, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let names = &config.family.names;
        let name = |part: &str| names.in_layer(index, part);
        Ok(Self {
            query: Linear::load(loader, &name(names.query), hidden, hidden)?,
            key: Linear::load(loader, &name(names.key), hidden, hidden)?,
            value: Linear::load(loader, &name(names.value), hidden, hidden)?,
            attention_output: Linear::load(loader, &name(names.attention_output), hidden, hidden)?,
            attention_norm: LayerNorm::load(loader, &name(names.attention_norm), hidden, eps)?,
            intermediate: Linear::load(loader, &name(names.intermediate), hidden, intermediate)?,
            activation: config.hidden_act,
            output: Linear::load(loader, &name(names.output), intermediate, hidden)?,
            output_norm: LayerNorm::load(loader, &name(names.output_norm), hidden, eps)?,
        })
    }

    fn freeze(&mut self) {
        let Self { query, key, value, attention_output, intermediate, output, attention_norm, output_norm, .. } = self;
        [query, key, value, attention_output, intermediate, output].into_iter().for_each(Linear::freeze);
        [attention_norm, output_norm].into_iter().for_each(LayerNorm::freeze);
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
        let intermediate = ops::activation(&self.intermediate.forward(&x)?, self.activation)?;
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
        let tensors = read_tensors(path, &config.family.names)?;
        Self::from_tensors(path, tensors, config, labels, seed)
    }

    /// The same from tensors by name, which come from `path`.
    ///
    /// # Errors
    /// Those of [`SequenceClassifier::load`].
    pub fn from_tensors(
        path: &Path,
        tensors: BTreeMap<String, Tensor>,
        config: EncoderConfig,
        labels: &[String],
        seed: u64,
    ) -> Result<(Self, LoadReport)> {
        let names = &config.family.names;
        let mut loader = Loader::new(path, tensors, seed);
        let (hidden, embedding, deviation) = (config.hidden_size, config.embedding_size, config.initializer_range);
        for (name, rows) in [
            (names.word_embeddings(), config.vocab_size),
            (names.position_embeddings(), config.max_position_embeddings),
            (names.token_type_embeddings(), config.type_vocab_size),
        ] {
            if rows > 0 {
                loader.read(&name, &[rows, embedding])?;
            }
        }
        let embeddings_norm = LayerNorm::load(&mut loader, &names.embeddings_norm(), embedding, config.layer_norm_eps)?;
        let embeddings_project = match embedding == hidden {
            true => None,
            false => Some(Linear::load(&mut loader, &names.embeddings_project(), embedding, hidden)?),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&mut loader, index, &config))
            .collect::<Result<Vec<_>>>()?;
        // Whatever is wrong with the labels of a head that is not used does not matter.
        if !config.own_labels().is_ok_and(|own| own == labels) {
            loader.ignore(&format!("{}.weight", names.head_output));
            loader.ignore(&format!("{}.bias", names.head_output));
        }
        let head_dense = Linear::load_or_new(&mut loader, names.head_dense, hidden, hidden, deviation)?;
        let head_output = Linear::load_or_new(&mut loader, names.head_output, hidden, labels.len(), deviation)?;
        let gradients = loader.gradients();
        let (parameters, report) = loader.finish();
        let labels = labels.to_vec();
        let model = Self {
            config,
            labels,
            parameters,
            gradients,
            compute: Compute::default(),
            frozen_layers: None,
            embeddings_norm,
            embeddings_project,
            layers,
            head_dense,
            head_output,
        };
        Ok((model, report))
    }

    /// Leaves the embeddings and the first `layers` layers out of training: what lies under the first trainable layer
    /// belongs to no graph, so it costs neither a backward pass nor memory for one, nor optimizer state.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are not so many layers.
    pub fn freeze(&mut self, layers: usize) -> Result<()> {
        if layers > self.layers.len() {
            let expected = format!("at most the model's {} layers", self.layers.len());
            return Err(Error::setting("--freeze-layers", expected, layers));
        }
        self.frozen_layers = Some(layers);
        self.embeddings_norm.freeze();
        self.embeddings_project.iter_mut().for_each(Linear::freeze);
        self.layers[..layers].iter_mut().for_each(Layer::freeze);
        let names = &self.config.family.names;
        let layer_prefixes = (0..layers).map(|index| names.in_layer(index, ""));
        let prefixes: Vec<String> = layer_prefixes.chain([names.embeddings_prefix()]).collect();
        self.parameters.freeze(&prefixes);
        Ok(())
    }

    /// A copy that computes elsewhere, with the same layers frozen.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device has not enough memory.
    pub fn on(&self, compute: &Compute) -> Result<Self> {
        let moved = |(name, var): (&str, &Var)| Ok((name.to_owned(), var.to_device(&compute.device)?));
        let tensors = self.parameters.iter().map(moved).collect::<Result<BTreeMap<_, _>>>()?;
        // The head fits, whatever labels the base's config.json names.
        let config = self.config.clone().with_labels(&self.labels);
        let (model, report) = Self::from_tensors(&self.config.path, tensors, config, &self.labels, 0)?;
        report.expect_trained()?;
        let mut model = Self { config: self.config.clone(), compute: compute.clone(), ..model };
        if let Some(layers) = self.frozen_layers {
            model.freeze(layers)?;
        }
        Ok(model)
    }

    /// How far a parameter lies from the input: 0 for the embeddings, i + 1 for layer i, the number of layers plus 1 for
    /// the head.
    pub fn depth(&self, name: &str) -> usize {
        let names = &self.config.family.names;
        let layers = self.layers.len();
        let layer = (0..layers).find(|&index| name.starts_with(&names.in_layer(index, "")));
        match layer {
            Some(index) => index + 1,
            None if name.starts_with(&names.embeddings_prefix()) => 0,
            None => layers + 1,
        }
    }

    /// The tensors.
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
        let normalized = self.embeddings_norm.forward(&embedding_sums)?.to_dtype(self.compute.dtype)?;
        let embedded = ops::dropout(&normalized, keys.next(config.hidden_dropout_prob))?;
        let mut hidden_states = vec![match &self.embeddings_project {
            Some(project) => project.forward(&embedded)?,
            None => embedded,
        }];
        let all: Arc<[usize]> = batch.offsets.clone().into();
        for (index, layer) in self.layers.iter().enumerate() {
            let x = &hidden_states[index];
            let attention_dropout = keys.next(config.attention_probs_dropout_prob);
            let mut attention = Attention {
                heads: config.num_attention_heads,
                queries: all.clone(),
                keys: all.clone(),
                dropout: attention_dropout,
                window: None,
                relative: None,
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

    /// Logits of a batch, on the CPU; dropout only where keys for it are given.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn forward(&self, batch: &PackedBatch, dropout: Option<&mut DropoutKeys>) -> Result<Output> {
        let mut no_dropout = DropoutKeys::none();
        let keys = dropout.unwrap_or(&mut no_dropout);
        let encoded = self.encode(batch, false, Some(&mut *keys))?;
        let head = self.config.family.head;
        let p = self.config.classifier_dropout;
        let first = encoded.hidden_states[self.layers.len()].clone();
        let first = if head.drops_input { ops::dropout(&first, keys.next(p))? } else { first };
        let dense = ops::activation(&self.head_dense.forward(&first)?, head.activation)?;
        let logits = self.head_output.forward(&ops::dropout(&dense, keys.next(p))?)?;
        let logits = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        Ok(Output { logits: mean_over_windows(logits, batch)?, encoded })
    }

    /// The gradient of `loss`, computed from `output`, with respect to every parameter that is not frozen.
    ///
    /// # Errors
    /// [`Error::Tensor`], also if a parameter has no gradient: some operation has cut the graph.
    pub fn backward(&self, loss: &Tensor, output: &Output, batch: &PackedBatch) -> Result<Gradients> {
        self.gradients.clear();
        let mut store = loss.backward()?;
        let mut take = |name: &str, tensor: &Tensor| {
            let cut = || Error::Tensor(candle_core::Error::Msg(format!("no gradient reaches {name}")));
            self.gradients.take(tensor).or_else(|| store.remove(tensor)).ok_or_else(cut)
        };
        let mut gradients = BTreeMap::new();
        if self.frozen_layers.is_none() {
            let sums = take("the embeddings", &output.encoded.embedding_sums)?.flatten_all()?.to_vec1::<f32>()?;
            let width = self.config.embedding_size;
            let rows = |table: Table<'_>| (table.name, Gradient::of_rows(&table.ids, &sums, width));
            gradients.extend(self.tables(batch).into_iter().map(rows));
        }
        for (name, var) in self.parameters.trainable() {
            if !gradients.contains_key(name) {
                gradients.insert(name.to_owned(), Gradient::Dense(take(name, var)?));
            }
        }
        Ok(Gradients(gradients))
    }

    /// The tables whose rows are summed to embed a batch.
    fn tables<'a>(&self, batch: &'a PackedBatch) -> Vec<Table<'a>> {
        let names = &self.config.family.names;
        let offset = self.config.position_offset as u32;
        let positions = batch.position_ids.iter().map(|position| position + offset).collect();
        let mut tables = vec![
            Table { name: names.word_embeddings(), ids: Cow::Borrowed(&batch.input_ids) },
            Table { name: names.position_embeddings(), ids: Cow::Owned(positions) },
        ];
        if self.config.type_vocab_size > 0 {
            tables.push(Table { name: names.token_type_embeddings(), ids: Cow::Borrowed(&batch.token_type_ids) });
        }
        tables
    }

    /// word + position + token type embedding of each token, `[tokens, embedding]`, as the leaf at which the graph ends:
    /// the tables' gradients are made from its gradient, see [`Gradient::Rows`].
    fn embedding_sums(&self, batch: &PackedBatch) -> Result<Tensor> {
        let mut sums: Option<Tensor> = None;
        for Table { name, ids } in self.tables(batch) {
            let table = self.parameters.get(&name).expect("loaded with the model").as_detached_tensor();
            let rows = table.index_select(&Tensor::new(&*ids, table.device())?, 0)?;
            sums = Some(match sums {
                None => rows,
                Some(sums) => (sums + rows)?,
            });
        }
        let sums = sums.expect("words and positions");
        match self.frozen_layers {
            Some(_) => Ok(sums),
            None => Ok(Var::from_tensor(&sums)?.into_inner()),
        }
    }
}

/// The first token's row of each text: `[tokens, hidden]` → `[rows, hidden]`.
fn first_tokens(x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
    let first: Vec<u32> = batch.offsets[..batch.rows()].iter().map(|&offset| offset as u32).collect();
    Ok(x.index_select(&Tensor::new(first, x.device())?, 0)?)
}

/// `[windows, labels]` → `[texts, labels]`.
fn mean_over_windows(logits: Tensor, batch: &PackedBatch) -> Result<Tensor> {
    let (windows, texts) = (batch.rows(), batch.texts.len() - 1);
    if windows == texts {
        return Ok(logits);
    }
    let mut shares = vec![0.0f32; texts * windows];
    for (text, range) in batch.texts.windows(2).enumerate() {
        shares[text * windows..][range[0]..range[1]].fill(1.0 / (range[1] - range[0]) as f32);
    }
    Ok(Tensor::from_vec(shares, (texts, windows), &Device::Cpu)?.matmul(&logits)?)
}
