//! The registry's events: the frames of `GET /api/dev/events`.

use serde::{Deserialize, Serialize};

use crate::build::Diagnostic;
use crate::config::{ConfigChange, ConfigHash};
use crate::id::{BuildId, ContentHash, JobId, RunId};
use crate::resume::{ChangedKey, ResumeFrom};
use crate::run::{Decision, RunStatus};

/// One frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DevEvent {
    /// `ready` (the first good build) or `rebuild`.
    Rebuild(Box<RebuildFrame>),
    /// `error`: the newest build or inspection failed.
    Error(ErrorFrame),
    /// `swap`: a runner's own word.
    Swap(SwapFrame),
    /// `run`: a run changed its status.
    Run(RunFrame),
}

impl DevEvent {
    /// The SSE event name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rebuild(frame) => match frame.kind {
                RebuildKind::Ready => "ready",
                RebuildKind::Rebuild => "rebuild",
            },
            Self::Error(_) => "error",
            Self::Swap(_) => "swap",
            Self::Run(_) => "run",
        }
    }
}

/// Whether a frame is the first of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RebuildKind {
    /// The first good build of this server.
    Ready,
    /// Every later one.
    Rebuild,
}

/// A good build and what it meant for each run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildFrame {
    /// `ready` or `rebuild`.
    #[serde(rename = "type")]
    pub kind: RebuildKind,
    /// The build.
    pub build_id: BuildId,
    /// The source file, relative to the project where possible.
    pub entry: String,
    /// Absolute path of the bundle.
    pub out_file: String,
    /// The same as `contentHash`.
    pub hash: ContentHash,
    /// The bundle's address.
    pub content_hash: ContentHash,
    /// The config's hash.
    pub config_hash: Option<ConfigHash>,
    /// The trainer's name.
    pub trainer_name: Option<String>,
    /// Whether any run is asked to swap.
    pub hot_swap: bool,
    /// The runs that are.
    pub hot_swap_targets: Vec<Target>,
    /// Whether any run is asked to stop for a restart.
    pub restart: bool,
    /// The runs that are.
    pub restart_targets: Vec<Target>,
    /// What was decided for each live run of the entry.
    pub decisions: Vec<RunDecision>,
    /// The files that changed.
    pub changed: Vec<String>,
    /// When the first of those changes was seen; without any, when the build began.
    pub saved_at: String,
    /// Where the config differs from that of the good build before.
    pub config_diff: Vec<ConfigChange>,
    /// Where the time went.
    pub timings: Timings,
    /// The trace of this rebuild, when tracing is on.
    pub trace_id: Option<String>,
    /// Where in that trace the decisions stand, when tracing is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A run that a rebuild concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The runner's process id.
    pub pid: Option<u32>,
    /// The run.
    pub run: RunId,
    /// The file it was started with, when that is not the project's own entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_file: Option<String>,
}

/// What was decided for a run, and what decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDecision {
    /// The run.
    pub run: RunId,
    /// Its runner's process id.
    pub pid: Option<u32>,
    /// What was decided.
    pub decision: Decision,
    /// For a person: `config.learningRate 0.001 -> 0.0003`.
    pub why: String,
}

/// Where a rebuild's time went, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// In the bundler and the artifact store.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub bundle_ms: f64,
    /// In the inspector.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub inspect_ms: f64,
    /// In the registry, to the moment of this frame.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub dispatch_ms: f64,
    /// From the first change seen to the moment of this frame.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub total_ms: f64,
}

/// The newest build or inspection failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: ErrorKind,
    /// For a person.
    pub message: String,
    /// The places it names.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that changed.
    #[serde(default)]
    pub changed: Vec<String>,
    /// When the first of those changes was seen; without any, when the build began.
    #[serde(rename = "savedAt")]
    pub saved_at: String,
    /// The trace of this rebuild, when tracing is on.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "traceId")]
    pub trace_id: Option<String>,
    /// Where in that trace it was known to have failed, when tracing is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The one value of an error frame's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// `error`.
    Error,
}

/// A runner's own word on a hot swap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwapFrame {
    /// The run.
    pub run: RunId,
    /// Its runner's process id.
    pub pid: Option<u32>,
    /// The bytes meant.
    pub content_hash: ContentHash,
    /// Whether the callbacks were replaced.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the registry's request to the runner's word as the registry got it, milliseconds; absent when the
    /// registry did not see the request go out.
    #[serde(default, deserialize_with = "crate::number::optional")]
    pub took_ms: Option<f64>,
}

/// A run changed its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunFrame {
    /// The run.
    pub run: RunId,
    /// Its runner's process id.
    pub pid: Option<u32>,
    /// Where it stands now.
    pub status: RunStatus,
    /// Its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The run in whose place it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<RunId>,
    /// The run that was started in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<RunId>,
    /// Its runner's exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The checkpoint it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeFrom>,
    /// What makes a run that replaces another one start at its first step, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_scratch: Option<String>,
    /// The keys of the config in which it differs from the run it replaces, or from the checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ChangedKey>,
}
