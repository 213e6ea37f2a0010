//! The builds of files that runs were started from by name, which nobody else orders.
//!
//! What must hold: an entry that is ordered is watched by each life of the build watcher, and asked for again until it
//! is; once it is given back, nobody watches it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use peer::Peer;
use supervise::Life;
use tokio::sync::{oneshot, watch};
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
    watch: Peer<Watch>,
    unwatch: Peer<Unwatch>,
    lives: watch::Receiver<Option<String>>,
    ordered: RefCell<HashMap<EntryPath, Order>>,
}

struct Order {
    said: watch::Receiver<Said>,
    /// Ends the asking when it is dropped.
    _wanted: oneshot::Sender<()>,
}

impl Orders {
    /// Nothing is ordered. Asks `watch`, of whose lives `lives` tells, for as long as `life` goes on.
    pub(crate) fn new(
        life: Life,
        watch: Peer<Watch>,
        unwatch: Peer<Unwatch>,
        lives: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { life, watch, unwatch, lives, ordered: RefCell::default() }
    }

    /// Whether `entry` is ordered.
    pub(crate) fn has(&self, entry: &EntryPath) -> bool {
        self.ordered.borrow().contains_key(entry)
    }

    /// Orders `entry`, if it is not ordered.
    pub(crate) fn place(&self, entry: &EntryPath) {
        if self.has(entry) {
            return;
        }
        let (says, said) = watch::channel(None);
        let (wanted, given_back) = oneshot::channel::<()>();
        let asking = keep_asking(self.watch.clone(), self.lives.clone(), entry.clone(), says);
        self.life.spawn(async move {
            tokio::select! {
                () = asking => {}
                _ = given_back => {}
            }
        });
        self.ordered.borrow_mut().insert(entry.clone(), Order { said, _wanted: wanted });
    }

    /// What the build watcher first says to the order of `entry`.
    ///
    /// # Errors
    /// Why it is not watched, for a person.
    pub(crate) async fn taken(&self, entry: &EntryPath) -> Result<(), String> {
        let said = self.ordered.borrow().get(entry).map(|order| order.said.clone());
        let gone = || Err("it was given back meanwhile; try again".to_owned());
        let Some(mut said) = said else { return gone() };
        let first = said.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
        first.unwrap_or_else(gone)
    }

    /// Nobody needs `entry` any more, whether it was ordered by this registry or one before it.
    pub(crate) fn give_back(&self, entry: EntryPath) {
        self.ordered.borrow_mut().remove(&entry);
        let peer = self.unwatch.clone();
        self.life.spawn(async move {
            if let Err(error) = peer.ask(Unwatch { entry }).await {
                tracing::debug!(%error, "a file that no run needs stays watched");
            }
        });
    }
}

async fn keep_asking(
    peer: Peer<Watch>,
    mut lives: watch::Receiver<Option<String>>,
    entry: EntryPath,
    says: watch::Sender<Said>,
) {
    let mut pause = PAUSE;
    loop {
        lives.mark_unchanged();
        let order = Watch { entry: entry.clone() };
        let asked = peer.ask_within(order, TraceContext::default(), FIRST_BUILD_LIMIT).await;
        let said = asked.map_err(|error| error.to_string());
        if let Err(error) = &said {
            tracing::warn!(entry = entry.as_str(), error, "a file that a run is started from is not watched");
        }
        let is_taken = said.is_ok();
        says.send_replace(Some(said));
        if is_taken {
            pause = PAUSE;
            if lives.changed().await.is_err() {
                return;
            }
        } else {
            let _ = tokio::time::timeout(pause, lives.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
        orders.give_back(a.clone());
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
        orders.give_back(entry.clone());
        assert!(orders.taken(&entry).await.is_err(), "nobody waits for what was given back");
    }
}
