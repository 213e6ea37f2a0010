//! What is wrong with each way of having something from a service.
//!
//! What must hold: nobody is told that a service cannot be reached because of a try that is older than the last word
//! from it. Tries are made on several threads, and one that is told late of its failure must not hide that all is well.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use wire::Trouble;

/// How something is had from a service: by requests, or by a feed of this name.
pub(crate) type Way = &'static str;
pub(crate) const REQUESTS: Way = "requests";
pub(crate) const ARTIFACTS: Way = "artifacts";

/// Why a try brought nothing.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// When it was begun, if nobody listened there.
    refused: Option<Instant>,
}

impl Failed {
    /// The request that was begun then was not answered.
    pub(crate) fn request(error: &reqwest::Error, begun: Instant) -> Self {
        // A connection that is only slow to come says nothing about those who listen.
        let refused = error.is_connect() && !error.is_timeout();
        Self { why: root_cause(error), refused: refused.then_some(begun) }
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, refused: None }
    }
}

/// The ways to one service.
#[derive(Debug)]
pub(crate) struct Ways {
    known: Mutex<Known>,
    /// The oldest of what is wrong.
    trouble: watch::Sender<Option<Trouble>>,
}

#[derive(Debug, Default)]
struct Known {
    wrong: BTreeMap<Way, Wrong>,
    heard: Option<Instant>,
}

#[derive(Debug)]
struct Wrong {
    trouble: Trouble,
    is_refused: bool,
}

impl Ways {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), trouble: watch::Sender::new(None) }
    }

    /// What is wrong for the longest time; nothing while all is well.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    pub(crate) fn is_wrong(&self, way: Way) -> bool {
        self.lock().wrong.contains_key(way)
    }

    /// Something was had in this way, whoever gave it.
    pub(crate) fn is_well(&self, way: Way) {
        self.change(|known| drop(known.wrong.remove(way)));
    }

    /// Somebody listens there.
    pub(crate) fn is_there(&self) {
        self.change(|known| {
            known.heard = Some(Instant::now());
            known.wrong.retain(|_, wrong| !wrong.is_refused);
        });
    }

    /// The service itself gave something in this way: so somebody listens there, too.
    pub(crate) fn is_heard(&self, way: Way) {
        self.is_well(way);
        self.is_there();
    }

    /// Nothing was had in this way from `service` at `place`. True if this is new.
    pub(crate) fn fails(&self, way: Way, service: &str, place: &str, failed: &Failed) -> bool {
        let why = format!("{place} cannot be reached: {}; trying again", failed.why);
        self.change(|known| {
            let is_old = failed.refused.is_some_and(|begun| known.heard.is_some_and(|heard| heard > begun));
            if is_old {
                return false;
            }
            let is_refused = failed.refused.is_some();
            match known.wrong.get_mut(way) {
                Some(wrong) => {
                    wrong.trouble.why = why;
                    wrong.is_refused = is_refused;
                    false
                }
                None => {
                    let trouble = Trouble::now(service, why);
                    known.wrong.insert(way, Wrong { trouble, is_refused }).is_none()
                }
            }
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.lock();
        let changed = change(&mut known);
        let troubles = known.wrong.values().map(|wrong| &wrong.trouble);
        let oldest = troubles.min_by(|one, other| one.since.cmp(&other.since)).cloned();
        self.trouble.send_if_modified(|trouble| {
            let is_news = *trouble != oldest;
            *trouble = oldest;
            is_news
        });
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is at the bottom of it: the upper layers only say that a request was sent.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: Way = "builds";

    fn refused(begun: Instant) -> Failed {
        Failed { why: "connection refused".to_owned(), refused: Some(begun) }
    }

    fn why(ways: &Ways) -> Option<String> {
        ways.trouble().borrow().as_ref().map(|trouble| trouble.why.clone())
    }

    #[test]
    fn a_try_that_is_older_than_the_last_word_is_no_news() {
        let ways = Ways::new();
        let early = Instant::now();
        ways.is_heard(REQUESTS);
        assert!(!ways.fails(FEED, "registry", "there", &refused(early)));
        assert_eq!(why(&ways), None);
        assert!(ways.fails(FEED, "registry", "there", &refused(Instant::now())));
        assert_eq!(why(&ways).as_deref(), Some("there cannot be reached: connection refused; trying again"));
    }

    #[test]
    fn a_word_by_one_way_shows_that_somebody_listens_and_no_more() {
        let ways = Ways::new();
        let begun = Instant::now();
        assert!(ways.fails(FEED, "registry", "there", &refused(begun)));
        assert!(ways.fails(ARTIFACTS, "registry", "there", &"it answered 500".to_owned().into()));
        assert!(!ways.fails(FEED, "registry", "there", &refused(begun)), "known already");
        ways.is_heard(REQUESTS);
        assert!(!ways.is_wrong(FEED));
        assert!(why(&ways).is_some_and(|why| why.contains("500")), "the way itself is as bad as before");
        ways.is_well(ARTIFACTS);
        assert_eq!(why(&ways), None);
    }
}
