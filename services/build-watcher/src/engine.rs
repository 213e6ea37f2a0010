//! The build thread: it alone builds, publishes and watches, so there is one order of everything.
//!
//! What must hold: before an outcome is published, everything that was seen until then is taken into account; work
//! that nobody waits for (watching more folders, pruning) is done when nothing is due.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use failpoint::Point;
use peer::FeedWriter;
use tokio::sync::oneshot;
use wire::build::WatchRefusal;
use wire::{BuildEvent, BuildId, BuildOutcome, EntryPath, Failure, TraceContext};

use crate::account;
use crate::bundle::threads::Threads;
use crate::change::{Change, Kind, seen_now};
use crate::entry::{Cause, Entry, Held, Told};
use crate::mail::{Mail, Request};
use crate::project::{self, Checkout, Ignored};
use crate::schedule::{Seen, Step, Timing};
use crate::store::Store;
use crate::watch_set::{Need, Wanted, WatchSet};

/// Paths that failing imports hope for and whose folders are watched, for each entry.
const HOPES: usize = 64;

/// How long nothing must have happened before bundlers are renewed.
const REST: Duration = Duration::from_secs(1);

/// Everything the build thread owns.
pub(crate) struct Engine {
    root: PathBuf,
    timing: Timing,
    mail: Arc<Mail>,
    store: Store,
    feed: FeedWriter<BuildEvent>,
    watches: Watching,
    ignored: Ignored,
    checkout: Checkout,
    entries: BTreeMap<EntryPath, Entry>,
    /// When a name last came to or went from the project's folder, as it was before the first build.
    root_modified: Option<SystemTime>,
}

/// The watched folders and whether they are still the right ones.
struct Watching {
    set: WatchSet,
    /// The folders in which files of the project could appear; nothing when they must be looked for again.
    folders: Option<Vec<PathBuf>>,
    stale: bool,
    /// What was said about folders that cannot be watched, and when it is tried again.
    trouble: Option<(String, Instant)>,
}

/// What an engine starts with.
pub(crate) struct Parts {
    pub(crate) root: PathBuf,
    pub(crate) timing: Timing,
    pub(crate) mail: Arc<Mail>,
    pub(crate) store: Store,
    pub(crate) feed: FeedWriter<BuildEvent>,
    pub(crate) watches: WatchSet,
}

impl Engine {
    /// Watches and builds nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { root, timing, mail, store, feed, watches } = parts;
        Self {
            ignored: Ignored::new(root.clone()),
            checkout: Checkout::of(&root),
            root_modified: modified(&root),
            watches: Watching { set: watches, folders: None, stale: false, trouble: None },
            root,
            timing,
            mail,
            store,
            feed,
            entries: BTreeMap::new(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self, threads: &Threads) {
        loop {
            if !self.read_mail() {
                return;
            }
            match self.next() {
                (Step::Publish, Some(entry)) => self.publish(&entry),
                (Step::Build, Some(entry)) => {
                    if let Some(entry) = self.entries.get_mut(&entry) {
                        let before = (entry.was_built, entry.graph().version);
                        entry.build(threads);
                        self.watches.stale |= before != (true, entry.graph().version);
                    }
                }
                (step, _) => {
                    threads.tidy();
                    if self.watches.stale {
                        self.sync_watches();
                        continue;
                    }
                    let again = self.watches.trouble.as_ref().map(|(_, again)| *again);
                    let due = if let Step::Wait(due) = step { Some(due) } else { None };
                    let worn = self.entries.values().any(Entry::is_worn).then(|| Instant::now() + REST);
                    let limit = due.into_iter().chain(again).chain(worn).min();
                    self.mail.wait(limit);
                    if worn.is_some_and(|at| at <= Instant::now()) {
                        self.entries
                            .values_mut()
                            .filter(|entry| entry.is_worn())
                            .for_each(|entry| entry.renew(threads));
                    }
                    if again.is_some_and(|again| again <= Instant::now()) {
                        self.watches.stale = true;
                    }
                }
            }
        }
    }

    /// The most urgent step, and for which entry.
    fn next(&self) -> (Step, Option<EntryPath>) {
        let now = Instant::now();
        let rank = |step: &Step| match step {
            Step::Publish => (0, now),
            Step::Build => (1, now),
            Step::Wait(until) => (2, *until),
            Step::Idle => (3, now),
        };
        let steps = self.entries.values().map(|entry| {
            let step = entry.next(now, || self.checkout.is_running());
            (step, Some(entry.path.clone()))
        });
        steps.min_by_key(|(step, _)| rank(step)).unwrap_or((Step::Idle, None))
    }

    /// Takes in what came. False: it is time to stop.
    fn read_mail(&mut self) -> bool {
        let delivery = self.mail.take();
        for (change, seen) in delivery.changes {
            self.see(&change, seen);
        }
        if let Some(seen) = delivery.lost {
            self.watches.forget_folders();
            self.entries.values_mut().for_each(|entry| entry.see_anything(seen));
        }
        for request in delivery.requests {
            match request {
                Request::Watch(entry, reply) => self.watch(entry, reply),
                Request::Unwatch(entry, reply) => {
                    self.unwatch(&entry);
                    let _ = reply.send(());
                }
                Request::Doubt(entry, hash) => {
                    if let Some(entry) = self.entries.get_mut(&entry) {
                        entry.doubt(&hash);
                    }
                }
                Request::Retain(hashes, reply) => {
                    self.store.retain(hashes);
                    self.prune();
                    let _ = reply.send(());
                }
                Request::Stop => return false,
            }
        }
        true
    }

    fn see(&mut self, change: &Change, seen: Seen) {
        let path = &change.path;
        match path.file_name().and_then(|name| name.to_str()) {
            Some(".gitignore") => {
                self.ignored.forget();
                self.watches.forget_folders();
            }
            Some(".git") => self.checkout = Checkout::of(&self.root),
            _ => {}
        }
        match change.kind {
            Kind::Vanished => {
                if self.watches.set.lost(path) {
                    self.watches.forget_folders();
                }
            }
            Kind::Appeared(_) if path.is_dir() && !self.ignored.contains(path) => {
                self.watches.forget_folders();
            }
            Kind::Appeared(_) | Kind::Content(_) | Kind::Attributes => {}
        }
        for entry in self.entries.values_mut() {
            entry.see(change, seen, &mut self.ignored);
        }
    }

    fn watch(&mut self, path: EntryPath, reply: oneshot::Sender<Result<(), WatchRefusal>>) {
        let entry = self
            .entries
            .entry(path)
            .or_insert_with_key(|path| Entry::new(&self.root, path.clone(), self.timing, seen_now()));
        if entry.was_built && entry.waiting.is_empty() {
            let _ = reply.send(Ok(()));
        } else {
            entry.waiting.push(reply);
        }
    }

    fn unwatch(&mut self, path: &EntryPath) {
        let Some(entry) = self.entries.remove(path) else { return };
        entry.waiting.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
        self.feed.forget(path.as_str());
        self.watches.stale = true;
    }

    fn publish(&mut self, path: &EntryPath) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let Some(Held { built, began, mut bundle_ms }) = entry.take_held(seen_now()) else { return };
        failpoint::reach(Point::BuildPublishing);
        let stored = Instant::now();
        let (outcome, told) = match built.code {
            Ok(code) => match &entry.told {
                Some(Told::Good(_, known)) if known.as_ref() == Some(&code) => {
                    entry.done();
                    return;
                }
                _ => keep(&mut self.store, &self.root, &entry.file, code),
            },
            Err(complaint) => failed(complaint.failure),
        };
        bundle_ms += stored.elapsed().as_secs_f64() * 1e3;
        let cause = entry.done();
        tell(&self.feed, entry, cause, (outcome, told), (began, bundle_ms));
        self.prune();
    }

    fn prune(&mut self) {
        let current = self.entries.values().filter_map(|entry| match &entry.told {
            Some(Told::Good(hash, _)) => Some(hash),
            Some(Told::Bad(_)) | None => None,
        });
        self.store.prune(&current.collect());
    }

    /// Watches the folders that matter now, looks whether anything changed in the new ones before they were watched,
    /// and answers those who wait for a first build.
    fn sync_watches(&mut self) {
        self.watches.stale = false;
        let wanted = self.wanted();
        let synced = self.watches.set.sync(&wanted);
        let seen = seen_now();
        if !synced.added.is_empty() {
            // What appeared in a folder before it was watched may have to be watched too.
            self.watches.forget_folders();
        }
        // Our own state folder may just have been made in the project's.
        let same = Some(self.root.as_path()).filter(|root| self.root_modified.take() == modified(root));
        for entry in self.entries.values_mut().filter(|entry| entry.was_built) {
            entry.look_again(&synced.added, same, seen);
        }
        let mended = synced.trouble.is_none() && self.watches.trouble.is_some();
        let known = self.watches.trouble.take().map(|(text, _)| text);
        if let Some(text) = synced.trouble {
            if known.as_ref() != Some(&text) {
                self.say_trouble(&text);
            }
            self.refuse_waiting(&text);
            self.watches.trouble = Some((text, Instant::now() + self.timing.watch_again));
        }
        for entry in self.entries.values_mut().filter(|entry| entry.was_built) {
            entry.waiting.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
            let was_told =
                matches!(&entry.told, Some(Told::Bad(failure)) if Some(&failure.message) == known.as_ref());
            if mended && was_told {
                entry.again(seen);
            }
        }
    }

    /// Tells everyone that not everything can be watched.
    fn say_trouble(&mut self, text: &str) {
        tracing::warn!("{text}");
        for entry in self.entries.values_mut().filter(|entry| entry.was_built) {
            tell(&self.feed, entry, None, failed(Failure::plain(text)), (SystemTime::now(), 0.0));
        }
    }

    /// Those who asked to watch an entry learn that it is not watched yet.
    fn refuse_waiting(&mut self, text: &str) {
        for entry in self.entries.values_mut().filter(|entry| entry.was_built) {
            for reply in entry.waiting.drain(..) {
                let _ = reply.send(Err(WatchRefusal::CannotWatch { message: text.to_owned() }));
            }
        }
    }

    fn wanted(&mut self) -> Wanted {
        let mut wanted = Wanted::default();
        if self.entries.is_empty() {
            return wanted;
        }
        wanted.add(&self.root, Need::Use);
        let top = self.root.join("src");
        for folder in self.watches.folders.get_or_insert_with(|| project::source_folders(&top)) {
            wanted.add(folder, Need::Hope);
        }
        for entry in self.entries.values().filter(|entry| entry.was_built) {
            let graph = entry.graph();
            let hopes = graph.hoped.iter().take(HOPES);
            hopes.filter_map(|path| project::nearest_folder(path)).for_each(|f| wanted.add(&f, Need::Hope));
            let files = graph.files.keys().chain([&entry.real]);
            let folders: BTreeSet<_> = files.filter_map(|file| file.parent()).collect();
            folders.into_iter().for_each(|folder| want_folder(&mut wanted, &self.root, folder));
        }
        wanted
    }
}

impl Watching {
    fn forget_folders(&mut self) {
        self.folders = None;
        self.stale = true;
    }
}

/// Wants `folder`, in which there are files of a bundle, and those above it up to where they are above the project
/// too: when one of them is replaced, so is `folder`.
fn want_folder(wanted: &mut Wanted, root: &Path, folder: &Path) {
    let Some(nearest) = project::nearest_folder(folder) else { return };
    wanted.add(&nearest, if nearest == folder { Need::Use } else { Need::Hope });
    for above in nearest.ancestors().skip(1).take_while(|above| !root.starts_with(above)) {
        let unrelated = above.components().count() <= 2;
        if unrelated {
            break;
        }
        wanted.add(above, Need::Hope);
    }
}

fn modified(folder: &Path) -> Option<SystemTime> {
    folder.metadata().and_then(|meta| meta.modified()).ok()
}

fn failed(failure: Failure) -> (BuildOutcome, Told) {
    (BuildOutcome::Failed(failure.clone()), Told::Bad(failure))
}

/// Puts good code into the store.
fn keep(store: &mut Store, root: &Path, file: &Path, code: String) -> (BuildOutcome, Told) {
    match store.publish(root, file, &code) {
        Ok(artifact) => {
            let told = Told::Good(artifact.content_hash.clone(), Some(code));
            (BuildOutcome::Built(artifact), told)
        }
        Err(failure) => failed(failure),
    }
}

/// Tells the readers what became of `entry`, unless they know.
fn tell(
    feed: &FeedWriter<BuildEvent>,
    entry: &mut Entry,
    cause: Option<Cause>,
    (outcome, told): (BuildOutcome, Told),
    (began, bundle_ms): (SystemTime, f64),
) {
    if let (Some(Told::Bad(known)), Told::Bad(new)) = (&entry.told, &told)
        && known == new
    {
        return;
    }
    entry.told = Some(told);
    let cause = cause.unwrap_or_else(|| Cause { changed: Vec::new(), first: seen_now() });
    let mut event = BuildEvent {
        build_id: BuildId::fresh(),
        entry: entry.path.clone(),
        changed: cause.changed,
        saved_at_us: cause.first.wall_us,
        bundle_ms,
        trace: TraceContext::default(),
        outcome,
    };
    account::of(&mut event, began);
    feed.publish(event);
}
