//! What midrun promises, seen from outside: the built binary, real runners, real jobs.
//!
//! A scenario ends by `Dev::finish`, which fails when a process is left. That nothing happens is shown by what
//! happens next: after an edit that must be ignored comes one that must not, and its frame must be the next one.

mod broken;
mod command_line;
mod edge;
mod endings;
mod faults;
mod frames;
mod kill;
mod log;
mod many_files;
mod orphans;
mod outlive;
mod output;
mod panics;
mod records;
mod restart;
mod resume;
mod starting;
mod stopping;
mod swap;
mod take_up;
mod terminals;
mod ticks;
mod traces;
mod training;
