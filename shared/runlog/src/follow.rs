//! Following the life in a log, without its output.

use std::io;
use std::path::Path;

use wire::log::Record;

use crate::cursor::Cursor;
use crate::line::{is_output, seq_of};

/// A reader of every record that is not output, that goes on where it stopped.
#[derive(Debug)]
pub struct Follower {
    cursor: Cursor,
    /// The caller knows the records up to this one.
    known: u64,
}

impl Follower {
    /// Will read the records after `after`.
    ///
    /// # Errors
    /// The system's: `NotFound` when there is no log.
    pub fn open(path: &Path, after: u64) -> io::Result<Self> {
        Ok(Self { cursor: Cursor::open(path, after, None)?, known: after })
    }

    /// How far it has read: the newest record, of any kind, that it has passed.
    pub const fn seq(&self) -> u64 {
        self.cursor.seq()
    }

    /// The newest record that the caller has, or was handed, or said that it knows.
    pub fn known(&self) -> u64 {
        self.known.max(self.cursor.seq())
    }

    /// The caller has the records up to `seq` from elsewhere: they are not handed out.
    pub fn know(&mut self, seq: u64) {
        self.known = self.known.max(seq);
    }

    /// Reads about `budget` bytes of log, not beyond the record `last`, and hands each line that is not output to
    /// `each`, with its newline. Answers whether there may be more.
    ///
    /// # Errors
    /// The system's.
    pub fn lines(&mut self, last: u64, budget: usize, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let known = self.known;
        self.cursor.read(budget, last, |line| {
            if !is_output(line) && seq_of(line).is_some_and(|seq| seq > known) {
                each(line);
            }
        })
    }

    /// Every record that is not output up to the end of the log, for a log that nobody writes any more.
    ///
    /// # Errors
    /// The system's.
    pub fn rest(&mut self) -> io::Result<Vec<Record>> {
        const CHUNK: usize = 1 << 20;
        let mut records = Vec::new();
        while self.lines(u64::MAX, CHUNK, |line| records.extend(serde_json::from_slice::<Record>(line)))? {}
        Ok(records)
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
        while follower.lines(38, 1000, |line| steps.push(seq_of(line).unwrap())).unwrap() {}
        assert_eq!(steps, (6..=38).step_by(2).collect::<Vec<_>>());
        assert_eq!(follower.seq(), 38, "not beyond the last one that was asked for");
        follower.know(40);
        writer.append(output());
        writer.append(Step::Exit { code: 0, signal: None });
        writer.flush();
        let rest = follower.rest().unwrap();
        assert_eq!(rest.len(), 1, "what the caller knows is not handed out");
        assert_eq!(rest[0].step, Step::Exit { code: 0, signal: None });
        assert_eq!(follower.seq(), writer.written().seq);
    }
}
