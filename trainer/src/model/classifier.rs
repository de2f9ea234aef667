//! An encoder with a classification head: embeddings, layers, and what makes logits of their result.
//!
//! A batch is packed: the tokens of all texts follow one another without padding. Shapes below use `tokens` for their
//! number, `rows` for the number of texts, `hidden` and `labels` for the sizes of the model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, Var};
use sha2::{Digest as _, Sha256};

use super::{
    blocks::{Answers, BatchContext, DistanceTable, Embeddings, Head, Layer, Norm},
    config::{EncoderConfig, LayerConfig, Pooling},
    gradients::{Gradient, Gradients},
    parameters::{LoadReport, Loader, Parameters, read_tensors},
};
use crate::{
    compute::Compute,
    dataloader::PackedBatch,
    error::{Error, Result},
    logistic::LinearLayer,
    ops::{Angles, Tape},
    random::DropoutKeys,
    tasks::Tasks,
};

/// An encoder with a classification head. A clone shares the weights.
#[derive(Debug, Clone)]
pub struct SequenceClassifier {
    /// The encoder's shape.
    pub config: EncoderConfig,
    /// Label names by id.
    pub labels: Vec<String>,
    /// What is decided by them: one task, but for [`Self::with_tasks`].
    pub tasks: Tasks,
    /// Whether the last layer of the head, or the part of some labels, was made anew when the model was loaded.
    pub head_was_new: bool,
    parameters: Parameters,
    /// Whether the factors of products with weights are rounded to bfloat16.
    rounds_products: bool,
    /// Where it computes; its parameters are there too.
    compute: Compute,
    /// How many layers keep their weights, the embeddings before them too; none: not even those.
    frozen_layers: Option<usize>,
    pub(super) embeddings: Embeddings,
    /// What scores are moved by for distances, in all layers.
    pub(super) distances: Option<DistanceTable>,
    pub(super) layers: Vec<Layer>,
    /// Behind all layers.
    pub(super) final_norm: Option<Norm>,
    pub(super) head: Head,
}

/// What the encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The sums of word, position and token type embeddings, `[tokens, embedding]`: where the graph begins, unless the
    /// embeddings are frozen.
    embedding_sums: Tensor,
    /// Output of the embeddings, then of each layer: `[tokens, hidden]`. The last is `[rows, hidden]`, the first token
    /// of each text, if the head reads no more, unless all tokens were asked for.
    pub hidden_states: Vec<Tensor>,
    /// What led to them, for the way back.
    tape: Tape,
}

/// What the model makes of a batch.
#[derive(Debug)]
pub struct Output {
    /// `[texts, labels]`; of a text in several windows, the mean of theirs.
    pub logits: Tensor,
    /// What led to them.
    pub encoded: Encoded,
    /// What the head read: `[rows, hidden]`
    pub pooled: Tensor,
}

impl SequenceClassifier {
    /// Loads the weights at `path` (safetensors) for a classifier with `labels`. The encoder must be complete. A
    /// classifier in the file is used if config.json names the same labels, or the first of them: what further ones need is made
    /// anew from `seed`. Else all of it is, and so is a missing pooler.
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
        let mut loader = Loader::new(path, tensors, seed);
        let embeddings = Embeddings::load(&mut loader, &config)?;
        let distances = DistanceTable::load(&mut loader, &config)?;
        let mut angles = BTreeMap::new();
        let mut angles_of = |theta: f32| {
            let width = config.hidden_size / config.num_attention_heads;
            let new = || Arc::new(Angles::new(width, theta, config.max_tokens()));
            angles.entry(theta.to_bits()).or_insert_with(new).clone()
        };
        let layer = |(index, layer): (usize, &LayerConfig)| {
            Layer::load(&mut loader, index, &config, layer.rotary_theta.map(&mut angles_of))
        };
        let layers = config.layers.iter().enumerate().map(layer).collect::<Result<Vec<_>>>()?;
        let names = &config.family.names;
        let final_norm = match names.final_norm {
            "" => None,
            part => {
                let (width, has_bias) = (config.hidden_size, config.biases.norms);
                Some(Norm::load(&mut loader, &names.whole(part), width, has_bias, config.layer_norm_eps)?)
            }
        };
        // Whatever is wrong with the labels of a head that is not used does not matter.
        let own = config.own_labels().ok().filter(|own| labels.starts_with(own)).map(|own| own.len());
        let is_extended = own.is_some_and(|own| own < labels.len());
        for (part, deviation) in [("weight", config.initializer_range), ("bias", 0.0)] {
            let name = format!("{}.{part}", names.head_output);
            match own {
                None => loader.ignore(&name),
                Some(own) if own < labels.len() => loader.extend(&name, [own, labels.len()], deviation)?,
                Some(_) => {}
            }
        }
        let head = Head::load(&mut loader, &config, labels.len())?;
        let (parameters, report) = loader.finish();
        let last_layer = format!("{}.weight", names.head_output);
        let head_was_new = is_extended || report.initialized.contains(&last_layer);
        let model = Self {
            config,
            labels: labels.to_vec(),
            tasks: Tasks::single(labels.len()),
            head_was_new,
            parameters,
            rounds_products: false,
            compute: Compute::default(),
            frozen_layers: None,
            embeddings,
            distances,
            layers,
            final_norm,
            head,
        };
        Ok((model, report))
    }

    /// The same model, whose labels are those of several tasks.
    pub fn with_tasks(self, tasks: Tasks) -> Self {
        Self { tasks, ..self }
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
        let names = &self.config.family.names;
        if (1..self.layers.len()).contains(&layers) && names.in_layer(layers - 1, "") == names.in_layer(layers, "") {
            let expected = format!("0 or all {}, since the model's layers share their weights", self.layers.len());
            return Err(Error::setting("--freeze-layers", expected, layers));
        }
        self.frozen_layers = Some(layers);
        self.cut_graph(layers);
        let layer_prefixes = (0..layers).map(|index| names.in_layer(index, ""));
        let prefixes: Vec<String> = layer_prefixes.chain(names.under_layers()).collect();
        self.parameters.freeze(&prefixes);
        Ok(())
    }

    fn cut_graph(&mut self, layers: usize) {
        self.embeddings.freeze();
        self.distances.iter_mut().for_each(DistanceTable::freeze);
        self.layers[..layers].iter_mut().for_each(Layer::freeze);
    }

    /// The same model, of which no gradient is asked: nothing of what it computes is kept for a backward pass. It shares the
    /// weights, and follows their changes.
    pub fn for_inference(&self) -> Self {
        let mut model = self.clone();
        model.rounds_products = false;
        model.cut_graph(self.layers.len());
        model.final_norm.iter_mut().for_each(Norm::freeze);
        model.head.freeze();
        model
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
        let (config, tasks) = (self.config.clone(), self.tasks.clone());
        let mut model = Self { config, tasks, compute: compute.clone(), ..model };
        if let Some(layers) = self.frozen_layers {
            model.freeze(layers)?;
        }
        Ok(model)
    }

    /// Puts a layer that was found otherwise in the place of the head's last one, by what [`crate::features::Read::LastLayer`]
    /// is of texts. Of a head of one layer ([`super::HeadKind::Linear`]) these are vectors of length 1.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is for another number of labels, or of another width.
    pub fn set_last_layer(&self, linear: &LinearLayer) -> Result<()> {
        // What it reads of a text was divided by the root of the width; of a head of one layer, whose mean square is 1, too.
        let (labels, hidden) = (self.labels.len(), self.config.hidden_size);
        let weight = Tensor::from_slice(&linear.weight, (labels, hidden), &Device::Cpu)?;
        let weight = (weight / (hidden as f64).sqrt())?;
        let bias = Tensor::from_slice(&linear.bias, labels, &Device::Cpu)?;
        let name = self.config.family.names.head_output;
        for (part, values) in [("weight", weight), ("bias", bias)] {
            let parameter = self.parameters.get(&format!("{name}.{part}")).expect("a head has an output");
            parameter.set(&values.to_dtype(DType::F32)?.to_device(parameter.device())?)?;
        }
        Ok(())
    }

    /// How far a parameter lies from the input: 0 for the embeddings, i + 1 for layer i, the number of layers plus 1 for
    /// the head. What all layers share lies where the last of them does.
    pub fn depth(&self, name: &str) -> usize {
        let names = &self.config.family.names;
        match names.layer_part(name) {
            Some((index, _)) => index + 1,
            None if names.is_shared(name) => self.layers.len(),
            None if names.under_layers().iter().any(|prefix| name.starts_with(prefix)) => 0,
            None => self.layers.len() + 1,
        }
    }

    /// A digest of all that decides what the last layer of the head reads of a text.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub(crate) fn fingerprint(&self) -> Result<[u8; 32]> {
        let config = EncoderConfig { path: PathBuf::new(), json: serde_json::Map::new(), ..self.config.clone() };
        let mut digest = Sha256::new().chain_update(format!("{config:?}"));
        let last_layer = format!("{}.", config.family.names.head_output);
        for (name, var) in self.parameters.iter().filter(|(name, _)| !name.starts_with(&last_layer)) {
            digest.update(name);
            let values = var.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            for values in values.chunks(1 << 14) {
                digest.update(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        Ok(digest.finalize().into())
    }

    /// The tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Embeddings and all layers. With `all_tokens` false the last layer computes only what the head reads, which may be
    /// the first token of each text. The result for that token is the same, and most of one layer's work is saved.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn encode(&self, batch: &PackedBatch, all_tokens: bool, dropout: Option<&mut DropoutKeys>) -> Result<Encoded> {
        let mut no_dropout = DropoutKeys::none();
        let keys = dropout.unwrap_or(&mut no_dropout);
        let (rates, dtype) = (&self.config.dropout, self.compute.dtype);
        let embedding_sums = self.embeddings.sums(batch)?;
        let tape = Tape::new(self.rounds_products);
        let embedded = self.embeddings.forward(&embedding_sums, dtype, keys.next(rates.embeddings), Some(&tape))?;
        let context = BatchContext::new(batch, self.distances.as_ref(), dtype, tape)?;
        let mut hidden_states = vec![embedded];
        for (index, layer) in self.layers.iter().enumerate() {
            let reads_first = index + 1 == self.layers.len() && self.config.pooling == Pooling::First;
            let answers = if reads_first && !all_tokens { Answers::First } else { Answers::All };
            hidden_states.push(layer.forward(&hidden_states[index], &context, answers, rates, keys)?);
        }
        Ok(Encoded { embedding_sums, hidden_states, tape: context.tape })
    }

    /// Logits of a batch, on the CPU; dropout only where keys for it are given.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn forward(&self, batch: &PackedBatch, dropout: Option<&mut DropoutKeys>) -> Result<Output> {
        let mut no_dropout = DropoutKeys::none();
        let keys = dropout.unwrap_or(&mut no_dropout);
        let encoded = self.encode(batch, false, Some(&mut *keys))?;
        let pooled = self.pooled(&encoded, batch)?;
        let logits =
            self.head.forward(&pooled, keys, Some(&encoded.tape))?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        Ok(Output { logits: of_texts(logits, batch)?, encoded, pooled })
    }

    /// What the head reads of each row, `[rows, hidden]`, where no more than that was computed.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn pooled(&self, encoded: &Encoded, batch: &PackedBatch) -> Result<Tensor> {
        let last = &encoded.hidden_states[self.layers.len()];
        let last = Norm::forward_if_any(self.final_norm.as_ref(), last, Some(&encoded.tape))?;
        match self.config.pooling {
            Pooling::First => Ok(last),
            Pooling::Mean => means(&last, &batch.offsets),
        }
    }

    /// What the head's last layer reads, from what the head reads: `[rows, hidden]`
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn last_layer_input(&self, pooled: &Tensor) -> Result<Tensor> {
        self.head.last_layer_input(pooled, &mut DropoutKeys::none(), None)
    }

    /// The same model, which in training rounds the factors of products with weights to bfloat16, or does not: for a processor that has
    /// such products. It shares the weights.
    pub(crate) fn with_rounded_products(&self, rounds_products: bool) -> Self {
        Self { rounds_products, ..self.clone() }
    }

    /// The gradient of `loss`, computed from `output`, with respect to every parameter that is not frozen. Once for each output; what the
    /// loss has of other outputs counts as constant.
    ///
    /// # Errors
    /// [`Error::Tensor`], also if a parameter has no gradient: some operation has cut the graph.
    pub fn backward(&self, loss: &Tensor, output: &Output, batch: &PackedBatch) -> Result<Gradients> {
        let mut all = output.encoded.tape.backward(loss)?;
        let mut take = |name: &str, tensor: &Tensor| {
            let cut = || Error::Tensor(candle_core::Error::Msg(format!("no gradient reaches {name}")));
            all.take(tensor)?.ok_or_else(cut)
        };
        let mut gradients = BTreeMap::new();
        if self.frozen_layers.is_none() {
            let sums = take("the embeddings", &output.encoded.embedding_sums)?;
            gradients.extend(self.embeddings.gradients(batch, &sums)?);
        }
        for (name, var) in self.parameters.trainable() {
            if !gradients.contains_key(name) {
                gradients.insert(name.to_owned(), Gradient::Dense(take(name, var)?));
            }
        }
        Ok(Gradients(gradients))
    }
}

/// What `x` says of each row of a batch, `[rows, n]`, by text, `[texts, n]`: of one in several windows, the mean of theirs.
pub(crate) fn of_texts(x: Tensor, batch: &PackedBatch) -> Result<Tensor> {
    if batch.rows() == batch.texts.len() - 1 { Ok(x) } else { means(&x, &batch.texts) }
}

/// The mean of the rows from each of `offsets` to the next: `[n, width]` → `[offsets − 1, width]`.
fn means(x: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let (rows, count) = (x.dim(0)?, offsets.len() - 1);
    let mut shares = vec![0.0f32; count * rows];
    for (index, range) in offsets.windows(2).enumerate() {
        shares[index * rows..][range[0]..range[1]].fill(1.0 / (range[1] - range[0]) as f32);
    }
    let shares = Tensor::from_vec(shares, (count, rows), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?;
    Ok(shares.matmul(x)?)
}
