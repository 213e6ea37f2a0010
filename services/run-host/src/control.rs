//! The runner's file descriptor 3: what it says becomes records, what it is told is written whole or not at all.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use wire::host::{FirstCallback, HostTells, RunnerSays};
use wire::log::Step;

use crate::lines::{LONGEST_LINE, Line, Lines};
use crate::output::Got;

/// How many lines that are not understood are told of.
const TOLD_OF: u32 = 20;

/// How much of such a line is shown, characters.
const SHOWN: usize = 200;

/// First callbacks that are kept until they are asked for; there is one for each swap.
const CALLED: usize = 16;

/// How often to read until everything was read that the system holds for us; it holds no more than 32 chunks.
const READS: usize = 32;

/// Our end of the channel.
#[derive(Debug)]
pub(crate) struct Control {
    /// Absent once the runner, and whoever it gave its end to, closed it.
    stream: Option<UnixStream>,
    lines: Lines,
    /// The end of a line that the runner was slow to take.
    unsent: Vec<u8>,
    not_understood: u32,
    /// First callbacks that were told of: no steps of the log.
    called: Vec<FirstCallback>,
}

impl Control {
    /// Talks over `stream`.
    ///
    /// # Errors
    /// The system's, when it cannot be made non-blocking.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: Some(stream), ..Self::none() })
    }

    /// For a process that has nothing to say to its host.
    pub(crate) fn none() -> Self {
        Self {
            stream: None,
            lines: Lines::default(),
            unsent: Vec::new(),
            not_understood: 0,
            called: Vec::new(),
        }
    }

    /// What to wait for; `None` once it is closed.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Whether there is something to be written.
    pub(crate) const fn wants_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads once and hands each message to `record`, already as a step of the log.
    pub(crate) fn read(&mut self, buffer: &mut [u8], record: &mut impl FnMut(Step)) -> Got {
        let Some(stream) = &mut self.stream else { return Got::End };
        let (not_understood, called) = (&mut self.not_understood, &mut self.called);
        let each = |line: Line<'_>| match understand(line, not_understood) {
            Some(Heard::Step(step)) => record(step),
            Some(Heard::Called(one)) if called.len() < CALLED => called.push(one),
            Some(Heard::Called(_)) | None => {}
        };
        match stream.read(buffer) {
            Ok(count @ 1..) => {
                self.lines.feed(&buffer[..count], each);
                Got::Some
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Got::Nothing
            }
            // ECONNRESET is how a socket says that it was closed with something unread in it.
            Ok(0) | Err(_) => {
                self.lines.finish(each);
                self.close();
                Got::End
            }
        }
    }

    /// Reads what was there when it was called, and a little more if it keeps coming.
    pub(crate) fn read_all(&mut self, buffer: &mut [u8], record: &mut impl FnMut(Step)) {
        for _ in 0..READS {
            if self.read(buffer, record) != Got::Some {
                return;
            }
        }
    }

    /// Writes what an earlier message left over.
    pub(crate) fn write_on(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The end will be read.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// Tells the runner something; it has been told when this answers `Ok`.
    ///
    /// # Errors
    /// Why it could not be told, for a person.
    pub(crate) fn tell(&mut self, message: &HostTells) -> Result<(), String> {
        self.write_on();
        if self.stream.is_none() {
            return Err("the runner closed its control channel".to_owned());
        }
        if !self.unsent.is_empty() {
            return Err("the runner does not read its control channel".to_owned());
        }
        serde_json::to_writer(&mut self.unsent, message)
            .expect("a message has string keys and a Vec takes all");
        self.unsent.push(b'\n');
        self.write_on();
        if self.unsent.is_empty() {
            Ok(())
        } else {
            Err("the runner does not read its control channel".to_owned())
        }
    }

    /// The first callbacks that were told of since this was last asked.
    pub(crate) fn take_called(&mut self) -> Vec<FirstCallback> {
        std::mem::take(&mut self.called)
    }

    /// Whether the runner closed it.
    pub(crate) const fn is_closed(&self) -> bool {
        self.stream.is_none()
    }

    /// Closes it.
    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.unsent = Vec::new();
    }
}

/// What a runner said.
enum Heard {
    Step(Step),
    Called(FirstCallback),
}

/// What a line says; a note when it is not understood, up to a number.
fn understand(line: Line<'_>, not_understood: &mut u32) -> Option<Heard> {
    let why = match line {
        Line::TooLong => format!("it is longer than {LONGEST_LINE} bytes"),
        Line::Whole(bytes) if bytes.trim_ascii().is_empty() => return None,
        Line::Whole(bytes) => match serde_json::from_slice::<RunnerSays>(bytes) {
            Ok(said) => return Some(heard(said)),
            Err(error) => {
                let shown: String = String::from_utf8_lossy(bytes).chars().take(SHOWN).collect();
                format!("{error}: {shown}")
            }
        },
    };
    *not_understood = not_understood.saturating_add(1);
    let text = match *not_understood {
        ..TOLD_OF => format!("the runner said on its control channel what is no message: {why}"),
        TOLD_OF => format!(
            "the runner said on its control channel what is no message: {why} (no more of these are told)"
        ),
        _ => return None,
    };
    Some(Heard::Step(Step::Note { text }))
}

fn heard(said: RunnerSays) -> Heard {
    Heard::Step(match said {
        RunnerSays::Callback(called) => return Heard::Called(called),
        RunnerSays::Ready { content_hash, config_hash, trainer, can_swap } => {
            Step::Ready { content_hash, config_hash, trainer, can_swap }
        }
        RunnerSays::Job { id, org_slug, project_slug, base_url } => {
            Step::Job { id, org_slug, project_slug, base_url }
        }
        RunnerSays::Training(started) => Step::Training(started),
        RunnerSays::Checkpoint { step } => Step::Checkpoint { step },
        RunnerSays::Swapped { content_hash, took_ms } => {
            Step::Swap { content_hash, ok: true, reason: None, took_ms: Some(took_ms) }
        }
        RunnerSays::SwapSkipped { content_hash, reason } => {
            Step::Swap { content_hash, ok: false, reason: Some(reason), took_ms: None }
        }
        RunnerSays::EarlyStop { phase, step } => Step::EarlyStop { phase, step },
        RunnerSays::Finished { status, reason } => Step::Finished { status, reason },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(bytes: &[u8]) -> Vec<Step> {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        let mut control = Control::new(ours).unwrap();
        let mut found = Vec::new();
        while control.read(&mut [0; 4096], &mut |step| found.push(step)) == Got::Some {}
        assert!(control.is_closed());
        found
    }

    #[test]
    fn messages_become_steps_and_rubbish_becomes_notes() {
        let said = steps(
            br#"{"type":"ready","contentHash":"ab","configHash":null,"trainer":"t","canSwap":true,"more":1}
{"type":"swapped","contentHash":"cd","tookMs":1.5}
{"type":"unknown"}
not json

{"type":"checkpoint","step":3}"#,
        );
        let trainer = Some("t".to_owned());
        let ready = Step::Ready { content_hash: "ab".into(), config_hash: None, trainer, can_swap: true };
        assert_eq!(said[0], ready);
        let swap = Step::Swap { content_hash: "cd".into(), ok: true, reason: None, took_ms: Some(1.5) };
        assert_eq!(said[1], swap);
        assert!(matches!(&said[2], Step::Note { text } if text.contains("unknown")));
        assert!(matches!(&said[3], Step::Note { text } if text.contains("not json")));
        assert_eq!(said[4], Step::Checkpoint { step: 3 });
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn endless_rubbish_does_not_fill_the_log() {
        assert_eq!(steps(&b"x\n".repeat(1000)).len(), TOLD_OF as usize);
    }

    #[test]
    fn a_runner_that_does_not_read_is_told_nothing_and_no_line_is_cut() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours).unwrap();
        let artifact = |path: String| HostTells::Artifact {
            content_hash: "ab".into(),
            path,
            config_hash: None,
            traceparent: None,
        };
        let mut told = 0;
        while control.tell(&artifact("x".repeat(5000))).is_ok() {
            told += 1;
        }
        assert!(control.tell(&artifact("later".into())).is_err());
        let mut lines = Vec::new();
        let mut theirs = theirs;
        theirs.set_nonblocking(true).unwrap();
        let mut chunk = [0; 65536];
        loop {
            control.write_on();
            match theirs.read(&mut chunk) {
                Ok(count) => lines.extend_from_slice(&chunk[..count]),
                Err(_) if !control.wants_to_write() => break,
                Err(_) => {}
            }
        }
        let whole: Vec<HostTells> = lines
            .split_inclusive(|&b| b == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(whole.len(), told + 1, "the one that was cut is whole in the end");
    }
}
