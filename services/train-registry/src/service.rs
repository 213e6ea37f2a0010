//! The actor: takes requests, and has the registry follow what is built. Knows no rule.

use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext as _, Context, Handler, WrapFuture as _};
use peer::{Envelope, Feed, FeedSeat, Inbox, Peer};
use supervise::{Answering, Life, Part, Policy};
use tokio::sync::watch;
use wire::build::{Retain, Unwatch, Watch};
use wire::cancel::Cancel;
use wire::event::DevEvent;
use wire::message::Never;
use wire::run::{
    ClaimRun, GetRun, ListRuns, LogPage, Newest, NewestBuild, ReadLog, RunRefusal, StartRun, StopAll, StopRun,
};
use wire::{ControlPlane, Rebuild, Run, Trouble};

use crate::registry::Core;
use crate::settings::Settings;

/// Events that a reader of the feed may be behind.
const KEPT_EVENTS: usize = 256;
/// Requests of each kind that may be under way.
const INBOX: usize = 256;
/// Log readers that may be waiting.
const LOG_INBOX: usize = 4096;

/// Everyone the registry talks to.
#[derive(Clone)]
pub struct Peers {
    /// What is built.
    pub rebuilds: Feed<Rebuild>,
    /// Where a named file's builds are ordered.
    pub watch: Peer<Watch>,
    /// And cancelled again.
    pub unwatch: Peer<Unwatch>,
    /// Who must know which artifacts are in use.
    pub retain: Peer<Retain>,
    /// Another value with each life of the build watcher, which then knows nothing of what it was asked before.
    pub watcher_lives: watch::Receiver<Option<String>>,
    /// Who cancels jobs.
    pub cancel: Peer<Cancel>,
    /// The control plane runs are started with; nothing while it is being set up, closed if there will be none.
    pub control_plane: watch::Receiver<Option<ControlPlane>>,
}

/// How to reach a registry.
pub struct Handle {
    /// What it tells everyone.
    pub events: Feed<DevEvent>,
    /// Entrance for [`StartRun`].
    pub start_run: Inbox<StartRun>,
    /// Entrance for [`StopRun`].
    pub stop_run: Inbox<StopRun>,
    /// Entrance for [`StopAll`].
    pub stop_all: Inbox<StopAll>,
    /// Entrance for [`ClaimRun`].
    pub claim_run: Inbox<ClaimRun>,
    /// Entrance for [`ListRuns`].
    pub list_runs: Inbox<ListRuns>,
    /// Entrance for [`GetRun`].
    pub get_run: Inbox<GetRun>,
    /// Entrance for [`ReadLog`].
    pub read_log: Inbox<ReadLog>,
    /// Entrance for [`Newest`].
    pub newest: Inbox<Newest>,
    part: Part,
}

impl Handle {
    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.part.trouble()
    }

    /// Another value with each of its lives.
    pub fn lives(&self) -> watch::Receiver<Option<String>> {
        self.part.lives()
    }

    /// Accepts no more requests and lets go of the table of runs once it is written; waits at most `limit`. Runs go
    /// on. May be called again.
    pub async fn shutdown(&self, limit: Duration) {
        self.part.retire(limit).await;
    }
}

/// Starts a registry on the current arbiter. When it fails, the next one takes up its runs from the table and the logs,
/// as after a restart of the server.
pub fn start(settings: Settings, peers: Peers) -> Handle {
    let seat = FeedSeat::new(KEPT_EVENTS);
    let doors = Doors {
        start_run: Inbox::new(INBOX),
        stop_run: Inbox::new(INBOX),
        claim_run: Inbox::new(INBOX),
        stop_all: Inbox::new(INBOX),
        list_runs: Inbox::new(INBOX),
        get_run: Inbox::new(INBOX),
        read_log: Inbox::new(LOG_INBOX),
        newest: Inbox::new(INBOX),
    };
    let (events, inboxes) = (seat.feed(), doors.clone());
    let life = move |life: &Life| {
        let core = Core::new(life.clone(), settings.clone(), peers.clone(), seat.writer());
        doors.lead_to(life, &life.start(Registry { core: Rc::new(core) }));
        Ok(())
    };
    let part = Part::start("train-registry", Policy::default(), life).expect("its first life needs nothing");
    let Doors { start_run, stop_run, claim_run, stop_all, list_runs, get_run, read_log, newest } = inboxes;
    Handle { events, start_run, stop_run, claim_run, stop_all, list_runs, get_run, read_log, newest, part }
}

#[derive(Clone)]
struct Doors {
    start_run: Inbox<StartRun>,
    stop_run: Inbox<StopRun>,
    claim_run: Inbox<ClaimRun>,
    stop_all: Inbox<StopAll>,
    list_runs: Inbox<ListRuns>,
    get_run: Inbox<GetRun>,
    read_log: Inbox<ReadLog>,
    newest: Inbox<Newest>,
}

impl Doors {
    fn lead_to(&self, life: &Life, actor: &Addr<Registry>) {
        life.answer(&self.start_run, actor);
        life.answer(&self.stop_run, actor);
        life.answer(&self.claim_run, actor);
        life.answer(&self.stop_all, actor);
        life.answer(&self.list_runs, actor);
        life.answer(&self.get_run, actor);
        life.answer(&self.read_log, actor);
        life.answer(&self.newest, actor);
    }
}

struct Registry {
    core: Rc<Core>,
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Rc::clone(&self.core).follow().into_actor(self));
        let core = Rc::clone(&self.core);
        ctx.spawn(async move { core.retain().await }.into_actor(self));
    }
}

impl Handler<Envelope<StartRun>> for Registry {
    type Result = Answering<Result<Run, RunRefusal>>;

    fn handle(&mut self, envelope: Envelope<StartRun>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, held) = envelope.open();
            core.start_run(ask, held.trace().clone()).await
        })
    }
}

impl Handler<Envelope<StopRun>> for Registry {
    type Result = Answering<Result<Run, RunRefusal>>;

    fn handle(&mut self, envelope: Envelope<StopRun>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.stop_run(ask).await
        })
    }
}

impl Handler<Envelope<ClaimRun>> for Registry {
    type Result = Answering<Result<(), RunRefusal>>;

    fn handle(&mut self, envelope: Envelope<ClaimRun>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ClaimRun { run }, _held) = envelope.open();
            core.claim_run(run).await
        })
    }
}

impl Handler<Envelope<StopAll>> for Registry {
    type Result = Answering<Result<Vec<Run>, Never>>;

    fn handle(&mut self, envelope: Envelope<StopAll>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (StopAll { mode }, _held) = envelope.open();
            Ok(core.stop_all(mode).await)
        })
    }
}

impl Handler<Envelope<ListRuns>> for Registry {
    type Result = Result<Vec<Run>, Never>;

    fn handle(&mut self, _: Envelope<ListRuns>, _: &mut Context<Self>) -> Self::Result {
        Ok(self.core.runs())
    }
}

impl Handler<Envelope<GetRun>> for Registry {
    type Result = Answering<Result<Run, RunRefusal>>;

    fn handle(&mut self, envelope: Envelope<GetRun>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (GetRun { run }, _held) = envelope.open();
            core.run(run).await
        })
    }
}

impl Handler<Envelope<ReadLog>> for Registry {
    type Result = Answering<Result<LogPage, RunRefusal>>;

    fn handle(&mut self, envelope: Envelope<ReadLog>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.read_log(ask).await
        })
    }
}

impl Handler<Envelope<Newest>> for Registry {
    type Result = Result<NewestBuild, Never>;

    fn handle(&mut self, _: Envelope<Newest>, _: &mut Context<Self>) -> Self::Result {
        Ok(self.core.newest())
    }
}
