//! What is answered to rows by models that have not seen them: the rows are dealt out to folds, and each fold is answered by a model
//! that has learned from the others.

use std::collections::BTreeSet;

use nimbert::{Decision, ProblemType};
use rand::seq::SliceRandom;

use crate::{
    calibrate::{Unseen, row_loss, temperature, unknown_threshold},
    loss::Target,
    metrics::{Metrics, hits},
    random::{Stream, generator},
    split::rarest_labels,
    tasks::{TaskLabels, Tasks},
    train::undecided,
};

/// Which rows are answered together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folds {
    count: usize,
    of_row: Vec<usize>,
    /// Whether the row has a weight.
    counts: Vec<bool>,
    /// Whether it has, and a model that has not seen it can know its labels.
    is_answerable: Vec<bool>,
}

/// A fold: what is learned from, and what is answered then. Both ascend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// The rows of all other folds.
    pub seen: Vec<usize>,
    /// Its own.
    pub unseen: Vec<usize>,
}

/// The answers to rows.
#[derive(Debug, Clone, PartialEq)]
pub struct OutOfFold {
    /// The folds.
    pub folds: Folds,
    /// `[rows][classes]`; nothing for a row that was not answered.
    pub logits: Vec<Vec<f32>>,
    /// Of each row from those that its fold has seen, divided by their spread ([`crate::mahalanobis::Mahalanobis::spread`]); empty where
    /// that was not asked for.
    pub distances: Vec<f32>,
}

/// A figure over the folds in which it is defined.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// As the report calls it.
    pub name: &'static str,
    /// Of the folds.
    pub mean: f64,
    /// The folds' sample standard deviation; none of one fold.
    pub deviation: Option<f64>,
}

impl Figure {
    /// By its values; none where there is none.
    fn of(name: &'static str, values: &[f64]) -> Option<Self> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
        (!values.is_empty()).then_some(Self { name, mean, deviation })
    }
}

impl Folds {
    /// Deals out the rows, each label's evenly, those of several by their rarest one, at random: to `count` folds, or less where there
    /// are not that many rows with a weight for each label on average, a row of several tasks counting for each, or not that many texts.
    /// None where there are not two. Rows without a weight are dealt out by themselves.
    pub fn new(
        problem_type: ProblemType,
        targets: &[&Target],
        classes: usize,
        count: usize,
        seed: u64,
    ) -> Option<Self> {
        let each: Vec<usize> = (0..targets.len()).collect();
        Self::of_copies(problem_type, targets, &each, classes, count, seed)
    }

    /// The same of rows some of which are the same text: by row, the first one with that text, whose fold is theirs. A model that was
    /// shown the text would know it by heart.
    pub fn of_copies(
        problem_type: ProblemType,
        targets: &[&Target],
        originals: &[usize],
        classes: usize,
        count: usize,
        seed: u64,
    ) -> Option<Self> {
        let counts: Vec<bool> = targets.iter().map(|target| target.weight > 0.0).collect();
        let weighted = targets.iter().filter(|target| target.weight > 0.0);
        let answers: usize = match problem_type {
            ProblemType::SingleLabel => weighted.map(|target| target.ids.len()).sum(),
            ProblemType::MultiLabel => weighted.count(),
        };
        let is_original = |row: &usize| originals[*row] == *row;
        let texts =
            (0..targets.len()).filter(|&row| counts[row]).map(|row| originals[row]).collect::<BTreeSet<_>>().len();
        let count = count.min(answers / classes.max(1)).min(texts);
        if count < 2 {
            return None;
        }
        let labels = rarest_labels(targets.iter().copied(), classes);
        // A text's first row that has a weight, or else its first.
        let mut shown: Vec<usize> = (0..labels.len()).collect();
        (0..labels.len()).rev().filter(|&row| counts[row]).for_each(|row| shown[originals[row]] = row);
        let kind = |row: usize| (counts[shown[row]], labels[shown[row]]);
        let mut order: Vec<usize> = (0..labels.len()).filter(is_original).collect();
        order.shuffle(&mut generator(seed, Stream::Folds));
        order.sort_by_key(|&row| kind(row));
        let mut of_row = vec![0; labels.len()];
        // One after the other over all labels, so that the folds are of one size too.
        order.iter().enumerate().for_each(|(place, &row)| of_row[row] = place % count);
        let of_row: Vec<usize> = originals.iter().map(|&original| of_row[original]).collect();
        let mut folds_of_label = vec![BTreeSet::new(); classes];
        for row in (0..labels.len()).filter(|&row| counts[row]) {
            for &label in &targets[row].ids {
                folds_of_label[label as usize].insert(of_row[row]);
            }
        }
        let is_elsewhere = |label: &u32| folds_of_label[*label as usize].len() > 1;
        let is_answerable = |row: usize| match problem_type {
            ProblemType::SingleLabel => counts[row] && targets[row].ids.iter().all(is_elsewhere),
            ProblemType::MultiLabel => counts[row],
        };
        let is_answerable = (0..labels.len()).map(is_answerable).collect();
        Some(Self { count, of_row, counts, is_answerable })
    }

    /// Those of some rows.
    fn select(&self, rows: &[usize]) -> Self {
        let of = |values: &[bool]| rows.iter().map(|&row| values[row]).collect();
        let of_row = rows.iter().map(|&row| self.of_row[row]).collect();
        Self { count: self.count, of_row, counts: of(&self.counts), is_answerable: of(&self.is_answerable) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Fold> + '_ {
        (0..self.count).map(|fold| {
            let (unseen, seen) = (0..self.of_row.len()).partition(|&row| self.of_row[row] == fold);
            Fold { seen, unseen }
        })
    }

    /// The fold of a row, counted from 0.
    pub fn of_row(&self, row: usize) -> usize {
        self.of_row[row]
    }

    /// Whether the row has a weight.
    pub fn counts(&self, row: usize) -> bool {
        self.counts[row]
    }

    /// Whether it has, and a model that has not seen the row can know its labels: whether rows of other folds have them.
    pub fn is_answerable(&self, row: usize) -> bool {
        self.is_answerable[row]
    }

    /// No answer to any row.
    pub fn unanswered(&self) -> OutOfFold {
        OutOfFold { folds: self.clone(), logits: vec![Vec::new(); self.of_row.len()], distances: Vec::new() }
    }

    /// The answers of what `learn` makes of each fold: the logits of what it has not seen, in order; as long as `is_worthwhile` says so
    /// of what was answered before.
    ///
    /// # Errors
    /// Those of `learn`.
    pub fn answers<E>(
        &self,
        is_worthwhile: impl Fn(&[Vec<f32>]) -> bool,
        mut learn: impl FnMut(&Fold) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<OutOfFold, E> {
        let mut all = self.unanswered();
        for fold in self.iter() {
            if !is_worthwhile(&all.logits) {
                break;
            }
            let answers = learn(&fold)?;
            fold.unseen.iter().zip(answers).for_each(|(&row, answer)| all.logits[row] = answer);
        }
        Ok(all)
    }
}

impl OutOfFold {
    /// The answers to one task, without distances, of these rows.
    pub fn of_task(&self, task: &TaskLabels, rows: &[usize]) -> Self {
        Self {
            folds: self.folds.select(rows),
            logits: rows.iter().map(|&row| self.logits[row][task.ids.clone()].to_vec()).collect(),
            distances: Vec::new(),
        }
    }

    /// Which rows got just their labels.
    pub fn hits(&self, problem_type: ProblemType, targets: &[&Target]) -> Vec<bool> {
        hits(&undecided(problem_type), &self.logits, targets.iter().map(|target| target.ids.as_slice()))
    }

    /// Their share. As in all figures, every row counts once, whatever its weight.
    pub fn accuracy(&self, problem_type: ProblemType, targets: &[&Target]) -> f64 {
        let hits = self.hits(problem_type, targets);
        hits.iter().filter(|is_hit| **is_hit).count() as f64 / hits.len().max(1) as f64
    }

    /// The rows whose labels a model could know.
    pub fn answerable_rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.logits.len()).filter(|&row| self.folds.is_answerable(row))
    }

    /// The answers to the rows whose label a model could know: what scores are calibrated by. Distances are those of a model whose
    /// rows have this `spread`.
    pub fn answerable<'a>(&self, targets: &[&'a Target], spread: f32) -> Unseen<'a> {
        let rows: Vec<usize> = self.answerable_rows().collect();
        Unseen {
            logits: rows.iter().map(|&row| self.logits[row].clone()).collect(),
            labels: rows.iter().map(|&row| targets[row].ids.as_slice()).collect(),
            distances: rows.iter().filter_map(|&row| self.distances.get(row)).map(|far| far * spread).collect(),
        }
    }

    /// The share of each fold's rows that is unknown where the other folds' distances say what is, so that the share `rate` is asked for;
    /// none where there are no distances, or too few.
    pub fn unknown(&self, rate: f64) -> Option<Figure> {
        let far = |is_counted: &dyn Fn(usize) -> bool| -> Vec<f32> {
            let rows = self.answerable_rows().filter(|&row| is_counted(self.folds.of_row(row)));
            rows.filter_map(|row| self.distances.get(row)).copied().collect()
        };
        let of_fold = |fold: usize| {
            let own = far(&|of_row| of_row == fold);
            let threshold = unknown_threshold(&far(&|of_row| of_row != fold), rate)?;
            let unknown = own.iter().filter(|distance| **distance > threshold).count();
            (!own.is_empty()).then(|| unknown as f64 / own.len() as f64)
        };
        Figure::of("unknown", &(0..self.folds.count()).filter_map(of_fold).collect::<Vec<_>>())
    }

    /// Whether the shares of [`OutOfFold::unknown`] deviate by more than the one that is asked for, besides what folds that do not differ
    /// deviate by chance.
    pub fn differ_by_more_than(&self, rate: f64) -> bool {
        let rows = self.answerable_rows().count() as f64 / self.folds.count() as f64;
        let chance = (rate * (1.0 - rate) / rows).sqrt();
        self.unknown(rate).and_then(|figure| figure.deviation).is_some_and(|deviation| deviation > rate + chance)
    }

    /// How many rows have a weight, but a label that no other fold has, so that no model can know it.
    pub fn unanswerable(&self) -> usize {
        (0..self.logits.len()).filter(|&row| self.folds.counts(row) && !self.folds.is_answerable(row)).count()
    }

    /// How scores follow from logits: by the temperature that fits best. Of several labels each holds from a score of 0.5 on: thresholds
    /// that were found by these very rows would flatter.
    pub fn decision(&self, problem_type: ProblemType, targets: &[&Target]) -> Decision {
        let Unseen { logits, labels, .. } = self.answerable(targets, 1.0);
        Decision { temperature: temperature(problem_type, &logits, &labels), ..undecided(problem_type) }
    }

    /// Every figure that is defined in some fold, by [`OutOfFold::decision`].
    pub fn figures(&self, labels: &[String], problem_type: ProblemType, targets: &[&Target]) -> Vec<Figure> {
        type Of = fn(&Metrics) -> Option<f64>;
        let decision = self.decision(problem_type, targets);
        let of_fold = |Fold { unseen, .. }: Fold| {
            let expected: Vec<&[u32]> = unseen.iter().map(|&row| targets[row].ids.as_slice()).collect();
            let scores: Vec<Vec<f32>> = unseen.iter().map(|&row| decision.scores(&self.logits[row])).collect();
            Metrics::new(labels, &decision, &expected, &scores)
        };
        // Of a task a fold may have no row.
        let metrics: Vec<Metrics> = self.folds.iter().filter(|fold| !fold.unseen.is_empty()).map(of_fold).collect();
        let figures: [(&str, Of); 7] = [
            ("accuracy", |metrics| Some(metrics.accuracy)),
            ("macro F1", |metrics| metrics.macro_f1),
            ("micro F1", |metrics| metrics.micro_f1),
            ("weighted F1", |metrics| metrics.weighted_f1),
            ("Matthews' correlation", |metrics| metrics.mcc),
            ("ROC-AUC", |metrics| metrics.roc_auc),
            ("calibration error", |metrics| Some(metrics.ece)),
        ];
        let figure =
            |(name, of): (&'static str, Of)| Figure::of(name, &metrics.iter().filter_map(of).collect::<Vec<_>>());
        figures.into_iter().filter_map(figure).collect()
    }

    /// The mean negative log-likelihood of labels that can be known, after the best temperature: how much the scores say.
    pub fn loss(&self, problem_type: ProblemType, targets: &[&Target]) -> f64 {
        let Unseen { logits, labels, .. } = self.answerable(targets, 1.0);
        log_loss(problem_type, &logits, &labels)
    }
}

/// The share of `logits` that give just their rows' labels, and the mean negative log-likelihood of these, after the best temperature.
/// Rows without a weight do not count. Of several tasks it is the share of all answers that are asked for, and the losses are summed.
pub fn judge(tasks: &Tasks, problem_type: ProblemType, logits: &[Vec<f32>], targets: &[&Target]) -> (f64, f64) {
    let counted = logits.iter().zip(targets).filter(|(_, target)| target.weight > 0.0);
    let (logits, labels): (Vec<Vec<f32>>, Vec<&[u32]>) =
        counted.map(|(logits, target)| (logits.clone(), target.ids.as_slice())).unzip();
    let right = tasks.hits(&undecided(problem_type), &logits, labels.iter().copied());
    let of_tasks = tasks.rows(&logits, &labels);
    let loss = of_tasks.iter().map(|of_task| log_loss(problem_type, &of_task.logits, &of_task.ids())).sum();
    (right as f64 / tasks.answers(labels).max(1) as f64, loss)
}

fn log_loss(problem_type: ProblemType, logits: &[Vec<f32>], labels: &[&[u32]]) -> f64 {
    let temperature = f64::from(temperature(problem_type, logits, labels));
    let rows = logits.iter().zip(labels);
    let sum: f64 = rows.map(|(logits, labels)| row_loss(problem_type, logits, labels, temperature)).sum();
    sum / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(labels: &[u32]) -> Vec<Target> {
        labels.iter().map(|&label| [label].into()).collect()
    }

    #[test]
    fn labels_are_dealt_out_evenly_and_every_row_is_answered_once() {
        let targets = targets(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]);
        let targets: Vec<&Target> = targets.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &targets, 3, 3, 0).unwrap();
        for Fold { seen, unseen } in folds.iter() {
            assert_eq!(unseen.iter().filter(|&&row| targets[row].id() == 0).count(), 2);
            assert_eq!(unseen.iter().filter(|&&row| targets[row].id() == 1).count(), 1);
            assert!(unseen.len() >= 3 && seen.len() + unseen.len() == 10);
        }
        // Nobody else has the last label.
        assert!((0..10).all(|row| folds.is_answerable(row) == (row < 9)));
        assert_eq!(folds.unanswered().unanswerable(), 1);
        let learn = |fold: &Fold| -> Result<_, ()> { Ok(fold.unseen.iter().map(|&row| vec![row as f32]).collect()) };
        let answers = folds.answers(|_| true, learn);
        assert_eq!(answers.unwrap().logits, (0..10).map(|row| vec![row as f32]).collect::<Vec<_>>());
        // The first fold is answered, and what is left out has no answer.
        let answers = folds.answers(|answered| answered.iter().all(Vec::is_empty), learn).unwrap();
        assert!((0..10).all(|row| answers.logits[row].is_empty() == (folds.of_row(row) > 0)));
        // As many folds as labels have rows.
        let folds = |rows| Folds::new(ProblemType::SingleLabel, &targets[..rows], 3, 5, 0).map(|folds| folds.count());
        assert_eq!([3, 6, 10].map(folds), [None, Some(2), Some(3)]);
    }

    #[test]
    fn the_same_text_is_in_one_fold() {
        let targets = targets(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let targets: Vec<&Target> = targets.iter().collect();
        // Each text stands there three times, once with the other label.
        let originals = [0, 1, 0, 3, 4, 5, 0, 1, 4, 3, 5, 4];
        let folds = |count| Folds::of_copies(ProblemType::SingleLabel, &targets, &originals, 2, count, 0).unwrap();
        for count in [2, 3] {
            let folds = folds(count);
            assert!((0..12).all(|row| folds.of_row(row) == folds.of_row(originals[row])));
            assert!(folds.count() == count && folds.iter().all(|fold| !fold.unseen.is_empty()));
        }
        // No more folds than texts.
        assert_eq!(folds(6).count(), 5);
        let one = Folds::of_copies(ProblemType::SingleLabel, &targets, &[0; 12], 2, 2, 0);
        assert!(one.is_none());
    }

    #[test]
    fn of_several_tasks_each_has_the_rows_that_know_of_it() {
        let tasks = Tasks::of(&["a".into(), "b".into()], &["a=x", "a=y", "b=x", "b=y"].map(String::from));
        // Of the second task the first two rows have a label, one of which nobody else has.
        let rows: Vec<Target> = [&[0u32, 2][..], &[0, 3], &[1], &[1], &[0], &[1]]
            .map(|ids| Target { ids: ids.to_vec(), ..[0].into() })
            .into();
        let rows: Vec<&Target> = rows.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &rows, 4, 3, 0).unwrap();
        // Eight labels of four are two for each; six rows would be one.
        assert_eq!(folds.count(), 2);
        assert_eq!(
            (0..6).map(|row| folds.is_answerable(row)).collect::<Vec<_>>(),
            [false, false, true, true, true, true]
        );
        let logits: Vec<Vec<f32>> =
            rows.iter().map(|row| (0..4).map(|id| f32::from(row.ids.contains(&id))).collect()).collect();
        let answers = OutOfFold { folds, logits, distances: Vec::new() };
        let [first, second] = [0, 1].map(|task| {
            let task = tasks.iter().nth(task).unwrap();
            let (of_task, targets) = task.targets(rows.iter().copied());
            (answers.of_task(task, &of_task), targets)
        });
        assert_eq!((first.0.logits.len(), second.0.logits.as_slice()), (6, &[vec![1.0, 0.0], vec![0.0, 1.0]][..]));
        assert_eq!(second.1.iter().map(|target| target.ids.as_slice()).collect::<Vec<_>>(), [[0], [1]]);
        // Six answers are asked for to the one task and two to the other; one of each is made wrong.
        let mut wrong = answers.logits.clone();
        [wrong[0][0], wrong[0][1]] = [0.0, 9.0];
        let judged = |logits: &[Vec<f32>]| judge(&tasks, ProblemType::SingleLabel, logits, &rows);
        let (all, of_wrong) = (judged(&answers.logits), judged(&wrong));
        assert_eq!((all.0, of_wrong.0), (1.0, 7.0 / 8.0));
        let losses = [&first, &second].map(|(answers, targets)| {
            log_loss(
                ProblemType::SingleLabel,
                &answers.logits,
                &targets.iter().map(|target| target.ids.as_slice()).collect::<Vec<_>>(),
            )
        });
        assert!((all.1 - losses[0] - losses[1]).abs() < 1e-9 && of_wrong.1 > all.1, "{all:?} {of_wrong:?} {losses:?}");
        for (answers, targets) in [first, second] {
            // A fold that has no row of the task is not counted as wrong.
            let labels = ["x", "y"].map(String::from);
            let figures = answers.figures(&labels, ProblemType::SingleLabel, &targets.iter().collect::<Vec<_>>());
            assert_eq!((figures[0].name, figures[0].mean), ("accuracy", 1.0));
        }
    }

    #[test]
    fn a_fold_that_lies_elsewhere_is_seen_in_what_is_unknown() {
        let targets = targets(&[0, 1].repeat(40));
        let targets: Vec<&Target> = targets.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &targets, 2, 2, 0).unwrap();
        let distances = |shift: f32| {
            let place = |row: usize| (0..row).filter(|&other| folds.of_row(other) == folds.of_row(row)).count() as f32;
            (0..80).map(|row| place(row) + shift * folds.of_row(row) as f32).collect()
        };
        let answers = |distances| OutOfFold { folds: folds.clone(), logits: vec![vec![0.0, 0.0]; 80], distances };
        // Of 40 rows the share of 0.1 is above the fourth largest; those of the other fold are as far away.
        let alike = answers(distances(0.0));
        let figure = alike.unknown(0.1).unwrap();
        assert_eq!((figure.name, figure.mean, figure.deviation), ("unknown", 0.075, Some(0.0)));
        // All are further away, or none.
        let elsewhere = answers(distances(100.0));
        let figure = elsewhere.unknown(0.1).unwrap();
        assert_eq!((figure.mean, figure.deviation), (0.5, Some(0.5f64.sqrt())));
        assert!(elsewhere.differ_by_more_than(0.1) && !alike.differ_by_more_than(0.1));
        // Of the model that ships they are as far as its rows lie apart.
        assert_eq!(alike.answerable(&targets, 3.0).distances[79], 3.0 * alike.distances[79]);
        assert_eq!((alike.unknown(0.01), answers(Vec::new()).unknown(0.1)), (None, None));
    }

    #[test]
    fn rows_without_a_weight_decide_nothing() {
        let mut rows = targets(&[0, 0, 1, 1, 0, 1]);
        rows[4..].iter_mut().for_each(|target| target.weight = 0.0);
        let rows: Vec<&Target> = rows.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &rows, 2, 2, 0).unwrap();
        // Both folds have a row of each label that counts.
        for Fold { unseen, .. } in folds.iter() {
            let mut labels: Vec<u32> = unseen.iter().filter(|row| **row < 4).map(|&row| rows[row].id()).collect();
            labels.sort_unstable();
            assert_eq!(labels, [0, 1]);
        }
        let right = |row: usize| if rows[row].id() == 0 { vec![2.0, 0.0] } else { vec![0.0, 2.0] };
        let mut logits: Vec<Vec<f32>> = (0..6).map(right).collect();
        logits[4..].iter_mut().for_each(|logits| logits.reverse());
        let answers = OutOfFold { folds, logits, distances: Vec::new() };
        // They are wrong, which is seen in a figure, but neither in the temperature nor in the loss.
        assert_eq!(answers.accuracy(ProblemType::SingleLabel, &rows), 4.0 / 6.0);
        assert!(answers.loss(ProblemType::SingleLabel, &rows) < 0.2);
        assert_eq!(Folds::new(ProblemType::SingleLabel, &rows, 2, 3, 0).unwrap().count(), 2);
    }

    #[test]
    fn figures_computed_by_hand() {
        let targets = targets(&[0, 1, 0, 1]);
        let targets: Vec<&Target> = targets.iter().collect();
        let folds = Folds::new(ProblemType::SingleLabel, &targets, 2, 2, 0).unwrap();
        let logits = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 3.0]].map(Vec::from).into();
        let answers = OutOfFold { folds, logits, distances: Vec::new() };
        assert_eq!(answers.hits(ProblemType::SingleLabel, &targets), [true, true, false, true]);
        assert_eq!(answers.accuracy(ProblemType::SingleLabel, &targets), 0.75);
        let labels = ["a", "b"].map(String::from);
        let figures = answers.figures(&labels, ProblemType::SingleLabel, &targets);
        // One fold is all right, half of the other is.
        let deviation = figures[0].deviation.unwrap();
        assert!(figures[0].name == "accuracy" && figures[0].mean == 0.75, "{figures:?}");
        assert!((deviation - 0.125f64.sqrt()).abs() < 1e-12, "{deviation}");
        // Never worse than not to say anything.
        let loss = answers.loss(ProblemType::SingleLabel, &targets);
        assert!(loss > 0.3 && loss < 2.0f64.ln(), "{loss}");
    }
}
