//! What every part of a control plane shares, and the queue.
//!
//! The queue is the database: the dispatcher takes the oldest `queued` job whenever there is a free slot, and is rung
//! when there may be one. It polls nothing and holds no list.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::Marker;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::execution;
use crate::heads::Heads;
use crate::job::Job;
use crate::series::Shelf;
use crate::settings::Settings;
use crate::store::Store;

/// How long the dispatcher waits when the database refuses.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

/// The folder of the jobs' folders, in the state folder.
pub(crate) const JOBS: &str = "jobs";

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) heads: Heads,
    /// Logged values, for charts.
    pub(crate) series: Shelf,
    /// Where background work runs: not on the threads that serve HTTP.
    pub(crate) runtime: Handle,
    /// Rung when a job was queued.
    pub(crate) bell: Notify,
    /// Ends every stream.
    pub(crate) closing: CancellationToken,
    /// Asks every executor to save and exit, its job to be resumed by the next life; starts no more.
    pub(crate) suspend: CancellationToken,
    /// Ends every executor at once.
    pub(crate) kill: CancellationToken,
    /// Places for sampling processes.
    pub(crate) samples: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    /// Places for jobs that train.
    slots: Arc<Semaphore>,
    live: Mutex<HashMap<i64, CancellationToken>>,
}

impl Core {
    pub(crate) fn new(settings: Settings, store: Store, runtime: Handle) -> Self {
        let samples = Arc::new(Semaphore::new(settings.max_concurrent_samples.max(1)));
        let slots = Arc::new(Semaphore::new(settings.max_concurrent_jobs.max(1)));
        Self {
            settings,
            store,
            heads: Heads::default(),
            series: Shelf::default(),
            runtime,
            bell: Notify::new(),
            closing: CancellationToken::new(),
            suspend: CancellationToken::new(),
            kill: CancellationToken::new(),
            samples,
            tasks: TaskTracker::new(),
            slots,
            live: Mutex::default(),
        }
    }

    /// The folder that a job's executor may write to.
    pub(crate) fn job_dir(&self, id: &str) -> PathBuf {
        self.settings.state_dir.join(JOBS).join(id)
    }

    /// What the processes of a job, and no others, have in their environment.
    pub(crate) fn job_marker(&self, id: &str) -> Marker {
        let dir = self.job_dir(id).into_os_string().into_string();
        Marker { name: "MIDRUN_JOB_DIR".to_owned(), value: dir.expect("the state folder's path is UTF-8") }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<i64, CancellationToken>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what an earlier control plane left. Executors that live go on; a job that has none goes back into the
    /// queue, once nothing is left of an earlier one: two of them in one folder would spoil each other's checkpoints.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), sqlx::Error> {
        for (job, life) in self.store.lives().await? {
            tracing::info!(job = job.id, life = life.id.as_str(), "took up an executor of an earlier life");
            // It may be one more than there are places for: it trains already.
            let slot = self.slots.clone().try_acquire_owned().ok();
            let core = self.clone();
            self.tasks.spawn(async move {
                let live = Live::enter(&core, &job);
                execution::take_up(core.clone(), job, life, live.cancel.clone()).await;
                drop((live, slot));
            });
        }
        for job in self.store.jobs_without_life().await? {
            execution::sweep(self.job_marker(&job.id)).await;
            let id = job.id.clone();
            let status = self.store.take_up_job(job).await?.as_str();
            tracing::info!(job = id, status, "took up a job of an earlier life");
        }
        Ok(())
    }

    /// Stops the executor of a job that the database says is to be cancelled. None yet: it looks there first.
    pub(crate) fn stop_executor(&self, job: i64) {
        if let Some(cancel) = self.live().get(&job) {
            cancel.cancel();
        }
    }
}

/// Starts queued jobs in order, as many at once as allowed, until the control plane goes down.
pub(crate) async fn dispatch(core: Arc<Core>) {
    loop {
        let slot = tokio::select! {
            () = core.suspend.cancelled() => return,
            slot = core.slots.clone().acquire_owned() => slot.expect("the slots are never closed"),
        };
        let Some(job) = next_job(&core).await else { return };
        let core = core.clone();
        core.tasks.clone().spawn(async move {
            let live = Live::enter(&core, &job);
            execution::run(core.clone(), job, live.cancel.clone()).await;
            drop((live, slot));
        });
    }
}

/// The next job to start; `None` when the control plane goes down first.
async fn next_job(core: &Core) -> Option<Job> {
    loop {
        let wait = match core.store.claim_job().await {
            Ok(Some(job)) => return Some(job),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%error, "the queue cannot be read; trying again");
                Some(CLAIM_RETRY)
            }
        };
        tokio::select! {
            () = core.suspend.cancelled() => return None,
            () = core.bell.notified(), if wait.is_none() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// A job's entry among the live ones.
struct Live<'a> {
    core: &'a Core,
    job: i64,
    cancel: CancellationToken,
}

impl<'a> Live<'a> {
    fn enter(core: &'a Core, job: &Job) -> Self {
        let cancel = CancellationToken::new();
        core.live().insert(job.ord, cancel.clone());
        Self { core, job: job.ord, cancel }
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.core.live().remove(&self.job);
    }
}
