//! What everyone is told of a rebuild and of a swap.

use wire::event::{
    ErrorFrame, ErrorKind, RebuildFrame, RebuildKind, RunDecision, SwapFrame, Target, Timings,
};
use wire::manifest::{Good, Rebuild};
use wire::{ContentHash, DevEvent, Failure};

use crate::run_state::{Moment, RunState};

/// A good rebuild and what was decided on it.
pub(super) struct Rebuilt<'a> {
    pub(super) rebuild: &'a Rebuild,
    pub(super) good: &'a Good,
    /// The good one before it.
    pub(super) before: Option<&'a Good>,
    pub(super) shown_entry: &'a str,
    pub(super) kind: RebuildKind,
    pub(super) hot_swap_targets: Vec<Target>,
    pub(super) restart_targets: Vec<Target>,
    pub(super) decisions: Vec<RunDecision>,
}

impl Rebuilt<'_> {
    /// The frame that tells of it, decided `now`.
    pub(super) fn frame(self, now: Moment) -> DevEvent {
        let Self { rebuild, good, .. } = self;
        let before = self.before.and_then(|before| before.manifest.config.as_ref());
        let config_diff = match (before, good.manifest.config.as_ref()) {
            (Some(from), Some(to)) => wire::config::diff(from, to),
            _ => Vec::new(),
        };
        let total_ms = now.millis_since(Moment(rebuild.saved_at_us));
        DevEvent::Rebuild(Box::new(RebuildFrame {
            kind: self.kind,
            build_id: rebuild.build_id.clone(),
            entry: self.shown_entry.to_owned(),
            out_file: good.artifact.path.clone(),
            hash: good.artifact.content_hash.clone(),
            content_hash: good.artifact.content_hash.clone(),
            config_hash: good.manifest.config_hash.clone(),
            trainer_name: good.manifest.trainer.clone(),
            hot_swap: !self.hot_swap_targets.is_empty(),
            hot_swap_targets: self.hot_swap_targets,
            restart: !self.restart_targets.is_empty(),
            restart_targets: self.restart_targets,
            decisions: self.decisions,
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
}

/// The frame that tells of a rebuild that failed.
pub(super) fn error(failure: &Failure, rebuild: &Rebuild) -> DevEvent {
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

/// The frame that tells how a swap ended; the run no longer waits for it.
pub(super) fn swap(
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
