//! What is on disk, and the only SQL there is.
//!
//! One writer connection, so that a transaction never meets another one's lock; several readers, which WAL lets run
//! beside it. A commit survives the death of the process at any point. Every statement is a literal with `$n`
//! parameters, in the part of SQL that SQLite and Postgres share: another database is another set of migrations and
//! another pool type here.
//!
//! A job changes status only in a transaction that also appends the event which says so, and nothing is appended
//! once it is terminal: who has read a terminal event has read all.

mod accounts;
mod events;
mod jobs;
mod lives;
mod series;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};

use tokio::sync::broadcast;

pub(crate) use accounts::{Account, Org, Project};
pub(crate) use events::{Entry, History, StoredEvent};
pub(crate) use jobs::{Cancelling, Created, NewJob, Which};
pub(crate) use lives::Life;

/// Long enough for any statement here; a connection that cannot be had by then is an error, not a hang.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
/// Changes that a slow listener may be behind.
const KEPT_CHANGES: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Store {
    read: SqlitePool,
    write: SqlitePool,
    /// Jobs that were created or changed their status, by order; told after the commit.
    changed: broadcast::Sender<i64>,
}

impl Store {
    /// Opens the database at `path`, created and migrated if need be.
    pub(crate) async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode a commit is then safe from a crash of this process, though not from a power cut.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true);
        let pool = |connections, options| {
            database::pool_options()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_LIMIT)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options)
        };
        let write = pool(1, options.clone()).await?;
        sqlx::migrate!("migrations/sqlite").run(&write).await?;
        let read = pool(READERS, options.pragma("query_only", "ON")).await?;
        Ok(Self { read, write, changed: broadcast::Sender::new(KEPT_CHANGES) })
    }

    /// The orders of jobs that are created or change their status from now on. Who is slow misses some, and is told.
    pub(crate) fn changes(&self) -> broadcast::Receiver<i64> {
        self.changed.subscribe()
    }

    fn tell(&self, job: i64) {
        // Nobody has to listen.
        drop(self.changed.send(job));
    }

    /// Ends every connection; the last one checkpoints the log into the database file.
    pub(crate) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}
