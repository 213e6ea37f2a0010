//! How each part is started from a project's settings, whichever process it is in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use peer::{AskError, Feed, Peer, Start};
use tokio::sync::watch;
use wire::build::Watch;
use wire::event::DevEvent;
use wire::{EntryPath, Secret, TraceContext};

use crate::control;
use crate::project::{Project, socket_dir};

/// How long the project's first build may take before that is said.
const FIRST_BUILD_LIMIT: Duration = Duration::from_secs(30);
/// How long nothing must have happened before memory is given back.
const QUIET: Duration = Duration::from_secs(2);

/// An inspector that follows nothing yet.
pub(crate) fn inspector(project: &Project, worker: PathBuf) -> manifest_inspector::Handle {
    let settings = &project.settings;
    manifest_inspector::start(manifest_inspector::Settings {
        project: project.root.clone(),
        node: settings.run.node.clone(),
        worker,
        time_limit: Duration::from_millis(settings.inspector.time_limit_ms),
        max_imports: settings.inspector.max_imports,
    })
}

/// A watcher, told to watch the project's own entry.
pub(crate) fn watcher(project: &Project, state_dir: &Path) -> Result<build_watcher::Handle, String> {
    let settings = &project.settings.build;
    let watcher = build_watcher::start(&build_watcher::Settings {
        project_root: project.root.clone(),
        state_dir: state_dir.to_owned(),
        settle: Duration::from_millis(settings.settle_ms),
        keep: build_watcher::Keep { newest: settings.keep, ..build_watcher::Keep::default() },
    })
    .map_err(|error| format!("{} cannot be watched: {error}", project.root.display()))?;
    actix::spawn(watch(watcher.watch.peer(), watcher.lives(), project.entry()));
    Ok(watcher)
}

/// Has the project's own entry watched for as long as the server runs, by each life of the watcher.
async fn watch(peer: Peer<Watch>, mut lives: watch::Receiver<Option<String>>, entry: EntryPath) {
    loop {
        lives.mark_unchanged();
        let asked = Watch { entry: entry.clone() };
        match peer.ask_within(asked, TraceContext::default(), FIRST_BUILD_LIMIT).await {
            // That it cannot be watched is an event that everyone sees, and the watcher goes on trying.
            Ok(()) | Err(AskError::Refused(_)) => {}
            Err(error) => tracing::warn!(%error, "the project's first build is not done"),
        }
        if lives.changed().await.is_err() {
            return;
        }
    }
}

/// A broker. Until its outbox is open, cancels are refused and offered again. Those to the project's own control plane go
/// where that is, even if somebody else has the port on which their runs knew it.
pub(crate) fn broker(state_dir: &Path) -> cancel_broker::Handle {
    let broker = cancel_broker::Handle::default();
    let folder = state_dir.to_owned();
    let moved = Rc::new(move |url: &str| control::moved(&folder, url));
    cancel_broker::start(cancel_broker::Settings { outbox: state_dir.join("cancels.db"), moved }, &broker);
    broker
}

/// What a registry is made of.
pub(crate) fn registry_settings(
    project: &Project,
    state_dir: &Path,
    runner: PathBuf,
) -> Result<train_registry::Settings, String> {
    let run = &project.settings.run;
    Ok(train_registry::Settings {
        project: project.root.clone(),
        entry: project.entry(),
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

/// What a registry of terminals is made of.
pub(crate) fn terminal_settings(
    project: &Project,
    state_dir: &Path,
) -> Result<terminal_registry::Settings, String> {
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

/// What the edge is made of.
pub(crate) fn gateway_settings(project: &Project, token: Secret) -> sse_gateway::Settings {
    let wanted = &project.settings.gateway;
    sse_gateway::Settings {
        token,
        allowed_hosts: wanted.allowed_hosts.clone(),
        title: format!("{} · midrun", project.name()),
        assets: sse_gateway::Assets::built_in(),
        version: env!("CARGO_PKG_VERSION").into(),
        workers: wanted.workers,
        trace_ui: wanted.trace_ui.clone(),
        limits: sse_gateway::Limits::default(),
    }
}

/// The program that becomes a run-host.
fn host_command() -> Result<Vec<OsString>, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    Ok(vec![program.into(), "run-host".into()])
}

/// Gives memory back each time when nothing has happened for a while: a server is idle for most of the day.
pub(crate) async fn give_back_memory_when_quiet(events: Feed<DevEvent>) {
    let mut events = events.read(Start::Snapshot);
    while events.next().await.is_some() {
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, events.next()).await {}
        if let Err(error) = process::give_back_memory() {
            tracing::debug!(%error, "no memory is given back");
        }
    }
}
