//! Texts that nobody would write: they get an answer, and the ids that the `tokenizers` crate gives.

use std::fs;

use fastrand::Rng;
use nimbert_tests::{Dir, finish, program, tiny_bundle, workspace};

const TEXTS: usize = 20_000;
const MAX_LENGTH: usize = 64;
/// A few texts are as large as this, in bytes.
const LARGE: usize = 1 << 20;

/// A character of some kind, and of the kinds in which tokenizers differ.
fn character(rng: &mut Rng) -> char {
    let range = match rng.u32(0..12) {
        // Control characters, NUL among them.
        0 => 0..0x20,
        1 => 0x7f..0xa1,
        // Letters with accents, and accents by themselves.
        2 => 0xa1..0x250,
        3 => 0x300..0x370,
        // Right to left; Devanagari; Thai.
        4 => 0x590..0x700,
        5 => 0x900..0xe80,
        // Spaces, joiners, marks of direction, punctuation.
        6 => 0x2000..0x2070,
        // Chinese, Japanese, Korean; forms that normalization takes apart.
        7 => 0x3000..0xa000,
        8 => 0xac00..0xd7ff,
        9 => 0xf900..0x10000,
        // Emoji.
        10 => 0x1f300..0x1fb00,
        _ => 0..0x11_0000,
    };
    char::from_u32(rng.u32(range)).unwrap_or('\u{fffd}')
}

fn text(rng: &mut Rng) -> String {
    const PIECES: [&str; 14] = [
        "film",
        "a great ",
        " one of the year's best",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[UNK]",
        "##ing",
        "\0",
        "\r\n",
        "\t",
        "don't",
        "...",
        "İstanbul",
    ];
    let mut text = String::new();
    for _ in 0..rng.usize(0..12) {
        match rng.u32(0..6) {
            0 => text.push_str(PIECES[rng.usize(0..PIECES.len())]),
            // The same character over and over: a word that is too long to be one.
            1 => text.extend(std::iter::repeat_n(character(rng), rng.usize(1..150))),
            2 => text.extend((0..rng.usize(1..8)).map(|_| rng.alphabetic())),
            _ => text.extend((0..rng.usize(1..8)).map(|_| character(rng))),
        }
    }
    text
}

/// The same texts in every run.
fn texts() -> Vec<String> {
    let mut rng = Rng::with_seed(20_000);
    let mut texts: Vec<String> = (0..TEXTS - 4).map(|_| text(&mut rng)).collect();
    texts.push("word ".repeat(LARGE / 5));
    texts.push("x".repeat(LARGE));
    texts.push("\u{301}".repeat(LARGE / 2));
    texts.push(std::iter::repeat_with(|| character(&mut rng)).take(LARGE / 3).collect());
    texts
}

#[test]
fn ids_are_those_of_the_tokenizers_crate() {
    let texts = texts();
    for path in [
        "tests/data/tiny-bert/tokenizer.json",
        "tests/data/tiny-roberta/tokenizer.json",
        "models/minilm/tokenizer.json",
    ] {
        let path = workspace(path);
        let ours = nimbert::Tokenizer::open(&path, MAX_LENGTH).unwrap();
        let mut theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
        theirs.with_padding(None);
        let truncation = tokenizers::TruncationParams { max_length: MAX_LENGTH, ..Default::default() };
        theirs.with_truncation(Some(truncation)).unwrap();
        for text in &texts {
            let expected = theirs.encode(text.as_str(), true).unwrap();
            let encoding = ours.encode(text).unwrap();
            let shown = text.chars().take(60).collect::<String>();
            assert_eq!(encoding.input_ids, expected.get_ids(), "{}: {shown:?}", path.display());
            assert_eq!(encoding.token_type_ids, expected.get_type_ids(), "{}: {shown:?}", path.display());
        }
    }
}

#[test]
fn every_text_gets_an_answer() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let texts = texts();
    let lines: String = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
    let (input, output) = (dir.write("odd.jsonl", lines), dir.path("labels.jsonl"));
    let mut classify = program("nimbert");
    classify.arg("classify").arg(&bundle).arg("--input").arg(&input).arg("--output").arg(&output);
    finish(&mut classify).success();
    let answers = fs::read_to_string(&output).unwrap();
    assert_eq!(answers.lines().count(), texts.len());
    assert!(answers.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["score"].is_number()));
}
