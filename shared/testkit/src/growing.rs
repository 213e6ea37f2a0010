//! Something that grows while a test looks at it: bytes of a body, events of a stream.
//!
//! What must hold: nobody who waits misses what was added before or after they began to wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The reading end.
#[derive(Debug, Clone)]
pub(crate) struct Growing<T> {
    content: Arc<Mutex<T>>,
    changed: watch::Receiver<State>,
}

/// The writing end. When it is dropped, nothing will be added any more.
#[derive(Debug)]
pub(crate) struct Grower<T> {
    content: Arc<Mutex<T>>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
}

/// Why a wait came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSeen {
    /// Time is up.
    Late,
    /// It ended before.
    Ended,
}

impl std::fmt::Display for NotSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Late => "it did not come in time",
            Self::Ended => "the stream ended before it came",
        })
    }
}

pub(crate) fn growing<T: Default>() -> (Grower<T>, Growing<T>) {
    let content = Arc::new(Mutex::new(T::default()));
    let (state, changed) = watch::channel(State::Open);
    (Grower { content: Arc::clone(&content), state }, Growing { content, changed })
}

impl<T> Grower<T> {
    pub(crate) fn add(&self, add: impl FnOnce(&mut T)) {
        add(&mut lock(&self.content));
        self.state.send_replace(State::Open);
    }
}

impl<T> Drop for Grower<T> {
    fn drop(&mut self) {
        self.state.send_replace(State::Ended);
    }
}

impl<T> Growing<T> {
    pub(crate) fn look(&self) -> MutexGuard<'_, T> {
        lock(&self.content)
    }

    /// Looks now and after each addition until `find` finds something.
    pub(crate) async fn find<F>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut(&mut T) -> Option<F>,
    ) -> Result<F, NotSeen> {
        let until = Instant::now() + limit;
        loop {
            let state = *self.changed.borrow_and_update();
            if let Some(found) = find(&mut lock(&self.content)) {
                return Ok(found);
            }
            if state == State::Ended {
                return Err(NotSeen::Ended);
            }
            match tokio::time::timeout_at(until, self.changed.changed()).await {
                // Closed only after it said that it ended, which the next round sees.
                Ok(_) => {}
                Err(_) => return Err(NotSeen::Late),
            }
        }
    }

    /// Waits until nothing will be added any more.
    pub(crate) async fn end(&mut self, limit: Duration) -> Result<(), NotSeen> {
        let ended = tokio::time::timeout(limit, self.changed.wait_for(|state| *state == State::Ended)).await;
        ended.map(|_| ()).map_err(|_| NotSeen::Late)
    }
}

fn lock<T>(content: &Mutex<T>) -> MutexGuard<'_, T> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}
