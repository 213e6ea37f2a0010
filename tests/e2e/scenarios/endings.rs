//! Every way in which a run ends: its exit status, and who ended it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{
    Checkpoints, Dev, Fault, LIMIT, Layout, Midrun, SdkTrainer, Stage, Ticker, eventually, gone, signal,
};

use super::faults::{control_plane, dev_on};
use super::frames::{status, successor};

/// Generous, and below what a control plane that hangs would cost.
const AT_ONCE: Duration = Duration::from_secs(8);

fn pid_of(run: &Value) -> u32 {
    u32::try_from(run["pid"].as_u64().unwrap_or_else(|| panic!("no process: {run}"))).expect("a pid fits")
}

/// Who ended the run and with what exit status, once it has ended.
async fn end(dev: &Dev, events: &mut testkit::Sse, run: &str, word: &str) -> (String, Option<i64>) {
    status(events, run, word).await;
    let told = dev.run(run).await;
    (told["endedBy"].as_str().unwrap_or_default().to_owned(), told["exitCode"].as_i64())
}

fn by(who: &str, code: impl Into<Option<i64>>) -> (String, Option<i64>) {
    (who.to_owned(), code.into())
}

#[tokio::test]
async fn stop_now_does_not_wait_for_a_control_plane_that_hangs() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let told = dev.run(&run).await;
    let (pid, job) = (pid_of(&told), told["jobId"].as_str().expect("it has a job").to_owned());
    proxy.only("/cancel", Fault::Hang);
    let asked = Instant::now();
    dev.stop_run(&run, "now").await;
    let stopped = end(&dev, &mut events, &run, "exited").await;
    let took = asked.elapsed();
    assert!(took < AT_ONCE, "stopping at once took {took:?}");
    assert_eq!(stopped, by("user", 137));
    gone(pid, LIMIT).await;

    let outstanding = dev.outstanding_cancel_of(&job).await;
    assert!(!outstanding.to_string().contains("token"), "{outstanding}");
    let listed = Midrun::new(&stage, ["jobs", "ls"]).run().await.expect(0);
    assert!(
        listed.stderr.contains(&format!("the cancel of job {job} of run {run} is outstanding")),
        "{listed:?}"
    );

    proxy.heal();
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn every_way_out_has_its_status_and_says_who_ended_it() {
    let stage = Stage::bare(Layout::Midrun);
    let finish = stage.flag("finish");
    let path = serde_json::to_string(finish.path()).expect("a path is text");
    // Ends well when the flag is there, badly when asked to by SIGWINCH, which no runner takes for itself.
    let module_code = format!(
        "if (process.env.MIDRUN_RUN_ID) {{\n  setInterval(() => existsSync({path}) && process.exit(0), 5).unref();\n  process.on(\"SIGWINCH\", () => process.exit(9));\n}}\n"
    );
    let trainer = Ticker { module_code, checkpoints: Checkpoints::Every(5), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;

    for (sent, want) in [
        (Signal::SIGINT, by("user", 130)),
        (Signal::SIGHUP, by("user", 129)),
        (Signal::SIGKILL, by("failed", 137)),
        (Signal::SIGWINCH, by("failed", 9)),
    ] {
        let run = dev.running(&mut events).await;
        signal(pid_of(&dev.run(&run).await), sent);
        assert_eq!(end(&dev, &mut events, &run, "exited").await, want, "{sent}");
    }
    for (mode, want) in [("checkpoint", by("user", 0)), ("now", by("user", 137))] {
        let run = dev.running(&mut events).await;
        dev.stop_run(&run, mode).await;
        assert_eq!(end(&dev, &mut events, &run, "exited").await, want, "{mode}");
    }
    let lost = dev.running(&mut events).await;
    let host = stage.project.dir().join(".midrun/runs").join(&lost).join("host.json");
    let host: Value = serde_json::from_slice(&std::fs::read(host).expect("it is there")).expect("it is JSON");
    signal(pid_of(&host), Signal::SIGKILL);
    assert_eq!(end(&dev, &mut events, &lost, "lost").await, by("lost", None));

    let replaced = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer }.entry());
    let next = successor(&mut events, &replaced).await;
    let told = dev.run(&replaced).await;
    assert_eq!((&told["endedBy"], &told["exitCode"]), (&"replaced".into(), &0.into()));
    finish.raise();
    assert_eq!(end(&dev, &mut events, &next, "exited").await, by("finished", 0));
    dev.finish().await;
}

#[tokio::test]
async fn a_second_sigterm_ends_a_runner_at_once_with_143() {
    let stage = Stage::bare(Layout::Midrun);
    let never = stage.flag("checkpoint");
    let trainer = Ticker { checkpoints: Checkpoints::After(never), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let pid = pid_of(&dev.run(&run).await);
    signal(pid, Signal::SIGTERM);
    dev.log(&run).await.wait_for_line("EARLY-STOP-ASKED").await;
    signal(pid, Signal::SIGTERM);
    assert_eq!(end(&dev, &mut events, &run, "exited").await, by("user", 143));
    dev.finish().await;
}

#[tokio::test]
async fn the_children_of_a_lost_run_are_ended_by_the_server() {
    let code = r#"
const { spawn } = await import("node:child_process");
const child = spawn("sleep", ["1004"], { stdio: "ignore", detached: true });
console.log("CHILD " + child.pid);
"#;
    let stage = Stage::ticker(&Ticker { start_code: code.to_owned(), ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let child: u32 = dev.log(&run).await.wait_for_start("CHILD ").await.parse().expect("a pid");
    let host = stage.project.dir().join(".midrun/runs").join(&run).join("host.json");
    let host: Value = serde_json::from_slice(&std::fs::read(host).expect("it is there")).expect("it is JSON");
    signal(pid_of(&host), Signal::SIGKILL);
    assert_eq!(end(&dev, &mut events, &run, "lost").await, by("lost", None));
    gone(child, LIMIT).await;
    let metrics = || std::net::TcpStream::connect(dev.client.address()).is_ok().then_some(());
    eventually("server that goes on", LIMIT, metrics).await;
    let _ = dev.client.post("/api/runs", &json!({})).await.expect(201);
    dev.finish().await;
}
