//! The command line: what can be asked for, in words. What it does is elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Hot module replacement for training runs.
#[derive(Debug, Parser)]
#[command(name = "midrun", version, about, propagate_version = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch a project, serve Studio, and keep its runs on the newest code.
    Dev(Dev),
    /// Run some of the services of a server, joined to the others over HTTP.
    Serve(Serve),
    /// Build and inspect the trainer once; exit 1 on an error.
    Build(Build),
    /// Run the trainer in this terminal, without a server.
    Start(Start),
    /// Start a run on the running server.
    Run(Run),
    /// The runs of the running server.
    Runs(Listing),
    /// The jobs on the control plane.
    Jobs(Listing),
    /// End what an absent server left behind: its runs, their processes, their jobs.
    Reap(Reap),
    /// Shells on the running server, for people and programs.
    Term(Term),
    /// What is here: node, ports, state, stale runs.
    Doctor(Doctor),
    /// Make a project that trains at once.
    Init(Init),
    /// Become the host of one run.
    #[command(hide = true)]
    RunHost(RunHost),
    /// Become the builtin executor of one job.
    #[command(hide = true)]
    Executor(Executor),
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The project.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The address to listen on [default: 127.0.0.1].
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// The port to listen on; 0 takes a free one [default: 4000].
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// The control plane to train on, instead of the one in the server.
    #[arg(long, value_name = "URL")]
    pub(crate) control_plane: Option<String>,
    /// Never restart a run: say what would have been restarted, and why.
    #[arg(long)]
    pub(crate) hot_only: bool,
    /// One JSON object a line on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Open Studio in the browser.
    #[arg(long)]
    pub(crate) open: bool,
}

/// A part of a server that can be a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Service {
    /// Watches the sources and builds them.
    BuildWatcher,
    /// Evaluates what was built for facts.
    ManifestInspector,
    /// Keeps the runs and the terminals, on its own machine.
    TrainRegistry,
    /// Sends cancels until they are settled.
    CancelBroker,
    /// Keeps the jobs and trains them.
    ControlPlane,
    /// The HTTP edge with Studio.
    SseGateway,
}

impl Service {
    /// As the command line calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BuildWatcher => "build-watcher",
            Self::ManifestInspector => "manifest-inspector",
            Self::TrainRegistry => "train-registry",
            Self::CancelBroker => "cancel-broker",
            Self::ControlPlane => "control-plane",
            Self::SseGateway => "sse-gateway",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Which; the others are found by the settings `peers.…`.
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<Service>,
    /// The project.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,
    /// Another settings file than the project's `midrun.toml`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One JSON object a line on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The project.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The trainer's source file; the project's own entry when absent.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Wait until the run has ended, and exit as it did.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after this many seconds; the run goes on.
    #[arg(long, value_name = "SECS", requires = "wait")]
    pub(crate) timeout: Option<f64>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// The trainer's source file; the project's own entry when absent.
    #[arg(last = true)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    #[command(subcommand)]
    pub(crate) action: Option<ListingAction>,
    /// One JSON object a line on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ListingAction {
    /// List them (the default).
    Ls,
    /// Show one.
    Show {
        /// Its id.
        id: String,
    },
    /// Show its log.
    Logs {
        /// Its id.
        id: String,
        /// Go on until it has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop it.
    Stop {
        /// Its id.
        id: String,
        /// At once, instead of after its next checkpoint. A job is always cancelled at once.
        #[arg(long)]
        now: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Reap {
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// A process that is left alone, whatever it is; may be given again.
    #[arg(long, value_name = "PID")]
    pub(crate) protect: Vec<u32>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Term {
    #[command(subcommand)]
    pub(crate) action: Option<TermAction>,
    /// One JSON object a line on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TermAction {
    /// List them (the default).
    Ls,
    /// Open one; says its id.
    New {
        /// What to call it.
        #[arg(long)]
        name: Option<String>,
        /// The shell: bash or a POSIX shell, by name or path; your own when absent.
        #[arg(long)]
        shell: Option<String>,
        /// The folder to start in; the project's when absent.
        #[arg(long, value_name = "DIR")]
        cwd: Option<PathBuf>,
    },
    /// Have one run a command, show what it writes, and exit as it does; 124 when it has not ended in time.
    Run {
        /// The terminal's id.
        id: String,
        /// Only hand it over.
        #[arg(long)]
        no_wait: bool,
        /// Stop waiting after this many seconds; the command goes on, or is withdrawn when it was not begun.
        #[arg(long, value_name = "SECS", default_value_t = 30.0, conflicts_with = "no_wait")]
        timeout: f64,
        /// The command, in the shell's language; several words are joined by spaces.
        #[arg(last = true, required = true, num_args = 1..)]
        command: Vec<String>,
    },
    /// Show what one's shell and its commands wrote.
    Log {
        /// The terminal's id.
        id: String,
        /// Go on until it has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// End one, and everything in it.
    Kill {
        /// The terminal's id.
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The project's folder; made if it is not there.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunHost {
    /// The run's folder.
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Executor {
    /// Sample a checkpoint instead of training a job.
    #[arg(long)]
    pub(crate) sample: bool,
}
