//! Following the life in a log, without its output.

use std::fs::File;
use std::io;
use std::path::Path;

use wire::log::Record;

use crate::line::{is_output, seq_of};
use crate::page::{Log, read_at};

/// A reader of every record that is not output, that goes on where it stopped.
#[derive(Debug)]
pub struct Follower {
    file: File,
    offset: u64,
    after: u64,
}

impl Follower {
    /// Will read the records after `after`.
    ///
    /// # Errors
    /// The system's: `NotFound` when there is no log.
    pub fn open(path: &Path, after: u64) -> io::Result<Self> {
        let log = Log::open(path)?;
        let offset = log.start_after(after, None)?;
        Ok(Self { file: log.into_file(), offset, after })
    }

    /// How far it has read, bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Passes over the log up to `offset`, where a line starts, because the caller knows what stands there.
    pub fn skip_to(&mut self, offset: u64) {
        self.offset = self.offset.max(offset);
    }

    /// Reads about `budget` bytes of log, up to `until`, and hands each whole line that is not output to `each`,
    /// with its newline. Call again until [`Follower::offset`] stays: then there is no more.
    ///
    /// # Errors
    /// The system's.
    pub fn lines(&mut self, until: u64, budget: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut budget = budget.max(1);
        loop {
            let start = self.offset;
            let bytes = read_at(&self.file, start, budget, until)?;
            for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                self.offset += line.len() as u64;
                if !is_output(line) && seq_of(line).is_some_and(|seq| seq > self.after) {
                    each(line);
                }
            }
            if self.offset > start || bytes.len() < budget {
                return Ok(());
            }
            // A line longer than the budget.
            budget = budget.saturating_mul(2);
        }
    }

    /// Every record that is not output up to the end of the log, for a log that nobody writes any more.
    ///
    /// # Errors
    /// The system's.
    pub fn rest(&mut self) -> io::Result<Vec<Record>> {
        const CHUNK: usize = 1 << 20;
        let mut records = Vec::new();
        loop {
            let before = self.offset;
            self.lines(u64::MAX, CHUNK, |line| records.extend(serde_json::from_slice::<Record>(line)))?;
            if self.offset == before {
                return Ok(records);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::log::{Step, Stream};

    use super::*;
    use crate::Writer;

    #[test]
    fn life_is_found_between_output_and_following_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut writer = Writer::create(&path).unwrap();
        let output = || Step::Output { stream: Stream::Stdout, text: Some("x".repeat(70_000)), base64: None };
        for step in 0..20 {
            writer.append(output());
            writer.append(Step::Checkpoint { step });
        }
        writer.flush();
        let mut follower = Follower::open(&path, 4).unwrap();
        let mut steps = Vec::new();
        loop {
            let before = follower.offset();
            follower.lines(writer.written().bytes, 1000, |line| steps.push(seq_of(line).unwrap())).unwrap();
            if follower.offset() == before {
                break;
            }
        }
        assert_eq!(steps, (6..=40).step_by(2).collect::<Vec<_>>());
        writer.append(output());
        writer.append(Step::Exit { code: 0, signal: None });
        writer.flush();
        let rest = follower.rest().unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].step, Step::Exit { code: 0, signal: None });
    }
}
