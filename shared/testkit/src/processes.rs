//! Processes, as the system shows them.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `found` finds something.
///
/// # Panics
/// With `what` when it has not within `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "within {limit:?} there was no {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes a script of the shell that can be run as a program.
///
/// Another process writes it: one that has the file open for writing while it starts a child, in another test, keeps it
/// from being run for a moment.
///
/// # Panics
/// When it cannot be written.
pub fn program(path: &Path, script: &str) {
    let write = ["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\""];
    let written = std::process::Command::new("sh").args(write).arg(path).arg(script).status();
    assert!(written.is_ok_and(|status| status.success()), "{} cannot be written", path.display());
}

/// Whether the process exists and has not exited. A zombie has, once the last of its threads is gone: until then they
/// hold its files and locks.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    // Fields 3 and 20 of proc(5).
    match (fields.first(), fields.get(17).and_then(|threads| threads.parse::<u32>().ok())) {
        (Some(&("Z" | "X")), threads) => threads.is_some_and(|threads| threads > 1),
        (state, _) => state.is_some(),
    }
}

/// Waits until the process is gone.
///
/// # Panics
/// When it is not within `limit`.
pub async fn gone(pid: u32, limit: Duration) {
    let what = format!("end of process {pid} ({})", command_line(pid));
    eventually(&what, limit, || (!alive(pid)).then_some(())).await;
}

/// Sends `signal` to the process.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let sent = nix::sys::signal::kill(nix_pid(pid), signal);
    sent.unwrap_or_else(|error| panic!("{signal} to process {pid}: {error}"));
}

/// Sends `signal` to the process group that the process leads.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    let sent = nix::sys::signal::killpg(nix_pid(leader), signal);
    sent.unwrap_or_else(|error| panic!("{signal} to the group of process {leader}: {error}"));
}

/// Rounds of killing; more than one, since a process may be just about to start another.
const ROUNDS: usize = 50;

/// Kills every process with `marker` in its environment.
pub(crate) fn sweep(marker: &str) {
    for _ in 0..ROUNDS {
        let left = leftovers(marker);
        if left.is_empty() {
            return;
        }
        for (pid, _) in left {
            let _ = nix::sys::signal::kill(nix_pid(pid), Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
}

fn nix_pid(pid: u32) -> Pid {
    let pid = i32::try_from(pid).expect("a process id of Linux fits");
    assert!(pid > 1, "{pid} is nobody that a test may signal");
    Pid::from_raw(pid)
}

/// The live processes with `marker` in their environment: their ids and their command lines.
///
/// A process can take itself out of sight by changing its environment before an `exec`; nothing that is tested does.
pub fn leftovers(marker: &str) -> Vec<(u32, String)> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    let marked = pids.filter(|pid| *pid != own && alive(*pid) && is_marked(*pid, marker));
    marked.map(|pid| (pid, command_line(pid))).collect()
}

fn is_marked(pid: u32, marker: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
}

fn command_line(pid: u32) -> String {
    let raw = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let text: String = String::from_utf8_lossy(&raw).replace('\0', " ");
    text.trim().chars().take(120).collect()
}

/// The exit status in the manner of a shell: the code, or 128 and the signal.
pub fn exit_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .expect("it exited or was ended by a signal")
}
