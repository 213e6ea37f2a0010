//! What midrun promises, seen from outside: the built binary, real runners, real jobs. All of it holds whether the
//! server is one process or six.
//!
//! Where a scenario kills the server, all its processes are killed, and all of them are started again. Where it looks
//! into the server, it says into which service.
//!
//! A scenario ends by `Dev::finish`, which fails when a process is left. That nothing happens is shown by what
//! happens next: after an edit that must be ignored comes one that must not, and its frame must be the next one.

mod broken;
mod command_line;
mod edge;
mod endings;
pub(crate) mod faults;
pub(crate) mod frames;
mod kill;
mod log;
mod many_files;
mod named;
mod orphans;
mod outlive;
mod output;
mod panics;
pub(crate) mod records;
mod restart;
mod resume;
mod starting;
mod stopping;
mod swap;
mod take_up;
mod terminals;
pub(crate) mod ticks;
mod traces;
mod training;
