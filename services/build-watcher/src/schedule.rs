//! When an entry is built and when what came of it may be published: a pure function of what was seen and the time.
//!
//! What must hold:
//! - only an outcome whose build began after the last change that was seen is ever published;
//! - a change of one file whose content is complete is built at once and, if the build is good, published at once;
//! - a file that is being written is built when its writer closes it, or when the writer pauses for long;
//! - many files at once (a checkout, a generator) are one change: they are built when it is quiet;
//! - a failure is published only when nothing changed for the settle time;
//! - every wait for something to be complete ends.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The waits of the loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// How long a failure must last before it is published.
    pub(crate) settle: Duration,
    /// How long a writer may pause before its file is built although it has not closed it.
    pub(crate) pause: Duration,
    /// The same for a file that is empty so far; and how long an outcome is held back that comes of a file that is
    /// still open, or empty all of a sudden.
    pub(crate) long_pause: Duration,
    /// How long nothing may change before a change of many files is built.
    pub(crate) quiet: Duration,
    /// The longest that a build is put off after the first change.
    pub(crate) limit: Duration,
    /// The same while git is changing files.
    pub(crate) checkout_limit: Duration,
    /// How long after folders could not be watched it is tried again.
    pub(crate) watch_again: Duration,
}

impl Timing {
    /// The usual waits, with `settle` for failures.
    pub(crate) const fn new(settle: Duration) -> Self {
        Self {
            settle,
            pause: Duration::from_millis(50),
            long_pause: if settle.as_millis() > 1000 { settle } else { Duration::from_secs(1) },
            quiet: Duration::from_millis(30),
            limit: Duration::from_secs(2),
            checkout_limit: Duration::from_secs(10),
            watch_again: Duration::from_secs(5),
        }
    }
}

/// More changed files than this are a crowd: they wait for quiet.
const CROWD: usize = 3;

/// Changed files that are remembered by name.
pub(crate) const NAMED: usize = 100;

/// When something was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// For waits.
    pub(crate) at: Instant,
    /// For people, microseconds since 1970.
    pub(crate) wall_us: u64,
}

/// In which state a change left a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Complete, until the next change.
    Complete,
    /// A writer has it open.
    Writing {
        /// Nothing is in it so far.
        empty: bool,
    },
    /// Gone; often because it is being replaced.
    Gone,
}

/// What to do with an entry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something changes.
    Idle,
    /// Ask again then.
    Wait(Instant),
    /// Build it.
    Build,
    /// Publish what the last build came to.
    Publish,
}

/// What a build came to, as far as waits depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Good.
    Good,
    /// Good, but a file that had content is empty: most likely its writer is not done.
    Doubtful,
    /// It failed.
    Failed,
}

/// What changed since the last publication.
#[derive(Debug)]
pub(crate) struct ChangeSet {
    /// The files, at most [`NAMED`] of them.
    pub(crate) files: BTreeSet<PathBuf>,
    /// There were more files than are named, or events were lost.
    pub(crate) more: bool,
    /// When the first of them was seen.
    pub(crate) first: Seen,
    last: Instant,
    open: HashMap<PathBuf, Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    touch: Touch,
}

impl ChangeSet {
    fn new(first: Seen) -> Self {
        Self { files: BTreeSet::new(), more: false, first, last: first.at, open: HashMap::new() }
    }

    fn add(&mut self, path: &Path, touch: Touch, seen: Seen) {
        self.last = self.last.max(seen.at);
        if self.files.is_empty() && !self.more {
            self.first = seen;
        }
        if self.files.len() < NAMED {
            self.files.insert(path.to_owned());
        } else if !self.files.contains(path) {
            self.more = true;
        }
        match touch {
            Touch::Complete => {
                self.open.remove(path);
            }
            Touch::Writing { .. } | Touch::Gone if self.open.len() < NAMED => {
                self.open.insert(path.to_owned(), Open { since: seen.at, touch });
            }
            Touch::Writing { .. } | Touch::Gone => {}
        }
    }

    fn is_crowd(&self) -> bool {
        self.more || self.files.len() > CROWD
    }

    /// When the files are taken as complete. The first build and a lost queue have no files and need no wait.
    fn complete_at(&self, timing: &Timing) -> Instant {
        let patience = |touch| match touch {
            Touch::Complete => Duration::ZERO,
            Touch::Gone => timing.settle,
            Touch::Writing { empty: false } => timing.pause,
            Touch::Writing { empty: true } => timing.long_pause,
        };
        self.open.values().map(|open| open.since + patience(open.touch)).max().unwrap_or(self.first.at)
    }

    /// When it is due to be built.
    fn due(&self, timing: &Timing) -> Instant {
        let complete = self.complete_at(timing);
        if self.is_crowd() { complete.max(self.last + timing.quiet) } else { complete }
    }

    /// When a failure of a build that began and ended at these times is due to be told.
    fn failure_due(&self, timing: &Timing, began: Instant, ended: Instant) -> Instant {
        let quiet_before = began.saturating_duration_since(self.last) >= timing.settle;
        let settled = if quiet_before { ended } else { ended + timing.settle };
        // A writer that has not closed its file gets the benefit of the doubt.
        let writing = self.open.values().filter(|open| matches!(open.touch, Touch::Writing { .. }));
        writing.map(|open| open.since + timing.long_pause).fold(settled, Instant::max)
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle,
    Dirty,
    Building { began: Instant },
    Held { verdict: Verdict, began: Instant, ended: Instant },
}

/// The state of one entry.
#[derive(Debug)]
pub(crate) struct Schedule {
    timing: Timing,
    phase: Phase,
    changes: Option<ChangeSet>,
}

impl Schedule {
    /// An entry that has never been built; it is due at once.
    pub(crate) fn new(timing: Timing, asked: Seen) -> Self {
        Self { timing, phase: Phase::Dirty, changes: Some(ChangeSet::new(asked)) }
    }

    /// A file changed. Whatever was built before this is stale.
    pub(crate) fn see(&mut self, path: &Path, touch: Touch, seen: Seen) {
        self.changes.get_or_insert_with(|| ChangeSet::new(seen)).add(path, touch, seen);
        self.phase = Phase::Dirty;
    }

    /// Anything may have changed.
    pub(crate) fn see_anything(&mut self, seen: Seen) {
        let changes = self.changes.get_or_insert_with(|| ChangeSet::new(seen));
        changes.more = true;
        changes.last = changes.last.max(seen.at);
        self.phase = Phase::Dirty;
    }

    /// Builds once more although nothing changed.
    pub(crate) fn again(&mut self, seen: Seen) {
        self.changes.get_or_insert_with(|| ChangeSet::new(seen));
        self.phase = Phase::Dirty;
    }

    /// Whether `path` is among what changed since the last publication.
    pub(crate) fn has_changed(&self, path: &Path) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.files.contains(path))
    }

    /// What changed since the last publication.
    pub(crate) fn changes(&self) -> Option<&ChangeSet> {
        self.changes.as_ref()
    }

    /// A build begins.
    pub(crate) fn began(&mut self, now: Instant) {
        self.phase = Phase::Building { began: now };
    }

    /// The build ended. Tells whether its outcome is still of use.
    pub(crate) fn ended(&mut self, verdict: Verdict, now: Instant) -> bool {
        let Phase::Building { began } = self.phase else { return false };
        self.phase = Phase::Held { verdict, began, ended: now };
        true
    }

    /// The outcome was published, or was what had been published before.
    pub(crate) fn done(&mut self) -> Option<ChangeSet> {
        self.phase = Phase::Idle;
        self.changes.take()
    }

    /// What to do at `now`. `checkout` tells that git is changing the files.
    pub(crate) fn next(&self, now: Instant, checkout: bool) -> Step {
        let Some(changes) = &self.changes else { return Step::Idle };
        let timing = &self.timing;
        let quiet = if checkout { now + timing.quiet } else { now };
        let limit = changes.first.at + if checkout { timing.checkout_limit } else { timing.limit };
        let due = match self.phase {
            Phase::Idle | Phase::Building { .. } => return Step::Idle,
            Phase::Dirty => changes.due(timing).max(quiet).min(limit),
            Phase::Held { verdict: Verdict::Good, .. } => quiet.min(limit),
            Phase::Held { verdict: Verdict::Doubtful, ended, .. } => ended + timing.long_pause,
            Phase::Held { verdict: Verdict::Failed, began, ended } => {
                changes.failure_due(timing, began, ended)
            }
        };
        match (due <= now, self.phase) {
            (false, _) => Step::Wait(due),
            (true, Phase::Held { .. }) => Step::Publish,
            (true, _) => Step::Build,
        }
    }
}

#[cfg(test)]
mod tests;
