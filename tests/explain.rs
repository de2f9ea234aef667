//! `nimbert explain`: which words an answer hangs on.

use nimbert::{
    CallOptions, Classifier, Options, TextInput, Truncation, TruncationSide,
    explain::{Attribution, EXACT_WORDS, Explained, Word},
};
use nimbert_tests::{Dir, base, finish, program, tiny_bundle};
use serde_json::Value;

const SHORT: &str = "great acting , a thin plot";
const LONG: &str = "one of the year's best films , great acting , a thin plot and worse films ; terrible";

fn explained(bundle: &std::path::Path, arguments: &[&str]) -> Value {
    let mut command = program("nimbert");
    serde_json::from_str(&finish(command.arg("explain").arg(bundle).args(arguments).arg("--json")).success()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn shapley_values_sum_to_the_difference_of_the_text_to_none() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    for (arguments, words) in [(&[SHORT][..], 6), (&[LONG, "--attribution", "shapley"], 18), (&[""], 0)] {
        let found = explained(&bundle, arguments);
        assert_eq!((found["attribution"].as_str(), found["words"].as_array().unwrap().len()), (Some("shapley"), words));
        let sum: f64 = found["words"].as_array().unwrap().iter().map(|word| number(&word["attribution"])).sum();
        assert!((sum - (number(&found["value"]) - number(&found["base_value"]))).abs() < 1e-4, "{found}");
        for word in found["words"].as_array().unwrap() {
            let range = word["start"].as_u64().unwrap() as usize..word["end"].as_u64().unwrap() as usize;
            assert_eq!(arguments[0][range], *word["word"].as_str().unwrap());
        }
    }
}

#[test]
fn a_weight_is_what_the_text_loses_without_the_word() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let label = &classifier.labels()[1];
    let found = explained(&bundle, &[LONG, "--label", label]);
    assert_eq!(found["attribution"], "leave-one-out");
    // The label's logit less the mean of all.
    let value = |text: &str| {
        let logits = classifier.classify(text).unwrap().logits;
        f64::from(logits[1]) - logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64
    };
    let alone = value(LONG);
    // A sum is rounded otherwise beside other texts.
    assert!((number(&found["value"]) - alone).abs() < 1e-5, "{found}, alone {alone}");
    assert!((number(&found["base_value"]) - value("")).abs() < 1e-4);
    for (place, word) in [(0, "one"), (17, "terrible")] {
        let without = LONG.replacen(word, "", 1);
        let without = without.trim();
        assert_eq!(found["words"][place]["word"], word);
        let weight = number(&found["words"][place]["attribution"]);
        assert!((weight - (value(LONG) - value(without))).abs() < 1e-4, "{word}: {weight}");
    }
    // Of two words, exactly: half of what each adds alone, and half of what it adds to the other.
    let two = classifier
        .explain("great plot", Explained { label: Some(label), task: None }, Attribution::Auto, CallOptions::default())
        .unwrap();
    let [great, plot, both, none] = ["great", "plot", "great plot", ""].map(value);
    let expected = [(great - none + both - plot) / 2.0, (plot - none + both - great) / 2.0];
    for (word, expected) in two.words.iter().zip(expected) {
        assert!((word.attribution - expected).abs() < 1e-4, "{word:?} {expected}");
    }
    // Both texts of a pair have words; a bundle that has seen no rows does not say that it reads single ones.
    let bundle = dir.path("without-rows");
    finish(program("nimbert-train").arg("export").arg(base("bert")).arg("--out").arg(&bundle)).success();
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let pair = TextInput { text: "great plot", pair: Some("thin acting") };
    let found = classifier.explain(pair, Explained::default(), Attribution::Auto, CallOptions::default()).unwrap();
    assert_eq!(found.words.iter().map(|word| word.is_of_pair).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(found.words.len() <= EXACT_WORDS && found.attribution == Attribution::Shapley);
}

#[test]
fn it_is_told_as_text_and_as_a_page() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let explain = |arguments: &[&str]| finish(program("nimbert").arg("explain").arg(&bundle).args(arguments));
    let text = explain(&[LONG]).success();
    assert!(text.contains("what leaving out each word changes") && text.contains('█'), "{text}");
    // No colours for who reads no terminal.
    assert!(!text.contains('\u{1b}'), "{text}");
    let long = explain(&[&"great acting and a thin plot ".repeat(6)]).success();
    assert!(long.contains("16 further words do less and are not shown"), "{long}");
    let page = explain(&["<script>great</script> & \"plot\"", "--html"]).success();
    assert!(page.contains(">&lt;</span>") && page.contains(">&amp;</span>") && !page.contains("><</span>"), "{page}");
    // What would act on a terminal does not get there.
    let text = explain(&["great \u{1b}[2J plot"]).success();
    assert!(text.contains("\\u{1b}") && !text.contains('\u{1b}'), "{text}");
    let page = explain(&["great \u{1b}[2J plot", "--html"]).success();
    assert!(page.contains('\u{fffd}') && !page.contains('\u{1b}'), "{page}");
    // Of another label than the text's own, that is told.
    let labels = Classifier::open(&bundle, &Options::default()).unwrap().labels().to_vec();
    let told: Vec<String> = labels.iter().map(|label| explain(&[SHORT, "--label", label]).success()).collect();
    assert_eq!(told.iter().filter(|text| text.contains("(the answer is ")).count(), labels.len() - 1, "{told:?}");
    explain(&[SHORT, "--label", "nobody"]).failure(2, &["label", "one of the bundle's labels", "nobody"]);
    explain(&[SHORT, "--json", "--html"]).failure(2, &["--html"]);
}

#[test]
fn words_that_are_cut_off_do_not_come_in() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    // Far more words than the tiny model has places.
    let text = "great acting and a thin plot ".repeat(40);
    let found = explained(&bundle, &[&text]);
    let (words, unread) = (found["words"].as_array().unwrap().len(), found["unread_words"].as_u64().unwrap() as usize);
    assert!(unread > 0 && words + unread == 240, "{words} {unread}");
    // The text that is read, without what is behind it, has the same explanation.
    let end = found["words"][words - 1]["end"].as_u64().unwrap() as usize;
    let read = explained(&bundle, &[&text[..end]]);
    assert_eq!((&read["words"], &read["value"], &read["unread_words"]), (&found["words"], &found["value"], &0.into()));
    // The same at the other end.
    let classifier = Classifier::open(&bundle, &Options::default()).unwrap();
    let options = CallOptions { truncation: Truncation::At(TruncationSide::Left), ..CallOptions::default() };
    let explain =
        |text: &str| classifier.explain(text, Explained::default(), Attribution::LeaveOneOut, options).unwrap();
    let found = explain(&text);
    let start = found.words[0].range.start;
    let read = explain(&text[start..]);
    let attributions = |words: &[Word]| words.iter().map(|word| word.attribution).collect::<Vec<_>>();
    assert!(found.unread > 0 && start > 0 && read.unread == 0);
    assert_eq!((attributions(&read.words), read.base_value), (attributions(&found.words), found.base_value));
}
