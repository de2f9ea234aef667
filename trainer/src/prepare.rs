//! From files to examples: data set, labels, split, tokens — everything that has to be right before training begins.

use std::path::PathBuf;

use nimbert::{Encoding, ProblemType, Tokenizer};
use rayon::prelude::*;

use crate::{
    dataloader::Example,
    dataset::{Columns, Dataset, Row, left_out},
    error::{Error, Result},
    loss::Target,
    model::EncoderConfig,
    random::{Stream, generator},
    split::{rarest_labels, stratified},
    tasks::Tasks,
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
    /// Share of the remaining rows by which the best epoch is chosen; 0: the last epoch is kept. None: [`VALIDATION_SIZE`], but 0
    /// where the rows are few.
    pub validation_size: Option<f64>,
    /// The remaining rows are few if there are 2 or more of them a label on average, and less than so many.
    pub few_rows_a_label: usize,
    /// Picks the rows of each split.
    pub seed: u64,
}

/// What is set aside of many rows.
pub const VALIDATION_SIZE: f64 = 0.1;

/// The rows of a run: all data sets that were read, and which rows of them serve what.
#[derive(Debug)]
pub struct Sources {
    /// `--data`, then `--validation-data` and `--test-data` where they are given.
    pub datasets: Vec<Dataset>,
    /// Label names by id.
    pub labels: Vec<String>,
    /// What is decided by them.
    pub tasks: Tasks,
    /// What is learned from.
    pub train: Vec<Source>,
    /// What the best epoch is chosen by; may be empty.
    pub validation: Vec<Source>,
    /// What is measured and used for no choice; may be empty.
    pub test: Vec<Source>,
    /// Rows a label, on average, that were not set aside for testing.
    pub rows_a_label: usize,
    /// What was done with the rows that the user may not expect: those left out, shares that could not be kept.
    pub notes: Vec<String>,
}

/// A row of one of the data sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Index into [`Sources::datasets`].
    pub dataset: usize,
    /// Index into [`Dataset::rows`].
    pub row: usize,
    /// What it should be answered with.
    pub target: Target,
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
        let validation_size = self.validation_size.unwrap_or(VALIDATION_SIZE);
        for (setting, share) in [("--test-size", self.test_size), ("--validation-size", validation_size)] {
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
        let digests = files.iter().map(|file| nimbert::sha256_file(file)).collect::<nimbert::Result<Vec<_>>>()?;
        match &digests[..] {
            [digest] => Ok(digest.clone()),
            _ => Ok(nimbert::sha256(digests.join("\n").as_bytes())),
        }
    }
}

/// Reads the files and divides their rows.
///
/// # Errors
/// [`Error::Setting`], [`Error::Io`], [`Error::Data`].
pub fn read(config: &DataConfig) -> Result<Sources> {
    config.validate()?;
    let mut dataset = Dataset::open(&config.data, &config.columns)?;
    dataset.write_numbers_in_one_way();
    let labels = dataset.labels()?;
    let targets = dataset.targets(&labels)?;
    let names: Vec<String> = config.columns.tasks.iter().map(|task| task.name.clone()).collect();
    let tasks = Tasks::of(&names, &labels);
    let classes = match config.columns.problem_type {
        ProblemType::SingleLabel if tasks.is_single() => targets.iter().map(Target::id).collect(),
        _ => rarest_labels(&targets, labels.len()),
    };
    let mut rng = generator(config.seed, Stream::Split);
    let mut notes = Vec::new();
    let mut set_aside = |rest: Vec<usize>, files: &[PathBuf], (name, share): (&str, f64), minimum: usize| {
        if !files.is_empty() || share == 0.0 {
            return (rest, Vec::new());
        }
        let classes: Vec<u32> = rest.iter().map(|&row| classes[row]).collect();
        let split = stratified(&classes, share, minimum, &mut rng);
        let wanted = (share * rest.len() as f64).round() as usize;
        if split.part.len() != wanted {
            let (got, all) = (split.part.len(), rest.len());
            let why = "so that each label has rows on both sides where it can";
            notes.push(format!("{name} has {got} of {all} rows instead of {wanted} (--{name}-size {share}), {why}"));
        }
        let rows_of = |indices: &[usize]| indices.iter().map(|&index| rest[index]).collect::<Vec<_>>();
        (rows_of(&split.rest), rows_of(&split.part))
    };
    let all = (0..dataset.rows.len()).collect();
    let (rest, test) = set_aside(all, &config.test_data, ("test", config.test_size), 1);
    let rows_a_label = rest.len() / labels.len().max(1);
    let is_few = (2..config.few_rows_a_label).contains(&rows_a_label);
    let validation_size = config.validation_size.unwrap_or(if is_few { 0.0 } else { VALIDATION_SIZE });
    let (train, validation) = set_aside(rest, &config.validation_data, ("validation", validation_size), 0);
    let sources = |rows: &[usize]| -> Vec<Source> {
        rows.iter().map(|&row| Source { dataset: 0, row, target: targets[row].clone() }).collect()
    };
    let [train, mut validation, mut test] = [train, validation, test].map(|rows| sources(&rows));
    let mut datasets = vec![dataset];
    for (files, split) in [(&config.validation_data, &mut validation), (&config.test_data, &mut test)] {
        if !files.is_empty() {
            let further = Dataset::open(files, &config.columns)?;
            let targets = further.targets(&labels)?.into_iter().enumerate();
            *split = targets.map(|(row, target)| Source { dataset: datasets.len(), row, target }).collect();
            datasets.push(further);
        }
    }
    if train.iter().all(|source| source.target.weight == 0.0) {
        let expected = "a weight above 0 in some row that is trained on (--seed picks others)";
        return Err(Error::setting("--weight-column", expected, "none"));
    }
    if !tasks.is_single() {
        for task in tasks.iter() {
            let name = task.name.as_deref().unwrap_or_default();
            let lacking = datasets.iter().map(|dataset| dataset.without_label(name)).sum::<usize>();
            if lacking > 0 {
                notes.push(format!("{lacking} rows have no label of the task {name}"));
            }
            let (_, learned) = task.targets(train.iter().map(|source| &source.target));
            let is_learned = |id: &usize| learned.iter().any(|target| target.id() as usize == id - task.ids.start);
            let unseen: Vec<&str> =
                task.ids.clone().filter(|id| !is_learned(id)).map(|id| labels[id].as_str()).collect();
            if unseen.len() == task.ids.len() {
                let expected = format!("training rows with a label of the task {name} (--seed picks others)");
                return Err(Error::setting("--task", expected, "none"));
            }
            if !unseen.is_empty() {
                notes.push(format!("no training row has {}: it is never answered", unseen.join(", ")));
            }
        }
    }
    for dataset in &datasets {
        notes.extend(left_out(&dataset.skipped));
    }
    Ok(Sources { datasets, labels, tasks, train, validation, test, rows_a_label, notes })
}

/// Tokenizes what was read. A text is a row of the graph that is trained with all its windows, so their number bounds the
/// memory that training takes.
///
/// # Errors
/// [`Error::Data`] for a text of more than `max_windows`; [`Error::Runtime`].
pub fn tokenize(
    sources: &Sources,
    tokenizer: &Tokenizer,
    config: &EncoderConfig,
    max_windows: usize,
) -> Result<Examples> {
    let windows: Vec<Vec<Vec<Encoding>>> =
        sources.datasets.iter().map(|dataset| encode_all(tokenizer, dataset, config)).collect::<Result<Vec<_>>>()?;
    for (dataset, windows) in sources.datasets.iter().zip(&windows) {
        if let Some((row, windows)) = dataset.rows.iter().zip(windows).find(|(_, windows)| windows.len() > max_windows)
        {
            return Err(Error::Data {
                path: dataset.files[row.file].clone(),
                line: Some(row.line),
                column: None,
                expected: format!("a text of at most {max_windows} windows"),
                got: format!("{}; --max-windows takes longer ones, at the price of memory", windows.len()),
            });
        }
    }
    let examples = |split: &[Source]| -> Vec<Example> {
        let example = |Source { dataset, row, target }: &Source| Example {
            windows: windows[*dataset][*row].clone(),
            target: target.clone(),
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
/// [`Error::Runtime`] if the tokenizer refuses a text; [`Error::Model`] if it gives token types that the model has no
/// embedding for.
pub fn encode_all(tokenizer: &Tokenizer, dataset: &Dataset, config: &EncoderConfig) -> Result<Vec<Vec<Encoding>>> {
    let windows: Vec<Vec<Encoding>> =
        dataset.rows.par_iter().map(|row| tokenizer.windows(row)).collect::<nimbert::Result<_>>()?;
    let types = config.type_vocab_size;
    let highest = windows.iter().flatten().flat_map(|window| &window.token_type_ids).max().copied().unwrap_or(0);
    if types > 0 && highest as usize >= types {
        let expected = format!("a type_vocab_size above {highest}, the highest token type that tokenizer.json gives");
        return Err(Error::model(&config.path, expected, types.to_string()));
    }
    Ok(windows)
}
