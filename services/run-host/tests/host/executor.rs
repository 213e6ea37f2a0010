//! A host whose process is a job's executor: no control channel, its order on standard input.

use wire::log::{Step, Stream};
use wire::run::StopMode;

use crate::stage::{Setting, bytes_of, exit_of};

fn executor(script: &str, order: &str) -> Setting {
    let mut setting = Setting::sh(script);
    let path = format!("{}/order.json", setting.spec.cwd);
    std::fs::write(&path, order).unwrap();
    setting.spec.stdin = Some(path);
    setting.spec.executor = true;
    setting
}

#[test]
fn its_order_comes_on_standard_input_with_an_end() {
    // Whoever runs the test may have left a descriptor 3 open that is no control channel.
    let script = r#"cat; echo "fd3 $(readlink /proc/$$/fd/3 | grep -o socket)${MIDRUN_CONTROL_FD-}""#;
    let log = executor(script, "{\"jobId\":\"j\"}\n").start().finish();
    assert_eq!(String::from_utf8(bytes_of(&log, Stream::Stdout)).unwrap(), "{\"jobId\":\"j\"}\nfd3 \n");
    assert_eq!(exit_of(&log), (0, None));
}

#[test]
fn it_may_be_told_to_stop_at_any_time_and_never_to_swap() {
    let saving = "echo saved; while ! [ -e told-twice ]; do sleep 0.01; done; exit 0";
    let script = format!("trap '{saving}' TERM; echo armed; while :; do sleep 0.01; done");
    let setting = executor(&script, "");
    let told_twice = format!("{}/told-twice", setting.spec.cwd);
    let stage = setting.start();
    stage.wait_for_text("armed");
    let mut visitor = stage.connect();
    assert!(visitor.swap().is_err(), "the default action of SIGUSR2 is death");
    visitor.stop(StopMode::Checkpoint).unwrap();
    assert!(visitor.stop(StopMode::Checkpoint).unwrap_err().contains("already"), "once");
    std::fs::write(told_twice, "").unwrap();
    drop(visitor);
    let log = stage.finish();
    assert_eq!(String::from_utf8(bytes_of(&log, Stream::Stdout)).unwrap(), "armed\nsaved\n");
    assert!(log.iter().any(|record| matches!(record.step, Step::Signal { signal: 15, .. })));
    assert_eq!(exit_of(&log), (0, None));
}

#[test]
fn an_order_that_is_not_there_is_an_end_that_says_so() {
    let mut setting = executor("cat", "");
    setting.spec.stdin = Some("/no/such/order".to_owned());
    let log = setting.start().finish();
    assert!(matches!(&log[0].step, Step::Note { text } if text.contains("could not be started")));
    assert_eq!(exit_of(&log).0, 127);
}
