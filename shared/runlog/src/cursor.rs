//! A place in a log that moves forward, from file to file.

use std::io;
use std::path::Path;

use crate::files::{Files, Listing, Next, REMAINS};
use crate::line::seq_of;
use crate::part::Part;

/// How often to look again for files that went away while they were looked at. The writer removes one in the time it
/// takes to write another, so a second look finds them.
const LOOKS: usize = 100;

/// A page's hint holds a file's number above this many bits of offset.
const OFFSET_BITS: u32 = 40;

/// Somewhere between two records.
#[derive(Debug)]
pub(crate) struct Cursor {
    files: Files,
    place: Place,
    /// The record before it.
    seq: u64,
}

#[derive(Debug)]
struct Place {
    number: u32,
    part: Part,
    offset: u64,
    /// Records from this one on stand in another file.
    until: u64,
}

impl Cursor {
    /// Right behind the record `after`; `hint` is where that may be.
    ///
    /// # Errors
    /// The system's: `NotFound` when there is no log.
    pub(crate) fn open(path: &Path, after: u64, hint: Option<u64>) -> io::Result<Self> {
        let files = Files::of(path);
        let place = find(&files, after, hint)?;
        Ok(Self { files, place, seq: after })
    }

    /// The record before it.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Where it is, for [`Cursor::open`].
    pub(crate) fn hint(&self) -> u64 {
        (u64::from(self.place.number) << OFFSET_BITS) | self.place.offset
    }

    /// The line before it, if it is in the same file.
    pub(crate) fn line_before(&self) -> io::Result<Option<Vec<u8>>> {
        self.place.part.line_before(self.place.offset)
    }

    /// Moves over about `budget` bytes of log, not over records behind `last`, and hands each record's line to `each`,
    /// with its newline. Answers whether it may be worth calling again.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read(&mut self, budget: usize, last: u64, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut budget = budget.max(1);
        loop {
            let start = self.place.offset;
            let bytes = self.place.part.read(start, budget)?;
            for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                if let Some(seq) = seq_of(line) {
                    if seq > last {
                        return Ok(false);
                    }
                    if seq >= self.place.until {
                        return self.advance();
                    }
                    if seq > self.seq {
                        self.seq = seq;
                        each(line);
                    }
                }
                self.place.offset += line.len() as u64;
            }
            if bytes.len() < budget {
                return Ok(self.advance()? || self.place.offset > start);
            }
            if self.place.offset > start {
                return Ok(true);
            }
            // A line longer than the budget.
            budget = budget.saturating_mul(2);
        }
    }

    /// At the end of a file, as long as it was: sees whether it has grown, or moves on to the next one.
    fn advance(&mut self) -> io::Result<bool> {
        let next = match self.files.list()?.behind(self.place.number) {
            Next::In(next) => next,
            Next::Nowhere => return self.place.part.look_again(),
            // What can still be read of it is.
            Next::Gone if self.place.part.look_again()? => return Ok(true),
            Next::Gone => return self.find_again(),
        };
        let part = match self.files.open(next) {
            Ok(file) => Part::of(file)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if self.place.number == REMAINS => return self.find_again(),
            // Between two files, or this one goes on because the next one could not be made.
            Err(_) => return self.place.part.look_again(),
        };
        let first = part.first_seq()?;
        // What was written before there was a next one, and it is complete now.
        if self.place.part.look_again()? && self.place.until == u64::MAX {
            return Ok(true);
        }
        // Nothing is in it yet.
        let Some(first) = first else { return Ok(false) };
        let mut place = Place { number: next, part, offset: 0, until: u64::MAX };
        if first > self.seq + 1 {
            // Files went away meanwhile, unless the log itself has lost something.
            let found = find(&self.files, self.seq, None)?;
            if found.number != self.place.number || found.until != self.place.until {
                place = found;
            }
        }
        self.place = place;
        Ok(true)
    }

    /// The file it is in is gone, and it has read it to its end.
    fn find_again(&mut self) -> io::Result<bool> {
        self.place = find(&self.files, self.seq, None)?;
        Ok(true)
    }
}

/// Where the first record behind `after` is or will be.
fn find(files: &Files, after: u64, hint: Option<u64>) -> io::Result<Place> {
    let mut looks = 0;
    loop {
        looks += 1;
        let listing = files.list()?;
        match look(files, &listing, after, hint) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS && files.exist() => {}
            found => return found,
        }
    }
}

/// One look. A listing is no snapshot: files that come or go meanwhile may be in it or not, so what it says is
/// checked by what is in the files.
fn look(files: &Files, listing: &Listing, after: u64, hint: Option<u64>) -> io::Result<Place> {
    if let Some(place) = confirmed(files, listing, after, hint)? {
        return Ok(place);
    }
    let newest = listing.newest();
    let whole = listing.numbers.iter().copied().filter(|&number| number != REMAINS).rev();
    let mut oldest = None;
    for number in std::iter::once(newest).chain(whole) {
        let part = match files.open(number) {
            Ok(file) => Part::of(file)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Between two files.
            Err(_) if number == newest => continue,
            // It is gone, and so are those before it: what is left of them is in the remains.
            Err(_) => break,
        };
        match part.first_seq()? {
            Some(first) if first <= after.saturating_add(1) => {
                let offset = part.search(after)?;
                return Ok(Place { number, part, offset, until: u64::MAX });
            }
            None if oldest.is_some() => {}
            first => oldest = Some((number, part, first.unwrap_or(u64::MAX))),
        }
    }
    let (number, part, first) = oldest.ok_or(io::ErrorKind::NotFound)?;
    match files.open(REMAINS) {
        // There is always a file with a record behind the remains.
        Ok(_) if first == u64::MAX => Err(io::ErrorKind::NotFound.into()),
        Ok(file) => {
            let part = Part::of(file)?;
            let offset = part.search(after)?;
            Ok(Place { number: REMAINS, part, offset, until: first })
        }
        // Nothing is gone: this is where the log begins.
        Err(error) if error.kind() == io::ErrorKind::NotFound && number <= REMAINS + 1 => {
            Ok(Place { number, part, offset: 0, until: u64::MAX })
        }
        Err(error) => Err(error),
    }
}

/// Where `hint` says, if that is right.
fn confirmed(files: &Files, listing: &Listing, after: u64, hint: Option<u64>) -> io::Result<Option<Place>> {
    let Some(hint) = hint else { return Ok(None) };
    let number = u32::try_from(hint >> OFFSET_BITS).unwrap_or(u32::MAX);
    let offset = hint & ((1 << OFFSET_BITS) - 1);
    if number == REMAINS || !(number == listing.newest() || listing.numbers.contains(&number)) {
        return Ok(None);
    }
    let Ok(file) = files.open(number) else { return Ok(None) };
    let part = Part::of(file)?;
    let is_right = part.confirms(after, offset)?;
    Ok(is_right.then_some(Place { number, part, offset, until: u64::MAX }))
}
