//! Lines out of a byte stream, of bounded length.

/// The longest line that is understood, bytes.
pub(crate) const LONGEST_LINE: usize = 1 << 20;

/// A line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than [`LONGEST_LINE`] and is gone.
    TooLong,
}

/// Bytes that are not yet a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes more bytes and hands each line that they complete to `each`.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, complete) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (piece, false),
            };
            if self.too_long || self.rest.len() + piece.len() > LONGEST_LINE {
                self.too_long = true;
                self.rest = Vec::new();
            } else if complete && self.rest.is_empty() {
                each(Line::Whole(piece));
                continue;
            } else {
                self.rest.extend_from_slice(piece);
            }
            if complete {
                self.finish(&mut each);
            }
        }
    }

    /// The stream has ended: what is left is the last line.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.too_long) {
            each(Line::TooLong);
        } else if !self.rest.is_empty() {
            each(Line::Whole(&self.rest));
        }
        self.rest.clear();
        self.rest.shrink_to(4096);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        let mut take = |line: Line<'_>| match line {
            Line::Whole(bytes) => found.push(Some(bytes.to_vec())),
            Line::TooLong => found.push(None),
        };
        pieces.iter().for_each(|piece| lines.feed(piece, &mut take));
        lines.finish(&mut take);
        found
    }

    #[test]
    fn a_line_may_come_in_any_pieces() {
        let whole = b"one\n\ntwo\nthree";
        let expected: Vec<_> = [&b"one"[..], b"", b"two", b"three"].map(|line| Some(line.to_vec())).into();
        for size in 1..=whole.len() {
            assert_eq!(lines_of(&whole.chunks(size).collect::<Vec<_>>()), expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_told_of_once_and_the_next_one_is_whole() {
        let long = vec![b'x'; LONGEST_LINE / 2 + 1];
        assert_eq!(lines_of(&[&long, &long, &long, b"\nnext\n"]), [None, Some(b"next".to_vec())]);
        let longest = vec![b'x'; LONGEST_LINE];
        assert_eq!(lines_of(&[&longest, b"\n"]), [Some(longest)]);
    }
}
