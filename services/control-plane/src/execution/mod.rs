//! One job, from claimed to over: its executor is started, told, heard, stopped and accounted for.
//!
//! ```text
//!             +-- stdin: the job
//! executor ---+-- stdout --> read --> [bounded] --> Recorder --> store, heads
//!             +-- stderr --> Journal --> the job's log
//! ```
//!
//! A job whose control plane goes down stays `running` in the database. The next life finds it so, queues it again
//! and resumes it from its newest checkpoint, or from where it was created to start.

mod ending;
mod executor;
mod journal;
mod lines;
mod recorder;
mod stopping;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::event::Event;
use crate::job::{Job, ResumePoint};

use ending::Intent;
use recorder::Recorder;
use stopping::Stopping;

pub(crate) use executor::{Executor, Pipes, sweep};
pub(crate) use journal::tail;
pub(crate) use lines::Lines;

/// How long the pipes of an exited executor may stay open: something left its group and still holds them.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What an executor reads on its stdin.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    job_id: &'a str,
    config: &'a RawValue,
    resume_from: Option<ResumePoint>,
}

/// Runs `job`, which was claimed, until its executor is gone. `cancel` asks for its end.
pub(crate) async fn run(core: Arc<Core>, job: Job, cancel: CancellationToken) {
    let id = job.id.clone();
    if let Err(error) = Box::pin(train(core, job, cancel)).await {
        tracing::error!(job = id, %error, "a job cannot be recorded; the next start resumes it");
    }
}

async fn train(core: Arc<Core>, job: Job, cancel: CancellationToken) -> Result<(), sqlx::Error> {
    // Between the claim and the moment that a cancel could find this job's token, one may have been asked for.
    if core.store.reread(job.ord).await?.cancel_requested_at.is_some() {
        return finish(&core, &job, &Event::cancelled()).await;
    }
    let dir = core.job_dir(&job.id);
    if let Err(error) = tokio::fs::create_dir_all(&dir).await {
        let error = format!("the job's folder cannot be created: {error}");
        return finish(&core, &job, &Event::failed(&error)).await;
    }
    let resume = resume_point(&core, &job).await?;
    let setting = &core.settings.executor;
    let started = Executor::start(setting, &setting.train_args, core.job_marker(&job.id)).await;
    let (executor, pipes) = match started {
        Ok(started) => started,
        Err(error) => {
            let program = setting.program.display();
            let error =
                format!("the executor {program} cannot be started: {error}; check the executor setting");
            return finish(&core, &job, &Event::failed(&error)).await;
        }
    };
    tracing::info!(job = job.id, pid = executor.pid(), resumed = resume.is_some(), "executor started");

    let Ran { exit, tail, intent, terminal } =
        hear_out(&core, &job, executor, pipes, order(&job, resume), cancel).await?;
    tracing::info!(job = job.id, exit, "executor ended");
    match ending::ending(terminal, intent, &exit, &tail) {
        Some(event) => finish(&core, &job, &event).await,
        None => Ok(()),
    }
}

/// What an executor's life came to.
struct Ran {
    /// In words.
    exit: String,
    /// The last lines of its stderr.
    tail: String,
    /// What it was last asked to do.
    intent: Intent,
    /// Whether the job is over already.
    terminal: bool,
}

/// Tells the executor its job, records what it says, and stops it when that is asked; until it is gone.
async fn hear_out(
    core: &Arc<Core>,
    job: &Job,
    mut executor: Executor,
    Pipes { stdin, stdout, stderr }: Pipes,
    order: Vec<u8>,
    cancel: CancellationToken,
) -> Result<Ran, sqlx::Error> {
    let history = core.store.history(job.ord).await?;
    let (journal, writer) = journal::open(core.job_dir(&job.id).join("executor.log"));
    let (intent, intent_seen) = watch::channel(Intent::Train);
    let ended = CancellationToken::new();
    let recorder = Recorder::new(core.clone(), job, intent_seen, journal.clone(), history, ended.clone());
    let (read, lines) = recorder::read(stdout, journal.clone());
    let feeding = tokio::spawn(feed(stdin, order));
    let pipes = [tokio::spawn(read), tokio::spawn(journal.copy(stderr))];
    let log = tokio::spawn(writer.run());
    // A database that refuses for good ends the executor too: what it does could not be recorded.
    let broken = CancellationToken::new();
    let alarm = broken.clone();
    let recording = tokio::spawn(async move { recorder.run(lines).await.inspect_err(|_| alarm.cancel()) });

    let stopping = Stopping { core, cancel, broken, ended: ended.clone(), intent };
    let (exit, intent) = stopping.until_exit(&mut executor).await;
    feeding.abort();
    drain(pipes).await;
    recording.await.unwrap_or_else(|panic| Err(sqlx::Error::Io(std::io::Error::other(panic))))?;
    let tail = log.await.unwrap_or_default();
    let exit = exit.map_or_else(|error| format!("cannot be waited for ({error})"), ending::describe);
    Ok(Ran { exit, tail, intent, terminal: ended.is_cancelled() })
}

/// Appends the job's last event.
async fn finish(core: &Core, job: &Job, event: &Event) -> Result<(), sqlx::Error> {
    recorder::append(core, job.ord, &[recorder::entry(event, &job.id)]).await.map(|_| ())
}

/// Where this life starts: the job's own newest checkpoint, else the one that it was created to start from.
async fn resume_point(core: &Core, job: &Job) -> Result<Option<ResumePoint>, sqlx::Error> {
    let own = core.store.checkpoint(job.ord, None).await?;
    Ok(own.filter(|point| Path::new(&point.dir).is_dir()).or_else(|| job.resume_point()))
}

fn order(job: &Job, resume_from: Option<ResumePoint>) -> Vec<u8> {
    let config: &RawValue = serde_json::from_str(&job.config).expect("a config is stored once it parsed");
    let order = Order { job_id: &job.id, config, resume_from };
    let mut line = serde_json::to_vec(&order).expect("strings, numbers and raw JSON always serialise");
    line.push(b'\n');
    line
}

/// Writes the order and closes stdin. An executor that does not read it is its own affair.
pub(crate) async fn feed(mut stdin: impl AsyncWrite + Unpin, order: Vec<u8>) {
    if let Err(error) = stdin.write_all(&order).await {
        tracing::debug!(%error, "an executor did not read its order");
    }
}

/// Waits for the ends of an exited executor's pipes; then lets go of them.
async fn drain(pipes: [JoinHandle<()>; 2]) {
    let until = Instant::now() + DRAIN_LIMIT;
    for mut pipe in pipes {
        if tokio::time::timeout_at(until, &mut pipe).await.is_err() {
            pipe.abort();
        }
    }
}
