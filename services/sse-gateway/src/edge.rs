//! What every request can reach: the peers, the counters, the bounds. One for all threads.

use std::sync::Arc;
use std::time::Duration;

use guard::HostGuard;
use peer::{Feed, Peer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::cancel::Outstanding;
use wire::event::DevEvent;
use wire::run::{ClaimRun, GetRun, ListRuns, Newest, ReadLog, StartRun, StopRun};
use wire::terminal::{
    CloseTerminal, GetTerminal, ListTerminals, OpenTerminal, ReadTerminal, ResizeTerminal, RunCommand,
    TypeInto,
};
use wire::{ControlPlane, Secret, Troubles};

use crate::dev_events::Frames;
use crate::failure::Failure;
use crate::lifecycle::{Inside, Lifecycle};
use crate::metrics::{Kind, Metrics};
use crate::page::Page;
use crate::settings::{Limits, Settings, SettingsError};
use crate::stopper::Stopper;
use crate::upstream::Upstream;

/// The parts that the edge speaks to.
#[derive(Clone)]
pub struct Peers {
    /// Starts runs.
    pub start: Peer<StartRun>,
    /// Stops runs.
    pub stop: Peer<StopRun>,
    /// Says who starts the next of a run.
    pub claim: Peer<ClaimRun>,
    /// Lists runs.
    pub list: Peer<ListRuns>,
    /// Tells of one run.
    pub get: Peer<GetRun>,
    /// Reads runs' logs.
    pub read_log: Peer<ReadLog>,
    /// Tells of the newest build.
    pub newest: Peer<Newest>,
    /// Tells which cancels are still under way.
    pub outstanding: Peer<Outstanding>,
    /// What happens: builds, decisions, swaps, runs.
    pub events: Feed<DevEvent>,
    /// Terminal sessions.
    pub terminals: TerminalPeers,
    /// Where jobs live and as whom the server acts; nothing while that is not known, or when there is none.
    pub control_plane: watch::Receiver<Option<ControlPlane>>,
    /// Why the server can do only part of its work, and what to do; empty while all is well.
    pub trouble: watch::Receiver<Troubles>,
}

/// The part that keeps terminal sessions.
#[derive(Clone)]
pub struct TerminalPeers {
    /// Opens one.
    pub open: Peer<OpenTerminal>,
    /// Lists them.
    pub list: Peer<ListTerminals>,
    /// Tells of one.
    pub get: Peer<GetTerminal>,
    /// Ends one.
    pub close: Peer<CloseTerminal>,
    /// Types into one.
    pub type_into: Peer<TypeInto>,
    /// Gives one another size.
    pub resize: Peer<ResizeTerminal>,
    /// Has one run a command.
    pub run: Peer<RunCommand>,
    /// Reads their logs.
    pub read: Peer<ReadTerminal>,
}

pub(crate) struct Edge {
    pub(crate) token: Secret,
    pub(crate) limits: Limits,
    pub(crate) guard: HostGuard,
    pub(crate) peers: Peers,
    pub(crate) page: Page,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) frames: Frames,
    pub(crate) upstream: Upstream,
    pub(crate) stopper: Stopper,
    streams: Arc<Semaphore>,
    trains: Arc<Semaphore>,
}

impl Edge {
    pub(crate) fn new(
        settings: Settings,
        peers: Peers,
        stopper: Stopper,
    ) -> Result<Arc<Self>, SettingsError> {
        let guard = settings.check()?;
        let limits = settings.limits.clone();
        Ok(Arc::new(Self {
            guard,
            page: Page::new(&settings),
            token: settings.token,
            peers,
            metrics: Arc::default(),
            lifecycle: Lifecycle::new(),
            frames: Frames::default(),
            upstream: Upstream::new(limits.upstream_silence),
            stopper,
            streams: Arc::new(Semaphore::new(limits.streams)),
            trains: Arc::new(Semaphore::new(limits.trains)),
            limits,
        }))
    }

    /// Room for one more stream.
    pub(crate) fn open_stream(self: &Arc<Self>, kind: Kind) -> Result<Ticket, Failure> {
        let room = match kind {
            Kind::Train => &self.trains,
            Kind::Dev | Kind::Run | Kind::Terminal | Kind::Upstream | Kind::Tab => &self.streams,
        };
        if self.lifecycle.is_closing() {
            return Err(Failure::stopping());
        }
        let room = Arc::clone(room)
            .try_acquire_owned()
            .map_err(|_| Failure::unavailable("too many streams are open; close some and try again"))?;
        let inside = self.lifecycle.enter_stream();
        self.metrics.opened(kind);
        Ok(Ticket { edge: Arc::clone(self), kind, room: Some(room), _inside: inside })
    }

    /// The control plane, if there is one.
    pub(crate) fn control_plane(&self) -> Result<ControlPlane, Failure> {
        self.peers.control_plane.borrow().clone().ok_or_else(|| {
            Failure::unavailable(
                "there is no control plane yet: give one by --control-plane or MIDRUN_CONTROL_PLANE_URL, or wait \
                 until the built-in one has started",
            )
        })
    }
}

/// One open stream, from its first byte to its last.
pub(crate) struct Ticket {
    pub(crate) edge: Arc<Edge>,
    kind: Kind,
    room: Option<OwnedSemaphorePermit>,
    _inside: Inside,
}

impl Ticket {
    /// Counts a frame.
    pub(crate) fn sent(&self) {
        self.edge.metrics.sent(self.kind);
    }

    /// Counts the client as dropped: it left frames untaken.
    pub(crate) fn dropped(&self) {
        self.edge.metrics.dropped.inc();
    }

    /// The room this stream took, for what has to outlive it.
    pub(crate) fn take_room(&mut self) -> Option<OwnedSemaphorePermit> {
        self.room.take()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.edge.metrics.closed(self.kind);
    }
}

/// How long a plain request to another part may take.
pub(crate) const BUDGET: Duration = Duration::from_secs(10);
