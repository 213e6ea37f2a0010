//! The set of runs and the newest build of each entry: a pure state machine from what happened to what is to be
//! done. The actor around it carries the effects out and knows no rule.
//!
//! What must hold, whatever happens in whatever order:
//!
//! - one rebuild causes at most one signal per run;
//! - a run is never signalled before its runner is armed;
//! - a run is asked to stop early at most once;
//! - a restart happens only after an early stop that a rebuild asked for and that ended well, and only onto a good
//!   build;
//! - a run that ended without its job known to be terminal has a cancel on its way.

mod builds;
mod ends;
mod frames;
mod stops;
mod take_up;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wire::event::{RebuildKind, RunDecision, RunFrame, Target};
use wire::log::{EarlyStopPhase, Step};
use wire::manifest::{Good, Rebuild};
use wire::run::{NewestBuild, RunRefusal};
use wire::{
    ConfigHash, ContentHash, Decision, DevEvent, EndedBy, EntryPath, JobId, Run, RunId, TraceContext,
};

use self::builds::Builds;
use crate::dispatch::{Policy, Verdict, decide};
use crate::resume::Start;
use crate::run_state::{Code, End, JobScope, Moment, Phase, Plan, RunState, StopCause};
use crate::store::Saved;

/// Something to be done.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// Tell the run's host to swap.
    Swap { run: RunId, code: Code, config_hash: Option<ConfigHash>, why: String, trace: TraceContext },
    /// Tell the run's host to stop at the next checkpoint.
    EarlyStop { run: RunId, why: String, trace: TraceContext },
    /// Tell the run's host to end it now.
    Kill { run: RunId, why: String },
    /// Commit a cancel of the run's job.
    Cancel { run: RunId, job: Option<JobId> },
    /// Start a run.
    Start(Box<Plan>),
    /// Say in a while that nobody claimed the run.
    AwaitClaim(RunId),
    /// Tell everyone.
    Publish(DevEvent),
    /// The artifacts that are in use changed.
    Retain(Vec<ContentHash>),
    /// Nobody needs this entry's builds any more.
    Unwatch(EntryPath),
    /// A restart that a rebuild asked for does not come, or waits: why, in a word.
    NotRestarted(&'static str),
}

/// Ended runs that are remembered.
const MAX_ENDED: usize = 200;

/// The set of runs.
#[derive(Debug)]
pub(crate) struct Fleet {
    policy: Policy,
    project_entry: EntryPath,
    builds: HashMap<EntryPath, Builds>,
    runs: BTreeMap<RunId, RunState>,
    retained: BTreeSet<ContentHash>,
    was_ready: bool,
    stopping: bool,
}

/// What a client wants started.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// The entry to start.
    pub(crate) entry: EntryPath,
    /// How the entry is shown.
    pub(crate) shown_entry: String,
    /// The file that was named, if any.
    pub(crate) file: Option<String>,
    /// Whether the server restarts it.
    pub(crate) restarts: bool,
    /// The trace of whoever asked for it.
    pub(crate) trace: TraceContext,
}

impl Fleet {
    /// No runs, no builds.
    pub(crate) fn new(project_entry: EntryPath, policy: Policy) -> Self {
        Self {
            policy,
            project_entry,
            builds: HashMap::new(),
            runs: BTreeMap::new(),
            retained: BTreeSet::new(),
            was_ready: false,
            stopping: false,
        }
    }

    /// Every run, newest first.
    pub(crate) fn views(&self) -> Vec<Run> {
        self.runs.values().rev().map(RunState::view).collect()
    }

    /// One run.
    pub(crate) fn view(&self, run: &RunId) -> Option<Run> {
        self.runs.get(run).map(RunState::view)
    }

    /// Whether the run has a process.
    pub(crate) fn is_live(&self, run: &RunId) -> bool {
        self.runs.get(run).is_some_and(RunState::is_live)
    }

    /// One run as the durable table has it.
    pub(crate) fn saved(&self, run: &RunId) -> Option<Saved> {
        self.runs.get(run).map(RunState::saved)
    }

    /// The runs that have a process.
    pub(crate) fn live(&self) -> Vec<Run> {
        self.runs.values().rev().filter(|run| run.is_live()).map(RunState::view).collect()
    }

    /// Whether builds of `entry` have been seen.
    pub(crate) fn knows(&self, entry: &EntryPath) -> bool {
        self.builds.get(entry).is_some_and(Builds::are_seen)
    }

    /// What the project's own entry, which people are told of as `shown_entry`, last came to.
    pub(crate) fn newest(&self, shown_entry: &str) -> NewestBuild {
        let builds = self.builds.get(&self.project_entry);
        builds.map_or(NewestBuild::Pending, |builds| builds.newest(shown_entry))
    }

    /// The entries of files that runs were started from by name.
    pub(crate) fn named(&self) -> BTreeSet<EntryPath> {
        let entries = self.runs.values().map(|run| &run.entry);
        entries.filter(|entry| **entry != self.project_entry).cloned().collect()
    }

    /// What is known of the builds of `entry`, which were not followed lately, may be old.
    pub(crate) fn forget_builds(&mut self, entry: &EntryPath) {
        self.builds.remove(entry);
    }

    /// Starts a run of an entry whose builds are known.
    ///
    /// # Errors
    /// When there is nothing to start it on, or the server is stopping.
    pub(crate) fn start(&mut self, wish: Wish, now: Moment) -> Result<(RunId, Vec<Effect>), RunRefusal> {
        if self.stopping {
            return Err(RunRefusal::Stopping);
        }
        let none = Builds::default();
        let code = self.builds.get(&wish.entry).unwrap_or(&none).startable(&wish.entry)?.clone();
        let plan = Plan {
            run: RunId::fresh(),
            entry: wish.entry,
            shown_entry: wish.shown_entry,
            file: wish.file,
            restarts: wish.restarts,
            code,
            replaces: None,
            origin: None,
            trace: wish.trace,
        };
        Ok((plan.run.clone(), self.launch(plan, now)))
    }

    fn launch(&mut self, plan: Plan, now: Moment) -> Vec<Effect> {
        let state = RunState::new(&plan, now);
        let frame = state.frame();
        self.runs.insert(plan.run.clone(), state);
        self.forget_old();
        let mut effects: Vec<Effect> = self.retain().into_iter().collect();
        effects.push(Effect::Start(Box::new(plan)));
        effects.push(Effect::Publish(DevEvent::Run(frame)));
        effects
    }

    /// Whether `rebuild` is known already: a feed that resynced tells again what is.
    pub(crate) fn is_known(&self, rebuild: &Rebuild) -> bool {
        self.builds.get(&rebuild.entry).is_some_and(|builds| builds.know(rebuild))
    }

    /// A build of an entry was inspected, or failed.
    pub(crate) fn rebuilt(&mut self, rebuild: Rebuild, shown_entry: &str, now: Moment) -> Vec<Effect> {
        if self.is_known(&rebuild) {
            return Vec::new();
        }
        let builds = self.builds.entry(rebuild.entry.clone()).or_default();
        let before = builds.take(&rebuild);
        let good = match &rebuild.result {
            Ok(good) => good,
            Err(failure) => return vec![Effect::Publish(frames::error(failure, &rebuild))],
        };
        let (decisions, signals) = self.dispatch(&rebuild, good, now);
        let first = !self.was_ready && rebuild.entry == self.project_entry;
        self.was_ready |= first;
        let told = frames::Rebuilt {
            rebuild: &rebuild,
            good,
            before: before.as_ref(),
            shown_entry,
            kind: if first { RebuildKind::Ready } else { RebuildKind::Rebuild },
            hot_swap_targets: self.targets(&decisions, Decision::HotSwap),
            restart_targets: self.targets(&decisions, Decision::Restart),
            decisions,
        };
        let mut effects = vec![Effect::Publish(told.frame(now))];
        effects.extend(signals);
        effects.extend(self.start_waiting(&rebuild.entry, now));
        effects.extend(self.retain());
        effects
    }

    fn dispatch(&mut self, rebuild: &Rebuild, good: &Good, now: Moment) -> (Vec<RunDecision>, Vec<Effect>) {
        let mut decisions = Vec::new();
        let mut signals = Vec::new();
        let policy = self.policy;
        for run in self.runs.values_mut().filter(|run| run.entry == rebuild.entry) {
            let Some(subject) = run.subject() else { continue };
            let verdict = decide(&subject, good, policy);
            decisions.push(RunDecision {
                run: run.id.clone(),
                pid: run.pid,
                decision: verdict.decision,
                why: verdict.why.clone(),
            });
            signals.extend(signal(run, good, verdict, &rebuild.trace, now));
        }
        (decisions, signals)
    }

    /// The runs that `wanted` was decided for.
    fn targets(&self, decisions: &[RunDecision], wanted: Decision) -> Vec<Target> {
        let chosen = decisions.iter().filter(|said| said.decision == wanted);
        chosen.filter_map(|said| self.runs.get(&said.run)).map(RunState::target).collect()
    }

    /// Starts the successors that were waiting for a good build of `entry`.
    fn start_waiting(&mut self, entry: &EntryPath, now: Moment) -> Vec<Effect> {
        let waiting: Vec<RunId> = self
            .runs
            .values()
            .filter(|run| run.entry == *entry && matches!(run.phase, Phase::Restarting { .. }))
            .map(|run| run.id.clone())
            .collect();
        waiting.into_iter().flat_map(|run| self.succeed(&run, now)).collect()
    }

    /// Starts the successor of a run that is restarting, or says what it waits for.
    fn succeed(&mut self, old: &RunId, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(old) else { return Vec::new() };
        let Phase::Restarting { why, end, .. } = &run.phase else { return Vec::new() };
        let (why, end) = (why.clone(), end.clone());
        let none = Builds::default();
        let code = match self.builds.get(&run.entry).unwrap_or(&none).startable(&run.entry) {
            Ok(code) => code.clone(),
            Err(refusal) => {
                let waits_for = match refusal {
                    RunRefusal::NoTrainer { .. } => "a build that exposes a trainer",
                    _ => "the next good build",
                };
                run.phase = Phase::Restarting { why, waits_for: waits_for.into(), end };
                return vec![
                    Effect::NotRestarted("no-good-build"),
                    Effect::Publish(DevEvent::Run(run.frame())),
                ];
            }
        };
        let successor = RunId::fresh();
        let origin = run.origin_of_successor(&code, self.policy.restart_from);
        let why = match &origin.start {
            Start::At(from) => format!("{why}; its successor resumes at step {}", from.step),
            Start::Scratch(forced) => format!("{why}; its successor starts from scratch: {forced}"),
        };
        // Said once while it is true, so that a reader sees the restart and not only its outcome.
        let restarting = RunFrame { reason: Some(why.clone()), ..run.frame() };
        let mut effects = vec![Effect::Publish(DevEvent::Run(restarting))];
        run.replaced_by = Some(successor.clone());
        run.phase = Phase::Ended(End { by: EndedBy::Replaced, reason: Some(why), ..end });
        effects.push(Effect::Publish(DevEvent::Run(run.frame())));
        let plan = Plan {
            run: successor,
            entry: run.entry.clone(),
            shown_entry: run.shown_entry.clone(),
            file: run.file.clone(),
            restarts: true,
            code,
            replaces: Some(old.clone()),
            origin: Some(origin),
            trace: self.builds.get(&run.entry).map(|builds| builds.trace().clone()).unwrap_or_default(),
        };
        effects.extend(self.launch(plan, now));
        effects
    }

    /// Something happened in a run.
    pub(crate) fn happened(&mut self, id: &RunId, step: &Step, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        if !run.is_live() {
            return Vec::new();
        }
        match step {
            Step::Spawned { pid, .. } => {
                run.pid = Some(*pid);
                vec![Effect::Publish(DevEvent::Run(run.frame()))]
            }
            Step::Ready { config_hash, trainer, can_swap, .. } => {
                run.armed(config_hash.clone(), trainer.clone(), *can_swap);
                self.armed(id, now)
            }
            Step::Job { .. } => {
                run.has_job(step);
                vec![Effect::Publish(DevEvent::Run(run.frame()))]
            }
            Step::Training(started) => {
                run.training(started.clone());
                // What is in effect is news only where something was changed.
                let news = run.replaces.is_some().then(|| Effect::Publish(DevEvent::Run(run.frame())));
                news.into_iter().collect()
            }
            Step::Checkpoint { step } => {
                run.checkpoint(*step);
                Vec::new()
            }
            Step::Swap { content_hash, ok, reason, .. } => {
                let frame = frames::swap(run, content_hash, *ok, reason.clone(), now);
                let mut effects = vec![Effect::Publish(frame)];
                effects.extend(self.retain());
                effects
            }
            Step::EarlyStop { phase, step } => early_stop_moved(run, *phase, *step),
            Step::Finished { status, reason } => {
                run.finished(status, reason.clone());
                Vec::new()
            }
            Step::Exit { code, signal } => self.exited(id, *code, *signal, now),
            Step::Alone { alone_ms, .. } => match run.left_alone(*alone_ms) {
                true => vec![Effect::Publish(DevEvent::Run(run.frame()))],
                false => Vec::new(),
            },
            Step::Signal { content_hash: Some(hash), .. } => {
                run.signalled(hash, now);
                Vec::new()
            }
            Step::Output { .. } | Step::Dropped { .. } | Step::Signal { .. } | Step::Note { .. } => {
                Vec::new()
            }
            // These are a terminal session's.
            Step::Opened { .. } | Step::Input { .. } | Step::Completed { .. } | Step::Resized { .. } => {
                Vec::new()
            }
        }
    }

    /// The runner is armed: what waited for that happens now.
    fn armed(&mut self, id: &RunId, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let Phase::Starting { stop } = &run.phase else { return Vec::new() };
        let stop = stop.clone();
        run.phase = Phase::Running;
        let mut effects = vec![Effect::Publish(DevEvent::Run(run.frame()))];
        if let Some(reason) = stop {
            run.phase = Phase::EarlyStopping(StopCause::Asked { reason: reason.clone() });
            effects.push(Effect::Publish(DevEvent::Run(run.frame())));
            effects.push(Effect::EarlyStop { run: id.clone(), why: reason, trace: TraceContext::default() });
            return effects;
        }
        // A build that came between the spawn and now was left for this moment.
        effects.extend(self.reconsider(id, now));
        effects.extend(self.retain());
        effects
    }

    /// Decides anew about a run that executes what it did before.
    pub(crate) fn reconsider(&mut self, id: &RunId, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.phase == Phase::Running) else {
            return Vec::new();
        };
        let newest = self.builds.get(&run.entry).and_then(Builds::newest_good);
        if let (Some((good, trace)), Some(subject)) = (newest, run.subject()) {
            let verdict = decide(&subject, good, self.policy);
            return signal(run, good, verdict, trace, now);
        }
        Vec::new()
    }

    /// Whether the run is still to be started.
    pub(crate) fn is_wanted(&self, id: &RunId) -> bool {
        self.runs.get(id).is_some_and(|run| run.phase == Phase::Starting { stop: None })
    }

    /// Where the run's job is.
    pub(crate) fn job_scope(&self, id: &RunId) -> Option<JobScope> {
        self.runs.get(id).map(|run| run.job_scope.clone())
    }

    /// Whether anyone needs `entry`'s builds.
    pub(crate) fn needs(&self, entry: &EntryPath) -> bool {
        let concerned = |run: &RunState| !matches!(run.phase, Phase::Ended(_));
        *entry == self.project_entry || self.runs.values().any(|run| run.entry == *entry && concerned(run))
    }

    fn unwatch(&mut self, entry: EntryPath) -> Option<Effect> {
        if self.needs(&entry) {
            return None;
        }
        self.builds.remove(&entry);
        Some(Effect::Unwatch(entry))
    }

    /// A host did not carry out a swap.
    pub(crate) fn swap_refused(
        &mut self,
        id: &RunId,
        hash: &ContentHash,
        why: String,
        now: Moment,
    ) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        vec![Effect::Publish(frames::swap(run, hash, false, Some(why), now))]
    }

    /// The artifacts that live runs use, as they were last told.
    pub(crate) fn retained(&self) -> Vec<ContentHash> {
        self.retained.iter().cloned().collect()
    }

    /// The artifacts that live runs use, if they are others than were last told.
    pub(crate) fn retain(&mut self) -> Option<Effect> {
        let live = self.runs.values().filter(|run| run.is_live());
        let used: BTreeSet<ContentHash> = live.flat_map(RunState::uses).cloned().collect();
        (used != self.retained).then(|| {
            self.retained = used;
            Effect::Retain(self.retained.iter().cloned().collect())
        })
    }

    fn forget_old(&mut self) {
        let ended = self.runs.values().filter(|run| run.settled && matches!(run.phase, Phase::Ended(_)));
        let ended: Vec<RunId> = ended.map(|run| run.id.clone()).collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            self.runs.remove(id);
        }
    }
}

/// Carries a verdict into the run's state and says which signal it takes.
fn signal(
    run: &mut RunState,
    good: &Good,
    verdict: Verdict,
    trace: &TraceContext,
    now: Moment,
) -> Vec<Effect> {
    let (id, trace, why) = (run.id.clone(), trace.clone(), verdict.why);
    match verdict.decision {
        Decision::HotSwap => {
            let code = Code::of(good);
            run.ask_swap(code.clone(), now);
            let config_hash = good.manifest.config_hash.clone();
            vec![Effect::Swap { run: id, code, config_hash, why, trace }]
        }
        Decision::Restart => {
            run.phase = Phase::EarlyStopping(StopCause::Rebuild { why: why.clone() });
            vec![Effect::Publish(DevEvent::Run(run.frame())), Effect::EarlyStop { run: id, why, trace }]
        }
        Decision::WouldRestart => vec![Effect::NotRestarted("hot-only")],
        Decision::Nothing | Decision::Wait => Vec::new(),
    }
}

fn early_stop_moved(run: &mut RunState, phase: EarlyStopPhase, step: Option<u64>) -> Vec<Effect> {
    run.early_stop(phase, step);
    if run.phase != Phase::Running {
        return Vec::new();
    }
    run.signalled_from_outside();
    vec![Effect::Publish(DevEvent::Run(run.frame()))]
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod take_up_tests;
