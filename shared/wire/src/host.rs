//! Between the registry and a run-host, and between a run-host and its runner.
//!
//! Registry and host speak JSON lines over the host's Unix socket; host and runner speak JSON lines over the
//! runner's file descriptor 3. A host is given its work as a file, [`Spec`], in the run's folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::ConfigHash;
use crate::id::{CommandId, ContentHash, JobId, RunId};
use crate::log::{EarlyStopPhase, Record};
use crate::resume::Started;
use crate::run::StopMode;

/// `spec.json`: everything a run-host needs to know, written before it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The run.
    pub run: RunId,
    /// The runner's program and arguments, such as `node RUNNER --artifact PATH`.
    pub command: Vec<String>,
    /// The runner's working folder: the project.
    pub cwd: String,
    /// Added to the environment that the host inherited.
    pub env: BTreeMap<String, String>,
    /// The bytes that the runner starts with.
    pub content_hash: ContentHash,
    /// Where the host listens, mode 0600.
    pub socket: String,
    /// The signal number that means "swap".
    pub hot_swap_signal: i32,
    /// How long an ended runner's children may hold its output before the log is closed, milliseconds.
    pub drain_ms: u64,
    /// How long a killed tree has between SIGTERM and SIGKILL, milliseconds.
    pub kill_grace_ms: u64,
    /// How long the run goes on with no server there before its host stops it at its next checkpoint, milliseconds;
    /// for ever when absent.
    #[serde(default)]
    pub alone_ms: Option<u64>,
    /// How long an early stop that the host asked for may take before the tree is killed, milliseconds.
    #[serde(default)]
    pub early_stop_ms: u64,
    /// Give the runner a terminal instead of pipes.
    #[serde(default)]
    pub pty: bool,
    /// How large the log may become before its oldest output is dropped, bytes; 1 GiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_cap: Option<u64>,
    /// The process is no runner but somebody's executor: it has no control channel and may be told to stop at any time.
    #[serde(default)]
    pub executor: bool,
    /// A file that the process reads as its standard input, where it has no terminal; nothing to read when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Host a terminal session: `command` is its shell, `run` its id, and there is no runner to swap or to stop at a
    /// checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSpec>,
}

/// What is special about the host of a terminal session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalSpec {
    /// What its user calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The terminal's height at first, lines.
    pub rows: u16,
    /// The terminal's width at first, characters.
    pub columns: u16,
    /// How long nobody may listen until the session is ended, milliseconds.
    pub alone_ms: u64,
}

/// `host.json`: who the host is, so that a later server can prove it. Times identify a process beyond its pid,
/// which the system uses again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// From the registry to a host. Every request gets one [`HostSays::Done`] or [`HostSays::Refused`] with its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HostRequest {
    /// Tell me of every record that is not output, after this one, and whenever the log grew.
    Subscribe {
        /// The last record I know; 0 for all.
        after: u64,
    },
    /// Tell the runner which artifact is meant, then ring. Refused while the runner is not armed.
    Swap {
        /// Chosen by the registry.
        id: u64,
        /// The bytes meant.
        content_hash: ContentHash,
        /// Where they are.
        path: String,
        /// The config they would start with.
        config_hash: Option<ConfigHash>,
        /// The trace that the swap belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
        /// For the log.
        why: String,
    },
    /// Stop the runner: at its next checkpoint (SIGTERM, once; refused while the runner is not armed) or now (the
    /// whole tree).
    Stop {
        /// Chosen by the registry.
        id: u64,
        /// How.
        mode: StopMode,
        /// The trace that the stop belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
        /// For the log.
        why: String,
    },
    /// Type these bytes into the terminal. Refused whole when too much waits to be read by it.
    Type {
        /// Chosen by the registry.
        id: u64,
        /// The bytes in base 64.
        base64: String,
    },
    /// Give the terminal another size.
    Resize {
        /// Chosen by the registry.
        id: u64,
        /// Height, lines.
        rows: u16,
        /// Width, characters.
        columns: u16,
    },
    /// Have the shell run a command when it is at its prompt. Refused when too many wait.
    Command {
        /// Chosen by the registry.
        id: u64,
        /// The command's id.
        command: CommandId,
        /// The command, in the shell's language.
        text: String,
    },
    /// Forget a command. Refused when the shell has it, or may have it.
    Withdraw {
        /// Chosen by the registry.
        id: u64,
        /// The command's id.
        command: CommandId,
    },
}

/// From a host to the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HostSays {
    /// A record that is not output.
    Record {
        /// The record, which is already in the log; while the disk refuses, it may still be in the host's memory.
        record: Record,
    },
    /// The log has grown. Never more than one of these is under way: read the log to see.
    Grew {
        /// The newest record.
        seq: u64,
        /// How much has been written up to and including that record, bytes.
        bytes: u64,
    },
    /// A request was carried out: the signal was sent.
    Done {
        /// Which.
        id: u64,
    },
    /// A request was not carried out, because too much waits already; it may be sent again later.
    Busy {
        /// Which.
        id: u64,
        /// What waits, for a person.
        why: String,
    },
    /// A request was not carried out.
    Refused {
        /// Which.
        id: u64,
        /// Why, for a person.
        why: String,
    },
}

/// From a runner to its host, over file descriptor 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RunnerSays {
    /// Armed: handlers are in place and the trainer was found.
    Ready {
        /// The bytes it executes.
        content_hash: ContentHash,
        /// The config it starts with.
        #[serde(default)]
        config_hash: Option<ConfigHash>,
        /// The trainer's name.
        #[serde(default)]
        trainer: Option<String>,
        /// Whether it can take new callbacks.
        can_swap: bool,
    },
    /// The job exists.
    Job {
        /// The job.
        id: JobId,
        /// Scope.
        #[serde(default)]
        org_slug: Option<String>,
        /// Scope.
        #[serde(default)]
        project_slug: Option<String>,
        /// Where the job lives.
        #[serde(default)]
        base_url: Option<String>,
    },
    /// Training has started.
    Training(Started),
    /// A checkpoint was saved.
    Checkpoint {
        /// At which step.
        step: u64,
    },
    /// The callbacks were replaced.
    Swapped {
        /// The bytes meant.
        content_hash: ContentHash,
        /// From the signal's arrival to the replacement, milliseconds.
        #[serde(deserialize_with = "crate::number::fraction")]
        took_ms: f64,
    },
    /// The callbacks were not replaced.
    SwapSkipped {
        /// The bytes meant.
        content_hash: ContentHash,
        /// Why.
        reason: String,
    },
    /// The early stop moved on.
    EarlyStop {
        /// How far it is.
        phase: EarlyStopPhase,
        /// The checkpoint that it waited for, once it waits no longer; absent when none came in time.
        #[serde(default)]
        step: Option<u64>,
    },
    /// The first callback under new code was called. Only where the code came with a trace, and the runner's process
    /// has no OpenTelemetry SDK that would tell it.
    Callback(FirstCallback),
    /// Training came to an end of its own.
    Finished {
        /// The job's final status, or what the trainer said.
        status: String,
        /// What went wrong, if something did.
        #[serde(default)]
        reason: Option<String>,
    },
}

/// The first callback under new code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstCallback {
    /// The code.
    pub content_hash: ContentHash,
    /// The callback, such as `onLog`.
    pub name: String,
    /// From its call to its end, milliseconds.
    #[serde(deserialize_with = "crate::number::fraction")]
    pub took_ms: f64,
    /// It did not throw.
    pub ok: bool,
    /// The trace that brought the code.
    #[serde(default)]
    pub traceparent: Option<String>,
}

/// From a host to its runner, over file descriptor 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HostTells {
    /// The artifact that the next hot-swap signal means.
    Artifact {
        /// The bytes meant.
        content_hash: ContentHash,
        /// Where they are.
        path: String,
        /// The config they would start with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config_hash: Option<ConfigHash>,
        /// The trace that the swap belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_read_whatever_the_bundler_does_to_numbers() {
        let said = r#"{"type":"swapped","contentHash":"ab","tookMs":1.241}"#;
        let want = RunnerSays::Swapped { content_hash: "ab".into(), took_ms: 1.241 };
        assert_eq!(serde_json::from_str::<RunnerSays>(said).unwrap(), want);
        let whole = serde_json::from_str(r#"{"type":"swapped","contentHash":"ab","tookMs":2}"#).unwrap();
        assert_eq!(RunnerSays::Swapped { content_hash: "ab".into(), took_ms: 2.0 }, whole);
    }
}
