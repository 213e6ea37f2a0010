//! Which checkpoints are kept.

use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{LIMIT, Plane, write};

fn steps_on_disk(job: &Path) -> Vec<i64> {
    let folders = std::fs::read_dir(job.join("checkpoints")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut steps: Vec<i64> =
        folders.map(name).map(|name| name.strip_prefix("step-").unwrap().parse().unwrap()).collect();
    steps.sort_unstable();
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_are_kept_and_those_that_another_job_goes_on_from() {
    let plane = Plane::start_with(|settings| {
        settings.keep_checkpoints = 2;
        settings.checkpoint_grace = Duration::ZERO;
        settings.max_concurrent_jobs = 1;
    })
    .await;
    let user = plane.user().await;
    let (gate, end) = (plane.path("gate"), plane.path("end"));
    let script = json!([["checkpoint", 1], ["checkpoint", 2], ["await", gate], ["checkpoint", 3], ["checkpoint", 4],
        ["checkpoint", 5], ["await", end], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let mut stream = user.stream(&id).await;
    while stream.until("checkpoint.saved").await.step() != Some(2) {}
    let resume = |step: i64| {
        json!({ "name": "heir", "resumeFrom": { "jobId": id, "step": step },
                "config": { "script": [["emit", { "type": "training.completed" }]] } })
    };
    let (status, heir) = user.post("/v1/jobs", &resume(1)).await;
    assert_eq!(status, StatusCode::CREATED, "{heir}");
    write(&gate, "").await;
    while stream.until("checkpoint.saved").await.step() != Some(5) {}
    let job = plane.path("state/jobs").join(&id);
    testkit::eventually("pruned folder", LIMIT, || (steps_on_disk(&job) == [1, 4, 5]).then_some(())).await;
    let (status, refused) = user.post("/v1/jobs", &resume(3)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("[5, 4, 1]") && error.contains("keepCheckpoints"), "{error}");
    write(&end, "").await;
    stream.until("training.completed").await;
    let heir = heir["job"]["id"].as_str().unwrap();
    user.stream(heir).await.until("training.completed").await;
    for adapter in
        [json!({ "kind": "final", "jobId": id }), json!({ "kind": "checkpoint", "jobId": id, "step": 1 })]
    {
        let chat = json!({ "messages": [{ "content": "x" }], "adapter": adapter });
        assert_eq!(user.post("/v1/inference/chat", &chat).await.0, StatusCode::OK);
    }
    plane.stop().await;
    assert_eq!(steps_on_disk(&job), [1, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_just_told_of_is_there_for_who_looks_at_it() {
    let plane = Plane::start_with(|settings| settings.keep_checkpoints = 1).await;
    let user = plane.user().await;
    let script = json!([["checkpoint", 1], ["checkpoint", 2], ["checkpoint", 3], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    user.follow(&id).await;
    let job = plane.path("state/jobs").join(&id);
    assert_eq!(steps_on_disk(&job), [1, 2, 3]);
    // Those for which there was no time are removed at the next start.
    let plane = plane.restart_with(|settings| {
        settings.keep_checkpoints = 1;
        settings.checkpoint_grace = Duration::ZERO;
    });
    let plane = plane.await;
    testkit::eventually("pruned folder", LIMIT, || (steps_on_disk(&job) == [3]).then_some(())).await;
    plane.stop().await;
}
