//! Figures from many measurements.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// Measurements of one thing, sorted.
#[derive(Debug, Clone)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    /// Of times, in milliseconds.
    pub(crate) fn of_times(times: &[Duration]) -> Self {
        Self::of(times.iter().map(|time| time.as_secs_f64() * 1e3))
    }

    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value that `share` of all are not above (the nearest rank).
    pub(crate) fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(crate) fn p95(&self) -> f64 {
        self.at(0.95)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Median and p95.
impl Display for Figures {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "{:.1} / {:.1}", self.median(), self.p95())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let figures = Figures::of((1..=100).rev().map(f64::from));
        assert_eq!(
            (figures.median(), figures.p95(), figures.at(1.0), figures.at(0.0)),
            (50.0, 95.0, 100.0, 1.0)
        );
        let one = Figures::of([7.0]);
        assert_eq!((one.median(), one.p95()), (7.0, 7.0));
    }
}
