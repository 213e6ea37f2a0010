//! A session's log as clients read it: in pages, waiting for what is not written yet.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::run::LogPage;
use wire::terminal::{ReadTerminal, TerminalRefusal};

/// Longest page, bytes of log.
const MAX_PAGE: u32 = 1 << 20;
/// Longest wait for a record.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The next page after `ask.after` of the log at `path`; waits for a record when there is none yet. Without `newest`,
/// nobody writes the log any more.
pub(crate) async fn read(
    path: PathBuf,
    mut newest: Option<watch::Receiver<u64>>,
    ask: ReadTerminal,
) -> Result<LogPage, TerminalRefusal> {
    let until = Instant::now() + MAX_WAIT.min(Duration::from_millis(ask.wait_ms.into()));
    loop {
        if let Some(newest) = &mut newest {
            newest.mark_unchanged();
        }
        let (at, after, hint) = (path.clone(), ask.after, ask.hint);
        let max_bytes = ask.max_bytes.clamp(1, MAX_PAGE);
        let page = tokio::task::spawn_blocking(move || runlog::read_page(&at, after, hint, max_bytes));
        let page = match page.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(page) => page,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                LogPage { records: Vec::new(), hint: 0, ended: newest.is_none() }
            }
            Err(error) => {
                let why = format!("its log cannot be read: {error}");
                return Err(TerminalRefusal::Silent { terminal: ask.terminal, why });
            }
        };
        if !page.records.is_empty() || page.ended {
            return Ok(page);
        }
        let Some(growth) = &mut newest else { return Ok(LogPage { ended: true, ..page }) };
        match tokio::time::timeout_at(until, growth.changed()).await {
            Ok(Ok(())) => {}
            // The host is gone.
            Ok(Err(_)) => newest = None,
            Err(_) => return Ok(page),
        }
    }
}
