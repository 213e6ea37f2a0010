//! What must hold once the server is back, whatever died.

use std::collections::HashSet;
use std::time::Instant;

use serde_json::Value;

use super::census::{census, strangers};
use super::injection::{Act, Injection, Outage, Victims, act};
use super::lane::{LIMIT, LOOK, Lane, id, is_at_work, is_live};
use super::log_check::LogOnDisk;
use crate::sse::Sse;

/// What must have become of the run that an injection was about.
#[derive(Debug)]
pub(super) enum Expected {
    /// It may have ended in any way that is known.
    Anything,
    /// The process goes on.
    GoesOn { run: String, pid: u64 },
    /// It was being started, and is.
    IsStarted { run: String },
    /// A successor took its place.
    IsReplaced { run: String },
    /// It ended because somebody asked.
    IsStopped { run: String },
    /// Nobody saw its end.
    IsLost { run: String },
}

impl Expected {
    /// Where only the server died, and the control plane did not forget the job, nothing may be lost.
    /// `promised`: who asked for what brought the run to the place was told yes.
    pub(super) fn of(injection: Injection, run: Option<String>, pid: Option<u64>, promised: bool) -> Self {
        let Some(run) = run else { return Self::Anything };
        if injection.victims != Victims::Server || injection.outage == Outage::Forgets {
            return Self::Anything;
        }
        match (act(injection.point), pid) {
            (Act::Swap | Act::TakeUp, Some(pid)) => Self::GoesOn { run, pid },
            (Act::Start, _) if promised || has_host(injection) => Self::IsStarted { run },
            (Act::Restart, Some(_)) => Self::IsReplaced { run },
            (Act::StopNow, _) if promised => Self::IsStopped { run },
            (Act::LoseHost, _) => Self::IsLost { run },
            _ => Self::Anything,
        }
    }

    fn check(&self, runs: &[Value]) -> Result<(), String> {
        let Some(run) = self.run() else { return Ok(()) };
        match runs.iter().find(|seen| id(seen) == *run) {
            Some(run) if self.holds(run) => Ok(()),
            run => Err(format!("{self:?}, but it is {run:#?}")),
        }
    }

    /// The run that something is expected of.
    fn run(&self) -> Option<&String> {
        match self {
            Self::Anything => None,
            Self::GoesOn { run, .. }
            | Self::IsStarted { run }
            | Self::IsReplaced { run }
            | Self::IsStopped { run }
            | Self::IsLost { run } => Some(run),
        }
    }

    fn holds(&self, run: &Value) -> bool {
        match self {
            Self::Anything => true,
            Self::GoesOn { pid, .. } => is_at_work(run) && run["pid"].as_u64() == Some(*pid),
            Self::IsStarted { .. } => is_at_work(run),
            Self::IsReplaced { .. } => run["endedBy"] == "replaced" && run["exitCode"] == 0,
            Self::IsStopped { .. } => run["endedBy"] == "user",
            Self::IsLost { .. } => run["status"] == "lost",
        }
    }
}

/// Whether the run had its host when it came to the place, so that a start must go on.
fn has_host(injection: Injection) -> bool {
    use failpoint::Point as P;
    !matches!(
        injection.point,
        P::StartAccepted
            | P::TableWriting
            | P::TableWritten
            | P::StartOnRecord
            | P::FolderWritten
            | P::HostSpawned
            | P::HostStarted
    )
}

impl Lane {
    /// See [`Lane::inject`].
    pub(super) async fn check(&mut self, expected: &Expected) -> Result<(), String> {
        self.everything_is_at_rest().await?;
        self.no_job_is_orphaned().await?;
        let runs = self.no_stranger_is_left().await?;
        expected.check(&runs).map_err(|why| format!("{why}; its log ends {}", self.last_words(expected)))?;
        restarted_once(&runs)?;
        for run in &runs {
            self.run_is_whole(run).await.map_err(|why| format!("run {}: {why}", id(run)))?;
        }
        Ok(())
    }

    /// The end of the log of the run in question.
    fn last_words(&self, expected: &Expected) -> String {
        let Some(run) = expected.run() else { return String::new() };
        let path = self.stage.project.dir().join(".midrun/runs").join(run).join("events.jsonl");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Every run has ended, or is at work on the newest build.
    async fn everything_is_at_rest(&self) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        loop {
            let manifest = self.client().get("/api/manifest").await;
            let newest =
                if manifest.status == 200 { manifest.json()["contentHash"].clone() } else { Value::Null };
            let runs = self.runs().await;
            let rests = |run: &Value| !is_live(run) || (is_at_work(run) && run["contentHash"] == newest);
            if !newest.is_null() && runs.iter().all(rests) {
                return Ok(());
            }
            if Instant::now() >= end {
                let restless: Vec<_> = runs.iter().filter(|run| !rests(run)).collect();
                return Err(format!("not at rest on the newest build {newest}: {restless:#?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn live(&self) -> Vec<Value> {
        self.runs().await.into_iter().filter(is_live).collect()
    }

    /// Answers the runs as they were when nobody was left: the host of each that had ended was gone, and its log final.
    async fn no_stranger_is_left(&self) -> Result<Vec<Value>, String> {
        let (marker, servers) = (self.stage.home.marker(), self.server_pids());
        let end = Instant::now() + LIMIT;
        loop {
            let runs = self.runs().await;
            let live: HashSet<String> = runs.iter().filter(|run| is_live(run)).map(id).collect();
            let left = strangers(&census(&marker), &servers, &live);
            if left.is_empty() {
                return Ok(runs);
            }
            if Instant::now() >= end {
                return Err(format!("those who belong to nobody do not end: {left:?}; live: {live:?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The jobs that are not terminal are those of the live runs; a run whose job has ended ends too.
    async fn no_job_is_orphaned(&self) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        loop {
            let open: HashSet<String> = self.jobs_upstream().await.iter().map(id).collect();
            let live = self.live().await;
            let owned: HashSet<String> =
                live.iter().map(|run| run["jobId"].as_str().unwrap_or_default().to_owned()).collect();
            if open == owned {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(format!("open jobs: {open:?}; jobs of live runs: {owned:?}; live: {live:#?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The run's log is exact, and its end is known.
    async fn run_is_whole(&mut self, run: &Value) -> Result<(), String> {
        let id = id(run);
        if self.checked.contains(&id) {
            return Ok(());
        }
        let host_was_killed = self.without_host.contains(&id);
        let disk_was_full = self.without_room.contains(&id);
        // First what was printed, then what stands in the log: meanwhile there may be more.
        let noted = std::fs::read_to_string(self.notes.join(&id)).unwrap_or_default().lines().count();
        let path = self.stage.project.dir().join(".midrun/runs").join(&id).join("events.jsonl");
        let is_live = is_live(run);
        // A live host may be at its last line, and may not have read the last step.
        let mut log = LogOnDisk::read(&path)?;
        let end = Instant::now() + LIMIT;
        while let Err(why) = log.check(noted, host_was_killed, disk_was_full) {
            if !is_live || Instant::now() >= end {
                return Err(why);
            }
            tokio::time::sleep(LOOK).await;
            log = LogOnDisk::read(&path)?;
        }
        if is_live {
            return Ok(());
        }
        let known = run["exitCode"].as_i64();
        if known != log.exit() {
            return Err(format!("it says that it ended with {known:?}, and its log {:?}", log.exit()));
        }
        if known.is_none() && run["reason"].as_str().is_none_or(str::is_empty) {
            return Err(format!("nothing says how it ended: {run:#?}"));
        }
        self.log_is_served(&id, &log.records).await?;
        self.checked.insert(id);
        Ok(())
    }

    /// A reader gets every record of an ended run once.
    async fn log_is_served(&self, run: &str, records: &[Value]) -> Result<(), String> {
        let target = format!("/api/runs/{run}/events");
        if records.is_empty() && self.client().get(&target).await.status != 200 {
            // It never had a log.
            return Ok(());
        }
        let events = Sse::open(self.client(), &target, None).await.to_the_end(LIMIT).await;
        let seqs: Vec<u64> = events.iter().filter_map(|event| event.data["seq"].as_u64()).collect();
        let want: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
        if seqs == want { Ok(()) } else { Err(format!("a reader got the records {seqs:?} of {want:?}")) }
    }
}

/// A run that was replaced has one successor that was ever started, and no run has more.
fn restarted_once(runs: &[Value]) -> Result<(), String> {
    for run in runs {
        let successors: Vec<&Value> =
            runs.iter().filter(|next| next["replaces"] == run["id"] && next["pid"].is_number()).collect();
        let wanted = run["replacedBy"].as_str();
        let named: Vec<&str> = successors.iter().filter_map(|next| next["id"].as_str()).collect();
        if named.len() > 1 || named.first().is_some_and(|named| wanted != Some(named)) {
            return Err(format!("run {} names {wanted:?} as its successor, and has {named:?}", id(run)));
        }
        if run["endedBy"] == "replaced" && wanted.is_none() {
            return Err(format!("run {} was replaced by nobody: {run:#?}", id(run)));
        }
    }
    Ok(())
}
