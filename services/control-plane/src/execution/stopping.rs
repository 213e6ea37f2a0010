//! When an executor is asked to stop, and what follows if it does not.
//!
//! SIGTERM asks it to save a checkpoint and exit; after the grace its tree is killed; a host that does not manage even
//! that is killed itself, and the executor with it. Three things ask: a cancel, the control plane going down, and its
//! own terminal event, after which it gets one grace to leave by itself.

use std::convert::Infallible;
use std::time::Duration;

use hosting::Place;
use process::{PidFd, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::link::Wish;
use crate::core::Core;

/// How long a host may take to kill its tree.
const HOST_LIMIT: Duration = Duration::from_secs(10);

const CANCELLED: &str = "the job is cancelled";
const GOING_DOWN: &str = "the control plane goes down; the job goes on in its next life";
const OVER: &str = "the job is over";
const TOO_SLOW: &str = "it did not stop in time";

/// How far the stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The job is over; at the time the executor is asked to leave.
    Lingering(Instant),
    /// It was asked; at the time it is killed.
    Asked(Instant),
    /// Its host was told to kill it; at the time the host is killed.
    Killed(Instant),
    /// Nothing more can be done.
    Abandoned,
}

/// Everything that can stop one executor.
pub(super) struct Stopping<'a> {
    pub(super) core: &'a Core,
    pub(super) place: &'a Place,
    /// The job is to be cancelled.
    pub(super) cancel: CancellationToken,
    /// The job has its terminal event.
    pub(super) ended: CancellationToken,
    /// Where the host is told what is wished for.
    pub(super) wishes: &'a watch::Sender<Wish>,
}

impl Stopping<'_> {
    /// Stops the executor when that is asked. To be dropped when the executor is gone.
    pub(super) async fn watch(self) -> Infallible {
        let (core, mut phase) = (self.core, Phase::Running);
        loop {
            let deadline = match phase {
                Phase::Running | Phase::Abandoned => None,
                Phase::Lingering(at) | Phase::Asked(at) | Phase::Killed(at) => Some(at),
            };
            let may_ask = matches!(phase, Phase::Running | Phase::Lingering(_));
            let may_kill = may_ask || matches!(phase, Phase::Asked(_));
            phase = tokio::select! {
                biased;
                () = core.kill.cancelled(), if may_kill => self.end(GOING_DOWN),
                () = self.cancel.cancelled(), if may_ask => self.ask(CANCELLED),
                () = core.suspend.cancelled(), if may_ask => self.ask(GOING_DOWN),
                () = self.ended.cancelled(), if phase == Phase::Running => Phase::Lingering(self.grace()),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => match phase {
                    Phase::Lingering(_) => self.ask(OVER),
                    Phase::Asked(_) => self.end(TOO_SLOW),
                    _ => self.abandon(),
                },
            };
        }
    }

    fn ask(&self, why: &'static str) -> Phase {
        self.wishes.send_replace(Wish::Save(why));
        Phase::Asked(self.grace())
    }

    fn end(&self, why: &'static str) -> Phase {
        self.wishes.send_replace(Wish::End(why));
        Phase::Killed(Instant::now() + HOST_LIMIT)
    }

    fn abandon(&self) -> Phase {
        let host = self.place.identity();
        tracing::error!(?host, "a host does not end its executor; both are killed");
        if let Some(host) = host.and_then(|host| PidFd::open(&host).ok()) {
            let _ = host.send(signal::SIGKILL);
        }
        Phase::Abandoned
    }

    /// When a grace that begins now is over.
    fn grace(&self) -> Instant {
        Instant::now() + self.core.settings.stop_grace
    }
}
