//! The control plane a server trains on: the one it was told of, or one of its own.
//!
//! The one of its own is found where it was: runs that outlived a server look for their jobs at its old address. Where
//! somebody else has that port now, the control plane listens on another one, for new runs, and takes the old one as
//! soon as it is free.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control_plane::{ControlPlane as Plane, ExecutorSetting, Handle, HostSetting};
use reqwest::Url;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::{ControlPlane, Trouble};

use crate::credentials;
use crate::port_holder;
use crate::project::{Project, socket_dir};

/// Between two tries to sign in: the first pause, which doubles, and the longest.
const FIRST_SIGN_IN_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_SIGN_IN_PAUSE: Duration = Duration::from_secs(15);
/// Between two tries to get a port that somebody else has.
const PORT_RETRY: Duration = Duration::from_secs(1);
/// How many earlier ports are remembered: runs that live may look for their jobs at any of them.
const PORTS_KEPT: usize = 4;

/// What the other parts are told: where and as whom, or nothing: not yet, and once that was sent, not for now. Closed
/// when there will be none.
pub(crate) type Known = watch::Receiver<Option<ControlPlane>>;

/// The control plane in the server, while it is up.
#[derive(Default)]
pub(crate) struct Own {
    /// One for each port that it listens on.
    handles: Arc<Mutex<Vec<Handle>>>,
    /// Waits for ports that somebody else has.
    waiting: Option<JoinHandle<()>>,
    /// Signs in, and keeps what it told known.
    signing_in: Option<JoinHandle<()>>,
    plane: Option<Plane>,
}

impl Own {
    /// Where it is, if it is up.
    pub(crate) fn url(&self) -> Option<String> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).first().map(Handle::url)
    }

    /// What is wrong with it; nothing where there is none.
    pub(crate) fn trouble(&self) -> Option<watch::Receiver<Option<Trouble>>> {
        self.plane.as_ref().map(Plane::trouble)
    }

    /// Takes it down; its jobs go on in its next life.
    pub(crate) async fn shutdown(self, limit: Duration) {
        for task in self.waiting.into_iter().chain(self.signing_in) {
            task.abort();
            let _ = task.await;
        }
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            handle.shutdown(limit).await;
        }
    }
}

/// Where to sign in, and with what.
struct Door {
    url: String,
    /// Where credentials are kept.
    file: PathBuf,
    /// The project's name.
    project: String,
    /// It is the server's own control plane.
    is_own: bool,
}

impl Door {
    async fn sign_in(&self) -> Result<ControlPlane, String> {
        credentials::sign_in(&self.url, &self.file, &self.project, self.is_own).await
    }
}

/// Signs in to the control plane, after starting it if it is the server's own: again and again until that works, for
/// as long as what is given back lives. What goes wrong is said in the log, and runs of trainers that need no control
/// plane work all the same.
pub(crate) async fn connect(project: &Project, tell: watch::Sender<Option<ControlPlane>>) -> Own {
    match open(project).await {
        Ok((door, own)) => Own { signing_in: Some(tokio::spawn(keep_signing_in(door, tell))), ..own },
        Err(why) => {
            tracing::error!(why, "there is no control plane");
            tell.send_replace(None);
            Own::default()
        }
    }
}

/// Signs in to the control plane once, after starting it if there is to be one of our own.
pub(crate) async fn connect_once(project: &Project) -> (Option<ControlPlane>, Own) {
    match open(project).await {
        Ok((door, own)) => match door.sign_in().await {
            Ok(control_plane) => (Some(control_plane), own),
            Err(why) => {
                tracing::error!(why, "there is no control plane");
                (None, own)
            }
        },
        Err(why) => {
            tracing::error!(why, "there is no control plane");
            (None, Own::default())
        }
    }
}

async fn open(project: &Project) -> Result<(Door, Own), String> {
    let (url, file, is_own, own) = match elsewhere(project) {
        Some((url, file)) => {
            check_address(&url)?;
            let (file, is_own) = account_at(project, &url, file);
            (url, file, is_own, Own::default())
        }
        None => {
            let (url, own) = start(project).await?;
            (url, own_account(project), true, own)
        }
    };
    Ok((Door { url, file, project: project.name(), is_own }, own))
}

/// The file with the account on the control plane at `url`, which is `file` unless it is the project's own control plane,
/// and whether it is that one: it may be in another process, and has kept its accounts wherever it listens.
pub(crate) fn account_at(project: &Project, url: &str, file: PathBuf) -> (PathBuf, bool) {
    match is_own(project, url) {
        true => (own_account(project), true),
        false => (file, false),
    }
}

fn own_account(project: &Project) -> PathBuf {
    project.state_dir().join("control-plane/credentials.json")
}

/// The control plane that the settings name, or else that of the account of the project's profile, and the file with the
/// account.
pub(crate) fn elsewhere(project: &Project) -> Option<(String, PathBuf)> {
    match &project.settings.control_plane.url {
        Some(url) => Some((url.clone(), credentials::user_config_dir().join("credentials.json"))),
        None => project.profile_account.clone(),
    }
}

/// Whether the project's own control plane is, or was lately, at `url`.
fn is_own(project: &Project, url: &str) -> bool {
    let ports = earlier_ports(&project.state_dir());
    stands_at(&ports, url) || {
        let host = &project.settings.control_plane.host;
        Url::parse(url).is_ok_and(|url| url.host_str() == Some(host) && is_one_of(&ports, &url))
    }
}

/// The ports on which the project's own control plane was found lately.
pub(crate) fn earlier_ports(state_dir: &Path) -> Vec<u16> {
    let text = std::fs::read_to_string(state_dir.join("control-plane/port")).unwrap_or_default();
    text.lines().flat_map(str::parse).collect()
}

/// Whether `url` is one of these ports on this machine.
pub(crate) fn stands_at(ports: &[u16], url: &str) -> bool {
    let is_here = |url: &Url| matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    Url::parse(url).is_ok_and(|url| is_here(&url) && is_one_of(ports, &url))
}

/// Where the project's own control plane is, if it was at `url` and is, or was last, on another port.
pub(crate) fn moved(state_dir: &Path, url: &str) -> Option<String> {
    let ports = earlier_ports(state_dir);
    let mut moved = Url::parse(url).ok().filter(|_| stands_at(&ports, url))?;
    let newest = *ports.first()?;
    if moved.port_or_known_default() == Some(newest) {
        return None;
    }
    moved.set_port(Some(newest)).ok()?;
    Some(moved.into())
}

fn is_one_of(ports: &[u16], url: &Url) -> bool {
    url.port_or_known_default().is_some_and(|port| ports.contains(&port))
}

/// Says so if the settings name a control plane at what is no address, before anything is started on it.
pub(crate) fn check(project: &Project) -> Result<(), String> {
    project.settings.control_plane.url.as_deref().map_or(Ok(()), check_address)
}

/// No waiting makes an address of something that is none.
fn check_address(url: &str) -> Result<(), String> {
    let parsed =
        Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match parsed {
        Some(_) => Ok(()),
        None => Err(format!(
            "the control plane's address {url:?} is no URL such as https://midrun.example.org; correct --control-plane, \
             MIDRUN_CONTROL_PLANE_URL or controlPlane.url in midrun.toml, or leave it out: then the server has its own"
        )),
    }
}

/// Signs in until that works, and then keeps the channel open for as long as somebody listens.
async fn keep_signing_in(door: Door, tell: watch::Sender<Option<ControlPlane>>) {
    let mut pause = FIRST_SIGN_IN_PAUSE;
    let mut said = None;
    while tell.borrow().is_none() {
        match door.sign_in().await {
            Ok(control_plane) => {
                if said.is_some() {
                    tracing::warn!(url = door.url, "signed in to the control plane at last");
                }
                tell.send_replace(Some(control_plane));
            }
            Err(why) => {
                // Who waits need not: there may be none for long.
                tell.send_replace(None);
                if is_news(&mut said, &why) {
                    tracing::error!(why, ?pause, "there is no control plane; trying again");
                } else {
                    tracing::debug!(why, ?pause, "there is no control plane; trying again");
                }
                // Servers that lost the same control plane do not come back to it all at once.
                tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                pause = (pause * 2).min(LONGEST_SIGN_IN_PAUSE);
            }
        }
    }
    tell.closed().await;
}

/// Whether `why` differs from what was `said` last: the same is not said with every try.
fn is_news(said: &mut Option<String>, why: &str) -> bool {
    said.replace(why.to_owned()).as_deref() != Some(why)
}

/// Starts it; where it is.
async fn start(project: &Project) -> Result<(String, Own), String> {
    let dir = project.state_dir().join("control-plane");
    let wanted = &project.settings.control_plane;
    let program =
        std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut executor = match wanted.executor.split_first() {
        None => ExecutorSetting::command(program.clone(), ["executor"]),
        Some((program, args)) => ExecutorSetting::command(program, args),
    };
    executor.env.push(("MIDRUN_PROJECT_DIR".into(), project.root.clone().into()));
    let hosts = HostSetting { command: vec![program.into(), "run-host".into()], socket_dir: socket_dir() };
    let settings = control_plane::Settings {
        max_concurrent_jobs: wanted.max_concurrent_jobs,
        stop_grace: Duration::from_millis(wanted.stop_grace_ms),
        alone: (wanted.alone_ms > 0).then(|| Duration::from_millis(wanted.alone_ms)),
        keep_checkpoints: wanted.keep_checkpoints,
        allowed_hosts: wanted.allowed_hosts.clone(),
        // One server, a handful of clients: a thread is enough, and each costs memory.
        http_workers: 1,
        ..control_plane::Settings::new(dir.clone(), executor, hosts)
    };
    let plane = Plane::open(settings).await.map_err(|error| error.to_string())?;
    let Ports { listener, taken } = listen(&wanted.host, wanted.port, &dir.join("port"))?;
    let handle = plane.serve(listener).map_err(|error| error.to_string())?;
    let url = handle.url();
    let handles = Arc::new(Mutex::new(vec![handle]));
    let mut own = Own { handles, plane: Some(plane.clone()), ..Own::default() };
    if !taken.is_empty() {
        own.waiting = Some(tokio::spawn(wait_for(
            (wanted.host.clone(), taken),
            plane,
            url.clone(),
            own.handles.clone(),
        )));
    }
    Ok((url, own))
}

/// Where the control plane listens, and where it should listen too.
struct Ports {
    listener: TcpListener,
    /// Where earlier servers of this project listened and somebody else does now.
    taken: Vec<u16>,
}

/// Listens on `host`: on `port`, or where the last servers of this project did, which is remembered in
/// the file `kept`.
fn listen(host: &str, port: u16, kept: &Path) -> Result<Ports, String> {
    let mut known: Vec<u16> = match port {
        0 => std::fs::read_to_string(kept).unwrap_or_default().lines().flat_map(str::parse).collect(),
        port => vec![port],
    };
    let mut taken = Vec::new();
    let mut listener = None;
    for port in &known {
        match TcpListener::bind((host, *port)) {
            Ok(bound) if listener.is_none() => listener = Some(bound),
            // Free now, and needed: it is taken with the others.
            Ok(_) | Err(_) => taken.push(*port),
        }
    }
    let listener = match listener {
        Some(listener) => listener,
        None if port != 0 => {
            let holder = port_holder::words(port);
            return Err(format!(
                "port {port} on {host} is taken{holder}; end that process or change controlPlane.port"
            ));
        }
        None => {
            TcpListener::bind((host, 0)).map_err(|error| format!("no port is free on {host}: {error}"))?
        }
    };
    let chosen = listener.local_addr().map_err(|error| error.to_string())?.port();
    known.retain(|port| *port != chosen);
    known.insert(0, chosen);
    known.truncate(PORTS_KEPT);
    let text: String = known.iter().map(|port| format!("{port}\n")).collect();
    std::fs::write(kept, text).map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(Ports { listener, taken })
}

/// Serves `plane` on each of `ports` as soon as it can be had.
async fn wait_for(
    (host, mut ports): (String, Vec<u16>),
    plane: Plane,
    url: String,
    handles: Arc<Mutex<Vec<Handle>>>,
) {
    let mut is_said = false;
    loop {
        ports.retain(|port| {
            let Ok(listener) = TcpListener::bind((host.as_str(), *port)) else { return true };
            match plane.serve(listener) {
                Ok(handle) => {
                    handles.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                    if is_said {
                        tracing::warn!("port {port} is free again: the runs that look there find their jobs");
                    }
                    false
                }
                Err(error) => {
                    tracing::debug!(port, %error, "a port cannot be served");
                    true
                }
            }
        });
        if ports.is_empty() {
            return;
        }
        if !is_said && plane.has_live_jobs().await {
            is_said = true;
            for port in &ports {
                let holder = port_holder::words(*port);
                tracing::warn!(
                    "port {port}, where live runs of this project may look for their jobs, is taken{holder}. Training \
                     goes on, but those runs hear nothing of it until the port is free: end that process, and midrun \
                     takes the port at once. New runs use {url}"
                );
            }
        }
        tokio::time::sleep(PORT_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_of(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    fn kept(path: &Path) -> Vec<u16> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn the_old_port_is_taken_again_and_one_that_is_not_free_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        let first = listen("127.0.0.1", 0, &file).unwrap();
        let old = port_of(&first.listener);
        assert_eq!(kept(&file), [old]);
        // Somebody has it.
        let second = listen("127.0.0.1", 0, &file).unwrap();
        let new = port_of(&second.listener);
        assert_eq!((new != old, second.taken), (true, vec![old]));
        assert_eq!(kept(&file), [new, old]);
        drop((first.listener, second.listener));
        // A process that another test is starting has copies for a moment.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while [old, new].iter().any(|port| TcpListener::bind(("127.0.0.1", *port)).is_err()) {
            assert!(std::time::Instant::now() < end, "they stay taken");
        }
        let third = listen("127.0.0.1", 0, &file).unwrap();
        assert_eq!(
            (port_of(&third.listener), third.taken),
            (new, vec![old]),
            "both are listened on in the end"
        );
    }

    #[test]
    fn where_it_moved_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("control-plane")).unwrap();
        std::fs::write(dir.path().join("control-plane/port"), "4300\n4200\n").unwrap();
        let moved = |url: &str| moved(dir.path(), url);
        assert_eq!(moved("http://127.0.0.1:4200").as_deref(), Some("http://127.0.0.1:4300/"));
        assert_eq!(moved("http://127.0.0.1:4300"), None, "it is there");
        assert_eq!(moved("http://127.0.0.1:4100"), None, "that is another one");
        assert_eq!(moved("https://midrun.example.org:4200"), None);
    }

    #[test]
    fn what_stays_wrong_is_said_once() {
        let mut said = None;
        let news = ["away", "away", "refused", "refused", "away"].map(|why| is_news(&mut said, why));
        assert_eq!(news, [true, false, true, false, true]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["http://127.0.0.1:1", "https://midrun.example.org/base/"] {
            check_address(url).unwrap();
        }
        for odd in ["nonsense", "", "localhost:4200", "ftp://host/", "http://", "https:///"] {
            let why = check_address(odd).unwrap_err();
            assert!(why.contains(&format!("{odd:?}")) && why.contains("--control-plane"), "{why}");
        }
    }

    #[test]
    fn a_port_that_was_asked_for_and_is_taken_is_an_error_that_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port_of(&holder);
        let error = listen("127.0.0.1", port, &dir.path().join("port")).err().unwrap();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("controlPlane.port"), "{error}");
    }
}
