//! Jobs, job events, checkpoints, inference; starts executors.
//!
//! # What it is
//!
//! `/v1` of the contract, on SQLite, plus one executor for each running job, each in a host process of its own.
//!
//! ```text
//! HTTP --> store (SQLite, WAL) <-- Hearing <-- the host's log <-- host <-- executor
//!            |        |                                            ^
//!            |        +--> heads --> SSE streams                   | at most N
//!            +--> dispatch ----------------------------------------+
//! ```
//!
//! # What holds
//!
//! * **The database is the queue and the history.** A job's status changes only with the event that says so, in one
//!   transaction; nothing follows a terminal event. Streams read pages from the database and are woken, never
//!   polled, so a slow reader costs nothing and a resumed one sees no gap and no repeat.
//! * **An executor trains on when its control plane is killed.** The next one finds it, and hears from its host's log
//!   what it said meanwhile: every event once, in order, at the time at which it happened, the exit status included.
//! * **An executor never outlives its host**, and neither does anything that it started. A host that no control plane
//!   has been connected to for [`Settings::alone`] has its executor save a checkpoint and exit.
//! * **A job outlives its executor.** One whose executor was stopped in an orderly end, was left alone for too long, or
//!   had its host killed is queued again, in its old place, and resumes from its newest checkpoint, or from where it was
//!   created to start, or from scratch. What an earlier life announced (the start, a logged step, a checkpoint) is not
//!   announced again. Only a host that is killed before its executor got any further fails its job.
//! * **A cancel is never lost**, whether it comes before the job (a tombstone: the job is born cancelled), while it
//!   is queued, while it runs, or just before the control plane is killed.
//! * **Checkpoints are bounded.** A job keeps its newest ones ([`Settings::keep_checkpoints`]), so also its final one,
//!   and those that another job was created to go on from; each at least for [`Settings::checkpoint_grace`].
//! * **No executor output breaks a job.** What is no event goes to the job's bounded log, `executor.log` in its folder.
//!
//! # What the contract leaves open
//!
//! * `POST /v1/jobs` answers 201 for a new job and 200 for a known `clientRunId`. Cancels answer 200 when the job is
//!   cancelled now, 202 while its executor still saves and exits (it stays `running` until then), 409 when it is over.
//! * `GET /v1/jobs` takes `limit` (100, at most 500) and `cursor` (the id of the last job seen); it may give fewer
//!   when configs are large, and `nextCursor` is null at the end. `GET /v1/jobs/ID` has the newest 200 events, each with its stream `id`.
//! * A stream's ids are whole numbers from 1 without gaps; `ping` and `end` have none, so a client that comes again
//!   after `end` gets `end`. A stream that closes without `end` is to be opened again.
//! * A job has more keys than the contract's: `clientRunId`, `cancelRequestedAt`, `resumeFrom`.
//! * Inference needs an adapter; `final` needs a completed job, `checkpoint` without a step means the newest. 422 is the
//!   executor's word that it cannot sample this, 502 that it failed.
//!
//! # What an executor is told and may say
//!
//! `MIDRUN_JOB_DIR` is its folder. Stdin: one line `{"jobId", "config", "resumeFrom": {"dir", "step"} | null}`, then
//! the end. It runs in the control plane's working folder. Stdout: events, one JSON object a line. `checkpoint.saved` names its folder under `dir`, or by the first
//! of its artifacts' `path`, or it is `checkpoints/step-N`; within the job's folder in any case. SIGTERM means save a
//! checkpoint and exit; SIGKILL to its group follows after a grace. An exit without a terminal event is a failure,
//! unless it was asked to stop.
//!
//! With the sampling arguments: stdin `{"checkpointDir", "prompt", "temperature", "topP", "maxTokens"}`, stdout lines
//! `{"token": "…"}`, then `{"done": true, "finishReason"?}`, or `{"error": "…"}`.

mod checkpoints;
mod core;
mod event;
mod execution;
mod heads;
mod http;
mod job;
mod refusal;
mod sampling;
mod series;
mod server;
mod settings;
mod state_dir;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use server::Handle;
pub use settings::{ExecutorSetting, HostSetting, Settings};
pub use state_dir::Deserted;

use tokio::sync::watch;
use wire::Trouble;

use crate::core::Core;
use crate::state_dir::StateDir;
use crate::store::Store;

/// How long killed executors may take to be gone, and the last statements to be done.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Why a control plane could not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another control plane has the state folder; two would run each other's jobs.
    #[error("{} is in use by another control plane; stop that one, or give this one a state folder of its own", path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// The state folder cannot be used.
    #[error("{} cannot be used as a state folder: {source}; check that it is a folder this user may write to", path.display())]
    StateDir {
        /// The state folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database cannot be opened or brought up to date.
    #[error("the database {} cannot be opened: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        source: sqlx::Error,
    },
}

/// A control plane. Clones are the same one.
///
/// To be ended by [`close`](Self::close) or [`Handle::shutdown`]; the executors of one that is merely dropped train
/// on, for a later one.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    core: Arc<Core>,
    state_dir: Arc<StateDir>,
}

impl ControlPlane {
    /// Opens the state folder, takes up the jobs of an earlier life, and starts what is queued.
    ///
    /// Background work runs on the calling task's tokio runtime, which must live until [`close`](Self::close).
    ///
    /// # Errors
    /// [`OpenError`]: nothing was started.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(mut settings: Settings) -> Result<Self, OpenError> {
        let state_dir = StateDir::take(&settings.state_dir).await?;
        settings.state_dir = state_dir.path().to_owned();
        let path = settings.state_dir.join("control-plane.db");
        let store =
            Store::open(&path).await.map_err(|source| OpenError::Database { path: path.clone(), source })?;
        let core = Arc::new(Core::new(settings, store, tokio::runtime::Handle::current()));
        let taken_up = core.recover().await.map_err(|source| OpenError::Database { path, source })?;
        core.tasks.spawn(core::dispatch(core.clone(), taken_up));
        core.tasks.spawn(checkpoints::prune_all(core.clone()));
        Ok(Self { core, state_dir: Arc::new(state_dir) })
    }

    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.core.condition.watch()
    }

    /// Whether a job is queued or trains; also when that cannot be read now.
    pub async fn has_live_jobs(&self) -> bool {
        self.core.store.has_live_jobs().await.unwrap_or(true)
    }

    /// Adds `/v1` to an actix application.
    pub fn configure(&self, app: &mut actix_web::web::ServiceConfig) {
        http::configure(self.core.clone(), app);
    }

    /// Ends every event stream, without `end`: their clients come again. To be called before a server that serves
    /// [`configure`](Self::configure) stops, which otherwise waits for them. Later streams end at once.
    pub fn close_streams(&self) {
        self.core.closing.cancel();
    }

    /// Goes down: ends streams, starts no more jobs, asks the executors to save and exit, kills those that have not
    /// by `deadline` (or by the stop grace, if that is shorter), closes the database and frees the state folder.
    /// The jobs are not over: the next life resumes them. May be called again, and from several places: each returns
    /// when all is down, at most 10 s after its deadline.
    pub async fn close(&self, deadline: Duration) {
        self.wind_down(deadline).await;
        self.release().await;
    }

    /// Ends streams and executors. The database still answers.
    async fn wind_down(&self, deadline: Duration) {
        let core = &self.core;
        core.closing.cancel();
        core.suspend.cancel();
        core.tasks.close();
        if tokio::time::timeout(deadline, core.tasks.wait()).await.is_err() {
            core.kill.cancel();
            if tokio::time::timeout(KILL_LIMIT, core.tasks.wait()).await.is_err() {
                tracing::error!("some executors are not gone yet; they end with this process");
            }
        }
    }

    async fn release(&self) {
        if tokio::time::timeout(KILL_LIMIT, self.core.store.close()).await.is_err() {
            tracing::error!("the database is still in use; it closes with this process");
        }
        self.state_dir.release();
    }
}
