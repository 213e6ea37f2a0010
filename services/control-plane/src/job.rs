//! What a job is, as stored and as served.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a job is in its life. The last three are terminal: nothing follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JobStatus {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl JobStatus {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A stored status that no version of this program wrote.
#[derive(Debug, thiserror::Error)]
#[error("unknown job status {0:?} in the database")]
pub(crate) struct UnknownStatus(String);

impl TryFrom<String> for JobStatus {
    type Error = UnknownStatus;

    fn try_from(text: String) -> Result<Self, UnknownStatus> {
        [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(UnknownStatus(text))
    }
}

/// A row of `jobs`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Job {
    pub(crate) ord: i64,
    pub(crate) id: String,
    pub(crate) org_id: String,
    pub(crate) project_id: String,
    pub(crate) name: String,
    #[sqlx(try_from = "String")]
    pub(crate) status: JobStatus,
    /// JSON text of an object, byte for byte as the client sent it: numbers must not change on the way through.
    pub(crate) config: String,
    pub(crate) error: Option<String>,
    pub(crate) client_run_id: Option<String>,
    pub(crate) resume_job_id: Option<String>,
    pub(crate) resume_step: Option<i64>,
    pub(crate) resume_dir: Option<String>,
    pub(crate) last_seq: i64,
    pub(crate) cancel_requested_at: Option<String>,
    pub(crate) created_at: String,
    pub(crate) started_at: Option<String>,
    pub(crate) completed_at: Option<String>,
}

impl Job {
    /// The checkpoint of another job that this one was created to start from.
    pub(crate) fn resume_point(&self) -> Option<ResumePoint> {
        Some(ResumePoint { dir: self.resume_dir.clone()?, step: self.resume_step? })
    }
}

/// A checkpoint to start from, as the executor is told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ResumePoint {
    pub(crate) dir: String,
    pub(crate) step: i64,
}

/// The job as the contract serves it, with some keys more.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobView {
    id: String,
    org_id: String,
    project_id: String,
    name: String,
    status: JobStatus,
    config: Box<RawValue>,
    error: Option<String>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    client_run_id: Option<String>,
    cancel_requested_at: Option<String>,
    resume_from: Option<ResumeView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResumeView {
    job_id: String,
    step: i64,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let config =
            RawValue::from_string(job.config).expect("a config is stored only once it parsed as JSON");
        let resume_from =
            job.resume_job_id.zip(job.resume_step).map(|(job_id, step)| ResumeView { job_id, step });
        Self {
            id: job.id,
            org_id: job.org_id,
            project_id: job.project_id,
            name: job.name,
            status: job.status,
            config,
            error: job.error,
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
            client_run_id: job.client_run_id,
            cancel_requested_at: job.cancel_requested_at,
            resume_from,
        }
    }
}
