//! Feeds the fleet with what happens and carries its effects out. Knows no rule.

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
use tokio::time::Instant;
use wire::build::Retain;
use wire::cancel::Cancel;
use wire::event::DevEvent;
use wire::host::HostRequest;
use wire::log::{Record, Step};
use wire::run::{LogPage, NewestBuild, Owner, ReadLog, RunRefusal, StartRun, StopRun};
use wire::{ContentHash, ControlPlane, EntryPath, JobId, Rebuild, Run, RunId, StopMode, TraceContext};

use crate::account::{Account, Kind, Signal};
use crate::fleet::{Effect, Fleet, Wish};
use crate::launch::Found;
use crate::log::LogAt;
use crate::orders::{FIRST_BUILD_LIMIT, Orders};
use crate::reaper::Scope;
use crate::run_state::{Moment, Plan};
use crate::service::Peers;
use crate::settings::Settings;
use crate::store::{Saved, Store};
use crate::{account, entry, launch, log, reaper};

/// How long between two looks for what runs left behind.
const REAP_PAUSE: Duration = Duration::from_secs(60);
/// How long a runner's process may take to exist: longer than everything that is waited for before.
const SPAWN_LIMIT: Duration = Duration::from_secs(30);
/// How long a start waits for what the server is still setting up.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// How long a stop waits for its cancel to be on disk before it kills.
const CANCEL_FIRST: Duration = Duration::from_millis(400);
/// How long until a cancel that the broker did not take is offered again; doubles up to the longest.
const CANCEL_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_CANCEL_PAUSE: Duration = Duration::from_secs(10);

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

    /// Opens the durable table and takes up the runs of an earlier server.
    async fn recover(self: &Rc<Self>) {
        let opened = Store::open_in(&self.life, &self.settings.runs_table).await;
        let (store, saved) = match opened {
            Ok((store, saved)) => (Ok(store), saved),
            Err(why) => {
                tracing::error!(why, "no run can be started or taken up");
                (Err(why), Vec::new())
            }
        };
        failpoint::reach(Point::TableOpened);
        self.store.send_replace(Some(store));
        for saved in saved {
            self.take_up(saved).await;
        }
        let (needed, retain) = {
            let mut fleet = self.fleet.borrow_mut();
            (fleet.needed(), fleet.retain())
        };
        needed.iter().for_each(|entry| self.orders.place(entry));
        self.carry_out(retain.into_iter().collect());
        failpoint::reach(Point::TakenUp);
        self.taken_up.send_replace(true);
        self.changed.send_replace(());
    }

    /// Waits until `run` is known, or all runs of an earlier server are, so that nobody is told that one of them does
    /// not exist.
    async fn known(&self, run: &RunId) {
        if self.fleet.borrow().view(run).is_some() {
            return;
        }
        self.all_known().await;
    }

    /// Waits until the runs of an earlier server are known.
    async fn all_known(&self) {
        let mut taken_up = self.taken_up.subscribe();
        if tokio::time::timeout(SETUP_LIMIT, taken_up.wait_for(|known| *known)).await.is_err() {
            tracing::warn!("runs of an earlier server are still being looked for");
        }
    }

    /// Takes up one run of an earlier server: reads its log, connects to its host, and does what was left undone.
    async fn take_up(self: &Rc<Self>, saved: Saved) {
        failpoint::reach(Point::TakingUp);
        let run = saved.run.clone();
        let place = self.place(&run);
        let log = tokio::task::spawn_blocking(move || place.life(0)).await;
        let log = log.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).unwrap_or_default();
        let control_plane = launch::credentials(self.place(&run).dir());
        self.control_planes.borrow_mut().extend(control_plane.map(|known| (run.clone(), known)));
        failpoint::reach(Point::LogReplayed);
        let effects = self.fleet.borrow_mut().restore(saved, &log, now());
        self.carry_out(effects);
        if !self.fleet.borrow().is_live(&run) {
            return self.forget_credentials(&run);
        }
        let seen = log.last().map_or(0, |record| record.seq);
        match launch::reconnect(&self.settings, &run).await {
            Ok(Found::Host(stream)) => {
                self.linked(&run, stream, seen);
                let effects = self.fleet.borrow_mut().taken_up(&run, now());
                self.carry_out(effects);
            }
            Ok(Found::NeverStarted) if log.is_empty() => {
                let effects = self.fleet.borrow_mut().never_started(&run, now());
                self.carry_out(effects);
            }
            Ok(_) => self.gone(&run, seen, "its run-host ended while no server was there to see it").await,
            Err(error) => {
                self.gone(&run, seen, &format!("its run-host cannot be looked for: {error}")).await;
            }
        }
    }

    /// The host of a run of an earlier server is not there. It may have written the end before it went.
    async fn gone(self: &Rc<Self>, run: &RunId, seen: u64, why: &str) {
        let place = self.place(run);
        let rest = tokio::task::spawn_blocking(move || place.life(seen));
        let rest = rest.await.ok().and_then(Result::ok).unwrap_or_default();
        for record in rest {
            self.told(run, Told::Record(record));
        }
        self.told(run, Told::Lost { why: why.to_owned() });
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
                Effect::Retain(hashes) => {
                    let peer = self.peers.retain.clone();
                    self.life.spawn(async move {
                        let _ = peer.ask(Retain { hashes }).await;
                    });
                }
                Effect::Unwatch(entry) => self.orders.give_back(entry),
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

    /// Tells each new life of the build watcher which artifacts are in use.
    pub(crate) async fn retain_again(&self) {
        let mut lives = self.peers.watcher_lives.clone();
        let mut known = lives.borrow_and_update().clone();
        while lives.changed().await.is_ok() {
            let now = lives.borrow_and_update().clone();
            if known.replace(now.unwrap_or_default()).is_none() {
                continue;
            }
            let hashes = self.fleet.borrow().retained();
            if let Err(error) = self.peers.retain.ask(Retain { hashes }).await {
                tracing::warn!(%error, "the build watcher does not know which artifacts are in use");
            }
        }
    }

    /// Commits a cancel as whom the run was started. A cancel that the outbox does not take is offered again for as
    /// long as this server lives; after that, the table says that it is due.
    fn cancel(self: &Rc<Self>, run: RunId, job: Option<JobId>) {
        let Some(control_plane) = self.control_planes.borrow_mut().remove(&run) else {
            // It was started without a control plane: there is no job.
            return self.cancel_committed(&run);
        };
        let (committed, waits) = oneshot::channel();
        self.committing.borrow_mut().insert(run.clone(), waits);
        let core = Rc::clone(self);
        self.life.spawn(async move {
            failpoint::reach(Point::CancelDecided);
            let cancel = Cancel { run: run.clone(), job, control_plane };
            let mut pause = CANCEL_PAUSE;
            while let Err(error) = core.peers.cancel.ask(cancel.clone()).await {
                tracing::error!(%run, %error, "the job's cancel is not on disk yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_CANCEL_PAUSE);
            }
            failpoint::reach(Point::CancelAcknowledged);
            core.cancel_committed(&run);
            let _ = committed.send(());
            core.committing.borrow_mut().remove(&run);
        });
    }

    fn cancel_committed(&self, run: &RunId) {
        self.fleet.borrow_mut().cancel_committed(run);
        self.save(run);
        self.forget_credentials(run);
    }

    /// A run that is over has no use for its credentials any more.
    fn forget_credentials(&self, run: &RunId) {
        if self.fleet.borrow().is_over(run) {
            let folder = self.place(run).dir().to_owned();
            tokio::task::spawn_blocking(move || launch::forget_credentials(&folder));
        }
    }

    /// Ends a run now, once its cancel is on disk or has taken too long.
    fn kill_after_cancel(self: &Rc<Self>, run: RunId, why: String) {
        let committing = self.committing.borrow_mut().remove(&run);
        let core = Rc::clone(self);
        self.life.spawn(async move {
            let on_disk = async {
                if let Some(committing) = committing {
                    let _ = committing.await;
                }
                let _ = core.flushed().await;
            };
            let _ = tokio::time::timeout(CANCEL_FIRST, on_disk).await;
            failpoint::reach(Point::KillDecided);
            if core.links.borrow().contains_key(&run) {
                core.stop(&run, StopMode::Now, why, &TraceContext::default());
            } else {
                core.kill_when_linked.borrow_mut().insert(run, why);
            }
        });
    }

    fn launch(self: &Rc<Self>, mut plan: Plan) {
        let core = Rc::clone(self);
        let mut span = account::restarting(&mut plan);
        self.life.spawn(async move {
            let started = core.try_launch(&plan).await;
            let effects = match started {
                Ok(stream) => {
                    drop(span);
                    return core.linked(&plan.run, stream, 0);
                }
                Err(why) => {
                    if let Some(span) = &mut span {
                        span.fail("not-started", &why);
                    }
                    core.fleet.borrow_mut().not_started(&plan.run, why, now())
                }
            };
            core.carry_out(effects);
        });
    }

    async fn try_launch(&self, plan: &Plan) -> Result<UnixStream, String> {
        let is_successor = plan.replaces.is_some();
        failpoint::reach(if is_successor { Point::SuccessorDecided } else { Point::StartAccepted });
        // On record before there is anything to be lost.
        self.flushed().await?;
        failpoint::reach(if is_successor { Point::SuccessorOnRecord } else { Point::StartOnRecord });
        let control_plane = known(self.peers.control_plane.clone()).await;
        if let Some(control_plane) = &control_plane {
            self.control_planes.borrow_mut().insert(plan.run.clone(), control_plane.clone());
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
        if self.fleet.borrow().view(run).is_none_or(|run| !run.status.is_live()) {
            self.links.borrow_mut().remove(run);
        }
    }

    fn recorded(&self, run: &RunId, record: &Record) -> Vec<Effect> {
        self.account.recorded(run, &record.step);
        self.fleet.borrow_mut().happened(run, &record.step, now())
    }

    pub(crate) async fn start_run(
        self: Rc<Self>,
        ask: StartRun,
        trace: TraceContext,
    ) -> Result<Run, RunRefusal> {
        let wish = self.wish(ask, trace).await?;
        let entry = wish.entry.clone();
        let started = self.fleet.borrow_mut().start(wish, now());
        let (run, effects) = match started {
            Ok(started) => started,
            Err(refusal) => {
                self.give_back_if_unused(entry);
                return Err(refusal);
            }
        };
        self.carry_out(effects);
        let spawned = self
            .wait_until(SPAWN_LIMIT, |fleet| {
                fleet.view(&run).filter(|run| run.pid.is_some() || !run.status.is_live())
            })
            .await;
        match spawned {
            Some(run) if run.pid.is_some() => Ok(run),
            Some(run) => Err(RunRefusal::NotStarted { why: run.reason.unwrap_or_default() }),
            None => {
                // Nobody was told of it, so nobody would ever end it.
                let why = "its runner did not start in time";
                let stopped = self.fleet.borrow_mut().stop(&run, StopMode::Now, why, now());
                self.carry_out(stopped.unwrap_or_default());
                Err(RunRefusal::NotStarted { why: format!("{why}, so it was stopped; try again") })
            }
        }
    }

    /// What the client means; orders the builds of a file that is not watched yet and waits for the first.
    async fn wish(self: &Rc<Self>, ask: StartRun, trace: TraceContext) -> Result<Wish, RunRefusal> {
        let restarts = ask.owner == Owner::Server;
        let entry = match &ask.file {
            None => self.settings.entry.clone(),
            Some(file) => {
                let (project, file) = (self.settings.project.clone(), file.clone());
                let resolved = tokio::task::spawn_blocking(move || entry::resolve(&project, &file)).await;
                resolved.map_err(|panic| RunRefusal::NotStarted { why: panic.to_string() })??
            }
        };
        let shown_entry = entry::shown(&self.settings.project, entry.as_str());
        let file = (entry != self.settings.entry).then(|| shown_entry.clone());
        if file.is_some() && !self.orders.has(&entry) {
            self.fleet.borrow_mut().forget_builds(&entry);
            self.orders.place(&entry);
            if let Err(why) = self.orders.taken(&entry).await {
                self.give_back_if_unused(entry);
                return Err(RunRefusal::NotStarted { why });
            }
        }
        self.wait_until(FIRST_BUILD_LIMIT, |fleet| fleet.knows(&entry).then_some(())).await;
        Ok(Wish { entry, shown_entry, file, restarts, trace })
    }

    fn give_back_if_unused(&self, entry: EntryPath) {
        if !self.fleet.borrow().needs(&entry) {
            self.orders.give_back(entry);
        }
    }

    /// The first thing that `see` finds in the fleet, if it does within `limit`.
    async fn wait_until<T>(&self, limit: Duration, see: impl Fn(&Fleet) -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let seen = see(&self.fleet.borrow());
            if seen.is_some() {
                return seen;
            }
            tokio::time::timeout_at(until, changed.changed()).await.ok()?.ok()?;
        }
    }

    /// Answers when the stop is on record: a server that comes after this one must know what was promised. A disk that
    /// does not answer in time holds up nobody who wants a run stopped.
    pub(crate) async fn stop_run(self: Rc<Self>, ask: StopRun) -> Result<Run, RunRefusal> {
        self.known(&ask.run).await;
        let effects = self.fleet.borrow_mut().stop(&ask.run, ask.mode, &ask.reason, now())?;
        self.carry_out(effects);
        if !matches!(tokio::time::timeout(CANCEL_FIRST, self.flushed()).await, Ok(Ok(()))) {
            tracing::warn!(run = %ask.run, "the stop is under way and not on record");
        }
        self.fleet.borrow().view(&ask.run).ok_or_else(|| RunRefusal::NotFound { run: ask.run.clone() })
    }

    /// Stops every run, those of an earlier server too, and starts none from now on. Answers with those that live.
    pub(crate) async fn stop_all(self: Rc<Self>, mode: StopMode) -> Vec<Run> {
        self.all_known().await;
        let effects = self.fleet.borrow_mut().stop_all(mode, now());
        self.carry_out(effects);
        self.fleet.borrow().live()
    }

    /// Every run, newest first.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.fleet.borrow().views()
    }

    /// One run.
    pub(crate) async fn run(&self, run: RunId) -> Result<Run, RunRefusal> {
        self.known(&run).await;
        self.fleet.borrow().view(&run).ok_or(RunRefusal::NotFound { run })
    }

    /// What the project's own entry last came to.
    pub(crate) fn newest(&self) -> NewestBuild {
        let shown_entry = entry::shown(&self.settings.project, self.settings.entry.as_str());
        self.fleet.borrow().newest(&shown_entry)
    }

    fn log_at(&self, run: &RunId) -> Option<LogAt> {
        if !RunId::is_well_formed(run.as_str()) {
            return None;
        }
        let path = self.place(run).log();
        let newest = self.links.borrow().get(run).map(Link::newest);
        (newest.is_some() || path.exists()).then_some(LogAt { path, newest })
    }

    pub(crate) async fn read_log(self: Rc<Self>, ask: ReadLog) -> Result<LogPage, RunRefusal> {
        self.known(&ask.run).await;
        if ask.holds {
            self.fleet.borrow_mut().hold(&ask.run, now());
        }
        // A run that is being started has no link and no log yet.
        let linked = |fleet: &Fleet| {
            let starting = fleet.view(&ask.run).is_some_and(|run| run.status.is_live());
            let found = self.log_at(&ask.run);
            (!starting || found.as_ref().is_some_and(|log| log.newest.is_some())).then_some(found)
        };
        let found = self.wait_until(SPAWN_LIMIT, linked).await.flatten();
        let log = found.ok_or_else(|| RunRefusal::NotFound { run: ask.run.clone() })?;
        log::read(log, ask).await
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
