//! One session as its log tells it, and what those who wait for a command are to know. Pure.

use std::collections::HashMap;

use wire::host::Spec;
use wire::log::{Record, Step};
use wire::terminal::{Terminal, TerminalStatus};
use wire::{CommandId, TerminalId};

/// What became of a command that somebody waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) input_seq: Option<u64>,
    /// The record of its end, and its exit status.
    pub(crate) ended: Option<(u64, i32)>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    view: Terminal,
    awaited: HashMap<CommandId, Progress>,
}

impl Session {
    /// A session that is to be started with this spec.
    pub(crate) fn new(id: TerminalId, spec: &Spec, started_at: String) -> Self {
        let terminal = spec.terminal.as_ref();
        let view = Terminal {
            id,
            name: terminal.and_then(|terminal| terminal.name.clone()),
            pid: None,
            status: TerminalStatus::Starting,
            shell: spec.command.first().cloned().unwrap_or_default(),
            cwd: spec.cwd.clone(),
            rows: terminal.map_or(0, |terminal| terminal.rows),
            columns: terminal.map_or(0, |terminal| terminal.columns),
            started_at,
            ended_at: None,
            exit_code: None,
            reason: None,
            newest_seq: 0,
        };
        Self { view, awaited: HashMap::new() }
    }

    pub(crate) const fn view(&self) -> &Terminal {
        &self.view
    }

    pub(crate) const fn is_live(&self) -> bool {
        self.view.status.is_live()
    }

    /// Something happened in it.
    pub(crate) fn happened(&mut self, record: &Record) {
        self.view.newest_seq = self.view.newest_seq.max(record.seq);
        match &record.step {
            Step::Opened { pid, .. } => {
                self.view.pid = Some(*pid);
                self.view.started_at.clone_from(&record.ts);
                if self.view.status == TerminalStatus::Starting {
                    self.view.status = TerminalStatus::Running;
                }
            }
            Step::Resized { rows, columns } => {
                (self.view.rows, self.view.columns) = (*rows, *columns);
            }
            Step::Input { command, .. } => {
                if let Some(progress) = self.awaited.get_mut(command) {
                    progress.input_seq = Some(record.seq);
                }
            }
            Step::Completed { command, exit_code, .. } => {
                if let Some(progress) = self.awaited.get_mut(command) {
                    progress.ended = Some((record.seq, *exit_code));
                }
            }
            // Why it ended is what was said last.
            Step::Signal { why, .. } => self.view.reason = Some(why.clone()),
            Step::Note { text } if self.view.pid.is_none() => self.view.reason = Some(text.clone()),
            Step::Exit { code, .. } => {
                self.view.status = TerminalStatus::Exited;
                self.view.exit_code = Some(*code);
                self.view.ended_at = Some(record.ts.clone());
            }
            _ => {}
        }
    }

    /// It is being ended.
    pub(crate) fn closing(&mut self, reason: &str) {
        if self.is_live() {
            self.view.status = TerminalStatus::Closing;
            self.view.reason = Some(reason.to_owned());
        }
    }

    /// Its host is gone, and nobody saw the end.
    pub(crate) fn lost(&mut self, why: String, at: String) {
        if self.is_live() {
            self.view.status = TerminalStatus::Lost;
            self.view.reason = Some(why);
            self.view.ended_at = Some(at);
        }
    }

    /// Somebody waits for this command from now on; `false` when somebody does already.
    pub(crate) fn await_command(&mut self, command: &CommandId) -> bool {
        let unknown = !self.awaited.contains_key(command);
        self.awaited.entry(command.clone()).or_default();
        unknown
    }

    /// What became of a command that is waited for.
    pub(crate) fn progress(&self, command: &CommandId) -> Progress {
        self.awaited.get(command).copied().unwrap_or_default()
    }

    /// Nobody waits for this command any more.
    pub(crate) fn forget(&mut self, command: &CommandId) {
        self.awaited.remove(command);
    }
}

#[cfg(test)]
mod tests {
    use wire::host::TerminalSpec;

    use super::*;

    fn session() -> Session {
        let spec = Spec {
            run: "t1".into(),
            command: vec!["/bin/sh".into()],
            cwd: "/p".into(),
            env: Default::default(),
            content_hash: "".into(),
            socket: "/s".into(),
            hot_swap_signal: 0,
            drain_ms: 0,
            kill_grace_ms: 0,
            pty: true,
            terminal: Some(TerminalSpec { name: Some("n".into()), rows: 24, columns: 80, alone_ms: 1 }),
        };
        Session::new("t1".into(), &spec, "then".into())
    }

    fn tell(session: &mut Session, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            let seq = session.view.newest_seq + 1;
            session.happened(&Record { seq, ts: format!("at {seq}"), step });
        }
    }

    #[test]
    fn a_session_is_what_its_log_says() {
        let mut session = session();
        assert!(session.is_live() && session.view().pid.is_none());
        let opened = Step::Opened { pid: 7, shell: "/bin/sh".into(), rows: 24, columns: 80 };
        tell(&mut session, [opened, Step::Resized { rows: 5, columns: 6 }]);
        let view = session.view();
        assert_eq!(
            (view.status, view.pid, view.rows, view.columns),
            (TerminalStatus::Running, Some(7), 5, 6)
        );
        session.closing("enough");
        tell(&mut session, [Step::Exit { code: 137, signal: Some(9) }]);
        let view = session.view();
        assert_eq!((view.status, view.exit_code), (TerminalStatus::Exited, Some(137)));
        assert_eq!(view.ended_at.as_deref(), Some("at 3"));
        assert_eq!(view.reason.as_deref(), Some("enough"));
        session.lost("gone".into(), "later".into());
        assert_eq!(session.view().status, TerminalStatus::Exited, "an end stays what it was");
    }

    #[test]
    fn who_waits_for_a_command_hears_of_that_one() {
        let mut session = session();
        assert!(session.await_command(&"c1".into()) && session.await_command(&"c2".into()));
        assert!(!session.await_command(&"c1".into()));
        let input = |command: &str| Step::Input { command: command.into(), text: String::new() };
        let completed = |command: &str, input_seq, exit_code| Step::Completed {
            command: command.into(),
            input_seq: Some(input_seq),
            exit_code,
            duration_ms: 1,
        };
        tell(&mut session, [input("c1"), completed("c1", 1, 3), input("c3"), completed("c3", 3, 0)]);
        assert_eq!(session.progress(&"c1".into()), Progress { input_seq: Some(1), ended: Some((2, 3)) });
        assert_eq!(session.progress(&"c2".into()), Progress::default());
        session.forget(&"c1".into());
        assert!(session.await_command(&"c1".into()));
    }
}
