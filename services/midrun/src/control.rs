//! The control plane a server trains on: the one it was told of, or one of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::{ExecutorSetting, Handle};
use tokio::sync::watch;
use wire::ControlPlane;

use crate::credentials;
use crate::project::Project;

/// What the other parts are told: nothing yet, or where and as whom. Closed when there will be none.
pub(crate) type Known = watch::Receiver<Option<ControlPlane>>;

/// The control plane in the server, while it is up.
pub(crate) struct Own(Option<Handle>);

impl Own {
    /// Takes it down; its jobs go on in its next life.
    pub(crate) async fn shutdown(self, limit: Duration) {
        if let Some(handle) = self.0 {
            handle.shutdown(limit).await;
        }
    }
}

/// Signs in to the control plane, after starting it if it is the server's own. What goes wrong is said in the log,
/// and runs of trainers that need no control plane work all the same.
pub(crate) async fn connect(project: &Project, tell: watch::Sender<Option<ControlPlane>>) -> Own {
    let (url, file, own) = match project.settings.control_plane.url.clone() {
        Some(url) => (url, credentials::user_config_dir().join("credentials.json"), Own(None)),
        None => match start(project).await {
            Ok((handle, dir)) => (handle.url(), dir.join("credentials.json"), Own(Some(handle))),
            Err(why) => {
                tracing::error!(why, "there is no control plane");
                return Own(None);
            }
        },
    };
    match credentials::sign_in(&url, &file, &project.name(), own.0.is_some()).await {
        Ok(control_plane) => {
            tell.send_replace(Some(control_plane));
        }
        Err(why) => tracing::error!(why, "there is no control plane"),
    }
    // The channel must stay open for as long as somebody is known on it.
    if tell.borrow().is_some() {
        tokio::spawn(async move { tell.closed().await });
    }
    own
}

async fn start(project: &Project) -> Result<(Handle, PathBuf), String> {
    let dir = project.state_dir().join("control-plane");
    let wanted = &project.settings.control_plane;
    let mut executor = match wanted.executor.split_first() {
        None => ExecutorSetting::builtin().map_err(|error| error.to_string())?,
        Some((program, args)) => ExecutorSetting::command(program, args),
    };
    executor.env.push(("MIDRUN_PROJECT_DIR".into(), project.root.clone().into()));
    let settings = control_plane::Settings {
        max_concurrent_jobs: wanted.max_concurrent_jobs,
        stop_grace: Duration::from_millis(wanted.stop_grace_ms),
        // One server, a handful of clients: a thread is enough, and each costs memory.
        http_workers: 1,
        ..control_plane::Settings::new(dir.clone(), executor)
    };
    let control_plane =
        control_plane::ControlPlane::open(settings).await.map_err(|error| error.to_string())?;
    let listener = listen(wanted.port, &dir.join("port"))?;
    let handle = control_plane.serve(listener).map_err(|error| error.to_string())?;
    Ok((handle, dir))
}

/// Listens on the loopback interface: on `port`, or where the last server of this project did, since its runs look
/// for their jobs there.
fn listen(port: u16, kept: &Path) -> Result<TcpListener, String> {
    let last = std::fs::read_to_string(kept).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let listener = match last.filter(|_| port == 0).map(|last| TcpListener::bind(("127.0.0.1", last))) {
        Some(Ok(listener)) => listener,
        _ => TcpListener::bind(("127.0.0.1", port))
            .map_err(|error| format!("port {port} on the loopback interface: {error}"))?,
    };
    let chosen = listener.local_addr().map_err(|error| error.to_string())?.port();
    std::fs::write(kept, chosen.to_string()).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(listener)
}
