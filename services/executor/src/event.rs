//! What the executor says: one JSON object a line on stdout.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::checkpoint::Artifact;

/// One line. All but the last are job events of the contract; whoever started the executor adds the job's id and
/// the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Event {
    /// The config is good, the dataset is read, the model stands.
    #[serde(rename = "training.started")]
    Started {
        /// The model's full name.
        model: String,
        /// Numbers to be learned.
        parameters: usize,
        /// Examples to be trained on.
        examples: usize,
        /// Examples that are only looked at.
        held_out: usize,
        /// The step of the checkpoint that the run goes on from.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_from: Option<u64>,
        /// The keys of the config that may differ when a run goes on from a checkpoint of this one.
        resumable_keys: &'static [&'static str],
        /// The config in effect, defaults included, without the dataset.
        config: Map<String, Value>,
    },
    /// How it goes.
    #[serde(rename = "training.log")]
    Log(Log),
    /// A checkpoint is complete on disk.
    #[serde(rename = "checkpoint.saved")]
    CheckpointSaved {
        /// Its step.
        step: u64,
        /// Its files.
        artifacts: Vec<Artifact>,
    },
    /// All steps are done.
    #[serde(rename = "training.completed")]
    Completed {
        /// The files of the last checkpoint.
        artifacts: Vec<Artifact>,
        /// How the model turned out.
        metrics: Metrics,
    },
    /// It cannot go on.
    #[serde(rename = "training.failed")]
    Failed {
        /// What to do about it.
        error: String,
    },
    /// SIGTERM was obeyed. Not a job event: whether the job is cancelled or goes on later, the sender knows.
    #[serde(rename = "executor.stopped")]
    Stopped {
        /// The last step that was done.
        step: u64,
        /// The step of the newest checkpoint; none when no step was done.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<u64>,
    },
}

/// The data of `training.log`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The step that was done last.
    pub step: u64,
    /// The mean loss of the steps since the last one that was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The mean loss of the held-out examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The share of held-out examples that the model completes without a mistake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// The learning rate of that step.
    pub learning_rate: f64,
    /// How often every example was trained on.
    pub epoch: f64,
    /// Trained examples per second since the last log.
    pub samples_per_second: f64,
}

/// The metrics of `training.completed`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// The share of held-out examples that the model completes without a mistake.
    pub accuracy: f64,
    /// How many examples were held out.
    pub held_out: usize,
    /// The mean loss of the held-out examples.
    pub eval_loss: f64,
    /// The last training loss that was logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The last step.
    pub step: u64,
    /// Whether nothing was to be kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Rounds to six decimals, which is more than anyone reads of a loss.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Writes `event` as a line and flushes, so that the other side has it now.
///
/// # Errors
/// When nobody reads any more.
pub(crate) fn write(output: &mut dyn Write, event: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}
