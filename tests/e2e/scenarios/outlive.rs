//! The server is killed and training goes on.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testkit::{Dev, LIMIT, Midrun, SdkTrainer, Stage, alive, eventually, gone};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::faults::{control_plane, dev_on, signed_in};
use super::orphans::{pids, reap};
use super::resume::edit;

/// Of the example, in place of its own: it goes on for long enough, and soon ends.
const STEPS: u64 = 2_000;
const LOGGED_EACH: u64 = 50;

/// The host of the job's executor, as it shows on the disk.
struct Host {
    folder: PathBuf,
    pid: u32,
    executor: u32,
}

impl Host {
    fn of(stage: &Stage, job: &str) -> Self {
        let lives = stage.project.dir().join(".midrun/control-plane/jobs").join(job).join("lives");
        let entries =
            std::fs::read_dir(&lives).unwrap_or_else(|error| panic!("{}: {error}", lives.display()));
        let lives: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
        let [folder] = &lives[..] else { panic!("not one life but {lives:?}") };
        let text = std::fs::read(folder.join("host.json")).expect("a host says who it is");
        let host: Value = serde_json::from_slice(&text).expect("it is JSON");
        let (pid, executor) = (pid_in(&host), pid_in(&records(folder)[0]));
        Self { folder: folder.clone(), pid, executor }
    }

    /// The newest step that the executor has logged.
    fn step(&self) -> u64 {
        let output: String = records(&self.folder)
            .iter()
            .filter_map(|record| Some(record["text"].as_str()?.to_owned()))
            .collect();
        let events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["type"] == "training.log")
            .filter_map(|event| event["step"].as_u64())
            .max()
            .unwrap_or(0)
    }
}

fn pid_in(value: &Value) -> u32 {
    value["pid"]
        .as_u64()
        .and_then(|pid| pid.try_into().ok())
        .unwrap_or_else(|| panic!("no process in {value}"))
}

/// The whole records of a host's log.
fn records(folder: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).expect("a host has a log");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
}

#[tokio::test]
async fn the_example_trains_on_while_no_server_is_there() {
    let stage = Stage::example("adder");
    edit(&stage.project, "index.ts", &[("maxSteps: 8000", &format!("maxSteps: {STEPS}"))]);
    let (killed, mut events) = Dev::ready(&stage).await;
    let run = killed.running(&mut events).await;
    let job = events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
    let job = job.text("jobId").to_owned();
    killed.log(&run).await.wait_for_start("step 50 ").await;
    let host = Host::of(&stage, &job);
    let runner = pid_in(&killed.run(&run).await);
    killed.kill().await;
    let then = host.step();
    eventually("step without a server", LIMIT, || (host.step() >= then + 2 * LOGGED_EACH).then_some(()))
        .await;
    assert!(alive(host.pid) && alive(host.executor) && alive(runner));

    let dev = Dev::start(&stage).await;
    let found = dev.run(&run).await;
    assert_eq!(
        (pid_in(&found), &found["jobId"]),
        (runner, &job.clone().into()),
        "the same run, the same job"
    );
    let again = Host::of(&stage, &job);
    assert_eq!((again.pid, again.executor), (host.pid, host.executor), "the same executor");
    let mut events = dev.events().await;
    let ended = |event: &testkit::Event| {
        event.name == "run" && event.data["run"] == run && event.data["status"] == "exited"
    };
    if dev.run(&run).await["status"] != "exited" {
        let end = events.wait_within(Duration::from_secs(600), "end of the run", ended).await;
        assert_eq!(end.data["exitCode"], 0, "{end}");
    }
    let mut log = dev.log(&run).await;
    assert_eq!(log.exit().await, 0);
    let step = |line: &String| line.strip_prefix("step ")?.split(' ').next()?.parse::<u64>().ok();
    let logged: Vec<u64> = log.lines().iter().filter_map(step).collect();
    let expected = std::iter::once(1).chain((1..=STEPS / LOGGED_EACH).map(|count| count * LOGGED_EACH));
    assert_eq!(logged, expected.collect::<Vec<_>>(), "every loss once");
    assert!(log.lines().iter().any(|line| line.starts_with("done: adds ")), "{:?}", log.lines());
    assert_eq!(dev.jobs().await[0]["status"], "completed");
    gone(host.pid, LIMIT).await;
    dev.finish().await;
}

#[tokio::test]
async fn a_port_that_somebody_took_meanwhile_is_told_of_and_taken_back() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (killed, mut events) = Dev::ready(&stage).await;
    let run = killed.running(&mut events).await;
    killed.log(&run).await.wait_for_start("LOG v1 ").await;
    killed.kill().await;
    let kept = stage.project.dir().join(".midrun/control-plane/port");
    let kept = std::fs::read_to_string(&kept).expect("the control plane remembers its port");
    let port: u16 = kept.trim().parse().expect("a port is a number");
    let holder = TcpListener::bind(("127.0.0.1", port)).expect("nobody has the port now");

    let mut dev = Dev::start(&stage).await;
    let said =
        format!("port {port}, where live runs of this project may look for their jobs, is taken by process");
    let control_plane = dev.process_of("control-plane");
    eventually("word about the port", LIMIT, || control_plane.stderr().contains(&said).then_some(())).await;
    assert!(control_plane.stderr().contains(&format!("process {} ", std::process::id())));
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let host = Host::of(&stage, &job);
    let away = host.step();
    eventually("step meanwhile", LIMIT, || (host.step() > away).then_some(())).await;

    drop(holder);
    let heard =
        |lines: &[&str]| lines.iter().any(|line| *line == format!("LOG v1 {}", away + 1)).then_some(());
    dev.log(&run).await.wait_for_lines("step of the time without an address", heard).await;
    dev.finish().await;
}

/// Another program that has `port`: it finds nothing, whatever it is asked for.
fn stranger_at(port: u16) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("nobody has the port now");
    listener.set_nonblocking(true).expect("any socket can be");
    let listener = tokio::net::TcpListener::from_std(listener).expect("it is a listener");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            // Who asks may have gone.
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(answer).await);
        }
    })
}

#[tokio::test]
async fn a_job_is_cancelled_where_the_control_plane_is_now_and_not_where_somebody_else_answers() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (killed, mut events) = Dev::ready(&stage).await;
    let run = killed.running(&mut events).await;
    killed.log(&run).await.wait_for_start("LOG v1 ").await;
    let job = killed.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    killed.kill().await;
    let kept = stage.project.dir().join(".midrun/control-plane/port");
    let kept = std::fs::read_to_string(&kept).expect("the control plane remembers its port");
    let stranger = stranger_at(kept.trim().parse().expect("a port is a number"));

    let dev = Dev::start(&stage).await;
    signed_in(&dev).await;
    assert_eq!(dev.run(&run).await["jobId"], job, "the run goes on");
    dev.stop_run(&run, "now").await;
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    stranger.abort();
    dev.finish().await;
}

#[tokio::test]
async fn a_run_whose_socket_was_removed_while_no_server_was_there_is_found_again() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (killed, mut events) = Dev::ready(&stage).await;
    let run = killed.running(&mut events).await;
    killed.log(&run).await.wait_for_start("LOG v1 ").await;
    let runner = pid_in(&killed.run(&run).await);
    let spec = std::fs::read(stage.project.dir().join(".midrun/runs").join(&run).join("spec.json"));
    let spec: Value = serde_json::from_slice(&spec.expect("a run has one")).expect("it is JSON");
    let socket = PathBuf::from(spec["socket"].as_str().expect("a path"));
    killed.kill().await;
    // As the system does with the folder that it is in when its user logs out.
    std::fs::remove_file(&socket).expect("it was there");

    let dev = Dev::start(&stage).await;
    let found = dev.run(&run).await;
    assert_eq!((found["status"].as_str(), pid_in(&found)), (Some("running"), runner), "{found}");
    dev.finish().await;
}

/// What `midrun doctor` says of executors, if anything.
async fn doctor_on_executors(stage: &Stage) -> Option<Value> {
    let said = Midrun::new(stage, ["doctor", "--json"]).run().await.expect(0).json();
    let checks = said[0]["checks"].as_array().expect("a list").clone();
    checks.into_iter().find(|check| check["name"] == "executors")
}

#[tokio::test]
async fn reap_ends_the_executors_of_a_server_that_is_gone_and_cancels_their_runs_jobs() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (killed, mut events) = Dev::ready(&stage).await;
    let run = killed.running(&mut events).await;
    killed.log(&run).await.wait_for_start("LOG v1 ").await;
    let job = killed.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let host = Host::of(&stage, &job);
    assert_eq!(doctor_on_executors(&stage).await, None, "its server looks after it");
    assert_eq!(reap(&stage, &[]).await["stale"], 0, "its server looks after it");
    killed.kill().await;
    let told = doctor_on_executors(&stage).await.expect("it trains with no server");
    assert_eq!(told["state"], "warn");
    assert!(told["what"].as_str().is_some_and(|what| what.ends_with(&job)), "{told}");

    let ours = [host.pid, host.executor];
    let foreseen = reap(&stage, &["--dry-run"]).await;
    assert!(ours.iter().all(|pid| pids(&foreseen).contains(pid)), "{ours:?} in {foreseen}");
    assert_eq!(foreseen["stale"], 2, "the run and the executor of its job");
    let spared = reap(&stage, &["--protect", &host.executor.to_string()]).await;
    assert!(alive(host.pid) && alive(host.executor), "{spared}");
    let then = host.step();
    eventually("step of a protected executor", LIMIT, || (host.step() > then).then_some(())).await;

    let report = reap(&stage, &[]).await;
    for pid in ours {
        assert!(pids(&report).contains(&pid), "{pid} in {report}");
        gone(pid, LIMIT).await;
    }
    assert_eq!(doctor_on_executors(&stage).await, None);
    assert_eq!(reap(&stage, &[]).await["stale"], 0, "what was reaped is no longer found");
    let dev = Dev::start(&stage).await;
    signed_in(&dev).await;
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    dev.finish().await;
}

#[tokio::test]
async fn a_job_whose_executor_was_reaped_goes_on_with_the_next_server() {
    let (lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = dev_on(&stage, &proxy).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("CHECKPOINT v1 ").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let host = Host::of(&lending, &job);
    lender.kill().await;
    let report = reap(&lending, &[]).await;
    assert!(pids(&report).contains(&host.executor), "{report}");
    gone(host.executor, LIMIT).await;
    gone(host.pid, LIMIT).await;
    let reached = host.step();

    let lender = Dev::start(&lending).await;
    let goes_on = |lines: &[&str]| {
        let steps = lines.iter().filter_map(|line| line.strip_prefix("LOG v1 ")?.parse::<u64>().ok());
        steps.max().filter(|step| *step > reached)
    };
    dev.log(&run).await.wait_for_lines("step of another executor", goes_on).await;
    assert_eq!(dev.run(&run).await["status"], "running");
    dev.finish().await;
    lender.finish().await;
}
