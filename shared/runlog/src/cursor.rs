//! A place in a log that moves forward, from file to file.

use std::io;
use std::path::Path;

use crate::files::{Files, Listing, REMAINS};
use crate::line::seq_of;
use crate::part::Part;

/// How often to look again for files that went away while they were looked at. The writer removes one in the time it
/// takes to write another, so a second look finds them.
const LOOKS: usize = 16;

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
        let listing = self.files.list()?;
        let next = listing.behind(self.place.number);
        if next == self.place.number {
            return self.place.part.look_again();
        }
        let part = match self.files.open(next) {
            Ok(file) => Part::of(file)?,
            // Between two files, or this one goes on because the next one could not be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound && next == listing.newest() => {
                return self.place.part.look_again();
            }
            // It went away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.place = find(&self.files, self.seq, None)?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let first = part.first_seq()?;
        // What was written before there was a next one, and it is complete now.
        if self.place.part.look_again()? && self.place.until == u64::MAX {
            return Ok(true);
        }
        let first = match first {
            Some(first) => first,
            None if next == listing.newest() => return Ok(false),
            // It holds no record at all.
            None => self.seq,
        };
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
}

/// Where the first record behind `after` is or will be.
fn find(files: &Files, after: u64, hint: Option<u64>) -> io::Result<Place> {
    let mut looks = 0;
    loop {
        looks += 1;
        let listing = files.list()?;
        match look(files, &listing, after, hint) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && looks < LOOKS
                    && (!listing.numbers.is_empty() || files.newest().exists()) => {}
            found => return found,
        }
    }
}

fn look(files: &Files, listing: &Listing, after: u64, hint: Option<u64>) -> io::Result<Place> {
    let newest = listing.newest();
    if let Some(hint) = hint {
        let number = u32::try_from(hint >> OFFSET_BITS).unwrap_or(u32::MAX);
        let offset = hint & ((1 << OFFSET_BITS) - 1);
        if number != REMAINS && (number == newest || listing.numbers.contains(&number)) {
            let part = Part::of(files.open(number)?)?;
            if part.confirms(after, offset)? {
                return Ok(Place { number, part, offset, until: u64::MAX });
            }
        }
    }
    let mut oldest = None;
    let whole = listing.numbers.iter().copied().filter(|&number| number != REMAINS).rev();
    for number in std::iter::once(newest).chain(whole) {
        let part = match files.open(number) {
            Ok(file) => Part::of(file)?,
            // Between two files.
            Err(_) if number == newest && newest > 1 => continue,
            Err(error) => return Err(error),
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
    if listing.numbers.first() == Some(&REMAINS) {
        let part = Part::of(files.open(REMAINS)?)?;
        let offset = part.search(after)?;
        let until = oldest.map_or(u64::MAX, |(_, _, first)| first);
        return Ok(Place { number: REMAINS, part, offset, until });
    }
    let (number, part, _) = oldest.ok_or(io::ErrorKind::NotFound)?;
    Ok(Place { number, part, offset: 0, until: u64::MAX })
}
