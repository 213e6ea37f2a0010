//! One runner process: its tree, its log, its completion, its signals.
//!
//! # Theory of operation
//!
//! A run-host is a process of its own, so that training outlives the server. It is one thread around one `poll`:
//! the coordinator takes output, the runner's messages, the runner's end and the registry's requests, and is the
//! only one that appends to the log. What stands in the log is therefore in the order in which it happened, with two
//! rules where two pipes cannot tell: what the runner wrote before it sent a message stands before that message, and
//! everything that it and its children wrote stands before `exit`.
//!
//! The end has four steps. The runner ends; its output is drained, for a bounded time where a child still holds
//! it; what is left of its tree is killed, children first; `exit` is written, and the host stays a moment longer to
//! tell those who listen. Nothing that the runner started is left then: the host is the subreaper of all of it, and
//! finds what hides by the run's id in its environment.
//!
//! Before anything else the host claims the run. A server that looks for a host and finds none claims it too, and who
//! comes second does nothing: a host that was spawned by a server which died is either found by the next one or
//! never starts its runner.
//!
//! If the host is killed, the runner dies with it (parent-death signal). Its children then belong to the next
//! subreaper or to init; they carry `MIDRUN_RUN_ID`, by which the registry and `midrun reap` find and kill them.
//!
//! The server may be gone for good. Who is always there is the host: when nobody has listened for long enough, it asks
//! its runner for an early stop, and kills the tree when that takes too long ([`alone`]).
//!
//! A host of a terminal session has a shell in the runner's place, and a person or a program in front of it: see
//! [`terminal`].
//!
//! A job's executor is hosted in the same way, for the control plane: without a control channel, with its order as
//! standard input, and it may be told to stop from its first moment on.
//!
//! A subscriber is a cursor into the log file: nothing is queued for one that is slow, and none is ever dropped
//! for being slow.

mod alone;
mod control;
mod coordinator;
mod ending;
mod lines;
mod listener;
mod output;
mod passage;
mod requests;
mod runner;
mod spans;
mod spec;
mod subscriber;
mod terminal;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Hosts the run whose folder is `dir`, until it has ended. To be called on a process's main thread, before any other
/// thread is started: the runner dies with the thread that calls this.
///
/// Exits with 0 when the run's end stands in the log, whatever the end was, and with 1 when the run could not be
/// hosted or its end could not be written; the reason is on standard error.
pub fn main(dir: &Path) -> ExitCode {
    stay_small();
    match coordinator::host(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be on the same full disk.
            let _ = writeln!(std::io::stderr(), "run-host: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A process that mostly waits needs no huge pages, of which an allocator may have taken some megabytes before `main`
/// was called. They are left behind by starting this program again, as the same process. Whoever starts a host saves
/// it that by [`process::Launch::huge_pages`].
fn stay_small() {
    if process::forgo_huge_pages().is_ok_and(|were_allowed| were_allowed)
        && let Ok(program) = std::env::current_exe()
    {
        // It returns only when it failed; then the host is larger than need be, and no more.
        let _error = Command::new(program).args(std::env::args_os().skip(1)).exec();
    }
}
