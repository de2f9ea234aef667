//! Which words carried the decision: each is left out in turn, and what the best label's score loses is the word's
//! share.

use std::ops::Range;

use nimbert::{OwnedInput, Prediction};

/// Texts of more words are not explained: every word costs a text.
pub const MAX_WORDS: usize = 64;

/// A word and its share in the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Its bytes in the text.
    pub bytes: Range<usize>,
    /// What the score of the text's label loses without it: above 0 if the word spoke for the label.
    pub share: f32,
}

/// The bytes of each word: what stands between white space.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut begin = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (begin, c.is_whitespace()) {
            (None, false) => begin = Some(at),
            (Some(from), true) => {
                words.push(from..at);
                begin = None;
            }
            _ => {}
        }
    }
    words
}

/// The text without each of its words, all to be classified in one call; none if there is nothing to compare, or too
/// much.
pub fn without_each(text: &str) -> Option<Vec<OwnedInput>> {
    let words = words(text);
    if !(2..=MAX_WORDS).contains(&words.len()) {
        return None;
    }
    Some(words.into_iter().map(|word| [&text[..word.start], &text[word.end..]].concat().into()).collect())
}

/// The words' shares, from the answer for the text and those for it without each word.
pub fn shares(text: &str, whole: &Prediction, without: &[Prediction]) -> Vec<Word> {
    let label = whole.label_id();
    let share = |prediction: &Prediction| whole.score - prediction.scores[label].1;
    words(text).into_iter().zip(without).map(|(bytes, prediction)| Word { bytes, share: share(prediction) }).collect()
}

/// The words that spoke most for the label, best first, with their shares.
pub fn strongest<'a>(text: &'a str, words: &[Word], count: usize) -> Vec<(&'a str, f32)> {
    let mut strongest: Vec<&Word> = words.iter().filter(|word| word.share > 0.0).collect();
    strongest.sort_by(|a, b| b.share.total_cmp(&a.share));
    strongest.into_iter().take(count).map(|word| (&text[word.bytes.clone()], word.share)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_left_out_once() {
        let texts = without_each(" a  bé c\n").unwrap();
        let texts: Vec<&str> = texts.iter().map(|input| input.text.as_str()).collect();
        assert_eq!(texts, ["   bé c\n", " a   c\n", " a  bé \n"]);
    }

    #[test]
    fn one_word_and_too_many_are_not_explained() {
        assert_eq!(without_each("alone"), None);
        assert_eq!(without_each(&"x ".repeat(MAX_WORDS + 1)), None);
    }

    #[test]
    fn words_that_spoke_against_are_not_among_the_strongest() {
        let word = |bytes, share| Word { bytes, share };
        let words = [word(0..1, 0.1), word(2..3, -0.5), word(4..5, 0.3)];
        assert_eq!(strongest("a b c", &words, 5), [("c", 0.3), ("a", 0.1)]);
    }
}
