//! Events and checkpoints: appended by one writer, read in pages.

use sqlx::{Sqlite, Transaction};

use super::Store;
use super::lives::{Life, hear_in};
use crate::event::EventKind;
use crate::job::{Job, JobStatus, ResumePoint};

/// One event to append, rendered.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: EventKind,
    pub(crate) step: Option<i64>,
    /// The object as it will be served.
    pub(crate) data: String,
    /// When it happened.
    pub(crate) at: String,
    /// For `checkpoint.saved`: the folder it is in, so that it can be resumed from and sampled.
    pub(crate) checkpoint_dir: Option<String>,
    /// For `training.failed`: what the job's `error` becomes.
    pub(crate) error: Option<String>,
}

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The job's newest sequence number now.
    pub(crate) last_seq: i64,
    /// Whether the job is terminal now. What followed the terminal event was not appended.
    pub(crate) terminal: bool,
}

/// An event as it is read back.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct StoredEvent {
    pub(crate) seq: i64,
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    pub(crate) data: String,
}

/// What a job's earlier lives have already announced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) started: bool,
    /// The highest step with a `training.log`.
    pub(crate) last_logged_step: Option<i64>,
}

impl Store {
    /// Appends `entries` in order, up to and including the first that ends the job, and records how far `life` is
    /// heard.
    ///
    /// A checkpoint that is already recorded is not announced again. Nothing is appended to a terminal job.
    pub(crate) async fn append(
        &self,
        job: i64,
        entries: &[Entry],
        life: &Life,
    ) -> Result<Appended, sqlx::Error> {
        let mut tx = self.write.begin().await?;
        let appended = append_in(&mut tx, job, entries).await?;
        hear_in(&mut tx, job, life).await?;
        tx.commit().await?;
        if appended.terminal && !entries.is_empty() {
            self.tell(job);
        }
        Ok(appended)
    }

    /// At most `limit` events after `after`, oldest first.
    pub(crate) async fn events_after(
        &self,
        job: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<StoredEvent>, sqlx::Error> {
        sqlx::query_as("SELECT seq, type, data FROM events WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3")
            .bind(job)
            .bind(after)
            .bind(limit)
            .fetch_all(&self.read)
            .await
    }

    /// The newest `limit` events, oldest first.
    pub(crate) async fn newest_events(&self, job: i64, limit: i64) -> Result<Vec<StoredEvent>, sqlx::Error> {
        let mut events: Vec<StoredEvent> =
            sqlx::query_as("SELECT seq, type, data FROM events WHERE job = $1 ORDER BY seq DESC LIMIT $2")
                .bind(job)
                .bind(limit)
                .fetch_all(&self.read)
                .await?;
        events.reverse();
        Ok(events)
    }

    pub(crate) async fn history(&self, job: i64) -> Result<History, sqlx::Error> {
        let (started, last_logged_step): (i64, Option<i64>) = sqlx::query_as(
            "SELECT count(CASE WHEN type = 'training.started' THEN 1 END),
                    max(CASE WHEN type = 'training.log' THEN step END)
             FROM events WHERE job = $1",
        )
        .bind(job)
        .fetch_one(&self.read)
        .await?;
        Ok(History { started: started > 0, last_logged_step })
    }

    /// The checkpoint of `job` at `step`, or its newest.
    pub(crate) async fn checkpoint(
        &self,
        job: i64,
        step: Option<i64>,
    ) -> Result<Option<ResumePoint>, sqlx::Error> {
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT step, dir FROM checkpoints
             WHERE job = $1 AND removed_at IS NULL AND ($2 IS NULL OR step = $2) ORDER BY step DESC LIMIT 1",
        )
        .bind(job)
        .bind(step)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.map(|(step, dir)| ResumePoint { dir, step }))
    }

    /// The checkpoints of `job`, newest first.
    pub(crate) async fn checkpoints(&self, job: i64) -> Result<Vec<ResumePoint>, sqlx::Error> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT step, dir FROM checkpoints WHERE job = $1 AND removed_at IS NULL ORDER BY step DESC",
        )
        .bind(job)
        .fetch_all(&self.read)
        .await?;
        Ok(rows.into_iter().map(|(step, dir)| ResumePoint { dir, step }).collect())
    }

    /// The steps that `job` has checkpoints of: the newest `limit`, newest first.
    pub(crate) async fn checkpoint_steps(&self, job: i64, limit: i64) -> Result<Vec<i64>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT step FROM checkpoints WHERE job = $1 AND removed_at IS NULL ORDER BY step DESC LIMIT $2",
        )
        .bind(job)
        .bind(limit)
        .fetch_all(&self.read)
        .await
    }

    /// Declares the checkpoints of `job` removed that were recorded before `before`, are not among its `keep` newest
    /// ones, and that no job was created to go on from. Answers with their folders.
    pub(crate) async fn retire_checkpoints(
        &self,
        job: &Job,
        keep: usize,
        before: &str,
    ) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(
            "UPDATE checkpoints SET removed_at = $4
             WHERE job = $1 AND removed_at IS NULL AND created_at <= $3
               AND step NOT IN (SELECT step FROM checkpoints WHERE job = $1 AND removed_at IS NULL
                                ORDER BY step DESC LIMIT $2)
               AND step NOT IN (SELECT resume_step FROM jobs WHERE resume_job_id = $5)
             RETURNING dir",
        )
        .bind(job.ord)
        .bind(i64::try_from(keep).unwrap_or(i64::MAX))
        .bind(before)
        .bind(wire::now())
        .bind(&job.id)
        .fetch_all(&self.write)
        .await
    }

    /// The jobs that have more than `keep` checkpoints.
    pub(crate) async fn jobs_with_many_checkpoints(&self, keep: usize) -> Result<Vec<Job>, sqlx::Error> {
        sqlx::query_as(
            "SELECT * FROM jobs WHERE ord IN (SELECT job FROM checkpoints WHERE removed_at IS NULL
                                              GROUP BY job HAVING count(*) > $1)",
        )
        .bind(i64::try_from(keep).unwrap_or(i64::MAX))
        .fetch_all(&self.read)
        .await
    }
}

pub(super) async fn append_in(
    tx: &mut Transaction<'static, Sqlite>,
    job: i64,
    entries: &[Entry],
) -> Result<Appended, sqlx::Error> {
    // An update first: it takes the lock that makes the read and what follows one step.
    let (mut last_seq, status): (i64, String) =
        sqlx::query_as("UPDATE jobs SET last_seq = last_seq WHERE ord = $1 RETURNING last_seq, status")
            .bind(job)
            .fetch_one(&mut **tx)
            .await?;
    let status = JobStatus::try_from(status).map_err(|error| sqlx::Error::Decode(error.into()))?;
    if status.is_terminal() {
        return Ok(Appended { last_seq, terminal: true });
    }
    for entry in entries {
        if !record_checkpoint(tx, job, entry).await? {
            continue;
        }
        last_seq += 1;
        sqlx::query("INSERT INTO events (job, seq, type, step, data) VALUES ($1, $2, $3, $4, $5)")
            .bind(job)
            .bind(last_seq)
            .bind(entry.kind.as_str())
            .bind(entry.step)
            .bind(&entry.data)
            .execute(&mut **tx)
            .await?;
        if let Some(status) = entry.kind.ending() {
            sqlx::query(
                "UPDATE jobs SET last_seq = $2, status = $3, error = $4, completed_at = $5 WHERE ord = $1",
            )
            .bind(job)
            .bind(last_seq)
            .bind(status.as_str())
            .bind(&entry.error)
            .bind(&entry.at)
            .execute(&mut **tx)
            .await?;
            return Ok(Appended { last_seq, terminal: true });
        }
    }
    sqlx::query("UPDATE jobs SET last_seq = $2 WHERE ord = $1")
        .bind(job)
        .bind(last_seq)
        .execute(&mut **tx)
        .await?;
    Ok(Appended { last_seq, terminal: false })
}

/// Records the checkpoint that `entry` tells of, if any; `false` when it was known, and needs no second event.
async fn record_checkpoint(
    tx: &mut Transaction<'static, Sqlite>,
    job: i64,
    entry: &Entry,
) -> Result<bool, sqlx::Error> {
    let (Some(dir), Some(step)) = (&entry.checkpoint_dir, entry.step) else { return Ok(true) };
    let fresh = sqlx::query(
        "INSERT INTO checkpoints (job, step, dir, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (job, step) DO NOTHING",
    )
    .bind(job)
    .bind(step)
    .bind(dir)
    .bind(wire::now())
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    if !fresh {
        sqlx::query("UPDATE checkpoints SET dir = $3, removed_at = NULL WHERE job = $1 AND step = $2")
            .bind(job)
            .bind(step)
            .bind(dir)
            .execute(&mut **tx)
            .await?;
    }
    Ok(fresh)
}
