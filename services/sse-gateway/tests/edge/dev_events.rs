//! `GET /api/dev/events`.

use std::time::Duration;

use wire::{RunId, RunStatus};

use crate::support::*;

fn publish(edge: &Edge, text: &str) -> String {
    edge.registry.events.publish(error_frame(text)).to_string()
}

fn said(event: &Event) -> String {
    event.data["message"].as_str().unwrap_or_default().to_owned()
}

#[actix_web::test]
async fn the_newest_build_is_replayed_and_what_follows_comes() {
    let edge = edge();
    publish(&edge, "old");
    let newest = publish(&edge, "newest");
    edge.registry.say(&RunId::fresh(), RunStatus::Running);
    let mut events = Events::open(edge.get("/api/dev/events")).await;
    assert_eq!(events.headers()["cache-control"], "no-cache, no-transform");
    assert_eq!(events.headers()["x-accel-buffering"], "no");
    let first = events.next().await.unwrap();
    assert_eq!(
        (first.id.as_str(), first.name.as_str(), said(&first)),
        (newest.as_str(), "error", "newest".to_owned())
    );
    assert_eq!(events.retry.as_deref(), Some("1000"));
    let run = RunId::fresh();
    edge.registry.say(&run, RunStatus::EarlyStopping);
    let next = events.next().await.unwrap();
    assert_eq!((next.name.as_str(), &next.data["run"]), ("run", &run.as_str().into()));
    assert_eq!(next.data["status"], "early-stopping");
}

#[actix_web::test]
async fn a_stream_goes_on_behind_any_event_that_was_seen() {
    let edge = edge();
    let ids: Vec<_> = (1..=12).map(|n| publish(&edge, &n.to_string())).collect();
    for (cut, id) in ids.iter().enumerate() {
        let mut events = Events::open(edge.get("/api/dev/events").header("last-event-id", id)).await;
        for (n, id) in ids.iter().enumerate().skip(cut + 1) {
            let event = events.next().await.unwrap();
            assert_eq!((&event.id, said(&event)), (id, (n + 1).to_string()), "after {cut}");
        }
    }
    let mut events = Events::open(edge.get("/api/dev/events").header("last-event-id", &ids[11])).await;
    publish(&edge, "13");
    assert_eq!(said(&events.next().await.unwrap()), "13");
}

#[actix_web::test]
async fn a_position_that_is_not_known_is_answered_with_the_newest_build() {
    let edge = edge();
    for n in 1..=3 {
        publish(&edge, &n.to_string());
    }
    for id in ["00000000-1", "nonsense", "", "-", "1"] {
        let mut events = Events::open(edge.get("/api/dev/events").header("last-event-id", id)).await;
        assert_eq!(said(&events.next().await.unwrap()), "3", "{id:?}");
    }
}

#[actix_web::test]
async fn a_frame_is_encoded_once_for_all_and_counted_for_each() {
    let edge = edge();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Events::open(edge.get("/api/dev/events")).await);
    }
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 20).await;
    for n in 0..5 {
        publish(&edge, &n.to_string());
    }
    for client in &mut clients {
        for n in 0..5 {
            assert_eq!(said(&client.next().await.unwrap()), n.to_string());
        }
    }
    assert_eq!(edge.metric("midrun_sse_frames_encoded_total").await, 5);
    assert_eq!(edge.metric(r#"midrun_sse_frames_total{stream="dev"}"#).await, 100);
    drop(clients);
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 0).await;
    assert_eq!(edge.metric("midrun_sse_dropped_total").await, 0);
}

#[actix_web::test]
async fn a_quiet_stream_shows_that_it_is_alive() {
    let edge = edge_with(|settings| settings.limits.heartbeat = Duration::from_millis(20));
    let mut events = Events::open(edge.get("/api/dev/events")).await;
    for _ in 0..3 {
        events.comment().await;
    }
    publish(&edge, "still here");
    assert_eq!(said(&events.next().await.unwrap()), "still here");
}

#[actix_web::test]
async fn a_client_that_does_not_read_is_dropped_and_may_come_back() {
    let edge = edge_with(|settings| {
        settings.limits.stall = Duration::from_millis(300);
        settings.limits.send_buffer = 16 * 1024;
    });
    let mut reading = Events::open(edge.get("/api/dev/events")).await;
    let mut idle = edge.raw().await;
    idle.send(format!("GET /api/dev/events HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n\r\n"))
        .await;
    idle.until("retry: 1000").await;
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 2).await;

    // More than the system holds for it; the other client is served all the while.
    const FRAMES: usize = 60;
    let long = "x".repeat(40 * 1024);
    for n in 0..FRAMES {
        publish(&edge, &format!("{n} {long}"));
        assert!(said(&reading.next().await.unwrap()).starts_with(&format!("{n} ")));
    }
    edge.until_metric("midrun_sse_dropped_total", 1).await;
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 1).await;

    // Some frames reached it, the last of them perhaps in part. It goes on behind the last whole one.
    let text = idle.until_end().await;
    let whole = text.rsplit_once("\n\n").expect("a whole frame").0;
    let id = whole.rsplit_once("id: ").expect("one with an id").1.lines().next().unwrap();
    let seen: usize = id.rsplit('-').next().unwrap().parse().unwrap();
    assert!(seen < FRAMES, "it cannot have got everything");
    let mut back = Events::open(edge.get("/api/dev/events").header("last-event-id", id)).await;
    for n in seen..FRAMES {
        assert!(
            said(&back.next().await.unwrap()).starts_with(&format!("{n} ")),
            "frame {n} comes after {id}"
        );
    }
}

#[actix_web::test]
async fn there_is_room_for_so_many_and_then_for_no_more() {
    let edge = edge_with(|settings| settings.limits.streams = 2);
    let one = Events::open(edge.get("/api/dev/events")).await;
    let _two = Events::open(edge.get("/api/dev/events")).await;
    let (status, body) = edge.json(edge.get("/api/dev/events")).await;
    assert_eq!(status, 503);
    assert!(body["error"].as_str().unwrap().contains("too many"));
    drop(one);
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 1).await;
    Events::open(edge.get("/api/dev/events")).await;
}
