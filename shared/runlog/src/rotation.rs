//! When a log goes on in a new file, and when the oldest one goes.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::drop::reduce;
use crate::files::{Files, REMAINS};

/// A log is kept in about this many files, so that a small part of it goes at a time.
const FILES: u64 = 16;

/// The largest file, bytes: reducing one must not take long, since the writer does nothing else meanwhile.
const LARGEST: u64 = 16 << 20;

/// The files of a log, as its writer knows them.
#[derive(Debug)]
pub(crate) struct Rotation {
    files: Files,
    /// How large all files together may be, bytes.
    cap: u64,
    /// How large one may be, bytes.
    size: u64,
    /// The number that the newest one will get.
    number: u32,
    /// The newest one has its number already, because a next one could not be made.
    is_numbered: bool,
    /// Those that are whole, with their lengths.
    whole: VecDeque<(u32, u64)>,
    /// The length of what is left of those that are gone.
    remains: u64,
}

impl Rotation {
    pub(crate) fn new(files: Files, cap: u64) -> Self {
        let number = REMAINS + 1;
        let mut new =
            Self { files, cap, size: 0, number, is_numbered: false, whole: VecDeque::new(), remains: 0 };
        new.set_cap(cap);
        new
    }

    pub(crate) fn set_cap(&mut self, cap: u64) {
        self.cap = cap;
        self.size = (cap / FILES).clamp(1, LARGEST);
    }

    /// How large one file may be, bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Creates the log's newest file.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one; otherwise the system's.
    pub(crate) fn create(files: &Files) -> io::Result<File> {
        // What a run prints may be confidential.
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(files.newest())
    }

    /// Whether a file of this length is to be followed by another.
    pub(crate) const fn is_due(&self, length: u64) -> bool {
        length >= self.size
    }

    /// The next file, in place of the one of this length.
    ///
    /// # Errors
    /// The system's; the file so far is still the newest one then, and this may be tried again.
    pub(crate) fn turn(&mut self, length: u64) -> io::Result<File> {
        if !self.is_numbered {
            fs::rename(self.files.newest(), self.files.numbered(self.number))?;
            self.is_numbered = true;
        }
        let next = Self::create(&self.files)?;
        self.whole.push_back((self.number, length));
        self.number += 1;
        self.is_numbered = false;
        Ok(next)
    }

    /// Reduces the oldest files until there is room for another one. The one before the newest stays: readers find the
    /// newest one's number by it.
    ///
    /// # Errors
    /// The system's; nothing is lost then, and this may be tried again.
    pub(crate) fn make_room(&mut self) -> io::Result<()> {
        while self.whole.len() > 1 && self.length() + self.size > self.cap {
            let Some(&(number, _)) = self.whole.front() else { return Ok(()) };
            self.remove(number)?;
            self.whole.pop_front();
        }
        Ok(())
    }

    /// The length of all files but the newest, bytes.
    fn length(&self) -> u64 {
        self.remains + self.whole.iter().map(|(_, length)| length).sum::<u64>()
    }

    /// First its remains are appended, then it is removed; until then readers find everything in it.
    fn remove(&mut self, number: u32) -> io::Result<()> {
        let path = self.files.numbered(number);
        let mut options = OpenOptions::new();
        let remains = options.append(true).create(true).mode(0o600).open(self.files.numbered(REMAINS))?;
        // An earlier try may have come half-way.
        remains.set_len(self.remains)?;
        let why = format!("the log reached its cap of {}", megabytes(self.cap));
        let mut to = BufWriter::new(&remains);
        reduce(File::open(&path)?, &mut to, &why)?;
        to.flush()?;
        drop(to);
        fs::remove_file(&path)?;
        self.remains = remains.metadata()?.len();
        Ok(())
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        mib => format!("{mib} MiB"),
    }
}
