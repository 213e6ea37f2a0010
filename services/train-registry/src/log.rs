//! A run's log as clients read it: in pages, waiting for what is not written yet.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::run::{LogPage, ReadLog, RunRefusal};

/// Longest page, bytes of log.
const MAX_PAGE: u32 = 1 << 20;
/// Longest wait for a record.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where a log is, and a sign that it grew.
#[derive(Debug, Clone)]
pub(crate) struct LogAt {
    pub(crate) path: PathBuf,
    /// The newest record; nothing for a run whose log does not grow any more.
    pub(crate) newest: Option<watch::Receiver<u64>>,
}

/// The next page after `ask.after`; waits for a record when there is none yet.
pub(crate) async fn read(log: LogAt, ask: ReadLog) -> Result<LogPage, RunRefusal> {
    let until = Instant::now() + MAX_WAIT.min(Duration::from_millis(ask.wait_ms.into()));
    let mut newest = log.newest;
    loop {
        if let Some(newest) = &mut newest {
            newest.mark_unchanged();
        }
        let (path, after, hint) = (log.path.clone(), ask.after, ask.hint);
        let max_bytes = ask.max_bytes.clamp(1, MAX_PAGE);
        let page = tokio::task::spawn_blocking(move || runlog::read_page(&path, after, hint, max_bytes));
        let page = match page.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(page) => page,
            // The host has not made it yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                LogPage { records: Vec::new(), hint: 0, ended: newest.is_none() }
            }
            Err(error) => {
                let (file, why) = (log.path.display().to_string(), error.to_string());
                return Err(RunRefusal::NoSuchFile { file, why });
            }
        };
        if !page.records.is_empty() || page.ended {
            return Ok(page);
        }
        // Nothing new. A log that no host writes any more ends where it ends.
        let Some(growth) = &mut newest else { return Ok(LogPage { ended: true, ..page }) };
        match tokio::time::timeout_at(until, growth.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => newest = None,
            Err(_) => return Ok(page),
        }
    }
}
