//! Texts that nobody would write: they get an answer, and the ids that the `tokenizers` crate gives.

use std::fs;

use fastrand::Rng;
use nimbert_tests::{Dir, finish, program, tiny_bundle, unigram_tokenizer, workspace};

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

/// A long text is read in pieces: no token may be another for that, on whichever side it is cut, alone, in a pair, or in
/// windows.
#[test]
fn long_texts_have_the_ids_of_the_whole() {
    use nimbert::{Truncation, TruncationSide};
    use tokenizers::{
        PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, utils::truncation::truncate_encodings,
    };
    let dir = Dir::default();
    let mut rng = Rng::with_seed(7);
    let mut long = |words: usize| {
        let mut long = String::new();
        for _ in 0..words {
            long.push_str(&text(&mut rng));
            long.push_str([" ", " ", "  ", "\n", "", " film, ", " 中文", "!?"][rng.usize(0..8)]);
        }
        long
    };
    let pairs: Vec<(String, String)> = (0..40).map(|row| (long(row * 3), long(row * 21 % 120))).collect();
    let files = [
        "tests/data/tiny-bert/tokenizer.json",
        "tests/data/tiny-roberta/tokenizer.json",
        "models/minilm/tokenizer.json",
    ];
    let unigram = dir.write("unigram.json", unigram_tokenizer().to_string());
    let mut is_cut = 0;
    for path in files.map(workspace).into_iter().chain([unigram]) {
        let mut theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
        theirs.with_padding(None).with_truncation(None).unwrap();
        for max_length in [33, 64] {
            let ours = nimbert::Tokenizer::open(&path, max_length).unwrap();
            let room = |pair| max_length - theirs.get_post_processor().unwrap().added_tokens(pair);
            let params = |pair, direction| TruncationParams {
                max_length: room(pair),
                stride: 0,
                strategy: TruncationStrategy::LongestFirst,
                direction,
            };
            for (one, other) in &pairs {
                let whole = |text: &str, type_id: u32| {
                    let mut encoding = theirs.encode_fast(text, false).unwrap();
                    encoding.set_type_ids(vec![type_id; encoding.get_ids().len()]);
                    encoding
                };
                for (side, direction) in [
                    (TruncationSide::Right, TruncationDirection::Right),
                    (TruncationSide::Left, TruncationDirection::Left),
                ] {
                    for other in [None, Some(other)] {
                        let pair = other.map(|other| whole(other, 1));
                        let params = params(pair.is_some(), direction);
                        let (mut first, mut pair) = truncate_encodings(whole(one, 0), pair, &params).unwrap();
                        is_cut += usize::from(!first.take_overflowing().is_empty());
                        pair.iter_mut().for_each(|pair| drop(pair.take_overflowing()));
                        let expected = theirs.post_process(first, pair, true).unwrap();
                        let input = nimbert::TextInput { text: one, pair: other.map(String::as_str) };
                        let got = ours.windows_with(input, Truncation::At(side)).unwrap().remove(0);
                        assert_eq!(got.input_ids, expected.get_ids(), "{}: {side:?} {one:?} {other:?}", path.display());
                        assert_eq!(got.token_type_ids, expected.get_type_ids(), "{}", path.display());
                    }
                }
                let mut first = whole(one, 0);
                let tokens = first.get_ids().len();
                first.truncate(room(false), 5, TruncationDirection::Right);
                let windows = std::iter::once(first.clone()).chain(first.take_overflowing());
                let windows = windows.map(|mut window| {
                    window.take_overflowing();
                    theirs.post_process(window, None, true).unwrap().get_ids().to_vec()
                });
                let got = ours.clone().with_stride(5).unwrap().windows(one).unwrap();
                let got: Vec<_> = got.into_iter().map(|window| window.input_ids).collect();
                assert_eq!(got, windows.collect::<Vec<_>>(), "{}: {one:?}", path.display());
                match ours.windows_with(one, Truncation::Refuse) {
                    Err(nimbert::Error::TooLong { tokens: counted, .. }) => {
                        assert_eq!(counted, tokens + max_length - room(false));
                    }
                    whole => assert!(whole.unwrap()[0].input_ids.len() <= max_length && tokens <= room(false)),
                }
            }
        }
    }
    assert!(is_cut > 400, "{is_cut}");
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
