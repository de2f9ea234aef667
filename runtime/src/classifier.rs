//! The classifier: a bundle, its tokenizer and its session behind one call.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    batch::{Batch, length_sorted},
    bundle::{Bundle, Precision, TOKENIZER},
    error::{Error, Result},
    prediction::Prediction,
    session::{Session, SessionOptions},
    tokenizer::{Encoding, Tokenizer},
};

/// How a bundle is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Device, threads and library.
    pub session: SessionOptions,
    /// Which graph; none: the bundle's default.
    pub precision: Option<Precision>,
    /// Texts a run of the graph. More need more memory and, past 32, gain little on a CPU.
    pub batch_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { session: SessionOptions::default(), precision: None, batch_size: 32 }
    }
}

/// A text classifier. It may be shared between threads; its calls then run one after the other.
#[derive(Debug)]
pub struct Classifier {
    bundle: Bundle,
    tokenizer: Tokenizer,
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
        let tokenizer = Tokenizer::open(&bundle.path.join(TOKENIZER), bundle.manifest.max_length)?;
        let session = Session::open(&bundle.model_path(options.precision)?, &options.session)?;
        Ok(Self { bundle, tokenizer, session: Mutex::new(session), batch_size: options.batch_size.max(1) })
    }

    /// The bundle that was opened.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Label names in the order of their ids.
    pub fn labels(&self) -> &[String] {
        &self.bundle.config.labels
    }

    /// Classifies one text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Session`], [`Error::Format`] if the graph has not one logit a label.
    pub fn classify(&self, text: &str) -> Result<Prediction> {
        let mut predictions = self.classify_batch(&[text])?;
        Ok(predictions.remove(0))
    }

    /// Classifies many texts: sorted by length inside, answered in input order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Session`], [`Error::Format`] if the graph has not one logit a label.
    pub fn classify_batch<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Prediction>> {
        let encodings: Vec<Encoding> =
            texts.iter().map(|text| self.tokenizer.encode(text.as_ref())).collect::<Result<_>>()?;
        let lengths: Vec<usize> = encodings.iter().map(|encoding| encoding.input_ids.len()).collect();
        let mut predictions: Vec<Option<Prediction>> = vec![None; texts.len()];
        for indices in length_sorted(&lengths, self.batch_size) {
            let batch = Batch::pad(indices.iter().map(|&index| &encodings[index]), self.bundle.config.pad_token_id);
            let logits = self.session.lock().unwrap_or_else(PoisonError::into_inner).run(&batch)?;
            let labels = self.labels();
            if logits.len() != batch.rows * labels.len() {
                let expected = format!("{} logits a text, one for each label in config.json", labels.len());
                let got = format!("{}", logits.len() / batch.rows);
                return Err(Error::format(&self.bundle.path, expected, got));
            }
            for (&index, row) in indices.iter().zip(logits.chunks_exact(labels.len())) {
                let prediction = Prediction::from_logits(row, labels, self.bundle.manifest.temperature);
                predictions[index] = Some(prediction);
            }
        }
        Ok(predictions.into_iter().map(|prediction| prediction.expect("every index is in one batch")).collect())
    }
}
