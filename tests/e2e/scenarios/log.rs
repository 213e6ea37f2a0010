//! A run's log beyond its cap, and a disk that refuses: what goes, what stays, and who says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Dev, Event, LIMIT, Layout, Midrun, Sse, Stage, Ticker};

use super::frames::{status, swapped};

/// Prints 6 MB with a checkpoint after each tenth of a MB, then waits for the flag.
const LOUD: &str = r#"
import { existsSync, writeSync } from "node:fs";

const line = "\u001b[32mloss\u001b[0m 0.123 é\n".repeat(50);
const bytes = Buffer.byteLength(line);

export const trainer = {
  name: "loud",
  start: async () => ({ jobId: "loud" }),
  wait: async () => {
    let written = 0;
    while (written < 6_000_000) {
      for (let rest = Buffer.from(line); rest.length > 0;) {
        try { rest = rest.subarray(writeSync(1, rest)); } catch (error) { if (error.code !== "EAGAIN") throw error; }
      }
      written += bytes;
    }
    console.error("WRITTEN " + written);
    while (!existsSync(FLAG)) await new Promise((resolve) => setTimeout(resolve, 10));
    return { job: { id: "loud", status: "completed" }, artifacts: [] };
  },
  cancel: async () => {},
};
"#;

fn run_folder(stage: &Stage, run: &str) -> PathBuf {
    stage.project.dir().join(".midrun/runs").join(run)
}

/// How large the files of a run's log are together, bytes.
fn size_of_log(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("the run's folder").map(|file| file.expect("a file"));
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("events."));
    // The oldest one may go away just now.
    logs.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// The first number that a record stands for, and its own.
fn numbers(event: &Event) -> (u64, u64) {
    let own = event.id.parse().expect("the id is a record's number");
    (event.data["fromSeq"].as_u64().unwrap_or(own), own)
}

/// Asserts that every number behind `after` is told of; how much is there and how much is gone, bytes.
fn check_numbers(events: &[Event], after: u64) -> (usize, u64) {
    let mut last = after;
    let (mut there, mut dropped) = (0, 0);
    for event in events {
        let (first, own) = numbers(event);
        let joins = if last == after { first <= last + 1 } else { first == last + 1 };
        assert!(joins && own > last, "behind record {last} comes {event}");
        last = own;
        match event.name.as_str() {
            "output" if event.data["stream"] == "stdout" => {
                there += event.data["text"].as_str().expect("the output is text").len();
            }
            "dropped" => dropped += event.data["bytes"].as_u64().expect("it says how much"),
            _ => {}
        }
    }
    (there, dropped)
}

#[tokio::test]
async fn beyond_its_cap_a_log_loses_its_oldest_output_says_so_and_is_taken_up_by_the_next_server() {
    let stage = Stage::bare(Layout::Midrun);
    let go = stage.flag("go");
    stage.project.write("index.ts", &LOUD.replace("FLAG", &json!(go.path()).to_string()));
    let cap = ("MIDRUN_RUN__LOG_CAP_MB", "1");
    let dev = Dev::options(&stage, &[]).env(cap.0, cap.1).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    let said =
        |event: &Event| event.data["text"].as_str()?.strip_prefix("WRITTEN ")?.trim().parse::<u64>().ok();
    let written = log.events().wait_for("word of how much was written", |event| said(event).is_some()).await;
    let written = said(&written).expect("it was waited for");
    let host = std::fs::read_to_string(run_folder(&stage, &run).join("host.json")).expect("it has a host");
    assert!(size_of_log(&run_folder(&stage, &run)) < 5 << 18, "the cap is kept while the run goes on");

    // The server dies; the next one goes on with the run and its log.
    dev.kill().await;
    let dev = Dev::options(&stage, &[]).env(cap.0, cap.1).start().await;
    let mut events = dev.events().await;
    let is_running =
        |runs: &[Value]| runs.iter().any(|known| known["id"] == *run && known["status"] == "running");
    let until = tokio::time::Instant::now() + LIMIT;
    while !is_running(&dev.runs().await) {
        assert!(tokio::time::Instant::now() < until, "the run was not taken up: {:?}", dev.runs().await);
        testkit::pause().await;
    }
    let host_now =
        std::fs::read_to_string(run_folder(&stage, &run).join("host.json")).expect("it has a host");
    assert_eq!(host, host_now);
    go.raise();
    status(&mut events, &run, "exited").await;

    let target = format!("/api/runs/{run}/events");
    let whole = Sse::open(&dev.client, &target, None).await.to_the_end(LIMIT).await;
    let (there, dropped) = check_numbers(&whole, 0);
    assert_eq!(there as u64 + dropped, written, "every byte is there or counted");
    assert!(there > 100_000, "{there} bytes: the newest output is there");
    let life: Vec<&str> = whole.iter().filter_map(|event| event.data["type"].as_str()).collect();
    for kind in ["spawned", "ready", "job", "finished", "exit"] {
        assert_eq!(life.iter().filter(|known| **known == kind).count(), 1, "{kind} is never dropped");
    }
    // Someone comes back who had read a part of what is gone.
    let gaps = whole.iter().filter(|event| event.name == "dropped");
    let gap = gaps.max_by_key(|gap| gap.data["records"].as_u64()).expect("something was dropped");
    let (first, last) = numbers(gap);
    let middle = first.midpoint(last);
    let rest = Sse::open(&dev.client, &target, Some(&middle.to_string())).await.to_the_end(LIMIT).await;
    assert_eq!((rest[0].name.as_str(), numbers(&rest[0]).1), ("dropped", last));
    check_numbers(&rest, middle);
    let text = |events: &[Event]| events.iter().skip_while(|event| numbers(event).1 <= last).count();
    assert_eq!(text(&rest), text(&whole));

    let logs = Midrun::new(&stage, ["runs", "logs", &run]).run().await.expect(0);
    assert_eq!(logs.stdout.len(), there);
    let told = logs.stderr.lines().filter_map(|line| {
        line.strip_prefix('[')?.split_once(" bytes of output are gone here: ")?.0.parse::<u64>().ok()
    });
    assert_eq!(told.sum::<u64>(), dropped, "{}", logs.stderr);
    dev.finish().await;
}

/// From now on no file may become longer than `limit` by this process: that fails like writing to a full disk, and
/// needs neither a file system of one's own nor root.
fn limit_files(pid: u32, limit: &str) {
    let args = ["--pid", &pid.to_string(), &format!("--fsize={limit}:unlimited")].map(str::to_owned);
    assert!(Command::new("prlimit").args(args).status().expect("prlimit is there").success());
}

/// The text of a warning that has `word` in it.
fn warning(word: &'static str) -> impl Fn(&str) -> Option<String> {
    move |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = line["text"].as_str().filter(|text| line["event"] == "warning" && text.contains(word));
        text.map(str::to_owned)
    }
}

/// The newest step that the trainer told of.
fn step(lines: &[String]) -> u32 {
    let steps =
        lines.iter().rev().filter_map(|line| line.strip_prefix("TICK ")?.split(' ').nth(1)?.parse().ok());
    steps.max().unwrap_or_default()
}

#[tokio::test]
async fn a_full_disk_leaves_trainings_alone_is_said_and_heals() {
    let stage = Stage::ticker(&Ticker { step_ms: 20, ..Ticker::default() });
    let (mut dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    let runner = dev.run(&run).await["pid"].as_u64().expect("it runs");
    let host = std::fs::read_to_string(run_folder(&stage, &run).join("host.json")).expect("it has a host");
    let host = serde_json::from_str::<Value>(&host).expect("JSON")["pid"].as_u64().expect("a pid");
    let mut processes = dev.pids();
    processes.push(u32::try_from(host).expect("a pid"));

    processes.iter().for_each(|pid| limit_files(*pid, "1"));
    let said = dev.process_of("sse-gateway").wait_for_line("warning", warning("cannot be written")).await;
    assert!(
        said.contains(".midrun") && said.contains("make room") && said.contains("Trainings go on"),
        "{said}"
    );
    let ready = dev.client.get("/readyz").await.expect(503).json();
    assert!(ready["error"].as_str().is_some_and(|why| why.contains("make room")), "{ready}");
    let refused = dev.client.post("/api/runs", &json!({})).await.expect(503).json();
    assert!(!refused["error"].as_str().unwrap_or_default().is_empty(), "{refused}");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let error = events.next_named("error").await;
    assert!(error.text("message").contains("make room"), "{error}");
    let run_now = dev.run(&run).await;
    assert_eq!(
        (&run_now["pid"], &run_now["status"]),
        (&json!(runner), &json!("running")),
        "the training is untouched"
    );

    let before = step(&log.lines());
    processes.iter().for_each(|pid| limit_files(*pid, "unlimited"));
    dev.process_of("sse-gateway").wait_for_line("end of the trouble", warning("can be written again")).await;
    dev.well().await;
    let dropped = log.events().next_named("dropped").await;
    assert!(dropped.text("why").contains("could not be written"), "{dropped}");
    assert!(dropped.data["bytes"].as_u64() > Some(0), "{dropped}");
    stage.project.write("callbacks.ts", &format!("{}// again\n", Ticker::callbacks("v2")));
    swapped(&mut events, &run).await;
    let after: u32 = log.wait_for_start("TICK v2 ").await.parse().expect("a step");
    assert!(after > before, "{after} comes behind {before}");
    let another = dev.running(&mut events).await;
    assert_ne!(another, run);
    dev.finish().await;
}
