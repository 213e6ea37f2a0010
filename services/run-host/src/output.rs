//! The runner's output: read in chunks, cut only between characters, kept byte for byte.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use wire::log::{Step, Stream};

use crate::terminal::{Heard, Terminal};

/// How much is read at once, bytes; a record holds no more.
pub(crate) const CHUNK: usize = 64 * 1024;

/// How much the system may hold for us while we are busy, bytes.
const PIPE_SIZE: usize = 256 * 1024;

/// How much a terminal hands out at once at most, bytes.
const PAGE: usize = 4096;

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Something; there may be more.
    Some,
    /// Nothing for now.
    Nothing,
    /// Nothing ever again.
    End,
}

/// One stream of output.
#[derive(Debug)]
pub(crate) struct Source {
    stream: Stream,
    /// Absent once it ended.
    file: Option<File>,
    decoder: Decoder,
    /// The session behind it, if a person or program works in it.
    pub(crate) terminal: Option<Terminal>,
}

impl Source {
    /// Reads `stream` from our end of a pipe or terminal.
    ///
    /// # Errors
    /// The system's, when the descriptor cannot be made non-blocking.
    pub(crate) fn new(stream: Stream, end: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&end, FcntlArg::F_GETFL)?);
        fcntl(&end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // A terminal has no such size, and a user's share of pipe memory may be used up: then it stays smaller.
        let _ = fcntl(&end, FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE_SIZE).expect("it is small")));
        Ok(Self { stream, file: Some(File::from(end)), decoder: Decoder::default(), terminal: None })
    }

    /// What to wait for; `None` once it ended.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Reads one chunk. `record` answers the number of the record it makes.
    pub(crate) fn read(&mut self, buffer: &mut [u8], record: &mut impl FnMut(Step) -> Option<u64>) -> Got {
        let Some(file) = &mut self.file else { return Got::End };
        match file.read(buffer) {
            Ok(count @ 1..) => {
                let Self { stream, decoder, terminal, .. } = self;
                match terminal {
                    None => decoder.feed(&buffer[..count], |piece| {
                        record(piece.step(*stream));
                    }),
                    Some(terminal) => {
                        terminal.hear(&buffer[..count], &mut |heard| decoder.note(heard, *stream, record));
                    }
                }
                Got::Some
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Got::Nothing
            }
            // A terminal answers EIO when the last holder of its other end is gone.
            Ok(0) | Err(_) => {
                self.close(record);
                Got::End
            }
        }
    }

    /// Reads what was there when it was called: the system holds at most [`PIPE_SIZE`].
    pub(crate) fn read_all(&mut self, buffer: &mut [u8], record: &mut impl FnMut(Step) -> Option<u64>) {
        let at_once = if self.stream == Stream::Pty { PAGE } else { CHUNK };
        for _ in 0..=PIPE_SIZE / at_once {
            if self.read(buffer, record) != Got::Some {
                return;
            }
        }
    }

    /// Ends it: what was held back is written as it is.
    pub(crate) fn close(&mut self, record: &mut impl FnMut(Step) -> Option<u64>) {
        self.file = None;
        let Self { stream, decoder, terminal, .. } = self;
        if let Some(terminal) = terminal {
            terminal.finish(&mut |heard| decoder.note(heard, *stream, record));
        }
        decoder.finish(|piece| {
            record(piece.step(*stream));
        });
    }

    /// Does what is due in the session behind it.
    pub(crate) fn look_after(&mut self, now: Instant, record: &mut impl FnMut(Step) -> Option<u64>) {
        let Self { stream, decoder, terminal, file } = self;
        if let (Some(terminal), Some(_)) = (terminal, file) {
            terminal.look_after(now, &mut |heard| decoder.note(heard, *stream, record));
        }
    }
}

/// Output that is all text or all not.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Piece<'_> {
    fn step(&self, stream: Stream) -> Step {
        match self {
            Self::Text(text) => Step::Output { stream, text: Some((*text).to_owned()), base64: None },
            Self::Bytes(bytes) => {
                Step::Output { stream, text: None, base64: Some(BASE64_STANDARD.encode(bytes)) }
            }
        }
    }
}

/// Keeps characters whole across chunks. Bytes that are no UTF-8 are handed out from the first bad one to the end of
/// the last bad line in a row, so that one bad byte does not hide the text around it and a binary stream is not
/// crumbled.
#[derive(Debug, Default)]
struct Decoder {
    /// The start of a character.
    held: Vec<u8>,
}

impl Decoder {
    /// Records what a terminal session's output turns out to be.
    fn note(
        &mut self,
        heard: Heard<'_>,
        stream: Stream,
        record: &mut impl FnMut(Step) -> Option<u64>,
    ) -> Option<u64> {
        let step = match heard {
            Heard::Output(bytes) => {
                self.feed(bytes, |piece| {
                    record(piece.step(stream));
                });
                return None;
            }
            Heard::Taken { command, text } => Step::Input { command, text },
            Heard::Done { command, input, status, took } => Step::Completed {
                command,
                input_seq: input,
                exit_code: status,
                duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            },
            Heard::Note(text) => Step::Note { text },
        };
        // What was written before stands before, even the start of a character that goes on behind.
        self.finish(|piece| {
            record(piece.step(stream));
        });
        record(step)
    }

    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        let joined;
        let mut rest = if self.held.is_empty() {
            bytes
        } else {
            joined = [self.held.as_slice(), bytes].concat();
            self.held.clear();
            &joined
        };
        while !rest.is_empty() {
            match str::from_utf8(rest) {
                Ok(text) => {
                    each(Piece::Text(text));
                    return;
                }
                Err(error) => {
                    let (text, behind) = rest.split_at(error.valid_up_to());
                    if !text.is_empty() {
                        each(Piece::Text(str::from_utf8(text).expect("valid up to there")));
                    }
                    if error.error_len().is_none() {
                        self.held.extend_from_slice(behind);
                        return;
                    }
                    rest = self.hand_out_bad(behind, &mut each);
                }
            }
        }
    }

    /// Hands out `bytes` to the end of their last bad line, but for the start of a character at the end of the chunk.
    /// Answers what is behind.
    fn hand_out_bad<'a>(&mut self, bytes: &'a [u8], each: &mut impl FnMut(Piece<'_>)) -> &'a [u8] {
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let first = lines.next().map_or(0, <[u8]>::len);
        let bad = first + lines.take_while(|line| !may_be_text(line)).map(<[u8]>::len).sum::<usize>();
        let behind = &bytes[bad..];
        let held = if behind.is_empty() { unfinished(bytes) } else { 0 };
        let (bad, start) = bytes[..bad].split_at(bad - held);
        each(Piece::Bytes(bad));
        self.held.extend_from_slice(start);
        behind
    }

    fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if !self.held.is_empty() {
            each(Piece::Bytes(&self.held));
            self.held.clear();
        }
    }
}

/// Whether a line is text, as far as can be told.
fn may_be_text(line: &[u8]) -> bool {
    str::from_utf8(line).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// How many bytes at the end of `bytes` may be the start of a character. Never all of them: the first one is bad.
fn unfinished(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len() - 1))
        .find(|&count| {
            let tail = &bytes[bytes.len() - count..];
            str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Owned {
        Text(String),
        Bytes(Vec<u8>),
    }

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
        let mut found = Vec::new();
        let mut take = |piece: Piece<'_>| {
            found.push(match piece {
                Piece::Text(text) => Owned::Text(text.to_owned()),
                Piece::Bytes(bytes) => Owned::Bytes(bytes.to_vec()),
            });
        };
        let mut decoder = Decoder::default();
        chunks.into_iter().for_each(|chunk| decoder.feed(chunk, &mut take));
        decoder.finish(&mut take);
        found
    }

    fn bytes_of(pieces: &[Owned]) -> Vec<u8> {
        let bytes = |piece: &Owned| match piece {
            Owned::Text(text) => text.clone().into_bytes(),
            Owned::Bytes(bytes) => bytes.clone(),
        };
        pieces.iter().flat_map(bytes).collect()
    }

    #[test]
    fn characters_stay_whole_wherever_the_chunks_end() {
        let text = "aé€😀\u{1b}[31mz\r\n";
        for size in 1..=text.len() {
            let pieces = decode(text.as_bytes().chunks(size));
            assert!(pieces.iter().all(|piece| matches!(piece, Owned::Text(_))), "chunks of {size}");
            assert_eq!(bytes_of(&pieces), text.as_bytes());
        }
    }

    #[test]
    fn a_bad_byte_costs_no_more_than_its_line() {
        let pieces = decode([&b"good\nbad \xff line\ngood \xc3\xa9\n"[..]]);
        assert_eq!(
            pieces,
            [
                Owned::Text("good\nbad ".into()),
                Owned::Bytes(b"\xff line\n".to_vec()),
                Owned::Text("good é\n".into())
            ]
        );
    }

    #[test]
    fn bad_lines_in_a_row_are_one_piece() {
        let pieces = decode([&b"\xff\n\xfe\n\xfd\ngood\n\xfc"[..]]);
        let bad = |bytes: &[u8]| Owned::Bytes(bytes.to_vec());
        assert_eq!(pieces, [bad(b"\xff\n\xfe\n\xfd\n"), Owned::Text("good\n".into()), bad(b"\xfc")]);
    }

    #[test]
    fn a_character_that_never_ends_is_kept_as_bytes() {
        assert_eq!(
            decode([&b"x\xe2\x82"[..]]),
            [Owned::Text("x".into()), Owned::Bytes(b"\xe2\x82".to_vec())]
        );
        let turned_out_bad = decode([&b"\xe2\x82"[..], b"x\n"]);
        assert_eq!(turned_out_bad, [Owned::Bytes(b"\xe2\x82x\n".to_vec())]);
    }

    #[test]
    fn a_character_behind_bad_bytes_is_not_cut() {
        let pieces = decode([&b"\xff\xf0\x9f"[..], b"\x98\x80\n"]);
        assert_eq!(pieces, [Owned::Bytes(b"\xff".to_vec()), Owned::Text("😀\n".into())]);
    }

    #[test]
    fn no_byte_is_lost_whatever_comes() {
        // A fixed generator: every byte value, in runs that cut sequences everywhere.
        let mut state = 0x9e37_79b9_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(20_000)
        .collect();
        for size in [1, 2, 3, 5, 64, 4096] {
            assert_eq!(bytes_of(&decode(noise.chunks(size))), noise, "chunks of {size}");
        }
    }
}
