//! Being stopped as Ctrl-Z stops a program, in one that has to see it coming.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// Stops this process as SIGTSTP stops one without a handler of its own, and comes back when it is continued: at once
/// where the system lets nobody be stopped, since no shell is there to continue it.
///
/// # Errors
/// The system's.
pub fn suspend() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours, and what is put back is what was there. A SIGTSTP that another
    // thread gets in between stops the process too, which is what is asked for.
    #[allow(unsafe_code, reason = "nix cannot know what a handler does")]
    unsafe {
        let handler = sigaction(Signal::SIGTSTP, &default)?;
        // To this thread, which stops before it goes on.
        let stopped = raise(Signal::SIGTSTP);
        sigaction(Signal::SIGTSTP, &handler).and(stopped).map_err(Errno::into)
    }
}
