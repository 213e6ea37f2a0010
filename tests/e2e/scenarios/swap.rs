//! Callback edits: swapped into the live run, once, whoever watches.

use std::time::Duration;

use testkit::{Brands, Dev, Layout, Sse, Stage, Ticker};

use super::frames::{decided, decision, pids, status, swapped};
use super::records::{SWAP, signals};
use super::ticks::{count, tags_of_each_step_once};

/// The ids of everything that five clients must have seen alike.
fn seen(events: &Sse) -> Vec<String> {
    let wanted = |name: &str| matches!(name, "rebuild" | "swap");
    events.events().into_iter().filter(|event| wanted(&event.name)).map(|event| event.id).collect()
}

#[tokio::test]
async fn a_callback_edit_is_swapped_in_once_while_five_clients_watch_and_one_comes_back() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
    let before = dev.run(&run).await;
    let pid = before["pid"].as_u64().expect("a running run has a process");
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(dev.events().await);
    }
    let mut restless = Some(dev.events().await);
    let (mut seen_by_restless, mut place) = (Vec::new(), None);
    for edit in 2..=7 {
        let text = Ticker::callbacks(&format!("v{edit}"));
        if edit % 2 == 0 {
            stage.project.write("callbacks.ts", &text)
        } else {
            stage.project.replace("callbacks.ts", &text)
        }
        let frame = events.next_named("rebuild").await;
        assert_eq!(pids(&frame, "hotSwapTargets"), [pid], "{frame}");
        assert_eq!(
            (&frame.data["hotSwap"], &frame.data["restart"]),
            (&true.into(), &false.into()),
            "{frame}"
        );
        assert_eq!(decision(&frame, &run), decided("hot-swap", "only callbacks changed: onTick"));
        assert_eq!(frame.data["changed"], serde_json::json!(["src/midrun/callbacks.ts"]), "{frame}");
        let swap = swapped(&mut events, &run).await;
        assert_eq!((&swap.data["pid"], &swap.data["contentHash"]), (&pid.into(), &frame.data["contentHash"]));
        log.wait_for_start(&format!("TICK v{edit} ")).await;
        match edit {
            // It is away for the next edit,
            4 => {
                let mut leaving = restless.take().expect("it was there from the beginning");
                leaving.wait_for("swap of v4", |event| event.id == swap.id).await;
                (seen_by_restless, place) = (seen(&leaving), leaving.last_id());
            }
            // and comes back behind it.
            5 => restless = Some(Sse::open(&dev.client, "/api/dev/events", place.as_deref()).await),
            _ => {}
        }
    }
    let last = swapped_last(&events);
    for other in &mut others {
        other.wait_for("the last swap", |event| event.id == last).await;
        assert_eq!(seen(other), seen(&events));
    }
    let mut restless = restless.expect("it came back");
    restless.wait_for("the last swap", |event| event.id == last).await;
    seen_by_restless.extend(seen(&restless));
    assert_eq!(seen_by_restless, seen(&events), "a client that came back saw everything once");

    assert_eq!(signals(&stage, &run), [SWAP; 6]);
    let lines = log.lines();
    assert_eq!(count(&lines, "REPLACED"), 6);
    assert_eq!(tags_of_each_step_once(&lines), ["v1", "v2", "v3", "v4", "v5", "v6", "v7"]);
    let after = dev.run(&run).await;
    for key in ["pid", "jobId", "startedAt", "configHash", "status"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(dev.runs().await.len(), 1);
    dev.finish().await;
}

fn swapped_last(events: &Sse) -> String {
    let events = events.events();
    events.iter().rev().find(|event| event.name == "swap").expect("there were swaps").id.clone()
}

#[tokio::test]
async fn going_back_to_earlier_bytes_is_a_swap_and_saving_the_same_bytes_is_nothing() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    let first = dev.run(&run).await["contentHash"].clone();
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    log.wait_for_start("TICK v2 ").await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    let back = events.next_named("rebuild").await;
    assert_eq!(back.data["contentHash"], first);
    swapped(&mut events, &run).await;
    let back_again = |lines: &[&str]| {
        let rest = lines.iter().skip_while(|line| !line.starts_with("TICK v2 "));
        rest.filter(|line| line.starts_with("TICK v1 ")).count().gt(&0).then_some(())
    };
    log.wait_for_lines("step of the callbacks from before", back_again).await;
    // The same bytes, in two ways; then other ones. The next frame must be of those.
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.replace("callbacks.ts", &Ticker::callbacks("v1"));
    let built = dev.client.get("/api/manifest").await.expect(200).json()["buildId"].clone();
    assert_eq!(built, back.data["buildId"]);
    stage.project.write("callbacks.ts", &Ticker::callbacks("v3"));
    let next = events.next_named("rebuild").await;
    assert!(next.data["contentHash"] != first, "{next}");
    swapped(&mut events, &run).await;
    assert_eq!((events.count("rebuild"), events.count("swap")), (3, 3));
    assert_eq!(signals(&stage, &run), [SWAP; 3]);
    log.wait_for_start("TICK v3 ").await;
    assert_eq!(tags_of_each_step_once(&log.lines()), ["v1", "v2", "v1", "v3"]);
    dev.finish().await;
}

#[tokio::test]
async fn of_two_edits_ten_milliseconds_apart_the_last_one_runs() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    for round in 0..5 {
        let (early, late) = (format!("early{round}"), format!("late{round}"));
        stage.project.write("callbacks.ts", &Ticker::callbacks(&early));
        // What is tested, and no wait for anything.
        tokio::time::sleep(Duration::from_millis(10)).await;
        stage.project.write("callbacks.ts", &Ticker::callbacks(&late));
        dev.log(&run).await.wait_for_start(&format!("TICK {late} ")).await;
        let newest = dev.client.get("/api/manifest").await.expect(200).json()["contentHash"].clone();
        let taken = |event: &testkit::Event| event.name == "swap" && event.data["ok"] == true;
        events
            .wait_for("swap of the late edit", |event| taken(event) && event.data["contentHash"] == newest)
            .await;
        assert_eq!(dev.run(&run).await["contentHash"], newest);
    }
    let rebuilds = events.count("rebuild");
    let sent = signals(&stage, &run);
    assert!(sent.iter().all(|signal| *signal == SWAP), "{sent:?}");
    assert!((5..=10).contains(&rebuilds) && sent.len() <= rebuilds, "{rebuilds} rebuilds, signals {sent:?}");
    tags_of_each_step_once(&dev.log(&run).await.lines());
    dev.finish().await;
}

#[tokio::test]
async fn a_project_of_the_other_profile_is_swapped_the_same_way() {
    let stage = Stage::bare(Layout::Arkor);
    let trainer = Ticker { brands: Brands::Arkor, name: "other profile".to_owned(), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    let (dev, mut events) = Dev::ready(&stage).await;
    let manifest = dev.client.get("/api/manifest").await.expect(200).json();
    assert_eq!(
        (&manifest["trainer"]["name"], &manifest["callbacks"]),
        (&"other profile".into(), &serde_json::json!(["onTick"]))
    );
    let mut train = dev.train().await;
    train.wait_for("TICK v1 ", 0).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(pids(&frame, "hotSwapTargets"), [u64::from(train.pid)]);
    swapped(&mut events, &train.run.clone()).await;
    train.wait_for("TICK v2 ", 0).await;
    let bundle = std::fs::read(stage.project.dir().join(".arkor/build/index.mjs"))
        .expect("the bundle has its second place");
    let out = std::fs::read(frame.text("outFile")).expect("the frame names the bundle");
    assert!(bundle == out, "both places hold the newest bundle");
    let (run, pid) = (train.run.clone(), train.pid);
    train.close();
    status(&mut events, &run, "exited").await;
    testkit::gone(pid, testkit::LIMIT).await;
    dev.finish().await;
}

#[tokio::test]
async fn code_behind_a_callback_is_swapped_and_named_as_such() {
    let stage = Stage::ticker(&Ticker::default());
    // A constant would be put into the callback itself by the bundler.
    let says = |word: &str| format!("export function word(): string {{\n  return \"{word}\";\n}}\n");
    stage.project.write("word.ts", &says("one"));
    let callbacks = "import { word } from \"./word\";\nexport const onTick = (step: number) => console.log(\"TICK \" + word() + \" \" + step);\n";
    stage.project.write("callbacks.ts", callbacks);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK one ").await;
    stage.project.write("word.ts", &says("two"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &run), decided("hot-swap", "only code behind the callbacks changed"));
    log.wait_for_start("TICK two ").await;
    assert_eq!(tags_of_each_step_once(&log.lines()), ["one", "two"]);
    dev.finish().await;
}
