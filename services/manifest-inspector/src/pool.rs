//! Which worker evaluates what, and when a worker is replaced: a pure function of what happened and the time.
//!
//! What must hold:
//!
//! - every request is answered once, unless a newer one of the same entry takes its place; then it is dropped;
//! - nobody waits for code that nobody wants any more: a worker that still evaluates such code is replaced, and what
//!   it has not begun goes to its successor as soon as that is ready;
//! - an artifact that ends its worker's process is tried once more in a fresh one before it is blamed;
//! - there is one worker, and another one only while it takes over.
//!
//! One worker is enough, because evaluations that wait do not hinder one another; only code that computes without end
//! does, and it can only be ended with its process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::node::UnfitNode;
use crate::protocol::{Facts, Reply, Thrown};

/// A worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) u64);

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Start a process; say [`Pool::said`] for what it says and [`Pool::ended`] when it ended.
    Start(WorkerId),
    /// End a process; [`Pool::ended`] is expected all the same.
    Kill(WorkerId),
    /// Have `path` evaluated.
    Send { to: WorkerId, request: u64, path: String },
    /// A request came to this.
    Answer { request: u64, outcome: Outcome },
    /// An artifact that was evaluated earlier goes on doing harm.
    Complain(String),
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The facts.
    Told(Facts),
    /// User code threw.
    Threw(Thrown),
    /// There are no facts, for this reason.
    Failed(String),
}

/// When workers are given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long an evaluation may take.
    pub(crate) evaluation: Duration,
    /// How long a process may take to be ready.
    pub(crate) start: Duration,
    /// Evaluations after which a worker is replaced.
    pub(crate) evaluations: u32,
    /// Bytes by which a worker may grow after its first evaluation.
    pub(crate) growth: u64,
    /// How long nothing must be asked before a worker is replaced for its age: that needs a processor too.
    pub(crate) pause: Duration,
    /// Evaluations after which a worker is replaced as soon as nobody seems to be saving any more: what they left
    /// cannot be unloaded, and most of a day nobody saves anything.
    pub(crate) worn: u32,
    /// How long nothing must be asked until then.
    pub(crate) rest: Duration,
}

/// Workers at the same time: the current one, its successor, and two that finish what they have begun.
const MOST_WORKERS: usize = 4;

/// How long code that nobody wants any more may take to come to its end before its worker is given up.
const GRACE: Duration = Duration::from_millis(50);

/// How long after a successor that did not start another one is tried.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Worker {
    /// Nothing until it is ready.
    ready: bool,
    started: Instant,
    /// Requests that it evaluates, also those that nobody wants any more, and since when it has them.
    evaluating: BTreeMap<u64, Instant>,
    evaluations: u32,
    asked_last: Instant,
    /// Resident memory after the first evaluation, and now.
    first_rss: Option<u64>,
    rss: u64,
    /// It gets no more requests.
    leaving: bool,
}

#[derive(Debug)]
struct Asked {
    entry: String,
    path: String,
    place: Place,
    /// It was sent to a worker that ended.
    tried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No worker is ready.
    Waiting,
    /// At a worker that may not have begun it.
    Sent { to: WorkerId, until: Instant },
    /// Being evaluated.
    Begun { by: WorkerId, until: Instant },
}

impl Place {
    const fn worker(self) -> Option<WorkerId> {
        match self {
            Self::Waiting => None,
            Self::Sent { to, .. } => Some(to),
            Self::Begun { by, .. } => Some(by),
        }
    }

    const fn until(self) -> Option<Instant> {
        match self {
            Self::Waiting => None,
            Self::Sent { until, .. } | Self::Begun { until, .. } => Some(until),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    limits: Limits,
    workers: BTreeMap<WorkerId, Worker>,
    current: Option<WorkerId>,
    successor: Option<WorkerId>,
    asked: BTreeMap<u64, Asked>,
    next_worker: u64,
    /// The last successor did not start: another one is not tried before this.
    no_successor_before: Option<Instant>,
    acts: Vec<Act>,
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            workers: BTreeMap::new(),
            current: None,
            successor: None,
            asked: BTreeMap::new(),
            next_worker: 1,
            no_successor_before: None,
            acts: Vec::new(),
        }
    }

    /// What has to be done because of the calls since the last time.
    pub(crate) fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// Has a worker ready before the first request.
    pub(crate) fn warm_up(&mut self, now: Instant) {
        if self.current.is_none() {
            self.current = Some(self.start(now));
        }
    }

    /// Evaluate the artifact at `path` as `request`, which is greater than every earlier one.
    pub(crate) fn ask(&mut self, now: Instant, request: u64, entry: &str, path: &str) {
        self.asked.retain(|_, asked| asked.entry != entry);
        let asked =
            Asked { entry: entry.to_owned(), path: path.to_owned(), place: Place::Waiting, tried: false };
        self.asked.insert(request, asked);
        self.warm_up(now);
        self.send_waiting(now);
        self.review(now);
    }

    /// Nobody wants to know about `entry` any more.
    pub(crate) fn forget(&mut self, now: Instant, entry: &str) {
        self.asked.retain(|_, asked| asked.entry != entry);
        self.review(now);
    }

    /// A worker said something.
    pub(crate) fn said(&mut self, now: Instant, worker: WorkerId, reply: Reply) {
        if !self.workers.contains_key(&worker) {
            return;
        }
        match reply {
            Reply::Hello { node, .. } => self.ready(now, worker, &node),
            Reply::Started { id, .. } => self.begun(now, id, worker),
            Reply::Told { id, facts, rss_bytes } => {
                self.evaluated(worker, id, rss_bytes, Outcome::Told(facts))
            }
            Reply::Threw { id, error, rss_bytes } => {
                self.evaluated(worker, id, rss_bytes, Outcome::Threw(error))
            }
            Reply::Stray { stray } => {
                let complaint = format!(
                    "{}: {}, thrown after the trainer was imported; a run would end by it",
                    stray.name, stray.message
                );
                self.acts.push(Act::Complain(complaint));
            }
            Reply::Exit { id, exit } => {
                let why = format!("the trainer called process.exit({exit}) while it was imported");
                let blamed = id.into_iter().collect();
                self.lose(now, worker, &blamed, &why);
            }
        }
        self.review(now);
    }

    /// A worker's process is gone, or could not be started. `why` is for a person.
    pub(crate) fn ended(&mut self, now: Instant, worker: WorkerId, why: &str) {
        let Some(gone) = self.workers.get(&worker) else { return };
        if gone.ready {
            let blamed = gone.evaluating.keys().copied().collect();
            self.lose(now, worker, &blamed, &format!("the process that imported the trainer {why}"));
        } else {
            self.fail_to_start(now, worker, why);
        }
        self.review(now);
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.place.until().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for request in late {
            self.asked.remove(&request);
            let seconds = self.limits.evaluation.as_secs_f64();
            let why = format!(
                "importing the trainer took more than {seconds} s: a top-level await may be waiting for something \
                 that never comes"
            );
            self.answer(request, Outcome::Failed(why));
        }
        let slow = |worker: &Worker| !worker.ready && worker.started + self.limits.start <= now;
        let stuck: Vec<WorkerId> =
            self.workers.iter().filter(|(_, worker)| slow(worker)).map(|(id, _)| *id).collect();
        for worker in stuck {
            self.acts.push(Act::Kill(worker));
            let seconds = self.limits.start.as_secs_f64();
            self.fail_to_start(now, worker, &format!("did not start within {seconds} s"));
        }
        self.review(now);
    }

    /// When [`Pool::tick`] has something to do, if nothing else happens.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let asked = self.asked.values().filter_map(|asked| asked.place.until());
        let starting = self
            .workers
            .values()
            .filter(|worker| !worker.ready)
            .map(|worker| worker.started + self.limits.start);
        let successor = self.successor_is_due().filter(|_| self.workers.len() < MOST_WORKERS);
        asked.chain(starting).chain(successor).min()
    }

    /// Ends every worker. The pool is of no use afterwards.
    pub(crate) fn close(&mut self) {
        self.acts.extend(self.workers.keys().map(|worker| Act::Kill(*worker)));
        self.workers.clear();
        self.asked.clear();
        (self.current, self.successor) = (None, None);
    }

    fn start(&mut self, now: Instant) -> WorkerId {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = Worker {
            ready: false,
            started: now,
            evaluating: BTreeMap::new(),
            evaluations: 0,
            asked_last: now,
            first_rss: None,
            rss: 0,
            leaving: false,
        };
        self.workers.insert(id, worker);
        self.acts.push(Act::Start(id));
        id
    }

    fn ready(&mut self, now: Instant, id: WorkerId, version: &str) {
        if let Some(unfit) = UnfitNode::too_old(version) {
            self.acts.push(Act::Kill(id));
            return self.fail_to_start(now, id, &unfit.words());
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.ready = true;
        }
        if self.successor == Some(id) {
            self.hand_over(id);
        }
        self.send_waiting(now);
    }

    /// The successor takes the current worker's place, and what that has not begun.
    fn hand_over(&mut self, successor: WorkerId) {
        self.successor = None;
        let Some(old) = self.current.replace(successor) else { return };
        for asked in self.asked.values_mut() {
            if matches!(asked.place, Place::Sent { to, .. } if to == old) {
                asked.place = Place::Waiting;
            }
        }
        if let Some(worker) = self.workers.get_mut(&old) {
            worker.leaving = true;
        }
    }

    fn send_waiting(&mut self, now: Instant) {
        let Some(to) = self.current else { return };
        let Some(worker) = self.workers.get_mut(&to).filter(|worker| worker.ready) else { return };
        let until = now + self.limits.evaluation;
        // It may have to wait for code that is given up, and for the successor.
        let later = until + self.limits.start;
        for (&request, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.place == Place::Waiting) {
            asked.place = if worker.evaluating.is_empty() {
                Place::Begun { by: to, until }
            } else {
                Place::Sent { to, until: later }
            };
            worker.evaluating.insert(request, now);
            worker.evaluations += 1;
            worker.asked_last = now;
            self.acts.push(Act::Send { to, request, path: asked.path.clone() });
        }
    }

    fn begun(&mut self, now: Instant, request: u64, by: WorkerId) {
        if let Some(asked) = self.asked.get_mut(&request)
            && matches!(asked.place, Place::Sent { to, .. } if to == by)
        {
            asked.place = Place::Begun { by, until: now + self.limits.evaluation };
        }
    }

    fn evaluated(&mut self, by: WorkerId, request: u64, rss: u64, outcome: Outcome) {
        if let Some(worker) = self.workers.get_mut(&by) {
            worker.evaluating.remove(&request);
            worker.first_rss.get_or_insert(rss);
            worker.rss = rss;
        }
        if self.asked.get(&request).is_some_and(|asked| asked.place.worker() == Some(by)) {
            self.asked.remove(&request);
            self.answer(request, outcome);
        }
    }

    /// A worker that was ready is gone. What it did is done again elsewhere; `blamed` only once.
    fn lose(&mut self, now: Instant, id: WorkerId, blamed: &BTreeSet<u64>, why: &str) {
        let Some(gone) = self.workers.remove(&id) else { return };
        self.acts.push(Act::Kill(id));
        // In a worker that evaluated nothing else, nothing else can have ended it.
        let alone = gone.evaluations <= 1;
        let here = self.asked.iter().filter(|(_, asked)| asked.place.worker() == Some(id)).map(|(id, _)| *id);
        for request in here.collect::<Vec<_>>() {
            let asked = self.asked.get_mut(&request).expect("it was just seen");
            if blamed.contains(&request) && (alone || asked.tried) {
                self.asked.remove(&request);
                self.answer(request, Outcome::Failed(why.to_owned()));
            } else {
                asked.tried |= blamed.contains(&request);
                asked.place = Place::Waiting;
            }
        }
        if self.successor == Some(id) {
            self.successor = None;
        }
        if self.current == Some(id) {
            self.current = self.successor.take();
            self.warm_up(now);
        }
        self.send_waiting(now);
    }

    /// Trying again at once would go wrong the same way: the next request will.
    fn fail_to_start(&mut self, now: Instant, id: WorkerId, why: &str) {
        self.workers.remove(&id);
        if self.successor == Some(id) {
            self.successor = None;
            self.no_successor_before = Some(now + RETRY);
            return;
        }
        if self.current != Some(id) {
            return;
        }
        self.current = self.successor.take();
        if self.current.is_none() {
            let waiting =
                self.asked.iter().filter(|(_, asked)| asked.place == Place::Waiting).map(|(id, _)| *id);
            for request in waiting.collect::<Vec<_>>() {
                self.asked.remove(&request);
                self.answer(request, Outcome::Failed(format!("no worker to import the trainer: node {why}")));
            }
        }
    }

    fn answer(&mut self, request: u64, outcome: Outcome) {
        self.acts.push(Act::Answer { request, outcome });
    }

    /// Lets go of workers that are done, and sees to a successor where one is needed.
    fn review(&mut self, now: Instant) {
        let wanted: BTreeSet<WorkerId> =
            self.asked.values().filter_map(|asked| asked.place.worker()).collect();
        let done: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(id, worker)| worker.leaving && !wanted.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            self.workers.remove(&id);
            self.acts.push(Act::Kill(id));
        }
        if self.successor_is_due().is_some_and(|at| at <= now) && self.workers.len() < MOST_WORKERS {
            self.successor = Some(self.start(now));
            self.no_successor_before = None;
        }
    }

    /// From when on the current worker needs a successor that it does not have.
    fn successor_is_due(&self) -> Option<Instant> {
        let worker = self.current.and_then(|id| self.workers.get(&id))?;
        if self.successor.is_some() || !worker.ready {
            return None;
        }
        let unwanted = worker.evaluating.iter().filter(|(request, _)| !self.asked.contains_key(request));
        let unwanted = unwanted.map(|(_, since)| *since + GRACE).min();
        let aged = self.is_aged(worker).then(|| {
            let overdue = worker.evaluations >= 2 * self.limits.evaluations;
            worker.asked_last + if overdue { Duration::ZERO } else { self.limits.pause }
        });
        let rested = (worker.evaluations >= self.limits.worn).then(|| worker.asked_last + self.limits.rest);
        let due = unwanted.into_iter().chain(aged).chain(rested).min()?;
        Some(self.no_successor_before.map_or(due, |at| due.max(at)))
    }

    fn is_aged(&self, worker: &Worker) -> bool {
        worker.evaluations >= self.limits.evaluations
            || worker.first_rss.is_some_and(|first| worker.rss > first + self.limits.growth)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
