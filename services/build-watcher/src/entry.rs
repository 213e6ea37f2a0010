//! One watched entry: its files, when it is built, what its readers were last told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use wire::build::WatchRefusal;
use wire::{ContentHash, EntryPath, Failure};

use crate::bundle::diagnose::Complaint;
use crate::bundle::stamp::Stamp;
use crate::bundle::threads::Threads;
use crate::bundle::{Built, Changed, EntryBundler};
use crate::change::{Change, Kind};
use crate::project::{self, Ignored};
use crate::schedule::{NAMED, Schedule, Seen, Step, Timing, Touch, Verdict};

/// What the readers of the feed were last told.
#[derive(Debug)]
pub(crate) enum Told {
    /// This code, under this address. Without the code: the same code is news, since it could not be evaluated, and
    /// what stood in the way may be gone.
    Good(ContentHash, Option<String>),
    /// This failure.
    Bad(Failure),
}

/// A build whose outcome may be published.
pub(crate) struct Held {
    pub(crate) built: Built,
    /// When the build began.
    pub(crate) began: SystemTime,
    /// Time in the bundler, milliseconds.
    pub(crate) bundle_ms: f64,
}

/// How much a time of the file system may lag behind the clock.
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// Surprises that are believed: some file systems never give the same stamp twice.
const SURPRISES: u8 = 3;

/// What led to an outcome.
#[derive(Debug)]
pub(crate) struct Cause {
    /// The paths that changed, relative to the project where possible, sorted.
    pub(crate) changed: Vec<String>,
    /// When the first change was seen.
    pub(crate) first: Seen,
}

/// Changes that no build has read.
#[derive(Debug)]
enum Unread {
    Anything,
    Paths(BTreeSet<PathBuf>),
}

/// A watched entry.
pub(crate) struct Entry {
    root: PathBuf,
    /// As it was asked for.
    pub(crate) path: EntryPath,
    /// The same with the links in its folder resolved, as changes name it.
    pub(crate) real: PathBuf,
    /// Those who wait for the first build.
    pub(crate) waiting: Vec<oneshot::Sender<Result<(), WatchRefusal>>>,
    /// The first build has ended.
    pub(crate) was_built: bool,
    pub(crate) told: Option<Told>,
    /// The file that the last build began with: another one where the entry's own is missing.
    pub(crate) file: PathBuf,
    schedule: Schedule,
    bundler: EntryBundler,
    unread: Unread,
    held: Option<Held>,
    failing: bool,
    /// How often a file was not what the build had read, without a word from the watcher, since the last publication.
    surprises: u8,
    /// When the last build began, by the clock that the file system goes by.
    began: SystemTime,
}

impl Entry {
    /// An entry that is due for its first build.
    pub(crate) fn new(root: &Path, path: EntryPath, timing: Timing, asked: Seen) -> Self {
        let real = project::real_name(Path::new(path.as_str()));
        Self {
            root: root.to_owned(),
            bundler: EntryBundler::new(root.to_owned(), real.clone()),
            path,
            waiting: Vec::new(),
            was_built: false,
            told: None,
            file: real.clone(),
            schedule: Schedule::new(timing, asked),
            unread: Unread::Anything,
            held: None,
            failing: false,
            surprises: 0,
            began: SystemTime::UNIX_EPOCH,
            real,
        }
    }

    /// What to do with it now.
    pub(crate) fn next(&self, now: Instant, checkout: impl FnOnce() -> bool) -> Step {
        let Some(changes) = self.schedule.changes() else { return Step::Idle };
        let by_files = !changes.files.is_empty() || changes.more;
        self.schedule.next(now, by_files && checkout())
    }

    /// The files it is made of, and the paths that it hopes for.
    pub(crate) fn graph(&self) -> &crate::bundle::Graph {
        self.bundler.graph()
    }

    /// Takes a change into account, if it is of any concern.
    pub(crate) fn see(&mut self, change: &Change, seen: Seen, ignored: &mut Ignored) {
        if !self.is_concerned(change, ignored) {
            return;
        }
        match &mut self.unread {
            Unread::Paths(paths) if paths.len() < NAMED => {
                paths.insert(change.path.clone());
            }
            unread => *unread = Unread::Anything,
        }
        self.held = None;
        self.schedule.see(&change.path, change.kind.touch(), seen);
    }

    /// Changes were lost.
    pub(crate) fn see_anything(&mut self, seen: Seen) {
        self.unread = Unread::Anything;
        self.held = None;
        self.schedule.see_anything(seen);
    }

    /// Builds once more, reading everything again.
    pub(crate) fn again(&mut self, seen: Seen) {
        self.unread = Unread::Anything;
        self.held = None;
        self.schedule.again(seen);
    }

    /// Looks for changes in `folders`, which were not watched while the last build read its files. In the folder
    /// `same` no name came or went.
    pub(crate) fn look_again(&mut self, folders: &BTreeSet<PathBuf>, same: Option<&Path>, seen: Seen) {
        let since = self.began - CLOCK_LAG;
        let is_fresh =
            |folder: &PathBuf| folder.metadata().and_then(|m| m.modified()).is_ok_and(|at| at >= since);
        let mut unsure = folders.iter().filter(|folder| same != Some(folder));
        if unsure.any(|folder| self.failing || is_fresh(folder)) {
            self.again(seen);
            return;
        }
        let unseen = |path: &Path| path.parent().is_some_and(|folder| folders.contains(folder));
        let files = self.graph().files.iter().filter(|(path, _)| unseen(path));
        let changed: Vec<_> = files.filter(|(path, read)| Stamp::at(path).as_ref() != Some(read)).collect();
        for path in changed.into_iter().map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.changed_unseen(path, seen);
        }
    }

    fn is_concerned(&self, change: &Change, ignored: &mut Ignored) -> bool {
        let (path, graph) = (&change.path, self.bundler.graph());
        let is_own = graph.files.contains_key(path) || *path == self.real;
        let below = |files: &PathBuf| files.starts_with(path);
        match change.kind {
            Kind::Attributes => is_own && self.failing,
            Kind::Content(_) => {
                is_own || project::is_resolver_config(path) || self.schedule.has_changed(path)
            }
            Kind::Vanished | Kind::Appeared(_) if is_own || self.schedule.has_changed(path) => true,
            Kind::Vanished | Kind::Appeared(_) if project::is_resolver_config(path) => true,
            Kind::Vanished | Kind::Appeared(_) => {
                let in_use = graph.files.keys().any(below) || self.real.starts_with(path);
                let hoped = graph.hoped.iter().any(|hoped| below(hoped) || path.starts_with(hoped));
                let could_resolve =
                    is_link(path) || ((project::is_program(path) || self.failing) && !path.is_dir());
                in_use || hoped || (could_resolve && !ignored.contains(path))
            }
        }
    }

    /// Builds. Blocks for as long as that takes.
    pub(crate) fn build(&mut self, threads: &Threads) {
        let began = Instant::now();
        self.began = SystemTime::now();
        self.schedule.began(began);
        self.file = project::file_of(&self.root, &self.real);
        let unread = std::mem::replace(&mut self.unread, Unread::Paths(BTreeSet::new()));
        let built = if self.file.is_file() {
            self.bundler.start_from(&self.file);
            let changed = match &unread {
                Unread::Anything => Changed::Anything,
                Unread::Paths(paths) => Changed::Paths(paths),
            };
            self.bundler.build(threads, &changed)
        } else {
            self.bundler.forget();
            Built { code: Err(Complaint { failure: self.missing(), hoped: Vec::new() }), doubtful: false }
        };
        self.failing = built.code.is_err();
        self.was_built = true;
        let verdict = match &built.code {
            Err(_) => Verdict::Failed,
            Ok(_) if built.doubtful => Verdict::Doubtful,
            Ok(_) => Verdict::Good,
        };
        let ended = Instant::now();
        if self.schedule.ended(verdict, ended) {
            self.held =
                Some(Held { built, began: self.began, bundle_ms: (ended - began).as_secs_f64() * 1e3 });
        }
    }

    /// Whether its bundler keeps more than it needs.
    pub(crate) fn is_worn(&self) -> bool {
        self.bundler.is_worn()
    }

    /// Has its bundler keep no more than it needs. Blocks for as long as a build takes.
    pub(crate) fn renew(&mut self, threads: &Threads) {
        self.bundler.renew(threads);
    }

    fn missing(&self) -> Failure {
        let shown = project::relative(&self.root, &self.real);
        let hint = match project::profile_of(&self.root, &self.real) {
            Some(_) => "create it, or run `midrun init`",
            None => "create it",
        };
        Failure::plain(format!("there is no {shown}: {hint}; it is built as soon as it appears"))
    }

    /// The outcome to publish, with what changed. Nothing if a file changed that nobody told us of yet.
    pub(crate) fn take_held(&mut self, seen: Seen) -> Option<Held> {
        let held = self.held.take()?;
        let files = self.schedule.changes().into_iter().flat_map(|changes| &changes.files);
        let graph = self.bundler.graph();
        let stale = files.filter_map(|path| Some((path, graph.files.get(path)?)));
        let stale = stale.filter(|(path, read)| Stamp::at(path).as_ref() != Some(read));
        let stale = stale.map(|(path, _)| path.clone()).next();
        match stale.filter(|_| held.built.code.is_ok() && self.surprises < SURPRISES) {
            Some(path) => {
                self.surprises += 1;
                self.changed_unseen(path, seen);
                None
            }
            None => Some(held),
        }
    }

    /// A file is not what the build read, and no word of it came (yet).
    fn changed_unseen(&mut self, path: PathBuf, seen: Seen) {
        let touch = match Stamp::at(&path) {
            Some(stamp) if stamp.len == 0 => Touch::Writing { empty: true },
            Some(_) => Touch::Complete,
            None => Touch::Gone,
        };
        if let Unread::Paths(paths) = &mut self.unread {
            paths.insert(path.clone());
        }
        self.held = None;
        self.schedule.see(&path, touch, seen);
    }

    /// The artifact could not be evaluated.
    pub(crate) fn doubt(&mut self, hash: &ContentHash) {
        if let Some(Told::Good(told, code)) = &mut self.told
            && told == hash
        {
            *code = None;
        }
    }

    /// What was held is told, or need not be. Gives what led to it.
    pub(crate) fn done(&mut self) -> Option<Cause> {
        self.surprises = 0;
        let changes = self.schedule.done()?;
        let files = match changes.files {
            // A change that was read before word of it came. The first build has no cause.
            files if files.is_empty() && self.told.is_some() => self.graph().reread.clone(),
            files => files,
        };
        // What nobody imports is only named when nothing else can be the cause.
        let known = &self.graph().files;
        let imported: Vec<_> = files.iter().filter(|path| known.contains_key(*path)).cloned().collect();
        let files = if imported.is_empty() { files.into_iter().collect() } else { imported };
        self.bundler.told();
        let files = files.iter().take(NAMED);
        let mut changed: Vec<_> = files.map(|path| project::relative(&self.root, path)).collect();
        changed.sort_unstable();
        Some(Cause { changed, first: changes.first })
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_symlink())
}
