//! A job's log: what its executor wrote that is no event, on disk and bounded, with the tail at hand.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::lines::Lines;

/// When the log is this large it is renamed to `.1`, over an earlier one: the newest 8 to 16 MiB are kept.
const LOG_BYTES: u64 = 8 * 1024 * 1024;
const LINE_BYTES: usize = 16 * 1024;
const TAIL_LINES: usize = 20;
const TAIL_LINE_BYTES: usize = 400;
/// Notes that wait to be written; past it, who writes waits.
const WAITING: usize = 256;

/// A line for the log.
#[derive(Debug)]
enum Note {
    /// From the executor's stderr.
    Stderr(String),
    /// From the control plane, about the executor.
    Ours(String),
}

/// Where notes are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Journal(mpsc::Sender<Note>);

/// Where they are written: a future to run until every [`Journal`] is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    notes: mpsc::Receiver<Note>,
}

/// A journal that is written to `path`, appending.
pub(crate) fn open(path: PathBuf) -> (Journal, Writer) {
    let (tx, notes) = mpsc::channel(WAITING);
    (Journal(tx), Writer { path, notes })
}

impl Journal {
    /// Writes a line of the control plane's own.
    pub(crate) async fn note(&self, text: String) {
        // A writer that is gone has said why already.
        let _ = self.0.send(Note::Ours(text)).await;
    }

    /// Writes everything that comes out of `stderr`, until its end.
    pub(crate) async fn copy(self, stderr: impl AsyncRead + Unpin) {
        let mut lines = Lines::new(stderr, LINE_BYTES);
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    let mut text = String::from_utf8_lossy(&line.bytes).into_owned();
                    if line.cut {
                        text.push_str(" [cut]");
                    }
                    let _ = self.0.send(Note::Stderr(text)).await;
                }
                Ok(None) => return,
                Err(error) => return self.note(format!("stderr cannot be read: {error}")).await,
            }
        }
    }
}

impl Writer {
    /// Writes until the last [`Journal`] is dropped; returns the last lines of stderr. A log that cannot be written
    /// is said once and otherwise does not matter: the job goes on.
    pub(crate) async fn run(mut self) -> String {
        let mut tail = Tail::default();
        let mut log = Log::open(&self.path).await;
        if let Err(error) = &log {
            tracing::warn!(path = %self.path.display(), %error, "this job's log cannot be written");
        }
        while let Some(note) = self.notes.recv().await {
            let text = match note {
                Note::Stderr(text) => {
                    tail.push(&text);
                    text
                }
                Note::Ours(text) => format!("[midrun] {text}"),
            };
            if let Ok(open) = &mut log
                && let Err(error) = open.line(&self.path, &text).await
            {
                tracing::warn!(path = %self.path.display(), %error, "this job's log cannot be written");
                log = Err(error);
            }
        }
        tail.text()
    }
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
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line[..line.floor_char_boundary(TAIL_LINE_BYTES)].to_owned());
    }

    fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

struct Log {
    file: File,
    bytes: u64,
}

impl Log {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).await?;
        let bytes = file.metadata().await?.len();
        Ok(Self { file, bytes })
    }

    async fn line(&mut self, path: &Path, text: &str) -> io::Result<()> {
        if self.bytes >= LOG_BYTES {
            tokio::fs::rename(path, path.with_added_extension("1")).await?;
            *self = Self::open(path).await?;
        }
        let line = format!("{} {text}\n", wire::now());
        self.file.write_all(line.as_bytes()).await?;
        // tokio's file hands a write to another thread; only a flush says that it was done.
        self.file.flush().await?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("executor.log");
        let (journal, writer) = open(path.clone());
        let line = "y".repeat(LINE_BYTES - 1);
        let text = format!("{line}\n").repeat(1100) + "the last words\n";
        let (tail, ()) = tokio::join!(writer.run(), journal.copy(text.as_bytes()));

        let size = |path: &Path| std::fs::metadata(path).expect("the log is there").len();
        assert!(size(&path) < LOG_BYTES + LINE_BYTES as u64 + 100);
        assert!(size(&path.with_added_extension("1")) < LOG_BYTES + LINE_BYTES as u64 + 100);
        assert!(std::fs::read_to_string(&path).expect("text").ends_with("the last words\n"));
        assert!(tail.ends_with("\nthe last words"));
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.len() < TAIL_LINES * (TAIL_LINE_BYTES + 1));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_still_gives_the_tail() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (journal, writer) = open(dir.path().join("absent").join("executor.log"));
        let (tail, ()) = tokio::join!(writer.run(), journal.copy(&b"a\nb\n"[..]));
        assert_eq!(tail, "a\nb");
    }
}
