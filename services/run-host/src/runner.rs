//! The runner: how it is started, and the ends of its pipes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use process::{Child, Group, Launch, Marker, WindowSize, signal};
use wire::host::{Spec, TerminalSpec};
use wire::log::Stream;

use crate::control::Control;
use crate::output::Source;
use crate::terminal::Terminal;

/// The number under which the runner finds its control channel.
const CONTROL_FD: i32 = 3;

/// The variable that every process of a run carries.
const RUN_ID: &str = "MIDRUN_RUN_ID";

/// The variable that every process of a terminal session carries.
const TERMINAL_ID: &str = "MIDRUN_TERMINAL_ID";

/// A terminal that nobody looks at directly: wide enough that progress bars do not wrap.
const TERMINAL: WindowSize = WindowSize { rows: 50, columns: 160 };

/// The runner's process and what connects the host to it.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) child: Child,
    pub(crate) control: Control,
    pub(crate) outputs: Vec<Source>,
}

impl Runner {
    /// Starts the runner from this thread, with which it will die.
    ///
    /// # Errors
    /// The system's: no such program, no such folder, no processes or descriptors left.
    pub(crate) fn start(spec: &Spec, folder: &Path) -> io::Result<Self> {
        if let Some(terminal) = &spec.terminal {
            return Self::start_shell(spec, terminal, folder);
        }
        let (ours, theirs) = UnixStream::pair()?;
        let (program, args) = spec.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let launch = Launch::new(program)
            .args(args)
            .current_dir(&spec.cwd)
            // The runner listens for the signal that the host will send.
            .env("MIDRUN_HOT_SWAP_SIGNAL", spec.hot_swap_signal.to_string())
            .envs(&spec.env)
            .env(RUN_ID, spec.run.as_str())
            .env_remove(failpoint::RUNNER_FOLDER)
            // The host's own thrift is no trainer's.
            .huge_pages(true)
            .dies_with_parent(signal::SIGKILL);
        let launch = match failpoint::folder_for_runner() {
            Some(folder) if !spec.executor => launch.env(failpoint::RUNNER_FOLDER, folder),
            _ => launch,
        };
        let launch = if spec.executor {
            // Our end of the channel is at its end at once.
            drop(theirs);
            launch.env_remove("MIDRUN_CONTROL_FD")
        } else {
            launch.env("MIDRUN_CONTROL_FD", CONTROL_FD.to_string()).pass_fd(theirs.into(), CONTROL_FD)
        };
        let launch = if spec.pty {
            launch.terminal(TERMINAL)
        } else {
            let stdin = match &spec.stdin {
                Some(path) => File::open(path)?.into(),
                None => Stdio::null(),
            };
            launch.group(Group::Own).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped())
        };
        let mut child = launch.spawn()?;
        let ends = [
            (Stream::Stdout, child.stdout().map(OwnedFd::from)),
            (Stream::Stderr, child.stderr().map(OwnedFd::from)),
            (Stream::Pty, child.take_terminal()),
        ];
        let connect = || {
            let ends = ends.into_iter().filter_map(|(stream, end)| Some((stream, end?)));
            let outputs = ends.map(|(stream, end)| Source::new(stream, end)).collect::<io::Result<_>>()?;
            Ok((Control::new(ours)?, outputs))
        };
        match connect() {
            Ok((control, outputs)) => Ok(Self { child, control, outputs }),
            Err(error) => {
                let _ = child.kill_blocking();
                Err(error)
            }
        }
    }

    /// Starts the shell of a terminal session.
    fn start_shell(spec: &Spec, terminal: &TerminalSpec, folder: &Path) -> io::Result<Self> {
        let (launch, session) = Terminal::prepare(spec, folder)?;
        let launch = launch
            .current_dir(&spec.cwd)
            .envs(&spec.env)
            .env(TERMINAL_ID, spec.run.as_str())
            .huge_pages(true)
            .dies_with_parent(signal::SIGKILL)
            .terminal(WindowSize { rows: terminal.rows, columns: terminal.columns });
        let mut child = launch.spawn()?;
        let connect = |child: &mut Child| {
            let end = child.take_terminal().ok_or(io::ErrorKind::NotFound)?;
            let session = session.of(end.try_clone()?, child.pid());
            let mut output = Source::new(Stream::Pty, end)?;
            output.terminal = Some(session);
            Ok(output)
        };
        match connect(&mut child) {
            Ok(output) => Ok(Self { child, control: Control::none(), outputs: vec![output] }),
            Err(error) => {
                let _ = child.kill_blocking();
                Err(error)
            }
        }
    }

    /// The terminal session, if it is one and its terminal is open.
    pub(crate) fn terminal(&mut self) -> Option<&mut Terminal> {
        let output = self.outputs.first_mut().filter(|output| output.descriptor().is_some())?;
        output.terminal.as_mut()
    }

    /// Whether nothing more can come from it or from those who hold its pipes.
    pub(crate) fn is_drained(&self) -> bool {
        self.control.is_closed() && self.outputs.iter().all(|output| output.descriptor().is_none())
    }
}

/// What every process of the run carries in its environment.
pub(crate) fn marker(spec: &Spec) -> Marker {
    let name = if spec.terminal.is_some() { TERMINAL_ID } else { RUN_ID };
    Marker { name: name.to_owned(), value: spec.run.as_str().to_owned() }
}
