//! What the build watcher publishes and what it can be asked.

use serde::{Deserialize, Serialize};

use crate::id::{BuildId, ContentHash, EntryPath};
use crate::message::{Never, Reject, TraceContext, Wire};

/// The bundle of one entry. Immutable: the path holds these bytes for as long as it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// The address of the bytes.
    pub content_hash: ContentHash,
    /// Absolute path of `index.mjs`.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
}

/// A problem at a place in the user's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Path relative to the project where that is possible.
    pub file: Option<String>,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// The lines around the place, with a caret; plain text, without colours.
    pub frame: Option<String>,
}

/// Why a build or an inspection did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One or more lines for a person.
    pub message: String,
    /// The places it names.
    pub diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// A failure that names no place.
    pub fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), diagnostics: Vec::new() }
    }
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum BuildOutcome {
    /// A new artifact: its bytes differ from those of the entry's last published outcome.
    Built(Artifact),
    /// The build failed and stayed failed for the settle time.
    Failed(Failure),
}

/// One build of one entry, as the `builds` feed carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildEvent {
    /// This build.
    pub build_id: BuildId,
    /// What was built.
    pub entry: EntryPath,
    /// The files whose change caused it, relative to the project where possible; empty for the first build.
    pub changed: Vec<String>,
    /// When the first of those changes was seen, microseconds since 1970.
    pub saved_at_us: u64,
    /// Time in the bundler and the artifact store, milliseconds.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub bundle_ms: f64,
    /// The trace of this rebuild.
    #[serde(default)]
    pub trace: TraceContext,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: BuildOutcome,
}

/// Watch an entry from now on, until [`Unwatch`], and build it. Answers when its first build ended, published or not.
/// The order stands after a refusal too: what stood in the way may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Absolute path of the entry's source file.
    pub entry: EntryPath,
}

impl Wire for Watch {
    const NAME: &'static str = "watch";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = WatchRefusal;
}

/// Stop watching an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatch {
    /// Absolute path of the entry's source file.
    pub entry: EntryPath,
}

impl Wire for Unwatch {
    const NAME: &'static str = "unwatch";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = Never;
}

/// The artifacts that live runs use: the store keeps them however old they are. Replaces the earlier set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retain {
    /// Addresses in use.
    pub hashes: Vec<ContentHash>,
}

impl Wire for Retain {
    const NAME: &'static str = "retain";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = Never;
}

/// The artifact could not be evaluated: build its entry once more with a source map, for reading the stack trace.
///
/// From now on the next save publishes the artifact again even if its bytes are the same, because what stood in the
/// way may have been outside of them. Slow path, only for errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceMap {
    /// Absolute path of the entry's source file.
    pub entry: EntryPath,
    /// The bytes that the map must belong to.
    pub content_hash: ContentHash,
}

impl Wire for SourceMap {
    const NAME: &'static str = "source-map";
    const REPEATABLE: bool = true;
    /// The source map (version 3, JSON text), or nothing when the sources have changed since.
    type Reply = Option<String>;
    type Refusal = Never;
}

/// Why an entry is not watched yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum WatchRefusal {
    /// The system did not let us watch; the text says how to mend it.
    #[error("{message}")]
    CannotWatch {
        /// For a person.
        message: String,
    },
}

impl Reject for WatchRefusal {
    fn code(&self) -> &'static str {
        "cannot-watch"
    }

    fn http_status(&self) -> u16 {
        503
    }
}
