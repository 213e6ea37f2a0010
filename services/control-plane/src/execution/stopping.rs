//! When an executor is asked to stop, and what follows if it does not.
//!
//! SIGTERM asks it to save a checkpoint and exit; after the grace its group gets SIGKILL. Three things ask: a cancel,
//! the control plane going down, and its own terminal event, after which it gets one grace to leave by itself.

use std::io;
use std::process::ExitStatus;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ending::Intent;
use super::executor::Executor;
use crate::core::Core;

/// How far the stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The job is over; at the time the executor is asked to leave.
    Lingering(Instant),
    /// It was asked; at the time it is killed.
    Asked(Instant),
    Killed,
}

/// Everything that can stop one executor.
pub(super) struct Stopping<'a> {
    pub(super) core: &'a Core,
    /// The job is to be cancelled.
    pub(super) cancel: CancellationToken,
    /// Nothing more can be recorded.
    pub(super) broken: CancellationToken,
    /// The job has its terminal event.
    pub(super) ended: CancellationToken,
    /// What the executor is asked to do, for the recorder to see.
    pub(super) intent: watch::Sender<Intent>,
}

impl Stopping<'_> {
    /// Waits until `executor` has exited, stopping it when asked. Also says what it was last asked to do.
    pub(super) async fn until_exit(self, executor: &mut Executor) -> (io::Result<ExitStatus>, Intent) {
        let mut phase = Phase::Running;
        loop {
            let intent = *self.intent.borrow();
            let deadline = match phase {
                Phase::Running | Phase::Killed => None,
                Phase::Lingering(at) | Phase::Asked(at) => Some(at),
            };
            let next = tokio::select! {
                biased;
                exit = executor.wait() => return (exit, intent),
                () = self.core.kill.cancelled(), if phase != Phase::Killed => Phase::Killed,
                () = self.broken.cancelled(), if phase != Phase::Killed => Phase::Killed,
                () = self.cancel.cancelled(), if intent != Intent::Cancel => self.ask(Intent::Cancel, phase),
                () = self.core.suspend.cancelled(), if intent == Intent::Train => self.ask(Intent::Suspend, phase),
                () = self.ended.cancelled(), if phase == Phase::Running => Phase::Lingering(self.grace()),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => match phase {
                    Phase::Lingering(_) => Phase::Asked(self.grace()),
                    _ => Phase::Killed,
                },
            };
            match (phase, next) {
                (Phase::Running | Phase::Lingering(_), Phase::Asked(_)) => executor.terminate(),
                (_, Phase::Killed) => executor.kill().await,
                _ => {}
            }
            phase = next;
        }
    }

    /// Changes the intent. A second request to stop does not prolong the grace.
    fn ask(&self, intent: Intent, phase: Phase) -> Phase {
        self.intent.send_replace(intent);
        match phase {
            Phase::Running | Phase::Lingering(_) => Phase::Asked(self.grace()),
            Phase::Asked(_) | Phase::Killed => phase,
        }
    }

    /// When a grace that begins now is over.
    fn grace(&self) -> Instant {
        Instant::now() + self.core.settings.stop_grace
    }
}
