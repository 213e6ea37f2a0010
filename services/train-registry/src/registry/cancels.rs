//! What becomes of the job of a run that ends without it: a cancel, on disk before anything is killed.

use std::rc::Rc;
use std::time::Duration;

use failpoint::Point;
use tokio::sync::oneshot;
use wire::cancel::Cancel;
use wire::{ControlPlane, JobId, RunId, StopMode, TraceContext};

use super::{CANCEL_FIRST, Core};
use crate::launch;

/// How long until a cancel that the broker did not take is offered again; doubles up to the longest.
const CANCEL_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_CANCEL_PAUSE: Duration = Duration::from_secs(10);

impl Core {
    /// Commits a cancel as whom the run was started. A cancel that the outbox does not take is offered again for as
    /// long as this server lives; after that, the table says that it is due.
    pub(super) fn cancel(self: &Rc<Self>, run: RunId, job: Option<JobId>) {
        let started_as = self.control_planes.borrow_mut().remove(&run);
        if started_as.is_none() && job.is_none() {
            // It was started without a control plane, and has found none itself.
            return self.cancel_committed(&run);
        }
        let (committed, waits) = oneshot::channel();
        self.committing.borrow_mut().insert(run.clone(), waits);
        let core = Rc::clone(self);
        self.life.spawn(async move {
            failpoint::reach(Point::CancelDecided);
            let control_plane = match started_as {
                Some(control_plane) => control_plane,
                None => match core.account_of_job(&run).await {
                    Some(control_plane) => control_plane,
                    None => return drop(core.committing.borrow_mut().remove(&run)),
                },
            };
            let cancel = Cancel { run: run.clone(), job, control_plane };
            let mut pause = CANCEL_PAUSE;
            while let Err(error) = core.peers.cancel.ask(cancel.clone()).await {
                tracing::error!(%run, %error, "the job's cancel is not on disk yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_CANCEL_PAUSE);
            }
            failpoint::reach(Point::CancelAcknowledged);
            core.cancel_committed(&run);
            let _ = committed.send(());
            core.committing.borrow_mut().remove(&run);
        });
    }

    /// As whom the job can be cancelled of a run that was started before the server had signed in: its runner found an
    /// account itself. Waits until the server has one, too; until then the table says that a cancel is due.
    async fn account_of_job(&self, run: &RunId) -> Option<ControlPlane> {
        let mut known = self.peers.control_plane.clone();
        let acts = known.wait_for(Option::is_some).await.ok()?.clone()?;
        let scope = self.fleet.borrow().job_scope(run)?;
        let account = scope.within(&acts);
        if account.is_none() {
            tracing::error!(%run, ?scope, "its job cannot be cancelled from here: it is on another control plane");
            self.cancel_committed(run);
        }
        account
    }

    pub(super) fn cancel_committed(&self, run: &RunId) {
        self.fleet.borrow_mut().cancel_committed(run);
        self.save(run);
        self.forget_credentials(run);
    }

    /// A run that is over has no use for its credentials any more.
    pub(super) fn forget_credentials(&self, run: &RunId) {
        if self.fleet.borrow().is_over(run) {
            let folder = self.place(run).dir().to_owned();
            tokio::task::spawn_blocking(move || launch::forget_credentials(&folder));
        }
    }

    /// Ends a run now, once its cancel is on disk or has taken too long.
    pub(super) fn kill_after_cancel(self: &Rc<Self>, run: RunId, why: String) {
        let committing = self.committing.borrow_mut().remove(&run);
        let core = Rc::clone(self);
        self.life.spawn(async move {
            let on_disk = async {
                if let Some(committing) = committing {
                    let _ = committing.await;
                }
                let _ = core.flushed().await;
            };
            let _ = tokio::time::timeout(CANCEL_FIRST, on_disk).await;
            failpoint::reach(Point::KillDecided);
            if core.links.borrow().contains_key(&run) {
                core.stop(&run, StopMode::Now, why, &TraceContext::default());
            } else {
                core.kill_when_linked.borrow_mut().insert(run, why);
            }
        });
    }
}
