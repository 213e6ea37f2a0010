//! A process by file descriptor: it means that process and no later one, and says when it ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::Identity;

/// A process, by file descriptor. Readable for `poll` once the process has ended, reaped or not.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens `pid`, which the caller knows to be the process it means: its own child that nobody has reaped.
    /// For any other process use [`PidFd::open`].
    ///
    /// # Errors
    /// `NotFound` when there is no such process; the system's error otherwise.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::NotFound)?;
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        #[allow(unsafe_code, reason = "neither std nor nix offers pidfd_open")]
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(Errno::result(fd).map_err(gone)?).expect("a file descriptor is an int");
        // SAFETY: the system just made this descriptor (close-on-exec) and nobody else knows of it.
        #[allow(unsafe_code, reason = "taking ownership of a descriptor that a raw system call returned")]
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Opens the process that `identity` means.
    ///
    /// # Errors
    /// `NotFound` when it is gone, also when its pid is in use again.
    pub fn open(identity: &Identity) -> io::Result<Self> {
        let fd = Self::of_child(identity.pid)?;
        // Checked after opening: had the pid changed hands before, the start time would show it.
        if identity.is_there() { Ok(fd) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Sends `signal` to this process alone; 0 only asks whether that is allowed.
    ///
    /// # Errors
    /// `NotFound` when it has been reaped, `PermissionDenied` when it is somebody else's.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        // SAFETY: with a null siginfo the call reads no memory of ours.
        #[allow(unsafe_code, reason = "neither std nor nix offers pidfd_send_signal")]
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(answer).map_err(gone)?;
        Ok(())
    }

    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> bool {
        self.wait_blocking(Some(Duration::ZERO)).unwrap_or(false)
    }

    /// Waits until the process ends or `limit` is over; without a limit for as long as it takes. Answers whether
    /// it ended. Reaps nothing.
    ///
    /// # Errors
    /// The system's, from `poll`.
    pub fn wait_blocking(&self, limit: Option<Duration>) -> io::Result<bool> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout(until)) {
                Ok(0) if until.is_some_and(|until| Instant::now() < until) => {}
                Ok(0) if until.is_none() => {}
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the process ends. Reaps nothing. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The system's, when the descriptor cannot be registered.
    pub async fn wait(&self) -> io::Result<()> {
        // Its own descriptor: one descriptor can be registered only once, and several may wait.
        let own = self.0.try_clone()?;
        // SAFETY: an OwnedFd is open until it is dropped and always answers the same number; the AsyncFd owns it.
        #[allow(unsafe_code, reason = "tokio's safe constructor is deprecated in favour of this one")]
        let fd = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE)? };
        fd.readable().await?.retain_ready();
        Ok(())
    }

    /// A second handle on the same process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is left until `until`, rounded up so that a wait never ends early and spins.
pub(crate) fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

fn gone(errno: Errno) -> io::Error {
    match errno {
        Errno::ESRCH => io::ErrorKind::NotFound.into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Launch, signal};

    #[test]
    fn a_wait_ends_with_its_limit_and_with_the_process() {
        let mut child = Launch::new("sleep").arg("60").spawn().unwrap();
        assert!(!child.pidfd().wait_blocking(Some(Duration::from_millis(20))).unwrap());
        assert!(!child.pidfd().has_ended());
        child.pidfd().send(signal::SIGTERM).unwrap();
        assert!(child.pidfd().wait_blocking(None).unwrap());
        assert!(child.pidfd().has_ended());
        child.wait_blocking().unwrap();
        assert_eq!(child.pidfd().send(signal::SIGTERM).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn several_may_wait_at_once() {
        let mut child = Launch::new("sleep").arg("60").spawn().unwrap();
        let other = child.pidfd().try_clone().unwrap();
        let kill = async { child.pidfd().send(signal::SIGKILL).unwrap() };
        let (first, second, ()) = tokio::join!(child.pidfd().wait(), other.wait(), kill);
        first.unwrap();
        second.unwrap();
        child.wait().await.unwrap();
    }

    #[test]
    fn a_stale_identity_is_not_opened() {
        let own = Identity::own().unwrap();
        PidFd::open(&own).unwrap();
        let stale = Identity { start_time: own.start_time - 1, ..own };
        assert_eq!(PidFd::open(&stale).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
