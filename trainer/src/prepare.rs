//! From files to examples: data set, labels, split, tokens — everything that has to be right before training begins.

use std::path::{Path, PathBuf};

use nimbert::{Encoding, ProblemType, Tokenizer, bundle};
use rayon::prelude::*;

use crate::{
    dataloader::Example,
    dataset::{Columns, Dataset, Row},
    error::{Error, Result},
    model::EncoderConfig,
    random::{Stream, generator},
    split::{rarest_labels, stratified},
};

/// Where labelled texts come from, and how they are divided.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// The files of labelled texts.
    pub data: Vec<PathBuf>,
    /// Files of their own for choosing the best epoch; none: a part of `data` is set aside.
    pub validation_data: Vec<PathBuf>,
    /// Files of their own for testing; none: a part of `data` is set aside.
    pub test_data: Vec<PathBuf>,
    /// Names of the columns.
    pub columns: Columns,
    /// Share of `data` that is set aside for testing.
    pub test_size: f64,
    /// Share of the remaining rows by which the best epoch is chosen; 0: the last epoch is kept.
    pub validation_size: f64,
    /// Picks the rows of each split.
    pub seed: u64,
}

/// The rows of a run: all data sets that were read, and which rows of them serve what.
#[derive(Debug)]
pub struct Sources {
    /// `--data`, then `--validation-data` and `--test-data` where they are given.
    pub datasets: Vec<Dataset>,
    /// Label names by id.
    pub labels: Vec<String>,
    /// What is learned from.
    pub train: Vec<Source>,
    /// What the best epoch is chosen by; may be empty.
    pub validation: Vec<Source>,
    /// What is measured and used for no choice; may be empty.
    pub test: Vec<Source>,
}

/// A row of one of the data sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Index into [`Sources::datasets`].
    pub dataset: usize,
    /// Index into [`Dataset::rows`].
    pub row: usize,
    /// The ids of its labels.
    pub labels: Vec<u32>,
}

/// The tokenized rows of a run, in the order of [`Sources`].
#[derive(Debug)]
pub struct Examples {
    /// What is learned from.
    pub train: Vec<Example>,
    /// What the best epoch is chosen by; may be empty.
    pub validation: Vec<Example>,
    /// What is measured and used for no choice; may be empty.
    pub test: Vec<Example>,
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

impl Sources {
    /// The row behind a source.
    pub fn row(&self, source: &Source) -> &Row {
        &self.datasets[source.dataset].rows[source.row]
    }

    /// Where a row stands: `reviews.csv:17`.
    pub fn place(&self, source: &Source) -> String {
        self.datasets[source.dataset].place(self.row(source))
    }

    /// SHA-256 of the training data's file, or of the list of its files' SHA-256, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Runtime`] if a file cannot be read any more.
    pub fn data_sha256(&self) -> Result<String> {
        let files = &self.datasets[0].files;
        let digests = files.iter().map(|file| bundle::sha256_file(file)).collect::<nimbert::Result<Vec<_>>>()?;
        match &digests[..] {
            [digest] => Ok(digest.clone()),
            _ => Ok(bundle::sha256(digests.join("\n").as_bytes())),
        }
    }
}

/// Reads the files and divides their rows.
///
/// # Errors
/// [`Error::Setting`], [`Error::Io`], [`Error::Data`].
pub fn read(config: &DataConfig) -> Result<Sources> {
    config.validate()?;
    let dataset = Dataset::open(&config.data, &config.columns)?;
    let labels = dataset.labels()?;
    let label_ids = dataset.label_ids(&labels)?;
    let classes = match config.columns.problem_type {
        ProblemType::SingleLabel => label_ids.iter().map(|labels| labels[0]).collect(),
        ProblemType::MultiLabel => rarest_labels(&label_ids, labels.len()),
    };
    let mut rng = generator(config.seed, Stream::Split);
    let mut set_aside = |rest: Vec<usize>, files: &[PathBuf], share: f64, minimum: usize| {
        if !files.is_empty() || share == 0.0 {
            return (rest, Vec::new());
        }
        let classes: Vec<u32> = rest.iter().map(|&row| classes[row]).collect();
        let split = stratified(&classes, share, minimum, &mut rng);
        let rows_of = |indices: &[usize]| indices.iter().map(|&index| rest[index]).collect::<Vec<_>>();
        (rows_of(&split.rest), rows_of(&split.part))
    };
    let all = (0..dataset.rows.len()).collect();
    let (rest, test) = set_aside(all, &config.test_data, config.test_size, 1);
    let (train, validation) = set_aside(rest, &config.validation_data, config.validation_size, 0);
    let sources = |rows: &[usize]| -> Vec<Source> {
        rows.iter().map(|&row| Source { dataset: 0, row, labels: label_ids[row].clone() }).collect()
    };
    let [train, mut validation, mut test] = [train, validation, test].map(|rows| sources(&rows));
    let mut datasets = vec![dataset];
    for (files, split) in [(&config.validation_data, &mut validation), (&config.test_data, &mut test)] {
        if !files.is_empty() {
            let further = Dataset::open(files, &config.columns)?;
            let label_ids = further.label_ids(&labels)?.into_iter().enumerate();
            *split = label_ids.map(|(row, labels)| Source { dataset: datasets.len(), row, labels }).collect();
            datasets.push(further);
        }
    }
    Ok(Sources { datasets, labels, train, validation, test })
}

/// Tokenizes what was read.
///
/// # Errors
/// [`Error::Runtime`].
pub fn tokenize(sources: &Sources, tokenizer: &Tokenizer) -> Result<Examples> {
    let windows = sources.datasets.iter().map(|dataset| encode_all(tokenizer, dataset)).collect::<Result<Vec<_>>>()?;
    let examples = |split: &[Source]| -> Vec<Example> {
        let example = |Source { dataset, row, labels }: &Source| Example {
            windows: windows[*dataset][*row].clone(),
            labels: labels.clone(),
        };
        split.iter().map(example).collect()
    };
    Ok(Examples {
        train: examples(&sources.train),
        validation: examples(&sources.validation),
        test: examples(&sources.test),
    })
}

/// Tokenizes every text of a data set, on all threads: the windows of each.
///
/// # Errors
/// [`Error::Runtime`] if the tokenizer refuses a text.
pub fn encode_all(tokenizer: &Tokenizer, dataset: &Dataset) -> Result<Vec<Vec<Encoding>>> {
    Ok(dataset.rows.par_iter().map(|row| tokenizer.windows(row)).collect::<nimbert::Result<_>>()?)
}

/// Opens the tokenizer of a model's folder, and checks that it fits the encoder. With a stride, long texts are read in
/// windows that share so many tokens.
///
/// # Errors
/// [`Error::Setting`] if `max_length` is above the model's positions; [`Error::Model`] if the tokenizer has ids that the
/// embeddings lack; [`Error::Runtime`].
pub fn open_tokenizer(
    folder: &Path,
    max_length: usize,
    stride: Option<usize>,
    config: &EncoderConfig,
) -> Result<Tokenizer> {
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
    match stride {
        None => Ok(tokenizer),
        Some(stride) => Ok(tokenizer.with_stride(stride)?),
    }
}
