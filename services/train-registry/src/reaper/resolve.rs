//! Which processes are a run's: a pure decision from its records and a look at the process table.
//!
//! What must hold: a process is the run's only if something proves it (the recorded identity of its host, or the run's
//! id in its environment, for this project and this user), and where anything speaks against it, it is left alone with
//! the reason. What cannot be told apart is nobody's to kill, and then the run's job is not cancelled either.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use process::{Identity, Process};
use wire::RunId;

use super::report::Skipped;

/// Whose a process says it is, seen from the project at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    /// This project.
    Here,
    /// It does not say, or what it names is not there any more: nothing speaks against this project.
    Unsaid,
    /// Another folder.
    Elsewhere(PathBuf),
}

/// What a process's environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It belongs to no run.
    None,
    /// It carries a run's id.
    Run { run: RunId, home: Home },
    /// It may not be read.
    Unreadable,
}

/// A living process.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) row: Process,
    pub(crate) uid: u32,
    pub(crate) mark: Mark,
}

/// The run's host, as it said who it is.
#[derive(Debug, Clone)]
pub(crate) struct HostRecord {
    pub(crate) identity: Identity,
    /// Whose run the process of that pid hosts, by its own arguments.
    pub(crate) home: Home,
}

/// What is recorded of a run.
#[derive(Debug, Clone)]
pub(crate) struct Subject<'a> {
    pub(crate) run: &'a RunId,
    /// The user whom the run's folder belongs to.
    pub(crate) uid: u32,
    pub(crate) host: Option<&'a HostRecord>,
    /// Its runner's process id, which is also its process group.
    pub(crate) runner: Option<u32>,
}

/// What is known of the run's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// It lives.
    Alive(Identity),
    /// It is gone, or there never was one.
    Gone,
    /// Somebody's who cannot be told apart from it.
    Unsure,
}

/// What a run's processes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) host: Host,
    pub(crate) skipped: Vec<Skipped>,
}

/// Resolves `subject` among `seen`, on the boot `boot`.
pub(crate) fn resolve(subject: &Subject<'_>, seen: &[Seen], boot: &str) -> Resolution {
    let mut skipped = Vec::new();
    let mut host = host_of(subject, seen, boot, &mut skipped);
    for one in seen {
        if let Some(why) = foreign(subject.run, subject.uid, one) {
            // The same run goes on elsewhere, or under somebody else: what is here is a copy of its records.
            host = Host::Unsure;
            skipped.push(Skipped { pid: Some(one.row.pid), reason: why });
        }
    }
    Resolution { host, skipped }
}

fn host_of(subject: &Subject<'_>, seen: &[Seen], boot: &str, skipped: &mut Vec<Skipped>) -> Host {
    let Some(HostRecord { identity, home }) = subject.host else { return Host::Gone };
    let Identity { pid, start_time, boot_id } = identity;
    let mut skip = |reason: String| skipped.push(Skipped { pid: Some(*pid), reason });
    if boot_id != boot {
        skip(format!("run {} was hosted on another boot, or on another machine", subject.run));
        return Host::Gone;
    }
    let Some(one) = seen.iter().find(|one| one.row.pid == *pid) else { return Host::Gone };
    if one.row.start_time != *start_time {
        skip(format!(
            "it is not the host of run {}, whose process id it has: it began at another time",
            subject.run
        ));
        return Host::Gone;
    }
    if one.uid != subject.uid {
        skip(format!("the host of run {} belongs to user {}", subject.run, one.uid));
        return Host::Unsure;
    }
    if let Home::Elsewhere(folder) = home {
        skip(format!("it hosts run {} in {}", subject.run, folder.display()));
        return Host::Unsure;
    }
    Host::Alive(identity.clone())
}

/// Why a process that carries the run's id is not the run's.
pub(crate) fn foreign(run: &RunId, uid: u32, one: &Seen) -> Option<String> {
    match &one.mark {
        Mark::Run { run: of, home: Home::Elsewhere(folder) } if of == run => {
            Some(format!("it belongs to run {run} in {}", folder.display()))
        }
        Mark::Run { run: of, .. } if of == run && one.uid != uid => {
            Some(format!("it carries the id of run {run} and belongs to user {}", one.uid))
        }
        _ => None,
    }
}

/// Which processes must be left alone, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct Protected(BTreeMap<u32, &'static str>);

impl Protected {
    /// Those in `named`; `own` and `server` with all their ancestors.
    pub(crate) fn new(seen: &[Seen], own: u32, server: Option<u32>, named: &[u32]) -> Self {
        let mut protected = BTreeMap::new();
        for pid in named {
            protected.insert(*pid, "it is protected by --protect");
        }
        for (start, itself, above) in [
            (server, "it is the server", "the server was started from it"),
            (Some(own), "it is this command", "this command was started from it"),
        ] {
            let mut next = start;
            while let Some(pid) = next.filter(|pid| *pid != 0) {
                let why = if start == Some(pid) { itself } else { above };
                // A table that was read while it changed may have a ring in it.
                if protected.insert(pid, why).is_some_and(|known| known == why) {
                    break;
                }
                next = seen.iter().find(|one| one.row.pid == pid).map(|one| one.row.parent);
            }
        }
        Self(protected)
    }

    pub(crate) fn why(&self, pid: u32) -> Option<&'static str> {
        self.0.get(&pid).copied()
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }
}

/// What may be done to a run whose processes are `members`, the host included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sentence {
    /// Who is to end, in the order of `members`; nobody when the run as a whole is left alone.
    pub(crate) condemned: Vec<u32>,
    pub(crate) skipped: Vec<Skipped>,
    /// The run goes on.
    pub(crate) pardoned: bool,
}

/// Sets apart who must be left alone. A protected host or runner is the whole run: its host's end would be its
/// runner's, and its runner's end would be the run's.
pub(crate) fn sentence(
    subject: &Subject<'_>,
    host: &Host,
    members: &[u32],
    seen: &[Seen],
    protected: &Protected,
) -> Sentence {
    let is_host = |pid: u32| matches!(host, Host::Alive(identity) if identity.pid == pid);
    let mut skipped = Vec::new();
    let mut condemned = Vec::new();
    let mut pardoned = false;
    for &pid in members {
        match protected.why(pid) {
            Some(why) => {
                pardoned |= is_host(pid) || (subject.runner == Some(pid) && *host != Host::Gone);
                skipped.push(Skipped { pid: Some(pid), reason: why.into() });
            }
            None => condemned.push(pid),
        }
    }
    if pardoned {
        condemned.clear();
        let reason = format!("run {} goes on, since what is protected cannot live without it", subject.run);
        skipped.push(Skipped { pid: None, reason });
    }
    let known: HashSet<u32> = members.iter().copied().collect();
    let doubtful = seen.iter().filter(|one| one.mark == Mark::Unreadable && !known.contains(&one.row.pid));
    for one in doubtful {
        if subject.runner.is_some_and(|runner| one.row.group == runner || one.row.session == runner) {
            let reason = format!(
                "its environment cannot be read, so nothing proves that it belongs to run {}",
                subject.run
            );
            skipped.push(Skipped { pid: Some(one.row.pid), reason });
        }
    }
    Sentence { condemned, skipped, pardoned }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
