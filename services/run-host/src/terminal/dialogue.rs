//! The dialogue with a shell: which commands wait, which one it has, and what of the terminal's output is whose.
//!
//! ```text
//!            offer (the line is typed)          taken                 done, or the next prompt
//!  Prompt ---------------------------> Offered -------> Running -----------------------------> Busy --prompt--> Prompt
//!    ^ \--somebody types a whole line--> Busy              \--the shell ends: no completion
//!    |                                    |
//!    +---------------prompt---------------+
//! ```
//!
//! A command does not travel through the terminal: it stands in a file, and what is typed is the name of an alias that
//! has the shell take it from there ([`super::integration`]). So the terminal echoes that name and never a mark, and
//! where it does, the command stands in the log, as if it had been typed.
//!
//! What must hold: a command is done only when the shell says so with the session's secret and the command's own
//! number; its completion stands exactly between what was written before and after it; everything that is no mark and
//! not the echo of that name is output, in order. Knows no terminal and no clock: it is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use wire::CommandId;

use super::echo;
use super::marks::{Mark, Marks, Piece};

/// How many commands may wait.
pub(crate) const QUEUE: usize = 16;

/// What is typed to have the shell take a command.
pub(crate) const LINE: &str = "__midrun";

/// Clears what somebody has typed and not sent: to the end of the line, and all before it.
const CLEAR: &str = "\x05\x15";

/// How long nothing may have happened until a shell that shows no prompt of ours, or a line that somebody has begun to
/// type, is taken to be at rest.
const QUIET: Duration = Duration::from_secs(1);

/// How often it is looked whether the shell is at rest.
const LOOK: Duration = Duration::from_millis(250);

/// How long a shell may need to take a command that it was offered.
const TAKE: Duration = Duration::from_secs(5);

/// How often a command is offered.
const OFFERS: u32 = 2;

/// How much output may come before the shell has taken what it was offered, bytes; its echo is in there.
const ECHO: usize = 16 * 1024;

/// What the terminal's output turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// The shell's, or that of what it runs.
    Output(&'a [u8]),
    /// The shell took a command.
    Taken { command: CommandId, text: String },
    /// A command came to its end.
    Done { command: CommandId, input: Option<u64>, status: i32, took: Duration },
    /// Something for a person to know.
    Note(String),
}

/// What is to be done to have the shell take a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The command's number, which no other command of this session has.
    pub(crate) number: u64,
    /// The command.
    pub(crate) text: String,
    /// What is to be typed when the command is where the shell takes it from.
    pub(crate) line: String,
}

/// A command that the shell has not taken.
#[derive(Debug)]
struct Waiting {
    command: CommandId,
    text: String,
    /// Since it was offered for the first time.
    number: Option<u64>,
    offers: u32,
}

/// What the shell is doing, as far as is known.
#[derive(Debug)]
enum Shell {
    /// Something of its own, or of somebody who types.
    Busy,
    /// It waits for a line.
    Prompt,
    /// The first command that waits was offered to it.
    Offered {
        since: Instant,
        /// What it wrote since then: the echo, and what else there may be.
        echo: Vec<u8>,
    },
    /// It runs a command.
    Running { command: CommandId, since: Instant, input: Option<u64> },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Dialogue {
    marks: Marks,
    talk: Talk,
}

#[derive(Debug)]
struct Talk {
    shell: Shell,
    waiting: VecDeque<Waiting>,
    /// The number of the newest command that was offered.
    last: u64,
    /// The number of the command that the shell took last.
    taken: u64,
    /// Somebody has typed what may be the beginning of the shell's next line.
    begun: bool,
    /// Our prompt was seen once: the shell is set up.
    set_up: bool,
    /// When something last came from the terminal or was typed.
    stirred: Instant,
}

impl Dialogue {
    /// With a shell that has just been started and marks what it says with `secret`.
    pub(crate) fn new(secret: &str, now: Instant) -> Self {
        let talk = Talk {
            shell: Shell::Busy,
            begun: false,
            waiting: VecDeque::new(),
            last: 0,
            taken: 0,
            set_up: false,
            stirred: now,
        };
        Self { marks: Marks::with(secret), talk }
    }

    /// Takes what the terminal wrote and hands out what it is. `each` answers the number of the record it makes.
    pub(crate) fn hear(
        &mut self,
        bytes: &[u8],
        now: Instant,
        each: &mut impl FnMut(Heard<'_>) -> Option<u64>,
    ) {
        let Self { marks, talk } = self;
        talk.stirred = now;
        // A mark that tells nobody anything, such as a prompt's, does not cut the output around it.
        let mut output = Vec::new();
        marks.feed(bytes, now, |piece| {
            talk.hear(&piece, now, &mut |heard| {
                if let Heard::Output(more) = heard {
                    output.extend_from_slice(more);
                    return None;
                }
                hand_out(&mut output, each);
                each(heard)
            });
        });
        hand_out(&mut output, each);
    }

    /// Somebody types these bytes.
    pub(crate) fn typed(&mut self, bytes: &[u8], now: Instant) {
        let talk = &mut self.talk;
        talk.stirred = now;
        talk.begun = true;
        if matches!(talk.shell, Shell::Prompt) && bytes.iter().any(|byte| sends_the_line(*byte)) {
            talk.shell = Shell::Busy;
            talk.begun = false;
        }
    }

    /// Lines a command up.
    ///
    /// # Errors
    /// What speaks against it, for a person; the `bool` says whether it may be tried again.
    pub(crate) fn line_up(&mut self, command: CommandId, text: String) -> Result<(), (String, bool)> {
        let running = matches!(&self.talk.shell, Shell::Running { command: other, .. } if *other == command);
        if running || self.talk.waiting.iter().any(|waiting| waiting.command == command) {
            return Err((format!("a command {command} is under way already"), false));
        }
        if self.talk.waiting.len() >= QUEUE {
            return Err((format!("{QUEUE} commands wait for the shell already"), true));
        }
        self.talk.waiting.push_back(Waiting { command, text, number: None, offers: 0 });
        Ok(())
    }

    /// Forgets a command, unless the shell has it or may have it.
    pub(crate) fn withdraw(&mut self, command: &CommandId) -> bool {
        let offered = self.is_offering();
        let place = self.talk.waiting.iter().position(|waiting| waiting.command == *command);
        match place {
            Some(0) if offered => false,
            Some(place) => self.talk.waiting.remove(place).is_some(),
            None => false,
        }
    }

    /// Whether the shell was offered a command that it has not taken.
    pub(crate) const fn is_offering(&self) -> bool {
        matches!(self.talk.shell, Shell::Offered { .. })
    }

    /// Offers the shell the first command that waits, if it waits for one. Where that cannot be known from what it
    /// wrote, `at_rest` is asked, which knows its processes.
    pub(crate) fn offer(&mut self, now: Instant, at_rest: impl FnOnce() -> bool) -> Option<Offer> {
        let talk = &mut self.talk;
        let waiting = talk.waiting.front_mut()?;
        let is_quiet = talk.set_up && now >= talk.stirred + QUIET;
        let clear = match talk.shell {
            Shell::Offered { .. } | Shell::Running { .. } => return None,
            Shell::Prompt if !talk.begun => "",
            Shell::Prompt | Shell::Busy => (is_quiet && at_rest()).then_some(CLEAR)?,
        };
        let number = *waiting.number.get_or_insert_with(|| {
            talk.last += 1;
            talk.last
        });
        waiting.offers += 1;
        talk.shell = Shell::Offered { since: now, echo: Vec::new() };
        talk.begun = false;
        Some(Offer { number, text: waiting.text.clone(), line: format!("{clear}{LINE}\n") })
    }

    /// When there is something to do although nothing happens.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let talk = &self.talk;
        let own = match &talk.shell {
            Shell::Offered { since, .. } => Some(*since + TAKE),
            Shell::Prompt | Shell::Busy if talk.set_up && !talk.waiting.is_empty() => {
                Some((talk.stirred + QUIET).max(now + LOOK))
            }
            _ => None,
        };
        own.into_iter().chain(self.marks.due()).min()
    }

    /// Lets go of what was held back for long enough, and of an offer that was not taken.
    pub(crate) fn look_after(&mut self, now: Instant, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        let Self { marks, talk } = self;
        marks.let_go(now, |piece| talk.hear(&piece, now, each));
        if matches!(talk.shell, Shell::Offered { since, .. } if now >= since + TAKE) {
            talk.let_go_of_offer(each);
            talk.shell = Shell::Busy;
            talk.stirred = now;
            if let Some(given_up) = talk.waiting.pop_front_if(|waiting| waiting.offers >= OFFERS) {
                let text = format!(
                    "the shell does not take command {}, which is given up: its alias {LINE} may be gone",
                    given_up.command
                );
                each(Heard::Note(text));
            }
        }
    }

    /// The terminal is closed: hands out what was held back.
    pub(crate) fn finish(&mut self, now: Instant, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        let Self { marks, talk } = self;
        marks.finish(|piece| talk.hear(&piece, now, each));
        talk.let_go_of_offer(each);
    }
}

impl Talk {
    fn hear(&mut self, piece: &Piece<'_>, now: Instant, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        match *piece {
            Piece::Output(bytes) => {
                let Shell::Offered { echo, .. } = &mut self.shell else {
                    each(Heard::Output(bytes));
                    return;
                };
                echo.extend_from_slice(bytes);
                if echo.len() > ECHO {
                    self.let_go_of_offer(each);
                }
            }
            Piece::Mark(Mark::Taken(number)) => self.took(number, now, each),
            Piece::Mark(Mark::Done { command, status }) => self.ended(command, status, now, each),
            Piece::Mark(Mark::Prompt { command, status }) => {
                self.set_up = true;
                // A line that was broken off, by Ctrl-C or by an error in it, says no more.
                self.ended(command, status, now, each);
                if matches!(self.shell, Shell::Busy) && command == self.taken {
                    self.shell = Shell::Prompt;
                }
            }
        }
    }

    fn took(&mut self, number: u64, now: Instant, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        if matches!(self.shell, Shell::Running { .. }) {
            return;
        }
        self.taken = self.taken.max(number);
        let Some(taken) = self.waiting.pop_front_if(|waiting| waiting.number == Some(number)) else { return };
        if let Shell::Offered { echo, .. } = &mut self.shell {
            let echo = std::mem::take(echo);
            each(Heard::Output(&echo::with_command(&echo, LINE, &taken.text)));
        }
        let command = taken.command.clone();
        let input = each(Heard::Taken { command: taken.command, text: taken.text });
        self.shell = Shell::Running { command, since: now, input };
    }

    fn ended(
        &mut self,
        number: u64,
        status: i32,
        now: Instant,
        each: &mut impl FnMut(Heard<'_>) -> Option<u64>,
    ) {
        if number != self.taken || !matches!(self.shell, Shell::Running { .. }) {
            return;
        }
        let ended = std::mem::replace(&mut self.shell, Shell::Busy);
        if let Shell::Running { command, since, input } = ended {
            each(Heard::Done { command, input, status, took: now.saturating_duration_since(since) });
        }
    }

    /// What came since the offer is output after all.
    fn let_go_of_offer(&mut self, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        if let Shell::Offered { echo, .. } = &mut self.shell
            && !echo.is_empty()
        {
            each(Heard::Output(&std::mem::take(echo)));
        }
    }
}

fn hand_out(output: &mut Vec<u8>, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
    if !output.is_empty() {
        each(Heard::Output(output));
        output.clear();
    }
}

/// Whether this key makes a shell do something else than edit its line: Enter, and the keys that signal or end.
const fn sends_the_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0x03 | 0x04 | 0x0f | 0x1a | 0x1c)
}

#[cfg(test)]
#[path = "dialogue_tests.rs"]
mod tests;
