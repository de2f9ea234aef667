//! Opening a bundle: parsed, validated, and compared with its digests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{CONFIG, FileEntry, MANIFEST, Manifest, PublicKey, TOKENIZER, Variant, Verifier, Verify, sign};
use crate::{
    config::ModelConfig,
    device::Device,
    error::{Error, Result},
    file::{copy_hashed, expect_file, read_capped, read_json, sha256, sha256_file},
    graph::{self, GraphFiles, MAX_DATA_BYTES, MAX_GRAPH_BYTES, Operators},
    prediction::Decision,
    tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer},
};

/// An opened bundle. Manifest and configuration were compared with their digests, the tokenizer is when it is read, and a
/// graph as [`Verify`] says; [`Bundle::verify`] compares all there is.
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
        let path = path.as_ref();
        let manifest_path = path.join(MANIFEST);
        let content = read_json(&manifest_path)?;
        if !keys.is_empty() {
            // Before anything of it is looked at.
            sign::verify(path, &content, keys)?;
        }
        let manifest = Manifest::parse(&manifest_path, &content)?;
        let config_path = path.join(CONFIG);
        let config = read_json(&config_path)?;
        expect_size(&config_path, config.len() as u64, &manifest.files[CONFIG])?;
        manifest.files[CONFIG].expect(&config_path, sha256(&config))?;
        let config = ModelConfig::parse(&config_path, &config)?;
        let bundle = Self { path: path.to_owned(), config, manifest };
        bundle.validate(&manifest_path)?;
        Ok(bundle)
    }

    /// Checks what manifest, configuration and folder say of each other.
    fn validate(&self, manifest_path: &Path) -> Result<()> {
        let Manifest { files, variants, max_length, label_thresholds, .. } = &self.manifest;
        let fail = |expected: &str, got: String| Err(Error::format(manifest_path, expected, got));
        // A reader that looks for it would use it, and nobody would have compared it.
        let mut data_files = variants.iter().map(Variant::data_file);
        if let Some(name) = data_files.find(|name| !files.contains_key(name) && self.path.join(name).exists()) {
            return fail("every file of the bundle under \"files\"", format!("no entry for {name}, which is there"));
        }
        let sizes = variants.iter().filter_map(|variant| files.get(&variant.data_file()));
        if let Some(entry) = sizes.into_iter().find(|entry| entry.bytes > MAX_DATA_BYTES) {
            return fail(&format!("large tensors of at most {MAX_DATA_BYTES} bytes"), entry.bytes.to_string());
        }
        for (name, entry) in files {
            let file = self.path.join(name);
            expect_size(&file, expect_file(&file)?, entry)?;
        }
        let positions = self.config.max_position_embeddings;
        if !(3..=positions).contains(max_length) {
            return fail(&format!("a max_length from 3 to the model's {positions} positions"), max_length.to_string());
        }
        let labels = self.config.labels.len();
        if let Some(thresholds) = label_thresholds.as_ref().filter(|thresholds| thresholds.len() != labels) {
            return fail(&format!("{labels} label_thresholds, one for each label"), thresholds.len().to_string());
        }
        if labels < 2 {
            return fail("at least two labels in config.json", labels.to_string());
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
    /// [`Error::Checksum`]; those of [`Tokenizer::open`] and [`Tokenizer::with_stride`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.path.join(TOKENIZER);
        let content = read_capped(&path, MAX_TOKENIZER_BYTES)?;
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
        let mut graph = GraphFiles { path: self.path.join(&variant.file), bytes, data: None };
        if let Some((path, entry, _)) = files.get(1) {
            let data = graph.read_data(path, entry.bytes)?;
            verifier.bytes(path, data, entry)?;
        }
        files.into_iter().for_each(|(path, entry, note)| verifier.remember(&path, entry, note));
        Ok(graph)
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
        fs::write(&graph, bytes).map_err(|error| Error::io(&graph, error))?;
        if let Some((path, entry, _)) = files.get(1) {
            let copied = copy_hashed(path, &folder.join(variant.data_file()), entry.bytes)?;
            entry.expect(path, copied)?;
        }
        files.into_iter().for_each(|(path, entry, note)| verifier.remember(&path, entry, note));
        Ok(graph)
    }

    /// A graph's file, compared and checked.
    fn checked_graph(&self, variant: &Variant, verifier: &Verifier, operators: Operators) -> Result<Vec<u8>> {
        let path = self.path.join(&variant.file);
        let bytes = read_capped(&path, MAX_GRAPH_BYTES)?;
        verifier.bytes(&path, &bytes, &self.manifest.files[&variant.file])?;
        let data = variant.data_file();
        let data = self.manifest.files.get(&data).map(|entry| (data.as_str(), entry.bytes));
        graph::check(&path, &bytes, data, operators)?;
        Ok(bytes)
    }

    /// A graph's files, and under which name it is noted that they were compared: taken before they are read.
    fn notes(&self, variant: &Variant, verifier: &Verifier) -> Vec<(PathBuf, &FileEntry, Option<PathBuf>)> {
        let with_note = |(path, entry): (PathBuf, _)| {
            let note = verifier.note(&path, entry);
            (path, entry, note)
        };
        self.graph_files(variant).map(with_note).collect()
    }

    /// A graph's files, that of its large tensors behind it, and what the manifest says of them.
    pub(crate) fn graph_files(&self, variant: &Variant) -> impl Iterator<Item = (PathBuf, &FileEntry)> {
        [variant.file.clone(), variant.data_file()]
            .into_iter()
            .filter_map(|name| Some((self.path.join(&name), self.manifest.files.get(&name)?)))
    }

    /// Compares every file with its recorded digest.
    ///
    /// # Errors
    /// [`Error::Checksum`] for the first file that differs, [`Error::Io`] if one cannot be read.
    pub fn verify(&self) -> Result<()> {
        self.manifest.files.iter().try_for_each(|(name, entry)| {
            let path = self.path.join(name);
            entry.expect(&path, sha256_file(&path)?)
        })
    }

    /// What the signature's maker wrote into it, if the bundle has one; whose it is was not looked at.
    pub fn signature_comment(&self) -> Option<String> {
        sign::comment(&self.path)
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
        self.graph_files(variant).map(|(_, entry)| entry.bytes).sum()
    }
}

fn expect_size(path: &Path, bytes: u64, entry: &FileEntry) -> Result<()> {
    match bytes == entry.bytes {
        true => Ok(()),
        false => Err(Error::format(path, format!("{} bytes", entry.bytes), format!("{bytes} bytes"))),
    }
}
