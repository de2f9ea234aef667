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
    fn add(&mut self, activation: &Output) {
        self.histogram.add(&activation.values);
        let channels = activation.shape.last().copied().unwrap_or(1);
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
        Observed { range: self.histogram.range(calibration), mean, covariance: covariance.cloned() }
    }
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
        let mut session = self.session(&self.model.graph(config)?, "calibration", true)?;
        self.logits(&mut session, &spread(self.calibration_texts, texts))
    }

    /// What all activations that can be quantized are like, by their names, and the session that computed them in fp32.
    /// Each text is run by itself, so that padding is not counted, and nothing is kept but histograms and sums.
    fn observers(&self) -> Result<(Session, Vec<(String, Observer)>)> {
        let mut graph = self.model.graph(GraphConfig::FP32)?;
        let names = self.model.quantizable();
        graph.graph.get_or_insert_default().output.extend(names.iter().map(|name| onnx::float_output(name)));
        let mut session = self.session(&graph, "observed", false)?;
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        // Layers that share their weights share their integers too, which are stored once.
        let covaries = !self.model.config.shares_layers();
        let mut observers = vec![Observer { covaries, ..Observer::default() }; names.len()];
        for text in spread(self.calibration_texts, CALIBRATION_TEXTS) {
            self.check_stop()?;
            for window in text {
                let batch = Batch::pad(std::iter::once(window), self.model.config.pad_token_id);
                for (observer, output) in observers.iter_mut().zip(session.run_outputs(&batch, &outputs)?) {
                    observer.add(&output);
                }
            }
        }
        Ok((session, names.into_iter().zip(observers).collect()))
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
