//! Files of rows: the first byte says of which kind.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use nimbert::rows::{ReadOptions, Reader};

fuzz_target!(|content: &[u8]| {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("nimbert-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        folder
    });
    let Some((kind, content)) = content.split_first() else { return };
    let formats = ["csv", "tsv", "jsonl", "json", "txt"];
    let compressions = ["", ".gz", ".zst"];
    let encodings = [None, Some("utf-16"), Some("windows-1252"), Some("shift_jis")];
    let quotings = ["auto", "csv", "none"];
    let pick = |divisor: usize, count: usize| usize::from(*kind) / divisor % count;
    let format = formats[pick(1, 5)];
    let path = folder.join(format!("rows.{format}{}", compressions[pick(5, 3)]));
    fs::write(&path, content).expect("a file can be written");
    let options = ReadOptions {
        encoding: encodings[pick(15, 4)].map(|name| name.parse().expect("a known encoding")),
        quoting: match format {
            "csv" | "tsv" => quotings[pick(60, 3)].parse().expect("a known way"),
            _ => Default::default(),
        },
        ..ReadOptions::default()
    };
    if let Ok(reader) = Reader::open(&path, &options) {
        reader.rows(None).take(1000).for_each(drop);
    }
});
