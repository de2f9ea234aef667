//! What is done to a bundle: each case follows from a kind, a seed and an index.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use nimbert::bundle::{CONFIG, MANIFEST, TOKENIZER};
use nimbert_tests::seal;
use serde_json::Value;

use crate::{graph, tokenizer};

/// Where the bundle lies, and the cache, in a worker's folder.
pub(crate) const BUNDLE: &str = "bundle";
pub(crate) const CACHE: &str = "cache";
/// Of a larger file, so many flips, and so many truncations.
const EACH: usize = 1000;
const STRUCTURES: usize = 2000;
/// The ways in which each byte is changed; the last is any other byte. Truncation is one more.
const WAYS: usize = 3;

/// What is changed, and who would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Every byte of the manifest, and every length.
    Manifest,
    /// Every byte of the configuration, and every length.
    Config,
    /// The other files of the bundle.
    Files,
    /// The files of the compiled form.
    Compiled,
    /// Files of the bundle, with the digests that belong to them.
    Sealed,
    /// The graph as a structure, with the digests that belong to it.
    Graph,
    /// The tokenizer as a structure, the same.
    Tokenizer,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Manifest, Self::Config, Self::Files, Self::Compiled, Self::Sealed, Self::Graph, Self::Tokenizer];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Files => "files",
            Self::Compiled => "compiled",
            Self::Sealed => "sealed",
            Self::Graph => "graph",
            Self::Tokenizer => "tokenizer",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the digests were computed again: who may do that may make any other classifier.
    pub(crate) fn is_sealed(self) -> bool {
        matches!(self, Self::Sealed | Self::Graph | Self::Tokenizer)
    }
}

/// One changed bundle.
#[derive(Debug)]
pub(crate) struct Case {
    /// What was changed, for people.
    pub(crate) what: String,
    /// Contents by path in the worker's folder.
    pub(crate) changed: BTreeMap<PathBuf, Vec<u8>>,
    /// Whether it is opened with an empty cache.
    pub(crate) is_cold: bool,
}

/// All cases of one kind.
#[derive(Debug)]
pub(crate) struct Cases {
    kind: Kind,
    seed: u64,
    /// The unchanged files, by path in the worker's folder.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Those that are changed.
    targets: Vec<PathBuf>,
}

impl Cases {
    pub(crate) fn new(kind: Kind, seed: u64, files: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let path = |name: &str| Path::new(BUNDLE).join(name);
        let manifest: Value = serde_json::from_slice(&files[&path(MANIFEST)]).expect("the unchanged manifest");
        let graph = path(manifest["variants"][0]["file"].as_str().expect("a graph's file"));
        let all = |folder: &str| files.keys().filter(|path| path.starts_with(folder)).cloned().collect::<Vec<_>>();
        let mut targets = match kind {
            Kind::Manifest => vec![path(MANIFEST)],
            Kind::Config => vec![path(CONFIG)],
            Kind::Files => all(BUNDLE),
            Kind::Compiled => all(CACHE),
            Kind::Sealed => vec![path(MANIFEST), path(CONFIG), path(TOKENIZER), graph],
            Kind::Graph => vec![graph],
            Kind::Tokenizer => vec![path(TOKENIZER)],
        };
        if kind == Kind::Files {
            targets.retain(|target| *target != path(MANIFEST) && *target != path(CONFIG));
        }
        // An empty one has neither bits nor a shorter length.
        targets.retain(|target| !files[target].is_empty());
        Self { kind, seed, files, targets }
    }

    pub(crate) fn count(&self) -> usize {
        match self.kind {
            Kind::Manifest | Kind::Config => (WAYS + 1) * self.files[&self.targets[0]].len(),
            Kind::Files | Kind::Compiled => 2 * EACH * self.targets.len(),
            Kind::Sealed => EACH * self.targets.len(),
            Kind::Graph | Kind::Tokenizer => STRUCTURES,
        }
    }

    pub(crate) fn case(&self, index: usize) -> Case {
        let mut rng = Rng::with_seed(self.seed ^ ((self.kind as u64) << 56) ^ index as u64);
        let each = match self.kind {
            Kind::Files | Kind::Compiled => 2 * EACH,
            Kind::Sealed => EACH,
            Kind::Manifest | Kind::Config | Kind::Graph | Kind::Tokenizer => self.count(),
        };
        let target = &self.targets[index / each];
        let content = &self.files[target];
        let bytes = content.len();
        // The way decides first, the place then: a sample at even distances has some of each way.
        let change = match self.kind {
            Kind::Manifest | Kind::Config => Change::of(index / bytes, index % bytes, &mut rng),
            Kind::Files | Kind::Compiled if (index / EACH).is_multiple_of(2) => {
                Change::Flip { place: rng.usize(..bytes), mask: 1 << rng.u8(..8) }
            }
            Kind::Files | Kind::Compiled => Change::Truncate(rng.usize(..bytes)),
            Kind::Sealed => Change::of(rng.usize(..WAYS), rng.usize(..bytes), &mut rng),
            Kind::Graph => {
                let (what, graph) = graph::mutate(content, &mut rng);
                return Case { what, changed: self.seal(target, graph), is_cold: true };
            }
            Kind::Tokenizer => {
                let (what, tokenizer) = tokenizer::mutate(content, &mut rng);
                return Case { what, changed: self.seal(target, tokenizer), is_cold: true };
            }
        };
        let what = format!("{}: {change}", target.file_name().unwrap_or_default().display());
        let content = change.apply(content);
        if self.kind.is_sealed() {
            return Case { what, changed: self.seal(target, content), is_cold: true };
        }
        // With a compiled form and without one, the graph is compared in different places.
        let is_cold = self.kind != Kind::Compiled && rng.bool();
        Case { what, changed: BTreeMap::from([(target.clone(), content)]), is_cold }
    }

    /// A changed file of the bundle, and the manifest that belongs to it.
    fn seal(&self, target: &Path, mut content: Vec<u8>) -> BTreeMap<PathBuf, Vec<u8>> {
        let path = Path::new(BUNDLE).join(MANIFEST);
        let manifest = &self.files[&path];
        if target == path {
            if let Some(place) = seal::digest_place(manifest) {
                seal::seal_manifest(&mut content, place);
            }
            return BTreeMap::from([(path, content)]);
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let manifest = seal::manifest_with(manifest, &name, &content);
        BTreeMap::from([(target.to_owned(), content), (path, manifest)])
    }
}

/// What happens to the bytes of one file.
#[derive(Debug, Clone, Copy)]
enum Change {
    Flip { place: usize, mask: u8 },
    Truncate(usize),
}

impl Change {
    /// The lowest bit, the case of a letter, any other byte, or the end.
    fn of(way: usize, place: usize, rng: &mut Rng) -> Self {
        match way {
            0 => Self::Flip { place, mask: 1 },
            1 => Self::Flip { place, mask: 0x20 },
            2 => Self::Flip { place, mask: rng.u8(1..) },
            _ => Self::Truncate(place),
        }
    }

    fn apply(self, content: &[u8]) -> Vec<u8> {
        match self {
            Self::Truncate(length) => content[..length].to_vec(),
            Self::Flip { place, mask } => {
                let mut content = content.to_vec();
                content[place] ^= mask;
                content
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip { place, mask } => write!(f, "byte {place} xor {mask:#04x}"),
            Self::Truncate(length) => write!(f, "truncated to {length} bytes"),
        }
    }
}
