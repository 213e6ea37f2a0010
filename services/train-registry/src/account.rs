//! What the registry decides and asks for, to those who look on: spans and counts. Decides nothing.
//!
//! A signal's span begins with the request to the run's host and ends when the host has carried it out; that the runner
//! did what it was told is the host's to say, in a span below. A signal's time is taken until that word comes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use telemetry::metrics::counted;
use telemetry::{Service, Span};
use wire::log::{EarlyStopPhase, Step};
use wire::{Decision, DevEvent, Rebuild, Run, RunId, RunStatus, TraceContext};

use crate::run_state::Plan;

/// The decisions for all runs after one rebuild, under way.
pub(crate) struct Dispatching {
    begun: Instant,
    pub(crate) span: Span,
}

/// Begins to account for the decisions after `rebuild`, whose trace goes on from here.
pub(crate) fn dispatching(rebuild: &mut Rebuild) -> Dispatching {
    let mut span = Service::TrainRegistry.child("dispatch", &rebuild.trace);
    if span.is_recording() {
        span.set("midrun.build.id", rebuild.build_id.to_string());
        match &rebuild.result {
            Ok(good) => span.set("midrun.content_hash", good.artifact.content_hash.to_string()),
            Err(failure) => span.fail("rebuild-failed", &failure.message),
        }
    }
    rebuild.trace = span.context();
    Dispatching { begun: Instant::now(), span }
}

impl Dispatching {
    /// The decisions are carried out. Those after a failed rebuild are none and take no time.
    pub(crate) fn end(self, rebuild: &Rebuild) {
        if rebuild.result.is_ok() {
            counted().dispatch.observe([], self.begun.elapsed(), &rebuild.trace);
        }
        self.span.end();
    }
}

/// What a host is asked to signal to its runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Swap,
    EarlyStop,
    Kill,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::EarlyStop => "early-stop",
            Self::Kill => "kill",
        }
    }

    const fn decision(self) -> &'static str {
        match self {
            Self::Swap => "hot-swap",
            Self::EarlyStop => "restart",
            Self::Kill => "stop",
        }
    }
}

/// A signal that is asked for.
pub(crate) struct Signal<'a> {
    /// The number of the request.
    pub(crate) id: u64,
    pub(crate) run: &'a RunId,
    pub(crate) pid: Option<u32>,
    pub(crate) kind: Kind,
    /// Its number.
    pub(crate) signal: i32,
    pub(crate) why: &'a str,
    pub(crate) content_hash: Option<&'a str>,
}

/// Signals that are on their way.
#[derive(Default)]
pub(crate) struct Account {
    /// Requests that no host has answered.
    requests: RefCell<HashMap<u64, (RunId, Span)>>,
    /// The newest signal of each run of which the runner has said nothing.
    awaited: RefCell<HashMap<RunId, Awaited>>,
}

struct Awaited {
    kind: Kind,
    since: Instant,
    trace: TraceContext,
}

impl Account {
    /// A host is asked for a signal, as part of `trace`. Answers the trace for the host.
    pub(crate) fn asked(&self, signal: &Signal<'_>, trace: &TraceContext) -> TraceContext {
        let mut span = Service::TrainRegistry.child("signal", trace);
        if span.is_recording() {
            span.set("midrun.run.id", signal.run.to_string());
            span.set("midrun.signal", i64::from(signal.signal));
            span.set("midrun.decision", signal.kind.decision());
            span.set("midrun.decision.why", signal.why.to_owned());
            if let Some(pid) = signal.pid {
                span.set("process.pid", i64::from(pid));
            }
            if let Some(hash) = signal.content_hash {
                span.set("midrun.content_hash", hash.to_owned());
            }
        }
        let trace = span.context();
        self.requests.borrow_mut().insert(signal.id, (signal.run.clone(), span));
        let awaited = Awaited { kind: signal.kind, since: Instant::now(), trace: trace.clone() };
        self.awaited.borrow_mut().insert(signal.run.clone(), awaited);
        counted().signals.add([signal.kind.name()]);
        trace
    }

    /// The host has sent the signal.
    pub(crate) fn done(&self, id: u64) {
        self.requests.borrow_mut().remove(&id);
    }

    /// It has not, and will not.
    pub(crate) fn refused(&self, id: u64, why: &str) {
        let Some((run, mut span)) = self.requests.borrow_mut().remove(&id) else { return };
        span.fail("refused", why);
        let _logged = span.scope();
        tracing::warn!(%run, why, "a run-host refused a request");
        if let Some(awaited) = self.awaited.borrow_mut().remove(&run) {
            counted().acks.add([awaited.kind.name(), "refused"]);
        }
    }

    /// What `run` has on record now.
    pub(crate) fn recorded(&self, run: &RunId, step: &Step) {
        let (kind, outcome) = match step {
            Step::Swap { ok: true, .. } => (Kind::Swap, "swapped"),
            Step::Swap { ok: false, .. } => (Kind::Swap, "skipped"),
            Step::EarlyStop { phase: EarlyStopPhase::Done, .. } => (Kind::EarlyStop, "stopped"),
            Step::EarlyStop { phase: EarlyStopPhase::Failed, .. } => (Kind::EarlyStop, "failed"),
            Step::Exit { .. } => return self.over(run),
            _ => return,
        };
        let mut awaited = self.awaited.borrow_mut();
        let time = awaited.get(run).filter(|awaited| awaited.kind == kind);
        if let Some(Awaited { since, trace, .. }) = time {
            counted().ack.observe([kind.name()], since.elapsed(), trace);
            awaited.remove(run);
        }
        counted().acks.add([kind.name(), outcome]);
    }

    /// Nothing more is to be heard of `run`.
    pub(crate) fn over(&self, run: &RunId) {
        self.awaited.borrow_mut().remove(run);
        self.requests.borrow_mut().retain(|_, (of, span)| {
            let goes_on = of != run;
            if !goes_on {
                span.fail("run-ended", "the run ended before its host answered");
            }
            goes_on
        });
    }
}

/// Everyone is told of `event`.
pub(crate) fn published(event: &DevEvent) {
    if let DevEvent::Rebuild(frame) = event {
        for said in &frame.decisions {
            counted().decisions.add([decision(said.decision)]);
        }
    }
}

/// The runs are these now.
pub(crate) fn runs(runs: &[Run]) {
    for (status, name) in STATES {
        let count = runs.iter().filter(|run| run.status == status).count();
        counted().runs.set([name], count);
    }
}

/// The states of a run that is not over.
const STATES: [(RunStatus, &str); 5] = [
    (RunStatus::Starting, "starting"),
    (RunStatus::Running, "running"),
    (RunStatus::EarlyStopping, "early-stopping"),
    (RunStatus::Restarting, "restarting"),
    (RunStatus::Stopping, "stopping"),
];

/// A successor is about to be started; what it does belongs to the trace that asked for the restart.
pub(crate) fn restarting(plan: &mut Plan) -> Option<Span> {
    let replaced = plan.replaces.as_ref()?;
    counted().restarts.add([]);
    let mut span = Service::TrainRegistry.child("restart", &plan.trace);
    if span.is_recording() {
        span.set("midrun.run.id", plan.run.to_string());
        span.set("midrun.run.replaces", replaced.to_string());
        span.set("midrun.content_hash", plan.code.artifact.content_hash.to_string());
    }
    plan.trace = span.context();
    Some(span)
}

/// A restart that a rebuild asked for does not come, or waits, because of `reason`.
pub(crate) fn suppressed(reason: &'static str) {
    counted().suppressed_restarts.add([reason]);
}

const fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::Nothing => "nothing",
        Decision::HotSwap => "hot-swap",
        Decision::Restart => "restart",
        Decision::Wait => "wait",
        Decision::WouldRestart => "would-restart",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_wire() {
        for value in
            [Decision::Nothing, Decision::HotSwap, Decision::Restart, Decision::Wait, Decision::WouldRestart]
        {
            assert_eq!(serde_json::to_value(value).unwrap(), decision(value));
        }
        for (status, name) in STATES {
            assert_eq!(serde_json::to_value(status).unwrap(), name);
        }
    }

    #[test]
    fn a_signal_is_forgotten_when_its_run_is_over() {
        let account = Account::default();
        let run = RunId::fresh();
        let signal = Signal {
            id: 1,
            run: &run,
            pid: None,
            kind: Kind::Swap,
            signal: 12,
            why: "only callbacks changed",
            content_hash: None,
        };
        account.asked(&signal, &TraceContext::default());
        account.recorded(&run, &Step::Exit { code: 0, signal: None });
        assert!(account.requests.borrow().is_empty() && account.awaited.borrow().is_empty());
    }
}
