//! The end of a run, from the runner's exit to the host's.
//!
//! ```text
//! Running --runner ends--> Draining --end of output--> Leaving --a moment--> Killing --nobody left--> Serving --> gone
//!         \                   \----drainMs----------------------------------/
//!          \--stop now: SIGKILL to the runner, it ends--------------------/
//! ```
//!
//! Whoever ends closes its output a little before it is gone, hence the moment between the end of output and the
//! first SIGTERM: nobody is called left behind who was leaving.
//!
//! "Stop now" kills the runner itself with SIGKILL first, because a runner takes SIGTERM for an early stop, which
//! may take minutes, and because what is dead cannot start its children anew. Nothing is lost by the order: the host
//! is their subreaper. Their grace is short then, so that all is over within a second.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use failpoint::Point;
use process::{Killed, Killing, Progress, Tree, signal};
use runlog::Writer;
use wire::log::Step;
use wire::run::StopMode;

use crate::coordinator::Coordinator;
use crate::output::CHUNK;
use crate::runner::marker;

/// The longest grace for the children of a runner that was stopped at once.
const HURRIED_GRACE: Duration = Duration::from_millis(300);

/// How long those who have closed their output have until they are killed.
const LEAVE: Duration = Duration::from_millis(100);

/// How long the host stays for those who have not taken the end yet, or have not come yet.
const SERVE: Duration = Duration::from_secs(2);

/// How long the host stays to write the end into a log that refuses: a full disk is often noticed the next morning, and
/// a waiting host costs next to nothing.
const WRITE_END: Duration = Duration::from_secs(24 * 60 * 60);

/// The same for a host that was told to end.
const HURRIED_WRITE_END: Duration = Duration::from_secs(10);

/// Where a run stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The runner runs.
    Running,
    /// The runner has ended; what it and its children wrote is being read.
    Draining { exit: Exit, until: Instant },
    /// There is no more output; those who are about to end may do so.
    Leaving { exit: Exit, look_at: Instant, until: Instant },
    /// What is left of its tree is being killed, and read.
    Killing {
        exit: Exit,
        killing: Box<Killing>,
        look_at: Instant,
        /// The output had no end by itself.
        cut: bool,
    },
    /// The last record is appended.
    Serving { since: Instant, until: Instant },
}

impl Phase {
    /// The last phase, from now on.
    pub(crate) fn serving() -> Self {
        let since = Instant::now();
        Self::Serving { since, until: since + SERVE }
    }

    /// Waits for nobody any more.
    pub(crate) fn hurry(&mut self) {
        if let Self::Draining { until, .. } | Self::Leaving { until, .. } | Self::Serving { until, .. } = self
        {
            *until = Instant::now();
        }
    }
}

/// How the runner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    code: i32,
    signal: Option<i32>,
}

impl Exit {
    /// As shells say it: the program is missing, or cannot be executed.
    pub(crate) fn not_started(error: &io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Self { code, signal: None }
    }

    fn of(status: ExitStatus) -> Self {
        let signal = status.signal();
        let code = status.code().or_else(|| signal.map(|signal| 128 + signal)).unwrap_or(1);
        Self { code, signal }
    }

    /// Appends the last record.
    pub(crate) fn write(self, log: &mut Writer) {
        log.append(Step::Exit { code: self.code, signal: self.signal });
    }
}

impl Coordinator {
    /// Goes from phase to phase as far as it can.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(next) = self.next_phase(now) {
            self.phase = next;
        }
    }

    fn next_phase(&mut self, now: Instant) -> Option<Phase> {
        let runner = self.runner.as_mut()?;
        match &mut self.phase {
            Phase::Running => {
                if !runner.child.pidfd().has_ended() {
                    return None;
                }
                failpoint::reach(Point::RunnerEnded);
                let exit = match runner.child.try_wait() {
                    Ok(status) => status.map(Exit::of)?,
                    Err(error) => {
                        self.log.append(Step::Note { text: format!("its exit status is unknown: {error}") });
                        Exit { code: 1, signal: None }
                    }
                };
                let drain = match self.stop {
                    Some(StopMode::Now) => Duration::ZERO,
                    _ => Duration::from_millis(self.spec.drain_ms),
                };
                Some(Phase::Draining { exit, until: now + drain })
            }
            Phase::Draining { exit, .. } if runner.is_drained() => {
                Some(Phase::Leaving { exit: *exit, look_at: now, until: now + LEAVE })
            }
            Phase::Draining { exit, until } if now >= *until => {
                let exit = *exit;
                Some(self.start_killing(exit, true))
            }
            Phase::Leaving { look_at, .. } if now < *look_at => None,
            Phase::Leaving { exit, look_at, until } => {
                *look_at = now + LEAVE / 20;
                let (exit, until) = (*exit, *until);
                let is_over = now >= until || self.stop == Some(StopMode::Now) || self.nobody_is_left();
                is_over.then(|| self.start_killing(exit, false))
            }
            Phase::Draining { .. } | Phase::Serving { .. } => None,
            Phase::Killing { exit, killing, look_at, cut } => {
                if now < *look_at {
                    return None;
                }
                let (exit, cut) = (*exit, *cut);
                match killing.advance() {
                    Progress::Pending(pause) => {
                        *look_at = now + pause;
                        None
                    }
                    Progress::Done(report) => {
                        self.finish(exit, cut, &report.killed, &report.survivors);
                        Some(Phase::serving())
                    }
                }
            }
        }
    }

    /// When something is due although nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::Draining { until, .. } => Some(until),
            Phase::Leaving { look_at, .. } | Phase::Killing { look_at, .. } => Some(look_at),
            Phase::Serving { since, .. } if !self.end_is_written() => Some(since + self.write_end()),
            Phase::Serving { until, .. } => Some(until),
        }
    }

    fn start_killing(&self, exit: Exit, cut: bool) -> Phase {
        let grace = Duration::from_millis(self.spec.kill_grace_ms);
        let grace = if self.stop == Some(StopMode::Now) { grace.min(HURRIED_GRACE) } else { grace };
        Phase::Killing {
            exit,
            killing: Box::new(Killing::begin(self.tree(), grace)),
            look_at: Instant::now(),
            cut,
        }
    }

    /// Everything that the runner caused.
    fn tree(&self) -> Tree {
        Tree::of_own_descendants().and_marked(marker(&self.spec))
    }

    fn nobody_is_left(&self) -> bool {
        self.tree().members().is_ok_and(|members| members.is_empty())
    }

    /// Nobody is left: reads what the last ones wrote, says what was done to them, and writes the last record.
    fn finish(&mut self, exit: Exit, cut: bool, killed: &[Killed], survivors: &[Killed]) {
        let Self { runner: Some(runner), log, passage, spans, .. } = self else { return };
        let mut buffer = vec![0; CHUNK];
        let mut said = Vec::new();
        runner.control.read_all(&mut buffer, &mut |step| said.push(step));
        runner.control.close();
        for output in &mut runner.outputs {
            let mut record = |step| {
                log.append(step);
                Some(log.newest())
            };
            output.read_all(&mut buffer, &mut record);
            output.close(&mut record);
        }
        for step in said {
            spans.heard(&step);
            log.append(step);
        }
        for called in runner.control.take_called() {
            spans.called(&called, Some(runner.child.pid()));
        }
        spans.over();
        if cut && self.stop != Some(StopMode::Now) {
            let text = format!(
                "the output was still held {} ms after the runner's end and was closed",
                self.spec.drain_ms
            );
            log.append(Step::Note { text });
        }
        if !killed.is_empty() {
            let text = format!("ended what the runner left behind: {}", listed(killed));
            log.append(Step::Note { text });
        }
        if !survivors.is_empty() {
            let text = format!("could not be ended: {}", listed(survivors));
            log.append(Step::Note { text });
        }
        failpoint::reach(Point::EndReached);
        exit.write(log);
        passage.appended(Point::EndRecorded);
    }

    /// Whether the host may go: the end is written, and those who listen have it.
    pub(crate) fn is_done(&mut self, now: Instant) -> bool {
        let (is_written, write_end) = (self.end_is_written(), self.write_end());
        let Phase::Serving { since, until } = &mut self.phase else { return false };
        if !is_written {
            // Those who listen have their time from when there is something to be told.
            *until = now + SERVE;
            return now >= *since + write_end;
        }
        let written = self.log.written();
        let mut listeners = self.clients.iter().filter(|client| client.is_subscribed());
        // If nobody has listened yet, the one who started the host may be about to.
        now >= *until || (self.had_listener && listeners.all(|client| client.has_all(written)))
    }

    const fn write_end(&self) -> Duration {
        if self.told_to_end { HURRIED_WRITE_END } else { WRITE_END }
    }

    /// Whether the last record stands in the log.
    pub(crate) fn end_is_written(&self) -> bool {
        self.log.retry_at().is_none() && self.log.waiting() == 0
    }
}

/// Process ids with the signals that each was sent.
fn listed(victims: &[Killed]) -> String {
    let one = |victim: &Killed| {
        let signals: Vec<&str> = victim.signals.iter().map(|&number| name(number)).collect();
        format!("process {} ({})", victim.pid, signals.join(", "))
    };
    victims.iter().map(one).collect::<Vec<_>>().join(", ")
}

const fn name(number: i32) -> &'static str {
    match number {
        signal::SIGTERM => "SIGTERM",
        signal::SIGKILL => "SIGKILL",
        _ => "signal",
    }
}
