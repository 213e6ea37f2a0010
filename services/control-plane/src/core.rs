//! What every part of a control plane shares, and the queue.
//!
//! The queue is the database: the dispatcher takes the oldest `queued` job whenever there is a free slot, and is rung
//! when there may be one. It polls nothing and holds no list.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use failpoint::Point;
use futures_util::FutureExt as _;
use process::Marker;
use supervise::{Condition, Policy};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::execution;
use crate::heads::Heads;
use crate::job::Job;
use crate::refusal::Refusal;
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
    /// The jobs whose executor somebody attends to, and how that one is told of a cancel.
    live: Mutex<HashMap<i64, Arc<CancellationToken>>>,
    /// How the dispatcher and its jobs' tasks are.
    pub(crate) condition: Condition,
}

/// The tasks of the jobs that have an executor. When one fails, all are taken up anew, as after a kill.
pub(crate) type Attending = JoinSet<()>;

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
            condition: Condition::new("control-plane"),
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

    fn live(&self) -> MutexGuard<'_, HashMap<i64, Arc<CancellationToken>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what an earlier control plane left. Executors that live go on; a job that has none goes back into the
    /// queue, once nothing is left of an earlier one: two of them in one folder would spoil each other's checkpoints.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<Attending, sqlx::Error> {
        let mut attending = Attending::new();
        for (job, life) in self.store.lives().await? {
            tracing::info!(job = job.id, life = life.id.as_str(), "took up an executor of an earlier life");
            // It may be one more than there are places for: it trains already.
            let slot = self.slots.clone().try_acquire_owned().ok();
            let core = self.clone();
            attending.spawn(async move {
                let live = Live::enter(&core, job.ord);
                execution::take_up(core.clone(), job, life, live.token()).await;
                drop((live, slot));
            });
        }
        for job in self.store.jobs_without_life().await? {
            execution::sweep(self.job_marker(&job.id)).await;
            let job = self.store.take_up_job(job.ord).await?;
            self.heads.publish(job.ord, job.last_seq);
            tracing::info!(job = job.id, status = job.status.as_str(), "took up a job of an earlier life");
        }
        Ok(attending)
    }

    /// The same, as soon as the database lets it; nothing when the control plane goes down first.
    async fn recover_again(self: &Arc<Self>) -> Option<Attending> {
        loop {
            match self.recover().await {
                Ok(attending) => return Some(attending),
                Err(error) => tracing::error!(%error, "jobs cannot be taken up; trying again"),
            }
            tokio::select! {
                () = self.suspend.cancelled() => return None,
                () = tokio::time::sleep(CLAIM_RETRY) => {}
            }
        }
    }

    /// Does `work` to its end, also when who asked for it goes meanwhile, as a client may: what is committed is to be
    /// followed up.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.tasks.spawn_on(work, &self.runtime).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request was not done");
            Err(Refusal::Internal)
        })
    }

    /// Stops the executor of a job that the database says is to be cancelled. None yet: it looks there first.
    pub(crate) fn stop_executor(&self, job: i64) {
        if let Some(cancel) = self.live().get(&job) {
            cancel.cancel();
        }
    }
}

/// Starts queued jobs in order, as many at once as allowed, beside those that were `taken_up`, until the control plane
/// goes down. When it or a job's task fails, everything is taken up anew; the executors train on meanwhile.
pub(crate) async fn dispatch(core: Arc<Core>, taken_up: Attending) {
    let condition = core.condition.clone();
    let mut first = Some(taken_up);
    let life = || {
        let (core, first) = (core.clone(), first.take());
        async move {
            let taken_up = match first {
                Some(attending) => Some(attending),
                None => core.recover_again().await,
            };
            let Some(mut attending) = taken_up else { return };
            let failed = AssertUnwindSafe(dispatch_beside(&core, &mut attending)).catch_unwind().await;
            if let Err(panic) = failed {
                // Nothing of this life may be there when the next one takes up what it left.
                attending.shutdown().await;
                std::panic::resume_unwind(panic);
            }
        }
    };
    supervise::keep(&condition, Policy::default(), life).await;
}

async fn dispatch_beside(core: &Arc<Core>, attending: &mut Attending) {
    loop {
        let slot = tokio::select! {
            () = core.suspend.cancelled() => break,
            Some(done) = attending.join_next() => {
                whole(done);
                continue;
            }
            slot = core.slots.clone().acquire_owned() => slot.expect("the slots are never closed"),
        };
        let job = tokio::select! {
            job = next_job(core) => job,
            done = failure(attending) => return whole(done),
        };
        let Some(job) = job else { break };
        failpoint::reach(Point::JobClaimed);
        let core = core.clone();
        attending.spawn(async move {
            let live = Live::enter(&core, job.ord);
            execution::run(core.clone(), job, live.token()).await;
            drop((live, slot));
        });
    }
    while let Some(done) = attending.join_next().await {
        whole(done);
    }
}

/// Comes true when a job's task fails; those that end well are let go of. Cancel-safe.
async fn failure(attending: &mut Attending) -> Result<(), JoinError> {
    loop {
        match attending.join_next().await {
            Some(Ok(())) => {}
            Some(failed) => return failed,
            None => std::future::pending().await,
        }
    }
}

/// A job's task that failed is a failure of the dispatcher: nobody else attends to that job.
fn whole(done: Result<(), JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
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

/// A job's entry among the live ones, for one life of the job.
struct Live<'a> {
    core: &'a Core,
    job: i64,
    cancel: Arc<CancellationToken>,
}

impl<'a> Live<'a> {
    fn enter(core: &'a Core, job: i64) -> Self {
        let cancel = Arc::new(CancellationToken::new());
        core.live().insert(job, cancel.clone());
        Self { core, job, cancel }
    }

    /// Cancelled when the job is to be.
    fn token(&self) -> CancellationToken {
        CancellationToken::clone(&self.cancel)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        let mut live = self.core.live();
        // The job may be in its next life already, whose entry it is then.
        if live.get(&self.job).is_some_and(|cancel| Arc::ptr_eq(cancel, &self.cancel)) {
            live.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExecutorSetting, HostSetting};

    async fn core(dir: &std::path::Path) -> Core {
        let executor = ExecutorSetting::command("true", ["executor"]);
        let hosts = HostSetting { command: vec!["true".into()], socket_dir: dir.to_owned() };
        let store = Store::open(&dir.join("test.db")).await.unwrap();
        Core::new(Settings::new(dir, executor, hosts), store, Handle::current())
    }

    #[tokio::test]
    async fn what_was_begun_for_a_client_that_goes_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let core = core(dir.path()).await;
        let (go, going) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut asking = Box::pin(core.finish(async move {
            going.await.unwrap();
            tell.send(()).unwrap();
            Ok(())
        }));
        assert!(futures_util::poll!(&mut asking).is_pending());
        drop(asking);
        go.send(()).unwrap();
        told.await.unwrap();
    }

    #[tokio::test]
    async fn a_life_that_takes_its_leave_keeps_no_cancel_from_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let core = core(dir.path()).await;
        let first = Live::enter(&core, 7);
        let second = Live::enter(&core, 7);
        drop(first);
        core.stop_executor(7);
        assert!(second.token().is_cancelled());
        drop(second);
        assert!(core.live().is_empty());
    }
}
