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
//!
//! A place can be armed for a panic instead, so that a test sees what becomes of a part that fails there; a [`Hold`] keeps
//! such a part from being started again until the test has seen what it wants to see.
//!
//! The runner's places are in its own source, `shared/sdk/typescript/src/failpoint.ts`, by the same rules: a run-host
//! of a build with debug assertions names the folder to it by [`RUNNER_FOLDER`], and any other takes that variable away.

mod arming;
mod point;

pub use arming::{Armed, Hold, are_compiled_in};
pub use point::Point;

/// The variable that names the folder in which places are armed.
pub const FOLDER: &str = "MIDRUN_FAILPOINTS";

/// What the words of a panic that a test asked for begin with; the place's name follows.
pub const PANICKED: &str = "a test wants a panic at";

/// The variable that tells a runner, which is no program of this workspace, the folder in which its places are armed.
pub const RUNNER_FOLDER: &str = "MIDRUN_RUNNER_FAILPOINTS";

/// The folder that a runner is told of: nothing in a release build, whatever the environment says.
pub fn folder_for_runner() -> Option<std::ffi::OsString> {
    std::env::var_os(FOLDER).filter(|_| are_compiled_in())
}

/// Whether a test wants that no part which failed is started again yet: never in a release build.
#[inline]
pub fn is_held() -> bool {
    #[cfg(debug_assertions)]
    return arming::is_held();
    #[cfg(not(debug_assertions))]
    false
}

/// A process is at `point`. Stops it if a test armed that place; otherwise nothing happens.
#[inline]
pub fn reach(point: Point) {
    #[cfg(debug_assertions)]
    arming::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}
