//! The names of a log's files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The number of the file that holds what is left of those that are gone.
pub(crate) const REMAINS: u32 = 0;

/// The files of the log at a path.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    newest: PathBuf,
    /// `events.`
    prefix: String,
    /// `.jsonl`
    suffix: String,
}

/// What there is of a log. No snapshot: of the files that come or go while it is made, each may be in it or not.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The numbers of the files that have one, ascending.
    pub(crate) numbers: Vec<u32>,
}

/// Where a log goes on behind a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// In the file with this number.
    In(u32),
    /// Nowhere: the file is the newest one.
    Nowhere,
    /// The file itself is gone.
    Gone,
}

impl Listing {
    /// The number that the newest file will get.
    pub(crate) fn newest(&self) -> u32 {
        self.numbers.last().copied().unwrap_or(REMAINS) + 1
    }

    /// Where the log goes on behind `number`.
    pub(crate) fn behind(&self, number: u32) -> Next {
        let mut later = self.numbers.iter().copied().filter(|&other| other > number);
        if number == REMAINS {
            return Next::In(later.next().unwrap_or_else(|| self.newest()));
        }
        // Numbers have no gaps, whatever this listing has missed.
        match (self.numbers.contains(&number), later.next()) {
            (true, _) => Next::In(number + 1),
            (false, None) => Next::Nowhere,
            (false, Some(_)) => Next::Gone,
        }
    }
}

impl Files {
    /// The files of the log whose newest is, or will be, at `newest`.
    pub(crate) fn of(newest: &Path) -> Self {
        let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let suffix = newest.extension().map(|extension| format!(".{}", text(Some(extension))));
        Self {
            newest: newest.to_owned(),
            prefix: format!("{}.", text(newest.file_stem())),
            suffix: suffix.unwrap_or_default(),
        }
    }

    /// Where the newest file is.
    pub(crate) fn newest(&self) -> &Path {
        &self.newest
    }

    /// Where the file with this number is.
    pub(crate) fn numbered(&self, number: u32) -> PathBuf {
        self.newest.with_file_name(format!("{}{number:06}{}", self.prefix, self.suffix))
    }

    /// What there is.
    ///
    /// # Errors
    /// The system's: `NotFound` when the folder does not exist.
    pub(crate) fn list(&self) -> io::Result<Listing> {
        let folder = self.newest.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            numbers.extend(self.number_of(&entry?.file_name()));
        }
        numbers.sort_unstable();
        Ok(Listing { numbers })
    }

    fn number_of(&self, name: &OsStr) -> Option<u32> {
        let digits = name.to_str()?.strip_prefix(&self.prefix)?.strip_suffix(&self.suffix)?;
        (digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    }

    /// Opens the file that has, or as the newest one will get, this number.
    ///
    /// # Errors
    /// The system's: `NotFound` when it is gone, or is not there yet.
    pub(crate) fn open(&self, number: u32) -> io::Result<File> {
        let is_missing = |opened: &io::Result<File>| {
            opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let numbered = self.numbered(number);
        let opened = File::open(&numbered);
        if number == REMAINS || !is_missing(&opened) {
            return opened;
        }
        let newest = File::open(&self.newest);
        // It may have got its number, and a successor, a moment ago.
        if is_missing(&newest) || numbered.exists() {
            return File::open(numbered);
        }
        // Or even be gone since: the oldest goes first, and the one before the newest stays.
        let before = self.numbered(number - 1);
        let is_newest = if number - 1 == REMAINS { !before.exists() } else { before.exists() };
        if is_newest { newest } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Whether there is anything of this log.
    pub(crate) fn exist(&self) -> bool {
        // In this order: the newest one gets its number before there is another.
        self.newest.exists() || self.list().is_ok_and(|listing| !listing.numbers.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_is_not_taken_for_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(&dir.path().join("events.jsonl"));
        let text = |number| files.open(number).and_then(io::read_to_string).ok();
        fs::write(&files.newest, "newest").unwrap();
        assert_eq!(text(1).as_deref(), Some("newest"), "the log has just begun");
        for number in [REMAINS, 5, 6] {
            fs::write(files.numbered(number), number.to_string()).unwrap();
        }
        assert_eq!((text(5).as_deref(), text(6).as_deref()), (Some("5"), Some("6")));
        assert_eq!(text(7).as_deref(), Some("newest"));
        for gone in 1..5 {
            assert_eq!(text(gone), None, "{gone}");
        }
        assert_eq!(text(8), None, "it is not there yet");
    }

    #[test]
    fn names_and_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(&dir.path().join("events.jsonl"));
        assert_eq!(files.list().unwrap().newest(), 1);
        for name in ["events.jsonl", "events.000003.jsonl", "events.000000.jsonl", "events.1000000.jsonl"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        for name in ["events.x00001.jsonl", "events.1.jsonl", "other.000001.jsonl", "events.000001.jsonl.new"]
        {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let listing = files.list().unwrap();
        assert_eq!(listing.numbers, [0, 3, 1_000_000]);
        for (number, next) in [
            (0, Next::In(3)),
            (3, Next::In(4)),
            (5, Next::Gone),
            (1_000_000, Next::In(1_000_001)),
            (1_000_001, Next::Nowhere),
        ] {
            assert_eq!(listing.behind(number), next, "behind {number}");
        }
        let text = |number| io::read_to_string(files.open(number).unwrap()).unwrap();
        assert_eq!(text(3), "events.000003.jsonl");
        assert_eq!(text(1_000_001), "events.jsonl");
        fs::remove_file(files.numbered(REMAINS)).unwrap();
        assert_eq!(files.open(REMAINS).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
