//! The set of terminal sessions, and who waits for what in them.
//!
//! # Theory of operation
//!
//! A session is a shell in a run-host of its own, which outlives this server; `hosting` starts it and follows it. What
//! happened in it stands in its log; a session as others see it is read from there ([`session`]), so a registry that
//! starts takes up the sessions of the one before from their folders, and needs no table besides. The actor in
//! [`service`] takes requests, [`registry`] keeps the sessions.
//!
//! ```text
//!  requests (inboxes) --> registry (actor) --> host's socket --> shell
//!                              ^                    |
//!                              +---- records -------+   (only of life: output is read from the log, by who wants it)
//! ```
//!
//! Who waits for a command waits for its record, for the shell's end, or for the time allowed, whichever comes first. A
//! command that the shell has not taken when the time is over is withdrawn, so that nothing runs when nobody expects
//! it any more. What must hold: a completion is what the host recorded, never what was guessed; what ends badly leaves
//! no process behind.
//!
//! Terminals are no trainings: when the server stops, they end ([`Handle::shutdown`]). When it is killed, they live on
//! until the next one takes them up, or until their hosts have waited for one for too long.

mod log;
mod registry;
mod remains;
mod service;
mod session;
mod settings;
mod shell;

pub use service::{Handle, start};
pub use settings::Settings;
