//! The learning rate of each step: a pure function of the step and the job's settings.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warmup, by the names other trainers use (`lrSchedulerType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays as it is.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// Falls in a straight line to 0 at the last step.
    Linear,
    /// Falls along half a cosine to 0 at the last step.
    Cosine,
}

impl Schedule {
    /// The learning rate of `step`, which counts from 1 to `steps`, with a peak of `peak`: a straight rise over
    /// the first `warmup` steps, then this schedule. The last step's rate is not 0: it stands one step before that.
    pub fn rate(self, peak: f64, step: u64, warmup: u64, steps: u64) -> f64 {
        if step <= warmup {
            return peak * step as f64 / warmup as f64;
        }
        let rest = steps.saturating_sub(warmup).max(1);
        let done = ((step - 1 - warmup) as f64 / rest as f64).min(1.0);
        match self {
            Self::Constant => peak,
            Self::Linear => peak * (1.0 - done),
            Self::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use Schedule::{Constant, Cosine, Linear};
        // (schedule, step, warmup, steps, share of the peak)
        let table = [
            (Constant, 1, 0, 100, 1.0),
            (Constant, 100, 0, 100, 1.0),
            (Constant, 1, 10, 100, 0.1),
            (Constant, 5, 10, 100, 0.5),
            (Constant, 10, 10, 100, 1.0),
            (Constant, 11, 10, 100, 1.0),
            (Linear, 1, 0, 100, 1.0),
            (Linear, 51, 0, 100, 0.5),
            (Linear, 100, 0, 100, 0.01),
            (Linear, 5, 10, 110, 0.5),
            (Linear, 11, 10, 110, 1.0),
            (Linear, 61, 10, 110, 0.5),
            (Cosine, 1, 0, 100, 1.0),
            (Cosine, 51, 0, 100, 0.5),
            (Cosine, 26, 0, 100, 0.853_553_390_593),
            (Cosine, 11, 10, 110, 1.0),
            (Cosine, 61, 10, 110, 0.5),
            // A run whose `maxSteps` was lowered below its step, and a warmup longer than the run.
            (Linear, 200, 0, 100, 0.0),
            (Cosine, 200, 0, 100, 0.0),
            (Linear, 5, 10, 5, 0.5),
        ];
        for (schedule, step, warmup, steps, share) in table {
            let rate = schedule.rate(0.02, step, warmup, steps);
            assert!(
                (rate - 0.02 * share).abs() < 1e-12,
                "{schedule:?} {step}/{steps} after {warmup}: {rate}"
            );
        }
    }
}
