//! Orphans: adopting those of descendants, and reaping them.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Makes this process the parent of every descendant whose own parent ends, so that none of them can leave its
/// tree. It must then reap them: see [`reap_next`].
///
/// # Errors
/// The system's; none is known on a kernel since 3.4.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Reaps one child that has ended and answers its pid; `None` when there is none, or when the next one is `keep`,
/// whose status belongs to somebody else. Only for a process that has no other children with a [`crate::Child`].
pub fn reap_next(keep: u32) -> Option<u32> {
    let pid = ended(libc::P_ALL, 0, libc::WNOWAIT)?;
    (pid != keep && ended(libc::P_PID, pid, 0).is_some()).then_some(pid)
}

/// Reaps `pid` if it is a child of this process that has ended; answers whether it was.
pub(crate) fn reap(pid: u32) -> bool {
    ended(libc::P_PID, pid, 0).is_some()
}

fn ended(which: libc::idtype_t, id: u32, flags: libc::c_int) -> Option<u32> {
    // SAFETY: waitid writes one siginfo, which lives until it was read; zeroes are a valid one, and for WEXITED
    // the field si_pid is the one that is filled in.
    #[allow(unsafe_code, reason = "nix's waitid fails on a child that a real-time signal ended")]
    let pid = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let flags = libc::WEXITED | libc::WNOHANG | flags;
        Errno::result(libc::waitid(which, id, &raw mut info, flags)).ok()?;
        info.si_pid()
    };
    u32::try_from(pid).ok().filter(|&pid| pid != 0)
}
