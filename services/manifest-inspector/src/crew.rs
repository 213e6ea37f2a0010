//! The workers that there are, doing what the pool decides.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Settings;
use crate::pool::{Act, Limits, Outcome, Pool, WorkerId};
use crate::protocol::Request;
use crate::worker::{self, Happening, Worker};

/// Happenings that wait to be looked at; further ones wait in the workers' sockets.
const QUEUE: usize = 16;

/// How long a process may take to be ready.
const START: Duration = Duration::from_secs(10);

/// By how much a worker may grow before it is replaced: little more than one bundle of a few hundred kilobytes takes
/// while it is evaluated.
const GROWTH: u64 = 24 << 20;

/// A pause in which replacing a worker is in nobody's way.
const PAUSE: Duration = Duration::from_millis(250);

/// A pause after which nobody seems to be saving any more.
const REST: Duration = Duration::from_millis(1_500);

enum News {
    /// The process exists.
    Started(Worker),
    Happened(Happening),
}

pub(crate) struct Crew {
    settings: Arc<Settings>,
    pool: Pool,
    /// Nothing in place of a worker whose process does not exist yet.
    workers: BTreeMap<WorkerId, Option<Worker>>,
    courses: JoinSet<()>,
    tell: mpsc::Sender<(WorkerId, News)>,
    news: mpsc::Receiver<(WorkerId, News)>,
    answers: VecDeque<(u64, Outcome)>,
}

impl Crew {
    /// A crew whose first worker is being started. Needs a tokio runtime.
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let limits = Limits {
            evaluation: settings.time_limit,
            start: START,
            evaluations: settings.max_imports,
            growth: GROWTH,
            pause: PAUSE,
            worn: settings.max_imports.div_ceil(4),
            rest: REST,
        };
        let (tell, news) = mpsc::channel(QUEUE);
        let mut crew = Self {
            settings,
            pool: Pool::new(limits),
            workers: BTreeMap::new(),
            courses: JoinSet::new(),
            tell,
            news,
            answers: VecDeque::new(),
        };
        crew.pool.warm_up(Instant::now());
        crew.carry_out();
        crew
    }

    /// Evaluate the artifact at `path` as `request`, which is greater than every earlier one. An earlier request of
    /// the same entry is not answered any more.
    pub(crate) fn ask(&mut self, request: u64, entry: &str, path: &str) {
        self.pool.ask(Instant::now(), request, entry, path);
        self.carry_out();
    }

    /// Requests of `entry` are not answered any more.
    pub(crate) fn forget(&mut self, entry: &str) {
        self.pool.forget(Instant::now(), entry);
        self.carry_out();
    }

    /// The next answer. Cancel-safe. Without it nothing goes on: workers are heard and replaced in here.
    pub(crate) async fn next(&mut self) -> (u64, Outcome) {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            let tick = self.pool.next_tick();
            tokio::select! {
                biased;
                news = self.news.recv() => {
                    let (worker, news) = news.expect("this end holds a sender too");
                    self.hear(worker, news);
                }
                () = until(tick) => self.pool.tick(Instant::now()),
            }
            self.carry_out();
        }
    }

    /// Ends every worker, and waits at most `limit` for their ends.
    pub(crate) async fn close(mut self, limit: Duration) {
        self.pool.close();
        self.carry_out();
        // Courses that wait to tell something have nobody to tell it to.
        self.news.close();
        let ended = async { while self.courses.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!("a worker of the inspector does not end");
        }
    }

    fn hear(&mut self, id: WorkerId, news: News) {
        let now = Instant::now();
        match news {
            // One that was given up meanwhile ends by being dropped.
            News::Started(worker) => {
                if let Some(place) = self.workers.get_mut(&id) {
                    *place = Some(worker);
                }
            }
            News::Happened(Happening::Said(reply)) => self.pool.said(now, id, reply),
            News::Happened(Happening::Ended(why)) => {
                self.workers.remove(&id);
                self.pool.ended(now, id, &why);
            }
        }
        while self.courses.try_join_next().is_some() {}
    }

    fn carry_out(&mut self) {
        loop {
            let acts = self.pool.take_acts();
            if acts.is_empty() {
                return;
            }
            for act in acts {
                match act {
                    Act::Start(id) => self.start(id),
                    Act::Kill(id) => drop(self.workers.remove(&id)),
                    Act::Send { to, request, path } => self.send(to, &Request { id: request, path: &path }),
                    Act::Answer { request, outcome } => self.answers.push_back((request, outcome)),
                    Act::Complain(text) => tracing::warn!("{text}"),
                }
            }
        }
    }

    fn start(&mut self, id: WorkerId) {
        self.workers.insert(id, None);
        self.courses.spawn(course(id, Arc::clone(&self.settings), self.tell.clone()));
    }

    fn send(&mut self, id: WorkerId, request: &Request<'_>) {
        let Some(Some(worker)) = self.workers.get(&id) else { return };
        if let Err(error) = worker.send(request) {
            // Its end is news that will come; whatever it has is then sent elsewhere.
            tracing::debug!(%error, "a worker does not take a request");
            drop(self.workers.remove(&id));
        }
    }
}

/// Starts a worker and tells what comes of it, until its end.
async fn course(id: WorkerId, settings: Arc<Settings>, tell: mpsc::Sender<(WorkerId, News)>) {
    let (worker, mut course) = match worker::start(&settings).await {
        Ok(started) => started,
        Err(why) => return drop(tell.send((id, News::Happened(Happening::Ended(why)))).await),
    };
    // Where nobody is there to hear it, the worker comes back in the error, and ends by being dropped.
    let _ = tell.send((id, News::Started(worker))).await;
    loop {
        let happening = course.next().await;
        let last = matches!(happening, Happening::Ended(_));
        let _ = tell.send((id, News::Happened(happening))).await;
        if last {
            return;
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
