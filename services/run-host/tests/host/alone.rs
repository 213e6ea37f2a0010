//! A run that no server looks after: it goes on for a time, is asked to stop, and is killed if it does not.

use std::path::PathBuf;

use process::signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use wire::host::HostSays;
use wire::log::{Record, Step, Stream};

use crate::stage::{READY, Setting, bytes_of, exit_of, until};

fn setting(script: &str, alone_ms: u64, early_stop_ms: u64) -> Setting {
    let mut setting = Setting::sh(script);
    setting.spec.alone_ms = Some(alone_ms);
    setting.spec.early_stop_ms = early_stop_ms;
    setting
}

/// The signals that were sent, each with its reason, and where the host said that the run is alone.
fn life(log: &[Record]) -> Vec<String> {
    let of = |record: &Record| match &record.step {
        Step::Signal { signal, why, .. } => Some(format!("{signal}: {why}")),
        Step::Alone { alone_ms, stop_ms } => Some(format!("alone {alone_ms} {stop_ms}")),
        _ => None,
    };
    log.iter().filter_map(of).collect()
}

/// An armed runner that says when it is asked to stop, and ends with 0 then.
const OBEDIENT: &str = r#"trap 'echo asked; exit 0' TERM; echo "$READY" >&3; while :; do sleep 0.02; done"#;

#[test]
fn it_is_asked_to_stop_and_the_log_says_why() {
    let stage = setting(OBEDIENT, 100, 20_000).start();
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    let log = stage.finish();
    assert_eq!(exit_of(&log), (0, None));
    assert_eq!(bytes_of(&log, Stream::Stdout), b"asked\n");
    let asked = format!("{SIGTERM}: no server has been there for 100 ms");
    assert_eq!(life(&log), ["alone 100 20000", asked.as_str()]);
}

#[test]
fn a_server_that_dies_while_it_is_told_something_is_missed_too() {
    let script = r#"trap 'echo asked; exit 0' TERM; echo "$READY" >&3; while [ ! -e gate ]; do sleep 0.01; done
                    echo more; : > wrote; while :; do sleep 0.02; done"#;
    let setting = setting(script, 8_000, 20_000);
    let dir = PathBuf::from(&setting.spec.cwd);
    let stage = setting.start();
    let mut server = stage.connect();
    server.subscribe(0);
    loop {
        let said = server.next().expect("the host is there");
        if matches!(said, HostSays::Record { record } if matches!(record.step, Step::Ready { .. })) {
            break;
        }
    }
    // The host finds the output and the end of the connection at the same time.
    stage.host.pidfd().send(SIGSTOP).unwrap();
    drop(server);
    std::fs::write(dir.join("gate"), "").unwrap();
    until("output", || dir.join("wrote").exists());
    stage.host.pidfd().send(SIGCONT).unwrap();
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    let log = stage.finish();
    assert_eq!(exit_of(&log), (0, None));
    assert_eq!(bytes_of(&log, Stream::Stdout), b"more\nasked\n");
}

#[test]
fn one_that_does_not_stop_is_killed_with_its_tree() {
    let script = format!(
        r#"trap 'echo asked' TERM; echo '{READY}' >&3
           setsid sh -c 'trap "" TERM; echo child; while :; do sleep 0.05; done' &
           while :; do sleep 0.02; done"#
    );
    let mut setting = setting(&script, 100, 300);
    setting.spec.kill_grace_ms = 100;
    let stage = setting.start();
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    let log = stage.finish();
    assert_eq!(exit_of(&log), (137, Some(SIGKILL)));
    let killed = format!("{SIGKILL}: it did not stop within 300 ms and no server is there");
    assert_eq!(life(&log).last(), Some(&killed), "{log:?}");
}

#[test]
fn one_that_is_not_armed_in_time_is_asked_when_it_is() {
    let script = r#"trap 'echo asked; exit 0' TERM; while ! [ -e armed ]; do sleep 0.02; done
                    echo "$READY" >&3; while :; do sleep 0.02; done"#;
    let stage = setting(script, 50, 60_000).start();
    stage.wait_for("the host's word", |step| matches!(step, Step::Alone { .. }));
    assert_eq!(life(&stage.log()).len(), 1, "no signal before it is armed");
    std::fs::write(std::path::Path::new(&stage.spec.cwd).join("armed"), "").unwrap();
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    assert_eq!(exit_of(&stage.finish()), (0, None));
}

#[test]
fn the_time_starts_again_when_a_server_that_listened_goes_away() {
    let stage = setting(OBEDIENT, 5_000, 20_000).start();
    let mut server = stage.connect();
    server.subscribe(0);
    stage.wait_for("an armed runner", |step| matches!(step, Step::Ready { .. }));
    assert!(life(&stage.log()).is_empty());
    drop(server);
    until("the host's word", || !life(&stage.log()).is_empty());
    assert_eq!(exit_of(&stage.finish()), (0, None));
}
