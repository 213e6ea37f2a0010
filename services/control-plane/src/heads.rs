//! Who waits for which job's next event.
//!
//! A head is the newest sequence number of a job that is on disk. Readers follow the head and read the events from
//! the database themselves, so nothing is queued for them. An entry exists only while somebody follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
pub(crate) struct Heads(Arc<Mutex<HashMap<i64, watch::Sender<i64>>>>);

impl Heads {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, watch::Sender<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the followers of `job`. To be called once `seq` is committed.
    pub(crate) fn publish(&self, job: i64, seq: i64) {
        if let Some(head) = self.lock().get(&job) {
            head.send_replace(seq);
        }
    }

    /// Starts to follow `job`. To be called before the first read, so that no event falls between.
    pub(crate) fn follow(&self, job: i64) -> Follower {
        let head = self.lock().entry(job).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Follower { job, head, heads: self.clone() }
    }

    #[cfg(test)]
    fn followed(&self) -> usize {
        self.lock().len()
    }
}

/// One reader's place in the crowd.
#[derive(Debug)]
pub(crate) struct Follower {
    job: i64,
    head: watch::Receiver<i64>,
    heads: Heads,
}

impl Follower {
    /// Takes note of the head as it is, so that only a later one wakes.
    pub(crate) fn mark(&mut self) {
        self.head.mark_unchanged();
    }

    /// Resolves when the head moved since [`mark`](Self::mark).
    pub(crate) async fn moved(&mut self) {
        // The sender lives as long as this follower: it is removed only by the last one's drop.
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut heads = self.heads.lock();
        // The receiver must go while the lock is held, or two leaving at once would each count the other.
        drop(std::mem::replace(&mut self.head, watch::channel(0).1));
        if heads.get(&self.job).is_some_and(|head| head.receiver_count() == 0) {
            heads.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_follower_is_woken_by_what_came_after_its_mark() {
        let heads = Heads::default();
        let mut follower = heads.follow(1);
        follower.mark();
        assert!(follower.moved().now_or_never().is_none());
        heads.publish(2, 9);
        assert!(follower.moved().now_or_never().is_none(), "another job's event wakes nobody here");
        heads.publish(1, 1);
        heads.publish(1, 2);
        assert!(follower.moved().now_or_never().is_some());
        assert!(follower.moved().now_or_never().is_none(), "two events, one waking");
    }

    #[tokio::test]
    async fn an_entry_lives_as_long_as_its_last_follower() {
        let heads = Heads::default();
        let (one, mut two) = (heads.follow(1), heads.follow(1));
        drop(one);
        heads.publish(1, 1);
        assert!(two.moved().now_or_never().is_some());
        drop(two);
        assert_eq!(heads.followed(), 0);
    }
}
