//! A job's log, `executor.log` in its folder: what its executor wrote that is no event, bounded, with the tail at hand.
//!
//! It is for people. A line may stand there twice when the control plane was killed while it wrote.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tokio::io::AsyncRead;

use super::lines::{Line, Lines};

/// When the log is this large it is renamed to `.1`, over an earlier one: the newest 8 to 16 MiB are kept.
const LOG_BYTES: u64 = 8 * 1024 * 1024;
/// The longest line of stderr that is kept whole.
pub(super) const LINE_BYTES: usize = 16 * 1024;
const TAIL_LINES: usize = 20;
const TAIL_LINE_BYTES: usize = 400;

/// What is to be written, and the last lines of stderr.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    waiting: String,
    tail: Tail,
    /// That it cannot be written was said.
    refused: bool,
}

impl Journal {
    /// A journal that is written to `path`, appending.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, waiting: String::new(), tail: Tail::default(), refused: false }
    }

    /// Adds a line of the executor's stderr, written at `ts`.
    pub(super) fn stderr(&mut self, ts: &str, line: &Line) {
        let text = String::from_utf8_lossy(&line.bytes);
        self.tail.push(&text);
        let cut = if line.cut { " [cut]" } else { "" };
        self.add(ts, &[&text, cut]);
    }

    /// Adds a line of the control plane's own, about the executor.
    pub(super) fn note(&mut self, text: &str) {
        self.add(&wire::now(), &["[midrun] ", text]);
    }

    fn add(&mut self, ts: &str, parts: &[&str]) {
        self.waiting.push_str(ts);
        self.waiting.push(' ');
        parts.iter().for_each(|part| self.waiting.push_str(part));
        self.waiting.push('\n');
    }

    /// Writes what was added. A log that cannot be written is said once and otherwise does not matter: the job goes on.
    pub(super) async fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (path, text) = (self.path.clone(), std::mem::take(&mut self.waiting));
        let written = tokio::task::spawn_blocking(move || append(&path, &text)).await;
        if let Err(error) = written.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            && !std::mem::replace(&mut self.refused, true)
        {
            tracing::warn!(path = %self.path.display(), %error, "this job's log cannot be written");
        }
    }

    /// The last lines of stderr.
    pub(super) fn tail(&self) -> String {
        self.tail.text()
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|log| log.len() >= LOG_BYTES) {
        std::fs::rename(path, path.with_added_extension("1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

/// The last lines of `stderr`, for a process that has no log.
pub(crate) async fn tail(stderr: impl AsyncRead + Unpin) -> String {
    let mut lines = Lines::new(stderr, LINE_BYTES);
    let mut tail = Tail::default();
    while let Ok(Some(line)) = lines.next().await {
        tail.push(&String::from_utf8_lossy(&line.bytes));
    }
    tail.text()
}

/// The newest lines, each clipped.
#[derive(Debug, Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line[..line.floor_char_boundary(TAIL_LINE_BYTES)].to_owned());
    }

    fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { bytes: text.as_bytes().to_vec(), cut: false }
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("executor.log");
        let mut journal = Journal::new(path.clone());
        for _ in 0..1100 {
            journal.stderr("T", &line(&"y".repeat(LINE_BYTES)));
            journal.flush().await;
        }
        journal.stderr("T", &line("the last words"));
        journal.flush().await;

        let size = |path: &Path| std::fs::metadata(path).expect("the log is there").len();
        assert!(size(&path) < LOG_BYTES + LINE_BYTES as u64 + 100);
        assert!(size(&path.with_added_extension("1")) < LOG_BYTES + LINE_BYTES as u64 + 100);
        assert!(std::fs::read_to_string(&path).expect("text").ends_with("\nT the last words\n"));
        let tail = journal.tail();
        assert!(tail.ends_with("\nthe last words"));
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.len() < TAIL_LINES * (TAIL_LINE_BYTES + 1));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_still_gives_the_tail() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut journal = Journal::new(dir.path().join("absent").join("executor.log"));
        journal.stderr("T", &line("a"));
        journal.note("about it");
        journal.stderr("T", &line("b"));
        journal.flush().await;
        assert_eq!(journal.tail(), "a\nb");
    }
}
