//! What a control plane is told when it opens. Values arrive typed; where they come from is not its affair.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one control plane.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Owned by this control plane alone: the database, its lock and `jobs/ID/` folders. Created if absent.
    pub state_dir: PathBuf,
    /// What trains a job and samples a checkpoint.
    pub executor: ExecutorSetting,
    /// What keeps an executor alive while no control plane is there.
    pub hosts: HostSetting,
    /// Jobs that train at once, at least 1; the others stay `queued`, in order of creation. Default 2.
    pub max_concurrent_jobs: usize,
    /// Sampling processes at once, at least 1. Default 2.
    pub max_concurrent_samples: usize,
    /// How long an executor may take to save and exit after SIGTERM before its process tree gets SIGKILL; also
    /// how long it may linger after its terminal event. Default 30 s.
    pub stop_grace: Duration,
    /// How long a job trains on with no control plane there before it saves a checkpoint and waits for the next one;
    /// for ever when absent. Default 15 min.
    pub alone: Option<Duration>,
    /// How many checkpoints of a job are kept, at least 1: the newest ones, and besides them those that another job
    /// was created to go on from. Default 3.
    pub keep_checkpoints: usize,
    /// No checkpoint is removed before this time, so that who is told of it finds it. Default 60 s.
    pub checkpoint_grace: Duration,
    /// A stream that has been silent this long gets a `ping`. Default 15 s.
    pub heartbeat: Duration,
    /// The longest one inference may take, waiting for its turn included. Default 120 s.
    pub sample_limit: Duration,
    /// Names, besides loopback ones and its address, under which one that listens on loopback may be reached, such as that
    /// of a proxy. Default none.
    pub allowed_hosts: Vec<String>,
    /// HTTP worker threads of [`ControlPlane::serve`](crate::ControlPlane::serve), at least 1. Default 2.
    pub http_workers: usize,
}

impl Settings {
    /// Defaults for everything but the three that have none.
    pub fn new(state_dir: impl Into<PathBuf>, executor: ExecutorSetting, hosts: HostSetting) -> Self {
        Self {
            state_dir: state_dir.into(),
            executor,
            hosts,
            max_concurrent_jobs: 2,
            max_concurrent_samples: 2,
            stop_grace: Duration::from_secs(30),
            alone: Some(Duration::from_secs(15 * 60)),
            keep_checkpoints: 3,
            checkpoint_grace: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            sample_limit: Duration::from_secs(120),
            allowed_hosts: Vec::new(),
            http_workers: 2,
        }
    }
}

/// How the host of an executor is started, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSetting {
    /// The program that becomes a host when `--dir FOLDER` is added to its arguments, such as `midrun run-host`.
    pub command: Vec<OsString>,
    /// Where the hosts' sockets are. Created if absent, for this user only.
    pub socket_dir: PathBuf,
}

/// The program that trains and samples, and how it is called for each.
///
/// It inherits the environment and working directory of the control plane's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSetting {
    /// Looked up in `PATH` unless it has a slash.
    pub program: OsString,
    /// Arguments that make it train the job on its stdin.
    pub train_args: Vec<OsString>,
    /// Arguments that make it sample the checkpoint named on its stdin.
    pub sample_args: Vec<OsString>,
    /// Variables that it gets besides the inherited ones, such as `MIDRUN_PROJECT_DIR`.
    pub env: Vec<(OsString, OsString)>,
}

impl ExecutorSetting {
    /// The builtin executor: this very binary, as `midrun executor`.
    ///
    /// # Errors
    /// The path of the current executable cannot be read.
    pub fn builtin() -> io::Result<Self> {
        Ok(Self::command(std::env::current_exe()?, ["executor"]))
    }

    /// Any program that speaks the executor's lines; it samples when `--sample` follows `args`.
    pub fn command<A: Into<OsString>>(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let train_args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let sample_args = train_args.iter().cloned().chain([OsString::from("--sample")]).collect();
        Self { program: program.into(), train_args, sample_args, env: Vec::new() }
    }
}
