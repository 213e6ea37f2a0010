//! One typed configuration in four layers: flags, then `MIDRUN_*` variables, then `midrun.toml`, then defaults.
//!
//! A setting's name is its path in the file: `gateway.port`, `run.hotSwapSignal`. Its variable is the same path in
//! capitals, with two underscores between the parts: `MIDRUN_GATEWAY__PORT`, `MIDRUN_RUN__HOT_SWAP_SIGNAL`. A name
//! that is not known is an error, not a surprise. Flags are laid on top by the command line, which owns them.

mod read;

use std::num::NonZero;
use std::path::PathBuf;

use serde::Deserialize;

pub use read::{load, load_file};

/// Every setting there is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The HTTP edge.
    pub gateway: Gateway,
    /// Bundling.
    pub build: Build,
    /// Evaluating user code for facts.
    pub inspector: Inspector,
    /// Runs.
    pub run: Run,
    /// Restarts.
    pub restart: Restart,
    /// Terminal sessions.
    pub terminal: Terminal,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// Services in several processes.
    pub peers: Peers,
}

/// The HTTP edge.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// The address to listen on.
    pub host: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// Names, besides the loopback ones, under which clients may reach the server.
    pub allowed_hosts: Vec<String>,
    /// Threads that serve requests.
    pub workers: usize,
    /// Where a trace is looked at, `{traceId}` in it: `http://localhost:16686/trace/{traceId}`. Studio links there.
    pub trace_ui: Option<String>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 4000, allowed_hosts: Vec::new(), workers: 2, trace_ui: None }
    }
}

/// Bundling.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Build {
    /// How long a failed build is held back, milliseconds. A file that is empty or still being written is waited for as
    /// long, and for a second at least.
    pub settle_ms: u64,
    /// Artifacts that are kept besides those in use.
    pub keep: usize,
}

impl Default for Build {
    fn default() -> Self {
        Self { settle_ms: 30, keep: 20 }
    }
}

/// Evaluating user code for facts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Inspector {
    /// How long importing a bundle may take, milliseconds.
    pub time_limit_ms: u64,
    /// Imports after which a worker is replaced.
    pub max_imports: u32,
}

impl Default for Inspector {
    fn default() -> Self {
        Self { time_limit_ms: 10_000, max_imports: 64 }
    }
}

/// 1 GiB.
const DEFAULT_LOG_CAP_MB: NonZero<u32> = NonZero::new(1024).expect("it is not zero");

/// Runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Run {
    /// The node program, by name or path.
    pub node: PathBuf,
    /// The signal that means "swap": `SIGUSR2`, `SIGUSR1` or a number.
    pub hot_swap_signal: String,
    /// How long an early stop waits for a checkpoint, milliseconds.
    pub early_stop_timeout_ms: u64,
    /// How long the children of an ended runner may hold its output, milliseconds.
    pub drain_ms: u64,
    /// How long a killed tree has between SIGTERM and SIGKILL, milliseconds.
    pub kill_grace_ms: u64,
    /// How long a run trains on with no server there before it is stopped at its next checkpoint, milliseconds; 0
    /// is for ever.
    pub alone_ms: u64,
    /// Give runners a terminal.
    pub pty: bool,
    /// How large a run's log may become before its oldest output is dropped, MiB; at least 1.
    pub log_cap_mb: NonZero<u32>,
    /// Never restart a run by itself.
    pub hot_only: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            node: "node".into(),
            hot_swap_signal: "SIGUSR2".into(),
            early_stop_timeout_ms: 300_000,
            drain_ms: 1_000,
            kill_grace_ms: 500,
            alone_ms: 900_000,
            pty: false,
            log_cap_mb: DEFAULT_LOG_CAP_MB,
            hot_only: false,
        }
    }
}

impl Run {
    /// How large a run's log may become, bytes.
    pub fn log_cap(&self) -> u64 {
        u64::from(self.log_cap_mb.get()) << 20
    }

    /// The number of [`Run::hot_swap_signal`].
    ///
    /// # Errors
    /// When it is neither a signal's name that a runner can use nor a number.
    pub fn hot_swap_signal_number(&self) -> Result<i32, SettingsError> {
        // Those that no runtime or system claims for itself.
        const USABLE: [(&str, i32); 4] = [("SIGUSR1", 10), ("SIGUSR2", 12), ("SIGWINCH", 28), ("SIGIO", 29)];
        let text = self.hot_swap_signal.as_str();
        let usable = USABLE.iter().find(|(name, number)| text == *name || text == number.to_string());
        usable.map(|(_, number)| *number).ok_or_else(|| SettingsError {
            what: format!(
                "run.hotSwapSignal is {text:?}; it can be {}",
                USABLE.map(|(name, _)| name).join(", ")
            ),
        })
    }
}

/// Restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Restart {
    /// Where the successor of a run starts.
    pub from: RestartFrom,
}

/// Where the successor of a run starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum RestartFrom {
    /// At the checkpoint that its predecessor stopped at, if the config changed only in what its executor can change
    /// there; else at the first step.
    #[default]
    Checkpoint,
    /// At the first step, always.
    Scratch,
}

impl TryFrom<String> for RestartFrom {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "checkpoint" => Ok(Self::Checkpoint),
            "scratch" => Ok(Self::Scratch),
            _ => Err(format!("restart.from is {text:?}; it can be \"checkpoint\" or \"scratch\"")),
        }
    }
}

/// Terminal sessions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Terminal {
    /// The shell, by name or path: bash, or a POSIX shell; the user's own when absent.
    pub shell: Option<String>,
    /// Sessions that may be open at once.
    pub max_sessions: usize,
    /// How long a session lives while there is no server, milliseconds.
    pub alone_ms: u64,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { shell: None, max_sessions: 16, alone_ms: 15 * 60 * 1000 }
    }
}

/// The control plane.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ControlPlane {
    /// Where it is; the one in the server when absent.
    pub url: Option<String>,
    /// The address that the one in the server listens on.
    pub host: String,
    /// The port that the one in the server listens on; 0 takes a free one.
    pub port: u16,
    /// Names, besides loopback ones, under which the one in the server may be reached while it listens on loopback.
    pub allowed_hosts: Vec<String>,
    /// What trains a job: the builtin executor when empty, else a program and its arguments.
    pub executor: Vec<String>,
    /// Jobs that train at once.
    pub max_concurrent_jobs: usize,
    /// How long an executor may take to save and exit, milliseconds.
    pub stop_grace_ms: u64,
    /// How long a job trains on with no server there before it saves a checkpoint and waits for the next one,
    /// milliseconds; 0 is for ever.
    pub alone_ms: u64,
    /// How many checkpoints of a job are kept: the newest ones. Those that another run goes on from are kept besides.
    pub keep_checkpoints: usize,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            url: None,
            host: "127.0.0.1".into(),
            port: 0,
            allowed_hosts: Vec::new(),
            executor: Vec::new(),
            max_concurrent_jobs: 2,
            stop_grace_ms: 30_000,
            alone_ms: 900_000,
            keep_checkpoints: 3,
        }
    }
}

/// Services in several processes: where they listen for one another, and where they are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Peers {
    /// Where this process listens for the others, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// The file with the secret that they share. Needed as soon as one listens on anything but loopback.
    pub token_file: Option<PathBuf>,
    /// Where each service is that this process does not run itself: `http://HOST:PORT`.
    pub build_watcher: Option<String>,
    /// See [`Peers::build_watcher`].
    pub manifest_inspector: Option<String>,
    /// See [`Peers::build_watcher`].
    pub train_registry: Option<String>,
    /// See [`Peers::build_watcher`].
    pub cancel_broker: Option<String>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4100".into(),
            token_file: None,
            build_watcher: None,
            manifest_inspector: None,
            train_registry: None,
            cancel_broker: None,
        }
    }
}

/// Why the settings cannot be read; the text names the setting and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SettingsError {
    what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_kills_is_refused() {
        let run = Run { hot_swap_signal: "SIGKILL".into(), ..Run::default() };
        assert!(run.hot_swap_signal_number().unwrap_err().to_string().contains("SIGUSR1"));
    }
}
