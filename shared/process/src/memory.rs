//! Huge pages: good for a trainer, and most of the memory of a process that only waits.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Makes this process, and what it starts, use no transparent huge pages from now on; those it has stay. Answers
/// whether it was allowed to use them before.
///
/// # Errors
/// The system's; none is known on a kernel since 3.15.
pub fn forgo_huge_pages() -> io::Result<bool> {
    // SAFETY: both calls take integers only.
    #[allow(unsafe_code, reason = "nix can set this but not ask for it")]
    let forgone = unsafe {
        const NONE: libc::c_ulong = 0;
        let forgone = Errno::result(libc::prctl(libc::PR_GET_THP_DISABLE, NONE, NONE, NONE, NONE))?;
        Errno::result(libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, NONE, NONE, NONE))?;
        forgone
    };
    Ok(forgone == 0)
}
