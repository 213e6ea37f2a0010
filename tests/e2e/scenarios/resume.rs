//! Restarts that keep the work: the example trains for real, is edited, and goes on from its checkpoint.

use serde_json::{Value, json};
use testkit::{Dev, Event, Flag, Project, SdkTrainer, Sse, Stage};

use super::frames::{status, successor};

/// The example, small enough to save a checkpoint within a second: each line of its entry that was replaced.
const SMALL: [(&str, &str); 7] = [
    ("model: \"tiny-gpt\"", "model: \"tiny-gpt:32x1\""),
    ("sums(4000)", "sums(300)"),
    ("maxSteps: 8000", "maxSteps: 1000000"),
    ("batchSize: 64", "batchSize: 16"),
    ("lrSchedulerType: \"cosine\"", "lrSchedulerType: \"constant\""),
    ("loggingSteps: 50", "loggingSteps: 1"),
    ("saveSteps: 400", "saveSteps: 40"),
];

/// The example's `warmupSteps`.
const WARMUP: f64 = 100.0;

/// Edits a file of the project as an editor does: each text must be there once.
pub(crate) fn edit(project: &Project, name: &str, changes: &[(&str, &str)]) {
    let path = project.file(name);
    let mut text = std::fs::read_to_string(&path).expect("the example has it");
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from} in {name}");
        text = text.replace(from, to);
    }
    project.replace(name, &text);
}

fn small_adder() -> Stage {
    let stage = Stage::example("adder");
    edit(&stage.project, "index.ts", &SMALL);
    stage
}

/// The events of a run's job, from the first.
async fn training(dev: &Dev, run: &str) -> Sse {
    let mut events = dev.events().await;
    let known = dev.run(run).await["jobId"].clone();
    let job = match known.as_str() {
        Some(job) => job.to_owned(),
        None => {
            let named = |event: &Event| event.data["run"] == run && event.data["jobId"].is_string();
            events.wait_for("job", named).await.text("jobId").to_owned()
        }
    };
    Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await
}

/// The next step that is logged, with its loss and its learning rate.
async fn logged(training: &mut Sse) -> (u64, f64, f64) {
    let has_loss = |event: &Event| event.name == "training.log" && event.data["loss"].is_number();
    let log = training.wait_for("logged step", has_loss).await;
    let number = |key: &str| log.data[key].as_f64().expect("it is a number");
    (log.data["step"].as_u64().expect("a step"), number("loss"), number("learningRate"))
}

async fn saved(training: &mut Sse) {
    training.wait_for("checkpoint", |event| event.name == "checkpoint.saved").await;
}

/// The frame that tells what is in effect in the successor of `run`.
async fn in_effect(events: &mut Sse, run: &str) -> Event {
    let tells = |event: &Event| {
        event.name == "run"
            && event.data["replaces"] == run
            && event.data["config"][0]["effective"] != Value::Null
    };
    events.wait_for("frame that tells what is in effect", tells).await
}

fn row(path: &str, [before, in_checkpoint, wanted, effective]: [Value; 4]) -> Value {
    json!({
        "path": path, "before": before, "inCheckpoint": in_checkpoint, "wanted": wanted, "effective": effective,
    })
}

async fn end(dev: Dev, mut events: Sse, run: &str) {
    dev.stop_run(run, "now").await;
    status(&mut events, run, "exited").await;
    dev.finish().await;
}

#[tokio::test]
async fn an_edited_learning_rate_goes_on_from_the_checkpoint() {
    let stage = small_adder();
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut before = training(&dev, &run).await;
    saved(&mut before).await;
    edit(&stage.project, "index.ts", &[("learningRate: 0.001", "learningRate: 0.0004")]);
    let restarting = status(&mut events, &run, "restarting").await;
    let next = successor(&mut events, &run).await;

    let successor = dev.run(&next).await;
    let old = dev.run(&run).await;
    let step = successor["resume"]["step"].as_u64().expect("it resumes");
    assert_eq!(successor["resume"]["job"], old["jobId"]);
    assert_eq!((step % 40, &successor["fromScratch"]), (0, &Value::Null), "the checkpoint that was due");
    let said = format!("config.learningRate 0.001 -> 0.0004; its successor resumes at step {step}");
    assert_eq!((restarting.text("reason"), old["reason"].as_str()), (said.as_str(), Some(said.as_str())));

    let told = in_effect(&mut events, &run).await;
    let want = row("config.learningRate", [json!(0.001), json!(0.001), json!(0.0004), json!(0.0004)]);
    assert_eq!(told.data["config"], json!([want]));
    assert_eq!(told.data["resume"], successor["resume"]);
    assert_eq!(dev.run(&next).await["config"], json!([want]));

    let history = training(&dev, &run).await.to_the_end(testkit::LIMIT).await;
    let loss_of = |step: u64| {
        let log = history.iter().find(|event| event.name == "training.log" && event.data["step"] == step);
        log.and_then(|log| log.data["loss"].as_f64()).expect("each step is logged")
    };
    let (begun, left) = (loss_of(1), loss_of(step));
    let (first, loss, rate) = logged(&mut training(&dev, &next).await).await;
    assert_eq!(first, step + 1, "the loss goes on with the next step");
    let warm = (first as f64 / WARMUP).min(1.0);
    assert!((rate - 0.0004 * warm).abs() < 1e-12, "the schedule goes on too, to the new peak: {rate}");
    // One batch differs from the next, but not by as much as training has gained.
    assert!(
        (loss - left).abs() < (begun - left) / 2.0,
        "{begun} at first, {left} then, {loss} when it went on"
    );
    let jobs = dev.jobs().await;
    let job = jobs.iter().find(|job| job["id"] == dev_job(&successor, &told)).expect("its job");
    assert_eq!(job["resumeFrom"], json!({ "jobId": old["jobId"], "step": step }));
    end(dev, events, &next).await;
}

/// The successor's job, which the frame may have told first.
fn dev_job(run: &Value, told: &Event) -> Value {
    if run["jobId"].is_string() { run["jobId"].clone() } else { told.data["jobId"].clone() }
}

#[tokio::test]
async fn another_model_starts_from_scratch_and_says_so() {
    let stage = small_adder();
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    saved(&mut training(&dev, &run).await).await;
    let changes = [("tiny-gpt:32x1", "tiny-gpt:48x1"), ("learningRate: 0.001", "learningRate: 0.0004")];
    edit(&stage.project, "index.ts", &changes);
    let next = successor(&mut events, &run).await;
    let run_now = dev.run(&next).await;
    assert_eq!((&run_now["resume"], &run_now["fromScratch"]), (&Value::Null, &"config.model changed".into()));
    assert_eq!(run_now["reason"], "from scratch: config.model changed");
    let reason = dev.run(&run).await["reason"].clone();
    let said = "its successor starts from scratch: config.model changed";
    assert!(reason.as_str().is_some_and(|reason| reason.ends_with(said)), "{reason}");
    let told = in_effect(&mut events, &run).await;
    let model = [json!("tiny-gpt:32x1"), Value::Null, json!("tiny-gpt:48x1"), json!("tiny-gpt:48x1")];
    let rate = [json!(0.001), Value::Null, json!(0.0004), json!(0.0004)];
    assert_eq!(told.data["config"], json!([row("config.model", model), row("config.learningRate", rate)]));
    assert_eq!(logged(&mut training(&dev, &next).await).await.0, 1);
    end(dev, events, &next).await;
}

#[tokio::test]
async fn a_server_that_is_told_to_starts_every_successor_from_scratch() {
    let stage = small_adder();
    let dev = Dev::options(&stage, &[]).env("MIDRUN_RESTART__FROM", "scratch").start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    saved(&mut training(&dev, &run).await).await;
    edit(&stage.project, "index.ts", &[("learningRate: 0.001", "learningRate: 0.0004")]);
    let next = successor(&mut events, &run).await;
    let run_now = dev.run(&next).await;
    assert_eq!(
        (&run_now["resume"], &run_now["fromScratch"]),
        (&Value::Null, &"restart.from is \"scratch\"".into())
    );
    let (step, _, rate) = logged(&mut training(&dev, &next).await).await;
    assert_eq!(step, 1);
    assert!((rate - 0.0004 / WARMUP).abs() < 1e-12, "the warmup begins anew: {rate}");
    end(dev, events, &next).await;
}

#[tokio::test]
async fn edits_in_a_row_go_on_from_checkpoint_to_checkpoint() {
    let trainer = SdkTrainer::default();
    let stage = Stage::sdk(&trainer);
    let (dev, mut events) = Dev::ready(&stage).await;
    let mut run = dev.running(&mut events).await;
    let mut at = 0;
    for (edits, rate) in [(1, 0.002), (2, 0.003)] {
        saved(&mut training(&dev, &run).await).await;
        stage.project.write("index.ts", &trainer.clone().with("learningRate", rate).entry());
        let next = successor(&mut events, &run).await;
        let resumed = dev.run(&next).await;
        let step = resumed["resume"]["step"].as_u64().expect("it resumes");
        assert!(step > at, "edit {edits}: {step} is beyond {at}");
        assert_eq!(resumed["resume"]["job"], dev.run(&run).await["jobId"]);
        let mut training = training(&dev, &next).await;
        let (first, _, used) = logged(&mut training).await;
        assert_eq!((first, used), (step + 1, rate));
        (run, at) = (next, step);
    }
    end(dev, events, &run).await;
}

/// A trainer whose first checkpoint's callback ends when the flag is raised, and so does an early stop.
fn held(stage: &Stage) -> Flag {
    let flag = stage.flag("go-on");
    let path = json!(flag.path().to_str().expect("a test's paths are text")).to_string();
    stage.project.write("callbacks.ts", &HELD.replace("FLAG", &path));
    flag
}

const HELD: &str = r#"
import { existsSync } from "node:fs";
export const callbacks = {
  onCheckpoint: async ({ step }: { step: number }) => {
    console.log("CHECKPOINT " + step);
    while (!existsSync(FLAG)) await new Promise((later) => setTimeout(later, 5));
  },
};
"#;

#[tokio::test]
async fn an_edit_while_a_run_is_stopping_is_what_its_successor_goes_on_with() {
    let trainer = SdkTrainer::default();
    let stage = Stage::sdk(&trainer);
    let flag = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("CHECKPOINT ").await;
    stage.project.write("index.ts", &trainer.clone().with("learningRate", 0.002).entry());
    status(&mut events, &run, "early-stopping").await;
    stage.project.write("index.ts", &trainer.clone().with("weightDecay", 0.5).entry());
    events.next_named("rebuild").await;
    flag.raise();
    let next = successor(&mut events, &run).await;
    let told = in_effect(&mut events, &run).await;
    // Nobody had set it, and the checkpoint was trained with the default.
    let want = row("config.weightDecay", [Value::Null, json!(0.01), json!(0.5), json!(0.5)]);
    assert_eq!(told.data["config"], json!([want]), "with the edit in between nobody trained");
    let step = told.data["resume"]["step"].as_u64().expect("it resumes");
    assert_eq!(logged(&mut training(&dev, &next).await).await.0, step + 1);
    end(dev, events, &next).await;
}

#[tokio::test]
async fn a_checkpoint_that_is_gone_fails_the_run_and_says_so() {
    let trainer = SdkTrainer::default();
    let stage = Stage::sdk(&trainer);
    let flag = held(&stage);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("CHECKPOINT ").await;
    stage.project.write("index.ts", &trainer.clone().with("learningRate", 0.002).entry());
    status(&mut events, &run, "early-stopping").await;
    stage.project.write("callbacks.ts", "export const callbacks = ;\n");
    events.next_named("error").await;
    flag.raise();
    status(&mut events, &run, "restarting").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it had a job").to_owned();
    let mut news = Sse::open(&dev.client, &format!("/api/jobs/{job}/events"), None).await;
    news.next_named("training.cancelled").await;
    let jobs = stage.project.dir().join(".midrun/control-plane/jobs");
    std::fs::remove_dir_all(jobs.join(&job).join("checkpoints")).expect("it saved checkpoints");
    stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v2"));
    let failed = |event: &Event| event.data["replaces"] == run.as_str() && event.data["status"] == "exited";
    let failed = events.wait_for("successor that failed", failed).await;
    let reason = failed.text("reason");
    assert!(reason.starts_with("cannot go on from step ") && reason.contains("was removed"), "{reason}");
    assert_eq!(dev.run(failed.text("run")).await["endedBy"], "failed");
    assert_eq!(dev.jobs().await.len(), 1, "nothing was started in its place");
    dev.finish().await;
}
