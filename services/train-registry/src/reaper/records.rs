//! What is recorded of runs: the table and the runs' folders.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use process::Identity;
use wire::log::{EarlyStopPhase, Record, Step};
use wire::{JobId, RunId};

use super::look::hosted_by;
use super::resolve::{HostRecord, Subject};
use crate::run_state::FAILED;
use crate::store::Saved;

/// Every run that has a folder here. Blocks on the disk.
pub(crate) fn folders(runs_dir: &Path) -> BTreeSet<RunId> {
    let entries = std::fs::read_dir(runs_dir).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| RunId::is_well_formed(name)).map(RunId::from).collect()
}

/// The table's rows, by run.
pub(crate) fn by_run(rows: Vec<Saved>) -> BTreeMap<RunId, Saved> {
    rows.into_iter().map(|row| (row.run.clone(), row)).collect()
}

/// What one run's folder and row say.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) run: RunId,
    pub(crate) folder: PathBuf,
    pub(crate) row: Option<Saved>,
    uid: u32,
    host: Option<HostRecord>,
    /// What its log says, output apart; empty for a run whose row has its end.
    pub(crate) log: Vec<Record>,
}

impl Recorded {
    /// Reads the folder. Nothing when there is none. Blocks on the disk.
    pub(crate) fn read(runs_dir: &Path, run: RunId, row: Option<Saved>) -> Option<Self> {
        let folder = runs_dir.join(run.as_str());
        let uid = std::fs::metadata(&folder).ok()?.uid();
        let host = announced(&folder);
        let host = host.map(|identity| HostRecord { home: hosted_by(identity.pid, &folder), identity });
        let mut recorded = Self { run, folder, row, uid, host, log: Vec::new() };
        if !recorded.row_has_end() {
            recorded.read_log();
        }
        Some(recorded)
    }

    /// Reads the log again. Blocks on the disk.
    pub(crate) fn read_log(&mut self) {
        let path = self.folder.join("events.jsonl");
        self.log = runlog::Follower::open(&path, 0).and_then(|mut log| log.rest()).unwrap_or_default();
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { run: &self.run, uid: self.uid, host: self.host.as_ref(), runner: self.runner() }
    }

    fn runner(&self) -> Option<u32> {
        self.log.iter().find_map(|record| match record.step {
            Step::Spawned { pid, .. } => Some(pid),
            _ => None,
        })
    }

    /// Whether the table says how it ended.
    pub(crate) fn row_has_end(&self) -> bool {
        self.row.as_ref().is_some_and(Saved::has_ended)
    }

    /// Its exit status, if its log has an end.
    pub(crate) fn exit(&self) -> Option<i32> {
        match self.log.last()?.step {
            Step::Exit { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The job that its runner told of.
    pub(crate) fn job(&self) -> Option<JobId> {
        self.log.iter().rev().find_map(|record| match &record.step {
            Step::Job { id, .. } => Some(id.clone()),
            _ => None,
        })
    }

    /// Whether nothing is to be done about its job: it is terminal, or its cancel is on disk.
    pub(crate) fn is_settled(&self) -> bool {
        let says = |record: &Record| match &record.step {
            Step::EarlyStop { phase, .. } => *phase == EarlyStopPhase::Done,
            Step::Finished { status, .. } => status != FAILED,
            _ => false,
        };
        self.row.as_ref().is_some_and(|row| row.settled) || self.log.iter().any(says)
    }
}

/// How long a host that has made its log may take to say who it is.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(2);
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(5);

/// Who the run's host says it is. One that has just begun is waited for.
fn announced(folder: &Path) -> Option<Identity> {
    let until = Instant::now() + ANNOUNCE_LIMIT;
    loop {
        match std::fs::read(folder.join("host.json")) {
            Ok(text) => return serde_json::from_slice(&text).ok(),
            Err(_) if begins(&folder.join("events.jsonl")) && Instant::now() < until => {
                std::thread::sleep(ANNOUNCE_PAUSE);
            }
            Err(_) => return None,
        }
    }
}

/// Whether the log was made and nothing was written into it yet.
fn begins(log: &Path) -> bool {
    std::fs::metadata(log).is_ok_and(|of| of.len() == 0)
}
