//! Cancels that must reach the control plane, until they do.
//!
//! What must hold: a cancel is on disk before anyone is told yes; it carries the control plane, the scope and the
//! credentials of the moment its run was started, so that a login in between changes nothing; it is delivered until
//! an answer of that control plane settles it, across restarts and wherever it moves; there is one cancel a run, however
//! many ask. Credentials are in one file that its owner alone can read, are deleted with their cancel, and are never
//! logged.
//!
//! The broker decides nothing: whoever asks has decided that a job is to be cancelled.

mod broker;
mod delivery;
mod outbox;

pub use broker::{Handle, Moved, Settings, start};
