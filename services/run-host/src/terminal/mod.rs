//! A terminal session: a shell on a terminal, with somebody who types, and commands whose end is waited for.
//!
//! What is typed goes through as it is. A command goes to the shell when it is at its prompt, and its end is found by a
//! mark ([`marks`]) that the shell's own functions write ([`integration`]) and nobody ever sees. What of it is pure is
//! [`dialogue`]; here are the terminal's descriptor, the files, and the processes.

mod dialogue;
mod echo;
mod integration;
mod marks;
mod requests;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use process::{Launch, WindowSize, terminal as tty};
use wire::host::Spec;

pub(crate) use dialogue::Heard;
use dialogue::{Dialogue, Offer};
use integration::{Integration, Kind};

/// How much may wait to be typed, bytes.
const UNTYPED: usize = 64 * 1024;

/// A session at work.
#[derive(Debug)]
pub(crate) struct Terminal {
    dialogue: Dialogue,
    integration: Integration,
    kind: Kind,
    shell: u32,
    end: File,
    /// What the terminal has not taken yet.
    untyped: Vec<u8>,
}

/// A session whose shell is about to be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    integration: Integration,
    kind: Kind,
}

impl Prepared {
    /// The session whose terminal has this end, non-blocking, and whose shell is this process.
    pub(crate) fn of(self, end: OwnedFd, shell: u32) -> Terminal {
        let Self { integration, kind } = self;
        let dialogue = Dialogue::new(&integration.secret, Instant::now());
        Terminal { dialogue, integration, kind, shell, end: File::from(end), untyped: Vec::new() }
    }
}

impl Terminal {
    /// Writes what the shell needs into `folder` and says how it is started.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn prepare(spec: &Spec, folder: &Path) -> io::Result<(Launch, Prepared)> {
        let (shell, args) = spec.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let kind = Kind::of(shell);
        let integration = Integration::write(folder, kind)?;
        let (own, environment) = integration.of_start(kind);
        let launch = Launch::new(shell)
            .args(own)
            .args(args)
            .env("TERM", "xterm-256color")
            .env_remove("LINES")
            .env_remove("COLUMNS");
        let launch = environment.into_iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        Ok((launch, Prepared { integration, kind }))
    }

    /// Takes what the terminal wrote.
    pub(crate) fn hear(&mut self, bytes: &[u8], each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        let Self { dialogue, integration, .. } = self;
        dialogue.hear(bytes, Instant::now(), &mut |heard| {
            if matches!(heard, Heard::Taken { .. }) {
                integration.clear();
            }
            each(heard)
        });
    }

    /// The terminal is closed.
    pub(crate) fn finish(&mut self, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        self.dialogue.finish(Instant::now(), each);
    }

    /// Whether there is something to be typed.
    pub(crate) const fn wants_to_write(&self) -> bool {
        !self.untyped.is_empty()
    }

    /// Does what is due: types on, lets go of what was held back, offers a command.
    pub(crate) fn look_after(&mut self, now: Instant, each: &mut impl FnMut(Heard<'_>) -> Option<u64>) {
        let Self { dialogue, integration, kind, shell, end, .. } = self;
        dialogue.look_after(now, each);
        let offer = dialogue.offer(now, || is_at_rest(end, *shell, *kind));
        if let Some(Offer { number, text, line }) = offer {
            match integration.put(number, &text) {
                Ok(()) => self.untyped.extend_from_slice(line.as_bytes()),
                Err(error) => {
                    each(Heard::Note(format!("a command cannot be handed to the shell: {error}")));
                }
            }
        }
        self.type_on();
    }

    /// When that is to be done although nothing happens.
    fn due(&self, now: Instant) -> Option<Instant> {
        self.dialogue.due(now)
    }

    /// Types what was left over. A terminal that is gone takes nothing; its end will be read.
    fn type_on(&mut self) {
        let mut typed = 0;
        while typed < self.untyped.len() {
            match self.end.write(&self.untyped[typed..]) {
                Ok(count) => typed += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => typed = self.untyped.len(),
            }
        }
        self.untyped.drain(..typed);
    }

    /// Somebody types these bytes; all or none of them.
    fn take_typing(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.untyped.len() + bytes.len() > UNTYPED {
            return Err(format!("{} bytes wait to be read in the terminal", self.untyped.len()));
        }
        self.dialogue.typed(bytes, Instant::now());
        self.untyped.extend_from_slice(bytes);
        self.type_on();
        Ok(())
    }

    fn resize(&self, size: WindowSize) -> io::Result<()> {
        tty::resize(&self.end, size)
    }

    /// Forgets a command if it can be.
    fn withdraw(&mut self, command: &wire::CommandId) -> bool {
        let withdrawn = self.dialogue.withdraw(command);
        if withdrawn && !self.dialogue.is_offering() {
            self.integration.clear();
        }
        withdrawn
    }
}

/// Whether the shell is what the keys reach, and, where it edits its line itself, does so now.
fn is_at_rest(end: &File, shell: u32, kind: Kind) -> bool {
    let in_front = tty::foreground_group(end).is_ok_and(|group| group == shell);
    in_front && (kind == Kind::Posix || tty::gathers_lines(end).is_ok_and(|gathers| !gathers))
}
