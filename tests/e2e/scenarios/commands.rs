//! The commands that need no server, as a person and as a script use them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{
    Checkpoints, Dev, Flag, LIMIT, Layout, Midrun, Running, SdkTrainer, Stage, Ticker, eventually, leftovers,
};

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
async fn build_names_a_package_that_is_not_installed_where_it_is_imported_and_what_to_do() {
    let stage = Stage::ticker(&Ticker::default());
    let callbacks = "import { log } from \"@scope/nopkg/deep\";\nexport const onTick = log;\n";
    stage.project.write("callbacks.ts", callbacks);
    let failed = Midrun::new(&stage, ["build"]).run().await.expect(1);
    let advice = format!("run `npm install @scope/nopkg` in {}", stage.project.dir().display());
    let told = format!("error: the package \"@scope/nopkg\" is not installed: {advice}\n");
    assert!(failed.stderr.starts_with(&told), "{}", failed.stderr);
    assert!(failed.stderr.contains("src/midrun/callbacks.ts:1:22\n"), "{}", failed.stderr);
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

/// `midrun start` as `by` starts it, once its trainer trains. It has a checkpoint when `checkpoint` is raised.
async fn training(stage: &Stage, by: &[&str], checkpoint: &Flag) -> Running {
    let trainer = Ticker { checkpoints: Checkpoints::After(checkpoint.clone()), ..Ticker::default() };
    stage.project.write("index.ts", &trainer.entry());
    let start = Midrun::new(stage, ["start"]).by(by.iter().copied()).in_foreground();
    let mut running = start.start();
    trains_on(&mut running).await;
    running
}

/// Waits for steps that it has not trained yet.
async fn trains_on(running: &mut Running) {
    let step = |line: &str| line.strip_prefix("TICK v1 ")?.parse::<u32>().ok();
    let last = running.stdout().lines().filter_map(step).next_back().unwrap_or(0);
    running.wait_for_line("further step", |line| step(line).filter(|step| *step > last + 20)).await;
}

async fn asked_to_stop(running: &mut Running) {
    running.wait_for_line("early stop", |line| (line == "EARLY-STOP-ASKED").then_some(())).await;
}

#[tokio::test]
async fn a_signal_to_start_is_one_early_stop_whoever_gets_it() {
    let stage = Stage::ticker(&Ticker::default());
    for (signal, code) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        for to_group in [true, false] {
            let checkpoint = stage.flag(&format!("{signal}-{to_group}"));
            let mut running = training(&stage, &["env", "--default-signal=HUP"], &checkpoint).await;
            match to_group {
                true => running.signal_group(signal),
                false => running.signal(signal),
            }
            asked_to_stop(&mut running).await;
            // A second signal would have ended it by then.
            trains_on(&mut running).await;
            checkpoint.raise();
            let ended = running.wait("midrun start", LIMIT).await.expect(code);
            assert!(ended.stdout.contains("CHECKPOINT "), "{signal}, to the group: {to_group}: {ended:?}");
        }
    }
    nothing_left(&stage).await;
}

#[tokio::test]
async fn a_second_signal_to_start_ends_the_run_at_once() {
    let stage = Stage::ticker(&Ticker::default());
    let never = stage.flag("checkpoint");
    for to_group in [true, false] {
        let mut running = training(&stage, &[], &never).await;
        running.signal(Signal::SIGTERM);
        asked_to_stop(&mut running).await;
        match to_group {
            true => running.signal_group(Signal::SIGINT),
            false => running.signal(Signal::SIGINT),
        }
        let ended = running.wait("midrun start", LIMIT).await.expect(130);
        assert!(!ended.stdout.contains("CHECKPOINT "), "{ended:?}");
    }
    nothing_left(&stage).await;
}

#[tokio::test]
async fn a_terminal_that_goes_and_says_so_twice_is_one_early_stop() {
    let stage = Stage::ticker(&Ticker::default());
    let checkpoint = stage.flag("checkpoint");
    let mut running = training(&stage, &["env", "--default-signal=HUP"], &checkpoint).await;
    running.signal(Signal::SIGHUP);
    asked_to_stop(&mut running).await;
    running.signal(Signal::SIGHUP);
    trains_on(&mut running).await;
    checkpoint.raise();
    let _ = running.wait("midrun start", LIMIT).await.expect(129);
    nothing_left(&stage).await;
}

#[tokio::test]
async fn start_outlives_its_terminal_where_nohup_says_so() {
    let stage = Stage::ticker(&Ticker::default());
    let checkpoint = stage.flag("checkpoint");
    let mut running = training(&stage, &["nohup"], &checkpoint).await;
    running.signal(Signal::SIGHUP);
    trains_on(&mut running).await;
    assert!(!running.stdout().contains("EARLY-STOP-ASKED"), "{}", running.stdout());
    checkpoint.raise();
    running.signal(Signal::SIGTERM);
    let _ = running.wait("midrun start", LIMIT).await.expect(0);
    nothing_left(&stage).await;
}

#[tokio::test]
async fn ctrl_z_stops_start_with_its_runner_until_both_are_continued() {
    let stage = Stage::ticker(&Ticker::default());
    let checkpoint = stage.flag("checkpoint");
    let mut running = training(&stage, &[], &checkpoint).await;
    let runner = leftovers(&stage.home.marker()).into_iter().find(|(_, line)| line.contains("runner.mjs"));
    let pids = [running.pid(), runner.expect("it trains").0];
    for _ in 0..2 {
        running.signal_group(Signal::SIGTSTP);
        eventually("stop of both", LIMIT, || pids.iter().all(|pid| is_stopped(*pid)).then_some(())).await;
        running.signal_group(Signal::SIGCONT);
        trains_on(&mut running).await;
    }
    checkpoint.raise();
    running.signal_group(Signal::SIGINT);
    let _ = running.wait("midrun start", LIMIT).await.expect(130);
    nothing_left(&stage).await;
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[tokio::test]
async fn what_a_trainer_of_start_leaves_behind_ends_with_it() {
    let stage = Stage::ticker(&Ticker {
        steps: 5,
        start_code: "const { spawn } = await import(\"node:child_process\");\n\
                     console.log(\"CHILD \" + spawn(\"sleep\", [\"600\"], { detached: true, stdio: \"ignore\" }).pid);"
            .to_owned(),
        ..Ticker::default()
    });
    let ended = Midrun::new(&stage, ["start"]).run().await;
    assert!(ended.stdout.contains("CHILD "), "{ended:?}");
    nothing_left(&stage).await;
}

#[tokio::test]
async fn start_needs_a_node_that_is_new_enough() {
    let stage = Stage::ticker(&Ticker { steps: 5, ..Ticker::default() });
    let old = stage.root().join("old-node");
    testkit::program(&old, "echo v18.19.1");
    let start = |node: &std::path::Path| Midrun::new(&stage, ["start"]).env("MIDRUN_RUN__NODE", node);
    let refused = start(&old).run().await.expect(1);
    assert!(refused.stderr.contains("node is v18.19.1, and midrun needs 20.3 or newer"), "{refused:?}");
    let missing = start(&stage.root().join("no-node")).run().await.expect(1);
    assert!(missing.stderr.contains("node was not found as \""), "{missing:?}");
    assert!(missing.stderr.contains("install Node.js 20.3 or newer"), "{missing:?}");
}

#[tokio::test]
async fn a_server_does_not_start_on_a_control_plane_that_cannot_be() {
    let stage = Stage::ticker(&Ticker::default());
    for command in [&["dev", "--port", "0"][..], &["serve", "train-registry"]] {
        let server = Midrun::new(&stage, command.iter().copied());
        let refused = server.env("MIDRUN_CONTROL_PLANE_URL", "nonsense").run().await.expect(1);
        assert!(refused.stderr.contains("\"nonsense\" is no URL such as https://"), "{refused:?}");
        assert_eq!(refused.stdout, "");
    }
}

#[tokio::test]
async fn reap_does_not_wait_for_a_control_plane_that_ended_with_its_server() {
    let stage = Stage::sdk(&SdkTrainer::default());
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    dev.log(&run).await.wait_for_start("LOG v1 ").await;
    dev.kill().await;
    let begun = Instant::now();
    let reaped = Midrun::new(&stage, ["reap"]).run().await.expect(0);
    let first = begun.elapsed();
    assert!(reaped.stdout.contains("is kept: the next server delivers it"), "{reaped:?}");
    let again = Midrun::new(&stage, ["reap"]).run().await.expect(0);
    // Each would wait as long as that for a control plane that may answer.
    let fastest = first.min(begun.elapsed() - first);
    assert!(fastest < Duration::from_secs(10), "{reaped:?} {again:?}");
    assert!(again.stderr.contains("nothing to reap"), "{again:?}");
    for told in [reaped, again] {
        assert!(told.stderr.contains("1 cancel is outstanding: the next server delivers it"), "{told:?}");
    }
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
