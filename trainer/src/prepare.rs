//! From files to examples: data set, labels, split, tokens — everything that has to be right before training begins.

use std::path::{Path, PathBuf};

use nimbert::{Encoding, Tokenizer, bundle};
use rayon::prelude::*;

use crate::{
    dataloader::Example,
    dataset::{Columns, Dataset},
    error::{Error, Result},
    model::EncoderConfig,
    random::{Stream, generator},
    split::stratified,
};

/// Where labelled texts come from, and how they are divided.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// The file of labelled texts.
    pub data: PathBuf,
    /// A file of its own for testing; none: a part of `data` is set aside.
    pub test_data: Option<PathBuf>,
    /// Names of the columns.
    pub columns: Columns,
    /// Share of `data` that is set aside for testing.
    pub test_size: f64,
    /// Share of the remaining rows by which the best epoch is chosen; 0: the last epoch is kept.
    pub validation_size: f64,
    /// Picks the rows of each split.
    pub seed: u64,
}

/// Labelled texts, divided and tokenized.
#[derive(Debug)]
pub struct Prepared {
    /// The file of labelled texts.
    pub dataset: Dataset,
    /// SHA-256 of that file, in hexadecimal.
    pub data_sha256: String,
    /// Label names by id.
    pub labels: Vec<String>,
    /// What is learned from.
    pub train: Vec<Example>,
    /// What the best epoch is chosen by; may be empty.
    pub validation: Vec<Example>,
    /// What is measured and used for no choice; may be empty.
    pub test: Vec<Example>,
    /// The data set's index of each training row.
    pub train_rows: Vec<usize>,
}

impl DataConfig {
    /// Checks the shares.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        for (setting, share) in [("--test-size", self.test_size), ("--validation-size", self.validation_size)] {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::setting(setting, "a share from 0 to below 1", share));
            }
        }
        Ok(())
    }
}

/// Reads, divides and tokenizes.
///
/// # Errors
/// [`Error::Setting`], [`Error::Io`], [`Error::Data`], [`Error::Runtime`].
pub fn prepare(config: &DataConfig, tokenizer: &Tokenizer) -> Result<Prepared> {
    config.validate()?;
    let dataset = Dataset::open(&config.data, &config.columns)?;
    let labels = dataset.labels()?;
    let label_ids = dataset.label_ids(&labels)?;
    let mut rng = generator(config.seed, Stream::Split);
    let everything: Vec<usize> = (0..dataset.rows.len()).collect();
    let (rest, test_rows) = match (&config.test_data, config.test_size > 0.0) {
        (None, true) => {
            let split = stratified(&label_ids, config.test_size, 1, &mut rng);
            (split.rest, split.part)
        }
        _ => (everything, Vec::new()),
    };
    let rest_labels: Vec<u32> = rest.iter().map(|&row| label_ids[row]).collect();
    let validation = stratified(&rest_labels, config.validation_size, 0, &mut rng);
    let rows_of = |indices: &[usize]| indices.iter().map(|&index| rest[index]).collect::<Vec<_>>();
    let (train_rows, validation_rows) = (rows_of(&validation.rest), rows_of(&validation.part));

    let encodings = encode_all(tokenizer, &dataset)?;
    let examples = |rows: &[usize]| -> Vec<Example> {
        rows.iter().map(|&row| Example { encoding: encodings[row].clone(), label: label_ids[row] }).collect()
    };
    let test = match &config.test_data {
        Some(path) => {
            let test = Dataset::open(path, &config.columns)?;
            let label_ids = test.label_ids(&labels)?;
            let encodings = encode_all(tokenizer, &test)?;
            encodings.into_iter().zip(label_ids).map(|(encoding, label)| Example { encoding, label }).collect()
        }
        None => examples(&test_rows),
    };
    Ok(Prepared {
        data_sha256: bundle::sha256_file(&config.data)?,
        labels,
        train: examples(&train_rows),
        validation: examples(&validation_rows),
        test,
        train_rows,
        dataset,
    })
}

/// Tokenizes every text of a data set, on all threads.
///
/// # Errors
/// [`Error::Runtime`] if the tokenizer refuses a text.
pub fn encode_all(tokenizer: &Tokenizer, dataset: &Dataset) -> Result<Vec<Encoding>> {
    Ok(dataset.rows.par_iter().map(|row| tokenizer.encode(&row.text)).collect::<nimbert::Result<_>>()?)
}

/// Opens the tokenizer of a model's folder, and checks that it fits the encoder.
///
/// # Errors
/// [`Error::Setting`] if `max_length` is above the model's positions; [`Error::Model`] if the tokenizer has ids that the
/// embeddings lack; [`Error::Runtime`].
pub fn open_tokenizer(folder: &Path, max_length: usize, config: &EncoderConfig) -> Result<Tokenizer> {
    let longest = config.max_tokens();
    if max_length > longest {
        return Err(Error::setting("--max-length", format!("at most the model's {longest} positions"), max_length));
    }
    let path = folder.join(bundle::TOKENIZER);
    let tokenizer = Tokenizer::open(&path, max_length)?;
    if tokenizer.id_bound() > config.vocab_size {
        let expected = format!("ids below the vocab_size {} of {}", config.vocab_size, config.path.display());
        return Err(Error::model(&path, expected, format!("the id {}", tokenizer.id_bound() - 1)));
    }
    Ok(tokenizer)
}
