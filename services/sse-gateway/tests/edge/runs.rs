//! Runs and the manifest over REST.

use serde_json::json;
use wire::build::{Diagnostic, Failure};
use wire::run::{NewestBuild, Owner, RunRefusal};
use wire::{ConfigHash, Manifest, RunStatus, StopMode};

use crate::support::*;

#[actix_web::test]
async fn the_manifest_is_told_when_there_is_one() {
    let edge = edge();
    let (status, body) = edge.json(edge.get("/api/manifest")).await;
    assert_eq!(status, 503, "{body}");

    let config = json!({"learningRate": 0.001});
    *edge.registry.newest.lock().unwrap() = NewestBuild::Good {
        build_id: "b1".into(),
        content_hash: "cc".into(),
        manifest: Manifest {
            trainer: Some("adder".to_owned()),
            config: Some(config.clone()),
            config_hash: Some(ConfigHash::of(&config)),
            callbacks: [("onLog".to_owned(), "1".to_owned()), ("onStarted".to_owned(), "2".to_owned())]
                .into(),
            can_swap: true,
        },
        entry: "src/midrun/index.ts".to_owned(),
    };
    let (status, body) = edge.json(edge.get("/api/manifest")).await;
    assert_eq!(status, 200);
    assert_eq!(body["trainer"], json!({"name": "adder"}));
    assert_eq!(body["config"], config);
    assert_eq!(body["configHash"], ConfigHash::of(&config).as_str());
    assert_eq!(body["callbacks"], json!(["onLog", "onStarted"]));
    assert_eq!((&body["buildId"], &body["contentHash"]), (&json!("b1"), &json!("cc")));
    assert_eq!(body["entry"], "src/midrun/index.ts");

    *edge.registry.newest.lock().unwrap() = NewestBuild::Good {
        build_id: "b2".into(),
        content_hash: "dd".into(),
        manifest: Manifest {
            trainer: None,
            config: None,
            config_hash: None,
            callbacks: Default::default(),
            can_swap: false,
        },
        entry: "src/midrun/index.ts".to_owned(),
    };
    let (status, body) = edge.json(edge.get("/api/manifest")).await;
    assert_eq!((status, &body["trainer"], &body["config"]), (200, &json!(null), &json!(null)));

    let place = Diagnostic {
        file: Some("src/a.ts".to_owned()),
        line: Some(2),
        column: Some(5),
        message: "Unexpected token".to_owned(),
        frame: Some("2: x".to_owned()),
    };
    let failure = Failure { message: "it does not parse".to_owned(), diagnostics: vec![place] };
    *edge.registry.newest.lock().unwrap() = NewestBuild::Failing(failure);
    let (status, body) = edge.json(edge.get("/api/manifest")).await;
    assert_eq!((status, &body["error"]), (400, &json!("it does not parse")));
    assert_eq!(body["diagnostics"][0]["line"], 2);
}

#[actix_web::test]
async fn a_run_is_started_listed_shown_and_stopped() {
    let edge = edge();
    let answer = soon(edge.post("/api/runs", "{}").send()).await.unwrap();
    assert_eq!(answer.status(), 201);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let run = edge.registry.started(1).await;
    assert_eq!((header("x-midrun-run"), header("x-midrun-pid")), (run.to_string(), "1000".to_owned()));
    assert_eq!(header("x-arkor-train-pid"), "1000");
    assert_eq!(edge.registry.asked_to_start(1).await[0].owner, Owner::Server);

    edge.json(edge.post("/api/runs", r#"{"file":"src/other.ts","unknown":1}"#)).await;
    assert_eq!(edge.registry.asked_to_start(2).await[1].file.as_deref(), Some("src/other.ts"));
    let (_, list) = edge.json(edge.get("/api/runs")).await;
    assert_eq!(list["runs"].as_array().unwrap().len(), 2);
    assert_eq!(list["runs"][1]["id"], run.as_str());

    let (status, one) = edge.json(edge.get(&format!("/api/runs/{run}"))).await;
    assert_eq!((status, &one["run"]["id"], &one["run"]["status"]), (200, &json!(run), &json!("starting")));

    let (status, stopped) =
        edge.json(edge.post(&format!("/api/runs/{run}/stop"), r#"{"mode":"checkpoint"}"#)).await;
    assert_eq!((status, &stopped["run"]["id"]), (202, &json!(run)));
    assert_eq!(edge.registry.stopped(1).await[0].mode, StopMode::Checkpoint);
    let (status, _) =
        edge.json(edge.post(&format!("/api/runs/{run}/stop"), r#"{"mode":"now","reason":"enough"}"#)).await;
    assert_eq!(status, 202);
    let stop = edge.registry.stopped(2).await[1].clone();
    assert_eq!((stop.mode, stop.reason.as_str()), (StopMode::Now, "enough"));

    for body in ["{}", "", r#"{"mode":"later"}"#] {
        assert_eq!(edge.json(edge.post(&format!("/api/runs/{run}/stop"), body)).await.0, 400, "{body}");
    }
    assert_eq!(edge.json(edge.post("/api/runs/r00000000000000/stop", r#"{"mode":"now"}"#)).await.0, 404);
    edge.registry.exit(&run, 0);
    assert_eq!(edge.json(edge.post(&format!("/api/runs/{run}/stop"), r#"{"mode":"now"}"#)).await.0, 409);
}

#[actix_web::test]
async fn a_refused_start_says_why() {
    let edge = edge();
    let (status, body) = edge.json(edge.post("/api/runs", r#"{"file":"../../etc/passwd"}"#)).await;
    assert_eq!((status, &body["code"]), (400, &json!("outside-project")));
    let failure = Failure { message: "it does not parse".to_owned(), diagnostics: Vec::new() };
    for (refusal, status) in [
        (RunRefusal::NoSuchFile { file: "x.ts".to_owned(), why: "no such file".to_owned() }, 400),
        (RunRefusal::BuildFailing { failure }, 400),
        (RunRefusal::NoTrainer { entry: "/p/src/x.ts".to_owned().into() }, 400),
        (RunRefusal::NotStarted { why: "node was not found: install it".to_owned() }, 503),
        (RunRefusal::Stopping, 503),
    ] {
        edge.registry.refuse_starts(refusal.clone());
        let (seen, body) = edge.json(edge.post("/api/runs", "{}")).await;
        assert_eq!((seen, &body["error"]), (status, &json!(refusal.to_string())));
    }
    edge.registry.go_away();
    let (status, body) = edge.json(edge.post("/api/runs", "{}")).await;
    assert_eq!(status, 503);
    assert!(body["error"].as_str().unwrap().contains("not running"), "{body}");
    assert_eq!(edge.json(edge.get("/api/runs")).await.0, 503);
}

#[actix_web::test]
async fn whoever_waits_is_answered_at_the_end() {
    let edge = edge();
    let waiting = edge.json(edge.post("/api/runs", r#"{"wait":true}"#));
    let ending = async {
        let run = edge.registry.started(1).await;
        edge.registry.say(&run, RunStatus::Running);
        edge.registry.exit(&run, 7);
        run
    };
    let ((status, body), run) = futures_util::join!(waiting, ending);
    assert_eq!(status, 200);
    assert_eq!(
        (&body["completed"], &body["timedOut"], &body["exitCode"]),
        (&json!(true), &json!(false), &json!(7))
    );
    assert_eq!((&body["run"]["id"], &body["run"]["status"]), (&json!(run), &json!("exited")));
    assert!(body["durationMs"].is_u64());
}

#[actix_web::test]
async fn waiting_too_long_leaves_the_run_alone() {
    let edge = edge();
    let (status, body) = edge.json(edge.post("/api/runs", r#"{"wait":true,"timeoutMs":30}"#)).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&body["completed"], &body["timedOut"], &body["exitCode"]),
        (&json!(false), &json!(true), &json!(null))
    );
    assert!(body["durationMs"].as_u64().unwrap() >= 30);
    // A client that goes away while it waits leaves it alone as well.
    let mut raw = edge.raw().await;
    let head = format!("POST /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Midrun-Token: {TOKEN}\r\n");
    raw.send(format!("{head}Content-Length: 13\r\n\r\n{{\"wait\":true}}")).await;
    edge.registry.started(2).await;
    drop(raw);
    assert_eq!(edge.json(edge.get("/api/runs")).await.1["runs"][0]["status"], "starting");
    assert_eq!(edge.registry.stops(), []);
}
