//! `midrun serve`: some of the services in this process, the others elsewhere.
//!
//! What must hold: the actors cannot tell which of their peers are here; a service that is needed and neither here nor
//! given an address is an error before anything is started; the end is ordered and bounded as that of `midrun dev`.

mod elsewhere;
mod entrance;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use failpoint::Point;
use peer::{Backlog, Exchange, Feed, FeedWriter, Followed, Remote, bring_here};
use supervise::Ending;
use tokio::sync::watch;
use wire::message::FeedEvent;
use wire::{Acting, BuildEvent, BuildOutcome, ControlPlane, DevEvent, Rebuild, Secret, Troubles};

use self::elsewhere::{Elsewhere, peer_of};
use self::entrance::Entrance;
use crate::address::{fresh_token, listen, url_of};
use crate::cli::{self, Service};
use crate::console::{Console, Greeting, Style};
use crate::ending::{self, CONTROL_PLANE_MARGIN, END_LIMIT, Ends, PART_LIMIT, end_runs};
use crate::hold::Hold;
use crate::project::Project;
use crate::state::ServerFile;
use crate::troubles::{self, Board};
use crate::{control, sdk, state_folder, wiring};

/// Events of another process that are kept for readers that are behind.
const KEPT_EVENTS: usize = 256;
const KEPT_BUILDS: usize = 16;

/// Serves until it is told to end.
pub(crate) fn command(args: &cli::Serve, begun: Instant) -> ExitCode {
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

async fn serve(args: &cli::Serve, begun: Instant) -> Result<(), String> {
    let mut project = Project::open_with(&args.project, args.config.as_deref())?;
    let wanted: BTreeSet<Service> = args.services.iter().copied().collect();
    if wanted.contains(&Service::ControlPlane) {
        // It is here, wherever the others are told that it is.
        project.settings.control_plane.url = None;
    }
    control::check(&project)?;
    let peers = &project.settings.peers;
    let secret = elsewhere::secret(peers.token_file.as_deref())?;
    let control_plane = project.settings.control_plane.url.as_deref();
    let elsewhere = Elsewhere::find(&wanted, peers, control_plane, secret.as_ref())?;
    let state_dir = project.make_state_dir()?;
    failpoint::reach(Point::ServerFolderReady);
    let holds = take(&wanted, &state_dir)?;
    failpoint::reach(Point::ServerLocked);
    let mut asked_to_end = Ends::arm()?;

    let console = Console::new(Style::of(args.json));
    let mut here = Here::start(&project, &state_dir, &wanted, &elsewhere)?;
    failpoint::reach(Point::ServerPartsStarted);
    let board = Board::new();
    elsewhere.tell(&board, &wanted);
    here.tell(&board);
    let entrance = here.open_entrance(&board, &project, &wanted, secret)?;
    here.tell_of_lives(entrance.exchange());
    actix::spawn(troubles::say(board.watch(), Console::new(Style::of(args.json)), "state folder"));
    console.serving(&wanted.iter().map(|service| service.name()).collect::<Vec<_>>(), &entrance.url);
    if wanted.contains(&Service::SseGateway) {
        here.serve_edge(&project, &elsewhere, &board, args, begun)?;
    }
    let own = here.know_control_plane(&project, &wanted).await;
    if let Some(url) = own.url() {
        console.control_plane(&url);
    }
    own.trouble().into_iter().for_each(|trouble| board.follow(trouble));

    asked_to_end.next().await;
    if let Some(registry) = &here.registry {
        end_runs(registry, &console, &mut asked_to_end).await;
    }
    let stop_grace = Duration::from_millis(project.settings.control_plane.stop_grace_ms);
    here.ending()
        .then("entrance", END_LIMIT, entrance.close())
        .then("control-plane", stop_grace + CONTROL_PLANE_MARGIN, own.shutdown(stop_grace))
        .run()
        .await;
    if let Some(file) = here.file {
        file.remove(&project.root);
    }
    holds.iter().for_each(|hold| hold.release());
    Ok(())
}

/// Each service's right to be the only one of its kind for the project.
fn take(wanted: &BTreeSet<Service>, state_dir: &Path) -> Result<Vec<Rc<Hold>>, String> {
    let part = |service: &Service| match service {
        Service::TrainRegistry => "server",
        service => service.name(),
    };
    let take = |service| Hold::take_part(state_dir, part(service)).map_err(|busy| busy.to_string());
    let holds: Vec<_> = wanted.iter().map(take).collect::<Result<_, _>>()?;
    let holds: Vec<_> = holds.into_iter().map(Rc::new).collect();
    for hold in &holds {
        actix::spawn(Rc::clone(hold).beat());
    }
    Ok(holds)
}

/// The services that run in this process, and what they follow elsewhere.
struct Here {
    watcher: Option<build_watcher::Handle>,
    inspector: Option<manifest_inspector::Handle>,
    registry: Option<train_registry::Handle>,
    terminals: Option<terminal_registry::Handle>,
    broker: Option<cancel_broker::Handle>,
    edge: Option<sse_gateway::Handle>,
    /// Where clients find the edge.
    file: Option<ServerFile>,
    /// What the others are told of the control plane.
    acting: Feed<Acting>,
    tell_control_plane: watch::Sender<Option<ControlPlane>>,
    control_plane: watch::Receiver<Option<ControlPlane>>,
    /// Feeds of other processes, followed for as long as they are here.
    followed: Vec<Box<dyn Any>>,
}

impl Here {
    fn start(
        project: &Project,
        state_dir: &Path,
        wanted: &BTreeSet<Service>,
        elsewhere: &Elsewhere,
    ) -> Result<Self, String> {
        let is_wanted = |service| wanted.contains(&service);
        let (tell_control_plane, control_plane) = watch::channel(None);
        let mut here = Self {
            watcher: None,
            inspector: None,
            registry: None,
            terminals: None,
            broker: None,
            edge: None,
            file: None,
            acting: tell_others(control_plane.clone()),
            tell_control_plane,
            control_plane,
            followed: Vec::new(),
        };
        let runs_code = is_wanted(Service::ManifestInspector) || is_wanted(Service::TrainRegistry);
        let sdk = runs_code.then(|| sdk::make(&project.root, state_dir)).transpose()?;
        if let Some(sdk) = sdk.as_ref().filter(|_| is_wanted(Service::ManifestInspector)) {
            here.inspector = Some(wiring::inspector(project, sdk.inspector_worker.clone()));
        }
        if is_wanted(Service::BuildWatcher) {
            here.watcher = Some(wiring::watcher(project, state_dir)?);
        }
        here.join_inspector(elsewhere, state_dir);
        if is_wanted(Service::CancelBroker) {
            here.broker = Some(wiring::broker(state_dir));
        }
        if let Some(sdk) = sdk.filter(|_| is_wanted(Service::TrainRegistry)) {
            here.start_registry(project, state_dir, elsewhere, sdk.runner)?;
        }
        Ok(here)
    }

    fn join_inspector(&mut self, elsewhere: &Elsewhere, state_dir: &Path) {
        if self.inspector.is_none() {
            return;
        }
        let builds = match (&self.watcher, &elsewhere.build_watcher) {
            (None, Some(remote)) => self.follow_builds(remote, state_dir.join("artifacts")),
            (watcher, _) => watcher.as_ref().expect("it is here or elsewhere").feed.clone(),
        };
        let watcher = self.watcher.as_ref();
        let source_map =
            peer_of(watcher.map(|watcher| &watcher.source_map), elsewhere.build_watcher.as_ref());
        if let Some(inspector) = &self.inspector {
            inspector.follow(builds, source_map);
        }
    }

    fn start_registry(
        &mut self,
        project: &Project,
        state_dir: &Path,
        elsewhere: &Elsewhere,
        runner: PathBuf,
    ) -> Result<(), String> {
        let artifacts = state_dir.join("artifacts");
        let rebuilds = match (&self.inspector, &elsewhere.manifest_inspector) {
            (None, Some(remote)) => {
                self.follow_rebuilds(remote, elsewhere.build_watcher.clone(), artifacts.clone())
            }
            (inspector, _) => inspector.as_ref().expect("it is here or elsewhere").rebuilds.clone(),
        };
        if let Some(remote) = elsewhere.build_watcher.as_ref().filter(|_| self.inspector.is_none()) {
            // For its lives: each start of it is noticed at once.
            self.follow_builds(remote, artifacts);
        }
        let (watcher, broker) = (self.watcher.as_ref(), self.broker.as_ref());
        let builder = elsewhere.build_watcher.as_ref();
        let peers = train_registry::Peers {
            rebuilds,
            watch: peer_of(watcher.map(|watcher| &watcher.watch), builder),
            unwatch: peer_of(watcher.map(|watcher| &watcher.unwatch), builder),
            retain: peer_of(watcher.map(|watcher| &watcher.retain), builder),
            watcher_lives: match (watcher, builder) {
                (None, Some(remote)) => remote.lives(),
                (watcher, _) => watcher.expect("it is here or elsewhere").lives(),
            },
            cancel: peer_of(broker.map(|broker| &broker.cancel), elsewhere.cancel_broker.as_ref()),
            control_plane: self.control_plane.clone(),
        };
        self.registry =
            Some(train_registry::start(wiring::registry_settings(project, state_dir, runner)?, peers));
        self.terminals = Some(terminal_registry::start(wiring::terminal_settings(project, state_dir)?));
        Ok(())
    }

    /// What `remote` builds, with artifacts that are on this machine.
    fn follow_builds(&mut self, remote: &Remote, artifacts: PathBuf) -> Feed<BuildEvent> {
        let builder = remote.clone();
        self.follow(remote, Backlog::Newest, KEPT_BUILDS, move |mut event: BuildEvent| {
            let (builder, artifacts) = (builder.clone(), artifacts.clone());
            async move {
                if let BuildOutcome::Built(artifact) = event.outcome {
                    event.outcome = BuildOutcome::Built(bring_here(&builder, &artifacts, artifact).await);
                }
                event
            }
        })
    }

    /// What `remote` inspected, with artifacts that are on this machine; they come from `builder`, which is here when it
    /// is nobody.
    fn follow_rebuilds(
        &mut self,
        remote: &Remote,
        builder: Option<Remote>,
        artifacts: PathBuf,
    ) -> Feed<Rebuild> {
        self.follow(remote, Backlog::Newest, KEPT_BUILDS, move |mut event: Rebuild| {
            let (builder, artifacts) = (builder.clone(), artifacts.clone());
            async move {
                if let (Ok(good), Some(builder)) = (&mut event.result, &builder) {
                    good.artifact = bring_here(builder, &artifacts, good.artifact.clone()).await;
                }
                event
            }
        })
    }

    fn follow<E: FeedEvent, F: Future<Output = E> + Send>(
        &mut self,
        remote: &Remote,
        backlog: Backlog,
        capacity: usize,
        prepare: impl FnMut(E) -> F + Send + 'static,
    ) -> Feed<E> {
        let followed = Followed::new(remote.clone(), backlog, capacity, prepare);
        let feed = followed.feed();
        self.followed.push(Box::new(followed));
        feed
    }

    /// What the others can have from here.
    fn exchange(&self, state_dir: &Path, secret: Option<Secret>) -> Exchange {
        let mut exchange = Exchange::new(secret);
        if let Some(watcher) = &self.watcher {
            exchange = exchange
                .answer(&watcher.watch)
                .answer(&watcher.unwatch)
                .answer(&watcher.retain)
                .answer(&watcher.source_map)
                .offer(&watcher.feed)
                .lend_artifacts(state_dir.join("build"));
        }
        if let Some(inspector) = &self.inspector {
            exchange = exchange.offer(&inspector.rebuilds);
        }
        if let Some(broker) = &self.broker {
            exchange = exchange.answer(&broker.cancel).answer(&broker.outstanding);
        }
        if let Some(registry) = &self.registry {
            exchange = exchange
                .answer(&registry.start_run)
                .answer(&registry.stop_run)
                .answer(&registry.claim_run)
                .answer(&registry.list_runs)
                .answer(&registry.get_run)
                .answer(&registry.read_log)
                .answer(&registry.newest)
                .offer(&registry.events)
                .offer(&self.acting);
        }
        if let Some(terminals) = &self.terminals {
            exchange = exchange
                .answer(&terminals.open)
                .answer(&terminals.list)
                .answer(&terminals.get)
                .answer(&terminals.close)
                .answer(&terminals.type_into)
                .answer(&terminals.resize)
                .answer(&terminals.run)
                .answer(&terminals.read);
        }
        exchange
    }

    /// Listens for the others, and for those who look after this process.
    fn open_entrance(
        &self,
        board: &Board,
        project: &Project,
        wanted: &BTreeSet<Service>,
        secret: Option<Secret>,
    ) -> Result<Entrance, String> {
        let listener = elsewhere::listen(&project.settings.peers.listen, secret.as_ref())?;
        let has_secret = secret.is_some();
        let exchange = self.exchange(&project.state_dir(), secret).offer(&board.feed());
        let names = wanted.iter().map(|service| service.name()).collect();
        Entrance::open(listener, exchange, board.watch(), names, has_secret)
    }

    fn serve_edge(
        &mut self,
        project: &Project,
        elsewhere: &Elsewhere,
        board: &Board,
        args: &cli::Serve,
        begun: Instant,
    ) -> Result<(), String> {
        let wanted = &project.settings.gateway;
        let (listener, instead_of) = listen(&wanted.host, wanted.port)?;
        let url = url_of(&listener)?;
        let token = Secret::new(fresh_token());
        let remote = elsewhere.train_registry.as_ref();
        let events: Feed<DevEvent> = match (&self.registry, remote) {
            (None, Some(remote)) => self.follow(remote, Backlog::All, KEPT_EVENTS, async |event| event),
            (registry, _) => registry.as_ref().expect("it is here or elsewhere").events.clone(),
        };
        if let Some(remote) = remote {
            let acting: Feed<Acting> = self.follow(remote, Backlog::Newest, 1, async |acting| acting);
            actix::spawn(act_as(acting, self.tell_control_plane.clone()));
        }
        let style = Style::of(args.json);
        let state_dir = project.state_dir();
        state_folder::watch_over(state_dir.clone(), board.place(), move |news| {
            Console::new(style).warn(news)
        });
        let peers = self.edge_peers(elsewhere, events.clone(), board.watch());
        let gateway = sse_gateway::Gateway::new(wiring::gateway_settings(project, token.clone()), peers);
        let edge = gateway.map_err(|error| error.to_string())?.serve(listener);
        let edge = edge.map_err(|error| error.to_string())?;
        board.follow(edge.trouble());
        self.edge = Some(edge);
        failpoint::reach(Point::ServerEdgeListening);
        let file = ServerFile {
            url: url.clone(),
            token: token.expose().to_owned(),
            process: process::Identity::own().map_err(|error| error.to_string())?,
            started_at: wire::now(),
        };
        file.write(&project.root).map_err(|error| format!("{}: {error}", state_dir.display()))?;
        self.file = Some(file);
        failpoint::reach(Point::ServerAnnounced);
        let console = Console::new(style);
        console.greet(&Greeting {
            url: &url,
            token: token.expose(),
            project: &project.root.display().to_string(),
            since_start: begun.elapsed(),
            instead_of,
        });
        actix::spawn(console.follow(events));
        Ok(())
    }

    fn edge_peers(
        &self,
        elsewhere: &Elsewhere,
        events: Feed<DevEvent>,
        trouble: watch::Receiver<Troubles>,
    ) -> sse_gateway::Peers {
        let (registry, terminals) = (self.registry.as_ref(), self.terminals.as_ref());
        let remote = elsewhere.train_registry.as_ref();
        sse_gateway::Peers {
            start: peer_of(registry.map(|registry| &registry.start_run), remote),
            stop: peer_of(registry.map(|registry| &registry.stop_run), remote),
            claim: peer_of(registry.map(|registry| &registry.claim_run), remote),
            list: peer_of(registry.map(|registry| &registry.list_runs), remote),
            get: peer_of(registry.map(|registry| &registry.get_run), remote),
            read_log: peer_of(registry.map(|registry| &registry.read_log), remote),
            newest: peer_of(registry.map(|registry| &registry.newest), remote),
            events,
            outstanding: peer_of(
                self.broker.as_ref().map(|broker| &broker.outstanding),
                elsewhere.cancel_broker.as_ref(),
            ),
            terminals: sse_gateway::TerminalPeers {
                open: peer_of(terminals.map(|terminals| &terminals.open), remote),
                list: peer_of(terminals.map(|terminals| &terminals.list), remote),
                get: peer_of(terminals.map(|terminals| &terminals.get), remote),
                close: peer_of(terminals.map(|terminals| &terminals.close), remote),
                type_into: peer_of(terminals.map(|terminals| &terminals.type_into), remote),
                resize: peer_of(terminals.map(|terminals| &terminals.resize), remote),
                run: peer_of(terminals.map(|terminals| &terminals.run), remote),
                read: peer_of(terminals.map(|terminals| &terminals.read), remote),
            },
            control_plane: self.control_plane.clone(),
            trouble,
        }
    }

    /// Signs in where runs are started from; starts the control plane where it is wanted.
    async fn know_control_plane(&self, project: &Project, wanted: &BTreeSet<Service>) -> control::Own {
        if !wanted.contains(&Service::ControlPlane) && !wanted.contains(&Service::TrainRegistry) {
            return control::Own::default();
        }
        control::connect(project, self.tell_control_plane.clone()).await
    }

    /// Whatever is wrong with a part stands on `board`.
    fn tell(&self, board: &Board) {
        let troubles = [
            self.watcher.as_ref().map(build_watcher::Handle::trouble),
            self.inspector.as_ref().map(manifest_inspector::Handle::trouble),
            self.registry.as_ref().map(train_registry::Handle::trouble),
            self.terminals.as_ref().map(terminal_registry::Handle::trouble),
            self.broker.as_ref().and_then(cancel_broker::Handle::trouble),
        ];
        troubles.into_iter().flatten().for_each(|trouble| board.follow(trouble));
    }

    /// The others are told of each new life of a part that they asked for something to be kept in mind.
    fn tell_of_lives(&self, exchange: &Exchange) {
        let Some(mut lives) = self.watcher.as_ref().map(build_watcher::Handle::lives) else { return };
        let exchange = exchange.clone();
        actix::spawn(async move {
            while lives.changed().await.is_ok() {
                exchange.begin_new_life();
            }
        });
    }

    fn ending(&self) -> Ending<'_> {
        let mut ending = Ending::default();
        if let Some(terminals) = &self.terminals {
            ending = ending.then("terminals", END_LIMIT, terminals.shutdown(PART_LIMIT));
        }
        if let Some(edge) = &self.edge {
            ending = ending.then("sse-gateway", END_LIMIT, edge.shutdown(PART_LIMIT));
        }
        if let Some(registry) = &self.registry {
            ending = ending.then("train-registry", END_LIMIT, registry.shutdown(PART_LIMIT));
        }
        if let Some(broker) = &self.broker {
            ending = ending.then("cancel-broker", END_LIMIT, broker.shutdown(PART_LIMIT));
        }
        if let Some(inspector) = &self.inspector {
            ending = ending.then("manifest-inspector", END_LIMIT, inspector.shutdown(PART_LIMIT));
        }
        if let Some(watcher) = &self.watcher {
            ending = ending.then("build-watcher", END_LIMIT, watcher.shutdown(PART_LIMIT));
        }
        ending
    }
}

/// Tells whoever follows as whom this process acts.
fn tell_others(mut known: watch::Receiver<Option<ControlPlane>>) -> Feed<Acting> {
    let writer = FeedWriter::new(1);
    let feed = writer.feed();
    actix::spawn(async move {
        loop {
            let control_plane = known.borrow_and_update().clone();
            writer.publish(Acting { control_plane });
            if known.changed().await.is_err() {
                return;
            }
        }
    });
    feed
}

/// Acts as whom the one that signed in says.
async fn act_as(acting: Feed<Acting>, tell: watch::Sender<Option<ControlPlane>>) {
    let mut acting = acting.read(peer::Start::Snapshot);
    while let Some(delivery) = acting.next().await {
        tell.send_replace(delivery.event.control_plane.clone());
    }
}
