//! The ranges by which activations are quantized, from texts; and what quantizing each of them costs.

use std::collections::BTreeMap;

use nimbert::Batch;

use crate::{
    error::Result,
    onnx::{self, Calibration, GraphConfig, Histogram, Int8, Range, Ranges, compare},
};

use super::Judge;

/// Texts that are looked at, at most.
const CALIBRATION_TEXTS: usize = 512;
/// Texts by which the cost of quantizing one activation is measured.
const SENSITIVITY_TEXTS: usize = 48;

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

impl Judge<'_> {
    /// The ranges of all activations that can be quantized. Each text is run by itself, so that padding is not counted,
    /// and nothing is kept but histograms.
    pub(super) fn ranges(&self, calibration: Calibration) -> Result<Ranges> {
        let mut graph = onnx::export(self.model, GraphConfig::FP32)?;
        let names = onnx::quantizable(self.model);
        graph.graph.get_or_insert_default().output.extend(names.iter().map(|name| onnx::float_output(name)));
        let mut session = self.session(&graph, "calibration")?;
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut histograms = vec![Histogram::default(); names.len()];
        for text in self.calibration_texts.iter().take(CALIBRATION_TEXTS) {
            self.check_stop()?;
            for window in *text {
                let batch = Batch::pad(std::iter::once(window), self.model.config.pad_token_id);
                for (histogram, output) in histograms.iter_mut().zip(session.run_outputs(&batch, &outputs)?) {
                    histogram.add(&output.values);
                }
            }
        }
        let ranges = histograms.iter().map(|histogram| histogram.range(calibration));
        Ok(names.into_iter().zip(ranges).collect())
    }

    /// What quantizing each activation alone does, the most costly first.
    pub(super) fn sensitivity(&self, ranges: &Ranges) -> Result<Vec<Sensitivity>> {
        let texts = &self.calibration_texts[..self.calibration_texts.len().min(SENSITIVITY_TEXTS)];
        let logits = |int8: Int8<'_>| {
            let graph = onnx::export(self.model, GraphConfig { int8, ..GraphConfig::FP32 })?;
            self.logits(&mut self.session(&graph, "sensitivity")?, texts)
        };
        // Weights are rounded in all of them.
        let reference = logits(Int8::Weights)?;
        let mut table = Vec::new();
        for (activation, range) in ranges {
            let alone = BTreeMap::from([(activation.clone(), *range)]);
            let relative_error = compare(&logits(Int8::Products(&alone))?, &reference).relative_error;
            table.push(Sensitivity { activation: activation.clone(), range: *range, relative_error });
        }
        table.sort_by(|a, b| b.relative_error.total_cmp(&a.relative_error));
        Ok(table)
    }
}
