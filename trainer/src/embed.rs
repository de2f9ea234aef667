//! What a bundle's own encoder says of texts, besides its answers: the value in its graph that the head reads.

use std::path::PathBuf;

use nimbert::{
    Bundle, Device, Encoding, Session, SessionOptions, TextInput, Tokenizer, prediction::mean_logits, session::LOGITS,
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
}

/// What is said of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// As [`Features::of`] gives them.
    pub features: Features,
    /// `[rows][labels]`
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
        onnx::write_external(graph, &path)?;
        let session = Session::open(&path, &SessionOptions { ort_lib, ..SessionOptions::default() })?;
        Ok(Self { session, tokenizer: bundle.tokenizer()?, pad_token_id: bundle.config.pad_token_id })
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
        let said = in_batches(&flat, self.pad_token_id, BATCH_SIZE, |batch| {
            let outputs = self.session.run_outputs(batch, &[LOGITS, HEAD_INPUT])?;
            on_read(batch.rows)?;
            let mut rows = outputs.iter().map(|output| output.values.chunks_exact(output.values.len() / batch.rows));
            let (Some(logits), Some(vectors)) = (rows.next(), rows.next()) else { unreachable!("two were asked for") };
            Ok(logits.zip(vectors).map(|(logits, vector)| (logits.to_vec(), vector.to_vec())).collect())
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
