//! `nimbert.json`: what a bundle says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CONFIG, MANIFEST, TOKENIZER, sign::SIGNATURE};
use crate::{
    error::{Error, Result},
    file::{is_sha256, parse_distinct, sha256},
    precision::Precision,
    prediction::Coverage,
    processor::Requirement,
    tokenizer::TruncationSide,
};

/// The format version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 2;
/// Stands in place of the manifest's own digest while that is computed.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// `nimbert.json`: what is in the bundle, how it is to be used, and what was measured before it was packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// SHA-256 of the manifest's own bytes with 64 zeros in its place; none before it is written, and in format 1.
    #[serde(default)]
    pub manifest_sha256: Option<String>,
    /// Size and digest of every other file, by name.
    pub files: BTreeMap<String, FileEntry>,
    /// Texts are truncated to this many tokens, special ones included.
    pub max_length: usize,
    /// The graphs, the default first.
    pub variants: Vec<Variant>,
    /// Longer texts are read in windows that share this many tokens, and the windows' logits are averaged; none: what is
    /// behind the first window is dropped.
    #[serde(default)]
    pub stride: Option<usize>,
    /// At which end longer texts are cut.
    #[serde(default)]
    pub truncation_side: TruncationSide,
    /// Whether the classifier reads pairs of texts; none: that was not said when it was made.
    #[serde(default)]
    pub pairs: Option<bool>,
    /// Logits are divided by this before softmax or sigmoid.
    pub temperature: f32,
    /// What the graphs divide their logits by themselves; none: nothing. Nobody has to do anything about it.
    #[serde(default)]
    pub folded_temperature: Option<f32>,
    /// A score under which the classifier abstains.
    pub abstain_threshold: Option<f32>,
    /// The score from which on each label holds, in the order of the ids; only where a text has any number of labels.
    /// None: 0.5 for all.
    #[serde(default)]
    pub label_thresholds: Option<Vec<f32>>,
    /// Which labels are in the set that has the right one in so many cases; only where a text has one label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// From what distance on a text is like nothing in training; then the graphs have the output `distance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// What the task is called whose labels `config.json` has, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The others, each with an output of the graphs of its own: `logits_1`, `logits_2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_tasks: Vec<FurtherTask>,
    /// What the export measured before it packed the bundle.
    pub acceptance: Acceptance,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// What others want to say; no answer depends on it.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl Manifest {
    /// Parses the bytes of the file `path`.
    ///
    /// # Errors
    /// [`Error::Format`] if they break the specification, [`Error::Checksum`] if they were changed after they were written.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self> {
        let expected = format!("a nimbert manifest of format version 1 to {FORMAT_VERSION}");
        let value = parse_distinct(path, content, &expected)?;
        let version = value.get("format_version").and_then(Value::as_u64);
        match version {
            Some(version) if (1..=u64::from(FORMAT_VERSION)).contains(&version) => {}
            Some(version) => return Err(Error::format(path, expected, format!("format version {version}"))),
            None => return Err(Error::format(path, expected, "no number \"format_version\"")),
        }
        let manifest: Self =
            serde_json::from_slice(content).map_err(|error| Error::format(path, &expected, error.to_string()))?;
        match &manifest.manifest_sha256 {
            Some(digest) => verify_own_digest(path, content, digest)?,
            None if manifest.format_version > 1 => {
                return Err(Error::format(path, "the manifest's own digest as \"manifest_sha256\"", "none"));
            }
            None => {}
        }
        if manifest.format_version > 1 {
            // A key that this version does not know might change the answer.
            let known = serde_json::to_value(&manifest).expect("a manifest has only string keys");
            if let Some(key) = unknown_key(&value, &known) {
                let got = format!("the unknown key {key}");
                return Err(Error::format(path, "the keys of format version 2; others under \"metadata\"", got));
            }
        }
        manifest.validate(path)?;
        Ok(manifest)
    }

    /// What it is written as, with its own digest, which it has from then on.
    pub(crate) fn seal(&mut self) -> Vec<u8> {
        self.manifest_sha256 = Some(NO_DIGEST.to_owned());
        let mut content = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        content.push(b'\n');
        let digest = sha256(&content);
        let place = find_all(&content, NO_DIGEST.as_bytes()).next().expect("the zeros were written");
        content[place..place + NO_DIGEST.len()].copy_from_slice(digest.as_bytes());
        self.manifest_sha256 = Some(digest);
        content
    }

    /// Checks what can be checked without looking at other files.
    fn validate(&self, path: &Path) -> Result<()> {
        let fail = |expected: &str, got: String| Err(Error::format(path, expected, got));
        let Self { files, variants, temperature, folded_temperature, abstain_threshold, label_thresholds, .. } = self;
        let Self { coverage, unknown, task, further_tasks, .. } = self;
        for (name, entry) in files {
            let mut components = Path::new(name).components();
            let is_plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
            if !is_plain || name.contains(['/', '\\', '\0', ':']) || [MANIFEST, SIGNATURE].contains(&name.as_str()) {
                return fail("plain file names", format!("{name:?}"));
            }
            if self.format_version > 1 && !is_sha256(&entry.sha256) {
                return fail("a sha256 of 64 digits, the letters lower-case", format!("{:?} of {name}", entry.sha256));
            }
        }
        if variants.is_empty() {
            return fail("at least one graph under \"variants\"", "none".into());
        }
        for name in [CONFIG, TOKENIZER].into_iter().chain(variants.iter().map(|variant| variant.file.as_str())) {
            if !files.contains_key(name) {
                return fail("every file of the bundle under \"files\"", format!("no entry for {name}"));
            }
        }
        let mut names = BTreeSet::new();
        if self.format_version > 1
            && let Some(twice) = variants.iter().find(|variant| !names.insert(&variant.name))
        {
            return fail("graphs of different names", format!("{:?} twice", twice.name));
        }
        let mut names: BTreeSet<&str> = task.iter().map(String::as_str).collect();
        let all = task.iter().chain(further_tasks.iter().map(|task| &task.name));
        if let Some(name) = all.into_iter().find(|name| !is_task_name(name)) {
            return fail("tasks that are called by a word that no result is called by", format!("{name:?}"));
        }
        if task.is_some() == further_tasks.is_empty() {
            return fail("a name for the first task where there are further ones, and only there", format!("{task:?}"));
        }
        for FurtherTask { name, labels, coverage, .. } in further_tasks {
            let mut distinct = BTreeSet::new();
            if !names.insert(name) {
                return fail("tasks of different names", format!("{name:?} twice"));
            }
            if labels.len() < 2 || !labels.iter().all(|label| distinct.insert(label)) {
                return fail(&format!("two or more different labels of the task {name:?}"), labels.join(", "));
            }
            if let Some(coverage) = coverage.as_ref().filter(|coverage| coverage.thresholds.len() != labels.len()) {
                let expected = format!("{} thresholds of the coverage of {name:?}, one for each label", labels.len());
                return fail(&expected, coverage.thresholds.len().to_string());
            }
        }
        let folded = further_tasks.iter().filter_map(|task| task.folded_temperature);
        for temperature in [Some(*temperature), *folded_temperature].into_iter().flatten().chain(folded) {
            if !(temperature.is_finite() && temperature > 0.0) {
                return fail("a temperature above 0", temperature.to_string());
            }
        }
        let coverages = coverage.iter().chain(further_tasks.iter().filter_map(|task| task.coverage.as_ref()));
        let shares =
            coverages.clone().map(|coverage| coverage.share).chain(unknown.as_ref().map(|unknown| unknown.rate));
        if let Some(wrong) = shares.into_iter().find(|share| !(0.0..=1.0).contains(share)) {
            return fail("a share from 0 to 1", wrong.to_string());
        }
        let of_sets = coverages.flat_map(|coverage| &coverage.thresholds);
        let abstain =
            abstain_threshold.iter().chain(further_tasks.iter().filter_map(|task| task.abstain_threshold.as_ref()));
        let thresholds = label_thresholds.iter().flatten().chain(abstain).chain(of_sets);
        let thresholds = thresholds.chain(unknown.as_ref().map(|unknown| &unknown.threshold));
        if let Some(wrong) = thresholds.copied().find(|threshold| !threshold.is_finite()) {
            return fail("a threshold that is a number", wrong.to_string());
        }
        Ok(())
    }
}

/// Whether a task may be called so: columns and keys of results are called by it, and are not to be taken for others.
pub fn is_task_name(name: &str) -> bool {
    const TAKEN: [&str; 12] = [
        "text",
        "label",
        "score",
        "labels",
        "scores",
        "set",
        "distance",
        "unknown",
        "abstained",
        "error",
        "task",
        "further",
    ];
    let is_word = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '=');
    is_word && !TAKEN.contains(&name)
}

/// A task beside the first one. A text has one of its labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FurtherTask {
    /// What it is called.
    pub name: String,
    /// Label names in the order of their ids.
    pub labels: Vec<String>,
    /// What the graphs divide its logits by themselves; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded_temperature: Option<f32>,
    /// A score under which the classifier abstains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstain_threshold: Option<f32>,
    /// Which labels are in the set that has the right one in so many cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

/// From what distance on a text is like nothing in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unknown {
    /// The share of texts like those of training that is further away.
    pub rate: f64,
    /// The distance.
    pub threshold: f32,
}

/// Compares the manifest's bytes with the digest that stands in them.
fn verify_own_digest(path: &Path, content: &[u8], digest: &str) -> Result<()> {
    // Where it stands as that key's value, and nowhere else.
    let is_value = |place: usize| {
        let before = content[..place].strip_suffix(b"\"").unwrap_or_default().trim_ascii_end();
        before.strip_suffix(b":").is_some_and(|before| before.trim_ascii_end().ends_with(b"\"manifest_sha256\""))
    };
    let mut places = find_all(content, digest.as_bytes());
    let (Some(place), None, true) = (places.next().filter(|place| is_value(*place)), places.next(), is_sha256(digest))
    else {
        let expected = "the manifest's own sha256 once, 64 digits, as \"manifest_sha256\"";
        return Err(Error::format(path, expected, format!("{digest:?}")));
    };
    let mut content = content.to_vec();
    content[place..place + NO_DIGEST.len()].copy_from_slice(NO_DIGEST.as_bytes());
    match sha256(&content) {
        got if got == digest => Ok(()),
        got => Err(Error::Checksum { path: path.to_owned(), expected: digest.to_owned(), got }),
    }
}

/// Where `part` begins in `content`.
fn find_all<'a>(content: &'a [u8], part: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    content.windows(part.len().max(1)).enumerate().filter(move |(_, window)| *window == part).map(|(index, _)| index)
}

/// The first key, or index, of `value` that `known` has not.
fn unknown_key(value: &Value, known: &Value) -> Option<String> {
    let within = |key: String, inner: Option<String>| match inner {
        Some(inner) => format!("{key}.{inner}"),
        None => key,
    };
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => value.iter().find_map(|(key, value)| match known.get(key) {
            None => Some(within(key.clone(), None)),
            Some(known) => unknown_key(value, known).map(|inner| within(key.clone(), Some(inner))),
        }),
        (Value::Array(value), Value::Array(known)) => {
            let pairs = value.iter().zip(known).enumerate();
            pairs.into_iter().find_map(|(index, (value, known))| {
                unknown_key(value, known).map(|inner| within(index.to_string(), Some(inner)))
            })
        }
        // A list in place of an object, or an object of a name, is read all the same.
        (value, known) => {
            let kind = |value: &Value| (value.is_object(), value.is_array(), value.is_string(), value.is_null());
            (kind(value) != kind(known)).then(|| "of another form".to_owned())
        }
    }
}

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// One graph of the bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// What it is called: `cpu-int8`, `cpu-int8-full`, `cpu-fp32`, `gpu-fp16`, `tensorrt-fp16`, `tensorrt-int8`.
    #[serde(default)]
    pub name: String,
    /// Number format of the weights.
    pub precision: Precision,
    /// The execution provider it was made for: `cpu`, `cuda` or `tensorrt`.
    pub execution_provider: String,
    /// What it asks of the processor; none: nothing. Its answers are wrong where that is not met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requirement>,
    /// Its file name. Large tensors may lie in a second file of that name and the ending `_data`.
    pub file: String,
    /// The largest difference from fp32 (of an fp32 graph: from the trained model) that was measured before packing.
    #[serde(default)]
    pub max_logit_difference: Option<f32>,
    /// The accuracy that was measured with it.
    #[serde(default)]
    pub accuracy: Option<f64>,
}

impl Variant {
    /// Whether this machine's processor can compute it.
    pub fn is_for_processor(&self) -> bool {
        self.requires.is_none_or(Requirement::is_met)
    }

    /// Whether it was made for an execution provider that there is.
    pub(crate) fn is_for_known_provider(&self) -> bool {
        ["cpu", "cuda", "tensorrt"].contains(&self.execution_provider.as_str())
    }

    /// The name of the file for its large tensors, if it has one.
    pub fn data_file(&self) -> String {
        format!("{}_data", self.file)
    }
}

/// The figures that admitted the bundle. Accuracies are shares between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Which rows were used: `validation`, `test`, `train`, or `synthetic` where there was no data.
    pub split: String,
    /// How many rows.
    pub rows: usize,
    /// Largest absolute difference between a logit of the fp32 graph and of the trained model.
    pub fp32_max_logit_difference: f32,
    /// Accuracy of the fp32 graph; none without labelled rows.
    pub fp32_accuracy: Option<f64>,
    /// Largest absolute difference between a logit of the shipped graph and of the fp32 graph.
    pub shipped_max_logit_difference: f32,
    /// Accuracy of the shipped graph; none without labelled rows.
    pub shipped_accuracy: Option<f64>,
    /// Share of the rows that get the same label from the shipped and the fp32 graph: of every task, and where a row may have several,
    /// all of them by the bundle's thresholds.
    pub label_agreement: f64,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the base model's folder.
    pub base_model: String,
    /// SHA-256 of the training data's files, in hexadecimal; none if the model was only exported.
    pub data_sha256: Option<String>,
    /// Seed of the run.
    pub seed: Option<u64>,
    /// Program and version that wrote the bundle.
    pub producer: String,
}
