//! A model's folder as it is found: weights in one file or several, a tokenizer or only its vocabulary, and settings that
//! lie beside `config.json`.

use std::path::{Path, PathBuf};

use nimbert::{
    Tokenizer, TruncationSide,
    bundle::{CONFIG, TOKENIZER},
    sha256, sha256_file,
};
use serde_json::{Map, Value, json};

use super::config::EncoderConfig;
use crate::{
    error::{Error, Result},
    scratch::Scratch,
};

/// The names that weights have, in the order in which they are looked for.
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
pub(super) const PICKLE: &str = "pytorch_model.bin";

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const VOCABULARY: &str = "vocab.txt";

/// A Hugging Face folder whose settings have been read.
#[derive(Debug)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// `config.json`.
    pub config: EncoderConfig,
    /// `tokenizer.json`; where the folder has only a vocabulary, one that was made of it.
    pub tokenizer: PathBuf,
    /// The weights, as [`super::SequenceClassifier::load`] takes them.
    pub weights: PathBuf,
    /// The most tokens of a text, where the folder says so.
    pub max_length: Option<usize>,
    /// At which end longer texts are cut.
    pub truncation_side: TruncationSide,
    /// Where the tokenizer lies that was made.
    _scratch: Option<Scratch>,
}

impl ModelFolder {
    /// Reads the settings of a folder, and looks for its files.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] naming the file that is missing or unusable.
    pub fn open(path: &Path) -> Result<Self> {
        let config = EncoderConfig::open(&path.join(CONFIG))?;
        let settings = json_object(&path.join(TOKENIZER_CONFIG))?.unwrap_or_default();
        let mut tokenizer = path.join(TOKENIZER);
        let mut scratch = None;
        if !tokenizer.exists() {
            let folder = Scratch::new()?;
            let json = word_piece(path, &settings)?;
            tokenizer = folder.path().join(TOKENIZER);
            std::fs::write(&tokenizer, json.to_string()).map_err(|error| Error::io(&tokenizer, error))?;
            scratch = Some(folder);
        }
        expect_content(&tokenizer)?;
        // transformers writes a number beyond all bounds where there is no limit.
        let stated =
            settings.get("model_max_length").and_then(Value::as_f64).filter(|length| (1.0..1e9).contains(length));
        let truncation = json_object(&tokenizer)?.and_then(|mut json| json.remove("truncation")).unwrap_or_default();
        let own = truncation["max_length"].as_u64().map(|length| length as usize);
        let side = match settings.get("truncation_side").or(truncation.get("direction")) {
            None | Some(Value::Null) => TruncationSide::Right,
            Some(side) => match side.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("right") => TruncationSide::Right,
                Some("left") => TruncationSide::Left,
                _ => {
                    let file = path.join(TOKENIZER_CONFIG);
                    return Err(Error::model(&file, "a truncation_side left or right", side.to_string()));
                }
            },
        };
        Ok(Self {
            weights: find_weights(path)?,
            path: path.to_owned(),
            config,
            tokenizer,
            max_length: stated.map(|length| length as usize).or(own),
            truncation_side: side,
            _scratch: scratch,
        })
    }

    /// The tokenizer, checked against the encoder. With a stride, long texts are read in windows that share so many tokens.
    ///
    /// # Errors
    /// [`Error::Setting`] if `max_length` is above the model's positions; [`Error::Model`] if the tokenizer has ids that the
    /// embeddings lack; [`Error::Runtime`].
    pub fn open_tokenizer(&self, max_length: usize, stride: Option<usize>) -> Result<Tokenizer> {
        let config = &self.config;
        let longest = config.max_tokens();
        if max_length > longest {
            return Err(Error::setting("--max-length", format!("at most the model's {longest} positions"), max_length));
        }
        let tokenizer = Tokenizer::open(&self.tokenizer, max_length)?.with_truncation_side(self.truncation_side);
        if tokenizer.id_bound() > config.vocab_size {
            let expected = format!("ids below the vocab_size {} of {}", config.vocab_size, config.path.display());
            return Err(Error::model(&self.tokenizer, expected, format!("the id {}", tokenizer.id_bound() - 1)));
        }
        if !tokenizer.has_id(config.pad_token_id) {
            let expected =
                format!("a token with the pad_token_id {} of {}", config.pad_token_id, config.path.display());
            return Err(Error::model(&self.tokenizer, expected, "none"));
        }
        match stride {
            None => Ok(tokenizer),
            Some(stride) => Ok(tokenizer.with_stride(stride)?),
        }
    }

    /// A digest of all files of the weights.
    ///
    /// # Errors
    /// [`Error::Runtime`] if one cannot be read.
    pub fn weights_sha256(&self) -> Result<String> {
        let files = match self.weights.ends_with(WEIGHTS_INDEX) {
            true => shards(&self.weights)?,
            false => return Ok(sha256_file(&self.weights)?),
        };
        let digests = files.iter().map(|file| sha256_file(file)).collect::<nimbert::Result<Vec<_>>>()?;
        Ok(sha256(digests.join("\n").as_bytes()))
    }
}

/// The folder's weights, whatever form they have.
fn find_weights(folder: &Path) -> Result<PathBuf> {
    let names = [WEIGHTS, WEIGHTS_INDEX, PICKLE];
    if let Some(found) = names.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
        return Ok(found);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    let mut others: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    others.sort();
    others.retain(|name| {
        [".h5", ".msgpack", ".bin", ".pt", ".onnx", ".safetensors"].iter().any(|ending| name.ends_with(ending))
    });
    let got = match others.is_empty() {
        true => "none".to_owned(),
        false => format!("{}; transformers' save_pretrained writes what is needed", others.join(", ")),
    };
    Err(Error::model(folder, format!("weights: {WEIGHTS}, {WEIGHTS_INDEX} or {PICKLE}"), got))
}

/// The files that an index of weights names, sorted.
pub(crate) fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let json = json_object(index)?.unwrap_or_default();
    let expected = "an index with the file of each tensor under weight_map";
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::model(index, expected, "none"))?;
    let mut names: Vec<&str> = Vec::new();
    for name in map.values() {
        let name = name.as_str().filter(|name| !name.contains(['/', '\\']));
        names.push(name.ok_or_else(|| Error::model(index, "plain names of files", "another one"))?);
    }
    names.sort_unstable();
    names.dedup();
    let folder = index.parent().unwrap_or(Path::new("."));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Refuses what Git leaves in place of a file that was not downloaded.
///
/// # Errors
/// [`Error::Io`], [`Error::Model`].
pub(super) fn expect_content(path: &Path) -> Result<()> {
    use std::io::Read;
    const POINTER: &[u8] = b"version https://git-lfs";
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
    file.take(POINTER.len() as u64).read_to_end(&mut head).map_err(|error| Error::io(path, error))?;
    match head == POINTER {
        true => Err(Error::model(path, "the file itself", "a pointer of Git LFS: `git lfs pull` fetches the file")),
        false => Ok(()),
    }
}

/// A JSON object; none if there is no such file.
fn json_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    expect_content(path)?;
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Error::model(path, "a JSON object", error.to_string()))
}

/// Tokens that were added to a vocabulary: `added_tokens.json`, or `added_tokens_decoder` of the settings.
fn further_tokens(folder: &Path, settings: &Map<String, Value>) -> Result<Vec<(String, u64)>> {
    let path = folder.join("added_tokens.json");
    let mut tokens = Vec::new();
    for (token, id) in json_object(&path)?.unwrap_or_default() {
        let id = id.as_u64().ok_or_else(|| Error::model(&path, format!("an id for {token:?}"), id.to_string()))?;
        tokens.push((token, id));
    }
    for (id, token) in settings.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str);
        let token = content.zip(id.parse().ok()).ok_or_else(|| {
            let expected = "ids and contents in added_tokens_decoder";
            Error::model(&folder.join(TOKENIZER_CONFIG), expected, format!("{id}: {token}"))
        })?;
        if tokens.iter().all(|(other, _)| other != token.0) {
            tokens.push((token.0.to_owned(), token.1));
        }
    }
    tokens.sort_by_key(|(_, id)| *id);
    Ok(tokens)
}

/// The `tokenizer.json` of BERT's tokenizer with the folder's vocabulary and settings, as transformers would make it.
fn word_piece(folder: &Path, settings: &Map<String, Value>) -> Result<Value> {
    let path = folder.join(VOCABULARY);
    if !path.exists() {
        return Err(Error::model(folder, format!("{TOKENIZER}, or a WordPiece vocabulary as {VOCABULARY}"), "neither"));
    }
    expect_content(&path)?;
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    let vocab: Map<String, Value> =
        text.lines().zip(0..).map(|(token, id)| (token.to_owned(), Value::from(id))).collect();
    let token = |key: &str, usual: &str| {
        let stated = settings.get(key).map(|token| token.get("content").unwrap_or(token));
        stated.and_then(Value::as_str).unwrap_or(usual).to_owned()
    };
    let keys = [
        ("pad_token", "[PAD]"),
        ("unk_token", "[UNK]"),
        ("cls_token", "[CLS]"),
        ("sep_token", "[SEP]"),
        ("mask_token", "[MASK]"),
    ];
    let tokens = keys.map(|(key, usual)| token(key, usual));
    let mut added = Vec::new();
    for token in &tokens {
        let id = vocab.get(token).ok_or_else(|| Error::model(&path, format!("the token {token}"), "none"))?;
        added.push(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }));
    }
    let mut next = vocab.len() as u64;
    for (token, id) in further_tokens(folder, settings)? {
        if !tokens.contains(&token) {
            // The library numbers what the vocabulary lacks itself.
            let own = vocab.get(&token).and_then(Value::as_u64).unwrap_or(next);
            if own != id {
                let expected = format!("the id {own} for the added token {token:?}, behind those of {VOCABULARY}");
                return Err(Error::model(folder, expected, id.to_string()));
            }
            next += u64::from(own == next);
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": false,
            }));
        }
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let [_, unk, cls, sep, _] = &tokens;
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    let special = |token: &String, type_id: u32| json!({ "SpecialToken": { "id": token, "type_id": type_id } });
    let sequence = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let template = |token: &String| json!({ "id": token, "ids": [vocab[token]], "tokens": [token] });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars").unwrap_or(true),
            "strip_accents": flag("strip_accents"),
            "lowercase": flag("do_lower_case").unwrap_or(true),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(cls, 0), sequence("A", 0), special(sep, 0)],
            "pair": [special(cls, 0), sequence("A", 0), special(sep, 0), sequence("B", 1), special(sep, 1)],
            "special_tokens": { cls: template(cls), sep: template(sep) },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }))
}
