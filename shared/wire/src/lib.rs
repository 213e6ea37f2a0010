//! Every message, event and id that crosses a crate boundary.
//!
//! This crate is the vocabulary of midrun: it does no I/O and knows no actor. A type here is part of the
//! contract, so JSON keys are camelCase, times are RFC 3339 UTC strings, durations are milliseconds, and readers
//! ignore keys they do not know.

pub mod build;
pub mod cancel;
pub mod config;
pub mod event;
pub mod frame;
pub mod host;
pub mod id;
pub mod log;
pub mod manifest;
pub mod message;
mod number;
pub mod profile;
pub mod resume;
pub mod run;
pub mod terminal;
mod trouble;

pub use build::{Artifact, BuildEvent, BuildOutcome, Diagnostic, Failure};
pub use cancel::{Acting, Cancel, ControlPlane, Secret};
pub use config::{ConfigChange, ConfigHash};
pub use event::DevEvent;
pub use id::{BuildId, CommandId, ContentHash, EntryPath, JobId, RunId, TerminalId};
pub use manifest::{Manifest, Rebuild};
pub use message::{Reject, TraceContext, Wire};
pub use profile::Profile;
pub use resume::{ChangedKey, ResumeFrom};
pub use run::{Decision, EndedBy, Run, RunStatus, StopMode};
pub use trouble::{Trouble, Troubles};

/// Now, as the contract writes times: RFC 3339, UTC, milliseconds.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

/// `at` as the contract writes times: RFC 3339, UTC, milliseconds.
pub fn timestamp(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}
