//! What inspecting an artifact yields, and the rebuild that the registry decides on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::{Artifact, Failure};
use crate::config::ConfigHash;
use crate::id::{BuildId, EntryPath};
use crate::message::TraceContext;

/// The facts about a trainer that midrun decides by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The trainer's name; absent when the bundle exposes no trainer.
    pub trainer: Option<String>,
    /// The job config as `JSON.stringify` would send it; absent when the trainer does not tell.
    pub config: Option<Value>,
    /// The hash of `config`; absent with it.
    pub config_hash: Option<ConfigHash>,
    /// Each callback's name with a digest of its source text, so that an edit can be named.
    pub callbacks: BTreeMap<String, String>,
    /// Whether a live run of this trainer can take new callbacks.
    pub can_swap: bool,
}

/// One build of an entry that ended in an inspected artifact, or in an error, as the `rebuilds` feed carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuild {
    /// The build.
    pub build_id: BuildId,
    /// What was built.
    pub entry: EntryPath,
    /// The files whose change caused it.
    pub changed: Vec<String>,
    /// When the first of those changes was seen, microseconds since 1970.
    pub saved_at_us: u64,
    /// Time in the bundler and the artifact store, milliseconds.
    pub bundle_ms: f64,
    /// Time in the inspector, milliseconds.
    pub inspect_ms: f64,
    /// The trace of this rebuild.
    #[serde(default)]
    pub trace: TraceContext,
    /// How it ended.
    pub result: Result<Good, Failure>,
}

/// A good build: the artifact and its manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Good {
    /// The bytes.
    pub artifact: Artifact,
    /// What they say.
    pub manifest: Manifest,
}
