//! The dialogue, told what a shell writes and what time it is.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECRET: &str = "00112233445566778899aabbccddeeff";

fn mark(rest: &str) -> Vec<u8> {
    format!("\x1b]7771;{SECRET};{rest}\x07").into_bytes()
}

/// What was heard, with output in a row as one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Output(String),
    Taken(String),
    Done { command: String, input: Option<u64>, status: i32 },
    Note(String),
}

/// A dialogue, and everything that it said.
struct Ear {
    dialogue: Dialogue,
    now: Instant,
    said: Vec<Said>,
}

impl Ear {
    fn new() -> Self {
        let now = Instant::now();
        Self { dialogue: Dialogue::new(SECRET, now), now, said: Vec::new() }
    }

    /// At its first prompt.
    fn at_prompt() -> Self {
        let mut ear = Self::new();
        ear.hear(&[mark("P;0;0"), b"$ ".to_vec()].concat());
        assert_eq!(ear.take(), [Said::Output("$ ".into())]);
        ear
    }

    /// With this command running as the first one.
    fn running(text: &str) -> Self {
        let mut ear = Self::at_prompt();
        ear.line_up("c1", text);
        assert_eq!(ear.offer().unwrap().number, 1);
        ear.hear(&[b"__midrun\r\n".to_vec(), mark("S;1")].concat());
        assert_eq!(ear.take(), [Said::Output(format!("{text}\r\n")), Said::Taken("c1".into())]);
        ear
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Self { dialogue, now, said } = self;
        dialogue.hear(bytes, *now, &mut |heard| note(heard, said));
    }

    fn wait(&mut self, time: Duration) {
        let Self { dialogue, now, said } = self;
        *now += time;
        dialogue.look_after(*now, &mut |heard| note(heard, said));
    }

    fn line_up(&mut self, command: &str, text: &str) {
        self.dialogue.line_up(command.into(), text.to_owned()).unwrap();
    }

    /// With a shell that is not seen to be at rest.
    fn offer(&mut self) -> Option<Offer> {
        self.dialogue.offer(self.now, || false)
    }

    fn offer_at_rest(&mut self) -> Option<Offer> {
        self.dialogue.offer(self.now, || true)
    }

    fn take(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }
}

fn note(heard: Heard<'_>, said: &mut Vec<Said>) -> Option<u64> {
    match (heard, said.last_mut()) {
        (Heard::Output(bytes), Some(Said::Output(text))) => text.push_str(&String::from_utf8_lossy(bytes)),
        (Heard::Output(bytes), _) => said.push(Said::Output(String::from_utf8_lossy(bytes).into_owned())),
        (Heard::Taken { command, .. }, _) => said.push(Said::Taken(command.to_string())),
        (Heard::Done { command, input, status, .. }, _) => {
            said.push(Said::Done { command: command.to_string(), input, status });
        }
        (Heard::Note(text), _) => said.push(Said::Note(text)),
    }
    Some(said.len() as u64)
}

fn done(status: i32) -> Said {
    Said::Done { command: "c1".into(), input: Some(2), status }
}

fn out(text: &str) -> Said {
    Said::Output(text.into())
}

#[test]
fn a_completion_stands_between_what_was_written_before_and_after() {
    let mut ear = Ear::running("make");
    ear.hear(
        &[b"made".to_vec(), mark("D;1;3"), b"late\r\n".to_vec(), mark("P;1;3"), b"$ ".to_vec()].concat(),
    );
    assert_eq!(ear.take(), [out("made"), done(3), out("late\r\n$ ")]);
}

#[test]
fn a_line_that_was_broken_off_is_done_at_the_next_prompt() {
    let mut ear = Ear::running("sleep 5");
    ear.hear(&[b"^C\r\n".to_vec(), mark("P;1;130"), b"$ ".to_vec()].concat());
    assert_eq!(ear.take(), [out("^C\r\n"), done(130), out("$ ")]);
    // Once.
    ear.hear(&mark("D;1;0"));
    ear.hear(&mark("P;1;0"));
    assert_eq!(ear.take(), []);
}

#[test]
fn marks_of_other_commands_complete_nothing() {
    let mut ear = Ear::running("x");
    for other in ["D;0;0", "D;2;0", "P;0;0", "P;2;0", "S;1", "S;2", "D;1;x", "nonsense"] {
        ear.hear(&mark(other));
        assert_eq!(ear.take(), [], "{other}");
    }
    ear.hear(format!("\x1b]7771;{};D;1;0\x07", SECRET.replace('0', "1")).as_bytes());
    assert!(matches!(&ear.take()[..], [Said::Output(_)]), "it lacks the secret, so it is output");
    ear.hear(&mark("D;1;0"));
    assert_eq!(ear.take(), [Said::Done { command: "c1".into(), input: Some(2), status: 0 }]);
}

#[test]
fn the_end_of_the_shell_completes_nothing() {
    let mut ear = Ear::running("exit 4");
    ear.hear(b"bye");
    let Ear { dialogue, now, said } = &mut ear;
    dialogue.finish(*now, &mut |heard| note(heard, said));
    assert_eq!(ear.take(), [out("bye")]);
}

#[test]
fn commands_are_offered_one_after_another_each_with_its_own_number() {
    let mut ear = Ear::at_prompt();
    ear.line_up("c1", "one");
    ear.line_up("c2", "two");
    assert!(!ear.dialogue.line_up("c2".into(), String::new()).unwrap_err().1);
    let first = ear.offer().unwrap();
    assert_eq!((first.number, first.text.as_str(), first.line.as_str()), (1, "one", "__midrun\n"));
    assert_eq!(ear.offer(), None);
    ear.hear(&[b"__midrun\r\n".to_vec(), mark("S;1")].concat());
    assert_eq!(ear.offer_at_rest(), None, "it runs one");
    ear.hear(&mark("D;1;0"));
    assert_eq!(ear.offer(), None, "there is no prompt yet");
    ear.hear(&mark("P;1;0"));
    assert_eq!(ear.offer().unwrap().number, 2);
}

#[test]
fn what_waits_is_bounded() {
    let mut ear = Ear::at_prompt();
    for number in 0..QUEUE {
        ear.line_up(&format!("c{number}"), "x");
    }
    assert!(ear.dialogue.line_up("more".into(), "x".into()).unwrap_err().1);
    assert!(ear.dialogue.withdraw(&"c3".into()));
    assert!(!ear.dialogue.withdraw(&"c3".into()));
    ear.line_up("more", "x");
    assert!(ear.offer().is_some());
    assert!(!ear.dialogue.withdraw(&"c0".into()), "the shell may have it");
}

#[test]
fn a_line_that_somebody_types_is_left_alone_for_a_while() {
    let mut ear = Ear::at_prompt();
    ear.dialogue.typed(b"git com", ear.now);
    ear.line_up("c1", "one");
    assert_eq!(ear.offer_at_rest(), None);
    ear.wait(QUIET);
    assert_eq!(ear.offer(), None, "something else is in front");
    assert_eq!(ear.offer_at_rest().unwrap().line, "\x05\x15__midrun\n");
}

#[test]
fn a_line_that_was_sent_is_waited_for() {
    let mut ear = Ear::at_prompt();
    ear.dialogue.typed(b"sleep 9\r", ear.now);
    ear.line_up("c1", "one");
    ear.wait(QUIET / 2);
    assert_eq!(ear.offer_at_rest(), None);
    ear.hear(&mark("P;0;0"));
    assert_eq!(ear.offer().unwrap().line, "__midrun\n");
}

#[test]
fn nothing_is_offered_before_the_shell_is_set_up() {
    let mut ear = Ear::new();
    ear.line_up("c1", "one");
    ear.wait(QUIET * 20);
    assert_eq!(ear.offer_at_rest(), None);
}

#[test]
fn an_offer_that_is_not_taken_is_made_again_and_then_given_up() {
    let mut ear = Ear::at_prompt();
    ear.line_up("c1", "one");
    assert_eq!(ear.offer().unwrap().number, 1);
    ear.hear(b"__midrun\r\nsh: __midrun: not found\r\n");
    assert_eq!(ear.take(), [], "the echo is waited for");
    ear.wait(TAKE);
    assert_eq!(ear.take(), [out("__midrun\r\nsh: __midrun: not found\r\n")]);
    ear.wait(QUIET);
    assert_eq!(ear.offer_at_rest().unwrap().number, 1, "the same number: it is taken once at most");
    ear.wait(TAKE);
    assert!(matches!(&ear.take()[..], [Said::Note(text)] if text.contains("c1")));
    ear.wait(QUIET);
    assert_eq!(ear.offer_at_rest(), None);
}

#[test]
fn a_shell_that_takes_its_time_has_the_command_all_the_same() {
    let mut ear = Ear::at_prompt();
    ear.line_up("c1", "one");
    assert!(ear.offer().is_some());
    ear.wait(TAKE);
    ear.hear(&mark("S;1"));
    ear.hear(&mark("D;1;0"));
    assert_eq!(
        ear.take(),
        [Said::Taken("c1".into()), Said::Done { command: "c1".into(), input: Some(1), status: 0 }]
    );
}

proptest! {
    /// However a session's output is cut, it is the same story, and nobody sees a mark.
    #[test]
    fn chunks_change_nothing(
        outputs in vec("[ -~\r\n\u{1b}]{0,30}", 4),
        cuts in vec(1..40_usize, 1..20),
        status in 0..256,
    ) {
        let [before, during, late, after] = &outputs[..] else { unreachable!() };
        let whole = [
            b"__midrun\r\n\x1b[?2004l\r".to_vec(), mark("S;1"), during.clone().into_bytes(),
            mark(&format!("D;1;{status}")), late.clone().into_bytes(), mark(&format!("P;1;{status}")),
            after.clone().into_bytes(), b"$ ".to_vec(),
        ].concat();
        let tell = |sizes: &[usize]| {
            let mut ear = Ear::at_prompt();
            ear.hear(before.as_bytes());
            ear.line_up("c1", "do it");
            ear.offer().unwrap();
            let (mut rest, mut sizes) = (whole.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                ear.hear(chunk);
                rest = behind;
            }
            ear.take()
        };
        let at_once = tell(&[usize::MAX]);
        prop_assert_eq!(&tell(&cuts), &at_once);
        let story: Vec<Said> = at_once.into_iter().filter(|said| !matches!(said, Said::Output(_))).collect();
        let is_done = |said: &Said| matches!(said, Said::Done { status: seen, .. } if *seen == status);
        prop_assert_eq!(&story[0], &Said::Taken("c1".into()));
        prop_assert!(is_done(&story[1]));
        prop_assert_eq!(story.len(), 2);
        let shown: String = tell(&cuts).into_iter().filter_map(|said| match said {
            Said::Output(text) => Some(text),
            _ => None,
        }).collect();
        prop_assert!(!shown.contains(SECRET) && !shown.contains("__midrun"));
        let expected = format!("{before}do it\r\n\x1b[?2004l{during}{late}{after}$ ");
        prop_assert_eq!(shown.replace('\r', ""), expected.replace('\r', ""));
    }
}
