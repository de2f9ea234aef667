//! The learning rate by step.

/// The rate rises to `peak`, then follows a curve: transformers' `get_*_schedule_with_warmup`, except that the first step
/// has a rate above 0. There it is a step that learns nothing, and of a run of one step all of it.
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
            return self.peak * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
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
    fn a_run_of_one_step_learns() {
        let schedule = Schedule { curve: Curve::Linear, peak: 1.0, warmup_steps: 1, total_steps: 1 };
        assert_eq!(schedule.learning_rate(0), 0.5);
    }

    #[test]
    fn curves_begin_at_the_peak_and_end_at_zero() {
        let rates = |curve| {
            let schedule = Schedule { curve, peak: 3.0, warmup_steps: 2, total_steps: 10 };
            [0, 1, 2, 6, 10].map(|step| (schedule.learning_rate(step) * 1e6).round() / 1e6)
        };
        assert_eq!(rates(Curve::Linear), [1.0, 2.0, 3.0, 1.5, 0.0]);
        assert_eq!(rates(Curve::Cosine), [1.0, 2.0, 3.0, 1.5, 0.0]);
        assert_eq!(rates(Curve::Constant), [1.0, 2.0, 3.0, 3.0, 3.0]);
        // A quarter of the way down, where the two differ: cos(π/4).
        let schedule = Schedule { curve: Curve::Cosine, peak: 2.0, warmup_steps: 2, total_steps: 10 };
        assert!((schedule.learning_rate(4) - (1.0 + std::f64::consts::FRAC_1_SQRT_2)).abs() < 1e-12);
    }
}
