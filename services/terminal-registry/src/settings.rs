//! What the registry is told when it starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What the registry is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The project's folder, canonical.
    pub project: PathBuf,
    /// Where sessions are kept: `.midrun/terminals`.
    pub terminals_dir: PathBuf,
    /// Where the hosts' sockets are: `$XDG_RUNTIME_DIR/midrun`.
    pub socket_dir: PathBuf,
    /// The program that becomes a host when `--dir SESSION` is added to its arguments.
    pub host_command: Vec<OsString>,
    /// The shell, where a client names none; the user's own, or bash, or sh, when absent.
    pub shell: Option<String>,
    /// Sessions that may be open at once.
    pub max_sessions: usize,
    /// How long a session lives without a server.
    pub alone: Duration,
    /// How long the children of an ended shell may hold its terminal.
    pub drain: Duration,
    /// How long a killed tree has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
}
