//! The one who owns output, control messages, requests and completion: a loop around one `poll`.
//!
//! Each turn takes what is there, appends it to the log, writes the log, and only then tells those who listen. If
//! the disk is slow, the write blocks, nothing is read meanwhile, and the runner waits in its own `write`: that is the
//! backpressure.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use failpoint::Point;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runlog::Writer;
use wire::host::Spec;
use wire::id::ContentHash;
use wire::log::Step;
use wire::run::StopMode;

use crate::alone::Alone;
use crate::ending::{Exit, Phase};
use crate::listener::Listener;
use crate::output::{CHUNK, Got};
use crate::passage::Passage;
use crate::runner::Runner;
use crate::spans::Spans;
use crate::spec::{Folder, HostError};
use crate::subscriber::Client;
use crate::terminal::Terminal;

/// How many connections there may be at once; a further one is closed.
const CLIENTS: usize = 32;

/// Hosts the run in the folder `dir` until it has ended.
pub(crate) fn host(dir: &Path) -> Result<(), HostError> {
    let folder = Folder::at(dir)?;
    let spec = folder.spec()?;
    failpoint::reach(Point::HostStarted);
    folder.claim()?;
    failpoint::reach(Point::HostClaimed);
    // It fails only when the host leads its starter's process group already; then it shares a session, no more.
    let _ = nix::unistd::setsid();
    let path = folder.log();
    let log = Writer::create(&path).map_err(HostError::file(&path))?;
    let mut log = log.with_cap(spec.log_cap.unwrap_or(runlog::DEFAULT_CAP));
    failpoint::reach(Point::LogCreated);
    let prepare = || {
        process::become_subreaper()?;
        let signals = take_signals().map_err(io::Error::from)?;
        let listener = Listener::bind(Path::new(&spec.socket))?;
        failpoint::reach(Point::HostListening);
        folder.announce()?;
        failpoint::reach(Point::HostAnnounced);
        Ok::<_, HostError>((signals, listener))
    };
    match prepare() {
        Ok((signals, listener)) => {
            telemetry::trace::start();
            let ended = Coordinator::start(spec, path, log, signals, listener).run();
            telemetry::shutdown();
            ended
        }
        Err(error) => {
            // The log is where a person will look.
            log.append(Step::Note { text: format!("the run could not be hosted: {error}") });
            log.append(Step::Exit { code: 1, signal: None });
            log.flush();
            Err(error)
        }
    }
}

/// Takes the signals that mean something as events, and blocks those that must not end a host: a closed terminal and
/// a file that reached its size limit (which then is an error of `write`).
fn take_signals() -> Result<SignalFd, Errno> {
    let events: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    let mut blocked = events;
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGXFSZ);
    blocked.thread_block()?;
    SignalFd::with_flags(&events, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The first record: what is hosted exists.
fn started(spec: &Spec, pid: u32) -> Step {
    match &spec.terminal {
        None => Step::Spawned { pid, content_hash: spec.content_hash.clone() },
        Some(terminal) => Step::Opened {
            pid,
            shell: spec.command[0].clone(),
            rows: terminal.rows,
            columns: terminal.columns,
        },
    }
}

/// Everything the host knows.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) spec: Spec,
    pub(crate) path: PathBuf,
    pub(crate) log: Writer,
    /// Absent when it could not be started.
    pub(crate) runner: Option<Runner>,
    pub(crate) clients: Vec<Client>,
    pub(crate) phase: Phase,
    /// Whether it can take new callbacks, once the runner said that it is armed.
    pub(crate) ready: Option<bool>,
    /// The bytes that the runner was last told to swap in.
    pub(crate) named: Option<ContentHash>,
    /// How the runner was asked to stop.
    pub(crate) stop: Option<StopMode>,
    /// Since when no server has been there, and what follows from that.
    pub(crate) alone: Alone,
    /// The host itself was told to end.
    pub(crate) told_to_end: bool,
    /// Somebody has listened at some time.
    pub(crate) had_listener: bool,
    pub(crate) passage: Passage,
    pub(crate) spans: Spans,
    /// Since when nobody listens to a terminal session.
    pub(crate) deserted: Option<Instant>,
    signals: SignalFd,
    listener: Listener,
    buffer: Vec<u8>,
}

/// Something that `poll` says is there.
#[derive(Debug, Clone, Copy)]
enum Event {
    Signals,
    Runner,
    Control,
    Output(usize),
    Listener,
    Client { index: usize, over: bool },
}

impl Coordinator {
    fn start(spec: Spec, path: PathBuf, mut log: Writer, signals: SignalFd, listener: Listener) -> Self {
        let mut passage = Passage::default();
        let folder = path.parent().unwrap_or(Path::new("/"));
        let (runner, phase) = match Runner::start(&spec, folder) {
            Ok(runner) => {
                failpoint::reach(Point::RunnerSpawned);
                log.append(started(&spec, runner.child.pid()));
                passage.appended(Point::SpawnRecorded);
                (Some(runner), Phase::Running)
            }
            Err(error) => {
                let text = format!("{} could not be started in {}: {error}", spec.command[0], spec.cwd);
                log.append(Step::Note { text });
                Exit::not_started(&error).write(&mut log);
                (None, Phase::serving())
            }
        };
        Self {
            spans: Spans::of(spec.run.as_str()),
            spec,
            path,
            log,
            runner,
            clients: Vec::new(),
            phase,
            ready: None,
            named: None,
            stop: None,
            alone: Alone::since(Instant::now()),
            told_to_end: false,
            had_listener: false,
            passage,
            deserted: None,
            signals,
            listener,
            buffer: vec![0; CHUNK],
        }
    }

    fn run(mut self) -> Result<(), HostError> {
        loop {
            self.flush();
            let now = Instant::now();
            if self.is_done(now) {
                return if self.end_is_written() { Ok(()) } else { Err(HostError::EndNotWritten) };
            }
            let events = self.wait(now)?;
            self.take_signals(&events);
            self.take_input(&events);
            self.advance(Instant::now());
            self.take_requests(&events);
            self.look_after(Instant::now());
            self.look_after_terminal(Instant::now());
            if !self.is_attended() {
                self.listener.look(Instant::now());
            }
        }
    }

    /// Writes the log and tells those who listen.
    pub(crate) fn flush(&mut self) {
        if self.log.flush() {
            self.passage.written();
        }
        self.serve_clients();
        self.clients.retain(|client| !client.is_gone());
    }

    /// Tells those who listen how far the log goes, and of what happened while it cannot be written.
    pub(crate) fn serve_clients(&mut self) {
        let Self { log, clients, .. } = self;
        let written = log.written();
        for client in clients {
            client.serve(written);
            if log.retry_at().is_some() {
                client.serve_unwritten(written, log.unwritten_life());
            }
        }
    }

    /// Waits until something is there or due.
    fn wait(&self, now: Instant) -> io::Result<Vec<Event>> {
        let mut watched: Vec<(Event, BorrowedFd<'_>, PollFlags)> = vec![
            (Event::Signals, self.signals.as_fd(), PollFlags::POLLIN),
            (Event::Listener, self.listener.descriptor(), PollFlags::POLLIN),
        ];
        if let Some(runner) = &self.runner {
            if matches!(self.phase, Phase::Running) {
                watched.push((Event::Runner, runner.child.pidfd().as_fd(), PollFlags::POLLIN));
            }
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, runner.control.wants_to_write());
            watched.extend(runner.control.descriptor().map(|fd| (Event::Control, fd, flags)));
            for (index, output) in runner.outputs.iter().enumerate() {
                let mut flags = PollFlags::POLLIN;
                flags.set(PollFlags::POLLOUT, output.terminal.as_ref().is_some_and(Terminal::wants_to_write));
                watched.extend(output.descriptor().map(|fd| (Event::Output(index), fd, flags)));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let (fd, flags) = client.interest();
            watched.push((Event::Client { index, over: false }, fd, flags));
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut fds, self.timeout(now)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let answers = watched.iter().zip(&fds).map(|((event, ..), fd)| (*event, fd.revents()));
        Ok(answers.filter_map(|(event, flags)| Self::told(event, flags?)).collect())
    }

    fn told(event: Event, flags: PollFlags) -> Option<Event> {
        if flags.is_empty() {
            return None;
        }
        let over = flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
        match event {
            // What it said before it left is still taken.
            Event::Client { index, .. } => {
                Some(Event::Client { index, over: over && !flags.contains(PollFlags::POLLIN) })
            }
            other => Some(other),
        }
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        let clients = self.clients.iter().filter_map(Client::look_again);
        let due = clients.chain(self.due()).chain(self.alone_due()).chain(self.terminal_due(now));
        let look = (!self.is_attended()).then(|| self.listener.look_due());
        let due = due.chain(self.log.retry_at()).chain(look).min();
        let Some(due) = due else { return PollTimeout::NONE };
        // Rounded up, so that a wait never ends early and spins.
        let left = due.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self, events: &[Event]) {
        if !events.iter().any(|event| matches!(event, Event::Signals)) {
            return;
        }
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                self.end_at_once();
            }
        }
        // Orphans of the tree; the runner's own status is read where its end is.
        let keep = match (&self.phase, &self.runner) {
            (Phase::Running, Some(runner)) => runner.child.pid(),
            _ => 0,
        };
        while process::reap_next(keep).is_some() {}
    }

    /// Takes output and messages. What the runner wrote before a message stands before it: messages are read first
    /// and appended last, and in between all output is read that is there.
    fn take_input(&mut self, events: &[Event]) {
        let Self { runner: Some(runner), log, ready, named, stop, buffer, passage, spans, .. } = self else {
            return;
        };
        let mut said = Vec::new();
        if events.iter().any(|event| matches!(event, Event::Control)) {
            runner.control.write_on();
            runner.control.read(buffer, &mut |step| said.push(step));
        }
        let mut record = |step| {
            log.append(step);
            Some(log.newest())
        };
        if said.is_empty() {
            for index in events.iter().filter_map(|event| match event {
                Event::Output(index) => Some(*index),
                _ => None,
            }) {
                let _: Got = runner.outputs[index].read(buffer, &mut record);
            }
        } else {
            runner.outputs.iter_mut().for_each(|output| output.read_all(buffer, &mut record));
        }
        let _ = record;
        for step in said {
            match &step {
                Step::Ready { can_swap, .. } => *ready = Some(*can_swap),
                // It may be asked again; a late word about an older build says nothing of the newer one.
                Step::Swap { ok: false, content_hash, .. } if named.as_ref() == Some(content_hash) => {
                    *named = None;
                }
                // Somebody else may have signalled it, and a second signal would end it at once.
                Step::EarlyStop { .. } => _ = stop.get_or_insert(StopMode::Checkpoint),
                _ => {}
            }
            passage.heard(&step);
            spans.heard(&step);
            log.append(step);
        }
        for called in runner.control.take_called() {
            spans.called(&called, Some(runner.child.pid()));
        }
    }

    fn take_requests(&mut self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Client { index, over } if over => self.clients[index].leave(),
                Event::Client { index, .. } => {
                    for request in self.clients[index].requests() {
                        self.carry_out(index, request);
                    }
                }
                Event::Listener => self.welcome(),
                _ => {}
            }
        }
    }

    fn welcome(&mut self) {
        while let Some(stream) = self.listener.accept() {
            if self.clients.len() < CLIENTS {
                self.clients.push(Client::new(stream));
            }
        }
    }
}
