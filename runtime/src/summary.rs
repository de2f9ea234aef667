//! What a classifier has answered, in counts that are small enough to keep, and how far two such summaries are apart: whether the
//! texts that come are still like those that it was tested on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::ProblemType,
    prediction::{Prediction, Task},
    tokenizer::TextInput,
};

/// Bins of the best label's score, of equal width from 0 to 1.
pub const SCORE_BINS: usize = 20;
/// No summary is of more texts: as many as are counted without loss in a number of JSON.
const MOST_TEXTS: u64 = 1 << 53;
/// Bins of the texts' lengths: 0 characters, 1, 2 to 3, 4 to 7 and so on, the last of all that are longer.
pub const LENGTH_BINS: usize = 24;

/// What the index of a figure that has changed is, and of one that has changed largely (Siddiqi, "Credit Risk Scorecards", 2006).
pub const CHANGED: f64 = 0.1;
/// See [`CHANGED`].
pub const LARGELY_CHANGED: f64 = 0.25;

/// A bundle's summary of texts whose labels are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Which they were: `test`, `validation`, `cross-validated` (training rows, by models that had not seen them) or `train`.
    pub split: String,
    /// What they were answered.
    pub summary: Summary,
}

impl Reference {
    /// Its name under a manifest's `metadata`.
    pub const KEY: &str = "nimbert.reference";
}

/// How many characters a text has, or both of a pair.
pub fn characters(input: TextInput<'_>) -> usize {
    input.text.chars().count() + input.pair.map_or(0, |pair| pair.chars().count())
}

/// Counts of texts, and of what they were answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The texts.
    pub texts: u64,
    /// How many of them are like nothing in training; none where the bundle does not say it.
    pub unknown: Option<u64>,
    /// By their characters, both texts of a pair together, in [`LENGTH_BINS`].
    pub lengths: Vec<u64>,
    /// The answers, by task.
    pub tasks: Vec<TaskSummary>,
}

/// Counts of the answers to one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// What it is called, where there are several.
    pub task: Option<String>,
    /// Whether a text may have any number of labels.
    #[serde(default)]
    pub multi_label: bool,
    /// How often each label holds; where texts have one label, the best one, unsure or not.
    pub labels: BTreeMap<String, u64>,
    /// By the best label's score, in [`SCORE_BINS`].
    pub scores: Vec<u64>,
    /// Of how many the classifier was unsure.
    pub abstained: u64,
}

impl Summary {
    /// No text yet.
    pub fn new(tasks: &[Task]) -> Self {
        let of_task = |Task { name, labels, decision }: &Task| TaskSummary {
            task: name.clone(),
            multi_label: decision.problem_type == ProblemType::MultiLabel,
            labels: labels.iter().map(|label| (label.clone(), 0)).collect(),
            scores: vec![0; SCORE_BINS],
            abstained: 0,
        };
        let says_unknown = tasks.iter().any(|task| task.decision.unknown_threshold.is_some());
        Self {
            texts: 0,
            unknown: says_unknown.then_some(0),
            lengths: vec![0; LENGTH_BINS],
            tasks: tasks.iter().map(of_task).collect(),
        }
    }

    /// Counts a text of so many characters.
    pub fn add(&mut self, characters: usize, prediction: &Prediction) {
        self.texts += 1;
        // The place of the highest bit, counted from 1.
        let length = (usize::BITS - characters.leading_zeros()) as usize;
        self.lengths[length.min(LENGTH_BINS - 1)] += 1;
        if let Some(unknown) = &mut self.unknown {
            *unknown += u64::from(prediction.unknown);
        }
        for (summary, prediction) in self.tasks.iter_mut().zip(prediction.tasks()) {
            for label in &prediction.labels {
                *summary.labels.entry(label.clone()).or_default() += 1;
            }
            summary.scores[((prediction.score * SCORE_BINS as f32) as usize).min(SCORE_BINS - 1)] += 1;
            summary.abstained += u64::from(prediction.abstained);
        }
    }

    /// Whether counts are as many as they have to be and may be, and none is of more texts than there are.
    pub fn is_sound(&self) -> bool {
        let is_whole =
            |counts: &[u64]| counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count)) == Some(self.texts);
        let is_part = |count: &u64| *count <= self.texts;
        let of_task = |task: &TaskSummary| {
            task.scores.len() == SCORE_BINS
                && is_whole(&task.scores)
                && task.labels.values().chain([&task.abstained]).all(is_part)
        };
        self.texts <= MOST_TEXTS
            && self.lengths.len() == LENGTH_BINS
            && is_whole(&self.lengths)
            && self.unknown.iter().all(is_part)
            && self.tasks.iter().all(of_task)
    }

    /// What only this summary or `other` has, so that nothing can be said of it; none if they can be compared in all.
    pub fn incomparable(&self, other: &Self) -> Option<String> {
        let names = |summary: &Self| -> BTreeSet<String> {
            let of_task =
                |task: &TaskSummary| task.task.clone().map_or("answers".to_owned(), |task| format!("the task {task}"));
            let unknown = summary.unknown.map(|_| "what is unknown".to_owned());
            summary.tasks.iter().map(of_task).chain(unknown).collect()
        };
        let (here, there) = (names(self), names(other));
        let only: Vec<&str> = here.symmetric_difference(&there).map(String::as_str).collect();
        (!only.is_empty()).then(|| only.join(", "))
    }

    /// How far `later` is from this summary, figure by figure. A figure that only one of them has is left out:
    /// [`Summary::incomparable`] says it.
    pub fn drift(&self, later: &Self) -> Vec<Drift> {
        let rest = |part: u64, summary: &Self| vec![part, summary.texts - part.min(summary.texts)];
        let mut drifts = vec![Drift::new(None, "length", &self.lengths, &later.lengths)];
        drifts.extend(
            self.unknown
                .zip(later.unknown)
                .map(|(before, after)| Drift::new(None, "unknown", &rest(before, self), &rest(after, later))),
        );
        for before in &self.tasks {
            let Some(after) = later.tasks.iter().find(|task| task.task == before.task) else { continue };
            let task = before.task.as_deref();
            let names: BTreeSet<&String> = before.labels.keys().chain(after.labels.keys()).collect();
            let counts = |task: &TaskSummary| -> Vec<u64> {
                names.iter().map(|name| task.labels.get(*name).copied().unwrap_or(0)).collect()
            };
            let [a, b] = [counts(before), counts(after)];
            drifts.push(match before.is_multi_label(self.texts) || after.is_multi_label(later.texts) {
                false => Drift::new(task, "labels", &a, &b),
                true => Drift::of_any(task, "labels", a.iter().zip(&b).map(|(a, b)| [rest(*a, self), rest(*b, later)])),
            });
            drifts.push(Drift::new(task, "score", &before.scores, &after.scores));
            if before.abstained > 0 || after.abstained > 0 {
                let [a, b] = [rest(before.abstained, self), rest(after.abstained, later)];
                drifts.push(Drift::new(task, "unsure", &a, &b));
            }
        }
        drifts
    }
}

impl TaskSummary {
    /// Whether the same task of `other` has other labels, so that shares of labels say little.
    pub fn has_other_labels(&self, other: &Self) -> bool {
        self.task == other.task && !self.labels.keys().eq(other.labels.keys())
    }

    /// Also of a file that does not say it: of labels that exclude each other each text has one.
    fn is_multi_label(&self, texts: u64) -> bool {
        self.multi_label || self.labels.values().map(|&count| u128::from(count)).sum::<u128>() != texts.into()
    }
}

/// How far two histograms of a figure are apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Of which task's answers, where there are several.
    pub task: Option<String>,
    /// What it is of: `labels`, `score`, `unsure`, or, of the texts whatever the task, `length` and `unknown`. Where a text may have any
    /// number of labels, `labels` is of the label that has moved most: of how many texts have it and have it not.
    pub figure: String,
    /// The population stability index: Σ (b − a) ln(b / a) over the shares a and b of the bins. To each count half a text is added, so
    /// that no share is 0.
    pub psi: f64,
    /// What that is at most in 95 of 100 cases where nothing has changed, from as many texts.
    pub chance: f64,
}

impl Drift {
    fn new(task: Option<&str>, figure: &str, before: &[u64], after: &[u64]) -> Self {
        let (task, figure) = (task.map(str::to_owned), figure.to_owned());
        Self { task, figure, psi: index(before, after), chance: chance(before, after) }
    }

    /// The largest of several histograms of two bins, of as many texts each, and what chance makes of the largest of as many: at least that,
    /// if they hang together.
    fn of_any(task: Option<&str>, figure: &str, histograms: impl ExactSizeIterator<Item = [Vec<u64>; 2]>) -> Self {
        let each_is_below = (1.0 - SELDOM).powf(1.0 / histograms.len().max(1) as f64);
        let indices = histograms.map(|[before, after]| (index(&before, &after), [before, after]));
        let (psi, largest) = indices.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        let sizes = largest.map(|counts| counts.iter().sum::<u64>() as f64);
        let chance = match psi > 0.0 {
            true => chi_squared(1, 1.0 - each_is_below) * (1.0 / sizes[0] + 1.0 / sizes[1]),
            false => 0.0,
        };
        Self { task: task.map(str::to_owned), figure: figure.to_owned(), psi, chance }
    }

    /// The figure, behind its task's name if it has one.
    pub fn name(&self) -> String {
        self.task.as_ref().map_or(String::new(), |task| format!("{task} ")) + &self.figure
    }

    /// Whether it is more than chance explains.
    pub fn is_beyond_chance(&self) -> bool {
        self.psi > self.chance
    }
}

/// The counts of the bins that somebody is in: those that nobody is in say nothing.
fn used<'a>(before: &'a [u64], after: &'a [u64]) -> impl Iterator<Item = [f64; 2]> + Clone + 'a {
    let bins = before.iter().zip(after).filter(|(before, after)| **before > 0 || **after > 0);
    bins.map(|(before, after)| [*before as f64, *after as f64])
}

/// The population stability index of two histograms with the same bins, see [`Drift::psi`]; 0 where one has no text.
pub fn index(before: &[u64], after: &[u64]) -> f64 {
    let used = used(before, after);
    let totals = [0, 1].map(|side| used.clone().map(|bin| bin[side]).sum::<f64>());
    let bins = used.clone().count() as f64;
    if bins < 2.0 || totals.contains(&0.0) {
        return 0.0;
    }
    let smoothed = |side: usize, count: f64| (count + 0.5) / (totals[side] + 0.5 * bins);
    let part = |bin: [f64; 2]| {
        let [a, b] = [smoothed(0, bin[0]), smoothed(1, bin[1])];
        (b - a) * (b / a).ln()
    };
    used.map(part).sum()
}

/// How often chance goes beyond what is said of it.
const SELDOM: f64 = 0.05;
/// Texts that a bin must have on average, for its index to be about chi-squared.
const FILLED: f64 = 5.0;
/// How often histograms are drawn whose bins have fewer.
const DRAWS: usize = 200;

/// See [`Drift::chance`]: the index of samples of one distribution is about chi-squared over the harmonic mean of their sizes (Yurdakul,
/// 2018). Where bins have fewer texts than that needs, as those of many labels, the texts of both are dealt out anew, always the same way.
fn chance(before: &[u64], after: &[u64]) -> f64 {
    let sizes = [before, after].map(|counts| counts.iter().sum::<u64>());
    let together: Vec<u64> = before.iter().zip(after).map(|(a, b)| a + b).filter(|count| *count > 0).collect();
    if together.len() < 2 || sizes.contains(&0) {
        return 0.0;
    }
    let [before, after] = sizes.map(|size| size as f64);
    let least = together.iter().copied().min().unwrap_or(0) as f64;
    if least * before.min(after) / (before + after) >= FILLED {
        return chi_squared(together.len() - 1, SELDOM) * (1.0 / before + 1.0 / after);
    }
    let mut random = Random(0);
    let drawn = (0..DRAWS).map(|_| {
        let dealt = random.dealt(&together, sizes[0]);
        let rest: Vec<u64> = together.iter().zip(&dealt).map(|(all, dealt)| all - dealt).collect();
        index(&dealt, &rest)
    });
    let mut drawn: Vec<f64> = drawn.collect();
    drawn.sort_by(f64::total_cmp);
    drawn[(DRAWS as f64 * (1.0 - SELDOM)) as usize]
}

/// Random numbers (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    /// Between 0 and 1, neither of them.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 12) as f64 / (1u64 << 52) as f64 + f64::EPSILON / 2.0
    }

    /// How many texts of each bin are among `size` of all, which are at least as many.
    fn dealt(&mut self, bins: &[u64], size: u64) -> Vec<u64> {
        let (mut left, mut all) = (size, bins.iter().sum::<u64>());
        let mut of_bin = |count: u64| {
            let dealt = self.hypergeometric(all, count, left);
            (left, all) = (left - dealt, all - count);
            dealt
        };
        bins.iter().map(|count| of_bin(*count)).collect()
    }

    /// How many of `count` texts are among `left` ones that are drawn of `all`.
    fn hypergeometric(&mut self, all: u64, count: u64, left: u64) -> u64 {
        /// From this variance on the number is about normal.
        const WIDE: f64 = 10.0;
        /// So many are drawn one by one.
        const FEW: u64 = 200;
        // It is the same the other way round: the fewer are drawn.
        let (drawn, marked) = (count.min(left), count.max(left));
        if marked > all - marked {
            // Of the others there are fewer.
            return drawn - self.hypergeometric(all, all - marked, drawn);
        }
        let share = marked as f64 / all as f64;
        let mean = drawn as f64 * share;
        let variance = mean * (1.0 - share) * (all - drawn) as f64 / (all as f64 - 1.0).max(1.0);
        let number = if variance >= WIDE {
            let quantile = self.uniform();
            let deviations = if quantile < 0.5 { -normal(quantile) } else { normal(1.0 - quantile) };
            (mean + variance.sqrt() * deviations).round().max(0.0) as u64
        } else if drawn <= FEW {
            let is_marked = |place: u64, found: u64, draw: f64| draw * ((all - place) as f64) < (marked - found) as f64;
            (0..drawn).fold(0, |found, place| found + u64::from(is_marked(place, found, self.uniform())))
        } else {
            self.binomial(drawn, share)
        };
        number.min(drawn)
    }

    /// How many of `trials` succeed, few of which do: it goes from one to the next.
    fn binomial(&mut self, trials: u64, share: f64) -> u64 {
        let (mut place, mut found) = (0.0, 0);
        loop {
            place += 1.0 + (self.uniform().ln() / (-share).ln_1p()).floor();
            // Also where none succeeds, of which the next is infinitely far.
            if place.is_nan() || place > trials as f64 {
                return found;
            }
            found += 1;
        }
    }
}

/// What a chi-squared variable of so many degrees of freedom is above in so small a share of cases (Wilson and Hilferty, 1931).
fn chi_squared(degrees: usize, share: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees as f64);
    match degrees {
        1 => normal(share / 2.0).powi(2),
        _ => degrees as f64 * (1.0 - spread + normal(share) * spread.sqrt()).powi(3),
    }
}

/// What a normal variable is above in that share of cases, less than a half of them, within 4.5e-4 (Hastings, 1955).
fn normal(share: f64) -> f64 {
    let t = (-2.0 * share.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_computed_by_hand() {
        // Shares 0.5 and 0.5 before, 0.8 and 0.2 after, up to the halves: 0.3 ln 1.6 + 0.3 ln 2.5.
        let drift = Drift::new(None, "x", &[50_000, 50_000, 0], &[80_000, 20_000, 0]);
        assert!((drift.psi - 0.3 * (1.6f64.ln() + 2.5f64.ln())).abs() < 1e-4, "{drift:?}");
        // 3.841 · 2 / 100,000
        assert!((drift.chance - 7.7e-5).abs() < 3e-6 && drift.is_beyond_chance(), "{drift:?}");
        assert!(!Drift::new(None, "x", &[5, 5], &[6, 4]).is_beyond_chance());
        // A bin that one side lacks is no infinity.
        assert!(Drift::new(None, "x", &[10, 0], &[0, 10]).psi.is_finite());
        assert_eq!(Drift::new(None, "x", &[0, 0], &[3, 4]).psi, 0.0);
        // Of many labels beside texts: by as many samples as it takes, 1.104 and 0.886 where all labels are as frequent.
        for (labels, texts, expected) in [(1000, 500, 1.104), (100, 200, 0.886)] {
            let [before, after] = [1, 2].map(|seed| {
                let mut random = Random(seed);
                let mut counts = vec![0; labels];
                (0..texts).for_each(|_| counts[(random.uniform() * labels as f64) as usize] += 1);
                counts
            });
            let drift = Drift::new(None, "x", &before, &after);
            assert!((drift.chance / expected - 1.0).abs() < 0.06 && !drift.is_beyond_chance(), "{drift:?}");
            // Three quarters of the labels never come again.
            let fewer: Vec<u64> =
                (0..labels).map(|label| if label < labels / 4 { texts / (labels as u64 / 4) } else { 0 }).collect();
            assert!(Drift::new(None, "x", &before, &fewer).is_beyond_chance());
        }
        // All are dealt out, also where bins are large.
        let dealt = Random(3).dealt(&[1_000_000, 3, 70, 400], 600_000);
        assert!(
            dealt.iter().sum::<u64>() == 600_000 && dealt[0].abs_diff(600_000) < 2_000 && dealt[1] <= 3,
            "{dealt:?}"
        );
        // What is drawn without being put back varies less, in whichever order the bins come, and whichever side has more texts: the
        // indices below are those of 20,000 exact draws.
        for (before, after, expected) in
            [(vec![98_000, 2000], vec![175, 25], 0.017), (vec![1900, 60, 40], vec![85, 10, 5], 0.0615)]
        {
            for (a, b) in [(&before, &after), (&after, &before)] {
                let turned = |bins: &[u64]| bins.iter().rev().copied().collect::<Vec<u64>>();
                for (a, b) in [(a.clone(), b.clone()), (turned(a), turned(b))] {
                    let chance = Drift::new(None, "x", &a, &b).chance;
                    assert!((chance / expected - 1.0).abs() < 0.1, "{a:?} {b:?} {chance}");
                }
            }
        }
        for (degrees, share, expected) in
            [(1, 0.05, 3.841), (4, 0.05, 9.488), (19, 0.05, 30.144), (1, 0.001, 10.828), (4, 0.001, 18.467)]
        {
            assert!((chi_squared(degrees, share) / expected - 1.0).abs() < 0.03, "{degrees} {share}");
        }
    }

    /// Of 200 texts, so many have either of two labels, and none of them has the third.
    fn several(money: u64, sport: u64, says_so: bool) -> Summary {
        let labels = [("money", money), ("sport", sport), ("other", 0)];
        let task = TaskSummary {
            task: None,
            multi_label: says_so,
            labels: labels.map(|(label, count)| (label.to_owned(), count)).into(),
            scores: [vec![0; SCORE_BINS - 1], vec![200]].concat(),
            abstained: 0,
        };
        let lengths = [vec![200], vec![0; LENGTH_BINS - 1]].concat();
        Summary { texts: 200, unknown: None, lengths, tasks: vec![task] }
    }

    #[test]
    fn of_several_labels_each_is_compared_over_the_texts() {
        let labels = |before: Summary, after: Summary| {
            before.drift(&after).into_iter().find(|drift| drift.figure == "labels").unwrap()
        };
        // A label that all had and few have, that none has any more, and that of two labels one alone is used.
        for (before, after) in [((200, 0), (20, 0)), ((100, 100), (0, 0)), ((100, 92), (2, 0))] {
            for says_so in [true, false] {
                let drift = labels(several(before.0, before.1, says_so), several(after.0, after.1, true));
                assert!(drift.psi > LARGELY_CHANGED && drift.is_beyond_chance(), "{drift:?}");
            }
        }
        let drift = labels(several(100, 92, true), several(104, 90, true));
        assert!(drift.psi > 0.0 && !drift.is_beyond_chance(), "{drift:?}");
        // 3.841 of one label; the largest of three is under 5.70 as often.
        assert!((drift.chance / (5.70 * 2.0 / 200.0) - 1.0).abs() < 0.01, "{drift:?}");
        assert_eq!(labels(several(0, 0, true), several(0, 0, true)).psi, 0.0);
    }

    #[test]
    fn tasks_are_told_apart_by_their_whole_names() {
        let task = |name: &str, count: u64| TaskSummary {
            task: Some(name.to_owned()),
            multi_label: false,
            labels: BTreeMap::from([("x".to_owned(), count), ("y".to_owned(), 100 - count)]),
            scores: [vec![0; SCORE_BINS - 1], vec![100]].concat(),
            abstained: 0,
        };
        let summary = |tasks: Vec<TaskSummary>, unknown| Summary {
            texts: 100,
            unknown,
            lengths: [vec![100], vec![0; LENGTH_BINS - 1]].concat(),
            tasks,
        };
        let before = summary(vec![task("a", 50), task("ab", 50)], None);
        let after = summary(vec![task("a", 50), task("ab", 90)], None);
        assert!(before.is_sound() && after.is_sound());
        let moved: Vec<String> =
            before.drift(&after).iter().filter(|drift| drift.is_beyond_chance()).map(Drift::name).collect();
        assert_eq!(moved, ["ab labels"]);
        assert_eq!(before.incomparable(&after), None);
        let other = summary(vec![task("a", 50)], Some(1));
        assert_eq!(before.incomparable(&other).unwrap(), "the task ab, what is unknown");
        // Counts that no texts have.
        let unsound = Summary { texts: 99, ..before.clone() };
        assert!(!unsound.is_sound());
        let mut huge = before;
        huge.lengths[0] = u64::MAX;
        huge.lengths[1] = 101;
        assert!(!huge.is_sound());
    }

    #[test]
    fn chance_covers_what_chance_does() {
        // Two samples of 400 from five bins, 400 times: about 95 of 100 are under it.
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(u32::MAX >> 1)
        };
        let mut sample = || {
            let mut counts = [0; 5];
            (0..400).for_each(|_| counts[((random() * random() * 5.0) as usize).min(4)] += 1);
            counts
        };
        let beyond = (0..400).filter(|_| Drift::new(None, "x", &sample(), &sample()).is_beyond_chance()).count();
        assert!((5..40).contains(&beyond), "{beyond}");
    }
}
