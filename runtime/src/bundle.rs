//! The bundle: one folder that holds everything a classifier needs to run. FORMAT.md specifies it.
//!
//! Reading goes in safetensors' order: a cap on size, a strict parse, validation, and only then use.
//! Writing goes into a hidden folder beside the target, which is renamed when it is complete.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    config::ModelConfig,
    device::Device,
    error::{Error, Result},
    exchange::exchange,
    prediction::Decision,
    tokenizer::{Tokenizer, TruncationSide},
};

/// The format version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST: &str = "nimbert.json";
/// The file name of the Hugging Face configuration.
pub const CONFIG: &str = "config.json";
/// The file name of the Hugging Face fast tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The file name of the default graph.
pub const MODEL: &str = "model.onnx";

/// No tokenizer of a bundle may be larger, in bytes: a 250,000-word tokenizer.json has 17 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// No other JSON file of a bundle may be, in bytes: 20,000 labels take 2 MB, and parsed JSON some thirty times as much.
const MAX_JSON_BYTES: u64 = 4 << 20;

/// `nimbert.json`: what is in the bundle, how it is to be used, and what was measured before it was packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded_temperature: Option<f32>,
    /// A score under which the classifier abstains.
    pub abstain_threshold: Option<f32>,
    /// The score from which on each label holds, in the order of the ids; only where a text has any number of labels.
    /// None: 0.5 for all.
    #[serde(default)]
    pub label_thresholds: Option<Vec<f32>>,
    /// What the export measured before it packed the bundle.
    pub acceptance: Acceptance,
    /// Where the model comes from.
    pub provenance: Provenance,
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
    /// What it is called: `cpu-int8`, `cpu-fp32`, `gpu-fp16`, `tensorrt-fp16`, `tensorrt-int8`.
    #[serde(default)]
    pub name: String,
    /// Number format of the weights.
    pub precision: Precision,
    /// The execution provider it was made for: `cpu`, `cuda` or `tensorrt`.
    pub execution_provider: String,
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
    /// The name of the file for its large tensors, if it has one.
    pub fn data_file(&self) -> String {
        format!("{}_data", self.file)
    }
}

/// Number format of a graph's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit integers, one scale a channel.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        })
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
    /// Share of the rows that get the same label from the shipped and the fp32 graph.
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

/// An opened bundle: parsed and validated, not hashed (see [`Bundle::verify`]).
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder.
    pub path: PathBuf,
    /// `nimbert.json`.
    pub manifest: Manifest,
    /// `config.json`.
    pub config: ModelConfig,
}

impl Bundle {
    /// Reads and validates manifest and configuration, and checks that every file is there with its size.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it breaks the specification.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let manifest_path = path.join(MANIFEST);
        let expected = format!("a nimbert manifest of format version 1 to {FORMAT_VERSION}");
        let value: serde_json::Value = read_json(&manifest_path, &expected)?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(version) if (1..=u64::from(FORMAT_VERSION)).contains(&version) => {}
            Some(version) => return Err(Error::format(&manifest_path, expected, format!("format version {version}"))),
            None => return Err(Error::format(&manifest_path, expected, "no number \"format_version\"")),
        }
        let manifest: Manifest = serde_json::from_value(value)
            .map_err(|error| Error::format(&manifest_path, expected, error.to_string()))?;
        let bundle = Self { path: path.to_owned(), config: ModelConfig::open(&path.join(CONFIG))?, manifest };
        bundle.validate(&manifest_path)?;
        Ok(bundle)
    }

    fn validate(&self, manifest_path: &Path) -> Result<()> {
        let Manifest { files, variants, temperature, max_length, label_thresholds, .. } = &self.manifest;
        let fail = |expected: &str, got: String| Err(Error::format(manifest_path, expected, got));
        for name in [CONFIG, TOKENIZER].into_iter().chain(variants.iter().map(|variant| variant.file.as_str())) {
            if !files.contains_key(name) {
                return fail("every file of the bundle under \"files\"", format!("no entry for {name}"));
            }
        }
        // ONNX Runtime would use it, and nobody would have hashed it.
        let mut data_files = variants.iter().map(Variant::data_file);
        if let Some(name) = data_files.find(|name| !files.contains_key(name) && self.path.join(name).exists()) {
            return fail("every file of the bundle under \"files\"", format!("no entry for {name}, which is there"));
        }
        for (name, entry) in files {
            let mut components = Path::new(name).components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                return fail("plain file names", format!("{name:?}"));
            }
            let file = self.path.join(name);
            let bytes = expect_file(&file)?;
            if bytes != entry.bytes {
                return Err(Error::format(&file, format!("{} bytes", entry.bytes), format!("{bytes} bytes")));
            }
        }
        if variants.is_empty() {
            return fail("at least one graph under \"variants\"", "none".into());
        }
        if !(temperature.is_finite() && *temperature > 0.0) {
            return fail("a temperature above 0", temperature.to_string());
        }
        let positions = self.config.max_position_embeddings;
        if !(3..=positions).contains(max_length) {
            return fail(&format!("a max_length from 3 to the model's {positions} positions"), max_length.to_string());
        }
        if let Some(thresholds) = label_thresholds
            && thresholds.len() != self.config.labels.len()
        {
            let expected = format!("{} label_thresholds, one for each label", self.config.labels.len());
            return fail(&expected, thresholds.len().to_string());
        }
        if self.config.labels.len() < 2 {
            return fail("at least two labels in config.json", self.config.labels.len().to_string());
        }
        Ok(())
    }

    /// How the bundle's logits become an answer.
    pub fn decision(&self) -> Decision {
        Decision {
            problem_type: self.config.problem_type,
            temperature: self.manifest.temperature,
            abstain_threshold: self.manifest.abstain_threshold,
            label_thresholds: self.manifest.label_thresholds.clone(),
        }
    }

    /// The bundle's tokenizer, with its maximum length and stride.
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`] and [`Tokenizer::with_stride`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::open(&self.path.join(TOKENIZER), self.manifest.max_length)?;
        let tokenizer = tokenizer.with_truncation_side(self.manifest.truncation_side);
        match self.manifest.stride {
            None => Ok(tokenizer),
            Some(stride) => tokenizer.with_stride(stride),
        }
    }

    /// Compares every file with its recorded digest.
    ///
    /// # Errors
    /// [`Error::Checksum`] for the first file that differs, [`Error::Io`] if one cannot be read.
    pub fn verify(&self) -> Result<()> {
        for (name, entry) in &self.manifest.files {
            let path = self.path.join(name);
            let got = sha256_file(&path)?;
            if !got.eq_ignore_ascii_case(&entry.sha256) {
                return Err(Error::Checksum { path, expected: entry.sha256.clone(), got });
            }
        }
        Ok(())
    }

    /// The graph of that name; without one, the first that was made for `device`, or else the default.
    ///
    /// # Errors
    /// [`Error::Format`] if the bundle has no such graph.
    pub fn variant(&self, name: Option<&str>, device: Device) -> Result<&Variant> {
        let variants = &self.manifest.variants;
        let provider = device.execution_provider().unwrap_or_default();
        let found = match name {
            Some(name) => variants.iter().find(|variant| variant.name == name),
            None => variants.iter().find(|variant| variant.execution_provider == provider).or(variants.first()),
        };
        found.ok_or_else(|| {
            let has: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
            Error::format(&self.path, format!("a graph called {}", name.unwrap_or("any")), has.join(", "))
        })
    }

    /// Size of a graph in bytes, with the file of its large tensors where there is one.
    pub fn graph_bytes(&self, variant: &Variant) -> u64 {
        let bytes = |name: &str| self.manifest.files.get(name).map_or(0, |entry| entry.bytes);
        bytes(&variant.file) + bytes(&variant.data_file())
    }
}

/// A bundle in the making. It lies in a hidden folder beside its target until [`BundleWriter::finish`] renames it;
/// dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct BundleWriter {
    target: PathBuf,
    staging: PathBuf,
    /// The folder, locked as long as it is being written: what a killed run has left is not. None where a folder cannot be
    /// opened.
    _lock: Option<fs::File>,
}

impl BundleWriter {
    /// Checks that `target` may be written: it is absent, an empty folder, or — with `overwrite` — another bundle; and a
    /// folder can be made beside it.
    ///
    /// # Errors
    /// [`Error::OutputExists`], or [`Error::Io`] if nothing can be written there.
    pub fn check_target(target: &Path, overwrite: bool) -> Result<()> {
        let occupied = |got: &str| Err(Error::OutputExists { path: target.to_owned(), got: got.to_owned() });
        match fs::read_dir(target) {
            Ok(mut entries) => match (entries.next().is_none(), target.join(MANIFEST).exists(), overwrite) {
                (true, ..) | (_, true, true) => {}
                (_, true, false) => return occupied("a bundle; --overwrite replaces it"),
                (_, false, _) => return occupied("other files, which are never replaced"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return occupied("a file"),
            Err(error) => return Err(Error::io(target, error)),
        }
        // A trial, in the nearest folder that is there: no other check tells whether one may write.
        let (parent, name) = split_target(target)?;
        let nearest = parent.ancestors().find(|folder| folder.exists()).unwrap_or(&parent);
        let trial = create_hidden(nearest, &name, "trial")?;
        fs::remove_dir(&trial).map_err(|error| Error::io(&trial, error))
    }

    /// Starts a bundle that is to become the folder `target`.
    ///
    /// # Errors
    /// Those of [`BundleWriter::check_target`], and [`Error::Io`].
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        Self::check_target(target, overwrite)?;
        let (parent, name) = split_target(target)?;
        fs::create_dir_all(&parent).map_err(|error| Error::io(&parent, error))?;
        clear_hidden(&parent, &name);
        let staging = create_hidden(&parent, &name, PARTIAL)?;
        let lock = fs::File::open(&staging).ok().filter(|folder| folder.try_lock().is_ok());
        Ok(Self { target: parent.join(name), staging, _lock: lock })
    }

    /// The folder in which the bundle's files are being collected.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Writes one file into the bundle.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.staging.join(name);
        fs::write(&path, content).map_err(|error| Error::io(&path, error))
    }

    /// Records every file in `manifest`, writes it, and puts the bundle in its place.
    ///
    /// # Errors
    /// [`Error::Io`]; the target is then as it was.
    pub fn finish(self, mut manifest: Manifest) -> Result<Bundle> {
        let entries = fs::read_dir(&self.staging).map_err(|error| Error::io(&self.staging, error))?;
        for entry in entries {
            let path = entry.map_err(|error| Error::io(&self.staging, error))?.path();
            let bytes = fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            manifest.files.insert(name, FileEntry { bytes, sha256: sha256_file(&path)? });
        }
        let json = serde_json::to_string_pretty(&manifest).expect("a manifest has only string keys");
        self.write(MANIFEST, json + "\n")?;
        // What does not open must not ship.
        Bundle::open(&self.staging)?.tokenizer()?;
        replace_dir(&self.staging, &self.target)?;
        Bundle::open(&self.target)
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        // After `finish` the folder is gone, and nothing is left to remove.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// Puts the folder `new` in the place of `target`, in one step where the system has such; else what was there is removed
/// last, and put back if the rename fails.
fn replace_dir(new: &Path, target: &Path) -> Result<()> {
    if !target.exists() {
        return fs::rename(new, target).map_err(|error| Error::io(target, error));
    }
    if exchange(new, target).is_ok() {
        // What was replaced lies under the new one's former name, and goes with the writer.
        return Ok(());
    }
    let (parent, name) = split_target(target)?;
    // A fresh empty folder, which a rename may replace: a name that no other run uses.
    let retired = create_hidden(&parent, &name, "retired")?;
    fs::rename(target, &retired).map_err(|error| Error::io(target, error))?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(&retired, target).map_err(|error| Error::io(&retired, error))?;
        return Err(Error::io(target, error));
    }
    // The new bundle is in its place; an old one that cannot be removed is no failure.
    let _ = fs::remove_dir_all(&retired);
    Ok(())
}

/// The folder in which `target` lies, absolute, and its name there.
fn split_target(target: &Path) -> Result<(PathBuf, String)> {
    // An absolute path has a parent and a name even where `target` is ".".
    let absolute = std::path::absolute(target).map_err(|error| Error::io(target, error))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_string_lossy().into_owned())),
        _ => Err(Error::OutputExists { path: target.to_owned(), got: "no name for a folder".to_owned() }),
    }
}

/// What a folder is for that a bundle is collected in.
const PARTIAL: &str = "partial";

/// Removes what killed runs have left of bundles of that name: their folders are locked by nobody.
fn clear_hidden(parent: &Path, name: &str) {
    let prefix = format!(".{name}.{PARTIAL}-");
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        let is_left = fs::File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if is_left {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes a hidden folder that was not there before: process ids repeat in containers, and after a crash.
pub(crate) fn create_hidden(parent: &Path, name: &str, purpose: &str) -> Result<PathBuf> {
    for attempt in 0.. {
        let path = parent.join(format!(".{name}.{purpose}-{}-{attempt}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            Err(error) => return Err(Error::io(&path, error)),
        }
    }
    unreachable!("the last attempt returns")
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|error| Error::io(path, error))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a JSON file of at most [`MAX_JSON_BYTES`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T> {
    let content = read_capped(path, MAX_JSON_BYTES)?;
    serde_json::from_slice(&content).map_err(|error| Error::format(path, expected, error.to_string()))
}

/// Reads a tokenizer's file, of at most [`MAX_TOKENIZER_BYTES`].
pub(crate) fn read_tokenizer(path: &Path) -> Result<Vec<u8>> {
    read_capped(path, MAX_TOKENIZER_BYTES)
}

/// Reads a file of at most so many bytes, so that a wrong path cannot fill the memory.
fn read_capped(path: &Path, most: u64) -> Result<Vec<u8>> {
    expect_file(path)?;
    let file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content).map_err(|error| Error::io(path, error))?;
    if content.len() as u64 > most {
        return Err(Error::format(path, format!("at most {most} bytes"), "more"));
    }
    Ok(content)
}

/// The size of a file; a pipe would let a reader wait for ever, and a device may have no end.
fn expect_file(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(Error::format(path, "a file", if metadata.is_dir() { "a folder" } else { "a pipe or a device" })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_in_one_step_and_what_a_killed_run_has_left_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, content) in [("new", "new"), ("target", "old")] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), content).unwrap();
        }
        // Whoever looks finds one or the other, at every moment.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(!cfg!(target_os = "linux") || path("target").exists());
                }
            });
            for _ in 0..200 {
                replace_dir(&path("new"), &path("target")).unwrap();
                if !path("new").exists() {
                    fs::create_dir(path("new")).unwrap();
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            looks.join().unwrap();
        });
        fs::create_dir(path(".bundle.partial-1-0")).unwrap();
        let living = BundleWriter::create(&path("bundle"), false).unwrap();
        assert!(!path(".bundle.partial-1-0").exists());
        let second = BundleWriter::create(&path("bundle"), false).unwrap();
        assert!(living.staging().exists() && second.staging().exists());
    }
}
