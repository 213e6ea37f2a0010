//! The processes of a server: one for all services, or one for each, joined over loopback.
//!
//! What must hold: whoever speaks of a service need not know which process it is in; a service that is started again is
//! where it was.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::LIMIT;
use crate::command::{Ended, Midrun, Running};
use crate::link::Links;
use crate::processes::{self, alive, eventually};

/// How a server is divided into processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topology {
    /// `midrun dev`: all services in one.
    One,
    /// `midrun serve`: each service in its own.
    Six,
}

impl Topology {
    /// The one of this test binary: its name says so, so that the same scenarios run twice.
    pub fn of_this_binary() -> Self {
        let binary = std::env::current_exe().expect("a test knows its binary");
        let is_six = binary.file_name().is_some_and(|name| name.to_string_lossy().starts_with("six"));
        if is_six { Self::Six } else { Self::One }
    }
}

pub(crate) const WATCHER: &str = "build-watcher";
pub(crate) const INSPECTOR: &str = "manifest-inspector";
pub(crate) const BROKER: &str = "cancel-broker";
/// Has the jobs, where they are the server's own.
const CONTROL_PLANE: &str = "control-plane";
/// Has the runs.
pub(crate) const REGISTRY: &str = "train-registry";
/// Says where the server is.
pub(crate) const GATEWAY: &str = "sse-gateway";

/// Every service, in the order in which they are started.
const SERVICES: [&str; 6] = [WATCHER, INSPECTOR, BROKER, CONTROL_PLANE, REGISTRY, GATEWAY];

/// A server. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct Server {
    /// Those of [`SERVICES`] that it has, in that order; one for all of them in one process.
    parts: Vec<Part>,
    /// Tells the others to end when the registry has ended.
    ending: Option<JoinHandle<()>>,
}

/// What has a process of its own.
#[derive(Debug)]
struct Part {
    name: &'static str,
    command: Midrun,
    /// Nothing while it is killed.
    process: Option<Running>,
}

impl Part {
    fn start(&mut self) -> &mut Running {
        self.process.insert(self.command.clone().start())
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }
}

impl Server {
    /// Starts every process, with the place and the environment of `command` and what `flags` of `midrun dev` say.
    /// Waits for none, except for a control plane of its own, since the registry is told where that is.
    pub(crate) async fn launch(
        command: &Midrun,
        flags: &[String],
        topology: Topology,
        links: Option<&Links>,
    ) -> Self {
        let mut parts = match topology {
            Topology::One => {
                let args = ["dev", ".", "--port", "0", "--json"].map(str::to_owned);
                let command = command.asked_for(args.into_iter().chain(flags.iter().cloned()));
                vec![Part { name: "midrun dev", command, process: None }]
            }
            Topology::Six => services(command, flags, links).await,
        };
        let mut control_plane = None;
        for part in &mut parts {
            if let (REGISTRY, Some(url)) = (part.name, control_plane.take()) {
                part.command = part.command.clone().env("MIDRUN_CONTROL_PLANE_URL", url);
            }
            let name = part.name;
            let process = part.start();
            if name == CONTROL_PLANE {
                control_plane = told(process, "control-plane").await["url"].as_str().map(str::to_owned);
            }
        }
        Self { parts, ending: None }
    }

    /// Waits until every process can be reached; what is said of the edge.
    pub(crate) async fn listening(&mut self) -> Value {
        let names: Vec<&str> = self.parts.iter().map(|part| part.name).collect();
        let mut said = None;
        for name in names {
            said = said.or(self.again(name).await);
        }
        said.expect("one of them is the edge")
    }

    fn part(&mut self, service: &str) -> &mut Part {
        let place = self.parts.iter().position(|part| part.name == service);
        // Where it has none of its own, it is in the only one there is.
        &mut self.parts[place.unwrap_or(0)]
    }

    /// The process that has `service`.
    ///
    /// # Panics
    /// When it is killed.
    pub(crate) fn process_of(&mut self, service: &str) -> &mut Running {
        self.part(service).process.as_mut().expect("it is alive")
    }

    /// Every process that was not killed.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.parts.iter().filter_map(Part::pid).collect()
    }

    /// Kills the process that has `service`.
    pub(crate) async fn kill(&mut self, service: &str) {
        let Some(process) = self.part(service).process.take() else { return };
        killed(process).await;
    }

    /// Kills every process.
    pub(crate) async fn kill_all(&mut self) {
        let processes: Vec<Running> = self.parts.iter_mut().filter_map(|part| part.process.take()).collect();
        for process in &processes {
            process.signal(Signal::SIGKILL);
        }
        for process in processes {
            killed(process).await;
        }
    }

    /// Starts the killed process that has `service`, where it was; waits for nothing.
    pub(crate) fn start(&mut self, service: &str) {
        self.part(service).start();
    }

    /// Waits until that process can be reached; what it says of the edge, if it has that.
    pub(crate) async fn again(&mut self, service: &str) -> Option<Value> {
        let part = self.part(service);
        let (name, process) = (part.name, part.process.as_mut().expect("it was started"));
        if SERVICES.contains(&name) {
            told(process, "serving").await;
        }
        match name == GATEWAY || !SERVICES.contains(&name) {
            true => Some(told(process, "listening").await),
            false => None,
        }
    }

    /// Asks it to end, as Ctrl-C does: of several the registry, which ends its runs, and the others when it has ended.
    pub(crate) fn interrupt(&mut self) {
        let first = self.part(REGISTRY).pid();
        first.into_iter().filter(|pid| alive(*pid)).for_each(|pid| processes::signal(pid, Signal::SIGINT));
        let others: Vec<u32> = self.pids().into_iter().filter(|pid| Some(*pid) != first).collect();
        if !others.is_empty() && self.ending.is_none() {
            self.ending = Some(tokio::spawn(async move {
                let is_over = || first.is_none_or(|pid| !alive(pid)).then_some(());
                eventually("end of the registry", LIMIT, is_over).await;
                for pid in others.into_iter().filter(|pid| alive(*pid)) {
                    processes::signal(pid, Signal::SIGINT);
                }
            }));
        }
    }

    /// Whether all of it has ended within `limit`.
    pub(crate) async fn is_over(&self, limit: Duration) -> bool {
        let pids = self.pids();
        let over = || pids.iter().all(|pid| !alive(*pid)).then_some(());
        tokio::time::timeout(limit, eventually("end of the server", LIMIT, over)).await.is_ok()
    }

    /// Waits until all of it has ended by itself: what it wrote, and the first exit status that is not 0.
    ///
    /// # Panics
    /// When a part does not end within `limit`.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Ended {
        let mut all = Ended { code: 0, stdout: String::new(), stderr: String::new() };
        for part in &mut self.parts {
            let Some(mut process) = part.process.take() else { continue };
            let ended = process.wait(part.name, limit).await;
            all.code = if all.code == 0 { ended.code } else { all.code };
            all.stdout.push_str(&ended.stdout);
            all.stderr.push_str(&ended.stderr);
        }
        all
    }

    /// What its processes wrote on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let said = self
            .parts
            .iter()
            .filter_map(|part| Some(format!("--- {}:\n{}", part.name, part.process.as_ref()?.stderr())));
        said.collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(ending) = &self.ending {
            ending.abort();
        }
    }
}

/// Kills a process and looks at what it has said.
async fn killed(mut process: Running) {
    if process.is_alive() {
        process.signal(Signal::SIGKILL);
    }
    let ended = process.wait("killed server", LIMIT).await;
    ended.expect_no_panic("a part of the server");
}

/// A part for each service; none for the control plane where the flags name one. The others reach it through its link.
async fn services(command: &Midrun, flags: &[String], links: Option<&Links>) -> Vec<Part> {
    let mut common = with_flags(command.clone(), flags);
    let has_own_control_plane = !flags.iter().any(|flag| flag == "--control-plane");
    let names = SERVICES.into_iter().filter(|name| has_own_control_plane || *name != CONTROL_PLANE);
    let places: Vec<(&str, String)> =
        names.map(|name| (name, format!("127.0.0.1:{}", free_port()))).collect();
    for (name, place) in &places {
        if ![CONTROL_PLANE, GATEWAY].contains(name) {
            let variable = format!("MIDRUN_PEERS__{}", name.replace('-', "_").to_uppercase());
            let address = match links {
                Some(links) => links.stand_before(name, place.parse().expect("an address")).await,
                None => format!("http://{place}"),
            };
            common = common.env(&variable, address);
        }
    }
    common = common.env("MIDRUN_GATEWAY__PORT", free_port().to_string());
    let part = |(name, place): (&'static str, String)| {
        let command = common.asked_for(["serve", name, "--json"]).env("MIDRUN_PEERS__LISTEN", place);
        Part { name, command, process: None }
    };
    places.into_iter().map(part).collect()
}

/// The variables that say what these flags of `midrun dev` say.
fn with_flags(mut command: Midrun, flags: &[String]) -> Midrun {
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        command = match flag.as_str() {
            "--hot-only" => command.env("MIDRUN_RUN__HOT_ONLY", "true"),
            "--control-plane" => {
                command.env("MIDRUN_CONTROL_PLANE_URL", flags.next().expect("it has a value"))
            }
            other => panic!("{other} has no variable"),
        };
    }
    command
}

/// The line of `event`.
async fn told(process: &mut Running, event: &str) -> Value {
    let line = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["event"] == event);
    process.wait_for_line(&format!("line of {event}"), line).await
}

/// Where ports are taken from: below those that the system gives to whoever asks for any, so that one is still free
/// when the service that had it is started again.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 20_000;

/// A port that nobody listens on, and that no other test of this process is given.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of other processes begin elsewhere.
    let begin = u16::try_from(std::process::id().wrapping_mul(977) % u32::from(PORTS)).expect("it is below");
    for _ in 0..PORTS {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FIRST_PORT + (begin + offset) % PORTS;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}
