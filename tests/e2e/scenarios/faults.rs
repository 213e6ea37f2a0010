//! A control plane that fails while a run needs it.

use std::time::Instant;

use serde_json::json;
use testkit::{Dev, Fault, FaultyControlPlane, LIMIT, Layout, SdkTrainer, Stage, eventually};

use super::frames::status;

/// A server that lends its control plane, and a proxy in front of that.
pub(crate) async fn control_plane() -> (Stage, Dev, FaultyControlPlane) {
    let stage = Stage::bare(Layout::Midrun);
    let port = testkit::free_port();
    let dev = Dev::options(&stage, &[]).env("MIDRUN_CONTROL_PLANE__PORT", port.to_string()).start().await;
    let upstream = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let listens = || std::net::TcpStream::connect(upstream).is_ok().then_some(());
    eventually("control plane that listens", LIMIT, listens).await;
    let proxy = FaultyControlPlane::in_front_of(upstream).await;
    (stage, dev, proxy)
}

pub(crate) async fn dev_on(stage: &Stage, proxy: &FaultyControlPlane) -> (Dev, testkit::Sse) {
    let dev = Dev::options(stage, &["--control-plane", &proxy.url()]).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    (dev, events)
}

#[tokio::test]
async fn a_job_whose_creation_was_not_answered_is_created_once() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default().with("maxSteps", 20).with("saveSteps", 0));
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    proxy.only("POST /v1/jobs?", Fault::LoseAnswer);
    let run = dev.running(&mut events).await;
    eventually("second attempt", LIMIT, || (proxy.count("POST /v1/jobs?") >= 2).then_some(())).await;
    proxy.only("POST /v1/jobs?", Fault::Answer(503));
    let refused = proxy.count("POST /v1/jobs?");
    eventually("attempt that is refused", LIMIT, || (proxy.count("POST /v1/jobs?") > refused).then_some(()))
        .await;
    proxy.heal();
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 0, "{exited}");
    let jobs = dev.jobs().await;
    assert_eq!((jobs.len(), &jobs[0]["status"]), (1, &"completed".into()), "{jobs:?}");
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn an_event_stream_that_breaks_loses_and_repeats_no_step() {
    let (_lending, lender, proxy) = control_plane().await;
    let trainer = SdkTrainer::default().with("maxSteps", 400).with("saveSteps", 100);
    let stage = Stage::sdk(&trainer);
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    proxy.only("/events/stream", Fault::CutAfter(6_000));
    let run = dev.running(&mut events).await;
    eventually("fourth connection", LIMIT, || (proxy.count("/events/stream") >= 4).then_some(())).await;
    proxy.heal();
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 0, "{exited}");
    let mut log = dev.log(&run).await;
    log.exit().await;
    let lines = log.lines();
    let steps = |start: &str| -> Vec<u64> {
        lines.iter().filter_map(|line| line.strip_prefix(start)?.parse().ok()).collect()
    };
    assert_eq!(steps("LOG v1 "), (1..=400).collect::<Vec<_>>());
    assert_eq!(steps("CHECKPOINT v1 "), [100, 200, 300, 400]);
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn a_stop_whose_cancel_cannot_be_delivered_is_made_good_later() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    proxy.only("/cancel", Fault::Refuse);
    dev.stop_run(&run, "now").await;
    status(&mut events, &run, "exited").await;
    let tried = proxy.count("/cancel");
    eventually("another attempt to cancel", LIMIT, || (proxy.count("/cancel") > tried).then_some(())).await;
    assert_eq!(dev.jobs().await[0]["status"], "running");
    proxy.heal();
    let job = dev.run(&run).await["jobId"].as_str().expect("it had a job").to_owned();
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_no_reason_not_to_run() {
    let (_lending, lender, proxy) = control_plane().await;
    proxy.only("/v1/", Fault::Refuse);
    let stage = Stage::ticker(&testkit::Ticker::default());
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("TICK v1 ").await;
    let jobs = dev.client.get("/api/jobs").await;
    assert!((500..600).contains(&jobs.status), "{}: {}", jobs.status, jobs.text());
    assert!(jobs.json()["error"].is_string());
    dev.stop_run(&run, "now").await;
    status(&mut events, &run, "exited").await;
    let _ = dev.client.post("/api/runs", &json!({})).await.expect(201);
    dev.finish().await;
    lender.finish().await;
}

/// What `/readyz` says of the control plane.
async fn has_control_plane(dev: &Dev) -> bool {
    let ready = dev.well().await;
    ready["controlPlane"].as_bool().unwrap_or_else(|| panic!("it does not say: {ready}"))
}

/// Waits until the server has a control plane.
pub(crate) async fn signed_in(dev: &Dev) {
    let until = Instant::now() + LIMIT;
    loop {
        let ready = dev.client.get("/readyz").await;
        if ready.status == 200 && ready.json()["controlPlane"] == true {
            return;
        }
        assert!(Instant::now() < until, "it does not sign in: {}", ready.text());
        testkit::pause().await;
    }
}

#[tokio::test]
async fn a_sign_in_that_fails_is_tried_again_until_it_works() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default().with("maxSteps", 20).with("saveSteps", 0));
    proxy.only("/v1/", Fault::Answer(500));
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    for fault in [Fault::Answer(500), Fault::Refuse] {
        proxy.only("/v1/", fault);
        let before = proxy.count("/v1/");
        eventually("another sign-in", LIMIT, || (proxy.count("/v1/") >= before + 2).then_some(())).await;
        assert!(!has_control_plane(&dev).await);
        assert_eq!(dev.client.get("/api/jobs").await.status, 503);
    }
    // It is not held up, and its trainer says what is missing.
    let run = dev.running(&mut events).await;
    let failed = status(&mut events, &run, "exited").await;
    assert_eq!(failed.data["exitCode"], 1, "{failed}");

    proxy.heal();
    signed_in(&dev).await;
    assert!(dev.jobs().await.is_empty());
    let run = dev.running(&mut events).await;
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 0, "{exited}");
    let jobs = dev.jobs().await;
    assert_eq!((jobs.len(), &jobs[0]["status"]), (1, &"completed".into()), "{jobs:?}");
    dev.finish().await;
    lender.finish().await;
}
