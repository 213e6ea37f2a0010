//! Executors that crash, babble, hang, refuse to die, or are not there.

use std::time::{Duration, Instant};

use control_plane::ExecutorSetting;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Plane, alive, file, gone, kinds};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_a_failure_with_the_last_words() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let script =
        json!([["logs", 1, 2], ["stderr", "Traceback"], ["stderr", "ValueError: bad shape"], ["exit", 3]]);
    let id = user.job(script).await;
    let events = user.follow(&id).await;
    assert_eq!(
        kinds(&events),
        ["training.started", "training.log", "training.log", "training.failed", "end"]
    );
    let error = events[3].data["error"].as_str().unwrap();
    assert!(
        error.contains("exited with code 3") && error.ends_with("Traceback\nValueError: bad shape"),
        "{error}"
    );
    let shown = user.show(&id).await;
    assert_eq!(shown["job"]["status"], "failed");
    assert_eq!(shown["job"]["error"], error);

    let silent = user.job(json!([["logs", 1, 1], ["exit", 0]])).await;
    let events = user.follow(&silent).await;
    assert_eq!(kinds(&events), ["training.started", "training.log", "training.failed", "end"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_executor_says_about_its_end_stands() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let id = user
        .job(
            json!([["emit", { "type": "training.failed", "error": "unknown config key: foo" }], ["exit", 1]]),
        )
        .await;
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events), ["training.failed", "end"], "it never started");
    assert_eq!(user.show(&id).await["job"]["error"], "unknown config key: foo");

    let script = json!([["emit", { "type": "training.completed" }], ["logs", 1, 1], ["emit", { "type": "training.failed" }], ["exit", 9]]);
    let id = user.job(script).await;
    assert_eq!(kinds(&user.follow(&id).await), ["training.started", "training.completed", "end"]);
    assert_eq!(user.status(&id).await, "completed");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_to_the_log_and_breaks_nothing() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let script = json!([
        ["raw", "Loading weights: 50%"], ["raw", "{\"type\":"], ["raw", "[1,2]"], ["raw", ""], ["raw", "\u{1b}[31mred\u{1b}[0m"],
        ["emit", { "type": "training.logg", "step": 1 }], ["emit", { "type": "end" }], ["flood", 3_000_000],
        ["logs", 1, 2], ["stderr", "a warning"], ["raw", "{\"step\":1}"], ["emit", { "type": "training.completed" }],
    ]);
    let id = user.job(script).await;
    assert_eq!(
        kinds(&user.follow(&id).await),
        ["training.started", "training.log", "training.log", "training.completed", "end"]
    );
    let state = plane.path("state");
    plane.stop().await;
    let log = std::fs::read_to_string(state.join("jobs").join(&id).join("executor.log")).unwrap();
    for text in [
        "Loading weights: 50%",
        "not a JSON object",
        "unknown event type \"training.logg\"",
        "a warning",
        "is dropped",
    ] {
        assert!(log.contains(text), "{text} is not in the log:\n{log}");
    }
    assert!(log.len() < 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ignores_sigterm_is_killed_with_all_it_started() {
    let grace = Duration::from_secs(5);
    let plane = Plane::start_with(|settings| settings.stop_grace = grace).await;
    let user = plane.user().await;
    let (child, seen) = (plane.path("child"), plane.path("term-seen"));
    let config = json!({ "script": [["child", child], ["logs", 1, 1], ["hold"]], "onTerm": "ignore", "termSeen": seen });
    let id = user.job_with(config).await;
    let child: u32 = file(&child).await.parse().unwrap();
    assert!(alive(child));
    let begun = Instant::now();
    assert_eq!(user.cancel(&id).await, StatusCode::ACCEPTED);
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events), ["training.started", "training.log", "training.cancelled", "end"]);
    assert!(begun.elapsed() >= grace, "it was given its grace");
    assert!(seen.exists(), "it was asked first");
    gone(child).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_executor_leaves_behind_ends_with_it() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let child = plane.path("child");
    let id = user.job(json!([["child", child], ["await", child], ["emit", { "type": "training.completed" }], ["exit", 0]])).await;
    let pid: u32 = file(&child).await.parse().unwrap();
    assert_eq!(kinds(&user.follow(&id).await), ["training.started", "training.completed", "end"]);
    gone(pid).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lingers_after_its_end_gives_up_its_place() {
    let plane = Plane::start_with(|settings| {
        settings.max_concurrent_jobs = 1;
        settings.stop_grace = Duration::from_millis(200);
    })
    .await;
    let user = plane.user().await;
    let config =
        json!({ "script": [["emit", { "type": "training.completed" }], ["hold"]], "onTerm": "ignore" });
    let first = user.job_with(config).await;
    let second = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    assert_eq!(kinds(&user.follow(&first).await).last(), Some(&"end"));
    assert_eq!(kinds(&user.follow(&second).await).last(), Some(&"end"));
    assert_eq!(user.status(&first).await, "completed");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_cancelled_however_its_executor_takes_it() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    for behaviour in ["save", "fail", "crash"] {
        let id = user.job_with(json!({ "script": [["logs", 1, 1], ["hold"]], "onTerm": behaviour })).await;
        let mut stream = user.stream(&id).await;
        stream.until("training.log").await;
        assert_eq!(user.cancel(&id).await, StatusCode::ACCEPTED);
        let rest = stream.rest().await;
        assert_eq!(kinds(&rest[rest.len() - 2..]), ["training.cancelled", "end"], "{behaviour}");
        assert_eq!(user.status(&id).await, "cancelled", "{behaviour}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_not_there_fails_the_job_and_says_so() {
    let plane = Plane::start_with(|settings| {
        settings.executor = ExecutorSetting::command("no-such-executor-program", ["train"]);
    })
    .await;
    let user = plane.user().await;
    let id = user.job(json!([])).await;
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events), ["training.failed", "end"]);
    let error = events[0].data["error"].as_str().unwrap();
    assert!(error.contains("no-such-executor-program") && error.contains("executor setting"), "{error}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_outside_the_jobs_folder_is_not_used() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let outside = plane.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("weights"), "secret").unwrap();
    let script = json!([
        ["emit", { "type": "checkpoint.saved", "step": 1, "dir": outside }],
        ["emit", { "type": "checkpoint.saved", "step": 2, "artifacts": [{ "path": "../../../outside/weights" }] }],
        ["emit", { "type": "training.completed" }],
    ]);
    let id = user.job(script).await;
    let events = user.follow(&id).await;
    assert_eq!(
        kinds(&events),
        ["training.started", "checkpoint.saved", "checkpoint.saved", "training.completed", "end"]
    );
    assert!(events[1].data.get("dir").is_none(), "a path of this machine is not served");
    for step in [1, 2] {
        let chat = json!({ "messages": [{ "content": "x" }], "adapter": { "kind": "checkpoint", "jobId": id, "step": step } });
        assert_eq!(user.post("/v1/inference/chat", &chat).await.0, StatusCode::NOT_FOUND);
    }
    plane.stop().await;
}
