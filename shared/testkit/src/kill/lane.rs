//! A project whose server, hosts and runners are killed over and over.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use failpoint::Armed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::census::{Seen, census, host, runner};
use super::check::Expected;
use super::disk;
use super::injection::{Act, Injection, Outage, act};
use super::lender::Lender;
use super::served::{NOBODY, Served};
use super::trainer;
use crate::client::Client;
use crate::faulty::{Fault, FaultyControlPlane};
use crate::processes::alive;
use crate::project::Layout;
use crate::server::Topology;
use crate::stage::Stage;

/// How long anything may take that must come.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// How long a host stands still behind the back of a new server.
const LOOKED_FOR: Duration = Duration::from_millis(150);
/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// A project of its own on a lent control plane.
#[derive(Debug)]
pub struct Lane {
    pub(super) stage: Stage,
    pub(super) proxy: FaultyControlPlane,
    pub(super) upstream: Client,
    /// Where failpoints are armed.
    pub(super) points: PathBuf,
    /// Where runs note what they have printed.
    pub(super) notes: PathBuf,
    pub(super) topology: Topology,
    pub(super) server: Option<Served>,
    /// Numbers the edits, so that each makes other bytes.
    edit: u64,
    /// Ended runs of which everything was found right.
    pub(super) checked: HashSet<String>,
    /// Runs whose host was killed.
    pub(super) without_host: HashSet<String>,
    /// Runs whose host found the disk full.
    pub(super) without_room: HashSet<String>,
}

/// What came of an injection after which everything was as it must be.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The whole of it.
    pub took: Duration,
    /// From the start of the new server until it could be asked; nothing if it was not killed.
    pub server_back: Option<Duration>,
}

/// What an injection is about: its run, and that run's process before anything was killed.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) run: Option<String>,
    pid: Option<u64>,
}

/// Something that was asked of a server which may die over it.
#[derive(Debug)]
struct Asking {
    task: JoinHandle<()>,
    /// The answer's status came.
    answered: Arc<AtomicBool>,
}

impl Asking {
    /// Nothing is asked.
    fn nobody() -> Self {
        Self { task: tokio::spawn(async {}), answered: Arc::default() }
    }

    /// Ends it; whether it was answered with yes.
    fn end(self) -> bool {
        self.task.abort();
        self.answered.load(Ordering::SeqCst)
    }
}

impl Lane {
    /// A project on `lender`'s control plane, and its server.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub async fn start(lender: &Lender, topology: Topology) -> Self {
        let stage = Stage::bare(Layout::Midrun);
        let (points, notes) = (stage.root().join("points"), stage.root().join("notes"));
        for folder in [&points, &notes] {
            std::fs::create_dir(folder).expect("the stage can be written");
        }
        stage.project.write("callbacks.ts", &trainer::callbacks(0, &notes));
        stage.project.write("index.ts", &trainer::entry(0));
        let mut lane = Self {
            stage,
            proxy: lender.proxy().await,
            upstream: Client::new(lender.upstream(), ""),
            points,
            notes,
            topology,
            server: None,
            edit: 0,
            checked: HashSet::new(),
            without_host: HashSet::new(),
            without_room: HashSet::new(),
        };
        lane.launch().await;
        lane.listening().await;
        lane
    }

    /// Brings a run to the place, kills there, brings the server back, and checks what must hold:
    ///
    /// - no process is left that belongs to no live run;
    /// - every job that the control plane knows is terminal or belongs to a live run;
    /// - a live run executes the newest build, and no bytes were swapped in twice;
    /// - the log has every step that the run printed, and its records are numbered without a gap;
    /// - the exit status is known, or there is a reason why not;
    /// - where the server alone was killed, the run goes on, and what was due to it is done.
    ///
    /// # Errors
    /// What does not hold.
    ///
    /// # Panics
    /// When a server that is there does not answer.
    pub async fn inject(&mut self, injection: Injection) -> Result<Outcome, String> {
        let began = Instant::now();
        let subject = self.prepare(injection).await?;
        let armed = Armed::at(&self.points, injection.point).map_err(|error| error.to_string())?;
        let asking = self.stimulate(injection, &subject).await;
        let stopped = self.stopped_at(&armed, injection).await?;
        self.break_control_plane(injection.outage);
        let subject = self.struck(injection, subject, stopped);
        self.strike(injection, &subject, stopped).await;
        let promised = asking.end();
        drop(armed);
        let server_back = self.recover(injection, &subject).await?;
        if injection.slow_host {
            self.let_host_go_on(&subject).await;
        }
        if injection.outage == Outage::Forgets {
            self.forget_jobs().await?;
        }
        self.proxy.heal();
        if injection.outage == Outage::DiskFull {
            self.make_room(&subject);
        }
        let expected = Expected::of(injection, subject.run, subject.pid, promised);
        self.check(&expected).await?;
        Ok(Outcome { took: began.elapsed(), server_back })
    }

    /// Stops what still runs and the server.
    ///
    /// # Panics
    /// When something does not end, or a process is left.
    pub async fn finish(mut self) {
        self.stop_all().await.unwrap_or_else(|why| panic!("{why}"));
        let mut served = self.server.take().expect("there is one between two injections");
        served.server.interrupt();
        let ended = served.server.ended(LIMIT).await;
        assert!(!ended.stderr.contains("panicked"), "a part of the server panicked:\n{}", ended.stderr);
        let marker = self.stage.home.marker();
        let none = until("end of every process", || census(&marker).is_empty().then_some(())).await;
        none.unwrap_or_else(|why| panic!("{why}: {:?}", census(&self.stage.home.marker())));
    }

    /// What the server wrote on standard error.
    pub fn told(&self) -> String {
        self.server.as_ref().map(|served| served.server.stderr()).unwrap_or_default()
    }

    /// Every run.
    ///
    /// # Panics
    /// When the server does not say, though it has its time.
    pub(super) async fn runs(&self) -> Vec<Value> {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.client().get("/api/runs").await;
            if answer.status < 500 || Instant::now() >= end {
                return answer.expect(200).json()["runs"].as_array().cloned().unwrap_or_default();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks at all runs until `find` finds something.
    pub(super) async fn runs_until<T>(
        &self,
        what: &str,
        find: impl Fn(&[Value]) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + LIMIT;
        loop {
            let runs = self.runs().await;
            if let Some(found) = find(&runs) {
                return Ok(found);
            }
            if Instant::now() >= end {
                return Err(format!("there was no {what}; the newest runs: {:#?}", runs.get(..3)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for the first good build, and for a live run where the act needs one.
    async fn prepare(&mut self, injection: Injection) -> Result<Subject, String> {
        let act = act(injection.point);
        let end = Instant::now() + LIMIT;
        while self.client().get("/api/manifest").await.status != 200 {
            if Instant::now() >= end {
                return Err("there was no good build".to_owned());
            }
            tokio::time::sleep(LOOK).await;
        }
        if act == Act::Start {
            self.stop_all().await?;
            return Ok(Subject::default());
        }
        if !self.runs().await.iter().any(is_live) {
            let _ = self.client().post("/api/runs", &json!({})).await.expect(201);
        }
        let run =
            self.runs_until("live run", |runs| runs.iter().find(|run| is_at_work(run)).cloned()).await?;
        let id = id(&run);
        let note = self.notes.join(&id);
        until("first step", || note.exists().then_some(())).await?;
        if act == Act::TakeUp {
            self.kill_server(injection.extent).await;
        }
        Ok(Subject { run: Some(id), pid: run["pid"].as_u64() })
    }

    async fn stop_all(&self) -> Result<(), String> {
        for run in self.runs().await.iter().filter(|run| is_live(run)) {
            let target = format!("/api/runs/{}/stop", id(run));
            // It may end by itself just now.
            let _ = self.client().post(target, &json!({ "mode": "now" })).await;
        }
        self.runs_until("end of every run", |runs| (!runs.iter().any(is_live)).then_some(())).await
    }

    /// Does what brings a run to the place. Who asks may never get an answer.
    async fn stimulate(&mut self, injection: Injection, subject: &Subject) -> Asking {
        let run = subject.run.clone().unwrap_or_default();
        self.edit += 1;
        match act(injection.point) {
            Act::Start => return self.post("/api/runs".to_owned(), json!({})),
            Act::StopNow => return self.post(format!("/api/runs/{run}/stop"), json!({ "mode": "now" })),
            Act::Swap => {
                self.stage.project.replace("callbacks.ts", &trainer::callbacks(self.edit, &self.notes));
            }
            Act::Restart => self.stage.project.replace("index.ts", &trainer::entry(self.edit)),
            Act::LoseHost => {
                let seen = census(&self.stage.home.marker());
                self.kill_host(&seen, &run);
            }
            Act::TakeUp => self.bring_back(injection.extent).await,
        }
        Asking::nobody()
    }

    fn post(&self, target: String, body: Value) -> Asking {
        let client = self.client().clone();
        let answered = Arc::<AtomicBool>::default();
        let yes = Arc::clone(&answered);
        let task = tokio::spawn(async move {
            let answer = client.ask("POST", target).json(&body).try_open().await;
            if let Ok(answer) = answer {
                yes.store((200..300).contains(&answer.status), Ordering::SeqCst);
                // The answer is held until nobody waits for it any more.
                std::future::pending::<()>().await;
            }
        });
        Asking { task, answered }
    }

    /// The process that stopped at the place.
    async fn stopped_at(&self, armed: &Armed, injection: Injection) -> Result<u32, String> {
        let what = format!("process at {}", injection.point.name());
        let pid = until(&what, || armed.stopped().ok().flatten()).await;
        let pid = match pid {
            Ok(pid) => pid,
            Err(why) => return Err(format!("{why}; {}", self.standing().await)),
        };
        until(&what, || (state(pid) == Some('T') || !alive(pid)).then_some(())).await?;
        Ok(pid)
    }

    /// Where everything stands, for a failure.
    async fn standing(&self) -> String {
        if self.client().address().port() == NOBODY {
            return "the server was being started".to_owned();
        }
        let manifest = self.client().get("/api/manifest").await.text();
        let runs = self.runs().await;
        format!(
            "after edit {} the build is {manifest} and the newest runs are {:#?}",
            self.edit,
            runs.get(..2)
        )
    }

    fn break_control_plane(&self, outage: Outage) {
        let fault = match outage {
            Outage::None | Outage::DiskFull => return,
            Outage::Fails => Fault::Answer(500),
            Outage::Hangs => Fault::Hang,
            Outage::LosesAnswers => Fault::LoseAnswer,
            Outage::Forgets => Fault::Answer(404),
        };
        self.proxy.only("/v1/jobs", fault);
    }

    /// The run it is about: the one whose host stopped, the one that was prepared, or the one being started.
    fn struck(&self, injection: Injection, subject: Subject, stopped: u32) -> Subject {
        let hosts = census(&self.stage.home.marker()).into_iter().find(|seen| seen.pid == stopped);
        let hosted = hosts.and_then(|seen| seen.hosts);
        match (hosted, act(injection.point)) {
            (Some(run), _) if subject.run.as_ref() != Some(&run) => Subject { run: Some(run), pid: None },
            (None, Act::Start) => Subject { run: self.newest_run(), pid: None },
            _ => subject,
        }
    }

    /// The newest run that has a folder and is not known to have ended.
    fn newest_run(&self) -> Option<String> {
        let folders = std::fs::read_dir(self.stage.project.dir().join(".midrun/runs")).ok()?;
        let names = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // Ids sort by time.
        names.max().filter(|run| !self.checked.contains(run))
    }

    async fn strike(&mut self, injection: Injection, subject: &Subject, stopped: u32) {
        let seen = census(&self.stage.home.marker());
        let mut dying = Vec::new();
        if let Some(run) = &subject.run {
            // A runner goes with its host.
            if injection.victims.runner() || injection.victims.host() {
                dying.extend(runner(&seen, run));
            }
            if injection.outage == Outage::DiskFull {
                host(&seen, run).into_iter().for_each(disk::fill);
                self.without_room.insert(run.clone());
            }
            if injection.victims.runner() {
                runner(&seen, run).into_iter().for_each(end);
            }
            if injection.victims.host() {
                self.kill_host(&seen, run);
            }
        }
        let host = subject.run.as_ref().and_then(|run| host(&seen, run)).filter(|_| injection.slow_host);
        if let Some(host) = host {
            send(host, Signal::SIGSTOP);
        }
        if injection.victims.server() {
            self.kill_server(injection.extent).await;
        }
        if alive(stopped) && host != Some(stopped) {
            send(stopped, Signal::SIGCONT);
        }
        // Whoever looks at the run before its process is gone would take it for one that is at work.
        let gone = || dying.iter().all(|pid| !alive(*pid)).then_some(());
        until("end of the killed runner", gone).await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// The next server looks for the host, finds it or not, and only then the host goes on.
    async fn let_host_go_on(&self, subject: &Subject) {
        let Some(run) = &subject.run else { return };
        let end = Instant::now() + LOOKED_FOR;
        // One that is taken for dead is seen at once; one that is waited for is not seen at all.
        while Instant::now() < end && !self.runs().await.iter().any(|seen| id(seen) == *run && !is_live(seen))
        {
            tokio::time::sleep(LOOK).await;
        }
        let host = host(&census(&self.stage.home.marker()), run);
        host.into_iter().for_each(|host| send(host, Signal::SIGCONT));
    }

    fn make_room(&self, subject: &Subject) {
        let Some(run) = &subject.run else { return };
        let host = host(&census(&self.stage.home.marker()), run);
        host.into_iter().for_each(disk::make_room);
    }

    fn kill_host(&mut self, seen: &[Seen], run: &str) {
        if let Some(host) = host(seen, run) {
            end(host);
            self.without_host.insert(run.to_owned());
        }
    }

    /// What a control plane does not know is not there: its jobs end, whatever the proxy hides.
    async fn forget_jobs(&self) -> Result<(), String> {
        for job in self.jobs_upstream().await {
            let target =
                format!("/v1/jobs/{}/cancel?{}", job["id"].as_str().unwrap_or_default(), self.scope());
            let _ = self.upstream.ask("POST", target).header("authorization", &self.bearer()).send().await;
        }
        let end = Instant::now() + LIMIT;
        while !self.jobs_upstream().await.is_empty() {
            if Instant::now() >= end {
                return Err("a cancelled job did not end".to_owned());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The jobs that are not terminal, as the control plane itself knows them.
    pub(super) async fn jobs_upstream(&self) -> Vec<Value> {
        let target = format!("/v1/jobs?{}", self.scope());
        let answer = self.upstream.ask("GET", target).header("authorization", &self.bearer()).send().await;
        let jobs = answer.expect(200).json();
        let jobs = jobs["jobs"].as_array().cloned().unwrap_or_default();
        let is_open = |job: &Value| matches!(job["status"].as_str(), Some("queued" | "running"));
        jobs.into_iter().filter(is_open).collect()
    }

    fn credentials(&self) -> Value {
        let file = self.stage.home.dir().join("config/midrun/credentials.json");
        let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_json::from_slice(&text).expect("the server wrote it whole")
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.credentials()["token"].as_str().unwrap_or_default())
    }

    fn scope(&self) -> String {
        let org = self.credentials()["orgSlug"].as_str().unwrap_or_default().to_owned();
        format!("orgSlug={org}&projectSlug=staged")
    }
}

pub(super) fn id(run: &Value) -> String {
    run["id"].as_str().unwrap_or_default().to_owned()
}

/// Whether a run has, or is about to have, a process.
pub(super) fn is_live(run: &Value) -> bool {
    matches!(
        run["status"].as_str(),
        Some("starting" | "running" | "early-stopping" | "stopping" | "restarting")
    )
}

/// Whether a run is armed, has its job, and has a process: that one has ended may not be known yet.
pub(super) fn is_at_work(run: &Value) -> bool {
    let pid = run["pid"].as_u64().and_then(|pid| pid.try_into().ok());
    run["status"] == "running" && run["jobId"].is_string() && pid.is_some_and(alive)
}

/// Looks until `found` finds something.
pub(super) async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(format!("within {LIMIT:?} there was no {what}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The state of a process in the words of the system: `T` is stopped.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Kills a process that this test started, if it is still there.
fn end(pid: u32) {
    send(pid, Signal::SIGKILL);
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a process id of Linux fits");
    let _ = kill(Pid::from_raw(pid), signal);
}

impl Drop for Lane {
    fn drop(&mut self) {
        crate::processes::sweep(&self.stage.home.marker());
    }
}
