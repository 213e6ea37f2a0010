//! How late a thread's timers may be. A thread that mostly waits has timers that only bound something or say that all is
//! well; each of them wakes a sleeping processor. When they may be late the system fires several at once.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use nix::libc::c_ulong;
use nix::sys::prctl::{get_timerslack, set_timerslack};

thread_local! {
    static SLACK: Cell<Slack> = const { Cell::new(Slack { usual: 0, late: 0, exact: 0 }) };
}

#[derive(Clone, Copy)]
struct Slack {
    /// What the thread began with, ns.
    usual: c_ulong,
    /// What it has while nobody needs its timers exact, ns; 0 while they were never allowed to be late.
    late: c_ulong,
    /// How many need its timers exact.
    exact: usize,
}

/// Lets the timers of this thread be late by up to `by`, at most 2 s, while no [`ExactTimers`] is held on it. Timers only:
/// what comes in wakes it at once. Threads and processes that it starts meanwhile have timers as late; one that
/// depends on exact ones is started while an [`ExactTimers`] is held.
pub fn let_timers_be_late(by: Duration) {
    // The system tells it as an int.
    const LONGEST: u128 = 2_000_000_000;
    let mut slack = SLACK.get();
    if slack.late == 0 {
        slack.usual = get_timerslack().ok().and_then(|usual| c_ulong::try_from(usual).ok()).unwrap_or(0);
    }
    slack.late = c_ulong::try_from(by.as_nanos().min(LONGEST)).unwrap_or(0).max(slack.usual);
    SLACK.set(slack);
    if slack.exact == 0 {
        set(slack.late);
    }
}

/// Makes the timers of this thread as exact as they were before [`let_timers_be_late`], until it is dropped. Costs two
/// calls of the system, and nothing where they are exact anyway.
#[derive(Debug)]
#[must_use = "they are late again when this is dropped"]
pub struct ExactTimers {
    /// It is this thread's: it cannot be sent to another.
    _here: PhantomData<*const ()>,
}

impl ExactTimers {
    /// From now on.
    pub fn hold() -> Self {
        let mut slack = SLACK.get();
        slack.exact += 1;
        SLACK.set(slack);
        if slack.exact == 1 && slack.late != 0 {
            set(slack.usual);
        }
        Self { _here: PhantomData }
    }
}

impl Drop for ExactTimers {
    fn drop(&mut self) {
        let mut slack = SLACK.get();
        slack.exact -= 1;
        SLACK.set(slack);
        if slack.exact == 0 && slack.late != 0 {
            set(slack.late);
        }
    }
}

/// Best effort: a thread whose timers are as they always were still works.
fn set(nanoseconds: c_ulong) {
    let _was_set = set_timerslack(nanoseconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(700);

    fn now() -> i32 {
        get_timerslack().unwrap()
    }

    #[test]
    fn timers_are_late_only_while_nobody_needs_them_exact() {
        let usual = now();
        assert!(usual < 1_000_000);
        let early = ExactTimers::hold();
        let_timers_be_late(LATE);
        assert_eq!(now(), usual, "held before it was allowed");
        drop(early);
        assert_eq!(now(), 700_000_000);
        let (one, two) = (ExactTimers::hold(), ExactTimers::hold());
        assert_eq!(now(), usual);
        drop(one);
        assert_eq!(now(), usual, "one of two still holds");
        drop(two);
        assert_eq!(now(), 700_000_000);
        let_timers_be_late(Duration::MAX);
        assert_eq!(now(), 2_000_000_000);
        drop(ExactTimers::hold());
        assert_eq!(now(), 2_000_000_000);
    }

    #[test]
    fn a_thread_that_was_not_asked_keeps_its_timers() {
        let usual = now();
        drop(ExactTimers::hold());
        assert_eq!(now(), usual);
    }

    #[test]
    fn what_is_started_while_they_are_exact_has_exact_ones() {
        // Only it may read its own.
        let slack_of_a_child = || {
            let said = std::process::Command::new("cat").arg("/proc/self/timerslack_ns").output().unwrap();
            String::from_utf8(said.stdout).unwrap().trim().parse::<i32>().unwrap()
        };
        let usual = now();
        let_timers_be_late(LATE);
        assert_eq!(slack_of_a_child(), 700_000_000, "otherwise nobody would have to hold anything");
        let exact = ExactTimers::hold();
        assert_eq!(slack_of_a_child(), usual);
        drop(exact);
    }
}
