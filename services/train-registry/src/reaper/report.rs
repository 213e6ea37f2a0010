//! What a pass of the reaper comes to.

use serde::Serialize;
use wire::{JobId, RunId};

/// What was found and what was done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Runs, and executors of jobs, that nobody looked after.
    pub stale: usize,
    /// The processes that were ended; those that would be, without a signal, when nothing is to be done.
    pub reaped: Vec<Reaped>,
    /// What was left alone.
    pub skipped: Vec<Skipped>,
    /// The jobs whose cancel is on its way.
    pub jobs: Vec<JobCancel>,
    /// A process outlived SIGKILL, or may not be signalled.
    #[serde(skip)]
    pub survived: bool,
}

/// A process that was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reaped {
    /// Its process id.
    pub pid: u32,
    /// What it was sent, in order; nothing when it ended by itself meanwhile.
    pub signals: Vec<String>,
}

/// Something that was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The process, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Why, for a person.
    pub reason: String,
}

/// A job that is to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobCancel {
    /// The run.
    pub run: RunId,
    /// Its job, if the runner told it; otherwise the control plane finds it by the run.
    pub job: Option<JobId>,
    /// Whether the control plane has settled it.
    pub settled: bool,
}

impl Report {
    /// Adds what another pass came to.
    pub fn add(&mut self, other: Self) {
        let Self { stale, reaped, skipped, jobs, survived } = other;
        self.stale += stale;
        self.reaped.extend(reaped);
        self.skipped.extend(skipped);
        self.jobs.extend(jobs);
        self.survived |= survived;
    }

    /// Notes what became of a tree: one entry a process, whatever was done to it in several steps.
    pub(super) fn add_killed(&mut self, report: process::Report) {
        for killed in report.killed {
            let signals: Vec<String> = killed.signals.iter().map(|number| name(*number)).collect();
            match self.reaped.iter_mut().find(|reaped| reaped.pid == killed.pid) {
                Some(known) => known.signals.extend(signals),
                None => self.reaped.push(Reaped { pid: killed.pid, signals }),
            }
        }
        for survivor in report.survivors {
            self.survived = true;
            let reason = match survivor.signals.is_empty() {
                true => "this user may not signal it".to_owned(),
                false => "it did not end, not even by SIGKILL: it hangs in the kernel".to_owned(),
            };
            self.skip(Some(survivor.pid), reason);
        }
    }

    pub(super) fn skip(&mut self, pid: Option<u32>, reason: impl Into<String>) {
        self.skipped.push(Skipped { pid, reason: reason.into() });
    }
}

fn name(number: i32) -> String {
    match number {
        process::signal::SIGTERM => "SIGTERM".into(),
        process::signal::SIGKILL => "SIGKILL".into(),
        other => other.to_string(),
    }
}
