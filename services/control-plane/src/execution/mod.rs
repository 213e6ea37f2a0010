//! One job, from claimed to over: its executor is started, heard, stopped and accounted for.
//!
//! ```text
//! control plane                        host (its own session)          executor
//!   Hearing  <-- log, in pages ------- appends stdout, stderr, exit <-- its pipes
//!   Stopping --- wish, over a socket -> SIGTERM, SIGKILL -------------> saves a checkpoint, exits
//! ```
//!
//! A life is one executor in one host. It goes on when the control plane is killed; the next one finds it in the
//! database, hears what it wrote meanwhile, and goes on as if it had started it. A life that ends before its job does
//! (it was asked to save and exit, or its host was killed) is followed by another one, which goes on from the job's
//! newest checkpoint, or from where the job was created to start.

mod ending;
mod executor;
mod hearing;
mod journal;
mod life;
mod lines;
mod link;
mod recorder;
mod stopping;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use failpoint::Point;
use hosting::{Place, Started};
use process::Child;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::checkpoints;
use crate::core::Core;
use crate::event::Event;
use crate::job::{Job, ResumePoint};
use crate::store::Life;

use ending::{Circumstances, End, Fate};
use hearing::Hearing;
use link::Wish;
use stopping::Stopping;

pub(crate) use executor::{Executor, Pipes, feed, sweep};
pub(crate) use journal::tail;
pub(crate) use life::{LIVES, hosts_by_job};
pub(crate) use lines::Lines;

/// How long a host may take to go once its job is accounted for.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries of a statement that the database refused: the first pause, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Runs `job`, which was claimed, until its executor is gone. `cancel` asks for its end.
pub(crate) async fn run(core: Arc<Core>, job: Job, cancel: CancellationToken) {
    let id = job.id.clone();
    report(&id, Box::pin(begin(core, job, cancel)).await);
}

/// Goes on with the life that an earlier control plane left.
pub(crate) async fn take_up(core: Arc<Core>, job: Job, life: Life, cancel: CancellationToken) {
    let id = job.id.clone();
    let place = life::place_of(&core, &job, &life);
    report(&id, Box::pin(attend(core, job, life, place, Source::Earlier, cancel)).await);
}

fn report(job: &str, outcome: Result<(), sqlx::Error>) {
    if let Err(error) = outcome {
        tracing::error!(job, %error, "a job cannot be recorded; the next start goes on with it");
    }
}

async fn begin(core: Arc<Core>, job: Job, cancel: CancellationToken) -> Result<(), sqlx::Error> {
    // Between the claim and the moment that a cancel could find this job's token, one may have been asked for.
    if patiently(&core, || core.store.reread(job.ord)).await?.cancel_requested_at.is_some() {
        return settle(&core, &job, Fate::Over(Event::cancelled())).await;
    }
    let resume = resume_point(&core, &job).await?;
    tracing::info!(job = job.id, resumed = resume.is_some(), "starting an executor");
    match life::begin(&core, &job, resume).await? {
        Ok((life, started)) => {
            let place = life::place_of(&core, &job, &life);
            attend(core, job, life, place, Source::Begun(started), cancel).await
        }
        Err(why) => settle(&core, &job, Fate::Over(Event::failed(&why))).await,
    }
}

/// Where a life comes from.
enum Source {
    /// It was begun just now, in a host that there is a connection to unless it is done already.
    Begun(Option<Started>),
    /// An earlier control plane left it.
    Earlier,
}

/// Hears the life until its executor is gone, stopping it when that is asked, and accounts for it.
async fn attend(
    core: Arc<Core>,
    job: Job,
    life: Life,
    place: Place,
    source: Source,
    cancel: CancellationToken,
) -> Result<(), sqlx::Error> {
    let is_ours = matches!(source, Source::Begun(_));
    let (child, stream): (Option<Child>, Option<UnixStream>) = match source {
        Source::Begun(Some(started)) => (Some(started.child), Some(started.stream)),
        Source::Begun(None) | Source::Earlier => (None, None),
    };
    if patiently(&core, || core.store.reread(job.ord)).await?.cancel_requested_at.is_some() {
        cancel.cancel();
    }
    let (wishes, ended) = (watch::Sender::new(Wish::Train), CancellationToken::new());
    let mut hearing = Hearing::new(&core, &job, &place, life, cancel.clone(), ended.clone()).await?;
    let stopping = Stopping {
        core: &core,
        place: &place,
        cancel: cancel.clone(),
        ended: ended.clone(),
        wishes: &wishes,
    };
    failpoint::reach(Point::JobHeardFrom);
    let mut end = tokio::select! {
        end = hearing.hear_all(stream, &wishes) => end?,
        never = stopping.watch() => match never {},
    };
    if let End::HostGone { in_vain } = &mut end {
        *in_vain = is_ours && !hearing.has_recorded && !hearing.life.asked;
        tracing::warn!(job = job.id, "a host was killed, and its executor with it");
        hearing.journal.note("the host was killed, and the executor with it");
        hearing.journal.flush().await;
        sweep(core.job_marker(&job.id)).await;
    }
    tracing::info!(job = job.id, ?end, "executor ended");
    let known = Circumstances {
        terminal: ended.is_cancelled(),
        cancelled: cancel.is_cancelled(),
        asked: hearing.life.asked || core.suspend.is_cancelled(),
    };
    let fate = ending::fate(&end, known, &hearing.journal.tail());
    settle(&core, &job, fate).await?;
    leave(child, &place).await;
    checkpoints::prune_later(&core, job);
    Ok(())
}

/// Records what became of the job, and that it has no executor any more.
async fn settle(core: &Core, job: &Job, fate: Fate) -> Result<(), sqlx::Error> {
    let (last, again) = match fate {
        Fate::Stands => (None, false),
        Fate::Over(event) => (Some(recorder::entry(&event, &job.id, &wire::now())), false),
        Fate::Again => (None, true),
    };
    let settled = patiently(core, || core.store.settle(job.ord, last.as_ref(), again)).await?;
    core.heads.publish(job.ord, settled.last_seq);
    if again {
        core.bell.notify_one();
    }
    Ok(())
}

/// Reaps the host, which goes by itself, and removes its folder: what stood there is in the history and in the job's log.
async fn leave(child: Option<Child>, place: &Place) {
    if let Some(mut child) = child {
        let _ = tokio::time::timeout(LEAVE_LIMIT, child.wait()).await;
    }
    if let Err(error) = tokio::fs::remove_dir_all(place.dir()).await {
        tracing::debug!(%error, "a host's folder stays");
    }
}

/// Where a new life starts: the job's own newest checkpoint, else the one that it was created to start from.
async fn resume_point(core: &Core, job: &Job) -> Result<Option<ResumePoint>, sqlx::Error> {
    let own = patiently(core, || core.store.checkpoints(job.ord)).await?;
    // One may have been removed by hand.
    let there = own.into_iter().find(|point| Path::new(&point.dir).is_dir());
    Ok(there.or_else(|| job.resume_point()))
}

/// Does `statement` until the database takes it: a full or failing disk may be mended, and the executor goes on
/// meanwhile.
///
/// # Errors
/// What the database said last, when the control plane's time is over.
async fn patiently<T, F: Future<Output = Result<T, sqlx::Error>>>(
    core: &Core,
    statement: impl Fn() -> F,
) -> Result<T, sqlx::Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match statement().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        tracing::warn!(%error, ?pause, "the database refused; trying again");
        tokio::select! {
            () = core.kill.cancelled() => return Err(error),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}
