//! A job outlives its control plane, whether that goes down in order or is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use control_plane::{ControlPlane, OpenError, Settings};
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Event, Plane, User, alive, file, gone, kinds, scripted, state_dir, within, write};

fn steps(events: &[Event], kind: &str) -> Vec<i64> {
    events.iter().filter(|event| event.kind == kind).filter_map(Event::step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_after_an_orderly_restart() {
    let plane = Plane::start_with(|settings| settings.max_concurrent_jobs = 1).await;
    let user = plane.user().await;
    let gate = plane.path("gate");
    let script = json!([["emit", { "type": "training.started" }], ["logs", 1, 5], ["await", gate], ["logs", 6, 10],
        ["checkpoint", 10], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let waiting = user.job(json!([["emit", { "type": "training.completed" }]])).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(5) {}
    let started_at = user.show(&id).await["job"]["startedAt"].clone();

    let plane = plane.restart_with(|settings| settings.max_concurrent_jobs = 1).await;
    write(&gate, "").await;
    let user = user.moved_to(&plane);
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "training.started").count(), 1);
    assert_eq!(steps(&events, "training.log"), (1..=10).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [5, 10], "saved on the way down, and at its place");
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.completed", "end"]);
    assert_eq!(user.show(&id).await["job"]["startedAt"], started_at);
    assert_eq!(kinds(&user.follow(&waiting).await).last(), Some(&"end"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_trained_again_are_not_announced_again() {
    let plane = Plane::start_with(|settings| settings.stop_grace = Duration::from_millis(100)).await;
    let user = plane.user().await;
    let gate = plane.path("gate");
    // It saves nothing when it is stopped, and trains all steps again.
    let config = json!({
        "script": [["emit", { "type": "training.started" }], ["logs", 1, 3], ["checkpoint", 3], ["logs", 4, 6], ["await", gate],
            ["logs", 7, 8], ["checkpoint", 8], ["emit", { "type": "training.completed" }]],
        "onTerm": "ignore",
        "forgetful": true,
    });
    let id = user.job_with(config).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(6) {}
    let plane = plane.restart_with(|_| {}).await;
    write(&gate, "").await;
    let events = user.moved_to(&plane).follow(&id).await;
    assert_eq!(steps(&events, "training.log"), (1..=8).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [3, 8]);
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "training.started").count(), 1);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_has_one_control_plane() {
    let plane = Plane::start().await;
    let path = state_dir(&plane.dir);
    let error = ControlPlane::open(Settings::new(&path, scripted())).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    plane.handle.shutdown(Duration::from_secs(10)).await;
    let again = ControlPlane::open(Settings::new(&path, scripted())).await.unwrap();
    within("close", again.close(Duration::from_secs(10))).await;
}

/// Not a test: the control plane that the tests below kill. They run this binary with its name.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by other tests"]
async fn victim() {
    let Some(dir) = std::env::var_os("VICTIM_DIR").map(PathBuf::from) else { return };
    let control_plane = ControlPlane::open(Settings::new(dir.join("state"), scripted())).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = control_plane.serve(listener).unwrap();
    std::fs::write(dir.join("url.new"), handle.url()).unwrap();
    std::fs::rename(dir.join("url.new"), dir.join("url")).unwrap();
    std::future::pending::<()>().await;
}

/// A control plane in a process of its own.
async fn start_victim(dir: &Path) -> (tokio::process::Child, String) {
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["recovery::victim", "--exact", "--ignored", "--nocapture"])
        .env("VICTIM_DIR", dir)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = file(&dir.join("url")).await;
    (child, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_takes_its_executors_along_and_its_jobs_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut victim, url) = start_victim(dir.path()).await;
    let user = User::at(url).await;
    let (gate, pid, child) = (dir.path().join("gate"), dir.path().join("pid"), dir.path().join("child"));
    let script = json!([["child", child], ["await", child], ["logs", 1, 4], ["checkpoint", 4], ["logs", 5, 6], ["await", gate],
        ["logs", 7, 8], ["emit", { "type": "training.completed" }]]);
    let config = json!({ "script": script, "forgetful": false });
    let id = user.job_with(config).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(6) {}
    // A job whose cancel is under way when the control plane is killed.
    let doomed = json!({ "script": [["logs", 1, 1], ["hold"]], "onTerm": "ignore", "termSeen": pid });
    let doomed = user.job_with(doomed).await;
    user.stream(&doomed).await.until("training.log").await;
    assert_eq!(user.cancel(&doomed).await, StatusCode::ACCEPTED);
    file(&pid).await;
    let executors: Vec<u32> = process::processes()
        .unwrap()
        .into_iter()
        .filter(|row| Some(row.parent) == victim.id())
        .map(|row| row.pid)
        .collect();
    assert_eq!(executors.len(), 2);
    let stray: u32 = file(&child).await.parse().unwrap();

    victim.kill().await.unwrap();
    for executor in executors {
        gone(executor).await;
    }
    assert!(alive(stray), "a child of an executor gets no signal from anybody");
    std::fs::remove_file(&child).unwrap();
    let settings = Settings::new(dir.path().join("state"), scripted());
    let control_plane = ControlPlane::open(settings).await.unwrap();
    assert!(!alive(stray), "what is left of an earlier life is gone before its job goes on");
    let handle = control_plane.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let user = user.at_url(handle.url());
    write(&gate, "").await;
    let events = user.follow(&id).await;
    assert_eq!(steps(&events, "training.log"), (1..=8).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [4]);
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.completed", "end"]);
    let events = user.follow(&doomed).await;
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.cancelled", "end"]);
    handle.shutdown(Duration::from_secs(10)).await;
}
