//! Which texts to label next: such as a classifier is unsure of, as lie where many others do, and as are unlike each other and
//! those that are labelled.
//!
//! One after the other is chosen, by the product of three numbers: how near the two best labels are to each other, the mean cosine
//! with the nearest texts (Settles and Craven, "An analysis of active learning strategies for sequence labeling tasks", 2008), and the
//! distance to the nearest text that is labelled or chosen (Sener and Savarese, arXiv 1708.00489).

use nimbert::{Decision, ProblemType};
use rand::seq::{SliceRandom, index::sample};

use crate::{
    error::Result,
    features::{Features, products},
    logistic::LogisticRegression,
    loss::Target,
    metrics::is_hit,
    random::{Stream, generator},
    train::undecided,
};

/// Texts among which the nearest are looked for, at most, and which share of them is near.
const REFERENCES: usize = 2000;
const NEAREST: usize = 100;
/// Texts from this cosine on are taken for the same. Not less: a classifier that was trained draws what it says of the texts of a label
/// together, however they differ.
const SAME: f32 = 0.999;
/// scikit-learn's `C` of the simulation's regression: that of few rows.
const STRENGTH: f64 = 10.0;

/// Texts without labels.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// What the encoder says of each.
    pub features: &'a Features,
    /// How unsure the classifier is of it, 0 to 1.
    pub uncertainty: &'a [f32],
    /// What it says of those that are labelled; none is known: of no row.
    pub labelled: Option<&'a Features>,
}

/// How unsure scores are: of one label, how near the two best are; of any number, how near the most unsure one is to a half.
pub fn uncertainty(decision: &Decision, logits: &[f32]) -> f32 {
    let scores = decision.scores(logits);
    match decision.problem_type {
        ProblemType::SingleLabel => {
            let (mut best, mut second) = (0.0, 0.0);
            for score in scores {
                (best, second) = if score > best { (score, best) } else { (best, f32::max(second, score)) };
            }
            1.0 - (best - second)
        }
        ProblemType::MultiLabel => scores.iter().map(|score| 1.0 - (2.0 * score - 1.0).abs()).fold(0.0, f32::max),
    }
}

impl Pool<'_> {
    /// The texts to label, the most useful first: `count`, or less where all others are near-duplicates of these or of labelled ones.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn suggest(&self, count: usize, seed: u64) -> Result<Vec<usize>> {
        // Those of texts in several windows are shorter than 1.
        let (features, labelled) = (self.features.normalized(), self.labelled.map(Features::normalized));
        let pool = Pool { features: &features, labelled: labelled.as_ref(), ..*self };
        pool.suggest_of_unit(count, seed)
    }

    fn suggest_of_unit(&self, count: usize, seed: u64) -> Result<Vec<usize>> {
        let density = self.density(seed)?;
        let mut nearest = match self.labelled {
            Some(labelled) => nearest(self.features, labelled)?,
            None => vec![0.0; density.len()],
        };
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let score = |row: &usize| self.uncertainty[*row] * density[*row] * (1.0 - nearest[*row]);
            let others = (0..nearest.len()).filter(|&row| nearest[row] < SAME);
            let Some(best) = others.max_by(|a, b| score(a).total_cmp(&score(b)).then(b.cmp(a))) else { break };
            let cosine = |row: usize| dot(self.features.row(row), self.features.row(best));
            nearest.iter_mut().enumerate().for_each(|(row, nearest)| *nearest = nearest.max(cosine(row)));
            // Whatever rounding, or a vector of several windows, makes of its own.
            nearest[best] = 1.0;
            chosen.push(best);
        }
        Ok(chosen)
    }

    /// The mean cosine of each text with those that are nearest to it.
    fn density(&self, seed: u64) -> Result<Vec<f32>> {
        let rows = self.features.rows();
        let references = sample(&mut generator(seed, Stream::Suggest), rows, rows.min(REFERENCES)).into_vec();
        let near = references.len().div_ceil(NEAREST);
        let mut density = Vec::with_capacity(rows);
        let (all, some) = (self.features.tensor()?, self.features.select(&references).tensor()?);
        products(
            &all,
            &some,
            || Ok(()),
            |row, cosines| {
                let mut others: Vec<f32> = cosines
                    .iter()
                    .zip(&references)
                    .filter(|(_, other)| **other != row)
                    .map(|(cosine, _)| *cosine)
                    .collect();
                let near = near.min(others.len());
                others.sort_unstable_by(|a, b| b.total_cmp(a));
                // Of one text alone there is nothing to say.
                density.push(if near == 0 { 1.0 } else { others[..near].iter().sum::<f32>().max(0.0) / near as f32 });
            },
        )?;
        Ok(density)
    }
}

/// The highest cosine of each row with one of `others`.
fn nearest(features: &Features, others: &Features) -> Result<Vec<f32>> {
    let mut nearest = Vec::with_capacity(features.rows());
    let most = |_, cosines: &[f32]| nearest.push(cosines.iter().copied().fold(0.0, f32::max));
    products(&features.tensor()?, &others.tensor()?, || Ok(()), most)?;
    Ok(nearest)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How labelling is simulated: by rows whose labels are known, and logistic regression on their features.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    /// Rows that are labelled at once; the first ones are drawn at random.
    pub count: usize,
    /// How often.
    pub rounds: usize,
    /// Repetitions, each with other rows to begin with and to test.
    pub repetitions: u64,
    /// What is drawn follows from it.
    pub seed: u64,
}

/// What a simulation has found for one number of labels: means over all repetitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Labelled rows.
    pub labels: usize,
    /// Accuracy on held-out rows, where those that were labelled were drawn at random.
    pub random: f64,
    /// Where they were suggested.
    pub suggested: f64,
}

impl Simulation {
    /// Labels that the simulation takes.
    pub fn labels(&self) -> usize {
        self.count * self.rounds
    }

    /// The rows that it takes at least: a third is tested on.
    pub fn least_rows(&self) -> usize {
        self.labels() * 3 / 2 + 3
    }

    /// Of how many steps [`Simulation::run`] tells.
    pub fn steps(&self) -> usize {
        2 * self.rounds * self.repetitions as usize
    }

    /// Simulates on `features` of rows with these targets, a third of which is tested on. `on_step` is told of each of
    /// [`Simulation::steps`]; an error of its own ends the work.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_step`.
    pub fn run(
        &self,
        task: &LogisticRegression,
        features: &Features,
        targets: &[&Target],
        mut on_step: impl FnMut() -> Result<()>,
    ) -> Result<Vec<CurvePoint>> {
        let point = |round: usize| CurvePoint { labels: (round + 1) * self.count, random: 0.0, suggested: 0.0 };
        let mut curve: Vec<CurvePoint> = (0..self.rounds).map(point).collect();
        for repetition in 0..self.repetitions {
            let seed = self.seed.wrapping_add(repetition);
            let mut order: Vec<usize> = (0..targets.len()).collect();
            order.shuffle(&mut generator(seed, Stream::Suggest));
            let test = order.split_off(order.len() * 2 / 3);
            for suggests in [false, true] {
                let (mut labelled, mut pool) = (order[..self.count].to_vec(), order[self.count..].to_vec());
                for point in &mut curve {
                    let of = |rows: &[usize]| -> Vec<&Target> { rows.iter().map(|&row| targets[row]).collect() };
                    let linear = task.solve(&features.select(&labelled), &of(&labelled), STRENGTH)?;
                    let decision = undecided(task.problem_type);
                    let answers = linear.logits(&features.select(&test));
                    let right = answers
                        .iter()
                        .zip(&test)
                        .filter(|(logits, row)| is_hit(&decision, logits, &targets[**row].ids));
                    let share = right.count() as f64 / test.len() as f64 / self.repetitions as f64;
                    *(if suggests { &mut point.suggested } else { &mut point.random }) += share;
                    on_step()?;
                    let next: Vec<usize> = match suggests {
                        false => (0..self.count.min(pool.len())).collect(),
                        true => {
                            let unlabelled = features.select(&pool);
                            let logits = linear.logits(&unlabelled);
                            let unsure: Vec<f32> = logits.iter().map(|logits| uncertainty(&decision, logits)).collect();
                            let known = features.select(&labelled);
                            let pool = Pool { features: &unlabelled, uncertainty: &unsure, labelled: Some(&known) };
                            let mut next = pool.suggest(self.count, seed)?;
                            // Where only near-duplicates are left, of which none is suggested: as many labels as the other has.
                            let others = (0..unsure.len()).filter(|place| !next.contains(place));
                            let missing: Vec<usize> = others.take(self.count - next.len()).collect();
                            next.extend(missing);
                            next
                        }
                    };
                    labelled.extend(next.iter().map(|&place| pool[place]));
                    let mut places = next;
                    places.sort_unstable();
                    for place in places.into_iter().rev() {
                        pool.remove(place);
                    }
                }
            }
        }
        Ok(curve)
    }
}

/// With how many suggested labels, by interpolation, the accuracy is that of the most random ones; none: with more than them.
pub fn labels_for_the_same(curve: &[CurvePoint]) -> Option<f64> {
    let wanted = curve.last()?.random;
    let reached = curve.iter().position(|point| point.suggested >= wanted)?;
    let Some(before) = reached.checked_sub(1) else { return Some(curve[0].labels as f64) };
    let (low, high) = (curve[before], curve[reached]);
    let share = (wanted - low.suggested) / (high.suggested - low.suggested).max(f64::MIN_POSITIVE);
    Some(low.labels as f64 + share * (high.labels - low.labels) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of length 1 at these angles, in degrees.
    fn at(angles: &[f32]) -> Features {
        let values = angles.iter().flat_map(|angle| [angle.to_radians().cos(), angle.to_radians().sin()]).collect();
        Features { values, width: 2 }
    }

    #[test]
    fn what_is_unsure_and_unlike_the_others_comes_first() {
        let features = at(&[0.0, 1.0, 2.0, 40.0, 41.0, 80.0, 81.0]);
        let unsure = [0.9, 1.0, 0.9, 0.8, 0.5, 0.01, 0.02];
        let suggest = |labelled: Option<&Features>, count| {
            Pool { features: &features, uncertainty: &unsure, labelled }.suggest(count, 0).unwrap()
        };
        // The neighbours of one that is chosen say the same: less than was asked for comes.
        assert_eq!(suggest(None, 7), [1, 3, 6]);
        assert_eq!(suggest(Some(&at(&[0.5])), 1), [3]);
        assert_eq!(suggest(Some(&at(&[0.5, 40.5, 80.5])), 5), [0; 0]);
    }

    #[test]
    fn uncertainty_is_how_near_the_best_are() {
        let single = |logits: &[f32]| uncertainty(&undecided(ProblemType::SingleLabel), logits);
        assert!((single(&[1.0, 1.0, -9.0]) - 1.0).abs() < 1e-4 && single(&[9.0, 0.0, 0.0]) < 1e-3);
        let multiple = |logits: &[f32]| uncertainty(&undecided(ProblemType::MultiLabel), logits);
        assert!((multiple(&[0.0, 9.0]) - 1.0).abs() < 1e-4 && multiple(&[-9.0, 9.0]) < 1e-3);
    }

    #[test]
    fn labels_for_the_same_accuracy_are_interpolated() {
        let point = |labels, random, suggested| CurvePoint { labels, random, suggested };
        let curve = [point(10, 0.5, 0.5), point(20, 0.6, 0.7), point(30, 0.6, 0.8)];
        assert!((labels_for_the_same(&curve).unwrap() - 15.0).abs() < 1e-9);
        assert_eq!(labels_for_the_same(&[point(10, 0.5, 0.4)]), None);
    }

    #[test]
    fn a_simulation_begins_alike_and_takes_no_row_twice() {
        let angles: Vec<f32> = (0..90).map(|row| row as f32 * 2.0).collect();
        let features = at(&angles);
        let targets: Vec<Target> = angles.iter().map(|angle| [u32::from(*angle > 70.0)].into()).collect();
        let targets: Vec<&Target> = targets.iter().collect();
        let task = LogisticRegression { problem_type: ProblemType::SingleLabel, classes: 2, class_weights: None };
        let simulation = Simulation { count: 4, rounds: 4, repetitions: 3, seed: 0 };
        let mut steps = 0;
        let count = || {
            steps += 1;
            Ok(())
        };
        let curve = simulation.run(&task, &features, &targets, count).unwrap();
        assert_eq!((curve[0].random, steps), (curve[0].suggested, 24));
        assert_eq!(curve.iter().map(|point| point.labels).collect::<Vec<_>>(), [4, 8, 12, 16]);
        assert!(curve[3].suggested >= curve[3].random && curve[3].suggested > 0.9, "{curve:?}");
    }

    #[test]
    fn where_all_is_the_same_as_many_labels_are_given_as_at_random() {
        // Two texts, thirty times each, of whose labels a third is wrong: of one row each nothing is known.
        let angles: Vec<f32> = (0..60).map(|row| if row % 2 == 0 { 0.0 } else { 90.0 }).collect();
        let targets: Vec<Target> = (0..60u32).map(|row| [(row + u32::from(row % 3 == 0)) % 2].into()).collect();
        let targets: Vec<&Target> = targets.iter().collect();
        let task = LogisticRegression { problem_type: ProblemType::SingleLabel, classes: 2, class_weights: None };
        let simulation = Simulation { count: 4, rounds: 10, repetitions: 5, seed: 0 };
        let curve = simulation.run(&task, &at(&angles), &targets, || Ok(())).unwrap();
        let CurvePoint { random, suggested, .. } = curve[9];
        assert!((random - suggested).abs() < 1e-9 && curve[0].suggested < suggested, "{curve:?}");
    }
}
