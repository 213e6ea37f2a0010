//! Everything that is wrong, in one place: with the parts of this process, with the way to the others, and with what those
//! say of themselves.
//!
//! What must hold: each service stands there once, with the oldest word about it; whoever looks later than something was
//! added sees it too.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use peer::{Backlog, Feed, FeedWriter, Followed, Remote};
use tokio::sync::watch;
use wire::{Trouble, Troubles};

use crate::console::Console;

/// How long something must be wrong before the console says so.
const STAYS: Duration = Duration::from_secs(3);

/// Where everything that is wrong stands together; clones are the same one.
#[derive(Clone)]
pub(crate) struct Board {
    inner: Rc<Inner>,
}

struct Inner {
    tell: watch::Sender<Troubles>,
    /// By source.
    said: RefCell<Vec<Vec<Trouble>>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let tell = watch::Sender::new(Troubles::default());
        Self { inner: Rc::new(Inner { tell, said: RefCell::default() }) }
    }

    /// What stands there.
    pub(crate) fn watch(&self) -> watch::Receiver<Troubles> {
        self.inner.tell.subscribe()
    }

    /// Adds what `source` says, for as long as that is there.
    pub(crate) fn follow(&self, source: watch::Receiver<Option<Trouble>>) {
        self.follow_as(source, |trouble| trouble.iter().cloned().collect());
    }

    /// Adds what `source` says of several.
    pub(crate) fn follow_all(&self, source: watch::Receiver<Troubles>) {
        self.follow_as(source, |troubles| troubles.list.clone());
    }

    /// Adds that `remote` cannot be reached, and what it says itself: of services that are neither `here` nor reached
    /// from here in another way, which are better known here.
    pub(crate) fn follow_remote(&self, remote: &Remote, known_here: Vec<&'static str>) {
        self.follow(remote.trouble());
        let (tell, told) = watch::channel(Troubles::default());
        self.follow_all(told);
        let (name, mut trouble) = (remote.name(), remote.trouble());
        let followed = Followed::new(remote.clone(), Backlog::Newest, 1, async |troubles: Troubles| troubles);
        actix::spawn(async move {
            let mut reader = followed.feed().read(peer::Start::Snapshot);
            let mut newest = Troubles::default();
            loop {
                // What one says that cannot be reached is out of date.
                let mut list = match trouble.borrow_and_update().is_some() {
                    true => Vec::new(),
                    false => newest.list.clone(),
                };
                list.retain(|trouble| trouble.service == name || !known_here.contains(&&*trouble.service));
                tell.send_replace(Troubles { list });
                tokio::select! {
                    delivery = reader.next() => match delivery {
                        Some(delivery) => newest = (*delivery.event).clone(),
                        None => return,
                    },
                    changed = trouble.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    /// What stands there, for other processes.
    pub(crate) fn feed(&self) -> Feed<Troubles> {
        let (writer, mut troubles) = (FeedWriter::new(1), self.watch());
        let feed = writer.feed();
        actix::spawn(async move {
            loop {
                let now = troubles.borrow_and_update().clone();
                writer.publish(now);
                if troubles.changed().await.is_err() {
                    return;
                }
            }
        });
        feed
    }

    fn follow_as<T: 'static>(
        &self,
        mut source: watch::Receiver<T>,
        words: impl Fn(&T) -> Vec<Trouble> + 'static,
    ) {
        let say = self.place();
        actix::spawn(async move {
            loop {
                say(words(&source.borrow_and_update()));
                if source.changed().await.is_err() {
                    return say(Vec::new());
                }
            }
        });
    }

    /// A place for what somebody says is wrong; it stands there when the call returns.
    pub(crate) fn place(&self) -> impl Fn(Vec<Trouble>) + 'static {
        let board = Rc::clone(&self.inner);
        let place = board.said.borrow().len();
        board.said.borrow_mut().push(Vec::new());
        move |now| board.say(place, now)
    }
}

/// Says on the console when something stays wrong, and when all is well again. Of `but` somebody else speaks there.
pub(crate) async fn say(mut troubles: watch::Receiver<Troubles>, console: Console, but: &str) {
    let concern = |troubles: &Troubles| {
        let list = troubles.list.iter().filter(|trouble| trouble.service != but).cloned().collect();
        Troubles { list }
    };
    let mut said = Troubles::default();
    loop {
        let now = concern(&troubles.borrow_and_update());
        let same = |one: &Troubles, other: &Troubles| {
            one.list
                .iter()
                .map(|trouble| &trouble.service)
                .eq(other.list.iter().map(|trouble| &trouble.service))
        };
        if now.list.is_empty() && !said.list.is_empty() {
            console.warn("every service does its work again");
            said = now;
        } else if !same(&now, &said) {
            // One that is being started again is back in a moment.
            let other = troubles.wait_for(|later| !same(&concern(later), &now));
            let stayed = tokio::time::timeout(STAYS, other).await.map(drop).is_err();
            if stayed {
                said = concern(&troubles.borrow());
                console.warn(&said.to_string());
            }
            continue;
        }
        if troubles.changed().await.is_err() {
            return;
        }
    }
}

impl Inner {
    fn say(&self, place: usize, words: Vec<Trouble>) {
        self.said.borrow_mut()[place] = words;
        let mut all: Vec<Trouble> = self.said.borrow().iter().flatten().cloned().collect();
        all.sort_by(|one, other| (&one.service, &one.since).cmp(&(&other.service, &other.since)));
        all.dedup_by(|later, earlier| later.service == earlier.service);
        let now = Troubles { list: all };
        self.tell.send_if_modified(|known| {
            let is_news = *known != now;
            *known = now;
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn each_service_stands_there_once_for_as_long_as_somebody_says_so() {
        let board = Board::new();
        let (own, others) = (watch::Sender::new(None), watch::Sender::new(Troubles::default()));
        board.follow(own.subscribe());
        board.follow_all(others.subscribe());
        let mut seen = board.watch();
        own.send_replace(Some(Trouble::now("train-registry", "one")));
        let one = seen.wait_for(|seen| seen.list.len() == 1).await.unwrap().clone();
        let list = vec![Trouble::now("build-watcher", "two"), Trouble::now("train-registry", "three")];
        others.send_replace(Troubles { list });
        let both = seen.wait_for(|seen| seen.list.len() == 2).await.unwrap().clone();
        assert!(both.list.contains(&one.list[0]), "the oldest word stays: {both}");
        drop(others);
        seen.wait_for(|seen| *seen == one).await.unwrap();
        own.send_replace(None);
        seen.wait_for(|seen| seen.list.is_empty()).await.unwrap();
    }
}
