//! What a runner does at the server's word, as spans: `swap` and `early_stop`, which end with the runner's
//! acknowledgement, and `callback`, the first one under new code, where the runner's process cannot speak for itself.

use std::time::{Duration, SystemTime};

use telemetry::{Service, Span};
use wire::TraceContext;
use wire::host::FirstCallback;
use wire::id::ContentHash;
use wire::log::{EarlyStopPhase, Step};

/// Swaps that the runner has not answered; it answers each, so this is only reached by one that hangs.
const MOST: usize = 16;

/// The spans that are open.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    run: String,
    swaps: Vec<(ContentHash, Span)>,
    early_stop: Option<Span>,
}

impl Spans {
    /// For `run`.
    pub(crate) fn of(run: &str) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    fn begin(&self, name: &'static str, traceparent: Option<&str>, pid: Option<u32>) -> Span {
        let mut span = Service::RunHost.child(name, &context(traceparent));
        if span.is_recording() {
            span.set("midrun.run.id", self.run.clone());
            if let Some(pid) = pid {
                span.set("process.pid", i64::from(pid));
            }
        }
        span
    }

    /// The runner is about to be told to swap. Answers the trace for it.
    pub(crate) fn swapping(
        &mut self,
        hash: &ContentHash,
        traceparent: Option<&str>,
        pid: Option<u32>,
    ) -> Option<String> {
        let mut span = self.begin("swap", traceparent, pid);
        if span.is_recording() {
            span.set("midrun.content_hash", hash.to_string());
        }
        let context = span.context();
        if self.swaps.len() < MOST {
            self.swaps.push((hash.clone(), span));
        }
        context.traceparent
    }

    /// It was not told.
    pub(crate) fn not_swapping(&mut self, hash: &ContentHash, why: &str) {
        self.end_swap(hash, Err(("refused", why)));
    }

    /// The runner is about to be told to stop early.
    pub(crate) fn stopping(&mut self, traceparent: Option<&str>, pid: Option<u32>) {
        self.early_stop = Some(self.begin("early_stop", traceparent, pid));
    }

    /// It was not told.
    pub(crate) fn not_stopping(&mut self, why: &str) {
        if let Some(mut span) = self.early_stop.take() {
            span.fail("refused", why);
        }
    }

    /// What the runner said.
    pub(crate) fn heard(&mut self, step: &Step) {
        match step {
            Step::Swap { content_hash, ok: true, .. } => self.end_swap(content_hash, Ok(())),
            Step::Swap { content_hash, ok: false, reason, .. } => {
                self.end_swap(content_hash, Err(("skipped", reason.as_deref().unwrap_or_default())));
            }
            Step::EarlyStop { phase, step } => {
                let Some(span) = &mut self.early_stop else { return };
                if let Some(step) = step {
                    span.set("midrun.checkpoint.step", i64::try_from(*step).unwrap_or(i64::MAX));
                }
                match phase {
                    EarlyStopPhase::Waiting | EarlyStopPhase::Cancelling => return,
                    EarlyStopPhase::Failed => span.fail("cancel-failed", "the job could not be cancelled"),
                    EarlyStopPhase::Done => {}
                }
                self.early_stop = None;
            }
            _ => {}
        }
    }

    /// The first callback under new code was called.
    pub(crate) fn called(&self, called: &FirstCallback, pid: Option<u32>) {
        // Any code in the runner's process can write to its channel: a time that cannot be is none.
        let took = Duration::try_from_secs_f64(called.took_ms.max(0.0) / 1e3).unwrap_or_default();
        let ended = SystemTime::now();
        let began = ended.checked_sub(took).unwrap_or(ended);
        let parent = context(called.traceparent.as_deref());
        let mut span = Service::RunHost.child_since("callback", &parent, began);
        if span.is_recording() {
            span.set("midrun.run.id", self.run.clone());
            span.set("midrun.content_hash", called.content_hash.to_string());
            span.set("code.function.name", called.name.clone());
            if let Some(pid) = pid {
                span.set("process.pid", i64::from(pid));
            }
            if !called.ok {
                span.fail("callback-failed", "the callback threw");
            }
        }
        span.end_at(ended);
    }

    /// The runner has ended: nothing more will be heard.
    pub(crate) fn over(&mut self) {
        for (_, mut span) in self.swaps.drain(..) {
            span.fail("run-ended", "the runner ended before it answered");
        }
        if let Some(mut span) = self.early_stop.take() {
            span.fail("run-ended", "the runner ended without a word on its stop");
        }
    }

    fn end_swap(&mut self, hash: &ContentHash, outcome: Result<(), (&'static str, &str)>) {
        let Some(place) = self.swaps.iter().position(|(meant, _)| meant == hash) else { return };
        let (_, mut span) = self.swaps.remove(place);
        if let Err((kind, why)) = outcome {
            span.fail(kind, why);
        }
    }
}

fn context(traceparent: Option<&str>) -> TraceContext {
    TraceContext { traceparent: traceparent.map(str::to_owned), tracestate: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_may_say_that_it_took_any_time() {
        for took_ms in [0.0, -1.0, 1.5, 1e22, f64::MAX, f64::INFINITY, f64::NAN] {
            let called = FirstCallback {
                name: "onLog".to_owned(),
                content_hash: "ab".into(),
                took_ms,
                ok: true,
                traceparent: None,
            };
            Spans::of("r1").called(&called, None);
        }
    }
}
