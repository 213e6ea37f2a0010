//! A run that no server looks after any more.
//!
//! ```text
//! Attended <--server listens-- Since --spec.aloneMs--> Stopping --spec.earlyStopMs--> Over
//!     \--server goes away-------^                        (early stop)                 (the tree is killed)
//! ```
//!
//! A server that comes back before the tree is killed has the run in its hands again: what was asked of the runner
//! stands in the log, and what else follows is for the server to say. The clock stands still while the machine sleeps.

use std::time::{Duration, Instant};

use wire::log::Step;

use crate::coordinator::Coordinator;
use crate::subscriber::Client;

/// How long the run has been without a server, and what the host did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alone {
    /// A server listens.
    Attended,
    /// None has since then.
    Since(Instant),
    /// The run is to end; the tree is killed then.
    Stopping { kill_at: Instant },
    /// The tree is being killed: nothing follows.
    Over,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Stop,
    Kill,
}

impl Alone {
    /// Nobody has listened since `start`.
    pub(crate) const fn since(start: Instant) -> Self {
        Self::Since(start)
    }

    /// What is due, if anything; takes notice of whether a server listens.
    fn look(&mut self, now: Instant, attended: bool, patience: Duration, limit: Duration) -> Option<Due> {
        match *self {
            Self::Over => None,
            _ if attended => {
                *self = Self::Attended;
                None
            }
            Self::Attended => {
                *self = Self::Since(now);
                None
            }
            Self::Since(since) if now >= since + patience => {
                *self = Self::Stopping { kill_at: now + limit };
                Some(Due::Stop)
            }
            Self::Stopping { kill_at } if now >= kill_at => {
                *self = Self::Over;
                Some(Due::Kill)
            }
            Self::Since(_) | Self::Stopping { .. } => None,
        }
    }
}

impl Coordinator {
    fn patience(&self) -> Option<Duration> {
        self.spec.alone_ms.map(Duration::from_millis)
    }

    /// When a run without a server has to be looked at.
    pub(crate) fn alone_due(&self) -> Option<Instant> {
        let patience = self.patience()?;
        if self.has_ended() {
            return None;
        }
        match self.alone {
            Alone::Since(since) => Some(since + patience),
            Alone::Stopping { kill_at } => Some(kill_at),
            // That the last one is gone may have shown when it was written to: then nothing else tells of it.
            Alone::Attended if !self.is_attended() => Some(Instant::now()),
            Alone::Attended | Alone::Over => None,
        }
    }

    /// Whether somebody listens.
    pub(crate) fn is_attended(&self) -> bool {
        self.clients.iter().any(Client::is_subscribed)
    }

    /// Stops a run that no server has looked after for too long.
    pub(crate) fn look_after(&mut self, now: Instant) {
        let Some(patience) = self.patience() else { return };
        if self.has_ended() {
            return;
        }
        let attended = self.is_attended();
        let limit = Duration::from_millis(self.spec.early_stop_ms);
        match self.alone.look(now, attended, patience, limit) {
            Some(Due::Stop) => {
                self.log.append(Step::Alone { alone_ms: millis(patience), stop_ms: millis(limit) });
                self.ask_to_stop(patience);
            }
            Some(Due::Kill) => {
                let why = format!("it did not stop within {} and no server is there", words(limit));
                if let Err(text) = self.kill(why) {
                    self.log.append(Step::Note { text });
                }
            }
            // A runner that was not armed may be by now.
            None if matches!(self.alone, Alone::Stopping { .. }) => self.ask_to_stop(patience),
            None => {}
        }
    }

    fn ask_to_stop(&mut self, patience: Duration) {
        if self.stop.is_none() {
            // One that is not armed is asked again when it is; one that never is meets the limit.
            let _ = self.stop_at_checkpoint(format!("no server has been there for {}", words(patience)));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time as a person says it.
fn words(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(900);
    const LIMIT: Duration = Duration::from_secs(300);

    #[test]
    fn patience_then_the_early_stop_then_the_end() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut alone = Alone::since(start);
        let mut look = |seconds, attended| alone.look(at(seconds), attended, PATIENCE, LIMIT);
        assert_eq!(look(899, false), None);
        assert_eq!(look(899, true), None, "a server came just in time");
        assert_eq!(look(5_000, true), None);
        assert_eq!(look(5_001, false), None, "it went away again");
        assert_eq!(look(5_900, false), None);
        assert_eq!(look(5_901, false), Some(Due::Stop));
        assert_eq!(look(6_200, false), None);
        assert_eq!(look(6_201, false), Some(Due::Kill));
        assert_eq!(look(9_999, false), None, "once");
    }

    #[test]
    fn a_server_that_comes_back_while_the_run_stops_keeps_it_from_being_killed() {
        let start = Instant::now();
        let mut alone = Alone::since(start);
        assert_eq!(alone.look(start + PATIENCE, false, PATIENCE, LIMIT), Some(Due::Stop));
        assert_eq!(alone.look(start + PATIENCE + LIMIT, true, PATIENCE, LIMIT), None);
        assert_eq!(alone, Alone::Attended);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [200, 90_000, 900_000].map(|ms| words(Duration::from_millis(ms)));
        assert_eq!(said, ["200 ms", "90 s", "15 min"]);
    }
}
