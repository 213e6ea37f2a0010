//! `GET /api/runs/ID/events`.

use serde_json::json;
use wire::RunStatus;
use wire::log::{EarlyStopPhase, Step, Stream};

use crate::support::*;

fn path(run: &wire::RunId) -> String {
    format!("/api/runs/{run}/events")
}

fn life() -> Vec<(Step, &'static str)> {
    let output =
        |text: &str| Step::Output { stream: Stream::Stdout, text: Some(text.to_owned()), base64: None };
    vec![
        (Step::Spawned { pid: 7, content_hash: "aa".into() }, "status"),
        (
            Step::Ready {
                content_hash: "aa".into(),
                config_hash: None,
                trainer: Some("adder".to_owned()),
                can_swap: true,
            },
            "status",
        ),
        (output("one\n"), "output"),
        (Step::Job { id: "job-1".into(), org_slug: None, project_slug: None, base_url: None }, "status"),
        (Step::Training(wire::resume::Started::default()), "status"),
        (Step::Output { stream: Stream::Stderr, text: None, base64: Some("//4=".to_owned()) }, "output"),
        (Step::Checkpoint { step: 10 }, "checkpoint"),
        (
            Step::Signal {
                signal: 12,
                why: "only callbacks changed".to_owned(),
                content_hash: Some("bb".into()),
            },
            "status",
        ),
        (Step::Swap { content_hash: "bb".into(), ok: true, reason: None, took_ms: Some(0.5) }, "swap"),
        (Step::Note { text: "a note".to_owned() }, "status"),
        (Step::EarlyStop { phase: EarlyStopPhase::Waiting, step: None }, "status"),
        (Step::Finished { status: "completed".to_owned(), reason: None }, "status"),
        (Step::Exit { code: 3, signal: None }, "exit"),
    ]
}

#[actix_web::test]
async fn a_log_is_told_whole_from_wherever_one_was_and_ends() {
    let edge = edge();
    let run = edge.registry.add_run();
    for (step, _) in life() {
        edge.registry.write(&run, step);
    }
    edge.registry.end(&run, RunStatus::Exited, Some(3), None);
    for cut in 0..life().len() {
        let mut events = Events::open(edge.get(&path(&run)).header("last-event-id", cut.to_string())).await;
        for (place, (step, name)) in life().into_iter().enumerate().skip(cut) {
            let event = events.next().await.unwrap();
            assert_eq!((event.id, event.name.as_str()), ((place + 1).to_string(), name), "from {cut}");
            for (key, value) in serde_json::to_value(step).unwrap().as_object().unwrap() {
                assert_eq!(&event.data[key], value, "{key} of {name}");
            }
            assert!(event.data["ts"].is_string());
            if name == "exit" {
                assert_eq!(event.data["exitCode"], 3);
            }
        }
        assert_eq!(events.next().await, None);
    }
    // Without a position everything is told; behind the end there is nothing, and a browser stays away.
    let mut all = Events::open(edge.get(&path(&run))).await;
    assert_eq!(all.next().await.unwrap().id, "1");
    let done = edge.get(&path(&run)).header("last-event-id", life().len().to_string());
    assert_eq!(soon(done.send()).await.unwrap().status(), 204);
}

#[actix_web::test]
async fn what_is_written_later_comes_when_it_is_written() {
    let edge = edge();
    let run = edge.registry.add_run();
    let mut events = Events::open(edge.get(&path(&run))).await;
    for n in 0..5 {
        edge.registry.print(&run, &n.to_string());
        assert_eq!(events.next().await.unwrap().data["text"], n.to_string());
    }
    edge.registry.exit(&run, 0);
    assert_eq!(events.next().await.unwrap().data["exitCode"], 0);
    assert_eq!(events.next().await, None);
}

#[actix_web::test]
async fn a_long_log_comes_in_pages_without_a_gap() {
    let edge = edge();
    let run = edge.registry.add_run();
    let line = "y".repeat(10_000);
    for n in 0..100 {
        edge.registry.print(&run, &format!("{n} {line}"));
    }
    edge.registry.exit(&run, 0);
    let mut events = Events::open(edge.get(&path(&run))).await;
    for n in 0..100 {
        let event = events.next().await.unwrap();
        assert_eq!(event.id, (n + 1).to_string());
        assert!(event.data["text"].as_str().unwrap().starts_with(&format!("{n} ")));
    }
    assert_eq!(events.next().await.unwrap().name, "exit");
    assert_eq!(events.next().await, None);
}

#[actix_web::test]
async fn a_run_whose_end_nobody_saw_ends_too() {
    let edge = edge();
    let run = edge.registry.add_run();
    edge.registry.print(&run, "last words");
    let mut events = Events::open(edge.get(&path(&run))).await;
    assert_eq!(events.next().await.unwrap().data["text"], "last words");
    edge.registry.end(&run, RunStatus::Lost, None, Some("its host was killed"));
    let exit = events.next().await.unwrap();
    assert_eq!((exit.name.as_str(), exit.id.as_str()), ("exit", "1"));
    assert_eq!(
        exit.data,
        json!({"type": "exit", "code": null, "exitCode": null, "reason": "its host was killed"})
    );
    assert_eq!(events.next().await, None);
    let done = edge.get(&path(&run)).header("last-event-id", "1");
    assert_eq!(soon(done.send()).await.unwrap().status(), 204);
}

#[actix_web::test]
async fn a_registry_that_is_away_for_a_moment_is_borne_with() {
    let edge = edge();
    let run = edge.registry.add_run();
    let mut events = Events::open(edge.get(&path(&run))).await;
    edge.registry.print(&run, "before");
    assert_eq!(events.next().await.unwrap().data["text"], "before");
    edge.registry.go_away();
    edge.registry.print(&run, "during");
    edge.registry.come_back();
    assert_eq!(events.next().await.unwrap().data["text"], "during");
}

#[actix_web::test]
async fn runs_that_are_not_there_are_404() {
    let edge = edge();
    for id in
        ["r00000000000000", "nonsense", "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "R0000000000000A", "a%00b"]
    {
        for path in [format!("/api/runs/{id}/events"), format!("/api/runs/{id}")] {
            let mut raw = edge.raw().await;
            let head = format!("Host: localhost\r\nX-Midrun-Token: {TOKEN}\r\nConnection: close");
            raw.send(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n")).await;
            assert_eq!(raw.status().await, 404, "{path}");
        }
    }
}

#[actix_web::test]
async fn a_reader_that_goes_leaves_nothing_behind() {
    let edge = edge();
    let run = edge.registry.add_run();
    let events = Events::open(edge.get(&path(&run))).await;
    edge.until_metric(r#"midrun_sse_clients{stream="run"}"#, 1).await;
    drop(events);
    edge.until_metric(r#"midrun_sse_clients{stream="run"}"#, 0).await;
}
