//! Cancels that must reach the control plane, and the credentials they need.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, RunId};
use crate::message::{FeedEvent, Reject, Wire};

/// A credential. Its `Debug` shows nothing, so that no log can.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The credential itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A control plane, as whom, and for which project: fixed for a run at the moment it is spawned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlane {
    /// Base URL without a trailing slash.
    pub url: String,
    /// Bearer token.
    pub token: Secret,
    /// Scope.
    pub org_slug: String,
    /// Scope.
    pub project_slug: String,
}

/// On which control plane the services act, and as whom: what the one that signed in tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acting {
    /// Nothing while nobody is signed in.
    pub control_plane: Option<ControlPlane>,
}

impl FeedEvent for Acting {
    const NAME: &'static str = "acting";

    fn snapshot_key(&self) -> Option<String> {
        Some("acting".to_owned())
    }
}

/// Cancel a run's job. Answers when the cancel is on disk; it is delivered until the control plane settles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    /// The run, which is also the job's `clientRunId`.
    pub run: RunId,
    /// The job, if the runner told it.
    pub job: Option<JobId>,
    /// Where, as whom.
    pub control_plane: ControlPlane,
}

impl Wire for Cancel {
    const NAME: &'static str = "cancel";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = CancelRefusal;
}

/// Cancels that the control plane has not settled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outstanding {}

impl Wire for Outstanding {
    const NAME: &'static str = "outstanding";
    const REPEATABLE: bool = true;
    type Reply = Vec<OutstandingCancel>;
    type Refusal = CancelRefusal;
}

/// One cancel that is still under way. Holds no credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutstandingCancel {
    /// The run.
    pub run: RunId,
    /// Its job, if known.
    pub job: Option<JobId>,
    /// The control plane.
    pub url: String,
    /// RFC 3339.
    pub since: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt came to.
    pub last_error: Option<String>,
}

/// Why a cancel was not accepted: nothing is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum CancelRefusal {
    /// The outbox cannot be written.
    #[error("the cancel outbox cannot be written: {why}")]
    OutboxUnwritable {
        /// What the system said.
        why: String,
    },
}

impl Reject for CancelRefusal {
    fn code(&self) -> &'static str {
        "outbox-unwritable"
    }

    fn http_status(&self) -> u16 {
        503
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
