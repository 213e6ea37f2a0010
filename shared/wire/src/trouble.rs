//! What is wrong with the server as a whole: which of its services cannot do its work, since when, and why.

use serde::{Deserialize, Serialize};

use crate::message::FeedEvent;

/// One service that cannot do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// Which: `train-registry`; `state folder` for what all of them need.
    pub service: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// For a person: what was seen, and what to do where that helps.
    pub why: String,
}

impl Trouble {
    /// A trouble that begins now.
    pub fn now(service: &str, why: impl Into<String>) -> Self {
        Self { service: service.to_owned(), since: crate::now(), why: why.into() }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (since {})", self.service, self.why, self.since)
    }
}

/// Everything that a process knows to be wrong, with itself and with those that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Troubles {
    /// Each service once; empty while all is well.
    pub list: Vec<Trouble>,
}

impl std::fmt::Display for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.list.iter().map(Trouble::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl FeedEvent for Troubles {
    const NAME: &'static str = "troubles";

    fn snapshot_key(&self) -> Option<String> {
        Some(String::new())
    }
}
