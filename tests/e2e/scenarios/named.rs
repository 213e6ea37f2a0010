//! Runs that are started from a file by its name: an entry of its own, watched while a run of it lives.

use serde_json::json;
use testkit::{Dev, LIMIT, Stage, Ticker, gone};

use super::frames::{decided, decision, pids, status, successor, swapped};
use super::records::{STOP, SWAP, signals};

/// The file, as clients name it.
const FILE: &str = "src/midrun/other/run.ts";

/// A project with the trainer of [`FILE`], whose callbacks say `tag`.
fn stage(tag: &str) -> Stage {
    let stage = Stage::ticker(&Ticker::default());
    stage.project.write("other/callbacks.ts", &Ticker::callbacks(tag));
    stage.project.write("other/run.ts", &other().entry());
    stage
}

fn other() -> Ticker {
    Ticker { name: "other".to_owned(), ..Ticker::default() }
}

/// Starts a run of [`FILE`].
async fn start(dev: &Dev) -> String {
    let run = dev.start_run(&json!({ "file": FILE })).await;
    run["id"].as_str().expect("a run has an id").to_owned()
}

#[tokio::test]
async fn a_file_inside_the_project_is_an_entry_of_its_own_and_watched_while_its_run_lives() {
    let stage = Stage::ticker(&Ticker::default());
    stage.project.write("other/callbacks.ts", &Ticker::callbacks("other1"));
    stage.project.write("other/run.ts", &Ticker { name: "other".to_owned(), ..Ticker::default() }.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let own = dev.running(&mut events).await;
    let file = "src/midrun/other/run.ts";
    let run = dev.start_run(&json!({ "file": file })).await;
    let id = run["id"].as_str().expect("a run has an id").to_owned();
    assert_eq!(run["entry"], file);
    status(&mut events, &id, "running").await;
    dev.log(&id).await.wait_for_start("TICK other1 ").await;
    stage.project.write("other/callbacks.ts", &Ticker::callbacks("other2"));
    let frame = events.next_named("rebuild").await;
    let pid = dev.run(&id).await["pid"].as_u64().expect("it has a process");
    assert_eq!(pids(&frame, "hotSwapTargets"), [pid], "only the run of that entry: {frame}");
    assert_eq!(frame.data["hotSwapTargets"][0]["run"], id.as_str());
    swapped(&mut events, &id).await;
    dev.log(&id).await.wait_for_start("TICK other2 ").await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("own2"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &own), decided("hot-swap", "only callbacks changed: onTick"));
    assert_eq!(frame.data["decisions"].as_array().map(Vec::len), Some(1), "{frame}");
    swapped(&mut events, &own).await;
    // The project's own entry is what the manifest shows, also while another one lives.
    let manifest = dev.client.get("/api/manifest").await.expect(200).json();
    assert_eq!(manifest["trainer"]["name"], "ticker");

    dev.stop_run(&id, "now").await;
    status(&mut events, &id, "exited").await;
    stage.project.write("other/callbacks.ts", &Ticker::callbacks("other3"));
    stage.project.write("callbacks.ts", &Ticker::callbacks("own3"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &own).0, "hot-swap", "nobody watches the other entry any more: {frame}");
    let mut train = testkit::Train::start(&dev.client, &json!({ "file": file })).await;
    train.wait_for("TICK other3 ", 0).await;
    let pid = train.pid;
    train.close();
    gone(pid, LIMIT).await;
    dev.finish().await;
}

#[tokio::test]
async fn the_next_server_watches_it_too() {
    let stage = stage("one");
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = start(&dev).await;
    status(&mut events, &run, "running").await;
    dev.log(&run).await.wait_for_start("TICK one ").await;
    dev.kill().await;

    stage.project.write("other/callbacks.ts", &Ticker::callbacks("two"));
    let dev = Dev::start(&stage).await;
    // Which of the two entries is built last, and so is told to a new reader, is not certain.
    let mut events = dev.events().await;
    dev.log(&run).await.wait_for_start("TICK two ").await;
    stage.project.write("other/callbacks.ts", &Ticker::callbacks("three"));
    dev.log(&run).await.wait_for_start("TICK three ").await;
    assert_eq!(signals(&stage, &run), [SWAP, SWAP]);
    stage.project.write("other/run.ts", &Ticker { learning_rate: 0.0003, ..other() }.entry());
    let next = successor(&mut events, &run).await;
    assert_eq!(signals(&stage, &run), [SWAP, SWAP, STOP]);

    dev.stop_run(&next, "now").await;
    status(&mut events, &next, "exited").await;
    dev.running(&mut events).await;
    stage.project.write("other/callbacks.ts", &Ticker::callbacks("four"));
    stage.project.write("callbacks.ts", &Ticker::callbacks("own"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["decisions"].as_array().map(Vec::len), Some(1), "nobody watches it: {frame}");
    dev.finish().await;
}

#[tokio::test]
async fn a_start_takes_the_file_as_it_is_now() {
    let stage = stage("one");
    stage.project.write("other/run.ts", "export default {");
    let (dev, mut events) = Dev::ready(&stage).await;
    let refused = dev.client.post("/api/runs", &json!({ "file": FILE })).await.expect(400);
    assert!(refused.text().contains("run.ts"), "{}", refused.text());
    stage.project.write("other/run.ts", &other().entry());
    let fixed = start(&dev).await;
    dev.log(&fixed).await.wait_for_start("TICK one ").await;
    dev.stop_run(&fixed, "now").await;
    status(&mut events, &fixed, "exited").await;

    stage.project.write("other/callbacks.ts", &Ticker::callbacks("two"));
    let run = start(&dev).await;
    dev.log(&run).await.wait_for_start("TICK two ").await;
    assert!(signals(&stage, &run).is_empty(), "it was started on the newest code");
    dev.finish().await;
}
