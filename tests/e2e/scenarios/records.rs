//! A run's log as it stands on the disk.

use serde_json::Value;
use testkit::Stage;

/// Every record of the run's `events.jsonl`.
pub(crate) fn records(stage: &Stage, run: &str) -> Vec<Value> {
    let path = stage.project.dir().join(".midrun/runs").join(run).join("events.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The numbers of the signals that the run's host sent, in order.
pub(crate) fn signals(stage: &Stage, run: &str) -> Vec<i64> {
    let records = records(stage, run);
    let signals = records.iter().filter(|record| record["type"] == "signal");
    signals.map(|record| record["signal"].as_i64().expect("a signal has a number")).collect()
}

/// SIGUSR2, which asks a runner to swap.
pub(crate) const SWAP: i64 = 12;
/// SIGTERM, which asks a runner to stop at its next checkpoint.
pub(crate) const STOP: i64 = 15;
