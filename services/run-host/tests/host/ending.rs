//! The end of a run: its status, what stands before it, and that nobody is left.

use std::time::{Duration, Instant};

use process::{PidFd, Tree, kill_tree, processes, signal};
use wire::log::{Step, Stream};
use wire::run::StopMode;

use crate::stage::{READY, Setting, bytes_of, exit_of, notes, until, wait};

#[test]
fn the_exit_status_is_the_runners() {
    let exit = |script| exit_of(&Setting::sh(script).start().finish());
    assert_eq!(exit("exit 0"), (0, None));
    assert_eq!(exit("exit 1"), (1, None));
    assert_eq!(exit("kill -KILL $$"), (137, Some(signal::SIGKILL)));
    assert_eq!(exit("kill -TERM $$"), (143, Some(signal::SIGTERM)));
}

#[test]
fn a_runner_that_cannot_be_started_has_an_end_and_a_reason() {
    let log = Setting::new(&["/no/such/program"]).start().finish();
    assert_eq!(exit_of(&log), (127, None));
    assert!(notes(&log).contains("/no/such/program could not be started"), "{}", notes(&log));
}

#[test]
fn a_child_that_holds_the_output_for_a_moment_is_waited_for() {
    let log = Setting::sh("(sleep 0.2; echo late) & echo early; exit 4").start().finish();
    assert_eq!(bytes_of(&log, Stream::Stdout), b"early\nlate\n");
    assert_eq!(exit_of(&log), (4, None));
    assert!(!notes(&log).contains("held"), "{}", notes(&log));
}

#[test]
fn a_child_that_holds_the_output_for_longer_is_ended_and_that_is_said() {
    let mut setting = Setting::sh(
        "sh -c 'trap \"echo ended; exit\" TERM; echo armed; : > armed; while :; do sleep 0.05; done' &
         while [ ! -e armed ]; do sleep 0.01; done; exit 3",
    );
    setting.spec.drain_ms = 500;
    let log = setting.start().finish();
    assert_eq!(exit_of(&log), (3, None));
    assert_eq!(bytes_of(&log, Stream::Stdout), b"armed\nended\n", "also its last words stand before the end");
    assert!(notes(&log).contains("still held 500 ms after"), "{}", notes(&log));
    assert!(notes(&log).contains("SIGTERM"), "{}", notes(&log));
}

#[test]
fn one_that_left_the_session_and_closed_everything_is_ended() {
    let log = Setting::sh("setsid sleep 600 </dev/null >/dev/null 2>&1 3>&- & exit 0").start().finish();
    assert_eq!(exit_of(&log), (0, None));
    assert!(notes(&log).contains("ended what the runner left behind"), "{}", notes(&log));
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut setting = Setting::sh(
        "sh -c 'trap \"\" TERM; echo armed >&2; while :; do sleep 1; done' </dev/null >/dev/null 3>&- & read x <&3",
    );
    setting.spec.kill_grace_ms = 100;
    setting.spec.drain_ms = 50;
    let stage = setting.start();
    stage.wait_for("armed", |step| matches!(step, Step::Output { .. }));
    // The runner's end; its child holds stderr.
    let runner = PidFd::open(&process::Identity::of(stage.runner_pid()).unwrap()).unwrap();
    runner.send(signal::SIGTERM).unwrap();
    let log = stage.finish();
    assert_eq!(exit_of(&log), (143, Some(signal::SIGTERM)));
    assert!(notes(&log).contains("SIGTERM, SIGKILL"), "{}", notes(&log));
}

#[test]
fn orphans_are_reaped_while_the_run_goes_on() {
    let stage = Setting::sh(
        "i=0; while [ $i -lt 50 ]; do (sh -c 'exit 0' &); i=$((i+1)); done; echo all; read x <&3",
    )
    .start();
    stage.wait_for_text("all");
    let host = stage.host.pid();
    let zombies =
        || processes().unwrap().into_iter().filter(|row| row.parent == host && !row.is_alive()).count();
    until("no zombie", || zombies() == 0);
    stage.connect().stop(StopMode::Now).unwrap();
    assert_eq!(exit_of(&stage.finish()), (137, Some(signal::SIGKILL)));
}

#[test]
fn stop_now_waits_for_nobody_whatever_the_tree_does() {
    let stage = Setting::sh(
        "trap '' TERM
         for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; echo armed; while :; do sleep 1; done' & done
         while :; do sleep 1; done",
    )
    .start();
    until("three children", || bytes_of(&stage.log(), Stream::Stdout) == b"armed\narmed\narmed\n");
    let before = Instant::now();
    let mut visitor = stage.connect();
    visitor.subscribe(0);
    visitor.stop(StopMode::Now).unwrap();
    visitor.rest();
    let took = before.elapsed();
    let log = stage.finish();
    // Its graces, which it does not give, are 20 s.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(exit_of(&log), (137, Some(signal::SIGKILL)));
    let is_kill = |step: &Step| matches!(step, Step::Signal { signal: signal::SIGKILL, .. });
    assert_eq!(log.iter().filter(|record| is_kill(&record.step)).count(), 1);
}

#[test]
fn a_host_that_is_told_to_end_ends_the_run_first() {
    let stage = Setting::sh(&format!("echo '{READY}' >&3; sleep 600 & echo up; wait")).start();
    stage.wait_for_text("up");
    stage.host.pidfd().send(signal::SIGTERM).unwrap();
    let log = stage.finish();
    assert_eq!(exit_of(&log), (137, Some(signal::SIGKILL)));
    assert!(log.iter().any(|record| matches!(&record.step,
        Step::Signal { why, .. } if why.contains("run-host was told to end"))));
}

#[test]
fn the_runner_dies_with_a_host_that_is_killed_and_its_children_are_found_by_their_mark() {
    let mut stage = Setting::sh("sleep 600 & echo up; wait").start();
    stage.wait_for_text("up");
    let runner = process::Identity::of(stage.runner_pid()).unwrap();
    stage.host.pidfd().send(signal::SIGKILL).unwrap();
    wait(&mut stage.host);
    until("the runner's end", || !runner.is_alive());
    let left = Tree::marked_only(stage.marker());
    let report = kill_tree(left.clone(), Duration::from_secs(20));
    assert_eq!(report.killed.len(), 1, "the runner's child: {report:?}");
    assert!(left.members().unwrap().is_empty());
    assert!(stage.log().iter().all(|record| !matches!(record.step, Step::Exit { .. })), "nobody saw the end");
}

#[test]
fn a_folder_that_has_a_log_is_not_hosted_again() {
    let setting = Setting::sh("exit 0");
    let dir = setting.spec.cwd.clone();
    let log = std::path::Path::new(&dir).join("events.jsonl");
    std::fs::write(&log, "old\n").unwrap();
    std::fs::write(log.with_file_name("spec.json"), serde_json::to_vec(&setting.spec).unwrap()).unwrap();
    let host =
        std::process::Command::new(env!("CARGO_BIN_EXE_run-host")).args(["--dir", &dir]).output().unwrap();
    assert_eq!(host.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&host.stderr).contains("events.jsonl"));
    assert_eq!(std::fs::read_to_string(log).unwrap(), "old\n");
}

#[test]
fn a_socket_path_that_does_not_fit_is_said_in_the_log() {
    let mut setting = Setting::sh("exit 0");
    let dir = setting.spec.cwd.clone();
    setting.spec.socket = format!("{dir}/{}", "x".repeat(120));
    let folder = std::path::Path::new(&dir);
    std::fs::write(folder.join("spec.json"), serde_json::to_vec(&setting.spec).unwrap()).unwrap();
    let host =
        std::process::Command::new(env!("CARGO_BIN_EXE_run-host")).args(["--dir", &dir]).output().unwrap();
    assert_eq!(host.status.code(), Some(1));
    let log = runlog::read_page(&folder.join("events.jsonl"), 0, None, 1 << 20).unwrap();
    assert!(notes(&log.records).contains("XDG_RUNTIME_DIR"), "{}", notes(&log.records));
    assert!(log.ended);
}
