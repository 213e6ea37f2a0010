//! What the registry is told when it starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use wire::EntryPath;

use crate::dispatch::Policy;

/// What the registry is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The project's folder, canonical.
    pub project: PathBuf,
    /// The project's own entry.
    pub entry: EntryPath,
    /// Where runs are kept: `.midrun/runs`.
    pub runs_dir: PathBuf,
    /// The durable table of runs: `.midrun/runs.db`.
    pub runs_table: PathBuf,
    /// Where the hosts' sockets are: `$XDG_RUNTIME_DIR/midrun`.
    pub socket_dir: PathBuf,
    /// The program that becomes a run-host when `--dir RUN` is added to its arguments.
    pub host_command: Vec<OsString>,
    /// The node program.
    pub node: PathBuf,
    /// The runner's file.
    pub runner: PathBuf,
    /// Added to every runner's environment.
    pub env: BTreeMap<String, String>,
    /// The signal that means "swap".
    pub hot_swap_signal: i32,
    /// How long an early stop waits for a checkpoint.
    pub early_stop_timeout: Duration,
    /// How long the children of an ended runner may hold its output.
    pub drain: Duration,
    /// How long a killed tree has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How long a run goes on with no server there; for ever when absent.
    pub alone: Option<Duration>,
    /// Give runners a terminal.
    pub pty: bool,
    /// How large a run's log may become before its oldest output is dropped, bytes.
    pub log_cap: u64,
    /// What the server was told not to do.
    pub policy: Policy,
}
