//! Starting a run-host: the run's folder, what the host needs to know, the process, the first connection.
//!
//! What must hold: a host belongs to no terminal and dies with nobody; what it needs stands in its folder before it
//! is started; credentials are readable by their owner alone and stand in no argument and no variable.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Launch, Spawner};
use tokio::net::UnixStream;
use tokio::time::Instant;
use wire::host::Spec;
use wire::{ControlPlane, RunId};

use crate::run_state::Plan;
use crate::settings::Settings;

/// How long a host may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// Starts the host of `plan`'s run and connects to it.
pub(crate) async fn launch(
    settings: &Settings,
    plan: &Plan,
    control_plane: Option<ControlPlane>,
) -> Result<UnixStream, String> {
    let dir = settings.runs_dir.join(plan.run.as_str());
    let socket = socket_of(settings, &plan.run);
    let spec = spec(settings, plan, &dir, &socket, control_plane.as_ref())?;
    let (folder, sockets) = (dir.clone(), settings.socket_dir.clone());
    let host_log = tokio::task::spawn_blocking(move || prepare(&folder, &sockets, &spec, control_plane))
        .await
        .map_err(|panic| panic.to_string())?
        .map_err(|error| format!("{} cannot be written: {error}", dir.display()))?;
    let (program, args) = settings.host_command.split_first().ok_or("no program to start as a run-host")?;
    let command =
        Launch::new(program).args(args).arg("--dir").arg(&dir).detached().huge_pages(false).stderr(host_log);
    let mut host = Spawner::get().spawn(command).await.map_err(|error| format!("no run-host: {error}"))?;
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < until && matches!(host.try_wait(), Ok(None)) => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(error) => return Err(host_did_not_listen(&dir, &error).await),
        }
    }
}

/// Connects to the host of a run that an earlier server started.
pub(crate) async fn reconnect(settings: &Settings, run: &RunId) -> Result<UnixStream, String> {
    let socket = socket_of(settings, run);
    let identity = settings.runs_dir.join(run.as_str()).join("host.json");
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => return Ok(stream),
            // A host that lives but does not listen is about to, or has just ended its run.
            Err(_) if Instant::now() < until && is_alive(&identity) => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(_) => return Err("its run-host ended while no server was there to see it".into()),
        }
    }
}

fn is_alive(identity: &Path) -> bool {
    let read = std::fs::read(identity).ok();
    read.and_then(|text| serde_json::from_slice::<process::Identity>(&text).ok())
        .is_some_and(|identity| identity.is_alive())
}

/// As whom an earlier server started `run`.
pub(crate) fn credentials(settings: &Settings, run: &RunId) -> Option<ControlPlane> {
    let text = std::fs::read(settings.runs_dir.join(run.as_str()).join(CREDENTIALS)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn socket_of(settings: &Settings, run: &RunId) -> PathBuf {
    settings.socket_dir.join(format!("{run}.sock"))
}

async fn host_did_not_listen(dir: &Path, error: &std::io::Error) -> String {
    let said = tokio::fs::read_to_string(dir.join("host.log")).await.unwrap_or_default();
    match said.trim() {
        "" => format!("its run-host does not listen: {error}"),
        said => format!("its run-host did not start: {said}"),
    }
}

fn spec(
    settings: &Settings,
    plan: &Plan,
    dir: &Path,
    socket: &Path,
    control_plane: Option<&ControlPlane>,
) -> Result<Spec, String> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
    };
    let mut env = settings.env.clone();
    let millis = settings.early_stop_timeout.as_millis();
    env.insert("MIDRUN_EARLY_STOP_TIMEOUT_MS".into(), millis.to_string());
    env.insert("MIDRUN_HOT_SWAP_SIGNAL".into(), settings.hot_swap_signal.to_string());
    if let Some(traceparent) = &plan.trace.traceparent {
        env.insert("TRACEPARENT".into(), traceparent.clone());
    }
    if let Some(control_plane) = control_plane {
        env.extend(scope(control_plane));
        env.insert("MIDRUN_CREDENTIALS_FILE".into(), text(&dir.join(CREDENTIALS))?);
    }
    let artifact = &plan.code.artifact;
    Ok(Spec {
        run: plan.run.clone(),
        command: vec![
            text(&settings.node)?,
            text(&settings.runner)?,
            "--artifact".into(),
            artifact.path.clone(),
        ],
        cwd: text(&settings.project)?,
        env,
        content_hash: artifact.content_hash.clone(),
        socket: text(socket)?,
        hot_swap_signal: settings.hot_swap_signal,
        drain_ms: millis_of(settings.drain),
        kill_grace_ms: millis_of(settings.kill_grace),
        pty: settings.pty,
        terminal: None,
    })
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn scope(control_plane: &ControlPlane) -> BTreeMap<String, String> {
    [
        ("MIDRUN_CONTROL_PLANE_URL", &control_plane.url),
        ("ARKOR_CLOUD_API_URL", &control_plane.url),
        ("MIDRUN_ORG_SLUG", &control_plane.org_slug),
        ("MIDRUN_PROJECT_SLUG", &control_plane.project_slug),
    ]
    .map(|(name, value)| (name.to_owned(), value.clone()))
    .into()
}

/// The run's copy of the credentials, of the moment it was started.
const CREDENTIALS: &str = "credentials.json";

/// Writes the folder and opens the file for what the host says on standard error. Blocks on the disk.
fn prepare(
    dir: &PathBuf,
    sockets: &PathBuf,
    spec: &Spec,
    control_plane: Option<ControlPlane>,
) -> std::io::Result<std::fs::File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(sockets)?;
    if let Some(control_plane) = control_plane {
        write_private(&dir.join(CREDENTIALS), &serde_json::to_vec(&control_plane)?)?;
    }
    write_private(&dir.join("spec.json"), &serde_json::to_vec_pretty(spec)?)?;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("host.log"))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}
