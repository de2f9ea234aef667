//! What a bundle's own encoder says of texts, besides its answers: the value in its graph that the head reads.

use std::path::PathBuf;

use nimbert::{
    Bundle, Device, Encoding, Session, SessionOptions, TextInput, Tokenizer,
    prediction::mean_logits,
    session::{Output, logits_of},
};

use crate::{
    error::{Error, Result},
    evaluate::in_batches,
    features::Features,
    model::HEAD_INPUT,
    onnx,
    scratch::Scratch,
};

/// Texts that are run at once.
const BATCH_SIZE: usize = 32;

/// A bundle's graph with one more output.
#[derive(Debug)]
pub struct Embedder {
    session: Session,
    tokenizer: Tokenizer,
    pad_token_id: u32,
    /// What is asked of the graph: the logits of each task, and at last what its head reads.
    outputs: Vec<String>,
}

/// What is said of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// As [`Features::of`] gives them.
    pub features: Features,
    /// `[rows][labels]`, those of several tasks one behind the other.
    pub logits: Vec<Vec<f32>>,
}

impl Embedder {
    /// Opens the graph that the bundle has for this machine's CPU.
    ///
    /// # Errors
    /// [`Error::Runtime`]; [`Error::Model`] if nimbert-train has not made the graph.
    pub fn open(bundle: &Bundle, ort_lib: Option<PathBuf>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let path = bundle.extract_graph(bundle.variant(None, Device::Cpu)?, scratch.path())?;
        let mut graph = onnx::read(&path)?;
        let has_value = graph
            .graph
            .iter()
            .flat_map(|graph| &graph.node)
            .any(|node| node.output.iter().any(|name| name == HEAD_INPUT));
        if !has_value {
            return Err(Error::model(
                &bundle.path,
                format!("a graph of nimbert-train, with the value {HEAD_INPUT}"),
                "none",
            ));
        }
        graph.graph.get_or_insert_default().output.push(onnx::float_output(HEAD_INPUT));
        let path = scratch.path().join("embedding.onnx");
        onnx::write_external(&mut graph, &path)?;
        let session = Session::open(&path, &SessionOptions { ort_lib, ..SessionOptions::default() })?;
        let logits = (0..bundle.tasks().len()).map(logits_of);
        Ok(Self {
            session,
            tokenizer: bundle.tokenizer()?,
            pad_token_id: bundle.config.pad_token_id,
            outputs: logits.chain([HEAD_INPUT.to_owned()]).collect(),
        })
    }

    /// Reads texts. `on_read` is told how many have been read since the last time; an error of its own ends the work.
    ///
    /// # Errors
    /// [`Error::Runtime`]; those of `on_read`.
    pub fn read<'a, T: Copy + Into<TextInput<'a>>>(
        &mut self,
        texts: &[T],
        mut on_read: impl FnMut(usize) -> Result<()>,
    ) -> Result<Embedded> {
        let windows = texts.iter().map(|&text| self.tokenizer.windows(text)).collect::<nimbert::Result<Vec<_>>>()?;
        let flat: Vec<&Encoding> = windows.iter().flatten().collect();
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let said = in_batches(&flat, self.pad_token_id, BATCH_SIZE, |batch| {
            let mut outputs = self.session.run_outputs(batch, &names)?;
            on_read(batch.rows)?;
            let vectors = outputs.pop().expect("it was asked for");
            let row = |output: &Output, row: usize| {
                let width = output.values.len() / batch.rows;
                output.values[row * width..][..width].to_vec()
            };
            let logits = |of_row: usize| outputs.iter().flat_map(|output| row(output, of_row)).collect();
            Ok((0..batch.rows).map(|of_row| (logits(of_row), row(&vectors, of_row))).collect())
        })?;
        let (logits, vectors): (Vec<Vec<f32>>, Vec<Vec<f32>>) = said.into_iter().unzip();
        if let Some(wrong) = logits.iter().chain(&vectors).flatten().find(|value| !value.is_finite()) {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("the bundle's graph gives {wrong} for a text"))));
        }
        let width = vectors.first().map_or(0, Vec::len);
        let mut logits = logits.into_iter();
        let logits = windows.iter().map(|windows| mean_logits(logits.by_ref().take(windows.len()))).collect();
        Ok(Embedded { features: Features::of_windows(vectors, windows.iter().map(Vec::len), width), logits })
    }
}
