//! What is under way, and the one signal that it is to end.
//!
//! What must hold: whoever is inside is counted exactly once and leaves by being dropped; after `close` every
//! stream whose client reads comes to its end at once.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what is under way; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Lifecycle {
    closing: Arc<watch::Sender<bool>>,
    requests: Arc<watch::Sender<usize>>,
    streams: Arc<watch::Sender<usize>>,
    workers: Arc<watch::Sender<usize>>,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            closing: Arc::new(watch::Sender::new(false)),
            requests: Arc::new(watch::Sender::new(0)),
            streams: Arc::new(watch::Sender::new(0)),
            workers: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Counts a request in until the answer is dropped.
    pub(crate) fn enter(&self) -> Inside {
        Inside::of(&self.requests)
    }

    /// Counts a stream in until the answer is dropped.
    pub(crate) fn enter_stream(&self) -> Inside {
        Inside::of(&self.streams)
    }

    /// Counts a thread in that serves connections, until it has let go of all of them and of the answer.
    pub(crate) fn enter_worker(&self) -> Inside {
        Inside::of(&self.workers)
    }

    /// From now on everything that has no end of its own is to end.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Comes true at `close`. Cancel-safe.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.closing.subscribe();
        // The sender cannot go before it has said so: then there is nobody left to close.
        async move { drop(closing.wait_for(|closing| *closing).await) }
    }

    /// Comes true when no request is under way. Cancel-safe.
    pub(crate) async fn answered(&self) {
        none(&self.requests).await;
    }

    /// Comes true when no stream is open. Cancel-safe.
    pub(crate) async fn streamed(&self) {
        none(&self.streams).await;
    }

    /// Comes true when no thread serves any more. Cancel-safe.
    pub(crate) async fn deserted(&self) {
        none(&self.workers).await;
    }
}

async fn none(count: &watch::Sender<usize>) {
    drop(count.subscribe().wait_for(|count| *count == 0).await);
}

/// One thing that is under way.
#[derive(Debug)]
pub(crate) struct Inside(Arc<watch::Sender<usize>>);

impl Inside {
    fn of(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn nothing_is_under_way_when_the_last_one_has_left() {
        let lifecycle = Lifecycle::new();
        lifecycle.answered().await;
        let (one, two) = (lifecycle.enter(), lifecycle.enter());
        assert!(lifecycle.answered().now_or_never().is_none());
        drop(one);
        assert!(lifecycle.answered().now_or_never().is_none());
        drop(two);
        lifecycle.answered().await;
    }

    #[tokio::test]
    async fn closing_is_seen_by_those_who_asked_before_and_after() {
        let lifecycle = Lifecycle::new();
        let before = lifecycle.closing();
        assert!(lifecycle.closing().now_or_never().is_none());
        lifecycle.close();
        before.await;
        lifecycle.closing().await;
        assert!(lifecycle.is_closing());
    }
}
