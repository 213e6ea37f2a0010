//! What is asked of a terminal session's host, and when such a host ends because nobody is there any more.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use process::WindowSize;
use wire::host::{HostRequest, HostSays};
use wire::log::Step;

use super::Terminal;
use crate::coordinator::Coordinator;
use crate::ending::Phase;
use crate::runner::Runner;

/// The longest command, bytes.
const LONGEST_COMMAND: usize = 64 * 1024;

/// Why a request is not carried out.
enum No {
    Never(String),
    NotNow(String),
}

impl Coordinator {
    /// Carries out what is asked of a session; an answer in any case.
    pub(crate) fn carry_out_in_terminal(&mut self, request: HostRequest) -> HostSays {
        let (id, outcome) = match request {
            HostRequest::Type { id, base64 } => (id, self.type_into(&base64)),
            HostRequest::Resize { id, rows, columns } => (id, self.resize(WindowSize { rows, columns })),
            HostRequest::Command { id, command, text } => {
                let outcome = self.session().and_then(|session| {
                    fits(&text)?;
                    session
                        .dialogue
                        .line_up(command, text)
                        .map_err(|(why, again)| if again { No::NotNow(why) } else { No::Never(why) })
                });
                (id, outcome)
            }
            HostRequest::Withdraw { id, command } => {
                let outcome = self.session().and_then(|session| match session.withdraw(&command) {
                    true => Ok(()),
                    false => Err(No::Never(format!("the shell has {command}, or had it"))),
                });
                (id, outcome)
            }
            HostRequest::Swap { id, .. } | HostRequest::Stop { id, .. } => {
                (id, Err(No::Never("that is asked of a run".to_owned())))
            }
            HostRequest::Subscribe { .. } => (0, Err(No::Never("that has no answer".to_owned()))),
        };
        match outcome {
            Ok(()) => HostSays::Done { id },
            Err(No::Never(why)) => HostSays::Refused { id, why },
            Err(No::NotNow(why)) => HostSays::Busy { id, why },
        }
    }

    fn session(&mut self) -> Result<&mut Terminal, No> {
        let session = match self.phase {
            Phase::Running => self.runner.as_mut().and_then(Runner::terminal),
            _ => None,
        };
        session.ok_or_else(|| No::Never("there is no terminal, or it has been closed".to_owned()))
    }

    fn type_into(&mut self, base64: &str) -> Result<(), No> {
        let bytes = BASE64_STANDARD.decode(base64).map_err(|error| No::Never(error.to_string()))?;
        self.session()?.take_typing(&bytes).map_err(No::NotNow)
    }

    fn resize(&mut self, size: WindowSize) -> Result<(), No> {
        self.session()?.resize(size).map_err(|error| No::Never(error.to_string()))?;
        self.log.append(Step::Resized { rows: size.rows, columns: size.columns });
        Ok(())
    }

    /// Does what is due in a session, and ends one that was deserted for too long.
    pub(crate) fn look_after_terminal(&mut self, now: Instant) {
        let Some(terminal) = &self.spec.terminal else { return };
        let alone = Duration::from_millis(terminal.alone_ms);
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        if let Self { runner: Some(runner), log, .. } = self
            && let Some(output) = runner.outputs.first_mut()
        {
            output.look_after(now, &mut |step| {
                log.append(step);
                log.newest()
            });
        }
        if self.clients.iter().any(|client| client.is_subscribed()) {
            self.deserted = None;
        } else if now >= *self.deserted.get_or_insert(now) + alone && self.stop.is_none() {
            let why = format!("no server has been there for {} s", alone.as_secs());
            if let Err(text) = self.kill(why) {
                self.log.append(Step::Note { text });
            }
        }
    }

    /// When that is to be done although nothing happens.
    pub(crate) fn terminal_due(&self, now: Instant) -> Option<Instant> {
        let terminal = self.spec.terminal.as_ref()?;
        if !matches!(self.phase, Phase::Running) {
            return None;
        }
        let alone = Duration::from_millis(terminal.alone_ms);
        let deserted = self.deserted.filter(|_| self.stop.is_none()).map(|since| since + alone);
        let output = self.runner.as_ref()?.outputs.first()?;
        let session = output.terminal.as_ref().filter(|_| output.descriptor().is_some());
        session.and_then(|session| session.due(now)).into_iter().chain(deserted).min()
    }
}

/// Whether a shell can be given this as a command.
fn fits(text: &str) -> Result<(), No> {
    if text.len() > LONGEST_COMMAND {
        return Err(No::Never(format!("the command is longer than {LONGEST_COMMAND} bytes")));
    }
    if text.contains('\0') {
        return Err(No::Never("no command has a NUL in it".to_owned()));
    }
    Ok(())
}
