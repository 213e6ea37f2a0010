//! Starting a run-host: the run's folder, what the host needs to know, the process, the first connection.
//!
//! What must hold: a host belongs to no terminal and dies with nobody; what it needs stands in its folder before it
//! is started; credentials are readable by their owner alone and stand in no argument and no variable.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use failpoint::Point;
use hosting::Place;
use process::{Launch, Spawner};
use tokio::net::UnixStream;
use tokio::time::Instant;
use wire::host::Spec;
use wire::{ControlPlane, RunId};

use crate::run_state::Plan;
use crate::settings::Settings;

/// How long a host may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a host that ends may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(5);
const GONE_PAUSE: Duration = Duration::from_millis(20);
/// What a runner that gave its early stop up may take to cancel its job and end.
const EARLY_STOP_MARGIN: Duration = Duration::from_secs(30);
/// How long a host that does not listen has to end what it may have started.
const END_GRACE: Duration = Duration::from_secs(2);
/// Between two looks at whether it listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// Starts the host of `plan`'s run and connects to it, unless it was done before that could be: then all there is to
/// know of it stands in its log.
pub(crate) async fn launch(
    settings: &Settings,
    plan: &Plan,
    control_plane: Option<ControlPlane>,
) -> Result<Option<UnixStream>, String> {
    let place = place(settings, &plan.run);
    let (dir, socket) = (place.dir(), place.socket());
    let spec = spec(settings, plan, dir, socket, control_plane.as_ref())?;
    let (folder, sockets) = (dir.to_owned(), settings.socket_dir.clone());
    let host_log = tokio::task::spawn_blocking(move || prepare(&folder, &sockets, &spec, control_plane))
        .await
        .map_err(|panic| panic.to_string())?
        .map_err(|error| format!("{} cannot be written: {error}", dir.display()))?;
    failpoint::reach(Point::FolderWritten);
    let (program, args) = settings.host_command.split_first().ok_or("no program to start as a run-host")?;
    let command = Launch::new(program)
        .args(args)
        .arg("--dir")
        .arg(dir)
        .env_remove(RUN_ID)
        .env_remove(RUN_DIR)
        .detached()
        .huge_pages(false)
        .stderr(host_log);
    let mut host = Spawner::get().spawn(command).await.map_err(|error| format!("no run-host: {error}"))?;
    failpoint::reach(Point::HostSpawned);
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => {
                failpoint::reach(Point::HostConnected);
                return Ok(Some(stream));
            }
            Err(_) if Instant::now() < until && matches!(host.try_wait(), Ok(None)) => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(error) => {
                // The run is about to be told as not started: nobody would know of a host that listens later.
                if let Err(error) = host.end(END_GRACE).await {
                    tracing::warn!(run = %plan.run, %error, "how its run-host ended is not known");
                }
                if place.log().exists() {
                    return Ok(None);
                }
                return Err(host_did_not_listen(dir, &error).await);
            }
        }
    }
}

/// What became of the host of a run that an earlier server started.
#[derive(Debug)]
pub(crate) enum Found {
    /// It listens.
    Host(UnixStream),
    /// It is gone.
    Gone,
    /// There never was one, and there never will be.
    NeverStarted,
}

/// Connects to the host of a run that an earlier server started.
///
/// # Errors
/// When the run's folder cannot be used, so that nothing is known.
pub(crate) async fn reconnect(settings: &Settings, run: &RunId) -> std::io::Result<Found> {
    let place = place(settings, run);
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        if let Ok(stream) = UnixStream::connect(place.socket()).await {
            failpoint::reach(Point::Reconnected);
            return Ok(Found::Host(stream));
        }
        match claimant(place.dir())? {
            // A host that lives but does not listen is about to, or has just ended its run.
            Claimant::Host(host) if host.is_alive() && Instant::now() < until => {
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Claimant::Host(_) => return Ok(Found::Gone),
            Claimant::Server => return Ok(Found::NeverStarted),
        }
    }
}

/// Who has a run, if no host listens for it.
enum Claimant {
    Host(process::Identity),
    /// This server or one before it, which found that there was no host.
    Server,
}

/// What stands in the claim of a run that no host will ever have.
const NEVER_STARTED: &[u8] = b"{\"neverStarted\":true}";

/// Finds out who has the run in `dir`, and takes it where nobody has: a host that is spawned but has not come so far
/// must not start a runner any more, since nobody would know of it.
fn claimant(dir: &Path) -> std::io::Result<Claimant> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match runlog::claim(dir, NEVER_STARTED) {
        Ok(()) => return Ok(Claimant::Server),
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    let who = runlog::claimed_by(dir)?.unwrap_or_default();
    Ok(serde_json::from_slice(&who).map_or(Claimant::Server, Claimant::Host))
}

/// Takes the run whose folder is `folder` where nobody has it. Answers whether no host has it or ever will. Blocks on
/// the disk.
pub(crate) fn claim(folder: &Path) -> bool {
    matches!(claimant(folder), Ok(Claimant::Server))
}

/// Comes true when the host of the run whose folder is `folder` is gone, or lives on and on.
pub(crate) async fn host_gone(folder: &Path) {
    let claim = runlog::claimed_by(folder).ok().flatten().unwrap_or_default();
    let Ok(host) = serde_json::from_slice::<process::Identity>(&claim) else { return };
    let until = Instant::now() + GONE_LIMIT;
    while host.is_alive() && Instant::now() < until {
        tokio::time::sleep(GONE_PAUSE).await;
    }
}

/// As whom the run whose folder is `folder` was started.
pub(crate) fn credentials(folder: &Path) -> Option<ControlPlane> {
    let text = std::fs::read(folder.join(CREDENTIALS)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Deletes them. Blocks on the disk.
pub(crate) fn forget_credentials(folder: &Path) {
    match std::fs::remove_file(folder.join(CREDENTIALS)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a run's credentials could not be deleted");
        }
        _ => {}
    }
}

/// Where the host of a run is.
pub(crate) fn place(settings: &Settings, run: &RunId) -> Place {
    Place::new(settings.runs_dir.join(run.as_str()), settings.socket_dir.join(format!("{run}.sock")))
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
    // Which project's run this is: a copy of the project has runs of the same ids.
    env.insert(RUN_DIR.into(), text(dir)?);
    if plan.replaces.is_some() {
        // Empty means none: a server may have been started with the variable for its first run.
        let resume = plan.resume().map(ToString::to_string).unwrap_or_default();
        env.insert("MIDRUN_RESUME_FROM".into(), resume);
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
        alone_ms: settings.alone.map(millis_of),
        early_stop_ms: millis_of(settings.early_stop_timeout + EARLY_STOP_MARGIN),
        pty: settings.pty,
        log_cap: Some(settings.log_cap),
        executor: false,
        stdin: None,
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

/// The variables that every process of a run carries: which run, and where its folder is.
pub(crate) const RUN_ID: &str = "MIDRUN_RUN_ID";
pub(crate) const RUN_DIR: &str = "MIDRUN_RUN_DIR";

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
