//! A server as six processes, joined over loopback.
//!
//! What must hold: a service that is started again is where it was.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::LIMIT;
use crate::command::{Midrun, Running};
use crate::link::Links;
use crate::processes::{alive, eventually};

/// The services that have a process of their own beside the gateway's, in the order in which they are started.
const SERVICES: [&str; 5] =
    ["build-watcher", "cancel-broker", "control-plane", "manifest-inspector", "train-registry"];

/// Whether servers of this test binary are six processes: its name says so, so that the same scenarios run twice.
pub fn in_six() -> bool {
    let binary = std::env::current_exe().expect("a test knows its binary");
    binary.file_name().is_some_and(|name| name.to_string_lossy().starts_with("six"))
}

/// The five processes beside the gateway's.
#[derive(Debug)]
pub(crate) struct Others {
    services: Vec<Service>,
}

#[derive(Debug)]
struct Service {
    name: &'static str,
    command: Midrun,
    /// Nothing while it is killed.
    process: Option<Running>,
}

impl Others {
    /// Starts them, with what `command` has in its environment and what `flags` of `midrun dev` say; gives the command
    /// for the gateway too.
    pub(crate) async fn start(command: &Midrun, flags: &[String], links: Option<&Links>) -> (Self, Midrun) {
        let mut common = with_flags(command.clone(), flags);
        let mut others = Self { services: Vec::new() };
        let own_control_plane = !flags.iter().any(|flag| flag == "--control-plane");
        for name in SERVICES.into_iter().filter(|name| own_control_plane || *name != "control-plane") {
            let wanted = common.asked_for(["serve", name, "--json"]);
            let mut process = wanted.clone().env("MIDRUN_PEERS__LISTEN", "127.0.0.1:0").start();
            let address = told(&mut process, "serving").await;
            let place = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
            common = if name == "control-plane" {
                common.env("MIDRUN_CONTROL_PLANE_URL", told(&mut process, "control-plane").await)
            } else {
                let variable = format!("MIDRUN_PEERS__{}", name.replace('-', "_").to_uppercase());
                let told = match links {
                    Some(links) => links.stand_before(name, place.parse().expect("an address")).await,
                    None => address,
                };
                common.env(&variable, told)
            };
            let command = wanted.env("MIDRUN_PEERS__LISTEN", place);
            others.services.push(Service { name, command, process: Some(process) });
        }
        let gateway = common.asked_for(["serve", "sse-gateway", "--json"]);
        (others, gateway.env("MIDRUN_PEERS__LISTEN", "127.0.0.1:0").env("MIDRUN_GATEWAY__PORT", "0"))
    }

    /// Kills one of them.
    pub(crate) async fn kill(&mut self, name: &str) {
        let mut process = self.find(name).process.take().expect("it is alive");
        process.signal(Signal::SIGKILL);
        process.wait("killed service", LIMIT).await;
    }

    /// Starts it again where it was.
    pub(crate) async fn start_again(&mut self, name: &str) {
        let service = self.find(name);
        let mut process = service.command.clone().start();
        told(&mut process, "serving").await;
        service.process = Some(process);
    }

    fn find(&mut self, name: &str) -> &mut Service {
        self.services.iter_mut().find(|service| service.name == name).expect("there is such a service")
    }

    /// Kills them all.
    pub(crate) async fn kill_all(&mut self) {
        for service in &mut self.services {
            if let Some(mut process) = service.process.take() {
                process.signal(Signal::SIGKILL);
                process.wait("killed service", LIMIT).await;
            }
        }
    }

    /// Ends them: the registry first, which ends its runs; it is told again when it takes longer than `patience`.
    pub(crate) async fn end(&mut self, patience: Duration, limit: Duration) {
        for service in self.services.iter_mut().rev() {
            let Some(mut process) = service.process.take() else { continue };
            process.signal(Signal::SIGINT);
            let pid = process.pid();
            let ended = async { eventually("end", LIMIT, || (!alive(pid)).then_some(())).await };
            if tokio::time::timeout(patience, ended).await.is_err() {
                process.signal(Signal::SIGINT);
            }
            let ended = process.wait(service.name, limit).await;
            ended.expect_no_panic(service.name);
        }
    }

    /// What they wrote on standard error.
    pub(crate) fn stderr(&self) -> String {
        let said = self.services.iter().filter_map(|service| {
            Some(format!("--- {}:\n{}", service.name, service.process.as_ref()?.stderr()))
        });
        said.collect()
    }
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

/// The address in the line of `event`.
async fn told(process: &mut Running, event: &str) -> String {
    let line = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["event"] == event);
    let said = process.wait_for_line(&format!("line of {event}"), line).await;
    said["url"].as_str().unwrap_or_else(|| panic!("no address in {said}")).to_owned()
}
