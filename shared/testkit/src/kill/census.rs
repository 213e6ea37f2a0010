//! The processes of a lane, and which run each belongs to.

use std::collections::HashSet;

use crate::processes::leftovers;

/// A live process.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    parent: u32,
    command: String,
    /// The run whose host it is.
    pub(crate) hosts: Option<String>,
    /// The run it was started in.
    pub(crate) runs: Option<String>,
}

/// The live processes that have `marker` in their environment.
pub(crate) fn census(marker: &str) -> Vec<Seen> {
    leftovers(marker).into_iter().map(|(pid, command)| Seen::of(pid, command)).collect()
}

impl Seen {
    fn of(pid: u32, command: String) -> Self {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let words = |bytes: Vec<u8>| -> Vec<String> {
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let arguments = words(read("cmdline"));
        let hosts = match &arguments[..] {
            [_, host, dir, folder, ..] if host == "run-host" && dir == "--dir" => {
                folder.rsplit('/').next().map(str::to_owned)
            }
            _ => None,
        };
        let variables = words(read("environ"));
        let runs = variables.iter().find_map(|variable| variable.strip_prefix("MIDRUN_RUN_ID="));
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        Self { pid, parent: parent.unwrap_or_default(), command, hosts, runs: runs.map(str::to_owned) }
    }
}

/// The run-host of `run`.
pub(crate) fn host(seen: &[Seen], run: &str) -> Option<u32> {
    seen.iter().find(|process| process.hosts.as_deref() == Some(run)).map(|process| process.pid)
}

/// The runner of `run`.
pub(crate) fn runner(seen: &[Seen], run: &str) -> Option<u32> {
    let host = host(seen, run)?;
    let child = |process: &&Seen| process.parent == host && process.runs.as_deref() == Some(run);
    seen.iter().find(child).map(|process| process.pid)
}

/// The processes that belong neither to the server nor to a run of `live`.
pub(crate) fn strangers(seen: &[Seen], servers: &[u32], live: &HashSet<String>) -> Vec<String> {
    let mut servers: HashSet<u32> = servers.iter().copied().collect();
    // Children are listed in any order: a few rounds find grandchildren too.
    for _ in 0..3 {
        let children =
            seen.iter().filter(|process| process.hosts.is_none() && servers.contains(&process.parent));
        let children: Vec<u32> = children.map(|process| process.pid).collect();
        servers.extend(children);
    }
    let is_known = |process: &&Seen| match process.hosts.as_ref().or(process.runs.as_ref()) {
        Some(run) => live.contains(run),
        None => servers.contains(&process.pid),
    };
    let strangers = seen.iter().filter(|process| !is_known(process));
    strangers.map(|process| format!("{} {}", process.pid, process.command)).collect()
}
