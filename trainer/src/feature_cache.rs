//! What an encoder says of texts, kept on disk: a command that reads the same rows with the same encoder, or some more of them,
//! reads only what is new.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use nimbert::{Encoding, own, sha256};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest as _, Sha256};

use crate::{
    dataloader::Example,
    error::{Error, Result},
    features::{Features, Read},
    model::SequenceClassifier,
    scratch::{create_new, write_whole},
};

/// A folder with a file for each encoder.
///
/// A file is safetensors: `texts` `u8 [rows, 32]`, digests of token ids; `vectors` `f32 [rows, width]`; `sha256` `u8 [32]`, the digest
/// of both.
#[derive(Debug, Clone)]
pub struct FeatureCache {
    folder: PathBuf,
}

/// What was found and what was read.
#[derive(Debug)]
pub struct Recalled {
    /// Of all texts, in order.
    pub features: Features,
    /// How many texts were not read.
    pub known: usize,
    /// Why what is kept was not used, or what was read could not be kept.
    pub warning: Option<String>,
}

/// Digits of a file's name.
const NAME_LENGTH: usize = 32;
/// A file is no larger than this, but for some hundred bytes; its first rows go.
const MAX_BYTES: usize = 256 << 20;
/// Texts that are read at once, whole batches of [`Features::read`]: where `on_read` ends the work, fewer are lost.
const CHUNK: usize = 256;
/// By how much a vector may differ from what is computed now: sums are rounded otherwise on another processor.
const TOLERANCE: f32 = 1e-5;

type Digest = [u8; 32];

impl FeatureCache {
    /// The cache in a folder, which is made when something is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// [`Features::read`] of the texts that are not known of this model, and what is known of the others. What was read is kept,
    /// also if `on_read` ends the work. The first known text is read all the same, and compared: if its vector is another one,
    /// nothing that is kept is used.
    ///
    /// # Errors
    /// Those of [`Features::read`]. That the cache cannot be used is no error, but a warning.
    pub fn read(
        &self,
        model: &SequenceClassifier,
        examples: &[Example],
        read: Read,
        mut on_read: impl FnMut(usize) -> Result<()>,
    ) -> Result<Recalled> {
        let width = model.config.hidden_size;
        let key = format!("{} {read:?} {:?}", env!("CARGO_PKG_VERSION"), model.fingerprint()?);
        let path = self.folder.join(&sha256(key.as_bytes())[..NAME_LENGTH]);
        let digests: Vec<Digest> = examples.iter().map(|example| digest_of(&example.windows)).collect();

        let (mut kept, mut warning) = match Rows::open(&path, width) {
            Ok(kept) => (kept, None),
            Err(reason) => (Rows::default(), Some(format!("{}: {reason}; all texts are read anew", path.display()))),
        };
        let first_known = digests.iter().zip(examples).find_map(|(digest, example)| Some((kept.get(digest)?, example)));
        if let Some((vector, example)) = first_known {
            let now = Features::read(model, std::slice::from_ref(example), read, |_| Ok(()))?;
            let is_near = |(kept, now): (&f32, &f32)| (kept - now).abs() <= TOLERANCE;
            if !vector.iter().zip(now.row(0)).all(is_near) {
                let what = "what is kept is not what is computed now; all texts are read anew";
                (kept, warning) = (Rows::default(), Some(format!("{}: {what}", path.display())));
            }
        }

        let missing: Vec<usize> = (0..examples.len()).filter(|&row| kept.get(&digests[row]).is_none()).collect();
        let known = examples.len() - missing.len();
        let mut read_missing = || -> Result<()> {
            on_read(known)?;
            for rows in missing.chunks(CHUNK) {
                let chunk: Vec<Example> = rows.iter().map(|&row| examples[row].clone()).collect();
                let vectors = Features::read(model, &chunk, read, &mut on_read)?;
                rows.iter().enumerate().for_each(|(place, &row)| kept.add(digests[row], vectors.row(place)));
            }
            Ok(())
        };
        let outcome = read_missing();
        if missing.is_empty() {
            own::touch(&path);
        } else if let Err(reason) = self.store(&path, &kept, width) {
            let reason = format!("what was read of the texts is not kept: {reason}");
            warning = Some(warning.map_or(reason.clone(), |before| format!("{before}; {reason}")));
        }
        outcome?;
        let vector = |digest| kept.get(digest).expect("each text is known or was read");
        let values = digests.iter().flat_map(vector).copied().collect();
        Ok(Recalled { features: Features { values, width }, known, warning })
    }

    /// Puts a file in its place, and removes those that nobody used for a month.
    fn store(&self, path: &Path, rows: &Rows, width: usize) -> Result<()> {
        if rows.places.is_empty() {
            return Ok(());
        }
        own::create_dir(&self.folder).map_err(|error| Error::io(&self.folder, error))?;
        own::remove_older(&self.folder, NAME_LENGTH, own::MONTH, Path::to_owned);
        // Vectors tell something of the texts.
        write_whole(path, |partial| create_new(partial, &rows.to_bytes(width), 0o600))
    }
}

/// A text as the model reads it.
fn digest_of(windows: &[Encoding]) -> Digest {
    let mut bytes = Vec::new();
    for Encoding { input_ids, token_type_ids, truncated: _ } in windows {
        let numbers = [input_ids.len() as u32].into_iter().chain(input_ids.iter().chain(token_type_ids).copied());
        bytes.extend(numbers.flat_map(u32::to_le_bytes));
    }
    Sha256::digest(&bytes).into()
}

/// The rows of a file.
#[derive(Debug, Default)]
struct Rows {
    texts: Vec<Digest>,
    values: Vec<f32>,
    /// Where a text is.
    places: HashMap<Digest, usize>,
}

impl Rows {
    /// Those of a file, none if it is not there; an error says what is wrong with it.
    fn open(path: &Path, width: usize) -> std::result::Result<Self, String> {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            metadata => metadata.map_err(|error| error.to_string())?,
        };
        if !own::is_own(path) || !path.parent().is_some_and(own::is_own) {
            return Err("others may have written it".to_owned());
        }
        if !metadata.is_file() || metadata.len() > 2 * MAX_BYTES as u64 {
            return Err("damaged".to_owned());
        }
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        Self::from_bytes(&bytes, width).ok_or_else(|| "damaged".to_owned())
    }

    fn from_bytes(bytes: &[u8], width: usize) -> Option<Self> {
        let file = SafeTensors::deserialize(bytes).ok()?;
        let [texts, vectors, sum] = ["texts", "vectors", "sha256"].map(|name| file.tensor(name));
        let (texts, vectors) = (texts.ok()?, vectors.ok()?);
        let count = texts.data().len() / size_of::<Digest>();
        let is_whole = texts.shape() == [count, size_of::<Digest>()]
            && vectors.shape() == [count, width]
            && vectors.dtype() == Dtype::F32
            && sum.ok()?.data() == checksum(texts.data(), vectors.data());
        let mut rows = Self::default();
        let (texts, _) = texts.data().as_chunks::<{ size_of::<Digest>() }>();
        let (values, _) = vectors.data().as_chunks();
        rows.texts = texts.to_vec();
        rows.values = values.iter().copied().map(f32::from_le_bytes).collect();
        rows.places = rows.texts.iter().copied().zip(0..).collect();
        is_whole.then_some(rows)
    }

    /// The file of the last rows that it may have.
    fn to_bytes(&self, width: usize) -> Vec<u8> {
        let most = MAX_BYTES / (width * size_of::<f32>() + size_of::<Digest>());
        let first = self.texts.len().saturating_sub(most);
        let (texts, values) = (self.texts[first..].as_flattened(), &self.values[first * width..]);
        let vectors: Vec<u8> = values.iter().copied().flat_map(f32::to_le_bytes).collect();
        let sum = checksum(texts, &vectors);
        let count = self.texts.len() - first;
        let view = |dtype, shape: &[usize], data| {
            TensorView::new(dtype, shape.to_vec(), data).expect("as many bytes as the shape says")
        };
        let tensors = [
            ("texts", view(Dtype::U8, &[count, size_of::<Digest>()], texts)),
            ("vectors", view(Dtype::F32, &[count, width], &vectors)),
            ("sha256", view(Dtype::U8, &[sum.len()], &sum)),
        ];
        safetensors::serialize(tensors, None).expect("names and shapes of our own")
    }

    fn get(&self, text: &Digest) -> Option<&[f32]> {
        let width = self.values.len() / self.texts.len().max(1);
        self.places.get(text).map(|&place| &self.values[place * width..][..width])
    }

    fn add(&mut self, text: Digest, vector: &[f32]) {
        // One that stands twice in a file of the user's has been read twice.
        if let Entry::Vacant(place) = self.places.entry(text) {
            place.insert(self.texts.len());
            self.texts.push(text);
            self.values.extend(vector);
        }
    }
}

fn checksum(texts: &[u8], vectors: &[u8]) -> Digest {
    Sha256::new().chain_update(texts).chain_update(vectors).finalize().into()
}
