//! Texts of like labels near each other, others far apart: the supervised contrastive loss (Khosla et al., arXiv 2004.11362).
//!
//! SetFit (Tunstall et al., arXiv 2209.11055) encodes both texts of each pair. Here every text of a batch is encoded once and
//! is in a pair with each other one.

use candle_core::{D, DType, Device, Tensor};

use crate::{
    dataloader::PackedBatch,
    error::Result,
    loss::Target,
    model::{of_texts, scaled},
    tasks::Tasks,
};

/// How the loss is made, and how much it counts beside that of the labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Its factor.
    pub weight: f64,
    /// Cosines are divided by it: the smaller, the more the hardest pairs count.
    pub temperature: f64,
}

impl Default for Contrast {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.1 }
    }
}

impl Contrast {
    /// The loss of what was pooled of each row of a batch, `[rows, hidden]`: the mean over the texts that share a label with
    /// another, weighted as the rows are. Of several tasks it is the sum of each one's, by the texts that have a label of it.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn of_batch(&self, pooled: &Tensor, batch: &PackedBatch, targets: &[&Target], tasks: &Tasks) -> Result<Tensor> {
        let scaled = of_texts(scaled(&pooled.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)?, batch)?;
        tasks.sum(|task| {
            let (rows, of_task) = task.targets(targets.iter().copied());
            // Nothing is learned from a row without a weight: no other is drawn to it or pushed away.
            let counted = rows.into_iter().zip(of_task).filter(|(_, target)| target.weight > 0.0);
            let (rows, of_task): (Vec<usize>, Vec<Target>) = counted.unzip();
            if rows.len() < 2 {
                // A text alone is like no other.
                return Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?);
            }
            let rows = Tensor::from_iter(rows.into_iter().map(|row| row as u32), &Device::Cpu)?;
            self.loss(&scaled.index_select(&rows, 0)?, &of_task.iter().collect::<Vec<_>>())
        })
    }

    /// The loss of texts' vectors whose mean square is 1, `[texts, hidden]`, without its weight: the mean over the texts that
    /// share a label with another, weighted as the rows are. Where texts have several labels, how alike two are is the share of
    /// common ones among all of both; texts without labels are like none.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    fn loss(&self, scaled: &Tensor, targets: &[&Target]) -> Result<Tensor> {
        /// What a text's own place in the sum over the others is moved by.
        const NEVER: f64 = -1e9;
        let count = targets.len();
        let mut factors = vec![0.0f32; count * count];
        let mut total = 0.0;
        for (index, factors) in factors.chunks_exact_mut(count).enumerate() {
            let others = (0..count).filter(|other| *other != index);
            let alike: Vec<(usize, f32)> =
                others.map(|other| (other, affinity(targets[index], targets[other]))).collect();
            let sum: f32 = alike.iter().map(|(_, affinity)| affinity).sum();
            if sum > 0.0 {
                alike.iter().for_each(|(other, affinity)| factors[*other] = targets[index].weight * affinity / sum);
                total += f64::from(targets[index].weight);
            }
        }
        let factors = Tensor::from_vec(factors, (count, count), &Device::Cpu)?;
        let own = (Tensor::eye(count, DType::F32, &Device::Cpu)? * NEVER)?;
        let width = scaled.dim(1)? as f64;
        let scores = ((scaled.matmul(&scaled.t()?)? / (width * self.temperature))? + own)?;
        let log_p = candle_nn::ops::log_softmax(&scores, D::Minus1)?;
        let scale = if total > 0.0 { -1.0 / total } else { -1.0 };
        Ok(((log_p * factors)?.sum_all()? * scale)?)
    }
}

/// From 0, nothing in common, to 1. Of labels that are not sure, what both say at least is common.
fn affinity(a: &Target, b: &Target) -> f32 {
    let labels = |target: &Target| match &target.shares {
        Some(shares) => shares.len(),
        None => target.ids.last().map_or(0, |last| *last as usize + 1),
    };
    let (mut common, mut all) = (0.0, 0.0);
    for label in 0..labels(a).max(labels(b)) {
        common += a.share(label).min(b.share(label));
        all += a.share(label).max(b.share(label));
    }
    if all > 0.0 { common / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use nimbert::Encoding;

    use super::*;

    fn loss(vectors: &[[f32; 2]; 3], targets: &[Target; 3]) -> f32 {
        let pooled = Tensor::new(vectors, &Device::Cpu).unwrap();
        let contrast = Contrast { weight: 1.0, temperature: 0.5 };
        contrast.loss(&scaled(&pooled).unwrap(), &targets.iter().collect::<Vec<_>>()).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn of_several_tasks_each_has_the_texts_that_have_a_label_of_it() {
        let labels = ["a=x", "a=y", "b=x", "b=y", "b=z"].map(str::to_owned);
        let tasks = Tasks::of(&["a".to_owned(), "b".to_owned()], &labels);
        let vectors = [[2.0f32, 0.0], [0.3, 0.4], [0.0, 5.0], [1.0, 1.0]];
        let contrast = Contrast { weight: 1.0, temperature: 0.5 };
        let pooled = Tensor::new(&vectors, &Device::Cpu).unwrap();
        let text = Encoding { input_ids: vec![1], token_type_ids: vec![0], truncated: false };
        let batch = PackedBatch::new(&std::array::from_fn::<_, 4, _>(|_| text.clone()));
        let value = |targets: [Target; 4]| {
            let targets: Vec<&Target> = targets.iter().collect();
            contrast.of_batch(&pooled, &batch, &targets, &tasks).unwrap().to_scalar::<f32>().unwrap()
        };
        let of = |rows: [usize; 3], targets: [Target; 3]| loss(&rows.map(|row| vectors[row]), &targets);
        // The last row has no label of the first task, the first row none of the second.
        let both = value([[0].into(), [0, 2].into(), [1, 3].into(), [3].into()]);
        let of_a = of([0, 1, 2], [[0].into(), [0].into(), [1].into()]);
        let of_b = of([1, 2, 3], [[0].into(), [1].into(), [1].into()]);
        assert!(of_a > 0.0 && of_b > 0.0 && (both - of_a - of_b).abs() < 1e-6, "{both} {of_a} {of_b}");
        // A row without a weight is as if it were not there.
        let without = value([[0].into(), [0].into(), [1].into(), Target { weight: 0.0, ..[0].into() }]);
        assert!((without - of_a).abs() < 1e-6, "{without} {of_a}");
        // Of a task that one text has a label of, or none, nothing is known.
        let one = value([[0].into(), [0].into(), [1].into(), [2].into()]);
        let none = value([[0].into(), [0].into(), [1].into(), [].into()]);
        assert!((one - of_a).abs() < 1e-6 && (none - of_a).abs() < 1e-6, "{one} {none} {of_a}");
    }

    #[test]
    fn computed_by_hand() {
        // Cosines: 0 with 1 is 0.6, 0 with 2 is 0, 1 with 2 is 0.8; lengths do not matter.
        let vectors = [[2.0, 0.0], [0.3, 0.4], [0.0, 5.0]];
        let (a, b, c) = ((0.6f32 / 0.5).exp(), 1.0f32, (0.8f32 / 0.5).exp());
        let labels: [Target; 3] = [[0].into(), [0].into(), [1].into()];
        let expected = (-(a / (a + b)).ln() - (a / (a + c)).ln()) / 2.0;
        assert!((loss(&vectors, &labels) - expected).abs() < 1e-6);
        // A row that counts three times.
        let weighted = [Target { weight: 3.0, ..[0].into() }, [0].into(), [1].into()];
        let expected = (-3.0 * (a / (a + b)).ln() - (a / (a + c)).ln()) / 4.0;
        assert!((loss(&vectors, &weighted) - expected).abs() < 1e-6);
        // Rows 0 and 1 have half of their labels in common, 0 and 2 a third, 1 and 2 a quarter.
        let several: [Target; 3] = [[0].into(), [0, 1].into(), [0, 2, 3].into()];
        let of_row = |(first, p): (f32, f32), (second, q): (f32, f32)| {
            -(p * (first / (first + second)).ln() + q * (second / (first + second)).ln()) / (p + q)
        };
        let (half, third, quarter) = (0.5, 1.0 / 3.0, 0.25);
        let rows = [of_row((a, half), (b, third)), of_row((a, half), (c, quarter)), of_row((b, third), (c, quarter))];
        assert!((loss(&vectors, &several) - rows.iter().sum::<f32>() / 3.0).abs() < 1e-6);
        // What is not sure: 0.6 of the first label is common, of 1.4 in all.
        let shares = Target { shares: Some(vec![0.6, 0.4]), ..[0].into() };
        assert!((affinity(&shares, &[0].into()) - 0.6 / 1.4).abs() < 1e-6);
        assert_eq!(affinity(&[].into(), &[].into()), 0.0);
        // A vector of zeros has no direction, and does no harm.
        assert!(loss(&[[0.0, 0.0], [0.3, 0.4], [0.0, 5.0]], &labels).is_finite());
        // No row is like another.
        let apart: [Target; 3] = [[0].into(), [1].into(), [2].into()];
        assert_eq!(loss(&vectors, &apart), 0.0);
    }
}
