//! What can be asked of a terminal and told to it from our end of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::tcgetpgrp;

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Gives the terminal behind either of its ends another size; its foreground processes get SIGWINCH.
///
/// # Errors
/// The system's, when `terminal` is none.
pub fn resize(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
    #[allow(unsafe_code, reason = "nix offers no call that sets a terminal's size")]
    unsafe {
        Errno::result(libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size))?;
    }
    Ok(())
}

/// The process group that the terminal's keys reach.
///
/// # Errors
/// The system's, when `terminal` is none.
pub fn foreground_group(terminal: impl AsFd) -> io::Result<u32> {
    let group = tcgetpgrp(terminal)?;
    u32::try_from(group.as_raw()).map_err(io::Error::other)
}

/// Whether the terminal gathers lines itself; where a program edits its line, it does not.
///
/// # Errors
/// The system's, when `terminal` is none.
pub fn gathers_lines(terminal: impl AsFd) -> io::Result<bool> {
    Ok(tcgetattr(terminal)?.local_flags.contains(LocalFlags::ICANON))
}

/// Whether the terminal stops a program that writes to it from the background (`stty tostop`).
///
/// # Errors
/// The system's, when `terminal` is none.
pub fn stops_writers(terminal: impl AsFd) -> io::Result<bool> {
    Ok(tcgetattr(terminal)?.local_flags.contains(LocalFlags::TOSTOP))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;
    use crate::Launch;

    #[test]
    fn a_terminal_tells_of_itself_and_takes_another_size() {
        let script = "echo first; read x; stty size; stty -icanon tostop; echo raw; read x";
        let launch = Launch::new("sh").args(["-c", script]).terminal(WindowSize { rows: 5, columns: 40 });
        let mut child = launch.spawn().unwrap();
        let mut ours = File::from(child.take_terminal().unwrap());
        let mut wait_for = |text: &str| {
            let mut seen = String::new();
            let mut byte = [0];
            while !seen.contains(text) {
                ours.read_exact(&mut byte).unwrap();
                seen.push(char::from(byte[0]));
            }
            ours.try_clone().unwrap()
        };
        let mut terminal = wait_for("first\r\n");
        assert_eq!(foreground_group(&terminal).unwrap(), child.pid());
        assert!(gathers_lines(&terminal).unwrap() && !stops_writers(&terminal).unwrap());
        resize(&terminal, WindowSize { rows: 7, columns: 33 }).unwrap();
        io::Write::write_all(&mut terminal, b"\n").unwrap();
        let terminal = wait_for("7 33\r\nraw\r\n");
        assert!(!gathers_lines(&terminal).unwrap() && stops_writers(&terminal).unwrap());
        child.kill_blocking().unwrap();
    }
}
