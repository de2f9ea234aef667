//! Labels that may be wrong, by what models that have not seen a row say of it.
//!
//! Where nothing is trained ([`label_errors`]), two of them are asked: logistic regression, over several ways to divide the rows
//! (confident learning, Northcutt et al., arXiv 1911.00068, asks one), and the other rows, each by how near it is. The first is misled
//! by what is rare, the second by what all texts have in common; together they are above either in most data
//! (benches/runs/2026-11-27-labels.md). Where models were trained on folds ([`judge_folds`]), each is asked of the rows that it has not
//! learned from, and knows better where the base tells labels apart badly.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use candle_core::{Device, Tensor};
use nimbert::ProblemType;

use crate::{
    cross_validation::{Folds, OutOfFold},
    error::Result,
    features::{BLOCK, Features, products},
    logistic::LogisticRegression,
    loss::Target,
    train::undecided,
};

/// What was found out about labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelErrors {
    /// One a row.
    pub rows: Vec<Judgement>,
    /// Rows that say nearly the same, but not just the same, and have other labels: each with the nearest behind it, the nearest
    /// first.
    pub near: Vec<NearRows>,
    /// Labels that are hardly told apart, the most alike first.
    pub alike: Vec<AlikeLabels>,
}

/// What others think of a row's labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The probability of the labels that it has; where a row may have several, of the least probable of them, or the least
    /// probable absence. None where nobody can know: no other row has the label.
    pub belief: Option<f64>,
    /// The most probable labels.
    pub suggested: Vec<u32>,
    /// Whether others are much surer of something else.
    pub is_doubtful: bool,
}

/// Two rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearRows {
    /// The one that stands first.
    pub first: usize,
    /// The other one.
    pub second: usize,
    /// The cosine of their features, as far as they differ from the mean of all.
    pub cosine: f32,
}

/// Two labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlikeLabels {
    /// Their ids.
    pub labels: [usize; 2],
    /// The share of their rows that are put to the right one of the two, the mean over both; half is chance.
    pub told_apart: f64,
}

/// Ways to divide the rows.
const DIVISIONS: u64 = 4;
const FOLDS: usize = 5;
/// scikit-learn's `C`: what is chosen by data with wrong labels learns them by heart.
const STRENGTH: f64 = 1.0;
/// A row's vote on another is e to the cosine times this.
const SHARPNESS: f64 = 10.0;
/// How much the votes count beside the regression, whose logarithm has the factor 1.
const VOTES: f64 = 0.5;
/// A label is doubtful if another is so many times as probable. Of 5 % planted errors a tenth (movie sentences, of which the features
/// tell 72 %) to nine tenths (news) are found so, and two thirds to nine tenths of what is found is one.
const ODDS: f64 = 8.0;
/// Texts from this cosine on say nearly the same, and from the second on just the same: an encoder that ignores case cannot tell
/// them apart.
const NEAR: f32 = 0.95;
const SAME: f32 = 1.0 - 1e-5;
/// Labels are alike up to this share, if both have so many rows.
const ALIKE: f64 = 0.6;
const ALIKE_ROWS: usize = 10;
/// No probability is taken for less.
const LEAST: f64 = 1e-9;

/// Judges the labels of rows. None where there are too few to leave some out. An error of `on_step`, which is told of each step of
/// [`steps`] of them, ends the work.
///
/// # Errors
/// [`crate::Error::Tensor`]; those of `on_step`.
pub fn label_errors(
    task: &LogisticRegression,
    features: &Features,
    targets: &[&Target],
    seed: u64,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Option<LabelErrors>> {
    let mut mean: Vec<Vec<f64>> = vec![vec![0.0; task.classes]; targets.len()];
    let mut logits = Vec::new();
    for division in 0..DIVISIONS {
        let seed = seed.wrapping_add(division);
        let Some(folds) = Folds::new(task.problem_type, targets, task.classes, FOLDS, seed) else { return Ok(None) };
        let OutOfFold { logits: of_division, .. } =
            task.out_of_fold(features, targets, &folds, STRENGTH, &mut on_step)?;
        let scores = of_division.iter().map(|logits| undecided(task.problem_type).scores(logits));
        for (mean, scores) in mean.iter_mut().zip(scores) {
            mean.iter_mut().zip(scores).for_each(|(mean, score)| *mean += f64::from(score) / DIVISIONS as f64);
        }
        logits = of_division;
    }
    let (votes, near) = votes(features, targets, task.classes, &mut on_step)?;
    let said = mean.iter().zip(&votes).map(|(scores, votes)| together(task.problem_type, scores, votes));
    let mut counts = vec![0usize; task.classes];
    // What has no weight says nothing.
    let weighted = targets.iter().filter(|target| target.weight > 0.0);
    weighted.flat_map(|target| &target.ids).for_each(|&id| counts[id as usize] += 1);
    let judged = |(beliefs, target): (Vec<f64>, &&Target)| {
        let is_elsewhere = |label: usize| counts[label] > usize::from(target.weight > 0.0);
        judged(task.problem_type, &beliefs, target, is_elsewhere)
    };
    let rows = said.zip(targets).map(judged).collect();
    Ok(Some(LabelErrors { rows, near, alike: alike(task, &logits, targets) }))
}

/// Judges the labels of rows by the models that have learned from the other folds.
pub fn judge_folds(answers: &OutOfFold, problem_type: ProblemType, targets: &[&Target]) -> Vec<Judgement> {
    let decision = answers.decision(problem_type, targets);
    // Nothing is learned from what has no weight.
    let mut folds_of_label: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for row in (0..targets.len()).filter(|&row| answers.folds.counts(row)) {
        for &id in &targets[row].ids {
            folds_of_label.entry(id as usize).or_default().insert(answers.folds.of_row(row));
        }
    }
    let of_row = |row: usize| {
        let own = answers.folds.of_row(row);
        let is_elsewhere =
            |label: usize| folds_of_label.get(&label).is_some_and(|folds| folds.iter().any(|fold| *fold != own));
        let beliefs: Vec<f64> = decision.scores(&answers.logits[row]).into_iter().map(f64::from).collect();
        judged(problem_type, &beliefs, targets[row], is_elsewhere)
    };
    (0..targets.len()).map(of_row).collect()
}

impl Judgement {
    /// Orders the least believed labels first, those of which nothing is known last.
    pub fn by_belief(&self, other: &Self) -> Ordering {
        let belief = |of: &Self| of.belief.unwrap_or(f64::INFINITY);
        belief(self).total_cmp(&belief(other))
    }
}

/// How often `on_step` is called for so many rows, at most.
pub fn steps(rows: usize) -> usize {
    DIVISIONS as usize * FOLDS + rows.div_ceil(BLOCK)
}

/// The share of each label among the other rows, which count by how near they are: `[rows][classes]`; and the pairs that say nearly
/// the same with other labels.
fn votes(
    features: &Features,
    targets: &[&Target],
    classes: usize,
    on_step: &mut impl FnMut() -> Result<()>,
) -> Result<(Vec<Vec<f64>>, Vec<NearRows>)> {
    let rows = features.rows();
    let all = Tensor::from_vec(centred(features), (rows, features.width), &Device::Cpu)?;
    let (mut votes, mut near) = (Vec::with_capacity(rows), Vec::new());
    products(&all, &all, on_step, |first, cosines| {
        let mut shares = vec![0.0; classes];
        let mut sum = 0.0;
        let mut nearest: Option<NearRows> = None;
        for (second, &cosine) in cosines.iter().enumerate().filter(|(second, _)| *second != first) {
            let vote = (SHARPNESS * f64::from(cosine)).exp() * f64::from(targets[second].weight);
            sum += vote;
            targets[second].ids.iter().for_each(|&id| shares[id as usize] += vote);
            let is_near = second > first && (NEAR..SAME).contains(&cosine);
            let is_nearest = is_near && nearest.is_none_or(|nearest| nearest.cosine < cosine);
            if is_nearest && targets[first].ids != targets[second].ids {
                nearest = Some(NearRows { first, second, cosine });
            }
        }
        shares.iter_mut().for_each(|share| *share /= sum.max(LEAST));
        votes.push(shares);
        near.extend(nearest);
    })?;
    near.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
    Ok((votes, near))
}

/// Features less their mean, divided by their length: encoders that were not made for it lay all texts into one direction.
fn centred(features: &Features) -> Vec<f32> {
    let mut mean = vec![0.0f32; features.width];
    for vector in features.values.chunks_exact(features.width) {
        mean.iter_mut().zip(vector).for_each(|(mean, x)| *mean += x / features.rows() as f32);
    }
    let centred = |vector: &[f32]| {
        let rest: Vec<f32> = vector.iter().zip(&mean).map(|(x, mean)| x - mean).collect();
        let length = rest.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        rest.into_iter().map(move |x| x / length)
    };
    features.values.chunks_exact(features.width).flat_map(centred).collect()
}

/// What both say, as probabilities: of labels of which a row has one, or of each label by itself.
fn together(problem_type: ProblemType, scores: &[f64], votes: &[f64]) -> Vec<f64> {
    let weighed = |score: f64, vote: f64| score.max(LEAST) * vote.max(LEAST).powf(VOTES);
    match problem_type {
        ProblemType::SingleLabel => {
            let products: Vec<f64> = scores.iter().zip(votes).map(|(&score, &vote)| weighed(score, vote)).collect();
            let sum: f64 = products.iter().sum();
            products.into_iter().map(|product| product / sum).collect()
        }
        ProblemType::MultiLabel => {
            let of_label = |(&score, &vote): (&f64, &f64)| {
                let (holds, is_absent) = (weighed(score, vote), weighed(1.0 - score, 1.0 - vote));
                holds / (holds + is_absent)
            };
            scores.iter().zip(votes).map(of_label).collect()
        }
    }
}

/// A row's labels by what others believe of each; `is_elsewhere` says whether rows have it from which they know it.
fn judged(
    problem_type: ProblemType,
    beliefs: &[f64],
    target: &Target,
    is_elsewhere: impl Fn(usize) -> bool,
) -> Judgement {
    let has = |class: usize| target.ids.contains(&(class as u32));
    // Nobody else can know a label that no other row has.
    let is_known = |class: usize| !has(class) || is_elsewhere(class);
    match problem_type {
        ProblemType::SingleLabel => {
            let order = |a: &usize, b: &usize| beliefs[*a].total_cmp(&beliefs[*b]);
            let best = (0..beliefs.len()).max_by(order).expect("a label");
            let belief = Some(target.id() as usize).filter(|label| is_known(*label)).map(|label| beliefs[label]);
            let is_doubtful = belief.is_some_and(|belief| beliefs[best] >= ODDS * belief);
            Judgement { belief, suggested: vec![best as u32], is_doubtful }
        }
        ProblemType::MultiLabel => {
            let of_label = |class: usize| if has(class) { beliefs[class] } else { 1.0 - beliefs[class] };
            let belief = (0..beliefs.len()).filter(|class| is_known(*class)).map(of_label).reduce(f64::min);
            let suggested = (0..beliefs.len()).filter(|class| beliefs[*class] >= 0.5).map(|class| class as u32);
            let is_doubtful = belief.is_some_and(|belief| 1.0 - belief >= ODDS * belief);
            Judgement { belief, suggested: suggested.collect(), is_doubtful }
        }
    }
}

/// Labels of one row each that are hardly told apart by `logits` `[rows][classes]`. Where a row may have several, labels that go
/// together are no fault.
fn alike(task: &LogisticRegression, logits: &[Vec<f32>], targets: &[&Target]) -> Vec<AlikeLabels> {
    if task.problem_type == ProblemType::MultiLabel {
        return Vec::new();
    }
    let mut by_label: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    targets.iter().enumerate().for_each(|(row, target)| by_label.entry(target.id() as usize).or_default().push(row));
    by_label.retain(|_, rows| rows.len() >= ALIKE_ROWS);
    let share = |own: usize, other: usize| {
        let rows = &by_label[&own];
        rows.iter().filter(|&&row| logits[row][own] > logits[row][other]).count() as f64 / rows.len() as f64
    };
    let labels: Vec<usize> = by_label.keys().copied().collect();
    let pairs = labels.iter().enumerate().flat_map(|(place, &a)| labels[place + 1..].iter().map(move |&b| [a, b]));
    let pair = |labels: [usize; 2]| {
        let [a, b] = labels;
        AlikeLabels { labels, told_apart: (share(a, b) + share(b, a)) / 2.0 }
    };
    let mut alike: Vec<AlikeLabels> = pairs.map(pair).filter(|pair| pair.told_apart <= ALIKE).collect();
    alike.sort_by(|a, b| a.told_apart.total_cmp(&b.told_apart));
    alike
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    /// Rows of unit length around as many directions as there are classes, `by_class` of each.
    fn clusters(classes: usize, by_class: usize) -> (Features, Vec<Target>) {
        let width = classes + 1;
        let mut values = Vec::new();
        let mut targets = Vec::new();
        for row in 0..classes * by_class {
            let class = row % classes;
            let mut vector = vec![0.0f32; width];
            vector[class] = 1.0;
            // Each a little to another side.
            vector[width - 1] = 0.05 * (row as f32 * 12.9898).sin();
            vector[(class + 1) % classes] = 0.3 * ((row as f32 * 78.233).sin() * 43758.547).fract().abs();
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            values.extend(vector.into_iter().map(|x| x / length));
            targets.push([class as u32].into());
        }
        (Features { values, width }, targets)
    }

    fn judge(problem_type: ProblemType, classes: usize, features: &Features, targets: &[Target]) -> LabelErrors {
        let task = LogisticRegression { problem_type, classes, class_weights: None };
        let mut steps_told = 0;
        let targets: Vec<&Target> = targets.iter().collect();
        let on_step = || {
            steps_told += 1;
            Ok(())
        };
        let found = label_errors(&task, features, &targets, 0, on_step).unwrap().unwrap();
        assert_eq!(steps_told, steps(targets.len()));
        found
    }

    /// The rows, the least believed first.
    fn order(found: &LabelErrors) -> Vec<usize> {
        let mut order: Vec<usize> = (0..found.rows.len()).collect();
        order.sort_by(|&a, &b| found.rows[a].by_belief(&found.rows[b]));
        order
    }

    #[test]
    fn folds_doubt_what_their_models_could_know() {
        let task = Tasks::single(3);
        let targets: Vec<Target> = (0..12).map(|row| [row % 3].into()).collect();
        let targets: Vec<&Target> = targets.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &targets, 3, 2, 0).unwrap();
        // Of the last row, which is said to be of label 2, its model says 0.
        let said = |row: usize| if row == 11 { 0 } else { row % 3 };
        let logits = (0..12).map(|row| (0..3).map(|label| if label == said(row) { 9.0 } else { 0.0 }).collect());
        let answers = OutOfFold { folds: folds.clone(), logits: logits.collect(), distances: Vec::new() };
        let judge = |rows: Vec<usize>| {
            let of_rows: Vec<&Target> = rows.iter().map(|&row| targets[row]).collect();
            judge_folds(&answers.of_task(task.first(), &rows), ProblemType::SingleLabel, &of_rows)
        };
        let all = judge((0..12).collect());
        assert_eq!(
            all.iter().map(|row| row.is_doubtful).collect::<Vec<_>>(),
            (0..12).map(|row| row == 11).collect::<Vec<_>>()
        );
        assert!(all[11].belief.unwrap() < 0.1 && all[11].suggested == [0], "{all:?}");
        // Without the rows of label 2 in the other fold its model cannot know that label.
        let is_known = |row: &usize| row % 3 != 2 || folds.of_row(*row) == folds.of_row(11);
        let last = judge((0..12).filter(is_known).collect()).pop().unwrap();
        assert_eq!((last.belief, last.is_doubtful), (None, false));
    }

    #[test]
    fn wrong_labels_are_the_least_believed() {
        let (features, mut targets) = clusters(3, 40);
        for row in [5, 60, 100] {
            targets[row] = [(targets[row].id() + 1) % 3].into();
        }
        let found = judge(ProblemType::SingleLabel, 3, &features, &targets);
        let mut least = order(&found)[..3].to_vec();
        least.sort_unstable();
        assert_eq!(least, [5, 60, 100]);
        for row in 0..120 {
            assert_eq!(found.rows[row].is_doubtful, least.contains(&row), "{row}: {:?}", found.rows[row]);
            assert_eq!(found.rows[row].suggested, [row as u32 % 3], "{row}");
        }
        // They lie among the others of their cluster.
        assert!(found.near.iter().all(|near| near.first < near.second && near.cosine >= NEAR));
        assert!(found.near.iter().all(|near| least.contains(&near.first) || least.contains(&near.second)));
        assert!(!found.near.is_empty() && found.near.is_sorted_by(|a, b| a.cosine >= b.cosine));
        assert_eq!(found.alike, []);
    }

    #[test]
    fn labels_of_one_meaning_are_found() {
        // The third label is the second by another name.
        let (features, mut targets) = clusters(2, 60);
        for (row, target) in targets.iter_mut().enumerate().filter(|(row, _)| row % 4 == 1) {
            *target = [1 + (row as u32 / 4) % 2].into();
        }
        let found = judge(ProblemType::SingleLabel, 3, &features, &targets);
        assert_eq!(found.alike.iter().map(|alike| alike.labels).collect::<Vec<_>>(), [[1, 2]], "{:?}", found.alike);
    }

    #[test]
    fn of_several_labels_each_is_judged() {
        let (features, mut targets) = clusters(2, 40);
        // Both labels, or none.
        targets.iter_mut().for_each(|target| target.ids = if target.id() == 0 { vec![0, 1] } else { vec![] });
        targets[10].ids = vec![0];
        targets[21].ids = vec![1];
        let found = judge(ProblemType::MultiLabel, 2, &features, &targets);
        let doubtful: Vec<usize> = (0..80).filter(|&row| found.rows[row].is_doubtful).collect();
        assert_eq!(doubtful, [10, 21]);
        assert_eq!((&found.rows[10].suggested, &found.rows[21].suggested), (&vec![0, 1], &vec![]));
    }

    #[test]
    fn what_nobody_else_can_know_is_not_doubted() {
        let (features, mut targets) = clusters(2, 40);
        targets[7] = [2].into();
        let found = judge(ProblemType::SingleLabel, 3, &features, &targets);
        assert_eq!((found.rows[7].belief, found.rows[7].is_doubtful, order(&found)[79]), (None, false, 7));
        // Another row that has it does not help if it counts for nothing.
        targets[9] = Target { weight: 0.0, ..[2].into() };
        assert_eq!(judge(ProblemType::SingleLabel, 3, &features, &targets).rows[7].belief, None);
        assert!(judge(ProblemType::SingleLabel, 3, &features, &targets).rows[9].belief.is_some());
        targets[7] = Target { ids: vec![1, 2], ..[1].into() };
        let found = judge(ProblemType::MultiLabel, 3, &features, &targets);
        assert!(found.rows[7].belief.is_some_and(|belief| belief > 0.5) && !found.rows[7].is_doubtful);
    }

    #[test]
    fn too_few_rows_are_not_judged() {
        let (features, targets) = clusters(3, 1);
        let task = LogisticRegression { problem_type: ProblemType::SingleLabel, classes: 3, class_weights: None };
        let targets: Vec<&Target> = targets.iter().collect();
        assert_eq!(label_errors(&task, &features, &targets, 0, || Ok(())).unwrap(), None);
    }
}
