//! What a server leaves in the project's state folder so that other commands find it: `.midrun/server.json`.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A running server, as other commands need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServerFile {
    /// Base URL without a trailing slash.
    pub(crate) url: String,
    /// The token that every `/api` request carries.
    pub(crate) token: String,
    /// The server's process.
    pub(crate) process: process::Identity,
    /// RFC 3339.
    pub(crate) started_at: String,
}

/// The project's state folder.
pub(crate) fn state_dir(project: &Path) -> PathBuf {
    project.join(wire::profile::STATE_DIR)
}

fn server_file(project: &Path) -> PathBuf {
    state_dir(project).join("server.json")
}

impl ServerFile {
    /// Writes it whole or not at all, readable by its owner alone.
    pub(crate) fn write(&self, project: &Path) -> io::Result<()> {
        let path = server_file(project);
        let fresh = path.with_extension("json.new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, &path)
    }

    /// The server that is running for `project`, if one is: the process named there is alive and is the same.
    pub(crate) fn read(project: &Path) -> Option<Self> {
        let text = std::fs::read(server_file(project)).ok()?;
        let file: Self = serde_json::from_slice(&text).ok()?;
        file.process.is_alive().then_some(file)
    }

    /// Takes it away, if it is still ours.
    pub(crate) fn remove(&self, project: &Path) {
        if Self::read(project).is_some_and(|file| file.process == self.process) {
            let _ = std::fs::remove_file(server_file(project));
        }
    }
}
