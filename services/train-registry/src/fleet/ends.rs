//! How runs end, and what follows: a cancel, a successor, or a word from the request that a run belongs to.

use wire::run::RunRefusal;
use wire::{DevEvent, EndedBy, RunId};

use super::{Effect, Fleet};
use crate::run_state::{End, Moment, Phase, StopCause};

impl Fleet {
    /// The request that a run belongs to says that it starts the next itself.
    ///
    /// # Errors
    /// When there is no such run.
    pub(crate) fn claim(&mut self, id: &RunId) -> Result<Vec<Effect>, RunRefusal> {
        let run = self.runs.get_mut(id).ok_or_else(|| RunRefusal::NotFound { run: id.clone() })?;
        run.claimed = true;
        let Phase::Unclaimed { why, end } = &run.phase else { return Ok(Vec::new()) };
        run.phase = claimed(why, end.clone());
        let mut effects = self.after_end(id);
        effects.push(Effect::NotRestarted("client-restarts"));
        Ok(effects)
    }

    /// The request that a run belonged to has had its time to say that it starts the next.
    pub(crate) fn unclaimed(&mut self, id: &RunId, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let Phase::Unclaimed { why, end } = &run.phase else { return Vec::new() };
        run.phase = restarting(why.clone(), end.clone());
        self.succeed(id, now)
    }

    pub(super) fn exited(&mut self, id: &RunId, code: i32, signal: Option<i32>, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let how = match signal {
            Some(signal) => format!("signal {signal} ended it"),
            None => format!("exit status {code}"),
        };
        let end = |by, reason: Option<String>| End { at: now, code: Some(code), by, reason };
        let suppressed = match (&run.phase, code) {
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 0) if self.stopping => Some("server-stopping"),
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 0) if run.claimed => Some("client-restarts"),
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 1..) => Some("early-stop-failed"),
            _ => None,
        };
        let phase = match (&run.phase, code) {
            (Phase::EarlyStopping(StopCause::Rebuild { why }), 0) => {
                let replaced = |reason| end(EndedBy::Replaced, reason);
                match (self.stopping, run.restarts, run.claimed) {
                    (true, ..) => Phase::Ended(replaced(Some(format!("{why}; the server is stopping")))),
                    (_, true, _) => restarting(why.clone(), replaced(None)),
                    (_, _, true) => claimed(why, replaced(None)),
                    _ => Phase::Unclaimed { why: why.clone(), end: replaced(None) },
                }
            }
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), _) => Phase::Ended(end(
                EndedBy::Failed,
                Some(format!("not restarted: the early stop failed ({how})")),
            )),
            (
                Phase::EarlyStopping(StopCause::Asked { reason })
                | Phase::Stopping { reason }
                | Phase::Starting { stop: Some(reason) },
                _,
            ) => Phase::Ended(end(EndedBy::User, Some(reason.clone()))),
            (Phase::EarlyStopping(StopCause::Alone { reason }), _) => {
                Phase::Ended(end(EndedBy::Reaped, Some(reason.clone())))
            }
            (_, 0) => Phase::Ended(end(EndedBy::Finished, None)),
            (Phase::Starting { .. }, _) => {
                Phase::Ended(end(EndedBy::Failed, Some(format!("ended before it was armed: {how}"))))
            }
            (_, _) => Phase::Ended(end(EndedBy::Failed, Some(run.in_its_words(how)))),
        };
        run.phase = phase;
        let follows = match run.phase {
            // Its request looks at what it is told of.
            Phase::Unclaimed { .. } => {
                vec![Effect::Publish(DevEvent::Run(run.frame())), Effect::AwaitClaim(id.clone())]
            }
            _ => Vec::new(),
        };
        let is_restarting = matches!(run.phase, Phase::Restarting { .. });
        let mut effects = self.after_end(id);
        effects.extend(suppressed.map(Effect::NotRestarted));
        effects.extend(follows);
        if is_restarting {
            effects.extend(self.succeed(id, now));
        }
        effects
    }

    /// The host of a run is gone and its log has no end.
    pub(crate) fn lost(&mut self, id: &RunId, reason: String, now: Moment) -> Vec<Effect> {
        self.end_unseen(id, EndedBy::Lost, reason, now)
    }

    /// A run could not be started, or was stopped before it was.
    pub(crate) fn not_started(&mut self, id: &RunId, reason: String, now: Moment) -> Vec<Effect> {
        match self.runs.get(id).map(|run| &run.phase) {
            Some(Phase::Stopping { reason } | Phase::Starting { stop: Some(reason) }) => {
                let reason = reason.clone();
                self.end_unseen(id, EndedBy::User, reason, now)
            }
            _ => self.end_unseen(id, EndedBy::Failed, reason, now),
        }
    }

    fn end_unseen(&mut self, id: &RunId, by: EndedBy, reason: String, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.is_live()) else { return Vec::new() };
        run.phase = Phase::Ended(End { at: now, code: None, by, reason: Some(reason) });
        self.after_end(id)
    }

    /// What follows every end: the job is settled, the artifacts are let go, everyone is told.
    pub(super) fn after_end(&mut self, id: &RunId) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.cancel(id).into_iter().collect();
        let mut done_with = None;
        if let Some(run) = self.runs.get(id)
            && let Phase::Ended(_) = run.phase
        {
            effects.push(Effect::Publish(DevEvent::Run(run.frame())));
            done_with = Some(run.entry.clone());
        }
        if let Some(entry) = done_with {
            effects.extend(self.unwatch(entry));
        }
        effects.extend(self.retain());
        effects
    }

    /// A cancel of the run's job, if one is due and none is on its way.
    pub(super) fn cancel(&mut self, id: &RunId) -> Option<Effect> {
        let run = self.runs.get_mut(id).filter(|run| !run.settled && !run.cancelling)?;
        run.cancelling = true;
        Some(Effect::Cancel { run: run.id.clone(), job: run.job.clone() })
    }

    /// The cancel of the run's job is on disk, or there is no job that could be cancelled.
    pub(crate) fn cancel_committed(&mut self, id: &RunId) {
        if let Some(run) = self.runs.get_mut(id) {
            run.settled = true;
            run.cancelling = false;
        }
    }

    /// Whether nothing of the run is left to be done: it has ended and its job is settled.
    pub(crate) fn is_over(&self, id: &RunId) -> bool {
        self.runs.get(id).is_some_and(|run| run.settled && matches!(run.phase, Phase::Ended(_)))
    }
}

/// One that ended for a rebuild and whose successor is due.
fn restarting(why: String, end: End) -> Phase {
    Phase::Restarting { why, waits_for: "its successor".into(), end }
}

/// One that ended for a rebuild and whose client starts the next.
fn claimed(why: &str, end: End) -> Phase {
    Phase::Ended(End { reason: Some(format!("{why}; its client starts the next")), ..end })
}
