//! `midrun dev`: every part in one process, and their end.
//!
//! The end is ordered and bounded: first the runs (at their next checkpoint; at once when asked twice), then the edge
//! (its streams first), then the control plane.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use failpoint::Point;
use peer::{Feed, Peer, Start};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use wire::build::Watch;
use wire::event::DevEvent;
use wire::run::{ListRuns, StopAll};
use wire::{EntryPath, Secret, StopMode};

use crate::cli;
use crate::console::{Console, Greeting, Style};
use crate::control;
use crate::hold::Hold;
use crate::project::{Project, socket_dir};
use crate::sdk;
use crate::state::ServerFile;
use crate::state_folder;

/// How long each part may take to end.
const PART_LIMIT: Duration = Duration::from_secs(5);
/// How long runs that are killed may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing must have happened before memory is given back.
const QUIET: Duration = Duration::from_secs(2);
/// How many ports after the wanted one are tried.
const PORTS_TRIED: u16 = 100;

/// Serves until it is told to end.
pub(crate) fn command(args: &cli::Dev, begun: Instant) -> ExitCode {
    process::share_one_heap();
    state_folder::bear_size_limits();
    let system = actix::System::new();
    match system.block_on(serve(args, begun)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn open(args: &cli::Dev) -> Result<Project, String> {
    let mut project = Project::open(&args.dir)?;
    let settings = &mut project.settings;
    if let Some(host) = &args.host {
        settings.gateway.host.clone_from(host);
    }
    if let Some(port) = args.port {
        settings.gateway.port = port;
    }
    if let Some(url) = &args.control_plane {
        settings.control_plane.url = Some(url.clone());
    }
    settings.run.hot_only |= args.hot_only;
    Ok(project)
}

async fn serve(args: &cli::Dev, begun: Instant) -> Result<(), String> {
    let project = open(args)?;
    let state_dir = project.make_state_dir()?;
    failpoint::reach(Point::ServerFolderReady);
    let hold = Rc::new(Hold::take(&state_dir).map_err(|busy| busy.to_string())?);
    failpoint::reach(Point::ServerLocked);
    let beating = actix::spawn(Rc::clone(&hold).beat());
    let (listener, instead_of) = listen(&project.settings.gateway.host, project.settings.gateway.port)?;
    let url = url_of(&listener)?;
    // Armed before anything is started, so that a Ctrl-C never leaves half a server behind.
    let mut asked_to_end = Ends::arm()?;

    let parts = Parts::start(&project, &state_dir)?;
    failpoint::reach(Point::ServerPartsStarted);
    let token = Secret::new(fresh_token());
    let style = Style::of(args.json);
    let trouble = state_folder::watch_over(state_dir.clone(), move |news| Console::new(style).warn(news));
    let edge = parts.serve_edge(&project, listener, token.clone(), trouble)?;
    failpoint::reach(Point::ServerEdgeListening);
    let file = ServerFile {
        url: url.clone(),
        token: token.expose().to_owned(),
        process: process::Identity::own().map_err(|error| error.to_string())?,
        started_at: wire::now(),
    };
    file.write(&project.root).map_err(|error| format!("{}: {error}", state_dir.display()))?;
    failpoint::reach(Point::ServerAnnounced);

    let console = Console::new(style);
    console.greet(&Greeting {
        url: &url,
        token: token.expose(),
        project: &project.root.display().to_string(),
        since_start: begun.elapsed(),
        instead_of,
    });
    if args.open {
        open_browser(&url);
    }
    let telling = actix::spawn(console.follow(parts.registry.events.clone()));
    actix::spawn(give_back_memory_when_quiet(parts.registry.events.clone()));
    let own = control::connect(&project, parts.tell_control_plane.clone()).await;

    asked_to_end.next().await;
    parts.end_runs(&Console::new(style), &mut asked_to_end).await;
    parts.terminals.shutdown(PART_LIMIT).await;
    edge.shutdown(PART_LIMIT).await;
    parts.registry.shutdown(PART_LIMIT).await;
    parts.broker.shutdown(PART_LIMIT).await;
    parts.inspector.shutdown(PART_LIMIT).await;
    if let Err(error) = parts.watcher.stop(PART_LIMIT).await {
        tracing::warn!(%error, "ended all the same");
    }
    own.shutdown(Duration::from_millis(project.settings.control_plane.stop_grace_ms)).await;
    telling.abort();
    beating.abort();
    file.remove(&project.root);
    hold.release();
    Ok(())
}

/// Every part but the edge and the control plane.
struct Parts {
    watcher: build_watcher::Handle,
    inspector: manifest_inspector::Handle,
    registry: train_registry::Handle,
    terminals: terminal_registry::Handle,
    broker: cancel_broker::Handle,
    control_plane: control::Known,
    tell_control_plane: watch::Sender<Option<wire::ControlPlane>>,
}

impl Parts {
    fn start(project: &Project, state_dir: &Path) -> Result<Self, String> {
        let settings = &project.settings;
        let sdk = sdk::make(&project.root, state_dir)?;
        // First, since Node takes longer to start than a first build takes.
        let inspector = manifest_inspector::start(manifest_inspector::Settings {
            project: project.root.clone(),
            node: settings.run.node.clone(),
            worker: sdk.inspector_worker,
            time_limit: Duration::from_millis(settings.inspector.time_limit_ms),
            max_imports: settings.inspector.max_imports,
        });
        let watcher = build_watcher::start(&build_watcher::Settings {
            project_root: project.root.clone(),
            state_dir: state_dir.to_owned(),
            settle: Duration::from_millis(settings.build.settle_ms),
            keep: build_watcher::Keep { newest: settings.build.keep, ..build_watcher::Keep::default() },
        })
        .map_err(|error| format!("{} cannot be watched: {error}", project.root.display()))?;
        inspector.follow(watcher.feed.clone(), watcher.source_map.peer());
        let entry = project.entry();
        watch(watcher.watch.peer(), entry.clone());
        let broker = cancel_broker::Handle::default();
        open_outbox(broker.clone(), state_dir.join("cancels.db"));
        let (tell_control_plane, control_plane) = watch::channel(None);
        let registry = train_registry::start(
            registry_settings(project, state_dir, sdk.runner, entry)?,
            train_registry::Peers {
                rebuilds: inspector.rebuilds.clone(),
                watch: watcher.watch.peer(),
                unwatch: watcher.unwatch.peer(),
                retain: watcher.retain.peer(),
                cancel: broker.cancel.peer(),
                control_plane: control_plane.clone(),
            },
        );
        let terminals = terminal_registry::start(terminal_settings(project, state_dir)?);
        Ok(Self { watcher, inspector, registry, terminals, broker, control_plane, tell_control_plane })
    }

    fn serve_edge(
        &self,
        project: &Project,
        listener: TcpListener,
        token: Secret,
        trouble: watch::Receiver<Option<String>>,
    ) -> Result<sse_gateway::Handle, String> {
        let wanted = &project.settings.gateway;
        let settings = sse_gateway::Settings {
            token,
            allowed_hosts: wanted.allowed_hosts.clone(),
            title: format!("{} · midrun", project.name()),
            version: env!("CARGO_PKG_VERSION").into(),
            workers: wanted.workers,
            trace_ui: wanted.trace_ui.clone(),
            limits: sse_gateway::Limits::default(),
        };
        let peers = sse_gateway::Peers {
            start: self.registry.start_run.peer(),
            stop: self.registry.stop_run.peer(),
            list: self.registry.list_runs.peer(),
            get: self.registry.get_run.peer(),
            read_log: self.registry.read_log.peer(),
            newest: self.registry.newest.peer(),
            events: self.registry.events.clone(),
            outstanding: self.broker.outstanding.peer(),
            terminals: sse_gateway::TerminalPeers {
                open: self.terminals.open.peer(),
                list: self.terminals.list.peer(),
                get: self.terminals.get.peer(),
                close: self.terminals.close.peer(),
                type_into: self.terminals.type_into.peer(),
                resize: self.terminals.resize.peer(),
                run: self.terminals.run.peer(),
                read: self.terminals.read.peer(),
            },
            control_plane: self.control_plane.clone(),
            trouble,
        };
        let gateway = sse_gateway::Gateway::new(settings, peers).map_err(|error| error.to_string())?;
        gateway.serve(listener).map_err(|error| error.to_string())
    }

    /// Stops every run at its next checkpoint, or at once when asked again, and waits until they have ended.
    async fn end_runs(&self, console: &Console, asked: &mut Ends) {
        let stop_all = self.registry.stop_all.peer();
        let live = stop_all.ask(StopAll { mode: StopMode::Checkpoint }).await.unwrap_or_default();
        if live.is_empty() {
            return;
        }
        let names: Vec<&str> = live.iter().map(|run| run.id.as_str()).collect();
        console.note(&format!(
            "stopping {} at the next checkpoint; Ctrl-C again stops at once",
            names.join(", ")
        ));
        tokio::select! {
            () = self.no_run_is_live() => return,
            () = asked.next() => {}
        }
        console.note("stopping at once");
        let _ = stop_all.ask(StopAll { mode: StopMode::Now }).await;
        if tokio::time::timeout(KILL_LIMIT, self.no_run_is_live()).await.is_err() {
            console.note("some runs have not ended; `midrun doctor` shows them");
        }
    }

    async fn no_run_is_live(&self) {
        let mut events = self.registry.events.read(Start::Snapshot);
        let list = self.registry.list_runs.peer();
        loop {
            let runs = list.ask(ListRuns {}).await.unwrap_or_default();
            if !runs.iter().any(|run| run.status.is_live()) || events.next().await.is_none() {
                return;
            }
        }
    }
}

/// Gives memory back each time when nothing has happened for a while: a server is idle for most of the day.
async fn give_back_memory_when_quiet(events: Feed<DevEvent>) {
    let mut events = events.read(Start::Snapshot);
    while events.next().await.is_some() {
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, events.next()).await {}
        if let Err(error) = process::give_back_memory() {
            tracing::debug!(%error, "no memory is given back");
        }
    }
}

/// Has the project's own entry watched for as long as the server runs.
fn watch(peer: Peer<Watch>, entry: EntryPath) {
    actix::spawn(async move {
        // That it cannot be watched is an event that everyone sees.
        if let Err(error) = peer.ask(Watch { entry }).await {
            tracing::warn!(%error, "the project is not watched");
        }
    });
}

/// Opens the outbox behind `broker`. Until it is open, cancels are refused and offered again.
fn open_outbox(broker: cancel_broker::Handle, outbox: PathBuf) {
    actix::spawn(async move {
        if let Err(error) = cancel_broker::start(cancel_broker::Settings { outbox }, &broker).await {
            tracing::error!(%error, "jobs of runs that are stopped cannot be cancelled");
        }
    });
}

fn registry_settings(
    project: &Project,
    state_dir: &Path,
    runner: PathBuf,
    entry: EntryPath,
) -> Result<train_registry::Settings, String> {
    let run = &project.settings.run;
    Ok(train_registry::Settings {
        project: project.root.clone(),
        entry,
        runs_dir: state_dir.join("runs"),
        runs_table: state_dir.join("runs.db"),
        socket_dir: socket_dir(),
        host_command: host_command()?,
        node: run.node.clone(),
        runner,
        env: BTreeMap::new(),
        hot_swap_signal: run.hot_swap_signal_number().map_err(|error| error.to_string())?,
        early_stop_timeout: Duration::from_millis(run.early_stop_timeout_ms),
        drain: Duration::from_millis(run.drain_ms),
        kill_grace: Duration::from_millis(run.kill_grace_ms),
        alone: (run.alone_ms > 0).then(|| Duration::from_millis(run.alone_ms)),
        pty: run.pty,
        log_cap: run.log_cap(),
        policy: train_registry::Policy {
            hot_only: run.hot_only,
            restart_from: match project.settings.restart.from {
                settings::RestartFrom::Checkpoint => train_registry::RestartFrom::Checkpoint,
                settings::RestartFrom::Scratch => train_registry::RestartFrom::Scratch,
            },
        },
    })
}

fn terminal_settings(project: &Project, state_dir: &Path) -> Result<terminal_registry::Settings, String> {
    let (run, terminal) = (&project.settings.run, &project.settings.terminal);
    Ok(terminal_registry::Settings {
        project: project.root.clone(),
        terminals_dir: state_dir.join("terminals"),
        socket_dir: socket_dir(),
        host_command: host_command()?,
        shell: terminal.shell.clone(),
        max_sessions: terminal.max_sessions,
        alone: Duration::from_millis(terminal.alone_ms),
        drain: Duration::from_millis(run.drain_ms),
        kill_grace: Duration::from_millis(run.kill_grace_ms),
    })
}

/// The program that becomes a run-host.
fn host_command() -> Result<Vec<OsString>, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    Ok(vec![program.into(), "run-host".into()])
}

/// The signals that ask the server to end.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn arm() -> Result<Self, String> {
        let arm = |kind| signal(kind).map_err(|error| format!("signals cannot be handled: {error}"));
        Ok(Self { interrupt: arm(SignalKind::interrupt())?, terminate: arm(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Listens on `host`, on `port` or the next free one. Says which port was taken instead of which.
fn listen(host: &str, port: u16) -> Result<(TcpListener, Option<u16>), String> {
    let failed = |port: u16, error: std::io::Error| format!("cannot listen on {host}:{port}: {error}");
    for candidate in port..=port.saturating_add(PORTS_TRIED) {
        match TcpListener::bind((host, candidate)) {
            Ok(listener) => return Ok((listener, (candidate != port).then_some(port))),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(candidate, error)),
        }
    }
    Err(format!("ports {port} to {} on {host} are all taken; choose one with --port", port + PORTS_TRIED))
}

/// The address as a browser on this machine uses it.
fn url_of(listener: &TcpListener) -> Result<String, String> {
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let host = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    Ok(format!("http://{host}:{}", address.port()))
}

/// 32 random bytes, in hex.
fn fresh_token() -> String {
    use std::fmt::Write as _;
    rand::random::<[u8; 32]>().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Best effort: a server without a desktop has no browser.
fn open_browser(url: &str) {
    let opener = process::Launch::new("xdg-open").arg(url).detached();
    actix::spawn(async move {
        if let Err(error) = process::Spawner::get().spawn(opener).await {
            tracing::warn!(%error, "no browser could be opened");
        }
    });
}
