//! Ends: of a run, of a request, of the server; and that nothing of them is left.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Checkpoints, Dev, Fault, LIMIT, SdkTrainer, Stage, Ticker, gone};

use super::faults::{control_plane, dev_on};
use super::frames::status;
use super::records::{STOP, records, signals};
use super::ticks::count;

/// Starts workers as training code does: a plain one, one in its own session, one whose parent is gone, and one
/// that ignores SIGTERM. Each prints its process id.
pub(crate) const WORKERS: &str = r#"
const { spawn } = await import("node:child_process");
const children = [
  spawn("sleep", ["1000"], { stdio: "ignore" }),
  spawn("sleep", ["1001"], { stdio: "ignore", detached: true }),
  spawn("sh", ["-c", "trap '' TERM; while :; do sleep 1002; done"], { stdio: "ignore" }),
];
for (const child of children) console.log("WORKER " + child.pid);
spawn("sh", ["-c", "(sleep 1003 >/dev/null 2>&1 & echo WORKER $!) &"], { stdio: "inherit" });
"#;

/// How many processes that is.
const COUNT: usize = 4;

pub(crate) fn workers(lines: &[&str]) -> Option<Vec<u32>> {
    let pids: Vec<u32> = lines.iter().filter_map(|line| line.strip_prefix("WORKER ")?.parse().ok()).collect();
    (pids.len() == COUNT).then_some(pids)
}

async fn all_gone(pids: &[u32]) {
    for pid in pids {
        gone(*pid, LIMIT).await;
    }
}

#[tokio::test]
async fn closing_the_request_stops_its_run_and_every_process_of_it() {
    let stage = Stage::ticker(&Ticker { start_code: WORKERS.to_owned(), ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let mut train = dev.train().await;
    train.wait_for("TICK v1 20\n", 0).await;
    let (run, pid) = (train.run.clone(), train.pid);
    let mut log = dev.log(&run).await;
    let pids = log.wait_for_lines("workers", workers).await;
    assert!(pids.iter().all(|pid| testkit::alive(*pid)));
    train.close();
    gone(pid, LIMIT).await;
    all_gone(&pids).await;
    status(&mut events, &run, "exited").await;
    assert_eq!(dev.run(&run).await["endedBy"], "user");
    dev.finish().await;
}

#[tokio::test]
async fn a_stop_now_ends_the_tree_and_cancels_the_job() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let pid = dev.run(&run).await["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .expect("it has a process");
    dev.stop_run(&run, "now").await;
    gone(pid, LIMIT).await;
    status(&mut events, &run, "exited").await;
    let ended = dev.run(&run).await;
    assert_eq!((&ended["endedBy"], &ended["jobId"]), (&"user".into(), &dev.jobs().await[0]["id"]));
    let job = ended["jobId"].as_str().expect("it had a job");
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    assert_eq!(dev.jobs().await[0]["status"], "cancelled");
    let again = dev.client.post(format!("/api/runs/{run}/stop"), &json!({ "mode": "now" })).await;
    assert_eq!(again.status, 409);
    dev.finish().await;
}

/// What a stop at once may take here. It is promised within 1 s, which `bench stop` measures; this build is a slow one and
/// the machine is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_stop_now_is_over_at_once_while_the_control_plane_hangs() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::bare(testkit::Layout::Midrun);
    let more = format!("if (process.env.MIDRUN_RUN_ID) {{{WORKERS}}}\n");
    stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v1"));
    stage.project.write("index.ts", &(SdkTrainer::default().entry() + &more));
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    let pids = log.wait_for_lines("workers", workers).await;
    log.wait_for_start("LOG v1 ").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    proxy.only("/v1/", Fault::Hang);
    let asked = Instant::now();
    dev.stop_run(&run, "now").await;
    status(&mut events, &run, "exited").await;
    all_gone(&pids).await;
    let took = asked.elapsed();
    assert!(took < AT_ONCE, "at once took {took:?}");
    assert_eq!(dev.run(&run).await["endedBy"], "user");
    dev.outstanding_cancel_of(&job).await;
    proxy.heal();
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn a_stop_at_the_checkpoint_waits_for_it_and_leaves_no_worker() {
    let stage = Stage::bare(testkit::Layout::Midrun);
    let checkpoint = stage.flag("checkpoint");
    let trainer = Ticker {
        checkpoints: Checkpoints::After(checkpoint.clone()),
        start_code: WORKERS.to_owned(),
        ..Ticker::default()
    };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    let pids = log.wait_for_lines("workers", workers).await;
    dev.stop_run(&run, "checkpoint").await;
    dev.stop_run(&run, "checkpoint").await;
    log.wait_for_line("EARLY-STOP-ASKED").await;
    assert_eq!(dev.run(&run).await["status"], "early-stopping");
    checkpoint.raise();
    assert_eq!(log.exit().await, 0);
    status(&mut events, &run, "exited").await;
    assert_eq!(dev.run(&run).await["endedBy"], "user");
    assert_eq!((signals(&stage, &run), count(&log.lines(), "EARLY-STOP-ASKED")), (vec![STOP], 1));
    all_gone(&pids).await;
    dev.finish().await;
}

#[tokio::test]
async fn starting_with_wait_answers_at_the_end_or_at_the_timeout() {
    let stage = Stage::ticker(&Ticker { steps: 5, ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let ended = dev.client.post("/api/runs", &json!({ "wait": true })).await.expect(200).json();
    assert_eq!(
        (&ended["completed"], &ended["timedOut"], &ended["exitCode"]),
        (&true.into(), &false.into(), &0.into())
    );
    assert_eq!((&ended["run"]["status"], &ended["run"]["endedBy"]), (&"exited".into(), &"finished".into()));
    assert!(ended["durationMs"].as_u64().is_some_and(|ms| ms >= 25), "five steps of 5 ms: {ended}");

    stage.project.write("index.ts", &Ticker::default().entry());
    events.next_named("rebuild").await;
    let body = json!({ "wait": true, "timeoutMs": 300 });
    let late = dev.client.post("/api/runs", &body).await.expect(200).json();
    assert_eq!((&late["completed"], &late["timedOut"]), (&false.into(), &true.into()));
    let run = late["run"]["id"].as_str().expect("it says which run").to_owned();
    dev.log(&run).await.wait_for_start("TICK v1 ").await;
    assert_eq!(dev.run(&run).await["status"], "running", "a timeout leaves the run alone");
    dev.finish().await;
}

/// Whether a line of `midrun dev --json` says that it waits for runs.
fn waits(line: &str) -> Option<()> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["event"] == "note" && line["text"].as_str()?.contains("checkpoint")).then_some(())
}

/// A dev server with a run that has its checkpoint when the flag is raised.
async fn with_a_held_run(stage: &Stage) -> (Dev, String, testkit::Flag) {
    let checkpoint = stage.flag("checkpoint");
    let trainer = Ticker { checkpoints: Checkpoints::After(checkpoint.clone()), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(stage).await;
    let run = dev.running(&mut events).await;
    (dev, run, checkpoint)
}

#[tokio::test]
async fn the_first_ctrl_c_stops_runs_at_their_next_checkpoint_and_says_so() {
    let stage = Stage::bare(testkit::Layout::Midrun);
    let (mut dev, run, checkpoint) = with_a_held_run(&stage).await;
    dev.interrupt();
    dev.process_of("train-registry").wait_for_line("line that says what it waits for", waits).await;
    let mut log = dev.log(&run).await;
    log.wait_for_line("EARLY-STOP-ASKED").await;
    let refused = dev.client.post("/api/runs", &json!({})).await;
    assert_eq!(refused.status, 503, "no run starts any more: {}", refused.text());
    assert!(dev.process_of("train-registry").is_alive());
    checkpoint.raise();
    let _ = dev.ended().await.expect(0);
    let records = records(&stage, &run);
    let last = records.last().expect("the run has a log");
    assert_eq!((&last["type"], &last["code"]), (&"exit".into(), &0.into()));
    assert!(
        !stage.project.dir().join(".midrun/server.json").exists(),
        "nobody is sent to a server that ended"
    );
}

#[tokio::test]
async fn the_second_ctrl_c_stops_at_once() {
    let stage = Stage::bare(testkit::Layout::Midrun);
    let (mut dev, run, _checkpoint) = with_a_held_run(&stage).await;
    dev.interrupt();
    dev.process_of("train-registry").wait_for_line("line that says what it waits for", waits).await;
    dev.interrupt();
    let asked = Instant::now();
    dev.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(30), "at once took {:?}", asked.elapsed());
    let records = records(&stage, &run);
    assert_eq!(records.last().map(|last| &last["type"]), Some(&"exit".into()));
}

#[tokio::test]
async fn a_server_that_ends_ends_its_streams_and_a_training_request() {
    let stage = Stage::ticker(&Ticker::default());
    let (mut dev, events) = Dev::ready(&stage).await;
    let mut train = dev.train().await;
    train.wait_for("TICK v1 ", 0).await;
    let pid = train.pid;
    dev.interrupt();
    let (_, trailer) = train.to_the_end(LIMIT).await;
    assert!(trailer == "exit=0" || trailer.starts_with("error="), "{trailer}");
    events.to_the_end(LIMIT).await;
    gone(pid, LIMIT).await;
    let _ = dev.ended().await.expect(0);
}
