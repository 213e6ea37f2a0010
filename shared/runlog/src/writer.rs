//! Writing a log.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use wire::log::Step;

use crate::files::Files;
use crate::rotation::Rotation;
use crate::tail::Tail;

/// How large a log may become if nothing else is said, bytes.
pub const DEFAULT_CAP: u64 = 1 << 30;

/// How far the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The newest record that stands in it whole.
    pub seq: u64,
    /// How much has been written up to and including that record, bytes; also what has been dropped since.
    pub bytes: u64,
}

/// The one writer of a log.
#[derive(Debug)]
pub struct Writer {
    tail: Tail<File>,
    rotation: Rotation,
    /// The length at which to try again to go on in another file, after a try that failed, bytes.
    not_before: u64,
    /// That the log cannot be kept within its cap has been said.
    said: bool,
    /// The last record is appended: the file with it is the last one.
    ended: bool,
}

impl Writer {
    /// Creates the log at `path`, readable by its owner only, with a cap of [`DEFAULT_CAP`].
    ///
    /// # Errors
    /// `AlreadyExists` when there is one: an old log is never continued. Otherwise the system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let files = Files::of(path);
        let tail = Tail::of(Rotation::create(&files)?);
        let rotation = Rotation::new(files, DEFAULT_CAP);
        Ok(Self { tail, rotation, not_before: 0, said: false, ended: false })
    }

    /// The log may become about `cap` bytes large: then its oldest output is dropped. To be called before anything is
    /// written.
    #[must_use]
    pub fn with_cap(mut self, cap: u64) -> Self {
        self.rotation.set_cap(cap);
        self
    }

    /// How far the log goes.
    pub const fn written(&self) -> Position {
        self.tail.written()
    }

    /// The number of the record that was appended last.
    pub const fn newest(&self) -> u64 {
        self.tail.newest()
    }

    /// How much waits to be written, bytes.
    pub fn waiting(&self) -> usize {
        self.tail.waiting()
    }

    /// When to call [`Writer::flush`] again although nothing was appended; `None` while all is well.
    pub fn retry_at(&self) -> Option<Instant> {
        self.tail.retry_at()
    }

    /// The records that wait to be written, a line each; of these, those that are not output, with their newlines.
    pub fn unwritten_life(&self) -> impl Iterator<Item = &[u8]> {
        self.tail.unwritten().filter(|line| !crate::is_output(line))
    }

    /// Adds a record to the batch. While the file refuses, output is dropped and counted, and of other records half a
    /// megabyte is kept.
    pub fn append(&mut self, step: Step) {
        self.ended |= matches!(step, Step::Exit { .. });
        self.tail.append(step);
    }

    /// Writes the batch. A file that refuses is tried again by a later call, at [`Writer::retry_at`] at the
    /// earliest. Answers whether everything that was appended stands in the file or was given up.
    pub fn flush(&mut self) -> bool {
        let is_written = self.tail.flush();
        let length = self.tail.length();
        let is_due = is_written && !self.ended && self.rotation.is_due(length) && length >= self.not_before;
        if is_due && let Err(error) = self.rotate() {
            self.not_before = self.tail.length() + self.rotation.size();
            self.say(&error);
        }
        is_written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let next = self.rotation.turn(self.tail.length())?;
        self.tail.go_on_in(next);
        self.not_before = 0;
        self.rotation.make_room()
    }

    fn say(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.said, true) {
            let text = format!("the log cannot be kept within its cap for now: {error}");
            self.tail.append(Step::Note { text });
            self.tail.flush();
        }
    }
}

#[cfg(test)]
mod tests;
