//! The server is killed and started again: it takes its runs up where they are.

use nix::sys::signal::Signal;
use testkit::{Checkpoints, Dev, LIMIT, Sse, Stage, Ticker, eventually, gone, signal};

use super::frames::{status, successor, swapped};
use super::records::{STOP, SWAP, records, signals};
use super::ticks::tags_of_each_step_once;

/// Ends the trainer with this status when the flag is raised.
fn ends_by(flag: &testkit::Flag, code: i32) -> Ticker {
    let path = flag.path().to_str().expect("the folder's name is text");
    let module_code = format!("setInterval(() => existsSync({path:?}) && process.exit({code}), 5);\n");
    Ticker { module_code, ..Ticker::default() }
}

fn pid_of(run: &serde_json::Value) -> u32 {
    run["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("it has a process")
}

/// Waits until its host has written how the run ended: a runner that is gone may not be known to be.
async fn is_over(stage: &Stage, run: &str) {
    let ends = || records(stage, run).last().is_some_and(|last| last["type"] == "exit").then_some(());
    eventually("end of the log", LIMIT, ends).await;
}

/// The server that follows one that was killed, behind its first good build.
async fn next_server(stage: &Stage) -> (Dev, Sse) {
    Dev::ready(stage).await
}

#[tokio::test]
async fn a_run_goes_on_and_a_reader_of_its_log_goes_on_where_it_was() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let pid = pid_of(&dev.run(&run).await);
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 5").await;
    dev.kill().await;
    let first = log.events().events();
    let read = first.last().map(|event| event.id.clone()).expect("it read something");
    let behind = records(&stage, &run).len();
    eventually("output while no server is there", LIMIT, || {
        (records(&stage, &run).len() > behind + 5).then_some(())
    })
    .await;

    let (dev, mut events) = next_server(&stage).await;
    let taken_up = dev.run(&run).await;
    assert_eq!((&taken_up["status"], pid_of(&taken_up)), (&"running".into(), pid), "{taken_up}");
    let target = format!("/api/runs/{run}/events");
    let mut rest = Sse::open(&dev.client, &target, Some(&read)).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    let new = |event: &testkit::Event| event.text("text").contains("TICK v2 ");
    rest.wait_for("output of the new callbacks", new).await;
    dev.stop_run(&run, "checkpoint").await;
    status(&mut events, &run, "exited").await;
    let rest = rest.to_the_end(LIMIT).await;
    let text: String = first.iter().chain(&rest).map(|event| event.text("text")).collect();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(tags_of_each_step_once(&lines), ["v1", "v2"]);
    let seqs: Vec<_> = first.iter().chain(&rest).map(|event| event.data["seq"].as_u64()).collect();
    let want: Vec<_> = (1..=records(&stage, &run).len() as u64).map(Some).collect();
    assert_eq!(seqs, want, "each record once");
    assert_eq!(signals(&stage, &run), [SWAP, STOP]);
    assert_eq!(dev.run(&run).await["endedBy"], "user");
    dev.finish().await;
}

#[tokio::test]
async fn how_runs_ended_while_no_server_was_there_is_learned() {
    let stage = Stage::ticker(&Ticker::default());
    let flag = stage.flag("end");
    stage.project.write("index.ts", &ends_by(&flag, 7).entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let failed = dev.running(&mut events).await;
    let killed = dev.running(&mut events).await;
    let pids = [pid_of(&dev.run(&failed).await), pid_of(&dev.run(&killed).await)];
    dev.kill().await;
    signal(pids[1], Signal::SIGKILL);
    flag.raise();
    for run in [&failed, &killed] {
        is_over(&stage, run).await;
    }
    let (dev, _events) = next_server(&stage).await;
    for (run, code) in [(&failed, 7), (&killed, 137)] {
        let ended = dev.run(run).await;
        assert_eq!(
            (&ended["status"], &ended["exitCode"], &ended["endedBy"]),
            (&"exited".into(), &code.into(), &"failed".into()),
            "{ended}"
        );
        assert_eq!(dev.log(run).await.exit().await, code);
    }
    dev.finish().await;
}

#[tokio::test]
async fn a_restart_that_was_due_is_made() {
    let stage = Stage::ticker(&Ticker::default());
    let checkpoint = stage.flag("checkpoint");
    let held = Ticker { checkpoints: Checkpoints::After(checkpoint.clone()), ..Ticker::default() };
    stage.project.write("index.ts", &held.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..held }.entry());
    let stopping = status(&mut events, &run, "early-stopping").await;
    eventually("signal to stop", LIMIT, || (signals(&stage, &run) == [STOP]).then_some(())).await;
    dev.kill().await;
    checkpoint.raise();
    is_over(&stage, &run).await;

    let (dev, mut events) = next_server(&stage).await;
    let ended = dev.run(&run).await;
    assert_eq!((&ended["endedBy"], &ended["exitCode"]), (&"replaced".into(), &0.into()), "{ended}");
    let reason = ended["reason"].as_str().expect("a reason");
    assert!(reason.starts_with(stopping.text("reason")), "{ended}");
    let next = ended["replacedBy"].as_str().expect("it has a successor").to_owned();
    let is_running = dev.run(&next).await["status"] == "running";
    if !is_running {
        assert_eq!(successor(&mut events, &run).await, next);
    }
    dev.log(&next).await.wait_for_start("TICK v1 ").await;
    let (old, new) = (dev.run(&run).await, dev.run(&next).await);
    assert_ne!(old["configHash"], new["configHash"]);
    assert_eq!(signals(&stage, &run), [STOP]);
    assert_eq!(dev.runs().await.len(), 2);
    dev.finish().await;
}

#[tokio::test]
async fn what_was_edited_while_no_server_was_there_reaches_the_run() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.kill().await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let (dev, _events) = next_server(&stage).await;
    dev.log(&run).await.wait_for_start("TICK v2 ").await;
    assert_eq!(signals(&stage, &run), [SWAP]);
    dev.kill().await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
    let (dev, _events) = next_server(&stage).await;
    let mut log = dev.log(&run).await;
    assert_eq!(log.exit().await, 0);
    assert_eq!(tags_of_each_step_once(&log.lines()), ["v1", "v2"]);
    let next = eventually("successor", LIMIT, || {
        let folders = std::fs::read_dir(stage.project.dir().join(".midrun/runs")).ok()?;
        let names = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.max().filter(|newest| *newest != run)
    })
    .await;
    dev.log(&next).await.wait_for_start("TICK v2 ").await;
    assert_eq!(dev.run(&run).await["replacedBy"], next.as_str());
    assert_eq!(signals(&stage, &run), [SWAP, STOP]);
    dev.finish().await;
}

#[tokio::test]
async fn a_run_whose_host_died_too_is_lost_and_says_so() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let pid = pid_of(&dev.run(&run).await);
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    let announced = stage.project.dir().join(".midrun/runs").join(&run).join("host.json");
    let host: serde_json::Value =
        serde_json::from_slice(&std::fs::read(announced).expect("the host says who it is"))
            .expect("it is written whole");
    dev.kill().await;
    signal(pid_of(&host), Signal::SIGKILL);
    gone(pid, LIMIT).await;
    let (dev, _events) = next_server(&stage).await;
    let lost = dev.run(&run).await;
    assert_eq!((&lost["status"], &lost["exitCode"]), (&"lost".into(), &serde_json::Value::Null), "{lost}");
    let events =
        Sse::open(&dev.client, &format!("/api/runs/{run}/events"), None).await.to_the_end(LIMIT).await;
    let last = events.last().expect("it had a log");
    assert_eq!((last.name.as_str(), &last.data["reason"]), ("exit", &lost["reason"]), "{last}");
    let text: String = events.iter().map(|event| event.text("text")).collect();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    tags_of_each_step_once(&whole.lines().map(str::to_owned).collect::<Vec<_>>());
    dev.finish().await;
}

#[tokio::test]
async fn a_run_whose_request_died_with_the_server_is_the_next_server_s() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let mut train = dev.train().await;
    train.wait_for("TICK v1 ", 0).await;
    let run = dev.runs().await[0]["id"].as_str().expect("a run has an id").to_owned();
    dev.kill().await;

    let (dev, mut events) = next_server(&stage).await;
    assert_eq!(dev.run(&run).await["status"], "running", "it goes on");
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
    let next = successor(&mut events, &run).await;
    dev.log(&next).await.wait_for_start("TICK v1 ").await;
    assert_eq!(signals(&stage, &run), [STOP]);
    dev.finish().await;
}
