//! Feeds: ordered streams of events with one writer each.
//!
//! What must hold: every event has a position `(epoch, seq)`, a new epoch for each start of the writer, `seq`
//! counted from 1 without gaps. A reader gets the events after its position, each once, in order; if some of them
//! are no longer kept, or its position is from another epoch, it gets the snapshot (the newest event of each key)
//! and goes on from there. The writer never waits for a reader and keeps at most `capacity` events.
//!
//! A [`Mirror`] writes what another process's writer wrote, under its positions: a reader that knows a position may
//! come back to either, or to a mirror that was started anew.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

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
    /// With everything that is still kept: what a snapshot has of the time before that, then each event.
    Oldest,
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
    epoch: Epoch,
    /// The newest events, oldest first; the last one is number `last`.
    ring: VecDeque<Arc<E>>,
    last: u64,
    /// The newest event of each key, oldest first.
    newest: Vec<(String, u64, Arc<E>)>,
    /// In a mirror: how far the feed was when it joined, which is where one begins who was here before.
    joined: Option<u64>,
}

impl<E: FeedEvent> Kept<E> {
    fn of(epoch: Epoch) -> Self {
        Self { epoch, ring: VecDeque::new(), last: 0, newest: Vec::new(), joined: None }
    }

    /// Whether a mirror has yet to be told what there was when it joined.
    fn is_behind(&self) -> bool {
        self.joined.is_some_and(|joined| self.last < joined)
    }

    /// The number of the oldest event in the ring, if there is one.
    fn first(&self) -> u64 {
        self.last - self.ring.len() as u64 + 1
    }

    fn get(&self, seq: u64) -> Option<Arc<E>> {
        self.ring.get(usize::try_from(seq.checked_sub(self.first())?).ok()?).cloned()
    }

    /// Takes in the event that follows the last one.
    fn push(&mut self, event: Arc<E>, capacity: usize) {
        self.last += 1;
        if self.ring.len() == capacity {
            self.ring.pop_front();
        }
        self.ring.push_back(Arc::clone(&event));
        self.remember(self.last, event);
    }

    fn remember(&mut self, seq: u64, event: Arc<E>) {
        if let Some(key) = event.snapshot_key() {
            self.newest.retain(|(known, _, _)| *known != key);
            self.newest.push((key, seq, event));
        }
    }
}

struct Shared<E> {
    capacity: usize,
    kept: RwLock<Kept<E>>,
    changed: watch::Sender<()>,
}

impl<E: FeedEvent> Shared<E> {
    fn new(capacity: usize) -> Arc<Self> {
        assert!(capacity > 0, "a feed keeps at least one event");
        let kept = RwLock::new(Kept::of(Epoch::fresh()));
        Arc::new(Self { capacity, kept, changed: watch::Sender::new(()) })
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept<E>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is kept, and wakes the readers.
    fn change<T>(&self, change: impl FnOnce(&mut Kept<E>) -> T) -> T {
        let changed = change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        changed
    }
}

/// The one writer of a feed. The feed ends when it and the seat that it came from are dropped.
pub struct FeedWriter<E> {
    seat: FeedSeat<E>,
    epoch: Epoch,
}

/// Where the writers of a feed come from, one after the other, each with an epoch of its own: what a part that may fail
/// keeps, so that its readers follow from one of its lives into the next.
pub struct FeedSeat<E> {
    shared: Arc<Shared<E>>,
    /// Readers see this go and end.
    _alive: Arc<watch::Sender<()>>,
    alive: watch::Receiver<()>,
}

impl<E> Clone for FeedSeat<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _alive: Arc::clone(&self._alive), alive: self.alive.clone() }
    }
}

impl<E: FeedEvent> FeedSeat<E> {
    /// A feed without a writer. Its writers keep the newest `capacity` events for readers that are behind.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        let (sender, alive) = watch::channel(());
        Self { shared: Shared::new(capacity), _alive: Arc::new(sender), alive }
    }

    /// The next writer. Nothing is kept of what the one before wrote, which writes no more.
    pub fn writer(&self) -> FeedWriter<E> {
        let epoch = Epoch::fresh();
        self.shared.change(|kept| *kept = Kept::of(epoch.clone()));
        FeedWriter { seat: self.clone(), epoch }
    }

    /// A reading end.
    pub fn feed(&self) -> Feed<E> {
        Feed { shared: Arc::clone(&self.shared), alive: self.alive.clone() }
    }
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
        FeedSeat::new(capacity).writer()
    }

    /// Appends `event`; never waits. Nobody reads what is written after the next writer took the seat.
    pub fn publish(&self, event: E) -> Position {
        let (event, shared) = (Arc::new(event), &self.seat.shared);
        shared.change(|kept| {
            if kept.epoch == self.epoch {
                kept.push(event, shared.capacity);
            }
            Position { epoch: self.epoch.clone(), seq: kept.last }
        })
    }

    /// Takes the event with `key` out of the snapshot.
    pub fn forget(&self, key: &str) {
        self.seat.shared.change(|kept| {
            if kept.epoch == self.epoch {
                kept.newest.retain(|(known, _, _)| known != key);
            }
        });
    }

    /// A reading end.
    pub fn feed(&self) -> Feed<E> {
        self.seat.feed()
    }
}

/// Writes a feed as another process's writer does: what it is told of keeps its position.
pub struct Mirror<E> {
    seat: FeedSeat<E>,
}

impl<E: FeedEvent> Mirror<E> {
    /// Of a feed of which nothing is known yet. Keeps the newest `capacity` events for readers that are behind.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        Self { seat: FeedSeat::new(capacity) }
    }

    /// The mirrored feed is at `now`, and what is there is told next. To one who reads here and knows nothing of it, what
    /// follows is news, and the rest is not.
    pub fn join(&self, now: &Position) {
        self.seat.shared.change(|kept| {
            if kept.epoch != now.epoch {
                *kept = Kept { joined: Some(now.seq), ..Kept::of(now.epoch.clone()) };
            }
        });
    }

    /// The next event of the mirrored feed, or one of its snapshot.
    pub fn adopt(&self, at: &Position, event: E, snapshot: bool) {
        let (event, capacity) = (Arc::new(event), self.seat.shared.capacity);
        self.seat.shared.change(|kept| {
            if kept.epoch != at.epoch {
                *kept = Kept::of(at.epoch.clone());
            }
            if at.seq <= kept.last {
                return;
            }
            if !snapshot && at.seq == kept.last + 1 {
                kept.push(event, capacity);
                return;
            }
            // What lies between is not known here: who has not read it gets the snapshot.
            kept.ring.clear();
            if snapshot {
                kept.last = at.seq;
                kept.remember(at.seq, event);
            } else {
                kept.last = at.seq - 1;
                kept.push(event, capacity);
            }
        });
    }

    /// How far the mirrored feed is known; nothing while nothing of it is.
    pub fn position(&self) -> Option<Position> {
        let kept = self.seat.shared.kept();
        (kept.last > 0).then(|| Position { epoch: kept.epoch.clone(), seq: kept.last })
    }

    /// A reading end.
    pub fn feed(&self) -> Feed<E> {
        self.seat.feed()
    }
}

impl<E: FeedEvent> Feed<E> {
    /// The newest event's position; its `seq` is 0 where there is none.
    pub fn now(&self) -> Position {
        let kept = self.shared.kept();
        Position { epoch: kept.epoch.clone(), seq: kept.last }
    }

    /// Whether `at` is a position of the writer's present life.
    pub fn is_in(&self, at: &Position) -> bool {
        self.shared.kept().epoch == at.epoch
    }

    /// A reader that begins at `start`.
    pub fn read(&self, start: Start) -> Reader<E> {
        let kept = self.shared.kept();
        let mut reader = Reader {
            shared: Arc::clone(&self.shared),
            alive: self.alive.clone(),
            changed: self.shared.changed.subscribe(),
            epoch: kept.epoch.clone(),
            seen: 0,
            snapshot: VecDeque::new(),
            wanted: None,
        };
        match start {
            Start::After(at) if at.epoch == kept.epoch => reader.seen = at.seq,
            // It begins when all is there, as one that comes to an epoch of which it knows nothing.
            Start::Snapshot if kept.is_behind() => reader.epoch = Epoch::fresh(),
            Start::After(at) => {
                reader.wanted = Some(at);
                reader.resync(&kept);
            }
            Start::Snapshot => reader.resync(&kept),
            Start::Oldest => reader.go_back(&kept),
        }
        reader
    }
}

/// One reader's way through a feed.
pub struct Reader<E> {
    shared: Arc<Shared<E>>,
    alive: watch::Receiver<()>,
    changed: watch::Receiver<()>,
    epoch: Epoch,
    seen: u64,
    snapshot: VecDeque<(u64, Arc<E>)>,
    /// Where it wanted to go on, in an epoch that a mirror may yet learn of.
    wanted: Option<Position>,
}

impl<E: FeedEvent> Reader<E> {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Delivery<E>> {
        let shared = Arc::clone(&self.shared);
        let kept = shared.kept();
        loop {
            let is_new = self.seen == 0 && self.wanted.is_none();
            if kept.epoch != self.epoch && is_new && kept.is_behind() {
                return None;
            }
            if kept.epoch != self.epoch {
                self.epoch = kept.epoch.clone();
                self.snapshot.clear();
                let followed = std::mem::take(&mut self.seen) > 0;
                match self.wanted.take().filter(|wanted| wanted.epoch == kept.epoch) {
                    Some(wanted) => self.seen = wanted.seq,
                    // To one that followed, all that the writer did in its new life is news.
                    None if followed => self.go_back(&kept),
                    None => self.begin(&kept),
                }
            }
            if let Some((seq, event)) = self.snapshot.pop_front() {
                return Some(self.delivery(seq, event, true));
            }
            if self.seen >= kept.last {
                return None;
            }
            match kept.get(self.seen + 1) {
                Some(event) => {
                    self.seen += 1;
                    return Some(self.delivery(self.seen, event, false));
                }
                None => self.resync(&kept),
            }
        }
    }

    /// The next event; waits for it without limit. Nothing: the writer is gone and everything was read.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery<E>> {
        loop {
            self.changed.mark_unchanged();
            let ended = self.alive.has_changed().is_err();
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            if ended {
                return None;
            }
            tokio::select! {
                _ = self.changed.changed() => {}
                _ = self.alive.changed() => {}
            }
        }
    }

    fn delivery(&self, seq: u64, event: Arc<E>, snapshot: bool) -> Delivery<E> {
        Delivery { at: Position { epoch: self.epoch.clone(), seq }, event, snapshot }
    }

    /// Begins with the snapshot: in a mirror with that of the moment when it joined.
    fn begin(&mut self, kept: &Kept<E>) {
        let Some(joined) = kept.joined else { return self.resync(kept) };
        let before = kept.newest.iter().filter(|(_, seq, _)| *seq <= joined);
        self.snapshot = before.map(|(_, seq, event)| (*seq, Arc::clone(event))).collect();
        self.seen = joined;
    }

    /// Goes on with the snapshot, as far as it is news.
    fn resync(&mut self, kept: &Kept<E>) {
        let unseen = kept.newest.iter().filter(|(_, seq, _)| *seq > self.seen);
        self.snapshot = unseen.map(|(_, seq, event)| (*seq, Arc::clone(event))).collect();
        self.seen = kept.last;
    }

    /// Goes on with everything that is kept.
    fn go_back(&mut self, kept: &Kept<E>) {
        let before = kept.newest.iter().filter(|(_, seq, _)| *seq < kept.first());
        self.snapshot = before.map(|(_, seq, event)| (*seq, Arc::clone(event))).collect();
        self.seen = kept.first() - 1;
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

    /// What `reader` finds, told to `mirror`.
    fn pass_on(reader: &mut Reader<Beat>, mirror: &Mirror<Beat>) {
        while let Some(got) = reader.try_next() {
            mirror.adopt(&got.at, (*got.event).clone(), got.snapshot);
        }
    }

    #[test]
    fn a_mirror_gives_what_its_feed_gives_under_the_same_positions() {
        let (writer, mirror) = (FeedWriter::new(4), Mirror::new(4));
        let mut early = mirror.feed().read(Start::Snapshot);
        let second = [1, 2].map(|n| writer.publish(beat(n)))[1].clone();
        pass_on(&mut writer.feed().read(Start::Oldest), &mirror);
        assert_eq!(mirror.position(), Some(second.clone()));
        assert_eq!(drain(&mut early), [(2, true)], "as a new reader of the feed itself");
        writer.publish(beat(3));
        pass_on(&mut writer.feed().read(Start::After(second.clone())), &mirror);
        assert_eq!(drain(&mut early), [(3, false)]);
        assert_eq!(drain(&mut mirror.feed().read(Start::After(second))), [(3, false)]);
    }

    #[test]
    fn one_who_read_a_mirror_before_it_joined_is_told_what_came_since() {
        let (writer, mirror) = (FeedWriter::new(8), Mirror::new(8));
        let mut early = mirror.feed().read(Start::Snapshot);
        (1..=3).for_each(|n| drop(writer.publish(beat(n))));
        let now = writer.feed().now();
        mirror.join(&now);
        let mut reader = writer.feed().read(Start::Oldest);
        let first = reader.try_next().expect("there are three");
        mirror.adopt(&first.at, (*first.event).clone(), first.snapshot);
        let mut between = mirror.feed().read(Start::Snapshot);
        assert_eq!(drain(&mut early), [], "nobody knows yet what is newest");
        // Two that have no key, before anybody looks.
        [5, 7].into_iter().for_each(|n| drop(writer.publish(beat(n))));
        pass_on(&mut reader, &mirror);
        assert_eq!(drain(&mut early), [(2, true), (5, false), (7, false)]);
        assert_eq!(drain(&mut between), [(2, true), (5, false), (7, false)]);
        mirror.join(&now);
        assert_eq!(mirror.position().map(|at| at.seq), Some(5), "it joined that life before");
        let empty = FeedWriter::new(8);
        mirror.join(&empty.feed().now());
        empty.publish(beat(9));
        pass_on(&mut empty.feed().read(Start::Oldest), &mirror);
        assert_eq!(drain(&mut early), [(9, false)]);
    }

    #[test]
    fn a_reader_comes_back_to_a_mirror_that_was_started_anew_and_misses_nothing() {
        let writer = FeedWriter::new(4);
        let seen = [1, 2, 3].map(|n| writer.publish(beat(n)))[2].clone();
        writer.publish(beat(4));
        let mirror = Mirror::new(4);
        let mut reader = mirror.feed().read(Start::After(seen));
        assert_eq!(drain(&mut reader), []);
        pass_on(&mut writer.feed().read(Start::Oldest), &mirror);
        assert_eq!(drain(&mut reader), [(4, false)]);
    }

    #[test]
    fn a_mirror_follows_its_feed_into_another_epoch_and_over_a_gap() {
        let mirror = Mirror::new(8);
        let mut reader = mirror.feed().read(Start::Snapshot);
        let old = FeedWriter::new(8);
        (1..=3).for_each(|n| drop(old.publish(beat(n))));
        pass_on(&mut old.feed().read(Start::Oldest), &mirror);
        assert_eq!(drain(&mut reader), [(2, true)], "it is new");
        let new = FeedWriter::new(2);
        (5..=6).for_each(|n| drop(new.publish(beat(n))));
        let mut follower = new.feed().read(Start::Oldest);
        pass_on(&mut follower, &mirror);
        assert_eq!(drain(&mut reader), [(5, false), (6, false)], "it followed, so this is all news");
        (7..=12).for_each(|n| drop(new.publish(beat(n))));
        pass_on(&mut follower, &mirror);
        assert_eq!(drain(&mut reader), [(10, true), (12, true)], "the newest of each key");
        new.publish(beat(13));
        pass_on(&mut follower, &mirror);
        assert_eq!(drain(&mut reader), [(13, false)]);
    }

    #[test]
    fn readers_follow_from_one_writer_into_the_next_and_hear_no_more_of_the_old_one() {
        let seat = FeedSeat::new(4);
        let old = seat.writer();
        let mut reader = seat.feed().read(Start::Snapshot);
        let before = old.publish(beat(1));
        assert_eq!(drain(&mut reader), [(1, false)]);
        let new = seat.writer();
        old.publish(beat(2));
        old.forget("0");
        assert_eq!(drain(&mut reader), []);
        let after = new.publish(beat(3));
        assert_eq!(drain(&mut reader), [(3, false)]);
        assert!(after.epoch != before.epoch && after.seq == 1);
        drop((old, new));
        assert!(reader.try_next().is_none() && !seat.feed().is_in(&before));
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
