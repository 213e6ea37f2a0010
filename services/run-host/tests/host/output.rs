//! Every byte, in order.

use std::time::Instant;

use sha2::{Digest as _, Sha256};
use wire::log::{Step, Stream};

use crate::stage::{LIMIT, Setting, bytes_of, exit_of, notes};

#[test]
fn what_was_written_before_a_message_stands_before_it() {
    let log = Setting::node(
        "const fs = require('node:fs');
         for (let step = 1; step <= 300; step++) {
             fs.writeSync(1, `out ${step}\\n`);
             fs.writeSync(2, `err ${step}\\n`);
             fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step }) + '\\n');
         }",
    )
    .start()
    .finish();
    assert_eq!(exit_of(&log), (0, None));
    let mut checkpoints = 0;
    for (index, record) in log.iter().enumerate() {
        if let Step::Checkpoint { step } = record.step {
            checkpoints += 1;
            assert_eq!(step, checkpoints);
            for (stream, name) in [(Stream::Stdout, "out"), (Stream::Stderr, "err")] {
                let before = String::from_utf8(bytes_of(&log[..index], stream)).unwrap();
                assert!(
                    before.contains(&format!("{name} {step}\n")),
                    "{name} {step} stands behind its message"
                );
            }
        }
    }
    assert_eq!(checkpoints, 300);
}

#[test]
fn a_character_that_comes_in_two_parts_is_one() {
    // The second part is written when the first one has surely been read.
    let stage = Setting::sh(
        r#"trap : USR2; echo "$READY" >&3; printf 'a\342\202'; read -r artifact <&3; printf '\254b\n'"#,
    )
    .start();
    stage.wait_for_text("a");
    stage.connect().swap().unwrap();
    let log = stage.finish();
    assert_eq!(bytes_of(&log, Stream::Stdout), "a€b\n".as_bytes());
    let is_base64 = |step: &Step| matches!(step, Step::Output { base64: Some(_), .. });
    assert!(!log.iter().any(|record| is_base64(&record.step)));
}

#[test]
fn bytes_that_are_no_text_are_kept_as_they_are() {
    let log = Setting::sh(r"printf 'caf\351\n\033[31mred\033[0m \000\n\360\237'").start().finish();
    assert_eq!(bytes_of(&log, Stream::Stdout), b"caf\xe9\n\x1b[31mred\x1b[0m \0\n\xf0\x9f");
    assert!(log.iter().any(|record| matches!(&record.step,
        Step::Output { text: Some(text), .. } if text.contains("\u{1b}[31mred\u{1b}[0m"))));
}

/// Runs a node script that writes its standard output's SHA-256 to standard error.
fn great_output(make: &str) {
    let script = format!(
        "const fs = require('node:fs'), crypto = require('node:crypto');
         const sum = crypto.createHash('sha256');
         let left = 50_000_000;
         while (left > 0) {{
             const bytes = Buffer.from({make}).subarray(0, left);
             sum.update(bytes);
             for (let at = 0; at < bytes.length;) at += fs.writeSync(1, bytes, at);
             left -= bytes.length;
         }}
         fs.writeSync(2, sum.digest('hex'));"
    );
    let before = Instant::now();
    let log = Setting::node(&script).start().finish();
    let took = before.elapsed();
    assert_eq!(exit_of(&log), (0, None));
    assert_eq!(notes(&log), "");
    let output = bytes_of(&log, Stream::Stdout);
    assert_eq!(output.len(), 50_000_000);
    let sum: String = Sha256::digest(&output).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum.as_bytes(), bytes_of(&log, Stream::Stderr), "not the bytes that were written");
    println!("50 MB in {took:?}");
    assert!(took < LIMIT);
}

#[test]
fn fifty_megabytes_of_text_lose_not_a_byte() {
    great_output("`step ${left} loss ${Math.random()} \\u001b[32mé€😀\\u001b[0m\\r\\n`.repeat(1500)");
}

#[test]
fn fifty_megabytes_of_noise_lose_not_a_byte() {
    great_output("crypto.randomBytes(100_000)");
}

#[test]
fn a_terminal_is_one_stream() {
    let mut setting =
        Setting::sh("test -t 0 && test -t 1 && test -t 2 && echo out && echo err >&2; stty size");
    setting.spec.pty = true;
    let log = setting.start().finish();
    assert_eq!(bytes_of(&log, Stream::Pty), b"out\r\nerr\r\n50 160\r\n");
    assert_eq!(exit_of(&log), (0, None));
}

#[test]
fn a_runner_on_a_terminal_has_its_control_channel_and_its_progress_bar() {
    // A bar as real tools draw it: on a terminal only, as wide as that, drawn over itself.
    let mut setting = Setting::node(
        "const fs = require('node:fs');
         const out = process.stdout;
         process.on('SIGUSR2', () => {
             fs.writeSync(3, JSON.stringify({ type: 'swapped', contentHash: 'bb', tookMs: 1 }) + '\\n');
             process.exit(0);
         });
         for (let step = 1; step <= 3; step++) {
             const bar = '#'.repeat(step).padEnd(out.columns - 20, '.');
             if (out.isTTY && process.stdin.isTTY) out.write(`\\r\\u001b[2K[${bar}] ${step}/3`);
             fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step }) + '\\n');
         }
         fs.writeSync(3, process.env.READY + '\\n');
         setInterval(() => {}, 1000);",
    );
    setting.spec.pty = true;
    let stage = setting.start();
    stage.wait_for("ready", |step| matches!(step, Step::Ready { .. }));
    stage.connect().swap().unwrap();
    let log = stage.finish();
    let bars: Vec<String> =
        (1..=3).map(|step| format!("\r\x1b[2K[{:.<140}] {step}/3", "#".repeat(step))).collect();
    assert_eq!(String::from_utf8(bytes_of(&log, Stream::Pty)).unwrap(), bars.concat());
    let mut seen = String::new();
    for record in &log {
        match &record.step {
            Step::Output { stream, text, .. } => {
                assert_eq!(*stream, Stream::Pty);
                seen.push_str(text.as_deref().unwrap());
            }
            Step::Checkpoint { step } => {
                assert!(seen.contains(&format!("{step}/3")), "its bar stands before a checkpoint");
            }
            _ => {}
        }
    }
    assert!(log.iter().any(|record| matches!(&record.step, Step::Swap { ok: true, .. })));
    assert_eq!(exit_of(&log), (0, None));
}

#[test]
fn what_was_written_to_a_terminal_before_a_message_stands_before_it() {
    let mut setting = Setting::node(
        "const fs = require('node:fs');
         for (let step = 1; step <= 100; step++) {
             const bytes = Buffer.from('.'.repeat(30_000) + `out ${step}|`);
             for (let at = 0; at < bytes.length;) at += fs.writeSync(1, bytes, at);
             fs.writeSync(3, JSON.stringify({ type: 'checkpoint', step }) + '\\n');
         }",
    );
    setting.spec.pty = true;
    let log = setting.start().finish();
    let (mut seen, mut checkpoints) = (String::new(), 0);
    for record in &log {
        match &record.step {
            Step::Output { text, .. } => seen.push_str(text.as_deref().unwrap()),
            Step::Checkpoint { step } => {
                checkpoints += 1;
                assert!(seen.contains(&format!("out {step}|")), "the output before {step} stands behind it");
            }
            _ => {}
        }
    }
    assert_eq!((checkpoints, seen.matches('.').count()), (100, 3_000_000));
}

#[test]
fn the_runner_has_its_folder_and_environment_and_nothing_else() {
    let mut setting = Setting::node(
        "const { spawnSync } = require('node:child_process');
         console.log(process.cwd(), process.env.MIDRUN_RUN_ID, process.env.MIDRUN_CONTROL_FD,
             process.env.MIDRUN_HOT_SWAP_SIGNAL, process.env.OWN);
         spawnSync('readlink', ['/proc/self/fd/0'], { stdio: ['inherit', 'inherit', 'inherit'] });
         spawnSync('ls', ['-l', '/proc/self/fd'], { stdio: ['ignore', 'inherit', 'inherit'] });",
    );
    setting.spec.env.insert("OWN".to_owned(), "value".to_owned());
    let stage = setting.start();
    let (cwd, run) = (stage.spec.cwd.clone(), stage.spec.run.clone());
    let text = String::from_utf8(bytes_of(&stage.finish(), Stream::Stdout)).unwrap();
    assert!(text.starts_with(&format!("{cwd} {run} 3 12 value\n/dev/null\n")), "{text}");
    assert!(!text.contains("socket:"), "the control channel reached a child of the runner: {text}");
}
