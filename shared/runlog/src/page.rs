//! Reading a part of a log.

use std::io;
use std::path::Path;

use wire::log::{Record, Step};
use wire::run::LogPage;

use crate::cursor::Cursor;
use crate::line::is_exit;

/// Reads the records after `after`, about `max_bytes` of log, at least one if there is one. `hint` is where the
/// record after `after` starts, as an earlier page said; a wrong one is found out. `ended` says that the log's last
/// record was reached. A line that is no record (after a power cut) is passed over. Blocks on the disk.
///
/// Where records are gone, the page has a [`Step::Dropped`] in their place; it may begin before `after`.
///
/// # Errors
/// The system's: `NotFound` when there is no log.
pub fn read_page(path: &Path, after: u64, hint: Option<u64>, max_bytes: u32) -> io::Result<LogPage> {
    let mut cursor = Cursor::open(path, after, hint)?;
    let mut records = Vec::new();
    loop {
        let more = cursor.read(max_bytes as usize, u64::MAX, |line| {
            if let Ok(record) = serde_json::from_slice::<Record>(line) {
                add(&mut records, record);
            }
        })?;
        if !records.is_empty() || !more {
            break;
        }
    }
    let ended = match records.last() {
        Some(Record { step, .. }) => matches!(step, Step::Exit { .. }),
        None => cursor.line_before()?.is_some_and(|line| is_exit(&line)),
    };
    Ok(LogPage { records, hint: cursor.hint(), ended })
}

/// Adds a record, or makes one of two that stand for what is gone.
fn add(records: &mut Vec<Record>, record: Record) {
    if let (
        Some(Record {
            seq: last,
            ts: last_ts,
            step: Step::Dropped { records: count, bytes: size, others: rest, why: cause, .. },
        }),
        Step::Dropped { from_seq, records: more, bytes, others, why },
    ) = (records.last_mut(), &record.step)
        && *from_seq == *last + 1
        && why == cause
    {
        *last = record.seq;
        *last_ts = record.ts;
        *count += more;
        *size += bytes;
        *rest += others;
        return;
    }
    records.push(record);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
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
        assert_eq!((seqs(&page), page.ended), (vec![], false));
        assert!(read_page(&path, 7, Some(page.hint), 100).unwrap().records.is_empty());
        let missing = read_page(&dir.path().join("other"), 0, None, 100);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_wrong_hint_does_no_harm() {
        let (_dir, path) = log_of([output(10), output(10), output(10), EXIT]);
        let second = read_page(&path, 0, None, 1).unwrap().hint;
        let end = read_page(&path, 0, None, 1 << 20).unwrap().hint;
        for hint in [0, 1, second, second + 1, end - 1, end, end + 1, 7 << 40, 3 << 40 | 5, u64::MAX] {
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
