//! The durable table of runs: what a later server needs to know of a run that its log does not say.
//!
//! What must hold: a run stands here before its host is started; what was decided about it (an early stop and why, a
//! restart that is due) stands here before anything is done about it; changes that belong together are one
//! transaction. A change that the disk refuses is kept and tried again until it is written, and only a newer state of
//! the same run takes its place. No credentials are here: those are in the run's folder.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use failpoint::Point;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use supervise::Life;
use tokio::sync::{Notify, watch};
use wire::{EntryPath, RunId};

use crate::origin::Origin;
use crate::run_state::{Code, Moment, Phase};

/// Runs whose change may be waiting for the disk; beyond that, the oldest that has ended is given up.
const MAX_WAITING: usize = 1024;
/// How long to wait before trying again to write what the disk refused; doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How long a write waits for another connection.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Ended runs that are read back, besides all that have not ended.
const MAX_READ: i64 = 200;

/// A run as the table has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    pub(crate) run: RunId,
    pub(crate) entry: EntryPath,
    pub(crate) shown_entry: String,
    pub(crate) file: Option<String>,
    pub(crate) restarts: bool,
    pub(crate) started_at: Moment,
    /// What it was started with.
    pub(crate) code: Code,
    pub(crate) replaces: Option<RunId>,
    pub(crate) replaced_by: Option<RunId>,
    /// What it was started from, if it replaces another run.
    #[serde(default)]
    pub(crate) origin: Option<Origin>,
    pub(crate) phase: Phase,
    /// Its job is known to be terminal, or a cancel stands in the outbox.
    pub(crate) settled: bool,
    /// Its request said that it starts the next.
    #[serde(default)]
    pub(crate) claimed: bool,
}

/// The table's writing end. One task writes, in order; what changed in one go is one transaction.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
    tried: watch::Sender<Tried>,
}

/// What is not on disk.
#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<RunId, Saved>,
    /// Attempts that were begun. The next one writes everything that waits now.
    begun: u64,
    closing: bool,
}

/// The newest attempt that is over.
#[derive(Debug, Clone, Default)]
struct Tried {
    attempt: u64,
    /// Why what waited is not on disk.
    error: Option<String>,
    closed: bool,
}

impl Store {
    /// Opens the table in `file` and reads the newest runs and those that have not ended, oldest first.
    pub(crate) async fn open(file: &Path) -> Result<(Self, Vec<Saved>), String> {
        let (store, writing, saved) = Self::prepare(file).await?;
        actix::spawn(writing);
        Ok((store, saved))
    }

    /// The same in `life`. What is queued is written even after that failed, until [`close`](Self::close).
    pub(crate) async fn open_in(life: &Life, file: &Path) -> Result<(Self, Vec<Saved>), String> {
        let (store, writing, saved) = Self::prepare(file).await?;
        life.spawn_apart(writing);
        let closing = store.clone();
        life.at_end(async move { closing.close().await });
        Ok((store, saved))
    }

    async fn prepare(file: &Path) -> Result<(Self, impl Future<Output = ()> + use<>, Vec<Saved>), String> {
        let failed = |error: String| format!("the table of runs {} cannot be used: {error}", file.display());
        let pool = connect(file).await.map_err(failed)?;
        let saved = load(&pool).await.map_err(|error| failed(error.to_string()))?;
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Notify::new(),
            tried: watch::Sender::default(),
        });
        let writing = write(pool, Arc::clone(&shared));
        Ok((Self(shared), writing, saved))
    }

    /// Queues a change: it takes the place of one of the same run that is not written yet.
    pub(crate) fn save(&self, saved: Saved) {
        let mut waiting = self.0.waiting();
        waiting.changes.insert(saved.run.clone(), saved);
        if waiting.changes.len() > MAX_WAITING
            && let Some(run) =
                waiting.changes.values().find(|saved| saved.has_ended()).map(|saved| &saved.run)
        {
            let run = run.clone();
            tracing::error!(%run, "what became of this run is not on record: the disk takes nothing");
            waiting.changes.remove(&run);
        }
        drop(waiting);
        self.0.wake.notify_one();
    }

    /// Waits until what was queued is on disk, or was refused. What was refused is tried again all the same.
    pub(crate) async fn flush(&self) -> Result<(), String> {
        let mut tried = self.0.tried.subscribe();
        let wanted = self.0.waiting().begun + 1;
        self.0.wake.notify_one();
        let gone = "the table's writer has ended";
        let done = tried.wait_for(|tried| tried.attempt >= wanted || tried.closed).await;
        match done.map_err(|_| gone)?.clone() {
            Tried { attempt, .. } if attempt < wanted => Err(gone.to_owned()),
            Tried { error: Some(error), .. } => Err(error),
            Tried { error: None, .. } => Ok(()),
        }
    }

    /// Lets go of the file after a last attempt to write what was queued.
    pub(crate) async fn close(&self) {
        let mut tried = self.0.tried.subscribe();
        self.0.waiting().closing = true;
        self.0.wake.notify_one();
        let _ = tried.wait_for(|tried| tried.closed).await;
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saved {
    pub(crate) const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }
}

/// Every run that the table in `file` has, oldest first; none when there is no table.
pub(crate) async fn read_all(file: &Path) -> Result<Vec<Saved>, String> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let failed = |error: sqlx::Error| format!("the table of runs {} cannot be read: {error}", file.display());
    let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_LIMIT);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(failed)?;
    let rows = sqlx::query("select state from runs order by run").fetch_all(&pool).await;
    pool.close().await;
    Ok(understood(rows.map_err(failed)?))
}

async fn connect(file: &Path) -> Result<SqlitePool, String> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| error.to_string())?;
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_LIMIT);
    let pool = database::pool_options().max_connections(1).connect_with(options).await;
    let pool = pool.map_err(|error| error.to_string())?;
    let table = "create table if not exists runs (run text primary key, state text not null) strict";
    sqlx::query(table).execute(&pool).await.map_err(|error| error.to_string())?;
    Ok(pool)
}

async fn load(pool: &SqlitePool) -> sqlx::Result<Vec<Saved>> {
    // Ids sort by time. A run of which something is left to be done is never too old.
    let rows = sqlx::query(
        "select state from runs where json_type(state, '$.phase.Ended') is null or not json_extract(state, '$.settled')
            or run in (select run from runs order by run desc limit ?) order by run",
    );
    Ok(understood(rows.bind(MAX_READ).fetch_all(pool).await?))
}

fn understood(rows: Vec<SqliteRow>) -> Vec<Saved> {
    let mut saved = Vec::new();
    for row in rows {
        let read = row.try_get::<String, _>("state").map_err(|error| error.to_string());
        match read.and_then(|state| serde_json::from_str(&state).map_err(|error| error.to_string())) {
            Ok(run) => saved.push(run),
            Err(error) => {
                tracing::warn!(error, "a run in the table is of another version; it is left alone")
            }
        }
    }
    saved
}

/// Says that nothing is written any more, also when the writer panics.
struct Closed(Arc<Shared>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.tried.send_modify(|tried| tried.closed = true);
    }
}

async fn write(pool: SqlitePool, shared: Arc<Shared>) {
    let _closed = Closed(Arc::clone(&shared));
    let mut retry = None;
    loop {
        match retry {
            Some(pause) => drop(tokio::time::timeout(pause, shared.wake.notified()).await),
            None => shared.wake.notified().await,
        }
        let (attempt, changes, closing) = {
            let mut waiting = shared.waiting();
            waiting.begun += 1;
            (waiting.begun, std::mem::take(&mut waiting.changes), waiting.closing)
        };
        let error = commit(&pool, &changes).await.err().map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::error!(
                error,
                "the table of runs cannot be written; trainings go on, and it is tried again"
            );
            let mut waiting = shared.waiting();
            for (run, saved) in changes {
                // Unless there is something newer to say of it.
                waiting.changes.entry(run).or_insert(saved);
            }
        }
        retry = error
            .is_some()
            .then(|| retry.map_or(FIRST_RETRY, |pause: Duration| (pause * 2).min(LONGEST_RETRY)));
        if closing {
            pool.close().await;
        }
        shared.tried.send_replace(Tried { attempt, error, closed: closing });
        if closing {
            return;
        }
    }
}

async fn commit(pool: &SqlitePool, changes: &BTreeMap<RunId, Saved>) -> sqlx::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    failpoint::reach(Point::TableWriting);
    let mut transaction = pool.begin().await?;
    for (run, saved) in changes {
        let state = serde_json::to_string(saved).expect("a saved run is always JSON");
        sqlx::query("insert into runs (run, state) values (?, ?) on conflict (run) do update set state = excluded.state")
            .bind(run.as_str())
            .bind(state)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    failpoint::reach(Point::TableWritten);
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
