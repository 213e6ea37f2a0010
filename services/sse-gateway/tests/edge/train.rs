//! `POST /api/train`: the run that lives as long as its request.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use wire::log::{Step, Stream};
use wire::run::{Owner, RunRefusal};
use wire::{RunStatus, StopMode};

use crate::support::*;

async fn train(edge: &Edge) -> Raw {
    let mut raw = edge.raw().await;
    let head = format!("POST /api/train HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n");
    raw.send(format!("{head}Content-Length: 2\r\n\r\n{{}}")).await;
    raw
}

#[actix_web::test]
async fn the_output_comes_byte_for_byte_and_then_the_exit() {
    let edge = edge();
    let answer = soon(edge.post("/api/train", "{}").send()).await.unwrap();
    // The head is here although the run is silent.
    let run = edge.registry.started(1).await;
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert!(header("content-type").starts_with("text/plain"));
    assert_eq!((header("x-midrun-pid"), header("x-arkor-train-pid")), ("1000".to_owned(), "1000".to_owned()));
    assert_eq!(header("x-midrun-run"), run.as_str());
    assert_eq!(edge.registry.asked_to_start(1).await[0].owner, Owner::Request);

    let mut expected = Vec::new();
    for n in 0..50_u8 {
        let bytes: Vec<u8> = (0..=255).map(|byte: u8| byte.wrapping_mul(n)).collect();
        use base64::Engine as _;
        let base64 = base64::prelude::BASE64_STANDARD.encode(&bytes);
        edge.registry.write(&run, Step::Output { stream: Stream::Stderr, text: None, base64: Some(base64) });
        edge.registry.write(&run, Step::Checkpoint { step: n.into() });
        edge.registry.print(&run, "ünd\r\n");
        expected.extend_from_slice(&bytes);
        expected.extend_from_slice("ünd\r\n".as_bytes());
    }
    edge.registry.exit(&run, 3);
    expected.extend_from_slice(b"\n---\nexit=3\n");
    assert_eq!(soon(answer.bytes()).await.unwrap(), expected);
    edge.until_metric(r#"midrun_sse_clients{stream="train"}"#, 0).await;
    assert_eq!(edge.registry.stops(), [], "a run that ended is not stopped");
    assert!(edge.registry.claims().contains(&run), "whoever was told of the end starts the next");
}

#[actix_web::test]
async fn a_client_that_does_not_read_keeps_its_run_all_the_same() {
    let edge = edge();
    let answer = soon(edge.post("/api/train", "{}").send()).await.unwrap();
    let run = edge.registry.started(1).await;
    // More than fits between the two.
    for _ in 0..500 {
        edge.registry.print(&run, &"z".repeat(10_000));
    }
    edge.registry.exit(&run, 0);
    assert_eq!(edge.registry.claimed(1).await, std::slice::from_ref(&run));
    drop(answer);
}

#[actix_web::test]
async fn five_megabytes_lose_not_one_byte() {
    let edge = edge();
    let answer = soon(edge.post("/api/train", "").send()).await.unwrap();
    let run = edge.registry.started(1).await;
    let mut expected = String::new();
    for n in 0..500 {
        let text = format!("{n} {}\n", "z".repeat(10_000));
        edge.registry.print(&run, &text);
        expected.push_str(&text);
    }
    edge.registry.exit(&run, 0);
    expected.push_str("\n---\nexit=0\n");
    assert!(soon(answer.bytes()).await.unwrap() == expected, "something is missing or changed");
}

#[actix_web::test]
async fn output_comes_when_it_is_written() {
    let edge = edge();
    let mut answer = soon(edge.post("/api/train", "{}").send()).await.unwrap();
    let run = edge.registry.started(1).await;
    for n in 0..5 {
        edge.registry.print(&run, &format!("line {n}\n"));
        assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), format!("line {n}\n"));
    }
}

#[actix_web::test]
async fn a_silent_run_is_stopped_when_its_client_closes() {
    let edge = edge();
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    let run = edge.registry.started(1).await;
    drop(raw);
    let stop = edge.registry.stopped(1).await.remove(0);
    assert_eq!((stop.run, stop.mode), (run, StopMode::Now));
    assert!(stop.reason.contains("closed"), "{}", stop.reason);
    edge.until_metric(r#"midrun_sse_clients{stream="train"}"#, 0).await;
}

#[actix_web::test]
async fn a_silent_run_is_stopped_when_its_client_half_closes() {
    let edge = edge();
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    raw.socket.shutdown().await.unwrap();
    assert_eq!(edge.registry.stopped(1).await[0].mode, StopMode::Now);
    raw.until_end().await;
}

#[actix_web::test]
async fn a_silent_run_is_stopped_when_its_client_is_reset() {
    let edge = edge();
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    raw.socket.set_zero_linger().unwrap();
    drop(raw);
    assert_eq!(edge.registry.stopped(1).await[0].mode, StopMode::Now);
}

#[actix_web::test]
async fn a_run_is_stopped_when_its_client_stops_reading() {
    let edge = edge_with(|settings| {
        settings.limits.stall = Duration::from_millis(300);
        settings.limits.send_buffer = 16 * 1024;
    });
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    let run = edge.registry.started(1).await;
    for _ in 0..200 {
        edge.registry.print(&run, &"w".repeat(64 * 1024));
    }
    assert_eq!(edge.registry.stopped(1).await[0].mode, StopMode::Now);
}

#[actix_web::test]
async fn a_client_that_goes_during_the_start_leaves_no_run_behind() {
    let edge = edge();
    edge.registry.starts_allowed.forget_permits(1000);
    let mut raw = train(&edge).await;
    edge.registry.asked_to_start(1).await;
    // The edge has seen it go when it closes its own side, and only then does the run start.
    raw.socket.shutdown().await.unwrap();
    assert_eq!(raw.until_end().await, "");
    edge.registry.starts_allowed.add_permits(1);
    let run = edge.registry.started(1).await;
    let stop = edge.registry.stopped(1).await.remove(0);
    assert_eq!((stop.run, stop.mode), (run, StopMode::Now));
}

#[actix_web::test]
async fn a_stop_reaches_a_registry_that_was_away() {
    let edge = edge();
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    edge.registry.go_away();
    drop(raw);
    edge.until_metric("midrun_train_stops_total", 1).await;
    assert_eq!(edge.registry.stops(), []);
    edge.registry.come_back();
    assert_eq!(edge.registry.stopped(1).await.len(), 1);
    assert_eq!(edge.metric("midrun_train_stops_failed_total").await, 0);
}

#[actix_web::test]
async fn a_stop_outlasts_the_patience_of_every_reader() {
    let edge = edge_with(|settings| settings.limits.patience = Duration::from_millis(200));
    let mut clients = Vec::new();
    for count in 1..=3 {
        let mut raw = train(&edge).await;
        raw.until("\r\n\r\n").await;
        clients.push((raw, edge.registry.started(count).await));
    }
    edge.registry.go_away();
    let (first, run) = clients.remove(0);
    drop(first);
    edge.until_metric("midrun_train_stops_total", 1).await;
    // Each of these gives its log up after the patience, which begins when the one before has given up.
    for (mut raw, run) in clients {
        edge.registry.print(&run, "more");
        raw.until("\n---\nerror=").await;
    }
    edge.until_metric("midrun_train_stops_total", 3).await;
    edge.registry.come_back();
    let stops = edge.registry.stopped(3).await;
    assert!(stops.iter().any(|stop| stop.run == run), "{stops:?}");
    assert_eq!(edge.metric("midrun_train_stops_failed_total").await, 0);
}

#[actix_web::test]
async fn a_registry_that_does_not_know_the_run_yet_is_asked_again() {
    let edge = edge();
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    let run = edge.registry.started(1).await;
    edge.registry.lose_sight();
    drop(raw);
    edge.registry.stopped(2).await;
    edge.registry.see_again();
    edge.registry.is_stopping(&run).await;
    assert_eq!(edge.metric("midrun_train_stops_failed_total").await, 0);
}

#[actix_web::test]
async fn a_run_that_the_registry_never_knows_is_given_up_and_counted() {
    let edge = edge_with(|settings| settings.limits.patience = Duration::from_millis(200));
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    edge.registry.started(1).await;
    edge.registry.lose_sight();
    drop(raw);
    edge.until_metric("midrun_train_stops_failed_total", 1).await;
}

#[actix_web::test]
async fn a_log_that_cannot_be_read_ends_the_request_and_the_run() {
    let edge = edge_with(|settings| settings.limits.patience = Duration::from_millis(400));
    let mut raw = train(&edge).await;
    raw.until("\r\n\r\n").await;
    let run = edge.registry.started(1).await;
    edge.registry.print(&run, "so far");
    raw.until("so far").await;
    edge.registry.go_away();
    // Whoever was waiting for the log is answered first.
    edge.registry.print(&run, " so good");
    assert!(raw.until("\n---\nerror=").await.contains("so good"));
    edge.until_metric("midrun_train_stops_total", 1).await;
}

#[actix_web::test]
async fn an_end_that_nobody_saw_is_an_error() {
    let edge = edge();
    let answer = soon(edge.post("/api/train", "{}").send()).await.unwrap();
    let run = edge.registry.started(1).await;
    edge.registry.print(&run, "hm");
    edge.registry.end(&run, RunStatus::Lost, None, Some("its host\nwas killed"));
    assert_eq!(soon(answer.text()).await.unwrap(), "hm\n---\nerror=its host was killed\n");
    edge.until_metric(r#"midrun_sse_clients{stream="train"}"#, 0).await;
    assert_eq!(edge.registry.stops(), []);
}

#[actix_web::test]
async fn what_cannot_be_started_is_refused_with_its_reason() {
    let edge = edge();
    let (status, body) = edge.json(edge.post("/api/train", r#"{"file":"../../etc/passwd"}"#)).await;
    assert_eq!((status, &body["code"]), (400, &json!("outside-project")));
    edge.registry.refuse_starts(RunRefusal::NotStarted { why: "no node".to_owned() });
    assert_eq!(edge.json(edge.post("/api/train", "{}")).await.0, 503);
    assert_eq!(edge.json(edge.post("/api/train", "{")).await.0, 400);
    edge.until_metric(r#"midrun_sse_clients{stream="train"}"#, 0).await;
    assert_eq!(edge.registry.stops(), []);
}

#[actix_web::test]
async fn there_are_so_many_trains_and_no_more() {
    let edge = edge_with(|settings| settings.limits.trains = 1);
    let mut one = train(&edge).await;
    one.until("\r\n\r\n").await;
    assert_eq!(edge.json(edge.post("/api/train", "{}")).await.0, 503);
    assert_eq!(edge.registry.asked_to_start(1).await.len(), 1, "nothing was started");
    drop(one);
    edge.registry.stopped(1).await;
    edge.until_metric(r#"midrun_sse_clients{stream="train"}"#, 0).await;
    soon(async { while soon(edge.post("/api/train", "{}").send()).await.unwrap().status() != 200 {} }).await;
}
