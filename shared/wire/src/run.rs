//! Runs: what the registry tells of them and what it can be asked to do.

use serde::{Deserialize, Serialize};

use crate::build::Failure;
use crate::config::ConfigHash;
use crate::id::{BuildId, ContentHash, EntryPath, JobId, RunId};
use crate::log::Record;
use crate::message::{Never, Reject, Wire};
use crate::resume::{ChangedKey, ResumeFrom};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Its runner was spawned and is not armed yet.
    Starting,
    /// Its runner is armed.
    Running,
    /// Asked to end after its next checkpoint.
    EarlyStopping,
    /// Ended its early stop; its successor is being started or waits for a good build.
    Restarting,
    /// Being ended now.
    Stopping,
    /// Its runner ended.
    Exited,
    /// Its run-host is gone and nobody saw the end.
    Lost,
}

impl RunStatus {
    /// Whether the run has a runner that may still be alive.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::EarlyStopping | Self::Stopping)
    }
}

/// Who or what ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// Training came to its end.
    Finished,
    /// A person, a client or a closed request asked for it.
    User,
    /// A rebuild; a successor took its place.
    Replaced,
    /// The trainer, its job or its start failed.
    Failed,
    /// Nobody saw the end.
    Lost,
    /// The reaper.
    Reaped,
}

/// How a run is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// After its next checkpoint.
    Checkpoint,
    /// At once: its job is cancelled and its process tree killed.
    Now,
}

/// One execution of a trainer, as everyone but the registry sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The runner's process id.
    pub pid: Option<u32>,
    /// Where it stands.
    pub status: RunStatus,
    /// The source file of its bundle, relative to the project where possible.
    pub entry: String,
    /// The trainer's name.
    pub trainer: Option<String>,
    /// The bytes whose callbacks it executes now.
    pub content_hash: ContentHash,
    /// The config it was started with.
    pub config_hash: Option<ConfigHash>,
    /// The job it created.
    pub job_id: Option<JobId>,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// The runner's exit status; 128+n when signal n ended it.
    pub exit_code: Option<i32>,
    /// Who ended it.
    pub ended_by: Option<EndedBy>,
    /// The run in whose place it was started.
    pub replaces: Option<RunId>,
    /// The run that was started in its place.
    pub replaced_by: Option<RunId>,
    /// Why it is in this state, for a person.
    pub reason: Option<String>,
    /// The newest checkpoint its runner told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<u64>,
    /// The checkpoint it goes on from.
    #[serde(default)]
    pub resume: Option<ResumeFrom>,
    /// What makes a run that replaces another one start at its first step, for a person: `config.model changed`.
    #[serde(default)]
    pub from_scratch: Option<String>,
    /// The keys of the config in which it differs from the run it replaces, or from the checkpoint.
    #[serde(default)]
    pub config: Vec<ChangedKey>,
}

/// What the registry decided for one run after a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Nothing to do.
    Nothing,
    /// New callbacks go into the live process.
    HotSwap,
    /// The run stops at its next checkpoint and is started again on the new code: by the server, or by the client
    /// it belongs to.
    Restart,
    /// To be decided when the runner is armed.
    Wait,
    /// A restart is called for, but the server was told never to restart by itself.
    WouldRestart,
}

/// Who a run belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The server, which restarts it when a rebuild asks for that.
    Server,
    /// The request that started it: it ends with that request.
    Request,
}

/// Start a run. Answers as soon as the runner's process exists, before it is armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRun {
    /// The entry's source file, relative to the project or absolute; the project's own entry when absent.
    #[serde(default)]
    pub file: Option<String>,
    /// Who it belongs to.
    pub owner: Owner,
}

impl Wire for StartRun {
    const NAME: &'static str = "start-run";
    const REPEATABLE: bool = false;
    type Reply = Run;
    type Refusal = RunRefusal;
}

/// Stop a run. Answers when the request is on record, not when the run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRun {
    /// Which.
    pub run: RunId,
    /// How.
    pub mode: StopMode,
    /// Why, for the log and for people.
    pub reason: String,
}

impl Wire for StopRun {
    const NAME: &'static str = "stop-run";
    const REPEATABLE: bool = true;
    type Reply = Run;
    type Refusal = RunRefusal;
}

/// The request that a run belongs to has seen the run's end and starts the next itself, if one is to be started. Until it
/// says so the run may be the server's to restart: the request may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRun {
    /// Which.
    pub run: RunId,
}

impl Wire for ClaimRun {
    const NAME: &'static str = "claim-run";
    const REPEATABLE: bool = true;
    type Reply = ();
    type Refusal = RunRefusal;
}

/// Stop every live run and start none from now on; for the end of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAll {
    /// How.
    pub mode: StopMode,
}

impl Wire for StopAll {
    const NAME: &'static str = "stop-all";
    const REPEATABLE: bool = true;
    /// The runs that are still live.
    type Reply = Vec<Run>;
    type Refusal = Never;
}

/// Every run that is known, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRuns {}

impl Wire for ListRuns {
    const NAME: &'static str = "list-runs";
    const REPEATABLE: bool = true;
    type Reply = Vec<Run>;
    type Refusal = Never;
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRun {
    /// Which.
    pub run: RunId,
}

impl Wire for GetRun {
    const NAME: &'static str = "get-run";
    const REPEATABLE: bool = true;
    type Reply = Run;
    type Refusal = RunRefusal;
}

/// A page of a run's log. A reader pulls: nothing is queued for one that is slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadLog {
    /// Which.
    pub run: RunId,
    /// Everything after this record; 0 for all.
    pub after: u64,
    /// Where the record after `after` starts in the log, as the previous page said; saves a search.
    #[serde(default)]
    pub hint: Option<u64>,
    /// About how much to answer at most, bytes of log. At least one record is answered if there is one.
    pub max_bytes: u32,
    /// How long to wait for a record when there is none yet, milliseconds.
    pub wait_ms: u32,
}

impl Wire for ReadLog {
    const NAME: &'static str = "read-log";
    const REPEATABLE: bool = true;
    type Reply = LogPage;
    type Refusal = RunRefusal;
}

/// A part of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogPage {
    /// In order, without gaps.
    pub records: Vec<Record>,
    /// The `hint` for the next page.
    pub hint: u64,
    /// Nothing will follow: the run has ended and its last record is in this page or an earlier one.
    pub ended: bool,
}

/// The newest outcome of the project's own entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {}

impl Wire for Newest {
    const NAME: &'static str = "newest";
    const REPEATABLE: bool = true;
    type Reply = NewestBuild;
    type Refusal = Never;
}

/// What the project's own entry last came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum NewestBuild {
    /// The first build is not done.
    Pending,
    /// The newest build is good.
    #[serde(rename_all = "camelCase")]
    Good {
        /// Which build.
        build_id: BuildId,
        /// Its bytes.
        content_hash: ContentHash,
        /// What they say.
        manifest: crate::manifest::Manifest,
        /// The project's own entry, as people are told of it: below the project's folder.
        #[serde(default)]
        entry: String,
    },
    /// The newest build or inspection failed.
    Failing(Failure),
}

/// Why a request about a run is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum RunRefusal {
    /// No such run.
    #[error("there is no run {run}; `midrun runs` lists those there are")]
    NotFound {
        /// What was asked for.
        run: RunId,
    },
    /// The file is not inside the project.
    #[error("{file} is not inside the project {project}; name a file below it")]
    OutsideProject {
        /// What was asked for.
        file: String,
        /// The project's folder.
        project: String,
    },
    /// The file does not exist or is not a file.
    #[error("{file} cannot be read: {why}")]
    NoSuchFile {
        /// What was asked for.
        file: String,
        /// What the system said.
        why: String,
    },
    /// The entry's newest build is failing.
    #[error("the build is failing: {}", failure.message)]
    BuildFailing {
        /// How.
        failure: Failure,
    },
    /// The bundle exposes no trainer.
    #[error("no trainer in {entry}: export one as `trainer`, `midrun` or default (see createTrainer)")]
    NoTrainer {
        /// The source file.
        entry: EntryPath,
    },
    /// The runner could not be started.
    #[error("the run could not be started: {why}")]
    NotStarted {
        /// What went wrong and what to do.
        why: String,
    },
    /// The run has ended.
    #[error("run {run} has ended")]
    Ended {
        /// Which.
        run: RunId,
    },
    /// The server is stopping.
    #[error("the server is stopping and starts no new run")]
    Stopping,
}

impl Reject for RunRefusal {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not-found",
            Self::OutsideProject { .. } => "outside-project",
            Self::NoSuchFile { .. } => "no-such-file",
            Self::BuildFailing { .. } => "build-failing",
            Self::NoTrainer { .. } => "no-trainer",
            Self::NotStarted { .. } => "not-started",
            Self::Ended { .. } => "ended",
            Self::Stopping => "stopping",
        }
    }

    fn http_status(&self) -> u16 {
        match self {
            Self::NotFound { .. } => 404,
            Self::Ended { .. } => 409,
            Self::NotStarted { .. } | Self::Stopping => 503,
            Self::OutsideProject { .. }
            | Self::NoSuchFile { .. }
            | Self::BuildFailing { .. }
            | Self::NoTrainer { .. } => 400,
        }
    }
}
