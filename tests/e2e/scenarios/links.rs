//! Links between services that are slow, cut, or let half of an answer through: the loop goes on, nothing happens twice,
//! everyone gets an answer, and what was broken heals by itself.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Dev, LIMIT, LinkFault, Links, Stage, Ticker, eventually};

use crate::both::records::{SWAP, signals};
use crate::both::ticks::tags_of_each_step_once;

const SERVICES: [&str; 4] = ["build-watcher", "manifest-inspector", "cancel-broker", "train-registry"];
const FAULTS: [LinkFault; 4] = [
    LinkFault::Delay(Duration::from_millis(300)),
    LinkFault::Cut,
    LinkFault::HalfThenCut,
    LinkFault::HalfThenHang,
];
/// No request waits longer for a service that does not answer, with what a busy machine adds.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);

async fn through(stage: &Stage) -> (Dev, Links) {
    let links = Links::default();
    let dev = Dev::options(stage, &[]).through(&links).start().await;
    dev.events().await.next_named("ready").await;
    (dev, links)
}

#[tokio::test]
async fn a_save_over_a_bad_link_reaches_the_run_once() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, links) = through(&stage).await;
    let mut events = dev.events().await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    let mut tags = vec!["v1".to_owned()];
    for fault in FAULTS {
        // No save goes over the way to the broker.
        for service in SERVICES.into_iter().filter(|service| *service != "cancel-broker") {
            let tag = format!("s{}", tags.len());
            let before = links.struck(service);
            links.fault(service, fault);
            stage.project.write("callbacks.ts", &Ticker::callbacks(&tag));
            if matches!(fault, LinkFault::Delay(_)) {
                // It is slow and does its work.
                wait_on_disk(&stage, &run, &tag).await;
            } else {
                eventually("strike", LIMIT, || (links.struck(service) > before).then_some(())).await;
            }
            links.heal(service);
            wait_on_disk(&stage, &run, &tag).await;
            tags.push(tag);
            dev.well().await;
        }
    }
    assert_eq!(signals(&stage, &run), vec![SWAP; tags.len() - 1], "one signal for each save");
    let last = tags.last().expect("there were saves").clone();
    let mut log = dev.log(&run).await;
    log.wait_for_start(&format!("TICK {last} ")).await;
    assert_eq!(tags_of_each_step_once(&log.lines()), tags);
    dev.finish().await;
}

/// Waits for a step of the callbacks with `tag` in the run's log as it stands on the disk: no link is between.
async fn wait_on_disk(stage: &Stage, run: &str, tag: &str) {
    let path = stage.project.dir().join(".midrun/runs").join(run).join("events.jsonl");
    let wanted = format!("TICK {tag} ");
    let seen = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&wanted)).then_some(());
    eventually(&format!("step of {tag}"), LIMIT, seen).await;
}

#[tokio::test]
async fn a_start_whose_answer_is_cut_in_half_starts_one_run() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, links) = through(&stage).await;
    for fault in [LinkFault::HalfThenCut, LinkFault::HalfThenHang] {
        let before = run_folders(&stage);
        let struck = links.struck("train-registry");
        links.fault("train-registry", fault);
        let body = json!({});
        let (answer, ()) = tokio::join!(dev.client.post("/api/runs", &body), async {
            let started = || {
                (run_folders(&stage) > before && links.struck("train-registry") > struck + 1).then_some(())
            };
            eventually("run", LIMIT, started).await;
            links.heal("train-registry");
        });
        let run = answer.expect(201).json()["run"]["id"].as_str().expect("a run has an id").to_owned();
        dev.well().await;
        let runs = dev.runs().await;
        assert_eq!(runs.iter().filter(|known| known["id"] == *run).count(), 1);
        assert_eq!(run_folders(&stage), before + 1, "one run for one request: {fault:?}");
    }
    dev.finish().await;
}

fn run_folders(stage: &Stage) -> usize {
    std::fs::read_dir(stage.project.dir().join(".midrun/runs")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn whoever_asks_over_a_broken_link_is_answered_and_readyz_names_the_service() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, links) = through(&stage).await;
    let mut events = dev.events().await;
    let run = dev.running(&mut events).await;
    for fault in [LinkFault::Cut, LinkFault::HalfThenCut, LinkFault::HalfThenHang] {
        links.fault("train-registry", fault);
        let begun = Instant::now();
        let one = format!("/api/runs/{run}");
        let (list, one, manifest, ready) = tokio::join!(
            dev.client.get("/api/runs"),
            dev.client.get(one),
            dev.client.get("/api/manifest"),
            dev.client.get("/readyz"),
        );
        assert!(begun.elapsed() < ANSWER_LIMIT, "{fault:?}: {:?}", begun.elapsed());
        for answer in [&list, &one, &manifest] {
            assert!(matches!(answer.status, 503 | 504), "{fault:?}: {} {}", answer.status, answer.text());
            let error = answer.json()["error"].as_str().expect("it says why").to_owned();
            assert!(error.contains("train-registry"), "{fault:?}: {error}");
        }
        assert_eq!(ready.status, 503, "{fault:?}");
        let ready = dev.client.get("/readyz").await;
        assert_eq!(ready.status, 503, "{fault:?}");
        assert_eq!(ready.json()["troubles"][0]["service"], "train-registry", "{fault:?}: {}", ready.text());
        links.heal("train-registry");
        dev.well().await;
        assert_eq!(dev.run(&run).await["status"], "running", "{fault:?}");
    }
    dev.finish().await;
}

#[tokio::test]
async fn a_service_that_another_one_cannot_reach_is_named_at_the_edge_until_it_can() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, links) = through(&stage).await;
    for service in SERVICES {
        links.fault(service, LinkFault::Cut);
        let named = async {
            loop {
                let ready = dev.client.get("/readyz").await;
                let said = ready.json();
                let list = said["troubles"].as_array().cloned().unwrap_or_default();
                if let Some(trouble) = list.into_iter().find(|trouble| trouble["service"] == service) {
                    assert_eq!(ready.status, 503);
                    return trouble;
                }
                testkit::pause().await;
            }
        };
        let trouble = tokio::time::timeout(LIMIT, named).await.expect("it is named in time");
        assert!(trouble["since"].as_str().is_some_and(|since| since.starts_with("20")), "{trouble}");
        links.heal(service);
        dev.well().await;
    }
    dev.finish().await;
}

#[tokio::test]
async fn a_job_of_a_run_that_is_stopped_while_the_broker_is_out_of_reach_is_cancelled_once_it_is_back() {
    for fault in [LinkFault::Cut, LinkFault::HalfThenCut, LinkFault::HalfThenHang] {
        let stage = Stage::ticker(&Ticker::default());
        let (dev, links) = through(&stage).await;
        let mut events = dev.events().await;
        let run = dev.running(&mut events).await;
        events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
        let before = links.struck("cancel-broker");
        links.fault("cancel-broker", fault);
        dev.stop_run(&run, "now").await;
        crate::both::frames::status(&mut events, &run, "exited").await;
        eventually("strike", LIMIT, || (links.struck("cancel-broker") > before).then_some(())).await;
        links.heal("cancel-broker");
        dev.well().await;
        let settled = async {
            while dev.client.get("/api/cancels").await.expect(200).json()["cancels"] != json!([]) {
                testkit::pause().await;
            }
        };
        tokio::time::timeout(LIMIT, settled).await.expect("it is settled in time");
        dev.finish().await;
    }
}
