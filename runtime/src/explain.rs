//! Why a text gets its label: what the answer would be without some of its words.
//!
//! What is explained is a label's logit, less the mean of all labels' where a text has one label: what softmax ignores is not a
//! reason. Attributions are Shapley values (Shapley, 1953): what a word adds, over all orders in which words could come in; their sum
//! is the difference of the whole text to none. Or what leaving out the word alone changes, which takes one run a word, and whose
//! sum is nothing in particular.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use crate::{
    call::CallOptions,
    classifier::Classifier,
    config::ProblemType,
    error::{Error, Result},
    prediction::{Prediction, Task},
    tokenizer::{TextInput, Truncation, TruncationSide},
};

/// What a word's attribution is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attribution {
    /// Exact Shapley values up to [`EXACT_WORDS`] words, else what leaving out each word changes.
    #[default]
    Auto,
    /// What leaving out the word changes: a run a word.
    LeaveOneOut,
    /// Shapley values: exact up to [`EXACT_WORDS`] words, by 2ⁿ runs; of longer texts over [`ORDERS`] orders of the words, by as many
    /// runs a word, with the same sum.
    Shapley,
}

impl Attribution {
    /// What it is called in every language, and parsed from.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::LeaveOneOut => "leave-one-out",
            Self::Shapley => "shapley",
        }
    }
}

/// What is to be explained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Explained<'a> {
    /// The answer to which task; none: to the first.
    pub task: Option<&'a str>,
    /// Why which label; none: the one that the text gets.
    pub label: Option<&'a str>,
}

/// The most words of which all subsets are run.
pub const EXACT_WORDS: usize = 10;
/// Orders of the words of a longer text, every second the reverse of the one before.
pub const ORDERS: usize = 32;

/// A word, and what it does to the answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Word {
    /// Where it stands, in bytes of the text.
    pub range: Range<usize>,
    /// Whether it is one of the second text of a pair.
    pub is_of_pair: bool,
    /// By how much it raises what is explained.
    pub attribution: f64,
}

/// Why a text gets a label, or does not.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The answer for the whole text to the task that is explained, without those to others.
    pub prediction: Prediction,
    /// The place of that task among the bundle's.
    pub task_id: usize,
    /// The id of the label that is explained.
    pub label_id: usize,
    /// What is explained, of the whole text.
    pub value: f64,
    /// The same of a text without words.
    pub base_value: f64,
    /// The words that are read, in their order; of a pair, all words.
    pub words: Vec<Word>,
    /// Further words, which the bundle's length cuts off; none of a pair.
    pub unread: usize,
    /// What the attributions are: never [`Attribution::Auto`].
    pub attribution: Attribution,
}

impl Explanation {
    /// Where each word stands in its text of `input`, which was explained, as languages count that do not count bytes: `width` is how
    /// many units a character has there.
    ///
    /// # Panics
    /// If it was another input.
    pub fn ranges(&self, input: TextInput<'_>, width: fn(char) -> usize) -> Vec<Range<usize>> {
        let mut counted = [input.text, input.pair.unwrap_or_default()].map(|text| (text, 0, 0));
        // Words of a text come in their order: each character is counted once.
        let mut units_before = |word: &Word, byte: usize| {
            let (text, bytes, units) = &mut counted[usize::from(word.is_of_pair)];
            *units += text[*bytes..byte].chars().map(width).sum::<usize>();
            *bytes = byte;
            *units
        };
        self.words.iter().map(|word| units_before(word, word.range.start)..units_before(word, word.range.end)).collect()
    }
}

/// Texts that are run at once: enough for all threads, and bounded in memory, however long they are.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A word's place: whether it is of the second text, and where in it.
type Place = (bool, Range<usize>);

impl Classifier {
    /// Attributes the answer for a text, or a pair of texts, to its words: for a label, or for the one that it gets. A word is what
    /// stands between white space, signs and, in scripts without spaces, characters. Texts with words left out are put into the
    /// queue by the hundred, as calls of their own are.
    ///
    /// # Errors
    /// Those of [`Classifier::classify_with`]; [`Error::Setting`] for a label or a task that the bundle has not.
    pub fn explain<'a>(
        &self,
        input: impl Into<TextInput<'a>>,
        of: Explained<'_>,
        attribution: Attribution,
        options: CallOptions<'_>,
    ) -> Result<Explanation> {
        let input = input.into();
        let named = |name: &str, expected: String, got: &str| Error::Setting {
            name: name.to_owned(),
            expected,
            got: got.to_owned(),
        };
        let tasks = self.tasks();
        let task = of.task.map_or(Ok(0), |name| {
            tasks.iter().position(|task| task.name.as_deref() == Some(name)).ok_or_else(|| {
                let names: Vec<&str> = tasks.iter().filter_map(|task| task.name.as_deref()).collect();
                let names = if names.is_empty() {
                    "none: the bundle has one without a name".to_owned()
                } else {
                    names.join(", ")
                };
                named("task", format!("one of the bundle's tasks: {names}"), name)
            })
        })?;
        let Task { labels, .. } = &tasks[task];
        let mut prediction = self.classify_with([input], options)?.0.remove(0);
        let mut further = std::mem::take(&mut prediction.further);
        if let Some(task) = task.checked_sub(1) {
            prediction = further.swap_remove(task);
        }
        let label_id = match of.label {
            None => prediction.label_id(),
            Some(name) => labels
                .iter()
                .position(|label| label == name)
                .ok_or_else(|| named("label", format!("one of the bundle's labels: {}", labels.join(", ")), name))?,
        };
        let all = |text: &'a str, is_of_pair: bool| words(text).map(move |range| (is_of_pair, range));
        let mut places: Vec<Place> =
            all(input.text, false).chain(input.pair.into_iter().flat_map(|pair| all(pair, true))).collect();
        let (input, read) = self.read_part(input, &places, options)?;
        let unread = places.len() - read.len();
        // Of a text that is cut at its beginning, what is read begins there.
        let from = if read.start > 0 { places[read.start].1.start } else { 0 };
        places = places.drain(read).collect();
        let value_of = |prediction: &Prediction| explained(&tasks[task], prediction, label_id);
        let bytes = input.text.len() + input.pair.map_or(0, str::len);
        let batch = (BATCH_BYTES / bytes.max(1)).clamp(1, BATCH);
        let mut run = |subsets: &mut dyn Iterator<Item = Vec<bool>>| -> Result<Vec<f64>> {
            let mut values = Vec::new();
            loop {
                let texts: Vec<(String, Option<String>)> =
                    subsets.take(batch).map(|kept| without(input, from, &places, &kept)).collect();
                if texts.is_empty() {
                    return Ok(values);
                }
                let texts = texts.iter().map(|(text, pair)| TextInput { text, pair: pair.as_deref() });
                let predictions = self.classify_with(texts, options)?.0;
                values.extend(predictions.iter().filter_map(|prediction| prediction.tasks().nth(task)).map(value_of));
            }
        };
        let count = places.len();
        let base_value = run(&mut std::iter::once(vec![false; count]))?[0];
        let value = value_of(&prediction);
        let attribution = match attribution {
            Attribution::Auto if count <= EXACT_WORDS => Attribution::Shapley,
            Attribution::Auto => Attribution::LeaveOneOut,
            asked => asked,
        };
        let attributions = match attribution {
            Attribution::Shapley if count <= EXACT_WORDS => exact_shapley(&run(&mut subsets(count))?, count),
            Attribution::Shapley => sampled_shapley(count, [base_value, value], &mut run)?,
            _ => {
                let mut others = (0..count).map(|word| (0..count).map(|other| other != word).collect());
                run(&mut others)?.into_iter().map(|without| value - without).collect()
            }
        };
        let words = places.into_iter().zip(attributions);
        let words = words.map(|((is_of_pair, range), attribution)| Word { range, is_of_pair, attribution }).collect();
        Ok(Explanation { prediction, task_id: task, label_id, value, base_value, words, unread, attribution })
    }

    /// The part of a text that is read, and which of its words lie in it: where words are left out, no others are to come in from
    /// behind the cut. Of pairs, all: either text may be cut, by how long the other one is.
    fn read_part<'a>(
        &self,
        input: TextInput<'a>,
        places: &[Place],
        options: CallOptions<'_>,
    ) -> Result<(TextInput<'a>, Range<usize>)> {
        let encoded = |text: &str| self.tokenizer().windows_with(TextInput { text, pair: None }, options.truncation);
        let count = places.len();
        let whole = if input.pair.is_none() { encoded(input.text)? } else { Vec::new() };
        let [window] = &whole[..] else { return Ok((input, 0..count)) };
        if !window.truncated || count == 0 {
            return Ok((input, 0..count));
        }
        let side = match options.truncation {
            Truncation::At(side) => side,
            _ => self.bundle().manifest.truncation_side,
        };
        let is_right = side == TruncationSide::Right;
        let part = |words: usize| match is_right {
            true => &input.text[..places[words - 1].1.end],
            false => &input.text[places[count - words].1.start..],
        };
        // The least number of words that are read as the whole text is.
        let (mut low, mut high) = (1, count);
        while low < high {
            let middle = (low + high) / 2;
            if encoded(part(middle))?[0].input_ids == window.input_ids {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let read = if is_right { 0..low } else { count - low..count };
        Ok((TextInput { text: if is_right { part(low) } else { input.text }, pair: None }, read))
    }
}

/// What is explained of an answer.
fn explained(task: &Task, prediction: &Prediction, label_id: usize) -> f64 {
    let logits = &prediction.logits;
    let mean = match task.decision.problem_type {
        ProblemType::SingleLabel => logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64,
        ProblemType::MultiLabel => 0.0,
    };
    f64::from(logits[label_id]) - mean
}

/// Where the words of a text stand.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let parts = text.split_word_bound_indices().filter(|(_, part)| !part.chars().all(char::is_whitespace));
    parts.map(|(start, part)| start..start + part.len())
}

/// The input with only the words that are kept, the text from the byte `from` on. With a word the white space before it is left out, or
/// with the first one that behind it: some tokenizers have tokens for it.
fn without(input: TextInput<'_>, from: usize, words: &[Place], kept: &[bool]) -> (String, Option<String>) {
    let of = |text: &str, from: usize, is_of_pair: bool| {
        let mut rest = String::with_capacity(text.len());
        let mut of_text = words.iter().zip(kept).filter(|((of_pair, _), _)| *of_pair == is_of_pair).peekable();
        let is_first_missing = of_text.peek().is_some_and(|(_, is_kept)| !**is_kept);
        let mut end = from;
        for ((_, range), is_kept) in of_text {
            if *is_kept {
                rest.push_str(&text[end..range.end]);
            }
            end = range.end;
        }
        rest.push_str(&text[end..]);
        if is_first_missing { rest.trim_start().to_owned() } else { rest }
    };
    (of(input.text, from, false), input.pair.map(|pair| of(pair, 0, true)))
}

/// All subsets of so many words: the n-th has the words whose bits n has.
fn subsets(count: usize) -> impl Iterator<Item = Vec<bool>> {
    (0..1usize << count).map(move |subset| (0..count).map(|word| subset >> word & 1 == 1).collect())
}

/// Shapley values of `count` words by the values of all [`subsets`].
fn exact_shapley(values: &[f64], count: usize) -> Vec<f64> {
    // Of the orders of n words, the share in which just the words of a set of s come before a given one: s! (n − s − 1)! / n!.
    let mut shares = vec![1.0 / count.max(1) as f64; count];
    for size in 1..count {
        shares[size] = shares[size - 1] * size as f64 / (count - size) as f64;
    }
    let of_word = |word: usize| {
        let without = (0..values.len()).filter(|subset| subset >> word & 1 == 0);
        without.map(|set| shares[set.count_ones() as usize] * (values[set | 1 << word] - values[set])).sum()
    };
    (0..count).map(of_word).collect()
}

/// Estimates of Shapley values: what each word adds in some orders, and in the reverse of each.
fn sampled_shapley(
    count: usize,
    [base_value, value]: [f64; 2],
    run: &mut impl FnMut(&mut dyn Iterator<Item = Vec<bool>>) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let mut attributions = vec![0.0; count];
    let mut order: Vec<usize> = (0..count).collect();
    // The same text gets the same explanation.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for turn in 0..ORDERS {
        if turn % 2 == 1 {
            order.reverse();
        } else {
            shuffle(&mut order, &mut random);
        }
        let mut kept = vec![false; count];
        let mut growing = order[..count - 1].iter().map(|&word| {
            kept[word] = true;
            kept.clone()
        });
        let mut before = base_value;
        let values = run(&mut growing)?.into_iter().chain([value]);
        for (&word, value) in order.iter().zip(values) {
            attributions[word] += (value - before) / ORDERS as f64;
            before = value;
        }
    }
    Ok(attributions)
}

/// Fisher and Yates' shuffle by an xorshift generator.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a set of words is worth: some alone, and some together.
    fn game(kept: &[bool]) -> f64 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| f64::from(u8::from(kept[word])));
        1.0 + 2.0 * a - 3.0 * b + 4.0 * a * c - 6.0 * b * c * d
    }

    /// By hand: what several words are worth together is divided among them; the third wins 2 with the first and loses 2 with others.
    const VALUES: [f64; 4] = [4.0, -5.0, 0.0, -2.0];

    #[test]
    fn what_words_are_worth_together_is_divided_among_them() {
        let values: Vec<f64> = subsets(4).map(|kept| game(&kept)).collect();
        for (found, expected) in exact_shapley(&values, 4).into_iter().zip(VALUES) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(exact_shapley(&[7.0], 0), Vec::<f64>::new());
    }

    #[test]
    fn some_orders_are_near_all_of_them_and_have_the_same_sum() {
        let ends = [game(&[false; 4]), game(&[true; 4])];
        let mut runs = 0;
        let weights = sampled_shapley(4, ends, &mut |subsets| {
            let values: Vec<f64> = subsets.map(|kept| game(&kept)).collect();
            runs += values.len();
            Ok(values)
        });
        let weights = weights.unwrap();
        assert_eq!(runs, 3 * ORDERS);
        assert!((weights.iter().sum::<f64>() - (ends[1] - ends[0])).abs() < 1e-12);
        for (found, expected) in weights.into_iter().zip(VALUES) {
            assert!((found - expected).abs() < 0.7, "{found} {expected}");
        }
    }

    #[test]
    fn words_of_any_script() {
        let of = |text| words(text).map(|range| &text[range]).collect::<Vec<_>>();
        assert_eq!(of("It's  great, 3.5 stars!"), ["It's", "great", ",", "3.5", "stars", "!"]);
        assert_eq!(of("好电影 👍🏽"), ["好", "电", "影", "👍🏽"]);
        assert_eq!(of(" \n"), Vec::<&str>::new());
    }

    #[test]
    fn places_are_counted_as_others_count() {
        let input = TextInput { text: "naïve 😀 a", pair: Some("電 b") };
        let word = |range: Range<usize>, is_of_pair| Word { range, is_of_pair, attribution: 0.0 };
        let of = |text: &str| words(text).collect::<Vec<_>>();
        let all = of(input.text).into_iter().map(|range| word(range, false));
        let all = all.chain(of("電 b").into_iter().map(|range| word(range, true))).collect();
        let tasks = [Task {
            name: None,
            labels: ["x", "y"].map(String::from).into(),
            decision: crate::prediction::tests::SINGLE,
        }];
        let answer = crate::prediction::Answer { logits: vec![0.0, 1.0], further: Vec::new(), distance: None };
        let explanation = Explanation {
            prediction: Prediction::new(answer, &tasks),
            task_id: 0,
            label_id: 0,
            value: 0.0,
            base_value: 0.0,
            words: all,
            unread: 0,
            attribution: Attribution::Shapley,
        };
        assert_eq!(explanation.ranges(input, |_| 1), [0..5, 6..7, 8..9, 0..1, 2..3]);
        assert_eq!(explanation.ranges(input, char::len_utf16), [0..5, 6..8, 9..10, 0..1, 2..3]);
    }

    #[test]
    fn words_are_left_out_with_the_space_before_them() {
        let input = TextInput { text: "one  two\nthree", pair: Some("four five") };
        let all: Vec<Place> = [("one  two\nthree", false), ("four five", true)]
            .into_iter()
            .flat_map(|(text, is_of_pair)| words(text).map(move |range| (is_of_pair, range)))
            .collect();
        let rest = without(input, 0, &all, &[true, false, true, false, true]);
        assert_eq!(rest, ("one\nthree".to_owned(), Some("five".to_owned())));
        assert_eq!(without(input, 0, &all, &[false; 5]), (String::new(), Some(String::new())));
        assert_eq!(without(input, 0, &all, &[true; 5]), (input.text.to_owned(), Some("four five".to_owned())));
        // Cut before the second word.
        let cut = without(input, 5, &all[1..], &[true, false, true, true]);
        assert_eq!(cut, ("two".to_owned(), Some("four five".to_owned())));
    }
}
