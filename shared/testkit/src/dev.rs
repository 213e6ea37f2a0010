//! `midrun dev`, from its first line to its last process.

use std::ffi::OsString;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::client::Client;
use crate::command::{Ended, Midrun, Running};
use crate::home::Home;
use crate::link::Links;
use crate::processes::{self, eventually, leftovers};
use crate::run_log::RunLog;
use crate::six::{Others, in_six};
use crate::sse::Sse;
use crate::stage::Stage;
use crate::train::Train;

/// A dev server. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Dev {
    /// Speaks to it.
    pub client: Client,
    /// Its process.
    pub pid: u32,
    process: Running,
    /// The processes beside it, when it is one of six.
    others: Option<Others>,
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

    /// Another project's folder.
    #[must_use]
    pub fn dir(self, dir: impl Into<std::path::PathBuf>) -> Self {
        Self { command: self.command.dir(dir), ..self }
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(self) -> Dev {
        let (others, command) = match in_six() {
            true => {
                let (others, gateway) = Others::start(&self.command, &self.flags, self.links.as_ref()).await;
                (Some(others), gateway)
            }
            false => (None, self.command),
        };
        let mut process = command.start();
        let listening =
            |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["event"] == "listening");
        let said = process.wait_for_line("line that says that it listens", listening).await;
        assert_eq!(said["pid"].as_u64(), Some(process.pid().into()), "{said}");
        let url = said["url"].as_str().unwrap_or_default();
        let address = url.trim_end_matches('/').strip_prefix("http://").and_then(|text| text.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {said}"));
        let client = Client::new(address, said["token"].as_str().unwrap_or_default());
        Dev { client, pid: process.pid(), process, others, home: self.home, was_killed: false }
    }
}

/// How long a server that was told twice to end may take.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How long a server without runs may take to end before it is told again.
const FIRST_LIMIT: Duration = Duration::from_secs(2);

impl Dev {
    /// `midrun dev . --port 0 --json ARGS` in the stage's project, not started yet.
    pub fn options(stage: &Stage, args: &[&str]) -> DevOptions {
        let flags = args.iter().map(|flag| (*flag).to_owned()).collect();
        let args = ["dev", ".", "--port", "0", "--json"].iter().chain(args).copied();
        DevOptions { command: Midrun::new(stage, args), flags, home: stage.home.clone(), links: None }
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

    /// The process itself.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Kills it, and nothing else: its runs go on, for the next server in the same project.
    pub async fn kill(mut self) {
        self.was_killed = true;
        self.process.signal(Signal::SIGKILL);
        self.process.wait("killed midrun dev", LIMIT).await;
        if let Some(others) = &mut self.others {
            others.kill_all().await;
        }
    }

    /// Kills the process of one service of six.
    ///
    /// # Panics
    /// When it has none of its own.
    pub async fn kill_service(&mut self, name: &str) {
        self.others.as_mut().expect("there are six processes").kill(name).await;
    }

    /// Starts the process of a killed service again.
    ///
    /// # Panics
    /// When it has none of its own, or does not start.
    pub async fn start_service(&mut self, name: &str) {
        self.others.as_mut().expect("there are six processes").start_again(name).await;
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        self.process.signal(Signal::SIGINT);
    }

    /// Waits until it has ended by itself, then for the last of its processes.
    ///
    /// # Panics
    /// When it does not end, or leaves a process behind.
    pub async fn ended(mut self) -> Ended {
        let ended = self.process.wait("midrun dev", LIMIT).await;
        self.nothing_left().await;
        ended
    }

    /// Ends it, runs and all.
    ///
    /// # Panics
    /// When it does not end, ends badly, or leaves a process behind.
    pub async fn finish(mut self) {
        if let Some(others) = &mut self.others {
            others.end(FIRST_LIMIT, END_LIMIT).await;
        }
        self.interrupt();
        let pid = self.pid;
        let first = async { eventually("end", LIMIT, || (!processes::alive(pid)).then_some(())).await };
        if tokio::time::timeout(FIRST_LIMIT, first).await.is_err() {
            self.interrupt();
        }
        let ended = self.process.wait("midrun dev after the second Ctrl-C", END_LIMIT).await;
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
            let others = self.others.as_ref().map(Others::stderr).unwrap_or_default();
            eprintln!("--- midrun dev wrote on standard error:\n{}{others}---", self.process.stderr());
        }
        if !self.was_killed || std::thread::panicking() {
            processes::sweep(&self.home.marker());
        }
    }
}
