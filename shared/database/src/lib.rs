//! Pools of connections to SQLite whose commits can be believed.
//!
//! A commit that a full disk refuses is rolled back by SQLite itself. The driver goes on to think that the connection
//! is in a transaction: what begins on it later is a savepoint within one that nobody commits. After a second refusal
//! such a savepoint is released without a word to the disk, and everything that follows is lost with the process. So a
//! connection is used again only if it is known to be in no transaction.
//!
//! A statement with `RETURNING` of which one row is fetched is no better outside a transaction: it commits when it is
//! reset, and the driver drops what SQLite says then. Begin a transaction for it.

use sqlx::Connection as _;
use sqlx::sqlite::SqlitePoolOptions;

/// Options of a pool that lets go of connections whose transaction is in doubt.
pub fn pool_options() -> SqlitePoolOptions {
    SqlitePoolOptions::new().after_release(|connection, _| {
        Box::pin(async move {
            // The rollback of a transaction that was dropped stands in line before this.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    })
}

#[cfg(test)]
mod tests {
    use sqlx::SqlitePool;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;

    async fn open(path: &std::path::Path, options: SqlitePoolOptions) -> SqlitePool {
        let file = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        options.max_connections(1).connect_with(file).await.unwrap()
    }

    async fn insert(pool: &SqlitePool, number: i64) -> sqlx::Result<()> {
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into numbers values (?)").bind(number).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// The commits of the pool's connection are refused `times`, as by a full disk.
    async fn refuse(pool: &SqlitePool, times: usize) {
        let mut left = times;
        let mut connection = pool.acquire().await.unwrap();
        connection.lock_handle().await.unwrap().set_commit_hook(move || {
            let accepts = left == 0;
            left = left.saturating_sub(1);
            accepts
        });
    }

    #[tokio::test]
    async fn what_is_committed_after_refusals_is_there_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let pool = open(&path, pool_options()).await;
        sqlx::query("create table numbers (number integer)").execute(&pool).await.unwrap();
        let mut told = Vec::new();
        for number in 0..4 {
            refuse(&pool, usize::from(number < 2)).await;
            if insert(&pool, number).await.is_ok() {
                told.push(number);
            }
        }
        assert_eq!(told, [2, 3]);
        let other = open(&path, SqlitePoolOptions::new()).await;
        let seen: Vec<i64> =
            sqlx::query_scalar("select number from numbers").fetch_all(&other).await.unwrap();
        assert_eq!(seen, told);
    }

    /// Why [`pool_options`] are needed; when this fails, the driver does without.
    #[tokio::test]
    async fn the_drivers_own_options_tell_of_commits_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let pool = open(&path, SqlitePoolOptions::new()).await;
        sqlx::query("create table numbers (number integer)").execute(&pool).await.unwrap();
        refuse(&pool, 2).await;
        let told =
            [insert(&pool, 0).await.is_ok(), insert(&pool, 1).await.is_ok(), insert(&pool, 2).await.is_ok()];
        assert_eq!(told, [false, false, true]);
        let other = open(&path, SqlitePoolOptions::new()).await;
        let seen: Vec<i64> =
            sqlx::query_scalar("select number from numbers").fetch_all(&other).await.unwrap();
        assert_eq!(seen, [0_i64; 0]);
    }
}
