//! From a host's log to the job's history, each record once.
//!
//! The log is read in pages. Each page is one transaction: the events that it brings, and how far the log has been
//! heard, the lines begun included. So this process may be killed at any point, and the next one goes on behind what
//! is in the history. A disk that refuses is waited for; what the executor says meanwhile is in the log.
//!
//! The last record, the exit, is never counted as heard: who comes after this process must find it again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hosting::Place;
use runlog::LogPage;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::log::{Record, Step, Stream};

use super::ending::End;
use super::journal::{self, Journal};
use super::lines::{Line, Splitter};
use super::link::{self, Wish};
use super::patiently;
use super::recorder::{self, Recorder};
use crate::checkpoints;
use crate::core::Core;
use crate::job::Job;
use crate::store::{Entry, Life};

/// How much log is read at once, bytes.
const PAGE: u32 = 256 * 1024;
/// Between a lost connection to a host that lives and the next one.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One life of one job, as it is heard.
pub(super) struct Hearing<'a> {
    core: &'a Arc<Core>,
    job: &'a Job,
    place: &'a Place,
    recorder: Recorder,
    /// The job has its terminal event; shared with who stops the executor.
    ended: CancellationToken,
    pub(super) journal: Journal,
    /// How far it is heard.
    pub(super) life: Life,
    stdout: Splitter,
    stderr: Splitter,
    /// Where the next record starts.
    hint: Option<u64>,
    /// Why the executor could not be started.
    not_started: Option<String>,
    /// Whether an event was added to the history.
    pub(super) has_recorded: bool,
}

impl<'a> Hearing<'a> {
    /// Goes on where `life` says. `ended` is cancelled when the job has its terminal event.
    pub(super) async fn new(
        core: &'a Arc<Core>,
        job: &'a Job,
        place: &'a Place,
        life: Life,
        cancel: CancellationToken,
        ended: CancellationToken,
    ) -> Result<Self, sqlx::Error> {
        let mut history = patiently(core, || core.store.history(job.ord)).await?;
        // What this life logged is heard once all the same; it may log a step twice, as for an evaluation.
        history.last_logged_step = life.logged;
        if job.status.is_terminal() {
            ended.cancel();
        }
        let dir = core.job_dir(&job.id);
        let journal = Journal::new(dir.join("executor.log"));
        let recorder = Recorder::new(job, dir, history, cancel, ended.clone());
        let stdout = Splitter::new(recorder::LINE_BYTES, life.stdout.clone());
        let stderr = Splitter::new(journal::LINE_BYTES, life.stderr.clone());
        Ok(Self {
            core,
            job,
            place,
            recorder,
            ended,
            journal,
            life,
            stdout,
            stderr,
            hint: None,
            not_started: None,
            has_recorded: false,
        })
    }

    /// Hears the host behind `stream`, or the one that is found, until the executor is gone. A lost connection to a
    /// host that lives is made again.
    ///
    /// # Errors
    /// The database refused until the control plane went down; the next life goes on.
    pub(super) async fn hear_all(
        &mut self,
        mut stream: Option<UnixStream>,
        wishes: &watch::Sender<Wish>,
    ) -> Result<End, sqlx::Error> {
        loop {
            if let Some(stream) = stream.take() {
                let mut news = link::attach(stream, self.life.heard, wishes.subscribe());
                loop {
                    // Before it is read: what comes after the reading wakes.
                    news.mark_unchanged();
                    if let Some(end) = self.read_on().await? {
                        return Ok(end);
                    }
                    if news.changed().await.is_err() {
                        break;
                    }
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            stream = self.place.reconnect().await;
            // What a host wrote before it went is there, whether this process was connected to it or not.
            if let Some(end) = self.read_on().await? {
                return Ok(end);
            }
            if stream.is_none() {
                return Ok(End::HostGone { in_vain: false });
            }
        }
    }

    /// Reads all there is; answers with how it ended, if it has.
    async fn read_on(&mut self) -> Result<Option<End>, sqlx::Error> {
        loop {
            let page = match self.page().await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(job = self.job.id, %error, "a job's log cannot be read now");
                    return Ok(None);
                }
            };
            if page.records.is_empty() {
                return Ok(None);
            }
            self.hint = Some(page.hint);
            if let Some(end) = self.take(page.records).await? {
                return Ok(Some(end));
            }
        }
    }

    async fn page(&self) -> io::Result<LogPage> {
        let (path, after, hint) = (self.place.log(), self.life.heard, self.hint);
        let page = tokio::task::spawn_blocking(move || runlog::read_page(&path, after, hint, PAGE)).await;
        match page.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            // The host was killed before it made it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(LogPage { records: Vec::new(), hint: 0, ended: false })
            }
            page => page,
        }
    }

    async fn take(&mut self, records: Vec<Record>) -> Result<Option<End>, sqlx::Error> {
        let (mut entries, mut end) = (Vec::new(), None);
        for Record { seq, ts, step } in records {
            match step {
                Step::Output { stream, text, base64 } => {
                    self.output(stream, bytes_of(text, base64), &ts, &mut entries).await;
                }
                Step::Spawned { pid, .. } => tracing::info!(job = self.job.id, pid, "executor started"),
                Step::Signal { signal, why, .. } => {
                    self.life.asked = true;
                    self.journal.note(&format!("the executor was sent signal {signal}: {why}"));
                }
                Step::Note { text } => {
                    self.journal.note(&text);
                    // Only a host that has no executor has anything to say first.
                    self.not_started = (seq == 1).then_some(text);
                }
                Step::Dropped { bytes, .. } => self.lose(bytes),
                Step::Exit { code, signal } => {
                    self.finish_lines(&ts, &mut entries).await;
                    end = Some(match self.not_started.take() {
                        Some(why) => End::NotStarted(why),
                        None => End::Exit { code, signal },
                    });
                    break;
                }
                _ => {}
            }
            self.life.heard = seq;
        }
        self.commit(&entries).await?;
        Ok(end)
    }

    /// Output is gone, because the log is bounded or its disk was full, and with it the lines that it was in.
    fn lose(&mut self, bytes: u64) {
        self.journal.note(&format!("{bytes} bytes of the executor's output are missing here"));
        self.stdout = Splitter::new(recorder::LINE_BYTES, Vec::new());
        self.stderr = Splitter::new(journal::LINE_BYTES, Vec::new());
    }

    async fn output(&mut self, stream: Stream, bytes: Vec<u8>, ts: &str, entries: &mut Vec<Entry>) {
        if stream == Stream::Stderr {
            self.stderr.feed(&bytes, |line| self.journal.stderr(ts, &line));
            return;
        }
        let mut lines = Vec::new();
        self.stdout.feed(&bytes, |line| lines.push(line));
        self.record(lines, ts, entries).await;
    }

    /// There is no more output: a line without its end is a line.
    async fn finish_lines(&mut self, ts: &str, entries: &mut Vec<Entry>) {
        if let Some(line) = self.stderr.finish() {
            self.journal.stderr(ts, &line);
        }
        let last = self.stdout.finish();
        self.record(last, ts, entries).await;
    }

    async fn record(&mut self, lines: impl IntoIterator<Item = Line>, ts: &str, entries: &mut Vec<Entry>) {
        for line in lines {
            self.recorder.take(line, ts, self.life.asked, &mut self.journal, entries).await;
        }
    }

    async fn commit(&mut self, entries: &[Entry]) -> Result<(), sqlx::Error> {
        // First: a line of the log may be there twice, but not be missing.
        self.journal.flush().await;
        self.life.stdout = self.stdout.begun().to_vec();
        self.life.stderr = self.stderr.begun().to_vec();
        let (core, job, life) = (self.core, self.job.ord, &self.life);
        let appended = patiently(core, || core.store.append(job, entries, life)).await?;
        core.heads.publish(job, appended.last_seq);
        self.has_recorded |= !entries.is_empty();
        if appended.terminal {
            self.ended.cancel();
        }
        if entries.iter().any(|entry| entry.checkpoint_dir.is_some()) {
            checkpoints::prune(core, self.job).await;
        }
        Ok(())
    }
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Vec<u8> {
    match (text, base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).unwrap_or_default(),
        (None, None) => Vec::new(),
    }
}
