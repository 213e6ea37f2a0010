//! What the system knows of a local socket and std does not ask.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;

/// Whether the other end of a Unix socket has read everything that was written to this one.
///
/// # Errors
/// The system's, when `socket` is no socket.
pub fn peer_has_read_all(socket: impl AsFd) -> io::Result<bool> {
    let mut unread: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (for a socket SIOCOUTQ, the same number) writes one int, which lives until it was read.
    #[allow(unsafe_code, reason = "no safe interface asks for a socket's output queue")]
    Errno::result(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) })?;
    Ok(unread == 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn unread_bytes_are_seen_until_the_last_was_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(peer_has_read_all(&ours).unwrap());
        ours.write_all(b"ab").unwrap();
        assert!(!peer_has_read_all(&ours).unwrap());
        let mut one = [0];
        theirs.read_exact(&mut one).unwrap();
        assert!(!peer_has_read_all(&ours).unwrap());
        theirs.read_exact(&mut one).unwrap();
        assert!(peer_has_read_all(&ours).unwrap());
    }
}
