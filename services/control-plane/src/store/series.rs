//! What charts and lists are made from: logged values, checkpoints, jobs without their configs, and word of changes.

use sqlx::FromRow;

use super::Store;
use crate::job::JobStatus;

/// A job without its config, which may carry a whole dataset.
#[derive(Debug, Clone, FromRow, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobBrief {
    #[serde(skip)]
    pub(crate) project_id: String,
    pub(crate) id: String,
    name: String,
    #[sqlx(try_from = "String")]
    status: JobStatus,
    error: Option<String>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    client_run_id: Option<String>,
    cancel_requested_at: Option<String>,
}

impl Store {
    /// The `training.log` events after `after`, up to `upto`, in order.
    pub(crate) async fn logged(
        &self,
        job: i64,
        after: i64,
        upto: i64,
    ) -> Result<Vec<(i64, String)>, sqlx::Error> {
        sqlx::query_as(
            "SELECT seq, data FROM events
             WHERE job = $1 AND seq > $2 AND seq <= $3 AND type = 'training.log' ORDER BY seq",
        )
        .bind(job)
        .bind(after)
        .bind(upto)
        .fetch_all(&self.read)
        .await
    }

    /// About `count` of the `training.log` events up to `last`, evenly picked, the last one among them.
    pub(crate) async fn picked(
        &self,
        job: i64,
        last: i64,
        count: i64,
    ) -> Result<Vec<(i64, String)>, sqlx::Error> {
        // CROSS keeps the order: a planner that began with the events would look at each of them.
        sqlx::query_as(
            "WITH RECURSIVE place (seq) AS (
                 SELECT $2 UNION ALL SELECT seq - $3 FROM place WHERE seq > $3
             )
             SELECT events.seq, events.data FROM place
             CROSS JOIN events
             WHERE events.job = $1 AND events.seq = place.seq AND events.type = 'training.log' ORDER BY events.seq",
        )
        .bind(job)
        .bind(last)
        .bind((last / count).max(1))
        .fetch_all(&self.read)
        .await
    }

    /// The oldest `limit` checkpoints' steps, in order.
    pub(crate) async fn all_checkpoint_steps(&self, job: i64, limit: i64) -> Result<Vec<i64>, sqlx::Error> {
        sqlx::query_scalar("SELECT step FROM checkpoints WHERE job = $1 ORDER BY step LIMIT $2")
            .bind(job)
            .bind(limit)
            .fetch_all(&self.read)
            .await
    }

    /// At most `limit` jobs of the project older than the one with order `before`, newest first.
    pub(crate) async fn briefs(
        &self,
        project_id: &str,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<JobBrief>, sqlx::Error> {
        sqlx::query_as(
            "SELECT project_id, id, name, status, error, created_at, started_at, completed_at,
                    client_run_id, cancel_requested_at
             FROM jobs WHERE project_id = $1 AND ord < $2 ORDER BY ord DESC LIMIT $3",
        )
        .bind(project_id)
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.read)
        .await
    }

    /// One job as it is now.
    pub(crate) async fn brief(&self, ord: i64) -> Result<Option<JobBrief>, sqlx::Error> {
        sqlx::query_as(
            "SELECT project_id, id, name, status, error, created_at, started_at, completed_at,
                    client_run_id, cancel_requested_at FROM jobs WHERE ord = $1",
        )
        .bind(ord)
        .fetch_optional(&self.read)
        .await
    }
}
