//! A part that panics is started again, and nothing is lost or done twice by that.

use failpoint::{Armed, FOLDER, Hold, Point};
use serde_json::json;
use testkit::{Dev, Event, LIMIT, SdkTrainer, Sse, Stage, Ticker, eventually};

use super::records::{SWAP, signals};
use super::ticks::tags_of_each_step_once;

/// Where panics are armed.
fn armory(stage: &Stage) -> std::path::PathBuf {
    let folder = stage.root().join("points");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

async fn started(stage: &Stage) -> Dev {
    Dev::options(stage, &[]).env(FOLDER, armory(stage)).start().await
}

/// What a tab is told of the services from now on.
async fn told_of(dev: &Dev) -> Sse {
    Sse::open(&dev.client, "/api/events?topics=troubles", None).await
}

/// Arms `point` for a panic. Who panics there is not started again until [`failed_and_well_again`] has seen it fail.
fn panic_at(stage: &Stage, point: Point) -> (Armed, Hold) {
    let folder = armory(stage);
    let hold = Hold::in_folder(&folder).expect("it can be held");
    (Armed::panic_at(&folder, point).expect("it can be armed"), hold)
}

/// Waits until every tab was told that `service` is not well and, when nothing holds it any more, that all is well again, as
/// `/readyz` then says too.
async fn failed_and_well_again(dev: &Dev, told: &mut Sse, service: &str, hold: Hold) {
    let of = |event: &Event| event.data["data"]["list"].as_array().cloned().unwrap_or_default();
    let is_unwell = |event: &Event| of(event).iter().any(|trouble| trouble["service"] == service);
    told.wait_for(&format!("word that {service} failed"), is_unwell).await;
    drop(hold);
    told.wait_for("word that all is well", |event| of(event).is_empty()).await;
    dev.well().await;
}

/// A callback edit and its swap.
async fn edit(stage: &Stage, dev: &Dev, events: &mut Sse, run: &str, tag: &str) {
    stage.project.write("callbacks.ts", &Ticker::callbacks(tag));
    dev.log(run).await.wait_for_start(&format!("TICK {tag} ")).await;
    let newest = dev.client.get("/api/manifest").await.expect(200).json()["contentHash"].clone();
    let swap =
        events.wait_for("swap", |event| event.name == "swap" && event.data["contentHash"] == newest).await;
    assert_eq!((&swap.data["run"], &swap.data["ok"]), (&run.into(), &true.into()), "{swap}");
}

#[tokio::test]
async fn a_part_that_panics_at_a_save_is_back_and_each_save_reaches_the_run_once() {
    let places = [
        (Point::BuildPublishing, "build-watcher"),
        (Point::InspectionAsked, "manifest-inspector"),
        (Point::SwapDecided, "train-registry"),
        (Point::RequestWritten, "train-registry"),
        (Point::SwapSeen, "train-registry"),
    ];
    for (point, service) in places {
        let stage = Stage::ticker(&Ticker::default());
        let dev = started(&stage).await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let run = dev.running(&mut events).await;
        let mut log = dev.log(&run).await;
        log.wait_for_start("TICK v1 ").await;
        let mut told = told_of(&dev).await;
        let (armed, hold) = panic_at(&stage, point);
        stage.project.write("callbacks.ts", &Ticker::callbacks("failing"));
        failed_and_well_again(&dev, &mut told, service, hold).await;
        log.wait_for_start("TICK failing ").await;
        edit(&stage, &dev, &mut events, &run, "next").await;
        log.wait_for_start("TICK next ").await;
        assert_eq!(signals(&stage, &run), [SWAP; 2], "one signal for each save, at {}", point.name());
        assert_eq!(tags_of_each_step_once(&log.lines()), ["v1", "failing", "next"]);
        assert_eq!(dev.runs().await.len(), 1);
        drop(armed);
        dev.finish().await;
    }
}

#[tokio::test]
async fn a_registry_that_panics_at_a_restart_makes_it_once() {
    for point in [Point::StopDecided, Point::TableWritten, Point::ExitSeen, Point::SuccessorDecided] {
        let stage = Stage::ticker(&Ticker::default());
        let dev = started(&stage).await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let run = dev.running(&mut events).await;
        dev.log(&run).await.wait_for_start("TICK v1 ").await;
        let mut told = told_of(&dev).await;
        let (armed, hold) = panic_at(&stage, point);
        stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
        failed_and_well_again(&dev, &mut told, "train-registry", hold).await;
        let replaced = async {
            loop {
                let runs = dev.runs().await;
                let next = runs.iter().find(|next| next["replaces"] == *run && next["status"] == "running");
                if let Some(next) = next {
                    return next["id"].as_str().expect("a run has an id").to_owned();
                }
                testkit::pause().await;
            }
        };
        let next = tokio::time::timeout(LIMIT, replaced).await.expect("it is replaced in time");
        dev.log(&next).await.wait_for_start("TICK v1 ").await;
        // One that was decided and never started may stand there besides.
        let started = dev.runs().await.iter().filter(|run| run["pid"].is_u64()).count();
        assert_eq!(started, 2, "one successor, at {}", point.name());
        let sent = signals(&stage, &run);
        assert_eq!(sent, [super::records::STOP], "one signal, at {}", point.name());
        drop(armed);
        dev.finish().await;
    }
}

#[tokio::test]
async fn a_broker_that_panics_settles_its_cancel() {
    for point in [Point::CancelCommitting, Point::CancelCommitted, Point::CancelSending, Point::CancelSettled]
    {
        let stage = Stage::ticker(&Ticker::default());
        let dev = started(&stage).await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let run = dev.running(&mut events).await;
        events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
        let mut told = told_of(&dev).await;
        let (armed, hold) = panic_at(&stage, point);
        dev.stop_run(&run, "now").await;
        failed_and_well_again(&dev, &mut told, "cancel-broker", hold).await;
        let cancelled = async {
            loop {
                let jobs = dev.jobs().await;
                let cancels = dev.client.get("/api/cancels").await.expect(200).json();
                if jobs.iter().all(|job| job["status"] == "cancelled") && cancels["cancels"] == json!([]) {
                    return;
                }
                testkit::pause().await;
            }
        };
        tokio::time::timeout(LIMIT, cancelled).await.expect("the job is cancelled in time");
        drop(armed);
        dev.finish().await;
    }
}

#[tokio::test]
async fn a_gateway_that_panics_stops_the_run_whose_request_ended() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = started(&stage).await;
    dev.events().await.next_named("ready").await;
    let train = dev.train().await;
    let pid = train.pid;
    let mut told = told_of(&dev).await;
    let (armed, hold) = panic_at(&stage, Point::LeashPulled);
    train.close();
    failed_and_well_again(&dev, &mut told, "sse-gateway", hold).await;
    testkit::gone(pid, LIMIT).await;
    drop(armed);
    dev.finish().await;
}

#[tokio::test]
async fn a_control_plane_that_panics_goes_on_with_its_jobs() {
    for point in [Point::JobClaimed, Point::JobHeardFrom] {
        let stage = Stage::sdk(&SdkTrainer::default());
        let dev = started(&stage).await;
        let mut events = dev.events().await;
        events.next_named("ready").await;
        let armed = Armed::panic_at(&armory(&stage), point).expect("it can be armed");
        let run = dev.running(&mut events).await;
        eventually("panic", LIMIT, || armed.stopped().expect("the folder can be read")).await;
        let mut log = dev.log(&run).await;
        log.wait_for_start("LOG v1 30").await;
        let lines = log.lines();
        let steps: Vec<u32> =
            lines.iter().filter_map(|line| line.strip_prefix("LOG v1 ")?.parse().ok()).collect();
        assert!(steps.windows(2).all(|pair| pair[1] == pair[0] + 1), "each step once, in order: {steps:?}");
        assert_eq!(dev.jobs().await.len(), 1, "one job for one run");
        drop(armed);
        dev.finish().await;
    }
}

#[tokio::test]
async fn a_part_that_panics_again_and_again_stays_down_and_runs_go_on() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = started(&stage).await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("TICK v1 ").await;
    // The same build is inspected again in each of the inspector's lives.
    let armed = Armed::panics_at(&armory(&stage), Point::InspectionAsked).expect("it can be armed");
    stage.project.write("callbacks.ts", &Ticker::callbacks("failing"));
    let stays_down = async {
        loop {
            let ready = dev.client.get("/readyz").await;
            let said = ready.json();
            let troubles = said["troubles"].as_array().cloned().unwrap_or_default();
            let stays = |trouble: &serde_json::Value| {
                let why = trouble["why"].as_str().unwrap_or_default();
                trouble["service"] == "manifest-inspector" && why.contains("stays down")
            };
            if troubles.iter().any(stays) {
                return assert_eq!(ready.status, 503);
            }
            testkit::pause().await;
        }
    };
    tokio::time::timeout(LIMIT, stays_down).await.expect("it gives up in time");
    let before = log.lines().len();
    eventually("more of the run", LIMIT, || (log.lines().len() > before).then_some(())).await;
    assert_eq!(signals(&stage, &run), [0; 0], "nothing that was not inspected was signalled");
    drop(armed);
    dev.finish().await;
}
