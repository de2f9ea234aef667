//! The bundles that `runtime/FORMAT.md` means: each with one fault, and what a reader does with it in its first line
//! (`tests/data/make_vectors.py` writes them).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nimbert::{Classifier, Error, Options, PublicKey};
use nimbert_tests::{Dir, copy_folder, workspace};

/// One of the bundles.
struct Vector {
    expected: String,
    key: Option<PublicKey>,
    folder: PathBuf,
}

/// Makes the bundle that `text` describes.
fn make(text: &str, folder: PathBuf) -> Vector {
    let folder = copy_folder(&workspace("tests/data/bundle-2"), folder);
    let mut parts = text.split("\n--- ");
    let head = parts.next().unwrap();
    let value = |key: &str| head.lines().find_map(|line| line.strip_prefix(key));
    for part in parts {
        let (title, content) = part.split_once('\n').unwrap_or((part, ""));
        let mut words = title.split(' ');
        let path = folder.join(words.next().unwrap());
        match (words.next(), words.next()) {
            (None, _) => fs::write(&path, content).unwrap(),
            (Some("flip"), Some(place)) => {
                let mut bytes = fs::read(&path).unwrap();
                bytes[place.parse::<usize>().unwrap()] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            (Some(instead), _) => {
                fs::remove_file(&path).unwrap();
                match instead {
                    "absent" => {}
                    "folder" => fs::create_dir(&path).unwrap(),
                    "pipe" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
                    _ => panic!("{title}"),
                }
            }
        }
    }
    Vector {
        expected: value("expect: ").unwrap().to_owned(),
        key: value("key: ").map(|key| key.parse().unwrap()),
        folder,
    }
}

/// An error's variant, and the name of the file that it names.
fn show(error: &Error) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match error {
        Error::Io { path, .. } => format!("Io {}", name(path)),
        Error::Format { path, .. } => format!("Format {}", name(path)),
        Error::Checksum { path, .. } => format!("Checksum {}", name(path)),
        Error::Signature { path, .. } => format!("Signature {}", name(path)),
        Error::Tokenizer(_) => "Tokenizer".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_bundle_is_read_as_its_first_line_says() {
    let dir = Dir::default();
    let mut count = 0;
    for entry in fs::read_dir(workspace("tests/data/vectors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if cfg!(not(unix)) && name.contains("pipe") {
            continue;
        }
        let Vector { expected, key, folder } = make(&fs::read_to_string(&path).unwrap(), dir.path(&name));
        let options = Options { require_signature: key.into_iter().collect(), ..Options::default() };
        let got = match Classifier::open(&folder, &options).and_then(|classifier| classifier.classify("a great film")) {
            Ok(prediction) => format!("opens{}", if prediction.label == "positive" { "" } else { ", and errs" }),
            Err(error) => show(&error),
        };
        assert_eq!(got, expected, "{name}");
        count += 1;
    }
    assert!(count > 60, "{count}");
}
