//! A smaller model that learns from a larger one: soft labels (Hinton, Vinyals and Dean, arXiv 1503.02531) and hidden
//! states (Jiao et al., TinyBERT, arXiv 1909.10351), besides the labels themselves.

use candle_core::{D, DType, Device, Tensor};
use nimbert::{
    ProblemType,
    prediction::{sigmoid, softmax},
};

use crate::{
    dataloader::{Example, PackedBatch},
    error::Result,
    loss::Target,
    model::{Output, SequenceClassifier},
    tasks::{TaskLabels, Tasks},
    train::undecided,
};

/// How the parts of the loss are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistillConfig {
    /// Both models' logits are divided by it: what the teacher thinks of the other labels counts more.
    pub temperature: f64,
    /// Share of the soft labels; the rest is the loss against the labels of the data.
    pub soft_share: f64,
    /// Weight of the mean squared difference between hidden states.
    pub hidden_weight: f64,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self { temperature: 2.0, soft_share: 0.5, hidden_weight: 1.0 }
    }
}

/// A trained model that another one imitates.
#[derive(Debug)]
pub struct Teacher<'a> {
    /// The model; its weights stay as they are.
    pub model: &'a SequenceClassifier,
    /// For each layer of the student, the teacher's layer it was made from.
    pub layers: Vec<usize>,
    /// Whether a row has one label or any number.
    pub problem_type: ProblemType,
    /// The weights of the parts.
    pub config: DistillConfig,
}

impl Teacher<'_> {
    /// What the student minimizes: `loss` (against the labels), the distance to the teacher's labels, and the distance to
    /// its hidden states. Each text counts by the weight of its target.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn loss(&self, batch: &PackedBatch, targets: &[&Target], student: &Output, loss: &Tensor) -> Result<Tensor> {
        let DistillConfig { temperature, soft_share, hidden_weight } = self.config;
        let teacher = self.model.forward(batch, None)?;
        let [student_logits, teacher_logits] =
            [&student.logits, &teacher.logits.detach()].map(|logits| logits / temperature);
        let weights: Vec<f32> = targets.iter().map(|target| target.weight).collect();
        let of_texts = parts(weights.iter().copied(), &Device::Cpu)?;
        let soft = soft_loss(&self.model.tasks, self.problem_type, [&student_logits?, &teacher_logits?], &of_texts)?;
        // The gradients of soft labels shrink with the square of the temperature.
        let soft = (soft * (temperature * temperature))?;
        let mut sum = ((loss * (1.0 - soft_share))? + (soft * soft_share)?)?;
        let (ours, theirs) = (&student.encoded.hidden_states, &teacher.encoded.hidden_states);
        for (layer, &teacher_layer) in self.layers.iter().enumerate() {
            // The last layers hold the first tokens only, in both models alike.
            let (ours, theirs) = (&ours[layer + 1], theirs[teacher_layer + 1].detach());
            if ours.dims() == theirs.dims() {
                let distances = (ours - theirs)?.to_dtype(DType::F32)?.sqr()?.mean(D::Minus1)?;
                let of_rows = parts(weights_of_rows(batch, &weights, distances.dims1()?), distances.device())?;
                let distance = (distances * of_rows)?.sum_all()?.to_device(&Device::Cpu)?;
                sum = (sum + (distance * (hidden_weight / self.layers.len() as f64))?)?;
            }
        }
        Ok(sum)
    }
}

/// Examples that are answered with what a teacher says of them alone, by its logits of each: those of which nothing else is known.
/// Of several tasks they have a label of each.
///
/// # Panics
/// If there are not as many logits as examples.
pub fn answered(
    examples: &[Example],
    teacher_logits: &[Vec<f32>],
    problem_type: ProblemType,
    tasks: &Tasks,
) -> Vec<Example> {
    let mut answered = softened(examples, teacher_logits, problem_type, tasks, 1.0);
    let decision = undecided(problem_type);
    for (example, logits) in answered.iter_mut().zip(teacher_logits) {
        let of_task = |task: &TaskLabels| {
            let ids = decision.label_ids(&decision.scores(&logits[task.ids.clone()]));
            ids.into_iter().map(|id| (task.ids.start + id) as u32).collect::<Vec<_>>()
        };
        example.target.ids = tasks.iter().flat_map(of_task).collect();
    }
    answered
}

/// Examples whose targets are moved by `share` towards what a teacher says of them, by its logits of each, `[labels]`: a student
/// that learns from them learns from the teacher at a temperature of 1, and the teacher need not be asked in every epoch. Of a task
/// that an example says nothing of, all is the teacher's.
///
/// # Panics
/// If there are not as many logits as examples.
pub fn softened(
    examples: &[Example],
    teacher_logits: &[Vec<f32>],
    problem_type: ProblemType,
    tasks: &Tasks,
    share: f32,
) -> Vec<Example> {
    assert_eq!(examples.len(), teacher_logits.len());
    let soften = |(example, logits): (&Example, &Vec<f32>)| {
        let target = &example.target;
        let of_task = |task: &TaskLabels| {
            let logits = &logits[task.ids.clone()];
            let said: Vec<f32> = match problem_type {
                ProblemType::SingleLabel => softmax(logits, 1.0),
                ProblemType::MultiLabel => logits.iter().copied().map(sigmoid).collect(),
            };
            let share = if task.is_answered(&target.ids) { share } else { 1.0 };
            let moved = |(label, said): (usize, f32)| share * said + (1.0 - share) * target.share(label);
            task.ids.clone().zip(said).map(moved).collect::<Vec<_>>()
        };
        let shares = tasks.iter().flat_map(of_task).collect();
        Example { target: Target { shares: Some(shares), ..target.clone() }, ..example.clone() }
    };
    examples.iter().zip(teacher_logits).map(soften).collect()
}

/// What part of their mean each of these has, by its weight: `[weights]`. Where none has a weight, all have as much.
fn parts(weights: impl ExactSizeIterator<Item = f32> + Clone, device: &Device) -> Result<Tensor> {
    let (count, sum) = (weights.len() as f32, weights.clone().sum::<f32>());
    let share = |weight: f32| if sum > 0.0 { weight / sum } else { 1.0 / count };
    Ok(Tensor::from_iter(weights.map(share), &Device::Cpu)?.to_device(device)?)
}

/// The weights of texts as those of what an encoder says of them, which is of so many: of all tokens, or of the first of each row.
fn weights_of_rows(batch: &PackedBatch, of_texts: &[f32], count: usize) -> std::vec::IntoIter<f32> {
    let rows =
        batch.texts.windows(2).zip(of_texts).flat_map(|(rows, weight)| (rows[0]..rows[1]).map(|row| (row, *weight)));
    let tokens = |row: usize| if count == batch.rows() { 1 } else { batch.offsets[row + 1] - batch.offsets[row] };
    let weights: Vec<f32> = rows.flat_map(|(row, weight)| std::iter::repeat_n(weight, tokens(row))).collect();
    weights.into_iter()
}

/// How far a student's logits are from a teacher's, `[rows, labels]`, by what part of the mean each row has: the sum of what each task
/// has.
fn soft_loss(
    tasks: &Tasks,
    problem_type: ProblemType,
    [student, teacher]: [&Tensor; 2],
    parts: &Tensor,
) -> Result<Tensor> {
    tasks.sum(|task| {
        let (student, teacher) = (task.logits(student)?, task.logits(teacher)?);
        let of_rows = match problem_type {
            ProblemType::SingleLabel => soft_cross_entropy(&student, &teacher),
            ProblemType::MultiLabel => soft_binary_cross_entropy(&student, &teacher),
        };
        Ok((of_rows? * parts)?.sum_all()?)
    })
}

/// -Σ q log p of each row.
fn soft_cross_entropy(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let q = candle_nn::ops::softmax(teacher, D::Minus1)?;
    let log_p = candle_nn::ops::log_softmax(student, D::Minus1)?;
    Ok((q * log_p)?.sum(D::Minus1)?.neg()?)
}

/// -q log σ(x) - (1 - q) log σ(-x) = max(x, 0) - q x + log(1 + e^-|x|) of each row, the mean over its labels.
fn soft_binary_cross_entropy(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let q = candle_nn::ops::sigmoid(teacher)?;
    let tail = (student.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((student.relu()? - (q * student)?)? + tail)?.mean(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(target: Target, logits: &[f32], problem_type: ProblemType) -> Vec<f32> {
        let example = Example { windows: Vec::new(), target };
        let softened = softened(&[example], &[logits.to_vec()], problem_type, &Tasks::single(logits.len()), 0.75);
        softened[0].target.shares.clone().unwrap()
    }

    #[test]
    fn soft_labels_of_several_tasks_are_those_of_each() {
        let tensor = |logits: &[[f32; 3]; 2]| Tensor::new(logits, &Device::Cpu).unwrap();
        let [student, teacher] =
            [tensor(&[[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]]), tensor(&[[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])];
        let labels = ["a=x", "a=y", "b=z"].map(str::to_owned);
        let halves = parts([1.0, 1.0].into_iter(), &Device::Cpu).unwrap();
        let loss = |tasks: &Tasks, from: usize, count: usize| {
            let [student, teacher] = [&student, &teacher].map(|logits| logits.narrow(1, from, count).unwrap());
            let loss = soft_loss(tasks, ProblemType::SingleLabel, [&student, &teacher], &halves).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let both = loss(&Tasks::of(&["a", "b"].map(str::to_owned), &labels), 0, 3);
        let each = loss(&Tasks::single(2), 0, 2) + loss(&Tasks::single(1), 2, 1);
        assert!((both - each).abs() < 1e-6 && (both - loss(&Tasks::single(3), 0, 3)).abs() > 0.1, "{both} {each}");
    }

    #[test]
    fn targets_move_towards_what_the_teacher_says() {
        // Odds of 3 to 1 for label 0; the data says label 1.
        let single = shares(Target::from([1]), &[3.0f32.ln(), 0.0], ProblemType::SingleLabel);
        let expected = [0.75 * 0.75, 0.75 * 0.25 + 0.25];
        assert!(single.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{single:?}");
        // Each label for itself: both are as likely as not; the data says label 0.
        let multi = shares(Target::from([0]), &[0.0, 0.0], ProblemType::MultiLabel);
        assert!(multi.iter().zip([0.625, 0.375]).all(|(a, b)| (a - b).abs() < 1e-6), "{multi:?}");
        // Of a row that nobody has labelled, the label is the teacher's too.
        let example = Example { windows: Vec::new(), target: Target::from([0]) };
        let teacher = [vec![0.0, 2.0, 1.0]];
        let said = &answered(std::slice::from_ref(&example), &teacher, ProblemType::SingleLabel, &Tasks::single(3))[0];
        assert_eq!(said.target.ids, [1]);
        // A label of each of two tasks; of the one that the data says nothing of, all is the teacher's.
        let tasks = Tasks::of(&["a", "b"].map(str::to_owned), &["a=x", "b=x", "b=y"].map(str::to_owned));
        let said = &answered(std::slice::from_ref(&example), &teacher, ProblemType::SingleLabel, &tasks)[0];
        assert_eq!(said.target.ids, [0, 1]);
        let moved = &softened(&[example], &teacher, ProblemType::SingleLabel, &tasks, 0.5)[0];
        let (likely, other) = (1.0 / (1.0 + (-1.0f32).exp()), 1.0 / (1.0 + 1.0f32.exp()));
        let mut pairs = moved.target.shares.iter().flatten().zip([1.0, likely, other]);
        assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-6), "{moved:?}");
        // Shares of the data stay what they are where the teacher says nothing else.
        let target = Target { shares: Some(vec![0.5, 0.5]), ..Target::from([0]) };
        assert_eq!(shares(target, &[1.0, 1.0], ProblemType::SingleLabel), [0.5, 0.5]);
    }
}
