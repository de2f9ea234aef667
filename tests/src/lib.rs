//! What the integration tests share: a folder of their own, the programs, and small data.

pub mod seal;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// A path inside of the workspace.
pub fn workspace(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").join(path)
}

/// A temporary folder that is removed with its owner.
pub struct Dir(tempfile::TempDir);

impl Default for Dir {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Dir {
    /// A path inside of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file in a temporary folder");
        path
    }

    /// The names of what lies in the folder, hidden files included, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the temporary folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A copy of the tiny BERT of tests/data, its `config.json` changed by `change`.
    pub fn tiny_bert(&self, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> PathBuf {
        self.tiny("bert", change)
    }

    /// The same of another tiny model.
    pub fn tiny(&self, name: &str, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> PathBuf {
        let name = format!("tiny-{name}");
        let (folder, source) = (self.path(&name), workspace("tests/data").join(&name));
        fs::create_dir(&folder).expect("a new folder");
        for name in ["model.safetensors", "tokenizer.json"] {
            fs::copy(source.join(name), folder.join(name)).expect("a copy");
        }
        let config = fs::read(source.join("config.json")).expect("config.json");
        let mut config = serde_json::from_slice(&config).expect("JSON");
        change(&mut config);
        fs::write(folder.join("config.json"), serde_json::to_string(&config).expect("JSON")).expect("config.json");
        folder
    }
}

/// The tiny models of tests/data, one a family or a way in which its models differ.
pub const ARCHITECTURES: [&str; 9] =
    ["bert", "distilbert", "electra", "roberta", "modernbert-cls", "modernbert-mean", "deberta-v3", "mpnet", "albert"];

/// A Unigram tokenizer as XLM-RoBERTa's and E5's are converted from SentencePiece: special tokens first, but the mask last,
/// every letter, some words, and pieces over the ends of others.
pub fn unigram_tokenizer() -> serde_json::Value {
    const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
    const PIECES: [&str; 13] =
        ["▁", "film", "▁a", "▁great", "eat", "▁one▁of", "the", "▁▁", "x", "xx", "xxx", "▁plot", "▁acting"];
    let mut vocab: Vec<(String, f64)> = SPECIAL.map(|token| (token.to_owned(), 0.0)).to_vec();
    vocab.extend(PIECES.map(|piece| (piece.to_owned(), -3.0)));
    vocab.extend(('a'..='z').map(|letter| (letter.to_string(), -6.0)));
    let mask = vocab.len();
    vocab.push(("<mask>".to_owned(), 0.0));
    let added = |(id, content): (usize, &str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": content == "<mask>", "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let added: Vec<Value> = SPECIAL.into_iter().enumerate().chain([(mask, "<mask>")]).map(added).collect();
    let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let ids = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFKC" }, { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }
        ] },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("<s>"), text("A"), special("</s>")],
            "pair": [special("<s>"), text("A"), special("</s>"), special("</s>"), text("B"), special("</s>")],
            "special_tokens": { "<s>": ids("<s>", 0), "</s>": ids("</s>", 2) }
        },
        "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        "model": { "type": "Unigram", "unk_id": 3, "vocab": vocab }
    })
}

/// One of the two programs, built by `cargo xtask test` beside this test.
pub fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/release/deps/test");
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is missing: run the tests by `cargo xtask test`", path.display());
    let mut command = Command::new(path);
    // Wherever the target folder is, and whatever the user has set: the library that setup has fetched.
    let library = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    command.env("ORT_DYLIB_PATH", workspace(".setup/lib").join(library));
    match name {
        // What one test has read of texts is not to be another's answer: without a home there is no cache.
        "nimbert-train" => ["NIMBERT_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"]
            .into_iter()
            .fold(&mut command, Command::env_remove),
        _ => command.env("NIMBERT_CACHE", workspace(".setup/cache")),
    };
    command
}

/// A copy of the files in a folder, in which something can be broken.
pub fn copy_folder(from: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir(&to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry of the folder").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a file can be copied");
    }
    to
}

/// A bundle of the tiny BERT in `dir`, made by the program: of integers, with the operators of ours when it runs.
pub fn tiny_bundle(dir: &Dir) -> PathBuf {
    let bundle = dir.path("bundle");
    let mut command = program("nimbert-train");
    command.arg("export").arg(workspace("tests/data/tiny-bert")).arg("--out").arg(&bundle);
    // Ranges of activations come from text.
    let rows = Dir::default();
    command.arg("--data").arg(rows.write("rows.csv", small_csv(80)));
    finish(&mut command).success();
    bundle
}

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }
}

impl Finished {
    /// The standard output of a run that must have succeeded without a message.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// Checks the exit status, that each part stands in the message, and that it is no panic.
    #[track_caller]
    pub fn failure(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {:?}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    command.output().expect("the program starts").into()
}

/// The folder of a tiny model, one of [`ARCHITECTURES`].
pub fn base(name: &str) -> PathBuf {
    workspace(&format!("tests/data/tiny-{name}"))
}

/// `nimbert-train fit` with the arguments that every run needs, by fine-tuning: it would compare methods on so few rows.
pub fn fit(base: &Path, data: &Path, out: &Path) -> Command {
    let mut command = fit_by_any(base, data, out);
    command.args(["--method", "finetune"]);
    command
}

/// The same by a method that the caller names, or by what is found best.
pub fn fit_by_any(base: &Path, data: &Path, out: &Path) -> Command {
    let mut command = program("nimbert-train");
    command.arg("fit").arg("--base").arg(base).arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// JSON Lines of `rows` texts of one to nine repetitions, with one label, two or none.
pub fn several_labels_jsonl(rows: usize) -> String {
    let row = |index: usize| {
        let (labels, text) =
            [("[\"a\"]", "great acting "), ("[\"a\", \"b\"]", "great plot "), ("[]", "films ")][index % 3];
        format!("{{\"text\": \"{}\", \"label\": {labels}}}\n", text.repeat(1 + index % 9))
    };
    (0..rows).map(row).collect()
}

/// A CSV of `rows` labelled sentences in the tiny tokenizer's words, half of each label.
pub fn small_csv(rows: usize) -> String {
    let sentence = |row: usize| match row % 2 {
        0 => format!("\"one of the year's best films , great acting {row}\",positive\n"),
        _ => format!("\"terrible , a thin plot and worse acting {row}\",negative\n"),
    };
    std::iter::once("text,label\n".to_owned()).chain((0..rows).map(sentence)).collect()
}
