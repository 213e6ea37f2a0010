//! Where a run starts: at its first step, or at a checkpoint of the run that it replaces.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::JobId;

/// The checkpoint that a run goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeFrom {
    /// The job that saved it.
    pub job: JobId,
    /// At which step.
    pub step: u64,
}

impl std::fmt::Display for ResumeFrom {
    /// `JOB:STEP`, as a runner's environment has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.job, self.step)
    }
}

/// A key of the config that a successor changes. What is not set, or not known, is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedKey {
    /// Where, such as `config.learningRate`.
    pub path: String,
    /// In the config of the run that was replaced.
    pub before: Option<Value>,
    /// What the job that saved the checkpoint really trained with. Null too where no checkpoint is gone on from.
    pub in_checkpoint: Option<Value>,
    /// In this run's own config.
    pub wanted: Option<Value>,
    /// What this run's executor reports that it uses; null before training has started, and where it does not report
    /// the key.
    pub effective: Option<Value>,
}

/// What an executor says when training starts; a runner hands it on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The step of the checkpoint that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<u64>,
    /// The keys of the config that may differ between a checkpoint and the run that goes on from it. Absent when the
    /// executor does not say, and then nothing goes on from its checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumable_keys: Option<Vec<String>>,
    /// The config that it uses, defaults included. It may leave keys out, such as one that holds a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}
