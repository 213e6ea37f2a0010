//! Reading a part of a log.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use wire::log::{Record, Step};
use wire::run::LogPage;

use crate::line::{is_exit, seq_of};

/// Reads the records after `after`, about `max_bytes` of log, at least one if there is one. `hint` is where the
/// record after `after` starts, as an earlier page said; a wrong one is found out. `ended` says that the log's last
/// record was reached. A line that is no record (after a power cut) is passed over. Blocks on the disk.
///
/// # Errors
/// The system's: `NotFound` when there is no log.
pub fn read_page(path: &Path, after: u64, hint: Option<u64>, max_bytes: u32) -> io::Result<LogPage> {
    let log = Log::open(path)?;
    let start = log.start_after(after, hint)?;
    let mut page = LogPage { records: Vec::new(), hint: start, ended: false };
    let mut budget = (max_bytes as usize).max(1);
    loop {
        let bytes = log.read(page.hint, budget)?;
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            page.hint += line.len() as u64;
            if let Ok(record) = serde_json::from_slice::<Record>(line)
                && record.seq > after
            {
                page.ended = matches!(record.step, Step::Exit { .. });
                page.records.push(record);
            }
        }
        let at_end = bytes.len() < budget;
        if at_end && page.records.is_empty() {
            page.ended = log.line_before(page.hint)?.is_some_and(|line| is_exit(&line));
        }
        if at_end || !page.records.is_empty() {
            return Ok(page);
        }
        // One record is longer than a page.
        budget = budget.saturating_mul(2).max(LEAST_READ);
    }
}

/// A read that is not told how much takes this much, bytes.
const LEAST_READ: usize = 64 * 1024;

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    length: u64,
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Up to `count` bytes at `offset`; fewer only at the end.
    fn read(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        read_at(&self.file, offset, count, self.length)
    }

    /// Where the record after `after` starts or will start.
    pub(crate) fn start_after(&self, after: u64, hint: Option<u64>) -> io::Result<u64> {
        match hint {
            Some(hint) if self.confirms(after, hint)? => Ok(hint),
            _ => self.search(after),
        }
    }

    /// Whether the record after `after` starts at `hint`.
    fn confirms(&self, after: u64, hint: u64) -> io::Result<bool> {
        if hint > self.length {
            return Ok(false);
        }
        let before = if after == 0 { hint == 0 } else { self.ends_line(hint)? };
        if !before {
            return Ok(false);
        }
        match seq_of(&self.read(hint, SEQ_BYTES)?) {
            Some(seq) => Ok(seq == after + 1),
            // Nothing there yet: then the record before it must be the one that is known.
            None => Ok(after == 0 || self.line_before(hint)?.and_then(|line| seq_of(&line)) == Some(after)),
        }
    }

    fn ends_line(&self, offset: u64) -> io::Result<bool> {
        Ok(offset > 0 && self.read(offset - 1, 1)? == b"\n")
    }

    /// Bisects byte offsets, then goes line by line.
    fn search(&self, after: u64) -> io::Result<u64> {
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

    /// The first record that starts in `from..to`, and its number.
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
    fn line_before(&self, end: u64) -> io::Result<Option<Vec<u8>>> {
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

/// More than `{"seq":` and the longest number.
const SEQ_BYTES: usize = 32;

/// Up to `count` bytes of `file` from `offset`, none at or behind `until`; fewer only there or at the end.
pub(crate) fn read_at(file: &File, offset: u64, count: usize, until: u64) -> io::Result<Vec<u8>> {
    let there = usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; count.min(there)];
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use tempfile::TempDir;
    use wire::log::Stream;

    use super::*;
    use crate::Writer;

    fn log_of(steps: impl IntoIterator<Item = Step>) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut writer = Writer::create(&path).unwrap();
        steps.into_iter().for_each(|step| writer.append(step));
        assert!(writer.flush());
        (dir, path)
    }

    fn output(length: usize) -> Step {
        Step::Output { stream: Stream::Stdout, text: Some("x".repeat(length)), base64: None }
    }

    const EXIT: Step = Step::Exit { code: 0, signal: None };

    fn seqs(page: &LogPage) -> Vec<u64> {
        page.records.iter().map(|record| record.seq).collect()
    }

    fn tear(path: &Path, bytes: &[u8]) {
        File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_torn_last_line_is_not_there_until_it_is_whole() {
        let (_dir, path) = log_of([output(3), output(4)]);
        tear(&path, b"{\"seq\":3,\"ts\":\"2026-01-01T00:00:00.000Z\",\"type\":\"exit\",\"co");
        let page = read_page(&path, 0, None, 1 << 20).unwrap();
        assert_eq!((seqs(&page), page.ended), (vec![1, 2], false));
        let waiting = read_page(&path, 2, Some(page.hint), 1 << 20).unwrap();
        assert_eq!((seqs(&waiting), waiting.hint, waiting.ended), (vec![], page.hint, false));
        tear(&path, b"de\":0}\n");
        let last = read_page(&path, 2, Some(page.hint), 1 << 20).unwrap();
        assert_eq!((seqs(&last), last.ended), (vec![3], true));
        let behind = read_page(&path, 3, Some(last.hint), 1 << 20).unwrap();
        assert_eq!((seqs(&behind), behind.ended), (vec![], true));
    }

    #[test]
    fn rubbish_in_the_middle_is_passed_over() {
        let (_dir, path) = log_of([output(3)]);
        tear(&path, b"\0\0\0\0\nnot json\n{\"seq\":2,\"ts\":\"\",\"type\":\"exit\",\"code\":0}\n");
        let page = read_page(&path, 0, None, 1 << 20).unwrap();
        assert_eq!((seqs(&page), page.ended), (vec![1, 2], true));
        assert_eq!(seqs(&read_page(&path, 1, None, 1 << 20).unwrap()), [2]);
    }

    #[test]
    fn an_empty_log_has_an_empty_page_and_a_missing_one_is_an_error() {
        let (dir, path) = log_of([]);
        let page = read_page(&path, 0, None, 100).unwrap();
        assert_eq!((seqs(&page), page.hint, page.ended), (vec![], 0, false));
        let missing = read_page(&dir.path().join("other"), 0, None, 100);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_wrong_hint_does_no_harm() {
        let (_dir, path) = log_of([output(10), output(10), output(10), EXIT]);
        let second = read_page(&path, 0, None, 1).unwrap().hint;
        let end = read_page(&path, 0, None, 1 << 20).unwrap().hint;
        for hint in [0, 1, second, second + 1, end - 1, end, end + 1, u64::MAX] {
            assert_eq!(seqs(&read_page(&path, 2, Some(hint), 1 << 20).unwrap()), [3, 4], "{hint}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pages_in_a_row_are_the_log(
            lengths in prop::collection::vec(prop_oneof![0..200usize, 30_000..150_000usize], 1..40),
            max_bytes in prop_oneof![1..2_000u32, 50_000..500_000u32],
            with_hint: bool,
        ) {
            let count = lengths.len() as u64 + 1;
            let (_dir, path) = log_of(lengths.into_iter().map(output).chain([EXIT]));
            let (mut after, mut hint, mut ended) = (0, None, false);
            while !ended {
                let page = read_page(&path, after, hint, max_bytes).unwrap();
                prop_assert!(!page.records.is_empty());
                for record in &page.records {
                    prop_assert_eq!(record.seq, after + 1);
                    after = record.seq;
                }
                hint = with_hint.then_some(page.hint);
                ended = page.ended;
            }
            prop_assert_eq!(after, count);
        }
    }
}
