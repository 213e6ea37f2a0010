//! Process trees: spawn, identity, signals, grace, pidfd.
//!
//! This crate knows what a process is and nothing of what it is for. Three facts shape it:
//!
//! * A pid is used again by the system, so nothing here signals a pid that was read a moment ago: a process is
//!   named by its [`Identity`] (pid, start time, boot id) and signalled through a [`PidFd`].
//! * A parent-death signal fires when the *thread* that spawned the child ends. Such children are spawned from
//!   the [`Spawner`]'s thread, which lives as long as the process, or from a main thread.
//! * A descendant may leave its tree by `setsid` or a double fork. It is found again because its orphans are
//!   adopted by a subreaper ([`become_subreaper`]) and because it carries its [`Marker`] in its environment.
//!
//! It is the only crate with `unsafe` in it; every site says why it is sound.

mod child;
mod identity;
mod launch;
mod memory;
mod pidfd;
mod reap;
mod socket;
mod spawner;
mod suspend;
mod table;
pub mod terminal;
mod timers;
mod tree;

pub use child::Child;
pub use identity::{Identity, boot_id};
pub use launch::{Group, Launch};
pub use memory::{forgo_huge_pages, give_back_heap, give_back_memory, share_one_heap};
pub use pidfd::PidFd;
pub use reap::{become_subreaper, reap_next};
pub use socket::peer_has_read_all;
pub use spawner::Spawner;
pub use suspend::suspend;
pub use table::{Process, arguments, owner, processes, signal_is_caught, signal_is_ignored, variables};
pub use terminal::WindowSize;
pub use timers::{ExactTimers, let_timers_be_late};
pub use tree::{Killed, Killing, Marker, Progress, Report, Tree, kill_tree};

/// Signals by name, so that callers need no dependency for the numbers.
pub mod signal {
    pub use nix::libc::{
        SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2,
    };
}
