//! The runner while it runs: what reaches it, and what it leaves behind.
//!
//! It leads a process group of its own, in the background of this terminal. So a signal, whoever sends it and whether
//! to this process, to its group or by the terminal's keys, gets to this process, which hands it on: once for each time,
//! since a second one means something else to the runner. Ctrl-Z stops the runner's group with this process, which lends
//! it a control plane, and `fg` continues both.
//!
//! Nobody can be asked anything in the background: a runner whose standard input would be the terminal gets an empty one,
//! since a read would stop it for good. Handing over the terminal instead would let it read, but then its keys would
//! reach the runner alone, and all that a shell does for its jobs would have to be done here again.
//!
//! What must hold: the runner does not outlive this process, and what it started does not outlive it.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use process::{Child, Group, Launch, Marker, Spawner, Tree, kill_tree};
use tokio::signal::unix::{self, SignalKind};
use wire::RunId;

/// What every process of a run carries in its environment.
const RUN_ID: &str = "MIDRUN_RUN_ID";

/// What a person or a program sends to have a program end or stop.
const HANDED_ON: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP];

/// Starts `runner` as `run`, and stays until it has ended. What it started and left has `grace` to end.
///
/// # Errors
/// It cannot be started, or its end cannot be seen.
pub(super) async fn attend(runner: Launch, run: &RunId, grace: Duration) -> io::Result<ExitStatus> {
    // Before the runner is there: from now on nothing ends this process before it.
    let mut signals = Signals::arm()?;
    let runner = runner.env(RUN_ID, run.as_str()).group(group()).dies_with_parent(process::signal::SIGTERM);
    let runner = if io::stdin().is_terminal() { runner.stdin(Stdio::null()) } else { runner };
    let mut runner = Spawner::get().spawn(runner).await?;
    let mut hung_up = false;
    let ended = loop {
        tokio::select! {
            ended = runner.wait() => break ended,
            signal = signals.next() => {
                // A terminal that goes says so twice: its shell does, and then the system.
                if !(hung_up && signal == Signal::SIGHUP) {
                    hand_on(signal, &runner);
                }
                hung_up |= signal == Signal::SIGHUP;
            }
        }
    };
    clear_up(run, grace).await;
    ended
}

/// Which group the runner leads: one in this session, which the system continues and ends if this process is killed
/// while both are stopped; but where the terminal stops whoever writes from the background, one in no terminal's session.
fn group() -> Group {
    let stops = |output: BorrowedFd<'_>| process::terminal::stops_writers(output).unwrap_or(false);
    let (stdout, stderr) = (io::stdout(), io::stderr());
    if stops(stdout.as_fd()) || stops(stderr.as_fd()) { Group::OwnSession } else { Group::Own }
}

/// Hands `signal` on. A runner that has just ended needs nothing any more.
fn hand_on(signal: Signal, runner: &Child) {
    // It is not reaped while it is attended, so its group is still its own.
    let group = Pid::from_raw(runner.pid().cast_signed());
    if signal == Signal::SIGTSTP {
        let _ = killpg(group, Signal::SIGSTOP);
        if let Err(error) = process::suspend() {
            tracing::warn!(%error, "this process cannot be stopped");
        }
    } else {
        let _ = runner.pidfd().send(signal as i32);
    }
    // One that is stopped, by whatever, would heed nothing.
    let _ = killpg(group, Signal::SIGCONT);
}

/// Ends what the runner of `run` left behind.
async fn clear_up(run: &RunId, grace: Duration) {
    let left = Tree::marked_only(Marker { name: RUN_ID.to_owned(), value: run.to_string() });
    let killing = tokio::task::spawn_blocking(move || kill_tree(left, grace));
    match killing.await {
        Ok(report) if report.survivors.is_empty() => {}
        Ok(report) => tracing::warn!(?report.survivors, "what the runner started cannot be ended"),
        Err(error) => tracing::warn!(%error, "what the runner started was not looked for"),
    }
}

/// The signals that are handed on.
struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    fn arm() -> io::Result<Self> {
        // `nohup` starts a program with SIGHUP ignored, so that it outlives its terminal.
        let outlives_terminal = process::signal_is_ignored(std::process::id(), process::signal::SIGHUP)?;
        let wanted = HANDED_ON.into_iter().filter(|signal| !(outlives_terminal && *signal == Signal::SIGHUP));
        let arm = |signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        Ok(Self(wanted.map(arm).collect::<io::Result<_>>()?))
    }

    /// The next one. Cancel-safe.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            let came = |(signal, seat): &mut (Signal, unix::Signal)| {
                seat.poll_recv(context).is_ready().then_some(*signal)
            };
            self.0.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    async fn attended(program: &str, args: &[&str]) -> io::Result<ExitStatus> {
        attend(Launch::new(program).args(args), &RunId::fresh(), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn the_runners_end_is_told() {
        let told = |ended: ExitStatus| (ended.code(), ended.signal());
        assert_eq!(told(attended("sh", &["-c", "exit 7"]).await.unwrap()), (Some(7), None));
        assert_eq!(told(attended("sh", &["-c", "kill -KILL $$"]).await.unwrap()), (None, Some(9)));
        let missing = attended("no-such-program-anywhere", &[]).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_the_runner_started_does_not_outlive_it() {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join("pids");
        let script = format!(
            "sleep 60 & echo $! > {0}; setsid sh -c 'echo $$ >> {0}; exec sleep 60' & until [ \"$(wc -l < {0})\" = 2 ]; do :; done",
            told.display()
        );
        assert!(attended("sh", &["-c", &script]).await.unwrap().success());
        for pid in std::fs::read_to_string(told).unwrap().lines() {
            let pid: u32 = pid.parse().unwrap();
            let left = process::Identity::of(pid).is_ok_and(|left| left.is_alive());
            assert!(!left, "process {pid} is left");
        }
    }
}
