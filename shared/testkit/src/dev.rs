//! A server under test, from its first line to its last process.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use crate::LIMIT;
use crate::client::Client;
use crate::command::{Ended, Midrun, Running};
use crate::home::Home;
use crate::link::Links;
use crate::processes::{self, leftovers};
use crate::run_log::RunLog;
use crate::server::{GATEWAY, Server, Topology};
use crate::sse::Sse;
use crate::stage::Stage;
use crate::train::Train;

/// A dev server, in one process or in six. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Dev {
    /// Speaks to it.
    pub client: Client,
    server: Server,
    home: Home,
    /// What it started goes on without it.
    was_killed: bool,
}

/// How a dev server is started.
#[derive(Debug)]
pub struct DevOptions {
    command: Midrun,
    /// Besides those that every test gives.
    flags: Vec<String>,
    topology: Topology,
    home: Home,
    /// What stands between the processes, when it is one of six.
    links: Option<Links>,
}

impl DevOptions {
    /// Every service but the gateway and the control plane is reached through one of `links`.
    #[must_use]
    pub fn through(self, links: &Links) -> Self {
        Self { links: Some(links.clone()), ..self }
    }

    /// Another variable in its environment.
    #[must_use]
    pub fn env(self, name: &str, value: impl Into<OsString>) -> Self {
        Self { command: self.command.env(name, value), ..self }
    }

    /// By another program that answers as the server does; see [`Midrun::by`].
    #[must_use]
    pub fn by<A: Into<OsString>>(self, program: impl IntoIterator<Item = A>) -> Self {
        Self { command: self.command.by(program), ..self }
    }

    /// Another project's folder.
    #[must_use]
    pub fn dir(self, dir: impl Into<std::path::PathBuf>) -> Self {
        Self { command: self.command.dir(dir), ..self }
    }

    /// Another topology than that of the test's binary.
    #[must_use]
    pub fn topology(self, topology: Topology) -> Self {
        Self { topology, ..self }
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(self) -> Dev {
        let links = self.links.as_ref();
        let mut server = Server::launch(&self.command, &self.flags, self.topology, links).await;
        let said = server.listening().await;
        let client = client_of(&said);
        assert_eq!(said["pid"].as_u64(), Some(server.process_of(GATEWAY).pid().into()), "{said}");
        if self.topology == Topology::Six {
            joined(&client).await;
        }
        Dev { client, server, home: self.home, was_killed: false }
    }
}

/// Waits until the edge reaches what it needs of the other processes, which may have been started at the same time, and
/// nothing is wrong with any; what it says then.
async fn joined(client: &Client) -> Value {
    let until = tokio::time::Instant::now() + LIMIT;
    loop {
        let ready = client.get("/readyz").await;
        if ready.status == 200 {
            return ready.json();
        }
        assert!(tokio::time::Instant::now() < until, "it is not ready: {}", ready.text());
        pause().await;
    }
}

/// A moment, between two looks at what nothing tells of.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Speaks to the server that said this of itself.
fn client_of(said: &Value) -> Client {
    let url = said["url"].as_str().unwrap_or_default();
    let address = url.trim_end_matches('/').strip_prefix("http://").and_then(|text| text.parse().ok());
    let address = address.unwrap_or_else(|| panic!("no address in {said}"));
    Client::new(address, said["token"].as_str().unwrap_or_default())
}

/// How long a server that was told twice to end may take.
const END_LIMIT: Duration = LIMIT;
/// How long a server without runs may take to end before it is told again.
const FIRST_LIMIT: Duration = Duration::from_secs(2);

impl Dev {
    /// A server of the stage's project with these flags of `midrun dev`, not started yet.
    pub fn options(stage: &Stage, flags: &[&str]) -> DevOptions {
        DevOptions {
            command: Midrun::new(stage, [""; 0]),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            topology: Topology::of_this_binary(),
            home: stage.home.clone(),
            links: None,
        }
    }

    /// A dev server in the stage's project.
    pub async fn start(stage: &Stage) -> Self {
        Self::options(stage, &[]).start().await
    }

    /// A dev server whose first build is good, and its event stream behind `ready`.
    pub async fn ready(stage: &Stage) -> (Self, Sse) {
        let dev = Self::start(stage).await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        (dev, events)
    }

    /// A reader of `/api/dev/events`.
    pub async fn events(&self) -> Sse {
        Sse::open(&self.client, "/api/dev/events", None).await
    }

    /// A run that lives as long as its request.
    pub async fn train(&self) -> Train {
        Train::start(&self.client, &json!({})).await
    }

    /// Starts a run that belongs to the server; answers with the run.
    pub async fn start_run(&self, body: &Value) -> Value {
        self.client.post("/api/runs", body).await.expect(201).json()["run"].clone()
    }

    /// Starts a run and waits until `events` says that it is running; its id.
    pub async fn running(&self, events: &mut Sse) -> String {
        let run = id_of(&self.start_run(&json!({})).await);
        events.wait_for("running run", |event| is_run(&event.data, &event.name, &run, "running")).await;
        run
    }

    /// The run as it stands.
    pub async fn run(&self, run: &str) -> Value {
        self.client.get(format!("/api/runs/{run}")).await.expect(200).json()["run"].clone()
    }

    /// Every run.
    pub async fn runs(&self) -> Vec<Value> {
        let runs = self.client.get("/api/runs").await.expect(200).json();
        runs["runs"].as_array().cloned().unwrap_or_else(|| panic!("no list of runs: {runs}"))
    }

    /// Every job of the control plane.
    pub async fn jobs(&self) -> Vec<Value> {
        let jobs = self.client.get("/api/jobs").await.expect(200).json();
        jobs["jobs"].as_array().cloned().unwrap_or_else(|| panic!("no list of jobs: {jobs}"))
    }

    /// Follows a run's log.
    pub async fn log(&self, run: &str) -> RunLog {
        RunLog::open(&self.client, run).await
    }

    /// Asks for a run to stop.
    pub async fn stop_run(&self, run: &str, mode: &str) {
        let body = json!({ "mode": mode });
        let answer = self.client.post(format!("/api/runs/{run}/stop"), &body).await;
        let _ = answer.expect(202);
    }

    /// The process that has `service`.
    ///
    /// # Panics
    /// When it is killed.
    pub fn process_of(&mut self, service: &str) -> &mut Running {
        self.server.process_of(service)
    }

    /// The id of that process.
    ///
    /// # Panics
    /// When it is killed.
    pub fn pid_of(&mut self, service: &str) -> u32 {
        self.process_of(service).pid()
    }

    /// The id of each of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// Kills all of it, and nothing else: its runs go on, for the next server in the same project.
    pub async fn kill(mut self) {
        self.was_killed = true;
        self.server.kill_all().await;
    }

    /// Kills the process that has `service`.
    pub async fn kill_service(&mut self, service: &str) {
        self.server.kill(service).await;
    }

    /// Starts the process of a killed service again, and waits until it can be reached.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_service(&mut self, service: &str) {
        self.server.start(service);
        if let Some(said) = self.server.again(service).await {
            self.client = client_of(&said);
        }
    }

    /// Waits until it is ready; what it says then.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn well(&self) -> Value {
        joined(&self.client).await
    }

    /// Waits until the cancel of `job` is the only one that is outstanding, as the metrics say too; what the server says
    /// of it.
    ///
    /// # Panics
    /// When it is not.
    pub async fn outstanding_cancel_of(&self, job: &str) -> Value {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            let outstanding = self.client.get("/api/cancels").await;
            let metrics = self.client.get("/metrics").await.text();
            let told = if outstanding.status == 200 { outstanding.json() } else { Value::Null };
            if told["cancels"][0]["job"] == job && metrics.contains("\nmidrun_cancels_outstanding 1\n") {
                return told;
            }
            assert!(tokio::time::Instant::now() < until, "{}\n{metrics}", outstanding.text());
            pause().await;
        }
    }

    /// Asks it to end, as Ctrl-C does; of six processes each in its turn.
    pub fn interrupt(&mut self) {
        self.server.interrupt();
    }

    /// Waits until it has ended by itself, then for the last of its processes.
    ///
    /// # Panics
    /// When it does not end, or leaves a process behind.
    pub async fn ended(mut self) -> Ended {
        let ended = self.server.ended(LIMIT).await;
        self.nothing_left().await;
        ended
    }

    /// Ends it, runs and all.
    ///
    /// # Panics
    /// When it does not end, ends badly, or leaves a process behind.
    pub async fn finish(mut self) {
        self.interrupt();
        if !self.server.is_over(FIRST_LIMIT).await {
            self.interrupt();
        }
        let ended = self.server.ended(END_LIMIT).await;
        ended.expect_no_panic("a part of the server");
        self.nothing_left().await;
    }

    async fn nothing_left(&self) {
        let marker = self.home.marker();
        let until = tokio::time::Instant::now() + END_LIMIT;
        while !leftovers(&marker).is_empty() {
            let left = leftovers(&marker);
            assert!(tokio::time::Instant::now() < until, "the server left processes behind: {left:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whether these are the data of a `run` event that says that `run` is in `status`.
fn is_run(data: &Value, name: &str, run: &str, status: &str) -> bool {
    name == "run" && data["run"] == run && data["status"] == status
}

/// The id of a run.
fn id_of(run: &Value) -> String {
    run["id"].as_str().unwrap_or_else(|| panic!("no run: {run}")).to_owned()
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server wrote on standard error:\n{}---", self.server.stderr());
        }
        if !self.was_killed || std::thread::panicking() {
            processes::sweep(&self.home.marker());
        }
    }
}
