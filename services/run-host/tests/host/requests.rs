//! The socket: who is told what, and which signals are sent.

use process::signal::{SIGTERM, SIGUSR2};
use wire::host::HostSays;
use wire::log::{Record, Step, Stream};
use wire::run::StopMode;

use crate::stage::{READY, Setting, Stage, bytes_of, exit_of, notes, until};

fn records(said: &[HostSays]) -> Vec<Record> {
    let record = |said: &HostSays| match said {
        HostSays::Record { record } => Some(record.clone()),
        _ => None,
    };
    said.iter().filter_map(record).collect()
}

fn signals(log: &[Record]) -> Vec<i32> {
    let signal = |record: &Record| match record.step {
        Step::Signal { signal, .. } => Some(signal),
        _ => None,
    };
    log.iter().filter_map(signal).collect()
}

fn end(stage: Stage) -> Vec<Record> {
    stage.connect().stop(StopMode::Now).unwrap();
    stage.finish()
}

#[test]
fn an_unarmed_runner_gets_no_signal() {
    // Handlers stand from the start: that alone does not mean that it is armed.
    let stage = Setting::sh(
        r#"trap 'echo usr2' USR2; trap 'echo term' TERM; echo up
           read -r go; while :; do sleep 0.05; done"#,
    );
    let stage = stage.start();
    stage.wait_for_text("up");
    let mut visitor = stage.connect();
    assert!(visitor.swap().unwrap_err().contains("not armed"));
    assert!(visitor.stop(StopMode::Checkpoint).unwrap_err().contains("not armed"));
    let log = end(stage);
    assert_eq!(bytes_of(&log, Stream::Stdout), b"up\n");
    assert_eq!(signals(&log), [9]);
}

#[test]
fn the_artifact_is_there_before_the_signal() {
    // On the signal the message must already be readable: either it has been read, or it is read without waiting.
    let stage = Setting::node(
        "const net = require('node:net'), fs = require('node:fs');
         let seen = '';
         const socket = new net.Socket({ fd: 3 });
         socket.on('data', (data) => { seen += data; });
         process.on('SIGUSR2', () => {
             try { const b = Buffer.alloc(4096); seen += b.toString('utf8', 0, fs.readSync(3, b)); } catch {}
             fs.writeSync(1, `bell ${seen.trim()}\\n`);
             const { contentHash } = JSON.parse(seen);
             seen = '';
             socket.write(JSON.stringify({ type: 'swapped', contentHash, tookMs: 0.25 }) + '\\n');
         });
         socket.write(process.env.READY + '\\n');",
    )
    .start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    let mut visitor = stage.connect();
    const SWAPS: usize = 20;
    for count in 1..=SWAPS {
        visitor.swap_to(&format!("b{count}")).unwrap();
        let acks =
            || stage.log().iter().filter(|record| matches!(record.step, Step::Swap { ok: true, .. })).count();
        until("an ack", || acks() == count);
    }
    let log = end(stage);
    let bell = |count| {
        let artifact =
            format!(r#""type":"artifact","contentHash":"b{count}","path":"/artifacts/b{count}/index.mjs""#);
        format!("bell {{{artifact}}}\n")
    };
    let bells: String = (1..=SWAPS).map(bell).collect();
    assert_eq!(String::from_utf8(bytes_of(&log, Stream::Stdout)).unwrap(), bells);
    let signal = log.iter().position(|record| matches!(record.step, Step::Signal { .. })).unwrap();
    let ack = log.iter().position(|record| matches!(record.step, Step::Swap { .. })).unwrap();
    assert!(signal < ack);
    assert!(matches!(&log[signal].step, Step::Signal { signal: SIGUSR2, why, content_hash: Some(hash) }
        if why == "only callbacks changed" && hash.as_str() == "b1"));
}

#[test]
fn a_late_word_about_an_older_build_does_not_make_the_newer_one_ring_again() {
    let stage = Setting::sh(&format!(
        r#"trap ':' USR2; echo '{READY}' >&3
           for build in b c; do
               while [ ! -e "skip-$build" ]; do sleep 0.01; done
               echo "{{\"type\":\"swapSkipped\",\"contentHash\":\"$build\",\"reason\":\"late\"}}" >&3
           done
           while :; do sleep 0.05; done"#
    ))
    .start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    let skip = |build: &str| {
        std::fs::write(stage.log_path().with_file_name(format!("skip-{build}")), "").unwrap();
        stage.wait_for(
            "the word",
            |step| matches!(step, Step::Swap { content_hash, .. } if content_hash.as_str() == build),
        );
    };
    let mut visitor = stage.connect();
    visitor.swap_to("b").unwrap();
    visitor.swap_to("c").unwrap();
    skip("b");
    visitor.swap_to("c").unwrap();
    assert_eq!(signals(&stage.log()), [SIGUSR2, SIGUSR2], "it was told of c already");
    skip("c");
    visitor.swap_to("c").unwrap();
    assert_eq!(
        signals(&end(stage)),
        [SIGUSR2, SIGUSR2, SIGUSR2, 9],
        "it skipped c, so it may be asked again"
    );
}

#[test]
fn a_trainer_that_cannot_swap_is_not_signalled() {
    let stage = Setting::sh(
        r#"echo '{"type":"ready","contentHash":"aa","canSwap":false}' >&3; while :; do sleep 0.05; done"#,
    )
    .start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    assert!(stage.connect().swap().unwrap_err().contains("cannot take new callbacks"));
    assert_eq!(signals(&end(stage)), [9]);
}

#[test]
fn a_runner_without_the_channel_is_armed_by_its_handlers() {
    let stage = Setting::sh(
        r#"exec 3>&-; echo closed; while [ ! -e go ]; do sleep 0.01; done
           trap 'echo usr2' USR2; echo armed; while :; do sleep 0.05; done"#,
    )
    .start();
    stage.wait_for_text("closed");
    let mut visitor = stage.connect();
    assert!(visitor.swap().unwrap_err().contains("not armed"), "its SIGUSR2 would be death");
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    stage.wait_for_text("armed");
    visitor.swap().unwrap();
    stage.wait_for_text("usr2");
    assert!(
        visitor.stop(StopMode::Checkpoint).unwrap_err().contains("not armed"),
        "it has no SIGTERM handler"
    );
    assert_eq!(signals(&end(stage)), [SIGUSR2, 9]);
}

#[test]
fn sigterm_is_sent_once() {
    let stage = Setting::sh(&format!(
        r#"trap 'echo term' TERM; trap 'echo usr2' USR2; echo '{READY}' >&3
           while [ ! -e go ]; do sleep 0.01; done; echo '{{"type":"earlyStop","phase":"done"}}' >&3; exit 0"#
    ))
    .start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    let mut visitor = stage.connect();
    visitor.stop(StopMode::Checkpoint).unwrap();
    stage.wait_for_text("term");
    assert!(stage.connect().stop(StopMode::Checkpoint).unwrap_err().contains("already stopping"));
    assert!(visitor.swap().unwrap_err().contains("already stopping"));
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    let log = stage.finish();
    assert_eq!(bytes_of(&log, Stream::Stdout), b"term\n");
    assert_eq!(signals(&log), [SIGTERM]);
    assert_eq!(exit_of(&log), (0, None));
    assert!(matches!(log[log.len() - 2].step, Step::EarlyStop { .. }), "it was said before the end");
}

#[test]
fn a_runner_that_somebody_else_signalled_gets_no_second_signal() {
    let stage = Setting::sh(&format!(
        r#"trap 'echo "{{\"type\":\"earlyStop\",\"phase\":\"waiting\"}}" >&3' TERM; echo '{READY}' >&3
           while [ ! -e go ]; do sleep 0.01; done"#
    ))
    .start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    let runner = process::Identity::of(stage.runner_pid()).unwrap();
    process::PidFd::open(&runner).unwrap().send(SIGTERM).unwrap();
    stage.wait_for("early stop", |step| matches!(step, Step::EarlyStop { .. }));
    let mut visitor = stage.connect();
    assert!(visitor.stop(StopMode::Checkpoint).unwrap_err().contains("already stopping"));
    assert!(visitor.swap().unwrap_err().contains("already stopping"));
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    let log = stage.finish();
    assert!(signals(&log).is_empty());
    assert_eq!(exit_of(&log), (0, None));
}

#[test]
fn a_subscriber_gets_what_it_does_not_know_and_what_follows() {
    let stage = Setting::sh(
        r#"echo one; echo '{"type":"checkpoint","step":1}' >&3; echo two; echo '{"type":"checkpoint","step":2}' >&3
           while [ ! -e go ]; do sleep 0.01; done
           echo three; echo '{"type":"finished","status":"completed"}' >&3"#,
    )
    .start();
    stage.wait_for("the second checkpoint", |step| matches!(step, Step::Checkpoint { step: 2 }));
    let first = stage.log().iter().find(|record| matches!(record.step, Step::Checkpoint { .. })).unwrap().seq;
    let (mut all, mut some) = (stage.connect(), stage.connect());
    all.subscribe(0);
    some.subscribe(first);
    std::fs::write(stage.log_path().with_file_name("go"), "").unwrap();
    let (all, some) = (all.rest(), some.rest());
    let log = stage.finish();
    let life: Vec<Record> = log.iter().filter(|record| !record.step.is_output()).cloned().collect();
    assert_eq!(records(&all), life, "everything but output");
    assert_eq!(records(&some), life[2..], "everything but output, behind what it knew");
    let newest = all.iter().rev().find_map(|said| match said {
        HostSays::Grew { seq, bytes } => Some((*seq, *bytes)),
        _ => None,
    });
    let last = log.last().unwrap().seq;
    assert_eq!(newest.map(|(seq, _)| seq), Some(last), "it is told how far the log goes");
}

#[test]
fn one_that_does_not_read_is_told_of_growth_once_and_holds_nobody_up() {
    let stage = Setting::node(
        "const fs = require('node:fs');
         while (!fs.existsSync('go'));
         const size = () => fs.statSync('events.jsonl').size;
         for (let step = 1; step <= 300; step++) {
             const before = size();
             fs.writeSync(1, `step ${step}\\n`);
             while (size() === before);
         }
         fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step: 300 }) + '\\n');
         while (!fs.existsSync('end'));",
    )
    .start();
    let mut sleeper = stage.connect();
    sleeper.subscribe(0);
    assert!(matches!(sleeper.next(), Some(HostSays::Record { .. })), "it is subscribed");
    let touch = |name| std::fs::write(stage.log_path().with_file_name(name), "").unwrap();
    touch("go");
    stage.wait_for("the checkpoint", |step| matches!(step, Step::Checkpoint { .. }));
    let grown = stage.log().len();
    assert!(grown > 200, "many writes of the log");
    // Now it reads: one old word at most, the records, and the newest word.
    let mut words = Vec::new();
    loop {
        match sleeper.next().unwrap() {
            HostSays::Grew { seq, bytes } => {
                words.push(seq);
                if seq >= grown as u64 {
                    assert_eq!(bytes, std::fs::metadata(stage.log_path()).unwrap().len());
                    break;
                }
            }
            HostSays::Record { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(words.len() <= 3, "{words:?}");
    touch("end");
    let said = sleeper.rest();
    assert!(matches!(records(&said).last().unwrap().step, Step::Exit { code: 0, .. }));
    stage.finish();
}

#[test]
fn a_line_that_is_no_request_ends_that_connection_only() {
    let stage = Setting::sh("echo up; while :; do sleep 0.05; done").start();
    stage.wait_for_text("up");
    let mut other = stage.connect();
    for rubbish in ["not json", r#"{"type":"unknown"}"#, &"x".repeat(2 << 20)] {
        let mut visitor = stage.connect();
        // The host may hang up before it has taken all of a line that is too long.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| visitor.send_line(rubbish)));
        let mut nothing = Vec::new();
        let _ = std::io::Read::read_to_end(&mut visitor.into_inner(), &mut nothing);
        assert!(nothing.is_empty());
    }
    assert!(other.swap().unwrap_err().contains("not armed"));
    end(stage);
}

#[test]
fn requests_after_the_end_are_refused() {
    let stage = Setting::sh("while [ ! -e go ]; do sleep 0.01; done").start();
    let mut visitor = stage.connect();
    std::fs::write(std::path::Path::new(&stage.spec.cwd).join("go"), "").unwrap();
    // Nobody listens yet, so the host stays for a moment.
    stage.wait_for("the end", |step| matches!(step, Step::Exit { .. }));
    for outcome in [visitor.swap(), visitor.stop(StopMode::Checkpoint), visitor.stop(StopMode::Now)] {
        assert!(outcome.unwrap_err().contains("has ended"));
    }
    visitor.subscribe(0);
    assert!(matches!(records(&visitor.rest()).last().unwrap().step, Step::Exit { .. }));
    stage.finish();
}

#[test]
fn rubbish_on_the_control_channel_is_noted() {
    let log =
        Setting::sh(r#"echo rubbish >&3; printf '{"type":"checkpoint","step":1}' >&3"#).start().finish();
    assert!(notes(&log).contains("no message") && notes(&log).contains("rubbish"), "{}", notes(&log));
    assert!(
        log.iter().any(|record| record.step == Step::Checkpoint { step: 1 }),
        "a last line without its end"
    );
}
