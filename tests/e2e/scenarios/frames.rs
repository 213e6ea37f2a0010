//! Reading the frames of `/api/dev/events`.

use serde_json::Value;
use testkit::{Event, Sse};

/// The process ids at `key`, such as `hotSwapTargets`.
pub(crate) fn pids(frame: &Event, key: &str) -> Vec<u64> {
    let targets = frame.data[key].as_array().unwrap_or_else(|| panic!("no {key} in {frame}"));
    targets
        .iter()
        .map(|target| target["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {frame}")))
        .collect()
}

/// What was decided for `run`, and why.
pub(crate) fn decision(frame: &Event, run: &str) -> (String, String) {
    let decisions = frame.data["decisions"].as_array().unwrap_or_else(|| panic!("no decisions in {frame}"));
    let own: Vec<&Value> = decisions.iter().filter(|decision| decision["run"] == run).collect();
    assert_eq!(own.len(), 1, "one decision for run {run} in {frame}");
    let text = |key: &str| own[0][key].as_str().unwrap_or_default().to_owned();
    (text("decision"), text("why"))
}

/// The same as [`decision`], to compare with.
pub(crate) fn decided(decision: &str, why: &str) -> (String, String) {
    (decision.to_owned(), why.to_owned())
}

/// The next frame that says that `run` is in `status`.
pub(crate) async fn status(events: &mut Sse, run: &str, status: &str) -> Event {
    let what = format!("frame that says that run {run} is {status}");
    events
        .wait_for(&what, |event| {
            event.name == "run" && event.data["run"] == run && event.data["status"] == status
        })
        .await
}

/// The next frame that says that the run which replaces `run` is running; its id.
pub(crate) async fn successor(events: &mut Sse, run: &str) -> String {
    let running = events
        .wait_for("successor that is running", |event| {
            event.name == "run" && event.data["replaces"] == run && event.data["status"] == "running"
        })
        .await;
    running.text("run").to_owned()
}

/// The next swap of `run`, which must have gone well.
pub(crate) async fn swapped(events: &mut Sse, run: &str) -> Event {
    let swap = events.wait_for("swap", |event| event.name == "swap" && event.data["run"] == run).await;
    assert_eq!(swap.data["ok"], true, "{swap}");
    swap
}
