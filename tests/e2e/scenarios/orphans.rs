//! A server that is killed, what goes on without it, and what `midrun reap` or the next server makes of that.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{
    Checkpoints, Dev, Fault, LIMIT, Layout, Midrun, SdkTrainer, Stage, Ticker, alive, eventually, gone,
    leftovers, signal,
};

use super::faults::{control_plane, dev_on};
use super::frames::{status, successor, swapped};
use super::records::records;
use super::stopping::{WORKERS, workers};
use super::ticks::tags_of_each_step_once;

/// The process id of the run's host.
fn host_of(stage: &Stage, run: &str) -> u32 {
    let path = stage.project.dir().join(".midrun/runs").join(run).join("host.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let host: Value = serde_json::from_str(&text).expect("it is JSON");
    u32::try_from(host["pid"].as_u64().expect("it has a pid")).expect("a pid fits")
}

fn pid_of(run: &Value) -> u32 {
    u32::try_from(run["pid"].as_u64().unwrap_or_else(|| panic!("no process: {run}"))).expect("a pid fits")
}

/// `midrun reap --json ARGS`.
pub(crate) async fn reap(stage: &Stage, args: &[&str]) -> Value {
    let args = ["reap", "--json"].iter().chain(args).copied();
    let said = Midrun::new(stage, args).run().await.expect(0).json();
    assert_eq!(said.len(), 1, "one object: {said:?}");
    let keys: Vec<&str> = said[0].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["stale", "reaped", "skipped", "jobs"]);
    said[0].clone()
}

pub(crate) fn pids(report: &Value) -> Vec<u32> {
    report["reaped"].as_array().expect("a list").iter().map(pid_of).collect()
}

/// The reason for which `pid` was left alone.
fn spared(report: &Value, pid: u32) -> String {
    let skipped = report["skipped"].as_array().expect("a list");
    let own = skipped.iter().find(|one| one["pid"] == pid).unwrap_or_else(|| panic!("{pid} in {report}"));
    own["reason"].as_str().expect("a reason").to_owned()
}

/// Waits until the run's log has its end.
async fn ended(stage: &Stage, run: &str) -> Value {
    eventually("end of the log", LIMIT, || {
        records(stage, run).pop().filter(|record| record["type"] == "exit")
    })
    .await
}

/// Waits until nothing that the test started is left.
async fn nothing_left(stage: &Stage) {
    eventually("end of every process", LIMIT, || leftovers(&stage.home.marker()).is_empty().then_some(()))
        .await;
}

/// Waits until the run writes more: it goes on.
async fn goes_on(stage: &Stage, run: &str) {
    let before = records(stage, run).len();
    eventually("more output", LIMIT, || (records(stage, run).len() > before).then_some(())).await;
}

#[tokio::test]
async fn a_run_outlives_its_server_and_reap_ends_its_whole_tree_and_its_job() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::bare(Layout::Midrun);
    stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v1"));
    let more = format!("if (process.env.MIDRUN_RUN_ID) {{{WORKERS}}}\n");
    stage.project.write("index.ts", &(SdkTrainer::default().entry() + &more));
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    let children = log.wait_for_lines("workers", workers).await;
    log.wait_for_start("LOG v1 ").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let (host, runner) = (host_of(&stage, &run), pid_of(&dev.run(&run).await));
    dev.kill().await;
    goes_on(&stage, &run).await;

    proxy.only("/cancel", Fault::Refuse);
    let foreseen = reap(&stage, &["--dry-run"]).await;
    let everyone: Vec<u32> = [host, runner].into_iter().chain(children.iter().copied()).collect();
    assert!(everyone.iter().all(|pid| pids(&foreseen).contains(pid)), "{everyone:?} in {foreseen}");
    assert_eq!((&foreseen["stale"], &foreseen["jobs"][0]["job"]), (&1.into(), &job.as_str().into()));
    assert!(everyone.iter().all(|pid| alive(*pid)), "a dry run does nothing");
    assert_eq!(proxy.count("/cancel"), 0);
    goes_on(&stage, &run).await;

    let double_forked = children[3];
    let report = reap(&stage, &["--protect", &double_forked.to_string()]).await;
    assert_eq!(spared(&report, double_forked), "it is protected by --protect");
    assert!(alive(double_forked));
    for pid in everyone.iter().filter(|pid| **pid != double_forked) {
        assert!(pids(&report).contains(pid), "{pid} in {report}");
        gone(*pid, LIMIT).await;
    }
    let order: Vec<u32> = pids(&report);
    assert_eq!(order.last(), Some(&host), "children first: {report}");
    assert_eq!(report["jobs"], json!([{ "run": run, "job": job, "settled": false }]));

    let rest = reap(&stage, &[]).await;
    assert_eq!((pids(&rest), &rest["jobs"]), (vec![double_forked], &json!([])));
    nothing_left(&stage).await;
    assert!(lender.pids().into_iter().all(alive), "it is another project's server");

    proxy.heal();
    let (next, mut events) = dev_on(&stage, &proxy).await;
    let told = next.run(&run).await;
    assert_eq!((&told["endedBy"], &told["status"]), (&"reaped".into(), &"exited".into()), "{told}");
    super::faults::signed_in(&next).await;
    let mut news = testkit::Sse::open(&next.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    let folder = stage.project.dir().join(".midrun/runs").join(&run);
    assert!(!folder.join("credentials.json").exists(), "a run that is over needs none");
    let fresh = next.running(&mut events).await;
    assert_ne!(fresh, run);
    next.finish().await;
    lender.finish().await;
}

/// A process that has nothing to do with any run.
struct Innocent(Child);

impl Innocent {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("there is a sleep"))
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_pid_that_is_in_use_again_is_left_alone() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.kill().await;
    let host = host_of(&stage, &run);
    signal(host, Signal::SIGKILL);
    gone(host, LIMIT).await;
    // As if the system had given the host's process id to somebody else.
    let innocent = Innocent::start();
    let path = stage.project.dir().join(".midrun/runs").join(&run).join("host.json");
    let mut record: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    record["pid"] = innocent.0.id().into();
    std::fs::write(&path, record.to_string()).expect("the folder is ours");

    let report = reap(&stage, &[]).await;
    assert!(alive(innocent.0.id()), "{report}");
    assert!(spared(&report, innocent.0.id()).contains("began at another time"), "{report}");
    assert_eq!(report["stale"], 1);
    nothing_left(&stage).await;
    assert_eq!(reap(&stage, &[]).await["stale"], 0, "its end is on record");
    let (next, _events) = Dev::ready(&stage).await;
    let told = next.run(&run).await;
    assert_eq!((&told["status"], &told["endedBy"]), (&"lost".into(), &"lost".into()));
    next.finish().await;
}

#[tokio::test]
async fn with_a_server_its_runs_are_left_alone() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let report = reap(&stage, &[]).await;
    assert_eq!(report, json!({ "stale": 0, "reaped": [], "skipped": [], "jobs": [] }));
    goes_on(&stage, &run).await;
    let said = Midrun::new(&stage, ["reap"]).run().await.expect(0);
    assert!(said.stderr.contains("nothing to reap"), "{said:?}");
    dev.finish().await;
}

/// A ticker whose runner with the process id N ends with 7 when `exit-N` is there.
fn ends_on_demand(stage: &Stage, checkpoints: Checkpoints) -> Ticker {
    let folder = serde_json::to_string(stage.root()).expect("the folder's name is text");
    let module_code = format!(
        "if (process.env.MIDRUN_RUN_ID)\n  setInterval(() => existsSync({folder} + \"/exit-\" + process.pid) && process.exit(7), 5).unref();\n"
    );
    Ticker { module_code, checkpoints, ..Ticker::default() }
}

#[tokio::test]
async fn the_next_server_takes_up_what_goes_on_and_what_ended_meanwhile() {
    let stage = Stage::bare(Layout::Midrun);
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &ends_on_demand(&stage, Checkpoints::Every(10)).entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let goes = dev.running(&mut events).await;
    let ends = dev.running(&mut events).await;
    let pid = pid_of(&dev.run(&ends).await);
    dev.kill().await;
    stage.flag(&format!("exit-{pid}")).raise();
    assert_eq!(ended(&stage, &ends).await["code"], 7);
    goes_on(&stage, &goes).await;

    let (next, mut events) = Dev::ready(&stage).await;
    let over = next.run(&ends).await;
    assert_eq!((&over["exitCode"], &over["endedBy"]), (&7.into(), &"failed".into()), "{over}");
    assert_eq!(next.run(&goes).await["status"], "running");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &goes).await;
    let mut log = next.log(&goes).await;
    log.wait_for_start("TICK v2 ").await;
    assert_eq!(tags_of_each_step_once(&log.lines()), ["v1", "v2"], "the whole log, from its first step");
    next.finish().await;
}

#[tokio::test]
async fn a_restart_that_was_due_is_done_by_the_next_server() {
    let stage = Stage::bare(Layout::Midrun);
    let checkpoint = stage.flag("checkpoint");
    let trainer = Ticker { checkpoints: Checkpoints::After(checkpoint.clone()), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer }.entry());
    status(&mut events, &run, "early-stopping").await;
    dev.log(&run).await.wait_for_line("EARLY-STOP-ASKED").await;
    dev.kill().await;
    checkpoint.raise();
    assert_eq!(ended(&stage, &run).await["code"], 0);
    let report = reap(&stage, &[]).await;
    assert_eq!(report["reaped"], json!([]), "it has ended: {report}");

    let next = Dev::start(&stage).await;
    let mut events = next.events().await;
    // It may be there before anybody listens.
    let follows = |other: &Value| other["replaces"] == *run && other["status"] == "running";
    let after = match next.runs().await.iter().find(|other| follows(other)) {
        Some(after) => after["id"].as_str().expect("a run has an id").to_owned(),
        None => successor(&mut events, &run).await,
    };
    let told = next.run(&run).await;
    assert_eq!((&told["endedBy"], &told["replacedBy"]), (&"replaced".into(), &after.as_str().into()));
    next.finish().await;
}

#[tokio::test]
async fn a_run_that_no_server_comes_back_for_stops_by_itself() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::options(&stage, &[]).env("MIDRUN_RUN__ALONE_MS", "4000").start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    dev.kill().await;
    assert_eq!(ended(&stage, &run).await["code"], 0);
    let said = records(&stage, &run);
    let alone = said.iter().find(|record| record["type"] == "alone").expect("it says why");
    assert_eq!(alone["aloneMs"], 4000);
    assert!(said.iter().any(|record| record["type"] == "signal" && record["signal"] == 15));
    nothing_left(&stage).await;
    let (next, _events) = Dev::ready(&stage).await;
    let told = next.run(&run).await;
    assert_eq!((&told["endedBy"], &told["exitCode"]), (&"reaped".into(), &0.into()), "{told}");
    assert_eq!(told["reason"], "no server had been there for 4 s");
    next.finish().await;
}
