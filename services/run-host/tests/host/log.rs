//! What a host does to keep its log within its cap, and when its disk refuses the log.

use std::process::Command;

use process::signal;
use runlog::read_page;
use wire::host::HostSays;
use wire::log::{Record, Step, Stream};
use wire::run::StopMode;

use crate::stage::{Setting, Stage, bytes_of, dropped, exit_of, memory, until, wait};

/// How large the files of its log are together, bytes.
fn size_of_log(stage: &Stage) -> u64 {
    let folder = std::fs::read_dir(stage.log_path().parent().unwrap()).unwrap();
    let files =
        folder.map(Result::unwrap).filter(|file| file.file_name().to_string_lossy().starts_with("events."));
    // One may go away just now.
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// From now on no file may be longer than `limit` for the host: a write beyond that fails like one to a full disk.
fn limit_files(stage: &Stage, limit: &str) {
    let pid = stage.host.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}")]).status().unwrap();
    assert!(status.success());
}

#[test]
fn at_its_cap_the_log_loses_the_oldest_output_and_nothing_else() {
    const CAP: u64 = 2 << 20;
    let mut setting = Setting::node(
        "const fs = require('node:fs');
         const line = 'loss 0.123 \\u001b[32mé\\u001b[0m\\n'.repeat(100);
         for (let step = 1; step <= 5000; step++) {
             fs.writeSync(1, line);
             if (step % 50 === 0) fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step }) + '\\n');
             if (step === 2500) while (!fs.existsSync('go'));
         }
         fs.writeSync(3, process.env.READY + '\\n');
         while (!fs.existsSync('end'));",
    );
    setting.spec.log_cap = Some(CAP);
    let stage = setting.start();
    let mut listener = stage.connect();
    listener.subscribe(0);
    // Someone who was there from the start, read a little, and comes back when that is gone.
    stage.wait_for_text("loss");
    let early = read_page(&stage.log_path(), 0, None, 1000).unwrap();
    let left_at = early.records.last().unwrap().seq;
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    stage.wait_for("the end of the load", |step| matches!(step, Step::Ready { .. }));
    assert!(size_of_log(&stage) < CAP + CAP / 4, "{} bytes", size_of_log(&stage));
    let most = memory(&stage, "VmHWM");
    assert!(most < 12 * 1024, "{most} kB");
    let late = read_page(&stage.log_path(), left_at, Some(early.hint), 1 << 20).unwrap();
    assert!(matches!(late.records[0].step, Step::Dropped { from_seq, .. } if from_seq <= left_at + 1));

    std::fs::write(stage.log_path().with_file_name("end"), "").unwrap();
    let told = listener.rest();
    let log = stage.finish();
    assert_eq!(exit_of(&log), (0, None));
    let line = 100 * "loss 0.123 \u{1b}[32mé\u{1b}[0m\n".len() as u64;
    let there = bytes_of(&log, Stream::Stdout).len() as u64;
    assert_eq!(dropped(&log) + there, 5000 * line, "every byte is there or counted");
    assert!(there > CAP / 4, "{there} bytes: the newest output is kept");
    let steps = |records: &mut dyn Iterator<Item = Step>| -> Vec<u64> {
        records
            .filter_map(|step| if let Step::Checkpoint { step } = step { Some(step) } else { None })
            .collect()
    };
    let all: Vec<u64> = (50..=5000).step_by(50).collect();
    assert_eq!(steps(&mut log.iter().map(|record| record.step.clone())), all);
    let told = told.into_iter().filter_map(|said| match said {
        HostSays::Record { record } => Some(record.step),
        _ => None,
    });
    assert_eq!(steps(&mut told.into_iter()), all, "and whoever listens knows all of it");
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
    limit_files(&stage, "1000:unlimited");
    touch("go");
    until("the trainer to be through", || stage.log_path().with_file_name("through").exists());
    limit_files(&stage, "unlimited");
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
fn those_who_listen_know_of_what_cannot_be_written_and_the_log_gets_it_later() {
    let stage = Setting::node(
        "const fs = require('node:fs');
         fs.writeSync(1, 'up\\n');
         while (!fs.existsSync('go'));
         fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step: 6 }) + '\\n');
         while (!fs.existsSync('more'));
         fs.writeSync(1, 'nobody will read this\\n');
         fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step: 7 }) + '\\n');
         process.exitCode = 5;",
    )
    .start();
    stage.wait_for_text("up");
    let size = std::fs::metadata(stage.log_path()).unwrap().len();
    limit_files(&stage, &format!("{size}:unlimited"));
    let mut listener = stage.connect();
    listener.subscribe(1);
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    let mut next = || loop {
        if let Some(HostSays::Record { record }) = listener.next() {
            return record;
        }
    };
    let is_next = |record: &Record, wanted: &Step| assert_eq!(record.step, *wanted);
    is_next(&next(), &Step::Checkpoint { step: 6 });
    std::fs::write(stage.log_path().with_file_name("more"), "").unwrap();
    is_next(&next(), &Step::Checkpoint { step: 7 });
    is_next(&next(), &Step::Exit { code: 5, signal: None });
    assert!(
        stage.log().iter().all(|record| !matches!(record.step, Step::Exit { .. })),
        "not on the disk yet"
    );
    // Someone who comes only now, as a server does that was started anew.
    let mut newcomer = stage.connect();
    newcomer.subscribe(0);
    while !matches!(
        newcomer.next(),
        Some(HostSays::Record { record: Record { step: Step::Exit { .. }, .. } })
    ) {}
    limit_files(&stage, "unlimited");
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    let log = stage.finish();
    assert_eq!(exit_of(&log), (5, None));
    assert_eq!(dropped(&log), "nobody will read this\n".len() as u64);
    assert!(
        matches!(&log[log.len() - 3].step, Step::Dropped { why, .. } if why.contains("could not be written"))
    );
}

#[test]
fn a_host_that_can_never_write_its_end_goes_and_says_so() {
    let mut stage = Setting::sh("echo up; while :; do sleep 0.05; done").start();
    stage.wait_for_text("up");
    let size = std::fs::metadata(stage.log_path()).unwrap().len();
    limit_files(&stage, &format!("{size}:{size}"));
    stage.host.pidfd().send(signal::SIGTERM).unwrap();
    let status = wait(&mut stage.host);
    assert_eq!(status.code(), Some(1));
}

#[test]
fn stop_now_is_as_quick_when_the_disk_is_full() {
    let stage = Setting::sh("echo up; while :; do echo more; done").start();
    stage.wait_for_text("up");
    limit_files(&stage, "1:unlimited");
    let mut visitor = stage.connect();
    let before = std::time::Instant::now();
    visitor.subscribe(0);
    visitor.stop(StopMode::Now).unwrap();
    while !matches!(visitor.next(), Some(HostSays::Record { record: Record { step: Step::Exit { .. }, .. } }))
    {
    }
    assert!(before.elapsed() < std::time::Duration::from_secs(15), "{:?}", before.elapsed());
    assert!(
        stage.log().iter().all(|record| !matches!(record.step, Step::Exit { .. })),
        "not on the disk yet"
    );
    limit_files(&stage, "unlimited");
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    assert_eq!(exit_of(&stage.finish()), (137, Some(signal::SIGKILL)));
}
