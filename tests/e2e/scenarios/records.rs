//! A run's log as it stands on the disk.

use serde_json::Value;
use testkit::Stage;

/// Every whole record of the run's log: of its older files, in the order of their names, and of `events.jsonl`.
pub(crate) fn records(stage: &Stage, run: &str) -> Vec<Value> {
    let folder = stage.project.dir().join(".midrun/runs").join(run);
    let names = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut older: Vec<String> =
        names.filter(|name| name.starts_with("events.0") && name.ends_with(".jsonl")).collect();
    older.sort_unstable();
    let read = |name: String| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let text: String = older.into_iter().chain(["events.jsonl".to_owned()]).map(read).collect();
    // The host may be at its last line.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
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
