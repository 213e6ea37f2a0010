//! Feeds: ordered streams of events with one writer each.
//!
//! What must hold: every event has a position `(epoch, seq)`, a new epoch for each start of the writer, `seq`
//! counted from 1 without gaps. A reader gets the events after its position, each once, in order; if some of them
//! are no longer kept, or its position is from another epoch, it gets the snapshot (the newest event of each key)
//! and goes on from there. The writer never waits for a reader and keeps at most `capacity` events.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use rand::Rng as _;
use tokio::sync::watch;
use wire::message::FeedEvent;

/// One life of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    fn fresh() -> Self {
        Self(format!("{:08x}", rand::rng().random::<u32>()).into())
    }
}

/// Where an event stands in its feed. Written `EPOCH-SEQ`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The writer's life.
    pub epoch: Epoch,
    /// Counted from 1.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.0, self.seq)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, seq) = text.split_once('-').ok_or(())?;
        let well_formed = epoch.len() == 8 && epoch.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !well_formed || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        Ok(Self { epoch: Epoch(epoch.into()), seq: seq.parse().map_err(|_| ())? })
    }
}

/// Where a reader wants to begin.
#[derive(Debug, Clone)]
pub enum Start {
    /// With the snapshot, then what follows.
    Snapshot,
    /// With what follows this position; with the snapshot if that is no longer known.
    After(Position),
}

/// An event as a reader gets it.
#[derive(Debug)]
pub struct Delivery<E> {
    /// Where it stands.
    pub at: Position,
    /// The event.
    pub event: Arc<E>,
    /// It is part of a snapshot: events before it may have been passed over.
    pub snapshot: bool,
}

struct Kept<E> {
    /// The newest events, oldest first; the last one is number `last`.
    ring: VecDeque<Arc<E>>,
    last: u64,
    /// The newest event of each key, oldest first.
    newest: Vec<(String, u64, Arc<E>)>,
}

impl<E> Kept<E> {
    fn get(&self, seq: u64) -> Option<Arc<E>> {
        let first = self.last - self.ring.len() as u64 + 1;
        self.ring.get(usize::try_from(seq.checked_sub(first)?).ok()?).cloned()
    }
}

struct Shared<E> {
    epoch: Epoch,
    capacity: usize,
    kept: RwLock<Kept<E>>,
    head: watch::Sender<u64>,
}

/// The one writer of a feed. The feed ends when it is dropped.
pub struct FeedWriter<E> {
    shared: Arc<Shared<E>>,
    /// Readers see this go and end.
    _alive: watch::Sender<()>,
    alive: watch::Receiver<()>,
}

/// The reading end of a feed; clones are cheap.
pub struct Feed<E> {
    shared: Arc<Shared<E>>,
    alive: watch::Receiver<()>,
}

impl<E> Clone for Feed<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), alive: self.alive.clone() }
    }
}

impl<E: FeedEvent> FeedWriter<E> {
    /// A new epoch. Keeps the newest `capacity` events for readers that are behind.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a feed keeps at least one event");
        let kept = Kept { ring: VecDeque::new(), last: 0, newest: Vec::new() };
        let (alive_sender, alive) = watch::channel(());
        let shared =
            Shared { epoch: Epoch::fresh(), capacity, kept: RwLock::new(kept), head: watch::Sender::new(0) };
        Self { shared: Arc::new(shared), _alive: alive_sender, alive }
    }

    /// Appends `event`; never waits.
    pub fn publish(&self, event: E) -> Position {
        let event = Arc::new(event);
        let mut kept = self.shared.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let seq = kept.last;
        if kept.ring.len() == self.shared.capacity {
            kept.ring.pop_front();
        }
        kept.ring.push_back(Arc::clone(&event));
        if let Some(key) = event.snapshot_key() {
            kept.newest.retain(|(known, _, _)| *known != key);
            kept.newest.push((key, seq, event));
        }
        drop(kept);
        self.shared.head.send_replace(seq);
        Position { epoch: self.shared.epoch.clone(), seq }
    }

    /// Takes the event with `key` out of the snapshot.
    pub fn forget(&self, key: &str) {
        let mut kept = self.shared.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.newest.retain(|(known, _, _)| known != key);
    }

    /// A reading end.
    pub fn feed(&self) -> Feed<E> {
        Feed { shared: Arc::clone(&self.shared), alive: self.alive.clone() }
    }
}

impl<E: FeedEvent> Feed<E> {
    /// A reader that begins at `start`.
    pub fn read(&self, start: Start) -> Reader<E> {
        let mut reader = Reader {
            shared: Arc::clone(&self.shared),
            alive: self.alive.clone(),
            head: self.shared.head.subscribe(),
            seen: 0,
            snapshot: VecDeque::new(),
        };
        match start {
            Start::After(at) if at.epoch == self.shared.epoch => {
                let last = self.shared.kept.read().unwrap_or_else(PoisonError::into_inner).last;
                reader.seen = at.seq.min(last);
            }
            Start::After(_) | Start::Snapshot => reader.resync(),
        }
        reader
    }
}

/// One reader's way through a feed.
pub struct Reader<E> {
    shared: Arc<Shared<E>>,
    alive: watch::Receiver<()>,
    head: watch::Receiver<u64>,
    seen: u64,
    snapshot: VecDeque<(u64, Arc<E>)>,
}

impl<E: FeedEvent> Reader<E> {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Delivery<E>> {
        loop {
            if let Some((seq, event)) = self.snapshot.pop_front() {
                return Some(self.delivery(seq, event, true));
            }
            let next = {
                let kept = self.shared.kept.read().unwrap_or_else(PoisonError::into_inner);
                if self.seen >= kept.last {
                    return None;
                }
                kept.get(self.seen + 1)
            };
            match next {
                Some(event) => {
                    self.seen += 1;
                    return Some(self.delivery(self.seen, event, false));
                }
                None => self.resync(),
            }
        }
    }

    /// The next event; waits for it without limit. Nothing: the writer is gone and everything was read.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery<E>> {
        loop {
            self.head.mark_unchanged();
            let ended = self.alive.has_changed().is_err();
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            if ended {
                return None;
            }
            tokio::select! {
                _ = self.head.changed() => {}
                _ = self.alive.changed() => {}
            }
        }
    }

    fn delivery(&self, seq: u64, event: Arc<E>, snapshot: bool) -> Delivery<E> {
        Delivery { at: Position { epoch: self.shared.epoch.clone(), seq }, event, snapshot }
    }

    fn resync(&mut self) {
        let kept = self.shared.kept.read().unwrap_or_else(PoisonError::into_inner);
        let unseen = kept.newest.iter().filter(|(_, seq, _)| *seq > self.seen);
        self.snapshot = unseen.map(|(_, seq, event)| (*seq, Arc::clone(event))).collect();
        self.seen = kept.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Beat {
        key: Option<String>,
        n: u64,
    }

    impl FeedEvent for Beat {
        const NAME: &'static str = "beats";

        fn snapshot_key(&self) -> Option<String> {
            self.key.clone()
        }
    }

    fn beat(n: u64) -> Beat {
        Beat { key: n.is_multiple_of(2).then(|| (n % 4).to_string()), n }
    }

    fn drain(reader: &mut Reader<Beat>) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| reader.try_next()).map(|got| (got.event.n, got.snapshot)).collect()
    }

    #[test]
    fn a_reader_far_behind_gets_the_snapshot_and_goes_on() {
        let writer = FeedWriter::new(2);
        let first = writer.publish(beat(1));
        for n in 2..=9 {
            writer.publish(beat(n));
        }
        let mut reader = writer.feed().read(Start::After(first));
        assert_eq!(drain(&mut reader), [(6, true), (8, true)]);
        writer.publish(beat(10));
        assert_eq!(drain(&mut reader), [(10, false)]);
    }

    #[test]
    fn another_epoch_is_answered_with_the_snapshot() {
        let old = FeedWriter::new(8).publish(beat(1));
        let writer = FeedWriter::new(8);
        writer.publish(beat(1));
        writer.publish(beat(2));
        assert_eq!(drain(&mut writer.feed().read(Start::After(old))), [(2, true)]);
    }

    #[test]
    fn a_position_reads_back_what_it_wrote() {
        let at = FeedWriter::new(1).publish(beat(1));
        assert_eq!(at.to_string().parse(), Ok(at));
        for text in ["", "x", "-", "abc-", "abc-x", "0123abcd--1", "0123abcd-+1", "0123abcd-"] {
            assert_eq!(text.parse::<Position>(), Err(()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_reader_wakes_for_an_event_and_for_the_end() {
        let writer = FeedWriter::<Beat>::new(4);
        let mut reader = writer.feed().read(Start::Snapshot);
        let task = tokio::spawn(async move {
            let got = reader.next().await.map(|got| got.event.n);
            (got, reader.next().await.is_none())
        });
        tokio::task::yield_now().await;
        writer.publish(beat(5));
        drop(writer);
        assert_eq!(task.await.expect("no panic"), (Some(5), true));
    }

    proptest! {
        /// Whatever a reader does, it never sees an event twice, out of order, or misses one while it keeps up.
        #[test]
        fn order_is_kept(capacity in 1_usize..6, steps in prop::collection::vec(any::<bool>(), 1..60)) {
            let writer = FeedWriter::new(capacity);
            let mut reader = writer.feed().read(Start::Snapshot);
            let (mut written, mut last, mut behind) = (0, 0, 0);
            for publish in steps {
                if publish {
                    written += 1;
                    behind += 1;
                    writer.publish(beat(written));
                } else if let Some(got) = reader.try_next() {
                    prop_assert!(got.event.n > last);
                    prop_assert!(got.snapshot || behind <= capacity || got.event.n > last);
                    if behind <= capacity && !got.snapshot {
                        prop_assert_eq!(got.event.n, last + 1);
                    }
                    last = got.event.n;
                    behind = usize::try_from(written - last).unwrap();
                    if got.snapshot {
                        for (n, _) in drain(&mut reader) {
                            prop_assert!(n > last);
                            last = n;
                        }
                        last = written;
                        behind = 0;
                    }
                }
            }
        }
    }
}
