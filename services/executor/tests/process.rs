//! The executor as a process: its lines, its files, its signals and its exit codes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a process may take to end once nothing keeps it.
const LIMIT: Duration = Duration::from_secs(60);

fn config(change: Value) -> Value {
    let sums: Vec<String> =
        (0..10).flat_map(|a| (0..10).map(move |b| format!("{a}+{b}={}", a + b))).collect();
    let mut config = json!({
        "model": "tiny-gpt:16x1", "maxSteps": 30, "batchSize": 8, "learningRate": 0.01, "warmupSteps": 3,
        "lrSchedulerType": "linear", "loggingSteps": 5, "evalSteps": 10, "saveSteps": 10, "seed": 1,
        "datasetSource": {"type": "inline", "data": sums.join("\n"), "answerAfter": "="},
    });
    config.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    config
}

fn executor(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
    command.env("MIDRUN_JOB_DIR", folder).env_remove("MIDRUN_PROJECT_DIR");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn feed(child: &mut Child, input: &Value) {
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    match stdin.write_all(input.to_string().as_bytes()) {
        // One that refuses its arguments may have ended already.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.expect("the executor reads its stdin"),
    }
}

fn run(command: &mut Command, input: &Value) -> (Output, Vec<Value>) {
    let mut child = command.spawn().expect("the executor starts");
    feed(&mut child, input);
    let output = child.wait_with_output().expect("the executor ends");
    let lines = String::from_utf8(output.stdout.clone()).expect("stdout is text");
    let lines = lines.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    (output, lines)
}

fn train(folder: &Path, job: Value) -> (i32, Vec<Value>) {
    let (output, events) = run(&mut executor(folder), &job);
    (output.status.code().expect("it exits by itself"), events)
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("every event has a type")).collect()
}

fn steps<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).map(|event| &event["step"]).collect()
}

fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoints/step-{step}"))
}

/// The bytes of all tensors of a checkpoint.
fn tensors(folder: &Path, step: u64) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"]
        .map(|name| std::fs::read(checkpoint(folder, step).join(name)).expect("the checkpoint has the file"))
}

fn resume(config: Value, from: &Path, step: u64) -> Value {
    json!({"jobId": "next", "config": config, "resumeFrom": {"dir": checkpoint(from, step), "step": step}})
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_run_says_what_it_does_and_keeps_what_it_says() {
    let folder = temporary();
    let (code, events) =
        train(folder.path(), json!({"jobId": "j1", "config": config(json!({})), "resumeFrom": null}));
    assert_eq!(code, 0, "{events:?}");
    assert_eq!(events[0]["type"], "training.started");
    assert_eq!((&events[0]["examples"], &events[0]["heldOut"]), (&json!(90), &json!(10)));
    assert_eq!(steps(&events, "training.log"), [1, 5, 10, 15, 20, 25, 30]);
    assert_eq!(steps(&events, "checkpoint.saved"), [10, 20, 30]);
    let last = events.last().expect("there are events");
    assert_eq!(last["type"], "training.completed");
    assert_eq!((&last["metrics"]["heldOut"], &last["metrics"]["step"]), (&json!(10), &json!(30)));
    assert!(last["metrics"]["accuracy"].as_f64().is_some_and(|accuracy| (0.0..=1.0).contains(&accuracy)));

    let logs: Vec<_> = events.iter().filter(|event| event["type"] == "training.log").collect();
    assert!(logs.iter().all(|log| log["loss"].is_f64() && log["learningRate"].is_f64()));
    assert!(
        logs.iter().all(|log| log["evalLoss"].is_f64() == (log["step"].as_u64().expect("a step") % 10 == 0))
    );
    assert!(logs[6]["loss"].as_f64() < logs[0]["loss"].as_f64(), "{logs:?}");

    let artifacts = last["artifacts"].as_array().expect("a list");
    let names: Vec<_> = artifacts.iter().map(|artifact| artifact["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["model.safetensors", "optimizer.safetensors", "state.json"]);
    for artifact in artifacts {
        let path = folder.path().join(artifact["path"].as_str().expect("a path"));
        assert_eq!(
            std::fs::metadata(path).expect("the file is there").len(),
            artifact["bytes"].as_u64().expect("a size")
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path().join("checkpoints")).expect("a folder").collect();
    assert_eq!(left.len(), 3, "nothing half written is left: {left:?}");
}

#[test]
fn a_config_alone_will_do() {
    let folder = temporary();
    let (code, events) = train(folder.path(), config(json!({"maxSteps": 2})));
    assert_eq!((code, kinds(&events).last().copied()), (0, Some("training.completed")), "{events:?}");
}

#[test]
fn an_unknown_key_fails_the_job_and_is_named() {
    let folder = temporary();
    let (code, events) = train(folder.path(), json!({"config": config(json!({"learningrate": 1}))}));
    assert_eq!((code, kinds(&events)), (1, vec!["training.failed"]));
    let error = events[0]["error"].as_str().expect("a text");
    assert!(error.starts_with("unknown config key learningrate; this executor knows model, "), "{error}");
}

#[test]
fn whatever_is_wrong_with_stdin_is_a_failed_job() {
    let folder = temporary();
    let (code, events) = train(folder.path(), json!([1, 2]));
    assert_eq!((code, kinds(&events)), (1, vec!["training.failed"]));
    assert!(events[0]["error"].as_str().expect("a text").starts_with("stdin does not hold a job"));
}

#[test]
fn a_job_without_a_folder_fails() {
    let folder = temporary();
    let (_, events) = run(executor(folder.path()).env_remove("MIDRUN_JOB_DIR"), &config(json!({})));
    assert!(events[0]["error"].as_str().expect("a text").starts_with("MIDRUN_JOB_DIR is not set"));
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    let folder = temporary();
    let (output, events) = run(executor(folder.path()).arg("--train"), &json!({}));
    assert_eq!((output.status.code(), events.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: "));
}

#[test]
fn a_dry_run_trains_one_step_and_keeps_nothing() {
    let folder = temporary();
    let (code, events) = train(folder.path(), config(json!({"dryRun": true, "saveSteps": 1})));
    assert_eq!(code, 0);
    assert_eq!(kinds(&events), ["training.started", "training.log", "training.completed"]);
    assert_eq!((&events[1]["step"], &events[2]["metrics"]["dryRun"]), (&json!(1), &json!(true)));
    assert_eq!(events[2]["artifacts"], json!([]));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let (whole, resumed) = (temporary(), temporary());
    let (_, all) = train(whole.path(), config(json!({})));
    let (code, rest) = train(resumed.path(), resume(config(json!({})), whole.path(), 10));
    assert_eq!((code, &rest[0]["resumedFrom"]), (0, &json!(10)), "{rest:?}");
    assert_eq!(tensors(whole.path(), 20), tensors(resumed.path(), 20));
    assert_eq!(tensors(whole.path(), 30), tensors(resumed.path(), 30));
    let after = |events: &[Value]| -> Vec<(Value, Value)> {
        let logs = events
            .iter()
            .filter(|event| event["type"] == "training.log" && event["step"].as_u64() > Some(10));
        logs.map(|log| (log["step"].clone(), log["loss"].clone())).collect()
    };
    assert_eq!(after(&all), after(&rest));
    assert_eq!(all.last().map(|event| &event["metrics"]), rest.last().map(|event| &event["metrics"]));
}

#[test]
fn only_resumable_keys_may_change() {
    let (first, second) = (temporary(), temporary());
    train(first.path(), config(json!({"maxSteps": 10})));
    let changed = config(json!({"maxSteps": 12, "learningRate": 0.001, "saveSteps": 1}));
    let (code, events) = train(second.path(), resume(changed, first.path(), 10));
    assert_eq!((code, steps(&events, "checkpoint.saved")), (0, vec![&json!(11), &json!(12)]), "{events:?}");

    let failed = |config, step| {
        let (code, events) = train(second.path(), resume(config, first.path(), step));
        assert_eq!((code, kinds(&events)), (1, vec!["training.failed"]));
        events[0]["error"].as_str().expect("a text").to_owned()
    };
    let error = failed(config(json!({"batchSize": 4, "model": "tiny-gpt:32x1"})), 10);
    assert!(error.contains("because model, batchSize differ"), "{error}");
    let fixed = [
        ("model", json!("tiny-gpt:32x1")),
        ("batchSize", json!(4)),
        ("maxLength", json!(32)),
        ("seed", json!(2)),
        ("dryRun", json!(true)),
    ];
    for (key, value) in fixed {
        let error = failed(config(json!({key: value, "learningRate": 0.001})), 10);
        assert!(error.contains(&format!("because {key} differ")), "{error}");
    }
    let error = failed(config(json!({"colour": "red"})), 10);
    assert!(error.starts_with("unknown config key colour; "), "{error}");
    let error = failed(config(json!({"datasetSource": {"type": "inline", "data": "1\n2\n3"}})), 10);
    assert!(error.contains("the examples of datasetSource are not the ones it learned"), "{error}");
    let error = failed(config(json!({})), 11);
    assert!(error.contains("step-11"), "{error}");
    std::fs::write(checkpoint(first.path(), 10).join("model.safetensors"), "no")
        .expect("the file is writable");
    let error = failed(config(json!({})), 10);
    assert!(error.contains("model.safetensors"), "{error}");
}

/// What a run of `config` says that goes on from the checkpoint at step 10 in `from`.
fn go_on(from: &Path, change: &Value) -> Vec<Value> {
    let folder = temporary();
    let (code, events) = train(folder.path(), resume(config(change.clone()), from, 10));
    assert_eq!(code, 0, "{change}: {events:?}");
    assert_eq!(events[0]["resumedFrom"], 10, "{change}");
    events
}

#[test]
fn each_resumable_key_takes_effect_where_the_run_goes_on() {
    let first = temporary();
    let (_, events) = train(first.path(), config(json!({})));
    let declared = events[0]["resumableKeys"].as_array().expect("a list").clone();
    let unchanged = go_on(first.path(), &json!({}));
    let after = |events: &[Value], kind: &str, key: &str| -> Vec<Value> {
        let of_kind =
            events.iter().filter(|event| event["type"] == kind && event["step"].as_u64() > Some(10));
        of_kind.map(|event| event[key].clone()).collect()
    };
    // For each key, a value, and where it shows: which field of which events, from step 11 on.
    let table = [
        ("maxSteps", json!(17), "training.completed", "metrics"),
        ("learningRate", json!(0.002), "training.log", "learningRate"),
        ("saveSteps", json!(7), "checkpoint.saved", "step"),
        ("evalSteps", json!(4), "training.log", "evalLoss"),
        ("loggingSteps", json!(1), "training.log", "step"),
        ("warmupSteps", json!(20), "training.log", "learningRate"),
        ("weightDecay", json!(5.5), "training.log", "loss"),
        ("lrSchedulerType", json!("constant"), "training.log", "learningRate"),
        ("maxGradNorm", json!(0.001), "checkpoint.saved", "artifacts"),
    ];
    let keys: Vec<Value> = table.iter().map(|(key, ..)| json!(key)).collect();
    assert!(
        declared.len() == keys.len() && declared.iter().all(|key| keys.contains(key)),
        "the table has each declared key: {declared:?}"
    );
    for (key, value, kind, field) in table {
        let events = go_on(first.path(), &json!({key: value}));
        assert_eq!(events[0]["config"][key], value, "what is in effect is told");
        assert!(steps(&events, "training.log").iter().all(|step| step.as_u64() > Some(10)), "{key}");
        let shown = |events: &[Value]| match kind {
            "training.completed" => vec![events.last().expect("there are events")[field]["step"].clone()],
            _ => after(events, kind, field),
        };
        assert_ne!(shown(&events), shown(&unchanged), "{key} shows in {field} of {kind}");
    }
    let rates = after(&go_on(first.path(), &json!({"learningRate": 0.002})), "training.log", "learningRate");
    let before = after(&unchanged, "training.log", "learningRate");
    let share = |rates: &[Value], at: usize| rates[at].as_f64().expect("a number");
    for at in 0..before.len() {
        let expected = share(&before, at) * 0.2;
        assert!((share(&rates, at) - expected).abs() < 1e-9, "a fifth of the rate: {rates:?} {before:?}");
    }
}

#[test]
fn more_steps_go_on_and_fewer_than_were_done_complete_at_once() {
    let first = temporary();
    train(first.path(), config(json!({"maxSteps": 10})));
    let events = go_on(first.path(), &json!({"maxSteps": 12, "loggingSteps": 1}));
    assert_eq!(steps(&events, "training.log"), [11, 12], "maxSteps is the total");
    let events = go_on(first.path(), &json!({"maxSteps": 5}));
    assert_eq!(events.last().map(|event| &event["metrics"]["step"]), Some(&json!(10)), "{events:?}");
}

/// A run that is stopped before it can be complete, and what it still said.
struct Stopped {
    events: Vec<Value>,
    code: Option<i32>,
}

fn wait(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => return status.code(),
            None if Instant::now() < deadline => std::thread::yield_now(),
            None => {
                child.kill().expect("it can be killed");
                panic!("the executor did not end");
            }
        }
    }
}

fn terminate(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status().expect("kill starts");
    assert!(status.success());
}

fn lines(output: ChildStdout) -> impl Iterator<Item = Value> {
    BufReader::new(output).lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
}

fn stop_after(folder: &Path, job: &Value, step: u64) -> Stopped {
    let mut child = executor(folder).spawn().expect("the executor starts");
    feed(&mut child, job);
    let mut events = Vec::new();
    for event in lines(child.stdout.take().expect("stdout is a pipe")) {
        if event["type"] == "training.log" && event["step"] == step {
            terminate(&child);
        }
        events.push(event);
    }
    Stopped { events, code: wait(child) }
}

#[test]
fn sigterm_saves_a_checkpoint_from_which_the_run_goes_on_exactly() {
    let (stopped, resumed, whole) = (temporary(), temporary(), temporary());
    let config = |steps: u64| {
        config(json!({"maxSteps": steps, "saveSteps": 0, "evalSteps": 0, "lrSchedulerType": "constant"}))
    };
    let endless = 1_000_000_000;
    let Stopped { events, code } = stop_after(stopped.path(), &config(endless), 25);
    assert_eq!(code, Some(0), "{events:?}");
    let [.., saved, last] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&saved["type"], &last["type"]), (&json!("checkpoint.saved"), &json!("executor.stopped")));
    assert_eq!((&last["step"], &last["checkpoint"]), (&saved["step"], &saved["step"]));
    let step = last["step"].as_u64().expect("a step");
    assert!(step >= 25, "{step}");

    train(resumed.path(), resume(config(step + 7), stopped.path(), step));
    train(whole.path(), config(step + 7));
    assert_eq!(tensors(resumed.path(), step + 7), tensors(whole.path(), step + 7));
}

/// Says which file it is.
fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("it is there").ino()
}

#[test]
fn a_checkpoint_that_is_there_as_it_should_be_is_not_written_again() {
    let folder = temporary();
    train(folder.path(), config(json!({"maxSteps": 20})));
    let weights = checkpoint(folder.path(), 20).join("model.safetensors");
    let before = inode(&weights);
    // All steps are done, so the last checkpoint is due again, in the folder that it was gone on from.
    let again = resume(config(json!({"maxSteps": 20})), folder.path(), 20);
    let (code, events) = train(folder.path(), again);
    assert_eq!((code, events.last().map(|event| &event["type"])), (0, Some(&json!("training.completed"))));
    assert_eq!(steps(&events, "checkpoint.saved"), [20]);
    assert_eq!(inode(&weights), before);
    std::fs::write(&weights, "spoilt").expect("it can be written");
    train(folder.path(), resume(config(json!({"maxSteps": 20})), folder.path(), 10));
    assert_ne!(inode(&weights), before, "what is not as it should be is");
}

#[test]
fn sigterm_while_the_job_is_awaited_ends_at_once() {
    let folder = temporary();
    let mut child = executor(folder.path()).spawn().expect("the executor starts");
    // It says nothing before it has a job; that it listens shows in the mask of caught signals.
    let status = format!("/proc/{}/status", child.id());
    let deadline = Instant::now() + LIMIT;
    let listens = || {
        let status = std::fs::read_to_string(&status).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        u64::from_str_radix(caught.trim(), 16).expect("hex") & (1 << 14) != 0
    };
    while !listens() {
        assert!(Instant::now() < deadline, "it never listens for SIGTERM");
        std::thread::yield_now();
    }
    terminate(&child);
    let events: Vec<Value> = lines(child.stdout.take().expect("stdout is a pipe")).collect();
    assert_eq!(events, [json!({"type": "executor.stopped", "step": 0})]);
    assert_eq!(wait(child), Some(0));
}

#[test]
fn it_takes_one_spinning_thread_and_stays_the_same_process() {
    let folder = temporary();
    let mut command = executor(folder.path());
    let mut child =
        command.env_remove("CANDLE_NUM_THREADS").arg("--sample").spawn().expect("the executor starts");
    let environment = format!("/proc/{}/environ", child.id());
    let deadline = Instant::now() + LIMIT;
    let began_anew = || {
        let environment = std::fs::read(&environment).expect("it runs");
        environment.split(|byte| *byte == 0).any(|variable| variable == b"CANDLE_NUM_THREADS=1")
    };
    while !began_anew() {
        assert!(Instant::now() < deadline, "it goes on with as many as there are cores");
        std::thread::yield_now();
    }
    feed(&mut child, &json!({"checkpointDir": "nowhere", "prompt": ""}));
    let answer: Vec<Value> = lines(child.stdout.take().expect("stdout is a pipe")).collect();
    assert!(answer[0]["error"].as_str().expect("a text").starts_with("checkpoint nowhere"), "{answer:?}");
    assert_eq!(wait(child), Some(1));
}

#[test]
fn a_run_that_nobody_hears_ends() {
    let folder = temporary();
    let mut child = executor(folder.path()).spawn().expect("the executor starts");
    drop(child.stdout.take());
    feed(&mut child, &config(json!({"maxSteps": 1_000_000_000})));
    assert_eq!(wait(child), Some(1));
}

#[test]
fn the_number_of_threads_does_not_show_in_the_weights() {
    // Wide enough that the products are divided among threads at all.
    let wide = config(json!({"model": "tiny-gpt:256x1", "batchSize": 256, "maxSteps": 2, "saveSteps": 0}));
    let weights = ["1", "2", "3"].map(|threads| {
        let folder = temporary();
        let (output, _) = run(executor(folder.path()).env("RAYON_NUM_THREADS", threads), &wide);
        assert_eq!(output.status.code(), Some(0));
        tensors(folder.path(), 2)
    });
    assert_eq!(weights[0], weights[1]);
    assert_eq!(weights[0], weights[2]);
}

fn sample(folder: &Path, request: Value) -> (i32, Vec<Value>) {
    let (output, lines) = run(executor(folder).arg("--sample"), &request);
    (output.status.code().expect("it exits by itself"), lines)
}

fn text(lines: &[Value]) -> String {
    lines.iter().filter_map(|line| line["token"].as_str()).collect()
}

#[test]
fn a_checkpoint_answers() {
    let folder = temporary();
    // Two digits whose answers are their own text again: learned for sure, and soon.
    let data: Vec<String> = (0..40).map(|index| format!("{}=7{}", index % 2, index % 2)).collect();
    let source =
        json!({"type": "inline", "data": format!("{}\n0=71\n1=70", data.join("\n")), "answerAfter": "="});
    let config = config(json!({"maxSteps": 60, "saveSteps": 0, "datasetSource": source}));
    train(folder.path(), config);
    let dir = checkpoint(folder.path(), 60);
    let ask = |change: Value| {
        let mut request =
            json!({"checkpointDir": dir, "prompt": "1=", "temperature": 0, "topP": 1, "maxTokens": 8});
        request.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        sample(folder.path(), request)
    };
    let (code, lines) = ask(json!({}));
    assert_eq!(code, 0, "{lines:?}");
    assert!(text(&lines).starts_with('7') && text(&lines).len() == 2, "{lines:?}");
    assert_eq!(lines.last(), Some(&json!({"done": true, "finishReason": "stop"})));

    let (_, lines) = ask(json!({"maxTokens": 1}));
    assert_eq!(lines, [json!({"token": "7"}), json!({"done": true, "finishReason": "length"})]);

    let free = |seed: u64| text(&ask(json!({"temperature": 3, "seed": seed})).1);
    assert_eq!(free(1), free(1));
    let different: std::collections::BTreeSet<_> = (1..6).map(free).collect();
    assert!(different.len() > 1, "{different:?}");

    let long = "1=".repeat(500);
    assert_eq!(ask(json!({"prompt": long})).0, 0, "of a long prompt the end is used");

    let (code, lines) = ask(json!({"prompt": "1*"}));
    assert_eq!(code, 1);
    assert_eq!(lines, [json!({"error": "the model has never seen the character '*'; it knows \"017=\""})]);
    let (code, lines) = ask(json!({"checkpointDir": folder.path().join("nowhere")}));
    assert_eq!(code, 1);
    assert!(lines[0]["error"].as_str().expect("a text").starts_with("checkpoint "), "{lines:?}");
}
