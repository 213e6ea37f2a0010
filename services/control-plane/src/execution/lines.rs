//! Lines, each bounded: an executor can print what it likes without making this process grow.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// One line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The line's first bytes, up to the limit.
    pub(crate) bytes: Vec<u8>,
    /// Whether there was more, which is dropped.
    pub(crate) cut: bool,
}

/// Cuts bytes, as they come, into lines of at most `limit` bytes. All it knows is the line begun, so that it can be
/// stored and gone on with by another process.
#[derive(Debug)]
pub(crate) struct Splitter {
    limit: usize,
    /// The line begun; one byte over the limit stands for all that is dropped of it.
    begun: Vec<u8>,
}

impl Splitter {
    /// Goes on with the line `begun`.
    pub(crate) fn new(limit: usize, begun: Vec<u8>) -> Self {
        Self { limit, begun }
    }

    /// The line begun.
    pub(crate) fn begun(&self) -> &[u8] {
        &self.begun
    }

    /// Takes more bytes and hands out each line that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, complete) = match piece.split_last() {
                Some((b'\n', part)) => (part, true),
                _ => (piece, false),
            };
            let room = (self.limit + 1).saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            if complete {
                each(self.take());
            }
        }
    }

    /// The last line, where it has no newline.
    pub(crate) fn finish(&mut self) -> Option<Line> {
        (!self.begun.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Line {
        let mut bytes = std::mem::take(&mut self.begun);
        let cut = bytes.len() > self.limit;
        bytes.truncate(self.limit);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Line { bytes, cut }
    }
}

/// The lines of a pipe.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    splitter: Splitter,
    ready: VecDeque<Line>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(pipe: R, limit: usize) -> Self {
        let reader = BufReader::with_capacity(32 * 1024, pipe);
        Self { reader, splitter: Splitter::new(limit, Vec::new()), ready: VecDeque::new() }
    }

    /// The next line; the last one need not end in a newline. Safe to cancel: a line begun is kept.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(self.splitter.finish());
            }
            self.splitter.feed(chunk, |line| self.ready.push_back(line));
            let used = chunk.len();
            self.reader.consume(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], limit: usize) -> Vec<(String, bool)> {
        let mut lines = Lines::new(text, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("reading from memory") {
            all.push((String::from_utf8_lossy(&line.bytes).into_owned(), line.cut));
        }
        all
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_at_the_end() {
        let whole = |text: &str| (text.to_owned(), false);
        assert_eq!(lines(b"a\n\nb\r\nc", 10).await, [whole("a"), whole(""), whole("b"), whole("c")]);
        assert_eq!(lines(b"", 10).await, []);
        assert_eq!(lines(b"a\n", 10).await, [whole("a")]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 100_000];
        text.extend_from_slice(b"\nnext\n1234\n");
        let expected = [("xxxx", true), ("next", false), ("1234", false)].map(|(t, c)| (t.to_owned(), c));
        assert_eq!(lines(&text, 4).await, expected);
    }

    #[test]
    fn another_splitter_goes_on_wherever_the_first_one_stopped() {
        let text = b"one\ntoo long for it\ntwo\r\nthree";
        let all = |cut: usize| {
            let mut found = Vec::new();
            let mut first = Splitter::new(6, Vec::new());
            first.feed(&text[..cut], |line| found.push(line));
            let mut second = Splitter::new(6, first.begun().to_vec());
            second.feed(&text[cut..], |line| found.push(line));
            found.extend(second.finish());
            found
        };
        let line = |text: &str, cut| Line { bytes: text.as_bytes().to_vec(), cut };
        for cut in 0..=text.len() {
            let want = [line("one", false), line("too lo", true), line("two", false), line("three", false)];
            assert_eq!(all(cut), want, "cut at {cut}");
        }
    }
}
