//! Opening a bundle: parsed, validated, and compared with its digests.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CONFIG, FileEntry, MANIFEST, Manifest, PublicKey, SIGNATURE, TOKENIZER, Variant, Verifier, Verify, sign};
use crate::{
    archive::Archive,
    config::{ModelConfig, ProblemType},
    device::Device,
    error::{Error, Result},
    file::{MAX_JSON_BYTES, sha256},
    graph::{self, GraphFiles, MAX_DATA_BYTES, MAX_GRAPH_BYTES, Operators},
    prediction::{Decision, Task},
    store::{Bytes, Store},
    summary::Reference,
    tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer},
};

/// An opened bundle, in a folder or in one file. Manifest and configuration were compared with their digests, the tokenizer is
/// when it is read, and a graph as [`Verify`] says; [`Bundle::verify`] compares all there is.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder, or the file.
    pub path: PathBuf,
    /// `nimbert.json`.
    pub manifest: Manifest,
    /// `config.json`.
    pub config: ModelConfig,
    pub(crate) store: Store,
}

impl Bundle {
    /// Reads and validates manifest and configuration, and checks that every file is there with its size. `path` is a folder,
    /// or a file as [`Bundle::pack`] writes it.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it breaks the specification, [`Error::Checksum`] if it was
    /// changed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_signed(path, &[])
    }

    /// The same of a bundle that one of `keys` must have signed; without any, none need have.
    ///
    /// # Errors
    /// Those of [`Bundle::open`], and [`Error::Signature`].
    pub fn open_signed(path: impl AsRef<Path>, keys: &[PublicKey]) -> Result<Self> {
        Self::of(Store::open(path.as_ref())?, keys)
    }

    /// The same of a file that is in memory already: compiled into the program, or mapped. It is not copied.
    ///
    /// # Errors
    /// Those of [`Bundle::open_signed`].
    pub fn from_bytes(bytes: &'static [u8], keys: &[PublicKey]) -> Result<Self> {
        Self::of(Store::Archive(Arc::new(Archive::from_bytes(bytes)?)), keys)
    }

    fn of(store: Store, keys: &[PublicKey]) -> Result<Self> {
        let manifest_path = store.path(MANIFEST);
        let content = store.read(MANIFEST, MAX_JSON_BYTES)?;
        if !keys.is_empty() {
            // Before anything of it is looked at.
            sign::verify(&store, &content, keys)?;
        }
        let manifest = Manifest::parse(&manifest_path, &content)?;
        let config_path = store.path(CONFIG);
        let config = store.read(CONFIG, MAX_JSON_BYTES)?;
        expect_size(&config_path, config.len() as u64, &manifest.files[CONFIG])?;
        manifest.files[CONFIG].expect(&config_path, sha256(&config))?;
        let config = ModelConfig::parse(&config_path, &config)?;
        let bundle = Self { path: store.location().to_owned(), config, manifest, store };
        bundle.validate(&manifest_path)?;
        Ok(bundle)
    }

    /// Checks what manifest, configuration and folder say of each other.
    fn validate(&self, manifest_path: &Path) -> Result<()> {
        let Manifest { files, variants, max_length, label_thresholds, .. } = &self.manifest;
        let fail = |expected: &str, got: String| Err(Error::format(manifest_path, expected, got));
        // A reader that looks for it would use it, and nobody would have compared it.
        let mut data_files = variants.iter().map(Variant::data_file);
        if let Some(name) = data_files.find(|name| !files.contains_key(name) && self.store.has(name)) {
            return fail("every file of the bundle under \"files\"", format!("no entry for {name}, which is there"));
        }
        // In a folder lies what people put there; in one file nobody sees what else is in it.
        let is_known = |name: &&str| files.contains_key(*name) || [MANIFEST, SIGNATURE].contains(name);
        if let Some(name) = self.store.members().into_iter().find(|name| !is_known(name)) {
            return fail(
                "every file of the bundle under \"files\"",
                format!("no entry for {name}, which is in the file"),
            );
        }
        if let Some(Variant { execution_provider, .. }) =
            variants.iter().find(|variant| !variant.is_for_known_provider())
        {
            return fail("an execution_provider of cpu, cuda or tensorrt", format!("{execution_provider:?}"));
        }
        let sizes = variants.iter().filter_map(|variant| files.get(&variant.data_file()));
        if let Some(entry) = sizes.into_iter().find(|entry| entry.bytes > MAX_DATA_BYTES) {
            return fail(&format!("large tensors of at most {MAX_DATA_BYTES} bytes"), entry.bytes.to_string());
        }
        for (name, entry) in files {
            expect_size(&self.store.path(name), self.store.size(name)?, entry)?;
        }
        let positions = self.config.max_position_embeddings;
        if !(3..=positions).contains(max_length) {
            return fail(&format!("a max_length from 3 to the model's {positions} positions"), max_length.to_string());
        }
        let labels = self.config.labels.len();
        if label_thresholds.is_some() && self.config.problem_type != ProblemType::MultiLabel {
            return fail("label_thresholds only where a text may have any number of labels", "one label".to_owned());
        }
        if let Some(thresholds) = label_thresholds.as_ref().filter(|thresholds| thresholds.len() != labels) {
            return fail(&format!("{labels} label_thresholds, one for each label"), thresholds.len().to_string());
        }
        if let Some(coverage) = &self.manifest.coverage {
            if self.config.problem_type != ProblemType::SingleLabel {
                return fail("a coverage only where a text has one label", "any number of labels".to_owned());
            }
            let count = coverage.thresholds.len();
            if count != labels {
                return fail(&format!("{labels} thresholds of the coverage, one for each label"), count.to_string());
            }
        }
        if !self.manifest.further_tasks.is_empty() && self.config.problem_type != ProblemType::SingleLabel {
            return fail("further tasks only where a text has one label of each", "any number of labels".to_owned());
        }
        if labels < 2 {
            return fail("at least two labels in config.json", labels.to_string());
        }
        Ok(())
    }

    /// What the bundle decides of each text; the first is the one whose labels `config.json` has.
    pub fn tasks(&self) -> Vec<Task> {
        let Manifest { task, further_tasks, .. } = &self.manifest;
        let decision = self.decision();
        let further = further_tasks.iter().map(|task| Task {
            name: Some(task.name.clone()),
            labels: task.labels.clone(),
            decision: Decision {
                problem_type: ProblemType::SingleLabel,
                temperature: 1.0,
                abstain_threshold: task.abstain_threshold,
                label_thresholds: None,
                coverage: task.coverage.clone(),
                unknown_threshold: decision.unknown_threshold,
            },
        });
        let first = Task { name: task.clone(), labels: self.config.labels.clone(), decision: decision.clone() };
        std::iter::once(first).chain(further).collect()
    }

    /// How the bundle's logits become an answer, to the first of its tasks.
    pub fn decision(&self) -> Decision {
        Decision {
            problem_type: self.config.problem_type,
            temperature: self.manifest.temperature,
            abstain_threshold: self.manifest.abstain_threshold,
            label_thresholds: self.manifest.label_thresholds.clone(),
            coverage: self.manifest.coverage.clone(),
            unknown_threshold: self.manifest.unknown.as_ref().map(|unknown| unknown.threshold),
        }
    }

    /// What the classifier answered to texts that it was tested on, if the bundle says it.
    ///
    /// # Errors
    /// [`Error::Format`] if what it says is none.
    pub fn reference(&self) -> Result<Option<Reference>> {
        let Some(value) = self.manifest.metadata.get(Reference::KEY) else { return Ok(None) };
        let reference = serde_json::from_value::<Reference>(value.clone()).ok();
        match reference.filter(|reference| reference.summary.is_sound()) {
            Some(reference) => Ok(Some(reference)),
            None => {
                let expected = format!("a summary as {:?} under \"metadata\"", Reference::KEY);
                Err(Error::format(&self.store.path(MANIFEST), expected, "something else"))
            }
        }
    }

    /// The bundle's tokenizer, with its maximum length and stride.
    ///
    /// # Errors
    /// [`Error::Checksum`]; those of [`Tokenizer::open`] and [`Tokenizer::with_stride`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.store.path(TOKENIZER);
        let content = self.store.read(TOKENIZER, MAX_TOKENIZER_BYTES)?;
        self.manifest.files[TOKENIZER].expect(&path, sha256(&content))?;
        let tokenizer = Tokenizer::parse(&path, &content, self.manifest.max_length)?;
        let tokenizer = tokenizer.with_truncation_side(self.manifest.truncation_side);
        match self.manifest.stride {
            None => Ok(tokenizer),
            Some(stride) => tokenizer.with_stride(stride),
        }
    }

    /// Reads, compares and checks a graph, and reads and compares its large tensors.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checksum`], [`Error::Format`].
    pub(crate) fn graph(&self, variant: &Variant, verifier: &Verifier, operators: Operators) -> Result<GraphFiles> {
        let files = self.notes(variant, verifier);
        let bytes = self.checked_graph(variant, verifier, operators)?;
        let mut graph = GraphFiles { path: self.store.path(&variant.file), bytes, data: None };
        if let Some((name, entry, _)) = files.get(1) {
            let data = self.store.read_large(name, entry.bytes)?;
            verifier.bytes(&self.store.path(name), &data, entry)?;
            graph.data = Some(data);
        }
        files.into_iter().for_each(|(name, entry, note)| verifier.remember(&self.store, &name, entry, note));
        Ok(graph)
    }

    /// Copies a graph's files into `folder`, compared with their digests and checked; its path there.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Format`], [`Error::Io`].
    pub fn extract_graph(&self, variant: &Variant, folder: &Path) -> Result<PathBuf> {
        self.copy_graph(variant, &Verifier::new(Verify::Always, None), Operators::Known, folder)
    }

    /// Copies a graph and its large tensors into `folder`: what was copied is compared, whatever `verifier` says, and checked:
    /// what is made of the copy is named by the digests. Returns the graph's path there.
    ///
    /// # Errors
    /// Those of [`Bundle::graph`].
    pub(crate) fn copy_graph(
        &self,
        variant: &Variant,
        verifier: &Verifier,
        operators: Operators,
        folder: &Path,
    ) -> Result<PathBuf> {
        let files = self.notes(variant, verifier);
        let graph = folder.join(&variant.file);
        let bytes = self.checked_graph(variant, &Verifier::new(Verify::Always, None), operators)?;
        fs::write(&graph, &*bytes).map_err(|error| Error::io(&graph, error))?;
        if let Some((name, entry, _)) = files.get(1) {
            let copied = self.store.copy_hashed(name, &folder.join(name), entry.bytes)?;
            entry.expect(&self.store.path(name), copied)?;
        }
        files.into_iter().for_each(|(name, entry, note)| verifier.remember(&self.store, &name, entry, note));
        Ok(graph)
    }

    /// A graph's file, compared and checked.
    fn checked_graph(&self, variant: &Variant, verifier: &Verifier, operators: Operators) -> Result<Bytes> {
        let path = self.store.path(&variant.file);
        let bytes = self.store.read(&variant.file, MAX_GRAPH_BYTES)?;
        verifier.bytes(&path, &bytes, &self.manifest.files[&variant.file])?;
        let data = variant.data_file();
        let data = self.manifest.files.get(&data).map(|entry| (data.as_str(), entry.bytes));
        graph::check(&path, &bytes, data, operators)?;
        Ok(bytes)
    }

    /// A graph's files, and under which name it is noted that they were compared: taken before they are read.
    fn notes(&self, variant: &Variant, verifier: &Verifier) -> Vec<(String, &FileEntry, Option<PathBuf>)> {
        let with_note = |(name, entry): (String, _)| {
            let note = verifier.note(&self.store, &name, entry);
            (name, entry, note)
        };
        self.graph_files(variant).map(with_note).collect()
    }

    /// The names of a graph's files, that of its large tensors behind it, and what the manifest says of them.
    pub(crate) fn graph_files(&self, variant: &Variant) -> impl Iterator<Item = (String, &FileEntry)> {
        let with_entry = |name: String| self.manifest.files.get(&name).map(|entry| (name, entry));
        [variant.file.clone(), variant.data_file()].into_iter().filter_map(with_entry)
    }

    /// Compares every file with its recorded digest.
    ///
    /// # Errors
    /// [`Error::Checksum`] for the first file that differs, [`Error::Io`] if one cannot be read.
    pub fn verify(&self) -> Result<()> {
        let expect =
            |(name, entry): (&String, &FileEntry)| entry.expect(&self.store.path(name), self.store.sha256(name)?);
        self.manifest.files.iter().try_for_each(expect)
    }

    /// The manifest's bytes: what is signed.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if they are not those that were opened any more.
    pub fn manifest_bytes(&self) -> Result<Vec<u8>> {
        let path = self.store.path(MANIFEST);
        let content = self.store.read(MANIFEST, MAX_JSON_BYTES)?.to_vec();
        match Manifest::parse(&path, &content)? == self.manifest {
            true => Ok(content),
            false => Err(Error::format(&path, "the manifest that was opened", "another")),
        }
    }

    /// What the signature's maker wrote into it, if the bundle has one; whose it is was not looked at.
    pub fn signature_comment(&self) -> Option<String> {
        sign::comment(&self.store)
    }

    /// The graph of that name; without one, the first that was made for `device` and this processor, or else for this
    /// processor.
    ///
    /// # Errors
    /// [`Error::Format`] if the bundle has no such graph.
    pub fn variant(&self, name: Option<&str>, device: Device) -> Result<&Variant> {
        let variants = &self.manifest.variants;
        choose(variants, name, device, Variant::is_for_processor).ok_or_else(|| {
            let expected = match name {
                Some(name) if variants.iter().all(|variant| variant.name != name) => format!("a graph called {name}"),
                _ => "a graph for this processor".to_owned(),
            };
            let has = |variant: &Variant| match variant.requires {
                None => variant.name.clone(),
                Some(requirement) => format!("{}, which requires {requirement}", variant.name),
            };
            Error::format(&self.path, expected, variants.iter().map(has).collect::<Vec<_>>().join(", "))
        })
    }

    /// Size of a graph in bytes, with the file of its large tensors where there is one.
    pub fn graph_bytes(&self, variant: &Variant) -> u64 {
        self.graph_files(variant).map(|(_, entry)| entry.bytes).sum()
    }
}

fn expect_size(path: &Path, bytes: u64, entry: &FileEntry) -> Result<()> {
    match bytes == entry.bytes {
        true => Ok(()),
        false => Err(Error::format(path, format!("{} bytes", entry.bytes), format!("{bytes} bytes"))),
    }
}

/// See [`Bundle::variant`].
fn choose<'a>(
    variants: &'a [Variant],
    name: Option<&str>,
    device: Device,
    is_for_processor: impl Fn(&Variant) -> bool,
) -> Option<&'a Variant> {
    let provider = device.execution_provider().unwrap_or_default();
    let is_named = |variant: &&Variant| name.is_none_or(|name| variant.name == name);
    let usable = || variants.iter().filter(is_named).filter(|variant| is_for_processor(variant));
    usable().find(|variant| variant.execution_provider == provider).or_else(|| usable().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Precision, Requirement};

    #[test]
    fn a_graph_for_some_processors_is_chosen_on_those_alone() {
        let variant = |name: &str, requires| Variant {
            name: name.to_owned(),
            precision: Precision::Int8,
            execution_provider: "cpu".to_owned(),
            requires,
            file: format!("{name}.onnx"),
            max_logit_difference: None,
            accuracy: None,
        };
        let full = variant("full", Some(Requirement::ExactByteProducts));
        let both = [full.clone(), variant("reduced", None)];
        let chosen = |variants: &[Variant], name: Option<&str>, is_able: bool| {
            let chosen = choose(variants, name, Device::Cpu, |variant| is_able || variant.requires.is_none());
            chosen.map(|variant| variant.name.clone()).unwrap_or_default()
        };
        assert_eq!([true, false].map(|is_able| chosen(&both, None, is_able)), ["full", "reduced"]);
        assert_eq!([true, false].map(|is_able| chosen(&both, Some("full"), is_able)), ["full", ""]);
        assert_eq!([true, false].map(|is_able| chosen(&both, Some("reduced"), is_able)), ["reduced"; 2]);
        assert_eq!(chosen(&[full], None, false), "");
    }
}
