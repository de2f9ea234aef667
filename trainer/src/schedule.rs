//! The learning rate by step.

/// Linear warm-up from 0 to `peak`, then linear decay to 0: transformers' `get_linear_schedule_with_warmup`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearSchedule {
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// Steps in all.
    pub total_steps: usize,
}

impl LinearSchedule {
    /// The rate of step `step`, counted from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let share = if step < self.warmup_steps {
            step as f64 / self.warmup_steps as f64
        } else {
            let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
            self.total_steps.saturating_sub(step) as f64 / decay_steps as f64
        };
        self.peak * share
    }
}
