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

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wire::event::{
    ErrorFrame, ErrorKind, RebuildFrame, RebuildKind, RunDecision, RunFrame, SwapFrame, Timings,
};
use wire::log::{EarlyStopPhase, Record, Step};
use wire::manifest::{Good, Rebuild};
use wire::run::{NewestBuild, RunRefusal};
use wire::{
    BuildId, ConfigHash, ContentHash, Decision, DevEvent, EndedBy, EntryPath, Failure, JobId, Run, RunId,
    StopMode, TraceContext,
};

use crate::dispatch::{Policy, Verdict, decide};
use crate::resume::Start;
use crate::run_state::{Code, End, Moment, Phase, Plan, RunState, StopCause};
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
    /// Tell everyone.
    Publish(DevEvent),
    /// The artifacts that are in use changed.
    Retain(Vec<ContentHash>),
    /// Nobody needs this entry's builds any more.
    Unwatch(EntryPath),
    /// A restart that a rebuild asked for does not come, or waits: why, in a word.
    NotRestarted(&'static str),
}

/// What is known of an entry's builds.
#[derive(Debug, Default)]
struct Builds {
    newest_good: Option<(BuildId, Good, Code)>,
    /// The newest build, when that one failed.
    failing: Option<Failure>,
    newest: Option<BuildId>,
    /// The trace of the newest good one.
    trace: TraceContext,
}

impl Builds {
    /// What a run could be started on, or why none can.
    fn startable(&self, entry: &EntryPath) -> Result<&Code, RunRefusal> {
        if let Some(failure) = &self.failing {
            return Err(RunRefusal::BuildFailing { failure: failure.clone() });
        }
        match &self.newest_good {
            Some((_, good, code)) if good.manifest.trainer.is_some() => Ok(code),
            Some(_) => Err(RunRefusal::NoTrainer { entry: entry.clone() }),
            None => Err(RunRefusal::NotStarted { why: "its first build is not done; try again".into() }),
        }
    }
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

    /// Takes up a run of an earlier server, as the table and its log tell of it. Says what its end calls for and may
    /// not have been done.
    pub(crate) fn restore(&mut self, saved: Saved, log: &[Record], now: Moment) -> Vec<Effect> {
        let run = RunState::restore(saved, log);
        let id = run.id.clone();
        self.runs.insert(id.clone(), run);
        let mut effects = match log.last() {
            Some(Record { step: end @ Step::Exit { .. }, .. }) => self.happened(&id, end, now),
            _ => Vec::new(),
        };
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
        let is_wanted =
            matches!(self.runs.get(id).map(|run| &run.phase), Some(Phase::Starting { stop: None }));
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

    /// The runs that have a process.
    pub(crate) fn live(&self) -> Vec<Run> {
        self.runs.values().rev().filter(|run| run.is_live()).map(RunState::view).collect()
    }

    /// Whether builds of `entry` have been seen.
    pub(crate) fn knows(&self, entry: &EntryPath) -> bool {
        self.builds.get(entry).is_some_and(|builds| builds.newest.is_some())
    }

    /// What the project's own entry, which people are told of as `shown_entry`, last came to.
    pub(crate) fn newest(&self, shown_entry: &str) -> NewestBuild {
        let Some(builds) = self.builds.get(&self.project_entry) else { return NewestBuild::Pending };
        if let Some(failure) = &builds.failing {
            return NewestBuild::Failing(failure.clone());
        }
        match &builds.newest_good {
            Some((build_id, good, _)) => NewestBuild::Good {
                build_id: build_id.clone(),
                content_hash: good.artifact.content_hash.clone(),
                manifest: good.manifest.clone(),
                entry: shown_entry.to_owned(),
            },
            None => NewestBuild::Pending,
        }
    }

    /// The entries of files that were named whose builds somebody needs.
    pub(crate) fn needed(&self) -> BTreeSet<EntryPath> {
        let named = self.runs.values().map(|run| &run.entry).filter(|entry| **entry != self.project_entry);
        named.filter(|entry| self.needs(entry)).cloned().collect()
    }

    /// What is known of the builds of `entry`, which were not followed lately, may be old.
    pub(crate) fn forget_builds(&mut self, entry: &EntryPath) {
        self.builds.remove(entry);
    }

    /// The request that a run belongs to says that it is there.
    pub(crate) fn hold(&mut self, id: &RunId, now: Moment) {
        if let Some(run) = self.runs.get_mut(id) {
            run.hold(now);
        }
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
        let builds = self.builds.get(&rebuild.entry);
        builds.is_some_and(|builds| builds.newest.as_ref() == Some(&rebuild.build_id))
    }

    /// A build of an entry was inspected, or failed.
    pub(crate) fn rebuilt(&mut self, rebuild: Rebuild, shown_entry: &str, now: Moment) -> Vec<Effect> {
        if self.is_known(&rebuild) {
            return Vec::new();
        }
        let builds = self.builds.entry(rebuild.entry.clone()).or_default();
        builds.newest = Some(rebuild.build_id.clone());
        let good = match &rebuild.result {
            Ok(good) => good.clone(),
            Err(failure) => {
                builds.failing = Some(failure.clone());
                return vec![Effect::Publish(error_frame(failure, &rebuild))];
            }
        };
        builds.failing = None;
        builds.trace = rebuild.trace.clone();
        let before = builds.newest_good.replace((rebuild.build_id.clone(), good.clone(), Code::of(&good)));
        let (verdicts, signals) = self.dispatch(&rebuild, &good, now);
        let frame = self.rebuild_frame(&rebuild, &good, before.as_ref(), verdicts, shown_entry, now);
        let mut effects = vec![Effect::Publish(frame)];
        effects.extend(signals);
        effects.extend(self.start_waiting(&rebuild.entry, now));
        effects.extend(self.retain());
        effects
    }

    fn dispatch(
        &mut self,
        rebuild: &Rebuild,
        good: &Good,
        now: Moment,
    ) -> (Vec<(RunDecision, Decision)>, Vec<Effect>) {
        let mut verdicts = Vec::new();
        let mut signals = Vec::new();
        let policy = self.policy;
        for run in self.runs.values_mut().filter(|run| run.entry == rebuild.entry) {
            let Some(subject) = run.subject() else { continue };
            let verdict = decide(&subject, good, policy);
            verdicts.push((
                RunDecision {
                    run: run.id.clone(),
                    pid: run.pid,
                    decision: verdict.decision,
                    why: verdict.why.clone(),
                },
                verdict.decision,
            ));
            signals.extend(signal(run, good, verdict, &rebuild.trace, now));
        }
        (verdicts, signals)
    }

    fn rebuild_frame(
        &mut self,
        rebuild: &Rebuild,
        good: &Good,
        before: Option<&(BuildId, Good, Code)>,
        verdicts: Vec<(RunDecision, Decision)>,
        shown_entry: &str,
        now: Moment,
    ) -> DevEvent {
        let first = !self.was_ready && rebuild.entry == self.project_entry;
        self.was_ready |= first;
        let kind = if first { RebuildKind::Ready } else { RebuildKind::Rebuild };
        let targets = |wanted: Decision| -> Vec<_> {
            let chosen = verdicts.iter().filter(|(_, decision)| *decision == wanted);
            chosen.filter_map(|(said, _)| self.runs.get(&said.run)).map(RunState::target).collect()
        };
        let hot_swap_targets = targets(Decision::HotSwap);
        let restart_targets = targets(Decision::Restart);
        let configs = before.and_then(|(_, before, _)| before.manifest.config.as_ref());
        let config_diff = match (configs, good.manifest.config.as_ref()) {
            (Some(from), Some(to)) => wire::config::diff(from, to),
            _ => Vec::new(),
        };
        let total_ms = now.millis_since(Moment(rebuild.saved_at_us));
        DevEvent::Rebuild(Box::new(RebuildFrame {
            kind,
            build_id: rebuild.build_id.clone(),
            entry: shown_entry.to_owned(),
            out_file: good.artifact.path.clone(),
            hash: good.artifact.content_hash.clone(),
            content_hash: good.artifact.content_hash.clone(),
            config_hash: good.manifest.config_hash.clone(),
            trainer_name: good.manifest.trainer.clone(),
            hot_swap: !hot_swap_targets.is_empty(),
            hot_swap_targets,
            restart: !restart_targets.is_empty(),
            restart_targets,
            decisions: verdicts.into_iter().map(|(said, _)| said).collect(),
            changed: rebuild.changed.clone(),
            saved_at: Moment(rebuild.saved_at_us).rfc3339(),
            config_diff,
            timings: Timings {
                bundle_ms: rebuild.bundle_ms,
                inspect_ms: rebuild.inspect_ms,
                dispatch_ms: (total_ms - rebuild.bundle_ms - rebuild.inspect_ms).max(0.0),
                total_ms,
            },
            trace_id: rebuild.trace.trace_id().map(str::to_owned),
            traceparent: rebuild.trace.traceparent.clone(),
        }))
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
            trace: self.builds.get(&run.entry).map(|builds| builds.trace.clone()).unwrap_or_default(),
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
            Step::Job { id: job, .. } => {
                run.job = Some(job.clone());
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
                let frame = swap_frame(run, content_hash, *ok, reason.clone(), now);
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
        let newest = self
            .builds
            .get(&run.entry)
            .and_then(|builds| builds.newest_good.as_ref().zip(Some(&builds.trace)));
        if let (Some(((_, good, _), trace)), Some(subject)) = (newest, run.subject()) {
            let verdict = decide(&subject, good, self.policy);
            effects.extend(signal(run, good, verdict, trace, now));
        }
        effects.extend(self.retain());
        effects
    }

    fn exited(&mut self, id: &RunId, code: i32, signal: Option<i32>, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let how = match signal {
            Some(signal) => format!("signal {signal} ended it"),
            None => format!("exit status {code}"),
        };
        let end = |by, reason: Option<String>| End { at: now, code: Some(code), by, reason };
        let restarted = run.is_restarted(now);
        let suppressed = match (&run.phase, code) {
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 0) if self.stopping => Some("server-stopping"),
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 0) if !restarted => Some("client-restarts"),
            (Phase::EarlyStopping(StopCause::Rebuild { .. }), 1..) => Some("early-stop-failed"),
            _ => None,
        };
        let phase = match (&run.phase, code) {
            (Phase::EarlyStopping(StopCause::Rebuild { why }), 0) if restarted && !self.stopping => {
                Phase::Restarting {
                    why: why.clone(),
                    waits_for: "its successor".into(),
                    end: end(EndedBy::Replaced, None),
                }
            }
            (Phase::EarlyStopping(StopCause::Rebuild { why }), 0) => {
                let next =
                    if self.stopping { "the server is stopping" } else { "its client starts the next" };
                Phase::Ended(end(EndedBy::Replaced, Some(format!("{why}; {next}"))))
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
        let restarting = matches!(run.phase, Phase::Restarting { .. });
        let mut effects = self.after_end(id);
        effects.extend(suppressed.map(Effect::NotRestarted));
        if restarting {
            effects.extend(self.succeed(id, now));
        }
        effects
    }

    /// The host of a run is gone and its log has no end.
    pub(crate) fn lost(&mut self, id: &RunId, reason: String, now: Moment) -> Vec<Effect> {
        self.end_unseen(id, EndedBy::Lost, reason, now)
    }

    /// A run could not be started.
    pub(crate) fn not_started(&mut self, id: &RunId, reason: String, now: Moment) -> Vec<Effect> {
        self.end_unseen(id, EndedBy::Failed, reason, now)
    }

    fn end_unseen(&mut self, id: &RunId, by: EndedBy, reason: String, now: Moment) -> Vec<Effect> {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.is_live()) else { return Vec::new() };
        run.phase = Phase::Ended(End { at: now, code: None, by, reason: Some(reason) });
        self.after_end(id)
    }

    /// What follows every end: the job is settled, the artifacts are let go, everyone is told.
    fn after_end(&mut self, id: &RunId) -> Vec<Effect> {
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
    fn cancel(&mut self, id: &RunId) -> Option<Effect> {
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

    /// Whether anyone needs `entry`'s builds.
    pub(crate) fn needs(&self, entry: &EntryPath) -> bool {
        let concerned = |run: &RunState| run.is_live() || matches!(run.phase, Phase::Restarting { .. });
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
        vec![Effect::Publish(swap_frame(run, hash, false, Some(why), now))]
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
            (Phase::Restarting { end, .. }, _) => {
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
        let ended = self.runs.values().filter(|run| matches!(run.phase, Phase::Ended(_)));
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

fn swap_frame(
    run: &mut RunState,
    hash: &ContentHash,
    ok: bool,
    reason: Option<String>,
    now: Moment,
) -> DevEvent {
    let took_ms = run.answer_swap(hash, ok, now);
    DevEvent::Swap(SwapFrame {
        run: run.id.clone(),
        pid: run.pid,
        content_hash: hash.clone(),
        ok,
        reason,
        took_ms,
    })
}

fn error_frame(failure: &Failure, rebuild: &Rebuild) -> DevEvent {
    DevEvent::Error(ErrorFrame {
        kind: ErrorKind::Error,
        message: failure.message.clone(),
        diagnostics: failure.diagnostics.clone(),
        changed: rebuild.changed.clone(),
        saved_at: Moment(rebuild.saved_at_us).rfc3339(),
        trace_id: rebuild.trace.trace_id().map(str::to_owned),
        traceparent: rebuild.trace.traceparent.clone(),
    })
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fleet_take_up_tests.rs"]
mod take_up_tests;
