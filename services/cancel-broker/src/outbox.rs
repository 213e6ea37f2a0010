//! The durable list of cancels that are not settled.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use wire::cancel::{Cancel, OutstandingCancel};
use wire::{ControlPlane, JobId, RunId, Secret};

/// The outbox cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the cancel outbox {path} cannot be opened: {why}", path = path.display())]
pub(crate) struct OutboxError {
    path: PathBuf,
    why: String,
}

/// A cancel as it stands in the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) cancel: Cancel,
    pub(crate) attempts: u32,
}

/// The table. Every change is one transaction.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(SqlitePool);

/// How long a write waits for another connection.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

impl Outbox {
    pub(crate) async fn open(path: &Path) -> Result<Self, OutboxError> {
        let failed = |why: String| OutboxError { path: path.to_owned(), why };
        // Made by us first, so that it is never readable by others, not even for a moment.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(error.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_LIMIT)
            // What is deleted is overwritten: there are credentials in it.
            .pragma("secure_delete", "on");
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.map_err(|error| failed(error.to_string()))?;
        sqlx::query(
            "create table if not exists cancels (
                run text primary key, job text, url text not null, org text not null, project text not null,
                token text not null, since text not null, attempts integer not null default 0, last_error text
            ) strict",
        )
        .execute(&pool)
        .await
        .map_err(|error| failed(error.to_string()))?;
        // A broker that died between a delete and its checkpoint left credentials in the log.
        forget_log(&mut *pool.acquire().await.map_err(|error| failed(error.to_string()))?)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self(pool))
    }

    /// Lets go of the file once what is under way is done.
    pub(crate) async fn close(&self) {
        self.0.close().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Commits `cancel`. True when it is new; a known one learns its job if it did not know it.
    pub(crate) async fn commit(&self, cancel: &Cancel) -> sqlx::Result<bool> {
        let to = &cancel.control_plane;
        let inserted = sqlx::query(
            "insert into cancels (run, job, url, org, project, token, since) values (?, ?, ?, ?, ?, ?, ?)
             on conflict (run) do nothing",
        )
        .bind(cancel.run.as_str())
        .bind(cancel.job.as_ref().map(JobId::as_str))
        .bind(&to.url)
        .bind(&to.org_slug)
        .bind(&to.project_slug)
        .bind(to.token.expose())
        .bind(wire::now())
        .execute(&self.0)
        .await?;
        let new = inserted.rows_affected() == 1;
        if let (false, Some(job)) = (new, &cancel.job) {
            let learn = sqlx::query("update cancels set job = ? where run = ? and job is null");
            learn.bind(job.as_str()).bind(cancel.run.as_str()).execute(&self.0).await?;
        }
        Ok(new)
    }

    /// The cancel of `run`, if it is not settled.
    pub(crate) async fn get(&self, run: &RunId) -> sqlx::Result<Option<Entry>> {
        let row = sqlx::query("select * from cancels where run = ?").bind(run.as_str());
        row.fetch_optional(&self.0).await?.as_ref().map(entry).transpose()
    }

    /// The runs whose cancels are not settled, oldest first.
    pub(crate) async fn runs(&self) -> sqlx::Result<Vec<RunId>> {
        let rows = sqlx::query("select run from cancels order by since").fetch_all(&self.0).await?;
        rows.iter().map(|row| Ok(RunId::from(row.try_get::<String, _>("run")?))).collect()
    }

    /// Everything that is not settled, without credentials.
    pub(crate) async fn outstanding(&self) -> sqlx::Result<Vec<OutstandingCancel>> {
        let rows =
            sqlx::query("select run, job, url, since, attempts, last_error from cancels order by since");
        let rows = rows.fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                Ok(OutstandingCancel {
                    run: RunId::from(row.try_get::<String, _>("run")?),
                    job: row.try_get::<Option<String>, _>("job")?.map(JobId::from),
                    url: row.try_get("url")?,
                    since: row.try_get("since")?,
                    attempts: row.try_get("attempts")?,
                    last_error: row.try_get("last_error")?,
                })
            })
            .collect()
    }

    /// An attempt did not settle it.
    pub(crate) async fn failed(&self, run: &RunId, error: &str) -> sqlx::Result<()> {
        let update = sqlx::query("update cancels set attempts = attempts + 1, last_error = ? where run = ?");
        update.bind(error).bind(run.as_str()).execute(&self.0).await.map(drop)
    }

    /// `cancel` is settled: the credentials go with it. False when it learned its job meanwhile, and is not.
    pub(crate) async fn settled(&self, cancel: &Cancel) -> sqlx::Result<bool> {
        // One connection for both: nobody sees it gone before its credentials are.
        let mut connection = self.0.acquire().await?;
        let delete = sqlx::query("delete from cancels where run = ? and job is ?");
        let (run, job) = (cancel.run.as_str(), cancel.job.as_ref().map(JobId::as_str));
        let deleted = delete.bind(run).bind(job).execute(&mut *connection).await?;
        forget_log(&mut connection).await?;
        Ok(deleted.rows_affected() == 1)
    }
}

/// Empties the write-ahead log, which keeps pages as they were before their deletion.
async fn forget_log(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("pragma wal_checkpoint(truncate)").execute(connection).await.map(drop)
}

fn entry(row: &SqliteRow) -> sqlx::Result<Entry> {
    let control_plane = ControlPlane {
        url: row.try_get("url")?,
        token: Secret::new(row.try_get::<String, _>("token")?),
        org_slug: row.try_get("org")?,
        project_slug: row.try_get("project")?,
    };
    let cancel = Cancel {
        run: RunId::from(row.try_get::<String, _>("run")?),
        job: row.try_get::<Option<String>, _>("job")?.map(JobId::from),
        control_plane,
    };
    Ok(Entry { cancel, attempts: row.try_get("attempts")? })
}
