//! How far a text is from all that a classifier was trained on: the squared Mahalanobis distance of what the encoder says of it
//! to the nearest label's mean (Lee et al., arXiv 1807.03888).
//!
//! All labels share one covariance, that of the rows around their label's mean, shrunk towards a multiple of the unit matrix as far
//! as the rows are too few to know it (Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
//! 2004). Of that the directions of most variance are kept, and all others have one variance (Tipping and Bishop, "Probabilistic
//! principal component analysis", 1999): the distance costs a thin product, and its constants are small beside a model.
//!
//! Where there are texts that are known to be like no label, logistic regression tells them from the rows by that distance and by the
//! direction in which a text lies: the distance is what it finds, and further away is never nearer.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use nimbert::{ProblemType, session::DISTANCE};

use crate::{
    error::Result,
    features::Features,
    logistic::{CrossValidated, LogisticRegression},
    loss::Target,
    onnx::{Exporter, int_attribute},
};

/// Directions whose variance is known, at most.
const RANK: usize = 64;
/// No direction is taken to have less variance than this share of what all features have on average: rows that are all but the same
/// would put everything else beyond any number. Of real encoders the least is about half of it.
const LEAST_SHARE: f64 = 1e-2;
/// And no less than this, divided by the width: of features that are all the same.
const LEAST_VARIANCE: f64 = 1e-5;
/// The distance of rows of which all is known is their width, and is taken to be this share of it at least.
const LEAST_DISTANCE: f64 = 1e-2;
/// Rows whose products are summed at once.
const BLOCK: usize = 1024;

/// How far a feature vector is from those that it was fitted to: 1 is the mean of their distances, unless they are all but the same.
///
/// Where no strangers are known: of y, the vector less the mean of the label that is nearest, both times `scale`, it is |y|² − |y · directions|².
#[derive(Debug, Clone)]
pub struct Mahalanobis {
    scale: f64,
    spread: f64,
    /// Those of the labels, scaled: `[labels, width]`
    means: Tensor,
    /// Of x, the scaled vector, x · slopes + offsets is largest at the nearest label: `[width, labels]`
    slopes: Tensor,
    /// `[labels]`
    offsets: Tensor,
    /// What directions of more variance than the others take back, as its root: `[width, rank]`
    directions: Tensor,
    boundary: Option<Boundary>,
}

/// What texts that are like no label have taught: of x, the vector, and its distance d it is slope · d + x · weights + offset.
#[derive(Debug, Clone)]
struct Boundary {
    slope: f64,
    /// `[width, 1]`
    weights: Tensor,
    offset: f64,
}

/// The inverse of a covariance: that of `others`, one variance for all directions, less what some have more.
struct Inverse {
    others: f64,
    /// `[width, rank]`, of length 1
    directions: DMatrix<f64>,
    /// 1 / others − 1 / variance, of each
    less: DVector<f64>,
}

impl Mahalanobis {
    /// Fits it to `features`, each row of one of the `classes`, which have a mean each: those of the labels, where a text has one.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    ///
    /// # Panics
    /// If there is no row.
    pub fn fit(features: &Features, classes: &[usize]) -> Result<Self> {
        let (rows, width) = (features.rows(), features.width);
        let row = |row: usize| DVector::from_iterator(width, features.row(row).iter().map(|x| f64::from(*x)));
        let count = classes.iter().max().expect("at least one row") + 1;
        let mut sums = vec![(DVector::zeros(width), 0.0); count];
        for index in 0..rows {
            let (sum, count) = &mut sums[classes[index]];
            *sum += row(index);
            *count += 1.0;
        }
        let present: Vec<usize> = (0..count).filter(|&class| sums[class].1 > 0.0).collect();
        let mean = sums.iter().map(|(sum, _)| sum).sum::<DVector<f64>>() / rows as f64;
        let means: Vec<DVector<f64>> = sums.into_iter().map(|(sum, count)| sum / f64::max(count, 1.0)).collect();
        let average = (0..rows).map(|index| (row(index) - &mean).norm_squared()).sum::<f64>() / (rows * width) as f64;
        let least = (LEAST_SHARE * average).max(LEAST_VARIANCE / width as f64);
        let inverse = Inverse::of(&|index| row(index) - &means[classes[index]], rows, width, least);
        // xᵀPx − 2 xᵀPm + mᵀPm, of which the first is the same for all. A label that no row has is no mean.
        let means: Vec<&DVector<f64>> = present.iter().map(|&class| &means[class]).collect();
        let products: Vec<DVector<f64>> = means.iter().map(|mean| inverse.product(mean)).collect();
        let offsets: Vec<f64> = means.iter().zip(&products).map(|(mean, product)| -mean.dot(product) / 2.0).collect();
        let distance = |index: usize| {
            let x = row(index);
            let score = |label: &usize| x.dot(&products[*label]) + offsets[*label];
            let nearest = (0..means.len()).max_by(|a, b| score(a).total_cmp(&score(b))).expect("a row has a label");
            inverse.distance(&(x - means[nearest]))
        };
        let unit = ((0..rows).map(distance).sum::<f64>() / rows as f64).max(LEAST_DISTANCE * width as f64);
        let scale = (1.0 / (inverse.others * unit)).sqrt();
        let from_all = (0..rows).map(|index| inverse.distance(&(row(index) - &mean)));
        // Less only of rows that are all but the same.
        let spread = (from_all.sum::<f64>() / (rows as f64 * unit)).max(1.0);
        let shares = inverse.less.map(|less| (less * inverse.others).max(0.0).sqrt());
        let directions = &inverse.directions * DMatrix::from_diagonal(&shares);
        // As large as the distances themselves, so that fp16 can hold them.
        let slopes = DMatrix::from_columns(&products) / (unit * scale);
        let scaled: Vec<DVector<f64>> = means.iter().map(|mean| *mean * scale).collect();
        let vector = |values: &[f64]| -> Result<Tensor> {
            Ok(Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_dtype(DType::F32)?)
        };
        // nalgebra has column after column.
        let matrix = |matrix: &DMatrix<f64>| -> Result<Tensor> {
            let rows = vector(matrix.as_slice())?.reshape((matrix.ncols(), matrix.nrows()))?;
            Ok(rows.t()?.contiguous()?)
        };
        Ok(Self {
            scale,
            spread,
            means: matrix(&DMatrix::from_columns(&scaled))?.t()?.contiguous()?,
            slopes: matrix(&slopes)?,
            offsets: vector(&offsets.iter().map(|offset| offset / unit).collect::<Vec<_>>())?,
            directions: matrix(&directions)?,
            boundary: None,
        })
    }

    /// The same, by what tells `strangers`, which are like no label, from the rows that it was fitted to. Of those 1 is the mean again,
    /// and none is below 0. An error of `on_step`, which is called now and then, ends the work.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`]; those of `on_step`.
    pub fn told_from(
        self,
        rows: &Features,
        strangers: &Features,
        seed: u64,
        on_step: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let width = rows.width;
        // The distance as a further feature.
        let with_distance = |features: &Features| -> Result<Vec<f32>> {
            let distances = self.distances(features)?;
            let rows = distances.iter().enumerate();
            Ok(rows.flat_map(|(row, distance)| features.row(row).iter().chain([distance])).copied().collect())
        };
        let values = [with_distance(rows)?, with_distance(strangers)?].concat();
        let all = Features { values, width: width + 1 };
        let targets: Vec<Target> = (0..all.rows()).map(|row| [u32::from(row >= rows.rows())].into()).collect();
        let targets: Vec<&Target> = targets.iter().collect();
        let regression = LogisticRegression { problem_type: ProblemType::SingleLabel, classes: 2, class_weights: None };
        let CrossValidated { linear, out_of_fold, .. } = regression.cross_validate(&all, &targets, seed, on_step)?;
        // Honest odds, those of rows that were left out.
        let temperature = out_of_fold
            .map_or(1.0, |answers| f64::from(answers.decision(ProblemType::SingleLabel, &targets).temperature));
        let (of_rows, of_strangers) = linear.weight.split_at(width + 1);
        let mut weights: Vec<f64> =
            of_strangers.iter().zip(of_rows).map(|(strange, known)| (strange - known) / temperature).collect();
        let slope = weights.pop().expect("the distance's").max(0.0);
        let score = |row: usize| {
            let (vector, distance) = all.row(row).split_at(width);
            let dot: f64 = vector.iter().zip(&weights).map(|(x, weight)| f64::from(*x) * weight).sum();
            dot + slope * f64::from(distance[0])
        };
        let scores: Vec<f64> = (0..rows.rows()).map(score).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        // Never steeper than the odds themselves.
        let scale = 1.0 / (mean - least).max(1.0);
        weights.iter_mut().for_each(|weight| *weight *= scale);
        let weights = Tensor::from_vec(weights, (width, 1), &Device::Cpu)?.to_dtype(DType::F32)?;
        let boundary = Boundary { slope: slope * scale, weights, offset: 1.0 - mean * scale };
        Ok(Self { boundary: Some(boundary), spread: 1.0, ..self })
    }

    /// How far the rows are from the mean of all of them: a unit in which distances by several models can be compared. Their distances
    /// from the nearest label, of which 1 is the mean, are less the fewer rows a model has learned from, and the longer, while those of
    /// other texts are not. At least 1, which it is where all rows have one mean, and where strangers are known.
    pub fn spread(&self) -> f32 {
        self.spread as f32
    }

    /// Numbers a vector.
    pub(crate) fn width(&self) -> usize {
        self.means.dims()[1]
    }

    /// Of each row of `features`.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn distances(&self, features: &Features) -> Result<Vec<f32>> {
        let x = (features.tensor()? * self.scale)?;
        let nearest = x.matmul(&self.slopes)?.broadcast_add(&self.offsets)?.argmax(1)?;
        let y = (x - self.means.index_select(&nearest, 0)?)?;
        let distances = (y.sqr()?.sum(1)? - y.matmul(&self.directions)?.sqr()?.sum(1)?)?.relu()?;
        let Some(Boundary { slope, weights, offset }) = &self.boundary else { return Ok(distances.to_vec1()?) };
        let of_direction = features.tensor()?.matmul(weights)?.squeeze(1)?;
        Ok((distances.affine(*slope, *offset)? + of_direction)?.relu()?.to_vec1()?)
    }

    /// The nodes from `unit`, vectors of length 1 `[batch, width]`, to the output `distance` `[batch, 1]`.
    pub(crate) fn graph(&self, exporter: &mut Exporter<'_>, unit: &str) -> Result<()> {
        let b = &mut exporter.builder;
        let name = |part: &str| format!("{DISTANCE}/{part}");
        let scale = b.scalar(&name("scale"), self.scale as f32);
        let constants = [
            ("means", &self.means),
            ("slopes", &self.slopes),
            ("offsets", &self.offsets),
            ("directions", &self.directions),
        ];
        for (part, tensor) in constants {
            b.floats(&name(part), tensor)?;
        }
        let [means, slopes, offsets, directions] = constants.map(|(part, _)| name(part));
        let axis = b.integers(&name("axis"), &[-1]);
        let x = b.node(&name("scaled"), "Mul", &[unit, &scale], vec![]);
        let of_labels = b.node(&name("of_labels"), "Gemm", &[&x, &slopes, &offsets], vec![]);
        let along_labels = vec![int_attribute("axis", -1), int_attribute("keepdims", 0)];
        let nearest = b.node(&name("nearest"), "ArgMax", &[&of_labels], along_labels);
        let mean = b.node(&name("mean"), "Gather", &[&means, &nearest], vec![int_attribute("axis", 0)]);
        let y = b.node(&name("deviation"), "Sub", &[&x, &mean], vec![]);
        let along = b.node(&name("along"), "MatMul", &[&y, &directions], vec![]);
        let mut square = |part: &str, x: &str| {
            let squares = b.node(&name(&format!("{part}_squares")), "Mul", &[x, x], vec![]);
            b.node(&name(part), "ReduceSum", &[&squares, &axis], vec![])
        };
        let (all, taken) = (square("all", &y), square("taken", &along));
        let rest = b.node(&name("rest"), "Sub", &[&all, &taken], vec![]);
        // Where nothing is left, rounding may leave less.
        let Some(Boundary { slope, weights, offset }) = &self.boundary else {
            b.node(DISTANCE, "Relu", &[&rest], vec![]);
            return Ok(());
        };
        let distance = b.node(&name("of_rows"), "Relu", &[&rest], vec![]);
        b.floats(&name("weights"), weights)?;
        let (slope, offset) = (b.scalar(&name("slope"), *slope as f32), b.scalar(&name("offset"), *offset as f32));
        let sloped = b.node(&name("sloped"), "Mul", &[&distance, &slope], vec![]);
        let of_direction = b.node(&name("of_direction"), "MatMul", &[unit, &name("weights")], vec![]);
        let sum = b.node(&name("sum"), "Add", &[&sloped, &of_direction], vec![]);
        let told = b.node(&name("told"), "Add", &[&sum, &offset], vec![]);
        b.node(DISTANCE, "Relu", &[&told], vec![]);
        Ok(())
    }
}

impl Inverse {
    /// That of the covariance of `deviations` of rows from their means, with no variance under `least`.
    fn of(deviations: &dyn Fn(usize) -> DVector<f64>, rows: usize, width: usize, least: f64) -> Self {
        let (covariance, shrinkage) = covariance(deviations, rows, width);
        let average = covariance.trace() / width as f64;
        let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(covariance);
        let variance = |index: usize| ((1.0 - shrinkage) * eigenvalues[index] + shrinkage * average).max(least);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));
        let (first, others) = order.split_at(RANK.min(width - 1));
        // With the harmonic mean of theirs, distances are on average what they would be with each.
        let others = others.len() as f64 / others.iter().map(|&index| 1.0 / variance(index)).sum::<f64>();
        Self {
            others,
            directions: DMatrix::from_fn(width, first.len(), |place, direction| {
                eigenvectors[(place, first[direction])]
            }),
            less: DVector::from_iterator(first.len(), first.iter().map(|&index| 1.0 / others - 1.0 / variance(index))),
        }
    }

    fn product(&self, x: &DVector<f64>) -> DVector<f64> {
        let along = self.directions.tr_mul(x).component_mul(&self.less);
        x / self.others - &self.directions * along
    }

    /// The squared length of a deviation by it.
    fn distance(&self, deviation: &DVector<f64>) -> f64 {
        deviation.dot(&self.product(deviation))
    }
}

/// The covariance of rows around 0, and how far it is to be drawn towards its mean variance in all directions.
fn covariance(row: &dyn Fn(usize) -> DVector<f64>, rows: usize, width: usize) -> (DMatrix<f64>, f64) {
    let mut covariance = DMatrix::zeros(width, width);
    let mut fourth_powers = 0.0;
    for start in (0..rows).step_by(BLOCK) {
        let columns: Vec<DVector<f64>> = (start..rows.min(start + BLOCK)).map(row).collect();
        fourth_powers += columns.iter().map(|column| column.norm_squared().powi(2)).sum::<f64>();
        let block = DMatrix::from_columns(&columns);
        covariance.gemm(1.0 / rows as f64, &block, &block.transpose(), 1.0);
    }
    let average = covariance.trace() / width as f64;
    let away = covariance.norm_squared() - width as f64 * average.powi(2);
    // How much of that is chance: the variance of the mean of all rows' products.
    let chance = (fourth_powers / rows as f64 - covariance.norm_squared()) / rows as f64;
    let shrinkage = if away > 0.0 { (chance / away).clamp(0.0, 1.0) } else { 1.0 };
    (covariance, shrinkage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows around two means, far from each other in the first direction, and spread in the second.
    fn features() -> (Features, Vec<usize>) {
        let row = |index: usize| {
            let (sign, spread) = (if index.is_multiple_of(2) { 1.0 } else { -1.0 }, (index / 2) as f32 / 20.0 - 0.5);
            let noise = [3, 5, 7].map(|factor| ((index * factor) % 11) as f32 / 200.0 - 0.025);
            let row = [sign, spread, noise[0], noise[1], noise[2], 0.3];
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.map(|x| x / length)
        };
        let values = (0..40).flat_map(row).collect();
        (Features { values, width: 6 }, (0..40).map(|index| index % 2).collect())
    }

    #[test]
    fn what_lies_between_the_labels_is_far_and_their_own_rows_are_near() {
        let (features, classes) = features();
        let fitted = Mahalanobis::fit(&features, &classes).unwrap();
        let distances = fitted.distances(&features).unwrap();
        let mean = distances.iter().sum::<f32>() / 40.0;
        assert!((mean - 1.0).abs() < 1e-3, "{mean}");
        let values = vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let strangers = fitted.distances(&Features { values, width: 6 }).unwrap();
        let most = distances.iter().copied().fold(0.0, f32::max);
        assert!(strangers.iter().all(|distance| *distance > 4.0 * most), "{strangers:?}, {most}");
    }

    #[test]
    fn the_spread_is_how_far_the_mean_of_all_is() {
        let (features, classes) = features();
        let fitted = Mahalanobis::fit(&features, &classes).unwrap();
        let mean = (0..6).map(|place| (0..40).map(|row| features.row(row)[place]).sum::<f32>() / 40.0).collect();
        let mean = Tensor::from_vec(mean, (1, 6), &Device::Cpu).unwrap();
        let [slopes, offsets] =
            [fitted.slopes.narrow(1, 0, 1), fitted.offsets.narrow(0, 0, 1)].map(|part| part.unwrap());
        // Of one mean it is the nearest, whatever its slope.
        let from_mean = Mahalanobis { means: (mean * fitted.scale).unwrap(), slopes, offsets, ..fitted.clone() };
        let spread = from_mean.distances(&features).unwrap().iter().sum::<f32>() / 40.0;
        assert!(spread > 2.0 && (fitted.spread() - spread).abs() < 1e-3 * spread, "{}, {spread}", fitted.spread());
        // Rows of one label have no other.
        assert!((Mahalanobis::fit(&features, &[0; 40]).unwrap().spread() - 1.0).abs() < 1e-3);
    }

    #[test]
    fn without_spread_or_with_one_row_distances_are_numbers() {
        let (features, classes) = features();
        for rows in [vec![0], vec![0, 1], vec![0, 0, 0]] {
            let classes: Vec<usize> = rows.iter().map(|&row| classes[row]).collect();
            let fitted = Mahalanobis::fit(&features.select(&rows), &classes).unwrap();
            let distances = fitted.distances(&features).unwrap();
            assert!(distances.iter().all(|distance| distance.is_finite()), "{distances:?}");
            assert!(distances[30] > distances[0], "{distances:?}");
        }
    }

    #[test]
    fn strangers_are_told_from_rows_by_where_they_lie_and_what_is_far_stays_far() {
        let (features, classes) = features();
        let fitted = Mahalanobis::fit(&features, &classes).unwrap();
        // No further away than rows are.
        let near = |share: f32| {
            let vector = [1.0, 0.0, share, 0.0, 0.0, 0.3];
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.map(|x| x / length)
        };
        let strangers =
            Features { values: (0..30).flat_map(|row| near(0.026 + row as f32 / 4000.0)).collect(), width: 6 };
        let told = fitted.clone().told_from(&features, &strangers, 0, || Ok(())).unwrap();
        let (own, of_strangers) = (told.distances(&features).unwrap(), told.distances(&strangers).unwrap());
        let mean = own.iter().sum::<f32>() / 40.0;
        assert!(fitted.spread() > 2.0 && told.spread() == 1.0);
        assert!((mean - 1.0).abs() < 1e-3 && own.iter().all(|distance| *distance >= 0.0), "{mean}");
        let beyond = |distances: &[f32], own: &[f32]| {
            let most = own.iter().copied().fold(0.0, f32::max);
            distances.iter().filter(|distance| **distance > most).count()
        };
        let before = beyond(&fitted.distances(&strangers).unwrap(), &fitted.distances(&features).unwrap());
        assert!(beyond(&of_strangers, &own) > before, "{of_strangers:?}, {before}");
        let far = Features { values: vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0], width: 6 };
        assert_eq!(beyond(&told.distances(&far).unwrap(), &own), 1);
    }

    #[test]
    fn rows_of_one_class_have_one_mean() {
        let (features, _) = features();
        let distances = Mahalanobis::fit(&features, &[0; 40]).unwrap().distances(&features).unwrap();
        assert!((distances.iter().sum::<f32>() / 40.0 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn shrinkage_is_that_of_scikit_learn() {
        let rows = [[1.0, 0.2, -0.3], [-0.9, 0.1, 0.4], [0.3, -0.8, 0.2], [-0.4, 0.5, -0.6], [0.7, 0.1, 0.1]];
        let (covariance, shrinkage) = covariance(&|row| DVector::from_row_slice(&rows[row]), 5, 3);
        // LedoitWolf(assume_centered=True) of 1.9.1
        assert!((shrinkage - 0.697_853_711_635_392).abs() < 1e-9, "{shrinkage}");
        assert!((covariance[(0, 0)] - 0.51).abs() < 1e-12);
    }
}
