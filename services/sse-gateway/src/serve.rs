//! The server itself: its routes, its sockets, its end.
//!
//! What must hold: a client that goes is noticed at once, whether it half-closed, closed or vanished, also while
//! nothing is sent to it; a client that does not take what it is sent is dropped; the end is ordered, bounded and
//! may be asked for by several at once.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpServer, Resource, rt::net::TcpStream};
use nix::sys::socket::{Backlog, setsockopt, sockopt};
use supervise::{Condition, Policy};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use wire::Trouble;

use crate::edge::{Edge, Peers};
use crate::lifecycle::Lifecycle;
use crate::settings::{Limits, Settings, SettingsError};
use crate::{
    admission, broadcast, dev_events, health, page, run_events, runs, stopper, tab, terminal_events,
    terminals, traced, train, upstream,
};

/// The HTTP edge, ready to serve.
pub struct Gateway {
    edge: Arc<Edge>,
    orders: stopper::Orders,
    workers: usize,
}

impl Gateway {
    /// An edge with these settings in front of these parts.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn new(settings: Settings, peers: Peers) -> Result<Self, SettingsError> {
        let workers = settings.workers;
        let (stopper, orders) = stopper::channel(settings.limits.trains.max(1));
        Ok(Self { edge: Edge::new(settings, peers, stopper)?, orders, workers })
    }

    /// Serves what comes to `listener` until [`Handle::shutdown`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn serve(self, listener: TcpListener) -> io::Result<Handle> {
        let Self { edge, orders, workers } = self;
        let address = listener.local_addr()?;
        // Many clients come back at the same moment after a restart.
        nix::sys::socket::listen(&listener, Backlog::MAXALLOWABLE)?;
        let app = {
            let edge = Arc::clone(&edge);
            move || {
                process::let_timers_be_late(edge.limits.heartbeat / LATEST);
                App::new()
                    .app_data(Data::from(Arc::clone(&edge)))
                    .app_data(edge.lifecycle.enter_worker())
                    .wrap(from_fn(admission::admit))
                    .configure(routes)
                    .default_service(web::to(admission::nowhere))
            }
        };
        let limits = edge.limits.clone();
        let server = HttpServer::new(app)
            .workers(workers)
            .disable_signals()
            .tcp_nodelay(true)
            // Otherwise a client that went is not noticed before something is written to it.
            .h1_allow_half_closed(false)
            .on_connect(move |io, _: &mut Extensions| bound_client(io, &limits))
            .listen(listener)?
            .run();
        let condition = Condition::new("sse-gateway");
        if telemetry::trace::is_on() {
            let (condition, edge) = (condition.clone(), Arc::clone(&edge));
            tokio::spawn(async move {
                supervise::keep(&condition, Policy::default(), || broadcast::account(Arc::clone(&edge))).await
            });
        }
        let (last_call, until) = watch::channel(false);
        let (stop, patience, metrics) =
            (edge.peers.stop.clone(), edge.limits.patience, Arc::clone(&edge.metrics));
        let kept = condition.clone();
        let stopping = tokio::spawn(async move {
            let life = || {
                stopper::carry_out(
                    orders.clone(),
                    stop.clone(),
                    patience,
                    Arc::clone(&metrics),
                    until.clone(),
                )
            };
            if supervise::keep(&kept, Policy::default(), life).await.is_none() {
                tracing::error!("runs whose request ends are not stopped any more: `midrun runs stop` them");
            }
        });
        let handle = Running {
            address,
            lifecycle: edge.lifecycle.clone(),
            server: server.handle(),
            last_call,
            condition,
            stopping: Task::new(Some(stopping)),
            serving: Task::new(Some(tokio::spawn(server))),
            over: OnceCell::new(),
        };
        Ok(Handle { running: Arc::new(handle) })
    }
}

/// Bounds what a client can cost that is gone or does not read. Best effort: a socket without these still works.
fn bound_client(io: &dyn Any, limits: &Limits) {
    const PROBE_IDLE_SECONDS: u32 = 15;
    const PROBE_INTERVAL_SECONDS: u32 = 5;
    let Some(io) = io.downcast_ref::<TcpStream>() else { return };
    let stall = u32::try_from(limits.stall.as_millis()).unwrap_or(u32::MAX);
    let set = setsockopt(io, sockopt::TcpUserTimeout, &stall)
        .and_then(|()| setsockopt(io, sockopt::SndBuf, &limits.send_buffer))
        .and_then(|()| setsockopt(io, sockopt::KeepAlive, &true))
        .and_then(|()| setsockopt(io, sockopt::TcpKeepIdle, &PROBE_IDLE_SECONDS))
        .and_then(|()| setsockopt(io, sockopt::TcpKeepInterval, &PROBE_INTERVAL_SECONDS));
    if let Err(error) = set {
        tracing::debug!(%error, "a client's socket could not be bounded");
    }
}

fn routes(app: &mut ServiceConfig) {
    let at = |path: &str| -> Resource { web::resource(path).default_service(web::to(admission::not_so)) };
    app.service(at("/").get(page::index).head(page::index))
        .service(at("/healthz").get(health::alive).head(health::alive))
        .service(at("/readyz").get(health::ready).head(health::ready))
        .service(at("/metrics").get(health::metrics))
        .service(
            web::scope("/api")
                .wrap(from_fn(traced::traced))
                .wrap(from_fn(admission::authorize))
                .service(at("/manifest").get(runs::manifest))
                .service(at("/dev/events").get(dev_events::open))
                .service(at("/train").post(train::open))
                .service(at("/runs").get(runs::list).post(runs::start))
                .service(at("/runs/{id}").get(runs::show))
                .service(at("/runs/{id}/events").get(run_events::open))
                .service(at("/runs/{id}/stop").post(runs::stop))
                .service(at("/terminals").get(terminals::list).post(terminals::open))
                .service(at("/terminals/{id}").get(terminals::show).delete(terminals::close))
                .service(at("/terminals/{id}/events").get(terminal_events::open))
                .service(at("/terminals/{id}/input").post(terminals::type_into))
                .service(at("/terminals/{id}/resize").post(terminals::resize))
                .service(at("/terminals/{id}/run").post(terminals::run))
                .service(at("/jobs").get(upstream::jobs))
                .service(at("/events").get(tab::open))
                .service(at("/jobs/brief").get(upstream::detail::brief))
                .service(at("/jobs/{id}").get(upstream::detail::job))
                .service(at("/jobs/{id}/series").get(upstream::detail::series))
                .service(at("/jobs/{id}/points").get(upstream::detail::points))
                .service(at("/jobs/{id}/events").get(upstream::job_events))
                .service(at("/jobs/{id}/cancel").post(upstream::cancel))
                .service(at("/cancels").get(runs::cancels))
                .service(at("/inference/chat").post(upstream::chat))
                .service(at("/credentials").get(upstream::credentials))
                .service(at("/me").get(upstream::me))
                .default_service(web::to(admission::nowhere)),
        )
        .service(at("/{file}").get(page::file).head(page::file));
}

/// A serving edge. Clones are the same one; it goes on serving when all of them are dropped.
#[derive(Clone)]
pub struct Handle {
    running: Arc<Running>,
}

/// A task, until its end was seen.
type Task<T> = tokio::sync::Mutex<Option<JoinHandle<T>>>;

/// Comes true when `task` has ended. Cancel-safe.
async fn over<T>(task: &Task<T>) {
    let mut task = task.lock().await;
    if let Some(running) = task.as_mut() {
        drop(running.await);
        *task = None;
    }
}

struct Running {
    address: SocketAddr,
    lifecycle: Lifecycle,
    server: ServerHandle,
    last_call: watch::Sender<bool>,
    condition: Condition,
    stopping: Task<()>,
    serving: Task<io::Result<()>>,
    over: OnceCell<()>,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.running.condition.watch()
    }

    /// Ends the server: takes no more clients, ends the streams, lets requests finish, closes what is left, and
    /// sees to it that runs which belong to a request are stopped. Takes at most about `deadline`. May be called
    /// by several and more than once: all wait for the same end.
    ///
    /// Runs that are to stop at their next checkpoint must have done so before: a run that belongs to a
    /// `POST /api/train` which is still open is stopped at once.
    pub async fn shutdown(&self, deadline: Duration) {
        let running = &self.running;
        running.over.get_or_init(|| running.end(Instant::now() + deadline)).await;
    }
}

impl Running {
    async fn end(&self, deadline: Instant) {
        self.lifecycle.close();
        let clean = async {
            self.server.pause().await;
            if timeout(STREAMS_END, self.lifecycle.streamed()).await.is_err() {
                tracing::info!("some streams are cut off: their clients do not read");
            }
            self.lifecycle.answered().await;
        };
        if timeout_at(deadline, clean).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
        let stopped = async {
            self.server.stop(false).await;
            self.lifecycle.deserted().await;
        };
        if timeout_at(deadline.max(Instant::now() + GRACE), stopped).await.is_err() {
            tracing::warn!("some connections are not closed yet");
        }
        // Only now has every leash been let go of or pulled.
        self.last_call.send_replace(true);
        let rest = deadline.max(Instant::now() + GRACE);
        if timeout_at(rest, over(&self.stopping)).await.is_err() {
            tracing::error!(
                "runs whose request ended could not be stopped in time: `midrun reap` finds them"
            );
        }
        drop(timeout_at(rest, over(&self.serving)).await);
    }
}

/// While a thread has nothing but quiet streams, its timers may be late by this part of a heartbeat: HTTP's clock would
/// wake it four times a second.
const LATEST: u32 = 15;
/// Streams end by themselves; one that does not within this time has a client that does not read.
const STREAMS_END: Duration = Duration::from_secs(1);
/// What the last steps may take when the deadline has already passed.
const GRACE: Duration = Duration::from_millis(500);
