//! Logistic regression on features: the head of an encoder that stays as it is, begins with it or ends with it.
//!
//! It minimizes what scikit-learn's `LogisticRegression` does, `C · Σ loss + ½ ‖W‖²` with free biases; the loss is that of
//! [`crate::loss::Loss`], with weights of rows and labels, shares, and any number of labels a row.

use candle_core::{DType, Device, Tensor};
use nimbert::{ProblemType, math::vectorized};
use rayon::prelude::*;

use crate::{
    calibrate::temperature_of_least,
    cross_validation::{Fold, Folds, OutOfFold},
    error::{Error, Result},
    features::Features,
    loss::Target,
};

/// What is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticRegression {
    /// One label a row: multinomial. Any number: each label for itself.
    pub problem_type: ProblemType,
    /// The number of labels.
    pub classes: usize,
    /// As [`crate::loss::Loss::class_weights`].
    pub class_weights: Option<Vec<f32>>,
}

/// A layer, and the strength by which it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossValidated {
    /// Learned from all rows.
    pub linear: LinearLayer,
    /// scikit-learn's `C`: the higher, the less weights are drawn towards 0.
    pub strength: f64,
    /// What layers of that strength that have not seen a row answer to it; none: there were too few rows.
    pub out_of_fold: Option<OutOfFold>,
}

/// Strengths that are tried, each ten times the one before: on vectors of length 1, less says nothing and more learns by heart.
const STRENGTHS: [f64; 5] = [0.1, 1.0, 10.0, 100.0, 1000.0];
/// That of too few rows to try others. With less, answers to which no temperature can be fitted would hardly differ.
const USUAL_STRENGTH: f64 = 10.0;
const FOLDS: usize = 5;
/// Rows whose losses a thread computes at once, at least.
const ROWS_OF_TASK: usize = 64;
/// Norm of the gradient at which a layer that only serves to choose, or to begin with, is good enough: that part of the strength below 1,
/// since weights are that small too. In the weights the function is curved by 1 at least.
const ROUGH: f64 = 0.1;
/// The same for one that stays.
const FINE: f64 = 1e-4;

fn rough(strength: f64) -> f64 {
    ROUGH * strength.min(1.0)
}

/// A linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearLayer {
    /// `[classes, width]`
    pub weight: Vec<f64>,
    /// `[classes]`
    pub bias: Vec<f64>,
}

impl LinearLayer {
    /// Of each row of `features`: `[rows][classes]`
    pub fn logits(&self, features: &Features) -> Vec<Vec<f32>> {
        let dot = |a: &[f32], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
        let of_row = |row: usize| {
            let weights = self.weight.chunks_exact(features.width).zip(&self.bias);
            weights.map(|(weight, bias)| (dot(features.row(row), weight) + bias) as f32).collect()
        };
        (0..features.rows()).map(of_row).collect()
    }
}

/// The rows that are learned from.
struct Rows {
    /// `[rows, width]`
    x: Tensor,
    wanted: Wanted,
}

/// What rows should be answered with.
struct Wanted {
    /// From 0 to 1: `[rows][classes]`
    shares: Vec<f64>,
    /// How much each part of the loss counts: `[rows][1]`, or `[rows][classes]` where each label is for itself.
    weights: Vec<f64>,
}

/// What a strength has led to.
struct Tried {
    strength: f64,
    /// Of layers that have not seen a row: `[rows][classes]`
    logits: Vec<Vec<f32>>,
    /// Of each row, its weight times what these say wrong after the temperature that fits them best.
    losses: Vec<f64>,
}

impl Tried {
    fn loss(&self) -> f64 {
        self.losses.iter().sum()
    }

    /// Whether its loss is not larger than the other's by more than the standard error of what they differ.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let rows = self.losses.len() as f64;
        let differences = || self.losses.iter().zip(&other.losses).map(|(own, other)| own - other);
        let sum: f64 = differences().sum();
        let variance = differences().map(|difference| (difference - sum / rows).powi(2)).sum::<f64>() / (rows - 1.0);
        // Of a single row the variance is not a number.
        sum <= 0.0 || sum <= (variance * rows).sqrt()
    }
}

/// The one with the least loss.
fn best(tried: &[Tried]) -> usize {
    (0..tried.len()).min_by(|&a, &b| tried[a].loss().total_cmp(&tried[b].loss())).expect("something was tried")
}

/// The lowest strength that is as good as the best.
fn chosen(tried: &[Tried]) -> usize {
    let best = best(tried);
    (0..best).find(|&lower| tried[lower].is_as_good_as(&tried[best])).unwrap_or(best)
}

impl LogisticRegression {
    /// The layer for `features` and their targets; `strength` is scikit-learn's `C`.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn solve(&self, features: &Features, targets: &[&Target], strength: f64) -> Result<LinearLayer> {
        self.solve_from(None, &self.rows(features, targets)?, strength, FINE)
    }

    /// The same where all weights of rows and labels may be multiplied by anything: `strength` is that of rows that weigh 1 on average.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn solve_by_mean_weight(&self, features: &Features, targets: &[&Target], strength: f64) -> Result<LinearLayer> {
        let rows = self.rows(features, targets)?;
        let weights = &rows.wanted.weights;
        let (counted, total) = (weights.iter().filter(|weight| **weight > 0.0).count(), weights.iter().sum::<f64>());
        let scale = if total > 0.0 { counted as f64 / total } else { 1.0 };
        self.solve_from(None, &rows, strength * scale, FINE)
    }

    /// One that is good enough to learn on from.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn solve_roughly(&self, features: &Features, targets: &[&Target], strength: f64) -> Result<LinearLayer> {
        self.solve_from(None, &self.rows(features, targets)?, strength, rough(strength))
    }

    /// The same by a strength that is chosen by answers to rows that were left out, one fold after the other: the least one whose loss
    /// cannot be told from the best (the rule of one standard error: Breiman et al., "Classification and Regression Trees", 1984). What
    /// is compared is what answers say after their best temperature, so that no strength wins by being loud: who takes scores for
    /// probabilities fits one to the answers to rows that were left out. A row whose label no other fold has says nothing of that. An
    /// error of `on_step`, which is called between solutions, ends the work.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_step`.
    pub fn cross_validate(
        &self,
        features: &Features,
        targets: &[&Target],
        seed: u64,
        mut on_step: impl FnMut() -> Result<()>,
    ) -> Result<CrossValidated> {
        let folds = Folds::new(self.problem_type, targets, self.classes, FOLDS, seed);
        let scored = folds.map(|folds| (self.scored(targets, &folds), folds));
        let Some((wanted, folds)) = scored.filter(|(wanted, _)| wanted.weights.iter().any(|weight| *weight > 0.0))
        else {
            let linear = self.solve(features, targets, USUAL_STRENGTH)?;
            return Ok(CrossValidated { linear, strength: USUAL_STRENGTH, out_of_fold: None });
        };
        let mut layers = vec![None; folds.count()];
        let mut tried: Vec<Tried> = Vec::new();
        for strength in STRENGTHS {
            let logits = self.answers(features, targets, &folds, strength, &mut layers, &mut on_step)?;
            tried.push(Tried { strength, losses: self.losses_at_best(&logits, &wanted), logits });
            // As a rule it falls and then grows, and the higher the strength, the longer a solution takes.
            if !tried[tried.len() - 1].is_as_good_as(&tried[best(&tried)]) {
                break;
            }
        }
        on_step()?;
        let Tried { strength, logits, .. } = tried.swap_remove(chosen(&tried));
        Ok(CrossValidated {
            linear: self.solve(features, targets, strength)?,
            strength,
            out_of_fold: Some(OutOfFold { folds, logits, distances: Vec::new() }),
        })
    }

    /// What is wanted of the rows that can be answered; the others have no weight.
    fn scored(&self, targets: &[&Target], folds: &Folds) -> Wanted {
        let mut scored: Vec<Target> = targets.iter().copied().cloned().collect();
        let unanswerable = scored.iter_mut().enumerate().filter(|(row, _)| !folds.is_answerable(*row));
        unanswerable.for_each(|(_, target)| target.weight = 0.0);
        self.wanted(&scored.iter().collect::<Vec<_>>())
    }

    /// What layers that have not seen a row answer to it. `on_step` is called before each fold.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_step`.
    pub fn out_of_fold(
        &self,
        features: &Features,
        targets: &[&Target],
        folds: &Folds,
        strength: f64,
        on_step: impl FnMut() -> Result<()>,
    ) -> Result<OutOfFold> {
        let logits = self.answers(features, targets, folds, strength, &mut vec![None; folds.count()], on_step)?;
        Ok(OutOfFold { folds: folds.clone(), logits, distances: Vec::new() })
    }

    /// The same as `[rows][classes]`. Each fold's layer is searched from the one in `layers` on, and takes its place.
    fn answers(
        &self,
        features: &Features,
        targets: &[&Target],
        folds: &Folds,
        strength: f64,
        layers: &mut [Option<LinearLayer>],
        mut on_step: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut logits = vec![Vec::new(); targets.len()];
        for (Fold { seen, unseen }, layer) in folds.iter().zip(layers) {
            on_step()?;
            let seen_targets: Vec<&Target> = seen.iter().map(|&row| targets[row]).collect();
            let rows = self.rows(&features.select(&seen), &seen_targets)?;
            let solved = self.solve_from(layer.as_ref(), &rows, strength, rough(strength))?;
            let answers = solved.logits(&features.select(&unseen));
            unseen.iter().zip(answers).for_each(|(&row, of_row)| logits[row] = of_row);
            *layer = Some(solved);
        }
        Ok(logits)
    }

    /// The weighted loss of each row that counts, after the temperature at which their sum is least.
    fn losses_at_best(&self, logits: &[Vec<f32>], wanted: &Wanted) -> Vec<f64> {
        let losses_at = |temperature: f64| -> Vec<f64> {
            let mut scaled: Vec<f64> = logits.iter().flatten().map(|logit| f64::from(*logit) / temperature).collect();
            self.losses(&mut scaled, wanted)
        };
        let weights = wanted.weights.chunks_exact(self.weights_of_row());
        let counts: Vec<bool> = weights.map(|weights| weights.iter().any(|weight| *weight > 0.0)).collect();
        // One row more, by which a temperature is pulled, is one of their weight.
        let rows = counts.iter().filter(|counts| **counts).count().max(1) as f64;
        let of_a_row = wanted.weights.iter().sum::<f64>() / (rows * self.weights_of_row() as f64);
        let temperature = temperature_of_least(|temperature| losses_at(temperature).iter().sum::<f64>() / of_a_row);
        losses_at(temperature).into_iter().zip(counts).filter_map(|(loss, counts)| counts.then_some(loss)).collect()
    }

    fn solve_from(
        &self,
        start: Option<&LinearLayer>,
        rows: &Rows,
        strength: f64,
        tolerance: f64,
    ) -> Result<LinearLayer> {
        let width = rows.x.dim(1)?;
        let zeros = || LinearLayer { weight: vec![0.0; self.classes * width], bias: vec![0.0; self.classes] };
        let LinearLayer { weight, bias } = start.cloned().unwrap_or_else(zeros);
        let point = [weight, bias].concat();
        let mut solution = minimize(point, tolerance, |point| self.loss(rows, point, strength))?;
        let bias = solution.split_off(self.classes * width);
        Ok(LinearLayer { weight: solution, bias })
    }

    fn rows(&self, features: &Features, targets: &[&Target]) -> Result<Rows> {
        Ok(Rows { x: features.tensor()?.to_dtype(DType::F64)?, wanted: self.wanted(targets) })
    }

    fn wanted(&self, targets: &[&Target]) -> Wanted {
        let classes = self.classes;
        let of_target = |target: &&Target| (0..classes).map(|class| f64::from(target.share(class))).collect::<Vec<_>>();
        let mut shares: Vec<f64> = targets.iter().flat_map(of_target).collect();
        let class_weight = |class: usize| self.class_weights.as_ref().map_or(1.0, |weights| f64::from(weights[class]));
        // A label that counts more is as if it had a larger share of a row that counts more.
        let of_row = |(target, shares): (&&Target, &mut [f64])| -> Vec<f64> {
            let weight = f64::from(target.weight);
            let weighted = shares.iter().enumerate().map(|(class, share)| share * class_weight(class));
            let weighted: Vec<f64> = weighted.collect();
            match self.problem_type {
                ProblemType::SingleLabel => {
                    let total: f64 = weighted.iter().sum();
                    if total > 0.0 {
                        shares.iter_mut().zip(weighted).for_each(|(share, weighted)| *share = weighted / total);
                    }
                    vec![weight * total]
                }
                ProblemType::MultiLabel => {
                    let of_label = |(share, weighted): (&mut f64, f64)| {
                        let total = weighted + 1.0 - *share;
                        if total > 0.0 {
                            *share = weighted / total;
                        }
                        weight * total
                    };
                    shares.iter_mut().zip(weighted).map(of_label).collect()
                }
            }
        };
        let weights = targets.iter().zip(shares.chunks_exact_mut(classes)).flat_map(of_row).collect();
        Wanted { shares, weights }
    }

    fn weights_of_row(&self) -> usize {
        match self.problem_type {
            ProblemType::SingleLabel => 1,
            ProblemType::MultiLabel => self.classes,
        }
    }

    /// What is minimized, and its gradient.
    fn loss(&self, Rows { x, wanted }: &Rows, point: &[f64], strength: f64) -> Result<(f64, Vec<f64>)> {
        let (classes, width) = (self.classes, x.dim(1)?);
        let (weight, bias) = point.split_at(classes * width);
        let matrix = Tensor::from_slice(weight, (classes, width), &Device::Cpu)?;
        let mut logits = x.matmul(&matrix.t()?)?.flatten_all()?.to_vec1::<f64>()?;
        for row in logits.chunks_exact_mut(classes) {
            row.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
        }
        let loss: f64 = self.losses(&mut logits, wanted).iter().sum();
        let slopes = logits;
        let mut of_bias = vec![0.0; classes];
        for row in slopes.chunks_exact(classes) {
            of_bias.iter_mut().zip(row).for_each(|(sum, slope)| *sum += slope * strength);
        }
        let slopes = Tensor::from_vec(slopes, (x.dim(0)?, classes), &Device::Cpu)?;
        let mut gradient = slopes.t()?.matmul(x)?.flatten_all()?.to_vec1::<f64>()?;
        gradient.iter_mut().zip(weight).for_each(|(slope, weight)| *slope = *slope * strength + weight);
        gradient.extend(of_bias);
        Ok((strength * loss + dot(weight, weight) / 2.0, gradient))
    }

    /// The weighted loss of each row of `logits` `[rows][classes]`, which become its slopes.
    fn losses(&self, logits: &mut [f64], wanted: &Wanted) -> Vec<f64> {
        let of_row = match self.problem_type {
            ProblemType::SingleLabel => cross_entropy,
            ProblemType::MultiLabel => binary_cross_entropy,
        };
        let rows = logits.par_chunks_exact_mut(self.classes).zip(wanted.shares.par_chunks_exact(self.classes));
        let weights = wanted.weights.par_chunks_exact(self.weights_of_row());
        rows.zip(weights)
            .with_min_len(ROWS_OF_TASK)
            .map(|((logits, shares), weights)| of_row(logits, shares, weights))
            .collect()
    }
}

/// A row's loss against shares that sum to 1, times its weight; the logits become its slopes.
fn cross_entropy(logits: &mut [f64], shares: &[f64], weights: &[f64]) -> f64 {
    let weight = weights[0];
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut said, mut total) = (0.0, 0.0);
    for (logit, share) in logits.iter_mut().zip(shares) {
        said += share * (*logit - max);
        *logit = (*logit - max).exp();
        total += *logit;
    }
    for (slope, share) in logits.iter_mut().zip(shares) {
        *slope = weight * (*slope / total - share);
    }
    weight * (total.ln() - said)
}

/// The same of labels that are each for themselves, with their weights.
fn binary_cross_entropy(logits: &mut [f64], shares: &[f64], weights: &[f64]) -> f64 {
    let mut loss = 0.0;
    for ((logit, share), weight) in logits.iter_mut().zip(shares).zip(weights) {
        // max(z, 0) − z y + log(1 + e^−|z|)
        let tail = (-logit.abs()).exp();
        loss += weight * (logit.max(0.0) - *logit * share + tail.ln_1p());
        let said = if *logit >= 0.0 { 1.0 } else { tail } / (1.0 + tail);
        *logit = weight * (said - share);
    }
    loss
}

/// Σ aᵢbᵢ, summed in eight lanes: one after the other, each sum would wait for the last.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    vectorized(
        #[inline(always)]
        || {
            let mut lanes = [0.0; 8];
            let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
            let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
            for (a, b) in a_chunks.zip(b_chunks) {
                for lane in 0..8 {
                    lanes[lane] += a[lane] * b[lane];
                }
            }
            lanes.iter().sum::<f64>() + tail
        },
    )
}

/// The point at which a smooth convex function is least, by L-BFGS (Liu and Nocedal, 1989), from `x` on, until the gradient is not
/// longer than `tolerance`, or rounding lets the function fall no further.
fn minimize(
    mut x: Vec<f64>,
    tolerance: f64,
    mut function: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
) -> Result<Vec<f64>> {
    const MEMORY: usize = 10;
    const ITERATIONS: usize = 1000;
    const HALVINGS: usize = 30;
    /// A step must bring this share of what the slope promises.
    const SUFFICIENT: f64 = 1e-4;
    let (mut value, mut gradient) = function(&x)?;
    if !value.is_finite() {
        return Err(Error::Tensor(candle_core::Error::Msg("features that are not finite".to_owned())));
    }
    // Of the last steps: how far, and by how much the gradient changed.
    let mut steps: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..ITERATIONS {
        if dot(&gradient, &gradient).sqrt() <= tolerance {
            break;
        }
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut shares = Vec::with_capacity(steps.len());
        for (step, change) in steps.iter().rev() {
            let share = dot(step, &direction) / dot(step, change);
            direction.iter_mut().zip(change).for_each(|(d, change)| *d -= share * change);
            shares.push(share);
        }
        // Of the first step nothing is known but that it should not be long.
        let scale = match steps.last() {
            Some((step, change)) => dot(step, change) / dot(change, change),
            None => 1.0 / dot(&gradient, &gradient).sqrt().max(1.0),
        };
        direction.iter_mut().for_each(|d| *d *= scale);
        for ((step, change), share) in steps.iter().zip(shares.into_iter().rev()) {
            let share = share - dot(change, &direction) / dot(step, change);
            direction.iter_mut().zip(step).for_each(|(d, step)| *d += share * step);
        }
        let slope = dot(&direction, &gradient);
        let mut length = 1.0;
        let mut found = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (next_value, next_gradient) = function(&next)?;
            if next_value <= value + SUFFICIENT * length * slope {
                found = Some((next, next_value, next_gradient));
                break;
            }
            length /= 2.0;
        }
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f64> = next.iter().zip(&x).map(|(next, x)| next - x).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, g)| next - g).collect();
        if dot(&step, &change) > 0.0 {
            if steps.len() == MEMORY {
                steps.remove(0);
            }
            steps.push((step, change));
        }
        (x, value, gradient) = (next, next_value, next_gradient);
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Loss;

    /// Numbers from −1 to 1 that look random.
    fn noise(index: usize) -> f32 {
        ((index as f32 * 12.9898).sin() * 43758.547).fract()
    }

    /// Rows of 4 numbers, and their labels.
    fn rows(count: usize, classes: u32) -> (Features, Vec<Target>) {
        let values: Vec<f32> = (0..count * 4).map(noise).collect();
        let features = Features { values, width: 4 };
        let label = |row: usize| ((features.row(row)[0] + 0.4 * noise(row + 7)).abs() * 10.0) as u32 % classes;
        let targets = (0..count).map(|row| [label(row)].into()).collect();
        (features, targets)
    }

    fn task(problem_type: ProblemType, classes: usize) -> LogisticRegression {
        LogisticRegression { problem_type, classes, class_weights: None }
    }

    #[test]
    fn a_factor_of_all_weights_changes_nothing() {
        let values = vec![1.0, 0.0, 0.8, 0.6, 0.0, 1.0, 0.6, 0.8];
        let (features, labels) = (Features { values, width: 2 }, [0, 0, 1, 1]);
        let regression = task(ProblemType::SingleLabel, 2);
        let solved = |weight: f32| {
            let targets: Vec<Target> = labels.iter().map(|&label| Target { weight, ..[label].into() }).collect();
            regression.solve_by_mean_weight(&features, &targets.iter().collect::<Vec<_>>(), 10.0).unwrap()
        };
        let (usual, light) = (solved(1.0), solved(1e-4));
        for (usual, light) in usual.weight.iter().zip(&light.weight) {
            assert!(usual.abs() > 0.1 && (usual - light).abs() < 1e-3, "{usual} {light}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (features, mut targets) = rows(20, 3);
        targets[1] = Target { ids: vec![0], shares: Some(vec![0.5, 0.3, 0.2]), weight: 2.0 };
        let mut several: Vec<Target> =
            (0..20u32).map(|row| if row % 3 == 0 { [0, 2].into() } else { [row % 2].into() }).collect();
        several[2] = Target { ids: vec![1], shares: Some(vec![0.5, 0.8, 0.1]), weight: 3.0 };
        for (problem_type, targets) in [(ProblemType::SingleLabel, targets), (ProblemType::MultiLabel, several)] {
            let task = LogisticRegression { class_weights: Some(vec![1.0, 2.0, 0.5]), ..task(problem_type, 3) };
            let rows = task.rows(&features, &targets.iter().collect::<Vec<_>>()).unwrap();
            let point: Vec<f64> = (0..15).map(|index| f64::from(noise(index + 100))).collect();
            let (value, gradient) = task.loss(&rows, &point, 3.0).unwrap();
            // It is the sum of which the training loss is a mean.
            let linear = LinearLayer { weight: point[..12].to_vec(), bias: point[12..].to_vec() };
            let logits = Tensor::from_vec(linear.logits(&features).concat(), (20, 3), &Device::Cpu).unwrap();
            let loss = Loss { problem_type, class_weights: task.class_weights.clone(), ..Loss::default() };
            let mean = loss.forward(&logits, &targets.iter().collect::<Vec<_>>()).unwrap().to_scalar::<f32>().unwrap();
            let count = match problem_type {
                ProblemType::SingleLabel => rows.wanted.weights.iter().sum(),
                ProblemType::MultiLabel => 3.0 * targets.iter().map(|target| f64::from(target.weight)).sum::<f64>(),
            };
            let squares = point[..12].iter().map(|x| x * x).sum::<f64>() / 2.0;
            assert!(((value - squares) / 3.0 - f64::from(mean) * count).abs() < 1e-4, "{value} {mean}");
            for index in 0..point.len() {
                let mut near = [point.clone(), point.clone()];
                (near[0][index], near[1][index]) = (point[index] - 1e-6, point[index] + 1e-6);
                let [before, behind] = near.map(|point| task.loss(&rows, &point, 3.0).unwrap().0);
                let slope = (behind - before) / 2e-6;
                assert!((slope - gradient[index]).abs() < 1e-6 * slope.abs().max(1.0), "{index}: {slope}");
            }
        }
    }

    #[test]
    fn the_gradient_vanishes_at_the_solution() {
        let (features, targets) = rows(60, 3);
        let targets: Vec<&Target> = targets.iter().collect();
        let task = task(ProblemType::SingleLabel, 3);
        let LinearLayer { weight, bias } = task.solve(&features, &targets, 100.0).unwrap();
        let rows = task.rows(&features, &targets).unwrap();
        let (_, gradient) = task.loss(&rows, &[weight, bias].concat(), 100.0).unwrap();
        assert!(gradient.iter().all(|g| g.abs() <= FINE), "{gradient:?}");
    }

    #[test]
    fn a_row_that_counts_twice_is_two_rows() {
        let (features, targets) = rows(12, 2);
        let task = task(ProblemType::SingleLabel, 2);
        let mut doubled: Vec<Target> = targets.clone();
        doubled[5].weight = 2.0;
        let one = task.solve(&features, &doubled.iter().collect::<Vec<_>>(), 5.0).unwrap();
        let order: Vec<usize> = (0..12).chain([5]).collect();
        let twice: Vec<&Target> = order.iter().map(|&row| &targets[row]).collect();
        let two = task.solve(&features.select(&order), &twice, 5.0).unwrap();
        assert!(one.weight.iter().zip(&two.weight).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn the_strength_is_chosen_by_rows_that_were_left_out() {
        // Labels that do not follow from the numbers: the less is learned, the better.
        let (features, _) = rows(80, 2);
        let random: Vec<Target> = (0..80).map(|row| [u32::from(noise(row * 31 + 5) > 0.0)].into()).collect();
        let targets: Vec<&Target> = random.iter().collect();
        let task = task(ProblemType::SingleLabel, 2);
        let chosen = task.cross_validate(&features, &targets, 0, || Ok(())).unwrap();
        assert!(chosen.strength <= 1.0 && chosen.out_of_fold.unwrap().folds.count() == FOLDS, "{}", chosen.strength);
        // Labels that do.
        let sure: Vec<Target> = (0..80).map(|row| [u32::from(features.row(row)[2] > 0.0)].into()).collect();
        let targets: Vec<&Target> = sure.iter().collect();
        let chosen = task.cross_validate(&features, &targets, 0, || Ok(())).unwrap();
        let accuracy = chosen.out_of_fold.unwrap().accuracy(ProblemType::SingleLabel, &targets);
        assert!(chosen.strength >= 100.0 && accuracy > 0.8, "{} {accuracy}", chosen.strength);
        // Too few rows to leave some out.
        let few = task.cross_validate(&features.select(&[0, 1, 2]), &targets[..3], 0, || Ok(())).unwrap();
        assert_eq!((few.strength, few.out_of_fold), (USUAL_STRENGTH, None));
    }

    #[test]
    fn the_least_strength_wins_that_cannot_be_told_from_the_best() {
        let tried = |losses: [f64; 4]| Tried { strength: 1.0, logits: Vec::new(), losses: losses.into() };
        let best = tried([1.0, 1.0, 1.0, 1.0]);
        // Of the differences −1, 1, 1, 1 the sum is 2, and its standard error 2; with 0.3 more in the last row the sum is larger.
        assert!(tried([0.0, 2.0, 2.0, 2.0]).is_as_good_as(&best));
        assert!(!tried([0.0, 2.0, 2.0, 2.3]).is_as_good_as(&best));
        // Worse by the same in each row, which is no chance.
        assert!(!tried([1.1; 4]).is_as_good_as(&best) && best.is_as_good_as(&best));
        // Of a single row nothing is known.
        let one = |loss| Tried { losses: vec![loss], ..tried([0.0; 4]) };
        assert!(!one(1.1).is_as_good_as(&one(1.0)) && one(1.0).is_as_good_as(&one(1.0)));
        // Neither the best, which is loud, nor the first, which is worse for sure.
        let [bad, good] = [[1.1; 4], [0.0, 2.0, 2.0, 2.0]];
        let of_all = |losses: &[[f64; 4]]| chosen(&losses.iter().map(|losses| tried(*losses)).collect::<Vec<_>>());
        assert_eq!(of_all(&[bad, good, [1.0; 4], [1.0; 4]]), 1);
        assert_eq!((of_all(&[bad, [1.0; 4]]), of_all(&[[1.0; 4], bad]), of_all(&[bad])), (1, 0, 0));
    }

    #[test]
    fn higher_strengths_are_not_tried_once_they_are_worse_for_sure() {
        // What is learned of labels by chance is wrong, and the more the worse: fewer strengths of five folds than there are.
        let features = Features { values: (0..80 * 40).map(noise).collect(), width: 40 };
        let random: Vec<Target> = (0..80).map(|row| [u32::from(noise(row * 31 + 5) > 0.0)].into()).collect();
        let mut steps = 0;
        let count = || {
            steps += 1;
            Ok(())
        };
        let task_of_two = task(ProblemType::SingleLabel, 2);
        let chosen = task_of_two.cross_validate(&features, &random.iter().collect::<Vec<_>>(), 0, count).unwrap();
        assert!(chosen.strength <= 1.0 && steps < STRENGTHS.len() * FOLDS, "{} {steps}", chosen.strength);
        // Labels that no other fold has, or that do not count, leave nothing to choose by.
        let apart = Features { values: (0..80).map(|row| if row % 2 == 0 { 1.0 } else { -1.0 }).collect(), width: 1 };
        let two: Vec<Target> = (0..80).map(|row| [u32::from(row == 0)].into()).collect();
        let uncounted = LogisticRegression { class_weights: Some(vec![0.0, 1.0]), ..task_of_two };
        let chosen = uncounted.cross_validate(&apart, &two.iter().collect::<Vec<_>>(), 0, || Ok(())).unwrap();
        assert_eq!((chosen.strength, chosen.out_of_fold), (USUAL_STRENGTH, None));
    }

    #[test]
    fn a_rough_solution_of_few_rows_says_something() {
        let targets: Vec<Target> = (0..8u32).map(|row| [row % 2].into()).collect();
        // Nearly all rows have in common.
        let numbers = (0..8).flat_map(|row| [0.99, if row % 2 == 0 { 0.1 } else { -0.1 }]);
        let features = Features { values: numbers.collect(), width: 2 };
        let rough =
            task(ProblemType::SingleLabel, 2).solve_roughly(&features, &targets.iter().collect::<Vec<_>>(), 0.1);
        let logits = rough.unwrap().logits(&features);
        assert!(logits.iter().enumerate().all(|(row, of)| of[row % 2] > of[1 - row % 2]), "{logits:?}");
    }

    #[test]
    fn answers_are_judged_after_their_best_temperature() {
        let (_, mut targets) = rows(40, 3);
        targets[3].weight = 0.0;
        let wrong = |row: usize| if row.is_multiple_of(4) { 0 } else { targets[row].id() as usize };
        let logits = |scale: f32| -> Vec<Vec<f32>> {
            (0..40).map(|row| (0..3).map(|id| if id == wrong(row) { scale } else { 0.0 }).collect()).collect()
        };
        let several = targets.iter().enumerate().map(|(row, target)| match row % 5 {
            0 => Target { ids: vec![0, 2], shares: Some(vec![0.9, 0.3, 0.6]), weight: 2.0 },
            _ => target.clone(),
        });
        let several: Vec<Target> = several.collect();
        for (problem_type, targets) in [(ProblemType::SingleLabel, &targets), (ProblemType::MultiLabel, &several)] {
            let task = LogisticRegression { class_weights: Some(vec![1.0, 2.0, 0.5]), ..task(problem_type, 3) };
            let wanted = task.wanted(&targets.iter().collect::<Vec<_>>());
            let [quiet, loud] = [0.5, 8.0].map(|scale| task.losses_at_best(&logits(scale), &wanted));
            // Each row that counts, and it does not matter how loud the answers are.
            assert_eq!(quiet.len(), 39);
            let [quiet, loud]: [f64; 2] = [quiet, loud].map(|losses| losses.iter().sum());
            assert!((quiet - loud).abs() < 0.03 * loud, "{quiet} {loud}");
            let at = |temperature: f64| -> f64 {
                let scaled = logits(8.0).concat().into_iter().map(|logit| f64::from(logit) / temperature);
                task.losses(&mut scaled.collect::<Vec<_>>(), &wanted).iter().sum()
            };
            assert!([1.0, 2.0, 20.0].into_iter().all(|temperature| at(temperature) > loud), "{loud}");
        }
    }
}
