//! What activations are like on texts, by which they are quantized; and what quantizing each of them costs.

use std::{collections::BTreeMap, sync::Arc};

use nimbert::{
    Batch,
    session::{Output, Session},
};

use crate::{
    error::{Error, Result},
    onnx::{
        self, Calibration, Covariance, GraphConfig, Histogram, Int8, Moments, Observations, Observed, Range, compare,
    },
};

use super::Judge;

/// Texts that are looked at, at most.
const CALIBRATION_TEXTS: usize = 512;
/// Texts by which methods of calibration are compared, and those by which the cost of quantizing one activation is measured.
const COMPARED_TEXTS: usize = 256;
const SENSITIVITY_TEXTS: usize = 48;

/// How channels vary together is found by so many tokens of a window, and of all of them, at most; of more channels, which would take
/// gigabytes in all layers, not at all: weights that read them are rounded to nearest.
const COVARIANCE_TOKENS: usize = 16;
const ALL_COVARIANCE_TOKENS: usize = COVARIANCE_TOKENS * CALIBRATION_TEXTS;
const COVARIANCE_CHANNELS: usize = 3072;

/// A channel, or the weights that read it, count as this share of the largest if they are less: what is nearly always 0 on these texts
/// may be something on others.
const LEAST_CHANNEL: f32 = 0.05;

/// What quantizing one activation alone does to the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// The activation, as the graph names it.
    pub activation: String,
    /// Its range.
    pub range: Range,
    /// [`crate::onnx::Comparison::relative_error`].
    pub relative_error: f32,
}

impl Sensitivity {
    /// The error; what is not a number costs most.
    pub(super) fn cost(&self) -> f32 {
        if self.relative_error.is_nan() { f32::INFINITY } else { self.relative_error }
    }
}

/// Takes what an activation is on texts.
#[derive(Debug, Clone, Default)]
struct Observer {
    /// What its channels are multiplied by before anything is seen of them.
    factors: Option<Arc<[f32]>>,
    histogram: Histogram,
    /// By channel, over all tokens.
    sums: Vec<f64>,
    tokens: usize,
    /// Whether weights that read it may be rounded by how its channels vary together.
    covaries: bool,
    /// Of some tokens.
    moments: Option<Moments>,
}

impl Observer {
    /// Takes an activation of `[tokens, channels]`.
    fn add(&mut self, mut activation: Output) {
        let channels = activation.shape.last().copied().unwrap_or(1);
        if let Some(factors) = &self.factors {
            for token in activation.values.chunks_exact_mut(channels) {
                token.iter_mut().zip(&**factors).for_each(|(value, factor)| *value *= factor);
            }
        }
        self.histogram.add(&activation.values);
        if self.tokens == 0 {
            self.sums = vec![0.0; channels];
            self.moments = (self.covaries && channels <= COVARIANCE_CHANNELS).then(|| Moments::of(channels));
        }
        for token in activation.values.chunks_exact(channels) {
            self.tokens += 1;
            self.sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        if let Some(moments) = &mut self.moments {
            let tokens: Vec<&[f32]> = activation.values.chunks_exact(channels).collect();
            let left = ALL_COVARIANCE_TOKENS.saturating_sub(moments.tokens());
            moments.add(&spread(&tokens, COVARIANCE_TOKENS.min(left)).concat());
        }
    }

    fn observed(&self, calibration: Calibration, covariance: Option<&Arc<Covariance>>) -> Observed {
        let mean = self.sums.iter().map(|sum| (sum / self.tokens.max(1) as f64) as f32).collect();
        let (factors, range) = (self.factors.clone(), self.histogram.range(calibration));
        Observed { factors, range, mean, covariance: covariance.cloned() }
    }
}

/// What makes channels, and the weights that read them, alike: so that neither small channels nor their weights are lost beside large
/// ones in integers (Xiao et al., "SmoothQuant", arXiv 2211.10438, with α = ½). All channels together stay as large as they are.
fn smoothing_factors(channels: &[f32], weights: &[f32]) -> Option<Arc<[f32]>> {
    let at_least = |values: &[f32]| -> Vec<f32> {
        let most = values.iter().copied().fold(0.0, f32::max);
        values.iter().map(|value| value.max(most * LEAST_CHANNEL)).collect()
    };
    let factors =
        at_least(channels).into_iter().zip(at_least(weights)).map(|(channel, weight)| (weight / channel).sqrt());
    let factors: Vec<f32> = factors.collect();
    let mean = (factors.iter().map(|factor| factor.ln()).sum::<f32>() / factors.len() as f32).exp();
    let is_finite = mean > 0.0 && mean.is_finite() && channels.len() == weights.len();
    is_finite.then(|| factors.into_iter().map(|factor| factor / mean).collect())
}

/// At most `count` of them, from all: a file of texts may be sorted by label.
fn spread<T: Copy>(all: &[T], count: usize) -> Vec<T> {
    let count = count.min(all.len());
    (0..count).map(|index| all[index * all.len() / count]).collect()
}

impl Judge<'_> {
    /// Ranges and means of all activations that can be quantized, by the method whose int8 graph is nearest to fp32.
    pub(super) fn observe(&self) -> Result<(Calibration, Observations)> {
        let (mut fp32, mut observers) = self.observers()?;
        let mut covariances = Vec::new();
        for (_, observer) in &mut observers {
            self.check_stop()?;
            covariances.push(observer.moments.take().and_then(Moments::covariance).map(Arc::new));
        }
        let observed = |calibration: Calibration| -> Observations {
            let observed = |((name, observer), covariance): (&(String, Observer), &Option<_>)| {
                (name.clone(), observer.observed(calibration, covariance.as_ref()))
            };
            observers.iter().zip(&covariances).map(observed).collect()
        };
        let calibrations = self.config.calibrations.iter();
        let mut candidates: Vec<_> = calibrations.map(|&calibration| (calibration, observed(calibration))).collect();
        if candidates.len() > 1 {
            let reference = self.logits(&mut fp32, &spread(self.calibration_texts, COMPARED_TEXTS))?;
            let error = |(_, observations): &(Calibration, Observations)| -> Result<f32> {
                Ok(compare(&self.logits_of(Int8::Products(observations), COMPARED_TEXTS)?, &reference).relative_error)
            };
            let errors = candidates.iter().map(error).collect::<Result<Vec<f32>>>()?;
            let nearest = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b]));
            candidates.swap(0, nearest.unwrap_or(0));
        }
        candidates.into_iter().next().ok_or_else(|| Error::setting("--calibration", "a method", "none"))
    }

    /// The logits of so many calibration texts by a graph with that in 8 bits.
    fn logits_of(&self, int8: Int8<'_>, texts: usize) -> Result<Vec<Vec<f32>>> {
        let config = GraphConfig { int8, storage: self.config.storage, ..GraphConfig::FP32 };
        // As it lies there: operators of ours find some of the ranges themselves.
        let mut session = self.session(&mut self.model.graph(config)?, "calibration", true)?;
        self.logits(&mut session, &spread(self.calibration_texts, texts))
    }

    /// What all activations that can be quantized are like, by their names, and the session that computed them in fp32.
    /// Each text is run by itself, so that padding is not counted, and nothing is kept but histograms and sums.
    fn observers(&self) -> Result<(Session, Vec<(String, Observer)>)> {
        let (mut graph, mut weights) = self.model.graph_and_largest_weights()?;
        let names = self.model.quantizable();
        graph.graph.get_or_insert_default().output.extend(names.iter().map(|name| onnx::float_output(name)));
        let mut session = self.session(&mut graph, "observed", false)?;
        drop(graph);
        // Layers that share their weights share their integers too, which are stored once.
        let is_shared = self.model.config.shares_layers();
        let mut observers = vec![Observer { covaries: !is_shared, ..Observer::default() }; names.len()];
        if !is_shared {
            let mut largest: Vec<Vec<f32>> = vec![Vec::new(); names.len()];
            self.run_texts(&mut session, &names, CALIBRATION_TEXTS, |index, output| {
                let channels = output.shape.last().copied().unwrap_or(1);
                largest[index].resize(channels, 0.0);
                for token in output.values.chunks_exact(channels) {
                    largest[index]
                        .iter_mut()
                        .zip(token)
                        .for_each(|(largest, value)| *largest = largest.max(value.abs()));
                }
            })?;
            for ((observer, name), channels) in observers.iter_mut().zip(&names).zip(&largest) {
                observer.factors = weights.remove(name).and_then(|weights| smoothing_factors(channels, &weights));
            }
        }
        self.run_texts(&mut session, &names, CALIBRATION_TEXTS, |index, output| observers[index].add(output))?;
        Ok((session, names.into_iter().zip(observers).collect()))
    }

    /// Tells `take` of each of these activations on up to so many texts.
    fn run_texts(
        &self,
        session: &mut Session,
        names: &[String],
        count: usize,
        mut take: impl FnMut(usize, Output),
    ) -> Result<()> {
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        for text in spread(self.calibration_texts, count) {
            self.check_stop()?;
            for window in text {
                let batch = Batch::pad(std::iter::once(window), self.model.config.pad_token_id);
                session
                    .run_outputs(&batch, &outputs)?
                    .into_iter()
                    .enumerate()
                    .for_each(|(index, output)| take(index, output));
            }
        }
        Ok(())
    }

    /// What quantizing each activation alone does, the most costly first.
    pub(super) fn sensitivity(&self, observations: &Observations) -> Result<Vec<Sensitivity>> {
        // Weights are rounded in all of them.
        let reference = self.logits_of(Int8::Weights, SENSITIVITY_TEXTS)?;
        let mut table = Vec::new();
        for (activation, observed) in observations {
            let alone = BTreeMap::from([(activation.clone(), observed.clone())]);
            let logits = self.logits_of(Int8::Products(&alone), SENSITIVITY_TEXTS)?;
            let relative_error = compare(&logits, &reference).relative_error;
            table.push(Sensitivity { activation: activation.clone(), range: observed.range, relative_error });
        }
        table.sort_by(|a, b| b.cost().total_cmp(&a.cost()));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothed_channels_are_as_large_as_the_weights_that_read_them() {
        let (channels, weights) = ([4.0, 1.0, 16.0], [1.0, 1.0, 0.25]);
        let factors = smoothing_factors(&channels, &weights).unwrap();
        let ratios: Vec<f32> = (0..3).map(|at| channels[at] * factors[at] / (weights[at] / factors[at])).collect();
        assert!(ratios.iter().all(|ratio| (ratio / ratios[0] - 1.0).abs() < 1e-5), "{ratios:?}");
        let product = factors.iter().product::<f32>();
        assert!((product - 1.0).abs() < 1e-5, "all together they change: {product}");
        // A channel that was 0 on these texts counts as a twentieth of the largest.
        let factors = smoothing_factors(&[1.0, 0.0], &[1.0, 1.0]).unwrap();
        assert!((factors[1] / factors[0] - 20.0f32.sqrt()).abs() < 1e-4, "{factors:?}");
        assert_eq!(smoothing_factors(&[0.0, 0.0], &[1.0, 1.0]), None);
        assert_eq!(smoothing_factors(&[1.0], &[1.0, 1.0]), None);
        assert_eq!(smoothing_factors(&[], &[]), None);
    }
}
