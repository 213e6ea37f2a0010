//! Stops that somebody asked for, and stops that cannot be.

use wire::run::RunRefusal;
use wire::{DevEvent, EndedBy, RunId, StopMode, TraceContext};

use super::{Effect, Fleet};
use crate::run_state::{End, Moment, Phase, StopCause};

impl Fleet {
    /// An early stop that a rebuild asked for cannot be put on record, so it is not carried out: nobody could
    /// restart the run. Nothing if the stop has another cause, which needs no record.
    pub(crate) fn not_stopped(&mut self, id: &RunId) -> Option<Vec<Effect>> {
        let run = self.runs.get_mut(id)?;
        if !matches!(run.phase, Phase::EarlyStopping(StopCause::Rebuild { .. })) {
            return None;
        }
        run.phase = Phase::Running;
        Some(vec![Effect::Publish(DevEvent::Run(run.frame()))])
    }

    /// Someone wants a run stopped.
    ///
    /// # Errors
    /// When there is no such run or it has ended.
    pub(crate) fn stop(
        &mut self,
        id: &RunId,
        mode: StopMode,
        reason: &str,
        now: Moment,
    ) -> Result<Vec<Effect>, RunRefusal> {
        let run = self.runs.get_mut(id).ok_or_else(|| RunRefusal::NotFound { run: id.clone() })?;
        let mut effects = Vec::new();
        let asked = || StopCause::Asked { reason: reason.to_owned() };
        match (&run.phase, mode) {
            (Phase::Ended(_), _) => return Err(RunRefusal::Ended { run: id.clone() }),
            (Phase::Unclaimed { end, .. } | Phase::Restarting { end, .. }, _) => {
                let end = End {
                    by: EndedBy::User,
                    reason: Some(format!("not restarted: {reason}")),
                    ..end.clone()
                };
                run.phase = Phase::Ended(End { at: now, ..end });
                effects.push(Effect::NotRestarted("stopped-by-user"));
                effects.extend(self.after_end(id));
                return Ok(effects);
            }
            (Phase::Stopping { .. }, _)
            | (Phase::EarlyStopping(StopCause::Asked { .. }), StopMode::Checkpoint) => {
                return Ok(effects);
            }
            (Phase::Starting { .. }, StopMode::Checkpoint) => {
                run.phase = Phase::Starting { stop: Some(reason.to_owned()) };
            }
            (
                Phase::EarlyStopping(StopCause::Rebuild { .. } | StopCause::Alone { .. }),
                StopMode::Checkpoint,
            ) => {
                if matches!(run.phase, Phase::EarlyStopping(StopCause::Rebuild { .. })) {
                    effects.push(Effect::NotRestarted("stopped-by-user"));
                }
                run.phase = Phase::EarlyStopping(asked());
            }
            (Phase::Running, StopMode::Checkpoint) => {
                run.phase = Phase::EarlyStopping(asked());
                let why = reason.to_owned();
                effects.push(Effect::EarlyStop { run: id.clone(), why, trace: TraceContext::default() });
            }
            (_, StopMode::Now) => {
                if matches!(run.phase, Phase::EarlyStopping(StopCause::Rebuild { .. })) {
                    effects.push(Effect::NotRestarted("stopped-by-user"));
                }
                run.phase = Phase::Stopping { reason: reason.to_owned() };
                let frame = run.frame();
                effects.extend(self.cancel(id));
                effects.push(Effect::Kill { run: id.clone(), why: reason.to_owned() });
                effects.push(Effect::Publish(DevEvent::Run(frame)));
                return Ok(effects);
            }
        }
        effects.push(Effect::Publish(DevEvent::Run(run.frame())));
        Ok(effects)
    }

    /// The server is stopping: every run stops, none is started from now on.
    pub(crate) fn stop_all(&mut self, mode: StopMode, now: Moment) -> Vec<Effect> {
        self.stopping = true;
        let ids: Vec<RunId> = self.runs.keys().cloned().collect();
        let stopped = ids.iter().filter_map(|id| self.stop(id, mode, "the server is stopping", now).ok());
        stopped.flatten().collect()
    }
}
