//! The end of a log: records on their way into a file that may refuse them.
//!
//! What must hold: appending never waits for the disk and takes bounded memory, whatever the disk does; a record has
//! its number from the moment it happened; what is lost is told of in its place.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use wire::log::{Record, Step};

use crate::drop::{Lost, output_bytes, write_line};
use crate::writer::Position;

/// How long to wait before trying again to write to a file that refused.
const RETRY: Duration = Duration::from_millis(100);

/// How much of the records that are not output is kept while the file refuses, bytes of log. The last record of a run
/// is kept beyond that.
const KEPT: usize = 512 * 1024;

/// How much memory an empty batch keeps, bytes.
const RETAINED: usize = 256 * 1024;

/// Records on their way into a file.
#[derive(Debug)]
pub(crate) struct Tail<F> {
    file: F,
    written: Position,
    /// How much of what is written stands in this file, bytes.
    length: u64,
    /// The newest record.
    seq: u64,
    batch: Vec<u8>,
    /// The last record of the batch.
    batch_seq: u64,
    /// How much of the batch the file has taken.
    taken: usize,
    trouble: Option<Trouble>,
}

/// The file refuses.
#[derive(Debug)]
struct Trouble {
    why: io::Error,
    retry_at: Instant,
    /// What happened since, as lines.
    kept: Vec<u8>,
    /// What happened behind that and is lost.
    lost: Option<Lost>,
}

impl<F: Write> Tail<F> {
    /// The start of a log.
    pub(crate) fn of(file: F) -> Self {
        Self {
            file,
            written: Position::default(),
            length: 0,
            seq: 0,
            batch: Vec::new(),
            batch_seq: 0,
            taken: 0,
            trouble: None,
        }
    }

    /// Goes on in another file. To be called when nothing waits.
    pub(crate) fn go_on_in(&mut self, file: F) {
        self.file = file;
        self.length = 0;
    }

    pub(crate) const fn written(&self) -> Position {
        self.written
    }

    pub(crate) const fn newest(&self) -> u64 {
        self.seq
    }

    /// The length of the file, bytes.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn waiting(&self) -> usize {
        self.batch.len() - self.taken + self.trouble.as_ref().map_or(0, |trouble| trouble.kept.len())
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// The lines that do not stand in the file whole.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &[u8]> {
        let kept = self.trouble.as_ref().map_or(&[][..], |trouble| &trouble.kept);
        let lines = |bytes| <[u8]>::split_inclusive(bytes, |&byte| byte == b'\n');
        lines(self.batch.as_slice()).chain(lines(kept))
    }

    pub(crate) fn append(&mut self, step: Step) {
        self.seq += 1;
        match &mut self.trouble {
            None => {
                let record = Record { seq: self.seq, ts: wire::now(), step };
                write_line(&mut self.batch, &record).expect("a record has string keys and a Vec takes all");
                self.batch_seq = self.seq;
            }
            Some(trouble) => trouble.keep(self.seq, step),
        }
    }

    /// Writes the batch. A file that refuses is tried again by a later call, at `retry_at` at the earliest. Answers
    /// whether everything that was appended stands in the file or was given up.
    pub(crate) fn flush(&mut self) -> bool {
        if self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.retry_at) {
            return false;
        }
        loop {
            if let Err(why) = self.write_batch() {
                let retry_at = Instant::now() + RETRY;
                match &mut self.trouble {
                    Some(trouble) => trouble.retry_at = retry_at,
                    None => {
                        self.trouble = Some(Trouble { why, retry_at, kept: Vec::new(), lost: None });
                    }
                }
                return false;
            }
            // The batch from before the trouble has been written: now what happened since.
            let Some(mut trouble) = self.trouble.take() else { return true };
            trouble.tell_lost();
            self.batch = trouble.kept;
            self.batch_seq = self.seq;
        }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        while self.taken < self.batch.len() {
            match self.file.write(&self.batch[self.taken..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = self.batch.len() as u64;
        self.written = Position { seq: self.batch_seq, bytes: self.written.bytes + bytes };
        self.length += bytes;
        self.batch.clear();
        // One great batch must not cost its memory for ever.
        self.batch.shrink_to(RETAINED);
        self.taken = 0;
        Ok(())
    }
}

impl Trouble {
    fn keep(&mut self, seq: u64, step: Step) {
        let is_last = matches!(step, Step::Exit { .. });
        match step {
            Step::Output { text, base64, .. } => {
                let bytes = output_bytes(text.as_deref(), base64.as_deref());
                self.lost.get_or_insert(Lost::from(seq)).output(seq, bytes);
            }
            step if self.kept.len() < KEPT || is_last => {
                self.tell_lost();
                self.write(&Record { seq, ts: wire::now(), step });
            }
            _ => self.lost.get_or_insert(Lost::from(seq)).other(seq),
        }
    }

    /// Keeps what stands for what was lost.
    fn tell_lost(&mut self) {
        if let Some(lost) = self.lost.take() {
            self.write(&lost.record(&format!("the log could not be written: {}", self.why)));
        }
    }

    fn write(&mut self, record: &Record) {
        write_line(&mut self.kept, record).expect("a record has string keys and a Vec takes all");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use wire::log::Stream;

    use super::*;

    /// A file on a disk of a certain size.
    #[derive(Clone, Default)]
    struct Disk(Rc<RefCell<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (file, size) = &mut *self.0.borrow_mut();
            let room = *size - file.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(bytes.len().min(room))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Disk {
        fn of_size(size: usize) -> Self {
            Self(Rc::new(RefCell::new((Vec::new(), size))))
        }

        fn grow_to(&self, size: usize) {
            self.0.borrow_mut().1 = size;
        }

        fn records(&self) -> Vec<Record> {
            let whole = String::from_utf8(self.0.borrow().0.clone()).unwrap();
            whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn output(text: &str) -> Step {
        Step::Output { stream: Stream::Stdout, text: Some(text.to_owned()), base64: None }
    }

    fn retry(tail: &mut Tail<Disk>) -> bool {
        let at = tail.retry_at().expect("in trouble");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        tail.flush()
    }

    #[test]
    fn a_full_disk_costs_output_and_nothing_else() {
        let disk = Disk::of_size(100);
        let mut tail = Tail::of(disk.clone());
        tail.append(output("before"));
        tail.append(output("torn"));
        assert!(!tail.flush());
        assert_eq!(tail.written(), Position::default(), "a batch that is half there does not count");
        tail.append(output("12345"));
        let base64 = Some("AAECAw==".to_owned());
        tail.append(Step::Output { stream: Stream::Stdout, text: None, base64 });
        tail.append(Step::Checkpoint { step: 10 });
        tail.append(output("behind it"));
        assert!(!retry(&mut tail), "still full");
        let is_life = |line: &&[u8]| !crate::is_output(line);
        assert_eq!(tail.unwritten().filter(is_life).count(), 1, "who listens may know of it");

        disk.grow_to(10_000);
        assert!(retry(&mut tail));
        tail.append(output("after"));
        assert!(tail.flush());
        let records = disk.records();
        assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 4, 5, 6, 7]);
        assert_eq!(records[0].step, output("before"));
        assert_eq!(records[1].step, output("torn"));
        let Step::Dropped { from_seq: 3, records: 2, bytes: 9, others: 0, why } = &records[2].step else {
            panic!("{:?}", records[2])
        };
        assert!(why.starts_with("the log could not be written: "), "{why}");
        assert_eq!(records[3].step, Step::Checkpoint { step: 10 });
        assert!(matches!(&records[4].step, Step::Dropped { from_seq: 6, bytes: 9, .. }));
        assert_eq!(records[5].step, output("after"));
        assert_eq!(tail.written(), Position { seq: 7, bytes: disk.0.borrow().0.len() as u64 });
    }

    #[test]
    fn what_is_kept_meanwhile_is_bounded_and_the_end_is_always_kept() {
        let disk = Disk::default();
        let mut tail = Tail::of(disk.clone());
        tail.append(output("first"));
        assert!(!tail.flush());
        let note = || Step::Note { text: "x".repeat(1000) };
        (0..2000).for_each(|_| tail.append(note()));
        tail.append(Step::Exit { code: 3, signal: None });
        assert!(tail.waiting() < KEPT + 10_000, "{}", tail.waiting());
        disk.grow_to(1 << 20);
        assert!(retry(&mut tail));
        let records = disk.records();
        let kept = records.iter().filter(|record| record.step == note()).count() as u64;
        let Step::Dropped { from_seq, records: lost, bytes: 0, others, .. } = records[records.len() - 2].step
        else {
            panic!("what was lost is told")
        };
        assert_eq!((from_seq, lost, others), (kept + 2, 2000 - kept, 2000 - kept));
        assert_eq!(records.last().unwrap().seq, 2002);
        assert_eq!(records.last().unwrap().step, Step::Exit { code: 3, signal: None });
    }

    #[test]
    fn a_disk_that_fills_again_at_once_loses_no_life() {
        let disk = Disk::default();
        let mut tail = Tail::of(disk.clone());
        for step in 0..50 {
            tail.append(Step::Checkpoint { step });
            tail.append(output("lost or not"));
            tail.flush();
            if tail.retry_at().is_some() {
                let size = disk.0.borrow().1;
                disk.grow_to(size + 37);
                retry(&mut tail);
            }
        }
        disk.grow_to(1 << 20);
        if tail.retry_at().is_some() {
            retry(&mut tail);
        }
        assert!(tail.flush() && tail.waiting() == 0);
        let (mut next, mut steps) = (1, Vec::new());
        for record in disk.records() {
            let first = if let Step::Dropped { from_seq, .. } = record.step { from_seq } else { record.seq };
            assert_eq!(first, next, "every number is told of once");
            next = record.seq + 1;
            if let Step::Checkpoint { step } = record.step {
                steps.push(step);
            }
        }
        assert_eq!((next, steps), (101, (0..50).collect::<Vec<_>>()));
    }
}
