//! One run as the registry knows it: an enum of phases, each with what only that phase has.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wire::event::{RunFrame, Target};
use wire::log::{EarlyStopPhase, Record, Step};
use wire::manifest::{Good, Manifest};
use wire::resume::Started;
use wire::{
    Artifact, ChangedKey, ConfigHash, ContentHash, ControlPlane, EndedBy, EntryPath, JobId, ResumeFrom, Run,
    RunId, RunStatus, TraceContext,
};

use crate::dispatch::{Stage, Subject};
use crate::origin::Origin;
use crate::resume::{self, Reached, RestartFrom, Start};
use crate::store::Saved;

/// A point in time, microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment(pub u64);

impl Moment {
    /// Milliseconds from `earlier` to here; zero if the clock was set back.
    pub(crate) fn millis_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1000.0
    }

    pub(crate) fn rfc3339(self) -> String {
        let at = i64::try_from(self.0).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        wire::timestamp(at.unwrap_or_default())
    }
}

/// Bytes and what they say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Code {
    pub(crate) artifact: Artifact,
    pub(crate) manifest: Option<Arc<Manifest>>,
}

impl Code {
    pub(crate) fn of(good: &Good) -> Self {
        Self { artifact: good.artifact.clone(), manifest: Some(Arc::new(good.manifest.clone())) }
    }

    fn hash(&self) -> &ContentHash {
        &self.artifact.content_hash
    }

    /// The config as the manifest has it.
    pub(crate) fn config(&self) -> Option<&serde_json::Value> {
        self.manifest.as_ref()?.config.as_ref()
    }
}

/// A swap that was asked for and not answered.
#[derive(Debug, Clone)]
struct Asked {
    code: Code,
    at: Moment,
}

/// Who asked for an early stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StopCause {
    /// A rebuild: a successor follows.
    Rebuild {
        /// What decided it.
        why: String,
    },
    /// A person, or a signal from outside: nothing follows.
    Asked {
        /// In their words.
        reason: String,
    },
    /// The run's host, since no server was there: nothing follows.
    Alone {
        /// For a person.
        reason: String,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) at: Moment,
    pub(crate) code: Option<i32>,
    pub(crate) by: EndedBy,
    pub(crate) reason: Option<String>,
}

/// Where a run stands, with what only that stage has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Not armed. `stop` is a stop that waits until it is.
    Starting {
        stop: Option<String>,
    },
    Running,
    EarlyStopping(StopCause),
    Stopping {
        reason: String,
    },
    /// Ended its early stop, and belongs to a request that may be there to start the next, or gone.
    Unclaimed {
        why: String,
        end: End,
    },
    /// Ended its early stop; its successor waits for something.
    Restarting {
        why: String,
        waits_for: String,
        end: End,
    },
    Ended(End),
}

/// The status of a runner whose training failed, or that cannot say what became of its job.
pub(crate) const FAILED: &str = "failed";

/// Swaps that are remembered while their answers are under way.
const MAX_ASKED: usize = 16;

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct RunState {
    pub(crate) id: RunId,
    pub(crate) entry: EntryPath,
    /// How the entry is shown.
    pub(crate) shown_entry: String,
    /// The file it was started with, if not the project's own entry.
    pub(crate) file: Option<String>,
    /// It belongs to the server, which restarts it; else to a request.
    pub(crate) restarts: bool,
    /// Its request said that it starts the next.
    pub(crate) claimed: bool,
    pub(crate) started_at: Moment,
    pub(crate) pid: Option<u32>,
    pub(crate) trainer: Option<String>,
    pub(crate) config_hash: Option<ConfigHash>,
    pub(crate) can_swap: bool,
    pub(crate) job: Option<JobId>,
    /// Where the job is, in its runner's words.
    pub(crate) job_scope: JobScope,
    /// The job is known to be terminal, or its cancel is on disk.
    pub(crate) settled: bool,
    /// A cancel of the job is on its way to the disk.
    pub(crate) cancelling: bool,
    /// The runner said that it is armed.
    armed: bool,
    pub(crate) last_checkpoint: Option<u64>,
    /// The checkpoint that its early stop waited for.
    stopped_at: Option<u64>,
    /// What its executor said when training started.
    started: Started,
    /// What went wrong, in its runner's words.
    last_words: Option<String>,
    /// What it was started from, if it replaces another run.
    origin: Option<Origin>,
    changed: Vec<ChangedKey>,
    pub(crate) replaces: Option<RunId>,
    pub(crate) replaced_by: Option<RunId>,
    pub(crate) phase: Phase,
    /// What it was started with.
    started_with: Code,
    /// What it executes.
    executing: Code,
    /// What it was told to execute, oldest first.
    asked: VecDeque<Asked>,
}

/// Where a job is and whose, as far as a runner says.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobScope {
    url: Option<String>,
    org_slug: Option<String>,
    project_slug: Option<String>,
}

impl JobScope {
    /// The control plane of the job, for whoever `acts` there; nothing where that one has no account there.
    pub(crate) fn within(&self, acts: &ControlPlane) -> Option<ControlPlane> {
        let is_there = |url: &String| url.trim_end_matches('/') == acts.url.trim_end_matches('/');
        self.url.as_ref().is_none_or(is_there).then(|| ControlPlane {
            url: acts.url.clone(),
            token: acts.token.clone(),
            org_slug: self.org_slug.clone().unwrap_or_else(|| acts.org_slug.clone()),
            project_slug: self.project_slug.clone().unwrap_or_else(|| acts.project_slug.clone()),
        })
    }
}

/// What a run is started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) run: RunId,
    pub(crate) entry: EntryPath,
    pub(crate) shown_entry: String,
    pub(crate) file: Option<String>,
    pub(crate) restarts: bool,
    pub(crate) code: Code,
    pub(crate) replaces: Option<RunId>,
    pub(crate) origin: Option<Origin>,
    pub(crate) trace: TraceContext,
}

impl Plan {
    /// The checkpoint that the run goes on from.
    pub(crate) fn resume(&self) -> Option<&ResumeFrom> {
        self.origin.as_ref().and_then(Origin::resume)
    }
}

impl RunState {
    pub(crate) fn new(plan: &Plan, now: Moment) -> Self {
        let manifest = plan.code.manifest.as_deref();
        Self {
            id: plan.run.clone(),
            entry: plan.entry.clone(),
            shown_entry: plan.shown_entry.clone(),
            file: plan.file.clone(),
            restarts: plan.restarts,
            claimed: false,
            started_at: now,
            pid: None,
            trainer: manifest.and_then(|manifest| manifest.trainer.clone()),
            config_hash: manifest.and_then(|manifest| manifest.config_hash.clone()),
            can_swap: manifest.is_some_and(|manifest| manifest.can_swap),
            job: None,
            job_scope: JobScope::default(),
            settled: false,
            cancelling: false,
            armed: false,
            last_checkpoint: None,
            stopped_at: None,
            started: Started::default(),
            last_words: None,
            changed: plan.origin.as_ref().map(|it| it.changed(plan.code.config(), None)).unwrap_or_default(),
            origin: plan.origin.clone(),
            replaces: plan.replaces.clone(),
            replaced_by: None,
            phase: Phase::Starting { stop: None },
            started_with: plan.code.clone(),
            executing: plan.code.clone(),
            asked: VecDeque::new(),
        }
    }

    /// The run as the durable table has it.
    pub(crate) fn saved(&self) -> Saved {
        Saved {
            run: self.id.clone(),
            entry: self.entry.clone(),
            shown_entry: self.shown_entry.clone(),
            file: self.file.clone(),
            restarts: self.restarts,
            started_at: self.started_at,
            code: self.started_with.clone(),
            replaces: self.replaces.clone(),
            replaced_by: self.replaced_by.clone(),
            origin: self.origin.clone(),
            phase: self.phase.clone(),
            settled: self.settled,
            claimed: self.claimed,
        }
    }

    /// The run as the table and its log tell of it. Its end, if the log has one, is not applied: what follows from
    /// an end is for the fleet to say.
    pub(crate) fn restore(saved: Saved, log: &[Record]) -> Self {
        let plan = Plan {
            run: saved.run,
            entry: saved.entry,
            shown_entry: saved.shown_entry,
            file: saved.file,
            restarts: saved.restarts,
            code: saved.code,
            replaces: saved.replaces,
            origin: saved.origin,
            trace: TraceContext::default(),
        };
        let mut run = Self::new(&plan, saved.started_at);
        run.replaced_by = saved.replaced_by;
        run.settled = saved.settled;
        run.claimed = saved.claimed;
        run.phase = saved.phase;
        for record in log {
            run.replay(&record.step);
        }
        run
    }

    fn replay(&mut self, step: &Step) {
        match step {
            Step::Spawned { pid, .. } => self.pid = Some(*pid),
            Step::Ready { config_hash, trainer, can_swap, .. } => {
                self.armed(config_hash.clone(), trainer.clone(), *can_swap);
                // A stop that waited for this is still to be sent, so that one stays.
                if self.phase == (Phase::Starting { stop: None }) {
                    self.phase = Phase::Running;
                }
            }
            Step::Job { .. } => self.has_job(step),
            Step::Training(started) => self.training(started.clone()),
            Step::Checkpoint { step } => self.checkpoint(*step),
            Step::Signal { content_hash: Some(hash), .. } => self.signalled(hash, self.started_at),
            Step::Swap { content_hash, ok, .. } => {
                self.answer_swap(content_hash, *ok, self.started_at);
            }
            Step::EarlyStop { phase, step } => {
                self.early_stop(*phase, *step);
                if self.phase == Phase::Running {
                    self.signalled_from_outside();
                }
            }
            Step::Finished { status, reason } => self.finished(status, reason.clone()),
            Step::Alone { alone_ms, .. } => {
                self.left_alone(*alone_ms);
            }
            _ => {}
        }
    }

    /// The stage the dispatch decision sees; nothing when there is no process to decide about.
    pub(crate) fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Starting { .. } => Some(Stage::Starting),
            Phase::Running => Some(Stage::Running),
            Phase::EarlyStopping(_) => Some(Stage::EarlyStopping),
            Phase::Stopping { .. } => Some(Stage::Stopping),
            Phase::Unclaimed { .. } | Phase::Restarting { .. } | Phase::Ended(_) => None,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.stage().is_some()
    }

    /// What the dispatch decision depends on; nothing when the run is not live.
    pub(crate) fn subject(&self) -> Option<Subject<'_>> {
        let told = self.told();
        Some(Subject {
            stage: self.stage()?,
            told: told.hash(),
            config_hash: self.config_hash.as_ref(),
            // A swap never changes it.
            config: self.started_with.config(),
            manifest: told.manifest.as_deref(),
            can_swap: self.can_swap,
        })
    }

    fn told(&self) -> &Code {
        self.asked.back().map_or(&self.executing, |asked| &asked.code)
    }

    /// The addresses that must stay on disk while this run lives.
    pub(crate) fn uses(&self) -> impl Iterator<Item = &ContentHash> {
        std::iter::once(self.executing.hash()).chain(self.asked.iter().map(|asked| asked.code.hash()))
    }

    /// The bytes whose callbacks it executes.
    #[cfg(test)]
    pub(crate) fn executing(&self) -> &ContentHash {
        self.executing.hash()
    }

    /// A swap to `code` goes out.
    pub(crate) fn ask_swap(&mut self, code: Code, now: Moment) {
        if self.asked.len() == MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { code, at: now });
    }

    /// The host signalled the runner to take `hash`. A server before this one may have asked for it.
    pub(crate) fn signalled(&mut self, hash: &ContentHash, now: Moment) {
        if !self.asked.iter().any(|asked| asked.code.hash() == hash) {
            let artifact = Artifact { content_hash: hash.clone(), ..self.started_with.artifact.clone() };
            self.ask_swap(Code { artifact, manifest: None }, now);
        }
    }

    /// The runner answered for `hash`. Says how long it took, if the question is remembered.
    pub(crate) fn answer_swap(&mut self, hash: &ContentHash, ok: bool, now: Moment) -> Option<f64> {
        let place = self.asked.iter().position(|asked| asked.code.hash() == hash)?;
        let asked = self.asked.remove(place)?;
        if ok {
            self.executing = asked.code;
            // Earlier questions are moot: the runner takes artifacts in order.
            self.asked.drain(..place);
        }
        Some(now.millis_since(asked.at))
    }

    /// The runner said what it started with.
    pub(crate) fn armed(&mut self, config_hash: Option<ConfigHash>, trainer: Option<String>, can_swap: bool) {
        self.armed = true;
        self.config_hash = config_hash.or(self.config_hash.take());
        self.trainer = trainer.or(self.trainer.take());
        self.can_swap = can_swap;
    }

    /// Its host ends it because no server was there. Answers whether that changes anything.
    pub(crate) fn left_alone(&mut self, alone_ms: u64) -> bool {
        let goes_on = matches!(self.phase, Phase::Starting { .. } | Phase::Running);
        if goes_on {
            let reason = format!("no server had been there for {} s", alone_ms / 1000);
            self.phase = Phase::EarlyStopping(StopCause::Alone { reason });
        }
        goes_on
    }

    /// Whether the runner said that it is armed.
    pub(crate) const fn is_armed(&self) -> bool {
        self.armed
    }

    /// Its runner told of its job, by `step`.
    pub(crate) fn has_job(&mut self, step: &Step) {
        if let Step::Job { id, org_slug, project_slug, base_url } = step {
            self.job = Some(id.clone());
            let (url, org_slug, project_slug) = (base_url.clone(), org_slug.clone(), project_slug.clone());
            self.job_scope = JobScope { url, org_slug, project_slug };
        }
    }

    /// Its executor said that training has started.
    pub(crate) fn training(&mut self, started: Started) {
        self.started = started;
        if let Some(origin) = &self.origin {
            self.changed = origin.changed(self.started_with.config(), self.started.config.as_ref());
        }
    }

    /// Its runner told of a checkpoint.
    pub(crate) fn checkpoint(&mut self, step: u64) {
        self.last_checkpoint = Some(step);
    }

    /// Its early stop moved on, and waited for the checkpoint at `step`.
    pub(crate) fn early_stop(&mut self, phase: EarlyStopPhase, step: Option<u64>) {
        self.stopped_at = step.or(self.stopped_at);
        self.settled |= phase == EarlyStopPhase::Done;
    }

    /// Its runner stops and nobody here asked: someone signalled it directly.
    pub(crate) fn signalled_from_outside(&mut self) {
        let reason = "its runner was signalled from outside".to_owned();
        self.phase = Phase::EarlyStopping(StopCause::Asked { reason });
    }

    /// Its runner said that training came to an end. One that failed may have left its job behind.
    pub(crate) fn finished(&mut self, status: &str, reason: Option<String>) {
        self.settled |= status != FAILED;
        self.last_words = reason;
    }

    /// `how` it ended, after what its runner said was wrong.
    pub(crate) fn in_its_words(&self, how: String) -> String {
        match &self.last_words {
            Some(words) => format!("{words} ({how})"),
            None => how,
        }
    }

    /// The newest checkpoint of its lineage: the one that its early stop waited for, failing that the last one it told
    /// of, failing that the one its lineage had when it was started.
    fn reached(&self) -> Option<Reached> {
        let own = self.job.clone().zip(self.stopped_at.or(self.last_checkpoint));
        let Some((job, step)) = own else { return self.origin.as_ref()?.reached.clone() };
        Some(Reached {
            from: ResumeFrom { job, step },
            config: self.started_with.config().cloned(),
            used: self.started.config.clone(),
            resumable: self.started.resumable_keys.clone(),
        })
    }

    /// Where its successor on `code` starts, and from what.
    pub(crate) fn origin_of_successor(&self, code: &Code, from: RestartFrom) -> Origin {
        let reached = self.reached();
        Origin {
            start: resume::decide(from, reached.as_ref(), code.config()),
            before: self.started_with.config().cloned(),
            reached,
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target { pid: self.pid, run: self.id.clone(), train_file: self.file.clone() }
    }

    fn status(&self) -> RunStatus {
        match &self.phase {
            Phase::Starting { .. } => RunStatus::Starting,
            Phase::Running => RunStatus::Running,
            // Whether it is restarted or over is not known yet.
            Phase::EarlyStopping(_) | Phase::Unclaimed { .. } => RunStatus::EarlyStopping,
            Phase::Stopping { .. } => RunStatus::Stopping,
            Phase::Restarting { .. } => RunStatus::Restarting,
            Phase::Ended(End { by: EndedBy::Lost, .. }) => RunStatus::Lost,
            Phase::Ended(_) => RunStatus::Exited,
        }
    }

    fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Unclaimed { end, .. } | Phase::Restarting { end, .. } | Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    fn reason(&self) -> Option<String> {
        let origin = || self.origin.as_ref().map(|origin| origin.start.to_string());
        match &self.phase {
            Phase::Starting { stop } => stop.clone().or_else(origin),
            Phase::Running => origin(),
            Phase::EarlyStopping(StopCause::Rebuild { why }) => Some(why.clone()),
            Phase::Unclaimed { why, .. } => Some(format!("{why}; its client may start the next")),
            Phase::EarlyStopping(StopCause::Asked { reason } | StopCause::Alone { reason })
            | Phase::Stopping { reason } => Some(reason.clone()),
            Phase::Restarting { why, waits_for, .. } => Some(format!("{why}; waits for {waits_for}")),
            Phase::Ended(end) => end.reason.clone(),
        }
    }

    /// The run as everyone else sees it.
    pub(crate) fn view(&self) -> Run {
        let end = self.end();
        Run {
            id: self.id.clone(),
            pid: self.pid,
            status: self.status(),
            entry: self.shown_entry.clone(),
            trainer: self.trainer.clone(),
            content_hash: self.executing.hash().clone(),
            config_hash: self.config_hash.clone(),
            job_id: self.job.clone(),
            started_at: self.started_at.rfc3339(),
            ended_at: end.map(|end| end.at.rfc3339()),
            exit_code: end.and_then(|end| end.code),
            ended_by: end.map(|end| end.by),
            replaces: self.replaces.clone(),
            replaced_by: self.replaced_by.clone(),
            reason: self.reason(),
            last_checkpoint: self.last_checkpoint,
            resume: self.resume(),
            from_scratch: self.scratch_because(),
            config: self.changed.clone(),
        }
    }

    fn resume(&self) -> Option<ResumeFrom> {
        self.origin.as_ref().and_then(Origin::resume).cloned()
    }

    fn scratch_because(&self) -> Option<String> {
        match &self.origin.as_ref()?.start {
            Start::At(_) => None,
            Start::Scratch(why) => Some(why.clone()),
        }
    }

    /// The run as the event stream tells of it.
    pub(crate) fn frame(&self) -> RunFrame {
        RunFrame {
            run: self.id.clone(),
            pid: self.pid,
            status: self.status(),
            job_id: self.job.clone(),
            replaces: self.replaces.clone(),
            replaced_by: self.replaced_by.clone(),
            exit_code: self.end().and_then(|end| end.code),
            reason: self.reason(),
            resume: self.resume(),
            from_scratch: self.scratch_because(),
            config: self.changed.clone(),
        }
    }
}
