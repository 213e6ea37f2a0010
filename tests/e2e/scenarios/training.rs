//! Real training under the loop.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use testkit::{Dev, Event, SdkTrainer, Sse, Stage, Topology};

use super::frames::status;
use super::records::{SWAP, signals};

/// How often the callbacks are swapped, and for how long is trained: long enough for that many swaps, and not much
/// longer. The executors get only what time the swaps leave.
struct Course {
    swaps: usize,
    steps: u64,
}

impl Course {
    /// What a swap does to the training is the runner's affair, which is the same process in both topologies.
    const fn of(topology: Topology) -> Self {
        match topology {
            Topology::One => Self { swaps: 1_000, steps: 40_000 },
            Topology::Six => Self { swaps: 250, steps: 10_000 },
        }
    }
}

const LOGGED_EACH: u64 = 50;

/// SHA-256 of the weights of the job's last checkpoint, read from the disk.
fn weights(stage: &Stage, job: &str, steps: u64) -> String {
    let folder = stage.project.dir().join(".midrun/control-plane/jobs").join(job).join("checkpoints");
    let path = folder.join(format!("step-{steps}")).join("model.safetensors");
    digest(&path)
}

fn digest(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Callbacks that differ from edit to edit in what they do and in how long they take.
fn random_callbacks(edit: usize, state: &mut u64) -> String {
    let base = SdkTrainer::callbacks(&format!("e{edit}"));
    let work = random(state) % 3;
    let awaited = match random(state) % 3 {
        0 => "await null;",
        1 => "await new Promise((settle) => setImmediate(settle));",
        _ => "",
    };
    base.replace("onCheckpoint:", &format!("onFailed: async () => {{ {awaited} {work}; }},\n  onCheckpoint:"))
}

/// The `swap` event of `hash`.
fn taken(event: &Event, run: &str, hash: &str) -> bool {
    event.name == "swap" && event.data["run"] == run && event.text("contentHash") == hash
}

#[tokio::test]
async fn many_swaps_leave_the_weights_as_they_would_have_been() {
    let Course { swaps, steps } = Course::of(Topology::of_this_binary());
    let trainer =
        SdkTrainer::default().with("maxSteps", steps).with("loggingSteps", LOGGED_EACH).with("saveSteps", 0);
    let stage = Stage::sdk(&trainer);
    // The same config in an entry that nobody edits.
    stage.project.write("quiet/callbacks.ts", &SdkTrainer::callbacks("quiet"));
    stage.project.write("quiet/index.ts", &trainer.entry());
    let executor = json!(["nice", "-n", "19", testkit::midrun(), "executor"]);
    let dev =
        Dev::options(&stage, &[]).env("MIDRUN_CONTROL_PLANE__EXECUTOR", executor.to_string()).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let swapped = dev.running(&mut events).await;
    let quiet = dev.start_run(&json!({ "file": "src/midrun/quiet/index.ts" })).await;
    let quiet = quiet["id"].as_str().expect("a run has an id").to_owned();
    status(&mut events, &quiet, "running").await;
    dev.log(&swapped).await.wait_for_start("LOG v1 ").await;

    let begun = Instant::now();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for edit in 1..=swaps {
        stage.project.write("callbacks.ts", &random_callbacks(edit, &mut state));
        let frame =
            events.wait_for("rebuild", |event| event.name == "rebuild" || ended(event, &swapped)).await;
        assert_eq!(frame.name, "rebuild", "the run ended after {edit} swaps; it must last longer: {frame}");
        let hash = frame.text("contentHash").to_owned();
        let ack =
            events.wait_for("swap", |event| taken(event, &swapped, &hash) || ended(event, &swapped)).await;
        assert_eq!((ack.name.as_str(), &ack.data["ok"]), ("swap", &true.into()), "swap {edit}: {ack}");
        events.forget();
    }
    println!("{swaps} swaps in {:?}", begun.elapsed());
    let mut runs = [swapped.clone(), quiet.clone()];
    let limit = Duration::from_secs(900);
    while runs.iter().any(|run| !run.is_empty()) {
        let end = events
            .wait_within(limit, "end of both runs", |event| runs.iter().any(|run| ended(event, run)))
            .await;
        assert_eq!(end.data["exitCode"], 0, "{end}");
        runs.iter_mut().filter(|run| *run == end.text("run")).for_each(String::clear);
    }
    assert_eq!(signals(&stage, &swapped), vec![SWAP; swaps]);
    assert!(signals(&stage, &quiet).is_empty());
    let job = |run: serde_json::Value| run["jobId"].as_str().expect("it had a job").to_owned();
    let jobs = [job(dev.run(&swapped).await), job(dev.run(&quiet).await)];
    assert_eq!(weights(&stage, &jobs[0], steps), weights(&stage, &jobs[1], steps), "the weights differ");
    for run in [&swapped, &quiet] {
        assert_eq!(
            logged_steps(&dev, run).await,
            expected_steps(steps),
            "run {run}: a step was lost or repeated"
        );
    }
    dev.finish().await;
}

/// HTTP's threads let their timers be late while they idle, and what a thread starts inherits that.
#[tokio::test]
async fn whatever_the_server_starts_has_exact_timers() {
    let stage = Stage::sdk(&SdkTrainer::default().with("maxSteps", 1_000_000_000_u64));
    // Each writes down what it got before it becomes what it is for: another process may not read that.
    let told = stage.home.dir().join("slack");
    let wrapped = |name: &str, program: &str| {
        let script = format!(
            "echo \"$(cat /proc/self/timerslack_ns) $*\" >> {}\nexec {program} \"$@\"",
            told.display()
        );
        let path = stage.home.dir().join(name);
        testkit::program(&path, &script);
        path.to_str().expect("it is UTF-8").to_owned()
    };
    let executor = json!([wrapped("run-executor", &testkit::midrun().display().to_string()), "executor"]);
    let dev = Dev::options(&stage, &[])
        .env("MIDRUN_RUN__NODE", wrapped("run-node", "node"))
        .env("MIDRUN_CONTROL_PLANE__EXECUTOR", executor.to_string())
        .start()
        .await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let own = std::fs::read_to_string("/proc/self/timerslack_ns").expect("one may read one's own");
    let told = std::fs::read_to_string(told).expect("they wrote it down");
    for part in ["--artifact", "executor", "--experimental-vm-modules"] {
        assert!(told.lines().any(|line| line.contains(part)), "no {part} in {told}");
    }
    for line in told.lines() {
        assert!(line.starts_with(own.trim()), "{line}; here {own}");
    }
    dev.finish().await;
}

fn ended(event: &Event, run: &str) -> bool {
    event.name == "run" && event.data["run"] == run && event.data["status"] == "exited"
}

async fn logged_steps(dev: &Dev, run: &str) -> Vec<u64> {
    let mut log = dev.log(run).await;
    log.exit().await;
    let step = |line: &String| line.strip_prefix("LOG ")?.split(' ').nth(1)?.parse().ok();
    log.lines().iter().filter_map(step).collect()
}

/// The first step, then each that is due; the last one is logged too.
fn expected_steps(steps: u64) -> Vec<u64> {
    std::iter::once(1).chain((1..=steps / LOGGED_EACH).map(|count| count * LOGGED_EACH)).collect()
}

#[tokio::test]
async fn the_example_shows_a_loss_soon_and_takes_a_new_callback() {
    let stage = Stage::example("adder");
    let (dev, mut events) = Dev::ready(&stage).await;
    let asked = Instant::now();
    let run = dev.running(&mut events).await;
    let job = events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
    let target = format!("/api/jobs/{}/events", job.text("jobId"));
    let mut training = Sse::open(&dev.client, &target, None).await;
    let has_loss = |event: &Event| event.name == "training.log" && event.data["loss"].is_number();
    let log = training.wait_for("loss", has_loss).await;
    println!("first loss {:?} after the start was asked for", asked.elapsed());
    assert!(log.data["loss"].as_f64().is_some_and(|loss| loss > 0.0), "{log}");
    let saved = |event: &Event| event.name == "checkpoint.saved";
    training.wait_within(Duration::from_secs(240), "checkpoint", saved).await;
    dev.stop_run(&run, "now").await;
    status(&mut events, &run, "exited").await;
    dev.finish().await;
}
