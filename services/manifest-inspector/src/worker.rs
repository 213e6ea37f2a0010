//! One worker's process: how it is started, what is said over its socket, and how it ended.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use process::{Child, Group, Launch, PidFd, Spawner, signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

use crate::Settings;
use crate::node::UnfitNode;
use crate::protocol::{Reply, Request};

/// Where a worker finds its socket.
const CONTROL_FD: i32 = 3;

/// Lets artifacts be evaluated as modules whose memory can be had back. Options of V8 are not for the command line:
/// Node would refuse its own code cache, which costs more than all the rest of the start.
const FLAGS: [&str; 2] = ["--experimental-vm-modules", "--no-warnings"];

/// What belongs to a run, and must not be taken for the worker's.
const NOT_INHERITED: [&str; 3] = ["MIDRUN_RUN_ID", "MIDRUN_CONTROL_FD", "MIDRUN_RESUME_FROM"];

/// Longest line that a worker may send: a config may have a whole dataset in it.
const LONGEST_LINE: usize = 64 << 20;

/// How long a process may take to be gone once its socket is closed.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// How much of the end of its error output is kept, bytes.
const KEPT_OUTPUT: usize = 4 << 10;

/// Our hold on a worker: what can be asked of it. Letting go of it ends the process.
#[derive(Debug)]
pub(crate) struct Worker {
    line: OwnedWriteHalf,
    process: PidFd,
}

impl Worker {
    /// Sends a request.
    ///
    /// # Errors
    /// The worker is gone, or has left so many requests unread that its socket is full.
    pub(crate) fn send(&self, request: &Request<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(request).expect("two plain fields are always JSON");
        text.push(b'\n');
        match self.line.try_write(&text)? {
            all if all == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Best effort: that it is gone already is what we want.
        let _ = self.process.send(signal::SIGKILL);
    }
}

/// What comes of a worker.
#[derive(Debug)]
pub(crate) enum Happening {
    /// It said something.
    Said(Reply),
    /// Its process is gone, for this reason. The last one.
    Ended(String),
}

/// The far side of a [`Worker`]: what it says, and its end.
pub(crate) struct Course {
    child: Child,
    line: OwnedReadHalf,
    unread: Vec<u8>,
    errors: JoinHandle<Vec<String>>,
    ready: bool,
}

/// Starts a worker's process. It says hello when it is ready.
///
/// # Errors
/// Why it could not be started, for a person; continues "node …".
pub(crate) async fn start(settings: &Settings) -> Result<(Worker, Course), String> {
    spawn(settings).await.map_err(|error| UnfitNode::not_started(&settings.node, &error).words())
}

async fn spawn(settings: &Settings) -> io::Result<(Worker, Course)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let launch = Launch::new(&settings.node)
        .args(FLAGS)
        .arg(&settings.worker)
        .current_dir(&settings.project)
        // Its own, so that a Ctrl-C in the terminal is not for it, and so that what it starts can be ended with it.
        .group(Group::Own)
        .dies_with_parent(signal::SIGKILL)
        .pass_fd(theirs.into(), CONTROL_FD)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let launch = NOT_INHERITED.iter().fold(launch, |launch, name| launch.env_remove(name));
    let mut child = Spawner::get().spawn(launch).await?;
    let errors = child.stderr().expect("its standard error is a pipe");
    let errors = tokio::spawn(last_lines(ChildStderr::from_std(errors)?));
    let worker_process = child.pidfd().try_clone()?;
    let (read, write) = UnixStream::from_std(ours)?.into_split();
    let course = Course { child, line: read, unread: Vec::new(), errors, ready: false };
    Ok((Worker { line: write, process: worker_process }, course))
}

impl Course {
    /// What happens next. After [`Happening::Ended`] nothing does.
    pub(crate) async fn next(&mut self) -> Happening {
        match self.read_line().await {
            Ok(Some(line)) => match serde_json::from_slice(&line) {
                Ok(reply) => {
                    self.ready |= matches!(reply, Reply::Hello { .. });
                    Happening::Said(reply)
                }
                Err(error) => {
                    tracing::warn!(%error, "a worker said something that makes no sense");
                    self.end("said something that makes no sense").await
                }
            },
            Ok(None) => self.end("closed its socket").await,
            Err(error) => self.end(&format!("could not be heard: {error}")).await,
        }
    }

    /// The next line, or nothing at the end.
    async fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(searched + end + 1);
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            searched = self.unread.len();
            if searched > LONGEST_LINE {
                return Err(io::Error::other("the trainer's config is larger than 64 MiB"));
            }
            if self.line.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes note of its end, or ends it. A process that closes its socket is usually ending, and has a reason to
    /// tell.
    async fn end(&mut self, seen: &str) -> Happening {
        let process = self.child.pidfd();
        let ended_itself = tokio::time::timeout(LAST_MOMENTS, process.wait()).await.is_ok();
        let _ = process.send(signal::SIGKILL);
        if let Err(error) = process.wait().await {
            return Happening::Ended(format!("could not be waited for: {error}"));
        }
        // The group keeps its number until its leader is reaped, so this reaches nobody else.
        let _ = killpg(Pid::from_raw(self.child.pid().cast_signed()), Signal::SIGKILL);
        let status = self.child.wait().await;
        // What it started has its error output too, and has just been ended.
        let lines = tokio::time::timeout(LAST_MOMENTS, &mut self.errors).await;
        let why = match status {
            Ok(status) if ended_itself => ending(status),
            Ok(_) => seen.to_owned(),
            Err(error) => format!("could not be reaped: {error}"),
        };
        Happening::Ended(with_reason(
            why,
            &lines.map(Result::unwrap_or_default).unwrap_or_default(),
            self.ready,
        ))
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(number)) => {
            let name =
                Signal::try_from(number).map_or_else(|_| number.to_string(), |known| known.to_string());
            format!("was ended by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// Adds what the process said of its end. Once it was ready, its error output is the trainer's, except for V8's own
/// last words.
fn with_reason(why: String, lines: &[String], ready: bool) -> String {
    let last_words = lines.iter().filter(|line| !ready || line.starts_with("FATAL ERROR"));
    let said: Vec<&str> = last_words.map(String::as_str).collect();
    if said.is_empty() { why } else { format!("{why}: {}", said.join("\n")) }
}

/// Reads `output` to its end, so that its writer never waits; the last of it is the answer.
async fn last_lines(mut output: impl AsyncRead + Unpin) -> Vec<String> {
    let mut kept = VecDeque::with_capacity(KEPT_OUTPUT);
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        kept.extend(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(KEPT_OUTPUT));
    }
    let kept: Vec<u8> = kept.into();
    String::from_utf8_lossy(&kept)
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_its_reason() {
        let lines = ["trainer noise".to_owned(), "FATAL ERROR: heap out of memory".to_owned()];
        assert_eq!(
            with_reason("was ended by SIGABRT".into(), &lines, true),
            "was ended by SIGABRT: FATAL ERROR: heap out of memory"
        );
        assert_eq!(with_reason("ended".into(), &lines[..1], true), "ended");
        assert_eq!(with_reason("ended".into(), &lines[..1], false), "ended: trainer noise");
        assert_eq!(ending(ExitStatus::from_raw(7 << 8)), "ended with exit status 7");
        assert_eq!(ending(ExitStatus::from_raw(9)), "was ended by SIGKILL");
    }

    #[tokio::test]
    async fn only_the_end_of_the_output_is_kept() {
        let text = format!("first\n{}\n\nlast\n", "x".repeat(3 * KEPT_OUTPUT));
        let lines = last_lines(text.as_bytes()).await;
        assert_eq!(lines.last().map(String::as_str), Some("last"));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() < KEPT_OUTPUT);
    }
}
