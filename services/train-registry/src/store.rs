//! The durable table of runs: what a later server needs to know of a run that its log does not say.
//!
//! What must hold: a run stands here before its host is started; what was decided about it (an early stop and why, a
//! restart that is due) stands here before anything is done about it; changes that belong together are one
//! transaction. No credentials are here: those are in the run's folder.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot};
use wire::{EntryPath, RunId};

use crate::origin::Origin;
use crate::run_state::{Code, Moment, Phase};

/// Changes that may be waiting for the disk.
const MAX_WAITING: usize = 1024;
/// How long a write waits for another connection.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Runs that are read back.
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
    /// Its job is known to be terminal, or a cancel is committed.
    pub(crate) settled: bool,
}

enum Order {
    Save(Box<Saved>),
    /// Answers when everything before it is on disk, with the error if it is not.
    Flush(oneshot::Sender<Result<(), String>>),
    /// The last one: the file is let go.
    Close(oneshot::Sender<()>),
}

/// The table's writing end. One task writes, in order.
#[derive(Debug, Clone)]
pub(crate) struct Store(mpsc::Sender<Order>);

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Save(saved) => write!(f, "Save({})", saved.run),
            Self::Flush(_) => f.write_str("Flush"),
            Self::Close(_) => f.write_str("Close"),
        }
    }
}

impl Store {
    /// Opens the table in `file` and reads the newest runs, oldest first.
    pub(crate) async fn open(file: &Path) -> Result<(Self, Vec<Saved>), String> {
        let failed = |error: String| format!("the table of runs {} cannot be used: {error}", file.display());
        let pool = connect(file).await.map_err(failed)?;
        let saved = load(&pool).await.map_err(|error| failed(error.to_string()))?;
        let (orders, queue) = mpsc::channel(MAX_WAITING);
        actix::spawn(write(pool, queue));
        Ok((Self(orders), saved))
    }

    /// Queues a change. What is queued in one go is one transaction.
    pub(crate) fn save(&self, saved: Saved) {
        let run = saved.run.clone();
        if self.0.try_send(Order::Save(Box::new(saved))).is_err() {
            tracing::error!(%run, "a change to the table of runs is dropped: the disk does not keep up");
        }
    }

    /// Waits until what was queued is on disk.
    pub(crate) async fn flush(&self) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        let gone = || "the table's writer has ended".to_owned();
        self.0.send(Order::Flush(done)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

impl Store {
    /// Lets go of the file once what was queued is on disk.
    pub(crate) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Order::Close(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
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
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
    let pool = pool.map_err(|error| error.to_string())?;
    let table = "create table if not exists runs (run text primary key, state text not null) strict";
    sqlx::query(table).execute(&pool).await.map_err(|error| error.to_string())?;
    Ok(pool)
}

async fn load(pool: &SqlitePool) -> sqlx::Result<Vec<Saved>> {
    // Ids sort by time.
    let rows = sqlx::query("select state from runs order by run desc limit ?").bind(MAX_READ);
    let mut saved: Vec<Saved> = Vec::new();
    for row in rows.fetch_all(pool).await? {
        let state: String = row.try_get("state")?;
        match serde_json::from_str(&state) {
            Ok(run) => saved.push(run),
            Err(error) => {
                tracing::warn!(%error, "a run in the table is of another version; it is left alone")
            }
        }
    }
    saved.reverse();
    Ok(saved)
}

async fn write(pool: SqlitePool, mut queue: mpsc::Receiver<Order>) {
    let mut orders = Vec::new();
    while queue.recv_many(&mut orders, MAX_WAITING).await > 0 {
        let mut saves = Vec::new();
        let mut waiting = Vec::new();
        let mut closing = None;
        for order in orders.drain(..) {
            match order {
                Order::Save(saved) => saves.push(saved),
                Order::Flush(done) => waiting.push(done),
                Order::Close(done) => closing = Some(done),
            }
        }
        let written = commit(&pool, &saves).await.map_err(|error| error.to_string());
        if let Err(error) = &written {
            tracing::error!(error, "the table of runs cannot be written; trainings go on");
        }
        for done in waiting {
            let _ = done.send(written.clone());
        }
        if let Some(done) = closing {
            pool.close().await;
            let _ = done.send(());
            return;
        }
    }
}

async fn commit(pool: &SqlitePool, saves: &[Box<Saved>]) -> sqlx::Result<()> {
    if saves.is_empty() {
        return Ok(());
    }
    let mut transaction = pool.begin().await?;
    for saved in saves {
        let state = serde_json::to_string(saved).expect("a saved run is always JSON");
        sqlx::query("insert into runs (run, state) values (?, ?) on conflict (run) do update set state = excluded.state")
            .bind(saved.run.as_str())
            .bind(state)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}
