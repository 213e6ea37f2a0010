//! The commands that need no server, as a person and as a script use them.

use nix::sys::signal::Signal;
use testkit::{Dev, LIMIT, Layout, Midrun, Stage, Ticker, eventually, leftovers};

use crate::both::frames::status;

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
