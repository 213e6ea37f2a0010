//! Records that are gone, and what stands in their place.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write};

use serde::Deserialize;
use wire::log::{Record, Step};

use crate::line::{is_dropped, is_output, seq_of};

/// How much of a file is read at once, bytes.
const CHUNK: usize = 256 * 1024;

/// A run of records that are gone, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    from: u64,
    to: u64,
    records: u64,
    bytes: u64,
    others: u64,
}

impl Lost {
    /// Nothing yet; the first one will be `from`.
    pub(crate) const fn from(from: u64) -> Self {
        Self { from, to: from, records: 0, bytes: 0, others: 0 }
    }

    /// Output of `bytes` bytes is gone.
    pub(crate) const fn output(&mut self, seq: u64, bytes: u64) {
        self.to = seq;
        self.records += 1;
        self.bytes += bytes;
    }

    /// A record that is not output is gone.
    pub(crate) const fn other(&mut self, seq: u64) {
        self.to = seq;
        self.records += 1;
        self.others += 1;
    }

    /// What stands in their place.
    pub(crate) fn record(self, why: &str) -> Record {
        let Self { from, to, records, bytes, others } = self;
        let step = Step::Dropped { from_seq: from, records, bytes, others, why: why.to_owned() };
        Record { seq: to, ts: wire::now(), step }
    }
}

/// Appends `record` as a line.
pub(crate) fn write_line(to: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *to, record)?;
    to.write_all(b"\n")
}

/// How many bytes the runner wrote for this record.
pub(crate) fn output_bytes(text: Option<&str>, base64: Option<&str>) -> u64 {
    let encoded = base64.map_or(0, |base64| {
        let padding = base64.bytes().rev().take_while(|&byte| byte == b'=').count();
        (base64.len() / 4 * 3).saturating_sub(padding)
    });
    (text.map_or(0, str::len) + encoded) as u64
}

/// Copies what must never go from one file of a log to another, with a `dropped` record for each run of output.
///
/// # Errors
/// The system's; then some of it was copied.
pub(crate) fn reduce(from: File, to: &mut impl Write, why: &str) -> io::Result<()> {
    let mut from = BufReader::with_capacity(CHUNK, from);
    let mut lost: Option<Lost> = None;
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        match seq_of(&line) {
            // Rubbish, or a line that the writer died over.
            _ if !line.ends_with(b"\n") => {}
            None => {}
            Some(seq) if is_output(&line) && !is_dropped(&line) => {
                lost.get_or_insert(Lost::from(seq)).output(seq, bytes_of_line(&line));
            }
            Some(_) => {
                if let Some(lost) = lost.take() {
                    write_line(to, &lost.record(why))?;
                }
                to.write_all(&line)?;
            }
        }
        line.clear();
    }
    lost.map_or(Ok(()), |lost| write_line(to, &lost.record(why)))
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    base64: Option<Cow<'a, str>>,
}

fn bytes_of_line(line: &[u8]) -> u64 {
    serde_json::from_slice::<Output<'_>>(line)
        .map_or(0, |output| output_bytes(output.text.as_deref(), output.base64.as_deref()))
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use wire::log::Stream;

    use super::*;

    #[test]
    fn output_goes_and_everything_else_stays_in_its_place() {
        let output = |text: Option<&str>, base64: Option<&str>| Step::Output {
            stream: Stream::Stdout,
            text: text.map(str::to_owned),
            base64: base64.map(str::to_owned),
        };
        let steps = [
            output(Some("a\n"), None),
            output(None, Some("AAECAw==")),
            Step::Checkpoint { step: 1 },
            Step::Checkpoint { step: 2 },
            output(Some("é"), None),
            Lost { from: 6, to: 8, records: 3, bytes: 9, others: 1 }.record("the disk was full").step,
            output(Some("z"), None),
        ];
        let mut file = tempfile::tempfile().unwrap();
        for (step, seq) in steps.into_iter().zip([1, 2, 3, 4, 5, 8, 9]) {
            write_line(&mut file, &Record { seq, ts: String::new(), step }).unwrap();
        }
        file.write_all(b"rubbish\n{\"seq\":10,\"ts\":\"\",\"type\":\"output\",\"te").unwrap();
        file.rewind().unwrap();
        let mut left = Vec::new();
        reduce(file, &mut left, "cap").unwrap();
        let left: Vec<Record> = left
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let dropped = |from_seq, records, bytes, others, why: &str| Step::Dropped {
            from_seq,
            records,
            bytes,
            others,
            why: why.to_owned(),
        };
        let expected = [
            (2, dropped(1, 2, 6, 0, "cap")),
            (3, Step::Checkpoint { step: 1 }),
            (4, Step::Checkpoint { step: 2 }),
            (5, dropped(5, 1, 2, 0, "cap")),
            (8, dropped(6, 3, 9, 1, "the disk was full")),
            (9, dropped(9, 1, 1, 0, "cap")),
        ];
        assert_eq!(left.into_iter().map(|record| (record.seq, record.step)).collect::<Vec<_>>(), expected);
    }
}
