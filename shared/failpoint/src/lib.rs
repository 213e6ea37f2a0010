//! Named places between two durable facts, where a test stops a process to kill it or another one.
//!
//! What must hold: every place is in [`Point::ALL`], so a test can prove that it was at each; whoever passes a place
//! pays nothing in a release build, where [`reach`] is empty; and nothing stops by accident: a place stops its
//! process only in a build with debug assertions, only where [`FOLDER`] is in the environment, and only after the
//! place was armed by a file in that folder.
//!
//! A place is armed for one process: the first that comes there takes the file away (by renaming it, so that one of
//! several gets it) and stops itself as by SIGSTOP, all its threads at once. Whoever armed it finds out who stopped
//! with [`Armed::stopped`], kills whom it likes, and lets who is left go on by SIGCONT.

mod arming;
mod point;

pub use arming::{Armed, are_compiled_in};
pub use point::Point;

/// The variable that names the folder in which places are armed.
pub const FOLDER: &str = "MIDRUN_FAILPOINTS";

/// A process is at `point`. Stops it if a test armed that place; otherwise nothing happens.
#[inline]
pub fn reach(point: Point) {
    #[cfg(debug_assertions)]
    arming::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}
