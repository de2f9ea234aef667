//! What training minimizes.

use candle_core::{D, Device, Tensor};
use nimbert::ProblemType;

use crate::error::{Error, Result};

/// What a row should be answered with.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The ids of its labels, ascending: one, or any number in a multi-label task. Of several with shares, the one with the
    /// largest: figures count the row by it.
    pub ids: Vec<u32>,
    /// How sure each label is, by id; of labels that exclude each other, they sum to 1. None where all is sure.
    pub shares: Option<Vec<f32>>,
    /// How much the row counts in training.
    pub weight: f32,
}

impl<const N: usize> From<[u32; N]> for Target {
    /// Labels that are sure, of a row that counts as others do.
    fn from(ids: [u32; N]) -> Self {
        Self { ids: ids.to_vec(), shares: None, weight: 1.0 }
    }
}

impl Target {
    /// How sure a label is, from 0 to 1.
    pub(crate) fn share(&self, label: usize) -> f32 {
        match &self.shares {
            Some(shares) => shares[label],
            None => f32::from(u8::from(self.ids.contains(&(label as u32)))),
        }
    }

    /// Calls `of` with each label that it has, or may have, and how sure that is.
    pub(crate) fn for_each_label(&self, mut of: impl FnMut(usize, f32)) {
        match &self.shares {
            None => self.ids.iter().for_each(|&label| of(label as usize, 1.0)),
            Some(shares) => shares.iter().enumerate().for_each(|(label, share)| of(label, *share)),
        }
    }

    /// The label where there is one; of several, the first; 0 without any.
    pub fn id(&self) -> u32 {
        self.ids.first().copied().unwrap_or(0)
    }
}

/// The loss; the default is plain cross-entropy against one label a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// One label a row: cross-entropy over the softmax. Any number: the mean of a binary cross-entropy for each label.
    pub problem_type: ProblemType,
    /// A factor for the rows of each label, in the order of the ids; none: all count alike. With any number of labels it
    /// multiplies the part of the rows that have the label (PyTorch's `pos_weight`, but for smoothing).
    pub class_weights: Option<Vec<f32>>,
    /// This share of each row's weight is spread evenly over all labels (Szegedy et al., arXiv 1512.00567); with any
    /// number of labels, targets are moved by half of it from 0 and from 1.
    pub label_smoothing: f32,
    /// Rows are multiplied by (1 − p)^gamma, p being the probability of their label (focal loss, Lin et al.,
    /// arXiv 1708.02002); 0: they are not.
    pub focal_gamma: f32,
}

impl Loss {
    /// Checks the fields for a task with `labels` labels.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self, labels: usize) -> Result<()> {
        if let Some(weights) = &self.class_weights {
            let usable =
                weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0) && weights.iter().sum::<f32>() > 0.0;
            if weights.len() != labels || !usable {
                let expected = format!("{labels} weights of 0 or more, not all 0");
                let shown: Vec<f32> = weights.iter().take(8).copied().collect();
                let got = format!("{} weights that begin with {shown:?}", weights.len());
                return Err(Error::setting("--class-weights", expected, got));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::setting("--label-smoothing", "a share from 0 to below 1", self.label_smoothing));
        }
        // Between 0 and 1 the derivative is infinite where the label is certain.
        if self.focal_gamma != 0.0 && !(1.0..=10.0).contains(&self.focal_gamma) {
            return Err(Error::setting("--focal-gamma", "0, or a number from 1 to 10", self.focal_gamma));
        }
        if self.focal_gamma > 0.0 && self.label_smoothing > 0.0 {
            let expected = "0 where --label-smoothing is used: focal loss is defined for sure labels";
            return Err(Error::setting("--focal-gamma", expected, self.focal_gamma));
        }
        Ok(())
    }

    /// The loss of `logits` `[rows, labels]` against the target of each row: a scalar.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn forward(&self, logits: &Tensor, targets: &[&Target]) -> Result<Tensor> {
        self.part(logits, targets, self.counted(targets))
    }

    /// What some of a step's rows have of its loss, where all of them are [`Loss::counted`] so: the parts of a step sum to the loss of
    /// all.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn part(&self, logits: &Tensor, targets: &[&Target], counted: f32) -> Result<Tensor> {
        match self.problem_type {
            ProblemType::SingleLabel => self.cross_entropy(logits, targets, counted),
            ProblemType::MultiLabel => self.binary_cross_entropy(logits, targets, counted),
        }
    }

    /// By what a sum over rows is divided for their mean: their weights, times those of their labels where each has one.
    pub fn counted(&self, targets: &[&Target]) -> f32 {
        targets.iter().map(|target| target.weight * self.label_weight(target)).sum()
    }

    fn class_weight(&self, class: usize) -> f32 {
        self.class_weights.as_ref().map_or(1.0, |weights| weights[class])
    }

    /// The weight of a row's label, or the mean of several by their shares; of any number of them, 1.
    fn label_weight(&self, target: &Target) -> f32 {
        match (self.problem_type, &target.shares) {
            (ProblemType::MultiLabel, _) => 1.0,
            (_, Some(shares)) => shares.iter().enumerate().map(|(class, share)| share * self.class_weight(class)).sum(),
            (_, None) => self.class_weight(target.id() as usize),
        }
    }

    /// The weighted mean: the sum over the rows divided by the sum of their weights, which are those of the rows times those of their
    /// labels. Against shares, it is the cross-entropy of two distributions. What smoothing spreads weighs as the row does; in PyTorch
    /// as the labels that it is spread over, by which every row would be taught the rarest label.
    fn cross_entropy(&self, logits: &Tensor, targets: &[&Target], total: f32) -> Result<Tensor> {
        let (rows, classes) = logits.dims2()?;
        let spread = self.label_smoothing / classes as f32;
        // How much -log p of each label counts in each row.
        let factors: Vec<f32> = targets
            .iter()
            .flat_map(|target| {
                let spread = self.label_weight(target) * spread;
                (0..classes).map(move |class| {
                    let hit = self.class_weight(class) * target.share(class) * (1.0 - self.label_smoothing);
                    target.weight * (hit + spread)
                })
            })
            .collect();
        let mut log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        if self.focal_gamma > 0.0 {
            let missed = (1.0 - log_p.exp()?)?;
            log_p = (log_p * missed.powf(self.focal_gamma.into())?)?;
        }
        let factors = Tensor::from_vec(factors, (rows, classes), &Device::Cpu)?;
        // Where nothing counts, the factors are 0 already. A scale of 0 would cut the graph.
        let scale = if total > 0.0 { -1.0 / f64::from(total) } else { -1.0 };
        Ok(((log_p * factors)?.sum_all()? * scale)?)
    }

    /// -log σ(x) where a label holds and -log σ(-x) where it does not, the mean over rows and labels. A label's weight is that of the
    /// rows that have it, and of what smoothing takes from them. In the stable form
    /// -log σ(x) = max(-x, 0) + log(1 + e^-|x|), which neither overflows nor loses small values.
    fn binary_cross_entropy(&self, logits: &Tensor, targets: &[&Target], counted: f32) -> Result<Tensor> {
        let (rows, classes) = logits.dims2()?;
        let (high, low) = (1.0 - self.label_smoothing / 2.0, self.label_smoothing / 2.0);
        let row_weights: Vec<f32> = targets.iter().map(|target| target.weight).collect();
        // How much each of the two counts.
        let [mut of_holds, mut of_fails] = [low, high].map(|value| vec![value; rows * classes]);
        let rows_of = of_holds.chunks_exact_mut(classes).zip(of_fails.chunks_exact_mut(classes));
        for ((of_holds, of_fails), target) in rows_of.zip(targets) {
            target.for_each_label(|label, share| {
                let weight = self.class_weight(label);
                of_holds[label] = weight * share * high + (1.0 - share) * low;
                of_fails[label] = weight * share * low + (1.0 - share) * high;
            });
        }
        let [of_holds, of_fails] =
            [of_holds, of_fails].map(|values| Tensor::from_vec(values, (rows, classes), &Device::Cpu));
        let tail = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
        // max(-x, 0) as max(x, 0) - x: at 0 the derivative of the maximum is taken for 1, which with that of the tail, -1/2, is right for
        // both.
        let positive = logits.relu()?;
        let [mut holds, mut fails] = [((&positive - logits)? + &tail)?, (&positive + &tail)?];
        if self.focal_gamma > 0.0 {
            // e^-loss is the probability of what is so.
            for part in [&mut holds, &mut fails] {
                let missed = (1.0 - part.neg()?.exp()?)?;
                *part = (&*part * missed.powf(self.focal_gamma.into())?)?;
            }
        }
        let losses = ((of_holds? * holds)? + (of_fails? * fails)?)?;
        if counted == rows as f32 && row_weights.iter().all(|weight| *weight == 1.0) {
            return Ok(losses.mean_all()?);
        }
        let total = counted * classes as f32;
        let row_weights = Tensor::from_vec(row_weights, (rows, 1), &Device::Cpu)?;
        let scale = if total > 0.0 { 1.0 / f64::from(total) } else { 1.0 };
        Ok((losses.broadcast_mul(&row_weights)?.sum_all()? * scale)?)
    }
}

/// Weights by which every label counts alike, however many rows it has, each of which counts by its own weight. One label a row: rows /
/// (labels × rows of the label). Any number: rows without the label / rows with it. A label without rows has the weight 1.
pub fn balanced_weights<'a>(
    problem_type: ProblemType,
    targets: impl IntoIterator<Item = &'a Target>,
    classes: usize,
) -> Vec<f32> {
    let (mut counts, mut rows) = (vec![0.0f64; classes], 0.0);
    let mut weighted = 0.0;
    for target in targets.into_iter().filter(|target| target.weight > 0.0) {
        weighted += 1.0;
        rows += f64::from(target.weight);
        target.for_each_label(|label, share| counts[label] += f64::from(target.weight * share));
    }
    let weight = |count: f64| match problem_type {
        _ if count == 0.0 => 1.0,
        ProblemType::SingleLabel => rows / (classes as f64 * count),
        // Where all have it, as if one had not.
        ProblemType::MultiLabel => (rows - count).max(rows / weighted) / count,
    };
    counts.into_iter().map(|count| weight(count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(setting: Loss, logits: &[[f32; 2]], labels: &[u32]) -> f32 {
        let logits = Tensor::from_vec(logits.concat(), (logits.len(), 2), &Device::Cpu).unwrap();
        let targets: Vec<Target> = labels.iter().map(|&label| [label].into()).collect();
        setting.forward(&logits, &targets.iter().collect::<Vec<_>>()).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn of_any_number_of_labels_each_has_a_share() {
        let logits = Tensor::new(&[[1.0f32, 0.0]], &Device::Cpu).unwrap();
        let loss = Loss { problem_type: ProblemType::MultiLabel, ..Loss::default() };
        let target = Target { ids: vec![0], shares: Some(vec![0.75, 0.5]), weight: 1.0 };
        // -log σ(1), -log σ(-1) and -log σ(0).
        let (holds, fails, even) = ((1.0 + (-1.0f32).exp()).ln(), (1.0 + 1.0f32.exp()).ln(), 2.0f32.ln());
        let value = loss.forward(&logits, &[&target]).unwrap().to_scalar::<f32>().unwrap();
        assert!((value - (0.75 * holds + 0.25 * fails + even) / 2.0).abs() < 1e-6, "{value}");
    }

    #[test]
    fn shares_and_weights_computed_by_hand() {
        // -log p of the two labels is a and b.
        let (a, b) = ((1.0 + (-1.0f32).exp()).ln(), (1.0 + 1.0f32.exp()).ln());
        let logits = Tensor::new(&[[1.0f32, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let value = |loss: Loss, targets: [Target; 2]| {
            loss.forward(&logits, &[&targets[0], &targets[1]]).unwrap().to_scalar::<f32>().unwrap()
        };
        let shares = |share: f32, weight: f32| Target { ids: vec![0], shares: Some(vec![share, 1.0 - share]), weight };
        let sure = |weight: f32| Target { weight, ..[1].into() };
        let expected = (3.0 * (0.75 * a + 0.25 * b) + b) / 4.0;
        assert!((value(Loss::default(), [shares(0.75, 3.0), sure(1.0)]) - expected).abs() < 1e-6);
        // A row without weight is as if it were not there.
        assert!((value(Loss::default(), [shares(0.75, 1.0), sure(0.0)]) - (0.75 * a + 0.25 * b)).abs() < 1e-6);
        let weighted = Loss { class_weights: Some(vec![1.0, 2.0]), ..Loss::default() };
        let expected = (0.5 * a + 0.5 * 2.0 * b + 2.0 * b) / (0.5 + 1.0 + 2.0);
        assert!((value(weighted, [shares(0.5, 1.0), sure(1.0)]) - expected).abs() < 1e-6);
        // Any number of labels: the mean over a row's labels, weighted by row. 1 holds in one row, none in the other.
        let of_one = (missed(-1.0) + missed(0.0)) / 2.0;
        let binary = binary(Loss::default());
        assert!((value(binary.clone(), [sure(3.0), sure(1.0)]) - of_one).abs() < 1e-6);
        let none = Target { weight: 1.0, ..Target::from([]) };
        assert!((value(binary, [sure(3.0), none]) - of_one).abs() < 1e-6);
    }

    #[test]
    fn focal_loss_computed_by_hand() {
        // p = 0.8 for the label: -(1 - 0.8)² ln 0.8.
        let logits = [[4.0f32.ln(), 0.0]];
        let setting = Loss { focal_gamma: 2.0, ..Loss::default() };
        assert!((loss(setting, &logits, &[0]) - 0.04 * 1.25f32.ln()).abs() < 1e-6);
        assert!((loss(Loss::default(), &logits, &[0]) - 1.25f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn balanced_weights_make_every_label_count_alike() {
        let labels = [0, 0, 0, 1];
        let targets = labels.map(|label| Target::from([label]));
        let weights = balanced_weights(ProblemType::SingleLabel, &targets, 2);
        assert_eq!(weights, [4.0 / 6.0, 2.0]);
        // A row counts as much as it weighs; of a label without rows nothing is known.
        let [mut first, mut none] = [Target::from([0]), Target::from([2])];
        (first.weight, none.weight) = (3.0, 0.0);
        let weighted = balanced_weights(ProblemType::SingleLabel, [&first, &targets[3], &none], 3);
        assert_eq!(weighted, [4.0 / 9.0, 4.0 / 3.0, 1.0]);
        // What is not sure counts as far as it is.
        let unsure = Target { ids: vec![0], shares: Some(vec![0.75, 0.25]), weight: 1.0 };
        assert_eq!(balanced_weights(ProblemType::SingleLabel, [&unsure, &targets[3]], 2), [2.0 / 1.5, 2.0 / 2.5]);
        // A factor of all weights changes nothing.
        let everywhere = [1.0, 0.01].map(|weight| {
            let targets = [0; 4].map(|label| Target { weight, ..Target::from([label]) });
            balanced_weights(ProblemType::MultiLabel, &targets, 1)[0]
        });
        assert!((everywhere[0] - 0.25).abs() < 1e-6 && (everywhere[1] - 0.25).abs() < 1e-6, "{everywhere:?}");
        // Three rows of one label at loss a and one row of the other at b: the mean of a and b.
        let setting = Loss { class_weights: Some(weights), ..Loss::default() };
        let mean = loss(setting, &[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], &labels);
        let (a, b) = (2.0f32.ln(), (1.0 + (-1.0f32).exp()).ln());
        assert!((mean - 0.5 * (a + b)).abs() < 1e-6);
    }

    /// -ln σ(x)
    fn missed(x: f32) -> f32 {
        (1.0 + (-x).exp()).ln()
    }

    fn binary(setting: Loss) -> Loss {
        Loss { problem_type: ProblemType::MultiLabel, ..setting }
    }

    #[test]
    fn binary_cross_entropy_computed_by_hand() {
        let logits = Tensor::new(&[[2.0f32, -1.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let targets: [Target; 2] = [[0].into(), [].into()];
        let value =
            |setting: Loss| setting.forward(&logits, &[&targets[0], &targets[1]]).unwrap().to_scalar::<f32>().unwrap();
        let parts = [missed(2.0), missed(1.0), missed(-0.5), missed(-3.0)];
        assert!((value(binary(Loss::default())) - parts.iter().sum::<f32>() / 4.0).abs() < 1e-6);
        // Only the first label of the first row holds.
        let weighted = binary(Loss { class_weights: Some(vec![3.0, 5.0]), ..Loss::default() });
        let expected = (3.0 * parts[0] + parts[1] + parts[2] + parts[3]) / 4.0;
        assert!((value(weighted) - expected).abs() < 1e-6);
        // Each part times (1 - p)², p = e^-part.
        let focal = parts.iter().map(|part| part * (1.0 - (-part).exp()).powi(2)).sum::<f32>() / 4.0;
        assert!((value(binary(Loss { focal_gamma: 2.0, ..Loss::default() })) - focal).abs() < 1e-6);
        // Targets 0.95 and 0.05.
        let smoothed = 0.95 * parts[0] + 0.05 * missed(-2.0);
        let smoothed = smoothed + 0.95 * parts[1] + 0.05 * missed(-1.0) + 0.95 * parts[2] + 0.05 * missed(0.5);
        let smoothed = (smoothed + 0.95 * parts[3] + 0.05 * missed(3.0)) / 4.0;
        assert!((value(binary(Loss { label_smoothing: 0.1, ..Loss::default() })) - smoothed).abs() < 1e-6);
    }

    #[test]
    fn the_parts_of_a_step_sum_to_the_loss_of_all() {
        let logits = Tensor::new(&[[2.0f32, -1.0], [0.5, 3.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let targets: [Target; 3] = [[0].into(), Target { weight: 2.5, ..[1].into() }, [0].into()];
        let targets: Vec<&Target> = targets.iter().collect();
        for problem_type in [ProblemType::SingleLabel, ProblemType::MultiLabel] {
            let setting = Loss { problem_type, class_weights: Some(vec![0.5, 5.0]), ..Loss::default() };
            let counted = setting.counted(&targets);
            let value = |loss: Result<Tensor>| loss.unwrap().to_scalar::<f32>().unwrap();
            let part = |first: usize, rows: usize| {
                let logits = logits.narrow(0, first, rows).unwrap();
                value(setting.part(&logits, &targets[first..first + rows], counted))
            };
            assert!((part(0, 1) + part(1, 2) - value(setting.forward(&logits, &targets))).abs() < 1e-6);
        }
    }

    #[test]
    fn smoothing_does_not_teach_a_rare_label_to_all_rows() {
        // Of 100 rows, one has the second label, and counts as much as all others.
        let of = |problem_type, labels: [Target; 2]| {
            let targets: Vec<Target> = (0..100).map(|row| labels[usize::from(row == 99)].clone()).collect();
            let class_weights = Some(balanced_weights(problem_type, &targets, 2));
            let setting = Loss { problem_type, class_weights, label_smoothing: 0.1, ..Loss::default() };
            // A row that has the first label.
            let logits = candle_core::Var::new(&[[0.0f32, 0.0]], &Device::Cpu).unwrap();
            let loss = setting.forward(&logits, &[&labels[0]]).unwrap();
            loss.backward().unwrap().remove(&logits).unwrap().to_vec2::<f32>().unwrap().remove(0)
        };
        // It is drawn to the first label and from the second.
        for problem_type in [ProblemType::SingleLabel, ProblemType::MultiLabel] {
            let gradient = of(problem_type, [[0].into(), [1].into()]);
            assert!(gradient[0] < 0.0 && gradient[1] > 0.0, "{problem_type:?}: {gradient:?}");
        }
    }

    #[test]
    fn binary_cross_entropy_is_stable_and_so_is_its_gradient() {
        let logits = candle_core::Var::new(&[[1000.0f32, -1000.0]], &Device::Cpu).unwrap();
        let loss = binary(Loss::default()).forward(&logits, &[&[1].into()]).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 1000.0);
        let gradient = loss.backward().unwrap().remove(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[0.5, -0.5]]);
        // Where no instruction knows which side it is on: σ(x) − y, the mean of two.
        let logits = candle_core::Var::new(&[[0.0f32, 0.0]], &Device::Cpu).unwrap();
        let loss = binary(Loss::default()).forward(&logits, &[&[0].into()]).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 2.0f32.ln()).abs() < 1e-7);
        let gradient = loss.backward().unwrap().remove(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[-0.25, 0.25]]);
    }

    #[test]
    fn a_batch_of_labels_that_do_not_count_teaches_nothing() {
        let setting = Loss { class_weights: Some(vec![0.0, 1.0]), label_smoothing: 0.1, ..Loss::default() };
        let logits = candle_core::Var::new(&[[0.3f32, -0.2], [1.0, 2.0]], &Device::Cpu).unwrap();
        let loss = setting.forward(&logits, &[&[0].into(), &[0].into()]).unwrap();
        let gradient = loss.backward().unwrap().remove(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!((loss.to_scalar::<f32>().unwrap().abs(), gradient), (0.0, vec![vec![0.0; 2]; 2]));
    }

    #[test]
    fn balanced_weights_of_labels_that_overlap() {
        let targets: [Target; 4] = [[0, 1].into(), [0].into(), [0].into(), [].into()];
        assert_eq!(balanced_weights(ProblemType::MultiLabel, &targets, 2), [1.0 / 3.0, 3.0]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let setting = Loss::default;
        for refused in [
            Loss { class_weights: Some(vec![1.0]), ..setting() },
            Loss { class_weights: Some(vec![1.0, -1.0]), ..setting() },
            Loss { label_smoothing: 1.0, ..setting() },
            Loss { focal_gamma: 0.5, ..setting() },
            Loss { focal_gamma: 2.0, label_smoothing: 0.1, ..setting() },
        ] {
            assert!(refused.validate(2).is_err(), "{refused:?}");
        }
        assert!(setting().validate(2).is_ok());
    }
}
