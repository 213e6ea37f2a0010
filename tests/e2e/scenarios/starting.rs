//! Edits while a run is starting: its runner exists and is not armed, so nothing may be signalled.

use serde_json::json;
use testkit::{Dev, Stage, Ticker};

use super::frames::{decided, decision, status, successor, swapped};
use super::records::{STOP, SWAP, records, signals};
use super::ticks::tags_of_each_step_once;

fn place(records: &[serde_json::Value], kind: &str) -> usize {
    let found = records.iter().position(|record| record["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in the log"))
}

#[tokio::test]
async fn a_callback_edit_between_spawn_and_ready_is_swapped_in_when_the_runner_is_armed() {
    let stage = Stage::bare(testkit::Layout::Midrun);
    let armed = stage.flag("armed");
    let trainer = Ticker { armed_by: Some(armed.clone()), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.start_run(&json!({})).await;
    let id = run["id"].as_str().expect("a run has an id").to_owned();
    assert_eq!(run["status"], "starting");
    for tag in ["v2", "v3"] {
        stage.project.write("callbacks.ts", &Ticker::callbacks(tag));
        let frame = events.next_named("rebuild").await;
        assert_eq!(decision(&frame, &id), decided("wait", "its runner is not armed yet"));
        assert_eq!(frame.data["hotSwap"], false);
    }
    armed.raise();
    status(&mut events, &id, "running").await;
    let swap = swapped(&mut events, &id).await;
    let newest = dev.client.get("/api/manifest").await.expect(200).json()["contentHash"].clone();
    assert_eq!(swap.data["contentHash"], newest);
    let mut log = dev.log(&id).await;
    log.wait_for_start("TICK v3 ").await;
    assert!(!tags_of_each_step_once(&log.lines()).contains(&"v2".to_owned()));
    assert_eq!(signals(&stage, &id), [SWAP], "two rebuilds while it started, and one signal");
    let records = records(&stage, &id);
    assert!(
        place(&records, "ready") < place(&records, "signal"),
        "the signal came before the runner was armed"
    );
    dev.finish().await;
}

#[tokio::test]
async fn a_config_edit_between_spawn_and_ready_restarts_the_run_when_it_is_armed() {
    let stage = Stage::bare(testkit::Layout::Midrun);
    let armed = stage.flag("armed");
    let trainer = Ticker { armed_by: Some(armed.clone()), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.start_run(&json!({})).await;
    let id = run["id"].as_str().expect("a run has an id").to_owned();
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer }.entry());
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &id), decided("wait", "its runner is not armed yet"));
    armed.raise();
    let stopping = status(&mut events, &id, "early-stopping").await;
    assert_eq!(stopping.text("reason"), "config.learningRate 0.001 -> 0.0003");
    let next = successor(&mut events, &id).await;
    assert_eq!(signals(&stage, &id), [STOP]);
    assert_eq!(dev.run(&next).await["contentHash"], frame.data["contentHash"]);
    dev.finish().await;
}

#[tokio::test]
async fn a_run_that_fails_before_it_is_armed_says_so() {
    let stage = Stage::ticker(&Ticker {
        module_code: "if (process.env.MIDRUN_RUN_ID) throw new Error(\"no such luck\");\n".to_owned(),
        ..Ticker::default()
    });
    let (dev, mut events) = Dev::ready(&stage).await;
    let id = dev.start_run(&json!({})).await["id"].as_str().expect("a run has an id").to_owned();
    let exited = status(&mut events, &id, "exited").await;
    assert_eq!(exited.data["exitCode"], 1);
    assert!(exited.text("reason").contains("before it was armed"), "{exited}");
    let log = dev.log(&id).await.events().next_named("exit").await;
    assert_eq!(log.data["exitCode"], 1);
    let run = dev.run(&id).await;
    assert_eq!(run["endedBy"], "failed");
    dev.finish().await;
}
