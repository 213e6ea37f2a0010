//! The build watcher as the rest of midrun sees it: a feed, four requests, and an end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler};
use peer::{Envelope, Feed, FeedSeat, FeedWriter, Inbox};
use supervise::{Answering, Life, Part, Policy};
use tokio::sync::{oneshot, watch};
use wire::build::{Retain, SourceMap, Unwatch, Watch, WatchRefusal};
use wire::message::Never;
use wire::profile::STATE_DIR;
use wire::{BuildEvent, Trouble};

use crate::bundle::threads;
use crate::change::{self, seen_now};
use crate::engine::{Engine, Parts};
use crate::mail::{Mail, Request};
use crate::once::map_once;
use crate::schedule::Timing;
use crate::store::{Keep, Store};
use crate::watch_set::{MakeWatcher, WatchSet, Watches, system_watcher};

/// Events that are kept for readers that are behind.
const FEED: usize = 32;

/// Watches and the like that are queued or being handled at most.
const INBOX: usize = 64;

/// Source maps that are made at the same time at most.
const MAPS: usize = 2;

/// How a project is watched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The project's folder.
    pub project_root: PathBuf,
    /// Where its state is kept, usually `.midrun` in it.
    pub state_dir: PathBuf,
    /// How long a build must have failed before that is published.
    pub settle: Duration,
    /// Which artifacts are kept besides those in use.
    pub keep: Keep,
}

impl Settings {
    /// The usual settings for the project at `root`.
    pub fn of(root: &Path) -> Self {
        Self {
            project_root: root.to_owned(),
            state_dir: root.join(STATE_DIR),
            settle: Duration::from_millis(30),
            keep: Keep::default(),
        }
    }
}

/// A running build watcher. It ends when this is dropped, or in an orderly way with [`Handle::stop`].
pub struct Handle {
    /// Every new artifact and every failure.
    pub feed: Feed<BuildEvent>,
    /// Watch an entry.
    pub watch: Inbox<Watch>,
    /// Watch it no longer.
    pub unwatch: Inbox<Unwatch>,
    /// Keep artifacts.
    pub retain: Inbox<Retain>,
    /// Make a source map.
    pub source_map: Inbox<SourceMap>,
    part: Part,
}

/// The build thread did not end in the time that was allowed. It ends when the build that it is at does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the build watcher is still at a build")]
pub struct StillBuilding;

impl Handle {
    /// Accepts no more requests, ends the build thread and with it the feed, and waits for that at most `limit`.
    /// May be called again.
    ///
    /// # Errors
    /// The time was not enough.
    pub async fn stop(&self, limit: Duration) -> Result<(), StillBuilding> {
        if self.part.retire(limit).await { Ok(()) } else { Err(StillBuilding) }
    }

    /// The same, for those who end all the same.
    pub async fn shutdown(&self, limit: Duration) {
        if let Err(error) = self.stop(limit).await {
            tracing::warn!(%error, "ended all the same");
        }
    }

    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.part.trouble()
    }

    /// Another value with each of its lives: a new one knows nothing of what the one before was asked.
    pub fn lives(&self) -> watch::Receiver<Option<String>> {
        self.part.lives()
    }
}

/// Starts a build watcher that watches nothing yet. Needs a running actix system.
///
/// # Errors
/// The project's folder does not exist, its state folder cannot be made, or there is no thread to be had.
pub fn start(settings: &Settings) -> io::Result<Handle> {
    start_with(settings, Timing::new(settings.settle), system_watchers)
}

type MakeWatchers = Box<dyn FnOnce(Arc<Mail>) -> MakeWatcher + Send>;

/// The same, with other waits and, in its first life, with watchers from elsewhere.
fn start_with(
    settings: &Settings,
    timing: Timing,
    watchers: impl FnOnce(Arc<Mail>) -> MakeWatcher + Send + 'static,
) -> io::Result<Handle> {
    let root = settings.project_root.canonicalize()?;
    let seat = FeedSeat::new(FEED);
    let doors = Doors {
        watch: Inbox::new(INBOX),
        unwatch: Inbox::new(INBOX),
        retain: Inbox::new(INBOX),
        source_map: Inbox::new(MAPS),
    };
    let (feed, inboxes) = (seat.feed(), doors.clone());
    let (state_dir, keep) = (settings.state_dir.clone(), settings.keep);
    let mut first: Option<MakeWatchers> = Some(Box::new(watchers));
    let life = move |life: &Life| {
        let store = Store::open(&state_dir, keep).map_err(|error| error.to_string())?;
        let watchers = first.take().unwrap_or_else(|| Box::new(system_watchers));
        let mail = Mail::new();
        run_engine(life, (root.clone(), timing, store), (Arc::clone(&mail), seat.writer()), watchers)
            .map_err(|error| error.to_string())?;
        let actor = life.start(BuildWatcher { life: life.clone(), root: root.clone(), mail });
        life.answer(&doors.watch, &actor);
        life.answer(&doors.unwatch, &actor);
        life.answer(&doors.retain, &actor);
        life.answer(&doors.source_map, &actor);
        Ok(())
    };
    let part = Part::start("build-watcher", Policy::default(), life).map_err(io::Error::other)?;
    let Doors { watch, unwatch, retain, source_map } = inboxes;
    Ok(Handle { feed, watch, unwatch, retain, source_map, part })
}

#[derive(Clone)]
struct Doors {
    watch: Inbox<Watch>,
    unwatch: Inbox<Unwatch>,
    retain: Inbox<Retain>,
    source_map: Inbox<SourceMap>,
}

/// Starts the build thread of one life. The life ends with it, and it with the life.
fn run_engine(
    life: &Life,
    (root, timing, store): (PathBuf, Timing, Store),
    (mail, feed): (Arc<Mail>, FeedWriter<BuildEvent>),
    watchers: MakeWatchers,
) -> io::Result<()> {
    let (alive, mut ended) = watch::channel(());
    let (alarm, engine_mail) = (life.alarm(), Arc::clone(&mail));
    threads::spawn(move |threads| {
        let watches_mail = Arc::clone(&engine_mail);
        alarm.guard(move || {
            let watches = WatchSet::new(watchers(watches_mail));
            Engine::new(Parts { root, timing, mail: engine_mail, store, feed, watches }).run(threads);
        });
        drop(alive);
    })?;
    life.at_end(async move {
        mail.ask(Request::Stop);
        while ended.changed().await.is_ok() {}
    });
    Ok(())
}

fn system_watchers(mail: Arc<Mail>) -> MakeWatcher {
    Box::new(move || {
        let mail = Arc::clone(&mail);
        let watcher = system_watcher(move |event: notify::Result<notify::Event>| match event {
            Ok(event) if change::is_loss(&event) => mail.lose(seen_now()),
            Ok(event) => {
                let seen = seen_now();
                mail.tell(change::changes(event), seen);
            }
            Err(error) => {
                tracing::warn!(%error, "changes may have been missed; everything is read again");
                mail.lose(seen_now());
            }
        })?;
        Ok(Box::new(watcher) as Box<dyn Watches>)
    })
}

/// Passes requests on to the build thread, and makes source maps beside it.
struct BuildWatcher {
    life: Life,
    root: PathBuf,
    mail: Arc<Mail>,
}

impl actix::Actor for BuildWatcher {
    type Context = Context<Self>;
}

impl BuildWatcher {
    fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        self.mail.ask(request(reply));
        answer
    }
}

impl Handler<Envelope<Watch>> for BuildWatcher {
    type Result = Answering<Result<(), WatchRefusal>>;

    fn handle(&mut self, envelope: Envelope<Watch>, _: &mut Context<Self>) -> Self::Result {
        let (message, held) = envelope.open();
        let answer = self.ask(|reply| Request::Watch(message.entry, reply));
        self.life.answering(async move {
            let _until_answered = held;
            answer.await.unwrap_or_else(|_| {
                let message = "the build watcher has ended; start midrun again".to_owned();
                Err(WatchRefusal::CannotWatch { message })
            })
        })
    }
}

impl Handler<Envelope<Unwatch>> for BuildWatcher {
    type Result = Answering<Result<(), Never>>;

    fn handle(&mut self, envelope: Envelope<Unwatch>, _: &mut Context<Self>) -> Self::Result {
        let (message, held) = envelope.open();
        let answer = self.ask(|reply| Request::Unwatch(message.entry, reply));
        self.life.answering(async move {
            let _until_answered = held;
            // A watcher that has ended watches nothing.
            let _ = answer.await;
            Ok(())
        })
    }
}

impl Handler<Envelope<Retain>> for BuildWatcher {
    type Result = Answering<Result<(), Never>>;

    fn handle(&mut self, envelope: Envelope<Retain>, _: &mut Context<Self>) -> Self::Result {
        let (message, held) = envelope.open();
        let answer = self.ask(|reply| Request::Retain(message.hashes, reply));
        self.life.answering(async move {
            let _until_answered = held;
            // A watcher that has ended removes nothing.
            let _ = answer.await;
            Ok(())
        })
    }
}

impl Handler<Envelope<SourceMap>> for BuildWatcher {
    type Result = Answering<Result<Option<String>, Never>>;

    fn handle(&mut self, envelope: Envelope<SourceMap>, _: &mut Context<Self>) -> Self::Result {
        let root = self.root.clone();
        let (SourceMap { entry, content_hash }, held) = envelope.open();
        self.mail.ask(Request::Doubt(entry.clone(), content_hash.clone()));
        self.life.answering(async move {
            let _until_answered = held;
            let map = tokio::task::spawn_blocking(move || map_once(&root, &entry, &content_hash));
            Ok(map.await.ok().flatten())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use peer::{AskError, Start};
    use wire::{BuildOutcome, EntryPath};

    const LONG: Duration = Duration::from_secs(30);

    /// What stands between the build watcher and the system's: it may refuse, or do something first.
    type Between = Box<dyn FnMut(&Path, &HashSet<PathBuf>) -> notify::Result<()> + Send>;

    /// The system's watcher, with something in between.
    struct Wrapped {
        system: Box<dyn Watches>,
        between: Between,
        watched: HashSet<PathBuf>,
    }

    impl Watches for Wrapped {
        fn watch(&mut self, folder: &Path) -> notify::Result<()> {
            (self.between)(folder, &self.watched)?;
            self.watched.insert(folder.to_owned());
            self.system.watch(folder)
        }

        fn unwatch(&mut self, folder: &Path) {
            self.watched.remove(folder);
            self.system.unwatch(folder);
        }
    }

    fn start_wrapped(root: &Path, between: Between) -> Handle {
        let settings = Settings::of(root);
        let timing = Timing { watch_again: Duration::from_millis(20), ..Timing::new(settings.settle) };
        let watchers = move |mail| -> MakeWatcher {
            let (mut system, mut between) = (system_watchers(mail), Some(between));
            Box::new(move || {
                let (system, between) = (system()?, between.take().expect("made once"));
                Ok(Box::new(Wrapped { system, between, watched: HashSet::new() }) as Box<dyn Watches>)
            })
        };
        start_with(&settings, timing, watchers).expect("it starts")
    }

    fn start_limited(root: &Path, limit: &Arc<AtomicUsize>) -> Handle {
        let limit = Arc::clone(limit);
        let refuse = move |_: &Path, watched: &HashSet<PathBuf>| {
            let spent = watched.len() >= limit.load(Ordering::Relaxed);
            if spent { Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)) } else { Ok(()) }
        };
        start_wrapped(root, Box::new(refuse))
    }

    fn project() -> (tempfile::TempDir, PathBuf, EntryPath) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let entry = root.join("src/midrun/index.ts");
        fs::create_dir_all(entry.parent().unwrap()).unwrap();
        fs::write(&entry, "export const a = 'first';\n").unwrap();
        // Otherwise everything is read again because the folders are so new.
        for folder in [root.join("src/midrun"), root.join("src")] {
            fs::File::open(folder).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let entry = EntryPath::from(entry.to_str().unwrap());
        (dir, root, entry)
    }

    async fn next(reader: &mut peer::Reader<BuildEvent>) -> BuildOutcome {
        let event = tokio::time::timeout(LONG, reader.next()).await.expect("an event comes");
        event.expect("the watcher lives").event.outcome.clone()
    }

    #[actix_rt::test]
    async fn an_entry_that_cannot_be_watched_is_refused_and_says_how_to_mend_it() {
        let (_dir, root, entry) = project();
        let handle = start_limited(&root, &Arc::new(AtomicUsize::new(1)));
        let mut reader = handle.feed.read(Start::Snapshot);
        let refused = handle.watch.peer().ask(Watch { entry }).await;
        let Err(AskError::Refused(WatchRefusal::CannotWatch { message })) = refused else {
            panic!("{refused:?}");
        };
        assert!(message.contains("fs.inotify.max_user_watches"), "{message}");
        assert!(matches!(next(&mut reader).await, BuildOutcome::Built(_)), "the build itself was good");
        let BuildOutcome::Failed(failure) = next(&mut reader).await else { panic!("a failure is told") };
        assert_eq!(failure.message, message);
    }

    #[actix_rt::test]
    async fn an_entry_that_was_refused_is_watched_as_soon_as_it_can_be() {
        let (_dir, root, entry) = project();
        let limit = Arc::new(AtomicUsize::new(1));
        let handle = start_limited(&root, &limit);
        let mut reader = handle.feed.read(Start::Snapshot);
        handle.watch.peer().ask(Watch { entry: entry.clone() }).await.expect_err("it cannot be watched");
        while !matches!(next(&mut reader).await, BuildOutcome::Failed(_)) {}
        limit.store(usize::MAX, Ordering::Relaxed);
        assert!(matches!(next(&mut reader).await, BuildOutcome::Built(_)), "the trouble is over");
        fs::write(entry.as_str(), "export const a = 'second';\n").unwrap();
        let BuildOutcome::Built(artifact) = next(&mut reader).await else { panic!("it is good") };
        assert!(fs::read_to_string(artifact.path).unwrap().contains("second"));
    }

    /// Runs `edit` between the first build and the first watch of the entry's folder.
    fn start_with_an_edit_before_the_watch(
        root: &Path,
        entry: &EntryPath,
        edit: impl FnOnce() + Send + 'static,
    ) -> Handle {
        let folder = Path::new(entry.as_str()).parent().expect("a folder").to_owned();
        let mut edit = Some(edit);
        let between = move |watched: &Path, _: &HashSet<PathBuf>| {
            if let Some(edit) = edit.take_if(|_| watched == folder) {
                edit();
            }
            Ok(())
        };
        start_wrapped(root, Box::new(between))
    }

    #[actix_rt::test]
    async fn an_edit_between_the_first_build_and_the_first_watch_is_not_lost() {
        let (_dir, root, entry) = project();
        let file = entry.clone();
        let edit = move || fs::write(file.as_str(), "export const a = 'in between';\n").unwrap();
        let handle = start_with_an_edit_before_the_watch(&root, &entry, edit);
        let mut reader = handle.feed.read(Start::Snapshot);
        handle.watch.peer().ask(Watch { entry }).await.expect("it can be watched");
        let BuildOutcome::Built(first) = next(&mut reader).await else { panic!("it is good") };
        let BuildOutcome::Built(second) = next(&mut reader).await else { panic!("it is good") };
        assert!(fs::read_to_string(first.path).unwrap().contains("first"));
        assert!(fs::read_to_string(second.path).unwrap().contains("in between"));
    }

    #[actix_rt::test]
    async fn a_file_that_appears_between_the_first_build_and_the_first_watch_is_not_lost() {
        let (_dir, root, entry) = project();
        fs::write(entry.as_str(), "export * from './x';\n").unwrap();
        let file = root.join("src/midrun/x.ts");
        let edit = move || fs::write(file, "export const x = 'appeared';\n").unwrap();
        let handle = start_with_an_edit_before_the_watch(&root, &entry, edit);
        let mut reader = handle.feed.read(Start::Snapshot);
        handle.watch.peer().ask(Watch { entry }).await.expect("it can be watched");
        loop {
            // Whether the failure lasted long enough to be told is a matter of time.
            if let BuildOutcome::Built(artifact) = next(&mut reader).await {
                assert!(fs::read_to_string(artifact.path).unwrap().contains("appeared"));
                break;
            }
        }
    }

    #[actix_rt::test]
    async fn watching_that_fails_later_is_told_and_mends_by_itself() {
        let (_dir, root, entry) = project();
        let limit = Arc::new(AtomicUsize::new(3));
        let handle = start_limited(&root, &limit);
        let mut reader = handle.feed.read(Start::Snapshot);
        handle.watch.peer().ask(Watch { entry: entry.clone() }).await.expect("three folders are enough");
        assert!(matches!(next(&mut reader).await, BuildOutcome::Built(_)));

        fs::create_dir(root.join("lib")).unwrap();
        fs::write(root.join("lib/x.ts"), "export const x = 'lib';\n").unwrap();
        fs::write(entry.as_str(), "export * from '../../lib/x';\n").unwrap();
        let BuildOutcome::Built(first) = next(&mut reader).await else { panic!("it is good") };
        let BuildOutcome::Failed(failure) = next(&mut reader).await else { panic!("lib is not watched") };
        assert!(failure.message.contains("lib"), "{}", failure.message);

        limit.store(100, Ordering::Relaxed);
        let BuildOutcome::Built(again) = next(&mut reader).await else { panic!("it is mended") };
        assert_eq!(again, first);
        fs::write(root.join("lib/x.ts"), "export const x = 'watched';\n").unwrap();
        let BuildOutcome::Built(artifact) = next(&mut reader).await else { panic!("it is good") };
        assert!(fs::read_to_string(artifact.path).unwrap().contains("watched"));
    }
}
