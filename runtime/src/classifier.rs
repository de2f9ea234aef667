//! The classifier: a bundle, its tokenizer and its session behind one call.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    batch::{Batch, length_sorted},
    bundle::Bundle,
    error::{Error, Result},
    prediction::{Decision, Prediction, mean_logits},
    session::{Session, SessionOptions},
    tokenizer::{Encoding, TextInput, Tokenizer},
};

/// How a bundle is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Device, threads and library.
    pub session: SessionOptions,
    /// The graph's name in the manifest; none: the first that was made for the device, or else the bundle's default.
    pub variant: Option<String>,
    /// Texts a run of the graph. More need more memory and, past 32, gain little on a CPU.
    pub batch_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { session: SessionOptions::default(), variant: None, batch_size: 32 }
    }
}

/// A text classifier. It may be shared between threads; its calls then run one after the other.
#[derive(Debug)]
pub struct Classifier {
    bundle: Bundle,
    tokenizer: Tokenizer,
    decision: Decision,
    session: Mutex<Session>,
    batch_size: usize,
}

impl Classifier {
    /// Opens the bundle at `path`. Files are checked for presence and size, not hashed: [`Bundle::verify`] does that.
    ///
    /// # Errors
    /// Any variant of [`Error`] but [`Error::Checksum`] and [`Error::OutputExists`].
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let bundle = Bundle::open(path)?;
        let tokenizer = bundle.tokenizer()?;
        let decision = bundle.decision();
        let file = &bundle.variant(options.variant.as_deref(), options.session.device)?.file;
        let session = Session::open(&bundle.path.join(file), &options.session)?;
        Ok(Self { bundle, tokenizer, decision, session: Mutex::new(session), batch_size: options.batch_size.max(1) })
    }

    /// The bundle that was opened.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Label names in the order of their ids.
    pub fn labels(&self) -> &[String] {
        &self.bundle.config.labels
    }

    /// Classifies one text, or a pair of texts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Session`], [`Error::Format`] if the graph has not one logit a label.
    pub fn classify<'a>(&self, input: impl Into<TextInput<'a>>) -> Result<Prediction> {
        let mut predictions = self.classify_batch([input])?;
        Ok(predictions.remove(0))
    }

    /// Classifies many texts, or pairs of texts: sorted by length inside, answered in input order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Session`], [`Error::Format`] if the graph has not one logit a label.
    pub fn classify_batch<'a>(
        &self,
        inputs: impl IntoIterator<Item = impl Into<TextInput<'a>>>,
    ) -> Result<Vec<Prediction>> {
        let windows: Vec<Vec<Encoding>> =
            inputs.into_iter().map(|input| self.tokenizer.windows(input)).collect::<Result<_>>()?;
        let logits = self.window_logits(&windows.iter().flatten().collect::<Vec<_>>())?;
        let mut logits = logits.into_iter();
        let answer = |windows: &Vec<Encoding>| {
            let logits = mean_logits(logits.by_ref().take(windows.len()));
            Prediction::from_logits(&logits, self.labels(), &self.decision)
        };
        Ok(windows.iter().map(answer).collect())
    }

    /// The logits of each window, in order.
    fn window_logits(&self, windows: &[&Encoding]) -> Result<Vec<Vec<f32>>> {
        let lengths: Vec<usize> = windows.iter().map(|window| window.input_ids.len()).collect();
        let labels = self.labels().len();
        let mut all = vec![Vec::new(); windows.len()];
        for indices in length_sorted(&lengths, self.batch_size) {
            let batch = Batch::pad(indices.iter().map(|&index| windows[index]), self.bundle.config.pad_token_id);
            let logits = self.session.lock().unwrap_or_else(PoisonError::into_inner).run(&batch)?;
            if logits.len() != batch.rows * labels {
                let expected = format!("{labels} logits a text, one for each label in config.json");
                let got = format!("{}", logits.len() / batch.rows);
                return Err(Error::format(&self.bundle.path, expected, got));
            }
            for (&index, row) in indices.iter().zip(logits.chunks_exact(labels)) {
                all[index] = row.to_vec();
            }
        }
        Ok(all)
    }
}
