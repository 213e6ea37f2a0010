//! Terminal sessions with real shells: what their commands wrote and how they ended, and that nobody sees how that is
//! known.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use wire::CommandId;
use wire::host::HostRequest;
use wire::log::{Record, Step, Stream};
use wire::run::StopMode;

use crate::stage::{Setting, Stage, Visitor, bytes_of, exit_of, notes, until, wait};

const SHELLS: [&str; 2] = ["bash", "dash"];

/// A session, and somebody who works in it.
struct Session {
    stage: Stage,
    visitor: Visitor,
}

/// A command that has ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    /// What stands between its beginning and its end.
    output: String,
    exit_code: i32,
}

impl Session {
    fn open(shell: &str) -> Self {
        Self::start(Setting::shell(shell))
    }

    fn start(setting: Setting) -> Self {
        let stage = setting.start();
        let mut visitor = stage.connect();
        visitor.subscribe(0);
        Self { stage, visitor }
    }

    fn ask(&mut self, text: &str) -> CommandId {
        self.try_ask(text).unwrap()
    }

    fn try_ask(&mut self, text: &str) -> Result<CommandId, String> {
        let command = CommandId::fresh();
        let (asked, text) = (command.clone(), text.to_owned());
        self.visitor.ask(|id| HostRequest::Command { id, command: asked, text })?;
        Ok(command)
    }

    fn type_in(&mut self, text: &str) {
        self.try_type(text.as_bytes()).unwrap();
    }

    fn try_type(&mut self, bytes: &[u8]) -> Result<(), String> {
        let base64 = BASE64_STANDARD.encode(bytes);
        self.visitor.ask(|id| HostRequest::Type { id, base64 })
    }

    fn wait_for_end(&self, command: &CommandId) -> Ended {
        let ended = |step: &Step| matches!(step, Step::Completed { command: other, .. } if other == command);
        self.stage.wait_for("end of a command", ended);
        ended_in(&self.stage.log(), command)
    }

    fn run(&mut self, text: &str) -> Ended {
        let command = self.ask(text);
        self.wait_for_end(&command)
    }

    fn wait_for_text(&self, text: &str) {
        until(text, || screen(&self.stage.log()).contains(text));
    }

    /// Ends the session and checks what holds for every one.
    fn close(mut self) -> Vec<Record> {
        self.visitor.stop(StopMode::Now).unwrap();
        self.ended()
    }

    /// Waits for the session's end and checks what holds for every one.
    fn ended(self) -> Vec<Record> {
        let Self { stage, visitor } = self;
        drop(visitor);
        let log = stage.finish();
        nobody_sees_marks(&log);
        log
    }
}

fn screen(log: &[Record]) -> String {
    String::from_utf8_lossy(&bytes_of(log, Stream::Pty)).into_owned()
}

fn ended_in(log: &[Record], wanted: &CommandId) -> Ended {
    let inputs =
        log.iter().filter(|record| matches!(&record.step, Step::Input { command, .. } if command == wanted));
    let inputs: Vec<u64> = inputs.map(|record| record.seq).collect();
    let ends: Vec<(u64, i32)> = log
        .iter()
        .filter_map(|record| match &record.step {
            Step::Completed { command, input_seq, exit_code, .. } if command == wanted => {
                assert_eq!(*input_seq, inputs.first().copied(), "the end points at its beginning");
                Some((record.seq, *exit_code))
            }
            _ => None,
        })
        .collect();
    assert_eq!((inputs.len(), ends.len()), (1, 1), "each stands in the log once");
    let (from, (to, exit_code)) = (inputs[0], ends[0]);
    let within: Vec<Record> =
        log.iter().filter(|record| record.seq > from && record.seq < to).cloned().collect();
    Ended { output: screen(&within), exit_code }
}

fn ended(output: &str, exit_code: i32) -> Ended {
    Ended { output: output.to_owned(), exit_code }
}

fn nobody_sees_marks(log: &[Record]) {
    let screen = screen(log);
    for hidden in ["7771;", "__midrun"] {
        assert!(!screen.contains(hidden), "{hidden} is shown in {screen:?}");
    }
}

#[test]
fn a_command_ends_with_its_status_and_exactly_its_output() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        assert_eq!(session.run("echo hi"), ended("hi\r\n", 0), "{shell}");
        assert_eq!(session.run("false"), ended("", 1));
        assert_eq!(session.run("echo $?; (exit 7)"), ended("1\r\n", 7), "what was before stays");
        assert_eq!(session.run("printf 'no newline'"), ended("no newline", 0));
        assert_eq!(session.run("cd /; word=\"it's\""), ended("", 0));
        assert_eq!(session.run("pwd; echo \"$word\""), ended("/\r\nit's\r\n", 0), "it is one shell");
        assert_eq!(session.run("set -- a 'b c'"), ended("", 0));
        assert_eq!(session.run("echo $# \"$2\""), ended("2 b c\r\n", 0));
        let lines = "for word in é €; do\n  echo \"$word\"\ndone\ncat <<END\nheld\nEND\n";
        assert_eq!(session.run(lines), ended("é\r\n€\r\nheld\r\n", 0));
        assert_eq!(session.run(""), ended("", 0));
        assert_eq!(session.run("# nothing"), ended("", 0));
        assert_eq!(session.run("kill -9 $(sh -c 'echo $PPID') & wait; true").exit_code, 0);
        let broken = session.run("if then");
        assert!(broken.exit_code == 2 && broken.output.contains("yntax error"), "{broken:?}");
        assert_eq!(session.run("no-such-program 2>/dev/null"), ended("", 127));
        let log = session.close();
        let screen = screen(&log);
        for echo in ["echo hi\r\n", "false\r\n", "if then\r\n", "> done\r\n"] {
            assert!(screen.contains(echo), "{echo:?} is not in {screen:?}");
        }
        assert_eq!(exit_of(&log), (137, Some(9)));
    }
}

#[test]
fn nothing_shows_however_narrow_the_terminal_is() {
    for shell in SHELLS {
        for columns in [2, 3, 5, 9, 10, 11, 12, 20] {
            let mut setting = Setting::shell(shell);
            setting.spec.terminal.as_mut().unwrap().columns = columns;
            let mut session = Session::start(setting);
            let wide = "w".repeat(30);
            assert_eq!(session.run(&format!("echo {wide}; (exit 3)")), ended(&format!("{wide}\r\n"), 3));
            assert_eq!(session.run("PS1='a longer prompt than that$ '").exit_code, 0);
            assert_eq!(session.run("true"), ended("", 0));
            let screen = screen(&session.close());
            assert!(screen.contains(&format!("echo {wide}; (exit 3)\r\n")), "{shell} {columns}: {screen:?}");
        }
    }
}

#[test]
fn output_stands_on_its_side_of_the_end() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        session.run("mkfifo gate");
        let ended_before = session.ask("(read go <gate; echo behind) & echo before");
        assert!(session.wait_for_end(&ended_before).output.contains("before\r\n"));
        fs::write(format!("{}/gate", session.stage.spec.cwd), "go\n").unwrap();
        session.wait_for_text("behind");
        let log = session.close();
        let end = log.iter().position(|record| {
            matches!(&record.step,
            Step::Completed { command, .. } if *command == ended_before)
        });
        let (before, after) = log.split_at(end.unwrap());
        assert!(!screen(before).contains("behind\r\n") && screen(after).contains("behind\r\n"), "{shell}");
    }
}

#[test]
fn commands_wait_for_each_other_and_each_has_its_own_end() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        let asked: Vec<_> =
            (0..12).map(|number| session.ask(&format!("echo {number}; (exit {number})"))).collect();
        for (number, command) in asked.iter().enumerate() {
            let code = i32::try_from(number).unwrap();
            assert_eq!(session.wait_for_end(command), ended(&format!("{number}\r\n"), code), "{shell}");
        }
        session.close();
    }
}

#[test]
fn a_command_that_was_not_begun_can_be_withdrawn() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        session.run("mkfifo gate");
        let first = session.ask("read go <gate; echo $go");
        session
            .stage
            .wait_for("beginning", |step| matches!(step, Step::Input { command, .. } if *command == first));
        let second = session.ask("echo second");
        let withdrawn = second.clone();
        session.visitor.ask(|id| HostRequest::Withdraw { id, command: withdrawn }).unwrap();
        let running = first.clone();
        session.visitor.ask(|id| HostRequest::Withdraw { id, command: running }).unwrap_err();
        fs::write(format!("{}/gate", session.stage.spec.cwd), "gone\n").unwrap();
        assert_eq!(session.wait_for_end(&first), ended("gone\r\n", 0));
        assert_eq!(session.run("echo third"), ended("third\r\n", 0));
        let log = session.close();
        let of_second = |step: &Step| matches!(step, Step::Input { command, .. } | Step::Completed { command, .. } if *command == second);
        assert!(!log.iter().any(|record| of_second(&record.step)), "{shell}");
    }
}

#[test]
fn ctrl_c_ends_a_command_and_not_the_shell() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        let command = session.ask("echo running; sleep 1000; echo never");
        session.wait_for_text("running\r\n");
        session.type_in("\x03");
        let broken_off = session.wait_for_end(&command);
        assert!(broken_off.output.starts_with("running\r\n^C\r\n"), "{shell}: {broken_off:?}");
        assert_eq!(broken_off.exit_code, 130);
        assert_eq!(session.run("echo on"), ended("on\r\n", 0));
        session.close();
    }
}

#[test]
fn the_end_of_the_shell_is_no_end_of_a_command() {
    for shell in SHELLS {
        for ending in ["exit 4", "exec sh -c 'exit 4'", "kill -9 $$"] {
            let mut session = Session::open(shell);
            let command = session.ask(ending);
            let log = session.ended();
            let begun = |step: &Step| matches!(step, Step::Input { command: other, .. } if *other == command);
            assert_eq!(log.iter().filter(|record| begun(&record.step)).count(), 1);
            assert!(
                !log.iter().any(|record| matches!(record.step, Step::Completed { .. })),
                "{shell} {ending}"
            );
            assert_eq!(exit_of(&log).0, if ending.contains('4') { 4 } else { 137 });
        }
    }
}

#[test]
fn output_that_looks_like_a_mark_is_output() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        let mut like = String::new();
        for rest in
            ["", "00112233445566778899aabbccddeeff;D;1;0\\007", "D;1;0\\007", ";;;\\007", "\\033]777\\007"]
        {
            like.push_str(&format!("\\033]7770;{rest}"));
        }
        let shown = like.replace("\\033", "\x1b").replace("\\007", "\x07");
        // In one piece, and byte by byte.
        assert_eq!(session.run(&format!("printf '{like}'; (exit 9)")), ended(&shown, 9));
        let slowly = format!(
            "printf '{like}' >like; while IFS= read -r c; do printf \"$c\"; done <<END\n{}\nEND",
            shown.bytes().map(|byte| format!("\\\\{byte:03o}")).collect::<Vec<_>>().join("\n")
        );
        let slowly = slowly.replace("\\\\", "\\").replace("<<END", "<<'END'");
        assert_eq!(session.run(&slowly).output, shown, "{shell}");
        session.close();
    }
}

#[test]
fn a_persons_shell_stays_as_it_is() {
    for (shell, file) in [("bash", ".bashrc"), ("dash", ".shrc")] {
        let setting = Setting::shell(shell);
        let home = setting.spec.cwd.clone();
        fs::write(format!("{home}/{file}"), "PS1='mine> '\nPROMPT_COMMAND='seen=yes'\nown() { echo own; }\n")
            .unwrap();
        let mut session = Session::start(setting);
        if shell == "dash" {
            session.run(". ./.shrc");
        }
        assert_eq!(session.run("own"), ended("own\r\n", 0));
        assert_eq!(
            session.run("sh -c 'env' | grep -i midrun | grep -v -e '^MIDRUN_TERMINAL_ID=' -e ^_=").output,
            ""
        );
        session.run("PS1='other> '");
        session.wait_for_text("other> ");
        // By hand, where nothing of ours is in the way.
        session.type_in("PS1='by hand> '\r");
        session.wait_for_text("by hand> '\r\n");
        assert_eq!(session.run("echo still"), ended("still\r\n", 0), "{shell}");
        if shell == "bash" {
            let history = "echo $seen; history | grep -c '__mid''run'";
            assert_eq!(session.run(history).output, "yes\r\n0\r\n");
            // The key that brings the last command back.
            session.type_in("\x1b[A");
            until("the last command", || screen(&session.stage.log()).matches(history).count() == 2);
        }
        let screen = screen(&session.close());
        assert!(screen.contains("mine> own\r\n") && screen.contains("other> "), "{screen:?}");
    }
}

#[test]
fn traced_and_redirected_shells_tell_their_ends_too() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        session.run("set -x");
        let traced = session.run("echo traced");
        assert!(
            traced.output.contains("echo traced\r\n") && traced.output.ends_with("traced\r\n"),
            "{traced:?}"
        );
        session.run("set +x");
        assert_eq!(session.run("exec 5>&1 >elsewhere"), ended("", 0), "{shell}");
        assert_eq!(session.run("echo there; (exit 6)"), ended("", 6));
        assert_eq!(session.run("exec >&5; cat elsewhere"), ended("there\r\n", 0));
        assert_eq!(session.run("set -u; true"), ended("", 0));
        assert_eq!(session.run("echo \"${nothing-fine}\""), ended("fine\r\n", 0));
        session.close();
    }
}

#[test]
fn what_is_typed_goes_through_and_a_command_waits_for_a_line_that_was_begun() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        session.run("stty -ctlecho");
        session.type_in("echo ty");
        session.type_in("''ped\r");
        session.wait_for_text("typed\r\n");
        // A line that nobody sends.
        session.type_in("rm -rf never");
        session.wait_for_text("rm -rf never");
        assert_eq!(session.run("echo clear"), ended("clear\r\n", 0), "{shell}");
        // What a command reads.
        let asking = session.ask("read answer; echo \"got $answer\"");
        session
            .stage
            .wait_for("it", |step| matches!(step, Step::Input { command, .. } if *command == asking));
        session.type_in("yes\r");
        assert!(session.wait_for_end(&asking).output.ends_with("got yes\r\n"));
        session.close();
    }
}

#[test]
fn a_terminal_takes_another_size() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        assert_eq!(session.run("stty size"), ended("24 80\r\n", 0));
        session.visitor.ask(|id| HostRequest::Resize { id, rows: 7, columns: 33 }).unwrap();
        assert_eq!(session.run("stty size"), ended("7 33\r\n", 0), "{shell}");
        let log = session.close();
        assert!(log.iter().any(|record| record.step == Step::Resized { rows: 7, columns: 33 }));
        assert!(matches!(log[0].step, Step::Opened { rows: 24, columns: 80, .. }));
    }
}

#[test]
fn what_waits_is_bounded_and_what_is_refused_is_not_done() {
    let mut session = Session::open("bash");
    let busy = session.ask("stty raw -echo; echo raw; sleep 1000");
    session.wait_for_text("raw\n");
    let mut taken = 0;
    while session.try_ask("echo later").is_ok() {
        taken += 1;
        assert!(taken < 100, "no bound");
    }
    assert!(session.try_ask("x").unwrap_err().starts_with("busy: "));
    let chunk = vec![b'x'; 16 * 1024];
    let mut typed = 0;
    while session.try_type(&chunk).is_ok() {
        typed += 1;
        assert!(typed < 100, "no bound");
    }
    assert!(session.try_type(&chunk).unwrap_err().starts_with("busy: "));
    assert!(session.try_ask("nul \0").unwrap_err().contains("NUL"));
    let log = session.close();
    assert!(
        !log.iter().any(|record| matches!(&record.step, Step::Completed { command, .. } if *command == busy))
    );
}

#[test]
fn whatever_a_session_started_ends_with_it() {
    for shell in SHELLS {
        let mut session = Session::open(shell);
        session.run("sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &)");
        session.close();
        let mut session = Session::open(shell);
        session.run("nohup setsid sleep 1000 >/dev/null 2>&1 &");
        session.ask("exit");
        assert!(notes(&session.ended()).contains("ended what the runner left behind"), "{shell}");
    }
}

#[test]
fn a_session_that_nobody_comes_to_ends_by_itself() {
    let mut setting = Setting::shell("bash");
    setting.spec.terminal.as_mut().unwrap().alone_ms = 300;
    let mut stage = setting.start();
    assert!(wait(&mut stage.host).success());
    let log = stage.log();
    assert!(
        log.iter()
            .any(|record| matches!(&record.step, Step::Signal { why, .. } if why.contains("no server")))
    );
    assert_eq!(exit_of(&log).0, 137);
}

#[test]
fn a_session_somebody_listens_to_does_not_end_by_itself() {
    let mut setting = Setting::shell("bash");
    setting.spec.terminal.as_mut().unwrap().alone_ms = 5_000;
    let mut session = Session::start(setting);
    assert_eq!(session.run("sleep 6; echo there"), ended("there\r\n", 0));
    session.close();
}

#[test]
fn the_end_of_a_busy_terminal_takes_less_than_a_moment() {
    let mut session = Session::open("bash");
    session.ask("trap '' TERM HUP INT; yes");
    session.wait_for_text("y\r\ny\r\n");
    let begun = std::time::Instant::now();
    session.close();
    assert!(begun.elapsed() < Duration::from_secs(20));
}
