//! The lives of executors: what is to be found again after this process was killed.

use sqlx::{Sqlite, Transaction};
use wire::RunId;

use super::Store;
use super::events::{Appended, Entry, append_in};
use super::jobs::requeue_in;
use crate::job::Job;

/// An executor in its host, and how far it is heard.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// Names its folder and its host's socket.
    pub(crate) id: RunId,
    /// The newest record of its host's log whose events are in the history.
    pub(crate) heard: u64,
    /// The line begun on its stdout.
    pub(crate) stdout: Vec<u8>,
    /// The line begun on its stderr.
    pub(crate) stderr: Vec<u8>,
    /// It was asked to stop.
    pub(crate) asked: bool,
    /// The last step that the job's earlier lives have logged.
    pub(crate) logged: Option<i64>,
}

impl Life {
    /// One of which nothing is heard yet, of a job that has logged its steps up to `logged`.
    pub(crate) fn new(id: RunId, logged: Option<i64>) -> Self {
        Self { id, heard: 0, stdout: Vec::new(), stderr: Vec::new(), asked: false, logged }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    job: i64,
    id: String,
    heard: i64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    asked: bool,
    logged: Option<i64>,
}

impl Store {
    /// Records that `job` gets an executor. To be done before it is started.
    pub(crate) async fn begin_life(&self, job: i64, life: &Life) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO lives (job, id, heard, stdout, stderr, asked, logged) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (job) DO UPDATE SET id = $2, heard = $3, stdout = $4, stderr = $5, asked = $6, logged = $7",
        )
        .bind(job)
        .bind(life.id.as_str())
        .bind(heard(life))
        .bind(&life.stdout)
        .bind(&life.stderr)
        .bind(life.asked)
        .bind(life.logged)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The executors that an earlier control plane left, in the order of their jobs. A job may be over and its executor
    /// not gone yet.
    pub(crate) async fn lives(&self) -> Result<Vec<(Job, Life)>, sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM lives ORDER BY job").fetch_all(&self.read).await?;
        let mut lives = Vec::with_capacity(rows.len());
        for Row { job, id, heard, stdout, stderr, asked, logged } in rows {
            let heard = u64::try_from(heard).unwrap_or(0);
            let life = Life { id: id.into(), heard, stdout, stderr, asked, logged };
            lives.push((self.reread(job).await?, life));
        }
        Ok(lives)
    }

    /// Records that the executor of `job` is gone: appends `last` if there is one, and with `again` queues the job to
    /// get another one, unless it is over or to be cancelled.
    pub(crate) async fn settle(
        &self,
        job: i64,
        last: Option<&Entry>,
        again: bool,
    ) -> Result<Appended, sqlx::Error> {
        let mut tx = self.write.begin().await?;
        let mut appended = append_in(&mut tx, job, last.map_or(&[], std::slice::from_ref)).await?;
        sqlx::query("DELETE FROM lives WHERE job = $1").bind(job).execute(&mut *tx).await?;
        if again {
            let job = requeue_in(&mut tx, job).await?;
            appended = Appended { last_seq: job.last_seq, terminal: job.status.is_terminal() };
        }
        tx.commit().await?;
        if last.is_some() || again {
            self.tell(job);
        }
        Ok(appended)
    }
}

/// Records how far the executor of `job` is heard.
pub(super) async fn hear_in(
    tx: &mut Transaction<'static, Sqlite>,
    job: i64,
    life: &Life,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE lives SET heard = $2, stdout = $3, stderr = $4, asked = $5 WHERE job = $1")
        .bind(job)
        .bind(heard(life))
        .bind(&life.stdout)
        .bind(&life.stderr)
        .bind(life.asked)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn heard(life: &Life) -> i64 {
    i64::try_from(life.heard).unwrap_or(i64::MAX)
}
