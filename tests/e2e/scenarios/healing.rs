//! Each service can be killed and started again at any moment, and the loop goes on by itself.

use testkit::{Dev, Stage, Ticker};

use crate::frames::{pids, swapped};
use crate::records::{SWAP, signals};

/// A callback edit, its one swap, and nothing else.
async fn edit(stage: &Stage, events: &mut testkit::Sse, run: &str, pid: u64, tag: &str) {
    stage.project.write("callbacks.ts", &Ticker::callbacks(tag));
    let frame = events
        .wait_for("rebuild that is dispatched", |event| {
            // A registry that was started anew calls its first one `ready`.
            matches!(&*event.name, "rebuild" | "ready") && event.data["hotSwap"] == true
        })
        .await;
    assert_eq!(pids(&frame, "hotSwapTargets"), [pid], "{frame}");
    let swap = swapped(events, run).await;
    assert_eq!(swap.data["contentHash"], frame.data["contentHash"]);
}

#[tokio::test]
async fn a_service_that_dies_and_comes_back_is_found_again_and_the_next_save_is_dispatched_once() {
    let stage = Stage::ticker(&Ticker::default());
    let (mut dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let pid = dev.run(&run).await["pid"].as_u64().expect("a running run has a process");
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    edit(&stage, &mut events, &run, pid, "first").await;
    log.wait_for_start("TICK first ").await;
    let services = ["manifest-inspector", "build-watcher", "cancel-broker", "train-registry"];
    for name in services {
        dev.kill_service(name).await;
        dev.start_service(name).await;
        edit(&stage, &mut events, &run, pid, name).await;
        log.wait_for_start(&format!("TICK {name} ")).await;
    }
    assert_eq!(signals(&stage, &run), [SWAP; 5], "one signal for each edit");
    dev.finish().await;
}

#[tokio::test]
async fn a_save_while_a_service_is_away_is_dispatched_when_it_is_back() {
    for name in ["build-watcher", "manifest-inspector", "train-registry"] {
        let stage = Stage::ticker(&Ticker::default());
        let (mut dev, mut events) = Dev::ready(&stage).await;
        let run = dev.running(&mut events).await;
        let mut log = dev.log(&run).await;
        log.wait_for_start("TICK v1 ").await;
        dev.kill_service(name).await;
        stage.project.write("callbacks.ts", &Ticker::callbacks("meanwhile"));
        dev.start_service(name).await;
        log.wait_for_start("TICK meanwhile ").await;
        assert_eq!(signals(&stage, &run), [SWAP], "{name}");
        dev.finish().await;
    }
}
