//! A run's log: one record a line, in the order in which things happened.

use serde::{Deserialize, Serialize};

use crate::config::ConfigHash;
use crate::id::{ContentHash, JobId};
use crate::resume::Started;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1, without gaps. That of a [`Step::Dropped`] is the last one that it stands for.
    pub seq: u64,
    /// RFC 3339.
    pub ts: String,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A terminal, where the two are one.
    Pty,
}

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// The runner's process exists.
    Spawned {
        /// Its process id.
        pid: u32,
        /// The bytes it was told to execute.
        content_hash: ContentHash,
    },
    /// The runner wrote something. Exactly one of `text` and `base64` is there: the latter where the bytes are
    /// not UTF-8.
    Output {
        /// Where.
        stream: Stream,
        /// The bytes as text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The bytes in base 64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    /// The runner is armed: signals may be sent from now on.
    Ready {
        /// The bytes it executes.
        content_hash: ContentHash,
        /// The config it starts with.
        config_hash: Option<ConfigHash>,
        /// The trainer's name.
        trainer: Option<String>,
        /// Whether it can take new callbacks.
        can_swap: bool,
    },
    /// The run has its job.
    Job {
        /// The job.
        id: JobId,
        /// Scope.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org_slug: Option<String>,
        /// Scope.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project_slug: Option<String>,
        /// Where the job lives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base_url: Option<String>,
    },
    /// Training has started.
    Training(Started),
    /// A checkpoint was saved.
    Checkpoint {
        /// At which step.
        step: u64,
    },
    /// The host sent the runner a signal.
    Signal {
        /// Its number.
        signal: i32,
        /// Why, for a person.
        why: String,
        /// The bytes meant, for a hot swap.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_hash: Option<ContentHash>,
    },
    /// The runner's word on a hot swap.
    Swap {
        /// The bytes meant.
        content_hash: ContentHash,
        /// Whether the callbacks were replaced.
        ok: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// From the signal's arrival to the replacement, milliseconds.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "crate::number::optional"
        )]
        took_ms: Option<f64>,
    },
    /// The runner's word on an early stop.
    EarlyStop {
        /// How far it is.
        phase: EarlyStopPhase,
        /// The checkpoint that it waited for, once it waits no longer; absent when none came in time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u64>,
    },
    /// Training came to an end of its own.
    Finished {
        /// The job's final status, or what the trainer said.
        status: String,
        /// What went wrong, if something did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// No server has been there for so long that the host ends the run: after its next checkpoint, and by force if
    /// there is none in time.
    Alone {
        /// How long no server has been there, milliseconds.
        alone_ms: u64,
        /// How long the runner has for its early stop, milliseconds.
        stop_ms: u64,
    },
    /// Stands for records that are gone, from `fromSeq` to the record's own number.
    Dropped {
        /// The number of the first one.
        from_seq: u64,
        /// How many they were.
        records: u64,
        /// How much output was in them, bytes as the runner wrote them.
        bytes: u64,
        /// How many of them were not output. Only a disk that is full for so long that memory does not suffice makes
        /// this more than 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        others: u64,
        /// Why, for a person.
        why: String,
    },
    /// The host has something to say about the log or the process.
    Note {
        /// For a person.
        text: String,
    },
    /// The last record: the runner ended and everything it wrote stands before this.
    Exit {
        /// The exit status; 128+n when signal n ended it.
        code: i32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
}

/// How far an early stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyStopPhase {
    /// Waiting for the next checkpoint.
    Waiting,
    /// The job is being cancelled.
    Cancelling,
    /// Done: the runner is about to exit with 0.
    Done,
    /// The cancel failed: the runner is about to exit with 143.
    Failed,
}

impl Step {
    /// Whether this is output, or stands for output that is gone, rather than life.
    pub const fn is_output(&self) -> bool {
        matches!(self, Self::Output { .. } | Self::Dropped { .. })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_flat_object() {
        let record = Record {
            seq: 7,
            ts: "2026-01-02T03:04:05.678Z".to_owned(),
            step: Step::Swap { content_hash: "ab".into(), ok: true, reason: None, took_ms: Some(0.5) },
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"seq":7,"ts":"2026-01-02T03:04:05.678Z","type":"swap","contentHash":"ab","ok":true,"tookMs":0.5}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn what_an_executor_reports_comes_back_as_it_went() {
        let started = Started {
            resumed_from: Some(40),
            resumable_keys: Some(vec!["learningRate".to_owned()]),
            config: Some(serde_json::json!({"learningRate": 0.0003, "maxSteps": 1_000, "maxLength": null})),
        };
        let record = Record { seq: 1, ts: "T".to_owned(), step: Step::Training(started) };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"seq":1,"ts":"T","type":"training","resumedFrom":40,"resumableKeys":["learningRate"],"config":{"learningRate":0.0003,"maxSteps":1000,"maxLength":null}}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let bare: Record = serde_json::from_str(r#"{"seq":1,"ts":"T","type":"training"}"#).unwrap();
        assert_eq!(bare.step, Step::Training(Started::default()));
    }
}
