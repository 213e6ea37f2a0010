//! Config edits: the run stops at its next checkpoint and is started again on the new code, by the server.

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection};
use testkit::{Brands, Checkpoints, Dev, Layout, SdkTrainer, Stage, Ticker};

use super::frames::{decided, decision, pids, status, successor, swapped};
use super::records::{STOP, SWAP, records, signals};
use super::ticks::{count, tags_of_each_step_once};

/// A stage with a ticker that has its checkpoint when the flag is raised.
fn held(stage: &Stage) -> (Ticker, testkit::Flag) {
    let checkpoint = stage.flag("checkpoint");
    let trainer = Ticker { checkpoints: Checkpoints::After(checkpoint.clone()), ..Ticker::default() };
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &trainer.entry());
    (trainer, checkpoint)
}

async fn job(dev: &Dev, run: &str) -> Value {
    let id = dev.run(run).await["jobId"].clone();
    let jobs = dev.jobs().await;
    jobs.iter().find(|job| job["id"] == id).unwrap_or_else(|| panic!("no job {id} in {jobs:?}")).clone()
}

#[tokio::test]
async fn a_config_edit_restarts_after_the_checkpoint_with_the_new_config_at_the_control_plane() {
    let trainer = SdkTrainer::default();
    let stage = Stage::sdk(&trainer);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut log = dev.log(&run).await;
    log.wait_for_start("LOG v1 ").await;
    assert_eq!(job(&dev, &run).await["config"]["learningRate"], 0.001);
    stage.project.write("index.ts", &trainer.with("learningRate", 0.0003).entry());
    let frame = events.next_named("rebuild").await;
    let pid = dev.run(&run).await["pid"].as_u64().expect("it has a process");
    assert_eq!((pids(&frame, "restartTargets"), pids(&frame, "hotSwapTargets")), (vec![pid], vec![]));
    assert_eq!(decision(&frame, &run), decided("restart", "config.learningRate 0.001 -> 0.0003"));
    let change = json!([{ "path": "config.learningRate", "from": 0.001, "to": 0.0003 }]);
    assert_eq!(frame.data["configDiff"], change);
    let stopping = status(&mut events, &run, "early-stopping").await;
    assert_eq!(stopping.text("reason"), "config.learningRate 0.001 -> 0.0003");
    let next = successor(&mut events, &run).await;

    let ended = dev.run(&run).await;
    assert_eq!(
        (&ended["status"], &ended["exitCode"], &ended["endedBy"]),
        (&"exited".into(), &0.into(), &"replaced".into())
    );
    assert_eq!(
        (&ended["replacedBy"], &dev.run(&next).await["replaces"]),
        (&next.as_str().into(), &run.as_str().into())
    );
    assert_eq!(log.exit().await, 0);
    let lines = log.lines();
    // A slow save may come after the run has given up waiting for the end of its job; losses are told until then.
    let last =
        lines.iter().rfind(|line| line.starts_with("CHECKPOINT v1 ")).expect("it stops at a checkpoint");
    let last: Vec<&str> = last.split(' ').collect();
    // The executor saves once more when it is cancelled, and that checkpoint is told too.
    let checkpoint: u64 = last[2].parse().expect("a step");
    assert_eq!(ended["lastCheckpoint"], checkpoint);
    let log_on_disk = records(&stage, &run);
    let asked = log_on_disk.iter().skip_while(|record| record["phase"] != "waiting");
    let waited = asked.take_while(|record| record["phase"] != "cancelling");
    let steps = waited.filter(|record| record["type"] == "checkpoint").map(|record| record["step"].as_u64());
    let steps: Vec<_> = steps.collect();
    // None, if the checkpoint's callback was under way when the stop was asked for.
    assert!(steps.len() <= 1 && steps.iter().flatten().all(|step| step % 20 == 0), "{log_on_disk:?}");

    let mut log = dev.log(&next).await;
    log.wait_for_start("LOG v1 ").await;
    let old = ended["jobId"].as_str().expect("it had a job");
    let mut news = testkit::Sse::open(&dev.client, &format!("/api/jobs/{old}/events"), None).await;
    news.next_named("training.cancelled").await;
    assert_eq!(job(&dev, &run).await["status"], "cancelled");
    let new = job(&dev, &next).await;
    assert_eq!((&new["status"], &new["config"]["learningRate"]), (&"running".into(), &0.0003.into()));
    assert_eq!(dev.jobs().await.len(), 2);
    assert_eq!(signals(&stage, &run), [STOP]);
    dev.stop_run(&next, "now").await;
    status(&mut events, &next, "exited").await;
    dev.finish().await;
}

/// The registry's table of runs, on a disk that refuses what is written to it when it is told to. All else can be written.
struct Table(SqliteConnection);

impl Table {
    async fn of(stage: &Stage) -> Self {
        let file = SqliteConnectOptions::new().filename(stage.project.dir().join(".midrun/runs.db"));
        Self(file.connect().await.expect("the registry has made it"))
    }

    async fn refuse(&mut self) {
        for event in ["insert", "update"] {
            let refuse = format!(
                "create trigger refuse_{event} before {event} on runs begin select raise(abort, 'disk full'); end"
            );
            sqlx::query(AssertSqlSafe(refuse)).execute(&mut self.0).await.expect("it can be written to");
        }
    }

    async fn accept(&mut self) {
        for event in ["insert", "update"] {
            let accept = format!("drop trigger refuse_{event}");
            sqlx::query(AssertSqlSafe(accept)).execute(&mut self.0).await.expect("it can be written to");
        }
    }
}

#[tokio::test]
async fn a_restart_that_cannot_be_put_on_record_comes_when_it_can() {
    let stage = Stage::bare(Layout::Midrun);
    let (trainer, checkpoint) = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut table = Table::of(&stage).await;

    table.refuse().await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer }.entry());
    status(&mut events, &run, "early-stopping").await;
    // Nobody could restart it after a crash, so it trains on.
    status(&mut events, &run, "running").await;
    assert_eq!(signals(&stage, &run), [0_i64; 0]);
    table.accept().await;
    status(&mut events, &run, "early-stopping").await;
    dev.log(&run).await.wait_for_line("EARLY-STOP-ASKED").await;

    table.refuse().await;
    checkpoint.raise();
    let waits = events.wait_for("successor that waits", |event| {
        event.name == "run" && event.data["replaces"] == run && event.data["status"] == "starting"
    });
    waits.await;
    table.accept().await;
    let next = successor(&mut events, &run).await;
    assert_eq!(dev.runs().await.len(), 2);
    assert_eq!(signals(&stage, &run), [STOP]);
    dev.log(&next).await.wait_for_start("TICK v1 ").await;
    dev.finish().await;
}

#[tokio::test]
async fn edits_while_a_run_is_stopping_signal_nothing_and_the_newest_one_starts() {
    let stage = Stage::bare(Layout::Midrun);
    let (trainer, checkpoint) = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer.clone() }.entry());
    status(&mut events, &run, "early-stopping").await;
    let nothing = decided("nothing", "already stopping; the newest good build starts next");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    assert_eq!(decision(&events.next_named("rebuild").await, &run), nothing);
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0002, ..trainer }.entry());
    let newest = events.next_named("rebuild").await;
    assert_eq!(decision(&newest, &run), nothing);
    checkpoint.raise();
    let next = successor(&mut events, &run).await;
    let started = dev.run(&next).await;
    assert_eq!(
        (&started["contentHash"], &started["configHash"]),
        (&newest.data["contentHash"], &newest.data["configHash"])
    );
    assert_eq!(signals(&stage, &run), [STOP], "one early stop, however often it was saved");
    let mut log = dev.log(&run).await;
    log.exit().await;
    let lines = log.lines();
    assert_eq!((count(&lines, "EARLY-STOP-ASKED"), count(&lines, "REPLACED")), (1, 0));
    assert_eq!(tags_of_each_step_once(&lines), ["v1"]);
    dev.log(&next).await.wait_for_start("TICK v2 ").await;
    assert_eq!(dev.runs().await.len(), 2);
    dev.finish().await;
}

#[tokio::test]
async fn a_restart_waits_for_the_next_good_build() {
    let stage = Stage::bare(Layout::Midrun);
    let (trainer, checkpoint) = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer.clone() }.entry());
    status(&mut events, &run, "early-stopping").await;
    stage.project.write("callbacks.ts", "export const onTick = ;\n");
    events.next_named("error").await;
    checkpoint.raise();
    let waiting = status(&mut events, &run, "restarting").await;
    assert!(waiting.text("reason").ends_with("waits for the next good build"), "{waiting}");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let next = successor(&mut events, &run).await;
    dev.log(&next).await.wait_for_start("TICK v2 ").await;
    dev.finish().await;
}

#[tokio::test]
async fn a_run_that_its_user_stops_is_not_restarted() {
    let stage = Stage::bare(Layout::Midrun);
    let (trainer, checkpoint) = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..trainer.clone() }.entry());
    status(&mut events, &run, "early-stopping").await;
    dev.stop_run(&run, "checkpoint").await;
    checkpoint.raise();
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 0);
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0002, ..trainer }.entry());
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["decisions"], json!([]));
    let runs = dev.runs().await;
    assert_eq!((runs.len(), &runs[0]["endedBy"]), (1, &"user".into()), "{runs:?}");
    assert_eq!(signals(&stage, &run), [STOP]);
    dev.finish().await;
}

#[tokio::test]
async fn a_run_that_ends_badly_is_not_restarted() {
    let fails = "process.on(\"SIGTERM\", () => process.exit(3));\n".to_owned();
    let stage = Stage::ticker(&Ticker { module_code: fails.clone(), ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let edited = Ticker { module_code: fails, learning_rate: 0.0003, ..Ticker::default() };
    stage.project.write("index.ts", &edited.entry());
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 3);
    assert_eq!(exited.text("reason"), "not restarted: the early stop failed (exit status 3)");
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    assert_eq!(events.next_named("rebuild").await.data["decisions"], json!([]));
    assert_eq!(dev.runs().await.len(), 1);
    dev.finish().await;
}

#[tokio::test]
async fn a_trainer_without_brands_is_restarted_by_any_edit() {
    let stage = Stage::ticker(&Ticker { brands: Brands::None, ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let manifest = dev.client.get("/api/manifest").await.expect(200).json();
    assert_eq!((&manifest["trainer"]["name"], &manifest["configHash"]), (&"ticker".into(), &Value::Null));
    let run = dev.running(&mut events).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let frame = events.next_named("rebuild").await;
    let why = "this trainer does not tell its config, so a change to it cannot be ruled out";
    assert_eq!(decision(&frame, &run), decided("restart", why));
    let next = successor(&mut events, &run).await;
    assert_eq!(signals(&stage, &run), [STOP]);
    let mut log = dev.log(&run).await;
    assert_eq!(log.exit().await, 0);
    assert_eq!(count(&log.lines(), "CANCELLED"), 1, "it cannot wait for a checkpoint, so it is cancelled");
    dev.log(&next).await.wait_for_start("TICK v2 ").await;
    dev.finish().await;
}

#[tokio::test]
async fn hot_only_says_what_would_have_restarted_and_goes_on_swapping() {
    let stage = Stage::ticker(&Ticker::default());
    let dev = Dev::options(&stage, &["--hot-only"]).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
    let frame = events.next_named("rebuild").await;
    assert_eq!(decision(&frame, &run), decided("would-restart", "config.learningRate 0.001 -> 0.0003"));
    assert_eq!((&frame.data["restart"], &frame.data["restartTargets"]), (&false.into(), &json!([])));
    stage.project.write("index.ts", &Ticker::default().entry());
    let same = events.next_named("rebuild").await;
    assert_eq!(decision(&same, &run), decided("nothing", "same bytes"));
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    assert_eq!(signals(&stage, &run), [SWAP]);
    let lines = dev.log(&run).await.lines();
    assert_eq!(count(&lines, "EARLY-STOP-ASKED"), 0);
    dev.finish().await;
}

#[tokio::test]
async fn a_run_of_a_request_is_stopped_and_left_for_its_client_to_start_again() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let mut train = dev.train().await;
    train.wait_for("TICK v1 ", 0).await;
    let (run, pid) = (train.run.clone(), train.pid);
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["restartTargets"], json!([{ "pid": pid, "run": run }]));
    let (output, trailer) = train.to_the_end(testkit::LIMIT).await;
    assert_eq!(trailer, "exit=0");
    let output = String::from_utf8(output).expect("the ticker writes text");
    assert!(output.trim_end().lines().last().is_some_and(|line| line.starts_with("CHECKPOINT ")), "{output}");
    let exited = status(&mut events, &run, "exited").await;
    assert!(exited.text("reason").starts_with("config.learningRate 0.001 -> 0.0003"), "{exited}");
    // Its client is this test, which starts the next one.
    let mut train = dev.train().await;
    train.wait_for("TICK v1 ", 0).await;
    assert_eq!(dev.runs().await.len(), 2, "the server started none by itself");
    let pid = train.pid;
    train.close();
    testkit::gone(pid, testkit::LIMIT).await;
    dev.finish().await;
}

#[tokio::test]
async fn what_was_asked_of_a_run_stands_in_its_log_in_order() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    swapped(&mut events, &run).await;
    stage.project.write("index.ts", &Ticker { learning_rate: 0.0003, ..Ticker::default() }.entry());
    successor(&mut events, &run).await;
    let records = records(&stage, &run);
    let seqs: Vec<_> = records.iter().map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=records.len() as u64).map(Some).collect::<Vec<_>>(), "counted from 1 without gaps");
    let life = records.iter().filter(|record| record["type"] != "output");
    let life: Vec<&str> = life.map(|record| record["type"].as_str().unwrap_or_default()).collect();
    let want =
        ["spawned", "ready", "job", "signal", "swap", "signal", "earlyStop", "earlyStop", "finished", "exit"];
    assert_eq!(life, want);
    dev.finish().await;
}
