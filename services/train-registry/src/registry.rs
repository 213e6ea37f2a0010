//! Feeds the fleet with what happens and carries its effects out. Knows no rule.

mod cancels;
mod requests;
mod take_up;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use failpoint::Point;
use hosting::{Answer, Link, Place, Told};
use peer::{FeedWriter, Start};
use supervise::Life;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use wire::build::Retain;
use wire::event::DevEvent;
use wire::host::HostRequest;
use wire::log::{Record, Step};
use wire::{ContentHash, ControlPlane, Rebuild, RunId, StopMode, TraceContext};

use crate::account::{Account, Kind, Signal};
use crate::fleet::{Effect, Fleet};
use crate::orders::Orders;
use crate::reaper::Scope;
use crate::run_state::{Moment, Plan};
use crate::service::Peers;
use crate::settings::Settings;
use crate::store::Store;
use crate::{account, entry, launch, orders, reaper};

/// How long between two looks for what runs left behind.
const REAP_PAUSE: Duration = Duration::from_secs(60);
/// How long a start waits for what the server is still setting up.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// How long the request that a run belongs to may take to say that it starts the next: longer than it leaves a registry
/// alone that did not answer.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// How long until it is tried again whether what was decided is on disk; doubles up to the longest.
const RECORD_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_RECORD_PAUSE: Duration = Duration::from_secs(5);
/// How long a stop waits for its cancel to be on disk before it kills.
const CANCEL_FIRST: Duration = Duration::from_millis(400);
/// How long until a build watcher that was not told which artifacts are in use is told again.
const RETAIN_PAUSE: Duration = Duration::from_secs(5);

/// What the actor's futures share. Never borrowed across an await.
pub(crate) struct Core {
    /// What is started here ends with it.
    pub(crate) life: Life,
    settings: Settings,
    peers: Peers,
    writer: FeedWriter<DevEvent>,
    fleet: RefCell<Fleet>,
    links: RefCell<HashMap<RunId, Link>>,
    /// Runs that were stopped before their host could be reached.
    kill_when_linked: RefCell<HashMap<RunId, String>>,
    /// As whom each run was started.
    control_planes: RefCell<HashMap<RunId, ControlPlane>>,
    /// Cancels on their way to disk.
    committing: RefCell<HashMap<RunId, oneshot::Receiver<()>>>,
    orders: Orders,
    /// The artifacts in use; nothing while the runs of an earlier server are not known.
    retained: watch::Sender<Option<Vec<ContentHash>>>,
    account: Account,
    /// Swaps the hosts have not carried out yet, by request.
    swaps: RefCell<HashMap<u64, ContentHash>>,
    next_request: Cell<u64>,
    /// Something in the fleet may have changed.
    changed: watch::Sender<()>,
    /// The durable table, or why there is none; nothing while it is being opened.
    store: watch::Sender<Option<Result<Store, String>>>,
    /// The runs of an earlier server are known.
    taken_up: watch::Sender<bool>,
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl Core {
    pub(crate) fn new(life: Life, settings: Settings, peers: Peers, writer: FeedWriter<DevEvent>) -> Self {
        let fleet = Fleet::new(settings.entry.clone(), settings.policy);
        let lives = peers.watcher_lives.clone();
        let orders = Orders::new(life.clone(), peers.watch.clone(), peers.unwatch.clone(), lives);
        Self {
            life,
            settings,
            peers,
            writer,
            fleet: RefCell::new(fleet),
            links: RefCell::default(),
            kill_when_linked: RefCell::default(),
            control_planes: RefCell::default(),
            committing: RefCell::default(),
            orders,
            retained: watch::Sender::new(None),
            account: Account::default(),
            swaps: RefCell::default(),
            next_request: Cell::new(1),
            changed: watch::Sender::new(()),
            store: watch::Sender::new(None),
            taken_up: watch::Sender::new(false),
        }
    }

    /// Dispatches what is built, and looks after what runs leave behind.
    pub(crate) async fn follow(self: Rc<Self>) {
        let mut rebuilds = self.peers.rebuilds.read(Start::Snapshot);
        // Runs of an earlier server first, so that the first build is dispatched to them too.
        self.recover().await;
        let cleaner = Rc::clone(&self);
        self.life.spawn(async move {
            loop {
                cleaner.reap_leftovers().await;
                tokio::time::sleep(REAP_PAUSE).await;
            }
        });
        while let Some(delivery) = rebuilds.next().await {
            self.rebuilt(&delivery.event);
        }
    }

    async fn store(&self) -> Result<Store, String> {
        let mut opened = self.store.subscribe();
        let store = tokio::time::timeout(SETUP_LIMIT, opened.wait_for(Option::is_some)).await;
        match store {
            Ok(Ok(store)) => store.clone().unwrap_or_else(|| Err("it is being opened".into())),
            _ => Err("the table of runs is not open yet; try again".into()),
        }
    }

    fn save(&self, run: &RunId) {
        let saved = self.fleet.borrow().saved(run);
        if let (Some(saved), Some(Ok(store))) = (saved, &*self.store.borrow()) {
            store.save(saved);
        }
    }

    /// Ends processes of runs that are over and that nobody looks after.
    async fn reap_leftovers(self: &Rc<Self>) {
        // Without the table nobody knows which runs are whose.
        if !matches!(&*self.store.borrow(), Some(Ok(_))) {
            return;
        }
        let scope = Scope {
            runs_dir: self.settings.runs_dir.clone(),
            runs_table: self.settings.runs_table.clone(),
            server: Some(std::process::id()),
            protect: Vec::new(),
            kill_grace: self.settings.kill_grace,
            dry_run: false,
        };
        let is_owned = |run: &RunId| self.fleet.borrow().is_live(run);
        match reaper::leftovers(scope, is_owned, &self.peers.cancel).await {
            Ok(report) if report.stale > 0 => {
                telemetry::metrics::counted().reaped.add_many([], report.stale as u64);
                let report = serde_json::to_string(&report).unwrap_or_default();
                tracing::warn!(report, "processes of runs that are over were found");
            }
            Ok(_) => {}
            Err(why) => tracing::warn!(why, "what runs left behind is not looked for"),
        }
    }

    fn rebuilt(self: &Rc<Self>, rebuild: &Rebuild) {
        // The last builds of a file that was given back may still be on their way.
        let is_followed = rebuild.entry == self.settings.entry || self.orders.has(&rebuild.entry);
        if !is_followed || self.fleet.borrow().is_known(rebuild) {
            return;
        }
        let mut rebuild = rebuild.clone();
        let dispatching = account::dispatching(&mut rebuild);
        let logged = dispatching.span.scope();
        let shown = entry::shown(&self.settings.project, rebuild.entry.as_str());
        let effects = self.fleet.borrow_mut().rebuilt(rebuild.clone(), &shown, now());
        self.carry_out(effects);
        drop(logged);
        dispatching.end(&rebuild);
    }

    fn carry_out(self: &Rc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(event) => {
                    if let DevEvent::Run(frame) = &event {
                        self.save(&frame.run);
                        self.forget_credentials(&frame.run);
                        account::runs(&self.fleet.borrow().views());
                    }
                    account::published(&event);
                    self.writer.publish(event);
                }
                Effect::Swap { run, code, config_hash, why, trace } => {
                    failpoint::reach(Point::SwapDecided);
                    let id = self.request_id();
                    let content_hash = code.artifact.content_hash;
                    let trace = self.account.asked(
                        &Signal {
                            id,
                            run: &run,
                            pid: self.pid(&run),
                            kind: Kind::Swap,
                            signal: self.settings.hot_swap_signal,
                            why: &why,
                            content_hash: Some(content_hash.as_str()),
                        },
                        &trace,
                    );
                    self.swaps.borrow_mut().insert(id, content_hash.clone());
                    let request = HostRequest::Swap {
                        id,
                        content_hash,
                        path: code.artifact.path,
                        config_hash,
                        traceparent: trace.traceparent,
                        why,
                    };
                    if let Err(answer) = self.send(&run, request) {
                        self.told(&run, Told::Answer { id, answer });
                    }
                }
                Effect::EarlyStop { run, why, trace } => self.early_stop(run, why, trace),
                Effect::NotRestarted(reason) => account::suppressed(reason),
                Effect::Kill { run, why } => self.kill_after_cancel(run, why),
                Effect::Cancel { run, job } => self.cancel(run, job),
                Effect::Start(plan) => self.launch(*plan),
                Effect::AwaitClaim(run) => {
                    let core = Rc::clone(self);
                    self.life.spawn(async move {
                        tokio::time::sleep(CLAIM_LIMIT).await;
                        let effects = core.fleet.borrow_mut().unclaimed(&run, now());
                        core.carry_out(effects);
                    });
                }
                // Until all runs are known nobody can say what none of them needs; `recover` says it then.
                Effect::Retain(_) | Effect::Unwatch(_) if !*self.taken_up.borrow() => {}
                Effect::Retain(hashes) => drop(self.retained.send_replace(Some(hashes))),
                Effect::Unwatch(entry) => self.orders.give_back(&entry),
            }
        }
        self.changed.send_replace(());
    }

    fn request_id(&self) -> u64 {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        id
    }

    fn send(&self, run: &RunId, request: HostRequest) -> Result<(), Answer> {
        let links = self.links.borrow();
        links.get(run).ok_or_else(|| Answer::Refused("its host is gone".to_owned()))?.send(request)
    }

    fn stop(&self, run: &RunId, mode: StopMode, why: String, trace: &TraceContext) {
        let id = self.request_id();
        let (kind, signal) = match mode {
            StopMode::Checkpoint => (Kind::EarlyStop, process::signal::SIGTERM),
            StopMode::Now => (Kind::Kill, process::signal::SIGKILL),
        };
        let signal = Signal { id, run, pid: self.pid(run), kind, signal, why: &why, content_hash: None };
        let traceparent = self.account.asked(&signal, trace).traceparent;
        let request = HostRequest::Stop { id, mode, traceparent, why };
        if let Err(Answer::Refused(why) | Answer::Busy(why)) = self.send(run, request) {
            self.account.refused(id, &why);
        }
    }

    fn pid(&self, run: &RunId) -> Option<u32> {
        self.fleet.borrow().view(run)?.pid
    }

    /// Stops a run at its next checkpoint, once what was decided is on disk: whoever comes after this server must
    /// know whether a restart is due. A restart that cannot be put on record leaves the run as it is.
    fn early_stop(self: &Rc<Self>, run: RunId, why: String, trace: TraceContext) {
        let core = Rc::clone(self);
        self.life.spawn(async move {
            failpoint::reach(Point::StopDecided);
            if let Err(error) = core.flushed().await {
                tracing::error!(%run, error, "the stop is not on record");
                let untouched = core.fleet.borrow_mut().not_stopped(&run);
                if let Some(effects) = untouched {
                    core.carry_out(effects);
                    core.on_record(&run, |fleet, run| fleet.is_live(run)).await;
                    let effects = core.fleet.borrow_mut().reconsider(&run, now());
                    return core.carry_out(effects);
                }
            }
            failpoint::reach(Point::StopOnRecord);
            core.stop(&run, StopMode::Checkpoint, why, &trace);
        });
    }

    async fn flushed(&self) -> Result<(), String> {
        self.store().await?.flush().await
    }

    /// Waits until what was decided is on disk, which may have to be mended, for as long as `run` is `wanted`. Answers
    /// with why it is not, if it is not.
    async fn on_record(&self, run: &RunId, wanted: impl Fn(&Fleet, &RunId) -> bool) -> Option<String> {
        let mut pause = RECORD_PAUSE;
        loop {
            let why = self.flushed().await.err()?;
            if !wanted(&self.fleet.borrow(), run) {
                return Some(why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RECORD_PAUSE);
        }
    }

    /// Tells the build watcher which artifacts are in use: each of its lives, and whenever they change. One after the
    /// other, so that an older word never comes last.
    pub(crate) async fn retain(&self) {
        let (mut retained, mut lives) = (self.retained.subscribe(), self.peers.watcher_lives.clone());
        loop {
            lives.mark_unchanged();
            let Some(hashes) = retained.borrow_and_update().clone() else {
                orders::news(&mut retained).await;
                continue;
            };
            let told = self.peers.retain.ask(Retain { hashes }).await;
            if let Err(error) = &told {
                tracing::warn!(%error, "the build watcher does not know which artifacts are in use");
            }
            tokio::select! {
                () = orders::news(&mut retained) => {}
                () = orders::news(&mut lives) => {}
                () = tokio::time::sleep(RETAIN_PAUSE), if told.is_err() => {}
            }
        }
    }

    fn launch(self: &Rc<Self>, mut plan: Plan) {
        let core = Rc::clone(self);
        let mut span = account::restarting(&mut plan);
        self.life.spawn(async move {
            let started = core.try_launch(&plan).await;
            let effects = match started {
                Ok(Some(stream)) => {
                    drop(span);
                    return core.linked(&plan.run, stream, 0);
                }
                Ok(None) => {
                    drop(span);
                    return core.gone(&plan.run, 0, "its run-host ended before it was heard").await;
                }
                Err(why) => {
                    if let Some(span) = &mut span {
                        span.fail("not-started", &why);
                    }
                    core.kill_when_linked.borrow_mut().remove(&plan.run);
                    core.fleet.borrow_mut().not_started(&plan.run, why, now())
                }
            };
            core.carry_out(effects);
        });
    }

    /// Starts the run's host and connects to it, unless it was done before that could be.
    async fn try_launch(&self, plan: &Plan) -> Result<Option<UnixStream>, String> {
        let is_successor = plan.replaces.is_some();
        failpoint::reach(if is_successor { Point::SuccessorDecided } else { Point::StartAccepted });
        // On record before there is anything to be lost. What a restart goes on from has ended: it is not given up.
        let why = match is_successor {
            true => self.on_record(&plan.run, Fleet::is_wanted).await,
            false => self.flushed().await.err(),
        };
        why.map_or(Ok(()), Err)?;
        failpoint::reach(if is_successor { Point::SuccessorOnRecord } else { Point::StartOnRecord });
        let control_plane = known(self.peers.control_plane.clone()).await;
        if let Some(control_plane) = &control_plane {
            self.control_planes.borrow_mut().insert(plan.run.clone(), control_plane.clone());
        }
        if !self.fleet.borrow().is_wanted(&plan.run) {
            return Err("it was stopped before it was started".to_owned());
        }
        launch::launch(&self.settings, plan, control_plane).await
    }

    /// Follows the host behind `stream`, from the record after `after` on.
    fn linked(self: &Rc<Self>, run: &RunId, stream: UnixStream, after: u64) {
        let (core, told) = (Rc::clone(self), run.clone());
        let link =
            Link::follow(&self.life, self.place(run), stream, after, move |what| core.told(&told, what));
        self.links.borrow_mut().insert(run.clone(), link);
        let killed = self.kill_when_linked.borrow_mut().remove(run);
        if let Some(why) = killed {
            self.stop(run, StopMode::Now, why, &TraceContext::default());
        }
        self.changed.send_replace(());
    }

    fn place(&self, run: &RunId) -> Place {
        launch::place(&self.settings, run)
    }

    fn told(self: &Rc<Self>, run: &RunId, told: Told) {
        passed(&told);
        let effects = match told {
            Told::Record(record) => self.recorded(run, &record),
            Told::Answer { id, answer: Answer::Done } => {
                self.swaps.borrow_mut().remove(&id);
                self.account.done(id);
                Vec::new()
            }
            Told::Answer { id, answer: Answer::Refused(why) | Answer::Busy(why) } => {
                let swap = self.swaps.borrow_mut().remove(&id);
                self.account.refused(id, &why);
                match swap {
                    Some(hash) => self.fleet.borrow_mut().swap_refused(run, &hash, why, now()),
                    None => Vec::new(),
                }
            }
            Told::Lost { why } => {
                self.account.over(run);
                let core = Rc::clone(self);
                let folder = self.place(run).dir().to_owned();
                self.life.spawn(async move {
                    // A host that is killed lets go of its socket a moment before it is gone.
                    launch::host_gone(&folder).await;
                    core.reap_leftovers().await;
                });
                self.fleet.borrow_mut().lost(run, why, now())
            }
        };
        self.carry_out(effects);
        if !self.fleet.borrow().is_live(run) {
            self.links.borrow_mut().remove(run);
        }
    }

    fn recorded(&self, run: &RunId, record: &Record) -> Vec<Effect> {
        self.account.recorded(run, &record.step);
        self.fleet.borrow_mut().happened(run, &record.step, now())
    }
}

/// The failpoints at what a host tells.
fn passed(told: &Told) {
    let point = match told {
        Told::Record(Record { step: Step::Spawned { .. }, .. }) => Point::SpawnedSeen,
        Told::Record(Record { step: Step::Ready { .. }, .. }) => Point::ReadySeen,
        Told::Record(Record { step: Step::Job { .. }, .. }) => Point::JobSeen,
        Told::Record(Record { step: Step::Swap { .. }, .. }) => Point::SwapSeen,
        Told::Record(Record { step: Step::Exit { .. }, .. }) => Point::ExitSeen,
        Told::Lost { .. } => Point::LostSeen,
        _ => return,
    };
    failpoint::reach(point);
}

/// What a watch channel comes to hold, if it does in time.
async fn known<T: Clone>(mut channel: watch::Receiver<Option<T>>) -> Option<T> {
    // A `None` that was sent is a word too: there is nothing for now.
    if channel.borrow().is_none() {
        let _ = tokio::time::timeout(SETUP_LIMIT, channel.changed()).await;
    }
    channel.borrow().clone()
}
