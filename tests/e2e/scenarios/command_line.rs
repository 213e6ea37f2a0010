//! The command line, as a person and as a script use it.

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{Dev, LIMIT, Layout, Midrun, SdkTrainer, Stage, Ticker, eventually, leftovers};

use crate::frames::status;

async fn nothing_left(stage: &Stage) {
    let none = || leftovers(&stage.home.marker()).is_empty().then_some(());
    eventually("end of all processes", LIMIT, none).await;
}

#[tokio::test]
async fn build_says_what_was_built_and_fails_with_a_place() {
    let stage = Stage::ticker(&Ticker::default());
    let built = Midrun::new(&stage, ["build", "--json"]).run().await.expect(0);
    let said = &built.json()[0];
    assert!(said.to_string().contains("ticker") && said["contentHash"].is_string(), "{said}");
    let text = Midrun::new(&stage, ["build", "."]).run().await.expect(0);
    assert!(text.stdout.contains("ticker"), "{}", text.stdout);
    stage.project.write("callbacks.ts", "export const onTick = ;\n");
    let failed = Midrun::new(&stage, ["build", "--json"]).run().await.expect(1);
    assert!(failed.stdout.contains("src/midrun/callbacks.ts"), "{}", failed.stdout);
    failed.json();
    let failed = Midrun::new(&stage, ["build"]).run().await.expect(1);
    assert!(format!("{}{}", failed.stdout, failed.stderr).contains("callbacks.ts:1"), "{failed:?}");
    stage.project.write("callbacks.ts", "throw new Error(\"boom\");\nexport const onTick = () => {};\n");
    let failed = Midrun::new(&stage, ["build"]).run().await.expect(1);
    assert!(format!("{}{}", failed.stdout, failed.stderr).contains("boom"), "{failed:?}");
    nothing_left(&stage).await;
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    let stage = Stage::bare(Layout::Midrun);
    for args in [
        &["no-such-command"][..],
        &["dev", "--no-such-flag"],
        &["runs", "show"],
        &["run", "--timeout", "x"],
        &[],
    ] {
        let ended = Midrun::new(&stage, args.iter().copied()).run().await;
        assert_eq!(ended.code, 2, "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("--help") || ended.stderr.contains("Usage"), "{args:?}: {ended:?}");
    }
    let help = Midrun::new(&stage, ["--help"]).run().await.expect(0);
    for command in ["dev", "build", "start", "run", "runs", "jobs", "term", "doctor", "init"] {
        assert!(help.stdout.contains(command), "{command} in {}", help.stdout);
    }
    let nothing = Midrun::new(&stage, ["runs"]).run().await.expect(1);
    assert!(nothing.stderr.contains("midrun init"), "it says what to do: {}", nothing.stderr);
    stage.project.write("index.ts", "");
    let away = Midrun::new(&stage, ["runs"]).run().await.expect(1);
    assert!(away.stderr.contains("midrun dev"), "it says what to do: {}", away.stderr);
    let _ = Midrun::new(&stage, ["--version"]).run().await.expect(0);
}

#[tokio::test]
async fn run_waits_and_exits_as_the_run_did() {
    let stage = Stage::ticker(&Ticker { steps: 5, ..Ticker::default() });
    let (dev, mut events) = Dev::ready(&stage).await;
    let done = Midrun::new(&stage, ["run", "--wait", "--json"]).run().await.expect(0);
    let said = done.json();
    let last = said.last().expect("it says something");
    assert_eq!((&last["completed"], &last["exitCode"]), (&true.into(), &0.into()), "{last}");
    stage.project.write("callbacks.ts", "export const onTick = () => process.exit(7);\n");
    events.next_named("rebuild").await;
    let _ = Midrun::new(&stage, ["run", "--wait"]).run().await.expect(7);
    stage.project.write("callbacks.ts", &Ticker::callbacks("v1"));
    stage.project.write("index.ts", &Ticker::default().entry());
    events
        .wait_for("endless ticker", |event| {
            event.name == "rebuild" && event.data["changed"].to_string().contains("index.ts")
        })
        .await;
    let late = Midrun::new(&stage, ["run", "--wait", "--timeout", "0.3", "--json"]).run().await;
    assert!(late.code != 0, "a timeout is no success: {late:?}");
    assert_eq!(late.json().last().expect("it says something")["timedOut"], true);
    let detached = Midrun::new(&stage, ["run", "--json"]).run().await.expect(0);
    let said = detached.json();
    let id = said[0]["run"]["id"].as_str().unwrap_or_else(|| panic!("{}", said[0])).to_owned();
    dev.log(&id).await.wait_for_start("TICK v1 ").await;
    dev.finish().await;
}

#[tokio::test]
async fn runs_are_listed_shown_followed_and_stopped() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let id = dev.running(&mut events).await;
    dev.log(&id).await.wait_for_start("TICK v1 ").await;
    for args in [&["runs", "--json"][..], &["runs", "ls", "--json"]] {
        let listed = Midrun::new(&stage, args.iter().copied()).run().await.expect(0).json();
        assert_eq!(
            (listed.len(), &listed[0]["id"], &listed[0]["status"]),
            (1, &id.as_str().into(), &"running".into())
        );
    }
    let text = Midrun::new(&stage, ["runs"]).run().await.expect(0).stdout;
    assert!(text.contains(&id) && text.contains("running"), "{text}");
    let shown = Midrun::new(&stage, ["runs", "show", &id, "--json"]).run().await.expect(0).json();
    let of = |value: &Value| value.get("run").unwrap_or(value)["id"].clone();
    assert_eq!(of(&shown[0]), id.as_str());
    let logged = Midrun::new(&stage, ["runs", "logs", &id]).run().await.expect(0).stdout;
    assert!(logged.starts_with("TICK v1 1\nTICK v1 2\n"), "{logged}");
    let mut following = Midrun::new(&stage, ["runs", "logs", &id, "-f"]).start();
    following.wait_for_line("first line", |line| (line == "TICK v1 1").then_some(())).await;
    let _ = Midrun::new(&stage, ["runs", "stop", &id]).run().await.expect(0);
    let followed = following.wait("runs logs -f", LIMIT).await.expect(0).stdout;
    assert!(followed.contains("EARLY-STOP-ASKED\n"), "{followed}");
    assert!(
        followed.trim_end().lines().last().is_some_and(|line| line.starts_with("CHECKPOINT ")),
        "{followed}"
    );
    status(&mut events, &id, "exited").await;
    let id = dev.running(&mut events).await;
    let _ = Midrun::new(&stage, ["runs", "stop", &id, "--now"]).run().await.expect(0);
    status(&mut events, &id, "exited").await;
    let missing = Midrun::new(&stage, ["runs", "show", "no-such-run"]).run().await.expect(1);
    assert!(missing.stderr.contains("no-such-run"), "{missing:?}");
    dev.finish().await;
}

#[tokio::test]
async fn jobs_are_listed_shown_followed_and_stopped() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    let job = dev.run(&run).await["jobId"].as_str().expect("it has a job").to_owned();
    let listed = Midrun::new(&stage, ["jobs", "--json"]).run().await.expect(0).json();
    assert_eq!(
        (listed.len(), &listed[0]["id"], &listed[0]["status"]),
        (1, &job.as_str().into(), &"running".into())
    );
    let shown = Midrun::new(&stage, ["jobs", "show", &job, "--json"]).run().await.expect(0);
    assert!(shown.stdout.contains("learningRate"), "{}", shown.stdout);
    let mut following = Midrun::new(&stage, ["jobs", "logs", &job, "-f"]).start();
    following.wait_for_line("line with a loss", |line| line.contains("loss").then_some(())).await;
    let _ = Midrun::new(&stage, ["jobs", "stop", &job]).run().await.expect(0);
    let _ = following.wait("jobs logs -f", LIMIT).await.expect(0);
    status(&mut events, &run, "exited").await;
    assert_eq!(dev.jobs().await[0]["status"], "cancelled");
    dev.finish().await;
}

#[tokio::test]
async fn start_runs_the_trainer_in_the_terminal_without_a_server() {
    let stage = Stage::ticker(&Ticker { steps: 5, ..Ticker::default() });
    let ended = Midrun::new(&stage, ["start"]).run().await.expect(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines.contains(&"TICK v1 1") && lines.contains(&"TICK v1 5"), "{ended:?}");
    assert!(lines.iter().any(|line| line.starts_with("Started job job-")), "{ended:?}");
    stage.project.write("index.ts", &Ticker::default().entry());
    let mut running = Midrun::new(&stage, ["start", "src/midrun/index.ts"]).in_foreground().start();
    running.wait_for_line("step", |line| line.starts_with("TICK ").then_some(())).await;
    running.signal_group(Signal::SIGINT);
    let ended = running.wait("midrun start", LIMIT).await.expect(130);
    assert!(ended.stdout.contains("EARLY-STOP-ASKED\n") && ended.stdout.contains("CHECKPOINT "), "{ended:?}");
    stage.project.write("callbacks.ts", "export const onTick = ;\n");
    let failed = Midrun::new(&stage, ["start"]).run().await.expect(1);
    assert!(failed.stderr.contains("callbacks.ts"), "{failed:?}");
    nothing_left(&stage).await;
}

#[tokio::test]
async fn doctor_says_what_is_here() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let said = Midrun::new(&stage, ["doctor", "--json"]).run().await.expect(0).json();
    assert!(said.iter().any(|line| line.to_string().contains("node")), "{said:?}");
    let text = Midrun::new(&stage, ["doctor"]).run().await.expect(0).stdout;
    assert!(text.contains("node") && text.contains(&dev.client.address().port().to_string()), "{text}");
    dev.finish().await;
}

#[tokio::test]
async fn a_project_that_init_made_trains_at_once() {
    let stage = Stage::bare(Layout::Midrun);
    let made = stage.root().join("fresh");
    let _ = Midrun::new(&stage, ["init".into(), made.clone().into_os_string()]).run().await.expect(0);
    assert!(made.join("src/midrun/index.ts").is_file());
    let callbacks = made.join("src/midrun/callbacks.ts");
    let edited = std::fs::read_to_string(&callbacks).expect("it was just made") + "// mine\n";
    std::fs::write(&callbacks, &edited).expect("the folder is ours");
    let _ = Midrun::new(&stage, ["init".into(), made.clone().into_os_string()]).run().await.expect(0);
    assert_eq!(
        std::fs::read_to_string(&callbacks).expect("it is still there"),
        edited,
        "it was written over"
    );
    let dev = Dev::options(&stage, &[]).dir(&made).start().await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let job = events.wait_for("job", |event| event.name == "run" && event.data["jobId"].is_string()).await;
    let target = format!("/api/jobs/{}/events", job.text("jobId"));
    let mut training = testkit::Sse::open(&dev.client, &target, None).await;
    let log = training
        .wait_for("loss", |event| event.name == "training.log" && event.data["loss"].is_number())
        .await;
    assert!(log.data["step"].as_u64().is_some_and(|step| step > 0), "{log}");
    dev.stop_run(&run, "now").await;
    status(&mut events, &run, "exited").await;
    dev.finish().await;
}

#[tokio::test]
async fn a_second_server_for_the_same_project_says_who_has_it() {
    let stage = Stage::ticker(&Ticker::default());
    let (dev, _events) = Dev::ready(&stage).await;
    let second = Midrun::new(&stage, ["dev", ".", "--port", "0"]).run().await.expect(1);
    assert!(second.stderr.contains(&dev.pid.to_string()), "{}", second.stderr);
    dev.finish().await;
}
