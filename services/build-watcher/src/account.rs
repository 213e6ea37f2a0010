//! What a publication is to those who look on: the first two spans of its trace, and its counts.

use std::time::SystemTime;

use telemetry::Service;
use telemetry::metrics::{counted, since_us};
use telemetry::trace::at_us;
use wire::{BuildEvent, BuildOutcome};

/// Accounts for `event`, which is about to be published and whose build began at `began`, and makes its trace.
pub(crate) fn of(event: &mut BuildEvent, began: SystemTime) {
    let saved = at_us(event.saved_at_us).min(began);
    let mut rebuild = Service::BuildWatcher.root("rebuild", saved);
    let mut bundle = Service::BuildWatcher.child_since("bundle", &rebuild.context(), began);
    for span in [&mut rebuild, &mut bundle].into_iter().filter(|span| span.is_recording()) {
        span.set("midrun.build.id", event.build_id.to_string());
        span.set("midrun.entry", event.entry.to_string());
        span.set("midrun.changed", i64::try_from(event.changed.len()).unwrap_or(i64::MAX));
        match &event.outcome {
            BuildOutcome::Built(artifact) => {
                span.set("midrun.content_hash", artifact.content_hash.to_string());
                span.set("midrun.bundle.size", i64::try_from(artifact.size).unwrap_or(i64::MAX));
            }
            BuildOutcome::Failed(failure) => span.fail("build-failed", &failure.message),
        }
    }
    event.trace = bundle.context();
    bundle.end();
    rebuild.end();
    let outcome = match &event.outcome {
        BuildOutcome::Built(_) => "built",
        BuildOutcome::Failed(_) => "failed",
    };
    let counted = counted();
    counted.builds.add([outcome]);
    counted.bundle.observe_ms([], event.bundle_ms, &event.trace);
    // The first build has no save.
    if !event.changed.is_empty() {
        counted.publish.observe([], since_us(event.saved_at_us), &event.trace);
    }
}
