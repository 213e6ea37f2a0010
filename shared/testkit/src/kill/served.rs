//! The server of a lane: started, killed as a whole or in part, and brought back.

use std::time::{Duration, Instant};

use failpoint::FOLDER;
use serde_json::Value;

use super::injection::{Extent, Injection};
use super::lane::{Lane, Subject, id, is_live, until};
use crate::client::Client;
use crate::command::Midrun;
use crate::server::{GATEWAY, Server};

/// The port of a server of which nothing is known yet.
pub(super) const NOBODY: u16 = 1;

/// A server, and how it is asked.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) server: Server,
    client: Client,
}

impl Lane {
    pub(super) fn client(&self) -> &Client {
        &self.server.as_ref().expect("the server was brought back").client
    }

    pub(super) fn server_pids(&self) -> Vec<u32> {
        self.server.as_ref().expect("the server was brought back").server.pids()
    }

    /// Starts a server; nobody can ask it yet.
    pub(super) async fn launch(&mut self) {
        let command = Midrun::new(&self.stage, [""; 0]).env(FOLDER, self.points.clone());
        let flags = ["--control-plane".to_owned(), self.proxy.url()];
        let server = Server::launch(&command, &flags, self.topology, None).await;
        self.server = Some(Served { server, client: Client::new(([127, 0, 0, 1], NOBODY).into(), "") });
    }

    /// Waits until the server can be asked.
    pub(super) async fn listening(&mut self) {
        let file = self.stage.project.dir().join(".midrun/server.json");
        let served = self.server.as_mut().expect("it was started");
        let gateway = served.server.process_of(GATEWAY).pid();
        let read = || {
            let file: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            let ours = file["process"]["pid"].as_u64() == Some(gateway.into());
            let address = file["url"].as_str()?.strip_prefix("http://")?.parse().ok()?;
            ours.then(|| Client::new(address, file["token"].as_str().unwrap_or_default()))
        };
        let listening = until("server", read).await;
        served.client =
            listening.unwrap_or_else(|why| panic!("{why}; it wrote:\n{}", served.server.stderr()));
        // A registry of its own may come later than the edge.
        self.runs().await;
    }

    pub(super) async fn kill_server(&mut self, extent: Extent) {
        match (extent, &mut self.server) {
            (Extent::One(service), Some(served)) => served.server.kill(service).await,
            (Extent::All, served) => {
                if let Some(mut served) = served.take() {
                    served.server.kill_all().await;
                }
            }
            (Extent::One(_), None) => {}
        }
    }

    /// Starts what was killed of the server; nobody may be able to ask it yet.
    pub(super) async fn bring_back(&mut self, extent: Extent) {
        match (extent, &mut self.server) {
            (Extent::One(service), Some(served)) => served.server.start(service),
            _ => self.launch().await,
        }
    }

    /// Brings the server back, or waits until it saw what was killed.
    pub(super) async fn recover(
        &mut self,
        injection: Injection,
        subject: &Subject,
    ) -> Result<Option<Duration>, String> {
        let began = Instant::now();
        if injection.victims.server() {
            self.bring_back(injection.extent).await;
            self.listening().await;
            return Ok(Some(began.elapsed()));
        }
        self.listening().await;
        if let Some(struck) = &subject.run {
            let is_over = |runs: &[Value]| !runs.iter().any(|run| id(run) == *struck && is_live(run));
            self.runs_until("end of the killed run", |runs| is_over(runs).then_some(())).await?;
        }
        Ok(None)
    }
}
