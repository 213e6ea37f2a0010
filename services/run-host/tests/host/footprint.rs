//! What a host costs, and what it does when its disk is full.

use std::process::Command;

use process::signal;
use wire::log::{Step, Stream};
use wire::run::StopMode;

use crate::stage::{Setting, Stage, bytes_of, dropped, exit_of};

fn memory(stage: &Stage, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_host_stays_small_under_load() {
    let stage = Setting::node(
        "const fs = require('node:fs');
         const bytes = Buffer.from('\\u001b[31m loss 0.123 \\u001b[0m\\n'.repeat(4000));
         for (let left = 50_000_000; left > 0;) left -= fs.writeSync(1, bytes);
         fs.writeSync(3, process.env.READY + '\\n');
         setInterval(() => {}, 1000);",
    )
    .start();
    let mut listener = stage.connect();
    listener.subscribe(0);
    stage.wait_for("the load", |step| matches!(step, Step::Ready { .. }));
    let (most, now) = (memory(&stage, "VmHWM"), memory(&stage, "VmRSS"));
    println!("most {most} kB, now {now} kB");
    assert!(most < 12 * 1024, "{most} kB");
    stage.connect().stop(StopMode::Now).unwrap();
    drop(listener);
    stage.finish();
}

fn limit_log(stage: &Stage, limit: &str) {
    let pid = stage.host.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}")]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_log_that_cannot_be_written_does_not_touch_the_run() {
    let stage = Setting::node(
        "const fs = require('node:fs');
         fs.writeSync(1, 'up\\n');
         while (!fs.existsSync('go'));
         for (let i = 0; i < 100; i++) fs.writeSync(1, 'x'.repeat(50_000));
         fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step: 1 }) + '\\n');
         fs.writeFileSync('through', '');
         while (!fs.existsSync('end'));
         fs.writeSync(1, 'after\\n');",
    )
    .start();
    stage.wait_for_text("up");
    let touch = |name| std::fs::write(stage.log_path().with_file_name(name), "").unwrap();
    limit_log(&stage, "1000:unlimited");
    touch("go");
    crate::stage::until("the trainer to be through", || stage.log_path().with_file_name("through").exists());
    limit_log(&stage, "unlimited");
    stage.wait_for("the checkpoint", |step| matches!(step, Step::Checkpoint { .. }));
    touch("end");
    let log = stage.finish();
    assert_eq!(exit_of(&log), (0, None));
    let written = bytes_of(&log, Stream::Stdout);
    let kept = written.iter().filter(|&&byte| byte == b'x').count();
    let lost = 100 * 50_000 - kept;
    assert!(lost > 0, "the limit had no effect");
    assert_eq!(dropped(&log), lost as u64);
    assert!(String::from_utf8(written).unwrap().ends_with("after\n"));
}

#[test]
fn a_host_that_can_never_write_its_end_goes_and_says_so() {
    let mut stage = Setting::sh("echo up; while :; do sleep 0.05; done").start();
    stage.wait_for_text("up");
    let size = std::fs::metadata(stage.log_path()).unwrap().len();
    limit_log(&stage, &format!("{size}:{size}"));
    stage.host.pidfd().send(signal::SIGTERM).unwrap();
    let status = crate::stage::wait(&mut stage.host);
    assert_eq!(status.code(), Some(1));
}
