//! The runs of an earlier server, which the table and their logs tell of.

use wire::log::{Record, Step};
use wire::{DevEvent, RunId, TraceContext};

use super::{Effect, Fleet};
use crate::run_state::{End, Moment, Phase, RunState, StopCause};
use crate::store::Saved;

impl Fleet {
    /// Takes up a run of an earlier server, as the table and its log tell of it. Says what its end calls for and may
    /// not have been done.
    pub(crate) fn restore(&mut self, saved: Saved, log: &[Record], now: Moment) -> Vec<Effect> {
        let run = RunState::restore(saved, log);
        let (id, phase) = (run.id.clone(), run.phase.clone());
        self.runs.insert(id.clone(), run);
        let mut effects = match log.last() {
            Some(Record { step: end @ Step::Exit { .. }, .. }) => self.happened(&id, end, now),
            _ => Vec::new(),
        };
        if let Phase::Unclaimed { .. } = phase {
            effects.push(Effect::AwaitClaim(id.clone()));
        }
        // An end that is on record already may have left its cancel undone.
        if !self.is_live(&id) {
            effects.extend(self.cancel(&id));
        }
        effects
    }

    /// The host of a live run of an earlier server is followed again. Says what was to be done to the run and may not
    /// have been: a host does nothing twice.
    pub(crate) fn taken_up(&mut self, id: &RunId, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get(id) else { return Vec::new() };
        let id = id.clone();
        match run.phase.clone() {
            Phase::Starting { stop: Some(_) } if run.is_armed() => self.armed(&id, now),
            Phase::EarlyStopping(StopCause::Rebuild { why: reason } | StopCause::Asked { reason }) => {
                vec![Effect::EarlyStop { run: id, why: reason, trace: TraceContext::default() }]
            }
            Phase::Stopping { reason } => {
                let cancel = self.cancel(&id);
                cancel.into_iter().chain([Effect::Kill { run: id, why: reason }]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// An earlier server ended before it started the run's host, and none will be started. If the run was to take
    /// another's place, that restart is due again.
    pub(crate) fn never_started(&mut self, id: &RunId, now: Moment) -> Vec<Effect> {
        let is_wanted = self.is_wanted(id);
        let reason = "the server ended before it started the run's host".to_owned();
        let mut effects = self.not_started(id, reason, now);
        let replaced = self.runs.get(id).and_then(|run| run.replaces.clone()).filter(|_| is_wanted);
        if let Some(old) = replaced.and_then(|old| self.runs.get_mut(&old))
            && old.replaced_by.as_ref() == Some(id)
            && let Phase::Ended(end) = &old.phase
        {
            let why = end.reason.clone().unwrap_or_default();
            let end = End { reason: None, ..end.clone() };
            old.phase = Phase::Restarting { why, waits_for: "the next good build".into(), end };
            old.replaced_by = None;
            effects.push(Effect::Publish(DevEvent::Run(old.frame())));
            let old = old.id.clone();
            effects.extend(self.succeed(&old, now));
        }
        effects
    }
}
