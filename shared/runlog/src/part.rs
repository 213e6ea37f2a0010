//! One file of a log, open for reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::line::seq_of;

/// A read that is not told how much takes this much, bytes.
pub(crate) const LEAST_READ: usize = 64 * 1024;

/// More than `{"seq":` and the longest number.
const SEQ_BYTES: usize = 32;

/// An open file of a log, as long as it was when it was looked at.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    length: u64,
}

impl Part {
    pub(crate) fn of(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    /// Looks again how long it is. Answers whether it has grown.
    pub(crate) fn look_again(&mut self) -> io::Result<bool> {
        let before = std::mem::replace(&mut self.length, self.file.metadata()?.len());
        Ok(self.length > before)
    }

    /// Up to `count` bytes at `offset`; fewer only at the end.
    pub(crate) fn read(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let there = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(there)];
        let mut got = 0;
        while got < bytes.len() {
            match self.file.read_at(&mut bytes[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The number of the first record in it.
    pub(crate) fn first_seq(&self) -> io::Result<Option<u64>> {
        Ok(match seq_of(&self.read(0, SEQ_BYTES)?) {
            Some(seq) => Some(seq),
            None => self.next_record(0, self.length)?.map(|(_, seq)| seq),
        })
    }

    /// Whether the first record behind `after` starts at `offset`. Right away only where the numbers have no gap.
    pub(crate) fn confirms(&self, after: u64, offset: u64) -> io::Result<bool> {
        if offset > self.length || !self.ends_line(offset)? {
            return Ok(false);
        }
        match seq_of(&self.read(offset, SEQ_BYTES)?) {
            Some(seq) => Ok(seq == after + 1),
            // Nothing there yet: then the record before it must be the one that is known.
            None => Ok(self.line_before(offset)?.and_then(|line| seq_of(&line)) == Some(after)),
        }
    }

    fn ends_line(&self, offset: u64) -> io::Result<bool> {
        Ok(offset > 0 && self.read(offset - 1, 1)? == b"\n")
    }

    /// Where the first record behind `after` starts or will start: bisects byte offsets, then goes line by line.
    pub(crate) fn search(&self, after: u64) -> io::Result<u64> {
        // Every line that starts before `low` is known; every line that starts at or behind `high` is not.
        let (mut low, mut high) = (0, self.length);
        while high - low > LEAST_READ as u64 {
            let middle = low + (high - low) / 2;
            match self.next_record(middle, high)? {
                Some((start, seq)) if seq <= after => low = start,
                _ => high = middle,
            }
        }
        loop {
            match self.next_line(low)? {
                Some((line_end, Some(seq))) if seq <= after => low = line_end,
                Some((line_end, None)) => low = line_end,
                _ => return Ok(low),
            }
        }
    }

    /// The first record that starts in `from..to`, but not at `from`, and its number.
    fn next_record(&self, from: u64, to: u64) -> io::Result<Option<(u64, u64)>> {
        let mut at = from;
        while let Some(newline) = self.newline_from(at)? {
            at = newline + 1;
            if at >= to {
                break;
            }
            if let Some(seq) = seq_of(&self.read(at, SEQ_BYTES)?) {
                return Ok(Some((at, seq)));
            }
        }
        Ok(None)
    }

    /// Where the whole line at `start` ends, and its number.
    fn next_line(&self, start: u64) -> io::Result<Option<(u64, Option<u64>)>> {
        let Some(newline) = self.newline_from(start)? else { return Ok(None) };
        Ok(Some((newline + 1, seq_of(&self.read(start, SEQ_BYTES)?))))
    }

    fn newline_from(&self, from: u64) -> io::Result<Option<u64>> {
        let (mut at, mut count) = (from, 4096);
        loop {
            let bytes = self.read(at, count)?;
            if let Some(found) = bytes.iter().position(|&byte| byte == b'\n') {
                return Ok(Some(at + found as u64));
            }
            if bytes.len() < count {
                return Ok(None);
            }
            at += bytes.len() as u64;
            count = LEAST_READ;
        }
    }

    /// The line that ends at `end`, without its newline.
    pub(crate) fn line_before(&self, end: u64) -> io::Result<Option<Vec<u8>>> {
        if !self.ends_line(end)? {
            return Ok(None);
        }
        let mut count = 1024;
        loop {
            let start = (end - 1).saturating_sub(count);
            let bytes = self.read(start, usize::try_from(end - 1 - start).map_err(io::Error::other)?)?;
            if let Some(newline) = bytes.iter().rposition(|&byte| byte == b'\n') {
                return Ok(Some(bytes[newline + 1..].to_vec()));
            }
            if start == 0 {
                return Ok(Some(bytes));
            }
            count *= 8;
        }
    }
}
