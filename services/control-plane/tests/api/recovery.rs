//! A job outlives its control plane, whether that goes down in order or is killed; a killed one leaves its executors
//! training.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use control_plane::{ControlPlane, Handle, OpenError};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{
    Event, Folder, LIMIT, Plane, User, alive, file, gone, kinds, settings_in, within, write,
};

fn steps(events: &[Event], kind: &str) -> Vec<i64> {
    events.iter().filter(|event| event.kind == kind).filter_map(Event::step).collect()
}

/// Waits until nothing of the control plane in `dir` runs: one that was taken up from an earlier life is not waited for
/// by the next one's end.
async fn nobody_is_left(dir: &Folder) {
    let nobody = async {
        while !dir.processes().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await
        }
    };
    within("the end of every process", nobody).await;
}

/// Every event has the next number.
fn assert_whole(events: &[Event]) {
    let ids: Vec<i64> = events.iter().filter_map(|event| event.id.as_ref()?.parse().ok()).collect();
    assert_eq!(ids, (1..=i64::try_from(ids.len()).unwrap()).collect::<Vec<_>>());
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

    plane.stop().await;
    assert_eq!(plane.dir.processes(), [], "an orderly end leaves no executor and no host");
    let plane = plane.restart_with(|settings| settings.max_concurrent_jobs = 1).await;
    write(&gate, "").await;
    let user = user.moved_to(&plane);
    let events = user.follow(&id).await;
    assert_whole(&events);
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
    let error = ControlPlane::open(settings_in(plane.dir.path())).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    plane.handle.shutdown(Duration::from_secs(10)).await;
    let again = ControlPlane::open(settings_in(plane.dir.path())).await.unwrap();
    within("close", again.close(Duration::from_secs(10))).await;
}

/// Not a test: the control plane that the tests below kill. They run this binary with its name.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by other tests"]
async fn victim() {
    let Some(dir) = std::env::var_os("VICTIM_DIR").map(PathBuf::from) else { return };
    let handle = open(&dir).await;
    std::fs::write(dir.join("url.new"), handle.url()).unwrap();
    std::fs::rename(dir.join("url.new"), dir.join("url")).unwrap();
    std::future::pending::<()>().await;
}

/// A control plane in this process.
async fn open(dir: &Path) -> Handle {
    let mut settings = settings_in(dir);
    let alone = std::env::var("VICTIM_ALONE_MS").map_or(120_000, |text| text.parse().unwrap());
    settings.alone = Some(Duration::from_millis(alone));
    let control_plane = ControlPlane::open(settings).await.unwrap();
    control_plane.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
}

/// A control plane in a process of its own, which can be killed.
struct Victim {
    child: tokio::process::Child,
    url: String,
}

impl Victim {
    async fn start(dir: &Path) -> Self {
        Self::start_with(dir, Duration::from_secs(120)).await
    }

    /// One whose executors save and exit when no control plane has been there for `alone`.
    async fn start_with(dir: &Path, alone: Duration) -> Self {
        let _ = std::fs::remove_file(dir.join("url"));
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["recovery::victim", "--exact", "--ignored", "--nocapture"])
            .env("VICTIM_DIR", dir)
            .env("VICTIM_ALONE_MS", alone.as_millis().to_string())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = file(&dir.join("url")).await;
        Self { child, url }
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The host of the job's executor: its folder and its process.
fn host_of(dir: &Folder, job: &str) -> (PathBuf, process::Identity) {
    let lives = dir.path().join("state/jobs").join(job).join("lives");
    let lives: Vec<PathBuf> = std::fs::read_dir(&lives).unwrap().map(|life| life.unwrap().path()).collect();
    assert_eq!(lives.len(), 1, "one life at a time");
    let host = serde_json::from_slice(&std::fs::read(lives[0].join("host.json")).unwrap()).unwrap();
    (lives[0].clone(), host)
}

/// The executor's process, as its host's log names it.
async fn executor_of(life: &Path) -> u32 {
    let first: Value =
        serde_json::from_str(file(&life.join("events.jsonl")).await.lines().next().unwrap()).unwrap();
    assert_eq!(first["type"], "spawned");
    u32::try_from(first["pid"].as_u64().unwrap()).unwrap()
}

/// Waits until what the executor wrote into its host's log has `text` in it.
async fn hosted_text(life: &Path, text: &str) {
    let log = life.join("events.jsonl");
    testkit::eventually(text, LIMIT, || std::fs::read_to_string(&log).ok()?.contains(text).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_goes_on_while_no_control_plane_is_there() {
    let dir = Folder::new();
    let victim = Victim::start(dir.path()).await;
    let user = User::at(victim.url.clone()).await;
    let (away, back) = (dir.path().join("away"), dir.path().join("back"));
    // A line is begun before the control plane is killed and ended afterwards.
    let script = json!([["logs", 1, 4], ["stderr", "before"], ["part", "{\"type\":\"training.log\",\"st"], ["await", away],
        ["part", "ep\":5,\"loss\":0.5}\n"], ["checkpoint", 5], ["logs", 6, 300], ["stderr", "while away"], ["await", back],
        ["logs", 301, 302], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(4) {}
    let (life, host) = host_of(&dir, &id);
    let executor = executor_of(&life).await;
    hosted_text(&life, "\\\"st").await;
    victim.kill().await;
    write(&away, "").await;
    hosted_text(&life, "while away").await;
    assert!(host.is_alive() && alive(executor));

    let victim = Victim::start(dir.path()).await;
    let user = user.at_url(victim.url.clone());
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(300) {}
    assert_eq!(user.status(&id).await, "running");
    assert_eq!(
        (host_of(&dir, &id).1, executor_of(&life).await),
        (host.clone(), executor),
        "the same processes"
    );
    // Killed again, and it ends while nobody is there.
    victim.kill().await;
    write(&back, "").await;
    gone(executor).await;
    gone(host.pid).await;

    let handle = open(dir.path()).await;
    let user = user.at_url(handle.url());
    let events = user.follow(&id).await;
    assert_whole(&events);
    assert_eq!(steps(&events, "training.log"), (1..=302).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [5]);
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.completed", "end"]);
    assert_eq!(user.status(&id).await, "completed");
    within("shutdown", handle.shutdown(Duration::from_secs(10))).await;
    assert!(!life.exists(), "what it said is in the history");
    let log = std::fs::read_to_string(dir.path().join("state/jobs").join(&id).join("executor.log")).unwrap();
    for text in ["before", "while away"] {
        assert_eq!(log.matches(text).count(), 1, "{log}");
    }
    nobody_is_left(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_control_plane_is_killed_no_event_is_lost_or_told_twice() {
    const STEPS: i64 = 4000;
    let dir = Folder::new();
    let script =
        json!([["paced", 1, STEPS, 400], ["checkpoint", STEPS], ["emit", { "type": "training.completed" }]]);
    let mut victim = Victim::start(dir.path()).await;
    let mut user = User::at(victim.url.clone()).await;
    let id = user.job(script).await;
    let mut seen: Vec<Event> = Vec::new();
    for round in 1..=8 {
        // A reader goes on from where it was, through every life.
        let last = seen.last().and_then(|event| event.id.clone());
        let mut stream = user.stream_after(&id, last.as_deref()).await;
        while seen.last().and_then(Event::step) < Some(round * STEPS / 10) {
            seen.push(stream.next().await.unwrap());
        }
        victim.kill().await;
        victim = Victim::start(dir.path()).await;
        user = user.at_url(victim.url.clone());
    }
    let last = seen.last().and_then(|event| event.id.clone());
    seen.extend(user.stream_after(&id, last.as_deref()).await.rest().await);
    assert_whole(&seen);
    assert_eq!(steps(&seen, "training.log"), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(kinds(&seen[seen.len() - 3..]), ["checkpoint.saved", "training.completed", "end"]);
    victim.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_the_kill_is_still_wanted() {
    let dir = Folder::new();
    let victim = Victim::start(dir.path()).await;
    let user = User::at(victim.url.clone()).await;
    let seen = dir.path().join("term-seen");
    let doomed = json!({ "script": [["logs", 1, 1], ["hold"]], "onTerm": "ignore", "termSeen": seen });
    let doomed = user.job_with(doomed).await;
    let fails = user
        .job(json!([
            ["logs", 1, 1],
            ["await", dir.path().join("gate")],
            ["stderr", "no memory"],
            ["exit", 3]
        ]))
        .await;
    for id in [&doomed, &fails] {
        user.stream(id).await.until("training.log").await;
    }
    assert_eq!(user.cancel(&doomed).await, StatusCode::ACCEPTED);
    file(&seen).await;
    let (_, host) = host_of(&dir, &fails);
    victim.kill().await;
    write(&dir.path().join("gate"), "").await;
    gone(host.pid).await;

    let mut settings = settings_in(dir.path());
    settings.stop_grace = Duration::from_millis(300);
    let handle = ControlPlane::open(settings).await.unwrap();
    let handle = handle.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let user = user.at_url(handle.url());
    assert_eq!(
        kinds(&user.follow(&doomed).await),
        ["training.started", "training.log", "training.cancelled", "end"]
    );
    let failed = user.follow(&fails).await;
    assert_eq!(kinds(&failed), ["training.started", "training.log", "training.failed", "end"]);
    let error = failed[2].data["error"].as_str().unwrap();
    assert!(error.contains("exited with code 3") && error.ends_with("no memory"), "{error}");
    within("shutdown", handle.shutdown(Duration::from_secs(10))).await;
    nobody_is_left(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_comes_back_for_saves_and_waits() {
    let dir = Folder::new();
    let victim = Victim::start_with(dir.path(), Duration::from_secs(5)).await;
    let user = User::at(victim.url.clone()).await;
    let gate = dir.path().join("gate");
    let id = user
        .job(json!([["logs", 1, 7], ["await", gate], ["logs", 8, 9], ["emit", { "type": "training.completed" }]]))
        .await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(7) {}
    let (life, host) = host_of(&dir, &id);
    victim.kill().await;
    gone(host.pid).await;
    nobody_is_left(&dir).await;
    assert!(std::fs::read_to_string(life.join("events.jsonl")).unwrap().contains("no server has been there"));

    let handle = open(dir.path()).await;
    write(&gate, "").await;
    let user = user.at_url(handle.url());
    let events = user.follow(&id).await;
    assert_whole(&events);
    assert_eq!(steps(&events, "training.log"), (1..=9).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [7], "saved when it was left alone");
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.completed", "end"]);
    let log = std::fs::read_to_string(dir.path().join("state/jobs").join(&id).join("executor.log")).unwrap();
    assert!(log.contains("no server has been there"), "{log}");
    within("shutdown", handle.shutdown(Duration::from_secs(10))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_host_is_killed_goes_on_from_its_newest_checkpoint() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let (child, gate) = (plane.path("child"), plane.path("gate"));
    let script = json!([["child", child], ["await", child], ["logs", 1, 4], ["checkpoint", 4], ["logs", 5, 6], ["await", gate],
        ["logs", 7, 8], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(6) {}
    let (life, host) = host_of(&plane.dir, &id);
    let executor = executor_of(&life).await;
    let stray: u32 = file(&child).await.parse().unwrap();
    std::fs::remove_file(&child).unwrap();
    process::PidFd::open(&host).unwrap().send(process::signal::SIGKILL).unwrap();
    gone(executor).await;
    // The next life has begun when it has a child.
    file(&child).await;
    assert!(!alive(stray), "what is left of an earlier life is gone before its job goes on");
    write(&gate, "").await;
    let events = user.follow(&id).await;
    assert_whole(&events);
    assert_eq!(steps(&events, "training.log"), (1..=8).collect::<Vec<_>>());
    assert_eq!(steps(&events, "checkpoint.saved"), [4]);
    assert_eq!(kinds(&events[events.len() - 2..]), ["training.completed", "end"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_removed_by_hand_is_not_gone_on_from() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let (begun, gate) = (plane.path("begun"), plane.path("gate"));
    let script = json!([["logs", 1, 2], ["checkpoint", 2], ["logs", 3, 4], ["checkpoint", 4], ["write", begun, "1"],
        ["await", gate], ["emit", { "type": "training.completed" }]]);
    let id = user.job(script).await;
    let mut stream = user.stream(&id).await;
    while stream.until("checkpoint.saved").await.step() != Some(4) {}
    file(&begun).await;
    let (first, host) = host_of(&plane.dir, &id);
    std::fs::remove_dir_all(first.join("../../checkpoints/step-4")).unwrap();
    std::fs::remove_file(&begun).unwrap();
    process::PidFd::open(&host).unwrap().send(process::signal::SIGKILL).unwrap();
    file(&begun).await;
    let (second, _) = host_of(&plane.dir, &id);
    let order: Value = serde_json::from_slice(&std::fs::read(second.join("order.json")).unwrap()).unwrap();
    assert_eq!((second != first, &order["resumeFrom"]["step"]), (true, &json!(2)));
    write(&gate, "").await;
    let events = user.follow(&id).await;
    assert_eq!(steps(&events, "training.log"), [1, 2, 3, 4]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_logged_twice_is_told_twice_whoever_hears_it() {
    let dir = Folder::new();
    let victim = Victim::start(dir.path()).await;
    let user = User::at(victim.url.clone()).await;
    let gate = dir.path().join("gate");
    // Its loss first, and then, after an evaluation, the eval loss.
    let evaluated = json!({ "type": "training.log", "step": 3, "evalLoss": 0.5 });
    let id = user
        .job(json!([["logs", 1, 3], ["await", gate], ["emit", evaluated], ["emit", { "type": "training.completed" }]]))
        .await;
    let mut stream = user.stream(&id).await;
    while stream.until("training.log").await.step() != Some(3) {}
    victim.kill().await;
    write(&gate, "").await;
    let handle = open(dir.path()).await;
    let events = user.at_url(handle.url()).follow(&id).await;
    assert_whole(&events);
    assert_eq!(steps(&events, "training.log"), [1, 2, 3, 3]);
    within("shutdown", handle.shutdown(Duration::from_secs(10))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_done_before_anyone_looked_is_heard() {
    let log = r#"{"seq":1,"ts":"2026-01-02T03:04:05Z","type":"spawned","pid":1}
{"seq":2,"ts":"2026-01-02T03:04:05Z","type":"output","stream":"stdout","text":"{\"type\":\"training.completed\"}\n"}
{"seq":3,"ts":"2026-01-02T03:04:06Z","type":"exit","code":0}
"#;
    let plane = Plane::start_with(|settings| {
        let script = format!("cat > \"$2/events.jsonl\" <<'END'\n{log}END\n");
        settings.hosts.command = ["sh", "-c", &script, "host"].map(Into::into).to_vec();
    })
    .await;
    let user = plane.user().await;
    let id = user.job(json!([])).await;
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events), ["training.started", "training.completed", "end"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_hosts_are_killed_in_vain_fails_and_says_so() {
    let plane = Plane::start().await;
    let user = plane.user().await;
    let armed = plane.path("armed");
    let id = user.job(json!([["write", armed, "1"], ["hold"]])).await;
    file(&armed).await;
    let (_, host) = host_of(&plane.dir, &id);
    process::PidFd::open(&host).unwrap().send(process::signal::SIGKILL).unwrap();
    let events = user.follow(&id).await;
    assert_eq!(kinds(&events), ["training.failed", "end"]);
    assert!(events[0].data["error"].as_str().unwrap().contains("hosts the executor was killed"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_started_fails_the_job_and_says_why() {
    let plane = Plane::start_with(|settings| settings.hosts.command = vec!["/no/such/host".into()]).await;
    let user = plane.user().await;
    let events = user.follow(&user.job(json!([])).await).await;
    assert_eq!(kinds(&events), ["training.failed", "end"]);
    assert!(events[0].data["error"].as_str().unwrap().contains("/no/such/host"));
    plane.stop().await;
}
