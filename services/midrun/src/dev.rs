//! `midrun dev`: every part in one process, and their end.
//!
//! The end is ordered and bounded: first the runs (at their next checkpoint; at once when asked twice), then the edge
//! (its streams first), then the control plane.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use failpoint::Point;
use supervise::Ending;
use tokio::sync::watch;
use wire::{Secret, Troubles};

use crate::address::{fresh_token, listen, url_of};
use crate::cli;
use crate::console::{Console, Greeting, Style};
use crate::control;
use crate::ending::{self, CONTROL_PLANE_MARGIN, END_LIMIT, Ends, PART_LIMIT, end_runs};
use crate::hold::Hold;
use crate::project::Project;
use crate::sdk;
use crate::state::ServerFile;
use crate::state_folder;
use crate::troubles::{self, Board};
use crate::wiring;

/// Serves until it is told to end.
pub(crate) fn command(args: &cli::Dev, begun: Instant) -> ExitCode {
    process::share_one_heap();
    state_folder::bear_size_limits();
    match ending::run(serve(args, begun)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn open(args: &cli::Dev) -> Result<Project, String> {
    let mut project = Project::open(&args.dir)?.with_profile_account();
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
    control::check(&project)?;
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
    let board = Board::new();
    parts.tell(&board);
    state_folder::watch_over(state_dir.clone(), board.place(), move |news| Console::new(style).warn(news));
    let edge = parts.serve_edge(&project, listener, token.clone(), board.watch())?;
    board.follow(edge.trouble());
    actix::spawn(troubles::say(board.watch(), Console::new(style), "state folder"));
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
    actix::spawn(wiring::give_back_memory_when_quiet(parts.registry.events.clone()));
    let own = control::connect(&project, parts.tell_control_plane.clone()).await;
    own.trouble().into_iter().for_each(|trouble| board.follow(trouble));

    asked_to_end.next().await;
    end_runs(&parts.registry, &Console::new(style), &mut asked_to_end).await;
    let stop_grace = Duration::from_millis(project.settings.control_plane.stop_grace_ms);
    Ending::default()
        .then("terminals", END_LIMIT, parts.terminals.shutdown(PART_LIMIT))
        .then("sse-gateway", END_LIMIT, edge.shutdown(PART_LIMIT))
        .then("train-registry", END_LIMIT, parts.registry.shutdown(PART_LIMIT))
        .then("cancel-broker", END_LIMIT, parts.broker.shutdown(PART_LIMIT))
        .then("manifest-inspector", END_LIMIT, parts.inspector.shutdown(PART_LIMIT))
        .then("build-watcher", END_LIMIT, parts.watcher.shutdown(PART_LIMIT))
        .then("control-plane", stop_grace + CONTROL_PLANE_MARGIN, own.shutdown(stop_grace))
        .run()
        .await;
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
        let sdk = sdk::make(&project.root, state_dir)?;
        // First, since Node takes longer to start than a first build takes.
        let inspector = wiring::inspector(project, sdk.inspector_worker);
        let watcher = wiring::watcher(project, state_dir)?;
        inspector.follow(watcher.feed.clone(), watcher.source_map.peer());
        let broker = wiring::broker(state_dir);
        let (tell_control_plane, control_plane) = watch::channel(None);
        let registry = train_registry::start(
            wiring::registry_settings(project, state_dir, sdk.runner)?,
            train_registry::Peers {
                rebuilds: inspector.rebuilds.clone(),
                watch: watcher.watch.peer(),
                unwatch: watcher.unwatch.peer(),
                retain: watcher.retain.peer(),
                watcher_lives: watcher.lives(),
                cancel: broker.cancel.peer(),
                control_plane: control_plane.clone(),
            },
        );
        let terminals = terminal_registry::start(wiring::terminal_settings(project, state_dir)?);
        Ok(Self { watcher, inspector, registry, terminals, broker, control_plane, tell_control_plane })
    }

    /// Whatever is wrong with a part stands on `board`.
    fn tell(&self, board: &Board) {
        board.follow(self.watcher.trouble());
        board.follow(self.inspector.trouble());
        board.follow(self.registry.trouble());
        board.follow(self.terminals.trouble());
        self.broker.trouble().into_iter().for_each(|trouble| board.follow(trouble));
    }

    fn serve_edge(
        &self,
        project: &Project,
        listener: TcpListener,
        token: Secret,
        trouble: watch::Receiver<Troubles>,
    ) -> Result<sse_gateway::Handle, String> {
        let settings = wiring::gateway_settings(project, token);
        let peers = sse_gateway::Peers {
            start: self.registry.start_run.peer(),
            stop: self.registry.stop_run.peer(),
            claim: self.registry.claim_run.peer(),
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
