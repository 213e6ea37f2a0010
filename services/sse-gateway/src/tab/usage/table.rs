//! The processes of one run, as `/proc` shows them.

use std::collections::{HashMap, HashSet};
use std::fs;

/// What the processes of a run are known by.
#[derive(Debug)]
pub(super) struct Marks {
    /// The runner, while it lives.
    pub(super) pid: Option<u32>,
    pub(super) run: String,
    pub(super) job: Option<String>,
}

/// One process.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// In the tree that is shown, 0 for its roots.
    pub(super) depth: usize,
    start: u64,
    pub(super) command: String,
    /// Used so far, by all its threads.
    pub(super) cpu_ms: u64,
    /// Resident, bytes.
    pub(super) memory: u64,
}

impl Seen {
    /// A pid is used again; with the start time it is one process.
    pub(super) fn key(&self) -> (u32, u64) {
        (self.pid, self.start)
    }
}

/// Linux counts processor time for programs in hundredths of a second, whatever its own clock does.
const TICK_MS: u64 = 10;
const COMMAND_CHARACTERS: usize = 300;
const MOST: usize = 256;

/// The run's processes, parents before their children.
pub(super) fn look(marks: &Marks) -> Vec<Seen> {
    let mut all: HashMap<u32, Seen> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(seen) = pid.and_then(read) {
            all.insert(seen.pid, seen);
        }
    }
    let own = std::process::id();
    let marked = |pid: &u32| Some(*pid) == marks.pid || carries(*pid, marks);
    // This server may have been started by a run of another one, and carry its mark.
    let roots: HashSet<u32> = all.keys().copied().filter(|pid| *pid != own && marked(pid)).collect();
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for seen in all.values() {
        children.entry(seen.parent).or_default().push(seen.pid);
    }
    let mut tops: Vec<u32> = roots
        .iter()
        .copied()
        .filter(|pid| !all.get(pid).is_some_and(|seen| roots.contains(&seen.parent)))
        .collect();
    tops.sort_unstable();
    let mut shown = Vec::new();
    let mut waiting: Vec<(u32, usize)> = tops.into_iter().rev().map(|pid| (pid, 0)).collect();
    while let Some((pid, depth)) = waiting.pop() {
        let Some(seen) = all.remove(&pid) else { continue };
        if shown.len() == MOST {
            break;
        }
        let mut below = children.remove(&pid).unwrap_or_default();
        below.sort_unstable();
        waiting.extend(below.into_iter().rev().map(|child| (child, depth + 1)));
        shown.push(Seen { depth, command: command(seen.pid), ..seen });
    }
    shown
}

fn read(pid: u32) -> Option<Seen> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything: the last `)` ends it.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> = str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if fields.first() == Some(&"Z") {
        return None;
    }
    Some(Seen {
        pid,
        parent: u32::try_from(field(4)?).ok()?,
        depth: 0,
        start: field(22)?,
        command: String::new(),
        cpu_ms: (field(14)? + field(15)?) * TICK_MS,
        memory: memory(pid),
    })
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Whether `pid` was started for the run or for its job.
fn carries(pid: u32, marks: &Marks) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|pair| {
        pair.strip_prefix(b"MIDRUN_RUN_ID=").is_some_and(|run| run == marks.run.as_bytes())
            || pair.strip_prefix(b"MIDRUN_JOB_DIR=").is_some_and(|dir| {
                let name = dir.rsplit(|byte| *byte == b'/').next();
                marks.job.as_ref().is_some_and(|job| name == Some(job.as_bytes()))
            })
    })
}

/// What it was called with; a process shows its variables' values nowhere here.
fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> =
        line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    words.join(" ").chars().take(COMMAND_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_is_found_by_its_root_and_by_its_mark() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 1000 & read line; kill $!; wait"]).env("MIDRUN_RUN_ID", "usage-test");
        let mut child = shell.stdin(Stdio::piped()).spawn().unwrap();
        let by_pid = Marks { pid: Some(child.id()), run: "other".to_owned(), job: None };
        let by_mark = Marks { pid: None, run: "usage-test".to_owned(), job: None };
        // The shell starts its child when it comes to it.
        let complete = |marks: &Marks| loop {
            let seen = look(marks);
            if seen.iter().any(|process| process.command == "sleep 1000") {
                break seen;
            }
            std::thread::yield_now();
        };
        for marks in [by_pid, by_mark] {
            let seen = complete(&marks);
            let names: Vec<_> = seen.iter().map(|process| (process.depth, &*process.command)).collect();
            assert_eq!(seen.len(), 2, "{names:?}");
            assert_eq!((seen[0].pid, seen[0].depth), (child.id(), 0));
            assert_eq!((seen[1].parent, seen[1].depth), (child.id(), 1));
            assert!(seen.iter().all(|process| process.memory > 0), "{seen:?}");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        let gone = Marks { pid: None, run: "usage-test".to_owned(), job: Some("j".to_owned()) };
        assert_eq!(look(&gone), []);
    }
}
