//! What the registry asks for. The default action of SIGUSR2 is death and a second SIGTERM ends a runner at once, so
//! a signal is sent only to a runner that is armed, and SIGTERM only once.

use failpoint::Point;
use process::signal::{SIGKILL, SIGTERM};
use wire::host::{HostRequest, HostSays, HostTells};
use wire::id::ContentHash;
use wire::log::Step;
use wire::run::StopMode;

use crate::coordinator::Coordinator;
use crate::ending::Phase;

impl Coordinator {
    /// Carries out what the client at `index` asks for and answers it.
    pub(crate) fn carry_out(&mut self, index: usize, request: HostRequest) {
        let (id, outcome) = match request {
            HostRequest::Subscribe { after } => {
                self.had_listener = true;
                self.clients[index].subscribe(&self.path, after);
                return;
            }
            HostRequest::Swap { id, content_hash, path, config_hash, traceparent, why } => {
                failpoint::reach(Point::SwapTaken);
                let meant = content_hash.clone();
                if self.named.as_ref() == Some(&meant) {
                    // A server that died may have asked already, and its successor cannot know.
                    (id, Ok(()))
                } else {
                    let traceparent = self.spans.swapping(&meant, traceparent.as_deref(), self.pid());
                    let artifact = HostTells::Artifact { content_hash, path, config_hash, traceparent };
                    let told = self.swap(&artifact, meant.clone(), why);
                    if let Err(why) = &told {
                        self.spans.not_swapping(&meant, why);
                    }
                    (id, told)
                }
            }
            HostRequest::Stop { id, mode: StopMode::Checkpoint, traceparent, why } => {
                failpoint::reach(Point::StopTaken);
                let is_first = self.stop.is_none();
                if is_first {
                    self.spans.stopping(traceparent.as_deref(), self.pid());
                }
                let told = self.stop_at_checkpoint(why);
                if let Err(why) = &told
                    && is_first
                {
                    self.spans.not_stopping(why);
                }
                (id, told)
            }
            HostRequest::Stop { id, mode: StopMode::Now, why, .. } => {
                failpoint::reach(Point::KillTaken);
                (id, self.stop_now(why))
            }
            request @ (HostRequest::Type { .. }
            | HostRequest::Resize { .. }
            | HostRequest::Command { .. }
            | HostRequest::Withdraw { .. }) => {
                let answer = self.carry_out_in_terminal(request);
                return self.clients[index].answer(&answer);
            }
        };
        let answer = match outcome {
            Ok(()) => HostSays::Done { id },
            Err(why) => HostSays::Refused { id, why },
        };
        self.clients[index].answer(&answer);
    }

    fn swap(&mut self, artifact: &HostTells, meant: ContentHash, why: String) -> Result<(), String> {
        let signal = self.spec.hot_swap_signal;
        self.may_signal(signal)?;
        if self.ready == Some(false) || self.spec.executor {
            return Err("the trainer cannot take new callbacks".to_owned());
        }
        // A runner that closed its channel before it was armed obeys the signals alone, as in a terminal.
        if let Some(runner) = &mut self.runner
            && (self.ready.is_some() || !runner.control.is_closed())
        {
            runner.control.tell(artifact)?;
        }
        failpoint::reach(Point::SwapNamed);
        self.signal(signal, why, Some(meant.clone()))?;
        self.named = Some(meant);
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.runner.as_ref().map(|runner| runner.child.pid())
    }

    pub(crate) fn stop_at_checkpoint(&mut self, why: String) -> Result<(), String> {
        self.may_signal(SIGTERM)?;
        self.signal(SIGTERM, why, None)?;
        self.stop = Some(StopMode::Checkpoint);
        Ok(())
    }

    /// Ends the run at once: see [`Phase`].
    fn stop_now(&mut self, why: String) -> Result<(), String> {
        match self.phase {
            Phase::Serving { .. } => Err(ENDED.to_owned()),
            _ => self.kill(why),
        }
    }

    /// Asks for the same as the registry would, because the host itself is told to end.
    pub(crate) fn end_at_once(&mut self) {
        self.told_to_end = true;
        if let Phase::Serving { .. } = self.phase {
            self.phase.hurry();
        } else if let Err(text) = self.kill("the run-host was told to end".to_owned()) {
            self.log.append(Step::Note { text });
        }
    }

    /// Kills the runner if it runs, and what is left of its tree either way.
    pub(crate) fn kill(&mut self, why: String) -> Result<(), String> {
        if !self.has_ended() && self.stop != Some(StopMode::Now) {
            self.signal(SIGKILL, why, None)?;
        }
        self.stop = Some(StopMode::Now);
        self.phase.hurry();
        Ok(())
    }

    /// Whether the runner is there, not stopping, and armed for `signal`.
    fn may_signal(&self, signal: i32) -> Result<(), String> {
        if self.has_ended() {
            return Err(ENDED.to_owned());
        }
        if self.stop.is_some() {
            return Err("the runner is already stopping".to_owned());
        }
        let catches = |pid| process::signal_is_caught(pid, signal).unwrap_or(false);
        match &self.runner {
            _ if self.ready.is_some() || self.spec.executor => Ok(()),
            Some(runner) if runner.control.is_closed() && catches(runner.child.pid()) => Ok(()),
            _ => Err("the runner is not armed yet".to_owned()),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.phase, Phase::Running)
            || self.runner.as_ref().is_none_or(|runner| runner.child.pidfd().has_ended())
    }

    /// Sends the runner, and nobody else, a signal, when those who listen know of it.
    fn signal(&mut self, signal: i32, why: String, content_hash: Option<ContentHash>) -> Result<(), String> {
        if self.runner.is_none() {
            return Err(ENDED.to_owned());
        }
        self.log.append(Step::Signal { signal, why, content_hash });
        self.log.flush();
        failpoint::reach(Point::SignalRecorded);
        self.serve_clients();
        let Some(runner) = &self.runner else { return Err(ENDED.to_owned()) };
        runner.child.pidfd().send(signal).map_err(|error| {
            let text = format!("signal {signal} could not be sent: {error}");
            self.log.append(Step::Note { text: text.clone() });
            text
        })?;
        failpoint::reach(Point::SignalSent);
        Ok(())
    }
}

const ENDED: &str = "the runner has ended";
