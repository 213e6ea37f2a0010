//! What the build thread is told: changes, and requests.
//!
//! What must hold: telling never blocks and never takes unbounded memory. Changes beyond [`CHANGES`] are dropped, and
//! the build thread is told that some were; requests are bounded by the inboxes that they come from.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use wire::build::WatchRefusal;
use wire::{ContentHash, EntryPath};

use crate::change::Change;
use crate::schedule::Seen;

/// Changes that wait at most.
const CHANGES: usize = 4096;

/// A request to the build thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// Watch and build this entry.
    Watch(EntryPath, oneshot::Sender<Result<(), WatchRefusal>>),
    /// One watcher of this entry less.
    Unwatch(EntryPath, oneshot::Sender<()>),
    /// This artifact could not be evaluated: the next save publishes it again, changed or not.
    Doubt(EntryPath, ContentHash),
    /// Keep these artifacts.
    Retain(Vec<ContentHash>, oneshot::Sender<()>),
    /// End.
    Stop,
}

/// What came in.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// In the order in which they were seen.
    pub(crate) changes: Vec<(Change, Seen)>,
    /// Changes were lost at this moment or before.
    pub(crate) lost: Option<Seen>,
    /// In the order in which they came.
    pub(crate) requests: Vec<Request>,
}

impl Delivery {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.lost.is_none() && self.requests.is_empty()
    }
}

/// The build thread's letter box.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    waiting: Mutex<Delivery>,
    arrived: Condvar,
}

impl Mail {
    /// An empty one.
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Tells of changes.
    pub(crate) fn tell(&self, changes: Vec<Change>, seen: Seen) {
        if changes.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        for change in changes {
            let room = waiting.changes.len() < CHANGES;
            match waiting.changes.last_mut() {
                Some((last, first)) if *last == change => first.at = seen.at,
                _ if room => waiting.changes.push((change, seen)),
                _ => waiting.lost = Some(seen),
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Tells that changes were lost.
    pub(crate) fn lose(&self, seen: Seen) {
        self.lock().lost = Some(seen);
        self.arrived.notify_one();
    }

    /// Asks for something.
    pub(crate) fn ask(&self, request: Request) {
        self.lock().requests.push(request);
        self.arrived.notify_one();
    }

    /// What is there, at once.
    pub(crate) fn take(&self) -> Delivery {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until there is something, or until `limit`.
    pub(crate) fn wait(&self, limit: Option<Instant>) {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            let Some(limit) = limit else {
                waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Delivery> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Kind, seen_now};

    #[test]
    fn a_flood_is_bounded_and_said_to_be_one() {
        let mail = Mail::new();
        for n in 0..CHANGES + 1 {
            mail.tell(vec![Change { path: n.to_string().into(), kind: Kind::Vanished }], seen_now());
        }
        let delivery = mail.take();
        assert_eq!(delivery.changes.len(), CHANGES);
        assert!(delivery.lost.is_some());
        assert!(mail.take().is_empty());
    }

    #[test]
    fn the_same_change_again_takes_no_room() {
        let mail = Mail::new();
        for _ in 0..10 {
            mail.tell(vec![Change { path: "a".into(), kind: Kind::Vanished }], seen_now());
        }
        assert_eq!(mail.take().changes.len(), 1);
    }
}
