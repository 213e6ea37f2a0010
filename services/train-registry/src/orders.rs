//! The builds of files that runs were started from by name, which nobody else orders.
//!
//! What must hold: an entry that is ordered is watched by each life of the build watcher, and asked for again until it
//! is; once it is given back, nobody watches it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use peer::Peer;
use supervise::Life;
use tokio::sync::watch;
use wire::build::{Unwatch, Watch};
use wire::{EntryPath, TraceContext};

/// How long the first build of an entry may take.
pub(crate) const FIRST_BUILD_LIMIT: Duration = Duration::from_secs(30);
/// How long until a watcher that did not take an order is asked again; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the build watcher last said to an order; nothing before it said anything.
type Said = Option<Result<(), String>>;

/// See the module.
pub(crate) struct Orders {
    life: Life,
    watcher: Watcher,
    entries: Rc<RefCell<HashMap<EntryPath, Entry>>>,
}

/// The build watcher, and word of each of its lives.
#[derive(Clone)]
struct Watcher {
    watch: Peer<Watch>,
    unwatch: Peer<Unwatch>,
    lives: watch::Receiver<Option<String>>,
}

/// One that is ordered, or being given back.
struct Entry {
    wanted: watch::Sender<Wanted>,
    says: watch::Sender<Said>,
}

/// What is to become of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    watched: bool,
    /// How often it was to be no longer watched, whatever comes after that.
    given_back: u64,
}

impl Orders {
    /// Nothing is ordered. Asks `watch`, of whose lives `lives` tells, for as long as `life` goes on.
    pub(crate) fn new(
        life: Life,
        watch: Peer<Watch>,
        unwatch: Peer<Unwatch>,
        lives: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { life, watcher: Watcher { watch, unwatch, lives }, entries: Rc::default() }
    }

    /// Whether `entry` is ordered.
    pub(crate) fn has(&self, entry: &EntryPath) -> bool {
        self.entries.borrow().get(entry).is_some_and(|entry| entry.wanted.borrow().watched)
    }

    /// Orders `entry`, if it is not ordered.
    pub(crate) fn place(&self, entry: &EntryPath) {
        self.want(entry, Wanted { watched: true, given_back: 0 });
    }

    /// Orders `entry`, if it is not ordered, and has it built even where an order of a registry before this one stands.
    pub(crate) fn place_anew(&self, entry: &EntryPath) {
        self.want(entry, Wanted { watched: true, given_back: 1 });
    }

    /// Nobody needs `entry` any more, whether it was ordered by this registry or one before it.
    pub(crate) fn give_back(&self, entry: &EntryPath) {
        self.want(entry, Wanted { watched: false, given_back: 1 });
    }

    /// `first` is for one that nothing is known of.
    fn want(&self, entry: &EntryPath, first: Wanted) {
        if let Some(known) = self.entries.borrow().get(entry) {
            let is_news = known.wanted.send_if_modified(|wanted| {
                let is_news = wanted.watched != first.watched;
                wanted.watched = first.watched;
                wanted.given_back += u64::from(is_news && !first.watched);
                is_news
            });
            if is_news {
                known.says.send_replace(None);
            }
            return;
        }
        let known = Entry { wanted: watch::Sender::new(first), says: watch::Sender::new(None) };
        let seeing =
            see_to(self.watcher.clone(), entry.clone(), known.wanted.subscribe(), known.says.clone());
        self.entries.borrow_mut().insert(entry.clone(), known);
        let (entries, entry) = (Rc::clone(&self.entries), entry.clone());
        self.life.spawn(async move {
            seeing.await;
            entries.borrow_mut().remove(&entry);
        });
    }

    /// What the build watcher first says to the order of `entry`.
    ///
    /// # Errors
    /// Why it is not watched, for a person.
    pub(crate) async fn taken(&self, entry: &EntryPath) -> Result<(), String> {
        let said = self.entries.borrow().get(entry).map(|entry| entry.says.subscribe());
        let gone = || Err("it was given back meanwhile; try again".to_owned());
        let Some(mut said) = said else { return gone() };
        let first = said.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
        first.unwrap_or_else(gone)
    }
}

/// Has `entry` watched while it is wanted and given back when it is not: one after the other, so that a late word for
/// one never undoes the other. Ends when it is not wanted and was given back.
async fn see_to(
    mut watcher: Watcher,
    entry: EntryPath,
    mut wanted: watch::Receiver<Wanted>,
    says: watch::Sender<Said>,
) {
    let (mut given_back, mut pause) = (0, PAUSE);
    loop {
        watcher.lives.mark_unchanged();
        let now = *wanted.borrow_and_update();
        if given_back != now.given_back {
            if let Err(error) = watcher.unwatch.ask(Unwatch { entry: entry.clone() }).await {
                tracing::debug!(%error, "a file that no run needs stays watched");
            }
            given_back = now.given_back;
            continue;
        }
        if !now.watched {
            return;
        }
        let order = Watch { entry: entry.clone() };
        let asked = watcher.watch.ask_within(order, TraceContext::default(), FIRST_BUILD_LIMIT).await;
        if wanted.has_changed().unwrap_or(false) {
            continue;
        }
        let said = asked.map_err(|error| error.to_string());
        if let Err(error) = &said {
            tracing::warn!(entry = entry.as_str(), error, "a file that a run is started from is not watched");
        }
        let limit = match said {
            Ok(()) => None,
            Err(_) => Some(pause),
        };
        pause = if said.is_ok() { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        says.send_replace(Some(said));
        tokio::select! {
            () = news(&mut watcher.lives) => {}
            () = news(&mut wanted) => {}
            () = tokio::time::sleep(limit.unwrap_or_default()), if limit.is_some() => {}
        }
    }
}

/// Comes true when `channel` changes, and never once nobody can change it. Cancel-safe.
pub(crate) async fn news<T>(channel: &mut watch::Receiver<T>) {
    if channel.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};
    use supervise::{Part, Policy};
    use wire::build::WatchRefusal;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A build watcher that says no as often as it is told to, and what it was asked.
    #[derive(Clone, Default)]
    struct Watcher {
        asked: watch::Sender<Vec<String>>,
        refuses: Arc<Mutex<u32>>,
    }

    impl Watcher {
        fn note(&self, what: &str, entry: &EntryPath) {
            self.asked.send_modify(|asked| asked.push(format!("{what} {entry}")));
        }

        async fn was_asked(&self, wanted: &[&str]) {
            let mut asked = self.asked.subscribe();
            let all = asked.wait_for(|asked| *asked == wanted);
            let timed_out = tokio::time::timeout(LIMIT, all).await.is_err();
            assert!(!timed_out, "{:?} instead of {wanted:?}", self.asked.borrow());
        }
    }

    struct Setting {
        orders: Rc<Orders>,
        watcher: Watcher,
        lives: watch::Sender<Option<String>>,
        _part: Part,
    }

    fn setting() -> Setting {
        let watcher = Watcher::default();
        let lives = watch::Sender::new(Some("first".to_owned()));
        let made = Rc::new(RefCell::new(None));
        let (keep, asked, alive) = (Rc::clone(&made), watcher.clone(), lives.subscribe());
        let life = move |life: &Life| {
            let (watching, unwatching) = (asked.clone(), asked.clone());
            let watch = Peer::fake(move |Watch { entry }| {
                watching.note("watch", &entry);
                let mut refuses = watching.refuses.lock().unwrap();
                if *refuses == 0 {
                    return Ok(());
                }
                *refuses -= 1;
                Err(WatchRefusal::CannotWatch { message: "no room".into() })
            });
            let unwatch = Peer::fake(move |Unwatch { entry }| {
                unwatching.note("unwatch", &entry);
                Ok(())
            });
            *keep.borrow_mut() = Some(Rc::new(Orders::new(life.clone(), watch, unwatch, alive.clone())));
            Ok(())
        };
        let part = Part::start("a-registry", Policy::default(), life).expect("it needs nothing");
        let orders = made.borrow_mut().take().expect("it has begun");
        Setting { orders, watcher, lives, _part: part }
    }

    #[actix_rt::test]
    async fn an_order_is_made_once_to_each_life_until_it_is_given_back() {
        let Setting { orders, watcher, lives, _part } = setting();
        let (a, b) = (EntryPath::from("a"), EntryPath::from("b"));
        orders.place(&a);
        orders.place(&a);
        orders.taken(&a).await.expect("it is taken");
        watcher.was_asked(&["watch a"]).await;
        lives.send_replace(Some("second".into()));
        watcher.was_asked(&["watch a", "watch a"]).await;
        orders.give_back(&a);
        watcher.was_asked(&["watch a", "watch a", "unwatch a"]).await;
        assert!(!orders.has(&a));
        lives.send_replace(Some("third".into()));
        orders.place(&b);
        watcher.was_asked(&["watch a", "watch a", "unwatch a", "watch b"]).await;
    }

    #[actix_rt::test]
    async fn an_order_that_is_refused_is_told_and_made_again() {
        let Setting { orders, watcher, lives: _lives, _part } = setting();
        *watcher.refuses.lock().unwrap() = 2;
        let entry = EntryPath::from("a");
        orders.place(&entry);
        assert_eq!(orders.taken(&entry).await, Err("no room".to_owned()));
        watcher.was_asked(&["watch a"; 3]).await;
        orders.give_back(&entry);
        assert!(orders.taken(&entry).await.is_err(), "nobody waits for what was given back");
    }

    #[actix_rt::test]
    async fn what_is_wanted_and_given_back_by_turns_is_asked_for_in_that_order() {
        let Setting { orders, watcher, lives: _lives, _part } = setting();
        let entry = EntryPath::from("a");
        orders.place(&entry);
        orders.taken(&entry).await.expect("it is taken");
        orders.give_back(&entry);
        orders.place(&entry);
        orders.taken(&entry).await.expect("it is taken again");
        watcher.was_asked(&["watch a", "unwatch a", "watch a"]).await;
        orders.give_back(&entry);
        orders.place_anew(&entry);
        orders.give_back(&entry);
        watcher.was_asked(&["watch a", "unwatch a", "watch a", "unwatch a"]).await;
        assert!(!orders.has(&entry));
    }

    #[actix_rt::test]
    async fn what_an_earlier_registry_ordered_is_built_anew_or_given_back() {
        let Setting { orders, watcher, lives: _lives, _part } = setting();
        let (a, b) = (EntryPath::from("a"), EntryPath::from("b"));
        orders.place_anew(&a);
        orders.taken(&a).await.expect("it is taken");
        watcher.was_asked(&["unwatch a", "watch a"]).await;
        orders.give_back(&b);
        watcher.was_asked(&["unwatch a", "watch a", "unwatch b"]).await;
    }
}
