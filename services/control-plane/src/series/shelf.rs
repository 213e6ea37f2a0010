//! The columns that are held in memory, the ones asked for last, filled from the events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::columns::Points;
use crate::store::Store;

/// Points of all jobs together: about 100 MB. A job that has more is held alone.
const MOST_POINTS: usize = 4_000_000;
/// Events read at once.
const PAGE: i64 = 20_000;

/// Columns by job.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    jobs: HashMap<i64, (u64, Arc<Shelved>)>,
    /// Counts every use, so that the oldest is known.
    uses: u64,
}

/// One job's columns.
#[derive(Debug, Default)]
pub(crate) struct Shelved {
    points: RwLock<Points>,
    /// One reads at a time, all others wait for it or do without.
    filling: tokio::sync::Mutex<()>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The columns of `job`, as far as they are filled. Lets go of those not used for longest when there are too many.
    pub(crate) fn take(&self, job: i64) -> Arc<Shelved> {
        let mut held = self.lock();
        held.uses += 1;
        let now = held.uses;
        let entry = held.jobs.entry(job).or_default();
        entry.0 = now;
        let found = Arc::clone(&entry.1);
        while held.jobs.len() > 1
            && held.jobs.values().map(|(_, held)| held.points().len()).sum::<usize>() > MOST_POINTS
        {
            let oldest = held.jobs.iter().min_by_key(|(_, (used, _))| *used).map(|(job, _)| *job);
            oldest.and_then(|job| held.jobs.remove(&job));
        }
        found
    }
}

impl Shelved {
    pub(crate) fn points(&self) -> RwLockReadGuard<'_, Points> {
        self.points.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what `job` logged up to event `until`. Whoever comes meanwhile waits for the same reading.
    pub(crate) async fn fill(&self, store: &Store, job: i64, until: i64) -> Result<(), sqlx::Error> {
        let _alone = self.filling.lock().await;
        loop {
            let after = self.points().last_seq;
            if after >= until {
                return Ok(());
            }
            let upto = until.min(after + PAGE);
            let rows = store.logged(job, after, upto).await?;
            let mut points = self.points.write().unwrap_or_else(PoisonError::into_inner);
            for (seq, data) in rows {
                points.take(seq, &data);
            }
            points.last_seq = upto;
        }
    }

    /// Whether somebody reads just now.
    pub(crate) fn is_filling(&self) -> bool {
        self.filling.try_lock().is_err()
    }
}
