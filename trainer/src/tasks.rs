//! Several tasks that share one encoder and one run, such as what a text is about, and in which tone.
//!
//! Where a model is trained and judged, the labels of all tasks stand one after the other, each called `task=label`. A row has one
//! label of each task, or, where it lacks that, none. A classifier of one task, which has no name, is the case that most are: its
//! rows may have any number of labels.

use std::ops::Range;

use candle_core::Tensor;
use nimbert::{Decision, Task, prediction::Answer};

use crate::{
    error::Result,
    loss::{Loss, Target},
    metrics::is_hit,
};

/// Stands between the names of a task and its label.
pub const SEPARATOR: char = '=';

/// What the labels of a task begin with; those of one without a name with nothing.
pub fn label_prefix(task: Option<&str>) -> String {
    task.map_or(String::new(), |task| format!("{task}{SEPARATOR}"))
}

/// Which labels are those of which task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tasks(Vec<TaskLabels>);

/// The labels of one task, among those of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLabels {
    /// What the task is called; none where there is one only.
    pub name: Option<String>,
    /// The ids of its labels.
    pub ids: Range<usize>,
}

/// The rows that have a label of a task, as that task sees them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskRows {
    /// Which they are.
    pub rows: Vec<usize>,
    /// `[rows][labels of the task]`
    pub logits: Vec<Vec<f32>>,
    /// Ids, counted from the task's first label.
    pub labels: Vec<Vec<u32>>,
}

impl TaskRows {
    /// The scores of each row.
    pub fn scores(&self, decision: &Decision) -> Vec<Vec<f32>> {
        self.logits.iter().map(|logits| decision.scores(logits)).collect()
    }

    /// The ids of each row.
    pub fn ids(&self) -> Vec<&[u32]> {
        self.labels.iter().map(Vec::as_slice).collect()
    }
}

/// What a row says of a task: one that says nothing is not counted.
fn counted_target(task: &TaskLabels, target: &Target) -> Target {
    match task.target(target) {
        Target { ids, shares: None, .. } if ids.is_empty() => Target { weight: 0.0, ..[0].into() },
        of_task => of_task,
    }
}

impl TaskLabels {
    /// What a label is called within its task.
    pub fn plain<'a>(&self, label: &'a str) -> &'a str {
        label.strip_prefix(&label_prefix(self.name.as_deref())).unwrap_or(label)
    }

    /// What is minimized for this task.
    fn loss(&self, loss: &Loss) -> Loss {
        let class_weights = loss.class_weights.as_ref().map(|weights| weights[self.ids.clone()].to_vec());
        Loss { class_weights, ..loss.clone() }
    }

    /// Of `logits` `[rows, labels]` those of this task.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub(crate) fn logits(&self, logits: &Tensor) -> Result<Tensor> {
        Ok(logits.narrow(1, self.ids.start, self.ids.len())?)
    }

    /// The same of rows of them.
    pub(crate) fn logits_of(&self, logits: &[Vec<f32>]) -> Vec<Vec<f32>> {
        logits.iter().map(|logits| logits[self.ids.clone()].to_vec()).collect()
    }

    /// Whether a row's label of this task is the one that its logits of all tasks give.
    fn is_hit(&self, decision: &Decision, logits: &[f32], ids: &[u32]) -> bool {
        self.is_answered(ids) && is_hit(decision, &logits[self.ids.clone()], &self.ids_of(ids))
    }

    /// For how many rows it is.
    pub(crate) fn hits(&self, decision: &Decision, logits: &[Vec<f32>], labels: &[&[u32]]) -> usize {
        logits.iter().zip(labels).filter(|(logits, ids)| self.is_hit(decision, logits, ids)).count()
    }

    /// The ids of the row's labels of this task, counted from its first.
    fn ids_of(&self, ids: &[u32]) -> Vec<u32> {
        let of_task = ids.iter().filter(|id| self.ids.contains(&(**id as usize)));
        of_task.map(|id| id - self.ids.start as u32).collect()
    }

    /// The rows that say anything of the task, and what they say, counted from its first label.
    pub fn targets<'a>(&self, targets: impl IntoIterator<Item = &'a Target>) -> (Vec<usize>, Vec<Target>) {
        let answered = targets.into_iter().enumerate().filter(|(_, target)| self.is_answered(&target.ids));
        answered.map(|(row, target)| (row, self.target(target))).unzip()
    }

    /// What the row says of the task, counted from its first label.
    fn target(&self, target: &Target) -> Target {
        let shares = target.shares.as_ref().map(|shares| shares[self.ids.clone()].to_vec());
        Target { ids: self.ids_of(&target.ids), shares, weight: target.weight }
    }

    /// Whether the row says anything of the task. Where there is one only, no label is an answer too.
    pub(crate) fn is_answered(&self, ids: &[u32]) -> bool {
        self.name.is_none() || ids.iter().any(|id| self.ids.contains(&(*id as usize)))
    }
}

impl Tasks {
    /// One task, of so many labels.
    pub fn single(labels: usize) -> Self {
        Self(vec![TaskLabels { name: None, ids: 0..labels }])
    }

    /// Those of these names, whose labels stand in `labels` in the same order; none: one task.
    pub fn of(names: &[String], labels: &[String]) -> Self {
        if names.is_empty() {
            return Self::single(labels.len());
        }
        let mut end = 0;
        let mut task = |name: &String| {
            let prefix = label_prefix(Some(name));
            let start = end;
            end += labels[start..].iter().take_while(|label| label.starts_with(&prefix)).count();
            TaskLabels { name: Some(name.clone()), ids: start..end }
        };
        Self(names.iter().map(&mut task).collect())
    }

    /// Those of a bundle, and what their labels are called here.
    pub fn of_bundle(tasks: &[Task]) -> (Self, Vec<String>) {
        let names: Vec<String> = tasks.iter().filter_map(|task| task.name.clone()).collect();
        let of_task = |task: &Task| {
            let prefix = label_prefix(task.name.as_deref());
            task.labels.iter().map(|label| format!("{prefix}{label}")).collect::<Vec<_>>()
        };
        let labels: Vec<String> = tasks.iter().flat_map(of_task).collect();
        (Self::of(&names, &labels), labels)
    }

    /// Each of them, in their order; at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, TaskLabels> {
        self.0.iter()
    }

    /// The first.
    pub fn first(&self) -> &TaskLabels {
        &self.0[0]
    }

    /// Whether there is one only.
    pub fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// Checks the loss's settings for each.
    ///
    /// # Errors
    /// Those of [`Loss::validate`].
    pub fn validate(&self, loss: &Loss) -> Result<()> {
        let all = self.0.last().map_or(0, |task| task.ids.end);
        if self.is_single() || loss.class_weights.as_ref().is_some_and(|weights| weights.len() != all) {
            return loss.validate(all);
        }
        self.iter().try_for_each(|task| task.loss(loss).validate(task.ids.len()))
    }

    /// The rows of each task, of `logits` and the ids of the rows' labels.
    pub fn rows(&self, logits: &[Vec<f32>], labels: &[&[u32]]) -> Vec<TaskRows> {
        let of_task = |task: &TaskLabels| {
            let mut of_task = TaskRows::default();
            for (row, (logits, ids)) in
                logits.iter().zip(labels).enumerate().filter(|(_, (_, ids))| task.is_answered(ids))
            {
                of_task.rows.push(row);
                of_task.logits.push(logits[task.ids.clone()].to_vec());
                of_task.labels.push(task.ids_of(ids));
            }
            of_task
        };
        self.iter().map(of_task).collect()
    }

    /// An answer of a graph, from the logits of all tasks.
    pub fn answer(&self, logits: &[f32], distance: Option<f32>) -> Answer {
        let mut of_tasks = self.iter().map(|task| logits[task.ids.clone()].to_vec());
        let first = of_tasks.next().expect("a classifier has a task");
        Answer { logits: first, further: of_tasks.collect(), distance }
    }

    /// How many answers are asked for: one a row and task, but for those that are missing.
    pub fn answers<'a>(&self, labels: impl IntoIterator<Item = &'a [u32]>) -> usize {
        labels.into_iter().map(|ids| self.iter().filter(|task| task.is_answered(ids)).count()).sum()
    }

    /// How many of them are right by `logits`.
    pub fn hits<'a>(
        &self,
        decision: &Decision,
        logits: &[Vec<f32>],
        labels: impl IntoIterator<Item = &'a [u32]>,
    ) -> usize {
        let of_row = |(logits, ids): (&Vec<f32>, &'a [u32])| {
            self.iter().filter(|task| task.is_hit(decision, logits, ids)).count()
        };
        logits.iter().zip(labels).map(of_row).sum()
    }

    /// The share of the rows that get the same label of every task, or the same labels.
    pub(crate) fn agreement(&self, decision: &Decision, logits: &[Vec<f32>], reference: &[Vec<f32>]) -> f64 {
        let same = self.changes(decision, logits, reference).filter(|changes| *changes == 0).count();
        same as f64 / reference.len().max(1) as f64
    }

    /// How many answers, one a row and task, are other labels than by `reference`.
    pub(crate) fn changed(&self, decision: &Decision, logits: &[Vec<f32>], reference: &[Vec<f32>]) -> usize {
        self.changes(decision, logits, reference).sum()
    }

    /// How many answers of each row are other labels than by `reference`.
    fn changes<'a>(
        &'a self,
        decision: &'a Decision,
        logits: &'a [Vec<f32>],
        reference: &'a [Vec<f32>],
    ) -> impl Iterator<Item = usize> {
        let labels = |logits: &[f32]| decision.label_ids(&decision.scores(logits));
        let of_row = move |(a, b): (&Vec<f32>, &Vec<f32>)| {
            self.iter().filter(|task| labels(&a[task.ids.clone()]) != labels(&b[task.ids.clone()])).count()
        };
        logits.iter().zip(reference).map(of_row)
    }

    /// By what the sums over a step's rows are divided, by task ([`Loss::counted`]).
    pub(crate) fn counted(&self, loss: &Loss, targets: &[&Target]) -> Vec<f32> {
        if self.is_single() {
            return vec![loss.counted(targets)];
        }
        let of_task = |task: &TaskLabels| {
            let targets: Vec<Target> = targets.iter().map(|target| counted_target(task, target)).collect();
            task.loss(loss).counted(&targets.iter().collect::<Vec<_>>())
        };
        self.iter().map(of_task).collect()
    }

    /// The sum of the tasks' losses, each the mean over the rows that have a label of it: of `logits` `[rows, labels]`, a scalar. Of some
    /// of a step's rows, what they have of its loss, where all of them are `counted` so.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub(crate) fn loss(&self, loss: &Loss, logits: &Tensor, targets: &[&Target], counted: &[f32]) -> Result<Tensor> {
        if self.is_single() {
            return loss.part(logits, targets, counted[0]);
        }
        let mut counted = counted.iter();
        self.sum(|task| {
            let targets: Vec<Target> = targets.iter().map(|target| counted_target(task, target)).collect();
            let targets: Vec<&Target> = targets.iter().collect();
            task.loss(loss).part(&task.logits(logits)?, &targets, *counted.next().expect("one a task"))
        })
    }

    /// The sum of what each task has, scalars.
    ///
    /// # Errors
    /// Those of `of_task`; [`crate::Error::Tensor`].
    pub(crate) fn sum(&self, of_task: impl FnMut(&TaskLabels) -> Result<Tensor>) -> Result<Tensor> {
        let mut of_tasks = self.iter().map(of_task);
        let first = of_tasks.next().expect("a classifier has a task")?;
        of_tasks.try_fold(first, |sum, of_task| Ok((sum + of_task?)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use nimbert::ProblemType;

    use super::*;
    use crate::train::undecided;

    fn tasks() -> Tasks {
        let labels = ["a=x", "a=y", "ab=x", "ab=y", "ab=z"].map(String::from);
        Tasks::of(&["a".into(), "ab".into()], &labels)
    }

    #[test]
    fn labels_belong_to_the_task_whose_name_stands_before_them() {
        let tasks = tasks();
        assert_eq!(tasks.iter().map(|task| task.ids.clone()).collect::<Vec<_>>(), [0..2, 2..5]);
        assert_eq!((tasks.0[1].plain("ab=x=1"), Tasks::single(2).first().plain("ab=x")), ("x=1", "ab=x"));
    }

    #[test]
    fn what_a_row_lacks_is_neither_right_nor_wrong() {
        let logits = [vec![1.0, 0.0, 0.0, 0.0, 1.0], vec![1.0, 0.0, 5.0, 0.0, 1.0]];
        let labels: [&[u32]; 2] = [&[0, 4], &[1]];
        let (tasks, decision) = (tasks(), undecided(ProblemType::SingleLabel));
        assert_eq!((tasks.answers(labels), tasks.hits(&decision, &logits, labels)), (3, 2));
        let rows = tasks.rows(&logits, &labels);
        assert_eq!((rows[0].rows.as_slice(), rows[1].rows.as_slice()), (&[0, 1][..], &[0][..]));
        assert_eq!((rows[1].ids(), rows[1].logits[0].as_slice()), (vec![&[2][..]], &[0.0, 0.0, 1.0][..]));
        let twice = [logits[0].clone(), logits[0].clone()];
        assert_eq!((tasks.agreement(&decision, &logits, &twice), tasks.changed(&decision, &logits, &twice)), (0.5, 1));
        // Of several labels all count, not the likeliest alone.
        let (one, two) = ([vec![5.0, -1.0]], [vec![5.0, 1.0]]);
        let agreement = |problem_type| Tasks::single(2).agreement(&undecided(problem_type), &one, &two);
        assert_eq!([ProblemType::SingleLabel, ProblemType::MultiLabel].map(agreement), [1.0, 0.0]);
        // Of one task, no label is an answer.
        assert_eq!(Tasks::single(5).answers([&[0, 4][..], &[]]), 2);
    }

    #[test]
    fn the_loss_is_the_sum_of_what_each_task_alone_would_have() {
        let logits = Var::new(&[[1.0f32, 0.0, 0.5, 0.0, 2.0], [3.0, 0.0, 5.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        let targets: [Target; 2] = [[0, 3].into(), [1].into()];
        let targets: Vec<&Target> = targets.iter().collect();
        let loss = Loss { class_weights: Some(vec![1.0, 2.0, 3.0, 4.0, 5.0]), ..Loss::default() };
        let value = |loss: &Tensor| loss.to_scalar::<f32>().unwrap();
        let of_task = |first: usize, count: usize, rows: usize, targets: &[Target], weights: &[f32]| {
            let logits = logits.narrow(1, first, count).unwrap().narrow(0, 0, rows).unwrap();
            let loss = Loss { class_weights: Some(weights.to_vec()), ..Loss::default() };
            value(&loss.forward(&logits, &targets.iter().collect::<Vec<_>>()).unwrap())
        };
        // In two parts, of which one has a row of both tasks.
        let counted = tasks().counted(&loss, &targets);
        let part = |row: usize| {
            let logits = logits.narrow(0, row, 1).unwrap();
            value(&tasks().loss(&loss, &logits, &targets[row..=row], &counted).unwrap())
        };
        let parts = part(0) + part(1);
        let both = tasks().loss(&loss, &logits, &targets, &counted).unwrap();
        let a = of_task(0, 2, 2, &[[0].into(), [1].into()], &[1.0, 2.0]);
        let ab = of_task(2, 3, 1, &[[1].into()], &[3.0, 4.0, 5.0]);
        assert!((value(&both) - a - ab).abs() < 1e-6, "{} {a} {ab}", value(&both));
        assert!((value(&both) - parts).abs() < 1e-6, "{} {parts}", value(&both));
        // What is not sure counts by its shares, where the row has no label of the task too.
        let shares = Target { shares: Some(vec![0.5, 0.5, 0.2, 0.3, 0.5]), ..[0].into() };
        let loss_of = |first: usize, count: usize, shares: &[f32]| {
            let target = Target { shares: Some(shares.to_vec()), ..[0].into() };
            let logits = logits.narrow(0, 0, 1).unwrap().narrow(1, first, count).unwrap();
            value(&Loss::default().forward(&logits, &[&target]).unwrap())
        };
        let counted = tasks().counted(&Loss::default(), &[&shares]);
        let one = tasks().loss(&Loss::default(), &logits.narrow(0, 0, 1).unwrap(), &[&shares], &counted).unwrap();
        let expected = loss_of(0, 2, &[0.5, 0.5]) + loss_of(2, 3, &[0.2, 0.3, 0.5]);
        assert!((value(&one) - expected).abs() < 1e-6, "{} {expected}", value(&one));
        // A label that a row lacks moves nothing.
        let gradient = both.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert!(gradient[1][2..].iter().all(|x| *x == 0.0) && gradient[1][0] > 0.0, "{gradient:?}");
    }
}
