//! What is left of a session when its host is gone.

use std::path::Path;
use std::time::Duration;

use process::{Marker, Tree, kill_tree};
use wire::TerminalId;

/// Kills what a host that is gone left behind, and says what that was.
pub(crate) async fn clean_up(id: TerminalId, grace: Duration) -> Option<String> {
    let marker = Marker { name: "MIDRUN_TERMINAL_ID".to_owned(), value: id.to_string() };
    let killing = tokio::task::spawn_blocking(move || kill_tree(Tree::marked_only(marker), grace));
    let report = killing.await.ok()?;
    let pids: Vec<_> = report.killed.iter().map(|killed| killed.pid.to_string()).collect();
    (!pids.is_empty()).then(|| format!("ended what it left behind: process {}", pids.join(", ")))
}

/// Removes a session's folder.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "the folder of an ended terminal stays");
    }
}
