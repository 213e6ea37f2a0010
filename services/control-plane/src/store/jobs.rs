//! Jobs: created once, queued in order, claimed once, cancelled whenever the cancel comes.

use futures_util::TryStreamExt as _;
use sqlx::{Sqlite, Transaction};

use super::events::append_in;
use super::{Entry, Store};
use crate::event::Event;
use crate::job::{Job, JobStatus, ResumePoint};

/// A tombstone outlives any runner that could still create the job it stands for.
const TOMBSTONE_DAYS: i64 = 7;
/// Configs in one list of jobs.
const LISTED_BYTES: usize = 4 * 1024 * 1024;

/// A job to create.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) org_id: String,
    pub(crate) project_id: String,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) client_run_id: Option<String>,
    /// The other job and its checkpoint.
    pub(crate) resume: Option<(String, ResumePoint)>,
}

/// What a creation came to.
#[derive(Debug)]
pub(crate) enum Created {
    /// There was none with that client run id; this is it.
    New(Job),
    /// The one that an earlier request with that client run id made.
    Existing(Job),
    /// The checkpoint to go on from was removed meanwhile.
    NoCheckpoint,
}

/// Which job of a project.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    Id(&'a str),
    ClientRunId(&'a str),
}

/// What a cancel came to.
#[derive(Debug)]
pub(crate) enum Cancelling {
    /// The project has no such job. For a client run id, a later creation is now born cancelled.
    NoJob,
    /// It had ended before.
    Ended(Job),
    /// It was still queued and is cancelled now.
    Done(Job),
    /// It runs, and is to be stopped; also when that was asked before.
    Underway(Job),
}

impl Store {
    /// Creates the job, or finds the one that the same client run id made before.
    pub(crate) async fn create_job(&self, new: NewJob) -> Result<Created, sqlx::Error> {
        let mut tx = self.write.begin().await?;
        let inserted: Option<Job> = sqlx::query_as(
            "INSERT INTO jobs (id, org_id, project_id, name, status, config, client_run_id,
                               resume_job_id, resume_step, resume_dir, created_at)
             VALUES ($1, $2, $3, $4, 'queued', $5, $6, $7, $8, $9, $10)
             ON CONFLICT (project_id, client_run_id) DO NOTHING
             RETURNING *",
        )
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(&new.org_id)
        .bind(&new.project_id)
        .bind(&new.name)
        .bind(&new.config)
        .bind(&new.client_run_id)
        .bind(new.resume.as_ref().map(|(job, _)| job))
        .bind(new.resume.as_ref().map(|(_, point)| point.step))
        .bind(new.resume.as_ref().map(|(_, point)| &point.dir))
        .bind(wire::now())
        .fetch_optional(&mut *tx)
        .await?;
        let client_run_id = new.client_run_id.as_deref().unwrap_or_default();
        if inserted.is_some() && !has_resume_point(&mut tx, &new).await? {
            return Ok(Created::NoCheckpoint);
        }
        let Some(mut job) = inserted else {
            let job = lock_in(&mut tx, &new.project_id, Which::ClientRunId(client_run_id)).await?;
            return Ok(Created::Existing(job.ok_or(sqlx::Error::RowNotFound)?));
        };
        if is_tombstoned(&mut tx, &new.project_id, client_run_id).await? {
            job = cancel_in(&mut tx, job).await?;
        }
        tx.commit().await?;
        self.tell(job.ord);
        Ok(Created::New(job))
    }

    /// At most `limit` jobs of the project, newest first, older than the one with order `before`; fewer, but not
    /// none, when their configs are large. Also says whether there are more.
    pub(crate) async fn jobs(
        &self,
        project_id: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<(Vec<Job>, bool), sqlx::Error> {
        let mut rows = sqlx::query_as::<_, Job>(
            "SELECT * FROM jobs WHERE project_id = $1 AND ord < $2 ORDER BY ord DESC",
        )
        .bind(project_id)
        .bind(before.unwrap_or(i64::MAX))
        .fetch(&self.read);
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(job) = rows.try_next().await? {
            bytes += job.config.len();
            if jobs.len() == limit || (bytes > LISTED_BYTES && !jobs.is_empty()) {
                return Ok((jobs, true));
            }
            jobs.push(job);
        }
        Ok((jobs, false))
    }

    pub(crate) async fn job(&self, project_id: &str, which: Which<'_>) -> Result<Option<Job>, sqlx::Error> {
        let (query, key) = match which {
            Which::Id(id) => ("SELECT * FROM jobs WHERE project_id = $1 AND id = $2", id),
            Which::ClientRunId(id) => ("SELECT * FROM jobs WHERE project_id = $1 AND client_run_id = $2", id),
        };
        sqlx::query_as(query).bind(project_id).bind(key).fetch_optional(&self.read).await
    }

    /// The job as it is now.
    pub(crate) async fn reread(&self, ord: i64) -> Result<Job, sqlx::Error> {
        sqlx::query_as("SELECT * FROM jobs WHERE ord = $1").bind(ord).fetch_one(&self.read).await
    }

    pub(crate) async fn is_terminal(&self, ord: i64) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT status IN ('completed', 'failed', 'cancelled') FROM jobs WHERE ord = $1")
            .bind(ord)
            .fetch_one(&self.read)
            .await
    }

    /// Whether there is a job that is not over, or whose executor has not been accounted for.
    pub(crate) async fn has_live_jobs(&self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE status = 'queued')
                 OR EXISTS (SELECT 1 FROM jobs WHERE status = 'running') OR EXISTS (SELECT 1 FROM lives)",
        )
        .fetch_one(&self.read)
        .await
    }

    /// Takes the oldest queued job and makes it `running`.
    pub(crate) async fn claim_job(&self) -> Result<Option<Job>, sqlx::Error> {
        // In a transaction, whose commit says whether it is one.
        let mut tx = self.write.begin().await?;
        let claimed: Option<Job> = sqlx::query_as(
            "UPDATE jobs SET status = 'running', started_at = COALESCE(started_at, $1)
             WHERE ord = (SELECT ord FROM jobs WHERE status = 'queued' ORDER BY ord LIMIT 1)
             RETURNING *",
        )
        .bind(wire::now())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        if let Some(job) = &claimed {
            self.tell(job.ord);
        }
        Ok(claimed)
    }

    /// Cancels a queued job, notes that a running one is to be cancelled, or leaves a tombstone.
    pub(crate) async fn cancel_job(
        &self,
        project_id: &str,
        which: Which<'_>,
    ) -> Result<Cancelling, sqlx::Error> {
        let mut tx = self.write.begin().await?;
        let outcome = match lock_in(&mut tx, project_id, which).await? {
            None => {
                if let Which::ClientRunId(id) = which {
                    bury_in(&mut tx, project_id, id).await?;
                }
                Cancelling::NoJob
            }
            Some(job) if job.status.is_terminal() => Cancelling::Ended(job),
            Some(job) if job.status == JobStatus::Queued => Cancelling::Done(cancel_in(&mut tx, job).await?),
            Some(job) => {
                let job = sqlx::query_as(
                    "UPDATE jobs SET cancel_requested_at = COALESCE(cancel_requested_at, $2)
                     WHERE ord = $1 RETURNING *",
                )
                .bind(job.ord)
                .bind(wire::now())
                .fetch_one(&mut *tx)
                .await?;
                Cancelling::Underway(job)
            }
        };
        tx.commit().await?;
        if let Cancelling::Done(job) | Cancelling::Underway(job) = &outcome {
            self.tell(job.ord);
        }
        Ok(outcome)
    }

    /// The jobs that an earlier control plane left `running` without an executor, in order.
    pub(crate) async fn jobs_without_life(&self) -> Result<Vec<Job>, sqlx::Error> {
        sqlx::query_as(
            "SELECT * FROM jobs WHERE status = 'running' AND ord NOT IN (SELECT job FROM lives) ORDER BY ord",
        )
        .fetch_all(&self.read)
        .await
    }

    /// Puts a job without an executor where it can go on; it is as it is then.
    pub(crate) async fn take_up_job(&self, ord: i64) -> Result<Job, sqlx::Error> {
        let mut tx = self.write.begin().await?;
        let job = requeue_in(&mut tx, ord).await?;
        tx.commit().await?;
        self.tell(ord);
        Ok(job)
    }
}

/// Queues a running job again, or cancels it if that was asked for; leaves others as they are.
pub(super) async fn requeue_in(tx: &mut Transaction<'static, Sqlite>, ord: i64) -> Result<Job, sqlx::Error> {
    // Written first: what is decided from the row still holds when the transaction ends.
    let requeued: Option<Job> =
        sqlx::query_as("UPDATE jobs SET status = 'queued' WHERE ord = $1 AND status = 'running' RETURNING *")
            .bind(ord)
            .fetch_optional(&mut **tx)
            .await?;
    match requeued {
        Some(job) if job.cancel_requested_at.is_some() => cancel_in(tx, job).await,
        Some(job) => Ok(job),
        None => sqlx::query_as("SELECT * FROM jobs WHERE ord = $1").bind(ord).fetch_one(&mut **tx).await,
    }
}

/// The job, locked until the transaction ends: what is decided from it still holds when it is written.
async fn lock_in(
    tx: &mut Transaction<'static, Sqlite>,
    project_id: &str,
    which: Which<'_>,
) -> Result<Option<Job>, sqlx::Error> {
    let (query, key) = match which {
        Which::Id(id) => {
            ("UPDATE jobs SET last_seq = last_seq WHERE project_id = $1 AND id = $2 RETURNING *", id)
        }
        Which::ClientRunId(id) => (
            "UPDATE jobs SET last_seq = last_seq WHERE project_id = $1 AND client_run_id = $2 RETURNING *",
            id,
        ),
    };
    sqlx::query_as(query).bind(project_id).bind(key).fetch_optional(&mut **tx).await
}

/// Ends a job that no executor works on.
async fn cancel_in(tx: &mut Transaction<'static, Sqlite>, job: Job) -> Result<Job, sqlx::Error> {
    let (event, at) = (Event::cancelled(), wire::now());
    let entry = Entry {
        kind: event.kind,
        step: None,
        data: event.render(&job.id, &at),
        at,
        checkpoint_dir: None,
        error: None,
    };
    append_in(tx, job.ord, &[entry]).await?;
    sqlx::query_as("SELECT * FROM jobs WHERE ord = $1").bind(job.ord).fetch_one(&mut **tx).await
}

/// Whether the checkpoint that `new` is to go on from is still there; from then on it stays.
async fn has_resume_point(tx: &mut Transaction<'static, Sqlite>, new: &NewJob) -> Result<bool, sqlx::Error> {
    let Some((job, point)) = &new.resume else { return Ok(true) };
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM checkpoints JOIN jobs ON jobs.ord = checkpoints.job
         WHERE jobs.id = $1 AND checkpoints.step = $2 AND checkpoints.removed_at IS NULL",
    )
    .bind(job)
    .bind(point.step)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.is_some())
}

async fn is_tombstoned(
    tx: &mut Transaction<'static, Sqlite>,
    project_id: &str,
    client_run_id: &str,
) -> Result<bool, sqlx::Error> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM tombstones WHERE project_id = $1 AND client_run_id = $2")
            .bind(project_id)
            .bind(client_run_id)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(found.is_some())
}

async fn bury_in(
    tx: &mut Transaction<'static, Sqlite>,
    project_id: &str,
    client_run_id: &str,
) -> Result<(), sqlx::Error> {
    let now = jiff::Timestamp::now();
    let oldest = now - jiff::SignedDuration::from_hours(24 * TOMBSTONE_DAYS);
    // Times of one format and zone sort as text.
    sqlx::query("DELETE FROM tombstones WHERE created_at < $1")
        .bind(wire::timestamp(oldest))
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO tombstones (project_id, client_run_id, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (project_id, client_run_id) DO NOTHING",
    )
    .bind(project_id)
    .bind(client_run_id)
    .bind(wire::timestamp(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
