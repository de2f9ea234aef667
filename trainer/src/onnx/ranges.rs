//! The ranges of activations, found on texts before they are used: calibration.
//!
//! What has been seen of an activation is a histogram of fixed size whatever the number of texts. Its width doubles where
//! a value lies outside.

use std::str::FromStr;

use super::exporter::Range;

/// How a range is found. What lies outside of it is cut to its ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// Nothing is cut.
    MinMax,
    /// This share of the values, from 0 to 1, is kept; as many are cut at either end.
    Percentile(f64),
    /// What loses the least information, by the Kullback-Leibler divergence (Migacz, "8-bit Inference with TensorRT",
    /// 2017).
    Entropy,
}

impl FromStr for Calibration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percentile = text.strip_prefix("percentile:").and_then(|share| share.parse::<f64>().ok());
        match (text, percentile) {
            ("min-max", _) => Ok(Self::MinMax),
            ("entropy", _) => Ok(Self::Entropy),
            ("percentile", _) => Ok(Self::Percentile(0.9999)),
            (_, Some(percent)) if percent > 50.0 && percent <= 100.0 => Ok(Self::Percentile(percent / 100.0)),
            _ => Err(format!("expected min-max, entropy, percentile or percentile:99.9, found {text}")),
        }
    }
}

impl std::fmt::Display for Calibration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::Percentile(share) => write!(f, "percentile:{}", (share * 1e10).round() / 1e8),
            Self::Entropy => f.write_str("entropy"),
        }
    }
}

/// Bins on either side of 0.
const BINS: usize = 2048;
/// Levels that a quantized value can have on either side of 0.
const LEVELS: usize = 128;

/// How often an activation has had which value.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// From `-limit` to `limit`.
    bins: Vec<u64>,
    /// A power of two.
    limit: f32,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![0; 2 * BINS], limit: 1.0 / 1024.0, min: 0.0, max: 0.0 }
    }
}

impl Histogram {
    /// Counts values; what is not finite is left out.
    pub fn add(&mut self, values: &[f32]) {
        for value in values.iter().copied().filter(|value| value.is_finite()) {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            while value.abs() >= self.limit {
                self.widen();
            }
            let place = (value / self.limit * BINS as f32).floor() as isize + BINS as isize;
            self.bins[(place as usize).min(2 * BINS - 1)] += 1;
        }
    }

    /// Doubles the limit: two bins become one.
    fn widen(&mut self) {
        let mut bins = vec![0; 2 * BINS];
        for (place, pair) in self.bins.chunks_exact(2).enumerate() {
            bins[BINS / 2 + place] = pair[0] + pair[1];
        }
        self.bins = bins;
        self.limit *= 2.0;
    }

    /// The range by which the values are quantized; it holds 0.
    pub fn range(&self, calibration: Calibration) -> Range {
        let Self { min, max, .. } = *self;
        match calibration {
            Calibration::MinMax => Range { min, max },
            Calibration::Percentile(share) => self.percentile(share),
            Calibration::Entropy => {
                let limit = self.least_divergence();
                Range { min: min.max(-limit), max: max.min(limit) }
            }
        }
    }

    /// The value at the upper end of bin `place`.
    fn upper(&self, place: usize) -> f32 {
        (place as f32 + 1.0 - BINS as f32) / BINS as f32 * self.limit
    }

    fn percentile(&self, share: f64) -> Range {
        let total: u64 = self.bins.iter().sum();
        let cut = (total as f64 * (1.0 - share) / 2.0) as u64;
        let end = |bins: &mut dyn Iterator<Item = &u64>| {
            let mut sum = 0;
            bins.take_while(|count| {
                sum += **count;
                sum <= cut
            })
            .count()
        };
        let (below, above) = (end(&mut self.bins.iter()), end(&mut self.bins.iter().rev()));
        if below + above >= 2 * BINS {
            return Range { min: self.min, max: self.max };
        }
        let (lower, upper) = (self.upper(below) - self.limit / BINS as f32, self.upper(2 * BINS - 1 - above));
        Range { min: lower.max(self.min).min(0.0), max: upper.min(self.max).max(0.0) }
    }

    /// The limit of the absolute value with the least divergence between the values as they are and as they are quantized.
    fn least_divergence(&self) -> f32 {
        let (negative, positive) = self.bins.split_at(BINS);
        let absolute: Vec<u64> = positive.iter().zip(negative.iter().rev()).map(|(a, b)| a + b).collect();
        let Some(used) = absolute.iter().rposition(|count| *count > 0) else { return 0.0 };
        let candidates = (LEVELS..used + 1).step_by(8).chain([used + 1]);
        let best = candidates.min_by(|a, b| divergence(&absolute, *a).total_cmp(&divergence(&absolute, *b)));
        best.unwrap_or(used + 1) as f32 / BINS as f32 * self.limit
    }
}

/// Σ p ln(p / q) over the first `kept` bins: p has all others in its last bin, q is p without them in [`LEVELS`] levels.
fn divergence(bins: &[u64], kept: usize) -> f64 {
    let outliers: u64 = bins[kept.min(bins.len())..].iter().sum();
    let bins = &bins[..kept.min(bins.len())];
    let total = (bins.iter().sum::<u64>() + outliers) as f64;
    let within = bins.iter().sum::<u64>() as f64;
    if total == 0.0 || within == 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for level in 0..LEVELS {
        let (start, end) = (level * bins.len() / LEVELS, (level + 1) * bins.len() / LEVELS);
        let bins_of_level = &bins[start..end];
        let filled = bins_of_level.iter().filter(|count| **count > 0).count();
        let mean = bins_of_level.iter().sum::<u64>() as f64 / filled.max(1) as f64;
        for (place, count) in bins_of_level.iter().enumerate() {
            let is_last = start + place + 1 == bins.len();
            let count = *count + if is_last { outliers } else { 0 };
            if count > 0 {
                let p = count as f64 / total;
                // A bin that only outliers fill has nothing in q: as little as can be.
                let q = if mean > 0.0 { mean / within } else { 1e-12 };
                sum += p * (p / q).ln();
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normally distributed around 0, and one outlier.
    fn histogram() -> Histogram {
        use rand::SeedableRng;
        use rand_distr::Distribution;
        let normal = rand_distr::Normal::new(0.0f32, 1.0).unwrap();
        let mut histogram = Histogram::default();
        let values: Vec<f32> = normal.sample_iter(rand_chacha::ChaCha8Rng::seed_from_u64(1)).take(100_000).collect();
        values.chunks(1000).for_each(|values| histogram.add(values));
        histogram.add(&[40.0, f32::NAN]);
        histogram
    }

    #[test]
    fn min_max_keeps_an_outlier_and_the_others_cut_it() {
        let histogram = histogram();
        let range = |calibration| histogram.range(calibration);
        assert_eq!(range(Calibration::MinMax).max, 40.0);
        assert!((-5.5..-3.5).contains(&range(Calibration::MinMax).min));
        let Range { min, max } = range(Calibration::Percentile(0.99));
        // Φ(2.576) = 0.995
        assert!((min + 2.576).abs() < 0.06 && (max - 2.576).abs() < 0.06, "{min} {max}");
        let Range { max, .. } = range(Calibration::Entropy);
        assert!((2.5..6.0).contains(&max), "{max}");
    }

    #[test]
    fn values_of_one_sign_keep_zero_in_range() {
        let mut histogram = Histogram::default();
        histogram.add(&(1..1000).map(|i| i as f32 / 100.0).collect::<Vec<_>>());
        for calibration in [Calibration::MinMax, Calibration::Percentile(0.999), Calibration::Entropy] {
            let Range { min, max } = histogram.range(calibration);
            assert!(min == 0.0 && max > 5.0 && max < 10.0, "{calibration}: {min} {max}");
        }
        assert_eq!(Histogram::default().range(Calibration::Entropy), Range { min: 0.0, max: 0.0 });
    }

    #[test]
    fn methods_are_named() {
        for name in ["min-max", "entropy", "percentile:99.9", "percentile:57", "percentile:99.999"] {
            assert_eq!(name.parse::<Calibration>().unwrap().to_string(), name);
        }
        assert!("percentile:120".parse::<Calibration>().unwrap_err().contains("found percentile:120"));
    }
}
