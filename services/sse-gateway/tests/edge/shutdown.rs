//! The end of the server.

use std::time::{Duration, Instant};

use wire::StopMode;

use crate::support::*;
use crate::upstream::ControlPlaneStub;

/// What holds an end up holds it up for so long.
const LATEST: Duration = Duration::from_secs(30);
/// An end that nothing holds up takes less, also on a machine that is busy.
const SOON: Duration = Duration::from_secs(15);

#[actix_web::test]
async fn it_ends_soon_whoever_is_connected() {
    let edge = edge();
    let stub = ControlPlaneStub::start();
    edge.control_plane.send_replace(Some(stub.scope()));
    let run = edge.registry.add_run();
    let mut events = Events::open(edge.get("/api/dev/events")).await;
    let mut log = Events::open(edge.get(&format!("/api/runs/{run}/events"))).await;
    let job = soon(edge.get("/api/jobs/job-1/events").send()).await.unwrap();
    let train = soon(edge.post("/api/train", "{}").send()).await.unwrap();
    let wait = edge.post("/api/runs", r#"{"wait":true}"#);
    let wait = actix_web::rt::spawn(async move { soon(wait.send()).await.unwrap().status().as_u16() });
    // Connections that say nothing, one that does not read, one in the middle of a request.
    let _silent = edge.raw().await;
    let mut unread = edge.raw().await;
    unread
        .send(format!("GET /api/dev/events HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n\r\n"))
        .await;
    let mut half = edge.raw().await;
    half.send("GET / HT").await;
    edge.registry.started(3).await;
    edge.until_metric(r#"midrun_sse_clients{stream="dev"}"#, 2).await;
    for n in 0..60 {
        edge.registry.events.publish(error_frame(&format!("{n} {}", "x".repeat(40 * 1024))));
        events.next().await.unwrap();
    }

    let begun = Instant::now();
    let (one, two) = (edge.handle.clone(), edge.handle.clone());
    futures_util::join!(one.shutdown(LATEST), two.shutdown(LATEST));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    edge.handle.shutdown(LATEST).await;

    assert_eq!(events.next().await, None);
    assert_eq!(log.next().await, None);
    assert!(soon(job.text()).await.is_ok_and(|text| text.contains("training.log")));
    assert!(soon(train.text()).await.unwrap().ends_with("\n---\nerror=the server is stopping\n"));
    assert_eq!(soon(wait).await.unwrap(), 503);
    let stops = edge.registry.stops();
    assert_eq!(stops.len(), 1, "{stops:?}");
    assert_eq!((stops[0].mode, stops[0].reason.as_str()), (StopMode::Now, "the server is stopping"));
    assert!(edge.http.get(edge.url("/healthz")).send().await.is_err(), "nobody is there any more");
}

#[actix_web::test]
async fn an_idle_server_ends_at_once() {
    let edge = edge();
    assert_eq!(edge.json(edge.get("/api/runs")).await.0, 200);
    let begun = Instant::now();
    edge.handle.shutdown(LATEST).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[actix_web::test]
async fn what_does_not_end_is_cut_off_at_the_deadline() {
    let edge = edge();
    edge.registry.starts_allowed.forget_permits(1000);
    let stuck = edge.post("/api/runs", "{}");
    let stuck = actix_web::rt::spawn(async move { soon(stuck.send()).await.is_err() });
    edge.registry.asked_to_start(1).await;
    let begun = Instant::now();
    edge.handle.shutdown(Duration::from_millis(300)).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < SOON, "{took:?}");
    assert!(soon(stuck).await.unwrap(), "its connection was closed");
}

#[actix_web::test]
async fn an_end_that_was_not_waited_for_can_be_waited_for_again() {
    let edge = edge();
    edge.registry.starts_allowed.forget_permits(1000);
    let stuck = edge.post("/api/runs", "{}");
    let stuck = actix_web::rt::spawn(async move { soon(stuck.send()).await.is_err() });
    edge.registry.asked_to_start(1).await;
    for _ in 0..3 {
        let impatient =
            tokio::time::timeout(Duration::from_millis(20), edge.handle.shutdown(Duration::from_millis(200)));
        assert!(impatient.await.is_err());
    }
    soon(edge.handle.shutdown(Duration::from_millis(100))).await;
    soon(edge.handle.shutdown(Duration::from_millis(100))).await;
    assert!(soon(stuck).await.unwrap(), "its connection was closed");
}
