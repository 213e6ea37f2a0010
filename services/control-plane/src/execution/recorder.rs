//! Which lines of an executor's stdout become events of its job's history, and as what.
//!
//! An earlier life of the job may have announced what this one does again: a step is logged once, a checkpoint
//! saved once, the training started once.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::lines::Line;
use crate::event::{self, Event, EventKind};
use crate::job::Job;
use crate::store::{Entry, History};

/// Far beyond an event. A batch and a page of a stream are as many of them, so it bounds those too.
pub(super) const LINE_BYTES: usize = 64 * 1024;
/// How much of a line that is no event is quoted in the log.
const QUOTED_BYTES: usize = 2000;

/// Records one life of one job.
#[derive(Debug)]
pub(super) struct Recorder {
    job_id: String,
    job_dir: PathBuf,
    history: History,
    /// The job is to be cancelled.
    cancel: CancellationToken,
    /// The job has its terminal event; shared with who stops the executor.
    ended: CancellationToken,
}

impl Recorder {
    pub(super) fn new(
        job: &Job,
        job_dir: PathBuf,
        history: History,
        cancel: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self { job_id: job.id.clone(), job_dir, history, cancel, ended }
    }

    /// Takes a line that was written at `ts`. `asked` says that the executor had been asked to stop before.
    pub(super) async fn take(
        &mut self,
        line: Line,
        ts: &str,
        asked: bool,
        journal: &mut Journal,
        entries: &mut Vec<Entry>,
    ) {
        if line.bytes.is_empty() {
            return;
        }
        if line.cut {
            return journal.note(&format!("stdout: a line over {LINE_BYTES} bytes is dropped"));
        }
        match event::Line::parse(&line.bytes) {
            event::Line::Noise(why) => {
                let text = String::from_utf8_lossy(&line.bytes);
                let text = &text[..text.floor_char_boundary(QUOTED_BYTES)];
                journal.note(&format!("stdout: {text} ({why})"));
            }
            event::Line::Event(event) => match self.unwanted(&event, asked, entries) {
                Some(why) => journal.note(&format!("{} is not recorded: {why}", event.kind.as_str())),
                None => self.admit(event, ts, journal, entries).await,
            },
        }
    }

    /// Why an event is not to be recorded, if so.
    fn unwanted(&self, event: &Event, asked: bool, before: &[Entry]) -> Option<&'static str> {
        let has_ended =
            self.ended.is_cancelled() || before.last().is_some_and(|entry| entry.kind.ending().is_some());
        match event.kind {
            _ if has_ended => Some("the job has ended"),
            EventKind::Started if self.history.started => Some("an earlier life announced it"),
            EventKind::Log if event.step <= self.history.last_logged_step => {
                Some("an earlier life logged it")
            }
            EventKind::Failed if self.cancel.is_cancelled() => Some("the job is being cancelled"),
            EventKind::Failed | EventKind::Cancelled if asked && !self.cancel.is_cancelled() => {
                Some("the executor was asked to stop; the job goes on later")
            }
            _ => None,
        }
    }

    async fn admit(&mut self, mut event: Event, ts: &str, journal: &mut Journal, entries: &mut Vec<Entry>) {
        match event.kind {
            EventKind::Started => self.history.started = true,
            EventKind::Log | EventKind::Checkpoint | EventKind::Completed if !self.history.started => {
                self.history.started = true;
                entries.push(entry(&Event::started(), &self.job_id, ts));
            }
            _ => {}
        }
        let dir = match event.kind {
            EventKind::Checkpoint => checkpoint_dir(&self.job_dir, &mut event).await,
            _ => None,
        };
        if event.kind == EventKind::Checkpoint && dir.is_none() {
            journal.note(
                "a checkpoint whose folder is not under MIDRUN_JOB_DIR can be neither resumed nor sampled",
            );
        }
        let mut entry = entry(&event, &self.job_id, ts);
        entry.checkpoint_dir = dir.and_then(|dir| dir.into_os_string().into_string().ok());
        entries.push(entry);
    }
}

/// `event`, which happened at `ts`.
pub(super) fn entry(event: &Event, job_id: &str, ts: &str) -> Entry {
    Entry {
        kind: event.kind,
        step: event.step,
        data: event.render(job_id, ts),
        at: ts.to_owned(),
        checkpoint_dir: None,
        error: event.error().map(str::to_owned),
    }
}

/// The folder of the checkpoint that `event` announces: its `dir`, or where its first artifact's `path` is, or the
/// usual place. It must lie within the job's folder, to which a relative path is relative.
async fn checkpoint_dir(job_dir: &Path, event: &mut Event) -> Option<PathBuf> {
    let said = event.take("dir").and_then(|dir| dir.as_str().map(PathBuf::from));
    let artifact = || {
        let first = event.field("artifacts")?.get(0)?;
        first.get("dir").or_else(|| first.get("path")).and_then(Value::as_str).map(PathBuf::from)
    };
    let step = event.step?;
    let usual = || PathBuf::from(format!("checkpoints/step-{step}"));
    let path = job_dir.join(said.or_else(artifact).unwrap_or_else(usual));
    let root = tokio::fs::canonicalize(job_dir).await.ok()?;
    let path = tokio::fs::canonicalize(path).await.ok()?;
    let dir = if tokio::fs::metadata(&path).await.ok()?.is_dir() { path } else { path.parent()?.to_owned() };
    (dir.starts_with(&root) && dir != root).then_some(dir)
}
