//! The places in an inbox, and how full it was: depth, and how long it turned messages away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use telemetry::metrics::counted;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::TraceContext;

/// The places of one inbox.
#[derive(Debug)]
pub(crate) struct Room {
    name: &'static str,
    permits: Arc<Semaphore>,
    capacity: usize,
    /// When somebody was turned away first, as long as there is no place.
    blocked: Mutex<Option<Instant>>,
}

/// One place. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Given back before the room looks whether it is full.
    permit: Option<OwnedSemaphorePermit>,
    room: Arc<Room>,
}

impl Room {
    pub(crate) fn new(name: &'static str, capacity: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(capacity));
        Arc::new(Self { name, permits, capacity, blocked: Mutex::new(None) })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.capacity - self.permits.available_permits()
    }

    /// Whether there is no place left.
    pub(crate) fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// A place, if there is one.
    pub(crate) fn take(room: &Arc<Self>) -> Option<Place> {
        let Ok(permit) = Arc::clone(&room.permits).try_acquire_owned() else {
            counted().inbox_refused.add([room.name]);
            room.blocked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            return None;
        };
        counted().inbox.change([room.name], 1);
        Some(Place { permit: Some(permit), room: Arc::clone(room) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        let Room { name, blocked, .. } = &*self.room;
        counted().inbox.change([name], -1);
        let since = blocked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = since {
            counted().inbox_blocked.observe([name], since.elapsed(), &TraceContext::default());
        }
    }
}
