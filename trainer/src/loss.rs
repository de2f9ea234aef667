//! What training minimizes.

use candle_core::{D, Device, Tensor};

use crate::error::{Error, Result};

/// Cross-entropy against one label a row; the default is the plain mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CrossEntropy {
    /// A factor for the rows of each label, in the order of the ids; none: all count alike.
    pub class_weights: Option<Vec<f32>>,
    /// This share of each row's weight is spread evenly over all labels (Szegedy et al., arXiv 1512.00567).
    pub label_smoothing: f32,
    /// Rows are multiplied by (1 − p)^gamma, p being the probability of their label (focal loss, Lin et al.,
    /// arXiv 1708.02002); 0: they are not.
    pub focal_gamma: f32,
}

impl CrossEntropy {
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
                return Err(Error::setting("--class-weights", expected, format!("{weights:?}")));
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
            let expected = "0 where --label-smoothing is used: focal loss is defined for one label a row";
            return Err(Error::setting("--focal-gamma", expected, self.focal_gamma));
        }
        Ok(())
    }

    /// The loss of `logits` `[rows, labels]` against one label id a row: a scalar. As in PyTorch, it is the weighted mean:
    /// the sum over the rows divided by the sum of their labels' weights.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn forward(&self, logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
        let (rows, classes) = logits.dims2()?;
        let weight = |class: usize| self.class_weights.as_ref().map_or(1.0, |weights| weights[class]);
        let spread = self.label_smoothing / classes as f32;
        // How much -log p of each label counts in each row.
        let factors: Vec<f32> = labels
            .iter()
            .flat_map(|&label| (0..classes).map(move |class| (class, label as usize)))
            .map(|(class, label)| {
                let hit = if class == label { 1.0 - self.label_smoothing } else { 0.0 };
                weight(class) * (hit + spread)
            })
            .collect();
        let total: f32 = labels.iter().map(|&label| weight(label as usize)).sum();
        let mut log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        if self.focal_gamma > 0.0 {
            let missed = (1.0 - log_p.exp()?)?;
            log_p = (log_p * missed.powf(self.focal_gamma.into())?)?;
        }
        let factors = Tensor::from_vec(factors, (rows, classes), &Device::Cpu)?;
        // A batch whose labels all have weight 0 has no loss.
        let scale = if total > 0.0 { -1.0 / f64::from(total) } else { 0.0 };
        Ok(((log_p * factors)?.sum_all()? * scale)?)
    }
}

/// Weights by which every label counts alike, however many rows it has: rows / (labels × rows of the label).
pub fn balanced_weights(labels: &[u32], classes: usize) -> Vec<f32> {
    let count = |class: usize| labels.iter().filter(|&&label| label as usize == class).count().max(1);
    (0..classes).map(|class| labels.len() as f32 / (classes * count(class)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(setting: CrossEntropy, logits: &[[f32; 2]], labels: &[u32]) -> f32 {
        let logits = Tensor::from_vec(logits.concat(), (logits.len(), 2), &Device::Cpu).unwrap();
        setting.forward(&logits, labels).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn focal_loss_computed_by_hand() {
        // p = 0.8 for the label: -(1 - 0.8)² ln 0.8.
        let logits = [[4.0f32.ln(), 0.0]];
        let setting = CrossEntropy { focal_gamma: 2.0, ..CrossEntropy::default() };
        assert!((loss(setting, &logits, &[0]) - 0.04 * 1.25f32.ln()).abs() < 1e-6);
        assert!((loss(CrossEntropy::default(), &logits, &[0]) - 1.25f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn balanced_weights_make_every_label_count_alike() {
        let labels = [0, 0, 0, 1];
        let weights = balanced_weights(&labels, 2);
        assert_eq!(weights, [4.0 / 6.0, 2.0]);
        // Three rows of one label at loss a and one row of the other at b: the mean of a and b.
        let setting = CrossEntropy { class_weights: Some(weights), ..CrossEntropy::default() };
        let mean = loss(setting, &[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], &labels);
        let (a, b) = (2.0f32.ln(), (1.0 + (-1.0f32).exp()).ln());
        assert!((mean - 0.5 * (a + b)).abs() < 1e-6);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let setting = CrossEntropy::default;
        for refused in [
            CrossEntropy { class_weights: Some(vec![1.0]), ..setting() },
            CrossEntropy { class_weights: Some(vec![1.0, -1.0]), ..setting() },
            CrossEntropy { label_smoothing: 1.0, ..setting() },
            CrossEntropy { focal_gamma: 0.5, ..setting() },
            CrossEntropy { focal_gamma: 2.0, label_smoothing: 0.1, ..setting() },
        ] {
            assert!(refused.validate(2).is_err(), "{refused:?}");
        }
        assert!(setting().validate(2).is_ok());
    }
}
