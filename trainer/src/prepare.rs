//! From files to examples: data set, labels, split, tokens — everything that has to be right before training begins.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::PathBuf,
};

use nimbert::{Encoding, ProblemType, Tokenizer};
use rayon::prelude::*;

use crate::{
    check::normalized,
    dataloader::Example,
    dataset::{Columns, Dataset, Place, Row, left_out},
    error::{Error, Result},
    loss::Target,
    model::EncoderConfig,
    random::{Stream, generator},
    rehearsal::{GoingOn, Role, digest},
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
    /// The trained model that learns from `data` what it does not know; none: a model begins.
    pub going_on: Option<GoingOn>,
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
    /// `--data`, then `--rehearsal`, `--validation-data` and `--test-data` where they are given.
    pub datasets: Vec<Dataset>,
    /// Which of them has rows that the model has learned from before, if one has.
    pub rehearsal: Option<usize>,
    /// Labels that the model knows, and no row that is learned from has.
    pub unlearned: Vec<String>,
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
    /// Rows that are like no label.
    pub strangers: Strangers<Row>,
    /// Rows a label, on average, that were not set aside for testing; a row of several tasks counts for each that it has a label of.
    pub rows_a_label: usize,
    /// What was done with the rows that the user may not expect: those left out, shares that could not be kept.
    pub notes: Vec<String>,
}

/// Texts that are like no label (`--unknown-label`): rows, or as they are tokenized.
#[derive(Debug)]
pub struct Strangers<T> {
    /// What says which texts are unknown.
    pub train: Vec<T>,
    /// What is measured and used for no choice.
    pub test: Vec<T>,
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
    /// Texts that are like no label: without any.
    pub strangers: Strangers<Example>,
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

    /// By row that is learned from, the first one with the same text, but for case and white space.
    pub fn originals(&self) -> Vec<usize> {
        let mut first = HashMap::new();
        let text = |source| {
            let Row { text, pair, .. } = self.row(source);
            (normalized(text), pair.as_deref().map(normalized))
        };
        self.train.iter().enumerate().map(|(row, source)| *first.entry(text(source)).or_insert(row)).collect()
    }

    /// Where a row stands: `reviews.csv:17`.
    pub fn place(&self, source: &Source) -> Place {
        self.datasets[source.dataset].place(self.row(source))
    }

    /// The data sets with rows that are learned from.
    pub(crate) fn learned_from(&self) -> impl Iterator<Item = &Dataset> {
        std::iter::once(&self.datasets[0]).chain(self.rehearsal.map(|index| &self.datasets[index]))
    }

    /// SHA-256 of the training data's file, or of the list of its files' SHA-256, in hexadecimal; none where one was a pipe.
    pub fn data_sha256(&self) -> Option<String> {
        let digests = self.learned_from().flat_map(|dataset| &dataset.digests);
        let digests: Vec<&str> = digests.map(Option::as_deref).collect::<Option<_>>()?;
        Some(match digests[..] {
            [digest] => digest.to_owned(),
            _ => nimbert::sha256(digests.join("\n").as_bytes()),
        })
    }
}

/// Reads the files and divides their rows.
///
/// # Errors
/// [`Error::Setting`], [`Error::Io`], [`Error::Data`].
pub fn read(config: &DataConfig) -> Result<Sources> {
    config.validate()?;
    let mut dataset = Dataset::open(&config.data, &config.columns)?;
    let known = config.going_on.as_ref().map_or(&[][..], |going_on| &going_on.labels);
    dataset.write_numbers_in_one_way(known);
    let labels = dataset.labels_after(known)?;
    let names: Vec<String> = config.columns.tasks.iter().map(|task| task.name.clone()).collect();
    let tasks = Tasks::of(&names, &labels);
    let mut notes = Vec::new();
    let mut strangers = divide_strangers(config, &mut dataset);
    let (divided, rows_a_label) = divide(config, 0, &dataset, (&labels, &tasks), &mut notes)?;
    let [mut train, mut validation, mut test] = divided;
    let mut datasets = vec![dataset];
    let mut rehearsal = None;
    if let Some(going_on) = &config.going_on {
        let new = &labels[known.len()..];
        notes.extend((!new.is_empty()).then(|| format!("new labels: {}", new.join(", "))));
        if !going_on.rehearsal.is_empty() {
            rehearsal = Some(datasets.len());
            let mut dataset = Dataset::open(&going_on.rehearsal, &config.columns)?;
            dataset.write_numbers_as(&labels.iter().cloned().collect());
            let mut old = old_rows(config, going_on, (&dataset, &datasets[0]), (&labels, &tasks), &mut notes)?;
            let wanted = going_on.rehearsal_rows.unwrap_or_else(|| going_on.wanted(train.len()));
            going_on.sample(&mut old[0], wanted, labels.len(), config.seed);
            match validation.len() {
                0 => old[1].clear(),
                rows => going_on.sample(&mut old[1], going_on.wanted(rows), labels.len(), config.seed),
            }
            let (name, all, [again, by, tested]) = (dataset.name(), dataset.rows.len(), old.each_ref().map(Vec::len));
            notes.push(format!(
                "{name}: of {all} rows {again} are learned from again, {by} validated by, {tested} tested on"
            ));
            datasets.push(dataset);
            let [old_train, old_validation, old_test] = old;
            train.extend(old_train);
            validation.extend(old_validation);
            test.extend(old_test);
        }
    }
    let Strangers { train: teaching, test: testing } = &mut strangers;
    let further =
        [(false, &config.validation_data, &mut validation, teaching), (true, &config.test_data, &mut test, testing)];
    for (is_test, files, split, strangers) in further {
        if !files.is_empty() {
            let mut further = Dataset::open(files, &config.columns)?;
            further.write_numbers_as(&labels.iter().cloned().collect());
            strangers.append(&mut further.strangers);
            let [learned, validated, _] = by_role(config.going_on.as_ref(), &further);
            // By validation rows it may be validated again.
            let validated = if is_test { validated } else { Vec::new() };
            for (how, rows) in [("has learned from", learned), ("was validated by", validated)] {
                if let Some(row) = rows.first() {
                    let (count, first) = (rows.len(), further.place(&further.rows[*row]));
                    let name = further.name();
                    notes.push(format!("{name}: the model {how} {count} of these rows; the first is at {first}"));
                }
            }
            let targets = further.targets(&labels)?.into_iter().enumerate();
            let rows = targets.map(|(row, target)| Source { dataset: datasets.len(), row, target });
            // Old rows are tested on besides, and what the model was validated by validates again, but for what the file has too.
            if !is_test && !split.is_empty() {
                let texts: BTreeSet<String> = further.rows.iter().map(digest).collect();
                split.retain(|source| !texts.contains(&digest(&datasets[source.dataset].rows[source.row])));
                let (kept, name) = (split.len(), further.name());
                notes.push(format!("{kept} rows by which the model was validated serve for that again, beside {name}"));
            }
            split.extend(rows);
            datasets.push(further);
        }
    }
    if config.going_on.as_ref().is_some_and(GoingOn::is_uncertain) && !test.is_empty() {
        let why = "the model does not say which rows it has learned from: it may have seen those that are tested on";
        notes.push(why.to_owned());
    }
    let mut learned = BTreeSet::new();
    for source in train.iter().filter(|source| source.target.weight > 0.0) {
        source.target.for_each_label(|label, share| {
            if share > 0.0 {
                learned.insert(label as u32);
            }
        });
    }
    let unlearned = known.iter().zip(0..).filter(|(_, id)| !learned.contains(id)).map(|(label, _)| label.clone());
    let unlearned: Vec<String> = unlearned.collect();
    if !unlearned.is_empty() {
        let names = unlearned.join(", ");
        notes.push(format!("no row is learned from with {names}: it may be forgotten (--rehearsal has old rows)"));
    }
    if train.iter().all(|source| source.target.weight == 0.0) {
        let expected = "a weight above 0 in some row that is trained on (--seed picks others)";
        return Err(Error::setting("--weight-column", expected, "none"));
    }
    if let Some(label) = &config.columns.unknown_label {
        let (all, test) = (strangers.train.len(), strangers.test.len());
        let teach = strangers.train.iter().filter(|row| row.weight > 0.0).count();
        if teach == 0 {
            let expected = "rows with that label, and a weight, that are learned from";
            return Err(Error::setting("--unknown-label", expected, label));
        }
        let without = if all > teach { format!(", {} have no weight", all - teach) } else { String::new() };
        notes.push(format!("{label}: {teach} rows teach which texts are like no label{without}, {test} test it"));
    }
    let unseen_of = |ids: Range<usize>| -> Vec<&str> {
        ids.filter(|id| !learned.contains(&(*id as u32))).map(|id| labels[id].as_str()).collect()
    };
    if tasks.is_single() {
        let unseen = unseen_of(known.len()..labels.len());
        if !unseen.is_empty() {
            notes.push(format!("no training row that counts has {}: it is never answered", unseen.join(", ")));
        }
    } else {
        for task in tasks.iter() {
            let name = task.name.as_deref().unwrap_or_default();
            let lacking = datasets.iter().map(|dataset| dataset.without_label(name)).sum::<usize>();
            if lacking > 0 {
                notes.push(format!("{lacking} rows have no label of the task {name}"));
            }
            let unseen = unseen_of(task.ids.clone());
            if unseen.len() == task.ids.len() {
                let expected = format!("training rows with a label of the task {name} (--seed picks others)");
                return Err(Error::setting("--task", expected, "none"));
            }
            if !unseen.is_empty() {
                notes.push(format!("no training row that counts has {}: it is never answered", unseen.join(", ")));
            }
        }
    }
    for dataset in &datasets {
        notes.extend(left_out(&dataset.skipped));
    }
    Ok(Sources {
        datasets,
        rehearsal,
        unlearned,
        labels,
        tasks,
        train,
        validation,
        test,
        strangers,
        rows_a_label,
        notes,
    })
}

/// Rows to learn from, to choose the best epoch by, to test on.
type Division = [Vec<Source>; 3];

/// Takes the strangers out of `--data`: which of them teach, and which test.
fn divide_strangers(config: &DataConfig, dataset: &mut Dataset) -> Strangers<Row> {
    let all = std::mem::take(&mut dataset.strangers);
    let share = if config.test_data.is_empty() { config.test_size } else { 0.0 };
    let part = match share {
        0.0 => Vec::new(),
        share => stratified(&vec![0; all.len()], share, 1, &mut generator(config.seed, Stream::Strangers)).part,
    };
    let mut strangers = Strangers { train: Vec::new(), test: Vec::new() };
    for (index, row) in all.into_iter().enumerate() {
        if part.binary_search(&index).is_ok() { strangers.test.push(row) } else { strangers.train.push(row) }
    }
    strangers
}

/// What the rows of a data set, the one of that index, are for, and how many there are a label, on average, that are not for testing:
/// for the same rows and settings the same. Rows that the model before has seen stay what they were.
fn divide(
    config: &DataConfig,
    index: usize,
    dataset: &Dataset,
    (labels, tasks): (&[String], &Tasks),
    notes: &mut Vec<String>,
) -> Result<(Division, usize)> {
    let targets = dataset.targets(labels)?;
    let classes = match config.columns.problem_type {
        ProblemType::SingleLabel if tasks.is_single() => targets.iter().map(Target::id).collect(),
        _ => rarest_labels(&targets, labels.len()),
    };
    let mut rng = generator(config.seed, Stream::Split);
    let of = if index == 0 { String::new() } else { format!("{}: ", dataset.name()) };
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
            notes
                .push(format!("{of}{name} has {got} of {all} rows instead of {wanted} (--{name}-size {share}), {why}"));
        }
        let rows_of = |indices: &[usize]| indices.iter().map(|&index| rest[index]).collect::<Vec<_>>();
        (rows_of(&split.rest), rows_of(&split.part))
    };
    let [learned, validated, unseen] = by_role(config.going_on.as_ref(), dataset);
    let (rest, test) = set_aside(unseen, &config.test_data, ("test", config.test_size), 1);
    let answers = tasks.answers(rest.iter().map(|&row| targets[row].ids.as_slice()));
    let rows_a_label = answers / labels.len().max(1);
    let is_few = (2..config.few_rows_a_label).contains(&rows_a_label);
    let validation_size = config.validation_size.unwrap_or(if is_few { 0.0 } else { VALIDATION_SIZE });
    let (train, validation) = set_aside(rest, &config.validation_data, ("validation", validation_size), 0);
    let seen = learned.len() + validated.len();
    if seen > 0 {
        let name = dataset.name();
        notes.push(format!("{seen} rows of {name} the model has seen before: none of them is tested on"));
    }
    // What the model was validated by is validated by again, but where nothing is to be: then it is learned from.
    let is_validated = config.validation_size != Some(0.0) || !config.validation_data.is_empty();
    let [learned, validated] =
        if is_validated { [learned, validated] } else { [[learned, validated].concat(), Vec::new()] };
    let rows = [[train, learned].concat(), [validation, validated].concat(), test];
    Ok((rows.map(|rows| sources(index, rows, &targets)), rows_a_label))
}

/// The same of old rows: what the model has not seen is tested on, but for texts that are among the new rows too. Of a model that does not
/// say of all that it has seen, the others are divided as new ones are.
fn old_rows(
    config: &DataConfig,
    going_on: &GoingOn,
    (old, new): (&Dataset, &Dataset),
    (labels, tasks): (&[String], &Tasks),
    notes: &mut Vec<String>,
) -> Result<Division> {
    if going_on.is_uncertain() {
        return Ok(divide(config, 1, old, (labels, tasks), notes)?.0);
    }
    let targets = old.targets(labels)?;
    let [learned, validated, mut unseen] = by_role(Some(going_on), old);
    let new: BTreeSet<String> = new.rows.iter().map(digest).collect();
    let all = unseen.len();
    unseen.retain(|&row| !new.contains(&digest(&old.rows[row])));
    if unseen.len() < all {
        let (name, twice) = (old.name(), all - unseen.len());
        notes.push(format!("{name}: {twice} rows are left out, since --data has their texts too"));
    }
    Ok([learned, validated, unseen].map(|rows| sources(1, rows, &targets)))
}

/// Rows by what they were for the model before: learned from, validated by, unseen.
fn by_role(going_on: Option<&GoingOn>, dataset: &Dataset) -> [Vec<usize>; 3] {
    let mut rows: [Vec<usize>; 3] = Default::default();
    let learned = going_on.and_then(|going_on| going_on.learned.as_ref());
    for (index, row) in dataset.rows.iter().enumerate() {
        let role = learned.map_or(Role::Unseen, |learned| learned.role(row));
        rows[role as usize].push(index);
    }
    rows
}

fn sources(dataset: usize, rows: Vec<usize>, targets: &[Target]) -> Vec<Source> {
    rows.into_iter().map(|row| Source { dataset, row, target: targets[row].clone() }).collect()
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
    let windows: Vec<Vec<Vec<Encoding>>> = sources
        .datasets
        .iter()
        .map(|dataset| encode_all(tokenizer, &dataset.rows, config))
        .collect::<Result<Vec<_>>>()?;
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
    let strangers = |rows: &[Row]| -> Result<Vec<Example>> {
        let windows = encode_all(tokenizer, rows, config)?.into_iter().zip(rows);
        let target = |row: &Row| Target { weight: row.weight, ..Target::from([]) };
        Ok(windows.map(|(windows, row)| Example { windows, target: target(row) }).collect())
    };
    Ok(Examples {
        strangers: Strangers { train: strangers(&sources.strangers.train)?, test: strangers(&sources.strangers.test)? },
        train: examples(&sources.train),
        validation: examples(&sources.validation),
        test: examples(&sources.test),
    })
}

/// Tokenizes every text, on all threads: the windows of each.
///
/// # Errors
/// [`Error::Runtime`] if the tokenizer refuses a text; [`Error::Model`] if it gives token types that the model has no
/// embedding for.
pub fn encode_all(tokenizer: &Tokenizer, rows: &[Row], config: &EncoderConfig) -> Result<Vec<Vec<Encoding>>> {
    let windows: Vec<Vec<Encoding>> =
        rows.par_iter().map(|row| tokenizer.windows(row)).collect::<nimbert::Result<_>>()?;
    let types = config.type_vocab_size;
    let highest = windows.iter().flatten().flat_map(|window| &window.token_type_ids).max().copied().unwrap_or(0);
    if types > 0 && highest as usize >= types {
        let expected = format!("a type_vocab_size above {highest}, the highest token type that tokenizer.json gives");
        return Err(Error::model(&config.path, expected, types.to_string()));
    }
    Ok(windows)
}
