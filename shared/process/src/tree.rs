//! A tree of processes, and its end: children first, SIGTERM, a bounded grace, SIGKILL.
//!
//! Members are found anew on every look, because a tree that is being killed still forks. Before SIGKILL it is
//! frozen with SIGSTOP, parents first: otherwise a parent could start a child anew between the child's end and its
//! own. The end of a member is read from its pidfd, never guessed from a pid.
//!
//! A member whose parent ends is somebody else's child from then on. It stays in the tree if this process is its
//! subreaper, if it carries the tree's marker, or if it was seen before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use nix::poll::{PollFd, PollFlags, poll};

use crate::pidfd::timeout;
use crate::reap::reap;
use crate::table::{EXEC_LIMIT, Process, processes, was_started_with};
use crate::{Identity, PidFd, boot_id, signal};

/// A variable that every process of a tree was started with, so that one that left the tree is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Which processes are meant. This process itself never is.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Root,
    marker: Option<Marker>,
    spared: HashSet<u32>,
    foreign: Option<Foreign>,
}

/// Says which processes are somebody else's, with all that is below them.
#[derive(Clone)]
struct Foreign(Arc<dyn Fn(&Process) -> bool + Send + Sync>);

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Foreign(…)")
    }
}

#[derive(Debug, Clone)]
enum Root {
    /// The process and its descendants.
    Of(Identity),
    /// Only the descendants of this process.
    Below(u32),
    /// Only those that carry the marker.
    Nobody,
}

impl Tree {
    /// A process and its descendants. Nothing, if it is gone: its children are then somebody else's.
    pub fn of(root: Identity) -> Self {
        Self { root: Root::Of(root), marker: None, spared: HashSet::new(), foreign: None }
    }

    /// The descendants of this process. For a subreaper these are all that it ever caused. Killing this tree reaps
    /// children of this process: spare those with a [`crate::Child`] whose status is still wanted.
    pub fn of_own_descendants() -> Self {
        Self { root: Root::Below(std::process::id()), marker: None, spared: HashSet::new(), foreign: None }
    }

    /// Those that carry `marker`, and their descendants, wherever they are.
    pub fn marked_only(marker: Marker) -> Self {
        Self { root: Root::Nobody, marker: Some(marker), spared: HashSet::new(), foreign: None }
    }

    /// Also those that carry `marker`, and their descendants, wherever they are.
    #[must_use]
    pub fn and_marked(mut self, marker: Marker) -> Self {
        self.marker = Some(marker);
        self
    }

    /// All but this process, whatever it is; its descendants are not spared.
    #[must_use]
    pub fn sparing(mut self, pid: u32) -> Self {
        self.spared.insert(pid);
        self
    }

    /// Without those that `is_foreign` says, and without what is below them.
    #[must_use]
    pub fn without(mut self, is_foreign: impl Fn(&Process) -> bool + Send + Sync + 'static) -> Self {
        self.foreign = Some(Foreign(Arc::new(is_foreign)));
        self
    }

    /// The living members, children before their parents.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn members(&self) -> io::Result<Vec<Identity>> {
        let boot = boot_id()?;
        let living = self.look()?.into_iter().filter(Process::is_alive);
        Ok(living
            .map(|row| Identity { pid: row.pid, start_time: row.start_time, boot_id: boot.into() })
            .collect())
    }

    /// The members, zombies included, children before their parents.
    fn look(&self) -> io::Result<Vec<Process>> {
        let table = processes()?;
        let mut children: HashMap<u32, Vec<&Process>> = HashMap::new();
        for row in &table {
            children.entry(row.parent).or_default().push(row);
        }
        let foreign = self.foreign.as_ref();
        let mut found = Walk { children, foreign, seen: HashSet::new(), order: Vec::new() };
        match &self.root {
            Root::Of(root) if root.is_there() => {
                let row = table.iter().find(|row| row.pid == root.pid && row.start_time == root.start_time);
                row.into_iter().for_each(|row| found.visit(row));
            }
            Root::Below(pid) => found.visit_below(*pid),
            Root::Of(_) | Root::Nobody => {}
        }
        if let Some(Marker { name, value }) = &self.marker {
            let assignment = format!("{name}={value}").into_bytes();
            let limit = Instant::now() + EXEC_LIMIT;
            let is_marked = |row: &&Process| row.is_alive() && was_started_with(row.pid, &assignment, limit);
            let marked = table.iter().filter(is_marked);
            marked.for_each(|row| found.visit(row));
        }
        let own = std::process::id();
        found.order.retain(|row| row.pid != own && !self.spared.contains(&row.pid));
        Ok(found.order)
    }

    /// Whose exit status somebody waits for.
    const fn root_pid(&self) -> Option<u32> {
        match &self.root {
            Root::Of(root) => Some(root.pid),
            Root::Below(_) | Root::Nobody => None,
        }
    }
}

/// A walk over the process table, deepest first, without recursion: a chain of processes can be long.
struct Walk<'table> {
    children: HashMap<u32, Vec<&'table Process>>,
    foreign: Option<&'table Foreign>,
    seen: HashSet<u32>,
    order: Vec<Process>,
}

impl Walk<'_> {
    fn visit(&mut self, row: &Process) {
        let mut pending = vec![*row];
        let mut parents_first = Vec::new();
        while let Some(row) = pending.pop() {
            let is_foreign = self.foreign.is_some_and(|Foreign(says)| says(&row));
            if !is_foreign && self.seen.insert(row.pid) {
                parents_first.push(row);
                pending.extend(self.children.get(&row.pid).into_iter().flatten().copied());
            }
        }
        self.order.extend(parents_first.into_iter().rev());
    }

    fn visit_below(&mut self, pid: u32) {
        for row in self.children.get(&pid).cloned().unwrap_or_default() {
            self.visit(row);
        }
    }
}

/// What was done to one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killed {
    /// Its process id.
    pub pid: u32,
    /// Those of SIGTERM and SIGKILL that it was sent, in order.
    pub signals: Vec<i32>,
}

/// What became of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Those that ended, in the order in which they were found: children first.
    pub killed: Vec<Killed>,
    /// Those that still ran [`Killing::PATIENCE`] after SIGKILL, or that may not be signalled.
    pub survivors: Vec<Killed>,
}

/// How far a [`Killing`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Look again after this long at most.
    Pending(Duration),
    /// It is over.
    Done(Report),
}

/// The end of a tree, step by step, so that an event loop can go on meanwhile: [`Killing::advance`] waits for nothing but
/// the end of an `exec` that it meets, which is a moment.
#[derive(Debug)]
pub struct Killing {
    tree: Tree,
    victims: Vec<Victim>,
    /// SIGKILL is sent from then on.
    kill_at: Instant,
    /// Survivors are given up then.
    give_up_at: Instant,
    /// Whether SIGKILL was sent.
    is_last: bool,
    /// Until the next look; grows.
    pause: Duration,
}

#[derive(Debug)]
struct Victim {
    row: Process,
    pidfd: PidFd,
    signals: Vec<i32>,
    is_frozen: bool,
}

impl Killing {
    /// How long a process may take to end after SIGKILL before it is called a survivor: one that hangs in the
    /// kernel cannot be helped.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// How long members may go on appearing before they are killed one by one.
    const FREEZE: Duration = Duration::from_millis(100);

    const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);

    /// Will send SIGTERM at the first step and SIGKILL when `grace` is over; without grace SIGKILL at once.
    pub fn begin(tree: Tree, grace: Duration) -> Self {
        let kill_at = Instant::now() + grace;
        Self {
            tree,
            victims: Vec::new(),
            kill_at,
            give_up_at: kill_at + Self::PATIENCE,
            is_last: false,
            pause: Self::SHORTEST_PAUSE,
        }
    }

    /// Looks for members, signals those that are due, and reaps adopted ones that ended. The tree's root is never
    /// reaped: its status belongs to whoever spawned it.
    pub fn advance(&mut self) -> Progress {
        let now = Instant::now();
        // A member may fork and end while the table is read, and its child be missed. So the end is believed only
        // when a look finds nobody, not even a new zombie, that began after the end of every known member.
        let was_quiet = self.victims.iter().all(|victim| victim.pidfd.has_ended());
        let is_quiet = self.tree.look().is_ok_and(|rows| self.meet(&rows)) && was_quiet;
        for victim in self.victims.iter().filter(|victim| victim.pidfd.has_ended()) {
            if self.tree.root_pid() != Some(victim.row.pid) {
                reap(victim.row.pid);
            }
        }
        let is_alone = self.victims.iter().all(|victim| victim.pidfd.has_ended());
        if (is_quiet && is_alone) || (now >= self.give_up_at && self.is_last) {
            return Progress::Done(self.report());
        }
        if now < self.kill_at {
            self.victims.iter_mut().for_each(|victim| victim.send_once(signal::SIGTERM));
            return Progress::Pending(self.next_pause(is_alone).min(self.kill_at - now));
        }
        let newly_frozen = self.victims.iter_mut().rev().filter_map(Victim::freeze).count();
        if newly_frozen == 0 || now >= self.kill_at + Self::FREEZE {
            self.victims.iter_mut().for_each(|victim| victim.send_once(signal::SIGKILL));
            self.is_last = true;
        }
        Progress::Pending(self.next_pause(is_alone || newly_frozen > 0))
    }

    /// Soon after something new, then ever longer.
    fn next_pause(&mut self, is_news: bool) -> Duration {
        let pause = if is_news { Self::SHORTEST_PAUSE } else { self.pause };
        self.pause = (pause * 2).min(Self::LONGEST_PAUSE);
        pause
    }

    /// Takes up members that are not known yet, and reaps those that ended before they could be. Answers whether
    /// there were none.
    fn meet(&mut self, rows: &[Process]) -> bool {
        let own = std::process::id();
        let mut is_quiet = true;
        for row in rows {
            let known =
                |victim: &Victim| (victim.row.pid, victim.row.start_time) == (row.pid, row.start_time);
            if self.victims.iter().any(known) {
                continue;
            }
            if !row.is_alive() {
                let is_adopted = row.parent == own && self.tree.root_pid() != Some(row.pid);
                is_quiet &= !(is_adopted && reap(row.pid));
                continue;
            }
            let identity = boot_id().map(|boot| Identity {
                pid: row.pid,
                start_time: row.start_time,
                boot_id: boot.into(),
            });
            if let Ok(pidfd) = identity.and_then(|identity| PidFd::open(&identity)) {
                self.victims.push(Victim { row: *row, pidfd, signals: Vec::new(), is_frozen: false });
                self.pause = Self::SHORTEST_PAUSE;
                is_quiet = false;
            }
        }
        is_quiet
    }

    fn report(&mut self) -> Report {
        let mut report = Report::default();
        for victim in self.victims.drain(..) {
            let ended = victim.pidfd.has_ended();
            let killed = Killed { pid: victim.row.pid, signals: victim.signals };
            if ended { report.killed.push(killed) } else { report.survivors.push(killed) }
        }
        report
    }
}

impl Victim {
    fn send_once(&mut self, number: i32) {
        if self.signals.contains(&number) || self.pidfd.has_ended() {
            return;
        }
        // One that may not be signalled is told of as a survivor.
        if self.pidfd.send(number).is_ok() {
            self.signals.push(number);
        }
        // A stopped process would act on SIGTERM only when somebody continues it.
        if number == signal::SIGTERM && matches!(self.row.state, 'T' | 't') {
            let _ = self.pidfd.send(signal::SIGCONT);
        }
    }

    /// Keeps it from forking; answers something if it was not kept before.
    fn freeze(&mut self) -> Option<()> {
        if self.is_frozen || self.pidfd.has_ended() {
            return None;
        }
        self.is_frozen = true;
        self.pidfd.send(signal::SIGSTOP).ok()
    }
}

/// Ends `tree`: children first, SIGTERM, `grace`, SIGKILL. Blocks until it is over, at most `grace` and
/// [`Killing::PATIENCE`].
pub fn kill_tree(tree: Tree, grace: Duration) -> Report {
    let mut killing = Killing::begin(tree, grace);
    loop {
        match killing.advance() {
            Progress::Done(report) => return report,
            Progress::Pending(pause) => killing.rest(pause),
        }
    }
}

impl Killing {
    /// Waits for `pause`, or until a member ends.
    fn rest(&self, pause: Duration) {
        let living = self.victims.iter().filter(|victim| !victim.pidfd.has_ended());
        let mut fds: Vec<PollFd<'_>> = living
            .map(|victim| PollFd::new(std::os::fd::AsFd::as_fd(&victim.pidfd), PollFlags::POLLIN))
            .collect();
        // An interrupted wait is only a short one.
        let _ = poll(&mut fds, timeout(Some(Instant::now() + pause)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    use super::*;
    use crate::{Child, Group, Launch};

    /// A shell whose script prints `lines` lines when everything it starts stands.
    fn start(script: &str, lines: usize) -> (Child, Vec<String>) {
        let mut child = Launch::new("sh")
            .args(["-c", script])
            .group(Group::Own)
            .dies_with_parent(signal::SIGKILL)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(child.stdout().unwrap()).lines().take(lines).map(Result::unwrap).collect();
        (child, told)
    }

    fn alive(pid: &str) -> bool {
        crate::table::process(pid.parse().unwrap()).is_ok_and(|row| row.is_alive())
    }

    const FAMILY: &str = "sh -c 'sleep 60 & echo $!; echo $$; wait' & wait";

    #[test]
    fn children_come_before_parents_and_all_end_on_sigterm() {
        let (mut root, told) = start(FAMILY, 2);
        let report = kill_tree(Tree::of(root.identity().clone()), Duration::from_secs(20));
        let order: Vec<String> = report.killed.iter().map(|killed| killed.pid.to_string()).collect();
        assert_eq!(order, [told[0].clone(), told[1].clone(), root.pid().to_string()]);
        // A shell whose child has ended may end before its turn comes.
        assert_eq!(report.killed[0].signals, [signal::SIGTERM]);
        assert!(report.killed.iter().all(|killed| !killed.signals.contains(&signal::SIGKILL)), "{report:?}");
        assert!(report.survivors.is_empty());
        root.wait_blocking().unwrap();
        assert!(!alive(&told[0]) && !alive(&told[1]));
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed_after_the_grace() {
        let (mut root, _) = start("trap '' TERM; echo armed; while :; do sleep 60; done", 1);
        let before = Instant::now();
        let report = kill_tree(Tree::of(root.identity().clone()), Duration::from_millis(100));
        assert!(before.elapsed() >= Duration::from_millis(100));
        let stubborn = report.killed.iter().find(|killed| killed.pid == root.pid()).unwrap();
        assert_eq!(stubborn.signals, [signal::SIGTERM, signal::SIGKILL]);
        root.wait_blocking().unwrap();
    }

    #[test]
    fn a_parent_that_starts_its_children_anew_leaves_none_behind() {
        for round in 0..20 {
            let script = "trap '' TERM; echo armed; while :; do sleep 60; done";
            let (mut root, _) = start(script, 1);
            kill_tree(Tree::of(root.identity().clone()), Duration::from_millis(5));
            root.wait_blocking().unwrap();
            let left =
                processes().unwrap().into_iter().filter(|row| row.group == root.pid() && row.is_alive());
            assert_eq!(left.count(), 0, "round {round}");
        }
    }

    #[test]
    fn a_stopped_process_ends_on_sigterm() {
        let (mut root, _) = start("echo armed; while :; do sleep 60 & wait; done", 1);
        root.pidfd().send(signal::SIGSTOP).unwrap();
        while crate::table::process(root.pid()).unwrap().state != 'T' {
            std::thread::yield_now();
        }
        let report = kill_tree(Tree::of(root.identity().clone()), Duration::from_secs(20));
        let stopped = report.killed.iter().find(|killed| killed.pid == root.pid()).unwrap();
        assert_eq!(stopped.signals, [signal::SIGTERM]);
        root.wait_blocking().unwrap();
    }

    #[test]
    fn one_that_left_is_found_by_its_marker() {
        let marker =
            Marker { name: "PROCESS_TEST_TREE".into(), value: format!("left-{}", std::process::id()) };
        let mut root = Launch::new("sh")
            .args(["-c", "setsid sh -c 'echo $$; exec sleep 60' & wait $!"])
            .env(&marker.name, &marker.value)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(root.stdout().unwrap()).lines();
        let gone = told.next().unwrap().unwrap();
        root.kill_blocking().unwrap();
        assert!(alive(&gone), "it was to survive its parent");
        let tree = Tree::of(root.identity().clone());
        assert!(tree.members().unwrap().is_empty(), "the tree no longer shows it");
        let report = kill_tree(tree.and_marked(marker), Duration::from_secs(20));
        assert_eq!(report.killed.len(), 1);
        assert_eq!(report.killed[0].pid.to_string(), gone);
        assert!(!alive(&gone));
    }

    #[test]
    fn a_spared_process_is_left_alone() {
        let (mut root, told) = start(FAMILY, 2);
        let tree = Tree::of(root.identity().clone()).sparing(root.pid());
        let report = kill_tree(tree, Duration::ZERO);
        assert!(report.killed.iter().all(|killed| killed.pid != root.pid()));
        assert!(!alive(&told[0]));
        root.kill_blocking().unwrap();
    }

    #[test]
    fn what_is_foreign_is_left_alone_with_all_below_it() {
        let (mut root, told) = start(FAMILY, 2);
        let middle: u32 = told[1].parse().unwrap();
        let tree = Tree::of(root.identity().clone()).without(move |row| row.pid == middle);
        let members: Vec<u32> = tree.members().unwrap().iter().map(|one| one.pid).collect();
        assert_eq!(members, [root.pid()]);
        kill_tree(Tree::of(root.identity().clone()), Duration::ZERO);
        root.wait_blocking().unwrap();
    }

    #[test]
    fn a_tree_that_keeps_forking_ends_too() {
        let (mut root, _) = start("trap '' TERM; echo armed; while :; do (sleep 60 &) ; sleep 0.01; done", 1);
        let marker_less = Tree::of(root.identity().clone());
        let report = kill_tree(marker_less, Duration::from_millis(100));
        assert!(report.survivors.is_empty());
        root.wait_blocking().unwrap();
        // Those that had left the tree are not its members; they are still in its group.
        let group = nix::unistd::Pid::from_raw(i32::try_from(root.pid()).unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }

    #[test]
    fn a_tree_that_is_gone_is_nobody() {
        let mut child = Launch::new("true").spawn().unwrap();
        child.wait_blocking().unwrap();
        assert_eq!(kill_tree(Tree::of(child.identity().clone()), Duration::from_secs(1)), Report::default());
    }
}
