//! The writer. Records are gathered into a batch and written at once; what cannot be written does not stop the
//! run: output is dropped and counted, life is kept, and a note tells of the gap when writing works again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use wire::log::{Record, Step};

/// How long to wait before trying again to write to a file that refused.
const RETRY: Duration = Duration::from_millis(100);

/// How many records that are not output are kept while the file refuses.
const KEPT: usize = 1024;

/// How far the file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The newest record that stands in it whole.
    pub seq: u64,
    /// Its length up to and including that record, bytes.
    pub bytes: u64,
}

/// The one writer of a log.
#[derive(Debug)]
pub struct Writer<F = File> {
    file: F,
    written: Position,
    /// The last record of the batch.
    last_seq: u64,
    batch: Vec<u8>,
    /// How much of the batch the file has taken.
    taken: usize,
    trouble: Option<Trouble>,
}

/// The file refuses.
#[derive(Debug)]
struct Trouble {
    why: io::Error,
    retry_at: Instant,
    lost_output: u64,
    lost_records: u64,
    kept: VecDeque<(String, Step)>,
}

impl Writer {
    /// Creates the log at `path`, readable by its owner only: what a run prints may be confidential.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one: an old log is never continued. Otherwise the system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self::over(file))
    }
}

impl<F: Write> Writer<F> {
    fn over(file: F) -> Self {
        Self { file, written: Position::default(), last_seq: 0, batch: Vec::new(), taken: 0, trouble: None }
    }

    /// How far the file goes.
    pub const fn written(&self) -> Position {
        self.written
    }

    /// The number of the record that was appended last; nothing while the file refuses, since what will be left out is
    /// not known then.
    pub const fn newest(&self) -> Option<u64> {
        if self.trouble.is_some() { None } else { Some(self.last_seq) }
    }

    /// How much waits to be written, bytes.
    pub const fn waiting(&self) -> usize {
        self.batch.len() - self.taken
    }

    /// When to call [`Writer::flush`] again although nothing was appended; `None` while all is well.
    pub fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// Adds a record to the batch. While the file refuses, output is dropped and counted, and of other records the
    /// first 1,024 are kept.
    pub fn append(&mut self, step: Step) {
        match &mut self.trouble {
            None => self.add(wire::now(), step),
            Some(trouble) => trouble.keep(step),
        }
    }

    fn add(&mut self, ts: String, step: Step) {
        self.last_seq += 1;
        let record = Record { seq: self.last_seq, ts, step };
        serde_json::to_writer(&mut self.batch, &record)
            .expect("a record has string keys and a Vec takes all");
        self.batch.push(b'\n');
    }

    /// Writes the batch. A file that refuses is tried again by a later call, at [`Writer::retry_at`] at the
    /// earliest. Answers whether everything that was appended stands in the file or was given up.
    pub fn flush(&mut self) -> bool {
        if self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.retry_at) {
            return false;
        }
        loop {
            if let Err(why) = self.write_batch() {
                let retry_at = Instant::now() + RETRY;
                match &mut self.trouble {
                    Some(trouble) => trouble.retry_at = retry_at,
                    None => self.trouble = Some(Trouble::new(why, retry_at)),
                }
                return false;
            }
            let Some(trouble) = self.trouble.take() else { return true };
            self.recover(trouble);
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
        self.written = Position { seq: self.last_seq, bytes: self.written.bytes + self.batch.len() as u64 };
        self.batch.clear();
        // One great batch must not cost its memory for ever.
        self.batch.shrink_to(RETAINED);
        self.taken = 0;
        Ok(())
    }

    /// The batch from before the trouble has been written: now what was lost, then what was kept.
    fn recover(&mut self, trouble: Trouble) {
        if trouble.lost_output + trouble.lost_records > 0 {
            let records = match trouble.lost_records {
                0 => String::new(),
                count => format!(" and {count} other records"),
            };
            let text = format!(
                "{} bytes of output{records} are missing here: the log could not be written ({})",
                trouble.lost_output, trouble.why
            );
            self.add(wire::now(), Step::Note { text });
        }
        for (ts, step) in trouble.kept {
            self.add(ts, step);
        }
    }
}

/// How much memory an empty batch keeps, bytes.
const RETAINED: usize = 256 * 1024;

impl Trouble {
    const fn new(why: io::Error, retry_at: Instant) -> Self {
        Self { why, retry_at, lost_output: 0, lost_records: 0, kept: VecDeque::new() }
    }

    fn keep(&mut self, step: Step) {
        match step {
            Step::Output { text: Some(text), .. } => self.lost_output += text.len() as u64,
            Step::Output { base64: Some(base64), .. } => {
                let padding = base64.bytes().rev().take_while(|&byte| byte == b'=').count();
                self.lost_output += (base64.len() / 4 * 3 - padding) as u64;
            }
            step if self.kept.len() < KEPT => self.kept.push_back((wire::now(), step)),
            _ => self.lost_records += 1,
        }
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
        fn records(&self) -> Vec<Record> {
            let whole = String::from_utf8(self.0.borrow().0.clone()).unwrap();
            whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn output(text: &str) -> Step {
        Step::Output { stream: Stream::Stdout, text: Some(text.to_owned()), base64: None }
    }

    fn retry(writer: &mut Writer<Disk>) -> bool {
        let at = writer.retry_at().expect("in trouble");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        writer.flush()
    }

    #[test]
    fn a_full_disk_costs_output_and_nothing_else() {
        let disk = Disk::default();
        disk.0.borrow_mut().1 = 100;
        let mut writer = Writer::over(disk.clone());
        writer.append(output("before"));
        writer.append(output("torn"));
        assert!(!writer.flush());
        assert_eq!(writer.written(), Position::default(), "a batch that is half there does not count");
        writer.append(output("12345"));
        writer.append(Step::Checkpoint { step: 10 });
        let base64 = Some("AAECAw==".to_owned());
        writer.append(Step::Output { stream: Stream::Stdout, text: None, base64 });
        assert!(!retry(&mut writer), "still full");

        disk.0.borrow_mut().1 = 10_000;
        assert!(retry(&mut writer));
        writer.append(output("after"));
        assert!(writer.flush());
        let records = disk.records();
        assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(records[0].step, output("before"));
        assert_eq!(records[1].step, output("torn"));
        assert!(matches!(&records[2].step, Step::Note { text } if text.starts_with("9 bytes of output are")));
        assert_eq!(records[3].step, Step::Checkpoint { step: 10 });
        assert_eq!(records[4].step, output("after"));
        assert_eq!(writer.written(), Position { seq: 5, bytes: disk.0.borrow().0.len() as u64 });
    }

    #[test]
    fn what_is_kept_meanwhile_is_bounded() {
        let disk = Disk::default();
        let mut writer = Writer::over(disk.clone());
        writer.append(output("first"));
        assert!(!writer.flush());
        for step in 0..KEPT as u64 + 5 {
            writer.append(Step::Checkpoint { step });
        }
        disk.0.borrow_mut().1 = 1_000_000;
        assert!(retry(&mut writer));
        let records = disk.records();
        assert_eq!(records.len(), 2 + KEPT);
        assert!(matches!(&records[1].step, Step::Note { text } if text.contains("5 other records")));
    }

    #[test]
    fn an_old_log_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        Writer::create(&path).unwrap();
        assert_eq!(Writer::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
