//! The client over real connections.

use std::time::Duration;

use serde_json::{Value, json};

use super::scripted::{Answer, Scripted};
use super::{Client, ClientError, Event, Events};

fn frame(id: u32) -> String {
    format!("id: {id}\nevent: output\ndata: {{\"seq\":{id}}}\n\n")
}

async fn ids(events: &mut Events, count: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let event: Event = events.next().await.unwrap().unwrap();
        ids.push(event.id.unwrap().parse().unwrap());
    }
    ids
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, half) = (frame(3), frame(3)[..12].to_owned());
    let server = Scripted::serve([
        Answer::Broken(vec![frame(1), frame(2), half]),
        Answer::Json(503, json!({"error": "the server is stopping"}).to_string()),
        Answer::Events(vec![whole]),
        Answer::Events(vec![frame(4)]),
        Answer::NoContent,
    ])
    .await;
    let mut events = server.client(dir.path()).events(&["api", "runs", "r1", "events"]);
    assert_eq!(ids(&mut events, 4).await, [1, 2, 3, 4]);
    assert_eq!(events.next().await.unwrap(), None);
    let asked = server.asked();
    let behind: Vec<_> = asked.iter().map(|asked| asked.header("last-event-id")).collect();
    assert_eq!(behind, [None, Some("2"), Some("2"), Some("3"), Some("4")]);
    for asked in asked {
        assert_eq!(asked.line, "GET /api/runs/r1/events");
        assert_eq!(asked.header("x-midrun-token"), Some("secret"));
    }
}

#[tokio::test]
async fn a_server_that_was_started_anew_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = Scripted::serve([Answer::Broken(vec![frame(1)])]).await;
    let second = Scripted::serve([Answer::Open(vec![frame(2)])]).await;
    let mut events = first.client(dir.path()).events(&["api", "runs", "r1", "events"]);
    assert_eq!(ids(&mut events, 1).await, [1]);
    drop(first);
    second.is_server_of(dir.path(), "other");
    assert_eq!(ids(&mut events, 1).await, [2]);
    assert!(events.is_connected());
    assert_eq!(second.asked()[0].header("x-midrun-token"), Some("other"));
    assert_eq!(second.asked()[0].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Scripted::serve([Answer::Broken(vec![frame(1)])]).await;
    let events = server.client(dir.path()).events(&["api", "runs", "r1", "events"]);
    let mut events = events.with_patience(Duration::from_millis(500));
    assert_eq!(ids(&mut events, 1).await, [1]);
    drop(server);
    assert!(matches!(events.next().await, Err(ClientError::Away { .. })));
}

#[tokio::test]
async fn a_refused_stream_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        Scripted::serve([Answer::Json(404, json!({"error": "there is no run r1"}).to_string())]).await;
    let mut events = server.client(dir.path()).events(&["api", "runs", "r1", "events"]);
    match events.next().await {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!((refusal.status, refusal.message.as_str()), (404, "there is no run r1"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn requests_carry_the_token_and_encode_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let ok = || Answer::Json(200, "{}".to_owned());
    let server = Scripted::serve([ok(), ok(), ok()]).await;
    let client = server.client(dir.path());
    let _: Value = client.post(&["api", "jobs", "a/../b?c", "cancel"], &json!({"x": 1})).await.unwrap();
    let _: Value = client.get_with(&["api", "jobs"], &[("cursor", "a&b")]).await.unwrap();
    let _: Value = client.start_run(Some("/p/a.ts")).await.unwrap();
    let asked = server.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let expected = ["POST /api/jobs/a%2F..%2Fb%3Fc/cancel", "GET /api/jobs?cursor=a%26b", "POST /api/runs"];
    assert_eq!(lines, expected);
    assert_eq!(asked[0].body, r#"{"x":1}"#);
    assert_eq!(asked[2].body, r#"{"file":"/p/a.ts"}"#);
    assert!(asked.iter().all(|asked| asked.header("x-midrun-token") == Some("secret")));
}

#[tokio::test]
async fn a_no_is_given_in_the_servers_words() {
    let dir = tempfile::tempdir().unwrap();
    let place = json!({"file": "a.ts", "line": 1, "column": 2, "message": "boom", "frame": null});
    let server = Scripted::serve([
        Answer::Json(400, json!({"error": "the build is failing", "diagnostics": [place]}).to_string()),
        Answer::Json(502, "<html>".to_owned()),
        Answer::Json(200, "<html>".to_owned()),
    ])
    .await;
    let client = server.client(dir.path());
    let answer = async || client.get::<Value>(&["api", "manifest"]).await.unwrap_err();
    match answer().await {
        ClientError::Refused(refusal) => {
            assert_eq!(refusal.message, "the build is failing");
            assert_eq!(refusal.diagnostics[0].message, "boom");
        }
        other => panic!("{other:?}"),
    }
    assert!(answer().await.to_string().contains("502"));
    assert!(matches!(answer().await, ClientError::Strange { .. }));
    drop(server);
    assert!(matches!(answer().await, ClientError::Away { .. }));
}

#[tokio::test]
async fn a_server_that_has_ended_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Client::of(dir.path()).is_none());
    let server = Scripted::serve([]).await;
    server.is_server_of(dir.path(), "secret");
    assert!(Client::of(dir.path()).is_some());
    let path = dir.path().join(".midrun/server.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["process"]["startTime"] = json!(1);
    std::fs::write(&path, file.to_string()).unwrap();
    assert!(Client::of(dir.path()).is_none());
}
