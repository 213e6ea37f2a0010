//! Ending a run's processes: what the host hosts first, then the host.
//!
//! A host that sees its runner end writes the end into the log and goes by itself, so its log is complete wherever it
//! can be. The host's own SIGTERM and SIGKILL come after that. Where one of its processes is protected the host must not see
//! its runner end, since a host leaves nobody behind: it stands still until it is killed.

use std::path::Path;
use std::time::Duration;

use process::{Marker, PidFd, Report, Tree, kill_tree, signal};

use super::look::see;
use super::report::Reaped;
use super::resolve::{Host, Subject, foreign};
use crate::launch::RUN_ID;

/// How long a host has to write the end of its run.
const HOST_GRACE: Duration = Duration::from_secs(5);

/// Everything that is proved to be the run's, its host included.
pub(crate) fn tree(subject: &Subject<'_>, host: &Host, runs_dir: &Path) -> Tree {
    let marker = Marker { name: RUN_ID.into(), value: subject.run.to_string() };
    let tree = match host {
        Host::Alive(identity) => Tree::of(identity.clone()).and_marked(marker),
        Host::Gone | Host::Unsure => Tree::marked_only(marker),
    };
    let (run, uid, runs_dir) = (subject.run.clone(), subject.uid, runs_dir.to_owned());
    tree.without(move |row| see(*row, &runs_dir).is_some_and(|one| foreign(&run, uid, &one).is_some()))
}

/// Has the host end what it hosts and go, unless that would end a process that is protected; what ended so, with what it
/// was sent. Blocks until it is over or the host takes too long.
pub(crate) fn by_host(subject: &Subject<'_>, host: &Host, runs_dir: &Path, protected: &[u32]) -> Vec<Reaped> {
    let Host::Alive(identity) = host else { return Vec::new() };
    let members = tree(subject, host, runs_dir).members().unwrap_or_default();
    if members.iter().any(|one| protected.contains(&one.pid)) {
        return Vec::new();
    }
    let Ok(process) = PidFd::open(identity) else { return Vec::new() };
    if process.send(signal::SIGTERM).is_err() {
        return Vec::new();
    }
    // One that does not go is ended like any other.
    let _ = process.wait_blocking(Some(HOST_GRACE));
    let is_gone = |one: &process::Identity| !one.is_alive();
    let reaped = |one: process::Identity| Reaped {
        pid: one.pid,
        // Its host kills what it hosts.
        signals: vec![if one.pid == identity.pid { "SIGTERM" } else { "SIGKILL" }.to_owned()],
    };
    members.into_iter().filter(is_gone).map(reaped).collect()
}

/// Ends all of it but `protected`. Blocks until it is over.
pub(crate) fn end(
    subject: &Subject<'_>,
    host: &Host,
    runs_dir: &Path,
    protected: &[u32],
    grace: Duration,
) -> Report {
    let spare = |tree: Tree| protected.iter().fold(tree, |tree, pid| tree.sparing(*pid));
    let whole = spare(tree(subject, host, runs_dir));
    let Host::Alive(identity) = host else { return kill_tree(whole, grace) };
    let members = tree(subject, host, runs_dir).members().unwrap_or_default();
    let spares_one = members.iter().any(|one| protected.contains(&one.pid));
    if spares_one && let Ok(host) = PidFd::open(identity) {
        // That it cannot be stopped means that it has ended.
        let _ = host.send(signal::SIGSTOP);
    }
    let mut report = kill_tree(whole.clone().sparing(identity.pid), grace);
    let rest = kill_tree(whole, if spares_one { Duration::ZERO } else { HOST_GRACE });
    report.killed.extend(rest.killed);
    // Who survived the first time may have ended since.
    report.survivors.retain(|one| rest.survivors.iter().any(|still| still.pid == one.pid));
    report.survivors.extend(rest.survivors.into_iter().filter(|one| one.pid == identity.pid));
    report
}
