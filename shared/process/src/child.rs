//! A child of this process.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::time::Duration;

use crate::{Identity, PidFd, signal, spawner};

/// A child of this process, until its exit status is taken.
///
/// Dropping it neither kills nor waits: the process goes on, and its zombie is reaped by a later spawn.
#[derive(Debug)]
pub struct Child {
    identity: Identity,
    pidfd: PidFd,
    terminal: Option<OwnedFd>,
    /// Taken on drop.
    inner: Option<std::process::Child>,
    status: Option<ExitStatus>,
}

impl Child {
    pub(crate) fn of(mut child: std::process::Child, terminal: Option<OwnedFd>) -> io::Result<Self> {
        let named =
            Identity::of(child.id()).and_then(|identity| Ok((identity, PidFd::of_child(child.id())?)));
        match named {
            Ok((identity, pidfd)) => Ok(Self { identity, pidfd, terminal, inner: Some(child), status: None }),
            Err(error) => {
                // A child that cannot be named cannot be handed out; it must not run on unseen.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Who it is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its file descriptor, for signals and for other waiters.
    pub const fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Takes our end of its standard input, if that is a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.std().stdin.take()
    }

    /// Takes our end of its standard output, if that is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.std().stdout.take()
    }

    /// Takes our end of its standard error, if that is a pipe.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.std().stderr.take()
    }

    /// Takes our end of its terminal, if it has one.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Waits until it ends and takes its exit status. May be called again, and may be dropped half-way. Does not
    /// close its standard input. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The system's; `ECHILD` when somebody else reaped it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.pidfd.wait().await?;
        self.wait_blocking()
    }

    /// Waits until it ends, without an end, and takes its exit status.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn wait_blocking(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.pidfd.wait_blocking(None)?;
        // std's wait closes standard input first, which is the caller's to decide.
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
        }
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.std().try_wait()?;
        }
        Ok(self.status)
    }

    /// Sends SIGTERM, waits for `grace`, then sends SIGKILL, and takes its exit status. This process alone: for
    /// its descendants too, see [`crate::kill_tree`].
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub async fn end(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.send(signal::SIGTERM)?;
            if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
                return status;
            }
            self.send(signal::SIGKILL)?;
        }
        self.wait().await
    }

    /// Sends SIGKILL and takes its exit status.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn kill_blocking(&mut self) -> io::Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.send(signal::SIGKILL)?;
        }
        self.wait_blocking()
    }

    /// Sends a signal; one that comes too late is no error.
    fn send(&self, signal: i32) -> io::Result<()> {
        match self.pidfd.send(signal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }

    const fn std(&mut self) -> &mut std::process::Child {
        self.inner.as_mut().expect("taken only on drop")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none()
            && let Some(child) = self.inner.take()
        {
            spawner::adopt(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;
    use crate::Launch;

    #[tokio::test]
    async fn exit_codes_and_signals_are_told_apart() {
        let status = |script: &'static str| async move {
            let mut child = Launch::new("sh").args(["-c", script]).spawn().unwrap();
            let status = child.wait().await.unwrap();
            assert_eq!(child.wait().await.unwrap(), status, "asked again");
            (status.code(), status.signal())
        };
        assert_eq!(status("exit 0").await, (Some(0), None));
        assert_eq!(status("exit 7").await, (Some(7), None));
        assert_eq!(status("kill -KILL $$").await, (None, Some(signal::SIGKILL)));
    }

    #[tokio::test]
    async fn waiting_leaves_standard_input_open() {
        let mut child =
            Launch::new("sh").args(["-c", "read x; exit $x"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), child.wait()).await.is_err());
        stdin.write_all(b"3\n").unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_request_is_killed() {
        let mut child = Launch::new("sh")
            .args(["-c", "trap '' TERM; echo armed; read x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .dies_with_parent(signal::SIGKILL)
            .spawn()
            .unwrap();
        let mut armed = [0; 6];
        child.stdout().unwrap().read_exact(&mut armed).unwrap();
        let _open = child.stdin();
        let status = child.end(Duration::from_millis(30)).await.unwrap();
        assert_eq!(status.signal(), Some(signal::SIGKILL));
    }

    #[test]
    fn a_dropped_child_leaves_no_zombie() {
        let child = Launch::new("true").spawn().unwrap();
        let identity = child.identity().clone();
        child.pidfd().wait_blocking(None).unwrap();
        drop(child);
        Launch::new("true").spawn().unwrap().wait_blocking().unwrap();
        assert!(!identity.is_there());
    }
}
