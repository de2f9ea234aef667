//! The learning rate by step.

/// The rate rises from 0 to `peak`, then follows a curve: transformers' `get_*_schedule_with_warmup`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub curve: Curve,
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// Steps in all.
    pub total_steps: usize,
}

/// How the rate goes on from its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Curve {
    /// In a straight line to 0.
    #[default]
    Linear,
    /// Along half a cosine to 0.
    Cosine,
    /// Not at all.
    Constant,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let left = self.total_steps.saturating_sub(step) as f64 / decay_steps as f64;
        self.peak
            * match self.curve {
                Curve::Linear => left,
                Curve::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
                Curve::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_begin_at_the_peak_and_end_at_zero() {
        let rates = |curve| {
            let schedule = Schedule { curve, peak: 2.0, warmup_steps: 2, total_steps: 10 };
            [0, 1, 2, 6, 10].map(|step| (schedule.learning_rate(step) * 1e6).round() / 1e6)
        };
        assert_eq!(rates(Curve::Linear), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(Curve::Cosine), [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(rates(Curve::Constant), [0.0, 1.0, 2.0, 2.0, 2.0]);
        // A quarter of the way down, where the two differ: cos(π/4).
        let schedule = Schedule { curve: Curve::Cosine, peak: 2.0, warmup_steps: 2, total_steps: 10 };
        assert!((schedule.learning_rate(4) - (1.0 + std::f64::consts::FRAC_1_SQRT_2)).abs() < 1e-12);
    }
}
