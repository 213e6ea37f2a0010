//! When a part that failed is started again. Pure: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Failure;

/// How often and how soon a failed part is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The pause after the first failure; each later one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// A part that ran for so long is well: the next pause is the first one again.
    pub well_after: Duration,
    /// With so many panics
    pub most_panics: usize,
    /// within this time, it stays down.
    pub within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            well_after: Duration::from_secs(60),
            most_panics: 5,
            within: Duration::from_secs(60),
        }
    }
}

/// What is left of the patience with one part.
#[derive(Debug)]
pub(crate) struct Patience {
    policy: Policy,
    began: Instant,
    next_pause: Duration,
    panics: VecDeque<Instant>,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is started again after this pause.
    Again(Duration),
    /// It stays down.
    Never,
}

impl Patience {
    pub(crate) fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, began: now, next_pause: policy.first_pause, panics: VecDeque::new() }
    }

    /// A life begins.
    pub(crate) fn begins(&mut self, now: Instant) {
        self.began = now;
    }

    /// It failed.
    pub(crate) fn fails(&mut self, failure: &Failure, now: Instant) -> Verdict {
        let Policy { first_pause, longest_pause, well_after, most_panics, within } = self.policy;
        if now.saturating_duration_since(self.began) >= well_after {
            self.next_pause = first_pause;
        }
        self.panics.retain(|at| now.saturating_duration_since(*at) < within);
        if matches!(failure, Failure::Panic(_)) {
            self.panics.push_back(now);
            if self.panics.len() >= most_panics {
                return Verdict::Never;
            }
        }
        let pause = self.next_pause;
        self.next_pause = (pause * 2).min(longest_pause);
        Verdict::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(verdict: Verdict) -> Option<u128> {
        match verdict {
            Verdict::Again(pause) => Some(pause.as_millis()),
            Verdict::Never => None,
        }
    }

    #[test]
    fn pauses_double_and_the_fifth_panic_within_a_minute_is_the_last() {
        let start = Instant::now();
        let mut patience = Patience::new(Policy::default(), start);
        let panic = Failure::Panic(String::new());
        let pauses: Vec<_> = (0..5).map(|n| patience.fails(&panic, start + Duration::from_secs(n))).collect();
        assert_eq!(
            pauses.into_iter().map(millis).collect::<Vec<_>>(),
            [Some(100), Some(200), Some(400), Some(800), None]
        );
    }

    #[test]
    fn who_ran_well_for_a_minute_begins_anew() {
        let mut now = Instant::now();
        let mut patience = Patience::new(Policy::default(), now);
        for _ in 0..20 {
            now += Duration::from_secs(61);
            assert_eq!(millis(patience.fails(&Failure::Panic(String::new()), now)), Some(100));
            patience.begins(now);
        }
    }

    #[test]
    fn what_cannot_start_is_tried_for_ever_but_not_often() {
        let now = Instant::now();
        let mut patience = Patience::new(Policy::default(), now);
        let pauses = (0..50).map(|_| millis(patience.fails(&Failure::Error(String::new()), now)));
        assert_eq!(pauses.last().flatten(), Some(10_000));
    }
}
