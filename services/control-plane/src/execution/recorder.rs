//! From an executor's stdout to the job's history.
//!
//! Lines are read by one task and recorded by another, in batches of whatever has come meanwhile, one transaction
//! each: a burst costs few commits, a single event waits for none. The queue between the two is bounded, so an
//! executor that is faster than the disk waits at its pipe.
//!
//! An earlier life of the job may have announced what this one does again: a step is logged once, a checkpoint
//! saved once, the training started once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::ending::Intent;
use super::journal::Journal;
use super::lines::{Line, Lines};
use crate::core::Core;
use crate::event::{self, Event, EventKind};
use crate::job::Job;
use crate::store::{Entry, History};

/// Far beyond an event. The queue, a batch and a page of a stream are as many of them, so it bounds those too.
const LINE_BYTES: usize = 64 * 1024;
/// Lines that wait to be recorded.
const WAITING: usize = 512;
/// Lines in one transaction.
const BATCH: usize = 256;
/// How much of a line that is no event is quoted in the log.
const QUOTED_BYTES: usize = 2000;

/// Reads lines into a bounded queue until the end of `stdout`.
pub(super) fn read(
    stdout: impl AsyncRead + Unpin,
    journal: Journal,
) -> (impl Future<Output = ()>, mpsc::Receiver<Line>) {
    let (tx, rx) = mpsc::channel(WAITING);
    let read = async move {
        let mut lines = Lines::new(stdout, LINE_BYTES);
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if tx.send(line).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => return journal.note(format!("stdout cannot be read: {error}")).await,
            }
        }
    };
    (read, rx)
}

/// Records one life of one job.
pub(super) struct Recorder {
    core: Arc<Core>,
    job: i64,
    job_id: String,
    job_dir: PathBuf,
    intent: watch::Receiver<Intent>,
    journal: Journal,
    history: History,
    /// The job has its terminal event; shared with who waits for the executor.
    ended: CancellationToken,
}

impl Recorder {
    pub(super) fn new(
        core: Arc<Core>,
        job: &Job,
        intent: watch::Receiver<Intent>,
        journal: Journal,
        history: History,
        ended: CancellationToken,
    ) -> Self {
        let job_dir = core.job_dir(&job.id);
        let (job, job_id) = (job.ord, job.id.clone());
        Self { core, job, job_id, job_dir, intent, journal, history, ended }
    }

    /// Records until the queue ends.
    ///
    /// # Errors
    /// The database refused for good; nothing more can be recorded.
    pub(super) async fn run(mut self, mut lines: mpsc::Receiver<Line>) -> Result<(), sqlx::Error> {
        let mut batch = Vec::with_capacity(BATCH);
        while lines.recv_many(&mut batch, BATCH).await > 0 {
            let mut entries = Vec::with_capacity(batch.len());
            for line in batch.drain(..) {
                self.take(line, &mut entries).await;
            }
            if !entries.is_empty() && append(&self.core, self.job, &entries).await? {
                self.ended.cancel();
            }
        }
        Ok(())
    }

    async fn take(&mut self, line: Line, entries: &mut Vec<Entry>) {
        if line.bytes.is_empty() {
            return;
        }
        if line.cut {
            return self.journal.note(format!("stdout: a line over {LINE_BYTES} bytes is dropped")).await;
        }
        match event::Line::parse(&line.bytes) {
            event::Line::Noise(why) => {
                let text = String::from_utf8_lossy(&line.bytes);
                let text = &text[..text.floor_char_boundary(QUOTED_BYTES)];
                self.journal.note(format!("stdout: {text} ({why})")).await;
            }
            event::Line::Event(event) => match self.unwanted(&event) {
                Some(why) => {
                    self.journal.note(format!("{} is not recorded: {why}", event.kind.as_str())).await;
                }
                None => self.admit(event, entries).await,
            },
        }
    }

    /// Why an event is not to be recorded, if so.
    fn unwanted(&self, event: &Event) -> Option<&'static str> {
        let intent = *self.intent.borrow();
        match event.kind {
            _ if self.ended.is_cancelled() => Some("the job has ended"),
            EventKind::Started if self.history.started => Some("an earlier life announced it"),
            EventKind::Log if event.step <= self.history.last_logged_step => {
                Some("an earlier life logged it")
            }
            EventKind::Failed if intent == Intent::Cancel => Some("the job is being cancelled"),
            EventKind::Failed | EventKind::Cancelled if intent == Intent::Suspend => {
                Some("the control plane goes down; its next life resumes the job")
            }
            _ => None,
        }
    }

    async fn admit(&mut self, mut event: Event, entries: &mut Vec<Entry>) {
        match event.kind {
            EventKind::Started => self.history.started = true,
            EventKind::Log | EventKind::Checkpoint | EventKind::Completed if !self.history.started => {
                self.history.started = true;
                entries.push(entry(&Event::started(), &self.job_id));
            }
            _ => {}
        }
        let dir = match event.kind {
            EventKind::Checkpoint => checkpoint_dir(&self.job_dir, &mut event).await,
            _ => None,
        };
        if event.kind == EventKind::Checkpoint && dir.is_none() {
            let note =
                "a checkpoint whose folder is not under MIDRUN_JOB_DIR can be neither resumed nor sampled";
            self.journal.note(note.to_owned()).await;
        }
        let mut entry = entry(&event, &self.job_id);
        entry.checkpoint_dir = dir.and_then(|dir| dir.into_os_string().into_string().ok());
        entries.push(entry);
    }
}

/// `event`, now.
pub(super) fn entry(event: &Event, job_id: &str) -> Entry {
    Entry {
        kind: event.kind,
        step: event.step,
        data: event.render(job_id, &wire::now()),
        checkpoint_dir: None,
        error: event.error().map(str::to_owned),
    }
}

/// Appends and wakes the readers; says whether the job is terminal. A passing fault of the disk is waited out.
pub(super) async fn append(core: &Core, job: i64, entries: &[Entry]) -> Result<bool, sqlx::Error> {
    let mut delay = Duration::from_millis(50);
    loop {
        match core.store.append(job, entries).await {
            Ok(appended) => {
                core.heads.publish(job, appended.last_seq);
                return Ok(appended.terminal);
            }
            Err(error) if delay > Duration::from_secs(3) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, ?delay, "events could not be recorded; trying again");
                tokio::time::sleep(delay).await;
                delay *= 2;
            }
        }
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
