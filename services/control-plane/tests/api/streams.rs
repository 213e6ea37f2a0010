//! A job's events as they come: resumed anywhere, woken, ended, unharmed by readers that do not read.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Plane, Stream, answer, kinds, within, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_leave_anywhere_and_sees_no_gap_and_no_repeat() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    // More than one page.
    let script = json!([["logs", 1, 150], ["checkpoint", 150], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let whole = user.follow(&id).await;
    assert_eq!(whole.len(), 1 + 150 + 1 + 1 + 1);
    assert_eq!(whole.last().unwrap().kind, "end");
    let ids: Vec<i64> = whole.iter().filter_map(|event| event.id.as_ref()?.parse().ok()).collect();
    assert_eq!(ids, (1..=153).collect::<Vec<_>>(), "whole numbers without gaps; `end` has none");
    for cut in 0..=153 {
        let last = cut.to_string();
        let rest = user.stream_after(&id, Some(&last)).await.rest().await;
        assert_eq!(rest[..rest.len() - 1], whole[cut..153], "after {cut}");
        assert_eq!(rest.last().unwrap().kind, "end", "after {cut}");
    }
    for bad in ["x", "-1", "1.5", "9999999999999999999999"] {
        let request = user.request(Method::GET, &format!("/v1/jobs/{id}/events/stream"));
        let (status, body) = answer(request.header("last-event-id", bad).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {body}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_leave_while_it_goes_on_get_every_event_once() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["logs", 1, 1000], ["emit", { "type": "training.completed" }]])).await;
    // Each reader leaves after its own number of events, again and again, while the executor prints.
    let readers = [1, 7, 100, 500].map(|patience| {
        let (user, id) = (user.clone(), id.clone());
        tokio::spawn(async move {
            let mut steps = Vec::new();
            let mut last = None;
            'joined: loop {
                let mut stream: Stream = user.stream_after(&id, last.as_deref()).await;
                for _ in 0..patience {
                    let event = stream.next().await.expect("a live stream only closes after its end");
                    if event.kind == "end" {
                        break 'joined steps;
                    }
                    last = event.id.clone().or(last);
                    steps.extend(event.step());
                }
            }
        })
    });
    for reader in readers {
        assert_eq!(within("a reader", reader).await.unwrap(), (1..=1000).collect::<Vec<_>>());
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_live_and_beats_when_nothing_happens() {
    let plane = Plane::start_with(|settings| settings.heartbeat = Duration::from_millis(40)).await;
    let user = plane.user().await;
    let gate = plane.path("gate");
    let script =
        json!([["logs", 1, 1], ["await", gate], ["logs", 2, 2], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let mut stream = user.stream(&id).await;
    assert_eq!(stream.header("cache-control"), "no-cache, no-transform");
    assert_eq!(stream.header("x-accel-buffering"), "no");
    assert_eq!(stream.until("training.log").await.step(), Some(1));
    assert_eq!(stream.retry.as_deref(), Some("1000"));
    for _ in 0..3 {
        let ping = stream.next().await.unwrap();
        assert_eq!((ping.kind.as_str(), &ping.id), ("ping", &None));
        assert_eq!(ping.data["jobId"], serde_json::Value::from(id.clone()));
    }
    write(&gate, "").await;
    assert_eq!(kinds(&stream.rest().await), ["training.log", "training.completed", "end"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_streams_at_once_and_they_go_on_after_it() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["logs", 1, 2], ["hold"]])).await;
    let mut stream = user.stream(&id).await;
    let mut last = None;
    while stream.until("training.log").await.step() != Some(2) {
        last = Some("2");
    }
    let begun = std::time::Instant::now();
    let plane = plane.restart_with(|_| {}).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(kinds(&stream.rest().await), Vec::<&str>::new(), "no `end`: the job is not over");

    let user = user.moved_to(&plane);
    let mut stream = user.stream_after(&id, last).await;
    assert_eq!(stream.next().await.unwrap().step(), Some(2), "the event after the last one seen");
    assert_eq!(stream.until("checkpoint.saved").await.step(), Some(2), "saved on the way down");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nothing_up() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["logs", 1, 20_000], ["emit", { "type": "training.completed" }]])).await;
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(plane.handle.addr()).await.unwrap();
        let request = format!(
            "GET /v1/jobs/{id}/events/stream?orgSlug={}&projectSlug={} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
            user.org, user.project, user.token
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 15];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        deaf.push(socket);
    }
    let events = user.follow(&id).await;
    assert_eq!(events.iter().filter(|event| event.kind == "training.log").count(), 20_000);
    let begun = std::time::Instant::now();
    plane.stop().await;
    plane.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "deaf readers held the shutdown: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_hold_no_shutdown_up() {
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let plane = Plane::start().await;
        let user = plane.user().await;
        assert_eq!(user.get("/v1/jobs").await.0, StatusCode::OK);
        let begun = std::time::Instant::now();
        plane.stop().await;
        fastest = fastest.min(begun.elapsed());
    }
    // Waiting for them would take longer each time; a busy machine does not.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}
