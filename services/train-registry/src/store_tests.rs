//! A table on a real file whose writes are refused for a time.

use std::path::PathBuf;

use wire::{Artifact, EndedBy};

use super::*;
use crate::run_state::End;

/// A table, and a second connection by which its writes can be made to fail.
struct Disk {
    _dir: tempfile::TempDir,
    file: PathBuf,
    other: SqlitePool,
}

impl Disk {
    async fn with_table() -> (Self, Store) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.db");
        let (store, saved) = Store::open(&file).await.unwrap();
        assert!(saved.is_empty());
        let options = SqliteConnectOptions::new().filename(&file).busy_timeout(BUSY_LIMIT);
        let other = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        (Self { _dir: dir, file, other }, store)
    }

    /// Every write fails from now on, as on a full disk.
    async fn fill(&self) {
        for event in ["insert", "update"] {
            let trigger = format!(
                "create trigger full_{event} before {event} on runs begin select raise(abort, 'disk full'); end"
            );
            sqlx::query(sqlx::AssertSqlSafe(trigger)).execute(&self.other).await.unwrap();
        }
    }

    /// Writes go well again.
    async fn clear(&self) {
        for event in ["insert", "update"] {
            sqlx::query(sqlx::AssertSqlSafe(format!("drop trigger full_{event}")))
                .execute(&self.other)
                .await
                .unwrap();
        }
    }

    async fn on_disk(&self) -> Vec<(String, String)> {
        let rows = read_all(&self.file).await.unwrap();
        rows.iter().map(|saved| (saved.run.to_string(), word(&saved.phase))).collect()
    }

    /// Waits until the disk says what is wanted.
    async fn shows(&self, wanted: &[(&str, &str)]) {
        let same = |seen: &[(String, String)]| {
            seen.iter().map(|(run, phase)| (run.as_str(), phase.as_str())).eq(wanted.iter().copied())
        };
        let shown = async {
            while !same(&self.on_disk().await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), shown).await;
        assert!(in_time.is_ok(), "{wanted:?} was wanted and {:?} is there", self.on_disk().await);
    }
}

fn word(phase: &Phase) -> String {
    match phase {
        Phase::Running => "running".into(),
        Phase::Ended(end) => format!("{:?}", end.by).to_lowercase(),
        other => format!("{other:?}"),
    }
}

fn saved(run: &str, phase: Phase) -> Saved {
    let artifact = Artifact { content_hash: "aa".into(), path: "/b/aa".into(), size: 1 };
    Saved {
        run: run.into(),
        entry: "/p/index.ts".into(),
        shown_entry: "index.ts".into(),
        file: None,
        restarts: true,
        started_at: Moment(1),
        code: Code { artifact, manifest: None },
        origin: None,
        replaces: None,
        replaced_by: None,
        phase,
        settled: false,
        claimed: false,
    }
}

fn ended(by: EndedBy) -> Phase {
    Phase::Ended(End { at: Moment(2), code: Some(0), by, reason: None })
}

#[actix_rt::test]
async fn a_refused_write_is_told_and_made_good_later() {
    let (disk, store) = Disk::with_table().await;
    store.save(saved("r1", Phase::Running));
    store.flush().await.unwrap();
    disk.fill().await;
    store.save(saved("r2", Phase::Running));
    assert!(store.flush().await.unwrap_err().contains("disk full"));
    assert!(store.flush().await.is_err(), "it is still not there");
    disk.shows(&[("r1", "running")]).await;
    disk.clear().await;
    disk.shows(&[("r1", "running"), ("r2", "running")]).await;
    store.flush().await.unwrap();
}

#[actix_rt::test]
async fn a_failed_write_drops_no_older_handoff_and_the_newest_state_wins() {
    let (disk, store) = Disk::with_table().await;
    disk.fill().await;
    store.save(saved("r1", Phase::Running));
    store.flush().await.unwrap_err();
    store.save(saved("r2", Phase::Running));
    store.flush().await.unwrap_err();
    // A later word on one of them clears exactly its own.
    store.save(saved("r2", ended(EndedBy::Finished)));
    store.flush().await.unwrap_err();
    disk.clear().await;
    disk.shows(&[("r1", "running"), ("r2", "finished")]).await;
    store.save(saved("r1", ended(EndedBy::User)));
    store.flush().await.unwrap();
    disk.shows(&[("r1", "user"), ("r2", "finished")]).await;
}

#[actix_rt::test]
async fn a_table_that_somebody_else_holds_delays_and_loses_nothing() {
    let (disk, store) = Disk::with_table().await;
    let mut held = disk.other.acquire().await.unwrap();
    sqlx::query("begin immediate").execute(&mut *held).await.unwrap();
    store.save(saved("r1", Phase::Running));
    assert!(store.flush().await.unwrap_err().contains("locked"));
    sqlx::query("rollback").execute(&mut *held).await.unwrap();
    drop(held);
    disk.shows(&[("r1", "running")]).await;
}

#[actix_rt::test]
async fn what_waits_is_bounded_and_runs_that_go_on_are_kept() {
    let (disk, store) = Disk::with_table().await;
    disk.fill().await;
    store.save(saved("r-first", Phase::Running));
    for n in 0..MAX_WAITING + 20 {
        store.save(saved(&format!("r{n:05}"), ended(EndedBy::Failed)));
    }
    let waiting: Vec<RunId> = store.0.waiting().changes.keys().cloned().collect();
    assert_eq!(waiting.len(), MAX_WAITING);
    assert!(waiting.contains(&"r-first".into()));
    assert!(waiting.contains(&format!("r{:05}", MAX_WAITING + 19).as_str().into()), "the newest is kept");
    store.close().await;
    drop(disk);
}

#[actix_rt::test]
async fn a_run_of_which_something_is_left_to_be_done_is_read_back_however_old_it_is() {
    let (disk, store) = Disk::with_table().await;
    store.save(saved("r0", Phase::Running));
    // Its job is not cancelled yet.
    store.save(saved("r01", ended(EndedBy::Lost)));
    for n in 0..MAX_READ + 5 {
        store.save(Saved { settled: true, ..saved(&format!("r1{n:05}"), ended(EndedBy::Finished)) });
    }
    store.flush().await.unwrap();
    store.close().await;
    let (again, saved) = Store::open(&disk.file).await.unwrap();
    assert_eq!(saved.len(), usize::try_from(MAX_READ).unwrap() + 2);
    assert_eq!((&saved[0].run, &saved[1].run), (&"r0".into(), &"r01".into()));
    again.close().await;
}

#[actix_rt::test]
async fn a_closed_table_takes_nothing_and_says_so() {
    let (_disk, store) = Disk::with_table().await;
    store.close().await;
    store.save(saved("r1", Phase::Running));
    store.flush().await.unwrap_err();
}
