//! Creating, listing, queueing, cancelling, resuming.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Plane, User, all, file, kinds, within, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_through_its_life() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let script = json!([["emit", { "type": "training.started", "device": "cpu" }], ["logs", 1, 3], ["checkpoint", 3],
        ["emit", { "type": "training.completed", "artifacts": [{ "kind": "final" }], "metrics": { "loss": 0.25 } }]]);
    let id = user.job(script).await;
    let events = user.follow(&id).await;
    assert_eq!(
        kinds(&events),
        [
            "training.started",
            "training.log",
            "training.log",
            "training.log",
            "checkpoint.saved",
            "training.completed",
            "end"
        ]
    );
    for event in &events {
        assert_eq!(event.data["type"], Value::from(event.kind.clone()));
        assert_eq!(event.data["jobId"], Value::from(id.clone()));
        assert!(event.data["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(events[0].data["device"], "cpu");
    assert_eq!(events[5].data["metrics"]["loss"], 0.25);

    let shown = user.show(&id).await;
    let job = &shown["job"];
    assert_eq!(job["status"], "completed");
    assert_eq!(job["error"], Value::Null);
    for key in ["orgId", "projectId", "createdAt", "startedAt", "completedAt"] {
        assert!(job[key].is_string(), "{key}: {job}");
    }
    let history = shown["events"].as_array().unwrap();
    assert_eq!(history.len(), 6);
    assert_eq!(history[1]["id"], 2);
    assert_eq!(history[1]["loss"], 1.0);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_goes_through_unchanged() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    // The order of keys, numbers at the limits of a double, and an integer beyond them.
    let config =
        r#"{"z":1,"a":0.1e-6,"big":123456789012345678901234567890,"lr":5.000000000000001e-5,"script":[]}"#;
    let body = format!(r#"{{"name":"exact","config":{config}}}"#);
    let answer = user.request(reqwest::Method::POST, "/v1/jobs").body(body).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains(config), "{text}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_client_run_is_the_same_job() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let body = json!({ "name": "once", "config": { "script": [["hold"]] }, "clientRunId": "r1" });
    let answers = all((0..20).map(|_| user.post("/v1/jobs", &body)), 20).await;
    let created = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert_eq!(created, 1);
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::OK).count(), 19);
    let id = &answers[0].1["job"]["id"];
    assert!(answers.iter().all(|(_, body)| body["job"]["id"] == *id));
    assert_eq!(user.get("/v1/jobs").await.1["jobs"].as_array().unwrap().len(), 1);

    let other = plane.user().await;
    let (status, theirs) = other.post("/v1/jobs", &body).await;
    assert_eq!(status, StatusCode::CREATED, "another project's run ids are its own");
    assert_ne!(theirs["job"]["id"], *id);
    let anonymous = json!({ "name": "many", "config": { "script": [] } });
    assert_eq!(user.post("/v1/jobs", &anonymous).await.0, StatusCode::CREATED);
    assert_eq!(user.post("/v1/jobs", &anonymous).await.0, StatusCode::CREATED, "without an id each is new");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_newest_first_and_goes_on_at_its_cursor() {
    let plane = Plane::start_with(|settings| settings.max_concurrent_jobs = 1).await;
    let user = plane.user().await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(user.job(json!([["hold"]])).await);
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=3".to_owned();
    loop {
        let (_, page) = user.get(&path).await;
        seen.extend(
            page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/jobs?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_in_order_and_as_wide_as_allowed() {
    let plane = Plane::start_with(|settings| settings.max_concurrent_jobs = 2).await;
    let user = plane.user().await;
    let gate = |n: usize| plane.path(&format!("gate-{n}"));
    let here = |n: usize| plane.path(&format!("here-{n}"));
    let mut ids = Vec::new();
    for n in 0..5 {
        let script =
            json!([["write", here(n), "x"], ["await", gate(n)], ["emit", { "type": "training.completed" }]]);
        ids.push(user.job(script).await);
    }
    file(&here(0)).await;
    file(&here(1)).await;
    for (n, leaves) in [(2, 1), (3, 0), (4, 3)] {
        // While two run, the next is queued; when one leaves, exactly the oldest takes its place.
        assert_eq!(user.status(&ids[n]).await, "queued");
        write(&gate(leaves), "").await;
        file(&here(n)).await;
        assert_eq!(user.status(&ids[n]).await, "running");
        if n < 4 {
            assert_eq!(user.status(&ids[n + 1]).await, "queued");
        }
    }
    write(&gate(2), "").await;
    write(&gate(4), "").await;
    for id in &ids {
        assert_eq!(kinds(&user.follow(id).await), ["training.started", "training.completed", "end"]);
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_saves_before_it_is_cancelled() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user.job(json!([["logs", 1, 5], ["hold"]])).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(5) {}
    assert_eq!(user.cancel(&id).await, StatusCode::ACCEPTED);
    let rest = stream.rest().await;
    assert_eq!(kinds(&rest), ["checkpoint.saved", "training.cancelled", "end"]);
    assert_eq!(rest[0].step(), Some(5));
    assert_eq!(user.status(&id).await, "cancelled");
    for _ in 0..2 {
        let (status, body) = user.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(body["error"].as_str().unwrap().contains("cancelled"), "{body}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_may_be_asked_again_while_it_is_under_way() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let seen = plane.path("term-seen");
    let config = json!({ "script": [["logs", 1, 1], ["hold"]], "onTerm": "ignore", "termSeen": seen });
    let body = json!({ "name": "slow", "config": config, "clientRunId": "r7" });
    let (_, created) = user.post("/v1/jobs", &body).await;
    let id = created["job"]["id"].as_str().unwrap();
    user.stream(id).await.until("training.log").await;
    assert_eq!(user.cancel(id).await, StatusCode::ACCEPTED);
    file(&seen).await;
    std::fs::remove_file(&seen).unwrap();
    assert_eq!(user.cancel(id).await, StatusCode::ACCEPTED);
    let (status, again) = user.post("/v1/jobs/cancel?clientRunId=r7", &json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(again["job"]["status"], "running");
    assert!(again["job"]["cancelRequestedAt"].is_string());
    within("shutdown", plane.handle.shutdown(Duration::from_millis(300))).await;
    assert!(!seen.exists(), "one SIGTERM is enough, also when the control plane goes down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_is_cancelled_at_once_and_never_starts() {
    let plane = Plane::start_with(|settings| settings.max_concurrent_jobs = 1).await;
    let user = plane.user().await;
    let gate = plane.path("gate");
    let first = user.job(json!([["await", gate], ["emit", { "type": "training.completed" }]])).await;
    let started = plane.path("started");
    let second = user.job(json!([["write", started, "x"]])).await;
    let follower = user.stream(&second).await;
    assert_eq!(user.cancel(&second).await, StatusCode::OK);
    assert_eq!(kinds(&follower.rest().await), ["training.cancelled", "end"]);
    let third = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    write(&gate, "").await;
    user.follow(&first).await;
    user.follow(&third).await;
    assert!(!started.exists(), "its turn was before the third one's");
    assert_eq!(user.show(&second).await["job"]["startedAt"], Value::Null);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_comes_before_its_job_is_kept_for_it() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let (status, body) = user.post("/v1/jobs/cancel?clientRunId=early", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let other = plane.user().await;
    let plane = plane.restart_with(|_| {}).await;
    let (user, other) = (user.moved_to(&plane), other.moved_to(&plane));

    let started = plane.path("started");
    let body =
        json!({ "name": "late", "config": { "script": [["write", started, "x"]] }, "clientRunId": "early" });
    let (status, created) = user.post("/v1/jobs", &body).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(created["job"]["status"], "cancelled");
    let id = created["job"]["id"].as_str().unwrap();
    assert_eq!(kinds(&user.follow(id).await), ["training.cancelled", "end"]);
    assert_eq!(user.post("/v1/jobs/cancel?clientRunId=early", &json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(user.post("/v1/jobs", &body).await.1["job"]["id"], Value::from(id), "born once");

    let (_, theirs) = other.post("/v1/jobs", &body).await;
    assert_eq!(theirs["job"]["status"], "queued", "another project's run of that id is not meant");
    file(&started).await;
    plane.stop().await;
}

/// A job with checkpoints at 2 and 4, completed.
async fn trained(user: &User) -> String {
    let script = json!([["logs", 1, 2], ["checkpoint", 2], ["logs", 3, 4], ["checkpoint", 4],
        ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    user.follow(&id).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_starts_from_the_checkpoint_it_names() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let first = trained(&user).await;
    let body = json!({
        "name": "second",
        "config": { "script": [["logs", 1, 4], ["emit", { "type": "training.completed" }]] },
        "resumeFrom": { "jobId": first, "step": 2 },
    });
    let (status, created) = user.post("/v1/jobs", &body).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(created["job"]["resumeFrom"], json!({ "jobId": first, "step": 2 }));
    let events = user.follow(created["job"]["id"].as_str().unwrap()).await;
    let steps: Vec<_> = events.iter().filter_map(|event| event.step()).collect();
    assert_eq!(steps, [3, 4], "the executor was told to go on after step 2");

    for (job, step, why) in [(first.as_str(), 3, "[4, 2]"), ("none", 2, "no job")] {
        let mut body = body.clone();
        body["resumeFrom"] = json!({ "jobId": job, "step": step });
        let (status, refused) = user.post("/v1/jobs", &body).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(refused["error"].as_str().unwrap().contains(why), "{refused}");
    }
    let removed = plane.path("state").join("jobs").join(&first).join("checkpoints/step-2");
    std::fs::remove_dir_all(removed).unwrap();
    let (status, refused) = user.post("/v1/jobs", &body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(refused["error"].as_str().unwrap().contains("removed"), "{refused}");
    plane.stop().await;
}
