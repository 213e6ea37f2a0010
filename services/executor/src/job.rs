//! The job as it comes on stdin.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

/// What is to be done.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job's id; only for the log.
    #[serde(default)]
    pub job_id: Option<String>,
    /// The config, not checked yet.
    pub config: Map<String, Value>,
    /// The checkpoint to go on from.
    #[serde(default)]
    pub resume_from: Option<ResumeFrom>,
    /// What a relative path in `datasetSource` is relative to; `MIDRUN_PROJECT_DIR` when it is absent.
    #[serde(default)]
    pub project_dir: Option<PathBuf>,
}

/// A checkpoint.
#[derive(Debug, Deserialize)]
pub struct ResumeFrom {
    /// The checkpoint's own folder, the one with `state.json` in it.
    pub dir: PathBuf,
    /// Its step, checked against what the folder holds.
    pub step: u64,
}

/// Stdin does not hold a job.
#[derive(Debug, thiserror::Error)]
#[error(
    "stdin does not hold a job: {0}; it should be {{\"jobId\",\"config\",\"resumeFrom\"}}, or a config alone"
)]
pub struct JobError(String);

impl Job {
    /// Reads a job. An object without `config` is taken as the config itself.
    ///
    /// # Errors
    /// When `text` is no JSON object, or a part has a wrong type.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| JobError(error.to_string()))?;
        if object.contains_key("config") {
            return Self::deserialize(Value::Object(object)).map_err(|error| JobError(error.to_string()));
        }
        Ok(Self { job_id: None, config: object, resume_from: None, project_dir: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_in_full_and_a_config_alone() {
        let job = Job::parse(
            r#"{"jobId":"j1","config":{"seed":7},"resumeFrom":{"dir":"a/step-5","step":5},"later":1}"#,
        )
        .unwrap();
        assert_eq!((job.job_id.as_deref(), &job.config["seed"]), (Some("j1"), &Value::from(7)));
        let resume = job.resume_from.unwrap();
        assert_eq!((resume.dir, resume.step), (PathBuf::from("a/step-5"), 5));

        let job = Job::parse(r#"{"seed":7}"#).unwrap();
        assert_eq!(job.config["seed"], 7);
        assert!(Job::parse(r#"{"config":{},"resumeFrom":null}"#).unwrap().resume_from.is_none());
    }

    #[test]
    fn what_is_no_job_is_refused() {
        for text in ["", "[]", "{", r#"{"config":3}"#, r#"{"config":{},"resumeFrom":{"dir":"x"}}"#] {
            let error = Job::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("stdin does not hold a job: "), "{text}: {error}");
        }
    }
}
